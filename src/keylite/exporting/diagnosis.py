"""Diagnosis of an int8 export: where each layer loses accuracy, what was tried, and the cheapest way within the budget.

It makes files in a temporary folder and measures them; nothing is kept. Formats and frameworks are the exporter's.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.formats.reading import Labelled, as_dataset, require_labelled
from keylite.evaluation.figures import object_nme
from keylite.evaluation.predictions import Predictions, predict_dataset
from keylite.evaluation.timing import engine_ratio
from keylite.exporting.calibration import (
    COUNT,
    Activation,
    CalibrationSet,
    Variant,
    calibration_set,
    range_doubt,
    some_crops,
)
from keylite.exporting.diagnosis_report import MARKED, Cost, Diagnosis, Layer, Trial, within_budget
from keylite.exporting.drift import point_drift
from keylite.exporting.export import budget_of, require_exportable
from keylite.exporting.form import FORMATS, AnyWorkshop, Form, examiner
from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import path_of, path_or_none, require_whole
from keylite.runtime.modelfile import read_spec
from keylite.runtime.predictor import Predictor
from keylite.runtime.progress import step
from keylite.runtime.spec import ModelSpec
from keylite.runtime.types import FilePath
from keylite.runtime.words import escaped, quoted

log = logging.getLogger("keylite")

COUNTS = (16, 50, 200, 500)  # calibration images that are tried
DEFAULT = "default"  # the variant that `export` makes


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
    """Find out why an int8 export moves points, and what helps: its layers, and other ways to make the file.

    About a dozen files are made and measured, which takes minutes. No file is kept.

    Args:
        model: The model file, a `.safetensors` file.
        data: Labelled images to compare files on, or the path of a label file.
        to: "onnx" or "litert".
        calibration: Labelled images that the ranges are taken from, or the path of a label file. It is required.
        precision: "int8"; no other precision is diagnosed.
        calibration_count: How many objects of `calibration` are used.
        seed: The seed of the random choice of these objects.
        budget: The largest drift that is allowed, px of the model input; see `export`. None: that of int8.
        budget_nme: By what fraction the NME may rise. None: no limit.
        spec: A JSON description for a model file that holds none. None: the model file holds it.

    Returns:
        The diagnosis. `print` shows it as a page.

    Raises:
        ArgumentError: An argument has a wrong value.
        ModuleNotFoundError: A package that makes the format is not installed; the message says how to install it.
    """
    model, spec = path_of("model", model), path_or_none("spec", spec)
    require_labelled(data=data, **({} if calibration is None else {"calibration": calibration}))
    require_whole("calibration_count", calibration_count)
    require_whole("seed", seed, least=0)
    model_spec = read_spec(model, spec)
    form = diagnosed_form(model, model_spec, to, precision, calibration is not None)
    assert calibration is not None  # it is refused above
    limits = budget_of(model_spec, form, budget, budget_nme)
    data, calibration = as_dataset("data", data), as_dataset("calibration", calibration)
    examining = examiner(form)
    usual = calibration_set(model_spec, calibration, calibration_count, seed)
    parent = predict_dataset(Predictor(model, device="cpu", spec=spec), data)
    nme = float(np.nanmean(object_nme(parent, data, model_spec.normalize)))
    pixels = some_crops(model_spec, data)

    def images_of(count: int) -> CalibrationSet:
        return usual if count == len(usual.pixels) else calibration_set(model_spec, calibration, count, seed)

    with tempfile.TemporaryDirectory() as folder:
        log.info("diagnose: reading %s", model.name)
        workshop = examining.Workshop(model, model_spec, Path(folder), pixels)
        child, reference = (Path(folder) / f"{name}{form.suffix}" for name in ("child", "reference"))
        workshop.make(reference, "fp32")
        yardstick = _Yardstick(reference, parent, data, model_spec.normalize)
        attempts = _attempts(workshop.variants, to, len(usual.pixels), calibration)
        trials = _tried(attempts, workshop, images_of, yardstick, child)
        log.info("diagnose: layer by layer")
        layers = _layers(examining.watch(child, pixels, reference), workshop.own_noise(child, usual))
        doubt = range_doubt(examining.watch(child, pixels), usual.facts, data.called)
    return Diagnosis(
        model=escaped(model.name),
        to=to,
        suffix=form.suffix,
        data=data.identity(),
        count=len(data),
        looked_at=len(pixels),
        calibration=usual.facts,
        nme=nme,
        normalize=model_spec.normalize,
        size=model_spec.size,
        budget=limits.px,
        budget_nme=budget_nme,
        layers=layers,
        trials=tuple(trials),
        cheapest=_cheapest([trial for trial in trials if within_budget(trial.cost, nme, limits)]),
        doubt=doubt,
    )


def diagnosed_form(model: Path, spec: ModelSpec, to: str, precision: str, calibrated: bool) -> Form:
    """The form that a diagnosis examines. Raises an error, before labels are read, if it cannot be made or examined."""
    if to == "all":
        raise ArgumentError("diagnose: expected one format, `to='litert'` or `to='onnx'`, got 'all'")
    if precision != "int8":
        raise ArgumentError(
            f"diagnose: expected `precision='int8'`, the only precision that it examines, got {quoted(precision)}"
        )
    form = Form(to, precision)
    require_exportable(model, spec, form, calibrated)
    return form


class _Yardstick(NamedTuple):
    """What every file is measured against: the fp32 file of its format by time, the parent's points by distance."""

    reference: Path
    parent: Predictions
    data: Dataset
    normalize: str


class _Attempt(NamedTuple):
    """A file to try. trial: what is said of it, without its cost. variant: the workshop's. None: it is not possible."""

    trial: Trial
    variant: str | None


def _attempts(variants: dict[str, Variant], to: str, usual_count: int, calibration: Dataset) -> list[_Attempt]:
    """The files to try: each variant, other numbers of calibration images, and other precisions, in this order."""
    attempts = []
    for name, (words, note, possible) in variants.items():
        usual, count = name == DEFAULT, usual_count if possible else None
        trial = Trial(words, "int8", count, note, exportable=usual, usual=usual, cost=None)
        attempts.append(_Attempt(trial, name if possible else None))
    for count in COUNTS:
        if count == usual_count:
            continue
        words = f"{'fewer' if count < usual_count else 'more'} images"
        possible = count <= len(calibration)
        note = "" if possible else f"{calibration.called} has {len(calibration)} objects"
        trial = Trial(words, "int8", count, note, exportable=possible, usual=False, cost=None)
        attempts.append(_Attempt(trial, DEFAULT if possible else None))
    for precision in FORMATS[to].precisions:
        if precision != "int8":
            words = f"{precision} in place of int8"
            trial = Trial(words, precision, None, "", exportable=True, usual=False, cost=None)
            attempts.append(_Attempt(trial, DEFAULT))
    return attempts


def _tried(
    attempts: list[_Attempt],
    workshop: AnyWorkshop,
    images_of: Callable[[int], CalibrationSet],
    yardstick: _Yardstick,
    child: Path,
) -> list[Trial]:
    """The trials with their costs: each file is made and measured in turn, and the usual one stays, as `child`.

    images_of: gives so many calibration images.
    """
    trials = []
    with step("diagnose: files", len(attempts)) as done:
        for trial, variant in attempts:
            if variant is not None:
                log.info("diagnose: %s%s", trial.words, f", {trial.images} images" if trial.images else "")
                made = child if trial.usual else child.with_stem("trial")
                workshop.make(made, trial.precision, images_of(trial.images) if trial.images else None, variant)
                trial = dataclasses.replace(trial, cost=_cost(made, yardstick))
            trials.append(trial)
            done(1)
    return trials


def _layers(watched: Iterable[list[Activation]], own: dict[str, float]) -> tuple[Layer, ...]:
    """One row per layer. watched: the layers' outputs per image, with those of the float network.

    own: per layer, the mean square of its own noise.
    """
    sums: dict[str, np.ndarray] = {}  # per layer: signal, noise, number of values, number of clipped values
    ends: dict[str, tuple[str, tuple[float, float], float, float]] = {}  # operator, int8 range, float minimum, maximum
    for activations in watched:
        for layer, operator, low, high, values, exact in activations:
            assert exact is not None  # it comes from the reference
            half = (high - low) / 510  # half a step of the int8 range
            smallest, largest = float(exact.min()), float(exact.max())
            _, _, lowest, highest = ends.get(layer, ("", (0, 0), smallest, largest))
            ends[layer] = operator, (low, high), min(lowest, smallest), max(highest, largest)
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


def _cost(made: Path, yardstick: _Yardstick) -> Cost:
    """How good and how large a file is."""
    predictor = Predictor(made, threads=1)
    child = predict_dataset(predictor, yardstick.data)
    distance = point_drift(child.unit_xy, yardstick.parent.unit_xy, predictor.spec.size)
    return Cost(
        drift_mean=float(distance.mean()),
        drift_p95=float(np.percentile(distance, 95)),
        nme=float(np.nanmean(object_nme(child, yardstick.data, yardstick.normalize))),
        ratio=engine_ratio(made, yardstick.reference)[1],
        bytes=made.stat().st_size,
    )


def _cheapest(trials: list[Trial]) -> Trial | None:
    """The best of some trials: the default one, else the int8 file with the least drift, else fp16, else fp32."""
    speed = ("int8", "fp16", "fp32")
    exportable = [(trial, trial.cost) for trial in trials if trial.exportable and trial.cost]
    ranked = [(speed.index(trial.precision), not trial.usual, cost.drift_p95) for trial, cost in exportable]
    return exportable[ranked.index(min(ranked))][0] if ranked else None
