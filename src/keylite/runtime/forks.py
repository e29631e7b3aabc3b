"""What a process that is forked from this one does before anything else; nothing where processes cannot fork."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable


@functools.cache
def in_forks(act: Callable[[], object]) -> None:
    """Have `act` called in every process that is forked from now on, once however often this is asked for."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=act)
