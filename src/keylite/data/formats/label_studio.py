"""Label Studio: tasks with regions in per cent of the picture, exported as JSON or as JSON-MIN.

A region of `keypointlabels` is a point. Its object is the rectangle that `parentID`, or a relation, joins it to.
Without either, a picture holds one object. 0 and 100 % are the edges of the picture. Sources:
https://labelstud.io/guide/task_format, https://labelstud.io/tags/keypointlabels, https://labelstud.io/guide/export.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.formats.entries import HIDDEN_WORDS, Box, Entries, Point, named_points, number
from keylite.data.formats.scores import Scores, figure
from keylite.data.labels import Labels, Wanted
from keylite.data.scale import FIELD as SCALE_FIELD
from keylite.data.scale import scales_of_images
from keylite.data.spelling import canonical
from keylite.runtime.errors import DataError
from keylite.runtime.files import open_file
from keylite.runtime.images import IMAGE_SUFFIXES
from keylite.runtime.words import listed

POINT, BOX, CHOICES = "keypointlabels", "rectanglelabels", "choices"
TELLING = re.compile(rb'"(annotations|completions|keypointlabels|annotation_id)"\s*:')
OBJECT = "object"  # the label of a box whose file does not say what it is
LOCAL = "/data/local-files/?d="  # how Label Studio serves a file below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT
IMAGE_KEYS = ("image", "img", "image_url", "url", "path")
Region = Mapping[str, Any]


def is_label_studio(start: bytes) -> bool:
    """Whether JSON begins as a list of Label Studio's tasks."""
    return start[:1] == b"[" and TELLING.search(start) is not None


def read_label_studio(path: Path, wanted: Wanted) -> Labels:
    """Read an export of Label Studio, JSON or JSON-MIN."""
    with open_file(path) as file:
        data = file.read().removeprefix(b"\xef\xbb\xbf")
    try:
        raws = msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: broken JSON: {str(error).split(' (byte')[0]}") from None
    entries = Entries(path, wanted.fields)
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for place, raw in enumerate(raws, start=1):
        where = f"task number {place}"
        try:
            task = decode(raw)
            where = f"task {task['id']}" if isinstance(task.get("id"), (int, str)) else where
            _add(entries, task, where)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            entries.bad.append(f"{where}: broken JSON")
        except ValueError as error:
            entries.bad.append(f"{where}: {error}")
    labels = entries.labels(wanted.category)
    return dataclasses.replace(labels, fractions=True, unit="task")


def _add(entries: Entries, task: Mapping[str, Any], where: str) -> None:
    """Add the objects of one task."""
    data = task.get("data")
    if isinstance(data, dict):
        result = _result(task, entries)
    else:  # JSON-MIN: the fields of the task itself, and a list of regions per tag
        data = task
        result = list(_regions_of_min(task))
    if result is None:
        return
    picture = _picture(data)
    width, height = _size(result)
    image = entries.image(picture, width, height)
    parts = _parts(result, entries)
    for one in _objects(parts):
        name = f"{where} ({picture})" if one.name is None else f"{where} ({picture}) region {one.name}"
        try:
            if len(one.boxes) > 1:
                raise DataError("several rectangles; relate each point to its own")
            category, box = one.boxes[0] if one.boxes else ("", None)
            entries.add(image, named_points(one.points), name, box, one.name, category, data)
        except ValueError as error:
            hint = "; relate each point to its rectangle" if one.name is None else ""
            entries.bad.append(f"{name}: {error}{hint}")


def _result(task: Mapping[str, Any], entries: Entries) -> list[Region] | None:
    """The regions of a task's one annotation; None if there is none, or it was cancelled."""
    found = task.get("annotations", task.get("completions"))
    done = [each for each in (found or []) if isinstance(each, dict) and not each.get("was_cancelled")]
    if len(done) > 1:
        truth = [each for each in done if each.get("ground_truth")]
        if len(truth) != 1:
            ids = [str(each.get("id")) for each in done]
            raise DataError(listed(f"{len(done)} annotations for one picture; mark one as ground truth", ids))
        done = truth
    if not done:
        entries.left_out[
            "task without an annotation" if not task.get("predictions") else "task with predictions alone"
        ] += 1
        return None
    return [each for each in done[0].get("result") or [] if isinstance(each, dict)]


def _regions_of_min(task: Mapping[str, Any]) -> Iterator[Region]:
    """The regions of a task of JSON-MIN as those of JSON; it has no ids, so nothing joins a point to a rectangle."""
    for values in task.values():
        for value in values if isinstance(values, list) else ():
            if isinstance(value, dict):
                kind = next((kind for kind in (POINT, BOX) if kind in value), "other")
                yield {**value, "type": kind, "value": value}


def _picture(data: Mapping[str, Any]) -> str:
    """The name of a task's picture: under `image`, or the only text that ends as pictures do."""
    for key in IMAGE_KEYS:
        if isinstance(data.get(key), str):
            return unquote(data[key].removeprefix(LOCAL)) if data[key].startswith(LOCAL) else data[key]
    found = [value for value in data.values() if isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES)]
    if len(found) != 1:
        raise DataError(f"expected the picture under `image`, got {', '.join(map(str, list(data)[:5])) or 'nothing'}")
    return found[0]


def _size(result: list[Region]) -> tuple[float | None, float | None]:
    """The size of the picture that the regions were drawn on, if they say it."""
    for region in result:
        width, height = region.get("original_width"), region.get("original_height")
        if isinstance(width, (int, float)) and isinstance(height, (int, float)):
            return float(width), float(height)
    return None, None


class _Parts(NamedTuple):
    """The regions of a task by kind."""

    points: list[tuple[str, str, Point]]  # id, name, point
    boxes: dict[str, tuple[str, Box]]  # id -> category, box
    parent: dict[str, str]  # id of a point -> id of its rectangle


def _parts(result: list[Region], entries: Entries) -> _Parts:
    hidden = {str(each.get("id")) for each in result if each.get("type") == CHOICES and _says_hidden(each)}
    parts = _Parts([], {}, {})
    relations: list[tuple[str, str]] = []
    for at, region in enumerate(result):
        kind, value, name = region.get("type"), region.get("value"), str(region.get("id", f"number {at + 1}"))
        if kind == "relation":
            relations.append((str(region.get("from_id")), str(region.get("to_id"))))
        if kind not in (POINT, BOX) or not isinstance(value, dict):
            if kind not in ("relation", CHOICES):
                entries.left_out[f"{kind} region"] += 1
            continue
        if region.get("image_rotation"):
            raise DataError("the picture was turned in Label Studio; turn the file itself and label it again")
        label = value.get(kind)
        if not isinstance(label, list) or len(label) != 1 or not isinstance(label[0], str):
            raise DataError(f"region {name}: expected one label, got {label!r:.60}")
        x, y = (number(value.get(axis), f"region {name}: {axis}") for axis in "xy")
        if kind == POINT:
            parts.points.append((name, label[0], (x / 100, y / 100, 1.0 if name in hidden else 2.0)))
        else:
            if value.get("rotation"):
                raise DataError(f"region {name}: the rectangle is turned; keylite's boxes are upright")
            width, height = (number(value.get(side), f"region {name}: {side}") for side in ("width", "height"))
            parts.boxes[name] = label[0], (x / 100, y / 100, (x + width) / 100, (y + height) / 100)
        if region.get("parentID"):
            parts.parent[name] = str(region["parentID"])
    for one, other in relations:  # drawn in either direction
        parts.parent.update({one: other} if other in parts.boxes else {other: one} if one in parts.boxes else {})
    return parts


def _says_hidden(region: Region) -> bool:
    value = region.get("value")
    choices = value.get(CHOICES) if isinstance(value, dict) else None
    return isinstance(choices, list) and any(str(choice).lower() in HIDDEN_WORDS for choice in choices)


class _Object(NamedTuple):
    name: str | None
    points: list[tuple[str, Point]]
    boxes: list[tuple[str, Box]]


def _objects(parts: _Parts) -> Iterator[_Object]:
    """The objects of a task: the points of each rectangle, and all points that belong to none."""
    groups: dict[str | None, list[tuple[str, Point]]] = {}
    for region, name, point in parts.points:
        parent = parts.parent.get(region)
        groups.setdefault(parent if parent in parts.boxes else None, []).append((name, point))
    free = [box for name, box in parts.boxes.items() if name not in groups]
    for name, points in groups.items():
        boxes = [parts.boxes[name]] if name is not None else free if len(groups) == 1 else []
        yield _Object(name, points, boxes)


# ---- writing


def label_studio_text(data: Dataset, sizes: np.ndarray, scores: Scores | None = None) -> bytes:
    """The tasks of a data set as JSON. sizes: (M, 2) width and height, px. With scores, points are predictions.

    Points lie in the rectangle of their object, as Label Studio says it: by parentID. Raises DataError if the objects
    of a picture cannot be told apart.
    """
    rows_of: list[list[int]] = [[] for _ in data.images]
    for row, image in enumerate(data.image_index.tolist()):
        rows_of[image].append(row)
    tasks = []
    scales = scales_of_images(data.mm_per_px, data.image_index, len(data.images))
    for image, rows in enumerate(rows_of):
        if len(rows) > 1 and not data.boxed[rows].all():
            raise DataError(
                f"{data.image_names[image]}: it has {len(rows)} objects, and Label Studio tells them apart by their "
                "boxes, which are missing; choose another format, such as labelme"
            )
        result: list[dict[str, Any]] = []
        for row in rows:
            result += _regions(data, row, sizes[image].tolist(), scores)
        groups = {data.groups[data.group_index[row]] for row in rows}
        fields: dict[str, Any] = {"group": groups.pop()} if data.groups_named and len(groups) == 1 else {}
        if scales[image] is not None:
            fields[SCALE_FIELD] = scales[image]
        done: dict[str, Any] = {"result": result}
        if scores:
            known = [score for row in rows if (score := scores.of_object(row)) is not None]
            done |= {"model_version": scores.model} | ({"score": figure(float(np.mean(known)))} if known else {})
        content = {"image": served(data.image_names[image]), **fields}
        tasks.append({"id": image + 1, "data": content, "predictions" if scores else "annotations": [done]})
    return json.dumps(tasks, ensure_ascii=False, indent=1).encode()


def served(name: str) -> str:
    """The address at which Label Studio serves a picture from its folder of local files; an address stays as it is."""
    return name if "://" in name or name.startswith("/data/") else LOCAL + quote(canonical(name).lstrip("/"))


def _regions(data: Dataset, row: int, size: Sequence[float], scores: Scores | None) -> Iterator[dict[str, Any]]:
    """The regions of one object: its box, its points, and a choice for each hidden point."""
    width, height = size
    usual = {"original_width": int(width), "original_height": int(height), "image_rotation": 0, "to_name": "image"}
    identity = str(data.ids[row]) if data.ids else f"object-{row + 1}"
    parent = {"parentID": identity} if data.boxed[row] else {}
    if data.boxed[row]:
        x0, y0, x1, y1 = data.box[row].tolist()
        box = {"x": 100 * x0 / width, "y": 100 * y0 / height, "rotation": 0, BOX: [data.category or OBJECT]}
        box |= {"width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height}
        yield usual | {"id": identity, "type": BOX, "from_name": "box", "value": box}
    for k, (x, y) in enumerate(data.xy[row].tolist()):
        if not data.visible[row, k]:
            continue
        value = {"x": 100 * x / width, "y": 100 * y / height, "width": 0.5}
        name = f"point-{row + 1}-{k + 1}"
        point = value | {POINT: [data.skeleton.names[k]]}
        sure = figure(scores.score[row, k]) if scores else None
        score = {} if sure is None else {"score": sure}
        yield usual | {"id": name, "type": POINT, "from_name": "point", "value": point} | parent | score
        if data.visible[row, k] == 1:
            choice = value | {CHOICES: ["occluded"]}
            yield usual | {"id": name, "type": CHOICES, "from_name": "visibility", "value": choice}
