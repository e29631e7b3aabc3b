"""What nobody foresaw ends in one line, exit code 70 and a file; and no line quotes more than 200 characters of anything."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import keylite
from keylite.cli import main


def breaks(error: BaseException):
    def info(*_: object, **__: object) -> None:
        raise error

    return info


def nests(*_: object, **__: object) -> None:
    nests()


FAULTS = {
    "a slip": (breaks(KeyError("epoch")), "KeyError: 'epoch': this is a fault in keylite; the traceback is in "),
    "many lines": (breaks(RuntimeError("a\nb\x1b[0m")), r"RuntimeError: a b\x1b[0m: this is a fault in keylite;"),
    "no memory": (breaks(MemoryError("Unable to allocate 8 GB")), "the memory was not enough (MemoryError: Unable to"),
    "nesting": (nests, "something was nested too deeply (RecursionError: maximum recursion depth exceeded"),
    "a long one": (breaks(RuntimeError("x" * 9999)), f"RuntimeError: {'x' * 133}...{'x' * 50}: this is a fault in"),
}


@pytest.mark.parametrize(("info", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_line_and_a_file(info, words, keylite_command, tmp_path, monkeypatch):
    monkeypatch.setenv("KEYLITE_FAULTS", str(tmp_path))
    monkeypatch.setattr("keylite.runtime.modelfile.read_spec", info)
    ended = keylite_command("info", "a model.onnx")
    assert ended.code == 70
    assert ended.line.startswith(words)
    (file,) = tmp_path.iterdir()
    assert f"the traceback is in {file}; please report it" in ended.line
    text = file.read_text()
    assert f"keylite {keylite.__version__}, Python " in text
    assert "command: keylite info 'a model.onnx'" in text
    assert "Traceback (most recent call last):" in text
    assert os.getcwd() in text


def test_a_fault_whose_file_cannot_be_written_says_where_it_came_from(keylite_command, tmp_path, monkeypatch):
    monkeypatch.setenv("KEYLITE_FAULTS", str(tmp_path / "missing"))
    monkeypatch.setattr("keylite.runtime.modelfile.read_spec", breaks(KeyError("epoch")))
    ended = keylite_command("info", "model.onnx")
    assert ended.code == 70
    assert re.search(r"fault in keylite, from line \d+ of .*test_faults.py; the traceback cannot", ended.line)


@pytest.mark.parametrize("missing", ["keylite.runtime.modelfile", "numpy"])
def test_what_is_not_installed_is_no_fault(missing, keylite_command, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    for module in ("cli.info", "exporting.certificate", "exporting.drift"):  # which are then imported anew
        monkeypatch.delitem(sys.modules, f"keylite.{module}", raising=False)
    ended = keylite_command("info", "model.onnx")
    assert ended.code == 2
    assert missing in ended.line


WAYS = {
    "a module": ["-m", "keylite"],
    "the console script": ["-c", "import sys; from keylite.__main__ import main; sys.argv[0] = 'keylite'; main()"],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_both_ways_to_start_end_alike(way: list[str], tmp_path: Path):
    breaks = (
        "import keylite.runtime.modelfile as m\ndef read_spec(*_): raise KeyError('epoch')\nm.read_spec = read_spec"
    )
    (tmp_path / "sitecustomize.py").write_text(breaks)
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    ended = subprocess.run(
        [sys.executable, *way, "info", "model.onnx"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "KEYLITE_FAULTS": str(tmp_path)},
    )
    assert ended.returncode == 70
    assert ended.stderr.startswith("keylite: KeyError: 'epoch': this is a fault in keylite; the traceback is in ")
    assert len(ended.stderr.splitlines()) == 1


def test_the_console_script_is_the_module():
    import tomllib

    project = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["scripts"] == {"keylite": "keylite.__main__:main"}


# ---- ends that are asked for


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals that ask to end are not ignored, as they are under nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_asks_to_end_is_one_line(name, keylite_command, monkeypatch, heard):
    kept = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]

    def info(*_: object) -> None:
        os.kill(os.getpid(), getattr(signal, name))
        signal.pause()

    monkeypatch.setattr("keylite.runtime.modelfile.read_spec", info)
    ended = keylite_command("info", "model.onnx")
    assert (ended.code, ended.line) == (130, "stopped")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == kept


def test_a_signal_that_is_ignored_stays_so(keylite_command, monkeypatch):
    def info(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        raise ValueError("done")

    monkeypatch.setattr("keylite.runtime.modelfile.read_spec", info)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert keylite_command("info", "model.onnx").line == "done"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path):
    (tmp_path / "cyclopts.py").write_text("raise KeyboardInterrupt")
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    ended = subprocess.run(
        [sys.executable, "-m", "keylite"], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert (ended.returncode, ended.stderr) == (130, "keylite: stopped\n")


def test_output_that_nobody_reads_is_no_fault():
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as out:
        ended = subprocess.run([sys.executable, "-m", "keylite", "--version"], stdout=out, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_broken_pipe_of_something_else_is_said(keylite_command, monkeypatch):
    monkeypatch.setattr("keylite.runtime.modelfile.read_spec", breaks(BrokenPipeError(32, "Broken pipe")))
    ended = keylite_command("info", "model.onnx")
    assert (ended.code, ended.line) == (2, "[Errno 32] Broken pipe")


# ---- what is quoted


def test_nothing_is_quoted_at_length_and_nothing_moves_the_cursor(keylite_command, tmp_path):
    name = "long " * 40 + "\n\x1b[2J\u202e" + "x" * 9999
    for line in (
        keylite_command("info", f"{'x' * 3000}.onnx").line,
        keylite_command(name).line,
        keylite_command("train", "--data", "a.json", "--out", tmp_path, "--lr", name).line,
        keylite_command("train", "--data", "a.json", "--out", tmp_path, "--set", name).line,
        keylite_command("info", f"a\nb\x1b[2J{chr(0xDC80)}.onnx").line,
    ):
        assert len(line) < 1000
        assert line.isprintable()
        assert max(map(len, re.findall("x+", line)), default=0) <= 200


def test_names_in_log_lines_do_not_move_the_cursor(capsys, monkeypatch):
    def info(*_: object) -> None:
        logging.getLogger("keylite").warning("skipped: %s", "a\nb\x1b[2J")
        raise ValueError("done")

    monkeypatch.setattr("keylite.runtime.modelfile.read_spec", info)
    with pytest.raises(SystemExit):
        main(["info", "model.onnx"])
    assert capsys.readouterr().err.splitlines() == [r"warning: skipped: a\nb\x1b[2J", "keylite: done"]
