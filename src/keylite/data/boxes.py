"""Boxes from a file, say a detector's: {"photo.jpg": [[x0, y0, x1, y1], ...]}, and which object each is for.

Continuous xyxy px. Knows nothing of models.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.spelling import canonical
from keylite.runtime.boxes import as_boxes
from keylite.runtime.errors import DataError
from keylite.runtime.texts import read_json
from keylite.runtime.types import FilePath
from keylite.runtime.words import first_of, listed, quoted

log = logging.getLogger("keylite")


def read_boxes(path: Path) -> dict[str, np.ndarray]:
    """The boxes of a JSON file {"photo.jpg": [[x0, y0, x1, y1], ...]}, (N, 4) xyxy px by image name."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file of boxes")
    try:
        listing = read_json(path)
        if not isinstance(listing, dict):
            raise DataError(f"{path}: got no object")
        if {"images", "annotations"} <= listing.keys():
            raise DataError(f"{path}: got a COCO file")
    except ValueError as error:
        raise DataError(f'{error}; expected JSON like {{"photo.jpg": [[x0, y0, x1, y1], ...]}}') from None
    found = {}
    spelt: dict[str, str] = {}
    for name, boxes in listing.items():
        if (other := spelt.setdefault(canonical(name), name)) != name:
            raise DataError(
                f"{path}: one image is there twice, as {quoted(other)} and as {quoted(name)}; leave one out"
            )
        try:
            found[name] = as_boxes(boxes)
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: {name}: {error}") from None
    return found


def boxes_for(paths: list[Path], asked: dict[str, np.ndarray], file: FilePath = "boxes") -> dict[Path, np.ndarray]:
    """The boxes of each image, by its path in any spelling, else by its file name.

    Raises ValueError naming every image without an entry; a file name that two images share stands for neither. Entries
    for other images are counted in the log. file: what messages call where the boxes are from.
    """
    found: dict[Path, np.ndarray] = {}
    problems, used = [], set()
    names = Counter(path.name for path in paths)
    spelt = {canonical(name): name for name in asked}
    for path in paths:
        keys = [str(path), path.as_posix(), spelt.get(canonical(str(path)), "")]
        keys += [path.name] if names[path.name] == 1 else []
        key = next((key for key in keys if key in asked), None)
        if key is None:
            problems.append(str(path))
        else:
            found[path] = asked[key]
            used.add(key)
    if problems:
        line = listed(f"{file}: no entry for {len(problems)} of {len(paths)} images", problems)
        there = f"the names in it are {first_of(list(asked), 3, ', ')}" if asked else "it holds none"
        raise DataError(f"{line}; add one each, [] where there is no object; {there}")
    if len(used) < len(asked):
        others = [name for name in asked if name not in used]
        log.info(listed(f"{file}: {len(others)} entries are for none of these images", others))
    return found


def dataset_boxes(asked: dict[str, np.ndarray], dataset: Dataset, file: FilePath = "boxes") -> np.ndarray:
    """(N, 4) boxes in the data set's order: the n-th box of an image is for its n-th object. file: see `boxes_for`."""
    boxes = np.zeros((len(dataset), 4))
    boxes_by_path = boxes_for([Path(name) for name in dataset.image_names], asked, file)
    by_image = np.argsort(dataset.image_index, kind="stable")
    starts = np.searchsorted(dataset.image_index[by_image], np.arange(1, len(dataset.images)))
    for name, objects in zip(dataset.image_names, np.split(by_image, starts), strict=True):
        given = boxes_by_path[Path(name)]
        if len(given) != len(objects):
            raise DataError(f"{file}: {name} has {len(objects)} labelled objects, got {len(given)} boxes")
        boxes[objects] = given
    return boxes
