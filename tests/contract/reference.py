"""Numpy's figures for every loss, from the papers alone, for both frameworks: point losses and what a head is trained with."""

from __future__ import annotations

import math

import numpy as np

from keylite.runtime.heads import STRIDE, Heatmap

SIZE = (128, 96)  # px of the model input
DELTA, WIDTH, EPSILON = 1.5, 10.0, 2.0
THRESHOLDS = {"delta": DELTA, "width": WIDTH, "epsilon": EPSILON}  # px
SIGMA = 1.2  # cells: the bell that a heatmap is taught

# loss: px of error -> loss. Wing: equation 5 of Feng et al., w 10, epsilon 2. The others by hand: huber(1.5): .5 d^2
# below, 1.5 (d - .75) above; soft_wing(1.5, 10, 2): d below, 10 ln(1 + d/2) + 1.5 - 10 ln 1.75 above.
CLOSED = {
    "wing": {0.01: 0.049875, 0.1: 0.487902, 0.5: 2.231436, 1: 4.054651, 5: 12.52763, 10: 17.917595, 20: 27.917595},
    "mse": {0: 0, 0.5: 0.25, 3: 9},
    "mae": {0: 0, 0.5: 0.5, 3: 3},
    "huber": {0: 0, 1: 0.5, 1.5: 1.125, 3: 3.375},
    "smooth_l1": {0: 0, 1: 1 / 3, 1.5: 0.75, 3: 2.25},
    "soft_wing": {0: 0, 1: 1, 1.5: 1.5, 3: 10 * math.log(2.5) + 1.5 - 10 * math.log(1.75)},
}
BRANCHES = {"mse": None, "mae": None, "huber": DELTA, "smooth_l1": DELTA, "wing": WIDTH, "soft_wing": DELTA}


def of_error(name: str, error: np.ndarray) -> np.ndarray:
    """The loss of each error in px."""
    size = np.abs(error)
    constant = WIDTH - WIDTH * np.log(1 + WIDTH / EPSILON)
    step = DELTA - WIDTH * np.log(1 + DELTA / EPSILON)
    return {
        "mse": size**2,
        "mae": size,
        "huber": np.where(size < DELTA, size**2 / 2, DELTA * (size - DELTA / 2)),
        "smooth_l1": np.where(size < DELTA, size**2 / 2 / DELTA, size - DELTA / 2),
        "wing": np.where(size < WIDTH, WIDTH * np.log(1 + size / EPSILON), size - constant),
        "soft_wing": np.where(size < DELTA, size, WIDTH * np.log(1 + size / EPSILON) + step),
    }[name]


def some_points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, truth with NaN, weights with 0 and parts: (5, 7, 2), (5, 7, 2), (5, 7)."""
    generator = np.random.default_rng(0)
    truth = generator.uniform(0, 1, (5, 7, 2))
    unit_xy = truth + generator.normal(0, 0.05, truth.shape)
    weight = generator.choice([0, 1, 0.5], (5, 7), p=[0.3, 0.5, 0.2])
    truth[generator.uniform(size=(5, 7)) < 0.2] = np.nan
    return unit_xy, truth, weight


def some_maps(head: Heatmap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, truth with NaN, weights with 0 and parts: (5, 7, C), (5, 7, 2), (5, 7)."""
    _, truth, weight = some_points()
    return np.random.default_rng(1).normal(0, 2, (5, 7, head.channels)), truth, weight


def point_sums(name: str, unit_xy: np.ndarray, truth: np.ndarray, weight: np.ndarray | None = None) -> list[float]:
    """[sum of weighted losses, sum of weights] of points (B, K, 2)."""
    labelled = np.isfinite(truth).all(axis=2)
    used = labelled.astype(float) if weight is None else weight * labelled
    per_point = of_error(name, (unit_xy - np.where(np.isnan(truth), 0, truth)) * SIZE).mean(axis=2)
    return [(used * per_point).sum(), used.sum()]


def map_sums(name: str, raw: np.ndarray, truth: np.ndarray, weight: np.ndarray, head: Heatmap) -> list[float]:
    """[sum of weighted losses, sum of weights] of maps (B, K, C), point by point."""
    x, y = (np.arange(side) + 0.5 for side in head.grid)
    cells = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1).reshape(-1, 2)
    total = count = 0.0
    for logits, point, share in zip(raw.reshape(-1, head.channels), truth.reshape(-1, 2), weight.ravel(), strict=True):
        if share == 0 or np.isnan(point).any():
            continue
        found = np.exp(logits) / np.exp(logits).sum()
        bell = np.exp(-((cells - point * head.grid) ** 2).sum(axis=1) / (2 * SIGMA**2))
        surprise = -(bell / bell.sum() * np.log(found)).sum()
        error = ((found[:, None] * cells).sum(axis=0) / head.grid - point) * SIZE
        total += share * (surprise + of_error(name, error).mean() / STRIDE)
        count += share
    return [total, count]
