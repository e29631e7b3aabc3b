"""Weights for int8 files: they are rounded with regard to each other, and biases correct for what is left.

For files with one scale per layer, channels get similar ranges first. Channels with small weights would lose most of
their 8 bits. But a channel may be multiplied by any number if every layer that reads it divides by the same number: the
network stays the same. Where ReLU6 follows, the channel must stay below 6, so this holds for channels that do not reach
6 on the calibration images. The error that is left has a mean in each channel, and the bias takes it away.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019; there the
network has ReLU in place of ReLU6, and no images. docs/exporting.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from keylite.exporting.rounding import compensated, seen_by_taps
from keylite.runtime.heads import Heatmap, Simcc
from keylite.runtime.lite import (
    BACKBONE_EPSILON,
    EXPANSIONS,
    HEAD_EPSILON,
    LITE,
    STAGES,
    STEM_CHANNELS,
    STRIDES,
    pyramid_stages,
)
from keylite.runtime.spec import ModelSpec

ROUNDS = 40  # of the scaling; the ranges hardly change after 20
ROOM = 0.95  # a scaled channel reaches at most this share of 6 on the calibration images, because others reach further
BATCH = 16  # images at once
SAMPLE = 2**18  # px of all images together that weights are rounded on: 16 images of 128 x 128 px
FEWEST = 2  # of these images, all of which are in memory at once
SIX = 6.0  # where ReLU6 ends

Weights = dict[str, tuple[np.ndarray, np.ndarray]]  # by layer: kernel (out, in, h, w), bias (out,)


class Layer(NamedTuple):
    """A convolution, with its normalisation and what follows. The layers of a network are in the order of calculation.

    name, norm: prefixes of the tensors in the checkpoint; no norm: the convolution has a bias. source: the layer that
    it reads, "" for the pixels. plus: a layer whose output is added, each cell as two by two if it has half the size.
    relu6: whether ReLU6 follows.
    """

    name: str
    source: str
    norm: str = ""
    epsilon: float = BACKBONE_EPSILON
    stride: int = 1
    plus: str = ""
    relu6: bool = False


def convolutions_of(spec: ModelSpec) -> list[Layer]:
    """The convolutions of a lite network. Dense layers stay as they are: most are float in int8 files, too."""
    lite = LITE[spec.backbone]
    layers = [Layer("conv_stem", "", "bn1", stride=2, relu6=True)]
    ends: list[str] = []
    width = STEM_CHANNELS
    for stage, (channels, repeats) in enumerate(
        zip(lite.channels[: spec.stages], lite.repeats[: spec.stages], strict=True)
    ):
        for block in range(repeats):
            name, before = f"blocks.{stage}.{block}", layers[-1].name
            stride = STRIDES[stage] if block == 0 else 1
            kinds = ("conv_dw", "conv_pw") if EXPANSIONS[stage] == 1 else ("conv_pw", "conv_dw", "conv_pwl")
            for place, kind in enumerate(kinds):
                last = kind == kinds[-1]
                layers.append(
                    Layer(
                        f"{name}.{kind}",
                        layers[-1].name,
                        f"{name}.bn{place + 1}",
                        stride=stride if kind == "conv_dw" else 1,
                        plus=before if last and stride == 1 and width == channels else "",
                        relu6=not last,
                    )
                )
            width = channels
        ends.append(layers[-1].name)
    if isinstance(spec.head, Heatmap | Simcc):
        layers += _pyramid([ends[stage] for stage in pyramid_stages(spec.stages)])
    elif spec.stages == STAGES:
        layers.append(Layer("conv_head", ends[-1], "bn2", relu6=True))
    return layers


def _pyramid(levels: list[str]) -> Iterator[Layer]:
    """The layers of a heatmap. levels: the layers that it reads, finest first."""
    top = len(levels) - 1
    merged = ""
    for level in reversed(range(top + 1)):
        lateral, smooth = f"head.lateral.{level}", f"head.smooth.{level}"
        yield Layer(f"{lateral}.0", levels[level], f"{lateral}.1", HEAD_EPSILON, plus=merged, relu6=level < top)
        merged = f"{lateral}.0"
        if level < top:
            yield Layer(f"{smooth}.1", merged, f"{smooth}.2", HEAD_EPSILON)
            yield Layer(f"{smooth}.3", f"{smooth}.1", f"{smooth}.4", HEAD_EPSILON, relu6=True)
            merged = f"{smooth}.3"
    yield Layer("head.maps", merged)


def ready_for_int8(
    tensors: Mapping[str, np.ndarray], spec: ModelSpec, pixels: np.ndarray, largest: float
) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, changed so that an int8 file loses little. The spec says which scales it has.

    tensors: laid out as in the checkpoint. pixels: the calibration images, uint8 (N, H, W, 3). largest: how many
    steps of the rounded weights the largest weight of a scale is.
    """
    per_channel = spec.weight_scales != "per-tensor"
    layers = convolutions_of(spec)
    count = max(FEWEST, SAMPLE // (spec.size[0] * spec.size[1]))
    pixels = pixels[:count] if per_channel else pixels  # rounding needs a few, scaling of channels all
    images = (pixels.astype(np.float32) - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    weights = folded(layers, tensors)
    if not per_channel:
        weights = equalised(layers, weights, images)
    return {**tensors, **unfolded(layers, corrected(layers, weights, images[:count], largest, per_channel))}


def folded(layers: list[Layer], tensors: Mapping[str, np.ndarray]) -> Weights:
    """Kernels and biases of the layers with their normalisation multiplied in, float64."""
    weights: Weights = {}
    for layer in layers:
        kernel = tensors[f"{layer.name}.weight"].astype(np.float64)
        if not layer.norm:
            weights[layer.name] = kernel, tensors[f"{layer.name}.bias"].astype(np.float64)
            continue
        names = ("weight", "bias", "running_mean", "running_var")
        gain, shift, mean, variance = (tensors[f"{layer.norm}.{name}"].astype(np.float64) for name in names)
        factor = gain / np.sqrt(variance + layer.epsilon)
        weights[layer.name] = kernel * factor[:, None, None, None], shift - mean * factor
    return weights


def unfolded(layers: list[Layer], weights: Weights) -> dict[str, np.ndarray]:
    """The opposite of `folded`: tensors, float32, whose normalisation does nothing but add the bias."""
    tensors: dict[str, np.ndarray] = {}
    for layer in layers:
        kernel, bias = weights[layer.name]
        tensors[f"{layer.name}.weight"] = kernel
        tensors[f"{layer.norm or layer.name}.bias"] = bias
        if layer.norm:
            ones = np.ones_like(bias)
            tensors[f"{layer.norm}.weight"] = ones
            tensors[f"{layer.norm}.running_mean"] = 0 * ones
            tensors[f"{layer.norm}.running_var"] = ones - layer.epsilon
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}


# ---- scaling of channels


def equalised(layers: list[Layer], weights: Weights, images: np.ndarray) -> Weights:
    """The weights of the same network with similar ranges in all channels of a layer.

    On the images, float32 (N, H, W, 3), normalised, the network gives the same; on others, if none of its channels
    exceeds by far what it reaches on these.
    """
    maxima: dict[str, np.ndarray] = {}

    def look(layer: Layer, output: np.ndarray) -> None:
        largest = (output if layer.relu6 else np.abs(output)).max((0, 1, 2))
        maxima[layer.name] = np.maximum(maxima[layer.name], largest) if layer.name in maxima else largest

    for start in range(0, len(images), BATCH):
        run(layers, weights, images[start : start + BATCH], look)
    group = groups(layers)
    limits = _limits(layers, group, maxima)
    scales = {name: np.ones_like(limit) for name, limit in limits.items()}
    sizes = {layer.name: np.abs(weights[layer.name][0]).max((2, 3)) for layer in layers}
    for _ in range(ROUNDS):
        for name, limit in limits.items():
            written, read = np.full((2, len(limit)), 1e-9)  # each channel's largest weight, as a share of its layer's
            for layer in layers:
                source = group.get(layer.source, "")
                if name not in (group[layer.name], source):
                    continue
                shares = _scaled(layer, sizes[layer.name], scales, group)
                shares /= shares.max()
                if group[layer.name] == name:
                    written = np.maximum(written, shares.max(1))
                if source == name:
                    read = np.maximum(read, shares[:, 0] if _depthwise(shares) else shares.max(0))
            scales[name] = np.where(limit < 1, 1, np.minimum(scales[name] * np.sqrt(read / written), limit))
    return {
        layer.name: (
            _scaled(layer, weights[layer.name][0], scales, group),
            weights[layer.name][1] * scales[group[layer.name]],
        )
        for layer in layers
    }


def groups(layers: list[Layer]) -> dict[str, str]:
    """For each layer the layer whose scales its output shares: outputs that are added have the same scales."""
    group: dict[str, str] = {}
    for layer in layers:
        group[layer.name] = group.get(layer.plus, layer.name)
    return group


def _limits(layers: list[Layer], group: dict[str, str], maxima: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By group: the largest scale of each channel. Below 1: the channel must keep its scale."""
    limits: dict[str, np.ndarray] = {}
    for layer in layers:
        largest = np.maximum(maxima[layer.name], 1e-6)
        most = (SIX * ROOM if layer.relu6 else largest.max()) / largest  # without ReLU6: the range of the layer stays
        limits[group[layer.name]] = np.minimum(limits.get(group[layer.name], np.inf), most)
    last = group[layers[-1].name]  # what the network gives, or its dense layers read
    limits[last] = np.zeros_like(limits[last])
    return limits


def _scaled(layer: Layer, kernel: np.ndarray, scales: dict[str, np.ndarray], group: dict[str, str]) -> np.ndarray:
    """A kernel (out, in, ...) times the scales of its outputs, divided by those of its inputs."""
    axes = (1,) * (kernel.ndim - 2)
    kernel = kernel * scales[group[layer.name]].reshape(-1, 1, *axes)
    if not layer.source:
        return kernel
    sides = (-1, 1) if _depthwise(kernel) else (1, -1)
    return kernel / scales[group[layer.source]].reshape(*sides, *axes)


def _depthwise(kernel: np.ndarray) -> bool:
    """Whether each output of a convolution reads one channel alone. kernel: (out, in, ...)."""
    return kernel.shape[1] == 1


# ---- correction of biases


def corrected(layers: list[Layer], weights: Weights, images: np.ndarray, largest: float, per_channel: bool) -> Weights:
    """Rounded weights, with biases that keep the mean of every channel as it is.

    From the first layer on, because each layer also corrects for what the layers before it have left. images: float32
    (N, H, W, 3), normalised.
    """
    means: dict[str, np.ndarray] = {}
    biases: dict[str, np.ndarray] = {}
    kernels: dict[str, np.ndarray] = {}

    def keep(layer: Layer, output: np.ndarray) -> None:
        means[layer.name] = output.mean((0, 1, 2), dtype=np.float64)

    def correct(layer: Layer, output: np.ndarray) -> None:
        error = means[layer.name] - output.mean((0, 1, 2), dtype=np.float64)
        biases[layer.name] = weights[layer.name][1] + error
        output += error.astype(output.dtype)

    def round_kernel(layer: Layer, source: np.ndarray) -> np.ndarray:
        kernels[layer.name] = compensated(weights[layer.name][0], source, layer.stride, largest, per_channel)
        return kernels[layer.name]

    run(layers, weights, images, keep)
    run(layers, weights, images, correct, round_kernel)
    return {name: (kernels[name], biases[name]) for name in weights}


# ---- the network in numpy


def run(
    layers: list[Layer],
    weights: Weights,
    images: np.ndarray,
    look: Callable[[Layer, np.ndarray], None],
    kernel_of: Callable[[Layer, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Calculate all layers on images (N, H, W, 3), normalised, in their type, and return the last output.

    look: gets each output before ReLU6, and may change it. kernel_of: gives the kernel of a layer from what the layer
    reads. None: those of the weights.
    """
    last_use = {name: i for i, layer in enumerate(layers) for name in (layer.source, layer.plus)}
    values = {"": images}
    for i, layer in enumerate(layers):
        kernel, bias = weights[layer.name]
        kernel = kernel if kernel_of is None else kernel_of(layer, values[layer.source])
        kernel, bias = kernel.astype(images.dtype), bias.astype(images.dtype)
        output = convolved(values[layer.source], kernel, layer.stride) + bias
        if layer.plus:
            added = values[layer.plus]
            if added.shape != output.shape:
                added = added.repeat(2, 1).repeat(2, 2)[:, : output.shape[1], : output.shape[2]]
            output += added
        look(layer, output)
        values[layer.name] = np.clip(output, 0, SIX, out=output) if layer.relu6 else output
        values = {name: value for name, value in values.items() if last_use.get(name, len(layers)) > i}
    return values[layers[-1].name]


def convolved(images: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """images (N, H, W, in) by a kernel (out, in, k, k), or (out, 1, k, k) for a depthwise one, padded as 'SAME'."""
    size = kernel.shape[2]
    if size == 1:
        return images @ kernel[:, :, 0, 0].T
    output: np.ndarray | float = 0.0
    for y, x, seen in seen_by_taps(images, size, stride):
        output = output + (seen * kernel[:, 0, y, x] if _depthwise(kernel) else seen @ kernel[:, :, y, x].T)
    return np.asarray(output)
