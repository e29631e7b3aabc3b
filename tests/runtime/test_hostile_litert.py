"""LiteRT graphs that no converter writes, under a seal that is right: each is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs keylite[litert]")
flatbuffers = pytest.importorskip("flatbuffers")

from seeds import spec_of, write_litert

from keylite import ModelFileError, Predictor, measure_target
from keylite.runtime.modelfile import read_spec, tflite_model, write_tflite
from keylite.runtime.spec import encode_spec

FAR = 2**31 - 1
SPEC = spec_of(input_type="float32")


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("graph") / "sound.tflite"
    write_litert(path)
    return tflite_model(path)


def operator(graph, name: str = "", code: int = schema.BuiltinOperator.CUSTOM) -> None:
    entry = graph.operatorCodes[0]
    entry.builtinCode, entry.deprecatedBuiltinCode, entry.customCode = code, min(code, 127), name or None


def shape(graph, *sides: int) -> None:
    part = graph.subgraphs[0]
    part.tensors[part.inputs[0]].shape = np.array(sides, np.int32)


def points_at(graph, number: int) -> None:
    graph.subgraphs[0].operators[0].inputs = np.array([number, 1], np.int32)


def empty(graph) -> None:
    for buffer in graph.buffers:
        buffer.data = None


CHANGES = {
    "an operator of no kind": lambda graph: operator(graph, code=9999),
    "somebody's own operator": lambda graph: operator(graph, "NoSuchOperator"),
    "TensorFlow's operator that reads files": lambda graph: operator(graph, "FlexReadFile"),
    "an input without end": lambda graph: shape(graph, FAR, FAR, FAR, FAR),
    "an input of less than nothing": lambda graph: shape(graph, -1, -1, -1, -1),
    "an input of nothing": lambda graph: shape(graph, 0),
    "a tensor that is not there": lambda graph: points_at(graph, FAR),
    "a tensor before the first": lambda graph: points_at(graph, -5),
    "weights that are not there": empty,
    "no graph": lambda graph: graph.subgraphs.clear(),
}


def slice_of_nothing(graph) -> None:
    operator(graph, code=schema.BuiltinOperator.SLICE)
    row = graph.subgraphs[0].operators[0]
    row.inputs, row.builtinOptions, row.builtinOptionsType = np.array([0], np.int32), None, 0


def scales_of_zero(graph) -> None:
    for tensor in graph.subgraphs[0].tensors:
        quantised = tensor.quantization
        if quantised is not None and quantised.scale is not None and len(quantised.scale) == 1:
            quantised.scale = np.zeros(1, np.float32)


def grows(graph) -> None:
    """A layer that repeats its input makes 12 GB, and no shape in the file says so."""
    operator(graph, code=schema.BuiltinOperator.TILE)
    part = graph.subgraphs[0]
    row = part.operators[0]
    row.builtinOptions, row.builtinOptionsType = None, 0
    times = schema.TensorT()
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.array([1, 1000, 1000, 1], np.int32).tobytes(), np.uint8)
    graph.buffers.append(buffer)
    times.name, times.shape, times.type = b"times", np.array([4], np.int32), schema.TensorType.INT32
    times.buffer = len(graph.buffers) - 1
    part.tensors.append(times)
    row.inputs = np.array([0, len(part.tensors) - 1], np.int32)


HARMFUL = {
    "an operator without its inputs": (slice_of_nothing, "running it once ended the process by SIG|LiteRT cannot open"),
    "an output without end": (grows, "it asks for more than 4.3 GB of memory|LiteRT cannot |SIG"),
}
CUTS = {f"the first {part} of 100 parts": part for part in (1, 50, 99)}


def changed(flat: bytes, change: Callable[[Any], None]) -> bytes:
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flat, 0))
    change(graph)
    builder = flatbuffers.Builder(len(flat))
    builder.Finish(graph.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def refusal(flat: bytes, folder: Path) -> str:
    path = folder / "hostile.tflite"
    write_tflite(path, flat, SPEC)
    with pytest.raises(ValueError) as caught:
        Predictor(path)(np.zeros((60, 80, 3), np.uint8))
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_hostile_graph_is_one_line(change, flat, tmp_path):
    assert refusal(changed(flat, change), tmp_path).startswith(("LiteRT cannot ", "expected tensors of at most 1.1 GB"))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_tensorflow_lite_micro_does_not_get_what_litert_refuses(change, flat, tmp_path):
    pytest.importorskip("tflite_micro", reason="needs keylite[micro]")
    path = tmp_path / "hostile.tflite"
    write_tflite(path, changed(flat, change), msgspec.structs.replace(SPEC, precision="int8"))
    with pytest.raises(ValueError) as caught:
        Predictor(path, engine="tflm")
    line = str(caught.value)
    starts = ("LiteRT cannot ", "expected tensors of at most", "its description is that of another file: precision")
    assert line.startswith(tuple(f"{path}: {words}" for words in starts))
    assert "\n" not in line


@pytest.mark.parametrize("part", CUTS.values(), ids=CUTS)
def test_a_graph_that_was_cut_before_it_was_sealed_is_one_line(part, flat, tmp_path):
    assert refusal(flat[: len(flat) * part // 100], tmp_path).startswith("LiteRT cannot open this file: ")


@pytest.mark.parametrize("engine", ["litert", "litert-reference"])
@pytest.mark.parametrize(("change", "words"), HARMFUL.values(), ids=HARMFUL)
def test_a_file_without_a_seal_that_ends_its_process_is_one_line(change, words, engine, flat, tmp_path):
    path, apart = tmp_path / "harmful.tflite", tmp_path / "spec.json"
    path.write_bytes(changed(flat, change))
    apart.write_text(encode_spec(SPEC))
    with pytest.raises(ModelFileError, match=words) as caught:
        Predictor(path, engine=engine, spec=apart)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_of_integers_that_ends_its_process_is_one_line(int8_of, tmp_path):
    pytest.importorskip("tflite_micro", reason="needs keylite[micro]")
    path, apart = tmp_path / "harmful.tflite", tmp_path / "spec.json"
    model = int8_of("heatmap")
    apart.write_text(encode_spec(read_spec(model)))
    path.write_bytes(tflite_model(model))
    assert Predictor(path, engine="tflm", spec=apart).engine_name == "tflm"
    path.write_bytes(changed(tflite_model(model), scales_of_zero))
    for use in (lambda: Predictor(path, engine="tflm", spec=apart), lambda: measure_target(path, "tflm", spec=apart)):
        with pytest.raises(
            ModelFileError, match="the engine tflm cannot run this file: running it once ended"
        ) as caught:
            use()
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_a_trial_that_takes_too_long_or_cannot_start_is_no_traceback(flat, tmp_path, monkeypatch):
    path, apart = tmp_path / "slow.tflite", tmp_path / "spec.json"
    path.write_bytes(flat)
    apart.write_text(encode_spec(SPEC))

    def run(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", run)
        with pytest.raises(
            ModelFileError, match="the engine litert cannot run this file: it had not run once after 60 s"
        ):
            Predictor(path, spec=apart)
    monkeypatch.setattr(sys, "executable", "")
    assert Predictor(path, spec=apart).spec == SPEC


def test_a_file_with_a_seal_needs_no_trial(flat, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    write_tflite(tmp_path / "sound.tflite", flat, SPEC)
    assert Predictor(tmp_path / "sound.tflite").spec == SPEC
