"""Painting on a canvas finer than the picture: polygons, lines, letters and shaded rings."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from keylite.data.rendered.looks import GAP, GLYPHS, Colour, Font
from keylite.data.rendered.scenery import SHIFT

SUPERSAMPLE = 2  # the canvas is this many times finer than the picture, which is averaged from it
COARSE = 4  # soft light is painted on a map that is this many times coarser than the picture


def polar(radius: float | np.ndarray, angle: float | np.ndarray) -> np.ndarray:
    """Dial-plane points (..., 2) at a radius and a clockwise angle."""
    return np.stack(np.broadcast_arrays(radius * np.cos(angle), radius * np.sin(angle)), axis=-1)


def project(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Points (..., 2) through a (3, 3) homography."""
    moved = xy @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]


def around(count: int) -> np.ndarray:
    """`count` angles evenly around a circle, in radians from 0."""
    return np.arange(count) * (2 * math.pi / count)


def outline_radius(corners: int, angle: np.ndarray) -> np.ndarray:
    """The radius, at each angle, of a case with so many corners whose sides touch the unit circle."""
    if corners == 0:
        return np.ones_like(angle)
    if corners == 4:
        return (np.abs(np.cos(angle)) ** 9 + np.abs(np.sin(angle)) ** 9) ** (-1 / 9)
    side = 2 * math.pi / corners
    return 1 / np.cos((angle + side / 2) % side - side / 2)


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Pixels that are painted in place, and the (3, 3) matrix from the dial plane to continuous px of the canvas."""

    pixels: np.ndarray
    matrix: np.ndarray

    def fixed(self, shapes: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Dial-plane shapes, each (P, 2), as fixed-point pixel indices of cv2: continuous px less 0.5."""
        indexed = np.round((project(self.matrix, np.concatenate(shapes)) - 0.5) * 2**SHIFT).astype(np.int32)
        ends = itertools.accumulate(len(shape) for shape in shapes)
        return [indexed[end - len(shape) : end] for shape, end in zip(shapes, ends, strict=True)]


def canvas_of(pixels: np.ndarray, matrix: np.ndarray, factor: float) -> Canvas:
    """A canvas that is `factor` times as large as the image to which `matrix` leads."""
    return Canvas(pixels, np.diag([factor, factor, 1]) @ matrix)


def fill(canvas: Canvas, polygons: Sequence[np.ndarray] | np.ndarray, colour: Colour | float) -> None:
    """Fill polygons (P, 2). Where two of them overlap there is a hole, so two outlines make a ring."""
    cv2.fillPoly(canvas.pixels, canvas.fixed(polygons), colour, cv2.LINE_AA, SHIFT)


def stroke(canvas: Canvas, lines: Sequence[np.ndarray], width: float, colour: Colour) -> None:
    """Draw open lines (P, 2) of a dial-plane width."""
    scale = math.sqrt(abs(np.linalg.det(canvas.matrix[:2, :2])))
    thickness = max(1, round(width * scale))
    cv2.polylines(canvas.pixels, canvas.fixed(lines), False, colour, thickness, cv2.LINE_AA, SHIFT)


def fan(canvas: Canvas, inner: np.ndarray, outer: np.ndarray, colours: np.ndarray) -> None:
    """Paint the ring between two outlines (P, 2), each of its P sectors in a colour of its own, colours (P, 3)."""
    inner, outer = canvas.fixed([inner, outer])
    quads = np.stack([inner, outer, np.roll(outer, -1, axis=0), np.roll(inner, -1, axis=0)], axis=1)
    for quad, colour in zip(quads, colours.tolist(), strict=True):
        cv2.fillConvexPoly(canvas.pixels, quad, colour, cv2.LINE_AA, SHIFT)


def sector(outer: float, inner: float, start: float, end: float) -> np.ndarray:
    """The outline (P, 2) of a piece of ring between two angles."""
    angles = np.linspace(start, end, max(8, int(12 * abs(end - start))))
    return np.concatenate([polar(outer, angles), polar(inner, angles[::-1])])


def pick(generator: np.random.Generator, options: Sequence[Colour], spread: float = 12) -> Colour:
    """One of the colours, changed a little at random, in lightness more than in hue."""
    base = np.asarray(options[int(generator.integers(len(options)))], np.float64)
    shift = generator.normal(0, spread) + generator.normal(0, spread / 3, 3)
    return tuple(np.clip(base + shift, 4, 251).tolist())


def contrast(one: Colour, other: Colour) -> float:
    """How far apart two colours are to the eye, in grey levels (Rec. 601 weights) plus a share of the hue."""
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return abs(float(difference @ (0.299, 0.587, 0.114))) + 0.25 * float(np.ptp(difference))


@functools.cache
def glyph(character: str, font: Font) -> tuple[np.ndarray, ...]:
    """A character's strokes, each (P, 2): y from -0.5 to 0.5, x from 0 to the font's width."""
    strokes = []
    for line in GLYPHS[character].split("/"):
        xy = np.array([(int(pair[0]), int(pair[1])) for pair in line.split()], np.float64)
        for _ in range(font.rounds):  # Chaikin's corner cutting; the ends stay
            cut = np.stack([0.75 * xy[:-1] + 0.25 * xy[1:], 0.25 * xy[:-1] + 0.75 * xy[1:]], axis=1).reshape(-1, 2)
            xy = np.concatenate([xy[:1], cut, xy[-1:]])
        x, y = xy[:, 0] / 4 * font.width, xy[:, 1] / 6 - 0.5
        strokes.append(np.stack([x - font.slant * y, y], axis=1))
    return tuple(strokes)


def lettering(text: str, font: Font, height: float, at: np.ndarray, turn: float = 0.0) -> list[np.ndarray]:
    """The strokes of a text centred at a dial-plane point `at`, turned clockwise by `turn` radians."""
    advance = font.width + GAP
    origin = -(len(text) * advance - GAP) / 2
    c, s = math.cos(turn), math.sin(turn)
    rotation = np.array([[c, s], [-s, c]]) * height
    return [
        (line + np.array([origin + place * advance, 0])) @ rotation + at
        for place, character in enumerate(text)
        for line in glyph(character, font)
    ]
