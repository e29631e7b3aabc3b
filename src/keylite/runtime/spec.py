"""What a model file says of itself, and the table of EfficientNet-Lite backbones.

Knows nothing of file formats (modelfile.py) or frameworks.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from keylite.runtime.errors import ModelFileError
from keylite.runtime.heads import Head, require_size
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.types import WhiteLevel
from keylite.runtime.words import clipped, listed, quoted

FORMAT = 4  # of the ModelSpec; another number is refused

# What a description may ask for at most, so that a damaged or hostile one costs no gigabytes: keylite's own networks
# stay far below.
MAX_DESCRIPTION = 4_000_000  # bytes of JSON
MAX_SIDE, MAX_AREA = 4096, 2**22  # px of the input
MAX_WIDTH = 16_384  # of a head's layers
MAX_RAW = 2**24  # values that a network gives per object
MAX_PADDING = 10.0  # a crop of 11 times the box
MAX_TEXT = 200  # characters of a short text


@dataclasses.dataclass(frozen=True)
class Lite:
    """One EfficientNet-Lite: stage output channels, stage repeats, native input px, backbone parameters."""

    channels: tuple[int, ...]
    repeats: tuple[int, ...]
    native: int
    parameters: int


# Widths and repeats: tensorflow/tpu models/official/efficientnet/lite/efficientnet_lite_builder.py (compound scaling of
# lite0, stem and top not scaled); native sizes: timm's tf_efficientnet_lite*.in1k configurations. Parameters without a
# classifier, counted on timm's models.
LITE = {
    "lite0": Lite((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 224, 3_371_008),
    "lite1": Lite((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1), 240, 4_135_680),
    "lite2": Lite((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1), 260, 4_811_072),
    "lite3": Lite((24, 32, 48, 96, 136, 232, 384), (1, 3, 3, 5, 5, 6, 1), 300, 6_916_096),
    "lite4": Lite((24, 32, 56, 112, 160, 272, 448), (1, 4, 4, 6, 6, 8, 1), 380, 11_725_568),
}
KERNELS = (3, 3, 5, 3, 5, 5, 3)  # and so on, by stage and the same in all five: the same builder's block arguments
STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
STEM_CHANNELS, TOP_CHANNELS = 32, 1280

# Pixel values 0..255 become (value - 127) / 128: MEAN_RGB and STDDEV_RGB of Google's EfficientNet-Lite builders
# ("for better post-quantization"). An int8 grid holds it exactly; timm's 127.5 is half a grey level away.
PIXEL_MEAN = (127.0, 127.0, 127.0)
PIXEL_STD = (128.0, 128.0, 128.0)

Three = tuple[float, float, float]
Size = tuple[Annotated[int, msgspec.Meta(ge=1)], Annotated[int, msgspec.Meta(ge=1)]]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model comes from.

    parent: sha256 of the model file this one was exported from, else None. pretrained: what the backbone started from.
    recipe: the training choices as a plain mapping. versions: packages that made the file.
    """

    keylite: str
    created: str
    framework: str
    pretrained: str
    data: str
    data_fingerprint: str
    recipe: dict[str, Any]
    versions: dict[str, str]
    parent: str | None


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The images from which the ranges of an int8 file were taken: so many objects of a data set, drawn with a seed."""

    count: int
    seed: int
    data: str
    data_fingerprint: str


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an export cost, in short: a child's points held to its parent's on `count` objects of a data set.

    drift_p95, drift_max, budget: px of the model input. nme: fractions by `normalize`. operators: how many of
    each kind.
    """

    data: str
    data_fingerprint: str
    count: int
    drift_p95: float
    drift_max: float
    budget: float
    nme_parent: float
    nme_child: float
    normalize: str
    operators: dict[str, int]


class Confidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How large an error a score means, as `count` labelled objects of a data set have shown.

    levels: (K,) each keypoint's usual score. knots: (`standing`, expected distance to the label as a fraction of the
    crop's longer side), standings rising, distances not. factors: (K,) of the distance, by keypoint.
    """

    levels: tuple[float, ...]
    knots: tuple[tuple[float, float], ...]
    factors: tuple[float, ...]
    count: int
    data: str
    data_fingerprint: str

    def __post_init__(self) -> None:
        standings, distances = zip(*self.knots, strict=True) if self.knots else ((), ())
        if not all(math.isfinite(level) and level > 0 for level in (*self.levels, *self.factors)):
            raise ModelFileError("confidence: expected levels and factors above 0")
        if not (standings and all(math.isfinite(value) and value >= 0 for value in (*standings, *distances))):
            raise ModelFileError("confidence: expected knots of numbers from 0 on")
        if any(after <= before for before, after in itertools.pairwise(standings)):
            raise ModelFileError("confidence: expected knots whose standings rise")

    def sigma(self, score: np.ndarray) -> np.ndarray:
        """Scores (..., K) -> expected distances (..., K), fractions of the crop's longer side; NaN stays NaN."""
        knots = np.array(self.knots, np.float64)
        x = standing(score, np.array(self.levels)).astype(np.float64)
        return np.interp(x, knots[:, 0], knots[:, 1]) * np.array(self.factors)


def standing(score: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """What scores (..., K) count: their share of the usual ones (K,), times the square of their object's mean share.

    For most of what makes a point hard (blur, pose, occlusion) makes its neighbours hard.
    """
    share = score / levels
    known = np.isfinite(share)
    mean = np.where(known, share, 0).sum(axis=-1, keepdims=True) / np.maximum(known.sum(axis=-1, keepdims=True), 1)
    return share * mean**2


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is needed to turn an image into named points with this file.

    size: (W, H) px of the input. box: what a crop is cut around; padding: fraction by which an annotation's box grows.
    mean, std: of pixel values 0..255, for information: the graph holds them. white_level: the value of 16-bit samples
    that becomes 255. precision: of weights (fp16), and of activations too (int8). calibration: of an int8 file, else
    None. mean_shape: (K, 2) in units of the crop, the mean of the training labels, which a model must beat; None if
    unknown. report: figures on the validation set, or None.
    confidence: what its scores mean, or None. certificate: of an exported file, else None. unlearnt: keypoints that no
    training object labels, or hardly any, and how many do.
    """

    format: int
    backbone: str
    size: Size
    box: Literal["annotation", "image"]
    padding: Annotated[float, msgspec.Meta(ge=0)]
    head: Head
    skeleton: Skeleton
    normalize: str
    mean: Three
    std: Three
    white_level: WhiteLevel
    precision: Literal["fp32", "fp16", "int8"]
    calibration: Calibration | None
    provenance: Provenance
    mean_shape: tuple[tuple[float, float], ...] | None
    report: dict[str, Any] | None
    confidence: Confidence | None
    certificate: Held | None
    unlearnt: dict[str, Annotated[int, msgspec.Meta(ge=0)]]

    @property
    def left_out(self) -> list[int]:
        """Numbers of the keypoints that count in no figure: those of `unlearnt`."""
        return [k for k, name in enumerate(self.skeleton.names) if name in self.unlearnt]

    @property
    def untaught(self) -> list[int]:
        """Numbers of the keypoints that no training object labels: what a network gives for them means nothing."""
        return [k for k in self.left_out if self.unlearnt[self.skeleton.names[k]] == 0]

    def __post_init__(self) -> None:
        head = self.head
        _require_at_most("a head's hidden or width", getattr(head, "hidden", getattr(head, "width", 0)), MAX_WIDTH)
        _require_at_most("sides of size", max(self.size), MAX_SIDE)
        _require_at_most("size, width x height,", math.prod(self.size), MAX_AREA)
        _require_at_most("padding", self.padding, MAX_PADDING)
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(std) and std > 0 for std in self.std):
            raise ModelFileError("spec: expected a finite mean and a std above 0")
        for name in ("backbone", "normalize"):
            _require_at_most(f"characters of {name}", len(getattr(self, name)), MAX_TEXT)
        if self.head.keypoints != len(self.skeleton):
            raise ModelFileError(f"spec: head of {self.head.keypoints} keypoints, skeleton of {len(self.skeleton)}")
        require_size(head, self.size)
        _require_at_most("values per object (keypoints x channels)", head.keypoints * head.channels, MAX_RAW)
        if self.mean_shape is not None and len(self.mean_shape) != len(self.skeleton):
            raise ModelFileError(
                f"spec: mean shape of {len(self.mean_shape)} keypoints, skeleton of {len(self.skeleton)}"
            )
        fitted = self.confidence
        if fitted and not len(fitted.levels) == len(fitted.factors) == len(self.skeleton):
            raise ModelFileError(
                f"spec: confidence of {len(fitted.levels)} keypoints, skeleton of {len(self.skeleton)}"
            )
        if strange := sorted(self.unlearnt.keys() - set(self.skeleton.names)):
            raise ModelFileError(f"spec: unlearnt: expected names of keypoints, got {quoted(strange[0])}")


def unlearnt_words(unlearnt: dict[str, int]) -> list[str]:
    """What a user must know of keypoints that were hardly taught: a line for those without labels, one for others."""
    none = [name for name, count in unlearnt.items() if count == 0]
    few = [f"{name} ({count})" for name, count in unlearnt.items() if count]
    lines: list[str] = []
    if none:
        lines.append(listed("no training object labels these keypoints, so NaN (null) is predicted for them", none))
    if few:
        lines.append(listed("hardly any training object labels these keypoints, so NME and PCK leave them out", few))
    return lines


def _require_at_most(name: str, value: float, most: float) -> None:
    if not value <= most:
        got = f"{value:,}" if value < 1e15 else quoted(value)
        raise ModelFileError(f"spec: expected {name} of at most {most:,}, got {got}")


def encode_spec(spec: ModelSpec) -> str:
    """The spec as JSON text."""
    return msgspec.json.encode(spec).decode()


def decode_spec(text: str | bytes, source: str) -> ModelSpec:
    """The spec of a JSON text; ValueError names `source`, and an unknown or missing field is one."""
    if len(text) > MAX_DESCRIPTION:
        raise ModelFileError(
            f"{source}: expected a description of at most {MAX_DESCRIPTION:,} bytes, got {len(text):,}"
        )
    try:
        fields = msgspec.json.decode(text, type=dict[str, Any])
        if fields.get("format") != FORMAT:
            raise ModelFileError(
                f"{source}: model file format {quoted(fields.get('format'))}, expected {FORMAT}; "
                "export it again with this keylite, or use the keylite that wrote it"
            )
        spec = msgspec.convert(fields, ModelSpec)
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, RecursionError, OverflowError) as error:
        raise ModelFileError(
            f"{source}: the model description inside the file is damaged: {clipped(str(error))}"
        ) from None
    for part in ("head", "skeleton", "provenance"):  # what has a default in Python has none in a file
        missing: set[str] = msgspec.to_builtins(getattr(spec, part)).keys() - fields[part].keys()
        if missing:
            raise ModelFileError(f"{source}: the model description lacks {part}.{sorted(missing)[0]}")
    return spec
