"""Each head decodes what its network gives, and says how many channels that is."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from keylite.runtime.heads import HEADS, STRIDE, Head, Heatmap, Regression, Rle, Simcc, require_size, size_for

BELL = 1.2  # cells: sigma of the logit bells here


def bell(grid: tuple[int, int], x: float, y: float, sigma: float = BELL) -> np.ndarray:
    """Logits (1, 1, C), row by row, of a bell around a point in cells."""
    columns, rows = np.arange(grid[0]) + 0.5, np.arange(grid[1]) + 0.5
    squares = (columns[None, :] - x) ** 2 + (rows[:, None] - y) ** 2
    return (-squares / (2 * sigma**2)).reshape(1, 1, -1).astype(np.float32)


def test_coordinates_are_given_back_as_they_are():
    head = Regression(5)
    assert head.channels == 2
    raw = np.random.default_rng(0).uniform(-1, 2, (3, 5, 2)).astype(np.float32)
    xy, score = head.decode(raw)
    assert np.array_equal(xy, raw), "points outside the crop are not clipped"
    assert score.shape == (3, 5)
    assert np.isnan(score).all(), "no notion of confidence, so none is made up"


SCALES = {  # logarithms of the scales of x and y: score
    "sharp": ((-40.0, -40.0), 1.0),
    "a twentieth": ((np.log(0.05), np.log(0.05)), 0.95),
    "one of both": ((np.log(0.5), np.log(0.1)), 0.7),
    "as wide as the crop": ((0.0, 0.0), 0.0),
    "wider than the crop": ((3.0, 100.0), 0.0),
    "wider in x alone": ((5.0, np.log(0.2)), 0.4),
}


@pytest.mark.parametrize(("logarithms", "expected"), SCALES.values(), ids=SCALES)
def test_scales_beside_coordinates_are_the_score(logarithms: tuple[float, float], expected: float):
    head = Rle(5)
    assert head.channels == 4
    xy = np.random.default_rng(0).uniform(-1, 2, (3, 5, 2)).astype(np.float32)
    found, score = head.decode(np.concatenate([xy, np.full_like(xy, logarithms)], axis=2))
    assert np.array_equal(found, xy), "whatever the scales, points outside the crop are not clipped"
    np.testing.assert_allclose(score, expected, atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_points_and_scores_are_float32_of_the_raw_shape(name: str, kind: type):
    head = HEADS[name](3, 16, (64, 32))
    xy, score = head.decode(np.zeros((2, 3, head.channels), kind))
    assert (xy.shape, score.shape) == ((2, 3, 2), (2, 3))
    assert (xy.dtype, score.dtype) == (np.float32, np.float32)


GRIDS = {
    "square": ((64, 64), (8, 8)),
    "oblong": ((128, 96), (16, 12)),
    "not divisible": ((100, 68), (13, 9)),
    "a pixel more": ((65, 64), (9, 8)),
}


@pytest.mark.parametrize(("size", "grid"), GRIDS.values(), ids=GRIDS)
def test_a_grid_has_a_cell_for_each_stride_begun(size: tuple[int, int], grid: tuple[int, int]):
    head = HEADS["heatmap"](4, 256, size)
    assert head == Heatmap(4, grid)
    assert head.channels == grid[0] * grid[1]
    cells = head.cells()
    assert cells.shape == (head.channels, 2)
    np.testing.assert_allclose(cells[0], [0.5 / grid[0], 0.5 / grid[1]], rtol=1e-6)
    np.testing.assert_allclose(cells[1] - cells[0], [1 / grid[0], 0], atol=1e-6)  # row by row: x runs first
    np.testing.assert_allclose(cells.mean(axis=0), 0.5, atol=1e-6)


def test_a_cell_is_a_power_of_two_of_pixels():
    assert STRIDE == 8


@pytest.mark.parametrize("grid", [(16, 12), (13, 9)])
def test_a_bell_decodes_to_its_point(grid: tuple[int, int]):
    head = Heatmap(1, grid)
    for x, y in np.random.default_rng(0).uniform(4, np.array(grid) - 4, (50, 2)):
        xy, score = head.decode(bell(grid, x, y))
        np.testing.assert_allclose(xy[0, 0] * grid, [x, y], atol=0.01)  # cells; measured 0.005
        assert 0.09 < score[0, 0] < 0.12  # 1 / (2 pi sigma^2) at the most, less between cells


@pytest.mark.parametrize(
    ("x", "y"), [(0, 0), (16, 12), (0, 6), (8, 12), (0.5, 0.5), (2, 10)], ids=lambda value: f"{value:g}"
)
def test_a_bell_at_the_border_stays_inside_and_near(x: float, y: float):
    """The map ends where the bell goes on, so the mean place is further in: by sigma sqrt(2 / pi) at the border."""
    found = Heatmap(1, (16, 12)).decode(bell((16, 12), x, y))[0][0, 0]
    assert (np.abs(found * (16, 12) - (x, y)) < 1).all()  # cells; measured 0.99 at (0, 0)
    assert (np.abs(found - 0.5) <= 0.5 - 0.5 / 16).all()


def test_the_outermost_place_is_the_centre_of_the_outermost_cell():
    head = Heatmap(1, (5, 3))
    for cell, place in ((0, (0.1, 1 / 6)), (4, (0.9, 1 / 6)), (14, (0.9, 5 / 6))):
        raw = np.full((1, 1, 15), -100, np.float32)
        raw[0, 0, cell] = 100
        xy, score = head.decode(raw)
        np.testing.assert_allclose(xy[0, 0], place, atol=1e-6)
        assert score[0, 0] == 1


def test_an_even_map_is_the_middle_and_has_the_least_score():
    xy, score = Heatmap(2, (8, 4)).decode(np.full((1, 2, 32), 7, np.float32))
    np.testing.assert_allclose(xy, 0.5, atol=1e-6)
    np.testing.assert_allclose(score, 1 / 32, rtol=1e-6)


def test_a_sharper_map_has_a_higher_score_and_a_shift_of_all_logits_has_no_say():
    head, grid = Heatmap(1, (8, 8)), (8, 8)
    scores = [float(head.decode(bell(grid, 4.5, 4.5, sigma))[1][0, 0]) for sigma in (2, 1, 0.5)]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1] < 1
    raw = bell(grid, 3.2, 4.4)
    for shift in (-1e4, 50, 1e4):  # an exponential of such logits would overflow
        np.testing.assert_allclose(head.decode(raw + np.float32(shift))[0], head.decode(raw)[0], atol=1e-4)


# ---- two classifications


def bins_of(head: Simcc, x: float, y: float, sigma: float = 2.0) -> np.ndarray:
    """Logits (1, 1, C), first those of x, of bells around a point in bins."""
    places = [(np.arange(bins) + 0.5 - at) / sigma for bins, at in zip(head.bins, (x, y), strict=True)]
    return np.concatenate([-0.5 * place**2 for place in places]).reshape(1, 1, -1).astype(np.float32)


@pytest.mark.parametrize(("size", "grid"), GRIDS.values(), ids=GRIDS)
def test_there_is_a_bin_for_each_pixel(size: tuple[int, int], grid: tuple[int, int]):
    head = HEADS["simcc"](4, 256, size)
    assert head == Simcc(4, grid, size)
    assert head.channels == size[0] + size[1]
    for centres, bins in zip(head.centres(), size, strict=True):
        assert centres.dtype == np.float32
        np.testing.assert_allclose(bins * centres, np.arange(bins) + 0.5, rtol=1e-6)


@pytest.mark.parametrize("bins", [(160, 128), (65, 64)], ids=["oblong", "odd"])
def test_bells_over_bins_decode_to_their_point(bins: tuple[int, int]):
    head = HEADS["simcc"](1, 0, bins)
    for x, y in np.random.default_rng(0).uniform(10, np.array(bins) - 10, (50, 2)):
        xy, score = head.decode(bins_of(head, x, y))
        np.testing.assert_allclose(xy[0, 0] * bins, [x, y], atol=1e-3)  # bins; measured 3e-5
        assert 0.19 < score[0, 0] < 0.2  # 1 / (sigma sqrt(2 pi)) at the most, less between bins


def test_x_is_before_y_and_the_outermost_place_is_the_centre_of_the_outermost_bin():
    head = Simcc(1, (5, 3), (40, 20))
    for column, row in ((0, 0), (39, 0), (0, 19), (7, 12)):
        raw = np.full((1, 1, 60), -100, np.float32)
        raw[0, 0, [column, 40 + row]] = 100
        xy, score = head.decode(raw)
        np.testing.assert_allclose(xy[0, 0], [(column + 0.5) / 40, (row + 0.5) / 20], atol=1e-6)
        assert score[0, 0] == 1


def test_even_bins_are_the_middle_and_have_the_least_score():
    xy, score = Simcc(2, (8, 4), (64, 32)).decode(np.full((1, 2, 96), 7, np.float32))
    np.testing.assert_allclose(xy, 0.5, atol=1e-6)
    np.testing.assert_allclose(score, 1 / 64, rtol=1e-5)  # the lesser of 1/64 and 1/32


def test_the_score_is_that_of_the_axis_that_is_less_sure_and_a_shift_of_its_logits_has_no_say():
    head = Simcc(1, (8, 8), (64, 64))
    sharp, blunt = bins_of(head, 20.5, 30.5, 0.5), bins_of(head, 20.5, 30.5, 4)
    mixed = np.concatenate([sharp[..., :64], blunt[..., 64:]], axis=2)
    scores = [float(head.decode(raw)[1][0, 0]) for raw in (blunt, mixed, sharp)]
    assert scores[0] == scores[1] < scores[2] < 1
    for shift in (-1e4, 50, 1e4):  # an exponential of such logits would overflow
        moved = mixed + np.float32(shift) * (np.arange(128) < 64)  # of one axis alone
        np.testing.assert_allclose(head.decode(moved.astype(np.float32))[0], head.decode(mixed)[0], atol=1e-4)


# ---- as a description

SOME = {
    "regression": Regression(4, 64),
    "rle": Rle(4, 64),
    "simcc": Simcc(4, (16, 12), (128, 96), 32),
    "heatmap": Heatmap(4, (16, 12), 32),
}


def test_there_is_one_of_each():
    assert SOME.keys() == HEADS.keys()


@pytest.mark.parametrize("head", SOME.values(), ids=SOME)
def test_heads_survive_json_by_their_name(head: Head):
    fields = msgspec.to_builtins(head)
    assert type(HEADS[fields["name"]](4, 64, (128, 96))) is type(head)
    assert msgspec.convert(fields, Head) == head


REFUSED = {
    "unknown name": {"name": "spatial", "keypoints": 4},
    "no name": {"keypoints": 4},
    "no keypoints": {"name": "regression"},
    "0 keypoints": {"name": "regression", "keypoints": 0},
    "0 hidden": {"name": "regression", "keypoints": 4, "hidden": 0},
    "a field of another head": {"name": "regression", "keypoints": 4, "grid": [8, 8]},
    "no grid": {"name": "heatmap", "keypoints": 4},
    "an empty grid": {"name": "heatmap", "keypoints": 4, "grid": [8, 0]},
    "a grid of one side": {"name": "heatmap", "keypoints": 4, "grid": [8]},
    "width 0": {"name": "heatmap", "keypoints": 4, "grid": [8, 8], "width": 0},
    "no bins": {"name": "simcc", "keypoints": 4, "grid": [8, 8]},
    "0 bins": {"name": "simcc", "keypoints": 4, "grid": [8, 8], "bins": [64, 0]},
    "bins of a heatmap": {"name": "heatmap", "keypoints": 4, "grid": [8, 8], "bins": [64, 64]},
    "features, which are the head's own": {"name": "rle", "keypoints": 4, "pyramid": True},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
def test_other_descriptions_are_refused(fields: dict):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Head)


FOR = {"regression": None, "rle": None, "simcc": (128, 96), "heatmap": (128, 96)}


@pytest.mark.parametrize("name", SOME)
def test_a_pyramid_is_for_inputs_of_one_size(name: str):
    head = SOME[name]
    assert size_for(head) == FOR[name]
    assert head.pyramid == (FOR[name] is not None)
    assert size_for(HEADS["simcc"](4, 0, (100, 68))) == (100, 68), "not a multiple of a cell"
    require_size(head, (128, 96))
    if not head.pyramid:
        require_size(head, (33, 500))


OTHERS = {  # head, (W, H): what is said
    "another size": (SOME["heatmap"], (96, 64), "grid of 12x8 for an input of 96x64 px, got 16x12"),
    "columns and rows changed round": (Heatmap(4, (12, 16)), (128, 96), "grid of 16x12 .*, got 12x16"),
    "a row too many": (Heatmap(4, (16, 13)), (128, 96), "grid of 16x12 .*, got 16x13"),
    "as many cells": (Heatmap(4, (8, 24)), (128, 96), "grid of 16x12 .*, got 8x24"),
    "bins of another size": (Simcc(4, (16, 12), (64, 48)), (128, 96), "bins of 128x96 for .* 128x96 px, got 64x48"),
    "as many bins": (Simcc(4, (16, 12), (96, 128)), (128, 96), "bins of 128x96 .*, got 96x128"),
    "cells of another size": (Simcc(4, (8, 6), (128, 96)), (128, 96), "grid of 16x12 .*, got 8x6"),
    "a size of the same grid": (HEADS["simcc"](4, 0, (128, 96)), (127, 96), "bins of 127x96 .*, got 128x96"),
}


@pytest.mark.parametrize(("head", "size", "message"), OTHERS.values(), ids=OTHERS)
def test_a_pyramid_of_another_size_is_refused(head: Head, size: tuple[int, int], message: str):
    with pytest.raises(ValueError, match=f"^head: expected {message}; this kind of head fits one input size only$"):
        require_size(head, size)


def test_a_head_by_its_name_has_the_numbers_in_their_places():
    made = {name: make(3, 32, (64, 40)) for name, make in HEADS.items()}
    assert made == {
        **{"regression": Regression(3, hidden=32), "rle": Rle(3, hidden=32)},
        **{"simcc": Simcc(3, (8, 5), (64, 40)), "heatmap": Heatmap(3, (8, 5))},
    }
