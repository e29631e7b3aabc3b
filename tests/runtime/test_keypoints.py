"""Points of several objects can be taken apart, shown, drawn, and handed to pandas."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from keylite.runtime.drawing import MIDDLE, draw_points
from keylite.runtime.images import write_image
from keylite.runtime.keypoints import Keypoints
from keylite.runtime.skeleton import Skeleton

NAN = float("nan")
SKELETON = Skeleton(("nose", "<chin>"), edges=((0, 1),))


@pytest.fixture
def points() -> Keypoints:
    """Three objects, the last without a chin."""
    xy = np.array([[[10.5, 10.5], [10.5, 30.5]], [[30.5, 10.5], [30.5, 30.5]], [[50.5, 10.5], [NAN, NAN]]])
    score = np.array([[0.9, 0.8], [0.7, 0.6], [0.5, NAN]], np.float32)
    return Keypoints(xy, score, 2 * score.astype(np.float64), np.arange(12.0).reshape(3, 4), SKELETON)


CHOICES = {
    "a number": (1, [1]),
    "from the end": (-1, [2]),
    "of numpy": (np.int64(0), [0]),
    "a slice": (slice(1, None), [1, 2]),
    "a mask": (np.array([True, False, True]), [0, 2]),
    "a list": ([2, 0], [2, 0]),
    "none": ([], []),
}


@pytest.mark.parametrize(("which", "rows"), CHOICES.values(), ids=CHOICES)
def test_objects_are_chosen_as_numpy_does(points: Keypoints, which, rows: list[int]):
    found = points[which]
    for name in ("xy", "score", "sigma", "boxes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(points, name)[rows])
    assert found.skeleton is points.skeleton


def test_a_name_gives_its_points(points: Keypoints):
    np.testing.assert_array_equal(points["<chin>"], points.xy[:, 1])
    with pytest.raises(
        ValueError, match="^points: expected the name of a keypoint, got 'ear'; there are nose, <chin>$"
    ):
        points["ear"]


@pytest.mark.parametrize("which", [3, -4, [0, 3], np.array([True]), (0, 1), None, 0.5, np.zeros((2, 2), int)])
def test_what_is_no_choice_is_one_line(points: Keypoints, which):
    with pytest.raises(IndexError) as refused:
        points[which]
    assert "\n" not in str(refused.value)


def test_objects_come_one_by_one(points: Keypoints):
    assert [one.boxes.tolist() for one in points] == [[box] for box in points.boxes.tolist()]


def test_they_print_in_a_line_and_show_as_a_table(points: Keypoints):
    assert repr(points) == str(points) == "Keypoints(3 objects, 2 keypoints)"
    shown = points[2]._repr_html_()
    assert "Keypoints(1 object, 2 keypoints)" in shown
    assert [line.count("<td") for line in shown.splitlines() if "<td" in line] == [6, 6]
    assert "&lt;chin&gt;" in shown
    assert "<chin>" not in shown
    assert "nan" not in shown


def test_a_data_frame_has_a_row_per_object_and_keypoint(points: Keypoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    frame = points.to_dataframe()
    assert list(frame) == ["object", "keypoint", "x", "y", "score", "sigma"]
    rows = list(zip(*frame.values(), strict=True))
    assert len(rows) == 6
    assert rows[2] == (1, "nose", 30.5, 10.5, pytest.approx(0.7), pytest.approx(1.4))
    assert len(points[[]].to_dataframe()["object"]) == 0


def test_without_pandas_a_line_says_what_to_install(points: Keypoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="^pandas is not installed: install it with: pip install pandas$"):
        points.to_dataframe()


def test_a_plot_has_every_object_and_leaves_the_image_alone(points: Keypoints, tmp_path):
    image = np.full((40, 60, 3), 128, np.uint8)
    drawn = points.plot(image)
    assert (image == 128).all()
    for x, y in points.xy[np.isfinite(points.xy).all(axis=2)]:
        assert np.abs(drawn[int(y), int(x)].astype(int) - MIDDLE).max() < 40
    np.testing.assert_array_equal(points[1].plot(image), draw_points(image, points.xy[1], SKELETON))
    np.testing.assert_array_equal(points[[]].plot(image), image)
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(points.plot(tmp_path / "a.png"), drawn)
    np.testing.assert_array_equal(points.plot((tmp_path / "a.png").read_bytes()), drawn)
    with pytest.raises(ValueError, match="expected"):
        points.plot(image / 255)
