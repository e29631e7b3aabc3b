"""Losses of point errors in px of the model input, masked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import keras
import tensorflow as tf

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
    # Lin et al., "Structure-Coherent Deep Feature Learning for Robust Face Alignment", 2021: L1 below delta (omega1),
    # logarithmic with omega2 = width above it
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
    """A masked loss of unit coordinates, measured in px of the model input.

    name: mse, mae, huber, smooth_l1, wing or soft_wing. size: (W, H) px of the input. delta: px where huber, smooth_l1
    and soft_wing change branch. width, epsilon: px, of wing and soft_wing. Called as Keras calls losses, with (truth
    (B, K, 2), unit_xy (B, K, 2), weight (B, K) or (B,) or None) it gives sum(weight * point loss) / max(sum(weight),
    1); a point's loss is the mean over x and y. NaN truth counts as weight 0.
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
        """What `keras.saving` makes the same loss from."""
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
        """Errors (B, K, 2) in px, 0 where the weight (B, K), also given, is 0."""
        truth = tf.cast(truth, unit_xy.dtype)
        labelled = tf.cast(tf.reduce_all(tf.math.is_finite(truth), axis=-1), unit_xy.dtype)
        if weight is not None:
            weight = tf.cast(weight, unit_xy.dtype)
            labelled *= weight[:, tf.newaxis] if weight.shape.rank == 1 else weight
        weight = labelled
        counts = (weight > 0)[..., tf.newaxis]
        truth = tf.where(counts, truth, tf.stop_gradient(unit_xy))  # before any arithmetic: 0 * NaN is NaN
        return (unit_xy - truth) * tf.constant(self.size, unit_xy.dtype), weight

    def branch(self) -> float | None:
        """The px at which the loss changes branch, or None where it has one branch."""
        return self.at.of(self.name)


def loss(
    name: str, size: tuple[int, int], *, delta: float = 2.0, width: float = 10.0, epsilon: float = 2.0
) -> PointLoss:
    """The loss of that name for an input of `size` (W, H) px, for `compile` or a loop of one's own: see PointLoss."""
    return PointLoss(name, size, delta=delta, width=width, epsilon=epsilon)


# ---- what a head is trained with

Sums = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def _regression_sums(
    head: Head, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor, flow: None
) -> Sums:
    return *points.sums(raw, truth, weight), raw


def _heatmap_sums(
    head: Heatmap, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor, flow: None
) -> Sums:
    cells = tf.constant(head.cells(), raw.dtype)
    truth = tf.cast(truth, raw.dtype)
    logarithm = tf.nn.log_softmax(raw, axis=2)
    unit_xy = tf.exp(logarithm) @ cells
    error, weight = points.errors(unit_xy, truth, weight)
    true_xy = tf.where((weight > 0)[..., tf.newaxis], truth, 0.5)
    distance = (true_xy[:, :, tf.newaxis] - cells) * tf.constant(head.grid, raw.dtype)
    bell = tf.nn.softmax(-0.5 * tf.reduce_sum(tf.square(distance), axis=-1) / CELL_SIGMA**2, axis=2)
    surprise = -tf.reduce_sum(bell * logarithm, axis=2)
    total = tf.reduce_sum(weight * (surprise + points.of(error) / STRIDE))  # a cell's error weighs about 1 under mae
    return total, tf.reduce_sum(weight), unit_xy


class Flow(keras.Model):
    """The density of residuals that a scale leaves over: `rle`'s loss trains it, and no model file holds it.

    A RealNVP (Dinh et al., "Density estimation using Real NVP", ICLR 2017) of FLOW_LAYERS couplings, by turns of x by y
    and of y by x, over a unit Gaussian: residuals (..., 2) in, log density (...) out.
    """

    def __init__(self) -> None:
        super().__init__(name="flow")
        self.scale = [_coupling(f"scale.{layer}") for layer in range(FLOW_LAYERS)]
        self.shift = [_coupling(f"shift.{layer}") for layer in range(FLOW_LAYERS)]
        self.built = True

    def call(self, residual: tf.Tensor) -> tf.Tensor:
        logarithm = tf.fill(tf.shape(residual)[:-1], tf.constant(-math.log(2 * math.pi), residual.dtype))
        parts = tf.split(residual, 2, axis=-1)
        for layer, (scale, shift) in enumerate(zip(self.scale, self.shift, strict=True)):
            kept, moved = parts[layer % 2], 1 - layer % 2
            factor = tf.tanh(_through(scale, kept))
            parts[moved] = (parts[moved] - _through(shift, kept)) * tf.exp(-factor)
            logarithm -= tf.squeeze(factor, -1)
        return logarithm - 0.5 * tf.squeeze(tf.square(parts[0]) + tf.square(parts[1]), -1)


def _coupling(name: str) -> list[keras.layers.Dense]:
    """Three dense layers, under the names that torch gives them."""
    made = []
    for place, (inputs, outputs) in enumerate([(1, FLOW_WIDTH), (FLOW_WIDTH, FLOW_WIDTH), (FLOW_WIDTH, 1)]):
        end = FLOW_START * math.sqrt(6 / (inputs + outputs))  # Glorot's, FLOW_START times
        start = keras.initializers.RandomUniform(-end, end)
        made.append(keras.layers.Dense(outputs, kernel_initializer=start, name=f"{name}.{2 * place}"))
        made[-1].build((None, inputs))
    return made


def _through(coupling: list[keras.layers.Dense], x: tf.Tensor) -> tf.Tensor:
    *hidden, last = coupling
    for layer in hidden:
        x = layer(x)
        x = tf.where(x > 0, x, 0.01 * x)  # torch's slope
    return last(x)


FLOWS: dict[type, Callable[[], Flow]] = {Rle: Flow}


def _rle_sums(head: Rle, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor, flow: Flow) -> Sums:
    unit_xy, logarithm = raw[..., :2], tf.clip_by_value(raw[..., 2:], *LOG_SCALES)
    error, weight = points.errors(unit_xy, truth, weight)
    scale = tf.exp(logarithm) * tf.constant(points.size, raw.dtype)
    residual = error / scale
    surprise = tf.reduce_sum(tf.abs(residual) + tf.math.log(2 * scale), axis=-1) - flow(residual)  # Laplace, times flow
    return tf.reduce_sum(weight * surprise), tf.reduce_sum(weight), unit_xy


def _simcc_sums(
    head: Simcc, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor, flow: None
) -> Sums:
    truth = tf.cast(truth, raw.dtype)
    logarithms = [tf.nn.log_softmax(logits, axis=2) for logits in tf.split(raw, head.bins, axis=2)]
    centres = [tf.constant(axis, raw.dtype) for axis in head.centres()]
    unit_xy = tf.stack(
        [tf.linalg.matvec(tf.exp(one), axis) for one, axis in zip(logarithms, centres, strict=True)], axis=2
    )
    error, weight = points.errors(unit_xy, truth, weight)
    true_xy = tf.where((weight > 0)[..., tf.newaxis], truth, 0.5)
    surprise = tf.zeros((), raw.dtype)
    for axis, logarithm in enumerate(logarithms):
        distance = (true_xy[..., axis : axis + 1] - centres[axis]) * points.size[axis]
        bell = tf.nn.softmax(-0.5 * tf.square(distance / BIN_SIGMA), axis=2)
        surprise -= tf.reduce_sum(bell * logarithm, axis=2)
    total = tf.reduce_sum(weight * (surprise + points.of(error) / STRIDE))
    return total, tf.reduce_sum(weight), unit_xy


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
    head: Head, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor, flow: Flow | None = None
) -> Sums:
    """(sum of weighted losses, sum of weights, unit_xy (B, K, 2)) of a head's raw output (B, K, C).

    regression: the point loss. rle: what the errors in px surprise a Laplace law of the head's scales times a `flow`.
    simcc: cross-entropies of its bins to bells of BIN_SIGMA px around the point, plus the point loss of their mean
    place divided by STRIDE. heatmap: the same of its map, with a bell of CELL_SIGMA cells.
    """
    return HEAD_SUMS[type(head)](head, points, raw, truth, weight, flow)
