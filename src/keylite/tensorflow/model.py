"""The network in Keras: a backbone and a head; how it predicts, and how model files are read and written.

Knows nothing of training or data sets. Layers have the names that timm gives them, so a checkpoint's tensor
`blocks.1.0.conv_dw.weight` is the kernel of the layer `blocks.1.0.conv_dw`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import tensorflow as tf
from keras import layers
from safetensors.numpy import load, save

from keylite.runtime.engines import Engine
from keylite.runtime.errors import ArgumentError
from keylite.runtime.heads import STRIDE, Head, Heatmap, Regression, Rle, Simcc, require_size, size_for
from keylite.runtime.modelfile import read_spec, write_safetensors
from keylite.runtime.spec import (
    EXPANSIONS,
    KERNELS,
    LITE,
    PIXEL_MEAN,
    PIXEL_STD,
    STEM_CHANNELS,
    STRIDES,
    TOP_CHANNELS,
    ModelSpec,
    Three,
)
from keylite.runtime.words import quoted
from keylite.training.checkpoint import check_fit, listed_tensors, require_head, starting_tensors
from keylite.training.pretrained import find_pretrained
from keylite.training.teaching import LAST_STD, SCALE_START

log = logging.getLogger("keylite")


@keras.saving.register_keras_serializable("keylite")
class EfficientNetLiteRegressor(keras.Model):
    """Normalised float (B, H, W, 3) in, raw (B, K, C) out: unit coordinates for the `regression` head.

    num_keypoints: K. backbone: lite0..lite4. pretrained: None, "imagenet" (or True), or a .safetensors path: ImageNet
    weights under timm's names, or a keylite model file. hidden: width of the dense layer. freeze: hold the backbone and
    its normalisation statistics still; None freezes where pretrained weights are given. head: another head than
    `regression`; `size` (W, H) is the input that it is for. mean_shape: (K, 2) unit coordinates that an untrained
    `regression` or `rle` head gives.
    """

    def __init__(
        self,
        num_keypoints: int,
        backbone: str = "lite0",
        pretrained: str | Path | bool | None = None,
        hidden: int = 256,
        freeze: bool | None = None,
        *,
        head: Head | None = None,
        size: tuple[int, int] | None = None,
        mean_shape: np.ndarray | None = None,
        name: str = "keylite",
    ) -> None:
        weights = find_pretrained(pretrained, backbone)
        head = head or Regression(num_keypoints, hidden)
        if head.keypoints != num_keypoints:
            raise ArgumentError(f"head: expected {num_keypoints} keypoints, got {head.keypoints}")
        size = size or size_for(head)
        if size:
            require_size(head, size)
        images = keras.Input((size[1], size[0], 3) if head.pyramid else (None, None, 3), name="images")
        features = create_backbone(backbone, head.pyramid)
        super().__init__(images, HEAD_LAYERS[type(head)](head, features(images), size), name=name)
        self.backbone = features
        self.options = {"num_keypoints": num_keypoints, "backbone": backbone, "head": head, "size": size}
        if not head.pyramid:
            start = np.full((num_keypoints, head.channels), SCALE_START, np.float32)
            start[:, :2] = 0.5 if mean_shape is None else mean_shape
            self.get_layer("head.points").bias.assign(start.reshape(-1))
        if weights:
            load_backbone(self, weights)
        self.freeze(weights is not None if freeze is None else freeze)

    def freeze(self, frozen: bool = True) -> None:
        """Freeze the backbone, with its normalisation statistics, or let it train again. Compile again afterwards."""
        self.backbone.trainable = not frozen  # a normalisation layer that is not trainable runs in inference mode

    def get_config(self) -> dict[str, Any]:
        """The arguments from which `keras.saving` makes the same network again, without its weights."""
        head = msgspec.to_builtins(self.options["head"])
        return self.options | {"head": head, "freeze": not self.backbone.trainable, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> EfficientNetLiteRegressor:
        size = config["size"] and tuple(config["size"])
        return cls(**config | {"head": msgspec.convert(config["head"], Head), "size": size})


# ---- layers


def create_backbone(name: str, pyramid: bool = False) -> keras.Model:
    """EfficientNet-Lite without pooling and classifier: (B, H, W, 3) -> (B, h, w, 1280), or levels 8, 16 and 32 px."""
    if name not in LITE:
        more = "; timm:NAME needs `framework='pytorch'`" if name.startswith("timm:") else ""
        raise ArgumentError(f"backbone: expected one of {', '.join(LITE)}, got {quoted(name)}{more}")
    lite = LITE[name]
    images = keras.Input((None, None, 3), name="images")
    x = _norm(_conv(images, STEM_CHANNELS, 3, 2, "conv_stem"), "bn1")
    ends = []  # of the stages
    for stage, (channels, repeats) in enumerate(zip(lite.channels, lite.repeats, strict=True)):
        for block in range(repeats):
            stride = STRIDES[stage] if block == 0 else 1
            x = _block(x, channels, KERNELS[stage], stride, EXPANSIONS[stage], f"blocks.{stage}.{block}")
        ends.append(x)
    outputs = [ends[stage] for stage in PYRAMID] if pyramid else _norm(_conv(x, TOP_CHANNELS, 1, 1, "conv_head"), "bn2")
    return keras.Model(images, outputs, name="backbone")


PYRAMID = (2, 4, 6)  # stages whose cells stand for 8, 16 and 32 px, finest first


def _block(x: Any, channels: int, kernel: int, stride: int, expansion: int, name: str) -> Any:
    """An inverted residual; without expansion its first convolution is left out, and timm counts names from there."""
    before, width = x, x.shape[-1]
    if expansion == 1:
        x = _norm(_depthwise(x, kernel, stride, f"{name}.conv_dw"), f"{name}.bn1")
        x = _norm(_conv(x, channels, 1, 1, f"{name}.conv_pw"), f"{name}.bn2", relu6=False)
    else:
        x = _norm(_conv(x, expansion * width, 1, 1, f"{name}.conv_pw"), f"{name}.bn1")
        x = _norm(_depthwise(x, kernel, stride, f"{name}.conv_dw"), f"{name}.bn2")
        x = _norm(_conv(x, channels, 1, 1, f"{name}.conv_pwl"), f"{name}.bn3", relu6=False)
    return layers.Add(name=f"{name}.add")([x, before]) if stride == 1 and width == channels else x


def _conv(x: Any, channels: int, kernel: int, stride: int, name: str) -> Any:
    return layers.Conv2D(
        channels, kernel, stride, "same", use_bias=False, kernel_initializer=_spread(kernel**2 * channels), name=name
    )(x)


def _depthwise(x: Any, kernel: int, stride: int, name: str, start: keras.Initializer | None = None) -> Any:
    return layers.DepthwiseConv2D(
        kernel, stride, "same", use_bias=False, depthwise_initializer=start or _spread(kernel**2), name=name
    )(x)


def _spread(fan_out: int) -> keras.Initializer:
    """As timm starts convolutions: normal, of variance 2 / fan out."""
    return keras.initializers.RandomNormal(stddev=(2 / fan_out) ** 0.5)


def _norm(x: Any, name: str, relu6: bool = True, epsilon: float = 1e-3) -> Any:
    x = layers.BatchNormalization(momentum=0.9, epsilon=epsilon, name=name)(x)
    return layers.ReLU(6.0, name=f"{name}.relu6")(x) if relu6 else x


def _regression_layers(head: Regression | Rle, features: Any, size: tuple[int, int] | None) -> Any:
    """The head of regression and rle: global average pooling, a dense layer, ReLU, a dense layer."""
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    x = layers.Dense(head.hidden, "relu", **_even_both(x.shape[-1]), name="head.hidden")(x)
    small = keras.initializers.RandomNormal(stddev=LAST_STD)
    x = layers.Dense(head.keypoints * head.channels, kernel_initializer=small, name="head.points")(x)
    return layers.Reshape((head.keypoints, head.channels), name="raw")(x)


def _heatmap_layers(head: Heatmap | Simcc, features: list[Any], size: tuple[int, int]) -> Any:
    """A feature pyramid from coarse to fine, then a 1x1 convolution to one map per keypoint: (B, K, cells)."""
    rows_columns = [(-(-size[1] // stride), -(-size[0] // stride)) for stride in (STRIDE, 2 * STRIDE, 4 * STRIDE)]

    def lateral(level: int) -> Any:
        x = _head_conv(features[level], head.width, f"head.lateral.{level}.0")
        return _norm(x, f"head.lateral.{level}.1", relu6=False, epsilon=HEAD_EPSILON)

    merged = lateral(2)
    for level in (1, 0):
        name = f"head.smooth.{level}"
        larger = layers.UpSampling2D(2, name=f"{name}.larger")(merged)
        surplus = [(0, have - want) for have, want in zip(larger.shape[1:3], rows_columns[level], strict=True)]
        if any(end for _, end in surplus):
            larger = layers.Cropping2D(surplus, name=f"{name}.cut")(larger)
        x = layers.ReLU(6.0, name=f"{name}.0")(layers.Add(name=f"{name}.add")([larger, lateral(level)]))
        x = _depthwise(x, 5, 1, f"{name}.1", _even(5**2))
        x = _norm(x, f"{name}.2", relu6=False, epsilon=HEAD_EPSILON)
        merged = _norm(_head_conv(x, head.width, f"{name}.3"), f"{name}.4", epsilon=HEAD_EPSILON)
    maps = layers.Conv2D(head.keypoints, 1, **_even_both(head.width), name="head.maps")(merged)
    cells = head.grid[0] * head.grid[1]
    return layers.Permute((2, 1), name="maps")(layers.Reshape((cells, head.keypoints), name="cells")(maps))


def _simcc_layers(head: Simcc, features: list[Any], size: tuple[int, int]) -> Any:
    """The head simcc: a heatmap head, then a dense layer, shared by all keypoints, from each map to its bins."""
    maps = _heatmap_layers(head, features, size)
    return layers.Dense(head.channels, **_even_both(maps.shape[-1]), name="head.bins")(maps)


def _head_conv(x: Any, channels: int, name: str) -> Any:
    return layers.Conv2D(channels, 1, use_bias=False, kernel_initializer=_even(x.shape[-1]), name=name)(x)


def _even(fan_in: int) -> keras.Initializer:
    """First weights as in torch: uniform within 1 / sqrt(number of inputs) of 0."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def _even_both(fan_in: int) -> dict[str, keras.Initializer]:
    """Two initializers, because a single one would give the same values again."""
    return {"kernel_initializer": _even(fan_in), "bias_initializer": _even(fan_in)}


HEAD_EPSILON = 1e-5  # for normalisation layers in the head, as in torch
HEAD_LAYERS: dict[type, Callable[..., Any]] = {
    Regression: _regression_layers,
    Rle: _regression_layers,
    Simcc: _simcc_layers,
    Heatmap: _heatmap_layers,
}


# ---- pixels in


def normalisation(backbone: str) -> tuple[Three, Three]:
    """(mean, std) of pixel values 0 to 255 by which the input of a backbone is normalised."""
    return PIXEL_MEAN, PIXEL_STD


def normalised(pixels: tf.Tensor, mean: Three, std: Three) -> tf.Tensor:
    """Pixels uint8 (B, H, W, 3) RGB, normalised for the network."""
    return (tf.cast(pixels, tf.float32) - tf.constant(mean)) / tf.constant(std)


def as_engine(network: keras.Model, mean: Three, std: Three) -> Engine:
    """The engine of a network in memory, in inference mode."""

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
    def run(pixels: tf.Tensor) -> tf.Tensor:
        return network(normalised(pixels, mean, std), training=False)

    def engine(pixels: np.ndarray) -> np.ndarray:
        _require_no_fork()
        return run(pixels).numpy()

    _first_process()
    return engine


def open_engine(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """The engine of a `.safetensors` model file."""
    _require_no_fork()
    use_threads(threads or 0)
    with tf.device(tensorflow_device(device)):
        network, _ = load_model(path, spec)
        engine = as_engine(network, spec.mean, spec.std)

    def on_device(pixels: np.ndarray) -> np.ndarray:
        with tf.device(tensorflow_device(device)):
            return engine(pixels)

    return on_device


@functools.cache
def _first_process() -> int:
    """The id of the process that made the first engine; in a fork, that is another process."""
    return os.getpid()


def _require_no_fork() -> None:
    if _first_process() != os.getpid():
        raise RuntimeError(
            "tensorflow: does not work in a process that was forked after its first use, because its threads do "
            "not exist there; start processes with spawn, or predict before the fork"
        )


def tensorflow_device(device: str) -> str:
    """The TensorFlow device of `auto`, `cpu` or `cuda`; ArgumentError if there is none."""
    if device not in ("auto", "cpu", "cuda"):
        raise ArgumentError(f"device: expected auto, cpu or cuda, got {quoted(device)}")
    gpus = tf.config.list_physical_devices("GPU")
    for hardware in gpus:
        with contextlib.suppress(RuntimeError):  # the GPU is in use already
            tf.config.experimental.set_memory_growth(hardware, True)  # else TensorFlow takes all its memory at once
    gpu = bool(gpus) and device != "cpu"
    if device == "cuda" and not gpu:
        raise ArgumentError("device: cuda asked for, but TensorFlow sees no CUDA GPU; use `device='cpu'`")
    return "/GPU:0" if gpu else "/CPU:0"


def use_threads(threads: int) -> None:
    """Set the number of threads on which TensorFlow calculates; 0: it decides. A process can set it only once."""
    if not threads or tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        log.warning("threads: TensorFlow is running already and keeps the number of threads that it started with")


# ---- checkpoint

SUFFIXES = {  # end of a tensor's name, by the name of the Keras variable
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def variables(network: keras.Model) -> Iterator[tuple[str, keras.Layer, keras.Variable]]:
    """(tensor name, layer, variable) for all variables of a network, from input to output."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from variables(layer)
        else:
            yield from ((f"{layer.name}.{SUFFIXES[v.name]}", layer, v) for v in layer.variables)


def _to_torch(layer: keras.Layer, value: np.ndarray) -> np.ndarray:
    """A kernel in the layout of torch: (out, in) for a dense layer, (out, in, h, w) for a convolution."""
    if isinstance(layer, layers.DepthwiseConv2D) and value.ndim == 4:
        return value.transpose(2, 3, 0, 1)
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def _from_torch(layer: keras.Layer, value: np.ndarray) -> np.ndarray:
    if isinstance(layer, layers.DepthwiseConv2D) and value.ndim == 4:
        return value.transpose(2, 3, 0, 1)
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def tensors(network: keras.Model) -> dict[str, np.ndarray]:
    """The tensors of the checkpoint, laid out as in torch: the backbone under timm's names, the head under `head.`."""
    return {
        name: np.ascontiguousarray(_to_torch(layer, variable.numpy())) for name, layer, variable in variables(network)
    }


def save_model(network: EfficientNetLiteRegressor, spec: ModelSpec, path: Path | str) -> None:
    """Write a model file; on failure, write nothing."""
    write_safetensors(path, save(tensors(network)), spec)


def load_model(path: Path | str, spec: ModelSpec | None = None) -> tuple[EfficientNetLiteRegressor, ModelSpec]:
    """The network of a `.safetensors` model file and its spec.

    spec: needed if the file holds none. Raises ArgumentError if tensors do not fit, and names those that are missing,
    unexpected or of another shape.
    """
    path = Path(path)
    spec = spec or read_spec(path)
    require_head(spec.head, listed_tensors(path), str(path))
    network = EfficientNetLiteRegressor(spec.head.keypoints, spec.backbone, head=spec.head, size=spec.size)
    loaded = load(path.read_bytes())
    check_fit(loaded, tensors(network), str(path))
    assign(network, loaded)
    return network, spec


def load_backbone(network: EfficientNetLiteRegressor, path: Path) -> str:
    """Load pretrained weights, and return a sentence that says what was used.

    path: ImageNet weights under timm's names (without their classifier), or a keylite model file; its head is used too,
    if it has the same shapes and bins. Raises ArgumentError unless every tensor of the backbone is there.
    """
    listed_tensors(path)  # raises an error of one line if the file is damaged
    wanted, line = starting_tensors(path, load(path.read_bytes()), tensors(network), network.options["head"])
    assign(network, wanted)
    return line


def assign(network: keras.Model, loaded: dict[str, np.ndarray]) -> None:
    """Copy tensors that are named and laid out as in a checkpoint into the network."""
    for name, layer, variable in variables(network):
        if name in loaded:
            variable.assign(_from_torch(layer, loaded[name]))
