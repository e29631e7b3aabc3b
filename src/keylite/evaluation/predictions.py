"""What a model gives for a labelled data set, through the shipped predictor.

Knows nothing of figures, training or frameworks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.metrics import point_errors
from keylite.runtime.boxes import as_boxes, box_problems
from keylite.runtime.errors import ArgumentError
from keylite.runtime.geometry import Crop, cut, draw_jitter, from_units, jittered, whole_box
from keylite.runtime.kinds import number_of
from keylite.runtime.predictor import Predictor
from keylite.runtime.progress import step
from keylite.runtime.spec import ModelSpec
from keylite.runtime.stream import Cut, Task, answers
from keylite.runtime.types import Boxes
from keylite.runtime.words import SHOWN, counted, listed, quoted


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The points that a model gives for N objects.

    xy: (N, K, 2) image px. unit_xy: (N, K, 2) of the crop. score: (N, K), NaN where the head has no confidence.
    boxes: (N, 4) xyxy px the crops were made from, before padding. crops: N of them, or none where no image was
    cropped. normaliser_boxes: (N, 4) boxes that the NME is measured by: the annotations', those given where there is
    none, or whole images; never jittered. None takes `boxes`. sigma: (N, K) image px, see Keypoints; None is NaN for
    all. unlearnt: see ModelSpec; its keypoints count in no figure over all keypoints.
    """

    xy: np.ndarray
    unit_xy: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    crops: tuple[Crop, ...]
    normaliser_boxes: np.ndarray | None = None
    sigma: np.ndarray | None = None
    unlearnt: dict[str, int] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        objects, keypoints, _ = self.xy.shape
        return f"Predictions({counted(objects, 'object')}, {counted(keypoints, 'keypoint')})"


def joined(parts: Sequence[Predictions], order: np.ndarray) -> Predictions:
    """Predictions of several parts of a data set one after the other, then in this order (N,)."""

    def of(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])[order]

    def where_all_have(name: str) -> np.ndarray | None:
        return None if any(getattr(part, name) is None for part in parts) else of(name)

    crops = [crop for part in parts for crop in part.crops]
    return Predictions(
        **{name: of(name) for name in ("xy", "unit_xy", "score", "boxes")},
        crops=tuple(crops[i] for i in order),
        normaliser_boxes=where_all_have("normaliser_boxes"),
        sigma=where_all_have("sigma"),
        unlearnt={name: count for part in parts for name, count in part.unlearnt.items()},
    )


def measured_xy(predictions: Predictions, dataset: Dataset, mirror: Sequence[int] | None = None) -> np.ndarray:
    """(N, K, 2) px: the labels that predictions are measured by, NaN for keypoints that were hardly taught.

    mirror: (K) the keypoint that each becomes in a flip, whose teaching counts too.
    """
    left_out = np.array([name in predictions.unlearnt for name in dataset.skeleton.names])
    if mirror is not None:
        left_out |= left_out[list(mirror)]
    return np.where(left_out[:, None], np.nan, dataset.xy) if left_out.any() else dataset.xy


def errors_of(predictions: Predictions, dataset: Dataset) -> np.ndarray:
    """Distances (N, K) px of predictions to labels, NaN where there is no label or the keypoint was hardly taught."""
    return point_errors(predictions.xy, measured_xy(predictions, dataset))


def boxed(dataset: Dataset) -> np.ndarray:
    """(N,) bool: which objects have an annotation's box."""
    return np.all(np.isfinite(dataset.box), axis=1)


def predict_dataset(
    predictor: Predictor,
    data: Dataset,
    *,
    boxes: Boxes | None = None,
    jitter_box: float = 0.0,
    generator: np.random.Generator | None = None,
    mirror: Sequence[int] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Predictions:
    """The points of every object, through the predictor's own crop, batches, engine and decode; an image is read once.

    boxes: (N, 4) xyxy px, say a detector's; None takes the annotations' or whole images, as the model's spec says.
    jitter_box: moves them by that fraction of their sides with `generator`. mirror: (K) the keypoint that each becomes
    in a flip; the model then sees mirrored images, and its points are given back where and what they are in the
    original. on_batch: called with (done, N).
    Raises ValueError where the number of keypoints differs, or a box is needed and missing.
    """
    spec = predictor.spec
    if len(spec.skeleton) != len(data.skeleton):
        raise ArgumentError(
            f"model has {len(spec.skeleton)} keypoints, data has {len(data.skeleton)}; "
            "evaluate on data with the keypoints that the model was trained on"
        )
    if not 0 <= number_of(jitter_box) < 1:
        raise ArgumentError(f"jitter_box: expected a fraction of the box's side in 0..1, got {quoted(jitter_box)}")
    if jitter_box and generator is None:
        raise ArgumentError("jitter_box: expected a numpy Generator beside it, got None")
    given = _boxes_given(data, boxes, spec.box)
    data = dataclasses.replace(data, white_level=spec.white_level)
    images = _Images(predictor, data, given, jitter_box, generator, mirror is not None)
    count, keypoints = len(data), len(spec.skeleton)
    unit_xy, score = np.zeros((count, keypoints, 2)), np.full((count, keypoints), np.nan)
    used, measured = np.zeros((count, 4)), np.zeros((count, 4))
    crops: dict[int, Crop] = {}
    annotated = boxed(data)
    done = 0

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal done
        found = predictor.run(pixels)
        done += len(pixels)
        tell(len(pixels))
        if on_batch is not None:
            on_batch(done, count)
        return found

    with (
        step(f"finding the points of {data.called}", count) as tell,
        contextlib.closing(answers(images.tasks(), run, batch=predictor.batch)) as answered,
    ):
        for cut, points in answered:
            objects, whole = cut.source, np.array([[0, 0, *cut.size]], np.float64)
            used[objects] = cut.boxes
            # A detector's boxes must not change the ruler: the annotation's box goes first, object by object.
            asked = np.tile(whole, (len(objects), 1)) if given is None else given[objects]
            own = np.where(annotated[objects, None], data.box[objects], asked)
            measured[objects] = whole if spec.box == "image" else own
            for row, crop, (unit, how_sure) in zip(objects.tolist(), cut.crops, points, strict=True):
                crops[row], unit_xy[row], score[row] = crop, unit, how_sure
    if mirror is not None:
        unit_xy, score = unit_xy[:, list(mirror)], score[:, list(mirror)]
    in_order = tuple(crops[row] for row in range(count))
    xy = np.stack([crop.from_unit(points) for crop, points in zip(in_order, unit_xy, strict=True)])
    return Predictions(xy, unit_xy, score, used, in_order, measured, predictor.sigma(score, in_order), spec.unlearnt)


@dataclasses.dataclass(frozen=True)
class _Images:
    """The images of a data set as tasks of a stream, each with all its objects; see `predict_dataset`."""

    predictor: Predictor
    dataset: Dataset
    given: np.ndarray | None
    jitter_box: float
    generator: np.random.Generator | None
    mirrored: bool

    def tasks(self) -> Iterator[Task]:
        """An image after the other, in the order of their numbers."""
        by_image = np.argsort(self.dataset.image_index, kind="stable")
        for objects in np.split(by_image, np.flatnonzero(np.diff(self.dataset.image_index[by_image])) + 1):
            jitter = None
            if self.jitter_box and self.generator is not None:
                jitter = draw_jitter(len(objects), self.jitter_box, self.generator)
            yield Task(objects, len(objects), functools.partial(self.cut, objects, jitter))

    def cut(self, objects: np.ndarray, jitter: np.ndarray | None) -> Cut:
        """An image and its objects' crops. ValueError for a box that lies outside of it, by the object's name."""
        image = self.dataset.open_image(int(self.dataset.image_index[objects[0]]))
        whole = np.tile(whole_box(image), (len(objects), 1))
        asked = whole if self.given is None else self.given[objects]
        if self.given is not None:
            for row, words in box_problems(asked, whole[:, 2:]).items():
                raise ArgumentError(f"{self.dataset.sample_name(int(objects[row]))}: {words}")
        asked = asked if jitter is None else jittered(asked, jitter)
        crops = self.predictor.crops(image, asked)
        if self.mirrored:
            flip = np.array([[-1.0, 0, self.predictor.spec.size[0]], [0, 1, 0]])
            crops = [crop.then(flip, mirrored=True) for crop in crops]
        pixels = cut(image, crops, self.dataset.checked)
        return Cut(objects, (image.shape[1], image.shape[0]), asked, crops, pixels)


def predict_shape(unit_xy: np.ndarray, spec: ModelSpec, dataset: Dataset) -> Predictions:
    """What a model of this spec would give that answers the same (K, 2) for every crop; no image is read.

    Raises ValueError where a box is needed and missing.
    """
    given = _boxes_given(dataset, None, spec.box)
    boxes = dataset.whole_boxes() if given is None else given
    xy = from_units(unit_xy.astype(np.float64), boxes, spec.size, 0.0 if given is None else spec.padding)
    score = np.full(xy.shape[:2], np.nan, np.float32)
    return Predictions(xy, np.broadcast_to(unit_xy, xy.shape), score, boxes, (), unlearnt=spec.unlearnt)


def _boxes_given(dataset: Dataset, boxes: Boxes | None, box: str) -> np.ndarray | None:
    """The boxes (N, 4) known before any image is read: the caller's or the annotations', None for whole images."""
    if boxes is not None:
        given = as_boxes(boxes)
        if len(given) != len(dataset):
            raise ArgumentError(f"boxes: expected {len(dataset)}, one an object of {dataset.called}, got {len(given)}")
        return given
    if box == "image":
        return None
    bad = np.flatnonzero(~boxed(dataset))
    if len(bad):
        line = f"{dataset.called}: the model crops by a box, and {len(bad)} of {len(dataset)} objects lack one"
        names = listed(line, [dataset.sample_name(int(i)) for i in bad[:SHOWN]], len(bad))
        raise ArgumentError(f"{names}; train with `box='image'`, or pass `boxes=FILE`")
    return dataset.box
