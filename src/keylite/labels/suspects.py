"""Findings from predictions of models that have not seen the object: which labels are unlikely, and why.

Errors are measured in usual errors: the distance from a label to its prediction, divided by the size of the object and
by the median of that over all objects, for each keypoint. An object is compared as it is labelled, with left and right
swapped, mirrored, in the order of points that fits best, and as the object of another picture. A single point is
compared with where the prediction and the other points of its object together put it (surprise.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keylite.data.dataset import Dataset
from keylite.labels.findings import Finding, finding_of
from keylite.labels.surprise import surprise_of
from keylite.runtime.packages import require
from keylite.runtime.words import first_of

FAR = 4.0  # times the usual distance from where a prediction and the other points put it: beyond, a point is suspect
WHOLE = 0.5  # share of points that are FAR: with more, the whole object is wrong, not some of its points
SPREAD = 4.0  # robust standard deviations of the objects' costs beyond which an object is suspect
GAIN = 1.0  # mean log that an explanation must gain over the labels as they are
MOVED_GAIN = 2.0  # the same over the points that an order moves alone
LIKELY = 50  # other pictures, those nearest by the mean of the points, that labels are compared with
LEAST_POINTS = 3  # that labels of another picture are known by
LEAST_ERROR = 1e-3  # share of an object's size: a smaller usual error is none
NAMED = 4  # points that a sentence names


class Yardstick(NamedTuple):
    """The measure of errors. centre: (K,) complex, usual: (K,), both in sizes of the object; size: (N,) px."""

    centre: np.ndarray
    usual: np.ndarray
    size: np.ndarray

    def errors(self, z: np.ndarray, predicted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(n, K) complex errors of points z (n, K) in usual errors, if they belong to the objects `rows`; or NaN."""
        return ((z - predicted[rows]) / self.size[rows, None] - self.centre) / self.usual

    def times(self, z: np.ndarray, predicted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(n, K) the lengths of these errors."""
        return np.abs(self.errors(z, predicted, rows))


def suspect_findings(data: Dataset, xy: np.ndarray, mirror: tuple[int, ...] | None) -> list[Finding]:
    """The objects and points whose labels the predictions (N, K, 2) px contradict, the most unlikely first.

    mirror: the permutation of the keypoints in a flip; None if there is none.
    """
    z = np.where(data.labelled, data.xy[..., 0] + 1j * data.xy[..., 1], np.nan)
    predicted = xy[..., 0] + 1j * xy[..., 1]  # NaN for a keypoint that the model of the fold has not learnt
    widths = data.whole_boxes()[:, 2]
    yardstick = _yardstick(z, predicted)
    every = np.arange(len(z))
    errors = yardstick.errors(z, predicted, every)
    times, surprise = np.abs(errors), surprise_of(errors)
    cost = _cost(times)
    middle = np.nanmedian(cost)
    spread = max(1.4826 * float(np.nanmedian(np.abs(cost - middle))), 0.1)
    limit, usual = middle + SPREAD * spread, middle + spread
    findings = list[Finding]()
    for row in np.argsort(-np.nan_to_num(cost), kind="stable").tolist():
        far = np.nan_to_num(surprise.times[row]) > FAR
        if not (far.any() or cost[row] > limit):
            continue
        explained = _explained(data, z, predicted, yardstick, mirror, row, cost, (usual, limit), float(widths[row]))
        if explained is not None:
            findings.append(explained)
        elif far.any() and far.sum() <= WHOLE * np.isfinite(times[row]).sum():
            px = surprise.distance[row] * yardstick.usual * yardstick.size[row]
            findings.append(_shifted(data, row, far, surprise.times[row], px))
        elif cost[row] > limit:
            px = float(np.nanmean(np.abs(z[row] - predicted[row])))
            sentence = f"models that have not seen it put its points {px:.1f} px from their labels, on average"
            findings.append(
                finding_of(data, "unlikely", "warning", sentence, row, times=float(np.nanmedian(times[row])))
            )
    return findings


def _yardstick(z: np.ndarray, predicted: np.ndarray) -> Yardstick:
    sides = [
        np.fmax.reduce(part, axis=1) - np.fmin.reduce(part, axis=1) for part in (np.real(predicted), np.imag(predicted))
    ]
    size = np.nan_to_num(np.maximum(*sides))  # of predictions, because labels may be wrong
    size = np.maximum(size, max(0.1 * float(np.nanmedian(size)), 1.0))
    away = (z - predicted) / size[:, None]
    known = np.isfinite(away)
    parts = [np.array([np.median(part[seen]) if seen.any() else 0 for part, seen in zip(one.T, known.T, strict=True)])
             for one in (np.real(away), np.imag(away))]  # fmt: skip
    centre = parts[0] + 1j * parts[1]
    apart = np.abs(away - centre)
    usual = np.array(
        [np.median(part[seen]) if seen.any() else np.inf for part, seen in zip(apart.T, known.T, strict=True)]
    )
    return Yardstick(centre, np.maximum(usual, LEAST_ERROR), size)


def _cost(times: np.ndarray) -> np.ndarray:
    """(n,) how unlikely objects are: the mean log of 1 + squared errors, so that one wild point does not decide."""
    known = np.isfinite(times)
    return np.where(known, np.log1p(np.where(known, times, 0) ** 2), 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def _explained(
    data: Dataset,
    z: np.ndarray,
    predicted: np.ndarray,
    yardstick: Yardstick,
    mirror: tuple[int, ...] | None,
    row: int,
    cost: np.ndarray,
    limits: tuple[float, float],
    width: float,
) -> Finding | None:
    """The finding about an object whose labels another order, a mirror or another picture explains.

    limits: of the cost, for a usual object and for one that is no suspect. width: of its picture, px.
    """
    usual, limit = limits
    at, names = np.array([row]), data.skeleton.names
    own = z[row]
    flipped = width - own.conj()
    tried: dict[str, tuple[float, list[int] | None]] = {}

    def cost_of(points: np.ndarray) -> float:
        return float(_cost(yardstick.times(points[None], predicted, at))[0])

    if mirror is not None:
        tried["swapped"] = cost_of(own[list(mirror)]), list(mirror)
        tried["mirrored"] = min(cost_of(flipped), cost_of(flipped[list(mirror)])), None
    else:
        tried["mirrored"] = cost_of(flipped), None
    order = _order(own, predicted[row], yardstick, row)
    moved = [k for k, other in enumerate(order) if k != other]
    if moved and tried.get("swapped", (0, None))[1] != order:
        before, after = (
            np.log1p(yardstick.times(points[None], predicted, at)[0][moved] ** 2) for points in (own, own[order])
        )
        if np.nanmean(before - after) > MOVED_GAIN:
            tried["permuted"] = cost_of(own[order]), order
    other = -1
    if cost[row] > limit:
        other, fit = _other_picture(data, own, predicted, yardstick, row)
        if fit < usual:  # of many pictures, some are fitted fairly well by chance
            tried["another"] = fit, None
    kind = min(tried, key=lambda one: tried[one][0])
    value, order = tried[kind]
    gain = cost[row] - value
    if value > limit or gain < (GAIN if kind != "permuted" else GAIN * len(moved) / np.isfinite(own).sum()):
        return None
    nearer = f"its points are then {np.exp(gain / 2):.1f} times nearer to what models that have not seen it predict"
    times = float(np.nanmedian(yardstick.times(own[None], predicted, at)))
    if kind == "another":
        name = data.image_names[data.image_index[other]]
        return finding_of(
            data,
            kind,
            "warning",
            f"the labels fit another picture, {name}: {nearer}",
            row,
            others=(name,),
            times=times,
        )
    if kind == "mirrored":
        return finding_of(
            data, kind, "warning", f"the points are those of the mirrored picture: {nearer}", row, times=times
        )
    assert order is not None
    changed = tuple(names[k] for k, other in enumerate(order) if k != other)
    moves = [f"{names[k]} lies where {names[other]} belongs" for other, k in enumerate(order) if k != other]
    words = (
        "left and right are swapped"
        if kind == "swapped"
        else f"points are in another order: {first_of(moves, NAMED, ', ')}"
    )
    return finding_of(data, kind, "warning", f"{words}: {nearer}", row, changed, times=times)


def _other_picture(
    data: Dataset, own: np.ndarray, predicted: np.ndarray, yardstick: Yardstick, row: int
) -> tuple[int, float]:
    """The object of another picture that the labels fit best, and the cost with it; (-1, infinite) if none can be told.

    One or two points fit some picture by chance, wherever they lie.
    """
    others = np.flatnonzero(data.image_index != data.image_index[row])
    known = np.flatnonzero(np.isfinite(own))
    if not len(others) or len(known) < LEAST_POINTS:
        return -1, np.inf
    apart = np.abs((predicted[np.ix_(others, known)] - own[known]).mean(axis=1))
    others = others[np.argsort(apart, kind="stable")[:LIKELY]]
    fits = _cost(yardstick.times(np.repeat(own[None], len(others), axis=0), predicted, others))
    best = int(fits.argmin())
    return int(others[best]), float(fits[best])


def _order(own: np.ndarray, predicted: np.ndarray, yardstick: Yardstick, row: int) -> list[int]:
    """The order of the labelled points of an object in which they lie nearest to its predictions."""
    known = np.flatnonzero(np.isfinite(own) & np.isfinite(predicted))
    away = (own[known][None] - predicted[known][:, None]) / yardstick.size[row] - yardstick.centre[known][:, None]
    cost = np.log1p((np.abs(away) / yardstick.usual[known][:, None]) ** 2)
    chosen = require("scipy.optimize").linear_sum_assignment(cost)[1]
    order = np.arange(len(own))
    order[known] = known[chosen]
    return order.tolist()


def _shifted(data: Dataset, row: int, far: np.ndarray, times: np.ndarray, px: np.ndarray) -> Finding:
    """The finding about single points of an object, the most unlikely first.

    far, times, px: (K,) which points, how surprising each is, and how far it lies from where it is expected.
    """
    points = sorted(np.flatnonzero(far).tolist(), key=lambda k: -times[k])
    names = tuple(data.skeleton.names[k] for k in points)
    texts = [
        f"{name} {px[k]:.1f} px ({times[k]:.0f} times the usual error)" for name, k in zip(names, points, strict=True)
    ]
    sentence = (
        f"shifted from where models that have not seen it, and its other points, put it: {first_of(texts, NAMED, ', ')}"
    )
    return finding_of(data, "shifted", "warning", sentence, row, names, times=float(times[far].max()))
