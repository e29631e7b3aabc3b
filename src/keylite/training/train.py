"""Training: from labelled images and a recipe to a model file.

A framework is imported only if the recipe chooses it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from keylite.data.augmentation import Augmentation
from keylite.data.checks import say_doubts
from keylite.data.dataset import Dataset, require_datasets
from keylite.data.examples import Examples, with_boxes
from keylite.data.formats.reading import Labelled, as_dataset, read_train_and_val
from keylite.evaluation.confidence import write_confidence
from keylite.evaluation.environment import now, versions
from keylite.evaluation.flips import flip_doubt, flip_report
from keylite.evaluation.predictions import predict_dataset
from keylite.evaluation.report import no_better
from keylite.runtime.errors import ArgumentError, naming
from keylite.runtime.files import require_outputs
from keylite.runtime.heads import HEADS
from keylite.runtime.images import MAX_MEGAPIXELS, require_limit, write_image
from keylite.runtime.kinds import number_of, path_of, require_flags
from keylite.runtime.modelfile import read_spec, safetensors_header
from keylite.runtime.packages import FRAMEWORKS, require
from keylite.runtime.predictor import Predictor
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import FORMAT, MAX_TEXT, ModelSpec, Provenance, unlearnt_words
from keylite.runtime.types import FilePath
from keylite.runtime.words import counted, quoted
from keylite.training.checks import (
    require_parts,
    say_visibility,
    unlearnt_of,
    warn_of_lengths,
    warn_of_overlap,
    warn_of_parts_alike,
    with_mirror,
)
from keylite.training.folder import CHECKPOINT, FILES, check_resumed, check_run, clear_run, open_run, require_new
from keylite.training.lock import holding
from keylite.training.log_lines import shown_log
from keylite.training.pretrained import find_pretrained, pretrained_name
from keylite.training.processes import is_first_process, processes, run_all, world_of
from keylite.training.recipe import VAL_FRACTION, Recipe, Resolved, checked, strengthened, to_dict
from keylite.training.run import Run, baseline_report, knows_its_errors
from keylite.training.schedule import caches, resolve
from keylite.training.sheet import examples_sheet
from keylite.training.stopping import saying_how_to_go_on
from keylite.training.teacher import Teacher, find_teacher, warn_of_teacher
from keylite.training.trainer import loaded_teacher, trainer_of
from keylite.version import __version__

log = logging.getLogger("keylite")

MORE_TO_FIT_SIGMA = "give a larger `val` or `val_fraction`, or use `train_folds`, which fits it on all objects"


def train(
    recipe: Recipe,
    data: Labelled,
    val: Labelled | None = None,
    *,
    out: FilePath,
    val_fraction: float = VAL_FRACTION,
    resume: bool = False,
    overwrite: bool = False,
    skip_bad: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
    profile: bool = False,
) -> Path:
    """Train a model; its file holds the weights of the best epoch by val NME (the error on the validation set).

    The folder `out` gets model.safetensors, and beside it last.safetensors (the last epoch), resume.ckpt, recipe.yaml
    (with numbers for `auto`), data.json, examples.jpg (augmented samples), log.csv, curves.png and tensorboard/.

    Args:
        recipe: The training choices.
        data: Labelled images to train on: a data set, or the path of labels.
        val: Labelled images to validate on. None: the part val of the path `data`, or else whole groups of `data`.
        out: The folder of the run.
        val_fraction: About what share of the objects to hold out if `val` is None; drawn with the recipe's seed.
        resume: Go on from the last whole epoch of the run in `out`. Recipe and data must be the same.
        overwrite: Remove the run in `out` and start anew.
        skip_bad: Leave out images that cannot be read, and objects without a box, instead of refusing the data.
        max_megapixels: Refuse images with more pixels than this, in millions.
        profile: Also write profile.json, the time that each part of a step takes (PyTorch only).

    Returns:
        The path of the model file, `out/model.safetensors`.

    Raises:
        ArgumentError: An argument has a wrong value, or the recipe, the data and the folder do not go together.
        DataError: The labels or images are bad.
        OSError: The folder cannot be written to.
        KeyboardInterrupt: Ctrl-C; it says how to go on. The folder is left empty unless an epoch was finished.

    Example:
        >>> model = keylite.train(keylite.Recipe(epochs=30), "train.json", "val.json", out="runs/faces")
    """
    require_flags(resume=resume, overwrite=overwrite, skip_bad=skip_bad, profile=profile)
    require_limit(max_megapixels)
    recipe, out = checked(recipe), path_of("out", out)
    if not 0 < number_of(val_fraction) < 1:
        raise ArgumentError(f"val_fraction: expected a number above 0 and below 1, got {quoted(val_fraction)}")
    if val is not None and val_fraction != VAL_FRACTION:
        raise ArgumentError("val_fraction: has no effect beside `val`; leave out one of them")
    with shown_log(recipe), saying_how_to_go_on(out, resume, overwrite):
        if val is None and isinstance(data, (str, os.PathLike)) and val_fraction == VAL_FRACTION:
            data, val = read_train_and_val(data) or (data, None)
        data = as_dataset("data", data)
        if val is None:
            data, val = _held_out(recipe, data, val_fraction)
        return prepare(
            recipe,
            data,
            as_dataset("val", val),
            out,
            resume=resume,
            overwrite=overwrite,
            skip_bad=skip_bad,
            max_megapixels=max_megapixels,
            profile=profile,
        ).run()


def _held_out(recipe: Recipe, data: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """The part of the data to train on, and the part that is held out to validate on."""
    if not 0 < number_of(fraction) < 1:
        raise ArgumentError(f"val_fraction: expected a number above 0 and below 1, got {quoted(fraction)}")
    data, val = data.split(fraction, seed=recipe.seed)
    log.info(
        "no val: %s of %s are held out; %d of %d are left to train on",
        counted(len(val), "object"), counted(len(val.groups), "group"), len(data), len(data.groups),
    )  # fmt: skip
    return data, val


def prepare(
    recipe: Recipe,
    data: Dataset,
    val: Dataset,
    out: Path,
    *,
    resume: bool,
    overwrite: bool,
    skip_bad: bool,
    max_megapixels: float,
    profile: bool = False,
    fold: bool = False,
) -> Plan:
    """The first half of `train`: it refuses all that can be refused, and writes nothing.

    fold: whether this is one of several folds. Then doubts about labels and pictures are said, and sigma is fitted, for
    all folds together.
    """
    recipe = checked(recipe)
    require_datasets(data=data, val=val)
    first = is_first_process(recipe)
    if first:
        check_run(out, recipe, resume, overwrite)
        inputs = {"pretrained": None if resume else recipe.pretrained, "teacher": recipe.teacher}
        inputs |= {"val": val.source or None}
        inputs |= val.files_named(FILES) | data.files_named(FILES)
        require_outputs({name: out / name for name in FILES}, inputs)
    trainer = trainer_of(recipe.framework)
    require("matplotlib.figure", FRAMEWORKS[recipe.framework])  # it draws the curves after each epoch
    if profile and recipe.framework != "pytorch":
        raise ArgumentError(
            f"profile: only framework pytorch measures these times, got {recipe.framework}; use its own profiler"
        )
    teacher = find_teacher(recipe, data)
    taught_by = loaded_teacher(recipe, teacher)
    going_on = resume and (out / CHECKPOINT).is_file()
    weights = None if going_on else find_pretrained(recipe.pretrained, recipe.backbone)
    if weights:
        with naming("pretrained"):
            safetensors_header(weights)  # damage is said before pictures are read
    data, val = _checked_parts(recipe, data, val, skip_bad=skip_bad, max_megapixels=max_megapixels, fold=fold)
    if first and not fold:
        warn_of_parts_alike(data, val)
    warn_of_teacher(teacher, val)
    resolved = resolve(recipe, data, quiet=fold)
    warn_of_lengths(resolved)
    if resume and first:
        check_resumed(out, resolved, data, val)
    say_visibility(recipe, data, quiet=fold)
    for line in unlearnt_words(unlearnt_of(recipe, data, teacher)):
        log.warning("%s: %s", data.called, line)
    skeleton = with_mirror(recipe, data)
    data, val = data.with_skeleton(skeleton), val.with_skeleton(skeleton)
    examples = Examples(
        data,
        recipe.input_size,
        box=recipe.box,
        padding=recipe.padding,
        augmentation=augmentation_of(resolved, skeleton),
        seed=recipe.seed,
        hidden=recipe.visibility_1 == "train",
    )
    if caches(recipe, examples):
        examples.keep()
    shape = examples.mean_shape()
    spec = new_spec(resolved, data, skeleton, shape, teacher)
    network = trainer.new_network(resolved, spec, shape, weights)
    state = Run(resolved, spec, val, out, baseline_report(shape, spec, val), profile)
    if going_on and first:
        trainer.require_resumable(state, network)
    return Plan(
        state, examples, shape, weights, network, teacher, taught_by, resume=resume, overwrite=overwrite, fold=fold
    )


def _checked_parts(
    recipe: Recipe, data: Dataset, val: Dataset, *, skip_bad: bool, max_megapixels: float, fold: bool
) -> tuple[Dataset, Dataset]:
    """Both parts with boxes, after every image was checked; doubts about them are logged."""
    data, val = with_boxes(data, recipe.box, skip_bad), with_boxes(val, recipe.box, skip_bad)
    require_parts(recipe, data, val)
    warn_of_overlap(data, val)
    data = data.check_images(max_megapixels, skip_bad)
    val = val.check_images(max_megapixels, skip_bad, data.white_level)
    for part in (data, val):
        for note in part.notes:
            log.info("%s: %s", part.name, note)
        if not fold:
            say_doubts(part, recipe.box)
    return data, val


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training that has passed all checks and can start.

    state: the run before its first epoch, or as it was stopped. shape: (K, 2) mean of the training labels, unit
    coordinates. weights: the file of pretrained weights, or None. network: a model of the recipe's framework. teacher,
    taught_by: the model file that teaches it, and its network, or None. resume, overwrite, fold: as in `prepare`.
    """

    state: Run
    examples: Examples
    shape: np.ndarray
    weights: Path | None
    network: Any
    teacher: Teacher | None
    taught_by: Any
    _: dataclasses.KW_ONLY
    resume: bool
    overwrite: bool
    fold: bool

    def run(self) -> Path:
        """Train, and return the path of the model file; of several processes, only the first writes other files."""
        out = self.state.out
        if not is_first_process(self.state.recipe):
            self._fit()
            return self.state.model
        ended = self.resume and self.state.model.is_file()  # a finished run whose checkpoint somebody removed
        with holding(out):
            # This is checked again, because another run may have come and gone in the meantime.
            require_new(out, self.resume, self.overwrite)
            try:
                self._write()
            except (KeyboardInterrupt, ValueError, FileNotFoundError):  # other errors say how to go on
                if not (self.state.checkpoint.is_file() or ended):
                    clear_run(out)  # a resumed run would have nothing to go on from
                raise
        return self.state.model

    def _write(self) -> None:
        """Open the folder, train, and fit on the validation set what scores mean."""
        state, recipe, data, val = self.state, self.state.recipe, self.examples.data, self.state.val
        open_run(state.out, recipe, data, val, self.resume)
        sheet = state.out / "examples.jpg"
        write_image(sheet, examples_sheet(self.examples))
        log.info(
            "training %s on %d objects of %d groups; on the %d objects of val, the mean shape has an NME "
            "of %.2f %%; augmented samples: %s",
            state.spec.network, len(data), len(data.groups), len(val),
            100 * state.baseline.nme.mean, sheet,
        )  # fmt: skip
        if world_of(recipe) is None:
            needed = (state, self.shape, self.weights, self.teacher, self.examples, self.resume)
            run_all(_fit_in_a_process, needed, processes(recipe))
        else:
            self._fit()
        _fit_confidence(state, self.fold)
        _warn_of_the_end(state)

    def _fit(self) -> None:
        trainer = trainer_of(self.state.recipe.framework)
        trainer.fit(self.state, self.network, self.examples, self.taught_by, resume=self.resume)


def _fit_in_a_process(
    state: Run, shape: np.ndarray, weights: Path | None, teacher: Teacher | None, examples: Examples, resume: bool
) -> None:
    """Each of several processes that train runs this."""
    recipe = state.recipe
    trainer = trainer_of(recipe.framework)
    taught_by = loaded_teacher(recipe, teacher)
    network = trainer.new_network(recipe, state.spec, shape, weights)
    trainer.fit(state, network, examples, taught_by, resume=resume)


def _fit_confidence(state: Run, fold: bool) -> None:
    """After training: fit on the validation set what scores mean, and warn if flips contradict the labels.

    fold: whether this is one of several folds. If it is too small, all folds together fit sigma, and say so once.
    """
    recipe, mirror = state.recipe, state.spec.skeleton.mirror
    last = Predictor(state.out / "last.safetensors", threads=recipe.threads or None, device=recipe.device)
    write_confidence(last, state.val, predict_dataset(last, state.val))
    best = Predictor(state.model, threads=recipe.threads or None, device=recipe.device)
    predictions = predict_dataset(best, state.val)
    line = write_confidence(best, state.val, predictions, MORE_TO_FIT_SIGMA)
    if not fold or knows_its_errors(read_spec(state.model)):
        log.info("%s", line)
    if mirror is not None and recipe.flip_p:
        report = flip_report(best, state.val, mirror, plain=predictions)
        if doubt := flip_doubt(report, recipe.flip_offset):
            log.warning("%s", doubt)


def _warn_of_the_end(state: Run) -> None:
    """Warn if the model is no better than the mean shape, which needs no network."""
    figures = read_spec(state.model).report
    assert figures is not None  # training has just written them
    best, mean_shape_nme = figures.nme, state.baseline.nme.mean
    if no_better(best, mean_shape_nme):
        log.warning(
            "%s is no better than the mean shape of the training labels: the best epoch's val NME is %.2f %%, "
            "that of the mean shape %.2f %%; look at %s, the labels, epochs, lr and the loss",
            state.model, 100 * best, 100 * mean_shape_nme, state.out / "examples.jpg",
        )  # fmt: skip


def augmentation_of(recipe: Resolved, skeleton: Skeleton) -> Augmentation:
    """The augmentation of a recipe, with its strength applied; without mirror pairs, nothing is flipped."""
    choices: dict[str, Any] = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Augmentation)}
    choices |= strengthened(recipe)
    if skeleton.mirror is None:
        choices["flip_p"] = 0.0
    return Augmentation(**choices)


def new_spec(
    recipe: Resolved, data: Dataset, skeleton: Skeleton, shape: np.ndarray, teacher: Teacher | None
) -> ModelSpec:
    """The spec of the model that this recipe makes from these data, without figures yet. shape: the mean shape."""
    backbones = require(f"keylite.{recipe.framework}.backbones", FRAMEWORKS[recipe.framework])
    mean, std = backbones.normalisation(recipe.backbone)
    return ModelSpec(
        format=FORMAT,
        backbone=recipe.backbone,
        stages=recipe.stages,
        size=recipe.input_size,
        box=recipe.box,
        padding=recipe.padding if recipe.box == "annotation" else 0.0,  # a whole image does not grow
        head=HEADS[recipe.head](len(skeleton), recipe.hidden, recipe.input_size),
        skeleton=skeleton,
        category=data.category[:MAX_TEXT],
        visibility_0=recipe.visibility_0,
        visibility_1=recipe.visibility_1,
        normalize=recipe.normalize,
        mean=mean,
        std=std,
        white_level=data.white_level,
        precision="fp32",
        input_type="uint8",
        output=None,
        weight_scales=None,
        calibration=None,
        provenance=Provenance(
            keylite=__version__,
            created=now(),
            framework=recipe.framework,
            pretrained=pretrained_name(recipe.pretrained),
            data=data.identity(),
            recipe=to_dict(recipe)
            | {name: pretrained_name(getattr(recipe, name)) for name in ("pretrained", "teacher")},
            versions=versions(),
            parent=None,
        ),
        mean_shape=tuple((x, y) for x, y in shape.astype(np.float64).tolist()),
        report=None,
        confidence=None,
        certificate=None,
        unlearnt=unlearnt_of(recipe, data, teacher),
    )
