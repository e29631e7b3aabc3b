"""The engine of a file is found or refused in one line; a missing package says what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

from keylite.runtime.engines import open_engine, require
from keylite.runtime.modelfile import KEY
from keylite.runtime.spec import encode_spec


def test_the_engine_is_the_one_for_the_file(model_file: Path, onnx_file: Path, make_spec):
    for path, engine in ((model_file, "pytorch"), (onnx_file, "onnx")):
        _, name, spec = open_engine(path)
        assert name == engine
        assert spec == make_spec()
        assert open_engine(str(path), engine)[1] == engine


@pytest.mark.parametrize("engine", ["pytorch", "onnxruntime", "ONNX"])
def test_another_engine_is_refused(onnx_file: Path, engine: str):
    with pytest.raises(ValueError, match=f"engine: four.onnx runs on onnx, got {engine!r}"):
        open_engine(onnx_file, engine)


def test_devices_that_are_not_there_are_refused(model_file: Path, onnx_file: Path):
    import torch

    with pytest.raises(ValueError, match="device: the onnx engine runs on the cpu, got 'cuda'"):
        open_engine(onnx_file, device="cuda")
    with pytest.raises(ValueError, match="device: expected auto, cpu or cuda, got 'gpu'"):
        open_engine(model_file, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device: cuda asked for, but PyTorch sees no CUDA GPU"):
            open_engine(model_file, device="cuda")


def test_a_graph_that_cannot_run_is_refused(tmp_path: Path, make_spec):
    onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
    graph = onnx.helper.make_graph([onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])], "g", [], [])
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, {KEY: encode_spec(make_spec())})
    path = tmp_path / "broken.onnx"
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"broken\.onnx: ONNX Runtime cannot open this file") as caught:
        open_engine(path)
    assert "\n" not in str(caught.value)


def test_a_present_module_is_given_and_a_missing_one_named():
    assert require("json", "any").__name__ == "json"
    with pytest.raises(
        ModuleNotFoundError, match=r"^no_such_package is not installed: .*pip install 'keylite\[some\]'$"
    ):
        require("no_such_package.part", "some")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'keylite\.nothing'"):
        require("keylite.nothing", "some")


MISSING = {"onnxruntime": ("onnx_file", "onnx"), "torch": ("model_file", "pytorch"), "timm": ("model_file", "pytorch")}


@pytest.mark.parametrize("package", MISSING)
def test_a_missing_package_says_what_to_install(package: str, request: pytest.FixtureRequest, python):
    made, extra = MISSING[package]
    code = f"""
from keylite import Predictor
try:
    Predictor({str(request.getfixturevalue(made))!r})
except ModuleNotFoundError as error:
    print(error)
"""
    said = python(code, missing=(package,))
    assert said == f"{package} is not installed: install it with: pip install 'keylite[{extra}]'\n"
