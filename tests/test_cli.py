"""The command line as a user meets it: what it prints, what it writes, and one clear line with exit code 2."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import threading
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

import keylite
from keylite.cli import main
from keylite.data.formats.reading import write_dataset
from keylite.data.rendered.gauges import gauges
from keylite.evaluation.report import Report
from keylite.exporting.certificate import Certificate
from keylite.prediction.sources import drawing_paths
from keylite.runtime.modelfile import describe, read_spec, seal_of, tflite_model, write_onnx, write_tflite
from keylite.runtime.spec import FORMAT, encode_spec

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


@pytest.fixture(scope="module")
def gauge_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ of rendered gauges with labels.json."""
    folder = tmp_path_factory.mktemp("gauges")
    write_dataset(gauges(8, "train", seed=1, size=96), folder / "train")
    write_dataset(gauges(6, "test", seed=2, size=96), folder / "test")
    return folder


def made_by_train(gauge_files: Path, name: str, **choices: object) -> Path:
    """A run's folder, made by the command line."""
    with pytest.raises(SystemExit) as stop:
        main(
            ["train", "--data", f"{gauge_files}/train/labels.json", "--val", f"{gauge_files}/test/labels.json"]
            + ["--out", str(gauge_files / name), *quick(**choices)]
        )
    assert not stop.value.code
    return gauge_files / name


@pytest.fixture(scope="module")
def trained(gauge_files: Path) -> Path:
    """A run of lite0, which other processes know too."""
    return made_by_train(gauge_files, "run", backbone="lite0")


@pytest.fixture(scope="module")
def trained_tiny(gauge_files: Path) -> Path:
    """A run of the backbone of `quick`."""
    return made_by_train(gauge_files, "tiny")


@pytest.fixture(scope="module")
def exported(trained: Path, gauge_files: Path) -> Path:
    """Its export, made by the command line once, for it costs seconds."""
    out = trained / "model.onnx"
    with pytest.raises(SystemExit) as stop:
        main(
            ["export", str(trained / "model.safetensors"), "--to", "onnx", "--out", str(out)]
            + ["--data", f"{gauge_files}/test/labels.json"]
        )
    assert not stop.value.code
    return out


def test_the_main_road(capsys, trained, exported, gauge_files, tmp_path):
    labels, model = gauge_files / "test/labels.json", exported
    assert json.loads((trained / "model.onnx.certificate.json").read_text())["within_budget"] is True
    for name in ("model.safetensors", "model.onnx"):
        path = trained / name
        code, out, _ = run(
            capsys, "evaluate", path, "--data", labels, "--json", tmp_path / f"{name}.json", "--worst", 3,
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
        "--json",
        tmp_path / "points.json",
        "--draw",
        tmp_path / "out",
    )
    assert code == 0
    points = json.loads((tmp_path / "points.json").read_text())
    assert points["origin"] == "corner"
    assert points["keypoints"] == ["centre", "needle_tip", "scale_start", "scale_end"]
    assert len(points["images"][str(picture)]) == 2
    assert cv2.imread(str(tmp_path / "out" / f"{picture.stem}_points.jpg")) is not None

    code, out, _ = run(capsys, "predict", model, gauge_files / "test", "--json", "-")
    assert len(json.loads(out)["images"]) == 6
    code, out, _ = run(capsys, "predict", model, picture, "--format", "coco", "--json", "-")
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
    code, _, _ = run(capsys, "predict", model, picture, "--json", tmp_path / "points.json")
    assert code == 0
    (found,) = json.loads((tmp_path / "points.json").read_text())["images"][str(picture)]
    assert all(0 < sigma < 64 for sigma in found["sigma"])

    code, out, _ = run(
        capsys, "evaluate", model, "--data", labels, "--json", tmp_path / "report.json",
        "--reliability", tmp_path / "reliability.png",
    )  # fmt: skip
    assert code == 0
    assert "errors by tenths of sigma" in out
    assert "sigma was fitted on 25 of these objects and is judged by the other 25" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["confidence"]["count"] == 25 * 4
    assert len(report["confidence"]["deciles"]) == 10
    assert cv2.imread(str(tmp_path / "reliability.png")) is not None


def test_an_export_learns_its_own_sigma(capsys, scored, gauge_files, tmp_path):
    out = tmp_path / "m.onnx"
    code, shown, told = run(
        capsys, "export", scored / "model.safetensors", "--data", gauge_files / "fifty/labels.json", "--out", out
    )
    assert code == 0
    assert "sigma fitted on 25 of 50 objects" in told
    assert "child: sigma against error" in shown
    ours, parents = read_spec(out).confidence, read_spec(scored / "model.safetensors").confidence
    np.testing.assert_allclose(ours.factors, parents.factors, rtol=1e-3)
    certificate = json.loads((tmp_path / "m.onnx.certificate.json").read_text())
    parent, child = certificate["confidence"]
    assert child["worst"] == pytest.approx(parent["worst"], abs=1e-3)
    assert child["count"] == 25 * 4

    code, _, told = run(
        capsys, "export", scored / "model.safetensors", "--data", gauge_files / "test/labels.json", "--out", out
    )
    assert code == 0
    assert "is the parent's: " in told
    assert "test/labels.json: 6 labelled objects, and 50 are needed" in told
    assert read_spec(out).confidence == parents


def test_too_few_to_learn_what_scores_mean_is_said(capsys, gauge_files, trained, tmp_path):
    code, _, told = run(
        capsys, "train", "--data", gauge_files / "train/labels.json", "--val", gauge_files / "test/labels.json",
        "--out", tmp_path / "few", *quick(head="heatmap", epochs=1),
    )  # fmt: skip
    assert code == 0
    labels = gauge_files / "test/labels.json"
    assert f"sigma (each point's expected error, px) is not fitted: {labels}: 6 labelled objects, and 50" in told
    assert "are needed; give a larger --val or --val-fraction, or see --folds" in told
    assert read_spec(tmp_path / "few/model.safetensors").confidence is None
    line = refused(
        capsys, "evaluate", tmp_path / "few/model.safetensors", "--data", gauge_files / "test/labels.json",
        "--reliability", tmp_path / "no.png",
    )  # fmt: skip
    assert "reliability: model.safetensors gives no sigma" in line
    assert not (tmp_path / "no.png").exists()


def test_a_benchmark_with_data_sets_accuracy_beside_time(capsys, exported, trained, gauge_files, tmp_path):
    labels, out = gauge_files / "test/labels.json", tmp_path / "bench.json"
    models = [exported, trained / "model.safetensors"]
    code, shown, _ = run(capsys, "benchmark", *models, "--runs", 3, "--data", labels, "--json", out)
    assert code == 0
    result = json.loads(out.read_text())
    want = keylite.evaluate(exported, keylite.read_dataset(labels)).nme.mean
    for model in models:
        facts = result["models"][str(model)]
        assert facts["accuracy"]["nme"] == pytest.approx(want, abs=1e-4)
        assert facts["accuracy"]["count"] == 6
        assert f"{100 * want:.2f}" in shown
        assert set(facts["ms"]) == {"read", "crop", "engine", "decode", "total"}
        for spread in facts["ms"].values():
            assert 0 < spread["p10"] <= spread["median"] <= spread["p90"]
        held = facts["memory"]
        assert held is None or 10 < held["before"] < held["peak"] < 10_000
    chart = cv2.imread(str(tmp_path / "bench.png"))
    assert chart.shape[1] > 600
    assert len(np.unique(chart.reshape(-1, 3), axis=0)) > 20  # more than white


def test_memory_is_that_of_each_file_alone(exported, trained):
    from keylite.evaluation.timing import benchmark

    found = benchmark([exported, trained / "model.safetensors"], runs=3)["models"].values()
    onnx, torch = (facts["memory"] for facts in found)
    if onnx is None:
        pytest.skip("needs a system that says how much memory a process holds")
    assert onnx["before"] == pytest.approx(torch["before"], rel=0.1)
    assert onnx["peak"] < torch["peak"]  # PyTorch itself is larger than ONNX Runtime


BAD_BENCHMARKS = {
    "nothing": ([], "expected model files"),
    "two runs": (["MODEL", "--runs", 2], "at least 3"),
    "a plot of nothing": (["MODEL", "--plot", "p.png"], "--data"),
    "a divisor of nothing": (["MODEL", "--normalize", "box_side"], "--data"),
    "a folder that is a file": (["MODEL", "--json", "MODEL/b.json"], "MODEL is a file"),
    "a file twice": (["MODEL", "MODEL"], "named twice"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_BENCHMARKS.values(), ids=BAD_BENCHMARKS)
def test_bad_benchmarks_are_one_line(arguments, words, capsys, exported):
    told = [str(argument).replace("MODEL", str(exported)) for argument in arguments]
    assert re.search(words.replace("MODEL", exported.name), refused(capsys, "benchmark", *told))


def test_a_folder_of_drawings_may_be_a_link_to_itself_until_it_is_written_to(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert drawing_paths([Path("a.png")], loop) == {Path("a.png"): loop / "a_points.jpg"}


def test_a_plot_takes_no_picture_s_place(capsys, exported, gauge_files):
    picture = next((gauge_files / "test").glob("*.png"))
    line = refused(capsys, "benchmark", exported, "--data", gauge_files / "test/labels.json", "--plot", picture)
    assert f"plot: {picture} is the file of {picture}, too" in line


def test_models_with_other_divisors_need_one_to_compare(capsys, exported, gauge_files, tmp_path):
    other = tmp_path / "other.onnx"
    shutil.copy(exported, other)
    describe(other, msgspec.structs.replace(read_spec(other), normalize="box_side"))
    line = refused(capsys, "benchmark", exported, other, "--data", gauge_files / "test/labels.json")
    assert "box_side" in line
    assert "choose one" in line


@pytest.mark.parametrize("verb", ["train", "evaluate", "export"])
def test_larger_images_are_refused_by_every_verb_that_reads_labels(verb, capsys, trained, gauge_files, tmp_path):
    """All are 96x96, 0.0092 megapixels."""
    labels, out = gauge_files / "test/labels.json", tmp_path / "out"
    verbs = {
        "train": ["train", "--val", labels, "--out", out, *quick()],
        "evaluate": ["evaluate", trained / "model.safetensors", "--json", out],
        "export": ["export", trained / "model.safetensors", "--out", out],
    }
    line = refused(capsys, *verbs[verb], "--data", labels, "--max-megapixels", "0.009")
    assert "6 of 6 images" in line
    assert "image_000000.png" in line
    assert not out.exists()


def test_the_limit_of_megapixels_also_holds_where_images_are_read_again(capsys, trained, gauge_files, tmp_path):
    labels = gauge_files / "test/labels.json"
    model, report = trained / "model.safetensors", tmp_path / "r.json"
    code, _, err = run(
        capsys, "evaluate", model, "--data", labels, "--max-megapixels", "0.0093", "--json", report, "--draw", tmp_path
    )
    assert code == 0, err
    assert json.loads(report.read_text())["count"] == 6


def test_the_pixel_origin_shifts_labels_by_half_a_pixel(capsys, trained, gauge_files, tmp_path):
    shifts = {}
    for origin in ("index", "corner"):
        code, _, err = run(
            capsys, "evaluate", trained / "model.safetensors", "--data", gauge_files / "test/labels.json",
            "--pixel-origin", origin, "--json", tmp_path / f"{origin}.json",
        )  # fmt: skip
        assert code == 0, err
        report = json.loads((tmp_path / f"{origin}.json").read_text())
        shifts[origin] = np.array([[point["x"], point["y"]] for point in report["per_keypoint"].values()])
    np.testing.assert_allclose(shifts["corner"] - shifts["index"], 0.5, atol=1e-6)


def test_reading_flags_reach_training(capsys, gauge_files, tmp_path, monkeypatch):
    seen = {}

    def train(recipe, data, val, out, **options):
        seen.update(options, data=data, val=val)
        return out

    monkeypatch.setattr("keylite.training.train.train", train)
    monkeypatch.setattr("keylite.cli.train._say_what_came", lambda _: None)  # there is no model
    labels, val = gauge_files / "train/labels.json", gauge_files / "test/labels.json"
    code, _, err = run(
        capsys, "train", "--data", labels, "--val", val, "--out", tmp_path, "--pixel-origin", "corner",
        "--max-megapixels", 7, "--skip-bad", "--group", "block:3",
    )  # fmt: skip
    assert code == 0, err
    assert (seen["max_megapixels"], seen["skip_bad"]) == (7, True)
    for part, path in (("data", labels), ("val", val)):
        np.testing.assert_allclose(seen[part].xy, keylite.read_dataset(path).xy - 0.5)
    assert (len(seen["data"].groups), len(seen["val"].groups)) == (3, 2)


def test_a_wrong_command_line_names_the_help_that_knows_better(capsys):
    assert refused(capsys, "trian").endswith("; see keylite --help")
    assert refused(capsys, "train", "--data").endswith("--data requires an argument; see keylite train --help")
    assert refused(capsys, "train", "--out", "x") == "keylite: train: --data is missing; see keylite train --help"


STOPS = {  # whether an epoch was finished; "before": in an older run; flags: what is said
    "before an epoch was finished": (False, [], " before an epoch was finished: there is nothing to resume; the same"),
    "after one": (True, [], "; the same command with --resume goes on from the last whole epoch"),
    "after one of a resumed run": (True, ["--resume"], "; the same command goes on from the last whole epoch"),
    "before anything of a new run": ("before", ["--overwrite"], " before anything was written; the run in "),
    "before another run is refused": ("before", [], " before anything was written; the run in "),
    "before an epoch of a resumed run": ("before", ["--resume"], "; the same command goes on from the last whole"),
    "after one of a new run": (True, ["--overwrite"], "; the same command with --resume in place of --overwrite goes"),
}


def test_a_package_that_is_stopped_while_it_is_imported_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_arguments: object, **_options: object) -> None:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("keylite.cli.app", stopped)
    with pytest.raises(SystemExit) as end:
        main(["info", "model.onnx"])
    assert (end.value.code, capsys.readouterr().err) == (130, "keylite: stopped\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(("finished", "flags", "words"), STOPS.values(), ids=STOPS)
def test_a_stopped_run_says_how_to_go_on_and_exits_130(
    number, finished, flags, words, capsys, gauge_files, tmp_path, monkeypatch
):
    def train(*_, **__):
        if finished is True:
            (tmp_path / "resume.ckpt").write_text("")
        os.kill(os.getpid(), number)
        threading.Event().wait(60)

    if finished == "before":
        (tmp_path / "resume.ckpt").write_text("old")
    monkeypatch.setattr("keylite.training.train.train", train)
    before = signal.getsignal(signal.SIGTERM)
    labels = gauge_files / "train/labels.json"
    code, _, err = run(capsys, "train", "--data", labels, "--out", tmp_path, *quick(), *flags)
    assert code == 130
    assert err.splitlines()[-1].startswith(f"keylite: stopped{words}")
    assert "Traceback" not in err
    assert signal.getsignal(signal.SIGTERM) == before


BAD_PREDICTIONS = {
    "format": (["--format", "yaml"], '"keylite", "coco", "jsonl"'),
    "a folder that cannot be made": (["--json", "FILE/p.json"], "cannot write to this folder"),
    "a folder of drawings that cannot be made": (["--draw", "FILE/drawn"], "cannot write to this folder"),
    "a flag for a file": (["--json", "--draw", "out"], "expected a file name or -, got --draw"),
    "no file": (["--json"], "--json requires an argument"),
    "engine": (["--engine", "tpu"], "tpu"),
    "threads": (["--threads", "0"], "threads: expected 1 to 4096, got 0"),
}


@pytest.mark.parametrize(("flags", "words"), BAD_PREDICTIONS.values(), ids=BAD_PREDICTIONS)
def test_a_bad_flag_of_predict_is_one_line(flags, words, capsys, trained, gauge_files):
    model = trained / "model.safetensors"
    flags = [flag.replace("FILE", str(model)) for flag in flags]
    assert words in refused(capsys, "predict", model, gauge_files / "test", *flags)


def test_a_preset_then_a_recipe_file_then_set_then_flags(capsys, gauge_files, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 9\nlr: 1e-4\nrotate: 5\nsize: 64\nbox: image\npretrained: none\nmirror: off\n")
    code, out, err = run(
        capsys, "train", "--preset", "fast", "--recipe", recipe, "--set", "epochs=8", "--set", "rotate=7", "--epochs", 1,
        "--data", gauge_files / "train/labels.json", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    assert "groups held out" in err  # there was no --val
    written = (tmp_path / "run/recipe.yaml").read_text()
    assert re.search(r"^epochs: 1$", written, re.M)
    assert re.search(r"^rotate: 7.0$", written, re.M)
    assert re.search(r"^lr: 0.0001$", written, re.M)
    assert re.search(r"^size: 64$", written, re.M)
    assert re.search(r"^effort: 0.5$", written, re.M)
    assert re.search(r"^strength: 1.0$", written, re.M)  # of auto, where a range is given


SAME_OR_NOT = {  # what is validated on: whether it is said to be the training data
    "the file itself": ("train/labels.json", True),
    "a copy under another name": ("train/val.json", True),
    "other images": ("test/labels.json", False),
}


@pytest.mark.parametrize(("val", "same"), SAME_OR_NOT.values(), ids=SAME_OR_NOT)
def test_validation_on_the_training_data_is_said(val, same, capsys, gauge_files, tmp_path, monkeypatch):
    shutil.copytree(gauge_files / "train", tmp_path / "train")
    shutil.copytree(gauge_files / "test", tmp_path / "test")
    shutil.copy(tmp_path / "train/labels.json", tmp_path / "train/val.json")
    monkeypatch.setattr("keylite.pytorch.training.fit", lambda *_, **__: None)
    monkeypatch.setattr("keylite.training.train._fit_confidence", lambda *_: None)
    monkeypatch.setattr("keylite.training.train._speak_of_the_end", lambda *_: None)
    monkeypatch.setattr("keylite.cli.train._say_what_came", lambda _: None)  # there is no model
    files = ["--data", tmp_path / "train/labels.json", "--val", tmp_path / val]
    code, _, err = run(capsys, "train", *files, "--out", tmp_path / "run", *quick())
    assert code == 0, err
    warned = [line for line in err.splitlines() if line.startswith("warning: val")]
    line = (
        f"warning: val ({tmp_path / val}) holds the same labelled images as the training data "
        f"({tmp_path / 'train/labels.json'}): its figures will flatter, and no honest choice of epoch is possible; "
        "give other images as --val, or leave --val out"
    )
    assert warned == [line] * same


def test_an_export_over_its_budget_leaves_nothing_and_exits_3(
    capsys, trained, exported, gauge_files, tmp_path, monkeypatch
):
    def damaged(parent, out, spec, calibration=None):
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
        assert run(capsys, "evaluate", exported, "--data", labels, "--json", tmp_path / "r.json", *extra)[0] == 0
        report = json.loads((tmp_path / "r.json").read_text())
        figures.append((report["pixel_error"]["mean"], report["boxes"]))
    assert len({mean for mean, _ in figures}) == 3
    assert [boxes for _, boxes in figures] == ["image", "image, jitter 0.1 seed 0", "file"]


def _labels(gauge_files: Path, tmp_path: Path, change) -> Path:
    """A copy of the training set with changed labels."""
    folder = tmp_path / "data"
    shutil.copytree(gauge_files / "train", folder)
    labels = json.loads((folder / "labels.json").read_text())
    change(labels, folder)
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder / "labels.json"


def _annotation(**values):
    return lambda labels, folder: labels["annotations"][2].update(values)


def _file(name: str, data: bytes):
    return lambda labels, folder: (folder / labels["images"][1]["file_name"]).write_bytes(data)


def _truncated(labels, folder):
    path = folder / labels["images"][1]["file_name"]
    path.write_bytes(path.read_bytes()[:-400])


BAD_DATA = {
    "wrong number of values": (_annotation(keypoints=[1, 2, 2]), "keypoints"),
    "box of negative width": (_annotation(bbox=[5, 5, -3, 10]), "box"),
    "box in fractions": (_annotation(bbox=[0.1, 0.2, 0.5, 0.6]), "looks like fractions of the image"),
    "box outside the image": (_annotation(bbox=[500, 500, 10, 10]), "outside"),
    "unknown image id": (_annotation(image_id=999), "999"),
    "duplicate annotation ids": (_annotation(id=1), "id is used twice"),
    "nothing labelled at all": (lambda labels, folder: labels.update(annotations=[]), "empty"),
    "no keypoints in any annotation": (
        lambda labels, folder: [a.pop("keypoints") for a in labels["annotations"]],
        "keypoints",
    ),
    "not COCO": (lambda labels, folder: labels.clear(), "COCO"),
    "zero-byte image": (_file("", b""), "empty"),
    "not an image": (_file("", b"hello, this is text"), "not an image"),
    "truncated image": (_truncated, "truncated|cut short|damaged"),
}


@pytest.mark.parametrize(("change", "words"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_is_one_line_and_nothing_is_written(change, words, capsys, gauge_files, tmp_path):
    labels = _labels(gauge_files, tmp_path, change)
    line = refused(capsys, "train", "--data", labels, "--out", tmp_path / "run", *quick())
    assert re.search(words, line), line
    assert not (tmp_path / "run").exists()


def test_all_bad_images_are_named_at_once_and_can_be_skipped(capsys, gauge_files, tmp_path):
    def spoil(labels, folder):
        for image in labels["images"][:2]:
            (folder / image["file_name"]).write_bytes(b"")

    labels = _labels(gauge_files, tmp_path, spoil)
    command = [
        "train",
        "--data",
        labels,
        "--val",
        gauge_files / "test/labels.json",
        "--out",
        tmp_path / "run",
        *quick(),
    ]
    line = refused(capsys, *command)
    assert "2 of 8 images" in line
    assert "image_000000.png" in line
    assert "image_000001.png" in line
    assert "--skip-bad" in line
    code, _, err = run(capsys, *command, "--skip-bad")
    assert code == 0, err
    assert "2 of 8 images" in err
    assert json.loads((tmp_path / "run/data.json").read_text())["train"]["count"] == 6


BAD_CHOICES = {
    "wrong type": ({"epochs": "many"}, "epochs: expected auto or int"),
    "impossible value": ({"lr": "-1"}, "lr: expected auto or float > 0"),
    "unknown loss": ({"loss": "l7"}, "one of mse, mae"),
    "missing weights": ({"pretrained": "none.safetensors"}, "none.safetensors"),
    "unknown timm model": ({"backbone": "timm:nothing"}, "timm:nothing"),
    "unknown device": ({"device": "toaster"}, "toaster"),
    "unknown framework": ({"framework": "jax"}, "framework: expected one of pytorch, tensorflow, got 'jax'"),
    "mirror of an unknown name": ({"mirror": "centre:nose"}, "nose"),
    "normaliser of an unknown keypoint": ({"normalize": "0,9"}, "9"),
    "unknown flag": ({"epocs": "3"}, "--epochs"),
    "unknown recipe key": ({"set": "epocs=3"}, "did you mean epochs"),
    "set without equals": ({"set": "epochs"}, "name=value"),
    "unknown preset": ({"preset": "best"}, "preset: expected one of fast, balanced, accurate, got 'best'"),
    "missing recipe file": ({"recipe": "none.yaml"}, "none.yaml"),
}


def test_a_profile_says_where_a_step_s_time_goes(capsys, gauge_files, tmp_path):
    data = ["--data", gauge_files / "train/labels.json", "--val", gauge_files / "test/labels.json"]
    code, _, err = run(capsys, "train", *data, "--out", tmp_path, *quick(epochs=3), "--profile")
    assert code == 0, err
    found = json.loads((tmp_path / "profile.json").read_text())
    assert list(found["shares"]) == ["data", "forward", "backward", "optimizer", "logging"]
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert min(found["shares"].values()) >= 0
    assert (found["steps"], found["step_ms"] > 0, found["epoch_end_ms"] > 0) == (1, True, True)  # 5 of 6 warm up
    assert "profile of 1 steps: " in err
    line = refused(capsys, "train", *data, "--out", tmp_path / "folds", *quick(), "--profile", "--folds", 2)
    assert "profile: measures one run" in line or "val: " in line


@pytest.mark.parametrize(("choices", "words"), BAD_CHOICES.values(), ids=BAD_CHOICES)
def test_a_bad_choice_is_one_line_and_nothing_is_written(choices, words, capsys, gauge_files, tmp_path):
    data = ["--data", gauge_files / "train/labels.json", "--val", gauge_files / "test/labels.json"]
    line = refused(capsys, "train", *data, "--out", tmp_path / "run", *quick(**choices))
    assert words in line
    assert not (tmp_path / "run").exists()


def test_no_network_for_imagenet_weights_is_one_line(capsys, gauge_files, tmp_path, monkeypatch):
    monkeypatch.setattr("keylite.training.pretrained.require", lambda *_: _NoHub)
    data = [
        "--data",
        gauge_files / "train/labels.json",
        "--out",
        tmp_path / "run",
        *quick(backbone="lite0", pretrained="imagenet"),
    ]
    line = refused(capsys, "train", *data)
    assert "tf_efficientnet_lite0" in line
    assert "--pretrained none" in line
    assert not (tmp_path / "run").exists()


class _NoHub:
    """A hub client with an empty cache and no network."""

    class LocalEntryNotFoundError(Exception):
        pass

    @staticmethod
    def hf_hub_url(*_):
        return "https://hub"

    @staticmethod
    def get_hf_file_metadata(*_, **__):
        raise ConnectionError("no route")

    @staticmethod
    def hf_hub_download(*_, **__):
        raise _NoHub.LocalEntryNotFoundError


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
            sealed(path.read_bytes().replace(f'"format":{FORMAT},'.encode(), b'"format":7,'))
        ),
        "format 7",
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

    labels = _labels(gauge_files, tmp_path, drop)
    assert "4 keypoints" in refused(capsys, "evaluate", exported, "--data", labels)


@pytest.fixture
def spoilt(gauge_files: Path, tmp_path: Path) -> Path:
    """Six pictures of gauges, and three files that are none, the first and the last by name among them."""
    folder = tmp_path / "images"
    shutil.copytree(gauge_files / "test", folder)
    (folder / "a.jpg").write_bytes(b"")
    (folder / "gauge_00002_.png").write_bytes(b"text")
    (folder / "z.png").write_bytes(b"text")
    return folder


FORMATS = {"keylite": "p.json", "coco": "p.json", "jsonl": "p.jsonl"}


@pytest.mark.parametrize("form", FORMATS)
def test_prediction_of_bad_images_names_them_all(form, capsys, exported, spoilt, tmp_path):
    """And nothing is written, on standard output neither."""
    asked = ["predict", exported, spoilt, "--format", form]
    before = sorted(tmp_path.iterdir())
    out = ["--json", tmp_path / "new" / FORMATS[form], "--draw", tmp_path / "deep" / "drawn"]
    for flags in (out, []):
        line = refused(capsys, *asked, *flags)
        assert "3 of 9 images cannot be used" in line
        assert all(name in line for name in ("a.jpg", "gauge_00002_.png", "z.png", "--skip-bad"))
        made = [path for path in tmp_path.iterdir() if path not in before]
        assert [list(path.iterdir()) for path in made] in ([], [[]]), "a folder for the points, at most"
    assert not (tmp_path / "deep").exists()
    code, said, err = run(capsys, *asked, *out, "--skip-bad")
    assert code == 0
    assert "6 objects in 6 images" in said
    assert "skipped: 3 of 9" in err and "z.png" in err
    assert len(list((tmp_path / "deep/drawn").iterdir())) == 6
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FORMATS[form]]
    code, said, _ = run(capsys, *asked, "--skip-bad")
    assert code == 0
    found = json.loads(said)["images"] if form != "jsonl" else said.splitlines()
    assert len(found) == 6


def test_little_is_looked_for_once_an_image_is_bad(capsys, exported, gauge_files, spoilt, monkeypatch):
    """What was taken before it was known to be bad; the rest is read to be named."""
    looked, run_one = [], keylite.Predictor.run
    monkeypatch.setattr(keylite.Predictor, "run", lambda *given: looked.append(len(given[1])) or run_one(*given))
    pictures = [spoilt / "a.jpg", *[next((gauge_files / "test").glob("*.png"))] * 300, spoilt / "z.png"]
    (spoilt / "list.txt").write_text("\n".join(map(str, pictures)))
    line = refused(capsys, "predict", exported, spoilt / "list.txt")
    assert "a.jpg" in line and "z.png" in line
    assert 0 < sum(looked) <= 3 * 32


def test_lines_are_the_same_points(capsys, exported, gauge_files, tmp_path):
    pictures = sorted((gauge_files / "test").glob("*.png"))
    listing, boxes = tmp_path / "pictures.txt", tmp_path / "boxes.json"
    listing.write_text("\n".join(map(str, pictures)) + "\n\n")
    boxes.write_text(json.dumps({path.name: [[0, 0, 96, 96]] * number for number, path in enumerate(pictures)}))
    code, out, _ = run(capsys, "predict", exported, gauge_files / "test", "--boxes", boxes)
    assert code == 0
    whole = json.loads(out)
    wanted = [
        {"image": name, "width": 96, "height": 96, "model": "model.onnx", "origin": "corner"}
        | {"keypoints": whole["keypoints"], "objects": objects}
        for name, objects in whole["images"].items()
    ]
    assert [len(line["objects"]) for line in wanted] == list(range(6))
    asked = ["predict", exported, listing, "--boxes", boxes, "--format", "jsonl", "--json"]
    for flags in (["-"], ["-", "--skip-bad"]):
        code, out, _ = run(capsys, *asked, *flags)
        assert code == 0
        assert [json.loads(line) for line in out.splitlines()] == wanted
    code, out, _ = run(capsys, *asked, tmp_path / "p.jsonl")
    assert f"15 objects in 6 images: {tmp_path / 'p.jsonl'}" in out
    assert [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()] == wanted


BAD_LISTS = {
    "empty": (b"\n \n", "expected the path of an image a line, got none"),
    "no text": (b"\xff\xfe\0", "expected a text file in UTF-8"),
    "a path that leads nowhere": (b"nowhere.png\n", "nowhere.png: no such image file"),
}


@pytest.mark.parametrize(("data", "words"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_a_bad_list_of_images_is_one_line(data, words, capsys, exported, tmp_path):
    (tmp_path / "list.txt").write_bytes(data)
    assert words in refused(capsys, "predict", exported, tmp_path / "list.txt")


BAD_BOXES = {
    "not JSON": ("boxes", "expected JSON"),
    "a list": ("[[1, 2, 3, 4]]", "expected JSON"),
    "a single box": ('{"NAME": [1, 2, 3, 4]}', "a single box is \\[\\[x0, y0, x1, y1\\]\\]"),
    "turned around": ('{"NAME": [[9, 9, 1, 1]]}', "x0 < x1"),
    "no entry": ('{"other.png": []}', "boxes.json: no entry for 1 of 1 images: .*; the names in it are other.png"),
    "beyond a float": ('{"NAME": [[0, 0, 1e300, 1e300]]}', "reaches beyond 16777216 px"),
    "51 GB": ('{"NAME": [[0, 0, 10000000, 10000000]]}', "is 1.042e\\+05 times as long as its 96x96 image"),
    "slow": ('{"NAME": [[0, 0, 1000000, 1000000]]}', "times as long as its 96x96 image, expected at most 20"),
    "off the picture": ('{"NAME": [[200, 0, 300, 50]]}', "lies outside its 96x96 image"),
    "fractions": ('{"NAME": [[0.1, 0.2, 0.7, 0.8]]}', "looks like fractions of the image: multiply its edges by"),
}


@pytest.mark.parametrize(("text", "words"), BAD_BOXES.values(), ids=BAD_BOXES)
def test_bad_boxes_are_one_line(text, words, capsys, exported, gauge_files, tmp_path):
    picture = sorted((gauge_files / "test").glob("*.png"))[0]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(text.replace("NAME", picture.name))
    assert re.search(words, refused(capsys, "predict", exported, picture, "--boxes", boxes))


def test_a_run_that_is_there_is_not_overwritten_unasked(capsys, trained, gauge_files):
    before = (trained / "model.safetensors").read_bytes()
    data = ["--data", gauge_files / "train/labels.json", "--val", gauge_files / "test/labels.json"]
    assert "--resume" in refused(capsys, "train", *data, "--out", trained, *quick())
    assert "--out" in refused(capsys, "train", *data, "--out", trained, *quick(epochs=3), "--resume")
    assert (trained / "model.safetensors").read_bytes() == before


def test_fine_tuning_from_a_model_file(capsys, trained_tiny, gauge_files, tmp_path):
    data = ["--data", gauge_files / "train/labels.json", "--val", gauge_files / "test/labels.json"]
    code, _, err = run(
        capsys, "train", *data, "--out", tmp_path / "run", *quick(pretrained=trained_tiny / "model.safetensors")
    )
    assert code == 0
    assert "backbone and head" in err
    made = read_spec(tmp_path / "run/model.safetensors").provenance
    assert "model.safetensors sha256" in made.pretrained
    assert str(trained_tiny) not in encode_spec(
        read_spec(tmp_path / "run/model.safetensors")
    )  # no path of this machine


@pytest.mark.parametrize(("head", "size"), [("heatmap", "64"), ("simcc", "96x64"), ("rle", "64")])
def test_another_head_from_a_regression_model(head, size, capsys, trained_tiny, gauge_files, tmp_path):
    data = ["--data", gauge_files / "train/labels.json", "--val", gauge_files / "test/labels.json"]
    model = tmp_path / "run/model.safetensors"
    choices = quick(head=head, size=size, epochs=1, pretrained=trained_tiny / "model.safetensors")
    code, _, err = run(capsys, "train", *data, "--out", tmp_path / "run", *choices)
    assert code == 0, err
    assert "backbone alone, its head is another" in err
    code, out, _ = run(capsys, "info", model)
    assert f"{head} head" in out
    code, out, _ = run(capsys, "predict", model, gauge_files / "test", "--json", "-")
    (points, *_) = json.loads(out)["images"].values()
    assert all(0 < score < 1 for score in points[0]["score"])


def test_the_gauges_are_written_and_read_back(capsys, tmp_path):
    code, out, _ = run(capsys, "gauges", tmp_path / "g", "--count", 3, "--family", "test")
    assert code == 0
    data = keylite.read_dataset(tmp_path / "g/labels.json")
    made = keylite.gauges(3, "test")
    np.testing.assert_allclose(data.xy, made.xy, atol=1e-9)
    assert msgspec.structs.asdict(data.skeleton)["names"] == made.skeleton.names


# ---- --framework tensorflow


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


@pytest.fixture
def tensorflow(quick_graphs):
    """TensorFlow, where it is installed."""
    return pytest.importorskip("tensorflow", reason="needs keylite[tensorflow]")


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
            capsys, "evaluate", out / name, "--data", labels, "--engine", engine, "--json", tmp_path / f"{engine}.json"
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
    code, _, err = run(capsys, "evaluate", out / "model.safetensors", "--data", labels, "--json", tmp_path / "own.json")
    assert (
        json.loads((tmp_path / "own.json").read_text()) == reports["tensorflow"]
    )  # what made the file, to the last digit


REFUSED_BY_TENSORFLOW = {
    "bf16": ({"precision": "bf16"}, "framework tensorflow trains in 32, got bf16"),
    "16": ({"precision": "16"}, "framework tensorflow trains in 32, got 16"),
    "a backbone of timm": ({"backbone": "timm:mobilenetv3_small_050"}, "timm:NAME needs --framework pytorch"),
    "a checkpoint of another backbone": ({"backbone": "lite1", "pretrained": "TRAINED"}, "weights do not fit"),
}


@pytest.mark.parametrize(("choices", "words"), REFUSED_BY_TENSORFLOW.values(), ids=REFUSED_BY_TENSORFLOW)
def test_what_tensorflow_cannot_do_is_one_line(tensorflow, choices, words, capsys, trained, gauge_files, tmp_path):
    labels = gauge_files / "train/labels.json"
    files = {"TRAINED": trained / "model.safetensors"}
    made = quick(framework="tensorflow", **{name: files.get(value, value) for name, value in choices.items()})
    line = refused(capsys, "train", "--data", labels, "--val", labels, "--out", tmp_path / "run", *made)
    assert words in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_damaged_checkpoint_to_start_from_is_one_line(framework, capsys, trained, gauge_files, tmp_path):
    pytest.importorskip(f"keylite.{framework}.training", reason=f"needs keylite[{framework}]")
    damaged, labels = tmp_path / "damaged.safetensors", gauge_files / "train/labels.json"
    damaged.write_bytes((trained / "model.safetensors").read_bytes()[:-1000])
    made = quick(framework=framework, pretrained=damaged)
    line = refused(capsys, "train", "--data", labels, "--val", labels, "--out", tmp_path / "run", *made)
    assert "damaged.safetensors: expected" in line
    assert not (tmp_path / "run").exists()


NO_TENSORFLOW = {  # what cannot be imported, environment, words
    "not installed": (("tensorflow",), {}, "pip install 'keylite[tensorflow-cpu]'"),
    "another backend": (("torch",), {"KERAS_BACKEND": "torch"}, "KERAS_BACKEND: expected tensorflow, got 'torch'"),
}


@pytest.mark.parametrize(("missing", "environment", "words"), NO_TENSORFLOW.values(), ids=NO_TENSORFLOW)
def test_without_tensorflow_training_is_refused_in_one_line(missing, environment, words, python, gauge_files, tmp_path):
    labels = gauge_files / "train/labels.json"
    choices = [
        "train",
        "--data",
        str(labels),
        "--out",
        str(tmp_path / "run"),
        *quick(backbone="lite0", framework="tensorflow"),
    ]
    code = f"""
import contextlib, io
from keylite.cli import main
with contextlib.redirect_stderr(io.StringIO()) as said:
    try:
        main({choices!r})
    except SystemExit as stop:
        print(stop.code)
print(said.getvalue().splitlines()[-1])
"""
    code, line = python(code, missing=missing, **environment).splitlines()
    assert code == "2"
    assert line.startswith("keylite: ")
    assert words in line
    assert not (tmp_path / "run").exists()


# ---- exports in other formats and precisions: the files are the session's, in place of new ones


@pytest.fixture(scope="module")
def colour_files(make_colours, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """val/, train/ and few/ of patches of colour with labels.json."""
    folder = tmp_path_factory.mktemp("colours")
    for name, count in (("val", 20), ("train", 24), ("few", 15)):
        write_dataset(make_colours(count, count), folder / name)
    return folder


@pytest.fixture
def stocked(exported_finder, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Exporters that give the int8 file of their format, whatever the precision; (format, precision, images) asked."""
    asked: list[tuple] = []
    tensorflow_exporting = pytest.importorskip("keylite.tensorflow.exporting", reason="needs keylite[tensorflow-cpu]")

    def stock(to, module):
        ready = exported_finder(to, "int8")

        def export(parent, out, spec, calibration=None):
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
        "expected at least 16 objects, got 8",
    ),
    "images of another kind": (
        ["--precision", "int8", "--calibration", "GAUGES"],
        "labels.json has 4 keypoints",
    ),
    "no such images": (["--precision", "int8", "--calibration", "none.json"], "none.json"),
    "images that nothing uses": (["--calibration", "TRAIN"], "calibration: fp32 has no use for it"),
    "a precision of another format": (["--precision", "fp16"], "precision: onnx is made in fp32, int8, got 'fp16'"),
    "an unknown precision": (["--precision", "int4"], "fp32, int8, got 'int4'"),
    "an unknown format": (["--to", "tensorrt"], "to: expected one of onnx, litert, got 'tensorrt'"),
    "another format's suffix": (
        ["--to", "litert"],
        "expected a name that ends in .tflite for litert, got 'm.onnx', or choose --to onnx",
    ),
    "no budget": (["--budget", "0"], "budget: expected a number above 0, got 0.0"),
    "no budget for the NME": (["--budget-nme", "-1"], "budget_nme: expected a number above 0, got -1.0"),
    "all without images": (["--to", "all"], "calibration: all precisions include int8"),
    "golden vectors of all": (
        ["--to", "all", "--calibration", "TRAIN", "--golden", "GOLDEN"],
        "golden: needs one exported file",
    ),
    "golden vectors where a file is": (["--golden", "FILE"], "cannot write to this folder"),
    "a diagnosis in place of a model": (["--diagnose"], "expected a name that ends in .md, got 'm.onnx'"),
    "all from too few": (["--to", "all", "--calibration", "FEW"], "expected at least 16 objects, got 15"),
    "all with no budget": (["--to", "all", "--calibration", "TRAIN", "--budget", "nan"], "budget: expected a number"),
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


def test_an_export_starts_from_a_checkpoint(stocked, capsys, exported_finder, colour_files, tmp_path):
    data = ["--data", colour_files / "val/labels.json", "--out", tmp_path / "m.onnx"]
    line = refused(capsys, "export", exported_finder("onnx", "int8"), *data)
    assert "exports start from a .safetensors model file" in line
    assert list(tmp_path.iterdir()) == []


def test_an_int8_export_with_golden_vectors(stocked, capsys, finder_file, colour_files, tmp_path):
    labels, out, golden = colour_files / "val/labels.json", tmp_path / "new" / "m.tflite", tmp_path / "golden"
    code, said, err = run(
        capsys, "export", finder_file, "--to", "litert", "--precision", "int8", "--data", labels, "--out", out,
        "--calibration", colour_files / "train/labels.json", "--calibration-count", 18, "--seed", 5,
        "--budget", 9, "--budget-nme", 20, "--golden", golden,
    )  # fmt: skip
    assert code == 0, err
    assert stocked == [("litert", "int8", 18), ("onnx", "fp32", None)], "the file, and what its time is held to"
    assert "all points" in said and "budget 9 on p95" in " ".join(said.split())
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
    labels = colour_files / "val/labels.json"
    code, said, err = run(
        capsys, "export", finder_file, "--precision", "int8", "--calibration", colour_files / "train/labels.json",
        "--data", labels, "--out", tmp_path / "m.onnx", "--budget", 60, "--budget-nme", 1e-6, "--golden", tmp_path / "g",
    )  # fmt: skip
    assert code == 3, (said, err)
    assert "all points" in said
    assert "NME rose by" in err and "nothing was written" in err
    assert list(tmp_path.iterdir()) == []


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
        patch.setattr("keylite.exporting.target.DRIFT_BUDGET", monkeypatched)
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


# ---- evaluate --parent


def test_a_child_is_held_to_its_parent_again(capsys, exported_finder, finder_file, colour_files, tmp_path):
    child, labels = exported_finder("litert", "int8"), colour_files / "val/labels.json"
    command = ["evaluate", child, "--parent", finder_file, "--data", labels]
    code, said, err = run(capsys, *command, "--budget", 9, "--json", tmp_path / "c.json")
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
    assert "budget 0.5 on p95" in " ".join(said.split()), "int8's at 64 px"
    assert re.search(r"keylite: p95 drift .* is over the budget of 0.5 px", err)
    code, _, err = run(capsys, *command, "--budget", 9, "--budget-nme", "1e-9")
    assert (code == 3) == (certificate["nme_child"] > certificate["nme_parent"] * (1 + 1e-9))


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


@pytest.mark.parametrize("flag", ["--normalize", "--engine", "--threads", "--seed", "--worst", "--draw", "--sigmas"])
def test_flags_without_effect_on_a_comparison_are_refused(flag, capsys, exported_finder, finder_file, colour_files):
    value = {"--normalize": "box_side", "--engine": "onnx", "--sigmas": "0.1"}.get(flag, "3")
    told = ["--parent", finder_file, "--data", colour_files / "val/labels.json", flag, value]
    assert f"{flag}: has no effect with --parent" in refused(capsys, "evaluate", exported_finder("onnx", "int8"), *told)


def test_golden_vectors_of_a_diagnosis_are_refused(capsys, finder_file, colour_files, tmp_path):
    told = ["--data", colour_files / "val/labels.json", "--diagnose", "--golden", tmp_path / "golden"]
    assert "golden: needs one exported file" in refused(capsys, "export", finder_file, *told)
    assert list(tmp_path.iterdir()) == []


def test_budgets_without_a_parent_are_refused(capsys, finder_file, colour_files):
    for flag in ("--budget", "--budget-nme"):
        line = refused(capsys, "evaluate", finder_file, "--data", colour_files / "val/labels.json", flag, "1")
        assert "--parent" in line


def test_what_an_evaluation_cannot_draw_leaves_no_report(capsys, finder_file, colour_files, tmp_path, monkeypatch):
    told = ["evaluate", finder_file, "--data", colour_files / "val/labels.json", "--json", tmp_path / "r.json"]
    with monkeypatch.context() as patch:
        patch.setattr("keylite.cli.shared.Reading.dataset", lambda *_: pytest.fail("images were read"))
        for more, words in (
            (["--draw", tmp_path / "w", "--worst", -1], "worst: expected a whole number of at least 0, got -1"),
            (["--worst", 3], "worst: says how many objects to draw; give a folder for them as --draw"),
            (["--sigmas", "nan,1,1,1"], "sigmas: expected finite numbers above 0, got nan|not installed"),
            (["--sigmas", "1"], "sigmas: expected 4 values, one a keypoint, got 1|not installed"),
        ):
            assert re.search(words, refused(capsys, *told, *more))
        there = importlib.util.find_spec
        patch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else there(name))
        assert "reliability: matplotlib is not" in refused(capsys, *told, "--reliability", tmp_path / "r.png")
    monkeypatch.setattr(
        "keylite.pictures.draw.draw_worst", lambda *_: exec("raise ValueError('worst.jpg is the file of')")
    )
    assert "worst.jpg is" in refused(capsys, *told, "--draw", tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


# ---- a .tflite without a description


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
        code, said, err = run(capsys, "predict", model, pictures, "--json", "-", *more)
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


def test_a_text_that_is_no_list_of_images_is_called_so(capsys, onnx_file, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("hello\nworld\n")
    line = refused(capsys, "predict", onnx_file, notes)
    assert line.endswith("taken for a list of images, a path a line, and none of its 2 lines leads to a file: 'hello'")
    notes.write_text("a\0.jpg\n")
    assert "got one with a NUL character in line 1" in refused(capsys, "predict", onnx_file, notes)


def test_a_picture_given_twice_has_its_points_once_in_json_and_a_line_each_time(
    capsys, onnx_file, gauge_files, tmp_path
):
    picture = sorted((gauge_files / "test").glob("*.png"))[0]
    for form, count in (("keylite", 1), ("jsonl", 2)):
        out = tmp_path / form
        code, said, err = run(capsys, "predict", onnx_file, picture, picture, "--format", form, "--json", out)
        assert code == 0, err
        assert said.startswith("1 object in 1 image: " if count == 1 else "2 objects in 2 images: ")
        text = out.read_text()
        assert len(json.loads(text)["images"] if count == 1 else text.splitlines()) == count
