"""Boxes that a crop can be cut around: their shape, and the limits past which there is nothing to look at.

Continuous xyxy px of an image; sizes are (width, height). Knows nothing of labels, files or networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import is_array, is_list

MOST_PX = 2.0**24  # of an edge or a coordinate: beyond it a float32 does not tell one pixel from the next
MOST_TIMES = 20  # a box's longer side by its image's: an input of 224 px then shows the whole image in 11 px
FRACTIONS = 0.5  # by which a box in fractions of its image may reach beyond it


def as_boxes(boxes: object) -> np.ndarray:
    """Boxes as float64 (N, 4) xyxy px; an empty list gives (0, 4).

    Raises ValueError for any other shape or kind, and for boxes that are not finite, have no area or reach beyond
    MOST_PX.
    """
    try:
        array = real_numbers(boxes)
        if _truths(boxes):
            raise TypeError("true or false")
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of a tensor that wants its gradient
        raise ArgumentError(f"boxes: expected shape (N, 4) xyxy pixels, got {boxes!r:.60}") from None
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        hint = "; a single box is [[x0, y0, x1, y1]]" if array.shape == (4,) else ""
        raise ArgumentError(f"boxes: expected shape (N, 4) xyxy pixels, got {array.shape}{hint}")
    if not np.isfinite(array).all():
        raise ArgumentError("boxes: expected finite pixels, got NaN or Inf")
    flat = (array[:, 2] <= array[:, 0]) | (array[:, 3] <= array[:, 1])
    if flat.any():
        hint = "; are these x, y, width, height?" if np.all(array[flat][:, 2:] > 0) else ""
        raise ArgumentError(f"boxes: expected x0 < x1 and y0 < y1, got {array[flat][0].tolist()}{hint}")
    far = np.any(np.abs(array) > MOST_PX, axis=1)
    if far.any():
        raise ArgumentError(f"boxes: {far_words(array[far][0])}")
    return array


def real_numbers(values: Any) -> np.ndarray:
    """The values as float64, masked ones as NaN.

    Raises TypeError, ValueError or OverflowError for what is no array of real numbers.
    """
    if np.iscomplexobj(values):
        raise TypeError("complex numbers")
    if np.ma.isMaskedArray(values) or (is_list(values) and any(map(np.ma.isMaskedArray, values))):
        return np.ma.filled(np.ma.array(values, np.float64), np.nan)
    array: np.ndarray = np.asarray(values)
    if array.dtype.kind in "SUmM" or (array.dtype == object and {str, bytes} & set(map(type, array.flat))):
        raise TypeError("texts or times")
    return array.astype(np.float64, copy=False)


def _truths(values: Any) -> bool:
    """Whether one of the values is true or false, which numpy takes for 1 or 0."""
    if is_array(values) and values.dtype != object:
        return values.dtype == bool
    return any(isinstance(value, bool | np.bool_) for value in np.asarray(values, object).flat)


def require_boxes(boxes: np.ndarray, size: tuple[int, int]) -> None:
    """Raises ValueError for a box (N, 4) that no crop of an image of `size` can be made of: see `box_problems`."""
    for words in box_problems(boxes, np.tile(np.asarray(size, np.float64), (len(boxes), 1))).values():
        raise ArgumentError(words)


def box_problems(boxes: np.ndarray, sizes: np.ndarray) -> dict[int, str]:
    """Row -> why nothing can be seen in its box (N, 4) of an image of its size (N, 2); NaN is no problem.

    A box is refused that lies wholly outside its image, is over MOST_TIMES as large, or is less than a pixel both wide
    and high, or lies within fractions of the image.
    """
    checks: Sequence[tuple[np.ndarray, Callable[[np.ndarray, np.ndarray], str]]] = (
        (boxes_outside(boxes, sizes), outside_words),
        (_over(boxes, sizes) > MOST_TIMES, _large_words),
        (boxes_below_a_pixel(boxes), lambda box, _size: small_words(box)),
    )
    problems: dict[int, str] = {}
    for mask, words in checks:
        for row in np.flatnonzero(mask).tolist():
            problems.setdefault(row, words(boxes[row], sizes[row]))
    return dict(sorted(problems.items()))


def boxes_outside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: which boxes (N, 4) have nothing of their image's (width, height) (N, 2); NaN is inside."""
    return np.any(boxes[:, 2:] <= 0, axis=1) | np.any(boxes[:, :2] >= sizes, axis=1)


def boxes_below_a_pixel(boxes: np.ndarray) -> np.ndarray:
    """(N,) bool: which boxes (N, 4) are less than a pixel both wide and high, or fractions of an image; NaN is not."""
    return np.all(boxes[:, 2:] - boxes[:, :2] < 1, axis=1) | _fractions(boxes)


def _fractions(boxes: np.ndarray) -> np.ndarray:
    """(N,) bool: which boxes (N, 4) may be of fractions: what lies so near the corner is no object in px."""
    return np.all((boxes >= -FRACTIONS) & (boxes <= 1 + FRACTIONS), axis=1)


def outside_words(box: np.ndarray, size: np.ndarray) -> str:
    """How a message says that a box (4,) lies outside its image of (width, height)."""
    width, height = ("?" if np.isnan(side) else f"{side:g}" for side in size)
    return f"box {_edges(box)} (xyxy) lies outside its {width}x{height} image"


def small_words(box: np.ndarray) -> str:
    """How a message says that a box (4,) is less than a pixel, and why that may be."""
    if _fractions(box[None])[0]:
        return (
            f"box {_edges(box)} (xyxy) looks like fractions of the image: multiply its edges by the image's width "
            "and height"
        )
    return f"box {_edges(box)} (xyxy) is less than 1 px wide and high"


def far_words(box: np.ndarray) -> str:
    """How a message says that a box (4,) reaches beyond MOST_PX."""
    return f"box {[float(f'{edge:.4g}') for edge in box]} (xyxy) reaches beyond {MOST_PX:.0f} px; no image is as large"


def _large_words(box: np.ndarray, size: np.ndarray) -> str:
    times = float(_over(box[None], size[None])[0])
    return (
        f"box {_edges(box)} (xyxy) is {times:.4g} times as long as its {size[0]:g}x{size[1]:g} image, expected at most "
        f"{MOST_TIMES}; are these px of this image?"
    )


def _over(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) how many times as long as their image's longer side boxes are; NaN where either is unknown."""
    longer = np.max(sizes, axis=1)
    return np.max(boxes[:, 2:] - boxes[:, :2], axis=1) / np.where(longer > 0, longer, np.nan)


def _edges(box: np.ndarray) -> list[float]:
    return [round(float(edge), 2) for edge in box]
