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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path.parent}: cannot make this folder: {error.strerror or error}") from error
    beside = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        raise OSError(f"{path}: cannot write this file: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


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
