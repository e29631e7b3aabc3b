"""The constants of the losses and of the heads' first weights, for both twins; no model file holds them."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

LossName = Literal["mse", "mae", "huber", "smooth_l1", "wing", "soft_wing"]
LOSSES: tuple[str, ...] = get_args(LossName)


@dataclasses.dataclass(frozen=True)
class Branches:
    """The errors at which a point loss changes its formula, in px of the model input.

    delta: for huber, smooth_l1 and soft_wing (omega1 in its paper). width: w of wing, omega2 of soft_wing. epsilon: the
    curvature of wing and soft_wing.
    """

    delta: float = 2.0
    width: float = 10.0
    epsilon: float = 2.0

    def of(self, loss: str) -> float | None:
        """The error in px at which this loss changes branch; None if it has one branch."""
        return {"huber": self.delta, "smooth_l1": self.delta, "wing": self.width, "soft_wing": self.delta}.get(loss)


LAST_STD = 0.001  # deviation of the last layer's first weights in regression and rle: they begin near the mean shape

# heatmap
CELL_SIGMA = 1.2  # cells; sigma of the bell that a map is trained to

# simcc
BIN_SIGMA = 2.0  # px of the input; sigma of the bells that bins are trained to

# rle
# the logarithm of each scale that an untrained head gives; scales are fractions of the crop
SCALE_START = math.log(0.05)
LOG_SCALES = (-8.0, 2.0)  # the loss limits the logarithms of scales to this range
FLOW_LAYERS = 6  # couplings of the flow, as in Li et al., ICCV 2021
FLOW_WIDTH = 64  # hidden width of a coupling, as there
FLOW_START = 0.01  # gain of the flow's first weights: the flow begins near the identity
