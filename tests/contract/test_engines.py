"""Every engine keeps one contract: uint8 (B, H, W, 3) in, float32 (B, K, C) raw out, the same figures from all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from keylite.runtime.engines import ENGINES, open_engine
from keylite.runtime.predictor import Predictor

FILES = {"onnx": "onnx_file", "pytorch": "model_file"}


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(FILES[request.param])


def test_every_engine_is_held_to_the_contract():
    assert set(FILES) == set(ENGINES)


def test_raw_is_float32_of_batch_keypoints_channels(path: Path, crops: np.ndarray):
    engine, _, spec = open_engine(path)
    raw = engine(crops)
    assert raw.dtype == np.float32
    assert raw.shape == (len(crops), 4, spec.head.channels)
    assert np.isfinite(raw).all()
    assert raw.std(axis=0).min() > 1e-3, "another image must give other points, else the tests here mean nothing"


def test_batch_of_one_is_batch_of_many(path: Path, crops: np.ndarray):
    engine, _, _ = open_engine(path)
    one_by_one = np.concatenate([engine(crops[i : i + 1]) for i in range(len(crops))])
    assert np.abs(one_by_one - engine(crops)).max() < 1e-4  # measured 6e-8


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_figures(path: Path, crops: np.ndarray, threads: int):
    assert np.abs(open_engine(path, threads=threads)[0](crops[:2]) - open_engine(path)[0](crops[:2])).max() < 1e-4


def test_input_is_not_changed(path: Path, crops: np.ndarray):
    given = crops.copy()
    open_engine(path)[0](given)
    assert np.array_equal(given, crops)


def test_channels_are_rgb_in_the_last_axis(path: Path, crops: np.ndarray):
    engine, _, _ = open_engine(path)
    assert np.abs(engine(crops) - engine(np.ascontiguousarray(crops[..., ::-1]))).max() > 1e-3
    with pytest.raises(Exception, match=r"(?i)dimension|expected|channels"):
        engine(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))


def test_threads_below_one_are_refused(path: Path):
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        open_engine(path, threads=0)


def test_all_engines_give_the_same_points(onnx_file: Path, model_file: Path, crops: np.ndarray):
    raw = {name: open_engine(path)[0](crops) for name, path in (("onnx", onnx_file), ("pytorch", model_file))}
    assert np.abs(raw["onnx"] - raw["pytorch"]).max() < 1e-4  # unit; measured 1.6e-6
    image = np.random.default_rng(2).integers(0, 256, (90, 120, 3), np.uint8)
    boxes = [[10, 5, 80, 75], [-20, -10, 50, 60], [60, 30, 119, 89.5]]
    xy = {path: Predictor(path)(image, boxes).xy for path in (onnx_file, model_file)}
    assert np.abs(xy[onnx_file] - xy[model_file]).max() < 0.01
