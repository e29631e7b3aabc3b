"""The report of cross-validation: a report per fold, all objects pooled, and its rows of text."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from keylite.evaluation.report import DatasetReport, Report


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

    def to_json(self) -> bytes:
        """The report as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


def figures_of(report: Report) -> tuple[float, ...]:
    """The figures of a report that folds are compared by, in the order of FoldFigures; NaN if there is none."""
    mean_shape_nme = np.nan if report.mean_shape_nme is None else report.mean_shape_nme
    return report.nme.mean, mean_shape_nme, report.nme.median, report.pixel_error.mean, report.failure_rate


COLUMNS = ("fold", "objects", "groups", "NME", "mean shape", "NME median", "pixel error", "failures")


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
