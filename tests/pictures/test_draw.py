"""Overlays put colour where the points are, and leave everything else as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.pictures import draw
from keylite.runtime.geometry import crop_box
from keylite.runtime.images import read_image
from keylite.runtime.skeleton import Skeleton

NAN = float("nan")
SKELETON = Skeleton(("left_eye", "right_eye", "nose"), edges=((0, 1),), mirror=(1, 0, 2))
GREY = np.full((60, 80, 3), 128, np.uint8)
XY = np.array([[20.5, 20.5], [60.5, 20.5], [40.5, 45.5]])
DOWN = np.array([0.0, 10])


PALETTE = (draw.LEFT, draw.RIGHT, draw.MIDDLE, draw.TRUTH, draw.ERROR, draw.OUTLINE, (128, 128, 128))


def pixel(image: np.ndarray, point: np.ndarray) -> tuple[int, ...]:
    """The colour that is meant at a point: lines are blended with what they cross, by up to 30 levels a channel."""
    found = image[int(point[1]), int(point[0])].astype(int)
    return min(PALETTE, key=lambda colour: np.abs(found - colour).max())


@pytest.mark.parametrize("level", [0, 128, 255], ids=["black", "grey", "white"])
def test_points_have_their_side_s_colour_and_an_outline(level: int) -> None:
    image = np.full_like(GREY, level)
    drawn = draw.draw_points(image, XY, SKELETON, radius=3)
    assert (image == level).all()  # the caller's picture is left alone
    assert [pixel(drawn, point) for point in XY] == [draw.LEFT, draw.RIGHT, draw.MIDDLE]
    assert drawn[45].max(axis=1).min() <= 80  # measured 68: the outline is one blended px
    assert (drawn[:10] == level).all()
    assert (drawn[55:] == level).all()


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5, 0.8])
def test_points_are_placed_to_a_fraction_of_a_pixel(shift: float) -> None:
    black = np.zeros((40, 40, 3), np.uint8)
    point = np.array([[20 + shift, 15.5]])
    drawn = draw.draw_points(black, point, Skeleton(("a",)), radius=4)[..., 0].astype(float)
    rows, columns = np.mgrid[0:40, 0:40] + 0.5
    weight = np.where(drawn > 60, drawn, 0)
    centre = [(weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()]
    np.testing.assert_allclose(centre, point[0], atol=0.15)  # measured 0.09; half a pixel would be a convention lost


def test_edges_join_points_and_take_their_side() -> None:
    drawn = draw.draw_points(GREY, XY, SKELETON, radius=2)
    assert pixel(drawn, np.array([40.5, 20.5])) == draw.MIDDLE  # between two sides
    assert pixel(drawn, np.array([40.5, 33.5])) == (128, 128, 128)
    same = Skeleton(("left_eye", "left_ear"), edges=((0, 1),))
    assert pixel(draw.draw_points(GREY, XY[:2], same, radius=2), np.array([40.5, 20.5])) == draw.LEFT


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("left_eye", draw.LEFT),
        ("RightEye", draw.RIGHT),
        ("eye_l", draw.LEFT),
        ("R-ear", draw.RIGHT),
        ("paw", draw.MIDDLE),
        ("tail_left_of_right", draw.MIDDLE),
        ("lip", draw.MIDDLE),
        ("upright", draw.MIDDLE),
    ],
)
def test_the_name_tells_the_side(name: str, side: tuple[int, int, int]) -> None:
    drawn = draw.draw_points(GREY, XY[:1], Skeleton((name,)), radius=3)
    assert pixel(drawn, XY[0]) == side


def test_truth_is_joined_to_the_prediction() -> None:
    drawn = draw.draw_points(GREY, XY, SKELETON, truth=XY + DOWN, radius=2)
    assert pixel(drawn, XY[2] + DOWN) == draw.TRUTH
    assert pixel(drawn, XY[2] + DOWN / 2) == draw.ERROR
    assert pixel(drawn, XY[2]) == draw.MIDDLE


def test_unlabelled_points_are_left_out() -> None:
    nothing = np.full_like(XY, NAN)
    np.testing.assert_array_equal(draw.draw_points(GREY, nothing, SKELETON, truth=nothing), GREY)
    half = XY.copy()
    half[1] = NAN
    drawn = draw.draw_points(GREY, half, SKELETON, truth=nothing)
    assert pixel(drawn, XY[0]) == draw.LEFT
    assert pixel(drawn, np.array([40.5, 20.5])) == (128, 128, 128)  # its edge goes too


def test_points_far_outside_do_not_wrap_around() -> None:
    far = np.array([[1e9, -1e9], [-1e12, 5], [4e8, 4e8]])
    np.testing.assert_array_equal(draw.draw_points(GREY, far, Skeleton(SKELETON.names)), GREY)


def test_the_radius_follows_image_and_spacing() -> None:
    def marked(image: np.ndarray, xy: np.ndarray) -> int:
        return int((draw.draw_points(image, xy, Skeleton(SKELETON.names)) != 128).any(axis=2).sum())

    large = np.full((600, 800, 3), 128, np.uint8)
    crowd = XY[:1] * 10 + [[0, 0], [7, 0], [14, 0]]
    assert marked(large, XY * 10) > 2 * marked(GREY, XY)
    assert marked(large, crowd) < marked(large, XY * 10) / 2
    assert marked(GREY, XY) > 20  # never too small to see


@pytest.mark.parametrize(
    ("xy", "truth", "message"),
    [(XY[None], None, r"xy: expected shape \(3, 2\)"), (XY, XY[:2], "truth: expected the shape of xy")],
)
def test_draw_points_refuses(xy: np.ndarray, truth: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw.draw_points(GREY, xy, SKELETON, truth=truth)


# ---- sheets


def flat(width: int, height: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_a_sheet_has_every_picture_enlarged_in_its_place() -> None:
    sheet = draw.contact_sheet([flat(40, 20, 100), flat(20, 10, 150), flat(10, 20, 200)], 2, gap=4)
    assert sheet.shape == (2 * 24 + 4, 2 * 44 + 4, 3)
    np.testing.assert_array_equal(sheet[4:24, 4:44], 100)
    np.testing.assert_array_equal(sheet[4:24, 48:88], 150)  # twice its size
    np.testing.assert_array_equal(sheet[28:48, 19:29], 200)  # centred, its aspect kept
    np.testing.assert_array_equal(sheet[28:, 48:], np.full((24, 44, 3), draw.BACKGROUND))


def test_captions_are_written_below_and_cut_to_fit() -> None:
    pictures = [flat(60, 30, 100)] * 2
    sheet = draw.contact_sheet(pictures, 2, ["a", "a very long caption indeed " * 5])
    bare = draw.contact_sheet(pictures, 2, ["", ""])
    assert sheet.shape == (30 + draw.CAPTION + 8, 2 * 64 + 4, 3)
    changed = (sheet != bare).any(axis=2)
    assert changed[34 : 34 + draw.CAPTION, 4:64].any()
    assert changed[34 : 34 + draw.CAPTION, 68:128].any()
    changed[34 : 34 + draw.CAPTION, 4:64] = changed[34 : 34 + draw.CAPTION, 68:128] = False
    assert not changed.any()
    draw.contact_sheet([flat(3, 3, 0)], 1, ["no room at all"])


def test_sheets_refuse() -> None:
    with pytest.raises(ValueError, match="expected images and at least one column, got 0 and 2"):
        draw.contact_sheet([], 2)
    with pytest.raises(ValueError, match="expected 1, one an image, got 2"):
        draw.contact_sheet([GREY], 1, ["a", "b"])


# ---- the worst


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
def test_worst_come_first_as_the_model_saw_them(errors: np.ndarray, tmp_path: Path) -> None:
    data, found = measured()
    paths = draw.draw_worst(data, found, errors, 3, tmp_path / "made" / "here", columns=2)
    names = ["worst.jpg", "worst-01-image_000001.jpg", "worst-02-image_000003.jpg", "worst-03-image_000000.jpg"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "made" / "here").iterdir()) == sorted(names)
    levels = [int(read_image(path)[2, 2, 0]) for path in paths[1:]]
    np.testing.assert_allclose(levels, [40, 120, 0], atol=3)  # JPEG
    tile = read_image(paths[1])
    assert tile.shape == (288, 384, 3)
    scale = 384 / 80
    assert pixel(tile, XY[2] * scale + DOWN * scale) == draw.MIDDLE
    assert pixel(tile, XY[2] * scale) == draw.TRUTH
    assert read_image(paths[0]).shape == (2 * (288 + draw.CAPTION + 4) + 4, 2 * 388 + 4, 3)


def test_worst_of_nothing_writes_nothing(tmp_path: Path) -> None:
    data, found = measured()
    assert draw.draw_worst(data, found, np.full(5, NAN), 3, tmp_path / "none") == []
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match=r"errors: expected NME \(5,\)"):
        draw.draw_worst(data, found, np.zeros(4), 3, tmp_path)


def test_pictures_of_an_earlier_call_are_removed_and_nothing_else(tmp_path: Path) -> None:
    data, found = measured()
    others = ["worst-of-all.jpg", "worst-1.jpg", "worst-01-mine.png", "a.jpg"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    draw.draw_worst(data, found, np.array([0.1, 0.4, 0.2, 0.3, 0.0]), 4, tmp_path)
    again = draw.draw_worst(data, found, np.array([0.9, 0.4, 0.2, 0.3, 0.0]), 1, tmp_path)
    assert [path.name for path in again] == ["worst.jpg", "worst-01-image_000000.jpg"]
    assert {path.name for path in tmp_path.iterdir()} == {*others, *(path.name for path in again)}
    assert draw.draw_worst(data, found, np.zeros(5), 0, tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_a_number_of_worst_below_0_is_refused(tmp_path: Path) -> None:
    data, found = measured()
    with pytest.raises(ValueError, match="count: expected a whole number of at least 0, got -1"):
        draw.draw_worst(data, found, np.zeros(5), -1, tmp_path)


def test_names_become_safe_file_names(tmp_path: Path) -> None:
    pictures = [flat(80, 60, 0)] * 2
    data = from_arrays(pictures, np.tile(XY, (2, 1, 1)), skeleton=SKELETON)
    names = ("a/b/../né w.png", "c\\d.jpeg")
    data = dataclasses.replace(data, image_names=names)
    _, found = measured()
    paths = draw.draw_worst(data, found, np.array([2.0, 1.0]), 2, tmp_path)
    assert [path.name for path in paths[1:]] == ["worst-01-n_w.jpg", "worst-02-d.jpg"]
