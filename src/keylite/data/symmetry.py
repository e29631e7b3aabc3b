"""Whether mirrored objects look like plain ones, and under which permutation of their keypoints.

Objects are brought on top of each other by shift, turn and scale alone; if a permutation is right, mirrored and
permuted objects are then distributed like plain ones. Half of the groups propose, the other half judges, both ways
round. Points are complex, x + iy in image px, (N, K), 0 where unlabelled, with a mask (N, K).
Knows nothing of names, of words for the user, images, augmentation or frameworks. Needs scipy.
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
MAX_OBJECTS = 1000  # of each half that are looked at: more cost time and add nothing
MAX_RATIO = 1.3  # misfit of mirrored objects over plain ones: faces 1.0, a thumb for a little finger 2 and up
MAX_POINT_RATIO = 2.0  # the same for the worst single keypoint: one odd point among many hardly moves the mean
MIN_GAIN = 0.1  # mean log misfit x K by which each alternative must be worse; one pair of many moves the mean by 1 / K
JUDGES = 300  # of each half's objects that are measured against every alternative
RESAMPLINGS = 1000  # of the groups; a permutation must win in all of them
UPRIGHT = 0.9  # mean cosine of the objects' turn: above it they stand the same way up

Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # of one half: points (n, K), mask (n, K), cluster (n,)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What unseen groups say of one permutation.

    ratio: misfit of mirrored over plain objects. point_ratio: the worst keypoint's, `point`.
    rival: the strongest of `rivals` alternatives. gain: how much worse it is (mean log misfit). wins: the least share
    of resamplings won against any. lost: whether that rival won them all.
    stands: it fits, as do those alternatives that are not beaten, and of them all it alone keeps objects upright.
    objects: how many judged. clusters: and how they were grouped, in words.
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
        """Misfit of objects mirrored with the rival over plain ones."""
        return self.ratio * float(np.exp(self.gain))

    @property
    def clear(self) -> bool:
        """Whether it fits and beats every alternative."""
        return self.fits and self.wins == 1 and self.gain * len(self.permutation) >= MIN_GAIN


@dataclasses.dataclass(frozen=True)
class Trial:
    """What the labels say when asked.

    found: the permutation that both halves propose, or None where they differ. of: the verdict on any.
    """

    found: tuple[int, ...] | None
    of: Callable[[tuple[int, ...]], Verdict]


def try_mirrors(dataset: Dataset, proposal: tuple[int, ...] | None, seed: int) -> Trial | str:
    """The trial of a data set's labels, or why there can be none.

    proposal: a permutation to look at beside those that the labels suggest. Raises ModuleNotFoundError where scipy is
    missing.
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
    found = winners[0] if winners[0] == winners[1] else None
    pool = {*pools[0], *pools[1], *winners}
    verdicts: dict[tuple[int, ...], Verdict] = {}

    def of(permutation: tuple[int, ...]) -> Verdict:
        if permutation not in verdicts:
            verdicts[permutation] = _judge(permutation, pool, shapes, parts, unit, np.random.default_rng(seed))
        return verdicts[permutation]

    return Trial(found, of)


def _halves(
    dataset: Dataset, usable: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray], str]:
    """A cluster for each object, the objects of two halves that share no cluster, and what a cluster is.

    Clusters are the groups; with fewer than 4, runs of neighbouring objects, as frames of one video are.
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


# --- shapes ---


# --- permutations: new = old[permutation] ---


def _cost(shape: Shape, reflected: np.ndarray) -> np.ndarray:
    """(K, K), symmetric: how unlike the reflected mean of one point and another point are, spreads included."""
    variance = shape.spread**2
    total = variance[:, None] + variance[None, :]
    cost = np.abs(reflected[:, None] - shape.mean[None, :]) ** 2 / total
    cost += np.log(total / (2 * np.sqrt(variance[:, None] * variance[None, :])))
    return (cost + cost.T) / 2


def _candidates(shape: Shape, proposal: tuple[int, ...] | None) -> set[tuple[int, ...]]:
    """Permutations worth a look: of the mean mirrored about every axis, each refined; no swap; the proposal."""
    count = len(shape.mean)
    found = {tuple(range(count))} | ({proposal} if proposal is not None else set())
    if count <= 6:
        return found | set(_involutions(count))
    centre = (shape.weight * shape.mean).sum() / shape.weight.sum()
    for angle in np.arange(0, 2 * np.pi, np.pi / 24):
        reflected = centre + np.exp(1j * angle) * (shape.mean - centre).conj()
        for _ in range(4):
            permutation = _assign(_cost(shape, reflected))
            if permutation in found:
                break
            found.add(permutation)
            reflected = _reflect(shape, permutation)
    return found


def _involutions(count: int) -> Iterable[tuple[int, ...]]:
    return (p for p in itertools.permutations(range(count)) if all(p[p[k]] == k for k in range(count)))


def _reflect(shape: Shape, permutation: tuple[int, ...]) -> np.ndarray:
    """The mean mirrored so that its permuted points come to lie on the mean as well as they can, (K,) complex."""
    order = list(permutation)
    everywhere = np.ones((1, len(order)), bool)
    laid, _ = aligned(-shape.mean.conj()[None, order], everywhere, shape.mean, shape.weight)
    return laid[0][order]  # a mirror undoes itself, so it also brings the points back into their own order


def _assign(cost: np.ndarray) -> tuple[int, ...]:
    """The cheapest permutation, with cycles longer than a swap cut into swaps (and one fixed point if odd)."""
    assigned = require("scipy.optimize", "pytorch").linear_sum_assignment(cost)[1].tolist()
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
    """Permutations one step away (a pair parted, two points or pairs joined anew), the hardest to tell apart first."""
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
    """The permutation under which mirrored objects of this half fit it best, climbed to from the pool."""
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
    """Objects (n) under the shape of the other half: as they are (plain), mirrored (own), mirrored with rivals (R).

    plain, own: misfits (n,). others: (n, R). plain_pull, own_pull: misfits of points (n, K), labelled where mask and
    own_mask. turns: (n, 2 + R) unit complex, plain, own and others, about the mean of the plain ones. cluster: (n,).
    """

    plain: np.ndarray
    own: np.ndarray
    others: np.ndarray
    plain_pull: np.ndarray
    own_pull: np.ndarray
    mask: np.ndarray
    own_mask: np.ndarray
    turns: np.ndarray
    cluster: np.ndarray


def _held(
    shape: Shape, part: Part, permutation: tuple[int, ...], rivals: list[tuple[int, ...]], keep: np.ndarray
) -> _Held:
    """The objects `keep` of one half, measured by the shape of the other."""
    z, mask, cluster = (column[keep] for column in part)
    plain, plain_pull, turn = misfit_of(shape, z, mask)
    own, own_pull, own_turn = misfit_of(shape, *mirrored(z, mask, permutation))
    rival = [misfit_of(shape, *mirrored(z, mask, p)) for p in rivals]
    turns = np.stack([turn, own_turn, *(r[2] for r in rival)], axis=1)
    turns = turns / np.maximum(np.abs(turns), 1e-12)
    axis = turns[:, 0].mean()  # each half's mean shape lies in a frame of its own
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
    """The verdict of each half's objects under the other half's shape, on a permutation against every alternative."""
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
    # A tie is a symmetry of its own (a rectangle's two axes), not a want of evidence: what is unbeaten fits as well.
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
    """The share of resamplings of the clusters in which each column of gains (N, R) adds up to more than 0, (R,).

    And the number of clusters.
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
    """The rivals that fit best by a quick look at few objects; the others lose anyway and would take the time."""
    if len(rivals) <= most:
        return rivals
    looks = np.zeros(len(rivals))
    for shape, (z, mask, _) in zip(reversed(shapes), parts, strict=True):
        keep = np.linspace(0, len(z) - 1, min(len(z), 60)).astype(int)
        for index, rival in enumerate(rivals):
            looks[index] += np.log(misfit_of(shape, *mirrored(z[keep], mask[keep], rival))[0]).mean()
    return [rivals[index] for index in np.sort(np.argsort(looks)[:most])]


def _typical(pull: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Median over objects of each point's pull (N, K), (K,), with a floor against points that never move."""
    return np.nanmedian(np.where(mask | ~mask.any(axis=0), pull, np.nan), axis=0) + 0.1
