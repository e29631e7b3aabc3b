"""The command line as these tests use it, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import keylite
from keylite.data.formats.reading import write_dataset


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that says why it failed."""
        assert "Traceback" not in self.err
        (line,) = [line for line in self.err.splitlines() if line.startswith("keylite: ")]
        return line.removeprefix("keylite: ")


@pytest.fixture
def keylite_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """A function: run `keylite ARGUMENTS` and give how it ended."""
    from keylite.cli import main

    def run(*arguments: object) -> Ended:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = 0 if stop.code is None else int(stop.code)
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two pictures with labels."""
    folder = tmp_path_factory.mktemp("photos")
    write_dataset(keylite.gauges(2, seed=1, size=96), folder)
    return folder


@pytest.fixture
def picture(photos: Path) -> Path:
    return sorted(photos.glob("*.png"))[0]
