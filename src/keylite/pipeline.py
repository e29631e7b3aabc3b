"""The verbs that make files: train, and export with its gate.

Frameworks are named in one table and imported when chosen.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np

import keylite
from keylite.certificate import (
    Certificate,
    Latency,
    OverBudgetError,
    certificate_path,
    certify,
    require_budgets,
    summary,
    write_certificate,
)
from keylite.confidence import learn_confidence
from keylite.data.dataset import Dataset, listed
from keylite.data.examples import Augmentation, Examples
from keylite.data.mirror import choose_mirror, from_pairs
from keylite.draw import contact_sheet, draw_points
from keylite.environment import now, processor, versions
from keylite.evaluation import Predictions, predict_dataset
from keylite.flips import flip_doubt, flip_report
from keylite.metrics import normaliser
from keylite.pretrained import find_pretrained
from keylite.quantize import COUNT, CalibrationSet, calibration_set, range_doubt, some_crops
from keylite.recipe import Recipe, Resolved, make_recipe, strengthened, to_dict
from keylite.reliability import reliability_rows
from keylite.run import Run, baseline_report, check_resumed, check_run, open_run, resolve
from keylite.runtime.engines import ENGINES, FRAMEWORKS, require
from keylite.runtime.files import require_writable, sha256, write_bytes
from keylite.runtime.heads import HEADS
from keylite.runtime.images import MAX_MEGAPIXELS, write_image
from keylite.runtime.modelfile import describe_safetensors, read_spec
from keylite.runtime.predictor import Predictor
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import FORMAT, ModelSpec, Provenance
from keylite.timing import engine_ratio

log = logging.getLogger("keylite")


class Exporter(NamedTuple):
    """What makes a format: the framework whose package here has `exporting`, and the precisions that it knows."""

    framework: str
    precisions: tuple[str, ...]


EXPORTERS = {
    "onnx": Exporter("pytorch", ("fp32", "int8")),
    "litert": Exporter("tensorflow", ("fp32", "fp16", "int8")),
}
DRIFT_BUDGET = {"fp32": 0.02, "fp16": 0.1, "int8": 1.0}  # p95 px for an input of 128 px
SHEET = 16  # augmented examples on the contact sheet


# ---- train


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
) -> Path:
    """Train a model and give the path of its file, `out/model.safetensors`: the best epoch by val NME.

    What the recipe leaves to auto is settled by the number of objects in `data`. Beside the model: last.safetensors,
    resume.ckpt, recipe.yaml, data.json, examples.jpg (augmented samples), log.csv, curves.png, tensorboard/.
    resume: go on where a run in `out` stopped. skip_bad: leave unreadable images out.
    Raises ValueError for data, recipe or folder that do not go together, KeyboardInterrupt after a clean stop.
    """
    return prepare(
        recipe,
        data,
        val,
        Path(out),
        resume=resume,
        overwrite=overwrite,
        skip_bad=skip_bad,
        max_megapixels=max_megapixels,
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
) -> Callable[[], Path]:
    """`train` up to where it begins to write: a function that trains. Whatever can be refused is refused here."""
    recipe = make_recipe(to_dict(recipe))  # a Recipe made in Python has not been checked yet
    check_run(out, recipe, resume, overwrite)
    training = _training(recipe.framework)
    _speak_of_parts(recipe, data, val)
    data = data.check_images(max_megapixels, skip_bad)
    val = val.check_images(max_megapixels, skip_bad)
    for part in (data, val):
        for note in part.notes:
            log.info("%s: %s", part.name, note)
    resolved = resolve(recipe, len(data))
    _speak_of_lengths(resolved)
    if resume:
        check_resumed(out, resolved, data, val)
    skeleton = _with_mirror(recipe, data)
    data, val = data.with_skeleton(skeleton), val.with_skeleton(skeleton)
    examples = Examples(
        data,
        recipe.input_size,
        box=recipe.box,
        padding=recipe.padding,
        augmentation=augmentation_of(resolved, skeleton),
        seed=recipe.seed,
        cache=recipe.cache == "ram",
    )
    shape = examples.mean_shape()
    spec = new_spec(resolved, data, skeleton)
    going_on = resume and (out / "resume.ckpt").is_file()
    weights = None if going_on else find_pretrained(recipe.pretrained, recipe.backbone)
    network = training.new_network(resolved, spec, shape, weights)
    run = Run(resolved, spec, val, out, baseline_report(shape, spec, val))

    def go() -> Path:
        open_run(out, resolved, data, val, resume)
        sheet = out / "examples.jpg"
        write_image(sheet, examples_sheet(examples))
        log.info(
            "training %s %s at %dx%d on %d objects of %d groups, validating on %d; augmented samples: %s",
            recipe.backbone, recipe.head, *recipe.input_size, len(data), len(data.groups), len(val), sheet,
        )  # fmt: skip
        training.fit(run, network, examples, resume=resume)
        _learn_of(run, skeleton)
        return run.model

    return go


def _learn_of(run: Run, skeleton: Skeleton) -> None:
    """After training: learn from the validation set what scores mean, and warn of labels that flips contradict."""
    recipe = run.recipe
    for path in (run.out / "last.safetensors", run.model):
        predictor = Predictor(path, threads=recipe.threads or None, device=recipe.device)
        predictions = predict_dataset(predictor, run.val)
        told = _learn_scores(predictor, run.val, describe_safetensors, predictions)
    log.info("%s", told)
    if skeleton.mirror is not None and recipe.flip_p:
        report = flip_report(predictor, run.val, skeleton.mirror, plain=predictions)
        if doubt := flip_doubt(report, recipe.flip_offset):
            log.warning("%s", doubt)


def _learn_scores(
    predictor: Predictor,
    data: Dataset,
    describe: Callable[[Path, ModelSpec], None],
    predictions: Predictions | None = None,
) -> str:
    """Write into a predictor's file what its scores mean, learnt from half of `data`, and say how that holds."""
    learnt = learn_confidence(predictor, data, predictions)
    if learnt.confidence is None:
        kept = "the parent's is kept" if predictor.spec.confidence else "no sigma is fitted"
        return f"confidence: {kept}: {learnt.why}"
    describe(predictor.path, msgspec.structs.replace(predictor.spec, confidence=learnt.confidence))
    rows = "; ".join(f"{label} {value}" for label, value in reliability_rows(learnt.reliability))
    fitted = learnt.confidence.count
    return f"confidence: sigma fitted on {fitted} of {len(data)} objects of {data.name}; on the others {rows}"


def _training(framework: str) -> Any:
    """The training module of a framework; where that is not installed, the error names one that is."""
    try:
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
    normaliser(
        recipe.normalize, val.xy, np.tile([0.0, 0, 1, 1], (len(val), 1)), val.skeleton.names
    )  # its grammar alone
    if min(recipe.batch, len(data)) == 1 and max(recipe.input_size) <= 32:
        raise ValueError("batch: one object of 32 px leaves normalisation a single value; use a batch of 2, or size 64")
    shared = data.shared_groups(val)
    if data.fingerprint() == val.fingerprint():
        log.warning(
            "val (%s) holds the same labelled images as the training data (%s): its figures will flatter, and no "
            "honest choice of epoch is possible; give other images as --val, or leave --val out",
            val.source or val.name, data.source or data.name,
        )  # fmt: skip
    elif shared:
        log.warning(listed(f"val shares {len(shared)} groups with the training data: its figures will flatter", shared))


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


def new_spec(recipe: Resolved, data: Dataset, skeleton: Skeleton) -> ModelSpec:
    """The description of a model that this recipe makes from this data, without figures yet."""
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
        precision="fp32",
        calibration=None,
        provenance=Provenance(
            keylite=keylite.__version__,
            created=now(),
            framework=recipe.framework,
            pretrained=_pretrained_name(recipe.pretrained),
            data=data.name,
            data_fingerprint=data.fingerprint(),
            recipe=to_dict(recipe) | {"pretrained": _pretrained_name(recipe.pretrained)},
            versions=versions(),
            parent=None,
        ),
        report=None,
        confidence=None,
        certificate=None,
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


# ---- export


def export(
    model: Path | str,
    data: Dataset,
    out: Path | str,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    calibration: Dataset | None = None,
    calibration_count: int = COUNT,
    seed: int = 0,
    budget: float | None = None,
    budget_nme: float | None = None,
) -> Certificate:
    """Write a model file in another format, once it has been held to its parent on `data`.

    to: onnx or litert. precision: fp32, fp16 (litert) or int8, which takes its ranges from `calibration_count` objects
    of `calibration`, drawn with `seed`. budget: p95 px of the model input; None takes DRIFT_BUDGET, scaled to the
    input. budget_nme: most that the NME may rise, as a fraction of it; None is no limit. The certificate lies beside
    the file as JSON and markdown. Raises OverBudgetError, keeping nothing; ValueError for what nothing makes.
    """
    model, out = Path(model), Path(out)
    if to in EXPORTERS and out.suffix != ENGINES[to].suffix:
        ways = [name for name in EXPORTERS if ENGINES[name].suffix == out.suffix]
        hint = f", or choose --to {ways[0]}" if ways else ""
        raise ValueError(f"out: expected a name that ends in {ENGINES[to].suffix} for {to}, got {out.name!r}{hint}")
    spec = exportable(model, to, precision, calibration is not None, budget, budget_nme)
    images = None if calibration is None else calibration_set(spec, calibration, calibration_count, seed)
    require_writable(out.parent)
    with tempfile.TemporaryDirectory() as folder:
        reference = functools.cache(lambda: _reference(model, Path(folder)))
        return _export(model, spec, data, out, to, precision, images, (budget, budget_nme), reference)


def export_all(
    model: Path | str,
    data: Dataset,
    out: Path | str,
    *,
    calibration: Dataset | None = None,
    calibration_count: int = COUNT,
    seed: int = 0,
    budget: float | None = None,
    budget_nme: float | None = None,
) -> list[Certificate]:
    """Every format in every precision, as `OUT/NAME.PRECISION.SUFFIX`, with one certificate each.

    Arguments: see `export`. All are checked before the first file is made. A file that is refused is not there; its
    certificate says by what.
    """
    model, out = Path(model), Path(out)
    if calibration is None:
        raise ValueError("calibration: all precisions include int8, which takes its ranges from images; give them")
    wanted = [(to, precision) for to, kind in EXPORTERS.items() for precision in kind.precisions]
    for to, precision in wanted:
        exportable(model, to, precision, precision == "int8", budget, budget_nme)
    spec = read_spec(model)
    images = calibration_set(spec, calibration, calibration_count, seed)
    require_writable(out)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        reference = functools.cache(lambda: _reference(model, Path(folder)))
        for to, precision in wanted:
            made = out / f"{model.stem}.{precision}{ENGINES[to].suffix}"
            ours = images if precision == "int8" else None
            try:
                found.append(_export(model, spec, data, made, to, precision, ours, (budget, budget_nme), reference))
            except OverBudgetError as refusal:
                log.warning("%s", refusal)
                found.append(refusal.certificate)
    return found


def hold(
    child: Path | str,
    parent: Path | str,
    data: Dataset,
    *,
    budget: float | None = None,
    budget_nme: float | None = None,
) -> Certificate:
    """The certificate of an exported file again, on any data. budget: None takes that of its precision."""
    child, parent = Path(child), Path(parent)
    limit = default_budget(read_spec(child)) if budget is None else budget
    certificate = certify(child, parent, data, budget=limit, budget_nme=budget_nme)
    with tempfile.TemporaryDirectory() as folder:
        reference = _reference(parent, Path(folder)) if parent.suffix == ".safetensors" else None
        return msgspec.structs.replace(certificate, latency=_latency(child, reference))


def exportable(
    model: Path, to: str, precision: str, calibrated: bool, budget: float | None, budget_nme: float | None
) -> ModelSpec:
    """The spec of a model file that can be exported so; ValueError, or what is missing, where it cannot."""
    exporting = exporter(to, precision)
    spec = read_spec(model)
    if model.suffix != ".safetensors":
        raise ValueError(f"{model}: exports start from a .safetensors model file")
    require_budgets(budget, budget_nme)
    if calibrated != (precision == "int8"):
        raise ValueError(
            f"calibration: {precision} has no use for it"
            if calibrated
            else "calibration: int8 takes its ranges from images: give them (--calibration train.json)"
        )
    exporting.require_backbone(spec)
    return spec


def default_budget(spec: ModelSpec) -> float:
    """DRIFT_BUDGET for a file's precision and input: p95 px."""
    return DRIFT_BUDGET[spec.precision] * max(spec.size) / 128


def exporter(to: str, precision: str) -> Any:
    """The module that makes a format; ValueError for a format or precision that nothing makes."""
    if to not in EXPORTERS:
        raise ValueError(f"to: expected one of {', '.join(EXPORTERS)}, got {to!r}")
    framework, precisions = EXPORTERS[to]
    if precision not in precisions:
        others = [f"--to {name}" for name, kind in EXPORTERS.items() if precision in kind.precisions]
        hint = f"; {' or '.join(others)} makes it" if others else ""
        raise ValueError(f"precision: {to} is made in {', '.join(precisions)}, got {precision!r}{hint}")
    return require(f"keylite.{framework}.exporting", FRAMEWORKS[framework])


def _export(
    model: Path,
    spec: ModelSpec,
    data: Dataset,
    out: Path,
    to: str,
    precision: str,
    images: CalibrationSet | None,
    budgets: tuple[float | None, float | None],
    reference: Callable[[], Path | None],
) -> Certificate:
    """`export`, all of whose arguments are good. reference: gives the parent's fp32 ONNX to be timed by, or None."""
    exporting = exporter(to, precision)
    made_from = msgspec.structs.replace(spec.provenance, created=now(), versions=versions(), parent=sha256(model))
    facts = None if images is None else images.facts
    child_spec = msgspec.structs.replace(spec, precision=precision, calibration=facts, provenance=made_from)
    budget = default_budget(child_spec) if budgets[0] is None else budgets[0]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / out.name
        exporting.export(model, made, child_spec, images)
        if images is not None:
            doubt = range_doubt(exporting.watch(made, some_crops(spec, data)), images.facts, data.name)
            if doubt:
                log.warning("%s", doubt)
        log.info("%s", _learn_scores(Predictor(made, device="cpu"), data, exporting.describe))
        child_spec = read_spec(made)
        limits = {"budget": budget, "budget_nme": budgets[1]}
        certificate = certify(made, model, data, **limits, operators=exporting.operators(made))
        if not certificate.within_budget:
            raise OverBudgetError(certificate)
        exporting.describe(made, msgspec.structs.replace(child_spec, certificate=summary(certificate)))
        certificate = msgspec.structs.replace(
            certificate, child_sha256=sha256(made), bytes=made.stat().st_size, latency=_latency(made, reference())
        )
        write_certificate(certificate, certificate_path(out))
        write_bytes(out, made.read_bytes())  # last: no file lies there without its certificate
    return certificate


def _reference(parent: Path, folder: Path) -> Path | None:
    """The parent's fp32 ONNX, which all latencies are told by; None where PyTorch is not there to make it."""
    made = folder / "reference.onnx"
    try:
        exporter("onnx", "fp32").export(parent, made, read_spec(parent))
    except ModuleNotFoundError as error:
        log.info("no latency in the certificate: %s", error)
        return None
    return made


def _latency(made: Path, reference: Path | None) -> Latency | None:
    """A file's time beside the reference."""
    return None if reference is None else Latency(*engine_ratio(made, reference), processor())
