"""Writes ONNX files from model files of both frameworks, in float and in int8, and examines int8 files.

The graph takes pixels and gives the raw output of the head; the file also holds the spec. Knows nothing of budgets and
certificates.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from timm.layers import BatchNormAct2d

from keylite.exporting.calibration import Activation, CalibrationSet, Variant
from keylite.pytorch.model import PixelModel, load_model
from keylite.runtime.errors import ArgumentError
from keylite.runtime.modelfile import write_onnx
from keylite.runtime.spec import ModelSpec

OPSET = 20
SHUFFLERS = ("Reshape", "Resize", "Slice", "Transpose")  # operators that only move values
FOLDED = (torch.nn.BatchNorm2d, BatchNormAct2d)  # exactly these types, because a subclass may calculate something else
FOLDING = 1e-4  # largest change by folding, as a share of the largest value; rounding changes a hundredth of that
WEIGHTY = ("Conv", "Gemm", "MatMul")  # operators of layers with weights


def export(parent: Path, out: Path, spec: ModelSpec, calibration: CalibrationSet | None = None) -> None:
    """Write the network of a `.safetensors` model file as ONNX with this spec inside; on failure, write nothing.

    Input `pixels`: uint8 (batch, H, W, 3) RGB. Output `raw`: float32 (batch, K, C). The graph normalises the pixels and
    takes batches of any size. calibration: needed if `spec.precision` is int8, else None.
    """
    proto = float_graph(parent, spec)
    if spec.precision == "int8":
        if calibration is None:
            raise ArgumentError("calibration: int8 needs images to take ranges from, got none")
        proto = int8_graph(proto, calibration.pixels)
    write(out, proto, spec)


def require_backbone(spec: ModelSpec) -> None:
    """Refuse nothing: ONNX takes every backbone. LiteRT does not, so both twins have this function."""


def float_graph(parent: Path, spec: ModelSpec) -> onnx.ModelProto:
    """The network of a `.safetensors` model file as an ONNX graph."""
    network, _ = load_model(parent, spec)
    model = PixelModel(clamped(network), spec.mean, spec.std).eval()
    width, height = spec.size
    pixels = torch.randint(256, (2, height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            folded(model, pixels),
            (pixels,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["raw"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    return program.model_proto  # type: ignore[union-attr]


class Clamp(torch.nn.Module):
    """ReLU6."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.clamp(0.0, 6.0)


def clamped(network: torch.nn.Module) -> torch.nn.Module:
    """The network with a clamp for each ReLU6: the graph is the same, and the exporter needs two thirds of the time."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU6):
                setattr(module, name, Clamp())
    return network


def folded(network: torch.nn.Module, pixels: torch.Tensor) -> torch.nn.Module:
    """The network with each normalisation multiplied into the convolution before it: its graph takes half the time.

    A run on the pixels shows which convolution that is. If the outputs differ afterwards, because the output of a
    convolution is also used elsewhere, the network is returned unchanged.
    """
    plain = copy.deepcopy(network)
    calls: Counter[torch.nn.Module] = Counter()
    # By id of the output, which is kept, so that its id stays unique.
    makers: dict[int, tuple[torch.nn.Conv2d, torch.Tensor]] = {}
    feeds: dict[torch.nn.Module, torch.nn.Conv2d] = {}

    def watch(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        calls[module] += 1
        if isinstance(module, torch.nn.Conv2d):
            makers[id(output)] = module, output
        elif id(inputs[0]) in makers:
            feeds[module] = makers[id(inputs[0])][0]

    watched = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d) or type(module) in FOLDED]
    hooks = [module.register_forward_hook(watch) for module in watched]
    with torch.no_grad():
        before = network(pixels)
    for hook in hooks:
        hook.remove()
    for module in list(network.modules()):
        for name, norm in module.named_children():
            conv = feeds.get(norm)
            if conv is not None and calls[norm] == calls[conv] == 1:
                fused = torch.nn.utils.fuse_conv_bn_eval(conv, norm)  # type: ignore[arg-type]
                conv.weight, conv.bias = fused.weight, fused.bias
                setattr(module, name, norm.act if isinstance(norm, BatchNormAct2d) else torch.nn.Identity())
    with torch.no_grad():
        difference = (network(pixels) - before).abs().max()
    return network if difference <= FOLDING * before.abs().max() else plain


def int8_graph(proto: onnx.ModelProto, pixels: np.ndarray, **options: object) -> onnx.ModelProto:
    """The graph with weights and activations in 8 bits; a range goes from the least to the largest value on the pixels.

    Weights have a scale per channel. Convolutions and additions are quantised; the normalisation of the pixels and a
    last dense layer stay float. options: arguments of `onnxruntime.quantization.quantize_static` that replace these.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready, quantised_path = (str(Path(folder) / f"{name}.onnx") for name in ("ready", "quantised"))
        onnx.save(prepared(proto), ready)
        defaults = {
            "quant_format": quantization.QuantFormat.QDQ,
            "activation_type": quantization.QuantType.QUInt8,
            "weight_type": quantization.QuantType.QInt8,
            "per_channel": True,
            "reduce_range": True,  # weights have 7 bits: with 8, points move on processors without VNNI
            "calibrate_method": quantization.CalibrationMethod.MinMax,
            "nodes_to_exclude": float_nodes(onnx.load(ready)),
        }
        quantization.quantize_static(ready, quantised_path, Pixels(pixels), **defaults | options)
        return onnx.load(quantised_path)


def prepared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as the quantiser needs it: shapes are inferred, and constants are calculated."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        original, ready = (str(Path(folder) / f"{name}.onnx") for name in ("original", "ready"))
        onnx.save(proto, original)
        quant_pre_process(original, ready)
        return onnx.load(ready)


def float_nodes(proto: onnx.ModelProto) -> list[str]:
    """The nodes that stay float: all before the first convolution, and the last layer if it is dense."""
    kinds = [node.op_type for node in proto.graph.node]
    last = last_layer(proto)
    dense = kinds[-len(last)] != "Conv"
    return [node.name for node in proto.graph.node][: kinds.index("Conv")] + (last if dense else [])


def last_layer(proto: onnx.ModelProto) -> list[str]:
    """The last node that has weights and all nodes after it, because its bias may be added by a node of its own."""
    nodes = list(proto.graph.node)
    return [node.name for node in nodes[max(i for i, node in enumerate(nodes) if node.op_type in WEIGHTY) :]]


class Pixels(quantization.CalibrationDataReader):
    """Gives calibration images to the quantiser, one by one."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.left = iter(pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Continue with the images from `start_index` to before `end_index`."""
        self.left = iter(self.pixels[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input of the graph, or None at the end."""
        image = next(self.left, None)
        return None if image is None else {"pixels": image[None]}


def write(out: Path, proto: onnx.ModelProto, spec: ModelSpec) -> None:
    """Write a graph with its spec as a model file."""
    used = {node.domain for node in proto.graph.node}
    kept = [entry for entry in proto.opset_import if entry.domain in used]  # the quantiser adds others
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    onnx.checker.check_model(proto)
    write_onnx(out, proto.SerializeToString(), spec)


def operators(path: Path) -> dict[str, int]:
    """The number of operators of each kind in a file, the most frequent first."""
    return dict(Counter(node.op_type for node in onnx.load(path).graph.node).most_common())


# ---- diagnosis: the layers of an int8 file, and int8 files that are made in other ways


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
    for image in pixels:
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
    "per-tensor": Variant("one scale for all weights of a layer", "quantize_static, per_channel=False"),
}


class Workshop:
    """Makes files of one network in other ways than `export`, to find out what int8 costs.

    folder: not used here. pixels: uint8 (N, H, W, 3), the images on which noise is measured.
    """

    def __init__(self, parent: Path, spec: ModelSpec, folder: Path, pixels: np.ndarray) -> None:
        self.spec, self.pixels, self.proto = spec, pixels, prepared(float_graph(parent, spec))
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
        options: dict[str, object] = {}
        if variant in self.excluded:
            options = {"nodes_to_exclude": self.excluded[variant]}
        elif variant == "per-tensor":
            options = {"per_channel": False}
        elif variant == "percentile":
            # One image at a time, because all activations of all images are gigabytes.
            options = {
                "calibrate_method": quantization.CalibrationMethod.Percentile,
                "extra_options": {"CalibPercentile": 99.999, "CalibStridedMinMax": 1},
            }
        proto = self.proto if calibration is None else int8_graph(self.proto, calibration.pixels, **options)
        write(out, proto, spec)

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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress lines and its warnings about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
