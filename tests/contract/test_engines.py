"""Every engine keeps one contract: uint8 (B, H, W, 3) in, float32 (B, K, C) raw out, the same figures from all."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from keylite.runtime.engines import ENGINES, Engine, open_engine
from keylite.runtime.heads import HEADS
from keylite.runtime.modelfile import read_spec
from keylite.runtime.packages import FRAMEWORKS
from keylite.runtime.predictor import Predictor

FILES = {  # engine and head: fixture, exported or to be exported by keylite.export
    ("onnx", "regression"): "onnx_file",
    ("litert", "regression"): "litert_file",
    ("litert-reference", "regression"): "litert_file",
    ("pytorch", "regression"): "model_file",
    ("tensorflow", "regression"): "model_file",
    ("onnx", "rle"): "rle_file",
    ("litert", "rle"): "rle_file",
    ("litert-reference", "rle"): "rle_file",
    ("pytorch", "rle"): "rle_file",
    ("tensorflow", "rle"): "rle_file",
    ("onnx", "simcc"): "simcc_file",
    ("litert", "simcc"): "simcc_file",
    ("litert-reference", "simcc"): "simcc_file",
    ("pytorch", "simcc"): "simcc_file",
    ("tensorflow", "simcc"): "simcc_file",
    ("onnx", "heatmap"): "heatmap_onnx_file",
    ("litert", "heatmap"): "heatmap_litert_file",
    ("litert-reference", "heatmap"): "heatmap_litert_file",
    ("pytorch", "heatmap"): "heatmap_file",
    ("tensorflow", "heatmap"): "heatmap_file",
}


class Row(NamedTuple):
    """An engine by its name, and a file that it opens."""

    path: Path
    engine: str

    def open(self, **options: object) -> Engine:
        opened = open_engine(self.path, self.engine, **options)
        assert opened.name == self.engine, "the one asked for"
        return opened.engine


def row_of(name: str, head: str, request: pytest.FixtureRequest) -> Row:
    """Skips where the engine's package is not installed."""
    package, framework = ENGINES[name].package, ENGINES[name].framework
    pytest.importorskip(package, reason=f"needs keylite[{FRAMEWORKS.get(framework, name)}]")
    path = request.getfixturevalue(FILES[name, head])
    if path.suffix != ENGINES[name].suffix:
        path = request.getfixturevalue("certified_random")(name.removesuffix("-reference"), FILES[name, head])
    return Row(path, name)


@pytest.fixture(params=FILES, ids="-".join, scope="module")
def row(request: pytest.FixtureRequest) -> Row:
    return row_of(*request.param, request)


@pytest.fixture(scope="module")
def engine(row: Row) -> Engine:
    """The engine, opened once: TensorFlow traces its graph at the first call."""
    return row.open()


def test_every_engine_is_held_to_the_contract():
    int8_alone = {"tflm"}  # tests/runtime/test_micro.py holds it to litert-reference, bit for bit
    assert set(FILES) == set(itertools.product(ENGINES.keys() - int8_alone, HEADS))


def test_raw_is_float32_of_batch_keypoints_channels(row: Row, engine: Engine, crops: np.ndarray):
    raw = engine(crops)
    assert raw.dtype == np.float32
    assert raw.shape == (len(crops), 4, read_spec(row.path).head.channels)
    assert np.isfinite(raw).all()
    assert raw.std(axis=0).min() > 1e-3, "another image must give other points, else the tests here mean nothing"


def test_batch_of_one_is_batch_of_many(engine: Engine, crops: np.ndarray):
    one_by_one = np.concatenate([engine(crops[i : i + 1]) for i in range(len(crops))])
    assert np.abs(one_by_one - engine(crops)).max() < 1e-4  # measured 1e-5


def test_a_stream_is_image_by_image(row: Row, engine: Engine, crops: np.ndarray):
    predictor = Predictor.of(engine, read_spec(row.path), batch=4)
    wanted = [predictor(image) for image in crops]
    found = [one.points for one in predictor.stream(crops)]
    assert max(np.abs(a.xy - b.xy).max() for a, b in zip(found, wanted, strict=True)) < 0.01  # px
    assert np.ptp([points.xy for points in wanted], axis=0).min() > 0.1, "another image must give other points"
    if row.path.suffix == ".tflite":  # an image at a time, whatever the batch
        assert all(np.array_equal(a.xy, b.xy) for a, b in zip(found, wanted, strict=True))


def test_a_path_bytes_and_an_array_give_the_same_points(row: Row, engine: Engine, tmp_path: Path):
    """A JPEG that shrinks by 5: decoders offer to make it smaller, and that is no average."""
    noise = np.random.default_rng(2).integers(0, 256, (80, 100, 3), np.uint8)
    path = tmp_path / "picture.jpg"
    cv2.imwrite(str(path), cv2.resize(noise, (500, 400), interpolation=cv2.INTER_CUBIC))
    array = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    predictor, boxes = Predictor.of(engine, read_spec(row.path)), [[60, 50, 316, 306], [150, 20, 420, 390]]
    wanted = predictor(array, boxes).xy
    assert np.ptp(wanted, axis=0).max() > 1, "boxes give points of their own"
    for source in (path, str(path), path.read_bytes()):
        assert np.abs(predictor(source, boxes).xy - wanted).max() < 1e-3  # px of the image; measured 0


def test_threads_do_not_change_the_figures(row: Row, engine: Engine, crops: np.ndarray):
    assert np.abs(row.open(threads=2)(crops[:2]) - engine(crops[:2])).max() < 1e-4


def test_input_is_not_changed(engine: Engine, crops: np.ndarray):
    given = crops.copy()
    engine(given)
    assert np.array_equal(given, crops)


def test_channels_are_rgb_in_the_last_axis(engine: Engine, crops: np.ndarray):
    assert np.abs(engine(crops) - engine(np.ascontiguousarray(crops[..., ::-1]))).max() > 1e-3
    with pytest.raises(Exception, match=r"(?i)dimension|expected|channels|shape"):
        engine(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))


def test_threads_below_one_are_refused(row: Row):
    with pytest.raises(ValueError, match="threads: expected 1 to 4096, got 0"):
        row.open(threads=0)


@pytest.mark.numeric
@pytest.mark.parametrize("head", HEADS)
def test_all_engines_give_the_same_points(head: str, request: pytest.FixtureRequest, crops: np.ndarray):
    names = [name for name, of in FILES if of == head and importlib.util.find_spec(ENGINES[name].package)]
    rows = [row_of(name, head, request) for name in names]
    if len(rows) < 2:
        pytest.skip("needs two engines, keylite[pytorch] or keylite[tensorflow-cpu] for one")
    predictors = [Predictor(row.path, engine=row.engine) for row in rows]
    one, *others = [predictor.engine(crops) for predictor in predictors]
    for other in others:
        assert np.abs(one - other).max() < 1e-4 * np.abs(one).max()  # measured 9e-6
    image = np.random.default_rng(2).integers(0, 256, (90, 120, 3), np.uint8)
    boxes = [[10, 5, 80, 75], [-20, -10, 50, 60], [60, 30, 119, 89.5]]
    one, *others = [predictor(image, boxes) for predictor in predictors]
    assert one.xy.std(axis=0).min() > 0.1
    for other in others:
        assert np.abs(one.xy - other.xy).max() < 0.01  # px; measured 4e-4
        np.testing.assert_allclose(one.score, other.score, rtol=1e-3)


# ---- threads, forks, pickles


LIMIT = 400  # seconds after which what hangs is ended: imports and all took 15 to 40 on a busy machine
SHARED = {
    "onnx": "onnx_file",
    "litert": "litert_file",
    "litert-reference": "litert_file",
    "tflm": "int8_file",
    "pytorch": "model_file",
    "tensorflow": "model_file",
}


@pytest.mark.parametrize("name", ENGINES)
def test_a_predictor_is_shared_by_threads_forks_and_pickles(name: str, request: pytest.FixtureRequest, tmp_path: Path):
    """The points of one thread, or one clear line; and nothing hangs."""
    pytest.importorskip(ENGINES[name].package)
    path = request.getfixturevalue(SHARED[name])
    script = Path(__file__).with_name("sharing.py")
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    run = subprocess.run(
        [sys.executable, script, path, name, tmp_path],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "2"},
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["unlike"] > 0.1, "another picture must have other points"
    near = 0.01  # px, of rounding in a batch or on fewer threads; measured 2e-4
    assert all(isinstance(far, float) and far < near for far in told["threads"] + told["streams"]), told
    assert told["afterwards"] < near
    assert told["after forks"] < near
    for fork in ("fork", "new in a fork"):
        if name == "tensorflow":
            assert told[fork].startswith("tensorflow: does not work in a process that was forked after its first use")
        else:
            assert isinstance(told[fork], float), told[fork]
            assert told[fork] < near
    assert told["pickle"] < near
    assert told.get("spawn", 0) < near
    assert told["pickle bytes"] < 10_000, "no weights"
    assert told["same"] == [name, 3, 7]
    assert told["memory"] == (
        "TypeError: Predictor: a network in memory cannot be pickled; save the network, and make a Predictor of its file"
    )
    assert re.fullmatch("ModelFileError: .*: the file has changed since this Predictor was made.*", told["changed"])
    assert re.fullmatch("FileNotFoundError: .*: no such model file", told["gone"])


# ---- precisions: a network whose points mean something


ROUNDED = {  # engine and precision: how far points may be from the float network's, px of 64: mean and p95; measured
    ("litert", "fp16"): (0.1, 0.2),  # 0.017, 0.024
    ("litert", "int8"): (2.0, 5.0),  # 0.76, 1.7; red and blue swapped 4.9, 12, always the mean 7.4, 16
    ("onnx", "int8"): (2.0, 5.0),  # 0.74, 1.7, without VNNI
}
SPREAD = 5.0  # px by which the finder's points differ between images, at least
FOUND = ("regression", "rle", "simcc")  # heads of finders


class Rounded(NamedTuple):
    """A finder's file, and what was asked for."""

    path: Path
    engine: str
    precision: str
    head: str


@pytest.fixture(
    params=itertools.product(ROUNDED, FOUND), ids=lambda asked: "-".join((*asked[0], asked[1])), scope="module"
)
def rounded(request: pytest.FixtureRequest, exported_finder) -> Rounded:
    (name, precision), head = request.param
    return Rounded(exported_finder(name, precision, head), name, precision, head)


@pytest.fixture(scope="module")
def colours(make_colours) -> np.ndarray:
    """Patches of colour that nothing was fitted to, uint8 (24, 64, 64, 3)."""
    return np.stack(make_colours(24, 13).images)


def test_every_precision_is_held_to_the_contract():
    from keylite.exporting.form import FORMATS

    made = {(to, precision) for to, kind in FORMATS.items() for precision in kind.precisions}
    assert made == {*ROUNDED, *((name, "fp32") for name, _ in FILES if name in FORMATS)}


def test_a_rounded_file_keeps_the_contract(rounded: Rounded, colours: np.ndarray):
    engine, opened, spec, _ = open_engine(rounded.path, rounded.engine)
    assert (opened, spec.precision) == (rounded.engine, rounded.precision)
    given = colours.copy()
    raw = engine(given)
    assert np.array_equal(given, colours)
    assert raw.dtype == np.float32
    assert raw.shape == (len(colours), 4, spec.head.channels)
    one_by_one = np.concatenate([engine(colours[i : i + 1]) for i in range(len(colours))])
    assert np.abs(one_by_one - raw).max() < 1e-5 * np.abs(raw).max()  # measured 0
    assert np.abs(open_engine(rounded.path, threads=2)[0](colours) - raw).max() < 1e-5 * np.abs(raw).max()  # measured 0


@pytest.mark.numeric
def test_a_rounded_file_gives_the_float_network_s_points(rounded: Rounded, make_finder, colours: np.ndarray):
    found, score = Predictor(rounded.path).run(colours)
    wanted, wanted_score = Predictor(make_finder(rounded.head)).run(colours)
    assert 64 * wanted.std(axis=0).mean() > SPREAD, "another image must give other points"
    far = 64 * np.linalg.norm(found - wanted, axis=-1)
    mean, p95 = ROUNDED[rounded.engine, rounded.precision]
    assert far.mean() < mean
    assert np.percentile(far, 95) < p95
    assert far.max() < 2 * p95  # measured 0.027, 2.2, 2.8
    assert far.max() > 1e-3, "it was rounded"
    np.testing.assert_allclose(score, wanted_score, atol=0.05)  # measured 0.019


def test_rounded_files_give_the_same_points_from_the_same_boxes(rounded: Rounded, make_finder, colours: np.ndarray):
    image = np.concatenate([np.concatenate(list(colours[:3]), axis=1), np.concatenate(list(colours[3:6]), axis=1)])
    boxes = [[0, 0, 64, 64], [100, 20, 180, 100], [-10, 70, 60, 140]]
    wanted, found = (Predictor(path)(image, boxes) for path in (make_finder(rounded.head), rounded.path))
    assert np.array_equal(found.boxes, wanted.boxes)
    scale = np.array([64, 80, 70])[:, None] / 64
    far = np.linalg.norm(found.xy - wanted.xy, axis=-1) / scale
    assert far.max() < ROUNDED[rounded.engine, rounded.precision][1]


def test_a_heatmap_graph_is_plain_too(heatmap_onnx_file: Path):
    onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
    proto = onnx.load(heatmap_onnx_file)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Resize") == 2, "coarse to fine, twice"
    assert not set(kinds) & {"BatchNormalization", "Loop", "If", "Scan", "Pad"}
    (raw,) = proto.graph.output
    assert [d.dim_param or d.dim_value for d in raw.type.tensor_type.shape.dim] == ["batch", 4, 64]
    assert read_spec(heatmap_onnx_file).head.grid == (8, 8)
