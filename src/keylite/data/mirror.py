"""Which keypoints swap in a horizontal flip: given by the user, or proposed and then checked against the labels.

The check: objects are brought on top of each other by shift, turn and scale alone; if a permutation is right, mirrored
and permuted objects are then distributed like plain ones. Half of the groups propose, the other half judges, both ways
round. Labels cannot see what a picture means (a dial's start and end, a car's front and rear), so the names have a
veto, and a few points without sides in their names are not enough. Where anything is in doubt the answer is "off": a
wrong flip teaches wrong points without a word.
Knows nothing of images, file formats, augmentation or frameworks. scipy is needed by choose_mirror alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from keylite.data.dataset import Dataset

SIDES = {"left": "right", "l": "right", "right": "left", "r": "left"}  # a side, and the one it becomes in a mirror
# Words that tell two ends apart which a mirror does not exchange. A dial's scale runs backwards in a mirror.
OPPOSITES = (
    *(("start", "end"), ("begin", "end"), ("first", "last"), ("head", "tail"), ("nose", "tail"), ("min", "max")),
    *(("front", "back"), ("front", "rear"), ("front", "hind"), ("fore", "hind"), ("top", "bottom"), ("top", "bot")),
    *(("upper", "lower"), ("up", "down"), ("inner", "outer"), ("near", "far"), ("high", "low"), ("in", "out")),
)
MIN_OBJECTS = 20  # fewer cannot tell a mirror symmetry from chance
MIN_UNAIDED = 40  # the same without names to confirm: a roughly symmetric shape passes for symmetric among few
MIN_LABELLED = 5  # labels that a keypoint must have in each half
MIN_UNSIDED = 8  # keypoints needed where no name has a side: a few points look symmetric by accident (dials, cars)
MAX_OBJECTS = 1000  # of each half that are looked at: more cost time and add nothing
MAX_RATIO = 1.3  # misfit of mirrored objects over plain ones: faces 1.0, a thumb for a little finger 2 and up
MAX_UNAIDED = 1.15  # the same without names to confirm
MAX_POINT_RATIO = 2.0  # the same for the worst single keypoint: one odd point among many hardly moves the mean
MIN_GAIN = 0.1  # mean log misfit x K by which each alternative must be worse; one pair of many moves the mean by 1 / K
RESAMPLINGS = 1000  # of the groups; a permutation must win in all of them
GIVE = "to flip, give the pairs in the recipe"
UPRIGHT = 0.9  # mean cosine of the objects' turn: above it they stand the same way up


@dataclasses.dataclass(frozen=True)
class Mirror:
    """What a horizontal flip does to the keypoints.

    permutation: `new = old[permutation]`, or None: do not flip. source: given, flip_pairs, names, labels or off.
    line: one sentence for the user, with the evidence. warning: whether something asks to be looked at.
    """

    permutation: tuple[int, ...] | None
    source: str
    line: str
    warning: bool = False


def from_pairs(pairs: Sequence[tuple[str | int, str | int]], names: Sequence[str]) -> tuple[int, ...]:
    """The permutation that swaps each pair (names or 0-based indices); all other keypoints stay.

    Raises ValueError for an entry that is no pair, an unknown name, an index out of range or a keypoint used twice.
    """
    permutation = list(range(len(names)))
    used: set[int] = set()
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"mirror pairs: expected two keypoints each, got {pair!r}; write [left_eye, right_eye]")
        ends = [_index(end, names) for end in pair]
        if ends[0] == ends[1]:
            raise ValueError(f"mirror pairs: {names[ends[0]]} is paired with itself; leave it out, it then stays")
        for end in ends:
            if end in used:
                raise ValueError(f"mirror pairs: {names[end]} is in more than one pair; keep one")
            used.add(end)
        permutation[ends[0]], permutation[ends[1]] = ends[1], ends[0]
    return tuple(permutation)


def from_names(names: Sequence[str]) -> tuple[int, ...] | None:
    """The permutation that left/right names propose; None where no name has a side.

    A side is left, right, l or r as a word of its own (left_eye, eye.L, hipRight, REar), or left / right glued to
    another word (leftear). Raises ValueError for a keypoint whose other side is missing or not unique.
    """
    keys = [_words(name) for name in names]
    known = {part for words in keys for part in words}
    parted = [tuple(piece for word in words for piece in _unglued(word, known)) for words in keys]
    places: dict[tuple[str, ...], list[int]] = {}
    for index, words in enumerate(parted):
        places.setdefault(tuple(_canonical(word) for word in words), []).append(index)
    permutation = list(range(len(names)))
    for index, words in enumerate(parted):
        if not any(word in SIDES for word in words):
            continue
        other = tuple(SIDES.get(word, word) for word in words)
        found = places.get(other, [])
        if len(found) != 1:
            what = "has no" if not found else "has more than one"
            raise ValueError(f"mirror: {names[index]} {what} counterpart {'_'.join(other)}; {GIVE}")
        permutation[index] = found[0]
    if any(permutation[other] != index for index, other in enumerate(permutation)):
        raise ValueError(f"mirror: left/right names do not pair one to one; {GIVE}")
    return tuple(permutation) if permutation != list(range(len(names))) else None


def choose_mirror(dataset: Dataset, given: tuple[int, ...] | None = None, seed: int = 0) -> Mirror:
    """The mirror to train with, and why.

    `given` (the recipe's) comes first, then the data set's own (`flip_pairs`): both are used even where the labels
    disagree, with a warning. Else left/right names, where the labels confirm them; else the permutation that the labels
    themselves show, where nothing contradicts it; else off. Raises ValueError for a `given` that is no mirror of the
    skeleton, ImportError where scipy is missing.
    """
    skeleton = dataset.skeleton
    if given is not None:
        dataset.with_skeleton(type(skeleton)(skeleton.names, mirror=tuple(given)))  # Skeleton checks a permutation
    fixed = given if given is not None else skeleton.mirror
    named, unnamed_reason = None, ""
    try:
        named = from_names(skeleton.names)
    except ValueError as error:
        unnamed_reason = str(error).removeprefix("mirror: ").split(";")[0]
    proposal = tuple(fixed) if fixed is not None else named
    trial = _try(dataset, proposal, seed)

    if fixed is not None:
        source = "given" if given is not None else "flip_pairs"
        origin = "the recipe" if given is not None else "the data set's flip_pairs"
        doubt = trial if isinstance(trial, str) else _contradiction(trial, skeleton.names, proposal)
        told = f"mirror: {_count(proposal)} from {origin}"
        if isinstance(trial, str):
            return Mirror(proposal, source, f"{told}; not checked against the labels: {doubt}")
        if doubt:
            return Mirror(proposal, source, f"{told}, used although the labels disagree: {doubt}", warning=True)
        return Mirror(proposal, source, f"{told}; the labels agree: {_figures(trial.of(proposal))}")

    if isinstance(trial, str):
        return Mirror(None, "off", f"mirror: off, {trial}; {GIVE}", warning=named is not None)
    found = trial.of(trial.found) if trial.found is not None else None
    objection = _objection(trial.found, skeleton.names) if trial.found is not None else ""
    unaided = found is not None and found.clear and found.ratio <= MAX_UNAIDED and found.objects >= MIN_UNAIDED
    overruled = unaided and not objection and trial.found != named
    verdict = trial.of(named) if named is not None and not overruled else None
    if verdict and verdict.clear:
        line = f"mirror: {_count(named)} by left/right names; the labels agree: {_figures(verdict)}"
        return Mirror(named, "names", line)
    if verdict and verdict.tied and verdict.upright:
        line = (
            f"mirror: {_count(named)} by left/right names; the labels agree: mirrored objects have {verdict.ratio:.2f} "
            "times the misfit of plain ones and stay upright, as with no other pairing of equal fit"
        )
        return Mirror(named, "names", line)
    if overruled:
        why = f" ({unnamed_reason})" if unnamed_reason else ""
        if named:
            why = f", which overrule the left/right names ({_difference(named, found.permutation, skeleton.names)})"
        line = f"mirror: {_count(found.permutation)} found in the labels{why}: {_figures(found)}"
        return Mirror(found.permutation, "labels", line, warning=named is not None)
    if found is None:
        reason = "two halves of the labels suggest different pairs"
    elif unaided:
        reason = f"the labels suggest {_count(found.permutation)}, but {objection}"
    else:
        reason = f"the labels show no clear symmetry: {_weakness(found, skeleton.names, unaided=True)}"
    if named:
        reason += f"; left/right names propose {_count(named)}, but {_weakness(verdict, skeleton.names)}"
    return Mirror(None, "off", f"mirror: off, {reason}; {GIVE}", warning=named is not None)


# --- names ---


def _index(end: str | int, names: Sequence[str]) -> int:
    if isinstance(end, str):
        if end not in names:
            raise ValueError(f"mirror pairs: no keypoint is named {end!r}; the names are {', '.join(names)}")
        return list(names).index(end)
    if isinstance(end, bool) or not isinstance(end, (int, np.integer)):
        raise ValueError(f"mirror pairs: expected names or 0-based indices, got {end!r}")
    if not 0 <= end < len(names):
        raise ValueError(f"mirror pairs: index {end} leaves the {len(names)} keypoints (0-based)")
    return int(end)


def _words(name: str) -> tuple[str, ...]:
    """The lower-case words of a name: cut at separators, digits and capitals."""
    cut = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+", name)
    return tuple(word.lower() for word in cut)


def _canonical(word: str) -> str:
    return {"l": "left", "r": "right"}.get(word, word)


def _unglued(word: str, known: set[str]) -> tuple[str, ...]:
    """leftear -> left, ear. At the end of a word (earleft, but also upright) only where the other side is there too."""
    for side, other in (("left", "right"), ("right", "left")):
        if word.startswith(side) and len(word) > len(side):
            return side, word[len(side) :]
        if word.endswith(side) and word.removesuffix(side) + other in known and word != side:
            return word.removesuffix(side), side
    return (word,)


def _side(name: str) -> str | None:
    """left or right where a name says one side, and only one."""
    words = [piece for word in _words(name) for piece in _unglued(word, set())]
    sides = {_canonical(word) for word in words if word in SIDES}
    return sides.pop() if len(sides) == 1 else None


def _objection(permutation: tuple[int, ...], names: Sequence[str]) -> str:
    """Why the names forbid a permutation that fits the labels; empty where they do not."""
    sides = [_side(name) for name in names]
    if not any(sides) and len(names) < MIN_UNSIDED:
        return f"no name has a side, and {len(names)} keypoints are too few to go by labels alone"
    both = {"left", "right"} <= set(sides)
    for index, other in enumerate(permutation):
        if both and sides[index] is not None and sides[index] == sides[other]:
            where = "stay" if index == other else f"become {names[other]}"
            return f"{names[index]} would {where} and so keep its side"
        mine, theirs = set(_words(names[index])), set(_words(names[other]))
        mine, theirs = mine - theirs, theirs - mine
        if any((one in mine and two in theirs) or (two in mine and one in theirs) for one, two in OPPOSITES):
            return f"{names[index]} and {names[other]} differ in more than a side"
    return ""


# --- shapes: complex (N, K) coordinates, x + iy, 0 where unlabelled, with a (N, K) mask ---


@dataclasses.dataclass(frozen=True)
class _Shape:
    """How plain objects look, shift, turn and scale aside.

    mean: (K,) complex. weight: (K,) of each point in the alignment. spread: (K,) standard deviation.
    factors: (2K, q), noise: (2K,): the covariance of aligned points over their spread, factors @ factors.T + noise.
    """

    mean: np.ndarray
    weight: np.ndarray
    spread: np.ndarray
    factors: np.ndarray
    noise: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Verdict:
    """What unseen groups say of one permutation.

    ratio: misfit of mirrored over plain objects. point_ratio: the worst keypoint's (`point`). rival: the strongest
    alternative, `gain` how much worse it is (mean log misfit), `wins` the least share of resamplings won against any,
    lost: whether the rival won them all.
    tied: fits, and so do those alternatives that are not beaten. upright: mirrored objects keep the plain ones' turn,
    and those alternatives do not.
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
    objects: int
    clusters: str
    tied: bool
    upright: bool

    @property
    def fits(self) -> bool:
        return self.ratio <= MAX_RATIO and self.point_ratio <= MAX_POINT_RATIO

    @property
    def rival_ratio(self) -> float:
        return self.ratio * float(np.exp(self.gain))

    @property
    def clear(self) -> bool:
        return self.fits and self.wins == 1 and self.gain * len(self.permutation) >= MIN_GAIN


@dataclasses.dataclass(frozen=True)
class _Trial:
    """found: the permutation that both halves propose, or None where they differ. of: the verdict on a permutation."""

    found: tuple[int, ...] | None
    of: Callable[[tuple[int, ...]], _Verdict]


def _try(dataset: Dataset, proposal: tuple[int, ...] | None, seed: int) -> _Trial | str:
    """The trial of a data set's labels, or why there can be none."""
    count = len(dataset.skeleton)
    labelled = dataset.labelled
    usable = np.flatnonzero(labelled.sum(axis=1) >= min(count, 3))
    if count == 1:
        return "a single keypoint shows no symmetry"
    if len(usable) < MIN_OBJECTS:
        return f"{len(usable)} objects with 3 or more labels are too few to check a symmetry, {MIN_OBJECTS} are needed"
    generator = np.random.default_rng(seed)
    clusters, halves, unit = _halves(dataset, usable, generator)
    z = np.where(labelled, dataset.xy[..., 0] + 1j * dataset.xy[..., 1], 0)
    parts = [(z[half], labelled[half], clusters[half]) for half in halves]
    for _, mask, _ in parts:
        scarce = np.flatnonzero(mask.sum(axis=0) < MIN_LABELLED)
        if len(scarce):
            return f"{dataset.skeleton.names[scarce[0]]} has too few labels to check a symmetry"

    shapes = [_shape(z, mask) for z, mask, _ in parts]
    pools = [_candidates(shape, proposal) for shape in shapes]
    winners = [_best(shape, z, mask, pool) for shape, (z, mask, _), pool in zip(shapes, parts, pools, strict=True)]
    found = winners[0] if winners[0] == winners[1] else None
    pool = {*pools[0], *pools[1], *winners}
    verdicts: dict[tuple[int, ...], _Verdict] = {}

    def of(permutation: tuple[int, ...]) -> _Verdict:
        if permutation not in verdicts:
            verdicts[permutation] = _judge(permutation, pool, shapes, parts, unit, np.random.default_rng(seed))
        return verdicts[permutation]

    return _Trial(found, of)


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
    present, sizes = np.unique(clusters[usable], return_counts=True)
    filled, half_of = [0, 0], {}
    for position in generator.permutation(len(present)):
        half = int(filled[1] < filled[0])
        half_of[int(present[position])] = half
        filled[half] += sizes[position]
    side = np.array([half_of[int(cluster)] for cluster in clusters[usable]])
    halves = []
    for half in (0, 1):
        own = usable[side == half]
        if len(own) > MAX_OBJECTS:
            own = np.sort(generator.choice(own, MAX_OBJECTS, replace=False))
        halves.append(own)
    return clusters, halves, unit


def _align(z: np.ndarray, mask: np.ndarray, mean: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objects laid onto the mean by shift, turn and scale (weighted least squares): points (N, K), turn-scale (N,)."""
    w = mask * weight
    total = np.maximum(w.sum(axis=1, keepdims=True), 1e-12)
    centred = (z - (w * z).sum(axis=1, keepdims=True) / total) * mask
    middle = (w * mean).sum(axis=1, keepdims=True) / total
    size = np.maximum((w * np.abs(centred) ** 2).sum(axis=1), 1e-12)
    turn = (w * centred.conj() * (mean - middle)).sum(axis=1) / size
    return (turn[:, None] * centred + middle) * mask, turn


def _shape(z: np.ndarray, mask: np.ndarray) -> _Shape:
    """The distribution of plain objects: generalised Procrustes, then a factor model that takes missing points."""
    count = z.shape[1]
    labels = mask.sum(axis=0)
    first = int(np.argmax(mask.sum(axis=1)))
    mean, weight = z[first], mask[first].astype(np.float64)
    for step in range(12):
        centre = (weight * mean).sum() / weight.sum()
        mean = (mean - centre) / max(np.sqrt((weight * np.abs(mean - centre) ** 2).sum() / weight.sum()), 1e-12)
        points, _ = _align(z, mask, mean, weight)
        # Objects that share too little with the reference cannot be laid onto it yet.
        ready = mask & ((mask * (weight > 0)).sum(axis=1) >= min(count, 2))[:, None]
        seen = ready.sum(axis=0)
        mean = np.where(seen > 0, (points * ready).sum(axis=0) / np.maximum(seen, 1), mean)
        variance = (np.abs(points - mean) ** 2 * ready).sum(axis=0) / np.maximum(seen, 1)
        if step < 4:
            weight = (seen > 0).astype(np.float64)
        else:  # free points (a needle's tip) must not steer; the median keeps two points from taking all the weight
            weight = np.where(seen > 0, 1 / (variance + np.median(variance) + 1e-6), 0)
            weight /= weight.mean()
    points, _ = _align(z, mask, mean, weight)
    residual = (points - mean) * mask
    spread = np.sqrt((np.abs(residual) ** 2).sum(axis=0) / (2 * labels))
    spread = np.maximum(spread, 0.05 * np.median(spread) + 1e-4)
    flat, flat_mask = _flat(residual / spread), np.concatenate([mask, mask], axis=1).astype(np.float64)
    rank = max(min(count - 2, len(z) // 12, 10), 0)
    factors, noise = np.zeros((2 * count, 0)), (flat**2).sum(axis=0) / flat_mask.sum(axis=0)
    for _ in range(6 if rank else 0):
        _, expected = _whiten(flat, flat_mask, factors, noise)
        filled = np.where(flat_mask > 0, flat, expected)
        values, vectors = np.linalg.eigh(filled.T @ filled / len(filled))
        floor = max(values[:-rank].mean(), 0)
        factors = vectors[:, -rank:] * np.sqrt(np.maximum(values[-rank:] - floor, 0))
        noise = (((flat - filled @ vectors[:, -rank:] @ vectors[:, -rank:].T) * flat_mask) ** 2).sum(axis=0)
        noise = noise / flat_mask.sum(axis=0)
        noise = noise * 0.9 + max(0.1 * noise.mean(), 1e-3)
    return _Shape(mean, weight, spread, factors, noise)


def _flat(z: np.ndarray) -> np.ndarray:
    return np.concatenate([z.real, z.imag], axis=1)


def _whiten(
    flat: np.ndarray, mask: np.ndarray, factors: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision times residual, and the residual expected everywhere from the labelled points: both (N, 2K)."""
    rank = factors.shape[1]
    if rank == 0:
        return mask * flat / noise, np.zeros_like(flat)
    scaled = factors / noise[:, None]
    if mask.all():  # the common case, and far quicker: one matrix serves every object
        expected = flat @ scaled @ np.linalg.inv(scaled.T @ factors + np.eye(rank)) @ factors.T
        return (flat - expected) / noise, expected
    outer = (scaled[:, :, None] * factors[:, None, :]).reshape(-1, rank * rank)
    inner = (mask @ outer).reshape(-1, rank, rank) + np.eye(rank)
    expected = np.linalg.solve(inner, (flat * mask @ scaled)[..., None])[..., 0] @ factors.T
    return mask * (flat - expected) / noise, expected


def _misfit(shape: _Shape, z: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far each object lies from plain ones, about 1 for a plain one (N,); of each point (N, K); turn-scale (N,)."""
    points, turn = _align(z, mask, shape.mean, shape.weight)
    flat = _flat((points - shape.mean) * mask / shape.spread)
    pull, _ = _whiten(flat, np.concatenate([mask, mask], axis=1).astype(np.float64), shape.factors, shape.noise)
    freedom = np.maximum(2 * mask.sum(axis=1) - 4, 1)
    count = z.shape[1]
    misfit = np.sqrt(np.maximum((flat * pull).sum(axis=1), 0) / freedom + 0.01)
    return misfit, np.hypot(pull[:, :count], pull[:, count:]), turn


def _mirrored(z: np.ndarray, mask: np.ndarray, permutation: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    order = list(permutation)
    return -z.conj()[:, order], mask[:, order]


# --- permutations ---


def _cost(shape: _Shape, reflected: np.ndarray) -> np.ndarray:
    """(K, K), symmetric: how unlike the reflected mean of one point and another point are, spreads included."""
    variance = shape.spread**2
    total = variance[:, None] + variance[None, :]
    cost = np.abs(reflected[:, None] - shape.mean[None, :]) ** 2 / total
    cost += np.log(total / (2 * np.sqrt(variance[:, None] * variance[None, :])))
    return (cost + cost.T) / 2


def _candidates(shape: _Shape, proposal: tuple[int, ...] | None) -> set[tuple[int, ...]]:
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


def _reflect(shape: _Shape, permutation: tuple[int, ...]) -> np.ndarray:
    """The mean mirrored so that its permuted points come to lie on the mean as well as they can, (K,) complex."""
    order = list(permutation)
    everywhere = np.ones((1, len(order)), bool)
    laid, _ = _align(-shape.mean.conj()[None, order], everywhere, shape.mean, shape.weight)
    return laid[0][order]  # a mirror undoes itself, so it also brings the points back into their own order


def _assign(cost: np.ndarray) -> tuple[int, ...]:
    """The cheapest permutation, with cycles longer than a swap cut into swaps (and one fixed point if odd)."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        hint = "install keylite with a training extra"
        raise ImportError(f"mirror: finding mirror pairs in labels needs scipy; {hint}") from error
    assigned = linear_sum_assignment(cost)[1].tolist()
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
    orbits = [(k, other) if k != other else (k,) for k, other in enumerate(permutation) if k <= other]
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


def _best(shape: _Shape, z: np.ndarray, mask: np.ndarray, pool: set[tuple[int, ...]]) -> tuple[int, ...]:
    """The permutation under which mirrored objects of this half fit it best, climbed to from the pool."""
    keep = np.linspace(0, len(z) - 1, min(len(z), 200)).astype(int)
    z, mask = z[keep], mask[keep]

    def score(permutation: tuple[int, ...]) -> float:
        return float(np.log(_misfit(shape, *_mirrored(z, mask, permutation))[0]).mean())

    best_score, best = min((score(permutation), permutation) for permutation in sorted(pool))
    for _ in range(20):
        steps = _neighbours(best, _cost(shape, _reflect(shape, best)), most=60)
        step_score, step = min(((score(permutation), permutation) for permutation in steps), default=(np.inf, best))
        if step_score >= best_score:
            break
        best_score, best = step_score, step
    return best


def _judge(
    permutation: tuple[int, ...],
    pool: set[tuple[int, ...]],
    shapes: Sequence[_Shape],
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    unit: str,
    generator: np.random.Generator,
) -> _Verdict:
    """The verdict of each half's objects under the other half's shape, on a permutation against every alternative."""
    near = [p for shape in shapes for p in _neighbours(permutation, _cost(shape, _reflect(shape, permutation)))]
    every = sorted({*pool, *near} - {permutation})
    rivals = _closest(every, shapes, parts)
    plain, own, others, clusters, plain_pull, own_pull, masks, own_masks, turns = ([] for _ in range(9))
    for shape, (z, mask, cluster) in zip(reversed(shapes), parts, strict=True):
        keep = np.sort(generator.choice(len(z), min(len(z), 300), replace=False))
        z, mask = z[keep], mask[keep]
        misfit, pull, turn = _misfit(shape, z, mask)
        own_misfit, permuted_pull, own_turn = _misfit(shape, *_mirrored(z, mask, permutation))
        rival = [_misfit(shape, *_mirrored(z, mask, p)) for p in rivals]
        masks.append(mask), own_masks.append(mask[:, list(permutation)])
        plain.append(misfit), own.append(own_misfit), clusters.append(cluster[keep])
        others.append(np.stack([r[0] for r in rival], axis=1))
        plain_pull.append(pull), own_pull.append(permuted_pull)
        turn = np.stack([turn, own_turn, *(r[2] for r in rival)], axis=1)
        turn = turn / np.maximum(np.abs(turn), 1e-12)
        axis = turn[:, 0].mean()  # each half's mean shape lies in a frame of its own
        turns.append(turn * axis.conj() / max(abs(axis), 1e-12))
    plain, own, others = np.concatenate(plain), np.concatenate(own), np.concatenate(others)
    gains = np.log(others) - np.log(own)[:, None]
    _, cluster = np.unique(np.concatenate(clusters), return_inverse=True)
    sums, sizes = np.zeros((cluster.max() + 1, len(rivals))), np.bincount(cluster)
    np.add.at(sums, cluster, gains)
    draws = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLINGS)
    won = (draws @ sums > 0).mean(axis=0)
    mean_gain = gains.mean(axis=0)
    ratio = float(np.exp(np.log(own).mean() - np.log(plain).mean()))
    point_ratios = _typical(own_pull, own_masks) / _typical(plain_pull, masks)
    margin = MIN_GAIN / len(permutation)
    open_rivals = (won < 1) | (mean_gain < margin)
    rival_ratios = ratio * np.exp(mean_gain)
    fits = ratio <= MAX_RATIO and point_ratios.max() <= MAX_POINT_RATIO
    # A tie is a symmetry of its own (a rectangle's two axes), not a want of evidence: open rivals fit as well.
    tied = fits and bool((mean_gain[open_rivals] > -margin).all() and (rival_ratios[open_rivals] <= MAX_RATIO).all())
    cosine = np.concatenate(turns).real.mean(axis=0)
    upright = min(cosine[0], cosine[1]) > UPRIGHT and bool((cosine[2:][open_rivals] < UPRIGHT - 0.4).all())
    strongest = int(np.argmin(mean_gain))
    return _Verdict(
        permutation=permutation,
        ratio=ratio,
        point_ratio=float(point_ratios.max()),
        point=int(point_ratios.argmax()),
        rival=rivals[strongest],
        rivals=len(every),
        gain=float(mean_gain.min()),
        wins=float(won.min()),
        lost=bool(won[strongest] == 0),
        objects=len(own),
        clusters=f"{len(sizes)} {unit}",
        tied=tied,
        upright=upright,
    )


def _closest(
    rivals: list[tuple[int, ...]],
    shapes: Sequence[_Shape],
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    most: int = 60,
) -> list[tuple[int, ...]]:
    """The rivals that fit best by a quick look at few objects; the others lose anyway and would take the time."""
    if len(rivals) <= most:
        return rivals
    looks = np.zeros(len(rivals))
    for shape, (z, mask, _) in zip(reversed(shapes), parts, strict=True):
        keep = np.linspace(0, len(z) - 1, min(len(z), 60)).astype(int)
        for index, rival in enumerate(rivals):
            looks[index] += np.log(_misfit(shape, *_mirrored(z[keep], mask[keep], rival))[0]).mean()
    return [rivals[index] for index in np.sort(np.argsort(looks)[:most])]


def _typical(pulls: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> np.ndarray:
    """Median over objects of each point's pull (K,), with a floor against points that never move."""
    pull, mask = np.concatenate(pulls), np.concatenate(masks)
    return np.nanmedian(np.where(mask | ~mask.any(axis=0), pull, np.nan), axis=0) + 0.1


# --- words for the user ---


def _count(permutation: Sequence[int]) -> str:
    pairs = sum(k < other for k, other in enumerate(permutation))
    return f"{pairs} pair{'' if pairs == 1 else 's'}" if pairs else "no pairs (every keypoint stays)"


def _figures(verdict: _Verdict) -> str:
    return (
        f"mirrored objects have {verdict.ratio:.2f} times the misfit of plain ones, with the best of {verdict.rivals} "
        f"other pairings {verdict.rival_ratio:.2f} times ({verdict.objects} held-out objects, {verdict.clusters})"
    )


def _weakness(verdict: _Verdict, names: Sequence[str], unaided: bool = False) -> str:
    """Why a verdict is not clear, or not clear enough to go by labels alone."""
    most = MAX_UNAIDED if unaided else MAX_RATIO
    if unaided and verdict.objects < MIN_UNAIDED:
        return f"{verdict.objects} objects are too few to go by labels alone, {MIN_UNAIDED} are needed"
    if verdict.ratio > most:
        return f"mirrored objects have {verdict.ratio:.2f} times the misfit of plain ones (at most {most} is accepted)"
    if verdict.point_ratio > MAX_POINT_RATIO:
        return (
            f"{names[verdict.point]} has {verdict.point_ratio:.1f} times the misfit in mirrored objects that it has in "
            f"plain ones (at most {MAX_POINT_RATIO} is accepted)"
        )
    return (
        f"another pairing fits about as well (misfit {verdict.ratio:.2f} and {verdict.rival_ratio:.2f} times that of "
        f"plain objects; {verdict.objects} held-out objects, {verdict.clusters})"
    )


def _contradiction(trial: _Trial, names: Sequence[str], permutation: tuple[int, ...]) -> str:
    """What in the labels speaks against a given permutation; empty where nothing clear does."""
    verdict = trial.of(permutation)
    if verdict.lost and verdict.gain * len(names) <= -MIN_GAIN:
        return (
            f"mirrored objects have {verdict.ratio:.2f} times the misfit of plain ones, but {verdict.rival_ratio:.2f} "
            f"times with another pairing, which has {_difference(permutation, verdict.rival, names)}"
        )
    return "" if verdict.fits else _weakness(verdict, names)


def _difference(one: Sequence[int], two: Sequence[int], names: Sequence[str]) -> str:
    """A keypoint on which two permutations differ, as the second has it; one that the first swaps where it can be."""
    differ = [k for k in range(len(names)) if one[k] != two[k]]
    index = next((k for k in differ if one[k] != k), differ[0])
    here, there = (
        f"{names[index]} {f'<-> {names[p[index]]}' if p[index] != index else 'in place'}" for p in (two, one)
    )
    return f"{here}, not {there}"
