"""Targets: the devices that an int8 `.tflite` file can be checked for, and what a file takes on each of them.

TensorFlow Lite Micro runs on this machine. For Arm's Ethos-U the compiler Vela says which operators it leaves on the
CPU, and estimates memory and time; it is a program that runs in a process of its own.
"""

from __future__ import annotations

import csv
import importlib.metadata
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from keylite.runtime.errors import ArgumentError, ModelFileError
from keylite.runtime.graph import graph_of, layers_of
from keylite.runtime.kinds import path_of, path_or_none, require_choice
from keylite.runtime.micro import KB, MICRO_EXTRA, in_kb, measure_micro
from keylite.runtime.modelfile import read_spec, tflite_model
from keylite.runtime.packages import require
from keylite.runtime.results import Result
from keylite.runtime.types import FilePath
from keylite.runtime.words import clipped, escaped

ON_NPU = "ethos-u"  # the name of the operator that holds everything which Vela compiled for the NPU


class System(NamedTuple):
    """The chip around an NPU, by its two names in Vela's own `Arm/vela.ini`: clock and buses, and use of memories."""

    chip: str
    memories: str


U55 = System("Ethos_U55_High_End_Embedded", "Shared_Sram")  # these three are what Vela takes by itself
U65 = System("Ethos_U65_Client_Server", "Dedicated_Sram_384KB")
U85 = System("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB")
TFLM = "tflm"
TARGETS: dict[str, System | None] = {  # None: the CPU runs everything
    TFLM: None,
    "ethos-u55-32": U55,
    "ethos-u55-64": U55,
    "ethos-u55-128": U55,
    "ethos-u55-256": U55,
    "ethos-u65-256": U65,
    "ethos-u65-512": U65,
    "ethos-u85-128": U85,
    "ethos-u85-256": U85,
    "ethos-u85-512": U85,
    "ethos-u85-1024": U85,
    "ethos-u85-2048": U85,
}


class TargetNeeds(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an int8 `.tflite` file takes on a target. Sizes are in bytes.

    `print(needs)` shows one line; `keylite benchmark --target` prints a table of them.

    Attributes:
        model: The name of the file.
        target: The name of the target.
        on_cpu: The operators that an NPU leaves to the CPU: kind of operator -> the layer of each. Empty for tflm,
            where the CPU runs all of them.
        ram: The memory on the chip that the file takes while it runs.
        tables: The part of it that stays the same for an input of another size; 0 if nobody says.
        dram: The memory beside the chip that it takes.
        flash: The size of the file that is stored: for an NPU the compiled one.
        ms: The milliseconds per image, or None if nobody says.
        source: Who says so, and for which chip.
    """

    model: str
    target: str
    on_cpu: dict[str, tuple[str, ...]]
    ram: int
    tables: int
    dram: int
    flash: int
    ms: float | None
    source: str

    def __repr__(self) -> str:
        return f"TargetNeeds({self.model} on {self.target}: RAM {in_kb(self.ram)}, flash {in_kb(self.flash)})"

    def __str__(self) -> str:
        dram = f", DRAM {in_kb(self.dram)}" if self.dram else ""
        time = "" if self.ms is None else f", {self.ms:.3g} ms per image"
        return (
            f"{self.model} on {self.target}: RAM {in_kb(self.ram)}{dram}, flash {in_kb(self.flash)}{time}; on the CPU: "
            f"{self.cpu_words}; {self.source}"
        )

    @property
    def cpu_words(self) -> str:
        """The operators that an NPU leaves to the CPU, with their layers, in words."""
        if self.target == TFLM:
            return "all operators"
        each = [f"{len(layers)} {kind} ({', '.join(layers)})" for kind, layers in self.on_cpu.items()]
        return ", ".join(each) or "none"


def targets_of(text: str) -> list[str]:
    """The targets in a text such as `ethos-u55-128,ethos-u65-512`. Raises ArgumentError for a name that is none."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        require_choice("target", name, TARGETS)
    return list(dict.fromkeys(names))


def require_packages(target: str) -> None:
    """Raise ModuleNotFoundError, which says what to install, if the program that knows a target is missing."""
    require("ethosu.vela" if TARGETS[target] else "tflite_micro", MICRO_EXTRA)


def measure_target(model: FilePath, target: str, *, spec: FilePath | None = None) -> TargetNeeds:
    """Measure or estimate what an int8 `.tflite` file takes on a target.

    Figures of an Ethos-U are estimates of Arm's compiler Vela for the chip that `source` names. Nothing is measured on
    a chip. TensorFlow Lite Micro runs once on this machine.

    Args:
        model: The model file.
        target: A name of the list of targets, such as "ethos-u55-128"; an unknown one is refused with all names.
        spec: A JSON description for a model file that holds none. None: the model file holds it.

    Returns:
        The operators that an NPU leaves to the CPU, memory, size and time.

    Raises:
        ArgumentError: The target is unknown, or the file is not an int8 `.tflite` file.
        ModelFileError: The file is no model file, or the target cannot run it; the message says why.
        ModuleNotFoundError: A package of the extra `micro` is not installed; the message says how to install it.

    Example:
        >>> print(keylite.measure_target("faces.tflite", "ethos-u55-128"))
    """
    path, spec = path_of("model", model), path_or_none("spec", spec)
    require_choice("target", target, TARGETS)
    if path.suffix.lower() != ".tflite":
        raise ArgumentError(f"target: {target} runs .tflite files, got {escaped(path.name)}; give an exported file")
    require_packages(target)
    system = TARGETS[target]
    if system is None:
        return _on_micro(path, spec)
    require_integers(target, path.name, read_spec(path, spec).precision)
    return _by_vela(path, target, system)


def require_integers(target: str, name: str, precision: str) -> None:
    """Raise ArgumentError for a file that is not int8. name: of the file."""
    if precision != "int8":
        raise ArgumentError(
            f"target: {target} runs int8 files, {escaped(name)} is {precision}; export one with `precision='int8'`"
        )


def _on_micro(path: Path, spec: Path | None) -> TargetNeeds:
    needs = measure_micro(path, spec=spec)
    version = importlib.metadata.version("tflite-micro")
    source = f"run by TensorFlow Lite Micro {version} on this machine, not on a chip"
    return TargetNeeds(
        needs.model, TFLM, {}, ram=needs.arena, tables=needs.tables, dram=0, flash=needs.flash, ms=None, source=source
    )


def _by_vela(path: Path, target: str, system: System) -> TargetNeeds:
    """What Vela says of a file. It gets a copy without keylite's description, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(tflite_model(path))
        command = [
            sys.executable,
            "-m",
            "ethosu.vela",
            "model.tflite",
            "--output-dir",
            "out",
            "--config",
            "Arm/vela.ini",
        ]
        command += ["--accelerator-config", target, "--system-config", system.chip, "--memory-mode", system.memories]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        compiled, summary = folder / "out/model_vela.tflite", folder / f"out/model_summary_{system.chip}.csv"
        if done.returncode or not (compiled.is_file() and summary.is_file()):
            raise ModelFileError(f"{path}: Vela cannot compile this file for {target}: {_complaint(done)}")
        flat = compiled.read_bytes()
        with summary.open(newline="") as file:
            facts = next(csv.DictReader(file))
    on_cpu: dict[str, tuple[str, ...]] = {}
    for kind, layer in layers_of(graph_of(flat)):
        if kind != ON_NPU:
            on_cpu[kind] = (*on_cpu.get(kind, ()), layer)
    clock = float(facts["core_clock"]) / 1e6
    return TargetNeeds(
        model=escaped(path.name),
        target=target,
        on_cpu=on_cpu,
        ram=round(KB * float(facts["sram_memory_used"])),
        tables=0,
        dram=round(KB * float(facts["dram_memory_used"])),
        flash=len(flat),
        ms=1e3 * float(facts["inference_time"]),
        source=f"estimated by the compiler Vela {importlib.metadata.version('ethos-u-vela')} for {system.chip}, "
        f"{system.memories}, {clock:g} MHz, not measured on a chip",
    )


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    """What a program said last before it ended, or how it ended."""
    if done.returncode < 0:
        return f"it was ended by {signal.Signals(-done.returncode).name}"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return clipped(lines[-1]) if lines else "it does not say why"
