"""The backbones in Keras: EfficientNet-Lite without pooling and classifier, whole or as a pyramid of features.

Layers have the names that timm gives them, so a checkpoint's tensor `blocks.1.0.conv_dw.weight` is the kernel of the
layer `blocks.1.0.conv_dw`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keylite.runtime.errors import ArgumentError
from keylite.runtime.lite import (
    BACKBONE_EPSILON,
    EXPANSIONS,
    KERNELS,
    LITE,
    PIXEL_MEAN,
    PIXEL_STD,
    STAGES,
    STEM_CHANNELS,
    STRIDES,
    TOP_CHANNELS,
    Three,
    pyramid_stages,
)
from keylite.runtime.words import quoted


def create_backbone(name: str, pyramid: bool = False, stages: int = STAGES) -> keras.Model:
    """EfficientNet-Lite without pooling and classifier: (B, H, W, 3) -> (B, h, w, channels), or a list of levels.

    stages: how many stages it keeps; the last convolution belongs to the whole backbone.
    """
    if name not in LITE:
        more = "; timm:NAME needs `framework='pytorch'`" if name.startswith("timm:") else ""
        raise ArgumentError(f"backbone: expected one of {', '.join(LITE)}, got {quoted(name)}{more}")
    lite = LITE[name]
    images = keras.Input((None, None, 3), name="images")
    x = norm(_conv(images, STEM_CHANNELS, 3, 2, "conv_stem"), "bn1")
    ends = []  # of the stages
    for stage, (channels, repeats) in enumerate(zip(lite.channels[:stages], lite.repeats[:stages], strict=True)):
        for block in range(repeats):
            stride = STRIDES[stage] if block == 0 else 1
            x = _block(x, channels, KERNELS[stage], stride, EXPANSIONS[stage], f"blocks.{stage}.{block}")
        ends.append(x)
    if pyramid:
        x = [ends[stage] for stage in pyramid_stages(stages)]
    elif stages == STAGES:
        x = norm(_conv(x, TOP_CHANNELS, 1, 1, "conv_head"), "bn2")
    return keras.Model(images, x, name="backbone")


def _block(x: Any, channels: int, kernel: int, stride: int, expansion: int, name: str) -> Any:
    """An inverted residual; without expansion its first convolution is left out, and timm counts names from there."""
    before, width = x, x.shape[-1]
    if expansion == 1:
        x = norm(depthwise(x, kernel, stride, f"{name}.conv_dw"), f"{name}.bn1")
        x = norm(_conv(x, channels, 1, 1, f"{name}.conv_pw"), f"{name}.bn2", relu6=False)
    else:
        x = norm(_conv(x, expansion * width, 1, 1, f"{name}.conv_pw"), f"{name}.bn1")
        x = norm(depthwise(x, kernel, stride, f"{name}.conv_dw"), f"{name}.bn2")
        x = norm(_conv(x, channels, 1, 1, f"{name}.conv_pwl"), f"{name}.bn3", relu6=False)
    return layers.Add(name=f"{name}.add")([x, before]) if stride == 1 and width == channels else x


def _conv(x: Any, channels: int, kernel: int, stride: int, name: str) -> Any:
    return layers.Conv2D(
        channels, kernel, stride, "same", use_bias=False, kernel_initializer=_spread(kernel**2 * channels), name=name
    )(x)


def depthwise(x: Any, kernel: int, stride: int, name: str, start: keras.Initializer | None = None) -> Any:
    return layers.DepthwiseConv2D(
        kernel, stride, "same", use_bias=False, depthwise_initializer=start or _spread(kernel**2), name=name
    )(x)


def _spread(fan_out: int) -> keras.Initializer:
    """As timm starts convolutions: normal, of variance 2 / fan out."""
    return keras.initializers.RandomNormal(stddev=(2 / fan_out) ** 0.5)


def norm(x: Any, name: str, relu6: bool = True, epsilon: float = BACKBONE_EPSILON) -> Any:
    x = layers.BatchNormalization(momentum=0.9, epsilon=epsilon, name=name)(x)
    return layers.ReLU(6.0, name=f"{name}.relu6")(x) if relu6 else x


def normalisation(backbone: str) -> tuple[Three, Three]:
    """(mean, std) of pixel values 0 to 255 by which the input of a backbone is normalised."""
    return PIXEL_MEAN, PIXEL_STD
