"""The white level of 16-bit pictures is found and kept, and what shows hardly anything is counted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.tones import Tones, tone_notes, tones_of, white_level_of
from keylite.runtime.images import read_image

POINTS = np.full((1, 2, 2), 9.0)


def written(folder: Path, *highs: int, dtype: type = np.uint16) -> Dataset:
    """A data set of pictures that rise from 0 to `highs`, as PNG files."""
    paths = []
    for number, high in enumerate(highs):
        paths.append(folder / f"{number}.png")
        ramp = np.linspace(0, high, 400).round().astype(dtype).reshape(20, 20)
        assert cv2.imwrite(str(paths[-1]), ramp)
    return from_arrays(paths, np.repeat(POINTS, len(paths), axis=0))


LEVELS = {  # brightest samples: the white level, the note
    "8 bits": ((200, 255), 255, "2 of 2 images hold 16 bits per sample, up to 255: 255 is taken as white"),
    "10 bits": ((200, 256), 1023, "up to 256: 1023 is taken as white"),
    "12 bits": ((4095, 4000), 4095, "up to 4095: 4095 is taken as white"),
    "14 bits": ((4096,), 16383, "up to 4096: 16383 is taken as white"),
    "16 bits": ((300, 16384), 65535, None),
}


@pytest.mark.parametrize(("highs", "level", "note"), LEVELS.values(), ids=LEVELS)
def test_the_white_level_is_that_of_all_pictures(highs: tuple[int, ...], level: int, note: str | None, tmp_path: Path):
    data = written(tmp_path, *highs).check_images()
    assert data.white_level == level
    assert any("bits per sample" in line for line in data.notes) == (note is not None)
    assert note is None or note in data.notes[0]
    for image, path in enumerate(data.images):
        np.testing.assert_array_equal(data.read_image(image), read_image(path, white_level=level))
        np.testing.assert_array_equal(data.open_image(image).pixels(), data.read_image(image))


def test_a_level_that_was_found_stays(tmp_path: Path):
    data = written(tmp_path, 4000, 900).check_images()
    part = data.subset([1]).check_images()
    assert part.white_level == 4095
    assert part.notes == data.notes, "said once"
    assert written(tmp_path, 4000, 900).subset([1]).check_images().white_level == 1023
    val = written(tmp_path, 4000, 900).check_images(white_level=1023)
    assert val.white_level == 1023
    assert val.notes[0] == "1 of 2 images hold samples above 1023, which are read as white"


def test_8_bit_pictures_and_none_have_the_usual_level(tmp_path: Path):
    assert written(tmp_path, 30, dtype=np.uint8).check_images().white_level == 65535
    assert white_level_of([None]) == 65535


SEEN = {  # tones, white level: the words
    "black": (Tones(0, 90, 4.9, 8), 65535, "are nearly black (their mean is below 5 of 255)"),
    "not black": (Tones(0, 90, 5.0, 8), 65535, None),
    "white": (Tones(0, 255, 250.1, 8), 65535, "are nearly white (their mean is above 250 of 255)"),
    "not white": (Tones(0, 255, 250.0, 8), 65535, None),
    "flat": (Tones(100, 107, 103.0, 8), 65535, "have hardly any contrast (fewer than 8 of 256 levels)"),
    "not flat": (Tones(100, 108, 103.0, 8), 65535, None),
    "black, of 16 bits": (Tones(0, 60000, 1200.0, 16), 65535, "are nearly black"),
    "12 of 16 bits": (Tones(0, 4000, 1200.0, 16), 4095, None),
    "black, 12 of 16 bits": (Tones(0, 4000, 79.99, 16), 4095, "are nearly black"),
    "not black, 12 of 16 bits": (Tones(0, 4000, 80.0, 16), 4095, None),
    "flat, 12 of 16 bits": (Tones(2000, 2100, 2050.0, 16), 4095, "have hardly any contrast"),
}


@pytest.mark.parametrize(("tones", "level", "words"), SEEN.values(), ids=SEEN)
def test_pictures_that_show_hardly_anything_are_said(tones: Tones, level: int, words: str | None):
    notes = [note for note in tone_notes([tones, None], ["a.png", "b.png"], level) if "bits per sample" not in note]
    assert len(notes) == (words is not None)
    assert words is None or notes[0].startswith(f"1 of 2 images {words}")
    assert words is None or notes[0].endswith(": a.png")


def test_pictures_of_16_bits_are_counted_and_those_that_are_brighter():
    tones = [Tones(0, 255, 99.0, 8), Tones(0, 1023, 500.0, 16), Tones(0, 1024, 500.0, 16), None]
    taken = "2 of 4 images hold 16 bits per sample, up to 1024: 1023 is taken as white"
    cut = "1 of 4 images hold samples above 1023, which are read as white"
    assert tone_notes(tones, list("abcd"), 1023) == [taken, cut]
    assert tone_notes(tones, list("abcd"), 1023, given=True) == [cut]
    assert tone_notes(tones[:2], list("ab"), 1023, given=True) == []
    assert tone_notes(tones[:1], ["a"], 1023) == []
    assert tone_notes(tones, list("abcd"), 65535) == [
        "2 of 4 images are nearly black (their mean is below 5 of 255): b, c"
    ]


def test_many_are_counted_and_some_named():
    notes = tone_notes([Tones(0, 3, 1.0, 8)] * 5, list("abcde"), 65535)
    assert notes == ["5 of 5 images are nearly black (their mean is below 5 of 255): a, b, c, and 2 more"]


def test_tones_are_those_of_the_samples():
    image = np.zeros((300, 200, 3), np.uint8)
    image[:150, 150:] = 200
    assert tones_of(image) == Tones(0, 200, pytest.approx(25, abs=2), 8)
    deep = np.zeros((300, 200, 3), np.uint16)
    deep[1, 1, 1] = 777  # a single sample decides what is white
    assert tones_of(deep).high == 777
    assert tones_of(deep).bits == 16
