"""The orientation of an EXIF block is read as OpenCV reads it, however strange the block."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from keylite.runtime.exif import orientation_of
from keylite.runtime.images import image_size, read_image

PIXELS = cv2.resize(np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8), (40, 24))
TAGS = (274, 274, 274, 270, 271, 282, 283, 296, 305, 318, 319, 529, 531, 532, 33432, 34665, 999)
ROUNDS = 400


def random_block(generator: np.random.Generator) -> bytes:
    """A directory of some tags: of any type and count, perhaps cut short, of another start or number of tags."""
    order, mark = ("<", b"II") if generator.uniform() < 0.5 else (">", b"MM")
    count = int(generator.integers(0, 6))
    tags = b""
    for _ in range(count):
        tag, kind = int(generator.choice(TAGS)), int(generator.choice([1, 2, 3, 3, 3, 4, 5, 9]))
        if tag == 274:
            value = int(generator.integers(0, 10))
        else:
            value = int(generator.choice([0, 8, 20, 30, 60, 100, 1000, 2**32 - 4]))
        one = {1: bytes([value & 255, 0, 0, 0]), 3: struct.pack(order + "HH", value & 65535, 0)}
        several = int(generator.choice([0, 1, 1, 1, 2, 5, 20, 2**31]))
        tags += struct.pack(order + "HHI", tag, kind, several) + one.get(kind, struct.pack(order + "I", value))
    said = count if generator.uniform() < 0.8 else int(generator.integers(0, 300))
    start = 8 if generator.uniform() < 0.95 else int(generator.integers(0, 40))
    number = 42 if generator.uniform() < 0.95 else 43
    block = mark + struct.pack(order + "HIH", number, start, said) + tags + bytes(int(generator.choice([0, 4, 12, 60])))
    return block[: int(generator.integers(0, len(block) + 1))] if generator.uniform() < 0.25 else block


def jpeg_with(blocks: list[bytes], pixels: np.ndarray = PIXELS) -> bytes:
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    segments = [b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block for block in blocks]
    return data[:2] + b"".join(segments) + data[2:]


def png_with(blocks: list[bytes]) -> bytes:
    data = cv2.imencode(".png", PIXELS)[1].tobytes()
    chunks = [
        struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        for block in blocks
    ]
    return data[:33] + b"".join(chunks) + data[33:]


def webp_with(blocks: list[bytes]) -> bytes:
    data = cv2.imencode(".webp", PIXELS, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    canvas = struct.pack("<II", 8, 0)[:4] + (39).to_bytes(3, "little") + (23).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + canvas + data[12:]
    for block in blocks:
        body += b"EXIF" + struct.pack("<I", len(block)) + block + b"\0" * (len(block) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize("make", [jpeg_with, png_with, webp_with, lambda blocks: jpeg_with(blocks, PIXELS[..., 0])])
def test_strange_blocks_turn_a_picture_as_opencv_does(make: Callable[[list[bytes]], bytes]):
    generator, turned = np.random.default_rng(1), 0
    for _ in range(ROUNDS):
        data = make([random_block(generator) for _ in range(int(generator.integers(1, 3)))])
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        found = read_image(data)
        np.testing.assert_array_equal(found, expected)
        assert image_size(data) == (found.shape[1], found.shape[0])
        turned += found.shape[0] > found.shape[1]
    assert turned > ROUNDS // 50


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0), 6),
        (b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0), 6),
        (b"MM\0*" + struct.pack(">IHHHII", 8, 1, 274, 4, 1, 6), 0),
        (b"II*\0" + struct.pack("<IHHHII", 8, 1, 274, 4, 1, 6), 6),
        (b"II*\0" + struct.pack("<IHHHIHH", 8, 9, 274, 3, 1, 6, 0), 6),
        (b"II*\0" + struct.pack("<IHHHIIHHIHH", 8, 2, 270, 2, 99, 5000, 274, 3, 1, 6, 0), None),
        (b"", None),
        (b"II*\0\xff\xff\xff\xff", None),
    ],
    ids=[
        "usual",
        "other order",
        "long",
        "long, other order",
        "cut short",
        "after a text beyond",
        "empty",
        "wild start",
    ],
)
def test_what_an_orientation_is(block: bytes, expected: int | None):
    assert orientation_of(block) == expected
