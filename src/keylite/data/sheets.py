"""Contact sheets: pictures of several labelled objects, to look at before training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keylite.runtime.drawing import contact_sheet, draw_points, with_legend
from keylite.runtime.geometry import crop_box, cut, whole_box
from keylite.runtime.images import Picture
from keylite.runtime.skeleton import Skeleton

TILE = 256  # longest side of an object's picture, px
COLUMNS = 4
PADDING = 0.25  # the fraction by which boxes grow, so that points at their edges are seen


class Shown(NamedTuple):
    """An object to show.

    Attributes:
        picture: Its image.
        box: (4,) xyxy, image px; NaN if the object has no box.
        xy: (K, 2) image px, NaN for an unlabelled point.
        name: The caption.
        checked: Whether the whole image was read before without an error; see `cut`.
    """

    picture: Picture
    box: np.ndarray
    xy: np.ndarray
    name: str
    checked: bool


def sheet(objects: Sequence[Shown], skeleton: Skeleton) -> np.ndarray:
    """The objects in rows of COLUMNS, uint8 (H, W, 3) RGB; see `Dataset.plot`."""
    tiles = [tile(shown, skeleton) for shown in objects]
    return with_legend(contact_sheet(tiles, COLUMNS, [shown.name for shown in objects]), skeleton, points="label")


def tile(shown: Shown, skeleton: Skeleton) -> np.ndarray:
    """One object with its labelled points; the longer side has TILE px."""
    box, padding = shown.box, PADDING
    if not np.isfinite(box).all():
        box, padding = whole_box(shown.picture), 0.0
    sides = box[2:] - box[:2]
    width, height = (max(1, math.floor(side)) for side in TILE * sides / sides.max())
    crop = crop_box(box, (width, height), padding)
    (pixels,) = cut(shown.picture, [crop], shown.checked)
    return draw_points(pixels, crop.to_crop(shown.xy), skeleton)
