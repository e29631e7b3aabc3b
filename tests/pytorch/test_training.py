"""Training: what a recipe promises, what a kill leaves behind, and what is said aloud."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import re
import shutil
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs keylite[pytorch]")

import torch
from safetensors.torch import load_file

import keylite
import keylite.pytorch
from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.data.formats.reading import read_dataset, write_dataset
from keylite.data.rendered.gauges import gauges
from keylite.pytorch import batches, training
from keylite.pytorch.companions import failure_of
from keylite.pytorch.model import EfficientNetLiteRegressor, PixelModel, load_model
from keylite.runtime.heads import HEADS
from keylite.runtime.lite import PIXEL_MEAN, PIXEL_STD
from keylite.training.processes import World
from keylite.training.recipe import make_recipe, to_dict
from keylite.training.recipe_file import read_recipe
from keylite.training.run import Run

PLAIN = {  # no augmentation, small and quick
    "backbone": "timm:test_efficientnet",
    "pretrained": "none",
    "box": "image",
    "size": 64,
    "batch": 4,
    "epochs": 3,
    "threads": 1,
    "mirror": "off",
    "head": "regression",
    "hidden": 16,
    "lr": 1e-3,
    **{name: 0.0 for name in keylite.Recipe.__struct_fields__ if name.endswith("_p")},
}


@pytest.fixture(scope="module")
def parts():
    return gauges(8, "train", seed=1, size=64), gauges(4, "test", seed=2, size=64)


def recipe(**choices):
    return make_recipe(PLAIN | choices)


def rows_of(out: Path) -> list[dict[str, float]]:
    lines = (out / "log.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), map(float, line.split(",")), strict=True)) for line in lines[1:]]
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def same_weights(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.numeric
def test_eight_images_are_overfitted():
    """The plain network and loss, in a loop of its own: an epoch's end costs more than eight images do."""
    examples = Examples(gauges(8, "train", seed=3, size=64), (64, 64))
    pixels, unit_xy, weight = (torch.from_numpy(part) for part in examples.batch(range(8)))
    torch.manual_seed(0)
    network = EfficientNetLiteRegressor(4, PLAIN["backbone"], mean_shape=examples.mean_shape())
    model = PixelModel(network, PIXEL_MEAN, PIXEL_STD).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=150, pct_start=0.1)
    loss = keylite.pytorch.loss("mae", (64, 64))
    for _ in range(150):
        optimizer.zero_grad()
        loss(model(pixels), unit_xy, weight).backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        errors = 64 * (model.eval()(pixels) - unit_xy).norm(dim=-1)
    assert float(errors.mean()) < 1.0, float(errors.mean())  # measured 0.34


def over_and_over(data, times: int):
    """The same objects many times in one epoch: many steps, one validation."""
    return data.subset(np.tile(np.arange(len(data)), times))


LEARNT = {  # head: input, px of 64 that its error is below after 60 steps; the mean shape is 6.6 off
    "heatmap": ("64", 2.0),  # measured 0.67; a cell is 8 px
    "simcc": ("96x64", 1.0),  # measured 0.14
    "rle": ("64", 4.0),  # measured 2.0
}


@pytest.mark.numeric
@pytest.mark.parametrize("head", LEARNT)
def test_a_head_learns(head: str, parts, tmp_path):
    data, (size, px) = parts[0], LEARNT[head]
    choices = recipe(
        **{"box": "annotation", "head": head, "size": size, "hidden": 64, "batch": 8, "epochs": 2, "lr": 5e-3},
        **{"ema": 0.0, "loss": "mae", "weight_decay": 0.0},
    )
    model = keylite.train(choices, over_and_over(data, 30), data, out=tmp_path)
    assert keylite.evaluate(model, data).pixel_error.mean < px


def test_a_run_leaves_its_files(parts, tmp_path):
    model = keylite.train(recipe(), *parts, out=tmp_path)
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
    assert (spec.report.epoch, spec.report.data) == (best["epoch"], parts[1].identity())
    assert spec.provenance.data == parts[0].identity()
    assert keylite.evaluate(model, parts[1]).nme.mean == pytest.approx(best["val_nme"], rel=1e-5)
    assert spec.provenance.recipe["epochs"] == 3
    report = keylite.evaluate(model, parts[1])
    assert spec.report.mean_shape_nme == pytest.approx(report.mean_shape_nme, rel=1e-6)
    shape = Examples(parts[0], (64, 64), box="image").mean_shape()
    np.testing.assert_allclose(spec.mean_shape, shape, rtol=1e-6)


@pytest.mark.numeric
def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not(parts, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        keylite.train(recipe(epochs=1, seed=seed, rotate_p=1.0), *parts, out=tmp_path / name)
    assert same_weights(tmp_path / "a/last.safetensors", tmp_path / "b/last.safetensors")
    assert not same_weights(tmp_path / "a/last.safetensors", tmp_path / "c/last.safetensors")


KILLED_RUNS = """
import os, signal
import keylite
from keylite.data.rendered.gauges import gauges
from keylite.pytorch import training
from keylite.training.recipe import make_recipe
def dies(function, moment, number):
    calls = 0
    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGINT if moment == "interrupt" else signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped
def run(out, choices, moment, number):
    if moment == "rename":
        os.replace = dies(os.replace, moment, number)
    else:
        training.Training.training_step = dies(training.Training.training_step, moment, number)
    try:
        keylite.train(make_recipe(choices), gauges(8, "train", 1, 64), gauges(4, "test", 2, 64), out=out)
    except KeyboardInterrupt:
        os._exit(130)
"""

# 2 steps an epoch; each epoch renames 5 files or so, the last of them the resume checkpoint
KILLS = {
    "before any epoch is done": ("step", 2, "regression"),
    "in the second epoch, with a flow": ("step", 4, "rle"),
    "as the first model file is moved into place": ("rename", 4, "regression"),
    "as the second resume checkpoint is moved into place": ("rename", 13, "regression"),
    "by Ctrl-C": ("interrupt", 4, "regression"),
}
WHOLE = {"regression": "whole_run", "rle": "whole_rle"}  # head: its unbroken run
MOVED = {"rotate_p": 1.0, "noise_p": 0.5}


@pytest.fixture(scope="module")
def whole_run(parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    keylite.train(recipe(**MOVED), *parts, out=out)
    return out


@pytest.fixture(scope="module")
def whole_rle(parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole_rle")
    keylite.train(recipe(**MOVED, head="rle"), *parts, out=out)
    return out


@pytest.fixture(scope="module")
def killed(forked, tmp_path_factory) -> dict[str, tuple[Path, int]]:
    """(folder, exit code) of a run killed at each moment."""
    folders = {name: tmp_path_factory.mktemp("killed") for name in KILLS}
    asked = [
        (str(folders[name]), to_dict(recipe(**MOVED, head=head)), moment, number)
        for name, (moment, number, head) in KILLS.items()
    ]
    return dict(zip(KILLS, zip(folders.values(), forked(KILLED_RUNS, asked), strict=True), strict=True))


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_resumes_to_the_same_end(name, killed, parts, request):
    (moment, _, head), (out, code) = KILLS[name], killed[name]
    whole_run = request.getfixturevalue(WHOLE[head])
    assert code == (130 if moment == "interrupt" else -signal.SIGKILL)
    for path in out.glob("*.safetensors"):
        load_model(path)  # whole, whenever it is there
    keylite.train(recipe(**MOVED, head=head), *parts, out=out, resume=True)
    assert rows_of(out) == rows_of(whole_run)
    for model in ("model.safetensors", "last.safetensors"):
        assert same_weights(out / model, whole_run / model)
    if head == "rle":
        assert flow_and_its_moments(out) == flow_and_its_moments(whole_run)


def flow_and_its_moments(out: Path) -> list[list[float]]:
    """Every tensor of the flow in a resume checkpoint, and what the optimizer keeps of it."""
    state = torch.load(out / "resume.ckpt", weights_only=False)
    flow = flow_of(out).values()
    optimizer = state["optimizer_states"][0]
    moments = [optimizer["state"][index] for index in optimizer["param_groups"][-1]["params"]]
    assert [kept["exp_avg"].shape for kept in moments] == [t.shape for t in flow]
    return [t.flatten().tolist() for t in (*flow, *(t for kept in moments for t in kept.values()))]


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "a byte": lambda content: (
        (half := len(content) // 2) and content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    ),
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_resume_checkpoint_is_one_line(damage, parts, whole_run, tmp_path):
    out = shutil.copytree(whole_run, tmp_path / "run")
    content = (out / "resume.ckpt").read_bytes()
    (out / "resume.ckpt").write_bytes(damage(content))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(ValueError, match=r"resume\.ckpt: the file is damaged, or of another run \(its bytes"):
        keylite.train(recipe(**MOVED), *parts, out=out, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before, "nothing is written before"


def test_a_full_disk_under_tensorboards_file_is_one_line_and_leaves_no_half_file(parts, tmp_path, monkeypatch, capsys):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", full)
    with pytest.raises(
        OSError, match=rf"^{tmp_path}: cannot write to this folder: No space left on device; .*`resume=True`$"
    ):
        keylite.train(recipe(epochs=1), *parts, out=tmp_path)
    assert "Traceback" not in capsys.readouterr().err
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


class Code:
    """What a pickle runs when it is loaded: it would make a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_an_odd_pickle_in_a_resume_checkpoint_is_refused_without_a_warning(tmp_path):
    from keylite.pytorch.resuming import read_checkpoint

    torch.save({"epoch": 1}, tmp_path / "resume.ckpt", pickle_protocol=4)
    with (
        warnings.catch_warnings(record=True, action="always") as said,
        pytest.raises(ValueError, match="more than tensors"),
    ):
        read_checkpoint(tmp_path / "resume.ckpt")
    assert said == []


HOSTILE = {  # a resume checkpoint's content, and a mark that code would make: changed; what is said
    "code": (lambda state, mark: state.update(more=Code(mark)), "holds more than tensors and numbers"),
    "no weights": (lambda state, mark: state.pop("state_dict"), "a part of it is missing"),
    "weights of another shape": (
        lambda state, mark: state["state_dict"].update(dict.fromkeys(list(state["state_dict"])[:1], torch.zeros(7))),
        "weights do not fit this network",
    ),
    "weights that are no numbers": (
        lambda state, mark: state["state_dict"]["model.network.head.points.bias"].fill_(torch.nan),
        "model.network.head.points.bias is not finite",
    ),
    "an optimizer of another shape": (
        lambda state, mark: state["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(7)),
        "exp_avg of its optimizer is not finite, or belongs to another network",
    ),
    "a step that is no number": (
        lambda state, mark: state["optimizer_states"][0]["state"][0].update(step=torch.tensor(float("nan"))),
        "step of its optimizer is not finite",
    ),
    "a learning rate that is text": (
        lambda state, mark: state["optimizer_states"][0]["param_groups"][0].update(lr="0.1"),
        "checkpoint.groups.0.lr is not as Lightning writes it",
    ),
    "progress that is no number": (
        lambda state, mark: state["loops"]["fit_loop"]["epoch_progress"]["total"].update(ready=float("nan")),
        "epoch_progress.total.ready is not as Lightning writes it",
    ),
    "epochs without figures": (
        lambda state, mark: state["callbacks"]["EpochEnd"]["history"].append({}),
        "its epochs are not counted from 1",
    ),
}


@pytest.mark.parametrize(("change", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_resume_checkpoint_runs_nothing_and_is_one_line(change, words, parts, whole_run, tmp_path):
    out, mark = shutil.copytree(whole_run, tmp_path / "run"), tmp_path / "ran"
    state = torch.load(out / "resume.ckpt", weights_only=True)
    change(state, mark)
    torch.save(state, out / "resume.ckpt")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(ValueError, match=rf"resume\.ckpt: .*{words}") as caught:
        keylite.train(recipe(**MOVED), *parts, out=out, resume=True)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before, "nothing is written before"


def test_a_flow_is_trained_and_in_the_resume_checkpoint_alone(whole_rle):
    found = flow_and_its_moments(whole_rle)
    assert len(found) == 72 * 4, "weights and biases; two moments and a count of steps of each"
    assert all(any(values) for values in found), "all of it moved"
    for name in ("model.safetensors", "last.safetensors"):
        assert {key for key in load_file(whole_rle / name) if key.startswith("head.")} == {
            f"head.{layer}.{part}" for layer in ("hidden", "points") for part in ("weight", "bias")
        }
        assert not [key for key in load_file(whole_rle / name) if "flow" in key or key.startswith(("scale", "shift"))]


def test_what_is_left_to_auto_is_settled_in_all_that_a_run_leaves(parts, tmp_path):
    choices = recipe(epochs="auto", effort=0.001, size=32, batch=8)
    model = keylite.train(choices, *parts, out=tmp_path)
    settled = {"epochs": 6, "warmup_epochs": 1.2, "strength": 1.0, "effort": 0.001}
    _, spec = load_model(model)
    written = read_recipe(tmp_path / "recipe.yaml")
    assert {name: written[name] for name in settled} == settled
    assert {name: spec.provenance.recipe[name] for name in settled} == settled
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert rows_of(tmp_path)[0]["lr"] == pytest.approx(1e-3)  # the warm-up is a step: the next is at the peak
    keylite.train(choices, *parts, out=tmp_path, resume=True)
    assert len(rows_of(tmp_path)) == 6
    with pytest.raises(ValueError, match="epochs was 6, is 7"):
        keylite.train(make_recipe({"epochs": 7}, base=choices), *parts, out=tmp_path, resume=True)


def test_resume_with_another_recipe_or_other_data_is_refused(parts, whole_run):
    choices = recipe(**MOVED)
    with pytest.raises(ValueError, match="lr was"):
        keylite.train(make_recipe({"lr": 0.5}, base=choices), *parts, out=whole_run, resume=True)
    with pytest.raises(ValueError, match="resumes with the data"):
        keylite.train(choices, parts[1], parts[0], out=whole_run, resume=True)
    with pytest.raises(ValueError, match="`resume=True`"):
        keylite.train(choices, *parts, out=whole_run)


def test_frozen_epochs_leave_the_backbone_as_it_was(parts, tmp_path):
    keylite.train(recipe(epochs=1, ema=0.0), *parts, out=tmp_path / "start")
    start = tmp_path / "start/last.safetensors"
    keylite.train(recipe(epochs=1, freeze_epochs=1, pretrained=str(start), ema=0.0), *parts, out=tmp_path / "frozen")
    keylite.train(recipe(epochs=2, freeze_epochs=1, pretrained=str(start), ema=0.0), *parts, out=tmp_path / "thawed")
    before, frozen = load_file(start), load_file(tmp_path / "frozen/last.safetensors")
    thawed = load_file(tmp_path / "thawed/last.safetensors")
    backbone = [name for name in before if not name.startswith("head.")]
    assert all(torch.equal(before[name], frozen[name]) for name in backbone)  # statistics too
    assert not torch.equal(before["head.points.weight"], frozen["head.points.weight"])
    assert not torch.equal(before["bn1.running_mean"], thawed["bn1.running_mean"])


@pytest.mark.numeric
@pytest.mark.parametrize("head", WHOLE)
def test_accumulated_batches_are_one_mean_over_all_their_points(head, tmp_path):
    images = gauges(8, "train", seed=1, size=64)
    xy = images.xy.copy()
    xy[:3, 1:] = np.nan  # batches of 4 hold very different numbers of points
    xy[5] = np.nan
    xy[5, 0] = (10, 10)
    data = from_arrays(images.images, xy, skeleton=images.skeleton)
    common = {"optimizer": "sgd", "momentum": 0.0, "lr": 1e-4, "freeze_epochs": 2, "epochs": 2, "ema": 0.0, "clip": 0.0}
    common["head"] = head
    for name, batch, accumulate in (("one", 8, 1), ("two", 4, 2)):
        keylite.train(recipe(**common, batch=batch, accumulate=accumulate), data, images, out=tmp_path / name)
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    assert rows_of(tmp_path / "one")[-1]["step"] == rows_of(tmp_path / "two")[-1]["step"] == 2
    one, two = ({**part, **flow_of(tmp_path / name)} for part, name in ((one, "one"), (two, "two")))
    assert len([name for name in one if name.startswith("flow.")]) == (72 if head == "rle" else 0)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)


def flow_of(out: Path) -> dict[str, torch.Tensor]:
    state = torch.load(out / "resume.ckpt", weights_only=False)["state_dict"]
    return {name: t for name, t in state.items() if name.startswith("flow.")}


def test_early_stopping_ends_the_run(parts, tmp_path, caplog):
    caplog.set_level(logging.INFO, "keylite")
    keylite.train(recipe(epochs=9, patience=1, lr=1e-30, freeze_epochs=9, ema=0.0), *parts, out=tmp_path)
    assert len(rows_of(tmp_path)) == 2
    assert "stopped early" in caplog.text


@pytest.mark.numeric
def test_best_is_the_epoch_with_the_lowest_val_nme(parts, tmp_path):
    keylite.train(recipe(epochs=4, lr=0.03), *parts, out=tmp_path)
    rows = rows_of(tmp_path)
    best = keylite.evaluate(tmp_path / "model.safetensors", parts[1]).nme.mean
    last = keylite.evaluate(tmp_path / "last.safetensors", parts[1]).nme.mean
    assert best == pytest.approx(min(row["val_nme"] for row in rows), rel=1e-5)
    assert last == pytest.approx(rows[-1]["val_nme"], rel=1e-5)


SPEAKING = {
    "warm-up longer than the run": ({"warmup_epochs": 5.0}, "warm-up"),
    "worse than the mean shape": (
        {"lr": 1.0, "warmup_epochs": 0.0, "clip": 0.0, "ema": 0.0},
        "worse than predicting the mean shape",
    ),
    "worse than the mean shape to the end": (
        {"lr": 1.0, "warmup_epochs": 0.0, "clip": 0.0, "ema": 0.0},
        "is no better than the mean shape of the training labels: the best epoch's val NME is",
    ),
    "all errors above the threshold": ({"loss": "huber", "delta": 1e-4, "lr": 1e-6}, "one branch of huber"),
    "all errors below the threshold": ({"loss": "wing", "wing_width": 500.0, "lr": 1e-6}, "one branch of wing"),
}


@pytest.mark.parametrize(("choices", "words"), SPEAKING.values(), ids=SPEAKING)
def test_a_run_that_looks_wrong_is_said_aloud(choices, words, parts, tmp_path, caplog):
    keylite.train(recipe(epochs=3, **choices), *parts, out=tmp_path)
    assert words in caplog.text


def test_of_a_loss_that_a_flow_replaces_nothing_is_said(parts, tmp_path, caplog):
    keylite.train(recipe(epochs=1, head="rle", loss="wing", wing_width=500.0), *parts, out=tmp_path)
    assert "one branch" not in caplog.text


def test_a_sound_run_says_nothing(parts, tmp_path, caplog):
    keylite.train(recipe(epochs=2, loss="mae", lr=1e-5), *parts, out=tmp_path)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line for line in warned if "the mean shape" not in line] == []


def test_val_that_shares_a_group_with_train_is_said_aloud(parts, tmp_path, caplog):
    keylite.train(recipe(epochs=1), parts[0], parts[0].subset([0, 1]), out=tmp_path)
    assert "shares 2 groups" in caplog.text
    assert "2 of 2 pictures of val" in caplog.text and "are in the training data, too (2 equal)" in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run(parts, tmp_path):
    with pytest.raises(ValueError, match="lower lr"):
        keylite.train(recipe(epochs=30, optimizer="sgd", lr=1e30, clip=0.0, loss="mse", ema=0.0), *parts, out=tmp_path)


def test_half_precision_without_a_gpu_is_refused(parts, tmp_path):
    with pytest.raises(ValueError, match="16 needs a GPU"):
        keylite.train(recipe(precision="16", device="cpu"), *parts, out=tmp_path)


def test_a_missing_compiler_is_refused_before_the_folder_is_opened(parts, tmp_path, monkeypatch):
    def broken(_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ValueError, match="compile: does not work here"):
        keylite.train(recipe(compile="on", device="cpu"), *parts, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("head", HEADS)
def test_bf16_trains_and_its_losses_are_of_float32(head, parts, tmp_path, monkeypatch):
    seen = []

    def sums(head, points, raw, *given, original=training.head_sums):
        found = original(head, points, raw, *given)
        seen.append((raw.detach().clone(), found[2].detach()))
        return found

    monkeypatch.setattr(training, "head_sums", sums)
    keylite.train(recipe(epochs=1, precision="bf16", head=head), *parts, out=tmp_path)
    assert np.isfinite(rows_of(tmp_path)[0]["loss"])
    for raw, unit_xy in seen:
        expected = HEADS[head](4, 16, (64, 64)).decode(raw.numpy())[0]
        np.testing.assert_allclose(unit_xy.numpy(), expected, atol=1e-5)  # a mean in bfloat16 is 1e-3 off


def test_a_folder_that_cannot_be_written_is_one_line(parts, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="file"):
        keylite.train(recipe(), *parts, out=blocked / "run")
    assert os.listdir(tmp_path) == ["file"]


# ---- several processes


@pytest.fixture(scope="module")
def uneven() -> Dataset:
    """Ten objects whose batches hold very different numbers of points."""
    images = gauges(10, "train", seed=1, size=64)
    xy = images.xy.copy()
    xy[:3, 1:] = np.nan
    xy[5:7] = np.nan
    xy[7, 0] = (10, 10)
    return from_arrays(images.images, xy, skeleton=images.skeleton)


TOGETHER = {  # the head, then every weight of a backbone whose normalisation knows no batch
    **{"backbone": "timm:test_convnext", "freeze_epochs": 5, "epochs": 20},
    **{"optimizer": "sgd", "lr": 1e-3, "ema": 0.9, "clip": 0.5},
}


@pytest.fixture(scope="module")
def by_two(uneven: Dataset, tmp_path_factory) -> Path:
    """A run of two processes; 20 steps of 8 objects, of which 2 are left over in each epoch."""
    out = tmp_path_factory.mktemp("by_two")
    keylite.train(recipe(**TOGETHER, batch=4, devices=2), uneven, gauges(5, "test", seed=2, size=64), out=out)
    return out


def test_two_processes_take_the_steps_of_one(by_two: Path, uneven: Dataset, tmp_path: Path):
    keylite.train(recipe(**TOGETHER, batch=8), uneven, gauges(5, "test", seed=2, size=64), out=tmp_path)
    for name in ("model.safetensors", "last.safetensors"):
        one, two = load_file(tmp_path / name), load_file(by_two / name)
        for tensor in one:
            torch.testing.assert_close(two[tensor], one[tensor], rtol=0, atol=1e-5)
    ours, theirs = rows_of(by_two), rows_of(tmp_path)
    assert ours[-1]["step"] == theirs[-1]["step"] == 20
    for row, other in zip(ours, theirs, strict=True):
        assert row == pytest.approx(other, rel=1e-4)  # loss and every validation object are counted once
    assert list((by_two / "tensorboard").glob("events*"))


def test_one_process_goes_on_where_two_stopped(by_two: Path, uneven: Dataset, tmp_path: Path):
    """And the other way round is refused where the batches are not as large together."""
    shutil.copytree(by_two, tmp_path, dirs_exist_ok=True)
    val = gauges(5, "test", seed=2, size=64)
    keylite.train(recipe(**TOGETHER, batch=8), uneven, val, out=tmp_path, resume=True)
    assert rows_of(tmp_path) == rows_of(by_two)
    with pytest.raises(ValueError, match="batch x devices x nodes was 8 x 1 x 1, is 8 x 2 x 1"):
        keylite.train(recipe(**TOGETHER, batch=8, devices=2), uneven, val, out=tmp_path, resume=True)


def test_two_processes_go_on_where_one_stopped(by_two: Path, uneven: Dataset, tmp_path: Path, monkeypatch):
    val, ended = gauges(5, "test", seed=2, size=64), []

    def end_epoch(self, *args, original=Run.end_epoch, **kwargs):
        ended.append(original(self, *args, **kwargs))
        if len(ended) == 7:
            raise KeyboardInterrupt
        return ended[-1]

    monkeypatch.setattr(Run, "end_epoch", end_epoch)
    with pytest.raises(KeyboardInterrupt):
        keylite.train(recipe(**TOGETHER, batch=8), uneven, val, out=tmp_path)
    assert len(rows_of(tmp_path)) in (6, 7)
    keylite.train(recipe(**TOGETHER, batch=4, devices=2), uneven, val, out=tmp_path, resume=True)
    one, two = load_file(tmp_path / "last.safetensors"), load_file(by_two / "last.safetensors")
    for tensor in one:
        torch.testing.assert_close(two[tensor], one[tensor], rtol=0, atol=1e-5)
    assert [row["epoch"] for row in rows_of(tmp_path)] == [row["epoch"] for row in rows_of(by_two)]


class KillsAnother(logging.Handler):
    """Kills the second process when the first one tells of an epoch."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("epoch 3/"):
            for process in multiprocessing.active_children():
                if process.name == "process 1":
                    process.kill()


def test_a_killed_process_ends_the_run_which_goes_on(by_two: Path, uneven: Dataset, tmp_path: Path, monkeypatch):
    val, killer = gauges(5, "test", seed=2, size=64), KillsAnother()
    monkeypatch.setattr(training.log, "level", logging.INFO)
    training.log.addHandler(killer)
    try:
        with pytest.raises(OSError, match="^training: process 2 of 2 was ended by SIGKILL; the others were stopped; "):
            keylite.train(recipe(**TOGETHER, batch=4, devices=2), uneven, val, out=tmp_path)
    finally:
        training.log.removeHandler(killer)
    assert not multiprocessing.active_children()
    assert 3 <= len(rows_of(tmp_path)) < 20
    keylite.train(recipe(**TOGETHER, batch=8), uneven, val, out=tmp_path, resume=True)
    for row, other in zip(rows_of(tmp_path), rows_of(by_two), strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_one_of_several_that_fails_ends_the_run(on_disk: Dataset, parts, tmp_path: Path, monkeypatch):
    """An image that only one of them is to read."""
    gone = Path(on_disk.images[5])
    monkeypatch.setattr(
        "keylite.training.train.examples_sheet", lambda _: gone.unlink() or np.zeros((8, 8, 3), np.uint8)
    )
    with pytest.raises(ValueError, match=f"^{re.escape(str(gone))}: no such image file"):
        keylite.train(recipe(cache="off", batch=4, devices=2), on_disk, parts[1], out=tmp_path / "run")
    assert not multiprocessing.active_children()


def test_statistics_of_several_gpus_keep_the_activations():
    """torch's own conversion would leave out timm's activations behind a normalisation."""
    network = EfficientNetLiteRegressor(4).eval()
    images = torch.randn(1, 3, 64, 64)
    before = network(images)
    training.convert_sync_batchnorm(network)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in network.modules())
    torch.testing.assert_close(network(images), before)


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_processes_share_an_epoch(rank: int, size: int, uneven: Dataset):
    examples = Examples(uneven, (32, 32), box="image")
    order = batches.EpochOrder(examples, 2, World(rank, size))
    order.set_epoch(3)
    steps = 10 // (2 * size)
    whole = examples.order(3)[: steps * 2 * size].reshape(steps, size, 2)
    assert list(order) == whole[:, rank].ravel().tolist()
    assert len(order) == steps * 2


def test_who_listens_is_told_how_far_a_run_is(parts, tmp_path: Path, told_steps):
    out = keylite.train(recipe(epochs=2), *parts, out=tmp_path).parent
    done, total = told_steps["training"]
    assert done == total > 0
    rows = (out / "log.csv").read_text().splitlines()
    assert rows[0].endswith(",seconds,epoch_seconds")
    times = [[float(value) for value in row.split(",")[-2:]] for row in rows[1:]]
    assert times[0][0] == times[0][1] > 0
    assert times[1][0] == pytest.approx(times[0][1] + times[1][1], abs=0.01)


# ---- what fails on the way


@pytest.fixture
def on_disk(tmp_path: Path) -> Dataset:
    """Eight gauges as files."""
    write_dataset(gauges(8, "train", seed=1, size=64), tmp_path / "data")
    return read_dataset(tmp_path / "data/labels.json")


@pytest.mark.filterwarnings("ignore:This DataLoader will create 1 worker processes")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_is_named(workers: int, on_disk: Dataset, parts, tmp_path: Path, monkeypatch):
    gone = Path(on_disk.images[5])
    monkeypatch.setattr(
        "keylite.training.train.examples_sheet", lambda _: gone.unlink() or np.zeros((8, 8, 3), np.uint8)
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(gone))}: no such image file"):
        keylite.train(recipe(workers=workers, cache="off"), on_disk, parts[1], out=tmp_path / "run")


@pytest.mark.filterwarnings("ignore:This DataLoader will create 1 worker processes")
def test_a_worker_that_dies_ends_the_run_in_one_line(parts, tmp_path: Path, monkeypatch):
    alone, batch = os.getpid(), Examples.batch

    def killed(examples: Examples, items: list[int]):
        if os.getpid() != alone:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(examples, items)

    monkeypatch.setattr(Examples, "batch", killed)
    monkeypatch.setattr(batches, "STUCK", 5)  # seconds, where no signal tells of it
    with pytest.raises(OSError, match="^workers: a process that prepares batches has ended .* with `resume=True`"):
        keylite.train(recipe(workers=1), *parts, out=tmp_path)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 1 worker processes")
def test_shared_memory_that_is_full_ends_the_run_in_one_line(parts, tmp_path: Path, monkeypatch):
    resource = pytest.importorskip("resource", reason="needs limits of processes")
    alone, batch = os.getpid(), Examples.batch

    def cramped(examples: Examples, items: list[int]):
        if os.getpid() != alone:  # no file may be larger, and none of /dev/shm either
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return batch(examples, items)

    monkeypatch.setattr(Examples, "batch", cramped)
    with pytest.raises(OSError, match=r"^workers: no shared memory \(/dev/shm\) for a batch \(.*fewer workers$"):
        keylite.train(recipe(workers=1), *parts, out=tmp_path)


KNOWN = {  # what torch raises, processes: what is said
    "a worker": (RuntimeError("DataLoader worker (pid 7) is killed"), 1, "workers: a process that pre"),
    "a companion": (RuntimeError("[gloo/pair.cc:5] Connection closed"), 2, "training: process 1 of 2 lost another ("),
    "a companion of a GPU": (torch.distributed.DistBackendError("NCCL"), 2, "training: process 1 of 2 lost another (N"),
    "a compiler": (
        torch._dynamo.exc.BackendCompilerFailed(lambda: 0, OSError("no g++"), None),
        1,
        "compile: the step does not compile here (backend=",
    ),
    "something that sounds like it": (RuntimeError("[gloo/pair.cc:5] Connection closed"), 1, None),
    "something else": (RuntimeError("shapes differ"), 2, None),
}


@pytest.mark.parametrize(("error", "size", "words"), KNOWN.values(), ids=KNOWN)
def test_what_is_no_fault_of_ours_is_one_line(error: RuntimeError, size: int, words: str | None):
    known = failure_of(error, World(0, size))
    assert (known is None) if words is None else str(known).startswith(words) and "\n" not in str(known)
