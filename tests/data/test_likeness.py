"""Copies of a picture are told from other pictures, among many, and said where they make figures flatter."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from keylite.data import likeness
from keylite.data.arrays import from_arrays
from keylite.data.likeness import LIKENESS, alike, likeness_of
from keylite.data.rendered.gauges import gauges
from keylite.runtime.images import read_image
from keylite.training.checks import warn_of_alike

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


def scene(seed: int, width: int = 200, height: int = 150) -> np.ndarray:
    """A picture of soft shapes, another one for each seed."""
    noise = np.random.default_rng(seed).uniform(0, 255, (6, 8, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def known(*images: np.ndarray) -> np.ndarray:
    return np.array([likeness_of(image) for image in images], LIKENESS)


def saved(image: np.ndarray, quality: int) -> np.ndarray:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


COPIES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {  # a change, and what the two are then
    "none": (lambda image: image.copy(), "equal"),
    "a window of a larger array": (lambda image: np.pad(image, ((2, 3), (1, 1), (0, 0)))[2:-3, 1:-1], "equal"),
    "one pixel": (lambda image: np.where(np.arange(image.size).reshape(image.shape) == 999, 7, image).astype(np.uint8), "nearly"),
    "the last pixel": (lambda image: np.where(np.arange(image.size).reshape(image.shape) == image.size - 1, image ^ 1, image), "nearly"),
    "two rows exchanged": (lambda image: image[[1, 0, *range(2, len(image))]], "nearly"),
    "saved again": (lambda image: saved(image, 60), "nearly"),
    "saved badly": (lambda image: saved(image, 20), "nearly"),
    "half as large": (lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), "nearly"),
    "larger": (lambda image: cv2.resize(image, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC), "nearly"),
    "squeezed": (lambda image: cv2.resize(image, (150, 150), interpolation=cv2.INTER_LINEAR), "nearly"),
    "darker": (lambda image: (image * 0.7).astype(np.uint8), "nearly"),
    "less contrast": (lambda image: (image * 0.8 + 30).astype(np.uint8), "nearly"),
    "blurred": (lambda image: cv2.GaussianBlur(image, (5, 5), 0), "nearly"),
    "grey": (lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), "nearly"),
    "mirrored": (lambda image: image[:, ::-1], "other"),
    "turned": (lambda image: image[::-1, ::-1], "other"),
    "half of it": (lambda image: image[:, :100], "other"),
    "the negative": (lambda image: 255 - image, "other"),
}  # fmt: skip


@pytest.mark.parametrize("case", COPIES)
def test_copies_are_known(case: str) -> None:
    change, expected = COPIES[case]
    others = [scene(seed) for seed in range(20)]
    for seed in range(20):
        found = alike(known(change(others[seed])), known(*others))
        assert found.other.tolist() == [seed if expected != "other" else -1]
        assert found.equal.tolist() == [expected == "equal"]


def test_an_equal_one_comes_before_the_nearest() -> None:
    image = scene(3)
    found = alike(known(image, scene(4)), known(saved(image, 95), scene(5), image))
    assert found.other.tolist() == [2, -1]
    assert found.equal.tolist() == [True, False]


def test_pictures_that_show_nothing_are_equal_or_other() -> None:
    blank = np.full((60, 80, 3), 200, np.uint8)
    noisy = (blank + np.random.default_rng(0).integers(0, 3, blank.shape)).astype(np.uint8)
    found = alike(known(blank, noisy), known(blank, blank - 1))
    assert found.other.tolist() == [0, -1]
    assert alike(known(blank), known(scene(0))[:0]).other.tolist() == [-1]


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 5)])
def test_pictures_of_any_size_are_known(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert alike(known(image), known(image)).equal.tolist() == [True]
    other = image.copy()
    other[-1, -1, 2] ^= 1
    assert alike(known(image), known(other)).equal.tolist() == [False]


def test_parts_of_a_picture_that_are_exchanged_are_noticed() -> None:
    """Of as many bytes as fall on the same sums."""
    image = scene(0)
    parts = image.reshape(-1).copy()
    part = 8 * likeness.WORDS
    parts[:part], parts[part : 2 * part] = image.reshape(-1)[part : 2 * part], image.reshape(-1)[:part]
    assert alike(known(image), known(parts.reshape(image.shape))).equal.tolist() == [False]


def test_of_one_data_set_other_parts_alone_count() -> None:
    image = scene(1)
    pictures = known(image, image, scene(2), saved(image, 80), scene(2), scene(9))
    assert alike(pictures, parts=np.array([0, 0, 0, 1, 1, 1])).other.tolist() == [3, 3, 4, 0, 2, -1]
    assert alike(pictures, parts=np.zeros(6, int)).other.tolist() == [-1] * 6
    found = alike(pictures)
    assert found.other[:2].tolist() == [1, 0] and found.equal.tolist() == [True, True, True, False, True, False]


def test_the_search_in_blocks_finds_what_a_look_at_all_pairs_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "BLOCK", 7)
    monkeypatch.setattr(likeness, "SAMPLE", 64)
    generator = np.random.default_rng(0)
    base = generator.uniform(40, 215, (30, 16, 16))
    small = base[generator.integers(0, 30, 200)] + generator.normal(0, 1, (200, 16, 16)) * generator.uniform(
        0, 9, (200, 1, 1)
    )
    pictures = np.zeros(200, LIKENESS)
    pictures["small"], pictures["pixels"] = np.clip(small, 0, 255), np.arange(200)
    correlation = np.corrcoef(pictures["small"].reshape(200, -1).astype(float))
    np.fill_diagonal(correlation, -1)
    expected = correlation.max(axis=1) >= 1 - likeness.NEARLY
    assert 20 < expected.sum() < 180
    found = alike(pictures)
    assert np.array_equal(found.other >= 0, expected)
    assert np.all(correlation[expected, found.other[expected]] >= 1 - likeness.NEARLY)


def test_checked_images_are_known_and_stay_so_in_a_part() -> None:
    images = [scene(seed) for seed in range(4)]
    data = from_arrays(images, np.full((4, 1, 2), 5.0))
    assert data.likeness is None
    part = data.check_images().subset([2, 0])
    assert part.likeness is not None
    assert np.array_equal(part.likeness, known(images[0], images[2]))


def test_the_line_names_ten_and_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    images = known(*[scene(seed) for seed in range(12)])
    copies = known(scene(0), *[saved(scene(seed), 70) for seed in range(1, 12)], scene(77))
    names = [f"{number}.png" for number in range(13)]
    with caplog.at_level(logging.WARNING, "keylite"):
        warn_of_alike(alike(copies, images), "of val are in the training data, too", names, [f"t{n}" for n in names])
    (line,) = caplog.messages
    assert line.startswith(
        "12 of 13 pictures of val are in the training data, too (1 equal and 11 nearly equal): figures will flatter: "
        "0.png = t0.png; 1.png ~ t1.png; "
    )
    assert "9.png ~ t9.png; and 2 more; hold out whole subjects" in line
    assert "`blocks=True`" in line
    caplog.clear()
    warn_of_alike(alike(copies[-1:], images), "of val", names, names)
    assert not caplog.messages


REAL = {  # labels held out, labels trained on, pictures that are in both: looked at
    "faces of other people": ("faces68/val.json", "faces68/train.json", 0),
    "one video, frames at random": ("openfield_mouse/test_random.json", "openfield_mouse/train_random.json", 9),
    "one video, its last frames": ("openfield_mouse/test_block.json", "openfield_mouse/train_block.json", 2),
}


@pytest.mark.parametrize("case", REAL)
def test_real_pictures(case: str) -> None:
    held_out, trained, expected = REAL[case]
    if not (SHARED / held_out).exists():
        pytest.skip("needs ../shared/data")

    def pictures(labels: str) -> np.ndarray:
        names = [image["file_name"] for image in json.loads((SHARED / labels).read_text())["images"]]
        folder = (SHARED / labels).parent / ("images" if "faces" in labels else "")
        return known(*[read_image(folder / name) for name in names])

    assert int((alike(pictures(held_out), pictures(trained)).other >= 0).sum()) == expected


def test_rendered_gauges_are_all_different() -> None:
    data = gauges(60)
    pictures = known(*[data.read_image(image) for image in range(len(data.images))])
    assert int((alike(pictures).other >= 0).sum()) == 0
