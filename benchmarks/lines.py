"""Charts of the figures in docs: lines through measured points, with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from keylite.pictures.plots import drawn

TICKS = (1, 1.5, 2, 3, 5, 7)  # ticks per decade of a long axis
SHORT, SHORT_TICKS = 5, range(1, 10)  # an axis is short if its end is less than 5 times its start; and its ticks


class Mark(NamedTuple):
    """A point of a line, the interval of its y, and a word beside it."""

    x: float
    y: float
    low: float
    high: float
    text: str = ""


def plot_lines(
    lines: dict[tuple[str, str], list[Mark]], path: Path, *, title: str, xlabel: str, ylabel: str, log: str = "x"
) -> None:
    """Draw lines through marks with their intervals.

    The name of a line is two words: lines with the same first word have the same colour, and those with the same second
    word the same shape. log: the logarithmic axes, "x" or "xy".
    """
    from matplotlib.ticker import LogLocator, NullLocator

    colours, shapes = (list(dict.fromkeys(name[part] for name in lines)) for part in (0, 1))
    with drawn(path, 9, 5) as figure:
        axes = figure.subplots()
        for (colour, shape), marks in lines.items():
            bars = [[abs(mark.y - mark.low) for mark in marks], [abs(mark.high - mark.y) for mark in marks]]
            look, rank = f"C{colours.index(colour) % 10}", shapes.index(shape)
            axes.errorbar(
                [mark.x for mark in marks], [mark.y for mark in marks], bars, color=look, marker="osD^vPX*"[rank % 8],
                linestyle=("-", "--", ":", "-.")[rank % 4], markersize=6, capsize=3, elinewidth=0.8, linewidth=1,
                label=", ".join(word for word in (colour, shape) if word),
            )  # fmt: skip
            for mark in marks:
                axes.annotate(mark.text, (mark.x, mark.y), (4, 4), textcoords="offset points", fontsize=7, color=look)
        for scale, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            if scale in log:
                getattr(axes, f"set_{scale}scale")("log")
                low, high = axis.get_view_interval()
                axis.set_major_locator(LogLocator(subs=SHORT_TICKS if high < SHORT * low else TICKS))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_locator(NullLocator())
        axes.tick_params(labelsize=8)
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.grid(alpha=0.3)
        axes.margins(0.1)
        figure.legend(loc="outside right upper", fontsize=8)
