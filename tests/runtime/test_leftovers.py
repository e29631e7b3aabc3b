"""What killed processes left goes, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keylite.runtime import leftovers
from keylite.runtime.files import replacing
from keylite.runtime.leftovers import tidy


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


OURS, THEIRS = leftovers._machine(), "0badcafe"
LEFT = {  # hidden name, age in days, whether it goes
    "a dead process": (".a.json.{ours}-7-00000000.{dead}.part.json", 0, True),
    "a dead process, no suffix": (".{ours}-7-00000000.{dead}.part", 0, True),
    "of a version before": (".a.json.{dead}.part.json", 0, True),
    "of a version before, a folder": (".{dead}.part", 0, True),
    "of a version before, this process": (".a.json.{own}.part.json", 9, False),
    "this process, where no start is known": (".a.json.{ours}-0-00000000.{own}.part.json", 9, False),
    "its number went to another": (".a.json.{ours}-7-00000000.{own}.part.json", 0, True),
    "this process": (".a.json.{ours}-{began}-00000000.{own}.part.json", 9, False),
    "another machine": (".a.json.{theirs}-7-00000000.{dead}.part.json", 1, False),
    "another machine, long ago": (".a.json.{theirs}-7-00000000.{dead}.part.json", 3, True),
    "not hidden": ("a.json.{dead}.part.json", 9, False),
    "somebody's own": (".part", 9, False),
    "a name like it": (".7.partial", 9, False),
    "no number of a process": (".a.12345678901234567890.part", 9, False),
}


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.parametrize(("form", "days", "goes"), LEFT.values(), ids=LEFT)
def test_what_is_left_goes_with_its_process(form: str, days: int, goes: bool, kind: str, tmp_path: Path, dead: int):
    own = os.getpid()
    name = form.format(ours=OURS, theirs=THEIRS, dead=dead, own=own, began=leftovers._began(own))
    path = tmp_path / "folder" / name
    path.parent.mkdir()
    (tmp_path / "kept").write_text("")
    if kind == "file":
        path.write_text("half")
    elif kind == "folder":
        path.mkdir()
        (path / "half").write_text("half")
    else:
        path.symlink_to(tmp_path / "kept")
    os.utime(path, (time.time() - 86400 * days,) * 2, follow_symlinks=False)
    tidy(path.parent)
    assert os.path.lexists(path) != goes
    assert (tmp_path / "kept").exists()


def test_a_hidden_name_says_whose_it_is(tmp_path: Path):
    with replacing(tmp_path / "a.json") as beside:
        assert beside.name.startswith(".a.json.")
        beside.touch()
    writer = leftovers.PART.search(beside.name).groups()
    assert writer == (leftovers._machine(), leftovers._began(os.getpid()), str(os.getpid()))


def test_a_machine_is_told_by_its_name_its_start_and_its_container(monkeypatch: pytest.MonkeyPatch):
    found = {leftovers._machine()}
    for owner, name in ((leftovers.platform, "node"), (leftovers.os, "readlink"), (leftovers.Path, "read_text")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_: "another")
            found.add(leftovers._machine.__wrapped__())
    assert len(found) == 4
    assert leftovers._machine.__wrapped__() in found


def test_a_process_that_has_ended_and_was_not_waited_for_is_gone():
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert leftovers._began(process.pid) is None


@pytest.mark.parametrize(
    ("error", "began"), [(None, "0"), (PermissionError(), "0"), (ProcessLookupError(), None)], ids=repr
)
def test_where_there_is_no_proc_a_process_is_asked_for(error, began, monkeypatch: pytest.MonkeyPatch):
    """So it is on macOS: nothing tells when a process began, only whether it is there."""

    def missing(_: object) -> bytes:
        raise FileNotFoundError

    def kill(process: int, number: int) -> None:
        assert (process, number) == (7, 0), "asks alone"
        if error:
            raise error

    monkeypatch.setattr(leftovers.Path, "read_bytes", missing)
    monkeypatch.setattr(leftovers.os.path, "exists", lambda _: False)
    monkeypatch.setattr(leftovers.os, "kill", kill)
    assert leftovers._began(7) == began
