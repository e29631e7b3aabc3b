"""Draws points on images and puts images side by side, with OpenCV alone, so that a device can do it too.

Images are uint8 (H, W, 3) RGB; points are in continuous px of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from keylite.runtime.boxes import numbers_of
from keylite.runtime.errors import ArgumentError
from keylite.runtime.images import open_image
from keylite.runtime.kinds import number_of, require_kind
from keylite.runtime.sides import side_of
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.types import Boxes, Image
from keylite.runtime.words import quoted

Colour = tuple[int, int, int]

# Colours of Okabe and Ito's palette, which people with any colour vision can tell apart.
LEFT, RIGHT, MIDDLE = (230, 159, 0), (86, 180, 233), (240, 228, 66)  # sides of the object
TRUTH = (255, 255, 255)
ERROR = (255, 0, 200)  # rare in photographs
COLOURS = {"left": LEFT, "right": RIGHT, None: MIDDLE}  # by the side that a keypoint's name says
SIDES = {"left": ", the object's left", "right": ", the object's right", None: ", neither side"}
OUTLINE = (20, 20, 20)
BACKGROUND, INK = (32, 32, 32), (235, 235, 235)
SHIFT = 4  # fractional bits of the coordinates that OpenCV draws at: points are exact to 1/16 px
CAPTION = 18  # height of the bar below a tile that holds its caption, px
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4
LEGIBLE = 1000  # longest side up to which a legend's letters have their usual size; above it they grow


def draw_points(
    image: Image,
    xy: Boxes,
    skeleton: Skeleton,
    *,
    truth: Boxes | None = None,
    radius: float | None = None,
) -> np.ndarray:
    """A copy of an image with the points of one object and their edges, and the true points if you give them.

    Args:
        image: A path, the bytes of an image file, or uint8 (H, W, 3) RGB. It is not changed.
        xy: The points (K, 2), continuous px of the image. A point with NaN is left out, with its edges.
        skeleton: The K keypoints. Their names say which points are left or right, and so which colour they get.
        truth: The true points (K, 2), px of the image: smaller white dots, each joined to its point by a line.
            A true point with NaN is left out. None: no true points are drawn.
        radius: The radius of a dot, px of the image, above 0. None: it follows from the size of the image and from the
            distances between the points.

    Returns:
        A new array, uint8 (H, W, 3) RGB.

    Raises:
        ArgumentError: `xy` or `truth` is not (K, 2), or `radius` is not a number above 0.
        ImageError: The image cannot be read, or the array is not a picture.
        FileNotFoundError: There is no file at this path.
    """
    require_kind("skeleton", skeleton, Skeleton, "a Skeleton", "use Skeleton(names), or that of a model or data set")
    xy = numbers_of("xy", xy, (len(skeleton), 2))
    truth = None if truth is None else numbers_of("truth", truth, xy.shape)
    if radius is not None and not 0 < number_of(radius) < math.inf:
        raise ArgumentError(f"radius: expected a number above 0, got {quoted(radius)}")
    canvas = np.ascontiguousarray(open_image(image, math.inf).pixels()).copy()
    size = _radius(canvas, xy) if radius is None else radius
    colours = [COLOURS[side_of(name)] for name in skeleton.names]
    thin = max(1, round(size / 4))

    for colour, extra in ((OUTLINE, 2), (None, 0)):  # all outlines first, so that none cuts through a line
        for a, b in skeleton.edges:
            _line(canvas, xy[a], xy[b], colour or _edge_colour(colours, a, b), thin + extra)
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


def _edge_colour(colours: Sequence[Colour], start: int, end: int) -> Colour:
    """The colour of both ends of an edge, or that of the middle if they differ."""
    return colours[start] if colours[start] == colours[end] else MIDDLE


def _place(points: np.ndarray) -> np.ndarray:
    """Continuous coordinates (..., 2) as the fixed-point numbers that OpenCV draws at; its pixel centres are whole."""
    clipped = np.clip(points, -1e4, 1e4)  # larger integers overflow in OpenCV, which then draws across the picture
    return np.rint((clipped - 0.5) * 2**SHIFT).astype(np.int32)


def _line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, colour: Colour, thickness: int) -> None:
    if np.isfinite(start).all() and np.isfinite(end).all():
        cv2.line(canvas, _place(start).tolist(), _place(end).tolist(), colour, thickness, cv2.LINE_AA, SHIFT)


def _disc(canvas: np.ndarray, centre: np.ndarray, radius: float, colour: Colour) -> None:
    """A filled disc, as a polygon: cv2.circle turns small ones into diamonds."""
    if np.isfinite(centre).all():
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        outline = _place(centre + radius * np.column_stack([np.cos(angles), np.sin(angles)]))
        cv2.fillConvexPoly(canvas, outline, colour, cv2.LINE_AA, SHIFT)


def _caption(bar: np.ndarray, text: str) -> None:
    """Write a text into the bar (h, w, 3); a text that is too long is cut."""
    _write(bar, text, 2, 1.0)


def _write(bar: np.ndarray, text: str, left: int, scale: float) -> None:
    """Write a text into the bar (h, w, 3) from `left` px on; a text that is too long is cut. scale: of the letters."""
    cuts = (text, *(f"{text[:end]}.." for end in range(len(text) - 1, 0, -1)))
    fitting = (cut for cut in cuts if left + _text_width(cut, scale) <= bar.shape[1] - 2)
    written = np.ascontiguousarray(bar)
    place = (left, bar.shape[0] - round(5 * scale))
    cv2.putText(written, next(fitting, ""), place, FONT, FONT_SCALE * scale, INK, _thickness(scale), cv2.LINE_AA)
    bar[:] = written


def _text_width(text: str, scale: float) -> int:
    return cv2.getTextSize(text, FONT, FONT_SCALE * scale, _thickness(scale))[0][0]


def _thickness(scale: float) -> int:
    return max(1, round(scale))


# ---- legends


class _Mark(NamedTuple):
    """An entry of a legend: a dot or a line of this colour, and what it means."""

    words: str
    colour: Colour
    line: bool = False


class _Place(NamedTuple):
    """The place of a mark in its row: where its symbol begins, where its words begin, and its end, px from the left."""

    mark: _Mark
    symbol: int
    words: int
    end: int


def with_legend(picture: np.ndarray, skeleton: Skeleton, *, points: str, truth: str = "") -> np.ndarray:
    """A picture above a strip that says what the marks of `draw_points` mean.

    Args:
        picture: uint8 (H, W, 3) RGB: an image from `draw_points`, or a contact sheet of such images.
        skeleton: The keypoints that were drawn. Their names decide the colours.
        points: What the coloured dots are, such as "prediction".
        truth: What the white dots are, such as "label". Empty: there are none.

    Returns:
        The picture, unchanged, and the strip below: uint8 (H + strip, W, 3) RGB. If the picture is narrower than the
        strip needs, background is beside it.
    """
    height, width = picture.shape[:2]
    scale = max(1.0, max(height, width) / LEGIBLE)
    rows = _rows(_marks(skeleton, points, truth), width, scale)
    bar_height, full_width = round(CAPTION * scale), max(width, *(place.end for row in rows for place in row))
    explained = np.full((height + len(rows) * bar_height, full_width, 3), BACKGROUND, np.uint8)
    explained[:height, :width] = picture
    for row, bar in zip(rows, np.split(explained[height:], len(rows)), strict=True):
        for place in row:
            _write(bar, place.mark.words, place.words, scale)
            _symbol(bar, place.mark, place.symbol, place.words - round(4 * scale), scale)
    return explained


def _marks(skeleton: Skeleton, points: str, truth: str) -> list[_Mark]:
    """The marks that a legend must explain. Sides are among them only if a keypoint's name says one."""
    sides = [side_of(name) for name in skeleton.names]
    has_sides = len({*sides} - {None}) > 0
    marks = [_Mark(points + words * has_sides, COLOURS[side]) for side, words in SIDES.items() if side in sides]
    if skeleton.edges:
        colour = _edge_colour([COLOURS[side] for side in sides], *skeleton.edges[0])
        marks.append(_Mark("edge of the skeleton", colour, line=True))
    if truth:
        marks += [_Mark(truth, TRUTH), _Mark(f"error: from {truth} to {points}", ERROR, line=True)]
    return marks


def _rows(marks: Sequence[_Mark], width: int, scale: float) -> list[list[_Place]]:
    """The marks in as few rows of `width` px as possible; a mark that is wider has a row to itself."""
    rows: list[list[_Place]] = [[]]
    margin, left = round(6 * scale), 0
    for mark in marks:
        words = margin + round(20 * scale)
        length = words + _text_width(mark.words, scale) + margin
        if rows[-1] and left + length > width:
            rows.append([])
            left = 0
        rows[-1].append(_Place(mark, left + margin, left + words, left + length))
        left += length
    return rows


def _symbol(bar: np.ndarray, mark: _Mark, left: int, right: int, scale: float) -> None:
    """Draw the dot or the line of a mark between two places in the bar."""
    start, end = np.array([[left, bar.shape[0] / 2], [right, bar.shape[0] / 2]])
    if mark.line:
        _line(bar, start, end, mark.colour, round(2 * scale))
    else:
        _disc(bar, (start + end) / 2, 5 * scale, OUTLINE)
        _disc(bar, (start + end) / 2, 4 * scale, mark.colour)
