"""Cases of damaged pictures: bytes, header fields, markers, turns, splices; and what accepted ones must still hold."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, Outcome
from damage import mutate_bytes, mutate_number, spliced

HEAD = 700  # bytes at a file's begin that hold most of its headers
VISIBLE = 24  # grey levels of 255: a picture whose worst 8x8 block differs by more, on average, is visibly another


def jpeg_markers(data: bytes) -> list[tuple[int, int]]:
    """(where, length with its two bytes) of each segment up to the first scan."""
    found, at = [], 2
    while at + 4 < len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((at, length))
        at += length
    return [*found, (at, 14)]


def damaged_jpeg(rng: random.Random, data: bytes) -> bytes:
    """A JPEG with a segment changed, left out, repeated or moved, or with damage in its scan."""
    segments = jpeg_markers(data)
    at, length = rng.choice(segments)
    kind = rng.randrange(9)
    if kind == 0:
        return data[:at] + data[at + length :]
    if kind == 1:
        return data[:at] + data[at : at + length] * rng.choice((2, 50, 2000)) + data[at + length :]
    if kind == 2:
        return mutate_number(rng, data, at + 2, 2, "big")
    if kind == 3:
        return mutate_number(rng, data, at + rng.randrange(min(length, 40)), rng.choice((1, 2)), "big")
    if kind == 4:
        return mutate_number(rng, data, at + 1, 1, "big")
    start = segments[-1][0] + segments[-1][1]
    if kind == 5:  # the middle is lost, the end is there
        cut = rng.randrange(start, len(data))
        return data[:cut] + rng.choice((b"\xff\xd9", b"\xff\xd9" * 3, data[: len(data) // 2] + b"\xff\xd9"))
    if kind == 6:  # scans once more: a progressive bomb, a small one
        scan = data.rfind(b"\xff\xda")
        return data[:-2] + data[scan:-2] * rng.choice((1, 10, 300)) + b"\xff\xd9"
    return mutate_bytes(rng, data, rng.choice((1, 1, 2, 20)), start, len(data))


def damaged_png(rng: random.Random, data: bytes) -> bytes:
    """A PNG with a chunk changed (its checksum made right, or not), left out, repeated or moved."""
    import zlib

    chunks, at = [], 8
    while at < len(data):
        length = 12 + int.from_bytes(data[at : at + 4], "big")
        chunks.append(data[at : at + length])
        at += length
    i = rng.randrange(len(chunks))
    kind = rng.randrange(5)
    if kind == 0:
        del chunks[i]
    elif kind == 1:
        chunks.insert(rng.randrange(len(chunks)), chunks[i])
    elif kind == 2:
        body = mutate_bytes(rng, chunks[i][4:-4], 1, 0 if rng.random() < 0.1 else 4)
        chunks[i] = (len(body) - 4 & 0xFFFFFFFF).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    elif kind == 3:
        body = mutate_number(rng, chunks[0][4:-4], rng.choice((4, 8, 12, 13, 14, 15, 16)), rng.choice((1, 4)), "big")[
            :17
        ]
        chunks[0] = (13).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    else:
        chunks[i] = mutate_number(rng, chunks[i], 0, 4, "big")
    return data[:8] + b"".join(chunks)


SPECIAL = {".jpg": damaged_jpeg, ".png": damaged_png}


def damaged_picture(rng: random.Random, name: str, seeds: Path) -> bytes:
    folder = seeds / "pictures"
    data = (folder / name).read_bytes()
    chance = rng.random()
    if chance < 0.05:
        return spliced(rng, data, (folder / rng.choice(_names(seeds))).read_bytes())
    if chance < 0.15:
        return data[: rng.randrange(len(data))] + rng.choice((b"", b"\x00" * 100, data[-12:]))
    if chance < 0.45:
        return mutate_bytes(rng, data, rng.choice((1, 1, 2, 5)))
    if (special := SPECIAL.get(Path(name).suffix)) and chance < 0.8:
        return special(rng, data)
    at = rng.randrange(min(HEAD, len(data) - 4)) if rng.random() < 0.7 else rng.randrange(len(data) - 4)
    return mutate_number(rng, data, at, rng.choice((1, 2, 4)), rng.choice(("little", "big")))


def _names(seeds: Path) -> list[str]:
    return sorted(path.name for path in (seeds / "pictures").iterdir())


def pictures(rng: random.Random, seeds: Path, folder: Path) -> Case:
    """A damaged picture, in `predict`; accepted, its sizes and pixels agree on every road."""
    name = rng.choice(_names(seeds))
    damaged, good = folder / f"photo{Path(name).suffix}", seeds / "pictures" / name
    data = damaged_picture(rng, name, seeds)
    damaged.write_bytes(data)
    model = str(seeds / "models" / "whole.onnx")

    def check(_: Outcome) -> tuple[list[str], dict[str, Any]]:
        return accepted(damaged, good, data)

    flags = ["--out", "out.json"] + ["--draw", "drawn"] * (rng.random() < 0.1)
    usual = ["predict", model, str(good), "--out", "out.json"]
    return Case(["predict", model, damaged.name, *flags], usual, ("out.json", "drawn"), check, f"{good.suffix[1:]}")


def accepted(path: Path, good: Path, data: bytes) -> tuple[list[str], dict[str, Any]]:
    """Faults of an accepted picture: a size or pixels that depend on the road; and how far it is from the good one.

    Figures: "same" pixels, "near" (no block of 8x8 differs visibly), "visible" (another picture), "size" (another size).
    """
    from keylite.runtime.images import image_size, read_image

    faults = []
    by_path = read_image(path)
    if image_size(path) != by_path.shape[1::-1]:
        faults.append(f"size: image_size says {image_size(path)}, the pixels are {by_path.shape[1::-1]}")
    if not np.array_equal(by_path, read_image(path.read_bytes())):
        faults.append("pixels: path and bytes give other pixels")
    usual = read_image(good)
    if data == good.read_bytes():
        return faults, {"accepted": "unchanged"}
    if by_path.shape != usual.shape:
        return faults, {"accepted": "size"}
    off = np.abs(by_path.astype(np.int16) - usual).mean(axis=2)
    height, width = (side // 8 * 8 for side in off.shape)
    worst = off[:height, :width].reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3)).max()
    return faults, {"accepted": "same" if off.max() == 0 else "near" if worst <= VISIBLE else "visible"}
