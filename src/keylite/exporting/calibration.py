"""Calibration: the images that an int8 export takes its ranges from, and whether the ranges fit other images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.runtime.errors import ArgumentError
from keylite.runtime.spec import Calibration, ModelSpec

COUNT = 200  # images by default; docs/diagnosis.md says how many are enough
FEWEST = 16  # images
LOOKS = 24  # images that ranges are checked on, which takes about a second
OUTSIDE = 0.0002  # share of a layer's values at the ends of its range; similar images stay below: docs/diagnosis.md
A_FEW = 8  # values at the ends of a range that may be chance, in a small layer
NATURAL_ENDS = (0.0, 6.0)  # of the function ReLU6, with any images


@dataclasses.dataclass(frozen=True)
class CalibrationSet:
    """Crops as the model gets them, uint8 (N, H, W, 3) RGB, and where they come from.

    Two values of a corner pixel in the first crop are set to 0 and 255. The range of the input is then exactly that of
    bytes, if all channels are normalised alike, as in EfficientNet-Lite.
    """

    pixels: np.ndarray
    facts: Calibration


def calibration_set(spec: ModelSpec, data: Dataset, count: int = COUNT, seed: int = 0) -> CalibrationSet:
    """The crops of `count` objects of a data set, drawn at random, not augmented. All, if there are fewer.

    Raises ArgumentError if there are fewer than FEWEST, or the keypoints are not the model's.
    """
    if data.skeleton.names != spec.skeleton.names:
        raise ArgumentError(
            f"calibration: {data.called} has {len(data.skeleton)} keypoints, the model {len(spec.skeleton)}, "
            "or they have other names; take images with the model's keypoints"
        )
    if count < FEWEST:
        raise ArgumentError(f"calibration_count: expected at least {FEWEST}, got {count}")
    if len(data) < FEWEST:
        raise ArgumentError(f"calibration: expected at least {FEWEST} objects, got {len(data)}")
    examples = _examples(spec, data)
    chosen = np.random.default_rng(seed).permutation(len(data))[:count]
    pixels = examples.batch(chosen)[0]
    pixels[0, 0, 0, :2] = 0, 255
    return CalibrationSet(pixels, Calibration(len(chosen), seed, data.identity()))


def some_crops(spec: ModelSpec, data: Dataset, count: int = LOOKS) -> np.ndarray:
    """Crops as the model gets them, uint8 (at most count, H, W, 3) RGB, at even distances in a data set."""
    examples = _examples(spec, data)
    return examples.batch(np.linspace(0, len(data) - 1, min(count, len(data))).astype(int))[0]


def _examples(spec: ModelSpec, data: Dataset) -> Examples:
    """The data set as the model of this spec sees it."""
    data = dataclasses.replace(data, white_level=spec.white_level)
    return Examples(data, spec.size, box=spec.box, padding=spec.padding)


class Variant(NamedTuple):
    """A way to make an int8 file. note: the tool that makes it, if `export` does not, or why it is not possible."""

    words: str
    note: str = ""
    possible: bool = True


class Activation(NamedTuple):
    """The output of one layer of an int8 file for an image.

    operator: the format's name of the layer's kind. low, high: the range that its 8 bits hold. values: the output as
    real numbers. reference: the output of the same layer in the float network, or None.
    """

    layer: str
    operator: str
    low: float
    high: float
    values: np.ndarray
    reference: np.ndarray | None


def range_doubt(watched: Iterable[list[Activation]], calibration: Calibration, data: str) -> str | None:
    """A warning if an int8 file's ranges do not fit the images that it was watched on, else None.

    watched: the layers' outputs per image. A value at the end of a range counts as one beyond it: the int8 file cannot
    show values beyond. Their true share differs from this count by a third at most; it would need the float network,
    which takes longer to make than the export.
    """
    ended: dict[str, int] = {}
    count: dict[str, int] = {}
    for activations in watched:
        for layer, _, low, high, values, _ in activations:
            half = (high - low) / 510
            ends = [end for end in (low, high) if min(abs(end - natural) for natural in NATURAL_ENDS) > 2 * half]
            ended[layer] = ended.get(layer, 0) + sum(int((abs(values - end) < half).sum()) for end in ends)
            count[layer] = count.get(layer, 0) + values.size
    clipped = [
        (ended[layer] / count[layer], layer) for layer in count if ended[layer] > max(A_FEW, OUTSIDE * count[layer])
    ]
    if not clipped:
        return None
    share, layer = max(clipped)
    return (
        f"calibration: {100 * share:.2g} % of the values of layer {layer} for {data} are beyond the range taken from "
        f"{calibration.count} objects of {calibration.data.name}: these are too few, or of another kind"
    )
