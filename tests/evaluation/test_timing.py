"""An export's time is its own, not that of what else the machine does; engines of the caller are timed, too."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import keylite
from keylite.evaluation import timing


class Clocks:
    """Time that passes, of which a thread has had a part."""

    passed = worked = 0.0

    def run(self, worked: float, passed: float) -> None:
        self.worked, self.passed = self.worked + worked, self.passed + passed


@pytest.mark.skipif(os.name == "nt", reason="Windows counts CPU time by 16 ms")
def test_time_in_which_others_work_does_not_count(monkeypatch: pytest.MonkeyPatch):
    clocks, wait = Clocks(), iter(np.random.default_rng(0).uniform(0, 1, 99).tolist())
    monkeypatch.setattr(
        timing, "time", SimpleNamespace(thread_time=lambda: clocks.worked, perf_counter=lambda: clocks.passed)
    )
    work = {"a.onnx": 0.003, "b.onnx": 0.002}
    monkeypatch.setattr(
        timing,
        "Predictor",
        lambda path, threads, engine=None: SimpleNamespace(
            spec=SimpleNamespace(size=(8, 8)), engine=lambda pixels: clocks.run(work[path], work[path] + next(wait))
        ),
    )
    assert timing.engine_ratio("a.onnx", "b.onnx", runs=5) == pytest.approx((3.0, 1.5))


def test_a_process_that_is_killed_as_its_memory_is_measured_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.CompletedProcess([], -9, b"", b"")
    monkeypatch.setattr(timing.subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(OSError, match="^a.onnx: the process that measures its memory was killed by SIGKILL; if memory"):
        timing._memory("a.onnx", "onnx", 1, None, b"")


def test_an_image_that_is_none_is_told_by_its_name(tmp_path: Path) -> None:
    notes = tmp_path / "notes.py"
    with pytest.raises(FileNotFoundError, match=f"^{notes}: no such image file$"):
        timing.benchmark(["a.onnx"], image=notes)
    notes.write_text("import this")
    with pytest.raises(ValueError, match=f"^{notes}: not an image"):
        timing.benchmark(["a.onnx"], image=notes)


def test_engines_of_the_caller_take_turns_with_files(onnx_file: Path):
    file, seen = keylite.Predictor(onnx_file), []

    def engine(pixels: np.ndarray) -> np.ndarray:
        seen.append(pixels.shape)
        return file.engine(pixels)

    times = keylite.benchmark([onnx_file], runs=3, others={"mine": keylite.Predictor.of(engine, file.spec)})
    assert seen == [(1, 64, 64, 3)] * 6  # three warm up
    mine = times.models["mine"]
    assert list(times.models) == [str(onnx_file), "mine"]
    assert (mine.engine, mine.size, mine.bytes, mine.memory) == ("memory", (64, 64), None, None)
    assert 0 < mine.ms["engine"].median < mine.ms["total"].median


OTHERS = {
    "a list": (["mine"], "others: expected predictors by name, got a list; such as"),
    "a path": ({"mine": "a.onnx"}, "others: 'mine': expected a predictor, got a text; make one with"),
    "a number for a name": ({3: None}, "others: expected a text for each name, got "),
}


@pytest.mark.parametrize(("others", "words"), OTHERS.values(), ids=OTHERS)
def test_others_are_predictors_by_name(others: object, words: str, onnx_file: Path):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        keylite.benchmark([onnx_file], others=others)


def test_another_engine_has_a_name_of_its_own(onnx_file: Path):
    predictor = keylite.Predictor(onnx_file)
    with pytest.raises(ValueError, match="is also the name of a model file; choose another name$"):
        keylite.benchmark([onnx_file], others={str(onnx_file): predictor})
