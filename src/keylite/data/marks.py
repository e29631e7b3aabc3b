"""Places that a tool writes for a point that is not there, (-1, -1) or (0, 0): noticed, and taken out if asked."""

from __future__ import annotations

import numpy as np

MARKS = ((-1.0, -1.0), (0.0, 0.0))  # that tools write
FEWEST, SHARE = 3, 0.02  # objects, and their share, from which such a place is no coincidence


def read_mark(text: str) -> tuple[float, float]:
    """The place that `X,Y` means, in the label file's own px."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"missing_mark: expected X,Y such as -1,-1, got {text!r:.60}") from None
    if not np.isfinite([x, y]).all():
        raise ValueError(f"missing_mark: expected two finite numbers X,Y, got {text!r:.60}")
    return x, y


def marked(xy: np.ndarray, labelled: np.ndarray, mark: tuple[float, float]) -> np.ndarray:
    """(N, K) bool: which labelled points lie exactly at the mark. xy: (N, K, 2), as written. labelled: (N, K) bool."""
    return labelled & np.all(xy == np.asarray(mark, np.float64), axis=2)


def mark_doubts(xy: np.ndarray, labelled: np.ndarray) -> tuple[str, ...]:
    """A line for each of MARKS at which points of many objects lie, although they are said to be labelled."""
    lines = []
    for mark in MARKS:
        at = marked(xy, labelled, mark)
        objects = int(at.any(axis=1).sum())
        if objects >= max(FEWEST, SHARE * len(xy)):
            x, y = (f"{value:g}" for value in mark)
            lines.append(
                f"{int(at.sum())} labelled points of {objects} objects lie at exactly ({x}, {y}): it looks like a mark "
                f"for missing points; if it is one, make them unlabelled with --missing-mark {x},{y}"
            )
    return tuple(lines)
