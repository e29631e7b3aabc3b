"""The rooms of src/keylite, the table of which room may import which, and the figures of it in ARCHITECTURE.md.

`python docs/make_tables.py` writes the table and the figures; tests/test_layers.py holds the source to the table.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[1] / "src/keylite"
LONG = 400  # lines; a longer file has a reason in REASONS
REASONS = {"data/dataset.py": "one class, half of it docstrings"}


class Room(NamedTuple):
    """What the modules of a room may import: rooms and packages at their top, and others only inside functions."""

    rooms: str
    packages: str
    inside: str = ""

    def allows(self, name: str, at_top: bool) -> bool:
        """Whether a room, or a package, may be imported."""
        return name in f"{self.rooms} {self.packages} {'' if at_top else self.inside}".split()


BASE = "runtime data evaluation pictures training exporting"  # what both twins stand on
ROOMS = {  # from the bottom up; each room may also import itself
    "version": Room("", ""),
    "runtime": Room("", "numpy cv2 msgspec"),
    "data": Room("runtime", "numpy cv2 msgspec"),
    "evaluation": Room("version runtime data", "numpy cv2 msgspec", "scipy faster_coco_eval"),
    "pictures": Room("runtime data", "numpy", "matplotlib"),
    "training": Room("version runtime data evaluation pictures", "numpy cv2 msgspec"),
    "exporting": Room("runtime data evaluation", "numpy msgspec"),
    "labels": Room("version runtime data evaluation pictures training", "numpy msgspec"),
    "prediction": Room("runtime data", "numpy cv2 msgspec", "pyarrow"),
    "pytorch": Room(BASE, "numpy msgspec torch timm lightning safetensors onnx onnxruntime"),
    "tensorflow": Room(BASE, "numpy msgspec keras tensorflow safetensors ai_edge_litert"),
    "cli": Room("version", "cyclopts", f"{BASE} labels prediction msgspec rich"),
    "__init__": Room("version", ""),
    "__main__": Room("", "", "runtime cli"),
}
VERBS = {  # modules that put a whole verb together, and the only modules that may import them
    "training.train": "training.folds cli",
    "training.folds": "labels.crossing cli",
    "exporting.export": "exporting.diagnosis cli",
    "exporting.diagnosis": "cli",
    "labels.check": "cli",
    "labels.suggest": "cli",
}
EXCEPTIONS = {  # module: what it may import beyond its room
    "runtime.images": Room("", "", "simplejpeg"),
    "cli.train": Room("training", ""),  # the flags are made from Recipe
    "cli.progress": Room("runtime", ""),
}


class Import(NamedTuple):
    """An import of a module, as its file has it."""

    of: str
    at_top: bool


def imports(source: str, types: bool = False) -> Iterator[Import]:
    """The imports that run. types: also those for type checkers."""
    tree = ast.parse(source)
    skipped = {
        child
        for node in ast.walk(tree)
        if not types and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    inside = {
        child for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda)) for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped or not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        yield from (Import(name, node not in inside) for name in _modules(node))


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The dotted names of the modules that a statement imports; a module may also be named after `import` alone."""
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.Import):
        return names
    room = node.module or ""
    return sorted({f"{room}.{name}" if _is_module(f"{room}.{name}") else room for name in names})


def _is_module(name: str) -> bool:
    """Whether a dotted name is a module or a folder of keylite."""
    first, *parts = name.split(".")
    path = SOURCE.joinpath(*parts)
    return first == "keylite" and (path.is_dir() or path.with_suffix(".py").is_file())


def module_of(file: Path) -> str:
    """The dotted name of a file's module, without keylite."""
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts)


def problems(file: Path, source: str) -> list[str]:
    """Imports of one module that its room does not allow."""
    module = module_of(file)
    room = module.partition(".")[0]
    allowed = [ROOMS[room], *([EXCEPTIONS[module]] if module in EXCEPTIONS else [])]
    found = []
    for one in imports(source):
        first, _, rest = one.of.partition(".")
        if first in sys.stdlib_module_names:
            continue
        name = rest.partition(".")[0] or "__init__" if first == "keylite" else first
        fits = name == room or any(part.allows(name, one.at_top) for part in allowed)
        if first == "keylite" and rest in VERBS:
            fits &= not {module, room}.isdisjoint(VERBS[rest].split())
        if not fits:
            found.append(f"{module} may not import {one.of}{' at its top' if one.at_top else ''}")
    return found


def circle() -> list[str]:
    """Modules that import each other in a circle, at their top, inside functions or for their types. Empty: none do."""
    graph = {}
    for file in files():
        names = {one.of for one in imports(file.read_text(encoding="utf-8"), types=True)}
        graph[module_of(file).removesuffix(".__init__")] = {name[8:] for name in names if name.startswith("keylite.")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def files() -> list[Path]:
    """Every source file of the package."""
    return sorted(SOURCE.rglob("*.py"))


def long_files() -> dict[str, int]:
    """Files of more than LONG lines, with their number of lines."""
    lines = {str(file.relative_to(SOURCE)): len(file.read_text(encoding="utf-8").splitlines()) for file in files()}
    return {name: count for name, count in lines.items() if count > LONG}


def room_table() -> str:
    """Markdown: what each room may import, from the top down."""
    rows = ["| room | may import | packages | inside functions alone |", "|---|---|---|---|"]
    for name, room in reversed(ROOMS.items()):
        cells = (", ".join(f"`{one}`" for one in part.split()) for part in room)
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    for name, users in VERBS.items():
        rows.append(f"| only {', '.join(f'`{user}`' for user in users.split())} | `{name}` |  |  |")
    for name, room in EXCEPTIONS.items():
        cells = (", ".join(f"`{one}`" for one in part.split()) for part in room)
        rows.append(f"| `{name}`, too | {' | '.join(cells)} |")
    return "\n".join(rows)


def layout() -> str:
    """A tree of the package: each folder and file with the first sentence of its docstring."""
    lines = ["src/keylite/"]
    ranked = sorted(files(), key=lambda file: _place(file.relative_to(SOURCE)))
    for file in ranked:
        parts = file.relative_to(SOURCE).parts
        if file.name == "__init__.py" and len(parts) > 1:
            name, depth = f"{parts[-2]}/", len(parts) - 1
        else:
            name, depth = file.name, len(parts)
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        sentence = " ".join(docstring.partition("\n\n")[0].split())
        lines.append(f"{'  ' * depth}{name:<{max(26 - 2 * depth, len(name) + 2)}}{sentence}")
    return "\n".join(["```", *lines, "```"])


def _place(path: Path) -> list[tuple[int, int | str]]:
    """The sort key of a file in the tree: rooms from the bottom up, files before folders, then by name."""
    order = list(ROOMS)
    *folders, name = path.parts
    top = (folders or [path.stem])[0]
    places: list[tuple[int, int | str]] = [(order.index(top) if folders else -1, 0)]
    for part in folders[1:]:
        places.append((2, part))
    return [*places, (0 if name == "__init__.py" else 1, name)]


def figures() -> str:
    """Markdown: how many rooms and files there are, and how they import each other."""
    edges: dict[tuple[str, str], int] = {}
    order = list(ROOMS)
    for file in files():
        room = module_of(file).partition(".")[0]
        for one in imports(file.read_text(encoding="utf-8")):
            first, _, rest = one.of.partition(".")
            other = rest.partition(".")[0]
            if first == "keylite" and other and other != room:
                edges[room, other] = edges.get((room, other), 0) + 1
    back = [f"{room} -> {other}" for room, other in edges if order.index(other) > order.index(room)]
    long = [f"`{name}` ({count}: {REASONS.get(name, 'no reason')})" for name, count in long_files().items()]
    return "\n".join(
        [
            f"- {sum(path.is_dir() and path.name != '__pycache__' for path in SOURCE.iterdir())} folders, "
            f"{len(files())} files, {sum(edges.values())} imports between rooms along {len(edges)} pairs of rooms",
            f"- imports from a room to one above it: {len(back)}{': ' + ', '.join(back) if back else ''}",
            f"- files of more than {LONG} lines: {', '.join(long) or 'none'}",
        ]
    )
