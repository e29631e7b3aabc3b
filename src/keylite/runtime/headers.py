"""What an image file says of itself: kind, size, frames and turn, and whether it is whole; nothing is decoded.

JPEG, PNG, GIF, BMP, WebP and TIFF. A file that is cut short, damaged or animated is refused in one line, so that it
never reaches a decoder (nor makes it print to stderr).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm")  # suffixes of what is often taken for images
JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; the three others are DHT, JPG, DAC
JPEG_SEQUENTIAL = frozenset({0xC0, 0xC1})  # SOF markers of baseline and extended sequential files
JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length: TEM, RST0..7, SOI
EXIF_START = b"Exif\0\0"
TIFF_WIDTH, TIFF_HEIGHT, TIFF_ORIENTATION, TIFF_KIND = 256, 257, 274, 254


class Header(NamedTuple):
    """Width and height in px as stored, frames (2 stands for "several"), and the EXIF block (TIFF bytes), if any.

    square: whether colour is stored for as many px across as down, as in 4:4:4 and 4:2:0. components: of a JPEG.
    height_offset: where a sequential JPEG (not a progressive one) says its height, two bytes; 0 for others.
    """

    width: int
    height: int
    frames: int = 1
    exif: bytes = b""
    square: bool = True
    components: int = 0
    height_offset: int = 0


class DamagedError(Exception):
    """A header that cannot be followed; becomes the ValueError of the file."""


def kind_of(data: bytes) -> str:
    """The name of the format by its first bytes; empty for one that is not read here."""
    return next((name for name, (start, _) in FORMATS.items() if re.match(start, data, re.DOTALL)), "")


def read_header(name: str, data: bytes) -> Header:
    """The header of a whole, still picture; ValueError for anything else."""
    if not data:
        raise ValueError(f"{name}: the file is empty (0 bytes)")
    kind = kind_of(data)
    if not kind:
        hint = "; give the frames of a video to Predictor.stream" if name.lower().endswith(VIDEOS) else ""
        raise ValueError(f"{name}: not an image that keylite reads (JPEG, PNG, GIF, BMP, WebP, TIFF){hint}")
    try:
        header = FORMATS[kind][1](data)
    except (IndexError, struct.error, DamagedError):
        raise ValueError(f"{name}: the {kind} file is truncated or damaged ({len(data)} bytes)") from None
    if header.frames > 1:
        raise ValueError(f"{name}: expected one picture, got a {kind} file of several frames; save them one by one")
    if header.width <= 0 or header.height <= 0:
        raise ValueError(f"{name}: the {kind} header says {header.width}x{header.height} pixels: it is damaged")
    return header


def upright_size(header: Header) -> tuple[int, int]:
    """Width and height in px once the picture is turned as its EXIF orientation says."""
    sideways = orientation(header.exif) in (5, 6, 7, 8)  # these exchange rows and columns, others say nothing
    return (header.height, header.width) if sideways else (header.width, header.height)


def _jpeg(data: bytes) -> Header:
    width, height, components, exif, square, height_offset, at = 0, 0, 0, b"", True, 0, 2
    while True:
        if data[at] != 0xFF:  # stray bytes; decoders skip them too
            at = data.find(b"\xff", at)
            if at < 0:
                raise DamagedError
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in JPEG_ALONE:
            at += 2
        elif marker == 0xD9:  # EOI before any pixel
            raise DamagedError
        else:
            if marker in JPEG_SIZES:
                height, width, components = struct.unpack_from(">HHB", data, at + 5)
                factors = data[at + 11 : at + 10 + 3 * components : 3]  # of each component, across and down
                height_offset = at + 5 if marker in JPEG_SEQUENTIAL else 0
                square = len({(f >> 4) / max(f & 15, 1) for f in factors}) <= 1
            elif marker == 0xE1 and not exif and data.startswith(EXIF_START, at + 4):
                exif = data[at + 4 + len(EXIF_START) : at + 2 + (data[at + 2] << 8) + data[at + 3]]
            at += 2 + (data[at + 2] << 8) + data[at + 3]
            if marker == 0xDA:
                break
    if data.rfind(b"\xff\xd9", at) < 0:  # bytes after the end are common, a missing end is a cut
        raise DamagedError
    return Header(width, height, 1, exif, square, components, height_offset)


def _png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    frames, exif, at, kind = 1, b"", 8, b""
    while kind != b"IEND":
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if kind == b"acTL":
            frames = min(struct.unpack_from(">I", data, at + 8)[0], 2)
        elif kind == b"eXIf":
            exif = data[at + 8 : at + 8 + length]
        at += length + 12
    if at > len(data):
        raise DamagedError
    return Header(width, height, frames, exif)


def _gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    frames, at = 0, 13 + _gif_colours(flags)
    while data[at] != 0x3B and frames < 2:  # trailer
        if data[at] == 0x2C:  # a frame: its descriptor, its colours, the LZW code size
            frames += 1
            at += 11 + _gif_colours(data[at + 9])
        elif data[at] == 0x21:  # an extension and its label
            at += 2
        else:
            raise DamagedError
        while data[at]:  # sub-blocks, each led by its length
            at += data[at] + 1
        at += 1
    if frames == 0:
        raise DamagedError
    return Header(width, height, frames)


def _gif_colours(flags: int) -> int:
    """Bytes of the colour table that the flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _bmp(data: bytes) -> Header:
    start, length = struct.unpack_from("<II", data, 10)
    if length == 12:  # OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compressed = 0
    else:
        width, height, _, bits, compressed = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative: rows run from the top
    if compressed in (0, 3) and start + (width * bits + 31) // 32 * 4 * height > len(data):
        raise DamagedError
    return Header(width, height)


def _webp(data: bytes) -> Header:
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise DamagedError
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind != b"VP8X":
        raise DamagedError
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    frames, exif, at = 0, b"", 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        if data[at : at + 4] == b"ANMF":
            frames += 1
        elif data[at : at + 4] == b"EXIF":
            exif = data[at + 8 : at + 8 + length].removeprefix(EXIF_START)
        at += 8 + length + length % 2
    return Header(width, height, max(frames, 1), exif)


def _tiff(data: bytes) -> Header:
    tags, following = _tiff_tags(data, 0)
    frames, seen = 1, {0}
    while following and frames < 2:
        if following in seen:  # a ring
            raise DamagedError
        seen.add(following)
        page, following = _tiff_tags(data, following)
        frames += not page.get(TIFF_KIND, 0) & 1  # bit 0: a reduced copy of another page
    orientation = tags.get(TIFF_ORIENTATION, 1)
    return Header(tags.get(TIFF_WIDTH, 0), tags.get(TIFF_HEIGHT, 0), frames, data if orientation != 1 else b"")


def _tiff_tags(data: bytes, offset: int) -> tuple[dict[int, int], int]:
    """The whole-number tags of the directory at `offset` (0: the first one), and where the next one lies (0: none)."""
    order = "<" if data.startswith(b"II") else ">"
    if not offset:
        (offset,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, offset)
    tags = {}
    for at in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if kind in (3, 4):  # SHORT, LONG
            (tags[tag],) = struct.unpack_from(order + {3: "H", 4: "I"}[kind], data, at + 8)
    return tags, struct.unpack_from(order + "I", data, offset + 2 + 12 * count)[0]


def orientation(exif: bytes) -> int:
    """EXIF orientation 1..8; 1 where there is none or it cannot be read (so do decoders)."""
    if not exif.startswith((b"II", b"MM")):
        return 1
    try:
        return _tiff_tags(exif, 0)[0].get(TIFF_ORIENTATION, 1)
    except struct.error:
        return 1


def says_upright(exif: bytes) -> bool:
    """Whether an EXIF block says so in the usual way; of another kind of block decoders may think otherwise."""
    try:
        return _tiff_tags(exif, 0)[0].get(TIFF_ORIENTATION) == 1
    except struct.error:
        return False


FORMATS: dict[str, tuple[bytes, Callable[[bytes], Header]]] = {  # name: pattern of the first bytes, header reader
    "JPEG": (rb"\xff\xd8\xff", _jpeg),
    "PNG": (rb"\x89PNG\r\n\x1a\n", _png),
    "GIF": (rb"GIF8[79]a", _gif),
    "BMP": (rb"BM", _bmp),
    "WebP": (rb"RIFF....WEBP", _webp),
    "TIFF": (rb"II\*\0|MM\0\*", _tiff),
}
