"""Predicted points as JSON: keylite's own form (continuous px) and COCO's (pixel indices)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from keylite.runtime.keypoints import Keypoints
from keylite.runtime.skeleton import Skeleton

NO_POINT = (0, 0, 0)  # x, y and visibility in COCO of a point that is NaN here


def points_json(by_image: dict[str, Keypoints], names: tuple[str, ...], model: Path) -> dict[str, Any]:
    """The points of all images as plain lists, by the name of the image. names: of the keypoints."""
    images = {name: points.to_dict()["objects"] for name, points in by_image.items()}
    return {"model": model.name, "origin": "corner", "keypoints": list(names), "images": images}


def points_line(name: str, points: Keypoints, size: tuple[int, int], model: Path) -> dict[str, Any]:
    """The points of one image as plain lists: one line of a JSON Lines file. size: (width, height) of the image, px."""
    return {"image": name, "width": size[0], "height": size[1], "model": model.name} | points.to_dict()


def points_coco(
    by_image: dict[str, Keypoints], sizes: dict[str, tuple[int, int]], skeleton: Skeleton
) -> dict[str, Any]:
    """The points of all images as COCO keypoints: pixel indices, one category. sizes: (width, height) px, by image.

    The score of an object is the mean of its points' scores; there is none if the head gives none.
    """
    images, annotations = [], []
    for image_id, (name, points) in enumerate(by_image.items(), start=1):
        images.append({"id": image_id, "file_name": name, "width": sizes[name][0], "height": sizes[name][1]})
        for xy, score, (x0, y0, x1, y1) in zip(points.xy, points.score, points.boxes.tolist(), strict=True):
            known = [value for value in score.tolist() if value == value]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
                "keypoints": [value for x, y in (xy - 0.5).tolist() for value in ((x, y, 2) if x == x else NO_POINT)],
                "num_keypoints": int(np.isfinite(xy).all(axis=1).sum()),
            }
            annotations.append(annotation | ({"score": sum(known) / len(known)} if known else {}))
    edges = [[a + 1, b + 1] for a, b in skeleton.edges]
    category = {"id": 1, "name": "object", "keypoints": list(skeleton.names), "skeleton": edges}
    return {"images": images, "annotations": annotations, "categories": [category]}
