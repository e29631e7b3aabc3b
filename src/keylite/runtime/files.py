"""Writing files whole or not at all, and naming them by their content."""

from __future__ import annotations

import contextlib
import hashlib
import os
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
