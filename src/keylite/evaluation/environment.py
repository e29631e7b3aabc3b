"""What a figure or a file depends on beside the code: package versions, the processor, the time, memory held."""

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
    found = {"keylite": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time, UTC, as ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")  # of Linux on ARM


def processor() -> str:
    """The processor's model name, where the system tells it; on ARM, where Linux tells none, the board's."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    board = BOARD.read_text().rstrip("\0\n") if BOARD.is_file() else ""
    found = (facts.get("model name"), board, facts.get("Model"), platform.processor(), platform.machine())
    return next((name for name in found if name), "unknown")


def peak_memory() -> float | None:
    """The most memory that this process has held, 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # of Linux, where ru_maxrss begins with that of the process that started this one
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1e6
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return None
