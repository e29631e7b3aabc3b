"""Examples: the objects of a data set as training sees them, cropped and augmented.

An example depends only on the seed, the epoch and the object, not on the order in which examples are asked for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keylite.data.augmentation import Augmentation, augmented_crop, augmented_pixels, largest_zoom
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import Labelled, as_dataset
from keylite.data.looking import SPARE
from keylite.runtime.errors import ArgumentError, DataError
from keylite.runtime.geometry import Crop, average, crop_box, decode_for, to_units
from keylite.runtime.images import image_size
from keylite.runtime.kinds import require_choice, require_flags, require_kind, require_number, require_whole, size_of
from keylite.runtime.machine import cores
from keylite.runtime.progress import step
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.words import first_of, listed, quoted

NAMED = 3  # objects named in one line
LOOKS = 200  # images whose headers are read to estimate the memory that all images take
AT_ONCE = 50_000  # objects whose points are converted at once: this bounds the memory for copies of them


class Examples:
    """The objects of a data set as training sees them: cropped, and augmented anew in each epoch.

    `examples[i]` is object `i % N` as augmented in epoch `i // N`: (image, unit_xy, weight). image: uint8 (H, W, 3)
    RGB. unit_xy: (K, 2) float32, unit coordinates of the crop, NaN for an unlabelled point. weight: (K,) float32, 1 for
    a labelled point inside the crop, else 0.

    Args:
        data: The N labelled objects, or the path of a label file.
        size: (width, height) of the crops, px.
        box: "annotation" cuts the crop around the object's box, "image" takes the whole image.
        padding: The fraction by which a box grows before it is cropped, 0 to 4; not used with "image".
        augmentation: The random changes. None: every epoch is the same.
        seed: The seed of the random changes and of the order of training.
        cache: Whether decoded images are kept in memory; see `keep`.
        hidden: Whether points of visibility 1 are taught; if not, they count as unlabelled.

    Raises:
        ArgumentError: An argument has a wrong value.
        DataError: An object has no box, an image that is taken whole holds several objects, or flips are asked for and
            the skeleton has no mirror pairs.
    """

    def __init__(
        self,
        data: Labelled,
        size: tuple[int, int],
        *,
        box: str = "annotation",
        padding: float = 0.25,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: bool = False,
        hidden: bool = True,
    ) -> None:
        require_whole("seed", seed, least=0)
        require_flags(cache=cache, hidden=hidden)
        require_choice("box", box, ("annotation", "image"))
        require_number("padding", padding, 0, 4)
        require_kind("augmentation", augmentation, (Augmentation, type(None)), "an Augmentation", "or leave it out")
        self.data = data = as_dataset("data", data)
        self.xy = data.xy if hidden else seen_xy(data)
        self.kept: dict[int, tuple[np.ndarray, int]] | None = None
        self.factors = np.zeros(len(data.images), np.int64)  # `averaged` of each image; 0: not yet known
        self.size = size_of("size", size)
        self.augmentation = augmentation
        self.seed = seed
        self.boxes = crop_boxes(data, box)
        self.padding = padding if box == "annotation" else 0.0
        if augmentation and augmentation.flip_p > 0 and data.skeleton.mirror is None:
            raise DataError("flip_p: the skeleton has no mirror pairs; give it a `mirror`, or set flip_p to 0")
        if cache:
            self.keep()

    def keep(self) -> None:
        """Keep each decoded image in memory after its first use; the crops stay the same.

        If all crops of an image are made from block averages of it, only these averages are kept.
        """
        self.kept = {}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, index = divmod(item, len(self))
        number = int(self.data.image_index[index])
        box = self._boxes[index]
        crop = crop_box(box, self.size, self.padding)
        if self.augmentation is None:
            return self._cut(number, crop), *targets(crop, self.xy[index], self.data.skeleton)
        generator = np.random.default_rng((self.seed, epoch, index))
        crop = augmented_crop(crop, self.augmentation, generator)
        pixels = augmented_pixels(self._cut(number, crop), self.augmentation, generator)
        xy = self.xy[index]
        if crop.mirrored:  # a label that sits right of its place in the image sits left of it in the mirrored one
            xy = xy - (2 * self.augmentation.flip_offset * (box[2] - box[0]), 0)
        return pixels, *targets(crop, xy, self.data.skeleton)

    def _cut(self, number: int, crop: Crop) -> np.ndarray:
        """A crop of image `number`, uint8 (H, W, 3); it is the same whether images are kept or not."""
        return crop.warp(*(self._read(number, crop) if self.kept is None else self._keep(number)))

    def _keep(self, number: int) -> tuple[np.ndarray, int]:
        """The pixels that are kept of image `number`, and the side of the blocks that they are averages of."""
        assert self.kept is not None
        if number not in self.kept:
            self.kept[number] = self._read(number)
        return self.kept[number]

    def _read(self, number: int, crop: Crop | None = None) -> tuple[np.ndarray, int]:
        """The pixels of image `number`, averaged over blocks if all its crops are, and the side of these blocks.

        crop: if it is given, only the pixels that this crop needs are decoded.
        """
        picture = self.data.open_image(number)
        pixels = picture.pixels() if crop is None else decode_for(picture, [crop], self.data.checked)
        factor = self.averaged(number)
        return (average(pixels, factor) if factor > 1 else pixels), factor

    def averaged(self, number: int) -> int:
        """Say how coarse an image may be kept without changing any crop of it.

        Args:
            number: The number of the image.

        Returns:
            The side, px, of the smallest blocks that any of its crops averages. Without an augmentation it is 1, so
            that these crops equal those of prediction to the last bit.
        """
        if self.augmentation is None:
            return 1
        if not self.factors[number]:
            first, last = np.searchsorted(self._sorted[0], (number, number + 1))
            zoom = largest_zoom(self.augmentation)
            enlarge = np.diag([zoom, zoom, 0.0])[:2]
            crops = [crop_box(box, self.size, self.padding) for box in self._boxes[self._sorted[1][first:last]]]
            self.factors[number] = min((crop.then(enlarge).reduction for crop in crops), default=1)
        return int(self.factors[number])

    @functools.cached_property
    def _boxes(self) -> np.ndarray:
        """(N, 4) xyxy px: the boxes that crops are cut around, without the padding."""
        return self.data.whole_boxes() if self.boxes is None else self.boxes

    @functools.cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The image numbers of all objects, sorted, and the objects in that order."""
        order = np.argsort(self.data.image_index, kind="stable")
        return self.data.image_index[order], order

    def keep_all(self) -> None:
        """If images are kept in memory, read all of them now, so that processes can share them.

        Raises:
            FileNotFoundError: An image file is missing.
            ImageError: An image cannot be read.
        """
        if self.kept is None:
            return
        count = len(self.data.images)
        with step("decoding the training images", count) as done, ThreadPoolExecutor(cores() + SPARE) as threads:
            for _ in threads.map(self._keep, range(count)):
                done(1)

    def order(self, epoch: int) -> np.ndarray:
        """Shuffle the items of an epoch; each epoch has another order.

        Args:
            epoch: The number of the epoch, from 0 on.

        Returns:
            (N,) int64 numbers of items, in the order of training.
        """
        return epoch * len(self) + np.random.default_rng((self.seed, epoch)).permutation(len(self))

    def batch(self, items: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Make several examples and stack them.

        Args:
            items: B numbers of items: a list, or an array (B,) of whole numbers, such as a part of `order(epoch)`.

        Returns:
            (images uint8 (B, H, W, 3), unit_xy float32 (B, K, 2), weight float32 (B, K)).

        Raises:
            ArgumentError: `items` are not whole numbers in a row.
            FileNotFoundError: An image file is missing.
            ImageError: An image cannot be read.
        """
        width, height = self.size
        keypoints = len(self.data.skeleton)
        numbers = np.asarray(items)
        if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
            raise ArgumentError(
                f"items: expected whole numbers (B,), got {quoted(items)}; give a list or an array of them"
            )
        images = np.empty((len(numbers), height, width, 3), np.uint8)
        unit_xy = np.empty((len(numbers), keypoints, 2), np.float32)
        weight = np.empty((len(numbers), keypoints), np.float32)
        for row, item in enumerate(numbers.tolist()):
            images[row], unit_xy[row], weight[row] = self[item]
        return images, unit_xy, weight

    def mean_shape(self) -> np.ndarray:
        """Average each keypoint's place in the crops without augmentation.

        Returns:
            (K, 2) float32 unit coordinates, over labelled points inside their crop; 0.5 for a keypoint without any.
        """
        total = np.zeros((len(self.data.skeleton), 2))
        count = np.zeros((len(self.data.skeleton), 1))
        for start in range(0, len(self), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            unit_xy = to_units(self.xy[part], self._boxes[part], self.size, self.padding)
            counted = np.all((unit_xy >= 0) & (unit_xy <= 1), axis=2, keepdims=True)  # these have weight 1 in `targets`
            total += np.where(counted, unit_xy, 0).astype(np.float32).sum(axis=0, dtype=np.float64)
            count += counted.sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), 0.5).astype(np.float32)


def seen_xy(data: Dataset) -> np.ndarray:
    """(N, K, 2) px: the labelled points without those of visibility 1, which become NaN."""
    return np.where((data.visible == 1)[..., None], np.nan, data.xy)


def kept_bytes(examples: Examples) -> int:
    """An estimate, from the headers of LOOKS images, of the bytes that all images take if they are kept."""
    images = examples.data.images
    looks = np.linspace(0, len(images) - 1, min(len(images), LOOKS)).astype(int).tolist()
    sides = np.array([image_size(images[image]) for image in looks])
    factors = np.array([examples.averaged(image) for image in looks])
    return round(len(images) * float(np.mean(3 * np.ceil(sides / factors[:, None]).prod(axis=1))))


def with_boxes(dataset: Dataset, box: str, skip_bad: bool) -> Dataset:
    """The data set without the objects that lack a box to crop around, with a note; all objects if not `skip_bad`.

    If no object has a box, all of them stay, because then `crop_boxes` says what to do.
    """
    boxed = dataset.boxed
    if box == "image" or not skip_bad or boxed.all() or not boxed.any():
        return dataset
    names = [dataset.sample_name(i) for i in np.flatnonzero(~boxed).tolist()]
    note = listed(f"left out: {len(names)} of {len(dataset)} objects have no box", names)
    return dataclasses.replace(dataset.subset(np.flatnonzero(boxed)), notes=(*dataset.notes, note))


def crop_boxes(dataset: Dataset, box: str) -> np.ndarray | None:
    """(N, 4) boxes to crop around, or None for whole images.

    Raises DataError if an object has no box, or if an image that is taken whole holds several objects.
    """
    if box == "image":
        crowded = int((np.bincount(dataset.image_index) > 1).sum())
        if crowded:
            raise DataError(
                f"{dataset.called}: {crowded} images hold more than one object, and `box='image'` takes one per image; "
                "use `box='annotation'`"
            )
        return None
    missing = np.flatnonzero(~dataset.boxed)
    if len(missing):
        names = first_of([dataset.sample_name(i) for i in missing[:NAMED].tolist()], NAMED, count=len(missing))
        others = "" if len(missing) == len(dataset) else ", or pass `skip_bad=True` to leave them out"
        raise DataError(
            f"{dataset.called}: {len(missing)} of {len(dataset)} objects have no box ({names}); use `box='image'`, or "
            f"give each a box{others}"
        )
    return dataset.box


def targets(crop: Crop, xy: np.ndarray, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Labels (K, 2) in image px -> unit_xy (K, 2) float32, mirror pairs swapped after a flip; weight (K,) float32."""
    unit_xy = crop.to_unit(xy)
    if crop.mirrored:
        unit_xy = unit_xy[list(skeleton.mirror or ())]
    inside = (unit_xy >= 0) & (unit_xy <= 1)  # NaN compares false
    return unit_xy.astype(np.float32), (inside[:, 0] & inside[:, 1]).astype(np.float32)
