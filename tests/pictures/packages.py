"""npm packages as the tests make them, and what a page that cannot be written says."""

from __future__ import annotations

import io
import tarfile

import pytest

import keylite


def packed(files: dict[str, bytes]) -> bytes:
    """A tarball as npm makes them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def refusal(*values: object, **named: object) -> str:
    with pytest.raises((keylite.ArgumentError, OSError)) as caught:
        keylite.write_page(*values, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)
