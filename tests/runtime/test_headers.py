"""What an image file says of itself; what readers make of it is tests/runtime/test_images.py's."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from keylite.runtime.headers import FORMATS, Header, kind_of, read_header, upright_size

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WebP": ".webp", "TIFF": ".tiff"}


def encoded(suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, PIXELS, list(options))[1].tobytes()


def test_every_format_has_a_file_here():
    assert SUFFIXES.keys() == FORMATS.keys()


@pytest.mark.parametrize(("kind", "suffix"), SUFFIXES.items())
def test_kind_and_size_are_read_from_the_header(kind: str, suffix: str):
    data = encoded(suffix)
    header = read_header("name", data)
    assert kind_of(data) == kind
    assert (header.width, header.height, header.frames) == (50, 30, 1)
    assert (header.components, header.height_offset > 0) == ((3, True) if kind == "JPEG" else (0, False))


@pytest.mark.parametrize(("kind", "suffix"), SUFFIXES.items())
def test_a_file_that_is_cut_within_its_header_is_refused(kind: str, suffix: str):
    with pytest.raises(ValueError, match=rf"^name: the {kind} file is truncated or damaged \(14 bytes\)$"):
        read_header("name", encoded(suffix)[:14])


def test_what_is_no_picture_is_told_the_kinds_that_are_read():
    kinds = "name.txt: not an image that keylite reads (JPEG, PNG, GIF, BMP, WebP, TIFF)"
    for data, more in ((b"hello", ""), (b"%PDF-1.7", ": it is PDF; convert it to JPEG or PNG")):
        with pytest.raises(ValueError) as caught:
            read_header("name.txt", data)
        assert str(caught.value) == kinds + more


def test_where_a_sequential_jpeg_says_its_height():
    data = encoded(".jpg")
    at = read_header("name", data).height_offset
    assert int.from_bytes(data[at : at + 2], "big") == 30
    assert int.from_bytes(data[at + 2 : at + 4], "big") == 50
    assert read_header("name", encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)).height_offset == 0


def test_a_turned_picture_exchanges_its_sides():
    assert upright_size(Header(50, 30, orientation=6)) == (30, 50)
    assert upright_size(Header(50, 30)) == upright_size(Header(50, 30, orientation=9)) == (50, 30)


# ---- a PNG whose checksums are right and whose chunks are not


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    whole = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"".join([b"\x89PNG\r\n\x1a\n", *whole])


def head(depth: int = 8, colours: int = 2, *methods: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", 4, 3, depth, colours, *(methods or (0, 0, 0)))


ROWS = (b"IDAT", zlib.compress(bytes(3 * 13)))
PALETTE, END, TEXT = (b"PLTE", bytes(6)), (b"IEND", b""), (b"tEXt", b"a\0b")
CHUNKS = {  # name: (chunks, whether it is whole)
    "usual": ((head(), ROWS, END), True),
    "pixels in two chunks": ((head(), ROWS, ROWS, END), True),
    "pixels in 10,001 chunks": ((head(), *[ROWS] * 10_001, END), True),
    "10,000 chunks beside the pixels": ((head(), *[TEXT] * 9998, ROWS, END), True),
    "10,001 chunks beside the pixels": ((head(), *[TEXT] * 9999, ROWS, END), False),
    "a text between": ((head(), TEXT, ROWS, TEXT, END), True),
    "interlaced": ((head(8, 2, 0, 0, 1), ROWS, END), True),
    "a palette": ((head(2, 3), PALETTE, ROWS, END), True),
    "colours, with a palette that they suggest": ((head(), PALETTE, ROWS, END), True),
    "16 bits grey": ((head(16, 0), ROWS, END), True),
    "no such type of colour": ((head(8, 5), ROWS, END), False),
    "no such depth": ((head(4, 2), ROWS, END), False),
    "no such compression": ((head(8, 2, 1, 0, 0), ROWS, END), False),
    "no such filter": ((head(8, 2, 0, 64, 0), ROWS, END), False),
    "no such interlacing": ((head(8, 2, 0, 0, 2), ROWS, END), False),
    "two headers": ((head(), head(), ROWS, END), False),
    "two palettes": ((head(8, 3), PALETTE, PALETTE, ROWS, END), False),
    "a header after the pixels": ((head(), ROWS, head(), END), False),
    "no palette": ((head(8, 3), ROWS, END), False),
    "a palette for greys": ((head(8, 0), PALETTE, ROWS, END), False),
    "a palette after the pixels": ((head(8, 3), ROWS, PALETTE, END), False),
    "a palette on both sides of a header": ((head(), PALETTE, head(), PALETTE, ROWS, END), False),
    "no pixels": ((head(), END), False),
    "pixels on both sides of a palette": ((head(), ROWS, PALETTE, ROWS, END), False),
}


PNG_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}  # table 11.1 of the standard


def test_the_depths_of_a_png_are_those_of_its_type_of_colour():
    for colours in range(8):
        for depth in range(18):
            data = png(head(depth, colours), *[PALETTE] * (colours == 3), ROWS, END)
            if depth in PNG_DEPTHS.get(colours, ()):
                assert read_header("name", data).depth == depth
            else:
                with pytest.raises(ValueError, match="truncated or damaged"):
                    read_header("name", data)


@pytest.mark.parametrize("name", CHUNKS)
def test_a_png_is_whole_only_with_its_chunks_in_order(name: str):
    chunks, whole = CHUNKS[name]
    if whole:
        assert upright_size(read_header("name", png(*chunks))) == (4, 3)
    else:
        with pytest.raises(ValueError, match="truncated or damaged"):
            read_header("name", png(*chunks))


# ---- how a JPEG is made of segments

SMOOTH = cv2.GaussianBlur(PIXELS, (5, 5), 0)


def jpeg(*options: int, pixels: np.ndarray = SMOOTH) -> bytes:
    return cv2.imencode(".jpg", pixels, list(options))[1].tobytes()


def scan_start(data: bytes) -> int:
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def without_a_restart() -> bytes:
    data = jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 1)
    at = data.index(b"\xff\xd2")
    return data[:at] + data[data.index(b"\xff\xd3") :]


def exchanged_restarts() -> bytes:
    data = jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 1)
    return data.replace(b"\xff\xd1", b"\xff\xd9").replace(b"\xff\xd0", b"\xff\xd1").replace(b"\xff\xd9", b"\xff\xd0", 1)


def of_many_segments() -> bytes:
    return jpeg()[:2] + b"\xff\xfe\0\2" * 10_000 + jpeg()[2:]


def larger_than_its_data() -> bytes:
    data = jpeg()
    at = read_header("name", data).height_offset
    return data[:at] + struct.pack(">HH", 9000, 9000) + data[at + 4 :]


DAMAGED = {
    "half a file, then a whole one": lambda: jpeg()[: len(jpeg()) * 3 // 4] + jpeg(),
    "a restart and what follows it is missing": without_a_restart,
    "restarts in another order": exchanged_restarts,
    "no data for its size": larger_than_its_data,
    "its size twice": lambda: jpeg().replace(b"\xff\xda", jpeg()[jpeg().index(b"\xff\xc0") :][:19] + b"\xff\xda", 1),
    "an end before the pixels": lambda: jpeg()[:2] + b"\xff\xd9" + jpeg()[2:],
    "too many segments": of_many_segments,
    "a scan of a component that is not there": lambda: (
        jpeg()[: scan_start(jpeg()) - 9] + b"\x09" + jpeg()[scan_start(jpeg()) - 8 :]
    ),
}


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED)
def test_a_jpeg_whose_segments_do_not_fit_is_damaged(make):
    with pytest.raises(ValueError, match=r"^name: the JPEG file is truncated or damaged \(\d+ bytes\)$"):
        read_header("name", make())


def between_scans(segments: bytes) -> bytes:
    data = jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = data.rindex(b"\xff\xda")
    return data[:last] + segments + data[last:]


@pytest.mark.parametrize("marker", range(0xC0, 0xFF))
def test_what_may_stand_between_the_scans_of_a_jpeg(marker: int):
    """Tables, restart intervals, how many rows there are, what programs add; not what comes once and first."""
    if 0xD0 <= marker <= 0xD9:
        return  # restart markers, beginning and end, which have no length
    data = between_scans(bytes([0xFF, marker]) + b"\0\4\0\0" * (marker != 0xDA))
    if marker in {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}:
        assert read_header("name", data).width == 50
    else:
        with pytest.raises(ValueError, match="truncated or damaged"):
            read_header("name", data)


def test_what_no_pixel_of_a_jpeg_needs_is_told():
    """All that programs add but two: JFIF 1, and Adobe's segment of how colour is stored."""
    start, data = jpeg()[:20], jpeg()
    assert data[:11] == b"\xff\xd8\xff\xe0\0\x10JFIF\0" and data[20] == 0xFF
    added = [bytes([0xFF, marker]) + b"\0\3x" for marker in (0xE0, 0xE1, 0xE7, 0xED, 0xEE, 0xEF, 0xFE)]
    header = read_header("name", start + b"".join(added) + data[20:])
    told = [range(20 + 5 * number, 25 + 5 * number) for number in range(7) if added[number][1] != 0xEE]
    assert header.extras == tuple((one.start, one.stop) for one in told)
    assert read_header("name", data).extras == ()


WHOLE = {
    "bytes after the end": lambda: jpeg() + b"\0\xff\xd8 a thumbnail \xff\xd9",
    "stray bytes between segments": lambda: jpeg()[:20] + b"\0\0" + jpeg()[20:],
    "fill bytes before a marker": lambda: jpeg()[:20] + b"\xff\xff" + jpeg()[20:],
    "fill bytes before the end": lambda: jpeg()[:-2] + b"\xff\xff" + jpeg()[-2:],
    "a restart too many at the end": lambda: (
        (data := jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 2, pixels=SMOOTH[:16, :32]))[:-2] + b"\xff\xd0" + data[-2:]
    ),
    "progressive": lambda: jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "progressive with restarts": lambda: jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "4:2:0 of odd sides, with restarts": lambda: jpeg(
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        cv2.IMWRITE_JPEG_RST_INTERVAL,
        1,
        pixels=SMOOTH[:29, :49],
    ),
    **{
        f"{name} with restarts{', progressive' * progressive}": lambda factor=factor, progressive=progressive: jpeg(
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor),
            *(cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
            *(cv2.IMWRITE_JPEG_PROGRESSIVE, progressive),
            pixels=SMOOTH[:25, :49],
        )
        for name, factor in (
            ("4:2:2", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
            ("4:4:0", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
            ("4:1:1", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
        )
        for progressive in (0, 1)
    },
    "grey with restarts": lambda: jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 1, pixels=SMOOTH[..., 0]),
}


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_a_jpeg_of_rare_segments_is_whole(make):
    assert read_header("name", make()).width > 30


def with_scans(scans: int, side: int) -> bytes:
    """A progressive JPEG of so many scans: its last, which refines a band, is there again and again."""
    data = jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1, pixels=np.zeros((16, 16), np.uint8))
    at = data.index(b"\xff\xc2") + 5
    data = data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans + 1 - data.count(b"\xff\xda")) + data[-2:]


SLOW = {  # scans, px of a side: whether it is refused
    "as many as a picture of any size may have": (20, 9000, False),
    "one more": (21, 9000, True),
    "as many as one of 4 megapixels may have": (250, 2000, False),
    "one more of 4 megapixels": (251, 2000, True),
    "as many as a small one may have": (500, 16, False),
    "one more of a small one": (501, 16, True),
}


@pytest.mark.parametrize(("scans", "side", "refused"), SLOW.values(), ids=SLOW)
def test_the_scans_of_a_jpeg_are_bounded(scans: int, side: int, refused: bool):
    data = with_scans(scans, side)
    if not refused:
        assert read_header("name", data).width == side
        return
    words = rf"^name: a JPEG of {side}x{side} px in {scans} scans takes too long to decode; save it anew$"
    with pytest.raises(ValueError, match=words):
        read_header("name", data)


# ---- TIFF


def tiff(*tags: tuple[int, int, int, int], after: bytes = b"") -> bytes:
    """A directory of tags (tag, type, count, value), and nothing else."""
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + struct.pack("<I", 0) + after


SIDES = ((256, 3, 1, 50), (257, 3, 1, 30))


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ((339, 3, 1, 3), "expected whole numbers of 8 or 16 bits, got a TIFF of 16-bit floating-point numbers; scale"),
        ((339, 3, 1, 2), "got a TIFF of 16-bit signed numbers"),
        ((258, 3, 1, 32), "expected a picture of 8 or 16 bits per sample, got a TIFF file of 32; save it anew"),
    ],
)
def test_a_tiff_of_other_numbers_is_refused(tag: tuple[int, int, int, int], words: str):
    tags = SIDES + (() if tag[0] == 258 else ((258, 3, 1, 16),)) + (tag,)
    with pytest.raises(ValueError, match=words):
        read_header("name", tiff(*tags))


def test_a_picture_without_a_side_is_damaged():
    for sides in ((0, 30), (50, 0)):
        with pytest.raises(
            ValueError, match=f"^name: the TIFF header says {sides[0]}x{sides[1]} pixels: it is damaged"
        ):
            read_header("name", tiff((256, 3, 1, sides[0]), (257, 3, 1, sides[1])))


def test_the_depth_of_a_tiff_in_colour_lies_elsewhere():
    tags = (*SIDES, (258, 3, 3, 8 + 2 + 12 * 3 + 4))
    assert read_header("name", tiff(*tags, after=struct.pack("<HHH", 16, 16, 16))).depth == 16


def test_many_directories_are_damage():
    directory = struct.pack("<H", 1) + struct.pack("<HHII", 254, 4, 1, 1)
    count = 200
    offsets = [8 + 18 * (number + 1) for number in range(count - 1)] + [0]
    data = b"II*\0" + struct.pack("<I", 8) + b"".join(directory + struct.pack("<I", at) for at in offsets)
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_header("name", data)
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_header("name", tiff(*[(1000 + n, 3, 1, 0) for n in range(1001)]))
