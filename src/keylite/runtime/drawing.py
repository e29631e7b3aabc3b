"""Draws points on images and puts images side by side, with OpenCV alone, so that a device can do it too.

Images are uint8 (H, W, 3) RGB; points are in continuous px of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from keylite.runtime.errors import ArgumentError
from keylite.runtime.sides import side_of
from keylite.runtime.skeleton import Skeleton

# Colours of Okabe and Ito's palette, which people with any colour vision can tell apart.
LEFT, RIGHT, MIDDLE = (230, 159, 0), (86, 180, 233), (240, 228, 66)  # sides of the object
TRUTH = (255, 255, 255)
ERROR = (255, 0, 200)  # rare in photographs
OUTLINE = (20, 20, 20)
BACKGROUND, INK = (32, 32, 32), (235, 235, 235)
SHIFT = 4  # fractional bits of the coordinates that OpenCV draws at: points are exact to 1/16 px
CAPTION = 18  # height of the bar below a tile that holds its caption, px


def draw_points(
    image: np.ndarray,
    xy: np.ndarray,
    skeleton: Skeleton,
    *,
    truth: np.ndarray | None = None,
    radius: float | None = None,
) -> np.ndarray:
    """A copy of an image with the points of one object and their edges, and the true points if you give them.

    Args:
        image: uint8 (H, W, 3) RGB. It is not changed.
        xy: The points (K, 2), continuous px of the image. A point with NaN is left out, with its edges.
        skeleton: The K keypoints. Their names say which points are left or right, and so which colour they get.
        truth: The true points (K, 2), px of the image: smaller white dots, each joined to its point by a line.
            A true point with NaN is left out. None: no true points are drawn.
        radius: The radius of a dot, px of the image. None: it follows from the size of the image and the distances
            between the points.

    Returns:
        A new array, uint8 (H, W, 3) RGB.

    Raises:
        ArgumentError: `xy` is not (K, 2), or `truth` has another shape than `xy`.
    """
    if xy.shape != (len(skeleton), 2):
        raise ArgumentError(f"xy: expected shape ({len(skeleton)}, 2), one object's points, got {xy.shape}")
    if truth is not None and truth.shape != xy.shape:
        raise ArgumentError(f"truth: expected the shape of xy {xy.shape}, got {truth.shape}")
    canvas = np.ascontiguousarray(image).copy()
    size = _radius(canvas, xy) if radius is None else radius
    colours = _colours(skeleton)
    thin = max(1, round(size / 4))

    for colour, extra in ((OUTLINE, 2), (None, 0)):  # all outlines first, so that none cuts through a line
        for a, b in skeleton.edges:
            same = colours[a] if colours[a] == colours[b] else MIDDLE
            _line(canvas, xy[a], xy[b], colour or same, thin + extra)
    if truth is not None:
        for point, true_point in zip(xy, truth, strict=True):
            _line(canvas, true_point, point, ERROR, thin)
        for true_point in truth:
            _disc(canvas, true_point, 0.7 * size + 1, OUTLINE)
            _disc(canvas, true_point, 0.7 * size, TRUTH)
    for point, colour in zip(xy, colours, strict=True):
        _disc(canvas, point, size + 1, OUTLINE)
        _disc(canvas, point, size, colour)
    return canvas


def contact_sheet(
    images: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None, gap: int = 4
) -> np.ndarray:
    """The images in rows of `columns`, each enlarged to fill its tile, with a caption below.

    All tiles have the size of the largest image; the last row is filled with background.
    """
    if not images or columns < 1:
        raise ArgumentError(f"contact sheet: expected images and at least one column, got {len(images)} and {columns}")
    if captions is not None and len(captions) != len(images):
        raise ArgumentError(f"captions: expected {len(images)}, one per image, got {len(captions)}")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    bar = CAPTION if captions is not None else 0
    step_y, step_x = height + bar + gap, width + gap
    sheet = np.full((rows * step_y + gap, columns * step_x + gap, 3), BACKGROUND, np.uint8)
    for position, image in enumerate(images):
        top, left = gap + position // columns * step_y, gap + position % columns * step_x
        scale = min(width / image.shape[1], height / image.shape[0])
        w, h = round(image.shape[1] * scale), round(image.shape[0] * scale)
        y, x = top + (height - h) // 2, left + (width - w) // 2
        fitted = image if scale == 1 else cv2.resize(image, (w, h), interpolation=cv2.INTER_CUBIC)
        sheet[y : y + h, x : x + w] = fitted
        if captions is not None:
            _caption(sheet[top + height : top + height + bar, left : left + width], captions[position])
    return sheet


def _radius(image: np.ndarray, xy: np.ndarray) -> float:
    """The radius of a dot in px: 1/100 of the image's shorter side, less if points are close, but at least 1.5."""
    radius = min(image.shape[:2]) / 100
    known = xy[np.isfinite(xy).all(axis=1)]
    if len(known) > 1:
        distances = np.linalg.norm(known[:, None] - known[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        radius = min(radius, float(np.median(distances.min(axis=1))) / 3)
    return max(radius, 1.5)


def _colours(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """The colour of each keypoint: that of the side that its name says, or MIDDLE."""
    return [{"left": LEFT, "right": RIGHT, None: MIDDLE}[side_of(name)] for name in skeleton.names]


def _place(points: np.ndarray) -> np.ndarray:
    """Continuous coordinates (..., 2) as the fixed-point numbers that OpenCV draws at; its pixel centres are whole."""
    clipped = np.clip(points, -1e4, 1e4)  # larger integers overflow in OpenCV, which then draws across the picture
    return np.rint((clipped - 0.5) * 2**SHIFT).astype(np.int32)


def _line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    if np.isfinite(start).all() and np.isfinite(end).all():
        cv2.line(canvas, _place(start).tolist(), _place(end).tolist(), colour, thickness, cv2.LINE_AA, SHIFT)


def _disc(canvas: np.ndarray, centre: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
    """A filled disc, as a polygon: cv2.circle turns small ones into diamonds."""
    if np.isfinite(centre).all():
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        outline = _place(centre + radius * np.column_stack([np.cos(angles), np.sin(angles)]))
        cv2.fillConvexPoly(canvas, outline, colour, cv2.LINE_AA, SHIFT)


def _caption(bar: np.ndarray, text: str) -> None:
    """Write a text into the bar (h, w, 3); a text that is too long is cut."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    cuts = (text, *(f"{text[:end]}.." for end in range(len(text) - 1, 0, -1)))
    fitting = (cut for cut in cuts if cv2.getTextSize(cut, font, scale, 1)[0][0] <= bar.shape[1] - 4)
    written = np.ascontiguousarray(bar)
    cv2.putText(written, next(fitting, ""), (2, bar.shape[0] - 5), font, scale, INK, 1, cv2.LINE_AA)
    bar[:] = written
