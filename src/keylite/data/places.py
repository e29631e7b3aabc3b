"""Which pictures are one: the same array, or one file by whatever path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def places_of(images: Sequence[Path | np.ndarray]) -> list[str | int]:
    """What tells an image from another: its real path, or the array that it is. Links in folders are followed."""
    folders: dict[str, str] = {}  # asked once each: a system call per image is slow
    places: list[str | int] = []
    for image in images:
        if isinstance(image, np.ndarray):
            places.append(id(image))
            continue
        folder, name = os.path.split(image)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        places.append(os.path.join(folders[folder], name))
    return places


def files_of(images: Sequence[Path | np.ndarray]) -> list[object]:
    """The same, with links to one file, symbolic or hard, taken as one; a system call per image."""
    files: list[object] = []
    for image, place in zip(images, places_of(images), strict=True):
        files.append(place)
        if not isinstance(image, np.ndarray):
            try:
                facts = os.stat(image)
            except OSError:  # it is said when the image is read
                continue
            if facts.st_ino:  # some file systems number nothing
                files[-1] = (facts.st_dev, facts.st_ino)
    return files
