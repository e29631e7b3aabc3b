"""Boxes from a file, such as a detector's, by image name, and which labelled object each belongs to.

The file is JSON: {"photo.jpg": [[x0, y0, x1, y1], ...]}, in continuous px of the image.
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
    """Image name -> its boxes (N, 4) xyxy px, from a JSON file {"photo.jpg": [[x0, y0, x1, y1], ...]}."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file of boxes")
    try:
        listing = read_json(path)
        if not isinstance(listing, dict):
            raise DataError(f"{path}: got JSON of another form")
        if {"images", "annotations"} <= listing.keys():
            raise DataError(f"{path}: got a COCO file")
    except ValueError as error:
        raise DataError(f'{error}; expected JSON like {{"photo.jpg": [[x0, y0, x1, y1], ...]}}') from None
    boxes_by_name = {}
    spelt: dict[str, str] = {}
    for name, boxes in listing.items():
        if (other := spelt.setdefault(canonical(name), name)) != name:
            raise DataError(
                f"{path}: one image is there twice, as {quoted(other)} and as {quoted(name)}; leave one out"
            )
        try:
            boxes_by_name[name] = as_boxes(boxes)
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: {name}: {error}") from None
    return boxes_by_name


def boxes_for(
    paths: list[Path], boxes_by_name: dict[str, np.ndarray], file: FilePath = "boxes"
) -> dict[Path, np.ndarray]:
    """The boxes of each image, by its path in any spelling, else by its file name if no other image has this name.

    Raises DataError, with the names of all images that have no entry. Entries for other images are counted in the log.
    file: the source of the boxes, for messages.
    """
    boxes_by_path: dict[Path, np.ndarray] = {}
    problems, used = [], set()
    names = Counter(path.name for path in paths)
    spelt = {canonical(name): name for name in boxes_by_name}
    for path in paths:
        keys = [str(path), path.as_posix(), spelt.get(canonical(str(path)), "")]
        keys += [path.name] if names[path.name] == 1 else []
        key = next((key for key in keys if key in boxes_by_name), None)
        if key is None:
            problems.append(str(path))
        else:
            boxes_by_path[path] = boxes_by_name[key]
            used.add(key)
    if problems:
        line = listed(f"{file}: no entry for {len(problems)} of {len(paths)} images", problems)
        first_names = first_of(list(boxes_by_name), 3, ", ")
        entries = f"the names in it are {first_names}" if boxes_by_name else "it has no entries"
        raise DataError(f"{line}; add an entry for each, [] if there is no object; {entries}")
    if len(used) < len(boxes_by_name):
        others = [name for name in boxes_by_name if name not in used]
        log.info(listed(f"{file}: {len(others)} entries are for none of these images", others))
    return boxes_by_path


def dataset_boxes(boxes_by_name: dict[str, np.ndarray], dataset: Dataset, file: FilePath = "boxes") -> np.ndarray:
    """(N, 4) boxes in the data set's order: the n-th box of an image is for its n-th object. file: see `boxes_for`."""
    boxes = np.zeros((len(dataset), 4))
    boxes_by_path = boxes_for([Path(name) for name in dataset.image_names], boxes_by_name, file)
    by_image = np.argsort(dataset.image_index, kind="stable")
    starts = np.searchsorted(dataset.image_index[by_image], np.arange(1, len(dataset.images)))
    for name, objects in zip(dataset.image_names, np.split(by_image, starts), strict=True):
        image_boxes = boxes_by_path[Path(name)]
        if len(image_boxes) != len(objects):
            raise DataError(f"{file}: {name} has {len(objects)} labelled objects, got {len(image_boxes)} boxes")
        boxes[objects] = image_boxes
    return boxes
