"""What a label file says, checked and tied to its pictures: the second half of every reader.

A reader of one format (coco.py, tables.py) gives Labels in the source's own convention; here points are checked,
shifted to continuous px, their images found and their groups named. Knows nothing of any file format.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keylite.data.dataset import Dataset, boxes_outside, group_by_name, listed, outside_words
from keylite.runtime.images import IMAGE_SUFFIXES
from keylite.runtime.skeleton import Skeleton

ORIGINS = {"index": 0.5, "corner": 0.0}  # what is added to a source's x and y to make them continuous
GROUP_FIELDS = ("identity", "group", "subject")  # what --group auto looks for, in this order
CLIMB = 4  # folders above the label file that are searched: DeepLabCut's paths start at its project


@dataclasses.dataclass
class Labels:
    """N objects in M images, in the words of one file.

    points: (N, K, 3) float64 x, y as written and v, NaN where not a number. box: (N, 4) float64 xyxy, all NaN where
    there is none. sizes: (M, 2) W, H, NaN where unknown. where: the name of object n in messages. fields: group field
    -> one value or None an object. bad: what could not be read at all, already out of the columns. climb: paths may
    start in a folder above the file's. unit: what the file calls an object.
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
    climb: bool = False
    unit: str = "annotation"


def to_dataset(labels: Labels, images: Path | None, group: str, pixel_origin: str, skip_bad: bool) -> Dataset:
    """The data set that the labels make, or one line that names every bad object of the file."""
    v = labels.points[..., 2]
    notes = list(labels.notes)
    rows = np.flatnonzero((v != 0).any(axis=1))
    if len(rows) < len(v):
        notes.append(f"{len(v) - len(rows)} {labels.unit}s without any labelled point left out")
    problems = _problems(labels, rows)
    bad = [*labels.bad, *problems.values()]
    if bad:
        total = len(v) + len(labels.bad)
        line = listed(f"{len(bad)} of {total} {labels.unit}s are bad", bad)
        if not skip_bad:
            raise ValueError(f"{labels.path}: {line}; mend them, or pass --skip-bad to leave them out")
        notes.append(f"left out: {line}")
        rows = rows[~np.isin(rows, list(problems))]
    rows, paths = _with_images(labels, rows, images, skip_bad, notes)
    if len(rows) == 0:
        raise ValueError(f"{labels.path}: the data set is empty: no labelled object in it ({'; '.join(notes)})")

    visible = v[rows].astype(np.uint8)  # 0, 1 or 2: all else is bad
    xy = labels.points[rows, :, :2]  # a copy: the columns may be large, so it is changed in place
    xy += ORIGINS[pixel_origin]
    xy[visible == 0] = np.nan
    image_index = labels.image_index[rows]
    used, image_index = np.unique(image_index, return_inverse=True)
    if len(used) < len(labels.image_names):
        notes.append(f"{len(labels.image_names) - len(used)} of {len(labels.image_names)} images have no object")
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
        name=labels.path.stem,
        notes=tuple(notes),
        image_sizes=_whole(labels.sizes[used]),
        source=str(labels.path),
    )
    names, named = _groups(labels, rows, group)
    return dataset.regrouped(names, named)


def _whole(sizes: np.ndarray) -> np.ndarray:
    """Sizes (M, 2) as whole numbers, 0 where unknown."""
    return np.clip(np.rint(np.nan_to_num(sizes, nan=0.0)), -1, 2**31 - 1).astype(np.int64)  # no size overflows


def _problems(labels: Labels, rows: np.ndarray) -> dict[int, str]:
    """Row -> what is wrong with it, in row order."""
    v, xy, box = labels.points[..., 2], labels.points[..., :2], labels.box
    names, sizes = labels.skeleton.names, labels.sizes[labels.image_index]
    odd = (v != 0) & (v != 1) & (v != 2)
    lost = (v > 0) & ~np.isfinite(xy).all(axis=2)
    given = ~np.all(np.isnan(box), axis=1)
    edges = np.all(np.isfinite(box), axis=1)
    flat = edges & ~((box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1]))
    out = boxes_outside(box, sizes)

    def point(row: int, mask: np.ndarray) -> tuple[str, list[float]]:
        k = int(np.argmax(mask[row]))
        return names[k], [float(value) for value in labels.points[row, k]]

    def visibility(row: int) -> str:
        name, values = point(row, odd)
        return f"{name}: expected v 0, 1 or 2, got {values[2]:g}"

    def place(row: int) -> str:
        name, values = point(row, lost)
        return f"{name} is labelled (v {values[2]:g}) but lies at ({values[0]:g}, {values[1]:g})"

    def size(row: int) -> str:
        x0, y0, x1, y1 = box[row]
        return f"box: expected a width and a height above 0, got {x1 - x0:g} x {y1 - y0:g}"

    checks = (
        (np.any(odd, axis=1), visibility),
        (np.any(lost, axis=1), place),
        (given & ~edges, lambda _row: "box: expected four finite numbers"),
        (flat, size),
        (out, lambda row: outside_words(box[row], sizes[row])),
    )
    problems: dict[int, str] = {}
    for mask, describe in checks:
        for row in rows[mask[rows]].tolist():
            problems.setdefault(row, f"{labels.where(row)}: {describe(row)}")
    return dict(sorted(problems.items()))


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
        line = listed(f"group: {len(missing)} of {len(rows)} objects have no field {name!r}", missing)
        raise ValueError(f"{labels.path}: {line}; choose another --group, such as image")
    return [str(values[row]) for row in rows.tolist()], True


def _with_images(
    labels: Labels, rows: np.ndarray, images: Path | None, skip_bad: bool, notes: list[str]
) -> tuple[np.ndarray, list[Path | None]]:
    """The rows whose image was found, and the path of each image; notes what was replaced or left out."""
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"{images}: no such folder of images")
    beside = labels.path.parent
    above = labels.path.absolute().parents[1 : CLIMB + 1] if labels.climb else ()
    roots = [Path(images)] if images is not None else [beside, beside / "images", *above]
    used = np.unique(labels.image_index[rows]).tolist()
    found, replaced = find_images([labels.image_names[i] for i in used], roots)
    paths: list[Path | None] = [None] * len(labels.image_names)
    for i, path in zip(used, found, strict=True):
        paths[i] = path
    if replaced:
        name, path = next(iter(replaced.items()))
        notes.append(f"{len(replaced)} of {len(used)} images found under another suffix ({name} is {path.name})")
    missing = [labels.image_names[i] for i in used if paths[i] is None]
    if missing:
        places = ", ".join(str(root) for root in roots)
        line = listed(f"{len(missing)} of {len(used)} images not found in {places}", missing)
        if not skip_bad or len(missing) == len(used):
            raise FileNotFoundError(f"{labels.path}: {line}; name their folder with --images")
        notes.append(f"left out: {line}")
        there = np.array([path is not None for path in paths])
        rows = rows[there[labels.image_index[rows]]]
    return rows, paths


def find_images(names: Sequence[str], roots: Sequence[Path]) -> tuple[list[Path | None], dict[str, Path]]:
    """Where each named image lies (None: nowhere), and those found under another image suffix.

    The first root that has the very name wins; only where none has it, the one image of the same stem is taken.
    Folders are listed once each, not asked once per image.
    """
    as_path = functools.cache(Path)

    @functools.cache
    def names_in(folder: str) -> set[str]:
        return set(os.listdir(folder) if os.path.isdir(folder) else ())

    @functools.cache
    def images_by_stem(folder: str) -> dict[str, list[str]]:
        entries: dict[str, list[str]] = {}
        for entry in names_in(folder):
            stem, suffix = os.path.splitext(entry)
            if suffix.lower() in IMAGE_SUFFIXES:
                entries.setdefault(stem, []).append(entry)
        return entries

    def itself(folder: str, base: str) -> str | None:
        return base if base in names_in(folder) else None

    def only_one_of_its_stem(folder: str, base: str) -> str | None:
        entries = images_by_stem(folder).get(os.path.splitext(base)[0], ())
        return entries[0] if len(entries) == 1 else None

    def look(name: str, entry: Callable[[str, str], str | None]) -> Path | None:
        for root in root_names:
            folder, base = os.path.split(os.path.join(root, name))
            if there := entry(folder, base):
                return as_path(folder) / there
        return None

    root_names = [str(root) for root in roots]
    found: list[Path | None] = []
    replaced: dict[str, Path] = {}
    for name in names:
        portable = name.replace("\\", "/")  # written on Windows
        path = look(portable, itself)
        if path is None:
            path = look(portable, only_one_of_its_stem)
            if path is not None:
                replaced[name] = path
        found.append(path)
    return found, replaced
