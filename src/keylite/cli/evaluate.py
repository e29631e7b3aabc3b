"""`keylite evaluate`: measures a model file on labelled images, or compares it with its parent."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from keylite.cli.flags import as_flags
from keylite.cli.output import show
from keylite.cli.shared import OVER_BUDGET, USUAL, As, Reading, Seed, fail, write_json

if TYPE_CHECKING:
    from keylite.data.dataset import Dataset
    from keylite.evaluation.flips import FlipReport
    from keylite.evaluation.predictions import Predictions
    from keylite.evaluation.report import Report
    from keylite.runtime.predictor import Predictor

log = logging.getLogger("keylite")

WORST = 16  # objects that are drawn by default


@dataclasses.dataclass(frozen=True)
class Measuring:
    """How a model is measured on labelled images, and what is drawn. Of it, only `engine` applies to a comparison."""

    normalize: Annotated[
        str | None,
        Parameter(
            help="what errors are divided by: keypoints (36,45), box_diagonal, box_side or 100px; default: the model's"
        ),
    ] = None
    boxes: Annotated[
        Path | None,
        Parameter(
            help='JSON file of boxes to use instead of those of the labels: {"photo.jpg": [[x0, y0, x1, y1], ...]}'
        ),
    ] = None
    jitter_box: Annotated[
        float, Parameter(help="move and scale boxes at random by up to this fraction, as a detector would")
    ] = 0.0
    seed: Annotated[Seed, Parameter(help="of the random numbers for --jitter-box and for intervals")] = 0
    sigmas: Annotated[
        str | None, Parameter(help="OKS constants, one per keypoint, separated by commas: adds OKS-AP")
    ] = None
    flips: Annotated[
        bool, Parameter(help="predict the mirrored images, too: shows labels that sit to one side, and what flips cost")
    ] = False
    reliability: Annotated[Path | None, Parameter(help="PNG to draw: measured errors against sigma")] = None
    engine: Annotated[
        str | None,
        Parameter(
            help="onnx, litert, litert-reference, tflm, pytorch or tensorflow; default: litert for .tflite; for "
            ".safetensors the one that made the file, if it is installed"
        ),
    ] = None
    threads: Annotated[int | None, Parameter(help="threads of the engine; default: the engine decides")] = None
    worst: Annotated[int | None, Parameter(help="how many of the worst objects to draw; default: 16")] = None
    draw: Annotated[Path | None, Parameter(help="folder for pictures of the worst objects")] = None

    def given(self) -> list[str]:
        """The flags whose value is not their default."""
        return [
            f"--{field.name.replace('_', '-')}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]

    def require_good(self) -> None:
        """Raise ValueError for what can be refused before any file is opened."""
        from keylite.runtime.kinds import require_whole
        from keylite.runtime.packages import require

        if self.worst is not None:
            require_whole("worst", self.worst, least=0)
            if self.draw is None:
                raise ValueError("worst: expected --draw beside it: the folder for the pictures of these objects")
        if self.reliability:
            require("matplotlib")


@dataclasses.dataclass(frozen=True)
class Comparing:
    """The model that MODEL was exported from, and how far MODEL's points may be from its points."""

    parent: Annotated[
        Path | None,
        Parameter(help="model file that MODEL was exported from: compare both again, and show the certificate"),
    ] = None
    budget: Annotated[
        float | None,
        Parameter(
            help="with --parent: 95 % of the points may move at most so far, px of the model input; default: that of "
            "keylite export"
        ),
    ] = None
    budget_nme: Annotated[
        float | None,
        Parameter(help="with --parent: the NME may rise at most by this fraction of it; default: no limit"),
    ] = None


def evaluate(
    model: Path,
    *,
    data: Path,
    out: Path | None = None,
    spec: Path | None = None,
    measuring: Annotated[Measuring, Parameter(name="*")] = Measuring(),
    comparing: Annotated[Comparing, Parameter(name="*")] = Comparing(),
    reading: As = USUAL,
) -> None:
    """Measure a model file on labelled images: NME, PCK, AUC and px, for all points and per keypoint.

    Parameters
    ----------
    model
        .safetensors, .onnx or .tflite
    data
        labelled images: a file or a folder, such as COCO, YOLO-pose, CVAT, labelme or CSV
    out
        JSON file to write: the report, or with --parent the certificate, with its page of markdown beside it
    spec
        JSON description for a model file that holds none; with --parent, for the parent
    """
    if comparing.parent is not None:
        if flags := [flag for flag in measuring.given() if flag != "--engine"]:
            raise ValueError(f"{flags[0]}: has no effect with --parent, which compares files as they are; leave it out")
        _compare(model, comparing.parent, data, out, spec, measuring.engine, comparing, reading)
        return
    if comparing != Comparing():
        name = "budget_nme" if comparing.budget is None else "budget"
        raise ValueError(f"{name}: compares a model with the one that it was exported from; give that as --parent")
    _measure(model, data, out, spec, measuring, reading)


def _measure(
    model: Path, data: Path, out: Path | None, spec: Path | None, measuring: Measuring, reading: Reading
) -> None:
    """Show the report of a model, draw pictures, and write the report at the end, so that an error leaves no file."""
    from keylite.evaluation.flips import mirror_of
    from keylite.evaluation.report import report_parts

    measuring.require_good()
    sigmas = numbers(measuring.sigmas, "sigmas") if measuring.sigmas else None
    predictor, dataset = _opened(model, data, out, spec, measuring, sigmas, reading)
    mirror = mirror_of(predictor.spec.skeleton, dataset, measuring.seed) if measuring.flips else None
    report, predictions = _report(predictor, dataset, measuring, sigmas)
    show(report_parts(report))
    written = report.to_dict()
    if mirror is not None:
        flips = _show_flips(predictor, dataset, mirror, predictions, report, measuring.seed)
        written["flips"] = flips.to_dict()
    _draw(model, dataset, predictions, report, measuring)
    if out:
        write_json(out, written)


def _opened(
    model: Path,
    data: Path,
    out: Path | None,
    spec: Path | None,
    measuring: Measuring,
    sigmas: list[float] | None,
    reading: Reading,
) -> tuple[Predictor, Dataset]:
    """Open the model and read the labelled images; all that can be refused earlier is refused before that."""
    from keylite.evaluation.metrics import require_oks
    from keylite.exporting.certificate import certificate_doubt
    from keylite.runtime.files import require_outputs
    from keylite.runtime.predictor import Predictor

    outputs = {"out": out, "reliability": measuring.reliability}
    require_outputs(
        outputs, {"model": model, "data": data, "boxes": measuring.boxes, "spec": spec}, {"draw": measuring.draw}
    )
    predictor = Predictor(model, engine=measuring.engine, threads=measuring.threads, spec=spec)
    if doubt := certificate_doubt(model):
        log.warning("%s", doubt)
    if measuring.reliability and predictor.spec.confidence is None:
        raise ValueError(f"reliability: {model.name} gives no sigma; docs/evaluation.md says when one is fitted")
    if sigmas is not None:
        require_oks(sigmas, len(predictor.spec.skeleton))
    box = "image" if measuring.boxes else predictor.spec.box
    dataset = reading.dataset(data, predictor.spec.white_level, box)
    require_outputs(outputs, dataset.files_named([path.name for path in outputs.values() if path]))
    return predictor, dataset


def _report(
    predictor: Predictor, dataset: Dataset, measuring: Measuring, sigmas: list[float] | None
) -> tuple[Report, Predictions]:
    """The report, and the predictions that it was made from."""
    from keylite.data.boxes import dataset_boxes, read_boxes
    from keylite.evaluation.evaluate import measure, refuse_or_doubt

    path, normalize = measuring.boxes, measuring.normalize
    boxes = dataset_boxes(read_boxes(path), dataset, path) if path else None
    refuse_or_doubt(predictor, dataset, normalize, boxes, sigmas)
    return measure(
        predictor,
        dataset,
        normalize=normalize,
        boxes=boxes,
        jitter_box=measuring.jitter_box,
        seed=measuring.seed,
        sigmas=sigmas,
    )


def _show_flips(
    predictor: Predictor, data: Dataset, mirror: tuple[int, ...], plain: Predictions, report: Report, seed: int
) -> FlipReport:
    """Show and return the report of flips."""
    from keylite.evaluation.flips import flip_report, flip_rows
    from keylite.runtime.tables import Table

    flips = flip_report(predictor, data, mirror, plain=plain, normalize=report.nme.normalize, seed=seed)
    print()
    show([Table((), [(label, as_flags(text)) for label, text in flip_rows(flips)])])
    return flips


def _draw(model: Path, data: Dataset, predictions: Predictions, report: Report, measuring: Measuring) -> None:
    """Draw the worst objects and the reliability of sigma, if the flags ask for them."""
    from keylite.evaluation.predictions import errors_of
    from keylite.pictures.plots import plot_reliability
    from keylite.pictures.worst import draw_worst

    if measuring.reliability and report.reliability is None:
        raise ValueError(f"reliability: no labelled point of these data has a sigma of {model.name}")
    if measuring.draw:
        count = WORST if measuring.worst is None else measuring.worst
        paths = draw_worst(data, predictions, errors_of(predictions, data), count, measuring.draw)
        print(f"worst objects drawn: {paths[0] if paths else 'none'}")
    if measuring.reliability and report.reliability is not None:
        plot_reliability({model.name: report.reliability}, measuring.reliability)
        print(f"wrote {measuring.reliability}")


def _compare(
    model: Path,
    parent: Path,
    data: Path,
    out: Path | None,
    spec: Path | None,
    engine: str | None,
    comparing: Comparing,
    reading: Reading,
) -> None:
    """Show the certificate of a child on these data; the exit code is 3 if it is over its budget."""
    from keylite.exporting.certificate import certificate_parts, over_budget, write_certificate
    from keylite.exporting.export import hold
    from keylite.runtime.files import require_outputs
    from keylite.runtime.modelfile import read_spec

    page = out and out.with_suffix(".md")
    require_outputs({"out": out, "page": page}, {"model": model, "parent": parent, "data": data, "spec": spec})
    said = read_spec(model)
    dataset = reading.dataset(data, said.white_level, said.box)
    budgets = {"budget": comparing.budget, "budget_nme": comparing.budget_nme}
    certificate = hold(model, parent, dataset, **budgets, engine=engine, spec=spec)
    for note in certificate.notes:
        log.warning("%s", note)
    show(certificate_parts(certificate))
    if out:
        write_certificate(certificate, out)
    if past := over_budget(certificate):
        fail(past, OVER_BUDGET)


def numbers(text: str, what: str) -> list[float]:
    """Read numbers that are separated by commas. what: the flag, for the error."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{what}: expected numbers separated by commas, got {text!r}") from None
