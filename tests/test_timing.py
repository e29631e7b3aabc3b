"""An export's time is its own, not that of what else the machine does."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

from keylite import timing


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
        lambda path, threads: SimpleNamespace(
            spec=SimpleNamespace(size=(8, 8)), engine=lambda pixels: clocks.run(work[path], work[path] + next(wait))
        ),
    )
    assert timing.engine_ratio("a.onnx", "b.onnx", runs=5) == pytest.approx((3.0, 1.5))
