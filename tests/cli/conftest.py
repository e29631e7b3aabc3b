"""The command line as these tests use it, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest


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
