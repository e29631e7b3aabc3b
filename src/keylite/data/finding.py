"""Finding the pictures of a label file, even if another tool or another machine wrote their names.

An exact name always wins. A name that is nowhere is looked for under other spellings and in other folders, the
likeliest first. Pictures found like this are counted in notes. If two pictures fit equally well, neither is taken.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from keylite.data.folders import UNREAD, is_picture
from keylite.data.spelling import (
    OTHER_CASE,
    OTHER_SUFFIX,
    OTHER_UNICODE,
    canonical,
    composed,
    folded,
    folded_stem,
    same,
    segments_of,
    spellings_of,
    stem_of,
)

CLIMB = 4  # levels of folders above a table that are searched, because DeepLabCut's paths start at its project
DEPTH = 3  # levels of sub-folders that are searched
MOST_FOLDERS = 10_000  # sub-folders that are listed
SUBSET = re.compile(r"[_\-. ]")  # comes before the name of the subset in a file's name: instances_train.json
ABSOLUTE = re.compile(r"/|[A-Za-z]:")
LONGEST, DEEPEST = 4096, 64  # characters of a name (no path on Linux is longer), and folders in it
NEARLY = 2_000  # names among which a similar one is looked for


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of `find_images`.

    Attributes:
        paths: The path of each named picture; None if it was not found.
        notes: A line for each way in which pictures were found that is not their exact name.
        doubts: Number of a name -> why no picture was taken for it.
    """

    paths: list[Path | None]
    notes: list[str]
    doubts: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Roots:
    """The folders in which names of a label file may start.

    Attributes:
        near: The folders to look in first, in this order.
        above: Folders to look in after them, outside the label file's own folder.
        searched: Folders whose sub-folders are searched for names that are in none of the others.
    """

    near: list[Path]
    above: list[Path]
    searched: list[Path]

    def __str__(self) -> str:
        existing = [str(root) for root in (*self.near, *self.above) if root.is_dir()]
        return ", ".join(existing) + (" (and sub-folders)" if self.searched else "")


def roots_of(labels: Path, images: Path | None, climb: bool) -> Roots:
    """Where the names of a label file may start: only in `images`, if it is given, else around the file.

    labels: a file or folder. climb: whether the folders above it count, too. In each of these places, a folder that has
    the end of the file's name counts as well: train for instances_train.json.
    """
    stem = labels.stem
    subsets = [stem, *(stem[at.end() :] for at in SUBSET.finditer(stem))]

    def with_subsets(*folders: Path) -> list[Path]:
        inside = [folder / subset for folder in folders for subset in subsets if subset]
        return [*folders, *(folder for folder in inside if folder.is_dir())]

    if images is not None:
        return Roots(with_subsets(images), [], [images])
    beside = labels if labels.is_dir() else labels.parent
    parent = beside.absolute().parent
    near = with_subsets(beside, beside / "images")
    above = [root for root in with_subsets(parent, parent / "images")[1:] if root.is_dir()]
    if parent == beside.absolute():  # the top of the disk
        above = []
    own = [folder.absolute() for folder in near]
    above = [folder for folder in above if folder not in own]
    if climb:
        above += [folder for folder in beside.absolute().parents[:CLIMB] if folder != folder.parent]
    searched = [beside, *(root for root in (parent / "images",) if root in above)]
    return Roots(near, above, searched)


def find_images(names: Sequence[str], roots: Roots) -> Finding:
    """Find each named picture. Each folder is listed once, because a system call per picture would be slow."""
    search = _Search(roots)
    paths: list[Path | None] = [None] * len(names)
    ways: dict[str, list[int]] = {}  # the way in which pictures were found, or the root above -> numbers of names
    inexact: list[int] = []  # numbers of names that are not found exactly
    doubts: dict[int, str] = {}
    for number, name in enumerate(names):
        path, root = (None, "") if _excess(name) else search.exactly(name)
        if path is None:
            inexact.append(number)
            continue
        paths[number] = path
        if root in search.above:
            ways.setdefault(root, []).append(number)
    for number in inexact:
        if excess := _excess(names[number]):
            doubts[number] = excess
            continue
        for way, spelling in spellings_of(names[number]):
            if _excess(spelling):
                continue
            path, _ = search.exactly(spelling)
            candidates, others = ([str(path)], []) if path else search.loosely(spelling)
            if len(candidates) > 1:
                first, second = sorted(candidates)[:2]
                doubts[number] = f"is it {first} or {second}?"
            elif candidates:
                paths[number] = Path(candidates[0])
                for difference in (*way, *others):
                    ways.setdefault(difference, []).append(number)
            if candidates:
                break
    doubts |= _clashes(names, paths, set(inexact))
    for number in doubts:
        paths[number] = None
    notes = []
    for way, numbers in ways.items():
        kept = [number for number in numbers if paths[number] is not None]
        if not kept:
            continue
        name, path = names[kept[0]], str(paths[kept[0]])
        how = f"found in {way}, outside the label file's folder ({name})"
        if way not in search.above:
            how = f"{way} ({name} is {os.path.basename(path) if way == OTHER_SUFFIX else search.below_root(path)})"
        notes.append(f"{len(kept)} of {len(names)} images {how}")
    return Finding(paths, notes, doubts)


TAIL = "found by the end of their path"
BELOW = "found in a sub-folder"


def nearest(name: str, roots: Roots) -> str:
    """What a message says about the pictures that lie where `name` was looked for."""
    search = _Search(roots)
    *_, base = segments_of(spellings_of(name)[-1][1]) or [""]
    stem = folded_stem(base)
    pictures: list[str] = []
    for folder in search.folders():
        for entry in search.names_in(folder):
            place = os.path.join(folder, entry)
            kind = UNREAD.get(os.path.splitext(entry)[1].lower())
            if kind and folded_stem(entry) == stem:
                return f"{search.below_root(place)} lies there: keylite does not read {kind}, convert it to JPEG or PNG"
            if is_picture(entry):
                if folded_stem(entry) == stem:
                    return f"{search.below_root(place)} lies there, in another folder: is it `images='{folder}'`?"
                pictures.append(place)
    if not pictures:
        return "no picture lies there"
    if len(pictures) == 1:
        return f"one picture lies there: {search.below_root(pictures[0])}"
    by_name = {os.path.basename(place): place for place in sorted(pictures)[:NEARLY]}
    near = difflib.get_close_matches(base, by_name, 1) or [next(iter(by_name))]
    return f"{len(pictures)} pictures lie there, such as {search.below_root(by_name[near[0]])}"


def _excess(name: str) -> str:
    """Why a name is too long, or too deep, to be looked for; empty if it is not."""
    if len(name) > LONGEST:
        return f"expected at most {LONGEST:,} characters, got {len(name):,}"
    deep = name.count("/") + name.count("\\")
    return f"expected at most {DEEPEST} folders, got {deep:,}" if deep > DEEPEST else ""


def _clashes(names: Sequence[str], paths: list[Path | None], inexact: set[int]) -> dict[int, str]:
    """Number of a name that was not found exactly -> the message that its picture is that of another name, too."""
    owners: dict[Path, list[int]] = {}
    if inexact:
        for number, path in enumerate(paths):
            if path is not None:
                owners.setdefault(path, []).append(number)
    clashes = {}
    for path, numbers in owners.items():
        spelt = {canonical(names[number]) for number in numbers}
        if len(spelt) == 1 or not inexact.intersection(numbers):
            continue
        for number in inexact.intersection(numbers):
            other = next(n for n in numbers if canonical(names[n]) != canonical(names[number]))
            clashes[number] = f"{path} would fit, but is the picture of {names[other]}"
    return clashes


Key = Callable[[str], str]  # two names are taken for the same if their keys are equal
Stage = tuple[list[str], Key, list[str]]  # differences from the path, key of file names, folders (none: sub-folders)
KEYS: tuple[tuple[list[str], Key, Key], ...] = (  # differences from the path, key of folder names, key of file names
    ([], same, same),
    ([OTHER_UNICODE], composed, composed),
    ([OTHER_CASE], folded, folded),
    ([OTHER_SUFFIX], same, stem_of),
    ([OTHER_SUFFIX, OTHER_CASE], folded, folded_stem),
)


class _Search:
    """The folders in and below the roots; each is listed once, when it is first needed."""

    def __init__(self, roots: Roots) -> None:
        self.roots = [str(root) for root in (*roots.near, *roots.above)]
        self.above = {str(root) for root in roots.above}
        self.searched = [str(root) for root in roots.searched]
        self.close = [str(root) for root in (*roots.near, *roots.searched)]  # for names without their folders
        self.names_in = functools.cache(_names_in)
        self.entries_by = functools.cache(self._entries_by)
        self.exact_places = functools.cache(self._exact_places)
        self.stages_here = functools.cache(self._stages_here)
        self.stages_below = functools.cache(self._stages_below)
        self.walked = functools.cache(lambda: list(self._walk()))
        self.walked_by = functools.cache(self._walked_by)
        self.pictures_by = functools.cache(self._pictures_by)

    def exactly(self, name: str) -> tuple[Path | None, str]:
        """The picture of exactly this name in the first root that has it, and the root; (None, "") if none has it."""
        portable = name.replace("\\", "/")  # the name may have been written on Windows
        folder, base = os.path.split(portable)
        for root, place, names in self.exact_places(folder):
            if base in names:
                return place / base, root
        if portable != name:  # unpacking an archive may have left backslashes in file names
            for root, place, names in self.exact_places(""):
                if name in names:
                    return place / name, root
        return None, ""

    def loosely(self, path: str) -> tuple[list[str], list[str]]:
        """The files that fit the path best, all equally well, and the ways in which they differ from it."""
        *folders, base = segments_of(path) or [""]
        folder = posixpath.join("/" if ABSOLUTE.match(path) else "", *folders)
        for stages in (self.stages_here, self.stages_below):  # sub-folders are listed only if they are needed
            for ways, key, places in stages(folder):
                wanted = key(base)
                if places:
                    candidates = [
                        os.path.join(p, entry) for p in places for entry in self.entries_by(p, key).get(wanted, ())
                    ]
                else:
                    candidates = self.pictures_by(key).get(wanted, [])
                if len(candidates) > 1:
                    candidates = list({os.path.realpath(each): each for each in candidates}.values())
                if candidates:
                    return candidates, ways
        return [], []

    def folders(self) -> list[str]:
        """Every folder in which pictures are looked for, the likeliest first."""
        return list(dict.fromkeys([*self.roots, *self.walked()]))

    def below_root(self, path: str) -> str:
        """The path relative to the root that holds it, for messages."""
        holders = [root for root in self.roots if Path(path).is_relative_to(root)]
        return str(Path(path).relative_to(holders[0])) if holders else path

    def _exact_places(self, folder: str) -> list[tuple[str, Path, frozenset[str]]]:
        places = [(root, os.path.join(root, folder)) for root in self.roots]
        return [(root, Path(place), self.names_in(place)) for root, place in places if self.names_in(place)]

    def _entries_by(self, folder: str, key: Key) -> dict[str, list[str]]:
        pictures_only = key in (stem_of, folded_stem)
        entries: dict[str, list[str]] = {}
        for entry in self.names_in(folder):
            if not pictures_only or is_picture(entry):
                entries.setdefault(key(entry), []).append(entry)
        return entries

    def _stages_here(self, folder: str) -> list[Stage]:
        """The stages of the search in the roots: first in this folder, then in ever shorter ends of its path."""
        foreign = folder.startswith("/")
        parts = [part for part in folder.split("/") if part]
        stages = []
        for cut in range(len(parts) + 1):
            roots = self.roots if cut < len(parts) or not (cut or foreign) else self.close
            way = [TAIL] if cut or foreign else []
            for difference, folder_key, key in KEYS:
                places = [place for root in roots for place in self._folders_like(root, parts[cut:], folder_key)]
                if places:
                    stages.append(([*way, *difference], key, places))
        return stages

    def _stages_below(self, folder: str) -> list[Stage]:
        """The stages of the search in sub-folders: those of this path or, if it is absolute, of an end of it."""
        parts = [part for part in folder.split("/") if part]
        if not parts:
            return [([BELOW, *difference], key, []) for difference, _, key in KEYS]
        stages = []
        for cut in range(len(parts) if folder.startswith("/") else 1):
            way = [TAIL, BELOW] if folder.startswith("/") else [BELOW]
            for difference, folder_key, key in KEYS:
                end = "/" + folder_key("/".join(parts[cut:]))
                called_so = self.walked_by(folder_key).get(folder_key(parts[-1]), ())
                places = [place for place in called_so if folder_key(place.replace(os.sep, "/")).endswith(end)]
                if places:
                    stages.append(([*way, *difference], key, places))
        return stages

    def _folders_like(self, root: str, parts: list[str], key: Key) -> list[str]:
        folders = [root]
        for part in parts:
            if not folders:
                return []
            folders = [os.path.join(f, entry) for f in folders for entry in self.entries_by(f, key).get(key(part), ())]
        return [folder for folder in folders if self.names_in(folder)]

    def _walk(self) -> Iterator[str]:
        """The sub-folders of the searched folders, level by level."""
        level, count = list(self.searched), 0
        for _ in range(DEPTH):
            below = []
            for folder in level:
                for child in _folders_in(folder):
                    count += 1
                    if count > MOST_FOLDERS:
                        return
                    yield child
                    below.append(child)
            level = below

    def _walked_by(self, key: Key) -> dict[str, list[str]]:
        folders: dict[str, list[str]] = {}
        for folder in self.walked():
            folders.setdefault(key(os.path.basename(folder)), []).append(folder)
        return folders

    def _pictures_by(self, key: Key) -> dict[str, list[str]]:
        pictures: dict[str, list[str]] = {}
        for folder in self.walked():
            for entry in self.names_in(folder):
                if is_picture(entry):
                    pictures.setdefault(key(entry), []).append(os.path.join(folder, entry))
        return pictures


def _names_in(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):  # it is no folder, or may not be read, or is no possible path
        return frozenset()


def _folders_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []
