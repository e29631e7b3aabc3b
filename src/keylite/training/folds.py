"""Folds: every object of a data set measured by a model that never saw its group, through the normal training.

A fold's folder is an ordinary run's. Knows no framework, and nothing of how figures are shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np

from keylite.data.checks import say_doubts
from keylite.data.dataset import Dataset
from keylite.data.examples import crop_boxes, with_boxes
from keylite.data.formats.reading import Labelled, as_dataset
from keylite.data.likeness import alike
from keylite.evaluation.confidence import learn_from
from keylite.evaluation.environment import now
from keylite.evaluation.evaluate import evaluate
from keylite.evaluation.metrics import normaliser
from keylite.evaluation.predictions import Predictions, joined
from keylite.evaluation.reliability import FEWEST, halves, reliability_rows
from keylite.evaluation.report import DatasetReport, Report, report_of
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import require_outputs, tidy, write_bytes
from keylite.runtime.images import MAX_MEGAPIXELS
from keylite.runtime.kinds import path_of, require_whole
from keylite.runtime.modelfile import describe, read_spec
from keylite.runtime.progress import step
from keylite.runtime.types import FilePath
from keylite.runtime.words import listed, quoted
from keylite.training.checks import speak_of_alike
from keylite.training.folder import FIRST_FOLD, began_with, check_resumed, check_run
from keylite.training.folds_report import FoldFigures, FoldReport, FoldsReport, PartReport, figures_of
from keylite.training.lock import holding, require_free
from keylite.training.processes import processes, world_of
from keylite.training.recipe import Recipe, Resolved, checked
from keylite.training.run import knows_its_errors
from keylite.training.schedule import resolve
from keylite.training.train import prepare
from keylite.version import __version__

log = logging.getLogger("keylite")

REPORT = "folds.json"
MODEL = "last.safetensors"  # the best epoch was chosen on the images that are reported


@dataclasses.dataclass(frozen=True)
class Fold:
    """A fold to be done: where, what to train on, what to measure on, and the places of these objects in the whole."""

    number: int
    folder: Path
    train: Dataset
    held_out: Dataset
    places: np.ndarray

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def begun(self) -> bool:
        return (self.folder / "recipe.yaml").is_file()

    def finished(self, recipe: Resolved) -> bool:
        """Whether its last epoch is there, and what follows it."""
        spec = read_spec(self.model) if self.begun and self.model.is_file() else None
        if spec is None or spec.report is None or spec.report.get("epoch") != recipe.epochs:
            return False
        return knows_its_errors(spec)


def train_folds(
    recipe: Recipe,
    data: Labelled,
    out: FilePath,
    folds: int = 5,
    *,
    blocks: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    skip_bad: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> FoldsReport:
    """Train `folds` models, each without one part of the groups, and measure each on that part.

    The runs are `out/fold-1` and so on, the report is `out/folds.json`, written when all are done. Figures are of the
    last epoch's weights: the best epoch would be chosen on the very images that are reported. What the recipe leaves
    to auto is settled once, for all folds. blocks: groups are runs of frames in the order of their names, one a fold.
    resume: go on at the first fold that is not finished. The rest, and errors: see `train`.
    """
    out, recipe = path_of("out", out), checked(recipe)
    data = as_dataset("data", data)
    if recipe.patience:
        raise ArgumentError(
            f"patience: expected 0 with folds, got {recipe.patience}: a fold would stop by the images that it reports"
        )
    if processes(recipe) > 1 and world_of(recipe) is not None:
        raise ArgumentError(
            "folds: each starts its processes itself; leave out the launcher (torchrun, srun) and `nodes`"
        )
    if (out / "recipe.yaml").is_file():
        raise ArgumentError(f"{out}: holds a run that is no fold; choose another `out`")
    require_free(out)
    require_outputs({REPORT: out / REPORT}, data.files_named((REPORT,)))
    check_run(out / FIRST_FOLD, recipe, resume, overwrite)
    data = with_boxes(data, recipe.box, skip_bad)
    crop_boxes(data, recipe.box)
    _dealt(data, folds, blocks, recipe)  # refused before images are read, where it can be
    data = data.check_images(max_megapixels, skip_bad)
    for note in data.notes:
        log.info("%s: %s", data.called, note)
    say_doubts(data, recipe.box)
    data, part = _dealt(dataclasses.replace(data, notes=(), doubts=()), folds, blocks, recipe)
    _speak_of_groups(data, blocks)
    _speak_of_alike(data, part)
    resolved = resolve(recipe, data, round(len(data) * (folds - 1) / folds))
    log.info("folds are measured with their last epoch's weights: the best would be chosen on the images reported")
    plan = [_fold(data, part, number, out) for number in range(1, folds + 1)]
    for fold in plan:
        if resume and fold.begun:
            if not began_with(fold.folder, fold.train, fold.held_out):
                raise ArgumentError(
                    f"{fold.folder}: began with another part of the data; resume with the same `data`, `group`, "
                    "`folds` and `blocks=True`, or choose another `out`"
                )
            check_resumed(fold.folder, resolved, fold.train, fold.held_out)
    done = [fold.folder for fold in plan if resume and fold.finished(resolved)]
    with contextlib.ExitStack() as stack:
        hold = functools.cache(lambda: stack.enter_context(holding(out)))
        all_folds = stack.enter_context(step("folds", len(plan)))
        for fold in plan:
            log.info(
                "fold %d of %d: %d objects of %d groups held out, %d of %d to train on", fold.number, folds,
                len(fold.held_out), len(fold.held_out.groups), len(fold.train), len(fold.train.groups),
            )  # fmt: skip
            if fold.folder in done:
                log.info("fold %d was finished already", fold.number)
                all_folds(1)
                continue
            training = prepare(
                resolved,
                fold.train,
                fold.held_out,
                fold.folder,
                resume=resume and fold.begun,
                overwrite=overwrite,
                skip_bad=False,
                max_megapixels=max_megapixels,
                fold=True,
            )
            hold()  # only once nothing can be refused any more
            if overwrite and fold is plan[0]:
                _clear(out)
            training.run()
            all_folds(1)
        hold()
        for folder in done:
            with holding(folder):
                tidy(folder)  # of a run that was killed as it ended
        report = _measured(plan, resolved, data, blocks)
        write_bytes(out / REPORT, report.to_json() + b"\n")
    return report


# ---- parts


def _dealt(data: Dataset, folds: int, blocks: bool, recipe: Recipe) -> tuple[Dataset, np.ndarray]:
    """The data set, in blocks where asked for, and which fold (N,) holds out each object.

    Raises ValueError where there are too few groups, or a fold could not be measured.
    """
    require_whole("folds", folds, least=2)
    if blocks:
        if len(data.groups) > 1 and (data.groups_named or len(data.groups) < len(data.images)):
            line = listed(f"blocks: {data.called} has {len(data.groups)} groups already", data.groups)
            raise ArgumentError(f"{line}; leave `blocks=True` out to fold by them, or pass `group='image'`")
        data = data.in_blocks(folds)
    part = data.fold_of(folds, recipe.seed)
    anywhere = np.tile([0.0, 0, 1, 1], (len(data), 1))  # boxes have lengths once images are read
    if recipe.normalize == "auto":  # a box, which every object has
        return data, part
    length = normaliser(recipe.normalize, data.xy, anywhere, data.skeleton.names)
    for number in range(1, folds + 1):
        if not (length[part == number] > 0).any():
            raise ArgumentError(
                f"{data.called}: normalize {quoted(recipe.normalize)} is unlabelled or 0 px in all objects of fold "
                f"{number}; choose another pair, box_side, or a constant such as 100px"
            )
    return data, part


def _speak_of_alike(data: Dataset, part: np.ndarray) -> None:
    """Warn of pictures that are in two folds, whatever they are called."""
    if data.likeness is None:
        return
    of_image = np.zeros(len(data.images), np.int64)
    of_image[data.image_index] = part
    speak_of_alike(alike(data.likeness, parts=of_image), "are in two folds", data.image_names, data.image_names)


def _speak_of_groups(data: Dataset, blocks: bool) -> None:
    """Say where groups may be too fine, or are as coarse as the folds."""
    if blocks:
        log.info("blocks: each fold holds out one run of frames; those at its ends have neighbours in training")
    elif not data.groups_named and len(data.groups) == len(data.images):
        log.info(
            "every image is a group of its own: frames of one video, or photos of one subject, would lie on both "
            "sides; then name groups with `group`, or cut a video with `blocks=True`"
        )


def _fold(data: Dataset, part: np.ndarray, number: int, out: Path) -> Fold:
    places = np.flatnonzero(part == number)
    rest = data.subset(part != number, f"{data.name} without fold {number}")
    return Fold(number, out / f"fold-{number}", rest, data.subset(places, f"{data.name}, fold {number}"), places)


def _clear(out: Path) -> None:
    """Remove the folds that `out` holds, and their report."""
    (out / REPORT).unlink(missing_ok=True)
    for folder in out.glob("fold-*"):
        if re.fullmatch(r"fold-\d+", folder.name) and (folder / "recipe.yaml").is_file():
            shutil.rmtree(folder)


# ---- the report


def _measured(plan: list[Fold], recipe: Resolved, data: Dataset, blocks: bool) -> FoldsReport:
    """Each fold's model on what it has not seen, and all of them together."""
    reports: list[Report] = []
    predictions: list[Predictions] = []
    options = {"threads": recipe.threads or None, "on_predictions": predictions.append, "doubted": True}
    for fold in plan:
        reports.append(evaluate(fold.model, fold.held_out, **options))
    judges = _fit_together(plan, predictions, data)
    if judges is not None:
        predictions.clear()
        for number, fold in enumerate(plan):
            own = np.flatnonzero(np.isin(fold.places, judges))
            reports[number] = evaluate(fold.model, fold.held_out, **options, judges=own)
    return _report(plan, reports, _pooled(data, plan, predictions, recipe, reports, judges), recipe, data, blocks)


def _fit_together(plan: list[Fold], predictions: list[Predictions], data: Dataset) -> np.ndarray | None:
    """Write one sigma into all folds' models, fitted on half of all objects, where folds are too small for their own.

    Each object counts by its fold's model, which has not seen it. Gives the indices of the other half, which judges it.
    """
    specs = [read_spec(fold.model) for fold in plan]
    shared = [spec.confidence is not None and spec.confidence.data_fingerprint == data.fingerprint() for spec in specs]
    if not any(shared) and all(map(knows_its_errors, specs)):  # shared: of an earlier call
        return None
    learnt = learn_from(_together(plan, predictions), data, f"{data.name}, out of {len(plan)} folds")
    if learnt.confidence is None or learnt.reliability is None:
        more = "; label more objects" if len(data) < FEWEST else ""
        log.info("sigma (each point's expected error, px) is not fitted: %s: %s", data.called, learnt.why + more)
        return None
    for fold, spec in zip(plan, specs, strict=True):
        describe(fold.model, msgspec.structs.replace(spec, confidence=learnt.confidence))
    rows = "; ".join(f"{label} {value}" for label, value in reliability_rows(learnt.reliability))
    fitted = f"{learnt.confidence.count} of {len(data)} objects, each by the model of its fold"
    log.info("sigma fitted on %s; on the others %s", fitted, rows)
    parts = halves(data.group_index)
    assert parts is not None  # since something was learnt from one of them
    return parts[1]


def _together(plan: list[Fold], predictions: list[Predictions]) -> Predictions:
    """Predictions of all objects in the order of the data set."""
    return joined(predictions, np.argsort(np.concatenate([fold.places for fold in plan])))


def _pooled(
    data: Dataset,
    plan: list[Fold],
    predictions: list[Predictions],
    recipe: Resolved,
    reports: list[Report],
    judges: np.ndarray | None,
) -> Report:
    """The report on all objects, each predicted by the model of its fold. judges: of a sigma that all folds share."""
    everything = _together(plan, predictions)
    if judges is None:
        everything = dataclasses.replace(everything, sigma=None)  # it was learnt from some of these very objects
    note = f"pooled over {len(plan)} models, each on objects whose groups it was not trained on"
    report = report_of(
        everything, data, recipe.normalize, box_source=recipe.box, engine=reports[0].engine, judges=judges, notes=[note]
    )
    counts = [fold.nme.count for fold in reports]
    shapes = [fold.mean_shape_nme for fold in reports if fold.mean_shape_nme is not None]  # a fold has its own
    known = float(np.average(shapes, weights=counts)) if len(shapes) == len(reports) else None
    return msgspec.structs.replace(report, mean_shape_nme=known)


def _report(
    plan: list[Fold], reports: list[Report], pooled: Report, recipe: Resolved, data: Dataset, blocks: bool
) -> FoldsReport:
    figures = np.array([figures_of(report) for report in reports])
    done = [
        FoldReport(
            fold=fold.number,
            model=f"{fold.folder.name}/{MODEL}",
            seed=recipe.seed,
            train=_part_report(fold.train),
            held_out=_part_report(fold.held_out),
            report=report,
        )
        for fold, report in zip(plan, reports, strict=True)
    ]
    return FoldsReport(
        keylite=__version__,
        created=now(),
        dataset=DatasetReport(data.name, data.fingerprint()),
        blocks=blocks,
        seed=recipe.seed,
        recipe=read_spec(plan[0].model).provenance.recipe,  # without paths of this machine
        folds=tuple(done),
        mean=_figures(figures.mean(axis=0)),
        std=_figures(figures.std(axis=0, ddof=1)),
        pooled=pooled,
    )


def _figures(values: np.ndarray) -> FoldFigures:
    figures = values.astype(object)
    figures[np.isnan(values)] = None
    return FoldFigures(*figures)


def _part_report(part: Dataset) -> PartReport:
    return PartReport(len(part), len(part.groups), part.fingerprint())


# ---- as texts
