"""Groups of images that belong together: made from image names, and divided among parts and folds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import numpy as np

from keylite.runtime.errors import DataError
from keylite.runtime.words import SHOWN, clipped, listed, quoted


def group_by_name(image_names: Sequence[str], group: str) -> list[str]:
    """The group of each image name, by `image`, `block:N` or `regex:PATTERN`.

    image: each name is its own group. block:N: runs of N names in their order, img2 before img10. regex:PATTERN: the
    text that the pattern's first group in parentheses matches, or its whole match if it has none. Raises DataError for
    a name that does not match.
    """
    if group == "image":
        return list(image_names)
    kind, _, value = group.partition(":")
    if kind == "block" and re.fullmatch("[0-9]{1,9}", value) and int(value) > 0:
        rank = {name: position for position, name in enumerate(sorted(set(image_names), key=in_number_order))}
        return [f"block {rank[name] // int(value):05d}" for name in image_names]
    if kind == "regex" and value:
        try:
            with warnings.catch_warnings(action="ignore"):  # Python warns of what later versions may read differently
                pattern = re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise DataError(f"group: {quoted(value)} is not a regular expression: {error}") from None
        matches = [pattern.search(name) for name in image_names]
        group_number = 1 if pattern.groups else 0
        missed = [name for name, m in zip(image_names, matches, strict=True) if m is None or m[group_number] is None]
        if missed:
            line = f"group: {quoted(value)} does not match {len(missed)} image names"
            raise DataError(listed(line, [clipped(name) for name in missed[:SHOWN]], len(missed)))
        return [match[group_number] for match in matches if match]
    if kind == "block":
        raise DataError(f"group: expected block:N with N from 1 to 999999999, got {quoted(group)}")
    raise DataError(f"group: expected auto, image, block:N, field:NAME or regex:PATTERN, got {quoted(group)}")


def in_number_order(name: str) -> list[str | int]:
    """A sort key that takes digits as numbers; text and numbers alternate in it, so any two keys can be compared."""
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", name))]


def parts_of_groups(group_index: np.ndarray, groups: int, fractions: Sequence[float], seed: int) -> np.ndarray:
    """(groups,) the part of each group: part 1 has about `fractions[0]` of the objects, and so on; part 0 is the rest.

    group_index: (N,) the group of each object. groups: the number of groups, which must be above that of fractions.
    """
    sizes = np.bincount(group_index, minlength=groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    part_of_group = np.zeros(len(sizes), np.int64)
    position = 0
    for part, fraction in enumerate(fractions, start=1):
        filled, left = 0, len(fractions) - part
        while filled == 0 or (filled < fraction * len(group_index) and position < len(order) - 1 - left):
            part_of_group[order[position]] = part
            filled += sizes[order[position]]
            position += 1
    return part_of_group


def folds_of_groups(group_index: np.ndarray, groups: int, folds: int, seed: int) -> np.ndarray:
    """(groups,) the fold of each group, from 1 on; folds have about the same number of objects.

    The largest group is assigned first, each group to the fold that has the fewest objects so far; `seed` decides the
    order among groups of equal size. Folds are numbered in the order of the first group in each. There must be at least
    as many groups as folds.
    """
    sizes = np.bincount(group_index, minlength=groups)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    part_of_group, filled = np.zeros(len(sizes), np.int64), np.zeros(folds, np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        part_of_group[group] = np.argmin(filled)
        filled[part_of_group[group]] += sizes[group]
    _, first = np.unique(part_of_group, return_index=True)
    return (np.argsort(np.argsort(first)) + 1)[part_of_group]
