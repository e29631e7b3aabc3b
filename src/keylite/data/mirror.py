"""Choosing which keypoints swap in a horizontal flip: given by the user, or proposed and then checked.

The check is in symmetry.py. Labels do not show what a point means (the start and end of a dial, the front and rear of a
car), so names have a veto, and a few points whose names have no side are not enough. In doubt the answer is "off",
because a wrong flip teaches wrong points and nothing would show it. Only choose_mirror needs scipy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.symmetry import MAX_POINT_RATIO, MAX_RATIO, MIN_GAIN, MirrorTrial, Verdict, try_mirrors
from keylite.runtime.errors import ArgumentError, DataError
from keylite.runtime.kinds import plain
from keylite.runtime.sides import OTHER, parts_of, side_of, words_of
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.words import counted, quoted

# Words for two ends that a mirror does not swap: the mirror image of a dial's start is no dial's end.
OPPOSITES = (
    *(("start", "end"), ("begin", "end"), ("first", "last"), ("head", "tail"), ("nose", "tail"), ("min", "max")),
    *(("front", "back"), ("front", "rear"), ("front", "hind"), ("fore", "hind"), ("top", "bottom"), ("top", "bot")),
    *(("upper", "lower"), ("up", "down"), ("inner", "outer"), ("near", "far"), ("high", "low"), ("in", "out")),
)
MIN_UNAIDED = 40  # objects needed if names do not confirm the pairs: among few, a nearly symmetric shape may pass
MIN_UNSIDED = 8  # keypoints needed if no name has a side: a few points may look symmetric by accident (dials, cars)
MAX_UNAIDED = 1.15  # as MAX_RATIO, if names do not confirm the pairs
GIVE = "to flip images, name the pairs, as mirror of the recipe or as flip_pairs of COCO labels"
Mirrored = Sequence[int] | Sequence[tuple[str | int, str | int]] | np.ndarray  # a permutation (K), or pairs


@dataclasses.dataclass(frozen=True)
class Mirror:
    """What a horizontal flip does to the keypoints.

    Attributes:
        permutation: `new = old[permutation]`; None: images are not flipped.
        source: Where the permutation is from: given (the recipe), flip_pairs, names, labels; or off.
        line: One sentence for the user, with the evidence.
        warning: Whether the line is a warning.
    """

    permutation: tuple[int, ...] | None
    source: str
    line: str
    warning: bool = False


def from_pairs(pairs: Sequence[tuple[str | int, str | int]], names: Sequence[str]) -> tuple[int, ...]:
    """The permutation that swaps each pair (names or 0-based indices); all other keypoints stay.

    Raises ArgumentError for an entry that is no pair, an unknown name, an index out of range, or a keypoint in two
    pairs.
    """
    permutation = list(range(len(names)))
    used: set[int] = set()
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise ArgumentError(
                f"mirror pairs: expected two keypoints each, got {quoted(pair)}; write [left_eye, right_eye]"
            )
        ends = [_index(end, names) for end in pair]
        if ends[0] == ends[1]:
            raise ArgumentError(f"mirror pairs: {names[ends[0]]} is paired with itself; leave it out, it then stays")
        for end in ends:
            if end in used:
                raise ArgumentError(f"mirror pairs: {names[end]} is in more than one pair; keep one")
            used.add(end)
        permutation[ends[0]], permutation[ends[1]] = ends[1], ends[0]
    return tuple(permutation)


def as_permutation(name: str, mirror: Mirrored, names: Sequence[str]) -> tuple[int, ...]:
    """The permutation that swaps the pairs of keypoints `mirror`; a permutation itself stays as it is.

    Raises ArgumentError, with the argument's name, for anything else.
    """
    value = plain(mirror)
    if not isinstance(value, tuple):
        raise ArgumentError(
            f"{name}: expected pairs of keypoints such as [('left_eye', 'right_eye')], or a permutation of "
            f"0..{len(names) - 1}, got {quoted(mirror)}; leave it out for the mirror of the model"
        )
    if not value or any(isinstance(entry, str | tuple) for entry in value):
        return from_pairs(value, names)
    return Skeleton(tuple(names), mirror=value).mirror or ()


def from_names(names: Sequence[str]) -> tuple[int, ...] | None:
    """The permutation that left and right in the names propose (sides.py); None if no name has a side.

    Raises DataError for a keypoint whose counterpart on the other side is missing, or is there more than once.
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
        counterparts = places.get(other, [])
        if len(counterparts) != 1:
            what = "has no" if not counterparts else "has more than one"
            raise DataError(f"mirror: {names[index]} {what} counterpart {'_'.join(other)}; {GIVE}")
        permutation[index] = counterparts[0]
    return tuple(permutation) if permutation != list(range(len(names))) else None


def choose_mirror(dataset: Dataset, from_recipe: tuple[int, ...] | None = None, seed: int = 0) -> Mirror:
    """The mirror to train with, and why.

    from_recipe: the recipe's permutation, which comes first; then comes the data set's (`flip_pairs`). These two are
    used even if the labels disagree, with a warning. Else names with left and right are used if the labels confirm
    them, else a permutation that only the labels show if nothing contradicts it, else none. seed: of random choices in
    the check. Raises ArgumentError if `from_recipe` is no mirror of the skeleton, and ModuleNotFoundError if scipy is
    missing.
    """
    skeleton = dataset.skeleton
    if from_recipe is not None:
        type(skeleton)(skeleton.names, mirror=tuple(from_recipe))  # raises ArgumentError if it is no mirror
    fixed = tuple(from_recipe) if from_recipe is not None else skeleton.mirror
    named, unnamed_reason = None, ""
    try:
        named = from_names(skeleton.names)
    except ValueError as error:
        unnamed_reason = str(error).removeprefix("mirror: ").split(";")[0]
    trial = try_mirrors(dataset, fixed if fixed is not None else named, seed)

    if fixed is not None:
        return _mirror_given(fixed, from_recipe is not None, trial, skeleton.names)
    if isinstance(trial, str):
        return Mirror(None, "off", f"no image is flipped: {trial}; {GIVE}", warning=named is not None)
    return _mirror_shown(named, unnamed_reason, trial, skeleton.names)


def _mirror_given(
    permutation: tuple[int, ...], by_recipe: bool, trial: MirrorTrial | str, names: Sequence[str]
) -> Mirror:
    """The mirror that the recipe or the data set gives, and what the labels say of it. trial: or why there is none."""
    source, origin = ("given", "the recipe") if by_recipe else ("flip_pairs", "the data set's flip_pairs")
    line = f"mirror: {_count(permutation)} from {origin}"
    if isinstance(trial, str):
        return Mirror(permutation, source, f"{line}; not checked against the labels: {trial}")
    doubt = _contradiction(trial, names, permutation)
    if doubt:
        return Mirror(permutation, source, f"{line}, used although the labels disagree: {doubt}", warning=True)
    return Mirror(permutation, source, f"{line}; the labels agree: {_figures(trial.verdict_on(permutation))}")


def _mirror_shown(
    named: tuple[int, ...] | None, unnamed_reason: str, trial: MirrorTrial, names: Sequence[str]
) -> Mirror:
    """The mirror that names or labels show, or none. named: the names' permutation. unnamed_reason: why it is None."""
    by_labels = trial.verdict_on(trial.proposed) if trial.proposed is not None else None
    objection = _objection(trial.proposed, names) if trial.proposed is not None else ""
    unaided = (  # the labels alone are evidence enough
        by_labels is not None
        and by_labels.clear
        and by_labels.ratio <= MAX_UNAIDED
        and by_labels.objects >= MIN_UNAIDED
    )
    overruled = unaided and not objection and trial.proposed != named
    verdict = trial.verdict_on(named) if named is not None and not overruled else None
    if verdict and verdict.clear:
        line = f"mirror: {_count(verdict.permutation)} by left/right names; the labels agree: {_figures(verdict)}"
        return Mirror(named, "names", line)
    if verdict and verdict.stands:
        line = (
            f"mirror: {_count(verdict.permutation)} by left/right names; the labels agree: mirrored objects are "
            f"{verdict.ratio:.2f} times as far from the usual shape as unmirrored ones and stay upright, which they do "
            "with no other pairing that fits as well"
        )
        return Mirror(named, "names", line)
    if by_labels is not None and overruled:
        why = f" ({unnamed_reason})" if unnamed_reason else ""
        if named:
            why = f", which overrule the left/right names ({_difference(named, by_labels.permutation, names)})"
        line = f"mirror: {_count(by_labels.permutation)} found in the labels{why}: {_figures(by_labels)}"
        return Mirror(by_labels.permutation, "labels", line, warning=named is not None)
    if by_labels is None:
        reason = "two halves of the labels suggest different pairs"
    elif unaided:
        reason = f"the labels suggest {_count(by_labels.permutation)}, but {objection}"
    else:
        reason = f"the labels show no clear symmetry: {_weakness(by_labels, names, unaided=True)}"
    if verdict:
        reason += f"; left/right names propose {_count(verdict.permutation)}, but {_weakness(verdict, names)}"
    return Mirror(None, "off", f"no image is flipped: {reason}; {GIVE}", warning=named is not None)


# --- names ---


def _index(end: str | int, names: Sequence[str]) -> int:
    if isinstance(end, str):
        if end not in names:
            raise ArgumentError(f"mirror pairs: no keypoint is named {quoted(end)}; the names are {', '.join(names)}")
        return list(names).index(end)
    if isinstance(end, bool) or not isinstance(end, (int, np.integer)):
        raise ArgumentError(f"mirror pairs: expected names or 0-based indices, got {quoted(end)}")
    if not 0 <= end < len(names):
        raise ArgumentError(f"mirror pairs: index {end} leaves the {len(names)} keypoints (0-based)")
    return int(end)


def _objection(permutation: tuple[int, ...], names: Sequence[str]) -> str:
    """Why the names forbid a permutation that fits the labels; empty if they do not."""
    sides = [side_of(name) for name in names]
    if not any(sides) and len(names) < MIN_UNSIDED:
        return f"no keypoint name says left or right, and {len(names)} keypoints are too few to trust the labels alone"
    both = {"left", "right"} <= set(sides)
    for index, other in enumerate(permutation):
        if both and sides[index] is not None and sides[index] == sides[other]:
            change = "stay" if index == other else f"become {names[other]}"
            return f"{names[index]} would {change} and so keep its side"
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
        f"mirrored objects are {verdict.ratio:.2f} times as far from the usual shape as unmirrored ones, and with the "
        f"best of {verdict.rivals} other pairings {verdict.rival_ratio:.2f} times ({verdict.objects} held-out objects, "
        f"{verdict.clusters})"
    )


def _weakness(verdict: Verdict, names: Sequence[str], unaided: bool = False) -> str:
    """Why a verdict is not clear, or, if `unaided`, not clear enough to trust the labels alone."""
    most = MAX_UNAIDED if unaided else MAX_RATIO
    if unaided and verdict.objects < MIN_UNAIDED:
        return f"{verdict.objects} objects are too few to trust the labels alone, {MIN_UNAIDED} are needed"
    if verdict.ratio > most:
        return (
            f"mirrored objects are {verdict.ratio:.2f} times as far from the usual shape as unmirrored ones (at most "
            f"{most} is accepted)"
        )
    if verdict.point_ratio > MAX_POINT_RATIO:
        return (
            f"{names[verdict.point]} is {verdict.point_ratio:.1f} times as far from its usual place in mirrored "
            f"objects as in unmirrored ones (at most {MAX_POINT_RATIO} is accepted)"
        )
    return (
        f"another pairing fits about as well (mirrored objects are {verdict.rival_ratio:.2f} times as far from the "
        f"usual shape as unmirrored ones, and with this pairing {verdict.ratio:.2f} times; {verdict.objects} held-out "
        f"objects, {verdict.clusters})"
    )


def _contradiction(trial: MirrorTrial, names: Sequence[str], permutation: tuple[int, ...]) -> str:
    """What in the labels speaks against a permutation; empty if nothing clear does."""
    verdict = trial.verdict_on(permutation)
    if verdict.lost and verdict.gain * len(names) <= -MIN_GAIN:
        return (
            f"mirrored objects are {verdict.ratio:.2f} times as far from the usual shape as unmirrored ones, but "
            f"{verdict.rival_ratio:.2f} times with another pairing, which has "
            f"{_difference(permutation, verdict.rival, names)}"
        )
    return "" if verdict.fits else _weakness(verdict, names)


def _difference(one: Sequence[int], two: Sequence[int], names: Sequence[str]) -> str:
    """A keypoint on which two permutations differ, first as `two` has it; if possible one that `one` swaps."""
    differ = [k for k in range(len(names)) if one[k] != two[k]]
    index = next((k for k in differ if one[k] != k), differ[0])
    by_two, by_one = (
        f"{names[index]} {f'<-> {names[p[index]]}' if p[index] != index else 'in place'}" for p in (two, one)
    )
    return f"{by_two}, not {by_one}"
