"""The command line as a user meets it, from training to prediction: what it prints, what it writes, exit codes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from verbs import labels_with, quick, refused, run

import keylite
from keylite.cli import main
from keylite.data.formats.reading import write_dataset
from keylite.data.rendered.gauges import gauges
from keylite.evaluation.report import Report
from keylite.runtime.modelfile import read_spec, seal_of, tflite_model, write_tflite
from keylite.runtime.spec import FORMAT

load_file = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]").load_file
onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
exporting = pytest.importorskip("keylite.pytorch.exporting", reason="needs keylite[pytorch]")


def test_the_main_road(capsys, trained, exported, gauge_files, tmp_path):
    labels, model = gauge_files / "test/labels.json", exported
    assert json.loads((trained / "model.onnx.certificate.json").read_text())["within_budget"] is True
    for name in ("model.safetensors", "model.onnx"):
        path = trained / name
        code, out, _ = run(
            capsys, "evaluate", path, "--data", labels, "--out", tmp_path / f"{name}.json", "--worst", 3,
            "--draw", tmp_path / "worst",
        )  # fmt: skip
        assert code == 0
        assert "needle_tip" in out
        report = msgspec.json.decode((tmp_path / f"{name}.json").read_bytes(), type=Report)
        assert out.startswith(f"{report}\n")
    parent, child = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("model.safetensors", "model.onnx")
    )
    assert child["nme"]["mean"] == pytest.approx(parent["nme"]["mean"], rel=1e-4)
    assert {"nme", "failure_rate", "pck", "auc", "pixel_error", "per_keypoint", "count"} <= child.keys()
    assert child["count"] == 6
    assert len(list((tmp_path / "worst").iterdir())) == 4  # the sheet and three objects

    picture = sorted((gauge_files / "test").glob("*.png"))[0]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({picture.name: [[0, 0, 96, 96], [10, 10, 80, 90]]}))
    code, out, _ = run(
        capsys,
        "predict",
        model,
        picture,
        "--boxes",
        boxes,
        "--out",
        tmp_path / "points.json",
        "--draw",
        tmp_path / "out",
    )
    assert code == 0
    points = json.loads((tmp_path / "points.json").read_text())
    assert points["origin"] == "corner"
    assert points["keypoints"] == ["centre", "needle_tip", "scale_start", "scale_end"]
    assert len(points["images"][str(picture)]) == 2
    drawn, taken = (cv2.imread(str(path)) for path in (tmp_path / "out" / f"{picture.stem}_points.jpg", picture))
    assert drawn.shape[0] > taken.shape[0]  # the legend is below

    code, out, _ = run(capsys, "predict", model, gauge_files / "test", "--out", "-")
    assert len(json.loads(out)["images"]) == 6
    code, out, _ = run(capsys, "predict", model, picture, "--format", "coco", "--out", "-")
    whole = json.loads(out)["annotations"][0]
    corner = keylite.Predictor(model)(picture).xy[0]
    np.testing.assert_allclose(np.reshape(whole["keypoints"], (4, 3))[:, :2], corner - 0.5, atol=1e-6)

    code, out, _ = run(capsys, "benchmark", model, trained / "model.safetensors", "--threads", 1, "--runs", 3)
    assert code == 0
    assert "engine" in out
    code, out, _ = run(capsys, "info", model)
    assert "4: centre" in out
    code, out, _ = run(capsys, "info", model, "--json")
    assert json.loads(out)["skeleton"]["names"][0] == "centre"


@pytest.fixture(scope="module")
def scored(gauge_files: Path) -> Path:
    """The folder of a heatmap's run that validates on 50 gauges, enough to learn what its scores mean."""
    write_dataset(gauges(50, "test", seed=3, size=64), gauge_files / "fifty")
    out = gauge_files / "scored"
    with pytest.raises(SystemExit) as stop:
        main(
            ["train", "--data", f"{gauge_files}/train/labels.json", "--val", f"{gauge_files}/fifty/labels.json"]
            + ["--out", str(out), *quick(head="heatmap", epochs=1)]
        )
    assert not stop.value.code
    return out


def test_sigma_goes_from_training_to_prediction(capsys, scored, gauge_files, tmp_path):
    labels, model = gauge_files / "fifty/labels.json", scored / "model.safetensors"
    for name in ("model", "last"):
        fitted = read_spec(scored / f"{name}.safetensors").confidence
        assert (fitted.count, len(fitted.levels)) == (25, 4)
    picture = sorted((gauge_files / "fifty").glob("*.png"))[0]
    code, _, _ = run(capsys, "predict", model, picture, "--out", tmp_path / "points.json")
    assert code == 0
    (found,) = json.loads((tmp_path / "points.json").read_text())["images"][str(picture)]
    assert all(0 < sigma < 64 for sigma in found["sigma"])

    code, out, _ = run(
        capsys, "evaluate", model, "--data", labels, "--out", tmp_path / "report.json",
        "--reliability", tmp_path / "reliability.png",
    )  # fmt: skip
    assert code == 0
    assert out.count("its rank correlation with the errors is ") == 1
    assert "sigma was fitted on 25 of these objects and is tested on the other 25" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["reliability"]["count"] == 25 * 4
    assert len(report["reliability"]["deciles"]) == 10
    assert cv2.imread(str(tmp_path / "reliability.png")) is not None


def test_an_export_learns_its_own_sigma(capsys, scored, gauge_files, tmp_path):
    out = tmp_path / "m.onnx"
    code, shown, told = run(
        capsys, "export", scored / "model.safetensors", "--data", gauge_files / "fifty/labels.json", "--out", out
    )
    assert code == 0
    assert "px) was fitted on 25 of 50 objects" in told
    assert "rank correlation" not in told, "the certificate says it"
    assert "sigma of the child: its rank correlation with the errors is " in shown
    ours, parents = read_spec(out).confidence, read_spec(scored / "model.safetensors").confidence
    np.testing.assert_allclose(ours.factors, parents.factors, rtol=1e-3)
    certificate = json.loads((tmp_path / "m.onnx.certificate.json").read_text())
    parent, child = certificate["reliability"]
    assert child["worst"] == pytest.approx(parent["worst"], abs=1e-3)
    assert child["count"] == 25 * 4

    code, _, told = run(
        capsys, "export", scored / "model.safetensors", "--data", gauge_files / "test/labels.json", "--out", out
    )
    assert code == 0
    assert "is the parent's: " in told
    assert "test/labels.json: 6 labelled objects, and 50 are needed" in told
    assert read_spec(out).confidence == parents


@pytest.mark.parametrize("verb", ["train", "evaluate", "export"])
def test_larger_images_are_refused_by_every_verb_that_readslabels_with(verb, capsys, trained, gauge_files, tmp_path):
    """All are 96x96, 0.0092 megapixels."""
    labels, out = gauge_files / "test/labels.json", tmp_path / "out"
    verbs = {
        "train": ["train", "--val", labels, "--out", out, *quick()],
        "evaluate": ["evaluate", trained / "model.safetensors", "--out", out],
        "export": ["export", trained / "model.safetensors", "--out", tmp_path / "out.onnx"],
    }
    line = refused(capsys, *verbs[verb], "--data", labels, "--max-megapixels", "0.009")
    assert "6 of 6 images" in line
    assert "image_000000.png" in line
    assert list(tmp_path.iterdir()) == []


def test_the_limit_of_megapixels_also_holds_where_images_are_read_again(capsys, trained, gauge_files, tmp_path):
    labels = gauge_files / "test/labels.json"
    model, report = trained / "model.safetensors", tmp_path / "r.json"
    code, _, err = run(
        capsys, "evaluate", model, "--data", labels, "--max-megapixels", "0.0093", "--out", report, "--draw", tmp_path
    )
    assert code == 0, err
    assert json.loads(report.read_text())["count"] == 6


def test_the_pixel_origin_shifts_labels_by_half_a_pixel(capsys, trained, gauge_files, tmp_path):
    shifts = {}
    for origin in ("index", "corner"):
        code, _, err = run(
            capsys, "evaluate", trained / "model.safetensors", "--data", gauge_files / "test/labels.json",
            "--pixel-origin", origin, "--out", tmp_path / f"{origin}.json",
        )  # fmt: skip
        assert code == 0, err
        report = json.loads((tmp_path / f"{origin}.json").read_text())
        shifts[origin] = np.array([[point["x"], point["y"]] for point in report["per_keypoint"].values()])
    np.testing.assert_allclose(shifts["corner"] - shifts["index"], 0.5, atol=1e-6)


def test_a_wrong_command_line_names_the_help_that_knows_better(capsys):
    assert refused(capsys, "trian").endswith("; see keylite --help")
    assert refused(capsys, "train", "--data").endswith("--data requires an argument; see keylite train --help")
    assert refused(capsys, "train", "--out", "x") == "keylite: train: --data is missing; see keylite train --help"


def sealed(data: bytes) -> bytes:
    """A model file's bytes with the seal that they should have."""
    (seal,) = re.finditer(rb"keylite_sha256\x12@([0-9a-f]{64})", data)
    start, stop = seal.span(1)
    return data[:start] + seal_of(data, start).encode() + data[stop:]


BAD_MODELS = {
    "missing": (lambda path: None, "no such model file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "damaged|cut short"),
    "garbage": (lambda path: path.write_bytes(b"\xff" * 500), "not an .onnx file, or damaged"),
    "another format number": (
        lambda path: path.write_bytes(
            sealed(path.read_bytes().replace(f'"format":{FORMAT},'.encode(), b'"format":1,'))
        ),
        "format 1, expected",
    ),
}


@pytest.mark.parametrize("verb", ["evaluate", "predict", "benchmark", "info"])
@pytest.mark.parametrize(("spoil", "words"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_bad_model_file_is_one_line(verb, spoil, words, capsys, exported, gauge_files, tmp_path):
    model = tmp_path / "m.onnx"
    if words != "no such model file":
        shutil.copy(exported, model)
        spoil(model)
    extra = {"evaluate": ["--data", gauge_files / "test/labels.json"], "predict": [gauge_files / "test"]}.get(verb, [])
    assert re.search(words, refused(capsys, verb, model, *extra))


def test_the_wrong_number_of_keypoints_is_one_line(capsys, exported, gauge_files, tmp_path):
    def drop(labels, folder):
        labels["categories"][0].update(keypoints=["a", "b", "c"], skeleton=[], flip_pairs=[])
        for annotation in labels["annotations"]:
            annotation["keypoints"] = annotation["keypoints"][:9]

    labels = labels_with(gauge_files, tmp_path, drop)
    assert "4 keypoints" in refused(capsys, "evaluate", exported, "--data", labels)


def figures(report: dict) -> dict[str, float]:
    """Every number of a report, by its place."""
    found = {}
    for name, value in report.items():
        parts = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else None
        if parts is not None:
            found |= {f"{name}.{part}": number for part, number in figures(parts).items()}
        elif isinstance(value, int | float):
            found[str(name)] = value
    return found


def test_the_main_road_with_tensorflow(tensorflow, capsys, trained_tiny, gauge_files, tmp_path):
    """From a PyTorch checkpoint, by TensorFlow, to ONNX through PyTorch: the same report from all."""
    labels, out = gauge_files / "test/labels.json", tmp_path / "run"
    choices = quick(framework="tensorflow", pretrained=trained_tiny / "model.safetensors", freeze_epochs=2)
    code, said, err = run(
        capsys, "train", "--data", gauge_files / "train/labels.json", "--val", labels, "--out", out, *choices
    )
    assert code == 0, err
    assert f"best model: {out / 'model.safetensors'}" in said
    assert "backbone and head" in err
    assert "the backbone stays frozen for the whole run (freeze_epochs 2)" in err
    assert read_spec(out / "model.safetensors").provenance.framework == "tensorflow"
    before, after = load_file(trained_tiny / "model.safetensors"), load_file(out / "last.safetensors")
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {
        f"head.{layer}.{part}" for layer in ("hidden", "points") for part in ("weight", "bias")
    }

    code, _, err = run(
        capsys, "export", out / "model.safetensors", "--to", "onnx", "--data", labels, "--out", out / "model.onnx"
    )
    assert code == 0, err
    reports = {}
    for engine, name in (("tensorflow", "model.safetensors"), ("pytorch", "model.safetensors"), ("onnx", "model.onnx")):
        code, _, err = run(
            capsys, "evaluate", out / name, "--data", labels, "--engine", engine, "--out", tmp_path / f"{engine}.json"
        )
        assert code == 0, err
        reports[engine] = json.loads((tmp_path / f"{engine}.json").read_text())
    assert [report["engine"] for report in reports.values()] == list(reports)
    wanted = figures(reports["tensorflow"])
    assert wanted["per_keypoint.centre.x"] != 0
    for engine in ("pytorch", "onnx"):
        found = figures(reports[engine])
        assert found.keys() == wanted.keys()
        far = max(abs(found[name] - value) for name, value in wanted.items())
        assert far < 1e-3, (engine, far)  # most of them px
    code, _, err = run(capsys, "evaluate", out / "model.safetensors", "--data", labels, "--out", tmp_path / "own.json")
    assert (
        json.loads((tmp_path / "own.json").read_text()) == reports["tensorflow"]
    )  # what made the file, to the last digit


def test_a_file_without_a_description_takes_one_apart(capsys, exported_finder, colour_files, tmp_path):
    whole, bare, apart = exported_finder("litert", "int8"), tmp_path / "bare.tflite", tmp_path / "spec.json"
    bare.write_bytes(tflite_model(whole))
    labels, pictures = colour_files / "val/labels.json", colour_files / "val"
    for verb in (["evaluate", bare, "--data", labels], ["predict", bare, pictures], ["info", bare]):
        assert "holds no keylite description: if" in refused(capsys, *verb)
    code, said, _ = run(capsys, "info", whole, "--json")
    apart.write_text(said)
    found = []
    for model, more in ((whole, []), (bare, ["--spec", apart])):
        code, said, err = run(capsys, "predict", model, pictures, "--out", "-", *more)
        assert code == 0, err
        found.append(json.loads(said)["images"])
        code, said, err = run(capsys, "evaluate", model, "--data", labels, *more)
        assert code == 0, err
    assert found[0] == found[1]
    assert "no such description" in refused(capsys, "predict", bare, pictures, "--spec", tmp_path / "none.json")


def test_a_damaged_tflite_file_is_one_line(capsys, exported_finder, colour_files, tmp_path):
    path = tmp_path / "m.tflite"
    whole = bytearray(exported_finder("litert", "int8").read_bytes())
    whole[100_000] ^= 1
    path.write_bytes(whole)
    assert "the file is damaged" in refused(capsys, "predict", path, colour_files / "val")
    write_tflite(path, b"\x1c\0\0\0TFL3" + bytes(400), read_spec(exported_finder("litert", "int8")))
    assert "LiteRT cannot open this file" in refused(capsys, "predict", path, colour_files / "val")
