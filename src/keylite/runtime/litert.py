"""Opens `.tflite` files in LiteRT's interpreter, on its usual kernels or on its reference kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keylite.runtime.chatter import without_chatter
from keylite.runtime.errors import ModelFileError
from keylite.runtime.modelfile import tflite_model
from keylite.runtime.packages import require
from keylite.runtime.words import first_line


def interpreter_of(path: Path, threads: int | None, reference: bool) -> Any:
    """LiteRT's interpreter of a file, ready to run. It checks the whole file first.

    reference: run plain loops in place of XNNPACK. Raises ModelFileError in one line.
    """
    interpreters = require("ai_edge_litert.interpreter", "litert")
    kinds = interpreters.OpResolverType
    try:
        with without_chatter():
            interpreter = interpreters.Interpreter(
                model_content=tflite_model(path),
                num_threads=threads,
                experimental_op_resolver_type=kinds.BUILTIN_REF if reference else kinds.AUTO,
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: LiteRT cannot open this file: {first_line(error)}") from None
    return interpreter
