"""Every engine keeps one contract: uint8 (B, H, W, 3) in, float32 (B, K, C) raw out, the same figures from all."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from keylite.runtime.engines import ENGINES, open_engine
from keylite.runtime.heads import HEADS
from keylite.runtime.modelfile import read_spec
from keylite.runtime.predictor import Predictor

FILES = {  # engine and head: fixture
    ("onnx", "regression"): "onnx_file",
    ("pytorch", "regression"): "model_file",
    ("onnx", "heatmap"): "heatmap_onnx_file",
    ("pytorch", "heatmap"): "heatmap_file",
}


@pytest.fixture(params=FILES, ids="-".join)
def path(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(FILES[request.param])


def test_every_engine_is_held_to_the_contract():
    assert set(FILES) == set(itertools.product(ENGINES, HEADS))


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


@pytest.mark.parametrize("head", HEADS)
def test_all_engines_give_the_same_points(head: str, request: pytest.FixtureRequest, crops: np.ndarray):
    paths = [request.getfixturevalue(name) for (_, of), name in FILES.items() if of == head]
    one, *others = [open_engine(path)[0](crops) for path in paths]
    for other in others:
        assert np.abs(one - other).max() < 1e-4 * np.abs(one).max()  # measured 6e-6
    image = np.random.default_rng(2).integers(0, 256, (90, 120, 3), np.uint8)
    boxes = [[10, 5, 80, 75], [-20, -10, 50, 60], [60, 30, 119, 89.5]]
    one, *others = [Predictor(path)(image, boxes) for path in paths]
    assert one.xy.std(axis=0).min() > 0.1
    for other in others:
        assert np.abs(one.xy - other.xy).max() < 0.01  # px; measured 2e-4
        np.testing.assert_allclose(one.score, other.score, rtol=1e-3)


def test_a_heatmap_graph_is_plain_too(heatmap_onnx_file: Path):
    onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
    proto = onnx.load(heatmap_onnx_file)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Resize") == 2, "coarse to fine, twice"
    assert not set(kinds) & {"BatchNormalization", "Loop", "If", "Scan", "Pad"}
    (raw,) = proto.graph.output
    assert [d.dim_param or d.dim_value for d in raw.type.tensor_type.shape.dim] == ["batch", 4, 64]
    assert read_spec(heatmap_onnx_file).head.grid == (8, 8)
