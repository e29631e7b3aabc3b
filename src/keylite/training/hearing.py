"""Who hears what a training says: the log that the caller has set up, or else standard error; companions are silent."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Generator

from keylite.runtime.words import one_line
from keylite.training.processes import speaks
from keylite.training.recipe import Recipe

log = logging.getLogger("keylite")


class _Lines(logging.Formatter):
    """Log records as plain lines; a warning says that it is one."""

    def format(self, record: logging.LogRecord) -> str:
        text = one_line(record.getMessage())
        return f"warning: {text}" if record.levelno >= logging.WARNING else text


@contextlib.contextmanager
def heard(recipe: Recipe) -> Generator[None]:
    """For the length of the block, show the lines of a training to whoever started it.

    If the caller has set up no logging, the lines go to standard error, so that a notebook or a short script shows an
    epoch when it ends. Any choice of the caller's stays: handlers, or a level of the logger `keylite`. If several
    processes train one model, only the first one speaks; the others say errors alone.
    """
    level, handler = log.level, None
    if not speaks(recipe):
        log.setLevel(logging.ERROR)
    elif level == logging.NOTSET:
        if not log.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(_Lines())
            log.addHandler(handler)
        if handler or "ipykernel" in sys.modules:  # some notebooks have a handler for warnings that nobody chose
            log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        if handler:
            log.removeHandler(handler)
