"""Training in Keras: what a recipe promises, what a kill leaves behind, and that both twins take the same steps."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import pickle
import re
import shutil
import signal
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs keylite[tensorflow]")

import tensorflow as tf
from safetensors.numpy import load_file, save

import keylite
from keylite.data.arrays import from_arrays
from keylite.data.augmentation import Augmentation
from keylite.data.examples import Examples
from keylite.data.formats.reading import write_dataset
from keylite.data.rendered.gauges import gauges
from keylite.runtime.heads import Regression
from keylite.runtime.lite import LITE
from keylite.runtime.modelfile import safetensors_header, write_sealed_safetensors
from keylite.tensorflow import training
from keylite.tensorflow.model import EfficientNetLiteRegressor, load_model, normalised, save_model
from keylite.training.processes import World
from keylite.training.recipe import make_recipe, to_dict
from keylite.training.schedule import ema_decay, lr_factor

HIDDEN = 16
LR = 0.003
PLAIN = {  # no augmentation, small and quick
    "framework": "tensorflow",
    "backbone": "tiny",
    "pretrained": "none",
    "box": "image",
    "size": 64,
    "batch": 4,
    "mirror": "off",
    "head": "regression",
    "hidden": HIDDEN,
    "lr": 1e-3,
    "loss": "wing",
    "ema": 0.0,
    "warmup_epochs": 1.0,
    **{name: 0.0 for name in keylite.Recipe.__struct_fields__ if name.endswith("_p")},
}
STILL = {"epochs": 2, "freeze_epochs": 9}  # the head alone learns: the quickest run there is


@pytest.fixture(scope="module")
def parts():
    return gauges(8, "train", seed=1, size=64), gauges(4, "test", seed=2, size=64)


@pytest.fixture(scope="module")
def start(parts, make_spec, tmp_path_factory):
    """A model file to start from, whose normalisation statistics are those of the images."""
    tf.keras.utils.set_random_seed(0)
    examples = Examples(parts[0], (64, 64), box="image")
    network = EfficientNetLiteRegressor(4, "tiny", hidden=HIDDEN, mean_shape=examples.mean_shape())
    norms = [layer for layer in network.backbone.layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    spec = make_spec(backbone="tiny", head=Regression(4, HIDDEN), skeleton=parts[0].skeleton)
    for norm in norms:
        norm.momentum = 0.0
    network.backbone(normalised(examples.batch(range(8))[0], spec.mean, spec.std), training=True)
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_model(network, spec, path)
    return path


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """The command line's tests leave the log deaf to others."""
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)


pytestmark = [
    pytest.mark.usefixtures("quick_graphs"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`"),
]


@contextlib.contextmanager
def without_graphs():
    """A few steps are over before one graph is made."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def eagerly():
    with without_graphs():
        yield


def recipe(**choices):
    return make_recipe(PLAIN | choices)


def rows_of(out: Path) -> list[dict[str, float]]:
    lines = (out / "log.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), map(float, line.split(",")), strict=True)) for line in lines[1:]]
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def same_weights(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


# ---- one run: frozen for an epoch, then two with everything


@dataclasses.dataclass
class Whole:
    """A run's folder, its recipe, what each step left, and copies of the folder as a kill would leave it."""

    out: Path
    recipe: keylite.Recipe
    first: np.ndarray  # weights before the first step
    steps: list[tuple[float, float, np.ndarray]]  # learning rates of head and backbone, weights after it
    left: dict[str, Path]


@pytest.fixture(scope="module")
def whole(parts, start, tmp_path_factory):
    out, made, now = tmp_path_factory.mktemp("whole"), {"steps": [], "left": {}}, training.gathered

    def begins(self, epoch, logs=None, original=training.EpochEnd.on_epoch_begin):
        made.setdefault("first", now(self.model.network.variables).numpy())
        original(self, epoch, logs)

    def leave(moment):
        made["left"][moment] = shutil.copytree(out, tmp_path_factory.mktemp("left") / "run", copy_function=os.link)

    def ends(self, batch, logs=None, original=training.EpochEnd.on_train_batch_end):
        lrs = (float(self.model.optimizers[part].learning_rate) for part in ("head", "backbone"))
        made["steps"].append((*lrs, now(self.model.network.variables).numpy()))
        leave(f"step {len(made['steps'])}")
        original(self, batch, logs)

    def replace(source, target, original=os.replace):
        leave(f"{Path(target).name} {len(made['steps']) // 2}")
        original(source, target)

    choices = recipe(
        **{"epochs": 3, "freeze_epochs": 1, "pretrained": str(start), "ema": 0.3, "lr": LR, "rotate_p": 1.0},
        **{"noise_p": 0.5, "backbone_lr_factor": 0.1},
    )
    with without_graphs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.EpochEnd, "on_epoch_begin", begins)
        patch.setattr(training.EpochEnd, "on_train_batch_end", ends)
        patch.setattr(os, "replace", replace)
        keylite.train(choices, *parts, out=out)
    return Whole(out, choices, **made)


def test_a_run_leaves_its_files(parts, whole):
    names = {path.name for path in whole.out.iterdir()}
    assert names == {
        *("model.safetensors", "last.safetensors", "resume.ckpt", "recipe.yaml", "data.json"),
        *("examples.jpg", "log.csv", "curves.png", "tensorboard"),
    }
    rows = rows_of(whole.out)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [2, 4, 6]
    _, spec = load_model(whole.out / "model.safetensors")
    best = min(rows, key=lambda row: row["val_nme"])
    assert spec.report is not None
    assert (spec.report.epoch, spec.report.data) == (best["epoch"], parts[1].identity())
    assert spec.provenance.data == parts[0].identity()
    assert spec.provenance.framework == "tensorflow"
    assert spec.provenance.recipe["epochs"] == 3


@pytest.mark.numeric
def test_best_is_the_epoch_with_the_lowest_val_nme(parts, whole):
    rows = rows_of(whole.out)
    best = keylite.evaluate(whole.out / "model.safetensors", parts[1]).nme.mean
    last = keylite.evaluate(whole.out / "last.safetensors", parts[1]).nme.mean
    assert best == pytest.approx(min(row["val_nme"] for row in rows), rel=1e-5)
    assert last == pytest.approx(rows[-1]["val_nme"], rel=1e-5)
    assert best < 0.99 * last, "the last epoch must be another, else this means nothing"


def test_every_step_sees_the_learning_rate_of_the_schedule(whole):
    wanted = [LR * lr_factor(whole.recipe, step, 2) for step in range(6)]
    head, backbone = ([step[part] for step in whole.steps] for part in (0, 1))
    np.testing.assert_allclose(head, wanted, rtol=1e-6)
    np.testing.assert_allclose(backbone, 0.1 * np.array(wanted), rtol=1e-6)
    np.testing.assert_allclose([row["lr"] for row in rows_of(whole.out)], [wanted[2], wanted[4], 0], rtol=1e-6)


def test_the_moving_average_follows_its_formula(whole):
    """Statistics of the normalisation included."""
    average = whole.first.astype(np.float64)
    for step, (_, _, weights) in enumerate(whole.steps):
        decay = ema_decay(whole.recipe, step)
        average = decay * average + (1 - decay) * weights
    network, _ = load_model(whole.out / "last.safetensors")
    np.testing.assert_allclose(training.gathered(network.variables), average, rtol=1e-5, atol=1e-6)
    assert np.abs(average - weights).max() > 1e-3, "an average that is the last weights means nothing"


def test_frozen_epochs_leave_the_backbone_as_it_was(start, whole):
    network, _ = load_model(start)
    count = len(training.gathered(network.backbone.variables))
    names = np.repeat(
        [variable.name for variable in network.backbone.variables],
        [int(np.prod(variable.shape)) for variable in network.backbone.variables],
    )
    (_, _, frozen), (_, _, thawed) = whole.steps[1], whole.steps[3]
    variables = [id(variable) for variable in network.variables]
    assert variables[: len(network.backbone.variables)] == [id(variable) for variable in network.backbone.variables]
    assert np.array_equal(frozen[:count], whole.first[:count])  # normalisation and its statistics too
    assert not np.array_equal(frozen[count:], whole.first[count:])
    moved = {name: (thawed[:count] != frozen[:count])[names == name].mean() for name in np.unique(names)}
    assert moved.keys() == {"kernel", "gamma", "beta", "moving_mean", "moving_variance"}
    assert min(moved.values()) > 0.9, moved


def test_tensorboard_holds_the_figures(whole):
    from tensorflow.core.util import event_pb2

    found = {}
    for record in tf.data.TFRecordDataset([str(path) for path in (whole.out / "tensorboard").iterdir()]):
        event = event_pb2.Event.FromString(record.numpy())
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    rows = rows_of(whole.out)
    assert found.keys() == {"loss", "val_nme", "val_px"}
    for name in ("val_nme", "val_px"):
        assert found[name] == pytest.approx({int(row["step"]): row[name] for row in rows}, rel=1e-6)
    assert found["loss"].keys() == {0, 2, 4}
    assert all(np.isfinite(value) for value in found["loss"].values())


@pytest.mark.numeric
def test_both_twins_go_the_same_way(parts, whole, tmp_path):
    """While frozen; then Adam makes rounding grow, and float64 in tests/contract says that both take the same steps."""
    pytest.importorskip("torch", reason="needs keylite[pytorch]")
    keylite.train(make_recipe({"framework": "pytorch"}, base=whole.recipe), *parts, out=tmp_path)
    ours, theirs = rows_of(whole.out), rows_of(tmp_path)
    for row, other in zip(ours, theirs, strict=True):
        assert (row["epoch"], row["step"]) == (other["epoch"], other["step"])
        assert row["lr"] == pytest.approx(other["lr"], rel=1e-6)
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-3)  # measured 4e-8
    assert ours[0]["val_nme"] == pytest.approx(theirs[0]["val_nme"], rel=1e-3)  # measured 5e-8


# ---- interrupted

KILLED_RUNS = """
import os, signal
import tensorflow as tf
import keylite
from keylite.data.rendered.gauges import gauges
from keylite.training.recipe import make_recipe
from keylite.runtime.lite import LITE, Lite
from keylite.tensorflow import training
LITE["tiny"] = Lite(*TINY)
def run(out, choices, moment):
    steps = 0
    def counts(self, batch, logs=None, original=training.EpochEnd.on_train_batch_end):
        nonlocal steps
        steps += 1
        if steps == 6 and moment == "step":
            os.kill(os.getpid(), signal.SIGINT)
        original(self, batch, logs)
    def dies(source, target, original=os.replace):
        if steps == 4 and moment == os.path.basename(target):
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, target)
    training.EpochEnd.on_train_batch_end, os.replace = counts, dies
    tf.config.run_functions_eagerly(True)
    try:
        keylite.train(make_recipe(choices), gauges(8, "train", 1, 64), gauges(4, "test", 2, 64), out=out)
    except KeyboardInterrupt:
        os._exit(130)
"""


@pytest.fixture(scope="module")
def killed(whole, forked, tmp_path_factory) -> dict[str, tuple[Path, int]]:
    """(folder, exit code) of a run that is killed as its second resume checkpoint is moved, and by Ctrl-C in its last step."""
    folders = {moment: tmp_path_factory.mktemp("killed") for moment in ("resume.ckpt", "step")}
    choices = to_dict(make_recipe({"workers": 2}, base=whole.recipe))
    code = KILLED_RUNS.replace("TINY", repr(dataclasses.astuple(LITE["tiny"])))
    codes = forked(code, [(str(out), choices, moment) for moment, out in folders.items()])
    for out in folders.values():
        assert len(rows_of(out)) == 2
    return dict(zip(folders, zip(folders.values(), codes, strict=True), strict=True))


def resumes_to_the_same_end(parts, whole: Whole, out: Path, **choices: object) -> None:
    for path in out.glob("*.safetensors"):
        load_model(path)  # whole, whenever it is there
    keylite.train(make_recipe(choices, base=whole.recipe), *parts, out=out, resume=True)
    assert rows_of(out) == rows_of(whole.out)
    for name in ("model.safetensors", "last.safetensors"):
        assert same_weights(out / name, whole.out / name)


def test_a_run_killed_before_its_first_epoch_ended_begins_again(parts, whole, eagerly):
    """As the first model file was moved into place. So two runs of one seed are equal."""
    out = whole.left["model.safetensors 1"]
    assert not (out / "resume.ckpt").exists()
    assert list(out.glob(".model.safetensors.*"))
    resumes_to_the_same_end(parts, whole, out)


def test_a_run_killed_as_its_second_checkpoint_is_moved_goes_on_from_the_first(parts, whole, killed, eagerly):
    out, code = killed["resume.ckpt"]
    assert code == -signal.SIGKILL
    assert list(out.glob(".resume.ckpt.*"))
    resumes_to_the_same_end(parts, whole, out)


def test_ctrl_c_in_a_step_leaves_what_a_kill_leaves_and_ends_the_workers(parts, whole, killed, eagerly):
    """How many workers there are is no matter."""
    out, code = killed["step"]
    assert code == 130
    assert same_weights(out / "resume.ckpt", whole.left["step 6"] / "resume.ckpt")
    left = {path.name for path in whole.left["step 6"].iterdir()}
    assert {path.name for path in out.iterdir()} == left - {".lock"}  # copied while the run held it
    resumes_to_the_same_end(parts, whole, out, workers=3)


def test_a_run_with_a_flow_resumes_to_the_same_end(parts, eagerly, tmp_path, monkeypatch):
    """Its weights and the optimizer's of them are in the resume checkpoint alone, to the last bit."""
    whole, left, choices = tmp_path / "whole", tmp_path / "left", recipe(**STILL, head="rle", ema=0.3)

    def ends(self, epoch, logs=None, original=training.EpochEnd.on_epoch_end):
        original(self, epoch, logs)
        if epoch == 0 and not left.exists():
            shutil.copytree(whole, left)

    monkeypatch.setattr(training.EpochEnd, "on_epoch_end", ends)
    keylite.train(choices, *parts, out=whole)
    keylite.train(choices, *parts, out=left, resume=True)
    assert rows_of(left) == rows_of(whole)
    for name in ("model.safetensors", "last.safetensors"):
        assert same_weights(left / name, whole / name)
        assert not [key for key in load_file(left / name) if "flow" in key or key.startswith(("scale", "shift"))]
    assert same_weights(left / "resume.ckpt", whole / "resume.ckpt")
    state = load_file(left / "resume.ckpt")
    flow = {name: t for name, t in state.items() if name.startswith("flow.")}
    assert len(flow) == 72
    assert all(t.any() for name, t in flow.items() if name.endswith("bias")), "all of it moved"
    biases = [t for name, t in state.items() if name.startswith("network.head.") and name.endswith("bias")]
    kept = state["head_optimizer.head biases_momentum"]
    assert kept.size == sum(t.size for t in (*biases, *flow.values()))
    assert (kept != 0).mean() > 0.9


# ---- what each choice promises


def test_both_twins_train_on_the_same_examples_in_the_same_order():
    theirs = pytest.importorskip("keylite.pytorch.batches", reason="needs keylite[pytorch]")
    augmentation = Augmentation(rotate=20, scale=0.2, noise=10, noise_p=0.5)
    examples = Examples(gauges(10, "train", seed=1, size=64), (64, 48), augmentation=augmentation, seed=3)
    ours, loader = training.Batches(examples, 4, start=1), theirs.batches_of(examples, 4, World(), 0)
    item = 0
    for epoch in (1, 2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            for mine, other in zip(ours[item], batch, strict=True):
                assert mine.dtype == other.numpy().dtype
                assert np.array_equal(mine, other.numpy())
            item += 1
    assert item == 4 == 2 * ours.batches
    assert not np.array_equal(ours[0][0], ours[2][0])


OPTIMIZERS = {
    "adamw, averaged": {"optimizer": "adamw", "weight_decay": 1.0, "ema": 0.3},
    "adam, the two batches of an epoch": {
        "optimizer": "adam",
        "weight_decay": 1e-4,
        "backbone_lr_factor": 0.3,
        "accumulate": 4,
    },
    "sgd, clipped": {"optimizer": "sgd", "weight_decay": 1e-3, "clip": 0.01},
}


@pytest.mark.numeric
@pytest.mark.parametrize("choices", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_both_twins_take_the_same_steps(choices, start, eagerly, tmp_path):
    """Three of the head, then one of everything: a second one would start from what Adam makes of gradients near 0."""
    pytest.importorskip("torch", reason="needs keylite[pytorch]")
    data = gauges(8 if "accumulate" in choices else 4, "train", seed=1, size=64)
    common = {"epochs": 4, "freeze_epochs": 3, "pretrained": str(start), "warmup_epochs": 2}
    for framework in ("tensorflow", "pytorch"):
        made = recipe(**common, **choices, framework=framework)
        keylite.train(made, data, data.subset([0, 1]), out=tmp_path / framework)
        assert rows_of(tmp_path / framework)[-1]["step"] == 4
    before, ours, theirs = (
        load_file(path) for path in (start, *(tmp_path / f / "last.safetensors" for f in ("tensorflow", "pytorch")))
    )
    kept = 1 - (1 - made.ema) * (1 - 0.9 ** (len(data) // 4))  # of the statistics before
    values = 4 * np.array([32, 16, 8, 4, 2]) ** 2  # of which a layer takes its statistics
    off = {"head": [], "backbone": []}
    for name, value in before.items():
        if name.endswith("running_mean"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-3, err_msg=name)
        elif name.endswith("running_var"):
            ratio = (theirs[name] - kept * value) / (ours[name] - kept * value)
            assert np.abs(ratio[:, None] - values / (values - 1)).min(axis=1).max() < 3e-3, name  # measured 2e-4
        else:
            moved = np.abs(theirs[name] - value)
            part = "head" if name.startswith("head.") else "backbone"
            off[part].append((np.abs(ours[name] - theirs[name]) > 0.01 * moved + 1e-9).ravel())
    assert np.concatenate(off["head"]).mean() < 0.02  # measured up to 2e-4
    assert np.concatenate(off["backbone"]).mean() < 0.05  # measured up to 0.0045


def test_a_network_at_random_follows_the_seed(make_spec):
    spec = make_spec(backbone="tiny", head=Regression(4, HIDDEN))
    one, same, other = (
        training.gathered(training.new_network(recipe(seed=seed), spec, np.full((4, 2), 0.5), None).variables)
        for seed in (5, 5, 6)
    )
    assert np.array_equal(one, same)
    assert (one.numpy() != other.numpy()).mean() > 0.9


@pytest.mark.numeric
@pytest.mark.parametrize("head", ["regression", "rle"])
def test_accumulated_batches_are_one_mean_over_all_their_points(head, eagerly, tmp_path):
    images = gauges(8, "train", seed=1, size=64)
    xy = images.xy.copy()
    xy[:3, 1:] = np.nan  # batches of 4 hold very different numbers of points
    xy[5] = np.nan
    xy[5, 0] = (10, 10)
    data = from_arrays(images.images, xy, skeleton=images.skeleton)
    common = STILL | {"optimizer": "sgd", "momentum": 0.0, "lr": 1e-4, "clip": 0.0, "head": head}
    for name, batch, accumulate in (("one", 8, 1), ("two", 4, 2)):
        keylite.train(recipe(**common, batch=batch, accumulate=accumulate), data, images, out=tmp_path / name)
    one, two = (load_file(tmp_path / name / "resume.ckpt") for name in ("one", "two"))
    assert rows_of(tmp_path / "one")[-1]["step"] == rows_of(tmp_path / "two")[-1]["step"] == 2
    assert len([name for name in one if name.startswith("flow.")]) == (72 if head == "rle" else 0)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-6, err_msg=name)


LEARNT = {  # head: input, px of 64 that its error is below after 60 steps; the mean shape is 6.6 off
    "heatmap": ("64", 4.0),  # measured 0.8; a cell is 8 px
    "simcc": ("96x64", 3.0),  # measured 0.4
}


@pytest.mark.numeric
@pytest.mark.parametrize("head", LEARNT)
def test_a_head_learns(head: str, parts, tmp_path):
    """The same objects many times in one epoch: many steps, few validations."""
    data, (size, px) = parts[0], LEARNT[head]
    choices = recipe(
        **{"box": "annotation", "head": head, "size": size, "hidden": 64, "batch": 8, "epochs": 3, "lr": 5e-3},
        **{"loss": "mae", "weight_decay": 0.0},
    )
    model = keylite.train(choices, data.subset(np.tile(np.arange(8), 20)), data, out=tmp_path)
    assert keylite.evaluate(model, data).pixel_error.mean < px


# ---- what is said, and what ends a run

BRANCHES = {
    "all errors above the threshold": ({"loss": "huber", "delta": 1e-4}, "above 0.0001 px, on one branch of huber"),
    "all errors below the threshold": ({"loss": "wing", "wing_width": 500.0}, "below 500 px, on one branch of wing"),
}


@pytest.mark.parametrize(("choices", "words"), BRANCHES.values(), ids=BRANCHES)
def test_a_run_that_gets_no_better_stops_and_a_loss_of_one_branch_is_said(
    choices, words, parts, eagerly, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "keylite")
    keylite.train(recipe(**STILL | {"epochs": 6, "patience": 1, "lr": 1e-30} | choices), *parts, out=tmp_path)
    assert len(rows_of(tmp_path)) == 2
    assert "stopped early" in caplog.text
    assert words in caplog.text


def test_of_a_loss_that_a_flow_replaces_nothing_is_said(parts, eagerly, tmp_path, caplog):
    keylite.train(recipe(**STILL | {"epochs": 1}, head="rle", loss="wing", wing_width=500.0), *parts, out=tmp_path)
    assert "one branch" not in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run(parts, eagerly, tmp_path):
    choices = recipe(**STILL, optimizer="sgd", lr=1e30, warmup_epochs=0, clip=0.0, loss="mse")
    with pytest.raises(ValueError, match="in epoch 1; lower lr"):
        keylite.train(choices, *parts, out=tmp_path)
    assert not (tmp_path / "last.safetensors").exists()


def test_a_full_disk_under_tensorboards_file_is_no_full_memory(tmp_path, monkeypatch):
    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "/run/events.1; No space left on device\n\tFailed to flush")

    end = training.EpochEnd(SimpleNamespace(out=tmp_path, recipe=recipe()), 2, lambda done: None)
    monkeypatch.setattr(tf.summary, "write", full)
    with pytest.raises(
        OSError, match=rf"^{tmp_path}: cannot write to this folder: No space left on device; .*`resume=True`$"
    ):
        end.write(0, loss=1.0)


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_half_precision_is_refused_by_name(precision, parts, tmp_path):
    with pytest.raises(ValueError, match=f"^precision: framework tensorflow trains in 32, got {precision}; "):
        keylite.train(recipe(precision=precision), *parts, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


SPOILT = {  # batch before which it happens, what happens to every image, error, words
    "gone at once": (0, lambda path: path.unlink(), FileNotFoundError, "image_00000[0-7].png"),
    "no image in the second epoch": (2, lambda path: path.write_text("text"), ValueError, "not an image"),
}


@pytest.mark.parametrize(("when", "spoil", "error", "words"), SPOILT.values(), ids=SPOILT)
def test_an_image_that_goes_bad_during_training_is_one_line(
    when, spoil, error, words, parts, eagerly, tmp_path, monkeypatch
):
    def spoiling(self, item, original=training.Batches.__getitem__):
        if item == when:
            for path in (tmp_path / "data").glob("*.png"):
                spoil(path)
        return original(self, item)

    write_dataset(parts[0], tmp_path / "data")
    monkeypatch.setattr(training.Batches, "__getitem__", spoiling)
    data = keylite.read_dataset(tmp_path / "data/labels.json")
    with pytest.raises(error, match=words) as raised:
        keylite.train(recipe(**STILL, cache="off"), data, parts[1], out=tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None, "no trace of TensorFlow"


HOSTILE = {  # a resume checkpoint's tensors, or its epochs, changed; what is said
    "another network's": (
        lambda state, _: state.update({"network.head.points.bias": np.zeros(9, np.float32)}),
        "network.head.points.bias is (9,), expected (8,)",
    ),
    "without a tensor": (lambda state, _: state.pop("network.head.points.bias"), "missing network.head.points.bias"),
    "with one more": (lambda state, _: state.update(more=np.zeros(1, np.float32)), "unexpected more"),
    "of another type": (
        lambda state, _: state.update({"network.head.points.bias": np.zeros(8)}),
        "network.head.points.bias is of type F64, expected F32",
    ),
    "weights that are no numbers": (
        lambda state, _: state["network.head.points.bias"].fill(np.nan),
        "network.head.points.bias is not finite",
    ),
    "moments without end": (
        lambda state, _: state["head_optimizer.head biases_momentum"].fill(np.inf),
        "head_optimizer.head biases_momentum is not finite",
    ),
    "fewer steps than none": (
        lambda state, _: state["head_optimizer.iteration"].fill(-1),
        "head_optimizer.iteration is not finite, or counts below 0",
    ),
    "epochs without figures": (lambda _, history: history.append({}), "its epochs are not counted from 1"),
    "epochs of text": (lambda _, history: history[0].update(loss="1"), "its epochs are not counted from 1"),
    "no epoch": (lambda _, history: history.clear(), "its epochs are not counted from 1"),
}


class Code:
    """What a pickle runs when it is loaded: it would make a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def archive(pickled: bytes) -> bytes:
    """What torch.save writes, with another pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as parts:
        parts.writestr("archive/data.pkl", pickled)
    return buffer.getvalue()


FOREIGN = {  # bytes made of a checkpoint's and of a pickle that runs code; what is said
    "a pickle": (lambda content, pickled: pickled, "not a .safetensors file"),
    "an archive as PyTorch writes it": (lambda content, pickled: archive(pickled), "not a .safetensors file"),
    "a pickle behind it": (lambda content, pickled: content + pickled, "the file is damaged"),
    "cut short": (lambda content, pickled: content[:-9], "the file is damaged"),
    "another bit": (lambda content, pickled: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], "is damaged"),
    "empty": (lambda content, pickled: b"", "the file is empty"),
    "without a seal": (
        lambda content, pickled: save({"a": np.zeros(1)}, {"history": "[]"}),
        "not a resume checkpoint of keylite",
    ),
}


@pytest.fixture(scope="module")
def going_on(whole):
    """The run of the checkpoint, its network, and the training that this would be part of: made once."""
    network, spec = load_model(whole.out / "model.safetensors")
    return SimpleNamespace(recipe=whole.recipe, spec=spec), network, training.Training(network, spec, whole.recipe)


@pytest.fixture
def refusal(going_on, monkeypatch, tmp_path):
    """A function: the line that refuses a resume checkpoint."""
    run, network, made = going_on
    monkeypatch.setattr(training, "Training", lambda *_: made)
    run.checkpoint = tmp_path / "resume.ckpt"

    def line() -> str:
        with pytest.raises(ValueError) as caught:
            training.require_resumable(run, network)
        assert [path.name for path in tmp_path.iterdir()] == ["resume.ckpt"], "code ran"
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return line


@pytest.mark.parametrize(("change", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_resume_checkpoint_that_does_not_fit_is_one_line(change, words, whole, refusal, tmp_path):
    path = whole.out / "resume.ckpt"
    state, history = load_file(path), json.loads(safetensors_header(path)["__metadata__"]["history"])
    change(state, history)
    write_sealed_safetensors(tmp_path / "resume.ckpt", save(state), {"history": json.dumps(history)})
    assert re.fullmatch(rf"{tmp_path}/resume.ckpt: .*{re.escape(words)}.*", refusal())


@pytest.mark.parametrize(("change", "words"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_bytes_for_a_resume_checkpoint_run_nothing_and_are_one_line(change, words, whole, refusal, tmp_path):
    content = change((whole.out / "resume.ckpt").read_bytes(), pickle.dumps(Code(tmp_path / "ran")))
    (tmp_path / "resume.ckpt").write_bytes(content)
    assert re.fullmatch(rf"{tmp_path}/resume.ckpt: .*{re.escape(words)}.*", refusal())


def test_a_damaged_resume_checkpoint_is_one_line(parts, whole, tmp_path):
    out, choices = shutil.copytree(whole.out, tmp_path / "run"), whole.recipe
    content = (out / "resume.ckpt").read_bytes()
    (out / "resume.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"resume\.ckpt: expected \d+ bytes, got \d+: the file is damaged"):
        keylite.train(choices, *parts, out=out, resume=True)
