"""Where output goes if its name is a link, a device, a pipe or a folder; and what killed processes left."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from keylite.data.boxes import read_boxes
from keylite.data.formats.reading import read_dataset
from keylite.runtime import files, leftovers
from keylite.runtime.files import (
    is_standard_output,
    replacing,
    replacing_within,
    require_outputs,
    require_writable,
    write_bytes,
    write_text,
    write_together,
)
from keylite.runtime.images import image_size, read_image
from keylite.runtime.leftovers import tidy
from keylite.runtime.texts import read_json, read_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_link_to_itself_is_refused_by_its_name(tmp_path: Path) -> None:
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    assert not is_standard_output(loop)
    with pytest.raises(OSError, match=r"json: .*loop\.json: cannot write this file: Too many levels"):
        require_outputs({"json": loop})


# ---- devices and pipes


def test_a_device_is_written_to_and_stays(null: Path):
    write_text(null, "points")
    with replacing(null) as beside:
        beside.write_bytes(b"x" * 100_000)
    assert stat.S_ISCHR(null.stat().st_mode)
    assert names(null.parent) == ["null"]


def test_a_device_gets_nothing_of_what_fails(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def fail() -> None:
        with replacing(pipe) as beside:
            beside.write_text("half")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert names(tmp_path) == ["pipe"]


def test_a_pipe_gets_all_bytes(tmp_path: Path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"x" * 300_000)
    reader.join()
    assert read == [b"x" * 300_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/{pid}/fd/{}", "link"])
def test_an_open_file_is_written_to_from_where_it_stands(form: str, tmp_path: Path):
    if not os.path.exists(form.format(0, pid=os.getpid())) and form != "link":
        pytest.skip("this system has no such names")
    with open(tmp_path / "out", "wb", buffering=0) as file:
        file.write(b"first, ")
        place = Path(form.format(file.fileno(), pid=os.getpid()))
        if form == "link":
            place = tmp_path / "link"
            place.symlink_to(f"/dev/fd/{file.fileno()}")
        write_bytes(place, b"second, ")
        file.write(b"third")
    assert (tmp_path / "out").read_bytes() == b"first, second, third"


def test_which_open_file_is_standard_output():
    names = {name: is_standard_output(f"/dev/fd/{name}") for name in (0, 1, 2, 11)}
    assert names == {0: False, 1: True, 2: False, 11: False}
    assert is_standard_output(f"/proc/{os.getpid()}/fd/1")
    assert not is_standard_output(f"/proc/{os.getppid()}/fd/1"), "another process's"


@pytest.mark.parametrize("mode", ["rb", "wb", "r+b"])
def test_an_open_file_has_to_be_open_for_writing(mode: str, tmp_path: Path):
    (tmp_path / "a").touch()
    with open(tmp_path / "a", mode) as file:
        place = f"/dev/fd/{file.fileno()}"
        if mode == "rb":
            with pytest.raises(OSError, match=f"^json: {place}: cannot write this file: it is open only for reading$"):
                require_outputs({"json": place})
        else:
            require_outputs({"json": place})


def test_what_was_printed_before_comes_before(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    with open(os.dup(1), "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        out.write("first, ")
        write_text("/dev/fd/1", "second, ")
        monkeypatch.setattr(sys, "stdout", None)  # as in a window without a console
        write_text("/dev/fd/1", "third")
    assert capfd.readouterr().out == "first, second, third"


# ---- links


def test_a_link_is_followed(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/target").write_text("old")
    (tmp_path / "link").symlink_to("deep/target")
    (tmp_path / "link of a link").symlink_to(tmp_path / "link")
    with replacing(tmp_path / "link of a link") as beside:
        beside.write_text("new")
        assert beside.parent == tmp_path / "deep", "on the disk of the target"
    assert (tmp_path / "deep/target").read_text() == "new"
    assert (tmp_path / "link of a link").is_symlink() and (tmp_path / "link").is_symlink()
    assert names(tmp_path / "deep") == ["target"]


def test_a_link_that_leads_nowhere_gets_its_target(tmp_path: Path):
    (tmp_path / "link").symlink_to("new/target")
    (tmp_path / "folder").symlink_to("another/new")
    write_text(tmp_path / "link", "1")
    with replacing_within(tmp_path / "folder") as inside:
        (inside / "a").write_text("2")
    assert (tmp_path / "new/target").read_text() == "1"
    assert (tmp_path / "another/new/a").read_text() == "2"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "folder").is_symlink()


def test_links_in_a_circle_are_one_line(tmp_path: Path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="a: cannot write this file: Too many levels of symbolic links"):
        write_text(tmp_path / "a", "1")
    with pytest.raises(OSError, match="out: .*a: cannot write this file: Too many levels of symbolic links"):
        require_outputs({"out": tmp_path / "a"})
    with pytest.raises(OSError, match="cannot write to this folder: .* is a link that leads to itself"):
        require_writable(tmp_path / "a")
    assert names(tmp_path) == ["a", "b"]


# ---- files that are there


def test_the_mode_of_a_file_is_kept(tmp_path: Path):
    path = tmp_path / "a"
    path.write_text("old")
    for mode in (0o600, 0o664, 0o755):
        path.chmod(mode)
        write_text(path, "new")
        assert stat.S_IMODE(path.stat().st_mode) == mode
        with replacing_within(tmp_path) as inside:
            (inside / "a").write_text("newer")
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_usual_mode(tmp_path: Path):
    (tmp_path / "usual").touch()
    write_text(tmp_path / "new", "1")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    "name", ["x" * 250, "大" * 80 + ".safetensors", "." + "y" * 200 + "." + "z" * 50, "-", "a b\n"]
)
def test_any_name_that_a_disk_takes_can_be_written(name: str, tmp_path: Path):
    write_text(tmp_path / name, "1")
    assert names(tmp_path) == [name]


# ---- refused before work


def refusals(tmp_path: Path) -> dict[str, tuple[dict, str]]:
    there = tmp_path / "there"
    return {
        "a folder": ({"json": tmp_path}, f"json: expected the name of a file, got the folder {tmp_path}"),
        "below a file": ({"json": there / "a"}, f"{there}: cannot write to this folder: {there} is a file"),
        "twice": ({"json": tmp_path / "a", "plot": tmp_path / "a"}, "is the file of `json`, too; give each a file of"),
        "twice, by a link": ({"json": tmp_path / "link", "plot": there}, f"plot: {there} is the file of `json`, too"),
        "twice, by another way": (
            {"json": tmp_path / "a", "plot": tmp_path / "folder/../a"},
            "is the file of `json`, too",
        ),
        "an input": ({"json": tmp_path / "input"}, "is the file of `model`, too"),
        "an input, by a link": ({"json": tmp_path / "to input"}, "is the file of `model`, too"),
        "closed": ({"json": Path("/dev/fd/987")}, "json: /dev/fd/987: cannot write this file: Bad file descriptor"),
    }


@pytest.mark.parametrize("folder", ["a", "folder/../a", "a/b"])
def test_a_file_where_there_is_to_be_a_folder_is_refused(folder: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"^draw: .* is or lies in the file of `json`; name another"):
        require_outputs({"json": tmp_path / "a"}, folders={"draw": tmp_path / folder})
    require_outputs({"json": tmp_path / "a"}, folders={"page": None, "draw": tmp_path})
    assert names(tmp_path) == []


@pytest.mark.parametrize("case", refusals(Path()))
def test_what_cannot_be_written_is_refused_before_work(case: str, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    for name in ("there", "input"):
        (tmp_path / name).write_text("old")
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "to input").symlink_to("input")
    before = names(tmp_path)
    outputs, words = refusals(tmp_path)[case]
    with pytest.raises((ValueError, OSError), match=re.escape(words)):
        require_outputs(outputs, {"model": tmp_path / "input", "boxes": None})
    assert names(tmp_path) == before


def test_what_can_be_written_is_not_refused(tmp_path: Path, null: Path):
    (tmp_path / "dangling").symlink_to("new/target")
    require_outputs({"a": tmp_path / "a", "b": tmp_path / "dangling", "c": None, "d": tmp_path / "new/deep/d"})
    require_outputs({"a": null, "b": null})
    assert names(tmp_path) == ["dangling", "null"]


def test_a_file_that_is_read_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").write_text("old")
    access = os.access
    monkeypatch.setattr(files.os, "access", lambda path, mode: path != tmp_path / "a" and access(path, mode))
    with pytest.raises(OSError, match="json: .*a: cannot write this file: it is read-only"):
        require_outputs({"json": tmp_path / "a"})


def test_a_folder_that_is_read_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    words = f"cannot write to this folder: {re.escape(str(tmp_path))} is not writable$"
    for refused in (lambda: require_writable(tmp_path / "new"), lambda: require_outputs({"json": tmp_path / "new/a"})):
        with pytest.raises(OSError, match=words):
            refused()


# ---- several files


def test_files_that_belong_together_appear_in_order_when_all_are_written(tmp_path: Path, monkeypatch):
    renamed = []
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda old, new: (renamed.append(Path(new).name), replace(old, new)))
    write_together({tmp_path / name: name.encode() for name in ("page", "certificate", "model")})
    assert renamed == ["page", "certificate", "model"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in renamed}


@pytest.mark.parametrize("full", ["page", "certificate", "model"])
def test_of_files_that_belong_together_a_full_disk_leaves_none(full: str, tmp_path: Path, monkeypatch):
    write = Path.write_bytes

    def fills(self: Path, data: bytes) -> None:
        write(self, data[:2])
        if data == full.encode():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "model").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", fills)
    with pytest.raises(OSError, match=f"{full}: cannot write this file: No space left on device$"):
        write_together({tmp_path / name: name.encode() for name in ("page", "certificate", "model")})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model": "old"}


# ---- what killed processes left

KILLED = """
import os, signal, sys
from pathlib import Path
from keylite.runtime.files import replacing, replacing_within
place = Path(sys.argv[1])
with replacing_within(place / "new"), replacing(place / "a.onnx") as beside, replacing_within(place) as inside:
    beside.write_text("half")
    (inside / "b").write_text("half")
    print("ready", flush=True)
    sys.stdin.read() if sys.argv[2] == "lives" else os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "write",
    ["a file", "files of a folder", "files of a folder in it", "files of a folder in it that is there by now"],
)
def test_the_next_write_tidies_up_after_a_killed_process(write: str, tmp_path: Path, monkeypatch):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "dies"], capture_output=True).returncode < 0
    assert len(names(tmp_path)) == 3
    monkeypatch.setattr(leftovers, "_tidied", set())
    if write == "a file":
        write_text(tmp_path / "c", "1")
    elif write == "files of a folder in it":
        with replacing_within(tmp_path / "c"):
            pass
    elif write == "files of a folder in it that is there by now":
        (tmp_path / "c").mkdir()
        with replacing_within(tmp_path / "c"):
            pass
    else:
        with replacing_within(tmp_path) as inside:
            (inside / "c").write_text("1")
    assert names(tmp_path) == ["c"]


def test_nothing_of_a_living_process_is_removed(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), "lives"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as lives:
        assert lives.stdout.readline() == b"ready\n"
        tidy(tmp_path)
        assert len(names(tmp_path)) == 3
        lives.stdin.close()
    assert names(tmp_path) == ["a.onnx", "b", "new"]


def test_two_writers_of_one_file_have_names_of_their_own(tmp_path: Path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as two:
        assert one != two
        one.write_text("1")
        two.write_text("2")
    assert names(tmp_path) == ["a"]


def test_a_folder_is_looked_through_once(tmp_path: Path, monkeypatch):
    looked = []
    monkeypatch.setattr(leftovers, "_tidied", set())
    monkeypatch.setattr(leftovers, "tidy", looked.append)
    for name in "abc":
        write_text(tmp_path / name, "1")
    assert looked == [tmp_path]


PIPES = {  # what is read: the read and how its line begins
    "picture": (read_image, "expected an image file"),
    "size": (image_size, "expected an image file"),
    "labels": (read_dataset, "expected a label file or a folder of labels"),
    "JSON": (read_json, "expected a file"),
    "text": (lambda path: read_text(path, 9), "expected a file"),
    "boxes": (read_boxes, "expected a file"),
    "recipe": (lambda path: pytest.importorskip("keylite.training.recipe_file").read_recipe(path), "expected a file"),
}


@pytest.mark.parametrize(("read", "words"), PIPES.values(), ids=PIPES)
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(read, words: str, kind: str, tmp_path: Path):
    path = Path(os.devnull) if kind == "a device" else tmp_path / "it"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    with pytest.raises(ValueError) as caught:
        read(path)
    hint = "; write it to a file first" if kind == "a pipe" else ""
    line = f"{words}, got {kind}{hint}" if (read, kind) != (read_dataset, "a folder") else "no labels were recognised"
    assert str(caught.value).startswith(f"{path}: {line}")


def test_a_picture_of_labels_that_is_a_pipe_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("file,x0,y0\na.png,1,2\n")
    with pytest.raises(ValueError, match=r"a\.png: expected an image file, got a pipe; write it to a file first"):
        read_dataset(tmp_path / "labels.csv").check_images()


def test_an_error_names_the_folder_and_not_the_hidden_one(tmp_path: Path):
    shown = f"^{re.escape(str(tmp_path / 'new'))}/a.png: cannot write this file: full$"
    with pytest.raises(OSError, match=shown), replacing_within(tmp_path / "new") as inside:
        raise OSError(f"{inside}/a.png: cannot write this file: full")
    assert names(tmp_path) == []
