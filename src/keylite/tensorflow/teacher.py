"""The teacher in Keras: a trained network that gives its raw values for the student's pixels, without gradients."""

from __future__ import annotations

import tensorflow as tf

from keylite.tensorflow.model import load_model, normalised
from keylite.training.teacher import Teacher


class TeacherNetwork:
    """A frozen network in inference mode. It is no layer, so that no checkpoint and no optimizer gets it.

    Call it with pixels uint8 (B, H, W, 3). It gives raw values float32 (B, K, C), by the student's keypoints. Pixels of
    another size than its own are resized (bilinear; averaged if they shrink).
    """

    def __init__(self, teacher: Teacher) -> None:
        self.facts = teacher
        self.network, _ = load_model(teacher.path, teacher.spec)
        self.network.trainable = False
        self.places = list(teacher.places)
        self.reordered = self.places != sorted(self.places)

    def __call__(self, pixels: tf.Tensor) -> tf.Tensor:
        spec = self.facts.spec
        width, height = spec.size
        if tuple(pixels.shape[1:3]) != (height, width):
            pixels = tf.image.resize(tf.cast(pixels, tf.float32), (height, width), "bilinear", antialias=True)
        raw = self.network(normalised(pixels, spec.mean, spec.std), training=False)
        return tf.stop_gradient(tf.gather(raw, self.places, axis=1) if self.reordered else raw)
