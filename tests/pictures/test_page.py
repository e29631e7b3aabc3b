"""The folder of a page for browsers: what it holds, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import re
from pathlib import Path

import pytest
from packages import packed, refusal

from keylite.pictures import page, runtimes
from keylite.pictures.page import write_page
from keylite.runtime.modelfile import read_spec
from keylite.runtime.spec import encode_spec

WEB = Path(str(importlib.resources.files("keylite.pictures"))) / "web"


@pytest.mark.parametrize("file", ["onnx_file", "litert_file"])
def test_the_folder_holds_all_that_the_page_needs(file: str, small: Path, request, tmp_path: Path):
    model = request.getfixturevalue(file)
    out = tmp_path / "page"
    written = write_page(model, out, runtime=small)
    assert sorted(out.iterdir()) == sorted(written)
    assert (out / f"model{model.suffix}").read_bytes() == model.read_bytes()
    assert json.loads((out / "spec.json").read_text()) == json.loads(encode_spec(read_spec(model)))
    facts = json.loads((out / "page.json").read_text())
    assert (facts["file"], facts["name"], facts["sides"]) == (
        f"model{model.suffix}",
        model.name,
        [None, "left", "right", None],
    )
    texts = "".join((out / name).read_text() for name in page.OWN)
    named = set(re.findall(r"""["'(/]([\w-]+\.(?:js|css|json|wasm|txt))["')]""", texts))
    others = {name for some in runtimes.RUNTIMES.values() for package in some for name in package.files}
    assert named - others <= {path.name for path in written}
    licences = (out / "LICENCES.txt").read_text()
    assert "Apache License" in licences
    assert ("Copyright (c) Microsoft" in licences) == (model.suffix == ".onnx")


def test_a_page_of_another_kind_is_replaced_whole(onnx_file: Path, litert_file: Path, small: Path, tmp_path: Path):
    write_page(litert_file, tmp_path / "page", runtime=small)
    written = write_page(onnx_file, tmp_path / "page", runtime=small)
    assert sorted((tmp_path / "page").iterdir()) == sorted(written)


def test_what_the_page_s_policy_names_is_its_import_map():
    text = (WEB / "index.html").read_text()
    (script,) = re.findall(r'<script type="importmap">(.*?)</script>', text)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in text
    assert (WEB / "Apache-2.0.txt").read_text() == (Path(__file__).parents[2] / "LICENSE").read_text()


def test_refusals_leave_nothing_behind(onnx_file: Path, model_file: Path, small: Path, tmp_path: Path):
    out = tmp_path / "page"
    said = refusal(model_file, out, runtime=small)
    assert said.startswith("model: expected a file that browsers run (.onnx, .tflite), got '.safetensors'; make one")
    said = refusal(onnx_file, out, runtime=tmp_path)
    assert said == (
        f"runtime: {tmp_path} lacks onnxruntime-web-1.30.0.tgz; npm pack onnxruntime-web@1.30.0 in that folder writes it"
    )
    (small / "onnxruntime-web-1.30.0.tgz").write_bytes(packed({}))
    said = refusal(onnx_file, out, runtime=small)
    assert "expected onnxruntime-web@1.30.0 as npm publishes it, got another sha512" in said
    said = refusal(onnx_file, out)
    assert said.startswith("runtime: cannot fetch onnxruntime-web@1.30.0 from 127.0.0.1 (")
    assert said.endswith(
        "; where npm works, npm pack onnxruntime-web@1.30.0 writes it: give its folder as `runtime=FOLDER`"
    )
    assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    said = refusal(onnx_file, tmp_path / "full", runtime=small)
    assert "expected a new or an empty folder, or a page of keylite, but" in said
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_a_page_appears_whole_or_not_at_all(onnx_file: Path, small: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "page"

    def fail() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(page, "runtime_files", lambda *_: {"onnxruntime.js": b"", "no folder/of/this.name": b""})
            assert str(out) in refusal(onnx_file, out)

    fail()
    assert not out.exists()
    write_page(onnx_file, out, runtime=small)
    before = {path: path.read_bytes() for path in out.iterdir()}
    fail()
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packages", "page"]


def test_the_model_of_a_page_is_not_written_over(onnx_file: Path, small: Path, tmp_path: Path):
    write_page(onnx_file, tmp_path / "page", runtime=small)
    said = refusal(tmp_path / "page/model.onnx", tmp_path / "page", runtime=small)
    assert "is the file of `model`, too" in said
