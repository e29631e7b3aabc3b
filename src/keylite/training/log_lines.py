"""Shows the log lines of a training on standard error, unless the caller has set up logging."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Generator

from keylite.runtime.words import log_line
from keylite.training.processes import is_first_process
from keylite.training.recipe import Recipe

log = logging.getLogger("keylite")


class _Lines(logging.Formatter):
    """Formats log records as plain lines; a warning begins with `warning:`."""

    def format(self, record: logging.LogRecord) -> str:
        return log_line(record)


@contextlib.contextmanager
def shown_log(recipe: Recipe) -> Generator[None]:
    """Show the log lines of a training while the block runs.

    If the caller has not set up logging, the lines go to standard error, so that a notebook or a short script shows
    each epoch when it ends. If the caller has handlers, or a level for the logger `keylite`, nothing changes. If
    several processes train one model, only the first one shows all lines; the others show errors only.
    """
    level, handler = log.level, None
    if not is_first_process(recipe):
        log.setLevel(logging.ERROR)
    elif level == logging.NOTSET:
        if not log.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(_Lines())
            log.addHandler(handler)
        if handler or "ipykernel" in sys.modules:  # some notebooks set a handler for warnings by themselves
            log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        if handler:
            log.removeHandler(handler)
