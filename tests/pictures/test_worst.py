"""The worst objects come first, and pictures that are not theirs are left alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.pictures import worst
from keylite.runtime import drawing
from keylite.runtime.geometry import crop_box
from keylite.runtime.images import read_image
from keylite.runtime.skeleton import Skeleton

NAN = float("nan")
SKELETON = Skeleton(("left_eye", "right_eye", "nose"), edges=((0, 1),), mirror=(1, 0, 2))
XY = np.array([[20.5, 20.5], [60.5, 20.5], [40.5, 45.5]])
DOWN = np.array([0.0, 10])


def flat(width: int, height: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def shows(image: np.ndarray, point: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether a JPEG has a colour at a point."""
    return np.abs(image[int(point[1]), int(point[0])].astype(int) - colour).max() < 60


def measured() -> tuple[Dataset, SimpleNamespace]:
    images = [flat(80, 60, 40 * i) for i in range(5)]
    data = from_arrays(images, np.tile(XY, (5, 1, 1)), skeleton=SKELETON)
    crops = tuple(crop_box(np.array([0, 0, 80, 60.0]), (32, 24)) for _ in range(5))
    return data, SimpleNamespace(xy=data.xy + DOWN, crops=crops)


@pytest.mark.parametrize(
    "errors",
    [
        np.array([0.1, 0.4, NAN, 0.3, 0.0]),
        np.array([[3, 3, 3], [4, 5, 3], [NAN, NAN, NAN], [3.5, NAN, 3.5], [0, 0, 0]], np.float64),
    ],
    ids=["NME", "px"],
)
def test_worst_come_first_as_the_model_saw_them(errors: np.ndarray, tmp_path: Path, monkeypatch) -> None:
    data, found = measured()
    monkeypatch.setattr(worst, "COLUMNS", 2)
    paths = worst.draw_worst(data, found, errors, 3, tmp_path / "made" / "here")
    names = ["worst.jpg", "worst-01-image_000001.jpg", "worst-02-image_000003.jpg", "worst-03-image_000000.jpg"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "made" / "here").iterdir()) == sorted(names)
    levels = [int(read_image(path)[2, 2, 0]) for path in paths[1:]]
    np.testing.assert_allclose(levels, [40, 120, 0], atol=3)  # JPEG
    tile = read_image(paths[1])
    assert tile.shape[1] == 384
    legend = tile[288:]
    assert all(np.abs(legend.astype(int) - colour).max(axis=2).min() < 30 for colour in (drawing.TRUTH, drawing.ERROR))
    scale = 384 / 80
    assert shows(tile, XY[2] * scale + DOWN * scale, drawing.MIDDLE)
    assert shows(tile, XY[2] * scale, drawing.TRUTH)
    sheet = 2 * (288 + drawing.CAPTION + 4) + 4
    whole = read_image(paths[0])
    assert whole.shape[0] > sheet  # the legend is below
    assert whole.shape[1] == 2 * 388 + 4


def test_worst_of_nothing_writes_nothing(tmp_path: Path) -> None:
    data, found = measured()
    assert worst.draw_worst(data, found, np.full(5, NAN), 3, tmp_path / "none") == []
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match=r"errors: expected NME \(5,\)"):
        worst.draw_worst(data, found, np.zeros(4), 3, tmp_path)


def test_pictures_of_an_earlier_call_are_removed_and_nothing_else(tmp_path: Path) -> None:
    data, found = measured()
    others = ["worst-of-all.jpg", "worst-1.jpg", "worst-01-mine.png", "a.jpg"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    worst.draw_worst(data, found, np.array([0.1, 0.4, 0.2, 0.3, 0.0]), 4, tmp_path)
    again = worst.draw_worst(data, found, np.array([0.9, 0.4, 0.2, 0.3, 0.0]), 1, tmp_path)
    assert [path.name for path in again] == ["worst.jpg", "worst-01-image_000000.jpg"]
    assert {path.name for path in tmp_path.iterdir()} == {*others, *(path.name for path in again)}
    assert worst.draw_worst(data, found, np.zeros(5), 0, tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_a_number_of_worst_below_0_is_refused(tmp_path: Path) -> None:
    data, found = measured()
    with pytest.raises(ValueError, match="count: expected a whole number of at least 0, got -1"):
        worst.draw_worst(data, found, np.zeros(5), -1, tmp_path)


def test_names_become_safe_file_names(tmp_path: Path) -> None:
    pictures = [flat(80, 60, 0)] * 2
    data = from_arrays(pictures, np.tile(XY, (2, 1, 1)), skeleton=SKELETON)
    names = ("a/b/../né w.png", "c\\d.jpeg")
    data = dataclasses.replace(data, image_names=names)
    _, found = measured()
    found = SimpleNamespace(xy=found.xy[:2], crops=found.crops[:2])
    paths = worst.draw_worst(data, found, np.array([2.0, 1.0]), 2, tmp_path)
    assert [path.name for path in paths[1:]] == ["worst-01-n_w.jpg", "worst-02-d.jpg"]
