"""Break a module on purpose, a little at a time, and see whether its tests notice: `make mutate MODULES="metrics report"`.

A mutation swaps a comparison, an operator or two arguments, moves a constant, forces a condition, or drops a statement.
Tests that run the broken line come first, quick ones before slow ones. One that no test notices is either the same
code in other words, or a test that is missing.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
TESTS = {  # module of src/keylite: what to run for it, quick files first; others have the test that bears their name
    "data/arrays": "tests/data/test_dataset.py",
    "data/augmentation": "tests/data/test_examples.py",
    "data/dataset": "tests/data/test_dataset.py tests/data/test_formats.py",
    "data/labels": "tests/data/test_formats.py",
    "data/looking": "tests/data/test_dataset.py tests/data/test_tones.py",
    "data/problems": "tests/data/test_dataset.py tests/data/test_formats.py",
    "data/shapes": "tests/data/test_checks.py tests/data/test_mirror.py",
    "data/spelling": "tests/data/test_finding.py",
    "data/symmetry": "tests/data/test_mirror.py",
    "data/formats/coco": "tests/data/test_formats.py",
    "data/formats/coco_text": "tests/data/test_formats.py tests/data/test_hostile_labels.py",
    "data/formats/reading": "tests/data/test_formats.py",
    "data/formats/tables": "tests/data/test_formats.py",
    "evaluation/evaluate": "tests/evaluation/test_evaluation.py",
    "evaluation/figures": "tests/evaluation/test_evaluation.py tests/evaluation/test_reliability.py",
    "evaluation/metrics": "tests/evaluation/test_evaluation.py",
    "evaluation/normaliser": "tests/evaluation/test_evaluation.py",
    "evaluation/predictions": "tests/evaluation/test_evaluation.py",
    "evaluation/reliability": "tests/evaluation/test_reliability.py tests/evaluation/test_evaluation.py",
    "evaluation/report": "tests/evaluation/test_evaluation.py tests/evaluation/test_reliability.py",
    "exporting/form": "tests/exporting/test_certificate.py tests/test_doors.py",
    "runtime/boxes": "tests/runtime/test_boxes.py tests/runtime/test_predictor.py",
    "runtime/files": "tests/runtime/test_files.py tests/runtime/test_files_special.py",
    "runtime/geometry": "tests/runtime/test_geometry.py tests/data/test_examples.py",
    "runtime/headers": "tests/runtime/test_headers.py tests/runtime/test_images.py",
    "runtime/kinds": "tests/test_doors.py tests/data/test_gauges.py",
    "runtime/protobuf": "tests/runtime/test_modelfile.py",
    "runtime/spec": "tests/runtime/test_spec.py tests/runtime/test_modelfile.py",
    "runtime/stream": "tests/runtime/test_predictor.py tests/evaluation/test_evaluation.py",
    "runtime/texts": "tests/runtime/test_texts.py tests/data/test_hostile_labels.py tests/data/test_formats.py",
    "runtime/tiff": "tests/runtime/test_headers.py tests/runtime/test_images.py",
    "training/checks": "tests/training/test_run.py",
    "training/folder": "tests/training/test_run.py",
    "training/schedule": "tests/training/test_run.py tests/training/test_recipe.py",
}
SLOW = ("pytorch", "tensorflow", "cli", "prediction")  # rooms whose tests take too long to run for each mutation


def tests_of(module: str) -> str:
    """The test files to run for a module, separated by spaces; empty if it has none of its own."""
    mirrored = f"tests/{Path(module).parent}/test_{Path(module).name}.py"
    return TESTS.get(module, mirrored if (ROOT / mirrored).is_file() else "")


def modules() -> list[str]:
    """The modules of src/keylite that can be mutated: those with tests that are quick."""
    package = ROOT / "src/keylite"
    names = [str(path.relative_to(package).with_suffix("")) for path in sorted(package.glob("*/**/*.py"))]
    return [name for name in names if tests_of(name) and not name.startswith(SLOW)]


SWAPS = {
    **{ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt)},
    **{ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,)},
    **{ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,)},
    **{ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,)},
    **{ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,), ast.MatMult: (ast.Mult,)},
    **{ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,)},
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor", "mean": "max"}
EITHER_WAY = {"min", "max", "np.hypot", "np.minimum", "np.maximum", "math.hypot", "np.logaddexp", "math.gcd"}
LIMIT = 20  # seconds beyond five times what the unbroken module takes
QUICKLY = ("-x", "-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist")


class Mutation(NamedTuple):
    """Text that takes the place of source[start:stop]."""

    start: int
    stop: int
    text: str
    line: int


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    match node:
        case ast.Compare(left, [operator, *more], comparators):
            for other in SWAPS[type(operator)]:
                yield ast.Compare(left, [other(), *more], comparators)
        case ast.BinOp(left, operator, right) if type(operator) in SWAPS:
            for other in SWAPS[type(operator)]:
                yield ast.BinOp(left, other(), right)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(SWAPS[type(operator)][0](), values)
            for i in range(len(values)):
                rest = values[:i] + values[i + 1 :]
                yield ast.BoolOp(operator, rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield from (
                ast.Constant(other) for other in ((value + 1, value - 1) if value < 10 else (value * 2, value // 2))
            )
        case ast.Constant(float() as value):
            yield ast.Constant(value * 1.5 if value else 1.0)
        case ast.Call(ast.Name(name), arguments, keywords) if name in NAMES:
            yield ast.Call(ast.Name(NAMES[name]), arguments, keywords)
        case ast.Call(ast.Attribute(value, name), arguments, keywords) if name in NAMES:
            yield ast.Call(ast.Attribute(value, NAMES[name]), arguments, keywords)
        case ast.Slice(lower, upper, step) if lower or upper:
            yield ast.Slice(None if lower else lower, None if not lower else upper, step)
        case ast.If() | ast.IfExp() | ast.comprehension():
            pass  # their conditions, below
        case ast.Expr() | ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Break():
            yield ast.Pass()
    ordered = isinstance(node, ast.Call) and len(node.args) > 1 and ast.unparse(node.func) not in EITHER_WAY
    if ordered and not any(isinstance(argument, ast.Starred) for argument in node.args[:2]):
        first, second, *rest = node.args
        if ast.unparse(first) != ast.unparse(second):
            yield ast.Call(node.func, [second, first, *rest], node.keywords)


def inside(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all that can be broken in it: no docstrings, annotations, messages and formats."""
    yield node
    for name, value in ast.iter_fields(node):
        skipped = name in ("annotation", "returns", "decorator_list", "format_spec", "bases", "type_params")
        if skipped or (isinstance(node, ast.Raise) and name in ("exc", "cause")):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.AST) and not isinstance(child, (ast.Import, ast.ImportFrom)):
                yield from inside(child)


def mutations(source: str) -> list[Mutation]:
    """All of a module, in the order of its lines."""
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    found = []

    def add(node: ast.AST, other: ast.AST) -> None:
        text = ast.unparse(ast.fix_missing_locations(other))
        text = text if isinstance(node, (ast.stmt, ast.Slice)) else f"({text})"
        start, stop = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset
        found.append(Mutation(start, stop, text, node.lineno))

    for node in inside(ast.parse(source)):
        for other in replacements(node):
            add(node, other)
        for condition in [node.test] if isinstance(node, (ast.If, ast.IfExp)) else getattr(node, "ifs", []):
            for forced in (True, False):
                add(condition, ast.Constant(forced))
    return sorted(set(found))


def broken(source: str, mutation: Mutation) -> str:
    content = source.encode()
    text = (content[: mutation.start] + mutation.text.encode() + content[mutation.stop :]).decode()
    compile(text, "broken", "exec")
    return text


class Reached:
    """Which tests run which lines of a module, and how long each takes: a pytest plugin."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.lines: dict[str, set[int]] = {}
        self.seconds: dict[str, float] = {}

    def trace(self, frame: types.FrameType, event: str, _: object) -> object:
        if frame.f_code.co_filename != self.path:
            return None
        self.reached.add(frame.f_lineno)
        return self.trace

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.reached = self.lines.setdefault(item.nodeid, set())
        begun = time.monotonic()
        sys.settrace(self.trace)
        yield
        sys.settrace(None)
        self.seconds[item.nodeid] = time.monotonic() - begun


class First:
    """These tests before all others, in this order: a pytest plugin."""

    def __init__(self, names: list[str]) -> None:
        self.places = {name: place for place, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.places.get(item.nodeid, len(self.places)))


def in_a_fork(
    tests: list[str], src: Path, limit: float, plugin: object, then: Callable[[], object] | None = None
) -> bool | None:
    """Whether tests pass with `src` in place of this one's; None where they take too long. A fork: imports are made."""
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)  # no session of its own, which Linux may give a share of the processor of its own
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        sys.path.insert(0, str(src))
        os.environ["PYTHONPATH"] = str(src)
        sys.dont_write_bytecode = True  # two mutations within a second may be of one size
        code = 70
        with contextlib.suppress(BaseException):
            code = pytest.main([*QUICKLY, *tests], [plugin])
            if then:
                then()
        os._exit(int(code))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def reached_lines(tests: list[str], src: Path, path: Path) -> tuple[dict[str, set[int]], dict[str, float]] | None:
    """Of each test: the module's lines that it runs, and its seconds. None if the unbroken module fails one."""
    plugin, kept = Reached(path), src / "reached.json"

    def keep() -> None:
        lines = {name: sorted(those) for name, those in plugin.lines.items()}
        kept.write_text(json.dumps([lines, plugin.seconds]))

    if not in_a_fork(tests, src, 1800, plugin, keep):
        return None
    lines, seconds = json.loads(kept.read_text())
    return {name: set(those) for name, those in lines.items()}, seconds


def shown(source: str, mutation: Mutation) -> str:
    old = source.encode()[mutation.start : mutation.stop].decode()
    one = " ".join(old.split())
    return f"{mutation.line}: {one[:90]}  ->  {' '.join(mutation.text.split())[:90]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(modules())}; all unless given")
    parser.add_argument("--count", type=int, default=60, help="mutations of a module, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", default="", help="FIRST-LAST of one module: all mutations there")
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.modules.setdefault("triton", None)  # as tests/conftest.py
    for name in (
        "cv2",
        "msgspec",
        "matplotlib.pyplot",
        "onnxruntime",
        "timm",
        "lightning.pytorch",
    ):  # once, for all forks
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ImportError):
            importlib.import_module(name)
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder) / "src"
        shutil.copytree(ROOT / "src", src, ignore=shutil.ignore_patterns("__pycache__"))
        for module in options.modules or modules():
            path, tests = src / f"keylite/{module}.py", tests_of(module).split()
            source = path.read_text()
            chosen = mutations(source)
            if options.lines:
                first, last = map(int, options.lines.split("-"))
                chosen = [mutation for mutation in chosen if first <= mutation.line <= last]
            elif len(chosen) > options.count:
                chosen = sorted(random.Random(options.seed).sample(chosen, options.count))
            found = reached_lines(tests, src, path)
            if not found:
                sys.exit(f"{module}: its tests fail as it is: {' '.join(tests)}")
            lines, seconds = found
            limit = 5 * sum(seconds.values()) + LIMIT
            alive = []
            for mutation in chosen:
                path.write_text(broken(source, mutation))
                quick = sorted((name for name in lines if mutation.line in lines[name]), key=seconds.get)
                if in_a_fork(tests, src, limit, First(quick)):
                    alive.append(mutation)
                    print(f"{module}:{shown(source, mutation)}", flush=True)
            path.write_text(source)
            survived += len(alive)
            print(f"{module}: {len(chosen) - len(alive)} of {len(chosen)} noticed", flush=True)
    sys.exit(min(survived, 1))


if __name__ == "__main__":
    main()
