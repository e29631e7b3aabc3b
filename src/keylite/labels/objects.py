"""Findings about single objects: swapped sides, mirrored objects, other orders, odd points, boxes that do not fit."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.mirror import Mirror, choose_mirror
from keylite.data.problems import points_outside
from keylite.data.shapes import as_complex, misfit_of
from keylite.labels.findings import Correction, Finding, extents, finding_of
from keylite.labels.orders import Reason, reasons_of
from keylite.labels.usual import FAR, FEWEST, Usual, odd_points, places_of, usual_of
from keylite.runtime.words import counted, first_of

SURE = 3.0  # times that a correction must fit better than the labels, and better than any other explanation
RARE = 1.25  # times the limit of unusual objects: beyond, an object is reported even if nothing explains it
MOSTLY = 0.8  # share of the usual number of labels that an object must have for its box to be judged
MADE = 0.005  # share of a box's longer side by which the middles of boxes vary from those of points, if made from these
SAME_PLACE = 0.02  # share of a box's longer side by which its distances from points may differ and be the same
UNUSUAL = 8.0  # robust standard deviations beyond which a box does not fit its points
LEAST_CHANGE = 0.25  # share of a box's longer side: a smaller difference is none
NAMED = 4  # changes that a sentence names


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What is usual in a data set. z, mask: (N, K) all its points; usual: None if objects are too few.

    chosen: the mirror that training would choose. mirror: the permutation of the keypoints in a flip, by which swapped
    sides are recognised; None if none is known. boxes: how points lie in their boxes.
    """

    z: np.ndarray
    mask: np.ndarray
    usual: Usual | None
    chosen: Mirror
    mirror: tuple[int, ...] | None
    boxes: Boxes


class Boxes(NamedTuple):
    """How points lie in their boxes.

    Attributes:
        gaps: (N, 4) how far each edge is from the outermost points, as a share of the box's longer side; NaN without.
        usual: (4,) the medians.
        tolerance: How far an object's gaps may be from these.
        drawn: Whether boxes were drawn by themselves. One that was made from the points fits them even if they are
            wrong, so it tells nothing.
    """

    gaps: np.ndarray
    usual: np.ndarray
    tolerance: float
    drawn: bool


def boxes_of(data: Dataset) -> Boxes:
    """How points lie in the boxes of a data set."""
    gaps = _gaps(data.xy, data.box)
    known = gaps[np.isfinite(gaps).all(axis=1)]
    if not len(known):
        return Boxes(gaps, np.zeros(4), SAME_PLACE, False)
    usual = np.median(known, axis=0)
    tolerance = max(float(np.percentile(np.abs(known - usual).max(axis=1), 90)), SAME_PLACE)
    middles = (known[:, :2] + known[:, 2:]) / 2
    spread = np.median(np.abs(middles - np.median(middles, axis=0)), axis=0)
    return Boxes(gaps, usual, tolerance, bool(spread.max() > MADE))


def shapes_of(data: Dataset) -> Shapes:
    """What is usual in a data set. If the labels show no mirror, it is looked for among usual objects alone."""
    z, mask = as_complex(data.xy, data.labelled), data.labelled
    usual = usual_of(z, mask, np.random.default_rng(0))
    chosen = choose_mirror(data)
    mirror = chosen.permutation
    if usual is not None and mirror is None:
        good = usual.misfit(z[:, usual.columns], mask[:, usual.columns]) < usual.limit
        mirror = choose_mirror(data.subset(good)).permutation if 0 < good.sum() < len(data) else None
    return Shapes(z, mask, usual, chosen, mirror, boxes_of(data))


def shape_findings(data: Dataset, shapes: Shapes) -> list[Finding]:
    """Findings about where the points of an object lie, from each other."""
    usual = shapes.usual
    if usual is None:
        few = f"{len(data)} objects of {counted(len(data.skeleton), 'keypoint')}"
        why = f"{few} do not show which shape is usual ({FEWEST} of 3 are needed), so no shape was checked"
        return [finding_of(data, "note", "note", why)]
    reasons = reasons_of(usual, shapes.z, shapes.mask, shapes.mirror)
    findings = [_explained(data, reason, shapes) for reason in reasons]
    z, mask = shapes.z[:, usual.columns], shapes.mask[:, usual.columns]
    _, pull, _ = misfit_of(usual.shape, z, mask)
    misfit = usual.misfit(z, mask)
    far = np.where(mask, pull / usual.pulls, 0).max(axis=1) > FAR
    if usual.others is not None:  # few points may move freely, and then their distances tell little
        far &= misfit > usual.limit
    unusual = misfit > RARE * usual.limit
    explained = {reason.row for reason in reasons}
    for row in np.flatnonzero((far | unusual) & (mask.sum(axis=1) >= 3)).tolist():
        if row in explained:
            continue
        if odd := odd_points(usual, z[row], mask[row]):
            findings.append(_odd(data, usual, row, odd, z[row], mask[row]))
        elif unusual[row]:
            times = misfit[row] / usual.middle
            sentence = (
                f"its shape is {times:.1f} times as far from the usual one as a usual object's, and no other order of "
                "its points explains it: several points are wrong, or the pose is rare"
            )
            findings.append(finding_of(data, "shape", "warning", sentence, row))
    return findings


def _explained(data: Dataset, reason: Reason, shapes: Shapes) -> Finding:
    """The finding about an object that another order, or a mirror, explains."""
    names, row, mirror = data.skeleton.names, reason.row, shapes.mirror
    kind, order, misfits = reason.kind, reason.order, dict(reason.misfits)
    both = [misfits[one] for one in ("swapped", "mirrored") if one in misfits]
    if kind in ("swapped", "mirrored") and len(both) == 2 and max(both) < SURE * min(both):  # a symmetric shape
        kind = _places_by_box(data, row, shapes.boxes)
        if kind:
            misfits.pop("mirrored" if kind == "swapped" else "swapped")
        kind = kind or "swapped"  # the more common mistake
        order = mirror if kind == "swapped" else None
    explained = misfits.pop(kind)
    rival = min([*misfits.values(), reason.nearly])
    figures = f"the misfit falls from {reason.misfit:.1f} to {explained:.1f} times a usual object's"
    certain = order is not None and explained < reason.limit and min(reason.misfit, rival) > SURE * explained
    also = "" if certain or min(misfits.values(), default=np.inf) > SURE * explained else _also(kind, mirror)
    if kind == "swapped":
        words = "left and right are swapped"
    elif kind == "mirrored":
        words = "the points are those of a mirrored object"
    else:
        assert order is not None
        moved = [f"{names[k]} lies where {names[other]} belongs" for other, k in enumerate(order) if k != other]
        words = f"points are in another order: {first_of(moved, NAMED, ', ')}"
    changed = () if order is None else tuple(names[k] for k, other in enumerate(order) if k != other)
    correction = None
    if certain and order is not None:
        points = data.xy[row][list(order)]
        xy = tuple(None if np.isnan(x) else (x, y) for x, y in points.tolist())
        correction = Correction(tuple(names[k] for k in order), xy)
    return finding_of(data, kind, "warning", f"{words}{also}: {figures}", row, changed, correction=correction)


def _also(kind: str, mirror: tuple[int, ...] | None) -> str:
    """The other explanation that fits about as well."""
    if kind == "permuted":
        return ", or the object is mirrored"
    if kind == "mirrored":
        return ", or left and right are swapped" if mirror is not None else ", or points are in another order"
    return ", or the object is mirrored"


def _places_by_box(data: Dataset, row: int, boxes: Boxes) -> str:
    """`swapped` if an object's points lie in their box as others do, `mirrored` if they would in a mirrored image.

    Empty if the box tells nothing, or fits both or none.
    """
    if not (data.boxed[row] and boxes.drawn):
        return ""
    flipped = data.xy[row] * [-1, 1] + [float(data.whole_boxes()[row, 2]), 0]
    both = {"swapped": boxes.gaps[row], "mirrored": _gaps(flipped[None], data.box[row][None])[0]}
    fits = [kind for kind, gaps in both.items() if np.abs(gaps - boxes.usual).max() <= boxes.tolerance]
    return fits[0] if len(fits) == 1 else ""


def _gaps(xy: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(N, 4) how far each edge of a box is from the outermost points, as a share of the box's longer side."""
    known = np.isfinite(xy)
    low, high = np.where(known, xy, np.inf).min(axis=1), np.where(known, xy, -np.inf).max(axis=1)
    side = (box[:, 2:] - box[:, :2]).max(axis=1, keepdims=True)
    gaps = (np.concatenate([low, high], axis=1) - box) / side
    return np.where(np.isfinite(gaps).all(axis=1, keepdims=True), gaps, np.nan)


def _odd(data: Dataset, usual: Usual, row: int, odd: list[int], z: np.ndarray, mask: np.ndarray) -> Finding:
    """The finding about points that lie far from where the others say."""
    known = mask.copy()
    known[odd] = False
    away = np.abs(places_of(usual, z, known) - z)
    names = tuple(data.skeleton.names[usual.columns[k]] for k in odd)
    texts = [f"{name} {away[k]:.1f} px" for name, k in zip(names, odd, strict=True)]
    return finding_of(
        data, "point", "warning", f"far from where the other points say: {first_of(texts, NAMED, ', ')}", row, names
    )


# ---- copies, boxes and pictures


def copy_findings(data: Dataset) -> list[Finding]:
    """Objects that have the very points of an earlier one in the same picture. With all else equal, the copy goes."""
    first: dict[tuple[int, bytes], int] = {}
    findings = []
    for row, image in enumerate(data.image_index.tolist()):
        other = first.setdefault((image, np.nan_to_num(data.xy[row], nan=-1e9).tobytes()), row)
        if other != row and data.labelled[row].any():
            sentence = "all its points are those of an earlier object in the same picture: it is a copy"
            same = np.array_equal(data.visible[row], data.visible[other])
            same &= np.array_equal(data.box[row], data.box[other], equal_nan=True)
            correction = Correction(None) if same else None
            findings.append(finding_of(data, "copy", "warning", sentence, row, correction=correction))
    return findings


def box_findings(data: Dataset) -> list[Finding]:
    """Objects without a box, boxes that do not fit their points as others do, and points outside their picture."""
    findings = []
    if data.boxed.any():
        words = "it has no box: training refuses it, unless it is left out or `box='image'` takes whole pictures"
        findings += [finding_of(data, "no-box", "error", words, row) for row in np.flatnonzero(~data.boxed).tolist()]
    outside = points_outside(data.xy, data.whole_boxes()[:, 2:])
    for row in np.flatnonzero(outside.any(axis=1)).tolist():
        names = tuple(data.skeleton.names[k] for k in np.flatnonzero(outside[row]).tolist())
        sentence = f"outside the picture: {first_of(names, NAMED, ', ')}"
        findings.append(finding_of(data, "outside", "note", sentence, row, names))
    count = data.labelled.sum(axis=1)  # objects with few labels do not fill their box
    rows = np.flatnonzero(data.boxed & (count > 1) & (count >= MOSTLY * np.median(count)))
    if len(rows) < FEWEST:
        return findings
    side = (data.box[rows, 2:] - data.box[rows, :2]).max(axis=1)
    gaps = _gaps(data.xy[rows], data.box[rows])
    fits = {  # words -> how an object differs from usual ones, in px of the box's longer side
        "the points fill {:.0%} of the box's longer side, usually {:.0%}": extents(data)[rows] / side,
        "the points lie {:+.0%} of the box's side right of its middle, usually {:+.0%}": (gaps[:, 0] + gaps[:, 2]) / 2,
        "the points lie {:+.0%} of the box's side below its middle, usually {:+.0%}": (gaps[:, 1] + gaps[:, 3]) / 2,
    }
    texts: dict[int, list[str]] = {}
    for words, values in fits.items():
        middle = float(np.median(values))
        apart = np.abs(values - middle)
        wrong = (apart > LEAST_CHANGE) & (apart > UNUSUAL * 1.4826 * np.median(apart))
        for at in np.flatnonzero(wrong).tolist():
            texts.setdefault(at, []).append(words.format(values[at], middle))
    return findings + [
        finding_of(data, "box", "warning", "; ".join(lines), int(rows[at])) for at, lines in sorted(texts.items())
    ]
