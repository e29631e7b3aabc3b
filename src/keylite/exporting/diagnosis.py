"""Where int8 hurts a model file, layer by layer, what was tried against it, and the cheapest that is within the budget.

Measures what exporters make and exports nothing. Knows no format and no framework: it asks the exporter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.formats.reading import Labelled, as_dataset
from keylite.evaluation.predictions import Predictions, predict_dataset
from keylite.evaluation.report import object_nme
from keylite.evaluation.timing import engine_ratio
from keylite.exporting.calibration import COUNT, CalibrationSet, calibration_set, range_doubt, some_crops
from keylite.exporting.certificate import point_drift
from keylite.exporting.export import exportable
from keylite.exporting.target import EXPORTERS, Budget, Exporting, Target, exporter
from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import path_of, require_whole
from keylite.runtime.predictor import Predictor
from keylite.runtime.progress import step
from keylite.runtime.spec import Calibration
from keylite.runtime.tables import Table, as_html
from keylite.runtime.types import FilePath
from keylite.runtime.words import counted, escaped, quoted

log = logging.getLogger("keylite")

COUNTS = (16, 50, 200, 500)  # calibration images
MARKED = 5  # layers
DEFAULT = "default"  # the variant that `export` makes


@dataclasses.dataclass(frozen=True)
class Layer:
    """One quantised layer.

    low, high: of the float network's values. held: the range of the int8 file. clipped: share of the float values
    beyond it. signal_to_noise: dB, of the int8 file against float at this layer. own: dB, of the noise that the layer
    adds to what it is given; None where that is not known. hurts: one of the MARKED lowest by own.
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
    """What a file costs: drift from the parent in px of the model input, NME as a fraction, time by that of fp32."""

    drift_mean: float
    drift_p95: float
    nme: float
    ratio: float
    bytes: int


@dataclasses.dataclass(frozen=True)
class Trial:
    """Something tried: a variant of the int8 file or another precision. cost: None where `note` says why there is none.

    exportable: whether `export` makes it; usual: whether it does so unless told otherwise.
    """

    words: str
    precision: str
    images: int | None
    note: str
    exportable: bool
    usual: bool
    cost: Cost | None


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found. layers: from input to output. recipe: the cheapest exportable trial within the budget.

    looked_at: images that noise and ranges are from. doubt: a line where the ranges do not fit the data, or None.
    """

    model: str
    to: str
    suffix: str
    data: str
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
    recipe: Trial | None
    doubt: str | None

    def __repr__(self) -> str:
        counts = f"{counted(len(self.layers), 'layer')}, {counted(len(self.trials), 'trial')}"
        cheapest = f"{self.recipe.words}, {self.recipe.precision}" if self.recipe else "nothing"
        return f"Diagnosis({escaped(self.model)} in int8, {self.to}: {counts}; within the budget: {cheapest})"

    def __str__(self) -> str:
        return diagnosis_page(self)

    def _repr_html_(self) -> str:
        doubts = [self.doubt] if self.doubt else []
        return as_html([_title(self), *doubts, _layer_table(self), _trial_table(self), _limit(self), *_ends(self)])

    def within(self, trial: Trial) -> bool:
        """Whether a trial is within the budget."""
        return _within(trial.cost, self.nme, Budget(self.budget, self.budget_nme))


def diagnose(
    model: FilePath,
    data: Labelled,
    *,
    to: str,
    calibration: Labelled | None,
    precision: str = "int8",
    calibration_count: int = COUNT,
    seed: int = 0,
    budget: float | None = None,
    budget_nme: float | None = None,
    spec: FilePath | None = None,
) -> Diagnosis:
    """Measure an int8 export on `data` layer by layer, and ways to make it better or cheaper. Nothing is written.

    Arguments: see `exports.export`. Takes minutes: a dozen files are made and measured.
    """
    model = path_of("model", model)
    data = as_dataset("data", data)
    calibration = None if calibration is None else as_dataset("calibration", calibration)
    require_whole("calibration_count", calibration_count)
    require_whole("seed", seed, least=0)
    if to == "all":
        raise ArgumentError("diagnose: expected one format, `to='litert'` or `to='onnx'`, got 'all'")
    if precision != "int8":
        raise ArgumentError(f"diagnose: looks at int8 alone, got {quoted(precision)}; add `precision='int8'`")
    target, limits = Target(to, precision), Budget(budget, budget_nme)
    said = exportable(model, target, calibration is not None, spec)
    assert calibration is not None  # or that was refused
    exporting, suffix = exporter(target), target.suffix
    usual = calibration_set(said, calibration, calibration_count, seed)
    most_px = limits.px_for(msgspec.structs.replace(said, precision="int8"))
    limits = Budget(most_px, budget_nme)
    parent = predict_dataset(Predictor(model, device="cpu", spec=spec), data)
    nme = float(np.nanmean(object_nme(parent, data, said.normalize)))
    pixels = some_crops(said, data)
    counts = [count for count in COUNTS if count != len(usual.pixels)]
    others = [other for other in EXPORTERS[to].precisions if other != "int8"]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as steps:
        log.info("diagnose: reading %s", model.name)
        workshop = exporting.Workshop(model, said, Path(folder), pixels)
        reference = Path(folder) / f"reference{suffix}"
        workshop.make(reference, "fp32")
        child = Path(folder) / f"child{suffix}"
        trials: list[Trial] = []
        done = steps.enter_context(step("diagnose: files", len(workshop.variants) + len(counts) + len(others)))

        def tried(words: str, note: str, images: CalibrationSet | None, variant: str, precision: str = "int8") -> None:
            log.info("diagnose: %s%s", words, f", {len(images.pixels)} images" if images else "")
            default = variant == DEFAULT
            made = child if default and images is usual else Path(folder) / f"trial{suffix}"
            workshop.make(made, precision, images, variant)
            cost = _cost(made, reference, parent, data, said.normalize)
            count = len(images.pixels) if images else None
            trials.append(Trial(words, precision, count, note, default, default and images is usual, cost))
            done(1)

        def impossible(words: str, images: int | None, reason: str) -> None:
            trials.append(Trial(words, "int8", images, reason, False, False, None))
            done(1)

        for name, (words, note, possible) in workshop.variants.items():
            if possible:
                tried(words, note, usual, name)
            else:
                impossible(words, None, note)
        for count in counts:
            words = f"{'fewer' if count < len(usual.pixels) else 'more'} images"
            if count > len(calibration):
                impossible(words, count, f"{calibration.called} has {len(calibration)} objects")
            else:
                tried(words, "", calibration_set(said, calibration, count, seed), DEFAULT)
        for other in others:
            tried(f"{other} in place of int8", "", None, DEFAULT, other)
        log.info("diagnose: layer by layer")
        layers = _layers(exporting, child, pixels, reference, workshop.own_noise(child, usual))
        doubt = range_doubt(exporting.watch(child, pixels), usual.facts, data.called)
    recipe = _cheapest([trial for trial in trials if _within(trial.cost, nme, limits)])
    return Diagnosis(
        model=escaped(model.name),
        to=to,
        suffix=suffix,
        data=data.name,
        count=len(data),
        looked_at=len(pixels),
        calibration=usual.facts,
        nme=nme,
        normalize=said.normalize,
        size=said.size,
        budget=most_px,
        budget_nme=budget_nme,
        layers=layers,
        trials=tuple(trials),
        recipe=recipe,
        doubt=doubt,
    )


def _layers(
    exporting: Exporting, child: Path, pixels: np.ndarray, reference: Path, own: dict[str, float]
) -> tuple[Layer, ...]:
    """One row a quantised layer, from what both files give for the same images."""
    sums: dict[str, np.ndarray] = {}  # signal, noise, values, clipped
    ends: dict[str, tuple[str, tuple[float, float], float, float]] = {}
    for activations in exporting.watch(child, pixels, reference):
        for layer, operator, low, high, values, exact in activations:
            half = (high - low) / 510
            found = exact.min(), exact.max()
            _, _, lowest, highest = ends.get(layer, ("", (0, 0), *found))
            ends[layer] = operator, (low, high), min(lowest, float(found[0])), max(highest, float(found[1]))
            clipped = np.count_nonzero((exact < low - half) | (exact > high + half))
            signal, noise = (np.square(x, dtype=np.float64).sum() for x in (exact, values - exact))
            sums.setdefault(layer, np.zeros(4))[:] += signal, noise, exact.size, clipped
    rows = []
    for layer, (signal, noise, size, clipped) in sums.items():
        operator, held, lowest, highest = ends[layer]
        local = _decibel(signal, own[layer] * size) if layer in own else None
        rows.append(Layer(layer, operator, lowest, highest, held, clipped / size, _decibel(signal, noise), local))
    worst = sorted((row.own, row.name) for row in rows if row.own is not None)[:MARKED]
    return tuple(dataclasses.replace(row, hurts=(row.own, row.name) in worst) for row in rows)


def _decibel(signal: float, noise: float) -> float:
    return float(10 * np.log10(signal / noise)) if signal and noise else float("inf" if signal else "-inf")


def _cost(made: Path, reference: Path, parent: Predictions, data: Dataset, normalize: str) -> Cost:
    predictor = Predictor(made, threads=1)
    found = predict_dataset(predictor, data)
    distance = point_drift(found, parent, predictor.spec.size)
    return Cost(
        drift_mean=float(distance.mean()),
        drift_p95=float(np.percentile(distance, 95)),
        nme=float(np.nanmean(object_nme(found, data, normalize))),
        ratio=engine_ratio(made, reference)[1],
        bytes=made.stat().st_size,
    )


def _within(cost: Cost | None, nme: float, budget: Budget) -> bool:
    return cost is not None and not budget.past(cost.drift_p95, nme, cost.nme)


def _cheapest(trials: list[Trial]) -> Trial | None:
    """Of trials within the budget the default one, else the int8 file that drifts least, else fp16, else fp32."""
    speed = ("int8", "fp16", "fp32")
    exportable = [(trial, trial.cost) for trial in trials if trial.exportable and trial.cost]
    ranked = [(speed.index(trial.precision), not trial.usual, cost.drift_p95) for trial, cost in exportable]
    return exportable[ranked.index(min(ranked))][0] if ranked else None


# ---- the page


def diagnosis_page(diagnosis: Diagnosis, command: str | None = None) -> str:
    """The diagnosis as a page of markdown, without command its `str()`. command: what makes its recipe, at the end."""
    d = diagnosis
    k = d.calibration
    doubt = f"\n**{d.doubt}.**\n" if d.doubt else ""
    ends = "\n\n".join([*_ends(d), *([f"```\n{command}\n```"] if command else [])])
    return f"""# {_title(d)}

Parent: NME {100 * d.nme:.3f} % ({d.normalize}) on {d.count} objects of {d.data}. Ranges from
{k.count} objects of {k.data}, seed {k.seed}.
{doubt}
## By layer, from input to output

On {d.looked_at} images. SNR: float values against their difference to the int8 file's, with all noise from before. own:
against the noise that this layer alone adds to what it is given. **!**: the {MARKED} lowest by own. clipped: share of
the float values beyond the int8 range.

{_markdown(_layer_table(d))}

## What was tried

Drift from the parent in px of a {d.size[0]}x{d.size[1]} input; time beside the fp32 file of the same format, on one
thread.

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
    """What is within the budget: by `keylite export`, and by other means."""
    if d.recipe is None:
        lines = ["Nothing that keylite export makes is within the budget."]
    else:
        lines = [f"{d.recipe.words}, {d.recipe.precision}."]
    others = [trial for trial in d.trials if d.within(trial) and not trial.exportable]
    if others and (d.recipe is None or d.recipe.precision != "int8"):
        named = "; ".join(f"{trial.words} ({trial.note})" for trial in others)
        lines.append(f"Within the budget, too, but not made by keylite export: {named}.")
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
