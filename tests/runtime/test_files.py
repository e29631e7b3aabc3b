"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
from pathlib import Path

import pytest

from keylite.runtime import files as module
from keylite.runtime.files import replacing, replacing_within, sha256, write_text


def test_sha256_is_of_the_bytes(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


# ---- writing


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_write_replaces_and_makes_folders(tmp_path: Path):
    path = tmp_path / "new" / "deep" / "a.txt"
    write_text(path, "first")
    write_text(path, "zweite \N{LATIN SMALL LETTER SHARP S}")
    assert files(path.parent) == {"a.txt": "zweite \N{LATIN SMALL LETTER SHARP S}"}


def test_until_the_end_the_old_file_is_there(tmp_path: Path):
    path = tmp_path / "a.onnx"
    path.write_text("old")
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
        assert beside.suffix == path.suffix, "writers choose the format by it"
    assert files(tmp_path) == {"a.onnx": "new"}


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1), OSError(errno.EIO, "x")], ids=repr
)
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path, error: BaseException):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert files(tmp_path) == {"a.txt": "old"}


def test_a_full_disk_is_said_with_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> None:
        write(self, data[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=rf"^{re.escape(str(path))}: cannot write this file: No space left on device$"):
        write_text(path, "new")
    assert files(tmp_path) == {"a.txt": "old"}


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*arguments) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(module.os, "replace", refused)
    with pytest.raises(OSError, match=r"a\.txt: cannot write this file: Permission denied"):
        write_text(tmp_path / "a.txt", "new")
    assert files(tmp_path) == {}


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match=r"file: cannot make this folder: (File exists|Not a directory)"):
        write_text(tmp_path / "file" / "a.txt", "new")
    with pytest.raises(OSError, match=r"/file: cannot make this folder: "), replacing_within(tmp_path / "file" / "new"):
        pass
    assert files(tmp_path) == {"file": "old"}


def test_a_folder_is_no_file(tmp_path: Path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="a: cannot write this file"):
        write_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# ---- several files


def test_files_of_a_folder_appear_together(tmp_path: Path):
    folder = tmp_path / "new" / "deep"
    with replacing_within(folder) as inside:
        (inside / "a").write_text("1")
        (inside / "b").write_text("2")
        assert not folder.exists()
        assert inside.parent == folder.parent
        made = inside.stat().st_ino
    assert folder.stat().st_ino == made, "at once: by another name"
    with replacing_within(folder) as inside:
        (inside / "b").write_text("3")
    assert files(folder) == {"a": "1", "b": "3"}


@pytest.mark.parametrize("there", [True, False], ids=["a folder that is there", "a new one"])
def test_of_files_that_fail_nothing_is_left(there: bool, tmp_path: Path):
    folder = tmp_path / "new" / "deep"
    if there:
        write_text(folder / "a", "old")

    def write() -> None:
        with replacing_within(folder) as inside:
            (inside / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert files(folder) == {"a": "old"} if there else list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_else_uses_by_now_stays(tmp_path: Path):
    def write() -> None:
        with replacing_within(tmp_path / "new" / "deep"):
            (tmp_path / "new" / "theirs").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert files(tmp_path / "new") == {"theirs": "1"}


def test_files_go_into_a_folder_that_somebody_else_makes_meanwhile(tmp_path: Path):
    with replacing_within(tmp_path / "new") as inside:
        (inside / "a").write_text("1")
        write_text(tmp_path / "new" / "theirs", "2")
    assert files(tmp_path / "new") == {"a": "1", "theirs": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_for_the_last_of_files_that_move_together(number: int, tmp_path: Path, monkeypatch):
    def stops(source: Path, place: Path, original=os.replace) -> None:
        signal.raise_signal(number)
        original(source, place)

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    def write() -> None:
        with replacing_within(tmp_path) as inside:
            for name in "abc":
                (inside / name).write_text(name)
            monkeypatch.setattr(os, "replace", stops)

    before = signal.signal(number, stop)
    try:
        with pytest.raises(KeyboardInterrupt, match=str(int(number))):
            write()
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert files(tmp_path) == {"a": "a", "b": "b", "c": "c"}


def test_a_signal_between_two_folders_leaves_neither(tmp_path: Path, monkeypatch):
    made = module.make_folder
    monkeypatch.setattr(module, "make_folder", lambda path: (made(path), signal.raise_signal(signal.SIGINT)))

    def write() -> None:
        with replacing_within(tmp_path / "new" / "deep"):
            raise AssertionError("it was to end before")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []
