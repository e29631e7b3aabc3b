"""The command line: one function a verb, heavy imports inside; what a user gets to read and the exit codes.

0 done, 2 wrong input (one line, no traceback), 3 an export over its budget, 130 stopped by Ctrl-C.
`train` has a module of its own (cli_train.py), for its flags are made from the recipe.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

import keylite

if TYPE_CHECKING:
    from keylite.certificate import Certificate
    from keylite.data.dataset import Dataset
    from keylite.evaluation import Predictions, Report
    from keylite.runtime.predictor import Keypoints

log = logging.getLogger("keylite")

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
    engine: str | None = None,
    threads: int | None = None,
    json_path: Annotated[Path | None, Parameter(name="--json")] = None,
    worst: int = 16,
    draw: Path | None = None,
    reading: As = Reading(),
) -> None:
    """Measure a model file on labelled images: NME, PCK, AUC, pixel errors, by keypoint, with 95 % intervals.

    Parameters
    ----------
    model
        .safetensors or .onnx
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
    engine
        onnx, pytorch or keras; default: the one that made the file, if it is installed
    threads
        of the engine; default: its own choice
    json_path
        write the report here
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

    predictor = Predictor(model, engine=engine, threads=threads)
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
    if json_path:
        write_json(json_path, json.loads(report.to_json()))
    if draw:
        errors = point_errors(kept[0].xy, dataset.xy)
        paths = draw_worst(dataset, kept[0], errors, worst, draw)
        print(f"worst objects drawn: {paths[0] if paths else 'none'}")


@app.command
def export(
    model: Path,
    *,
    data: Path,
    out: Path,
    to: str = "onnx",
    budget: float | None = None,
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
        file to write; its certificate is written beside it
    to
        format: onnx
    budget
        most that 95 % of the points may move, px of the model input; default: 0.02 at 128 px
    """
    from keylite.certificate import OverBudgetError, certificate_path
    from keylite.pipeline import export

    try:
        certificate = export(model, reading.dataset(data), out, to=to, budget=budget)
    except OverBudgetError as refused:
        show_certificate(refused.certificate)
        fail(str(refused), OVER_BUDGET)
    show_certificate(certificate)
    page = certificate_path(out)
    print(f"wrote {out} ({certificate.bytes / 1e6:.1f} MB), {page.name} and {page.with_suffix('.md').name}")


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
    max_megapixels: float = 100.0,
    skip_bad: bool = False,
) -> None:
    """Find the points in images.

    Parameters
    ----------
    model
        .onnx or .safetensors
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
        onnx, pytorch or keras; default: the one that made the file, if it is installed
    threads
        of the engine; default: its own choice
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

    predictor = Predictor(model, engine=engine, threads=threads, max_megapixels=max_megapixels)
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
    json_path: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Milliseconds of each stage, read, crop, engine and decode, the files taking turns.

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
    json_path
        write the figures here
    """
    from keylite.timing import STAGES, benchmark

    if not models:
        raise ValueError("benchmark: expected model files, got none")
    result = benchmark(list(models), threads=threads, runs=runs, image=image)
    stages = (*STAGES, "total")
    rows = [
        [name, facts["engine"], f"{facts['bytes'] / 1e6:.1f}"]
        + ["{median:.3f} ({p10:.3f}..{p90:.3f})".format(**facts["ms"][stage]) for stage in stages]
        for name, facts in result["models"].items()
    ]
    title = f"ms: median (p10..p90) of {runs} turns, {threads} thread(s), {result['machine']}, {result['image']}"
    show_table(["model", "engine", "MB", *stages], rows, title)
    if json_path:
        write_json(json_path, result)


@app.command
def info(model: Path, *, json_output: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """What a model file says of itself.

    Parameters
    ----------
    model
        .safetensors or .onnx
    json_output
        print the whole description as JSON
    """
    from keylite.certificate import certificate_doubt
    from keylite.runtime.files import sha256
    from keylite.runtime.modelfile import read_spec
    from keylite.runtime.spec import encode_spec

    spec = read_spec(model)
    if json_output:
        print(json.dumps(json.loads(encode_spec(spec)), indent=2))
        return
    if doubt := certificate_doubt(model):
        log.warning("%s", doubt)
    made = spec.provenance
    names = spec.skeleton.names
    rows = [
        ["file", f"{model.name}, {model.stat().st_size / 1e6:.1f} MB, {spec.precision}, sha256 {sha256(model)}"],
        ["network", f"{spec.backbone}, {type(spec.head).__name__.lower()} head, {spec.size[0]}x{spec.size[1]} px"],
        ["input", f"uint8 RGB; normalised inside, (pixel - {spec.mean[0]:g}) / {spec.std[0]:g}"],
        ["crop", f"box {spec.box}" + (f", grown by {spec.padding:g}" if spec.box == "annotation" else "")],
        ["keypoints", f"{len(names)}: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"],
        ["NME divisor", spec.normalize],
        ["figures", figures_line(spec.report) if spec.report else "none"],
        ["trained on", f"{made.data}, fingerprint {made.data_fingerprint[:16]}, from {made.pretrained}"],
        ["parent", made.parent or "none: this is what training wrote"],
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


def figures_line(report: dict[str, Any]) -> str:
    """The figures inside a model file as one line."""
    return (
        f"{report['data']}: NME {100 * report['nme']:.2f} % by {report['normalize']}, "
        f"{report['pixel_error']:.2f} px, {report['count']} objects, epoch {report['epoch']}"
    )


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


def show_table(header: list[str], rows: list[list[str]], title: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=any(header))
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 160  # a file or a pipe is not 80 columns wide
    Console(width=width, markup=False, highlight=False).print(table)


def show_report(report: Report) -> None:
    from keylite.evaluation import KEYPOINT_COLUMNS, keypoint_rows, summary_rows

    show_table(["", ""], [list(row) for row in summary_rows(report)], None)
    show_table(list(KEYPOINT_COLUMNS), [list(row) for row in keypoint_rows(report)], None)


def show_certificate(certificate: Certificate) -> None:
    c = certificate
    rows = [["all points", *(f"{v:.4f}" for v in (c.drift.p50, c.drift.p95, c.drift.max))]]
    rows += [[name, *(f"{v:.4f}" for v in (d.p50, d.p95, d.max))] for name, d in c.per_keypoint.items()]
    title = (
        f"{c.child} held to {c.parent} on {c.count} objects: "
        f"NME {100 * c.nme_parent:.3f} % -> {100 * c.nme_child:.3f} % ({c.normalize}); "
        f"drift in px of {c.size[0]}x{c.size[1]}, budget {c.budget:g} on p95"
    )
    show_table(["keypoint", "p50", "p95", "max"], rows, title)


def fail(line: str, code: int) -> NoReturn:
    """Print one line on standard error and leave with an exit code."""
    print(f"keylite: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(code)


class Lines(logging.Formatter):
    """Log records as plain lines; a warning says that it is one."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return f"warning: {text}" if record.levelno >= logging.WARNING else text


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    handler = logging.StreamHandler()
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
