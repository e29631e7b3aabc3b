"""A training run: its folder, its epochs' ends, and what is said of it. Knows no framework.

The folder holds recipe.yaml, data.json, examples.jpg, and after each epoch model.safetensors (best by val NME),
last.safetensors, log.csv, curves.png and the framework's own resume checkpoint, which is written last.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.evaluate import predict_dataset, predict_shape
from keylite.evaluation.metrics import median_extent
from keylite.evaluation.report import Report, joined, report_of
from keylite.pictures.plots import plot_history
from keylite.runtime.engines import Engine
from keylite.runtime.files import require_writable, tidy, write_text
from keylite.runtime.heads import Regression
from keylite.runtime.predictor import Predictor
from keylite.runtime.progress import spelt_time
from keylite.runtime.spec import ModelSpec
from keylite.runtime.texts import read_json
from keylite.runtime.words import counted, is_utf8, quoted
from keylite.training.lock import require_free
from keylite.training.processes import World, processes
from keylite.training.recipe import (
    AUTO,
    Recipe,
    Resolved,
    augments_as_usual,
    make_recipe,
    read_recipe,
    to_dict,
    write_recipe,
)

log = logging.getLogger("keylite")

WITHOUT_EFFECT = ("device", "compile", "threads", "workers", "cache")  # choices that a resumed run may change
BRANCH_SHARE = 1e-4  # fewer errors than this on one branch of the loss: the loss is not what its name says
PROFILE = "profile.json"
FIRST_FOLD = "fold-1"  # what tells a folder of folds
TOGETHER = ("batch", "devices", "nodes")  # whose product is what a step is made of
ALONE = World()
CHECKPOINT = "resume.ckpt"
RESULTS = ("model.safetensors", "last.safetensors", CHECKPOINT, "log.csv", "curves.png", "examples.jpg", PROFILE)
FILES = (*RESULTS, "recipe.yaml", "data.json")


@dataclasses.dataclass
class Run:
    """A run in progress.

    history: a row an epoch, as in log.csv. baseline: the val report of the mean shape. profile: whether to take times.
    """

    recipe: Resolved
    spec: ModelSpec
    val: Dataset
    out: Path
    baseline: Report
    profile: bool = False
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    since: float = dataclasses.field(default_factory=time.monotonic)  # the end of the last epoch, or the start

    @property
    def model(self) -> Path:
        """The best model file."""
        return self.out / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """What the framework resumes from."""
        return self.out / CHECKPOINT

    def end_epoch(
        self,
        engine: Engine,
        save: Callable[[ModelSpec, Path], None],
        *,
        step: int,
        lr: float,
        loss: float,
        world: World = ALONE,
    ) -> dict[str, float]:
        """Validate the network behind `engine`, write best, last, log and curves, and give the epoch's row.

        world: of several processes each validates its share, the same network, and the first one writes.
        """
        report = validate(engine, self.spec, self.val, world)
        row = {
            "epoch": len(self.history) + 1,
            "step": step,
            "lr": lr,
            "loss": loss,
            "val_nme": report.nme.mean,
            "val_px": report.pixel_error.mean,
            **self._times(),
        }
        best = row["val_nme"] < min((past["val_nme"] for past in self.history), default=math.inf)
        self.history.append(row)
        if not world.first:
            return row
        spec = with_figures(self.spec, report, self.baseline, len(self.history))
        if best:
            save(spec, self.model)
        save(spec, self.out / "last.safetensors")
        write_log(self.history, self.baseline.nme.mean, self.out)
        log.info(
            "epoch %d/%d  loss %.4g  val NME %.2f %%  val error %.2f px%s%s",
            row["epoch"], self.recipe.epochs, loss, 100 * row["val_nme"], row["val_px"], self._time_words(),
            "  (best)" if best else "",
        )  # fmt: skip
        return row

    def _times(self) -> dict[str, float]:
        """Seconds that the run has trained by now, without its pauses, and those of this epoch."""
        now = time.monotonic()
        spent, self.since = now - self.since, now
        before = self.history[-1]["seconds"] if self.history else 0.0
        return {"seconds": round(before + spent, 3), "epoch_seconds": round(spent, 3)}

    def _time_words(self) -> str:
        """How long the last epoch took, and the others will."""
        lasted = [row["epoch_seconds"] for row in self.history]
        left = (self.recipe.epochs - len(lasted)) * float(np.median(lasted[-5:]))
        return f"  {spelt_time(lasted[-1])}" + (f", about {spelt_time(left)} left" if left else "")

    def finished(self) -> bool:
        """Whether all epochs are done, or the recipe's patience is at its end."""
        done = len(self.history)
        since = done - 1 - int(np.argmin([row["val_nme"] for row in self.history])) if done else 0
        if self.recipe.patience and since >= self.recipe.patience:
            log.info("stopped early: no better val NME for %d epochs", since)
            return True
        return done >= self.recipe.epochs

    def speak_up(self, branch: float | None, share_below: float) -> None:
        """Warn of a run that looks wrong after its first third.

        branch: px where the loss changes branch, or None; share_below: of the epoch's errors that are under it.
        """
        row = self.history[-1]
        if row["epoch"] != math.ceil(self.recipe.epochs / 3):
            return
        if row["val_nme"] > self.baseline.nme.mean:
            log.warning(
                "val NME %.2f %% is worse than predicting the mean shape (%.2f %%) after a third of the run: look at "
                "%s, the labels, lr and the loss",
                100 * row["val_nme"], 100 * self.baseline.nme.mean, self.out / "examples.jpg",
            )  # fmt: skip
        if branch is not None and not BRANCH_SHARE < share_below < 1 - BRANCH_SHARE:
            log.warning(
                "every error of epoch %d is %s %g px, on one branch of %s: change its threshold, or take mae or mse",
                row["epoch"], "above" if share_below < 0.5 else "below", branch, self.recipe.loss,
            )  # fmt: skip


# ---- choices that follow the size of the data set, or the head
# LRS were chosen by the figures in docs/results.md (rle's is regression's), the others by judgement.

USUAL_EPOCHS, USUAL_OBJECTS = 20, 2795  # so many epochs for so many objects; more by the root of what others lack
FEWEST_EPOCHS, MOST_EPOCHS = 6, 300
WARMUP_SHARE, WARMUP_STEPS, LONGEST_WARMUP = 0.05, 20, 0.2  # of all steps; at least; of all steps, at most
LRS = {"regression": 5e-4, "rle": 5e-4, "simcc": 3e-3, "heatmap": 3e-3}  # of adam and adamw, by head
STRENGTHS = {0: 1.25, 500: 1.0, 20_001: 0.75}  # from so many objects on


def resolve(recipe: Recipe, data: Dataset, count: int | None = None) -> Resolved:
    """The recipe with what it leaves to auto settled for this training data, and said in a line or two.

    count: of the objects to train on, if they are not all of `data`, whose images are checked by now.

    Raises ValueError where nothing is labelled, and for a learning rate that is left to auto with an optimizer that
    needs another.
    """
    if not data.labelled.any():
        raise ValueError(
            f"{data.called}: none of the {len(data)} training objects has a labelled point; label some of them"
        )
    count = len(data) if count is None else count
    if count < processes(recipe):
        raise ValueError(f"devices: {processes(recipe)} processes share {count} training objects; take fewer")
    epochs, lr, warmup, strength, normalize = (getattr(recipe, name) for name in AUTO)
    if epochs == "auto":
        wanted = round(USUAL_EPOCHS * recipe.effort * math.sqrt(USUAL_OBJECTS / count))
        epochs = min(max(wanted, FEWEST_EPOCHS), MOST_EPOCHS)
    if lr == "auto":
        if recipe.optimizer == "sgd":
            raise ValueError("lr: auto is for adam and adamw; give one for sgd: 0.01 is where to begin")
        lr = LRS[recipe.head]
    batch = batch_of(recipe, count)
    each = math.ceil(count // (batch * processes(recipe)) / recipe.accumulate)
    steps = epochs * each
    if warmup == "auto":
        warmup = round(min(max(WARMUP_SHARE * steps, WARMUP_STEPS), LONGEST_WARMUP * steps) / each, 4)
    if strength == "auto":
        by_size = STRENGTHS[max(start for start in STRENGTHS if start <= count)]
        strength = by_size if augments_as_usual(recipe) else 1.0  # who gives a range or a chance means that number
    log.info(
        "%s: %s (%s of %d), lr %g after %g epoch%s of warm-up, augmentation x%g",
        counted(count, "object"), counted(epochs, "epoch"), counted(steps, "step"),
        batch * processes(recipe) * recipe.accumulate, lr, warmup, "" if warmup == 1 else "s", strength,
    )  # fmt: skip
    if normalize == "auto":
        normalize = _divisor(recipe.box, data)
    settled = dict(zip(AUTO, (epochs, lr, warmup, strength, normalize), strict=True))
    return msgspec.convert(to_dict(recipe) | settled, Resolved)


def _divisor(box: str, data: Dataset) -> str:
    """What errors are divided by unless the recipe says it: the object's own size, whatever it is cut from."""
    if box == "annotation":
        return "box_diagonal"
    extent = median_extent(data.xy, data.whole_boxes())
    if extent is None:
        log.info(
            "errors are divided by the image's diagonal: one point has no extent; --normalize takes another length"
        )
        return "box_diagonal"
    log.info(
        "errors are divided by %.4g of the image's diagonal: the median extent of the training objects' points, "
        "%.1f px; 1 %% is %.2f px", extent[1], extent[0], extent[0] / 100,
    )  # fmt: skip
    return f"{np.format_float_positional(extent[1], 4, fractional=False, trim='-')} x box_diagonal"


# ---- what every framework does at a step


FINITE_EVERY = 50  # steps between looks at the loss, which stall a GPU


def batch_of(recipe: Recipe, count: int) -> int:
    """Objects in the batch of a process, of a data set of `count`; what is left waits for another epoch."""
    return max(1, min(recipe.batch, count // processes(recipe)))


def lr_factor(recipe: Resolved, step: int, steps_per_epoch: int) -> float:
    """The share of the peak learning rate at optimizer step `step`, counted from 0 over the whole run.

    It rises evenly through the warm-up, then follows the recipe's schedule.
    """
    warmup, steps = round(recipe.warmup_epochs * steps_per_epoch), recipe.epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def ema_decay(recipe: Recipe, step: int) -> float:
    """How much of the moving average of weights stays after optimizer step `step`, counted from 0."""
    return min(recipe.ema, (1 + step) / (10 + step))  # a young average follows quickly


def require_finite(recipe: Recipe, epoch: int, total: float) -> None:
    """Raise ValueError for a loss that is NaN or Inf, in an epoch counted from 0: nothing good comes after it."""
    if not math.isfinite(total):
        raise ValueError(
            f"training: the loss is {total} in epoch {epoch + 1}; lower lr (now {recipe.lr:g}), or set clip"
        )


def require_history(history: object, source: str) -> None:
    """Raise ValueError unless this is what a resume checkpoint holds of its epochs: a row of numbers for each."""
    rows = history if isinstance(history, list) else []
    fits = all(
        isinstance(row, dict)
        and row.keys() == {"epoch", "step", "lr", "loss", "val_nme", "val_px", "seconds", "epoch_seconds"}
        and row["epoch"] == number
        and all(type(value) in (int, float) and math.isfinite(value) for value in row.values())
        for number, row in enumerate(rows, 1)
    )
    if not rows or not fits:
        raise ValueError(
            f"{source}: the file is damaged, or of another run (its epochs are not counted from 1); start anew with "
            "--overwrite, or choose another --out"
        )


# ---- the end of an epoch


def knows_its_errors(spec: ModelSpec) -> bool:
    """Whether a model file has what is learnt after the last epoch, which a killed run lacks."""
    return spec.confidence is not None or isinstance(spec.head, Regression)


def validate(engine: Engine, spec: ModelSpec, val: Dataset, world: World = ALONE) -> Report:
    """The report of an engine in memory, without OKS, which needs a package of its own.

    world: each process predicts its share of the objects, none of them twice, and all have the whole report.
    """
    shares = [np.arange(rank, len(val), world.size) for rank in range(world.size)]
    own, predictor = shares[world.rank], Predictor.of(engine, spec)
    parts = world.gather(predict_dataset(predictor, val.subset(own)) if len(own) else None)
    found = joined([part for part in parts if part is not None], np.argsort(np.concatenate(shares)))
    return report_of(found, val, spec.normalize)


def baseline_report(shape: np.ndarray, spec: ModelSpec, val: Dataset) -> Report:
    """The report of giving the same (K, 2) unit coordinates for every crop: what a model must beat."""
    return report_of(predict_shape(shape, spec, val), val, spec.normalize)


def with_figures(spec: ModelSpec, report: Report, baseline: Report, epoch: int) -> ModelSpec:
    """The spec with the figures of an epoch on the validation set. baseline: those of the mean shape."""
    figures = {
        "data": "val",
        "epoch": epoch,
        "nme": report.nme.mean,
        "mean_shape_nme": baseline.nme.mean,
        "normalize": report.nme.normalize,
        "percent_px": report.nme.percent_px,
        "pixel_error": report.pixel_error.mean,
        "count": report.count,
    }
    return msgspec.structs.replace(spec, report=figures)


# ---- the folder


def check_run(out: Path, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    """Make sure, before anything costs time, that a run may begin or go on in `out`; writes nothing.

    Raises ValueError where another run writes to `out`, or it holds one and neither is asked for, or a resumed run's
    recipe is another; OSError where the folder cannot be written to.
    """
    old_recipe = out / "recipe.yaml"
    require_free(out)
    require_writable(out)
    if resume and overwrite:
        raise ValueError("resume, overwrite: expected one of them, got both")
    if resume and not old_recipe.is_file():
        raise ValueError(f"{out}: no run to resume here; leave --resume out to begin one")
    if (out / FIRST_FOLD / "recipe.yaml").is_file():
        raise ValueError(f"{out}: holds folds; go on with --folds, or choose another --out")
    require_new(out, resume, overwrite)
    if resume:
        _require_same_recipe(out, recipe)


def require_new(out: Path, resume: bool, overwrite: bool) -> None:
    """Raise ValueError where `out` holds a run, or files of a run's names, and neither is asked for.

    Nor may its path be what no UTF-8 text can hold: TensorBoard, and what writes checkpoints, cannot write there.
    """
    if not is_utf8(out):
        raise ValueError(f"out: expected a path that can be written in UTF-8, got {quoted(str(out))}; name another")
    there = [name for name in (*FILES, "tensorboard") if os.path.lexists(out / name)]
    if there and not (resume or overwrite):
        raise ValueError(
            f"{out}: holds a run already, or files of its names ({', '.join(there)}); go on with --resume, start anew "
            "with --overwrite, or choose another --out"
        )


def check_resumed(out: Path, recipe: Resolved, data: Dataset, val: Dataset) -> None:
    """Raises ValueError where the run in `out` began with other data, or another recipe once auto is settled."""
    if not began_with(out, data, val):
        raise ValueError(f"{out}: a run resumes with the data it began with; or choose another --out")
    _require_same_recipe(out, recipe)


def began_with(out: Path, data: Dataset, val: Dataset) -> bool:
    """Whether the run in `out` is of these data, as far as it says."""
    old_facts = out / "data.json"
    return not old_facts.is_file() or read_json(old_facts) == data_facts(data, val)


def _require_same_recipe(out: Path, recipe: Recipe) -> None:
    """Raises ValueError where the run in `out` has another recipe; auto is not compared."""
    path = out / "recipe.yaml"
    old, new = to_dict(make_recipe(read_recipe(path), str(path))), to_dict(recipe)
    open_yet = [name for name in AUTO if new[name] == "auto"]
    compared = [name for name in new if name not in (*WITHOUT_EFFECT, *open_yet, *TOGETHER)]
    changed = [f"{name} was {quoted(old[name])}, is {quoted(new[name])}" for name in compared if old[name] != new[name]]
    together = [[one[name] for name in TOGETHER] for one in (old, new)]
    if math.prod(together[0]) != math.prod(together[1]):  # else other processes may go on with it
        was, now = (" x ".join(map(str, values)) for values in together)
        changed.append(f"{' x '.join(TOGETHER)} was {was}, is {now}")
    if changed:
        told = "; ".join(changed)
        raise ValueError(f"{out}: a run resumes with the recipe it began with ({told}); or choose another --out")


def data_facts(data: Dataset, val: Dataset) -> dict[str, dict[str, str | int]]:
    """Name, count and fingerprint of both parts, as in `data.json`."""
    parts = {"train": data, "val": val}
    return {part: {"name": d.name, "count": len(d), "fingerprint": d.fingerprint()} for part, d in parts.items()}


def open_run(out: Path, recipe: Resolved, data: Dataset, val: Dataset, resume: bool) -> None:
    """Make the folder of a run, without what an overwritten one left."""
    if resume and not (out / CHECKPOINT).is_file():
        log.info("%s: no epoch was finished yet; starting from the beginning", out)
    tidy(out)  # what a killed run had not finished writing
    if not resume:
        clear_run(out)
    write_recipe(recipe, out / "recipe.yaml")
    write_text(out / "data.json", json.dumps(data_facts(data, val), indent=2))


def clear_run(out: Path) -> None:
    """Remove a run and all that it left from its folder."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "tensorboard", ignore_errors=True)
    tidy(out)


def checkpoints(out: Path) -> set[tuple[Path, int]]:
    """What a run in `out`, or folds in it, can go on from, each with the time of its last change, ns."""
    found = (out / CHECKPOINT, *out.glob(f"fold-*/{CHECKPOINT}"))
    return {(path, path.stat().st_mtime_ns) for path in found if path.is_file()}


def write_profile(out: Path, spent: dict[str, float], steps: int, epoch_end: float) -> None:
    """`profile.json`, and the same as a table in the log.

    spent: mean seconds of a step's parts, over so many steps. epoch_end: mean seconds of validation and writing.
    """
    whole = sum(spent.values())
    shares = {name: seconds / whole for name, seconds in spent.items()}
    facts = {"steps": steps, "step_ms": 1e3 * whole, "shares": shares, "epoch_end_ms": 1e3 * epoch_end}
    write_text(out / PROFILE, json.dumps(facts, indent=2) + "\n")
    rows = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    log.info("profile of %d steps: %.1f ms each: %s", steps, facts["step_ms"], rows)
    log.info("at an epoch's end, validation and files: %.0f ms; all figures: %s", facts["epoch_end_ms"], out / PROFILE)


def write_log(history: list[dict[str, float]], mean_shape_nme: float, out: Path) -> None:
    """`log.csv` and `curves.png` of all epochs so far."""
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(out / "log.csv", text.getvalue())
    plot_history(history, mean_shape_nme, out / "curves.png")
