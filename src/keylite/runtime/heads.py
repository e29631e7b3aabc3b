"""Heads: how many raw values a network gives for each keypoint, and how they are decoded to points.

A head is a frozen value in the spec of a model file. Trainer, evaluator and device all call the same `decode`, in
numpy; no graph contains it. `pyramid` says which features of the backbone a head gets. True: those of cells of 8, 16
and 32 px, as far as the backbone makes them, and the head fits one input size. False: the last features, averaged over
the crop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from keylite.runtime.errors import ModelFileError

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Regression(msgspec.Struct, frozen=True, tag_field="name", tag="regression", forbid_unknown_fields=True):
    """Two raw values per keypoint: its unit coordinates.

    The layers are global average pooling, a dense layer of `hidden` channels with ReLU, and a dense layer of 2K.
    """

    pyramid: ClassVar[bool] = False
    keypoints: Positive
    hidden: Positive = 256

    @property
    def channels(self) -> int:
        """C: raw values for each keypoint."""
        return 2

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw (B, K, 2) -> unit xy (B, K, 2) float32, score (B, K): NaN, because this head gives none."""
        return raw.astype(np.float32, copy=False), np.full(raw.shape[:2], np.nan, np.float32)


class Rle(msgspec.Struct, frozen=True, tag_field="name", tag="rle", forbid_unknown_fields=True):
    """Four raw values per keypoint: its unit coordinates, and the logarithm of a scale (uncertainty) for each.

    The layers are those of `Regression`, with 4K in place of 2K. They are trained by residual log-likelihood; the
    normalising flow of that method is part of the loss, not of the head.
    Source: Li et al., "Human Pose Regression with Residual Log-likelihood Estimation", ICCV 2021.
    """

    pyramid: ClassVar[bool] = False
    keypoints: Positive
    hidden: Positive = 256

    @property
    def channels(self) -> int:
        """C: unit x and y, then the natural logarithms of their scales, in the same unit."""
        return 4

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw (B, K, 4) -> unit xy (B, K, 2) float32, score (B, K) in 0..1: 1 minus the mean scale."""
        raw = raw.astype(np.float32, copy=False)
        scale = np.exp(np.minimum(raw[..., 2:], 0)).mean(axis=2)
        return raw[..., :2], 1 - scale


class Simcc(msgspec.Struct, frozen=True, tag_field="name", tag="simcc", forbid_unknown_fields=True):
    """Two classifications per keypoint, one over columns and one over rows of the input, on a small feature pyramid.

    grid: (columns, rows) of the pyramid's finest level, one cell per STRIDE px. bins: (number for x, number for y), one
    bin per px of the input. width: channels of the pyramid.
    Source: Li et al., "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation", ECCV 2022.
    """

    pyramid: ClassVar[bool] = True
    keypoints: Positive
    grid: tuple[Positive, Positive]
    bins: tuple[Positive, Positive]
    width: Positive = 64

    @property
    def channels(self) -> int:
        """C: the bins of x, then the bins of y."""
        return sum(self.bins)

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit coordinates of the centres of the bins: float32 (bins of x,) and float32 (bins of y,)."""
        x, y = ((np.arange(bins) + 0.5) / bins for bins in self.bins)
        return x.astype(np.float32), y.astype(np.float32)

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw (B, K, C) -> unit xy (B, K, 2) float32 and score (B, K).

        A point is the mean place of the bins, weighted by their shares (softmax). The score is the largest share of x
        or that of y, whichever is less.
        """
        raw = raw.astype(np.float32, copy=False)
        shares = [softmax(logits) for logits in np.split(raw, [self.bins[0]], axis=2)]
        xy = [share @ centres for share, centres in zip(shares, self.centres(), strict=True)]
        return np.stack(xy, axis=2), np.minimum(*(share.max(axis=2) for share in shares))


class Heatmap(msgspec.Struct, frozen=True, tag_field="name", tag="heatmap", forbid_unknown_fields=True):
    """One map per keypoint, with one cell per STRIDE px of the input, on a small feature pyramid.

    grid: (columns, rows) of the map. width: channels of the pyramid.
    """

    pyramid: ClassVar[bool] = True
    keypoints: Positive
    grid: tuple[Positive, Positive]
    width: Positive = 128

    @property
    def channels(self) -> int:
        """C: the cells of the grid, row by row."""
        return self.grid[0] * self.grid[1]

    def cells(self) -> np.ndarray:
        """Unit coordinates of the centres of the cells: float32 (C, 2)."""
        columns, rows = self.grid
        x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
        return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)

    def decode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw (B, K, C) -> unit xy (B, K, 2) float32 and score (B, K).

        A point is the mean place of the cells, weighted by their shares (softmax). The score is the largest share.
        """
        share = softmax(raw.astype(np.float32, copy=False))
        return share @ self.cells(), share.max(axis=2)


def softmax(logits: np.ndarray) -> np.ndarray:
    """The shares along the last axis: they lie in 0..1 and add up to 1."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


STRIDE = 8  # width and height of a cell of a heatmap, px of the input


Head = Regression | Rle | Simcc | Heatmap


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // STRIDE), -(-size[1] // STRIDE)


def require_size(head: Head, size: tuple[int, int]) -> None:
    """Raise ValueError if the cells or bins of a head do not fit an input of `size` (W, H) px."""
    for name, wanted in {"grid": _grid(size), "bins": size}.items():
        actual = getattr(head, name, wanted)
        if tuple(actual) != tuple(wanted):
            raise ModelFileError(
                f"head: expected {name} of {wanted[0]}x{wanted[1]} for an input of {size[0]}x{size[1]} px, got "
                f"{actual[0]}x{actual[1]}; this kind of head fits one input size only"
            )


def size_for(head: Head) -> tuple[int, int] | None:
    """The input size (W, H) px that a head fits; None if it takes any."""
    match head:
        case Simcc():
            return head.bins
        case Heatmap():
            return STRIDE * head.grid[0], STRIDE * head.grid[1]
        case Regression() | Rle():
            return None


# name -> a function that makes the head from (keypoints, channels of the dense layer, input size (W, H) px)
HEADS: dict[str, Callable[[int, int, tuple[int, int]], Head]] = {
    "regression": lambda keypoints, hidden, size: Regression(keypoints, hidden),
    "rle": lambda keypoints, hidden, size: Rle(keypoints, hidden),
    "simcc": lambda keypoints, hidden, size: Simcc(keypoints, _grid(size), size),
    "heatmap": lambda keypoints, hidden, size: Heatmap(keypoints, _grid(size)),
}
# by the name of a head
HAS_PYRAMID = {name: make(1, 1, (STRIDE, STRIDE)).pyramid for name, make in HEADS.items()}
