"""Heads: how many raw channels a network gives for each keypoint, and what they mean.

A head is a frozen value stored in the model file. `decode` is outside every graph, in float numpy, and the only decode
there is: trainer, evaluator and device all call it. Knows nothing of frameworks or losses.
"""

from __future__ import annotations

from collections.abc import Callable
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


class Heatmap(msgspec.Struct, frozen=True, tag_field="name", tag="heatmap", forbid_unknown_fields=True):
    """Space is kept: a small feature pyramid, then one map of logits a keypoint with a cell for each STRIDE px.

    grid: (columns, rows). width: channels of the pyramid.
    """

    keypoints: Positive
    grid: tuple[Positive, Positive]
    width: Positive = 64

    @property
    def channels(self) -> int:
        """C: cells of the grid, row by row."""
        return self.grid[0] * self.grid[1]

    def cells(self) -> np.ndarray:
        """(C, 2) float32 unit coordinates of the cells' centres."""
        columns, rows = self.grid
        x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
        return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw (B, K, C) -> unit xy (B, K, 2) float32: the mean place under softmax; score (B, K): its largest share."""
        raw = raw.astype(np.float32, copy=False)
        exponentials = np.exp(raw - raw.max(axis=2, keepdims=True))
        share = exponentials / exponentials.sum(axis=2, keepdims=True)
        return share @ self.cells(), share.max(axis=2)


STRIDE = 8  # px of the input a heatmap cell stands for
SIGMA = 1.2  # cells: width of the bell that a heatmap is taught
LAST_STD = 0.001  # of a regression's initial last weights: its first prediction is the mean shape, nearly

Head = Regression | Heatmap


# name: the head of (keypoints, width of the dense layer, size (W, H) px of the input)
HEADS: dict[str, Callable[[int, int, tuple[int, int]], Head]] = {
    "regression": lambda keypoints, hidden, size: Regression(keypoints, hidden),
    "heatmap": lambda keypoints, hidden, size: Heatmap(keypoints, (-(-size[0] // STRIDE), -(-size[1] // STRIDE))),
}
