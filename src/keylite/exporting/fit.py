"""Whether an exported file fits the device that it is for: its operators, its flash and its RAM."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

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
from keylite.runtime.graph import OUTPUT
from keylite.runtime.kinds import require_choice, require_whole
from keylite.runtime.lite import possible_stages
from keylite.runtime.modelfile import read_spec
from keylite.runtime.spec import ModelSpec

STEP = 8  # px: sizes of inputs that are proposed are multiples of it, as the cells of a heatmap are
SMALLEST = 32  # px: a smaller input is not proposed


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
            f"{_other_end(needs)}, or leave out `target`"
        )
    over = _over(needs, device)
    if over:
        takes = " and ".join(
            f"{in_kb(size)} of {name} (the limit is {most:,} KB)" for name, (size, most) in over.items()
        )
        raise ArgumentError(
            f"{', '.join(over)}: {needs.model} takes {takes} on {device.target}; "
            f"{nearest_choice(read_spec(made), needs, device)}"
        )


def _over(needs: TargetNeeds, device: Device) -> dict[str, tuple[int, int]]:
    """By memory: (bytes that a file takes, KB that the device has) if the first is more."""
    limits = {"flash": (needs.flash, device.flash), "ram": (needs.ram, device.ram)}
    return {name: (size, most) for name, (size, most) in limits.items() if most is not None and size > KB * most}


def _other_end(needs: TargetNeeds) -> str:
    """What to do about operators that stay on the CPU."""
    if all(layers == (OUTPUT,) for layers in needs.on_cpu.values()):
        return "export with `output_type='int8'`"
    return "train a heatmap (`head='heatmap'`), whose layers are all in int8"


def nearest_choice(spec: ModelSpec, needs: TargetNeeds, device: Device) -> str:
    """What to train so that the file comes nearest to what the device has. needs: those of a file that is too large."""
    over = _over(needs, device)
    choices: list[str] = []
    if "flash" in over:
        possible, _ = possible_stages(spec.backbone, spec.head.pyramid)
        fewer = f"train with fewer stages (`stages={spec.stages - 1}`)"
        choices.append(fewer if spec.stages - 1 in possible else "no fewer stages are possible: take more flash")
    if "ram" in over:
        size, most = over["ram"]
        tables = needs.tables or 0
        share = (KB * most - tables) / (size - tables)
        sides = [STEP * math.floor(side * math.sqrt(max(share, 0)) / STEP) for side in spec.size]
        if min(sides) >= SMALLEST:
            text = f"{sides[0]}" if sides[0] == sides[1] else f"{sides[0]}x{sides[1]}"
            about = tables + (size - tables) * math.prod(sides) / math.prod(spec.size)
            choices.append(f"train with a smaller input (`size={text}`, about {in_kb(round(about))} of ram)")
        else:
            choices.append(f"no input of {SMALLEST} px or more fits: take more ram")
    return ", and ".join(choices)
