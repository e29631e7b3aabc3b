"""TensorFlow Lite Micro on this machine: opens int8 `.tflite` files as a microcontroller does.

Its kernels are plain loops; a chip's own kernels may round otherwise and take other memory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from keylite.runtime.chatter import overheard
from keylite.runtime.errors import ArgumentError, ModelFileError
from keylite.runtime.graph import flat_of, graph_of, operators_of
from keylite.runtime.litert import interpreter_of
from keylite.runtime.modelfile import tflite_model
from keylite.runtime.packages import require
from keylite.runtime.words import clipped, first_line

MICRO_EXTRA = "micro"
MOST = 64 << 20  # bytes of the arena that is offered; the system gives only what is touched
ANY_LINE = re.compile(rb"")
LACKING = re.compile(r"Failed to get registration from op code (\w+)")


def open_micro(path: Path, precision: str) -> Any:
    """An interpreter of TensorFlow Lite Micro that has run the file once, on zeros.

    precision: that of the file's spec. Raises an error in one line if the file is not int8, has operators that are
    lacking, or cannot run.
    """
    runtime = require_micro(path, precision)
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


def require_micro(path: Path, precision: str) -> Any:
    """The package's runtime. ModuleNotFoundError if it is missing, ArgumentError for a file that is not int8."""
    runtime = require("tflite_micro", MICRO_EXTRA).runtime
    if precision != "int8":
        raise ArgumentError(
            f"engine: tflm runs int8 files, {path.name} is {precision}: TensorFlow Lite Micro has no CAST from bytes, "
            "with which a float file begins; export one with `precision='int8'`"
        )
    return runtime


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
