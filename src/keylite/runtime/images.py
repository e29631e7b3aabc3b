"""Image files to RGB arrays and back; what cannot be read whole and right is refused in one line.

Files are read as bytes and decoded from memory: OpenCV hands out a half-grey array for a truncated JPEG file, but
refuses the same bytes. Headers are read first (headers.py), so that a picture too large never reaches the decoder.
Where simplejpeg is installed it decodes usual JPEGs: the same pixels, sooner. Knows nothing of keypoints, crops or
networks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from keylite.runtime.files import write_bytes
from keylite.runtime.headers import Header, kind_of, orientation, read_header, says_upright, upright_size

MAX_MEGAPIXELS = 100.0
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")  # that images to read end in
SUFFIXES = (".png", ".jpg", ".jpeg")  # that write_image writes
REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
REDUCED = {by: flag - cv2.IMREAD_COLOR_BGR + cv2.IMREAD_COLOR_RGB for by, flag in REDUCED.items()}
JPEG_QUALITY = 95
JPEG_BLOCK = 16  # rows that are stored together at most, where colour has half of them
ENOUGH_ROWS = 0.9  # of a picture; decoding fewer saves time
READ_AT_ONCE = 4096


class Picture(NamedTuple):
    """A picture whose header was read, and whose pixels are yet to be decoded.

    shape: (H, W, 3) px, upright. reducible: whether reduced pixels can be had, and lie where they should. reduced: by
    how much those are that `data` holds, where they are decoded. usual: whether it is a JPEG of three components that
    is stored upright. height_offset: see `Header`.
    """

    name: str
    data: bytes | np.ndarray
    shape: tuple[int, ...]
    reducible: bool = False
    reduced: int = 1
    usual: bool = False
    height_offset: int = 0

    def pixels(self, reduction: int = 1, channels: int = 3, rows: int | None = None) -> tuple[np.ndarray, int]:
        """uint8 RGB pixels, and by how much they are reduced: by 1, or as asked, 2, 4 or 8, where the file is a JPEG.

        Reduced pixels are means of that many by that many, beyond the last ones of what the file is padded with.
        channels: 4 where a fourth without meaning is welcome; it is there where it costs nothing. rows: how many from
        the top are wanted; those below may be missing, where that saves time.
        """
        if isinstance(self.data, np.ndarray):
            return self.data, self.reduced
        if reduction > 1 and self.reducible:
            image = _decoded(self.name, self.data, REDUCED[reduction])
            if image.shape[:2] == (-(-self.shape[0] // reduction), -(-self.shape[1] // reduction)):
                return image, reduction
        image = None
        if self.usual:
            data = self.data
            if rows and self.height_offset and (kept := _kept_rows(rows)) <= ENOUGH_ROWS * self.shape[0]:
                data = data[: self.height_offset] + kept.to_bytes(2, "big") + data[self.height_offset + 2 :]
            image = decoded_sooner(data, "RGBX"[:channels], whole=data is self.data)
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
    width, height = upright_size(header)
    # a block that is cut off by the stored picture's last column or row must not come first when it is turned
    whole_blocks = width % 8 == height % 8 == 0 or orientation(header.exif) in (1, 5)
    usual_size = width * height <= 1e6 * MAX_MEGAPIXELS
    reducible = header.components > 0 and header.square and whole_blocks and usual_size
    usual = header.components == 3 and usual_size and (not header.exif or says_upright(header.exif))
    return Picture(name, data, (height, width, 3), reducible, usual=usual, height_offset=header.height_offset)


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


def _kept_rows(rows: int) -> int:
    """How many rows of a JPEG are decoded for so many: whole blocks, and one to spare for colour, which is smoothed."""
    return (rows // JPEG_BLOCK + 2) * JPEG_BLOCK


def _limited(name: str, data: bytes, max_megapixels: float) -> Header:
    """The header of a picture that is not too large."""
    header = read_header(name, data)
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


def decoded_sooner(data: bytes | np.ndarray, order: str, *, whole: bool = True) -> np.ndarray | None:
    """What OpenCV makes of a usual JPEG, channels in `order`; None where it is to try, and to say what is wrong.

    whole: False where the file holds more rows than it says.
    """
    decode = _simplejpeg()
    try:
        return None if decode is None else decode(data, order, strict=whole)
    except (ValueError, MemoryError):
        return None


def image_size(source: Path | str | bytes | np.ndarray) -> tuple[int, int]:
    """Width and height in px of what `read_image` would give, from the header alone; the same errors."""
    if isinstance(source, np.ndarray):
        return _checked(source).shape[1], source.shape[0]
    return upright_size(read_header(*_load(source)))


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
            return name, start + file.read() if kind_of(start) else start
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such image file") from None
    except IsADirectoryError:
        raise ValueError(f"{name}: expected an image file, got a folder") from None
    except OSError as error:
        raise ValueError(f"{name}: cannot be read: {error.strerror}") from None
