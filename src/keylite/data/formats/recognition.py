"""Files and folders that keylite does not read as labels: each is known by its content, and a line says the way in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from keylite.data.folders import is_picture
from keylite.runtime.errors import DataError
from keylite.runtime.words import counted, first_of

WAY = "convert it to COCO"


class Unread(NamedTuple):
    """A kind of file that keylite does not read. pattern: of the file's first bytes. way: what to do."""

    pattern: bytes
    kind: str
    way: str


BINARY = (  # how files begin that are no text
    Unread(
        rb"\x89HDF\r\n",
        "an HDF5 file",
        "of DeepLabCut's CollectedData_*.h5 name the CSV beside it; SLEAP's files end in .slp and NWB's in .nwb; give "
        "the points of others to from_arrays(images, xy) in Python",
    ),
    Unread(rb"PK\x03\x04", "a ZIP archive (or a spreadsheet)", "unpack it, or save the sheet as CSV"),
    Unread(rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "an archive", "unpack it"),
    Unread(
        rb"\x80[\x02-\x05]", "a pickle", "a pickle can run code, so it is not opened; save the labels as CSV or COCO"
    ),
    Unread(rb"PAR1", "a Parquet file", "save it as CSV"),
    Unread(rb"\x93NUMPY", "a NumPy array", "use from_arrays(images, xy) in Python"),
    Unread(rb"MATLAB 5\.0", "a MATLAB file", f"{WAY}, or use from_arrays(images, xy) in Python"),
    Unread(rb"SQLite format 3", "an SQLite database", "export its labels as CSV or COCO"),
    Unread(rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\x00|MM\x00\*|RIFF", "a picture", "name the file of the labels"),
)
TEXTS = (  # text formats, by what their first bytes hold
    Unread(rb"(?is)\A\s*(<!doctype html|<html)", "a web page", "download the file itself, not the page that shows it"),
    Unread(rb"\Aversion https://git-lfs", "a pointer of Git LFS", "fetch the file itself with: git lfs pull"),
    Unread(rb"(?s)<annotation\b.*<(object|folder|filename)>", "Pascal VOC boxes", f"they have no keypoints; {WAY}"),
    Unread(
        rb'"geometryType"|"classTitle"|"keypointsCoordinates"', "Supervisely's format", "export it as COCO keypoints"
    ),
    Unread(rb'"pose_keypoints_2d"', "OpenPose's output", f"these are predictions; to use them as labels, {WAY}"),
    Unread(rb'"schema_ref"', "V7 Darwin's format", "export it as COCO"),
    Unread(rb'"joint_self"|"scale_provided"|"dot_pts"', "a MATLAB or MPII list as JSON", WAY),
    Unread(
        rb'\A\s*\[\s*\{[^}]*"score"',
        "COCO results",
        "these are predictions; labels have images, annotations, categories",
    ),
)


def unread_binary(start: bytes) -> Unread | None:
    """What a file is whose first bytes are no text of labels; None if it is none of these."""
    return next((one for one in BINARY if re.match(one.pattern, start)), None)


def unread_text(start: bytes) -> Unread | None:
    """What a text file is that keylite does not read; None if it is none of these."""
    return next((one for one in TEXTS if re.search(one.pattern, start)), None)


def refuse(path: Path, found: Unread) -> DataError:
    """The error about such a file."""
    return DataError(f"{path}: this is {found.kind}, which keylite does not read as labels: {found.way}")


def refuse_folder(path: Path, names: list[str]) -> DataError:
    """The error about a folder in which no labels were recognised. names: what lies in it."""
    pictures = sum(map(is_picture, names))
    others = sorted(name for name in names if not is_picture(name) and not name.startswith("."))
    if "labels" in others or len([name for name in others if name.endswith(".txt")]) > len(others) / 2:
        return DataError(
            f"{path}: there is no data.yaml in this folder; if these are labels of YOLO-pose, write one with the lines "
            "kpt_shape: [K, 3] and train: images"
        )
    inside = f"{counted(pictures, 'picture')} and {first_of(others, 5, ', ') or 'nothing else'}" if names else "nothing"
    return DataError(
        f"{path}: no labels were recognised in this folder; it holds {inside}; name the file of the labels"
    )
