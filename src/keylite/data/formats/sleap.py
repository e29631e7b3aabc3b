"""SLEAP: .slp projects and packages, and NWB files of poses, read by sleap-io.

A frame of a video is a picture in memory; a list of picture files stays files. Sources: https://io.sleap.ai and
https://github.com/talmolab/sleap-io/pull/231: 0 is the centre of the first pixel; sleap-io shifts older files, which
counted from its corner. A node that is not visible has no place.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keylite.data.formats.entries import Entries, Point
from keylite.data.labels import Labels, Wanted
from keylite.runtime.errors import DataError
from keylite.runtime.packages import require
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.words import clipped, counted, one_line

SUFFIXES = (".slp", ".nwb")
HDF5 = b"\x89HDF\r\n"
UNNAMED = re.compile(r"skeleton(-\d+)?", re.IGNORECASE)  # names of skeletons that nobody gave
FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, AssertionError)


def is_sleap(path: Path, start: bytes) -> bool:
    """Whether a file is HDF5 and its suffix says that sleap-io reads it; HDF5 files of many tools begin alike."""
    return start.startswith(HDF5) and path.suffix.lower() in SUFFIXES


def read_sleap(path: Path, wanted: Wanted) -> Labels:
    """Read the instances that a person placed; those that a model predicted are left out, with a note."""
    sleap_io = require("sleap_io", "sleap")
    try:
        if path.suffix.lower() == ".slp":
            loaded = sleap_io.load_slp(str(path), open_videos=False)
        else:
            loaded = sleap_io.load_nwb(str(path))
        frames = list(loaded)
    except FAULTS as error:
        raise DataError(f"{path}: sleap-io cannot read this file: {clipped(one_line(str(error)))}") from None
    entries = Entries(path, wanted.fields)
    skeletons = {_category(each): _skeleton(path, each) for each in loaded.skeletons}
    frames = [frame for frame in frames if _placed(frame, entries)]
    in_memory = any(_is_film(frame.video) for frame in frames)
    videos = _Videos(path, loaded.videos)
    pixels = []
    for frame in frames:
        name = videos.name(frame.video, int(frame.frame_idx))
        try:
            picture = videos.read(frame.video, int(frame.frame_idx)) if in_memory else None
        except FAULTS as error:
            entries.bad.append(f"{name}: {clipped(one_line(str(error)))}")
            continue
        size = (None, None) if picture is None else picture.shape[1::-1]
        image = entries.image(name, *size)
        pixels.append(picture)
        fields = {"video": name.rpartition("/")[0]}
        for number, instance in enumerate(frame.user_instances, start=1):
            track = instance.track.name if instance.track else None
            where = f"{name} {track or f'instance {number}'}"
            entries.add(image, _points(instance), where, None, track, _category(instance.skeleton), fields)
    labels = entries.labels(wanted.category, skeletons)
    return dataclasses.replace(labels, origin="index", unit="instance", pixels=pixels if in_memory else None)


def _placed(frame: Any, entries: Entries) -> bool:
    """Whether a person placed an instance in a frame; predicted ones are counted as left out."""
    if predicted := len(frame.predicted_instances):
        entries.left_out["predicted instance"] += predicted
    return bool(frame.user_instances)


def _category(skeleton: Any) -> str:
    """The name of a skeleton, if somebody gave it one."""
    name = str(skeleton.name or "")
    return "" if UNNAMED.fullmatch(name) else name


def _skeleton(path: Path, skeleton: Any) -> Skeleton:
    mirror = list(range(len(skeleton.node_names)))
    for a, b in skeleton.symmetry_inds:
        mirror[a], mirror[b] = b, a
    edges = tuple((int(a), int(b)) for a, b in skeleton.edge_inds)
    try:
        return Skeleton(tuple(skeleton.node_names), edges, tuple(mirror) if skeleton.symmetry_inds else None)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _points(instance: Any) -> dict[str, Point]:
    """The nodes that have a place."""
    xy = instance.numpy()
    return {
        name: (float(x), float(y), 2.0)
        for name, (x, y) in zip(instance.skeleton.node_names, xy, strict=True)
        if np.isfinite((x, y)).all()
    }


class _Videos:
    """The videos of a file: the names of their frames, and their pixels."""

    def __init__(self, path: Path, videos: Iterable[Any]) -> None:
        self.path = path
        self.opened: list[Any] = []
        self.names = _short_names({id(video): str(video.filename) for video in videos if _is_film(video)})

    def name(self, video: Any, frame: int) -> str:
        """The name of a frame's picture: its own, or VIDEO/FRAME."""
        if _is_film(video):
            return f"{self.names[id(video)]}/{frame:06d}.png"
        names: list[str] = video.filename
        return names[frame] if frame < len(names) else f"frame {frame} of {counted(len(names), 'picture')}"

    def read(self, video: Any, frame: int) -> np.ndarray:
        """A frame as uint8 (H, W, 3) RGB."""
        if not any(video is each for each in self.opened):
            self._open(video)
            self.opened.append(video)
        picture = np.asarray(video[frame])
        if picture.dtype != np.uint8 or picture.ndim != 3:
            raise DataError(f"expected a picture of 8 bits, got {picture.dtype} {picture.shape}")
        return np.ascontiguousarray(np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[..., :3])

    def _open(self, video: Any) -> None:
        """Open a video: at the place that the file says, or beside the file; addresses are not fetched."""
        names = video.filename if isinstance(video.filename, list) else [video.filename]
        places = list(_found(names, self.path.parent))
        if places != names:
            video.replace_filename(places if isinstance(video.filename, list) else places[0], open=False)
        video.grayscale = False  # sleap-io would judge by the first frame
        if video.backend is None:
            video.open()


def _found(names: Iterable[str], folder: Path) -> Iterable[str]:
    """The place of each file: as its name says, else of the same name in this folder."""
    for name in names:
        beside = folder / _file_name(name)
        if "://" in str(name):
            raise DataError(f"{name}: an address, which keylite does not fetch; download it beside the labels")
        if not Path(name).is_file() and not beside.is_file():
            raise DataError(f"{name}: no such video, neither there nor in {folder}")
        yield str(name) if Path(name).is_file() else str(beside)


def _is_film(video: Any) -> bool:
    """Whether a video is a file of its own, and no list of pictures."""
    return not isinstance(video.filename, list)


def _short_names(paths: dict[int, str]) -> dict[int, str]:
    """The ends of paths, of as many parts as it takes to tell all paths apart."""
    parts = {key: [part for part in path.replace("\\", "/").split("/") if part] for key, path in paths.items()}
    longest = max(map(len, parts.values()), default=1)
    different = len(set(paths.values()))
    for length in range(1, longest + 1):
        names = {key: "/".join(own[-length:]) for key, own in parts.items()}
        if len(set(names.values())) == different:
            return names
    return {key: "/".join(own) for key, own in parts.items()}


def _file_name(name: Any) -> str:
    """The file name at the end of a path of any system."""
    return str(name).replace("\\", "/").rpartition("/")[2]
