"""`keylite evaluate`: a model file measured on labelled images, or held to its parent."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from keylite.cli.flags import as_flags
from keylite.cli.output import show
from keylite.cli.shared import OVER_BUDGET, USUAL, As, Seed, fail, write_json

if TYPE_CHECKING:
    from keylite.data.dataset import Dataset
    from keylite.evaluation.predictions import Predictions
    from keylite.runtime.predictor import Predictor

log = logging.getLogger("keylite")

WORST = 16  # objects drawn


def evaluate(
    model: Path,
    *,
    data: Path,
    normalize: str | None = None,
    boxes: Path | None = None,
    jitter_box: float = 0.0,
    seed: Seed = 0,
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
    worst: int | None = None,
    draw: Path | None = None,
    reading: As = USUAL,
) -> None:
    """Measure a model file on labelled images: NME, PCK, AUC, px, by keypoint, with 95 % intervals.

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
        onnx, litert, pytorch or tensorflow; default: the one that made the file, if it is installed
    threads
        of the engine; default: its own choice
    parent
        model file that MODEL was exported from: hold it to that one again, and show the certificate
    budget
        with --parent: most that 95 % of the points may move, px of the model input; default: as for keylite export
    budget_nme
        with --parent: most that the NME may rise, as a fraction of it; default: no limit
    spec
        JSON description of a file that holds none; with --parent, of the parent
    json_path
        write the report here, or with --parent the certificate, and its page of markdown beside it
    worst
        how many of the worst objects to draw; default: 16
    draw
        folder for pictures of the worst objects
    """
    import msgspec

    from keylite.data.boxes import dataset_boxes, read_boxes
    from keylite.evaluation.evaluate import evaluate
    from keylite.evaluation.flips import flip_report, flip_rows
    from keylite.evaluation.metrics import require_oks
    from keylite.evaluation.predictions import errors_of
    from keylite.evaluation.report import report_parts
    from keylite.exporting.certificate import certificate_doubt
    from keylite.pictures.draw import draw_worst
    from keylite.pictures.plots import plot_reliability, require_matplotlib
    from keylite.runtime.files import require_outputs
    from keylite.runtime.kinds import require_whole
    from keylite.runtime.modelfile import read_spec
    from keylite.runtime.predictor import Predictor
    from keylite.runtime.tables import Table

    if parent is None and (budget is not None or budget_nme is not None):
        raise ValueError("budget: holds a model to the one that it was exported from; give that as --parent")
    if parent:
        others = {"--normalize": normalize, "--boxes": boxes, "--jitter-box": jitter_box, "--sigmas": sigmas}
        others |= {"--engine": engine, "--threads": threads, "--draw": draw}
        others |= {"--flips": flips, "--reliability": reliability, "--seed": seed, "--worst": worst is not None}
        if given := [flag for flag, value in others.items() if value]:
            raise ValueError(f"{given[0]}: has no effect with --parent, which compares files as they are; leave it out")
        page = json_path and json_path.with_suffix(".md")
        inputs = {"model": model, "parent": parent, "data": data, "spec": spec}
        require_outputs({"json": json_path, "page": page}, inputs)
        said = read_spec(model)
        dataset = reading.dataset(data, said.white_level, said.box)
        _hold(model, parent, dataset, budget, budget_nme, spec, json_path)
        return
    if worst is not None:
        require_whole("worst", worst, least=0)
        if draw is None:
            raise ValueError("worst: says how many objects to draw; give a folder for them as --draw")
    if reliability:
        require_matplotlib("reliability")
    constants = numbers(sigmas, "sigmas") if sigmas else None
    require_outputs(
        {"json": json_path, "reliability": reliability},
        {"model": model, "data": data, "boxes": boxes, "spec": spec},
        {"draw": draw},
    )
    predictor = Predictor(model, engine=engine, threads=threads, spec=spec)
    if doubt := certificate_doubt(model):
        log.warning("%s", doubt)
    if reliability and predictor.spec.confidence is None:
        raise ValueError(f"reliability: {model.name} gives no sigma; docs/evaluation.md says when one is fitted")
    if constants is not None:
        require_oks(constants, len(predictor.spec.skeleton))
    dataset = reading.dataset(data, predictor.spec.white_level, "image" if boxes else predictor.spec.box)
    written = [path.name for path in (json_path, reliability) if path]
    require_outputs({"json": json_path, "reliability": reliability}, dataset.files_named(written))
    mirror = _mirror_of(predictor, dataset, seed) if flips else None
    kept: list[Predictions] = []
    report = evaluate(
        predictor,
        dataset,
        normalize=normalize,
        boxes=dataset_boxes(read_boxes(boxes), dataset, boxes) if boxes else None,
        jitter_box=jitter_box,
        seed=seed,
        sigmas=constants,
        on_predictions=kept.append,
    )
    show(report_parts(report))
    written = report.to_dict()
    if mirror is not None:
        flipped = flip_report(predictor, dataset, mirror, plain=kept[0], normalize=report.nme.normalize, seed=seed)
        print()
        show([Table((), [(label, as_flags(text)) for label, text in flip_rows(flipped)])])
        written["flips"] = msgspec.to_builtins(flipped)
    if reliability and report.confidence is None:
        raise ValueError(f"reliability: no labelled point of these data has a sigma of {model.name}")
    if draw:
        errors = errors_of(kept[0], dataset)
        paths = draw_worst(dataset, kept[0], errors, WORST if worst is None else worst, draw)
        print(f"worst objects drawn: {paths[0] if paths else 'none'}")
    if reliability and report.confidence is not None:
        plot_reliability({model.name: report.confidence}, reliability)
        print(f"wrote {reliability}")
    if json_path:  # last: what was refused leaves none
        write_json(json_path, written)


def _mirror_of(predictor: Predictor, data: Dataset, seed: int) -> tuple[int, ...]:
    """What a flip swaps, as the model says, or else the labels; ValueError where neither does."""
    from keylite.data.mirror import choose_mirror

    if predictor.spec.skeleton.mirror is not None:
        return predictor.spec.skeleton.mirror
    found = choose_mirror(data, None, seed)
    if found.permutation is None:
        raise ValueError(f"flips: neither the model nor the data says what a flip swaps: {found.line}")
    return found.permutation


def _hold(
    model: Path,
    parent: Path,
    data: Dataset,
    budget: float | None,
    budget_nme: float | None,
    spec: Path | None,
    json_path: Path | None,
) -> None:
    """Show a child's certificate on these data; exit 3 where it is over budget."""
    from keylite.exporting.certificate import certificate_parts, over_budget, write_certificate
    from keylite.exporting.export import hold

    certificate = hold(model, parent, data, budget=budget, budget_nme=budget_nme, spec=spec)
    for note in certificate.notes:
        log.warning("%s", note)
    show(certificate_parts(certificate))
    if json_path:
        write_certificate(certificate, json_path)
    if past := over_budget(certificate):
        fail(past, OVER_BUDGET)


def numbers(text: str, what: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{what}: expected numbers separated by commas, got {text!r}") from None
