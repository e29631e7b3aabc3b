"""The keypoints of an object: their names, edges, mirror pairs and OKS sigmas.

Knows nothing of images, files or heads.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec

from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import is_list
from keylite.runtime.words import quoted

MAX_KEYPOINTS = 10_000  # names, and as long an array per object
MAX_EDGES = 100_000
MAX_NAME = 200  # characters
NAMED = 5  # names that an error quotes
FIELDS = {
    "names": (tuple[str, ...], "a list of texts"),
    "edges": (tuple[tuple[int, int], ...], "a list of pairs of whole numbers"),
    "mirror": (tuple[int, ...] | None, "a list of whole numbers, or None"),
    "sigmas": (tuple[float, ...] | None, "a list of numbers, or None"),
}


class Skeleton(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """K named keypoints.

    edges: pairs of 0-based indices, for drawing only.
    mirror: permutation of K, `new = old[mirror]` after a horizontal flip; None where no mirror symmetry is known.
    sigmas: K OKS constants (COCO's `sigmas`), or None: no OKS is computed.
    Raises ValueError for duplicate names, an index out of range, or a mirror that does not undo itself.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()
    mirror: tuple[int, ...] | None = None
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field, (kind, words) in FIELDS.items():
            value = _plain(getattr(self, field))
            try:
                msgspec.structs.force_setattr(self, field, msgspec.convert(value, kind))
            except msgspec.ValidationError:
                raise ArgumentError(f"skeleton: {field}: expected {words}, got {quoted(value)}") from None
        count = len(self.names)
        if count == 0:
            raise ArgumentError("skeleton: expected at least one keypoint, got none")
        if count > MAX_KEYPOINTS or len(self.edges) > MAX_EDGES:
            raise ArgumentError(
                f"skeleton: expected at most {MAX_KEYPOINTS:,} keypoints and {MAX_EDGES:,} edges, got {count:,} and "
                f"{len(self.edges):,}"
            )
        if longest := max((name for name in self.names if len(name) > MAX_NAME), key=len, default=""):
            raise ArgumentError(
                f"skeleton: expected names of at most {MAX_NAME} characters, got {len(longest):,}: {longest[:40]!r}..."
            )
        if len(set(self.names)) != count:
            twice = sorted(name for name, times in Counter(self.names).items() if times > 1)
            twice = [*twice[:NAMED], *(["..."] if len(twice) > NAMED else [])]
            raise ArgumentError(f"skeleton: keypoint names must differ, got {', '.join(twice)} more than once")
        for edge in self.edges:
            if not all(0 <= end < count for end in edge):
                raise ArgumentError(f"skeleton: edge {list(edge)} leaves the {count} keypoints (0-based)")
        if self.mirror is not None:
            if sorted(self.mirror) != list(range(count)):
                raise ArgumentError(f"mirror: expected a permutation of 0..{count - 1}, got {list(self.mirror[:20])}")
            if any(self.mirror[other] != k for k, other in enumerate(self.mirror)):
                raise ArgumentError(
                    f"mirror: flipping twice must give every keypoint back, got {list(self.mirror[:20])}"
                )
        if self.sigmas is not None:
            if len(self.sigmas) != count:
                raise ArgumentError(f"sigmas: expected {count} values, got {len(self.sigmas)}")
            if not all(0 < sigma < math.inf for sigma in self.sigmas):
                raise ArgumentError("sigmas: expected positive values")

    def __len__(self) -> int:
        return len(self.names)

    def mirror_pairs(self) -> list[tuple[str, str]]:
        """The pairs of names that a flip swaps, each once; empty without a mirror."""
        mirror = self.mirror or ()
        return [(self.names[k], self.names[other]) for k, other in enumerate(mirror) if k < other]


def _plain(value: Any) -> Any:
    """The value with tuples for lists, and Python's numbers for numpy's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(_plain, value)) if is_list(value) else value


def unnamed(count: int) -> tuple[str, ...]:
    """Names k0..kN for keypoints that came without any."""
    return tuple(f"k{k}" for k in range(count))
