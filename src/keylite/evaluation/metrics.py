"""How far predicted points are from labelled ones: masked metrics of plain arrays.

N objects, K keypoints, image px; NaN where there is no label. Knows nothing of data sets, models or reports.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from keylite.runtime.boxes import MOST_PX
from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import number_of, require_kind
from keylite.runtime.words import clipped, quoted

FAILURE_LIMIT = 0.10  # NME above which an object counts as failed, and where the AUC ends: the 300-W convention
BOX_NORMALISERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # name: lengths (N,) of sides (N, 2) px
    "box_diagonal": lambda sides: np.hypot(sides[:, 0], sides[:, 1]),
    "box_side": lambda sides: np.sqrt(sides.prod(axis=1)),
}
NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
DIGITS = 18  # of an index
DRAWS = 2000  # bootstrap draws: the ends of a 95 % interval then move by about 2 % of its width between seeds
FEWEST_GROUPS = 5  # below this, groups drawn again say nothing about groups not seen
CHUNK = 2**20  # drawn group indices held at once


def point_errors(xy_pred: np.ndarray, xy_true: np.ndarray) -> np.ndarray:
    """Distances (N, K) px between two (N, K, 2), NaN where `xy_true` carries no label.

    Raises ValueError where a labelled point is predicted as NaN or Inf: a mean that skipped it would flatter the model.
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


def normaliser(text: str, xy_true: np.ndarray, boxes: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The length (N,) px that each object's errors are divided by; NaN where its points carry no label.

    text: "36,45" (0-based indices) or "NAME,NAME": the distance between two labelled keypoints; "box_diagonal";
    "box_side": sqrt(w * h); "0.2 x box_diagonal": a share of either; "100px": a constant. xy_true: (N, K, 2).
    boxes: (N, 4) xyxy px before padding and jitter.
    Raises ValueError for any other text, or an unknown keypoint.
    """
    require_kind("normalize", text, str, "a text", "such as 'box_side'")
    sides = np.asarray(boxes, np.float64)[:, 2:] - np.asarray(boxes, np.float64)[:, :2]
    if text in BOX_NORMALISERS:
        return BOX_NORMALISERS[text](sides)
    if (share := re.fullmatch(rf"{NUMBER} ?x ?(\w+)", text)) and share.group(2) in BOX_NORMALISERS:
        return _length(share.group(1), text) * BOX_NORMALISERS[share.group(2)](sides)
    if constant := re.fullmatch(rf"{NUMBER}px", text):
        return np.full(len(xy_true), _length(constant.group(1), text))
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(parts):
        raise ArgumentError(
            "normalize: expected two keypoints as INDEX,INDEX or NAME,NAME, or box_diagonal, box_side, a share of them "
            "as '0.2 x box_diagonal', or 100px, "
            f"got {quoted(text)}"
        )
    first, second = (_keypoint(part, names) for part in parts)
    if first == second:
        raise ArgumentError(f"normalize: expected two different keypoints, got {quoted(text)}")
    return np.linalg.norm(xy_true[:, first] - xy_true[:, second], axis=1)


def _length(number: str, text: str) -> float:
    """The number as a float; ValueError where nothing can be divided by it."""
    length = float(number)
    if not 0 < length <= MOST_PX:
        raise ArgumentError(f"normalize: expected a length above 0 and at most {MOST_PX:.0f}, got {quoted(text)}")
    return length


def median_extent(xy: np.ndarray, boxes: np.ndarray) -> tuple[float, float] | None:
    """How far an object's labelled points span, the median over objects: px, and as a share of its box's diagonal.

    xy: (N, K, 2), NaN where unlabelled. boxes: (N, 4) xyxy px. None if no object has two labelled points apart.
    """
    labelled = np.isfinite(xy).all(axis=2, keepdims=True)
    sides = np.where(labelled, xy, -np.inf).max(axis=1) - np.where(labelled, xy, np.inf).min(axis=1)
    apart = np.maximum(sides, 0).any(axis=1)  # of an object without a label, -inf
    if not apart.any():
        return None
    extent = np.hypot(*sides[apart].T)
    diagonal = BOX_NORMALISERS["box_diagonal"](boxes[apart, 2:] - boxes[apart, :2])
    return float(np.median(extent)), float(np.median(extent / diagonal))


def _keypoint(text: str, names: Sequence[str]) -> int:
    """The index that a 0-based number or a keypoint name stands for."""
    index = None
    if text.isdecimal():
        index = int(text) if len(text) <= DIGITS else len(names)  # Python refuses to read a number of 4301 digits
    if text in names:
        named = list(names).index(text)
        if index is not None and index != named:
            raise ArgumentError(
                f"normalize: {quoted(text)} is the name of keypoint {named} and the index of another; use names"
            )
        return named
    if index is None:
        near = difflib.get_close_matches(text, names, n=1)
        hint = f"; the nearest is {quoted(near[0])}" if near else ""
        raise ArgumentError(f"normalize: no keypoint is named {quoted(text)}{hint}")
    if index >= len(names):
        raise ArgumentError(f"normalize: expected keypoint indices 0..{len(names) - 1}, got {clipped(text)}")
    return index


def nme_of(errors: np.ndarray, normaliser_px: np.ndarray) -> np.ndarray:
    """Each object's NME (N,), a fraction: the mean of its labelled errors (N, K) over its normaliser (N,).

    NaN where an object has no labelled point, or its normaliser is NaN or 0.
    """
    labelled = np.isfinite(errors)
    counts = labelled.sum(axis=1)
    usable = (counts > 0) & (normaliser_px > 0)  # a comparison with NaN is False
    nme = np.full(len(errors), np.nan)
    means = np.where(labelled, errors, 0).sum(axis=1)[usable] / counts[usable]
    nme[usable] = means / normaliser_px[usable]
    return nme


def failure_rate_of(nme: np.ndarray, limit: float = FAILURE_LIMIT) -> float:
    """The share of objects whose NME (N,) is above `limit`, of those that have one."""
    return float(np.mean(nme[np.isfinite(nme)] > limit))


def auc_of(nme: np.ndarray, limit: float = FAILURE_LIMIT) -> float:
    """The exact area under the cumulative curve of the NME (N,) from 0 to `limit`, as a fraction: perfect is 1.

    The integral over t of the share with nme <= t is the mean of what each one leaves of the interval.
    """
    return float(np.mean(np.maximum(0, 1 - nme[np.isfinite(nme)] / limit)))


def pck_of(errors: np.ndarray, normaliser_px: np.ndarray, at: float) -> float:
    """The share of labelled points with error < `at` * normaliser (strict), over objects that have a normaliser."""
    counted = np.isfinite(errors) & (normaliser_px > 0)[:, None]
    return float(np.mean((errors < at * normaliser_px[:, None])[counted]))


def group_intervals(
    sums: np.ndarray, counts: np.ndarray, group_index: np.ndarray, generator: np.random.Generator
) -> np.ndarray | None:
    """95 % intervals (D, 2) of sums.sum() / counts.sum() for groups drawn again with replacement.

    sums: (N, D) and counts: (N,) of each object. Whole groups are drawn, since the objects of one subject resemble
    each other. None with fewer than FEWEST_GROUPS groups that count.
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
    """(draws, count): how often each of `count` things comes when as many are drawn with replacement, as float64."""
    things = generator.integers(0, count, (draws, count))
    things += count * np.arange(draws)[:, None]  # each draw counts in a row of its own
    return np.bincount(things.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)


def mean_scores(score: np.ndarray) -> np.ndarray:
    """One confidence (N,) an object: the mean of its known scores (N, K); 1 where all are NaN."""
    known = np.isfinite(score)
    totals = np.where(known, score, 0).sum(axis=1)
    return np.where(known.any(axis=1), totals / np.maximum(known.sum(axis=1), 1), 1.0)


def require_oks(sigmas: Sequence[float], keypoints: int) -> None:
    """Raise ValueError where these are no OKS constants of so many keypoints, or faster-coco-eval is missing."""
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise ArgumentError('OKS-AP: faster-coco-eval is not installed; pip install "keylite[coco]"')
    values = np.asarray(sigmas, object)
    if values.shape != (keypoints,):
        raise ArgumentError(f"sigmas: expected {keypoints} values, one a keypoint, got {values.size}")
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
    """COCO's keypoint AP over OKS .50:.05:.95, one detection an object, scored by `mean_scores` of score (N, K).

    xy_pred, xy_true: (N, K, 2). area: (N,) px^2. image_index: (N,) which image each object is in. sigmas: K. Objects
    without a label are left out with their detections. Errors: see `require_oks`.
    """
    require_oks(sigmas, xy_true.shape[1])
    from faster_coco_eval import COCO, COCOeval_faster

    labelled = np.all(np.isfinite(xy_true), axis=2)
    confidence = mean_scores(score)
    truth, found = [], []
    for i in np.flatnonzero(labelled.any(axis=1)):
        flags = np.where(labelled[i], 2, 0)[:, None]
        shared = {"id": len(truth) + 1, "image_id": int(image_index[i]), "category_id": 1}  # id 0 is "no match"
        truth.append(
            shared
            | {
                "keypoints": np.concatenate([np.nan_to_num(xy_true[i]), flags], axis=1).ravel().tolist(),
                "num_keypoints": int(labelled[i].sum()),
                "area": float(area[i]),
                "bbox": [0, 0, 0, 0],  # asked for, but counts only where nothing is labelled
                "iscrowd": 0,
            }
        )
        points = np.concatenate([xy_pred[i], np.full_like(flags, 2)], axis=1)
        found.append(shared | {"keypoints": points.ravel().tolist(), "score": float(confidence[i])})
    coco = COCO(
        {
            "images": [{"id": i} for i in np.unique(image_index).tolist()],
            "categories": [{"id": 1, "name": "object"}],
            "annotations": truth,
        }
    )
    measure = COCOeval_faster(coco, coco.loadRes(found), "keypoints", kpt_oks_sigmas=[float(s) for s in sigmas])
    measure.params.maxDets = [int(np.bincount(image_index).max())]  # the default drops all but 20 an image
    measure.params.areaRng, measure.params.areaRngLbl = [[0, 1e15]], ["all"]  # the default ends at 1e10 px^2
    measure.evaluate()
    measure.accumulate()
    return float(measure.eval["precision"][:, :, 0, 0, 0].mean())
