"""What a figure or a file depends on beside the code: package versions, the processor, the time."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from pathlib import Path

import keylite

PACKAGES = (
    *("torch", "timm", "lightning", "tensorflow", "tensorflow-cpu", "keras"),
    *("onnx", "onnxruntime", "numpy", "opencv-python-headless"),
)


def versions() -> dict[str, str]:
    """Versions of the packages that a model file or a figure depends on."""
    found = {"keylite": keylite.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time, UTC, as ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def processor() -> str:
    """The processor's model name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
