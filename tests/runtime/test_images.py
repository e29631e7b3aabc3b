"""Pictures of every kind are read right, or refused in one line."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from keylite.data.rendered.gauges import gauges
from keylite.runtime import images, tiff
from keylite.runtime.files import write_bytes
from keylite.runtime.images import image_size, open_image, read_image, size_if_known, write_image

HEIGHT, WIDTH = 48, 64


def picture() -> np.ndarray:
    """Three different gradients and a red square: wrong channel order, clipping or turning shows."""
    across = np.linspace(0, 255, WIDTH).astype(np.uint8)
    down = np.linspace(0, 200, HEIGHT).astype(np.uint8)
    rgb = np.stack(np.broadcast_arrays(across[None], across[None, ::-1], down[:, None]), axis=-1).copy()
    rgb[10:20, 10:20] = [255, 0, 0]
    return rgb


def encoded(image: np.ndarray, suffix: str, *options: int) -> bytes:
    bgr = image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    return cv2.imencode(suffix, np.ascontiguousarray(bgr), list(options))[1].tobytes()


def grey_rgb() -> np.ndarray:
    return np.repeat(picture()[..., :1], 3, axis=2)


def rgba() -> np.ndarray:
    return np.dstack([picture()[..., ::-1], np.full((HEIGHT, WIDTH), 7, np.uint8)])  # BGRA, nearly transparent


def chunk(kind: bytes, payload: bytes) -> bytes:
    import zlib

    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def tiff_block(orientation: int) -> bytes:
    """A smallest EXIF block: one directory of one tag."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)


def jpeg_with_exif(orientation: int) -> bytes:
    data = encoded(picture(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100)
    payload = b"Exif\0\0" + tiff_block(orientation)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def png_with_exif(orientation: int) -> bytes:
    data = encoded(picture(), ".png")
    return data[:33] + chunk(b"eXIf", tiff_block(orientation)) + data[33:]


def jpeg_by_pillow(mode: str, **options: object) -> bytes:
    image_module = pytest.importorskip("PIL.Image", reason="needs pillow")
    buffer = io.BytesIO()
    image_module.fromarray(picture()).convert(mode).save(buffer, "JPEG", quality=100, **options)
    return buffer.getvalue()


def top_down_bmp() -> bytes:
    """A negative height: the rows run from the top."""
    data = encoded(picture(), ".bmp")
    start = struct.unpack_from("<I", data, 10)[0]
    return data[:22] + struct.pack("<i", -HEIGHT) + data[26:start] + picture()[..., ::-1].tobytes()


GOOD = {
    "top-down bmp": (top_down_bmp, picture, 0),
    "png": (lambda: encoded(picture(), ".png"), picture, 0),
    "png with bytes after its end": (lambda: encoded(picture(), ".png") + b"more", picture, 0),
    "grey png": (lambda: encoded(picture()[..., 0], ".png"), grey_rgb, 0),
    "rgba png": (lambda: encoded(rgba(), ".png"), picture, 0),
    "16-bit png": (lambda: encoded(picture().astype(np.uint16) * 257, ".png"), picture, 0),
    "16-bit grey png": (lambda: encoded(picture()[..., 0].astype(np.uint16) * 257, ".png"), grey_rgb, 0),
    "16-bit tiff": (lambda: encoded(picture().astype(np.uint16) * 257, ".tiff"), picture, 0),
    "tiff": (lambda: encoded(picture(), ".tiff"), picture, 0),
    "bmp": (lambda: encoded(picture(), ".bmp"), picture, 0),
    "webp, lossless": (lambda: encoded(picture(), ".webp", cv2.IMWRITE_WEBP_QUALITY, 101), picture, 0),
    "webp": (lambda: encoded(picture(), ".webp", cv2.IMWRITE_WEBP_QUALITY, 100), picture, 6),
    "webp on its canvas": (lambda: webp_on_a_canvas(WIDTH, HEIGHT), picture, 0),
    "webp with alpha": (lambda: encoded(rgba(), ".webp", cv2.IMWRITE_WEBP_QUALITY, 101), picture, 0),
    "jpeg": (lambda: encoded(picture(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100), picture, 6),
    "grey jpeg": (lambda: encoded(picture()[..., 0], ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100), grey_rgb, 2),
    "progressive jpeg": (
        lambda: encoded(picture(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        picture,
        6,
    ),
    "png with a chunk that libpng warns of": (
        lambda: png()[:33] + chunk(b"iCCP", b"wrong") + chunk(b"gAMA", bytes(9)) + png()[33:],
        picture,
        0,
    ),
    "cmyk jpeg": (lambda: jpeg_by_pillow("CMYK"), picture, 6),
    "jpeg with bytes after its end": (
        lambda: encoded(picture(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100) + b"\0" * 99,
        picture,
        6,
    ),
}


@pytest.mark.parametrize("kind", GOOD)
def test_reads_as_rgb(kind: str, tmp_path: Path) -> None:
    make, expected, mean_error = GOOD[kind]
    (tmp_path / "picture").write_bytes(make())  # the suffix does not matter
    image = read_image(tmp_path / "picture")
    assert image.dtype == np.uint8
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - expected()).mean() <= mean_error
    assert np.array_equal(image, read_image(make())), "bytes read as the file does"
    assert image_size(tmp_path / "picture") == (WIDTH, HEIGHT)
    assert open_image(make()).shape == image.shape


@pytest.mark.parametrize("make", [jpeg_with_exif, png_with_exif])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda image: image),
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (6, lambda image: np.rot90(image, -1)),
        (8, np.rot90),
        (9, lambda image: image),  # there is no such orientation
    ],
)
def test_exif_orientation_is_applied(make, orientation: int, upright) -> None:
    data = make(orientation)
    image, expected = read_image(data), upright(read_image(make(1)))
    assert np.array_equal(image, expected)
    assert image_size(data) == (expected.shape[1], expected.shape[0])


def png() -> bytes:
    return encoded(picture(), ".png")


def jpeg() -> bytes:
    return encoded(picture(), ".jpg")


def header_only(width: int, height: int) -> bytes:
    """A PNG whose header alone is true: decoding it would fail, so a refusal came before."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"no pixels")
        + chunk(b"IEND", b"")
    )


def damaged_png() -> bytes:
    data = bytearray(png())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def wrong_zlib() -> bytes:
    """A PNG whose chunks are whole, but not what they hold."""
    data = png()
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at], "big")
    return data[: at - 4] + chunk(b"IDAT", data[at + 4 : at + 4 + length // 2]) + data[-12:]


def webp_on_a_canvas(width: int, height: int) -> bytes:
    picture_of = encoded(picture(), ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)[12:]
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + canvas + picture_of
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def gif(frames: int) -> bytes:
    """A 1x1 GIF, by hand."""
    frame = b"\x21\xf9\x04\0\0\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame * frames + b";"


def animated_png() -> bytes:
    data = png()
    return data[:33] + chunk(b"acTL", struct.pack(">II", 3, 0)) + data[33:]


def animated_webp() -> bytes:
    def part(kind: bytes, payload: bytes) -> bytes:
        return kind + struct.pack("<I", len(payload)) + payload

    body = b"WEBP" + part(b"VP8X", b"\x02\0\0\0" + b"\x3f\0\0" + b"\x2f\0\0") + 2 * part(b"ANMF", b"\0" * 16)
    return part(b"RIFF", body)


def tiff_with_alpha(order: str, samples: np.ndarray, extra: int) -> bytes:
    """A plain TIFF of RGBA samples. extra: 1 if the colours are said to be multiplied by alpha, 2 if not."""
    height, width, count = samples.shape
    bits, size = 8 * samples.itemsize, samples.nbytes
    tags = [(256, width), (257, height), (258, 8 + size), (259, 1), (262, 2), (273, 8), (277, count), (278, height)]
    tags += [(279, size), (338, extra)]
    start = 8 + size + 8
    data = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)
    data += samples.astype(samples.dtype.newbyteorder(order)).tobytes() + struct.pack(order + "4H", *[bits] * 4)
    data += struct.pack(order + "H", len(tags))
    for tag, value in tags:
        if tag in (258, 273, 279):
            data += struct.pack(order + "HHII", tag, 3 if tag == 258 else 4, 4 if tag == 258 else 1, value)
        else:
            data += struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
    return data + bytes(4)


@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_alpha_is_dropped_in_a_tiff_as_in_a_png(order: str, bits: int, extra: int) -> None:
    samples = rgba()[..., [2, 1, 0, 3]]
    samples[..., 3] = np.arange(WIDTH)  # 0 too
    stored = samples if bits == 8 else samples.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_image(tiff_with_alpha(order, stored, extra)), picture())


def two_pages() -> bytes:
    ok, data = cv2.imencodemulti(".tiff", [picture(), picture()])
    assert ok
    return data.tobytes()


def deep(bits: int) -> np.ndarray:
    """A ramp over all values of so many bits, uint16 RGB."""
    ramp = np.linspace(0, 2**bits - 1, 4096).astype(np.uint16).reshape(64, 64)
    return np.stack([ramp, ramp[::-1], ramp.T], axis=2)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_bits_that_are_used_become_8(bits: int, suffix: str) -> None:
    assert 2**bits - 1 in images.WHITE_LEVELS
    samples = deep(bits)
    data = encoded(samples, suffix)
    np.testing.assert_array_equal(open_image(data).samples(), samples)
    image = read_image(data, white_level=2**bits - 1)
    rounded = int((bits, suffix) == (16, ".tiff"))  # as OpenCV does, of a TIFF in colour alone
    assert np.abs(image.astype(int) - (samples >> (bits - 8))).max() == rounded
    assert (image.min(), image.max()) == (0, 255)
    assert read_image(data, white_level=255).max() == 255, "beyond white is white"
    if bits == 16:
        np.testing.assert_array_equal(image, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))


def test_8_bit_pictures_know_no_white_level() -> None:
    np.testing.assert_array_equal(read_image(png(), white_level=1023), picture())
    np.testing.assert_array_equal(open_image(png(), white_level=1023).samples(), picture())


BAD = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"hello world" * 9, "not an image that keylite reads"),
    "HEIC": (
        lambda: b"\0\0\0\x18ftypheic" + bytes(999),
        "keylite reads .JPEG, .*, TIFF.: it is HEIC; convert it",
    ),
    "DICOM": (lambda: bytes(128) + b"DICM" + bytes(999), "it is DICOM; convert it to JPEG or PNG"),
    "Netpbm": (lambda: b"P6\n1 1\n255\nabc", "it is Netpbm; convert it to JPEG or PNG"),
    "a RIFF of another kind": (lambda: b"RIFF\x24\0\0\0WAVEfmt ", "not an image that keylite reads"),
    "jpeg, half": (lambda: jpeg()[: len(jpeg()) // 2], "the JPEG file is truncated"),
    "jpeg, 90 %": (lambda: jpeg()[: len(jpeg()) * 9 // 10], "the JPEG file is truncated"),
    "jpeg, last byte missing": (lambda: jpeg()[:-1], "the JPEG file is truncated"),
    "jpeg, header only": (lambda: jpeg()[:30], "the JPEG file is truncated"),
    "jpeg, no pixels": (lambda: b"\xff\xd8\xff\xd9", "truncated or damaged"),
    "jpeg, half of it zeros": (lambda: jpeg()[: len(jpeg()) // 2] + bytes(999), "the JPEG file is truncated"),
    "progressive jpeg, 2/3": (
        lambda: (data := encoded(picture(), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[: len(data) * 2 // 3],
        "truncated",
    ),
    "png, half": (lambda: png()[: len(png()) // 2], "truncated"),
    "png, IEND missing": (lambda: png()[:-12], "truncated"),
    "png, last byte missing": (lambda: png()[:-1], "truncated"),
    "png, damaged": (damaged_png, "truncated or damaged"),
    "png, damaged before its check sums": (wrong_zlib, "cannot be decoded"),
    "png without pixels": (lambda: png().replace(b"IDAT", b"IDAt"), "truncated or damaged"),
    "bmp, half": (lambda: (data := encoded(picture(), ".bmp"))[: len(data) // 2], "truncated"),
    "webp, half": (lambda: (data := encoded(picture(), ".webp"))[: len(data) // 2], "truncated"),
    "tiff, half": (lambda: (data := encoded(picture(), ".tiff"))[: len(data) // 2], "truncated|cannot be decoded"),
    "gif, half": (lambda: gif(1)[:-4], "truncated"),
    "no width": (lambda: header_only(0, 9), "0x9"),
    "animated gif": (lambda: gif(2), "several frames"),
    "animated png": (animated_png, "several frames"),
    "animated webp": (animated_webp, "several frames"),
    "tiff of two pages": (two_pages, "several frames"),
    "too large by its header": (lambda: header_only(20_000, 20_000), "= 400; raise the limit with `max_megapixels`"),
    "float tiff": (
        lambda: encoded(picture()[..., 0].astype(np.float32), ".tiff"),
        "32-bit floating-point numbers; scale",
    ),
    "jpeg of 12 bits": (lambda: jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "a JPEG file of 12"),
    "webp whose canvas is not its picture's": (lambda: webp_on_a_canvas(80, 90), "truncated or damaged"),
    "bmp that is smaller than it says": (lambda: top_down_bmp()[:-1], "truncated or damaged"),
}


@pytest.mark.parametrize("kind", BAD)
def test_refuses(kind: str, tmp_path: Path) -> None:
    make, words = BAD[kind]
    path = tmp_path / "bad.jpg"
    path.write_bytes(make())
    with pytest.raises(ValueError, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_still_gif_is_read() -> None:
    assert read_image(gif(1)).shape == (1, 1, 3)


def test_megapixel_limit_is_the_caller_s() -> None:
    assert read_image(png(), max_megapixels=WIDTH * HEIGHT / 1e6).shape == (HEIGHT, WIDTH, 3)
    for limit in (0.001, 0.0030719):
        with pytest.raises(ValueError, match=f"at most {limit} megapixels, got 64x48 = 0.003072; raise"):
            read_image(png(), max_megapixels=limit)


def test_truncated_files_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for kind in ("jpeg, half", "png, half", "bmp, half", "webp, half", "gif, half", "text", "empty"):
        with pytest.raises(ValueError):
            read_image(BAD[kind][0]())
    assert capfd.readouterr() == ("", "")


def test_a_size_is_known_of_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "half.png").write_bytes(png()[:20])
    assert size_if_known(tmp_path / "a.png") == size_if_known(picture()) == (WIDTH, HEIGHT)
    for source in (tmp_path / "none.png", tmp_path, tmp_path / "half.png", picture()[..., 0]):
        assert size_if_known(source) is None


def test_missing_folder_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no.png: no such image file"):
        read_image(tmp_path / "no.png")
    with pytest.raises(ValueError, match="expected an image file, got a folder"):
        read_image(str(tmp_path))
    (tmp_path / "shut.png").write_bytes(png())
    (tmp_path / "shut.png").chmod(0)
    if not os.access(tmp_path / "shut.png", os.R_OK):  # root may read anything
        with pytest.raises(ValueError, match="cannot be read"):
            read_image(tmp_path / "shut.png")
    with pytest.raises(ValueError, match="expected a path, bytes or a uint8 array"):
        read_image(3)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5), np.uint8), r"np.repeat\(image\[..., None\], 3, axis=2\)"),
        (np.zeros((4, 5, 4), np.uint8), "drop the alpha"),
        (np.zeros((4, 5, 3), np.float32), "astype"),
        (np.zeros((4, 5, 1), np.uint8), r"\(4, 5, 1\)"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
    ],
)
def test_arrays_are_checked(array: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_image(array)
    with pytest.raises(ValueError, match=words):
        image_size(array)


VIEWS = {  # of so many more pixels than there is memory, if they are copied
    "one pixel repeated": np.broadcast_to(np.uint8(203), (100_000, 100_000, 3)),
    "one row repeated": np.broadcast_to(np.zeros((1, 11_000, 3), np.uint8), (10_000, 11_000, 3)),
    "rows that overlap": np.lib.stride_tricks.as_strided(
        np.empty(120_000_000, np.uint8), (10_000, 11_000, 3), (11_000, 3, 1)
    ),
    "channels the other way round": np.broadcast_to(np.zeros((1, 11_000, 3), np.uint8), (10_000, 11_000, 3))[..., ::-1],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_large_view_that_would_be_copied_is_refused(view: np.ndarray) -> None:
    """OpenCV does not survive a copy for which there is no memory."""
    with pytest.raises(
        ValueError, match=r"^image: \d+x\d+ px whose values do not lie side by side .*: give np.ascontiguousarray"
    ):
        read_image(view)
    assert image_size(view) == (view.shape[1], view.shape[0])


def test_views_of_usual_size_and_large_arrays_are_read() -> None:
    assert read_image(picture()[:, ::-1, ::-1]).shape == (HEIGHT, WIDTH, 3)
    large = np.empty((10_001, 10_000, 3), np.uint8)  # no memory until it is looked at
    assert read_image(large) is large, "its values lie side by side"


def test_array_comes_back_as_it_is() -> None:
    image = picture()
    assert read_image(image, max_megapixels=0) is image
    assert image_size(image) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(("suffix", "mean_error"), [(".png", 0), (".PNG", 0), (".jpg", 3), (".jpeg", 3)])
def test_written_picture_reads_back(suffix: str, mean_error: float, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"what was there")
    write_image(path, picture())
    assert np.abs(read_image(path).astype(int) - picture()).mean() <= mean_error
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "nothing is left beside it"
    if mean_error:
        assert path.read_bytes() == encoded(picture(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)


def test_writing_makes_the_folders_above(tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "er" / "a.png", picture())
    assert np.array_equal(read_image(tmp_path / "new" / "er" / "a.png"), picture())


def test_write_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("ends in .png, .jpg, .jpeg, got '.gif'")):
        write_image(tmp_path / "a.gif", picture())
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError, match=r"folder\.png: cannot write this file"):
        write_image(tmp_path / "folder.png", picture())
    with pytest.raises(ValueError, match="uint8 array"):
        write_image(tmp_path / "a.png", picture().astype(float))


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "kind", ["CMYK JPEG", "palette PNG", "1-bit PNG", "grey and alpha PNG", "still GIF", "rotated WebP", "rotated TIFF"]
)
def test_agrees_with_pillow(kind: str) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="needs pillow")
    from PIL import ImageOps

    source = image_module.fromarray(picture())
    exif = image_module.Exif()
    exif[274] = 6
    made, file_format, options = {
        "CMYK JPEG": (source.convert("CMYK"), "JPEG", {"quality": 95}),
        "palette PNG": (source.quantize(64), "PNG", {}),
        "1-bit PNG": (source.convert("1"), "PNG", {}),
        "grey and alpha PNG": (source.convert("LA"), "PNG", {}),
        "still GIF": (source.quantize(64), "GIF", {}),
        "rotated WebP": (source, "WEBP", {"exif": exif, "lossless": True}),
        "rotated TIFF": (source, "TIFF", {"exif": exif}),
    }[kind]
    buffer = io.BytesIO()
    made.save(buffer, file_format, **options)
    with image_module.open(io.BytesIO(buffer.getvalue())) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
    image = read_image(buffer.getvalue())
    assert image.shape == expected.shape
    assert np.abs(image - expected).max() <= (1 if kind == "CMYK JPEG" else 0)  # 1: another rounding of K
    assert image_size(buffer.getvalue()) == (expected.shape[1], expected.shape[0])


# ---- two decoders

USUAL = {  # width, height, options: what the two decoders must agree on
    "4:2:0": (64, 48, (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)),
    "4:2:2": (64, 48, (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422)),
    "4:4:0": (64, 48, (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440)),
    "4:4:4": (64, 48, (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)),
    "odd sides": (61, 47, ()),
    "one column": (1, 47, ()),
    "progressive": (61, 47, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "restarts": (61, 47, (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
    "poor": (61, 47, (cv2.IMWRITE_JPEG_QUALITY, 5)),
}


@pytest.mark.parametrize(("width", "height", "options"), USUAL.values(), ids=USUAL)
def test_both_decoders_give_the_same_pixels(width: int, height: int, options: tuple, monkeypatch) -> None:
    pytest.importorskip("simplejpeg")
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    data = encoded(cv2.GaussianBlur(noise, (3, 3), 0), ".jpg", *options)
    found = open_image(data)
    sooner, four = found.pixels(), found.pixels(channels=4)
    monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    np.testing.assert_array_equal(sooner, found.pixels())
    np.testing.assert_array_equal(four[..., :3], sooner)
    assert (four.shape[2], found.pixels(channels=4).shape[2]) == (4, 3)


def test_colours_stored_as_they_are_are_the_same_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    pillow = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    pillow.fromarray(picture()).save(file, "JPEG", keep_rgb=True, quality=95)
    sooner = read_image(file.getvalue())
    monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    np.testing.assert_array_equal(sooner, read_image(file.getvalue()))
    assert np.abs(sooner.astype(int) - picture()).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_and_grey_pictures_are_the_same_by_both(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    start = jpeg_with_exif(orientation)[:38]
    for data in (start + rich()[2:], start + rich(grey=True)[2:], jpeg_by_pillow("CMYK"), rich(grey=True)):
        sooner, four = open_image(data).pixels(), open_image(data).pixels(channels=4)
        with monkeypatch.context() as patch:
            patch.setattr(images, "_simplejpeg", lambda: None)
            np.testing.assert_array_equal(sooner, read_image(data))
        np.testing.assert_array_equal(sooner, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))
        np.testing.assert_array_equal(sooner, four[..., :3])


# ---- damage within a JPEG


def rich(*options: int, grey: bool = False) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)
    blurred = cv2.GaussianBlur(noise, (5, 5), 0)
    return encoded(blurred[..., 0] if grey else blurred, ".jpg", *options)


def cut(data: bytes) -> bytes:
    """The first third, and an end marker put on."""
    return data[: len(data) // 3] + b"\xff\xd9"


def zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(800) + data[middle + 800 :]


def without_some(data: bytes) -> bytes:
    return data[: len(data) // 2] + data[len(data) // 2 + 512 :]


def with_another_bit(data: bytes) -> bytes:
    """The first bit from the middle on that puts what follows out of step for good; one in five does (342 of 1,600).

    After another one the code falls into step again: a few blocks are wrong, and no decoder can tell.
    """
    at, bit = len(data) // 2, 1
    while True:
        try:
            images.read_image(flipped := data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        except ValueError:
            return flipped
        at, bit = (at + 1, 1) if bit == 128 else (at, 2 * bit)


def then_whole(data: bytes) -> bytes:
    return data[: len(data) // 2] + data


KINDS = {
    "usual": lambda: rich(),
    "grey": lambda: rich(grey=True),
    "progressive": lambda: rich(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": lambda: rich(cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
    "turned": lambda: jpeg_with_exif(6)[:38] + rich()[2:],
}


@pytest.mark.parametrize("damage", [cut, zeroed, without_some, with_another_bit, then_whole])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_and_said_once(kind: str, damage, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("simplejpeg")
    data = KINDS[kind]()
    assert read_image(data).size > 90_000
    with pytest.raises(ValueError, match=r"^image bytes: the JPEG file is (truncated or )?damaged \([^\n]*\)"):
        read_image(damage(data))
    assert capfd.readouterr() == ("", "")


def test_damage_below_a_crop_is_found_in_a_picture_that_was_not_checked() -> None:
    pytest.importorskip("simplejpeg")
    with pytest.raises(ValueError, match="damaged"):
        open_image(zeroed(rich())).pixels()


@pytest.mark.parametrize("length", [40, 512])
def test_a_hole_in_a_jpeg_is_found_wherever_it_is(length: int) -> None:
    """A decoder alone takes four of ten, where the code happens to fall into step again."""
    data = rich()
    for at in np.linspace(1000, len(data) - 1000, 40).astype(int).tolist():
        with pytest.raises(ValueError, match="truncated or damaged"):
            read_image(data[:at] + bytes(length) + data[at + length :])


def test_zeros_that_mean_an_even_picture_are_no_hole() -> None:
    even = np.full((400, 400, 3), 90, np.uint8)
    even[300:] = cv2.imdecode(np.frombuffer(rich(), np.uint8), cv2.IMREAD_COLOR)[:100, :1].repeat(400, axis=1)
    data = encoded(even, ".jpg", cv2.IMWRITE_JPEG_OPTIMIZE, 1)
    assert bytes(40) in data
    assert read_image(data).shape == (400, 400, 3)


@pytest.mark.parametrize("damage", [cut, zeroed, then_whole])
def test_without_simplejpeg_the_segments_of_a_jpeg_are_judged(damage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_image(damage(rich(cv2.IMWRITE_JPEG_RST_INTERVAL, 4)))


RARE = {  # that cameras write, and that are whole
    "padded with zeros": lambda: rich()[:-2] + bytes(400) + rich()[-2:],
    "padded with fill bytes": lambda: rich()[:-2] + b"\xff" * 9 + rich()[-2:],
    "pictures after its end": lambda: rich() + rich()[:-700],
    "text after its end": lambda: rich() + b"SEFT" * 9,
    "stray bytes before a segment": lambda: rich()[:20] + bytes(3) + rich()[20:],
    "a JFIF of another version": lambda: rich().replace(b"JFIF\0\1", b"JFIF\0\3", 1),
    "a scan that says less than it holds": lambda: rich().replace(b"\0\x3f\0", b"\0\x3e\0", 1),
    "a maker's segments": lambda: rich()[:2] + b"\xff\xe2\0\6MPF\0\xff\xed\0\4ab" + rich()[2:],
}


@pytest.mark.parametrize("kind", RARE)
def test_what_is_rare_and_whole_is_read(kind: str, capfd: pytest.CaptureFixture[str], monkeypatch) -> None:
    pytest.importorskip("simplejpeg")
    assert RARE[kind]() != rich()
    np.testing.assert_array_equal(read_image(RARE[kind]()), read_image(rich()))
    monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    np.testing.assert_array_equal(read_image(RARE[kind]()), read_image(rich()))
    assert capfd.readouterr() == ("", "")


def test_a_picture_of_another_size_than_its_header_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png()
    monkeypatch.setattr(images.cv2, "imdecode", lambda *_: picture()[:-1])
    with pytest.raises(
        ValueError, match=r"^image bytes: the header says 64x48 pixels and 64x47 are stored: .* damaged"
    ):
        read_image(data)


def test_opencv_s_log_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    logging, seen = cv2.utils.logging, []
    decode = cv2.imdecode
    monkeypatch.setattr(images.cv2, "imdecode", lambda *of: (seen.append(logging.getLogLevel()), decode(*of))[1])
    before = logging.setLogLevel(logging.LOG_LEVEL_WARNING)
    try:
        read_image(png())
        assert (seen, logging.getLogLevel()) == ([logging.LOG_LEVEL_SILENT], logging.LOG_LEVEL_WARNING)
        with images._silence:  # of another thread
            read_image(png())
            assert logging.getLogLevel() == logging.LOG_LEVEL_SILENT
        assert logging.getLogLevel() == logging.LOG_LEVEL_WARNING
        forked = images._Silence()
        forked.__enter__()
        forked._leave()  # as in a fork, which has not the thread that would
        assert (forked.threads, logging.getLogLevel()) == (0, logging.LOG_LEVEL_WARNING)
    finally:
        logging.setLogLevel(before)


def test_a_video_is_told_where_its_frames_go(tmp_path: Path) -> None:
    (tmp_path / "clip.MP4").write_bytes(b"\0\0\0\x20ftypisom")
    with pytest.raises(
        ValueError, match=r"clip\.MP4: not an image .*; give the frames of a video to Predictor\.stream$"
    ):
        read_image(tmp_path / "clip.MP4")


# ---- the upper rows alone

STORED = {  # how colour is stored, and options of the encoder
    "4:2:0": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, ()),
    "4:2:2": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422, ()),
    "4:4:0": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440, ()),
    "4:4:4": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, ()),
    "restart markers": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
}
NOISE = np.random.default_rng(0).integers(0, 256, (203, 147, 3), np.uint8)


@pytest.mark.parametrize(("sampling", "options"), STORED.values(), ids=STORED)
@pytest.mark.parametrize("rows", [1, 15, 16, 100, 150, 203])
def test_the_rows_that_are_wanted_are_the_same(rows: int, sampling: int, options: tuple[int, ...]) -> None:
    pytest.importorskip("simplejpeg")
    data = encoded(cv2.blur(NOISE, (3, 3)), ".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, *options)
    whole, upper = read_image(data), open_image(data).pixels(rows=rows)
    np.testing.assert_array_equal(upper[:rows], whole[:rows])
    assert upper.shape[0] == {1: 32, 15: 32, 16: 48, 100: 128, 150: 176, 203: 203}[rows] and upper.shape[1:] == (147, 3)


def test_only_files_from_top_to_bottom_are_cut() -> None:
    pytest.importorskip("simplejpeg")
    kinds = {
        "progressive": encoded(NOISE, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "grey": encoded(NOISE[..., 0], ".jpg"),
        "turned": (start := encoded(NOISE, ".jpg"))[:2] + jpeg_with_exif(6)[2:38] + start[2:],
        "png": encoded(NOISE, ".png"),
    }
    for name, data in kinds.items():
        np.testing.assert_array_equal(open_image(data).pixels(rows=8), read_image(data), err_msg=name)


def test_without_simplejpeg_opencv_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    images._simplejpeg.cache_clear()
    try:
        assert images.decoded_sooner(encoded(picture(), ".jpg"), "RGB") is None
        assert np.abs(read_image(encoded(picture(), ".jpg")).astype(int) - picture()).mean() < 5
    finally:
        images._simplejpeg.cache_clear()


def test_both_decoders_refuse_the_same_damage_and_say_nothing_else(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Where simplejpeg is missing or cannot judge, what libjpeg says as OpenCV decodes is heard."""
    pytest.importorskip("simplejpeg")
    rng, data, accepted = np.random.default_rng(0), rich(), []
    for _ in range(60):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = rng.integers(256)
        found = []
        for decoder in (images._simplejpeg, lambda: None):
            with monkeypatch.context() as patch:
                patch.setattr(images, "_simplejpeg", decoder)
                try:
                    found.append(read_image(bytes(damaged)))
                except ValueError:
                    found.append(None)
        assert np.array_equal(*found) if found[0] is not None else found[1] is None
        accepted.append(found[0] is not None)
    assert 10 < sum(accepted) < 50
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("packed", ["tiff_adobe_deflate", "tiff_lzw", "packbits"])
@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
def test_a_damaged_tiff_is_refused_although_opencv_gives_what_it_can(packed: str, deep: bool, capfd):
    pillow = pytest.importorskip("PIL.Image", reason="needs Pillow")
    gauge = cv2.resize(gauges(1, size=160).images[0], (640, 480))  # several strips: one begins in the damage
    file = io.BytesIO()
    pixels = gauge[..., 0].astype(np.uint16) * 257 if deep else gauge
    pillow.fromarray(pixels).save(file, "TIFF", compression=packed)
    good = file.getvalue()
    assert read_image(good).shape == (480, 640, 3)
    third = len(good) // 3
    with pytest.raises(
        ValueError, match=r"^image bytes: the TIFF file is damaged \((?!.*TIFF_Error).*\); save it anew"
    ):
        read_image(good[:third] + b"\0" * third + good[2 * third :])
    assert capfd.readouterr().err == ""


def deflated(**options: object) -> bytes:
    pillow = pytest.importorskip("PIL.Image", reason="needs Pillow")
    file = io.BytesIO()
    pillow.fromarray(picture()).save(file, "TIFF", compression="tiff_adobe_deflate", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"tiffinfo": {317: 2}}, {"tiffinfo": {278: 5}}], ids=["", "predictor", "strips"]
)
def test_a_tiff_of_zlib_s_streams_is_held_to_their_checksums(options: dict):
    good = deflated(**options)
    np.testing.assert_array_equal(read_image(good), picture())
    page = tiff.directory(good)
    start, size = page.first[273], page.first[279]
    for at in range(start, start + size, 7):
        damaged = bytearray(good)
        damaged[at] ^= 0x10
        with pytest.raises(ValueError, match="the TIFF file is damaged"):
            read_image(bytes(damaged))


def test_a_tiff_whose_strips_hold_more_than_its_pixels_is_read():
    data = bytearray(deflated())
    _, _, where = tiff.directory(bytes(data)).places[257]
    struct.pack_into("<H", data, where, 3)  # rows of the picture, in strips made for all
    np.testing.assert_array_equal(read_image(bytes(data)), picture()[:3])


def test_what_no_checksum_of_a_tiff_covers_is_let_through():
    good = deflated()
    for tag, value in ((266, 2), (259, 5)):  # bits turned round, another packing
        data = bytearray(good)
        damaged = data.index(good[tiff.directory(good).first[273] :][:8]) + 9
        data[damaged] ^= 0x10
        number, _, where = tiff.directory(good).places.get(tag, tiff.directory(good).places[259])
        struct.pack_into(number, data, where, value)
        assert tiff.packing_problem(bytes(data)) == "" or tag == 266


@pytest.mark.parametrize("kind", [8, 32946])
def test_both_numbers_of_zlib_s_packing_are_known(kind: int):
    data = bytearray(deflated())
    number, _, where = tiff.directory(bytes(data)).places[259]
    struct.pack_into(number, data, where, kind)
    assert tiff.packing_problem(bytes(data)) == ""
    start, size = (tiff.directory(bytes(data)).first[tag] for tag in (273, 279))
    data[start + size // 2] ^= 0x10
    assert tiff.packing_problem(bytes(data)) != ""


def tiles(there: int, cut: int = 0) -> bytes:
    """A TIFF of 32x16 px, grey, in two tiles of 16x16 of zlib's packing, of which so many are there."""
    import zlib

    stream = zlib.compress(bytes(range(256)))
    at = 8 + 2 + 12 * 10 + 4
    places = struct.pack("<II", *([at + 16, at + 16] if there == 2 else [at + 16, 0]))
    sizes = struct.pack("<II", *[len(stream) - cut] * 2)
    tags = ((256, 32), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, 16), (323, 16))
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    body += struct.pack("<HHII", 324, 4, 2, at) + struct.pack("<HHII", 325, 4, 2, at + 8)
    return b"II*\0" + struct.pack("<IH", 8, 10) + body + struct.pack("<I", 0) + places + sizes + stream


@pytest.mark.parametrize("tag", [324, 325], ids=["places", "sizes"])
def test_tables_of_a_tiff_that_go_beyond_its_end_are_damage(tag: int):
    data = bytearray(tiles(2))
    at = data.index(struct.pack("<HHI", tag, 4, 2))
    struct.pack_into("<II", data, at + 4, 64, len(data) - 8)
    struct.pack_into("<I", data, data.index(struct.pack("<HHI", 257, 4, 1)) + 8, 16 * 64)  # rows for so many tiles
    with pytest.raises(ValueError, match="it lacks strips or tiles: [012] of 128 are there"):
        read_image(bytes(data))


def test_tiles_of_a_tiff_are_held_to_their_checksums():
    assert read_image(tiles(2)).shape == (16, 32, 3)
    assert read_image(tiles(2))[3, 20, 0] == 3 * 16 + 4
    with pytest.raises(ValueError, match="it lacks strips or tiles: 1 of 2 are there"):
        read_image(tiles(1))
    with pytest.raises(ValueError, match="a stream of compressed samples has no end"):
        read_image(tiles(2, cut=4))


def test_any_numbers_in_a_tiff_s_directory_are_a_picture_or_one_line(capfd):
    rng, seeds, refused = np.random.default_rng(0), (tiles(2), deflated(), deflated(tiffinfo={278: 5})), 0
    numbers = (0, 1, 2, 3, 5, 7, 8, 16, 100, 32946, 2**31, 2**32 - 1)
    for _ in range(1500):
        data = bytearray(seeds[rng.integers(3)])
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        for _ in range(rng.integers(1, 4)):
            at = start + 2 + 12 * int(rng.integers(count)) + 4 * int(rng.integers(1, 3))
            struct.pack_into("<I", data, at, int(rng.choice([*numbers, len(data) - 4, len(data)])))
        try:
            assert read_image(bytes(data)).shape[2] == 3
        except ValueError:
            refused += 1
    assert 500 < refused < 1500
    assert capfd.readouterr().err == ""


OTHERS = {
    "HEIC": b"\0\0\0\x18ftypmif1",
    "AVIF": b"\0\0\0\x18ftypavif",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n",
    "JPEG XL": b"\xff\x0a",
    "PSD": b"8BPS",
    "PDF": b"%PDF-1.7",
    "a NumPy array": b"\x93NUMPY",
}


@pytest.mark.parametrize(("name", "start"), OTHERS.items())
def test_a_picture_of_another_format_is_called_by_its_name(name: str, start: bytes):
    with pytest.raises(ValueError, match=f"TIFF\\): it is {name}; convert it to JPEG or PNG"):
        read_image(start + bytes(200))


@pytest.mark.parametrize(("tag", "words"), [(273, "it lacks strips or tiles: 0 of 1 are there"), (278, "has no size")])
def test_a_tiff_that_lacks_strips_is_refused(tag: int, words: str):
    """Decoders would fill them with black."""
    data = bytearray(deflated())
    number, _, where = tiff.directory(bytes(data)).places[tag]
    struct.pack_into(number, data, where, 0)
    with pytest.raises(ValueError, match=words):
        read_image(bytes(data))


def test_samples_in_planes_have_strips_for_each():
    data = bytearray(deflated())
    number, _, where = tiff.directory(bytes(data)).places[284]
    struct.pack_into(number, data, where, 2)
    with pytest.raises(ValueError, match="it lacks strips or tiles: 1 of 3 are there"):
        read_image(bytes(data))


def test_what_opencv_says_in_several_lines_of_a_tiff_is_not_heard(capfd, monkeypatch):
    def says(*_: object, decode=cv2.imdecode) -> np.ndarray:
        os.write(
            2, b"[ERROR:0@0.1] global grfmt_tiff.cpp:7 (expected: 'a < b'), where\n> 'a' is 9\n> must be less than\n\n"
        )
        return decode(*_)

    lzw = [cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_LZW]
    _, file = cv2.imencode(".tif", np.zeros((8, 9, 3), np.uint8), lzw)
    monkeypatch.setattr(cv2, "imdecode", says)
    assert read_image(file.tobytes()).shape == (8, 9, 3)
    assert capfd.readouterr().err == ""
