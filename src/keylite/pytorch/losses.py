"""Training losses in PyTorch: masked losses of point errors in px of the model input, and the loss of each head."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from keylite.runtime.errors import ArgumentError
from keylite.runtime.heads import STRIDE, Head, Heatmap, Regression, Rle, Simcc
from keylite.runtime.words import quoted
from keylite.training.teacher import Teacher, same_maps
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
    # Lin et al., "Structure-Coherent Deep Feature Learning for Robust Face Alignment", 2021: the absolute error below
    # delta (omega1), above it a logarithm with width (omega2)
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
    """A masked loss of points; errors are in px of the model input. docs/recipe.md has the formulas.

    Call it with (unit_xy, truth, weight). It gives sum(weight * point loss) / max(sum(weight), 1); the loss of a point
    is the mean over x and y. unit_xy, truth: (B, K, 2) predicted and labelled unit coordinates; NaN in truth has weight
    0. weight: (B, K), or (B,) for all points of an object, or None for 1.

    Args:
        name: mse, mae, huber, smooth_l1, wing or soft_wing.
        size: (W, H) px of the model input.
        delta: The error in px at which huber, smooth_l1 and soft_wing change branch.
        width: px; w of wing, omega2 of soft_wing.
        epsilon: px; the curvature of wing and soft_wing.
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
        """Errors (B, K, 2) in px, and weights (B, K); the error of a point with weight 0 is 0."""
        labelled = torch.isfinite(truth).all(dim=-1)
        if weight is None:
            weight = labelled.to(unit_xy.dtype)
        else:
            weight = labelled * (weight.unsqueeze(1) if weight.ndim == 1 else weight)
        counts = (weight > 0).unsqueeze(-1)
        truth = torch.where(counts, truth, unit_xy.detach())  # first of all, because 0 * NaN is NaN
        return (unit_xy - truth) * unit_xy.new_tensor(self.size), weight

    def branch(self) -> float | None:
        """The error in px at which the loss changes branch; None if it has one branch."""
        return self.at.of(self.name)


def loss(
    name: str, size: tuple[int, int], *, delta: float = 2.0, width: float = 10.0, epsilon: float = 2.0
) -> PointLoss:
    """A loss of points by its name, for your own training loop.

    Args:
        name: "mse", "mae", "huber", "smooth_l1", "wing" or "soft_wing"; docs/recipe.md has the formulas.
        size: (width, height) of the model input, px, because errors are in px.
        delta: The error at which huber, smooth_l1 and soft_wing change their formula, px.
        width: w of wing, omega2 of soft_wing, px.
        epsilon: The curvature of wing and soft_wing, px.

    Returns:
        The loss. `PointLoss` says how it is called, and that points with a weight of 0 or with NaN do not count.

    Raises:
        ArgumentError: There is no loss of this name.
    """
    return PointLoss(name, size, delta=delta, width=width, epsilon=epsilon)


# ---- the loss of each head

Sums = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Lesson = tuple[Teacher, torch.Tensor]  # a teacher, and its raw output for the same pixels


def _regression_sums(
    head: Head, points: PointLoss, raw: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, flow: None
) -> Sums:
    return *points.sums(raw, truth, weight), raw


def _heatmap_sums(
    head: Heatmap, points: PointLoss, raw: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, flow: None
) -> Sums:
    log_share, cells, unit_xy = _maps(head, raw)
    error, weight = points.errors(unit_xy, truth, weight)
    true_xy = torch.where((weight > 0).unsqueeze(-1), truth, 0.5)
    distance = (true_xy.unsqueeze(2) - cells) * cells.new_tensor(head.grid)
    bell = torch.softmax(-0.5 * distance.square().sum(dim=-1) / CELL_SIGMA**2, dim=2)
    return _map_total(points, bell, log_share, error, weight), weight.sum(), unit_xy


def _maps(head: Heatmap, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logarithms of the shares (B, K, C) of maps, their cells (C, 2), and the points (B, K, 2)."""
    cells = torch.as_tensor(head.cells()).to(raw)
    log_share = raw.log_softmax(dim=2)
    return log_share, cells, log_share.exp() @ cells


def _map_total(
    points: PointLoss, target: torch.Tensor, log_share: torch.Tensor, error: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """The sum of weighted losses of maps that should be `target` (B, K, C), shares that add up to 1."""
    cross_entropy = -(target * log_share).sum(dim=2)
    return (weight * (cross_entropy + points.of(error) / STRIDE)).sum()  # with mae, an error of one cell adds about 1


class Flow(nn.Module):
    """The normalising flow in the loss of `rle`: residuals (..., 2) in, their log density (...) out.

    It corrects the Laplace distribution of errors that are divided by their predicted scales. No model file holds it.
    It is a RealNVP (Dinh et al., "Density estimation using Real NVP", ICLR 2017): FLOW_LAYERS couplings over a unit
    Gaussian, which in turn change x depending on y, and y depending on x.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.ModuleList(_coupling() for _ in range(FLOW_LAYERS))
        self.shift = nn.ModuleList(_coupling() for _ in range(FLOW_LAYERS))

    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        log_density = residual.new_full(residual.shape[:-1], -math.log(2 * math.pi))
        parts = list(residual.split(1, dim=-1))
        for layer, (scale, shift) in enumerate(zip(self.scale, self.shift, strict=True)):
            kept, moved = parts[layer % 2], 1 - layer % 2
            factor = torch.tanh(scale(kept))
            parts[moved] = (parts[moved] - shift(kept)) * torch.exp(-factor)
            log_density = log_density - factor.squeeze(-1)
        return log_density - 0.5 * (parts[0].square() + parts[1].square()).squeeze(-1)


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
    unit_xy, log_scale = raw[..., :2], raw[..., 2:].clamp(*LOG_SCALES)
    error, weight = points.errors(unit_xy, truth, weight)
    scale = log_scale.exp() * raw.new_tensor(points.size)
    residual = error / scale
    laplace = (residual.abs() + (2 * scale).log()).sum(dim=-1)  # negative log-likelihood under a Laplace distribution
    return (weight * (laplace - flow(residual))).sum(), weight.sum(), unit_xy


def _simcc_sums(
    head: Simcc, points: PointLoss, raw: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, flow: None
) -> Sums:
    log_shares, centres, unit_xy = _bins(head, raw)
    error, weight = points.errors(unit_xy, truth, weight)
    true_xy = torch.where((weight > 0).unsqueeze(-1), truth, 0.5)
    cross_entropy = raw.new_zeros(())
    for axis, log_share in enumerate(log_shares):
        distance = (true_xy[..., axis : axis + 1] - centres[axis]) * points.size[axis]
        bell = torch.softmax(-0.5 * (distance / BIN_SIGMA).square(), dim=2)
        cross_entropy = cross_entropy - (bell * log_share).sum(dim=2)
    total = (weight * (cross_entropy + points.of(error) / STRIDE)).sum()
    return total, weight.sum(), unit_xy


def _bins(head: Simcc, raw: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """The logarithms of the shares of bins, and their centres, of x and of y; and the points (B, K, 2)."""
    log_shares = [logits.log_softmax(dim=2) for logits in raw.split(head.bins, dim=2)]
    centres = [torch.as_tensor(axis).to(raw) for axis in head.centres()]
    unit_xy = torch.stack([log.exp() @ centre for log, centre in zip(log_shares, centres, strict=True)], dim=2)
    return log_shares, centres, unit_xy


HEAD_SUMS: dict[type, Callable[..., Sums]] = {
    Regression: _regression_sums,
    Rle: _rle_sums,
    Simcc: _simcc_sums,
    Heatmap: _heatmap_sums,
}


def new_flow(head: Head) -> Flow | None:
    """The flow that the loss of `rle` trains beside the network; None for other heads."""
    make = FLOWS.get(type(head))
    return make() if make else None


def head_sums(
    head: Head,
    points: PointLoss,
    raw: torch.Tensor,
    truth: torch.Tensor,
    weight: torch.Tensor,
    flow: Flow | None = None,
    lesson: Lesson | None = None,
) -> Sums:
    """(sum of weighted losses, sum of weights, unit_xy (B, K, 2)) for the raw output (B, K, C) of a head.

    regression: the point loss. rle: the negative log-likelihood of the errors in px under a Laplace distribution with
    the head's scales, corrected by `flow`. simcc: the cross-entropy between its bins and a bell of BIN_SIGMA px around
    the labelled point, in x and in y, plus the point loss of the mean place, divided by STRIDE. heatmap: the same with
    its map and a bell of CELL_SIGMA cells. lesson: a teacher and its raw output, by the student's keypoints; both sums
    are then those of labels and teacher together, by the weights of the teacher.
    """
    total, count, unit_xy = HEAD_SUMS[type(head)](head, points, raw, truth, weight, flow)
    if lesson is None:
        return total, count, unit_xy
    taught_total, taught_count = _taught_sums(head, points, raw, truth, weight, flow, lesson)
    share = lesson[0].label_weight
    return share * total + taught_total, share * count + taught_count, unit_xy


# ---- a teacher beside the labels

POINTS: dict[type, Callable[..., torch.Tensor]] = {  # (head, raw) -> unit_xy (B, K, 2)
    Regression: lambda head, raw: raw,
    Rle: lambda head, raw: raw[..., :2],
    Simcc: lambda head, raw: _bins(head, raw)[-1],
    Heatmap: lambda head, raw: _maps(head, raw)[-1],
}


def _taught_sums(
    head: Head,
    points: PointLoss,
    raw: torch.Tensor,
    truth: torch.Tensor,
    weight: torch.Tensor,
    flow: Flow | None,
    lesson: Lesson,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of weighted losses, sum of weights) of a teacher's points, and of its maps if the student has the same.

    A point that is labelled outside the crop (with weight 0) is not taught.
    """
    teacher, teacher_raw = lesson
    used = truth.isnan().any(dim=-1) | (weight > 0)
    weight = raw.new_tensor(teacher.weights) * used
    if same_maps(head, teacher.spec.head):
        log_share, _, unit_xy = _maps(head, raw)
        target, _, taught_xy = _maps(teacher.spec.head, teacher_raw)
        error, weight = points.errors(unit_xy, taught_xy, weight)
        return _map_total(points, target.exp(), log_share, error, weight), weight.sum()
    taught_xy = POINTS[type(teacher.spec.head)](teacher.spec.head, teacher_raw)
    return head_sums(head, points, raw, taught_xy, weight, flow)[:2]
