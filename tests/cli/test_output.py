"""What the command line prints of a result is its `str()`, folded where a terminal is narrower."""

from __future__ import annotations

import sys

import pytest

from keylite.cli.output import show
from keylite.runtime.tables import Table, as_text

PARTS = [Table(("keypoint", "note"), [("nose", "no label in 12 of 300 objects, which count nowhere")]), "the end"]


@pytest.mark.parametrize("width", [30, 200])
@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_narrow_terminal_folds(width: int, terminal: bool, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    show(PARTS)
    printed = capsys.readouterr().out
    narrow = terminal and width == 30
    assert (printed == as_text(PARTS) + "\n") == (not narrow)
    assert (max(map(len, printed.splitlines())) <= 30) == narrow
