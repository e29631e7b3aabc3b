"""What flips cost: predictions held to those of mirrored images, and labels that are not mirror-symmetric.

Annotators, and tools that annotate, may place every point a little to one side. A flip then teaches the opposite side,
and the model settles between both. Knows nothing of training, frameworks or how a report is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.metrics import group_intervals, nme_of, normaliser, point_errors
from keylite.evaluation.predictions import Predictions, measured_xy, predict_dataset
from keylite.runtime.errors import ArgumentError

if TYPE_CHECKING:
    from keylite.runtime.predictor import Predictor


NEGLIGIBLE = 0.002  # of the box's width: a quarter of a px of 128
LARGEST = 0.1  # of the box's width: what a recipe takes


class FlipReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labels and predictions beside those of the mirrored images, mirrored back.

    offset: how far labels sit right of the middle between both predictions, mean over labelled points, px of the
    original image, with its 95 % interval by group; offset_of_box: the same as fractions of the box's width, which are
    what the recipe's `flip_offset` takes. Mean NMEs as fractions: plain: of the predictions; mirrored: of those of the
    mirrored images; flip_test: of their mean; centred: of their mean moved by the offset; mean_shape: of giving every
    crop the mean of the labels. disagreement: mean distance between both predictions, px of the original image.
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

    @property
    def telling(self) -> bool:
        """Whether the model beats the labels' mean shape.

        The offset of one that does not, and says nearly the same of every crop, tells where objects lie in their boxes.
        """
        return self.plain < self.mean_shape

    def sit_at(self, place: float) -> bool:
        """Whether labels sit there, a fraction of the box's width right of the symmetric place, for all that is known.

        So it is where the interval holds that place, where there is none, within NEGLIGIBLE of it, and where the
        model is not telling.
        """
        if not self.telling:
            return True
        if self.offset_of_box_interval is None or abs(self.offset_of_box - place) < NEGLIGIBLE:
            return True
        return self.offset_of_box_interval[0] <= place <= self.offset_of_box_interval[1]

    @property
    def remedy(self) -> str:
        """What to do where they sit elsewhere than they were trained to."""
        if abs(self.offset_of_box) > LARGEST:
            return "train without flips (`flip_p=0`)"
        return f"train with `flip_offset={self.offset_of_box:.4f}`, or without flips (`flip_p=0`)"


def flip_report(
    predictor: Predictor,
    data: Dataset,
    mirror: Sequence[int],
    *,
    plain: Predictions | None = None,
    normalize: str | None = None,
    seed: int = 0,
) -> FlipReport:
    """Predict a data set mirrored too, and say where its labels sit beside both predictions.

    mirror: (K) the keypoint that each becomes in a flip. plain: predictions that are there already. The offset does not
    depend on whether the model was trained with flips; what the NMEs say of them does.
    """
    normalize = normalize or predictor.spec.normalize
    plain = plain or predict_dataset(predictor, data)
    back = predict_dataset(predictor, data, boxes=plain.boxes, mirror=mirror)
    middle = (plain.xy + back.xy) / 2
    true = measured_xy(plain, data, mirror)
    labelled = np.isfinite(point_errors(middle, true))
    if not labelled.any():
        raise ArgumentError(f"{data.called}: no labelled point to hold the predictions to")
    beside = np.where(labelled, true[..., 0] - middle[..., 0], 0)
    width = plain.boxes[:, 2] - plain.boxes[:, 0]
    sums = np.stack([beside.sum(axis=1), (beside / width[:, None]).sum(axis=1)], axis=1)
    intervals = group_intervals(sums, labelled.sum(axis=1), data.group_index, np.random.default_rng(seed))
    pairs = [None, None] if intervals is None else [(float(low), float(high)) for low, high in intervals]
    offset = float(beside.sum() / labelled.sum())
    boxes = plain.boxes if plain.normaliser_boxes is None else plain.normaliser_boxes
    length = normaliser(normalize, data.xy, boxes, data.skeleton.names)

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


def flip_doubt(report: FlipReport, used: float) -> str | None:
    """A line where labels sit elsewhere than training took them to, `used` as a fraction of the box's width.

    None where they sit there.
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
    """(label, value) texts of a report, and what to do."""
    r = report
    between = f" [{r.offset_interval[0]:+.2f}, {r.offset_interval[1]:+.2f}]" if r.offset_interval else ""
    if r.offset_interval is None:
        advice = "nothing: too few groups for an interval"
    elif not r.telling:
        advice = "nothing: the model is no better than the labels' mean shape"
    elif r.sit_at(0):
        advice = "flip about the middle, as usual: no offset to be seen"
    else:
        advice = r.remedy
    return [
        (
            "labels sit right of the symmetric place by",
            f"{r.offset:+.2f}{between} px, {r.offset_of_box:+.4f} of the box",
        ),
        (f"NME by {r.normalize}", f"{r.plain:.2%}"),
        ("of the mirrored images", f"{r.mirrored:.2%}"),
        ("of the mean of both (flip test)", f"{r.flip_test:.2%}"),
        ("of that mean, moved by the offset", f"{r.centred:.2%}"),
        ("of the labels' mean shape", f"{r.mean_shape:.2%}"),
        ("both predictions lie apart by", f"{r.disagreement:.2f} px"),
        ("so", advice),
    ]
