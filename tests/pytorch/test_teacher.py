"""A teacher in PyTorch: what a student learns from it, and that a run with one is a run like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs keylite[pytorch]")

import torch
from safetensors.torch import load_file

import keylite
from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.pytorch import training
from keylite.runtime.modelfile import describe, read_spec
from keylite.training.recipe import make_recipe
from keylite.training.run import Run

PLAIN = {  # no augmentation, small and quick; box and size are those of the teachers
    "backbone": "timm:test_efficientnet",
    "pretrained": "none",
    "box": "image",
    "size": 64,
    "batch": 4,
    "epochs": 2,
    "threads": 1,
    "mirror": "off",
    "head": "regression",
    "hidden": 16,
    "lr": 1e-3,
    **{name: 0.0 for name in keylite.Recipe.__struct_fields__ if name.endswith("_p")},
}


def recipe(teacher: Path | str, **choices: object) -> keylite.Recipe:
    return make_recipe(PLAIN | {"teacher": str(teacher)} | choices)


def without(data: Dataset, labelled: np.ndarray) -> Dataset:
    """The data set with labels only where (N, K) says so."""
    xy = np.where(labelled[..., None], data.xy, np.nan)
    return from_arrays(data.images, xy, skeleton=data.skeleton, name=data.name)


@pytest.fixture(scope="module")
def parts(make_colours) -> tuple[Dataset, Dataset]:
    """Eight objects of very different numbers of labels, and four with all."""
    train = make_colours(8, 1)
    labelled = np.ones((8, 4), bool)
    labelled[:3, 1:], labelled[5] = False, False
    return without(train, labelled), make_colours(4, 2)


def same_weights(one: Path, two: Path) -> bool:
    a, b = load_file(one), load_file(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.numeric
def test_a_keypoint_without_labels_is_learnt_from_the_teacher(finder_file: Path, make_colours, tmp_path: Path):
    labelled = np.ones((192, 4), bool)
    labelled[:, 3] = False
    data, val = without(make_colours(192, 1), labelled), make_colours(32, 2)
    choices = recipe(finder_file, epochs=5, batch=16, lr=3e-3, ema=0.0, hidden=64)
    spec = read_spec(model := keylite.train(choices, data, val, out=tmp_path))
    assert spec.unlearnt == {}
    name, sha256 = spec.provenance.recipe["teacher"].split(" sha256 ")
    assert (name, len(sha256)) == ("finder.safetensors", 64)
    report = keylite.evaluate(model, val)
    chin = report.per_keypoint["chin"]
    start = np.median(np.linalg.norm(val.xy[:, 3] - 32, axis=1))  # before training, it is in the middle
    assert chin.p50 < 0.7 * start, (chin.p50, start)  # measured 0.38


@pytest.mark.numeric
@pytest.mark.parametrize("head", ["regression", "rle"])  # heads without normalisation
def test_accumulated_batches_are_one_mean_over_labels_and_teacher(head: str, finder_file: Path, parts, tmp_path: Path):
    common = {"optimizer": "sgd", "momentum": 0.0, "lr": 1e-3, "freeze_epochs": 2, "ema": 0.0, "clip": 0.0}
    for name, batch, accumulate in (("one", 8, 1), ("two", 4, 2)):
        choices = recipe(finder_file, **common, head=head, batch=batch, accumulate=accumulate, teacher_weight=0.3)
        keylite.train(choices, *parts, out=tmp_path / name)
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    keylite.train(recipe("none", **common, head=head, batch=8), *parts, out=tmp_path / "alone")
    alone = load_file(tmp_path / "alone/last.safetensors")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)
    assert any((one[name] - alone[name]).abs().max() > 1e-4 for name in one), "the teacher changes something"


@pytest.fixture(scope="module")
def stopped(parts, finder_file: Path, tmp_path_factory) -> tuple[Path, Path, Path]:
    """An unbroken run, one stopped after its first epoch, and the teacher of both."""
    teacher = Path(shutil.copy(finder_file, tmp_path_factory.mktemp("teacher") / "t.safetensors"))
    whole, out = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("stopped")
    keylite.train(recipe(teacher, head="heatmap"), *parts, out=whole)

    def stop(self: Run) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "say_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            keylite.train(recipe(teacher, head="heatmap"), *parts, out=out)
    return whole, out, teacher


def test_resume_with_another_teacher_is_refused(parts, stopped, finder_file: Path, tmp_path: Path):
    _, out, teacher = stopped
    with pytest.raises(ValueError, match="teacher was .*t.safetensors', is .*finder.safetensors"):
        keylite.train(recipe(finder_file, head="heatmap"), *parts, out=out, resume=True)
    with pytest.raises(ValueError, match="teacher_weight was 0.5, is 0.25"):
        keylite.train(recipe(teacher, head="heatmap", teacher_weight=0.25), *parts, out=out, resume=True)
    before, spec = teacher.read_bytes(), read_spec(teacher)
    describe(teacher, type(spec)(**{f: getattr(spec, f) for f in spec.__struct_fields__} | {"normalize": "100px"}))
    with pytest.raises(ValueError, match=r"resumes with the teacher that it began with \(it was t.safetensors sha256 "):
        keylite.train(recipe(teacher, head="heatmap"), *parts, out=out, resume=True)
    teacher.write_bytes(before)


def test_a_stopped_run_resumes_to_the_same_end_without_the_teacher_in_its_checkpoint(parts, stopped, tmp_path: Path):
    whole, out, teacher = stopped
    state = torch.load(out / "resume.ckpt", weights_only=False)["state_dict"]
    assert {name.partition(".")[0] for name in state} == {"model", "averaged"}
    keylite.train(recipe(teacher, head="heatmap"), *parts, out=out, resume=True)
    assert same_weights(out / "last.safetensors", whole / "last.safetensors")


def test_bf16_leaves_the_teacher_in_float32(finder_file: Path, parts, tmp_path: Path, monkeypatch):
    lessons = []

    def sums(*given, original=training.head_sums):
        lessons.append(given[-1][1])
        return original(*given)

    monkeypatch.setattr(training, "head_sums", sums)
    for precision in ("32", "bf16"):
        keylite.train(recipe(finder_file, epochs=1, precision=precision), *parts, out=tmp_path / precision)
    assert len(lessons) == 4
    assert all(torch.equal(one, two) for one, two in zip(lessons[:2], lessons[2:], strict=True))


@pytest.mark.numeric
def test_two_processes_take_the_steps_of_one(finder_file: Path, parts, tmp_path: Path):
    together = {"backbone": "timm:test_convnext", "freeze_epochs": 5, "optimizer": "sgd", "ema": 0.9}
    for name, choices in (("one", {"batch": 8}), ("two", {"batch": 4, "devices": 2})):
        keylite.train(recipe(finder_file, **together, **choices), *parts, out=tmp_path / name)
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for tensor in one:
        torch.testing.assert_close(two[tensor], one[tensor], rtol=0, atol=1e-5)
