"""Examples are the same whoever asks, and their points lie on their pixels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from keylite.data import examples as examples_module
from keylite.data.arrays import from_arrays
from keylite.data.augmentation import Augmentation, augmented_crop, augmented_pixels
from keylite.data.dataset import Dataset
from keylite.data.examples import Examples, kept_bytes, targets, with_boxes
from keylite.data.formats.reading import read_dataset, write_coco
from keylite.data.rendered.gauges import gauges
from keylite.runtime.errors import ArgumentError
from keylite.runtime.geometry import crop_box
from keylite.runtime.images import write_image
from keylite.runtime.skeleton import Skeleton

MIRROR = (0, 2, 1)  # of three keypoints, drawn as a red, a green and a blue dot
SKELETON = Skeleton(("middle", "left", "right"), mirror=MIRROR)
GEOMETRY = Augmentation(rotate=40, scale=0.3, shift=0.1, aspect=0.3, flip_p=0.5)
COLOUR = {"brightness": 0.15, "contrast": 0.5, "saturation": 0.8, "hue": 60.0, "blur": 2.0, "noise": 8.0, "jpeg": 60}
PHOTOMETRY = {  # each change alone, always
    **{name: Augmentation(**{name: value, f"{name}_p": 1.0}) for name, value in COLOUR.items()},
    "grey": Augmentation(grey_p=1.0),
    "occlude": Augmentation(occlude=0.3, occlude_p=1.0),
}
EVERYTHING = dataclasses.replace(
    GEOMETRY, **COLOUR, **{f"{name}_p": 0.5 for name in COLOUR}, grey_p=0.3, occlude=0.3, occlude_p=0.5
)


def dots(xy: np.ndarray, width: int = 150, height: int = 130) -> np.ndarray:
    """A black picture with a soft dot in channel k at each xy (3, 2)."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    light = [np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 18) for cx, cy in xy]
    return np.rint(255 * np.stack(light, axis=-1)).astype(np.uint8)


def centroids(image: np.ndarray) -> np.ndarray:
    """Unit coordinates (3, 2) of each channel's light."""
    height, width = image.shape[:2]
    light = image.astype(np.float64)
    total = light.sum(axis=(0, 1))
    x = np.einsum("hwc,w->c", light, np.arange(width) + 0.5) / total / width
    y = np.einsum("hwc,h->c", light, np.arange(height) + 0.5) / total / height
    return np.stack([x, y], axis=1)


@pytest.fixture(scope="module")
def data() -> Dataset:
    generator = np.random.default_rng(0)
    xy = np.stack([[[75, 50], [55, 80], [95, 78]] + generator.uniform(-8, 8, (3, 2)) for _ in range(6)])
    boxes = np.tile([[25, 15, 125, 115.0]], (6, 1))
    return from_arrays([dots(points) for points in xy], xy, skeleton=SKELETON, boxes=boxes)


def same(one: tuple, other: tuple) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


# ---- the same whoever asks


def test_the_order_of_asking_changes_nothing(data: Dataset):
    one, other = (Examples(data, (64, 48), augmentation=EVERYTHING, seed=3) for _ in range(2))
    items = list(range(3 * len(data)))
    first = {item: one[item] for item in items}
    for item in np.random.default_rng(0).permutation(items).tolist():
        assert same(first[item], other[item]), item
    assert not same(first[0], first[len(data)]), "another epoch is another draw"
    assert not same(first[0], Examples(data, (64, 48), augmentation=EVERYTHING, seed=4)[0]), "another seed too"


def test_a_batch_is_its_items(data: Dataset):
    examples = Examples(data, (64, 48), augmentation=EVERYTHING)
    images, unit_xy, weight = examples.batch([5, 0, 13])
    assert (images.shape, unit_xy.shape, weight.shape) == ((3, 48, 64, 3), (3, 3, 2), (3, 3))
    assert (images.dtype, unit_xy.dtype, weight.dtype) == (np.uint8, np.float32, np.float32)
    for row, item in enumerate([5, 0, 13]):
        assert same((images[row], unit_xy[row], weight[row]), examples[item])
    assert examples.batch([])[0].shape == (0, 48, 64, 3)


@pytest.mark.parametrize("kind", ["int64", "uint8"])
def test_a_batch_takes_an_array_of_items(data: Dataset, kind: str):
    many = from_arrays([dots(data.xy[0])] * 300, data.xy[[0] * 300], skeleton=SKELETON)
    examples = Examples(many, (32, 32), box="image", augmentation=EVERYTHING)
    assert same(examples.batch(np.array([5, 0, 250], kind)), examples.batch([5, 0, 250]))
    assert len(examples.batch(examples.order(2)[:4])[0]) == 4


@pytest.mark.parametrize(
    "items", [5, [1.5], ["1"], np.ones(3, bool), np.ones((2, 2), int), None], ids=lambda items: type(items).__name__
)
def test_items_that_are_no_whole_numbers_are_refused(data: Dataset, items: object):
    with pytest.raises(ArgumentError, match=r"^items: expected whole numbers \(B,\), got ") as refusal:
        Examples(data, (32, 32)).batch(items)
    assert "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # on a machine of one core
def test_workers_give_what_one_process_gives(data: Dataset):
    pytest.importorskip("lightning", reason="needs keylite[pytorch]")
    from keylite.pytorch.batches import batches_of
    from keylite.training.processes import World

    examples = Examples(data, (32, 32), augmentation=EVERYTHING, seed=1)
    loaded = {}
    for workers in (0, 2):
        loader = batches_of(examples, 3, World(), workers)
        loader.sampler.set_epoch(2)
        loaded[workers] = [[part.numpy() for part in batch] for batch in loader]
        items = list(loader.sampler)
    assert sorted(items) == list(range(12, 18)), "items name their epoch"
    expected = [examples.batch(items[:3]), examples.batch(items[3:])]
    for workers, batches in loaded.items():
        assert len(batches) == 2, workers
        assert all(same(tuple(batch), right) for batch, right in zip(batches, expected, strict=True)), workers


def test_each_epoch_has_its_own_order(data: Dataset):
    def order(seed: int, epoch: int) -> list[int]:
        return Examples(data.subset(np.arange(50) % 6), (64, 64), seed=seed).order(epoch).tolist()

    assert order(0, 1) == order(0, 1)
    assert [item - 50 for item in order(0, 1)] != order(0, 0)
    assert order(1, 0) != order(0, 0)
    assert sorted(order(0, 3)) == list(range(150, 200))


def test_the_order_is_that_of_a_generator_of_seed_and_epoch(data: Dataset):
    """Published figures hang on it, and runs that are resumed."""
    for epoch in (0, 2):
        expected = 6 * epoch + np.random.default_rng((3, epoch)).permutation(6)
        assert np.array_equal(Examples(data, (64, 64), seed=3).order(epoch), expected)


def test_cached_images_give_the_same(data: Dataset, tmp_path: Path):
    paths = [tmp_path / f"{i}.png" for i in range(len(data))]
    for path, image in zip(paths, data.images, strict=True):
        write_image(path, image)
    on_disk = dataclasses.replace(data, images=tuple(paths))
    plain, cached = (Examples(on_disk, (64, 64), augmentation=EVERYTHING, cache=cache) for cache in (False, True))
    for item in (3, 0):
        assert same(plain[item], cached[item])
    for path in paths[:3]:
        path.unlink()
    for item in (3, 4, 5):
        assert same(plain[item], cached[item])
    assert same(cached[0], Examples(data, (64, 64), augmentation=EVERYTHING)[0]), "kept since its first use"
    for examples, item in ((plain, 0), (cached, 1)):
        with pytest.raises(FileNotFoundError):
            _ = examples[item]


@pytest.mark.parametrize("box", ["annotation", "image"])
def test_a_large_jpeg_is_kept_as_small_as_its_crops_allow_and_gives_the_same(box: str, tmp_path: Path):
    generator = np.random.default_rng(0)
    image = cv2.resize(generator.integers(0, 256, (30, 40, 3), np.uint8), (643, 481), interpolation=cv2.INTER_CUBIC)
    write_image(tmp_path / "large.jpg", image)
    xy = generator.uniform(150, 350, (2, 4, 2))
    boxes = np.array([[60.0, 60, 460, 460], [100, 100, 500, 400]])
    data = from_arrays([tmp_path / "large.jpg"] * 2, xy, boxes=boxes)
    if box == "image":  # it takes one object an image
        data = data.subset([0])
    data = dataclasses.replace(
        data, images=data.images[:1], image_names=data.image_names[:1], image_index=np.zeros(len(data), np.int32)
    )
    zoomed = dataclasses.replace(EVERYTHING, scale=0.5, flip_p=0.0)
    plain, cached = (Examples(data, (64, 64), box=box, augmentation=zoomed, cache=cache) for cache in (False, True))
    assert all(same(plain[item], cached[item]) for item in range(40))
    assert cached.kept is not None and cached.kept[0][0].shape == (121, 161, 3)
    assert kept_bytes(cached) == cached.kept[0][0].size


def test_all_can_be_kept_at_once(data: Dataset, tmp_path: Path):
    paths = [tmp_path / f"{i}.png" for i in range(len(data))]
    for path, image in zip(paths, data.images, strict=True):
        write_image(path, image)
    on_disk = dataclasses.replace(data, images=tuple(paths))
    examples = Examples(on_disk, (64, 64), cache=True)
    examples.keep_all()
    Examples(on_disk, (64, 64)).keep_all()  # nothing is to be kept
    for path in paths:
        path.unlink()
    for item in range(len(data)):
        assert same(examples[item], Examples(data, (64, 64))[item])


def test_the_memory_that_images_take_is_told_from_headers(data: Dataset, tmp_path: Path):
    write_image(tmp_path / "a.png", np.zeros((10, 20, 3), np.uint8))
    write_image(tmp_path / "b.png", np.zeros((20, 30, 3), np.uint8))
    two = dataclasses.replace(data.subset([0, 1]), images=(tmp_path / "a.png", tmp_path / "b.png"))
    assert kept_bytes(Examples(two, (64, 64))) == 3 * (200 + 600)
    many = gauges(3, size=32)
    names = tuple(map(str, range(900)))
    many = dataclasses.replace(many, images=many.images * 300, image_names=names)
    assert kept_bytes(Examples(many, (64, 64))) == 900 * 3 * 32 * 32


# ---- points lie on their pixels


def test_without_augmentation_every_epoch_is_the_plain_crop(data: Dataset):
    examples = Examples(data, (64, 64), padding=0.25)
    crop = crop_box(data.box[1], (64, 64), 0.25)
    pixels, unit_xy, weight = examples[1]
    assert np.array_equal(pixels, crop.warp(data.images[1]))
    assert np.array_equal(unit_xy, crop.to_unit(data.xy[1]).astype(np.float32))
    assert weight.tolist() == [1, 1, 1]
    assert same(examples[1], examples[1 + len(data)])


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (40, 56)], ids=str)
def test_geometry_moves_points_with_pixels_and_swaps_pairs_when_flipped(data: Dataset, size: tuple[int, int]):
    examples = Examples(data, size, augmentation=GEOMETRY, seed=0, padding=0.6)
    flips = 0
    for item in range(120):
        pixels, unit_xy, _ = examples[item]
        found = centroids(pixels)
        a, b = found[1] - found[0], found[2] - found[0]
        flipped = a[0] * b[1] - a[1] * b[0] > 0  # the picture's own handedness: right lies to the right of left
        flips += flipped
        order = list(MIRROR) if flipped else [0, 1, 2]
        assert np.abs((found[order] - unit_xy) * size).max() < 0.25, item  # dots are cut at borders; in px
    assert 40 < flips < 80


@pytest.mark.parametrize("offset", [0.0, 0.05, -0.03])
def test_labels_that_sit_to_one_side_do_so_in_mirrored_examples_too(data: Dataset, offset: float):
    """Labels are put `offset` of the box's width right of the dots: as far right of them in every example."""
    width = data.box[0, 2] - data.box[0, 0]
    beside = dataclasses.replace(data, xy=data.xy + np.array([offset * width, 0]))
    flips = Augmentation(flip_p=0.5, flip_offset=offset)
    examples = Examples(beside, (96, 96), augmentation=flips, seed=0, padding=0.6)
    mirrored = 0
    for item in range(24):
        pixels, unit_xy, _ = examples[item]
        found = centroids(pixels)
        flipped = found[1, 0] > found[2, 0]
        mirrored += flipped
        order = list(MIRROR) if flipped else [0, 1, 2]
        expected = found[order] + (offset / 1.6, 0)  # the crop is 1.6 times as wide as the box
        assert np.abs((expected - unit_xy) * 96).max() < 0.25, item
    assert 4 < mirrored < 20


ALONE = {
    "rotate": (
        Augmentation(rotate=30),
        lambda crop: np.degrees(np.arctan2(crop.matrix[1, 0], crop.matrix[0, 0])),
        -30,
        30,
    ),
    "scale": (Augmentation(scale=0.5), lambda crop: np.sqrt(np.linalg.det(crop.matrix[:, :2])), 1 / 1.5, 1.5),
    "aspect": (Augmentation(aspect=0.4), lambda crop: crop.matrix[0, 0] / crop.matrix[1, 1], 1 / 1.4, 1.4),
    "shift x": (Augmentation(shift=0.2), lambda crop: crop.matrix[0, 2] / 64, -0.2, 0.2),
    "shift y": (Augmentation(shift=0.2), lambda crop: crop.matrix[1, 2] / 32, -0.2, 0.2),
}


@pytest.mark.parametrize(("augmentation", "measure", "low", "high"), ALONE.values(), ids=ALONE.keys())
def test_each_range_is_kept_and_used(augmentation: Augmentation, measure, low: float, high: float):
    plain, generator = crop_box(np.array([0, 0, 64, 32.0]), (64, 32)), np.random.default_rng(0)
    found = np.array([measure(augmented_crop(plain, augmentation, generator)) for _ in range(500)])
    reach = high - low
    assert low - 1e-9 <= found.min() < low + 0.05 * reach
    assert high - 0.05 * reach < found.max() <= high + 1e-9


def photo() -> np.ndarray:
    """Soft shapes of muted colours, with room above and below them."""
    noise = np.random.default_rng(1).uniform(80, 175, (6, 6, 3)).astype(np.float32)
    return cv2.resize(noise, (40, 40), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def hue_of(image: np.ndarray) -> float:
    """The angle of its mean colour about the grey axis, degrees."""
    red, green, blue = image.mean(axis=(0, 1))
    return np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue))


def spread(image: np.ndarray) -> float:
    return float(np.ptp(image.mean(axis=(0, 1))))


def blur_of(image: np.ndarray) -> float:
    """The deviation of the filter that made an edge in the middle of a picture this soft, px."""
    slope = np.diff(image[20, :, 0].astype(float))
    at = np.arange(len(slope)) - 19
    return float(np.sqrt((slope * at**2).sum() / slope.sum()))


EDGE = np.repeat(np.where(np.arange(40) < 20, 0, 255).astype(np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
FLAT = np.full((40, 40, 3), 128, np.uint8)
ORANGE = np.full((4, 4, 3), (180, 120, 90), np.uint8)
RAMP = np.repeat(np.array([107, 147], np.uint8)[None, :, None], 3, axis=2)
STRENGTHS = {  # a change, a picture that it does not saturate, what is measured of the result, its least and its most
    "contrast": (Augmentation(contrast=1.0, contrast_p=1.0), RAMP, lambda image: np.ptp(image) / 40, 0.5, 2.0),
    "brightness": (Augmentation(brightness=0.2, brightness_p=1.0), FLAT, lambda i: (i.mean() - 128) / 255, -0.2, 0.2),
    "saturation": (Augmentation(saturation=0.5, saturation_p=1.0), ORANGE, lambda i: spread(i) / 90, 0.5, 1.5),
    "hue": (Augmentation(hue=30.0, hue_p=1.0), ORANGE, lambda image: hue_of(image) - hue_of(ORANGE), -30, 30),
    "blur": (Augmentation(blur=2.0, blur_p=1.0), EDGE, blur_of, 0.0, 2.0),
    "noise": (Augmentation(noise=8.0, noise_p=1.0), FLAT, lambda image: image.std(), 0.0, 8.0),
}


@pytest.mark.parametrize(("augmentation", "image", "measure", "low", "high"), STRENGTHS.values(), ids=STRENGTHS)
def test_each_strength_is_kept_and_used(augmentation: Augmentation, image: np.ndarray, measure, low, high):
    generator = np.random.default_rng(0)
    found = np.array([measure(augmented_pixels(image, augmentation, generator)) for _ in range(200)])
    reach = high - low
    assert low - 0.03 * reach <= found.min() < low + 0.08 * reach
    assert high - 0.08 * reach < found.max() <= high + 0.03 * reach  # grey levels are rounded


def test_a_jpeg_is_of_every_quality_from_the_worst_that_is_allowed(monkeypatch: pytest.MonkeyPatch):
    qualities, encode = [], cv2.imencode

    def encoded(suffix: str, image: np.ndarray, choices: list[int]):
        qualities.append(choices[1])
        return encode(suffix, image, choices)

    monkeypatch.setattr(cv2, "imencode", encoded)
    generator = np.random.default_rng(0)
    for _ in range(300):
        augmented_pixels(FLAT, Augmentation(jpeg=70, jpeg_p=1.0), generator)
    assert set(qualities) == set(range(70, 101))


CHANCES = {**PHOTOMETRY, "rotate": GEOMETRY, "scale": GEOMETRY, "shift": GEOMETRY, "aspect": GEOMETRY, "flip": GEOMETRY}


def amounts(name: str, share: float) -> np.ndarray:
    """By how much each of 80 draws is changed by this change alone, with this probability."""
    image, crop = photo(), crop_box(np.array([0, 0, 64, 32.0]), (64, 32))
    never = dict.fromkeys(("rotate_p", "scale_p", "shift_p", "aspect_p", "flip_p"), 0.0)
    augmentation = dataclasses.replace(CHANCES[name], **(never | {f"{name}_p": share}))
    found = []
    for seed in range(80):
        generator = np.random.default_rng((name in PHOTOMETRY, seed))
        if name in PHOTOMETRY:
            found.append(np.abs(augmented_pixels(image, augmentation, generator) - image.astype(float)).sum())
        else:
            found.append(np.abs(augmented_crop(crop, augmentation, generator).matrix - crop.matrix).sum())
    return np.array(found)


def test_each_change_has_a_chance_and_a_strength_of_its_own():
    """None happens, or is strong, where another one is: of one draw are those of one rectangle, and x and y of a shift."""
    happens = {name: amounts(name, 0.5) > 0 for name in CHANCES}
    assert all(25 < mask.sum() < 55 for mask in happens.values())
    strong = {name: amounts(name, 1.0) for name in CHANCES if name not in ("grey", "flip", "occlude")}
    for of in (happens, strong):
        together = np.abs(np.corrcoef(list(of.values()))) - np.eye(len(of))
        one, other = np.unravel_index(np.argmax(together), together.shape)
        assert together.max() < 0.5, (list(of)[one], list(of)[other])  # measured .26 and .28


def test_turning_scaling_and_flipping_keep_the_centre_of_an_oblong_crop():
    plain, generator = crop_box(np.array([10, 20, 74, 52.0]), (64, 32)), np.random.default_rng(0)
    for _ in range(20):
        crop = augmented_crop(plain, dataclasses.replace(GEOMETRY, shift=0.0), generator)
        assert np.allclose(crop.to_crop(np.array([42, 36.0])), [32, 16])


@pytest.mark.parametrize("name", [name for name in PHOTOMETRY if name != "occlude"])
def test_photometry_changes_pixels_and_moves_nothing(data: Dataset, name: str):
    grey = np.repeat(data.images[0][..., :1], 3, axis=2) // 2 + 40
    at = [centroids(np.where(grey > 60, grey, 0))[0]]
    generator, changed = np.random.default_rng(0), 0
    coloured = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    for _ in range(12):
        pixels = augmented_pixels(grey, PHOTOMETRY[name], generator)
        background, peak = np.median(pixels), float(cv2.GaussianBlur(pixels, (0, 0), 1.5).max())
        light = np.where(pixels > background + 0.4 * (peak - background), pixels - background, 0)
        at.append(centroids(light)[0])
        changed += not np.array_equal(augmented_pixels(coloured, PHOTOMETRY[name], generator), coloured)
    assert np.abs((np.array(at) - at[0]) * (150, 130)).max() < 0.3, "in px"
    assert changed >= 10


def test_photometry_leaves_the_points_of_the_same_draw(data: Dataset):
    plain, coloured = (Examples(data, (64, 64), augmentation=a, seed=7) for a in (GEOMETRY, EVERYTHING))
    for item in range(12):
        assert same(plain[item][1:], coloured[item][1:])
    assert not np.array_equal(plain[0][0], coloured[0][0])


def test_an_occlusion_is_one_rectangle_of_one_colour():
    image = np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3))
    given, generator, hidden, anywhere = image.copy(), np.random.default_rng(0), [], np.zeros((64, 64), bool)
    for _ in range(200):
        found = augmented_pixels(image, PHOTOMETRY["occlude"], generator)
        rows, columns = np.nonzero((found != image).any(axis=2))
        anywhere[rows, columns] = True
        if len(rows):
            inside = found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].reshape(-1, 3)
            assert len(np.unique(inside, axis=0)) <= 2, "one colour, but for a row that had it already"
            hidden.append((np.ptp(columns) + 1, np.ptp(rows) + 1))
    assert len(hidden) > 150
    assert 15 < np.max(hidden) <= 0.3 * 64 + 1
    assert all(edge.any() for edge in (anywhere[0], anywhere[-1], anywhere[:, 0], anywhere[:, -1])), "cut at borders"
    assert np.array_equal(image, given), "the image that was given stays as it was"


def test_saturation_and_hue_leave_grey_and_brightness_alone():
    grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (8, 1, 3))
    for name in ("saturation", "hue", "grey"):
        found = augmented_pixels(grey, PHOTOMETRY[name], np.random.default_rng(0))
        assert np.abs(found.astype(int) - grey).max() <= 1, name
    coloured = np.random.default_rng(1).integers(40, 200, (16, 16, 3), np.uint8)
    both, turned = (
        Augmentation(hue=40.0, hue_p=1.0, saturation=0.6, saturation_p=1.0),
        Augmentation(hue=40.0, hue_p=1.0),
    )
    for seed in range(8):
        one, other = (augmented_pixels(photo(), a, np.random.default_rng(seed)) for a in (both, turned))
        grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(int) for each in (one, other)]
        assert np.abs(grey[0] - grey[1]).max() <= 2, "of a colour that is turned, too"
    found = augmented_pixels(coloured, PHOTOMETRY["grey"], np.random.default_rng(0))
    assert np.ptp(found.astype(int), axis=2).max() <= 1
    assert np.abs(found[..., 0].astype(int) - cv2.cvtColor(coloured, cv2.COLOR_RGB2GRAY)).max() <= 1


def test_contrast_and_brightness_are_the_same_with_and_without_a_change_of_colour():
    grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (8, 1, 3))
    levels = Augmentation(contrast=1.0, contrast_p=1.0, brightness=0.2, brightness_p=1.0)
    colour = dataclasses.replace(levels, saturation=0.8, saturation_p=1.0, hue=60.0, hue_p=1.0)
    for seed in range(8):
        one, other = (augmented_pixels(grey, a, np.random.default_rng(seed)).astype(int) for a in (levels, colour))
        assert np.abs(one - other).max() <= 1, "grey has no colour to change"
        assert np.abs(one - grey).max() > 3


def test_a_jpeg_keeps_red_red():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    found = augmented_pixels(red, Augmentation(jpeg=80, jpeg_p=1.0), np.random.default_rng(0))
    assert np.abs(found.astype(int) - red).max() < 10


# ---- weights, boxes, refusals


def test_weight_is_0_where_unlabelled_or_outside(data: Dataset):
    crop = crop_box(np.array([0, 0, 100, 100.0]), (50, 50))
    skeleton = Skeleton(("a", "b", "c", "d", "e"))
    xy = np.array([[50, 50], [np.nan, np.nan], [100.01, 50], [50, -0.01], [0, 100]])
    unit_xy, weight = targets(crop, xy, skeleton)
    assert weight.tolist() == [1, 0, 0, 0, 1]
    assert np.isnan(unit_xy).any(axis=1).tolist() == [False, True, False, False, False], "outside is still known"
    missing = data.xy.copy()
    missing[:, 1] = np.nan
    for _, unit_xy, weight in (Examples(data.with_xy(missing), (64, 64), augmentation=GEOMETRY)[i] for i in range(20)):
        assert (weight[np.isnan(unit_xy).all(axis=1)] == 0).all()
        assert np.isnan(unit_xy[[1, 2]]).all(axis=1).sum() == 1, "the pair of a flip, the point itself otherwise"


def test_the_mean_shape_is_of_labelled_points_in_the_crop(data: Dataset):
    xy = data.xy.copy()
    xy[1:, 1], xy[:, 2] = np.nan, np.nan  # labelled six times, once and never
    for box, whole in (("annotation", None), ("image", (150, 130))):
        examples = Examples(data.with_xy(xy), (64, 64), box=box, padding=0.0, augmentation=GEOMETRY)
        unit = xy[:, :2] - (25, 15) if whole is None else xy[:, :2] + (0, 10)  # a wide image is centred in a square
        expected = np.nanmean(unit / (100 if whole is None else 150), axis=0)
        shape = examples.mean_shape()
        assert shape.dtype == np.float32
        assert np.abs(shape - [*expected, [0.5, 0.5]]).max() < 1e-6, box


@pytest.mark.parametrize("box", ["annotation", "image"])
@pytest.mark.parametrize("size", [(64, 64), (96, 64)], ids=str)
def test_the_mean_shape_is_that_of_the_crops_one_by_one(
    box: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(examples_module, "AT_ONCE", 7)  # 23 is no multiple of it
    generator = np.random.default_rng(0)
    xy = generator.uniform(-20, 150, (23, 3, 2))  # some outside their crop
    xy[generator.random((23, 3)) < 0.3] = np.nan
    boxes = np.concatenate([generator.uniform(0, 40, (23, 2)), generator.uniform(60, 130, (23, 2))], axis=1)
    images = [np.zeros((*generator.integers(40, 150, 2), 3), np.uint8) for _ in range(23)]
    examples = Examples(from_arrays(images, xy, skeleton=SKELETON, boxes=boxes), size, box=box, padding=0.1)
    total, count = np.zeros((3, 2)), np.zeros((3, 1))
    for item in range(23):
        _, unit_xy, weight = examples[item]
        total[weight > 0] += unit_xy[weight > 0]
        count[weight > 0] += 1
    assert 23 > count.min() >= 3
    assert np.array_equal(examples.mean_shape(), (total / count).astype(np.float32))


def test_the_whole_image_is_the_crop_without_padding(data: Dataset):
    without = dataclasses.replace(data, box=np.full((6, 4), np.nan))
    pixels, unit_xy, _ = Examples(without, (150, 130), box="image", padding=3.0)[2]
    assert np.array_equal(pixels, data.images[2])
    assert np.allclose(unit_xy * (150, 130), data.xy[2], atol=1e-4)


def crowded(data: Dataset) -> Dataset:
    return dataclasses.replace(data, image_index=np.array([0, 0, 2, 3, 4, 5], np.int32))


def without_box(data: Dataset) -> Dataset:
    box = data.box.copy()
    box[3:] = np.nan
    return dataclasses.replace(data, box=box)


def without_mirror(data: Dataset) -> Dataset:
    return data.with_skeleton(Skeleton(SKELETON.names))


REFUSED = {
    "two objects in a whole image": (
        crowded,
        {"box": "image"},
        "arrays: 1 images hold more than one object, .*`box='annotation'`",
    ),
    "no box": (
        without_box,
        {},
        r"^arrays: 3 of 6 objects have no box \(image_000003; .*\); use `box='image'`, .* each a box, or pass `skip_bad=True` to",
    ),
    "no box at all": (
        lambda data: dataclasses.replace(data, box=np.full((6, 4), np.nan)),
        {},
        r"^arrays: 6 of 6 objects .* \(.*2; and 3 more\); use `box='image'`, or give each a box$",
    ),
    "flip without pairs": (without_mirror, {"augmentation": GEOMETRY}, "flip_p: the skeleton has no mirror pairs"),
}


@pytest.mark.parametrize(("change", "choices", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused(data: Dataset, change, choices: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Examples(change(data), (64, 64), **choices)


def test_objects_without_a_box_are_left_out_if_bad_ones_may_be(data: Dataset):
    lacking = without_box(data)
    left = with_boxes(lacking, "annotation", skip_bad=True)
    assert left.image_names == data.image_names[:3]
    assert left.notes[-1].startswith("left out: 3 of 6 objects have no box: image_000003; ")
    assert len(Examples(left, (64, 64)).boxes) == 3
    none = dataclasses.replace(data, box=np.full((6, 4), np.nan))
    for same, box, skip in ((lacking, "image", True), (lacking, "annotation", False), (none, "annotation", True)):
        assert with_boxes(same, box, skip) is same


def test_what_could_be_refused_is_not(data: Dataset):
    Examples(crowded(data), (64, 64))
    Examples(without_box(data), (64, 64), box="image")
    Examples(without_mirror(data), (64, 64), augmentation=dataclasses.replace(GEOMETRY, flip_p=0.0))


def test_an_index_annotation_survives_reading_two_flips_and_writing(tmp_path: Path):
    """Twice through the flip that training uses, and back to a file: every number as it was, to the last digit."""
    size, box = (40, 30), [3, 2, 31, 25]
    keypoints = [[10, 11, 2], [0, 0, 2], [39, 29, 1], [17.25, 3.5, 2], [0, 0, 0]]
    category = {"id": 1, "name": "x", "keypoints": list("abcde"), "flip_pairs": [["a", "b"], ["c", "d"]]}
    source = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "keypoints": sum(keypoints, [])}],
        "categories": [category],
    }
    write_image(tmp_path / "a.png", np.zeros((30, 40, 3), np.uint8))
    (tmp_path / "in.json").write_text(json.dumps(source))
    dataset = read_dataset(tmp_path / "in.json")
    assert dataset.xy[0, 0].tolist() == [10.5, 11.5]

    flip = Augmentation(flip_p=1.0)
    crop = crop_box(np.array([0, 0, *size], np.float64), size)
    xy, generator = dataset.xy, np.random.default_rng(0)
    for turn in range(2):
        flipped = augmented_crop(crop, flip, generator)
        assert flipped.mirrored
        xy = flipped.to_crop(xy)[:, list(dataset.skeleton.mirror)]
        if turn == 0:
            assert xy[0, 1].tolist() == [40 - 10.5, 11.5], "x -> W - x, and a is b now"
    write_coco(dataset, tmp_path / "out.json", xy)
    (annotation,) = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert annotation["keypoints"] == sum(keypoints, [])
    assert annotation["bbox"] == box
