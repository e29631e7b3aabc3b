"""Adam and SGD with the arithmetic of torch.optim; they step on long vectors that hold many variables."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf


def gathered(values: list[Any]) -> tf.Tensor:
    """One vector that holds all values, one after the other."""
    return tf.concat([tf.reshape(value, [-1]) for value in values], 0)


def spread(vector: Any, variables: list[keras.Variable]) -> None:
    """Assign the parts of a gathered vector to its variables."""
    pieces = tf.split(tf.convert_to_tensor(vector), [math.prod(variable.shape) for variable in variables])
    for piece, variable in zip(pieces, variables, strict=True):
        variable.assign(tf.reshape(piece, variable.shape))


class Adam(keras.optimizers.Adam):
    """Adam as in torch: epsilon is added to the root after its correction.

    Keras adds it before, which at first has the effect of an epsilon 30 times as large.
    """

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        index, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, gradient.dtype)
        first, second = self._momentums[index], self._velocities[index]
        first.assign_add((1 - self.beta_1) * (gradient - first))
        second.assign_add((1 - self.beta_2) * (tf.square(gradient) - second))
        root = tf.sqrt(second) / tf.sqrt(1 - self.beta_2**step) + self.epsilon
        variable.assign_sub(learning_rate / (1 - self.beta_1**step) * first / root)


class SGD(keras.optimizers.SGD):
    """SGD as in torch: momentum sums up gradients. Keras sums up steps, which lag behind a changing learning rate."""

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        if self.momentum:
            moving = self.momentums[self._get_variable_index(variable)]
            moving.assign(self.momentum * moving + gradient)
            gradient = moving
        variable.assign_sub(learning_rate * gradient)


OPTIMIZERS = {
    "adam": lambda recipe: Adam(epsilon=1e-8),  # as in torch
    "adamw": lambda recipe: Adam(epsilon=1e-8, weight_decay=recipe.weight_decay),
    "sgd": lambda recipe: SGD(momentum=recipe.momentum),
}
