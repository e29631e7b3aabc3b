"""What every framework does at a step and before a run: the schedule, the moving average, and what is refused."""

from __future__ import annotations

import importlib
import json
import logging
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import keylite
from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.evaluation.normaliser import read_normaliser
from keylite.runtime.drawing import CAPTION, MIDDLE
from keylite.runtime.heads import HEADS
from keylite.runtime.packages import FRAMEWORKS
from keylite.training import run as runs
from keylite.training.folder import check_resumed, check_run, open_run, require_history, write_profile
from keylite.training.recipe import AUTO, Resolved, make_recipe
from keylite.training.run import Run, require_finite
from keylite.training.schedule import LRS, caches, ema_decay, lr_factor, resolve
from keylite.training.sheet import examples_sheet


@pytest.fixture(scope="module")
def few() -> Dataset:
    """Four gauges."""
    return keylite.gauges(4, size=64)


STEPS = 4  # an epoch, of 10
LEARNING = {  # choices, step, share of the peak
    "first step": ({}, 0, 1 / 5),
    "last of the warm-up": ({}, 3, 4 / 5),
    "the peak": ({}, 4, 1.0),
    "half way down": ({}, 4 + 18, 0.5),
    "last step": ({}, 39, (1 + math.cos(math.pi * 35 / 36)) / 2),
    "after the end": ({}, 40, 0.0),
    "constant, in the warm-up": ({"schedule": "constant"}, 3, 4 / 5),
    "constant, at its end": ({"schedule": "constant"}, 4, 1.0),
    "constant, last step": ({"schedule": "constant"}, 39, 1.0),
    "without a warm-up": ({"warmup_epochs": 0}, 0, 1.0),
    "without a warm-up, half way": ({"warmup_epochs": 0}, 20, 0.5),
    "a warm-up of part of an epoch": ({"warmup_epochs": 0.5}, 1, 2 / 3),
    "over in the middle of an epoch": ({"warmup_epochs": 0.5}, 2, 1.0),
    "a warm-up longer than the run": ({"warmup_epochs": 20}, 39, 40 / 81),
    "a warm-up as long as the run": ({"warmup_epochs": 10}, 40, 1.0),
}


@pytest.mark.parametrize(("choices", "step", "share"), LEARNING.values(), ids=LEARNING)
def test_the_learning_rate_rises_then_follows_the_schedule(choices: dict, step: int, share: float):
    recipe = make_recipe({"epochs": 10, "warmup_epochs": 1} | choices)
    assert lr_factor(recipe, step, STEPS) == pytest.approx(share, abs=1e-15)


SETTLED = {  # objects, choices: epochs, warm-up in epochs, strength
    "what the rule is made of": (2795, {}, (20, 1.0, 1.0)),
    "half the effort": (2795, {"effort": 0.5}, (10, 1.0 / 2, 1.0)),
    "twice the effort": (2795, {"effort": 2.0}, (40, 2.0, 1.0)),
    "a quarter of the objects": (699, {}, (40, 2.0, 1.0)),
    "100 objects": (100, {}, (106, 5.3, 1.25)),  # 5 % of 636 steps
    "very few": (4, {}, (300, 20.0, 1.25)),  # a step an epoch
    "very many": (10**6, {}, (6, 0.3, 0.75)),
    "little effort": (2795, {"effort": 0.01}, (6, 0.3, 1.0)),
    "no step left over": (8, {"batch": 4, "epochs": 3}, (3, 0.6, 1.25)),  # a fifth of 6 steps
    "at least 20 steps": (480, {"epochs": 10}, (10, 20 / 30, 1.25)),
    "two batches a step": (2795, {"accumulate": 2}, (20, 1.0, 1.0)),
    "one below 500": (499, {"epochs": 9, "warmup_epochs": 1}, (9, 1.0, 1.25)),
    "500": (500, {"epochs": 9, "warmup_epochs": 1}, (9, 1.0, 1.0)),
    "20,000": (20_000, {"epochs": 9, "warmup_epochs": 1}, (9, 1.0, 1.0)),
    "one more": (20_001, {"epochs": 9, "warmup_epochs": 1}, (9, 1.0, 0.75)),
    "a range given": (8, {"rotate": 40}, (300, 20.0, 1.0)),
    "all given": (8, {"epochs": 2, "warmup_epochs": 7, "strength": 0.5, "effort": 9}, (2, 7.0, 0.5)),
}


@pytest.mark.parametrize(("count", "choices", "wanted"), SETTLED.values(), ids=SETTLED)
def test_what_is_left_to_auto_follows_the_size_of_the_data(count: int, choices: dict, wanted: tuple, few: Dataset):
    recipe = make_recipe({"size": [96, 64], "mirror": [["a", "b"]]} | choices)
    found = resolve(recipe, few, count)
    assert type(found) is Resolved
    assert (found.epochs, found.warmup_epochs, found.strength) == pytest.approx(wanted, abs=5e-5)
    assert type(found.epochs) is int
    assert found.lr == 3e-3
    rest = {name: getattr(found, name) for name in AUTO}
    assert make_recipe(rest, base=recipe) == make_recipe({}, base=found), "nothing else changes"
    assert resolve(found, few, 10 * count) == found, "what is settled stays"


def test_what_is_settled_is_one_line(few: Dataset, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    caplog.set_level(logging.INFO, "keylite")
    resolve(make_recipe({}), few, 2795)
    resolve(make_recipe({"batch": 64, "accumulate": 2}), few, 100)
    resolve(make_recipe({}), few, 100, quiet=True)
    assert caplog.messages == [
        "2,795 objects: 20 epochs (3,480 steps of 16), lr 0.003 after 1 epoch of warm-up, augmentation x1",
        "100 objects: 106 epochs (106 steps of 128), lr 0.003 after 20 epochs of warm-up, augmentation x1.25",
    ]


EXTENTS = {  # choices, points of three images of 300 x 400 px, which are 500 px across: what errors are divided by
    "boxes": ({}, [[0, 0], [30, 40]], "box_diagonal"),
    "whole images": ({"box": "image"}, [[0, 0], [30, 40]], "0.1 x box_diagonal"),
    "more than two points": ({"box": "image"}, [[30, 0], [0, 40], [9, 9]], "0.1 x box_diagonal"),
    "a single keypoint": ({"box": "image"}, [[5, 5]], "box_diagonal"),
    "points that coincide": ({"box": "image"}, [[5, 5], [5, 5]], "box_diagonal"),
    "given": ({"box": "image", "normalize": "9px"}, [[0, 0], [30, 40]], "9px"),
}


@pytest.mark.parametrize(("choices", "points", "divisor"), EXTENTS.values(), ids=EXTENTS)
def test_errors_are_divided_by_the_size_of_objects(choices: dict, points: list, divisor: str):
    xy = np.array(points, np.float64)[None] * np.array([0.5, 1, 9])[:, None, None]
    data = from_arrays([np.zeros((400, 300, 3), np.uint8)] * 3, xy)
    assert resolve(make_recipe(choices), data).normalize == divisor


def test_of_images_of_many_sizes_the_share_is_the_median(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    caplog.set_level(logging.INFO, "keylite")
    sides = (30, 60, 3000)
    images = [np.zeros((4 * side // 3, side, 3), np.uint8) for side in sides]
    xy = np.array([[[0, 0], [3 * k, 4 * k]] for k in (2.0, 1, 300)])  # of diagonals of 50, 100 and 5000 px
    xy = np.concatenate([xy, np.full((1, 2, 2), np.nan)])
    data = from_arrays([*images, images[0]], xy)
    assert resolve(make_recipe({"box": "image"}), data).normalize == "0.2 x box_diagonal"
    assert "the median extent of the training objects' points, 10.0 px; 1 % is 0.10 px" in caplog.text
    assert (read_normaliser("0.2 x box_diagonal", ()).lengths(data.xy, data.whole_boxes()) == (10, 20, 1000, 10)).all()


@pytest.mark.parametrize(
    ("choices", "stages"),
    [
        ({}, 5),
        ({"head": "simcc"}, 5),
        ({"head": "regression"}, 7),
        ({"head": "rle"}, 7),
        ({"backbone": "lite4"}, 5),
        ({"backbone": "timm:resnet18"}, 7),
        ({"stages": 7}, 7),
    ],
)
def test_heads_with_a_pyramid_need_no_more_than_five_stages(choices: dict, stages: int, few: Dataset):
    assert resolve(make_recipe(choices), few, 100).stages == stages


@pytest.mark.parametrize("head", HEADS)
def test_each_head_has_its_learning_rate(head: str, few: Dataset):
    assert resolve(make_recipe({"head": head, "optimizer": "adam"}), few, 100).lr == LRS[head]
    assert resolve(make_recipe({"head": head, "lr": 0.5}), few, 100).lr == 0.5


def test_sgd_needs_a_learning_rate_of_its_own(few: Dataset):
    with pytest.raises(ValueError, match="^lr: auto is for adam and adamw; give a number for sgd"):
        resolve(make_recipe({"optimizer": "sgd"}), few, 100)


def test_training_data_that_label_nothing_are_refused_by_their_name(few: Dataset) -> None:
    bare = few.with_xy(np.full_like(few.xy, np.nan))
    with pytest.raises(
        ValueError, match=f"^{few.name}: none of the {len(few)} training objects has a labelled point; label"
    ):
        resolve(make_recipe({}), bare)
    assert resolve(make_recipe({"optimizer": "sgd", "lr": 0.01}), few, 100).lr == 0.01


DECAYS = {
    "first step": (0.999, 0, 1 / 10),
    "young": (0.999, 8, 1 / 2),
    "before the limit": (0.9, 79, 80 / 89),
    "the limit": (0.9, 80, 0.9),
    "old": (0.999, 10**6, 0.999),
    "none": (0.0, 100, 0.0),
}


@pytest.mark.parametrize(("ema", "step", "decay"), DECAYS.values(), ids=DECAYS)
def test_a_young_average_follows_quickly(ema: float, step: int, decay: float):
    assert ema_decay(make_recipe({"ema": ema}), step) == pytest.approx(decay, abs=1e-15)


@pytest.mark.parametrize("total", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_one_line(total: float):
    line = f"training: the loss is {total} in epoch 3; lower lr (now 0.5), or set clip"
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        require_finite(make_recipe({"lr": 0.5}), 2, total)


@pytest.mark.parametrize("total", [0.0, -1.0, 1e300])
def test_any_other_loss_is_let_through(total: float):
    require_finite(make_recipe({}), 0, total)


@pytest.mark.parametrize(("framework", "extra"), FRAMEWORKS.items())
def test_a_missing_package_of_a_run_comes_with_the_extra_of_its_framework(
    framework: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip({"pytorch": "torch"}.get(framework, framework), reason=f"needs keylite[{extra}]")
    importlib.import_module(f"keylite.{framework}.training")  # whole: what it imports notes for good what is missing
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    gauges = keylite.gauges(4, size=64)
    with pytest.raises(ModuleNotFoundError, match=re.escape(f"pip install 'keylite[{extra}]'")):
        keylite.train(make_recipe({"framework": framework}), gauges, gauges, out=tmp_path / "out")


def test_what_a_killed_run_had_not_finished_writing_goes(tmp_path: Path):
    gauges = keylite.gauges(4, size=64)
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    for name in (f".resume.ckpt.{dead.pid}.part.ckpt", f".model.safetensors.{dead.pid}.part.safetensors", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / f".{dead.pid}.part").mkdir()
    (tmp_path / ".notes.part").mkdir()  # somebody's own
    open_run(tmp_path, resolve(make_recipe({}), gauges), gauges, gauges, resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", ".notes.part", "data.json", "recipe.yaml"}


def test_another_framework_is_another_recipe_installed_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gauges = keylite.gauges(4, size=64)
    open_run(tmp_path, resolve(make_recipe({"framework": "tensorflow"}), gauges), gauges, gauges, resume=False)
    for package in ("torch", "lightning", "keylite.pytorch.training", "keylite.pytorch"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="framework was 'tensorflow', is 'pytorch'"):
        keylite.train(make_recipe({}), gauges, gauges, out=tmp_path, resume=True)


def test_a_framework_that_is_missing_names_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gauges = keylite.gauges(4, size=64)
    pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")
    for module in [name for name in sys.modules if name.startswith("keylite.pytorch")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"torch is not installed: .*, or train with `framework='tensorflow'`"
    ):
        keylite.train(make_recipe({}), gauges, gauges, out=tmp_path / "run")
    assert not (tmp_path / "run/recipe.yaml").exists()


RESUMED = {  # choices of the run, of its resumption, objects then: what is said, if anything
    "the same": ({}, {}, 4, None),
    "auto for what it had settled": ({"epochs": 300}, {}, 4, None),
    "what it had settled, as a number": ({}, {"epochs": 300, "strength": 1.25}, 4, None),
    "another number than it had settled": ({}, {"epochs": 9}, 4, "epochs was 300, is 9"),
    "auto for another number": ({"epochs": 9}, {}, 4, "epochs was 9, is 300"),
    "another effort": ({}, {"effort": 2}, 4, "effort was 1.0, is 2.0"),
    "other processes that share a step": ({"batch": 8}, {"batch": 4, "devices": 2}, 4, None),
    "another batch": ({"batch": 8}, {"batch": 4}, 4, "batch x devices x nodes was 8 x 1 x 1, is 4 x 1 x 1"),
    "the mirror of auto": ({"mirror": "off"}, {}, 4, "mirror was 'off', is 'auto'"),
    "other data, which settle it otherwise": ({}, {}, 3, "the data that it began with"),
    "what has no effect": ({}, {"threads": 3, "cache": "ram"}, 4, None),
}


@pytest.mark.parametrize(("began", "goes_on", "count", "words"), RESUMED.values(), ids=RESUMED)
def test_a_run_resumes_with_what_it_began_with(began: dict, goes_on: dict, count: int, words: str, tmp_path: Path):
    pytest.importorskip("matplotlib")
    gauges = keylite.gauges(4, size=64)
    open_run(tmp_path, resolve(make_recipe(began), gauges), gauges, gauges, resume=False)
    recipe, part = make_recipe(goes_on), gauges.subset(range(count))

    def resumes() -> None:
        check_run(tmp_path, recipe, resume=True, overwrite=False)
        check_resumed(tmp_path, resolve(recipe, part), part, gauges)

    if words is None:
        resumes()
        return
    with pytest.raises(ValueError, match=re.escape(words)):
        resumes()


def test_a_folder_of_folds_is_not_a_run_s(tmp_path: Path):
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1/recipe.yaml").write_text("")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds folds; go on with `folds`, or choose another `out`"):
            check_run(tmp_path, make_recipe({}), resume=False, overwrite=overwrite)


THIRDS = {1: 1, 2: 1, 3: 1, 4: 2, 6: 2, 7: 3, 9: 3, 300: 100}  # epochs of a run: the one whose end is a third of it


@pytest.mark.parametrize(("epochs", "third"), THIRDS.items())
def test_a_run_that_looks_wrong_is_said_once_at_its_third(epochs: int, third: int, few: Dataset, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    baseline = SimpleNamespace(nme=SimpleNamespace(mean=0.1))
    run = Run(resolve(make_recipe({"epochs": epochs}), few), None, few, Path("out"), baseline)
    said = []
    for epoch in range(1, epochs + 1):
        run.history.append({"epoch": epoch, "val_nme": 0.2})
        caplog.clear()
        run.speak_up(2.0, 0.0)
        said += [epoch] * len(caplog.messages)
    lines = 1 if third == epochs else 2  # of the loss's branch, and of the mean shape, which the end of a run says, too
    assert said == [third] * lines


# ---- the end of an epoch


def report(nme: float) -> SimpleNamespace:
    return SimpleNamespace(nme=SimpleNamespace(mean=nme), pixel_error=SimpleNamespace(mean=100 * nme))


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What is logged, and nothing on the terminal."""
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    caplog.set_level(logging.INFO, "keylite")
    return caplog


def test_an_epoch_s_end_keeps_the_best_the_last_and_a_log(few: Dataset, tmp_path: Path, told, monkeypatch):
    """Epochs of 1, 9, 1, 1, 1, 1 and 2 s, of eight: the time that is left goes by the median of the last five."""
    nmes, ends = (0.3, 0.2, 0.25, 0.2, 0.3, 0.4, 0.1), (1, 10, 11, 12, 13, 14, 16)
    times, reports = iter(ends), iter(nmes)
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: float(next(times))))
    monkeypatch.setattr(runs, "validate", lambda *_: report(next(reports)))
    monkeypatch.setattr(runs, "with_figures", lambda spec, report, baseline, epoch: (epoch, report.nme.mean))
    run = Run(resolve(make_recipe({"epochs": 8}), few), None, few, tmp_path, report(0.5), since=0.0)
    saved, best = [], []
    told.clear()
    for number, nme in enumerate(nmes, 1):
        row = run.end_epoch(None, lambda *given: saved.append(given), step=5 * number, lr=1e-3, loss=2.0)
        assert len(told.messages) == number - 1, "the framework has not written its checkpoint yet"
        run.say_epoch()
        assert (row["epoch"], row["step"], row["val_nme"], row["seconds"]) == (
            number,
            5 * number,
            nme,
            ends[number - 1],
        )
        if nme in (0.3, 0.2, 0.1) and nme not in best and nme < min([1, *best]):
            best.append(nme)
            assert saved.pop(0) == ((number, nme), tmp_path / "model.safetensors")
        assert saved == [((number, nme), tmp_path / "last.safetensors")]
        saved.clear()
    assert best == [0.3, 0.2, 0.1]
    start = "epoch {}/8  loss 2  val NME {}.00 %  val error {}.00 px  {}"
    assert told.messages[:3] == [
        start.format(1, 30, 30, "1 s, about 7 s left  (best)"),
        start.format(2, 20, 20, "9 s, about 30 s left  (best)"),
        start.format(3, 25, 25, "1 s, about 5 s left"),
    ]
    assert told.messages[-1] == start.format(7, 10, 10, "2 s, about 1 s left  (best)")
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,lr,loss,val_nme,val_px,seconds,epoch_seconds"
    assert lines[2] == "2,10,0.001,2.0,0.2,20.0,10.0,9.0"
    assert len(lines) == 8
    assert (tmp_path / "curves.png").exists()


ENDS = {  # epochs, patience, val NME of each so far: whether the run is at its end
    "nothing yet": (3, 1, [], False),
    "all epochs": (3, None, [0.1, 0.2, 0.3], True),
    "one is left": (3, None, [0.1, 0.2], False),
    "patience is not yet out": (9, 2, [0.1, 0.2], False),
    "patience is out": (9, 2, [0.1, 0.2, 0.1], True),
    "a new best": (9, 2, [0.2, 0.3, 0.1], False),
}


@pytest.mark.parametrize(("epochs", "patience", "nmes", "ended"), ENDS.values(), ids=ENDS)
def test_a_run_ends_after_its_epochs_or_its_patience(epochs, patience, nmes, ended, few: Dataset, told):
    choices = {"epochs": epochs} | ({"patience": patience} if patience else {})
    run = Run(resolve(make_recipe(choices), few), None, few, Path("out"), report(0.1), since=0.0)
    run.history += [{"val_nme": nme} for nme in nmes]
    assert run.finished() == ended
    assert (f"stopped early: no better val NME for {patience} epochs" in told.messages) == bool(ended and patience)


def test_a_loss_of_one_branch_says_nothing(few: Dataset, told):
    run = Run(resolve(make_recipe({"epochs": 1}), few), None, few, Path("out"), report(0.3), since=0.0)
    run.history.append({"epoch": 1, "val_nme": 0.3})
    told.clear()
    run.speak_up(None, 0.0)
    run.speak_up(2.0, 0.5)
    assert told.messages == [], "as good as the mean shape, too, is not worse"
    run.speak_up(2.0, 1.0)
    assert "every error of epoch 1 is below 2 px" in told.messages[0]


EPOCH = dict.fromkeys(("epoch", "step", "lr", "loss", "val_nme", "val_px", "seconds", "epoch_seconds"), 1)
HISTORIES = {
    "none": None,
    "no epoch": [],
    "no list": {"0": EPOCH},
    "no rows": [1],
    "not from 1": [EPOCH | {"epoch": 2}],
    "a gap": [EPOCH, EPOCH | {"epoch": 3}],
    "a column less": [{name: 1 for name in EPOCH if name != "lr"}],
    "a column more": [EPOCH | {"more": 1}],
    "a text": [EPOCH | {"loss": "1"}],
    "no number": [EPOCH | {"loss": math.nan}],
    "yes": [EPOCH | {"loss": True}],
}


def test_epochs_are_counted_from_1():
    require_history([EPOCH, EPOCH | {"epoch": 2, "loss": 0.5}], "resume.ckpt")
    for history in HISTORIES.values():
        with pytest.raises(
            ValueError, match=r"resume.ckpt: the file is damaged, or of another run \(its epochs are not"
        ):
            require_history(history, "resume.ckpt")


def test_a_profile_is_a_file_and_two_lines(tmp_path: Path, told):
    write_profile(tmp_path, {"data": 0.003, "forward": 0.001}, 7, 0.25)
    assert json.loads((tmp_path / "profile.json").read_text()) == {
        **{"steps": 7, "step_ms": pytest.approx(4), "epoch_end_ms": pytest.approx(250)},
        "shares": {"data": pytest.approx(0.75), "forward": pytest.approx(0.25)},
    }
    assert told.messages == [
        "profile of 7 steps: 4.0 ms each: data 75.0%, forward 25.0%",
        f"validation and writing at the end of an epoch: 250 ms; all figures: {tmp_path / 'profile.json'}",
    ]


def test_a_resumed_run_without_a_checkpoint_says_that_it_begins_anew(few: Dataset, tmp_path: Path, told):
    recipe = resolve(make_recipe({}), few)
    told.clear()
    open_run(tmp_path, recipe, few, few, resume=False)
    (tmp_path / "resume.ckpt").write_bytes(b"")
    open_run(tmp_path, recipe, few, few, resume=True)
    assert told.messages == []
    (tmp_path / "resume.ckpt").unlink()
    open_run(tmp_path, recipe, few, few, resume=True)
    assert told.messages == [f"{tmp_path}: no epoch was finished before; the run starts from the beginning"]


# ---- one run in a folder, and what a stopped one leaves


@pytest.fixture
def starts(few: Dataset, monkeypatch: pytest.MonkeyPatch):
    """A function: folder, what is done in place of training steps, flags -> trains on four gauges."""
    pytest.importorskip("torch", reason="needs keylite[pytorch]")

    def start(out: Path, fit, **flags: bool) -> None:
        stub = SimpleNamespace(new_network=lambda *_: None, require_resumable=lambda *_: None, fit=fit)
        with monkeypatch.context() as patch:
            patch.setattr("keylite.training.train.trainer_of", lambda _: stub)
            keylite.train(make_recipe({"pretrained": "none", "mirror": "off"}), few, few, out=out, **flags)

    return start


def stops(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}], ids=["new", "overwrite", "resume"])
def test_a_second_run_in_a_folder_is_refused_and_the_first_goes_on(flags: dict, starts, tmp_path: Path):
    def meanwhile(*_: object, **__: object) -> None:
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(ValueError, match="another run writes to this folder"):
            starts(tmp_path, stops, **flags)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        raise ValueError("the first ends")

    with pytest.raises(ValueError, match="the first ends"):
        starts(tmp_path, meanwhile)
    assert not list(tmp_path.iterdir()), "a run that is refused before its first epoch leaves nothing"


def test_a_run_that_came_and_went_since_the_folder_was_looked_at_is_not_written_over(
    starts, few: Dataset, tmp_path: Path, monkeypatch
):
    def examples_sheet(*_: object) -> None:
        raise AssertionError("it writes")

    def first(*_: object) -> None:
        open_run(tmp_path, resolve(make_recipe({}), few), few, few, resume=False)

    monkeypatch.setattr("keylite.training.train.examples_sheet", examples_sheet)
    monkeypatch.setattr("keylite.training.train.baseline_report", first)
    with pytest.raises(ValueError, match="holds a run already"):
        starts(tmp_path, stops)


STARTS = {  # what ends it: flags, files that are there, those that are left
    "wrong input": (ValueError("lower lr"), {}, [], []),
    "an image that is gone": (FileNotFoundError("a.png: no such image file"), {}, [], []),
    "a full disk, after which --resume begins anew": (OSError("full; go on with --resume"), {}, [], ["recipe.yaml"]),
    "wrong input to a run whose checkpoint was removed": (
        *(ValueError("lower lr"), {"resume": True}, ["model.safetensors"], ["model.safetensors", "recipe.yaml"]),
    ),
}


@pytest.mark.parametrize(("error", "flags", "there", "left"), STARTS.values(), ids=STARTS)
def test_what_is_left_of_a_run_without_a_finished_epoch(
    error: Exception, flags: dict, there: list[str], left: list[str], starts, few: Dataset, tmp_path: Path
):
    def fails(*_: object, **__: object) -> None:
        raise error

    if there:
        open_run(tmp_path, resolve(make_recipe({"pretrained": "none", "mirror": "off"}), few), few, few, resume=False)
    for name in there:
        (tmp_path / name).write_text("weights")
    with pytest.raises(type(error)):
        starts(tmp_path, fails, **flags)
    assert {path.name for path in tmp_path.iterdir()} - {"data.json", "examples.jpg"} == set(left)
    assert all((tmp_path / name).read_text() == "weights" for name in there)


@pytest.mark.parametrize("fraction", [0, 1, float("nan"), "half"])
def test_a_share_that_cannot_be_held_out_is_refused(fraction: object, few: Dataset, tmp_path: Path):
    with pytest.raises(ValueError, match="^val_fraction: expected a number above 0 and below 1, got "):
        keylite.train(make_recipe({}), few, out=tmp_path, val_fraction=fraction)
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_not_utf8_is_refused_before_work(starts, tmp_path: Path):
    with pytest.raises(ValueError, match=r"^out: expected a path that can be written in UTF-8, got .*o\\udce4'"):
        starts(tmp_path / "o\udce4", stops)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "log.csv", "tensorboard"])
def test_files_of_a_run_s_names_are_not_removed_unasked(starts, name: str, tmp_path: Path):
    """Such as a model file that somebody put there."""
    (tmp_path / name).mkdir() if name == "tensorboard" else (tmp_path / name).write_text("mine")
    with pytest.raises(
        ValueError, match=rf"files with the names of one \({name}\); go on with `resume=True`, start anew with"
    ):
        starts(tmp_path, stops)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_stopped_before_an_epoch_was_finished_leaves_nothing(starts, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt, match="^stopped before an epoch was finished: there is nothing to resume"):
        starts(tmp_path / "runs/new", stops)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):  # it can be begun again as it was
        with pytest.raises(KeyboardInterrupt):
            starts(tmp_path, stops)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_stopped_after_an_epoch_stays(starts, tmp_path: Path):
    def an_epoch(*_: object, **__: object) -> None:
        (tmp_path / "resume.ckpt").write_text("")
        raise KeyboardInterrupt

    with_flag = {" with `resume=True`": {}, "": {"resume": True}}
    with_flag[" with `resume=True` in place of `overwrite=True`"] = {"overwrite": True}
    for words, flags in with_flag.items():
        with pytest.raises(KeyboardInterrupt, match=f"^stopped; the same command{words} goes on from the last whole"):
            starts(tmp_path, an_epoch, **flags)
        assert {path.name for path in tmp_path.iterdir()} == {
            *("recipe.yaml", "data.json", "examples.jpg", "resume.ckpt"),
        }


MEMORY = {  # choice, bytes free, devices: whether images are kept, and whether that is said
    "enough": ("auto", 4 * 49_152, 1, True, True),
    "too little": ("auto", 4 * 49_152 - 4, 1, False, False),
    "too little for two": ("auto", 4 * 49_152, 2, False, False),
    "unknown": ("auto", None, 1, False, False),
    "asked for": ("ram", 0, 1, True, False),
    "not wanted": ("off", 10**12, 1, False, False),
}


@pytest.mark.parametrize(("cache", "free", "devices", "kept", "said"), MEMORY.values(), ids=MEMORY)
def test_images_are_kept_where_memory_allows(
    cache: str, free: int | None, devices: int, kept: bool, said: bool, monkeypatch, caplog
):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    caplog.set_level(logging.INFO, "keylite")
    monkeypatch.setattr("keylite.training.schedule.free_memory", lambda: free)
    examples = Examples(keylite.gauges(4, size=64), (64, 64), box="image")
    assert caches(make_recipe({"cache": cache, "devices": devices}), examples) is kept
    assert ("decoded images are kept in memory" in caplog.text) is said


def test_the_sheet_of_examples_explains_its_marks(few: Dataset) -> None:
    sheet = examples_sheet(Examples(few, (64, 64), box="image"))
    assert (sheet[-CAPTION:] == MIDDLE).all(axis=2).any()  # the legend's dot, in the colour of a gauge's points
