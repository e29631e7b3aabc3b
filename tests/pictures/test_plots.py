"""Charts are written whole, and what is told apart looks different."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs keylite[pytorch] or keylite[tensorflow]")

from lines import Mark, plot_lines

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
