"""VIA (VGG Image Annotator 1 and 2): a project, or its annotations as JSON or CSV; points are regions of a picture.

Source: https://www.robots.ox.ac.uk/~vgg/software/via (docs/face_track_annotation and the JSON it exports): a point has
cx and cy, in px of the picture from its corner, rounded; region_attributes say what it is.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keylite.data.formats.entries import HIDDEN_WORDS, Box, Entries, Point, named_points, number
from keylite.data.formats.tables import rows_of
from keylite.data.labels import Labels, Wanted
from keylite.runtime.errors import DataError
from keylite.runtime.skeleton import unnamed
from keylite.runtime.texts import read_json

TELLING = re.compile(rb'"(_via_settings|_via_img_metadata|shape_attributes|region_attributes|file_attributes)"')
COLUMNS = b"region_shape_attributes"
NAMES = (
    "keypoint",
    "landmark",
    "point",
    "name",
    "label",
    "part",
    "type",
    "class",
)  # attributes that say what a point is
OBJECTS = ("object", "object_id", "instance", "individual", "group", "group_id", "id")  # whose point it is
Region = tuple[Mapping[str, Any], Mapping[str, Any]]  # shape and attributes


def is_via(start: bytes) -> bool:
    """Whether a JSON or a table begins as VIA's."""
    return TELLING.search(start) is not None if start[:1] == b"{" else COLUMNS in start.split(b"\n", 1)[0]


def read_via(path: Path, wanted: Wanted) -> Labels:
    """Read a project of VIA, or its annotations."""
    entries = Entries(path, wanted.fields)
    pictures = list(_of_table(path) if COLUMNS in path.read_bytes()[:4096].split(b"\n", 1)[0] else _of_json(path))
    naming = _naming(pictures)
    for name, attributes, regions in pictures:
        try:
            _add(entries, name, attributes, regions, naming)
        except ValueError as error:
            entries.bad.append(f"{name}: {error}")
    if naming is None and pictures:
        entries.notes.append("points have no names: they are called k0, k1, ... in the order of their regions")
    return dataclasses.replace(entries.labels(wanted.category), unit="picture")


Picture = tuple[str, Mapping[str, Any], list[Region]]  # name, attributes of the file, regions


def _of_json(path: Path) -> Iterator[Picture]:
    content = read_json(path)
    pictures = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(pictures, dict):
        raise DataError(f"{path}: expected a project of VIA, or its annotations as JSON")
    for key, picture in pictures.items():
        if not isinstance(picture, dict) or not isinstance(picture.get("filename"), str):
            if key.startswith("_via"):
                continue
            raise DataError(f"{path}: {key!r:.60}: expected a picture with filename and regions")
        regions = picture.get("regions") or []
        values = regions.values() if isinstance(regions, dict) else regions  # VIA 1 numbers them
        pairs = [(_dict(each, "shape_attributes"), _dict(each, "region_attributes")) for each in values]
        yield picture["filename"], _dict(picture, "file_attributes"), pairs


def _of_table(path: Path) -> Iterator[Picture]:
    rows = rows_of(path)
    header = [cell.strip().lstrip("#") for cell in rows[0][1]]
    pictures: dict[str, tuple[Mapping[str, Any], list[Region]]] = {}
    for line, row in rows[1:]:
        cells = dict(zip(header, row, strict=False))
        try:
            shape, attributes, of_file = (
                json.loads(cells.get(name) or "{}")
                for name in ("region_shape_attributes", "region_attributes", "file_attributes")
            )
        except (ValueError, RecursionError):
            raise DataError(f"{path}: line {line}: expected JSON in the columns of attributes") from None
        if not all(isinstance(each, dict) for each in (shape, attributes, of_file)) or not cells.get("filename"):
            raise DataError(f"{path}: line {line}: expected a filename and attributes")
        _, regions = pictures.setdefault(cells["filename"], (of_file, []))
        if shape:
            regions.append((shape, attributes))
    for name, (of_file, regions) in pictures.items():
        yield name, of_file, regions


def _dict(value: object, key: str) -> Mapping[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _naming(pictures: list[Picture]) -> str | None:
    """The attribute that says what a point is: a usual one, or the only one that all points have; None if none does."""
    counts: Counter[str] = Counter()
    points = 0
    for _, _, regions in pictures:
        for shape, attributes in regions:
            if shape.get("name") == "point":
                points += 1
                counts.update(key for key, value in attributes.items() if isinstance(value, str) and value)
    whole = [key for key, count in counts.items() if count == points]
    usual = [each for key in NAMES for each in whole if each.lower() == key]
    others = [key for key in whole if key.lower() not in OBJECTS]
    return usual[0] if usual else others[0] if len(others) == 1 else None


def _add(entries: Entries, name: str, of_file: Mapping[str, Any], regions: list[Region], naming: str | None) -> None:
    """Add the objects of one picture."""
    image = entries.image(name)
    points: dict[str, list[tuple[str, Point]]] = {}
    boxes: dict[str, list[Box]] = {}
    for shape, attributes in regions:
        kind = shape.get("name")
        owner = next((str(attributes[key]) for key in OBJECTS if attributes.get(key) and key != naming), "")
        if kind == "point":
            v = 1.0 if any(attributes.get(word) in (True, "true", "1", "yes") for word in HIDDEN_WORDS) else 2.0
            place = number(shape.get("cx"), "cx"), number(shape.get("cy"), "cy"), v
            found = points.setdefault(owner, [])
            found.append((str(attributes[naming]) if naming else unnamed(len(found) + 1)[-1], place))
        elif kind == "polyline":
            xs, ys = shape.get("all_points_x") or [], shape.get("all_points_y") or []
            if len(xs) != len(ys) or not xs:
                raise DataError(f"polyline: expected as many x as y, got {len(xs)} and {len(ys)}")
            pairs = [(number(x, "x"), number(y, "y"), 2.0) for x, y in zip(xs, ys, strict=True)]
            entries.add(image, dict(zip(unnamed(len(pairs)), pairs, strict=True)), name, fields=of_file)
        elif kind == "rect":
            x, y, width, height = (number(shape.get(side), side) for side in ("x", "y", "width", "height"))
            boxes.setdefault(owner, []).append((x, y, x + width, y + height))
        else:
            entries.left_out[f"{kind} region"] += 1
    for owner, found in points.items():
        where = f"{name} object {owner}" if owner else name
        around = boxes.get(owner, [])
        try:
            if len(around) > 1:
                raise DataError(f"{len(around)} boxes; say whose point each is by an attribute object")
            entries.add(image, named_points(found), where, around[0] if around else None, owner or None, "", of_file)
        except ValueError as error:
            hint = "" if owner else "; say whose point each is by an attribute object"
            entries.bad.append(f"{where}: {error}{hint}")
