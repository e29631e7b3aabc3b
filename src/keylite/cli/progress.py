"""Steps of the library on a terminal, as bars with the time left; elsewhere as plain lines, few of them.

Drawn when something is done. Only a step whose length nobody knows has a thread that draws, as nothing forks in one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from keylite.runtime.progress import Advance, Show, spelt_time

log = logging.getLogger("keylite")

SOON = 0.5  # seconds after which a step gets a bar: what is over by then needs none
OFTEN = 0.1  # seconds between two looks of a bar
PLAIN = ("dumb", "unknown")  # values of TERM, of terminals on which rich draws nothing
FIRST_LINE = 10.0  # seconds after which a step without a terminal says how far it is; the next lines wait longer


def show() -> Show:
    """What shows steps here: bars if standard error is a terminal that can draw them, else lines."""
    draws = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in PLAIN
    return Bars() if draws else lines


@contextlib.contextmanager
def lines(what: str, total: int | None) -> Iterator[Advance]:
    """A step as plain log lines."""
    began, wait, done = time.monotonic(), FIRST_LINE, 0
    if total is None:
        log.info("%s", what)

    def advance(more: int) -> None:
        nonlocal wait, done
        done += more
        spent = time.monotonic() - began
        if total and done and spent >= wait:
            wait = 2 * spent
            log.info("%s: %d of %d, about %s left", what, done, total, spelt_time(spent * (total - done) / done))

    yield advance


class Bars:
    """Steps, also within each other, as lines at the bottom of a terminal that go when they are done."""

    def __init__(self) -> None:
        self.progress: Any = None
        self.steps, self.drawn = 0, 0.0

    @contextlib.contextmanager
    def __call__(self, what: str, total: int | None) -> Iterator[Advance]:
        if self.progress is None:
            self.progress = _progress()
        progress, began = self.progress, time.monotonic()
        task = progress.add_task(what, total=total)
        self.steps += 1
        ended = threading.Event()
        clock = threading.Thread(target=self._tick, args=(ended,), daemon=True)
        if total is None:  # nothing will be told until it is over
            self._draw()
            clock.start()

        def advance(more: int) -> None:
            progress.advance(task, more)
            now = time.monotonic()
            if now - began > SOON and now - self.drawn > OFTEN:
                self._draw()

        try:
            yield advance
        finally:
            ended.set()
            if total is None:
                clock.join()
            self.steps -= 1
            progress.remove_task(task)
            if self.steps == 0:
                progress.stop()
                self.progress = None
            else:
                progress.refresh()

    def _tick(self, ended: threading.Event) -> None:
        """Let the time go on that is spent so far."""
        while not ended.wait(SOON):
            self.progress.refresh()

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        self.progress.start()  # the first time
        self.progress.refresh()


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True, markup=False, highlight=False),
        auto_refresh=False,
        transient=True,
    )
