"""labelme: a folder with a JSON file per picture; points are shapes, and group_id says which belong together.

Source: `labelme/_label_file.py` (shapes with label, points, group_id, shape_type, flags; imagePath, imageHeight,
imageWidth) and https://github.com/wkentaro/labelme. Its canvas is Qt's, where a picture covers 0 to its width.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.formats.coco_text import plain_words
from keylite.data.formats.entries import HIDDEN_WORDS, WORDS, Box, Entries, Point, named_points
from keylite.data.labels import Labels, Wanted
from keylite.data.scale import FIELD as SCALE_FIELD
from keylite.data.scale import scales_of_images
from keylite.runtime.errors import DataError
from keylite.runtime.files import open_file

HELD = re.compile(rb'"imageData"\s*:\s*"')  # the picture itself in Base64; it may be as large as it likes
OBJECT = "object"  # the label of the box of an object whose file does not say what it is
IN_FILE = "or, because these files hold their pictures (imageData), save them with labelme_export_json"
Group = int | str | float | None


class Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]] = []
    shape_type: str = "polygon"
    group_id: Group = None
    flags: dict[str, Any] | None = None


class File(msgspec.Struct):
    shapes: list[Shape]
    imagePath: str  # noqa: N815 - labelme's name
    imageWidth: float | None = None  # noqa: N815
    imageHeight: float | None = None  # noqa: N815


def is_labelme(start: bytes) -> bool:
    """Whether JSON begins as a file of labelme; its picture, which may be inside, comes after the shapes."""
    return start[:1] == b"{" and b'"shapes"' in start and (b'"imagePath"' in start or b'"shape_type"' in start)


def read_labelme(path: Path, wanted: Wanted) -> Labels:
    """Read a folder of labelme's files, or a single one; each picture may have several objects, by group_id."""
    if path.is_dir():
        files = [Path(at, name) for at, _, names in sorted(os.walk(path)) for name in names if _is_json(name)]
        files.sort()
    else:
        files = [path]
    entries = Entries(path, wanted.fields)
    decode = msgspec.json.Decoder(File).decode
    fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode if wanted.fields else None
    others, held = 0, False
    for file_path in files:
        with open_file(file_path) as file:
            data = file.read().removeprefix(b"\xef\xbb\xbf")
        name = file_path.relative_to(path).as_posix() if path.is_dir() else file_path.name
        if path.is_dir() and b'"shapes"' not in data and data.lstrip()[:1] in (b"{", b"["):
            others += 1
            continue
        try:
            content = decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            entries.bad.append(f"{name}: {_broken(error)}")
            continue
        held = held or HELD.search(data) is not None
        fields = _fields(fields_of(data), wanted) if fields_of else {}
        folder = Path(name).parent.as_posix()
        image = content.imagePath.replace("\\", "/")
        image = image if folder == "." else f"{folder}/{image}"
        _add(entries, content, entries.image(image, content.imageWidth, content.imageHeight), name, fields)
    if others:
        entries.notes.append(f"left out: {others} of {len(files)} JSON files, which are not labelme's")
    labels = entries.labels(wanted.category)
    return dataclasses.replace(labels, without_images=IN_FILE if held else "")


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json") and not name.startswith(".")


def _broken(error: Exception) -> str:
    if isinstance(error, msgspec.ValidationError):
        return plain_words(error)
    return "expected text in UTF-8, got another encoding" if "utf-8" in str(error).lower() else "broken JSON"


def _fields(content: dict[str, msgspec.Raw], wanted: Wanted) -> dict[str, Any]:
    """The wanted group fields at the top level of a file."""
    values = {name: msgspec.json.decode(content[name]) for name in wanted.fields if name in content}
    return {name: value for name, value in values.items() if isinstance(value, WORDS)}


def _add(entries: Entries, content: File, image: int, name: str, fields: Mapping[str, Any]) -> None:
    """Add the objects of one picture."""
    points: dict[Group, list[tuple[str, Point]]] = {}
    boxes: dict[Group, list[tuple[str, Box]]] = {}
    for shape in content.shapes:
        if shape.shape_type == "point" and len(shape.points) == 1:
            hidden = any(value is True and word.lower() in HIDDEN_WORDS for word, value in (shape.flags or {}).items())
            points.setdefault(shape.group_id, []).append((shape.label, (*shape.points[0], 1.0 if hidden else 2.0)))
        elif shape.shape_type == "rectangle" and len(shape.points) == 2:
            (ax, ay), (bx, by) = shape.points  # any two opposite corners
            box = min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)
            boxes.setdefault(shape.group_id, []).append((shape.label, box))
        else:
            entries.left_out[f"{shape.shape_type} shape"] += 1
    for group, found in points.items():
        where = name if group is None else f"{name} group {group}"
        around = boxes.pop(group, [])
        if not around and len(points) == 1 and len(boxes) == 1 and len(next(iter(boxes.values()))) == 1:
            _, around = boxes.popitem()  # one object and one rectangle
        try:
            by_name = named_points(found)
            if len(around) > 1:
                raise DataError(f"{len(around)} rectangles; give those of other objects another group_id")
        except ValueError as error:
            hint = "; give each object a group_id" if group is None else ""
            entries.bad.append(f"{where}: {error}{hint}")
            continue
        category, box = around[0] if around else ("", None)
        identity = None if group is None else int(group) if isinstance(group, float) else group
        entries.add(image, by_name, where, box, identity, category, fields)
    if left := sum(map(len, boxes.values())):
        entries.left_out["rectangle without points"] += left


# ---- writing


def labelme_texts(data: Dataset, picture_paths: Sequence[str], sizes: np.ndarray) -> list[bytes]:
    """The file of each picture. picture_paths: as its file sees it. sizes: (M, 2) width and height, px."""
    objects: list[list[int]] = [[] for _ in data.images]
    for row, image in enumerate(data.image_index.tolist()):
        objects[image].append(row)
    texts = []
    scales = scales_of_images(data.mm_per_px, data.image_index, len(data.images))
    for image, rows in enumerate(objects):
        groups = group_ids(data, rows)
        shapes = []
        for row, group in zip(rows, groups, strict=True):
            if data.boxed[row]:
                x0, y0, x1, y1 = data.box[row].tolist()
                shapes.append(_shape(data.category or OBJECT, [[x0, y0], [x1, y1]], group, "rectangle", {}))
            for name, xy, v in zip(data.skeleton.names, data.xy[row].tolist(), data.visible[row].tolist(), strict=True):
                if v:
                    shapes.append(_shape(name, [xy], group, "point", {"occluded": True} if v == 1 else {}))
        of_image = {data.groups[data.group_index[row]] for row in rows}
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": picture_paths[image],
            "imageData": None,
            "imageHeight": int(sizes[image][1]),
            "imageWidth": int(sizes[image][0]),
            **({"group": of_image.pop()} if data.groups_named and len(of_image) == 1 else {}),
            **({} if scales[image] is None else {SCALE_FIELD: scales[image]}),
        }
        texts.append(json.dumps(content, ensure_ascii=False, indent=2).encode())
    return texts


def group_ids(data: Dataset, rows: Sequence[int]) -> list[int | None]:
    """The number of each object of one picture: its id if all have whole ids; none if there is a single object."""
    ids = [data.ids[row] for row in rows] if data.ids else []
    whole = [key for key in ids if isinstance(key, int) and key > 0]
    if rows and len(set(whole)) == len(rows):
        return list(whole)
    return list(range(1, len(rows) + 1)) if len(rows) > 1 else [None] * len(rows)


def _shape(
    label: str, points: list[list[float]], group: int | None, kind: str, flags: dict[str, bool]
) -> dict[str, Any]:
    return {
        "label": label, "points": points, "group_id": group, "description": "", "shape_type": kind, "flags": flags,
        "mask": None,
    }  # fmt: skip
