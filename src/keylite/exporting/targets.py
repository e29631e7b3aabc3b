"""Targets: the devices that an int8 `.tflite` file can be checked for, and what a file takes on each of them.

TensorFlow Lite Micro runs on this machine. For Arm's Ethos-U the compiler Vela says which operators it leaves on the
CPU, and estimates memory and time; it is a program that runs in a process of its own.
"""

from __future__ import annotations

import csv
import importlib.metadata
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from keylite.runtime.agreement import require_agreement, tflite_contents
from keylite.runtime.chatter import overheard
from keylite.runtime.errors import ArgumentError, ModelFileError
from keylite.runtime.graph import graph_of, layers_of, macs_of, operators_of
from keylite.runtime.kinds import path_of, path_or_none, require_choice
from keylite.runtime.litert import interpreter_of
from keylite.runtime.micro import MICRO_EXTRA, open_micro
from keylite.runtime.modelfile import read_spec, tflite_model
from keylite.runtime.packages import require
from keylite.runtime.results import Result
from keylite.runtime.trial import require_harmless
from keylite.runtime.types import FilePath
from keylite.runtime.words import clipped, escaped, quoted

KB = 1024  # bytes, as the data sheets of chips count
LONGEST = 600  # s that Vela gets; it took 3 s for the presets of microcontrollers
ARENA = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
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
        operators: The kinds of operators that an op resolver must know, by name; "ethos-u" is the one that holds
            everything which an NPU runs.
        on_cpu: The operators that an NPU leaves to the CPU: kind of operator -> the layer of each. Empty for tflm,
            where the CPU runs all of them.
        macs: How many multiplications and additions (multiply-accumulate operations) the layers with weights make per
            image.
        ram: The memory on the chip that the file takes while it runs; for tflm the arena.
        tables: The part of it that stays the same for an input of another size, most of it multipliers of channels.
            Pointers have 8 bytes here and 4 on a chip. None if it is not known.
        dram: The memory beside the chip that it takes.
        flash: The size of the file that is stored, without keylite's description: for an NPU the compiled one.
        ms: The milliseconds per image. None if they are not known.
        source: Who says so, and for which chip.
    """

    model: str
    target: str
    operators: tuple[str, ...]
    on_cpu: dict[str, tuple[str, ...]]
    macs: int
    ram: int
    tables: int | None
    dram: int
    flash: int
    ms: float | None
    source: str

    def __repr__(self) -> str:
        return f"TargetNeeds({self.model} on {self.target}: RAM {in_kb(self.ram)}, flash {in_kb(self.flash)})"

    def __str__(self) -> str:
        tables = "" if self.tables is None else f" (tables {in_kb(self.tables)})"
        dram = f", DRAM {in_kb(self.dram)}" if self.dram else ""
        time = "" if self.ms is None else f", {self.ms:.3g} ms per image"
        return (
            f"{self.model} on {self.target}: RAM {in_kb(self.ram)}{tables}{dram}, flash {in_kb(self.flash)}, "
            f"{self.macs / 1e6:.1f} million multiplications{time}; on the CPU: {self.cpu_words}; {self.source}"
        )

    @property
    def cpu_words(self) -> str:
        """The operators that run on the CPU, in words; those that an NPU leaves to it with their layers."""
        if self.target == TFLM:
            return f"all ({', '.join(self.operators)})"
        each = [f"{len(layers)} {kind} ({', '.join(layers)})" for kind, layers in self.on_cpu.items()]
        return ", ".join(each) or "none"


def in_kb(count: float) -> str:
    """A number of bytes in KB of 1,024 bytes, such as `449.2 KB`."""
    return f"{count / KB:,.1f} KB"


def targets_of(text: str) -> list[str]:
    """The targets in a text such as `ethos-u55-128,ethos-u65-512`. Raises ArgumentError for a name that is none."""
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise ArgumentError(
            f"target: expected names with one comma between two, such as tflm,ethos-u55-128, got {quoted(text)}"
        )
    for name in names:
        if name not in TARGETS:
            raise ArgumentError(
                f"target: expected one of {', '.join(TARGETS)}, got {quoted(name)}; for a chip without an Ethos-U, "
                "such as an ESP32 or an STM32, take tflm"
            )
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
        The operators, those that an NPU leaves to the CPU, multiplications, memory, size and time.

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
    described = read_spec(path, spec)
    require_integers(target, path.name, described.precision)
    system = TARGETS[target]
    needs = None if system is None else _by_vela(path, target, system)
    if spec is not None:  # a file without a description has no seal
        require_harmless(path, "litert" if needs else TFLM, spec)
    require_agreement(path, described, tflite_contents(interpreter_of(path, 1, reference=False)))
    return needs or _on_micro(path)


def require_integers(target: str, name: str, precision: str) -> None:
    """Raise ArgumentError for a file that is not int8. name: of the file."""
    if precision != "int8":
        raise ArgumentError(
            f"target: {target} runs int8 files, {escaped(name)} is {precision}; export one with `precision='int8'`"
        )


def _on_micro(path: Path) -> TargetNeeds:
    """What TensorFlow Lite Micro says of a file after one run: the arena that it took, not the one it was offered."""
    micro = open_micro(path, "int8")
    with overheard(re.compile(rb"\[RecordingMicroAllocator\]")) as lines:
        micro.print_allocations()
    sizes = {name: int(count) for name, count in ARENA.findall("\n".join(lines))}
    if sizes.keys() != {"total", "head", "tail"}:
        raise ModelFileError(
            f"{path}: expected the size of the arena from TensorFlow Lite Micro on standard error, got "
            f"{clipped('; '.join(lines)) or 'nothing'}; is standard error closed?"
        )
    flat = tflite_model(path)
    graph = graph_of(flat)
    version = importlib.metadata.version("tflite-micro")
    return TargetNeeds(
        model=escaped(path.name),
        target=TFLM,
        operators=tuple(sorted({name for name, _ in operators_of(graph)})),
        on_cpu={},
        macs=macs_of(graph),
        ram=sizes["total"],
        tables=sizes["tail"],
        dram=0,
        flash=len(flat),
        ms=None,
        source=f"run by TensorFlow Lite Micro {version} on this machine, not on a chip",
    )


def _by_vela(path: Path, target: str, system: System) -> TargetNeeds:
    """What Vela says of a file. It gets a copy without keylite's description, in a folder that goes afterwards."""
    flat = tflite_model(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(flat)
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
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=LONGEST
            )
        except subprocess.TimeoutExpired:
            raise ModelFileError(
                f"{path}: Vela had not compiled this file for {target} after {LONGEST:g} s and was ended; end other "
                "programs and try again, or leave out this target"
            ) from None
        compiled, summary = folder / "out/model_vela.tflite", folder / f"out/model_summary_{system.chip}.csv"
        if done.returncode or not (compiled.is_file() and summary.is_file()):
            raise ModelFileError(f"{path}: Vela cannot compile this file for {target}: {_complaint(done)}")
        small = compiled.read_bytes()
        with summary.open(newline="") as file:
            facts = next(csv.DictReader(file))
    on_cpu: dict[str, tuple[str, ...]] = {}
    layers = layers_of(graph_of(small))
    for kind, layer in layers:
        if kind != ON_NPU:
            on_cpu[kind] = (*on_cpu.get(kind, ()), layer)
    clock = float(facts["core_clock"]) / 1e6
    return TargetNeeds(
        model=escaped(path.name),
        target=target,
        operators=tuple(sorted({kind for kind, _ in layers})),
        on_cpu=on_cpu,
        macs=macs_of(graph_of(flat)),
        ram=round(KB * float(facts["sram_memory_used"])),
        tables=None,
        dram=round(KB * float(facts["dram_memory_used"])),
        flash=len(small),
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
