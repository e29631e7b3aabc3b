"""TensorFlow Lite Micro on this machine: opens int8 .tflite files as a microcontroller does, and says what they need.

Its kernels are plain loops; a chip's own kernels may round otherwise and take other memory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from keylite.runtime.chatter import overheard
from keylite.runtime.errors import ArgumentError, ModelFileError
from keylite.runtime.graph import flat_of, graph_of, macs_of, operators_of
from keylite.runtime.kinds import path_of, path_or_none
from keylite.runtime.litert import interpreter_of
from keylite.runtime.modelfile import read_spec, tflite_model
from keylite.runtime.packages import require
from keylite.runtime.results import Result
from keylite.runtime.types import FilePath
from keylite.runtime.words import clipped, escaped, first_line

MICRO_EXTRA = "micro"
KB = 1024  # bytes, as the data sheets of chips count
MOST = 64 << 20  # bytes of the arena that is offered; the system gives only what is touched
ANY_LINE = re.compile(rb"")
LACKING = re.compile(r"Failed to get registration from op code (\w+)")
ARENA = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")


class MicroNeeds(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an int8 `.tflite` file needs in TensorFlow Lite Micro. Sizes are in bytes.

    `print(needs)` shows what `keylite benchmark --engine tflm` prints.

    Attributes:
        model: The name of the file.
        flash: The size of the model without keylite's description, which a chip does not need.
        arena: The memory that the interpreter takes while it runs: `activations` and `tables`.
        activations: The values between layers; they take each other's place.
        tables: What is kept for good, most of it multipliers of channels. Pointers have 8 bytes here and 4 on a chip.
        operators: The kinds of operators that an op resolver must know, by name.
        macs: How many multiplications and additions (multiply-accumulate operations) the layers with weights make per
            image.
    """

    model: str
    flash: int
    arena: int
    activations: int
    tables: int
    operators: tuple[str, ...]
    macs: int

    def __repr__(self) -> str:
        return f"MicroNeeds({self.model}: arena {in_kb(self.arena)}, {len(self.operators)} kinds of operators)"

    def __str__(self) -> str:
        parts = f"activations {in_kb(self.activations)}, tables {in_kb(self.tables)}"
        return (
            f"{self.model} in TensorFlow Lite Micro: arena {in_kb(self.arena)} ({parts}), model {in_kb(self.flash)}, "
            f"{self.macs / 1e6:.1f} million multiplications; operators: {', '.join(self.operators)}"
        )


def in_kb(count: int) -> str:
    """A number of bytes in KB of 1,024 bytes, such as `449.2 KB`."""
    return f"{count / KB:,.1f} KB"


def measure_micro(model: FilePath, *, spec: FilePath | None = None) -> MicroNeeds:
    """Measure the memory that an int8 `.tflite` file takes in TensorFlow Lite Micro, and list its operators.

    The figures are those of one run on this machine.

    Args:
        model: The model file.
        spec: A JSON description for a model file that holds none. None: the model file holds it.

    Returns:
        The arena, its parts, the size of the model and the kinds of its operators.

    Raises:
        ArgumentError: The file is not int8.
        ModelFileError: The file is no model file, or TensorFlow Lite Micro lacks operators of it, which are named.
        ModuleNotFoundError: tflite-micro is not installed; the message says how to install it.

    Example:
        >>> print(keylite.measure_micro("faces.tflite"))
    """
    path = path_of("model", model)
    described = read_spec(path, path_or_none("spec", spec))
    micro = open_micro(path, described.precision)
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
    return MicroNeeds(
        model=escaped(path.name),
        flash=len(flat),
        arena=sizes["total"],
        activations=sizes["head"],
        tables=sizes["tail"],
        operators=tuple(sorted({name for name, _ in operators_of(graph)})),
        macs=macs_of(graph),
    )


def open_micro(path: Path, precision: str) -> Any:
    """An interpreter of TensorFlow Lite Micro that has run the file once, on zeros.

    precision: that of the file's spec. Raises an error in one line if the file is not int8, has operators that are
    lacking, or cannot run.
    """
    runtime = require("tflite_micro", MICRO_EXTRA).runtime
    if precision != "int8":
        raise ArgumentError(
            f"engine: tflm runs int8 files, {path.name} is {precision}: TensorFlow Lite Micro has no CAST from bytes, "
            "with which a float file begins; export one with `precision='int8'`"
        )
    checked = interpreter_of(path, 1, reference=False)  # because TensorFlow Lite Micro trusts every byte of a file
    try:
        checked.invoke()
    except RuntimeError as error:
        raise ModelFileError(f"{path}: LiteRT cannot run this file: {first_line(error)}") from None
    flat = tflite_model(path)
    with overheard(ANY_LINE) as lines:
        micro = _ready(runtime, flat)
    if micro is None:
        lacking = _lacking(runtime, graph_of(flat), "\n".join(lines))
        if lacking:
            raise ModelFileError(
                f"{path}: expected operators that TensorFlow Lite Micro has, got {', '.join(lacking)}; export the file "
                "again with this keylite, or run it by `engine='litert'`"
            )
        words = clipped("; ".join(filter(None, lines)) or "it does not say why")
        raise ModelFileError(f"{path}: TensorFlow Lite Micro cannot run this file: {words}")
    return micro


def _ready(runtime: Any, flat: bytes) -> Any:
    """The interpreter of a model after one run, or None if it failed; standard error says why."""
    try:
        micro = runtime.Interpreter.from_bytes(flat, arena_size=MOST)
        entry = micro.get_input_details(0)
        micro.set_input(np.zeros(entry["shape"], entry["dtype"]), 0)
        micro.invoke()
    except (RuntimeError, ValueError):
        return None
    return micro


def _lacking(runtime: Any, graph: Any, said: str) -> list[str]:
    """The kinds of operators that TensorFlow Lite Micro does not have. said: its first complaint; it names one a time.

    So the operators that it named are taken out, until it complains of something else. Changes the graph.
    """
    lacking: list[str] = []
    while (found := LACKING.search(said)) and found[1] not in lacking:
        lacking.append(found[1])
        named = {id(row) for name, row in operators_of(graph) if name == found[1]}
        for part in graph.subgraphs:
            operators: list[Any] = part.operators or []
            part.operators = [row for row in operators if id(row) not in named]
        with overheard(ANY_LINE) as lines:
            _ready(runtime, flat_of(graph))
        said = "\n".join(lines)
    return lacking
