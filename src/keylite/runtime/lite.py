"""The EfficientNet-Lite backbones, lite0 to lite4: their stages, and the normalisation of their input."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Lite:
    """One EfficientNet-Lite: channels and blocks of each stage, the input side (px) it was made for, its parameters."""

    channels: tuple[int, ...]
    repeats: tuple[int, ...]
    native: int
    parameters: int


# Sources. Channels and repeats: tensorflow/tpu models/official/efficientnet/lite/efficientnet_lite_builder.py (compound
# scaling of lite0; stem and top are not scaled). Native sizes: timm's tf_efficientnet_lite*.in1k configurations.
# Parameters: counted on timm's models without their classifiers.
LITE = {
    "lite0": Lite((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 224, 3_371_008),
    "lite1": Lite((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1), 240, 4_135_680),
    "lite2": Lite((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1), 260, 4_811_072),
    "lite3": Lite((24, 32, 48, 96, 136, 232, 384), (1, 3, 3, 5, 5, 6, 1), 300, 6_916_096),
    "lite4": Lite((24, 32, 56, 112, 160, 272, 448), (1, 4, 4, 6, 6, 8, 1), 380, 11_725_568),
}
# By stage, the same in all five backbones: the block arguments of the same builder.
KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
STEM_CHANNELS, TOP_CHANNELS = 32, 1280
BACKBONE_EPSILON, HEAD_EPSILON = 1e-3, 1e-5  # of normalisation layers: timm's tf_ models, and torch's default

# Pixel values 0..255 become (value - 127) / 128: MEAN_RGB and STDDEV_RGB of Google's EfficientNet-Lite builders
# ("for better post-quantization"). An int8 grid holds it exactly; timm's 127.5 is half a grey level away.
PIXEL_MEAN = (127.0, 127.0, 127.0)
PIXEL_STD = (128.0, 128.0, 128.0)

Three = tuple[float, float, float]

STAGES = len(STRIDES)
FEWEST_STAGES = 2
PYRAMID_STAGES = 3  # the fewest stages that make the finest features of a pyramid: cells of 8 px


def pyramid_stages(stages: int) -> tuple[int, ...]:
    """The stages that give a pyramid its features, finest first: the last ones with cells of 8, 16 and 32 px.

    stages: how many stages the backbone keeps. The stages are counted from 0.
    """
    ends: dict[int, int] = {}
    cell = 2  # px of the input, after the stem
    for stage, stride in enumerate(STRIDES[:stages]):
        cell *= stride
        ends[cell] = stage
    return tuple(stage for cell, stage in ends.items() if cell >= 8)


def possible_stages(backbone: str, pyramid: bool) -> tuple[range, str]:
    """How many stages of a backbone a network can keep, and the same in words. pyramid: whether its head needs one."""
    if backbone not in LITE:
        return range(STAGES, STAGES + 1), f"{STAGES}, because only {', '.join(LITE)} can be cut"
    fewest = PYRAMID_STAGES if pyramid else FEWEST_STAGES
    return range(fewest, STAGES + 1), f"{fewest} to {STAGES} for this head"
