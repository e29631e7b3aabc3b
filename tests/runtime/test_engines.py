"""The engine of a file is found or refused in one line; a missing package says what to install."""

from __future__ import annotations

import base64
import importlib.util
import re
import struct
import sys
import zlib
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from keylite.runtime.engines import ENGINES, open_engine
from keylite.runtime.heads import Heatmap, Regression
from keylite.runtime.modelfile import read_spec, tflite_model, write_onnx, write_safetensors, write_tflite
from keylite.runtime.packages import require
from keylite.runtime.predictor import Predictor
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import Quantised, encode_spec


def test_the_engine_is_the_one_for_the_file(model_file: Path, onnx_file: Path, make_spec):
    for path, engine in ((model_file, "pytorch"), (onnx_file, "onnx")):
        _, name, spec, _ = open_engine(path)
        assert name == engine
        assert spec == make_spec()
        assert open_engine(str(path), engine)[1] == engine


@pytest.mark.parametrize("engine", ["pytorch", "tensorflow", "onnxruntime", "ONNX"])
def test_another_engine_is_refused(onnx_file: Path, engine: str):
    with pytest.raises(ValueError, match=f"engine: four.onnx runs on onnx, got {engine!r}"):
        open_engine(onnx_file, engine)


def test_devices_that_are_not_there_are_refused(model_file: Path, onnx_file: Path):
    import torch

    with pytest.raises(ValueError, match="device: the onnx engine runs on the cpu, got 'cuda'"):
        open_engine(onnx_file, device="cuda")
    with pytest.raises(ValueError, match="device: expected auto, cpu or cuda, got 'gpu'"):
        open_engine(model_file, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device: cuda asked for, but PyTorch sees no CUDA GPU"):
            open_engine(model_file, device="cuda")


def test_a_graph_that_cannot_run_is_refused(tmp_path: Path, make_spec):
    onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
    graph = onnx.helper.make_graph([onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])], "g", [], [])
    model = onnx.helper.make_model(graph)
    path = tmp_path / "broken.onnx"
    write_onnx(path, model.SerializeToString(), make_spec())
    with pytest.raises(ValueError, match=r"broken\.onnx: ONNX Runtime cannot open this file") as caught:
        open_engine(path)
    assert "\n" not in str(caught.value)


def test_a_present_module_is_given_and_a_missing_one_named():
    assert require("json", "any").__name__ == "json"
    with pytest.raises(
        ModuleNotFoundError, match=r"^no_such_package is not installed: .*pip install 'keylite\[some\]'$"
    ):
        require("no_such_package.part", "some")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'keylite\.nothing'"):
        require("keylite.nothing", "some")


MISSING = {  # package: file, engine, extra
    "ai_edge_litert": ("tflite", None, "litert"),
    "tflite_micro": ("tflite", "tflm", "micro"),
    "onnxruntime": ("onnx_file", None, "onnx"),
    "torch": ("model_file", "pytorch", "pytorch"),
    "timm": ("model_file", None, "pytorch"),
    "tensorflow": ("model_file", "tensorflow", "tensorflow-cpu"),
}


@pytest.mark.parametrize("package", MISSING)
def test_a_missing_package_says_what_to_install(package: str, request: pytest.FixtureRequest, python):
    made, engine, extra = MISSING[package]
    code = f"""
from keylite import Predictor
try:
    Predictor({str(request.getfixturevalue(made))!r}, engine={engine!r})
except ModuleNotFoundError as error:
    print(error)
"""
    said = python(code, missing=(package,))
    # A package that is barred, not missing, is named with the module that was asked for.
    wanted = rf"{package}(\.interpreter)? is not installed: install it with: pip install 'keylite\[{extra}\]'\n"
    assert re.fullmatch(wanted, said), said


# ---- a file that needs no framework to be made

RED = (  # an ONNX graph, packed: of each of four points, x is the mean of red over 255, and y a quarter more
    b"eNqlkDFLw1AQx3Mvz+Y8KMaD0ogONuDgGx0VJMRBCLh0KTj50h421NeGvlg6xsmv0Y+q0iAuuviHHz847jjuEK/fQzqjXl1t5cUz"
    b"rFN9Z31jDkk1qwR2oOiKYM3gUhrL7HUqD2KXpk/absVnkKkdROaIcCFSzyrnk+BrhgkcwYSgZNik+l6coyHBhsBzr15Vy8an0Vj8"
    b"3NbC8GxGGMZRDr5Igi66s+psFhgixpDDpHh6a9ubvwj+GXO5X1UW5/tCe/ubHy++n3dKJ6h4QBEflLaZzklh1hGWI+ru5iENEPj4"
    b"Z5v+ROWagrj/ASc4QiU="
)


def test_onnx_runtime_alone_gives_points(tmp_path: Path, make_spec):
    """Where nothing but the engine is installed, as on a device: no fixture of a framework is needed."""
    pytest.importorskip("onnxruntime", reason="needs keylite[onnx]")
    spec = make_spec(box="image", padding=0.0)
    write_onnx(tmp_path / "red.onnx", zlib.decompress(base64.b64decode(RED)), spec)
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 51
    for threads in (1, 2):
        found = Predictor(tmp_path / "red.onnx", threads=threads)(image)
        np.testing.assert_allclose(found.xy, np.tile([0.2 * 64, 0.45 * 64], (1, 4, 1)), atol=1e-4)
    (tmp_path / "bare.onnx").write_bytes(zlib.decompress(base64.b64decode(RED)))
    (tmp_path / "spec.json").write_text(encode_spec(spec))
    again = Predictor(tmp_path / "bare.onnx", spec=tmp_path / "spec.json")(image)
    np.testing.assert_array_equal(again.xy, found.xy)


# ---- a file that two engines open


@pytest.fixture
def described(tmp_path: Path, make_spec):
    """A function: a `.safetensors` file without tensors, made by that framework."""

    def write(framework: str) -> Path:
        spec = make_spec(provenance=msgspec.structs.replace(make_spec().provenance, framework=framework))
        path = tmp_path / f"{framework}.safetensors"
        write_safetensors(path, struct.pack("<Q", 2) + b"{}", spec)
        return path

    return write


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What the two openers of `.safetensors` were called with: nothing is opened."""
    calls: list[tuple] = []
    for name in ("pytorch", "tensorflow"):
        stub = ENGINES[name]._replace(open=lambda *given, name=name: calls.append((name, *given)))
        monkeypatch.setitem(ENGINES, name, stub)
    return calls


def install(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Of the two frameworks let these be there, and no other."""
    for name in ("torch", "tensorflow"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module if name in packages else None)


DEFAULTS = {  # made by, installed, engine
    "made by PyTorch": ("pytorch", ("torch", "tensorflow"), "pytorch"),
    "made by TensorFlow": ("tensorflow", ("torch", "tensorflow"), "tensorflow"),
    "made by PyTorch, which is not there": ("pytorch", ("tensorflow",), "tensorflow"),
    "made by TensorFlow, which is not there": ("tensorflow", ("torch",), "pytorch"),
    "made by something else": ("jax", ("torch", "tensorflow"), "pytorch"),
    "made by something else, and the second there": ("jax", ("tensorflow",), "tensorflow"),
}


@pytest.mark.parametrize(("made", "installed", "engine"), DEFAULTS.values(), ids=DEFAULTS)
def test_the_default_engine_is_the_makers_where_it_is_installed(
    made: str, installed: tuple[str, ...], engine: str, described, opened: list, monkeypatch: pytest.MonkeyPatch
):
    install(monkeypatch, *installed)
    path = described(made)
    _, name, spec, _ = open_engine(path, threads=3, device="cpu")
    assert name == engine
    assert opened == [(engine, path, spec, 3, "cpu")]


@pytest.mark.parametrize("made", ["pytorch", "tensorflow"])
@pytest.mark.parametrize("engine", ["pytorch", "tensorflow"])
def test_an_engine_that_is_asked_for_is_taken(made: str, engine: str, described, opened: list):
    assert open_engine(described(made), engine)[1] == engine
    assert [call[0] for call in opened] == [engine]


def test_neither_installed_says_what_to_install(described, monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch)
    expected = {
        "pytorch": "torch or tensorflow, neither is installed: install one with: "
        "pip install 'keylite[pytorch]' or 'keylite[tensorflow-cpu]'",
        "tensorflow": "tensorflow or torch, neither is installed: install one with: "
        "pip install 'keylite[tensorflow-cpu]' or 'keylite[pytorch]'",
    }
    for made, message in expected.items():
        with pytest.raises(ModuleNotFoundError) as caught:
            open_engine(described(made))
        assert str(caught.value) == f"{made}.safetensors: needs {message}"


def test_an_engine_that_is_asked_for_and_not_installed_is_not_replaced(described, monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, "torch")
    for module in [name for name in sys.modules if name.startswith("keylite.tensorflow")]:
        monkeypatch.delitem(sys.modules, module)  # another test may have imported it while there was a TensorFlow
    with pytest.raises(ModuleNotFoundError, match=r"^tensorflow is not installed: .*'keylite\[tensorflow-cpu\]'$"):
        open_engine(described("pytorch"), "tensorflow")


def test_other_engines_of_a_checkpoint_are_refused(described):
    with pytest.raises(ValueError, match="engine: pytorch.safetensors runs on pytorch or tensorflow, got 'onnx'"):
        open_engine(described("pytorch"), "onnx")


def test_choosing_imports_no_framework(described, python):
    if not (importlib.util.find_spec("torch") or importlib.util.find_spec("tensorflow")):
        pytest.skip("needs keylite[pytorch] or keylite[tensorflow-cpu]")
    path = described("tensorflow")
    assert read_spec(path).provenance.framework == "tensorflow"
    code = f"""
from pathlib import Path
from keylite.runtime.engines import default_engine
from keylite.runtime.modelfile import read_spec
path = Path({str(path)!r})
print(default_engine(["pytorch", "tensorflow"], path, read_spec(path)))
print([name for name in ("torch", "tensorflow", "keras") if name in sys.modules])
"""
    assert python(code).splitlines()[1:] == ["[]"]


# ---- .tflite


@pytest.fixture
def tflite(tmp_path: Path, make_spec) -> Path:
    """A described file that is no model."""
    path = tmp_path / "model.tflite"
    write_tflite(path, b"\x1c\0\0\0TFL3" + bytes(400), make_spec())
    return path


def test_a_tflite_file_runs_on_litert_alone(tflite: Path):
    for engine in ("onnx", "tensorflow", "pytorch"):
        with pytest.raises(ValueError, match=f"engine: model.tflite runs on litert or .*, got {engine!r}"):
            open_engine(tflite, engine)


def test_a_tflite_file_that_is_no_model_is_refused(tflite: Path):
    pytest.importorskip("ai_edge_litert", reason="needs keylite[litert]")
    with pytest.raises(ValueError, match=r"model\.tflite: LiteRT cannot open this file: ") as caught:
        open_engine(tflite)
    assert "\n" not in str(caught.value)


def test_a_damaged_tflite_file_is_refused_before_it_is_run(tflite: Path):
    pytest.importorskip("ai_edge_litert", reason="needs keylite[litert]")
    whole = bytearray(tflite.read_bytes())
    whole[100] ^= 1
    tflite.write_bytes(whole)
    with pytest.raises(ValueError, match=r"model\.tflite: the file is damaged"):
        open_engine(tflite)


TENSORS = {  # dtypes of input and output, as a converter can be asked for
    "float to float": (None, "float32", "float32"),
    "int8 to int8": ("int8", "int8", "int8"),
    "uint8 to uint8": ("int8", "uint8", "uint8"),
    "uint8 to float": ("int8", "uint8", "float32"),
    "float to int8": ("int8", "float32", "int8"),
}


@pytest.fixture(scope="module")
def small():
    """(Keras network of 8 px, an image takes 4 points; images uint8) to make files of all kinds from."""
    keras = pytest.importorskip("keras", reason="needs keylite[tensorflow-cpu]")
    pytest.importorskip("ai_edge_litert", reason="needs keylite[litert]")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3), batch_size=1),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(8),
            layers.Reshape((4, 2)),
        ]
    )
    return network, np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)


def normalised(images: np.ndarray) -> np.ndarray:
    return (images.astype(np.float32) - 127) / 128


@pytest.mark.parametrize(("precision", "taken", "given"), TENSORS.values(), ids=TENSORS)
def test_the_engine_takes_bytes_and_gives_float_whatever_the_file_does(
    precision, taken, given, small, tmp_path: Path, make_spec
):
    """Files of other tools, or of other options: what is quantised in or out stays inside the engine."""
    import tensorflow as tf

    from keylite.tensorflow.exporting import quiet

    network, images = small
    options = {}
    if precision:
        options = {
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "representative_dataset": lambda: ([normalised(image[None])] for image in images),
            "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
            "inference_input_type": getattr(tf, taken),
            "inference_output_type": getattr(tf, given),
        }
    with quiet():
        network.export(str(tmp_path / "flat.tflite"), format="litert", verbose=False, **options)
    path = tmp_path / "small.tflite"
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = interpreters.Interpreter(model_path=str(tmp_path / "flat.tflite"))
    fits = {"size": (8, 8), "precision": precision or "fp32", "input_type": taken}
    if given == "int8":
        fits["output"] = Quantised(*interpreter.get_output_details()[0]["quantization"])
    write_tflite(path, (tmp_path / "flat.tflite").read_bytes(), make_spec(**fits))
    assert interpreter.get_input_details()[0]["dtype"] == np.dtype(taken)
    assert interpreter.get_output_details()[0]["dtype"] == np.dtype(given)
    engine = open_engine(path)[0]
    raw = engine(images)
    assert raw.dtype == np.float32
    wanted = np.concatenate([network(normalised(image[None])).numpy() for image in images])
    far = np.abs(raw - wanted).max() / np.ptp(wanted)
    assert far < (0.04 if precision else 1e-5)
    one_by_one = np.concatenate([engine(images[i : i + 1]) for i in range(3)])
    assert np.array_equal(one_by_one, raw[:3])


def test_litert_says_which_pixels_it_takes_and_where_it_runs(small, tmp_path: Path, make_spec):
    from keylite.tensorflow.exporting import quiet

    network, images = small
    with quiet():
        network.export(str(tmp_path / "flat.tflite"), format="litert", verbose=False)
    path = tmp_path / "small.tflite"
    write_tflite(path, (tmp_path / "flat.tflite").read_bytes(), make_spec(size=(8, 8), input_type="float32"))
    engine = open_engine(path, device="cpu")[0]
    with pytest.raises(ValueError, match=r"pixels: expected \(B, 8, 8, 3\), got \(2, 8, 9, 3\)"):
        engine(np.zeros((2, 8, 9, 3), np.uint8))
    assert engine(images[:0]).shape == (0, 4, 2)
    with pytest.raises(ValueError, match="device: the litert engine runs on the cpu, got 'cuda'"):
        open_engine(path, device="cuda")


FOREIGN = {  # what a description of another file says, and what the file has
    "other keypoints": (
        {"head": Regression(3), "skeleton": Skeleton(("a", "b", "c")), "mean_shape": None},
        "head.keypoints: 3 there, 4 in the file",
    ),
    "another size": ({"size": (96, 64)}, "size: 96x64 there, 64x64 in the file"),
    "another head": ({"head": Heatmap(4, (8, 8))}, "channels of a heatmap head: 64 there, 2 in the file"),
    "other pixels": ({"input_type": "int8"}, "input_type: int8 there, uint8 in the file"),
    "another precision": (
        {"precision": "int8", "weight_scales": "per-tensor"},
        "precision: int8 there, fp32 in the file",
    ),
    "half of the precision": ({"precision": "fp16"}, "precision: fp16 there, fp32 in the file"),
    "integers at its end": (
        {"output": Quantised(0.5, -3)},
        "output: int8 of scale 0.5 and zero -3 there, float32 in the file",
    ),
    "other stages": ({"stages": 5}, "stages: 5 there, 7 in the file"),
}
CHECKPOINT = {  # the same for a checkpoint, whose weights fit any size
    "other pixels": "input_type: its description says 'int8', but a .safetensors file has 'uint8'",
    "another precision": "precision: its description says 'int8', but a .safetensors file has 'fp32'",
    "half of the precision": "precision: its description says 'fp16', but",
    "integers at its end": "output: its description says Quantised",
}


def bare(path: Path, folder: Path) -> Path:
    """The same file without its description, as another tool would have written it."""
    other = folder / f"bare{path.suffix}"
    if path.suffix == ".tflite":
        other.write_bytes(tflite_model(path))
    elif path.suffix == ".onnx":
        onnx = pytest.importorskip("onnx")
        proto = onnx.load(path)
        del proto.metadata_props[:]
        onnx.save(proto, other)
    else:
        numpy = pytest.importorskip("safetensors.numpy")
        numpy.save_file(numpy.load_file(path), other)
    return other


BARE = {"onnx": "onnx_file", "litert": "litert_file", "pytorch": "model_file", "tensorflow": "model_file"}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("engine", BARE)
def test_a_description_of_another_file_is_refused(engine: str, kind: str, request, make_spec, tmp_path: Path):
    changes, words = FOREIGN[kind]
    if engine in ("pytorch", "tensorflow"):
        if "size" in changes:
            pytest.skip("these weights are for any size")
        words = CHECKPOINT.get(kind, "weights do not fit")
    pytest.importorskip(ENGINES[engine].package)
    path, apart = bare(request.getfixturevalue(BARE[engine]), tmp_path), tmp_path / "spec.json"
    apart.write_text(encode_spec(make_spec(**changes)))
    with pytest.raises(ValueError, match=rf"bare\.\w+: (its description is that of another file: )?{words}"):
        open_engine(path, engine, spec=apart)


@pytest.mark.parametrize(("ends", "changes", "words"), [
    ("int8", {"output": Quantised(0.5, 3)}, r"output: int8 of scale 0\.5 and zero 3 there, int8 of scale .* in the file; give"),
    ("int8", {"output": None, "input_type": "uint8"}, r"input_type: uint8 there, int8 in .*; output: float32 there, int8 of"),
    (None, {"precision": "fp32", "weight_scales": None}, "precision: fp32 there, int8 in the file; give"),
    (None, {"weight_scales": "per-tensor"}, "weight_scales: per-tensor there, per-channel in the file; give"),
])  # fmt: skip
def test_a_changed_description_of_integers_is_refused(ends, changes: dict, words: str, int8_of, tmp_path: Path):
    """Under a seal that is right, so the file needs no trial."""
    pytest.importorskip("ai_edge_litert", reason="needs keylite[litert]")
    model, path = int8_of("heatmap", ends), tmp_path / "changed.tflite"
    write_tflite(path, tflite_model(model), msgspec.structs.replace(read_spec(model), **changes))
    with pytest.raises(ValueError, match=rf"changed\.tflite: its description is that of another file: {words}"):
        open_engine(path)


@pytest.mark.parametrize("engine", BARE)
def test_a_file_without_a_description_runs_with_one_apart(engine: str, request, make_spec, crops, tmp_path: Path):
    pytest.importorskip(ENGINES[engine].package)
    described = request.getfixturevalue(BARE[engine])
    path, apart = bare(described, tmp_path), tmp_path / "spec.json"
    with pytest.raises(ValueError, match=r"bare\.\w+: holds no keylite description"):
        open_engine(path, engine)
    apart.write_text(encode_spec(make_spec(padding=0.5)))
    opened = open_engine(path, engine, spec=apart)
    assert opened.spec.padding == 0.5
    assert np.array_equal(opened.engine(crops), open_engine(described, engine).engine(crops))
    with pytest.raises(ValueError, match=r"four\.\w+: already holds its description; leave out `spec`"):
        open_engine(described, engine, spec=apart)
    apart.write_text(encode_spec(make_spec(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))))
    if engine in ("pytorch", "tensorflow"):  # the graphs of the others hold their normalisation
        assert np.abs(open_engine(path, engine, spec=apart).engine(crops) - opened.engine(crops)).max() > 1e-3
