"""Reading label files of any format as data sets, and writing data sets with their images.

Each format has a reader in FORMATS, a function `(path, category, group fields) -> Labels`. What is the same for every
format is in labels.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from keylite.data.dataset import Dataset
from keylite.data.formats.coco import read_coco
from keylite.data.formats.coco_writing import coco_of
from keylite.data.formats.tables import read_dlc, read_wide
from keylite.data.labels import GROUP_FIELDS, ORIGINS, Labels, to_dataset
from keylite.data.marks import require_mark
from keylite.runtime.boxes import numbers_of
from keylite.runtime.errors import ArgumentError, DataError
from keylite.runtime.files import open_file, replacing_within, require_outputs, write_bytes
from keylite.runtime.images import write_image
from keylite.runtime.kinds import path_of, path_or_none, require_flags, require_kind, require_text
from keylite.runtime.progress import step
from keylite.runtime.texts import require_no_utf16
from keylite.runtime.types import FilePath, Points
from keylite.runtime.words import listed, quoted

__all__ = ["read_dataset", "write_coco", "write_dataset"]
FORMATS: dict[str, Callable[[Path, str | None, tuple[str, ...]], Labels]] = {
    "coco": read_coco,
    "csv": read_wide,
    "dlc": read_dlc,
}
Labelled = Dataset | FilePath  # labelled images: a data set, or the path of a label file
LARGE = 50_000_000  # bytes: a larger label file takes more than a second to read, so its progress is shown
LOOKED_AT = 4096  # bytes by which the format is recognised


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
    """Read labelled images from a file: COCO keypoints JSON, a wide CSV or a DeepLabCut CSV.

    The `notes` of the data set say what was left out, merged or replaced. docs/data-formats.md describes the formats.

    Args:
        path: The label file.
        images: The folder in which file names start. None: images are searched around the label file.
        category: The name of the COCO category to read. None reads all, if they have the same keypoints.
        group: Which images belong together: "image" (each is a group), "block:N" (runs of N images in the order of
            their names), "field:NAME", "regex:PATTERN", or "auto": the field identity, group or subject if the file has
            one, else "image".
        pixel_origin: "index" if 0 in the file is the centre of the first pixel, "corner" if it is its corner.
        format: "coco", "csv" or "dlc". None: the format is recognised by the file's content.
        skip_bad: Whether bad objects and missing images are left out; a note names them.
        missing_mark: (x, y), px as the file has them: points that lie exactly there are unlabelled, whatever their
            visibility. None: there is no such mark.

    Returns:
        The data set, in continuous image px.

    Raises:
        FileNotFoundError: The file, or an image, is missing.
        ArgumentError: An argument has a wrong value.
        DataError: The file cannot be read, has a key twice, or objects are bad: the line names all of them.

    Example:
        >>> data = keylite.read_dataset("labels.json", group="field:subject")
    """
    path, images = path_of("path", path), path_or_none("images", images)
    require_flags(skip_bad=skip_bad)
    require_kind("group", group, str, "a text", "such as 'auto' or 'field:NAME'")
    require_kind("pixel_origin", pixel_origin, str, "a text", "index or corner")
    require_text("category", category, "the name of a category, or None")
    require_text("format", format, f"one of {', '.join(FORMATS)}, or None")
    if missing_mark is not None:
        require_mark(missing_mark)
    if pixel_origin not in ORIGINS:
        raise ArgumentError(f"pixel_origin: expected {' or '.join(ORIGINS)}, got {quoted(pixel_origin)}")
    if format is not None and format not in FORMATS:
        raise ArgumentError(f"format: expected {', '.join(FORMATS)}, got {quoted(format)}")
    recognised = _format(path)
    fields = GROUP_FIELDS if group == "auto" else (group.removeprefix("field:"),) if group.startswith("field:") else ()
    with step(f"reading {path}") if path.stat().st_size > LARGE else contextlib.nullcontext():
        labels = FORMATS[format or recognised](path, category, fields)
        return to_dataset(labels, images, group, pixel_origin, skip_bad, missing_mark)


def as_dataset(name: str, data: Labelled) -> Dataset:
    """A data set as it is; for a path, what `read_dataset` reads from it by default.

    Raises ArgumentError, with the argument's name, for anything else.
    """
    if isinstance(data, (str, os.PathLike)):
        return read_dataset(path_of(name, data))
    require_kind(name, data, Dataset, "a Dataset or the path of labels", "use read_dataset(...) or from_arrays(...)")
    return data


def _format(path: Path) -> str:
    """The format of a file, recognised by its first bytes; raises an error if it is no readable text file."""
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
    """Raise ArgumentError if one of these files is in the folder already, because it may be somebody's work."""
    existing = [name for name in names if os.path.lexists(Path(folder) / name)]
    if existing:
        line = listed(f"{folder}: these files, which would be written, are there already", existing)
        raise ArgumentError(f"{line}; choose another folder")


def write_coco(data: Labelled, path: FilePath, xy: Points | None = None) -> None:
    """Write a data set as COCO keypoints JSON; `read_dataset` gives the same objects back.

    The file appears whole or not at all. Points are written as pixel indices (0.5 less) with 10 decimals, edges count
    from 1, mirror pairs are `flip_pairs`, and the group is a field of the annotation. `file_name` is the image name of
    the data set, so to read a file that does not lie beside its images, name their folder.

    Args:
        data: The data set, or the path of a label file.
        path: The file to write. A file that is there already is replaced, but not the data set's own label file.
        xy: (N, K, 2) continuous image px, written instead of the labels, such as predictions; NaN for no point. None
            writes the labels.

    Raises:
        ArgumentError: `path` is the data set's own label file, one of its images, or a folder; or `xy` holds no numbers
            or has another shape than the labels.
        FileNotFoundError: An image file, whose header gives its size, is missing.
        ImageError: The header of an image cannot be read.
    """
    data, path = as_dataset("data", data), path_of("path", path)
    points = data.xy if xy is None else numbers_of("xy", xy, data.xy.shape)
    require_outputs({"path": path}, data.files_named((path.name,)))
    write_bytes(path, coco_of(data, points))


def write_dataset(data: Labelled, folder: FilePath) -> Path:
    """Write a data set: its images as PNG and its labels as `labels.json` (COCO). All files appear, or none.

    Args:
        data: The data set, or the path of a label file. Image names must differ without folder and suffix, because that
            is the name of the PNG.
        folder: The folder to write to; it is made if it is missing. A file that is there already is never replaced.

    Returns:
        The path of `labels.json`.

    Raises:
        ArgumentError: One of the files is there already.
        DataError: Two images would have the same file name.
        FileNotFoundError: An image file is missing.
        ImageError: An image cannot be read.
    """
    data, folder = as_dataset("data", data), path_of("folder", folder)
    names = [f"{Path(name).stem}.png" for name in data.image_names]
    if len(set(names)) != len(names):
        raise DataError(f"{data.called}: image names must differ without folder and suffix to be written to one folder")
    require_new_files(folder, (LABELS, *names))
    with replacing_within(folder) as inside, step(f"writing the images of {data.called}", len(names)) as done:
        paths = [inside / name for name in names]
        for image, path in enumerate(paths):
            write_image(path, data.read_image(image))
            done(1)
        write_coco(dataclasses.replace(data, images=tuple(paths), image_names=tuple(names)), inside / LABELS)
    return folder / LABELS
