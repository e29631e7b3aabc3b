"""The contact sheet of augmented examples that a run shows before it trains."""

from __future__ import annotations

import cv2
import numpy as np

from keylite.data.examples import Examples
from keylite.runtime.drawing import contact_sheet, draw_points, with_legend

SHEET = 16  # examples on the sheet


def examples_sheet(examples: Examples) -> np.ndarray:
    """A picture of some augmented examples with their points, to look at before a long run."""
    width, height = examples.size
    enlarge = max(1, round(224 / max(width, height)))
    tiles = []
    for index in np.linspace(0, len(examples) - 1, min(SHEET, len(examples))).astype(int):
        pixels, unit_xy, weight = examples[int(index)]
        large = cv2.resize(pixels, (width * enlarge, height * enlarge), interpolation=cv2.INTER_CUBIC)
        xy = np.where(weight[:, None] > 0, unit_xy, np.nan) * (width * enlarge, height * enlarge)
        tiles.append(draw_points(large, xy, examples.data.skeleton))
    return with_legend(contact_sheet(tiles, 4), examples.data.skeleton, points="label")
