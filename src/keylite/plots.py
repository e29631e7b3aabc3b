"""Charts as PNG files, by matplotlib. Computes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keylite.runtime.files import replacing


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


def plot_tradeoff(result: dict[str, Any], path: Path) -> None:
    """NME with its 95 % interval against the engine's median time with p10 and p90, one mark a file.

    result: of `timing.benchmark`, each of whose models has got its `accuracy`.
    """
    with _figure(path, 9, 5) as figure:
        axes = figure.subplots()
        for (name, facts), shape in zip(result["models"].items(), itertools.cycle("osD^vPX*")):
            ms, found = facts["ms"]["engine"], facts["accuracy"]
            nme = found["nme"]
            spread = [[abs(ms["median"] - ms[end])] for end in ("p10", "p90")]
            bars = [[100 * abs(nme - end)] for end in found["nme_interval"] or (nme, nme)]
            axes.errorbar(
                ms["median"], 100 * nme, bars, spread, fmt=shape, markersize=7, capsize=3, elinewidth=0.8,
                label=f"{Path(name).name}: {ms['median']:.2f} ms, {100 * nme:.2f} %",
            )  # fmt: skip
        axes.set_xscale("log")
        for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            ticks("{x:g}")
        axes.tick_params(which="both", labelsize=9)
        title = f"{found['count']} objects of {found['data']}; {result['threads']} thread(s) of {result['machine']}"
        axes.set(title=title, xlabel="engine, ms an image", ylabel=f"NME by {found['normalize']}, %")
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
