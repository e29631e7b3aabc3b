"""Checks of the types of arguments: a wrong type is refused in one line that says what came and what to do."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from keylite.runtime.errors import ArgumentError
from keylite.runtime.words import quoted

KINDS: dict[type, str] = {str: "a text", bytes: "bytes", type(None): "None", int: "a number", float: "a number"}


def require_kind(name: str, value: object, kind: type | tuple[type, ...], expected: str, step: str) -> None:
    """Raise ValueError if a value is not of a kind. step: tells the user how to make it one."""
    if not isinstance(value, kind):
        raise ArgumentError(f"{name}: expected {expected}, got {kind_words(value)}; {step}")


def path_of(name: str, value: object) -> Path:
    """A text or a path as a Path. Raises ValueError for anything else, and for a text that no file can have as a name.

    An empty text would be the current folder, which nobody means by it.
    """
    if not _is_path(value):
        raise ArgumentError(f"{name}: expected a path, got {kind_words(value)}")
    if isinstance(value, str) and not value:
        raise ArgumentError(f"{name}: expected a path, got an empty text; is a variable of your script not set?")
    path = Path(value)
    if "\0" in str(path):
        raise ArgumentError(f"{name}: expected a path without zero characters, got {quoted(str(path))}")
    return path


def path_or_none(name: str, value: object) -> Path | None:
    """As `path_of`, but None stays None."""
    return None if value is None else path_of(name, value)


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(value, str) or (isinstance(value, os.PathLike) and isinstance(value.__fspath__(), str))


def require_flags(**flags: object) -> None:
    """Raise ValueError, with the argument's name, for a value that is not True or False: "no" would count as true."""
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise ArgumentError(f"{name}: expected True or False, got {quoted(value)}")


def require_text(name: str, value: object, step: str) -> None:
    """Raise ValueError if a value is neither a text nor None. step: tells the user what to write."""
    require_kind(name, value, (str, type(None)), "a text", step)


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise ValueError if a value is not one of some texts."""
    if not isinstance(value, str) or value not in choices:
        raise ArgumentError(f"{name}: expected one of {', '.join(choices)}, got {quoted(value)}")


def require_calls(**functions: object) -> None:
    """Raise ValueError, with the argument's name, for a value that is neither a function nor None."""
    for name, value in functions.items():
        if value is not None and not callable(value):
            raise ArgumentError(f"{name}: expected a function, got {kind_words(value)}; leave it out if there is none")


def plain(value: Any) -> Any:
    """The value with tuples in place of lists, and numbers of Python in place of those of numpy."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(plain, value)) if is_list(value) else value


def is_list(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether a value is a list or a tuple."""
    return isinstance(value, list | tuple)


def is_array(value: object) -> TypeGuard[np.ndarray]:
    """Whether a value is a numpy array."""
    return isinstance(value, np.ndarray)


def require_whole(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Raise ValueError if a value is not a whole number from `least` to `most`; None: there is no upper limit."""
    number = int(value) if not isinstance(value, bool) and isinstance(value, numbers.Integral) else least - 1
    if number < least or (most is not None and number > most):
        wanted = f"a whole number of at least {least}" if most is None else f"{least} to {most}"
        raise ArgumentError(f"{name}: expected {wanted}, got {quoted(value)}")


def size_of(name: str, value: object) -> tuple[int, int]:
    """A pair of whole numbers from 1 on. Raises ValueError for anything else."""
    sides = plain(value)
    if not is_list(sides) or len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ArgumentError(f"{name}: expected (width, height) in px, such as (160, 128), got {quoted(value)}")
    return sides[0], sides[1]


def require_number(name: str, value: object, least: float, most: float) -> None:
    """Raise ValueError if a value is not a number from `least` to `most`."""
    if not least <= number_of(value) <= most:
        raise ArgumentError(f"{name}: expected a number from {least:g} to {most:g}, got {quoted(value)}")


def number_of(value: object) -> float:
    """A value as a float; NaN, with which every comparison is false, if it is not a real number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf  # the number is too large for a float; its sign does not matter


def kind_words(value: object) -> str:
    """The words in a message for a value of a wrong type: `a text`, `None`, `a Recipe`."""
    name = type(value).__name__
    return KINDS.get(type(value), f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}")
