"""The built-in data set: pictures of analogue gauges, their keypoints, and the reading that these give.

A picture depends on (family, seed, index, size) alone. The two families share no make of dial, needle, lettering, case
or surroundings, so "test" shows gauges that training has not seen.
"""

from __future__ import annotations

import numpy as np

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.rendered.looks import FAMILIES, Family
from keylite.data.rendered.render import Gauge, paint, plan
from keylite.runtime.errors import DataError
from keylite.runtime.kinds import require_whole
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.words import quoted

# It has no mirror pairs: in a mirrored gauge the scale would run backwards, and no real gauge is like that.
SKELETON = Skeleton(
    names=("centre", "needle_tip", "scale_start", "scale_end"), edges=((0, 1), (0, 2), (0, 3)), mirror=None
)
SIZE = 192  # px, side of a picture by default
SMALLEST = 32  # px; in smaller pictures ticks and needle run into each other


def gauges(count: int, family: str = "train", seed: int = 0, size: int = SIZE) -> Dataset:
    """Make the built-in data set: pictures of gauges, one gauge per picture, with four keypoints and a box.

    Picture number i is the same for every `count`, if family, seed, size and the version of OpenCV are the same.

    Args:
        count: The number of pictures, at least 1.
        family: "train" or "test"; the two have no make of dial, needle, lettering, case or surroundings in common.
        seed: Pictures of different seeds differ.
        size: The side of the pictures, px, at least 32.

    Returns:
        The data set, with images uint8 (size, size, 3) RGB in memory. Boxes hold the whole case.

    Raises:
        ArgumentError: `count`, `seed` or `size` is no whole number in its range.
        DataError: The family is not known, or `size` is below 32.

    Example:
        >>> data = keylite.gauges(100)
        >>> test = keylite.gauges(100, "test")
    """
    require_whole("count", count)
    require_whole("seed", seed, least=0)
    require_whole("size", size)
    rendered = [
        _rendered(np.random.default_rng((_stream(family), seed, index)), family, size) for index in range(count)
    ]
    return from_arrays(
        [image for image, _ in rendered],
        np.stack([gauge.points() for _, gauge in rendered]),
        skeleton=SKELETON,
        boxes=np.stack([gauge.box() for _, gauge in rendered]),
        groups=[f"{family} {seed} {index:06d}" for index in range(count)],
        name=f"gauges {family}",
    )


def render_gauge(
    generator: np.random.Generator, family: str = "train", size: int = SIZE
) -> tuple[np.ndarray, np.ndarray, float]:
    """One picture uint8 (size, size, 3) RGB, its keypoints (4, 2) px and the reading that the gauge was set to."""
    image, gauge = _rendered(generator, family, size)
    return image, gauge.points(), gauge.reading


def reading(xy: np.ndarray) -> np.ndarray:
    """The share of full scale (...) that keypoints (..., 4, 2) show: 0 at the start of the scale, 1 at its end.

    It is the clockwise angle about the centre (y is down) from scale start to needle tip, divided by the angle from
    scale start to scale end. A needle in the gap between end and start reads below 0 if it is nearer to the start,
    above 1 if it is nearer to the end. The reading is NaN if a point is NaN, or if an angle is not defined. The angles
    are measured in the picture, so those of a tilted dial are not exact.
    """
    xy = np.asarray(xy, np.float64)
    if xy.shape[-2:] != (4, 2):
        raise DataError(f"xy: expected shape (..., 4, 2): {', '.join(SKELETON.names)}; got {xy.shape}")
    arms = xy[..., 1:, :] - xy[..., :1, :]
    angle = np.arctan2(arms[..., 1], arms[..., 0])
    tip, start, end = angle[..., 0], angle[..., 1], angle[..., 2]
    turn = 2 * np.pi
    span, along = (end - start) % turn, (tip - start) % turn
    along = np.where(along > (span + turn) / 2, along - turn, along)
    known = np.isfinite(arms).all(axis=(-2, -1)) & (arms != 0).any(axis=-1).all(axis=-1) & (span > 0)
    return np.where(known, along, np.nan) / np.where(known, span, 1.0)


def _rendered(generator: np.random.Generator, family: str, size: int) -> tuple[np.ndarray, Gauge]:
    if size < SMALLEST:
        raise DataError(f"size: expected at least {SMALLEST} px, got {size}")
    gauge = plan(generator, _family(family), size)
    return paint(generator, _family(family), gauge), gauge


def _family(name: str) -> Family:
    if not isinstance(name, str) or name not in FAMILIES:
        raise DataError(f"family: expected one of {', '.join(FAMILIES)}, got {quoted(name)}")
    return FAMILIES[name]


def _stream(family: str) -> int:
    """The family's number, which is part of the seed: so equal seeds give the two families different pictures."""
    _family(family)
    return list(FAMILIES).index(family)
