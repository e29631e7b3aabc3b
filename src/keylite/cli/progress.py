"""Progress of the library's steps: bars with the time left on a terminal, else a few plain lines.

A bar is drawn when a part of its step is done. Only a step of unknown length has a thread that draws; no process is
forked in such a step, so the thread does no harm.
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

SOON = 0.5  # seconds after which a step gets a bar; shorter steps get none
OFTEN = 0.1  # seconds between two drawings of a bar, at least
PLAIN = ("dumb", "unknown")  # values of the variable TERM for terminals on which rich draws nothing
FIRST_LINE = 10.0  # seconds until a step without a terminal prints its first line; the next ones come later and later


def show() -> Show:
    """The function that shows steps: bars if standard error is a terminal that can draw them, else lines."""
    draws = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in PLAIN
    return Bars() if draws else lines


@contextlib.contextmanager
def lines(what: str, total: int | None) -> Iterator[Advance]:
    """Show a step as plain log lines."""
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
    """Shows steps, also steps within steps, as bars at the bottom of a terminal; a bar disappears with its step."""

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
        if total is None:  # there is no progress to report until the step is over
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
        """Redraw the bar, so that the time on it goes on."""
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
