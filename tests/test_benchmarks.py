"""The accuracy benchmarks: plans, runs that go on, figures measured once, the parts of the page; predictor.py, scaling.py. Speed: test_bench.py."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchvision", reason="needs keylite[pytorch]")
pytest.importorskip("PIL", reason="needs Pillow")

import accuracy
import label_next
import learning_curve
import micro
import predictor
import runs
import scaling
import search
import small_data
import wrong_labels

import keylite
from keylite.data.formats.reading import read_dataset
from keylite.data.mirror import choose_mirror
from keylite.data.rendered.gauges import gauges
from keylite.exporting import export as exports
from keylite.exporting.certificate import OverBudgetError
from keylite.runtime.images import read_image, write_image
from keylite.training.recipe import Recipe, make_recipe, to_dict
from keylite.training.recipe_file import write_recipe

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    **{"accuracy": accuracy, "learning_curve": learning_curve, "micro": micro},
    **{"small_data": small_data, "search": search},
}


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("made again")


# ---- one small run of accuracy.py


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What --smoke leaves in --out: seed 0 trained here, seed 1 a copy of it, the heatmap not trained."""
    out = tmp_path_factory.mktemp("smoke")
    accuracy.main(["--smoke", "--out", str(out), "--only", "regression-64-seed0"])
    assert not list(out.rglob("figures")) and not (out / "docs").exists()  # training looks at no figure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "_reference", lambda *_: None)  # certificates need no time here
        accuracy.main(report(out, "--only", "regression-64-seed0"))
    shutil.copytree(out / "regression-64-seed0", out / "regression-64-seed1")
    recipe = make_recipe({"seed": 1}, base=runs.recipe_in(out / "regression-64-seed0"))
    write_recipe(recipe, out / "regression-64-seed1/recipe.yaml")
    accuracy.main(report(out))
    return out


def report(out: Path, *flags: str) -> list[str]:
    return ["--smoke", "--out", str(out), "--report", "--files", "onnx int8", "--rounds", "2", "--images", "2", *flags]


def test_figures_are_those_of_evaluate(smoke: Path):
    facts = json.loads((smoke / "docs/results/accuracy.json").read_text())
    (row,), test = facts["rows"], runs.smoke_parts().val
    model = smoke / "regression-64-seed0/model.safetensors"
    found = keylite.evaluate(model, test)
    assert row["float"]["nme"] == pytest.approx(found.nme.mean, rel=1e-6)
    assert row["float"]["interval"] == pytest.approx(found.nme.interval, rel=1e-6)
    assert row["float"]["median"] == pytest.approx(found.nme.median, rel=1e-6)
    assert row["float"]["of_seeds"] == [row["float"]["nme"]] * 2
    jittered = [keylite.evaluate(model, test, jitter_box=0.1, seed=seed).nme.mean for seed in range(accuracy.DRAWS)]
    assert row["jittered"]["nme"] == pytest.approx(np.mean(jittered), rel=1e-6)
    assert (facts["split"], facts["count"], facts["missing"]) == ("val", len(test), ["heatmap-64"])
    assert (row["seeds"], row["epochs"], row["best_epochs"], row["pretrained"]) == ([0, 1], 1, [1, 1], ["none"])


def test_an_export_is_measured_too(smoke: Path):
    ((kind, file),) = json.loads((smoke / "docs/results/accuracy.json").read_text())["rows"][0]["files"].items()
    path = smoke / "regression-64-seed0/exports/model.int8.onnx"
    want = keylite.evaluate(path, runs.smoke_parts().val).nme.mean
    assert (kind, file["runs"], file["refused"]) == ("onnx int8", 2, {})
    assert file["nme"] == pytest.approx(want, rel=1e-6)
    assert file["bytes"] == path.stat().st_size
    assert 0 < file["ms"] < 10_000


def test_nothing_is_made_twice(smoke: Path, monkeypatch: pytest.MonkeyPatch):
    page = (smoke / "docs/results.md").read_bytes()
    for name in ("train", "evaluate", "export"):
        monkeypatch.setitem(vars(keylite), name, refuse)
    monkeypatch.setattr(runs, "measure", refuse)
    monkeypatch.setattr(accuracy, "interleaved", refuse)
    accuracy.main(["--smoke", "--out", str(smoke), "--only", "regression-64"])
    accuracy.main(report(smoke))
    assert (smoke / "docs/results.md").read_bytes() == page


def test_another_split_is_another_figure(smoke: Path):
    accuracy.main(report(smoke, "--only", "regression-64-seed0", "--split", "test", "--json", str(smoke / "test.json")))
    ((row,), test) = json.loads((smoke / "test.json").read_text())["rows"], runs.smoke_parts().test
    want = keylite.evaluate(smoke / "regression-64-seed0/model.safetensors", test).nme.mean
    assert row["float"]["nme"] == pytest.approx(want, rel=1e-6)


def test_a_finished_folder_needs_no_plan(smoke: Path, tmp_path: Path):
    shutil.copytree(smoke / "regression-64-seed0", tmp_path / "elsewhere")
    accuracy.main(report(tmp_path, "--only", "elsewhere"))
    (row,) = json.loads((tmp_path / "docs/results/accuracy.json").read_text())["rows"]
    assert row["name"] == "elsewhere"
    assert (tmp_path / "docs/images/accuracy.png").stat().st_size > 1000


UNLIKE = {
    "another recipe": ({"lr": 3e-3}, r"another recipe \(lr is 0\.0005, wanted is 0\.003\)"),
    "another file of weights": ({"pretrained": "other.safetensors"}, "pretrained is 'none', wanted is 'other.safeten"),
}


@pytest.mark.parametrize(("choices", "words"), UNLIKE.values(), ids=UNLIKE)
def test_a_run_of_another_recipe_is_refused(choices: dict, words: str, smoke: Path):
    with pytest.raises(ValueError, match=words):
        accuracy.main([*report(smoke), "--set", *(f"{name}={value}" for name, value in choices.items())])


def test_what_has_no_effect_is_not_compared(smoke: Path):
    accuracy.main([*report(smoke), "--set", "workers=1"])


def test_a_run_of_other_data_is_refused(smoke: Path):
    held = runs.smoke_parts()
    (run,) = accuracy.chosen([], ["regression-64-seed0"], smoke, held)
    runs.require_same(run)
    for parts, words in (
        (held._replace(train=held.test), "other train data"),
        (held._replace(val=held.test), "other val"),
    ):
        with pytest.raises(ValueError, match=f"{words}.*of gauges"):
            runs.require_same(run._replace(data=lambda parts=parts: (parts.train, parts.val)))


def test_a_refused_export_is_told_and_not_tried_again(smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(smoke / "regression-64-seed0", tmp_path / "run", ignore=shutil.ignore_patterns("exports"))
    parts = runs.smoke_parts()
    run, tries = accuracy.as_it_is(tmp_path / "run", parts), []

    class RefusedError(OverBudgetError):
        def __init__(self) -> None:
            Exception.__init__(self, "refused: p95 drift 3 px")

    def over_budget(*arguments: object, **choices: object) -> None:
        tries.append(choices)
        raise RefusedError

    monkeypatch.setitem(vars(keylite), "export", over_budget)
    for _ in range(2):
        assert accuracy.exported(run, "onnx int8", parts) == (None, "refused: p95 drift 3 px")
    assert [(t["to"], t["precision"], t["calibration"]) for t in tries] == [("onnx", "int8", parts.train)]
    run.model.write_bytes(run.model.read_bytes() + b" ")  # trained anew
    accuracy.exported(run, "onnx int8", parts)
    assert len(tries) == 2


# ---- plans

PLANS = {
    ".yaml": "base: {normalize: '36,45'}\nruns:\n  a: {head: heatmap, size: 160x128, seeds: [0, 2]}\n  b: {lr: 1e-2}\n",
    ".toml": 'base.normalize = "36,45"\n[runs]\na = {head = "heatmap", size = "160x128", seeds = [0, 2]}\nb = {lr = 1e-2}\n',
    ".json": '{"base": {"normalize": "36,45"}, "runs": {"a": {"head": "heatmap", "size": "160x128", "seeds": [0, 2]},'
    ' "b": {"lr": 1e-2}}}',
}


@pytest.mark.parametrize("suffix", PLANS)
def test_a_plan_reads_from_every_kind_of_file(suffix: str, tmp_path: Path):
    path = tmp_path / f"plan{suffix}"
    path.write_text(PLANS[suffix])
    found = accuracy.planned(accuracy.read_plan(path), {"threads": "1", "lr": "0.5"}, tmp_path, runs.smoke_parts())
    assert [run.name for run in found] == ["a-seed0", "a-seed2", "b"]
    assert [run.plan for run in found] == ["a", "a", "b"]
    assert [run.recipe for run in found] == [
        *(Recipe(head="heatmap", size=(160, 128), seed=s, lr=0.5, threads=1, normalize="36,45") for s in (0, 2)),
        Recipe(lr=1e-2, threads=1, normalize="36,45"),
    ]
    assert set(found[2].asked) == {"normalize", "threads", "lr"}


def test_a_plan_says_what_is_not_exported(smoke: Path, tmp_path: Path):
    plan = {"runs": {"a": {"exports": False}, "b": {"exports": True}, "c": {"lr": 0.5}, "d": None}}
    assert accuracy.unexported(plan) == {"a"}
    (tmp_path / "plan.json").write_text(json.dumps({"base": runs.SMOKE, "runs": {"r": {"seed": 0, "exports": False}}}))
    shutil.copytree(smoke / "regression-64-seed0", tmp_path / "r")
    accuracy.main(report(tmp_path, "--plan", str(tmp_path / "plan.json")))
    (row,) = json.loads((tmp_path / "docs/results/accuracy.json").read_text())["rows"]
    assert row["files"] == {} and row["float"]["nme"] > 0


BAD_PLANS = {
    "another suffix": ("plan.txt", "runs: {}", "expected a plan in .toml, .yaml, .yml, .json, got .txt"),
    "no JSON": ("plan.json", "{", "cannot be read as json: "),
    "no YAML": ("plan.yaml", "runs: {", "cannot be read as yaml: "),
    "no TOML": ("plan.toml", "runs", "cannot be read as toml: "),
    "no runs": ("plan.yaml", "base: {}", "expected `runs` with choices by name"),
    "a list of runs": ("plan.yaml", "runs: [a]", "expected `runs` with choices by name"),
    "no choices": ("plan.yaml", "runs: {a: 3}", "plan.yaml: a: expected choices by name"),
    "one seed for a list": (
        "plan.yaml",
        "runs: {a: {seeds: 3}}",
        "plan.yaml: a: expected choices by name, where `seeds`",
    ),
    "exports that are no answer": (
        "plan.yaml",
        "runs: {a: {exports: 'no'}}",
        "plan.yaml: a: expected choices by name, where `seeds` is a list and `exports` true or false",
    ),
    "exports of all": ("plan.yaml", "base: {exports: false}\nruns: {}", "plan: base: unknown choice 'exports'"),
    "a base of no choices": ("plan.yaml", "base: x\nruns: {}", "plan.yaml: base: expected choices by name"),
    "more than that": ("plan.yaml", "runs: {}\nrows: 1", "expected `runs` with choices by name"),
    "an unknown choice": ("plan.yaml", "runs: {a: {heed: rle}}", "plan: a: unknown choice 'heed'; did you mean seed?"),
    "a folder that is not there": ("plan.yaml", "runs: {a:}", "a: expected a finished run"),
}


@pytest.mark.parametrize(("name", "text", "words"), BAD_PLANS.values(), ids=BAD_PLANS)
def test_a_bad_plan_is_one_line(name: str, text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match="2"):
        runs.told(lambda: accuracy.main(["--smoke", "--out", str(tmp_path), "--plan", str(tmp_path / name)]))
    shown = capsys.readouterr().err
    assert words in shown and shown.startswith("error: ") and shown.count("\n") == 1


BAD_FLAGS = {
    "no folder to write to": ("accuracy", ["--smoke"], "--out: expected a folder"),
    "no labels": ("accuracy", ["--out", "OUT"], "--data: expected the folder of the labels"),
    "published smoke": ("accuracy", ["--smoke", "--out", "OUT", "--publish"], "--publish: a smoke run"),
    "no such run": ("accuracy", ["--smoke", "--out", "OUT", "--only", "c"], "--only: expected some of regression-64,"),
    "nothing trained": ("accuracy", ["--smoke", "--out", "OUT", "--report"], "nothing of .* is trained"),
    "no equals sign": ("accuracy", ["--smoke", "--out", "OUT", "--set", "lr"], "--set: expected NAME=VALUE, got 'lr'"),
    "no images": ("learning_curve", ["--smoke", "--out", "OUT", "--counts", "0"], "--counts: expected at least 1"),
    "no such part": (
        "learning_curve",
        ["--smoke", "--out", "OUT", "--only", "x"],
        "expected some of images-8, images-8-",
    ),
    "no such set": ("small_data", ["--smoke", "--out", "OUT", "--only", "x"], "expected some of frames, frames-fold1"),
    "no such file": ("small_data", ["--data", "OUT", "--out", "OUT"], "CollectedData_Pranav.csv: no such label file"),
}


@pytest.mark.parametrize(("script", "flags", "words"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_wrong_flags_are_one_line(script: str, flags: list[str], words: str, tmp_path: Path, capsys):
    with pytest.raises(SystemExit, match="2"):
        runs.told(lambda: SCRIPTS[script].main([flag.replace("OUT", str(tmp_path)) for flag in flags]))
    shown = capsys.readouterr().err
    assert re.search(words, shown) and shown.startswith("error: ") and shown.count("\n") == 1


def test_the_plan_of_the_script_is_one(tmp_path: Path):
    found = accuracy.planned(accuracy.PLAN, {}, tmp_path, runs.smoke_parts())
    assert {run.recipe.head for run in found} == {"regression", "rle", "simcc", "heatmap"}
    assert {(run.recipe.box, run.recipe.normalize) for run in found} == {("image", "36,45")}
    assert len({run.name for run in found}) == len(found)


# ---- runs and figures


def fake_run(folder: Path, nme: list[float], **choices: object) -> Path:
    folder.mkdir()
    write_recipe(make_recipe(choices), folder / "recipe.yaml")
    rows = [f"{epoch + 1},{value}" for epoch, value in enumerate(nme)]
    (folder / "log.csv").write_text("\n".join(["epoch,val_nme", *rows]) + "\n")
    (folder / "model.safetensors").touch()
    return folder


FINISHED = {
    "all epochs": ([0.3, 0.2, 0.1], {"epochs": 3}, "", True),
    "an epoch short": ([0.3, 0.2], {"epochs": 3}, "", False),
    "none yet": ([], {"epochs": 3}, "", False),
    "out of patience": ([0.2, 0.3, 0.3], {"epochs": 9, "patience": 2}, "", True),
    "with patience left": ([0.3, 0.2, 0.3], {"epochs": 9, "patience": 2}, "", False),
    "without a model": ([0.3, 0.2, 0.1], {"epochs": 3}, "model.safetensors", False),
    "without a recipe": ([0.3, 0.2, 0.1], {"epochs": 3}, "recipe.yaml", False),
    "without a log": ([0.3, 0.2, 0.1], {"epochs": 3}, "log.csv", False),
}


@pytest.mark.parametrize(("nme", "choices", "missing", "want"), FINISHED.values(), ids=FINISHED)
def test_a_run_is_finished(nme: list[float], choices: dict, missing: str, want: bool, tmp_path: Path):
    folder = fake_run(tmp_path / "run", nme, **choices)
    if missing:
        (folder / missing).unlink()
    assert runs.finished(folder) is want


@pytest.mark.parametrize(("begun", "resume"), [(False, False), (True, True)])
def test_a_run_that_stopped_goes_on(begun: bool, resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if begun:
        fake_run(tmp_path / "run", [0.3], epochs=3)
    calls = []
    monkeypatch.setitem(vars(keylite), "train", lambda *_, out, **named: calls.append((out, named)))
    data = gauges(2, size=32)
    runs.train_missing(runs.Run("run", "run", tmp_path / "run", Recipe(epochs=3), (), lambda: (data, data)))
    assert calls == [(tmp_path / "run", {"resume": resume})]


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path: Path):
    recipes = {
        "a": {"pretrained": "/here/w.safetensors"},
        "b": {"pretrained": "/there/w.safetensors", "seed": 1, "threads": 2},
        "c": {"pretrained": "/here/w.safetensors", "lr": 3e-3},
    }
    found = [
        runs.Run(name, name, fake_run(tmp_path / name, [], **choices), Recipe(), (), refuse)
        for name, choices in recipes.items()
    ]
    assert [[run.name for run in row] for row in accuracy.rows_of(found, set())] == [["a", "b"], ["c"]]
    assert [[run.name for run in row] for row in accuracy.rows_of(found, {"b"})] == [
        ["a"],
        ["b"],
        ["c"],
    ]  # not exported


def test_figures_are_kept_under_their_key(tmp_path: Path):
    made = iter(({"x": (1, 2)}, {"x": (3, 4)}))
    for key, want in (({"of": (1,)}, [1, 2]), ({"of": (1,)}, [1, 2]), ({"of": (2,)}, [3, 4]), ({"of": [2]}, [3, 4])):
        assert runs.kept(tmp_path / "a/b.json", key, lambda: next(made)) == {"x": want}


def test_means_over_seeds():
    data = gauges(6, size=32)
    nme = [[0.1, 0.2, None, 0.1, 0.1, 0.3], [0.3, 0.2, None, 0.1, 0.3, 0.5]]
    found = runs.over_seeds(
        [
            {"nme": values, "report": {"nme": {"mean": mean, "median": median}, "failure_rate": rate}}
            for values, mean, median, rate in zip(nme, (0.16, 0.28), (0.1, 0.3), (0.0, 0.5), strict=True)
        ],
        data,
    )
    assert found["nme"] == pytest.approx(np.mean([0.2, 0.2, 0.1, 0.2, 0.4]))
    assert (found["median"], found["failure_rate"]) == pytest.approx((0.2, 0.25))
    assert found["of_seeds"] == [0.16, 0.28]
    low, high = found["interval"]
    assert 0.1 < low < found["nme"] < high < 0.4


def test_times_are_ratios_within_a_round():
    def row(name: str, head: str, size: int, backbone: str = "lite0") -> dict:
        files = {kind: {"nme": 0.1} for kind in accuracy.FILES}
        return {"name": name, "head": head, "backbone": backbone, "size": [size, size], "files": files}

    rows = [
        row("r1", "regression", 96, "lite1"),
        row("r0", "regression", 96),
        row("h", "heatmap", 96),
        row("h2", "heatmap", 128),
    ]
    seconds = {
        "r0 onnx fp32": [2.0, 4.0, 2.0],
        "r0 litert int8": [1.0, 2.0, 1.0],
        "r1 litert int8": [9.0, 9.0, 9.0],
        "h litert int8": [3.0, 3.0, 6.0],
        "h2 litert int8": [5.0, 5.0, 5.0],
    }
    accuracy._add_times(rows, seconds, images=10)
    plain, other, larger = (rows[i]["files"]["litert int8"] for i in (1, 2, 3))
    assert (plain["ms"], plain["to_int8"], plain["to_fp32"]) == (100, 1, 0.5)
    assert (other["ms"], other["to_int8"], other["to_fp32"]) == (300, 3, 1.5)  # 3, 1.5, 6 and 1.5, 0.75, 3
    assert larger == {"nme": 0.1, "ms": 500}  # nothing plain at its size
    assert rows[2]["files"]["onnx int8"] == {"nme": 0.1}  # not timed


def test_a_learning_curve_is_nested_and_whole_groups():
    data = gauges(40, size=32).regrouped([f"subject {index // 4}" for index in range(40)])
    parts = [learning_curve.part_of(data, count, 3) for count in (1, 4, 5, 20, 40, 99)]
    assert [len(part) for part in parts] == [4, 4, 8, 20, 40, 40]
    assert [len(part.groups) for part in parts] == [1, 1, 2, 5, 10, 10]
    for small, large in itertools.pairwise(parts):
        assert set(small.image_names) <= set(large.image_names)
    assert learning_curve.part_of(data, 20, 3).image_names == parts[3].image_names
    assert learning_curve.part_of(data, 20, 4).groups != parts[3].groups


@pytest.mark.parametrize(
    ("whole", "want"),
    [(2795, [50, 100, 200, 400, 800, 1600, 2795]), (100, [50, 100]), (101, [50, 100, 101]), (50, [50]), (9, [9])],
)
def test_counts_double_up_to_the_whole(whole: int, want: list[int]):
    assert learning_curve.counts_up_to(whole) == want


@pytest.mark.parametrize(
    ("epochs", "count", "want"), [(20, 400, 20), (20, 100, 40), (20, 1, 300), (400, 1, 400)], ids=str
)
def test_a_small_part_is_seen_more_often(epochs: int, count: int, want: int):
    assert learning_curve.epochs_for(epochs, count, 400) == want


def test_the_fall_of_a_power_law():
    rows = [{"images": [2**k], "nme": 0.3 * 0.8**k} for k in range(5)]
    assert learning_curve.fall(rows) == pytest.approx(0.8)


def test_the_step_of_labels():
    generator = np.random.default_rng(0)
    free = generator.uniform(0, 300, (60, 4, 2))
    assert small_data.step_of(np.round(free / 0.5) * 0.5) == 0.5
    assert small_data.step_of(free) is None


def test_how_far_two_views_lie_apart():
    generator = np.random.default_rng(0)
    top = generator.uniform(0, 300, (80, 2, 2))
    bottom = np.stack([7 + 1.1 * top[..., 0] - 0.2 * top[..., 1], generator.uniform(0, 300, (80, 2))], axis=2)
    names, both = ("paw_top", "tail_top", "nose", "tail_bot", "paw_bot"), np.full((80, 1, 2), np.nan)
    xy = np.concatenate([top, both, bottom[:, ::-1]], axis=1)
    assert small_data.views_apart(xy, names, ("_top", "_bot")) == pytest.approx(0, abs=1e-9)
    off = xy.copy()
    off[:, 3:, 0] += generator.normal(0, 2, (80, 2))
    off[0, 3] = np.nan
    assert small_data.views_apart(off, names, ("_top", "_bot")) == pytest.approx(2 * 0.6745, rel=0.15)  # 1.31


# ---- the other two scripts


def test_the_search_is_made(tmp_path: Path):
    search.main(["--smoke", "--out", str(tmp_path)])
    ((group,), missing) = (
        json.loads((tmp_path / "docs/results/search.json").read_text())[n] for n in ("groups", "missing")
    )
    assert [(row["changed"], row["seeds"]) for row in group["rows"]] == [({}, [0, 1, 2]), ({"epochs": 2}, [0])]
    assert missing == []
    model = tmp_path / "regression-epochs-2-seed0/model.safetensors"
    assert group["rows"][1]["nme"] == [
        pytest.approx(keylite.evaluate(model, runs.smoke_parts().val).nme.mean, rel=1e-6)
    ]
    page = (tmp_path / "docs/results.md").read_text()
    cells = [line for line in page.splitlines() if line.startswith("| epochs 2 | 0 |")]
    assert len(cells) == 1 and re.search(r"\| [+-]\d+\.\d\d \|$", cells[0])


def test_a_learning_curve_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learning_curve.main(["--smoke", "--out", str(tmp_path)])
    facts = json.loads((tmp_path / "docs/results/learning_curve.json").read_text())
    assert [(row["images"], row["epochs"], row["seeds"]) for row in facts["rows"]] == [
        ([8], [2], [0]),
        ([24], [1], [0]),
    ]
    found = keylite.evaluate(tmp_path / "images-8-seed0/model.safetensors", runs.smoke_parts().val)
    assert facts["rows"][0]["nme"] == pytest.approx(found.nme.mean, rel=1e-6)
    page = (tmp_path / "docs/results.md").read_bytes()
    assert (tmp_path / "docs/images/learning_curve.png").stat().st_size > 1000
    for name in ("train", "evaluate"):
        monkeypatch.setitem(vars(keylite), name, refuse)
    monkeypatch.setattr(runs, "measure", refuse)
    learning_curve.main(["--smoke", "--out", str(tmp_path)])
    assert (tmp_path / "docs/results.md").read_bytes() == page


def test_folds_of_frames_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small_data.main(["--smoke", "--out", str(tmp_path)])
    frames, rendered = json.loads((tmp_path / "docs/results/small_data.json").read_text())["rows"]
    data, errors = gauges(24, seed=1, size=64), []
    for fold, held in enumerate((range(12), range(12, 24)), start=1):
        part = data.subset(held)
        model = keylite.Predictor(tmp_path / f"frames-fold{fold}/last.safetensors")
        errors.append(np.linalg.norm(keylite.predict_dataset(model, part).xy - part.xy, axis=2).ravel())
    assert frames["of_folds"] == pytest.approx([np.median(part) for part in errors], rel=1e-5)
    assert frames["median"] == pytest.approx(np.median(np.concatenate(errors)), rel=1e-5)
    assert frames["mean"] == pytest.approx(np.mean(np.concatenate(errors)), rel=1e-5)
    assert (frames["frames"], frames["trained_on"], frames["image"]) == (24, [12, 12], [64, 64])
    assert (rendered["name"], rendered["frames"], rendered["trained_on"]) == ("gauges", 8, [16])
    assert rendered["mean_shape_median"] > 5
    for name in ("train", "predict_dataset"):
        monkeypatch.setitem(vars(keylite), name, refuse)
    monkeypatch.setattr(runs, "measure", refuse)
    small_data.main(["--smoke", "--out", str(tmp_path), "--report", "--only", "frames-fold2"])
    (row,) = json.loads((tmp_path / "docs/results/small_data.json").read_text())["rows"]
    assert (row["runs"], row["of_runs"], row["of_folds"]) == (1, 2, frames["of_folds"][1:])
    assert ", 1 of 2 done |" in (tmp_path / "docs/results.md").read_text()


# ---- reading and starting at a million objects


def test_the_steps_of_a_large_file_are_measured(tmp_path: Path):
    scaling.main(["--smoke", "--json", str(tmp_path / "facts.json")])
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert list(facts["rows"]) == ["json.load", "read_dataset", "split", *scaling.STEPS, "check_images", "read_image"]
    assert (facts["annotations"], facts["images"], facts["rounds"]) == (2000, 800, 1)
    assert facts["megabytes"] > 0.5
    assert facts["rows"]["json.load"]["cpu_seconds_ratio"] == facts["rows"]["json.load"]["peak_ratio"] == 1
    for name, row in facts["rows"].items():
        assert row["seconds"] > 0, name
        assert row["ratio_of_each_round"] == [row["cpu_seconds_ratio"]], name
    peaks = [row["peak"] for name, row in facts["rows"].items() if name != "json.load"]
    assert peaks == sorted(peaks), "the most so far"


def test_a_step_s_figures_are_medians_of_rounds(monkeypatch: pytest.MonkeyPatch):
    rounds = iter([(1, 4, 10), (2, 3, 30), (4, 2, 20)])

    def told(row: str, _: Path) -> dict[str, dict[str, float]]:
        if row == "json.load":
            told.base, told.own, told.peak = next(rounds)
            return {row: {"seconds": 9, "cpu_seconds": told.base, "peak": 40}}
        return {row: {"seconds": 9, "cpu_seconds": told.own, "peak": told.peak}}

    monkeypatch.setattr(scaling, "told", told)
    base, own = scaling.steps_of(Path(), rounds=3).values()
    assert (base["cpu_seconds"], base["cpu_seconds_ratio"]) == (2, 1)
    assert (own["cpu_seconds"], own["cpu_seconds_ratio"], own["ratio_of_each_round"]) == (3, 1.5, [4, 1.5, 0.5])
    assert (own["peak"], own["peak_ratio"]) == (20, 0.5)


def test_the_made_file_reads_as_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scaling, "CHUNK", 64)  # 500 and 200 are no multiples of it
    data = read_dataset(scaling.write_labels(tmp_path, 500))
    assert (len(data), len(data.skeleton)) == (500, 17)
    assert 0.87 < data.labelled.mean() < 0.93
    assert 150 < len(data.images) <= 200
    assert np.bincount(data.image_index).max() > 3
    assert (np.nanmin(data.xy, axis=1) > data.box[:, :2]).all()
    assert (np.nanmax(data.xy, axis=1) < data.box[:, 2:]).all()
    written = json.loads((tmp_path / "labels.json").read_bytes())
    assert [entry["id"] for entry in written["annotations"]] == list(range(1, 501))
    assert choose_mirror(data).source == "names"


def test_a_measured_process_holds_no_framework():
    code = "import sys; sys.path.append(sys.argv[1]); import scaling; print({'torch', 'tensorflow'} & {*sys.modules})"
    command = [sys.executable, "-c", code, str(ROOT / "benchmarks")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


# ---- the page

FEATURES = "tf_efficientnet_lite0_features.safetensors sha256 " + "ab" * 32
STARTS = {
    "weights that were taken back": ([FEATURES], "(sha256 abababababab)", True),
    "two files of them": ([FEATURES, FEATURES.replace("lite0", "lite1")], "lite1_features", True),
    "timm's own": (["imagenet"], "Backbones started from timm's ImageNet weights.", False),
    "none": (["none"], "Backbones started from random weights.", False),
    "another file": (["mine.safetensors sha256 " + "cd" * 32], "`mine.safetensors` (sha256 cdcdcdcdcdcd).", False),
}


@pytest.mark.parametrize(("names", "words", "warned"), STARTS.values(), ids=STARTS)
def test_the_weights_are_named(names: list[str], words: str, warned: bool):
    line = runs.weights_line(names)
    assert words in line
    assert ('no figure here may be read as "timm pretrained"' in line) is warned


def reliability(of: float) -> dict:
    deciles = [{"sigma": s, "error": of * s, "interval": [s / 2, 2 * s], "count": 9} for s in (1.0, 2.0, 3.0)]
    ranks = {"spearman": 0.4, "within": 0.3 * of, "constant": 0.2}
    return ranks | {"worst": of - 1, "deciles": deciles, "count": 27}


def test_sigma_over_seeds():
    found = accuracy.of_sigma([{"report": {"reliability": reliability(of)}} for of in (0.8, 1.1)])
    assert (found["spearman"], found["within"], found["worst"]) == pytest.approx((0.4, 0.285, -0.2))
    assert found["reliability"] == reliability(0.8)
    assert accuracy.of_sigma([{"report": {"reliability": None}}, {"report": {"reliability": reliability(1)}}]) is None
    unvaried = reliability(1) | {"within": None}
    assert accuracy.of_sigma([{"report": {"reliability": unvaried}}])["within"] is None


def test_sigma_has_a_table_and_a_picture(smoke: Path, tmp_path: Path):
    facts = json.loads((smoke / "docs/results/accuracy.json").read_text())
    assert "reliability.png" not in accuracy.text(facts)
    sigma = accuracy.of_sigma([{"report": {"reliability": reliability(0.9)}}])
    facts["rows"][0]["float"]["sigma"] = facts["rows"][0]["files"]["onnx int8"]["sigma"] = sigma
    told = accuracy.text(facts)
    assert "| regression | timm:test_efficientnet | 64 | float | 0.40 | 0.27 | 0.20 | -10 % |" in told
    assert "| regression | timm:test_efficientnet | 64 | onnx int8 | 0.40 | 0.27 | 0.20 | -10 % |" in told
    assert f"({accuracy.RELIABILITY})" in told
    accuracy.plot(facts, tmp_path / "accuracy.png")
    assert read_image(tmp_path / "reliability.png").ndim == 3


def test_runs_from_random_weights_have_a_line_of_their_own(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    facts = json.loads((smoke / "docs/results/accuracy.json").read_text())
    row = facts["rows"][0] | {"choices": {}, "pretrained": [FEATURES]}
    row["files"] = {"onnx fp32": {"nme": 0.05, "ms": 2.0}}
    facts["rows"] = [row, row | {"pretrained": ["none"]}]
    drawn: dict = {}
    monkeypatch.setattr(accuracy, "plot_lines", lambda lines, *_, **__: drawn.update(lines))
    accuracy.plot(facts, tmp_path / "accuracy.png")
    assert [label for label, _ in drawn] == [
        "regression timm:test_efficientnet",
        "regression timm:test_efficientnet random weights",
    ]


def test_the_table_says_what_was_measured(smoke: Path):
    facts = json.loads((smoke / "docs/results/accuracy.json").read_text())
    row = facts["rows"][0]
    row["float"] |= {"nme": 0.05, "interval": [0.04, 0.062], "of_seeds": [0.048, 0.052], "median": 0.045}
    row["jittered"]["nme"], row["float"]["failure_rate"], row["choices"] = 0.055, 0.01, {"lr": 0.003}
    row["pretrained"] = [FEATURES]
    row["files"] = {
        "onnx fp32": {"refused": {"a": "b"}},
        "onnx int8": {
            **{"refused": {}, "nme": 0.051, "interval": None, "median": 0.04, "failure_rate": 0.0, "change": 0.02},
            **{"bytes": 4_440_000, "runs": 2, "ms": 3.4},
        },
        "litert int8": {
            **{"refused": {"a": "b"}, "nme": 0.05, "interval": [0.04, 0.06], "median": 0.045, "failure_rate": 0.02},
            **{"jittered": {"nme": 0.053}, "change": -1e-9, "bytes": 4_480_000, "runs": 1, "ms": 2.0},
            **{"to_int8": 1.0, "to_fp32": 0.44},
        },
    }
    told = accuracy.text(facts)
    named = "| regression | timm:test_efficientnet | 64 | lr 0.003 |"
    assert f"{named} 1 | 0, 1 | 5.00 % (4.00 to 6.20) | 4.80 to 5.20 | 4.50 % | 1.00 % | 5.50 % |" in told
    assert f"{named} onnx fp32 |  | refused: over its budget |  |  |  |  |  |  |  |" in told
    assert f"{named} onnx int8 | 4.44 | 5.10 % | +2.0 % | 4.00 % | 0.00 % |  | 3.40 |  |  |" in told
    litert = "4.48 | 5.00 % (4.00 to 6.00), 1 of 2 refused | +0.0 % | 4.50 % | 2.00 % | 5.30 % | 2.00 | 1.00 | 0.44 |"
    assert f"{named} litert int8 | {litert}" in told
    assert "not timm's original floats" in told.replace("\n", " ")
    assert "Not trained yet: heatmap-64." in told
    tables = re.findall(r"(?:^\|.*\n)+", told, re.MULTILINE)
    assert [len({line.count("|") for line in table.splitlines()}) for table in tables] == [1, 1]


def test_the_other_choices_are_those_that_differ():
    rows: list[dict] = [{}, {}]
    recipes = [
        (Recipe(box="image", lr=3e-3, warmup_epochs=0.6, size=96, pretrained="a", threads=1), ("box", "lr", "size")),
        (Recipe(box="image", lr=1e-3, seed=1), ("box", "seed")),
    ]
    assert accuracy._choices_apart(recipes, rows) == {"common": {"box": "image"}}
    assert rows == [{"choices": {"lr": 3e-3}}, {"choices": {}}]


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_the_page_is_made_from_the_committed_figures(script):
    held = runs.figures_path(script.SECTION, ROOT / "docs")
    facts = json.loads(held.read_text()) if held.is_file() else None
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert runs.with_part(page, script.SECTION, facts) == page, (
        f"run: python benchmarks/{script.SECTION.name}.py --page"
    )
    if facts is None:
        assert f"Nothing was measured yet; `python benchmarks/{script.SECTION.name}.py` does." in page
    with pytest.raises(ValueError, match="expected the marks"):
        runs.with_part("no marks", script.SECTION, facts)


LABEL_SECTIONS = [wrong_labels.SECTION, wrong_labels.FOLDS, label_next.SECTION]


@pytest.mark.parametrize("section", LABEL_SECTIONS, ids=lambda s: s.name)
def test_the_pages_about_labels_are_made_from_the_committed_figures(section: runs.Section):
    held = runs.figures_path(section, ROOT / "docs")
    facts = json.loads(held.read_text()) if held.is_file() else None
    page = (ROOT / "docs" / section.page).read_text(encoding="utf-8")
    assert runs.with_part(page, section, facts) == page


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_the_page_alone_can_be_made_again(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "DOCS", tmp_path)
    mark = f"<!-- made by benchmarks/{script.SECTION.name}.py: start -->"
    (tmp_path / "results.md").write_text(f"before\n{mark}\nold\n<!-- end -->\nafter\n")
    script.main(["--page"])
    told = (tmp_path / "results.md").read_text()
    assert told == f"before\n{mark}\n\n{script.SECTION.text(None)}\n\n<!-- end -->\nafter\n"


PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("benchmarks/README.md", "docs/results.md")]
COMMANDS = re.findall(
    rf"^ *python benchmarks/({'|'.join(SCRIPTS)})\.py (.*?)(?: {{2,}}#.*)?$", "\n".join(PAGES), re.MULTILINE
)


@pytest.mark.parametrize(("script", "flags"), COMMANDS)
def test_commands_of_the_pages_parse(script: str, flags: str):
    SCRIPTS[script].parser().parse_args(shlex.split(flags))


def test_the_pages_show_all_scripts_and_flags():
    assert {script for script, _ in COMMANDS} == set(SCRIPTS)
    named = set(re.findall(r"`(--[a-z]+)", PAGES[0].partition("## Accuracy")[2]))
    assert {"--only", "--report", "--set", "--split", "--publish", "--page", "--plan", "--out"} <= named
    assert named <= {flag for action in accuracy.parser()._actions for flag in action.option_strings}


def test_the_plan_that_is_shown_reads(tmp_path: Path):
    (text,) = re.findall(r"^    (base: .*(?:\n    .*)*)", PAGES[0], re.MULTILINE)
    (tmp_path / "plan.yaml").write_text(re.sub("^    ", "", text, flags=re.MULTILINE))
    plan = accuracy.read_plan(tmp_path / "plan.yaml")
    assert plan["runs"].pop("trained-elsewhere") is None
    found = accuracy.planned(plan, {}, tmp_path, runs.smoke_parts())
    assert [run.name for run in found] == [*(f"heatmap-128-seed{seed}" for seed in (0, 1, 2)), "heatmap-160x128"]
    assert {to_dict(run.recipe)["mirror"] for run in found} == {"off"}


# ---- the predictor


def test_the_predictor_s_rows_find_the_same(onnx_file: Path, tmp_path: Path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(files, gauges(3).images, strict=True):
        write_image(path, np.asarray(image))
    one_by_one, *streams = (row(0) for row in predictor.streams(onnx_file, files, 1).values())
    assert len(streams) == 5
    for found in streams:
        assert [one.source for one in found] == files
        for one, points in zip(found, one_by_one, strict=True):
            np.testing.assert_allclose(one.points.xy, points.xy, atol=0.01)
    assert 10 < predictor.predict_memory(onnx_file, files, 4, tmp_path) < 2000  # MB
    assert len((tmp_path / "points.jsonl").read_text().splitlines()) == 4


def test_the_predictor_s_own_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predictor, "export", lambda model, path, spec: path.touch())  # tests of the exporter make one
    assert predictor.random_model(tmp_path, (64, 64)).is_file()
    found = keylite.Predictor(tmp_path / "random.safetensors", engine="pytorch")(np.zeros((32, 32, 3), np.uint8))
    assert found.xy.shape == (1, predictor.KEYPOINTS, 2)


# ---- microcontrollers


def test_few_keypoints_are_those_of_the_whole_set():
    data = gauges(3, size=32)
    few = micro.with_few(data, (3, 0))
    assert few.skeleton.names == (data.skeleton.names[3], data.skeleton.names[0])
    assert np.array_equal(few.xy, data.xy[:, [3, 0]]) and np.array_equal(few.visible, data.visible[:, [3, 0]])
    assert few.images == data.images
    assert len(set(micro.FEW)) == 22 and max(micro.FEW) < 68


def test_a_preset_is_measured_as_a_chip_would_run_it(tmp_path: Path):
    for package in ("tensorflow", "ai_edge_litert", "tflite_micro", "ethosu.vela"):
        pytest.importorskip(package, reason="needs keylite[tensorflow-cpu,micro]")
    flags = ["--smoke", "--out", str(tmp_path), "--only", "tiny-2"]
    micro.main(flags)
    assert not list(tmp_path.rglob("figures"))
    micro.main([*flags, "--report", "--rounds", "1", "--images", "1"])
    facts = json.loads((tmp_path / "docs/results/micro.json").read_text())
    (row,), made = facts["rows"], tmp_path / "tiny-2-seed0/exports" / micro.FILE
    needs, npu = (keylite.measure_target(made, name) for name in ("tflm", micro.NPU))
    assert (row["flash"], row["arena"], row["macs"]) == (needs.flash, needs.ram, needs.macs)
    assert (row["npu_ms"], row["npu_cpu"]) == (npu.ms, []), "a whole-integer file leaves nothing to the CPU"
    assert row["keypoints"] == 2
    val = micro.with_few(runs.smoke_parts().val, micro.SMOKE_FEW)
    assert row["int8"]["nme"] == pytest.approx(keylite.evaluate(made, val).nme.mean, rel=1e-6)
    assert row["litert_ms"] > 0 and row["tflm_ms"] > 0
    page = (tmp_path / "docs/results.md").read_text()
    assert f"| {needs.ram / 1024:,.1f} KB |" in page and "ms, nothing on the CPU |" in page


# ---- wrong labels


def test_wrong_labels_are_injected_found_and_counted(tmp_path: Path):
    wrong_labels.main(["--smoke", "--out", str(tmp_path)])
    facts = json.loads((tmp_path / "docs/results/wrong_labels.json").read_text())["sets"]["gauges"]
    first = facts["groups"][0]["kinds"]
    assert {kind: counts["injected"] for kind, counts in first.items()} == {"permuted": 9, "mirrored": 9}
    assert all(counts["found"] >= 5 for counts in first.values())  # among 120 objects; the table of the page has 400
    page = (tmp_path / "docs/check.md").read_text()
    assert "| gauges | mirrored object | " in page
    before = (tmp_path / "gauges.json").read_bytes()
    wrong_labels.main(["--smoke", "--out", str(tmp_path)])
    assert (tmp_path / "gauges.json").read_bytes() == before


@pytest.mark.parametrize("kind", wrong_labels.MAKE)
def test_an_injected_error_changes_labels_of_the_chosen_objects_alone(kind: str):
    data = gauges(40, size=32).with_skeleton(keylite.Skeleton(("a", "b", "c", "d"), mirror=(0, 1, 3, 2)))
    wrong = wrong_labels.inject(data, [kind], seed=1)
    changed = np.flatnonzero((wrong.data.xy != data.xy).any(axis=(1, 2)))
    assert len(wrong.kinds) == 2
    assert set(changed.tolist()) == set(wrong.kinds)


# ---- what to label next


def test_pictures_are_labelled_in_rounds_by_suggest_and_at_random(tmp_path: Path):
    label_next.main(["--smoke", "--out", str(tmp_path)])
    figures = tmp_path / "docs/results/label_next.json"
    found = json.loads(figures.read_text())["sets"]["gauges"]
    assert found["labelled"] == [8, 12]
    assert found["nme"]["random"][0][0] == found["nme"]["suggest"][0][0]  # both begin with the same model
    assert found["nme"]["random"][0][1] != found["nme"]["suggest"][0][1]
    before = figures.read_text()
    label_next.main(["--smoke", "--out", str(tmp_path)])
    assert json.loads(figures.read_text())["sets"] == json.loads(before)["sets"]


@pytest.mark.parametrize(("own", "needed"), [(3.5, 125), (3.0, 150), (4.0, 100), (2.5, None)])
def test_labels_at_random_that_give_an_error_lie_on_the_line_between_rounds(own: float, needed: float | None):
    assert label_next.labels_needed([100, 150], [4.0, 3.0], own) == needed
