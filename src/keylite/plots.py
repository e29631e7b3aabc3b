"""Charts as PNG files, by matplotlib. Knows nothing of where the figures come from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from keylite.runtime.files import replacing


class Mark(NamedTuple):
    """A model file on the chart of accuracy against latency. Intervals are (low, high) of the same unit, or None.

    nme: a fraction. ms: median milliseconds.
    """

    name: str
    ms: float
    ms_interval: tuple[float, float]
    nme: float
    nme_interval: tuple[float, float] | None


def plot_history(history: list[dict[str, float]], path: Path) -> None:
    """Loss, val NME and learning rate by epoch."""
    with _figure(path, 9, 3.2) as figure:
        epochs = [row["epoch"] for row in history]
        panels = (("loss", "training loss", 1), ("val_nme", "val NME, %", 100), ("lr", "learning rate", 1))
        for axes, (name, title, factor) in zip(figure.subplots(1, 3), panels, strict=True):
            values = [factor * row[name] for row in history]
            axes.plot(epochs, values, marker="." if len(history) < 40 else "")
            axes.set(title=title, xlabel="epoch", ylim=(0, 1.05 * max(values) or 1))
            axes.grid(alpha=0.3)


def plot_tradeoff(marks: list[Mark], path: Path, *, title: str, normalize: str) -> None:
    """NME with its 95 % interval against the engine's median time with p10 and p90, one mark a file."""
    with _figure(path, 9, 5) as figure:
        axes = figure.subplots()
        for mark, shape in zip(marks, itertools.cycle("osD^vPX*")):
            ends = mark.nme_interval or (mark.nme, mark.nme)
            spread = [[abs(mark.ms - end)] for end in mark.ms_interval]
            bars = [[100 * abs(mark.nme - end)] for end in ends]
            axes.errorbar(
                mark.ms, 100 * mark.nme, bars, spread, fmt=shape, markersize=7, capsize=3, elinewidth=0.8,
                label=f"{mark.name}: {mark.ms:.2f} ms, {100 * mark.nme:.2f} %",
            )  # fmt: skip
        axes.set_xscale("log")
        for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            ticks("{x:g}")
        axes.tick_params(which="both", labelsize=9)
        axes.set(title=title, xlabel="engine, ms an image", ylabel=f"NME by {normalize}, %")
        axes.grid(alpha=0.3, which="both")
        axes.margins(0.1)
        figure.legend(loc="outside right upper", fontsize=9)


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure in inches, written whole or not at all when the block ends."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with replacing(path) as beside:
        figure.savefig(beside, format="png", dpi=110)
