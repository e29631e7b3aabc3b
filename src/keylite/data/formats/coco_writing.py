"""Writing a data set as COCO keypoints JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from keylite.data.dataset import Dataset, require_datasets
from keylite.runtime.boxes import real_numbers
from keylite.runtime.errors import DataError
from keylite.runtime.files import require_outputs, write_bytes
from keylite.runtime.images import image_size
from keylite.runtime.types import FilePath, Points

DECIMALS = 10  # of written px: this removes the rounding errors of +0.5 and of flips, and nothing that matters


def write_coco(data: Dataset, path: FilePath, xy: Points | None = None) -> None:
    """Write a data set as COCO keypoints JSON; `read_dataset` gives the same objects back.

    The file appears whole or not at all. Points are written as pixel indices (0.5 less) with 10 decimals, edges count
    from 1, mirror pairs are `flip_pairs`, and the group is a field of the annotation. `file_name` is the image name of
    the data set, so to read a file that does not lie beside its images, name their folder.

    Args:
        data: The data set.
        path: The file to write. A file that is there already is replaced, but not the data set's own label file.
        xy: (N, K, 2) continuous image px, written instead of the labels, such as predictions; NaN for no point. None
            writes the labels.

    Raises:
        ArgumentError: `path` is the data set's own label file, one of its images, or a folder.
        DataError: `xy` has another shape than the labels.
        FileNotFoundError: An image file, whose header gives its size, is missing.
        ImageError: The header of an image cannot be read.
    """
    require_datasets(data=data)
    skeleton, points = data.skeleton, data.xy if xy is None else real_numbers(xy)
    require_outputs({"path": path}, data.files_named((Path(path).name,)))
    if points.shape != data.xy.shape:
        raise DataError(f"xy: expected shape {data.xy.shape}, as the data set has, got {points.shape}")
    labelled = np.all(np.isfinite(points), axis=2)
    v = np.where(labelled, np.where(data.visible > 0, data.visible, 2), 0)
    rows = np.where(labelled[..., None], _written(points - 0.5), 0.0)
    rows = np.concatenate([rows, v[..., None]], axis=2).reshape(len(points), -1)
    boxes = np.concatenate([data.box[:, :2], _written(data.box[:, 2:] - data.box[:, :2])], axis=1)
    category: dict[str, Any] = {
        "id": 1,
        "name": data.name,
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
    for n in range(len(data)):
        annotation = {
            "id": n + 1,
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
    write_bytes(path, msgspec.json.encode(whole))


def _written(px: np.ndarray) -> np.ndarray:
    return np.round(px, DECIMALS) + 0.0  # + 0.0: no -0
