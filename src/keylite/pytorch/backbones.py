"""The backbones in PyTorch: timm's networks without pooling and classifier, whole or as a pyramid of features."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from keylite.runtime.errors import ArgumentError
from keylite.runtime.heads import STRIDE
from keylite.runtime.lite import LITE, PIXEL_MEAN, PIXEL_STD, STAGES, Three, pyramid_stages
from keylite.runtime.words import quoted

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


class Cut(nn.Module):
    """The first stages of an EfficientNet-Lite of timm: its last features, or those of a pyramid, finest first."""

    def __init__(self, network: nn.Module, stages: int, pyramid: bool) -> None:
        super().__init__()
        del network.conv_head, network.bn2
        network.blocks = network.blocks[:stages]  # type: ignore[index]
        self.network = network
        self.given = pyramid_stages(stages) if pyramid else ()

    def forward(self, images: torch.Tensor) -> list[torch.Tensor] | torch.Tensor:
        features, levels = self.network.bn1(self.network.conv_stem(images)), []  # type: ignore[operator]
        for stage, blocks in enumerate(self.network.blocks):  # type: ignore[arg-type]
            features = blocks(features)
            if stage in self.given:
                levels.append(features)
        return levels or features


def create_backbone(name: str, pyramid: bool = False, stages: int = STAGES) -> nn.Module:
    """A timm network without pooling and classifier: (B, 3, H, W) -> (B, channels, h, w), or a list of levels.

    stages: how many of its stages a lite backbone keeps; the last convolution belongs to the whole one.
    """
    known = f"tf_efficientnet_{name}" if name in LITE else name.removeprefix("timm:")
    if name not in LITE and not (name.startswith("timm:") and timm.is_model(known)):
        raise ArgumentError(
            f"backbone: expected one of {', '.join(LITE)} or timm:NAME of a timm model, got {quoted(name)}"
        )
    lite = name in LITE
    options: dict[str, Any] = {"num_classes": 0, "global_pool": ""} if lite or not pyramid else {"features_only": True}
    try:
        network = timm.create_model(known, pretrained=False, **options)
    except Exception as error:  # a model may refuse these arguments in its own way
        raise ArgumentError(f"backbone: {name} cannot be used here: {error}") from None
    if lite and (pyramid or stages < STAGES):
        return Cut(network, stages, pyramid)
    return Pyramid(network) if pyramid else network


def timm_network(backbone: nn.Module) -> nn.Module:
    """The network of timm inside a backbone: its tensors have the names that a checkpoint has."""
    return backbone.network if isinstance(backbone, Pyramid | Cut) else backbone  # type: ignore[return-value]


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


def classifiers(network: nn.Module) -> tuple[str, ...]:
    """How the names of tensors in the classifier of a timm network begin."""
    names = (getattr(network, "pretrained_cfg", None) or {}).get("classifier") or "classifier"
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
