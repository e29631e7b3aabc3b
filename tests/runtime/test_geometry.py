"""Points and pixels agree: what lies at (c + .5, r + .5) is found where the crop's matrix says, at any scale."""

from __future__ import annotations

import math
import re

import cv2
import numpy as np
import pytest

from keylite.runtime import geometry
from keylite.runtime.geometry import (
    Crop,
    average,
    compose,
    crop_box,
    cut,
    decode_for,
    draw_jitter,
    from_units,
    jittered,
    largest_scale,
    to_units,
    whole_box,
)
from keylite.runtime.images import open_image

FLIP = np.array([[-1.0, 0, 64], [0, 1, 0]])  # of a crop 64 px wide


def scaled(scale: float, size: tuple[int, int], left: float = 0, top: float = 0) -> Crop:
    """The crop of `size` that starts at (left, top) of the image."""
    return Crop(np.array([[scale, 0, -scale * left], [0, scale, -scale * top]], np.float64), size)


def random_crop(generator: np.random.Generator) -> Crop:
    """A box somewhere, then rotation, stretch and perhaps a flip, as augmentation composes them."""
    corner = generator.uniform(-500, 2000, 2)
    crop = crop_box(np.concatenate([corner, corner + generator.uniform(5, 3000, 2)]), (64, 48), generator.uniform(0, 1))
    angle, stretch = generator.uniform(-math.pi, math.pi), generator.uniform(0.7, 1.4)
    cos, sin = math.cos(angle), math.sin(angle)
    crop = crop.then(np.array([[cos * stretch, -sin, 9], [sin * stretch, cos, -4]]))
    return crop.then(FLIP, mirrored=True) if generator.uniform() < 0.5 else crop


def dots(size: tuple[int, int], centres: np.ndarray, sigma: float) -> np.ndarray:
    """A black uint8 RGB image of `size` (W, H) with white Gaussian dots at `centres` (N, 2) continuous px."""
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1])[:, None] + 0.5
    light = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) for cx, cy in centres)
    return np.repeat(np.rint(255 * np.minimum(light, 1)).astype(np.uint8)[..., None], 3, axis=2)


def centroid(image: np.ndarray) -> np.ndarray:
    """Continuous px of the centre of all light."""
    light = image[..., 0].astype(np.float64)
    height, width = light.shape
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    return np.array([light.sum(axis=0) @ x, light.sum(axis=1) @ y]) / light.sum()


def smooth_noise(width: int, height: int) -> np.ndarray:
    noise = np.random.default_rng(5).uniform(0, 255, (height, width, 3))
    return np.clip((cv2.GaussianBlur(noise, (0, 0), 3) - 127) * 6 + 127, 0, 255).astype(np.uint8)


def block_means(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of factor x factor px, uint8; a block beyond the image is filled from its edge."""
    height, width = image.shape[:2]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    whole = np.pad(image, ((0, rows * factor - height), (0, columns * factor - width), (0, 0)), mode="edge")
    return np.rint(whole.reshape(rows, factor, columns, factor, 3).mean(axis=(1, 3))).astype(np.uint8)


# ---- points


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (40, 56)], ids=str)
def test_points_of_many_boxes_are_moved_as_by_their_crops(size: tuple[int, int]):
    generator = np.random.default_rng(0)
    corner = generator.uniform(-500, 2000, (20, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(5, 3000, (20, 2))], axis=1)
    xy = generator.uniform(-1000, 5000, (20, 7, 2))
    xy[3, 2] = np.nan
    crops = [crop_box(box, size, 0.3) for box in boxes]
    unit_xy = to_units(xy, boxes, size, 0.3)
    assert np.array_equal(unit_xy, [crop.to_unit(p) for crop, p in zip(crops, xy, strict=True)], equal_nan=True)
    for given in (unit_xy, unit_xy[0]):  # one for all
        every = np.broadcast_to(given, unit_xy.shape)
        expected = [crop.from_unit(unit) for crop, unit in zip(crops, every, strict=True)]
        assert np.allclose(from_units(given, boxes, size, 0.3), expected, rtol=1e-12, atol=1e-9, equal_nan=True)
    with pytest.raises(ValueError, match=re.escape("got [5.0, 0.0, 5.0, 9.0]")):
        to_units(xy[:2], np.array([[0, 0, 9, 9.0], [5, 0, 5, 9]]), size)


def test_unless_told_a_box_gets_no_padding():
    box, corners = np.array([10.0, 20, 138, 84]), np.array([[10.0, 20], [138, 84]])
    assert crop_box(box, (64, 32)).to_unit(corners).tolist() == [[0, 0], [1, 1]]
    assert to_units(corners[None], box[None], (64, 32)).tolist() == [[[0, 0], [1, 1]]]
    assert from_units(np.array([[0, 0], [1, 1]]), box[None], (64, 32)).tolist() == [corners.tolist()]


@pytest.mark.parametrize("seed", range(40))
def test_points_come_back(seed: int):
    generator = np.random.default_rng(seed)
    crop = random_crop(generator)
    xy = generator.uniform(-1000, 5000, (3, 7, 2))
    assert np.abs(crop.to_image(crop.to_crop(xy)) - xy).max() < 1e-4
    assert np.abs(crop.from_unit(crop.to_unit(xy)) - xy).max() < 1e-4
    assert np.allclose(crop.to_unit(xy) * crop.size, crop.to_crop(xy))


def test_unlabelled_points_stay_unlabelled():
    points = crop_box(np.array([0, 0, 10, 10.0]), (64, 64)).to_unit(np.array([[1, 2], [np.nan, np.nan]]))
    assert np.isnan(points).tolist() == [[False, False], [True, True]]


def test_composition_applies_the_first_matrix_first():
    shift, double = np.array([[1.0, 0, 5], [0, 1, 7]]), np.array([[2.0, 0, 0], [0, 2, 0]])
    assert compose(double, shift).tolist() == [[2, 0, 10], [0, 2, 14]]
    assert compose(shift, double).tolist() == [[2, 0, 5], [0, 2, 7]]


def test_the_largest_scale_is_the_largest_singular_value():
    for seed in range(20):
        matrix = np.random.default_rng(seed).normal(size=(2, 3))
        assert largest_scale(matrix) == pytest.approx(np.linalg.svd(matrix[:, :2])[1][0])


def test_two_flips_are_none():
    crop = random_crop(np.random.default_rng(3))
    once = crop.then(FLIP, mirrored=True)
    twice = once.then(FLIP, mirrored=True)
    assert (once.mirrored, twice.mirrored) == (not crop.mirrored, crop.mirrored)
    assert np.allclose(twice.matrix, crop.matrix)
    assert not np.allclose(once.matrix, crop.matrix)


def test_a_flip_shows_the_same_pixels_from_the_other_side():
    image = smooth_noise(64, 48)
    crop = scaled(1, (64, 48))
    assert np.array_equal(crop.then(FLIP, mirrored=True).warp(image), image[:, ::-1])


@pytest.mark.parametrize("padding", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("size", [(64, 64), (128, 96), (48, 80)], ids=str)
@pytest.mark.parametrize("box", [(10, 20, 110, 120), (10, 20, 310, 60), (-5.5, 0, 4.5, 200)], ids=str)
def test_a_box_keeps_its_centre_and_aspect(box: tuple, size: tuple[int, int], padding: float):
    crop = crop_box(np.array(box, np.float64), size, padding)
    x0, y0, x1, y1 = box
    scale = crop.matrix[0, 0]
    assert crop.matrix[:, :2].tolist() == [[scale, 0], [0, scale]]
    assert np.allclose(crop.to_unit(np.array([(x0 + x1) / 2, (y0 + y1) / 2])), 0.5)
    sides = crop.to_unit(np.array([x1, y1])) - crop.to_unit(np.array([x0, y0]))
    assert sides.max() == pytest.approx(1 / (1 + padding)), "the longer side fills the input but for the padding"
    assert crop.size == size
    assert not crop.mirrored


@pytest.mark.parametrize(
    "box",
    [(5, 0, 5, 9), (6, 0, 5, 9), (0, 9, 9, 9), (0, 0, np.nan, 9)],
    ids=["no width", "x swapped", "no height", "NaN"],
)
def test_a_box_without_area_is_refused(box: tuple):
    with pytest.raises(ValueError, match="box: expected x0 < x1 and y0 < y1 in pixels, got"):
        crop_box(np.array(box, np.float64), (64, 64))


# ---- pixels


@pytest.mark.parametrize("place", [(0, 0), (0, 39), (29, 0), (29, 39), (13, 22), (13, 0)], ids=str)
def test_the_pixel_of_a_row_and_column_is_centred_at_a_half_more(place: tuple[int, int]):
    image = np.zeros((30, 40, 3), np.uint8)
    image[place] = 255
    crop = crop_box(whole_box(image), (40, 30))
    assert np.array_equal(crop.warp(image), image), "scale 1 copies pixels"
    row, column = place
    assert centroid(crop.warp(image)).tolist() == [column + 0.5, row + 0.5]
    assert crop.to_crop(np.array([column + 0.5, row + 0.5])).tolist() == [column + 0.5, row + 0.5]


@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_a_pixel_enlarged_stays_where_it_was(scale: int):
    image = np.zeros((20, 24, 3), np.uint8)
    image[7, 15] = 255
    found = centroid(scaled(scale, (24 * scale, 20 * scale)).warp(image))
    assert np.abs(found - scale * np.array([15.5, 7.5])).max() < 0.05


@pytest.mark.parametrize("shift", [(0.5, 0), (0, 0.25), (3.75, -6.5)], ids=str)
def test_a_shift_by_parts_of_a_pixel_moves_the_light_as_far(shift: tuple[float, float]):
    image = np.zeros((40, 40, 3), np.uint8)
    image[20, 18] = 255
    crop = scaled(1, (40, 40), *shift)
    assert np.abs(centroid(crop.warp(image)) - (18.5 - shift[0], 20.5 - shift[1])).max() < 0.05


REDUCTIONS = [1.5, 2, 2.7, 3, 4, 5, 7, 8, 16, 23.4]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("image_size", [(640, 480), (641, 479), (515, 733)], ids=str)
def test_a_reduced_dot_stays_where_it_was(image_size: tuple[int, int], reduction: float):
    place = np.array([0.37, 0.58]) * image_size
    image = dots(image_size, place[None], sigma=1.2 * reduction)
    size = (math.ceil(image_size[0] / reduction), math.ceil(image_size[1] / reduction))
    crop = scaled(1 / reduction, size)
    assert np.abs(centroid(crop.warp(image)) - crop.to_crop(place)).max() < 0.05


@pytest.mark.parametrize("reduction", [2, 4, 6, 9])
@pytest.mark.parametrize("angle", [10, 45, -130])
def test_a_rotated_reduced_and_flipped_dot_stays_where_it_was(angle: int, reduction: int):
    place = np.array([411.3, 295.8])
    image = dots((801, 603), place[None], sigma=1.5 * reduction)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    crop = crop_box(
        np.array([411 - 32 * reduction, 290 - 32 * reduction, 411 + 32 * reduction, 290 + 32 * reduction]), (64, 64)
    )
    about_centre = np.array([[cos, -sin, 32 - 32 * cos + 32 * sin], [sin, cos, 32 - 32 * sin - 32 * cos]])
    for crop_ in (crop.then(about_centre), crop.then(about_centre).then(FLIP, mirrored=True)):
        assert np.abs(centroid(crop_.warp(image)) - crop_.to_crop(place)).max() < 0.05


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("image_size", [(64, 48), (65, 47), (33, 81)], ids=str)
def test_a_power_of_two_is_a_plain_mean_of_blocks(image_size: tuple[int, int], factor: int):
    image = smooth_noise(*image_size)
    means = block_means(image, factor)
    assert np.abs(scaled(1 / factor, (means.shape[1], means.shape[0])).warp(image).astype(int) - means).max() <= 1


@pytest.mark.parametrize(("scale", "factor"), [(1, 1), (1.7, 1), (0.7, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.1, 8)])
@pytest.mark.parametrize(
    "start",
    [(-20, 10), (30, -17.5), (50, 40), (-30, -30), (200, 5), (-300, -200), (10, 900)],
    ids=["left", "top", "right below", "corner", "all right", "all left above", "all below"],
)
def test_beyond_the_image_its_edge_repeats(start: tuple[float, float], scale: float, factor: int):
    """Reductions repeat the edge block, which is what the whole image, reduced first, would give."""
    blocks, border = block_means(smooth_noise(71, 58), factor), 400
    framed = np.pad(blocks, ((border, border), (border, border), (0, 0)), mode="edge")
    expected = scaled(scale * factor, (32, 24), *(edge / factor + border for edge in start)).warp(framed)
    found = scaled(scale, (32, 24), *start).warp(smooth_noise(71, 58))
    assert np.abs(found.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8, 11])
def test_a_checkerboard_reduces_to_grey(factor: int):
    board = (255 * (np.indices((240, 320)).sum(axis=0) % 2)).astype(np.uint8)
    reduced = scaled(1 / factor, (320 // factor, 240 // factor)).warp(np.repeat(board[..., None], 3, axis=2))
    assert np.abs(reduced.astype(int) - 127.5).max() <= 1


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_brightness_is_kept(reduction: float):
    image = smooth_noise(480, 480)
    size = round(480 / reduction)
    reduced = crop_box(whole_box(image), (size, size)).warp(image)
    assert reduced.mean() == pytest.approx(image.mean(), abs=1)


def test_a_large_reduction_reads_only_what_the_crop_sees(monkeypatch: pytest.MonkeyPatch):
    read = []
    resize = cv2.resize

    def watched(image: np.ndarray, *arguments, **options):
        read.append(image.shape)
        return resize(image, *arguments, **options)

    monkeypatch.setattr(geometry.cv2, "resize", watched)
    image = np.zeros((1600, 2400, 3), np.uint8)
    image[800:864, 1200:1264] = 255
    crop = crop_box(np.array([1200, 800, 1264, 864.0]), (16, 16))
    assert (crop.warp(image) == 255).all()
    assert read == [(80, 80, 3)], "two blocks of four px around the 64 that it sees"


def test_views_are_warped_as_their_pixels_are():
    image = smooth_noise(60, 40)
    crop = scaled(0.4, (24, 16))
    views = {
        "flipped": image[:, ::-1],
        "BGR as RGB": image[..., ::-1],
        "part": image[3:, 5:],
        "every second": image[::2, ::2],
    }
    for name, view in views.items():
        for sized in (crop, scaled(1.3, (24, 16))):
            assert np.array_equal(sized.warp(view), sized.warp(np.ascontiguousarray(view))), name


def test_the_whole_box_is_width_then_height():
    assert whole_box(np.zeros((30, 40, 3), np.uint8)).tolist() == [0, 0, 40, 30]


# ---- boxes


def test_a_box_that_dwarfs_its_image_costs_no_more_than_the_image(monkeypatch: pytest.MonkeyPatch):
    """Halved as often as the box asks for, its edge filled 51 GB."""
    made, real = [], cv2.copyMakeBorder

    def border(image: np.ndarray, *arguments: int) -> np.ndarray:
        made.append(real(image, *arguments))
        return made[-1]

    monkeypatch.setattr(cv2, "copyMakeBorder", border)
    image = np.full((80, 96, 3), 200, np.uint8)
    for side in (1e4, 1e6, 1e7):
        pixels = crop_box(np.array([-side, -side, side, side]), (64, 64)).warp(image)
        assert (pixels == 200).all()
    assert max(padded.size for padded in made) <= 128 * 128 * 3
    with pytest.raises(ValueError, match="reaches beyond 16777216 px"):
        crop_box(np.array([0, 0, 1e300, 1e300]), (64, 64))


def moved(boxes: np.ndarray, amount: float, seed: int) -> np.ndarray:
    return jittered(boxes, draw_jitter(len(boxes), amount, np.random.default_rng(seed)))


def test_jitter_is_the_generators_alone():
    boxes = np.array([[0, 0, 100, 50], [30, 40, 60, 100.0]])
    first, again, other = (moved(boxes, 0.2, seed) for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(moved(boxes, 0.0, 4), boxes)


def test_jitter_keeps_the_aspect_and_its_range():
    boxes = np.tile(np.array([[10, 20, 110, 70.0]]), (2000, 1))
    jittery = moved(boxes, 0.1, 0)
    sides, centres = jittery[:, 2:] - jittery[:, :2], (jittery[:, 2:] + jittery[:, :2]) / 2
    assert np.allclose(sides[:, 0] / sides[:, 1], 2)
    for values, middle, reach in ((sides[:, 0], 100, 10), (centres[:, 0], 60, 10), (centres[:, 1], 45, 5)):
        assert values.min() >= middle - reach
        assert values.max() <= middle + reach
        assert values.min() < middle - 0.95 * reach, "the range is used"
        assert values.max() > middle + 0.95 * reach


# ---- pictures decoded no further than need be


REDUCTIONS_OF = {  # scale of the crop: by how much an image is averaged before it is resampled
    "enlarged": (1.5, 1),
    "as large": (1.0, 1),
    "hardly a half": (0.5001, 1),
    "a half": (0.5, 2),
    "a third": (0.3333, 2),
    "a quarter": (0.25, 4),
    "a sixteenth": (0.0625, 16),
    "smaller still": (0.001, 512),
}


@pytest.mark.parametrize(("scale", "reduction"), REDUCTIONS_OF.values(), ids=REDUCTIONS_OF)
def test_an_image_is_averaged_by_a_power_of_two(scale: float, reduction: int):
    turned = np.array([[0.6, -0.8, 3], [0.8, 0.6, 5]]) * scale
    assert Crop(turned, (64, 64)).reduction == reduction
    longer_one_way = np.array([[scale, 0, 0], [0, scale / 3, 0]])
    assert Crop(longer_one_way, (64, 64)).reduction == reduction, "what is lengthened most counts"


@pytest.mark.parametrize("averaged", [2, 4, 8])
def test_an_image_averaged_first_gives_the_same_crop(averaged: int):
    """Both sides are odd, so the last column and row of the averaged image stand for less than the others."""
    image = smooth_noise(1203, 901)
    means = average(image, averaged)
    assert means.shape == (math.ceil(901 / averaged), math.ceil(1203 / averaged), 3)
    assert np.abs(means.astype(int) - block_means(image, averaged)).max() <= 1
    crop = crop_box(np.array([100.0, 50, 1200, 880]), (64, 48))
    assert crop.reduction == 16
    assert np.abs(crop.warp(means, averaged).astype(int) - crop.warp(image)).max() <= 2, "two roundings"
    crop = crop_box(
        np.array([-30.0, 700, 70 * averaged, 700 + 60 * averaged]), (64, 48)
    )  # averaged as far as this one is
    assert np.abs(crop.warp(average(image, crop.reduction), crop.reduction).astype(int) - crop.warp(image)).max() <= 1


def test_a_crop_looks_at_no_row_beyond_those_it_names():
    """Noise below them changes nothing, and some crop reads the last of them but for the margin."""
    generator, image = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, (901, 1203, 3), np.uint8)
    cuts = 0
    for _ in range(200):
        crop = random_crop(generator)
        below = image.copy()
        below[crop.rows :] = 255 - below[crop.rows :]
        np.testing.assert_array_equal(crop.warp(below), crop.warp(image))
        cuts += crop.rows < 901
    assert cuts > 20


def test_rows_are_those_that_the_crop_reaches():
    assert scaled(1, (64, 48), top=100).rows == 148 + 2
    assert scaled(1 / 4, (64, 48), top=100).rows == 100 + 4 * (48 + 2)
    assert scaled(1, (64, 48), top=-500).rows == 1


@pytest.mark.parametrize("sides", [(64, 48), (40, 30)])
@pytest.mark.parametrize("checked", [True, False])
def test_a_picture_is_decoded_as_far_as_crops_reach_once_it_was_checked(sides: tuple[int, int], checked: bool):
    pytest.importorskip("simplejpeg")
    pixels = cv2.blur(np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8), (5, 5))
    picture = open_image(cv2.imencode(".jpg", pixels)[1].tobytes())
    crops = [crop_box(np.array([90.0, top, 170, top + 60]), sides, 0.25) for top in (20, 100)]
    for crop, seen in zip(crops, cut(picture, crops, checked), strict=True):
        np.testing.assert_array_equal(seen, crop.warp(picture.pixels()))
    height = len(decode_for(picture, crops, checked))
    assert height == (16 * (max(crop.rows for crop in crops) // 16 + 2) if checked else 400)
    assert not checked or height < 240


def test_points_that_are_not_finite_come_back_without_a_warning():
    crop = crop_box([0, 0, 64, 32], (64, 64))
    assert not np.isfinite(crop.from_unit(np.array([[np.inf, 0.5], [0.5, np.nan]]))).all(axis=1).any()
