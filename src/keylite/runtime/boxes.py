"""Checks of boxes before crops are cut around them: their shape, their size and their place in the image.

A box is xyxy, in continuous px of its image. A size is (width, height) in px.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import is_array, is_list
from keylite.runtime.words import quoted

MOST_PX = 2.0**24  # largest coordinate: above it, a float32 cannot tell one pixel from the next
MOST_TIMES = 20  # how many times longer a box may be than its image, which then covers 11 px of an input of 224 px
FRACTIONS = 0.5  # how far a box in fractions (0 to 1) may reach beyond its image


def as_boxes(boxes: object) -> np.ndarray:
    """Boxes as float64 (N, 4) xyxy px; an empty list gives (0, 4).

    Raises ValueError if they have another shape or kind, or if a box is not finite, has no area or reaches beyond
    MOST_PX.
    """
    try:
        array = real_numbers(boxes)
        if _holds_booleans(boxes):
            raise TypeError("true or false")
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor that needs a gradient
        raise ArgumentError(f"boxes: expected shape (N, 4) xyxy pixels, got {quoted(boxes)}") from None
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
    """The values as float64, with NaN in place of masked ones.

    Raises TypeError, ValueError or OverflowError if they are not an array of real numbers.
    """
    if np.iscomplexobj(values):
        raise TypeError("complex numbers")
    if np.ma.isMaskedArray(values) or (is_list(values) and any(map(np.ma.isMaskedArray, values))):
        return np.ma.filled(np.ma.array(values, np.float64), np.nan)
    array: np.ndarray = np.asarray(values)
    if array.dtype.kind in "SUmM" or (array.dtype == object and {str, bytes} & set(map(type, array.flat))):
        raise TypeError("texts or times")
    return array.astype(np.float64, copy=False)


def numbers_of(name: str, values: object, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The values as float64 of this shape; None: any shape.

    Raises ValueError, with the argument's name, for anything else.
    """
    try:
        array = real_numbers(values)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor that needs a gradient
        of_shape = "" if shape is None else f" of shape {shape}"
        raise ArgumentError(f"{name}: expected an array of numbers{of_shape}, got {quoted(values)}") from None
    if shape is not None and array.shape != shape:
        raise ArgumentError(f"{name}: expected shape {shape}, got {array.shape}")
    return array


def _holds_booleans(values: Any) -> bool:
    """Whether one of the values is true or false: numpy would take it for 1 or 0."""
    if is_array(values) and values.dtype != object:
        return values.dtype == bool
    return any(isinstance(value, bool | np.bool_) for value in np.asarray(values, object).flat)


def require_boxes(boxes: np.ndarray, size: tuple[int, int]) -> None:
    """Raise ValueError if nothing can be seen in one of the boxes (N, 4) of an image of `size`: see `box_problems`."""
    for problem in box_problems(boxes, np.tile(np.asarray(size, np.float64), (len(boxes), 1))).values():
        raise ArgumentError(problem)


def box_problems(boxes: np.ndarray, sizes: np.ndarray) -> dict[int, str]:
    """Rows of the boxes (N, 4) in which nothing can be seen -> the reason. sizes: (N, 2) of their images.

    Such a box lies wholly outside its image, is over MOST_TIMES as long as it, is less than a pixel both wide and high,
    or looks like fractions of the image. A box with NaN has no problem.
    """
    checks: Sequence[tuple[np.ndarray, Callable[[np.ndarray, np.ndarray], str]]] = (
        (boxes_outside(boxes, sizes), outside_words),
        (_times_as_long(boxes, sizes) > MOST_TIMES, _large_words),
        (boxes_below_a_pixel(boxes), lambda box, _size: small_words(box)),
    )
    problems: dict[int, str] = {}
    for mask, describe in checks:
        for row in np.flatnonzero(mask).tolist():
            problems.setdefault(row, describe(boxes[row], sizes[row]))
    return dict(sorted(problems.items()))


def boxes_outside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: which boxes (N, 4) lie wholly outside their images of sizes (N, 2). A box with NaN does not."""
    return np.any(boxes[:, 2:] <= 0, axis=1) | np.any(boxes[:, :2] >= sizes, axis=1)


def boxes_below_a_pixel(boxes: np.ndarray) -> np.ndarray:
    """(N,) bool: which boxes (N, 4) are under a pixel wide and high, or look like fractions. A box with NaN is not."""
    return np.all(boxes[:, 2:] - boxes[:, :2] < 1, axis=1) | _fractions(boxes)


def _fractions(boxes: np.ndarray) -> np.ndarray:
    """(N,) bool: which boxes (N, 4) look like fractions of the image: no object in px lies so near the corner."""
    return np.all((boxes >= -FRACTIONS) & (boxes <= 1 + FRACTIONS), axis=1)


def outside_words(box: np.ndarray, size: np.ndarray) -> str:
    """The words for a box (4,) that lies outside its image of `size`."""
    width, height = ("?" if np.isnan(side) else f"{side:g}" for side in size)
    return f"box {_edges(box)} (xyxy) lies outside its {width}x{height} image"


def small_words(box: np.ndarray) -> str:
    """The words for a box (4,) that is less than a pixel, or looks like fractions."""
    if _fractions(box[None])[0]:
        return (
            f"box {_edges(box)} (xyxy) looks like fractions of the image: multiply its edges by the image's width "
            "and height"
        )
    return f"box {_edges(box)} (xyxy) is less than 1 px wide and high"


def far_words(box: np.ndarray) -> str:
    """The words for a box (4,) that reaches beyond MOST_PX."""
    return f"box {[float(f'{edge:.4g}') for edge in box]} (xyxy) reaches beyond {MOST_PX:.0f} px; no image is so large"


def _large_words(box: np.ndarray, size: np.ndarray) -> str:
    times = float(_times_as_long(box[None], size[None])[0])
    return (
        f"box {_edges(box)} (xyxy) is {times:.4g} times as long as its {size[0]:g}x{size[1]:g} image, expected at most "
        f"{MOST_TIMES}; are these px of this image?"
    )


def _times_as_long(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) the longer side of each box, divided by that of its image; NaN if either is unknown."""
    longer = np.max(sizes, axis=1)
    return np.max(boxes[:, 2:] - boxes[:, :2], axis=1) / np.where(longer > 0, longer, np.nan)


def _edges(box: np.ndarray) -> list[float]:
    return [round(float(edge), 2) for edge in box]
