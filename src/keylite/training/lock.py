"""A folder that one process alone writes to: a lock that ends with the process, however it ends.

Knows nothing of runs. The lock is the kernel's (flock), on a hidden file that goes when the lock is given back. A
killed process leaves the file, which locks nobody out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import make_folder
from keylite.runtime.forks import in_forks

log = logging.getLogger("keylite")

LOCK = ".lock"
TRIES, PAUSE = 3, 0.05  # a look at the lock holds it, too, for a moment; seconds between tries

_held: set[int] = set()  # file descriptors


def require_free(folder: Path) -> None:
    """Raise ValueError if another run holds `folder`; makes nothing."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        file = os.open(folder / LOCK, os.O_RDWR)
        try:
            _lock(file, folder)
        finally:
            os.close(file)


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold `folder`, made where missing, until the block ends; it goes again if nothing was put in it.

    Raises ValueError if another run holds it. A file system without locks is warned of.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    in_forks(_close_all)  # such a process, say one that prepares batches, does not hold the lock on after this one
    try:
        file = _opened(folder)
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
            _give_back(file, folder)
    finally:
        with contextlib.suppress(OSError):  # it holds files by now
            for path in missing:
                path.rmdir()


def _opened(folder: Path) -> int:
    """The lock file, locked, with a line that says by whom."""
    while True:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, folder)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(folder / LOCK)):  # else its holder has removed it since
                    os.ftruncate(file, 0)
                    os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _give_back(file: int, folder: Path) -> None:
    """Remove the lock file while it is held: nobody else's goes. Windows has no locks, and removes no open file."""
    held = _kernel_locks() is not None
    if not held:
        os.close(file)
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink()
    if held:
        os.close(file)


def _kernel_locks() -> ModuleType | None:
    try:
        import fcntl
    except ImportError:  # not of POSIX
        return None
    return fcntl


def _lock(file: int, folder: Path) -> None:
    fcntl = _kernel_locks()
    if fcntl is None:
        return
    for left in reversed(range(TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if left:
                time.sleep(PAUSE)
        except OSError as error:
            log.warning(
                "%s: this file system has no locks (%s): see to it that no other run writes to this folder",
                folder, error.strerror,
            )  # fmt: skip
            return
    holder = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
    raise ArgumentError(
        f"{folder}: another run writes to this folder ({holder}); wait for its end, or choose another `out`"
    )


def _close_all() -> None:
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()
