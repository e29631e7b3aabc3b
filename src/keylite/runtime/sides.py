"""Finds left and right in the names of keypoints, as tools and people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

OTHER = {"left": "right", "right": "left"}  # side: the other side


def side_of(name: str) -> str | None:
    """The side that a name says, left or right; None if it says none or both."""
    (words,) = parts_of([name])
    sides = {word for word in words if word in OTHER}
    return sides.pop() if len(sides) == 1 else None


def parts_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The words of each name in lower case, with its sides as the words left and right.

    A side is left, right, l or r as a separate word (left_eye, eye.L, hipRight, REar), or left or right joined to
    another word (leftear).
    """
    words_by_name = [words_of(name) for name in names]
    known = {word for words in words_by_name for word in words}
    short = {"l": "left", "r": "right"}
    return [tuple(short.get(part, part) for word in words for part in _split(word, known)) for words in words_by_name]


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name in lower case: cut at separators, digits and capitals."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+", name)
    return tuple(word.lower() for word in words)


def _split(word: str, known: set[str]) -> tuple[str, ...]:
    """Cut a side off a word: leftear -> left, ear. At its end (earleft, upright), only if the other side is known."""
    for side, other in OTHER.items():
        if word.startswith(side) and len(word) > len(side):
            return side, word[len(side) :]
        if word.endswith(side) and word.removesuffix(side) + other in known and word != side:
            return word.removesuffix(side), side
    return (word,)
