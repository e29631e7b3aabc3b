"""Heads: how many raw channels a network gives for each keypoint, and what they mean.

A head is a frozen value stored in the model file. `decode` is outside every graph, in float numpy, and the only decode
there is: trainer, evaluator and device all call it. Knows nothing of frameworks or losses.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Regression(msgspec.Struct, frozen=True, tag_field="name", tag="regression", forbid_unknown_fields=True):
    """Global average pooling, a dense layer of `hidden` with ReLU, a dense layer of 2K: unit coordinates."""

    keypoints: Positive
    hidden: Positive = 256

    @property
    def channels(self) -> int:
        """C: raw values for each keypoint."""
        return 2

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw (B, K, 2) -> unit xy (B, K, 2) float32, score (B, K): NaN, for this head has no notion of it."""
        return raw.astype(np.float32, copy=False), np.full(raw.shape[:2], np.nan, np.float32)


class Spatial(msgspec.Struct, frozen=True, tag_field="name", tag="spatial", forbid_unknown_fields=True):
    """As `regression`, but space is kept: a 1x1 convolution to `maps` channels and a flatten instead of the pooling.

    Its parameters depend on the input size.
    """

    keypoints: Positive
    hidden: Positive = 256
    maps: Positive = 32

    @property
    def channels(self) -> int:
        """C: raw values for each keypoint."""
        return 2

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw (B, K, 2) -> unit xy (B, K, 2) float32, score (B, K): NaN."""
        return raw.astype(np.float32, copy=False), np.full(raw.shape[:2], np.nan, np.float32)


Head = Regression | Spatial

HEADS: dict[str, type[Regression] | type[Spatial]] = {"regression": Regression, "spatial": Spatial}
