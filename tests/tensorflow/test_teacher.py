"""A teacher in Keras: what a student learns from it, and that a run with one is a run like any other."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs keylite[tensorflow]")
pytest.importorskip("torch", reason="makes the teacher")

import tensorflow as tf
from safetensors.numpy import load_file

import keylite
from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.runtime.modelfile import describe, read_spec, safetensors_header
from keylite.training.recipe import make_recipe
from keylite.training.run import Run

PLAIN = {  # no augmentation, small and quick; box and size are those of the teacher
    "framework": "tensorflow",
    "backbone": "tiny",
    "pretrained": "none",
    "box": "image",
    "size": 64,
    "batch": 4,
    "epochs": 2,
    "freeze_epochs": 2,
    "mirror": "off",
    "head": "regression",
    "hidden": 16,
    "lr": 1e-3,
    **{name: 0.0 for name in keylite.Recipe.__struct_fields__ if name.endswith("_p")},
}
pytestmark = [
    pytest.mark.usefixtures("quick_graphs", "eagerly"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`"),
]


@pytest.fixture(scope="module")
def eagerly() -> Iterator[None]:
    """A few steps are over before one graph is made."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's tests leave the log deaf to others."""
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)


def recipe(teacher: Path | str, **choices: object) -> keylite.Recipe:
    return make_recipe(PLAIN | {"teacher": str(teacher)} | choices)


@pytest.fixture(scope="module")
def parts(make_colours) -> tuple[Dataset, Dataset]:
    """Eight objects of very different numbers of labels, and four with all."""
    train = make_colours(8, 1)
    xy = train.xy.copy()
    xy[:3, 1:], xy[5] = np.nan, np.nan
    return from_arrays(train.images, xy, skeleton=train.skeleton, name="few"), make_colours(4, 2)


def same_weights(one: Path, two: Path) -> bool:
    a, b = load_file(one), load_file(two)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.numeric
def test_a_teacher_alone_teaches_all_keypoints(finder_file: Path, parts, make_colours, tmp_path: Path):
    """With teacher_weight 1, labels count for nothing: of wrong ones, nothing is learnt."""
    right = make_colours(64, 1)
    wrong = from_arrays(right.images, 63 - 0 * right.xy, skeleton=right.skeleton, name="wrong")
    choices = recipe(finder_file, freeze_epochs=2, lr=2e-2, ema=0.0, batch=8, teacher_weight=1)
    val = make_colours(4, 2)
    error = keylite.evaluate(keylite.train(choices, wrong, val, out=tmp_path), val).pixel_error.mean
    start = np.linalg.norm(val.xy - 63, axis=2).mean()  # the wrong labels are its mean shape
    assert error < 0.7 * start, (error, start)  # measured 0.43


@pytest.mark.numeric
def test_accumulated_batches_are_one_mean_over_labels_and_teacher(finder_file: Path, parts, tmp_path: Path):
    common = {"optimizer": "sgd", "momentum": 0.0, "ema": 0.0, "clip": 0.0, "epochs": 1}
    for name, batch, accumulate in (("one", 8, 1), ("two", 4, 2)):
        choices = recipe(finder_file, **common, batch=batch, accumulate=accumulate, teacher_weight=0.3)
        keylite.train(choices, *parts, out=tmp_path / name)
    keylite.train(recipe("none", **common, batch=8), *parts, out=tmp_path / "alone")
    one, two, alone = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two", "alone"))
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6)
    assert max(np.abs(one[name] - alone[name]).max() for name in one) > 1e-4, "the teacher changes something"


def test_a_stopped_run_resumes_to_the_same_end_with_the_same_teacher_alone(finder_file: Path, parts, tmp_path: Path):
    teacher = Path(shutil.copy(finder_file, tmp_path / "t.safetensors"))
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    keylite.train(recipe(teacher, head="heatmap"), *parts, out=whole)

    def stop(self: Run) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "say_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            keylite.train(recipe(teacher, head="heatmap"), *parts, out=out)
    names = {name.partition(".")[0] for name in safetensors_header(out / "resume.ckpt") if name != "__metadata__"}
    assert names == {"network", "averaged", "backbone_optimizer", "head_optimizer"}

    before, spec = teacher.read_bytes(), read_spec(teacher)
    describe(teacher, type(spec)(**{f: getattr(spec, f) for f in spec.__struct_fields__} | {"normalize": "100px"}))
    with pytest.raises(ValueError, match=r"resumes with the teacher that it began with \(it was t.safetensors sha256 "):
        keylite.train(recipe(teacher, head="heatmap"), *parts, out=out, resume=True)
    teacher.write_bytes(before)
    keylite.train(recipe(teacher, head="heatmap"), *parts, out=out, resume=True)
    assert same_weights(out / "last.safetensors", whole / "last.safetensors")
