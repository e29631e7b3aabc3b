"""A training run in progress: validation, files and messages at the end of each epoch. Knows no framework."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.figures import report_of
from keylite.evaluation.predictions import joined, predict_dataset, predict_shape
from keylite.evaluation.report import Report
from keylite.runtime.engines import Engine
from keylite.runtime.errors import ArgumentError
from keylite.runtime.heads import Regression
from keylite.runtime.predictor import Predictor
from keylite.runtime.progress import spelt_time
from keylite.runtime.spec import ModelSpec, ValidationFigures
from keylite.training.folder import CHECKPOINT, write_log
from keylite.training.processes import World
from keylite.training.recipe import (
    Recipe,
    Resolved,
)

log = logging.getLogger("keylite")

FINITE_EVERY = 50  # steps between two checks of the loss, because a check makes a GPU wait
BRANCH_SHARE = 1e-4  # if less than this share of errors is on one branch of the loss, only the other one works
ALONE = World()


@dataclasses.dataclass
class Run:
    """A run in progress.

    val: the validation set. out: the folder. baseline: the report of the mean shape on the validation set. profile:
    whether to measure the parts of a step. history: a row per epoch, as in log.csv.
    """

    recipe: Resolved
    spec: ModelSpec
    val: Dataset
    out: Path
    baseline: Report
    profile: bool = False
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    since: float = dataclasses.field(default_factory=time.monotonic)  # when the last epoch ended, or the run started

    @property
    def model(self) -> Path:
        """The model file of the best epoch."""
        return self.out / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The file that the framework resumes from."""
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
        """Validate the network behind `engine`, write the model files, log and curves, and return the epoch's row.

        save: writes the network with a spec to a path. step: steps of the optimizer so far. world: if several processes
        train, each validates its share of the objects with the same network, and the first one writes.
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
        self.history.append(row)
        if not world.first:
            return row
        spec = with_figures(self.spec, report, self.baseline, len(self.history))
        if row["val_nme"] < self._best_before(row["epoch"]):
            save(spec, self.model)
        save(spec, self.out / "last.safetensors")
        write_log(self.history, self.baseline.nme.mean, self.out)
        return row

    def say_epoch(self) -> None:
        """Log the last epoch's line. Call it when the checkpoint is written: what was said is then not lost."""
        row = self.history[-1]
        log.info(
            "epoch %d/%d  loss %.4g  val NME %.2f %%  val error %.2f px%s%s",
            row["epoch"], self.recipe.epochs, row["loss"], 100 * row["val_nme"], row["val_px"], self._time_words(),
            "  (best)" if row["val_nme"] < self._best_before(row["epoch"]) else "",
        )  # fmt: skip

    def _best_before(self, epoch: float) -> float:
        """The lowest val NME of the epochs before this one; infinite if there are none."""
        return min((past["val_nme"] for past in self.history if past["epoch"] < epoch), default=math.inf)

    def _times(self) -> dict[str, float]:
        """Seconds of training so far, without pauses between resumed parts, and seconds of this epoch."""
        now = time.monotonic()
        spent, self.since = now - self.since, now
        before = self.history[-1]["seconds"] if self.history else 0.0
        return {"seconds": round(before + spent, 3), "epoch_seconds": round(spent, 3)}

    def _time_words(self) -> str:
        """How long the last epoch took, and how long the rest of the run will take."""
        seconds = [row["epoch_seconds"] for row in self.history]
        left = (self.recipe.epochs - len(seconds)) * float(np.median(seconds[-5:]))
        return f"  {spelt_time(seconds[-1])}" + (f", about {spelt_time(left)} left" if left else "")

    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` epochs have brought no better val NME."""
        done = len(self.history)
        since = done - 1 - int(np.argmin([row["val_nme"] for row in self.history])) if done else 0
        if self.recipe.patience and since >= self.recipe.patience:
            log.info("stopped early: no better val NME for %d epochs", since)
            return True
        return done >= self.recipe.epochs

    def speak_up(self, branch: float | None, share_below: float) -> None:
        """Warn if a run looks wrong after its first third. Of the mean shape the end of a run warns, too.

        branch: the error in px at which the loss changes branch, or None. share_below: the share of the epoch's errors
        that are smaller.
        """
        row = self.history[-1]
        if row["epoch"] != math.ceil(self.recipe.epochs / 3):
            return
        if row["epoch"] < self.recipe.epochs and row["val_nme"] > self.baseline.nme.mean:
            log.warning(
                "val NME %.2f %% is worse than predicting the mean shape (%.2f %%) after epoch %d of %d; look at %s, "
                "the labels, lr and the loss",
                100 * row["val_nme"], 100 * self.baseline.nme.mean, row["epoch"], self.recipe.epochs,
                self.out / "examples.jpg",
            )  # fmt: skip
        if branch is not None and not BRANCH_SHARE < share_below < 1 - BRANCH_SHARE:
            log.warning(
                "every error of epoch %d is %s %g px, on one branch of %s; change its threshold, or take mae or mse",
                row["epoch"], "above" if share_below < 0.5 else "below", branch, self.recipe.loss,
            )  # fmt: skip


def require_finite(recipe: Recipe, epoch: int, total: float) -> None:
    """Raise ArgumentError if the loss is NaN or infinite, because training cannot recover. epoch: counted from 0."""
    if not math.isfinite(total):
        raise ArgumentError(
            f"training: the loss is {total} in epoch {epoch + 1}; lower lr (now {recipe.lr:g}), or set clip"
        )


def knows_its_errors(spec: ModelSpec) -> bool:
    """Whether a model file has the confidence that is fitted after the last epoch, or a head without scores."""
    return spec.confidence is not None or isinstance(spec.head, Regression)


def validate(engine: Engine, spec: ModelSpec, val: Dataset, world: World = ALONE) -> Report:
    """The report of an engine on the validation set, without OKS, which needs another package.

    world: if several processes train, each predicts its own share of the objects, and all get the whole report.
    """
    shares = [np.arange(rank, len(val), world.size) for rank in range(world.size)]
    own, predictor = shares[world.rank], Predictor.of(engine, spec)
    parts = world.gather(predict_dataset(predictor, val.subset(own)) if len(own) else None)
    predictions = joined([part for part in parts if part is not None], np.argsort(np.concatenate(shares)))
    return report_of(predictions, val, spec.normalize)


def baseline_report(shape: np.ndarray, spec: ModelSpec, val: Dataset) -> Report:
    """The report of predicting the same `shape` (K, 2) for every crop, in unit coordinates: a model must be better."""
    return report_of(predict_shape(shape, spec, val), val, spec.normalize)


def with_figures(spec: ModelSpec, report: Report, baseline: Report, epoch: int) -> ModelSpec:
    """The spec with the figures of an epoch on the validation set. baseline: the report of the mean shape."""
    figures = ValidationFigures(
        data=report.data,
        epoch=epoch,
        nme=report.nme.mean,
        mean_shape_nme=baseline.nme.mean,
        normalize=report.nme.normalize,
        percent_px=report.nme.percent_px,
        pixel_error=report.pixel_error.mean,
        count=report.count,
    )
    return msgspec.structs.replace(spec, report=figures)
