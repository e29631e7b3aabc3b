"""Engines: whatever runs a model file, behind one function.

An engine is called with uint8 (B, H, W, 3) RGB and gives float32 (B, K, C) raw. Normalisation is inside the graph,
decoding outside it (heads.py). Each engine package is imported by its own opener alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keylite.runtime.modelfile import read_spec
from keylite.runtime.spec import ModelSpec

Engine = Callable[[np.ndarray], np.ndarray]


def require(module: str, extra: str):  # noqa: ANN201 - a module
    """The imported module; ModuleNotFoundError says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "keylite":
            raise
        raise ModuleNotFoundError(
            f"{error.name} is not installed: install it with: pip install 'keylite[{extra}]'", name=error.name
        ) from None


def open_onnx(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """An `.onnx` file in ONNX Runtime, on the CPU."""
    runtime = require("onnxruntime", "onnx")
    if device not in ("auto", "cpu"):
        raise ValueError(f"device: the onnx engine runs on the cpu, got {device!r}")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise ValueError(f"{path}: ONNX Runtime cannot open this file: {str(error).splitlines()[0]}") from None
    name = session.get_inputs()[0].name

    def engine(pixels: np.ndarray) -> np.ndarray:
        return session.run(None, {name: pixels})[0]

    return engine


def open_pytorch(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """A `.safetensors` checkpoint in PyTorch."""
    require("torch", "pytorch")
    return require("keylite.pytorch.model", "pytorch").open_engine(path, spec, threads, device)


Opener = Callable[[Path, ModelSpec, int | None, str], Engine]
ENGINES: dict[str, tuple[str, Opener]] = {"onnx": (".onnx", open_onnx), "pytorch": (".safetensors", open_pytorch)}


def open_engine(
    path: Path, engine: str | None = None, threads: int | None = None, device: str = "auto"
) -> tuple[Engine, str, ModelSpec]:
    """The engine of a model file, its name, and the file's spec.

    engine: a name of ENGINES; by default the one for the file's kind. threads: None leaves the choice to the engine.
    """
    path = Path(path)
    spec = read_spec(path)
    fitting = [name for name, (suffix, _) in ENGINES.items() if suffix == path.suffix.lower()]
    name = engine or fitting[0]
    if name not in fitting:
        raise ValueError(f"engine: {path.name} runs on {' or '.join(fitting)}, got {name!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    return ENGINES[name][1](path, spec, threads, device), name, spec
