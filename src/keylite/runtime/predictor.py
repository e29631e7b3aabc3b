"""From an image to named points with any model file: crop, engine, decode.

The one road that training's validation, evaluation, the export gate and the device share. Needs numpy, OpenCV,
msgspec and the engine of the file; never a training framework for an exported file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keylite.runtime import files
from keylite.runtime.engines import Engine, open_engine
from keylite.runtime.geometry import Crop, as_boxes, crop_box, whole_box
from keylite.runtime.images import MAX_MEGAPIXELS, read_image
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class Keypoints:
    """Points of N objects in one image.

    xy: (N, K, 2) float64 continuous image px. score: (N, K) float32, NaN where the head has none. sigma: (N, K) the
    distance to expect between a point and its true place, image px; NaN where the model file does not say. boxes:
    (N, 4) xyxy px, as asked for. N is 0 for an empty list of boxes.
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


class Predictor:
    """Opens a model file once and finds points in images.

    >>> points = Predictor("faces.onnx")("photo.jpg", boxes=[[10, 20, 110, 140]])  # doctest: +SKIP

    path: `.onnx`, `.tflite` or `.safetensors`. engine: onnx, litert, pytorch or keras; None takes the one that made the
    file, if it is installed. threads, device: see runtime/engines.py. batch: most crops an engine call gets at once.
    spec: a JSON description for a file that holds none. Attributes: spec, engine_name, path.
    """

    path: Path | None = None
    engine_name = "memory"
    batch = 32
    max_megapixels = MAX_MEGAPIXELS

    def __init__(
        self,
        path: Path | str,
        *,
        engine: str | None = None,
        threads: int | None = None,
        device: str = "auto",
        batch: int = 32,
        max_megapixels: float = MAX_MEGAPIXELS,
        spec: Path | str | None = None,
    ) -> None:
        self.path = Path(path)
        self.engine, self.engine_name, self.spec = open_engine(self.path, engine, threads, device, spec)
        self.batch = batch
        self.max_megapixels = max_megapixels

    @classmethod
    def of(cls, engine: Engine, spec: ModelSpec, *, batch: int = 32) -> Predictor:
        """A predictor on an engine in memory, say a network in training; its path and sha256 are None."""
        predictor = cls.__new__(cls)
        predictor.engine, predictor.spec, predictor.batch = engine, spec, batch
        return predictor

    def __call__(self, image: np.ndarray | Path | str | bytes, boxes: object = None) -> Keypoints:
        """The points of every box (N, 4) xyxy px in an image: uint8 (H, W, 3) RGB, a path, or a file's bytes.

        boxes=None is the whole image, one object; boxes=[] gives an empty result.
        """
        pixels = read_image(image, self.max_megapixels)
        asked = whole_box(pixels)[None] if boxes is None else as_boxes(boxes)
        crops = self.crops(pixels, boxes)
        if not crops:
            count = len(self.spec.skeleton)
            none = np.zeros((0, count), np.float32)
            return Keypoints(np.zeros((0, count, 2)), none, none.astype(np.float64), asked, self.spec.skeleton)
        unit_xy, score = self.run(np.stack([crop.warp(pixels) for crop in crops]))
        xy = np.stack([crop.from_unit(points) for crop, points in zip(crops, unit_xy, strict=True)])
        return Keypoints(xy, score, self.sigma(score, crops), asked, self.spec.skeleton)

    def crops(self, image: np.ndarray, boxes: object = None) -> list[Crop]:
        """One crop a box, by the rule in the spec: an annotation's box grows by the padding, a whole image does not."""
        padding = self.spec.padding if boxes is not None and self.spec.box == "annotation" else 0.0
        asked = whole_box(image)[None] if boxes is None else as_boxes(boxes)
        return [crop_box(box, self.spec.size, padding) for box in asked]

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Crops uint8 (B, H, W, 3) -> unit xy (B, K, 2), score (B, K)."""
        raw = [self.engine(pixels[start : start + self.batch]) for start in range(0, len(pixels), self.batch)]
        return self.spec.head.decode(np.concatenate(raw))

    def sigma(self, score: np.ndarray, crops: Sequence[Crop]) -> np.ndarray:
        """Scores (N, K) -> the distance to expect between a point and its true place (N, K), px of the image.

        NaN where the spec does not say what a score means.
        """
        if self.spec.confidence is None:
            return np.full(score.shape, np.nan)
        side = np.array([max(crop.size) / crop.scale for crop in crops])
        return self.spec.confidence.sigma(score) * side[:, None]

    @functools.cached_property
    def sha256(self) -> str | None:
        """sha256 of the model file."""
        return files.sha256(self.path) if self.path else None
