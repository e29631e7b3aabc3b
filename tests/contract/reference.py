"""Numpy's figures for every loss, from the papers alone, for both frameworks: point losses and what a head is trained with."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from keylite.runtime.heads import STRIDE, Head, Heatmap, Regression, Rle, Simcc

SIZE = (128, 96)  # px of the model input
DELTA, WIDTH, EPSILON = 1.5, 10.0, 2.0
THRESHOLDS = {"delta": DELTA, "width": WIDTH, "epsilon": EPSILON}  # px
CELL_SIGMA = 1.2  # cells: the bell that a heatmap is taught
BIN_SIGMA = 2.0  # px: the bells that bins are taught
SOME_HEADS = {
    "regression": Regression(7),
    "rle": Rle(7),
    "simcc": Simcc(7, (16, 12), SIZE),
    "heatmap": Heatmap(7, (16, 12)),
    "odd heatmap": Heatmap(7, (13, 9)),
}

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


def some_raw(head: Head) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a head gives, truth with NaN, weights with 0 and parts: (5, 7, C), (5, 7, 2), (5, 7)."""
    unit_xy, truth, weight = some_points()
    if isinstance(head, Regression):
        return unit_xy, truth, weight
    numbers = np.random.default_rng(1).normal(0, 2, (5, 7, head.channels))
    if isinstance(head, Rle):
        numbers[..., :2], numbers[..., 2:] = unit_xy, numbers[..., 2:] / 3 - 3
        numbers[0, :, 2] = 3  # above what the loss takes
        numbers[1, :, 1], numbers[1, :, 3] = np.nan_to_num(truth[1, :, 1]) + 1e-4, -9  # below it, nearly right
    return numbers, truth, weight


def point_sums(name: str, unit_xy: np.ndarray, truth: np.ndarray, weight: np.ndarray | None = None) -> list[float]:
    """[sum of weighted losses, sum of weights] of points (B, K, 2)."""
    labelled = np.isfinite(truth).all(axis=2)
    used = labelled.astype(float) if weight is None else weight * labelled
    per_point = of_error(name, (unit_xy - np.where(np.isnan(truth), 0, truth)) * SIZE).mean(axis=2)
    return [(used * per_point).sum(), used.sum()]


def weighted(
    raw: np.ndarray, truth: np.ndarray, weight: np.ndarray, loss: Callable[[np.ndarray, np.ndarray], float]
) -> list[float]:
    """[sum of weighted losses of (C,) values at a (2,) truth, sum of weights], point by point."""
    total = count = 0.0
    for values, point, share in zip(
        raw.reshape(-1, raw.shape[2]), truth.reshape(-1, 2), weight.ravel().tolist(), strict=True
    ):
        if share and np.isfinite(point).all():
            total, count = total + share * float(loss(values, point)), count + share
    return [total, count]


def surprise(logits: np.ndarray, bell: np.ndarray) -> float:
    """Cross-entropy of logits to a bell, both (N,)."""
    return -(bell / bell.sum() * (logits - np.log(np.exp(logits).sum()))).sum()


def map_sums(name: str, raw: np.ndarray, truth: np.ndarray, weight: np.ndarray, head: Heatmap) -> list[float]:
    """[sum of weighted losses, sum of weights] of maps (B, K, C)."""
    x, y = (np.arange(side) + 0.5 for side in head.grid)
    cells = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1).reshape(-1, 2)

    def loss(logits: np.ndarray, point: np.ndarray) -> float:
        found = np.exp(logits) / np.exp(logits).sum()
        bell = np.exp(-((cells - point * head.grid) ** 2).sum(axis=1) / (2 * CELL_SIGMA**2))
        error = ((found[:, None] * cells).sum(axis=0) / head.grid - point) * SIZE
        return surprise(logits, bell) + of_error(name, error).mean() / STRIDE

    return weighted(raw, truth, weight, loss)


def bin_sums(name: str, raw: np.ndarray, truth: np.ndarray, weight: np.ndarray, head: Simcc) -> list[float]:
    """[sum of weighted losses, sum of weights] of bins (B, K, C) of a px each, first those of x."""

    def loss(logits: np.ndarray, point: np.ndarray) -> float:
        total, error = 0.0, []
        for own, place in zip(np.split(logits, [SIZE[0]]), point * SIZE, strict=True):
            px = np.arange(len(own)) + 0.5
            total += surprise(own, np.exp(-((px - place) ** 2) / (2 * BIN_SIGMA**2)))
            error.append((np.exp(own) * px).sum() / np.exp(own).sum() - place)
        return total + of_error(name, np.array(error)).mean() / STRIDE

    return weighted(raw, truth, weight, loss)


def some_flow(times: float = 0.5) -> dict[str, np.ndarray]:
    """Weights of a flow far from its start, under torch's names."""
    generator, found = np.random.default_rng(3), {}
    for part in ("scale", "shift"):
        for layer in range(6):
            for place, (inputs, outputs) in {0: (1, 64), 2: (64, 64), 4: (64, 1)}.items():
                name = f"{part}.{layer}.{place}"
                found[f"{name}.weight"] = generator.normal(0, times * (2 / inputs) ** 0.5, (outputs, inputs))
                found[f"{name}.bias"] = generator.normal(0, 0.3 * times, outputs)
    return found


def flow_density(flow: dict[str, np.ndarray], residual: np.ndarray) -> np.ndarray:
    """Logarithm (N,) of the density of residuals (N, 2): of a Gaussian, where six couplings take them."""

    def through(name: str, values: np.ndarray) -> np.ndarray:
        for place in (0, 2, 4):
            values = values @ flow[f"{name}.{place}.weight"].T + flow[f"{name}.{place}.bias"]
            values = values if place == 4 else np.where(values > 0, values, 0.01 * values)
        return values[:, 0]

    x, y = np.array(residual, float).T
    logarithm = np.full(len(x), -math.log(2 * math.pi))
    for layer in range(6):
        kept = (y if layer % 2 else x)[:, None]
        factor, shift = np.tanh(through(f"scale.{layer}", kept)), through(f"shift.{layer}", kept)
        if layer % 2:
            x = (x - shift) * np.exp(-factor)
        else:
            y = (y - shift) * np.exp(-factor)
        logarithm -= factor
    return logarithm - (x**2 + y**2) / 2


def scale_sums(raw: np.ndarray, truth: np.ndarray, weight: np.ndarray, flow: dict[str, np.ndarray]) -> list[float]:
    """[sum of weighted losses, sum of weights] of points with the logarithms of their scales (B, K, 4)."""

    def loss(values: np.ndarray, point: np.ndarray) -> float:
        scale = np.exp(np.clip(values[2:], -8, 2)) * SIZE  # px
        residual = (values[:2] - point) * SIZE / scale
        laplace = -np.abs(residual) - np.log(2 * scale)
        return -laplace.sum() - flow_density(flow, residual[None])[0]

    return weighted(raw, truth, weight, loss)


def sums_of(name: str, head: Head, raw: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> list[float]:
    """[sum of weighted losses, sum of weights] of what a head gives, for `rle` with `some_flow`."""
    given = raw, truth, weight
    match head:
        case Regression():
            return point_sums(name, *given)
        case Rle():
            return scale_sums(*given, some_flow())
        case Simcc():
            return bin_sums(name, *given, head)
    return map_sums(name, *given, head)
