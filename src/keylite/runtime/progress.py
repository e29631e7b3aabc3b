"""How far a long step is: told where the work is done, shown by whoever listens, else not at all. Knows no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

Advance = Callable[[int], object]  # so many more are done
Show = Callable[[str, int | None], AbstractContextManager[Advance]]  # what is done, and how many there are of it

_shows: list[Show] = []  # the last one is asked


@contextlib.contextmanager
def step(what: str, total: int | None = None) -> Generator[Advance]:
    """A function to be told how many more of `total` are done; None: nobody knows how far it is."""
    if not _shows:
        yield lambda more: None
        return
    with _shows[-1](what, total) as advance:
        yield advance


@contextlib.contextmanager
def shown_by(show: Show) -> Generator[None]:
    """Steps of the block are shown by `show`."""
    _shows.append(show)
    try:
        yield
    finally:
        _shows.remove(show)


def spelt_time(seconds: float) -> str:
    """Seconds in words: 42 s, 12 min, 3 h 20 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
