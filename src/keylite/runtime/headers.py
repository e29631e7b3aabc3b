"""Reads the headers of image files: kind, size, frames, orientation, bit depth, and whether the file is whole.

The kinds are JPEG, PNG, GIF, BMP, WebP and TIFF; no pixel is decoded. A file that is cut short, damaged or animated, or
would take too long to decode, is refused in one line. So it never reaches a decoder, which might print to stderr.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from keylite.runtime import tiff
from keylite.runtime.errors import ImageError
from keylite.runtime.exif import SIDEWAYS, orientation_of

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm")  # suffixes of videos, which get a hint of their own
JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; the three others mean DHT, JPG, DAC
JPEG_SEQUENTIAL = frozenset({0xC0, 0xC1})  # SOF markers of sequential files in Huffman code
JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length: TEM, RST0..7
JPEG_BETWEEN_SCANS = frozenset({0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE})
JPEG_NOTES = frozenset({*range(0xE0, 0xEE), 0xEF, 0xFE})  # APPn and COM; not APP14, which says how colour is stored
JPEG_ENDS_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that is not a stuffed, restart or fill byte
JPEG_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
SEGMENTS = 10_000  # limit in a JPEG, or in a PNG apart from its pixels; a colour profile takes hundreds
SCANS, SCANS_AT_MOST = 20, 500  # limits for a JPEG of any size and for a small one; libjpeg-turbo's wiki advises 500
JPEG_ZEROS = bytes(32)  # as coded samples: at least a block of one and the same coefficient
MEGAPIXEL_SCANS = 1000  # limit of scans times megapixels if there are more than SCANS: 1.5 s of one core
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # colour type: bits
PNG_ORDERS = {
    b"IHDR IDAT IEND": (0, 2, 4, 6),
    b"IHDR PLTE IDAT IEND": (2, 3, 6),
}  # critical chunks in order: colour types
PNG_NEEDED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL"})  # libpng may warn about others on stderr
EXIF_START = b"Exif\0\0"
TIFF_DIRECTORIES = 100  # limit, because each costs time
TIFF_FORMATS = {2: "signed numbers", 3: "floating-point numbers", 5: "complex whole numbers", 6: "complex numbers"}
DEPTHS = frozenset({1, 2, 4, 8, 16})
OTHERS = {  # pattern of the first bytes: a format that keylite does not read
    rb".{4}ftyp(hei|hev|mif1|msf1)": "HEIC",
    rb".{4}ftypavi[fs]": "AVIF",
    rb".{128}DICM": "DICOM",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "JPEG 2000",
    rb"\0\0\0\x0cJXL |\xff\x0a": "JPEG XL",
    rb"P[1-7]\s": "Netpbm",
    rb"8BPS": "PSD",
    rb"%PDF": "PDF",
    rb"\x93NUMPY": "a NumPy array",
}


class Header(NamedTuple):
    """The header of an image file: width and height in px as stored, and more.

    frames: 2 stands for several. orientation: of EXIF; 1 is upright. depth: bits per sample. components: samples per
    pixel of a JPEG. height_offset: where the two bytes for the height of a sequential (not progressive) JPEG lie. end:
    where the end marker of a JPEG lies. extras: (start, stop) of bytes that no pixel needs and decoders may complain
    about. alpha_offset: where the two bytes lie with which a TIFF says that its colours are not multiplied by alpha.
    packed: whether the samples of a TIFF are compressed, so that damage can be noticed. refusal: why keylite refuses
    the file although it is whole. kind: a name of FORMATS. A number is 0 if it does not apply.
    """

    width: int
    height: int
    frames: int = 1
    orientation: int = 1
    depth: int = 8
    components: int = 0
    height_offset: int = 0
    end: int = 0
    extras: tuple[tuple[int, int], ...] = ()
    alpha_offset: int = 0
    packed: bool = False
    refusal: str = ""
    kind: str = ""


class DamagedError(Exception):
    """The header cannot be followed; `read_header` turns this into an ImageError."""


def kind_of(data: bytes) -> str:
    """The name of the format, by the first bytes; empty if keylite does not read it."""
    return next((name for name, (start, _) in FORMATS.items() if re.match(start, data, re.DOTALL)), "")


def read_header(name: str, data: bytes) -> Header:
    """The header of a whole, still picture. Raises ImageError for anything else."""
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes)")
    kind = kind_of(data)
    if not kind:
        other = next((other for start, other in OTHERS.items() if re.match(start, data, re.DOTALL)), "")
        hint = "; give the frames of a video to Predictor.stream" if name.lower().endswith(VIDEOS) else ""
        hint = f": it is {other}; convert it to JPEG or PNG" if other else hint
        raise ImageError(f"{name}: not an image that keylite reads (JPEG, PNG, GIF, BMP, WebP, TIFF){hint}")
    try:
        header = FORMATS[kind][1](data)._replace(kind=kind)
    except (IndexError, struct.error, DamagedError):
        raise ImageError(f"{name}: the {kind} file is truncated or damaged ({len(data)} bytes)") from None
    if header.frames > 1:
        raise ImageError(f"{name}: expected one picture, got a {kind} file of several frames; save them one by one")
    if header.refusal:
        raise ImageError(f"{name}: {header.refusal}")
    if header.depth not in DEPTHS:
        raise ImageError(
            f"{name}: expected a picture of 8 or 16 bits per sample, got a {kind} file of {header.depth}; save it anew"
        )
    if header.width <= 0 or header.height <= 0:
        raise ImageError(f"{name}: the {kind} header says {header.width}x{header.height} pixels: it is damaged")
    return header


def upright_size(header: Header) -> tuple[int, int]:
    """Width and height in px after the picture is turned by its EXIF orientation."""
    sideways = header.orientation in SIDEWAYS
    return (header.height, header.width) if sideways else (header.width, header.height)


# ---- JPEG


class _Frame(NamedTuple):
    """The SOF segment of a JPEG. factors: component -> its sampling factors (across, down)."""

    marker: int
    depth: int
    width: int
    height: int
    factors: dict[int, tuple[int, int]]

    def blocks(self, components: list[int]) -> tuple[int, int]:
        """The size of a scan of these components: in units, which restarts count, and in blocks of 8x8 samples."""
        across, down = (max(factor[way] for factor in self.factors.values()) for way in (0, 1))
        if len(components) > 1:
            units = -(-self.width // (8 * across)) * -(-self.height // (8 * down))
            return units, units * sum(math.prod(self.factors[component]) for component in components)
        own = self.factors[components[0]]
        width, height = -(-self.width * own[0] // across), -(-self.height * own[1] // down)
        units = -(-width // 8) * -(-height // 8)
        return units, units


def _jpeg(data: bytes) -> Header:
    frame: _Frame | None = None
    orientation: int | None = None
    height_offset, at, scans, interval = 0, 2, 0, 0
    extras: list[tuple[int, int]] = []
    first_words: dict[int, int] = {}
    for _ in range(SEGMENTS):
        stray, at = at, data.find(b"\xff", at)  # decoders skip stray bytes, too
        if at < 0:
            raise DamagedError
        if at > stray and not scans:
            extras.append((stray, at))
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        if marker in JPEG_ALONE or marker == 0:
            at += 2
            continue
        if marker == 0xD9 and scans:
            break
        if marker in (0xD8, 0xD9) or (scans and marker not in JPEG_BETWEEN_SCANS):
            raise DamagedError  # another picture begins, or this one ends before its pixels
        start, stop = at + 4, at + 2 + (data[at + 2] << 8) + data[at + 3]
        if marker in JPEG_NOTES and not scans and not data.startswith(b"JFIF\0\1", start):
            extras.append((at, stop))
        at = stop
        if marker in JPEG_SIZES:
            if frame:
                raise DamagedError
            depth, height, width, count = struct.unpack_from(">BHHB", data, start)
            parts = [data[start + 6 + 3 * part : start + 9 + 3 * part] for part in range(count)]
            frame = _Frame(marker, depth, width, height, {part[0]: (part[1] >> 4, part[1] & 15) for part in parts})
            height_offset = start + 1 if marker in JPEG_SEQUENTIAL else 0
        elif marker == 0xC4:
            first_words |= _first_words(data[start:stop])
        elif marker == 0xDD:
            (interval,) = struct.unpack_from(">H", data, start)
        elif marker == 0xE1 and orientation is None and not scans and data.startswith(EXIF_START, start):
            orientation = orientation_of(data[start + len(EXIF_START) : stop])
        elif marker == 0xDA:
            scans += 1
            if frame is None or not all(across and down for across, down in frame.factors.values()):
                raise DamagedError
            end = JPEG_ENDS_SCAN.search(data, stop)
            if end is None:
                raise DamagedError
            at = end.start()
            described = data[start + 1 : start + 1 + 2 * data[start]]
            _require_whole_scan(frame, described[::2], data[stop:at], interval)
            coded_zeros = [first_words.get(0x10 | (tables & 15), 0) for tables in described[1::2]]
            if frame.marker in JPEG_SEQUENTIAL and any(coded_zeros) and JPEG_ZEROS in data[stop:at].rstrip(b"\0"):
                raise DamagedError  # a hole: zeros stand for coefficients here, and no picture repeats one so often
    else:
        raise DamagedError
    if frame is None:
        raise DamagedError
    refusal = ""
    if scans > SCANS_AT_MOST or (scans > SCANS and scans * frame.width * frame.height > 1e6 * MEGAPIXEL_SCANS):
        refusal = f"a JPEG of {frame.width}x{frame.height} px in {scans} scans takes too long to decode; save it anew"
    return Header(
        frame.width, frame.height, 1, orientation or 1, frame.depth, len(frame.factors), height_offset, at,
        tuple(extras), refusal=refusal,
    )  # fmt: skip


def _first_words(tables: bytes) -> dict[int, int]:
    """Class and number of each Huffman table in a DHT segment -> the value of its code word of zeros."""
    words: dict[int, int] = {}
    at = 0
    while at + 17 < len(tables):
        words[tables[at]] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return words


def _require_whole_scan(frame: _Frame, components: bytes, coded: bytes, interval: int) -> None:
    """Raise DamagedError if the restart markers of a scan are not all there in order, or the scan is too short.

    More cannot be checked without decoding.
    """
    if not components or any(component not in frame.factors for component in components):
        raise DamagedError
    units, blocks = frame.blocks(list(components))
    restarts = JPEG_RESTART.findall(coded)
    wanted = (units - 1) // interval if interval else 0
    if not wanted <= len(restarts) <= wanted + 1 or any(
        mark[0] != 0xD0 + number % 8 for number, mark in enumerate(restarts)
    ):
        raise DamagedError
    if frame.marker in JPEG_SEQUENTIAL and 4 * len(coded) < blocks:  # a block takes two bits at least
        raise DamagedError


# ---- PNG, GIF, BMP, WebP, TIFF


def _png(data: bytes) -> Header:
    width, height, depth, colours, *methods = struct.unpack_from(">IIBBBBB", data, 16)
    if depth not in PNG_DEPTHS.get(colours, ()) or methods not in ([0, 0, 0], [0, 0, 1]):  # the last is 1 if interlaced
        raise DamagedError
    frames, orientation, at, kind, order, others = 1, None, 8, b"", [b""], 0
    extras: list[tuple[int, int]] = []
    while kind != b"IEND":
        (length,) = struct.unpack_from(">I", data, at)
        stop = at + length + 12
        if stop > len(data):
            raise DamagedError
        kind = data[at + 4 : at + 8]
        others += kind != b"IDAT"
        if others > SEGMENTS:
            raise DamagedError
        if struct.unpack_from(">I", data, stop - 4)[0] != zlib.crc32(memoryview(data)[at + 4 : stop - 4]):
            raise DamagedError
        if kind == b"acTL":
            frames = min(struct.unpack_from(">I", data, at + 8)[0], 2)
        elif kind == b"eXIf" and orientation is None and data[at + 8 : at + 12] in (b"II*\0", b"MM\0*"):
            orientation = orientation_of(data[at + 8 : stop - 4]) or 1
        if kind[:1].isupper() and not kind == order[-1] == b"IDAT":
            order.append(kind)
        if kind not in PNG_NEEDED:
            extras.append((at, stop))
        at = stop
    if colours not in PNG_ORDERS.get(b" ".join(order[1:]), ()):
        raise DamagedError
    return Header(width, height, frames, orientation or 1, depth, extras=tuple(extras))


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
        while data[at]:  # sub-blocks, each of which begins with its length
            at += data[at] + 1
        at += 1
    if frames == 0:
        raise DamagedError
    return Header(width, height, frames)


def _gif_colours(flags: int) -> int:
    """The number of bytes of the colour table, by the flags."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _bmp(data: bytes) -> Header:
    start, length = struct.unpack_from("<II", data, 10)
    if length == 12:  # OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compressed = 0
    else:
        width, height, _, bits, compressed = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative if rows run from the top
    if compressed in (0, 3) and start + (width * bits + 31) // 32 * 4 * height > len(data):
        raise DamagedError
    return Header(width, height)


def _webp(data: bytes) -> Header:
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise DamagedError
    size = _webp_frame(data, 12)
    if size:
        return Header(*size)
    if data[12:16] != b"VP8X":
        raise DamagedError
    canvas = (int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    frames, orientation, at = 0, None, 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        kind = data[at : at + 4]
        if kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF" and orientation is None:
            orientation = orientation_of(data[at + 8 : at + 8 + length]) or 1
        elif not frames and _webp_frame(data, at) not in (None, canvas):
            raise DamagedError  # the pixels of a still picture fill its canvas
        at += 8 + length + length % 2
    return Header(*canvas, max(frames, 1), orientation or 1)


def _webp_frame(data: bytes, at: int) -> tuple[int, int] | None:
    """Width and height of the pixels in a chunk; None if it holds none."""
    if data[at : at + 4] == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, at + 14)
        return width & 0x3FFF, height & 0x3FFF
    if data[at : at + 4] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, at + 9)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _tiff(data: bytes) -> Header:
    page = tiff.directory(data)
    first, following = page.first, page.following
    frames, seen = 1, {0}
    while following and frames < 2:
        if following in seen or len(seen) > TIFF_DIRECTORIES:  # a circle of directories
            raise DamagedError
        seen.add(following)
        other = tiff.directory(data, following)
        following = other.following
        frames += not other.first.get(tiff.KIND, 0) & 1  # bit 0: a reduced copy of another page
    refusal, depth = "", first.get(tiff.BITS, 1)
    if numbers := TIFF_FORMATS.get(first.get(tiff.FORMAT, 1)):
        refusal = (
            f"expected whole numbers of 8 or 16 bits, got a TIFF of {depth}-bit {numbers}; "
            "scale them to 0..65535 and save them as 16-bit PNG"
        )
    return Header(
        first.get(tiff.WIDTH, 0),
        first.get(tiff.HEIGHT, 0),
        frames,
        first.get(tiff.ORIENTATION, 1),
        depth,
        alpha_offset=page.places[tiff.ALPHA][2] if first.get(tiff.ALPHA) == 2 else 0,
        packed=first.get(tiff.PACKED, 1) != 1,
        refusal=refusal,
    )


FORMATS: dict[str, tuple[bytes, Callable[[bytes], Header]]] = {  # name: pattern of the first bytes, header reader
    "JPEG": (rb"\xff\xd8\xff", _jpeg),
    "PNG": (rb"\x89PNG\r\n\x1a\n", _png),
    "GIF": (rb"GIF8[79]a", _gif),
    "BMP": (rb"BM", _bmp),
    "WebP": (rb"RIFF....WEBP", _webp),
    "TIFF": (rb"II\*\0|MM\0\*", _tiff),
}
