"""Doubts about labels as a whole, such as boxes in fractions, swapped axes or two objects in one place.

Each of these labels may be right by itself, but all together cannot be. problems.py finds objects that are wrong alone.
"""

from __future__ import annotations

import logging

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.marks import FEWEST
from keylite.data.problems import points_outside
from keylite.runtime.errors import ArgumentError, DataError
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.words import SHOWN, first_of, listed, quoted

log = logging.getLogger("keylite")

FEW, FEW_SHARE = 10, 0.1  # objects, and share of objects, whichever is less: a keypoint that fewer label is not learnt
LEAST_SHARE = 0.01  # share of objects: a keypoint that fewer label is not learnt, even if they are more than FEW
MOST_LOST = 0.5  # share of objects that may have no point in their box or image: with more, little can be learnt
GROWN = 2.0  # boxes are grown so many times before points are looked for in them, as with a padding of 1
LIKELY = 0.9  # share of objects that another reading of the numbers must fit before a message names it
SLACK = 0.05  # share of a box's or an image's side by which a point or an edge may lie beyond it
LEAST = 16  # px of an image's shorter side: in a smaller image, fractions cannot be told from px
PERCENT_SIDE, PERCENT_OBJECTS = 150, 10  # px of an image's side, and objects, that it takes to recognise per cent
ROUND_SIZES = {1.0: "fractions of the image: multiply them by its width and height",
               100.0: "per cent of the image: multiply them by its width and height, and divide by 100"}  # fmt: skip
FRACTIONS = f"keypoints look like {ROUND_SIZES[1.0]}"
SIGNED = "keypoints look as if -1 to 1 were the image's edges: convert x to px by (x + 1) / 2 times the width, y alike"
CORNERS = "boxes look like x0, y0, x1, y1, but x0, y0, width, height is expected: write x1 - x0 and y1 - y0"
SIDES = "boxes look like x0, y0, width, height, but x0, y0, x1, y1 is expected"
FROM_BOX = "keypoints look as if they were counted from the corner of their box: add its x and y"
FROM_BOTTOM = "keypoints look as if y were counted from the bottom of the image: subtract it from the height"
CENTRES = "boxes look like centre x, centre y, width, height: subtract half of the sides from the centre"
LEAN = 0.05  # share of a box's sides by which points may lie above and left of its middle: the most in 22 data sets
NEAR = 0.04  # relative difference between a size and a round one: medians of real boxes differ by less
OTHER = 0.1  # relative difference from the images' own size that makes a size another one
SAME_BOX = 0.95  # two boxes that overlap so much (intersection over union) belong to one object
NEIGHBOURS = 4  # boxes of the same image, the next ones in order of area, that a box is compared with


def say_doubts(data: Dataset, box: str) -> None:
    """Log a warning for each doubt about the labels; raises as `label_doubts` does."""
    for doubt in label_doubts(data, box):
        log.warning("%s: %s", data.called, doubt)


def label_doubts(data: Dataset, box: str) -> list[str]:
    """A line for each doubt about the labels of a data set.

    box: what crops are cut around, `annotation` or `image`. Raises DataError, with the likely cause, if most objects
    have no labelled point in their crop or in their image, because then nothing could be learnt or measured.
    """
    sizes = data.whole_boxes()[:, 2:]
    fractions = _fractions(data, sizes)
    _require_points_in_images(data, sizes)
    doubts = [*data.doubts, *fractions]
    doubts += _swapped(data, sizes)
    doubts += _percent(data, sizes)
    doubts += _boxes_without_points(data, sizes, box)
    doubts += _alike(data)
    return doubts


def hardly_labelled(data: Dataset, xy: np.ndarray) -> dict[str, int]:
    """Keypoint -> how many objects label it, for keypoints that too few objects label; see FEW and LEAST_SHARE.

    xy: (N, K, 2) the labels that count, NaN for others.
    """
    few = max(min(FEW, FEW_SHARE * len(data)), LEAST_SHARE * len(data))
    counts = zip(data.skeleton.names, np.sum(np.isfinite(xy).all(axis=2), axis=0).tolist(), strict=True)
    return {name: count for name, count in counts if count < few}


# ---- points outside their image


def _fractions(data: Dataset, sizes: np.ndarray) -> list[str]:
    """A line if some objects, or some keypoints of all objects, look like fractions; DataError if most objects do."""
    low, high = -0.5, 1.6  # 0..1, perhaps shifted by half a pixel
    near = data.labelled & np.all((data.xy >= low) & (data.xy <= high), axis=2) & (sizes.min(axis=1) >= LEAST)[:, None]
    cause = SIGNED if np.sum(data.xy[near] < -SLACK) > SLACK * near.sum() else FRACTIONS
    small = _some(data) & np.all(near | ~data.labelled, axis=1)
    if small.sum() > MOST_LOST * len(data):
        raise DataError(f"{data.called}: {_cornered(data, small)}; {_marks(data) or cause}")
    small &= np.any(near & ~np.all(np.isin(data.xy, (0.0, 0.5)), axis=2), axis=1)  # marks.py reports those at (0, 0)
    if small.sum() < FEWEST:
        small &= data.labelled.sum(axis=1) > 1  # a single point may well lie there
    lines = [f"{_cornered(data, small)}, but not those of the others; {cause}"] if small.any() else []
    others = data.labelled & ~small[:, None]
    always = np.flatnonzero((near & others).sum(axis=0) >= np.maximum(others.sum(axis=0), FEWEST))
    names = [data.skeleton.names[k] for k in always.tolist() if len(np.unique(data.xy[others[:, k], k], axis=0)) > 1]
    if names:  # marks.py reports those on one spot
        lines.append(f"within 1 px of the image's corner in every object: {first_of(names, SHOWN, ', ')}; {cause}")
    return lines


def _cornered(data: Dataset, mask: np.ndarray) -> str:
    count = f"{mask.sum()} of {len(data)} objects"
    return f"all labelled points of {count} lie within 1 px of the image's corner ({_such_as(data, mask)})"


def _require_points_in_images(data: Dataset, sizes: np.ndarray) -> None:
    """Raise DataError, with the likely cause, if most objects lie outside their image."""
    away = _some(data) & np.all(points_outside(data.xy, sizes) | ~data.labelled, axis=1)
    if away.sum() <= MOST_LOST * len(data):
        return
    swapped = np.all(points_outside(data.xy[..., ::-1], sizes) | ~data.labelled, axis=1)
    cause = "were they made for other images, or for these before they were resized, cut or turned?"
    if (away & swapped).sum() < (1 - LIKELY) * away.sum():
        cause = "x and y look swapped: write x first, or turn the labels as the images were turned"
    raise DataError(
        f"{data.called}: all labelled points of {away.sum()} of {len(data)} objects lie outside their image "
        f"({_such_as(data, away)}); {_marks(data) or cause}"
    )


def _marks(data: Dataset) -> str:
    """The reader's lines about marks for missing points, which are then the likely cause; empty if it found none."""
    return "; ".join(data.doubts)


def _swapped(data: Dataset, sizes: np.ndarray) -> list[str]:
    """A line if many points lie outside their image, and hardly any would if x and y were swapped."""
    count = int(data.labelled.sum())
    outside, other = (int(points_outside(xy, sizes).sum()) for xy in (data.xy, data.xy[..., ::-1]))
    if outside < max(3, 0.1 * count) or other > 0.1 * outside:
        return []
    return [f"{outside} of {count} labelled points lie outside their image, and {other} would if x and y were swapped"]


def _percent(data: Dataset, sizes: np.ndarray) -> list[str]:
    """A line if no object has a box, and points fill 0..100 in larger images."""
    points = data.xy[data.labelled]
    if data.boxed.any() or len(data) < PERCENT_OBJECTS or sizes.min() < PERCENT_SIDE or not len(points):
        return []
    if points.min() < -0.5 or points.max() > 100.5 or points.max(axis=0).min() < 60:
        return []
    step = ROUND_SIZES[100.0].split(": ")[1]
    return [f"no point lies beyond 100 px, although the images are larger; if these are per cent, {step}"]


# ---- boxes and their points


def _boxes_without_points(data: Dataset, sizes: np.ndarray, box: str) -> list[str]:
    """A line if boxes hold none of their points, or fit them better if their numbers are read in another way."""
    rows = np.flatnonzero(data.boxed & _some(data))
    if len(rows) == 0:
        return []
    xy, boxes, sizes = data.xy[rows], data.box[rows], sizes[rows]
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, GROWN * (boxes[:, 2:] - boxes[:, :2]) / 2
    lost = ~_holds(np.concatenate([middle - half, middle + half], axis=1), xy, 0.0).any(axis=1)
    fit = _fits(boxes, xy, sizes).mean() >= MOST_LOST
    cause = _likelier_corners(boxes, xy, sizes) if fit else _other_reading(boxes, xy, sizes)
    if not lost.any():
        return [cause] if cause else []
    mask = np.zeros(len(data), bool)
    mask[rows[lost]] = True
    line = (
        f"in {lost.sum()} of {len(rows)} objects no labelled point lies in the box, even if it were {GROWN:g} times "
        f"as large ({_such_as(data, mask)})"
    )
    line += f"; {cause}" if cause else "; does the box belong to another object, or to another size of the image?"
    if box == "annotation" and lost.sum() > MOST_LOST * len(rows):
        raise DataError(f"{data.called}: {line}")
    return [line]


def _likelier_corners(boxes: np.ndarray, xy: np.ndarray, sizes: np.ndarray) -> str:
    """CORNERS if boxes hold their points, but near their upper left, and fit better with x1, y1 in place of sides."""
    corners = _corners(boxes)
    if _fits(corners, xy, sizes).mean() < LIKELY:
        return ""
    lean, lean_by_corners = (np.abs(np.minimum(_lean(each, xy), 0)) for each in (boxes, corners))
    return CORNERS if np.all((lean > LEAN) & (lean_by_corners < lean / 2)) else ""


def _corners(boxes: np.ndarray) -> np.ndarray:
    """The boxes (N, 4) that were meant if the numbers read as width and height are x1 and y1."""
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


def _lean(boxes: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(2,) how far points lie right of the middle of their box and below it, as a share of its sides: the median."""
    middle = (np.nanmin(xy, axis=1) + np.nanmax(xy, axis=1)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nanmedian((middle - (boxes[:, :2] + boxes[:, 2:]) / 2) / (boxes[:, 2:] - boxes[:, :2]), axis=0)


def _other_reading(boxes: np.ndarray, xy: np.ndarray, sizes: np.ndarray) -> str:
    """Another way to read the numbers of boxes or points with which they fit each other, in words; empty if none is."""
    sides = boxes[:, 2:] - boxes[:, :2]
    centred, centred_by_corners = (
        np.hstack([boxes[:, :2] - half, boxes[:, :2] + half]) for half in (sides / 2, boxes[:, 2:] / 2)
    )
    from_bottom = np.stack([xy[..., 0], sizes[:, None, 1] - xy[..., 1]], axis=2)
    readings = [  # words, boxes, points
        (CORNERS, _corners(boxes), xy),
        (CENTRES, centred, xy),  # if they were read as x0, y0, width, height
        (CENTRES, centred_by_corners, xy),  # if they were read as x0, y0, x1, y1
        (FROM_BOX, boxes, xy + boxes[:, None, :2]),
        (FROM_BOTTOM, boxes, from_bottom),
        (SIDES, np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]), xy),
        ("boxes look as if x and y were swapped", boxes[:, [1, 0, 3, 2]], xy),
    ]
    for words, read_boxes, points in readings:
        if _fits(read_boxes, points, sizes).mean() >= LIKELY:
            return words
    return _other_size(boxes, xy, sizes)


def _other_size(boxes: np.ndarray, xy: np.ndarray, sizes: np.ndarray) -> str:
    """The image size for which boxes, or else points, seem to have been made, in words; empty if no size fits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (boxes[:, :2] + boxes[:, 2:]) / 2 / np.nanmean(xy, axis=1)  # between middles of boxes and of points
        box_size, point_size = np.median(sizes * ratio, axis=0), np.median(sizes / ratio, axis=0)
    likely_sizes = {"boxes": box_size, "keypoints": point_size}
    likely_sizes = {what: size for what, size in likely_sizes.items() if _likely(what, size, boxes, xy, sizes)}
    for what, size in likely_sizes.items():
        for round_size, words in ROUND_SIZES.items():
            if np.all(np.abs(size / round_size - 1) < NEAR):
                return f"{what} look like {words}"
    beyond = np.any(boxes[:, 2:] > (1 + SLACK) * sizes, axis=1).mean() > MOST_LOST
    points = not beyond and points_outside(xy, sizes).mean() > SLACK
    what = "keypoints" if points else "boxes"
    size = likely_sizes.get(what)
    if size is None or np.all(np.abs(np.median(sizes / size, axis=0) - 1) < OTHER):
        return ""
    return f"{what} look like px of images of about {size[0]:.0f}x{size[1]:.0f}: scale them as the images were scaled"


def _likely(what: str, size: np.ndarray, boxes: np.ndarray, xy: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether nearly all objects fit if what (boxes or keypoints) was made for images of this (width, height)."""
    if not (np.isfinite(size).all() and (size > 0).all()):
        return False
    times = sizes / size
    scaled = (boxes * np.tile(times, 2), xy) if what == "boxes" else (boxes, xy * times[:, None])
    return bool(_fits(*scaled, sizes).mean() >= LIKELY)


def _fits(boxes: np.ndarray, xy: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: which boxes (N, 4) hold all labelled points and lie in their image, with some SLACK."""
    slack = SLACK * sizes
    within = np.all((boxes[:, :2] >= -slack) & (boxes[:, 2:] <= sizes + slack), axis=1)
    return within & np.all(_holds(boxes, xy, SLACK) | np.isnan(xy).any(axis=2), axis=1)


def _holds(boxes: np.ndarray, xy: np.ndarray, slack: float) -> np.ndarray:
    """(N, K) bool: which points lie in their box, which `slack` above 0 grows by this share of its sides and 1 px."""
    more = slack * (boxes[:, 2:] - boxes[:, :2]) + (slack > 0)
    low, high = boxes[:, None, :2] - more[:, None], boxes[:, None, 2:] + more[:, None]
    return np.all((xy >= low) & (xy <= high), axis=2)  # a comparison with NaN is False


# ---- objects and each other


def _alike(data: Dataset) -> list[str]:
    """Lines about objects without a label, on one spot, all the same, or in the place of another object."""
    lines = []
    blank = ~_some(data)
    if blank.any():
        lines.append(f"{_have(data, blank)} no labelled point, so nothing is learnt there ({_such_as(data, blank)})")
    known = data.labelled[..., None]
    highest, lowest = np.where(known, data.xy, -np.inf).max(axis=1), np.where(known, data.xy, np.inf).min(axis=1)
    spot = (data.labelled.sum(axis=1) >= 2) & np.all(highest == lowest, axis=1)
    if spot.any():
        lines.append(f"{_have(data, spot)} all labelled points on one spot ({_such_as(data, spot)})")
    same = len(data) >= 3 and np.array_equal(data.xy, np.broadcast_to(data.xy[:1], data.xy.shape), equal_nan=True)
    if same and not spot.any() and not blank.any():
        lines.append(f"all {len(data)} objects have the very same points: nothing can be learnt from where they lie")
    on_top = _on_top(data)
    if on_top.any():
        lines.append(
            f"{_have(data, on_top)} the points, or the box, of another object in the same image "
            f"({_such_as(data, on_top)}); is one of them a copy?"
        )
    return lines


def _on_top(data: Dataset) -> np.ndarray:
    """(N,) bool: which objects have the points, or nearly the box, of an earlier object in the same image."""
    on_top = np.zeros(len(data), bool)
    if len(data.images) == len(data):
        return on_top
    with np.errstate(invalid="ignore"):
        area = np.nan_to_num((data.box[:, 2:] - data.box[:, :2]).prod(axis=1))
    orders = [np.lexsort((key, data.image_index)) for key in (area, np.nansum(data.xy, axis=(1, 2)))]
    for order in orders:  # in these orders, objects that are alike are neighbours
        for lag in range(1, NEIGHBOURS + 1):
            one, two = order[:-lag], order[lag:]
            together = data.image_index[one] == data.image_index[two]
            one, two = one[together], two[together]
            same = _same_points(data.xy[one], data.xy[two]) & data.labelled[one].any(axis=1)
            alike = same | (_overlap(data.box[one], data.box[two]) > SAME_BOX)
            on_top[np.maximum(one, two)[alike]] = True
    return on_top


def _same_points(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(N,) bool: which objects (N, K, 2) have the same points, labelled and unlabelled."""
    return np.all((one == two) | (np.isnan(one) & np.isnan(two)), axis=(1, 2))


def _overlap(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of boxes (N, 4); NaN if one of the two is NaN."""
    sides = np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, two)]
    return common / (areas[0] + areas[1] - common)


# ---- words


def _some(data: Dataset) -> np.ndarray:
    """(N,) bool: which objects have a labelled point."""
    return np.any(data.labelled, axis=1)


def _have(data: Dataset, mask: np.ndarray) -> str:
    """The beginning of a line about the objects of a mask: `3 of 20 objects have`."""
    count = int(mask.sum())
    return f"{count} of {len(data)} objects {'has' if count == 1 else 'have'}"


def _such_as(data: Dataset, mask: np.ndarray) -> str:
    """The first objects of a mask by name: `such as a.jpg, b.jpg`."""
    rows = np.flatnonzero(mask)
    return f"such as {', '.join(data.sample_name(row) for row in rows[:3].tolist())}"


def name_notes(model: Skeleton, data: Skeleton) -> list[str]:
    """A note if model and data name their keypoints differently.

    Raises ArgumentError if both have the same names in another order: points would be compared with wrong labels.
    """
    pairs = [(a, b) for a, b in zip(model.names, data.names, strict=False) if a != b]
    if not pairs or len(model) != len(data):
        return []  # another number of keypoints is refused elsewhere
    if set(model.names) == set(data.names):
        raise ArgumentError(
            f"keypoints: model and data have the same names in another order ({quoted(pairs[0][0])} against "
            f"{quoted(pairs[0][1])}); reorder the data's keypoints"
        )
    shown = [f"{quoted(a)} is {quoted(b)} in the data" for a, b in pairs]
    return [listed(f"{len(pairs)} of {len(model)} keypoint names differ, matched by position", shown)]
