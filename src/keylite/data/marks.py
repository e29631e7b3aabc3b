"""Places that a tool writes for a point that is not there, such as (-1, -1): noticed, and taken out if asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from keylite.runtime.errors import DataError
from keylite.runtime.kinds import number_of
from keylite.runtime.words import quoted

MARKS = ((-1.0, -1.0), (0.0, 0.0))  # that tools write
FEWEST, SHARE = 3, 0.02  # objects, and their share, from which such a place is no coincidence
LOOKED_AT, SIZES, MOST = 1000, 10, 3  # objects that are searched; sizes that a place is held to; places that are told


def read_mark(text: str) -> tuple[float, float]:
    """The place that `X,Y` means, in the label file's own px."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"missing_mark: expected X,Y such as -1,-1, got {text!r:.60}") from None
    require_mark((x, y))
    return x, y


def require_mark(mark: object) -> None:
    """Raise ValueError for what is no pair of finite numbers."""
    values = list(mark) if isinstance(mark, tuple | list | np.ndarray) else []
    if len(values) != 2 or not all(math.isfinite(number_of(value)) for value in values):
        raise DataError(f"missing_mark: expected two finite numbers, x and y, got {quoted(mark)}")


def marked(xy: np.ndarray, labelled: np.ndarray, mark: tuple[float, float]) -> np.ndarray:
    """(N, K) bool: which labelled points lie exactly at the mark. xy: (N, K, 2), as written. labelled: (N, K) bool."""
    return labelled & np.all(xy == np.asarray(mark, np.float64), axis=2)


def mark_doubts(
    xy: np.ndarray,
    labelled: np.ndarray,
    size_of: Callable[[int], Sequence[float] | None],
    shift: float = 0.0,
) -> tuple[str, ...]:
    """A line for each place at which points of many objects lie, although they are said to be labelled.

    Such a place is one of MARKS, or lies outside the objects' images or on their far corner. size_of: (width, height)
    of the image of an object, None where unknown. shift: what makes `xy`, as written, continuous px.
    """
    lines = []
    for mark in (*MARKS, *_shared_outside(xy, labelled, size_of, shift)):
        at = marked(xy, labelled, mark)
        objects = int(at.any(axis=1).sum())
        if objects >= max(FEWEST, SHARE * len(xy)):
            x, y = (f"{value:.10g}" for value in mark)
            lines.append(
                f"{int(at.sum())} labelled points of {objects} objects lie at exactly ({x}, {y}): it looks like a mark "
                f"for missing points; if it is one, make them unlabelled with `missing_mark=({x}, {y})`"
            )
    return tuple(lines)


def _shared_outside(
    xy: np.ndarray, labelled: np.ndarray, size_of: Callable[[int], Sequence[float] | None], shift: float
) -> list[tuple[float, float]]:
    """Places outside their images, MARKS apart, that several of LOOKED_AT objects share; the most shared ones first."""
    rows = np.arange(0, len(xy), len(xy) // LOOKED_AT + 1)
    owner, keypoint = np.nonzero(labelled[rows] & np.all(np.isfinite(xy[rows]), axis=2))
    places, of_place, counts = np.unique(xy[rows[owner], keypoint], axis=0, return_inverse=True, return_counts=True)
    found: list[tuple[float, float]] = []
    for number in np.argsort(-counts, kind="stable").tolist():
        if counts[number] < max(FEWEST, SHARE * len(rows)) or len(found) == MOST:
            break
        mark = (float(places[number][0]), float(places[number][1]))
        sharing = rows[owner[of_place.reshape(-1) == number]][:SIZES].tolist()
        if mark not in MARKS and _outside(places[number] + shift, sharing, size_of):
            found.append(mark)
    return found


def _outside(place: np.ndarray, rows: list[int], size_of: Callable[[int], Sequence[float] | None]) -> bool:
    """Whether a place (2,) px lies outside the images of these objects, or on the last pixel of their far corner."""
    if place.min() < 0:
        return True
    known = False
    for size in map(size_of, rows):
        if size is not None:
            known = True
            if np.all(place <= size) and np.any(place < np.subtract(size, 0.5)):
                return False
    return known
