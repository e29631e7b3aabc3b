"""Which keypoints swap in a horizontal flip: given by the user, or proposed and then checked against the labels.

The check is symmetry.py's. Labels cannot see what a picture means (a dial's start and end, a car's front and rear), so
the names have a veto, and a few points without sides in their names are not enough. Where anything is in doubt the
answer is "off": a wrong flip teaches wrong points without a word.
Knows nothing of images, file formats, augmentation or frameworks. scipy is needed by choose_mirror alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.symmetry import MAX_POINT_RATIO, MAX_RATIO, MIN_GAIN, Trial, Verdict, try_mirrors
from keylite.runtime.errors import DataError
from keylite.runtime.sides import OTHER, parts_of, side_of, words_of
from keylite.runtime.words import counted, quoted

# Words that tell two ends apart which a mirror does not exchange. A dial's scale runs backwards in a mirror.
OPPOSITES = (
    *(("start", "end"), ("begin", "end"), ("first", "last"), ("head", "tail"), ("nose", "tail"), ("min", "max")),
    *(("front", "back"), ("front", "rear"), ("front", "hind"), ("fore", "hind"), ("top", "bottom"), ("top", "bot")),
    *(("upper", "lower"), ("up", "down"), ("inner", "outer"), ("near", "far"), ("high", "low"), ("in", "out")),
)
MIN_UNAIDED = 40  # objects, without names to confirm: a roughly symmetric shape passes for symmetric among few
MIN_UNSIDED = 8  # keypoints needed where no name has a side: a few points look symmetric by accident (dials, cars)
MAX_UNAIDED = 1.15  # misfit of mirrored objects over plain ones, without names to confirm; with them it is MAX_RATIO
GIVE = "to flip, give the pairs, as mirror of the recipe or flip_pairs of COCO labels"


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
            raise DataError(
                f"mirror pairs: expected two keypoints each, got {quoted(pair)}; write [left_eye, right_eye]"
            )
        ends = [_index(end, names) for end in pair]
        if ends[0] == ends[1]:
            raise DataError(f"mirror pairs: {names[ends[0]]} is paired with itself; leave it out, it then stays")
        for end in ends:
            if end in used:
                raise DataError(f"mirror pairs: {names[end]} is in more than one pair; keep one")
            used.add(end)
        permutation[ends[0]], permutation[ends[1]] = ends[1], ends[0]
    return tuple(permutation)


def from_names(names: Sequence[str]) -> tuple[int, ...] | None:
    """The permutation that left/right names propose (sides.py); None if no name has a side.

    Raises ValueError for a keypoint whose other side is missing or not unique.
    """
    parts = parts_of(names)
    places: dict[tuple[str, ...], list[int]] = {}
    for index, words in enumerate(parts):
        places.setdefault(words, []).append(index)
    permutation = list(range(len(names)))
    for index, words in enumerate(parts):
        if OTHER.keys().isdisjoint(words):
            continue
        other = tuple(OTHER.get(word, word) for word in words)
        found = places.get(other, [])
        if len(found) != 1:
            what = "has no" if not found else "has more than one"
            raise DataError(f"mirror: {names[index]} {what} counterpart {'_'.join(other)}; {GIVE}")
        permutation[index] = found[0]
    return tuple(permutation) if permutation != list(range(len(names))) else None


def choose_mirror(dataset: Dataset, given: tuple[int, ...] | None = None, seed: int = 0) -> Mirror:
    """The mirror to train with, and why.

    `given` (the recipe's) comes first, then the data set's own (`flip_pairs`): both are used even where the labels
    disagree, with a warning. Else left/right names, where the labels confirm them; else the permutation that the labels
    themselves show, where nothing contradicts it; else off. Raises ValueError for a `given` that is no mirror of the
    skeleton, ModuleNotFoundError where scipy is missing.
    """
    skeleton = dataset.skeleton
    if given is not None:
        dataset.with_skeleton(type(skeleton)(skeleton.names, mirror=tuple(given)))  # Skeleton checks a permutation
    fixed = tuple(given) if given is not None else skeleton.mirror
    named, unnamed_reason = None, ""
    try:
        named = from_names(skeleton.names)
    except ValueError as error:
        unnamed_reason = str(error).removeprefix("mirror: ").split(";")[0]
    trial = try_mirrors(dataset, fixed if fixed is not None else named, seed)

    if fixed is not None:
        source = "given" if given is not None else "flip_pairs"
        origin = "the recipe" if given is not None else "the data set's flip_pairs"
        doubt = trial if isinstance(trial, str) else _contradiction(trial, skeleton.names, fixed)
        told = f"mirror: {_count(fixed)} from {origin}"
        if isinstance(trial, str):
            return Mirror(fixed, source, f"{told}; not checked against the labels: {doubt}")
        if doubt:
            return Mirror(fixed, source, f"{told}, used although the labels disagree: {doubt}", warning=True)
        return Mirror(fixed, source, f"{told}; the labels agree: {_figures(trial.of(fixed))}")

    if isinstance(trial, str):
        return Mirror(None, "off", f"mirror: off, {trial}; {GIVE}", warning=named is not None)
    found = trial.of(trial.found) if trial.found is not None else None
    objection = _objection(trial.found, skeleton.names) if trial.found is not None else ""
    unaided = found is not None and found.clear and found.ratio <= MAX_UNAIDED and found.objects >= MIN_UNAIDED
    overruled = unaided and not objection and trial.found != named
    verdict = trial.of(named) if named is not None and not overruled else None
    if verdict and verdict.clear:
        line = f"mirror: {_count(verdict.permutation)} by left/right names; the labels agree: {_figures(verdict)}"
        return Mirror(named, "names", line)
    if verdict and verdict.stands:
        line = (
            f"mirror: {_count(verdict.permutation)} by left/right names; the labels agree: mirrored objects have "
            f"{verdict.ratio:.2f} times the misfit of plain ones and stay upright, "
            "as with no other pairing of equal fit"
        )
        return Mirror(named, "names", line)
    if found is not None and overruled:
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
    if verdict:
        reason += f"; left/right names propose {_count(verdict.permutation)}, but {_weakness(verdict, skeleton.names)}"
    return Mirror(None, "off", f"mirror: off, {reason}; {GIVE}", warning=named is not None)


# --- names ---


def _index(end: str | int, names: Sequence[str]) -> int:
    if isinstance(end, str):
        if end not in names:
            raise DataError(f"mirror pairs: no keypoint is named {quoted(end)}; the names are {', '.join(names)}")
        return list(names).index(end)
    if isinstance(end, bool) or not isinstance(end, (int, np.integer)):
        raise DataError(f"mirror pairs: expected names or 0-based indices, got {quoted(end)}")
    if not 0 <= end < len(names):
        raise DataError(f"mirror pairs: index {end} leaves the {len(names)} keypoints (0-based)")
    return int(end)


def _objection(permutation: tuple[int, ...], names: Sequence[str]) -> str:
    """Why the names forbid a permutation that fits the labels; empty where they do not."""
    sides = [side_of(name) for name in names]
    if not any(sides) and len(names) < MIN_UNSIDED:
        return f"no name has a side, and {len(names)} keypoints are too few to go by labels alone"
    both = {"left", "right"} <= set(sides)
    for index, other in enumerate(permutation):
        if both and sides[index] is not None and sides[index] == sides[other]:
            where = "stay" if index == other else f"become {names[other]}"
            return f"{names[index]} would {where} and so keep its side"
        mine, theirs = set(words_of(names[index])), set(words_of(names[other]))
        mine, theirs = mine - theirs, theirs - mine
        if any(one in mine and two in theirs for one, two in OPPOSITES):  # the other way round at the other index
            return f"{names[index]} and {names[other]} differ in more than a side"
    return ""


# --- words for the user ---


def _count(permutation: Sequence[int]) -> str:
    pairs = sum(k < other for k, other in enumerate(permutation))
    return counted(pairs, "pair") if pairs else "no pairs (every keypoint stays)"


def _figures(verdict: Verdict) -> str:
    return (
        f"mirrored objects have {verdict.ratio:.2f} times the misfit of plain ones, with the best of {verdict.rivals} "
        f"other pairings {verdict.rival_ratio:.2f} times ({verdict.objects} held-out objects, {verdict.clusters})"
    )


def _weakness(verdict: Verdict, names: Sequence[str], unaided: bool = False) -> str:
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


def _contradiction(trial: Trial, names: Sequence[str], permutation: tuple[int, ...]) -> str:
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
