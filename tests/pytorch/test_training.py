"""Training: what a recipe promises, what a kill leaves behind, and what is said aloud."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs keylite[pytorch]")

import torch
from safetensors.torch import load_file

import keylite
import keylite.pytorch
from keylite.data.dataset import from_arrays
from keylite.data.examples import Examples
from keylite.data.gauges import gauges
from keylite.pytorch.model import EfficientNetLiteRegressor, PixelModel, load_model
from keylite.recipe import make_recipe, to_dict
from keylite.runtime.spec import PIXEL_MEAN, PIXEL_STD

PLAIN = {  # no augmentation, small and quick
    "pretrained": "none",
    "box": "image",
    "size": 64,
    "batch": 4,
    "epochs": 3,
    "threads": 1,
    "mirror": "off",
    "hidden": 16,
    **{name: 0.0 for name in keylite.Recipe.__struct_fields__ if name.endswith("_p")},
}


@pytest.fixture(scope="module")
def parts():
    return gauges(8, "train", seed=1, size=64), gauges(4, "test", seed=2, size=64)


def recipe(**choices):
    return make_recipe(PLAIN | choices)


def rows_of(out: Path) -> list[dict[str, float]]:
    lines = (out / "log.csv").read_text().splitlines()
    return [dict(zip(lines[0].split(","), map(float, line.split(",")), strict=True)) for line in lines[1:]]


def same_weights(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_eight_images_are_overfitted_to_under_a_pixel():
    """The plain network and loss, in a loop of its own: an epoch's end costs more than eight images do."""
    examples = Examples(gauges(8, "train", seed=3, size=128), (128, 128))
    pixels, unit_xy, weight = (torch.from_numpy(part) for part in examples.batch(range(8)))
    torch.manual_seed(0)
    network = EfficientNetLiteRegressor(4, mean_shape=examples.mean_shape())
    model = PixelModel(network, PIXEL_MEAN, PIXEL_STD).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=150, pct_start=0.1)
    loss = keylite.pytorch.loss("mae", (128, 128))
    for _ in range(150):
        optimizer.zero_grad()
        loss(model(pixels), unit_xy, weight).backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        errors = 128 * (model.eval()(pixels) - unit_xy).norm(dim=-1)
    assert float(errors.mean()) < 1.0, float(errors.mean())  # measured 0.49


def over_and_over(data, times: int):
    """The same objects many times in one epoch: many steps, one validation."""
    return data.subset(np.tile(np.arange(len(data)), times))


def test_the_heatmap_head_learns_and_exports(parts, tmp_path):
    data = parts[0]
    choices = recipe(
        box="annotation", head="heatmap", batch=8, epochs=2, lr=5e-3, ema=0.0, loss="mae", weight_decay=0.0
    )
    model = keylite.train(choices, over_and_over(data, 30), data, tmp_path)
    assert keylite.evaluate(model, data).pixel_error.mean < 4.0  # of 64 px, a cell is 8; measured 0.95
    certificate = keylite.export(model, data, tmp_path / "m.onnx")
    assert certificate.drift.max < 0.01


def test_a_run_leaves_its_files(parts, tmp_path):
    model = keylite.train(recipe(), *parts, tmp_path)
    assert model == tmp_path / "model.safetensors"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("model.safetensors", "last.safetensors", "resume.ckpt", "recipe.yaml", "data.json"),
        *("examples.jpg", "log.csv", "curves.png", "tensorboard"),
    }
    rows = rows_of(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [2, 4, 6]
    _, spec = load_model(model)
    best = min(rows, key=lambda row: row["val_nme"])
    assert spec.report is not None
    assert spec.report["epoch"] == best["epoch"]
    assert keylite.evaluate(model, parts[1]).nme.mean == pytest.approx(best["val_nme"], rel=1e-5)
    assert spec.provenance.recipe["epochs"] == 3


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not(parts, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        keylite.train(recipe(epochs=1, seed=seed, rotate_p=1.0), *parts, tmp_path / name)
    assert same_weights(tmp_path / "a/last.safetensors", tmp_path / "b/last.safetensors")
    assert not same_weights(tmp_path / "a/last.safetensors", tmp_path / "c/last.safetensors")


KILLED_RUN = """
import json, os, signal, sys
import keylite
from keylite.data.gauges import gauges
from keylite.pytorch import training
from keylite.recipe import make_recipe
moment, number = sys.argv[3], int(sys.argv[4])
calls = 0
def dies(function):
    def wrapped(*args, **kwargs):
        global calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGINT if moment == "interrupt" else signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped
if moment == "rename":
    os.replace = dies(os.replace)
else:
    training.Training.training_step = dies(training.Training.training_step)
try:
    keylite.train(make_recipe(json.loads(sys.argv[2])), gauges(8, "train", 1, 64), gauges(4, "test", 2, 64), sys.argv[1])
except KeyboardInterrupt:
    sys.exit(130)
"""

# 2 steps an epoch; each epoch renames 5 files or so, the last of them the resume checkpoint
KILLS = {
    "before any epoch is done": ("step", 2),
    "in the second epoch": ("step", 4),
    "as the first model file is moved into place": ("rename", 4),
    "as the second resume checkpoint is moved into place": ("rename", 13),
    "by Ctrl-C": ("interrupt", 4),
}


@pytest.fixture(scope="module")
def whole_run(parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    keylite.train(recipe(rotate_p=1.0, noise_p=0.5), *parts, out)
    return out


@pytest.mark.parametrize(("moment", "number"), KILLS.values(), ids=KILLS)
def test_a_killed_run_resumes_to_the_same_end(moment, number, parts, whole_run, tmp_path):
    choices = recipe(rotate_p=1.0, noise_p=0.5)
    command = [sys.executable, "-c", KILLED_RUN, str(tmp_path), json.dumps(to_dict(choices)), moment, str(number)]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == (130 if moment == "interrupt" else -signal.SIGKILL), killed.stderr
    for path in tmp_path.glob("*.safetensors"):
        load_model(path)  # whole, whenever it is there
    keylite.train(choices, *parts, tmp_path, resume=True)
    assert rows_of(tmp_path) == rows_of(whole_run)
    for name in ("model.safetensors", "last.safetensors"):
        assert same_weights(tmp_path / name, whole_run / name)


def test_resume_with_another_recipe_or_other_data_is_refused(parts, whole_run):
    choices = recipe(rotate_p=1.0, noise_p=0.5)
    with pytest.raises(ValueError, match="lr was"):
        keylite.train(make_recipe({"lr": 0.5}, base=choices), *parts, whole_run, resume=True)
    with pytest.raises(ValueError, match="resumes with the data"):
        keylite.train(choices, parts[1], parts[0], whole_run, resume=True)
    with pytest.raises(ValueError, match="--resume"):
        keylite.train(choices, *parts, whole_run)


def test_frozen_epochs_leave_the_backbone_as_it_was(parts, tmp_path):
    keylite.train(recipe(epochs=1, ema=0.0), *parts, tmp_path / "start")
    start = tmp_path / "start/last.safetensors"
    keylite.train(recipe(epochs=1, freeze_epochs=1, pretrained=str(start), ema=0.0), *parts, tmp_path / "frozen")
    keylite.train(recipe(epochs=2, freeze_epochs=1, pretrained=str(start), ema=0.0), *parts, tmp_path / "thawed")
    before, frozen = load_file(start), load_file(tmp_path / "frozen/last.safetensors")
    thawed = load_file(tmp_path / "thawed/last.safetensors")
    backbone = [name for name in before if not name.startswith("head.")]
    assert all(torch.equal(before[name], frozen[name]) for name in backbone)  # statistics too
    assert not torch.equal(before["head.points.weight"], frozen["head.points.weight"])
    assert not torch.equal(before["bn1.running_mean"], thawed["bn1.running_mean"])


def test_accumulated_batches_are_one_mean_over_all_their_points(tmp_path):
    images = gauges(8, "train", seed=1, size=64)
    xy = images.xy.copy()
    xy[:3, 1:] = np.nan  # batches of 4 hold very different numbers of points
    xy[5] = np.nan
    xy[5, 0] = (10, 10)
    data = from_arrays(images.images, xy, skeleton=images.skeleton)
    common = {"optimizer": "sgd", "momentum": 0.0, "lr": 1e-4, "freeze_epochs": 2, "epochs": 2, "ema": 0.0, "clip": 0.0}
    for name, batch, accumulate in (("one", 8, 1), ("two", 4, 2)):
        keylite.train(recipe(**common, batch=batch, accumulate=accumulate), data, images, tmp_path / name)
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    assert rows_of(tmp_path / "one")[-1]["step"] == rows_of(tmp_path / "two")[-1]["step"] == 2
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)


def test_early_stopping_ends_the_run(parts, tmp_path, caplog):
    caplog.set_level(logging.INFO, "keylite")
    keylite.train(recipe(epochs=9, patience=1, lr=1e-9, ema=0.0), *parts, tmp_path)
    assert len(rows_of(tmp_path)) < 9
    assert "stopped early" in caplog.text


def test_best_is_the_epoch_with_the_lowest_val_nme(parts, tmp_path):
    keylite.train(recipe(epochs=4, lr=0.03), *parts, tmp_path)
    rows = rows_of(tmp_path)
    best = keylite.evaluate(tmp_path / "model.safetensors", parts[1]).nme.mean
    last = keylite.evaluate(tmp_path / "last.safetensors", parts[1]).nme.mean
    assert best == pytest.approx(min(row["val_nme"] for row in rows), rel=1e-5)
    assert last == pytest.approx(rows[-1]["val_nme"], rel=1e-5)


SPEAKING = {
    "warm-up longer than the run": ({"warmup_epochs": 5.0}, "warm-up"),
    "worse than the mean shape": ({"lr": 1.0, "warmup_epochs": 0.0, "clip": 0.0, "ema": 0.0}, "mean shape"),
    "all errors above the threshold": ({"loss": "huber", "delta": 1e-4, "lr": 1e-6}, "one branch of huber"),
    "all errors below the threshold": ({"loss": "wing", "wing_width": 500.0, "lr": 1e-6}, "one branch of wing"),
}


@pytest.mark.parametrize(("choices", "words"), SPEAKING.values(), ids=SPEAKING)
def test_a_run_that_looks_wrong_is_said_aloud(choices, words, parts, tmp_path, caplog):
    keylite.train(recipe(epochs=3, **choices), *parts, tmp_path)
    assert words in caplog.text


def test_a_sound_run_says_nothing(parts, tmp_path, caplog):
    keylite.train(recipe(epochs=2, loss="mae", lr=1e-5), *parts, tmp_path)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line for line in warned if "worse than predicting" not in line] == []


def test_val_that_shares_a_group_with_train_is_said_aloud(parts, tmp_path, caplog):
    keylite.train(recipe(epochs=1), parts[0], parts[0].subset([0, 1]), tmp_path)
    assert "shares 2 groups" in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run(parts, tmp_path):
    with pytest.raises(ValueError, match="lower lr"):
        keylite.train(recipe(epochs=30, optimizer="sgd", lr=1e30, clip=0.0, loss="mse", ema=0.0), *parts, tmp_path)


def test_half_precision_without_a_gpu_is_refused(parts, tmp_path):
    with pytest.raises(ValueError, match="16 needs a GPU"):
        keylite.train(recipe(precision="16", device="cpu"), *parts, tmp_path)


def test_bf16_trains(parts, tmp_path):
    keylite.train(recipe(epochs=1, precision="bf16"), *parts, tmp_path)
    assert np.isfinite(rows_of(tmp_path)[0]["loss"])


def test_a_folder_that_cannot_be_written_is_one_line(parts, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="file"):
        keylite.train(recipe(), *parts, blocked / "run")
    assert os.listdir(tmp_path) == ["file"]
