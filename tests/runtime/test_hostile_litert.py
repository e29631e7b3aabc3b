"""LiteRT graphs that no converter writes, under a seal that is right: each is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs keylite[litert]")
flatbuffers = pytest.importorskip("flatbuffers")

from seeds import spec_of, write_litert

from keylite import Predictor
from keylite.runtime.modelfile import tflite_model, write_tflite

FAR = 2**31 - 1


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
CUTS = {f"the first {part} of 100 parts": part for part in (1, 50, 99)}


def changed(flat: bytes, change: Callable[[Any], None]) -> bytes:
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flat, 0))
    change(graph)
    builder = flatbuffers.Builder(len(flat))
    builder.Finish(graph.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def refusal(flat: bytes, folder: Path) -> str:
    path = folder / "hostile.tflite"
    write_tflite(path, flat, spec_of())
    with pytest.raises(ValueError) as caught:
        Predictor(path)(np.zeros((60, 80, 3), np.uint8))
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_hostile_graph_is_one_line(change, flat, tmp_path):
    assert refusal(changed(flat, change), tmp_path).startswith(("LiteRT cannot ", "expected one input "))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_tensorflow_lite_micro_does_not_get_what_litert_refuses(change, flat, tmp_path):
    pytest.importorskip("tflite_micro", reason="needs keylite[micro]")
    path = tmp_path / "hostile.tflite"
    write_tflite(path, changed(flat, change), msgspec.structs.replace(spec_of(), precision="int8"))
    with pytest.raises(ValueError) as caught:
        Predictor(path, engine="tflm")
    line = str(caught.value)
    assert line.startswith((f"{path}: LiteRT cannot ", f"{path}: expected one input "))
    assert "\n" not in line


@pytest.mark.parametrize("part", CUTS.values(), ids=CUTS)
def test_a_graph_that_was_cut_before_it_was_sealed_is_one_line(part, flat, tmp_path):
    assert refusal(flat[: len(flat) * part // 100], tmp_path).startswith("LiteRT cannot open this file: ")
