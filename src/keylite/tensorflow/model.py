"""The network in Keras: a backbone and a head; how it predicts, and how model files are read and written.

Knows nothing of training or data sets.
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
from keylite.runtime.errors import ArgumentError, naming
from keylite.runtime.heads import Head, Heatmap, Regression, Rle, Simcc, require_size, size_for
from keylite.runtime.lite import HEAD_EPSILON, STAGES, Three, possible_stages
from keylite.runtime.modelfile import read_spec, write_safetensors
from keylite.runtime.spec import ModelSpec
from keylite.runtime.words import quoted
from keylite.tensorflow.backbones import create_backbone, depthwise, norm
from keylite.training.checkpoint import check_fit, listed_tensors, require_head, starting_tensors
from keylite.training.pretrained import find_pretrained
from keylite.training.teaching import LAST_STD, SCALE_START

log = logging.getLogger("keylite")


@keras.saving.register_keras_serializable("keylite")
class EfficientNetLiteRegressor(keras.Model):
    """A network for keypoints: EfficientNet-Lite with ImageNet weights, and a regression head or another one.

    It takes normalised images, float (B, H, W, 3), and gives raw values, (B, K, C). The raw values of the head
    `regression` are unit coordinates; the `decode` of any head turns its raw values into points and scores.

    Args:
        num_keypoints: K.
        backbone: "lite0" to "lite4".
        pretrained: None: random weights. "imagenet" or True: timm's weights, which are downloaded once. A path: a
            .safetensors file with ImageNet weights under timm's names, or a keylite model file.
        hidden: The width of the dense layer of the head `regression`.
        freeze: Whether the backbone and its normalisation statistics stay as they are until `freeze(False)`. None: they
            do if `pretrained` is given.
        head: Another head; `hidden` is not used then. None: Regression(num_keypoints, hidden).
        size: (width, height) of the input, px. None: any, or the size that the head is made for.
        stages: How many stages of the backbone the network keeps, up to 7, the whole backbone. The heads with a pyramid
            need 3, the others 2.
        mean_shape: (K, 2), unit coordinates: the points that an untrained head `regression` or `rle` gives. None: the
            middle.
        name: The name of the Keras model.

    Raises:
        ArgumentError: An argument is wrong, or the backbone does not fit the head or the size.
        ModelFileError: The weights do not fit the network.
        FileNotFoundError: `pretrained` is a path without a file.

    Example:
        >>> network = EfficientNetLiteRegressor(num_keypoints=10, pretrained="imagenet")
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
        stages: int = STAGES,
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
        possible, words = possible_stages(backbone, head.pyramid)
        if stages not in possible:
            raise ArgumentError(f"stages: expected {words}, got {stages}")
        images = keras.Input((size[1], size[0], 3) if head.pyramid else (None, None, 3), name="images")
        features = create_backbone(backbone, head.pyramid, stages)
        super().__init__(images, HEAD_LAYERS[type(head)](head, features(images)), name=name)
        self.backbone = features
        self.options = {
            "num_keypoints": num_keypoints,
            "backbone": backbone,
            "head": head,
            "size": size,
            "stages": stages,
        }
        if not head.pyramid:
            start = np.full((num_keypoints, head.channels), SCALE_START, np.float32)
            start[:, :2] = 0.5 if mean_shape is None else mean_shape
            self.get_layer("head.points").bias.assign(start.reshape(-1))
        if weights:
            load_backbone(self, weights)
        self.freeze(weights is not None if freeze is None else freeze)

    def freeze(self, frozen: bool = True) -> None:
        """Hold the backbone still, or let it train again. Call `compile` again afterwards.

        Args:
            frozen: True: its weights and its normalisation statistics stay as they are. False: they are trained.
        """
        self.backbone.trainable = not frozen  # a normalisation layer that is not trainable runs in inference mode

    def get_config(self) -> dict[str, Any]:
        """The arguments from which `keras.saving` makes the same network again, without its weights."""
        head = msgspec.to_builtins(self.options["head"])
        return self.options | {"head": head, "freeze": not self.backbone.trainable, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> EfficientNetLiteRegressor:
        size = config["size"] and tuple(config["size"])
        return cls(**config | {"head": msgspec.convert(config["head"], Head), "size": size})


# ---- heads


def _regression_layers(head: Regression | Rle, features: Any) -> Any:
    """The head of regression and rle: global average pooling, a dense layer, ReLU, a dense layer."""
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    x = layers.Dense(head.hidden, "relu", **_even_both(x.shape[-1]), name="head.hidden")(x)
    small = keras.initializers.RandomNormal(stddev=LAST_STD)
    x = layers.Dense(head.keypoints * head.channels, kernel_initializer=small, name="head.points")(x)
    return layers.Reshape((head.keypoints, head.channels), name="raw")(x)


def _heatmap_layers(head: Heatmap | Simcc, features: list[Any]) -> Any:
    """A feature pyramid from coarse to fine, then a 1x1 convolution to one map per keypoint: (B, K, cells)."""
    rows_columns = [(level.shape[1], level.shape[2]) for level in features]

    def lateral(level: int) -> Any:
        x = _head_conv(features[level], head.width, f"head.lateral.{level}.0")
        return norm(x, f"head.lateral.{level}.1", relu6=False, epsilon=HEAD_EPSILON)

    merged = lateral(len(features) - 1)
    for level in reversed(range(len(features) - 1)):
        name = f"head.smooth.{level}"
        larger = doubled(merged, f"{name}.larger")
        surplus = [(0, have - want) for have, want in zip(larger.shape[1:3], rows_columns[level], strict=True)]
        if any(end for _, end in surplus):
            larger = layers.Cropping2D(surplus, name=f"{name}.cut")(larger)
        x = layers.ReLU(6.0, name=f"{name}.0")(layers.Add(name=f"{name}.add")([larger, lateral(level)]))
        x = depthwise(x, 5, 1, f"{name}.1", _even(5**2))
        x = norm(x, f"{name}.2", relu6=False, epsilon=HEAD_EPSILON)
        merged = norm(_head_conv(x, head.width, f"{name}.3"), f"{name}.4", epsilon=HEAD_EPSILON)
    maps = layers.Conv2D(head.keypoints, 1, **_even_both(head.width), name="head.maps")(merged)
    cells = head.grid[0] * head.grid[1]
    return layers.Permute((2, 1), name="maps")(layers.Reshape((cells, head.keypoints), name="cells")(maps))


def doubled(x: Any, name: str) -> Any:
    """Each cell as two by two equal cells, without tensors of five dimensions, which many devices do not have."""
    rows, columns, channels = x.shape[1:]
    for axis, shape in ((3, (rows, 2 * columns, channels)), (2, (2 * rows, 2 * columns, channels))):
        side_by_side = layers.Concatenate(axis, name=f"{name}.{axis}")([x, x])
        x = layers.Reshape(shape, name=f"{name}.{axis}.cells")(side_by_side)
    return x


def _simcc_layers(head: Simcc, features: list[Any]) -> Any:
    """The head simcc: a heatmap head, then a dense layer, shared by all keypoints, from each map to its bins."""
    maps = _heatmap_layers(head, features)
    return layers.Dense(head.channels, **_even_both(maps.shape[-1]), name="head.bins")(maps)


def _head_conv(x: Any, channels: int, name: str) -> Any:
    return layers.Conv2D(channels, 1, use_bias=False, kernel_initializer=_even(x.shape[-1]), name=name)(x)


def _even(fan_in: int) -> keras.Initializer:
    """First weights as in torch: uniform within 1 / sqrt(number of inputs) of 0."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def _even_both(fan_in: int) -> dict[str, keras.Initializer]:
    """Two initializers, because a single one would give the same values again."""
    return {"kernel_initializer": _even(fan_in), "bias_initializer": _even(fan_in)}


HEAD_LAYERS: dict[type, Callable[..., Any]] = {
    Regression: _regression_layers,
    Rle: _regression_layers,
    Simcc: _simcc_layers,
    Heatmap: _heatmap_layers,
}


# ---- pixels in


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
    """Write a network as a model file; if that fails, no file is left half written.

    Args:
        network: The network.
        spec: What the file says about it, such as its keypoints, its input and its crop.
        path: The file, which should end in .safetensors.

    Raises:
        OSError: The file cannot be written.
    """
    write_safetensors(path, save(tensors(network)), spec)


def load_model(path: Path | str, spec: ModelSpec | None = None) -> tuple[EfficientNetLiteRegressor, ModelSpec]:
    """The network of a `.safetensors` model file, and its spec.

    Args:
        path: The model file.
        spec: The spec, if the file holds none. None: that of the file.

    Returns:
        (network, spec).

    Raises:
        ModelFileError: The file is damaged or of another format, or its tensors do not fit the spec; the message names
            those that are missing, unexpected or of another shape.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    spec = spec or read_spec(path)
    require_head(spec.head, listed_tensors(path), str(path))
    network = EfficientNetLiteRegressor(
        spec.head.keypoints, spec.backbone, head=spec.head, size=spec.size, stages=spec.stages
    )
    loaded = load(path.read_bytes())
    check_fit(loaded, tensors(network), str(path))
    assign(network, loaded)
    return network, spec


@naming("pretrained")
def load_backbone(network: EfficientNetLiteRegressor, path: Path) -> str:
    """Load pretrained weights, and return a sentence that says what was used.

    path: ImageNet weights under timm's names (without their classifier), or a keylite model file; its head is used too,
    if it has the same shapes and bins. Raises ArgumentError unless every tensor of the backbone is there.
    """
    listed_tensors(path)  # raises an error of one line if the file is damaged
    options = network.options
    wanted, line = starting_tensors(path, load(path.read_bytes()), tensors(network), options["head"], options["stages"])
    assign(network, wanted)
    return line


def assign(network: keras.Model, loaded: dict[str, np.ndarray]) -> None:
    """Copy tensors that are named and laid out as in a checkpoint into the network."""
    for name, layer, variable in variables(network):
        if name in loaded:
            variable.assign(_from_torch(layer, loaded[name]))
