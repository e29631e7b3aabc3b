"""Fixtures that several tests share, made once per session: a spec, model files of 64 px and 4 points, their exports.

A random network moves points by as much as int8 does, so what is held to figures after rounding is a network that finds
something: its points follow the colours of an image.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and the frameworks start threads, here and in subprocesses
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", os.environ["OMP_NUM_THREADS"])
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # otherwise TensorFlow's C++ code writes about the processor to stderr
sys.modules.setdefault("triton", None)  # torchvision imports it; its LLVM, loaded after TensorFlow's, ends the process

import cv2
import msgspec
import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.runtime.heads import HEADS, Heatmap, Regression, Rle, Simcc
from keylite.runtime.lite import LITE, PIXEL_MEAN, PIXEL_STD, Lite
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import FORMAT, DataId, ModelSpec, Provenance, ValidationFigures
from keylite.training.teaching import SCALE_START

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's background job, where tests of Ctrl-C would wait
    signal.signal(signal.SIGINT, signal.default_int_handler)

SIZE = (64, 64)
FOUR = Skeleton(("nose", "left_eye", "right_eye", "chin"), edges=((0, 1), (0, 2), (0, 3)), mirror=(0, 2, 1, 3))


def four_point_spec(**changes: object) -> ModelSpec:
    provenance = Provenance(
        keylite="0.0.0",
        created="2026-01-01T00:00:00+00:00",
        framework="pytorch",
        pretrained="none",
        data=DataId("made up", "0" * 64),
        recipe={"lr": 1e-3, "mirror": [["left_eye", "right_eye"]]},
        versions={"torch": "0"},
        parent=None,
    )
    spec = ModelSpec(
        format=FORMAT,
        backbone="lite0",
        stages=7,
        size=SIZE,
        box="annotation",
        padding=0.25,
        head=Regression(4, hidden=32),
        skeleton=FOUR,
        category="",
        visibility_0="ignore",
        visibility_1="train",
        normalize="box_diagonal",
        mean=PIXEL_MEAN,
        std=PIXEL_STD,
        white_level=65535,
        precision="fp32",
        input_type="uint8",
        output=None,
        weight_scales=None,
        calibration=None,
        provenance=provenance,
        mean_shape=((0.2, 0.3), (0.4, 0.5), (0.5, 0.6), (0.7, 0.8)),
        report=ValidationFigures(DataId("val", "1" * 64), 1, 0.05, 0.2, "box_diagonal", 1.0, 5.0, 10),
        confidence=None,
        certificate=None,
        unlearnt={},
    )
    return msgspec.structs.replace(spec, **changes)


@pytest.fixture(scope="session", autouse=True)
def fault_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder for faults of keylite, in this process and in those that tests start."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYLITE_FAULTS", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def no_fault(fault_folder: Path) -> Iterator[None]:
    """Fail every test in which keylite ended because of a fault in keylite."""
    yield
    if faults := sorted(fault_folder.iterdir()):
        said = [path.read_text(encoding="utf-8") for path in faults]
        for path in faults:
            path.unlink()
        pytest.fail("keylite ended by a fault of its own (exit code 70):\n" + "\n".join(said), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def undrawn() -> Iterator[None]:
    """Write an empty curves.png in runs, because drawing takes longer than a test's epoch. test_plots.py draws one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "keylite.training.folder.plot_history", lambda history, mean_shape_nme, path: path.write_bytes(b"")
        )
        yield


TINY = Lite(
    (8, 8, 16, 24, 32, 48, 80), (1, 1, 1, 1, 1, 2, 1), 64, 0
)  # half the layers of lite0, a fifteenth of its weights


@pytest.fixture(scope="session", autouse=True)
def tiny() -> Iterator[None]:
    """Add the backbone `tiny` to both frameworks, for tests that need any network, not a certain one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LITE, "tiny", TINY)
        with contextlib.suppress(ImportError):
            from timm.models import efficientnet, register_model

            def tf_efficientnet_tiny(**options: object):
                options |= {"bn_eps": 1e-3, "pad_type": "same"}  # as timm's own of that name
                return efficientnet._gen_efficientnet_lite("tf_efficientnet_lite0", 0.25, 0.3, **options)

            register_model(tf_efficientnet_tiny)
        yield


@pytest.fixture
def tiny_for_lite0(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace lite0 by `tiny` in this process; a test with it must not make files that other tests share."""
    monkeypatch.setitem(LITE, "lite0", TINY)
    with contextlib.suppress(ImportError):
        from timm.models import _registry

        made = _registry._model_entrypoints
        monkeypatch.setitem(made, "tf_efficientnet_lite0", made["tf_efficientnet_tiny"])


@pytest.fixture(scope="module")
def quick_graphs() -> Iterator[None]:
    """Switch off TensorFlow's rewriting of graphs, which takes seconds per graph."""
    tf = pytest.importorskip("tensorflow", reason="needs keylite[tensorflow]")
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture
def told_steps() -> Iterator[dict[str, tuple[int, int | None]]]:
    """All progress that the library reports in this test: by step, pairs (done, of how many)."""
    from keylite.runtime.progress import shown_by

    told: dict[str, tuple[int, int | None]] = {}

    @contextlib.contextmanager
    def show(what: str, total: int | None):
        def advance(more: int) -> None:
            told[what] = told[what][0] + more, total

        told[what] = 0, total
        yield advance

    with shown_by(show):
        yield told


@pytest.fixture(scope="session")
def make_spec():
    """A function: the spec of four points at 64 px, with changed fields."""
    return four_point_spec


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function: (file name, what writes it) -> the file, written by the first test process that asks; only read it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "once"
    folder.mkdir(exist_ok=True)

    def path_of(name: str, write: Callable[[Path], object]) -> Path:
        ready = folder / f".{name}.ready"
        with open(folder / f".{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not ready.exists():
                write(folder / name)
                ready.touch()
        return folder / name

    return path_of


LAST = {Regression: "points", Rle: "points", Simcc: "bins", Heatmap: "maps"}  # the last layer of each head


def write_random_model(path: Path, spec: ModelSpec) -> Path:
    """A `.safetensors` model file with random weights and fitting normalisation statistics, so that points vary."""
    torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")
    from keylite.pytorch.model import EfficientNetLiteRegressor, PixelModel, save_model

    torch.manual_seed(0)
    shape = np.linspace(0.2, 0.8, 8).reshape(4, 2)
    choices = {"head": spec.head, "size": spec.size, "stages": spec.stages, "mean_shape": shape}
    network = EfficientNetLiteRegressor(4, spec.backbone, **choices)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean over the batches below
    pixels = np.random.default_rng(0).integers(0, 256, (16, *spec.size[::-1], 3), np.uint8)
    model = PixelModel(network, spec.mean, spec.std).train()
    last = getattr(network.head, LAST[type(spec.head)])
    times = 5 if spec.head.pyramid else 50
    with torch.no_grad():
        last.weight.mul_(times)
        model(torch.from_numpy(pixels))
    save_model(network, spec, path)
    return path


@pytest.fixture(scope="session")
def model_file(once: Callable) -> Path:
    """A model file of a regression head."""
    return once("four.safetensors", lambda path: write_random_model(path, four_point_spec()))


@pytest.fixture(scope="session")
def heatmap_file(once: Callable) -> Path:
    """A model file of a heatmap head."""
    spec = four_point_spec(head=Heatmap(4, (8, 8), 16))
    return once("maps.safetensors", lambda path: write_random_model(path, spec))


@pytest.fixture(scope="session")
def rle_file(once: Callable) -> Path:
    """A model file of a regression head with scales."""
    spec = four_point_spec(head=Rle(4, hidden=32))
    return once("scales.safetensors", lambda path: write_random_model(path, spec))


@pytest.fixture(scope="session")
def simcc_file(once: Callable) -> Path:
    """A model file of a head of two classifications."""
    spec = four_point_spec(head=Simcc(4, (8, 8), (64, 64), 16))
    return once("bins.safetensors", lambda path: write_random_model(path, spec))


@pytest.fixture(scope="session")
def tiny_file(once: Callable) -> Path:
    """A model file of a regression head on `tiny`."""
    return once("tiny.safetensors", lambda path: write_random_model(path, four_point_spec(backbone="tiny")))


@pytest.fixture(scope="session")
def tiny_onnx_file(tiny_file: Path, once: Callable) -> Path:
    """The ONNX export of `tiny_file`."""
    return once("tiny.onnx", lambda path: exported(tiny_file, path))


@pytest.fixture(scope="session")
def onnx_file(model_file: Path, once: Callable) -> Path:
    """The ONNX export of `model_file`."""
    return once("four.onnx", lambda path: exported(model_file, path))


@pytest.fixture(scope="session")
def float_file(model_file: Path, once: Callable) -> Path:
    """The ONNX export of `model_file` that takes floats, one image at a time."""
    return once("four.float.onnx", lambda path: exported(model_file, path, input_type="float32"))


@pytest.fixture(scope="session")
def float_heatmap_file(heatmap_file: Path, once: Callable) -> Path:
    """The ONNX export of `heatmap_file` that takes floats, one image at a time."""
    return once("maps.float.onnx", lambda path: exported(heatmap_file, path, input_type="float32"))


@pytest.fixture(scope="session")
def heatmap_onnx_file(heatmap_file: Path, once: Callable) -> Path:
    """The ONNX export of `heatmap_file`."""
    return once("maps.onnx", lambda path: exported(heatmap_file, path))


@pytest.fixture(scope="session")
def litert_file(model_file: Path, once: Callable) -> Path:
    """The LiteRT export of `model_file`."""
    return once("four.tflite", lambda path: exported_litert(model_file, path))


@pytest.fixture(scope="session")
def heatmap_litert_file(heatmap_file: Path, once: Callable) -> Path:
    """The LiteRT export of `heatmap_file`."""
    return once("maps.tflite", lambda path: exported_litert(heatmap_file, path))


@pytest.fixture(scope="session")
def certified_random(request: pytest.FixtureRequest, once: Callable) -> Callable[[str, str], Path]:
    """A function: (format, fixture of a model file) -> its fp32 export, each made once."""

    def export(to: str, name: str) -> Path:
        model = request.getfixturevalue(name)
        return once(f"{name}.{SUFFIXES[to]}", lambda path: certified(model, data, path, to=to))

    images = colour_images(8, 9)
    boxes = np.tile([4.0, 4.0, 60.0, 60.0], (len(images), 1))
    data = from_arrays(list(images), 64 * colour_points(images), skeleton=FOUR, boxes=boxes)
    return export


def exported_litert(model: Path, path: Path) -> Path:
    """Make a LiteRT export in fp32, which takes seconds."""
    for package in ("tensorflow", "ai_edge_litert"):
        pytest.importorskip(package, reason="needs keylite[tensorflow-cpu]")
    from keylite.runtime.modelfile import read_spec
    from keylite.tensorflow.exporting import export

    export(model, path, read_spec(model))
    return path


# ---- a network that finds points

COLOUR_TO_POINT = np.random.default_rng(5).uniform(-1, 1, (3, 8))
SUFFIXES = {"onnx": "onnx", "litert": "tflite"}
BUDGETS = {"fp32": None, "fp16": 0.5, "int8": 6.0}  # px of 64


def colour_images(count: int, seed: int) -> np.ndarray:
    """Smooth patches of colour, uint8 (count, 64, 64, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 127, (count, 3, 3, 3)) + rng.uniform(0, 127, (count, 1, 1, 3))
    smooth = np.stack([cv2.resize(image, SIZE, interpolation=cv2.INTER_CUBIC) for image in coarse])
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def colour_points(images: np.ndarray) -> np.ndarray:
    """The true points of such patches, unit (count, 4, 2): a linear function of the mean colour."""
    return (0.5 + (images.mean((1, 2)) / 255 - 0.5) @ COLOUR_TO_POINT).reshape(-1, 4, 2)


def half_points(images: np.ndarray) -> np.ndarray:
    """Points whose x is that of `colour_points` for the left half, and whose y is its x for the right half."""
    return np.stack([colour_points(half)[..., 0] for half in np.split(images, 2, axis=2)], axis=2)


def bright_logits(images: np.ndarray) -> np.ndarray:
    """Maps, float (N, 4, 8, 8), that are high where a patch has much of a colour, which is another for each point."""
    cells = np.stack([cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA) for image in images]) / 255 - 0.5
    return 8 * (cells @ COLOUR_TO_POINT[:, :4]).transpose(0, 3, 1, 2)


def bright_points(images: np.ndarray) -> np.ndarray:
    """The points of such maps, unit (count, 4, 2)."""
    return HEADS["heatmap"](4, 32, SIZE).decode(bright_logits(images).reshape(len(images), 4, -1))[0]


@pytest.fixture(scope="session")
def make_colours() -> Callable[..., Dataset]:
    """A function: number -> a data set of that many patches of colour, each an object in a group of its own."""

    def make(count: int, seed: int, name: str = "colours", points: Callable = colour_points) -> Dataset:
        images = colour_images(count, seed)
        return from_arrays(list(images), 64 * points(images), skeleton=FOUR, name=name)

    return make


def carry_colours(network) -> None:
    """Make each layer of a random network pass on what the layer before says of a colour, with weights of its own.

    Channel i says something of colour i % 3. So many channels say the same that rounding, of which each has its own,
    moves their mean little; a wrong channel, place or border moves it much.
    """
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            weight = module.weight.data
            weight.uniform_(0.5, 1.5)
            if module.groups == 1:
                colour = torch.arange(max(weight.shape[:2])) % 3
                weight *= torch.where(colour[: len(weight), None] == colour[: weight.shape[1]], 1.0, 0.05)[
                    ..., None, None
                ]
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over the batch that follows
            module.bias.data.fill_(3.0)  # in the middle of ReLU6


def carried_features(network, spec: ModelSpec, layer, images: np.ndarray) -> np.ndarray:
    """The inputs of `layer` for images, after the network passes on their colours."""
    import torch

    from keylite.pytorch.model import PixelModel

    carry_colours(network)
    model, kept = PixelModel(network, spec.mean, spec.std), []
    hook = layer.register_forward_hook(lambda _, given, __: kept.append(given[0].double().numpy()))
    with torch.no_grad():
        model.train()(torch.from_numpy(images))
        model.eval()(torch.from_numpy(images))
    hook.remove()
    return kept[-1]


def fitted(features: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(weights, offsets) of the best linear function from features (N, F) to targets (N, P)."""
    middle, features = features.mean(axis=0), features - features.mean(axis=0)
    alike = features @ features.T
    alike += 0.1 * np.trace(alike) / len(alike) * np.eye(len(alike))
    weights = features.T @ np.linalg.solve(alike, wanted - wanted.mean(axis=0))
    return weights, wanted.mean(axis=0) - middle @ weights


def find_with_dense(network, spec: ModelSpec, images: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layers of a `regression` or `rle` head that finds `colour_points`: weights and biases."""
    features = carried_features(network, spec, network.head.hidden, images)
    wanted = colour_points(images).reshape(-1, 8)
    weights, offsets = fitted(features, wanted - 0.1)
    rows, bias = np.zeros((4, spec.head.channels, 32)), np.full((4, spec.head.channels), SCALE_START)
    rows[:, :2], bias[:, :2] = (np.tile(np.eye(8), 4) / 4).reshape(4, 2, 32), 0.1
    return {"hidden": (np.tile(weights.T, (4, 1)), np.tile(offsets, 4)), "points": (rows.reshape(-1, 32), bias.ravel())}


def find_with_bins(network, spec: ModelSpec, images: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same of a `simcc` head that finds `half_points`.

    A map's mean over its left half is x, over its right half y, both from the middle; and the logits of a bell of 4 bins
    around a place are linear in that place, but for what is the same for all bins.
    """
    features = carried_features(network, spec, network.head.maps, images)
    halves = np.split(features, 2, axis=3)
    weights, offsets = fitted(
        np.concatenate([half.mean((2, 3)) for half in halves]),
        np.concatenate(list(half_points(images).transpose(2, 0, 1))) - 0.5,
    )
    places = np.arange(64) + 0.5 - 32
    left = np.repeat(np.arange(8)[None] < 4, 8, axis=0).ravel() / 32
    bins = np.concatenate([np.outer(64 * places / 4**2, half) for half in (left, left[::-1])])
    return {"maps": (weights.T[..., None, None], offsets), "bins": (bins, np.tile(-(places**2) / 2 / 4**2, 2))}


def find_with_maps(network, spec: ModelSpec, images: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same of a `heatmap` head that finds `bright_points`: each cell's logits are linear in what it is told."""
    features = carried_features(network, spec, network.head.maps, images)
    told, wanted = (maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1]) for maps in (features, bright_logits(images)))
    some = slice(None, None, 3)  # a system of equations for each cell takes long
    weights, offsets = fitted(told[some], wanted[some])
    return {"maps": (weights.T[..., None, None], offsets)}


FINDERS = {  # head: its layers fitted, the points that it finds
    "regression": (find_with_dense, colour_points),
    "rle": (find_with_dense, colour_points),
    "simcc": (find_with_bins, half_points),
    "heatmap": (find_with_maps, bright_points),
}


@pytest.fixture(scope="session")
def make_finder(once: Callable) -> Callable[[str], Path]:
    """A function: head -> a model file that finds its points of FINDERS, each made once: a backbone that carries colours."""

    def write(name: str, path: Path) -> None:
        torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")
        from keylite.pytorch.model import EfficientNetLiteRegressor, save_model

        torch.manual_seed(0)
        spec = four_point_spec(head=HEADS[name](4, 32, SIZE), box="image", report=None)
        network = EfficientNetLiteRegressor(4, spec.backbone, head=spec.head, size=spec.size)
        for layer, (weight, bias) in FINDERS[name][0](network, spec, colour_images(96, 7)).items():
            getattr(network.head, layer).weight.data.copy_(torch.from_numpy(weight))
            getattr(network.head, layer).bias.data.copy_(torch.from_numpy(bias))
        save_model(network, spec, path)

    def make(name: str) -> Path:
        file = "finder.safetensors" if name == "regression" else f"{name}_finder.safetensors"
        return once(file, lambda path: write(name, path))

    return make


@pytest.fixture(scope="session")
def finder_file(make_finder: Callable[[str], Path]) -> Path:
    """A model file that finds `colour_points`: a backbone that carries colours, and dense layers fitted to them."""
    return make_finder("regression")


@pytest.fixture(scope="session")
def int8_file(exported_finder: Callable[..., Path]) -> Path:
    """The int8 LiteRT export of `finder_file`."""
    return exported_finder("litert", "int8")


@pytest.fixture(scope="session")
def exported_finder(
    make_finder: Callable[[str], Path], make_colours: Callable[..., Dataset], once: Callable
) -> Callable[..., Path]:
    """A function: (format, precision, head, types) -> the export of a finder, each made once, with its certificate."""

    def export(to: str, precision: str, head: str = "regression", **types: str) -> Path:
        model, data = make_finder(head), make_colours(32, 9, points=FINDERS[head][1])
        options = {"to": to, "precision": precision, "budget": BUDGETS[precision], **types}
        if precision == "int8":
            options["calibration"] = make_colours(64, 11, "calibration")
        name = ".".join((model.stem, precision, *types.values(), SUFFIXES[to]))
        return once(name, lambda path: certified(model, data, path, **options))

    return export


def certified(model: Path, data: Dataset, path: Path, *, to: str, **options: object) -> Path:
    """Export a model file without measuring its time."""
    for package in {"onnx": ("onnx", "onnxscript"), "litert": ("tensorflow", "ai_edge_litert")}[to]:
        pytest.importorskip(package, reason=f"needs what makes {to}")
    import keylite
    from keylite.exporting import export as exports

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "_reference", lambda *_: None)  # it would make the parent's ONNX each time
        keylite.export(model, data, path, to=to, **options)
    return path


def exported(model: Path, path: Path, **changes: object) -> Path:
    """Make an ONNX export, which takes seconds. changes: of the spec."""
    pytest.importorskip("onnxscript", reason="needs keylite[pytorch]")
    from keylite.pytorch.exporting import export
    from keylite.runtime.modelfile import read_spec

    export(model, path, msgspec.structs.replace(read_spec(model), **changes))
    return path


@pytest.fixture(scope="session")
def crops() -> np.ndarray:
    """Seven different crops, uint8 (7, 64, 64, 3)."""
    return np.random.default_rng(1).integers(0, 256, (7, 64, 64, 3), np.uint8)


FORKS = """
import json, os, sys, traceback
for line in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        try:
            run(*json.loads(line))
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(70)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture(scope="session")
def forked() -> Callable[[str, list], list[int]]:
    """A function: (code of a function `run`, its arguments, of each call) -> each call's exit code.

    One interpreter imports what the code does, and forks for each call: PyTorch and TensorFlow take seconds to start.
    """

    def run(code: str, calls: list) -> list[int]:
        command = [sys.executable, "-c", code + FORKS, *map(json.dumps, calls)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "70" not in done.stdout.split(), done.stderr
        return [int(line) for line in done.stdout.split()]

    return run


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


@pytest.fixture
def null(tmp_path: Path) -> Path:
    """A device that takes everything, made for this test."""
    place = tmp_path / "null"
    try:
        os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        place.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"no devices can be made here: {error}")
    return place


@pytest.fixture(scope="session")
def int8_of(exported_finder, heatmap_file: Path, make_colours, once: Callable) -> Callable[..., Path]:
    """A function: head -> an int8 `.tflite` file of it. Of a heatmap also: the type of both ends, and cut and size."""

    def make(head: str, ends: str | None = None, stages: int = 7, side: int = 64) -> Path:
        if head != "heatmap":
            return exported_finder("litert", "int8", head)
        for package in ("tensorflow", "ai_edge_litert"):
            pytest.importorskip(package, reason="needs keylite[tensorflow-cpu]")
        from keylite.exporting.calibration import calibration_set
        from keylite.runtime.modelfile import read_spec
        from keylite.tensorflow.exporting import export

        cells = -(-side // 8)
        spec = four_point_spec(head=Heatmap(4, (cells, cells), 16), size=(side, side), stages=stages)
        name = f"maps_{stages}_{side}"
        usual = (stages, side) == (7, 64)
        parent = heatmap_file if usual else once(f"{name}.safetensors", lambda path: write_random_model(path, spec))
        spec = read_spec(parent)
        images = calibration_set(msgspec.structs.replace(spec, box="image"), make_colours(16, 11), 16, 0)
        integers = {"precision": "int8", "weight_scales": "per-channel", "calibration": images.facts}
        spec = msgspec.structs.replace(spec, input_type=ends or spec.input_type, **integers)
        write = functools.partial(export, parent, spec=spec, calibration=images, output_type=ends or "float32")
        return once(f"{name}.int8.{ends or 'floats'}.tflite", write)

    return make
