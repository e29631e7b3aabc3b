"""Flips: whether labels sit to one side of where a flip expects them, measured by predicting mirrored images, too.

People and tools that label may place every point a little to one side. A flip in training then teaches the opposite
side, and the model learns the middle between both.
"""

from __future__ import annotations

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.formats.reading import Labelled, as_dataset
from keylite.data.mirror import Mirrored, as_permutation, choose_mirror
from keylite.evaluation.metrics import group_intervals, nme_of, point_errors
from keylite.evaluation.normaliser import read_normaliser
from keylite.evaluation.predictions import Predictions, measured_xy, predict_dataset
from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import require_kind, require_whole
from keylite.runtime.predictor import Predictor, as_predictor
from keylite.runtime.results import Result
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.tables import Table, as_html, as_text
from keylite.runtime.types import FilePath
from keylite.runtime.words import counted

NEGLIGIBLE = 0.002  # as a fraction of the box's width: a quarter of a px if the box is 128 px wide
LARGEST = 0.1  # as a fraction of the box's width: the largest `flip_offset` that a recipe takes


class FlipReport(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labels compared with two predictions: of the images, and of the mirrored images, mirrored back.

    `print(report)` shows what `keylite evaluate --flips` prints.

    Attributes:
        offset: How far labels sit right of the middle between both predictions: the mean over labelled points, px of
            the image.
        offset_interval: The 95 % interval of `offset`, by group. None: there are too few groups.
        offset_of_box: The same as a fraction of the box's width, as the recipe's `flip_offset` takes it.
        offset_of_box_interval: Its 95 % interval, or None.
        plain: The mean NME (normalised mean error, a fraction) of the predictions.
        mirrored: The mean NME of the predictions of the mirrored images.
        flip_test: The mean NME of the middle between both predictions.
        centred: The mean NME of the middle, moved by `offset`.
        mean_shape: The mean NME of the labels' mean shape, given for every crop.
        disagreement: The mean distance between both predictions, px of the image.
        normalize: The normaliser of the NMEs.
        count: The number of objects.
    """

    offset: float
    offset_interval: tuple[float, float] | None
    offset_of_box: float
    offset_of_box_interval: tuple[float, float] | None
    plain: float
    mirrored: float
    flip_test: float
    centred: float
    mean_shape: float
    disagreement: float
    normalize: str
    count: int

    def __repr__(self) -> str:
        offset = f"labels sit {self.offset:+.2f} px right of the symmetric place"
        return f"FlipReport({offset}, {counted(self.count, 'object')})"

    def __str__(self) -> str:
        return as_text([Table((), flip_rows(self))])

    def _repr_html_(self) -> str:
        return as_html([Table((), flip_rows(self))])

    @property
    def telling(self) -> bool:
        """Whether the model is better than the labels' mean shape; else the offset says nothing about the labels.

        A model that predicts nearly the same for every crop shows only where objects lie in their boxes.
        """
        return self.plain < self.mean_shape

    def sit_at(self, place: float) -> bool:
        """Whether the labels may sit at this place, so that flips need no change.

        They may if the interval contains the place, if there is no interval, if the offset differs by less than 0.002
        (a negligible distance), or if the model is not `telling`.

        Args:
            place: Right of the symmetric place, as a fraction of the box's width. 0: the symmetric place itself.
        """
        if not self.telling:
            return True
        if self.offset_of_box_interval is None or abs(self.offset_of_box - place) < NEGLIGIBLE:
            return True
        return self.offset_of_box_interval[0] <= place <= self.offset_of_box_interval[1]

    @property
    def remedy(self) -> str:
        """What to do if the labels sit elsewhere than training assumed."""
        if abs(self.offset_of_box) > LARGEST:
            return "train without flips (`flip_p=0`)"
        return f"train with `flip_offset={self.offset_of_box:.4f}`, or without flips (`flip_p=0`)"


def flip_report(
    predictor: Predictor | FilePath,
    data: Labelled,
    mirror: Mirrored | None = None,
    *,
    plain: Predictions | None = None,
    normalize: str | None = None,
    seed: int = 0,
) -> FlipReport:
    """Measure whether labels sit to one side, by predicting the mirrored images of a data set, too.

    The offset does not depend on whether the model was trained with flips; the NMEs do.

    Args:
        predictor: The model file, or an open predictor.
        data: The labelled images, or the path of a label file.
        mirror: The pairs of keypoints that a flip swaps, by name or number, or (K) the keypoint that each becomes.
            None: those of the model, or else those that the labels suggest.
        plain: The predictions for `data`, if they were made already. None: they are made here.
        normalize: The normaliser of the NMEs; see `evaluate`. None: the model file's.
        seed: The seed of the random numbers behind the intervals.

    Returns:
        The report.

    Raises:
        ArgumentError: An argument has a wrong value; there is no labelled point to compare with; or `mirror` is None,
            and neither the model nor the labels say what a flip swaps.
    """
    require_whole("seed", seed, least=0)
    require_kind("plain", plain, (Predictions, type(None)), "Predictions", "use predict_dataset(predictor, data)")
    predictor, data = as_predictor("predictor", predictor), as_dataset("data", data)
    normalize = predictor.spec.normalize if normalize is None else normalize
    read_normaliser(normalize, data.skeleton.names)
    if mirror is None:
        swaps = mirror_of(predictor.spec.skeleton, data, seed)
    else:
        swaps = as_permutation("mirror", mirror, predictor.spec.skeleton.names)
    plain = plain or predict_dataset(predictor, data)
    back = predict_dataset(predictor, data, boxes=plain.boxes, mirror=swaps)
    middle = (plain.xy + back.xy) / 2
    true = measured_xy(plain, data, swaps)
    labelled = np.isfinite(point_errors(middle, true))
    if not labelled.any():
        raise ArgumentError(f"{data.called}: expected labelled points to compare the predictions with, got none")
    shift = np.where(labelled, true[..., 0] - middle[..., 0], 0)
    width = plain.boxes[:, 2] - plain.boxes[:, 0]
    sums = np.stack([shift.sum(axis=1), (shift / width[:, None]).sum(axis=1)], axis=1)
    intervals = group_intervals(sums, labelled.sum(axis=1), data.group_index, np.random.default_rng(seed))
    pairs = [None, None] if intervals is None else [(float(low), float(high)) for low, high in intervals]
    offset = float(shift.sum() / labelled.sum())
    boxes = plain.boxes if plain.normaliser_boxes is None else plain.normaliser_boxes
    length = read_normaliser(normalize, data.skeleton.names).lengths(data.xy, boxes)

    unit = np.stack([crop.to_unit(own) for crop, own in zip(plain.crops, true, strict=True)])
    shape = np.where(labelled[..., None], unit, 0).sum(axis=0) / np.maximum(labelled.sum(axis=0), 1)[:, None]

    def nme(xy: np.ndarray) -> float:
        return float(np.nanmean(nme_of(point_errors(xy, true), length)))

    return FlipReport(
        offset=offset,
        offset_interval=pairs[0],
        offset_of_box=float(sums[:, 1].sum() / labelled.sum()),
        offset_of_box_interval=pairs[1],
        plain=nme(plain.xy),
        mirrored=nme(back.xy),
        flip_test=nme(middle),
        centred=nme(middle + np.array([offset, 0.0])),
        mean_shape=nme(np.stack([crop.from_unit(shape) for crop in plain.crops])),
        disagreement=float(np.nanmean(np.linalg.norm(plain.xy - back.xy, axis=-1))),
        normalize=normalize,
        count=len(data),
    )


def mirror_of(skeleton: Skeleton, data: Dataset, seed: int) -> tuple[int, ...]:
    """The mirror of a model's skeleton, or else the one that the labels suggest; ArgumentError if neither says one.

    seed: of random choices in the check of the labels.
    """
    if skeleton.mirror is not None:
        return skeleton.mirror
    suggested = choose_mirror(data, None, seed)
    if suggested.permutation is None:
        raise ArgumentError(f"flips: neither the model nor the data says what a flip swaps: {suggested.line}")
    return suggested.permutation


def flip_doubt(report: FlipReport, used: float) -> str | None:
    """A line for the user if labels sit elsewhere than training assumed, else None.

    used: the `flip_offset` of the training, a fraction of the box's width.
    """
    r = report
    if r.sit_at(used):
        return None
    side = "right" if r.offset > 0 else "left"
    return (
        f"flips: labels are not mirror-symmetric: they sit {abs(r.offset):.2f} px {side} of their mirrored place "
        f"({r.offset_of_box:+.4f} of the box, trained with {used:g}); {r.remedy}, "
        "and see keylite evaluate --flips"
    )


def flip_rows(report: FlipReport) -> list[tuple[str, str]]:
    """(label, value) texts of a report; the last one says what to do."""
    r = report
    between = f" [{r.offset_interval[0]:+.2f}, {r.offset_interval[1]:+.2f}]" if r.offset_interval else ""
    if r.offset_interval is None:
        advice = "nothing: there are too few groups for an interval"
    elif not r.telling:
        advice = "nothing: the model is no better than the labels' mean shape"
    elif r.sit_at(0):
        advice = "flip as usual: no offset can be seen"
    else:
        advice = r.remedy
    return [
        (
            "labels sit right of the symmetric place by",
            f"{r.offset:+.2f}{between} px, {r.offset_of_box:+.4f} of the box",
        ),
        (f"NME by {r.normalize}", f"{r.plain:.2%}"),
        ("NME of the mirrored images", f"{r.mirrored:.2%}"),
        ("NME of the mean of both (flip test)", f"{r.flip_test:.2%}"),
        ("NME of that mean, moved by the offset", f"{r.centred:.2%}"),
        ("NME of the labels' mean shape", f"{r.mean_shape:.2%}"),
        ("both predictions lie apart by", f"{r.disagreement:.2f} px"),
        ("what to do", advice),
    ]
