"""Augmentation: random changes of the crops that training sees, in geometry and in pixels."""

from __future__ import annotations

import dataclasses
import functools
import math
from statistics import NormalDist

import cv2
import numpy as np

from keylite.runtime.geometry import Crop
from keylite.runtime.images import decoded_sooner
from keylite.runtime.kinds import require_number, require_whole

MOST = {"rotate": 180, "hue": 180, "scale": 4, "contrast": 4, "blur": 20, "noise": 255}  # that is allowed; others: 1
GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601, as in cv2.cvtColor


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges and probabilities of random changes, as in the recipe; by default nothing changes.

    "Both ways" means: a random amount between minus and plus this value.

    Attributes:
        rotate: Degrees, both ways.
        rotate_p: Probability of a rotation.
        scale: The scale is between 1 / (1 + scale) and 1 + scale.
        scale_p: Probability of another scale.
        shift: Fraction of the crop, both ways, in x and y.
        shift_p: Probability of a shift.
        aspect: Width against height is between 1 / (1 + aspect) and 1 + aspect.
        aspect_p: Probability of another aspect.
        flip_p: Probability of a horizontal flip.
        flip_offset: Fraction of the box's width by which labels sit right of their place.
        brightness: Fraction of the full range, both ways.
        brightness_p: Probability of another brightness.
        contrast: The contrast is between 1 / (1 + contrast) and 1 + contrast.
        contrast_p: Probability of another contrast.
        saturation: Colours are 1 - saturation to 1 + saturation times as strong.
        saturation_p: Probability of other saturation.
        hue: Degrees around the grey axis, both ways.
        hue_p: Probability of another hue.
        grey_p: Probability of losing all colour.
        blur: Largest sigma, px of the crop.
        blur_p: Probability of a blur.
        noise: Largest sigma, grey levels of 0 to 255.
        noise_p: Probability of noise.
        jpeg: Lowest JPEG quality, 1 to 100.
        jpeg_p: Probability of JPEG compression.
        occlude: Largest side of a rectangle that hides part of the crop, as a fraction of the crop.
        occlude_p: Probability of such a rectangle.

    Raises:
        ArgumentError: A value is not a number in its range, which is the same as in the recipe.
    """

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

    def __post_init__(self) -> None:
        require_whole("jpeg", self.jpeg, most=100)
        require_number("flip_offset", self.flip_offset, -0.1, 0.1)
        for field in dataclasses.fields(self):
            if field.name not in ("jpeg", "flip_offset"):
                require_number(field.name, getattr(self, field.name), 0, MOST.get(field.name, 1))


def largest_zoom(augmentation: Augmentation) -> float:
    """The largest factor by which `augmented_crop` enlarges, in any direction."""
    return (1 + augmentation.scale) * math.sqrt(1 + augmentation.aspect)


def augmented_crop(crop: Crop, augmentation: Augmentation, generator: np.random.Generator) -> Crop:
    """The crop with a random rotation, scale, aspect, shift and flip composed into its matrix.

    Every random number is drawn even if it is not used, so a change of one range does not change the others' numbers.
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
    x = width / 2 + shift_x * width - xx * width / 2 - xy * height / 2  # turned about the centre, then shifted
    y = height / 2 + shift_y * height - yx * width / 2 - yy * height / 2
    if flip:
        xx, xy, x = -xx, -xy, width - x
    return crop.then(np.array([[xx, xy, x], [yx, yy, y]]), mirrored=flip)


def augmented_pixels(image: np.ndarray, augmentation: Augmentation, generator: np.random.Generator) -> np.ndarray:
    """The crop, uint8 (H, W, 3), with random changes: occlusion, colour, blur, noise, JPEG, in this order."""
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
    """(256,) quantiles of the normal distribution with deviation 1.

    A random byte chooses one of them, which takes a quarter of the time that drawing a normal number takes.
    """
    quantiles = np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)])
    return quantiles / quantiles.std()


def _occluded(image: np.ndarray, largest: float, generator: np.random.Generator) -> np.ndarray:
    """The image with a rectangle of one colour at a random place."""
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
