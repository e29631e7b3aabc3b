"""Whether mirrored objects look like plain ones (as they were labelled), and with which keypoints swapped.

A permutation says which keypoint takes the place of which: new = old[permutation]. Objects are laid on top of each
other by shift, turn and scale. If a permutation is right, mirrored and permuted objects are then distributed like plain
ones. One half of the groups proposes permutations and the other half judges them, and the other way round. Points are
complex numbers x + iy (N, K), image px, 0 if unlabelled, with a mask (N, K) of the labelled ones. This needs scipy.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.shapes import Shape, aligned, as_complex, mirrored, misfit_of, shape_of
from keylite.runtime.packages import require

MIN_OBJECTS = 20  # fewer cannot tell a mirror symmetry from chance
MIN_LABELLED = 5  # labels that a keypoint must have in each half
MAX_OBJECTS = 1000  # objects of each half that are used: more would take time and add nothing
MAX_RATIO = 1.3  # misfit of mirrored objects / of plain ones: faces have 1.0, thumb and little finger swapped 2 and up
MAX_POINT_RATIO = 2.0  # the same for the worst keypoint, because one wrong point of many hardly changes the mean
MIN_GAIN = 0.1  # mean log misfit x K by which each alternative must be worse; a pair of many changes the mean by 1 / K
JUDGES = 300  # objects of each half on which every alternative is measured
RESAMPLINGS = 1000  # of the groups; a permutation must win in all of them
UPRIGHT = 0.9  # objects stand the same way up if the mean cosine of their turns is above this

Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # of one half: points (n, K), mask (n, K), cluster (n,)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How well one permutation fits groups that did not propose it.

    Attributes:
        permutation: The permutation.
        ratio: The misfit of mirrored objects divided by that of plain ones.
        point_ratio: The same for the keypoint with the largest ratio.
        point: The number of that keypoint.
        rival: The alternative that fits best.
        rivals: The number of alternatives.
        gain: How much worse the rival fits: the mean difference of log misfits.
        wins: The share of resamplings in which the permutation beats an alternative, the least of all alternatives.
        lost: Whether the rival won all resamplings.
        stands: Whether it fits, the alternatives that it does not beat fit as well, and it alone keeps objects upright.
        objects: The number of objects that judged.
        clusters: The number and kind of their groups, in words.
    """

    permutation: tuple[int, ...]
    ratio: float
    point_ratio: float
    point: int
    rival: tuple[int, ...]
    rivals: int
    gain: float
    wins: float
    lost: bool
    stands: bool
    objects: int
    clusters: str

    @property
    def fits(self) -> bool:
        """Whether mirrored objects look like plain ones."""
        return self.ratio <= MAX_RATIO and self.point_ratio <= MAX_POINT_RATIO

    @property
    def rival_ratio(self) -> float:
        """The misfit of objects mirrored with the rival divided by that of plain ones."""
        return self.ratio * float(np.exp(self.gain))

    @property
    def clear(self) -> bool:
        """Whether it fits and beats every alternative."""
        return self.fits and self.wins == 1 and self.gain * len(self.permutation) >= MIN_GAIN


@dataclasses.dataclass(frozen=True)
class MirrorTrial:
    """What the labels say about permutations.

    Attributes:
        proposed: The permutation that both halves propose; None if they propose different ones.
        verdict_on: Gives the verdict on any permutation.
    """

    proposed: tuple[int, ...] | None
    verdict_on: Callable[[tuple[int, ...]], Verdict]


def try_mirrors(dataset: Dataset, proposal: tuple[int, ...] | None, seed: int) -> MirrorTrial | str:
    """The trial of permutations on a data set's labels, or the words why there can be none.

    proposal: a permutation to consider in addition to those that the labels suggest. Raises ModuleNotFoundError if
    scipy is missing.
    """
    count = len(dataset.skeleton)
    labelled = dataset.labelled
    usable = np.flatnonzero(labelled.sum(axis=1) >= min(count, 3))
    if count == 1:
        return "a single keypoint shows no symmetry"
    if len(usable) < MIN_OBJECTS:
        return f"{len(usable)} objects with 3 or more labels are too few to check a symmetry, {MIN_OBJECTS} are needed"
    generator = np.random.default_rng(seed)
    clusters, halves, unit = _halves(dataset, usable, generator)
    parts = [(as_complex(dataset.xy[half], labelled[half]), labelled[half], clusters[half]) for half in halves]
    for _, mask, _ in parts:
        scarce = np.flatnonzero(mask.sum(axis=0) < MIN_LABELLED)
        if len(scarce):
            return f"{dataset.skeleton.names[scarce[0]]} has too few labels to check a symmetry"

    shapes = [shape_of(z, mask) for z, mask, _ in parts]
    pools = [_candidates(shape, proposal) for shape in shapes]
    winners = [_best(shape, z, mask, pool) for shape, (z, mask, _), pool in zip(shapes, parts, pools, strict=True)]
    proposed = winners[0] if winners[0] == winners[1] else None
    pool = {*pools[0], *pools[1], *winners}
    verdicts: dict[tuple[int, ...], Verdict] = {}

    def verdict_on(permutation: tuple[int, ...]) -> Verdict:
        if permutation not in verdicts:
            verdicts[permutation] = _judge(permutation, pool, shapes, parts, unit, np.random.default_rng(seed))
        return verdicts[permutation]

    return MirrorTrial(proposed, verdict_on)


def _halves(
    dataset: Dataset, usable: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray], str]:
    """The cluster of each object, the objects of two halves that share no cluster, and the word for clusters.

    Clusters are the groups. If there are fewer than 4, they are runs of neighbouring objects, such as video frames.
    """
    clusters, unit = dataset.group_index.astype(np.int64), "groups"
    if len(np.unique(clusters[usable])) < 4:
        clusters = np.zeros(len(dataset), np.int64)
        clusters[usable] = np.arange(len(usable)) * min(20, len(usable)) // len(usable)
        unit = "runs of objects"
    _, cluster, sizes = np.unique(clusters[usable], return_inverse=True, return_counts=True)
    filled, half_of = [0, 0], [0] * len(sizes)
    size_of = sizes.tolist()
    for position in generator.permutation(len(sizes)).tolist():
        half = int(filled[1] < filled[0])
        half_of[position] = half
        filled[half] += size_of[position]
    side = np.array(half_of)[cluster]
    halves = []
    for half in (0, 1):
        own = usable[side == half]
        if len(own) > MAX_OBJECTS:
            own = np.sort(generator.choice(own, MAX_OBJECTS, replace=False))
        halves.append(own)
    return clusters, halves, unit


# --- permutations: new = old[permutation] ---


def _cost(shape: Shape, reflected: np.ndarray) -> np.ndarray:
    """(K, K), symmetric: how far the reflected mean of one point is from another point, measured by their spreads."""
    variance = shape.spread**2
    total = variance[:, None] + variance[None, :]
    cost = np.abs(reflected[:, None] - shape.mean[None, :]) ** 2 / total
    cost += np.log(total / (2 * np.sqrt(variance[:, None] * variance[None, :])))
    return (cost + cost.T) / 2


def _candidates(shape: Shape, proposal: tuple[int, ...] | None) -> set[tuple[int, ...]]:
    """Permutations to try: the best ones for the mean shape mirrored about many axes, no swap, and the proposal."""
    count = len(shape.mean)
    candidates = {tuple(range(count))} | ({proposal} if proposal is not None else set())
    if count <= 6:
        return candidates | set(_involutions(count))
    centre = (shape.weight * shape.mean).sum() / shape.weight.sum()
    for angle in np.arange(0, 2 * np.pi, np.pi / 24):
        reflected = centre + np.exp(1j * angle) * (shape.mean - centre).conj()
        for _ in range(4):
            permutation = _assign(_cost(shape, reflected))
            if permutation in candidates:
                break
            candidates.add(permutation)
            reflected = _reflect(shape, permutation)
    return candidates


def _involutions(count: int) -> Iterable[tuple[int, ...]]:
    """All permutations that undo themselves: they swap pairs and leave the rest."""
    return (p for p in itertools.permutations(range(count)) if all(p[p[k]] == k for k in range(count)))


def _reflect(shape: Shape, permutation: tuple[int, ...]) -> np.ndarray:
    """(K,) complex: the mean shape, mirrored so that its permuted points lie as near to the mean shape as possible."""
    order = list(permutation)
    everywhere = np.ones((1, len(order)), bool)
    laid, _ = aligned(-shape.mean.conj()[None, order], everywhere, shape.mean, shape.weight)
    return laid[0][order]  # the permutation undoes itself, so this puts the points back in their order


def _assign(cost: np.ndarray) -> tuple[int, ...]:
    """The cheapest permutation; a cycle longer than a swap is cut into swaps (and one fixed point if it is odd)."""
    assigned = require("scipy.optimize").linear_sum_assignment(cost)[1].tolist()
    permutation, done = list(range(len(assigned))), set()
    for start in range(len(assigned)):
        cycle, at = [], start
        while at not in done:
            done.add(at)
            cycle.append(at)
            at = assigned[at]
        if len(cycle) < 2:
            continue
        turns = range(len(cycle)) if len(cycle) % 2 else range(2)
        options = []
        for turn in turns:
            ring = cycle[turn:] + cycle[:turn]
            pairs = list(zip(ring[0::2], ring[1::2], strict=False))
            alone = cost[ring[-1], ring[-1]] if len(ring) % 2 else 0
            options.append((alone + 2 * sum(cost[a, b] for a, b in pairs), pairs))
        for a, b in min(options)[1]:
            permutation[a], permutation[b] = b, a
    return tuple(permutation)


def _neighbours(permutation: tuple[int, ...], cost: np.ndarray, most: int = 80) -> list[tuple[int, ...]]:
    """Permutations one step away, those of least cost first: one pair separated, or two points or pairs joined anew."""
    orbits: list[tuple[int, ...]] = [
        (k, other) if k != other else (k,) for k, other in enumerate(permutation) if k <= other
    ]
    steps: list[tuple[float, list[tuple[int, ...]]]] = []

    def price(parts: list[tuple[int, ...]]) -> float:
        return sum(cost[part[0], part[-1]] * len(part) for part in parts)

    for orbit in orbits:
        if len(orbit) == 2:
            new = [(orbit[0],), (orbit[1],)]
            steps.append((price(new) - price([orbit]), new))
    for one, two in itertools.combinations(orbits, 2):
        if len(one) == len(two) == 1:
            options = [[(one[0], two[0])]]
        elif len(one) == len(two) == 2:
            options = [[(one[0], two[0]), (one[1], two[1])], [(one[0], two[1]), (one[1], two[0])]]
        else:
            pair, single = (one, two[0]) if len(one) == 2 else (two, one[0])
            options = [[(pair[0], single), (pair[1],)], [(pair[1], single), (pair[0],)]]
        steps.extend((price(new) - price([one, two]), new) for new in options)
    steps.sort()
    result = []
    for _, parts in steps[:most]:
        changed = list(permutation)
        for part in parts:
            changed[part[0]], changed[part[-1]] = part[-1], part[0]
        result.append(tuple(changed))
    return result


def _best(shape: Shape, z: np.ndarray, mask: np.ndarray, pool: set[tuple[int, ...]]) -> tuple[int, ...]:
    """The permutation with which mirrored objects of this half fit it best: the best of the pool, improved stepwise."""
    keep = np.linspace(0, len(z) - 1, min(len(z), 200)).astype(int)
    z, mask = z[keep], mask[keep]

    def score(permutation: tuple[int, ...]) -> float:
        return float(np.log(misfit_of(shape, *mirrored(z, mask, permutation))[0]).mean())

    best_score, best = min((score(permutation), permutation) for permutation in sorted(pool))
    for _ in range(20):
        steps = _neighbours(best, _cost(shape, _reflect(shape, best)), most=60)
        step_score, step = min(((score(permutation), permutation) for permutation in steps), default=(np.inf, best))
        if step_score >= best_score:
            break
        best_score, best = step_score, step
    return best


class _Held(NamedTuple):
    """n objects, measured by the shape of the other half: plain, mirrored, and mirrored with each of R rivals."""

    plain: np.ndarray  # (n,) misfits of plain objects
    own: np.ndarray  # (n,) misfits of objects mirrored with the permutation in question
    others: np.ndarray  # (n, R) misfits of objects mirrored with the rivals
    plain_pull: np.ndarray  # (n, K) misfits of the points of plain objects
    own_pull: np.ndarray  # (n, K) misfits of the points of mirrored objects
    mask: np.ndarray  # (n, K) bool: which points of plain objects are labelled
    own_mask: np.ndarray  # (n, K) bool: which points of mirrored objects are labelled
    turns: np.ndarray  # (n, 2 + R) unit complex numbers: turns of plain, own and others, less the plain ones' mean turn
    cluster: np.ndarray  # (n,) the cluster of each object


def _held(
    shape: Shape, part: Part, permutation: tuple[int, ...], rivals: list[tuple[int, ...]], keep: np.ndarray
) -> _Held:
    """The objects `keep` of one half, measured by the shape of the other half."""
    z, mask, cluster = (column[keep] for column in part)
    plain, plain_pull, turn = misfit_of(shape, z, mask)
    own, own_pull, own_turn = misfit_of(shape, *mirrored(z, mask, permutation))
    rival = [misfit_of(shape, *mirrored(z, mask, p)) for p in rivals]
    turns = np.stack([turn, own_turn, *(r[2] for r in rival)], axis=1)
    turns = turns / np.maximum(np.abs(turns), 1e-12)
    axis = turns[:, 0].mean()  # the mean shapes of the two halves may be turned differently
    return _Held(
        plain=plain,
        own=own,
        others=np.stack([r[0] for r in rival], axis=1),
        plain_pull=plain_pull,
        own_pull=own_pull,
        mask=mask,
        own_mask=mask[:, list(permutation)],
        turns=turns * axis.conj() / max(abs(axis), 1e-12),
        cluster=cluster,
    )


def _judge(
    permutation: tuple[int, ...],
    pool: set[tuple[int, ...]],
    shapes: Sequence[Shape],
    parts: Sequence[Part],
    unit: str,
    generator: np.random.Generator,
) -> Verdict:
    """The verdict on a permutation against every alternative, by each half's objects and the other half's shape."""
    near = [p for shape in shapes for p in _neighbours(permutation, _cost(shape, _reflect(shape, permutation)))]
    every = sorted({*pool, *near} - {permutation})
    rivals = _closest(every, shapes, parts)
    halves = []
    for shape, part in zip(reversed(shapes), parts, strict=True):
        keep = np.sort(generator.choice(len(part[0]), min(len(part[0]), JUDGES), replace=False))
        halves.append(_held(shape, part, permutation, rivals, keep))
    held = _Held(*(np.concatenate(columns) for columns in zip(*halves, strict=True)))

    gains = np.log(held.others) - np.log(held.own)[:, None]
    won, groups = _wins(gains, held.cluster, generator)
    gain = gains.mean(axis=0)
    ratio = float(np.exp(np.log(held.own).mean() - np.log(held.plain).mean()))
    point_ratios = _typical(held.own_pull, held.own_mask) / _typical(held.plain_pull, held.mask)
    margin = MIN_GAIN / len(permutation)
    unbeaten = (won < 1) | (gain < margin)
    # If the alternatives that are not beaten fit as well, the shape has several symmetries, such as a rectangle's two.
    fits = ratio <= MAX_RATIO and point_ratios.max() <= MAX_POINT_RATIO
    tied = fits and bool((gain[unbeaten] > -margin).all() and (ratio * np.exp(gain[unbeaten]) <= MAX_RATIO).all())
    cosine = np.real(held.turns).mean(axis=0)
    upright = min(cosine[0], cosine[1]) > UPRIGHT and bool((cosine[2:][unbeaten] < UPRIGHT - 0.4).all())
    strongest = int(np.argmin(gain))
    return Verdict(
        permutation=permutation,
        ratio=ratio,
        point_ratio=float(point_ratios.max()),
        point=int(point_ratios.argmax()),
        rival=rivals[strongest],
        rivals=len(every),
        gain=float(gain.min()),
        wins=float(won.min()),
        lost=bool(won[strongest] == 0),
        stands=tied and upright,
        objects=len(held.own),
        clusters=f"{groups} {unit}",
    )


def _wins(gains: np.ndarray, clusters: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """(R,) the share of resamplings of clusters in which each column of gains (N, R) has a sum above 0.

    The second value is the number of clusters.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    sums, count = np.zeros((cluster.max() + 1, gains.shape[1])), int(cluster.max()) + 1
    np.add.at(sums, cluster, gains)
    draws = generator.multinomial(count, np.full(count, 1 / count), RESAMPLINGS)
    return (draws @ sums > 0).mean(axis=0), count


def _closest(
    rivals: list[tuple[int, ...]],
    shapes: Sequence[Shape],
    parts: Sequence[Part],
    most: int = 60,
) -> list[tuple[int, ...]]:
    """The rivals that fit a few objects best; the others would lose anyway, and measuring them takes time."""
    if len(rivals) <= most:
        return rivals
    misfits = np.zeros(len(rivals))
    for shape, (z, mask, _) in zip(reversed(shapes), parts, strict=True):
        keep = np.linspace(0, len(z) - 1, min(len(z), 60)).astype(int)
        for index, rival in enumerate(rivals):
            misfits[index] += np.log(misfit_of(shape, *mirrored(z[keep], mask[keep], rival))[0]).mean()
    return [rivals[index] for index in np.sort(np.argsort(misfits)[:most])]


def _typical(pull: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(K,) the median over objects of each point's misfit (N, K), with a floor because some points never move."""
    return np.nanmedian(np.where(mask | ~mask.any(axis=0), pull, np.nan), axis=0) + 0.1
