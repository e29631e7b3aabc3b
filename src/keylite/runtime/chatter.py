"""Filters standard error: removes harmless lines that C++ libraries write there and that no option turns off."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Generator, Iterable

from keylite.runtime.forks import in_forks

CHATTER = re.compile(
    rb"Created TensorFlow Lite XNNPACK delegate for CPU"
    rb"|oneDNN custom operations are on"
    rb"|All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|This TensorFlow binary is optimized to use available CPU instructions"
    rb"|To enable the following instructions: .* rebuild TensorFlow"
    rb"|Unable to register \w+ factory"
    rb"|could not find cuda drivers|Could not find cuda drivers"
)
_one_at_a_time = threading.RLock()  # two threads at once would each restore the other's descriptor
_saved: list[int] = []  # descriptors of the standard error before each open block, the outermost first


@contextlib.contextmanager
def without_chatter(everything: bool = False) -> Generator[None]:
    """Lines written to file descriptor 2 in the block appear when it ends, without those of CHATTER.

    everything: no line appears unless the block fails. It is for converters that print much and raise what matters.
    """
    lines: list[bytes] = []
    failed = True
    try:
        with _captured(lines):
            yield
        failed = False
    finally:
        if failed or not everything:
            _write(line for line in lines if not CHATTER.search(line))


@contextlib.contextmanager
def overheard(pattern: re.Pattern[bytes]) -> Generator[list[str]]:
    """A list that gets, when the block ends, the lines of file descriptor 2 that match; only the others appear."""
    lines: list[bytes] = []
    matching: list[str] = []
    try:
        with _captured(lines):
            yield matching
    finally:
        matching += [line.decode(errors="replace").strip() for line in lines if pattern.search(line)]
        _write(line for line in lines if not pattern.search(line))


def _write(lines: Iterable[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"".join(lines))


@contextlib.contextmanager
def _captured(lines: list[bytes]) -> Generator[None]:
    """Lines written to file descriptor 2 in the block go into the list when it ends."""
    in_forks(_leave)
    with _one_at_a_time:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            saved = os.dup(2)
        except (OSError, ValueError):  # standard error is closed
            yield
            return
        with tempfile.TemporaryFile() as written:
            try:
                _saved.append(saved)
                os.dup2(written.fileno(), 2)
                yield
            finally:
                if sys.stderr is not None:
                    with contextlib.suppress(OSError, ValueError):
                        sys.stderr.flush()
                os.dup2(saved, 2)
                del _saved[-1:]
                os.close(saved)
                written.seek(0)
                lines += written


def _leave() -> None:
    """Restore standard error and free the lock in a forked process: the threads that would do so are not in it."""
    global _one_at_a_time
    _one_at_a_time = threading.RLock()
    if _saved:
        os.dup2(_saved[0], 2)
        _saved.clear()
