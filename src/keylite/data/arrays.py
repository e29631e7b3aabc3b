"""A data set from arrays that are in memory already."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.marks import mark_doubts, marked, require_mark
from keylite.runtime.boxes import real_numbers
from keylite.runtime.errors import DataError
from keylite.runtime.images import size_if_known
from keylite.runtime.kinds import require_kind
from keylite.runtime.skeleton import Skeleton, unnamed
from keylite.runtime.types import Boxes, FilePath, Points, Visible


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
) -> Dataset:
    """A data set of one object an image.

    xy: (N, K, 2) continuous image px, NaN or masked where unlabelled. boxes: (N, 4) xyxy px, or None. visible: (N, K)
    of 0, 1, 2; 0 is unlabelled whatever xy says. missing_mark: points of `xy` that lie exactly at this (x, y) are
    unlabelled. groups: one an image, else every image is its own, by whatever path. Without a skeleton the keypoints
    are named k0..kN. Raises ValueError that names every bad object, as for a file: see data/problems.py.
    """
    images = _entries("images", images)
    if not all(isinstance(image, str | os.PathLike | np.ndarray) for image in images):
        raise DataError("images: expected arrays or paths, one an object")
    if skeleton is not None:
        require_kind("skeleton", skeleton, Skeleton, "a Skeleton", "use Skeleton(names)")
    count = len(images)
    xy = _numbers("xy", xy, (count, None, 2), "one entry an image")
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
        raise DataError(f"groups: expected {count}, one an image, got {len(per_object)}")
    dataset = Dataset(
        skeleton=skeleton or Skeleton(unnamed(keypoints)),
        images=tuple(image if isinstance(image, np.ndarray) else Path(image) for image in images),
        image_names=names,
        image_index=np.arange(count, dtype=np.int32),
        xy=np.where((seen == 0)[..., None], np.nan, xy),
        visible=seen.astype(np.uint8) if np.isin(seen, (0, 1, 2)).all() else seen,  # what is odd, Dataset names
        box=np.full((count, 4), np.nan) if boxes is None else _numbers("boxes", boxes, (count, 4), "xyxy px"),
        area=np.full(count, np.nan),
        groups=("",),
        group_index=np.zeros(count, np.int32),
        name=name,
        doubts=mark_doubts(xy, seen > 0, lambda row: size_if_known(images[row])),
    )
    return dataset.regrouped(per_object, named=groups is not None)


def _names_by_place(images: Sequence[FilePath | np.ndarray], names: Sequence[str]) -> list[str]:
    """The names of images, the first one's for all spellings of one path."""
    first: dict[object, str] = {}
    places = [
        name if isinstance(image, np.ndarray) else os.path.realpath(image)
        for image, name in zip(images, names, strict=True)
    ]
    return [first.setdefault(place, name) for place, name in zip(places, names, strict=True)]


def _entries(name: str, values: object) -> list:
    """The values one by one; ValueError for what is no sequence, and for a single text."""
    single = isinstance(values, str | bytes | os.PathLike) or getattr(values, "ndim", 1) == 0
    if single or not isinstance(values, Iterable):
        raise DataError(f"{name}: expected a list, one entry an image, got {values!r:.60}")
    return list(values)


def _numbers(name: str, values: Any, shape: tuple[int | None, ...], words: str) -> np.ndarray:
    """The values as float64 of this shape, None being any number; ValueError for anything else."""
    try:
        got = np.shape(values)  # first: another shape may be too large to hold
        if len(got) == len(shape) and all(one in (None, two) for one, two in zip(shape, got, strict=True)):
            return real_numbers(values)
    except (TypeError, ValueError, OverflowError):  # text, or rows of different lengths
        raise DataError(f"{name}: expected an array of numbers, got {values!r:.60}") from None
    expected = ", ".join("K" if side is None else str(side) for side in shape)
    raise DataError(f"{name}: expected shape ({expected}), {words}, got shape {got}")
