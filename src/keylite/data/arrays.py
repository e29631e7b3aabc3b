"""A data set from images and points that are in memory, as arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.marks import mark_doubts, marked, require_mark
from keylite.data.scale import require_scale
from keylite.runtime.boxes import real_numbers
from keylite.runtime.errors import DataError
from keylite.runtime.images import size_if_known
from keylite.runtime.kinds import kind_words, path_of, require_kind
from keylite.runtime.skeleton import Skeleton, unnamed
from keylite.runtime.types import Boxes, FilePath, Points, Visible
from keylite.runtime.words import quoted


def from_arrays(
    images: Sequence[FilePath | np.ndarray],
    xy: Points,
    *,
    skeleton: Skeleton | None = None,
    boxes: Boxes | None = None,
    visible: Visible | None = None,
    groups: Sequence[str] | None = None,
    name: str = "arrays",
    missing_mark: tuple[float, float] | None = None,
    mm_per_px: float | Sequence[float] | np.ndarray | None = None,
) -> Dataset:
    """Make a data set from images and their points, one object per image.

    Args:
        images: N paths, or arrays uint8 (H, W, 3) RGB.
        xy: (N, K, 2) continuous image px; a point is unlabelled if both its coordinates are NaN or masked.
        skeleton: The K keypoints. None: they are called k0, k1, ...
        boxes: (N, 4) xyxy, image px; a row of NaN is an object without a box. None: no object has a box.
        visible: (N, K): 0 unlabelled, whatever `xy` says, 1 hidden, 2 seen. None: 2 for every point that is labelled.
        groups: N names of groups. None: each image is a group of its own, and two paths of one file are one image.
        name: What reports and model files call the data set.
        missing_mark: Points that lie exactly at this (x, y) are unlabelled, whatever `visible` says. None: no mark.
        mm_per_px: How many mm a px is, in all images or in each of them (N,), so that reports are in mm, too. None:
            unknown.

    Returns:
        The data set, in continuous image px.

    Raises:
        DataError: An array has another shape or holds no numbers, or objects or images cannot be used: the line names
            all of them.
    """
    require_kind("name", name, str, "a text", "such as 'faces'")
    images = _entries("images", images)
    for image in images:
        if not isinstance(image, str | os.PathLike | np.ndarray):
            raise DataError(f"images: expected arrays or paths, one per object, got {kind_words(image)}")
        if not isinstance(image, np.ndarray):
            path_of("images", image)
    if skeleton is not None:
        require_kind("skeleton", skeleton, Skeleton, "a Skeleton", "use Skeleton(names)")
    count = len(images)
    xy = _numbers("xy", xy, (count, None, 2), "one entry per image")
    keypoints = xy.shape[1]
    seen = np.where(np.isnan(xy).all(axis=2), 0.0, 2.0)
    if visible is not None:
        seen = _numbers("visible", visible, (count, keypoints), "of 0, 1 or 2")
    if missing_mark is not None:
        require_mark(missing_mark)
        seen = np.where(marked(xy, seen > 0, missing_mark), 0.0, seen)
    names = tuple(f"image_{i:06d}" if isinstance(image, np.ndarray) else str(image) for i, image in enumerate(images))
    per_object = _entries("groups", groups) if groups is not None else _names_by_place(images, names)
    if len(per_object) != count:
        raise DataError(f"groups: expected {count}, one per image, got {len(per_object)}")
    dataset = Dataset(
        skeleton=skeleton or Skeleton(unnamed(keypoints)),
        images=tuple(image if isinstance(image, np.ndarray) else Path(image) for image in images),
        image_names=names,
        image_index=np.arange(count, dtype=np.int32),
        xy=np.where((seen == 0)[..., None], np.nan, xy),
        visible=seen.astype(np.uint8) if np.isin(seen, (0, 1, 2)).all() else seen,  # Dataset names what is wrong
        box=np.full((count, 4), np.nan) if boxes is None else _numbers("boxes", boxes, (count, 4), "xyxy px"),
        area=np.full(count, np.nan),
        groups=("",),
        group_index=np.zeros(count, np.int32),
        name=name,
        mm_per_px=None if mm_per_px is None else _scales(mm_per_px, count),
        doubts=mark_doubts(xy, seen > 0, lambda row: size_if_known(images[row])),
    )
    return dataset.regrouped(per_object, named=groups is not None)


def _scales(mm_per_px: Any, count: int) -> np.ndarray:
    """(N,) mm per px; NaN for an image whose length is unknown."""
    if isinstance(mm_per_px, int | float | np.number):
        return np.full(count, require_scale(float(mm_per_px)))
    scales = _numbers("mm_per_px", mm_per_px, (count,), "one number, or one per image")
    for value in scales[~np.isnan(scales)].tolist():
        require_scale(value)
    return scales


def _names_by_place(images: Sequence[FilePath | np.ndarray], names: Sequence[str]) -> list[str]:
    """The names of images; all paths of one file get the name that comes first."""
    first_name: dict[object, str] = {}
    places = [
        name if isinstance(image, np.ndarray) else os.path.realpath(image)
        for image, name in zip(images, names, strict=True)
    ]
    return [first_name.setdefault(place, name) for place, name in zip(places, names, strict=True)]


def _entries(name: str, values: object) -> list:
    """The values as a list; DataError for a single text and for anything that is not a sequence."""
    single = isinstance(values, str | bytes | os.PathLike) or getattr(values, "ndim", 1) == 0
    if single or not isinstance(values, Iterable):
        raise DataError(f"{name}: expected a list, one entry per image, got {quoted(values)}")
    return list(values)


def _numbers(name: str, values: Any, shape: tuple[int | None, ...], words: str) -> np.ndarray:
    """The values as float64 of this shape, in which None fits any length; DataError for anything else.

    words: what a message says after the expected shape.
    """
    try:
        got = np.shape(values)  # before the conversion, because an array of another shape may be too large for memory
        if len(got) == len(shape) and all(side in (None, got_side) for side, got_side in zip(shape, got, strict=True)):
            return real_numbers(values)
    except (TypeError, ValueError, OverflowError):  # text, or rows of different lengths
        raise DataError(f"{name}: expected an array of numbers, got {quoted(values)}") from None
    expected = ", ".join("K" if side is None else str(side) for side in shape)
    raise DataError(f"{name}: expected shape ({expected}), {words}, got shape {got}")
