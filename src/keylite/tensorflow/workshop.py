"""Examines int8 LiteRT files layer by layer, and makes them in other ways than `export`, for a diagnosis."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keylite.exporting.calibration import Activation, CalibrationSet, Variant
from keylite.exporting.equalise import ready_for_int8
from keylite.exporting.form import require_backbone
from keylite.runtime.graph import flat_of, graph_of, layer_name
from keylite.runtime.modelfile import read_spec, tflite_model, write_tflite
from keylite.runtime.spec import ModelSpec
from keylite.tensorflow.exporting import (
    LARGEST,
    converter_of,
    export,
    frozen,
    last_dense_float,
    quiet,
    representative,
    steps,
)
from keylite.tensorflow.model import assign, load_model, tensors

SHUFFLERS = (
    "QUANTIZE",
    "DEQUANTIZE",
    "CAST",
    "RESHAPE",
    "TRANSPOSE",
    "CONCATENATION",
    "STRIDED_SLICE",
)  # they only move values


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
        if entry["dtype"] == np.int8:
            batch = (image[None].astype(np.int16) - 128).astype(np.int8)
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


VARIANTS = {  # the default first; `Workshop.make` makes them
    "default": Variant("minimum and maximum, weights per channel"),
    "percentile": Variant(
        "percentile calibration", "TFLiteConverter takes minimum and maximum, and has no public option for it", False
    ),
    "last-int8": Variant("last layer in int8, too", "TFLiteConverter by itself"),
    "first-float": Variant("first convolution in float", "by QuantizationDebugger alone, which leaves a float input"),
    "per-tensor": Variant("one scale for all weights of a layer", "`export --weight-scales per-tensor`"),
}


class Workshop:
    """Makes files of one network in other ways than `export`, to find out what int8 costs; they are not for users.

    Only the int8 files of the converter itself take bytes; the others have a float input, and the engine normalises.
    folder: not used here.
    """

    def __init__(self, parent: Path, spec: ModelSpec, folder: Path, pixels: np.ndarray) -> None:
        """pixels: uint8 (N, H, W, 3), the images on which noise is measured."""
        self.parent, self.spec, self.pixels = parent, spec, pixels
        self.debugged: tuple[CalibrationSet, Any, list[dict[str, str]]] | None = None
        require_backbone("litert", spec)
        self.network, _ = load_model(parent, spec)
        dense = any(isinstance(layer, keras.layers.Dense) for layer in self.network.layers)
        same = [] if dense else ["last-int8"]  # equal to the default
        self.variants = {name: variant for name, variant in VARIANTS.items() if name not in same}
        self.ready: tuple[CalibrationSet, Any] | None = None

    def make(
        self, out: Path, precision: str, calibration: CalibrationSet | None = None, variant: str = "default"
    ) -> None:
        """Write a file. calibration, variant: for int8."""
        spec = msgspec.structs.replace(
            self.spec, precision=precision, calibration=None if calibration is None else calibration.facts
        )
        if variant == "per-tensor":
            export(self.parent, out, msgspec.structs.replace(spec, weight_scales="per-tensor"), calibration)
            return
        with quiet():
            if variant == "first-float" and calibration is not None:
                debugger, rows = self._debugger(calibration)
                first = next(row["tensor_name"] for row in rows if row["op_name"] == "CONV_2D")
                debugger.options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=[first])
                flat = debugger.get_nondebug_quantized_model()
            else:
                flat = converter_of(self._function(calibration), spec, calibration).convert()
        if calibration is not None and variant != "last-int8":
            graph = graph_of(flat)
            last_dense_float(graph, self.network)
            flat = flat_of(graph)
        if calibration is None or variant == "first-float":  # these are made without an operator for bytes
            spec = msgspec.structs.replace(spec, input_type="float32")
        write_tflite(out, flat, spec)

    def _function(self, calibration: CalibrationSet | None) -> Any:
        """The network as a TensorFlow function. calibration: for int8, its weights are rounded on these images."""
        with quiet():
            if calibration is None:
                return frozen(self.network, (1, *self.pixels.shape[1:]), "float32")
            if self.ready is None or self.ready[0] is not calibration:
                network, _ = load_model(self.parent, self.spec)
                assign(network, ready_for_int8(tensors(network), self.spec, calibration.pixels, LARGEST))
                self.ready = calibration, frozen(network, (1, *self.pixels.shape[1:]), "float32")
            return self.ready[1]

    def own_noise(self, child: Path, calibration: CalibrationSet) -> dict[str, float]:
        """The mean squared error that each layer of the default int8 file adds to exact inputs.

        It is beside the float layer with the weights of the int8 file, so rounding of weights does not count.
        """
        return {
            layer_name(row["tensor_name"]): float(row["mean_squared_error"]) for row in self._debugger(calibration)[1]
        }

    def _debugger(self, calibration: CalibrationSet) -> tuple[Any, list[dict[str, str]]]:
        """TensorFlow's debugger for a calibration set, and its table: a row per layer."""
        if self.debugged is None or self.debugged[0] is not calibration:
            spec = msgspec.structs.replace(self.spec, precision="int8")
            with quiet():
                debugger = tf.lite.experimental.QuantizationDebugger(
                    converter=converter_of(self._function(calibration), spec, calibration),
                    debug_dataset=lambda: representative(self.pixels, spec),
                )
                debugger.run()
            table = io.StringIO()
            debugger.layer_statistics_dump(table)
            table.seek(0)
            self.debugged = calibration, debugger, list(csv.DictReader(table))
        return self.debugged[1:]
