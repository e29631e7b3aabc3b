"""Opens `.tflite` files in LiteRT's interpreter, on its usual kernels or on its reference kernels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from keylite.runtime.chatter import without_chatter
from keylite.runtime.errors import ModelFileError
from keylite.runtime.modelfile import tflite_model
from keylite.runtime.packages import require
from keylite.runtime.words import first_line

LARGEST = 1 << 30  # bytes of a tensor; lite4 would have one of 604 MB (144 channels of MAX_AREA / 4 cells, float32)


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
            _require_modest(path, interpreter)
            interpreter.allocate_tensors()
    except ModelFileError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: LiteRT cannot open this file: {first_line(error)}") from None
    return interpreter


def _require_modest(path: Path, interpreter: Any) -> None:
    """Raise ModelFileError if a tensor is too large, before LiteRT takes memory for it."""
    for entry in interpreter.get_tensor_details():
        shape = [int(side) for side in entry["shape"]]
        size = abs(math.prod(shape)) * np.dtype(entry["dtype"]).itemsize
        if size > LARGEST:
            raise ModelFileError(
                f"{path}: expected tensors of at most {LARGEST / 1e9:.1f} GB, got one of {size / 1e9:,.1f} GB "
                f"{tuple(shape)}; the file is damaged, or its input is too large: copy or make it again"
            )
