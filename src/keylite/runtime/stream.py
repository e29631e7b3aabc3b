"""The one loop of prediction: pictures read and cropped by threads beside an engine that gets the crops of several.

Everything comes out in the order in which it went in. Knows no model file, no labels and no spec.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from keylite.runtime.geometry import Crop
from keylite.runtime.kinds import require_whole
from keylite.runtime.machine import cores

READERS = 4  # threads of a stream unless told: each holds a decoded image


class Cut(NamedTuple):
    """A picture read and cropped, and let go.

    source: what was read. size: its (width, height) px. asked: (N, 4) boxes, xyxy px. crops: N. pixels: a uint8
    (H, W, 3) for each crop.
    """

    source: Any
    size: tuple[int, int]
    asked: np.ndarray
    crops: Sequence[Crop]
    pixels: Sequence[np.ndarray]


class Task(NamedTuple):
    """A picture to read: what it is, how many crops it will give, and how to get them."""

    source: Any
    crop_count: int
    cut: Callable[[], Cut]


Answer = tuple[np.ndarray, np.ndarray]  # unit xy (K, 2) and score (K,) of a crop


def answers(
    tasks: Iterable[Task],
    run: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    batch: int,
    readers: int | None = None,
    on_bad: Callable[[Any, Exception], object] | None = None,
) -> Generator[tuple[Cut, list[Answer]], None, None]:
    """Each picture's crops, without their pixels, and the answers of the engine.

    run: crops uint8 (B, H, W, 3), `batch` of them but for the last, -> unit xy (B, K, 2) and score (B, K). readers:
    threads; None: READERS, or the processor's if it has fewer. on_bad: called with the source of a picture that cannot
    be used and why, in order; that one is left out. Without it the error ends the stream. So does `close()`, threads
    and all.
    Memory: at most `readers` decoded pictures, and the crops of those that wait for the engine: never more than three
    times the greater of `batch` and `readers`.
    """
    readers = min(READERS, cores()) if readers is None else readers
    require_whole("readers", readers)
    waiting: deque[Cut] = deque()  # for the answers to some of their crops
    pixels: list[np.ndarray] = []  # crops for the engine
    done: deque[Answer] = deque()  # in order
    with contextlib.closing(_read_ahead(tasks, batch, readers, on_bad)) as cuts:
        for cut in itertools.chain(cuts, [None]):
            if cut is not None:
                waiting.append(cut._replace(pixels=[]))
                pixels += cut.pixels
            while len(pixels) >= batch or (cut is None and pixels):
                together = np.stack(pixels[:batch])
                del pixels[:batch]
                done.extend(zip(*run(together), strict=True))
            while waiting and len(waiting[0].crops) <= len(done):
                first = waiting.popleft()
                yield first, [done.popleft() for _ in first.crops]


def _read_ahead(
    tasks: Iterable[Task], batch: int, readers: int, on_bad: Callable[[Any, Exception], object] | None
) -> Generator[Cut, None, None]:
    """Pictures read and cropped by threads, in order: so many at a time that neither they nor the engine wait."""
    ahead = 2 * max(batch, readers)
    pending: deque[tuple[Task, Future[Cut]]] = deque()
    crops = 0  # of those pending

    def first_ones(most: int) -> Generator[Cut, None, None]:
        """The first of those pending, until fewer than `most` pictures and crops are left."""
        nonlocal crops
        while pending and max(len(pending), crops) >= most:
            task, future = pending.popleft()
            crops -= task.crop_count
            try:
                cut = future.result()
            except (ValueError, OSError) as error:
                if on_bad is None:
                    raise
                on_bad(task.source, error)
            else:
                yield cut

    pool = ThreadPoolExecutor(readers, "keylite-reader")
    try:
        for task in tasks:
            pending.append((task, pool.submit(task.cut)))
            crops += task.crop_count
            yield from first_ones(ahead)
        yield from first_ones(0)
    finally:
        pool.shutdown(cancel_futures=True)
