"""Findings from predictions: each kind of wrong label is found with its reason, without any training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.labels.check import crossing_of
from keylite.labels.suspects import suspect_findings
from keylite.runtime.errors import ArgumentError
from keylite.runtime.skeleton import Skeleton

pytest.importorskip("scipy", reason="needs scipy")

NAMES = ("left_ear", "right_ear", "nose", "tail")
MIRROR = (1, 0, 2, 3)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """80 objects of any turn, for which shapes could say little."""
    generator = np.random.default_rng(0)
    shape = np.array([(-9, -4), (8, -6), (1, -14), (2, 21)], float)
    turns = generator.uniform(0, 2 * np.pi, 80)
    places = np.stack([np.cos(turns), np.sin(turns), -np.sin(turns), np.cos(turns)], axis=1).reshape(-1, 2, 2)
    xy = shape @ places + generator.uniform(30, 70, (80, 1, 2))
    return from_arrays([np.zeros((100, 100, 3), np.uint8)] * 80, xy, skeleton=Skeleton(NAMES, mirror=MIRROR))


@pytest.fixture(scope="module")
def predicted(data: Dataset) -> np.ndarray:
    """The points of models that err by half a pixel."""
    return data.xy + np.random.default_rng(1).normal(0, 0.5, data.xy.shape)


WRONG = {
    "swapped": (
        lambda xy: xy[7][list(MIRROR)],
        "left and right are swapped: its points are then ",
        ("left_ear", "right_ear"),
    ),
    "permuted": (
        lambda xy: xy[7][[3, 1, 2, 0]],
        "points are in another order: tail lies where left_ear belongs",
        ("left_ear", "tail"),
    ),
    "mirrored": (lambda xy: [100, 0] + xy[7] * [-1, 1], "the points are those of the mirrored picture", ()),
    "another": (lambda xy: xy[30], "the labels fit another picture, image_000030", ()),
    "shifted": (
        lambda xy: xy[7] + [[0, 0], [0, 0], [8, 6], [0, 0]],
        "shifted from where models that have not seen it",
        ("nose",),
    ),
    "unlikely": (lambda xy: xy[7] + [17, 9], "models that have not seen it put its points 19.", ()),
}


@pytest.mark.parametrize(("kind", "change", "words", "names"), [(k, *w) for k, w in WRONG.items()], ids=WRONG)
def test_a_wrong_label_is_found_with_its_reason(kind, change, words, names, data: Dataset, predicted: np.ndarray):
    xy = data.xy.copy()
    xy[7] = change(data.xy)
    first, *others = suspect_findings(dataclasses.replace(data, xy=xy), predicted, MIRROR)
    assert (first.number, first.kind, first.keypoints) == (7, kind, names)
    assert first.sentence.startswith(words)
    assert first.times > 1
    assert len(others) <= 2  # of 79: errors of half a pixel are sometimes far from the usual one
    assert first.correction is None  # models alone make nothing certain


def test_unlabelled_points_are_no_suspects(data: Dataset, predicted: np.ndarray):
    xy = data.xy.copy()
    xy[:, 3], xy[5, :3] = np.nan, np.nan
    xy[5, 0] = data.xy[5, 0]
    assert len(suspect_findings(data.with_xy(xy), predicted, None)) <= 2


@pytest.mark.numeric
def test_folds_are_trained_once_and_their_suspects_are_drawn(tmp_path: Path):
    pytest.importorskip("torch", reason="needs keylite[pytorch]")
    data = keylite.gauges(24, size=32)
    recipe = keylite.Recipe(
        backbone="tiny", size=32, epochs=2, batch=8, head="regression", hidden=16, pretrained="none", workers=0
    )
    out = tmp_path / "models"
    report = keylite.check(data, folds=2, out=out, recipe=recipe)
    model = out / "fold-2/last.safetensors"
    written = model.stat().st_mtime_ns
    assert keylite.check(data, folds=2, out=out, recipe=recipe).findings == report.findings
    assert model.stat().st_mtime_ns == written
    suspects = {one.number for one in report.findings if one.times is not None}
    assert (out / "suspects/worst.jpg").is_file() == bool(suspects)


def test_arguments_of_folds_go_together(tmp_path: Path, data: Dataset):
    assert crossing_of(None, None, None, False) is None
    with pytest.raises(ArgumentError, match="out: expected a folder"):
        keylite.check(data, folds=2)
    with pytest.raises(ArgumentError, match="recipe: is about models that are trained"):
        keylite.check(data, recipe=keylite.Recipe())
    with pytest.raises(ArgumentError, match="folds: expected labels of one part"):
        keylite.check(data, val=data, folds=2, out=tmp_path / "o")
