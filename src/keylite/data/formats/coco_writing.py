"""A data set as the text of a COCO keypoints JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.formats.scores import Scores, figure
from keylite.data.scale import FIELD as SCALE_FIELD
from keylite.data.scale import scales_of_images
from keylite.runtime.images import image_size

DIGITS = 15  # of an image's name that is its id: a JSON number holds that many
DECIMALS = 10  # of written px: this removes the rounding errors of +0.5 and of flips, and nothing that matters


def coco_of(data: Dataset, points: np.ndarray, scores: Scores | None = None) -> bytes:
    """The text of a COCO file with the objects of a data set at these points (N, K, 2), continuous image px."""
    skeleton = data.skeleton
    labelled = np.all(np.isfinite(points), axis=2)
    rows = _rows(data, points)
    boxes = np.concatenate([data.box[:, :2], _written(data.box[:, 2:] - data.box[:, :2])], axis=1)
    category: dict[str, Any] = {
        "id": data.category_id,
        "name": data.category or data.name,
        "keypoints": skeleton.names,
        "skeleton": [(a + 1, b + 1) for a, b in skeleton.edges],
    }
    if skeleton.mirror is not None:
        category["flip_pairs"] = skeleton.mirror_pairs()
    if skeleton.sigmas is not None:
        category["sigmas"] = skeleton.sigmas
    images: list[dict[str, Any]] = []
    image_ids = image_ids_of(data)
    scales = scales_of_images(data.mm_per_px, data.image_index, len(data.images))
    for number, name, image, scale in zip(image_ids, data.image_names, data.images, scales, strict=True):
        width, height = image_size(image)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        if scale is not None:
            images[-1][SCALE_FIELD] = scale
    annotations = []
    ids = data.ids if len(set(data.ids)) == len(data) else range(1, len(data) + 1)
    for n in range(len(data)):
        annotation = {
            "id": ids[n],
            "image_id": image_ids[data.image_index[n]],
            "category_id": data.category_id,
            "iscrowd": 0,
            "num_keypoints": int(labelled[n].sum()),
            "keypoints": rows[n],
            "group": data.groups[data.group_index[n]],
        }
        if np.isfinite(boxes[n]).all():
            annotation["bbox"] = boxes[n].tolist()
        if np.isfinite(data.area[n]):
            annotation["area"] = float(data.area[n])
        if scores and (score := scores.of_object(n)) is not None:
            annotation["score"] = figure(score)
        annotations.append(annotation)
    whole = {"images": images, "annotations": annotations, "categories": [category]}
    return msgspec.json.encode(whole)


def coco_results_of(data: Dataset, scores: Scores) -> bytes:
    """The text of a file of COCO results: a list of objects with image_id, category_id, keypoints and score."""
    image_ids, rows = image_ids_of(data), _rows(data, data.xy)
    results = [
        {
            "image_id": image_ids[data.image_index[n]],
            "category_id": data.category_id,
            "keypoints": rows[n],
            "score": 1.0 if (score := scores.of_object(n)) is None else figure(score),
        }
        for n in range(len(data))
    ]
    return msgspec.json.encode(results)


def image_ids_of(data: Dataset) -> list[int | str]:
    """The ids of the images: those of their file, else the numbers that are their names, else 1, 2, ..."""
    stems = [Path(name).stem for name in data.image_names]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit() and len(stem) <= DIGITS]
    for ids in (data.image_ids, numbers):
        if len(set(ids)) == len(data.images):
            return list(ids)
    return list(range(1, len(data.images) + 1))


def _rows(data: Dataset, points: np.ndarray) -> list[list[float]]:
    """x, y and visibility of all points of each object, in pixel indices; whole numbers without decimals."""
    labelled = np.all(np.isfinite(points), axis=2)
    v = np.where(labelled, np.where(data.visible > 0, data.visible, 2), 0)
    rows = np.where(labelled[..., None], _written(points - 0.5), 0.0)
    flat = np.concatenate([rows, v[..., None]], axis=2).reshape(len(points), -1).tolist()
    return [[int(value) if value.is_integer() else value for value in row] for row in flat]


def _written(px: np.ndarray) -> np.ndarray:
    return np.round(px, DECIMALS) + 0.0  # + 0.0: no -0
