"""Engines: whatever runs a model file, behind one function.

An engine is called with uint8 (B, H, W, 3) RGB and gives float32 (B, K, C) raw. Normalisation is inside the graph,
decoding outside it (heads.py). Each engine package is imported by its own opener alone. The engine of a file may be
called by several threads at once, and in a process that was forked from the one that opened it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keylite.runtime.chatter import without_chatter
from keylite.runtime.errors import ArgumentError
from keylite.runtime.forks import in_forks
from keylite.runtime.kinds import require_whole
from keylite.runtime.modelfile import ModelFile, read_model_file, tflite_model
from keylite.runtime.packages import FRAMEWORKS, require
from keylite.runtime.spec import ModelSpec
from keylite.runtime.types import FilePath
from keylite.runtime.words import clipped, is_utf8, quoted

Engine = Callable[[np.ndarray], np.ndarray]

MAX_THREADS = 4096  # of an engine, as in a recipe


def open_onnx(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """An `.onnx` file in ONNX Runtime, on the CPU."""
    runtime = require("onnxruntime", "onnx")
    if device not in ("auto", "cpu"):
        raise ArgumentError(f"device: the onnx engine runs on the cpu, got {quoted(device)}")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        model = str(path) if is_utf8(path) else path.read_bytes()
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise ArgumentError(f"{path}: ONNX Runtime cannot open this file: {_first_line(error)}") from None
    keep_in_forks(session)  # its end waits for threads that no fork has
    takes, gives = session.get_inputs(), session.get_outputs()
    _require_fit(path, spec, [entry.shape for entry in takes], [entry.shape for entry in gives])
    name = takes[0].name

    def engine(pixels: np.ndarray) -> np.ndarray:
        try:
            return session.run(None, {name: pixels})[0]
        except Exception as error:
            raise ArgumentError(f"{path}: ONNX Runtime cannot run this file: {_first_line(error)}") from None

    return engine


def open_litert(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """A `.tflite` file in LiteRT, on the CPU, an image at a time; quantised inputs and outputs stay inside.

    An interpreter has one place for its input: threads take turns, image by image.
    """
    interpreters = require("ai_edge_litert.interpreter", "litert")
    if device not in ("auto", "cpu"):
        raise ArgumentError(f"device: the litert engine runs on the cpu, got {quoted(device)}")
    flat = tflite_model(path)
    try:
        with without_chatter():
            interpreter = interpreters.Interpreter(model_content=flat, num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ArgumentError(f"{path}: LiteRT cannot open this file: {_first_line(error)}") from None
    keep_in_forks(interpreter)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    _require_fit(
        path, spec, [entry["shape"].tolist() for entry in inputs], [entry["shape"].tolist() for entry in outputs]
    )
    taken, given = inputs[0], outputs[0]
    (in_scale, in_zero), (out_scale, out_zero) = taken["quantization"], given["quantization"]
    shape = (spec.size[1], spec.size[0], 3)
    in_index, out_index, takes, gives = taken["index"], given["index"], taken["dtype"], given["dtype"]
    turns = threading.Lock()
    none = np.empty((0, *given["shape"][1:]), gives)
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)

    def as_taken(pixels: np.ndarray) -> np.ndarray:
        if takes is np.uint8:
            return pixels
        images = (pixels.astype(np.float32) - mean) / std
        if takes is np.float32:
            return images
        limits = np.iinfo(takes)
        return np.clip(np.rint(images / in_scale) + in_zero, limits.min, limits.max).astype(takes)

    def engine(pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[1:] != shape:
            raise ArgumentError(f"pixels: expected (B, {shape[0]}, {shape[1]}, {shape[2]}), got {pixels.shape}")
        found: list[np.ndarray] = []
        for image in as_taken(pixels)[:, None]:
            with turns:
                interpreter.set_tensor(in_index, image)
                try:
                    interpreter.invoke()
                except RuntimeError as error:
                    raise ArgumentError(f"{path}: LiteRT cannot run this file: {_first_line(error)}") from None
                found.append(interpreter.get_tensor(out_index))
        raw: np.ndarray = found[0] if len(found) == 1 else np.concatenate([none, *found])
        return raw if gives is np.float32 else np.float32(out_scale) * (raw.astype(np.float32) - out_zero)

    return engine


def _require_fit(path: Path, spec: ModelSpec, inputs: list[list[Any]], outputs: list[list[Any]]) -> None:
    """ValueError where a file's tensors are not those that its spec describes, whatever the batch."""
    wanted = [[spec.size[1], spec.size[0], 3]], [[spec.head.keypoints, spec.head.channels]]
    if ([shape[1:] for shape in inputs], [shape[1:] for shape in outputs]) != wanted:
        raise ArgumentError(
            f"{path}: expected one input (B, {', '.join(map(str, wanted[0][0]))}) and one output "
            f"(B, {', '.join(map(str, wanted[1][0]))}) as its description says, got {inputs} and {outputs}; "
            "give the description of this file"
        )


def open_pytorch(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """A `.safetensors` checkpoint in PyTorch."""
    return require("keylite.pytorch.model", FRAMEWORKS["pytorch"]).open_engine(path, spec, threads, device)


def open_tensorflow(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """A `.safetensors` checkpoint in Keras on TensorFlow."""
    return require("keylite.tensorflow.model", FRAMEWORKS["tensorflow"]).open_engine(path, spec, threads, device)


def _first_line(error: Exception) -> str:
    return clipped((str(error).splitlines() or [type(error).__name__])[0])


_KEPT: weakref.WeakSet[Any] = weakref.WeakSet()


def keep_in_forks(resource: object) -> None:
    """Never let a process that is forked from this one free what this one has opened: it would wait for ever.

    To wait are the ends of a session, whose threads a fork has not, and of ONNX Runtime itself (1.32, by its import).
    """
    _KEPT.add(resource)
    in_forks(_leave_all)


def _leave_all() -> None:
    for resource in _KEPT:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(resource))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc: once Python has ended, the process ends with the same status, and at once
        libc.on_exit(libc._exit, None)


class Kind(NamedTuple):
    """An engine: the suffix of its files, its opener, the package it runs on, the framework whose checkpoints it opens.

    framework: empty for exported files, which belong to none.
    """

    suffix: str
    open: Callable[[Path, ModelSpec, int | None, str], Engine]
    package: str
    framework: str


ENGINES = {
    "onnx": Kind(".onnx", open_onnx, "onnxruntime", ""),
    "litert": Kind(".tflite", open_litert, "ai_edge_litert", ""),
    "pytorch": Kind(".safetensors", open_pytorch, "torch", "pytorch"),
    "tensorflow": Kind(".safetensors", open_tensorflow, "tensorflow", "tensorflow"),
}


class Opened(NamedTuple):
    """An engine, its name, and what its file says of itself and its content."""

    engine: Engine
    name: str
    spec: ModelSpec
    digest: str


def open_engine(
    path: Path,
    engine: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    spec: FilePath | None = None,
) -> Opened:
    """The engine of a model file; threads may call it at once, and a forked process opens the file again.

    engine: a name of ENGINES; None: see `default_engine`. threads: None leaves the choice to the engine.
    spec: a JSON file that describes a model file that does not do so itself.
    """
    path = Path(path)
    described, digest = read_model_file(path, spec)
    fitting = [name for name, kind in ENGINES.items() if kind.suffix == path.suffix.lower()]
    name = engine or default_engine(fitting, path, described)
    if name not in fitting:
        raise ArgumentError(f"engine: {path.name} runs on {' or '.join(fitting)}, got {quoted(engine)}")
    if threads is not None:
        require_whole("threads", threads, most=MAX_THREADS)
        threads = int(threads)  # numpy's numbers are none to an engine
    kind = ENGINES[name]
    by_process = {os.getpid(): kind.open(path, described, threads, device)}
    shape = (described.head.keypoints, described.head.channels)
    where, apart = path.absolute(), None if spec is None else Path(spec).absolute()

    def opened(pixels: np.ndarray) -> np.ndarray:
        own = by_process.get(os.getpid())
        if own is None:  # a fork: what the parent opened has lost its threads
            require_same(where, read_model_file(where, apart), ModelFile(described, digest))
            own = by_process.setdefault(os.getpid(), kind.open(where, described, threads, device))
        raw = own(pixels)
        if raw.shape != (len(pixels), *shape):
            raise ArgumentError(
                f"{path}: expected {(len(pixels), *shape)} values as its description says, got {raw.shape}"
            )
        return raw

    return Opened(opened, name, described, digest)


def require_same(path: Path, now: ModelFile, before: ModelFile) -> None:
    """Raise ValueError if a model file or its description is another than when it was opened before."""
    if now != before:
        raise ArgumentError(f"{path}: the file has changed since this Predictor was made; make a new one")


def default_engine(fitting: list[str], path: Path, spec: ModelSpec) -> str:
    """Of the engines that open a file, the one of the framework that made it; where that is not installed, another.

    Raises ModuleNotFoundError, saying what to install, where none of several is.
    """
    if len(fitting) == 1:
        return fitting[0]  # its opener says what is missing
    maker_first = sorted(fitting, key=lambda name: ENGINES[name].framework != spec.provenance.framework)
    for name in maker_first:
        if importlib.util.find_spec(ENGINES[name].package) is not None:  # imports nothing
            return name
    packages = " or ".join(ENGINES[name].package for name in maker_first)
    extras = " or ".join(f"'keylite[{FRAMEWORKS[ENGINES[name].framework]}]'" for name in maker_first)
    raise ModuleNotFoundError(
        f"{path.name}: needs {packages}, neither is installed: install one with: pip install {extras}"
    )
