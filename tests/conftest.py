"""What several tests share, made once a session: a spec, model files of 64 px and 4 points, their exports.

A random network moves points by as much as int8 does, so what is held to figures after rounding is a network that finds
something: its points follow the colours of an image.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and the frameworks start threads, here and in subprocesses
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # TensorFlow's C++ tells stderr about the processor
sys.modules.setdefault("triton", None)  # torchvision imports it; its LLVM, loaded after TensorFlow's, ends the process

import cv2
import msgspec
import numpy as np
import pytest

from keylite.data.dataset import Dataset, from_arrays
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
        calibration=None,
        provenance=provenance,
        report={"nme": 0.05},
        certificate=None,
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


@pytest.fixture(scope="session")
def litert_file(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LiteRT export of `model_file`."""
    return exported_litert(model_file, tmp_path_factory.mktemp("litert") / "four.tflite")


@pytest.fixture(scope="session")
def heatmap_litert_file(heatmap_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LiteRT export of `heatmap_file`."""
    return exported_litert(heatmap_file, tmp_path_factory.mktemp("heatmap_litert") / "maps.tflite")


def exported_litert(model: Path, path: Path) -> Path:
    """A LiteRT export in fp32; it costs a quarter of a minute."""
    for package in ("tensorflow", "ai_edge_litert"):
        pytest.importorskip(package, reason="needs keylite[tensorflow-cpu]")
    from keylite.runtime.modelfile import read_spec
    from keylite.tensorflow.exporting import export

    export(model, path, read_spec(model))
    return path


# ---- a network whose points mean something

COLOUR_TO_POINT = np.random.default_rng(5).uniform(-1, 1, (3, 8))
BUDGETS = {"fp32": None, "fp16": 2.0, "int8": 8.0}  # px of 64: what follows colours through a random backbone is touchy


def colour_images(count: int, seed: int) -> np.ndarray:
    """Smooth patches of colour, uint8 (count, 64, 64, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 127, (count, 3, 3, 3)) + rng.uniform(0, 127, (count, 1, 1, 3))
    smooth = np.stack([cv2.resize(image, SIZE, interpolation=cv2.INTER_CUBIC) for image in coarse])
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def colour_points(images: np.ndarray) -> np.ndarray:
    """The points that are right for them, unit (count, 4, 2): a linear function of the mean colour."""
    return (0.5 + (images.mean((1, 2)) / 255 - 0.5) @ COLOUR_TO_POINT).reshape(-1, 4, 2)


@pytest.fixture(scope="session")
def make_colours() -> Callable[..., Dataset]:
    """A function: a data set of so many patches of colour, each an object of its own group."""

    def make(count: int, seed: int, name: str = "colours") -> Dataset:
        images = colour_images(count, seed)
        return from_arrays(list(images), 64 * colour_points(images), skeleton=FOUR, name=name)

    return make


@pytest.fixture(scope="session")
def finder_file(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that finds `colour_points`: a random backbone that blurs, and dense layers fitted to them."""
    import torch

    from keylite.pytorch.model import PixelModel, load_model, save_model

    network, spec = load_model(model_file)
    model, images, kept = PixelModel(network, spec.mean, spec.std), colour_images(96, 7), []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and (module.groups > 1 or module.in_channels == 3):
            module.weight.data.abs_()
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.bias.data.fill_(2.0)  # in the middle of ReLU6, nearly
    hook = network.head.hidden.register_forward_hook(lambda _, given, __: kept.append(given[0].double().numpy()))
    with torch.no_grad():
        model.train()(torch.from_numpy(images))
        model.eval()(torch.from_numpy(images))
    hook.remove()
    wanted = colour_points(images).reshape(-1, 8) - 0.1
    middle, features = kept[-1].mean(axis=0), kept[-1] - kept[-1].mean(axis=0)
    alike = features @ features.T
    alike += 0.1 * np.trace(alike) / len(alike) * np.eye(len(alike))
    weights = features.T @ np.linalg.solve(alike, wanted - wanted.mean(axis=0))
    for layer, weight, bias in (
        (network.head.hidden, np.tile(weights.T, (4, 1)), np.tile(wanted.mean(axis=0) - middle @ weights, 4)),
        (network.head.points, np.tile(np.eye(8), 4) / 4, np.full(8, 0.1)),
    ):
        layer.weight.data.copy_(torch.from_numpy(weight))
        layer.bias.data.copy_(torch.from_numpy(bias))
    path = tmp_path_factory.mktemp("finder") / "finder.safetensors"
    save_model(network, msgspec.structs.replace(spec, box="image", report=None), path)
    return path


@pytest.fixture(scope="session")
def exported_finder(
    finder_file: Path, make_colours: Callable[..., Dataset], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """A function: (format, precision) -> what `keylite.export` makes of `finder_file`, each once, certificate beside."""
    import keylite
    from keylite import pipeline

    made: dict[tuple[str, str], Path] = {}

    def export(to: str, precision: str) -> Path:
        for package in {"onnx": ("onnx", "onnxscript"), "litert": ("tensorflow", "ai_edge_litert")}[to]:
            pytest.importorskip(package, reason=f"needs what makes {to}")
        if (to, precision) not in made:
            path = folder / f"finder.{precision}.{'tflite' if to == 'litert' else 'onnx'}"
            calibration = make_colours(24, 11, "calibration") if precision == "int8" else None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "_reference", lambda *_: None)  # the parent's ONNX again, each time
                keylite.export(
                    finder_file, make_colours(32, 9), path, to=to, precision=precision, calibration=calibration,
                    budget=BUDGETS[precision],
                )  # fmt: skip
            made[to, precision] = path
        return made[to, precision]

    folder = tmp_path_factory.mktemp("exports")
    return export


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
