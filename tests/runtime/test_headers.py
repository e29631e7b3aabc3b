"""What an image file says of itself; what readers make of it is tests/runtime/test_images.py's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from keylite.runtime.headers import FORMATS, Header, kind_of, orientation, read_header, upright_size

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WebP": ".webp", "TIFF": ".tiff"}


def encoded(suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, PIXELS, list(options))[1].tobytes()


def test_every_format_has_a_file_here():
    assert SUFFIXES.keys() == FORMATS.keys()


@pytest.mark.parametrize(("kind", "suffix"), SUFFIXES.items())
def test_kind_and_size_are_read_from_the_header(kind: str, suffix: str):
    data = encoded(suffix)
    header = read_header("name", data)
    assert kind_of(data) == kind
    assert (header.width, header.height, header.frames) == (50, 30, 1)
    assert (header.components, header.height_offset > 0) == ((3, True) if kind == "JPEG" else (0, False))


@pytest.mark.parametrize(("kind", "suffix"), SUFFIXES.items())
def test_a_file_that_is_cut_within_its_header_is_refused(kind: str, suffix: str):
    with pytest.raises(ValueError, match=rf"^name: the {kind} file is truncated or damaged \(14 bytes\)$"):
        read_header("name", encoded(suffix)[:14])


def test_where_a_sequential_jpeg_says_its_height():
    data = encoded(".jpg")
    at = read_header("name", data).height_offset
    assert int.from_bytes(data[at : at + 2], "big") == 30
    assert int.from_bytes(data[at + 2 : at + 4], "big") == 50
    assert read_header("name", encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)).height_offset == 0


SAMPLED = {  # how colour is stored: whether for as many px across as down
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420: True,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422: False,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440: False,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444: True,
}


@pytest.mark.parametrize(("factor", "square"), SAMPLED.items())
def test_how_colour_is_stored(factor: int, square: bool):
    assert read_header("name", encoded(".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)).square is square


def test_a_turned_picture_exchanges_its_sides():
    block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    assert orientation(block) == 6
    assert upright_size(Header(50, 30, exif=block)) == (30, 50)
    assert upright_size(Header(50, 30)) == (50, 30)
