"""What a choice may be, in words for error messages, from the types of a recipe's fields."""

from __future__ import annotations

import functools
import re
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from keylite.runtime.words import quoted

FORMS = {  # of choices that several types can have, and of texts that are no free words
    "size": "a side such as 128, or (width, height) such as (160, 128)",
    "mirror": "auto, off, or pairs such as [('left_eye', 'right_eye')]",
    "pretrained": "imagenet, none, or a .safetensors file",
    "teacher": "a .safetensors model file, or none",
}


def refusal(name: str, value: object, error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str:
    """What a field of a recipe takes, and what it got, in words. kind: of the recipe.

    For None, which is `null` in YAML, also what the choice is if it is left out.
    """
    words = f"expected {_expected(name, error, kind)}, got {quoted(value)}"
    default = next(field.default for field in msgspec.structs.fields(kind) if field.name == name)
    if value is not None or default is msgspec.NODEFAULT:
        return words
    return f"{words}; leave it out, and it is {quoted(default)}"


def _expected(name: str, error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str:
    """The values that a field takes, in words."""
    if name in FORMS:
        return FORMS[name]
    options = get_args(get_type_hints(kind)[name])
    if options and all(isinstance(option, str) for option in options):
        return f"one of {', '.join(options)}"
    said = str(error).partition(" - at ")[0].partition(", got")[0].removeprefix("Expected ").replace("`", "")
    auto = options and options[-1] == Literal["auto"]
    if re.search("[<>]", said):
        said = _range_words(field_types(kind)[name]) or said
    elif auto:
        said = options[0].__name__  # msgspec's own words: int | str
    return f"auto or {said}" if auto else "a text" if said == "str" else said


def _range_words(hint: Any) -> str:
    """The numbers that a type allows, such as `int from 2 to 7`; empty if it does not say the least and the most."""
    for part in (hint, *get_args(get_args(hint)[0])):
        for limits in getattr(part, "__metadata__", ()):
            if limits.ge is not None and limits.le is not None:
                return f"{get_args(part)[0].__name__} from {limits.ge} to {limits.le}"
    return ""


@functools.cache
def field_types(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The type of every field of a recipe with its description and limits, by name."""
    return get_type_hints(kind, include_extras=True)
