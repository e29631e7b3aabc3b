"""Reads the YAML files that describe data sets, with limits on their size and nesting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keylite.runtime.errors import DataError
from keylite.runtime.packages import require
from keylite.runtime.texts import read_text
from keylite.runtime.words import clipped, quoted

LARGEST = 10_000_000  # bytes: a file may list thousands of names
DEEPEST = 8  # levels


def read_yaml(path: Path) -> dict[str, Any]:
    """The names and values of a YAML file. DataError if it is no mapping, or has an alias or a tag, which can grow."""
    yaml = require("yaml", "cli")
    text = read_text(path, LARGEST)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                raise DataError(
                    f"{path}: line {line}: an alias (*{clipped(event.anchor)}); write the value itself there"
                )
            if getattr(event, "tag", None) not in (None, "!"):
                raise DataError(f"{path}: line {line}: a tag ({clipped(event.tag)}); write the value without it")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise DataError(f"{path}: line {line}: brackets are nested too deeply")
        value = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise DataError(f"{path}: not a YAML file{f' at line {mark.line + 1}' if mark else ''}") from None
    except DataError:
        raise
    except (ValueError, RecursionError):  # a number of thousands of digits, a date that is none
        raise DataError(f"{path}: a value cannot be read as YAML") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected lines of `name: value`, got {quoted(value)}")
    return {str(name): each for name, each in value.items()}
