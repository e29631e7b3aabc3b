"""Reads the directories of a TIFF file, and checks its strips and tiles before they are decoded.

A file that cannot be followed raises struct.error.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import NamedTuple

WIDTH, HEIGHT, BITS, ORIENTATION, KIND, FORMAT = 256, 257, 258, 274, 254, 339
PACKED = 259  # Compression: 1 if samples are not compressed
DEFLATE = frozenset({8, 32946})  # values of Compression for zlib streams, which end with a checksum
FILL_ORDER = 266  # 2 if the bits of each byte are in reverse order
ALPHA = 338  # ExtraSamples: 1 if colours are multiplied by alpha, 2 if they are not
SAMPLES, PLANES = 277, 284  # samples per pixel; 2 if each channel has separate strips
STRIPS = (273, 279, 256, 278)  # tags for offsets, numbers of bytes, width, rows of a strip
TILES = (324, 325, 322, 323)  # tags for offsets, numbers of bytes, width, rows of a tile
NUMBERS = {1: "B", 3: "H", 4: "I"}  # types of whole numbers: BYTE, SHORT, LONG
MOST_TAGS = 1000  # limit, because each costs time
SLACK = 4  # a stream is read to its checksum unless it holds more than SLACK times what the pixels need
CHUNK = 2**16  # compressed bytes that are read at once: they hold at most 66 MB


class Directory(NamedTuple):
    """One picture of a file: its tags.

    first: tag -> the first of its whole numbers. places: tag -> (format, count, place in the file) of all its numbers.
    following: the place of the next directory; 0 if this is the last one.
    """

    first: dict[int, int]
    places: dict[int, tuple[str, int, int]]
    following: int


def directory(data: bytes, offset: int = 0) -> Directory:
    """The directory at `offset`; 0: the first one of the file."""
    order = "<" if data.startswith(b"II") else ">"
    if not offset:
        (offset,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, offset)
    if count > MOST_TAGS:
        raise struct.error(f"{count} tags")
    first: dict[int, int] = {}
    places: dict[int, tuple[str, int, int]] = {}
    for at in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", data, at)
        if kind in NUMBERS:
            number = NUMBERS[kind]
            place = at + 8
            if values * struct.calcsize(number) > 4:
                (place,) = struct.unpack_from(order + "I", data, at + 8)
            first.setdefault(tag, struct.unpack_from(order + number, data, place)[0])
            places.setdefault(tag, (order + number, values, place))
    return Directory(first, places, struct.unpack_from(order + "I", data, offset + 2 + 12 * count)[0])


def packing_problem(data: bytes) -> str:
    """What is wrong with the strips or tiles of the first picture, in words; empty if no damage is found.

    Decoders do not notice it: they fill missing parts with black, and stop before the checksum of a stream.
    """
    page = directory(data)
    tiled = TILES[0] in page.first
    places, sizes, across, down = TILES if tiled else STRIPS
    width, height = page.first[WIDTH], page.first[HEIGHT]
    columns, rows = page.first.get(across, width), page.first.get(down, height)
    rows = rows if tiled else min(rows, height)
    if columns == 0 or rows == 0:
        return "a strip or tile has no size"
    samples = page.first.get(SAMPLES, 1)
    wanted = math.ceil(width / columns) * math.ceil(height / rows)
    wanted *= samples if page.first.get(PLANES, 1) == 2 else 1
    starts, counts = _numbers(data, page, places, wanted), _numbers(data, page, sizes, wanted)
    present = sum(start > 0 and count > 0 for start, count in zip(starts, counts, strict=False))
    if present < wanted:
        return f"it lacks strips or tiles: {present} of {wanted} are there"
    if page.first[PACKED] not in DEFLATE or page.first.get(FILL_ORDER) == 2:
        return ""
    most = math.ceil(columns * samples * page.first.get(BITS, 1) / 8) * rows
    for start, count in zip(starts, counts, strict=True):
        if problem := _stream_problem(memoryview(data)[start : start + count], most):
            return problem
    return ""


def _numbers(data: bytes, page: Directory, tag: int, most: int) -> tuple[int, ...]:
    """The whole numbers of a tag: at most `most`, and no more than the file holds."""
    number, count, place = page.places.get(tag, ("<B", 0, 0))
    count = min(count, most, (len(data) - place) // struct.calcsize(number))
    return struct.unpack_from(f"{number[0]}{count}{number[1]}", data, place)


def _stream_problem(stream: memoryview, most: int) -> str:
    """What zlib says is wrong with a stream; empty if it is whole, or holds far more than `most` bytes."""
    inflating, total = zlib.decompressobj(), 0
    try:
        for at in range(0, len(stream), CHUNK):
            total += len(inflating.decompress(stream[at : at + CHUNK]))
            if inflating.eof or total > SLACK * most + CHUNK:  # no decoder reads so far
                return ""
    except zlib.error as error:
        return str(error).partition(": ")[2] or str(error)
    return "a stream of compressed samples has no end"
