"""Findings about a data set as a whole: what training doubts, pictures that are alike, grids, groups and offsets."""

from __future__ import annotations

import warnings

import numpy as np

from keylite.data.checks import hardly_labelled, label_doubts
from keylite.data.dataset import Dataset
from keylite.data.examples import crop_boxes
from keylite.data.likeness import alike
from keylite.data.mirror import Mirror
from keylite.data.shapes import aligned, whiten
from keylite.labels.findings import Finding, finding_of, usual_extent
from keylite.labels.objects import Shapes
from keylite.runtime.errors import DataError
from keylite.runtime.words import listed
from keylite.training.checks import overlap_line, unlike_line

STEPS = (64, 50, 32, 25, 20, 16, 10, 8, 5, 4, 3, 2, 1, 0.5)  # px of grids that are looked for
ON_GRID = 0.99  # share of coordinates that lie on a grid, if it is one
PER_STEP = 0.3826  # steps: the mean distance from a random place to the nearest place of a grid
COARSE = 0.01  # share of an object's extent: if rounding alone moves points by more, it limits every model
DIFFERENT = 0.02  # share of an object's extent by which two labels of one picture may differ
SMALLEST_GROUP, FEWEST_GROUPS = 5, 5  # objects, and groups: fewer show no offset of a group
OFFSET = 6.0  # robust standard deviations of the groups' means beyond which a group has an offset
LEAST_OFFSET = 0.02  # share of an object's extent: a smaller offset is none
MOST_IN_ONE = 0.5  # share of objects in one group


def doubt_findings(data: Dataset, mirror: Mirror) -> list[Finding]:
    """What training would refuse or warn of, and the remarks of the reader. mirror: the one that it would choose."""
    box = "annotation" if data.boxed.any() else "image"
    findings = [finding_of(data, "note", "note", note) for note in data.notes]
    try:
        findings += [finding_of(data, "doubt", "warning", doubt) for doubt in label_doubts(data, box)]
        if box == "image":
            crop_boxes(data, box)
    except DataError as error:
        findings.append(finding_of(data, "refused", "error", str(error).removeprefix(f"{data.called}: ")))
    for name, count in hardly_labelled(data, data.xy).items():
        sentence = f"{name} is labelled in {count} of {len(data)} objects: it is not learnt"
        findings.append(finding_of(data, "few-labels", "warning", sentence, keypoints=(name,)))
    findings.append(finding_of(data, "mirror", "warning" if mirror.warning else "note", mirror.line))
    return findings


# ---- pictures


def picture_findings(data: Dataset) -> list[Finding]:
    """Pictures of one part that are equal or nearly equal."""
    if data.likeness is None:
        return []
    same = alike(data.likeness)
    limit = DIFFERENT * usual_extent(data) if data.labelled.any() else 0.0
    findings = []
    first_row = {int(image): row for row, image in reversed(list(enumerate(data.image_index.tolist())))}
    for image in np.flatnonzero(same.equal).tolist():
        other = int(same.other[image])
        if other > image:
            continue  # each pair once, at its second picture
        kind, words = "equal-pictures", "the same picture, with the same labels, as"
        if not _same_labels(data, image, other, limit):
            kind, words = "two-labels", "the same picture, but with other labels, as"
        sentence = f"{words} {data.image_names[other]}"
        severity = "note" if kind == "equal-pictures" else "warning"
        findings.append(finding_of(data, kind, severity, sentence, first_row[image], others=(data.image_names[other],)))
    near = np.flatnonzero((same.other >= 0) & ~same.equal)
    group_of = np.zeros(len(data.images), np.int64)
    group_of[data.image_index] = data.group_index
    if len(near):
        split = int((group_of[near] != group_of[same.other[near]]).sum())
        line = (
            f"{len(near)} of {len(data.images)} pictures are nearly equal to another one, as frames of a video are; "
            f"{split} of them to one of another group, so a random split would train on pictures that it tests on"
        )
        findings.append(finding_of(data, "alike-pictures", "warning" if split and data.groups_named else "note", line))
    return findings


def _same_labels(data: Dataset, image: int, other: int, limit: float) -> bool:
    """Whether two pictures have the same objects, in any order, but for `limit` px."""
    one, two = (data.xy[data.image_index == number] for number in (image, other))
    if len(one) != len(two):
        return False
    apart = np.abs(one[:, None] - two[None])
    unequal = np.isnan(one)[:, None] != np.isnan(two)[None]
    near = np.all(np.where(unequal, np.inf, np.nan_to_num(apart)) <= limit, axis=(2, 3))
    return bool(np.all(np.any(near, axis=0)) and np.all(np.any(near, axis=1)))


def overlap_findings(data: Dataset, other: Dataset) -> list[Finding]:
    """What is wrong with two parts together: other keypoints, and groups or pictures that both have."""
    findings = []
    if line := unlike_line(data, other):
        findings.append(finding_of(other, "refused", "error", line))
    if line := overlap_line(data, other):
        findings.append(finding_of(other, "shared-groups", "warning", line))
    if data.likeness is None or other.likeness is None or data.fingerprint() == other.fingerprint():
        return findings
    same = alike(other.likeness, data.likeness)
    for image in np.flatnonzero(same.other >= 0).tolist():
        kind, how = ("equal-pictures", "is") if same.equal[image] else ("alike-pictures", "is nearly")
        name = data.image_names[int(same.other[image])]
        sentence = f"this picture {how} {name} of {data.called}: figures will flatter"
        row = int(np.flatnonzero(other.image_index == image)[0])
        findings.append(finding_of(other, kind, "warning", sentence, row, others=(name,)))
    return findings


# ---- numbers


def rounding_findings(data: Dataset) -> list[Finding]:
    """A grid on which all coordinates lie."""
    points = data.xy[data.labelled]
    if not len(points):
        return []
    size = usual_extent(data)
    for step in STEPS:
        share = max(float(_on_grid(points - origin, step).mean()) for origin in (0.5, 0.0, 1.0))
        if share >= ON_GRID and len(np.unique(points)) > 2:
            error = PER_STEP * step / size
            sentence = (
                f"coordinates are multiples of {step:g} px: rounding alone moves a point by {PER_STEP * step:.2g} px, "
                f"{error:.1%} of an object's extent, which no model can undercut"
            )
            severe = step > 1 or error > COARSE
            return [finding_of(data, "rounding", "warning" if severe else "note", sentence)]
    whole = _on_grid(points - 0.5, 1.0).all(axis=1)
    group = np.repeat(data.group_index, data.labelled.sum(axis=1))
    share = np.bincount(group, whole, len(data.groups)) / np.maximum(np.bincount(group, minlength=len(data.groups)), 1)
    rounded = np.flatnonzero(share > ON_GRID)
    if data.groups_named and 0 < len(rounded) < len(data.groups):
        line = f"points of {len(rounded)} of {len(data.groups)} groups are whole px, those of the others are not"
        return [finding_of(data, "rounding", "note", listed(line, [data.groups[g] for g in rounded.tolist()]))]
    return []


def _on_grid(values: np.ndarray, step: float) -> np.ndarray:
    return np.abs(values / step - np.rint(values / step)) < 1e-6


def group_findings(data: Dataset, shapes: Shapes) -> list[Finding]:
    """Groups that hold most objects, and groups whose points have an offset from those of the others."""
    counts = np.bincount(data.group_index, minlength=len(data.groups))
    findings = []
    if len(counts) > 2 and counts.max() > MOST_IN_ONE * len(data):
        name = data.groups[int(counts.argmax())]
        line = f"group {name} has {counts.max()} of {len(data)} objects: figures are mostly about it"
        findings.append(finding_of(data, "balance", "note", line))
    if not data.groups_named:
        return findings
    large = np.flatnonzero(counts >= SMALLEST_GROUP)
    if shapes.usual is None or len(large) < FEWEST_GROUPS:
        return findings
    away = _away(shapes)
    names = [data.skeleton.names[k] for k in shapes.usual.columns.tolist()]
    size = usual_extent(data)
    means = np.stack([_median(away[data.group_index == group]) for group in large.tolist()])
    for axis, words in ((0, "x"), (1, "y")):
        offset = means[..., axis] - _median(means[..., axis])
        spread = 1.4826 * _median(np.abs(offset))
        wrong = (np.abs(offset) > OFFSET * spread) & (np.abs(offset) > LEAST_OFFSET * size)
        for at, k in zip(*np.nonzero(wrong), strict=True):
            sentence = (
                f"in the {counts[large[at]]} objects of group {data.groups[large[at]]}, {names[k]} lies "
                f"{offset[at, k]:+.1f} px in {words} from where it lies in other groups, beside the other points"
            )
            findings.append(finding_of(data, "shift", "warning", sentence, keypoints=(names[k],)))
    return findings


def _median(values: np.ndarray) -> np.ndarray:
    """The median over the first axis of the values that are not NaN; NaN if all are."""
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        return np.nanmedian(values, axis=0)


def _away(shapes: Shapes) -> np.ndarray:
    """(N, K, 2) px: how far each point of the usual shape is from where the others say; NaN for unlabelled points."""
    usual = shapes.usual
    assert usual is not None
    z, mask = shapes.z[:, usual.columns], shapes.mask[:, usual.columns]
    shape, count = usual.shape, len(usual.columns)
    laid, turn = aligned(z, mask, shape.mean, shape.weight)
    away = (laid - shape.mean) * mask / shape.spread
    both = np.concatenate([mask, mask], axis=1).astype(np.float64)
    pull, _ = whiten(np.concatenate([away.real, away.imag], axis=1), both, shape.factors, shape.noise)
    inverse = np.linalg.inv(shape.factors @ shape.factors.T + np.diag(shape.noise)).diagonal()
    single = pull / inverse
    px = (single[:, :count] + 1j * single[:, count:]) * shape.spread / turn[:, None]
    return np.where(mask[..., None], np.stack([px.real, px.imag], axis=2), np.nan)
