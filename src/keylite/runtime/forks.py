"""Calls a function in every process that is forked from this one, before that process does anything else."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable


@functools.cache
def in_forks(act: Callable[[], object]) -> None:
    """Call `act` in every process that is forked from now on. Asking twice makes no difference."""
    if hasattr(os, "register_at_fork"):  # Windows cannot fork
        os.register_at_fork(after_in_child=act)
