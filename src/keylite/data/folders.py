"""The content of a folder: pictures that keylite reads, pictures that it does not read, and sub-folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from keylite.runtime.images import IMAGE_SUFFIXES
from keylite.runtime.words import counted, first_of

SHOWN = 3  # sub-folders named in a line
UNREAD = {  # suffixes of pictures that keylite does not read -> their kind, for messages
    **dict.fromkeys((".heic", ".heif"), "HEIC"),
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    **dict.fromkeys((".nef", ".cr2", ".cr3", ".arw", ".dng", ".orf", ".rw2", ".raf", ".raw"), "camera raw"),
    **dict.fromkeys((".jp2", ".j2k", ".jpf"), "JPEG 2000"),
    **dict.fromkeys((".pgm", ".ppm", ".pbm", ".pnm"), "Netpbm"),
    **dict.fromkeys((".nii", ".mha", ".mhd", ".nrrd"), "medical volume"),
    **dict.fromkeys((".czi", ".lif", ".nd2", ".svs"), "microscope"),
    ".avif": "AVIF",
    ".jxl": "JPEG XL",
    ".psd": "PSD",
    ".svg": "SVG",
    ".exr": "EXR",
    ".hdr": "HDR",
    ".tga": "TGA",
    ".ico": "ICO",
    ".npy": "NumPy",
}


class Folder(NamedTuple):
    """What lies directly in a folder; hidden files (a Mac leaves ._a.jpg beside a.jpg) and other files are left out.

    Attributes:
        path: The folder.
        pictures: Paths of pictures that keylite reads, sorted by name.
        unread: Kind of picture that keylite does not read -> how many there are.
        folders: Names of the sub-folders.
    """

    path: Path
    pictures: list[Path]
    unread: Counter[str]
    folders: list[str]

    def left_out(self) -> str:
        """The words of a message about pictures and sub-folders that are left out; empty if there are none."""
        parts = [f"{count} {kind}" for kind, count in self.unread.most_common()]
        shown = first_of(self.folders, SHOWN, ", ")
        unread = f"{counted(self.unread.total(), 'picture')} that keylite does not read"
        pictures = f"{unread} ({', '.join(parts)}; convert to JPEG)"
        folders = f"{counted(len(self.folders), 'sub-folder')} ({shown}; name those that you want, too)"
        return " and ".join([pictures] * bool(self.unread) + [folders] * bool(self.folders))


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture that keylite reads; hidden files are not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _kind_by_content(path: str) -> str:
    """`DICOM` if the file's content is DICOM, because scanners name such files without a suffix; else empty."""
    try:
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            return "DICOM" if file.read(132)[128:] == b"DICM" else ""
    except OSError:
        return ""


def look_into(folder: Path) -> Folder:
    """List what lies directly in a folder; OSError if it cannot be listed."""
    pictures: list[Path] = []
    unread: Counter[str] = Counter()
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif is_picture(entry.name):
                pictures.append(folder / entry.name)
            elif kind := UNREAD.get(os.path.splitext(entry.name)[1].lower()) or _kind_by_content(entry.path):
                unread[kind] += 1
    return Folder(folder, pictures, unread, folders)
