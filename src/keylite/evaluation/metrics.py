"""Metrics: how far predicted points are from labelled ones, from plain arrays.

N objects, K keypoints, px of the image; NaN where there is no label. Knows no data sets, models or reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import number_of
from keylite.runtime.packages import require
from keylite.runtime.words import quoted

FAILURE_LIMIT = 0.10  # an object whose NME is larger has failed; the AUC ends here, too: the convention of 300-W
DRAWS = 2000  # bootstrap draws: the ends of a 95 % interval then move by about 2 % of its width between seeds
FEWEST_GROUPS = 5  # with fewer groups, drawing them again says nothing about other groups
CHUNK = 2**20  # drawn group numbers in memory at a time


def point_errors(xy_pred: np.ndarray, xy_true: np.ndarray) -> np.ndarray:
    """Distances (N, K) px between points (N, K, 2) and labels (N, K, 2); NaN where there is no label.

    Raises ArgumentError if a labelled point is predicted as NaN or Inf: a mean without it would flatter the model.
    """
    if xy_pred.shape != xy_true.shape or xy_true.ndim != 3 or xy_true.shape[2] != 2:
        raise ArgumentError(
            f"points: expected two arrays of one shape (N, K, 2), got {xy_pred.shape} and {xy_true.shape}"
        )
    labelled = np.all(np.isfinite(xy_true), axis=2)
    lost = labelled & ~np.isfinite(xy_pred).all(axis=2)
    if lost.any():
        raise ArgumentError(
            f"predictions: expected finite points, got NaN or Inf at {lost.sum()} of {labelled.sum()} labelled points; "
            "the training diverged, or the model file is damaged"
        )
    return np.linalg.norm(np.where(labelled[..., None], xy_pred - xy_true, np.nan), axis=2)


def median_extent(xy: np.ndarray, boxes: np.ndarray) -> tuple[float, float] | None:
    """How large objects are: the diagonal around their labelled points, in px and as a fraction of the box's diagonal.

    Both are medians over objects. xy: (N, K, 2), NaN where unlabelled. boxes: (N, 4) xyxy px. None: no object has
    two labelled points in different places.
    """
    labelled = np.isfinite(xy).all(axis=2, keepdims=True)
    sides = np.where(labelled, xy, -np.inf).max(axis=1) - np.where(labelled, xy, np.inf).min(axis=1)
    apart = np.maximum(sides, 0).any(axis=1)  # sides are -inf for an object without a label
    if not apart.any():
        return None
    extent = np.hypot(*sides[apart].T)
    diagonal = np.hypot(*(boxes[apart, 2:] - boxes[apart, :2]).T)
    return float(np.median(extent)), float(np.median(extent / diagonal))


def nme_of(errors: np.ndarray, normaliser_px: np.ndarray) -> np.ndarray:
    """Each object's NME (N,), a fraction: the mean of its labelled errors (N, K), divided by its normaliser (N,).

    NaN if an object has no labelled point, or its normaliser is NaN or 0.
    """
    labelled = np.isfinite(errors)
    counts = labelled.sum(axis=1)
    usable = (counts > 0) & (normaliser_px > 0)  # a comparison with NaN is False
    nme = np.full(len(errors), np.nan)
    means = np.where(labelled, errors, 0).sum(axis=1)[usable] / counts[usable]
    nme[usable] = means / normaliser_px[usable]
    return nme


def failure_rate_of(nme: np.ndarray, limit: float = FAILURE_LIMIT) -> float:
    """The share of objects whose NME (N,) is above `limit`, among those that have one."""
    return float(np.mean(nme[np.isfinite(nme)] > limit))


def auc_of(nme: np.ndarray, limit: float = FAILURE_LIMIT) -> float:
    """The exact area under the curve of shares of objects with an NME (N,) below t, for t from 0 to `limit`.

    It is divided by `limit`: 1 is perfect. Each object adds the part of the interval that is above its NME.
    """
    return float(np.mean(np.maximum(0, 1 - nme[np.isfinite(nme)] / limit)))


def pck_of(errors: np.ndarray, normaliser_px: np.ndarray, at: float) -> float:
    """The share of labelled points with error < `at` * normaliser, among objects that have a normaliser."""
    counted = np.isfinite(errors) & (normaliser_px > 0)[:, None]
    return float(np.mean((errors < at * normaliser_px[:, None])[counted]))


def group_intervals(
    sums: np.ndarray, counts: np.ndarray, group_index: np.ndarray, generator: np.random.Generator
) -> np.ndarray | None:
    """95 % intervals (D, 2) of D means, sums.sum() / counts.sum(), by drawing groups with replacement (bootstrap).

    sums: (N, D) and counts: (N,), per object. Whole groups are drawn because objects of one group resemble each other.
    None if fewer than FEWEST_GROUPS groups have a count above 0.
    """
    columns = np.column_stack([sums, counts])
    table = np.column_stack([np.bincount(group_index, column) for column in columns.T])
    table = table[table[:, -1] > 0]
    if len(table) < FEWEST_GROUPS:
        return None
    rows = max(1, CHUNK // len(table))
    totals = np.concatenate(
        [_drawn(len(table), min(rows, DRAWS - start), generator) @ table for start in range(0, DRAWS, rows)]
    )
    return np.percentile(totals[:, :-1] / totals[:, -1:], [2.5, 97.5], axis=0).T


def _drawn(count: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """(draws, count) float64: how often each of `count` groups comes if as many are drawn with replacement."""
    groups = generator.integers(0, count, (draws, count))
    groups += count * np.arange(draws)[:, None]  # each draw is counted in a row of its own
    return np.bincount(groups.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)


def mean_scores(score: np.ndarray) -> np.ndarray:
    """One score per object (N,): the mean of its known scores (N, K), or 1 if all are NaN."""
    known = np.isfinite(score)
    totals = np.where(known, score, 0).sum(axis=1)
    return np.where(known.any(axis=1), totals / np.maximum(known.sum(axis=1), 1), 1.0)


def require_oks(sigmas: Sequence[float], keypoints: int) -> None:
    """Raise ArgumentError if these are no OKS constants of so many keypoints.

    Raises ModuleNotFoundError if faster-coco-eval is not installed.
    """
    require("faster_coco_eval", "coco")
    values = np.asarray(sigmas, object)
    if values.shape != (keypoints,):
        raise ArgumentError(f"sigmas: expected {keypoints} values, one per keypoint, got {values.size}")
    for sigma in values:
        if not 0 < number_of(sigma) < math.inf:
            raise ArgumentError(f"sigmas: expected finite numbers above 0, got {quoted(sigma)}")


def oks_ap(
    xy_pred: np.ndarray,
    score: np.ndarray,
    xy_true: np.ndarray,
    area: np.ndarray,
    image_index: np.ndarray,
    sigmas: Sequence[float],
) -> float:
    """COCO's average precision of keypoints over OKS .50:.05:.95, with one detection per object.

    A detection's score is the mean of the object's scores (N, K). xy_pred, xy_true: (N, K, 2) px. area: (N,) px^2.
    image_index: (N,) the number of each object's image. sigmas: K OKS constants. Objects without a label are left out,
    with their detections. Errors: see `require_oks`.
    """
    require_oks(sigmas, xy_true.shape[1])
    from faster_coco_eval import COCO, COCOeval_faster

    labelled = np.all(np.isfinite(xy_true), axis=2)
    confidence = mean_scores(score)
    truth, detections = [], []
    for i in np.flatnonzero(labelled.any(axis=1)):
        flags = np.where(labelled[i], 2, 0)[:, None]
        shared = {"id": len(truth) + 1, "image_id": int(image_index[i]), "category_id": 1}  # id 0 means "no match"
        truth.append(
            shared
            | {
                "keypoints": np.concatenate([np.nan_to_num(xy_true[i]), flags], axis=1).ravel().tolist(),
                "num_keypoints": int(labelled[i].sum()),
                "area": float(area[i]),
                "bbox": [0, 0, 0, 0],  # required, but used only for objects without labels
                "iscrowd": 0,
            }
        )
        points = np.concatenate([xy_pred[i], np.full_like(flags, 2)], axis=1)
        detections.append(shared | {"keypoints": points.ravel().tolist(), "score": float(confidence[i])})
    coco = COCO(
        {
            "images": [{"id": i} for i in np.unique(image_index).tolist()],
            "categories": [{"id": 1, "name": "object"}],
            "annotations": truth,
        }
    )
    measure = COCOeval_faster(coco, coco.loadRes(detections), "keypoints", kpt_oks_sigmas=[float(s) for s in sigmas])
    measure.params.maxDets = [int(np.bincount(image_index).max())]  # the default keeps 20 per image
    measure.params.areaRng, measure.params.areaRngLbl = [[0, 1e15]], ["all"]  # the default ends at 1e10 px^2
    measure.evaluate()
    measure.accumulate()
    return float(measure.eval["precision"][:, :, 0, 0, 0].mean())
