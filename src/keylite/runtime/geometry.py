"""Crops: where a crop lies in its image (a matrix for both directions), and its pixels in one resampling.

Coordinates are continuous: an image covers [0, W] x [0, H], and the centre of the pixel at row r, column c is
(c + 0.5, r + 0.5). Sizes are (width, height).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from keylite.runtime.boxes import MOST_PX, far_words
from keylite.runtime.errors import ArgumentError

if TYPE_CHECKING:
    from keylite.runtime.images import Picture

MARGIN = 2  # pixels kept around the reduced region, so that bilinear resampling never reaches its cut edges


@dataclasses.dataclass(frozen=True)
class Crop:
    """A part of an image, scaled to the size of the model input.

    matrix: (2, 3) float64, image px -> crop px, both continuous.
    size: (W, H) of the crop in px.
    mirrored: whether the matrix flips the image; labels then need the mirror permutation of the keypoints.
    """

    matrix: np.ndarray
    size: tuple[int, int]
    mirrored: bool = False

    def to_crop(self, xy: np.ndarray) -> np.ndarray:
        """Image px (..., 2) -> crop px (..., 2); NaN stays NaN."""
        return xy @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_image(self, xy: np.ndarray) -> np.ndarray:
        """Crop px (..., 2) -> image px (..., 2)."""
        return (xy - self.matrix[:, 2]) @ np.linalg.inv(self.matrix[:, :2]).T

    def to_unit(self, xy: np.ndarray) -> np.ndarray:
        """Image px (..., 2) -> unit coordinates (..., 2) of the crop: 0 to 1 is inside it."""
        return self.to_crop(xy) / np.asarray(self.size, np.float64)

    def from_unit(self, unit_xy: np.ndarray) -> np.ndarray:
        """Unit coordinates (..., 2) -> image px (..., 2); NaN and Inf give NaN or Inf, without a warning."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self.to_image(unit_xy * np.asarray(self.size, np.float64))

    @property
    def scale(self) -> float:
        """How many crop px one image px becomes: the root of the ratio of the areas."""
        return math.sqrt(abs(float(np.linalg.det(self.matrix[:, :2]))))

    def then(self, matrix: np.ndarray, mirrored: bool = False) -> Crop:
        """This crop, then another (2, 3) matrix from crop px to crop px; it is still one resampling."""
        return Crop(compose(matrix, self.matrix), self.size, self.mirrored != mirrored)

    @property
    def reduction(self) -> int:
        """The side of the blocks that `warp` averages before it resamples, a power of two; 1: it does not average."""
        return 2 ** max(_halvings(self.matrix), 0)

    @property
    def rows(self) -> int:
        """How many rows of the image, from the top, `warp` needs."""
        factor = self.reduction
        bottom = float(self._corners()[:, 1].max())
        return max(math.ceil(bottom / factor) + MARGIN, 1) * factor

    def warp(self, image: np.ndarray, averaged: int = 1) -> np.ndarray:
        """Resample a uint8 (h, w, 3 or 4) image into the crop, (H, W, 3).

        If the image shrinks by two or more, the part that the crop sees is first averaged over blocks of a power of
        two; the rest is one bilinear warp. Beyond the image, its edge pixels repeat. averaged: the factor by which
        `average` has already made the image smaller, at most `reduction`.
        """
        if averaged > 1:
            to_image_px = np.array([[averaged, 0, 0], [0, averaged, 0]], np.float64)
            return Crop(compose(self.matrix, to_image_px), self.size).warp(image)
        matrix = self.matrix
        # a box far larger than its image: blocks larger than the image would only fill memory with its edge pixels
        factor = min(self.reduction, 2 ** max(image.shape[:2]).bit_length())
        if factor > 1:
            image, matrix = self._reduced(image, factor)
        indexed = matrix.copy()
        indexed[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5  # cv2 counts pixel centres from 0
        if image.shape[2] == 3 and self.likes_four(image):
            image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
        crop = cv2.warpAffine(image, indexed, self.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB) if image.shape[2] == 4 else crop

    def likes_four(self, image: np.ndarray | Picture) -> bool:
        """Whether an image is warped faster with four channels.

        OpenCV's warp takes half the time with four channels, but the conversion of a large image costs more than that.
        """
        return image.shape[0] * image.shape[1] <= 4 * self.size[0] * self.size[1]

    def _corners(self) -> np.ndarray:
        """The corners of the crop (4, 2), image px."""
        return self.from_unit(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))

    def _reduced(self, image: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of the image that the crop sees, averaged by `factor`, and the matrix from it to the crop."""
        height, width = image.shape[:2]
        corners = self._corners()
        last = (np.array([width, height]) - 1) // factor  # the last block that holds a pixel
        first = np.clip(np.floor(corners.min(axis=0) / factor) - MARGIN, 0, last).astype(int)
        stop = np.clip(np.ceil(corners.max(axis=0) / factor) + MARGIN, first + 1, last + 1).astype(int)
        (left, top), (right, bottom) = first * factor, stop * factor
        reduced = average(image[top:bottom, left:right], factor)
        to_image_px = np.array([[factor, 0, left], [0, factor, top]], np.float64)
        return reduced, compose(self.matrix, to_image_px)


def average(image: np.ndarray, factor: int) -> np.ndarray:
    """The means of an image over blocks of `factor` px, rounded; blocks at the edge are filled with edge pixels."""
    height, width = image.shape[:2]
    ragged = (-height % factor, -width % factor)
    if any(ragged):
        image = cv2.copyMakeBorder(image, 0, ragged[0], 0, ragged[1], cv2.BORDER_REPLICATE)
    blocks = (image.shape[1] // factor, image.shape[0] // factor)
    return cv2.resize(image, blocks, interpolation=cv2.INTER_AREA)


def cut(picture: Picture, crops: Sequence[Crop], checked: bool = False) -> list[np.ndarray]:
    """The pixels of crops, uint8 (H, W, 3) each; the picture is decoded once. checked: see `decode_for`."""
    image = decode_for(picture, crops, checked)
    return [crop.warp(image) for crop in crops]


def decode_for(picture: Picture, crops: Sequence[Crop], checked: bool = False) -> np.ndarray:
    """Decode the pixels that crops need of a picture.

    checked: the picture was decoded whole before, so rows below the crops may be left out. Damage there is not noticed.
    """
    channels = 4 if len(crops) == 1 and crops[0].likes_four(picture) else 3
    rows = max((crop.rows for crop in crops), default=1) if checked else None
    return picture.pixels(channels, rows)


def _halvings(matrix: np.ndarray) -> int:
    """How often an image can be halved before a (2, 3) matrix would enlarge it."""
    return math.floor(-math.log2(largest_scale(matrix)) + 1e-6)


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix that applies `first`, then `second`."""
    product = second[:, :2] @ first
    product[:, 2] += second[:, 2]
    return product


def largest_scale(matrix: np.ndarray) -> float:
    """The largest factor by which a (2, 3) matrix lengthens any direction: its largest singular value."""
    (xx, xy, _), (yx, yy, _) = matrix.tolist()
    return (math.hypot(xx + yy, yx - xy) + math.hypot(xx - yy, yx + xy)) / 2


def crop_box(box: np.ndarray, size: tuple[int, int], padding: float = 0.0) -> Crop:
    """The crop of `size` (W, H) around `box` (4,) xyxy px, whose sides grow by the fraction `padding`.

    The aspect is kept: the box is in the middle, and along its shorter side the crop shows what surrounds it.
    """
    x0, y0, x1, y1 = (float(edge) for edge in box)
    if not (x1 > x0 and y1 > y0):
        raise ArgumentError(f"box: expected x0 < x1 and y0 < y1 in pixels, got {[x0, y0, x1, y1]}")
    if not max(abs(x0), abs(y0), abs(x1), abs(y1)) <= MOST_PX:
        raise ArgumentError(far_words(np.asarray(box)))
    scale = min(size[0] / (x1 - x0), size[1] / (y1 - y0)) / (1 + padding)
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    matrix = np.array([[scale, 0, size[0] / 2 - scale * centre_x], [0, scale, size[1] / 2 - scale * centre_y]])
    return Crop(matrix, (int(size[0]), int(size[1])))


def to_units(xy: np.ndarray, boxes: np.ndarray, size: tuple[int, int], padding: float = 0.0) -> np.ndarray:
    """Image px (N, K, 2) -> unit coordinates (N, K, 2) of the crops around boxes (N, 4) xyxy px.

    It gives the same as `crop_box` and `Crop.to_unit`, but for all objects at once.
    """
    scale, shift = _scales_and_shifts(boxes, size, padding)
    return (xy * scale + shift) / np.asarray(size, np.float64)


def from_units(unit_xy: np.ndarray, boxes: np.ndarray, size: tuple[int, int], padding: float = 0.0) -> np.ndarray:
    """Unit coordinates (K, 2) or (N, K, 2) of the crops around boxes (N, 4) xyxy px -> image px (N, K, 2)."""
    scale, shift = _scales_and_shifts(boxes, size, padding)
    return (unit_xy * np.asarray(size, np.float64) - shift) / scale


def _scales_and_shifts(boxes: np.ndarray, size: tuple[int, int], padding: float) -> tuple[np.ndarray, np.ndarray]:
    """The crops around boxes (N, 4): crop px = image px * scale (N, 1, 1) + shift (N, 1, 2)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    flat = np.flatnonzero(~(sides > 0).all(axis=1))
    if len(flat):
        crop_box(boxes[flat[0]], size, padding)  # raises the error
    scale = np.min(np.asarray(size, np.float64) / sides, axis=1)[:, None, None] / (1 + padding)
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    return scale, np.asarray(size, np.float64) / 2 - scale * centre


def whole_box(image: np.ndarray | Picture) -> np.ndarray:
    """The box (4,) xyxy px around a whole image (H, W, ...)."""
    return np.array([0, 0, image.shape[1], image.shape[0]], np.float64)


def draw_jitter(count: int, amount: float, generator: np.random.Generator) -> np.ndarray:
    """(N, 3): for each box a shift in x and in y, up to +-amount times its side, and a scale from 1 +- amount."""
    shifts = generator.uniform(-amount, amount, (count, 2))
    return np.concatenate([shifts, generator.uniform(1 - amount, 1 + amount, (count, 1))], axis=1)


def jittered(boxes: np.ndarray, jitter: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) moved and scaled by the jitter (N, 3) of `draw_jitter`, as a detector might give them."""
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2 + jitter[:, :2] * sides
    half = sides * jitter[:, 2:] / 2
    return np.concatenate([centres - half, centres + half], axis=1)
