"""What a public function is given is of the kind that it takes, or one line says what it is and what to do."""

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
    """Raise ValueError if a value is not of a kind; step: what makes it one."""
    if not isinstance(value, kind):
        raise ArgumentError(f"{name}: expected {expected}, got {kind_words(value)}; {step}")


def path_of(name: str, value: object) -> Path:
    """The path that a text or a path means; ValueError for anything else."""
    if not _is_path(value):
        raise ArgumentError(f"{name}: expected a path, got {kind_words(value)}")
    return Path(value)


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(value, str | os.PathLike)


def is_list(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether a value is a list or a tuple, of whatever."""
    return isinstance(value, list | tuple)


def is_array(value: object) -> TypeGuard[np.ndarray]:
    """Whether a value is an array of numpy's, of whatever."""
    return isinstance(value, np.ndarray)


def require_whole(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Raise ValueError for what is no whole number of at least `least`, and at most `most` if that is given."""
    number = int(value) if not isinstance(value, bool) and isinstance(value, numbers.Integral) else least - 1
    if number < least or (most is not None and number > most):
        wanted = f"a whole number of at least {least}" if most is None else f"{least} to {most}"
        raise ArgumentError(f"{name}: expected {wanted}, got {quoted(value)}")


def number_of(value: object) -> float:
    """The real number that a value is; NaN, with which no comparison holds, for what is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf  # or minus that: no number that a float holds


def kind_words(value: object) -> str:
    """What a line calls a value whose kind is the mistake: `a text`, `None`, `a Recipe`."""
    name = type(value).__name__
    return KINDS.get(type(value), f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}")
