"""What every framework does at a step and before a run: the schedule, the moving average, and what is refused."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest

import keylite
from keylite.recipe import make_recipe
from keylite.run import check_run, ema_decay, lr_factor, open_run, require_finite
from keylite.runtime.engines import FRAMEWORKS

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
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape(f"pip install 'keylite[{extra}]'")):
        check_run(tmp_path / "out", make_recipe({"framework": framework}), resume=False, overwrite=False)


def test_what_a_killed_run_had_not_finished_writing_goes(tmp_path: Path):
    gauges = keylite.gauges(4, size=64)
    left = [tmp_path / name for name in (".resume.ckpt.7.part.ckpt", ".model.safetensors.7.part.safetensors")]
    for path in (*left, tmp_path / "notes.txt"):
        path.write_text("")
    open_run(tmp_path, make_recipe({}), gauges, gauges, resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "data.json", "recipe.yaml"}


def test_another_framework_is_another_recipe_installed_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gauges = keylite.gauges(4, size=64)
    open_run(tmp_path, make_recipe({"framework": "tensorflow"}), gauges, gauges, resume=False)
    for package in ("torch", "lightning", "keylite.pytorch.training", "keylite.pytorch"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="framework was 'tensorflow', is 'pytorch'"):
        keylite.train(make_recipe({}), gauges, gauges, tmp_path, resume=True)


def test_a_framework_that_is_missing_names_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gauges = keylite.gauges(4, size=64)
    pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")
    for module in [name for name in sys.modules if name.startswith("keylite.pytorch")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"torch is not installed: .*, or train with --framework tensorflow"):
        keylite.train(make_recipe({}), gauges, gauges, tmp_path / "run")
    assert not (tmp_path / "run/recipe.yaml").exists()
