"""Engines: the programs that run a model file, each behind the same function.

An engine takes crops, uint8 (B, H, W, 3) RGB, and gives raw values, float32 (B, K, C). The graph normalises the pixels;
heads.py decodes the raw values. Only the opener of an engine imports its package. Several threads may call an engine at
once, and so may a process that was forked from the one that opened it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keylite.runtime.agreement import onnx_contents, require_agreement, tflite_contents
from keylite.runtime.errors import ArgumentError, ModelFileError
from keylite.runtime.forks import in_forks
from keylite.runtime.kinds import require_whole
from keylite.runtime.litert import interpreter_of
from keylite.runtime.micro import open_micro, require_micro
from keylite.runtime.modelfile import ModelFile, read_model_file
from keylite.runtime.packages import FRAMEWORKS, require
from keylite.runtime.spec import ModelSpec
from keylite.runtime.trial import TOO_LARGE, limit_memory, require_harmless
from keylite.runtime.types import FilePath
from keylite.runtime.words import first_line, is_utf8, quoted

Engine = Callable[[np.ndarray], np.ndarray]

MAX_THREADS = 4096  # the recipe has the same limit


def open_onnx(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """An `.onnx` file in ONNX Runtime, on the CPU. It may take pixels as floats, and one image at a time."""
    runtime = require("onnxruntime", "onnx")
    _require_cpu("onnx", device)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        model = str(path) if is_utf8(path) else path.read_bytes()
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise ModelFileError(f"{path}: ONNX Runtime cannot open this file: {first_line(error)}") from None
    keep_in_forks(session)  # closing it waits for threads that a forked process does not have
    require_agreement(path, spec, onnx_contents(path.read_bytes(), session))
    inputs = session.get_inputs()
    name, by_image = inputs[0].name, inputs[0].shape[0] == 1
    dtype = np.float32 if inputs[0].type == "tensor(float)" else np.uint8
    none = np.empty((0, spec.head.keypoints, spec.head.channels), np.float32)

    def engine(pixels: np.ndarray) -> np.ndarray:
        batches = [part.astype(dtype, copy=False) for part in (pixels[:, None] if by_image else [pixels])]
        try:
            results = [session.run(None, {name: batch})[0] for batch in batches]
        except Exception as error:
            raise ModelFileError(f"{path}: ONNX Runtime cannot run this file: {first_line(error)}") from None
        return results[0] if len(results) == 1 else np.concatenate([none, *results])

    return engine


def open_litert(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """A `.tflite` file in LiteRT, on the CPU, one image at a time. Its inputs and outputs may be quantised."""
    return _in_litert(path, spec, threads, device, "litert")


def open_litert_reference(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """The same on LiteRT's reference kernels: plain loops on one thread, with the results of TensorFlow Lite Micro."""
    return _in_litert(path, spec, threads, device, "litert-reference")


def open_tflm(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """An int8 `.tflite` file in TensorFlow Lite Micro, on one thread of this machine's CPU."""
    _require_cpu("tflm", device)
    require_micro(path, spec.precision)
    ends = _ends(path, spec, interpreter_of(path, 1, reference=False))
    micro = open_micro(path, spec.precision)

    def run(image: np.ndarray) -> np.ndarray:
        micro.set_input(image, 0)
        micro.invoke()
        return micro.get_output(0).copy()

    return _by_image(path, spec, ends, "TensorFlow Lite Micro", run)


def _in_litert(path: Path, spec: ModelSpec, threads: int | None, device: str, name: str) -> Engine:
    _require_cpu(name, device)
    interpreter = interpreter_of(path, threads, reference=name == "litert-reference")
    keep_in_forks(interpreter)
    ends = _ends(path, spec, interpreter)
    in_index, out_index = ends.inputs[0]["index"], ends.outputs[0]["index"]

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(in_index, image)
        interpreter.invoke()
        return interpreter.get_tensor(out_index)

    return _by_image(path, spec, ends, "LiteRT", run)


def _require_cpu(name: str, device: str) -> None:
    if device not in ("auto", "cpu"):
        raise ArgumentError(f"device: the {name} engine runs on the cpu, got {quoted(device)}")


class _Ends(NamedTuple):
    """The inputs and the outputs of a `.tflite` file, as LiteRT's interpreter describes them."""

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


def _ends(path: Path, spec: ModelSpec, interpreter: Any) -> _Ends:
    """The ends of a file; ArgumentError if they are not those that its spec describes."""
    require_agreement(path, spec, tflite_contents(interpreter))
    return _Ends(interpreter.get_input_details(), interpreter.get_output_details())


def _by_image(
    path: Path, spec: ModelSpec, ends: _Ends, program: str, run: Callable[[np.ndarray], np.ndarray]
) -> Engine:
    """The engine of a `.tflite` file. run: gives the output for an input of one image, or raises RuntimeError.

    An interpreter has one place for its input, so threads take turns, image by image.
    """
    inputs, outputs = ends
    (in_scale, in_zero), (out_scale, out_zero) = inputs[0]["quantization"], outputs[0]["quantization"]
    shape = (spec.size[1], spec.size[0], 3)
    in_type, out_type = inputs[0]["dtype"], outputs[0]["dtype"]
    turns = threading.Lock()
    none = np.empty((0, *outputs[0]["shape"][1:]), out_type)
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)

    def as_input(pixels: np.ndarray) -> np.ndarray:
        if in_type is np.uint8:
            return pixels
        images = (pixels.astype(np.float32) - mean) / std
        if in_type is np.float32:
            return images
        limits = np.iinfo(in_type)
        return np.clip(np.rint(images / in_scale) + in_zero, limits.min, limits.max).astype(in_type)

    def engine(pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[1:] != shape:
            raise ArgumentError(f"pixels: expected (B, {shape[0]}, {shape[1]}, {shape[2]}), got {pixels.shape}")
        results: list[np.ndarray] = []
        for image in as_input(pixels)[:, None]:
            with turns:
                try:
                    results.append(run(image))
                except RuntimeError as error:
                    raise ModelFileError(f"{path}: {program} cannot run this file: {first_line(error)}") from None
        raw: np.ndarray = results[0] if len(results) == 1 else np.concatenate([none, *results])
        return raw if out_type is np.float32 else np.float32(out_scale) * (raw.astype(np.float32) - out_zero)

    return engine


def open_pytorch(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """A `.safetensors` checkpoint in PyTorch."""
    return require("keylite.pytorch.model", FRAMEWORKS["pytorch"]).open_engine(path, spec, threads, device)


def open_tensorflow(path: Path, spec: ModelSpec, threads: int | None, device: str) -> Engine:
    """A `.safetensors` checkpoint in Keras on TensorFlow."""
    return require("keylite.tensorflow.model", FRAMEWORKS["tensorflow"]).open_engine(path, spec, threads, device)


_KEPT: weakref.WeakSet[Any] = weakref.WeakSet()


def keep_in_forks(resource: object) -> None:
    """Never let a forked process free a resource that this process has opened: it would hang.

    Closing a session waits for its threads, which a forked process does not have. ONNX Runtime (1.32) also waits for
    threads of its own when a process that has imported it ends.
    """
    _KEPT.add(resource)
    in_forks(_keep_all)


def _keep_all() -> None:
    for resource in _KEPT:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(resource))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc: when Python has ended, end the process at once, with the same status
        libc.on_exit(libc._exit, None)


class Kind(NamedTuple):
    """A kind of engine: the suffix of its files, its opener, its package, and its framework ("" if it needs none)."""

    suffix: str
    open: Callable[[Path, ModelSpec, int | None, str], Engine]
    package: str
    framework: str


ENGINES = {
    "onnx": Kind(".onnx", open_onnx, "onnxruntime", ""),
    "litert": Kind(".tflite", open_litert, "ai_edge_litert", ""),
    "litert-reference": Kind(".tflite", open_litert_reference, "ai_edge_litert", ""),
    "tflm": Kind(".tflite", open_tflm, "tflite_micro", ""),
    "pytorch": Kind(".safetensors", open_pytorch, "torch", "pytorch"),
    "tensorflow": Kind(".safetensors", open_tensorflow, "tensorflow", "tensorflow"),
}


class Opened(NamedTuple):
    """An engine, its name, and the spec and the digest of its model file."""

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
    """Open a model file. Threads may call its engine at once; a forked process opens the file again.

    engine: a name of ENGINES; None: see `default_engine`. threads: None: the engine decides. spec: a JSON file with the
    description of a model file that holds none.
    """
    path = Path(path)
    described, digest = read_model_file(path, spec)
    possible = [name for name, kind in ENGINES.items() if kind.suffix == path.suffix.lower()]
    name = default_engine(possible, path, described) if engine is None else engine
    if name not in possible:
        raise ArgumentError(f"engine: {path.name} runs on {' or '.join(possible)}, got {quoted(engine)}")
    if threads is not None:
        require_whole("threads", threads, most=MAX_THREADS)
        threads = int(threads)  # engines refuse numbers of numpy
    kind = ENGINES[name]
    if spec is not None and kind.suffix == ".tflite":  # a file without a description has no seal
        require_harmless(path, name, Path(spec))
    by_process = {os.getpid(): kind.open(path, described, threads, device)}
    shape = (described.head.keypoints, described.head.channels)
    absolute, absolute_spec = path.absolute(), None if spec is None else Path(spec).absolute()

    def opened(pixels: np.ndarray) -> np.ndarray:
        run = by_process.get(os.getpid())
        if run is None:  # a forked process: the engine that its parent opened has no threads here
            require_same(absolute, read_model_file(absolute, absolute_spec), ModelFile(described, digest))
            run = by_process.setdefault(os.getpid(), kind.open(absolute, described, threads, device))
        raw = run(pixels)
        if raw.shape != (len(pixels), *shape):
            raise ArgumentError(
                f"{path}: expected an output of shape {(len(pixels), *shape)}, as its description says, got {raw.shape}"
            )
        return raw

    return Opened(opened, name, described, digest)


def try_engine() -> None:
    """What the process of `require_harmless` runs. Arguments: model file, engine, JSON description."""
    path, name, spec = sys.argv[1:]
    described = read_model_file(path, spec).spec
    limit_memory()
    try:
        engine = ENGINES[name].open(Path(path), described, 1, "cpu")
        engine(np.random.default_rng(0).integers(0, 256, (1, *described.size[::-1], 3), np.uint8))
    except MemoryError:
        sys.exit(TOO_LARGE)


def require_same(path: Path, now: ModelFile, before: ModelFile) -> None:
    """Raise ValueError if a model file or its description has changed since it was opened."""
    if now != before:
        raise ModelFileError(f"{path}: the file has changed since this Predictor was made; make a new one")


def default_engine(possible: list[str], path: Path, spec: ModelSpec) -> str:
    """The first engine for an exported file; for a checkpoint that of the framework which made it, or the other one.

    Raises ModuleNotFoundError, which says what to install, if neither framework is installed.
    """
    if not ENGINES[possible[0]].framework:
        return possible[0]  # its opener says if its package is missing
    maker_first = sorted(possible, key=lambda name: ENGINES[name].framework != spec.provenance.framework)
    for name in maker_first:
        if importlib.util.find_spec(ENGINES[name].package) is not None:  # imports nothing
            return name
    packages = " or ".join(ENGINES[name].package for name in maker_first)
    extras = " or ".join(f"'keylite[{FRAMEWORKS[ENGINES[name].framework]}]'" for name in maker_first)
    raise ModuleNotFoundError(
        f"{path.name}: needs {packages}, neither is installed: install one with: pip install {extras}"
    )
