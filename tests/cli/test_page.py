"""`keylite page`: a page in one command, and what is refused in one line."""

from __future__ import annotations

import pytest


def test_a_page_is_written(keylite_command, onnx_file, monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr("keylite.pictures.page.runtime_files", lambda suffix, folder: {"onnxruntime.js": b""})
    ended = keylite_command("page", onnx_file, "--out", tmp_path / "a page")
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"wrote {tmp_path}/a page: 13 files, ")
    assert ended.out.endswith(f"cd '{tmp_path}/a page' && python3 -m http.server\n")
    assert (tmp_path / "a page/index.html").is_file()


def test_what_cannot_be_a_page_is_refused(keylite_command, onnx_file, model_file, photos, tmp_path):
    out = tmp_path / "page"
    cases = {
        (model_file, "--out", out): "model: expected a file that browsers run (.onnx, .tflite), got '.safetensors'",
        (
            onnx_file,
            "--out",
            out,
            "--runtime",
            tmp_path,
        ): f"--runtime: {tmp_path} lacks onnxruntime-web-1.30.0.tgz; npm",
        (onnx_file, "--out", photos): "--out: expected a new or an empty folder, or a page of keylite, but",
        (tmp_path / "none.onnx", "--out", out): f"{tmp_path}/none.onnx: no such model file",
    }
    for arguments, words in cases.items():
        ended = keylite_command("page", *arguments)
        assert ended.code == 2
        assert ended.line.startswith(words)
        assert not out.exists()
