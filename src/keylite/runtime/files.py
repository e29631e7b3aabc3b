"""Writes files whole or not at all, and refuses outputs that cannot be written before work begins.

A file that is being written lies beside its place under a hidden name (leftovers.py). If a path is a link, the file
that it leads to is written. A device or a pipe gets the bytes and is never replaced by a file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from keylite.runtime.errors import ArgumentError
from keylite.runtime.leftovers import tidy_once, writer

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
LINKS = 40  # longest chain of links that is followed, as in Linux
LONGEST_NAME, LONGEST_SUFFIX = 100, 40  # bytes of a file's name within its hidden name, of which systems allow 255
OPEN_FILE = re.compile(r"(?:/dev|/proc/(?:self|thread-self|(\d+)))/fd/(\d+)")  # an open file: (process), number


@contextlib.contextmanager
def replacing(path: Path | str) -> Generator[Path]:
    """A path beside `path` to write to; it is renamed to `path` when the block ends without an error.

    After an error it is removed, and an older file at `path` stays. Missing folders are made. A file that is replaced
    keeps its mode. A device or a pipe gets all bytes when the block ends without an error. OSErrors name the file.
    """
    path = Path(path)
    try:
        place = _place(path)
        if isinstance(place, int) or _is_special(place):
            with tempfile.TemporaryDirectory(prefix="keylite-") as folder:
                beside = Path(folder) / f"output{path.suffix}"
                yield beside
                _pour(beside, place)
            return
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        make_folder(place.parent)
        tidy_once(place.parent)
        name, suffix = _cut(place.name, LONGEST_NAME), _cut(place.suffix, LONGEST_SUFFIX)
        beside = place.parent / f".{name}.{writer()}.part{suffix}"
        try:
            yield beside
            _keep_mode(place, beside)
            os.replace(beside, place)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
    except OSError as error:
        if error.errno is None:  # its message names a file already
            raise
        raise OSError(f"{path}: cannot write this file: {error.strerror or error}") from error


@contextlib.contextmanager
def replacing_within(folder: Path | str) -> Generator[Path]:
    """A hidden folder to write files to; they move to `folder` when the block ends without an error.

    After an error they are removed, and so are folders that this function made. If `folder` is new, all files appear at
    once. If it exists, they move into it in the order of their names, and a signal waits until the last one is there.
    """
    folder = Path(os.path.realpath(folder))
    around = folder if folder.exists() else folder.parent
    missing = [path for path in (around, *around.parents) if not path.exists()]
    inside = around / f".{_cut(folder.name, LONGEST_NAME)}.{writer()}.part"
    try:
        with uninterrupted():
            make_folder(around)
            for place in (folder, folder.parent):  # a killed process may have written to either
                tidy_once(place)
            make_folder(inside)
        yield inside
        with uninterrupted():
            _move(inside, folder)
            missing = []
    except OSError as error:  # its message names the folder that the user knows
        if str(inside) not in str(error):
            raise
        known = OSError(str(error).replace(str(inside), str(folder)))
        known.errno = error.errno
        raise known from None
    finally:
        with uninterrupted():
            shutil.rmtree(inside, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process has put files there
                for path in missing:
                    path.rmdir()


def _move(inside: Path, folder: Path) -> None:
    """Move the files of one folder to another; if that does not exist, the folder itself is renamed."""
    with contextlib.suppress(OSError):
        if inside.parent != folder:
            inside.rename(folder)
            return
    make_folder(folder)
    for path in sorted(inside.iterdir()):
        place = folder / path.name
        _keep_mode(place, path)
        os.replace(path, place)


@contextlib.contextmanager
def uninterrupted() -> Generator[None]:
    """Signals that would end this process wait until the block has ended, if a Python function handles them."""
    received: list[int] = []
    handlers: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():  # other threads may not set handlers
            for number in SIGNALS:
                if callable(handler := signal.getsignal(number)):
                    handlers[number] = handler
                    signal.signal(number, lambda number, _: received.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def make_folder(path: Path | str) -> None:
    """Make a folder and those above it if they are missing; for a link, make the folder that it leads to."""
    try:
        Path(os.path.realpath(path)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path}: cannot make this folder: {error.strerror or error}") from error


# ---- outputs that are refused before work begins


def require_writable(folder: Path | str) -> None:
    """Raise OSError if `folder`, or the nearest existing one above it, cannot be written to. Makes nothing."""
    place = Path(os.path.realpath(folder))
    nearest = next(path for path in (place, *place.parents) if os.path.lexists(path))
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return
    kind = "not writable" if nearest.is_dir() else "a link that leads to itself" if nearest.is_symlink() else "a file"
    raise OSError(f"{folder}: cannot write to this folder: {nearest} is {kind}")


def require_outputs(
    files: Mapping[str, Path | str | None],
    inputs: Mapping[str, Path | str | None] | None = None,
    folders: Mapping[str, Path | str | None] | None = None,
) -> None:
    """Raise OSError or ValueError if a command's outputs cannot be written. Makes nothing.

    Each mapping goes from the name of an argument to its path; None is passed over. Two files may not be the same, no
    file may be an input, and no folder may be or lie in one of the files.
    """
    taken: dict[tuple[int, int] | Path, str] = {}
    for name, path in (inputs or {}).items():
        if path is not None and os.path.isfile(path):
            taken.setdefault(_identity(Path(os.path.realpath(path))), name)
    for name, path in files.items():
        if path is None:
            continue
        try:
            place = _place(Path(path))
            if isinstance(place, int):
                _require_open_to_write(place)
                continue
        except OSError as error:
            raise OSError(f"{name}: {path}: cannot write this file: {error.strerror or error}") from None
        if place.is_dir():
            raise ArgumentError(f"{name}: expected the name of a file, got the folder {path}")
        if os.path.lexists(place):
            if not os.access(place, os.W_OK):
                raise OSError(f"{name}: {path}: cannot write this file: it is read-only")
            if stat.S_ISSOCK(place.stat().st_mode):
                raise OSError(f"{name}: {path}: cannot write this file: it is a socket")
        if _is_special(place):
            continue
        require_writable(place.parent)
        other = taken.setdefault(_identity(place), name)
        if other != name:
            whose = f"the file of `{other}`" if other.isidentifier() else "an input"
            raise ArgumentError(f"{name}: {path} is {whose}, too; give each a file of its own")
    for name, folder in (folders or {}).items():
        if folder is None:
            continue
        place = Path(os.path.realpath(folder))
        other = next((taken[key] for key in map(_identity, (place, *place.parents)) if key in taken), "")
        if other in files:
            raise ArgumentError(
                f"{name}: expected a folder, but {folder} is or lies in the file of `{other}`; name another"
            )
        require_writable(folder)


def _require_open_to_write(number: int) -> None:
    """Raise OSError if this process has no open file of this number, or only for reading."""
    os.fstat(number)
    with contextlib.suppress(ImportError):  # Windows has neither fcntl nor such file names
        import fcntl

        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "it is open only for reading")


def _identity(place: Path) -> tuple[int, int] | Path:
    """A value that is the same for all names of one file."""
    try:
        facts = place.stat()
    except OSError:
        return place
    return facts.st_dev, facts.st_ino


# ---- where paths lead


def is_standard_output(path: Path | str) -> bool:
    """Whether a path is a name of this process's standard output, such as /dev/stdout or /dev/fd/1."""
    with contextlib.suppress(OSError):  # a circle of links, which `require_outputs` reports
        return _place(Path(path)) == 1
    return False


def _place(path: Path) -> Path | int:
    """Where a path leads through all links; it need not exist. An open file of this process gives its number."""
    for _ in range(LINKS):
        place = Path(os.path.realpath(path.parent)) / path.name
        for spelt in (path, place):
            open_file = OPEN_FILE.fullmatch(str(spelt))
            if open_file and open_file[1] in (None, str(os.getpid())):
                return int(open_file[2])
        if not place.is_symlink():
            return place
        path = place.parent / os.readlink(place)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _is_special(place: Path) -> bool:
    """Whether the path is a device, a pipe or a socket: neither a file nor a folder."""
    try:
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _cut(name: str, length: int) -> str:
    """The beginning of a name, at most `length` bytes of it."""
    return name if len(os.fsencode(name)) <= length else os.fsencode(name)[:length].decode(errors="ignore")


def _pour(source: Path, place: Path | int) -> None:
    """Write the bytes of a file to a device, a pipe or, from its current position, an open file."""
    if place == 1 and sys.stdout is not None:
        sys.stdout.flush()  # printed text comes first
    number = os.dup(place) if isinstance(place, int) else os.open(place, os.O_WRONLY)
    with open(source, "rb") as file, open(number, "wb") as out:
        shutil.copyfileobj(file, out)


def _keep_mode(place: Path, new: Path) -> None:
    """Give a new file the mode of the file that it replaces, and its owner if that is allowed."""
    try:
        old = place.stat()
    except OSError:
        return
    if not stat.S_ISREG(old.st_mode):
        return
    with contextlib.suppress(OSError):
        if hasattr(os, "chown"):
            os.chown(new, old.st_uid, old.st_gid)
    with contextlib.suppress(OSError):
        os.chmod(new, stat.S_IMODE(old.st_mode))


# ---- whole files


def open_file(path: Path | str, expected: str = "a file") -> BinaryIO:
    """Open a file that a user named, for reading. Raises ValueError for a folder, a pipe or a device.

    Pipes are refused because opening one waits until somebody writes to it, and it cannot be read twice.
    """

    def opener(name: str, flags: int) -> int:
        number = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        mode = os.fstat(number).st_mode
        if stat.S_ISREG(mode):
            return number
        os.close(number)
        kind = "a pipe; write it to a file first" if stat.S_ISFIFO(mode) else "a device"
        raise ArgumentError(f"{path}: expected {expected}, got {'a folder' if stat.S_ISDIR(mode) else kind}")

    return open(path, "rb", opener=opener)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(Path(path)) as beside:
        beside.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode())


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together, all or none; when all are written, they appear in the order of the mapping."""
    with contextlib.ExitStack() as stack:
        for path, data in reversed(list(files.items())):  # the stack renames them in reverse order
            stack.enter_context(replacing(path)).write_bytes(data)


def sha256(path: Path | str) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
