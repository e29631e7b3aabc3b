"""`keylite train`: what it prints, what it writes, and one clear line with exit code 2."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading

import numpy as np
import pytest
from verbs import labels_with, quick, refused, run

import keylite
from keylite.cli import main
from keylite.data.dataset import Dataset
from keylite.runtime.modelfile import read_spec, write_safetensors
from keylite.runtime.spec import encode_spec

load_file = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]").load_file
save = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]").save
onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
exporting = pytest.importorskip("keylite.pytorch.exporting", reason="needs keylite[pytorch]")


def test_too_few_to_learn_what_scores_mean_is_said(capsys, gauge_files, trained, tmp_path):
    code, _, told = run(
        capsys, "train", "--data", gauge_files / "train/labels.json", "--val", gauge_files / "test/labels.json",
        "--out", tmp_path / "few", *quick(head="heatmap", epochs=1),
    )  # fmt: skip
    assert code == 0
    labels = gauge_files / "test/labels.json"
    assert f"sigma (each point's expected error, px) is not fitted: {labels}: 6 labelled objects, and 50" in told
    assert "are needed; give a larger --val or --val-fraction, or use --folds, which fits it on all objects" in told
    assert read_spec(tmp_path / "few/model.safetensors").confidence is None
    line = refused(
        capsys, "evaluate", tmp_path / "few/model.safetensors", "--data", gauge_files / "test/labels.json",
        "--reliability", tmp_path / "no.png",
    )  # fmt: skip
    assert "--reliability: model.safetensors gives no sigma" in line
    assert not (tmp_path / "no.png").exists()


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


def test_a_preset_then_a_recipe_file_then_set_then_flags(capsys, gauge_files, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 9\nlr: 1e-4\nrotate: 5\nsize: 64\nbox: image\npretrained: none\nmirror: off\n")
    code, out, err = run(
        capsys, "train", "--preset", "fast", "--recipe", recipe, "--set", "epochs=8", "--set", "rotate=7", "--epochs", 1,
        "--data", gauge_files / "train/labels.json", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    assert "groups are held out" in err  # there was no --val
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
    monkeypatch.setattr("keylite.training.train._warn_of_the_end", lambda *_: None)
    monkeypatch.setattr("keylite.cli.train._say_what_came", lambda _: None)  # there is no model
    files = ["--data", tmp_path / "train/labels.json", "--val", tmp_path / val]
    code, _, err = run(capsys, "train", *files, "--out", tmp_path / "run", *quick())
    assert code == 0, err
    warned = [line for line in err.splitlines() if line.startswith("warning: val")]
    line = (
        f"warning: val ({tmp_path / val}) holds the same labelled images as the training data "
        f"({tmp_path / 'train/labels.json'}): its figures will flatter, and the best epoch cannot be chosen by them; "
        "give other images as --val, or leave --val out"
    )
    assert warned == [line] * same


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
    labels = labels_with(gauge_files, tmp_path, change)
    line = refused(capsys, "train", "--data", labels, "--out", tmp_path / "run", *quick())
    assert re.search(words, line), line
    assert not (tmp_path / "run").exists()


def test_all_bad_images_are_named_at_once_and_can_be_skipped(capsys, gauge_files, tmp_path):
    def spoil(labels, folder):
        for image in labels["images"][:2]:
            (folder / image["file_name"]).write_bytes(b"")

    labels = labels_with(gauge_files, tmp_path, spoil)
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
    "a missing teacher": ({"teacher": "none.safetensors"}, "teacher: none.safetensors: no such model file"),
    "a teacher of another format": ({"teacher": "t.onnx"}, "expected a .safetensors model file, or none, got 't.onnx'"),
    "a teacher's weight above 1": ({"teacher_weight": 2}, "teacher_weight: expected float from 0 to 1"),
    "unknown timm model": ({"backbone": "timm:nothing"}, "timm:nothing"),
    "unknown device": ({"device": "toaster"}, "toaster"),
    "unknown framework": ({"framework": "jax"}, "framework: expected one of pytorch, tensorflow, got 'jax'"),
    "mirror of an unknown name": ({"mirror": "centre:nose"}, "nose"),
    "normaliser of an unknown keypoint": ({"normalize": "0,9"}, "9"),
    "unknown flag": ({"epocs": "3"}, "--epochs"),
    "unknown recipe key": ({"set": "epocs=3"}, "did you mean epochs"),
    "set without equals": ({"set": "epochs"}, "name=value"),
    "unknown preset": ({"preset": "best"}, "preset: expected one of tiny, small, fast, balanced, accurate, got 'best'"),
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
    assert "--profile: measures one run" in line or "--val: " in line


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


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_student_learns_from_a_model_file(framework, capsys, trained_tiny, gauge_files, tmp_path):
    pytest.importorskip(f"keylite.{framework}.training", reason=f"needs keylite[{framework}]")
    data = ["--data", gauge_files / "train/labels.json", "--val", gauge_files / "test/labels.json"]
    teacher = trained_tiny / "model.safetensors"
    choices = {"framework": framework, "head": "heatmap", "size": 96, "stages": 4, "epochs": 1, "freeze_epochs": 1}
    choices |= {"teacher": teacher, "teacher-weight": 0.7}
    code, _, err = run(capsys, "train", *data, "--out", tmp_path / "run", *quick(**choices))
    assert code == 0, err
    assert f"taught by {teacher} (tiny, regression head, 64x64 px; trained on train/labels.json)" in err
    model = tmp_path / "run/model.safetensors"
    assert str(trained_tiny) not in encode_spec(read_spec(model))  # no path of this machine
    assert re.search(r"taught by +model\.safetensors sha256 [0-9a-f]{64}", run(capsys, "info", model)[1])
    line = refused(capsys, "train", *data, "--out", tmp_path / "other", *quick(**choices | {"box": "annotation"}))
    assert "expected crops as the student's (box annotation, padding 0.25), got box image" in line
    assert not (tmp_path / "other").exists()


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
    code, out, _ = run(capsys, "predict", model, gauge_files / "test", "--out", "-")
    (points, *_) = json.loads(out)["images"].values()
    assert all(0 < score < 1 for score in points[0]["score"])


REFUSED_BY_TENSORFLOW = {
    "bf16": ({"precision": "bf16"}, "framework tensorflow trains in 32, got bf16"),
    "16": ({"precision": "16"}, "framework tensorflow trains in 32, got 16"),
    "a backbone of timm": ({"backbone": "timm:mobilenetv3_small_050"}, "timm:NAME needs --framework pytorch"),
    "a checkpoint of another backbone": (
        {"backbone": "lite1", "pretrained": "TRAINED"},
        r"--pretrained: .*model\.safetensors: weights do not fit",
    ),
}


@pytest.mark.parametrize(("choices", "words"), REFUSED_BY_TENSORFLOW.values(), ids=REFUSED_BY_TENSORFLOW)
def test_what_tensorflow_cannot_do_is_one_line(tensorflow, choices, words, capsys, trained, gauge_files, tmp_path):
    labels = gauge_files / "train/labels.json"
    files = {"TRAINED": trained / "model.safetensors"}
    made = quick(framework="tensorflow", **{name: files.get(value, value) for name, value in choices.items()})
    line = refused(capsys, "train", "--data", labels, "--val", labels, "--out", tmp_path / "run", *made)
    assert re.search(words, line)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test in which training reads the pictures of its data."""

    def read(*_, **__):
        pytest.fail("what is wrong was known before pictures were read")

    monkeypatch.setattr(Dataset, "check_images", read)


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_teacher_whose_weights_do_not_fit_its_description_is_one_line(
    framework, capsys, trained_tiny, gauge_files, tmp_path, no_pictures
):
    pytest.importorskip(f"keylite.{framework}.training", reason=f"needs keylite[{framework}]")
    whole, path = trained_tiny / "model.safetensors", tmp_path / "teacher.safetensors"
    labels = gauge_files / "train/labels.json"
    tensors, spec = load_file(whole), read_spec(whole)
    tensors["head.points.weight"] = tensors["head.points.weight"][:, :-1]
    tensors.pop("conv_stem.weight")
    write_safetensors(path, save(tensors), spec)
    made = quick(framework=framework, teacher=path)
    line = refused(capsys, "train", "--data", labels, "--val", labels, "--out", tmp_path / "run", *made)
    words = "weights do not fit this network: missing conv_stem.weight; head.points.weight is (8, "
    assert line.startswith(f"keylite: --teacher: {path}: {words}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_damaged_checkpoint_to_start_from_is_one_line(framework, capsys, trained, gauge_files, tmp_path, no_pictures):
    pytest.importorskip(f"keylite.{framework}.training", reason=f"needs keylite[{framework}]")
    damaged, labels = tmp_path / "damaged.safetensors", gauge_files / "train/labels.json"
    damaged.write_bytes((trained / "model.safetensors").read_bytes()[:-1000])
    made = quick(framework=framework, pretrained=damaged)
    line = refused(capsys, "train", "--data", labels, "--val", labels, "--out", tmp_path / "run", *made)
    assert line.startswith(f"keylite: --pretrained: {damaged}: expected")
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
from keylite.data.dataset import Dataset
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
