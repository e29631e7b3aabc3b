"""Rendering a gauge in front of its surroundings: first its geometry, then paint, light and the camera.

There are two coordinate spaces. In the dial plane the pivot is at (0, 0), the glass has radius 1, y points down, and
angles run clockwise from +x in radians. The image has continuous px. One homography (a 3 x 3 matrix) leads from the
dial plane to the image, for the paint and for the keypoints alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2
import numpy as np

from keylite.data.rendered.canvas import (
    COARSE,
    SUPERSAMPLE,
    Canvas,
    around,
    canvas_of,
    contrast,
    fan,
    fill,
    lettering,
    outline_radius,
    pick,
    polar,
    project,
    sector,
    stroke,
)
from keylite.data.rendered.looks import GAP, NEEDLES, STEPS, TICKS, ZONES, Case, Colour, Dial, Family, Font
from keylite.data.rendered.scenery import BACKGROUNDS, noise, shaded

DOWN = math.pi / 2

Number = TypeVar("Number", float, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Gauge:
    """The geometry of one gauge, which is chosen before anything is painted.

    Attributes:
        start: The angle of the start of the scale.
        span: The angle from its start to its end, clockwise.
        reading: The reading, as a share of full scale.
        scale: The radius of the outer ends of the ticks.
        reach: The radius of the needle's tip.
        case: The name of its kind of case.
        dial: The name of its kind of dial.
        outline: (P, 2) the outline of the case on the dial plane.
        matrix: (3, 3) homography, dial plane -> continuous image px.
        size: The side of the square image, px.
    """

    start: float
    span: float
    reading: float
    scale: float
    reach: float
    case: str
    dial: str
    outline: np.ndarray
    matrix: np.ndarray
    size: int

    def angle(self, fraction: Number) -> Number:
        """The dial-plane angle of a share of full scale."""
        return self.start + fraction * self.span

    def points(self) -> np.ndarray:
        """Centre, needle tip, scale start, scale end as (4, 2) continuous image px."""
        ends = polar(self.scale, np.array([self.angle(0), self.angle(1)]))
        tip = polar(self.reach, self.angle(self.reading))
        return project(self.matrix, np.stack([np.zeros(2), tip, *ends]))

    def box(self) -> np.ndarray:
        """The case's bounding box (4,) xyxy px."""
        outline = project(self.matrix, self.outline)
        return np.concatenate([outline.min(axis=0), outline.max(axis=0)])


# --- geometry --------------------------------------------------------------------------------------------------------


def view(generator: np.random.Generator, outline: np.ndarray, size: int) -> np.ndarray:
    """A random homography (3, 3), dial plane -> image px, that keeps the whole outline in the image.

    The dial is tilted by up to 22 degrees about any axis and turned by up to 28; the case takes 58 to 96 % of the side.
    """
    tilt, axis = math.radians(22) * generator.random(), generator.uniform(0, 2 * math.pi)
    roll, distance = math.radians(generator.uniform(-28, 28)), generator.uniform(4, 9)

    def turn(angle: float) -> np.ndarray:
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    lean = np.array([[math.cos(tilt), 0, 0], [0, 1, 0], [math.sin(tilt) / distance, 0, 1]])
    matrix = turn(roll) @ turn(axis) @ lean @ turn(-axis)
    seen = project(matrix, outline)
    least, most = seen.min(axis=0), seen.max(axis=0)
    zoom = size * generator.uniform(0.58, 0.96) / float((most - least).max())
    shift = generator.random(2) * (size - zoom * (most - least)) - zoom * least
    return np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]], [0, 0, 1]]) @ matrix


def plan(generator: np.random.Generator, family: Family, size: int) -> Gauge:
    """Choose the geometry of one gauge of the family at random."""
    case, dial = str(generator.choice(list(family.cases))), str(generator.choice(list(family.dials)))
    corners, rim = family.cases[case].corners, generator.uniform(*family.cases[case].rim)
    angles = around(96)
    outline = polar((1 + rim) * outline_radius(corners, angles), angles)
    span = math.radians(generator.uniform(180, 300))
    scale = generator.uniform(0.62, 0.72) if family.dials[dial].outside else generator.uniform(0.76, 0.94)
    return Gauge(
        start=DOWN + (2 * math.pi - span) / 2 + math.radians(generator.uniform(-8, 8)),
        span=span,
        reading=generator.random(),
        scale=scale,
        reach=scale * generator.uniform(0.78, 1.02),
        case=case,
        dial=dial,
        outline=outline,
        matrix=view(generator, outline, size),
        size=size,
    )


# --- reflections on the glass: polygons on the dial plane ------------------------------------------------------------


def streak(generator: np.random.Generator) -> list[np.ndarray]:
    at, width = generator.uniform(-0.7, 0.7), generator.uniform(0.08, 0.35)
    return [np.array([(-1.5, at), (1.5, at), (1.5, at + width), (-1.5, at + width)])]


def spot(generator: np.random.Generator) -> list[np.ndarray]:
    shape = polar(1.0, around(24)) * generator.uniform(0.08, 0.3, 2)
    return [shape + polar(generator.uniform(0.2, 0.8), generator.uniform(0, 7))]


def window(generator: np.random.Generator) -> list[np.ndarray]:
    pane = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * generator.uniform(0.14, 0.28, 2)
    corner, gap = generator.uniform(-0.6, 0.1, 2), 1.12 * pane[2]
    return [pane + corner + gap * step for step in ((0, 0), (1, 0), (0, 1), (1, 1))]


def crescent(generator: np.random.Generator) -> list[np.ndarray]:
    middle = generator.uniform(0, 2 * math.pi)
    return [sector(0.96, generator.uniform(0.6, 0.85), middle - 0.7, middle + 0.7)]


REFLECTIONS: dict[str, Callable[[np.random.Generator], list[np.ndarray]]] = {
    "streak": streak,
    "spot": spot,
    "window": window,
    "crescent": crescent,
}


# --- the layers of one picture, back to front ------------------------------------------------------------------------


def paint(generator: np.random.Generator, family: Family, gauge: Gauge) -> np.ndarray:
    """The picture of a gauge: uint8 (size, size, 3) RGB."""
    dial, case = family.dials[gauge.dial], family.cases[gauge.case]
    font = family.fonts[str(generator.choice(list(family.fonts)))]
    size, lit = gauge.size, generator.uniform(0, 2 * math.pi)
    surroundings = BACKGROUNDS[str(generator.choice(family.backgrounds))](generator, size)
    fine = (size * SUPERSAMPLE, size * SUPERSAMPLE)
    canvas = canvas_of(cv2.resize(surroundings, fine), gauge.matrix, SUPERSAMPLE)
    cast_shadow(canvas, [gauge.outline], polar(generator.uniform(0.02, 0.16), lit + math.pi), 0.06, 0.6)
    paint_case(generator, canvas, case, gauge, lit)
    face, ink = dial.inks[generator.integers(len(dial.inks))]
    face, ink = pick(generator, (face,), 7), pick(generator, (ink,), 7)
    paint_face(generator, canvas, dial, gauge, (face, ink), font, family.units, lit)
    paint_needle(generator, canvas, family, gauge, face, lit)
    pixels = cv2.resize(canvas.pixels, (size, size), interpolation=cv2.INTER_AREA)
    glass = REFLECTIONS[str(generator.choice(family.reflections))] if generator.random() < 0.55 else None
    return photograph(generator, light_up(generator, pixels, gauge, glass, lit))


def cast_shadow(
    canvas: Canvas, polygons: Sequence[np.ndarray], offset: np.ndarray, softness: float, depth: float
) -> None:
    """Darken the canvas where polygons throw their shadow, moved by `offset`; softness is a dial-plane length."""
    coarse = SUPERSAMPLE
    height, width = canvas.pixels.shape[0] // coarse, canvas.pixels.shape[1] // coarse
    corners = project(np.diag([1 / coarse, 1 / coarse, 1]) @ canvas.matrix, np.concatenate(polygons) + offset)
    scale = math.sqrt(abs(np.linalg.det(canvas.matrix[:2, :2]))) / coarse
    sigma = max(0.6, softness * scale)
    left, top = np.clip(np.floor(corners.min(axis=0) - 3 * sigma), 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0) + 3 * sigma), [left + 1, top + 1], [width, height]).astype(int)
    mask = np.zeros((bottom - top, right - left), np.uint8)
    move = np.array([[1 / coarse, 0, -left], [0, 1 / coarse, -top], [0, 0, 1]])
    fill(Canvas(mask, move @ canvas.matrix), [polygon + offset for polygon in polygons], 255 * depth)
    mask = 255 - cv2.GaussianBlur(mask, (0, 0), sigma)
    region = canvas.pixels[top * coarse : bottom * coarse, left * coarse : right * coarse]
    mask = cv2.resize(mask, (region.shape[1], region.shape[0]))
    cv2.multiply(region, cv2.merge([mask, mask, mask]), region, 1 / 255)


def paint_case(generator: np.random.Generator, canvas: Canvas, case: Case, gauge: Gauge, lit: float) -> None:
    """The case: its rings, each with its own light, and its screws."""
    colour = pick(generator, case.colours)
    angles = around(len(gauge.outline))
    rim = np.linspace(0, 1, case.steps + 1)
    glass = polar(1.0, angles)
    fill(canvas, [gauge.outline], colour)
    for step in range(case.steps, 0, -1):
        outer = glass + rim[step] * (gauge.outline - glass)
        inner = glass + rim[step - 1] * (gauge.outline - glass)
        phase = lit + generator.uniform(-0.5, 0.5) + math.pi * (step % 2)
        lobes = np.cos(angles - phase) * (0.5 if case.lobes > 1 else 1)
        lobes = lobes + (np.cos(case.lobes * (angles - phase)) * 0.8 if case.lobes > 1 else 0)
        fan(canvas, inner, outer, shaded(colour, 1 + case.gloss * lobes))
        fill(canvas, [outer, outer * 0.992], shaded(colour, 0.45).tolist())
    if case.screws:
        places = around(case.screws) + math.pi / (case.screws if case.screws != 3 else 2)
        reach = np.hypot(*gauge.outline.T)[np.round(places / (2 * math.pi) * len(angles)).astype(int) % len(angles)]
        for place, radius in zip(places, reach, strict=True):
            at, width = polar((1 + float(radius)) / 2 + 0.01, place), 0.22 * (float(radius) - 1) + 0.008
            fill(canvas, [polar(width * 1.25, around(16)) + at], shaded(colour, 0.35).tolist())
            fill(canvas, [polar(width, around(16)) + at], shaded((150, 150, 150), generator.uniform(0.7, 1.3)).tolist())
            slot = polar(width, generator.uniform(0, 3))
            stroke(canvas, [np.stack([at - slot, at + slot])], width * 0.3, (50, 50, 50))


def paint_face(
    generator: np.random.Generator,
    canvas: Canvas,
    dial: Dial,
    gauge: Gauge,
    colours: tuple[Colour, Colour],
    font: Font,
    units: tuple[str, ...],
    lit: float,
) -> None:
    """The dial: face, coloured zones, rails, ticks, numerals and unit."""
    face, ink = colours
    angles = around(72)
    fill(canvas, [polar(1.0, angles)], face)
    if dial.sunburst:
        rays = 1 + dial.sunburst * (np.cos(2 * (angles - lit)) + 0.25 * generator.normal(0, 1, len(angles)))
        fan(canvas, np.zeros((72, 2)), polar(1.0, angles), shaded(face, rays))
    fill(canvas, [polar(1.0, angles), polar(0.975, angles)], shaded(face, 0.55).tolist())

    long = generator.uniform(0.09, 0.15)
    width = generator.uniform(0.010, 0.020)
    if dial.band:
        edges = np.sort(np.concatenate([[0, 1], generator.uniform(0.2, 0.95, 2)]))
        zones = ZONES if generator.random() < 0.7 else ZONES[::-1]
        outer, inner = (gauge.scale - long * share for share in dial.band)
        for zone, low, high in zip(zones, edges[:-1], edges[1:], strict=True):
            fill(canvas, [sector(outer, inner, gauge.angle(low), gauge.angle(high))], pick(generator, (zone,)))
    for drawn, radius in zip(dial.rails, (gauge.scale, gauge.scale - long), strict=True):
        if drawn:
            arc = sector(radius, radius - 0.8 * width, gauge.start, gauge.angle(1))
            fill(canvas, [arc], ink)

    majors, parts = int(generator.integers(4, 12)), int(generator.choice([1, 2, 4, 5]))
    parts = min(parts, max(1, int(60 * gauge.span / (2 * math.pi) / majors)))
    marks = np.arange(majors * parts + 1)
    major = marks % parts == 0
    directions = gauge.angle(marks / marks[-1])
    along, across = polar(1.0, directions)[:, None], polar(1.0, directions + math.pi / 2)[:, None]
    shape = np.array(TICKS[dial.tick], np.float64)
    lengths = np.where(major, long, long * generator.uniform(0.45, 0.65))[:, None, None]
    widths = np.where(major, width, width * 0.55)[:, None, None]
    fill(canvas, (gauge.scale - lengths * shape[:, :1]) * along + widths * shape[:, 1:] * across, ink)

    step = STEPS[generator.integers(len(STEPS))]
    first = -step * int(generator.integers(1, 3)) if generator.random() < 0.15 else 0
    texts = [f"{first + step * place:g}" for place in range(majors + 1)]
    letters = max(len(text) for text in texts) * (font.width + GAP)  # width of the longest text / its height
    reach = max(0.6, letters / 2)  # from the middle of a text to its edge / its height
    inner, outer = (gauge.scale + 0.02, 0.96) if dial.outside else (0.2, gauge.scale - long - 0.01)
    height = min(generator.uniform(0.11, 0.16), (outer - inner) / 2 / reach)
    radius = inner + reach * height if dial.outside else outer - reach * height
    room = radius * gauge.span / majors
    every = math.ceil(height * letters / room)
    lines: list[np.ndarray] = []
    for text, direction in list(zip(texts, directions[major].tolist(), strict=True))[::every]:
        lines += lettering(text, font, height, polar(radius, direction), direction + DOWN if dial.radial else 0.0)
    unit = units[generator.integers(len(units))]
    lines += lettering(unit, font, generator.uniform(0.09, 0.14), np.array([0, generator.uniform(0.3, 0.42)]))
    stroke(canvas, lines, font.weight * height, ink)


def paint_needle(
    generator: np.random.Generator, canvas: Canvas, family: Family, gauge: Gauge, face: Colour, lit: float
) -> None:
    """The needle with its shadow, and the hub on top."""
    colours = [colour for colour in family.accents if contrast(colour, face) > 70]
    colour = pick(generator, colours, 8)
    half = np.array(NEEDLES[family.needles[generator.integers(len(family.needles))]], np.float64)
    half = half * (gauge.reach, generator.uniform(0.022, 0.038))
    direction = gauge.angle(gauge.reading)
    frame = np.stack([polar(1.0, direction), polar(1.0, direction + math.pi / 2)])
    left, right = half @ frame, (half * (1, -1))[::-1] @ frame
    outline = np.concatenate([left, right])
    spine = np.stack([half[-1], half[0]]) * (1, 0) @ frame
    hub = polar(generator.uniform(0.06, 0.13), around(28))
    raised = polar(generator.uniform(0.01, 0.05), lit + math.pi)
    cast_shadow(canvas, [outline], raised, 0.015, generator.uniform(0.3, 0.6))
    cast_shadow(canvas, [hub], raised, 0.02, 0.5)
    fill(canvas, [outline], colour)
    fill(canvas, [np.concatenate([left, spine])], shaded(colour, generator.uniform(0.7, 1.3)).tolist())
    cap = colour if generator.random() < 0.3 else pick(generator, ((30, 30, 32), (170, 172, 176), (184, 148, 80)))
    fill(canvas, [hub], cap)
    fan(canvas, 0.55 * hub, 0.92 * hub, shaded(cap, 1 + 0.35 * np.cos(around(28) - lit)))
    if generator.random() < 0.4:
        slot = 0.45 * hub[int(generator.integers(28))]
        stroke(canvas, [np.stack([-slot, slot])], 0.015, shaded(cap, 0.4).tolist())


def light_up(
    generator: np.random.Generator,
    pixels: np.ndarray,
    gauge: Gauge,
    glass: Callable[[np.random.Generator], list[np.ndarray]] | None,
    lit: float,
) -> np.ndarray:
    """The picture (H, W, 3) as float32 under uneven light, with the rim's shadow and a reflection on the glass."""
    size = gauge.size
    coarse = -(-size // COARSE)
    rim = polar(1.0, around(48))
    masks = [np.zeros((coarse, coarse), np.uint8) for _ in range(3)]
    inside, sunlit, mirrored = (canvas_of(mask, gauge.matrix, coarse / size) for mask in masks)
    fill(inside, [rim], 255)
    fill(sunlit, [rim + polar(generator.uniform(0, 0.16), lit + math.pi)], 255)
    light = 1 + np.float32(generator.uniform(0, 0.3)) * noise(generator, coarse, (2, 2))
    shade = np.float32(generator.uniform(0, 0.5) / 255) * cv2.subtract(inside.pixels, sunlit.pixels)
    light = light * (1 - cv2.GaussianBlur(shade, (0, 0), 1.0))
    picture = cv2.multiply(pixels, spread(light, size), dtype=cv2.CV_32F)
    if glass is None:
        return picture
    turn = generator.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    fill(mirrored, [polygon @ rotation for polygon in glass(generator)], 255)
    gleam = cv2.GaussianBlur(cv2.min(mirrored.pixels, inside.pixels), (0, 0), generator.uniform(0.5, 2.5))
    gleam = spread(gleam.astype(np.float32) * np.float32(generator.uniform(0.15, 0.65) / 255), size)
    picture += cv2.multiply(255 - picture, gleam)
    return picture


def spread(light: np.ndarray, size: int) -> np.ndarray:
    """A coarse map (h, w) float32, enlarged to a picture (size, size, 3)."""
    light = cv2.resize(light, (size, size))
    return cv2.merge([light, light, light])


def photograph(generator: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """The float32 picture as a camera records it, uint8: white balance, contrast, blur, motion, grain."""
    size = len(picture)
    gain = generator.uniform(0.7, 1.12) * generator.uniform(0.94, 1.06, 3)
    level = generator.uniform(0, 26)
    picture = cv2.transform(picture, np.column_stack([np.diag(gain * (1 - level / 255)), np.full(3, level)]))
    sigma = generator.uniform(0, 1.1) * size / 192
    if sigma > 0.35:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    if generator.random() < 0.15:
        length = 2 * int(generator.integers(1, 3)) + 1
        kernel = np.zeros((length, length), np.float32)
        reach = polar((length - 1) / 2, generator.uniform(0, math.pi))
        ends = np.round((length - 1) / 2 + np.stack([-reach, reach])).astype(int).tolist()
        cv2.line(kernel, ends[0], ends[1], 1.0)
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    grain = generator.standard_normal((size, size), np.float32) * np.float32(generator.uniform(0, 7))
    return cv2.add(picture, cv2.merge([grain, grain, grain]), dtype=cv2.CV_8U)
