"""Drift: how far an exported file's points lie from its parent's, also on other kernels than the usual ones.

Kernels are the functions that calculate a file's layers. Two programs may round the same int8 layer differently.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.figures import object_nme
from keylite.evaluation.predictions import Predictions, predict_dataset
from keylite.runtime.predictor import Predictor
from keylite.runtime.spec import ModelSpec

REFERENCE_ENGINE = "litert-reference"  # the engine whose results are also those of TensorFlow Lite Micro
KERNELS = {  # engine -> its kernels, in words
    "litert": "XNNPACK",
    REFERENCE_ENGINE: "LiteRT's reference kernels, whose results are those of TensorFlow Lite Micro",
}
MOST = 200  # objects that are measured on the reference kernels, which take some 13 times as long as XNNPACK


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Distances between the points of a child and those of its parent, px of the model input.

    p50 and p95: 50 % and 95 % of the points stay below.
    """

    mean: float
    p50: float
    p95: float
    max: float


class OnKernels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A child on the kernels of one engine: its drift over all points, and its NME beside its parent's.

    count: of the objects on which these were measured.
    """

    count: int
    drift: Drift
    nme: float
    nme_parent: float


def point_drift(child: np.ndarray, parent: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, K) distances between the points of a child and those of its parent, px of the model input.

    child, parent: (N, K, 2) unit coordinates. size: (W, H).
    """
    return np.linalg.norm((child - parent) * np.asarray(size), axis=-1)


def drift_of(distance: np.ndarray) -> Drift:
    """The drift over all distances of an array."""
    p50, p95, largest = np.percentile(distance, (50, 95, 100)).tolist()
    return Drift(float(distance.mean()), p50, p95, largest)


def by_kernels(
    child: Path, data: Dataset, parent: Predictions, usual: Predictions, spec: ModelSpec
) -> dict[str, OnKernels]:
    """An int8 `.tflite` file on XNNPACK and on LiteRT's reference kernels: figures by engine.

    parent, usual: the predictions of the parent, and those of the child on XNNPACK, for `data`. The figures are on the
    same objects: all of them, or MOST, drawn at random. Raises ModelFileError if the reference kernels cannot run it.
    """
    rows = np.arange(len(data))
    if len(data) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))
    chosen = data if len(rows) == len(data) else data.subset(rows)
    reference = predict_dataset(Predictor(child, engine=REFERENCE_ENGINE, device="cpu"), chosen)
    before = float(np.nanmean(object_nme(parent, data, spec.normalize)[rows]))
    taught = [k for k in range(len(spec.skeleton)) if k not in spec.untaught]
    figures = {}
    for engine, predictions, objects, own in (
        ("litert", usual, data, rows),
        (REFERENCE_ENGINE, reference, chosen, np.arange(len(rows))),
    ):
        nme = object_nme(predictions, objects, spec.normalize)[own]
        distance = point_drift(predictions.unit_xy[own], parent.unit_xy[rows], spec.size)[:, taught]
        figures[engine] = OnKernels(len(rows), drift_of(distance), float(np.nanmean(nme)), before)
    return figures


def kernels_line(kernels: dict[str, OnKernels], count: int, held: tuple[str, ...]) -> str:
    """Which kernels a certificate holds for, and the figures on each. held: engines that judge it. count: objects."""
    shown = [
        f"{name} drift p95 {on.drift.p95:.4f}, max {on.drift.max:.4f} px, NME {100 * on.nme:.3f} %"
        for name, on in kernels.items()
    ]
    measured = min((on.count for on in kernels.values()), default=count)
    of = "" if measured == count else f" (on {measured} objects, drawn at random)"
    return f"kernels: held to the budget on {'; '.join([' and '.join(held), *shown])}{of}"
