"""DeepLabCut: tables of labels with one animal or several, its project folder, and Lightning Pose's `visible`.

The header rows are scorer, [individuals,] bodyparts, coords; coords are x and y, and with Lightning Pose `visible`: 0
not labelled, 1 hidden, 2 seen. Sources: deeplabcut/utils (CollectedData_SCORER.csv, where `single` has the body parts
that only one object of a picture has) and https://github.com/paninski-lab/lightning-pose/pull/440. Labels are pixel
indices: the tools draw a picture with its first pixel's centre at 0 (napari, matplotlib).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from keylite.data.dataset import Dataset
from keylite.data.formats.entries import Entries, Point
from keylite.data.formats.scores import Scores
from keylite.data.formats.tables import PREDICTED, cells_of, new_image, point_of, rows_of, table_text
from keylite.data.formats.yaml_text import read_yaml
from keylite.data.labels import Labels, Wanted
from keylite.runtime.errors import DataError
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.words import first_of, quoted

SINGLE = "single"  # DeepLabCut's name for the body parts that only one object of a picture has
ANIMAL = "animal"  # the category of all others, if there are both
LIKELIHOOD = "likelihood"  # the third column of predictions
VISIBLE = {"0": 0.0, "1": 1.0, "2": 2.0}


def is_dlc(start: bytes) -> bool:
    """Whether a table begins as DeepLabCut's."""
    return start.split(b",", 1)[0].strip().strip(b'"').lower() == b"scorer"


def is_project(folder: Path) -> bool:
    """Whether a folder is a project of DeepLabCut, or its `labeled-data`."""
    return bool(_tables_in(folder)) and ((folder / "config.yaml").is_file() or folder.name == "labeled-data")


def _tables_in(folder: Path) -> list[Path]:
    data = folder if folder.name == "labeled-data" else folder / "labeled-data"
    return sorted(data.glob("*/CollectedData_*.csv"))


class _Columns(NamedTuple):
    """Columns of one keypoint of one animal."""

    animal: str
    part: str
    x: int
    y: int
    visible: int | None


def read_dlc(path: Path, wanted: Wanted) -> Labels:
    """Read a table of labels, or all tables of a project, in which each video is the value of the field `video`."""
    tables = _tables_in(path) if path.is_dir() else [path]
    entries = Entries(path, (*wanted.fields,))
    seen: dict[str, str] = {}  # image -> where it is labelled
    parts: dict[str, list[str]] = {}  # category -> its keypoints
    for table in tables:
        _add(entries, table, path, seen, parts)
    used = {category: names for category, names in parts.items() if names}
    edges = _edges(path) if path.is_dir() else []
    skeletons = {}
    for category, names in used.items():
        place = {name: k for k, name in enumerate(names)}
        inside = tuple((place[a], place[b]) for a, b in edges if a in place and b in place)
        try:
            skeletons[category] = Skeleton(tuple(names), inside)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None
    labels = entries.labels(wanted.category, skeletons)
    return dataclasses.replace(labels, climb=True, unit="row", origin="index")


def _edges(folder: Path) -> list[tuple[str, str]]:
    """The edges that a project's config.yaml names."""
    config = folder / "config.yaml"
    skeleton = read_yaml(config).get("skeleton") if config.is_file() else None
    pairs = skeleton if isinstance(skeleton, list) else []
    return [(str(a), str(b)) for a, b in (pair for pair in pairs if isinstance(pair, list) and len(pair) == 2)]


def _add(entries: Entries, table: Path, path: Path, seen: dict[str, str], parts: dict[str, list[str]]) -> None:
    """Add the objects of one table: of each row one per animal."""
    rows = rows_of(table)
    header = [row[0].strip().lower() for _, row in rows[:4]]
    several = header[1:2] == ["individuals"]
    expected = ["scorer", "individuals", "bodyparts", "coords"] if several else ["scorer", "bodyparts", "coords"]
    count = len(expected)
    if header[:count] != expected:
        raise DataError(f"{table}: expected header rows {', '.join(expected)}, got {', '.join(header[:count])}")
    start, columns = _columns(table, [[cell.strip() for cell in row] for _, row in rows[:count]])
    if LIKELIHOOD in rows[count - 1][1]:
        entries.notes.append(f"{PREDICTED}: the column {LIKELIHOOD}")
    kinds = {one.animal for one in columns}
    both = SINGLE in kinds and len(kinds) > 1
    category = {kind: (SINGLE if kind == SINGLE else ANIMAL) if both else "" for kind in kinds}
    for one in columns:
        names = parts.setdefault(category[one.animal], [])
        if one.part not in names:
            names.append(one.part)
    if len(rows) == count:
        raise DataError(f"{table}: the data set is empty: the table has no row below the header")
    width = len(rows[count - 1][1])
    where_of = "" if table == path else f"{table.parent.name} "
    for line, row in rows[count:]:
        name = "/".join(cell.strip() for cell in row[:start])
        where = f"{where_of}line {line}"
        try:
            key = new_image(name, row, width, seen)
            points: dict[str, dict[str, Point]] = {kind: {} for kind in dict.fromkeys(one.animal for one in columns)}
            for one in columns:
                points[one.animal][one.part] = _point(one, row)
        except ValueError as error:
            entries.bad.append(f"{where} ({name}): {error}")
            continue
        seen[key] = where
        image = entries.image(name)
        for kind, found in points.items():
            if several and not any(v for *_, v in found.values()):
                continue  # this animal is not in this picture
            who = f"{where} ({name})" if not several else f"{where} {kind} ({name})"
            fields = {"video": Path(name).parent.name} if table != path else {}
            entries.add(image, found, who, None, kind if several else None, category[kind], fields)


def _columns(table: Path, header: Sequence[Sequence[str]]) -> tuple[int, list[_Columns]]:
    """The first column of points, and the columns of each keypoint of each animal."""
    animals, parts, coords = header[-3] if len(header) == 4 else None, header[-2], header[-1]
    start = next((at for at, cell in enumerate(coords) if at and cell), len(coords))
    if odd := sorted(set(coords[start:]) - {"x", "y", "visible", LIKELIHOOD}):
        raise DataError(f"{table}: coords: expected x, y for each body part, got {', '.join(map(quoted, odd))} too")
    if start == len(coords) or len({len(row) for row in header[1:]}) > 1:
        lengths = " and ".join(str(len(row)) for row in header[1:])
        raise DataError(f"{table}: expected as many bodyparts as coords, got {lengths} columns")
    kinds = ["x", "y", *(name for name in ("visible", LIKELIHOOD) if name in coords)]
    step = len(kinds)
    columns: list[_Columns] = []
    for at in range(start, len(coords), step):
        cells = [*zip((animals or parts)[at : at + step], parts[at : at + step], strict=True)]
        if coords[at : at + step] != kinds or len(set(cells)) > 1:
            raise DataError(f"{table}: expected the columns {', '.join(kinds)} of one body part after another")
        columns.append(
            _Columns(
                animals[at] if animals else "", parts[at], at, at + 1, at + 2 if kinds[2:3] == ["visible"] else None
            )
        )
    names = [f"{one.animal} {one.part}".strip() for one in columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{table}: skeleton: keypoint names must differ, got {first_of(twice, 5, ', ')} more than once")
    return start, columns


def _point(one: _Columns, row: Sequence[str]) -> Point:
    """x, y and visibility of one cell group."""
    x, y, v = point_of(one.part, row[one.x], row[one.y])
    if one.visible is None:
        return x, y, v
    text = row[one.visible].strip()
    said = VISIBLE.get(text.removesuffix(".0")) if text else v  # an empty cell: as without the column
    if said is None:
        raise DataError(f"{one.part}: visible: expected 0, 1 or 2, got {quoted(text)}")
    # Lightning Pose takes 1 without a place for "hidden, nobody knows where", which teaches no place.
    return (x, y, said) if v else (0.0, 0.0, 0.0)


# ---- writing


def dlc_text(data: Dataset, scores: Scores | None = None) -> bytes:
    """DeepLabCut's table of labels, with a row `individuals` if a picture has several objects.

    With scores it is a table of predictions: the scorer is the model, and each body part has a `likelihood`.
    """
    rows_of: list[list[int]] = [[] for _ in data.images]
    for row, image in enumerate(data.image_index.tolist()):
        rows_of[image].append(row)
    several = max(map(len, rows_of)) > 1
    animals = _animals(data, rows_of) if several else [""]
    parts, kinds = data.skeleton.names, ("x", "y", LIKELIHOOD) if scores else ("x", "y")
    columns = [(animal, part, kind) for animal in animals for part in parts for kind in kinds]
    scorer = Path(scores.model).stem if scores else ""
    header = [["scorer", *[scorer or "keylite"] * len(columns)]]
    if several:
        header.append(["individuals", *(animal for animal, _, _ in columns)])
    header += [["bodyparts", *(part for _, part, _ in columns)], ["coords", *(kind for _, _, kind in columns)]]
    body = []
    for image, rows in enumerate(rows_of):
        place = {animals[at] if not holds_names(data) else str(data.ids[row]): row for at, row in enumerate(rows)}
        if not several:
            place = {"": rows[0]} if rows else {}
        cells = [
            cells_of(data, place[animal], (scores.likelihood,) if scores else ())
            if animal in place
            else [""] * len(kinds) * len(parts)
            for animal in animals
        ]
        body.append([data.image_names[image], *(cell for each in cells for cell in each)])
    return table_text([*header, *body])


def holds_names(data: Dataset) -> bool:
    """Whether ids can be names of animals: texts, each once in a picture."""
    pairs = set(zip(data.image_index.tolist(), data.ids, strict=False))
    return len(pairs) == len(data) and all(isinstance(key, str) for key in data.ids)


def _animals(data: Dataset, rows_of: Sequence[Sequence[int]]) -> list[str]:
    """The names of the animals: ids if they are names, else animal1, animal2, ..."""
    if holds_names(data):
        return list(dict.fromkeys(str(key) for key in data.ids))
    return [f"{ANIMAL}{number}" for number in range(1, max(map(len, rows_of)) + 1)]
