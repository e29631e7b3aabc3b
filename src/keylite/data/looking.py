"""Reading every picture of a data set once, by several threads: size, tones, what it shows, what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keylite.data.likeness import LIKENESS, likeness_of
from keylite.data.tones import Tones, tones_of, white_level_of
from keylite.runtime.exif import TURNED
from keylite.runtime.images import Picture, to_8_bit
from keylite.runtime.machine import cores
from keylite.runtime.progress import step

SPARE = 4  # threads in addition to the cores, because some wait for the disk
RUN = 16  # images per task: a task per image would take more memory than their labels


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
