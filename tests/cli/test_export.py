"""`keylite export`: a file and its certificate, or nothing and one clear line."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from verbs import refused, run

import keylite
from keylite.cli.shared import Reading
from keylite.runtime.heads import HEADS
from keylite.runtime.modelfile import describe, read_spec, write_onnx, write_safetensors

load_file = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]").load_file
save = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]").save
onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
exporting = pytest.importorskip("keylite.pytorch.exporting", reason="needs keylite[pytorch]")


def test_an_export_over_its_budget_leaves_nothing_and_exits_3(
    capsys, trained, exported, gauge_files, tmp_path, monkeypatch
):
    def damaged(parent, out, spec, calibration=None, output_type="float32"):
        proto = onnx.load(exported)
        (bias,) = (tensor for tensor in proto.graph.initializer if list(tensor.dims) == [2 * 4])
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
        del proto.metadata_props[:]
        write_onnx(out, proto.SerializeToString(), spec)

    monkeypatch.setattr(exporting, "export", damaged)  # 0.01 is 0.64 px of 64
    code, out, err = run(
        capsys, "export", trained / "model.safetensors", "--data", gauge_files / "test/labels.json",
        "--out", tmp_path / "m.onnx",
    )  # fmt: skip
    assert code == 3
    assert "all points" in out
    assert "refused" in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stocked(exported_finder, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Exporters that give the int8 file of their format, whatever the precision; (format, precision, images) asked."""
    asked: list[tuple] = []
    monkeypatch.setattr("keylite.runtime.engines.require_agreement", lambda *_: None)  # of files that say fp32
    tensorflow_exporting = pytest.importorskip("keylite.tensorflow.exporting", reason="needs keylite[tensorflow-cpu]")

    def stock(to, module):
        ready = exported_finder(to, "int8")

        def export(parent, out, spec, calibration=None, output_type="float32"):
            asked.append((to, spec.precision, None if calibration is None else len(calibration.pixels)))
            shutil.copy(ready, out)
            describe(out, spec)

        monkeypatch.setattr(module, "export", export)

    stock("onnx", exporting)
    stock("litert", tensorflow_exporting)
    return asked


BAD_EXPORTS = {
    "int8 without images": (["--precision", "int8"], "int8 takes its ranges from images: give them (--calibration"),
    "too few images": (["--precision", "int8", "--calibration", "FEW"], "expected at least 16 objects, got 15"),
    "too few asked for": (
        ["--precision", "int8", "--calibration", "TRAIN", "--calibration-count", "8"],
        "--calibration-count: expected at least 16, got 8",
    ),
    "images of another kind": (
        ["--precision", "int8", "--calibration", "GAUGES"],
        "labels.json has 4 keypoints",
    ),
    "no such images": (["--precision", "int8", "--calibration", "none.json"], "none.json"),
    "images that nothing uses": (["--calibration", "TRAIN"], "--calibration: expected none for fp32"),
    "a precision of another format": (
        ["--precision", "fp16"],
        "--precision: for onnx expected fp32 or int8, got 'fp16'",
    ),
    "an unknown precision": (["--precision", "int4"], "fp32 or int8, got 'int4'"),
    "an unknown format": (["--to", "tensorrt"], "--to: expected one of onnx, litert, got 'tensorrt'"),
    "a suffix as a format": (
        ["--to", "tflite"],
        "--to: expected one of onnx, litert, got 'tflite'; for a .tflite file give",
    ),
    "another format's suffix": (
        ["--to", "litert"],
        "--to: 'm.onnx' is a file for onnx, got 'litert'; leave --to out, or choose a name that ends in .tflite",
    ),
    "a target of another format": (
        ["--target", "tflm"],
        "--target: tflm runs .tflite files, got .onnx; export with --to",
    ),
    "an unknown target": (["--target", "esp32"], "--target: expected one of tflm, ethos-u55-32, "),
    "a limit without a target": (["--ram", "256"], "--ram: it is a limit of a target; name one, such as --target tflm"),
    "a target of all": (["--to", "all", "--target", "tflm"], "--target: it is for one exported file; leave out"),
    "no budget": (["--budget", "0"], "--budget: expected a number above 0, got 0.0"),
    "no budget for the NME": (["--budget-nme", "-1"], "--budget-nme: expected a number above 0, got -1.0"),
    "all without images": (["--to", "all"], "--calibration: expected labelled images, because int8 takes"),
    "golden vectors of all": (
        ["--to", "all", "--calibration", "TRAIN", "--golden", "GOLDEN"],
        "--golden: needs one exported file",
    ),
    "golden vectors where a file is": (["--golden", "FILE"], "cannot write to this folder"),
    "a diagnosis in place of a model": (["--diagnose"], "expected a name that ends in .md, got 'm.onnx'"),
    "all from too few": (["--to", "all", "--calibration", "FEW"], "expected at least 16 objects, got 15"),
    "all with no budget": (["--to", "all", "--calibration", "TRAIN", "--budget", "nan"], "--budget: expected a number"),
}


@pytest.mark.parametrize(("flags", "words"), BAD_EXPORTS.values(), ids=BAD_EXPORTS)
def test_a_bad_export_is_one_line_and_nothing_is_written(
    flags, words, stocked, capsys, finder_file, colour_files, gauge_files, tmp_path
):
    files = {name.upper(): colour_files / name / "labels.json" for name in ("train", "few")}
    files |= {"GAUGES": gauge_files / "train/labels.json", "GOLDEN": tmp_path / "golden", "FILE": finder_file}
    data = ["--data", colour_files / "val/labels.json", "--out", tmp_path / "m.onnx"]
    line = refused(capsys, "export", finder_file, *data, *(files.get(flag, flag) for flag in flags))
    assert words in line
    assert list(tmp_path.iterdir()) == []
    assert stocked == [], "refused before minutes of work"


LATE = {  # head, choices of the model, flags, words
    "a float end on an NPU": (
        "heatmap",
        {},
        "--out m.tflite --precision int8 --calibration DATA --target ethos-u55-128",
        "--target: ethos-u55-128 leaves the end of a file to the CPU if its output is float32; export a heatmap with",
    ),
    "integers out of a dense layer": (
        "rle",
        {},
        "--out m.tflite --precision int8 --calibration DATA --output-type int8",
        "--output-type: expected float32 for a rle head, because",
    ),
    "channels that cannot be scaled": (
        "heatmap",
        {"backbone": "timm:test_efficientnet"},
        "--out m.onnx --precision int8 --calibration DATA --weight-scales per-tensor",
        "--weight-scales: per-tensor is for the backbones lite0, ",
    ),
    "a backbone of another framework": (
        "heatmap",
        {"backbone": "timm:test_efficientnet"},
        "--out m.tflite",
        "backbone: litert takes lite0, ",
    ),
    "the same among all": (
        "heatmap",
        {"backbone": "timm:test_efficientnet"},
        "--to all --calibration DATA --out all",
        "litert takes",
    ),
    "all without images": ("heatmap", {}, "--to all --out all", "--calibration: expected labelled images"),
    "a diagnosis of floats": ("heatmap", {}, "--diagnose --to litert --precision fp16", "expected --precision int8"),
    "a diagnosis without images": ("heatmap", {}, "--diagnose --to onnx --precision int8", "--calibration: int8 takes"),
}


@pytest.mark.parametrize(("head", "changes", "flags", "words"), LATE.values(), ids=LATE)
def test_an_export_that_cannot_be_is_refused_before_labels_are_read(
    head, changes, flags, words, capsys, make_spec, tmp_path, monkeypatch
):
    def read(*_, **__):
        pytest.fail("what is wrong was known before labels were read")

    monkeypatch.setattr(Reading, "dataset", read)
    monkeypatch.chdir(tmp_path)
    write_safetensors(tmp_path / "m.safetensors", save({}), make_spec(head=HEADS[head](4, 8, (64, 64)), **changes))
    given = [tmp_path / "labels.json" if word == "DATA" else word for word in flags.split()]
    line = refused(capsys, "export", "m.safetensors", "--data", tmp_path / "labels.json", *given)
    assert words in line
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_an_export_starts_from_a_checkpoint(stocked, capsys, exported_finder, colour_files, tmp_path):
    data = ["--data", colour_files / "val/labels.json", "--out", tmp_path / "m.onnx"]
    line = refused(capsys, "export", exported_finder("onnx", "int8"), *data)
    assert "expected a .safetensors model file" in line
    assert list(tmp_path.iterdir()) == []


def test_an_int8_export_with_golden_vectors(stocked, capsys, finder_file, colour_files, tmp_path):
    labels, out, golden = colour_files / "val/labels.json", tmp_path / "new" / "m.tflite", tmp_path / "golden"
    code, said, err = run(
        capsys, "export", finder_file, "--to", "litert", "--precision", "int8", "--data", labels, "--out", out,
        "--calibration", colour_files / "train/labels.json", "--calibration-count", 18, "--seed", 5,
        "--budget", 9, "--budget-nme", 20, "--golden", golden,
    )  # fmt: skip
    assert code == 0, err
    assert stocked == [("litert", "int8", 18), ("onnx", "fp32", None)], "the file, and what its time is compared with"
    assert "all points" in said and "budget 9 for p95" in " ".join(said.split())
    assert "m.tflite.certificate.json and m.tflite.certificate.md" in said
    assert {path.name for path in out.parent.iterdir()} == {
        out.name,
        *(f"{out.name}.certificate.{k}" for k in ("json", "md")),
    }
    spec, certificate = read_spec(out), json.loads((out.parent / "m.tflite.certificate.json").read_text())
    assert (spec.precision, spec.calibration.count, spec.calibration.seed) == ("int8", 18, 5)
    assert spec.certificate.drift_p95 == certificate["drift"]["p95"]
    assert (certificate["budget"], certificate["budget_nme"], certificate["within_budget"]) == (9, 20, True)
    assert certificate["latency"]["ratio"] > 0 and certificate["latency"]["ms"] > 0
    assert json.loads((golden / "golden.json").read_text())["model"] == "m.tflite"
    code, said, _ = run(capsys, "info", out)
    assert code == 0 and "int8" in said and "budget 9" in said


def test_past_the_nme_s_budget_nothing_is_written(stocked, capsys, finder_file, colour_files, tmp_path):
    data = keylite.read_dataset(colour_files / "val/labels.json")
    data = dataclasses.replace(data, image_names=tuple(map(str, data.images)))
    labels, out = tmp_path / "near.json", tmp_path / "out"
    keylite.write_coco(data, labels, keylite.predict_dataset(finder_file, data).xy + 0.01)  # which int8 can only miss
    code, said, err = run(
        capsys, "export", finder_file, "--precision", "int8", "--calibration", colour_files / "train/labels.json",
        "--data", labels, "--out", out / "m.onnx", "--budget", 60, "--budget-nme", 1e-6,
        "--golden", out / "g",
    )  # fmt: skip
    assert code == 3, (said, err)
    assert "all points" in said
    assert "NME rose by" in err and "nothing was written" in err
    assert not out.exists() or list(out.iterdir()) == []


EVERY = {
    "finder.fp32.onnx": ("onnx", "fp32"),
    "finder.int8.onnx": ("onnx", "int8"),
    "finder.fp32.tflite": ("litert", "fp32"),
    "finder.fp16.tflite": ("litert", "fp16"),
    "finder.int8.tflite": ("litert", "int8"),
}


def test_all_formats_and_precisions_go_into_a_folder(stocked, capsys, finder_file, colour_files, tmp_path):
    given = ["--to", "all", "--data", colour_files / "val/labels.json", "--out", tmp_path / "all"]
    given += ["--calibration", colour_files / "train/labels.json", "--calibration-count", 16]
    code, said, err = run(capsys, "export", finder_file, *given, "--budget", 60)
    assert code == 0, err
    certificates = {f"{name}.certificate.{kind}" for name in EVERY for kind in ("json", "md")}
    assert {path.name for path in (tmp_path / "all").iterdir()} == {*EVERY, *certificates}
    for name, (_, precision) in EVERY.items():
        assert read_spec(tmp_path / "all" / name).precision == precision
        (row,) = [line for line in said.splitlines() if name in line]
        assert precision in row and "accepted" in row
    made = [ask for ask in stocked if ask[1] != "fp32" or ask[0] == "litert"]
    assert made == [("onnx", "int8", 16), ("litert", "fp32", None), ("litert", "fp16", None), ("litert", "int8", 16)]


def test_of_all_what_is_over_its_budget_is_left_out_and_said(stocked, capsys, finder_file, colour_files, tmp_path):
    """The files are int8 whatever they say: too far from their parent for fp32 and fp16."""
    monkeypatched = {"fp32": 0.02, "fp16": 0.1, "int8": 100.0}
    given = ["--to", "all", "--data", colour_files / "val/labels.json", "--out", tmp_path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keylite.exporting.form.DRIFT_BUDGET", monkeypatched)
        code, said, err = run(
            capsys, "export", finder_file, *given, "--calibration", colour_files / "train/labels.json"
        )
    assert code == 3
    (line,) = [line for line in err.splitlines() if line.startswith("keylite: ")]
    assert line == "keylite: refused: finder.fp32.onnx, finder.fp32.tflite, finder.fp16.tflite"
    assert sorted(path.name for path in tmp_path.iterdir() if "certificate" not in path.name) == [
        "finder.int8.onnx", "finder.int8.tflite",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir() if "fp" in path.name] == []
    assert said.count("refused") == 3 and said.count("accepted") == 2


def test_golden_vectors_of_a_diagnosis_are_refused(capsys, finder_file, colour_files, tmp_path):
    told = ["--data", colour_files / "val/labels.json", "--diagnose", "--golden", tmp_path / "golden"]
    assert "--golden: needs one exported file" in refused(capsys, "export", finder_file, *told)
    assert list(tmp_path.iterdir()) == []
