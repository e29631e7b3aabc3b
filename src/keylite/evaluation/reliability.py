"""How well sigma, the promised error, agrees with the errors that were measured: rank correlations and tenths.

All functions take plain arrays.
"""

from __future__ import annotations

import msgspec
import numpy as np

from keylite.evaluation.metrics import group_intervals


class Decile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenth of the points, in the order of their sigma: mean sigma and mean error (px) with its 95 % interval.

    interval: None if there are too few groups.
    """

    sigma: float
    error: float
    interval: tuple[float, float] | None
    count: int


class Reliability(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How well sigma predicts errors, over the points that have both.

    spearman: the rank correlation (Spearman's) of sigma and error over all points. within: the median of the rank
    correlations of single keypoints. constant: the rank correlation if each keypoint had one constant sigma. None: one
    of both does not vary. worst: error / sigma - 1 of the tenth that is furthest off. deciles: the tenths. count: of
    points.
    """

    spearman: float | None
    within: float | None
    constant: float | None
    worst: float
    deciles: tuple[Decile, ...]
    count: int


def reliability_words(reliability: Reliability) -> str:
    """How well sigma holds, as the end of a sentence about it. JSON has the other figures, too."""
    rank, worst = reliability.spearman, round(100 * reliability.worst)
    order = "is not known" if rank is None else f"is {rank:.2f} (1: perfect, 0: none)"
    size = (
        f"where it is furthest off, errors are {abs(worst)} % {'larger' if worst > 0 else 'smaller'} than it says"
        if worst
        else "errors are as large as it says"
    )
    return f"its rank correlation with the errors {order}, and {size}"


def reliability_of(sigma: np.ndarray, error: np.ndarray, group_index: np.ndarray, seed: int = 0) -> Reliability | None:
    """How well sigma (N, K) predicts errors (N, K) in the same unit; NaN: there is none.

    group_index: (N,) the group of each object; the intervals draw whole groups. None: no point has both.
    """
    known = np.isfinite(sigma) & np.isfinite(error)
    if not known.any():
        return None
    objects, keypoints = np.nonzero(known)
    promised, measured = sigma[known], error[known]
    by_keypoint = np.array(
        [measured[keypoints == k].mean() if (keypoints == k).any() else 0 for k in range(sigma.shape[1])]
    )
    correlations = [_spearman(promised[keypoints == k], measured[keypoints == k]) for k in range(sigma.shape[1])]
    within = [correlation for correlation in correlations if correlation is not None]
    deciles = []
    for part in np.array_split(np.argsort(promised, kind="stable"), min(10, len(promised))):
        sums = np.bincount(objects[part], measured[part], len(sigma))[:, None]
        counts = np.bincount(objects[part], minlength=len(sigma)).astype(np.float64)
        interval = group_intervals(sums, counts, group_index, np.random.default_rng(seed))
        pair = None if interval is None else (float(interval[0, 0]), float(interval[0, 1]))
        deciles.append(Decile(float(promised[part].mean()), float(measured[part].mean()), pair, len(part)))
    off = [decile.error / decile.sigma - 1 for decile in deciles if decile.sigma > 0]
    return Reliability(
        spearman=_spearman(promised, measured),
        within=float(np.median(within)) if within else None,
        constant=_spearman(by_keypoint[keypoints], measured),
        worst=max(off, key=abs) if off else 0.0,
        deciles=tuple(deciles),
        count=len(promised),
    )


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """The correlation of ranks; equal values share the mean of their ranks. None: one of both does not vary."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


# ---- which objects sigma is fitted on, and which test it

FEWEST = 50  # objects: half of fewer cannot say how large other objects' errors will be
FEWEST_OF_HALF = 10  # objects in each half: one group may hold nearly all objects


def halves(group_index: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(indices to fit on, indices to test with): about half of the objects each, whole groups, the same in every call.

    None: there are fewer than FEWEST objects, one group, or fewer than FEWEST_OF_HALF objects in a half.
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
    """The reason why `halves` gives None."""
    if len(group_index) < FEWEST:
        count = len(group_index)
        return f"{count} labelled object{'' if count == 1 else 's'}, and {FEWEST} are needed"
    if len(np.unique(group_index)) == 1:
        return "all objects are of one group, but sigma is fitted on some groups and tested on others; see `group`"
    return f"one group holds nearly all objects, but each half needs {FEWEST_OF_HALF} of groups of its own; see `group`"
