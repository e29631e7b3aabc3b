"""Contact sheets of labelled objects: look at them before anything is trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from keylite.runtime.drawing import contact_sheet, draw_points
from keylite.runtime.geometry import crop_box, cut, whole_box
from keylite.runtime.kinds import require_whole

if TYPE_CHECKING:
    from keylite.data.dataset import Dataset

TILE = 256  # longest side of an object's picture, px
COLUMNS = 4
PADDING = 0.25  # by which boxes grow, so that points at their edges are seen


def sheet(data: Dataset, count: int, seed: int) -> np.ndarray:
    """`count` objects, drawn at random with `seed`, in their data set's order; see `Dataset.plot`."""
    require_whole("count", count)
    require_whole("seed", seed, least=0)
    drawn = np.random.default_rng(seed).permutation(len(data))[:count]
    objects = np.sort(drawn).tolist()
    return contact_sheet([_tile(data, i) for i in objects], COLUMNS, [data.sample_name(i) for i in objects])


def _tile(data: Dataset, index: int) -> np.ndarray:
    """One object, TILE px long, with its labelled points."""
    picture = data.open_image(int(data.image_index[index]))
    box, padding = data.box[index], PADDING
    if not np.isfinite(box).all():
        box, padding = whole_box(picture), 0.0
    sides = box[2:] - box[:2]
    width, height = (max(1, math.floor(side)) for side in TILE * sides / sides.max())
    crop = crop_box(box, (width, height), padding)
    (pixels,) = cut(picture, [crop], data.checked)
    return draw_points(pixels, crop.to_crop(data.xy[index]), data.skeleton)
