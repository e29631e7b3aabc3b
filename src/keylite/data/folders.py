"""What a folder of pictures holds: those that keylite reads, those that it does not, and what is passed over."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from keylite.runtime.images import IMAGE_SUFFIXES
from keylite.runtime.words import counted, first_of

SHOWN = 3  # sub-folders named in a line
UNREAD = {  # suffixes of pictures that keylite does not read, and how a message calls them
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
    """pictures: by name. unread: kind of picture that keylite does not read -> how many. folders: names of those in
    it. Hidden files, such as a Mac's ._photo.jpg, and files that are no pictures are in none of them."""

    path: Path
    pictures: list[Path]
    unread: Counter[str]
    folders: list[str]

    def left_out(self) -> str:
        """What of the folder is not taken, for a line; empty if there is nothing."""
        parts = [f"{count} {kind}" for kind, count in self.unread.most_common()]
        shown = first_of(self.folders, SHOWN, ", ")
        unread = f"{counted(self.unread.total(), 'picture')} that keylite does not read"
        pictures = f"{unread} ({', '.join(parts)}; convert to JPEG)"
        folders = f"{counted(len(self.folders), 'sub-folder')} ({shown}; name those that are wanted, too)"
        return " and ".join([pictures] * bool(self.unread) + [folders] * bool(self.folders))


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture; a hidden one is not: a Mac leaves ._a.jpg beside a.jpg."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _scan(path: str) -> str:
    """DICOM for a file of that kind, whatever its name: scanners write IM000001, or a number with dots. Else empty."""
    try:
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            return "DICOM" if file.read(132)[128:] == b"DICM" else ""
    except OSError:
        return ""


def look_into(folder: Path) -> Folder:
    """What lies in a folder, not below it; OSError if it cannot be listed."""
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
            elif kind := UNREAD.get(os.path.splitext(entry.name)[1].lower()) or _scan(entry.path):
                unread[kind] += 1
    return Folder(folder, pictures, unread, folders)
