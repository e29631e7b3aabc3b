"""What is usual: how the objects of a data set look if some labels are wrong, and how far an object is from it.

The usual shape is fitted to the objects that agree with each other. Points are complex numbers x + iy (N, K), image px,
with a mask (N, K) of the labelled ones; in a Usual they are those of its columns alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keylite.data.shapes import Shape, aligned, misfit_of, shape_of, whiten

FEWEST = 20  # objects: fewer do not show what is usual
FEWEST_LABELS = 5  # a keypoint with fewer labels is left out
MOST = 1500  # objects that the usual shape is fitted to; more take time and change nothing
CORE = 0.7  # share of objects that agree best, to which the first, stiff shape is fitted
ROUNDS = 4  # of fitting the shape to the objects that are usual, and of asking again which are
WIDE = 3.0  # robust standard deviations of log misfit above the median: objects beyond are unusual
BEYOND = 1.3  # times the misfit that nine of ten objects stay below: objects beyond are unusual
FAR = 6.0  # times the median misfit of a point: a point beyond lies in an odd place
SMALL = 8  # keypoints: up to so many, objects are compared with their neighbours
NEIGHBOURS, ALIKE = 5, 0.06  # neighbours, and share of objects, whichever is more: so many may be wrong alike
FLOOR = 0.1  # spreads: a smaller distance is none
BLOCK = 256  # objects that are compared with others at once


class Usual(NamedTuple):
    """The usual shape, and how far from it usual objects are.

    Attributes:
        shape: Of the keypoints in `columns`.
        columns: The numbers of the keypoints that have enough labels.
        middle: The median misfit.
        limit: The misfit beyond which an object is unusual.
        ninetieth: The misfit that nine of ten objects stay below.
        pulls: The median misfit of each point.
        direction: The mean of the turns of usual objects as unit complex numbers; its length is 1 if all are alike.
        others: If keypoints are few: coordinates and masks of the objects that others are compared with, and the
            number of the neighbour that counts. None: keypoints are many.
    """

    shape: Shape
    columns: np.ndarray
    middle: float
    limit: float
    ninetieth: float
    pulls: np.ndarray
    direction: complex
    others: tuple[np.ndarray, np.ndarray, int] | None

    def misfit(self, z: np.ndarray, mask: np.ndarray, own: bool = False) -> np.ndarray:
        """(n,) how far objects are from usual ones. own: whether they are the objects that others are compared with.

        If keypoints are few, a usual object is one that is like some share of the others, wherever their points may
        lie: a needle's tip on an arc. If keypoints are many, no object has such neighbours, and the shape decides.
        """
        if self.others is None:
            return misfit_of(self.shape, z, mask)[0]
        flat, known = _coordinates(self.shape, z, mask)
        others, others_known, which = self.others
        return _distance(flat, known, others, others_known, min(which + own, len(others)))


def usual_of(z: np.ndarray, mask: np.ndarray, generator: np.random.Generator) -> Usual | None:
    """What is usual among objects of which some are wrong; None if objects or keypoints are too few to show it."""
    columns = np.flatnonzero(mask.sum(axis=0) >= FEWEST_LABELS)
    if len(columns) < 3:
        return None
    rows = np.flatnonzero(mask[:, columns].sum(axis=1) >= 3)
    if len(rows) < FEWEST:
        return None
    if len(rows) > MOST:
        rows = np.sort(generator.choice(rows, MOST, replace=False))
        columns = columns[mask[np.ix_(rows, columns)].sum(axis=0) > 0]
    z, mask = z[np.ix_(rows, columns)], mask[np.ix_(rows, columns)]
    kept = np.arange(len(rows))
    for _ in range(3):  # without factors: one would explain the objects that are wrong in the same way
        misfit = misfit_of(shape_of(z[kept], mask[kept], 0), z, mask)[0]
        kept = _labelling_all(np.argsort(misfit, kind="stable")[: max(int(CORE * len(rows)), FEWEST // 2)], mask)
    for _ in range(ROUNDS):
        shape = shape_of(z[kept], mask[kept])
        misfit, pull, turn = misfit_of(shape, z, mask)
        middle, limit, nine = _limits(misfit)
        kept = _labelling_all(np.flatnonzero(misfit < limit), mask)
    turn = turn[kept] / np.maximum(np.abs(turn[kept]), 1e-12)
    pulls = np.nanmedian(np.where(mask[kept], pull[kept], np.nan), axis=0) + 1e-3
    usual = Usual(shape, columns, middle, limit, nine, pulls, complex(turn.mean()), None)
    if len(columns) > SMALL:
        return usual
    usual = usual._replace(others=(*_coordinates(shape, z, mask), max(NEIGHBOURS, int(ALIKE * len(z)))))
    middle, limit, nine = _limits(usual.misfit(z, mask, own=True))
    return usual._replace(middle=middle, limit=limit, ninetieth=nine)


def _labelling_all(kept: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The rows, and for a keypoint that none of them labels all rows that do: a shape needs each point."""
    lacking = mask[kept].sum(axis=0) == 0
    return np.union1d(kept, np.flatnonzero(mask[:, lacking].any(axis=1)))


def _limits(misfit: np.ndarray) -> tuple[float, float, float]:
    """The median misfit, the misfit beyond which an object is unusual, and that which nine of ten stay below."""
    logs = np.log(misfit)
    middle = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - middle))
    nine = np.percentile(misfit, 90)
    limit = min(np.exp(middle + WIDE * max(spread, 0.05)), BEYOND * nine)
    return float(np.exp(middle)), float(limit), float(min(nine, limit))


# ---- neighbours


def _coordinates(shape: Shape, z: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objects laid onto the usual shape as numbers (n, 2K), in median spreads of points, and which are known."""
    laid, _ = aligned(z, mask, shape.mean, shape.weight)
    away = (laid - shape.mean) * mask / np.median(shape.spread)
    return np.concatenate([away.real, away.imag], axis=1), np.concatenate([mask, mask], axis=1)


def _distance(
    flat: np.ndarray, known: np.ndarray, others: np.ndarray, others_known: np.ndarray, which: int
) -> np.ndarray:
    """(n,) the distance of each object from the `which`-th nearest of the others, by the points that both have."""
    distances = []
    for start in range(0, len(flat), BLOCK):
        both = known[start : start + BLOCK, None] & others_known[None]
        squares = np.where(both, flat[start : start + BLOCK, None] - others[None], 0) ** 2
        count = both.sum(axis=2)
        apart = np.sqrt(squares.sum(axis=2) * flat.shape[1] / np.maximum(count, 1))
        apart[count < min(6, flat.shape[1])] = 1e3  # fewer than three points in common say nothing
        distances.append(np.partition(apart, which - 1, axis=1)[:, which - 1])
    return np.concatenate(distances) + FLOOR


# ---- single points


def odd_points(usual: Usual, z: np.ndarray, mask: np.ndarray) -> list[int]:
    """The points (K,) of one object that lie far from where its other points say they are, the farthest first."""
    left, odd = mask.copy(), list[int]()
    for _ in range(min(int(mask.sum()) // 3, int(mask.sum()) - 3)):  # three points must be left to lay it by
        _, pull, _ = misfit_of(usual.shape, z[None], left[None])
        times = np.where(left, pull[0] / usual.pulls, 0)
        worst = int(np.argmax(times))
        if times[worst] < FAR:
            break
        left[worst] = False
        odd.append(worst)
    return odd


def places_of(usual: Usual, z: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(K,) complex px: where the known points (K,) of an object say that all its points are."""
    shape, count = usual.shape, len(z)
    weight = known * shape.weight
    middle, centre = ((weight * points).sum() / weight.sum() for points in (z, shape.mean))
    laid, turn = aligned(z[None], known[None], shape.mean, shape.weight)
    away = (laid[0] - shape.mean) * known / shape.spread
    flat = np.concatenate([away.real, away.imag])[None]
    mask = np.concatenate([known, known])[None].astype(np.float64)
    expected = whiten(flat, mask, shape.factors, shape.noise)[1][0]
    places = shape.mean + (expected[:count] + 1j * expected[count:]) * shape.spread
    return (places - centre) / turn[0] + middle
