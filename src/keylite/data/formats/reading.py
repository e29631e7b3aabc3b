"""Reading labels of any format as data sets, and writing data sets with their images.

Each format has a row in FORMATS: how it is recognised, and its reader. What is the same for all is in labels.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from keylite.data.dataset import Dataset
from keylite.data.formats.coco import read_coco
from keylite.data.formats.coco_writing import coco_of
from keylite.data.formats.cvat import is_cvat, read_cvat
from keylite.data.formats.dlc import is_dlc, is_project, read_dlc
from keylite.data.formats.label_studio import is_label_studio, read_label_studio
from keylite.data.formats.labelme import is_labelme, read_labelme
from keylite.data.formats.landmarks import (
    is_dlib,
    is_kaggle,
    is_pts,
    is_pts_folder,
    is_tps,
    read_dlib,
    read_kaggle,
    read_pts,
    read_tps,
)
from keylite.data.formats.parts import PARTS, chosen_part, files_in, listed_names
from keylite.data.formats.recognition import refuse, refuse_folder, unread_binary, unread_text
from keylite.data.formats.sleap import is_sleap, read_sleap
from keylite.data.formats.tables import read_wide
from keylite.data.formats.via import is_via, read_via
from keylite.data.formats.yolo import is_yolo, read_yolo, yaml_in, yolo_parts
from keylite.data.labels import GROUP_FIELDS, ORIGINS, Labels, Wanted, to_dataset
from keylite.data.marks import require_mark
from keylite.data.scale import FIELD as SCALE_FIELD
from keylite.data.scale import require_scale
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
log = logging.getLogger("keylite")
Reader = Callable[[Path, Wanted], Labels]


class Seen(NamedTuple):
    """What a format is recognised by.

    Attributes:
        path: A file or a folder.
        start: The first bytes of the file, without a byte order mark and blanks; empty for a folder.
        names: What lies in the folder; empty for a file.
    """

    path: Path
    start: bytes
    names: list[str]


class Format(NamedTuple):
    """A format of labels. looks_like: whether a file or folder has it; the first of FORMATS that says so is taken."""

    looks_like: Callable[[Seen], bool]
    read: Reader


def _file(test: Callable[[bytes], bool]) -> Callable[[Seen], bool]:
    """A test of a file by its first bytes."""
    return lambda seen: bool(seen.start) and test(seen.start)


FORMATS: dict[str, Format] = {
    "sleap": Format(lambda seen: is_sleap(seen.path, seen.start), read_sleap),
    "yolo": Format(lambda seen: is_yolo(seen.start) if seen.start else yaml_in(seen.path) is not None, read_yolo),
    "labelme": Format(lambda seen: is_labelme(seen.start or _first_json(seen)), read_labelme),
    "label-studio": Format(_file(is_label_studio), read_label_studio),
    "via": Format(_file(is_via), read_via),
    "coco": Format(_file(lambda start: start[:1] in b"{["), read_coco),
    "dlib": Format(_file(is_dlib), read_dlib),
    "cvat": Format(_file(is_cvat), read_cvat),
    "dlc": Format(lambda seen: is_dlc(seen.start) if seen.start else is_project(seen.path), read_dlc),
    "tps": Format(_file(is_tps), read_tps),
    "pts": Format(lambda seen: is_pts(seen.start) if seen.start else is_pts_folder(seen.names), read_pts),
    "kaggle": Format(_file(is_kaggle), read_kaggle),
    "csv": Format(_file(lambda start: start[:1] != b"<"), read_wide),
}
Labelled = Dataset | FilePath  # labelled images: a data set, or the path of labels
LARGE = 50_000_000  # bytes: a larger label file takes more than a second to read, so its progress is shown
LOOKED_AT = 65_536  # bytes by which the format is recognised
EXPECTED = "a label file or a folder of labels"


def read_dataset(
    path: FilePath,
    *,
    images: FilePath | None = None,
    category: str | None = None,
    group: str = "auto",
    pixel_origin: str | None = None,
    format: str | None = None,
    part: str | None = None,
    skip_bad: bool = False,
    missing_mark: tuple[float, float] | None = None,
    mm_per_px: float | None = None,
) -> Dataset:
    """Read labelled images from a file or a folder, such as COCO, YOLO-pose, CVAT, DeepLabCut or a table.

    The `notes` of the data set say what was left out, merged or replaced. docs/data-formats.md describes the formats.

    Args:
        path: The label file, or the folder of the labels.
        images: The folder in which file names start. None: images are searched around the label file.
        category: The name of the category to read. None reads all, if they have the same keypoints.
        group: Which images belong together: "image" (each is a group), "block:N" (runs of N images in the order of
            their names), "field:NAME", "regex:PATTERN", or "auto": the field identity, group or subject if the file has
            one, else "image".
        pixel_origin: "index" if 0 in the file is the centre of the first pixel, "corner" if it is its corner, "one" if
            1 is its centre. None: as the format has it.
        format: A name of docs/data-formats.md, such as "coco". None: the format is recognised by the content.
        part: "train", "val" or "test", if the data set has several parts.
        skip_bad: Whether bad objects and missing images are left out; a note names them.
        missing_mark: (x, y), px as the file has them: points that lie exactly there are unlabelled, whatever their
            visibility. None: there is no such mark.
        mm_per_px: How many mm a px of every image is, so that reports are in mm, too. None: what the file says, in its
            field `mm_per_px` or in SCALE of TPS.

    Returns:
        The data set, in continuous image px.

    Raises:
        FileNotFoundError: The file, or an image, is missing.
        ArgumentError: An argument has a wrong value.
        DataError: The file cannot be read, has a key twice or several parts, or objects are bad: the line names all
            of them.

    Example:
        >>> data = keylite.read_dataset("labels.json", group="field:subject")
    """
    path, images = path_of("path", path), path_or_none("images", images)
    require_flags(skip_bad=skip_bad)
    require_kind("group", group, str, "a text", "such as 'auto' or 'field:NAME'")
    require_text("pixel_origin", pixel_origin, f"one of {', '.join(ORIGINS)}, or None")
    require_text("category", category, "the name of a category, or None")
    require_text("format", format, f"one of {', '.join(FORMATS)}, or None")
    require_text("part", part, f"one of {', '.join(PARTS)}, or None")
    if missing_mark is not None:
        require_mark(missing_mark)
    if mm_per_px is not None:
        require_scale(mm_per_px)
    for name, value, known in (
        ("pixel_origin", pixel_origin, ORIGINS),
        ("format", format, FORMATS),
        ("part", part, PARTS),
    ):
        if value is not None and value not in known:
            raise ArgumentError(f"{name}: expected {', '.join(known)}, got {quoted(value)}")
    path, name, part = _to_read(path, format, part)
    fields = GROUP_FIELDS if group == "auto" else (group.removeprefix("field:"),) if group.startswith("field:") else ()
    with step(f"reading {path}") if path.stat().st_size > LARGE else contextlib.nullcontext():
        labels = FORMATS[name].read(path, Wanted(category, (*fields, SCALE_FIELD), part))
        return to_dataset(labels, images, group, pixel_origin, skip_bad, missing_mark, mm_per_px)


def _to_read(path: Path, format: str | None, part: str | None) -> tuple[Path, str, str | None]:
    """The file or folder to read, its format, and the part that the reader has to choose in it."""
    seen = _look(path)
    name = _format(seen) if seen.start or format is None else format
    if name is None:  # a folder, in which the labels are files
        path = chosen_part(path, _files_in(seen), part)
        seen, part = _look(path), None
        name = _format(seen)
        assert name is not None  # a file
    name = format or name
    if part is not None and name != "yolo":
        raise ArgumentError(f"part: {path} has no parts; leave it out")
    return path, name, part


def _look(path: Path) -> Seen:
    """The first bytes of a file, or the names in a folder; an error if it is no text that can be read."""
    if path.is_dir():
        return Seen(path, b"", listed_names(path))
    try:
        with open_file(path, EXPECTED) as file:
            start = file.read(LOOKED_AT).removeprefix(b"\xef\xbb\xbf").lstrip()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such label file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not start:
        raise DataError(f"{path}: the file is empty")
    if is_sleap(path, start):
        return Seen(path, start, [])
    if found := unread_binary(start):
        raise refuse(path, found)
    require_no_utf16(start, path)
    if b"\0" in start:
        raise DataError(f"{path}: expected {EXPECTED}, got a binary file")
    return Seen(path, start, [])


def _format(seen: Seen) -> str | None:
    """The format of a file or a folder; None if a folder has none, but may hold files of a format."""
    if seen.start and not is_sleap(seen.path, seen.start) and (found := unread_text(seen.start)):
        raise refuse(seen.path, found)
    for name, format in FORMATS.items():
        if format.looks_like(seen):
            return name
    if seen.start:
        raise DataError(
            f"{seen.path}: expected labels in one of the formats {', '.join(FORMATS)}; this is none of them"
        )
    return None


def _files_in(seen: Seen) -> dict[str, Path]:
    """The label files in a folder by part; DataError, which says what is there, if there is none."""
    files = files_in(seen.path, seen.names)
    if not files:
        raise refuse_folder(seen.path, seen.names)
    return files


def _first_json(seen: Seen) -> bytes:
    """How the first JSON file in a folder, or one level below it, begins; empty if there is none."""
    folders = [seen.path, *(seen.path / name for name in seen.names if not name.startswith("."))]
    for folder in folders:
        for name in seen.names if folder == seen.path else listed_names(folder) if folder.is_dir() else ():
            if name.lower().endswith(".json"):
                with contextlib.suppress(OSError, ValueError), open_file(folder / name) as file:
                    return file.read(LOOKED_AT).removeprefix(b"\xef\xbb\xbf").lstrip()
    return b""


def parts_of(path: FilePath) -> tuple[str, ...]:
    """The parts of the labels at a path: train, val and test; empty if it has no parts."""
    seen = _look(path_of("path", path))
    if (name := _format(seen)) == "yolo":
        return tuple(yolo_parts(seen.path))
    return tuple(part for part in _files_in(seen) if part) if name is None else ()


def _part(path: Path, part: str) -> Dataset:
    return read_dataset(path, part=part)


def read_train_and_val(path: FilePath, read: Callable[[Path, str], Dataset] = _part) -> tuple[Dataset, Dataset] | None:
    """The parts train and val of labels that hold both; None if they do not. read: reads a part of a path."""
    path = path_of("data", path)
    if not {"train", "val"} <= set(parts_of(path)):
        return None
    log.info("no val: the part val of %s is taken", path)
    return read(path, "train"), read(path, "val")


def as_dataset(name: str, data: Labelled) -> Dataset:
    """A data set as it is; for a path, what `read_dataset` reads from it by default.

    Raises ArgumentError, with the argument's name, for anything else.
    """
    require_labelled(**{name: data})
    return data if isinstance(data, Dataset) else read_dataset(data)


def require_labelled(**data: object) -> None:
    """Raise ArgumentError, with the argument's name, for what is neither a data set nor a path. Nothing is read."""
    for name, value in data.items():
        if isinstance(value, (str, os.PathLike)):
            path_of(name, value)
            continue
        words = "a Dataset or the path of labels"
        require_kind(name, value, Dataset, words, "use read_dataset(...) or from_arrays(...)")


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
