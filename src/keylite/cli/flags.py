"""Translates the names of arguments in the library's messages into flags of the command line."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import importlib
import inspect
import re

from keylite.cli.verbs import VERBS

CODE = re.compile(  # `name`, `name=value` or `name('value')`, as messages write an argument or a function of one name
    r"`([a-z_]+)(?:=([^`]*)|\(('[^`']*')\))?`"
)
HEAD = re.compile(r"(?:[a-z_]+, )*[a-z_]+(?=: )")  # the names before the first colon of an error
FUNCTIONS = {"train_folds": "folds"}  # function -> the flag that calls it
spoken: contextvars.ContextVar[str] = contextvars.ContextVar("spoken", default="")  # the verb of this command


def as_flags(text: str) -> str:
    """A message with --name in place of `name`, and --name VALUE in place of `name=VALUE`, if a verb has that flag."""
    return CODE.sub(_flag, text) if "`" in text else text


def error_as_flags(line: str) -> str:
    """An error as `as_flags` gives it; `name: ` at its start becomes `--name: ` if this verb has that flag."""
    if (head := HEAD.match(line)) and set(head[0].split(", ")) <= _names(spoken.get()):
        line = ", ".join(map(_spelt, head[0].split(", "))) + line[head.end() :]
    return as_flags(line)


def _flag(found: re.Match[str]) -> str:
    name, value = FUNCTIONS.get(found[1], found[1]), found[2] or found[3]
    if name not in _names(""):
        return found[0]
    if value is None or value == "True":
        return _spelt(name)
    plain = value.strip("'()").replace(", ", "x" if name == "size" else ",")
    return f"{_spelt(name)} {plain}"


def _spelt(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@functools.cache
def _names(verb: str) -> set[str]:
    """The names of all flags of a verb, or of all verbs if it is empty; arguments without a flag are left out."""
    if not verb:
        return set().union(*map(_names, VERBS))
    names = set[str]()
    handler = getattr(importlib.import_module(f"keylite.cli.{verb}"), verb)
    for name, parameter in inspect.signature(handler).parameters.items():
        if dataclasses.is_dataclass(parameter.default):  # `Reading`: several flags
            names |= {field.name for field in dataclasses.fields(parameter.default)}
        elif name == "flags":
            from keylite.training.recipe import Recipe

            names |= set(Recipe.__struct_fields__)
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            names.add(name.removesuffix("_output").removesuffix("_"))
    return names
