"""Objects whose points lie as those of no other object, and what explains it: swapped sides, a mirror, another order.

Each unusual object is compared with usual ones as it is labelled, with left and right swapped, mirrored, and with its
points in the order in which they fit best. If one of these fits far better than the labels, it is the reason. Points
are complex numbers x + iy (N, K), image px, with a mask (N, K) of the labelled ones. This needs scipy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keylite.data.shapes import Shape, aligned, mirrored
from keylite.labels.usual import Usual, odd_points, places_of
from keylite.runtime.packages import require

BETTER = 1.6  # times that an explanation must fit better than the labels of an unusual object
MUCH_BETTER = 2.2  # times, if the object is hardly unusual: the most by chance in 400 rendered gauges is 2.1
MOSTLY = 0.75  # share of keypoints that an object must label for its order to be looked for
MANY = 100  # objects: with fewer, only unusual objects are explained, because among them much is chance
FAR_BETTER = 3.0  # times, if what is explained is still unusual
ALL_ORDERS = 5  # keypoints: up to so many, every order is tried
UPRIGHT = 0.7  # length of the mean turn above which objects stand upright; then only turns near it are tried
TURNS = 24  # turns that are tried otherwise
STEPS = 6  # of assigning points to places and laying them on again
NEAR = 4  # neighbours of a point that it could be mistaken for
NO_PLACE = 1e6  # the largest cost of a point in a place


class Reason(NamedTuple):
    """What explains the points of an unusual object.

    Attributes:
        row: The number of the object.
        kind: swapped, mirrored or permuted.
        order: (K,) which label each keypoint should have: `points[order]`. None for mirrored.
        misfit: That of the labels as they are; 1 is usual.
        limit: The misfit beyond which an object is unusual.
        misfits: The misfits of all explanations that were tried, by kind.
        nearly: If permuted: the least misfit of another order; if keypoints are many, of those in which two of the
            moved points that usually lie near each other exchange their places. Else infinite.
    """

    row: int
    kind: str
    order: tuple[int, ...] | None
    misfit: float
    limit: float
    misfits: dict[str, float]
    nearly: float


def reasons_of(usual: Usual, z: np.ndarray, mask: np.ndarray, mirror: Sequence[int] | None) -> list[Reason]:
    """The reasons for unusual objects, in the order of rows.

    mirror: the permutation of the keypoints in a flip; None if there is none.
    """
    columns = usual.columns
    own, own_mask = z[:, columns], mask[:, columns]
    misfit = usual.misfit(own, own_mask)
    least = usual.ninetieth if len(z) >= MANY else usual.limit
    reasons = []
    for row in np.flatnonzero((own_mask.sum(axis=1) >= 3) & (misfit > least)).tolist():
        tried: dict[str, tuple[float, tuple[int, ...] | None]] = {}
        within: list[int] = []  # the order of the columns
        if mirror is not None:
            swapped = list(mirror)
            tried["swapped"] = (_misfit(usual, z[row, swapped][columns], mask[row, swapped][columns]), tuple(mirror))
        flipped, flipped_mask = mirrored(own[row][None], own_mask[row][None], range(len(columns)))
        tried["mirrored"] = (_misfit(usual, flipped[0], flipped_mask[0]), None)
        soon = min(value for value, _ in tried.values())
        enough = misfit[row] < usual.limit or (soon < usual.limit and soon * BETTER < misfit[row])
        whole_object = own_mask[row].sum() >= MOSTLY * len(columns)  # a few of many points fit in some order by chance
        if whole_object and (len(columns) <= ALL_ORDERS or not enough):
            order = _best_order(usual, own[row], own_mask[row])
            whole = _in_all(order, columns, z.shape[1])
            if order != list(range(len(columns))) and whole != mirror:
                tried["permuted"] = (_misfit(usual, own[row, order], own_mask[row, order]), whole)
                within = order
        kinds = sorted(tried, key=lambda kind: tried[kind][0])
        best, order = tried[kinds[0]]
        times = BETTER if misfit[row] > usual.limit else MUCH_BETTER
        if best * (times if best < usual.limit else FAR_BETTER) < misfit[row]:
            misfits = {kind: float(value / usual.middle) for kind, (value, _) in tried.items()}
            own_misfit, limit = (float(value / usual.middle) for value in (misfit[row], usual.limit))
            nearly = np.inf
            if kinds[0] == "permuted":
                nearly = _exchanged(usual, own[row], own_mask[row], within)
            reasons.append(Reason(row, kinds[0], order, own_misfit, limit, misfits, nearly / usual.middle))
    return reasons


def _exchanged(usual: Usual, z: np.ndarray, mask: np.ndarray, order: list[int]) -> float:
    """The least misfit of an object in another order, or, if points are many, with two near moved ones exchanged."""
    if len(order) <= ALL_ORDERS:
        orders = [list(other) for other in itertools.permutations(range(len(order))) if list(other) != order]
        return _least(usual, z, mask, orders)
    apart = np.abs(usual.shape.mean[:, None] - usual.shape.mean[None])
    near = np.argsort(apart, axis=1)[:, 1 : 1 + NEAR]
    moved = {k for k, other in enumerate(order) if k != other}
    pairs = {(min(k, other), max(k, other)) for k in moved for other in near[k].tolist() if other in moved}
    orders = []
    for one, two in sorted(pairs):
        if mask[order[one]] or mask[order[two]]:
            orders.append(list(order))
            orders[-1][one], orders[-1][two] = order[two], order[one]
    return _least(usual, z, mask, orders)


def _least(usual: Usual, z: np.ndarray, mask: np.ndarray, orders: list[list[int]]) -> float:
    """The least misfit of the points (K,) of an object in several orders; infinite for none."""
    every = np.array(orders, int)
    return float(usual.misfit(z[every], mask[every]).min()) if orders else np.inf


def _misfit(usual: Usual, z: np.ndarray, mask: np.ndarray) -> float:
    """The misfit of one object (K,)."""
    return float(usual.misfit(z[None], mask[None])[0])


def _in_all(order: list[int], columns: np.ndarray, count: int) -> tuple[int, ...]:
    """An order of the columns as an order of all keypoints."""
    whole = np.arange(count)
    whole[columns] = columns[order]
    return tuple(whole.tolist())


# ---- the best order


def _best_order(usual: Usual, z: np.ndarray, mask: np.ndarray) -> list[int]:
    """The order of the points (K,) of one object in which they fit best."""
    if len(z) <= ALL_ORDERS:
        every = np.array(list(itertools.permutations(range(len(z)))))
        return every[int(np.argmin(usual.misfit(z[every], mask[every])))].tolist()
    best, best_misfit, seen = list(range(len(z))), np.inf, set[tuple[int, ...]]()
    for order in _starts(usual, z, mask):
        for _ in range(STEPS):
            if tuple(order) in seen:
                break
            seen.add(tuple(order))
            misfit = _misfit(usual, z[order], mask[order])
            if misfit < best_misfit:
                best, best_misfit = order, misfit
            if best_misfit < usual.middle:
                return best
            laid, _ = aligned(z[None, order], mask[None, order], usual.shape.mean, usual.shape.weight)
            points = np.empty(len(z), complex)
            points[order] = laid[0]
            order = _nearest(points, mask, usual.shape)
    return best


def _starts(usual: Usual, z: np.ndarray, mask: np.ndarray) -> list[list[int]]:
    """Orders to begin with.

    As it is; with the odd points in each other's places; and nearest to the usual shape if all points are laid onto it
    by their middle and their size, in several turns.
    """
    starts, shape = [list(range(len(z)))], usual.shape
    odd = odd_points(usual, z, mask)
    if len(odd) > 1:
        starts.append(_among(usual, z, mask, odd))
    middle, centre = z[mask].mean(), shape.mean[mask].mean()
    scale = np.sqrt((np.abs(shape.mean[mask] - centre) ** 2).sum() / max((np.abs(z[mask] - middle) ** 2).sum(), 1e-12))
    if abs(usual.direction) > UPRIGHT:
        turns = np.angle(usual.direction) + np.arange(-3, 4) * np.pi / 12
    else:
        turns = np.arange(TURNS) * 2 * np.pi / TURNS
    return starts + [_nearest((z - middle) * scale * turn + centre, mask, shape) for turn in np.exp(1j * turns)]


def _nearest(points: np.ndarray, mask: np.ndarray, shape: Shape) -> list[int]:
    """The order in which points (K,) of the usual shape's plane lie nearest to its places, in spreads of these."""
    cost = np.abs(shape.mean[:, None] - points[None]) ** 2 / shape.spread[:, None] ** 2
    cost = np.where(mask[None], np.minimum(cost, NO_PLACE), 1e-3 * ~np.eye(len(mask), dtype=bool))
    return _assign(cost)


def _among(usual: Usual, z: np.ndarray, mask: np.ndarray, odd: list[int]) -> list[int]:
    """The order in which only the odd points change their places, as the other points say."""
    known = mask.copy()
    known[odd] = False
    chosen = _assign(np.abs(places_of(usual, z, known)[odd][:, None] - z[odd][None]))
    order = list(range(len(z)))
    for place, source in zip(odd, chosen, strict=True):
        order[place] = odd[source]
    return order


def _assign(cost: np.ndarray) -> list[int]:
    """For each row of the cost the column that it gets."""
    return require("scipy.optimize").linear_sum_assignment(cost)[1].tolist()
