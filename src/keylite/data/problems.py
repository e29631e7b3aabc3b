"""All reasons for which a labelled object is refused, for label files and for arrays alike.

The functions take columns of numbers and give words, without the names of objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keylite.runtime.boxes import MOST_PX, box_problems, boxes_below_a_pixel, far_words, small_words
from keylite.runtime.errors import DataError
from keylite.runtime.words import listed

MOST_WHOLE = 0.9  # share of pictures that hold one object of each kind: with more, this is no coincidence


def object_problems(
    names: Sequence[str],
    xy: np.ndarray,
    visible: np.ndarray,
    box: np.ndarray,
    sizes: np.ndarray | None = None,
) -> dict[int, str]:
    """Row -> why the object cannot be used, in the order of rows.

    names: the K keypoints. xy: (N, K, 2) px; it does not matter for points with visible 0. visible: (N, K), expected 0,
    1 or 2. box: (N, 4) xyxy px, all NaN for an object without a box. sizes: (N, 2) width and height of each object's
    image, NaN or 0 if unknown; None if no size is known.
    """
    odd = (visible != 0) & (visible != 1) & (visible != 2)
    lost = (visible > 0) & ~np.all(np.abs(xy) <= MOST_PX, axis=2)  # a comparison with NaN is False
    boxed = ~np.all(np.isnan(box), axis=1)
    finite = np.all(np.isfinite(box), axis=1)
    flat = finite & ~np.all(box[:, 2:] > box[:, :2], axis=1)
    far = finite & np.any(np.abs(box) > MOST_PX, axis=1)

    def first(row: int, mask: np.ndarray) -> tuple[str, float, float, float]:
        k = int(np.argmax(mask[row]))
        return names[k], float(xy[row, k, 0]), float(xy[row, k, 1]), float(visible[row, k])

    def visibility(row: int) -> str:
        name, _, _, v = first(row, odd)
        return f"{name}: expected v 0, 1 or 2, got {v:g}"

    def place(row: int) -> str:
        name, x, y, v = first(row, lost)
        return f"{name} is labelled (v {v:g}) but lies at ({x:g}, {y:g})"

    def size(row: int) -> str:
        x0, y0, x1, y1 = box[row]
        return f"box: expected a width and a height above 0, got {x1 - x0:g} x {y1 - y0:g}"

    checks = (
        (np.any(odd, axis=1), visibility),
        (np.any(lost, axis=1), place),
        (boxed & ~finite, lambda _row: "box: expected four finite numbers"),
        (flat, size),
        (far, lambda row: far_words(box[row])),
        (boxes_below_a_pixel(box) & ~flat, lambda row: small_words(box[row])),
    )
    problems: dict[int, str] = {}
    for mask, describe in checks:
        for row in np.flatnonzero(mask).tolist():
            problems.setdefault(row, describe(row))
    if sizes is not None:
        known = np.where(sizes > 0, sizes, np.nan)
        for row, words in box_problems(np.where(finite[:, None], box, np.nan), known).items():
            problems.setdefault(row, words)
    return dict(sorted(problems.items()))


def column_problems(
    names: Sequence[str],
    xy: np.ndarray,
    visible: np.ndarray,
    area: np.ndarray,
    indices: dict[str, tuple[np.ndarray, int]],
) -> dict[int, str]:
    """Row -> what is wrong in it, for mistakes that only arrays can have, such as an index out of range.

    indices: name of a column -> its values (N,), and the number of things that they index.
    """
    problems: dict[int, str] = {}
    for column, (values, count) in indices.items():
        for row in np.flatnonzero((values < 0) | (values >= count)).tolist():
            problems.setdefault(row, f"{column}: expected 0 to {count - 1}, got {values[row]}")
    for row in np.flatnonzero(~np.isnan(area) & ~((area > 0) & np.isfinite(area))).tolist():
        problems.setdefault(row, f"area: expected a number above 0, or NaN if unknown, got {area[row]:g}")
    both = (visible == 0) & ~np.all(np.isnan(xy), axis=2)
    for row in np.flatnonzero(both.any(axis=1)).tolist():
        k = int(np.argmax(both[row]))
        x, y = xy[row, k].tolist()
        problems.setdefault(row, f"{names[k]} is unlabelled (visible 0) but lies at ({x:g}, {y:g}): expected NaN")
    return problems


def require_whole_objects(path: Path, kinds: Sequence[str], image_index: Sequence[int]) -> None:
    """Raise DataError if objects with one keypoint each are probably the points of one object.

    They are if nearly every picture holds exactly one object of each kind. kinds, image_index: the kind (category) and
    the image of each object.
    """
    names = sorted(set(kinds))
    pairs = Counter(zip(image_index, kinds, strict=True))
    single_kinds = Counter(image for (image, _), count in pairs.items() if count == 1)
    whole = sum(count == len(names) for count in single_kinds.values())
    if len(names) > 1 and whole > MOST_WHOLE * len(set(image_index)):
        raise DataError(one_skeleton(path, names, ", once in nearly every picture"))


def one_skeleton(path: Path, names: Sequence[str], where: str = "") -> str:
    """The message about categories that are probably the points of one object."""
    line = listed(f"{path}: {len(names)} categories have one keypoint each{where}", names)
    return f"{line}; label the points of an object as one skeleton, or choose one with `category=NAME`"


def points_outside(xy: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N, K) bool: which points (N, K, 2) px lie outside their image, (N, 2) width and height; NaN is not outside."""
    return np.any((xy < 0) | (xy > sizes[:, None]), axis=2)
