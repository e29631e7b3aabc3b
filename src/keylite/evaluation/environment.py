"""Facts that reports and model files record of their surroundings: package versions, processor, time, memory."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import sys
from pathlib import Path

from keylite.version import __version__

PACKAGES = (
    *("torch", "timm", "lightning", "tensorflow", "tensorflow-cpu", "keras"),
    *("onnx", "onnxruntime", "ai-edge-litert", "numpy", "opencv-python-headless"),
)


def versions() -> dict[str, str]:
    """Versions of the packages that a model file or a figure depends on."""
    installed = {"keylite": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def now() -> str:
    """The time in UTC, as ISO 8601 with seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")  # on Linux on ARM


def processor() -> str:
    """The name of the processor's model, if the system knows it; Linux on ARM knows the name of the board instead."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    board = BOARD.read_text().rstrip("\0\n") if BOARD.is_file() else ""
    names = (facts.get("model name"), board, facts.get("Model"), platform.processor(), platform.machine())
    return next((name for name in names if name), "unknown")


def peak_memory() -> float | None:
    """The most memory that this process has held so far, 10^6 bytes. None: the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, because ru_maxrss counts the process that started this one, too
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1e6
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return None
