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
import torch
from safetensors.torch import load, save
from torch import nn

from keylite.pytorch.backbones import classifiers, create_backbone, feature_shapes, timm_network
from keylite.runtime.engines import Engine
from keylite.runtime.errors import ArgumentError, naming
from keylite.runtime.heads import STRIDE, Head, Heatmap, Regression, Rle, Simcc, require_size, size_for
from keylite.runtime.lite import LITE, STAGES, Three, possible_stages
from keylite.runtime.modelfile import read_spec, safetensors_header, write_safetensors
from keylite.runtime.spec import ModelSpec
from keylite.runtime.words import quoted
from keylite.training.checkpoint import UNCOUNTED, check_fit, listed_tensors, require_head, starting_tensors
from keylite.training.pretrained import find_pretrained
from keylite.training.teaching import LAST_STD, SCALE_START


class EfficientNetLiteRegressor(nn.Module):
    """A network for keypoints: EfficientNet-Lite with ImageNet weights, and a regression head or another one.

    It takes normalised images, float (B, 3, H, W), and gives raw values, (B, K, C). The raw values of the head
    `regression` are unit coordinates; the `decode` of any head turns its raw values into points and scores.

    Args:
        num_keypoints: K.
        backbone: "lite0" to "lite4", or "timm:NAME" for another network of timm.
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
    ) -> None:
        super().__init__()
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
        self.head_spec, self.stages = head, stages
        self.backbone = create_backbone(backbone, head.pyramid, stages)
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
        """Hold the backbone still, or let it train again.

        Args:
            frozen: True: its weights and its normalisation statistics stay as they are. False: they are trained.
        """
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
    state = dict(timm_network(network.backbone).state_dict())
    state |= {f"head.{name}": t for name, t in network.head.state_dict().items()}
    return {name: t for name, t in state.items() if not name.endswith(UNCOUNTED)}


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
    """The network of a `.safetensors` model file, in eval mode, and its spec.

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
    listed = listed_tensors(path)
    require_head(spec.head, listed, str(path))
    if spec.backbone not in LITE:  # of any size: it costs nothing on the meta device
        with torch.device("meta"):
            check_fit(listed, state(_network_of(spec)), str(path))
    network = _network_of(spec)
    loaded, own = load(path.read_bytes()), state(network)
    check_fit(loaded, own, str(path))
    assign(network, {name: loaded[name] for name in own})
    return network.eval(), spec


def _network_of(spec: ModelSpec) -> EfficientNetLiteRegressor:
    return EfficientNetLiteRegressor(
        spec.head.keypoints, spec.backbone, head=spec.head, size=spec.size, stages=spec.stages
    )


@naming("pretrained")
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
        network.stages,
        classifier=classifiers(timm_network(network.backbone)),
        names=head_names(network),  # a backbone of timm may have a "head." of its own
    )
    assign(network, used)
    return said


def head_names(network: EfficientNetLiteRegressor) -> set[str]:
    """The names of the head's tensors in a checkpoint."""
    return {f"head.{name}" for name in network.head.state_dict() if not name.endswith(UNCOUNTED)}


def assign(network: EfficientNetLiteRegressor, loaded: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors of a checkpoint that fit into the network."""
    head = head_names(network)
    backbone = {name: t for name, t in loaded.items() if name not in head}
    timm_network(network.backbone).load_state_dict(backbone, strict=False)  # counters are missing, and perhaps the head
    network.head.load_state_dict(
        {name.removeprefix("head."): loaded[name] for name in head & loaded.keys()}, strict=False
    )
