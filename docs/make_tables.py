"""The tables of presets and training choices in recipe.md, from the recipe itself: `python docs/make_tables.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from keylite.runtime.files import write_text
from keylite.training.recipe import PRESETS, Recipe, descriptions

PAGE = Path(__file__).parent / "recipe.md"
START, END = "<!-- made by docs/make_tables.py: start -->", "<!-- end -->"
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
    """What a choice may be: its options or its limits; empty where its meaning says it."""
    options = get_args(get_type_hints(Recipe)[name])
    if options and all(isinstance(option, str) for option in options):
        return ", ".join(options)
    parts = schema.get("anyOf", ())
    if {"enum": ["auto"]} in parts:
        return f"auto, {_values(name, parts[0])}"
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']:g} to {schema['maximum']:g}"
    return ", ".join(f"{words} {schema[key]:g}" for key, words in LIMITS.items() if key in schema)


def with_tables(page: str) -> str:
    """The page with the tables between its marks made anew."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{PAGE.name}: expected the marks {START!r} and {END!r}")
    return f"{before}{START}\n\n{recipe_tables()}\n\n{END}{after}"


if __name__ == "__main__":
    write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8")))
