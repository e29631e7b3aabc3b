"""The scripts in examples/ run as they stand, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keylite.runtime.heads import Regression
from keylite.runtime.images import write_image
from keylite.runtime.modelfile import write_onnx
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import FORMAT, DataId, ModelSpec, Provenance

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_FRAMEWORKS = """
import runpy, sys
sys.modules |= dict.fromkeys(("torch", "timm", "lightning", "tensorflow", "keras"))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SAYS_WHAT_FIT_MOVED = """
import json, runpy, sys
import keras
import tensorflow
tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # seconds a graph
def fit(net, *arguments, original=keras.Model.fit, **options):
    before = [variable.numpy() for variable in net.variables]
    original(net, *arguments, **options)
    moved = {}
    for variable, value in zip(net.variables, before, strict=True):
        part = ("head " if variable.path.startswith("head.") else "backbone ") + variable.name
        moved.setdefault(part, set()).add(bool((variable.numpy() != value).any()))
    print("moved", json.dumps({name: sorted(found) for name, found in moved.items()}))
keras.Model.fit = fit
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Python on these arguments, on one thread: several threads that share a busy core wait for each other."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def colour_model(path: Path) -> None:
    """An .onnx model file whose point `fixed` is unit (0.25, 0.75) and whose `colour` is unit (red, blue) / 255."""
    onnx = pytest.importorskip("onnx")
    from_array, node = onnx.numpy_helper.from_array, onnx.helper.make_node
    weights = np.zeros((3, 4), np.float32)
    weights[0, 2] = weights[2, 3] = 1 / 255
    graph = onnx.helper.make_graph(
        [
            node("Cast", ["pixels"], ["float"], to=onnx.TensorProto.FLOAT),
            node("ReduceMean", ["float", "axes"], ["rgb"], keepdims=0),
            node("MatMul", ["rgb", "weights"], ["scaled"]),
            node("Add", ["scaled", "bias"], ["flat"]),
            node("Reshape", ["flat", "shape"], ["raw"]),
        ],
        "colour",
        [onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["batch", 32, 32, 3])],
        [onnx.helper.make_tensor_value_info("raw", onnx.TensorProto.FLOAT, ["batch", 2, 2])],
        [
            from_array(np.array([1, 2]), "axes"),
            from_array(weights, "weights"),
            from_array(np.array([0.25, 0.75, 0, 0], np.float32), "bias"),
            from_array(np.array([-1, 2, 2]), "shape"),
        ],
    )
    spec = ModelSpec(
        format=FORMAT,
        backbone="lite0",
        stages=7,
        size=(32, 32),
        box="image",
        padding=0.0,
        head=Regression(2),
        skeleton=Skeleton(("fixed", "colour")),
        category="",
        visibility_0="ignore",
        visibility_1="train",
        normalize="box_diagonal",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        white_level=65535,
        precision="fp32",
        input_type="uint8",
        output=None,
        weight_scales=None,
        calibration=None,
        provenance=Provenance("0", "never", "pytorch", "none", DataId("none", "0"), {}, {}, None),
        mean_shape=None,
        report=None,
        confidence=None,
        certificate=None,
        unlearnt={},
    )
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    write_onnx(path, model.SerializeToString(), spec)


def test_deploying_needs_no_framework(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    colour_model(tmp_path / "colour.onnx")
    write_image(tmp_path / "photo.png", np.full((80, 80, 3), (204, 0, 51), np.uint8))
    script = ROOT / "examples/deploy_minimal.py"
    done = run("-c", WITHOUT_FRAMEWORKS, script, tmp_path / "colour.onnx", tmp_path / "photo.png")
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["fixed: 20.0 60.0", "colour: 64.0 16.0"]


def test_an_own_loop_lowers_the_loss():
    pytest.importorskip("timm")
    done = run(ROOT / "examples/own_loop_pytorch.py", "--images", "20", "--size", "32", "--epochs", "40")
    assert done.stderr == ""
    found = re.findall(r"^epoch (\d+): loss ([\d.]+), validation ([\d.]+) px$", done.stdout, re.MULTILINE)
    assert [int(epoch) for epoch, _, _ in found] == list(range(1, 41)), done.stdout
    losses, errors = (np.array([float(row[column]) for row in found]) for column in (1, 2))
    assert losses[-5:].mean() < 0.92 * losses[:5].mean()  # 0.83; 1.00 without the optimizer's step
    assert errors.max() < 6  # px of 32; an untrained network gives the mean shape, about 3.6


def test_an_own_fit_trains_the_head_then_everything(make_spec, tmp_path: Path):
    pytest.importorskip("tensorflow", reason="needs keylite[tensorflow]")
    import keras

    from keylite.tensorflow import EfficientNetLiteRegressor, save_model

    keras.utils.set_random_seed(1)  # what a head can learn from frozen random features is luck: 0.73 to 0.86
    start = tmp_path / "start.safetensors"  # points in a corner: there is something to learn in a few steps
    network = EfficientNetLiteRegressor(4, mean_shape=np.full((4, 2), 0.2))
    save_model(network, make_spec(head=Regression(4, 256)), start)
    script, flags = ROOT / "examples/own_loop_tensorflow.py", ("--images", "40", "--size", "32", "--epochs", "6")
    done = run("-c", SAYS_WHAT_FIT_MOVED, script, *flags, "--pretrained", start)
    assert done.returncode == 0, done.stderr
    layers = re.findall(r"\((\w+)\) +│ \([^│]*│ +([\d,]+) │", done.stdout)
    assert layers == [
        *(("InputLayer", "0"), ("Functional", "3,413,024"), ("GlobalAveragePooling2D", "0")),
        *(("Dense", "327,936"), ("Dense", "2,056"), ("Reshape", "0")),
    ]
    assert "Trainable params: 329,992 " in done.stdout
    frozen, everything = (json.loads(line) for line in re.findall(r"^moved (.*)$", done.stdout, re.MULTILINE))
    assert frozen == {name: [name.startswith("head")] for name in frozen}  # normalisation and its statistics too
    assert everything == {name: [True] for name in frozen}
    assert "backbone moving_variance" in frozen
    found = re.findall(
        r"loss: ([\d.]+) - px: ([\d.]+) - val_loss: [\d.]+ - val_px: ([\d.]+)$", done.stdout, re.MULTILINE
    )
    losses, errors = (np.array([float(row[column]) for row in found]).reshape(2, 3) for column in (0, 2))
    assert (losses[:, 2] < 0.8 * losses[:, 0]).all(), losses  # 17.9 to 12.9, and 44 to 12
    assert errors.max() < 20, errors  # px of 32: 14 at first, then less


def test_the_demo_runs(tmp_path: Path):
    """`make demo` in small: every call that it makes exists, and its summary has figures."""
    for package in ("lightning", "onnx", "matplotlib"):
        pytest.importorskip(package, reason="needs keylite[pytorch]")
    few = ["--train", "12", "--test", "4", "--epochs", "1", "--size", "32", "--out", str(tmp_path)]
    command = [sys.executable, str(ROOT / "examples/gauge_demo.py"), *few]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "trained on 12 rendered gauges" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert (tmp_path / "overlays.jpg").is_file() and (tmp_path / "gauges.onnx").is_file()
