"""The numbers that both twins teach heads by; no model file holds them, and no device needs them."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

LossName = Literal["mse", "mae", "huber", "smooth_l1", "wing", "soft_wing"]
LOSSES: tuple[str, ...] = get_args(LossName)


@dataclasses.dataclass(frozen=True)
class Branches:
    """Where a point loss changes its form. Lengths are px of the model input.

    delta: of huber, smooth_l1 and soft_wing (there omega1). width: of wing (w) and soft_wing (omega2). epsilon: the
    curvature of both.
    """

    delta: float = 2.0
    width: float = 10.0
    epsilon: float = 2.0

    def of(self, loss: str) -> float | None:
        """The px at which a loss changes branch; None if it has one branch."""
        return {"huber": self.delta, "smooth_l1": self.delta, "wing": self.width, "soft_wing": self.delta}.get(loss)


LAST_STD = 0.001  # of a regression's initial last weights: its first prediction is the mean shape, nearly

# heatmap
CELL_SIGMA = 1.2  # cells: width of the bell that a map is taught

# simcc
BIN_SIGMA = 2.0  # px of the input: width of the bells that bins are taught

# rle
SCALE_START = math.log(0.05)  # the logarithms of scales that an untrained head gives, in units of the crop
LOG_SCALES = (-8.0, 2.0)  # the loss takes logarithms of scales between these
FLOW_LAYERS = 6  # couplings of the flow (Li et al., ICCV 2021, take 6)
FLOW_WIDTH = 64  # hidden width of a coupling (there, 64 as well)
FLOW_START = 0.01  # gain of the flow's first weights: it begins as the identity, nearly
