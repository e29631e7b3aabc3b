"""Recipes as YAML files, read with limits on size and depth; recipe.py checks the values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from keylite.runtime.errors import RecipeError
from keylite.runtime.files import write_text
from keylite.runtime.packages import require
from keylite.runtime.texts import read_text
from keylite.runtime.types import FilePath
from keylite.runtime.words import clipped, quoted
from keylite.training.recipe import Recipe, to_dict

yaml = require("yaml", "cli")

LARGEST = 100_000  # bytes of a recipe file
DEEPEST = 3  # levels: mirror pairs are lists, in a list, in a mapping


def read_recipe(path: FilePath) -> dict[str, Any]:
    """The choices in a YAML file, by name; they are not checked yet: give them to `make_recipe`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such recipe file")
    text = read_text(path, LARGEST)
    try:
        return dict(_choices(text, path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}: not a YAML file{line}") from None


ODD_NUMBER = re.compile(r"[-+]?[\d_]+(:[\d_.]+)+|[-+]?0[0-7_]+")  # numbers of base 60 or 8 in YAML 1.1 alone: 1:30, 010


class _Loader(yaml.SafeLoader):
    """Reads text, numbers, true, false and null; a date stays text, and << is a name like any other."""

    yaml_implicit_resolvers: ClassVar[dict] = {
        start: [(tag, form) for tag, form in forms if tag.rpartition(":")[2] in ("bool", "int", "float", "null")]
        for start, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _choices(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """(name, value) of each choice in a recipe file.

    A few characters of YAML can stand for more than any memory holds: aliases of aliases, brackets in brackets. So the
    text is checked before values are made of it. A recipe needs no alias, no tag (it names a type), and no second
    document.
    """
    depth, name, value_next = 0, "", False  # the last name at the top level, and whether its value comes next
    for event in yaml.parse(text, Loader=_Loader):
        where = f"{path}: {clipped(name)}: " if value_next else f"{path}: "
        where += f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise RecipeError(f"{where}: an alias (*{clipped(event.anchor)}); write the value itself there")
        if getattr(event, "tag", None) not in (None, "!"):
            raise RecipeError(f"{where}: a tag ({clipped(event.tag)}); write the value without it")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RecipeError(f"{where}: brackets in brackets; expected lines of `name: value`")
        if depth == 1 and isinstance(event, (yaml.ScalarEvent, yaml.CollectionEndEvent)):
            name, value_next = getattr(event, "value", ""), not value_next
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            kind = "nothing" if node is None else "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
            raise RecipeError(f"{path}: expected lines of `name: value`, got {kind}")
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{path}: line {line}: expected `name: value`, got brackets as a name")
            if key.value in lines:
                raise RecipeError(
                    f"{path}: {clipped(key.value)}: is there twice, in lines {lines[key.value]} and {line}"
                )
            lines[key.value] = line
            if isinstance(value, yaml.ScalarNode) and ODD_NUMBER.fullmatch(value.value):
                yield key.value, value.value
                continue
            try:
                yield key.value, loader.construct_object(value, deep=True)
            except (ValueError, OverflowError):  # a number of thousands of digits, or one without digits: 0x_
                shown = quoted(value.value) if isinstance(value, yaml.ScalarNode) else "a list with no such number"
                raise RecipeError(f"{path}: {clipped(key.value)}: expected a number or a word, got {shown}") from None
    finally:
        loader.dispose()


def write_recipe(recipe: Recipe, path: FilePath) -> None:
    """Write every choice of a recipe to a YAML file."""
    write_text(Path(path), yaml.safe_dump(to_dict(recipe), sort_keys=False))
