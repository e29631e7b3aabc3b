"""The report of cross-validation: a report per fold, one of all objects together, and how they are shown."""

from __future__ import annotations

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.report import Report, mm_rows, no_better, short_nme
from keylite.runtime.results import Result
from keylite.runtime.spec import DataId
from keylite.runtime.tables import Table, as_html, as_text
from keylite.runtime.types import Choice
from keylite.runtime.words import counted, escaped


class PartReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of the data in a fold: counts of its objects and groups, and its fingerprint."""

    count: int
    groups: int
    fingerprint: str

    @classmethod
    def of(cls, part: Dataset) -> PartReport:
        return cls(len(part), len(part.groups), part.fingerprint())


class FoldReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fold. model: its file, relative to the folder of all folds; measured on `held_out`. seed: the recipe's."""

    fold: int
    model: str
    seed: int
    train: PartReport
    held_out: PartReport
    report: Report


class FoldFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures by which folds are compared: NME and failure rate as fractions, pixel error in px of the image."""

    nme: float
    mean_shape_nme: float | None
    nme_median: float
    pixel_error: float
    failure_rate: float


class FoldsReport(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of cross-validation, as in folds.json; `print(report)` shows it as a table.

    Attributes:
        keylite: The version that trained the folds.
        created: When the report was made (UTC, ISO 8601).
        data: The labelled images that were divided: their `name` and `fingerprint`.
        blocks: Whether each fold held out one run of frames instead of groups.
        seed: The recipe's seed, by which groups were dealt out to the folds.
        recipe: Every choice of the recipe by name, with numbers for `auto` and without paths of the training machine.
        folds: A report per fold, of the last epoch's model on the objects that it was not trained on.
        mean: Mean of each figure over the folds.
        std: Standard deviation of each figure over the folds (with n - 1).
        pooled: A report of all objects together, each predicted by the model of its fold; with intervals by group.
    """

    keylite: str
    created: str
    data: DataId
    blocks: bool
    seed: int
    recipe: dict[str, Choice]
    folds: tuple[FoldReport, ...]
    mean: FoldFigures
    std: FoldFigures
    pooled: Report

    def __repr__(self) -> str:
        pooled = f"{short_nme(self.pooled.nme)} pooled, {counted(self.pooled.count, 'object')}"
        return f"FoldsReport({counted(len(self.folds), 'fold')}: {pooled} of {escaped(self.data.name)})"

    def __str__(self) -> str:
        return as_text(folds_parts(self))

    def _repr_html_(self) -> str:
        return as_html(folds_parts(self))


def figures_of(report: Report) -> tuple[float, ...]:
    """The figures of a report, in the order of FoldFigures; NaN if a figure is missing."""
    mean_shape_nme = np.nan if report.mean_shape_nme is None else report.mean_shape_nme
    return report.nme.mean, mean_shape_nme, report.nme.median, report.pixel_error.mean, report.failure_rate


COLUMNS = ("fold", "objects", "groups", "NME", "mean shape", "NME median", "pixel error", "failures")


def folds_parts(report: FoldsReport) -> list[Table | str]:
    """The table and lines that show a report: a row per fold, then the figures of all objects together."""
    nme = report.pooled.nme
    percent = f"1 % is {nme.percent_px:.3g} px"
    title = f"{report.data.name}: each fold with the weights of its last epoch; NME by {nme.normalize}, {percent}"
    interval = f"[{nme.interval[0]:.2%}, {nme.interval[1]:.2%}] by group" if nme.interval else "(no interval)"
    shape = report.pooled.mean_shape_nme
    worse = ", and the models are no better" if no_better(nme.mean, shape) else ""
    beside = "" if shape is None else f"; the mean shape for every crop has {shape:.2%}{worse}"
    pooled = f"all held-out objects pooled: NME {nme.mean:.2%} {interval}{beside}"
    mm = [": ".join(row) for row in mm_rows(report.pooled.mm)] if report.pooled.mm else []
    return [Table(COLUMNS, fold_rows(report), title), pooled, *mm, *report.pooled.notes]


def fold_rows(report: FoldsReport) -> list[tuple[str, ...]]:
    """The rows under COLUMNS: one per fold, then mean and standard deviation over folds, then all objects pooled."""

    def texts(nme: float, shape: float | None, median: float, px: float, failures: float) -> tuple[str, ...]:
        known = "-" if shape is None or np.isnan(shape) else f"{shape:.2%}"
        return f"{nme:.2%}", known, f"{median:.2%}", f"{px:.2f} px", f"{failures:.2%}"

    rows = [
        (str(fold.fold), str(fold.report.count), str(fold.report.groups), *texts(*figures_of(fold.report)))
        for fold in report.folds
    ]
    for name, figures in (("mean", report.mean), ("std", report.std)):
        rows.append((name, "", "", *texts(*msgspec.structs.astuple(figures))))
    pooled = report.pooled
    return [*rows, ("pooled", str(pooled.count), str(pooled.groups), *texts(*figures_of(pooled)))]
