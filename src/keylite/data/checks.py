"""What is doubtful about labels as a whole: boxes in fractions, swapped axes, objects on top of each other.

An object that cannot be used is problems.py's; here each may be right by itself, and all together cannot be. Knows
nothing of file formats, recipes or models.
"""

from __future__ import annotations

import logging

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.marks import FEWEST
from keylite.data.problems import points_outside
from keylite.runtime.errors import DataError
from keylite.runtime.words import SHOWN, first_of

log = logging.getLogger("keylite")

FEW, FEW_SHARE = 10, 0.1  # a keypoint is taught by so many objects, or by such a share if that is fewer
LEAST_SHARE = 0.01  # of all objects, below which it is not taught however many those are
MOST_LOST = 0.5  # share of objects that may have no point where it is looked for: with more, little is taught
GROWN = 2.0  # a box so many times as large is what a padding of 1 sees; README's recipes have .25
LIKELY = 0.9  # share of objects that another reading of the numbers must fit before it is named
SLACK = 0.05  # of a box's or an image's side, by which a point or an edge may lie beyond it
LEAST = 16  # px of an image's shorter side: in a smaller one, fractions and px are alike
PERCENT_SIDE, PERCENT_OBJECTS = 150, 10  # images, and how many objects, in which points in per cent can be told
ROUND_SIZES = {1.0: "fractions of the image: multiply them by its width and height",
               100.0: "per cent of the image: multiply them by its width and height, and divide by 100"}  # fmt: skip
FRACTIONS = f"keypoints look like {ROUND_SIZES[1.0]}"
SIGNED = "keypoints look as if -1 to 1 were the image's edges: make px of them, (x + 1) / 2 times its width"
CORNERS = "boxes look like x0, y0, x1, y1 where x0, y0, width, height is expected: write x1 - x0 and y1 - y0"
SIDES = "boxes look like x0, y0, width, height where x0, y0, x1, y1 is expected"
FROM_BOX = "keypoints look as if they were counted from the corner of their box: add its x and y"
FROM_BOTTOM = "keypoints look as if y were counted from the bottom of the image: take it from the height"
CENTRES = "boxes look like centre x, centre y, width, height: take half of the sides from the centre"
LEAN = 0.05  # of a box's side, by which points may lie both left of and above its middle; .05 was the most of 22 sets
NEAR = 0.04  # relative difference between a size and a round one: medians of real boxes differ by less
OTHER = 0.1  # least by which another size differs from the images' own
SAME_BOX = 0.95  # overlap of two boxes (intersection over union) that are of one object
NEIGHBOURS = 4  # boxes of one image, in order of area, that a box is compared with


def say_doubts(data: Dataset, box: str) -> None:
    """Warn of what is doubtful about labels; raises as `label_doubts` does."""
    for doubt in label_doubts(data, box):
        log.warning("%s: %s", data.called, doubt)


def label_doubts(data: Dataset, box: str) -> list[str]:
    """A line for each thing that is doubtful about the labels of a data set.

    box: what a crop is cut around, `annotation` or `image`. Raises ValueError with the likely cause where most objects
    have no labelled point in their crop or in their image, so that nothing could be learnt or measured.
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


def hardly_labelled(data: Dataset) -> dict[str, int]:
    """Keypoint -> how many objects label it, if those are too few to teach it; see FEW and LEAST_SHARE."""
    few = max(min(FEW, FEW_SHARE * len(data)), LEAST_SHARE * len(data))
    counts = zip(data.skeleton.names, np.sum(data.labelled, axis=0).tolist(), strict=True)
    return {name: count for name, count in counts if count < few}


# ---- points beside their image


def _fractions(data: Dataset, sizes: np.ndarray) -> list[str]:
    """A line where some objects, or some keypoints of all, look like fractions; ValueError where most objects do."""
    low, high = -0.5, 1.6  # 0..1, shifted by half a pixel
    near = data.labelled & np.all((data.xy >= low) & (data.xy <= high), axis=2) & (sizes.min(axis=1) >= LEAST)[:, None]
    cause = SIGNED if np.sum(data.xy[near] < -SLACK) > SLACK * near.sum() else FRACTIONS
    small = _some(data) & np.all(near | ~data.labelled, axis=1)
    if small.sum() > MOST_LOST * len(data):
        raise DataError(f"{data.called}: {_cornered(data, small)}; {_marks(data) or cause}")
    small &= np.any(near & ~np.all(np.isin(data.xy, (0.0, 0.5)), axis=2), axis=1)  # all at (0, 0) are told as marks
    if small.sum() < FEWEST:
        small &= data.labelled.sum(axis=1) > 1  # a single point may well lie there
    lines = [f"{_cornered(data, small)}, and of the others they do not; {cause}"] if small.any() else []
    others = data.labelled & ~small[:, None]
    always = np.flatnonzero((near & others).sum(axis=0) >= np.maximum(others.sum(axis=0), FEWEST))
    names = [data.skeleton.names[k] for k in always.tolist() if len(np.unique(data.xy[others[:, k], k], axis=0)) > 1]
    if names:  # those on one spot are told as a mark
        lines.append(f"within 1 px of the corner in every object: {first_of(names, SHOWN, ', ')}; {cause}")
    return lines


def _cornered(data: Dataset, mask: np.ndarray) -> str:
    count = f"{mask.sum()} of {len(data)} objects"
    return f"all labelled points of {count} lie within 1 px of the corner ({_of(data, mask)})"


def _require_points_in_images(data: Dataset, sizes: np.ndarray) -> None:
    """Raises ValueError where points lie beside their image."""
    away = _some(data) & np.all(points_outside(data.xy, sizes) | ~data.labelled, axis=1)
    if away.sum() <= MOST_LOST * len(data):
        return
    swapped = np.all(points_outside(data.xy[..., ::-1], sizes) | ~data.labelled, axis=1)
    cause = "were they made for other images, or for these before they were resized, cut or turned?"
    if (away & swapped).sum() < (1 - LIKELY) * away.sum():
        cause = "x and y look swapped: write x first, or turn the labels as the images were turned"
    raise DataError(
        f"{data.called}: all labelled points of {away.sum()} of {len(data)} objects lie outside their image "
        f"({_of(data, away)}); {_marks(data) or cause}"
    )


def _marks(data: Dataset) -> str:
    """What the reader said of marks for missing points: if there are so many, they are the likely cause."""
    return "; ".join(data.doubts)


def _swapped(data: Dataset, sizes: np.ndarray) -> list[str]:
    """A line where many points lie outside their image and hardly any would with x and y swapped."""
    count = int(data.labelled.sum())
    outside, other = (int(points_outside(xy, sizes).sum()) for xy in (data.xy, data.xy[..., ::-1]))
    if outside < max(3, 0.1 * count) or other > 0.1 * outside:
        return []
    return [f"{outside} of {count} labelled points lie outside their image, and {other} would if x and y were swapped"]


def _percent(data: Dataset, sizes: np.ndarray) -> list[str]:
    """A line where points without boxes fill 0..100 of larger images."""
    some = data.xy[data.labelled]
    if _boxed(data).any() or len(data) < PERCENT_OBJECTS or sizes.min() < PERCENT_SIDE or not len(some):
        return []
    if some.min() < -0.5 or some.max() > 100.5 or some.max(axis=0).min() < 60:
        return []
    return ["no point lies beyond 100 px in images of more; if they are per cent, " + ROUND_SIZES[100.0].split(": ")[1]]


# ---- boxes beside their points


def _boxes_without_points(data: Dataset, sizes: np.ndarray, box: str) -> list[str]:
    """A line where boxes hold none of their points, or fit them if their numbers are read otherwise."""
    rows = np.flatnonzero(_boxed(data) & _some(data))
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
        f"none of the labelled points of {lost.sum()} of {len(rows)} objects lies in its box, were it {GROWN:g} times "
        f"as large ({_of(data, mask)})"
    )
    line = f"{line}; {cause}" if cause else f"{line}; is the box of another object, or of another size of the image?"
    if box == "annotation" and lost.sum() > MOST_LOST * len(rows):
        raise DataError(f"{data.called}: {line}")
    return [line]


def _likelier_corners(boxes: np.ndarray, xy: np.ndarray, sizes: np.ndarray) -> str:
    """The same for boxes that hold their points, but too far right and below, as sides that are x1 and y1 do."""
    corners = _corners(boxes)
    if _fits(corners, xy, sizes).mean() < LIKELY:
        return ""
    lean, other = (np.abs(np.minimum(_lean(each, xy), 0)) for each in (boxes, corners))
    return CORNERS if np.all((lean > LEAN) & (other < lean / 2)) else ""


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes whose x1 and y1 were taken for width and height, as they were meant."""
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


def _lean(boxes: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(2,) how far right of and below the middle of its box an object's points are, in sides of it; the median."""
    middle = (np.nanmin(xy, axis=1) + np.nanmax(xy, axis=1)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nanmedian((middle - (boxes[:, :2] + boxes[:, 2:]) / 2) / (boxes[:, 2:] - boxes[:, :2]), axis=0)


def _other_reading(boxes: np.ndarray, xy: np.ndarray, sizes: np.ndarray) -> str:
    """The reading of the numbers of boxes, or of points, by which they fit, in words; empty where none does."""
    sides = boxes[:, 2:] - boxes[:, :2]
    by_centre, also_by_centre = (
        np.hstack([boxes[:, :2] - half, boxes[:, :2] + half]) for half in (sides / 2, boxes[:, 2:] / 2)
    )
    upright = np.stack([xy[..., 0], sizes[:, None, 1] - xy[..., 1]], axis=2)
    readings = [  # words, boxes, points
        (CORNERS, _corners(boxes), xy),
        (CENTRES, by_centre, xy),  # written as x0, y0, width, height
        (CENTRES, also_by_centre, xy),  # as x0, y0, x1, y1
        (FROM_BOX, boxes, xy + boxes[:, None, :2]),
        (FROM_BOTTOM, boxes, upright),
        (SIDES, np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]), xy),
        ("boxes look as if x and y were swapped", boxes[:, [1, 0, 3, 2]], xy),
    ]
    for words, read_boxes, points in readings:
        if _fits(read_boxes, points, sizes).mean() >= LIKELY:
            return words
    return _other_size(boxes, xy, sizes)


def _other_size(boxes: np.ndarray, xy: np.ndarray, sizes: np.ndarray) -> str:
    """The size of the images for which boxes, or else points, seem to be made, in words; empty where none fits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (boxes[:, :2] + boxes[:, 2:]) / 2 / np.nanmean(xy, axis=1)  # of the middles
        box_size, point_size = np.median(sizes * ratio, axis=0), np.median(sizes / ratio, axis=0)
    found = {"boxes": box_size, "keypoints": point_size}
    found = {what: size for what, size in found.items() if _likely(what, size, boxes, xy, sizes)}
    for what, size in found.items():
        for round_size, words in ROUND_SIZES.items():
            if np.all(np.abs(size / round_size - 1) < NEAR):
                return f"{what} look like {words}"
    beyond = np.any(boxes[:, 2:] > (1 + SLACK) * sizes, axis=1).mean() > MOST_LOST
    points = not beyond and points_outside(xy, sizes).mean() > SLACK
    what = "keypoints" if points else "boxes"
    size = found.get(what)
    if size is None or np.all(np.abs(np.median(sizes / size, axis=0) - 1) < OTHER):
        return ""
    return f"{what} look like px of images of about {size[0]:.0f}x{size[1]:.0f}: scale them as the images were"


def _likely(what: str, size: np.ndarray, boxes: np.ndarray, xy: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether nearly all objects fit if boxes, or else keypoints, were made for images of this (width, height)."""
    if not (np.isfinite(size).all() and (size > 0).all()):
        return False
    times = sizes / size
    scaled = (boxes * np.tile(times, 2), xy) if what == "boxes" else (boxes, xy * times[:, None])
    return bool(_fits(*scaled, sizes).mean() >= LIKELY)


def _fits(boxes: np.ndarray, xy: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: which boxes (N, 4) hold all labelled points and are in their image, about."""
    slack = SLACK * sizes
    within = np.all((boxes[:, :2] >= -slack) & (boxes[:, 2:] <= sizes + slack), axis=1)
    return within & np.all(_holds(boxes, xy, SLACK) | np.isnan(xy).any(axis=2), axis=1)


def _holds(boxes: np.ndarray, xy: np.ndarray, slack: float) -> np.ndarray:
    """(N, K) bool: which points lie in their box grown by a fraction of its sides, and by a pixel where it grows."""
    more = slack * (boxes[:, 2:] - boxes[:, :2]) + (slack > 0)
    low, high = boxes[:, None, :2] - more[:, None], boxes[:, None, 2:] + more[:, None]
    return np.all((xy >= low) & (xy <= high), axis=2)  # a comparison with NaN is False


# ---- objects beside each other


def _alike(data: Dataset) -> list[str]:
    """A line for objects on top of each other, without a label, on one spot, or all the same."""
    lines = []
    blank = ~_some(data)
    if blank.any():
        lines.append(f"{_counted(data, blank)} without a labelled point, and teach nothing ({_of(data, blank)})")
    known = data.labelled[..., None]
    highest, lowest = np.where(known, data.xy, -np.inf).max(axis=1), np.where(known, data.xy, np.inf).min(axis=1)
    spot = (data.labelled.sum(axis=1) >= 2) & np.all(highest == lowest, axis=1)
    if spot.any():
        lines.append(f"{_counted(data, spot)} with all labelled points on one spot ({_of(data, spot)})")
    same = len(data) >= 3 and np.array_equal(data.xy, np.broadcast_to(data.xy[:1], data.xy.shape), equal_nan=True)
    if same and not spot.any() and not blank.any():
        lines.append(f"all {len(data)} objects have the very same points: nothing can be learnt from where they lie")
    on_top = _on_top(data)
    if on_top.any():
        lines.append(
            f"{_counted(data, on_top)} on top of another one of the same image, by points or box "
            f"({_of(data, on_top)}); is one of them a copy?"
        )
    return lines


def _on_top(data: Dataset) -> np.ndarray:
    """(N,) bool: which objects lie on one before them in the same image."""
    found = np.zeros(len(data), bool)
    if len(data.images) == len(data):
        return found
    with np.errstate(invalid="ignore"):
        area = np.nan_to_num((data.box[:, 2:] - data.box[:, :2]).prod(axis=1))
    orders = [
        np.lexsort((key, data.image_index)) for key in (area, np.nansum(data.xy, axis=(1, 2)))
    ]  # like beside like
    for order in orders:
        for lag in range(1, NEIGHBOURS + 1):
            one, two = order[:-lag], order[lag:]
            together = data.image_index[one] == data.image_index[two]
            one, two = one[together], two[together]
            same = _same_points(data.xy[one], data.xy[two]) & data.labelled[one].any(axis=1)
            alike = same | (_overlap(data.box[one], data.box[two]) > SAME_BOX)
            found[np.maximum(one, two)[alike]] = True
    return found


def _same_points(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(N,) bool: which points (N, K, 2) are the same, unlabelled ones too."""
    return np.all((one == two) | (np.isnan(one) & np.isnan(two)), axis=(1, 2))


def _overlap(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of boxes (N, 4); NaN where there is none."""
    sides = np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, two)]
    return common / (areas[0] + areas[1] - common)


# ---- words


def _some(data: Dataset) -> np.ndarray:
    """(N,) bool: which objects have a labelled point."""
    return np.any(data.labelled, axis=1)


def _boxed(data: Dataset) -> np.ndarray:
    return np.all(np.isfinite(data.box), axis=1)


def _counted(data: Dataset, mask: np.ndarray) -> str:
    count = int(mask.sum())
    return f"{count} of {len(data)} objects {'is' if count == 1 else 'are'}"


def _of(data: Dataset, mask: np.ndarray) -> str:
    """The first objects of a mask by name."""
    rows = np.flatnonzero(mask)
    return f"such as {', '.join(data.sample_name(row) for row in rows[:3].tolist())}"
