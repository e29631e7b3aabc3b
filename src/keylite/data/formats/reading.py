"""Label files to data sets: which format a file is in, and who reads it.

A reader is a function `(path, category, group fields) -> Labels`, a row of FORMATS; all that is the same for every
format is in labels.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from keylite.data.dataset import Dataset, require_datasets
from keylite.data.formats.coco import read_coco
from keylite.data.formats.coco_writing import write_coco
from keylite.data.formats.tables import read_dlc, read_wide
from keylite.data.labels import GROUP_FIELDS, ORIGINS, Labels, to_dataset
from keylite.data.marks import require_mark
from keylite.runtime.errors import DataError
from keylite.runtime.files import open_file, replacing_within
from keylite.runtime.images import write_image
from keylite.runtime.kinds import path_of, require_kind
from keylite.runtime.progress import step
from keylite.runtime.texts import require_no_utf16
from keylite.runtime.types import FilePath
from keylite.runtime.words import listed, quoted

__all__ = ["read_dataset", "write_coco", "write_dataset"]
FORMATS: dict[str, Callable[[Path, str | None, tuple[str, ...]], Labels]] = {
    "coco": read_coco,
    "csv": read_wide,
    "dlc": read_dlc,
}
Labelled = Dataset | FilePath  # labelled images: a data set, or the path of a label file
LARGE = 50_000_000  # bytes of labels, which take over a second
LOOKED_AT = 4096  # bytes that tell the format


def read_dataset(
    path: FilePath,
    *,
    images: FilePath | None = None,
    category: str | None = None,
    group: str = "auto",
    pixel_origin: str = "index",
    format: str | None = None,
    skip_bad: bool = False,
    missing_mark: tuple[float, float] | None = None,
) -> Dataset:
    """The labelled objects of a COCO JSON, a wide CSV or a DeepLabCut CSV, as continuous image px.

    images: the folder that file names start from; None searches around the label file, see docs/data-formats.md.
    category: of COCO, where categories differ in keypoints. group: auto (a field identity, group or subject, else one
    group an image), image, block:N, field:NAME or regex:PATTERN. pixel_origin: index, where a source's 0 is the centre
    of the first pixel, or corner. format: coco, csv or dlc; else by content. skip_bad leaves bad objects out.
    missing_mark: (x, y) as written, in px: points that lie exactly there are unlabelled, whatever their visibility.
    Whatever was left out, merged or replaced is in the data set's `notes`. Raises FileNotFoundError for a missing file
    or image, ValueError with every bad object in one line.
    """
    path = path_of("path", path)
    require_kind("group", group, str, "a text", "such as 'auto' or 'field:NAME'")
    require_kind("pixel_origin", pixel_origin, str, "a text", "index or corner")
    require_kind("format", format, (str, type(None)), "a text", f"one of {', '.join(FORMATS)}, or None")
    if missing_mark is not None:
        require_mark(missing_mark)
    if pixel_origin not in ORIGINS:
        raise DataError(f"pixel_origin: expected {' or '.join(ORIGINS)}, got {quoted(pixel_origin)}")
    if format is not None and format not in FORMATS:
        raise DataError(f"format: expected {', '.join(FORMATS)}, got {quoted(format)}")
    found = _format(path)
    fields = GROUP_FIELDS if group == "auto" else (group.removeprefix("field:"),) if group.startswith("field:") else ()
    with step(f"reading {path}") if path.stat().st_size > LARGE else contextlib.nullcontext():
        labels = FORMATS[format or found](path, category, fields)
        return to_dataset(
            labels, None if images is None else path_of("images", images), group, pixel_origin, skip_bad, missing_mark
        )


def as_dataset(name: str, data: Labelled) -> Dataset:
    """A data set as it is, or the labels at a path, read as `read_dataset` does by default.

    Raises ArgumentError, by the argument's name, for anything else.
    """
    if isinstance(data, (str, os.PathLike)):
        return read_dataset(path_of(name, data))
    require_kind(name, data, Dataset, "a Dataset or the path of labels", "use read_dataset(...) or from_arrays(...)")
    return data


def _format(path: Path) -> str:
    """The format of a file by its first bytes; raises where it is no readable text file."""
    try:
        with open_file(path, "a label file (COCO JSON or CSV)") as file:
            start = file.read(LOOKED_AT).removeprefix(b"\xef\xbb\xbf").lstrip()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such label file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not start:
        raise DataError(f"{path}: the file is empty")
    require_no_utf16(start, path)
    if b"\0" in start:
        raise DataError(f"{path}: expected a label file (COCO JSON or CSV in UTF-8), got a binary file")
    if start[:1] in b"{[":
        return "coco"
    return "dlc" if start.split(b",", 1)[0].strip().strip(b'"').lower() == b"scorer" else "csv"


LABELS = "labels.json"


def require_new_files(folder: FilePath, names: Iterable[str] = (LABELS,)) -> None:
    """Raise ValueError where one of these files is in the folder already: it may be somebody's work."""
    there = [name for name in names if os.path.lexists(Path(folder) / name)]
    if there:
        line = listed(f"{folder}: there already, of what is to be written", there)
        raise DataError(f"{line}; choose another folder")


def write_dataset(data: Dataset, folder: FilePath) -> Path:
    """Write a data set with its images as PNG and its labels as `labels.json` (COCO), and give the labels' path.

    All files appear, or none. Raises ValueError where one of them is there already.
    """
    require_datasets(data=data)
    folder = path_of("folder", folder)
    names = [f"{Path(name).stem}.png" for name in data.image_names]
    if len(set(names)) != len(names):
        raise DataError(f"{data.called}: image names must differ in their stems to be written to one folder")
    require_new_files(folder, (LABELS, *names))
    with replacing_within(folder) as inside, step(f"writing the images of {data.called}", len(names)) as done:
        paths = [inside / name for name in names]
        for image, path in enumerate(paths):
            write_image(path, data.read_image(image))
            done(1)
        write_coco(dataclasses.replace(data, images=tuple(paths), image_names=tuple(names)), inside / LABELS)
    return folder / LABELS
