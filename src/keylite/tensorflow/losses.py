"""Losses of point errors in px of the model input, masked."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from keylite.runtime.heads import SIGMA, STRIDE, Head, Heatmap, Regression

Elementwise = Callable[[tf.Tensor, float, float, float], tf.Tensor]


def _mse(error: tf.Tensor, delta: float, width: float, epsilon: float) -> tf.Tensor:
    return tf.square(error)


def _mae(error: tf.Tensor, delta: float, width: float, epsilon: float) -> tf.Tensor:
    return tf.abs(error)


def _huber(error: tf.Tensor, delta: float, width: float, epsilon: float) -> tf.Tensor:
    size = tf.abs(error)
    return tf.where(size < delta, 0.5 * tf.square(size), delta * (size - 0.5 * delta))


def _smooth_l1(error: tf.Tensor, delta: float, width: float, epsilon: float) -> tf.Tensor:
    return _huber(error, delta, width, epsilon) / delta


def _wing(error: tf.Tensor, delta: float, width: float, epsilon: float) -> tf.Tensor:
    # Feng et al., "Wing Loss for Robust Facial Landmark Localisation", CVPR 2018, equation 5
    size = tf.abs(error)
    return tf.where(
        size < width, width * tf.math.log1p(size / epsilon), size - (width - width * math.log1p(width / epsilon))
    )


def _soft_wing(error: tf.Tensor, delta: float, width: float, epsilon: float) -> tf.Tensor:
    # Lin et al., "Structure-Coherent Deep Feature Learning for Robust Face Alignment", 2021: L1 below delta (omega1),
    # logarithmic with omega2 = width above it
    size = tf.abs(error)
    step = delta - width * math.log1p(delta / epsilon)
    return tf.where(size < delta, size, width * tf.math.log1p(size / epsilon) + step)


LOSSES: dict[str, Elementwise] = {
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
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {name!r}")
        super().__init__(name=name)
        self.size, self.delta, self.width, self.epsilon = tuple(size), delta, width, epsilon

    def __call__(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Tensor:
        total, count = self.sums(tf.convert_to_tensor(y_pred), y_true, sample_weight)
        return total / tf.maximum(count, 1)

    def get_config(self) -> dict[str, object]:
        """What `keras.saving` makes the same loss from."""
        return {name: getattr(self, name) for name in ("name", "size", "delta", "width", "epsilon")}

    def sums(
        self, unit_xy: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(sum of weighted point losses, sum of weights), for a mean over many batches or processes."""
        error, weight = self.errors(unit_xy, truth, weight)
        return tf.reduce_sum(weight * self.of(error)), tf.reduce_sum(weight)

    def of(self, error: tf.Tensor) -> tf.Tensor:
        """The loss (B, K) of errors (B, K, 2) px."""
        return tf.reduce_mean(LOSSES[self.name](error, self.delta, self.width, self.epsilon), axis=-1)

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
        return {"huber": self.delta, "smooth_l1": self.delta, "wing": self.width, "soft_wing": self.delta}.get(
            self.name
        )


def loss(
    name: str, size: tuple[int, int], *, delta: float = 2.0, width: float = 10.0, epsilon: float = 2.0
) -> PointLoss:
    """The loss of that name for an input of `size` (W, H) px, for `compile` or a loop of one's own: see PointLoss."""
    return PointLoss(name, size, delta=delta, width=width, epsilon=epsilon)


# ---- what a head is trained with

Sums = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def _regression_sums(head: Head, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor) -> Sums:
    return *points.sums(raw, truth, weight), raw


def _heatmap_sums(head: Heatmap, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor) -> Sums:
    cells = tf.constant(head.cells(), raw.dtype)
    truth = tf.cast(truth, raw.dtype)
    logarithm = tf.nn.log_softmax(raw, axis=2)
    unit_xy = tf.exp(logarithm) @ cells
    error, weight = points.errors(unit_xy, truth, weight)
    true_xy = tf.where((weight > 0)[..., tf.newaxis], truth, 0.5)
    distance = (true_xy[:, :, tf.newaxis] - cells) * tf.constant(head.grid, raw.dtype)
    bell = tf.nn.softmax(-0.5 * tf.reduce_sum(tf.square(distance), axis=-1) / SIGMA**2, axis=2)
    surprise = -tf.reduce_sum(bell * logarithm, axis=2)
    total = tf.reduce_sum(weight * (surprise + points.of(error) / STRIDE))  # a cell's error weighs about 1 under mae
    return total, tf.reduce_sum(weight), unit_xy


HEAD_SUMS: dict[type, Callable[..., Sums]] = {Regression: _regression_sums, Heatmap: _heatmap_sums}


def head_sums(head: Head, points: PointLoss, raw: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor) -> Sums:
    """(sum of weighted losses, sum of weights, unit_xy (B, K, 2)) of a head's raw output (B, K, C).

    regression: the point loss. heatmap: cross-entropy of its map to a bell around the point, plus the point loss of the
    map's mean place divided by STRIDE.
    """
    return HEAD_SUMS[type(head)](head, points, raw, truth, weight)
