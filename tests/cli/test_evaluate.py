"""`keylite evaluate`: figures, and a child held to its parent."""

from __future__ import annotations

import json
import re
import shutil
import sys

import msgspec
import pytest
from verbs import refused, run

from keylite.exporting.certificate import Certificate
from keylite.runtime.modelfile import describe, read_spec

load_file = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]").load_file
onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
exporting = pytest.importorskip("keylite.pytorch.exporting", reason="needs keylite[pytorch]")


def test_a_certificate_of_another_file_is_said(capsys, exported, gauge_files, tmp_path):
    copy = tmp_path / "model.onnx"
    shutil.copy(exported, copy)
    shutil.copy(exported.with_name("model.onnx.certificate.json"), tmp_path)
    labels = gauge_files / "test/labels.json"
    assert "another file" not in run(capsys, "evaluate", copy, "--data", labels)[2]
    describe(copy, msgspec.structs.replace(read_spec(copy), normalize="0.5 x box_diagonal"))  # a good file, but another
    assert "another file" in run(capsys, "evaluate", copy, "--data", labels)[2]


def test_jitter_and_boxes_from_a_file_change_the_figures(capsys, exported, gauge_files, tmp_path):
    labels = gauge_files / "test/labels.json"
    boxes = {p.name: [[5.0, 5.0, 90.0, 90.0]] for p in (gauge_files / "test").glob("*.png")}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    figures = []
    for extra in ([], ["--jitter-box", "0.1", "--seed", "0"], ["--boxes", tmp_path / "boxes.json"]):
        assert run(capsys, "evaluate", exported, "--data", labels, "--out", tmp_path / "r.json", *extra)[0] == 0
        report = json.loads((tmp_path / "r.json").read_text())
        figures.append((report["pixel_error"]["mean"], report["boxes"]))
    assert len({mean for mean, _ in figures}) == 3
    assert [boxes for _, boxes in figures] == ["image", "image, jitter 0.1 seed 0", "file"]


def test_a_child_is_held_to_its_parent_again(capsys, exported_finder, finder_file, colour_files, tmp_path):
    child, labels = exported_finder("litert", "int8"), colour_files / "val/labels.json"
    command = ["evaluate", child, "--parent", finder_file, "--data", labels]
    code, said, err = run(capsys, *command, "--budget", 9, "--out", tmp_path / "c.json")
    assert code == 0, err
    certificate = json.loads((tmp_path / "c.json").read_text())
    assert certificate["count"] == 20 and certificate["within_budget"] is True
    shown = f"{100 * certificate['nme_parent']:.3f} % -> {100 * certificate['nme_child']:.3f} %"
    assert shown in said and "PCK@0.05" in said and "MB; latency" in said and said.rstrip().endswith("Accepted")
    assert shown in (tmp_path / "c.md").read_text()
    assert certificate["notes"] == [] and "warning" not in err
    assert said == f"{msgspec.convert(certificate, Certificate)}\n"
    code, said, err = run(capsys, *command)
    assert code == 3
    assert "budget 0.5 for p95" in " ".join(said.split()), "int8's at 64 px"
    assert re.search(r"keylite: p95 drift .* is over the budget of 0.5 px", err)
    code, _, err = run(capsys, *command, "--budget", 9, "--budget-nme", "1e-9")
    assert (code == 3) == (certificate["nme_child"] > certificate["nme_parent"] * (1 + 1e-9))


def test_a_certificate_for_other_kernels(capsys, exported_finder, finder_file, colour_files, tmp_path):
    child, out = exported_finder("litert", "int8"), tmp_path / "c.json"
    command = ["evaluate", child, "--parent", finder_file, "--data", colour_files / "val/labels.json", "--budget", 9]
    assert run(capsys, *command, "--out", out)[0] == 0
    usual = json.loads(out.read_text())
    assert list(usual["kernels"]) == ["litert", "litert-reference"]
    code, said, _ = run(capsys, *command, "--engine", "litert-reference", "--out", out)
    assert code == 0
    judged = json.loads(out.read_text())
    assert judged["engines"][1] == "litert-reference"
    assert judged["drift"] == usual["kernels"]["litert-reference"]["drift"] != usual["drift"]
    assert judged["kernels"] == {}
    assert "\nkernels: held to the budget on litert-reference\n" in said
    assert "runs on onnx, got 'litert'" in refused(
        capsys, *command[:1], exported_finder("onnx", "int8"), *command[2:], "--engine", "litert"
    )


def test_a_child_of_others_is_refused(capsys, exported_finder, trained, colour_files):
    child, labels = exported_finder("litert", "int8"), colour_files / "val/labels.json"
    line = refused(capsys, "evaluate", child, "--parent", trained / "model.safetensors", "--data", labels)
    assert "finder.int8.tflite is no child of model.safetensors: skeleton is" in line


def test_a_child_of_another_parent_is_told(capsys, exported_finder, colour_files):
    """Two files that came from one may be compared; neither is the other's child."""
    child, parent = exported_finder("litert", "int8"), exported_finder("onnx", "fp32")
    told = ["--data", colour_files / "val/labels.json", "--budget", 9]
    code, _, err = run(capsys, "evaluate", child, "--parent", parent, *told)
    assert code == 0
    assert f"warning: {child.name} was not exported from {parent.name}" in err


@pytest.mark.parametrize("flag", ["--normalize", "--threads", "--seed", "--worst", "--draw", "--sigmas"])
def test_flags_without_effect_on_a_comparison_are_refused(flag, capsys, exported_finder, finder_file, colour_files):
    value = {"--normalize": "box_side", "--sigmas": "0.1"}.get(flag, "3")
    told = ["--parent", finder_file, "--data", colour_files / "val/labels.json", flag, value]
    assert f"{flag}: has no effect with --parent" in refused(capsys, "evaluate", exported_finder("onnx", "int8"), *told)


def test_budgets_without_a_parent_are_refused(capsys, finder_file, colour_files):
    for flag in ("--budget", "--budget-nme"):
        line = refused(capsys, "evaluate", finder_file, "--data", colour_files / "val/labels.json", flag, "1")
        assert "--parent" in line


def test_what_an_evaluation_cannot_draw_leaves_no_report(capsys, finder_file, colour_files, tmp_path, monkeypatch):
    told = ["evaluate", finder_file, "--data", colour_files / "val/labels.json", "--out", tmp_path / "r.json"]
    with monkeypatch.context() as patch:
        patch.setattr("keylite.cli.shared.Reading.dataset", lambda *_: pytest.fail("images were read"))
        for more, words in (
            (["--draw", tmp_path / "w", "--worst", -1], "--worst: expected a whole number of at least 0, got -1"),
            (["--worst", 3], "--worst: expected --draw beside it"),
            (["--sigmas", "nan,1,1,1"], "--sigmas: expected finite numbers above 0, got nan|not installed"),
            (["--sigmas", "1"], "--sigmas: expected 4 values, one per keypoint, got 1|not installed"),
        ):
            assert re.search(words, refused(capsys, *told, *more))
        patch.setitem(sys.modules, "matplotlib", None)
        assert "matplotlib is not installed: install it with" in refused(
            capsys, *told, "--reliability", tmp_path / "r.png"
        )
    monkeypatch.setattr(
        "keylite.pictures.worst.draw_worst", lambda *_: exec("raise ValueError('worst.jpg is the file of')")
    )
    assert "worst.jpg is" in refused(capsys, *told, "--draw", tmp_path / "w")
    assert list(tmp_path.iterdir()) == []
