"""Ranges come from enough images of the right kind, the same ones for the same seed, and tell when they do not fit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.exporting.calibration import (
    COUNT,
    FEWEST,
    LOOKS,
    OUTSIDE,
    Activation,
    calibration_set,
    range_doubt,
    some_crops,
)
from keylite.runtime.geometry import crop_box
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import Calibration, DataId


@pytest.fixture
def spec(make_spec):
    return make_spec(box="image")


def test_the_documented_numbers():
    assert (COUNT, FEWEST) == (200, 16)


def test_the_images_are_crops_without_augmentation_and_are_named(spec, make_colours):
    data = make_colours(40, 1, "patches")
    made = calibration_set(spec, data, 20, seed=3)
    assert made.facts == Calibration(20, 3, DataId("patches", data.fingerprint()))
    assert made.pixels.dtype == np.uint8
    assert made.pixels.shape == (20, 64, 64, 3)
    assert tuple(made.pixels[0, 0, 0, :2]) == (0, 255), "the input's range is that of bytes"
    images = np.stack(data.images)
    for row, pixels in enumerate(made.pixels):
        same = [np.array_equal(pixels.ravel()[3:], image.ravel()[3:]) for image in images]
        assert sum(same) == 1, row
    assert np.array_equal(made.pixels[1:], [images[i] for i in np.random.default_rng(3).permutation(40)[1:20]])


def test_a_seed_draws_the_same_images_again_and_another_others(spec, make_colours):
    data = make_colours(40, 1)
    one, again, other = (calibration_set(spec, data, 16, seed=seed).pixels for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_fewer_objects_than_asked_for_are_all_taken_once(spec, make_colours):
    data = make_colours(18, 1)
    made = calibration_set(spec, data, 500)
    assert made.facts.count == len(made.pixels) == 18
    assert len({pixels[1:].tobytes() for pixels in made.pixels}) == 18


def test_the_crop_is_the_predictor_s(make_spec):
    """Around the annotation's box, grown by the spec's padding; the data set itself is left as it was."""
    spec = make_spec(size=(48, 32))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (90, 120, 3), np.uint8) for _ in range(FEWEST)]
    before = [image.copy() for image in images]
    box = np.array([30.0, 20, 90, 70])
    data = from_arrays(
        images, rng.uniform(30, 60, (FEWEST, 4, 2)), skeleton=spec.skeleton, boxes=np.tile(box, (FEWEST, 1))
    )
    pixels = calibration_set(spec, data).pixels
    crop = crop_box(box, spec.size, spec.padding)
    wanted = {crop.warp(image).ravel()[3:].tobytes() for image in images}
    assert {one.ravel()[3:].tobytes() for one in pixels} == wanted
    assert all(np.array_equal(*pair) for pair in zip(images, before, strict=True))


def _renamed(data):
    return data.with_skeleton(Skeleton(("a", "b", "c", "d")))


REFUSED = {
    "too few objects": (lambda data: data.subset(np.arange(15)), 200, "expected at least 16 objects, got 15"),
    "too few asked for": (lambda data: data, 15, "_count: expected at least 16, got 15"),
    "less than none asked for": (lambda data: data, -1, "_count: expected at least 16, got -1"),
    "other names": (_renamed, 200, "has 4 keypoints, the model 4, or they have other names"),
}


@pytest.mark.parametrize(("change", "count", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_calibrate_is_refused(change, count, words, spec, make_colours):
    data = change(make_colours(20, 1))
    with pytest.raises(ValueError, match=f"^calibration.*{words}") as caught:
        calibration_set(spec, data, count)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("have", "count"), [(100, LOOKS), (7, 7), (1, 1)])
def test_some_crops_are_spread_over_the_data(have, count, spec, make_colours):
    data = make_colours(have, 1)
    crops = some_crops(spec, data)
    images = np.stack(data.images)
    assert len(crops) == len(np.unique(crops.reshape(count, -1), axis=0)) == count
    assert np.array_equal(crops[0], images[0])
    assert np.array_equal(crops[-1], images[-1])


# ---- do ranges fit?

FACTS = Calibration(24, 0, DataId("train", "0" * 64))


def watched(share: float, low: float, high: float, layer: str = "conv") -> list[Activation]:
    """A layer that gives its range's upper end for this share of 100000 values, else the middle."""
    values = np.full(100_000, (low + high) / 2)
    values[: round(share * 100_000)] = high
    return [Activation(layer, "Conv", low, high, values, None)]


DOUBTS = {
    "none at the end": (0.0, -1, 1, False),
    "as many as there may be": (OUTSIDE, -1, 1, False),
    "twice as many": (2 * OUTSIDE, -1, 1, True),
    "at the end of ReLU6": (0.5, 0, 6, False),
    "at the end of less than ReLU6": (0.5, 0, 4, True),
}


@pytest.mark.parametrize(("share", "low", "high", "doubted"), DOUBTS.values(), ids=DOUBTS)
def test_values_at_the_end_of_a_range_are_doubted(share, low, high, doubted):
    said = range_doubt([watched(share, low, high)], FACTS, "val")
    assert (said is not None) == doubted
    if doubted:
        assert f"{100 * share:.2g} % of the values of layer conv for val" in said
        assert "24 objects of train" in said
        assert "\n" not in said


def test_the_worst_layer_over_all_images_is_named():
    good, bad = watched(0.0, -1, 1, "good")[0], watched(0.01, -1, 1, "bad")[0]
    assert "0.5 % of the values of layer bad" in range_doubt([[good, bad], watched(0, -1, 1, "bad")], FACTS, "val")


def test_a_layer_s_lower_end_counts_as_well():
    (layer,) = watched(0.01, -1, 1)
    turned = layer._replace(values=-layer.values)
    assert "1 % of" in range_doubt([[turned]], FACTS, "val")


def test_facts_are_plain_json():
    assert msgspec.json.decode(msgspec.json.encode(FACTS), type=Calibration) == FACTS
