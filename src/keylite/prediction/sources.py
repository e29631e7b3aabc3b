"""The images of a prediction, from files, folders and lists, and the names of their drawings."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from keylite.data.folders import look_into
from keylite.runtime.errors import ArgumentError
from keylite.runtime.images import IMAGE_SUFFIXES
from keylite.runtime.words import counted, quoted

log = logging.getLogger("keylite")


def drawing_paths(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """The drawing of each image: FOLDER/NAME_points.jpg.

    Raises ArgumentError if two images would have the same drawing, or a drawing would replace an image.
    """
    drawings: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    inputs = {os.path.realpath(path) for path in paths}
    for path in paths:
        drawing = folder / f"{path.stem}_points.jpg"
        if taken.setdefault(drawing, path) != path:
            raise ArgumentError(
                f"draw: {taken[drawing]} and {path} would both be drawn as {drawing}; draw them in two calls"
            )
        if os.path.realpath(drawing) in inputs:
            raise ArgumentError(f"draw: {drawing} is one of the images; choose another folder")
        drawings[path] = drawing
    return drawings


def image_paths(inputs: tuple[Path, ...], verb: str = "predict") -> list[Path]:
    """All images of these inputs: images, folders (their images by name) and text files with one path per line.

    The log counts what is left out of a folder: pictures that keylite cannot read, and sub-folders.
    """
    if not inputs:
        raise ArgumentError(f"{verb}: expected images or folders, got none")
    paths: list[Path] = []
    for entry in inputs:
        if entry.is_dir():
            try:
                folder = look_into(entry)
            except OSError as error:
                raise ArgumentError(f"{entry}: this folder cannot be read: {error.strerror}") from None
            left_out = folder.left_out()
            if not folder.pictures:
                others = f"; found {left_out}" if left_out else ""
                raise ArgumentError(f"{entry}: no images in this folder ({', '.join(IMAGE_SUFFIXES)}){others}")
            if left_out:
                log.warning("%s: taken: %s; left out: %s", entry, counted(len(folder.pictures), "image"), left_out)
            paths += folder.pictures
        elif entry.is_file() and entry.suffix.lower() == ".txt":
            paths += listed_paths(entry)
        elif entry.exists():
            paths.append(entry)
        else:
            raise FileNotFoundError(f"{entry}: no such image or folder")
    return paths


def listed_paths(path: Path) -> list[Path]:
    """The paths in a text file, one per line, relative to the current folder. Some may not exist."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines also splits at characters of names
    except UnicodeDecodeError:
        raise ArgumentError(f"{path}: expected a text file in UTF-8 with one path of an image per line") from None
    if odd := [number for number, line in enumerate(lines, 1) if "\0" in line]:
        raise ArgumentError(
            f"{path}: expected one path of an image per line, got one with a NUL character in line {odd[0]}"
        )
    paths = [Path(line) for line in lines if line.strip()]
    if not paths:
        raise ArgumentError(f"{path}: expected one path of an image per line, got none")
    if not any(path.suffix.lower() in IMAGE_SUFFIXES or path.exists() for path in paths):
        lines = counted(len(paths), "line")
        raise ArgumentError(
            f"{path}: read as a list of images, one path per line, but none of its {lines} is the path of a file: "
            f"{quoted(str(paths[0]))}"
        )
    return paths
