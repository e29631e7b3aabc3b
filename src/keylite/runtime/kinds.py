"""Checks of the types of arguments: a wrong type is refused in one line that says what came and what to do."""

from __future__ import annotations

import math
import numbers
import os
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
    """A text or a path as a Path. Raises ValueError for anything else."""
    if not _is_path(value):
        raise ArgumentError(f"{name}: expected a path, got {kind_words(value)}")
    return Path(value)


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(value, str | os.PathLike)


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
