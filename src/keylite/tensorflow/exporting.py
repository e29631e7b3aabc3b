"""Writes LiteRT files from model files of both frameworks, in float and in int8.

The graph takes pixels and gives the raw output of the head; the file also holds the spec. Knows nothing of budgets and
certificates.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2  # not a public API

from keylite.exporting.calibration import CalibrationSet
from keylite.exporting.equalise import ready_for_int8
from keylite.exporting.form import require_backbone
from keylite.runtime.chatter import without_chatter
from keylite.runtime.errors import ArgumentError
from keylite.runtime.graph import flat_of, graph_of, operators_of
from keylite.runtime.modelfile import tflite_model, write_tflite
from keylite.runtime.spec import ModelSpec, Quantised
from keylite.tensorflow.model import assign, load_model, tensors

LARGEST = 127  # what stands for the largest weight of a scale
ENDS = (
    ["FULLY_CONNECTED", "RESHAPE", "DEQUANTIZE"],
    ["FULLY_CONNECTED", "DEQUANTIZE"],
)  # the last operators of a converted int8 graph with a dense layer
STATE = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")  # operators of variables that keep a state


def export(
    parent: Path,
    out: Path,
    spec: ModelSpec,
    calibration: CalibrationSet | None = None,
    output_type: str = "float32",
) -> None:
    """Write the network of a `.safetensors` model file as LiteRT with this spec inside; on failure, write nothing.

    Input `pixels`: uint8 (1, H, W, 3) RGB. Output: float32 (1, K, C). A float graph casts and normalises the pixels; in
    an int8 graph, the scale of the input is the normalisation. An int8 graph may also take int8 (the bytes minus 128),
    as `spec.input_type` says, and give int8. calibration: needed if `spec.precision` is int8, else None. Raises
    ArgumentError for a backbone other than EfficientNet-Lite.
    """
    require_backbone("litert", spec)
    network, _ = load_model(parent, spec)
    if calibration is not None:
        assign(network, ready_for_int8(tensors(network), spec, calibration.pixels, LARGEST))
    width, height = spec.size
    shape = (1, height, width, 3)
    if spec.precision == "int8":
        model, dtype = network, "float32"
    else:
        pixels = keras.Input(shape[1:], batch_size=1, name="pixels", dtype="uint8")
        normalise = keras.layers.Rescaling(1 / spec.std[0], -spec.mean[0] / spec.std[0], name="normalise")
        model, dtype = keras.Model(pixels, network(normalise(pixels))), "uint8"
    with quiet():
        graph = graph_of(converter_of(frozen(model, shape, dtype), spec, calibration, output_type).convert())
    pixels_first(graph)
    if output_type == "int8":
        spec = msgspec.structs.replace(spec, output=output_of(graph))
    elif spec.precision == "int8":
        last_dense_float(graph, network)
    name_ends(graph)
    if foreign := foreign_operators(graph):
        raise ArgumentError(
            f"{out.name}: expected operators that every LiteRT has and that keep nothing between images, got "
            f"{', '.join(foreign)}; nothing was written; use `to='onnx'`"
        )
    write_tflite(out, flat_of(graph), spec)


def frozen(model: keras.Model, shape: tuple[int, ...], dtype: str) -> Any:
    """The network as a TensorFlow function of `pixels` with its weights as constants.

    `keras.Model.export` would also write a SavedModel: the same operators and points, in five times the time.
    """
    pixels = tf.TensorSpec(shape, dtype, name="pixels")
    traced = tf.function(lambda pixels: model(pixels, training=False), input_signature=[pixels], autograph=False)
    return convert_variables_to_constants_v2(traced.get_concrete_function())


def converter_of(
    function: Any, spec: ModelSpec, calibration: CalibrationSet | None, output_type: str = "float32"
) -> Any:
    """A converter of a function from `frozen` to the precision of a spec; a converter works only once."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter._experimental_disable_per_channel = spec.weight_scales == "per-tensor"  # it has no public name
    converter.experimental_lower_to_saved_model = False  # else it makes a SavedModel, in which it finds no weights
    for name, value in converter_options(spec, calibration, output_type).items():
        if name == "target_spec":
            for field, chosen in value.items():
                setattr(converter.target_spec, field, chosen)
        else:
            setattr(converter, name, value)
    return converter


def pixels_first(model: Any) -> None:
    """Put the operator that takes the pixels, a CAST, before all others.

    XNNPACK cannot do a CAST. If operators stand before it (they convert fp16 weights), LiteRT cuts the graph in two
    around it. If none does, XNNPACK gets the whole rest.
    """
    graph = model.subgraphs[0]
    graph.operators.sort(key=lambda operator: graph.inputs[0] not in operator.inputs)


def last_dense_float(model: Any, network: keras.Model) -> None:
    """Give the last dense layer of an int8 graph float weights and a float output; do nothing without a dense layer.

    With 8 bits, the points of a regression could only lie on a grid, half a px apart at an input of 128 px. In float,
    the layer takes no more time. No option of TFLiteConverter does this; QuantizationDebugger does, but it leaves a
    float input.
    """
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    if not layers:
        return
    graph, names = model.subgraphs[0], [operator for operator, _ in steps(model)]
    place = max((i for i, name in enumerate(names) if name == "FULLY_CONNECTED"), default=0)
    if names[place:] not in ENDS:
        raise RuntimeError(
            f"an int8 graph of this TensorFlow ends with {', '.join(names[-3:])}, which keylite does not know"
        )
    *others, dense = graph.operators[: place + 1]
    *reshape, last = graph.operators[place + 1 :]
    features = copy.copy(graph.tensors[dense.inputs[0]])
    features.name = b"features"
    graph.tensors.append(features)
    integers = [graph.tensors[index].buffer for index in dense.inputs[1:]]
    for index in (len(graph.tensors) - 1, *dense.inputs[1:], dense.outputs[0]):
        tensor = graph.tensors[index]
        tensor.type, tensor.quantization, tensor.buffer = schema.TensorType.FLOAT32, None, 0
    for index, values in zip(dense.inputs[1:], layers[-1].get_weights(), strict=True):
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values.T, np.float32).tobytes(), np.uint8)
        graph.tensors[index].buffer = len(model.buffers)
        model.buffers.append(buffer)
    for unused in set(integers) - {tensor.buffer for tensor in graph.tensors}:
        model.buffers[unused].data = None
    (reshape or [dense])[-1].outputs = last.outputs
    last.inputs, last.outputs = [dense.inputs[0]], [len(graph.tensors) - 1]
    dense.inputs = [len(graph.tensors) - 1, *dense.inputs[1:]]
    graph.operators = [*others, last, dense, *reshape]


def output_of(model: Any) -> Quantised:
    """What the integers of an int8 output stand for."""
    graph = model.subgraphs[0]
    output = graph.tensors[graph.outputs[0]].quantization
    return Quantised(float(output.scale[0]), int(output.zeroPoint[0]))


def name_ends(model: Any) -> None:
    """Give a converted graph the signature that apps on phones expect: input `pixels`, output `output_0`."""
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs, signature.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
    for end, name, index in (
        (signature.inputs[0], b"pixels", graph.inputs[0]),
        (signature.outputs[0], b"output_0", graph.outputs[0]),
    ):
        end.name, end.tensorIndex = name, index
    model.signatureDefs = [signature]


def foreign_operators(model: Any) -> list[str]:
    """The operators that LiteRT does not have itself (those of TensorFlow begin with Flex) or that keep a state."""
    custom = [bool(code.customCode) for code in model.operatorCodes]
    return sorted({kind for kind, row in operators_of(model) if custom[row.opcodeIndex] or kind in STATE})


def converter_options(spec: ModelSpec, calibration: CalibrationSet | None, output_type: str) -> dict[str, Any]:
    """The options of `tf.lite.TFLiteConverter` for the precision of a spec."""
    any_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]  # so that an error can name foreign operators
    if spec.precision == "fp32":
        return {"target_spec": {"supported_ops": any_ops}}
    if spec.precision == "fp16":
        target = {"supported_ops": any_ops, "supported_types": [tf.float16]}
        return {"optimizations": [tf.lite.Optimize.DEFAULT], "target_spec": target}
    if calibration is None:
        raise ArgumentError("calibration: int8 needs images to take ranges from, got none")
    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: representative(calibration.pixels, spec),
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        "inference_input_type": tf.as_dtype(spec.input_type),
        "inference_output_type": tf.as_dtype(output_type),
    }


def representative(pixels: np.ndarray, spec: ModelSpec) -> Iterator[list[np.ndarray]]:
    """Images as the converter needs them: normalised, one by one. It takes the least and largest values as ranges."""
    for image in pixels:
        yield [(image[None].astype(np.float32) - np.float32(spec.mean)) / np.float32(spec.std)]


def operators(path: Path) -> dict[str, int]:
    """The number of operators of each kind in a file, the most frequent first."""
    return dict(Counter(operator for operator, _ in steps(graph_of(tflite_model(path)))).most_common())


def steps(model: Any) -> list[tuple[str, int]]:
    """(kind, index of the output tensor) of each operator of a LiteRT model, in order."""
    return [(kind, row.outputs[0]) for kind, row in operators_of(model)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the converter's output, from Python and from C++, and its warnings about its own internals."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            without_chatter(everything=True),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
