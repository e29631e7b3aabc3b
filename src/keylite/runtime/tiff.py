"""The directories of a TIFF file, and what its strips and tiles can be held to before they are decoded.

Numbers of the file alone: knows nothing of pixels. A file that cannot be followed raises struct.error.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import NamedTuple

WIDTH, HEIGHT, BITS, ORIENTATION, KIND, FORMAT = 256, 257, 258, 274, 254, 339
PACKED = 259  # Compression: 1 for samples that are stored plainly
DEFLATE = frozenset({8, 32946})  # what Compression calls zlib's streams, which end with a checksum
FILL_ORDER = 266  # 2 if the bits of each byte are turned round
ALPHA = 338  # ExtraSamples: 1 for colours that are multiplied by alpha, 2 for those that are not
SAMPLES, PLANES = 277, 284  # samples of a pixel; 2 if those of each kind lie in strips of their own
STRIPS = (273, 279, 256, 278)  # offsets, counts of bytes, width, rows of a strip
TILES = (324, 325, 322, 323)  # offsets, counts of bytes, width, rows of a tile
NUMBERS = {1: "B", 3: "H", 4: "I"}  # types of whole numbers: BYTE, SHORT, LONG
MOST_TAGS = 1000  # more are no picture of ours: they cost time
SLACK = 4  # times as much as its pixels need, a stream is followed to its checksum
CHUNK = 2**16  # packed bytes that are looked at at once: they hold at most 66 MB


class Directory(NamedTuple):
    """One picture of a file.

    first: the first of a tag's whole numbers. places: (format, how many, where in the file) of all of them. following:
    where the next directory lies, 0 if there is none.
    """

    first: dict[int, int]
    places: dict[int, tuple[str, int, int]]
    following: int


def directory(data: bytes, offset: int = 0) -> Directory:
    """The directory at `offset`; the first one of the file if that is 0."""
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
            where = at + 8
            if values * struct.calcsize(number) > 4:
                (where,) = struct.unpack_from(order + "I", data, at + 8)
            first.setdefault(tag, struct.unpack_from(order + number, data, where)[0])
            places.setdefault(tag, (order + number, values, where))
    return Directory(first, places, struct.unpack_from(order + "I", data, offset + 2 + 12 * count)[0])


def packing_problem(data: bytes) -> str:
    """What is wrong with the strips or tiles of the first picture, in words; empty if nothing shows.

    Decoders fill what is not there with black, and stop at a stream's last pixel, before its checksum.
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
    there = sum(start > 0 and count > 0 for start, count in zip(starts, counts, strict=False))
    if there < wanted:
        return f"it lacks strips or tiles: {there} of {wanted} are there"
    if page.first[PACKED] not in DEFLATE or page.first.get(FILL_ORDER) == 2:
        return ""
    most = math.ceil(columns * samples * page.first.get(BITS, 1) / 8) * rows
    for start, count in zip(starts, counts, strict=True):
        if told := _stream_problem(memoryview(data)[start : start + count], most):
            return told
    return ""


def _numbers(data: bytes, page: Directory, tag: int, most: int) -> tuple[int, ...]:
    """The whole numbers of a tag, `most` of them at most, and no more than lie in the file."""
    number, count, where = page.places.get(tag, ("<B", 0, 0))
    count = min(count, most, (len(data) - where) // struct.calcsize(number))
    return struct.unpack_from(f"{number[0]}{count}{number[1]}", data, where)


def _stream_problem(stream: memoryview, most: int) -> str:
    """What zlib says of a stream; empty if it is whole, or holds far more than so many bytes."""
    inflating, total = zlib.decompressobj(), 0
    try:
        for at in range(0, len(stream), CHUNK):
            total += len(inflating.decompress(stream[at : at + CHUNK]))
            if inflating.eof or total > SLACK * most + CHUNK:  # so much more than pixels: no decoder comes to its end
                return ""
    except zlib.error as error:
        return str(error).partition(": ")[2] or str(error)
    return "a stream of packed samples has no end"
