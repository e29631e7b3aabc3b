"""From the labels of a file to a data set: points are checked and shifted, pictures found, groups named.

This is the second half of every reader. The first half (a module of formats/) reads one format and gives Labels, with
coordinates as the file has them.
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
from keylite.data.problems import object_problems
from keylite.data.same_picture import places_of
from keylite.data.scale import FIELD as SCALE_FIELD
from keylite.data.scale import read_scales, require_scale
from keylite.runtime.errors import DataError
from keylite.runtime.images import size_if_known
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.words import clipped, counted, escaped, listed, quoted

ORIGINS = {"index": 0.5, "corner": 0.0, "one": -0.5}  # what is added to x and y of a file to make them continuous
TINY = 1e-6  # px; rounding may leave a side below this to a box without an area
GROUP_FIELDS = ("identity", "group", "subject")  # --group auto looks for these, in this order


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the caller wants of a label file.

    Attributes:
        category: The name of the category; None for all.
        fields: The names of group fields to look for.
        part: The part of a data set that has several: train, val or test; None if it has only one.
    """

    category: str | None = None
    fields: tuple[str, ...] = ()
    part: str | None = None


@dataclasses.dataclass
class Labels:
    """N objects in M images, as one file or folder has them.

    Attributes:
        path: The file or folder.
        skeleton: The K keypoints.
        image_names: M names.
        sizes: (M, 2) float64 (width, height), px; NaN if unknown.
        image_index: (N,) int32, the number of each object's image.
        points: (N, K, 3) float64: x and y as the file has them, NaN for what is no number, and visibility.
        box: (N, 4) float64 xyxy; NaN for an object without a box.
        area: (N,) float64, px^2; NaN if unknown.
        where: Gives the name of an object, by its number, for messages.
        fields: Name of a group field -> the value of each object, None if it has none.
        bad: Lines about objects that could not be read; the columns do not hold these objects.
        notes: Lines about what the reader merged, left out or replaced.
        once: Whether an image that is there twice is an error; else its objects go to the first.
        climb: Whether image names may start in a folder above the file.
        unit: What the file calls an object.
        origin: Where 0 is in this format (ORIGINS), unless the caller says otherwise.
        fractions: Whether x, y and boxes are fractions of the image, 0 to 1; else they are px.
        from_bottom: Whether y counts from the lower edge of the image.
        pixels: M arrays uint8 (H, W, 3) RGB if the file itself holds the pictures; else None.
        ids: What the file calls each object; empty if it has no names for them.
        image_ids: What the file calls each image beside its name; empty if it has no ids.
        category: What the file calls this kind of object; empty if it does not say.
        category_id: The id of that category.
        part: Which part of the data set this is, if it has several in one file; else empty.
        without_images: What to do beside naming a folder if images are missing; empty if there is nothing else.
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
    once: bool = False
    climb: bool = False
    unit: str = "annotation"
    origin: str = "index"
    fractions: bool = False
    from_bottom: bool = False
    pixels: list[np.ndarray] | None = None
    ids: Sequence[int | str] = ()
    image_ids: Sequence[int | str] = ()
    category: str = ""
    category_id: int | str = 1
    part: str = ""
    without_images: str = ""


def to_dataset(
    labels: Labels,
    images: Path | None,
    group: str,
    pixel_origin: str | None,
    skip_bad: bool,
    missing_mark: tuple[float, float] | None = None,
    mm_per_px: float | None = None,
) -> Dataset:
    """The data set of the labels; DataError with one line that names every bad object.

    pixel_origin: one of ORIGINS; None takes that of the format.
    """
    notes, shift = list(labels.notes), ORIGINS[pixel_origin or labels.origin]
    if missing_mark is not None:
        labels = _without_marks(labels, missing_mark, notes)
    v = labels.points[..., 2]
    rows, as_written = np.flatnonzero((v != 0).any(axis=1)), labels.points
    if len(rows) < len(v):
        notes.append(f"left out: {counted(len(v) - len(rows), labels.unit)} without any labelled point")
    if labels.fractions or labels.from_bottom:  # the sizes of the images are needed first
        rows, paths = _with_images(labels, rows, images, skip_bad, notes)
        labels = _in_px(labels, rows, paths)
        labels = _without_flat_boxes(labels, rows, notes)
        rows = _without_bad(labels, rows, skip_bad, notes)
    else:
        labels = _without_flat_boxes(labels, rows, notes)
        rows = _without_bad(labels, rows, skip_bad, notes)
        rows, paths = _with_images(labels, rows, images, skip_bad, notes)
    rows, first = _repeated(labels, rows, paths, skip_bad, notes)
    listed_again = int((first != np.arange(len(first))).sum())
    labels = dataclasses.replace(labels, image_index=first[labels.image_index])
    if len(rows) == 0:
        raise DataError(f"{labels.path}: the data set is empty: it has no labelled object ({'; '.join(notes)})")

    def size_of(row: int) -> Sequence[float] | None:
        return (1, 1) if labels.fractions else _size_of(labels, paths, int(labels.image_index[rows[row]]))

    doubts = mark_doubts(as_written[rows, :, :2], v[rows] > 0, size_of, shift)
    visible = v[rows].astype(np.uint8)  # 0, 1 or 2: all else is bad
    xy = labels.points[rows, :, :2]  # already a copy, so it can be changed in place
    xy += shift
    xy[visible == 0] = np.nan
    image_index = labels.image_index[rows]
    used, image_index = np.unique(image_index, return_inverse=True)
    without = len(labels.image_names) - listed_again - len(used)
    if without:
        notes.append(f"{without} of {len(labels.image_names) - listed_again} images have no object")
    dataset = Dataset(
        skeleton=labels.skeleton,
        images=tuple(paths[i] if labels.pixels is None else labels.pixels[i] for i in used.tolist()),
        image_names=tuple(labels.image_names[i] for i in used.tolist()),
        image_index=image_index.astype(np.int32),
        xy=xy,
        visible=visible,
        box=labels.box[rows],
        area=labels.area[rows],
        groups=("",),
        group_index=np.zeros(len(rows), np.int32),
        name=path_name(labels.path) + (f", {labels.part}" if labels.part else ""),
        notes=tuple(notes),
        doubts=doubts,
        image_sizes=_whole(labels.sizes[used]),
        source=str(labels.path),
        ids=tuple(labels.ids[row] for row in rows.tolist()) if labels.ids else (),
        image_ids=tuple(labels.image_ids[i] for i in used.tolist()) if labels.image_ids else (),
        category=labels.category,
        category_id=labels.category_id,
        mm_per_px=_scales(labels, rows, mm_per_px),
    )
    names, named = _groups(labels, rows, group)
    return dataset.regrouped(names, named)


def _scales(labels: Labels, rows: np.ndarray, mm_per_px: float | None) -> np.ndarray | None:
    """(N,) mm per px of each object's image: what the caller says, else what the file says; None if it is unknown."""
    if mm_per_px is not None:
        return np.full(len(rows), require_scale(mm_per_px))
    column = labels.fields.get(SCALE_FIELD)
    if not column:
        return None
    try:
        return read_scales([column[row] for row in rows.tolist()], lambda at: labels.where(int(rows[at])))
    except DataError as error:
        raise DataError(f"{labels.path}: {error}") from None


def _without_bad(labels: Labels, rows: np.ndarray, skip_bad: bool, notes: list[str]) -> np.ndarray:
    """The rows of objects that can be used. DataError, which names the others, unless they may be left out."""
    problems = _problems(labels, rows)
    bad = [*labels.bad, *problems.values()]
    if not bad:
        return rows
    total = len(labels.points) + len(labels.bad)
    line = listed(f"{len(bad)} of {total} {labels.unit}s are bad", bad)
    if not skip_bad:
        raise DataError(f"{labels.path}: {line}; mend them, or pass `skip_bad=True` to leave them out")
    notes.append(f"left out: {line}")
    return rows[~np.isin(rows, list(problems))]


def _size_of(labels: Labels, paths: list[Path | None], image: int) -> Sequence[float] | None:
    """(width, height) of an image from the labels, else from its header; None if neither says it."""
    size, path = labels.sizes[image], paths[image]
    return size.tolist() if np.all(size > 0) else None if path is None else size_if_known(path)


def _in_px(labels: Labels, rows: np.ndarray, paths: list[Path | None]) -> Labels:
    """The labels in px from the upper left; those of images whose size is unknown become NaN, so they are bad.

    If the file gives sizes, they are checked against those of the images later.
    """
    sizes = np.full((len(labels.image_names), 2), np.nan)
    for image in np.unique(labels.image_index[rows]).tolist():
        size = _size_of(labels, paths, image)
        if size is not None:
            sizes[image] = size
    size = sizes[labels.image_index]
    points, box = labels.points.copy(), labels.box
    if labels.fractions:
        points[..., :2] *= size[:, None]
        box = box * np.tile(size, 2)
    if labels.from_bottom:
        points[..., 1] = size[:, 1, None] - points[..., 1]
    return dataclasses.replace(labels, points=points, box=box)


def _without_marks(labels: Labels, mark: tuple[float, float], notes: list[str]) -> Labels:
    """The labels, in which points that lie exactly at the mark are now unlabelled."""
    at_mark = marked(labels.points[..., :2], labels.points[..., 2] > 0, mark)
    notes.append(
        f"taken as unlabelled: {counted(int(at_mark.sum()), 'point')} at ({mark[0]:g}, {mark[1]:g}) in "
        f"{counted(int(at_mark.any(axis=1).sum()), labels.unit)}"
    )
    points = labels.points.copy()
    points[at_mark] = (np.nan, np.nan, 0)
    return dataclasses.replace(labels, points=points)


def _without_flat_boxes(labels: Labels, rows: np.ndarray, notes: list[str]) -> Labels:
    """The labels without boxes that have no area, such as a tool writes around a single point or a straight line."""
    box = labels.box
    sides = box[:, 2:] - box[:, :2]
    flat = np.all(sides >= 0, axis=1) & np.any(sides < TINY, axis=1)
    if not flat[rows].any():
        return labels
    width, height = sides[rows][flat[rows]][0]
    notes.append(
        f"read as no box: {int(flat[rows].sum())} of {len(rows)} boxes without an area (such as {width:g}x{height:g} "
        "px); without boxes, train with `box='image'`"
    )
    return dataclasses.replace(labels, box=np.where(flat[:, None], np.nan, box))


def path_name(path: Path) -> str:
    """The name of a data set in reports and model files: the folder and the name of its file, train/labels.json.

    The name alone would not do, because many label files are called labels.json, and the whole path would show the
    folders of one machine on another. Characters that UTF-8 cannot hold are escaped.
    """
    return escaped("/".join(Path(path).absolute().parts[1:][-2:]))


def _whole(sizes: np.ndarray) -> np.ndarray:
    """Sizes (M, 2) as whole numbers, 0 if unknown."""
    return np.clip(np.rint(np.nan_to_num(sizes, nan=0.0)), -1, 2**31 - 1).astype(np.int64)  # no size overflows


def _problems(labels: Labels, rows: np.ndarray) -> dict[int, str]:
    """Row -> what is wrong with this object, in the order of rows, with the name that its file gives it."""
    columns = (labels.points, labels.box, labels.image_index)
    if len(rows) < len(labels.points):  # copies of whole columns would double the memory
        columns = tuple(column[rows] for column in columns)
    points, box, image_index = columns
    names, sizes = labels.skeleton.names, labels.sizes[image_index]
    problems = object_problems(names, points[..., :2], points[..., 2], box, sizes)
    return {(row := int(rows[at])): f"{labels.where(row)}: {words}" for at, words in problems.items()}


def _groups(labels: Labels, rows: np.ndarray, group: str) -> tuple[list[str], bool]:
    """The group name of each row, and whether these are names of subjects rather than of images or blocks."""
    kind, _, name = group.partition(":")
    if group == "auto":
        used_fields = [f for f in GROUP_FIELDS if any(value is not None for value in labels.fields.get(f, ()))]
        kind, name = ("field", used_fields[0]) if used_fields else ("image", "")
    if kind != "field":
        used, image_index = np.unique(labels.image_index[rows], return_inverse=True)
        image_names = [labels.image_names[i] for i in used.tolist()]
        group_of_image = group_by_name(image_names, "image" if group == "auto" else group)
        return [group_of_image[i] for i in image_index.tolist()], kind == "regex"
    values = labels.fields.get(name) or [None] * len(labels.points)
    missing = [labels.where(row) for row in rows.tolist() if values[row] is None]
    if missing:
        line = listed(f"group: {len(missing)} of {len(rows)} objects have no field {quoted(name)}", missing)
        raise DataError(f"{labels.path}: {line}; choose another `group`, such as image")
    return [str(values[row]) for row in rows.tolist()], True


def _with_images(
    labels: Labels, rows: np.ndarray, images: Path | None, skip_bad: bool, notes: list[str]
) -> tuple[np.ndarray, list[Path | None]]:
    """The rows whose image was found, and the path of each image, None for images that are not used or not found.

    Lines about images that were found under another name, or left out, are appended to `notes`.
    """
    if labels.pixels is not None:
        return rows, [None] * len(labels.image_names)
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"{images}: no such folder of images")
    roots = roots_of(labels.path, images, labels.climb)
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
            way = f"; {labels.without_images}" if labels.without_images else ""
            raise FileNotFoundError(f"{labels.path}: {line}; name their folder with `images`{way}")
        notes.append(f"left out: {line}")
        has_path = np.array([path is not None for path in paths])
        rows = rows[has_path[labels.image_index[rows]]]
    return rows, paths


def _repeated(
    labels: Labels, rows: np.ndarray, paths: list[Path | None], skip_bad: bool, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Treat images that are one picture, under two names or ids, as one image.

    If the format has each image once, the second is bad. In any other file the objects go to the first image.
    Returned are the rows that are kept, and for each image the number of the first image with the same picture.
    """
    used = np.unique(labels.image_index[rows])
    first = np.arange(len(labels.image_names), dtype=np.int32)
    if labels.pixels is not None:
        return rows, first
    first_at: dict[str | int, int] = {}
    for i, place in zip(used.tolist(), places_of([paths[i] or Path() for i in used.tolist()]), strict=True):
        first[i] = first_at.setdefault(place, i)
    again = np.flatnonzero(first != np.arange(len(first)))
    if len(again) == 0:
        return rows, first
    names, sizes = labels.image_names, labels.sizes
    if not labels.once:
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
