"""Files that take or give other numbers than bytes and floats: the same network, and the same points in every engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import keylite
from keylite.data.arrays import from_arrays
from keylite.exporting import export as exports
from keylite.exporting.form import Form
from keylite.pictures.page import write_page
from keylite.runtime.engines import open_engine
from keylite.runtime.heads import Heatmap
from keylite.runtime.modelfile import read_spec
from keylite.runtime.spec import Quantised
from tests.conftest import FOUR, four_point_spec, write_random_model

SIZE = (32, 48)
FLOATS, INTEGERS = "float32", "int8"


@pytest.fixture(scope="module")
def parent(once: Callable) -> Path:
    """A model file of a heatmap head on the first three stages of lite0."""
    spec = four_point_spec(size=SIZE, stages=3, box="image", padding=0.0, head=Heatmap(4, (4, 6), 8))
    return once("small_maps.safetensors", lambda path: write_random_model(path, spec))


@pytest.fixture(scope="module")
def data() -> keylite.Dataset:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (48, 32, 3), np.uint8) for _ in range(16)]
    return from_arrays(images, rng.uniform(4, 28, (16, 4, 2)), skeleton=FOUR)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, 48, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def file(parent: Path, data: keylite.Dataset, once: Callable) -> Callable[..., Path]:
    """A function: (suffix, precision, type of the input, type of the output) -> the export, each made once."""

    def make(suffix: str, precision: str, taken: str = "uint8", given: str = FLOATS) -> Path:
        for package in ("onnx", "onnxscript") if suffix == ".onnx" else ("tensorflow", "ai_edge_litert"):
            pytest.importorskip(package, reason="needs what makes this format")
        images = {"calibration": data} if precision == "int8" else {}
        choices = {"precision": precision, "input_type": taken, "output_type": given, "budget": 32.0, **images}

        def write(path: Path) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exports, "_reference", lambda *_: None)  # it would make the parent's ONNX each time
                keylite.export(parent, data, path, **choices)

        return once(f"small_maps.{precision}.{taken}.{given}{suffix}", write)

    return make


# ---- LiteRT


def test_a_file_of_integers_gives_the_points_of_the_file_with_floats_at_its_ends(file, pixels: np.ndarray):
    """QUANTIZE and DEQUANTIZE are only moved out of the file, into the engine."""
    usual = file(".tflite", "int8")
    wanted = open_engine(usual).engine(pixels)
    assert wanted.std(axis=0).max() > 1e-3
    for taken, given in (("uint8", INTEGERS), (INTEGERS, FLOATS), (INTEGERS, INTEGERS)):
        path = file(".tflite", "int8", taken, given)
        for name in ("litert", "litert-reference"):
            raw = open_engine(path, name).engine(pixels)
            assert raw.dtype == np.float32
            kernels = wanted if name == "litert" else open_engine(usual, name).engine(pixels)
            np.testing.assert_allclose(raw, kernels, rtol=1e-6, atol=1e-7)
        points = keylite.Predictor(path)(pixels[0]).xy
        np.testing.assert_allclose(points, keylite.Predictor(usual)(pixels[0]).xy, atol=1e-4)


def test_integers_at_both_ends_need_no_operator_for_them(file):
    from keylite.tensorflow.exporting import operators

    found = {taken + given: operators(file(".tflite", "int8", taken, given)) for taken, given in ENDS}
    usual = found.pop("uint8float32")
    assert (usual["QUANTIZE"], usual["DEQUANTIZE"]) == (1, 1)
    rest = {kind: count for kind, count in usual.items() if "QUANTIZE" not in kind}
    assert found == {
        "uint8int8": rest | {"QUANTIZE": 1},
        "int8float32": rest | {"DEQUANTIZE": 1},
        "int8int8": rest,
    }


ENDS = [("uint8", FLOATS), ("uint8", INTEGERS), (INTEGERS, FLOATS), (INTEGERS, INTEGERS)]


def test_a_stock_interpreter_takes_the_bytes_minus_128_and_its_integers_are_as_described(file, pixels: np.ndarray):
    interpreters = pytest.importorskip("ai_edge_litert.interpreter", reason="needs keylite[litert]")
    path = file(".tflite", "int8", INTEGERS, INTEGERS)
    spec = read_spec(path)
    assert spec.input_type == "int8" and isinstance(spec.output, Quantised)
    interpreter = interpreters.Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (taken["dtype"], taken["quantization"]) == (np.int8, (1 / 128, -1))
    assert (given["dtype"], given["quantization"]) == (np.int8, (spec.output.scale, spec.output.zero))
    interpreter.set_tensor(taken["index"], (pixels[:1].astype(int) - 128).astype(np.int8))
    interpreter.invoke()
    values = interpreter.get_tensor(given["index"]).astype(np.float32)
    raw = np.float32(spec.output.scale) * (values - spec.output.zero)
    assert np.array_equal(raw, open_engine(path, threads=1).engine(pixels[:1]))


def test_tensorflow_lite_micro_runs_it_with_fewer_operators(file, pixels: np.ndarray):
    pytest.importorskip("tflite_micro", reason="needs keylite[micro]")
    path = file(".tflite", "int8", INTEGERS, INTEGERS)
    micro, reference = (open_engine(path, name).engine(pixels) for name in ("tflm", "litert-reference"))
    assert np.array_equal(micro, reference)
    needed, usual = (set(keylite.measure_target(model, "tflm").operators) for model in (path, file(".tflite", "int8")))
    assert usual - needed == {"QUANTIZE", "DEQUANTIZE"} and needed < usual


# ---- ONNX


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_floats_take_neither_cast_nor_shape_and_give_the_same(precision: str, file, pixels: np.ndarray):
    usual, path = (file(".onnx", precision, taken) for taken in ("uint8", FLOATS))
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(path).graph
    assert not {node.op_type for node in graph.node} & {"Cast", "Shape", "Gather", "Range", "If", "Loop"}
    (taken,) = graph.input
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [size.dim_value for size in taken.type.tensor_type.shape.dim] == [1, 48, 32, 3]
    assert read_spec(path).input_type == FLOATS
    engine = open_engine(path).engine
    raw = engine(pixels)
    assert (raw.dtype, raw.shape) == (np.float32, (3, 4, 24))
    np.testing.assert_allclose(raw, open_engine(usual).engine(pixels), atol=1e-4)
    assert engine(pixels[:0]).shape == (0, 4, 24)


# ---- what says so


def ended(words: list[str]) -> int:
    """The exit code of a command."""
    from keylite.cli import main

    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code or 0


def test_info_and_golden_vectors_say_the_types(file, data: keylite.Dataset, tmp_path: Path, capsys):
    path = file(".tflite", "int8", INTEGERS, INTEGERS)
    output = read_spec(path).output
    assert ended(["info", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "int8 RGB, pixel - 128; normalised inside, (pixel - 127) / 128" in said
    assert f"int8, {output.scale:.6g} * (value - {output.zero})" in said
    facts = json.loads(keylite.write_golden(path, data, tmp_path / "golden", 1).read_text())
    assert (facts["input_type"], facts["output"]) == ("int8", [output.scale, output.zero])
    steps = np.array(facts["cases"][0]["raw"]) / output.scale
    assert np.abs(steps - steps.round()).max() < 1e-3, "raw is what the engine gives: floats of whole steps"


# ---- what is refused

WRONG = {
    "floats into LiteRT": (
        ("litert", "int8", FLOATS, FLOATS),
        "input_type: for litert in int8 expected uint8 or int8, got 'float32'; float32 is possible for onnx in fp32 or",
    ),
    "integers into a float file": (
        ("litert", "fp16", INTEGERS, FLOATS),
        "input_type: for litert in fp16 expected uint8, got 'int8'; int8 is possible for litert in int8",
    ),
    "integers out of a float file": (
        ("litert", "fp32", "uint8", INTEGERS),
        "output_type: for litert in fp32 expected float32, got 'int8'; int8 is possible for litert in int8",
    ),
    "integers into ONNX": (
        ("onnx", "int8", INTEGERS, FLOATS),
        "for onnx in int8 expected uint8 or float32, got 'int8'",
    ),
    "integers out of ONNX": (("onnx", "fp32", FLOATS, INTEGERS), "output_type: for onnx in fp32 expected float32, got"),
    "no type": (
        ("onnx", "fp32", "uint4", FLOATS),
        "input_type: for onnx in fp32 expected uint8 or float32, got 'uint4'",
    ),
    "no text": (("onnx", "fp32", None, FLOATS), "input_type: expected a text"),
}


@pytest.mark.parametrize(("choices", "words"), WRONG.values(), ids=WRONG)
def test_other_types_are_refused_in_one_line(choices: tuple, words: str):
    with pytest.raises(ValueError) as refusal:
        Form(*choices)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("head", ["regression", "rle", "simcc"])
def test_a_head_that_ends_in_float_is_refused_before_anything_is_written(
    head: str, model_file, rle_file, simcc_file, data, tmp_path: Path
):
    pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")
    model = {"regression": model_file, "rle": rle_file, "simcc": simcc_file}[head]
    words = rf"^output_type: expected float32 for a {head} head, because its last layer is dense .* got 'int8'"
    choices = {"precision": "int8", "output_type": "int8", "calibration": data}
    with pytest.raises(ValueError, match=words):
        keylite.export(model, data, tmp_path / "a.tflite", **choices)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("others", [("--to", "all", "--out", "out"), ("--to", "litert", "--diagnose")], ids=str)
def test_types_are_for_one_file(others: tuple[str, ...], parent: Path, capsys):
    assert ended(["export", str(parent), "--data", "none.json", "--output-type", "int8", *others]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--output-type: it is for one exported file; leave out --diagnose and --to all" in line


def test_a_page_says_what_its_runtime_does_not_take(file, tmp_path: Path):
    path = file(".tflite", "int8", INTEGERS, FLOATS)
    words = (
        r"^model: LiteRT.js has no int8 tensors, .* export it with `input_type='uint8'` and `output_type='float32'`$"
    )
    with pytest.raises(ValueError, match=words):
        write_page(path, tmp_path / "page")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("scale", "zero"), [(0.0, 0), (-1.0, 0), (float("inf"), 0), (1.0, 128), (1.0, -129)])
def test_a_description_with_impossible_integers_is_refused(scale: float, zero: int, make_spec):
    text = keylite.runtime.spec.encode_spec(make_spec(output=Quantised(0.5, 0)))
    assert keylite.runtime.spec.decode_spec(text, "a").output == Quantised(0.5, 0)
    fields = json.loads(text) | {"output": {"scale": scale, "zero": zero}}
    with pytest.raises(ValueError, match="^a: "):
        keylite.runtime.spec.decode_spec(json.dumps(fields), "a")


def test_a_spec_without_types_is_refused(make_spec):
    fields = msgspec.to_builtins(make_spec())
    del fields["input_type"]
    with pytest.raises(ValueError, match="^a: the model description inside the file is damaged"):
        keylite.runtime.spec.decode_spec(json.dumps(fields), "a")
