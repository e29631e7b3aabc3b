"""From a model file to `.onnx`: pixels in, raw head out, the description inside.

The one maker of ONNX files, whatever framework trained the model. Knows nothing of budgets and certificates.
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
SHUFFLERS = ("Reshape", "Resize", "Slice", "Transpose")  # operators that compute nothing
FOLDED = (torch.nn.BatchNorm2d, BatchNormAct2d)  # these alone: a subclass may do something else
FOLDING = 1e-4  # of the largest value, that folding may change; a hundred times what rounding does
WEIGHTY = ("Conv", "Gemm", "MatMul")  # operators of layers


def export(parent: Path, out: Path, spec: ModelSpec, calibration: CalibrationSet | None = None) -> None:
    """Write the network of a `.safetensors` model file as ONNX with this spec inside, whole or not at all.

    Input `pixels`: uint8 (batch, H, W, 3) RGB. Output `raw`: float32 (batch, K, C). Normalisation is in the graph; the
    batch is free. calibration: for `spec.precision` int8, else None.
    """
    proto = float_graph(parent, spec)
    if spec.precision == "int8":
        if calibration is None:
            raise ArgumentError("calibration: int8 needs images to take ranges from, got none")
        proto = int8_graph(proto, calibration.pixels)
    write(out, proto, spec)


def require_backbone(spec: ModelSpec) -> None:
    """Nothing is refused: every backbone goes to ONNX."""


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
    """The network with each ReLU6 as a clamp: the same graph, which the exporter makes in two thirds of the time."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU6):
                setattr(module, name, Clamp())
    return network


def folded(network: torch.nn.Module, pixels: torch.Tensor) -> torch.nn.Module:
    """The network with each normalisation multiplied into the convolution that feeds it: its graph takes half the time.

    A run over the pixels shows which those are. A network that gives something else afterwards, because a convolution
    feeds more than its normalisation, is given back as it was.
    """
    plain = copy.deepcopy(network)
    calls: Counter[torch.nn.Module] = Counter()
    makers: dict[int, tuple[torch.nn.Conv2d, torch.Tensor]] = {}  # by what they make, which is kept: its id is its own
    feeds: dict[torch.nn.Module, torch.nn.Conv2d] = {}

    def watch(module: torch.nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        calls[module] += 1
        if isinstance(module, torch.nn.Conv2d):
            makers[id(made)] = module, made
        elif id(given[0]) in makers:
            feeds[module] = makers[id(given[0])][0]

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
        apart = (network(pixels) - before).abs().max()
    return network if apart <= FOLDING * before.abs().max() else plain


def int8_graph(proto: onnx.ModelProto, pixels: np.ndarray, **options: object) -> onnx.ModelProto:
    """The graph with weights (by channel) and activations in 8 bits, ranges from minimum and maximum over the pixels.

    Convolutions and additions are quantised; pixels stay bytes until they are normalised, and the last dense layer
    stays float. options: of `onnxruntime.quantization.quantize_static`, over these.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready, made = (str(Path(folder) / f"{name}.onnx") for name in ("ready", "made"))
        onnx.save(prepared(proto), ready)
        chosen = {
            "quant_format": quantization.QuantFormat.QDQ,
            "activation_type": quantization.QuantType.QUInt8,
            "weight_type": quantization.QuantType.QInt8,
            "per_channel": True,
            "reduce_range": True,  # weights of 7 bits: with 8, points move on processors without VNNI
            "calibrate_method": quantization.CalibrationMethod.MinMax,
            "nodes_to_exclude": float_nodes(onnx.load(ready)),
        }
        quantization.quantize_static(ready, made, Pixels(pixels), **chosen | options)
        return onnx.load(made)


def prepared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as the quantiser wants it: shapes inferred, constants folded."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, ready = (str(Path(folder) / f"{name}.onnx") for name in ("given", "ready"))
        onnx.save(proto, given)
        quant_pre_process(given, ready)
        return onnx.load(ready)


def float_nodes(proto: onnx.ModelProto) -> list[str]:
    """Nodes that stay float: all before the first convolution, and the last layer where it is a dense one."""
    kinds = [node.op_type for node in proto.graph.node]
    last = last_layer(proto)
    dense = kinds[-len(last)] != "Conv"
    return [node.name for node in proto.graph.node][: kinds.index("Conv")] + (last if dense else [])


def last_layer(proto: onnx.ModelProto) -> list[str]:
    """The last node that has weights, and what follows it: its bias may be an addition of its own."""
    nodes = list(proto.graph.node)
    return [node.name for node in nodes[max(i for i, node in enumerate(nodes) if node.op_type in WEIGHTY) :]]


class Pixels(quantization.CalibrationDataReader):
    """Calibration images one by one."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.left = iter(pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with these images."""
        self.left = iter(self.pixels[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input of the graph, or None at the end."""
        image = next(self.left, None)
        return None if image is None else {"pixels": image[None]}


def write(out: Path, proto: onnx.ModelProto, spec: ModelSpec) -> None:
    """Write a graph with its description."""
    used = {node.domain for node in proto.graph.node}
    kept = [entry for entry in proto.opset_import if entry.domain in used]  # the quantiser names others
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    onnx.checker.check_model(proto)
    write_onnx(out, proto.SerializeToString(), spec)


def operators(path: Path) -> dict[str, int]:
    """How many operators of each kind a file holds."""
    return dict(Counter(node.op_type for node in onnx.load(path).graph.node).most_common())


# ---- diagnosis: what is in an int8 file, and int8 files made in other ways


class Quantised(NamedTuple):
    """An activation of a QDQ graph: the operator that makes it, its tensor, what comes out of its DequantizeLinear."""

    operator: str
    tensor: str
    rounded: str
    scale: np.ndarray
    zero: np.ndarray

    @property
    def exact(self) -> str:
        """The same tensor in the float graph: the quantiser renames an output of the graph."""
        return self.tensor.removesuffix("_QuantizeLinear_Input")

    @property
    def held(self) -> tuple[float, float]:
        """The range of its 8 bits."""
        return float((0 - float(self.zero)) * self.scale), float((255 - float(self.zero)) * self.scale)

    def rounding(self, values: np.ndarray) -> np.ndarray:
        """What 8 bits keep of them."""
        low, high = self.held
        return low + np.rint((np.clip(values, low, high) - low) / self.scale) * self.scale


def watch(child: Path, pixels: np.ndarray, reference: Path | None = None) -> Iterator[list[Activation]]:
    """For each image uint8 (N, H, W, 3), what the quantised layers of an int8 file give, from input to output.

    reference: the float file of a `Workshop`, whose values go beside them.
    """
    proto = onnx.load(child)
    layers = quantised(proto)
    rounded, tensors = ([getattr(layer, name) for layer in layers.values()] for name in ("rounded", "exact"))
    ours = session(proto, rounded)
    theirs = session(onnx.load(reference), tensors) if reference else None
    for image in pixels:
        values = ours.run(rounded, {"pixels": image[None]})
        wanted = theirs.run(tensors, {"pixels": image[None]}) if theirs else [None] * len(tensors)
        yield [
            Activation(name, layer.operator, *layer.held, value, want)
            for (name, layer), value, want in zip(layers.items(), values, wanted, strict=True)
        ]


def quantised(proto: onnx.ModelProto) -> dict[str, Quantised]:
    """By layer, from input to output, the activations from the first convolution on that a QDQ graph quantises."""
    maker = {output: node for node in proto.graph.node for output in node.output}
    takers = {name: node for node in proto.graph.node for name in node.input if node.op_type == "DequantizeLinear"}
    number = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    kinds = [node.op_type for node in proto.graph.node]
    before = {output for node in list(proto.graph.node)[: kinds.index("Conv")] for output in node.output}
    found: dict[str, Quantised] = {}
    name = ""
    for node in proto.graph.node:
        tensor = node.input[0] if node.input else ""
        made = maker.get(tensor)
        if node.op_type == "QuantizeLinear" and made and tensor not in before and made.op_type not in SHUFFLERS:
            weights = re.match(r"(?:(?:network|backbone)\.)+(.+)\.weight", made.input[1] if len(made.input) > 1 else "")
            name = weights[1] if weights else f"{name.rpartition('.')[0]}.{made.op_type.lower()}".lstrip(".")
            name += "'" * sum(have.rstrip("'") == name for have in found)
            rounded = takers[node.output[0]].output[0]
            found[name] = Quantised(made.op_type, tensor, rounded, number[node.input[1]], number[node.input[2]])
    return found


def session(proto: onnx.ModelProto, outputs: list[str]) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime that gives these tensors, too."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    have = {output.name for output in proto.graph.output}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs if name not in have
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


VARIANTS = {  # the default first; what `Workshop.make` makes
    "default": Variant("minimum and maximum, weights by channel"),
    "percentile": Variant("ranges of 99.999 % of the values", "quantize_static, calibrate_method=Percentile"),
    "last-float": Variant("last layer in float", "quantize_static, nodes_to_exclude"),
    "last-int8": Variant("last layer in int8, too", "quantize_static, nodes_to_exclude"),
    "first-float": Variant("first convolution in float", "quantize_static, nodes_to_exclude"),
    "per-tensor": Variant("one scale for all weights of a layer", "quantize_static, per_channel=False"),
}


class Workshop:
    """Makes files of one network in other ways than `export`, to see what int8 costs.

    folder: not used here. pixels: uint8 (N, H, W, 3), what noise is measured on.
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
        same = [name for name, nodes in self.excluded.items() if nodes == sorted(usual)]  # as the default
        self.variants = {name: variant for name, variant in VARIANTS.items() if name not in same}

    def make(
        self, out: Path, precision: str, calibration: CalibrationSet | None = None, variant: str = "default"
    ) -> None:
        """Write a file. calibration, variant: of int8."""
        spec = msgspec.structs.replace(
            self.spec, precision=precision, calibration=None if calibration is None else calibration.facts
        )
        options: dict[str, object] = {}
        if variant in self.excluded:
            options = {"nodes_to_exclude": self.excluded[variant]}
        elif variant == "per-tensor":
            options = {"per_channel": False}
        elif variant == "percentile":
            # An image at a time: all activations of all images at once are gigabytes.
            options = {
                "calibrate_method": quantization.CalibrationMethod.Percentile,
                "extra_options": {"CalibPercentile": 99.999, "CalibStridedMinMax": 1},
            }
        proto = self.proto if calibration is None else int8_graph(self.proto, calibration.pixels, **options)
        write(out, proto, spec)

    def own_noise(self, child: Path, calibration: CalibrationSet) -> dict[str, float]:
        """Mean squared error that each layer of an int8 file adds: to what the float layer makes of the same inputs."""
        layers = quantised(onnx.load(child))
        tensors, made = ([getattr(layer, name) for layer in layers.values()] for name in ("exact", "tensor"))
        exact = session(self.proto, tensors)
        apart = [f"given/{name}" for name in tensors]
        ours = session(fed_apart(onnx.load(child), dict(zip(made, apart, strict=True))), made)
        theirs = session(fed_apart(self.proto, dict(zip(tensors, apart, strict=True))), tensors)
        total = dict.fromkeys(layers, 0.0)
        for image in self.pixels:
            given = {"pixels": image[None]}
            for name, layer, value in zip(apart, layers.values(), exact.run(tensors, given), strict=True):
                given[name] = layer.rounding(value).astype(np.float32)
            for (name, layer), value, wanted in zip(
                layers.items(), ours.run(made, given), theirs.run(tensors, given), strict=True
            ):
                total[name] += float(np.square(layer.rounding(value) - wanted).mean()) / len(self.pixels)
        return total


def fed_apart(proto: onnx.ModelProto, inputs: dict[str, str]) -> onnx.ModelProto:
    """The graph cut after some tensors (keys): whoever took one takes an input of the graph (values) in its place."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = inputs.get(name, name)
    # All of them are inputs, also one that nobody takes: the same values can then be fed to any such graph.
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs.values()
    )
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress lines and its warnings about its own internals."""
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
