"""What C++ libraries tell standard error that is no warning and no error, and that no switch of theirs turns off."""

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
_one_at_a_time = threading.RLock()  # two at once would each restore the other's
_kept: list[int] = []  # descriptors of what standard error was before each block that is open, the outermost first


@contextlib.contextmanager
def without_chatter(everything: bool = False) -> Generator[None]:
    """What is written to file descriptor 2 in the block comes after it, without the lines of CHATTER.

    everything: nothing of it comes unless the block fails; for converters that talk at length and raise what matters.
    """
    said: list[bytes] = []
    failed = True
    try:
        with _taken(said):
            yield
        failed = False
    finally:
        if failed or not everything:
            _say(line for line in said if not CHATTER.search(line))


@contextlib.contextmanager
def overheard(pattern: re.Pattern[bytes]) -> Generator[list[str]]:
    """A list that holds, after the block, the lines on file descriptor 2 that fit the pattern; they go no further."""
    said: list[bytes] = []
    heard: list[str] = []
    try:
        with _taken(said):
            yield heard
    finally:
        heard += [line.decode(errors="replace").strip() for line in said if pattern.search(line)]
        _say(line for line in said if not pattern.search(line))


def _say(lines: Iterable[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"".join(lines))


@contextlib.contextmanager
def _taken(said: list[bytes]) -> Generator[None]:
    """The lines that are written to file descriptor 2 in the block are put into the list at its end."""
    in_forks(_leave)
    with _one_at_a_time:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            kept = os.dup(2)
        except (OSError, ValueError):  # closed
            yield
            return
        with tempfile.TemporaryFile() as written:
            try:
                _kept.append(kept)
                os.dup2(written.fileno(), 2)
                yield
            finally:
                if sys.stderr is not None:
                    with contextlib.suppress(OSError, ValueError):
                        sys.stderr.flush()
                os.dup2(kept, 2)
                del _kept[-1:]
                os.close(kept)
                written.seek(0)
                said += written


def _leave() -> None:
    """In a fork there is no other thread to end its block: standard error is what it was, and the lock is free."""
    global _one_at_a_time
    _one_at_a_time = threading.RLock()
    if _kept:
        os.dup2(_kept[0], 2)
        _kept.clear()
