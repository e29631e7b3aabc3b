"""What belongs together by the names of images: a name in, a group out. Knows nothing of pixels, labels or files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from keylite.runtime.words import SHOWN, clipped, listed, quoted


def group_by_name(image_names: Sequence[str], group: str) -> list[str]:
    """One group an image name, by `image`, `block:N` (runs of N in name order, img2 before img10) or `regex:PATTERN`.

    The pattern's first group counts, else its whole match. Raises ValueError for a name that does not match.
    """
    if group == "image":
        return list(image_names)
    kind, _, value = group.partition(":")
    if kind == "block" and re.fullmatch("[0-9]{1,9}", value) and int(value) > 0:
        rank = {name: position for position, name in enumerate(sorted(set(image_names), key=in_number_order))}
        return [f"block {rank[name] // int(value):05d}" for name in image_names]
    if kind == "regex" and value:
        try:
            with warnings.catch_warnings(action="ignore"):  # of what future Pythons may read in another way
                pattern = re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"group: {quoted(value)} is not a regular expression: {error}") from None
        found = [pattern.search(name) for name in image_names]
        group_number = 1 if pattern.groups else 0
        missed = [name for name, m in zip(image_names, found, strict=True) if m is None or m[group_number] is None]
        if missed:
            line = f"group: {quoted(value)} does not match {len(missed)} image names"
            raise ValueError(listed(line, [clipped(name) for name in missed[:SHOWN]], len(missed)))
        return [match[group_number] for match in found if match]
    if kind == "block":
        raise ValueError(f"group: expected block:N with N from 1 to 999999999, got {quoted(group)}")
    raise ValueError(f"group: expected auto, image, block:N, field:NAME or regex:PATTERN, got {quoted(group)}")


def in_number_order(name: str) -> list[str | int]:
    """A sort key that takes runs of digits as numbers; text and numbers alternate, so keys always compare."""
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", name))]
