"""Predicted points as labels that a tool can open: the formats of `keylite convert`, and COCO results.

The points become a data set like any other, so the writers are those of labels; Scores lie beside it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keylite.data.checks import name_notes
from keylite.data.dataset import Dataset
from keylite.data.examples import crop_boxes
from keylite.data.formats.coco_writing import coco_results_of
from keylite.data.formats.converting import TARGETS, lost, require_names, write_labels
from keylite.data.formats.scores import Scores, likelihood_of
from keylite.prediction.points import FoundByName
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import require_outputs, write_bytes
from keylite.runtime.images import image_size
from keylite.runtime.keypoints import Keypoints
from keylite.runtime.kinds import kind_words, path_of, require_calls, require_choice
from keylite.runtime.predictor import Found, Predictor, as_predictor
from keylite.runtime.spec import ModelSpec
from keylite.runtime.types import Boxes, FilePath
from keylite.runtime.words import quoted

log = logging.getLogger("keylite")

RESULTS = "coco-results"
PRELABELS = ("coco", RESULTS, *(name for name in TARGETS if name != "coco"))
FOLDERS = tuple(name for name, target in TARGETS.items() if not target.suffix)  # formats that are no single file
OBJECT = "object"  # the category of a model whose training labels did not say it
NOTHING = "predict: expected an object in some image, got none; look at the images and at their boxes"
Images = Iterable[FilePath | tuple[FilePath, Boxes | None]]


def write_points(
    predictor: Predictor | FilePath,
    images: Images | Dataset,
    out: FilePath,
    *,
    format: str = "coco",
    on_bad: Callable[[FilePath, Exception], None] | None = None,
) -> tuple[str, ...]:
    """Find the points in images, and write them as labels for a labelling tool, as `keylite predict --format` does.

    Points are shifted as each format counts them. Scores and sigma go where the format has a place.

    Args:
        predictor: The model file, or an open predictor.
        images: Paths of images, or pairs (path, boxes), as `Predictor.stream` takes them; an image that comes twice is
            written once. Or a data set: then each of its objects gets points, and ids, boxes, groups, the names of
            images and which points are hidden stay as its labels have them.
        out: The file to write; a folder for "yolo" (new or empty) and "labelme".
        format: "coco", "coco-results", "yolo", "labelme", "label-studio", "cvat", "dlc" or "csv".
        on_bad: A function of (image, error) that is called for each image that cannot be used and is left out. None:
            the first such image is an error. A data set is checked before, so there it is not used.

    Returns:
        A line for each thing that the format cannot hold, such as scores in YOLO; empty if it holds everything.

    Raises:
        ArgumentError: An argument has a wrong value, there is no object, or `out` cannot be written.
        DataError: The format cannot hold these objects at all, or an object of the data set has no box to crop around.
        ImageError: An image cannot be used.

    Example:
        >>> keylite.write_points("faces.onnx", ["a.jpg", "b.jpg"], "prelabels.json", format="label-studio")
    """
    require_choice("format", format, PRELABELS)
    require_calls(on_bad=on_bad)
    out, predictor = path_of("out", out), as_predictor("predictor", predictor)
    require_outputs({"out": out}, {"model": predictor.path}) if format not in FOLDERS else None
    if isinstance(images, Dataset):
        return write_prelabels(*points_of_data(predictor, images), out, format)
    if isinstance(images, str | Path):
        raise ArgumentError(f"images: expected a list of images or a data set, got {quoted(str(images))}")
    by_name: dict[str, Found[Any]] = {}
    for one in predictor.stream(images, on_bad=on_bad):
        if not isinstance(one.source, str | Path):
            raise ArgumentError(f"images: expected paths of images, got {kind_words(one.source)}")
        by_name[str(one.source)] = one
    return write_prelabels(*points_of_images(by_name, predictor), out, format)


def points_of_images(found: FoundByName, predictor: Predictor) -> tuple[Dataset, Scores]:
    """The points of images, by the name of the image, as a data set with scores.

    A box that is the whole image is no box, because nobody drew it. ArgumentError if there is no object.
    """
    counts = [len(one.points) for one in found.values()]
    if not sum(counts):
        raise ArgumentError(NOTHING)
    index = np.repeat(np.arange(len(found), dtype=np.int32), counts)
    sizes = np.array([one.size for one in found.values()], np.int64)
    points = [one.points for one in found.values()]
    boxes = np.concatenate([each.boxes for each in points]).astype(np.float64)
    whole = np.concatenate([np.zeros_like(sizes), sizes], axis=1)[index]
    xy = _finite(np.concatenate([each.xy for each in points]))
    names, spec = tuple(found), predictor.spec
    data = Dataset(
        skeleton=spec.skeleton,
        images=tuple(Path(one.source) for one in found.values()),
        image_names=names,
        image_index=index,
        xy=xy,
        visible=_visible(xy),
        box=np.where((boxes == whole).all(axis=1)[:, None], np.nan, boxes),
        area=np.full(len(xy), np.nan),
        groups=names,
        group_index=index.copy(),
        name="predictions",
        groups_named=False,
        image_sizes=sizes,
        category=spec.category or OBJECT,
    )
    return data, _scores(points, boxes, predictor)


def points_of_data(predictor: Predictor, data: Dataset) -> tuple[Dataset, Scores]:
    """The data set with predicted points in place of its labels, and their scores.

    A point that the labels call hidden stays hidden. Raises ArgumentError if the keypoints differ, DataError if an
    object has no box to crop around.
    """
    spec = predictor.spec
    _require_alike(spec, data)
    boxes = crop_boxes(data, spec.box)
    rows = [np.flatnonzero(data.image_index == image) for image in range(len(data.images))]
    asked = ((image, None if boxes is None else boxes[own]) for image, own in zip(data.images, rows, strict=True))
    points = [one.points for one in predictor.stream(asked)]
    order = np.argsort(np.concatenate(rows))
    xy = _finite(np.concatenate([each.xy for each in points])[order])
    scores = _scores(points, np.concatenate([each.boxes for each in points]), predictor)
    scores = Scores(scores.score[order], scores.sigma[order], scores.likelihood[order], scores.model)
    visible = np.where(np.isfinite(xy).all(axis=2) & (data.visible == 1), 1, _visible(xy)).astype(np.uint8)
    category = data.category or spec.category or OBJECT
    return dataclasses.replace(data, skeleton=spec.skeleton, xy=xy, visible=visible, category=category), scores


def prelabels_text(data: Dataset, scores: Scores, format: str) -> bytes:
    """The text of a format that is a single file."""
    require_names(data, format)
    if format == RESULTS:
        return coco_results_of(data, scores)
    text = TARGETS[format].text
    assert text is not None
    return text(data, np.array([image_size(image) for image in data.images]), scores)


def write_prelabels(data: Dataset, scores: Scores, out: Path, format: str) -> tuple[str, ...]:
    """Write points that were predicted; see `write_points`."""
    if format == RESULTS:
        require_outputs({"out": out}, data.files_named((out.name,)))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, prelabels_text(data, scores, format))
    else:
        write_labels({"": data}, out, format, scores)
    return lost_lines(data, scores, format)


def lost_lines(data: Dataset, scores: Scores, format: str) -> tuple[str, ...]:
    """A line for each thing that the format cannot hold, or that the model does not give."""
    lines = [] if format == RESULTS else list(lost(data, format, scores=scores))
    if format == "dlc" and not np.isfinite(scores.sigma).any():
        lines.append("likelihood: these cells are empty, because the model gives no sigma (docs/evaluation.md)")
    return tuple(lines)


def _require_alike(spec: ModelSpec, data: Dataset) -> None:
    """Raise ArgumentError if model and data have another number of keypoints, or the same ones in another order.

    A warning says which names differ.
    """
    own, theirs = spec.skeleton.names, data.skeleton.names
    if len(own) != len(theirs):
        raise ArgumentError(f"{data.called}: expected the model's {len(own)} keypoints, got {len(theirs)}")
    for line in name_notes(spec.skeleton, data.skeleton):
        log.warning("%s: %s", data.called, line)


def _scores(points: list[Keypoints], boxes: np.ndarray, predictor: Predictor) -> Scores:
    sigma = np.concatenate([each.sigma for each in points])
    score = np.concatenate([each.score for each in points])
    return Scores(score, sigma, likelihood_of(sigma, boxes), predictor.path.name if predictor.path else "keylite")


def _finite(xy: np.ndarray) -> np.ndarray:
    """Points (N, K, 2); NaN for those that have no place."""
    return np.where(np.isfinite(xy).all(axis=2, keepdims=True), xy, np.nan)


def _visible(xy: np.ndarray) -> np.ndarray:
    """(N, K): 2 for a point that has a place, else 0."""
    return np.where(np.isfinite(xy).all(axis=2), 2, 0).astype(np.uint8)
