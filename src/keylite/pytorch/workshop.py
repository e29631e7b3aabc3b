"""Examines int8 ONNX files layer by layer, and makes them in other ways than `export`, for a diagnosis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization

from keylite.exporting.calibration import Activation, CalibrationSet, Variant
from keylite.pytorch.exporting import (
    WEIGHTY,
    dtype_of,
    export,
    float_graph,
    float_nodes,
    int8_graph,
    last_layer,
    prepared,
    write,
)
from keylite.runtime.spec import ModelSpec

SHUFFLERS = ("Reshape", "Resize", "Slice", "Transpose")  # operators that only move values


class Quantised(NamedTuple):
    """A quantised activation of an ONNX graph.

    operator: the kind of node that makes it. tensor: its name before quantisation. rounded: the name of the tensor
    after QuantizeLinear and DequantizeLinear. scale, zero: the integer q stands for (q - zero) * scale.
    """

    operator: str
    tensor: str
    rounded: str
    scale: np.ndarray
    zero: np.ndarray

    @property
    def exact(self) -> str:
        """The name of the same tensor in the float graph; the quantiser renames an output of the graph."""
        return self.tensor.removesuffix("_QuantizeLinear_Input")

    @property
    def held(self) -> tuple[float, float]:
        """The least and the largest value that its 8 bits can hold."""
        return float((0 - float(self.zero)) * self.scale), float((255 - float(self.zero)) * self.scale)

    def rounding(self, values: np.ndarray) -> np.ndarray:
        """The values as they are after rounding to 8 bits."""
        low, high = self.held
        return low + np.rint((np.clip(values, low, high) - low) / self.scale) * self.scale


def watch(child: Path, pixels: np.ndarray, reference: Path | None = None) -> Iterator[list[Activation]]:
    """For each image of pixels, uint8 (N, H, W, 3): the activations of an int8 file's layers, from input to output.

    reference: the float file of a `Workshop`; each activation then holds its float value, too.
    """
    proto = onnx.load(child)
    layers = quantised(proto)
    rounded, tensors = ([getattr(layer, name) for layer in layers.values()] for name in ("rounded", "exact"))
    int8_session = session(proto, rounded)
    float_session = session(onnx.load(reference), tensors) if reference else None
    for image in pixels.astype(dtype_of(proto), copy=False):
        int8_values = int8_session.run(rounded, {"pixels": image[None]})
        float_values = float_session.run(tensors, {"pixels": image[None]}) if float_session else [None] * len(tensors)
        yield [
            Activation(name, layer.operator, *layer.held, int8_value, float_value)
            for (name, layer), int8_value, float_value in zip(layers.items(), int8_values, float_values, strict=True)
        ]


def quantised(proto: onnx.ModelProto) -> dict[str, Quantised]:
    """The quantised activations of a graph by layer, from the first convolution to the output."""
    maker = {output: node for node in proto.graph.node for output in node.output}
    takers = {name: node for node in proto.graph.node for name in node.input if node.op_type == "DequantizeLinear"}
    number = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    kinds = [node.op_type for node in proto.graph.node]
    before = {output for node in list(proto.graph.node)[: kinds.index("Conv")] for output in node.output}
    layers: dict[str, Quantised] = {}
    name = ""
    for node in proto.graph.node:
        tensor = node.input[0] if node.input else ""
        source = maker.get(tensor)
        if node.op_type == "QuantizeLinear" and source and tensor not in before and source.op_type not in SHUFFLERS:
            second = source.input[1] if len(source.input) > 1 else ""
            weights = re.match(r"(?:(?:network|backbone)\.)+(.+)\.weight", second)
            name = weights[1] if weights else f"{name.rpartition('.')[0]}.{source.op_type.lower()}".lstrip(".")
            name += "'" * sum(other.rstrip("'") == name for other in layers)
            rounded = takers[node.output[0]].output[0]
            layers[name] = Quantised(source.op_type, tensor, rounded, number[node.input[1]], number[node.input[2]])
    return layers


def session(proto: onnx.ModelProto, outputs: list[str]) -> onnxruntime.InferenceSession:
    """ONNX Runtime with a graph that also gives these tensors as outputs."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    already = {output.name for output in proto.graph.output}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in outputs
        if name not in already
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


VARIANTS = {  # the default first; `Workshop.make` makes them
    "default": Variant("minimum and maximum, weights per channel"),
    "percentile": Variant("ranges of 99.999 % of the values", "quantize_static, calibrate_method=Percentile"),
    "last-float": Variant("last layer in float", "quantize_static, nodes_to_exclude"),
    "last-int8": Variant("last layer in int8, too", "quantize_static, nodes_to_exclude"),
    "first-float": Variant("first convolution in float", "quantize_static, nodes_to_exclude"),
    "per-tensor": Variant("one scale for all weights of a layer", "`export --weight-scales per-tensor`"),
}


class Workshop:
    """Makes files of one network in other ways than `export`, to find out what int8 costs.

    folder: not used here. pixels: uint8 (N, H, W, 3), the images on which noise is measured.
    """

    def __init__(self, parent: Path, spec: ModelSpec, folder: Path, pixels: np.ndarray) -> None:
        self.parent, self.spec, self.pixels = parent, spec, pixels
        self.proto = prepared(float_graph(parent, spec))
        self.ready: tuple[CalibrationSet, onnx.ModelProto] | None = None
        first = next(node.name for node in self.proto.graph.node if node.op_type in WEIGHTY)
        usual, last = float_nodes(self.proto), last_layer(self.proto)
        self.excluded = {
            "last-float": sorted({*usual, *last}),
            "last-int8": sorted({*usual} - {*last}),
            "first-float": sorted({*usual, first}),
        }
        same = [name for name, nodes in self.excluded.items() if nodes == sorted(usual)]  # equal to the default
        self.variants = {name: variant for name, variant in VARIANTS.items() if name not in same}

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
        options: dict[str, object] = {}
        if variant in self.excluded:
            options = {"nodes_to_exclude": self.excluded[variant]}
        elif variant == "percentile":
            # One image at a time, because all activations of all images are gigabytes.
            options = {
                "calibrate_method": quantization.CalibrationMethod.Percentile,
                "extra_options": {"CalibPercentile": 99.999, "CalibStridedMinMax": 1},
            }
        if calibration is None:
            write(out, self.proto, spec)
            return
        if self.ready is None or self.ready[0] is not calibration:
            self.ready = calibration, float_graph(self.parent, spec, calibration.pixels)
        write(out, int8_graph(self.ready[1], calibration.pixels, **options), spec)

    def own_noise(self, child: Path, calibration: CalibrationSet) -> dict[str, float]:
        """The mean squared error that each layer of an int8 file adds, beside the float layer on the same inputs."""
        layers = quantised(onnx.load(child))
        tensors, int8_tensors = ([getattr(layer, name) for layer in layers.values()] for name in ("exact", "tensor"))
        exact = session(self.proto, tensors)
        inputs = [f"given/{name}" for name in tensors]
        cut_int8 = cut_into_layers(onnx.load(child), dict(zip(int8_tensors, inputs, strict=True)))
        cut_float = cut_into_layers(self.proto, dict(zip(tensors, inputs, strict=True)))
        int8_session, float_session = session(cut_int8, int8_tensors), session(cut_float, tensors)
        total = dict.fromkeys(layers, 0.0)
        for image in self.pixels:
            fed = {"pixels": image[None]}
            for name, layer, value in zip(inputs, layers.values(), exact.run(tensors, fed), strict=True):
                fed[name] = layer.rounding(value).astype(np.float32)
            int8_values, float_values = int8_session.run(int8_tensors, fed), float_session.run(tensors, fed)
            for (name, layer), int8_value, float_value in zip(layers.items(), int8_values, float_values, strict=True):
                total[name] += float(np.square(layer.rounding(int8_value) - float_value).mean()) / len(self.pixels)
        return total


def cut_into_layers(proto: onnx.ModelProto, inputs: dict[str, str]) -> onnx.ModelProto:
    """The graph cut after some tensors (keys): nodes that took one now take an input of the graph (values) instead."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = inputs.get(name, name)
    # All are inputs, even if no node takes them, so that the same values can be fed to any such graph.
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs.values()
    )
    return proto
