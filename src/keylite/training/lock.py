"""A lock on a folder, so that only one process writes to it; the lock ends with its process.

Knows nothing of runs. It is a lock of the kernel (flock) on a hidden file, which is removed when the lock is released.
A killed process leaves the file behind, but no lock: another process can take it.
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
TRIES, PAUSE = 3, 0.05  # because `require_free` takes the lock for a moment; seconds between tries

_held: set[int] = set()  # file descriptors of held locks


def require_free(folder: Path) -> None:
    """Raise ArgumentError if another run holds `folder`; creates no file."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        file = os.open(folder / LOCK, os.O_RDWR)
        try:
            _lock(file, folder)
        finally:
            os.close(file)


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` until the block ends.

    The folder is made if it is missing, and removed again if it stays empty. Raises ArgumentError if another run holds
    the lock. Warns if the file system has no locks.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    in_forks(
        _close_all
    )  # a forked process, such as one that prepares batches, must not hold the lock longer than this one
    try:
        file = _opened(folder)
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
            _give_back(file, folder)
    finally:
        with contextlib.suppress(OSError):  # the folder holds files now
            for path in missing:
                path.rmdir()


def _opened(folder: Path) -> int:
    """Open and lock the lock file, and write into it which process holds it."""
    while True:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, folder)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(
                    os.fstat(file), os.stat(folder / LOCK)
                ):  # else its last holder has removed it in the meantime
                    os.ftruncate(file, 0)
                    os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _give_back(file: int, folder: Path) -> None:
    """Remove the lock file while the lock is held, so that it cannot be another process's file.

    Windows has no such locks, and cannot remove an open file, so there the file is closed first.
    """
    has_locks = _kernel_locks() is not None
    if not has_locks:
        os.close(file)
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink()
    if has_locks:
        os.close(file)


def _kernel_locks() -> ModuleType | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    return fcntl


def _lock(file: int, folder: Path) -> None:
    fcntl = _kernel_locks()
    if fcntl is None:
        return
    for tries_left in reversed(range(TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if tries_left:
                time.sleep(PAUSE)
        except OSError as error:
            log.warning(
                "%s: this file system has no locks (%s); make sure that no other run writes to this folder",
                folder, error.strerror,
            )  # fmt: skip
            return
    holder = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
    raise ArgumentError(
        f"{folder}: another run writes to this folder ({holder}); wait until it ends, or choose another `out`"
    )


def _close_all() -> None:
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()
