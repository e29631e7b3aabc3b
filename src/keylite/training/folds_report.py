"""The report of cross-validation: a report per fold, all objects pooled, and its rows of text."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from keylite.evaluation.report import DatasetReport, Report, no_better, short_nme
from keylite.runtime.tables import Table, as_html, as_text
from keylite.runtime.words import counted, escaped


class PartReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One side of a fold."""

    count: int
    groups: int
    fingerprint: str


class FoldReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fold: `report` is of the last epoch's model on `held_out`. seed: of its training."""

    fold: int
    model: str
    seed: int
    train: PartReport
    held_out: PartReport
    report: Report


class FoldFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """NME (of the mean shape, too) and failure rate as fractions, pixel error in px of the original image."""

    nme: float
    mean_shape_nme: float | None
    nme_median: float
    pixel_error: float
    failure_rate: float


class FoldsReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All folds, as in folds.json. mean, std: over folds (std with n - 1). pooled: over all objects, each by its fold's
    model, with intervals by group. blocks: whether groups are runs of frames. seed: that groups were dealt out by."""

    keylite: str
    created: str
    dataset: DatasetReport
    blocks: bool
    seed: int
    recipe: dict[str, Any]
    folds: tuple[FoldReport, ...]
    mean: FoldFigures
    std: FoldFigures
    pooled: Report

    def __repr__(self) -> str:
        pooled = f"{short_nme(self.pooled.nme)} pooled, {counted(self.pooled.count, 'object')}"
        return f"FoldsReport({counted(len(self.folds), 'fold')}: {pooled} of {escaped(self.dataset.name)})"

    def __str__(self) -> str:
        return as_text(folds_parts(self))

    def _repr_html_(self) -> str:
        return as_html(folds_parts(self))

    def to_json(self) -> bytes:
        """The report as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


def figures_of(report: Report) -> tuple[float, ...]:
    """The figures of a report that folds are compared by, in the order of FoldFigures; NaN if there is none."""
    mean_shape_nme = np.nan if report.mean_shape_nme is None else report.mean_shape_nme
    return report.nme.mean, mean_shape_nme, report.nme.median, report.pixel_error.mean, report.failure_rate


COLUMNS = ("fold", "objects", "groups", "NME", "mean shape", "NME median", "pixel error", "failures")


def folds_parts(report: FoldsReport) -> list[Table | str]:
    """What a report of folds shows: a row per fold, then the figures of all objects together."""
    nme = report.pooled.nme
    percent = f"1 % is {nme.percent_px:.3g} px"
    title = f"{report.dataset.name}: each fold by its last epoch's weights; NME by {nme.normalize}, {percent}"
    interval = f"[{nme.interval[0]:.2%}, {nme.interval[1]:.2%}] by group" if nme.interval else "(no interval)"
    shape = report.pooled.mean_shape_nme
    worse = ", and the models are no better" if no_better(nme.mean, shape) else ""
    beside = "" if shape is None else f"; giving the mean shape for every crop has {shape:.2%}{worse}"
    pooled = f"all held-out objects pooled: NME {nme.mean:.2%} {interval}{beside}"
    return [Table(COLUMNS, fold_rows(report), title), pooled, *report.pooled.notes]


def fold_rows(report: FoldsReport) -> list[tuple[str, ...]]:
    """Texts under COLUMNS: a row a fold, then mean and standard deviation over folds, then all objects pooled."""

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
