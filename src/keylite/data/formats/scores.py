"""How sure a model is of the points that it predicted: what some formats hold beside the points."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

WITHIN = 0.025  # of the box's longer side: likelihood is the chance that the label is nearer


@dataclasses.dataclass(frozen=True)
class Scores:
    """Figures of the predicted points of N objects, K each.

    Attributes:
        score: (N, K): the larger, the surer. NaN if the head gives no score.
        sigma: (N, K): the distance to expect between a point and its label, px. NaN if it is unknown.
        likelihood: (N, K): what `likelihood_of` makes of sigma, 0 to 1. NaN if sigma is.
        model: The name of the model file.
    """

    score: np.ndarray
    sigma: np.ndarray
    likelihood: np.ndarray
    model: str

    def of_object(self, row: int) -> float | None:
        """The mean score of an object's points; None if none has a score."""
        known = self.score[row][np.isfinite(self.score[row])]
        return float(known.mean()) if len(known) else None


def likelihood_of(sigma: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N, K): the chance that the label lies within WITHIN of the box's longer side, 1 - exp(-pi/4 (within / sigma)^2).

    That is the distribution of a distance whose mean is sigma, if both directions have equal normal errors (Rayleigh).
    sigma: (N, K) px. boxes: (N, 4) xyxy px that the crops were cut around.
    """
    within = WITHIN * (boxes[:, 2:] - boxes[:, :2]).max(axis=1)[:, None]
    with np.errstate(divide="ignore", over="ignore"):
        return 1 - np.exp(-math.pi / 4 * (within / sigma) ** 2)


def figure(value: float) -> float | None:
    """A number for JSON, rounded to what a figure is worth; None for NaN."""
    return None if math.isnan(value) else round(float(value), 6)
