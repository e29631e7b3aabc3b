"""Writing files whole or not at all, and naming them by their content.

What is being written lies beside its place under a hidden name that says which process writes it; what a killed process
left is removed by the next one that writes to the folder. Links are followed; a device or a pipe is written to, for it
is somebody else's and must not be replaced by a file.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from keylite.runtime.errors import ArgumentError

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]  # that end it
LINKS = 40  # that are followed, as Linux does
LONGEST_NAME, LONGEST_SUFFIX = 100, 40  # bytes of a file's own name in the hidden one, which has to fit into 255
FORGOTTEN = 2 * 86400.0  # seconds after which what a process of another machine writes is taken for left behind
OPEN_FILE = re.compile(r"(?:/dev|/proc/(?:self|thread-self|(\d+)))/fd/(\d+)")  # of this process, or of that one
PART = re.compile(r"(?:\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8})?\.(\d{1,9})\.part(?:\.[^.]*)?$")  # the end of a hidden name


@contextlib.contextmanager
def replacing(path: Path | str) -> Generator[Path]:
    """A path beside `path` to write to; it takes the name of `path` when the block ends without an error.

    Otherwise it is removed and what was there before stays. Folders are made, the mode of a file that is replaced is
    kept. A device or a pipe gets all bytes when the block ends without an error. OSError says which file it was.
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
        _tidy_once(place.parent)
        name, suffix = _cut(place.name, LONGEST_NAME), _cut(place.suffix, LONGEST_SUFFIX)
        beside = place.parent / f".{name}.{_writer()}.part{suffix}"
        try:
            yield beside
            _keep_mode(place, beside)
            os.replace(beside, place)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
    except _SaidError:
        raise
    except OSError as error:
        raise _SaidError(f"{path}: cannot write this file: {error.strerror or error}") from error


class _SaidError(OSError):
    """An error that names its file already."""


@contextlib.contextmanager
def replacing_within(folder: Path | str) -> Generator[Path]:
    """A hidden folder to write files to, which are in `folder` when the block ends without an error.

    Otherwise they are removed, and folders that were not there before. Files of a new folder appear at once. Those that
    go into one that is there follow each other by name, and a signal waits for the last.
    """
    folder = Path(os.path.realpath(folder))
    around = folder if folder.exists() else folder.parent
    missing = [path for path in (around, *around.parents) if not path.exists()]
    inside = around / f".{_cut(folder.name, LONGEST_NAME)}.{_writer()}.part"
    try:
        with uninterrupted():
            make_folder(around)
            for place in (folder, folder.parent):  # either may have been the one
                _tidy_once(place)
            make_folder(inside)
        yield inside
        with uninterrupted():
            _move(inside, folder)
            missing = []
    finally:
        with uninterrupted():
            shutil.rmtree(inside, ignore_errors=True)
            with contextlib.suppress(OSError):  # somebody else's files are in it by now
                for path in missing:
                    path.rmdir()


def _move(inside: Path, folder: Path) -> None:
    """The files of one folder into another, which gets its name if nothing is there."""
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
    """What asks this process to end waits until the block has ended, where Python handles it: see `signal`."""
    came: list[int] = []
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():  # which alone may handle signals
            for number in SIGNALS:
                if callable(handler := signal.getsignal(number)):
                    before[number] = handler
                    signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def make_folder(path: Path | str) -> None:
    """Make a folder and those above it where missing; a link that leads nowhere gets what it leads to."""
    try:
        Path(os.path.realpath(path)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _SaidError(f"{path}: cannot make this folder: {error.strerror or error}") from error


# ---- refused before work begins


def require_writable(folder: Path | str) -> None:
    """Raise OSError where `folder`, or the nearest one above it that is there, cannot be written to; makes nothing."""
    place = Path(os.path.realpath(folder))
    there = next(path for path in (place, *place.parents) if os.path.lexists(path))
    if there.is_dir() and os.access(there, os.W_OK):
        return
    what = "not writable" if there.is_dir() else "a link that leads to itself" if there.is_symlink() else "a file"
    raise OSError(f"{folder}: cannot write to this folder: {there} is {what}")


def require_outputs(
    files: Mapping[str, Path | str | None],
    inputs: Mapping[str, Path | str | None] | None = None,
    folders: Mapping[str, Path | str | None] | None = None,
) -> None:
    """Raise OSError or ValueError where what a command is to write cannot be written, by name; makes nothing.

    Two of the files may not be one, none may be one of the inputs, and none may lie where there is to be a folder.
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
            raise ArgumentError(f"{name}: {path} is the file of {other}, too; give each a file of its own")
    for name, folder in (folders or {}).items():
        if folder is None:
            continue
        place = Path(os.path.realpath(folder))
        other = next((taken[key] for key in map(_identity, (place, *place.parents)) if key in taken), "")
        if other in files:
            raise ArgumentError(
                f"{name}: {folder} is to be a folder, and is or lies in the file of {other}; name another"
            )
        require_writable(folder)


def _require_open_to_write(number: int) -> None:
    """OSError for a file that this process has not open, or only for reading."""
    os.fstat(number)
    with contextlib.suppress(ImportError):  # Windows has no fcntl, and no such names of files either
        import fcntl

        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "it is open for reading alone")


def _identity(place: Path) -> tuple[int, int] | Path:
    """What two names of one file have in common."""
    try:
        facts = place.stat()
    except OSError:
        return place
    return facts.st_dev, facts.st_ino


# ---- places


def is_standard_output(path: Path | str) -> bool:
    """Whether a path is this process's standard output under some name: /dev/stdout, /dev/fd/1."""
    with contextlib.suppress(OSError):  # links that lead to each other; `require_outputs` says so
        return _place(Path(path)) == 1
    return False


def _place(path: Path) -> Path | int:
    """Where a path leads in the end, which need not be there; a number for a file that this process has open."""
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
    """Whether something is there that is neither a file nor a folder: a device, a pipe, a socket."""
    try:
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _cut(name: str, length: int) -> str:
    """The beginning of a name, so many bytes of it."""
    return name if len(os.fsencode(name)) <= length else os.fsencode(name)[:length].decode(errors="ignore")


def _pour(source: Path, place: Path | int) -> None:
    """Write the bytes of a file to a device, a pipe or an open file, from where that stands."""
    if place == 1 and sys.stdout is not None:
        sys.stdout.flush()  # what was printed before
    number = os.dup(place) if isinstance(place, int) else os.open(place, os.O_WRONLY)
    with open(source, "rb") as file, open(number, "wb") as out:
        shutil.copyfileobj(file, out)


def _keep_mode(place: Path, new: Path) -> None:
    """Give a file that takes another's place the other's mode, and its owner where that is allowed."""
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


# ---- what killed processes left


def tidy(folder: Path | str) -> None:
    """Remove what processes that are gone had not finished writing in a folder, and nothing of one that still runs.

    What another machine writes to a folder that both share is left alone unless it is FORGOTTEN.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = PART.search(entry.name) if entry.name.startswith(".") else None
            if name and _is_dead(entry, *name.groups()):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


_tidied: set[Path] = set()  # a folder that gets a million files is not looked through for each


def _tidy_once(folder: Path) -> None:
    if folder not in _tidied:
        _tidied.add(folder)
        tidy(folder)


def _is_dead(entry: os.DirEntry[str], machine: str | None, began: str | None, process: str) -> bool:
    """Whether the process that a hidden name tells of is gone."""
    if machine is not None and machine != _machine():
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > FORGOTTEN
    now_began = _began(int(process))
    if now_began is None:
        return True
    return began is not None and began != now_began and "0" not in (began, now_began)  # its number went to another


def _writer() -> str:
    """What a hidden name says of this process, another each time: machine, start, a random number and the process."""
    process = os.getpid()
    return f"{_machine()}-{_began(process) or 0}-{secrets.token_hex(4)}.{process}"


@functools.cache
def _machine() -> str:
    """This machine since it was started, as far as it sees its processes: a container has its own."""
    facts = [platform.node()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            facts.append(os.readlink(source) if "/ns/" in source else Path(source).read_text())
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _began(process: int) -> str | None:
    """When a process of this machine began, in the system's own count, 0 where it does not say; None for none."""
    try:
        state, *facts = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        return None if state in b"ZX" else facts[18].decode()  # a zombie writes no more
    except (OSError, IndexError, ValueError):
        if os.path.exists("/proc/self/stat"):
            return None
    if os.name == "nt":  # where os.kill would end it
        return "0"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:  # it is another user's
        pass
    return "0"


# ---- whole files


def open_file(path: Path | str, expected: str = "a file") -> BinaryIO:
    """A file that a user named, open to be read. Raises ValueError for a folder, a pipe or a device.

    A pipe that nobody writes to would never open, and nothing can be read from one twice.
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
    """Write files that belong together, all or none of them; they appear in the order given, when all are written."""
    with contextlib.ExitStack() as stack:
        for path, data in reversed(list(files.items())):  # a stack ends with what came first
            stack.enter_context(replacing(path)).write_bytes(data)


def sha256(path: Path | str) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
