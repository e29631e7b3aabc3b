"""Adam and SGD with the arithmetic of torch.optim, on vectors into which variables are gathered."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf


def gathered(values: list[Any]) -> tf.Tensor:
    """One vector of all values."""
    return tf.concat([tf.reshape(value, [-1]) for value in values], 0)


def spread(vector: Any, variables: list[keras.Variable]) -> None:
    """Assign a gathered vector to its variables again."""
    pieces = tf.split(tf.convert_to_tensor(vector), [math.prod(variable.shape) for variable in variables])
    for piece, variable in zip(pieces, variables, strict=True):
        variable.assign(tf.reshape(piece, variable.shape))


class Adam(keras.optimizers.Adam):
    """As torch has it: epsilon is added to the corrected root. Keras adds it before, at first 30 times as much."""

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        index, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, gradient.dtype)
        first, second = self._momentums[index], self._velocities[index]
        first.assign_add((1 - self.beta_1) * (gradient - first))
        second.assign_add((1 - self.beta_2) * (tf.square(gradient) - second))
        root = tf.sqrt(second) / tf.sqrt(1 - self.beta_2**step) + self.epsilon
        variable.assign_sub(learning_rate / (1 - self.beta_1**step) * first / root)


class SGD(keras.optimizers.SGD):
    """As torch has it: momentum is of gradients. Keras' is of steps, which lag behind a changing learning rate."""

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        if self.momentum:
            moving = self.momentums[self._get_variable_index(variable)]
            moving.assign(self.momentum * moving + gradient)
            gradient = moving
        variable.assign_sub(learning_rate * gradient)


OPTIMIZERS = {
    "adam": lambda recipe: Adam(epsilon=1e-8),  # torch's
    "adamw": lambda recipe: Adam(epsilon=1e-8, weight_decay=recipe.weight_decay),
    "sgd": lambda recipe: SGD(momentum=recipe.momentum),
}
