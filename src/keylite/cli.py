"""The command line: one function a verb, heavy imports inside; and the exit codes. cli_output.py has what a user reads.

0 done, 2 wrong input (one line, no traceback), 3 an export over its budget, 130 stopped by Ctrl-C.
`train` has a module of its own (cli_train.py), for its flags are made from the recipe.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

import keylite
from keylite.cli_output import (
    EXPORT_COLUMNS,
    Lines,
    certificate_line,
    export_row,
    figures_line,
    show_certificate,
    show_report,
    show_table,
)

if TYPE_CHECKING:
    from keylite.data.dataset import Dataset
    from keylite.evaluation import Predictions, Report
    from keylite.runtime.predictor import Keypoints, Predictor

log = logging.getLogger("keylite")

WORST = 16  # objects drawn
WRONG_INPUT, OVER_BUDGET, INTERRUPTED = 2, 3, 130

app = App(
    name="keylite",
    help="Keypoint regression on devices: labelled images -> train -> evaluate -> export -> the same points there.",
    default_parameter=Parameter(negative=""),
    suppress_keyboard_interrupt=False,
    version=keylite.__version__,
)
app.command("keylite.cli_train:train", name="train", help="Train a model on labelled images.")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How labelled images are read, the same for every verb that takes --data."""

    images: Annotated[Path | None, Parameter(help="folder of the images, where they do not lie beside the labels")] = (
        None
    )
    category: Annotated[str | None, Parameter(help="of a COCO file with several kinds of object")] = None
    group: Annotated[
        str, Parameter(help="what belongs together (subject, clip): auto, image, block:N, field:NAME or regex:PATTERN")
    ] = "auto"
    pixel_origin: Annotated[
        Literal["index", "corner"], Parameter(help="index: 0 is the centre of the first pixel; corner: its edge")
    ] = "index"
    max_megapixels: Annotated[float, Parameter(help="larger images are refused")] = 100.0
    skip_bad: Annotated[bool, Parameter(help="leave out images and annotations that cannot be used, and say which")] = (
        False
    )

    def labels(self, path: Path) -> Dataset:
        """The data set of a label file; its images are not looked at yet."""
        from keylite.data.formats import read_dataset

        return read_dataset(
            path,
            images=self.images,
            category=self.category,
            group=self.group,
            pixel_origin=self.pixel_origin,
            skip_bad=self.skip_bad,
        )

    def dataset(self, path: Path) -> Dataset:
        """The data set of a label file with every image read once, and what was skipped or replaced said."""
        dataset = self.labels(path).check_images(self.max_megapixels, self.skip_bad)
        for note in dataset.notes:
            log.info("%s: %s", dataset.name, note)
        return dataset


As = Annotated[Reading, Parameter(name="*")]


@app.command
def evaluate(
    model: Path,
    *,
    data: Path,
    normalize: str | None = None,
    boxes: Path | None = None,
    jitter_box: float = 0.0,
    seed: int = 0,
    sigmas: str | None = None,
    flips: bool = False,
    reliability: Path | None = None,
    engine: str | None = None,
    threads: int | None = None,
    parent: Path | None = None,
    budget: float | None = None,
    budget_nme: float | None = None,
    spec: Path | None = None,
    json_path: Annotated[Path | None, Parameter(name="--json")] = None,
    worst: int = WORST,
    draw: Path | None = None,
    reading: As = Reading(),
) -> None:
    """Measure a model file on labelled images: NME, PCK, AUC, pixel errors, by keypoint, with 95 % intervals.

    Parameters
    ----------
    model
        .safetensors, .onnx or .tflite
    data
        labelled images: COCO keypoints JSON, or CSV
    normalize
        NME divisor: a keypoint pair (36,45), box_diagonal, box_side, or 100px; default: the model's
    boxes
        JSON of boxes to use instead of the annotations': {"photo.jpg": [[x0, y0, x1, y1], ...]}
    jitter_box
        move and scale boxes by up to this fraction, to stand in for a detector
    seed
        of the jitter and the bootstrap
    sigmas
        OKS constants by keypoint, comma separated: adds OKS-AP
    flips
        hold the points to those of the mirrored images: how far labels sit beside their place, and what flips cost
    reliability
        PNG to draw: errors found against the sigma promised
    engine
        onnx, litert, pytorch or keras; default: the one that made the file, if it is installed
    threads
        of the engine; default: its own choice
    parent
        model file that MODEL was exported from: hold it to that one again, and show the certificate
    budget
        with --parent: most that 95 % of the points may move, px of the model input; default: as for keylite export
    budget_nme
        with --parent: most that the NME may rise, as a fraction of it; default: no limit
    spec
        JSON description of a file that holds none
    json_path
        write the report here, or with --parent the certificate, and its page of markdown beside it
    worst
        how many of the worst objects to draw
    draw
        folder for pictures of the worst objects
    """
    from keylite.certificate import certificate_doubt
    from keylite.data.boxes import dataset_boxes, read_boxes
    from keylite.draw import draw_worst
    from keylite.evaluation import evaluate
    from keylite.metrics import point_errors
    from keylite.runtime.predictor import Predictor

    if parent is None and (budget is not None or budget_nme is not None):
        raise ValueError("budget: holds a model to the one that it was exported from; give that as --parent")
    if parent:
        others = {"--normalize": normalize, "--boxes": boxes, "--jitter-box": jitter_box, "--sigmas": sigmas}
        others |= {"--engine": engine, "--threads": threads, "--spec": spec, "--draw": draw}
        others |= {"--flips": flips, "--reliability": reliability, "--seed": seed, "--worst": worst != WORST}
        if given := [flag for flag, value in others.items() if value]:
            raise ValueError(f"{given[0]}: has no effect with --parent, which compares files as they are; leave it out")
        _hold(model, parent, reading.dataset(data), budget, budget_nme, json_path)
        return
    predictor = Predictor(model, engine=engine, threads=threads, spec=spec)
    if doubt := certificate_doubt(model):
        log.warning("%s", doubt)
    dataset = reading.dataset(data)
    kept: list[Predictions] = []
    report = evaluate(
        predictor,
        dataset,
        normalize=normalize,
        boxes=dataset_boxes(read_boxes(boxes), dataset) if boxes else None,
        jitter_box=jitter_box,
        seed=seed,
        sigmas=numbers(sigmas, "sigmas") if sigmas else None,
        on_predictions=kept.append,
    )
    show_report(report)
    written = json.loads(report.to_json())
    if flips:
        written["flips"] = _flips(predictor, dataset, kept[0], report.nme.normalize, seed)
    if json_path:
        write_json(json_path, written)
    if reliability:
        _draw_reliability(model, report, reliability)
    if draw:
        errors = point_errors(kept[0].xy, dataset.xy)
        paths = draw_worst(dataset, kept[0], errors, worst, draw)
        print(f"worst objects drawn: {paths[0] if paths else 'none'}")


def _draw_reliability(model: Path, report: Report, path: Path) -> None:
    from keylite.plots import plot_reliability

    if report.confidence is None:
        raise ValueError(f"reliability: {model.name} gives no sigma; docs/evaluation.md says when one is fitted")
    plot_reliability({model.name: report.confidence}, path)
    print(f"wrote {path}")


def _flips(predictor: Predictor, data: Dataset, predictions: Predictions, normalize: str, seed: int) -> dict[str, Any]:
    """Show what flips cost, and give it for the JSON."""
    import msgspec

    from keylite.data.mirror import choose_mirror
    from keylite.flips import flip_report, flip_rows

    mirror = predictor.spec.skeleton.mirror
    if mirror is None:
        found = choose_mirror(data, None, seed)
        if found.permutation is None:
            raise ValueError(f"flips: neither the model nor the data says what a flip swaps: {found.line}")
        mirror = found.permutation
    report = flip_report(predictor, data, mirror, plain=predictions, normalize=normalize, seed=seed)
    show_table(["", ""], [list(row) for row in flip_rows(report)], None)
    return msgspec.to_builtins(report)


def _hold(
    model: Path, parent: Path, data: Dataset, budget: float | None, budget_nme: float | None, json_path: Path | None
) -> None:
    """Show a child's certificate on these data; exit 3 where it is over budget."""
    from keylite.certificate import over_budget, write_certificate
    from keylite.pipeline import hold

    certificate = hold(model, parent, data, budget=budget, budget_nme=budget_nme)
    for note in certificate.notes:
        log.warning("%s", note)
    show_certificate(certificate)
    if json_path:
        write_certificate(certificate, json_path)
    if past := over_budget(certificate):
        fail(past, OVER_BUDGET)


@app.command
def export(
    model: Path,
    *,
    data: Path,
    out: Path | None = None,
    to: str = "onnx",
    precision: str = "fp32",
    calibration: Path | None = None,
    calibration_count: int = 200,
    seed: int = 0,
    budget: float | None = None,
    budget_nme: float | None = None,
    golden: Path | None = None,
    diagnose: bool = False,
    reading: As = Reading(),
) -> None:
    """Write a model file in another format, held to its parent: refused where points move past the budget.

    Parameters
    ----------
    model
        .safetensors
    data
        labelled images on which parent and child are compared
    out
        file to write, or with --to all a folder; certificates are written beside the files
    to
        format: onnx, litert, or all of them in every precision
    precision
        fp32, fp16 (litert alone) or int8
    calibration
        labelled images that int8 takes its ranges from
    calibration_count
        how many of them, drawn at random
    seed
        of the drawing
    budget
        most that 95 % of the points may move, px of the model input; default at 128 px: fp32 0.02, fp16 0.1, int8 1
    budget_nme
        most that the NME may rise, as a fraction of it: 0.03 is 3 %; default: no limit
    golden
        folder for vectors to test a port with: inputs, raw outputs and points of some objects
    diagnose
        export nothing: show where int8 hurts, what was tried against it and the cheapest within the budget, or write
        that page to --out; takes minutes
    """
    from keylite.certificate import OverBudgetError, certificate_path
    from keylite.golden import write_golden
    from keylite.pipeline import export, export_all
    from keylite.runtime.files import require_writable

    if out is None and not diagnose:
        raise ValueError("out: expected a file to write, with --to all a folder: give it as --out")
    if diagnose and out and out.suffix != ".md":
        raise ValueError(
            f"out: --diagnose writes a page and no model: expected a name that ends in .md, got {out.name!r}"
        )
    if golden and (diagnose or to == "all"):
        raise ValueError("golden: is of one file that is made; leave out --diagnose and --to all")
    for folder in (golden, out.parent if out and diagnose else None):
        if folder:
            require_writable(folder)  # before minutes of work
    compared = reading.dataset(data)
    choices: dict[str, Any] = {
        "calibration": reading.dataset(calibration) if calibration else None,
        "calibration_count": calibration_count,
        "seed": seed,
        "budget": budget,
        "budget_nme": budget_nme,
    }
    if diagnose:
        given = {"data": data, "budget_nme": budget_nme}
        _diagnose(model, compared, out, choices | {"to": to, "precision": precision}, given, calibration, reading)
        return
    if to == "all":
        made = export_all(model, compared, out, **choices)
        show_table(list(EXPORT_COLUMNS), [export_row(certificate) for certificate in made], None)
        refused = [certificate for certificate in made if not certificate.within_budget]
        if refused:
            fail(f"refused: {', '.join(certificate.child for certificate in refused)}", OVER_BUDGET)
        return
    try:
        certificate = export(model, compared, out, to=to, precision=precision, **choices)
    except OverBudgetError as refusal:
        show_certificate(refusal.certificate)
        fail(str(refusal), OVER_BUDGET)
    show_certificate(certificate)
    page = certificate_path(out)
    print(f"wrote {out} ({certificate.bytes / 1e6:.1f} MB), {page.name} and {page.with_suffix('.md').name}")
    if golden:
        print(f"wrote {write_golden(out, compared, golden)}")


def _diagnose(
    model: Path,
    data: Dataset,
    out: Path | None,
    choices: dict[str, Any],
    given: dict[str, Any],
    calibration: Path | None,
    reading: Reading,
) -> None:
    """Show or write the page of a diagnosis, which ends with a command of the flags given."""
    from keylite.diagnosis import diagnose, diagnosis_page
    from keylite.runtime.files import write_text

    found = diagnose(model, data, **choices)
    command = None
    if found.recipe:
        flags = {"to": found.to, "precision": found.recipe.precision}
        if found.recipe.precision == "int8":
            flags |= {"calibration": calibration, "calibration-count": found.recipe.images, "seed": choices["seed"]}
        flags |= given | {"budget": found.budget} | dataclasses.asdict(reading)
        flags["out"] = f"{model.stem}.{found.recipe.precision}{found.suffix}"
        command = shlex.join(["keylite", "export", str(model), *as_flags(flags)])
    page = diagnosis_page(found, command)
    if out is None:
        print(page)
        return
    write_text(out, page)
    print(f"wrote {out}")


def as_flags(choices: dict[str, Any]) -> list[str]:
    """Choices as a command line; None, False and what a `Reading` does anyway are left out."""
    usual = dataclasses.asdict(Reading())
    flags = []
    for name, value in choices.items():
        if value is True:
            flags.append(f"--{name.replace('_', '-')}")
        elif value is not None and value is not False and (name not in usual or value != usual[name]):
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def _no_flag(type_: Any, value: str | None) -> None:
    """ValueError for a flag where a file name, or - for standard output, is expected."""
    if value and value != "-" and value.startswith("-"):
        raise ValueError(f"expected a file name or -, got {value}")


@app.command
def predict(
    model: Path,
    *inputs: Path,
    boxes: Path | None = None,
    json_path: Annotated[str | None, Parameter(name="--json", allow_leading_hyphen=True, validator=_no_flag)] = None,
    format: Literal["keylite", "coco"] = "keylite",
    draw: Path | None = None,
    engine: str | None = None,
    threads: int | None = None,
    spec: Path | None = None,
    max_megapixels: float = 100.0,
    skip_bad: bool = False,
) -> None:
    """Find the points in images.

    Parameters
    ----------
    model
        .safetensors, .onnx or .tflite
    inputs
        images and folders of images
    boxes
        JSON: {"photo.jpg": [[x0, y0, x1, y1], ...]}; without it each whole image is one object
    json_path
        write the points here; - is standard output, also without --json and --draw
    format
        keylite: continuous coordinates, corner origin; coco: COCO keypoints, pixel indices
    draw
        folder for the images with their points
    engine
        onnx, litert, pytorch or keras; default: the one that made the file, if it is installed
    threads
        of the engine; default: its own choice
    spec
        JSON description of a file that holds none
    max_megapixels
        larger images are refused
    skip_bad
        leave out images that cannot be read, and say which
    """
    from keylite.data.boxes import boxes_for, read_boxes
    from keylite.data.dataset import listed
    from keylite.draw import draw_points
    from keylite.points import points_coco, points_json
    from keylite.runtime.images import read_image, write_image
    from keylite.runtime.predictor import Predictor

    predictor = Predictor(model, engine=engine, threads=threads, max_megapixels=max_megapixels, spec=spec)
    json_path = json_path or (None if draw else "-")  # points must go somewhere
    paths = image_paths(inputs)
    boxes_by_path = boxes_for(paths, read_boxes(boxes)) if boxes else {}
    drawings = drawing_paths(paths, draw) if draw else {}
    if not boxes and predictor.spec.box == "annotation":
        log.warning("no --boxes: the model was trained on boxes, and each whole image is taken as one")
    bad = {}
    for path in paths:  # all are looked at before anything is made
        try:
            read_image(path, max_megapixels)
        except (ValueError, OSError) as error:
            bad[path] = str(error)
    if bad:
        line = listed(f"{len(bad)} of {len(paths)} images cannot be used", list(bad.values()))
        if not skip_bad:
            raise ValueError(f"{line}; mend them, or pass --skip-bad to leave them out")
        log.warning("skipped: %s", line)
    found: dict[str, Keypoints] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for path in (path for path in paths if path not in bad):
        image = read_image(path, max_megapixels)
        found[str(path)] = points = predictor(image, boxes_by_path.get(path))
        sizes[str(path)] = (image.shape[1], image.shape[0])
        if draw:
            for xy in points.xy:
                image = draw_points(image, xy, points.skeleton)
            draw.mkdir(parents=True, exist_ok=True)
            write_image(drawings[path], image)
    if json_path:
        skeleton = predictor.spec.skeleton
        result = points_coco(found, sizes, skeleton) if format == "coco" else points_json(found, skeleton.names, model)
        if json_path == "-":
            print(json.dumps(result))
            return
        write_json(Path(json_path), result)
    objects = sum(len(points) for points in found.values())
    written = ", ".join(str(place) for place in (json_path, draw) if place)
    print(f"{objects} objects in {len(found)} images{f': {written}' if written else ''}")


@app.command
def benchmark(
    *models: Path,
    threads: int = 1,
    runs: int = 50,
    image: Path | None = None,
    data: Path | None = None,
    normalize: str | None = None,
    plot: Path | None = None,
    spec: Path | None = None,
    json_path: Annotated[Path | None, Parameter(name="--json")] = None,
    reading: As = Reading(),
) -> None:
    """Milliseconds of each stage, read, crop, engine and decode, the files taking turns, and memory.

    Parameters
    ----------
    models
        model files
    threads
        of the engine
    runs
        measured turns
    image
        an image file to use; default: a 640x480 JPEG made for it
    data
        labelled images: adds the NME of each file, and a plot of it against the time
    normalize
        with --data: NME divisor; default: the models'
    plot
        with --data: PNG to write; default: benchmark.png, or as --json
    spec
        JSON description of files that hold none
    json_path
        write the figures here
    """
    import importlib.util

    from keylite.plots import plot_tradeoff
    from keylite.runtime.files import require_writable
    from keylite.timing import STAGES, benchmark

    if not models:
        raise ValueError("benchmark: expected model files, got none")
    if data is None and (normalize or plot):
        raise ValueError("benchmark: --normalize and --plot are for accuracy; give labelled images as --data")
    for path in (path for path in (plot, json_path) if path):
        require_writable(path.parent)
    can_plot = importlib.util.find_spec("matplotlib") is not None
    if plot and not can_plot:
        raise ModuleNotFoundError("plot: matplotlib is not installed: pip install matplotlib", name="matplotlib")
    if twice := [str(model) for model in models if models.count(model) > 1]:
        raise ValueError(f"benchmark: {twice[0]} is named twice; name each file once")
    accuracy = _accuracy(models, reading.dataset(data), normalize, threads, spec) if data else {}
    result = benchmark(list(models), threads=threads, runs=runs, image=image, spec=spec)
    for name, found in accuracy.items():
        result["models"][name]["accuracy"] = found
    stages = (*STAGES, "total")
    rows = [
        [name, facts["engine"], f"{facts['bytes'] / 1e6:.1f}"]
        + ["{median:.3f} ({p10:.3f}..{p90:.3f})".format(**facts["ms"][stage]) for stage in stages]
        + ["{before:.0f} to {peak:.0f}".format(**facts["memory"]) if facts["memory"] else ""]
        + ([f"{100 * accuracy[name]['nme']:.2f}"] if accuracy else [])
        for name, facts in result["models"].items()
    ]
    title = f"ms: median (p10..p90) of {runs} turns, {threads} thread(s), {result['machine']}, {result['image']}"
    columns = ["model", "engine", "MB", *stages, "memory MB", *(["NME %"] if accuracy else [])]
    show_table(columns, rows, title)
    if json_path:
        write_json(json_path, result)
    if accuracy and can_plot:
        plot = plot or (json_path.with_suffix(".png") if json_path else Path("benchmark.png"))
        plot_tradeoff(result, plot)
        print(f"wrote {plot}")
    elif accuracy:
        log.warning("no plot: matplotlib is not installed (pip install matplotlib)")


def _accuracy(
    models: tuple[Path, ...], dataset: Dataset, normalize: str | None, threads: int, spec: Path | None
) -> dict[str, dict[str, Any]]:
    """Each model's NME on these data, by the divisor that is given, or that all models have."""
    from keylite.evaluation import evaluate
    from keylite.runtime.predictor import Predictor

    predictors = {str(model): Predictor(model, threads=threads, spec=spec) for model in models}
    own = list(dict.fromkeys(predictor.spec.normalize for predictor in predictors.values()))
    if normalize is None and len(own) > 1:
        raise ValueError(f"normalize: these models have {', '.join(own)}, which do not compare; choose one")
    found = {}
    for name, predictor in predictors.items():
        report = evaluate(predictor, dataset, normalize=normalize)
        found[name] = {
            "data": report.dataset.name,
            "data_fingerprint": report.dataset.fingerprint,
            "count": report.nme.count,
            "normalize": report.nme.normalize,
            "nme": report.nme.mean,
            "nme_interval": report.nme.interval,
        }
    return found


@app.command
def info(
    model: Path, *, spec: Path | None = None, json_output: Annotated[bool, Parameter(name="--json")] = False
) -> None:
    """What a model file says of itself.

    Parameters
    ----------
    model
        .safetensors, .onnx or .tflite
    spec
        JSON description of a file that holds none
    json_output
        print the whole description as JSON
    """
    from keylite.certificate import certificate_doubt
    from keylite.runtime.files import sha256
    from keylite.runtime.modelfile import read_spec, tflite_model
    from keylite.runtime.spec import encode_spec

    said = read_spec(model, spec)
    if model.suffix.lower() == ".tflite":
        tflite_model(model)  # says where the file is damaged
    if json_output:
        print(json.dumps(json.loads(encode_spec(said)), indent=2))
        return
    if doubt := certificate_doubt(model):
        log.warning("%s", doubt)
    made = said.provenance
    names = said.skeleton.names
    rows = [
        ["file", f"{model.name}, {model.stat().st_size / 1e6:.1f} MB, {said.precision}, sha256 {sha256(model)}"],
        ["network", f"{said.backbone}, {type(said.head).__name__.lower()} head, {said.size[0]}x{said.size[1]} px"],
        ["input", f"uint8 RGB; normalised inside, (pixel - {said.mean[0]:g}) / {said.std[0]:g}"],
        ["crop", f"box {said.box}" + (f", grown by {said.padding:g}" if said.box == "annotation" else "")],
        ["keypoints", f"{len(names)}: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"],
        ["NME divisor", said.normalize],
        ["figures, as trained", figures_line(said.report) if said.report else "none"],
        ["trained on", f"{made.data}, fingerprint {made.data_fingerprint[:16]}, from {made.pretrained}"],
        ["parent", made.parent or "none: this is what training wrote"],
        ["ranges from", f"{k.count} objects of {k.data}, seed {k.seed}" if (k := said.calibration) else "none"],
        ["held to it", certificate_line(said.certificate) if said.certificate else "not exported"],
        ["made", f"{made.created} by keylite {made.keylite}, {made.framework}"],
    ]
    show_table(["", ""], rows, None)


@app.command
def gauges(out: Path, *, count: int = 1000, family: Literal["train", "test"] = "train", seed: int = 0) -> None:
    """Render the built-in data set: analogue gauges with four keypoints, as images and COCO JSON.

    Parameters
    ----------
    out
        folder to fill
    family
        test has looks of dial, needle, digits and background that train never shows
    """
    from keylite.data.formats import write_dataset
    from keylite.data.gauges import gauges

    print(f"wrote {count} gauges: {write_dataset(gauges(count, family, seed), out)}")


# ---- what handlers share


def drawing_paths(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Where each image is drawn: FOLDER/NAME_points.jpg. ValueError where two would be one file, or one is an input."""
    drawings: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    inputs = {path.resolve() for path in paths}
    for path in paths:
        drawing = folder / f"{path.stem}_points.jpg"
        if taken.setdefault(drawing, path) != path:
            raise ValueError(
                f"draw: {taken[drawing]} and {path} would both be drawn as {drawing}; draw them in two calls"
            )
        if drawing.resolve() in inputs:
            raise ValueError(f"draw: {drawing} is one of the images; choose another folder")
        drawings[path] = drawing
    return drawings


def numbers(text: str, what: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{what}: expected numbers separated by commas, got {text!r}") from None


def image_paths(inputs: tuple[Path, ...]) -> list[Path]:
    """Images as given, and those in the folders given, by name."""
    from keylite.runtime.images import IMAGE_SUFFIXES

    if not inputs:
        raise ValueError("predict: expected images or folders, got none")
    paths: list[Path] = []
    for entry in inputs:
        if entry.is_dir():
            inside = sorted(path for path in entry.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise ValueError(f"{entry}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
            paths += inside
        elif entry.exists():
            paths.append(entry)
        else:
            raise FileNotFoundError(f"{entry}: no such image or folder")
    return paths


def write_json(path: Path, value: Any) -> None:
    from keylite.runtime.files import write_text

    write_text(path, json.dumps(value, indent=2) + "\n")


def fail(line: str, code: int) -> NoReturn:
    """Print one line on standard error and leave with an exit code."""
    print(f"keylite: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(code)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    handler, before = logging.StreamHandler(), (log.handlers, log.propagate, log.level)
    handler.setFormatter(Lines())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's C++ fills stderr; oneDNN's line heeds nothing
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except BrokenPipeError:  # whoever read our output has had enough: head, less
        sys.stderr.close()
        os._exit(0)
    except CycloptsError as error:
        fail(f"{error}; see keylite --help", WRONG_INPUT)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(str(error), WRONG_INPUT)
    except KeyboardInterrupt:
        fail("stopped", INTERRUPTED)
    finally:  # whoever calls this from Python has a log of their own
        log.handlers, log.propagate = before[0], before[1]
        log.setLevel(before[2])
