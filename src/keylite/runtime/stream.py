"""The prediction loop: threads read and crop pictures while the engine runs on the crops of several.

Results come in the order of the pictures. The loop knows nothing of model files, labels or specs.
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

READERS = 4  # default number of threads; each holds a decoded picture


class Cut(NamedTuple):
    """The crops of a picture, without the picture itself.

    source: names the picture for the caller. size: its (width, height) px. boxes: (N, 4) xyxy px. crops: N. pixels: the
    N crops, uint8 (H, W, 3) each.
    """

    source: Any
    size: tuple[int, int]
    boxes: np.ndarray
    crops: Sequence[Crop]
    pixels: Sequence[np.ndarray]


class Task(NamedTuple):
    """A picture to read: its source, the number of its crops, and the function that reads and crops it."""

    source: Any
    crop_count: int
    cut: Callable[[], Cut]


Answer = tuple[np.ndarray, np.ndarray]  # for one crop: unit xy (K, 2) and score (K,)


def answers(
    tasks: Iterable[Task],
    run: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    batch: int,
    readers: int | None = None,
    on_bad: Callable[[Any, Exception], object] | None = None,
) -> Generator[tuple[Cut, list[Answer]], None, None]:
    """For each picture, in order: its crops without their pixels, and the engine's answer to each crop.

    run: a function from crops uint8 (B, H, W, 3) to unit xy (B, K, 2) and score (B, K). B is `batch`, or less at the
    end. readers: number of threads; None: READERS, or the number of cores if that is less. on_bad: a function of a
    source and an error. It is called for each picture that cannot be used, in order, and that picture is left out.
    None: the error ends the loop. `close()` ends the loop and its threads.
    Memory: at most `readers` decoded pictures, and crops that wait for the engine: at most three times `batch` or
    `readers`, whichever is more.
    """
    readers = min(READERS, cores()) if readers is None else readers
    require_whole("readers", readers)
    waiting: deque[Cut] = deque()  # pictures whose crops are not all answered
    pixels: list[np.ndarray] = []  # crops that the engine has not got yet
    done: deque[Answer] = deque()  # answers to the first crops of `waiting`
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
    """Pictures that threads have read and cropped, in order. It reads ahead, so that the engine need not wait."""
    ahead = 2 * max(batch, readers)  # pictures, and crops
    pending: deque[tuple[Task, Future[Cut]]] = deque()
    crops = 0  # of the pictures in `pending`

    def until_fewer(limit: int) -> Generator[Cut, None, None]:
        """The first pictures of `pending`, until fewer than `limit` pictures and `limit` crops are left in it."""
        nonlocal crops
        while pending and max(len(pending), crops) >= limit:
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
            yield from until_fewer(ahead)
        yield from until_fewer(0)
    finally:
        pool.shutdown(cancel_futures=True)
