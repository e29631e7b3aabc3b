"""Image files to RGB arrays and back; what cannot be read whole and right is refused in one line.

Files are read as bytes and decoded from memory: OpenCV hands out a half-grey array for a truncated JPEG file, but
refuses the same bytes. Headers are read first (headers.py), so that a picture too large never reaches the decoder.
If simplejpeg is installed it decodes JPEGs: the same pixels as OpenCV's, sooner, and it tells damage of which OpenCV
does not. Knows nothing of keypoints, crops or networks.
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
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")  # that images to read end in
SUFFIXES = (".png", ".jpg", ".jpeg")  # that write_image writes
WHITE_LEVELS: tuple[WhiteLevel, ...] = get_args(WhiteLevel)
WHITE_LEVEL: WhiteLevel = 65535
JPEG_QUALITY = 95
JPEG_BLOCK = 16  # rows that are stored together at most, where colour has half of them
JPEG_SPACES = {1: "GRAY", 4: "CMYK"}  # by components: what simplejpeg makes of them
ENOUGH_ROWS = 0.9  # of a picture; decoding fewer saves time
READ_AT_ONCE = 4096
HARMLESS = re.compile("Inconsistent progression|Invalid SOS parameters")  # libjpeg's words for a file that is whole
PADDED = "extraneous bytes before marker 0xd9"
DAMAGED = re.compile(
    "Corrupt JPEG data|Premature end|Bogus|table 0x[0-9a-f]+ was not defined|Invalid (SOS|progressive)|TIFF_Error"
)
DAMAGED_FILE = "{name}: the {kind} file is damaged ({told:.100}); save it anew, or leave it out"
SAID = {  # what libraries say on standard error, by kind of file
    "JPEG": re.compile(rb"JPEG|JFIF|Adobe|Huffman|progress|SOS|DHT|DQT|marker|scan", re.IGNORECASE),
    "TIFF": re.compile(rb"TIFF|^\[ *[A-Z]+:\d+@|^> |^\s*$"),  # of OpenCV's log, which goes on after a > and ends blank
}


class Picture(NamedTuple):
    """A picture whose header was read, and whose pixels are yet to be decoded.

    shape: (H, W, 3) px, upright. header: of a file; None of an array. white_level: see `read_image`.
    """

    name: str
    data: bytes | np.ndarray
    shape: tuple[int, ...]
    header: Header | None = None
    white_level: WhiteLevel = WHITE_LEVEL

    def pixels(self, channels: int = 3, rows: int | None = None) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright: what OpenCV makes of the file. Raises ValueError for a damaged one.

        channels: 4 if a fourth without meaning is welcome; it is there if it costs nothing. rows: how many from the
        top are wanted of a picture that was decoded whole before; those below may be missing, if that saves time.
        """
        if not isinstance(self.data, bytes):
            return self.data
        assert self.header is not None
        if self.header.depth == 16 and self.white_level != WHITE_LEVEL:
            return to_8_bit(self.samples(), self.white_level)
        image = self._jpeg(channels, rows) if self.header.kind == "JPEG" else None
        return self._upright(self._by_opencv(cv2.IMREAD_COLOR_RGB) if image is None else image, rows)

    def samples(self) -> np.ndarray:
        """RGB as stored, upright: uint16 (H, W, 3) of a file of 16 bits, else what `pixels` gives."""
        if self.header is None or self.header.depth != 16 or not isinstance(self.data, bytes):
            return self.pixels()
        bgr = self._by_opencv(cv2.IMREAD_COLOR_BGR | cv2.IMREAD_ANYDEPTH)  # as RGB a TIFF's colours are exchanged
        return self._upright(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))

    def _upright(self, image: np.ndarray, rows: int | None = None) -> np.ndarray:
        """The decoded image, turned; refused if it is not of the size that the header says."""
        assert self.header is not None
        if self.header.kind != "TIFF":  # which OpenCV turns as it decodes
            image = turned(image, self.header.orientation)
        height, width = image.shape[:2]
        if width != self.shape[1] or (height != self.shape[0] and not (rows and rows <= height)):
            raise ImageError(
                f"{self.name}: the header says {self.shape[1]}x{self.shape[0]} pixels and {width}x{height} are stored: "
                "the file is damaged; save it anew"
            )
        return image

    def _by_opencv(self, flags: int) -> np.ndarray:
        """The pixels as stored. Of a damaged JPEG or TIFF OpenCV gives what it can, and its library says so."""
        assert isinstance(self.data, bytes)
        assert self.header is not None
        data = _unmultiplied(self.data, self.header) if self.header.alpha_offset else self.data
        told = packing_problem(self.data) if self.header.packed else ""
        if told:
            raise ImageError(DAMAGED_FILE.format(name=self.name, kind=self.header.kind, told=told))
        image, told = self._heard(data, flags)
        if PADDED in told:
            image, told = self._heard(_unpadded(self.data, self.header), flags)
        if image is not None and DAMAGED.search(told):
            told = re.sub(r".*TIFF_Error ", "", told)
            raise ImageError(DAMAGED_FILE.format(name=self.name, kind=self.header.kind, told=told))
        if image is None:
            raise ImageError(
                f"{self.name}: cannot be decoded: truncated, damaged or of a rare kind; save it anew as 8-bit PNG"
            )
        return image

    def _heard(self, data: bytes, flags: int) -> tuple[np.ndarray | None, str]:
        """What OpenCV makes of a file, and what libjpeg or libtiff says of it, harmless words apart."""
        assert self.header is not None
        said: list[str] = []
        packed = self.header.packed  # a TIFF; threads that listen take turns
        listens = packed or self.header.kind == "JPEG"
        listening = overheard(SAID[self.header.kind]) if listens else contextlib.nullcontext(said)
        content = np.frombuffer(_without(data, self.header.extras), np.uint8)
        try:
            with _silence, listening as said, _libtiff_told if packed else contextlib.nullcontext():
                image = cv2.imdecode(content, flags | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error as error:
            told = str(error).strip().splitlines()[-1]
            raise ImageError(f"{self.name}: cannot be decoded: {told:.200}") from None
        return image, "; ".join(line for line in said if not HARMLESS.search(line))

    def _jpeg(self, channels: int, rows: int | None) -> np.ndarray | None:
        """The pixels as stored, by simplejpeg; None if OpenCV is to decode them."""
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
        return None if space == "CMYK" else image  # which was decoded to find damage


def open_image(source: Image, max_megapixels: float = MAX_MEGAPIXELS, white_level: WhiteLevel = WHITE_LEVEL) -> Picture:
    """A picture by its header, upright by its EXIF orientation.

    source: a path, the bytes of a file, or an array, which is checked and given back as it is. Raises
    FileNotFoundError for a missing file, ValueError for one that is truncated, damaged, animated, of another format
    or, by its header, above `max_megapixels`, and for an array above it that is a view with odd strides.
    white_level: see `read_image`.
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
    """A picture as uint8 (H, W, 3) RGB, upright by its EXIF orientation; source and errors: see `open_image`.

    Grey, palette and CMYK become RGB, alpha is dropped. white_level: one of WHITE_LEVELS, the value of 16-bit samples
    that becomes 255; see `to_8_bit`.
    """
    return open_image(source, max_megapixels, white_level).pixels()


def to_8_bit(samples: np.ndarray, white_level: int) -> np.ndarray:
    """uint16 samples as uint8: the upper 8 of the bits that are used, those of `white_level`; above it is white."""
    return np.minimum(samples >> ((white_level + 1).bit_length() - 9), 255).astype(np.uint8)


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image as stored, stood upright by its EXIF orientation; any but 2 to 8 is upright already."""
    if orientation in SIDEWAYS:
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


def require_limit(max_megapixels: object) -> None:
    """Raises ValueError for what is no limit of megapixels: NaN would be none at all."""
    if not number_of(max_megapixels) > 0:
        raise ImageError(f"max_megapixels: expected a number above 0, got {max_megapixels!r:.60}")


def _kept_rows(rows: int) -> int:
    """How many rows of a JPEG are decoded for so many: whole blocks, and one to spare for colour, which is smoothed."""
    return (rows // JPEG_BLOCK + 2) * JPEG_BLOCK


def _limited(name: str, data: bytes, max_megapixels: float) -> Header:
    """The header of a picture that is not too large."""
    header = read_header(name, data)
    megapixels = header.width * header.height / 1e6
    if not megapixels <= max_megapixels:  # NaN limits everything
        raise ImageError(
            f"{name}: expected at most {max_megapixels:.12g} megapixels, got {header.width}x{header.height} = "
            f"{megapixels:.12g}; raise the limit with `max_megapixels`"
        )
    return header


class _Silence:
    """While any thread is within, OpenCV logs nothing: what is wrong with a file is said once, by us."""

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
        """In a fork there is no other thread to end its block."""
        self.lock = threading.Lock()
        if self.threads:
            self.threads = 0
            cv2.utils.logging.setLogLevel(self.level)


_silence = _Silence()


class _LibtiffTold:
    """Within `_silence` and `overheard`, which admits one thread: OpenCV logs what libtiff calls an error."""

    def __enter__(self) -> None:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

    def __exit__(self, *_: object) -> None:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


_libtiff_told = _LibtiffTold()


def _without(data: bytes, spans: Sequence[tuple[int, int]]) -> bytes:
    """The bytes without those of the spans (start, stop)."""
    if not spans:
        return data
    stops = [0, *(stop for _, stop in spans)]
    starts = [*(start for start, _ in spans), len(data)]
    return b"".join(data[stop:start] for stop, start in zip(stops, starts, strict=True))


def _strictly(name: str, data: bytes, space: str, header: Header) -> np.ndarray | None:
    """A whole JPEG by simplejpeg; None if it is whole but not for simplejpeg. Raises ValueError for a damaged one."""
    decode = _simplejpeg()
    assert decode is not None
    try:
        return decode(data, space)
    except MemoryError:
        return None
    except ValueError as error:
        told = str(error)
    if PADDED in told:  # some cameras pad the coded data with zeros
        data = _unpadded(data, header)
    image = decoded_sooner(_without(data, header.extras), space, strict=not HARMLESS.search(told))
    if image is None and DAMAGED.search(told):
        raise ImageError(DAMAGED_FILE.format(name=name, kind="JPEG", told=told))
    return image


def _unpadded(data: bytes, header: Header) -> bytes:
    """A JPEG without zeros between its coded data and its end."""
    return data[: header.end].rstrip(b"\0") + data[header.end :]


def _unmultiplied(data: bytes, header: Header) -> bytes:
    """A TIFF whose colours OpenCV takes as they are stored: those that are said to be multiplied by alpha already."""
    at, stored = header.alpha_offset, b"\1\0" if data.startswith(b"II") else b"\0\1"
    return data[:at] + stored + data[at + 2 :]


@functools.cache
def _simplejpeg() -> Callable[..., np.ndarray] | None:
    """simplejpeg's decoder, if it is installed: libjpeg-turbo, as in OpenCV, which takes it row by row."""
    try:
        from simplejpeg import decode_jpeg  # pyright: ignore[reportMissingTypeStubs] - it has none
    except ImportError:
        return None
    return decode_jpeg


def decoded_sooner(data: bytes | np.ndarray, order: str, *, strict: bool = True) -> np.ndarray | None:
    """What OpenCV makes of a usual JPEG, channels in `order`; None if simplejpeg is missing or does not like it.

    strict: whether damage is an error.
    """
    decode = _simplejpeg()
    try:
        return None if decode is None else decode(data, order, strict=strict)
    except (ValueError, MemoryError):
        return None


def image_size(source: Image) -> tuple[int, int]:
    """Width and height in px of what `read_image` would give, from the header alone; the same errors."""
    if isinstance(source, np.ndarray):
        return _checked(source).shape[1], source.shape[0]
    return upright_size(read_header(*_load(source)))


def size_if_known(source: Path | np.ndarray) -> tuple[int, int] | None:
    """The same, None for what is no picture that can be read."""
    try:
        return image_size(source)
    except (ValueError, OSError):
        return None


def write_image(path: FilePath, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as PNG or JPEG (quality 95), by suffix; the file appears whole or not at all."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, got {quoted(path.suffix)}")
    bgr = cv2.cvtColor(_checked(image, MAX_MEGAPIXELS), cv2.COLOR_RGB2BGR)
    options = [] if path.suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(path.suffix.lower(), bgr, options)
    write_bytes(path, encoded.tobytes())


def array_problem(image: np.ndarray) -> str:
    """Why an array is no picture, uint8 (H, W, 3) RGB, and how to make it so; empty where it is one."""
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
    """The array itself where it is a picture.

    OpenCV copies one whose values do not lie side by side, and ends the process where memory is too small for that.
    """
    if problem := array_problem(image):
        raise ImageError(f"image: {problem}")
    height, width, channels = image.shape
    side_by_side = image.strides[1:] == (channels, 1) and image.strides[0] >= width * channels
    if not side_by_side and height * width > 1e6 * max_megapixels:
        raise ImageError(
            f"image: {width}x{height} px whose values do not lie side by side in memory (strides {image.strides}), "
            f"expected at most {max_megapixels:g} megapixels of such: give a part, or np.ascontiguousarray(image)"
        )
    return image


def _load(source: object) -> tuple[str, bytes]:
    """The source's name for messages, and its bytes; a file of no known format is not read to its end."""
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
