"""benchmarks/targets.py: figures by runtime and data set, measured once, and the table that they become."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchvision", reason="needs keylite[pytorch]")
pytest.importorskip("ai_edge_litert", reason="needs keylite[litert]")

import targets

import keylite
from keylite.data.formats.reading import read_dataset, write_dataset
from keylite.runtime.modelfile import read_spec

RUNTIMES = ("LiteRT, XNNPACK", "TensorFlow Lite Micro", "ONNX Runtime", "ncnn")


@pytest.fixture(scope="module")
def measured(finder_file: Path, exported_finder, make_colours, tmp_path_factory: pytest.TempPathFactory):
    """The folder of --out after two runs, of which the second one measured nothing, and the folder of the labels."""
    for package in ("onnxscript", "tensorflow"):
        pytest.importorskip(package, reason="needs keylite[all]")
    out, labels = tmp_path_factory.mktemp("targets"), tmp_path_factory.mktemp("colours")
    write_dataset(make_colours(12, 9), labels)

    def file_of(model: Path, calibration, to: str, precision: str, folder: Path) -> Path:
        return exported_finder(to, precision, **({"input_type": "float32"} if to == "onnx" else {}))

    def refused(*_: object) -> None:
        raise ValueError("pnnx ended with 1: no such operator\nand more")

    rows = {name: targets.ROWS[name] for name in RUNTIMES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "file_of", file_of)
        patch.setattr(targets, "engine_of", refused)
        patch.setattr(targets, "ROWS", rows)
        patch.setattr(targets, "why_not", lambda row, name: None)
        arguments = ["--out", str(out), "--objects", "9", "--model", str(finder_file)]
        arguments += [str(labels / "labels.json")] * 2
        targets.main(arguments)
        page = (out / "docs/targets.md").read_bytes()
        patch.setattr(targets, "predict_dataset", refused)
        targets.main(arguments)
        assert (out / "docs/targets.md").read_bytes() == page
        yield out, labels


def test_the_figures_are_those_of_the_predictor(measured, finder_file: Path, exported_finder):
    out, labels = measured
    facts = json.loads((out / "docs/results/targets.json").read_text())
    (found,) = facts["sets"].values()
    assert (found["count"], found["of"]) == (9, 12)
    data = targets.chosen(read_dataset(labels / "labels.json"), 9)
    pixels = np.stack([data.read_image(row) for row in range(len(data))])
    spec = read_spec(finder_file)
    parent, child = (
        keylite.Predictor(path).run(pixels)[0] for path in (finder_file, exported_finder("litert", "int8"))
    )
    distance = np.linalg.norm((parent - child) * spec.size, axis=-1)
    held = found["rows"]["LiteRT, XNNPACK"]["int8"]
    assert held["p95"] == pytest.approx(np.percentile(distance, 95), rel=1e-4)
    assert held["max"] == pytest.approx(distance.max(), rel=1e-4)
    report = keylite.evaluate(finder_file, data)
    assert held["nme_parent"] == pytest.approx(report.nme.mean, rel=1e-6)
    assert held["change"] == pytest.approx(held["nme"] / report.nme.mean - 1)
    assert found["rows"]["ONNX Runtime"]["fp32"]["p95"] < 0.02


def test_the_table_has_a_row_per_runtime_and_says_what_was_refused(measured):
    out, labels = measured
    page = (out / "docs/targets.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert lines[0] == f"| runtime | {labels.name} |"
    assert [line.split(" | ")[0].strip("| ") for line in lines[1:]] == list(RUNTIMES)
    assert "| ncnn | refused / - |" in lines
    assert f"Refused: ncnn in fp32 ({labels.name}): pnnx ended with 1: no such operator." in page
    assert "9 of 12 objects of `labels.json`, 4 keypoints, lite0, " in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([], "--model, --out: expected at least one set"), (["--out", "o"], "--model, --out: expected at least one set")],
)
def test_wrong_flags_are_one_line(arguments: list[str], words: str):
    with pytest.raises(ValueError, match=words):
        targets.main(arguments)
