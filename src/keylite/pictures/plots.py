"""Charts of a training run and of measurements, as PNG files made with matplotlib."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import replacing, require_outputs
from keylite.runtime.kinds import path_of
from keylite.runtime.packages import require
from keylite.runtime.types import FilePath
from keylite.runtime.words import counted, quoted

if TYPE_CHECKING:
    from keylite.evaluation.reliability import Reliability
    from keylite.evaluation.report import Report
    from keylite.evaluation.timing import Times


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


def plot_benchmark(times: Times, reports: Mapping[str, Report] | Mapping[Path, Report], path: FilePath) -> None:
    """Draw each model file's accuracy against its speed: its NME, and the time of its engine, with how far both vary.

    This is the chart of `keylite benchmark --plot`. It needs matplotlib.

    Args:
        times: What `benchmark(models)` gives.
        reports: What `evaluate(model, data)` gives, by the path of each of these model files. All are of the same data
            and have the same normaliser.
        path: The PNG file to write. A file that is there already is replaced.

    Raises:
        ArgumentError: There is no report for a model file, reports cannot be compared, or `path` is a folder.
        ModuleNotFoundError: matplotlib is not installed.
        OSError: The file cannot be written.

    Example:
        >>> models = ["faces.onnx", "faces.tflite"]
        >>> reports = {model: keylite.evaluate(model, "test.json") for model in models}
        >>> keylite.plot_benchmark(keylite.benchmark(models), reports, "benchmark.png")
    """
    path = _chart(path)
    if not getattr(times, "models", None):
        raise ArgumentError(f"times: expected what `benchmark(models)` gives, got {quoted(times)}")
    by_name = {str(name): report for name, report in reports.items()} if isinstance(reports, Mapping) else {}
    for name in times.models:
        if not hasattr(by_name.get(name), "nme"):
            raise ArgumentError(
                f"reports: expected a Report for each model file, by its path, got none for {name}; "
                "give what `evaluate(model, data)` gives"
            )
    measured = [by_name[name] for name in times.models]
    kinds = {(report.data.fingerprint, report.nme.normalize) for report in measured}
    if len(kinds) > 1:
        raise ArgumentError(
            f"reports: expected the same data and the same normaliser in all, got {len(kinds)} kinds; "
            "evaluate every model alike"
        )
    with drawn(path, 9, 5) as figure:
        axes = figure.subplots()
        for (name, facts), report, shape in zip(
            times.models.items(), measured, itertools.cycle("osD^vPX*"), strict=False
        ):
            ms, nme = facts.ms["engine"], report.nme.mean
            spread = [[abs(ms.median - end)] for end in (ms.p10, ms.p90)]
            bars = [[100 * abs(nme - end)] for end in report.nme.interval or (nme, nme)]
            axes.errorbar(
                ms.median, 100 * nme, bars, spread, fmt=shape, markersize=7, capsize=3, elinewidth=0.8,
                label=f"{Path(name).name}: {ms.median:.2f} ms, {100 * nme:.2f} %",
            )  # fmt: skip
        axes.set_xscale("log")
        for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            ticks("{x:g}")
        axes.tick_params(which="both", labelsize=9)
        nme, where = measured[0].nme, f"{counted(times.threads, 'thread')} of {times.machine}"
        axes.set_title(f"{nme.count} objects of {measured[0].data.name}; {where}")
        axes.set_ylabel(f"NME by {nme.normalize}, % (bar: 95 % interval)")
        axes.set_xlabel("engine, ms per image (mark: median; bar: 10th to 90th percentile)")
        axes.grid(alpha=0.3, which="both")
        axes.margins(0.1)
        figure.legend(loc="outside right upper", fontsize=9)


def plot_reliability(reliability: Mapping[str, Reliability], path: FilePath, title: str = "") -> None:
    """Draw the errors that were measured against those that sigma promised, one line per model, one mark per tenth.

    This is the chart of `keylite evaluate --reliability`. It needs matplotlib. Marks are hollow, and smaller from model
    to model, so that marks at the same place are all seen.

    Args:
        reliability: `report.reliability` of each model, by the name that the chart gives it.
        path: The PNG file to write. A file that is there already is replaced.
        title: A line above the chart. Empty: none.

    Raises:
        ArgumentError: A model has no reliability, because it gives no sigma; or `path` is a folder.
        ModuleNotFoundError: matplotlib is not installed.
        OSError: The file cannot be written.

    Example:
        >>> report = keylite.evaluate("faces.onnx", "test.json")
        >>> keylite.plot_reliability({"faces.onnx": report.reliability}, "reliability.png")
    """
    path = _chart(path)
    if not isinstance(reliability, Mapping) or not reliability:
        raise ArgumentError(
            f"reliability: expected `report.reliability` by the name of each model, got {quoted(reliability)}"
        )
    for name, value in reliability.items():
        if not hasattr(value, "deciles"):
            raise ArgumentError(
                f"reliability: expected `report.reliability` for {quoted(name)}, got {quoted(value)}; "
                "it is None if the model gives no sigma"
            )
    with drawn(path, 5.6, 4.6) as figure:
        axes = figure.subplots()
        largest = 0.0
        sizes = itertools.chain((11, 8, 5), itertools.repeat(3))
        for (name, held), shape, side in zip(reliability.items(), itertools.cycle("osD^v"), sizes, strict=False):
            at, errors = [d.sigma for d in held.deciles], [d.error for d in held.deciles]
            ends = [d.interval or (d.error, d.error) for d in held.deciles]
            bars = [[abs(e - low) for e, (low, _) in zip(errors, ends, strict=True)]]
            bars += [[abs(high - e) for e, (_, high) in zip(errors, ends, strict=True)]]
            ranks = "" if held.spearman is None else f", Spearman {held.spearman:.2f}"
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


def _chart(path: FilePath) -> Path:
    """The path of a chart, if it can be drawn and written there."""
    path = path_of("path", path)
    require("matplotlib")
    require_outputs({"path": path})
    return path


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
