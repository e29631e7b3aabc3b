"""Parts of a data set: train, val and test, under the names that tools give them, and which one is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from keylite.runtime.errors import DataError
from keylite.runtime.words import listed

SUFFIXES = (".json", ".csv", ".xml", ".tps", ".slp")  # of files that may hold all labels of a data set
PARTS = ("train", "val", "test")
WORDS = {  # what tools call a part -> its name; years and separators are left out: val2017
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
T = TypeVar("T")


def part_named(name: str) -> str:
    """The part that a name of a file or folder ends in: `instances_val2017` is val; empty if it is none."""
    words = re.findall(r"[a-z]+", re.sub(r"\d+$", "", name.lower()))
    return WORDS.get(words[-1], "") if words else ""


def files_in(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The label files of a folder by part: `train.json`, `train/_annotations.coco.json`, `annotations/x_train.json`.

    A single file that names no part has the part "". names: what lies in the folder. Raises DataError if one part has
    several files.
    """
    places = {folder: list(names)}
    for name in names:
        if name == "annotations" or part_named(name):
            places[folder / name] = listed_names(folder / name)
    found: dict[str, list[Path]] = {}
    for place, inside in places.items():
        of_place = part_named(place.name) if place != folder else ""
        files = [name for name in sorted(inside) if is_label_name(name)]
        for name in _of_keypoints(files):
            found.setdefault(of_place or part_named(Path(name).stem.removesuffix(".coco")), []).append(place / name)
    if len(found) > 1:
        found.pop("", None)  # such as a list of classes beside the parts
    for part, files in found.items():
        if len(files) > 1:
            line = f"{folder}: several files may hold the labels{f' of {part}' * bool(part)}; name one of them"
            raise DataError(listed(line, [str(each.relative_to(folder)) for each in files]))
    return {part: files[0] for part, files in found.items()}


def listed_names(folder: Path) -> list[str]:
    """The names in a folder, in order; none if it is no folder that can be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def is_label_name(name: str) -> bool:
    """Whether a file of this name may hold the labels of a whole data set."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _of_keypoints(names: list[str]) -> list[str]:
    """Without COCO's other files (boxes, captions) if there are those of keypoints."""
    keypoints = [name for name in names if "keypoints" in name]
    return keypoints or names


def chosen_part(path: Path, parts: Mapping[str, T], part: str | None) -> T:
    """The wanted part of a data set, or its only one; DataError, which names the parts, if it is not clear."""
    if len(parts) == 1 and part in (None, next(iter(parts))):
        return next(iter(parts.values()))
    if part is None:
        raise DataError(
            f"{path}: expected one part to be chosen; it holds {shown(parts)}: `part='{next(iter(parts))}'`"
        )
    if part not in parts:
        raise DataError(f"{path}: there is no part {part}; it holds {shown(parts)}")
    return parts[part]


def shown(parts: Iterable[str]) -> str:
    """The names of parts, in their usual order."""
    if set(parts) == {""}:
        return "no parts"
    known = [part for part in PARTS if part in set(parts)]
    return ", ".join([*known, *sorted(set(parts) - set(known))])
