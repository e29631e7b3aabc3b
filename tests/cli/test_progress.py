"""What a user sees while a command works: bars on a terminal, few plain lines elsewhere, nothing from Python."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import keylite
from keylite.cli import progress
from keylite.data.examples import Examples
from keylite.data.formats.reading import write_dataset
from keylite.runtime.progress import shown_by, spelt_time, step

TIMES = {0.4: "0 s", 99: "99 s", 100: "2 min", 3000: "50 min", 12_000: "3 h 20 min", 360_000: "100 h 00 min"}


@pytest.mark.parametrize(("seconds", "words"), TIMES.items())
def test_times_are_spelt(seconds: float, words: str):
    assert spelt_time(seconds) == words


def test_without_a_listener_a_step_is_silent(capfd):
    with step("work", 3) as done:
        done(1)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A time that passes only when this list is changed."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_are_few_and_say_what_is_left(clock, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    caplog.set_level(logging.INFO, "keylite")
    with shown_by(progress.lines), step("work", 100) as done:
        for _ in range(100):
            clock[0] += 1
            done(1)
    assert caplog.messages == [
        "work: 10 of 100, about 90 s left",
        "work: 20 of 100, about 80 s left",
        "work: 40 of 100, about 60 s left",
        "work: 80 of 100, about 20 s left",
    ]


def test_a_step_of_unknown_length_is_named(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    caplog.set_level(logging.INFO, "keylite")
    with shown_by(progress.lines), step("writing a.onnx"):
        pass
    assert caplog.messages == ["writing a.onnx"]


def test_what_tells(told_steps, onnx_file, tmp_path: Path):
    labels = write_dataset(keylite.gauges(3, size=64), tmp_path)
    dataset = keylite.read_dataset(labels).check_images()
    assert list(told_steps.values()) == [(3, 3), (3, 3)]
    assert [what.rpartition(" of ")[0] for what in told_steps] == ["writing the images", "reading the images"]
    told_steps.clear()
    keylite.evaluate(onnx_file, dataset, boxes=dataset.whole_boxes())
    keylite.benchmark([onnx_file], runs=3)
    memory = f"measuring the memory of {onnx_file}"
    assert told_steps.pop(memory) == (0, None)
    assert sorted(told_steps.values()) == [(3, 3), (6, 6)]


def test_the_time_of_a_step_of_unknown_length_goes_on(monkeypatch):
    third, drawn = threading.Event(), []

    class Drawing:
        add_task = remove_task = start = stop = lambda self, *_, **__: None

        def refresh(self) -> None:
            drawn.append(threading.current_thread())
            if len(drawn) == 4:
                third.set()

    monkeypatch.setattr(progress, "_progress", Drawing)
    monkeypatch.setattr(progress, "SOON", 0.001)
    with progress.Bars()("a file is written", None):
        assert third.wait(60)
    assert drawn[0] is threading.main_thread()
    assert drawn[1] is not threading.main_thread() and not drawn[1].is_alive()


ON_A_TERMINAL = """
import logging, sys, time
from keylite.cli import progress
from keylite.cli.output import Lines, Stderr
from keylite.runtime.progress import shown_by, step
progress.SOON = progress.OFTEN = -1.0
log = logging.getLogger("keylite")
log.addHandler(Stderr())
log.setLevel("INFO")
with shown_by(progress.show()), step("outer [bold]", 2) as outer:
    for _ in range(2):
        with step("inner", 3) as inner:
            inner(2)
        log.info("a line")
        outer(1)
print("result")
"""


def on_a_terminal(*command: str, kind: str = "xterm") -> tuple[str, str]:
    """(standard output, what the terminal got on standard error) of a command."""
    pty = pytest.importorskip("pty", reason="this system has no terminals to make")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=os.environ | {"TERM": kind, "COLUMNS": "100"}
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's end of a terminal
                break
            if not part:
                break
            seen += part
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, seen
    return out, seen.decode()


def test_a_terminal_sees_bars_and_lines_above_them():
    out, seen = on_a_terminal(sys.executable, "-c", ON_A_TERMINAL)
    assert out == "result\n"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert "outer [bold]" in plain and "inner" in plain and "1/2" in plain and "left:" in plain
    assert plain.count("a line\r\n") == 2, "by themselves, with the bars below them"


@pytest.mark.parametrize("kind", ["dumb", "unknown"])
def test_a_terminal_that_draws_nothing_sees_lines_alone(kind: str):
    assert on_a_terminal(sys.executable, "-c", ON_A_TERMINAL, kind=kind) == ("result\n", "a line\r\n" * 2)


def test_a_command_on_a_terminal_keeps_bars_out_of_its_output(onnx_file, tmp_path: Path):
    labels = write_dataset(keylite.gauges(3, size=64), tmp_path)
    command = [sys.executable, "-m", "keylite", "predict", str(onnx_file), str(labels.parent)]
    out, _ = on_a_terminal(*command, "--out", str(tmp_path / "points.json"))
    assert "3 objects in 3 images" in out
    assert "\x1b" not in out


def test_without_a_terminal_there_are_no_control_characters(onnx_file, tmp_path: Path):
    labels = write_dataset(keylite.gauges(3, size=64), tmp_path)
    command = [sys.executable, "-m", "keylite", "predict", str(onnx_file), str(labels.parent), "--out", "-"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stderr.replace("\n", "").isprintable()


def test_long_steps_before_training_are_told(tmp_path: Path, told_steps, monkeypatch):
    """Labels that take long to read, and the images that are kept decoded."""
    monkeypatch.setattr("keylite.data.formats.reading.LARGE", 100)
    labels = write_dataset(keylite.gauges(3, seed=1, size=48), tmp_path)
    data = keylite.read_dataset(labels)
    examples = Examples(data, (32, 32), cache=True)
    examples.keep_all()
    assert told_steps[f"reading {labels}"] == (0, None)
    assert told_steps["decoding the training images"] == (3, 3)
