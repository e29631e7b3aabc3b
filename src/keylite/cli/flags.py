"""Translates the names of arguments in the library's messages into flags of the command line."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re

from keylite.cli.verbs import VERBS

CODE = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")  # `name` or `name=value`, as messages write an argument


def as_flags(text: str) -> str:
    """A message with --name in place of `name`, and --name VALUE in place of `name=VALUE`, if a verb has that flag."""
    return CODE.sub(_flag, text) if "`" in text else text


def _flag(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    if name not in _names():
        return found[0]
    flag = f"--{name.replace('_', '-')}"
    if value is None or value == "True":
        return flag
    plain = value.strip("'()").replace(", ", ",")
    return f"{flag} {plain}"


@functools.cache
def _names() -> set[str]:
    """The names of all flags of all verbs."""
    from keylite.training.recipe import Recipe

    names = set(Recipe.__struct_fields__)
    for verb in VERBS:
        handler = getattr(importlib.import_module(f"keylite.cli.{verb}"), verb)
        for name, parameter in inspect.signature(handler).parameters.items():
            if dataclasses.is_dataclass(parameter.default):  # `Reading`: several flags
                names |= {field.name for field in dataclasses.fields(parameter.default)}
            names.add(name.removesuffix("_"))
    return names
