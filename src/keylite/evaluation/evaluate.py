"""Evaluation of a model file on labelled images: makes the predictions, and the report of them."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence

import numpy as np

from keylite.data.checks import name_notes, say_doubts
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import Labelled, as_dataset
from keylite.evaluation.figures import report_of
from keylite.evaluation.metrics import require_oks
from keylite.evaluation.normaliser import read_normaliser
from keylite.evaluation.predictions import Predictions, known_boxes, predict_dataset
from keylite.evaluation.reliability import halves
from keylite.evaluation.report import Report
from keylite.runtime.boxes import as_boxes
from keylite.runtime.kinds import require_whole
from keylite.runtime.predictor import Predictor, as_predictor
from keylite.runtime.spec import ModelSpec
from keylite.runtime.types import Boxes, FilePath


def evaluate(
    model: Predictor | FilePath,
    data: Labelled,
    *,
    normalize: str | None = None,
    boxes: Boxes | None = None,
    jitter_box: float = 0.0,
    seed: int = 0,
    sigmas: Sequence[float] | None = None,
    engine: str | None = None,
    threads: int | None = None,
    spec: FilePath | None = None,
) -> Report:
    """Measure how well a model file finds the points of labelled images.

    Args:
        model: The model file, or an open predictor.
        data: The labelled images, or the path of a label file.
        normalize: What errors are divided by: two keypoints ("36,45" or "left_eye,right_eye"), "box_diagonal",
            "box_side", a fraction of these ("0.2 x box_diagonal"), or a constant ("100px"). None: the model file says.
        boxes: (N, 4) xyxy px of the image to crop around, such as a detector's. None: the boxes of the labels, or whole
            images, as the model file says.
        jitter_box: Moves and scales each box at random by up to this fraction of its sides, below 1.
        seed: The seed of the jitter and of the intervals.
        sigmas: K OKS constants; they add COCO's average precision to the report. None: those of the data, else those of
            the model file, if there are some.
        engine: What runs the file; see `Predictor`. None with an open predictor.
        threads: Threads of the engine. None: the engine decides; None with an open predictor.
        spec: A JSON description for a model file that holds none. None: the model file holds it.

    Returns:
        The report.

    Raises:
        ArgumentError: An argument has a wrong value, or nothing can be measured against these labels.
        ImageError: An image cannot be read.
        ModelFileError: The file is no model file.
        ModuleNotFoundError: `sigmas` are given, and faster-coco-eval is not installed.

    Example:
        >>> report = keylite.evaluate("model.safetensors", "test.json")
        >>> print(report)
    """
    require_whole("seed", seed, least=0)
    data = as_dataset("data", data)
    predictor = as_predictor("model", model, engine=engine, threads=threads, spec=spec)
    refuse_or_doubt(predictor, data, normalize, boxes, sigmas)
    report, _ = measure(
        predictor, data, normalize=normalize, boxes=boxes, jitter_box=jitter_box, seed=seed, sigmas=sigmas
    )
    return report


def refuse_or_doubt(
    predictor: Predictor, data: Dataset, normalize: str | None, boxes: Boxes | None, sigmas: Sequence[float] | None
) -> None:
    """Refuse what cannot be measured, then log what is doubtful about the labels. The arguments are `evaluate`'s."""
    own = predictor.spec
    known_boxes(data, boxes, own.box)
    if normalize is not None:
        read_normaliser(normalize, data.skeleton.names)
    if sigmas is not None:
        require_oks(sigmas, len(data.skeleton))
    name_notes(own.skeleton, data.skeleton)
    say_doubts(data if boxes is None else dataclasses.replace(data, box=as_boxes(boxes)), own.box)


def measure(
    predictor: Predictor,
    data: Dataset,
    *,
    normalize: str | None = None,
    boxes: Boxes | None = None,
    jitter_box: float = 0.0,
    seed: int = 0,
    sigmas: Sequence[float] | None = None,
    judges: np.ndarray | None = None,
) -> tuple[Report, Predictions]:
    """The report of a model on labels that were checked, and the predictions that it was made from.

    judges: indices of the objects that sigma is tested on. None: those that it was not fitted on. The other arguments
    are those of `evaluate`.
    """
    own = predictor.spec
    normalize = normalize or own.normalize
    notes = name_notes(own.skeleton, data.skeleton)
    generator = np.random.default_rng(seed)
    predictions = predict_dataset(predictor, data, boxes=boxes, jitter_box=jitter_box, generator=generator)
    notes += _box_notes(own.box, data, boxes, normalize)
    if sigmas is None:
        sigmas = data.skeleton.sigmas or own.skeleton.sigmas
        if sigmas and importlib.util.find_spec("faster_coco_eval") is None:  # it was not asked for, so this is no error
            notes.append("no OKS-AP although there are sigmas: pip install 'keylite[coco]'")
            sigmas = None
    judges = judges_of([own], data) if judges is None else judges
    if judges is not None:
        fitted = len(data) - len(judges)
        notes.append(f"sigma was fitted on {fitted} of these objects and is tested on the other {len(judges)}")
    source = own.box if boxes is None else "file"
    report = report_of(
        predictions,
        data,
        normalize,
        mean_shape=own.mean_shape,
        sigmas=sigmas,
        seed=seed,
        box_source=f"{source}, jitter {jitter_box:g} seed {seed}" if jitter_box else source,
        model_sha256=predictor.sha256,
        engine=predictor.engine_name,
        judges=judges,
        notes=notes,
    )
    return report, predictions


def judges_of(specs: Sequence[ModelSpec], dataset: Dataset) -> np.ndarray | None:
    """Indices of the objects that no model's sigma was fitted on. None: all of them."""
    fitted = {spec.confidence.data.fingerprint for spec in specs if spec.confidence}
    parts = halves(dataset.group_index) if dataset.fingerprint() in fitted else None
    return None if parts is None else parts[1]


def _box_notes(box: str, data: Dataset, boxes: Boxes | None, normalize: str) -> list[str]:
    """Notes about objects that share a crop, or whose NME is by a box that is not annotated. box: what is cropped."""
    if boxes is None:
        shared = len(data) - len(data.images) if box == "image" else 0
        words = "objects share their image with another, and get the same points: the crop is the image"
        return [f"{shared} {words}"] if shared else []
    without_box = len(data) - int(data.boxed.sum())
    by_box = bool(read_normaliser(normalize, data.skeleton.names).box)
    if not (without_box and box == "annotation" and by_box):
        return []
    return [f"{without_box} of {len(data)} objects have no annotated box: their NME is by the given one"]
