"""The built-in data set: pictures of analogue gauges with their keypoints, and the reading that those give.

Every picture is made from (family, seed, index) alone. The two families share no make of dial, needle, lettering, case
or surroundings, so "test" measures gauges that training has not seen. Knows nothing of the paint
(gauge_render.py), files or training.
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

# No mirror: in a mirrored gauge the scale would run backwards, and no gauge does.
SKELETON = Skeleton(
    names=("centre", "needle_tip", "scale_start", "scale_end"), edges=((0, 1), (0, 2), (0, 3)), mirror=None
)
SIZE = 192  # px, side of a picture unless told
SMALLEST = 32  # px, below it ticks and needle run into each other


def gauges(count: int, family: str = "train", seed: int = 0, size: int = SIZE) -> Dataset:
    """`count` pictures of gauges in memory, uint8 (size, size, 3) RGB, one gauge each.

    Boxes hold the whole case. Picture i is the same in every data set of that family, seed and size, whatever `count`
    is, under one version of OpenCV. Raises ValueError for an unknown family, a count below 1 or a size below 32.
    """
    require_whole("count", count)
    require_whole("seed", seed, least=0)
    require_whole("size", size)
    made = [_made(np.random.default_rng((_stream(family), seed, index)), family, size) for index in range(count)]
    return from_arrays(
        [image for image, _ in made],
        np.stack([gauge.points() for _, gauge in made]),
        skeleton=SKELETON,
        boxes=np.stack([gauge.box() for _, gauge in made]),
        groups=[f"{family} {seed} {index:06d}" for index in range(count)],
        name=f"gauges {family}",
    )


def render_gauge(
    generator: np.random.Generator, family: str = "train", size: int = SIZE
) -> tuple[np.ndarray, np.ndarray, float]:
    """One picture uint8 (size, size, 3) RGB, its keypoints (4, 2) px and the reading that the gauge was set to."""
    image, gauge = _made(generator, family, size)
    return image, gauge.points(), gauge.reading


def reading(xy: np.ndarray) -> np.ndarray:
    """The share of full scale that keypoints (..., 4, 2) show, (...).

    It is the clockwise angle (y down) from scale start to needle tip over that from scale start to scale end, both
    about the centre. In the gap between end and start the nearer end counts: a needle below the start reads under 0,
    one past the end over 1; nothing is clamped. NaN where a point is NaN or a direction has no length or the scale no
    angle. Angles are those of the picture: under a tilt they are not quite the dial's.
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


def _made(generator: np.random.Generator, family: str, size: int) -> tuple[np.ndarray, Gauge]:
    if size < SMALLEST:
        raise DataError(f"size: expected at least {SMALLEST} px, got {size}")
    gauge = plan(generator, _family(family), size)
    return paint(generator, _family(family), gauge), gauge


def _family(name: str) -> Family:
    if not isinstance(name, str) or name not in FAMILIES:
        raise DataError(f"family: expected one of {', '.join(FAMILIES)}, got {quoted(name)}")
    return FAMILIES[name]


def _stream(family: str) -> int:
    """A number of its own for each family, so that equal seeds share no picture's geometry."""
    _family(family)
    return list(FAMILIES).index(family)
