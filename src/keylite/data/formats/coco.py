"""Reading COCO keypoints JSON.

Annotations are decoded one by one from the raw text. So a message can name the one that is bad, and a million of them
never exist as Python objects at the same time.
"""

from __future__ import annotations

import dataclasses
import math
import re
from array import array
from collections import Counter
from collections.abc import Container, Iterator
from pathlib import Path

import msgspec
import numpy as np

from keylite.data import mirror
from keylite.data.formats.coco_text import (
    Annotation,
    Category,
    FieldsReader,
    Id,
    Image,
    Number,
    decoded_file,
    fields_reader,
    plain_words,
)
from keylite.data.labels import Labels, Wanted
from keylite.data.problems import one_skeleton, require_whole_objects
from keylite.runtime.errors import DataError
from keylite.runtime.skeleton import Skeleton, unnamed
from keylite.runtime.texts import require_each_once
from keylite.runtime.words import clipped, counted, listed, quoted

IMAGE_NAMES = ("file_name",)  # keys that an image may have only once
ANNOTATION_NAMES = ("image_id", "category_id", "keypoints", "bbox")  # keys that an annotation may have only once
MADE_UP = "number "  # an annotation without an id is called by its number
NO_BOX: list[Number] = [None] * 4
ESCAPED = re.compile(r'["\\\x00-\x1f]')  # characters that JSON escapes, so no key holds them as they are
SHAPES = {  # field of an annotation: how COCO writes it
    "keypoints": "COCO writes x, y and visibility of all keypoints as one flat list of numbers",
    "bbox": "COCO writes [x, y, width, height]",
}


@dataclasses.dataclass(frozen=True)
class _Images:
    """The M images of a file."""

    names: list[str]
    sizes: np.ndarray  # (M, 2) width and height, px; NaN if unknown
    ids: list[Id | str]
    index_of: dict[Id, int]  # id -> number from 0
    fields: list[list[str | None]]  # the values of the group fields of each image; empty without group fields


@dataclasses.dataclass(frozen=True)
class _Objects:
    """The annotations that are used, as compact columns, because a file may hold a million."""

    values: array[float]  # the numbers under `keypoints` of all annotations, one after the other
    lengths: array[int]  # how many of these numbers each annotation has
    boxes: array[float]  # x, y, width, height of each annotation
    areas: array[float]
    image_index: array[int]
    ids: list[Id | str]
    category_ids: list[Id]
    fields: dict[str, list[str | None]]

    def add(self, entry: Annotation, number: int, image: int) -> None:
        """Append annotation number `number` of the file, except for its group fields."""
        _extend(self.values, entry.keypoints or [])
        self.lengths.append(len(entry.keypoints or ()))
        _extend(self.boxes, list(entry.bbox) if entry.bbox else NO_BOX)
        self.areas.append(entry.area if entry.area is not None else math.nan)
        self.image_index.append(image)
        self.ids.append(entry.id if entry.id is not None else f"{MADE_UP}{number}")
        self.category_ids.append(entry.category_id)


def read_coco(path: Path, wanted: Wanted) -> Labels:
    """Read the labels of a COCO file: of one category by name, or of all categories if they share their keypoints.

    Crowds and annotations without keypoints are left out and counted. Raises DataError if the file is not COCO, or if
    its categories have different keypoints and none is chosen.
    """
    notes: list[str] = []
    bad: list[str] = []
    categories, images, objects = _contents(path, wanted, notes, bad)
    skeleton = _skeleton(path, categories, objects.category_ids, objects.lengths, notes)
    if len(skeleton) == 1:
        names = [categories[key].name for key in objects.category_ids]
        require_whole_objects(path, names, objects.image_index)
    kept, points = _reshaped(objects.values, objects.lengths, 3 * len(skeleton))
    bad += [_misshapen(objects, row, images.names, len(skeleton)) for row in np.flatnonzero(~kept).tolist()]
    rows = np.flatnonzero(kept).tolist()
    ids = [objects.ids[row] for row in rows]
    box = np.frombuffer(objects.boxes, np.float64).reshape(-1, 4)[kept]
    box[:, 2:] += box[:, :2]
    index = np.frombuffer(objects.image_index, np.int32)[kept]
    kinds = {categories[key].name: key for key in set(objects.category_ids)}
    alone = kinds if len(kinds) == 1 else {}
    return Labels(
        path=path,
        skeleton=skeleton,
        image_names=images.names,
        sizes=images.sizes,
        image_index=index,
        points=points,
        box=box,
        area=_known_areas(np.frombuffer(objects.areas, np.float64)[kept], notes),
        where=lambda row: f"annotation {ids[row]} ({clipped(str(images.names[index[row]]))})",
        fields={name: [column[row] for row in rows] for name, column in objects.fields.items()},
        bad=bad,
        notes=notes,
        ids=_known_ids(ids),
        image_ids=_known_ids(images.ids),
        category=next(iter(alone), ""),
        category_id=next(iter(_known_ids(list(alone.values()))), 1),
    )


def _contents(
    path: Path, wanted: Wanted, notes: list[str], bad: list[str]
) -> tuple[dict[Id, Category], _Images, _Objects]:
    """The categories, images and annotations of a file; the text of the file, which may be large, is not kept."""
    data, file = decoded_file(path, notes)
    require_each_once(path, data, ((file.images, IMAGE_NAMES), (file.annotations, ANNOTATION_NAMES)))
    categories = {entry.id: entry for entry in file.categories}
    if len(categories) < len(file.categories):
        raise DataError(f"{path}: two categories have the same id")
    chosen = _chosen(path, categories, wanted.category)
    fields = tuple(
        name
        for name in wanted.fields
        if not ESCAPED.search(name) and (not name.isascii() or f'"{name}"'.encode() in data)
    )
    fields_of = fields_reader(path, fields) if fields else None
    images = _images(file.images, fields_of, bad)
    objects = _Objects(array("d"), array("l"), array("d"), array("d"), array("i"), [], [], {key: [] for key in fields})
    left_out: Counter[tuple[str, str]] = Counter()  # (noun, its description) -> how many
    seen: set[Id] = set()
    for number, raw, entry in _decodable(file.annotations, bad):
        if reason := _unused(entry, categories, chosen):
            left_out[reason] += 1
            continue
        image = images.index_of.get(entry.image_id)
        if image is None or entry.category_id not in categories or entry.id in seen:
            bad.append(_misfit(entry, number, images.index_of, categories))
            continue
        if entry.id is not None:
            seen.add(entry.id)
        objects.add(entry, number, image)
        if fields_of is not None:
            for name, image_value, own_value in zip(fields, images.fields[image], fields_of(raw), strict=True):
                objects.fields[name].append(image_value if image_value is not None else own_value)
    notes += [f"left out: {counted(count, noun)}{description}" for (noun, description), count in left_out.items()]
    if not objects.ids:
        raise DataError(f"{path}: {_nothing(wanted.category, len(file.annotations), notes, bad)}")
    return categories, images, objects


def _chosen(path: Path, categories: dict[Id, Category], category: str | None) -> set[Id]:
    """The ids of the categories of this name; of all categories if it is None."""
    if category is None:
        return set(categories)
    ids = {key for key, entry in categories.items() if entry.name == category}
    if not ids:
        names = [entry.name for entry in categories.values()]
        raise DataError(listed(f"{path}: no category is named {quoted(category)}; the names are", names))
    return ids


def _decodable(raws: list[msgspec.Raw], bad: list[str]) -> Iterator[tuple[int, msgspec.Raw, Annotation]]:
    """Number from 1, text and content of each annotation; for one that cannot be decoded a line is added to `bad`."""
    decode = msgspec.json.Decoder(Annotation).decode
    for number, raw in enumerate(raws, start=1):
        try:
            entry = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = plain_words(error)
            shape = SHAPES.get(re.split(r"[:\[]", problem)[0])
            bad.append(f"annotation number {number}: {problem}{f' ({shape})' if shape else ''}")
            continue
        yield number, raw, entry


def _unused(entry: Annotation, categories: Container[Id], chosen: set[Id]) -> tuple[str, str] | None:
    """The noun and the description of an annotation that is left out; None if it is used."""
    if entry.iscrowd:
        return "crowd annotation", ""
    if entry.category_id in categories and entry.category_id not in chosen:
        return "annotation", " of other categories"
    return None if entry.keypoints else ("annotation", " without keypoints")


def _nothing(category: str | None, annotations: int, notes: list[str], bad: list[str]) -> str:
    """The message about a file in which no annotation can be used."""
    if bad:
        return f"{listed('all annotations that could be used are bad', bad)}; mend them"
    of = f" of category {quoted(category)}" if category is not None else ""
    why = f"no annotation{of} has keypoints (a category without keypoints?)" if annotations else "annotations is []"
    return "; ".join([f"the data set is empty: {why}", *notes])


def _misshapen(objects: _Objects, row: int, names: list[str], keypoints: int) -> str:
    """The message about an annotation that has more or fewer values than its skeleton needs."""
    count = objects.lengths[row]
    pairs = ": x and y without a visibility; write 2 after each pair that is labelled" if count == 2 * keypoints else ""
    return (
        f"annotation {objects.ids[row]} ({names[objects.image_index[row]]}): keypoints: expected {3 * keypoints} "
        f"numbers ({keypoints} keypoints), got {count}{pairs}"
    )


def _known_ids(ids: list[Id | str]) -> list[int | str]:
    """The ids of annotations; empty if some have none (they are called by their number then)."""
    known = [int(key) if isinstance(key, float) and key.is_integer() else key for key in ids]
    return [key for key in known if isinstance(key, int | str)] if not any(map(_is_made_up, known)) else []


def _is_made_up(key: Id | str) -> bool:
    return isinstance(key, float) or (isinstance(key, str) and key.startswith(MADE_UP))


def _known_areas(area: np.ndarray, notes: list[str]) -> np.ndarray:
    """Areas (N,) in px^2; those of 0 or less become NaN, and a note counts them."""
    unknown = ~(area > 0) & ~np.isnan(area)
    if unknown.any():
        notes.append(f"read as unknown: {counted(int(unknown.sum()), 'area')} of 0 or less")
    return np.where(unknown, np.nan, area)


def _images(raws: list[msgspec.Raw], fields_of: FieldsReader | None, bad: list[str]) -> _Images:
    """The images of a file; an id that is used twice is bad, and no image has it."""
    decode = msgspec.json.Decoder(Image).decode
    names: list[str] = []
    sizes = array("d")
    ids: list[Id | str] = []
    index_of: dict[Id, int] = {}
    twice: set[Id] = set()
    fields: list[list[str | None]] = []
    for number, raw in enumerate(raws, start=1):
        try:
            entry = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            bad.append(f"image number {number}: {plain_words(error)}")
            continue
        if entry.id in index_of:
            bad.append(f"image id {entry.id} is used twice ({names[index_of[entry.id]]}, {entry.file_name})")
            twice.add(entry.id)
        index_of.setdefault(entry.id, len(names))
        names.append(entry.file_name)
        ids.append(entry.id)
        if fields_of is not None:
            fields.append(fields_of(raw))
        sizes.append(entry.width or math.nan)  # some tools write 0 for an unknown size
        sizes.append(entry.height or math.nan)
    for key in twice:
        del index_of[key]
    return _Images(names, np.array(sizes).reshape(-1, 2), ids, index_of, fields)


def _misfit(entry: Annotation, number: int, index_of: dict[Id, int], categories: dict[Id, Category]) -> str:
    """The message about an annotation whose image, category or own id is wrong."""
    name = f"annotation {entry.id if entry.id is not None else f'number {number}'}"
    if entry.image_id not in index_of:
        hint = _other_kind(entry.image_id, index_of)
        return f"{name}: no image, or more than one, has the id {quoted(entry.image_id)}{hint}"
    if entry.category_id not in categories:
        return f"{name}: no category has the id {quoted(entry.category_id)}{_other_kind(entry.category_id, categories)}"
    return f"{name}: its id is used twice"


def _other_kind(wanted: Id, ids: Container[Id]) -> str:
    """A hint if a wanted text is among the ids as a number, or a wanted number as a text; else empty."""
    if isinstance(wanted, str):
        is_number = re.fullmatch(r"-?[0-9]{1,18}", wanted) and int(wanted) in ids
        return f" (this is a text, but the number {int(wanted)} is an id)" if is_number else ""
    return f" (this is a number, but the text {quoted(str(wanted))} is an id)" if str(wanted) in ids else ""


def _extend(column: array[float], values: list[Number]) -> None:
    """Append the values; null becomes NaN."""
    try:
        column.fromlist(values)  # pyright: ignore[reportArgumentType] - None among them raises the TypeError
    except TypeError:
        column.fromlist([math.nan if value is None else value for value in values])


def _reshaped(values: array[float], lengths: array[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool, which annotations have `width` numbers, and these numbers as (n, width / 3, 3)."""
    flat, counts = np.frombuffer(values, np.float64), np.frombuffer(lengths, np.dtype("l"))
    kept = counts == width
    if not kept.all():
        flat = flat[np.repeat(kept, counts)]
    return kept, flat.reshape(-1, width // 3, 3)


def _skeleton(
    path: Path,
    categories: dict[Id, Category],
    category_ids: list[Id],
    lengths: array[int],
    notes: list[str],
) -> Skeleton:
    """The common skeleton of all used categories; DataError, with their names, if they differ."""
    used = {key: categories[key] for key in dict.fromkeys(category_ids)}
    widths: dict[Id, Counter[int]] = {key: Counter() for key in used}
    for (key, length), count in Counter(zip(category_ids, lengths, strict=True)).items():
        widths[key][length] = count
    unnamed_kinds = sorted({entry.name for entry in used.values() if not entry.keypoints})
    if len(unnamed_kinds) > 1:
        count = len(unnamed_kinds)
        line = listed(f"{path}: {count} categories name no keypoints, so they are different things", unnamed_kinds)
        raise DataError(
            f"{line}; choose one with `category=NAME`; or, if each is one point, label the points of an object as one "
            "skeleton; or, if all have the same points, name those as `keypoints` of each category"
        )
    distinct: dict[str, Category] = {}
    for key, entry in used.items():
        if not entry.keypoints:
            length = widths[key].most_common(1)[0][0]
            if length % 3:
                raise DataError(
                    f"{path}: keypoints: expected x, y and visibility for each, got {length} numbers per annotation"
                )
            entry.keypoints = list(unnamed(length // 3))
            notes.append(f"category {quoted(entry.name)} names no keypoints: they are called k0 to k{length // 3 - 1}")
        distinct.setdefault(repr((entry.keypoints, entry.flip_pairs, entry.sigmas)), entry)
    if len(distinct) > 1:
        if all(len(entry.keypoints or ()) == 1 for entry in used.values()):
            raise DataError(one_skeleton(path, sorted({entry.name for entry in used.values()})))
        names = [f"{entry.name} ({len(entry.keypoints or ())})" for entry in used.values()]
        raise DataError(listed(f"{path}: categories differ in keypoints; choose one with `category=NAME`", names))
    if len(used) > 1:
        notes.append(f"merged: {len(used)} categories with the same keypoints (of {len(categories)} in the file)")
    (entry,) = distinct.values()
    names = tuple(entry.keypoints or ())
    edges = tuple((a - 1, b - 1) for a, b in entry.skeleton or ())
    if not all(0 <= end < len(names) for edge in edges for end in edge):
        # Edges are only drawn, so labels are not refused. But if one edge is wrong, the others probably are, too.
        notes.append(f"skeleton: an edge is not within 1 to {len(names)} (COCO counts from 1), so no edge is kept")
        edges = ()
    try:
        pairs = None if entry.flip_pairs is None else mirror.from_pairs(entry.flip_pairs, names)
        return Skeleton(names, edges, pairs, None if entry.sigmas is None else tuple(entry.sigmas))
    except ValueError as error:
        raise DataError(f"{path}: category {quoted(entry.name)}: {error}") from None
