"""A data set as the text of a COCO keypoints JSON file."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.runtime.images import image_size

DECIMALS = 10  # of written px: this removes the rounding errors of +0.5 and of flips, and nothing that matters


def coco_of(data: Dataset, points: np.ndarray) -> bytes:
    """The text of a COCO file with the objects of a data set at these points (N, K, 2), continuous image px."""
    skeleton = data.skeleton
    labelled = np.all(np.isfinite(points), axis=2)
    v = np.where(labelled, np.where(data.visible > 0, data.visible, 2), 0)
    rows = np.where(labelled[..., None], _written(points - 0.5), 0.0)
    rows = np.concatenate([rows, v[..., None]], axis=2).reshape(len(points), -1)
    boxes = np.concatenate([data.box[:, :2], _written(data.box[:, 2:] - data.box[:, :2])], axis=1)
    category: dict[str, Any] = {
        "id": 1,
        "name": data.category or data.name,
        "keypoints": skeleton.names,
        "skeleton": [(a + 1, b + 1) for a, b in skeleton.edges],
    }
    if skeleton.mirror is not None:
        category["flip_pairs"] = skeleton.mirror_pairs()
    if skeleton.sigmas is not None:
        category["sigmas"] = skeleton.sigmas
    images = []
    for number, (name, image) in enumerate(zip(data.image_names, data.images, strict=True), start=1):
        width, height = image_size(image)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    annotations = []
    ids = data.ids if len(set(data.ids)) == len(data) else range(1, len(data) + 1)
    for n in range(len(data)):
        annotation = {
            "id": ids[n],
            "image_id": int(data.image_index[n]) + 1,
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": int(labelled[n].sum()),
            "keypoints": [int(value) if value.is_integer() else value for value in rows[n].tolist()],
            "group": data.groups[data.group_index[n]],
        }
        if np.isfinite(boxes[n]).all():
            annotation["bbox"] = boxes[n].tolist()
        if np.isfinite(data.area[n]):
            annotation["area"] = float(data.area[n])
        annotations.append(annotation)
    whole = {"images": images, "annotations": annotations, "categories": [category]}
    return msgspec.json.encode(whole)


def _written(px: np.ndarray) -> np.ndarray:
    return np.round(px, DECIMALS) + 0.0  # + 0.0: no -0
