"""Small formats of landmarks: TPS (tpsDig), dlib's XML (imglab), .pts (300W) and the CSV of Kaggle's facial keypoints.

Sources, and what is easily mistaken in each:
- TPS: tpsDig and geomorph's `readland.tps`; y counts from the lower edge of the picture.
- dlib: dlib/data_io/image_dataset_metadata.h and tools/imglab; `part` holds pixel indices, a box whole pixels.
- .pts: menpo's `pts_importer`, "PTS landmarks are 1-based": on a picture 480 wide they are 1 to 480.
- Kaggle: https://www.kaggle.com/c/facial-keypoints-detection/data, "in the space of pixel indices"; the pixels of a
  square grey picture are the numbers of the column Image.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keylite.data.folders import is_picture
from keylite.data.formats.entries import Entries, Point, named_points, number
from keylite.data.formats.tables import point_of, rows_of
from keylite.data.formats.xml_text import read_xml
from keylite.data.labels import Labels, Wanted
from keylite.data.scale import FIELD as SCALE_FIELD
from keylite.runtime.errors import DataError
from keylite.runtime.skeleton import Skeleton, unnamed
from keylite.runtime.texts import read_text
from keylite.runtime.words import quoted

LARGEST = 1_000_000_000  # bytes of a text file
LARGEST_PTS = 10_000_000
DLIB = re.compile(rb"<dataset\b.*?<images\b", re.DOTALL)
MISSING = frozenset({"na", "nan"})  # a landmark of TPS that is missing
PTS = re.compile(r"\s*version\s*:\s*(\S+)\s+n_points\s*:\s*(\d{1,6})\s*\{([^{}]*)\}\s*", re.ASCII)


# ---- TPS


def is_tps(start: bytes) -> bool:
    """Whether a text begins as a TPS file."""
    return re.match(rb"\s*LM3?\s*=\s*\d", start, re.IGNORECASE) is not None


def read_tps(path: Path, wanted: Wanted) -> Labels:
    """Read a TPS file: of each specimen its landmarks, its IMAGE and its ID."""
    lines = [line.strip() for line in read_text(path, LARGEST).splitlines()]
    entries = Entries(path, wanted.fields)
    images: dict[str, int] = {}
    starts = [at for at, line in enumerate(lines) if re.match(r"LM3?\s*=", line, re.IGNORECASE)]
    counts = [_landmarks_of(lines[at]) for at in starts]
    usual = max(set(counts), key=counts.count)
    names = unnamed(max(usual, 1))
    curves = 0
    scaled = SCALE_FIELD in wanted.fields
    for start, end, count in zip(starts, [*starts[1:], len(lines)], counts, strict=True):
        where = f"line {start + 1}"
        try:
            fields = _tps_fields(lines[start + 1 + max(count, 0) : end])
            curves += "curves" in fields
            if scaled and "scale" in fields:
                fields[SCALE_FIELD] = fields["scale"]
            if count < 1:
                raise DataError(f"expected LM=n and n lines of x and y, got {lines[start]!r:.40}")
            if count != usual:
                raise DataError(f"expected {usual} landmarks as in the others, got {lines[start]!r:.40}")
            points = {
                name: _tps_point(name, line)
                for name, line in zip(names, lines[start + 1 : start + 1 + count], strict=True)
            }
            if not (image := fields.get("image", "")):
                raise DataError("IMAGE= is missing")
        except ValueError as error:
            entries.bad.append(f"{where}: {error}")
            continue
        index = images[image] if image in images else images.setdefault(image, entries.image(image))
        entries.add(index, points, f"{where} ({image})", None, fields.get("id"), "", fields)
    if any(entries.values(SCALE_FIELD)):
        entries.notes.append("SCALE is taken as mm per px; if it is another length, say the mm with `mm_per_px`")
    if curves:
        entries.notes.append(f"left out: CURVES of {curves} specimens")
    labels = entries.labels(wanted.category, {"": Skeleton(names)})
    return dataclasses.replace(labels, from_bottom=True, once=False, unit="specimen")


def _landmarks_of(line: str) -> int:
    """The number of landmarks that `LM=n` says; -1 for three dimensions or no number."""
    found = re.fullmatch(r"LM\s*=\s*(\d{1,5})", line, re.IGNORECASE)
    return int(found[1]) if found and int(found[1]) else -1


def _tps_fields(lines: list[str]) -> dict[str, str]:
    """The names and values below the landmarks of a specimen."""
    pairs = [line.partition("=") for line in lines if "=" in line]
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _tps_point(name: str, line: str) -> Point:
    cells = line.split()
    if len(cells) != 2:
        raise DataError(f"{name}: expected x and y, got {quoted(line)}")
    if {cell.lower() for cell in cells} <= MISSING:
        return 0.0, 0.0, 0.0
    return number(cells[0], name), number(cells[1], name), 2.0


# ---- dlib


def is_dlib(start: bytes) -> bool:
    """Whether XML begins as a data set of dlib."""
    return DLIB.search(start) is not None


def read_dlib(path: Path, wanted: Wanted) -> Labels:
    """Read dlib's XML: of each picture its boxes, and of each box its parts; boxes to ignore are left out."""
    root = read_xml(path)
    entries = Entries(path, wanted.fields)
    for image in root.iterfind("images/image"):
        name = image.get("file")
        if not name:
            entries.bad.append("an image without a file")
            continue
        index = entries.image(name)
        for order, box in enumerate(image.iterfind("box"), start=1):
            where = f"{name} box {order}"
            if box.get("ignore") == "1":
                entries.left_out["box to ignore"] += 1
                continue
            try:
                left, top, width, height = (
                    number(box.get(side), f"box: {side}") for side in ("left", "top", "width", "height")
                )
                parts = [
                    (each.get("name") or "", (number(each.get("x"), "x"), number(each.get("y"), "y"), 2.0))
                    for each in box.iterfind("part")
                ]
                edges = left, top, left + width, top + height
                entries.add(index, named_points(parts), where, edges, None, (box.findtext("label") or "").strip())
            except ValueError as error:
                entries.bad.append(f"{where}: {error}")
    return dataclasses.replace(entries.labels(wanted.category), origin="index", unit="box")


# ---- .pts


def is_pts_folder(names: list[str]) -> bool:
    """Whether a folder holds .pts files."""
    return any(name.lower().endswith(".pts") and not name.startswith(".") for name in names)


def is_pts(start: bytes) -> bool:
    """Whether a text begins as a .pts file."""
    return re.match(rb"\s*version\s*:\s*\S+\s+n_points\s*:", start) is not None


def read_pts(path: Path, wanted: Wanted) -> Labels:
    """Read a folder of .pts files, each beside the picture of its name, or a single one."""
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("*.pts")) if path.is_dir() else [path]
    pictures = {Path(name).stem: name for name in sorted(each.name for each in folder.iterdir()) if is_picture(name)}
    entries = Entries(path, wanted.fields)
    counts: list[int] = []
    for file in files:
        try:
            points = list(_pts_points(read_text(file, LARGEST_PTS)))
            counts.append(len(points))
            if len(points) != counts[0]:
                raise DataError(f"expected {counts[0]} points as in {files[0].name}, got {len(points)}")
        except ValueError as error:
            entries.bad.append(f"{file.name}: {str(error).removeprefix(f'{file}: ')}")
            continue
        image = entries.image(pictures.get(file.stem, f"{file.stem}.jpg"))
        entries.add(image, dict(zip(unnamed(len(points)), points, strict=True)), file.name)
    return dataclasses.replace(entries.labels(wanted.category), origin="one", unit="file")


def _pts_points(text: str) -> Iterator[Point]:
    found = PTS.fullmatch(text)
    if not found:
        raise DataError("expected version: 1, n_points: N and the points in { }")
    lines = [line.split() for line in found[3].splitlines() if line.strip()]
    if len(lines) != int(found[2]):
        raise DataError(f"expected {int(found[2])} points, as n_points says, got {len(lines)}")
    for at, cells in enumerate(lines):
        if len(cells) != 2:
            raise DataError(f"point {at}: expected x and y, got {len(cells)} numbers")
        yield number(cells[0], f"point {at}"), number(cells[1], f"point {at}"), 2.0


# ---- Kaggle's facial keypoints


def is_kaggle(start: bytes) -> bool:
    """Whether a table has its pictures in a column."""
    header = start.split(b"\n", 1)[0].strip().split(b",")
    return b"Image" in header and any(cell.endswith(b"_x") for cell in header)


def read_kaggle(path: Path, wanted: Wanted) -> Labels:
    """Read a table whose column Image holds the pixels of a square grey picture."""
    rows = rows_of(path)
    header = [cell.strip() for cell in rows[0][1]]
    columns = {name: at for at, name in enumerate(header)}
    pairs = {
        name[:-2]: (at, columns[f"{name[:-1]}y"])
        for name, at in columns.items()
        if name.endswith("_x") and f"{name[:-1]}y" in columns
    }
    if not pairs:
        raise DataError(f"{path}: no pair of columns NAME_x, NAME_y holds a point")
    entries = Entries(path, wanted.fields)
    pixels: list[np.ndarray] = []
    for line, row in rows[1:]:
        try:
            if len(row) != len(header):
                raise DataError(f"expected {len(header)} cells, got {len(row)}")
            points = {name: point_of(name, row[x], row[y]) for name, (x, y) in pairs.items()}
            picture = _grey(row[columns["Image"]])
        except ValueError as error:
            entries.bad.append(f"line {line}: {error}")
            continue
        pixels.append(picture)
        image = entries.image(f"line {line}", picture.shape[1], picture.shape[0])
        entries.add(image, points, f"line {line}", fields=dict(zip(header, row, strict=True)))
    labels = entries.labels(wanted.category, {"": Skeleton(tuple(pairs))})
    return dataclasses.replace(labels, origin="index", unit="row", pixels=pixels)


def _grey(text: str) -> np.ndarray:
    """A square picture, uint8 (S, S, 3), from its grey levels as a text."""
    try:
        values = np.array(text.split(), np.int64)
    except (ValueError, OverflowError):
        raise DataError("Image: expected whole numbers, separated by blanks") from None
    side = math.isqrt(len(values))
    if not len(values) or side * side != len(values):
        raise DataError(f"Image: expected the pixels of a square picture, got {len(values)} numbers")
    if values.min() < 0 or values.max() > 255:
        raise DataError(f"Image: expected grey levels 0 to 255, got {values.min()} to {values.max()}")
    return np.repeat(values.reshape(side, side, 1), 3, axis=2).astype(np.uint8)
