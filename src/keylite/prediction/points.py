"""Predicted points as JSON: keylite's own form (continuous px) and COCO's (pixel indices)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import require_outputs, write_bytes
from keylite.runtime.keypoints import Keypoints
from keylite.runtime.kinds import kind_words, path_of
from keylite.runtime.predictor import Found
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.types import FilePath

FoundByName = Mapping[str, Found[Path] | Found[str]]
NO_POINT = (0, 0, 0)  # x, y and visibility in COCO of a point that is NaN here


def points_json(found: FoundByName, names: tuple[str, ...], model: Path) -> dict[str, Any]:
    """The points of all images as plain lists, by the name of the image. names: of the keypoints."""
    images = {name: one.points.to_dict()["objects"] for name, one in found.items()}
    return {"model": model.name, "origin": "corner", "keypoints": list(names), "images": images}


def points_line(name: str, points: Keypoints, size: tuple[int, int], model: Path) -> dict[str, Any]:
    """The points of one image as plain lists: one line of a JSON Lines file. size: (width, height) of the image, px."""
    return {"image": name, "width": size[0], "height": size[1], "model": model.name} | points.to_dict()


def write_coco_points(found: Iterable[Found[Path]] | Iterable[Found[str]], path: FilePath) -> None:
    """Write predicted points as COCO keypoints JSON, as `keylite predict --format coco` does.

    The file appears whole or not at all. Points are written as pixel indices (0.5 less), and 0, 0, 0 stands for a point
    that is NaN. The score of an object is the mean of its points' scores; it has none if the head gives none.

    Args:
        found: What `Predictor.stream(paths)` gives for images on disk. An image that comes twice is written once.
        path: The file to write. A file that is there already is replaced.

    Raises:
        ArgumentError: `found` is no such stream, it is empty, it holds an image that has no path, or `path` is a folder
            or one of the images.
        ImageError: An image of the stream cannot be used.
        OSError: The file cannot be written.

    Example:
        >>> predictor = keylite.Predictor("faces.onnx")
        >>> keylite.write_coco_points(predictor.stream(["a.jpg", "b.jpg"]), "points.json")
    """
    path = path_of("path", path)
    require_outputs({"path": path})
    by_name: dict[str, Found[Path] | Found[str]] = {}
    for one in found if isinstance(found, Iterable) else [found]:
        if not isinstance(one, Found) or not isinstance(one.source, str | Path):
            got = kind_words(one.source if isinstance(one, Found) else one)
            raise ArgumentError(f"found: expected images with paths, got {got}; give predictor.stream(paths)")
        by_name[str(one.source)] = one
    if not by_name:
        raise ArgumentError("found: expected images with their points, got none; give predictor.stream(paths)")
    require_outputs({"path": path}, {name: name for name in by_name})
    skeleton = next(iter(by_name.values())).points.skeleton
    write_bytes(path, json.dumps(points_coco(by_name, skeleton), indent=2).encode() + b"\n")


def points_coco(found: FoundByName, skeleton: Skeleton) -> dict[str, Any]:
    """The points of all images, by the name of the image, as COCO keypoints: pixel indices, one category."""
    images, annotations = [], []
    for image_id, (name, (_, points, (width, height))) in enumerate(found.items(), start=1):
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
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
