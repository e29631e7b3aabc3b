"""The images that an int8 export takes its ranges from, and whether those ranges fit others. Knows no framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.runtime.errors import ArgumentError
from keylite.runtime.spec import Calibration, ModelSpec

COUNT = 200  # images by default; docs/diagnosis.md has how many are enough
FEWEST = 16
LOOKS = 24  # images on which a file's ranges are looked at: a second's work
OUTSIDE = 0.0002  # share of a layer's values at the ends of its range; like images stay below: docs/diagnosis.md
A_FEW = 8  # values at the ends that say nothing yet, of layers as small as a dense one
NATURAL_ENDS = (0.0, 6.0)  # of ReLU6, whatever the images


@dataclasses.dataclass(frozen=True)
class CalibrationSet:
    """Crops uint8 (N, H, W, 3) RGB as the model gets them, and what they are.

    In the first one two values of a corner pixel are 0 and 255, so that the input's range is that of bytes exactly
    where all channels are normalised alike, as EfficientNet-Lite's are.
    """

    pixels: np.ndarray
    facts: Calibration


def calibration_set(spec: ModelSpec, data: Dataset, count: int = COUNT, seed: int = 0) -> CalibrationSet:
    """Crops of `count` objects drawn from a data set (all, where there are fewer), without augmentation.

    Raises ValueError for fewer than FEWEST, or other keypoints than the model's.
    """
    if data.skeleton.names != spec.skeleton.names:
        raise ArgumentError(
            f"calibration: {data.called} has {len(data.skeleton)} keypoints, the model {len(spec.skeleton)}, "
            "or they have other names; take images of the model's own kind"
        )
    if min(count, len(data)) < FEWEST:
        raise ArgumentError(f"calibration: expected at least {FEWEST} objects, got {min(count, len(data))}")
    examples = _examples(spec, data)
    chosen = np.random.default_rng(seed).permutation(len(data))[:count]
    pixels = examples.batch(chosen.tolist())[0]
    pixels[0, 0, 0, :2] = 0, 255
    return CalibrationSet(pixels, Calibration(len(chosen), seed, data.name, data.fingerprint()))


def some_crops(spec: ModelSpec, data: Dataset, count: int = LOOKS) -> np.ndarray:
    """Crops uint8 (at most count, H, W, 3) RGB as the model gets them, spread evenly over a data set."""
    examples = _examples(spec, data)
    return examples.batch(np.linspace(0, len(data) - 1, min(count, len(data))).astype(int).tolist())[0]


def _examples(spec: ModelSpec, data: Dataset) -> Examples:
    """A data set as the model sees it."""
    data = dataclasses.replace(data, white_level=spec.white_level)
    return Examples(data, spec.size, box=spec.box, padding=spec.padding)


class Variant(NamedTuple):
    """A way to make an int8 file. note: by what, where it is not `export`, or why it is not possible."""

    words: str
    note: str = ""
    possible: bool = True


class Activation(NamedTuple):
    """What one layer of an int8 file gives for an image, from input to output.

    operator: the format's own name. low, high: the range that its 8 bits hold. values: real numbers, not steps of 8
    bits. reference: the same of the float network, or None.
    """

    layer: str
    operator: str
    low: float
    high: float
    values: np.ndarray
    reference: np.ndarray | None


def range_doubt(watched: Iterable[list[Activation]], calibration: Calibration, data: str) -> str | None:
    """What to say where an int8 file's ranges do not fit the images that it was watched on, or None where they do.

    Asks the file alone: a value at the end of its range stands for one beyond it. The true share is within a third of
    that, and comes from the float network, whose making costs more than the whole export.
    """
    ended: dict[str, int] = {}
    count: dict[str, int] = {}
    for activations in watched:
        for layer, _, low, high, values, _ in activations:
            half = (high - low) / 510
            unnatural = [end for end in (low, high) if min(abs(end - natural) for natural in NATURAL_ENDS) > 2 * half]
            ended[layer] = ended.get(layer, 0) + sum(int((abs(values - end) < half).sum()) for end in unnatural)
            count[layer] = count.get(layer, 0) + values.size
    found = [
        (ended[layer] / count[layer], layer) for layer in count if ended[layer] > max(A_FEW, OUTSIDE * count[layer])
    ]
    if not found:
        return None
    share, layer = max(found)
    return (
        f"calibration: {100 * share:.2g} % of what layer {layer} gives for {data} lies beyond the range taken from "
        f"{calibration.count} objects of {calibration.data}: they are too few, or of another kind"
    )
