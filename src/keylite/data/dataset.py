"""Labelled images as arrays: what readers return, and what training and evaluation take.

Coordinates are continuous image px (see runtime/geometry.py); readers have already shifted index-convention sources.
Knows nothing of file formats, augmentation, heads or frameworks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import overload

import numpy as np

from keylite.runtime.images import MAX_MEGAPIXELS, read_image
from keylite.runtime.skeleton import Skeleton, unnamed

SHOWN = 10  # bad items named in one error line; the rest are counted


@dataclasses.dataclass(frozen=True)
class Sample:
    """One labelled object.

    image: path, or uint8 (H, W, 3) RGB. box: (4,) xyxy px or None. xy: (K, 2) px, NaN where unlabelled.
    visible: (K,) uint8, 0 none / 1 occluded / 2 seen. group: subject or clip; a split never cuts through one.
    """

    image: Path | np.ndarray
    box: np.ndarray | None
    xy: np.ndarray
    visible: np.ndarray
    group: str
    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled objects in M images, as columns.

    xy: (N, K, 2) float64 px, NaN where unlabelled. visible: (N, K) uint8. box: (N, 4) float64 xyxy px, NaN where there
    is none. area: (N,) float64 px^2 for OKS, NaN where unknown. image_index, group_index: (N,) int32 into `images`
    and `groups`. image_names: M names as the source wrote them. notes: what the reader merged, skipped or replaced.
    max_megapixels: a larger image is refused.
    """

    skeleton: Skeleton
    images: tuple[Path | np.ndarray, ...]
    image_names: tuple[str, ...]
    image_index: np.ndarray
    xy: np.ndarray
    visible: np.ndarray
    box: np.ndarray
    area: np.ndarray
    groups: tuple[str, ...]
    group_index: np.ndarray
    name: str
    notes: tuple[str, ...] = ()
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        count, keypoints = len(self.xy), len(self.skeleton)
        if count == 0:
            raise ValueError(f"{self.name}: the data set is empty: expected at least one labelled object, got none")
        expected = {
            "xy": (self.xy, (count, keypoints, 2)),
            "visible": (self.visible, (count, keypoints)),
            "box": (self.box, (count, 4)),
            "area": (self.area, (count,)),
            "image_index": (self.image_index, (count,)),
            "group_index": (self.group_index, (count,)),
        }
        for column, (array, shape) in expected.items():
            if array.shape != shape:
                raise ValueError(f"{self.name}: {column}: expected shape {shape}, got {array.shape}")
        if len(self.images) != len(self.image_names):
            raise ValueError(f"{self.name}: {len(self.images)} images but {len(self.image_names)} image names")

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def samples(self) -> Samples:
        """The objects one by one, made when asked for."""
        return Samples(self)

    @property
    def labelled(self) -> np.ndarray:
        """(N, K) bool: which points carry a label."""
        return np.isfinite(self.xy).all(axis=2)

    def read_image(self, image: int) -> np.ndarray:
        """Image number `image` as uint8 (H, W, 3) RGB; errors as those of runtime/images.py."""
        return read_image(self.images[image], self.max_megapixels)

    def sample_name(self, index: int) -> str:
        """The image name of object `index`, with the object's number where its image holds several."""
        image = self.image_index[index]
        same = np.flatnonzero(self.image_index == image)
        name = self.image_names[image]
        return name if len(same) == 1 else f"{name}#{int(np.searchsorted(same, index))}"

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> Dataset:
        """The objects at `indices` (or where a mask is true), in that order; unused images and groups are dropped."""
        indices = np.asarray(indices)
        indices = np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64)
        used_images, image_index = np.unique(self.image_index[indices], return_inverse=True)
        used_groups, group_index = np.unique(self.group_index[indices], return_inverse=True)
        return dataclasses.replace(
            self,
            images=tuple(self.images[i] for i in used_images),
            image_names=tuple(self.image_names[i] for i in used_images),
            image_index=image_index.astype(np.int32),
            xy=self.xy[indices],
            visible=self.visible[indices],
            box=self.box[indices],
            area=self.area[indices],
            groups=tuple(self.groups[i] for i in used_groups),
            group_index=group_index.astype(np.int32),
            name=name or self.name,
        )

    def split(self, *fractions: float, seed: int = 0) -> tuple[Dataset, ...]:
        """Parts of about these fractions of the objects, cut between groups; the rest comes first.

        `train, val = data.split(0.2)`. Raises ValueError where there are fewer groups than parts.
        """
        if not fractions or not (min(fractions) > 0 and sum(fractions) < 1):  # so that NaN is refused too
            raise ValueError(f"split: expected fractions above 0 that sum to less than 1, got {list(fractions)}")
        if len(self.groups) <= len(fractions):
            raise ValueError(
                f"{self.name}: {len(self.groups)} group(s) cannot be split into {len(fractions) + 1} parts; "
                "choose a finer --group"
            )
        order = np.random.default_rng(seed).permutation(len(self.groups))
        sizes = np.bincount(self.group_index, minlength=len(self.groups))
        part_of_group = np.zeros(len(self.groups), np.int64)
        position = 0
        for part, fraction in enumerate(fractions, start=1):
            filled, left = 0, len(fractions) - part
            while filled == 0 or (filled < fraction * len(self) and position < len(order) - 1 - left):
                part_of_group[order[position]] = part
                filled += sizes[order[position]]
                position += 1
        parts = part_of_group[self.group_index]
        return tuple(
            self.subset(np.flatnonzero(parts == part), f"{self.name}[{part}]") for part in range(len(fractions) + 1)
        )

    def regrouped(self, names_per_object: Sequence[str]) -> Dataset:
        """The same objects with one group name each."""
        names = [str(name) for name in names_per_object]
        groups = tuple(sorted(set(names)))
        rank = {name: index for index, name in enumerate(groups)}
        return dataclasses.replace(self, groups=groups, group_index=np.array([rank[name] for name in names], np.int32))

    def with_skeleton(self, skeleton: Skeleton) -> Dataset:
        """The same labels under another skeleton of as many keypoints."""
        return dataclasses.replace(self, skeleton=skeleton)

    def fingerprint(self) -> str:
        """sha256 over labels, boxes, groups, keypoint names and image names (pixels too, for images in memory)."""
        digest = hashlib.sha256()
        for texts in (self.skeleton.names, self.image_names, self.groups):
            digest.update(f"{len(texts)} ".encode())
            for text in texts:
                digest.update(text.encode() + b"\0")
        for array in (self.image_index, self.xy, self.visible, self.box, self.group_index):
            digest.update(np.ascontiguousarray(array).tobytes())
        for image in self.images:
            if isinstance(image, np.ndarray):
                digest.update(np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()

    def check_images(self, max_megapixels: float = MAX_MEGAPIXELS, skip_bad: bool = False) -> Dataset:
        """The data set once every image has been read, with that limit for reading them again.

        Raises ValueError naming all bad images at once; with `skip_bad` they are left out and a note counts and names
        them.
        """

        dataset = dataclasses.replace(self, max_megapixels=max_megapixels)

        def problem(index: int) -> str | None:
            try:
                dataset.read_image(index)
            except (ValueError, OSError) as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            problems = dict(zip(range(len(self.images)), pool.map(problem, range(len(self.images))), strict=True))
        bad = {index: text for index, text in problems.items() if text}
        if not bad:
            return dataset
        line = listed(f"{self.name}: {len(bad)} of {len(self.images)} images cannot be used", list(bad.values()))
        if not skip_bad:
            raise ValueError(f"{line}; mend them, or pass --skip-bad to leave them out")
        kept = np.flatnonzero(~np.isin(self.image_index, list(bad)))
        if len(kept) == 0:
            raise ValueError(f"{line}; nothing is left")
        return dataclasses.replace(dataset.subset(kept), notes=(*self.notes, f"skipped: {line}"))


class Samples(Sequence[Sample]):
    """A data set's objects as Sample values: a lazy view."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        data = self.dataset
        box = data.box[index]
        return Sample(
            image=data.images[data.image_index[index]],
            box=box if np.isfinite(box).all() else None,
            xy=data.xy[index],
            visible=data.visible[index],
            group=data.groups[data.group_index[index]],
            name=data.image_names[data.image_index[index]],
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def from_arrays(
    images: Sequence[Path | str | np.ndarray],
    xy: np.ndarray,
    *,
    skeleton: Skeleton | None = None,
    boxes: np.ndarray | None = None,
    visible: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    name: str = "arrays",
) -> Dataset:
    """A data set of one object an image.

    xy: (N, K, 2) continuous image px, NaN where unlabelled. boxes: (N, 4) xyxy px, or None. visible: (N, K) of 0, 1,
    2; 0 is unlabelled whatever xy says. groups: one an image, else every image is its own. Without a skeleton the
    keypoints are named k0..kN.
    """
    xy = np.asarray(xy, np.float64)
    if xy.ndim != 3 or xy.shape[2] != 2 or len(xy) != len(images):
        raise ValueError(f"xy: expected shape ({len(images)}, K, 2), one entry an image, got {xy.shape}")
    count, keypoints = xy.shape[:2]
    missing = np.isnan(xy)
    if np.isinf(xy).any() or (missing.any(axis=2) & ~missing.all(axis=2)).any():
        raise ValueError("xy: expected both x and y finite, or both NaN where unlabelled")
    labelled = ~missing.any(axis=2)
    if visible is not None:
        visible = np.asarray(visible)
        if visible.shape != (count, keypoints) or not np.isin(visible, (0, 1, 2)).all():
            raise ValueError(f"visible: expected shape {(count, keypoints)} of 0, 1 or 2, got shape {visible.shape}")
        labelled &= visible > 0
    names = tuple(f"image_{i:06d}" if isinstance(image, np.ndarray) else str(image) for i, image in enumerate(images))
    per_object = list(groups) if groups is not None else list(names)
    if len(per_object) != count:
        raise ValueError(f"groups: expected {count}, one an image, got {len(per_object)}")
    dataset = Dataset(
        skeleton=skeleton or Skeleton(unnamed(keypoints)),
        images=tuple(image if isinstance(image, np.ndarray) else Path(image) for image in images),
        image_names=names,
        image_index=np.arange(count, dtype=np.int32),
        xy=np.where(labelled[..., None], xy, np.nan),
        visible=np.where(labelled, 2 if visible is None else visible, 0).astype(np.uint8),
        box=np.full((count, 4), np.nan) if boxes is None else np.asarray(boxes, np.float64),
        area=np.full(count, np.nan),
        groups=("",),
        group_index=np.zeros(count, np.int32),
        name=name,
    )
    return dataset.regrouped(per_object)


def group_by_name(image_names: Sequence[str], group: str) -> list[str]:
    """One group an image name, by `image`, `block:N` (runs of N in name order, img2 before img10) or `regex:PATTERN`.

    The pattern's first group counts, else its whole match. Raises ValueError for a name that does not match.
    """
    if group == "image":
        return list(image_names)
    kind, _, value = group.partition(":")
    if kind == "block" and value.isdigit() and int(value) > 0:
        rank = {name: position for position, name in enumerate(sorted(set(image_names), key=_natural))}
        return [f"block {rank[name] // int(value):05d}" for name in image_names]
    if kind == "regex" and value:
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise ValueError(f"group: {value!r} is not a regular expression: {error}") from None
        found = [pattern.search(name) for name in image_names]
        group_number = 1 if pattern.groups else 0
        missed = [name for name, m in zip(image_names, found, strict=True) if m is None or m[group_number] is None]
        if missed:
            raise ValueError(listed(f"group: {value!r} does not match {len(missed)} image names", missed))
        return [match[group_number] for match in found if match]
    raise ValueError(f"group: expected auto, image, block:N, field:NAME or regex:PATTERN, got {group!r}")


def _natural(name: str) -> list[str | int]:
    """A sort key that takes runs of digits as numbers; text and numbers alternate, so keys always compare."""
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", name))]


def listed(line: str, items: Sequence[str]) -> str:
    """The line, then the first items, then how many more there are."""
    more = f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{line}: {'; '.join(items[:SHOWN])}{more}"
