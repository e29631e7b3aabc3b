"""Progress of long steps: the code that does the work reports it here, and the command line shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

Advance = Callable[[int], object]  # called with how many more items are done
Show = Callable[[str, int | None], AbstractContextManager[Advance]]  # called with the step's name and number of items

_shows: list[Show] = []  # the last one shows the steps


@contextlib.contextmanager
def step(what: str, total: int | None = None) -> Generator[Advance]:
    """A function to call with the number of items that are newly done. total: of all items; None: unknown."""
    if not _shows:
        yield lambda more: None
        return
    with _shows[-1](what, total) as advance:
        yield advance


@contextlib.contextmanager
def shown_by(show: Show) -> Generator[None]:
    """Let `show` show the steps of the block."""
    _shows.append(show)
    try:
        yield
    finally:
        _shows.remove(show)


def spelt_time(seconds: float) -> str:
    """A duration as text: 42 s, 12 min, 3 h 20 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
