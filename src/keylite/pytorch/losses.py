"""Losses of point errors in px of the model input, masked."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from keylite.runtime.errors import ArgumentError
from keylite.runtime.heads import STRIDE, Head, Heatmap, Regression, Rle, Simcc
from keylite.runtime.words import quoted
from keylite.training.teaching import (
    BIN_SIGMA,
    CELL_SIGMA,
    FLOW_LAYERS,
    FLOW_START,
    FLOW_WIDTH,
    LOG_SCALES,
    LOSSES,
    Branches,
)

Elementwise = Callable[[torch.Tensor, Branches], torch.Tensor]


def _mse(error: torch.Tensor, at: Branches) -> torch.Tensor:
    return error.square()


def _mae(error: torch.Tensor, at: Branches) -> torch.Tensor:
    return error.abs()


def _huber(error: torch.Tensor, at: Branches) -> torch.Tensor:
    size = error.abs()
    return torch.where(size < at.delta, 0.5 * size.square(), at.delta * (size - 0.5 * at.delta))


def _smooth_l1(error: torch.Tensor, at: Branches) -> torch.Tensor:
    return _huber(error, at) / at.delta


def _wing(error: torch.Tensor, at: Branches) -> torch.Tensor:
    # Feng et al., "Wing Loss for Robust Facial Landmark Localisation", CVPR 2018, equation 5
    size = error.abs()
    return torch.where(
        size < at.width,
        at.width * torch.log1p(size / at.epsilon),
        size - (at.width - at.width * math.log1p(at.width / at.epsilon)),
    )


def _soft_wing(error: torch.Tensor, at: Branches) -> torch.Tensor:
    # Lin et al., "Structure-Coherent Deep Feature Learning for Robust Face Alignment", 2021: L1 below delta (omega1),
    # logarithmic with omega2 = width above it
    size = error.abs()
    step = at.delta - at.width * math.log1p(at.delta / at.epsilon)
    return torch.where(size < at.delta, size, at.width * torch.log1p(size / at.epsilon) + step)


FORMULAS: dict[str, Elementwise] = {
    "mse": _mse,
    "mae": _mae,
    "huber": _huber,
    "smooth_l1": _smooth_l1,
    "wing": _wing,
    "soft_wing": _soft_wing,
}


class PointLoss:
    """A masked loss of unit coordinates, measured in px of the model input.

    name: mse, mae, huber, smooth_l1, wing or soft_wing. size: (W, H) px of the input. delta: px where huber, smooth_l1
    and soft_wing change branch. width, epsilon: px, of wing and soft_wing. Called with (unit_xy (B, K, 2), truth
    (B, K, 2), weight (B, K) or (B,) or None) it gives sum(weight * point loss) / max(sum(weight), 1); a point's loss is
    the mean over x and y. NaN truth counts as weight 0.
    """

    def __init__(
        self, name: str, size: tuple[int, int], *, delta: float = 2.0, width: float = 10.0, epsilon: float = 2.0
    ) -> None:
        if name not in LOSSES:
            raise ArgumentError(f"loss: expected one of {', '.join(LOSSES)}, got {quoted(name)}")
        self.name, self.size, self.at = name, size, Branches(delta, width, epsilon)

    def __call__(self, unit_xy: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        total, count = self.sums(unit_xy, truth, weight)
        return total / count.clamp(min=1)

    def sums(
        self, unit_xy: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum of weighted point losses, sum of weights), for a mean over many batches or processes."""
        error, weight = self.errors(unit_xy, truth, weight)
        return (weight * self.of(error)).sum(), weight.sum()

    def of(self, error: torch.Tensor) -> torch.Tensor:
        """The loss (B, K) of errors (B, K, 2) px."""
        return FORMULAS[self.name](error, self.at).mean(dim=-1)

    def errors(
        self, unit_xy: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Errors (B, K, 2) in px, 0 where the weight (B, K), also given, is 0."""
        labelled = torch.isfinite(truth).all(dim=-1)
        if weight is None:
            weight = labelled.to(unit_xy.dtype)
        else:
            weight = labelled * (weight.unsqueeze(1) if weight.ndim == 1 else weight)
        counts = (weight > 0).unsqueeze(-1)
        truth = torch.where(counts, truth, unit_xy.detach())  # before any arithmetic: 0 * NaN is NaN
        return (unit_xy - truth) * unit_xy.new_tensor(self.size), weight

    def branch(self) -> float | None:
        """The px at which the loss changes branch, or None where it has one branch."""
        return self.at.of(self.name)


def loss(
    name: str, size: tuple[int, int], *, delta: float = 2.0, width: float = 10.0, epsilon: float = 2.0
) -> PointLoss:
    """The loss of that name for an input of `size` (W, H) px, to be called in a loop of one's own: see PointLoss."""
    return PointLoss(name, size, delta=delta, width=width, epsilon=epsilon)


# ---- what a head is trained with

Sums = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _regression_sums(
    head: Head, points: PointLoss, raw: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, flow: None
) -> Sums:
    return *points.sums(raw, truth, weight), raw


def _heatmap_sums(
    head: Heatmap, points: PointLoss, raw: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, flow: None
) -> Sums:
    cells = torch.as_tensor(head.cells()).to(raw)
    logarithm = raw.log_softmax(dim=2)
    unit_xy = logarithm.exp() @ cells
    error, weight = points.errors(unit_xy, truth, weight)
    true_xy = torch.where((weight > 0).unsqueeze(-1), truth, 0.5)
    distance = (true_xy.unsqueeze(2) - cells) * cells.new_tensor(head.grid)
    bell = torch.softmax(-0.5 * distance.square().sum(dim=-1) / CELL_SIGMA**2, dim=2)
    surprise = -(bell * logarithm).sum(dim=2)
    total = (weight * (surprise + points.of(error) / STRIDE)).sum()  # an error of a cell weighs about 1 under mae
    return total, weight.sum(), unit_xy


class Flow(nn.Module):
    """The density of residuals that a scale leaves over: `rle`'s loss trains it, and no model file holds it.

    A RealNVP (Dinh et al., "Density estimation using Real NVP", ICLR 2017) of FLOW_LAYERS couplings, by turns of x by y
    and of y by x, over a unit Gaussian: residuals (..., 2) in, log density (...) out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.ModuleList(_coupling() for _ in range(FLOW_LAYERS))
        self.shift = nn.ModuleList(_coupling() for _ in range(FLOW_LAYERS))

    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        logarithm = residual.new_full(residual.shape[:-1], -math.log(2 * math.pi))
        parts = list(residual.split(1, dim=-1))
        for layer, (scale, shift) in enumerate(zip(self.scale, self.shift, strict=True)):
            kept, moved = parts[layer % 2], 1 - layer % 2
            factor = torch.tanh(scale(kept))
            parts[moved] = (parts[moved] - shift(kept)) * torch.exp(-factor)
            logarithm = logarithm - factor.squeeze(-1)
        return logarithm - 0.5 * (parts[0].square() + parts[1].square()).squeeze(-1)


def _coupling() -> nn.Sequential:
    layers = (nn.Linear(1, FLOW_WIDTH), nn.Linear(FLOW_WIDTH, FLOW_WIDTH), nn.Linear(FLOW_WIDTH, 1))
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, gain=FLOW_START)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.LeakyReLU(), layers[1], nn.LeakyReLU(), layers[2])


FLOWS: dict[type, Callable[[], Flow]] = {Rle: Flow}


def _rle_sums(
    head: Rle, points: PointLoss, raw: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, flow: Flow
) -> Sums:
    unit_xy, logarithm = raw[..., :2], raw[..., 2:].clamp(*LOG_SCALES)
    error, weight = points.errors(unit_xy, truth, weight)
    scale = logarithm.exp() * raw.new_tensor(points.size)
    residual = error / scale
    surprise = (residual.abs() + (2 * scale).log()).sum(dim=-1) - flow(residual)  # of a Laplace law, times the flow's
    return (weight * surprise).sum(), weight.sum(), unit_xy


def _simcc_sums(
    head: Simcc, points: PointLoss, raw: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, flow: None
) -> Sums:
    logarithms = [logits.log_softmax(dim=2) for logits in raw.split(head.bins, dim=2)]
    centres = [torch.as_tensor(axis).to(raw) for axis in head.centres()]
    unit_xy = torch.stack([one.exp() @ axis for one, axis in zip(logarithms, centres, strict=True)], dim=2)
    error, weight = points.errors(unit_xy, truth, weight)
    true_xy = torch.where((weight > 0).unsqueeze(-1), truth, 0.5)
    surprise = raw.new_zeros(())
    for axis, logarithm in enumerate(logarithms):
        distance = (true_xy[..., axis : axis + 1] - centres[axis]) * points.size[axis]
        bell = torch.softmax(-0.5 * (distance / BIN_SIGMA).square(), dim=2)
        surprise = surprise - (bell * logarithm).sum(dim=2)
    total = (weight * (surprise + points.of(error) / STRIDE)).sum()
    return total, weight.sum(), unit_xy


HEAD_SUMS: dict[type, Callable[..., Sums]] = {
    Regression: _regression_sums,
    Rle: _rle_sums,
    Simcc: _simcc_sums,
    Heatmap: _heatmap_sums,
}


def new_flow(head: Head) -> Flow | None:
    """What a head's loss trains beside the network: a flow for `rle`, else nothing."""
    make = FLOWS.get(type(head))
    return make() if make else None


def head_sums(
    head: Head,
    points: PointLoss,
    raw: torch.Tensor,
    truth: torch.Tensor,
    weight: torch.Tensor,
    flow: Flow | None = None,
) -> Sums:
    """(sum of weighted losses, sum of weights, unit_xy (B, K, 2)) of a head's raw output (B, K, C).

    regression: the point loss. rle: what the errors in px surprise a Laplace law of the head's scales times a `flow`.
    simcc: cross-entropies of its bins to bells of BIN_SIGMA px around the point, plus the point loss of their mean
    place divided by STRIDE. heatmap: the same of its map, with a bell of CELL_SIGMA cells.
    """
    return HEAD_SUMS[type(head)](head, points, raw, truth, weight, flow)
