"""Opens exported `.onnx` files in OpenVINO, ncnn, MNN and tract, behind the contract of keylite's engines.

All of them take a file with float input and one image at a time (`keylite export --input-type float32`). OpenVINO and
tract also take its int8 form; the converters of ncnn and MNN do not. Whatever converts a file runs in a process of its
own, because some of these packages print much, and a file that they do not take may end the process.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keylite.runtime.engines import Engine
from keylite.runtime.modelfile import read_spec
from keylite.runtime.packages import require

Run = Callable[[np.ndarray], np.ndarray]  # from float32 (1, H, W, 3) to the raw values of an image


def open_openvino(path: Path, folder: Path) -> Run:
    """OpenVINO in float32: by itself it would take bfloat16 on processors that have it."""
    openvino = require("openvino")
    choices = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.Core().compile_model(str(path), "CPU", choices)
    return lambda pixels: model([pixels])[model.output(0)]


def open_ncnn(path: Path, folder: Path) -> Run:
    """ncnn on the files that its converter pnnx makes, with weights of 32 bits."""
    ncnn = require("ncnn")
    width, height = read_spec(path).size
    program = Path(str(importlib.util.find_spec("pnnx").origin)).parent / "pnnx"  # type: ignore[union-attr]
    files = {name: folder / f"{path.stem}.ncnn.{name}" for name in ("param", "bin")}
    outputs = [f"ncnn{name}={file}" for name, file in files.items()]
    others = [f"{name}={folder / name}" for name in ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnpy")]
    _run(
        [str(program), str(path.absolute()), f"inputshape=[1,{height},{width},3]", "fp16=0", *outputs, *others], folder
    )
    net = ncnn.Net()
    net.opt.num_threads = 1
    if net.load_param(str(files["param"])) or net.load_model(str(files["bin"])):
        raise ValueError(f"{path}: ncnn cannot open what pnnx made of this file")

    def run(pixels: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(pixels[0]))
        return np.array(extractor.extract("out0")[1])

    return run


def open_mnn(path: Path, folder: Path) -> Run:
    """MNN on the file that its converter makes.

    `mnnconvert` itself is not called, because it installs packages and tells its maker how it is used. `_tools` is the
    module that it runs.
    """
    made = folder / f"{path.stem}.mnn"
    words = [
        "mnnconvert",
        "-f",
        "ONNX",
        "--modelFile",
        str(path.absolute()),
        "--MNNModel",
        str(made),
        "--bizCode",
        "keylite",
    ]
    _run([sys.executable, "-c", f"import _tools; _tools.mnnconvert({words!r})"], folder)
    expr, nn = require("MNN.expr"), require("MNN.nn")
    net = nn.load_module_from_file(str(made), ["pixels"], ["raw"])
    # `read` shows memory that the next image overwrites
    return lambda pixels: np.array(net.forward([expr.const(pixels, list(pixels.shape), expr.NCHW)])[0].read())


def open_tract(path: Path, folder: Path) -> Run:
    """tract, a runtime in Rust."""
    model = require("tract").onnx().load(str(path)).into_model().into_runnable()
    return lambda pixels: model.run([pixels])[0].to_numpy()


class Other(NamedTuple):
    """Another runtime: what opens files in it, the modules that it needs, its package, and the precisions it takes."""

    open: Callable[[Path, Path], Run]
    modules: tuple[str, ...]
    package: str
    precisions: tuple[str, ...]


OTHERS = {
    "OpenVINO": Other(open_openvino, ("openvino",), "openvino", ("fp32", "int8")),
    "ncnn": Other(open_ncnn, ("ncnn", "pnnx"), "ncnn", ("fp32",)),
    "MNN": Other(open_mnn, ("MNN",), "MNN", ("fp32",)),
    "tract": Other(open_tract, ("tract",), "tract", ("fp32", "int8")),
}


def missing(runtime: str) -> str | None:
    """The module that a runtime needs and that is not installed, or None."""
    return next((name for name in OTHERS[runtime].modules if importlib.util.find_spec(name) is None), None)


def engine_of(runtime: str, path: Path, folder: Path) -> Engine:
    """A model file in another runtime: uint8 (B, H, W, 3) -> raw values (B, K, C). folder: for converted files."""
    spec = read_spec(path)
    run = OTHERS[runtime].open(path, folder)
    shape = (1, spec.head.keypoints, spec.head.channels)

    def engine(pixels: np.ndarray) -> np.ndarray:
        results = [np.asarray(run(image.astype(np.float32)), np.float32).reshape(shape) for image in pixels[:, None]]
        return np.concatenate([np.empty((0, *shape[1:]), np.float32), *results])

    return engine


def _run(command: list[str], folder: Path) -> None:
    """Run a converter. Raises ValueError with the end of what it said if it failed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise ValueError(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
