"""Finding pictures that show the same: equal in all pixels, or copies in another size, quality or brightness.

Of each picture a hash of its pixels and a small grey version are kept, which are made when it is decoded anyway. Two
pictures are nearly equal if their small versions correlate, so brightness and contrast do not count.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import cv2
import numpy as np

SIDE = 16  # px of the small version
SAMPLED = 128  # samples of a picture, across and down, that are averaged to the small version
NEARLY = 0.005  # 1 - correlation below which pictures are nearly equal; docs/data-formats.md has the figures
FLAT = 2.0  # grey levels: a small version with a smaller standard deviation shows nothing that could be compared
DIRECTIONS = 64  # principal directions of the small versions, along which the nearest one is looked for
TRIES = 8  # pictures nearest along these directions whose whole small versions are compared
SAMPLE = 10_000  # small versions from which the directions are computed
BLOCK = 512  # pictures that are compared with others at once
WORDS = 499  # sums of 64-bit words; a prime number, so that rows of a picture do not add up in the same sums
LIKENESS = np.dtype([("pixels", "<u8"), ("small", "u1", (SIDE, SIDE))])


class Alike(NamedTuple):
    """For each of N pictures another picture that shows the same.

    Attributes:
        other: (N,) int64, the number of the other picture; -1 if there is none.
        equal: (N,) bool, whether the two are equal pixel for pixel.
    """

    other: np.ndarray
    equal: np.ndarray


def likeness_of(image: np.ndarray) -> np.ndarray:
    """The LIKENESS of a picture, uint8 (H, W, 3) RGB: the hash and the small version by which it is compared."""
    size = (SAMPLED, SAMPLED)
    if image.shape[0] * image.shape[1] <= 4 * SAMPLED**2:  # grey first is faster, and the same except for rounding
        sampled = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_LINEAR)
    else:
        sampled = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(sampled, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.array((_hash(image, small), small), LIKENESS)


def _hash(image: np.ndarray, small: np.ndarray) -> int:
    """A hash, 64 bits, of the size, the small version and all pixels.

    Pixels are added up as 64-bit words, every WORDS-th word in one sum, and the sums are hashed: to hash all pixels
    would take as long as decoding.
    """
    data = np.ascontiguousarray(image).reshape(-1)
    words = data[: data.size // 8 * 8].view(np.uint64)
    whole = len(words) // WORDS * WORDS
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=8)
    digest.update(small.data)
    digest.update(np.add.reduce(words[:whole].reshape(-1, WORDS), axis=0).data)
    digest.update(data[8 * whole :].data)
    return int.from_bytes(digest.digest(), "little")


def alike(
    pictures: np.ndarray,
    others: np.ndarray | None = None,
    parts: np.ndarray | None = None,
) -> Alike:
    """For each of N pictures another one that shows the same: an equal one if there is one, else the nearest.

    pictures, others: LIKENESS arrays. Without others, the pictures are compared among themselves, each only with those
    of another part. parts: (N,) whole numbers, the part of each picture; None: each is a part of its own.
    """
    if others is None:
        others, parts = pictures, np.arange(len(pictures)) if parts is None else parts
    other = _nearest(pictures, others, parts)
    equal = np.zeros(len(pictures), bool)
    known: dict[int, list[int]] = {}  # hash -> a picture, and another one from another part
    for number, key in enumerate(others["pixels"].tolist()):
        entries = known.setdefault(key, [number])
        if parts is not None and len(entries) == 1 and parts[number] != parts[entries[0]]:
            entries.append(number)
    for number, key in enumerate(pictures["pixels"].tolist()):
        for entry in known.get(key, ()):
            if parts is None or parts[entry] != parts[number]:
                other[number], equal[number] = entry, True
                break
    return Alike(other, equal)


def alike_to(pictures: np.ndarray, one: np.ndarray) -> np.ndarray:
    """(N,) bool: which of N pictures show the same as one picture. pictures, one: LIKENESS, (N,) and a single one."""
    found = pictures["pixels"] == one["pixels"]
    rows = _varied(pictures)
    if len(_varied(one[None])):
        found[rows] |= _normalised(pictures["small"][rows]) @ _normalised(one["small"][None])[0] >= 1 - NEARLY
    return found


def small_vectors(pictures: np.ndarray) -> np.ndarray:
    """(N, SIDE^2) float32: how pictures look, whatever their brightness and contrast; 0 for those that show nothing."""
    vectors = np.zeros((len(pictures), SIDE * SIDE), np.float32)
    rows = _varied(pictures)
    vectors[rows] = _normalised(pictures["small"][rows])
    return vectors


def _nearest(pictures: np.ndarray, others: np.ndarray, parts: np.ndarray | None) -> np.ndarray:
    """(N,) the number of the nearest of the nearly equal pictures, -1 if there is none.

    All pictures are sorted along the direction in which they vary most; only those that are near enough along it are
    compared, in blocks.
    """
    nearest = np.full(len(pictures), -1)
    mine, theirs = _varied(pictures), _varied(others)
    if len(mine) == 0 or len(theirs) == 0:
        return nearest
    every = max(1, len(theirs) // SAMPLE)
    sample = _normalised(others["small"][theirs[::every]])
    _, axes = np.linalg.eigh(sample.T @ sample)
    axes = axes[:, ::-1][:, :DIRECTIONS]
    own, far = _along(pictures, mine, axes), _along(others, theirs, axes)
    mine, own = _sorted(mine, own)
    theirs, far = _sorted(theirs, far)
    reach = float(np.sqrt(2 * NEARLY)) + 1e-4  # the distance between unit vectors that correlate by 1 - NEARLY
    lengths = np.einsum("nd,nd->n", far, far)
    for start in range(0, len(mine), BLOCK):
        block, rows = own[start : start + BLOCK], mine[start : start + BLOCK]
        low = np.searchsorted(far[:, 0], block[0, 0] - reach)
        high = np.searchsorted(far[:, 0], block[-1, 0] + reach)
        if low == high:
            continue
        apart = lengths[low:high] - 2 * (block @ far[low:high].T)  # the squared distance, less the picture's own length
        if parts is not None:
            apart[parts[rows][:, None] == parts[theirs[low:high]]] = np.inf
        apart += np.einsum("nd,nd->n", block, block)[:, None]
        open_rows = np.arange(len(block))
        for _ in range(TRIES):
            closest = np.argmin(apart[open_rows], axis=1)
            near = apart[open_rows, closest] <= reach**2
            open_rows, closest = open_rows[near], closest[near]
            if len(open_rows) == 0:
                break
            at = theirs[low + closest]
            a, b = _normalised(pictures["small"][rows[open_rows]]), _normalised(others["small"][at])
            sure = np.einsum("nd,nd->n", a, b) >= 1 - NEARLY
            nearest[rows[open_rows[sure]]] = at[sure]
            apart[open_rows, closest] = np.inf
            open_rows = open_rows[~sure]
    return nearest


def _varied(pictures: np.ndarray) -> np.ndarray:
    """The numbers of the pictures that are not FLAT."""
    return np.flatnonzero(pictures["small"].std(axis=(1, 2)) >= FLAT)


def _normalised(small: np.ndarray) -> np.ndarray:
    """The small versions as (n, SIDE^2) float32, each with mean 0 and length 1."""
    values = small.reshape(len(small), SIDE * SIDE).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _along(pictures: np.ndarray, numbers: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(n, DIRECTIONS) float32: the small versions along the axes; SAMPLE at a time, because floats take much memory."""
    pieces = [_normalised(pictures["small"][numbers[at : at + SAMPLE]]) @ axes for at in range(0, len(numbers), SAMPLE)]
    return np.concatenate(pieces)


def _sorted(numbers: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in the order of the first column of `values`."""
    order = np.argsort(values[:, 0], kind="stable")
    return numbers[order], values[order]
