"""Charts are written whole, and what is told apart looks different."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs keylite[pytorch] or keylite[tensorflow]")

from lines import Mark, plot_lines

import keylite
from keylite.data.arrays import from_arrays
from keylite.evaluation.figures import report_of
from keylite.evaluation.predictions import Predictions
from keylite.evaluation.reliability import Decile, Reliability
from keylite.evaluation.report import Report
from keylite.evaluation.timing import FileTimes, Spread, Times
from keylite.pictures.plots import plot_history

MARKS = [Mark(50, 12, 11, 13, "few"), Mark(400, 7, 6.5, 7.6, "many"), Mark(2795, 5, 4.8, 5.2)]


def colours(path: Path) -> set[tuple[int, ...]]:
    """The strong colours of a picture: those of lines and marks."""
    pixels = cv2.imread(str(path)).reshape(-1, 3)
    return {tuple(c) for c in np.unique(pixels[np.ptp(pixels.astype(int), axis=1) > 120], axis=0).tolist()}


@pytest.mark.parametrize("log", ["x", "xy"])
def test_lines_that_share_a_word_share_a_colour(log: str, tmp_path: Path):
    words = {"title": "a", "xlabel": "b", "ylabel": "c", "log": log}
    plot_lines({("a", "1"): MARKS}, tmp_path / "one.png", **words)
    plot_lines({("a", "1"): MARKS, ("a", "2"): [m._replace(y=m.y + 1) for m in MARKS]}, tmp_path / "two.png", **words)
    plot_lines({("a", "1"): MARKS, ("b", "1"): [m._replace(y=m.y + 1) for m in MARKS]}, tmp_path / "both.png", **words)
    one, two, both = (colours(tmp_path / f"{name}.png") for name in ("one", "two", "both"))
    blue, orange = (180, 119, 31), (14, 127, 255)  # BGR: matplotlib's first and second
    assert [blue in found for found in (one, two, both)] == [True, True, True]
    assert [orange in found for found in (one, two, both)] == [False, False, True]
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in ("one", "two", "both")}) == 3


def test_curves_show_the_mean_shape_beside_the_val_nme(tmp_path: Path):
    rows = [{"epoch": n, "loss": 1 / n, "val_nme": 0.2 / n, "lr": 1e-3 / n} for n in (1, 2, 3)]
    plot_history(rows, 0.15, tmp_path / "curves.png")
    plot_history(rows, 0.05, tmp_path / "lower.png")
    assert {(180, 119, 31), (14, 127, 255)} <= colours(tmp_path / "curves.png")  # BGR: the curves, the dashed line
    assert (tmp_path / "curves.png").read_bytes() != (tmp_path / "lower.png").read_bytes()


# ---- public charts

RELIABILITY = Reliability(0.5, 0.4, None, 0.1, tuple(Decile(s, 1.1 * s, (s, 1.2 * s), 9) for s in (1.0, 2.0)), 18)
SPREAD = Spread(3.0, 2.5, 4.0)


def report(off: float = 3.0, normalize: str = "100px", name: str = "faces") -> Report:
    xy = np.full((2, 2, 2), 50.0)
    data = from_arrays([np.zeros((100, 100, 3), np.uint8)] * 2, xy, name=name, groups=[name, "other"])
    moved = Predictions(xy + (off, 0), xy, np.ones((2, 2)), np.tile([[0.0, 0, 100, 100]], (2, 1)), ())
    return report_of(moved, data, normalize)


def times(*names: str) -> Times:
    of_each = FileTimes("onnx", (64, 64), 1, None, {"engine": SPREAD})
    return Times("A processor", 1, 50, "made", {}, dict.fromkeys(names, of_each))


def test_a_chart_of_speed_and_accuracy_has_a_mark_per_model(tmp_path: Path):
    names = ["a.onnx", "b.onnx"]
    reports = {Path(name): report(off) for name, off in zip(names, (3.0, 5.0), strict=True)}
    keylite.plot_benchmark(times(*names), reports, tmp_path / "both.png")
    keylite.plot_benchmark(times("a.onnx"), {"a.onnx": report()}, str(tmp_path / "one.png"))
    assert [(14, 127, 255) in colours(tmp_path / f"{name}.png") for name in ("both", "one")] == [True, False]


def test_a_chart_of_sigma_has_a_line_per_model(tmp_path: Path):
    keylite.plot_reliability({"a": RELIABILITY, "b": RELIABILITY}, tmp_path / "both.png")
    keylite.plot_reliability({"a": RELIABILITY}, str(tmp_path / "one.png"), "a title")
    assert [(14, 127, 255) in colours(tmp_path / f"{name}.png") for name in ("both", "one")] == [True, False]


A, B = times("a"), times("a", "b")
REFUSED = {
    "no times": (lambda at: keylite.plot_benchmark(5, {}, at), "times: expected what `benchmark(models)` gives, got 5"),
    "no models": (lambda at: keylite.plot_benchmark(times(), {}, at), "times: expected what"),
    "no reports": (
        lambda at: keylite.plot_benchmark(A, report(), at),
        "reports: expected a Report for each model file",
    ),
    "one report": (lambda at: keylite.plot_benchmark(B, {"a": report()}, at), "by its path, got none for b; give what"),
    "other normalisers": (
        lambda at: keylite.plot_benchmark(B, {"a": report(), "b": report(normalize="50px")}, at),
        "reports: expected the same data and the same normaliser in all, got 2 kinds; evaluate every model alike",
    ),
    "other data": (
        lambda at: keylite.plot_benchmark(B, {"a": report(), "b": report(name="dogs")}, at),
        "reports: expected the same data",
    ),
    "a report": (
        lambda at: keylite.plot_reliability(report(), at),
        "reliability: expected `report.reliability` by the",
    ),
    "none": (lambda at: keylite.plot_reliability({}, at), "reliability: expected `report.reliability` by the name"),
    "no sigma": (
        lambda at: keylite.plot_reliability({"a": report().reliability}, at),
        "reliability: expected `report.reliability` for 'a', got None; it is None if the model gives no sigma",
    ),
    "a folder": (
        lambda at: keylite.plot_reliability({"a": RELIABILITY}, at.parent),
        "path: expected the name of a file",
    ),
}


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED)
def test_what_no_chart_can_be_made_of_is_one_line(call, words: str, tmp_path: Path):
    with pytest.raises(keylite.ArgumentError) as refusal:
        call(tmp_path / "chart.png")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())
