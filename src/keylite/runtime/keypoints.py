"""The points that a model finds in one image, and what can be made of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keylite.runtime.skeleton import Skeleton


@dataclasses.dataclass(frozen=True)
class Keypoints:
    """Points of N objects in one image.

    xy: (N, K, 2) float64 continuous image px, NaN for a keypoint that no training object labels. score: (N, K) float32,
    NaN where the head has none. sigma: (N, K) the distance to expect between a point and its true place, image px; NaN
    where the model file does not say. boxes: (N, 4) xyxy px, as asked for. N is 0 for an empty list of boxes.
    """

    xy: np.ndarray
    score: np.ndarray
    sigma: np.ndarray
    boxes: np.ndarray
    skeleton: Skeleton

    def __len__(self) -> int:
        return len(self.xy)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists for JSON: `origin` is "corner" (continuous px), NaN is None."""
        return {
            "origin": "corner",
            "keypoints": list(self.skeleton.names),
            "objects": [
                {"box": box.tolist(), "xy": _plain(xy), "score": _plain(score), "sigma": _plain(sigma)}
                for box, xy, score, sigma in zip(self.boxes, self.xy, self.score, self.sigma, strict=True)
            ],
        }


def _plain(array: np.ndarray) -> list:
    return np.where(np.isfinite(array), array, None).tolist()  # type: ignore[arg-type]
