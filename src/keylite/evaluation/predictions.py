"""The predictions of a model for a labelled data set, made by the same predictor that users and devices run.

Knows no reports, no training and no framework.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.examples import seen_xy
from keylite.data.formats.reading import Labelled, as_dataset
from keylite.data.mirror import Mirrored, as_permutation
from keylite.evaluation.metrics import point_errors
from keylite.runtime.boxes import as_boxes, box_problems
from keylite.runtime.errors import ArgumentError
from keylite.runtime.geometry import Crop, cut, draw_jitter, from_units, jittered, whole_box
from keylite.runtime.kinds import kind_words, number_of
from keylite.runtime.predictor import Predictor, as_predictor
from keylite.runtime.progress import step
from keylite.runtime.spec import ModelSpec
from keylite.runtime.stream import Cut, Task, answers
from keylite.runtime.types import Boxes, FilePath
from keylite.runtime.words import SHOWN, counted, listed, quoted


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The points that a model predicts for the N objects of a data set; K is the number of keypoints.

    Attributes:
        xy: (N, K, 2) px of the image.
        unit_xy: (N, K, 2) unit coordinates of the crop: 0 to 1 is inside.
        score: (N, K): the larger, the surer. NaN if the head gives no score.
        boxes: (N, 4) xyxy px of the image: the boxes that the crops were cut around, before padding.
        crops: The N crops. Empty if no image was cropped (`predict_shape`).
        normaliser_boxes: (N, 4) xyxy px: the boxes that the NME (normalised mean error) is measured by. They are never
            jittered: those of the labels, else those that you gave, or whole images. None: they are `boxes`.
        sigma: (N, K): the distance to expect between a point and its label, px of the image. None or NaN: unknown.
        unlearnt: Keypoints that no training object labels, or hardly any, with the number of objects that do. Figures
            over all keypoints leave them out.
        hidden: Whether figures count labelled points of visibility 1; not if the model was trained without them.
    """

    xy: np.ndarray
    unit_xy: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    crops: tuple[Crop, ...]
    normaliser_boxes: np.ndarray | None = None
    sigma: np.ndarray | None = None
    unlearnt: dict[str, int] = dataclasses.field(default_factory=dict)
    hidden: bool = True

    def __repr__(self) -> str:
        objects, keypoints, _ = self.xy.shape
        return f"Predictions({counted(objects, 'object')}, {counted(keypoints, 'keypoint')})"


def joined(parts: Sequence[Predictions], order: np.ndarray) -> Predictions:
    """The predictions of several parts of a data set as one, in this order (N,): indices into the parts in a row."""

    def of(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])[order]

    def of_all(name: str) -> np.ndarray | None:
        return None if any(getattr(part, name) is None for part in parts) else of(name)

    crops = [crop for part in parts for crop in part.crops]
    return Predictions(
        **{name: of(name) for name in ("xy", "unit_xy", "score", "boxes")},
        crops=tuple(crops[i] for i in order),
        normaliser_boxes=of_all("normaliser_boxes"),
        sigma=of_all("sigma"),
        unlearnt={
            name: min(part.unlearnt[name] for part in parts if name in part.unlearnt)
            for name in dict.fromkeys(name for part in parts for name in part.unlearnt)
        },
        hidden=all(part.hidden for part in parts),
    )


def counted_xy(predictions: Predictions, dataset: Dataset) -> np.ndarray:
    """(N, K, 2) px: the labels that count for these predictions; NaN for hidden points if the model does without."""
    return dataset.xy if predictions.hidden else seen_xy(dataset)


def measured_xy(predictions: Predictions, dataset: Dataset, mirror: Sequence[int] | None = None) -> np.ndarray:
    """(N, K, 2) px: the labels that predictions are measured by; NaN for keypoints that training hardly labelled.

    mirror: (K) the keypoint that each becomes in a flip. If one of both is hardly labelled, both are NaN.
    """
    left_out = np.array([name in predictions.unlearnt for name in dataset.skeleton.names])
    if mirror is not None:
        left_out |= left_out[list(mirror)]
    xy = counted_xy(predictions, dataset)
    return np.where(left_out[:, None], np.nan, xy) if left_out.any() else xy


def errors_of(predictions: Predictions, dataset: Dataset) -> np.ndarray:
    """Distances (N, K) px from predictions to labels (see `measured_xy`); NaN where there is no label to measure by."""
    return point_errors(predictions.xy, measured_xy(predictions, dataset))


def predict_dataset(
    predictor: Predictor | FilePath,
    data: Labelled,
    *,
    boxes: Boxes | None = None,
    jitter_box: float = 0.0,
    generator: np.random.Generator | None = None,
    mirror: Mirrored | None = None,
) -> Predictions:
    """Predict the points of every object of a data set. Each image is read once.

    Args:
        predictor: The model file, or an open predictor.
        data: The N labelled objects, or the path of a label file. Their labels are not used.
        boxes: (N, 4) xyxy px of the image to crop around, such as a detector's. None: the boxes of the labels, or whole
            images, as the model file says.
        jitter_box: Moves and scales each box at random by up to this fraction of its sides, below 1. 0: not at all.
        generator: Where the random numbers of `jitter_box` come from; needed if that is not 0.
        mirror: The pairs of keypoints that a flip swaps, by name or number, or (K) the keypoint that each becomes. The
            model then sees mirrored images; its points are mirrored back. None: images as they are.

    Returns:
        The predictions, in the order of the objects.

    Raises:
        ImageError: An image cannot be read.
        ArgumentError: The number of keypoints differs, a box is missing, or an argument is out of its range.
    """
    predictor, data = as_predictor("predictor", predictor), as_dataset("data", data)
    spec = predictor.spec
    if len(spec.skeleton) != len(data.skeleton):
        raise ArgumentError(
            f"model has {len(spec.skeleton)} keypoints, data has {len(data.skeleton)}; "
            "evaluate on data with the keypoints that the model was trained on"
        )
    if not 0 <= number_of(jitter_box) < 1:
        raise ArgumentError(f"jitter_box: expected a fraction of the box's side in 0..1, got {quoted(jitter_box)}")
    if jitter_box and not isinstance(generator, np.random.Generator):
        raise ArgumentError(f"jitter_box: expected a numpy Generator beside it, got {kind_words(generator)}")
    swaps = None if mirror is None else list(as_permutation("mirror", mirror, spec.skeleton.names))
    given = known_boxes(data, boxes, spec.box)
    data = dataclasses.replace(data, white_level=spec.white_level)
    images = _Images(predictor, data, given, jitter_box, generator, swaps is not None)
    count, keypoints = len(data), len(spec.skeleton)
    unit_xy, score = np.zeros((count, keypoints, 2)), np.full((count, keypoints), np.nan)
    crop_boxes, normaliser_boxes = np.zeros((count, 4)), np.zeros((count, 4))
    crops: dict[int, Crop] = {}
    annotated = data.boxed

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = predictor.run(pixels)
        tell(len(pixels))
        return points

    with (
        step(f"finding the points of {data.called}", count) as tell,
        contextlib.closing(answers(images.tasks(), run, batch=predictor.batch)) as answered,
    ):
        for cut, points in answered:
            objects, whole = cut.source, np.array([[0, 0, *cut.size]], np.float64)
            crop_boxes[objects] = cut.boxes
            # A detector's boxes must not change the length that errors are divided by: the labels' boxes go first.
            asked = np.tile(whole, (len(objects), 1)) if given is None else given[objects]
            own = np.where(annotated[objects, None], data.box[objects], asked)
            normaliser_boxes[objects] = whole if spec.box == "image" else own
            for row, crop, (unit, how_sure) in zip(objects.tolist(), cut.crops, points, strict=True):
                crops[row], unit_xy[row], score[row] = crop, unit, how_sure
    if swaps is not None:
        unit_xy, score = unit_xy[:, swaps], score[:, swaps]
    in_order = tuple(crops[row] for row in range(count))
    xy = np.stack([crop.from_unit(points) for crop, points in zip(in_order, unit_xy, strict=True)])
    sigma = predictor.sigma(score, in_order)
    return Predictions(
        xy, unit_xy, score, crop_boxes, in_order, normaliser_boxes, sigma, spec.unlearnt, hidden=spec.teaches_hidden
    )


@dataclasses.dataclass(frozen=True)
class _Images:
    """The images of a data set as tasks of a stream, each with all its objects; see `predict_dataset`.

    boxes: (N, 4) xyxy px; None: whole images.
    """

    predictor: Predictor
    data: Dataset
    boxes: np.ndarray | None
    jitter_box: float
    generator: np.random.Generator | None
    mirrored: bool

    def tasks(self) -> Iterator[Task]:
        """One task per image, in the order of the images."""
        by_image = np.argsort(self.data.image_index, kind="stable")
        for objects in np.split(by_image, np.flatnonzero(np.diff(self.data.image_index[by_image])) + 1):
            jitter = None
            if self.jitter_box and self.generator is not None:
                jitter = draw_jitter(len(objects), self.jitter_box, self.generator)
            yield Task(objects, len(objects), functools.partial(self.cut, objects, jitter))

    def cut(self, objects: np.ndarray, jitter: np.ndarray | None) -> Cut:
        """The crops of one image's objects. ArgumentError names the object if its box lies outside of the image."""
        image = self.data.open_image(int(self.data.image_index[objects[0]]))
        whole = np.tile(whole_box(image), (len(objects), 1))
        asked = whole if self.boxes is None else self.boxes[objects]
        if self.boxes is not None:
            for row, words in box_problems(asked, whole[:, 2:]).items():
                raise ArgumentError(f"{self.data.sample_name(int(objects[row]))}: {words}")
        asked = asked if jitter is None else jittered(asked, jitter)
        crops = self.predictor.crops(image, asked)
        if self.mirrored:
            flip = np.array([[-1.0, 0, self.predictor.spec.size[0]], [0, 1, 0]])
            crops = [crop.then(flip, mirrored=True) for crop in crops]
        pixels = cut(image, crops, self.data.checked)
        return Cut(objects, (image.shape[1], image.shape[0]), asked, crops, pixels)


def predict_shape(unit_xy: np.ndarray, spec: ModelSpec, dataset: Dataset) -> Predictions:
    """The predictions of a model of this spec that gives the same points (K, 2) for every crop; no image is read.

    Raises ArgumentError if the model crops by a box and an object has none.
    """
    given = known_boxes(dataset, None, spec.box)
    boxes = dataset.whole_boxes() if given is None else given
    xy = from_units(unit_xy.astype(np.float64), boxes, spec.size, 0.0 if given is None else spec.padding)
    score = np.full(xy.shape[:2], np.nan, np.float32)
    return Predictions(
        xy, np.broadcast_to(unit_xy, xy.shape), score, boxes, (), unlearnt=spec.unlearnt, hidden=spec.teaches_hidden
    )


def known_boxes(dataset: Dataset, boxes: Boxes | None, box: str) -> np.ndarray | None:
    """The boxes (N, 4) to crop around: those given, else those of the labels. None: whole images."""
    if boxes is not None:
        array = as_boxes(boxes)
        if len(array) != len(dataset):
            raise ArgumentError(f"boxes: expected {len(dataset)}, one per object of {dataset.called}, got {len(array)}")
        return array
    if box == "image":
        return None
    bad = np.flatnonzero(~dataset.boxed)
    if len(bad):
        line = f"{dataset.called}: the model crops by a box, and {len(bad)} of {len(dataset)} objects lack one"
        names = listed(line, [dataset.sample_name(int(i)) for i in bad[:SHOWN]], len(bad))
        raise ArgumentError(f"{names}; train with `box='image'`, or pass `boxes=FILE`")
    return dataset.box
