"""Reading every picture of a data set once, by several threads, and refusing or leaving out what cannot be used."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from keylite.data.likeness import LIKENESS, likeness_of
from keylite.data.problems import points_outside
from keylite.data.tones import Tones, tone_notes, tones_of, white_level_of
from keylite.runtime.boxes import box_problems
from keylite.runtime.errors import DataError
from keylite.runtime.exif import TURNED
from keylite.runtime.images import Picture, to_8_bit
from keylite.runtime.machine import cores
from keylite.runtime.progress import step
from keylite.runtime.types import WhiteLevel
from keylite.runtime.words import LOOKED_AT, listed

SPARE = 4  # threads in addition to the cores, because some wait for the disk
RUN = 16  # images per task: a task per image would take more memory than their labels


class Pictures(Protocol):
    """What is asked here of a Dataset, which calls this module; that class explains these names."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def images(self) -> Sequence[object]: ...
    @property
    def image_names(self) -> Sequence[str]: ...
    @property
    def image_sizes(self) -> np.ndarray | None: ...
    @property
    def image_index(self) -> np.ndarray: ...
    @property
    def box(self) -> np.ndarray: ...
    @property
    def xy(self) -> np.ndarray: ...
    @property
    def white_level(self) -> WhiteLevel: ...
    @property
    def checked(self) -> bool: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def called(self) -> str: ...
    def __len__(self) -> int: ...
    def open_image(self, index: int, /) -> Picture: ...
    def sample_name(self, index: int, /) -> str: ...
    def subset(self: D, indices: np.ndarray, /) -> D: ...


D = TypeVar("D", bound=Pictures)


@dataclasses.dataclass(frozen=True)
class Looks:
    """What was seen in M pictures.

    Attributes:
        sizes: (M, 2) int64 (width, height), px; 0 for a picture that cannot be read.
        likeness: (M,) what each picture shows; see likeness.py.
        tones: The tones of each picture, None if it cannot be read.
        turned: (M,) bool, whether its EXIF orientation turns or mirrors it.
        problems: Number of a picture -> what is wrong with it.
    """

    sizes: np.ndarray
    likeness: np.ndarray
    tones: list[Tones | None]
    turned: np.ndarray
    problems: dict[int, str]


def look_at(
    count: int, open_picture: Callable[[int], Picture], problem_of: Callable[[int, int, int], str], called: str
) -> Looks:
    """Read pictures 0 to count - 1.

    problem_of: called with a picture's number, width and height; gives what is wrong with its size, or an empty text.
    called: the name of the data set, for the progress line.
    """
    looks = Looks(
        sizes=np.zeros((count, 2), np.int64),
        likeness=np.zeros(count, LIKENESS),
        tones=[None] * count,
        turned=np.zeros(count, bool),
        problems={},
    )
    stopped = False

    def look(images: range) -> None:
        for image in images:
            if stopped:
                return
            try:
                _look(looks, image, open_picture(image))
                problem = problem_of(image, *looks.sizes[image].tolist())
            except (ValueError, OSError) as error:
                problem = str(error)
            if problem:
                looks.problems[image] = problem

    pool = ThreadPoolExecutor(cores() + SPARE)
    runs = [range(start, min(start + RUN, count)) for start in range(0, count, RUN)]
    try:
        with step(f"reading the images of {called}", count) as done:
            for run, _ in zip(runs, pool.map(look, runs), strict=True):
                done(len(run))
    finally:
        stopped = True
        pool.shutdown(wait=False, cancel_futures=True)  # so Ctrl-C does not wait for tasks in the queue
    return looks


def _look(looks: Looks, image: int, picture: Picture) -> None:
    """Note what is seen in one picture; ValueError or OSError if it cannot be read."""
    looks.turned[image] = picture.header is not None and picture.header.orientation in TURNED
    samples = picture.samples()
    looks.sizes[image] = samples.shape[1], samples.shape[0]
    looks.tones[image] = own = tones_of(samples)
    pixels = to_8_bit(samples, white_level_of([own])) if own.bits == 16 else samples
    looks.likeness[image] = likeness_of(pixels)  # with its own white level, whatever that of the data set is


def checked(data: D, skip_bad: bool, white_level: WhiteLevel | None) -> D:
    """The data set after every image was read once, without what cannot be used if `skip_bad`, else DataError.

    See `Dataset.check_images` for the arguments and for what is noted.
    """
    looks = look_at(len(data.images), data.open_image, functools.partial(_size_problem, data), data.called)
    level = white_level
    if level is None:
        level = data.white_level if data.checked else white_level_of(looks.tones)
    limit = looks.sizes[data.image_index].astype(np.float64)
    bad = np.isin(data.image_index, list(looks.problems))
    box_words = {row: words for row, words in box_problems(data.box, limit).items() if not bad[row]}
    outside = np.zeros(len(data), bool)
    outside[list(box_words)] = True
    beyond = int(points_outside(data.xy, limit)[~bad & ~outside].sum())
    notes = [f"{beyond} labelled points lie outside their image"] if beyond else []
    notes += _turned_notes(data, looks.turned)
    notes += [] if data.checked else tone_notes(looks.tones, data.image_names, level, given=white_level is not None)
    seen = dataclasses.replace(
        data,
        image_sizes=looks.sizes,
        likeness=looks.likeness,
        checked=True,
        white_level=level,
        notes=(*data.notes, *(note for note in notes if note not in data.notes)),
    )
    if not looks.problems and not box_words:
        return seen
    line = _unusable(data, looks.problems, box_words)
    if not skip_bad:
        raise DataError(f"{line}; mend them, or pass `skip_bad=True` to leave them out")
    kept = np.flatnonzero(~bad & ~outside)
    if len(kept) == 0:
        raise DataError(f"{line}; nothing is left")
    return dataclasses.replace(seen.subset(kept), notes=(*seen.notes, f"skipped: {line}"))


def _size_problem(data: Pictures, image: int, width: int, height: int) -> str:
    """Why an image of this size is not the one that was labelled; empty if it may be."""
    labelled = (0, 0) if data.image_sizes is None else tuple(data.image_sizes[image].tolist())
    if all(side in (0, true_side) for side, true_side in zip(labelled, (width, height), strict=True)):
        return ""
    size = "x".join(str(side) if side else "?" for side in labelled)
    step = "scale the labels, or correct the size in the file"
    if labelled == (height, width):
        step = "labelled before its EXIF turn? then remove the orientation from the picture, or turn the labels"
    return f"{data.image_names[image]}: labelled at {size} px, but the picture is {width}x{height} ({step})"


def _turned_notes(data: Pictures, turned: np.ndarray) -> list[str]:
    """A note about images (M,) bool that EXIF turns, unless a size in the labels shows what they were made for."""
    if data.image_sizes is not None:
        turned = turned & (data.image_sizes <= 0).any(axis=1)
    if not turned.any():
        return []
    return [
        f"{turned.sum()} of {len(turned)} images are turned by their EXIF orientation "
        f"({data.image_names[int(np.argmax(turned))]}), and the labels do not say their size: points are read "
        "as places in the upright image, which most programs show"
    ]


def _unusable(data: Pictures, images: dict[int, str], boxes: dict[int, str]) -> str:
    """The line about images and objects that cannot be used: number -> what is wrong."""
    texts = [problem for _, problem in sorted(images.items())]
    texts += [f"{data.sample_name(row)}: {words}" for row, words in list(boxes.items())[:LOOKED_AT]]
    counts = [f"{len(images)} of {len(data.images)} images"] if images else []
    counts += [f"{len(boxes)} of {len(data)} objects"] if boxes else []
    return listed(f"{data.called}: {' and '.join(counts)} cannot be used", texts, len(images) + len(boxes))
