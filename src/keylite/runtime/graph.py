"""Reads the graph of a `.tflite` file: its operators in order, and the layers that made their outputs."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from keylite.runtime.packages import require

OUTPUT = "output"  # what an operator that writes the output of the graph makes

WEIGHT_AXES = {  # kind of a layer with weights -> the axes of its weights along which a value of its output adds up
    "CONV_2D": (1, 2, 3),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1,),
}


def graph_of(flat: bytes) -> Any:
    """A LiteRT model as an object that can be changed."""
    schema = require("ai_edge_litert.schema_py_generated", "litert")
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(flat, 0))


def flat_of(graph: Any) -> bytes:
    """The bytes of a LiteRT model."""
    builder = require("flatbuffers").Builder(0)
    builder.Finish(graph.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operators_of(graph: Any) -> list[tuple[str, Any]]:
    """(kind, operator) of each operator of a model, in order. The kind of a custom operator is its own name."""
    schema = require("ai_edge_litert.schema_py_generated", "litert")
    known: Any = schema.BuiltinOperator
    names = {getattr(known, name): name for name in dir(known) if not name.startswith("_")}
    # of the two codes, one is 0 in old files, and the other is 127 for kinds that came later
    codes: list[Any] = graph.operatorCodes
    kinds: list[str] = [
        (code.customCode or b"").decode(errors="replace") or names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        for code in codes
    ]
    parts: list[list[Any]] = [part.operators or [] for part in graph.subgraphs]
    return [(kinds[row.opcodeIndex], row) for part in parts for row in part]


def macs_of(graph: Any) -> int:
    """The multiplications per run, each with an addition, in the layers with weights of a model with one subgraph."""
    tensors: list[Any] = graph.subgraphs[0].tensors
    total = 0
    for kind, row in operators_of(graph):
        if kind in WEIGHT_AXES:
            weights, output = (tensors[index].shape for index in (row.inputs[1], row.outputs[0]))
            total += math.prod(map(int, output)) * math.prod(int(weights[axis]) for axis in WEIGHT_AXES[kind])
    return total


def layers_of(graph: Any) -> list[tuple[str, str]]:
    """(kind, layer) of each operator of a model with one subgraph, in order; OUTPUT is the layer of the last one."""
    part = graph.subgraphs[0]
    ends = set(part.outputs)
    return [
        (kind, OUTPUT if row.outputs[0] in ends else layer_name(part.tensors[row.outputs[0]].name.decode()))
        for kind, row in operators_of(graph)
    ]


class Weights(NamedTuple):
    """A layer with weights: its name, the channels that go in and come out, and the bytes of what is stored for it."""

    layer: str
    inputs: int
    outputs: int
    bytes: int


def weights_of(graph: Any) -> list[Weights]:
    """The layers with weights of a model with one subgraph, in order."""
    tensors: list[Any] = graph.subgraphs[0].tensors
    found: list[Weights] = []
    for (_, row), (kind, layer) in zip(operators_of(graph), layers_of(graph), strict=True):
        if kind in WEIGHT_AXES:
            stored = [tensors[index] for index in row.inputs[1:] if index >= 0]
            inputs, outputs = (int(tensors[index].shape[-1]) for index in (row.inputs[0], row.outputs[0]))
            found.append(Weights(layer, inputs, outputs, sum(_stored(graph, tensor) for tensor in stored)))
    return found


def _stored(graph: Any, tensor: Any) -> int:
    """The bytes of a constant: its values, and a scale and a zero point for each of its channels."""
    values = graph.buffers[tensor.buffer].data
    scales = None if tensor.quantization is None else tensor.quantization.scale
    return (0 if values is None else len(values)) + 12 * (0 if scales is None else len(scales))


def layer_name(tensor: str) -> str:
    """The name of the Keras layer that made a tensor of a converted file, without the number that the converter adds.

    The tensor's own name lists all layers that were folded into it; this is the one with weights, if there is one.
    """
    parts = [part.split("/") for part in tensor.split(";")]
    weighty = [part for part in parts if part[-1] in ("convolution", "depthwise", "MatMul")]
    return re.sub(r"_\d+$", "", (weighty or parts)[0][-2 if len((weighty or parts)[0]) > 1 else -1])
