"""A report of folds prints its table and its lines, says in a line what it is, and shows nothing foreign as it is."""

from __future__ import annotations

import msgspec
import numpy as np

from keylite.data.arrays import from_arrays
from keylite.evaluation.figures import report_of
from keylite.evaluation.predictions import Predictions
from keylite.training.folds_report import FoldFigures, FoldReport, FoldsReport, PartReport, figures_of


def made_up() -> FoldsReport:
    """Two folds of one object each, whose points are off by 1 and by 3 of 100 px."""
    xy = np.full((2, 2, 2), 50.0)
    data = from_arrays([np.zeros((100, 100, 3), np.uint8)] * 2, xy, name="<b>all")
    moved = xy + [[[1.0, 0]], [[3.0, 0]]]
    predictions = Predictions(moved, xy, np.ones((2, 2)), np.tile([[0.0, 0, 100, 100]], (2, 1)), ())
    part = PartReport(1, 1, "f" * 64)
    folds = []
    for n in range(2):
        of_one = Predictions(moved[[n]], xy[[n]], np.ones((1, 2)), predictions.boxes[[n]], ())
        report = report_of(of_one, data[[n]], "100px")
        folds.append(FoldReport(n + 1, f"fold-{n + 1}/last.safetensors", 0, part, part, report))
    pooled = report_of(predictions, data, "100px", notes=["a < b"])
    mean, std = (FoldFigures(figure, None, figure, 100 * figure, 0.0) for figure in (0.02, 0.0141))
    return FoldsReport("0", "now", data.identity(), False, 0, {}, tuple(folds), mean, std, pooled)


def test_it_prints_a_row_per_fold_and_then_all_objects_together():
    printed = str(made_up()).splitlines()
    assert printed[0] == "<b>all: each fold with the weights of its last epoch; NME by 100px, 1 % is 1 px"
    rows = [line.split() for line in printed[3:8]]
    assert [(row[0], row[-6]) for row in rows[:2]] == [("1", "1.00%"), ("2", "3.00%")]
    assert [row[0] for row in rows] == ["1", "2", "mean", "std", "pooled"]
    assert printed[8:10] == ["", "all held-out objects pooled: NME 2.00% (no interval)"]
    assert printed[10] == "a < b"


def test_a_line_says_what_it_is_and_a_notebook_gets_it_escaped():
    report = made_up()
    assert repr(report) == "FoldsReport(2 folds: NME 2.00 % of 100px pooled, 2 objects of <b>all)"
    shown = report._repr_html_()
    assert "&lt;b&gt;all" in shown
    assert "<p>a &lt; b</p>" in shown
    assert "<b>" not in shown
    assert msgspec.json.decode(report.to_json(), type=FoldsReport) == report
    assert np.isnan(figures_of(report.pooled)[1])
