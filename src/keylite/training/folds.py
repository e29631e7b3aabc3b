"""Cross-validation: every object of a data set is measured by a model that was trained without its group.

A fold is an ordinary run in a folder of its own. Knows no framework, and nothing of how figures are shown.
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
from keylite.evaluation.confidence import SIGMA, learn_from
from keylite.evaluation.environment import now
from keylite.evaluation.evaluate import measure
from keylite.evaluation.figures import report_of
from keylite.evaluation.normaliser import read_normaliser
from keylite.evaluation.predictions import Predictions, joined
from keylite.evaluation.reliability import FEWEST, halves, reliability_words
from keylite.evaluation.report import Report
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import require_outputs, write_bytes
from keylite.runtime.images import MAX_MEGAPIXELS, require_limit
from keylite.runtime.kinds import path_of, require_flags, require_whole
from keylite.runtime.leftovers import tidy
from keylite.runtime.modelfile import describe, read_spec
from keylite.runtime.predictor import Predictor
from keylite.runtime.progress import step
from keylite.runtime.types import FilePath
from keylite.runtime.words import listed, quoted
from keylite.training.checks import warn_of_alike
from keylite.training.folder import FIRST_FOLD, began_with, check_resumed, check_run
from keylite.training.folds_report import FoldFigures, FoldReport, FoldsReport, PartReport, figures_of
from keylite.training.lock import holding, require_free
from keylite.training.log_lines import shown_log
from keylite.training.processes import processes, world_of
from keylite.training.recipe import Recipe, Resolved, checked, require_no_patience
from keylite.training.run import knows_its_errors
from keylite.training.schedule import resolve
from keylite.training.stopping import saying_how_to_go_on
from keylite.training.train import prepare
from keylite.version import __version__

log = logging.getLogger("keylite")

REPORT = "folds.json"
MODEL = "last.safetensors"  # the best epoch was chosen on the images of the report, so its figures would flatter


@dataclasses.dataclass(frozen=True)
class Fold:
    """One fold: its number from 1, its folder and its data. places: indices of the held-out objects in all data."""

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
        """Whether the last epoch is done, and so is what follows it."""
        spec = read_spec(self.model) if self.begun and self.model.is_file() else None
        if spec is None or spec.report is None or spec.report.epoch != recipe.epochs:
            return False
        return knows_its_errors(spec)


def train_folds(
    recipe: Recipe,
    data: Labelled,
    *,
    out: FilePath,
    folds: int = 5,
    blocks: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    skip_bad: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> FoldsReport:
    """Cross-validate: train `folds` models, each without one part of the groups, and measure each on that part.

    Each model is measured with the weights of its last epoch, because its best epoch is chosen on the images of the
    report. What the recipe leaves to `auto` becomes the same number in all folds.

    Args:
        recipe: The training choices; `patience` must be 0.
        data: Labelled images: a data set, or the path of a label file.
        out: A folder. The runs are written to `fold-1`, `fold-2` and so on in it, the report to `folds.json`.
        folds: The number of parts, at least 2 and at most the number of groups.
        blocks: Instead of groups, each fold holds out a run of frames in the order of their names. For one video.
        resume: Go on at the first fold in `out` that is not finished.
        overwrite: Remove the folds in `out` and start anew.
        skip_bad: Leave out images that cannot be read, and objects without a box, instead of refusing the data.
        max_megapixels: Refuse images with more pixels than this, in millions.

    Returns:
        A report per fold, and one of all objects together.

    Raises:
        ArgumentError: An argument has a wrong value, the arguments do not go together, or `out` holds another run.
        DataError: The labels or images are bad.
        KeyboardInterrupt: Ctrl-C; it says how to go on, which is `resume` after the first whole epoch.
    """
    require_flags(blocks=blocks, resume=resume, overwrite=overwrite, skip_bad=skip_bad)
    require_limit(max_megapixels)
    require_whole("folds", folds, least=2)
    out, recipe = path_of("out", out), checked(recipe)
    data = as_dataset("data", data)
    with shown_log(recipe), saying_how_to_go_on(out, resume, overwrite):
        _refuse(recipe, data, out, resume=resume, overwrite=overwrite)
        data, part = _parts(recipe, data, folds, blocks, skip_bad=skip_bad, max_megapixels=max_megapixels)
        resolved = resolve(recipe, data, round(len(data) * (folds - 1) / folds))
        log.info(
            "folds are measured with the weights of their last epoch: the best one is chosen on the images of the "
            "report"
        )
        if recipe.teacher != "none":
            log.warning("teacher: if it was trained on objects that folds hold out, the figures of these folds flatter")
        plan = [_fold(data, part, number, out) for number in range(1, folds + 1)]
        if resume:
            _require_the_same(plan, resolved)
        with _run(plan, resolved, out, resume=resume, overwrite=overwrite, max_megapixels=max_megapixels):
            report = _measured(plan, resolved, data, blocks)
            write_bytes(out / REPORT, report.to_json() + b"\n")
    return report


def _refuse(recipe: Recipe, data: Dataset, out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise ArgumentError if folds cannot take this recipe or folder, before any image is read."""
    require_no_patience(recipe)
    if processes(recipe) > 1 and world_of(recipe) is not None:
        raise ArgumentError(
            "folds: each fold starts its processes itself; leave out the launcher (torchrun, srun) and `nodes`"
        )
    if (out / "recipe.yaml").is_file():
        raise ArgumentError(f"{out}: holds a run that is not a fold; choose another `out`")
    require_free(out)
    require_outputs({REPORT: out / REPORT}, data.files_named((REPORT,)))
    check_run(out / FIRST_FOLD, recipe, resume, overwrite)


def _parts(
    recipe: Recipe, data: Dataset, folds: int, blocks: bool, *, skip_bad: bool, max_megapixels: float
) -> tuple[Dataset, np.ndarray]:
    """The data set after every image was checked, and for each object (N,) the fold that holds it out; logs doubts."""
    data = with_boxes(data, recipe.box, skip_bad)
    crop_boxes(data, recipe.box)
    _dealt(data, folds, blocks, recipe)  # what can be refused now is refused before images are read
    data = data.check_images(max_megapixels, skip_bad)
    for note in data.notes:
        log.info("%s: %s", data.called, note)
    say_doubts(data, recipe.box)
    data, part = _dealt(dataclasses.replace(data, notes=(), doubts=()), folds, blocks, recipe)
    _log_groups(data, blocks)
    _warn_of_alike(data, part)
    return data, part


def _require_the_same(plan: list[Fold], recipe: Resolved) -> None:
    """Raise ArgumentError if a fold began with another part of the data, or with another recipe."""
    for fold in plan:
        if fold.begun:
            if not began_with(fold.folder, fold.train, fold.held_out):
                raise ArgumentError(
                    f"{fold.folder}: began with another part of the data; resume with the same `data`, `group`, "
                    "`folds` and `blocks=True`, or choose another `out`"
                )
            check_resumed(fold.folder, recipe, fold.train, fold.held_out)


def _run(
    plan: list[Fold], recipe: Resolved, out: Path, *, resume: bool, overwrite: bool, max_megapixels: float
) -> contextlib.ExitStack:
    """Train each fold that is not finished. The returned stack still holds the lock of the folder; close it last."""
    done = [fold.folder for fold in plan if resume and fold.finished(recipe)]
    with contextlib.ExitStack() as stack:
        hold = functools.cache(lambda: stack.enter_context(holding(out)))
        with step("folds", len(plan)) as advance:
            for fold in plan:
                log.info(
                    "fold %d of %d: %d objects of %d groups held out, %d of %d to train on", fold.number, len(plan),
                    len(fold.held_out), len(fold.held_out.groups), len(fold.train), len(fold.train.groups),
                )  # fmt: skip
                if fold.folder in done:
                    log.info("fold %d was finished already", fold.number)
                    advance(1)
                    continue
                training = prepare(
                    recipe,
                    fold.train,
                    fold.held_out,
                    fold.folder,
                    resume=resume and fold.begun,
                    overwrite=overwrite,
                    skip_bad=False,
                    max_megapixels=max_megapixels,
                    fold=True,
                )
                hold()  # only now, when nothing can be refused any more
                if overwrite and fold is plan[0]:
                    _clear(out)
                training.run()
                advance(1)
        hold()
        for folder in done:
            with holding(folder):
                tidy(folder)  # the run may have been killed as it ended
        return stack.pop_all()


# ---- parts


def _dealt(data: Dataset, folds: int, blocks: bool, recipe: Recipe) -> tuple[Dataset, np.ndarray]:
    """The data set (in blocks, if asked for), and for each object (N,) the number of the fold that holds it out.

    Raises ArgumentError if there are too few groups, or if a fold cannot be measured.
    """
    if blocks:
        if len(data.groups) > 1 and (data.groups_named or len(data.groups) < len(data.images)):
            line = listed(f"blocks: {data.called} already has {len(data.groups)} groups", data.groups)
            raise ArgumentError(f"{line}; leave `blocks=True` out to fold by them, or pass `group='image'`")
        data = data.in_blocks(folds)
    part = data.fold_of(folds, recipe.seed)
    how = None if recipe.normalize == "auto" else read_normaliser(recipe.normalize, data.skeleton.names)
    if how is None or how.box:  # every object has a box as soon as its image is read
        return data, part
    length = how.lengths(data.xy, data.box)
    for number in range(1, folds + 1):
        if not (length[part == number] > 0).any():
            raise ArgumentError(
                f"{data.called}: normalize: {quoted(recipe.normalize)} is unlabelled or 0 px in all objects of fold "
                f"{number}; choose another pair, box_side, or a constant such as 100px"
            )
    return data, part


def _warn_of_alike(data: Dataset, part: np.ndarray) -> None:
    """Warn if two folds hold the same picture, under any name."""
    if data.likeness is None:
        return
    of_image = np.zeros(len(data.images), np.int64)
    of_image[data.image_index] = part
    warn_of_alike(alike(data.likeness, parts=of_image), "are in two folds", data.image_names, data.image_names)


def _log_groups(data: Dataset, blocks: bool) -> None:
    """Log how blocks are held out, or that groups may be too fine."""
    if blocks:
        log.info("blocks: each fold holds out one run of frames; the frames at its ends have neighbours in training")
    elif not data.groups_named and len(data.groups) == len(data.images):
        log.info(
            "every image is a group of its own, so frames of one video, or photos of one subject, may be in several "
            "folds; then name groups with `group`, or cut a video with `blocks=True`"
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
    """The report of each fold's model on its held-out objects, and of all of them together."""
    measured = [_measured_fold(fold, recipe, None) for fold in plan]
    judges = _fit_together(plan, [predictions for _, predictions in measured], data)
    if judges is not None:
        measured = [_measured_fold(fold, recipe, judges) for fold in plan]
    reports, predictions = [report for report, _ in measured], [predictions for _, predictions in measured]
    return _report(plan, reports, _pooled(data, plan, predictions, recipe, reports, judges), recipe, data, blocks)


def _measured_fold(fold: Fold, recipe: Resolved, judges: np.ndarray | None) -> tuple[Report, Predictions]:
    """The report and the predictions of a fold's model. judges: indices into all data: who tests sigma."""
    own = None if judges is None else np.flatnonzero(np.isin(fold.places, judges))
    return measure(Predictor(fold.model, threads=recipe.threads or None), fold.held_out, judges=own)


def _fit_together(plan: list[Fold], predictions: list[Predictions], data: Dataset) -> np.ndarray | None:
    """If folds are too small to fit sigma, fit one for all on half of all objects, and write it into their models.

    Each object is predicted by the model of its fold, which has not seen it. Gives the indices of the other half, which
    tests sigma; None if the folds have fitted their own, or if it cannot be fitted.
    """
    specs = [read_spec(fold.model) for fold in plan]
    shared = [spec.confidence is not None and spec.confidence.data.fingerprint == data.fingerprint() for spec in specs]
    if not any(shared) and all(map(knows_its_errors, specs)):  # shared: an earlier call wrote it
        return None
    learnt = learn_from(_together(plan, predictions), data, f"{data.name}, out of {len(plan)} folds")
    if learnt.confidence is None or learnt.reliability is None:
        more = "; label more objects" if len(data) < FEWEST else ""
        log.info("%s is not fitted: %s: %s", SIGMA, data.called, learnt.why + more)
        return None
    for fold, spec in zip(plan, specs, strict=True):
        describe(fold.model, msgspec.structs.replace(spec, confidence=learnt.confidence))
    fitted = f"{learnt.confidence.count} of {len(data)} objects, each predicted by the model of its fold"
    log.info("%s was fitted on %s; on the others %s", SIGMA, fitted, reliability_words(learnt.reliability))
    parts = halves(data.group_index)
    assert parts is not None  # because one of them taught sigma
    return parts[1]


def _together(plan: list[Fold], predictions: list[Predictions]) -> Predictions:
    """The predictions of all folds in one, in the order of the data set."""
    return joined(predictions, np.argsort(np.concatenate([fold.places for fold in plan])))


def _pooled(
    data: Dataset,
    plan: list[Fold],
    predictions: list[Predictions],
    recipe: Resolved,
    reports: list[Report],
    judges: np.ndarray | None,
) -> Report:
    """The report of all objects, each predicted by the model of its fold.

    judges: the objects that test a sigma which all folds share; None if each fold has its own.
    """
    everything = _together(plan, predictions)
    if judges is None:
        everything = dataclasses.replace(everything, sigma=None)  # it was fitted on some of these objects
    note = f"pooled over {len(plan)} models, each on objects whose groups it was not trained on"
    report = report_of(
        everything, data, recipe.normalize, box_source=recipe.box, engine=reports[0].engine, judges=judges, notes=[note]
    )
    counts = [fold.nme.count for fold in reports]
    shapes = [fold.mean_shape_nme for fold in reports if fold.mean_shape_nme is not None]  # each fold has its own
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
            train=PartReport.of(fold.train),
            held_out=PartReport.of(fold.held_out),
            report=report,
        )
        for fold, report in zip(plan, reports, strict=True)
    ]
    return FoldsReport(
        keylite=__version__,
        created=now(),
        data=data.identity(),
        blocks=blocks,
        seed=recipe.seed,
        recipe=read_spec(plan[0].model).provenance.recipe,  # it holds no path of this machine
        folds=tuple(done),
        mean=_figures(figures.mean(axis=0)),
        std=_figures(figures.std(axis=0, ddof=1)),
        pooled=pooled,
    )


def _figures(values: np.ndarray) -> FoldFigures:
    figures = values.astype(object)
    figures[np.isnan(values)] = None
    return FoldFigures(*figures)
