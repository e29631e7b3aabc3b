"""What the frameworks share about fitting a checkpoint's tensors to a network, by name and shape.

Works on anything with a `shape`: arrays and tensors. Knows no framework and never looks at a value; of a head that is
taken over, the file's description must say that its values stand for the same bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from keylite.runtime.errors import ArgumentError
from keylite.runtime.heads import Head, Heatmap, Regression, Rle, Simcc
from keylite.runtime.modelfile import KEY, read_spec, safetensors_header
from keylite.runtime.words import first_of

UNCOUNTED = "num_batches_tracked"  # torch's own counter beside the normalisation statistics; nothing reads it
TOP = ("conv_head.", "bn2.")  # the lite backbones' last convolution, which a pyramid does without
WEIGHTS = ("F32", "F16", "F64")  # types of tensors that both frameworks read
FEATURES = 320  # channels of a backbone that a dense layer takes, at least
SPARE = 10_000_000  # values that may be missing: such a network is made, and the tensors that do not fit are named
NAMED = 4  # tensors that an error names


class Shaped(Protocol):
    """An array or a tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...


T = TypeVar("T", bound=Shaped)


def check_fit(loaded: Mapping[str, Shaped], own: Mapping[str, Shaped], source: str) -> None:
    """Raise ValueError unless `loaded` has the names and shapes of `own`, torch's counters aside.

    The error names `source` and the tensors that are missing, unexpected or of another shape.
    """
    given = {name for name in loaded if not name.endswith(UNCOUNTED)}
    problems = [f"missing {name}" for name in sorted(own.keys() - given)]
    problems += [f"unexpected {name}" for name in sorted(given - own.keys())]
    problems += [
        f"{name} is {tuple(loaded[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(own.keys() & given)
        if tuple(loaded[name].shape) != tuple(own[name].shape)
    ]
    if problems:
        raise ArgumentError(f"{source}: weights do not fit this network: {first_of(problems, NAMED)}")


class Listed(NamedTuple):
    """A tensor as a file's header lists it."""

    dtype: str
    shape: tuple[int, ...]


def listed_tensors(path: Path) -> dict[str, Listed]:
    """The tensors of a checked `.safetensors` file, without their values; ValueError for types that are no weights."""
    header = safetensors_header(path)
    tensors = {name: Listed(t["dtype"], tuple(t["shape"])) for name, t in header.items() if name != "__metadata__"}
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHTS and not name.endswith(UNCOUNTED):
            raise ArgumentError(f"{path}: expected tensors of {', '.join(WEIGHTS)}, got {name[:100]} of {tensor.dtype}")
    return tensors


def require_head(head: Head, tensors: Mapping[str, Shaped], source: str) -> None:
    """Raise ValueError for a head far larger than all tensors of its file, before a network of that size is made."""
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
        raise ArgumentError(
            f"{source}: weights do not fit this network: its head has at least {values:,} values, the file {held:,}"
        )


def starting_tensors(
    path: Path,
    loaded: Mapping[str, T],
    own: Mapping[str, Shaped],
    head: Head,
    classifier: tuple[str, ...] = ("classifier.",),
    names: Set[str] | None = None,
) -> tuple[dict[str, T], str]:
    """The tensors of a pretrained file that a network starts from, and the sentence that says what was used.

    path: a `.safetensors` file, `loaded` its tensors: ImageNet weights under timm's names, whose classifier (names that
    begin so) is left out, or a keylite model file, whose head is used too where it has the same shapes and bins. own:
    the network's tensors. head: its head. names: of its head's tensors; None is all that begin with "head.". Raises
    ValueError unless every tensor of the backbone is there, and no other.
    """
    names = {name for name in own if name.startswith("head.")} if names is None else names
    backbone = own.keys() - names
    loaded = {name: t for name, t in loaded.items() if not (head.pyramid and name.startswith(TOP))}
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
        raise ArgumentError(
            f"{path}: expected a backbone with its last convolution, which this head needs, got one without; take head "
            "heatmap or simcc, or other weights"
        )
    check_fit(wanted, {name: own[name] for name in used}, str(path))
    return {name: wanted[name] for name in used}, said


def _bins(head: Head) -> tuple[int, int] | None:
    """The bins that a head's values stand for: 64x96 and 96x64 of them have tensors of the same shapes."""
    return head.bins if isinstance(head, Simcc) else None
