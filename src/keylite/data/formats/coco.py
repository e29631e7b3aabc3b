"""COCO keypoints JSON, read.

Annotations are decoded one by one from the raw text: a bad one is named, not the end of the file, and a million of
them never exist as Python objects at once. Knows nothing of images on disk or of how points are used.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from keylite.data import mirror
from keylite.data.labels import Labels
from keylite.data.problems import one_skeleton, require_whole_objects
from keylite.runtime.errors import DataError
from keylite.runtime.skeleton import Skeleton, unnamed
from keylite.runtime.texts import require_each_once
from keylite.runtime.words import clipped, counted, listed, quoted

Id = int | str | float  # 1.0, as pandas writes a column with a gap, is 1
Number = float | None  # null is NaN
FieldsReader = Callable[[msgspec.Raw], list[str | None]]
IMAGE_NAMES = ("file_name",)  # what an entry that says it twice is refused for
ANNOTATION_NAMES = ("image_id", "category_id", "keypoints", "bbox")
NO_BOX: list[Number] = [None] * 4
NOT_JSON = re.compile(rb"(?<=[\[,:\s])-?(?:NaN|Infinity)(?=[\],}\s])")  # what Python's json writes all the same
ESCAPED = re.compile(r'["\\\x00-\x1f]')  # what no key holds as it is written in JSON
SHAPES = {  # field of an annotation: how COCO writes it
    "keypoints": "COCO writes x, y and visibility of all keypoints as one flat list of numbers",
    "bbox": "COCO writes [x, y, width, height]",
}


class Category(msgspec.Struct):
    id: Id
    name: str = ""
    keypoints: list[str] | None = None
    skeleton: list[tuple[int, int]] | None = None
    flip_pairs: list[tuple[int | str, int | str]] | None = None
    sigmas: list[float] | None = None


class Image(msgspec.Struct):
    id: Id
    file_name: str
    width: Number = None
    height: Number = None


class Annotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    id: Id | None = None
    iscrowd: float | bool | None = 0
    keypoints: list[Number] | None = None
    bbox: tuple[Number, Number, Number, Number] | None = None
    area: Number = None


class File(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[Category]


def read_coco(path: Path, category: str | None, fields: tuple[str, ...]) -> Labels:
    """The labels of a COCO file; of one category by name, else of all that share their keypoints.

    Crowds and annotations without keypoints are left out and counted. Raises ValueError where the file is not COCO, or
    has categories of different keypoints and none is chosen.
    """
    notes: list[str] = []
    data, file = _decoded(path, notes)
    require_each_once(path, data, ((file.images, IMAGE_NAMES), (file.annotations, ANNOTATION_NAMES)))
    categories = {entry.id: entry for entry in file.categories}
    if len(categories) < len(file.categories):
        raise DataError(f"{path}: two categories have the same id")
    wanted = set(categories)
    if category is not None:
        wanted = {entry.id for entry in file.categories if entry.name == category}
        if not wanted:
            names = [entry.name for entry in file.categories]
            raise DataError(listed(f"{path}: no category is named {quoted(category)}; the names are", names))

    bad: list[str] = []
    fields = tuple(
        name for name in fields if not ESCAPED.search(name) and (not name.isascii() or f'"{name}"'.encode() in data)
    )
    fields_of = _fields_reader(path, fields)
    names, sizes, image_of, image_fields = _images(file.images, fields_of if fields else None, bad)
    decode = msgspec.json.Decoder(Annotation).decode
    values, lengths, boxes, areas, image_index = array("d"), array("l"), array("d"), array("d"), array("i")
    ids: list[Id | None] = []
    category_ids: list[Id] = []
    group_values: dict[str, list[str | None]] = {name: [] for name in fields}
    seen: set[Id] = set()
    left_out: Counter[tuple[str, str]] = Counter()  # noun, and what is said of it
    raw = msgspec.Raw()
    for number, raw in enumerate(file.annotations, start=1):
        try:
            entry = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            what = _plain(error)
            shape = SHAPES.get(re.split(r"[:\[]", what)[0])
            bad.append(f"annotation number {number}: {what}{f' ({shape})' if shape else ''}")
            continue
        if entry.iscrowd:
            left_out["crowd annotation", ""] += 1
            continue
        if entry.category_id in categories and entry.category_id not in wanted:
            left_out["annotation", " of other categories"] += 1
            continue
        if not entry.keypoints:
            left_out["annotation", " without keypoints"] += 1
            continue
        at = image_of.get(entry.image_id)
        if at is None or entry.category_id not in categories or entry.id in seen:
            bad.append(_misfit(entry, number, image_of, categories))
            continue
        if entry.id is not None:
            seen.add(entry.id)
        _extend(values, entry.keypoints)
        lengths.append(len(entry.keypoints))
        _extend(boxes, list(entry.bbox) if entry.bbox else NO_BOX)
        areas.append(entry.area if entry.area is not None else float("nan"))
        image_index.append(at)
        ids.append(entry.id if entry.id is not None else f"number {number}")
        category_ids.append(entry.category_id)
        if fields:
            for name, of_image, own in zip(fields, image_fields[at], fields_of(raw), strict=True):
                group_values[name].append(of_image if of_image is not None else own)
    total = len(file.annotations)
    del data, file, raw  # the text is large, no longer needed, and held by each of its parts

    notes += [f"{counted(count, noun)}{which} left out" for (noun, which), count in left_out.items()]
    if not ids:
        if bad:
            raise DataError(f"{listed(f'{path}: all annotations that could be used are bad', bad)}; mend them")
        of = f" of category {quoted(category)}" if category is not None else ""
        why = "no annotation" + of + " has keypoints (a category without keypoints?)" if total else "annotations is []"
        raise DataError(f"{path}: the data set is empty: {why}{''.join('; ' + note for note in notes)}")
    skeleton = _skeleton(path, categories, category_ids, lengths, notes)
    if len(skeleton) == 1:
        require_whole_objects(path, [categories[key].name for key in category_ids], image_index)
    kept, points = _reshaped(values, lengths, 3 * len(skeleton))
    misshapen, pairs = np.flatnonzero(~kept).tolist(), 2 * len(skeleton)
    bad += [
        f"annotation {ids[row]} ({names[image_index[row]]}): keypoints: expected {3 * len(skeleton)} numbers "
        f"({len(skeleton)} keypoints), got {lengths[row]}"
        + (": x and y without a visibility; write 2 after each pair that is labelled" if lengths[row] == pairs else "")
        for row in misshapen
    ]
    if misshapen:
        rows = np.flatnonzero(kept).tolist()
        ids = [ids[row] for row in rows]
        group_values = {name: [column[row] for row in rows] for name, column in group_values.items()}
    box = np.frombuffer(boxes, np.float64).reshape(-1, 4)[kept]
    box[:, 2:] += box[:, :2]
    area = np.frombuffer(areas, np.float64)[kept]
    index = np.frombuffer(image_index, np.int32)[kept]
    unknown = ~(area > 0) & ~np.isnan(area)
    if unknown.any():
        notes.append(f"{counted(int(unknown.sum()), 'area')} of 0 or less read as unknown")
    return Labels(
        path=path,
        skeleton=skeleton,
        image_names=names,
        sizes=sizes,
        image_index=index,
        points=points,
        box=box,
        area=np.where(unknown, np.nan, area),
        where=lambda row: f"annotation {ids[row]} ({clipped(str(names[index[row]]))})",
        fields=group_values,
        bad=bad,
        notes=notes,
    )


def _decoded(path: Path, notes: list[str]) -> tuple[bytes, File]:
    """The text and its parts, one level deep; NaN and Infinity, which are no JSON, read as null."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        return data, msgspec.json.decode(data, type=File)
    except msgspec.ValidationError as error:
        raise DataError(_not_coco(path, error)) from None
    except RecursionError:
        raise DataError(f"{path}: broken JSON: it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        data, count = NOT_JSON.subn(b"null", data)
    try:
        file = msgspec.json.decode(data, type=File)
    except msgspec.ValidationError as error:
        raise DataError(_not_coco(path, error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        at = re.search(r"\(byte (\d+)\)", str(error))
        if "utf-8" in str(error).lower():
            raise DataError(f"{path}: expected text in UTF-8, got another encoding") from None
        if at is None:
            raise DataError(f"{path}: broken JSON: it ends too early, after {len(data)} bytes") from None
        before = data[: int(at[1])]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        what = str(error).removeprefix("JSON is malformed: ").split(" (byte")[0]
        raise DataError(f"{path}: broken JSON: {what} at line {line}, column {column}") from None
    except RecursionError:
        raise DataError(f"{path}: broken JSON: it is nested too deeply") from None
    notes.append(f"{count} NaN or Infinity (no JSON) read as null")
    return data, file


def _not_coco(path: Path, error: Exception) -> str:
    return f"{path}: not a COCO keypoints file (an object with images, annotations, categories): {_plain(error)}"


def _plain(error: Exception) -> str:
    """msgspec's message without its markup; the path comes first: `keypoints[3]: expected float, got str`."""
    what, _, place = str(error).replace("`", "").partition(" - at ")
    what = what[:1].lower() + what[1:]
    return f"{place.removeprefix('$.')}: {what}" if place.removeprefix("$") else what


def _images(
    raws: list[msgspec.Raw], fields_of: FieldsReader | None, bad: list[str]
) -> tuple[list[str], np.ndarray, dict[Id, int], list[list[str | None]]]:
    """Names, sizes (M, 2) with NaN where unknown, id -> index, and group fields where there is a reader for them.

    An id used twice is bad and stands for no image.
    """
    decode = msgspec.json.Decoder(Image).decode
    names: list[str] = []
    sizes = array("d")
    image_of: dict[Id, int] = {}
    twice: set[Id] = set()
    values: list[list[str | None]] = []
    for number, raw in enumerate(raws, start=1):
        try:
            entry = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            bad.append(f"image number {number}: {_plain(error)}")
            continue
        if entry.id in image_of:
            bad.append(f"image id {entry.id} is used twice ({names[image_of[entry.id]]}, {entry.file_name})")
            twice.add(entry.id)
        image_of.setdefault(entry.id, len(names))
        names.append(entry.file_name)
        if fields_of is not None:
            values.append(fields_of(raw))
        sizes.append(entry.width or math.nan)  # 0 is a placeholder
        sizes.append(entry.height or math.nan)
    for key in twice:
        del image_of[key]
    return names, np.array(sizes).reshape(-1, 2), image_of, values


def _misfit(entry: Annotation, number: int, image_of: dict[Id, int], categories: dict[Id, Category]) -> str:
    """Why an annotation belongs nowhere."""
    name = f"annotation {entry.id if entry.id is not None else f'number {number}'}"
    if entry.image_id not in image_of:
        return f"{name}: no single image has the id {quoted(entry.image_id)}{_other_kind(entry.image_id, image_of)}"
    if entry.category_id not in categories:
        return f"{name}: no category has the id {quoted(entry.category_id)}{_other_kind(entry.category_id, categories)}"
    return f"{name}: its id is used twice"


def _other_kind(wanted: Id, ids: Container[Id]) -> str:
    """What to say if the id is there as a text in place of a number, or the other way round."""
    if isinstance(wanted, str):
        there = re.fullmatch(r"-?[0-9]{1,18}", wanted) and int(wanted) in ids
        return f" (a text; the number {int(wanted)} is there)" if there else ""
    return f" (a number; the text {quoted(str(wanted))} is there)" if str(wanted) in ids else ""


def _extend(column: array[float], values: list[Number]) -> None:
    """Append the values, all or none; null is NaN."""
    try:
        column.fromlist(values)  # pyright: ignore[reportArgumentType] - None in it is the TypeError
    except TypeError:
        column.fromlist([math.nan if value is None else value for value in values])


def _reshaped(values: array[float], lengths: array[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are `width` long, and those as (n, width / 3, 3)."""
    flat, counts = np.frombuffer(values, np.float64), np.frombuffer(lengths, np.dtype("l"))
    kept = counts == width
    if not kept.all():
        flat = flat[np.repeat(kept, counts)]
    return kept, flat.reshape(-1, width // 3, 3)


def _fields_reader(path: Path, names: tuple[str, ...]) -> FieldsReader:
    """A function that gives the values of these fields of one entry, as text; None where there is none."""
    keys = [f"field{number}" for number in range(len(names))]
    wanted = msgspec.defstruct(
        "Fields", [(key, Any, None) for key in keys], rename=dict(zip(keys, names, strict=True)), gc=False
    )
    decode = msgspec.json.Decoder(wanted).decode

    def fields_of(raw: msgspec.Raw) -> list[str | None]:
        try:
            values = msgspec.structs.astuple(decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return [None] * len(names)  # already among the bad
        for name, value in zip(names, values, strict=True):
            if isinstance(value, (list, dict)):
                raise DataError(
                    f"{path}: group: expected the field {quoted(name)} to be a text or a number, got {quoted(value)}"
                )
        return [None if value is None else str(value) for value in values]

    return fields_of


def _skeleton(
    path: Path,
    categories: dict[Id, Category],
    category_ids: list[Id],
    lengths: array[int],
    notes: list[str],
) -> Skeleton:
    """The one skeleton of all used categories; ValueError with their names where they differ."""
    used = {key: categories[key] for key in dict.fromkeys(category_ids)}
    widths: dict[Id, Counter[int]] = {key: Counter() for key in used}
    for (key, length), count in Counter(zip(category_ids, lengths, strict=True)).items():
        widths[key][length] = count
    unlike = sorted({entry.name for entry in used.values() if not entry.keypoints})
    if len(unlike) > 1:
        line = listed(f"{path}: {len(unlike)} categories name no keypoints, so they are different things", unlike)
        raise DataError(
            f"{line}; choose one with `category=NAME`; or, if each is one point, label the points of an object as one "
            "skeleton; or, if all have the same points, name those as `keypoints` of each category"
        )
    distinct: dict[str, Category] = {}
    for key, entry in used.items():
        if not entry.keypoints:
            length = widths[key].most_common(1)[0][0]
            if length % 3:
                raise DataError(f"{path}: keypoints: expected x, y, v for each, got {length} numbers an annotation")
            entry.keypoints = list(unnamed(length // 3))
            notes.append(f"category {quoted(entry.name)} names no keypoints: k0..k{length // 3 - 1} by their count")
        distinct.setdefault(repr((entry.keypoints, entry.flip_pairs, entry.sigmas)), entry)
    if len(distinct) > 1:
        if all(len(entry.keypoints or ()) == 1 for entry in used.values()):
            raise DataError(one_skeleton(path, sorted({entry.name for entry in used.values()})))
        names = [f"{entry.name} ({len(entry.keypoints or ())})" for entry in used.values()]
        raise DataError(listed(f"{path}: categories differ in keypoints; choose one with `category=NAME`", names))
    if len(used) > 1:
        notes.append(f"{len(used)} categories with the same keypoints merged (of {len(categories)} in the file)")
    (entry,) = distinct.values()
    names = tuple(entry.keypoints or ())
    edges = tuple((a - 1, b - 1) for a, b in entry.skeleton or ())
    if not all(0 <= end < len(names) for edge in edges for end in edge):
        # Edges are only drawn, so no reason to refuse labels; but one that leaves 1..K says that the others count
        # from elsewhere too.
        notes.append(f"skeleton: edges leave 1..{len(names)} (COCO counts from 1), so none are kept")
        edges = ()
    try:
        pairs = None if entry.flip_pairs is None else mirror.from_pairs(entry.flip_pairs, names)
        return Skeleton(names, edges, pairs, None if entry.sigmas is None else tuple(entry.sigmas))
    except ValueError as error:
        raise DataError(f"{path}: category {quoted(entry.name)}: {error}") from None
