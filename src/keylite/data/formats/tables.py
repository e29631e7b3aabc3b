"""CSV files of points, one row per image: reading and writing."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.formats.coco_writing import DECIMALS
from keylite.data.formats.scores import Scores
from keylite.data.labels import GROUP_FIELDS, Labels, Wanted
from keylite.data.scale import FIELD as SCALE_FIELD
from keylite.data.spelling import canonical
from keylite.runtime.errors import DataError
from keylite.runtime.skeleton import Skeleton, unnamed
from keylite.runtime.words import clipped, listed, quoted

FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_name", "image_path", "path")
INDEX_COLUMNS = ("", "Unnamed: 0", "index")  # names of the column of row numbers that pandas and R write first
UNCLOSED = "unexpected end of data"  # the words of Python's csv
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE | re.ASCII)  # float() takes 1_0 for 10
SURE = ("score", "sigma")  # columns NAME_score and NAME_sigma of predictions
PREDICTED = "left out, because they belong to points that a model predicted and perhaps nobody checked"
EMPTY = frozenset({"", "nan", "na", "null", "none"})  # cells of an unlabelled point, in lower case


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a table has what.

    Attributes:
        names: The K keypoints.
        xy: K pairs of columns.
        fields: Name of a group field -> its column.
    """

    names: tuple[str, ...]
    xy: tuple[tuple[int, int], ...]
    fields: dict[str, int]


def read_wide(path: Path, wanted: Wanted) -> Labels:
    """Read a table with the header `file,x0,y0,x1,y1,...` or `file,nose_x,nose_y,...`; group fields may be columns."""
    rows = rows_in(path)
    header = [cell.strip() for cell in next(rows)[1]]
    _require_commas(path, header)
    if header[0].lower() not in FILE_COLUMNS:
        raise DataError(
            f"{path}: expected the first column to be named file, got {quoted(header[0])} in the first line"
        )
    columns = {name: at for at, name in enumerate(header)}
    if len(columns) < len(header):
        twice = sorted(name for name, times in Counter(header).items() if times > 1)
        raise DataError(listed(f"{path}: columns named twice", twice))
    pairs: dict[str, tuple[int, int]] = {}
    for name, at in columns.items():
        if re.fullmatch(r"x\d+", name) and f"y{name[1:]}" in columns:
            pairs[name[1:]] = (at, columns[f"y{name[1:]}"])
        elif name.endswith("_x") and f"{name[:-1]}y" in columns:
            pairs[name[:-2]] = (at, columns[f"{name[:-1]}y"])
    known = {name: columns[name] for name in (*GROUP_FIELDS, *wanted.fields) if name in columns}
    predicted = [name for name, _, kind in (each.rpartition("_") for each in columns) if kind in SURE and name in pairs]
    used = {0, *(at for pair in pairs.values() for at in pair), *known.values()}
    used |= {columns[f"{name}_{kind}"] for name in predicted for kind in SURE if f"{name}_{kind}" in columns}
    odd = [name or "(no name)" for at, name in enumerate(header) if at not in used]
    if odd or not pairs:
        line = listed(f"{path}: columns that are in no pair", odd) if odd else f"{path}: no column holds a point"
        raise DataError(f"{line}; expected file, then x0,y0,x1,y1,... or nose_x,nose_y,...")
    numbered = [name.isdigit() for name in pairs]
    names = tuple(pairs)
    if any(numbered):
        if list(pairs) != [str(k) for k in range(len(pairs))]:
            raise DataError(f"{path}: expected columns x0,y0,x1,y1,... in order, got points {', '.join(pairs)}")
        names = unnamed(len(pairs))
    labels = _labels(path, rows, len(header), Layout(names, tuple(pairs.values()), known), wanted.category)
    if predicted:
        labels.notes.append(f"{PREDICTED}: columns such as {predicted[0]}_{SURE[0]}")
    return labels


def _require_commas(path: Path, header: list[str]) -> None:
    """Raise DataError if the header shows that a spreadsheet or pandas wrote the table in another form."""
    if header[0].lower().startswith("sep="):
        raise DataError(f"{path}: the first line, {quoted(header[0])}, is for spreadsheets only; leave it out")
    for mark, word in ((";", "';'"), ("\t", "tabs")):
        if len(header) == 1 and mark in header[0]:
            raise DataError(f"{path}: expected commas between columns, got {word}; save it as comma-separated CSV")
    if len(header) > 1 and header[0] in INDEX_COLUMNS and header[1].lower() in FILE_COLUMNS:
        raise DataError(
            f"{path}: the first column numbers the rows; leave it out (in pandas: to_csv(..., index=False))"
        )


def rows_of(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of `rows_in` as a list; a table without any is a DataError."""
    return list(rows_in(path))


def rows_in(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of every row that is not blank, one by one, because there may be millions."""
    empty = True
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    empty = False
                    yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x} in it") from None
    except csv.Error as error:
        reason = 'a quote (") is opened and never closed' if str(error) == UNCLOSED else str(error)
        raise DataError(f"{path}: not a CSV table: {reason}") from None
    if empty:
        raise DataError(f"{path}: the file is empty")


def new_image(name: str, row: list[str], width: int, seen: dict[str, str]) -> str:
    """The key of a row's image in `seen`, which says where each image was. DataError, without the place, for a bad row.

    width: the number of cells that a row must have.
    """
    if len(row) != width:
        raise DataError(f"expected {width} cells, got {len(row)}")
    if not name:
        raise DataError("the image has no name")
    key = canonical(name)
    if key in seen:
        raise DataError(f"the image is on {seen[key]} already")
    return key


def _labels(
    path: Path, rows: Iterator[tuple[int, list[str]]], width: int, layout: Layout, category: str | None
) -> Labels:
    """The labels of all rows that can be read; `bad` of the labels names the other rows. width: cells of the header."""
    if category is not None:
        raise DataError(f"{path}: a CSV table has no categories; leave `category='{category}'` out")
    names: list[str] = []
    lines: list[int] = []
    bad: list[str] = []
    fields: dict[str, list[str | None]] = {field: [] for field in layout.fields}
    points = array("d")
    seen: dict[str, str] = {}
    for line, row in rows:
        name = row[0].strip()
        try:
            key = new_image(name, row, width, seen)
            triples = [point_of(part, row[x], row[y]) for part, (x, y) in zip(layout.names, layout.xy, strict=True)]
        except ValueError as error:
            bad.append(f"line {line} ({name}): {error}")
            continue
        seen[key] = f"line {line}"
        names.append(name)
        lines.append(line)
        points.extend(value for triple in triples for value in triple)
        for field, at in layout.fields.items():
            fields[field].append(row[at].strip() or None)
    if not names and not bad:
        raise DataError(f"{path}: the data set is empty: the table has no row below the header")
    if not names:
        raise DataError(f"{listed(f'{path}: all rows are bad', bad)}; mend them")
    try:
        skeleton = Skeleton(layout.names)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    return Labels(
        path=path,
        skeleton=skeleton,
        image_names=names,
        sizes=np.full((len(names), 2), np.nan),
        image_index=np.arange(len(names), dtype=np.int32),
        points=np.frombuffer(points, np.float64).reshape(-1, len(layout.names), 3),
        box=np.full((len(names), 4), np.nan),
        area=np.full(len(names), np.nan),
        where=lambda row: f"line {lines[row]} ({clipped(names[row])})",
        fields=fields,
        bad=bad,
        notes=[],
        once=True,
        climb=True,
        unit="row",
    )


def point_of(name: str, x: str, y: str) -> tuple[float, float, float]:
    """x, y and visibility: 2, or 0 if both cells are empty. DataError if one cell is empty or holds no number."""
    if NUMBER.fullmatch(x) and NUMBER.fullmatch(y):
        values = float(x), float(y)
        if math.isfinite(values[0]) and math.isfinite(values[1]):
            return *values, 2.0
    if x.strip().lower() in EMPTY and y.strip().lower() in EMPTY:
        return 0.0, 0.0, 0.0
    raise DataError(f"{name}: expected two numbers, or two empty cells, got {quoted(x)}, {quoted(y)}")


# ---- writing


def wide_text(data: Dataset, scores: Scores | None = None) -> bytes:
    """A table with the columns file, NAME_x, NAME_y, ..., and group if the groups are named.

    With scores, NAME_score and NAME_sigma follow each pair. Raises DataError if a picture has several objects.
    """
    if len(np.unique(data.image_index)) < len(data):
        raise DataError(
            f"{data.called}: a table has one object per picture, and here some have several; choose another format"
        )
    sure = SURE if scores else ()
    header = ["file", *(f"{name}_{axis}" for name in data.skeleton.names for axis in ("x", "y", *sure))]
    group = ["group"] if data.groups_named else []
    scale = [] if data.mm_per_px is None else [SCALE_FIELD]
    rows = []
    for row, image in enumerate(data.image_index.tolist()):
        cells = cells_of(data, row, (scores.score, scores.sigma) if scores else ())
        if group:
            cells.append(data.groups[data.group_index[row]])
        if data.mm_per_px is not None:
            cells.append("" if np.isnan(data.mm_per_px[row]) else repr(float(data.mm_per_px[row])))
        rows.append([data.image_names[image], *cells])
    return table_text([header + group + scale, *rows])


def cells_of(data: Dataset, row: int, figures: Sequence[np.ndarray] = ()) -> list[str]:
    """x and y of each keypoint of an object as pixel indices, then its figures; empty for an unlabelled point.

    figures: (N, K) each; NaN gives an empty cell.
    """
    places = np.round(data.xy[row] - 0.5, DECIMALS) + 0.0  # + 0.0: no -0
    values = np.column_stack([places, *(np.round(each[row].astype(np.float64), 6) for each in figures)]).tolist()
    seen = data.visible[row].tolist()
    return [
        repr(value) if v and value == value else "" for cells, v in zip(values, seen, strict=True) for value in cells
    ]


def table_text(rows: Iterable[Sequence[str]]) -> bytes:
    """Rows as a CSV table."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
