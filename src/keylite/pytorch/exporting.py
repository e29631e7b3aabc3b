"""Writes ONNX files from model files of both frameworks, in float and in int8.

The graph takes pixels and gives the raw output of the head; the file also holds the spec. Knows nothing of budgets and
certificates.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from timm.layers import BatchNormAct2d

from keylite.exporting.calibration import CalibrationSet
from keylite.exporting.equalise import ready_for_int8
from keylite.pytorch.model import PixelModel, assign, load_model, tensors
from keylite.runtime.errors import ArgumentError
from keylite.runtime.lite import LITE
from keylite.runtime.modelfile import write_onnx
from keylite.runtime.spec import ModelSpec

OPSET = 20
ONE_SCALE = {  # weights are 128 at 0; ONNX Runtime adds such products without overflow on every processor, but slower
    "per_channel": False,
    "weight_type": quantization.QuantType.QUInt8,
    "reduce_range": False,
    "extra_options": {"WeightSymmetric": True},
}
LARGEST = {"per-channel": 64.0, "per-tensor": 127.5}  # how many steps of the weights the largest one of a scale is
FOLDED = (torch.nn.BatchNorm2d, BatchNormAct2d)  # exactly these types, because a subclass may calculate something else
FOLDING = 1e-4  # largest change by folding, as a share of the largest value; rounding changes a hundredth of that
WEIGHTY = ("Conv", "Gemm", "MatMul")  # operators of layers with weights


def export(
    parent: Path,
    out: Path,
    spec: ModelSpec,
    calibration: CalibrationSet | None = None,
    output_type: str = "float32",  # ONNX has no other
) -> None:
    """Write the network of a `.safetensors` model file as ONNX with this spec inside; on failure, write nothing.

    Input `pixels`: uint8 (batch, H, W, 3) RGB, in batches of any size, or float32 (1, H, W, 3) with the same values, as
    `spec.input_type` says. Output `raw`: float32 (batch, K, C). The graph normalises the pixels. calibration: needed if
    `spec.precision` is int8, else None.
    """
    if spec.precision != "int8":
        write(out, float_graph(parent, spec), spec)
        return
    if calibration is None:
        raise ArgumentError("calibration: int8 needs images to take ranges from, got none")
    options = ONE_SCALE if spec.weight_scales == "per-tensor" else {}
    proto = float_graph(parent, spec, calibration.pixels)
    write(out, int8_graph(proto, calibration.pixels, **options), spec)


def float_graph(parent: Path, spec: ModelSpec, for_int8: np.ndarray | None = None) -> onnx.ModelProto:
    """The network of a `.safetensors` model file as an ONNX graph.

    for_int8: images, uint8 (N, H, W, 3), on which the weights of a lite backbone and of its head are rounded. None:
    they stay.
    """
    network, _ = load_model(parent, spec)
    if for_int8 is not None and spec.backbone in LITE:
        before = {name: tensor.numpy() for name, tensor in tensors(network).items()}
        changed = ready_for_int8(before, spec, for_int8, LARGEST[spec.weight_scales or "per-channel"])
        assign(network, {name: torch.from_numpy(tensor) for name, tensor in changed.items()})
    model = PixelModel(clamped(network), spec.mean, spec.std).eval()
    width, height = spec.size
    pixels = torch.randint(256, (2, height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch: dict[str, object] = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    if spec.input_type == "float32":
        pixels, batch = pixels[:1].float(), {}
    with _quiet():
        program = torch.onnx.export(
            folded(model, pixels),
            (pixels,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["raw"],
            verbose=False,
            **batch,
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
        quantization.quantize_static(ready, quantised_path, Pixels(pixels, dtype_of(proto)), **defaults | options)
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


def dtype_of(proto: onnx.ModelProto) -> np.dtype:
    """The type of numbers that a graph takes for pixels: uint8 or float32."""
    return onnx.helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)


class Pixels(quantization.CalibrationDataReader):
    """Gives calibration images to the quantiser, one by one, as a graph takes them."""

    def __init__(self, pixels: np.ndarray, dtype: np.dtype) -> None:
        self.pixels, self.dtype = pixels, dtype
        self.left = iter(pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Continue with the images from `start_index` to before `end_index`."""
        self.left = iter(self.pixels[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input of the graph, or None at the end."""
        image = next(self.left, None)
        return None if image is None else {"pixels": image[None].astype(self.dtype, copy=False)}


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
