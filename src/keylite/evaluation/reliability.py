"""How well a promised sigma holds: ranks, and errors found by tenths of what was promised.

Knows arrays alone.
"""

from __future__ import annotations

import msgspec
import numpy as np

from keylite.evaluation.metrics import group_intervals


class Decile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenth of the points, by sigma: mean sigma promised, mean error found with its 95 % interval, in one unit."""

    sigma: float
    error: float
    interval: tuple[float, float] | None
    count: int


class Reliability(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How well sigma foretells errors, over points that have both.

    spearman: rank correlation over all points; within: its median over keypoints, each by itself; constant: what one
    sigma a keypoint would reach. worst: the decile furthest off, as error / sigma - 1. All but the deciles are numbers
    without unit; None where nothing varies.
    """

    spearman: float | None
    within: float | None
    constant: float | None
    worst: float
    deciles: tuple[Decile, ...]
    count: int


def reliability_rows(found: Reliability) -> list[tuple[str, str]]:
    """(label, value) texts, most telling first."""
    ranks = ", ".join(
        f"{label} {value:.2f}" if value is not None else f"{label} -"
        for label, value in (("all points", found.spearman), ("within a keypoint", found.within))
    )
    alone = "-" if found.constant is None else f"{found.constant:.2f}"
    return [
        ("sigma against error (Spearman)", f"{ranks}; one sigma a keypoint {alone}"),
        ("errors by tenths of sigma", f"at most {abs(found.worst):.0%} {'over' if found.worst > 0 else 'under'} it"),
    ]


def reliability_of(sigma: np.ndarray, error: np.ndarray, group_index: np.ndarray, seed: int = 0) -> Reliability | None:
    """How well sigma (N, K) foretells errors (N, K) in the same unit; NaN where there is none of either.

    group_index: (N,) whose whole groups the intervals draw. None where no point has both.
    """
    known = np.isfinite(sigma) & np.isfinite(error)
    if not known.any():
        return None
    objects, keypoints = np.nonzero(known)
    promised, found = sigma[known], error[known]
    by_keypoint = np.array(
        [found[keypoints == k].mean() if (keypoints == k).any() else 0 for k in range(sigma.shape[1])]
    )
    within = [_spearman(promised[keypoints == k], found[keypoints == k]) for k in range(sigma.shape[1])]
    told = [value for value in within if value is not None]
    deciles = []
    for part in np.array_split(np.argsort(promised, kind="stable"), min(10, len(promised))):
        sums = np.bincount(objects[part], found[part], len(sigma))[:, None]
        counts = np.bincount(objects[part], minlength=len(sigma)).astype(np.float64)
        interval = group_intervals(sums, counts, group_index, np.random.default_rng(seed))
        pair = None if interval is None else (float(interval[0, 0]), float(interval[0, 1]))
        deciles.append(Decile(float(promised[part].mean()), float(found[part].mean()), pair, len(part)))
    off = [decile.error / decile.sigma - 1 for decile in deciles if decile.sigma > 0]
    return Reliability(
        spearman=_spearman(promised, found),
        within=float(np.median(told)) if told else None,
        constant=_spearman(by_keypoint[keypoints], found),
        worst=max(off, key=abs) if off else 0.0,
        deciles=tuple(deciles),
        count=len(promised),
    )


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """The correlation of ranks, equal values sharing theirs; None where one of both does not vary."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


# ---- who fits, and who judges

FEWEST = 50  # objects: with fewer, half of them say nothing of errors to come
FEWEST_OF_HALF = 10  # of them in either half: one group may hold nearly all


def halves(group_index: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(indices to fit on, indices to judge by), each of about half the objects and whole groups, always the same.

    None with fewer than FEWEST objects, a single group, or a half of fewer than FEWEST_OF_HALF.
    """
    groups, sizes = np.unique(group_index, return_counts=True)
    if len(group_index) < FEWEST:
        return None
    order = np.random.default_rng(0).permutation(len(groups))
    before = np.cumsum(sizes[order]) - sizes[order] / 2
    fit = groups[order[before <= len(group_index) / 2]]
    inside = np.isin(group_index, fit)
    parts = np.flatnonzero(inside), np.flatnonzero(~inside)
    return parts if min(map(len, parts)) >= FEWEST_OF_HALF else None


def no_halves(group_index: np.ndarray) -> str:
    """Why `halves` gives none."""
    if len(group_index) < FEWEST:
        count = len(group_index)
        return f"{count} labelled object{'' if count == 1 else 's'}, and {FEWEST} are needed"
    if len(np.unique(group_index)) == 1:
        return "all objects are of one group, and a half that fits needs another that judges; see `group`"
    return f"one group holds nearly all objects, and either half needs {FEWEST_OF_HALF} of other groups; see `group`"
