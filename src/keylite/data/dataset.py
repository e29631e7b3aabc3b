"""Labelled images as arrays: what readers return, and what training and evaluation take.

Coordinates are continuous image px (see runtime/geometry.py): the readers have shifted those that were pixel indices.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np

from keylite.data.groups import folds_of_groups, in_number_order, parts_of_groups
from keylite.data.looking import checked
from keylite.data.problems import column_problems, object_problems
from keylite.data.same_picture import files_of
from keylite.data.sheets import Shown, sheet
from keylite.runtime.boxes import numbers_of
from keylite.runtime.errors import ArgumentError, DataError
from keylite.runtime.images import (
    MAX_MEGAPIXELS,
    WHITE_LEVEL,
    WHITE_LEVELS,
    Picture,
    array_problem,
    image_size,
    open_image,
    require_limit,
)
from keylite.runtime.kinds import number_of, require_flags, require_kind, require_whole
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import DataId
from keylite.runtime.tables import Table, as_html, as_text
from keylite.runtime.types import Indices, Points, WhiteLevel
from keylite.runtime.words import LOOKED_AT, SHOWN, counted, escaped, first_of, listed, quoted

FINGERPRINTED = ("image_index", "xy", "visible", "box", "group_index")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One labelled object, such as `data[0]`.

    Attributes:
        image: The path of the image, or uint8 (H, W, 3) RGB.
        box: (4,) float64 xyxy, image px; None if the object has no box.
        xy: (K, 2) float64, continuous image px; NaN for an unlabelled point.
        visible: (K,) uint8: 0 unlabelled, 1 hidden, 2 seen.
        group: The name of the object's group, such as a subject or a clip; a split never divides a group.
        name: The name of the image, as the label file has it.
    """

    image: Path | np.ndarray
    box: np.ndarray | None
    xy: np.ndarray
    visible: np.ndarray
    group: str
    name: str

    def __repr__(self) -> str:
        labelled = int(np.isfinite(self.xy).all(axis=1).sum())
        of_all = f"{labelled} of {counted(len(self.xy), 'point')} labelled"
        return f'Sample("{escaped(self.name)}": {of_all}, group "{escaped(self.group)}")'


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled objects with K keypoints in M images, as columns; made by `read_dataset` or `from_arrays`.

    `data[0]` is the first object as a Sample, and `for sample in data` gives all objects. A slice, a mask or a list of
    indices gives a Dataset of those objects, as `subset` does.

    Attributes:
        skeleton: The K keypoints.
        images: M paths, or arrays uint8 (H, W, 3) RGB.
        image_names: M names, as the label file has them.
        image_index: (N,) int32, the number of each object's image in `images`.
        xy: (N, K, 2) float64, continuous image px; NaN for an unlabelled point.
        visible: (N, K) uint8: 0 unlabelled, 1 hidden, 2 seen.
        box: (N, 4) float64 xyxy, image px; NaN for an object without a box.
        area: (N,) float64, px^2 of each object, for OKS; NaN if unknown.
        groups: The names of the groups, each once.
        group_index: (N,) int32, the number of each object's group in `groups`.
        name: What reports and model files call the data set.
        notes: Lines about what the reader merged, left out or replaced.
        max_megapixels: A larger image is refused.
        image_sizes: (M, 2) int64 (width, height), px, that the labels were made for, 0 if unknown; after `check_images`
            those of the images. None: no size is known.
        groups_named: Whether equal group names in two data sets mean the same subject. Names of images and of blocks
            of images do not.
        source: The label file, for messages; empty without one.
        checked: Whether `check_images` has read every image whole.
        likeness: (M,) what each image shows, for finding copies (likeness.py); None before `check_images`.
        white_level: The value of 16-bit images that becomes 255 when they are read.
        doubts: Lines about what the reader took as it was although it looks wrong.
        ids: N names or numbers of the objects in the label file; empty if it has none. They may repeat.
        image_ids: M ids of the images in the label file, as COCO has them; empty if it has none.
        category: What the label file calls this kind of object; empty if it does not say.
        category_id: The id of that category, as COCO has it.
        mm_per_px: (N,) float64, how many mm a px of each object's image is; NaN if unknown. None: unknown for all.

    Raises:
        DataError: A column has another shape or kind, or objects or images cannot be used: the line names all of them.
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
    image_sizes: np.ndarray | None = None
    groups_named: bool = True
    source: str = ""
    checked: bool = False
    likeness: np.ndarray | None = None
    white_level: WhiteLevel = WHITE_LEVEL
    doubts: tuple[str, ...] = ()
    ids: tuple[int | str, ...] = ()
    image_ids: tuple[int | str, ...] = ()
    category: str = ""
    category_id: int | str = 1
    mm_per_px: np.ndarray | None = None

    def __post_init__(self) -> None:
        count, keypoints = len(self.xy), len(self.skeleton)
        if count == 0:
            raise DataError(f"{self.called}: the data set is empty: expected at least one labelled object, got none")
        expected = {
            "xy": (self.xy, (count, keypoints, 2)),
            "visible": (self.visible, (count, keypoints)),
            "box": (self.box, (count, 4)),
            "area": (self.area, (count,)),
            "image_index": (self.image_index, (count,)),
            "group_index": (self.group_index, (count,)),
        }
        if self.mm_per_px is not None:
            expected["mm_per_px"] = (self.mm_per_px, (count,))
        for column, (array, shape) in expected.items():
            if np.ma.isMaskedArray(array):
                raise DataError(f"{self.called}: {column}: expected a plain array, got a masked one; fill it with NaN")
            if array.shape != shape:
                raise DataError(f"{self.called}: {column}: expected shape {shape}, got {array.shape}")
        for column in ("image_index", "group_index"):
            if (kind := getattr(self, column).dtype).kind not in "iu":
                raise DataError(f"{self.called}: {column}: expected whole numbers, got {kind}")
        if self.image_sizes is not None and self.image_sizes.shape != (len(self.images), 2):
            raise DataError(
                f"{self.called}: image_sizes: expected shape {(len(self.images), 2)}, got {self.image_sizes.shape}"
            )
        if self.ids and len(self.ids) != count:
            raise DataError(f"{self.called}: ids: expected {count}, one per object, or none, got {len(self.ids)}")
        if self.image_ids and len(self.image_ids) != len(self.images):
            count = len(self.image_ids)
            raise DataError(
                f"{self.called}: image_ids: expected {len(self.images)}, one per image, or none, got {count}"
            )
        if len(self.images) != len(self.image_names):
            raise DataError(f"{self.called}: {len(self.images)} images but {len(self.image_names)} image names")
        require_limit(self.max_megapixels)
        self._require_good()

    def _require_good(self) -> None:
        """Raise DataError, naming every image and every object that cannot be used."""
        texts: list[str] = []
        counts: list[str] = []
        pixels = [(at, image) for at, image in enumerate(self.images) if isinstance(image, np.ndarray)]
        if bad_images := {at: words for at, image in pixels if (words := array_problem(image))}:
            counts.append(f"{len(bad_images)} of {len(self.images)} images")
            texts += [f"{self.image_names[at]}: {words}" for at, words in bad_images.items()]
        names = self.skeleton.names
        places = {
            "image_index": (self.image_index, len(self.images)),
            "group_index": (self.group_index, len(self.groups)),
        }
        problems = column_problems(names, self.xy, self.visible, self.area, places)
        for row, words in object_problems(names, self.xy, self.visible, self.box).items():
            problems.setdefault(row, words)
        if problems:
            counts.append(f"{len(problems)} of {len(self)} objects")
            rows = sorted(problems)[:LOOKED_AT]
            texts += [f"{self._place(row)}: {problems[row]}" for row in rows]
        if counts:
            total = len(bad_images) + len(problems)
            line = listed(f"{self.called}: {' and '.join(counts)} are bad", texts, total)
            raise DataError(f"{line}; mend them, or leave them out")

    @property
    def called(self) -> str:
        """What messages call the data set: its label file with the path as it was given, and which part of it."""
        if not self.source:
            return self.name
        _, file_name, part = self.name.rpartition(escaped(Path(self.source).name))
        return f"{self.source}{part}" if file_name else self.name

    def _place(self, row: int) -> str:
        """What a message calls an object whose columns may be wrong."""
        known = 0 <= self.image_index[row] < len(self.image_names)
        return self.sample_name(row) if known else f"object {row}"

    def __len__(self) -> int:
        return len(self.xy)

    @overload
    def __getitem__(self, which: int) -> Sample: ...
    @overload
    def __getitem__(self, which: slice | Indices) -> Dataset: ...
    def __getitem__(self, which: int | slice | Indices) -> Sample | Dataset:
        """One object if `which` is a number; for a slice, a mask or a list of numbers the same as `subset`."""
        if isinstance(which, slice):
            return self.subset(np.arange(len(self))[which])
        if isinstance(which, bool) or not isinstance(which, (int, np.integer)):
            return self.subset(self._indices(which))
        index = int(self._indices([int(which)])[0])
        box = self.box[index]
        return Sample(
            image=self.images[self.image_index[index]],
            box=box if np.isfinite(box).all() else None,
            xy=self.xy[index],
            visible=self.visible[index],
            group=self.groups[self.group_index[index]],
            name=self.image_names[self.image_index[index]],
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f'Dataset("{escaped(self.name)}": {self._counts()})'

    def __str__(self) -> str:
        """The counts, notes and doubts, a line each."""
        return as_text([f"{self.called}: {line}" for line in (self._counts(), *self.notes, *self.doubts)])

    def _repr_html_(self) -> str:
        boxes = self.boxed.sum()
        rows = [
            ("objects", f"{len(self)}"),
            ("images", f"{len(self.images)}"),
            ("groups", f"{len(self.groups)}"),
            ("boxes", f"{boxes} of {len(self)}"),
            ("labelled points", f"{self.labelled.sum()} of {self.labelled.size}"),
            ("keypoints", f"{len(self.skeleton)}: {first_of(self.skeleton.names, SHOWN, ', ')}"),
            *(("note", line) for line in self.notes),
            *(("doubt", line) for line in self.doubts),
        ]
        return as_html([Table((), rows, title=self.called)])

    def _counts(self) -> str:
        objects, images = counted(len(self), "object"), counted(len(self.images), "image")
        keypoints, groups = counted(len(self.skeleton), "keypoint"), counted(len(self.groups), "group")
        return f"{objects} in {images}, {keypoints}, {groups}"

    def plot(self, count: int = 16, seed: int = 0) -> np.ndarray:
        """Draw a random choice of labelled objects in rows of four, with their points, edges and names.

        Args:
            count: How many objects; all of them, if there are fewer.
            seed: The seed of the random choice.

        Returns:
            uint8 (H, W, 3) RGB. Each object is cut out around its box, or shown in its whole image if it has none.

        Raises:
            FileNotFoundError: An image file is missing.
            ImageError: An image cannot be read.
        """
        require_whole("count", count)
        require_whole("seed", seed, least=0)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count]).tolist()
        shown = [
            Shown(self.open_image(int(self.image_index[i])), self.box[i], self.xy[i], self.sample_name(i), self.checked)
            for i in chosen
        ]
        return sheet(shown, self.skeleton)

    @property
    def labelled(self) -> np.ndarray:
        """(N, K) bool: which points are labelled."""
        return np.all(np.isfinite(self.xy), axis=2)

    @property
    def boxed(self) -> np.ndarray:
        """(N,) bool: which objects have a box."""
        return np.all(np.isfinite(self.box), axis=1)

    def files_named(self, names: Collection[str]) -> dict[str, Path]:
        """List the files of the data set that a new file of one of these names might overwrite.

        Args:
            names: File names without folders.

        Returns:
            Label -> path: the label file, if there is one, as `data`, and each image file with such a name.
        """
        files = {str(image): image for image in self.images if isinstance(image, Path) and image.name in names}
        return files | ({"data": Path(self.source)} if self.source else {})

    def read_image(self, image: int) -> np.ndarray:
        """Read one image.

        Args:
            image: Its number in `images`.

        Returns:
            uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

        Raises:
            FileNotFoundError: The image file is missing.
            ImageError: The file cannot be read as a picture, or is larger than `max_megapixels`.
        """
        return self.open_image(image).pixels()

    def open_image(self, image: int) -> Picture:
        """Read the header of one image; its pixels are decoded later.

        Args:
            image: Its number in `images`.

        Returns:
            The picture, whose `pixels()` decodes it.

        Raises:
            FileNotFoundError: The image file is missing.
            ImageError: The file is no picture that keylite reads, or is larger than `max_megapixels`.
        """
        return open_image(self.images[image], self.max_megapixels, self.white_level)

    def whole_boxes(self) -> np.ndarray:
        """Give each object a box that is its whole image.

        Returns:
            (N, 4) float64 xyxy, image px. If a size is not known, it is read from the header of the image.

        Raises:
            FileNotFoundError: The image file is missing.
            ImageError: The header cannot be read.
        """
        sizes = np.zeros((len(self.images), 2)) if self.image_sizes is None else self.image_sizes.astype(np.float64)
        for image in np.flatnonzero((sizes <= 0).any(axis=1)).tolist():
            sizes[image] = image_size(self.images[image])
        return np.concatenate([np.zeros_like(sizes), sizes], axis=1)[self.image_index]

    def sample_name(self, index: int) -> str:
        """Name one object for messages.

        Args:
            index: The number of the object.

        Returns:
            The name of its image, with `#` and the object's number in the image if the image holds several objects.
        """
        image = self.image_index[index]
        same = np.flatnonzero(self.image_index == image)
        name = self.image_names[image]
        return name if len(same) == 1 else f"{name}#{int(np.searchsorted(same, index))}"

    def subset(self, indices: Indices, name: str | None = None) -> Self:
        """Choose some of the objects; images and groups that none of them uses are dropped.

        Args:
            indices: Numbers of objects, in the wanted order, or a mask (N,) that is true for the wanted ones.
            name: The name of the new data set; None keeps the old one.

        Returns:
            The chosen objects.

        Raises:
            ArgumentError: `indices` are neither whole numbers nor a mask of all objects.
            IndexError: There is no object of such a number.
        """
        indices = self._indices(indices)
        used_images, image_index = np.unique(self.image_index[indices], return_inverse=True)
        used_groups, group_index = np.unique(self.group_index[indices], return_inverse=True)
        return dataclasses.replace(
            self,
            images=tuple(self.images[i] for i in used_images.tolist()),
            image_names=tuple(self.image_names[i] for i in used_images.tolist()),
            image_index=image_index.astype(np.int32),
            xy=self.xy[indices],
            visible=self.visible[indices],
            box=self.box[indices],
            area=self.area[indices],
            groups=tuple(self.groups[i] for i in used_groups.tolist()),
            group_index=group_index.astype(np.int32),
            name=name or self.name,
            image_sizes=None if self.image_sizes is None else self.image_sizes[used_images],
            likeness=None if self.likeness is None else self.likeness[used_images],
            ids=tuple(self.ids[row] for row in indices.tolist()) if self.ids else (),
            mm_per_px=None if self.mm_per_px is None else self.mm_per_px[indices],
            image_ids=tuple(self.image_ids[i] for i in used_images.tolist()) if self.image_ids else (),
        )

    def _indices(self, which: object) -> np.ndarray:
        """Numbers of objects, or a mask of them, as numbers from 0 on."""
        indices = np.asarray(which)
        if indices.ndim != 1 or (indices.dtype.kind not in "biu" and indices.size):
            raise ArgumentError(f"{self.called}: subset: expected a list of whole numbers or a mask, got {which!r:.60}")
        if indices.dtype == bool:
            if len(indices) != len(self):
                raise ArgumentError(
                    f"{self.called}: subset: expected a mask of {len(self)} objects, got {len(indices)}"
                )
            return np.flatnonzero(indices)
        beyond = (indices < -len(self)) | (indices >= len(self))
        if beyond.any():
            raise IndexError(f"{self.called}: subset: object {indices[beyond][0]} of {len(self)}")
        return indices.astype(np.int64)

    def split(self, *fractions: float, seed: int = 0) -> tuple[Dataset, ...]:
        """Split the data set at random into parts; no group is divided.

        Args:
            fractions: The share of the objects that each part gets, about; together less than 1.
            seed: The seed of the random choice of groups.

        Returns:
            First the objects that are left over, then a part per fraction.

        Raises:
            ArgumentError: There are fewer groups than parts, or the fractions are not above 0 and below 1 in total.

        Example:
            >>> train, val = data.split(0.2)
        """
        require_whole("seed", seed, least=0)
        shares = [number_of(fraction) for fraction in fractions]  # NaN for what is no number
        if not shares or not (min(shares) > 0 and sum(shares) < 1):
            raise ArgumentError(f"split: expected fractions above 0 that sum to less than 1, got {list(fractions)}")
        if len(self.groups) <= len(fractions):
            raise ArgumentError(
                f"{self.called}: {len(self.groups)} group(s) cannot be split into {len(fractions) + 1} parts; "
                "choose a finer `group`"
            )
        parts = parts_of_groups(self.group_index, len(self.groups), shares, seed)[self.group_index]
        rest = self.subset(np.flatnonzero(parts == 0))
        quiet = dataclasses.replace(self, notes=(), doubts=())  # they are about the whole data set, so printed once
        names = [f"{self.name}, part {part + 1}" for part in range(1, len(fractions) + 1)]
        return rest, *(
            quiet.subset(np.flatnonzero(parts == part), names[part - 1]) for part in range(1, len(names) + 1)
        )

    def fold_of(self, folds: int, seed: int = 0) -> np.ndarray:
        """Divide the objects into folds, parts of about equal size; no group is divided.

        The largest group is assigned first, each group to the fold that has the fewest objects so far.

        Args:
            folds: The number of folds.
            seed: The seed of the order among groups of equal size.

        Returns:
            (N,) the fold of each object, from 1 on. Folds are numbered in the order of the first group in each.

        Raises:
            ArgumentError: There are fewer groups than folds.
        """
        require_whole("folds", folds)
        require_whole("seed", seed, least=0)
        count = len(self.groups)
        if count == 1:
            raise ArgumentError(
                f"{self.called}: all {len(self)} objects are in one group, so folds by group are impossible; name "
                "finer groups with `group`, or divide the frames of one video into runs with `blocks=True`"
            )
        if count < folds:
            raise ArgumentError(f"{self.called}: {count} groups do not make {folds} folds; ask for {count} at most")
        return folds_of_groups(self.group_index, count, folds, seed)[self.group_index]

    def in_blocks(self, blocks: int) -> Dataset:
        """Group the images into runs in the order of their names, such as the frames of one video.

        Args:
            blocks: The number of runs, which have about the same number of objects. There are fewer runs if one image
                has more objects than a run should have.

        Returns:
            The same objects, with each run as a group. Numbers in names count as numbers: img2 is before img10.
        """
        require_whole("blocks", blocks)
        ranks = sorted(range(len(self.images)), key=lambda image: in_number_order(self.image_names[image]))
        objects = np.bincount(self.image_index, minlength=len(self.images))[ranks]
        middle = np.cumsum(objects) - objects / 2
        block = np.empty(len(ranks), np.int64)
        block[ranks] = np.floor(blocks * middle / len(self))
        return self.regrouped([f"block {number:05d}" for number in block[self.image_index]], named=False)

    def regrouped(self, names_per_object: Sequence[str], named: bool = True) -> Dataset:
        """Give the objects other groups.

        Args:
            names_per_object: N names of groups.
            named: Whether they are names of subjects; see `groups_named`.

        Returns:
            The same objects in these groups.
        """
        require_flags(named=named)
        require_kind("names_per_object", names_per_object, (list, tuple, np.ndarray), "a list of texts", "give N")
        if len(names_per_object) != len(self):
            raise ArgumentError(f"names_per_object: expected {len(self)}, one per object, got {len(names_per_object)}")
        names = [str(name) for name in names_per_object]
        groups = tuple(sorted(set(names)))
        rank = {name: index for index, name in enumerate(groups)}
        group_index = np.array([rank[name] for name in names], np.int32)
        return dataclasses.replace(self, groups=groups, group_index=group_index, groups_named=named)

    def shared_groups(self, other: Dataset) -> list[str]:
        """List the groups of this data set that are in another one, too.

        Args:
            other: The other data set.

        Returns:
            Sorted names of groups that have an image or their name in common with the other data set. Names count only
            if both data sets have `groups_named`, because `block 00000` and `0001.jpg` are in many data sets.
        """
        shared = set(self.groups) & set(other.groups) if self.groups_named and other.groups_named else set()
        theirs = set(files_of(other.images))
        in_both = np.array([file in theirs for file in files_of(self.images)], bool)
        shared |= {self.groups[group] for group in np.unique(self.group_index[in_both[self.image_index]])}
        return sorted(shared)

    def with_skeleton(self, skeleton: Skeleton) -> Dataset:
        """Give the labels another skeleton.

        Args:
            skeleton: A skeleton of as many keypoints.

        Returns:
            The same labels with this skeleton.

        Raises:
            DataError: The skeleton has another number of keypoints.
        """
        require_kind("skeleton", skeleton, Skeleton, "a Skeleton", "use Skeleton(names)")
        return dataclasses.replace(self, skeleton=skeleton)

    def with_xy(self, xy: Points) -> Dataset:
        """Give the objects other points.

        Args:
            xy: (N, K, 2) float64, continuous image px; a point is unlabelled if both its coordinates are NaN.

        Returns:
            The same objects with these points. `visible` becomes 0 for unlabelled points and is at least 1 for others.

        Raises:
            DataError: A point has one coordinate only.
        """
        xy = numbers_of("xy", xy, self.xy.shape)
        gone = np.isnan(xy).all(axis=2)
        return dataclasses.replace(self, xy=xy, visible=np.where(gone, 0, np.maximum(self.visible, 1)).astype(np.uint8))

    def fingerprint(self) -> str:
        """Hash what the data set says: labels, boxes, groups, names of keypoints and images, and pixels in memory.

        The hash is made once, so from the first call on the columns are read-only.

        Returns:
            The sha256 in hexadecimal. The pixels of image files are not part of it.
        """
        return self._fingerprint

    def identity(self) -> DataId:
        """Say which labelled images these are, as reports, certificates and model files do.

        Returns:
            The `name`, and the `fingerprint` that `fingerprint()` gives.
        """
        return DataId(self.name, self.fingerprint())

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for texts in (self.skeleton.names, self.image_names, self.groups):
            digest.update(f"{len(texts)} ".encode())
            digest.update("".join(f"{text}\0" for text in texts).encode("utf-8", "surrogateescape"))
        pixels = (image for image in self.images if isinstance(image, np.ndarray))
        for array in (*(getattr(self, name) for name in FINGERPRINTED), *pixels):
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for name in FINGERPRINTED:
            column = getattr(self, name).view()  # the caller's own array stays as it is
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        return digest.hexdigest()

    def check_images(
        self, max_megapixels: float = MAX_MEGAPIXELS, skip_bad: bool = False, white_level: WhiteLevel | None = None
    ) -> Dataset:
        """Read every image once, and refuse or leave out what cannot be used.

        An image cannot be used if it cannot be read, or has another size than the labels were made for; an object
        cannot be used if its box cannot be cropped from its image. A data set that was checked with these limits is
        returned as it is.

        Args:
            max_megapixels: A larger image is refused, now and whenever it is read again.
            skip_bad: Whether to leave out what cannot be used; then a note counts and names it.
            white_level: The value of 16-bit images that becomes 255: 255, 1023, 4095, 16383 or 65535. None takes the
                smallest of these that no 16-bit image exceeds, and a note says so if it is not 65535.

        Returns:
            The data set with `checked`, `image_sizes`, `likeness` and `white_level`, and with notes about points
            outside their image, which are kept, and about images that show hardly anything.

        Raises:
            DataError: Images or objects cannot be used; the line names all of them. Or nothing is left without them.
        """
        require_limit(max_megapixels)
        require_flags(skip_bad=skip_bad)
        if white_level is not None and white_level not in WHITE_LEVELS:
            levels = ", ".join(map(str, WHITE_LEVELS))
            raise ArgumentError(f"white_level: expected one of {levels}, got {quoted(white_level)}")
        if self.checked and max_megapixels == self.max_megapixels and white_level in (None, self.white_level):
            return self
        return checked(dataclasses.replace(self, max_megapixels=max_megapixels), skip_bad, white_level)


def require_datasets(**arguments: object) -> None:
    """Raise ArgumentError, with the argument's name, for a value that is not a Dataset."""
    for name, value in arguments.items():
        require_kind(name, value, Dataset, "a Dataset", "use read_dataset(...) or from_arrays(...)")
