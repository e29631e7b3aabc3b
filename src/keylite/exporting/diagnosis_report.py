"""The report of a diagnosis: the figures of its layers and trials, and the page that shows them."""

from __future__ import annotations

import dataclasses

from keylite.exporting.form import Budget
from keylite.runtime.results import Result
from keylite.runtime.spec import Calibration, DataId
from keylite.runtime.tables import Table, as_html
from keylite.runtime.words import counted, escaped

MARKED = 5  # layers that are marked as the worst


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of the int8 file.

    low, high: the smallest and largest value in the float network. held: the range that the int8 file can hold.
    clipped: the share of float values beyond that range. signal_to_noise: dB, float values against the int8 file's
    difference to them, with the noise of all layers before. own: the same for the noise of this layer alone. None:
    unknown. hurts: whether its own is one of the MARKED lowest.
    """

    name: str
    operator: str
    low: float
    high: float
    held: tuple[float, float]
    clipped: float
    signal_to_noise: float
    own: float | None
    hurts: bool = False


@dataclasses.dataclass(frozen=True)
class Cost:
    """How good and how large a file is.

    drift_mean, drift_p95: distances from the parent's points, px of the model input. nme: a fraction. ratio: its time,
    divided by that of the fp32 file of the same format.
    """

    drift_mean: float
    drift_p95: float
    nme: float
    ratio: float
    bytes: int


@dataclasses.dataclass(frozen=True)
class Trial:
    """A file that was tried: a variant of the int8 file, or another precision.

    words: what it is. images: how many its ranges come from, or None. note: which tool makes it, or why it is not
    possible. exportable: whether `export` can make it. usual: whether `export` makes it by default. cost: None if it is
    not possible.
    """

    words: str
    precision: str
    images: int | None
    note: str
    exportable: bool
    usual: bool
    cost: Cost | None


@dataclasses.dataclass(frozen=True)
class Diagnosis(Result):
    """The result of `diagnose`; `str()` of it is a page of markdown.

    Attributes:
        model: The name of the model file.
        to: "onnx" or "litert".
        suffix: The suffix of files in this format.
        data: The labelled images that files are compared on: their `name` and `fingerprint`.
        count: The number of its objects.
        looked_at: The number of images that the figures of layers come from.
        calibration: The images that the ranges come from.
        nme: The NME (normalised mean error) of the model file, a fraction.
        normalize: The normaliser of the NME.
        size: (width, height) of the model input, px.
        budget: The largest drift (p95) that is allowed, px of the model input.
        budget_nme: By what fraction the NME may rise. None: no limit.
        layers: The layers from input to output, with their noise and ranges.
        trials: The files that were tried, with drift, NME, time and size.
        cheapest: The cheapest trial within the budget that `export` can make. None: there is none.
        doubt: A warning if the ranges do not fit the data. None: they do.
    """

    model: str
    to: str
    suffix: str
    data: DataId
    count: int
    looked_at: int
    calibration: Calibration
    nme: float
    normalize: str
    size: tuple[int, int]
    budget: float
    budget_nme: float | None
    layers: tuple[Layer, ...]
    trials: tuple[Trial, ...]
    cheapest: Trial | None
    doubt: str | None

    def __repr__(self) -> str:
        counts = f"{counted(len(self.layers), 'layer')}, {counted(len(self.trials), 'trial')}"
        named = f"{self.cheapest.words}, {self.cheapest.precision}" if self.cheapest else "nothing"
        return f"Diagnosis({escaped(self.model)} in int8, {self.to}: {counts}; within the budget: {named})"

    def __str__(self) -> str:
        return diagnosis_page(self)

    def _repr_html_(self) -> str:
        doubts = [self.doubt] if self.doubt else []
        return as_html([_title(self), *doubts, _layer_table(self), _trial_table(self), _limit(self), *_ends(self)])

    def within(self, trial: Trial) -> bool:
        """Whether a trial is within the budget; False if it is not possible.

        Args:
            trial: One of `trials`.
        """
        return within_budget(trial.cost, self.nme, Budget(self.budget, self.budget_nme))


def within_budget(cost: Cost | None, nme: float, budget: Budget) -> bool:
    return cost is not None and not budget.past(cost.drift_p95, nme, cost.nme)


def diagnosis_page(diagnosis: Diagnosis, command: str | None = None) -> str:
    """The diagnosis as a page of markdown. command: the command line that makes its cheapest file, shown at the end."""
    d = diagnosis
    k = d.calibration
    doubt = f"\n**{d.doubt}.**\n" if d.doubt else ""
    ends = "\n\n".join([*_ends(d), *([f"```\n{command}\n```"] if command else [])])
    return f"""# {_title(d)}

The parent has an NME of {100 * d.nme:.3f} % ({d.normalize}) on {d.count} objects of {d.data.name}. Ranges come from
{k.count} objects of {k.data.name}, seed {k.seed}.
{doubt}
## By layer, from input to output

These figures are from {d.looked_at} images. SNR (signal-to-noise ratio): the float values against the int8 file's
difference to them, with the noise of all layers before. own: the same for the noise of this layer alone. **!**: the
{MARKED} layers with the lowest own. clipped: the share of float values beyond the int8 range.

{_markdown(_layer_table(d))}

## What was tried

Drift is the distance from the parent's points, in px of a {d.size[0]}x{d.size[1]} input. Time is divided by that of the
fp32 file in the same format, on one thread.

{_markdown(_trial_table(d))}

## {_limit(d)}

{ends}
"""


def _title(d: Diagnosis) -> str:
    return f"{d.model} in int8 ({d.to}): where it hurts, and what helps"


def _limit(d: Diagnosis) -> str:
    nme = f", NME up to {100 * d.budget_nme:g} % worse" if d.budget_nme is not None else ""
    return f"The cheapest within the budget (p95 drift {d.budget:g} px{nme})"


def _ends(d: Diagnosis) -> list[str]:
    """What is within the budget: the cheapest trial that `keylite export` makes, and trials of other tools."""
    if d.cheapest is None:
        lines = ["Nothing that keylite export makes is within the budget."]
    else:
        lines = [f"{d.cheapest.words}, {d.cheapest.precision}."]
    others = [trial for trial in d.trials if d.within(trial) and not trial.exportable]
    if others and (d.cheapest is None or d.cheapest.precision != "int8"):
        named = "; ".join(f"{trial.words} ({trial.note})" for trial in others)
        lines.append(f"Also within the budget, but not made by keylite export: {named}.")
    return lines


def _layer_table(d: Diagnosis) -> Table:
    rows = [
        ["**!**" if row.hurts else "", row.name, row.operator]
        + [f"{end:.2f}" for end in (row.low, row.high, *row.held)]
        + [f"{100 * row.clipped:.3f}", f"{row.signal_to_noise:.1f}", "" if row.own is None else f"{row.own:.1f}"]
        for row in d.layers
    ]
    header = ("", "layer", "operator", "float min", "max", "int8 min", "max", "clipped %", "SNR dB", "own dB")
    return Table(header, rows)


def _trial_table(d: Diagnosis) -> Table:
    header = ("tried", "images", "drift mean px", "p95 px", "NME %", "time / fp32", "MB", "within budget", "how")
    return Table(header, [_trial_row(d, trial) for trial in d.trials])


def _trial_row(d: Diagnosis, trial: Trial) -> list[str]:
    images = "" if trial.images is None else str(trial.images)
    if trial.cost is None:
        return [trial.words, images, "", "", "", "", "", "", f"not possible: {trial.note}"]
    c = trial.cost
    figures = [
        f"{c.drift_mean:.3f}",
        f"{c.drift_p95:.3f}",
        f"{100 * c.nme:.3f}",
        f"{c.ratio:.2f}",
        f"{c.bytes / 1e6:.1f}",
    ]
    how = trial.note or "keylite export"
    return [trial.words, images, *figures, "yes" if d.within(trial) else "no", how]


def _markdown(table: Table) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
