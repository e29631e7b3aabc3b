"""Image files to RGB arrays and back; what cannot be read whole and right is refused in one line.

Files are read as bytes and decoded from memory: OpenCV hands out a half-grey array for a truncated JPEG file, but
refuses the same bytes. Headers are read here first, so that a picture too large, animated or cut short never reaches
the decoder (nor makes it print to stderr). Where simplejpeg is installed it decodes usual JPEGs: the same
pixels, sooner. Knows nothing of keypoints, crops or networks.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from keylite.runtime.files import write_bytes

MAX_MEGAPIXELS = 100.0
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")  # that images to read end in
SUFFIXES = (".png", ".jpg", ".jpeg")  # that write_image writes
REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
REDUCED = {by: flag - cv2.IMREAD_COLOR_BGR + cv2.IMREAD_COLOR_RGB for by, flag in REDUCED.items()}
JPEG_QUALITY = 95
JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; the three others are DHT, JPG, DAC
JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length: TEM, RST0..7, SOI
EXIF_START = b"Exif\0\0"
TIFF_WIDTH, TIFF_HEIGHT, TIFF_ORIENTATION, TIFF_KIND = 256, 257, 274, 254
READ_AT_ONCE = 4096


class Header(NamedTuple):
    """Width and height in px as stored, frames (2 stands for "several"), and the EXIF block (TIFF bytes), if any.

    square: whether colour is stored for as many px across as down, as in 4:4:4 and 4:2:0. components: of a JPEG.
    """

    width: int
    height: int
    frames: int = 1
    exif: bytes = b""
    square: bool = True
    components: int = 0


class DamagedError(Exception):
    """A header that cannot be followed; becomes the ValueError of the file."""


class Picture(NamedTuple):
    """A picture whose header was read, and whose pixels are yet to be decoded.

    shape: (H, W, 3) px, upright. reducible: whether reduced pixels can be had, and lie where they should. reduced: by
    how much those are that `data` holds, where they are decoded. usual: whether it is a JPEG of three components that
    is stored upright.
    """

    name: str
    data: bytes | np.ndarray
    shape: tuple[int, ...]
    reducible: bool = False
    reduced: int = 1
    usual: bool = False

    def pixels(self, reduction: int = 1, channels: int = 3) -> tuple[np.ndarray, int]:
        """uint8 RGB pixels, and by how much they are reduced: by 1, or as asked, 2, 4 or 8, where the file is a JPEG.

        Reduced pixels are means of that many by that many, beyond the last ones of what the file is padded with.
        channels: 4 where a fourth without meaning is welcome; it is there where it costs nothing.
        """
        if isinstance(self.data, np.ndarray):
            return self.data, self.reduced
        if reduction > 1 and self.reducible:
            image = _decoded(self.name, self.data, REDUCED[reduction])
            if image.shape[:2] == (-(-self.shape[0] // reduction), -(-self.shape[1] // reduction)):
                return image, reduction
        image = decoded_sooner(self.data, "RGBX"[:channels]) if self.usual else None
        return _decoded(self.name, self.data, cv2.IMREAD_COLOR_RGB) if image is None else image, 1


def open_image(source: Path | str | bytes | np.ndarray, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """A picture by its header, upright by its EXIF orientation.

    source: a path, the bytes of a file, or an array, which is checked and given back as it is. Raises
    FileNotFoundError for a missing file, ValueError for one that is truncated, damaged, animated, of another format
    or, by its header, above `max_megapixels`.
    """
    if isinstance(source, np.ndarray):
        return Picture("image", _checked(source), source.shape)
    name, data = _load(source)
    header = _limited(name, data, max_megapixels)
    width, height = _upright(header)
    # a block that is cut off by the stored picture's last column or row must not come first when it is turned
    whole_blocks = width % 8 == height % 8 == 0 or _orientation(header.exif) in (1, 5)
    usual_size = width * height <= 1e6 * MAX_MEGAPIXELS
    reducible = header.components > 0 and header.square and whole_blocks and usual_size
    usual = header.components == 3 and usual_size and (not header.exif or _says_upright(header.exif))
    return Picture(name, data, (height, width, 3), reducible, usual=usual)


def read_image(source: Path | str | bytes | np.ndarray, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """A picture as uint8 (H, W, 3) RGB, upright by its EXIF orientation; source and errors: see `open_image`.

    Grey, palette and CMYK become RGB, 16 bit is scaled to 8, alpha is dropped.
    """
    return open_image(source, max_megapixels).pixels()[0]


def check_image(source: Path | str | bytes | np.ndarray, max_megapixels: float = MAX_MEGAPIXELS) -> tuple[int, int]:
    """Width and height in px of what `read_image` gives; the same errors.

    All of the file is decoded, but a JPEG at an eighth of its size: its damage shows as well, in half the time.
    """
    picture = open_image(source, max_megapixels)
    image, reduction = picture.pixels(8)
    height, width = picture.shape[:2] if reduction > 1 else image.shape[:2]
    return width, height


def _limited(name: str, data: bytes, max_megapixels: float) -> Header:
    """The header of a picture that is not too large."""
    header = _header(name, data)
    megapixels = header.width * header.height / 1e6
    if megapixels > max_megapixels:
        raise ValueError(
            f"{name}: expected at most {max_megapixels:g} megapixels, got {header.width}x{header.height} = "
            f"{megapixels:.1f}; raise the limit with --max-megapixels"
        )
    return header


def _decoded(name: str, data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"{name}: cannot be decoded: {str(error).strip().splitlines()[-1]}") from None
    if image is None:
        raise ValueError(f"{name}: cannot be decoded: truncated, damaged or of a rare kind; save it anew as 8-bit PNG")
    return image


@functools.cache
def _simplejpeg() -> Callable[..., np.ndarray] | None:
    """simplejpeg's decoder, where it is installed: libjpeg-turbo, as in OpenCV, which takes it row by row."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    return decode_jpeg


def decoded_sooner(data: bytes | np.ndarray, order: str) -> np.ndarray | None:
    """What OpenCV makes of a usual JPEG, channels in `order`; None where it is to try, and to say what is wrong."""
    decode = _simplejpeg()
    try:
        return None if decode is None else decode(data, order)
    except (ValueError, MemoryError):
        return None


def image_size(source: Path | str | bytes | np.ndarray) -> tuple[int, int]:
    """Width and height in px of what `read_image` would give, from the header alone; the same errors."""
    if isinstance(source, np.ndarray):
        return _checked(source).shape[1], source.shape[0]
    return _upright(_header(*_load(source)))


def _upright(header: Header) -> tuple[int, int]:
    """Width and height in px once the picture is turned as its EXIF orientation says."""
    sideways = _orientation(header.exif) in (5, 6, 7, 8)  # these exchange rows and columns, others say nothing
    return (header.height, header.width) if sideways else (header.width, header.height)


def write_image(path: Path | str, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as PNG or JPEG (quality 95), by suffix; the file appears whole or not at all."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, got {path.suffix!r}")
    bgr = cv2.cvtColor(_checked(image), cv2.COLOR_RGB2BGR)
    options = [] if path.suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(path.suffix.lower(), bgr, options)
    write_bytes(path, encoded.tobytes())


def _checked(image: np.ndarray) -> np.ndarray:
    """The array itself where it is uint8 (H, W, 3); else a ValueError that says how to make it so."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return image
    hint = ""
    if image.dtype != np.uint8:
        hint = "; scale it to 0..255 and use astype(np.uint8)"
    elif image.ndim == 2:
        hint = "; make RGB of grey with np.repeat(image[..., None], 3, axis=2)"
    elif image.ndim == 3 and image.shape[2] == 4:
        hint = "; drop the alpha channel with image[..., :3]"
    raise ValueError(f"image: expected a uint8 array (H, W, 3) RGB, got {image.dtype} {image.shape}{hint}")


def _load(source: Path | str | bytes) -> tuple[str, bytes]:
    """The source's name for messages, and its bytes; a file of no known format is not read to its end."""
    if isinstance(source, bytes):
        return "image bytes", source
    if not isinstance(source, (str, Path)):
        raise ValueError(f"image: expected a path, bytes or a uint8 array (H, W, 3), got {type(source).__name__}")
    name = str(source)
    try:
        with open(source, "rb") as file:
            start = file.read(READ_AT_ONCE)
            return name, start + file.read() if _kind(start) else start
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such image file") from None
    except IsADirectoryError:
        raise ValueError(f"{name}: expected an image file, got a folder") from None
    except OSError as error:
        raise ValueError(f"{name}: cannot be read: {error.strerror}") from None


def _kind(data: bytes) -> str:
    """The name of the format by its first bytes; empty for one that is not read here."""
    return next((name for name, (start, _) in FORMATS.items() if re.match(start, data, re.DOTALL)), "")


def _header(name: str, data: bytes) -> Header:
    """The header of a whole, still picture; ValueError for anything else."""
    if not data:
        raise ValueError(f"{name}: the file is empty (0 bytes)")
    kind = _kind(data)
    if not kind:
        raise ValueError(f"{name}: not an image that keylite reads (JPEG, PNG, GIF, BMP, WebP, TIFF)")
    try:
        header = FORMATS[kind][1](data)
    except (IndexError, struct.error, DamagedError):
        raise ValueError(f"{name}: the {kind} file is truncated or damaged ({len(data)} bytes)") from None
    if header.frames > 1:
        raise ValueError(f"{name}: expected one picture, got a {kind} file of several frames; save them one by one")
    if header.width <= 0 or header.height <= 0:
        raise ValueError(f"{name}: the {kind} header says {header.width}x{header.height} pixels: it is damaged")
    return header


def _jpeg(data: bytes) -> Header:
    width, height, components, exif, square, at = 0, 0, 0, b"", True, 2
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
                square = len({(f >> 4) / max(f & 15, 1) for f in factors}) <= 1
            elif marker == 0xE1 and not exif and data.startswith(EXIF_START, at + 4):
                exif = data[at + 4 + len(EXIF_START) : at + 2 + (data[at + 2] << 8) + data[at + 3]]
            at += 2 + (data[at + 2] << 8) + data[at + 3]
            if marker == 0xDA:
                break
    if data.rfind(b"\xff\xd9", at) < 0:  # bytes after the end are common, a missing end is a cut
        raise DamagedError
    return Header(width, height, 1, exif, square, components)


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


def _orientation(exif: bytes) -> int:
    """EXIF orientation 1..8; 1 where there is none or it cannot be read (so do decoders)."""
    if not exif.startswith((b"II", b"MM")):
        return 1
    try:
        return _tiff_tags(exif, 0)[0].get(TIFF_ORIENTATION, 1)
    except struct.error:
        return 1


def _says_upright(exif: bytes) -> bool:
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
