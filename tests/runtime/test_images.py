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

from keylite.runtime import images
from keylite.runtime.files import write_bytes
from keylite.runtime.images import check_image, image_size, open_image, read_image, write_image

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
    "webp with alpha": (lambda: encoded(rgba(), ".webp", cv2.IMWRITE_WEBP_QUALITY, 101), picture, 0),
    "jpeg": (lambda: encoded(picture(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100), picture, 6),
    "grey jpeg": (lambda: encoded(picture()[..., 0], ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100), grey_rgb, 2),
    "progressive jpeg": (
        lambda: encoded(picture(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        picture,
        6,
    ),
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
    assert image_size(tmp_path / "picture") == check_image(tmp_path / "picture") == (WIDTH, HEIGHT)


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
    assert image_size(data) == check_image(data) == (expected.shape[1], expected.shape[0])


def png() -> bytes:
    return encoded(picture(), ".png")


def jpeg() -> bytes:
    return encoded(picture(), ".jpg")


def header_only(width: int, height: int) -> bytes:
    """A PNG whose header alone is true: decoding it would fail, so a refusal came before."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IEND", b"")
    )


def damaged_png() -> bytes:
    data = bytearray(png())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


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


def two_pages() -> bytes:
    ok, data = cv2.imencodemulti(".tiff", [picture(), picture()])
    assert ok
    return data.tobytes()


BAD = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"hello world" * 9, "not an image that keylite reads"),
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
    "png, damaged": (damaged_png, "cannot be decoded"),
    "bmp, half": (lambda: (data := encoded(picture(), ".bmp"))[: len(data) // 2], "truncated"),
    "webp, half": (lambda: (data := encoded(picture(), ".webp"))[: len(data) // 2], "truncated"),
    "tiff, half": (lambda: (data := encoded(picture(), ".tiff"))[: len(data) // 2], "truncated|cannot be decoded"),
    "gif, half": (lambda: gif(1)[:-4], "truncated"),
    "no width": (lambda: header_only(0, 9), "0x9"),
    "animated gif": (lambda: gif(2), "several frames"),
    "animated png": (animated_png, "several frames"),
    "animated webp": (animated_webp, "several frames"),
    "tiff of two pages": (two_pages, "several frames"),
    "too large by its header": (lambda: header_only(20_000, 20_000), "400.0; raise the limit with --max-megapixels"),
    "float tiff": (lambda: encoded(picture()[..., 0].astype(np.float32), ".tiff"), "cannot be decoded"),
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
    with pytest.raises(ValueError, match=f"^{re.escape(str(caught.value))}$"):
        check_image(path)


def test_a_check_refuses_what_reading_refuses() -> None:
    """JPEGs with random damage: what is decoded small tells as much as what is decoded whole."""
    generator, refused = np.random.default_rng(0), 0
    large = cv2.resize(picture(), (83, 61))
    sources = [encoded(large, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, progressive) for progressive in (0, 1)]
    for number in range(60):
        data = bytearray(sources[number % 2])
        for at in generator.integers(2, len(data), 4):
            data[at] = generator.integers(0, 256)
        try:
            height, width = read_image(bytes(data)).shape[:2]
        except ValueError as error:
            refused += 1
            with pytest.raises(ValueError, match=f"^{re.escape(str(error))}$"):
                check_image(bytes(data))
        else:
            assert check_image(bytes(data)) == (width, height)
    assert 5 < refused < 55


def test_a_large_jpeg_is_checked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the usual limit the decoder has limits of its own, on the size that it makes."""
    made = []
    monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    monkeypatch.setattr(images, "_decoded", lambda name, data, flags: made.append(flags) or picture())
    for limit, flags in ((100.0, images.REDUCED[8]), (1e-3, cv2.IMREAD_COLOR_RGB)):
        monkeypatch.setattr(images, "MAX_MEGAPIXELS", limit)
        assert check_image(jpeg(), 100.0) == (WIDTH, HEIGHT)
        assert made[0] == flags
        made.clear()


def test_still_gif_is_read() -> None:
    assert read_image(gif(1)).shape == (1, 1, 3)


def test_megapixel_limit_is_the_caller_s() -> None:
    assert read_image(png(), max_megapixels=WIDTH * HEIGHT / 1e6).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ValueError, match=r"at most 0\.001 megapixels, got 64x48"):
        read_image(png(), max_megapixels=0.001)


def test_truncated_files_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for kind in ("jpeg, half", "png, half", "bmp, half", "webp, half", "gif, half", "text", "empty"):
        with pytest.raises(ValueError):
            read_image(BAD[kind][0]())
    assert capfd.readouterr() == ("", "")


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


# ---- pixels at a fraction of their size


TURNED = {  # EXIF orientation, width and height as stored: whether it may be reduced
    "upright": (1, 203, 101, True),
    "transposed": (5, 203, 101, True),
    "turned": (6, 203, 101, False),  # the blocks that are cut off come first then
    "turned, of whole blocks": (6, 208, 104, True),
    "upside down": (3, 203, 101, False),
    "mirrored, of whole blocks": (2, 208, 104, True),
}


@pytest.mark.parametrize(("orientation", "width", "height", "reducible"), TURNED.values(), ids=TURNED)
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_jpeg_is_decoded_smaller_where_its_pixels_are(
    reduction: int, orientation: int, width: int, height: int, reducible: bool
):
    pillow = pytest.importorskip("PIL.Image")
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    image = np.stack([x, 2 * y, 255 - x], axis=2).clip(0, 255).astype(np.uint8)
    exif = pillow.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    pillow.fromarray(image).save(buffer, "JPEG", quality=95, exif=exif)
    picture = open_image(buffer.getvalue())
    whole, one = picture.pixels()
    found, reduced = picture.pixels(reduction)
    assert picture.shape == whole.shape == ((width, height, 3) if orientation >= 5 else (height, width, 3))
    assert (one, reduced, picture.reducible) == (1, reduction if reducible else 1, reducible)
    if not reducible:
        assert np.array_equal(found, whole)
        return
    height, width = picture.shape[:2]
    sides = -(-width // reduction), -(-height // reduction)
    padded = cv2.copyMakeBorder(whole, 0, -height % reduction, 0, -width % reduction, cv2.BORDER_REPLICATE)
    wanted = cv2.resize(padded, sides, interpolation=cv2.INTER_AREA)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < 1.5


def test_what_is_no_jpeg_is_decoded_whole():
    for source in (png(), np.zeros((40, 60, 3), np.uint8)):
        picture = open_image(source)
        pixels, reduction = picture.pixels(4)
        assert (pixels.shape, reduction) == (picture.shape, 1)


SAMPLINGS = {  # how many px of colour are stored: by how much such a file is decoded smaller where 2 was asked
    "4:4:4": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, 2),
    "4:2:0": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, 2),
    "4:2:2": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422, 1),  # colour would be blurred one way
    "4:4:0": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440, 1),
}


@pytest.mark.parametrize(("sampling", "reduction"), SAMPLINGS.values(), ids=SAMPLINGS)
def test_colour_that_is_stored_uneven_is_decoded_whole(sampling: int, reduction: int) -> None:
    image = np.full((64, 64, 3), 90, np.uint8)
    data = encoded(image, ".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    pixels, found = open_image(data).pixels(2)
    assert found == reduction and pixels.shape == (64 // reduction, 64 // reduction, 3)


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
    assert found.usual
    sooner, four = found.pixels()[0], found.pixels(channels=4)[0]
    monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    np.testing.assert_array_equal(sooner, found.pixels()[0])
    np.testing.assert_array_equal(four[..., :3], sooner)
    assert (four.shape[2], found.pixels(channels=4)[0].shape[2]) == (4, 3)


def test_colours_stored_as_they_are_are_the_same_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    pillow = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    pillow.fromarray(picture()).save(file, "JPEG", keep_rgb=True, quality=95)
    sooner = read_image(file.getvalue())
    monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    np.testing.assert_array_equal(sooner, read_image(file.getvalue()))
    assert np.abs(sooner.astype(int) - picture()).mean() < 2


def test_what_is_not_usual_is_opencv_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "decoded_sooner", lambda *_: pytest.fail("is not for simplejpeg"))
    for data in (jpeg_with_exif(6), encoded(grey_rgb()[..., 0], ".jpg"), encoded(picture(), ".png")):
        assert read_image(data).dtype == np.uint8


def test_a_damaged_jpeg_is_judged_by_opencv() -> None:
    """A byte in the middle: OpenCV makes what it can of it, simplejpeg refuses."""
    data = bytearray(encoded(picture(), ".jpg"))
    middle = data.index(b"\xff\xda") + 100
    data[middle : middle + 2] = b"\xff\x01"
    expected = cv2.imdecode(np.frombuffer(bytes(data), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert expected is not None
    np.testing.assert_array_equal(read_image(bytes(data)), expected)


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
    whole, upper = read_image(data), open_image(data).pixels(rows=rows)[0]
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
        np.testing.assert_array_equal(open_image(data).pixels(rows=8)[0], read_image(data), err_msg=name)


def test_damage_above_the_rows_that_are_wanted_is_as_in_the_whole_file() -> None:
    pytest.importorskip("simplejpeg")
    data = bytearray(encoded(NOISE, ".jpg"))
    start = data.index(b"\xff\xda") + 3000
    data[start : start + 2] = b"\xff\x01"
    np.testing.assert_array_equal(open_image(bytes(data)).pixels(rows=100)[0][:100], read_image(bytes(data))[:100])


UPRIGHT = {  # an EXIF block: whether it says in the usual way that the picture stands upright
    "none": (b"", True),
    "upright": (tiff_block(1), True),
    "turned": (tiff_block(6), False),
    "no next directory": (tiff_block(6)[:-4], False),
    "orientation as a byte": (tiff_block(6).replace(struct.pack("<HH", 274, 3), struct.pack("<HH", 274, 1)), False),
    "more tags than there are": (tiff_block(6).replace(struct.pack("<IH", 8, 1), struct.pack("<IH", 8, 5)), False),
    "no orientation": (tiff_block(6).replace(struct.pack("<H", 274), struct.pack("<H", 270)), False),
}


@pytest.mark.parametrize(("exif", "usual"), UPRIGHT.values(), ids=UPRIGHT)
def test_pictures_that_may_be_turned_are_opencv_s(exif: bytes, usual: bool) -> None:
    data = encoded(picture(), ".jpg")
    payload = b"Exif\0\0" + exif
    marked = data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:] if exif else data
    assert open_image(marked).usual is usual
    expected = cv2.imdecode(np.frombuffer(marked, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(open_image(marked).pixels()[0], expected)


def test_without_simplejpeg_opencv_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    images._simplejpeg.cache_clear()
    try:
        assert images.decoded_sooner(encoded(picture(), ".jpg"), "RGB") is None
        assert np.abs(read_image(encoded(picture(), ".jpg")).astype(int) - picture()).mean() < 5
    finally:
        images._simplejpeg.cache_clear()
