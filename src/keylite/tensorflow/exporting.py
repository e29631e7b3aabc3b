"""Writes LiteRT files from model files of both frameworks, in float and in int8, and examines int8 files.

The graph takes pixels and gives the raw output of the head; the file also holds the spec. Knows nothing of budgets and
certificates.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tensorflow.lite.tools import flatbuffer_utils  # not a public API; it has the order and the names of operators
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2  # not public either

from keylite.exporting.calibration import Activation, CalibrationSet, Variant
from keylite.runtime.chatter import without_chatter
from keylite.runtime.errors import ArgumentError
from keylite.runtime.lite import LITE
from keylite.runtime.modelfile import read_spec, tflite_model, write_tflite
from keylite.runtime.spec import ModelSpec
from keylite.tensorflow.model import load_model

SHUFFLERS = (
    "QUANTIZE",
    "DEQUANTIZE",
    "CAST",
    "RESHAPE",
    "TRANSPOSE",
    "CONCATENATION",
    "STRIDED_SLICE",
)  # they only move values
ENDS = (
    ["FULLY_CONNECTED", "RESHAPE", "DEQUANTIZE"],
    ["FULLY_CONNECTED", "DEQUANTIZE"],
)  # the last operators of a converted int8 graph with a dense layer
STATE = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")  # operators of variables that keep a state


def export(parent: Path, out: Path, spec: ModelSpec, calibration: CalibrationSet | None = None) -> None:
    """Write the network of a `.safetensors` model file as LiteRT with this spec inside; on failure, write nothing.

    Input `pixels`: uint8 (1, H, W, 3) RGB. Output: float32 (1, K, C). A float graph casts and normalises the pixels; in
    an int8 graph, the scale of the input is the normalisation. calibration: needed if `spec.precision` is int8, else
    None. Raises ArgumentError for a backbone other than EfficientNet-Lite.
    """
    require_backbone(spec)
    network, _ = load_model(parent, spec)
    width, height = spec.size
    shape = (1, height, width, 3)
    if spec.precision == "int8":
        model, dtype = network, "float32"
    else:
        pixels = keras.Input(shape[1:], batch_size=1, name="pixels", dtype="uint8")
        normalise = keras.layers.Rescaling(1 / spec.std[0], -spec.mean[0] / spec.std[0], name="normalise")
        model, dtype = keras.Model(pixels, network(normalise(pixels))), "uint8"
    with quiet():
        graph = graph_of(converter_of(frozen(model, shape, dtype), spec, calibration).convert())
    pixels_first(graph)
    if spec.precision == "int8":
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


def converter_of(function: Any, spec: ModelSpec, calibration: CalibrationSet | None) -> Any:
    """A converter of a function from `frozen` to the precision of a spec; a converter works only once."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.experimental_lower_to_saved_model = False  # else it makes a SavedModel, in which it finds no weights
    for name, value in converter_options(spec, calibration).items():
        if name == "target_spec":
            for field, chosen in value.items():
                setattr(converter.target_spec, field, chosen)
        else:
            setattr(converter, name, value)
    return converter


def graph_of(flat: bytes) -> Any:
    """A LiteRT model, from the bytes of a file, as an object that can be changed."""
    return flatbuffer_utils.read_model_from_bytearray(bytearray(flat))


def flat_of(model: Any) -> bytes:
    """The bytes of a file from an object of `graph_of`."""
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


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
    for index in (len(graph.tensors) - 1, *dense.inputs[1:], dense.outputs[0]):
        tensor = graph.tensors[index]
        tensor.type, tensor.quantization, tensor.buffer = flatbuffer_utils.schema_fb.TensorType.FLOAT32, None, 0
    for index, values in zip(dense.inputs[1:], layers[-1].get_weights(), strict=True):
        buffer = flatbuffer_utils.schema_fb.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values.T, np.float32).tobytes(), np.uint8)
        graph.tensors[index].buffer = len(model.buffers)
        model.buffers.append(buffer)
    (reshape or [dense])[-1].outputs = last.outputs
    last.inputs, last.outputs = [dense.inputs[0]], [len(graph.tensors) - 1]
    dense.inputs = [len(graph.tensors) - 1, *dense.inputs[1:]]
    graph.operators = [*others, last, dense, *reshape]


def name_ends(model: Any) -> None:
    """Give a converted graph the signature that apps on phones expect: input `pixels`, output `output_0`."""
    schema, graph = flatbuffer_utils.schema_fb, model.subgraphs[0]
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
    names = [flatbuffer_utils.opcode_to_name(model, row) for row in range(len(model.operatorCodes))]
    customs = [(code.customCode or b"").decode() for code in model.operatorCodes]
    return sorted(custom or name for name, custom in zip(names, customs, strict=True) if custom or name in STATE)


def require_backbone(spec: ModelSpec) -> None:
    """Raise ArgumentError for a backbone that Keras does not have."""
    if spec.backbone not in LITE:
        raise ArgumentError(
            f"backbone: litert takes {', '.join(LITE)}, got {spec.backbone}: Keras has no such network; use `to='onnx'`"
        )


def converter_options(spec: ModelSpec, calibration: CalibrationSet | None) -> dict[str, Any]:
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
        "inference_input_type": tf.uint8,
        "inference_output_type": tf.float32,
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
    operators = model.subgraphs[0].operators
    return [(flatbuffer_utils.opcode_to_name(model, row.opcodeIndex), row.outputs[0]) for row in operators]


# ---- diagnosis: the layers of an int8 file, and int8 files that are made in other ways


def watch(child: Path, pixels: np.ndarray, reference: Path | None = None) -> Iterator[list[Activation]]:
    """For each image of pixels, uint8 (N, H, W, 3): the activations of an int8 file's layers, from input to output.

    reference: a float file of the same network; each activation then holds its float value, too. Runs LiteRT's own
    kernels, because those of XNNPACK hide the values between input and output; both differ by one int8 step at most.
    """
    int8_file = _Watched(child)
    float_file = _Watched(reference) if reference else None
    for image in pixels:
        int8_file.run(image)
        if float_file:
            float_file.run(image)
        yield [
            Activation(
                layer, kind, *int8_file.held(index), int8_file.values(index), float_file and float_file.of(layer)
            )
            for layer, (kind, index) in int8_file.layers.items()
            if int8_file.held(index)
        ]


class _Watched:
    """A LiteRT file in an interpreter that keeps the values of all tensors."""

    def __init__(self, path: Path) -> None:
        self.spec, flat = read_spec(path), tflite_model(path)
        with quiet():  # it warns that tensors take memory
            self.interpreter = Interpreter(
                model_content=flat,
                num_threads=1,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
            self.interpreter.allocate_tensors()
        self.details = {detail["index"]: detail for detail in self.interpreter.get_tensor_details()}
        self.layers: dict[str, tuple[str, int]] = {}
        for operator, index in steps(graph_of(flat)):
            if operator not in SHUFFLERS:
                name = layer_name(self.details[index]["name"])
                self.layers[name + "'" * sum(other.rstrip("'") == name for other in self.layers)] = operator, index

    def run(self, image: np.ndarray) -> None:
        (entry,) = self.interpreter.get_input_details()
        batch = image[None] if entry["dtype"] == np.uint8 else next(representative(image[None], self.spec))[0]
        self.interpreter.set_tensor(entry["index"], batch)
        self.interpreter.invoke()

    def held(self, index: int) -> tuple[float, float] | None:
        """The least and the largest value that a quantised tensor can hold; None for a float tensor."""
        scale, zero = self.details[index]["quantization"]
        return ((-128 - zero) * scale, (127 - zero) * scale) if self.details[index]["dtype"] == np.int8 else None

    def values(self, index: int) -> np.ndarray:
        scale, zero = self.details[index]["quantization"]
        values = self.interpreter.get_tensor(index)
        return values if values.dtype == np.float32 else np.float32(scale) * (values.astype(np.float32) - zero)

    def of(self, layer: str) -> np.ndarray | None:
        return self.values(self.layers[layer][1]) if layer in self.layers else None


def layer_name(tensor: str) -> str:
    """The name of the Keras layer that made a tensor of a converted file, without the number that the converter adds.

    The tensor's own name lists all layers that were folded into it; this is the one with weights, if there is one.
    """
    parts = [part.split("/") for part in tensor.split(";")]
    weighty = [part for part in parts if part[-1] in ("convolution", "depthwise", "MatMul")]
    return re.sub(r"_\d+$", "", (weighty or parts)[0][-2 if len((weighty or parts)[0]) > 1 else -1])


VARIANTS = {  # the default first; `Workshop.make` makes them
    "default": Variant("minimum and maximum, weights per channel"),
    "percentile": Variant(
        "percentile calibration", "TFLiteConverter takes minimum and maximum, and has no public option for it", False
    ),
    "last-int8": Variant("last layer in int8, too", "TFLiteConverter by itself"),
    "first-float": Variant("first convolution in float", "by QuantizationDebugger alone, which leaves a float input"),
    "per-tensor": Variant("one scale for all weights of a layer", "by a private option of TFLiteConverter"),
}


class Workshop:
    """Makes files of one network in other ways than `export`, to find out what int8 costs; they are not for users.

    Only the int8 files of the converter itself take bytes; the others have a float input, and the engine normalises.
    folder: not used here.
    """

    def __init__(self, parent: Path, spec: ModelSpec, folder: Path, pixels: np.ndarray) -> None:
        """pixels: uint8 (N, H, W, 3), the images on which noise is measured."""
        self.spec, self.pixels = spec, pixels
        self.debugged: tuple[CalibrationSet, Any, list[dict[str, str]]] | None = None
        require_backbone(spec)
        self.network, _ = load_model(parent, spec)
        dense = any(isinstance(layer, keras.layers.Dense) for layer in self.network.layers)
        same = [] if dense else ["last-int8"]  # equal to the default
        self.variants = {name: variant for name, variant in VARIANTS.items() if name not in same}
        with quiet():
            self.function = frozen(self.network, (1, *pixels.shape[1:]), "float32")

    def make(
        self, out: Path, precision: str, calibration: CalibrationSet | None = None, variant: str = "default"
    ) -> None:
        """Write a file. calibration, variant: for int8."""
        spec = msgspec.structs.replace(
            self.spec, precision=precision, calibration=None if calibration is None else calibration.facts
        )
        with quiet():
            if variant == "first-float" and calibration is not None:
                debugger, rows = self._debugger(calibration)
                first = next(row["tensor_name"] for row in rows if row["op_name"] == "CONV_2D")
                debugger.options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=[first])
                flat = debugger.get_nondebug_quantized_model()
            else:
                converter = converter_of(self.function, spec, calibration)
                if variant == "per-tensor":
                    converter._experimental_disable_per_channel = True  # there is no public name for it
                flat = converter.convert()
        if calibration is not None and variant != "last-int8":
            graph = graph_of(flat)
            last_dense_float(graph, self.network)
            flat = flat_of(graph)
        write_tflite(out, flat, spec)

    def own_noise(self, child: Path, calibration: CalibrationSet) -> dict[str, float]:
        """The mean squared error that each layer of the default int8 file adds to exact inputs."""
        return {
            layer_name(row["tensor_name"]): float(row["mean_squared_error"]) for row in self._debugger(calibration)[1]
        }

    def _debugger(self, calibration: CalibrationSet) -> tuple[Any, list[dict[str, str]]]:
        """TensorFlow's debugger for a calibration set, and its table: a row per layer."""
        if self.debugged is None or self.debugged[0] is not calibration:
            spec = msgspec.structs.replace(self.spec, precision="int8")
            with quiet():
                debugger = tf.lite.experimental.QuantizationDebugger(
                    converter=converter_of(self.function, spec, calibration),
                    debug_dataset=lambda: representative(self.pixels, spec),
                )
                debugger.run()
            table = io.StringIO()
            debugger.layer_statistics_dump(table)
            table.seek(0)
            self.debugged = calibration, debugger, list(csv.DictReader(table))
        return self.debugged[1:]


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
