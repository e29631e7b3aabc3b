"""The spec: the description inside a model file. How a file format stores it is in modelfile.py."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from keylite.runtime.errors import ModelFileError
from keylite.runtime.heads import Head, require_size
from keylite.runtime.lite import STAGES, Three, possible_stages
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.types import Choice, Visibility0, Visibility1, WhiteLevel
from keylite.runtime.words import clipped, listed, quoted

FORMAT = 8  # format number of the ModelSpec; files with another number are refused

# Limits, so that a damaged or hostile description cannot make keylite take gigabytes. The networks that keylite trains
# stay far below them.
MAX_DESCRIPTION = 4_000_000  # bytes of JSON
MAX_SIDE, MAX_AREA = 4096, 2**22  # px of the input
MAX_WIDTH = 16_384  # channels of a layer of the head
MAX_RAW = 2**24  # values that a network gives per object
MAX_PADDING = 10.0  # the crop is then 11 times as wide as the box
MAX_TEXT = 200  # characters of a short text


Size = tuple[Annotated[int, msgspec.Meta(ge=1)], Annotated[int, msgspec.Meta(ge=1)]]


class DataId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which labelled images: their name, and their fingerprint (a sha256 of what they say)."""

    name: str
    fingerprint: str


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model comes from.

    keylite: the version that trained it. created: when this file was made. framework: "pytorch" or "tensorflow".
    pretrained: the weights that the backbone started from. data: the training set. recipe: the training choices, by
    name. versions: package name -> version, when this file was made. parent: sha256 of the model file that this one
    was exported from, or None.
    """

    keylite: str
    created: str
    framework: str
    pretrained: str
    data: DataId
    recipe: dict[str, Choice]
    versions: dict[str, str]
    parent: str | None


class ValidationFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The figures of a model on its validation set, from the epoch that its weights are of.

    data: the validation set. nme, mean_shape_nme: the NME, and that of `mean_shape` for every crop, as fractions.
    normalize: the normaliser of both. percent_px: how many px of the image 1 % is. pixel_error: the mean error, px of
    the image. count: objects.
    """

    data: DataId
    epoch: int
    nme: float
    mean_shape_nme: float
    normalize: str
    percent_px: float
    pixel_error: float
    count: int


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The images that the ranges of an int8 file come from: `count` objects of `data`, drawn with a seed."""

    count: int
    seed: int
    data: DataId


class Quantised(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an integer q of an int8 tensor stands for: scale * (q - zero)."""

    scale: float
    zero: Annotated[int, msgspec.Meta(ge=-128, le=127)]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ModelFileError("spec: expected a scale above 0")


class CertificateSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far an export moved points, in short: its points compared with its parent's on `count` objects of `data`.

    drift_p95, drift_max, budget: px of the model input. nme_parent, nme_child: fractions of the normaliser `normalize`.
    operators: the number of operators of each kind in the graph.
    """

    data: DataId
    count: int
    drift_p95: float
    drift_max: float
    budget: float
    nme_parent: float
    nme_child: float
    normalize: str
    operators: dict[str, int]


class Confidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a score becomes the distance to expect; it was fitted on `count` labelled objects of `data`.

    levels: (K,) the usual score of each keypoint. knots: points (standing, distance) of a curve. The standing (see the
    function of that name) rises from knot to knot; the distance, a fraction of the crop's longer side, never rises.
    factors: (K,) the distance of each keypoint is multiplied by its factor.
    """

    levels: tuple[float, ...]
    knots: tuple[tuple[float, float], ...]
    factors: tuple[float, ...]
    count: int
    data: DataId

    def __post_init__(self) -> None:
        standings, distances = zip(*self.knots, strict=True) if self.knots else ((), ())
        if not all(math.isfinite(level) and level > 0 for level in (*self.levels, *self.factors)):
            raise ModelFileError("confidence: expected levels and factors above 0")
        if not (standings and all(math.isfinite(value) and value >= 0 for value in (*standings, *distances))):
            raise ModelFileError("confidence: expected knots of numbers from 0 on")
        if any(after <= before for before, after in itertools.pairwise(standings)):
            raise ModelFileError("confidence: expected knots whose standings rise")

    def sigma(self, score: np.ndarray) -> np.ndarray:
        """Scores (..., K) -> distances to expect (..., K), fractions of the crop's longer side; NaN stays NaN."""
        knots = np.array(self.knots, np.float64)
        standings = standing(score, np.array(self.levels)).astype(np.float64)
        return np.interp(standings, knots[:, 0], knots[:, 1]) * np.array(self.factors)


def standing(score: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """How scores (..., K) compare with usual ones (K,): the quotient, times the square of the object's mean quotient.

    The mean takes part because blur, pose or occlusion usually make all points of an object hard.
    """
    share = score / levels
    known = np.isfinite(share)
    mean = np.where(known, share, 0).sum(axis=-1, keepdims=True) / np.maximum(known.sum(axis=-1, keepdims=True), 1)
    return share * mean**2


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description inside a model file: all that is needed to turn an image into named points with it.

    docs/model-file.md explains each field. `ModelSpec` objects are read-only.

    Attributes:
        format: The number of this layout of the description.
        backbone: "lite0" to "lite4", or "timm:NAME".
        stages: How many stages of the backbone the network keeps; 7 is the whole backbone.
        size: (width, height) of the model input, px.
        box: "annotation": a crop is cut around a box; "image": a crop is the whole image.
        padding: The fraction by which a box grows before it is cropped.
        head: The head, with its number of keypoints; its `decode` turns raw values into points.
        skeleton: The keypoints: names, edges, mirror pairs and OKS constants.
        category: What the training labels call an object, such as "face"; empty if they do not say.
        visibility_0: What 0 means in the labels: "ignore", nobody looked; or "absent", the point is not there.
        visibility_1: What 1 means: "train", the point is covered and its place is taught; "ignore", it is left out of
            training and of every figure; or "absent", the point is not there, so it is left out, too.
        normalize: The normaliser that errors are divided by, unless you choose another: "box_side", for example.
        mean, std: Three numbers each: pixel values 0..255 become (value - mean) / std. The graph does it.
        white_level: The value of 16-bit samples that becomes 255.
        precision: "fp32"; "fp16": weights; "int8": weights and activations.
        input_type: What the file takes for a pixel: "uint8", its bytes; "int8", its bytes minus 128; or "float32", its
            bytes as numbers.
        output: The scale and zero point of an int8 output. None: the output is float32.
        weight_scales: For int8: "per-channel", or "per-tensor": all weights of a layer share a scale. None for others.
        calibration: The images that the ranges of an int8 file come from. None for other files.
        provenance: Where the model comes from: versions, data, recipe, parent.
        mean_shape: (K, 2): the mean place of each keypoint in the training crops, unit coordinates. None: unknown.
        report: Figures on the validation set. None: there are none.
        confidence: How a score becomes a sigma. None: it was not fitted.
        certificate: How far an export moved the points, in short. None: the file was not exported.
        unlearnt: Keypoints that no training object labels, or hardly any, with the number of objects that do.
    """

    format: int
    backbone: str
    stages: int
    size: Size
    box: Literal["annotation", "image"]
    padding: Annotated[float, msgspec.Meta(ge=0)]
    head: Head
    skeleton: Skeleton
    category: str
    visibility_0: Visibility0
    visibility_1: Visibility1
    normalize: str
    mean: Three
    std: Three
    white_level: WhiteLevel
    precision: Literal["fp32", "fp16", "int8"]
    input_type: Literal["uint8", "int8", "float32"]
    output: Quantised | None
    weight_scales: Literal["per-channel", "per-tensor"] | None
    calibration: Calibration | None
    provenance: Provenance
    mean_shape: tuple[tuple[float, float], ...] | None
    report: ValidationFigures | None
    confidence: Confidence | None
    certificate: CertificateSummary | None
    unlearnt: dict[str, Annotated[int, msgspec.Meta(ge=0)]]

    @property
    def network(self) -> str:
        """The network in words, such as "lite0 (5 of 7 stages), heatmap head, 128x128 px"."""
        cut = f" ({self.stages} of {STAGES} stages)" if self.stages < STAGES else ""
        return f"{self.backbone}{cut}, {type(self.head).__name__.lower()} head, {self.size[0]}x{self.size[1]} px"

    @property
    def teaches_hidden(self) -> bool:
        """Whether points of visibility 1 count: in training, and in figures."""
        return self.visibility_1 == "train"

    @property
    def left_out(self) -> list[int]:
        """The numbers, from 0 on, of the keypoints in `unlearnt`: figures over all keypoints leave them out."""
        return [k for k, name in enumerate(self.skeleton.names) if name in self.unlearnt]

    @property
    def untaught(self) -> list[int]:
        """The numbers, from 0 on, of the keypoints that no training object labels: their points are NaN."""
        return [k for k in self.left_out if self.unlearnt[self.skeleton.names[k]] == 0]

    def __post_init__(self) -> None:
        head = self.head
        _require_at_most("a head's hidden or width", getattr(head, "hidden", getattr(head, "width", 0)), MAX_WIDTH)
        _require_at_most("sides of size", max(self.size), MAX_SIDE)
        _require_at_most("size, width x height,", math.prod(self.size), MAX_AREA)
        _require_at_most("padding", self.padding, MAX_PADDING)
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(std) and std > 0 for std in self.std):
            raise ModelFileError("spec: expected a finite mean and a std above 0")
        for name in ("backbone", "normalize", "category"):
            _require_at_most(f"characters of {name}", len(getattr(self, name)), MAX_TEXT)
        if head.keypoints != len(self.skeleton):
            raise ModelFileError(
                f"spec: head: expected the skeleton's {len(self.skeleton)} keypoints, got {head.keypoints}"
            )
        possible, words = possible_stages(self.backbone, head.pyramid)
        if self.stages not in possible:
            raise ModelFileError(f"spec: stages: expected {words}, got {self.stages}")
        require_size(head, self.size)
        _require_at_most("values per object (keypoints x channels)", head.keypoints * head.channels, MAX_RAW)
        if self.mean_shape is not None and len(self.mean_shape) != len(self.skeleton):
            raise ModelFileError(
                f"spec: mean_shape: expected the skeleton's {len(self.skeleton)} keypoints, got {len(self.mean_shape)}"
            )
        fitted = self.confidence
        if fitted and not len(fitted.levels) == len(fitted.factors) == len(self.skeleton):
            raise ModelFileError(
                f"spec: confidence: expected levels and factors for the skeleton's {len(self.skeleton)} keypoints, "
                f"got {len(fitted.levels)} and {len(fitted.factors)}"
            )
        if strange := sorted(self.unlearnt.keys() - set(self.skeleton.names)):
            raise ModelFileError(f"spec: unlearnt: expected names of keypoints, got {quoted(strange[0])}")


def unlearnt_words(unlearnt: dict[str, int]) -> list[str]:
    """Notes for the user on the keypoints in `unlearnt`: a line on those without labels, a line on the others."""
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
    """The spec of a JSON text. ValueError, which names `source`, if a field is missing, unknown or damaged."""
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
        words = clipped(str(error).replace("`", "'"))  # a name in these would be taken for an argument
        raise ModelFileError(f"{source}: the model description inside the file is damaged: {words}") from None
    # A file must have the fields of these parts, even those with a default.
    for part in ("head", "skeleton", "provenance"):
        missing: set[str] = msgspec.to_builtins(getattr(spec, part)).keys() - fields[part].keys()
        if missing:
            raise ModelFileError(f"{source}: the model description lacks {part}.{sorted(missing)[0]}")
    return spec
