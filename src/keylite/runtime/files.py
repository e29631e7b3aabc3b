"""Writing files whole or not at all, and naming them by their content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name of `path` when the block ends without an error.

    Otherwise it is removed and what was there before stays. Folders are made. OSError says which file it was.
    """
    path = Path(path)
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        raise OSError(f"{path}: cannot write this file: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


@contextlib.contextmanager
def replacing_within(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` to write files to; they move into `folder` when the block ends without an error.

    Otherwise they are removed, and so is `folder` where it was not there before.
    """
    folder = Path(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    inside = folder / f".{os.getpid()}.part"
    make_folder(inside)
    try:
        yield inside
        for path in sorted(inside.iterdir()):
            os.replace(path, folder / path.name)
        missing = []
    finally:
        shutil.rmtree(inside, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody else's files are in it by now
            for path in missing:
                path.rmdir()


def make_folder(path: Path | str) -> None:
    """Make a folder and those above it where missing."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path}: cannot make this folder: {error.strerror or error}") from error


def require_writable(folder: Path) -> None:
    """Raise OSError where `folder`, or the nearest one above it that is there, cannot be written to; makes nothing."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise OSError(
            f"{folder}: cannot write to this folder: {there} is {'not writable' if there.is_dir() else 'a file'}"
        )


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(Path(path)) as beside:
        beside.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode())


def sha256(path: Path | str) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
