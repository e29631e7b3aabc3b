"""The short form of the fuzz passes; and the harness notices what it is there to notice: planted faults of each kind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cases
import damage
import page
import pytest
import run
from cases import Case, Outcome, faults_of, kind_of
from workers import Job, Record, run_cases

HERE = Path(__file__).parent


def test_the_short_form_finds_no_fault(tmp_path: Path):
    pytest.importorskip("torch", reason="needs keylite[pytorch]")
    command = [sys.executable, str(HERE / "run.py"), "--short", "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with open(tmp_path / "told.txt", "w+") as told:
        done = subprocess.run(
            command, stdout=told, stderr=subprocess.STDOUT, timeout=900, env=environment, cwd=tmp_path
        )
        told.seek(0)
        assert done.returncode == 0, told.read()[-5000:]


# ---- planted faults


def printed(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    raise SystemExit(code)


def grow() -> None:
    assert len(bytearray(600_000_000)) > 0  # bytes, touched


def spin() -> None:
    sum(range(20_000_000))


PLANTED = {  # name: (command, what the fault begins with; empty: none)
    "fine": (lambda: None, ""),
    "a refusal in one line": (lambda: printed("keylite: x: no", 2), ""),
    "an exception": (lambda: [][1], "exception: IndexError"),
    "another exit code": (lambda: printed("keylite: fault", 70), "exit code 70"),
    "a refusal without a line": (lambda: printed("", 2), "lines: "),
    "a refusal in two lines": (lambda: printed("keylite: a\nkeylite: b", 2), "lines: "),
    "a traceback and a line": (lambda: printed("Traceback (most recent call last)\nkeylite: b", 2), "traceback"),
    "an endless line": (lambda: printed("keylite: " + "x " * 3000, 2), "line: "),
    "a control character": (lambda: printed("keylite: \x1b[31m", 2), "control: "),
    "a library's words": (lambda: os.write(2, b"libtiff: bad\n"), "chatter: "),
    "much memory": (grow, "memory: "),
    "much time": (spin, "time: "),
    "a crash": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "death: the process ended with SIGSEGV"),
    "a file left over": (lambda: Path("there.part").write_text(""), "leftover: there.part"),
    "a file after a refusal": (
        lambda: (Path("out.json").write_text(""), printed("keylite: no", 2)),
        "leftover: out.json",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_noticed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEYLITE_FAULTS", str(tmp_path))
    command, expected = PLANTED[name]
    if command is spin:
        monkeypatch.setattr(cases, "CPU_SECONDS", 0.05)
    if command is grow:  # a gigabyte takes seconds to touch where the machine itself must ask for it
        monkeypatch.setattr(cases, "PEAK_BYTES", 10**8)
    job = Job("planted", lambda *_: Case(command, None, ("out.json",)), 0, tmp_path, tmp_path / "kept")
    (record,) = run_cases(job, [3], 1)
    assert record.number == 3
    assert [fault[: len(expected)] for fault in record.faults] == ([expected] if expected else [])
    assert (tmp_path / "kept" / "planted-0-3" / "CASE.txt").is_file() == bool(expected)


def test_a_worker_that_died_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEYLITE_FAULTS", str(tmp_path))

    def make(rng: random.Random, seeds: Path, folder: Path) -> Case:
        return Case(lambda: os._exit(9) if rng.random() < 0.3 else None)

    records = list(run_cases(Job("planted", make, 0, tmp_path), range(12), 2))
    assert sorted(record.number for record in records) == list(range(12))
    assert 0 < sum(record.faults == ["death: the process ended with exit code 9"] for record in records) < 12


def test_time_counts_above_the_undamaged_command():
    slow, usual, case = Outcome(0, cpu=9.0), Outcome(0, cpu=3.5), Case([])
    assert [kind_of(fault)[:5] for fault in faults_of(slow, usual, [], case)] == ["time:"]
    assert faults_of(slow, Outcome(0, cpu=4.5), [], case) == []


def test_parts_of_kills_are_all_of_them():
    assert run.parts_of(range(3, 10), 2) == [range(3, 6), range(6, 10)]
    assert run.parts_of(range(0, 1), 2) == [range(0, 0), range(0, 1)]


def test_a_run_that_is_stopped_keeps_what_it_showed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any):
    def some(_: Job, numbers: range, workers: int) -> Iterator[Record]:
        yield Record(0, "x", 70, ["exit code 70: a fault"], {})
        os.kill(os.getpid(), signal.SIGTERM)
        yield Record(1, "x", 0, [], {})

    monkeypatch.setenv("KEYLITE_FAULTS", "")  # main sets it; it is as before afterwards
    monkeypatch.setattr(run, "prepare", lambda: None)
    monkeypatch.setattr(run, "all_seeds", lambda *_: None)
    monkeypatch.setattr(run, "run_cases", some)
    monkeypatch.setattr(run, "KEPT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "--kinds", "flags,labels", "--write"])
    before, page_before = signal.getsignal(signal.SIGTERM), page.PAGE.read_text(encoding="utf-8")
    try:
        with pytest.raises(SystemExit) as ended:
            run.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    told = capsys.readouterr().out
    assert ended.value.code == 130
    assert "flags:0:0  exit code 70: a fault" in told
    assert "| flags | 1 | 0% | 0% | 1 |" in told
    assert "labels" not in told
    assert page.PAGE.read_text(encoding="utf-8") == page_before


# ---- damage


def test_the_same_seed_makes_the_same_damage():
    tree = {"a": [1, 2.5, {"b": "text"}], "c": None}

    def made(seed: int) -> list[object]:
        rng = random.Random(seed)
        return [damage.dumped(rng, damage.mutate_tree(rng, tree, 3)), damage.mutate_bytes(rng, bytes(1000), 5)]

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_damage_changes_nearly_every_file_and_stays_within_its_limits():
    rng, data = random.Random(0), bytes(range(256)) * 4
    changed = [damage.mutate_bytes(rng, data, 1, 100, 200) for _ in range(300)]
    assert sum(one != data for one in changed) > 250
    assert all(one[:100] == data[:100] for one in changed)


# ---- the page


def test_the_page_keeps_what_is_outside_its_marks():
    records = {
        "pictures": [Record(0, "png", 0, [], {"accepted": "near"}), Record(1, "png", 2, [], {}, 1.5, 3_000_000)],
        "kills": [Record(0, "train", 0, ["x"], {"signal": "SIGKILL", "ended": False, "went on": 1})],
    }
    text = page.figures(records, 7, 61.0)
    assert "| pictures | 2 | 50% | 50% | 0 | 1.50 | 3 |" in text
    assert "| png | 2 | 1 | 0 | 1 | 0 | 0 | 0 |" in text
    assert "| train | 1 | 1 | 0 | 0 | 0 | 1 | 0 | 1 |" in text
    made = page.with_figures(f"before {page.START} old {page.END} after", text)
    assert made.startswith("before")
    assert made.endswith("after")
    assert " old " not in made
    with pytest.raises(ValueError, match="marks"):
        page.with_figures("no marks", text)


def test_reliability_page_has_its_marks():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.with_figures(text, "x") != text
