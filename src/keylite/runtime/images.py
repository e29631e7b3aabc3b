"""Reads image files to RGB arrays and writes them; a file that cannot be read whole is refused in one line.

A file is read as bytes and decoded from memory: from the path of a truncated JPEG, OpenCV gives a half-grey array, but
it refuses the same bytes. Headers are read first (headers.py), so that no picture above the limit is decoded. If
simplejpeg is installed, it decodes JPEGs: it gives the same pixels as OpenCV, is faster, and notices more damage.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import cv2
import numpy as np

from keylite.runtime.chatter import overheard
from keylite.runtime.errors import ImageError
from keylite.runtime.exif import SIDEWAYS
from keylite.runtime.files import open_file, write_bytes
from keylite.runtime.forks import in_forks
from keylite.runtime.headers import Header, kind_of, read_header, upright_size
from keylite.runtime.kinds import number_of
from keylite.runtime.tiff import packing_problem
from keylite.runtime.types import FilePath, Image, WhiteLevel
from keylite.runtime.words import quoted

MAX_MEGAPIXELS = 100.0
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")  # of images that are read
SUFFIXES = (".png", ".jpg", ".jpeg")  # of images that write_image writes
WHITE_LEVELS: tuple[WhiteLevel, ...] = get_args(WhiteLevel)
WHITE_LEVEL: WhiteLevel = 65535
JPEG_QUALITY = 95
JPEG_BLOCK = 16  # rows of the largest block of a JPEG, whose colour has half the rows
JPEG_SPACES = {1: "GRAY", 4: "CMYK"}  # number of components: the colour space that simplejpeg gives
ENOUGH_ROWS = 0.9  # share of a picture's rows: decoding fewer saves time
READ_AT_ONCE = 4096
HARMLESS = re.compile("Inconsistent progression|Invalid SOS parameters")  # libjpeg says so of whole files
PADDED = "extraneous bytes before marker 0xd9"
DAMAGED = re.compile(
    "Corrupt JPEG data|Premature end|Bogus|table 0x[0-9a-f]+ was not defined|Invalid (SOS|progressive)|TIFF_Error"
)
DAMAGED_FILE = "{name}: the {kind} file is damaged ({problem:.100}); save it anew, or leave it out"
LIBRARY_LINES = {  # what libraries write to standard error, by kind of file
    "JPEG": re.compile(rb"JPEG|JFIF|Adobe|Huffman|progress|SOS|DHT|DQT|marker|scan", re.IGNORECASE),
    "TIFF": re.compile(rb"TIFF|^\[ *[A-Z]+:\d+@|^> |^\s*$"),  # OpenCV's log goes on after >, and ends blank
}


class Picture(NamedTuple):
    """A picture whose header has been read and whose pixels have not been decoded yet.

    shape: (H, W, 3) px, upright. header: that of a file; None for an array. white_level: see `read_image`.
    """

    name: str
    data: bytes | np.ndarray
    shape: tuple[int, ...]
    header: Header | None = None
    white_level: WhiteLevel = WHITE_LEVEL

    def pixels(self, channels: int = 3, rows: int | None = None) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright: the pixels that OpenCV decodes. Raises ValueError if the file is damaged.

        channels: 4 allows a fourth channel without meaning, if the decoder gives it at no cost. rows: only so many rows
        from the top are needed, of a picture that was decoded whole before; the rows below may then be missing.
        """
        if not isinstance(self.data, bytes):
            return self.data
        assert self.header is not None
        if self.header.depth == 16 and self.white_level != WHITE_LEVEL:
            return to_8_bit(self.samples(), self.white_level)
        image = self._jpeg(channels, rows) if self.header.kind == "JPEG" else None
        return self._upright(self._by_opencv(cv2.IMREAD_COLOR_RGB) if image is None else image, rows)

    def samples(self) -> np.ndarray:
        """The RGB samples as stored, upright: uint16 (H, W, 3) of a file of 16 bits, else the result of `pixels`."""
        if self.header is None or self.header.depth != 16 or not isinstance(self.data, bytes):
            return self.pixels()
        bgr = self._by_opencv(cv2.IMREAD_COLOR_BGR | cv2.IMREAD_ANYDEPTH)  # as RGB, colours of a TIFF are swapped
        return self._upright(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))

    def _upright(self, image: np.ndarray, rows: int | None = None) -> np.ndarray:
        """The decoded image, turned upright. Raises ValueError if it has another size than the header says."""
        assert self.header is not None
        if self.header.kind != "TIFF":  # OpenCV turns TIFFs itself
            image = turned(image, self.header.orientation)
        height, width = image.shape[:2]
        if width != self.shape[1] or (height != self.shape[0] and not (rows and rows <= height)):
            raise ImageError(
                f"{self.name}: the header says {self.shape[1]}x{self.shape[0]} pixels and {width}x{height} are stored: "
                "the file is damaged; save it anew"
            )
        return image

    def _by_opencv(self, flags: int) -> np.ndarray:
        """The pixels as stored. OpenCV decodes damaged JPEGs and TIFFs, too, but messages of its library tell of it."""
        assert isinstance(self.data, bytes)
        assert self.header is not None
        data = _unmultiplied(self.data, self.header) if self.header.alpha_offset else self.data
        problem = packing_problem(self.data) if self.header.packed else ""
        if problem:
            raise ImageError(DAMAGED_FILE.format(name=self.name, kind=self.header.kind, problem=problem))
        image, messages = self._decoded(data, flags)
        if PADDED in messages:
            image, messages = self._decoded(_unpadded(self.data, self.header), flags)
        if image is not None and DAMAGED.search(messages):
            problem = re.sub(r".*TIFF_Error ", "", messages)
            raise ImageError(DAMAGED_FILE.format(name=self.name, kind=self.header.kind, problem=problem))
        if image is None:
            raise ImageError(
                f"{self.name}: cannot be decoded: it is truncated, damaged or of a rare kind; save it anew as 8-bit PNG"
            )
        return image

    def _decoded(self, data: bytes, flags: int) -> tuple[np.ndarray | None, str]:
        """The pixels that OpenCV decodes, and the messages of libjpeg or libtiff, without the harmless ones."""
        assert self.header is not None
        messages: list[str] = []
        packed = self.header.packed  # a TIFF; threads that capture messages take turns
        captures = packed or self.header.kind == "JPEG"
        capture = overheard(LIBRARY_LINES[self.header.kind]) if captures else contextlib.nullcontext(messages)
        content = np.frombuffer(_without(data, self.header.extras), np.uint8)
        try:
            with _silence, capture as messages, _libtiff_errors if packed else contextlib.nullcontext():
                image = cv2.imdecode(content, flags | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error as error:
            reason = str(error).strip().splitlines()[-1]
            raise ImageError(f"{self.name}: cannot be decoded: {reason:.200}") from None
        return image, "; ".join(line for line in messages if not HARMLESS.search(line))

    def _jpeg(self, channels: int, rows: int | None) -> np.ndarray | None:
        """The pixels as stored, by simplejpeg; None if OpenCV must decode them."""
        header, data = self.header, self.data
        assert header is not None
        assert isinstance(data, bytes)
        if _simplejpeg() is None or header.width * header.height > 1e6 * MAX_MEGAPIXELS:
            return None
        if rows and header.height_offset and header.orientation == 1 and header.components == 3:
            kept = _kept_rows(rows)
            if kept <= ENOUGH_ROWS * header.height:
                lower = data[: header.height_offset] + kept.to_bytes(2, "big") + data[header.height_offset + 2 :]
                return decoded_sooner(lower, "RGBX"[:channels], strict=False)
        space = JPEG_SPACES.get(header.components, "RGBX"[:channels] if header.orientation == 1 else "RGB")
        image = _strictly(self.name, data, space, header)
        if space == "GRAY" and image is not None:
            return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        return None if space == "CMYK" else image  # CMYK is only decoded to find damage


def open_image(source: Image, max_megapixels: float = MAX_MEGAPIXELS, white_level: WhiteLevel = WHITE_LEVEL) -> Picture:
    """Open a picture by its header; its pixels are decoded later.

    source: a path, the bytes of a file, or an array, whose pixels are checked and given back as they are. white_level:
    see `read_image`. Raises FileNotFoundError if the file is missing. Raises ValueError if it is truncated, damaged,
    animated, of another format, or above `max_megapixels` by its header, or if an array above that has odd strides.
    """
    if isinstance(source, np.ndarray):
        return Picture("image", _checked(source, max_megapixels), source.shape)
    name, data = _load(source)
    header = _limited(name, data, max_megapixels)
    width, height = upright_size(header)
    return Picture(name, data, (height, width, 3), header, white_level)


def read_image(
    source: Image, max_megapixels: float = MAX_MEGAPIXELS, white_level: WhiteLevel = WHITE_LEVEL
) -> np.ndarray:
    """A picture as uint8 (H, W, 3) RGB, upright by its EXIF orientation. source and errors: see `open_image`.

    Grey, palette and CMYK become RGB; alpha is dropped. white_level: one of WHITE_LEVELS, the value of 16-bit samples
    that becomes 255; see `to_8_bit`.
    """
    return open_image(source, max_megapixels, white_level).pixels()


def to_8_bit(samples: np.ndarray, white_level: int) -> np.ndarray:
    """uint16 samples as uint8: the upper 8 of the bits that `white_level` uses; larger samples become 255."""
    return np.minimum(samples >> ((white_level + 1).bit_length() - 9), 255).astype(np.uint8)


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """A stored image, turned upright by its EXIF orientation; with any other than 2 to 8 it is upright already."""
    if orientation in SIDEWAYS:
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


def require_limit(max_megapixels: object) -> None:
    """Raise ValueError if a limit of megapixels is not a number above 0."""
    if not number_of(max_megapixels) > 0:
        raise ImageError(f"max_megapixels: expected a number above 0, got {max_megapixels!r:.60}")


def _kept_rows(rows: int) -> int:
    """How many rows of a JPEG to decode for `rows`: whole blocks, and one more, because colour is smoothed."""
    return (rows // JPEG_BLOCK + 2) * JPEG_BLOCK


def _limited(name: str, data: bytes, max_megapixels: float) -> Header:
    """The header of a picture. Raises ValueError if it is larger than the limit."""
    header = read_header(name, data)
    megapixels = header.width * header.height / 1e6
    if not megapixels <= max_megapixels:  # a limit of NaN refuses everything
        raise ImageError(
            f"{name}: expected at most {max_megapixels:.12g} megapixels, got {header.width}x{header.height} = "
            f"{megapixels:.12g}; raise the limit with `max_megapixels`"
        )
    return header


class _Silence:
    """OpenCV logs nothing while any thread is in the block, because keylite's own error says what is wrong."""

    def __init__(self) -> None:
        self.lock, self.threads, self.level = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        in_forks(self._leave)
        with self.lock:
            if not self.threads:
                self.level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            self.threads += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.threads -= 1
            if not self.threads:
                cv2.utils.logging.setLogLevel(self.level)

    def _leave(self) -> None:
        """Reset a forked process: the threads that would leave their blocks are not in it."""
        self.lock = threading.Lock()
        if self.threads:
            self.threads = 0
            cv2.utils.logging.setLogLevel(self.level)


_silence = _Silence()


class _LibtiffErrors:
    """In the block, OpenCV logs errors of libtiff. It is used within `overheard`, which admits one thread at a time."""

    def __enter__(self) -> None:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

    def __exit__(self, *_: object) -> None:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


_libtiff_errors = _LibtiffErrors()


def _without(data: bytes, spans: Sequence[tuple[int, int]]) -> bytes:
    """The bytes without those of the spans (start, stop)."""
    if not spans:
        return data
    stops = [0, *(stop for _, stop in spans)]
    starts = [*(start for start, _ in spans), len(data)]
    return b"".join(data[stop:start] for stop, start in zip(stops, starts, strict=True))


def _strictly(name: str, data: bytes, space: str, header: Header) -> np.ndarray | None:
    """A JPEG decoded by simplejpeg; None if simplejpeg cannot decode it. Raises ValueError if it is damaged."""
    decode = _simplejpeg()
    assert decode is not None
    try:
        return decode(data, space)
    except MemoryError:
        return None
    except ValueError as error:
        problem = str(error)
    if PADDED in problem:  # some cameras pad the coded data with zeros
        data = _unpadded(data, header)
    image = decoded_sooner(_without(data, header.extras), space, strict=not HARMLESS.search(problem))
    if image is None and DAMAGED.search(problem):
        raise ImageError(DAMAGED_FILE.format(name=name, kind="JPEG", problem=problem))
    return image


def _unpadded(data: bytes, header: Header) -> bytes:
    """A JPEG without zeros between its coded data and its end."""
    return data[: header.end].rstrip(b"\0") + data[header.end :]


def _unmultiplied(data: bytes, header: Header) -> bytes:
    """A TIFF marked as multiplied by alpha already, so that OpenCV takes its colours as they are stored."""
    at, stored = header.alpha_offset, b"\1\0" if data.startswith(b"II") else b"\0\1"
    return data[:at] + stored + data[at + 2 :]


@functools.cache
def _simplejpeg() -> Callable[..., np.ndarray] | None:
    """The decoder of simplejpeg, or None if it is not installed. It uses libjpeg-turbo, as OpenCV does."""
    try:
        from simplejpeg import decode_jpeg  # pyright: ignore[reportMissingTypeStubs] - it has none
    except ImportError:
        return None
    return decode_jpeg


def decoded_sooner(data: bytes | np.ndarray, order: str, *, strict: bool = True) -> np.ndarray | None:
    """A JPEG decoded by simplejpeg, channels in `order`; None if simplejpeg is missing or refuses it.

    The pixels are those of OpenCV. strict: whether simplejpeg refuses damaged files.
    """
    decode = _simplejpeg()
    try:
        return None if decode is None else decode(data, order, strict=strict)
    except (ValueError, MemoryError):
        return None


def image_size(source: Image) -> tuple[int, int]:
    """Width and height in px of the result of `read_image`, from the header alone; errors are the same."""
    if isinstance(source, np.ndarray):
        return _checked(source).shape[1], source.shape[0]
    return upright_size(read_header(*_load(source)))


def size_if_known(source: Path | np.ndarray) -> tuple[int, int] | None:
    """As `image_size`, but None if the picture cannot be read."""
    try:
        return image_size(source)
    except (ValueError, OSError):
        return None


def write_image(path: FilePath, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as PNG or JPEG (quality 95), by the suffix; whole or not at all."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, got {quoted(path.suffix)}")
    write_bytes(path, encoded_image(path.suffix.lower(), image))


def encoded_image(suffix: str, image: np.ndarray) -> bytes:
    """The bytes of a PNG or JPEG file (quality 95) of uint8 (H, W, 3) RGB."""
    bgr = cv2.cvtColor(_checked(image, MAX_MEGAPIXELS), cv2.COLOR_RGB2BGR)
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(suffix, bgr, options)
    return encoded.tobytes()


def array_problem(image: np.ndarray) -> str:
    """Why an array is not a picture, uint8 (H, W, 3) RGB, and how to make one of it; empty if it is one."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return ""
    hint = ""
    if image.dtype != np.uint8:
        hint = "; scale it to 0..255 and use astype(np.uint8)"
    elif image.ndim == 2:
        hint = "; make RGB of grey with np.repeat(image[..., None], 3, axis=2)"
    elif image.ndim == 3 and image.shape[2] == 4:
        hint = "; drop the alpha channel with image[..., :3]"
    return f"expected a uint8 array (H, W, 3) RGB, got {image.dtype} {image.shape}{hint}"


def _checked(image: np.ndarray, max_megapixels: float = math.inf) -> np.ndarray:
    """The array itself. Raises ValueError if it is not a picture, or is large and has odd strides.

    OpenCV copies an array whose values do not lie side by side, and ends the process if memory is too small for that.
    """
    if problem := array_problem(image):
        raise ImageError(f"image: {problem}")
    height, width, channels = image.shape
    side_by_side = image.strides[1:] == (channels, 1) and image.strides[0] >= width * channels
    if not side_by_side and height * width > 1e6 * max_megapixels:
        raise ImageError(
            f"image: {width}x{height} px whose values do not lie side by side in memory (strides {image.strides}), "
            f"expected at most {max_megapixels:g} megapixels: give np.ascontiguousarray(image), or a part"
        )
    return image


def _load(source: object) -> tuple[str, bytes]:
    """The name of the source in messages, and its bytes; a file of an unknown format is not read to its end."""
    if isinstance(source, bytes):
        return "image bytes", source
    if not isinstance(source, (str, Path)):
        raise ImageError(f"image: expected a path, bytes or a uint8 array (H, W, 3), got {type(source).__name__}")
    name = str(source)
    try:
        with open_file(source, "an image file") as file:
            start = file.read(READ_AT_ONCE)
            return name, start + file.read() if kind_of(start) else start
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such image file") from None
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {error.strerror}") from None
