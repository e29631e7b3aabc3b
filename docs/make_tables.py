"""Makes the parts of pages that follow from the source: `python docs/make_tables.py`.

The tables of presets and training choices in recipe.md, and the tree, the table of rooms and the figures of
ARCHITECTURE.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import doors
import msgspec
import structure

from keylite.runtime.files import write_text
from keylite.training.presets import PRESETS
from keylite.training.recipe import Recipe, descriptions

DOCS = Path(__file__).parent
PARTS = {  # page: the parts that are made, by the name in their marks
    DOCS / "recipe.md": {"tables": lambda: recipe_tables()},
    DOCS / "command-line.md": {"doors": doors.tables},
    DOCS.parent / "ARCHITECTURE.md": {
        "layout": structure.layout,
        "rooms": structure.room_table,
        "figures": structure.figures,
    },
}
SECTIONS = {  # the first choice of each section
    "framework": "Model and data",
    "epochs": "Training",
    "strength": "Augmentation",
    "device": "Machine",
}
LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def preset_table() -> list[str]:
    """Markdown: what each preset has in place of the defaults."""
    lines = ["### Presets", "", "| `--preset` | choices |", "|---|---|"]
    for name, choices in PRESETS.items():
        told = ", ".join(f"{choice} {_shown(value)}" for choice, value in choices.items())
        lines.append(f"| `{name}` | {told or 'the defaults'} |")
    return lines


def recipe_tables() -> str:
    """Markdown: the presets; name, default, values and meaning of every choice, in order."""
    lines = preset_table()
    schemas = msgspec.json.schema(Recipe)["$defs"]["Recipe"]["properties"]
    for name, (meaning, default) in descriptions().items():
        if name in SECTIONS:
            lines += ["", f"### {SECTIONS[name]}", "", "| name | default | values | meaning |", "|---|---|---|---|"]
        lines.append(f"| `{name}` | `{_shown(default)}` | {_values(name, schemas[name])} | {meaning} |")
    return "\n".join(lines).strip()


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(name: str, schema: dict[str, Any]) -> str:
    """The values that a choice may have: options or limits. Empty: its meaning says it."""
    options = get_args(get_type_hints(Recipe)[name])
    if options and all(isinstance(option, str) for option in options):
        return ", ".join(options)
    parts = schema.get("anyOf", ())
    if {"enum": ["auto"]} in parts:
        return f"auto, {_values(name, parts[0])}"
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']:g} to {schema['maximum']:g}"
    return ", ".join(f"{words} {schema[key]:g}" for key, words in LIMITS.items() if key in schema)


def with_part(page: str, name: str, text: str) -> str:
    """The page with a new text between the marks of one part. ValueError if the page has no such marks."""
    start, end = f"<!-- {name}: made by docs/make_tables.py -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"expected the marks {start!r} and {end!r}")
    return f"{before}{start}\n\n{text}\n\n{end}{after}"


def made_anew(path: Path) -> str:
    """A page with all its made parts as they are now."""
    page = path.read_text(encoding="utf-8")
    for name, make in PARTS[path].items():
        page = with_part(page, name, make())
    return page


if __name__ == "__main__":
    for path in PARTS:
        write_text(path, made_anew(path))
