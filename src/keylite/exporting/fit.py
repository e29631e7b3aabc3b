"""Whether an exported file fits the device that it is for: its operators, its flash and its RAM."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from keylite.exporting.form import Form
from keylite.exporting.targets import (
    KB,
    TARGETS,
    TargetNeeds,
    in_kb,
    measure_target,
    require_integers,
    require_packages,
)
from keylite.runtime.errors import ArgumentError
from keylite.runtime.graph import Weights, graph_of, weights_of
from keylite.runtime.heads import STRIDE, Heatmap
from keylite.runtime.kinds import require_choice, require_whole
from keylite.runtime.lite import LITE, STAGES, TOP_CHANNELS, possible_stages, pyramid_stages
from keylite.runtime.modelfile import read_spec, tflite_model
from keylite.runtime.spec import ModelSpec

SMALLEST = 32  # px: a smaller input is not proposed
MARGIN = 1.02  # what is proposed fits by estimates that are so many times as large
# Bytes per layer with weights, fitted to heatmaps with 3 to 7 stages, which are off by 0.3 %, a regression by 1.3 %.
FILE_LAYER = 980  # names, shapes, and the operators without weights around it
TABLE_LAYER, TABLE_CHANNEL = 340, 8  # in TensorFlow Lite Micro, for itself and for each channel that it gives
PRESETS = {  # of a heatmap on lite0, the largest first: stages and side of the input in px, as training resolves them
    "accurate": (7, 224),
    "balanced": (5, 128),
    "fast": (5, 96),
    "small": (4, 112),
    "tiny": (4, 80),
}


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that an export is for: a name of TARGETS, and its flash and RAM in KB of 1,024 bytes. None: no limit.

    Raises ArgumentError for a name that is none, or for numbers that are not whole.
    """

    target: str
    flash: int | None = None
    ram: int | None = None

    def __post_init__(self) -> None:
        require_choice("target", self.target, TARGETS)
        for name, limit in (("flash", self.flash), ("ram", self.ram)):
            if limit is not None:
                require_whole(name, limit)


def device_of(name: str | None, flash: int | None, ram: int | None, made: Form) -> Device | None:
    """The device that a file is for, or None. made: as what the file will be made.

    Raises ArgumentError if such a file runs on no target, and ModuleNotFoundError if the target cannot be checked here.
    """
    if name is None:
        for limit, value in (("flash", flash), ("ram", ram)):
            if value is not None:
                raise ArgumentError(f"{limit}: it is a limit of a target; name one, such as `target='tflm'`")
        return None
    device = Device(name, flash, ram)
    if made.suffix != ".tflite":
        raise ArgumentError(f"target: {name} runs .tflite files, got {made.suffix}; export with `to='litert'`")
    require_integers(name, "this one", made.precision)
    if TARGETS[name] and made.output_type != "int8":
        raise ArgumentError(
            f"target: {name} leaves the end of a file to the CPU if its output is {made.output_type}; export a heatmap "
            "with `output_type='int8'`, or leave out `target`"
        )
    require_packages(name)
    return device


def require_fit(made: Path, device: Device | None) -> None:
    """Raise ArgumentError if the device leaves operators of a file to its CPU, or has too little memory for it."""
    if device is None:
        return
    needs = measure_target(made, device.target)
    if needs.on_cpu:
        raise ArgumentError(
            f"target: {device.target} leaves operators of {needs.model} to the CPU: {needs.cpu_words}; "
            "train a heatmap (`head='heatmap'`), whose layers are all in int8, or leave out `target`"
        )
    over = _over(needs.flash, needs.ram, device)
    if over:
        takes = " and ".join(
            f"{in_kb(size)} of {name} (the limit is {most:,} KB)" for name, (size, most) in over.items()
        )
        layers = weights_of(graph_of(tflite_model(made)))
        raise ArgumentError(
            f"{', '.join(over)}: {needs.model} takes {takes} on {device.target}; "
            f"{nearest_choice(read_spec(made), layers, needs, device)}"
        )


def _over(flash: float, ram: float, device: Device) -> dict[str, tuple[float, int]]:
    """By memory: (bytes that a file takes, KB that the device has) if the first is more."""
    limits = {"flash": (flash, device.flash), "ram": (ram, device.ram)}
    return {name: (size, most) for name, (size, most) in limits.items() if most is not None and size > KB * most}


# ---- what would fit


class Choice(NamedTuple):
    """Choices of a training, and the bytes that its file would take."""

    stages: int
    size: tuple[int, int]
    flash: float
    ram: float

    def lacks(self, device: Device) -> list[str]:
        """The memories of a device that are too small for it, with the margin."""
        return list(_over(MARGIN * self.flash, MARGIN * self.ram, device))


def nearest_choice(spec: ModelSpec, layers: list[Weights], needs: TargetNeeds, device: Device) -> str:
    """What to train so that the file fits: the largest preset that does, else fewer stages or a smaller input.

    layers, needs: those of a file that is too large. The memory of others is estimated from them.
    """
    estimate = functools.partial(_estimated, spec, layers, needs)
    if isinstance(spec.head, Heatmap) and spec.backbone == "lite0" and spec.size[0] == spec.size[1]:
        for name, (stages, side) in PRESETS.items():
            if stages <= spec.stages and side <= spec.size[0]:
                choice = estimate(stages, (side, side))
                if not choice.lacks(device):
                    return f"train with `preset('{name}')` ({_takes(choice)})"
    possible, _ = possible_stages(spec.backbone, spec.head.pyramid)
    smallest = estimate(spec.stages, spec.size)
    for stages in reversed(possible[: possible.index(spec.stages) + 1]):
        for size in _sizes(spec, stages):
            smallest = estimate(stages, size)
            if not smallest.lacks(device):
                return f"train with {_changed(spec, smallest)} ({_takes(smallest)})"
    lacking = " and ".join(f"{name} (`{name}`)" for name in smallest.lacks(device))
    return f"no choice of `stages` and `size` fits; choose a device with more {lacking}"


def _sizes(spec: ModelSpec, stages: int) -> Iterator[tuple[int, int]]:
    """The input size of a spec, and smaller ones of about the same shape, the largest first.

    Their sides are multiples of the largest cell: a pyramid of other sizes has a level to cut, by one more operator.
    """
    step = STRIDE << (len(pyramid_stages(stages)) - 1) if spec.head.pyramid else STRIDE
    yield spec.size
    longest = max(spec.size)
    for side in range((longest - 1) // step * step, SMALLEST - 1, -step):
        width, height = (own * side // longest // step * step for own in spec.size)
        if min(width, height) >= SMALLEST:
            yield width, height


def _estimated(
    spec: ModelSpec, layers: list[Weights], needs: TargetNeeds, stages: int, size: tuple[int, int]
) -> Choice:
    """The memory of a file with no more stages than this one: its layers stay, and activations follow the area."""
    kept = [_kept(each, spec, stages) for each in layers]

    def share(amounts: list[int]) -> float:
        return sum(part * amount for part, amount in zip(kept, amounts, strict=True)) / sum(amounts)

    flash = needs.flash * share([each.bytes + FILE_LAYER for each in layers])
    own_tables = needs.tables or 0
    tables = own_tables * share([TABLE_CHANNEL * each.outputs + TABLE_LAYER for each in layers])
    activations = (needs.ram - own_tables) * math.prod(size) / math.prod(spec.size)
    return Choice(stages, size, flash, activations + tables)


def _kept(weights: Weights, spec: ModelSpec, stages: int) -> float:
    """The share of a layer that stays if the backbone keeps fewer stages: 0, or as its inputs become fewer."""
    widths, levels = LITE[spec.backbone].channels, pyramid_stages(stages)
    match weights.layer.split("."):
        case ["blocks", stage, *_]:
            return float(int(stage) < stages)
        case ["conv_head"]:
            return float(stages == STAGES)
        case ["head", "lateral", level, *_]:
            return widths[levels[int(level)]] / weights.inputs if int(level) < len(levels) else 0.0
        case ["head", "smooth", level, *_]:
            return float(int(level) < len(levels) - 1)
        case ["head", "hidden"]:
            return (TOP_CHANNELS if stages == STAGES else widths[stages - 1]) / weights.inputs
        case _:
            return 1.0


def _changed(spec: ModelSpec, choice: Choice) -> str:
    width, height = choice.size
    texts = [f"`stages={choice.stages}`"] if choice.stages != spec.stages else []
    if choice.size != spec.size:
        texts.append(f"`size={width if width == height else choice.size}`")
    return " and ".join(texts)


def _takes(choice: Choice) -> str:
    return f"about {in_kb(choice.flash)} of flash and {in_kb(choice.ram)} of ram"
