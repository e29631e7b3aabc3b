"""Collecting the objects of a label file one by one, and giving them as the columns of Labels.

For formats whose points bear names: which keypoints there are is known only when every object was seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keylite.data.groups import in_number_order
from keylite.data.labels import Labels
from keylite.runtime.errors import DataError
from keylite.runtime.skeleton import MAX_KEYPOINTS, Skeleton
from keylite.runtime.words import clipped, counted, listed, quoted

Point = tuple[float, float, float]  # x, y and visibility
Box = tuple[float, float, float, float]  # x0, y0, x1, y1
UNLABELLED: Point = (0.0, 0.0, 0.0)
HIDDEN_WORDS = frozenset({"occluded", "hidden", "invisible"})  # flags and choices that make a point hidden
WORDS = (str, int, float, bool)


class _Object(NamedTuple):
    image: int
    points: Mapping[str, Point]
    box: Box | None
    where: str
    name: int | str | None
    category: str


class Entries:
    """The objects of a label file, in the order in which they are added.

    Attributes:
        bad: Lines about objects that cannot be read.
        notes: Lines about what was left out or replaced.
        left_out: What is left out -> how often; each becomes a note.
    """

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        self.path = path
        self.bad: list[str] = []
        self.notes: list[str] = []
        self.left_out: Counter[str] = Counter()
        self.image_names: list[str] = []
        self._sizes: list[tuple[float, float]] = []
        self._objects: list[_Object] = []
        self._fields: dict[str, list[str | None]] = {name: [] for name in fields}

    def image(self, name: str, width: float | None = None, height: float | None = None) -> int:
        """Add an image, and give its number. Sizes of None or 0 are unknown."""
        self.image_names.append(name)
        self._sizes.append((width or math.nan, height or math.nan))
        return len(self.image_names) - 1

    def add(
        self,
        image: int,
        points: Mapping[str, Point],
        where: str,
        box: Box | None = None,
        name: int | str | None = None,
        category: str = "",
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an object. points: keypoint -> x, y, visibility. where: what messages call it. name: its id."""
        self._objects.append(_Object(image, points, box, where, name, category))
        for field, column in self._fields.items():
            value = (fields or {}).get(field)
            column.append(str(value) if isinstance(value, WORDS) else None)

    def values(self, field: str) -> list[str | None]:
        """The values of a group field, one per object."""
        return self._fields.get(field, [])

    def labels(self, category: str | None = None, skeletons: Mapping[str, Skeleton] | None = None) -> Labels:
        """The columns of all objects, or of those of one category.

        skeletons: category -> its skeleton, for a format that says it; else the keypoints are all names that occur,
        in the order of their numbers and letters, so that files with the same names have the same order. Raises
        DataError if categories differ in keypoints and none is chosen, or if there is nothing.
        """
        rows = self._rows_of(category)
        objects = [self._objects[row] for row in rows]
        used = [kind for kind in dict.fromkeys(one.category for one in objects) if kind] or [""]
        skeleton = self._skeleton(objects, used, skeletons or {})
        place = {name: k for k, name in enumerate(skeleton.names)}
        points = np.zeros((len(objects), len(skeleton), 3))
        for row, one in enumerate(objects):
            for name, point in one.points.items():
                points[row, place[name]] = point
        boxes = [one.box or (math.nan,) * 4 for one in objects]
        wheres = [one.where for one in objects]
        names = [one.name for one in objects]
        self.notes += [f"left out: {counted(count, what)}" for what, count in self.left_out.items()]
        return Labels(
            path=self.path,
            skeleton=skeleton,
            image_names=self.image_names,
            sizes=np.array(self._sizes, np.float64).reshape(-1, 2),
            image_index=np.array([one.image for one in objects], np.int32),
            points=points,
            box=np.array(boxes, np.float64).reshape(-1, 4),
            area=np.full(len(objects), np.nan),
            where=wheres.__getitem__,
            fields={field: [column[row] for row in rows] for field, column in self._fields.items()},
            bad=self.bad,
            notes=self.notes,
            once=True,
            unit="object",
            origin="corner",
            ids=() if None in names else [name for name in names if name is not None],
            category=used[0] if len(used) == 1 else "",
        )

    def _rows_of(self, category: str | None) -> list[int]:
        """The numbers of the objects of a category; of all objects if it is None."""
        if not self._objects:
            why = listed("all objects are bad", self.bad) if self.bad else "the data set is empty: no object has points"
            raise DataError(f"{self.path}: {'; '.join([why, *(f'{n} {what}' for what, n in self.left_out.items())])}")
        if category is None:
            return list(range(len(self._objects)))
        rows = [row for row, one in enumerate(self._objects) if one.category == category]
        if not rows:
            names = sorted({one.category for one in self._objects} - {""})
            line = f"{self.path}: no category is named {quoted(category)}"
            raise DataError(f"{line}; the format has none" if not names else listed(f"{line}; the names are", names))
        if len(rows) < len(self._objects):
            self.notes.append(f"left out: {counted(len(self._objects) - len(rows), 'object')} of other categories")
        return rows

    def _skeleton(self, objects: list[_Object], used: list[str], skeletons: Mapping[str, Skeleton]) -> Skeleton:
        """The one skeleton of these objects."""
        if len(used) > 1:
            by_kind = {
                kind: skeletons[kind].names if kind in skeletons else self._names(objects, kind) for kind in used
            }
            if len(set(by_kind.values())) > 1:
                kinds = [f"{kind} ({len(names)})" for kind, names in by_kind.items()]
                line = f"{self.path}: categories differ in keypoints; choose one with `category=NAME`"
                raise DataError(listed(line, kinds))
            self.notes.append(f"merged: {len(used)} categories with the same keypoints")
        if used[0] in skeletons:
            return skeletons[used[0]]
        try:
            return Skeleton(self._names(objects))
        except ValueError as error:
            raise DataError(f"{self.path}: {error}") from None

    def _names(self, objects: list[_Object], kind: str | None = None) -> tuple[str, ...]:
        """The names of points, in the order of their numbers and letters."""
        names = {name for one in objects if kind in (None, one.category) for name in one.points}
        if len(names) > MAX_KEYPOINTS:
            raise DataError(f"{self.path}: expected at most {MAX_KEYPOINTS:,} names of points, got {len(names):,}")
        return tuple(sorted(names, key=in_number_order))


def number(value: object, what: str) -> float:
    """A finite number from a text or a number of a label file; DataError, which names what it is, for anything else."""
    try:
        result = float(value) if isinstance(value, (int, float)) or _plain(value) else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        result = math.nan
    if isinstance(value, bool) or not math.isfinite(result):
        raise DataError(f"{what}: expected a number, got {quoted(value)}")
    return result


def _plain(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and "_" not in value


def named_points(points: Sequence[tuple[str, Point]]) -> dict[str, Point]:
    """The points of one object by name; DataError if two have the same name."""
    by_name = dict(points)
    if len(by_name) < len(points):
        twice = [name for name, count in Counter(name for name, _ in points).items() if count > 1]
        raise DataError(f"more than one point is named {quoted(clipped(twice[0]))}")
    return by_name
