"""Runs a model file once in a process of its own, because a damaged one can end the process that runs it.

A file with a seal is as keylite wrote it. LiteRT and TensorFlow Lite Micro trust much of what another file says: a
changed number can make them divide by zero, read where nothing is, or ask for all memory.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from keylite.runtime.errors import ModelFileError
from keylite.runtime.packages import require

CODE = "from keylite.runtime.engines import try_engine; try_engine()"
MOST_MEMORY = 4 << 30  # bytes that the process gets: four times the LARGEST tensor of litert.py; chosen, not measured
LONGEST = 60  # s; the trial of five stages of lite0 at 128 px in int8 took 0.7 in tflm, 0.3 in LiteRT
TOO_LARGE = 3  # exit code of the process if it asked for more memory


def require_harmless(path: Path, engine: str, spec: Path) -> None:
    """Raise ModelFileError if running a file once ends the process, or takes too long or too much memory.

    If the file is refused there with an error, nothing is raised here: whoever opens it gets that error.
    """
    if not sys.executable:  # an app that holds Python inside
        return
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(path), engine, str(spec)]
    try:
        code = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=LONGEST).returncode
    except subprocess.TimeoutExpired:
        raise _harmful(path, engine, f"it had not run once after {LONGEST} s") from None
    if code == TOO_LARGE:
        raise _harmful(path, engine, f"it asks for more than {MOST_MEMORY / 1e9:.1f} GB of memory")
    if code not in (0, 1):  # Python's own are 0 and 1
        raise _harmful(path, engine, f"running it once ended the process by {_ending(code)}")


def _harmful(path: Path, engine: str, words: str) -> ModelFileError:
    return ModelFileError(f"{path}: the engine {engine} cannot run this file: {words}; copy or make it again")


def _ending(code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


def limit_memory() -> None:
    """Give this process no more than MOST_MEMORY, if its system can."""
    if sys.platform == "linux":
        resource: Any = require("resource")
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(MOST_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
