"""The command line as the tests of its verbs call it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from keylite.cli import main

load_file = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]").load_file
onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
exporting = pytest.importorskip("keylite.pytorch.exporting", reason="needs keylite[pytorch]")


def quick(**choices: object) -> list[str]:
    """Flags of a run of seconds; `choices` go over them."""
    flags = {"size": 64, "batch": 4, "epochs": 2, "box": "image", "pretrained": "none", "mirror": "off"}
    flags |= {"backbone": "tiny", "head": "regression", "hidden": 16, "lr": 1e-3}
    return [part for name, value in (flags | choices).items() for part in (f"--{name}", str(value))]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `keylite ARGUMENTS`."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = 0 if stop.code is None else int(stop.code)
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which `keylite ARGUMENTS` refuses wrong input."""
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("keylite: ")]
    assert code == 2, (out, err)
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


def made_by_train(gauge_files: Path, name: str, **choices: object) -> Path:
    """A run's folder, made by the command line."""
    with pytest.raises(SystemExit) as stop:
        main(
            ["train", "--data", f"{gauge_files}/train/labels.json", "--val", f"{gauge_files}/test/labels.json"]
            + ["--out", str(gauge_files / name), *quick(**choices)]
        )
    assert not stop.value.code
    return gauge_files / name


def labels_with(gauge_files: Path, tmp_path: Path, change) -> Path:
    """A copy of the training set with changed labels."""
    folder = tmp_path / "data"
    shutil.copytree(gauge_files / "train", folder)
    labels = json.loads((folder / "labels.json").read_text())
    change(labels, folder)
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder / "labels.json"
