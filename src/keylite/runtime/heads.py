"""Heads: how many raw channels a network gives for each keypoint, and what they mean.

A head is a frozen value stored in the model file. `decode` is outside every graph, in float numpy, and the only decode
there is: trainer, evaluator and device all call it. `pyramid` says which features a head is given: those of cells of 8,
16 and 32 px, for inputs of one size alone, or the last ones, pooled. Knows nothing of frameworks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from keylite.runtime.errors import ModelFileError

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Regression(msgspec.Struct, frozen=True, tag_field="name", tag="regression", forbid_unknown_fields=True):
    """Global average pooling, a dense layer of `hidden` with ReLU, a dense layer of 2K: unit coordinates."""

    pyramid: ClassVar[bool] = False
    keypoints: Positive
    hidden: Positive = 256

    @property
    def channels(self) -> int:
        """C: raw values for each keypoint."""
        return 2

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw (B, K, 2) -> unit xy (B, K, 2) float32, score (B, K): NaN, for this head has no notion of it."""
        return raw.astype(np.float32, copy=False), np.full(raw.shape[:2], np.nan, np.float32)


class Rle(msgspec.Struct, frozen=True, tag_field="name", tag="rle", forbid_unknown_fields=True):
    """As `Regression`, with a scale beside each coordinate: 4K values, learnt by residual log-likelihood.

    Li et al., "Human Pose Regression with Residual Log-likelihood Estimation", ICCV 2021. The flow is the loss's alone.
    """

    pyramid: ClassVar[bool] = False
    keypoints: Positive
    hidden: Positive = 256

    @property
    def channels(self) -> int:
        """C: unit x and y, then the natural logarithms of their scales in the same unit."""
        return 4

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw (B, K, 4) -> unit xy (B, K, 2) float32, score (B, K) in 0..1: 1 less the mean scale."""
        raw = raw.astype(np.float32, copy=False)
        scale = np.exp(np.minimum(raw[..., 2:], 0)).mean(axis=2)
        return raw[..., :2], 1 - scale


class Simcc(msgspec.Struct, frozen=True, tag_field="name", tag="simcc", forbid_unknown_fields=True):
    """Two classifications a keypoint, one of columns and one of rows, from the features of a small pyramid.

    Li et al., "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation", ECCV 2022. grid:
    (columns, rows) of the pyramid's finest level, a cell for each STRIDE px. bins: (of x, of y), one for each px of the
    input. width: channels of the pyramid.
    """

    pyramid: ClassVar[bool] = True
    keypoints: Positive
    grid: tuple[Positive, Positive]
    bins: tuple[Positive, Positive]
    width: Positive = 64

    @property
    def channels(self) -> int:
        """C: bins of x, then bins of y."""
        return sum(self.bins)

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit coordinates of the bins' centres: float32 (bins of x,) and (bins of y,)."""
        x, y = ((np.arange(bins) + 0.5) / bins for bins in self.bins)
        return x.astype(np.float32), y.astype(np.float32)

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw (B, K, C) -> unit xy (B, K, 2) float32: means under softmax; score (B, K): the lesser largest share."""
        raw = raw.astype(np.float32, copy=False)
        shares = [softmax(logits) for logits in np.split(raw, [self.bins[0]], axis=2)]
        xy = [share @ centres for share, centres in zip(shares, self.centres(), strict=True)]
        return np.stack(xy, axis=2), np.minimum(*(share.max(axis=2) for share in shares))


class Heatmap(msgspec.Struct, frozen=True, tag_field="name", tag="heatmap", forbid_unknown_fields=True):
    """Space is kept: a small feature pyramid, then one map of logits a keypoint with a cell for each STRIDE px.

    grid: (columns, rows). width: channels of the pyramid.
    """

    pyramid: ClassVar[bool] = True
    keypoints: Positive
    grid: tuple[Positive, Positive]
    width: Positive = 128

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
        share = softmax(raw.astype(np.float32, copy=False))
        return share @ self.cells(), share.max(axis=2)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Shares of the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


STRIDE = 8  # px of the input a heatmap cell stands for


Head = Regression | Rle | Simcc | Heatmap


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // STRIDE), -(-size[1] // STRIDE)


def require_size(head: Head, size: tuple[int, int]) -> None:
    """Raise ValueError for a head whose cells or bins are those of another input than of `size` (W, H) px."""
    for name, wanted in {"grid": _grid(size), "bins": size}.items():
        found = getattr(head, name, wanted)
        if tuple(found) != tuple(wanted):
            raise ModelFileError(
                f"head: expected {name} of {wanted[0]}x{wanted[1]} for an input of {size[0]}x{size[1]} px, got "
                f"{found[0]}x{found[1]}; such a head is for one size of input"
            )


def size_for(head: Head) -> tuple[int, int] | None:
    """(W, H) px of an input that a head is for; None where any will do."""
    match head:
        case Simcc():
            return head.bins
        case Heatmap():
            return STRIDE * head.grid[0], STRIDE * head.grid[1]
        case Regression() | Rle():
            return None


# name: the head of (keypoints, width of the dense layer, size (W, H) px of the input)
HEADS: dict[str, Callable[[int, int, tuple[int, int]], Head]] = {
    "regression": lambda keypoints, hidden, size: Regression(keypoints, hidden),
    "rle": lambda keypoints, hidden, size: Rle(keypoints, hidden),
    "simcc": lambda keypoints, hidden, size: Simcc(keypoints, _grid(size), size),
    "heatmap": lambda keypoints, hidden, size: Heatmap(keypoints, _grid(size)),
}
