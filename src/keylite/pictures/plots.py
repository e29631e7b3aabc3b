"""Charts of a training run and of measurements, as PNG files made with matplotlib."""

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


def plot_history(history: list[dict[str, float]], mean_shape_nme: float, path: Path) -> None:
    """Draw the loss, the NME on the validation set beside that of the mean shape, and the learning rate, per epoch."""
    with drawn(path, 9, 3.2) as figure:
        epochs = [row["epoch"] for row in history]
        panels = (
            ("loss", "training loss", 1),
            ("val_nme", "NME on the validation set, %", 100),
            ("lr", "learning rate", 1),
        )
        for axes, (name, title, factor) in zip(figure.subplots(1, 3), panels, strict=True):
            values = [factor * row[name] for row in history]
            axes.plot(epochs, values, marker="." if len(history) < 40 else "", label="model")
            if name == "val_nme":
                values.append(factor * mean_shape_nme)
                axes.axhline(values[-1], color="C1", linestyle="--", label=f"mean shape, {values[-1]:.2f} %")
                axes.legend(fontsize=9)
            axes.set(title=title, xlabel="epoch", ylim=(0, 1.05 * max(values) or 1))
            axes.grid(alpha=0.3)


def plot_tradeoff(result: dict[str, Any], path: Path) -> None:
    """Draw each model file's NME against the time of its engine, with bars for how far both vary.

    result: what `timing.benchmark` gives, and for each model its `accuracy`.
    """
    with drawn(path, 9, 5) as figure:
        axes = figure.subplots()
        for (name, facts), shape in zip(result["models"].items(), itertools.cycle("osD^vPX*")):
            ms, accuracy = facts["ms"]["engine"], facts["accuracy"]
            nme = accuracy["nme"]
            spread = [[abs(ms["median"] - ms[end])] for end in ("p10", "p90")]
            bars = [[100 * abs(nme - end)] for end in accuracy["nme_interval"] or (nme, nme)]
            axes.errorbar(
                ms["median"], 100 * nme, bars, spread, fmt=shape, markersize=7, capsize=3, elinewidth=0.8,
                label=f"{Path(name).name}: {ms['median']:.2f} ms, {100 * nme:.2f} %",
            )  # fmt: skip
        axes.set_xscale("log")
        for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            ticks("{x:g}")
        axes.tick_params(which="both", labelsize=9)
        where = f"{result['threads']} thread(s) of {result['machine']}"
        title = f"{accuracy['count']} objects of {accuracy['data']['name']}; {where}"
        axes.set(title=title, ylabel=f"NME by {accuracy['normalize']}, % (bar: 95 % interval)")
        axes.set_xlabel("engine, ms per image (mark: median; bar: 10th to 90th percentile)")
        axes.grid(alpha=0.3, which="both")
        axes.margins(0.1)
        figure.legend(loc="outside right upper", fontsize=9)


def plot_reliability(models: dict[str, Reliability], path: Path, title: str = "") -> None:
    """Draw the errors that were measured against those that sigma promised, one line per model, one mark per tenth.

    Marks are hollow, and smaller from model to model, so that marks at the same place are all seen.
    """
    with drawn(path, 5.6, 4.6) as figure:
        axes = figure.subplots()
        largest = 0.0
        sizes = itertools.chain((11, 8, 5), itertools.repeat(3))
        for (name, reliability), shape, side in zip(models.items(), itertools.cycle("osD^v"), sizes, strict=False):
            at, errors = [d.sigma for d in reliability.deciles], [d.error for d in reliability.deciles]
            ends = [d.interval or (d.error, d.error) for d in reliability.deciles]
            bars = [[abs(e - low) for e, (low, _) in zip(errors, ends, strict=True)]]
            bars += [[abs(high - e) for e, (_, high) in zip(errors, ends, strict=True)]]
            ranks = "" if reliability.spearman is None else f", Spearman {reliability.spearman:.2f}"
            looks = {"fmt": f"{shape}-", "markersize": side, "markerfacecolor": "none", "capsize": side / 2}
            axes.errorbar(at, errors, bars, elinewidth=0.8, linewidth=0.8, label=f"{name}{ranks}", **looks)
            largest = max(largest, *at, *(high for _, high in ends))
        axes.plot([0, largest], [0, largest], color="grey", linewidth=0.8, label="error as promised")
        band = {"color": "grey", "alpha": 0.12, "label": "within 20 % of it"}
        axes.fill_between([0, largest], [0, 0.8 * largest], [0, 1.2 * largest], **band)
        axes.set(xlabel="sigma: the error promised, px of the image", ylabel="mean error, px (bar: 95 % interval)")
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)


@contextmanager
def drawn(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of this width and height in inches. It is written when the block ends, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with replacing(path) as beside:
        figure.savefig(beside, format="png", dpi=110)
