"""Labels that sit beside their place are found, whatever the model learnt from them."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.evaluation.flips import FlipReport, flip_doubt, flip_report, flip_rows
from keylite.evaluation.predictions import predict_dataset
from keylite.runtime.predictor import Predictor
from keylite.training.recipe import make_recipe

SIDE, COUNT = 64, 24
MIRROR = (0, 2, 1, 3)


def bright(pixels: np.ndarray) -> np.ndarray:
    """Where the red square's middle is, (B, 2) unit."""
    mass = (pixels[..., 0] > 128).astype(float)
    places = (np.arange(SIDE) + 0.5) / SIDE
    total = mass.sum(axis=(1, 2))
    return np.stack([mass.sum(axis=1) @ places, mass.sum(axis=2) @ places], axis=1) / total[:, None]


def model(beside: float):
    """An engine that gives four points around the square, all of them `beside` px too far right."""
    around = np.array([[0, -8], [-8, 0], [8, 0], [0, 8]]) / SIDE

    def engine(pixels: np.ndarray) -> np.ndarray:
        return (bright(pixels)[:, None] + around + (beside / SIDE, 0)).astype(np.float32)

    return engine


@pytest.fixture
def squares(make_spec):
    """A function: images of a square whose labels sit so many px right of their place."""

    def make(beside: float):
        rng = np.random.default_rng(0)
        middles = rng.integers(20, 44, (COUNT, 2))
        images = np.zeros((COUNT, SIDE, SIDE, 3), np.uint8)
        for image, (x, y) in zip(images, middles, strict=True):
            image[y - 4 : y + 4, x - 4 : x + 4] = 255
        xy = middles[:, None] + np.array([[0, -8], [-8, 0], [8, 0], [0, 8]]) + (beside, 0)
        return from_arrays(list(images), xy, skeleton=make_spec().skeleton, groups=[str(row) for row in range(COUNT)])

    return make


@pytest.mark.parametrize("learnt", [0.0, 1.5, 3.0], ids=["with flips", "between", "without flips"])
@pytest.mark.parametrize("beside", [0.0, 3.0, -2.0])
def test_the_offset_is_that_of_the_labels(beside: float, learnt: float, squares, make_spec):
    predictor = Predictor.of(model(learnt), make_spec(box="image", normalize="100px"))
    report = flip_report(predictor, squares(beside), MIRROR)
    assert report.offset == pytest.approx(beside, abs=1e-4)
    assert report.offset_of_box == pytest.approx(beside / SIDE, abs=1e-6)
    assert report.plain == pytest.approx(abs(beside - learnt) / 100, abs=1e-6)
    assert report.mirrored == pytest.approx(abs(beside + learnt) / 100, abs=1e-6)
    assert report.flip_test == pytest.approx(abs(beside) / 100, abs=1e-6)
    assert report.centred == pytest.approx(0, abs=1e-6)
    assert report.disagreement == pytest.approx(2 * learnt, abs=1e-4)
    advice = dict(flip_rows(report))["what to do"]
    assert (f"`flip_offset={beside / SIDE:.4f}" in advice) == (abs(beside) > 0)


def test_an_offset_is_held_to_the_width_of_the_box(squares, make_spec):
    data = dataclasses.replace(squares(3.0), box=np.tile([2.0, 6, 62, 54], (COUNT, 1)))
    predictor = Predictor.of(model(0.0), make_spec(box="annotation", padding=0.0, normalize="100px"))
    report = flip_report(predictor, data, MIRROR)
    assert report.offset == pytest.approx(3.0, abs=0.05)
    assert report.offset_of_box == pytest.approx(report.offset / 60)
    assert report.offset_of_box_interval == pytest.approx([edge / 60 for edge in report.offset_interval])
    wider = predict_dataset(predictor, data, boxes=np.tile([0.0, 4, 64, 56], (COUNT, 1)))
    report = flip_report(predictor, data, MIRROR, plain=wider, normalize="box_side")
    assert report.offset_of_box == pytest.approx(report.offset / 64), "of the box that was looked at"
    error = np.linalg.norm(wider.xy - data.xy, axis=-1).mean()
    assert report.plain == pytest.approx(error / np.sqrt(60 * 48)), "of the label's box"
    unknown = dataclasses.replace(wider, normaliser_boxes=None)
    report = flip_report(predictor, data, MIRROR, plain=unknown, normalize="box_side")
    assert report.plain == pytest.approx(error / np.sqrt(64 * 52)), "none is known"
    with pytest.raises(ValueError, match="expected labelled points to compare the predictions with, got none"):
        flip_report(predictor, data.with_xy(np.full_like(data.xy, np.nan)), MIRROR)


def test_few_groups_have_no_interval(squares, make_spec):
    predictor = Predictor.of(model(0.0), make_spec(box="image", normalize="100px"))
    report = flip_report(predictor, squares(3.0).subset([0, 1, 2]), MIRROR)
    assert (report.offset_interval, report.offset_of_box_interval, report.count) == (None, None, 3)


def report_of(offset: float, interval: tuple[float, float] | None = None, plain: float = 0.02) -> FlipReport:
    """Of labels that sit `offset` of the box's width, 64 px, right of their place."""
    px = None if interval is None else (64 * interval[0], 64 * interval[1])
    return FlipReport(64 * offset, px, offset, interval, plain, 0.03, 0.025, 0.01, 0.1, 1.25, "100px", 9)


PLACES = {  # offset and its interval, a place: whether labels sit there for all that is known
    "in the interval": (0.05, (0.04, 0.06), 0.042, True),
    "at its end": (0.05, (0.04, 0.06), 0.06, True),
    "below": (0.05, (0.04, 0.06), 0.039, False),
    "above": (0.05, (0.04, 0.06), 0.061, False),
    "on the other side": (0.05, (0.04, 0.06), -0.05, False),
    "a quarter of a px of 128 away": (0.05, (0.0499, 0.0501), 0.0481, True),
    "a little more": (0.05, (0.0499, 0.0501), 0.0479, False),
    "no interval": (0.05, None, 0.0, True),
}


@pytest.mark.parametrize(("offset", "interval", "place", "there"), PLACES.values(), ids=PLACES)
def test_labels_sit_where_the_interval_allows(offset: float, interval, place: float, there: bool):
    report = report_of(offset, interval)
    assert report.sit_at(place) == there
    assert (flip_doubt(report, place) is None) == there
    assert report_of(offset, interval, plain=0.1).sit_at(place), "no better than the mean shape"


def test_a_doubt_says_which_way():
    for offset, words in ((0.01, "they sit 0.64 px right of"), (-0.01, "they sit 0.64 px left of")):
        assert words in flip_doubt(report_of(offset, (offset - 0.001, offset + 0.001)), 0.0)


ADVICE = {
    "too few groups": (report_of(0.05), "nothing: there are too few groups for an interval"),
    "too few of a model that has learnt nothing": (report_of(0.05, plain=0.1), "nothing: there are too few groups"),
    "learnt nothing": (report_of(0.05, (0.04, 0.06), 0.1), "nothing: the model is no better than"),
    "symmetric": (report_of(0.01, (-0.01, 0.03)), "flip as usual"),
    "beside": (report_of(-0.05, (-0.06, -0.04)), "train with `flip_offset=-0.0500`"),
}


@pytest.mark.parametrize(("report", "words"), ADVICE.values(), ids=ADVICE)
def test_a_report_s_rows_say_what_to_do(report: FlipReport, words: str):
    assert dict(flip_rows(report))["what to do"].startswith(words)


def test_a_report_s_rows_say_its_figures():
    rows = [value for _, value in flip_rows(report_of(0.05, (0.04, 0.06)))[:-1]]
    assert rows == [
        "+3.20 [+2.56, +3.84] px, +0.0500 of the box",
        "2.00%",
        "3.00%",
        "2.50%",
        "1.00%",
        "10.00%",
        "1.25 px",
    ]
    assert flip_rows(report_of(-0.05))[0][1] == "-3.20 px, -0.0500 of the box"


REMEDIES = {  # of the box's width: whether a recipe takes it
    "as far as a recipe goes": (0.1, True),
    "as far to the left": (-0.1, True),
    "a little further": (0.1001, False),
    "a little further to the left": (-0.1001, False),
}


@pytest.mark.parametrize(("offset", "takes"), REMEDIES.values(), ids=REMEDIES)
def test_no_offset_is_advised_that_a_recipe_does_not_take(offset: float, takes: bool):
    report = report_of(offset)
    assert ("`flip_offset=" in report.remedy) == takes
    assert "`flip_p=0`" in report.remedy
    if takes:
        make_recipe({"flip_offset": offset})
    else:
        with pytest.raises(ValueError, match="flip_offset"):
            make_recipe({"flip_offset": offset})


DOUBTS = {
    "symmetric": (0.0, 0.0, None),
    "too little to matter": (0.1, 0.0, None),
    "right, flipped about the middle": (
        3.0,
        0.0,
        "they sit 3.00 px right of their mirrored place .* `flip_offset=0.0469",
    ),
    "left, flipped about the middle": (-2.0, 0.0, "they sit 2.00 px left of .* `flip_offset=-0.0312"),
    "right, and flipped about there": (3.0, 3 / SIDE, None),
    "symmetric, flipped about elsewhere": (0.0, 3 / SIDE, "trained with 0.046875.*`flip_offset=0.0000"),
}


@pytest.mark.parametrize(("beside", "used", "words"), DOUBTS.values(), ids=DOUBTS)
def test_flips_about_another_place_than_the_labels_are_doubted(beside, used, words, squares, make_spec):
    predictor = Predictor.of(model(0.0), make_spec(box="image", normalize="100px"))
    doubt = flip_doubt(flip_report(predictor, squares(beside), MIRROR), used)
    assert (doubt is None) == (words is None)
    assert words is None or re.search(words, doubt)


def test_a_model_that_has_learnt_nothing_tells_nothing_of_labels(squares, make_spec):
    def constant(pixels: np.ndarray) -> np.ndarray:
        return np.full((len(pixels), 4, 2), 0.3, np.float32)

    data = squares(8.0)
    xy = data.xy.copy()
    xy[3, 1] = xy[5:9, 0] = np.nan
    data = data.with_xy(xy)
    report = flip_report(Predictor.of(constant, make_spec(box="image", normalize="100px")), data, MIRROR)
    assert report.offset_interval[0] > 0, "where labels lie in their boxes, not where they lie beside their place"
    away = np.linalg.norm(xy - np.nanmean(xy, axis=0), axis=-1) / 100
    spread = np.nanmean(np.nanmean(away, axis=1))
    assert report.mean_shape == pytest.approx(spread)
    assert report.plain > spread
    assert dict(flip_rows(report))["what to do"] == "nothing: the model is no better than the labels' mean shape"
    assert flip_doubt(report, 0.0) is None


@pytest.mark.parametrize("name", ["left_eye", "chin"])
def test_a_keypoint_that_nothing_taught_is_left_out_with_its_mirror_image(name: str, squares, make_spec):
    predictor = Predictor.of(model(1.5), make_spec(box="image", normalize="100px", unlearnt={name: 0}))
    report = flip_report(predictor, squares(3.0), MIRROR)
    assert report.offset == pytest.approx(3.0, abs=1e-4)
    assert report.plain == pytest.approx(1.5 / 100, abs=1e-6)
    assert report.disagreement == pytest.approx(3.0, abs=1e-4)


def test_a_report_prints_its_rows_and_is_one_line_in_a_list() -> None:
    report = report_of(0.05, (0.04, 0.06))
    assert repr(report) == f"FlipReport(labels sit +3.20 px right of the symmetric place, {report.count} objects)"
    lines = str(report).splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == [label for label, _ in flip_rows(report)]
    assert all(value in line for line, (_, value) in zip(lines, flip_rows(report), strict=True))
    assert report._repr_html_().startswith("<table>")
    assert report.to_dict() == json.loads(report.to_json())
    assert report.to_dict()["offset_interval"] == list(report.offset_interval)
