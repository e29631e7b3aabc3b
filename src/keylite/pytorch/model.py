"""The network in PyTorch: a timm backbone and a head; how it predicts, and how model files are read and written.

Knows nothing of training or data sets.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load, save
from torch import nn

from keylite.runtime.engines import Engine
from keylite.runtime.errors import ArgumentError
from keylite.runtime.heads import STRIDE, Head, Heatmap, Regression, Rle, Simcc, require_size, size_for
from keylite.runtime.modelfile import read_spec, safetensors_header, write_safetensors
from keylite.runtime.spec import LITE, PIXEL_MEAN, PIXEL_STD, ModelSpec, Three
from keylite.runtime.words import quoted
from keylite.training.checkpoint import UNCOUNTED, check_fit, listed_tensors, require_head, starting_tensors
from keylite.training.pretrained import find_pretrained
from keylite.training.teaching import LAST_STD, SCALE_START


class EfficientNetLiteRegressor(nn.Module):
    """Normalised float (B, 3, H, W) in, raw (B, K, C) out: unit coordinates for the `regression` head.

    num_keypoints: K. backbone: lite0..lite4, or timm:NAME. pretrained: None, "imagenet" (or True), or a .safetensors
    path: ImageNet weights under timm's names, or a keylite model file. hidden: width of the dense layer. freeze: hold
    the backbone and its normalisation statistics still; None freezes where pretrained weights are given. head: another
    head than `regression`; `size` (W, H) is the input that it is for. mean_shape: (K, 2) unit coordinates that an
    untrained `regression` or `rle` head gives.
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
    ) -> None:
        super().__init__()
        weights = find_pretrained(pretrained, backbone)
        head = head or Regression(num_keypoints, hidden)
        if head.keypoints != num_keypoints:
            raise ArgumentError(f"head: expected {num_keypoints} keypoints, got {head.keypoints}")
        size = size or size_for(head)
        if size:
            require_size(head, size)
        self.head_spec = head
        self.backbone = create_backbone(backbone, head.pyramid)
        self.head = MODULES[type(head)](head, self.backbone, size)
        shape = torch.full((num_keypoints, 2), 0.5) if mean_shape is None else torch.as_tensor(mean_shape)
        self.head.start_at(shape)
        self.frozen = False
        if weights:
            load_backbone(self, weights)
        self.freeze(weights is not None if freeze is None else freeze)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images))

    def freeze(self, frozen: bool = True) -> None:
        """Freeze the backbone, with its normalisation statistics, or let it train again."""
        self.frozen = frozen
        self.backbone.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> EfficientNetLiteRegressor:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()  # requires_grad alone does not stop the running statistics
        return self


class RegressionHead(nn.Module):
    """The head of regression and rle: global average pooling, a dense layer, ReLU, a dense layer."""

    def __init__(self, head: Regression | Rle, backbone: nn.Module, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.shape = (head.keypoints, head.channels)
        self.hidden = nn.Linear(feature_shapes(backbone, size)[0][0], head.hidden)
        self.points = nn.Linear(head.hidden, head.keypoints * head.channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.points(torch.relu(self.hidden(features.mean(dim=(2, 3))))).unflatten(1, self.shape)

    def start_at(self, shape: torch.Tensor) -> None:
        """Set the last layer so that the untrained head gives nearly `shape` (K, 2), in unit coordinates."""
        nn.init.normal_(self.points.weight, std=LAST_STD)
        with torch.no_grad():
            bias = self.points.bias.view(self.shape)
            bias.fill_(SCALE_START)
            bias[:, :2] = shape


class HeatmapHead(nn.Module):
    """The head heatmap: a feature pyramid from coarse to fine, then a 1x1 convolution to one map per keypoint."""

    def __init__(self, head: Heatmap | Simcc, backbone: nn.Module, size: tuple[int, int] | None) -> None:
        super().__init__()
        shapes = feature_shapes(backbone, size)
        if shapes[0][1:] != (head.grid[1], head.grid[0]):
            raise ArgumentError(
                f"backbone: expected features of {head.grid[0]}x{head.grid[1]} cells at stride {STRIDE}, got "
                f"{shapes[0][2]}x{shapes[0][1]}; choose another backbone, or head regression"
            )
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, head.width, 1, bias=False), nn.BatchNorm2d(head.width))
            for channels, _, _ in shapes
        )
        self.smooth = nn.ModuleList(_separable(head.width) for _ in shapes[:-1])
        self.maps = nn.Conv2d(head.width, head.keypoints, 1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        merged = self.lateral[-1](features[-1])
        for level in range(len(features) - 2, -1, -1):
            larger = nn.functional.interpolate(merged, size=features[level].shape[2:], mode="nearest")
            merged = self.smooth[level](larger + self.lateral[level](features[level]))
        return self.maps(merged).flatten(2)

    def start_at(self, shape: torch.Tensor) -> None:
        """Do nothing: an untrained map is nearly even anyway."""


class SimccHead(HeatmapHead):
    """The head simcc: a heatmap head, then a dense layer, shared by all keypoints, from each map to its bins."""

    def __init__(self, head: Simcc, backbone: nn.Module, size: tuple[int, int] | None) -> None:
        super().__init__(head, backbone, size)
        self.bins = nn.Linear(head.grid[0] * head.grid[1], head.channels)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return self.bins(super().forward(features))


def _separable(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU6(),
        nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
    )


MODULES: dict[type, Any] = {
    Regression: RegressionHead,
    Rle: RegressionHead,
    Simcc: SimccHead,
    Heatmap: HeatmapHead,
}
PYRAMID = (STRIDE, 16, 32)  # px of the input a cell of each level stands for


class Pyramid(nn.Module):
    """Some levels of a timm network's features, finest first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        strides = network.feature_info.reduction()  # type: ignore[union-attr, operator]
        self.levels = [strides.index(stride) for stride in PYRAMID if stride in strides]
        if len(self.levels) != len(PYRAMID):
            raise ArgumentError(f"backbone: expected features at strides {PYRAMID}, got {strides}")
        self.network = network

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        features = self.network(images)
        return [features[level] for level in self.levels]


def create_backbone(name: str, pyramid: bool = False) -> nn.Module:
    """A timm network without pooling and classifier: (B, 3, H, W) -> (B, channels, h, w), or a list of levels."""
    known = f"tf_efficientnet_{name}" if name in LITE else name.removeprefix("timm:")
    if name not in LITE and not (name.startswith("timm:") and timm.is_model(known)):
        raise ArgumentError(
            f"backbone: expected one of {', '.join(LITE)} or timm:NAME of a timm model, got {quoted(name)}"
        )
    options: dict[str, Any] = {"features_only": True} if pyramid else {"num_classes": 0, "global_pool": ""}
    try:
        network = timm.create_model(known, pretrained=False, **options)
    except Exception as error:  # a model may refuse these arguments in its own way
        raise ArgumentError(f"backbone: {name} cannot be used here: {error}") from None
    return Pyramid(network) if pyramid else network


def feature_shapes(backbone: nn.Module, size: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    """(channels, rows, columns) of a backbone's feature maps for an input of `size` (W, H)."""
    width, height = size or (64, 64)
    with torch.no_grad():
        try:
            features = backbone.eval()(torch.zeros(1, 3, height, width))
        except Exception as error:  # transformers assert a fixed input size, each in its own way
            raise ArgumentError(f"backbone: does not take an input of {width}x{height}: {error}") from None
    backbone.train()
    maps = features if isinstance(features, list) else [features]
    if any(level.ndim != 4 for level in maps):
        raise ArgumentError(
            "backbone: expected a network that gives a feature map, got tokens; choose a convolutional one"
        )
    return [(level.shape[1], level.shape[2], level.shape[3]) for level in maps]


def normalisation(backbone: str) -> tuple[Three, Three]:
    """(mean, std) of pixel values 0 to 255 by which the input of a backbone is normalised."""
    if backbone in LITE:
        return PIXEL_MEAN, PIXEL_STD
    config = timm.get_pretrained_cfg(backbone.removeprefix("timm:"))
    if config is None:
        return PIXEL_MEAN, PIXEL_STD
    return tuple(255.0 * m for m in config.mean), tuple(255.0 * s for s in config.std)  # type: ignore[return-value]


class PixelModel(nn.Module):
    """A network that also normalises its input: uint8 (B, H, W, 3) RGB -> raw float32 (B, K, C)."""

    def __init__(self, network: nn.Module, mean: Three, std: Three) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        images = pixels.permute(0, 3, 1, 2).float()  # a view in channels_last order; only the cast copies
        return self.network((images - self.mean) / self.std)


def as_engine(model: PixelModel, threads: int | None = None) -> Engine:
    """The engine of a network in memory. The network is switched to inference here, once, so threads may share it.

    threads: the number of threads that calculate; it belongs to the whole process, so calls with a number take turns.
    In a forked process a single thread calculates: OpenMP's threads do not exist there, and a wait for them never ends.
    """
    model.eval()
    _first_process()
    device = next(model.parameters()).device

    def calculate(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(pixels).to(device)).float().cpu().numpy()

    def engine(pixels: np.ndarray) -> np.ndarray:
        forked = _forked()
        if forked and device.type == "cuda":
            raise RuntimeError(
                "pytorch: CUDA does not work in a process that was forked after its first use; start processes with "
                "spawn, or use the CPU"
            )
        if threads is None or forked:
            return calculate(pixels)
        with TURNS:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                return calculate(pixels)
            finally:
                torch.set_num_threads(before)

    return engine


TURNS = threading.Lock()  # held by a call that sets the number of threads of the process


@functools.cache
def _first_process() -> int:
    """The id of the process that made the first engine; in a fork, that is another process."""
    return os.getpid()


def _forked() -> bool:
    """Whether this process is a fork of one that had an engine; if so, let a single thread calculate."""
    if _first_process() == os.getpid():
        return False
    torch.set_num_threads(1)
    return True


def open_engine(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """The engine of a `.safetensors` model file."""
    _forked()
    network, _ = load_model(path, spec)
    model = PixelModel(network, spec.mean, spec.std).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return as_engine(model.to(torch_device(device)), threads)


def torch_device(device: str) -> torch.device:
    """The torch device of `auto`, `cpu` or `cuda`; ArgumentError if there is none."""
    if device not in ("auto", "cpu", "cuda"):
        raise ArgumentError(f"device: expected auto, cpu or cuda, got {quoted(device)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ArgumentError("device: cuda asked for, but PyTorch sees no CUDA GPU; use `device='cpu'`")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def tensors(network: EfficientNetLiteRegressor) -> dict[str, torch.Tensor]:
    """The tensors of the checkpoint, on the CPU: the backbone under timm's names, the head under `head.`."""
    return {name: t.detach().cpu().contiguous() for name, t in state(network).items()}


def state(network: EfficientNetLiteRegressor) -> dict[str, torch.Tensor]:
    """The same tensors on the device of the network."""
    state = dict(timm_network(network).state_dict())
    state |= {f"head.{name}": t for name, t in network.head.state_dict().items()}
    return {name: t for name, t in state.items() if not name.endswith(UNCOUNTED)}


def timm_network(network: EfficientNetLiteRegressor) -> nn.Module:
    """The backbone whose names the checkpoint has."""
    return network.backbone.network if isinstance(network.backbone, Pyramid) else network.backbone  # type: ignore[return-value]


def save_model(network: EfficientNetLiteRegressor, spec: ModelSpec, path: Path | str) -> None:
    """Write a model file; on failure, write nothing."""
    write_safetensors(path, save(tensors(network)), spec)


def load_model(path: Path | str, spec: ModelSpec | None = None) -> tuple[EfficientNetLiteRegressor, ModelSpec]:
    """The network of a `.safetensors` model file, in eval mode, and its spec.

    spec: needed if the file holds none. Raises ArgumentError if tensors do not fit, and names those that are missing,
    unexpected or of another shape.
    """
    path = Path(path)
    spec = spec or read_spec(path)
    listed = listed_tensors(path)
    require_head(spec.head, listed, str(path))
    if spec.backbone not in LITE:  # of any size: it costs nothing on the meta device
        with torch.device("meta"):
            check_fit(listed, state(_network_of(spec)), str(path))
    network = _network_of(spec)
    loaded, own = load(path.read_bytes()), state(network)
    check_fit(loaded, own, str(path))
    _assign(network, {name: loaded[name] for name in own})
    return network.eval(), spec


def _network_of(spec: ModelSpec) -> EfficientNetLiteRegressor:
    return EfficientNetLiteRegressor(spec.head.keypoints, spec.backbone, head=spec.head, size=spec.size)


def load_backbone(network: EfficientNetLiteRegressor, path: Path) -> str:
    """Load pretrained weights, and return a sentence that says what was used.

    path: ImageNet weights under timm's names (without their classifier), or a keylite model file; its head is used too,
    if it has the same shapes and bins. Raises ArgumentError unless every tensor of the backbone is there.
    """
    safetensors_header(path)  # raises an error of one line if the file is damaged
    used, said = starting_tensors(
        path,
        load(path.read_bytes()),
        tensors(network),
        network.head_spec,
        classifier=classifiers(timm_network(network)),
        names=head_names(network),  # a backbone of timm may have a "head." of its own
    )
    _assign(network, used)
    return said


def classifiers(network: nn.Module) -> tuple[str, ...]:
    """How the names of tensors in the classifier of a timm network begin."""
    names = (getattr(network, "pretrained_cfg", None) or {}).get("classifier") or "classifier"
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def head_names(network: EfficientNetLiteRegressor) -> set[str]:
    """The names of the head's tensors in a checkpoint."""
    return {f"head.{name}" for name in network.head.state_dict() if not name.endswith(UNCOUNTED)}


def _assign(network: EfficientNetLiteRegressor, loaded: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors of a checkpoint that fit into the network."""
    head = head_names(network)
    backbone = {name: t for name, t in loaded.items() if name not in head}
    timm_network(network).load_state_dict(backbone, strict=False)  # counters are missing, and perhaps the head
    network.head.load_state_dict(
        {name.removeprefix("head."): loaded[name] for name in head & loaded.keys()}, strict=False
    )
