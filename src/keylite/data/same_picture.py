"""Recognising that two pictures are one: the same array, or one file under two paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def places_of(images: Sequence[Path | np.ndarray]) -> list[str | int]:
    """For each image its real path, or the id of its array: equal for images that are one.

    Links to folders are followed; links to files are not, see `files_of`.
    """
    folders: dict[str, str] = {}  # folder -> its real path, so that there is one system call per folder
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
    """The same, but symbolic and hard links to one file count as one, too; this takes a system call per image."""
    files: list[object] = []
    for image, place in zip(images, places_of(images), strict=True):
        files.append(place)
        if not isinstance(image, np.ndarray):
            try:
                facts = os.stat(image)
            except OSError:  # reading the image will say what is wrong
                continue
            if facts.st_ino:  # 0 on file systems that do not number their files
                files[-1] = (facts.st_dev, facts.st_ino)
    return files
