"""Left and right in the names of keypoints, as tools and people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

OTHER = {"left": "right", "right": "left"}  # a side, and the one that it becomes in a mirror


def side_of(name: str) -> str | None:
    """left or right if the name says one side, and only one."""
    (words,) = parts_of([name])
    sides = {word for word in words if word in OTHER}
    return sides.pop() if len(sides) == 1 else None


def parts_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The words of each name in lower case, its sides as the words left and right.

    A side is left, right, l or r as a word of its own (left_eye, eye.L, hipRight, REar), or left / right glued to
    another word (leftear).
    """
    words = [words_of(name) for name in names]
    known = {word for one in words for word in one}
    short = {"l": "left", "r": "right"}
    return [tuple(short.get(part, part) for word in one for part in _unglued(word, known)) for one in words]


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name in lower case: cut at separators, digits and capitals."""
    cut = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+", name)
    return tuple(word.lower() for word in cut)


def _unglued(word: str, known: set[str]) -> tuple[str, ...]:
    """leftear -> left, ear. At the end of a word (earleft, but also upright) only if the other side is known, too."""
    for side, other in OTHER.items():
        if word.startswith(side) and len(word) > len(side):
            return side, word[len(side) :]
        if word.endswith(side) and word.removesuffix(side) + other in known and word != side:
            return word.removesuffix(side), side
    return (word,)
