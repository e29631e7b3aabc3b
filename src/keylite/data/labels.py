"""What a label file says, checked and tied to its pictures: the second half of every reader.

A reader of one format (coco.py, tables.py) gives Labels in the source's own convention; here points are checked,
shifted to continuous px, their images found and their groups named. Knows nothing of any file format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.finding import find_images, nearest, roots_of
from keylite.data.groups import group_by_name
from keylite.data.marks import mark_doubts, marked
from keylite.data.places import places_of
from keylite.data.problems import object_problems
from keylite.runtime.errors import DataError
from keylite.runtime.images import size_if_known
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.words import clipped, counted, escaped, listed, quoted

ORIGINS = {"index": 0.5, "corner": 0.0}  # what is added to a source's x and y to make them continuous
TINY = 1e-6  # px
GROUP_FIELDS = ("identity", "group", "subject")  # what --group auto looks for, in this order


@dataclasses.dataclass
class Labels:
    """N objects in M images, in the words of one file.

    points: (N, K, 3) float64 x, y as written and v, NaN where not a number. box: (N, 4) float64 xyxy, all NaN where
    there is none. sizes: (M, 2) W, H, NaN where unknown. where: the name of object n in messages. fields: group field
    -> one value or None an object. bad: what could not be read at all, already out of the columns. table: the file has
    one object per image, so an image that is there twice is bad; its paths may start in a folder above the file's.
    unit: what the file calls an object.
    """

    path: Path
    skeleton: Skeleton
    image_names: list[str]
    sizes: np.ndarray
    image_index: np.ndarray
    points: np.ndarray
    box: np.ndarray
    area: np.ndarray
    where: Callable[[int], str]
    fields: dict[str, list[str | None]]
    bad: list[str]
    notes: list[str]
    table: bool = False
    unit: str = "annotation"


def to_dataset(
    labels: Labels,
    images: Path | None,
    group: str,
    pixel_origin: str,
    skip_bad: bool,
    missing_mark: tuple[float, float] | None = None,
) -> Dataset:
    """The data set that the labels make, or one line that names every bad object of the file."""
    notes = list(labels.notes)
    if missing_mark is not None:
        labels = _without_marks(labels, missing_mark, notes)
    v = labels.points[..., 2]
    rows = np.flatnonzero((v != 0).any(axis=1))
    if len(rows) < len(v):
        notes.append(f"{counted(len(v) - len(rows), labels.unit)} without any labelled point left out")
    labels = _without_flat_boxes(labels, rows, notes)
    problems = _problems(labels, rows)
    bad = [*labels.bad, *problems.values()]
    if bad:
        total = len(v) + len(labels.bad)
        line = listed(f"{len(bad)} of {total} {labels.unit}s are bad", bad)
        if not skip_bad:
            raise DataError(f"{labels.path}: {line}; mend them, or pass `skip_bad=True` to leave them out")
        notes.append(f"left out: {line}")
        rows = rows[~np.isin(rows, list(problems))]
    rows, paths = _with_images(labels, rows, images, skip_bad, notes)
    rows, first = _repeated(labels, rows, paths, skip_bad, notes)
    listed_again = int((first != np.arange(len(first))).sum())
    labels = dataclasses.replace(labels, image_index=first[labels.image_index])
    if len(rows) == 0:
        raise DataError(f"{labels.path}: the data set is empty: no labelled object in it ({'; '.join(notes)})")

    doubts = mark_doubts(
        labels.points[rows, :, :2],
        v[rows] > 0,
        lambda row: _size_of(labels, paths, int(labels.image_index[rows[row]])),
        ORIGINS[pixel_origin],
    )
    visible = v[rows].astype(np.uint8)  # 0, 1 or 2: all else is bad
    xy = labels.points[rows, :, :2]  # a copy: the columns may be large, so it is changed in place
    xy += ORIGINS[pixel_origin]
    xy[visible == 0] = np.nan
    image_index = labels.image_index[rows]
    used, image_index = np.unique(image_index, return_inverse=True)
    without = len(labels.image_names) - listed_again - len(used)
    if without:
        notes.append(f"{without} of {len(labels.image_names) - listed_again} images have no object")
    dataset = Dataset(
        skeleton=labels.skeleton,
        images=tuple(paths[i] for i in used.tolist()),
        image_names=tuple(labels.image_names[i] for i in used.tolist()),
        image_index=image_index.astype(np.int32),
        xy=xy,
        visible=visible,
        box=labels.box[rows],
        area=labels.area[rows],
        groups=("",),
        group_index=np.zeros(len(rows), np.int32),
        name=path_name(labels.path),
        notes=tuple(notes),
        doubts=doubts,
        image_sizes=_whole(labels.sizes[used]),
        source=str(labels.path),
    )
    names, named = _groups(labels, rows, group)
    return dataset.regrouped(names, named)


def _size_of(labels: Labels, paths: list[Path | None], image: int) -> Sequence[float] | None:
    """(width, height) of an image as the labels say it, else by its header; None if neither does."""
    told, path = labels.sizes[image], paths[image]
    return told.tolist() if np.all(told > 0) else None if path is None else size_if_known(path)


def _without_marks(labels: Labels, mark: tuple[float, float], notes: list[str]) -> Labels:
    """The labels with the points that lie exactly at the mark unlabelled."""
    at = marked(labels.points[..., :2], labels.points[..., 2] > 0, mark)
    notes.append(
        f"taken as unlabelled: {counted(int(at.sum()), 'point')} at ({mark[0]:g}, {mark[1]:g}) in "
        f"{counted(int(at.any(axis=1).sum()), labels.unit)}"
    )
    points = labels.points.copy()
    points[at] = (np.nan, np.nan, 0)
    return dataclasses.replace(labels, points=points)


def _without_flat_boxes(labels: Labels, rows: np.ndarray, notes: list[str]) -> Labels:
    """The labels with a box of no width or no height as none: what a tool writes around one point, or around a line.

    Rounding may leave less than TINY of a side.
    """
    box = labels.box
    sides = box[:, 2:] - box[:, :2]
    flat = np.all(sides >= 0, axis=1) & np.any(sides < TINY, axis=1)
    if not flat[rows].any():
        return labels
    width, height = sides[rows][flat[rows]][0]
    notes.append(
        f"{int(flat[rows].sum())} of {len(rows)} boxes without an area (such as {width:g}x{height:g} px) read as none; "
        "without boxes, train with `box='image'`"
    )
    return dataclasses.replace(labels, box=np.where(flat[:, None], np.nan, box))


def path_name(path: Path) -> str:
    """What messages and model files call the data set of a file: its folder and its name, train/labels.json.

    Many label files are called labels.json, so the name alone does not tell one from another; and a model file must
    not hold the folders of the machine that it was trained on. What no UTF-8 text can hold is escaped.
    """
    return escaped("/".join(Path(path).absolute().parts[1:][-2:]))


def _whole(sizes: np.ndarray) -> np.ndarray:
    """Sizes (M, 2) as whole numbers, 0 where unknown."""
    return np.clip(np.rint(np.nan_to_num(sizes, nan=0.0)), -1, 2**31 - 1).astype(np.int64)  # no size overflows


def _problems(labels: Labels, rows: np.ndarray) -> dict[int, str]:
    """Row -> what is wrong with it, in row order and in the words of its file."""
    columns = (labels.points, labels.box, labels.image_index)
    if len(rows) < len(labels.points):  # a copy of all would take as much memory again
        columns = tuple(column[rows] for column in columns)
    points, box, image_index = columns
    names, sizes = labels.skeleton.names, labels.sizes[image_index]
    problems = object_problems(names, points[..., :2], points[..., 2], box, sizes)
    return {(row := int(rows[at])): f"{labels.where(row)}: {words}" for at, words in problems.items()}


def _groups(labels: Labels, rows: np.ndarray, group: str) -> tuple[list[str], bool]:
    """The group name of each row, by --group, and whether names are of subjects rather than of images or blocks."""
    kind, _, name = group.partition(":")
    if group == "auto":
        found = [field for field in GROUP_FIELDS if any(value is not None for value in labels.fields.get(field, ()))]
        kind, name = ("field", found[0]) if found else ("image", "")
    if kind != "field":
        used, image_index = np.unique(labels.image_index[rows], return_inverse=True)
        image_names = [labels.image_names[i] for i in used.tolist()]
        of_image = group_by_name(image_names, "image" if group == "auto" else group)
        return [of_image[i] for i in image_index.tolist()], kind == "regex"
    values = labels.fields.get(name) or [None] * len(labels.points)
    missing = [labels.where(row) for row in rows.tolist() if values[row] is None]
    if missing:
        line = listed(f"group: {len(missing)} of {len(rows)} objects have no field {quoted(name)}", missing)
        raise DataError(f"{labels.path}: {line}; choose another `group`, such as image")
    return [str(values[row]) for row in rows.tolist()], True


def _with_images(
    labels: Labels, rows: np.ndarray, images: Path | None, skip_bad: bool, notes: list[str]
) -> tuple[np.ndarray, list[Path | None]]:
    """The rows whose image was found, and the path of each image; notes what was replaced or left out."""
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"{images}: no such folder of images")
    roots = roots_of(labels.path, images, labels.table)
    used = np.unique(labels.image_index[rows]).tolist()
    names = [labels.image_names[i] for i in used]
    finding = find_images(names, roots)
    notes += finding.notes
    paths: list[Path | None] = [None] * len(labels.image_names)
    for i, path in zip(used, finding.paths, strict=True):
        paths[i] = path
    missing = [number for number, path in enumerate(finding.paths) if path is None]
    if missing:
        hints = dict(finding.doubts)
        if nowhere := [i for i in missing if i not in hints]:
            hints[nowhere[0]] = nearest(names[nowhere[0]], roots)
        shown = [clipped(names[i]) + (f" ({hints[i]})" if i in hints else "") for i in missing]
        line = listed(f"{len(missing)} of {len(used)} images not found in {roots}", shown)
        if not skip_bad or len(missing) == len(used):
            raise FileNotFoundError(f"{labels.path}: {line}; name their folder with `images`")
        notes.append(f"left out: {line}")
        there = np.array([path is not None for path in paths])
        rows = rows[there[labels.image_index[rows]]]
    return rows, paths


def _repeated(
    labels: Labels, rows: np.ndarray, paths: list[Path | None], skip_bad: bool, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are kept where one picture is there under two names or ids, and for each image the first of it.

    Of a table, which has one row per image, such rows are bad. Else the objects of all are of one image.
    """
    used = np.unique(labels.image_index[rows])
    first = np.arange(len(labels.image_names), dtype=np.int32)
    owner: dict[str | int, int] = {}
    for i, place in zip(used.tolist(), places_of([paths[i] or Path() for i in used.tolist()]), strict=True):
        first[i] = owner.setdefault(place, i)
    again = np.flatnonzero(first != np.arange(len(first)))
    if len(again) == 0:
        return rows, first
    names, sizes = labels.image_names, labels.sizes
    if not labels.table:
        for i in again.tolist():
            if not np.all((sizes[i] == sizes[first[i]]) | np.isnan(sizes[i]) | np.isnan(sizes[first[i]])):
                one, other = (f"{names[k]} at {sizes[k][0]:g}x{sizes[k][1]:g} px" for k in (first[i], i))
                raise DataError(f"{labels.path}: one picture is listed twice, as {one} and as {other}; leave one out")
        both = [(clipped(names[first[i]]), clipped(names[i])) for i in again.tolist()]
        pairs = [f"{one} and {other}" if one != other else one for one, other in both]
        line = (
            f"listed again, by another id or spelling, so that objects go to the first: {counted(len(again), 'image')}"
        )
        notes.append(listed(line, pairs))
        return rows, first
    line_of = {int(labels.image_index[row]): labels.where(row).partition(" (")[0] for row in rows.tolist()}
    bad = np.isin(labels.image_index[rows], again)
    texts = [
        f"{labels.where(row)}: the image is on {line_of[int(first[labels.image_index[row]])]} already"
        for row in rows[bad].tolist()
    ]
    line = listed(f"{len(texts)} of {len(labels.points)} {labels.unit}s are bad", texts)
    if not skip_bad:
        raise DataError(f"{labels.path}: {line}; mend them, or pass `skip_bad=True` to leave them out")
    notes.append(f"left out: {line}")
    return rows[~bad], first
