"""Folds: every object measured once, by a model that has not seen its group, and the same after any interruption."""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

import keylite
from keylite.cli import main
from keylite.data.dataset import Dataset
from keylite.data.rendered.gauges import gauges
from keylite.data.tones import tones_of
from keylite.evaluation.evaluate import measure
from keylite.runtime.images import write_image
from keylite.runtime.modelfile import describe, read_spec
from keylite.runtime.spec import DataId, ValidationFigures
from keylite.training import folds as module
from keylite.training import train as train_module
from keylite.training.folder import open_run
from keylite.training.folds import train_folds
from keylite.training.folds_report import FoldsReport
from keylite.training.recipe import make_recipe
from keylite.training.schedule import resolve

pytest.importorskip("torch", reason="needs keylite[pytorch]")
QUICK = {
    **{"head": "regression", "hidden": 16, "lr": 1e-3, "size": 32, "batch": 4, "epochs": 1},
    **{"box": "image", "pretrained": "none", "mirror": "off"},
}
FLAGS = [part for name, value in QUICK.items() for part in (f"--{name}", str(value))]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `keylite train ARGUMENTS` with a quick recipe."""
    code = 0
    try:
        main(["train", *map(str, arguments), *FLAGS])
    except SystemExit as stop:
        code = 0 if stop.code is None else int(stop.code)
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepLabCut project of one rendered video: frames img0 .. img10 and their labels in another order."""
    project = tmp_path_factory.mktemp("project")
    rendered = gauges(11, "train", seed=1, size=64)
    labels = project / "labeled-data/video/CollectedData.csv"
    header = [["scorer", "bodyparts", "coords"]]
    for name in rendered.skeleton.names:
        header += [["me", name, "x"], ["me", name, "y"]]
    rows = [list(row) for row in zip(*header, strict=True)]
    for number in np.random.default_rng(0).permutation(11):
        name = f"labeled-data/video/img{number}.png"
        write_image(project / name, rendered.read_image(int(number)))
        rows.append([name, *(rendered.xy[number] - 0.5).ravel().tolist()])
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return labels


def test_a_single_video_by_runs_of_its_frames(video, capsys, tmp_path):
    """The whole road, trained for real: labels, folds, figures, and how they are shown."""
    out = tmp_path / "runs"
    code, said, err = run(capsys, "--data", video, "--out", out, "--folds", 3, "--blocks")
    assert code == 0, err
    assert sorted(path.name for path in out.iterdir()) == ["fold-1", "fold-2", "fold-3", "folds.json"]
    report = msgspec.json.decode((out / "folds.json").read_bytes(), type=FoldsReport)
    data = keylite.read_dataset(video)
    frame = [int(re.search(r"img(\d+)", data.image_names[i])[1]) for i in data.image_index]
    expected = {1: range(0, 4), 2: range(4, 7), 3: range(7, 11)}
    for fold in report.folds:
        inside = np.isin(frame, expected[fold.fold])
        blocks = data.in_blocks(3)
        held_out, rest = blocks.subset(inside), blocks.subset(~inside)
        assert (fold.held_out.fingerprint, fold.train.fingerprint) == (held_out.fingerprint(), rest.fingerprint())
        assert (fold.train.count, fold.train.groups, fold.held_out.groups) == (len(rest), 2, 1)
        again = keylite.evaluate(out / fold.model, held_out)
        assert again.nme == fold.report.nme
        assert again.model_sha256 == fold.report.model_sha256
        assert fold.model == f"fold-{fold.fold}/last.safetensors"
    nmes = [fold.report.nme.mean for fold in report.folds]
    assert report.mean.nme == pytest.approx(np.mean(nmes))
    assert report.std.nme == pytest.approx(np.std(nmes, ddof=1))
    assert report.pooled.nme.mean == pytest.approx(np.average(nmes, weights=[4, 3, 4]))
    assert (report.pooled.count, report.pooled.groups) == (11, 3)
    assert report.pooled.data.fingerprint == data.in_blocks(3).fingerprint()
    assert "an interval needs 5" in " ".join(report.pooled.notes)
    assert (report.blocks, report.seed, report.recipe["epochs"], report.recipe["strength"]) == (True, 0, 1, 1.25)
    assert "the weights of their last epoch: the best one is chosen on the images of the report" in err
    assert said.startswith(f"{report}\nwrote ")
    rows = [line.split() for line in str(report).splitlines()[3:9]]
    assert [row[0] for row in rows] == ["1", "2", "3", "mean", "std", "pooled"]
    assert f"{report.mean.nme:.2%}" in rows[3]
    assert f"{report.folds[1].report.pixel_error.mean:.2f}" in rows[1]
    assert "folds.json" in said


# ---- what is trained and what is not, with a training that copies a model


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Twelve gauges of six groups."""
    return gauges(12, "train", seed=3, size=64).regrouped([f"maker {i % 6}" for i in range(12)])


@pytest.fixture(scope="module")
def done(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of 4 points that says it is of epoch 1."""
    return after_an_epoch(model_file, tmp_path_factory.mktemp("done") / "done.safetensors")


@pytest.fixture(scope="module")
def done_with_scores(heatmap_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a head that gives scores."""
    return after_an_epoch(heatmap_file, tmp_path_factory.mktemp("scores") / "done.safetensors")


def after_an_epoch(model: Path, path: Path) -> Path:
    shutil.copy(model, path)
    describe(
        path,
        msgspec.structs.replace(
            read_spec(model),
            report=ValidationFigures(DataId("val", "1" * 64), 1, 0.05, 0.2, "box_diagonal", 1.0, 5.0, 10),
        ),
    )
    return path


@pytest.fixture
def trained(done: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were trained in, in order: each gets `done` as its last epoch."""
    return trained_as(done, monkeypatch)


def trained_as(done: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    folders: list[str] = []

    def prepare(recipe, data, val, out, *, resume, overwrite, skip_bad, max_megapixels, fold) -> SimpleNamespace:
        assert fold  # doubts are said once of all folds
        settled = resolve(recipe, data)

        def train() -> Path:
            open_run(out, settled, data, val, resume)
            folders.append(f"{out.name}{' resumed' if resume else ''}")
            return Path(shutil.copy(done, out / "last.safetensors"))

        return SimpleNamespace(run=train)

    monkeypatch.setattr(module, "prepare", prepare)
    return folders


def recipe(**choices: object) -> keylite.Recipe:
    return make_recipe(QUICK | choices)


def figures(out: Path) -> dict:
    """What folds.json holds but for the time."""
    return json.loads((out / "folds.json").read_text()) | {"created": None}


def test_every_object_is_measured_once_by_what_has_not_seen_its_group(data, trained, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "measure", lambda model, part, **how: seen.append(part) or measure(model, part, **how))
    report = train_folds(recipe(normalize="box_diagonal"), data, out=tmp_path, folds=3)
    assert trained == ["fold-1", "fold-2", "fold-3"]
    assert sorted(np.concatenate([part.xy[:, 0, 0] for part in seen])) == sorted(data.xy[:, 0, 0])
    for fold, part in zip(report.folds, seen, strict=True):
        assert fold.held_out.fingerprint == part.fingerprint()
        assert (fold.held_out.count, fold.held_out.groups, fold.train.count, fold.train.groups) == (4, 2, 8, 4)
        rest = data.subset(~np.isin(data.group_index, [data.groups.index(group) for group in part.groups]))
        assert fold.train.fingerprint == rest.fingerprint()
    whole = keylite.evaluate(tmp_path / "fold-1/last.safetensors", data)  # all folds have one model here
    assert report.pooled.nme == whole.nme
    assert report.pooled.mean_shape_nme == pytest.approx(whole.mean_shape_nme)
    assert report.mean.mean_shape_nme == pytest.approx(whole.mean_shape_nme)  # folds of one size
    assert report.pooled.nme.interval is not None
    assert report.pooled.per_keypoint == whole.per_keypoint
    assert figures(tmp_path) == json.loads(report.to_json()) | {"created": None}


def test_an_image_is_checked_once_for_all_folds(data, tmp_path, monkeypatch):
    def stop(*_):
        raise ValueError("the first fold is checked")

    looked: list[int] = []
    monkeypatch.setattr("keylite.data.looking.tones_of", lambda samples: looked.append(1) or tones_of(samples))
    monkeypatch.setattr("keylite.training.train.trainer_of", lambda framework: SimpleNamespace(new_network=stop))
    with pytest.raises(ValueError, match="the first fold is checked"):
        train_folds(recipe(), data, out=tmp_path, folds=3)
    assert len(looked) == len(data.images)


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_follow_the_recipe_s_seed(seed, data, trained, tmp_path):
    first, again, other = (
        train_folds(recipe(seed=s), data, out=tmp_path / name, folds=3)
        for name, s in (("a", seed), ("b", seed), ("c", seed + 2))
    )
    assert [fold.train for fold in first.folds] == [fold.train for fold in again.folds]
    assert [fold.train for fold in first.folds] != [fold.train for fold in other.folds]


def test_what_is_left_to_auto_is_settled_once_for_all_folds(data, trained, tmp_path):
    uneven = data.subset(np.arange(11))
    report = train_folds(recipe(warmup_epochs="auto", effort=0.001), uneven, out=tmp_path, folds=3)
    written = {(tmp_path / f"fold-{k}/recipe.yaml").read_text() for k in (1, 2, 3)}
    assert len({fold.train.count for fold in report.folds}) == 2
    assert len(written) == 1
    assert "warmup_epochs: 0.2\n" in written.pop()  # a fifth of the run


MOMENTS = {  # what is there when the run dies: folders begun, of them finished
    "before the first": ([], []),
    "in the first": (["fold-1"], []),
    "between two": (["fold-1"], ["fold-1"]),
    "in the second": (["fold-1", "fold-2"], ["fold-1"]),
    "before the report": (["fold-1", "fold-2", "fold-3"], ["fold-1", "fold-2", "fold-3"]),
}


@pytest.mark.parametrize(("begun", "finished"), MOMENTS.values(), ids=MOMENTS)
def test_resuming_goes_on_at_the_first_unfinished_fold(begun, finished, data, trained, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    train_folds(recipe(), data, out=whole, folds=3)
    shutil.copytree(whole, out)
    (out / "folds.json").unlink()
    for name in ("fold-1", "fold-2", "fold-3"):
        if name not in begun:
            shutil.rmtree(out / name)
        elif name not in finished:
            (out / name / "last.safetensors").unlink()
        else:
            (out / name / ".lock").write_text("process 1 on another machine")  # of a run that was killed as it ended
    trained.clear()
    if not begun:
        with pytest.raises(ValueError, match="no run to resume here; leave `resume=True` out"):
            train_folds(recipe(), data, out=out, folds=3, resume=True)
        return
    train_folds(recipe(), data, out=out, folds=3, resume=True)
    todo = [name for name in ("fold-1", "fold-2", "fold-3") if name not in finished]
    assert trained == [f"{name} resumed" if name in begun else name for name in todo]
    assert figures(out) == figures(whole)
    assert not list(out.rglob(".lock"))


def test_a_fold_of_fewer_epochs_than_asked_for_is_not_finished(data, trained, tmp_path):
    train_folds(recipe(epochs=2), data, out=tmp_path, folds=3)  # each is of epoch 1, as its file says
    trained.clear()
    train_folds(recipe(epochs=2), data, out=tmp_path, folds=3, resume=True)
    assert trained == ["fold-1 resumed", "fold-2 resumed", "fold-3 resumed"]


def test_folds_start_their_processes_themselves(data, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^folds: each fold starts its processes itself; leave out the launcher"):
        train_folds(recipe(devices=2), data, out=tmp_path, folds=3)


OTHERWISE = {  # what is asked for when a run of three folds is resumed
    "another recipe": ({"recipe": recipe(lr=0.5)}, "lr was 0.001, is 0.5"),
    "another number": ({"folds": 2}, "fold-1: began with another part of the data"),
    "other data": ({"data": gauges(12, "train", seed=4, size=64)}, "fold-1: began with another part of the data"),
    "nothing": ({"resume": False}, "go on with `resume=True`, start anew with `overwrite=True`"),
    "both": ({"overwrite": True}, "resume, overwrite: expected one of them, got both"),
}


@pytest.mark.parametrize(("change", "words"), OTHERWISE.values(), ids=OTHERWISE)
def test_folds_resume_as_they_began(change, words, data, trained, tmp_path):
    train_folds(recipe(), data, out=tmp_path, folds=3)
    before, _ = figures(tmp_path), trained.clear()
    with pytest.raises(ValueError, match=re.escape(words)):
        train_folds(**{"recipe": recipe(), "data": data, "out": tmp_path, "folds": 3, "resume": True} | change)
    assert trained == []
    assert figures(tmp_path) == before


def test_overwriting_leaves_nothing_of_the_folds_before(data, trained, tmp_path):
    train_folds(recipe(), data, out=tmp_path, folds=4)
    (tmp_path / "fold-2/notes.txt").write_text("")
    for name in ("fold-9", "fold-x"):  # not made here
        (tmp_path / name).mkdir()
    report = train_folds(recipe(), data, out=tmp_path, folds=2, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"fold-1", "fold-2", "fold-9", "fold-x", "folds.json"}
    assert not (tmp_path / "fold-2/notes.txt").exists()
    assert len(figures(tmp_path)["folds"]) == len(report.folds) == 2


def test_what_is_refused_leaves_the_folds_before(data, trained, tmp_path, monkeypatch):
    """Where the training itself refuses, at the latest."""
    train_folds(recipe(), data, out=tmp_path, folds=3)
    before = figures(tmp_path)
    monkeypatch.setattr(module, "prepare", keylite.training.train.prepare)
    with pytest.raises(ValueError, match="nothing"):
        train_folds(recipe(backbone="timm:nothing"), data, out=tmp_path, folds=3, overwrite=True)
    assert figures(tmp_path) == before
    assert (tmp_path / "fold-3/last.safetensors").is_file()


def test_folds_too_small_for_a_sigma_of_their_own_share_one(
    done_with_scores: Path, tmp_path: Path, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    caplog.set_level(logging.INFO, "keylite")
    trained = trained_as(done_with_scores, monkeypatch)
    data = gauges(52, "train", seed=3, size=64).regrouped([f"maker {i % 26}" for i in range(52)])
    report = train_folds(recipe(head="heatmap"), data, out=tmp_path, folds=3)
    specs = [read_spec(tmp_path / fold.model) for fold in report.folds]
    fitted = specs[0].confidence
    assert [spec.confidence for spec in specs] == [fitted] * 3
    assert (fitted.count, fitted.data.fingerprint) == (26, data.fingerprint())
    assert caplog.text.count("sigma (each point's expected error") == 1, "the folds say nothing of their own"
    assert "px) was fitted on 26 of 52 objects, each predicted by the model of its fold" in caplog.text
    assert report.pooled.reliability.count == 4 * 26, "those that it was not fitted on"
    assert sum(fold.report.reliability.count for fold in report.folds) == 4 * 26
    for fold in report.folds:
        assert keylite.evaluate(tmp_path / fold.model, data).model_sha256 == fold.report.model_sha256
    before = figures(tmp_path)
    trained.clear()
    train_folds(recipe(head="heatmap"), data, out=tmp_path, folds=3, resume=True)
    assert trained == []
    assert figures(tmp_path) == before


@pytest.mark.parametrize(("fold", "fitted", "said"), [(True, False, False), (True, True, True), (False, False, True)])
def test_a_fold_is_silent_about_a_sigma_that_the_folds_fit_together(
    fold, fitted, said, done_with_scores: Path, tmp_path: Path, data, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    caplog.set_level(logging.INFO, "keylite")
    for name in ("model", "last"):
        shutil.copy(done_with_scores, tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(train_module, "write_confidence", lambda *_: "the line about sigma")
    monkeypatch.setattr(train_module, "knows_its_errors", lambda _: fitted)
    spec = SimpleNamespace(skeleton=SimpleNamespace(mirror=None))
    state = SimpleNamespace(recipe=recipe(), spec=spec, out=tmp_path, model=tmp_path / "model.safetensors", val=data)
    train_module._fit_confidence(state, fold)
    assert ("the line about sigma" in caplog.text) == said


def test_too_few_objects_in_all_folds_for_a_sigma_are_said(data, done_with_scores, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    caplog.set_level(logging.INFO, "keylite")
    trained_as(done_with_scores, monkeypatch)
    report = train_folds(recipe(head="heatmap"), data, out=tmp_path, folds=3)
    assert report.pooled.reliability is None
    assert "is not fitted: gauges train: 12 labelled objects, and 50 are needed" in caplog.text


SPOKEN = {  # groups, blocks: what is said of them
    "every image its own": (None, False, "every image is a group of its own"),
    "blocks": (None, True, "blocks: each fold holds out one run of frames"),
    "subjects": ("maker", False, None),
}


@pytest.mark.parametrize(("groups", "blocks", "words"), SPOKEN.values(), ids=SPOKEN)
def test_groups_that_may_not_be_independent_are_spoken_of(
    groups, blocks, words, data, trained, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    caplog.set_level(logging.INFO, "keylite")
    alone = data.regrouped([f"{i:02d}" for i in range(12)], named=False)
    train_folds(recipe(), data if groups else alone, out=tmp_path, folds=3, blocks=blocks)
    said = [line for line in caplog.messages if "group of its own" in line or line.startswith("blocks")]
    assert len(said) == (words is not None)
    assert words is None or said[0].startswith(words)


def test_one_picture_in_two_folds_is_said_once(data, trained, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    caplog.set_level(logging.WARNING, "keylite")
    images = [data.images[0], *data.images[:-1]]
    twice = keylite.from_arrays(images, data.xy, skeleton=data.skeleton, boxes=data.box)
    train_folds(recipe(), twice, out=tmp_path, folds=12)
    (said,) = [line for line in caplog.messages if "are in two folds" in line]
    assert said.startswith("2 of 12 pictures are in two folds (2 equal): figures will flatter: ")


def test_bad_images_are_left_out_before_folds_are_made(data, trained, tmp_path):
    images = [*data.images[:-1], tmp_path / "missing.png"]
    broken = keylite.from_arrays(images, data.xy, skeleton=data.skeleton, boxes=data.box)
    with pytest.raises(ValueError, match="1 of 12 images cannot be used"):
        train_folds(recipe(), broken, out=tmp_path / "out", folds=3)
    assert not (tmp_path / "out").exists()
    report = train_folds(recipe(), broken, out=tmp_path / "out", folds=3, skip_bad=True)
    assert report.pooled.count == 11


# ---- what is refused, in one line, before anything is written

REFUSED = {  # flags: words of the line
    "a single fold": (["--folds", 1], "folds: expected a whole number of at least 2, got 1"),
    "no number": (["--folds", "many"], "many"),
    "more folds than groups": (["--folds", 12], "11 groups do not make 12 folds; ask for 11 at most"),
    "more runs than frames": (["--folds", 12, "--blocks"], "11 groups do not make 12 folds"),
    "a single group": (["--folds", 3, "--group", "regex:video"], "all 11 objects are in one group.*--blocks"),
    "runs of groups": (
        ["--folds", 3, "--blocks", "--group", "block:4"],
        "blocks: .*/video/CollectedData.csv already has 3 groups",
    ),
    "runs without folds": (["--blocks"], "blocks: .*--folds"),
    "with validation data": (["--folds", 3, "--val", "VIDEO"], "^keylite: --val: has no effect with --folds"),
    "with a share of it": (
        ["--folds", 3, "--val-fraction", 0.3],
        "^keylite: --val-fraction: has no effect with --folds",
    ),
    "stopping early": (["--folds", 3, "--patience", 2], "patience: expected 0 with folds, got 2"),
    "nothing to measure by": (
        ["--folds", 3, "--blocks", "--normalize", "0,1"],
        "unlabelled or 0 px in all objects of fold 2",
    ),
    "an unknown preset": (
        ["--folds", 3, "--preset", "fest"],
        "preset: expected one of tiny, small, fast, balanced, accurate",
    ),
    "nothing to resume": (["--folds", 3, "--resume"], "no run to resume here"),
}


@pytest.mark.parametrize(("flags", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_folded_is_one_line(flags, words, video, capsys, tmp_path):
    labels = shutil.copytree(video.parents[2], tmp_path / "project") / video.relative_to(video.parents[2])
    if "--normalize" in flags:  # the first keypoint of frames 4 to 6 is not labelled
        text = re.sub(r"(?m)^(\S+img[456]\.png),[^,]+,[^,]+", r"\1,,", labels.read_text())
        labels.write_text(text)
    told = [str(flag).replace("VIDEO", str(labels)) for flag in flags]
    code, out, err = run(capsys, "--data", labels, "--out", tmp_path / "run", *told)
    lines = [line for line in err.splitlines() if line.startswith("keylite: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert re.search(words, lines[0]), lines[0]
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_filled_with_folds(data, trained, tmp_path):
    open_run(tmp_path, resolve(recipe(), data), data, data, resume=False)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds a run that is not a fold; choose another `out`"):
            train_folds(recipe(), data, out=tmp_path, folds=3, overwrite=overwrite)


def test_ctrl_c_in_a_fold_says_how_to_go_on(video, capsys, tmp_path, monkeypatch):
    def prepare(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "prepare", prepare)
    code, _, err = run(capsys, "--data", video, "--out", tmp_path / "run", "--folds", 3)
    assert code == 130
    assert err.splitlines()[-1].startswith("keylite: stopped before an epoch was finished: there is nothing to resume")

    def trains(*_: object, **__: object) -> None:
        (tmp_path / "run/fold-1").mkdir(parents=True)
        (tmp_path / "run/fold-1/resume.ckpt").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "prepare", trains)
    code, _, err = run(capsys, "--data", video, "--out", tmp_path / "run", "--folds", 3)
    assert err.splitlines()[-1].startswith("keylite: stopped; the same command with --resume goes on")
