"""Examples: a data set as training sees it, (image, xy, weight), augmented in one warp.

An example never knows the head or the framework. Deterministic in (seed, epoch, index), whatever asks for it and in
whatever order.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist

import cv2
import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.looking import SPARE
from keylite.runtime.errors import DataError
from keylite.runtime.geometry import Crop, average, crop_box, decode_for, to_units
from keylite.runtime.images import decoded_sooner, image_size
from keylite.runtime.kinds import require_whole
from keylite.runtime.machine import cores
from keylite.runtime.progress import step
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.words import first_of, listed

NAMED = 3  # objects named in one line
LOOKS = 200  # images, to tell the size of all
AT_ONCE = 50_000  # objects whose points are moved at once: a million's would be copied whole, several times
GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601, as in cv2.cvtColor


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges and probabilities of random changes; the recipe's fields of the same names say what each means."""

    rotate: float = 0.0
    rotate_p: float = 1.0
    scale: float = 0.0
    scale_p: float = 1.0
    shift: float = 0.0
    shift_p: float = 1.0
    aspect: float = 0.0
    aspect_p: float = 1.0
    flip_p: float = 0.0
    flip_offset: float = 0.0
    brightness: float = 0.0
    brightness_p: float = 0.0
    contrast: float = 0.0
    contrast_p: float = 0.0
    saturation: float = 0.0
    saturation_p: float = 0.0
    hue: float = 0.0
    hue_p: float = 0.0
    grey_p: float = 0.0
    blur: float = 0.0
    blur_p: float = 0.0
    noise: float = 0.0
    noise_p: float = 0.0
    jpeg: int = 100
    jpeg_p: float = 0.0
    occlude: float = 0.0
    occlude_p: float = 0.0


class Examples:
    """Random access to the examples of a data set.

    Item `i` is object `i % N` as augmented in epoch `i // N`: (image uint8 (H, W, 3) RGB, unit_xy (K, 2) float32 with
    NaN where unlabelled, weight (K,) float32: 0 where unlabelled or outside the crop). Without an augmentation every
    epoch is the same. A flip needs `dataset.skeleton.mirror`. cache: see `keep`.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: tuple[int, int],
        *,
        box: str = "annotation",
        padding: float = 0.25,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: bool = False,
    ) -> None:
        require_whole("seed", seed, least=0)
        self.dataset = dataset
        self.kept: dict[int, tuple[np.ndarray, int]] | None = None
        self.factors = np.zeros(len(dataset.images), np.int64)  # of each image, once it is known
        self.size = size
        self.augmentation = augmentation
        self.seed = seed
        self.boxes = crop_boxes(dataset, box)
        self.padding = padding if box == "annotation" else 0.0
        if augmentation and augmentation.flip_p > 0 and dataset.skeleton.mirror is None:
            raise DataError("flip: the skeleton has no mirror pairs; give them as mirror, or set flip_p to 0")
        if cache:
            self.keep()

    def keep(self) -> None:
        """Keep decoded images in memory, each from its first use on, and averaged as far as every crop of it is.

        `keep_all` reads them at once, for processes that share them.
        """
        self.kept = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, index = divmod(item, len(self))
        number = int(self.dataset.image_index[index])
        box = self._boxes[index]
        crop = crop_box(box, self.size, self.padding)
        if self.augmentation is None:
            return self._cut(number, crop), *targets(crop, self.dataset.xy[index], self.dataset.skeleton)
        generator = np.random.default_rng((self.seed, epoch, index))
        crop = augmented_crop(crop, self.augmentation, generator)
        pixels = augmented_pixels(self._cut(number, crop), self.augmentation, generator)
        xy = self.dataset.xy[index]
        if crop.mirrored:  # what sits right of its place in the image sits left of it in the mirrored one
            xy = xy - (2 * self.augmentation.flip_offset * (box[2] - box[0]), 0)
        return pixels, *targets(crop, xy, self.dataset.skeleton)

    def _cut(self, number: int, crop: Crop) -> np.ndarray:
        """What a crop sees of an image, uint8 (H, W, 3); the same whether images are kept or not."""
        return crop.warp(*(self._read(number, crop) if self.kept is None else self._keep(number)))

    def _keep(self, number: int) -> tuple[np.ndarray, int]:
        """What is kept of an image: its pixels, and by how much they are averaged."""
        assert self.kept is not None
        if number not in self.kept:
            self.kept[number] = self._read(number)
        return self.kept[number]

    def _read(self, number: int, crop: Crop | None = None) -> tuple[np.ndarray, int]:
        """An image's pixels, averaged as far as every crop of it is, and by how much; crop: all that is wanted."""
        picture = self.dataset.open_image(number)
        pixels = picture.pixels() if crop is None else decode_for(picture, [crop], self.dataset.checked)
        factor = self.averaged(number)
        return (average(pixels, factor) if factor > 1 else pixels), factor

    def averaged(self, number: int) -> int:
        """By how much an image is averaged at least in every crop of it, whichever its object and augmentation.

        Without an augmentation it is 1: those crops are a prediction's to the last bit.
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
        """(N, 4) xyxy px: what is cropped around, before the padding."""
        return self.dataset.whole_boxes() if self.boxes is None else self.boxes

    @functools.cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """(the images of objects, sorted; those objects)."""
        order = np.argsort(self.dataset.image_index, kind="stable")
        return self.dataset.image_index[order], order

    def keep_all(self) -> None:
        """Read what is to be kept in memory now."""
        if self.kept is None:
            return
        count = len(self.dataset.images)
        with step("decoding the training images", count) as done, ThreadPoolExecutor(cores() + SPARE) as threads:
            for _ in threads.map(self._keep, range(count)):
                done(1)

    def order(self, epoch: int) -> np.ndarray:
        """(N,) the items of an epoch, counted from 0, in the order of training: another one each epoch."""
        return epoch * len(self) + np.random.default_rng((self.seed, epoch)).permutation(len(self))

    def batch(self, items: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items stacked: images (B, H, W, 3), unit_xy (B, K, 2), weight (B, K)."""
        width, height = self.size
        keypoints = len(self.dataset.skeleton)
        images = np.empty((len(items), height, width, 3), np.uint8)
        unit_xy = np.empty((len(items), keypoints, 2), np.float32)
        weight = np.empty((len(items), keypoints), np.float32)
        for row, item in enumerate(items):
            images[row], unit_xy[row], weight[row] = self[item]
        return images, unit_xy, weight

    def mean_shape(self) -> np.ndarray:
        """(K, 2) float32: mean unit coordinates of the labelled points without augmentation.

        0.5 for a keypoint that is never labelled.
        """
        total = np.zeros((len(self.dataset.skeleton), 2))
        count = np.zeros((len(self.dataset.skeleton), 1))
        for start in range(0, len(self), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            unit_xy = to_units(self.dataset.xy[part], self._boxes[part], self.size, self.padding)
            counted = np.all((unit_xy >= 0) & (unit_xy <= 1), axis=2, keepdims=True)  # as `targets` weighs them
            total += np.where(counted, unit_xy, 0).astype(np.float32).sum(axis=0, dtype=np.float64)
            count += counted.sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), 0.5).astype(np.float32)


def kept_bytes(examples: Examples) -> int:
    """About how much memory all images take once they are kept, from the headers of LOOKS of them."""
    images = examples.dataset.images
    looks = np.linspace(0, len(images) - 1, min(len(images), LOOKS)).astype(int).tolist()
    sides = np.array([image_size(images[image]) for image in looks])
    factors = np.array([examples.averaged(image) for image in looks])
    return round(len(images) * float(np.mean(3 * np.ceil(sides / factors[:, None]).prod(axis=1))))


def with_boxes(dataset: Dataset, box: str, skip_bad: bool) -> Dataset:
    """The data set without the objects that lack the box to crop around, if what is bad may be left out; with a note.

    Where no object has one, all stay: that is no slip, and `crop_boxes` says what to do.
    """
    boxed = np.isfinite(dataset.box).all(axis=1)
    if box == "image" or not skip_bad or boxed.all() or not boxed.any():
        return dataset
    names = [dataset.sample_name(i) for i in np.flatnonzero(~boxed).tolist()]
    note = listed(f"left out: {len(names)} of {len(dataset)} objects have no box", names)
    return dataclasses.replace(dataset.subset(np.flatnonzero(boxed)), notes=(*dataset.notes, note))


def crop_boxes(dataset: Dataset, box: str) -> np.ndarray | None:
    """(N, 4) boxes to crop around, or None for whole images.

    Raises ValueError where an object has no box, or where an image that is to be taken whole holds several objects.
    """
    if box == "image":
        crowded = int((np.bincount(dataset.image_index) > 1).sum())
        if crowded:
            raise DataError(
                f"{dataset.called}: {crowded} images hold more than one object, and `box='image'` takes one an image; "
                "use `box='annotation'`"
            )
        return None
    missing = np.flatnonzero(~np.isfinite(dataset.box).all(axis=1))
    if len(missing):
        names = first_of([dataset.sample_name(i) for i in missing[:NAMED].tolist()], NAMED, count=len(missing))
        others = "" if len(missing) == len(dataset) else ", or pass `skip_bad=True` to leave them out"
        raise DataError(
            f"{dataset.called}: {len(missing)} of {len(dataset)} objects have no box ({names}); use `box='image'`, or "
            f"give each a box{others}"
        )
    return dataset.box


def targets(crop: Crop, xy: np.ndarray, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Labels (K, 2) image px -> unit_xy (K, 2) float32 in the order a flip gives, weight (K,) float32."""
    unit_xy = crop.to_unit(xy)
    if crop.mirrored:
        unit_xy = unit_xy[list(skeleton.mirror or ())]
    inside = (unit_xy >= 0) & (unit_xy <= 1)  # NaN compares false
    return unit_xy.astype(np.float32), (inside[:, 0] & inside[:, 1]).astype(np.float32)


def largest_zoom(augmentation: Augmentation) -> float:
    """How much `augmented_crop` enlarges at most, in any direction."""
    return (1 + augmentation.scale) * math.sqrt(1 + augmentation.aspect)


def augmented_crop(crop: Crop, augmentation: Augmentation, generator: np.random.Generator) -> Crop:
    """The crop with a random rotation, scale, aspect, shift and flip composed into its matrix.

    Every draw is made whether it is used or not, so that changing one range leaves the other draws as they were.
    """
    a = augmentation
    uniform = generator.uniform(-1, 1, 5).tolist()
    chance = generator.uniform(0, 1, 5).tolist()
    angle = math.radians(a.rotate) * uniform[0] if chance[0] < a.rotate_p else 0.0
    scale = (1 + a.scale) ** uniform[1] if chance[1] < a.scale_p else 1.0
    stretch = (1 + a.aspect) ** (uniform[2] / 2) if chance[2] < a.aspect_p else 1.0
    shift_x, shift_y = (a.shift * uniform[3], a.shift * uniform[4]) if chance[3] < a.shift_p else (0.0, 0.0)
    flip = chance[4] < a.flip_p
    width, height = crop.size
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    xx, xy, yx, yy = cos * stretch, -sin / stretch, sin * stretch, cos / stretch
    x = width / 2 + shift_x * width - xx * width / 2 - xy * height / 2  # turns about the centre, which then moves
    y = height / 2 + shift_y * height - yx * width / 2 - yy * height / 2
    if flip:
        xx, xy, x = -xx, -xy, width - x
    return crop.then(np.array([[xx, xy, x], [yx, yy, y]]), mirrored=flip)


def augmented_pixels(image: np.ndarray, augmentation: Augmentation, generator: np.random.Generator) -> np.ndarray:
    """The uint8 (H, W, 3) crop with random photometric changes: occlusion, colour, blur, noise, JPEG, in this order."""
    a = augmentation
    chance = generator.uniform(0, 1, 9).tolist()
    uniform = generator.uniform(-1, 1, 7).tolist()
    if chance[0] < a.occlude_p:
        image = _occluded(image, a.occlude, generator)
    gain = (1 + a.contrast) ** uniform[0] if chance[1] < a.contrast_p else 1.0
    offset = 255 * a.brightness * uniform[1] if chance[2] < a.brightness_p else 0.0
    saturation = 1 + a.saturation * uniform[2] if chance[3] < a.saturation_p else 1.0
    hue = math.radians(a.hue) * uniform[3] if chance[4] < a.hue_p else 0.0
    if chance[5] < a.grey_p:
        saturation = 0.0
    if (gain, offset, saturation, hue) != (1.0, 0.0, 1.0, 0.0):
        matrix = np.empty((3, 4))
        matrix[:, :3] = gain * (np.eye(3) if (saturation, hue) == (1.0, 0.0) else _colour_matrix(saturation, hue))
        matrix[:, 3] = 127.5 * (1 - gain) + offset
        image = cv2.transform(image, matrix)
    if chance[6] < a.blur_p and a.blur > 0:
        image = cv2.GaussianBlur(image, (0, 0), max(a.blur * abs(uniform[4]), 0.1))
    if chance[7] < a.noise_p and a.noise > 0:
        levels = np.rint(_bell() * (a.noise * abs(uniform[5]))).astype(np.int16)
        dice = np.frombuffer(generator.bytes(image.size), np.uint8).reshape(image.shape)
        image = cv2.add(image, cv2.LUT(dice, levels), dtype=cv2.CV_8U)
    if chance[8] < a.jpeg_p:
        quality = round(a.jpeg + (100 - a.jpeg) * abs(uniform[6]))
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = decoded_sooner(jpeg, "BGR")
        if decoded is None:
            decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        assert decoded is not None
        image = decoded
    return image


@functools.cache
def _bell() -> np.ndarray:
    """(256,) quantiles of the normal distribution, of deviation 1: a random byte picks one, four times as fast."""
    quantiles = np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)])
    return quantiles / quantiles.std()


def _occluded(image: np.ndarray, largest: float, generator: np.random.Generator) -> np.ndarray:
    """A rectangle of one colour somewhere over the image."""
    height, width = image.shape[:2]
    side_x, side_y, x, y = generator.uniform(0, 1, 4)
    half_w, half_h = largest * width * side_x / 2, largest * height * side_y / 2
    left, right = round(x * width - half_w), round(x * width + half_w)
    top, bottom = round(y * height - half_h), round(y * height + half_h)
    image = image.copy()
    image[max(top, 0) : bottom, max(left, 0) : right] = generator.integers(0, 256, 3)
    return image


def _colour_matrix(saturation: float, hue: float) -> np.ndarray:
    """(3, 3): a rotation by `hue` radians about the grey axis, then mixing with grey."""
    third, root = 1 / 3, math.sqrt(1 / 3)
    cos, sin = math.cos(hue), math.sin(hue)
    ring = third * (1 - cos)
    rotation = np.array(
        [
            [cos + ring, ring - root * sin, ring + root * sin],
            [ring + root * sin, cos + ring, ring - root * sin],
            [ring - root * sin, ring + root * sin, cos + ring],
        ]
    )
    return saturation * rotation + (1 - saturation) * (GREY @ rotation)
