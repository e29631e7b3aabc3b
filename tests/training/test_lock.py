"""A folder is held by one process at a time, and by none once that one has ended."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keylite.runtime.forks import in_forks
from keylite.training import lock
from keylite.training.lock import LOCK, holding, require_free

HOLDER = """
import os, sys, time
from pathlib import Path
from keylite.training.lock import holding
with holding(Path(sys.argv[1])):
    child = os.fork() if sys.argv[2] == "fork" else 1
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_lock_ends_with_a_killed_process_and_its_children_do_not_hold_it(how: str, tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), how], stdout=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        words = re.escape(f"{tmp_path}: another run writes to this folder (process {process.pid} on ")
        try:
            for refused in (require_free, lambda folder: holding(folder).__enter__()):
                with pytest.raises(ValueError, match=f"^{words}"):
                    refused(tmp_path)
            process.kill()
            process.wait()
            require_free(tmp_path)
            with holding(tmp_path):
                pass
        finally:
            process.kill()
            if how == "fork":
                os.kill(child, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_held_against_this_process_too_and_then_free(tmp_path: Path):
    with holding(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()} on "), holding(tmp_path):
        pass
    with holding(tmp_path):
        assert (tmp_path / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The files that `os.open` opens in this test."""
    numbers: list[int] = []
    real = os.open

    def noted(*arguments, **options) -> int:
        numbers.append(real(*arguments, **options))
        return numbers[-1]

    monkeypatch.setattr(lock.os, "open", noted)
    return numbers


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_a_lock_that_is_given_back_or_refused_leaves_no_file_open(tmp_path: Path, opened: list[int]):
    (tmp_path / LOCK).write_text("process 12345678 on a machine of a long name\n" * 9)
    with holding(tmp_path):
        assert re.fullmatch(rf"process {os.getpid()} on \S+\n", (tmp_path / LOCK).read_text()), "no line but this one"
        for refused in (require_free, lambda folder: holding(folder).__enter__()):
            with pytest.raises(ValueError, match="another run writes"):
                refused(tmp_path)
        assert len(opened) == 3
        assert [number for number in set(opened) if is_open(number)] == opened[:1]
    assert not is_open(opened[0])
    assert lock._held == set(), "a fork closes what is in it"


def test_a_lock_of_a_moment_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever looks at a lock holds it meanwhile."""
    pauses: list[float] = []
    other = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    monkeypatch.setattr(lock.time, "sleep", pauses.append)
    with pytest.raises(ValueError, match=r"another run writes to this folder \(another process\)"):
        require_free(tmp_path)
    assert len(pauses) == lock.TRIES - 1
    monkeypatch.setattr(lock.time, "sleep", lambda _: os.close(other))
    require_free(tmp_path)


def test_folders_made_for_nothing_go_and_others_stay(tmp_path: Path):
    with holding(tmp_path / "a/b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with holding(tmp_path / "a/b"):
        (tmp_path / "a/b/model").write_text("")
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["model"]
    require_free(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_lock_removed_by_its_holder_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch, opened: list[int]):
    calls = []

    def flock(file: int, kind: int) -> None:
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with holding(tmp_path):
        assert len(calls) == 2
        assert [number for number in set(opened) if is_open(number)] == opened[1:]
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} ")


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch, caplog):
    def flock(file: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(fcntl, "flock", flock)
    with holding(tmp_path):
        pass
    assert "this file system has no locks (No locks available)" in caplog.text
    assert lock.TRIES > 1


def test_a_system_without_locks_and_forks_removes_the_file_once_it_is_closed(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delattr(os, "register_at_fork")
    in_forks.cache_clear()
    unlink = Path.unlink

    def unlink_closed(path: Path) -> None:
        with contextlib.suppress(OSError):
            os.fstat(file)
            raise AssertionError("Windows removes no open file")
        unlink(path)

    monkeypatch.setattr(Path, "unlink", unlink_closed)
    with holding(tmp_path):
        (file,) = lock._held
    assert list(tmp_path.iterdir()) == []
    in_forks.cache_clear()  # what was asked for here is not done
