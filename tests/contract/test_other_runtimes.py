"""Exported `.onnx` files give the same points in other runtimes: OpenVINO, ncnn, MNN and tract.

The code that opens them is `benchmarks/others.py`; docs/targets.md shows the same calls.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import others
import pytest
from others import OTHERS, engine_of, missing

from keylite.data.dataset import Dataset
from keylite.exporting.drift import point_drift
from keylite.runtime.modelfile import read_spec
from keylite.runtime.predictor import Predictor

FLOAT = 0.02  # px of p95 that float32 may move points; at most 0.0004 was measured
INT8 = 1.3  # times the p95 of ONNX Runtime, for int8; 0.98 (OpenVINO) and 1.00 (tract) were measured


@pytest.fixture(scope="module", params=OTHERS)
def runtime(request: pytest.FixtureRequest) -> str:
    if name := missing(request.param):
        pytest.skip(f"needs the package {name}")
    return request.param


def drift_p95(theirs: Predictor, parent: Path, pixels: np.ndarray) -> float:
    """How far another runtime's points lie from those of a predictor on the parent, p95, px of the input."""
    ours = Predictor(parent).run(pixels)[0]
    assert ours.std(axis=0).max() > 1e-3, "another image must give other points"
    return float(np.percentile(point_drift(theirs.run(pixels)[0], ours, theirs.spec.size), 95))


def other(runtime: str, path: Path, folder: Path) -> Predictor:
    """A predictor of a file in another runtime."""
    return Predictor.of(engine_of(runtime, path, folder), read_spec(path))


def test_a_heatmap_in_floats_keeps_its_points(runtime, float_heatmap_file, heatmap_file, crops, tmp_path: Path):
    assert drift_p95(other(runtime, float_heatmap_file, tmp_path), heatmap_file, crops) < FLOAT


def test_a_regression_in_floats_keeps_its_points(runtime, float_file, model_file, crops, tmp_path: Path):
    assert drift_p95(other(runtime, float_file, tmp_path), model_file, crops) < FLOAT


def test_int8_moves_points_no_further_than_in_onnx_runtime(
    runtime, exported_finder, finder_file, make_colours, tmp_path: Path
):
    if "int8" not in OTHERS[runtime].precisions:
        pytest.skip(f"{runtime} does not take int8 files of ONNX")
    data: Dataset = make_colours(32, 9)
    pixels = np.stack([data.read_image(row) for row in range(len(data))])
    path = exported_finder("onnx", "int8", input_type="float32")
    usual = drift_p95(Predictor(path), finder_file, pixels)
    assert drift_p95(other(runtime, path, tmp_path), finder_file, pixels) < INT8 * usual


def test_no_image_gives_no_points(runtime, float_heatmap_file, crops, tmp_path: Path):
    assert engine_of(runtime, float_heatmap_file, tmp_path)(crops[:0]).shape == (0, 4, 64)


def test_a_converter_that_fails_is_said(float_heatmap_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failed = subprocess.CompletedProcess([], 1, "no such operator", "")
    monkeypatch.setattr(others.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match="ended with 1: no such operator$"):
        others.open_mnn(float_heatmap_file, tmp_path)
