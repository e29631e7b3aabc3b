"""Findings from predictions: each kind of wrong label is found with its reason, without any training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.evaluation.predictions import Predictions
from keylite.labels.check import crossing_of
from keylite.labels.suspects import suspect_findings
from keylite.runtime.errors import ArgumentError
from keylite.runtime.geometry import crop_box
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


def test_labels_that_are_merely_offset_name_no_innocent_picture():
    generator = np.random.default_rng(0)
    shape = generator.uniform(-20, 20, (12, 2))
    xy = shape + generator.normal(0, 1, (500, 12, 2)) + generator.uniform(60, 140, (500, 1, 2))
    data = from_arrays([np.zeros((200, 200, 3), np.uint8)] * 500, xy)
    predicted = xy + generator.normal(0, 0.5, xy.shape)
    wrong = xy.copy()
    wrong[:10] += [20, 9]
    kinds = {one.number: one.kind for one in suspect_findings(data.with_xy(wrong), predicted, None)}
    assert [kinds[row] for row in range(10)] == ["unlikely"] * 10


def test_a_keypoint_that_a_model_has_not_learnt_is_judged_by_none(data: Dataset, predicted: np.ndarray):
    predicted, xy = predicted.copy(), data.xy.copy()
    predicted[:40, 3] = np.nan
    xy[7] = xy[7][[3, 1, 2, 0]]
    xy[50, 2] += [8, 6]
    found = {one.number: one.kind for one in suspect_findings(data.with_xy(xy), predicted, None)}
    assert 7 in found
    assert found[50] == "shifted"


def test_findings_of_models_belong_to_their_objects_and_replace_those_of_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Object 0 has no box, so the models judge the others; 5 is swapped, and 6 is odd in its shape alone."""
    generator = np.random.default_rng(0)
    true = np.array([(30, 30), (70, 32), (52, 55), (48, 80)]) + generator.normal(0, 2, (40, 4, 2))
    xy = true.copy()
    xy[5] = xy[5][list(MIRROR)]
    xy[6, 2] += [0, 40]
    boxes = np.tile([10.0, 10, 90, 90], (40, 1))
    boxes[0] = np.nan
    images = [np.full((100, 100, 3), 255 - row, np.uint8) for row in range(40)]
    data = from_arrays(images, xy, boxes=boxes, skeleton=Skeleton(NAMES, mirror=MIRROR))
    shown = true.copy()
    shown[6] = xy[6]
    judged = data.subset(np.arange(1, 40))
    crops = tuple(crop_box(box, (64, 64)) for box in judged.box)
    unit = np.stack([crop.to_crop(points) / 64 for crop, points in zip(crops, shown[1:], strict=True)])
    made = Predictions(shown[1:], unit, np.full((39, 4), 0.5), judged.box, crops)
    monkeypatch.setattr("keylite.labels.check.cross_fitted", lambda *_: (judged, made))
    alone = {one.number: one.kind for one in keylite.check(data).findings if one.number is not None}
    report = keylite.check(data, folds=2, out=tmp_path / "models", recipe=keylite.Recipe(box="annotation"))
    found = {one.number: one for one in report.findings if one.number is not None and one.kind != "no-box"}
    assert alone[5] == "swapped" and alone[6] in ("shape", "point")
    assert found[5].kind == "swapped" and found[5].times is not None and found[5].image == data.image_names[5]
    assert [one.kind for one in report.findings if one.number == 5] == ["swapped"]
    assert found[6].kind == alone[6] and found[6].times is None  # the models agree with its label
    assert {path.name for path in (tmp_path / "models/suspects").iterdir()} == {
        "worst.jpg",
        "worst-01-image_000005.jpg",
    }


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


def test_arguments_of_folds_go_together(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch):
    assert crossing_of(None, None, None, False) is None
    with pytest.raises(ArgumentError, match="out: expected a folder"):
        keylite.check(data, folds=2)
    with pytest.raises(ArgumentError, match="recipe: is about models that are trained"):
        keylite.check(data, recipe=keylite.Recipe())
    with pytest.raises(ArgumentError, match="folds: expected labels of one part, got 2"):
        keylite.check(data, val=data, folds=2, out=tmp_path / "o")
    with monkeypatch.context() as patch:  # what is known at once is refused before labels are examined
        patch.setattr("keylite.labels.check._examined", lambda *_: pytest.fail("examined"))
        with pytest.raises(ArgumentError, match="fold"):
            keylite.check(data, folds=81, out=tmp_path / "o")
        with pytest.raises(ArgumentError, match="patience: expected 0 with folds, got 3"):
            keylite.check(data, folds=2, out=tmp_path / "o", recipe=keylite.Recipe(patience=3))
