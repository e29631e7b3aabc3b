"""How bright pictures are: the white level of 16-bit ones, and those in which hardly anything is to be seen.

Knows nothing of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keylite.runtime.images import WHITE_LEVEL, WHITE_LEVELS
from keylite.runtime.types import WhiteLevel
from keylite.runtime.words import first_of

LOOKED_AT = 64  # rows and columns of a picture, evenly spread, that tell its tones
BLACK, WHITE = 5, 250  # means of 0..255 below and above which a picture is nearly black or white
CONTRAST = 8  # levels of 0..255 between its darkest and brightest sample; with fewer there is little to see
NAMED = 3  # pictures named in a line


class Tones(NamedTuple):
    """Of a picture's samples, as they are stored: the darkest, the brightest and the mean; and of how many bits."""

    low: int
    high: int
    mean: float
    bits: int


def tones_of(samples: np.ndarray) -> Tones:
    """The tones of uint8 or uint16 (H, W, 3). The brightest sample is that of all, the others are of some."""
    height, width = samples.shape[:2]
    some = samples[:: -(-height // LOOKED_AT), :: -(-width // LOOKED_AT)]
    high = samples.max() if samples.dtype == np.uint16 else some.max()
    return Tones(int(some.min()), int(high), float(some.mean()), 8 * samples.itemsize)


def white_level_of(tones: Sequence[Tones | None]) -> WhiteLevel:
    """The least of WHITE_LEVELS that no 16-bit picture is brighter than; None is a picture that cannot be read."""
    brightest = max((one.high for one in tones if one and one.bits == 16), default=WHITE_LEVEL)
    return next(level for level in WHITE_LEVELS if brightest <= level)


def tone_notes(
    tones: Sequence[Tones | None], names: Sequence[str], white_level: int, *, given: bool = False
) -> list[str]:
    """What to say of pictures, a line each: how 16-bit ones are read, and which are nearly black, white or flat.

    given: whether the level was not found from these pictures, and said elsewhere.
    """
    notes = []
    deep = [one for one in tones if one and one.bits == 16]
    brighter = sum(one.high > white_level for one in deep)
    if deep and white_level != WHITE_LEVEL and not given:
        notes.append(
            f"{len(deep)} of {len(tones)} images hold 16 bits a sample, up to {max(one.high for one in deep)}: "
            f"{white_level} is taken as white"
        )
    if brighter:
        notes.append(f"{brighter} of {len(tones)} images hold samples above {white_level}: they are cut off there")
    kinds: dict[str, list[str]] = {
        f"nearly black (their mean is below {BLACK} of 255)": [],
        f"nearly white (their mean is above {WHITE} of 255)": [],
        f"of hardly any contrast (fewer than {CONTRAST} of 256 levels)": [],
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
    for kind, of_kind in kinds.items():
        if of_kind:
            notes.append(f"{len(of_kind)} of {len(tones)} images are {kind}: {first_of(of_kind, NAMED, ', ')}")
    return notes
