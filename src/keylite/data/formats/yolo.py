"""YOLO-pose: a data.yaml, folders of images, and beside them a text file per image with a line per object.

A line is `class cx cy width height x0 y0 [v0] x1 y1 [v1] ...` in fractions of the image; `kpt_shape: [K, 3]` or
`[K, 2]` says whether there are visibilities. The label of `images/a.jpg` is `labels/a.txt`. Sources:
https://docs.ultralytics.com/datasets/pose and `img2label_paths` and `verify_image_label` of ultralytics/data/utils.py,
which takes a negative x or y of [K, 2] for a point that is not there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.folders import is_picture
from keylite.data.formats.parts import PARTS, chosen_part, part_named
from keylite.data.formats.yaml_text import read_yaml
from keylite.data.labels import Labels, Wanted
from keylite.runtime.errors import DataError
from keylite.runtime.files import open_file
from keylite.runtime.skeleton import MAX_KEYPOINTS, Skeleton, unnamed
from keylite.runtime.texts import read_text
from keylite.runtime.words import counted, listed, quoted

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
TELLING = re.compile(rb"^(path|train|val|test|names|nc|kpt_shape|flip_idx)\s*:", re.MULTILINE)
FARTHEST = 2.0  # a fraction beyond this is px, which Ultralytics refuses, too
LARGEST_LIST = 500_000_000  # bytes of a list of images
OBJECT = "object"  # the category of objects whose file does not say it
BOX = 5  # numbers of a line before its keypoints: the class and the box


def is_yolo(start: bytes) -> bool:
    """Whether a text begins as a data.yaml."""
    return start[:1] not in b"{[<" and len(set(TELLING.findall(start))) > 1


def yaml_in(folder: Path) -> Path | None:
    """The data.yaml in a folder, or in the one above it for `images` and `labels`; None if there is none."""
    for place in (folder, folder.parent, folder.parent.parent):
        for name in YAML_NAMES:
            if (place / name).is_file():
                return place / name
        if place.name not in ("images", "labels") and not part_named(place.name):
            break
    return None


def yolo_parts(path: Path) -> dict[str, list[str]]:
    """The parts that a data.yaml, or the one of a folder, names, each with its folders or lists of images."""
    described = read_yaml(_yaml_of(path))
    parts = {}
    for part in PARTS:
        value = described.get(part) or (described.get("valid") if part == "val" else None)
        if value:
            parts[part] = [str(each) for each in (value if isinstance(value, list) else [value])]
    return parts


def read_yolo(path: Path, wanted: Wanted) -> Labels:
    """Read one part of a YOLO-pose data set, by its data.yaml or its folder."""
    folder, path = path, _yaml_of(path)
    described = read_yaml(path)
    keypoints, dims = _kpt_shape(path, described)
    classes = _names(described.get("names"))
    parts = yolo_parts(path)
    if not parts:
        raise DataError(f"{path}: expected train, val or test to name folders of images, got none of them")
    inside = part_named(folder.name) or part_named(folder.parent.name)  # a folder within the data set, images/val
    part = wanted.part or (inside if folder != path and folder != path.parent and inside in parts else None)
    places = chosen_part(path, parts, part)
    root = _root(path, described)
    pictures = [picture for place in places for picture in _pictures(path, root, place)]
    if not pictures:
        raise DataError(f"{path}: no picture lies in {', '.join(places)}")
    labels = _labels(path, pictures, described, keypoints, dims, classes, wanted)
    chosen = next(name for name, each in parts.items() if each is places)
    return dataclasses.replace(labels, part=chosen if len(parts) > 1 else "")


def _yaml_of(path: Path) -> Path:
    """The data.yaml that a path names, or that belongs to a folder."""
    found = yaml_in(path) if path.is_dir() else path
    if found is None:
        raise DataError(f"{path}: expected a data.yaml with kpt_shape in this folder, got none")
    return found


def _kpt_shape(path: Path, described: dict[str, Any]) -> tuple[int, int]:
    shape = described.get("kpt_shape")
    if shape is None:
        raise DataError(f"{path}: kpt_shape is missing, so these are labels without keypoints; add kpt_shape: [K, 3]")
    good = isinstance(shape, list) and len(shape) == 2 and all(type(each) is int for each in shape)
    if not good or not 0 < shape[0] <= MAX_KEYPOINTS or shape[1] not in (2, 3):
        raise DataError(f"{path}: kpt_shape: expected [K, 3], or [K, 2] without visibility, got {quoted(shape)}")
    named = described.get("kpt_names")
    for names in named.values() if isinstance(named, dict) else [named]:
        if names is not None and (not isinstance(names, list) or len(names) != shape[0]):
            got = len(names) if isinstance(names, list) else quoted(names)
            raise DataError(f"{path}: kpt_names: expected {shape[0]} names by kpt_shape, got {got}")
    return shape[0], shape[1]


def _names(value: object) -> dict[int, str]:
    """Class -> its name, from a list or a mapping."""
    pairs = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    return {int(key): str(name) for key, name in pairs if str(key).isdecimal()}


def _root(path: Path, described: dict[str, Any]) -> Path:
    """The folder in which the paths of a data.yaml start."""
    name = str(described.get("path") or "")
    folder = path.parent
    candidates = [folder / name, folder.parent / name, folder.parent / Path(name.replace("\\", "/")).name]
    return next((each for each in candidates if each.is_dir() and name), folder)


def _pictures(path: Path, root: Path, place: str) -> list[Path]:
    """The pictures of a folder and those below it, in the order of their names, or those of a list."""
    plain = place.replace("\\", "/")
    tries = [root / plain, path.parent / plain]
    if plain.startswith("../"):  # Roboflow writes ../train/images for train/images
        tries += [root / plain[3:], path.parent / plain[3:]]
    found = next((each for each in tries if each.exists()), None)
    if found is None:
        raise FileNotFoundError(f"{path}: no such folder or list of images: {tries[0]}")
    if found.is_dir():
        folders = sorted(os.walk(found, followlinks=True))
        return [Path(folder, name) for folder, _, names in folders for name in sorted(names) if is_picture(name)]
    lines = read_text(found, LARGEST_LIST).splitlines()
    names = [line.strip().replace("\\", "/") for line in lines]
    return [found.parent / name if name.startswith("./") else root / name for name in names if name]


def label_of(picture: Path) -> Path:
    """The label file of a picture: the last folder `images` in its path becomes `labels`."""
    parts = list(picture.with_suffix(".txt").parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            parts[at] = "labels"
            break
    return Path(*parts)


class _Lines:
    """The objects of all label files as compact columns, because there may be a million."""

    def __init__(self) -> None:
        self.values = array("d")
        self.images = array("i")
        self.classes = array("i")
        self.lines = array("i")


def _labels(
    path: Path,
    pictures: Sequence[Path],
    described: dict[str, Any],
    keypoints: int,
    dims: int,
    classes: dict[int, str],
    wanted: Wanted,
) -> Labels:
    bad: list[str] = []
    columns = _Lines()
    names, labels, without = [], [], 0
    for number, picture in enumerate(pictures):
        names.append(_below(path.parent, picture))
        label = label_of(picture)
        labels.append(_below(path.parent, label))
        try:
            with open_file(label) as file:
                data = file.read()
        except FileNotFoundError:
            without += 1
            continue
        _add(columns, data, number, labels[-1], BOX + keypoints * dims, classes, bad)
    if not len(columns.classes):
        why = listed("all lines are bad", bad) if bad else f"no object in {counted(len(pictures), 'picture')}"
        where = f"; {without} have no label file such as {labels[0]}" if without else ""
        raise DataError(f"{path}: the data set is empty: {why}{where}")
    notes = [f"{without} of {len(pictures)} images have no label file"] if without else []
    rows, category = _chosen(path, columns, classes, wanted, notes)
    table = np.frombuffer(columns.values, np.float64).reshape(-1, BOX - 1 + keypoints * dims)[rows]
    points = np.zeros((len(rows), keypoints, 3))
    points[..., :dims] = table[:, BOX - 1 :].reshape(len(rows), keypoints, dims)
    if dims == 2:
        points[..., 2] = np.where((points[..., :2] < 0).any(axis=2), 0, 2)
    middle, half = table[:, :2], table[:, 2:4] / 2
    lines = [columns.lines[row] for row in rows]
    index = np.frombuffer(columns.images, np.int32)[rows]
    kinds = sorted({columns.classes[row] for row in rows})
    return Labels(
        path=path,
        skeleton=_skeleton(path, described, keypoints, kinds, classes),
        image_names=names,
        sizes=np.full((len(names), 2), np.nan),
        image_index=index,
        points=points,
        box=np.concatenate([middle - half, middle + half], axis=1),
        area=np.full(len(rows), np.nan),
        where=lambda row: f"{labels[index[row]]} line {lines[row]}",
        fields={},
        bad=bad,
        notes=notes,
        once=True,
        unit="object",
        origin="corner",
        fractions=True,
        category=category,
    )


def _add(
    columns: _Lines, data: bytes, number: int, label: str, width: int, classes: dict[int, str], bad: list[str]
) -> None:
    """Append the objects of one label file; a line that cannot be read goes to `bad`."""
    for line, text in enumerate(data.splitlines(), start=1):
        cells = text.split()
        if not cells:
            continue
        try:
            values = array("d", map(float, cells))
            problem = "" if all(map(math.isfinite, values)) else "expected finite numbers"
        except ValueError:
            bad.append(f"{label} line {line}: expected numbers, got {quoted(text.decode('utf-8', 'replace'))}")
            continue
        if len(values) != width:
            problem = f"expected {width} numbers (class, box and keypoints by kpt_shape), got {len(values)}"
        elif not problem and (values[0] != int(values[0]) or (classes and int(values[0]) not in classes)):
            problem = f"no class has the number {values[0]:g}"
        elif not problem and max(values[1:5]) > FARTHEST:
            problem = f"expected fractions of the image from 0 to 1, got {max(values[1:5]):g}; are these px?"
        if problem:
            bad.append(f"{label} line {line}: {problem}")
            continue
        columns.classes.append(int(values[0]))
        columns.values.extend(values[1:])
        columns.images.append(number)
        columns.lines.append(line)


def _chosen(
    path: Path, columns: _Lines, classes: dict[int, str], wanted: Wanted, notes: list[str]
) -> tuple[np.ndarray, str]:
    """The numbers of the objects of the wanted category, and its name, which is empty if there are several."""
    found = np.frombuffer(columns.classes, np.int32)
    if wanted.category is None:
        kinds = np.unique(found).tolist()
        if len(kinds) > 1:
            notes.append(f"merged: {len(kinds)} categories with the same keypoints")
        return np.arange(len(found)), classes.get(kinds[0], "") if len(kinds) == 1 else ""
    numbers = [number for number, name in classes.items() if name == wanted.category]
    rows = np.flatnonzero(np.isin(found, numbers))
    if not len(rows):
        line = f"{path}: no object is of category {quoted(wanted.category)}; the names are"
        raise DataError(listed(line, list(classes.values())))
    if len(rows) < len(found):
        notes.append(f"left out: {counted(len(found) - len(rows), 'object')} of other categories")
    return rows, wanted.category


def _skeleton(
    path: Path, described: dict[str, Any], keypoints: int, kinds: list[int], classes: dict[int, str]
) -> Skeleton:
    """The skeleton that a data.yaml describes; kpt_names is a list, or a list for each class."""
    named = described.get("kpt_names")
    lists = [named.get(kind, named.get(str(kind))) for kind in kinds] if isinstance(named, dict) else [named]
    if len({tuple(each) if isinstance(each, list) else None for each in lists}) > 1:
        shown = [classes.get(kind, str(kind)) for kind in kinds]
        raise DataError(listed(f"{path}: categories differ in keypoints; choose one with `category=NAME`", shown))
    names = tuple(map(str, lists[0])) if isinstance(lists[0], list) else unnamed(keypoints)
    flips, edges = described.get("flip_idx"), described.get("skeleton")
    try:
        return Skeleton(names, tuple(map(tuple, edges)) if isinstance(edges, list) else (), flips or None)
    except (ValueError, TypeError) as error:
        what = str(error).replace("mirror:", "flip_idx:")
        raise DataError(f"{path}: {what}") from None


def _below(folder: Path, path: Path) -> str:
    """A path as the label file's folder sees it, with slashes."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()


# ---- writing


def yaml_of(data: Dataset, parts: Iterable[str]) -> bytes:
    """The data.yaml of a data set with these parts."""
    skeleton = data.skeleton
    lines = {
        "path": ".",
        **{part: f"images/{part}" for part in parts},
        "kpt_shape": [len(skeleton), 3],
        **({"flip_idx": list(skeleton.mirror)} if skeleton.mirror else {}),
        **({"skeleton": [list(edge) for edge in skeleton.edges]} if skeleton.edges else {}),
    }
    # JSON is YAML, so no name needs quotes of its own; but the keys of JSON are texts, and those of classes numbers
    text = "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in lines.items())
    for name, value in (("names", data.category or OBJECT), ("kpt_names", skeleton.names)):
        text += f"{name}:\n  0: {json.dumps(value, ensure_ascii=False)}\n"
    return text.encode()


def label_texts(data: Dataset, sizes: np.ndarray) -> list[bytes]:
    """The label file of each picture. sizes: (M, 2) width and height, px.

    An object without a box gets the smallest one around its points.
    """
    boxes = np.where(data.boxed[:, None], data.box, boxes_of_points(data.xy))
    size = np.tile(sizes[data.image_index], 2)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / size[:, :2]
    sides = (boxes[:, 2:] - boxes[:, :2]) / size[:, :2]
    points = np.concatenate([data.xy / size[:, None, :2], data.visible[..., None].astype(np.float64)], axis=2)
    points[data.visible == 0] = 0
    rows = np.concatenate([middle, sides, points.reshape(len(data), -1)], axis=1)
    lines: list[list[str]] = [[] for _ in data.images]
    for image, row in zip(data.image_index.tolist(), rows.tolist(), strict=True):
        lines[image].append(" ".join(["0", *(f"{value:.17g}" for value in row)]))
    return ["".join(f"{line}\n" for line in each).encode() for each in lines]


def boxes_of_points(xy: np.ndarray) -> np.ndarray:
    """(N, 4) xyxy: the smallest boxes that hold all points (N, K, 2), at least 1 px wide and high."""
    low = np.where(np.isnan(xy), np.inf, xy).min(axis=1)
    high = np.where(np.isnan(xy), -np.inf, xy).max(axis=1)
    grow = np.maximum(1 - (high - low), 0) / 2
    return np.concatenate([low - grow, high + grow], axis=1)
