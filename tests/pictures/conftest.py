"""Small packages in place of the runtimes of a page."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from packages import packed

from keylite.pictures import runtimes


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small packages in place of the true ones; no cache, and no settings of npm."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for suffix, packages in list(runtimes.RUNTIMES.items()):
        made = []
        for package in packages:
            data = packed({member: name.encode() for name, member in package.files.items()})
            digits = base64.b64encode(hashlib.sha512(data).digest()).decode()
            made.append(package._replace(sha512=digits))
            (folder / package.tarball).write_bytes(data)
        monkeypatch.setitem(runtimes.RUNTIMES, suffix, tuple(made))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")  # nobody is there
    return folder
