"""The verbs: train, export with its gate, benchmark. Evaluation and prediction are verbs of their own modules.

Frameworks are named in one table and imported when chosen.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import itertools
import logging
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

import keylite
from keylite.data.dataset import Dataset, listed
from keylite.data.examples import Augmentation, Examples
from keylite.data.mirror import choose_mirror, from_pairs
from keylite.draw import contact_sheet, draw_points
from keylite.evaluation import Predictions, Report, evaluate, normaliser
from keylite.pretrained import find_pretrained
from keylite.recipe import Recipe, make_recipe, to_dict
from keylite.run import Run, baseline_report, check_run, open_run
from keylite.runtime.engines import require
from keylite.runtime.files import require_writable, sha256, write_bytes, write_text
from keylite.runtime.heads import HEADS
from keylite.runtime.images import MAX_MEGAPIXELS, read_image, write_image
from keylite.runtime.modelfile import read_spec
from keylite.runtime.predictor import Predictor
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import FORMAT, ModelSpec, Provenance

log = logging.getLogger("keylite")

FRAMEWORKS = {"pytorch": "pytorch"}  # framework: the extra that installs it, also its package here
EXPORTERS = {"onnx": "pytorch"}  # format: the framework that makes it
DRIFT_BUDGET = {"fp32": 0.02}  # p95 px for an input of 128 px
SHEET = 16  # augmented examples on the contact sheet
VERSIONS = ("torch", "timm", "lightning", "onnx", "onnxruntime", "numpy", "opencv-python-headless")


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

    Beside it: last.safetensors, resume.ckpt, recipe.yaml, data.json, examples.jpg (augmented samples), log.csv,
    curves.png, tensorboard/. resume: go on where a run in `out` stopped. skip_bad: leave unreadable images out.
    Raises ValueError for data, recipe or folder that do not go together, KeyboardInterrupt after a clean stop.
    """
    out = Path(out)
    recipe = make_recipe(to_dict(recipe))  # a Recipe made in Python has not been checked yet
    training = require(f"keylite.{recipe.framework}.training", FRAMEWORKS[recipe.framework])
    check_run(out, recipe, resume, overwrite)
    _speak_of(recipe, data, val)
    data = data.check_images(max_megapixels, skip_bad)
    val = val.check_images(max_megapixels, skip_bad)
    for part in (data, val):
        for note in part.notes:
            log.info("%s: %s", part.name, note)
    skeleton = _with_mirror(recipe, data)
    data, val = data.with_skeleton(skeleton), val.with_skeleton(skeleton)
    examples = Examples(
        data,
        recipe.input_size,
        box=recipe.box,
        padding=recipe.padding,
        augmentation=augmentation_of(recipe, skeleton),
        seed=recipe.seed,
        cache=recipe.cache == "ram",
    )
    shape = examples.mean_shape()
    spec = new_spec(recipe, data, skeleton)
    going_on = resume and (out / "resume.ckpt").is_file()
    weights = None if going_on else find_pretrained(recipe.pretrained, recipe.backbone)
    network = training.new_network(recipe, spec, shape, weights)
    baseline = baseline_report(shape, spec, val)
    open_run(out, recipe, data, val, resume)
    write_image(out / "examples.jpg", examples_sheet(examples))
    log.info(
        "training %s %s at %dx%d on %d objects of %d groups, validating on %d; augmented samples: %s",
        recipe.backbone, recipe.head, *recipe.input_size, len(data), len(data.groups), len(val), out / "examples.jpg",
    )  # fmt: skip
    run = Run(recipe, spec, val, out, baseline)
    training.fit(run, network, examples, resume=resume)
    return run.model


def _speak_of(recipe: Recipe, data: Dataset, val: Dataset) -> None:
    """Refuse parts that do not go together, and warn of a recipe or a split that cannot do what it seems to."""
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
    if shared:
        log.warning(listed(f"val shares {len(shared)} groups with the training data: its figures will flatter", shared))
    if recipe.warmup_epochs >= recipe.epochs:
        log.warning(
            "the warm-up (%g epochs) is as long as the run (%d epochs): the learning rate never reaches lr; lower "
            "warmup_epochs", recipe.warmup_epochs, recipe.epochs,
        )  # fmt: skip
    if recipe.freeze_epochs >= recipe.epochs:
        log.warning("the backbone stays frozen for the whole run (freeze_epochs %d)", recipe.freeze_epochs)


def _brief(skeleton: Skeleton) -> str:
    names = skeleton.names
    return f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _with_mirror(recipe: Recipe, data: Dataset) -> Skeleton:
    """The skeleton with the mirror that training will use, said aloud."""
    skeleton = data.skeleton
    if recipe.mirror == "off" or recipe.flip_p == 0:
        log.info("mirror: off, as the recipe says; no image is flipped")
        return msgspec.structs.replace(skeleton, mirror=None)
    given = None if isinstance(recipe.mirror, str) else from_pairs(recipe.mirror, skeleton.names)
    mirror = choose_mirror(data, given, recipe.seed)
    log.log(logging.WARNING if mirror.warning else logging.INFO, "%s", mirror.line)
    skeleton = msgspec.structs.replace(skeleton, mirror=mirror.permutation)
    if skeleton.mirror is not None:
        log.info("mirror pairs: %s", ", ".join(f"{a}-{b}" for a, b in skeleton.mirror_pairs()) or "none, all central")
    return skeleton


def augmentation_of(recipe: Recipe, skeleton: Skeleton) -> Augmentation:
    """The recipe's augmentation; no flip without mirror pairs."""
    choices = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Augmentation)}
    return Augmentation(**choices | ({"flip_p": 0.0} if skeleton.mirror is None else {}))


def new_spec(recipe: Recipe, data: Dataset, skeleton: Skeleton) -> ModelSpec:
    """The description of a model that this recipe makes from this data, without figures yet."""
    model = require(f"keylite.{recipe.framework}.model", FRAMEWORKS[recipe.framework])
    mean, std = model.normalisation(recipe.backbone)
    return ModelSpec(
        format=FORMAT,
        backbone=recipe.backbone,
        size=recipe.input_size,
        box=recipe.box,
        padding=recipe.padding,
        head=HEADS[recipe.head](len(skeleton), recipe.hidden, recipe.input_size),
        skeleton=skeleton,
        normalize=recipe.normalize,
        mean=mean,
        std=std,
        precision="fp32",
        provenance=Provenance(
            keylite=keylite.__version__,
            created=_now(),
            framework=recipe.framework,
            pretrained=_pretrained_name(recipe.pretrained),
            data=data.name,
            data_fingerprint=data.fingerprint(),
            recipe=to_dict(recipe) | {"pretrained": _pretrained_name(recipe.pretrained)},
            versions=versions(),
            parent=None,
        ),
        report=None,
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


def versions() -> dict[str, str]:
    """Versions of the packages that a model file or a figure depends on."""
    found = {"keylite": keylite.__version__, "python": platform.python_version()}
    for package in VERSIONS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# ---- export


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Distances between a child's points and its parent's, px of the model input."""

    p50: float
    p95: float
    max: float


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an export cost: the child's points held to its parent's on the same images.

    drift: over all points of all objects, px of the model input; per_keypoint: the same by name. nme: fractions.
    """

    child: str
    child_sha256: str
    parent: str
    parent_sha256: str
    precision: str
    size: tuple[int, int]
    budget: float
    within_budget: bool
    drift: Drift
    per_keypoint: dict[str, Drift]
    nme_parent: float
    nme_child: float
    normalize: str
    count: int
    dataset: str
    dataset_fingerprint: str
    bytes: int
    created: str
    versions: dict[str, str]


class OverBudgetError(Exception):
    """An export moved points further than its budget allows; nothing was kept. `certificate` holds the figures."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(
            f"refused: p95 drift {certificate.drift.p95:.4g} px is over the budget of {certificate.budget:g} px "
            f"(NME {100 * certificate.nme_parent:.2f} % -> {100 * certificate.nme_child:.2f} %); nothing was written"
        )
        self.certificate = certificate


def export(
    model: Path | str, data: Dataset, out: Path | str, *, to: str = "onnx", budget: float | None = None
) -> Certificate:
    """Write a model file in another format, once it has been held to its parent on `data`.

    budget: p95 px of the model input; None takes DRIFT_BUDGET, scaled to the input. The certificate lies beside the
    file as JSON and markdown. Raises OverBudgetError, keeping nothing; ValueError for a format that nothing makes.
    """
    model, out = Path(model), Path(out)
    if to not in EXPORTERS:
        raise ValueError(f"to: expected one of {', '.join(EXPORTERS)}, got {to!r}")
    exporting = require(f"keylite.{EXPORTERS[to]}.exporting", FRAMEWORKS[EXPORTERS[to]])
    spec = read_spec(model)
    if model.suffix != ".safetensors":
        raise ValueError(f"{model}: exports start from a .safetensors model file")
    if out.suffix != exporting.SUFFIX:
        raise ValueError(f"out: expected a name that ends in {exporting.SUFFIX}, got {out.name!r}")
    if budget is not None and not budget > 0:
        raise ValueError(f"budget: expected px above 0, got {budget}")
    precision = "fp32"
    budget = budget if budget is not None else DRIFT_BUDGET[precision] * max(spec.size) / 128
    parent_sha = sha256(model)
    provenance = msgspec.structs.replace(spec.provenance, created=_now(), versions=versions(), parent=parent_sha)
    child_spec = msgspec.structs.replace(spec, precision=precision, provenance=provenance)
    require_writable(out.parent)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / out.name
        exporting.export(model, made, child_spec)
        certificate = certify(made, model, data, budget=budget)
        if not certificate.within_budget:
            raise OverBudgetError(certificate)
        page = certificate_path(out)
        write_text(page, msgspec.json.format(msgspec.json.encode(certificate), indent=2).decode())
        write_text(page.with_suffix(".md"), certificate_page(certificate))
        write_bytes(out, made.read_bytes())  # last: no file lies there without its certificate
    return certificate


def certify(child: Path, parent: Path, data: Dataset, *, budget: float) -> Certificate:
    """Hold a child to its parent: both predict `data`, and every point's distance counts."""
    found: dict[Path, Predictions] = {}
    reports: dict[Path, Report] = {}
    for path in (parent, child):
        predictor = Predictor(path, device="cpu")  # a GPU's short cuts (TF32) are not the file's doing
        reports[path] = evaluate(predictor, data, on_predictions=lambda p, path=path: found.update({path: p}))
    spec = read_spec(child)
    moved = (found[child].unit_xy - found[parent].unit_xy) * np.asarray(spec.size)
    distance = np.hypot(moved[..., 0], moved[..., 1])
    drift = _drift(distance)
    return Certificate(
        child=child.name,
        child_sha256=sha256(child),
        parent=parent.name,
        parent_sha256=sha256(parent),
        precision=spec.precision,
        size=spec.size,
        budget=budget,
        within_budget=drift.p95 <= budget,
        drift=drift,
        per_keypoint={name: _drift(distance[:, k]) for k, name in enumerate(spec.skeleton.names)},
        nme_parent=reports[parent].nme.mean,
        nme_child=reports[child].nme.mean,
        normalize=reports[child].nme.normalize,
        count=len(data),
        dataset=data.name,
        dataset_fingerprint=data.fingerprint(),
        bytes=child.stat().st_size,
        created=_now(),
        versions=versions(),
    )


def _drift(distance: np.ndarray) -> Drift:
    p50, p95, largest = np.percentile(distance, (50, 95, 100)).tolist()
    return Drift(p50, p95, largest)


def certificate_path(model: Path) -> Path:
    """Where the certificate of an exported file lies."""
    return model.with_name(f"{model.name}.certificate.json")


def certificate_doubt(model: Path) -> str | None:
    """A line where the certificate beside a file is of another file or cannot be read; None where all is well."""
    path = certificate_path(Path(model))
    if not path.is_file():
        return None
    try:
        certificate = msgspec.json.decode(path.read_bytes(), type=Certificate)
    except msgspec.DecodeError as error:
        return f"{path.name}: not a certificate: {error}"
    if certificate.child_sha256 != sha256(model):
        return f"{path.name} is the certificate of another file than {Path(model).name}: its figures do not hold here"
    return None


def certificate_page(certificate: Certificate) -> str:
    """The certificate as a page of markdown."""
    c = certificate
    rows = [("all points", c.drift), *c.per_keypoint.items()]
    table = "\n".join(f"| {name} | {d.p50:.4f} | {d.p95:.4f} | {d.max:.4f} |" for name, d in rows)
    return f"""# {c.child}: held to {c.parent}

{"Accepted" if c.within_budget else "Refused"}: p95 drift {c.drift.p95:.4f} px of a {c.size[0]}x{c.size[1]} input,
budget {c.budget:g} px.
NME ({c.normalize}) {100 * c.nme_parent:.3f} % -> {100 * c.nme_child:.3f} % on {c.count} objects of {c.dataset}.

| keypoint | p50 px | p95 px | max px |
|---|---|---|---|
{table}

- child sha256 `{c.child_sha256}`, {c.bytes} bytes, {c.precision}
- parent sha256 `{c.parent_sha256}`
- data fingerprint `{c.dataset_fingerprint}`
- {", ".join(f"{name} {version}" for name, version in c.versions.items())}; {c.created}
"""


# ---- benchmark

STAGES = ("read", "crop", "engine", "decode")


def benchmark(
    models: list[Path | str], *, threads: int = 1, runs: int = 50, image: Path | str | None = None
) -> dict[str, Any]:
    """Milliseconds of each stage for each file, the files taking turns: median, p10 and p90 over `runs`.

    image: a file to read; None makes a 640x480 JPEG. Says which machine and how many threads.
    """
    if runs < 3:
        raise ValueError(f"runs: expected at least 3, got {runs}")
    if image is None:
        noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
        source: Any = cv2.imencode(".jpg", cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC))[1].tobytes()
    else:
        source = Path(image).read_bytes()
    predictors = {str(path): Predictor(path, threads=threads) for path in models}
    times: dict[str, dict[str, list[float]]] = {name: {stage: [] for stage in STAGES} for name in predictors}
    cv_threads = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        for turn in range(runs + 3):
            for name, predictor in predictors.items():
                marks = _timed(predictor, source)
                if turn >= 3:  # the first ones warm up
                    for stage, seconds in zip(STAGES, marks, strict=True):
                        times[name][stage].append(1e3 * seconds)
    finally:
        cv2.setNumThreads(cv_threads)
    return {
        "machine": processor(),
        "threads": threads,
        "runs": runs,
        "image": str(image) if image else "640x480 JPEG, made",
        "versions": versions(),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # of the whole process
        "models": {
            name: {
                "engine": predictor.engine_name,
                "size": list(predictor.spec.size),
                "bytes": Path(name).stat().st_size,
                "ms": {stage: _spread(values) for stage, values in times[name].items()}
                | {"total": _spread([sum(row) for row in zip(*times[name].values(), strict=True)])},
            }
            for name, predictor in predictors.items()
        },
    }


def _timed(predictor: Predictor, source: bytes) -> list[float]:
    marks = [time.perf_counter()]
    pixels = read_image(source)
    marks.append(time.perf_counter())
    crop = predictor.crops(pixels)[0]
    batch = crop.warp(pixels)[None]
    marks.append(time.perf_counter())
    raw = predictor.engine(batch)
    marks.append(time.perf_counter())
    unit_xy, _ = predictor.spec.head.decode(raw)
    crop.from_unit(unit_xy[0])
    marks.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(marks)]


def _spread(values: list[float]) -> dict[str, float]:
    p10, p90 = np.percentile(values, (10, 90)).tolist()
    return {"median": float(np.median(values)), "p10": p10, "p90": p90}


def processor() -> str:
    """The processor's model name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
