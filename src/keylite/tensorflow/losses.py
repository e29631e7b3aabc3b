"""Training losses in TensorFlow: masked losses of point errors in px of the model input, and the loss of each head."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import keras
import tensorflow as tf

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

Elementwise = Callable[[tf.Tensor, Branches], tf.Tensor]


def _mse(error: tf.Tensor, at: Branches) -> tf.Tensor:
    return tf.square(error)


def _mae(error: tf.Tensor, at: Branches) -> tf.Tensor:
    return tf.abs(error)


def _huber(error: tf.Tensor, at: Branches) -> tf.Tensor:
    size = tf.abs(error)
    return tf.where(size < at.delta, 0.5 * tf.square(size), at.delta * (size - 0.5 * at.delta))


def _smooth_l1(error: tf.Tensor, at: Branches) -> tf.Tensor:
    return _huber(error, at) / at.delta


def _wing(error: tf.Tensor, at: Branches) -> tf.Tensor:
    # Feng et al., "Wing Loss for Robust Facial Landmark Localisation", CVPR 2018, equation 5
    size = tf.abs(error)
    return tf.where(
        size < at.width,
        at.width * tf.math.log1p(size / at.epsilon),
        size - (at.width - at.width * math.log1p(at.width / at.epsilon)),
    )


def _soft_wing(error: tf.Tensor, at: Branches) -> tf.Tensor:
    # Lin et al., "Structure-Coherent Deep Feature Learning for Robust Face Alignment", 2021: the absolute error below
    # delta (omega1), above it a logarithm with width (omega2)
    size = tf.abs(error)
    step = at.delta - at.width * math.log1p(at.delta / at.epsilon)
    return tf.where(size < at.delta, size, at.width * tf.math.log1p(size / at.epsilon) + step)


FORMULAS: dict[str, Elementwise] = {
    "mse": _mse,
    "mae": _mae,
    "huber": _huber,
    "smooth_l1": _smooth_l1,
    "wing": _wing,
    "soft_wing": _soft_wing,
}


@keras.saving.register_keras_serializable("keylite")
class PointLoss(keras.losses.Loss):
    """A masked loss of points; errors are in px of the model input. docs/recipe.md has the formulas.

    Call it as Keras calls losses, with (truth, unit_xy, weight). It gives sum(weight * point loss) / max(sum(weight),
    1); the loss of a point is the mean over x and y. truth, unit_xy: (B, K, 2) labelled and predicted unit coordinates;
    NaN in truth has weight 0. weight: (B, K), or (B,) for all points of an object, or None for 1.

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
        super().__init__(name=name)
        self.size, self.at = tuple(size), Branches(delta, width, epsilon)

    def __call__(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Tensor:
        total, count = self.sums(tf.convert_to_tensor(y_pred), y_true, sample_weight)
        return total / tf.maximum(count, 1)

    def get_config(self) -> dict[str, object]:
        """The arguments from which `keras.saving` makes the same loss again."""
        return {"name": self.name, "size": self.size, **dataclasses.asdict(self.at)}

    def sums(
        self, unit_xy: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(sum of weighted point losses, sum of weights), for a mean over many batches or processes."""
        error, weight = self.errors(unit_xy, truth, weight)
        return tf.reduce_sum(weight * self.of(error)), tf.reduce_sum(weight)

    def of(self, error: tf.Tensor) -> tf.Tensor:
        """The loss (B, K) of errors (B, K, 2) px."""
        return tf.reduce_mean(FORMULAS[self.name](error, self.at), axis=-1)

    def errors(
        self, unit_xy: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Errors (B, K, 2) in px, and weights (B, K); the error of a point with weight 0 is 0."""
        truth = tf.cast(truth, unit_xy.dtype)
        labelled = tf.cast(tf.reduce_all(tf.math.is_finite(truth), axis=-1), unit_xy.dtype)
        if weight is not None:
            weight = tf.cast(weight, unit_xy.dtype)
            labelled *= weight[:, tf.newaxis] if weight.shape.rank == 1 else weight
        weight = labelled
        counts = (weight > 0)[..., tf.newaxis]
        truth = tf.where(counts, truth, tf.stop_gradient(unit_xy))  # first of all, because 0 * NaN is NaN
        return (unit_xy - truth) * tf.constant(self.size, unit_xy.dtype), weight

    def branch(self) -> float | None:
        """The error in px at which the loss changes branch; None if it has one branch."""
        return self.at.of(self.name)


def loss(
    name: str, size: tuple[int, int], *, delta: float = 2.0, width: float = 10.0, epsilon: float = 2.0
) -> PointLoss:
    """A loss of points by its name, for `compile` or your own loop.

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

Sums = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
Lesson = tuple[Teacher, tf.Tensor]  # a teacher, and its raw output for the same pixels


def _regression_sums(
    head: Head, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor, flow: None
) -> Sums:
    return *points.sums(raw, truth, weight), raw


def _heatmap_sums(
    head: Heatmap, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor, flow: None
) -> Sums:
    truth = tf.cast(truth, raw.dtype)
    log_share, cells, unit_xy = _maps(head, raw)
    error, weight = points.errors(unit_xy, truth, weight)
    true_xy = tf.where((weight > 0)[..., tf.newaxis], truth, 0.5)
    distance = (true_xy[:, :, tf.newaxis] - cells) * tf.constant(head.grid, raw.dtype)
    bell = tf.nn.softmax(-0.5 * tf.reduce_sum(tf.square(distance), axis=-1) / CELL_SIGMA**2, axis=2)
    return _map_total(points, bell, log_share, error, weight), tf.reduce_sum(weight), unit_xy


def _maps(head: Heatmap, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The logarithms of the shares (B, K, C) of maps, their cells (C, 2), and the points (B, K, 2)."""
    cells = tf.constant(head.cells(), raw.dtype)
    log_share = tf.nn.log_softmax(raw, axis=2)
    return log_share, cells, tf.exp(log_share) @ cells


def _map_total(
    points: PointLoss, target: tf.Tensor, log_share: tf.Tensor, error: tf.Tensor, weight: tf.Tensor
) -> tf.Tensor:
    """The sum of weighted losses of maps that should be `target` (B, K, C), shares that add up to 1."""
    cross_entropy = -tf.reduce_sum(target * log_share, axis=2)
    return tf.reduce_sum(weight * (cross_entropy + points.of(error) / STRIDE))  # mae: an error of a cell adds about 1


class Flow(keras.Model):
    """The normalising flow in the loss of `rle`: residuals (..., 2) in, their log density (...) out.

    It corrects the Laplace distribution of errors that are divided by their predicted scales. No model file holds it.
    It is a RealNVP (Dinh et al., "Density estimation using Real NVP", ICLR 2017): FLOW_LAYERS couplings over a unit
    Gaussian, which in turn change x depending on y, and y depending on x.
    """

    def __init__(self) -> None:
        super().__init__(name="flow")
        self.scale = [_coupling(f"scale.{layer}") for layer in range(FLOW_LAYERS)]
        self.shift = [_coupling(f"shift.{layer}") for layer in range(FLOW_LAYERS)]
        self.built = True

    def call(self, residual: tf.Tensor) -> tf.Tensor:
        log_density = tf.fill(tf.shape(residual)[:-1], tf.constant(-math.log(2 * math.pi), residual.dtype))
        parts = tf.split(residual, 2, axis=-1)
        for layer, (scale, shift) in enumerate(zip(self.scale, self.shift, strict=True)):
            kept, moved = parts[layer % 2], 1 - layer % 2
            factor = tf.tanh(_through(scale, kept))
            parts[moved] = (parts[moved] - _through(shift, kept)) * tf.exp(-factor)
            log_density -= tf.squeeze(factor, -1)
        return log_density - 0.5 * tf.squeeze(tf.square(parts[0]) + tf.square(parts[1]), -1)


def _coupling(name: str) -> list[keras.layers.Dense]:
    """Three dense layers with the names that torch gives them."""
    coupling = []
    for place, (inputs, outputs) in enumerate([(1, FLOW_WIDTH), (FLOW_WIDTH, FLOW_WIDTH), (FLOW_WIDTH, 1)]):
        limit = FLOW_START * math.sqrt(6 / (inputs + outputs))  # FLOW_START times the limit of Glorot
        start = keras.initializers.RandomUniform(-limit, limit)
        coupling.append(keras.layers.Dense(outputs, kernel_initializer=start, name=f"{name}.{2 * place}"))
        coupling[-1].build((None, inputs))
    return coupling


def _through(coupling: list[keras.layers.Dense], x: tf.Tensor) -> tf.Tensor:
    *hidden, last = coupling
    for layer in hidden:
        x = layer(x)
        x = tf.where(x > 0, x, 0.01 * x)  # the slope of LeakyReLU in torch
    return last(x)


FLOWS: dict[type, Callable[[], Flow]] = {Rle: Flow}


def _rle_sums(head: Rle, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor, flow: Flow) -> Sums:
    unit_xy, log_scale = raw[..., :2], tf.clip_by_value(raw[..., 2:], *LOG_SCALES)
    error, weight = points.errors(unit_xy, truth, weight)
    scale = tf.exp(log_scale) * tf.constant(points.size, raw.dtype)
    residual = error / scale
    laplace = tf.reduce_sum(tf.abs(residual) + tf.math.log(2 * scale), axis=-1)  # its negative log-likelihood
    return tf.reduce_sum(weight * (laplace - flow(residual))), tf.reduce_sum(weight), unit_xy


def _simcc_sums(
    head: Simcc, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor, flow: None
) -> Sums:
    truth = tf.cast(truth, raw.dtype)
    log_shares, centres, unit_xy = _bins(head, raw)
    error, weight = points.errors(unit_xy, truth, weight)
    true_xy = tf.where((weight > 0)[..., tf.newaxis], truth, 0.5)
    cross_entropy = tf.zeros((), raw.dtype)
    for axis, log_share in enumerate(log_shares):
        distance = (true_xy[..., axis : axis + 1] - centres[axis]) * points.size[axis]
        bell = tf.nn.softmax(-0.5 * tf.square(distance / BIN_SIGMA), axis=2)
        cross_entropy -= tf.reduce_sum(bell * log_share, axis=2)
    total = tf.reduce_sum(weight * (cross_entropy + points.of(error) / STRIDE))
    return total, tf.reduce_sum(weight), unit_xy


def _bins(head: Simcc, raw: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
    """The logarithms of the shares of bins, and their centres, of x and of y; and the points (B, K, 2)."""
    log_shares = [tf.nn.log_softmax(logits, axis=2) for logits in tf.split(raw, head.bins, axis=2)]
    centres = [tf.constant(axis, raw.dtype) for axis in head.centres()]
    unit_xy = tf.stack(
        [tf.linalg.matvec(tf.exp(log), centre) for log, centre in zip(log_shares, centres, strict=True)], axis=2
    )
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
    raw: tf.Tensor,
    truth: tf.Tensor,
    weight: tf.Tensor,
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

POINTS: dict[type, Callable[..., tf.Tensor]] = {  # (head, raw) -> unit_xy (B, K, 2)
    Regression: lambda head, raw: raw,
    Rle: lambda head, raw: raw[..., :2],
    Simcc: lambda head, raw: _bins(head, raw)[-1],
    Heatmap: lambda head, raw: _maps(head, raw)[-1],
}


def _taught_sums(
    head: Head,
    points: PointLoss,
    raw: tf.Tensor,
    truth: tf.Tensor,
    weight: tf.Tensor,
    flow: Flow | None,
    lesson: Lesson,
) -> tuple[tf.Tensor, tf.Tensor]:
    """(sum of weighted losses, sum of weights) of a teacher's points, and of its maps if the student has the same.

    A point that is labelled outside the crop (with weight 0) is not taught.
    """
    teacher, teacher_raw = lesson
    used = tf.reduce_any(tf.math.is_nan(truth), axis=-1) | (weight > 0)
    weight = tf.constant(teacher.weights, raw.dtype) * tf.cast(used, raw.dtype)
    if same_maps(head, teacher.spec.head):
        log_share, _, unit_xy = _maps(head, raw)
        target, _, taught_xy = _maps(teacher.spec.head, tf.cast(teacher_raw, raw.dtype))
        error, weight = points.errors(unit_xy, taught_xy, weight)
        return _map_total(points, tf.exp(target), log_share, error, weight), tf.reduce_sum(weight)
    taught_xy = POINTS[type(teacher.spec.head)](teacher.spec.head, teacher_raw)
    return head_sums(head, points, raw, taught_xy, weight, flow)[:2]
