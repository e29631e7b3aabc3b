"""Brightness of pictures: the white level of 16-bit ones, and notes about those that show hardly anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keylite.runtime.images import WHITE_LEVEL, WHITE_LEVELS
from keylite.runtime.types import WhiteLevel
from keylite.runtime.words import first_of

LOOKED_AT = 64  # rows and columns of a picture, evenly spread, from which its tones are measured
BLACK, WHITE = 5, 250  # a picture whose mean (0..255) is below or above these is nearly black or nearly white
CONTRAST = 8  # levels (of 0..255) between the darkest and the brightest sample: with fewer there is little to see
NAMED = 3  # pictures named in a line


class Tones(NamedTuple):
    """A picture's darkest and brightest sample and the mean of its samples, as stored, and the bits per sample."""

    low: int
    high: int
    mean: float
    bits: int


def tones_of(samples: np.ndarray) -> Tones:
    """The tones of uint8 or uint16 (H, W, 3).

    They are measured on a part of the samples, except for the brightest of 16 bits, which gives the white level.
    """
    height, width = samples.shape[:2]
    part = samples[:: -(-height // LOOKED_AT), :: -(-width // LOOKED_AT)]
    high = samples.max() if samples.dtype == np.uint16 else part.max()
    return Tones(int(part.min()), int(high), float(part.mean()), 8 * samples.itemsize)


def white_level_of(tones: Sequence[Tones | None]) -> WhiteLevel:
    """The smallest of WHITE_LEVELS that no 16-bit picture exceeds; None stands for a picture that cannot be read."""
    brightest = max((one.high for one in tones if one and one.bits == 16), default=WHITE_LEVEL)
    return next(level for level in WHITE_LEVELS if brightest <= level)


def tone_notes(
    tones: Sequence[Tones | None], names: Sequence[str], white_level: int, *, given: bool = False
) -> list[str]:
    """Lines about how 16-bit pictures are read, and about pictures that are nearly black, nearly white or flat.

    given: whether the white level comes from elsewhere; if it was found from these pictures, a line says so.
    """
    notes = []
    highest = [one.high for one in tones if one and one.bits == 16]
    brighter = sum(high > white_level for high in highest)
    if highest and white_level != WHITE_LEVEL and not given:
        notes.append(
            f"{len(highest)} of {len(tones)} images hold 16 bits per sample, up to {max(highest)}: "
            f"{white_level} is taken as white"
        )
    if brighter:
        notes.append(f"{brighter} of {len(tones)} images hold samples above {white_level}, which are read as white")
    kinds: dict[str, list[str]] = {
        f"are nearly black (their mean is below {BLACK} of 255)": [],
        f"are nearly white (their mean is above {WHITE} of 255)": [],
        f"have hardly any contrast (fewer than {CONTRAST} of 256 levels)": [],
    }
    black, white, flat = kinds.values()
    for one, name in zip(tones, names, strict=True):
        if one is None:
            continue
        unit = (white_level + 1) / 256 if one.bits == 16 else 1
        if one.mean < BLACK * unit:
            black.append(name)
        elif one.mean > WHITE * unit:
            white.append(name)
        elif one.high - one.low < CONTRAST * unit:
            flat.append(name)
    for kind, pictures in kinds.items():
        if pictures:
            notes.append(f"{len(pictures)} of {len(tones)} images {kind}: {first_of(pictures, NAMED, ', ')}")
    return notes
