"""Marks for missing points: places such as (-1, -1) that a tool writes for a point that is not there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from keylite.runtime.errors import DataError
from keylite.runtime.kinds import number_of
from keylite.runtime.words import quoted

MARKS = ((-1.0, -1.0), (0.0, 0.0))  # that many tools write
FEWEST, SHARE = 3, 0.02  # objects, and share of objects, that must have a point at a place: fewer may be a coincidence
LOOKED_AT, SIZES, MOST = 1000, 10, 3  # objects searched; images that a place is compared with; places reported


def read_mark(text: str) -> tuple[float, float]:
    """The place that the text `X,Y` means, in px as the label file writes them."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"missing_mark: expected X,Y such as -1,-1, got {text!r:.60}") from None
    require_mark((x, y))
    return x, y


def require_mark(mark: object) -> None:
    """Raise DataError for anything but two finite numbers."""
    values = list(mark) if isinstance(mark, tuple | list | np.ndarray) else []
    if len(values) != 2 or not all(math.isfinite(number_of(value)) for value in values):
        raise DataError(f"missing_mark: expected two finite numbers, x and y, got {quoted(mark)}")


def marked(xy: np.ndarray, labelled: np.ndarray, mark: tuple[float, float]) -> np.ndarray:
    """(N, K) bool: which labelled points lie exactly at the mark.

    xy: (N, K, 2) px, as the label file writes them. labelled: (N, K) bool.
    """
    return labelled & np.all(xy == np.asarray(mark, np.float64), axis=2)


def mark_doubts(
    xy: np.ndarray,
    labelled: np.ndarray,
    size_of: Callable[[int], Sequence[float] | None],
    shift: float = 0.0,
) -> tuple[str, ...]:
    """A line for each place that looks like a mark: points of many objects lie there, although they are labelled.

    Such a place is one of MARKS, or lies outside the objects' images or on their lower right corner. size_of: gives
    (width, height) of the image of an object, None if unknown. shift: added to `xy`, as written, to get continuous px.
    """
    lines = []
    for mark in (*MARKS, *_shared_outside(xy, labelled, size_of, shift)):
        at = marked(xy, labelled, mark)
        objects = int(at.any(axis=1).sum())
        if objects >= max(FEWEST, SHARE * len(xy)):
            x, y = (f"{value:.10g}" for value in mark)
            lines.append(
                f"{int(at.sum())} labelled points of {objects} objects lie at exactly ({x}, {y}), which looks like a "
                f"mark for missing points; if it is one, make them unlabelled with `missing_mark=({x}, {y})`"
            )
    return tuple(lines)


def _shared_outside(
    xy: np.ndarray, labelled: np.ndarray, size_of: Callable[[int], Sequence[float] | None], shift: float
) -> list[tuple[float, float]]:
    """Places outside the image, other than MARKS, where several objects have a point; those of most objects first."""
    rows = np.arange(0, len(xy), len(xy) // LOOKED_AT + 1)
    owner, keypoint = np.nonzero(labelled[rows] & np.all(np.isfinite(xy[rows]), axis=2))
    places, place_of_point, counts = np.unique(
        xy[rows[owner], keypoint], axis=0, return_inverse=True, return_counts=True
    )
    shared: list[tuple[float, float]] = []
    for number in np.argsort(-counts, kind="stable").tolist():
        if counts[number] < max(FEWEST, SHARE * len(rows)) or len(shared) == MOST:
            break
        mark = (float(places[number][0]), float(places[number][1]))
        sharing = rows[owner[place_of_point.reshape(-1) == number]][:SIZES].tolist()
        if mark not in MARKS and _outside(places[number] + shift, sharing, size_of):
            shared.append(mark)
    return shared


def _outside(place: np.ndarray, rows: list[int], size_of: Callable[[int], Sequence[float] | None]) -> bool:
    """Whether a place (2,) px lies outside the images of all these objects, or on their lower right pixel.

    It is False if no image size is known, unless a coordinate is negative.
    """
    if place.min() < 0:
        return True
    known = False
    for size in map(size_of, rows):
        if size is not None:
            known = True
            if np.all(place <= size) and np.any(place < np.subtract(size, 0.5)):
                return False
    return known
