"""What several tests share, made once a session: a spec, a random model file of 64 px and 4 points, its ONNX export."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and the frameworks start threads, here and in subprocesses
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # TensorFlow's C++ tells stderr about the processor
sys.modules.setdefault("triton", None)  # torchvision imports it; its LLVM, loaded after TensorFlow's, ends the process

import msgspec
import numpy as np
import pytest

from keylite.runtime.heads import Heatmap, Regression
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import FORMAT, PIXEL_MEAN, PIXEL_STD, ModelSpec, Provenance

SIZE = (64, 64)
FOUR = Skeleton(("nose", "left_eye", "right_eye", "chin"), edges=((0, 1), (0, 2), (0, 3)), mirror=(0, 2, 1, 3))


def four_point_spec(**changes: object) -> ModelSpec:
    provenance = Provenance(
        keylite="0.0.0",
        created="2026-01-01T00:00:00+00:00",
        framework="pytorch",
        pretrained="none",
        data="made up",
        data_fingerprint="0" * 64,
        recipe={"lr": 1e-3, "mirror": [["left_eye", "right_eye"]]},
        versions={"torch": "0"},
        parent=None,
    )
    spec = ModelSpec(
        format=FORMAT,
        backbone="lite0",
        size=SIZE,
        box="annotation",
        padding=0.25,
        head=Regression(4, hidden=32),
        skeleton=FOUR,
        normalize="box_diagonal",
        mean=PIXEL_MEAN,
        std=PIXEL_STD,
        precision="fp32",
        provenance=provenance,
        report={"nme": 0.05},
    )
    return msgspec.structs.replace(spec, **changes)


@pytest.fixture(scope="session")
def make_spec():
    """A function: the spec of four points at 64 px, with changed fields."""
    return four_point_spec


def write_random_model(path: Path, spec: ModelSpec) -> Path:
    """A `.safetensors` model file of random weights whose normalisation statistics fit, so that points move."""
    torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")
    from keylite.pytorch.model import EfficientNetLiteRegressor, PixelModel, save_model

    torch.manual_seed(0)
    shape = np.linspace(0.2, 0.8, 8).reshape(4, 2)
    network = EfficientNetLiteRegressor(4, spec.backbone, head=spec.head, size=spec.size, mean_shape=shape)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean over the batches below
    pixels = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
    model = PixelModel(network, spec.mean, spec.std).train()
    last, times = (network.head.points, 50) if isinstance(spec.head, Regression) else (network.head.maps, 5)
    with torch.no_grad():
        last.weight.mul_(times)
        model(torch.from_numpy(pixels))
    save_model(network, spec, path)
    return path


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a regression head."""
    return write_random_model(tmp_path_factory.mktemp("model") / "four.safetensors", four_point_spec())


@pytest.fixture(scope="session")
def heatmap_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a heatmap head."""
    spec = four_point_spec(head=Heatmap(4, (8, 8), 16))
    return write_random_model(tmp_path_factory.mktemp("heatmap") / "maps.safetensors", spec)


@pytest.fixture(scope="session")
def onnx_file(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX export of `model_file`."""
    return exported(model_file, tmp_path_factory.mktemp("onnx") / "four.onnx")


@pytest.fixture(scope="session")
def heatmap_onnx_file(heatmap_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX export of `heatmap_file`."""
    return exported(heatmap_file, tmp_path_factory.mktemp("heatmap_onnx") / "maps.onnx")


def exported(model: Path, path: Path) -> Path:
    """An ONNX export; it costs seconds."""
    pytest.importorskip("onnxscript", reason="needs keylite[pytorch]")
    from keylite.pytorch.exporting import export
    from keylite.runtime.modelfile import read_spec

    export(model, path, read_spec(model))
    return path


@pytest.fixture(scope="session")
def crops() -> np.ndarray:
    """Seven crops, uint8 (7, 64, 64, 3), unlike each other."""
    return np.random.default_rng(1).integers(0, 256, (7, 64, 64, 3), np.uint8)


@pytest.fixture
def python():
    """A function: run Python code in a fresh interpreter, where `missing` modules cannot be imported; its output."""

    def run(code: str, missing: tuple[str, ...] = (), timeout: float = 120, **environment: str) -> str:
        blocked = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
        paths = os.pathsep.join(path for path in sys.path if path)
        finished = subprocess.run(
            [sys.executable, "-W", "error", "-c", blocked + code],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | {"PYTHONPATH": paths} | environment,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run
