"""Training: from labelled images and a recipe to a model file.

Frameworks are named in one table and imported when chosen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from keylite.data.checks import hardly_labelled, say_doubts
from keylite.data.dataset import Dataset, require_datasets
from keylite.data.examples import Augmentation, Examples, crop_boxes, kept_bytes, with_boxes
from keylite.data.likeness import Alike, alike
from keylite.data.mirror import choose_mirror, from_pairs
from keylite.evaluation.confidence import write_confidence
from keylite.evaluation.environment import now, versions
from keylite.evaluation.evaluate import predict_dataset
from keylite.evaluation.flips import flip_doubt, flip_report
from keylite.evaluation.metrics import normaliser
from keylite.evaluation.report import no_better
from keylite.pictures.draw import contact_sheet, draw_points
from keylite.runtime.engines import ENGINES
from keylite.runtime.files import require_outputs, sha256
from keylite.runtime.heads import HEADS
from keylite.runtime.images import MAX_MEGAPIXELS, write_image
from keylite.runtime.kinds import path_of
from keylite.runtime.machine import free_memory
from keylite.runtime.modelfile import read_spec
from keylite.runtime.packages import FRAMEWORKS, require
from keylite.runtime.predictor import Predictor
from keylite.runtime.progress import step
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import FORMAT, ModelSpec, Provenance, unlearnt_words
from keylite.runtime.words import SHOWN, listed
from keylite.training.lock import holding
from keylite.training.pretrained import find_pretrained
from keylite.training.processes import processes, run_all, speaks, world_of
from keylite.training.recipe import Recipe, Resolved, checked, strengthened, to_dict
from keylite.training.run import (
    FILES,
    Run,
    baseline_report,
    check_resumed,
    check_run,
    clear_run,
    open_run,
    require_new,
    resolve,
)
from keylite.version import __version__

log = logging.getLogger("keylite")

SHARE_OF_MEMORY = 0.25  # that decoded images may take
MORE_TO_FIT_SIGMA = (
    "give a larger --val or --val-fraction, or see --folds, which fit it on all objects that they hold out"
)
SHEET = 16  # augmented examples on the contact sheet


def train(
    recipe: Recipe,
    data: Dataset,
    val: Dataset,
    out: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    skip_bad: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
    profile: bool = False,
) -> Path:
    """Train a model and give the path of its file, `out/model.safetensors`: the best epoch by val NME.

    What the recipe leaves to auto is settled by the number of objects in `data`. Beside the model: last.safetensors,
    resume.ckpt, recipe.yaml, data.json, examples.jpg (augmented samples), log.csv, curves.png, tensorboard/.
    resume: go on where a run in `out` stopped. skip_bad: leave unreadable images out. profile: write profile.json,
    where a step's time goes.
    Raises ValueError for data, recipe or folder that do not go together, KeyboardInterrupt after a clean stop,
    which leaves nothing behind unless an epoch was finished.
    """
    return prepare(
        recipe,
        data,
        val,
        path_of("out", out),
        resume=resume,
        overwrite=overwrite,
        skip_bad=skip_bad,
        max_megapixels=max_megapixels,
        profile=profile,
    )()


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
) -> Callable[[], Path]:
    """`train` up to where it begins to write: a function that trains. Whatever can be refused is refused here.

    fold: one of several of a data set, whose labels and pictures are doubted, and sigma fitted, as a whole.
    """
    recipe = checked(recipe)
    require_datasets(data=data, val=val)
    first = speaks(recipe)
    if not first:
        log.setLevel(logging.ERROR)  # the first process speaks for all
    if first:
        check_run(out, recipe, resume, overwrite)
        inputs = {"pretrained": None if resume else recipe.pretrained, "val": val.source or None}
        inputs |= val.files_named(FILES) | data.files_named(FILES)
        require_outputs({name: out / name for name in FILES}, inputs)
    training = _training(recipe.framework)
    require("matplotlib.figure", FRAMEWORKS[recipe.framework])  # it draws the curves after each epoch
    if profile and recipe.framework != "pytorch":
        raise ValueError(
            f"profile: only framework pytorch takes these times, got {recipe.framework}; use its own profiler"
        )
    data, val = with_boxes(data, recipe.box, skip_bad), with_boxes(val, recipe.box, skip_bad)
    _speak_of_parts(recipe, data, val)
    data = data.check_images(max_megapixels, skip_bad)
    val = val.check_images(max_megapixels, skip_bad, data.white_level)
    for part in (data, val):
        for note in part.notes:
            log.info("%s: %s", part.name, note)
        if not fold:
            say_doubts(part, recipe.box)
    if first and not fold:
        _speak_of_alike(data, val)
    resolved = resolve(recipe, data)
    _speak_of_lengths(resolved)
    if resume and first:
        check_resumed(out, resolved, data, val)
    for line in unlearnt_words(hardly_labelled(data)):
        log.warning("%s: %s", data.called, line)
    skeleton = _with_mirror(recipe, data)
    data, val = data.with_skeleton(skeleton), val.with_skeleton(skeleton)
    examples = Examples(
        data,
        recipe.input_size,
        box=recipe.box,
        padding=recipe.padding,
        augmentation=augmentation_of(resolved, skeleton),
        seed=recipe.seed,
    )
    if _cached(recipe, examples):
        examples.keep()
    shape = examples.mean_shape()
    spec = new_spec(resolved, data, skeleton, shape)
    checkpoint = out / "resume.ckpt"
    going_on = resume and checkpoint.is_file()
    ended = resume and (out / "model.safetensors").is_file()  # of a run whose checkpoint somebody removed
    weights = None if going_on else find_pretrained(recipe.pretrained, recipe.backbone)
    network = training.new_network(resolved, spec, shape, weights)
    run = Run(resolved, spec, val, out, baseline_report(shape, spec, val), profile)
    if going_on and first:
        training.require_resumable(run, network)

    def go() -> Path:
        if not first:
            training.fit(run, network, examples, resume=resume)
            return run.model
        with holding(out):
            require_new(out, resume, overwrite)  # again: another run may have come and gone since
            try:
                return write()
            except (KeyboardInterrupt, ValueError, FileNotFoundError):  # others say what to do, and to go on
                if not (checkpoint.is_file() or ended):
                    clear_run(out)  # there is nothing in it to go on from
                raise

    def write() -> Path:
        open_run(out, resolved, data, val, resume)
        sheet = out / "examples.jpg"
        write_image(sheet, examples_sheet(examples))
        log.info(
            "training %s %s at %dx%d on %d objects of %d groups, validating on %d, where the mean shape has an NME of "
            "%.2f %%; augmented samples: %s",
            recipe.backbone, recipe.head, *recipe.input_size, len(data), len(data.groups), len(val),
            100 * run.baseline.nme.mean, sheet,
        )  # fmt: skip
        if world_of(recipe) is None:
            run_all(_fit, (run, shape, weights, examples, resume), processes(recipe))
        else:
            training.fit(run, network, examples, resume=resume)
        _learn_of(run, skeleton, "" if fold else MORE_TO_FIT_SIGMA)
        _speak_of_the_end(run)
        return run.model

    return go


def _fit(run: Run, shape: np.ndarray, weights: Path | None, examples: Examples, resume: bool) -> None:
    """One of several processes that train."""
    training = _training(run.recipe.framework)
    training.fit(run, training.new_network(run.recipe, run.spec, shape, weights), examples, resume=resume)


def _learn_of(run: Run, skeleton: Skeleton, advice: str) -> None:
    """After training: learn from the validation set what scores mean, and warn of labels that flips contradict."""
    recipe = run.recipe
    told = ""
    for path in (run.out / "last.safetensors", run.model):
        predictor = Predictor(path, threads=recipe.threads or None, device=recipe.device)
        predictions = predict_dataset(predictor, run.val)
        told = write_confidence(predictor, run.val, predictions, advice)
    log.info("%s", told)
    if skeleton.mirror is not None and recipe.flip_p:
        report = flip_report(predictor, run.val, skeleton.mirror, plain=predictions)
        if doubt := flip_doubt(report, recipe.flip_offset):
            log.warning("%s", doubt)


def _speak_of_the_end(run: Run) -> None:
    """Warn of a model that is no better than what needs none."""
    best, mean_shape_nme = (read_spec(run.model).report or {})["nme"], run.baseline.nme.mean
    if no_better(best, mean_shape_nme):
        log.warning(
            "%s is no better than the mean shape: the best epoch's val NME is %.2f %%, and giving the mean of the "
            "training labels for every crop has %.2f %%; look at %s, the labels, epochs, lr and the loss",
            run.model, 100 * best, 100 * mean_shape_nme, run.out / "examples.jpg",
        )  # fmt: skip


def _cached(recipe: Recipe, examples: Examples) -> bool:
    """Whether decoded images are kept in memory; said where keylite chose it."""
    if recipe.cache != "auto":
        return recipe.cache == "ram"
    free = free_memory()
    if free is None:
        return False
    needed = kept_bytes(examples) * recipe.devices
    if needed > SHARE_OF_MEMORY * free:
        return False
    log.info("decoded images are kept in memory: about %.2f of %.1f GB free; --cache off leaves that out",
             needed / 1e9, free / 1e9)  # fmt: skip
    return True


def _training(framework: str) -> Any:
    """The training module of a framework; where that is not installed, the error names one that is."""
    package = next(kind.package for kind in ENGINES.values() if kind.framework == framework)
    try:
        if importlib.util.find_spec(package) is None:  # the framework itself, before all that comes with it
            return require(package, FRAMEWORKS[framework])
        return require(f"keylite.{framework}.training", FRAMEWORKS[framework])
    except ModuleNotFoundError as error:
        kinds = [kind for kind in ENGINES.values() if kind.framework not in ("", framework)]
        there = [kind.framework for kind in kinds if importlib.util.find_spec(kind.package)]
        hint = f", or train with --framework {there[0]}, which is" if there else ""
        raise ModuleNotFoundError(f"{error}{hint}", name=error.name) from None


def _speak_of_parts(recipe: Recipe, data: Dataset, val: Dataset) -> None:
    """Refuse parts that do not go together, and warn of a split that cannot do what it seems to."""
    if data.skeleton.names != val.skeleton.names:
        raise ValueError(
            f"val: {len(val.skeleton)} keypoints {_brief(val.skeleton)}, training data has {len(data.skeleton)} "
            f"{_brief(data.skeleton)}; both must name the same keypoints in the same order"
        )
    for part in (data, val):
        crop_boxes(part, recipe.box)  # refused before any image is read
    if recipe.normalize != "auto":  # its grammar alone
        normaliser(recipe.normalize, val.xy, np.tile([0.0, 0, 1, 1], (len(val), 1)), val.skeleton.names)
    if min(recipe.batch, len(data)) == 1 and max(recipe.input_size) <= 32:
        raise ValueError("batch: one object of 32 px leaves normalisation a single value; use a batch of 2, or size 64")
    shared = data.shared_groups(val)
    if data.fingerprint() == val.fingerprint():
        log.warning(
            "val (%s) holds the same labelled images as the training data (%s): its figures will flatter, and no "
            "honest choice of epoch is possible; give other images as --val, or leave --val out",
            val.called, data.called,
        )  # fmt: skip
    elif shared:
        line = f"val shares {len(shared)} groups with the training data: its figures, and sigma by it, will flatter"
        log.warning(listed(line, shared))


def _speak_of_alike(data: Dataset, val: Dataset) -> None:
    """Warn of pictures that both parts show, whatever they are called."""
    if data.likeness is None or val.likeness is None or data.fingerprint() == val.fingerprint():
        return
    same = alike(val.likeness, data.likeness)
    what = f"of val ({val.called}) are in the training data, too"
    speak_of_alike(same, what, val.image_names, data.image_names)


def speak_of_alike(same: Alike, what: str, names: Sequence[str], others: Sequence[str]) -> None:
    """Warn of pictures held out that are trained on, by their names and those of what they are like."""
    numbers = np.flatnonzero(same.other >= 0)
    if len(numbers) == 0:
        return
    equal = int(same.equal.sum())
    kinds = {"equal": equal, "nearly equal": len(numbers) - equal}
    told = " and ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    pairs = [f"{names[i]} {'=' if same.equal[i] else '~'} {others[same.other[i]]}" for i in numbers[:SHOWN].tolist()]
    line = f"{len(numbers)} of {len(names)} pictures {what} ({told}): figures will flatter"
    log.warning(
        "%s; hold out whole subjects and clips (--group), and whole runs of the frames of one video (--group block:N, "
        "or --folds N --blocks)", listed(line, pairs, len(numbers)),
    )  # fmt: skip


def _speak_of_lengths(recipe: Resolved) -> None:
    """Warn of a recipe that cannot do what it seems to."""
    if recipe.warmup_epochs >= recipe.epochs:
        log.warning(
            "the warm-up (%g epochs) is as long as the run (%d epochs): the learning rate never reaches lr; lower "
            "warmup_epochs", recipe.warmup_epochs, recipe.epochs,
        )  # fmt: skip
    if recipe.freeze_epochs and recipe.pretrained == "none":
        log.warning(
            "the backbone is frozen at random weights (pretrained none, freeze_epochs %d)", recipe.freeze_epochs
        )
    if recipe.freeze_epochs >= recipe.epochs:
        log.warning("the backbone stays frozen for the whole run (freeze_epochs %d)", recipe.freeze_epochs)


def _brief(skeleton: Skeleton) -> str:
    names = skeleton.names
    return f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _with_mirror(recipe: Recipe, data: Dataset) -> Skeleton:
    """The skeleton with the mirror that training will use, said aloud."""
    skeleton = data.skeleton
    if recipe.mirror == "off":
        log.info("mirror: off, as the recipe says; no image is flipped")
        return msgspec.structs.replace(skeleton, mirror=None)
    given = None if isinstance(recipe.mirror, str) else from_pairs(recipe.mirror, skeleton.names)
    long = len(data) * len(skeleton) > 50_000  # points, which take over a second
    with step("looking for what a flip swaps") if long else contextlib.nullcontext():
        mirror = choose_mirror(data, given, recipe.seed)
    log.log(logging.WARNING if mirror.warning else logging.INFO, "%s", mirror.line)
    skeleton = msgspec.structs.replace(skeleton, mirror=mirror.permutation)
    if skeleton.mirror is not None:
        log.info("mirror pairs: %s", ", ".join(f"{a}-{b}" for a, b in skeleton.mirror_pairs()) or "none, all central")
    return skeleton


def augmentation_of(recipe: Resolved, skeleton: Skeleton) -> Augmentation:
    """The recipe's augmentation in its strength; no flip without mirror pairs."""
    choices = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Augmentation)}
    choices |= strengthened(recipe)
    return Augmentation(**choices | ({"flip_p": 0.0} if skeleton.mirror is None else {}))


def new_spec(recipe: Resolved, data: Dataset, skeleton: Skeleton, shape: np.ndarray) -> ModelSpec:
    """The description of a model that this recipe makes from this data, without figures yet. shape: the mean one."""
    model = require(f"keylite.{recipe.framework}.model", FRAMEWORKS[recipe.framework])
    mean, std = model.normalisation(recipe.backbone)
    return ModelSpec(
        format=FORMAT,
        backbone=recipe.backbone,
        size=recipe.input_size,
        box=recipe.box,
        padding=recipe.padding if recipe.box == "annotation" else 0.0,  # a whole image does not grow
        head=HEADS[recipe.head](len(skeleton), recipe.hidden, recipe.input_size),
        skeleton=skeleton,
        normalize=recipe.normalize,
        mean=mean,
        std=std,
        white_level=data.white_level,
        precision="fp32",
        calibration=None,
        provenance=Provenance(
            keylite=__version__,
            created=now(),
            framework=recipe.framework,
            pretrained=_pretrained_name(recipe.pretrained),
            data=data.name,
            data_fingerprint=data.fingerprint(),
            recipe=to_dict(recipe) | {"pretrained": _pretrained_name(recipe.pretrained)},
            versions=versions(),
            parent=None,
        ),
        mean_shape=tuple((x, y) for x, y in shape.astype(np.float64).tolist()),
        report=None,
        confidence=None,
        certificate=None,
        unlearnt=hardly_labelled(data),
    )


def _pretrained_name(pretrained: str) -> str:
    """A model file names the weights it started from by file name and hash, never by a path of the training machine."""
    if pretrained in ("imagenet", "none"):
        return pretrained
    path = Path(pretrained)
    return f"{path.name} sha256 {sha256(path)}" if path.is_file() else path.name


def examples_sheet(examples: Examples) -> np.ndarray:
    """A contact sheet of augmented examples with their points drawn: look at it before a long run."""
    width, height = examples.size
    enlarge = max(1, round(224 / max(width, height)))
    tiles = []
    for index in np.linspace(0, len(examples) - 1, min(SHEET, len(examples))).astype(int):
        pixels, unit_xy, weight = examples[int(index)]
        large = cv2.resize(pixels, (width * enlarge, height * enlarge), interpolation=cv2.INTER_CUBIC)
        xy = np.where(weight[:, None] > 0, unit_xy, np.nan) * (width * enlarge, height * enlarge)
        tiles.append(draw_points(large, xy, examples.dataset.skeleton))
    return contact_sheet(tiles, 4)
