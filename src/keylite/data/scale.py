"""How long a px of an image is, in mm, as a label file or a caller says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from keylite.runtime.errors import DataError
from keylite.runtime.kinds import number_of
from keylite.runtime.words import listed, quoted

FIELD = "mm_per_px"  # of images, objects or rows of a label file


def require_scale(mm_per_px: float) -> float:
    """A length per px; DataError if it is no finite number above 0."""
    value = number_of(mm_per_px)
    if not (math.isfinite(value) and value > 0):
        raise DataError(f"{FIELD}: expected a number above 0, got {quoted(mm_per_px)}")
    return float(value)


def read_scales(texts: Sequence[str | None], where: Callable[[int], str]) -> np.ndarray | None:
    """(N,) mm per px of the objects of a file; NaN for objects without, None if no object has one.

    texts: the value of each object. where: gives the name of an object for messages. DataError names bad values.
    """
    if not any(text is not None for text in texts):
        return None
    scales = np.full(len(texts), np.nan)
    bad = []
    for row, text in enumerate(texts):
        if text is None:
            continue
        try:
            scales[row] = require_scale(float(text) if text.isascii() and "_" not in text else math.nan)
        except ValueError:
            bad.append(f"{where(row)}: {quoted(text)}")
    if bad:
        raise DataError(listed(f"{FIELD}: expected numbers above 0, got others in {len(bad)} of {len(texts)}", bad))
    return scales


def scales_of_images(scales: np.ndarray | None, image_index: np.ndarray, images: int) -> list[float | None]:
    """The mm per px of each image, by its objects; None if none says it. scales: (N,) or None."""
    known: list[float | None] = [None] * images
    for image, scale in zip(image_index.tolist(), [] if scales is None else scales.tolist(), strict=False):
        if scale == scale and known[image] is None:
            known[image] = scale
    return known
