"""Labels that sit beside their place are found, whatever the model learnt from them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from keylite.data.dataset import from_arrays
from keylite.flips import FlipReport, flip_doubt, flip_report, flip_rows
from keylite.recipe import make_recipe
from keylite.runtime.predictor import Predictor

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
    advice = dict(flip_rows(report))["so"]
    assert (f"--flip-offset {beside / SIDE:.4f}" in advice) == (abs(beside) > 0)


REMEDIES = {  # of the box's width: whether a recipe takes it
    "as far as a recipe goes": (0.1, True),
    "as far to the left": (-0.1, True),
    "a little further": (0.1001, False),
    "a little further to the left": (-0.1001, False),
}


@pytest.mark.parametrize(("offset", "takes"), REMEDIES.values(), ids=REMEDIES)
def test_no_offset_is_advised_that_a_recipe_does_not_take(offset: float, takes: bool):
    report = FlipReport(64 * offset, None, offset, None, 0.02, 0.02, 0.02, 0.01, 0.1, 1.0, "100px", 9)
    assert ("--flip-offset" in report.remedy) == takes
    assert "--flip-p 0" in report.remedy
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
        "they sit 3.00 px right of their mirrored place .* --flip-offset 0.0469",
    ),
    "left, flipped about the middle": (-2.0, 0.0, "they sit 2.00 px left of .* --flip-offset -0.0312"),
    "right, and flipped about there": (3.0, 3 / SIDE, None),
    "symmetric, flipped about elsewhere": (0.0, 3 / SIDE, "trained with 0.046875.*--flip-offset 0.0000"),
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
    report = flip_report(Predictor.of(constant, make_spec(box="image", normalize="100px")), data, MIRROR)
    assert report.offset_interval[0] > 0, "where labels lie in their boxes, not where they lie beside their place"
    spread = np.linalg.norm(data.xy - data.xy.mean(axis=0), axis=-1).mean() / 100
    assert report.mean_shape == pytest.approx(spread)
    assert report.plain > spread
    assert dict(flip_rows(report))["so"] == "nothing: the model is no better than the labels' mean shape"
    assert flip_doubt(report, 0.0) is None


@pytest.mark.parametrize("name", ["left_eye", "chin"])
def test_a_keypoint_that_nothing_taught_is_left_out_with_its_mirror_image(name: str, squares, make_spec):
    predictor = Predictor.of(model(1.5), make_spec(box="image", normalize="100px", unlearnt={name: 0}))
    report = flip_report(predictor, squares(3.0), MIRROR)
    assert report.offset == pytest.approx(3.0, abs=1e-4)
    assert report.plain == pytest.approx(1.5 / 100, abs=1e-6)
    assert report.disagreement == pytest.approx(3.0, abs=1e-4)
