"""A model file measured on a data set: predictions through the shipped predictor, and the report of them.

Knows nothing of training or frameworks.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keylite.data.checks import say_doubts
from keylite.data.dataset import Dataset, require_datasets
from keylite.evaluation.metrics import BOX_NORMALISERS, normaliser, require_oks
from keylite.evaluation.reliability import halves
from keylite.evaluation.report import Predictions, Report, boxed, report_of
from keylite.runtime.boxes import as_boxes, box_problems
from keylite.runtime.geometry import Crop, cut, from_units, jitter_boxes, whole_box
from keylite.runtime.kinds import kind_words, number_of, require_whole
from keylite.runtime.progress import step
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import ModelSpec
from keylite.runtime.words import SHOWN, listed, quoted

if TYPE_CHECKING:
    from keylite.runtime.predictor import Predictor


def predict_dataset(
    predictor: Predictor,
    dataset: Dataset,
    *,
    boxes: np.ndarray | None = None,
    jitter_box: float = 0.0,
    generator: np.random.Generator | None = None,
    mirror: Sequence[int] | None = None,
    on_batch: Callable[[int, int], object] | None = None,
) -> Predictions:
    """The points of every object, through the predictor's own crop, batches, engine and decode; an image is read once.

    boxes: (N, 4) xyxy px, say a detector's; None takes the annotations' or whole images, as the model's spec says.
    jitter_box: moves them by that fraction of their sides with `generator`. mirror: (K) the keypoint that each becomes
    in a flip; the model then sees mirrored images, and its points are given back where and what they are in the
    original. on_batch: called with (done, N).
    Raises ValueError where the number of keypoints differs, or a box is needed and missing.
    """
    spec = predictor.spec
    if len(spec.skeleton) != len(dataset.skeleton):
        raise ValueError(
            f"model has {len(spec.skeleton)} keypoints, data has {len(dataset.skeleton)}; "
            "evaluate on data with the keypoints that the model was trained on"
        )
    if not 0 <= number_of(jitter_box) < 1:
        raise ValueError(f"jitter_box: expected a fraction of the box's side in 0..1, got {quoted(jitter_box)}")
    if jitter_box and generator is None:
        raise ValueError("jitter_box: expected a numpy Generator beside it, got None")
    given = _boxes_given(dataset, boxes, spec.box)
    dataset = dataclasses.replace(dataset, white_level=spec.white_level)
    count, keypoints = len(dataset), len(spec.skeleton)
    unit_xy, score = np.zeros((count, keypoints, 2)), np.full((count, keypoints), np.nan)
    used, measured = np.zeros((count, 4)), np.zeros((count, 4))
    crops: list[Crop | None] = [None] * count
    pixels = np.zeros((min(predictor.batch, count), spec.size[1], spec.size[0], 3), np.uint8)
    waiting: list[int] = []
    done = 0

    def run() -> None:
        nonlocal done
        unit_xy[waiting], score[waiting] = predictor.run(pixels[: len(waiting)])
        done += len(waiting)
        tell(len(waiting))
        waiting.clear()
        if on_batch is not None:
            on_batch(done, count)

    flip = np.array([[-1.0, 0, spec.size[0]], [0, 1, 0]])
    annotated = boxed(dataset)
    by_image = np.argsort(dataset.image_index, kind="stable")
    with step(f"finding the points of {dataset.called}", count) as tell:
        for objects in np.split(by_image, np.flatnonzero(np.diff(dataset.image_index[by_image])) + 1):
            image = dataset.open_image(int(dataset.image_index[objects[0]]))
            whole = np.tile(whole_box(image), (len(objects), 1))
            used[objects] = whole if given is None else given[objects]
            if given is not None:
                for row, words in box_problems(given[objects], whole[:, 2:]).items():
                    raise ValueError(f"{dataset.sample_name(int(objects[row]))}: {words}")
            # A detector's boxes must not change the ruler: the annotation's box goes first, object by object.
            own = np.where(annotated[objects, None], dataset.box[objects], used[objects])
            measured[objects] = whole if spec.box == "image" else own
            if jitter_box and generator is not None:
                used[objects] = jitter_boxes(used[objects], jitter_box, generator)
            found = predictor.crops(image, used[objects])
            found = found if mirror is None else [crop.then(flip, mirrored=True) for crop in found]
            for i, crop, seen in zip(objects.tolist(), found, cut(image, found, dataset.checked), strict=True):
                crops[i], pixels[len(waiting)] = crop, seen
                waiting.append(i)
                if len(waiting) == len(pixels):
                    run()
        if waiting:
            run()
    kept = tuple(crop for crop in crops if crop is not None)
    if mirror is not None:
        unit_xy, score = unit_xy[:, list(mirror)], score[:, list(mirror)]
    xy = np.stack([crop.from_unit(points) for crop, points in zip(kept, unit_xy, strict=True)])
    return Predictions(xy, unit_xy, score, used, kept, measured, predictor.sigma(score, kept), spec.unlearnt)


def predict_shape(unit_xy: np.ndarray, spec: ModelSpec, dataset: Dataset) -> Predictions:
    """What a model of this spec would give that answers the same (K, 2) for every crop; no image is read.

    Raises ValueError where a box is needed and missing.
    """
    given = _boxes_given(dataset, None, spec.box)
    boxes = dataset.whole_boxes() if given is None else given
    xy = from_units(unit_xy.astype(np.float64), boxes, spec.size, 0.0 if given is None else spec.padding)
    score = np.full(xy.shape[:2], np.nan, np.float32)
    return Predictions(xy, np.broadcast_to(unit_xy, xy.shape), score, boxes, (), unlearnt=spec.unlearnt)


def _boxes_given(dataset: Dataset, boxes: np.ndarray | None, box: str) -> np.ndarray | None:
    """The boxes (N, 4) known before any image is read: the caller's or the annotations', None for whole images."""
    if boxes is not None:
        given = as_boxes(boxes)
        if len(given) != len(dataset):
            raise ValueError(f"boxes: expected {len(dataset)}, one an object of {dataset.called}, got {len(given)}")
        return given
    if box == "image":
        return None
    bad = np.flatnonzero(~boxed(dataset))
    if len(bad):
        line = f"{dataset.called}: the model crops by a box, and {len(bad)} of {len(dataset)} objects lack one"
        names = listed(line, [dataset.sample_name(int(i)) for i in bad[:SHOWN]], len(bad))
        raise ValueError(f"{names}; train with --box image, or pass --boxes FILE")
    return dataset.box


def evaluate(
    model: Predictor | Path | str,
    dataset: Dataset,
    *,
    normalize: str | None = None,
    boxes: np.ndarray | None = None,
    jitter_box: float = 0.0,
    seed: int = 0,
    sigmas: Sequence[float] | None = None,
    engine: str | None = None,
    threads: int | None = None,
    on_batch: Callable[[int, int], object] | None = None,
    on_predictions: Callable[[Predictions], object] | None = None,
    judges: np.ndarray | None = None,
    doubted: bool = False,
    spec: Path | str | None = None,
) -> Report:
    """The report of a model file, or an open predictor, on a data set.

    normalize: see `normaliser`; None takes the model's. boxes, jitter_box: see `predict_dataset`. sigmas: None takes
    the data's, then the model's; without any there is no OKS-AP. engine, threads: for opening a file.
    on_predictions: called with the predictions, for whoever draws or keeps them. judges: indices of the objects that
    sigma is judged by; None: those that it was not fitted on. doubted: what is doubtful about the labels was said
    already; else it is logged, and labels that nothing can be measured against raise ValueError. spec: a JSON
    description for a file that holds none.
    """
    require_datasets(dataset=dataset)
    require_whole("seed", seed, least=0)
    if isinstance(model, (str, Path)):
        from keylite.runtime.predictor import Predictor

        predictor = Predictor(model, engine=engine, threads=threads, spec=spec)
    else:
        if not hasattr(model, "spec"):
            raise ValueError(f"model: expected a model file or an open Predictor, got {kind_words(model)}")
        if any(choice is not None for choice in (engine, threads, spec)):
            raise ValueError("engine, threads, spec: expected None with an open predictor; give them when it is opened")
        predictor = model
    own = predictor.spec
    given = _boxes_given(dataset, boxes, own.box)
    if normalize is not None:  # its grammar alone
        normaliser(normalize, dataset.xy, dataset.box if given is None else given, dataset.skeleton.names)
    if sigmas is not None:
        require_oks(sigmas, len(dataset.skeleton))
    notes = _name_notes(own.skeleton, dataset.skeleton)
    if not doubted:
        say_doubts(dataset if boxes is None else dataclasses.replace(dataset, box=as_boxes(boxes)), own.box)
    predictions = predict_dataset(
        predictor,
        dataset,
        boxes=boxes,
        jitter_box=jitter_box,
        generator=np.random.default_rng(seed),
        on_batch=on_batch,
    )
    if on_predictions is not None:
        on_predictions(predictions)
    shared = len(dataset) - len(dataset.images)
    if own.box == "image" and boxes is None and shared > 0:
        notes.append(f"{shared} objects share their image with another; a whole-image model gives both the same points")
    if sigmas is None:
        sigmas = dataset.skeleton.sigmas or own.skeleton.sigmas
        if sigmas and importlib.util.find_spec("faster_coco_eval") is None:  # nobody asked for it: a note, no error
            notes.append("no OKS-AP although there are sigmas: pip install 'keylite[coco]'")
            sigmas = None
    lacking = len(dataset) - int(boxed(dataset).sum())
    if boxes is not None and lacking and own.box == "annotation" and (normalize or own.normalize) in BOX_NORMALISERS:
        notes.append(f"{lacking} of {len(dataset)} objects have no annotated box: their NME is by the given one")
    judges = judges_of([own], dataset) if judges is None else judges
    if judges is not None:
        fitted = len(dataset) - len(judges)
        notes.append(f"sigma was fitted on {fitted} of these objects and is judged by the other {len(judges)}")
    source = own.box if boxes is None else "file"
    return report_of(
        predictions,
        dataset,
        normalize or own.normalize,
        mean_shape=own.mean_shape,
        sigmas=sigmas,
        seed=seed,
        box_source=f"{source}, jitter {jitter_box:g} seed {seed}" if jitter_box else source,
        model_sha256=predictor.sha256,
        engine=predictor.engine_name,
        judges=judges,
        notes=notes,
    )


def judges_of(specs: Sequence[ModelSpec], dataset: Dataset) -> np.ndarray | None:
    """Indices of the objects that no model's sigma was fitted on; None where it was fitted on none of them."""
    fitted = {spec.confidence.data_fingerprint for spec in specs if spec.confidence}
    parts = halves(dataset.group_index) if dataset.fingerprint() in fitted else None
    return None if parts is None else parts[1]


def _name_notes(model: Skeleton, data: Skeleton) -> list[str]:
    """A note where the keypoints are named differently.

    Raises ValueError where both have the same names in another order: points would be measured against wrong labels.
    """
    pairs = [(a, b) for a, b in zip(model.names, data.names, strict=False) if a != b]
    if not pairs or len(model) != len(data):
        return []  # another number of keypoints is refused by predict_dataset
    if set(model.names) == set(data.names):
        raise ValueError(
            f"keypoints: model and data have the same names in another order ({quoted(pairs[0][0])} against "
            f"{quoted(pairs[0][1])}); reorder the data's keypoints"
        )
    shown = [f"{quoted(a)} is {quoted(b)} in the data" for a, b in pairs]
    return [listed(f"{len(pairs)} of {len(model)} keypoint names differ, matched by position", shown)]
