"""Charts as PNG files, by matplotlib. Computes nothing."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keylite.runtime.files import replacing

if TYPE_CHECKING:
    from keylite.evaluation.reliability import Reliability


def can_plot() -> bool:
    """Whether matplotlib is installed; it is not imported for that."""
    return importlib.util.find_spec("matplotlib") is not None


def require_matplotlib(flag: str) -> None:
    """Raise ModuleNotFoundError without matplotlib, by the flag that asks for a chart."""
    if not can_plot():
        raise ModuleNotFoundError(f"{flag}: matplotlib is not installed: pip install matplotlib", name="matplotlib")


def plot_history(history: list[dict[str, float]], mean_shape_nme: float, path: Path) -> None:
    """Loss, val NME beside that of the mean shape, and learning rate by epoch."""
    with drawn(path, 9, 3.2) as figure:
        epochs = [row["epoch"] for row in history]
        panels = (("loss", "training loss", 1), ("val_nme", "val NME, %", 100), ("lr", "learning rate", 1))
        for axes, (name, title, factor) in zip(figure.subplots(1, 3), panels, strict=True):
            values = [factor * row[name] for row in history]
            axes.plot(epochs, values, marker="." if len(history) < 40 else "")
            if name == "val_nme":
                values.append(factor * mean_shape_nme)
                axes.axhline(values[-1], color="C1", linestyle="--", label=f"mean shape, {values[-1]:.2f} %")
                axes.legend(fontsize=9)
            axes.set(title=title, xlabel="epoch", ylim=(0, 1.05 * max(values) or 1))
            axes.grid(alpha=0.3)


def plot_tradeoff(result: dict[str, Any], path: Path) -> None:
    """NME with its 95 % interval against the engine's median time with p10 and p90, one mark a file.

    result: of `timing.benchmark`, each of whose models has got its `accuracy`.
    """
    with drawn(path, 9, 5) as figure:
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


def plot_reliability(models: dict[str, Reliability], path: Path, title: str = "") -> None:
    """Mean error found, with its 95 % interval, against the sigma promised, by tenths; one line a model.

    Marks are hollow and ever smaller, so that models which agree are all seen.
    """
    with drawn(path, 5.6, 4.6) as figure:
        axes = figure.subplots()
        largest = 0.0
        sizes = itertools.chain((11, 8, 5), itertools.repeat(3))
        for (name, found), shape, side in zip(models.items(), itertools.cycle("osD^v"), sizes, strict=False):
            at, errors = [d.sigma for d in found.deciles], [d.error for d in found.deciles]
            ends = [d.interval or (d.error, d.error) for d in found.deciles]
            bars = [[abs(e - low) for e, (low, _) in zip(errors, ends, strict=True)]]
            bars += [[abs(high - e) for e, (_, high) in zip(errors, ends, strict=True)]]
            ranks = "" if found.spearman is None else f", Spearman {found.spearman:.2f}"
            looks = {"fmt": f"{shape}-", "markersize": side, "markerfacecolor": "none", "capsize": side / 2}
            axes.errorbar(at, errors, bars, elinewidth=0.8, linewidth=0.8, label=f"{name}{ranks}", **looks)
            largest = max(largest, *at, *(high for _, high in ends))
        axes.plot([0, largest], [0, largest], color="grey", linewidth=0.8)
        axes.fill_between([0, largest], [0, 0.8 * largest], [0, 1.2 * largest], color="grey", alpha=0.12)
        axes.set(xlabel="sigma promised, px of the image", ylabel="mean error found, px")
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)


@contextmanager
def drawn(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure in inches, written whole or not at all when the block ends."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with replacing(path) as beside:
        figure.savefig(beside, format="png", dpi=110)
