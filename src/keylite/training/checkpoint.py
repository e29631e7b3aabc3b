"""Checks that the tensors of a checkpoint fit a network, by name and shape; for both frameworks.

Works on anything that has a `shape`: arrays and tensors. Knows no framework and never reads a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from keylite.runtime.errors import ModelFileError
from keylite.runtime.heads import Head, Heatmap, Regression, Rle, Simcc
from keylite.runtime.lite import STAGES
from keylite.runtime.modelfile import KEY, read_spec, safetensors_header
from keylite.runtime.words import first_of

UNCOUNTED = "num_batches_tracked"  # PyTorch's counter beside normalisation statistics; nothing here reads it
TOP = ("conv_head.", "bn2.")  # the last convolution of the lite backbones, after their last stage
WEIGHTS = ("F32", "F16", "F64")  # tensor types that both frameworks read
FEATURES = 24  # fewest channels that a backbone gives to a dense layer
SPARE = 10_000_000  # values that a network may have beyond its file; it is made, so that an error can list the tensors
NAMED = 4  # tensors that an error lists by name


class Shaped(Protocol):
    """An array or a tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...


T = TypeVar("T", bound=Shaped)


def check_fit(loaded: Mapping[str, Shaped], own: Mapping[str, Shaped], source: str) -> None:
    """Raise ModelFileError unless `loaded` has the names and shapes of `own`; PyTorch's counters are ignored.

    source: where `loaded` comes from, for the error, which also lists tensors that are missing, unexpected or of
    another shape.
    """
    loaded_names = {name for name in loaded if not name.endswith(UNCOUNTED)}
    problems = [f"missing {name}" for name in sorted(own.keys() - loaded_names)]
    problems += [f"unexpected {name}" for name in sorted(loaded_names - own.keys())]
    problems += [
        f"{name} is {tuple(loaded[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(own.keys() & loaded_names)
        if tuple(loaded[name].shape) != tuple(own[name].shape)
    ]
    if problems:
        raise ModelFileError(f"{source}: weights do not fit this network: {first_of(problems, NAMED)}")


class Listed(NamedTuple):
    """Type and shape of a tensor, as the header of a file lists it."""

    dtype: str
    shape: tuple[int, ...]


def listed_tensors(path: Path) -> dict[str, Listed]:
    """Type and shape of each tensor in a `.safetensors` file, by name; ModelFileError if a type is not in WEIGHTS."""
    header = safetensors_header(path)
    tensors = {name: Listed(t["dtype"], tuple(t["shape"])) for name, t in header.items() if name != "__metadata__"}
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHTS and not name.endswith(UNCOUNTED):
            raise ModelFileError(
                f"{path}: expected tensors of {', '.join(WEIGHTS)}, got {name[:100]} of {tensor.dtype}"
            )
    return tensors


def require_head(head: Head, tensors: Mapping[str, Shaped], source: str) -> None:
    """Raise ModelFileError if a head is far larger than its file, before memory is taken for such a network."""
    count = head.keypoints
    match head:
        case Regression() | Rle():
            values = head.hidden * (count * head.channels + FEATURES)
        case Heatmap():
            values = count * head.width
        case Simcc():
            values = count * head.width + head.channels * head.grid[0] * head.grid[1]
    held = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if values > held + SPARE:
        raise ModelFileError(
            f"{source}: weights do not fit this network: its head needs {values:,} values, the file has {held:,}"
        )


def unused(head: Head, stages: int) -> tuple[str, ...]:
    """How the names of those tensors of a whole backbone begin that a network with this head and stages lacks."""
    later = tuple(f"blocks.{stage}." for stage in range(stages, STAGES))
    return later + (TOP if head.pyramid or later else ())


def starting_tensors(
    path: Path,
    loaded: Mapping[str, T],
    own: Mapping[str, Shaped],
    head: Head,
    stages: int,
    classifier: tuple[str, ...] = ("classifier.",),
    names: Set[str] | None = None,
) -> tuple[dict[str, T], str]:
    """The tensors of a pretrained file that a network starts from, and a sentence that says what is used.

    The file is a keylite model file, whose head is used too if its shapes and bins are the same, or it holds ImageNet
    weights under timm's names. Raises ModelFileError unless the file has every tensor of the backbone, and no other.

    path: the `.safetensors` file. loaded: its tensors. own: the network's tensors. head: the network's head. stages:
    how many stages of the backbone the network keeps. classifier: how the names of tensors begin that ImageNet weights
    have for classes; they are left out. names: the names of the network's head tensors; None: all that begin with
    "head.".
    """
    names = {name for name in own if name.startswith("head.")} if names is None else names
    backbone = own.keys() - names
    loaded = {name: t for name, t in loaded.items() if not name.startswith(unused(head, stages))}
    if KEY in safetensors_header(path).get("__metadata__", {}):
        same_head = _bins(read_spec(path).head) == _bins(head) and all(
            name in loaded and tuple(loaded[name].shape) == tuple(own[name].shape) for name in names
        )
        used = backbone | (names if same_head else set())
        wanted = {name: t for name, t in loaded.items() if name in used or not name.startswith("head.")}
        said = f"model file {path.name}: backbone {'and head' if same_head else 'alone, its head is another'}"
    else:
        used = backbone
        wanted = {name: t for name, t in loaded.items() if not name.startswith(classifier)}
        said = f"ImageNet weights of {path.name}: {len(used)} tensors"
    top = {name for name in used if name.startswith(TOP)}
    if top and used - wanted.keys() == top:
        raise ModelFileError(
            f"{path}: expected a backbone with its last convolution, which this head needs, got one without; take head "
            "heatmap or simcc, or other weights"
        )
    check_fit(wanted, {name: own[name] for name in used}, str(path))
    return {name: wanted[name] for name in used}, said


def _bins(head: Head) -> tuple[int, int] | None:
    """The bins of a head, or None if it has none. Shapes do not tell 64x96 bins from 96x64: their tensors are alike."""
    return head.bins if isinstance(head, Simcc) else None
