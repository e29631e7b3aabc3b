"""The skeleton of an object: the names, edges, mirror pairs and OKS sigmas of its keypoints."""

from __future__ import annotations

import math
from collections import Counter

import msgspec

from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import plain
from keylite.runtime.words import quoted

MAX_KEYPOINTS = 10_000  # each object has an array of this length
MAX_EDGES = 100_000
MAX_NAME = 200  # characters
NAMED = 5  # names that an error message quotes
FIELDS = {
    "names": (tuple[str, ...], "a list of texts"),
    "edges": (tuple[tuple[int, int], ...], "a list of pairs of whole numbers"),
    "mirror": (tuple[int, ...] | None, "a list of whole numbers, or None"),
    "sigmas": (tuple[float, ...] | None, "a list of numbers, or None"),
}


class Skeleton(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The K keypoints of an object.

    Lists and numpy arrays are accepted in place of tuples.

    Attributes:
        names: K different names, each of at most 200 characters.
        edges: Pairs of keypoint numbers from 0 on: the lines that are drawn between points. They have no other use.
        mirror: A permutation of 0..K-1: after a horizontal flip, point k is the old point mirror[k]. A keypoint that
            stays itself has its own number. None: no mirror symmetry is known.
        sigmas: K constants above 0 for OKS, as COCO defines them. None: OKS is not calculated.

    Raises:
        ArgumentError: A field has the wrong type, names repeat, a number is not that of a keypoint, or flipping twice
            by `mirror` does not give every keypoint back.

    Example:
        >>> keylite.Skeleton(("nose", "left_eye", "right_eye"), edges=((0, 1), (0, 2)), mirror=(0, 2, 1))
    """

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()
    mirror: tuple[int, ...] | None = None
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field, (kind, words) in FIELDS.items():
            value = plain(getattr(self, field))
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
                raise ArgumentError(
                    f"skeleton: edges: expected pairs of keypoint numbers 0..{count - 1}, got {list(edge)}"
                )
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
                raise ArgumentError(f"sigmas: expected numbers above 0, got {list(self.sigmas[:20])}")

    def __len__(self) -> int:
        return len(self.names)

    def mirror_pairs(self) -> list[tuple[str, str]]:
        """The pairs of keypoints that change places if the image is flipped.

        Returns:
            Pairs of names, each pair once. Empty if `mirror` is None or swaps nothing.
        """
        mirror = self.mirror or ()
        return [(self.names[k], self.names[other]) for k, other in enumerate(mirror) if k < other]


def unnamed(count: int) -> tuple[str, ...]:
    """The names k0, k1, ... for keypoints that have none."""
    return tuple(f"k{k}" for k in range(count))
