"""Backgrounds of the gauges: walls, wood, machines, pipes, cables and lights.

Each background is a function (generator, size) -> uint8 (size, size, 3) RGB.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from keylite.data.rendered.looks import Colour

SHIFT = 5  # fractional bits of the fixed-point coordinates that cv2 draws with


def shaded(colour: Colour, light: float | np.ndarray) -> np.ndarray:
    """A colour (3,), or one per light (P, 3): darker if `light` is below 1, towards white if it is above."""
    light = np.asarray(light, np.float64)[..., None]
    base = np.asarray(colour, np.float64)
    return np.where(light <= 1, base * light, base + (255 - base) * (np.minimum(light, 2) - 1))


def noise(generator: np.random.Generator, size: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise (size, size) float32, about -1 to 1, that varies from cell to cell; cells: (across, down)."""
    grid = generator.uniform(-1, 1, (cells[1], cells[0])).astype(np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def drab(generator: np.random.Generator) -> np.ndarray:
    """A random dull colour (3,), such as walls and machines have."""
    grey = generator.uniform(35, 205)
    return np.clip(grey * (1 + generator.uniform(0, 0.2) * generator.normal(0, 1, 3)), 8, 247)


def modulated(colour: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A colour (3,) times a map of light (H, W): uint8 (H, W, 3)."""
    return cv2.convertScaleAbs(cv2.merge([light * np.float32(c) for c in colour]))


def plaster(generator: np.random.Generator, size: int) -> np.ndarray:
    light = 1 + 0.2 * noise(generator, size, (3, 3)) + 0.07 * noise(generator, size, (24, 24))
    return modulated(drab(generator), light + 0.05 * noise(generator, size, (90, 90)))


def planks(generator: np.random.Generator, size: int) -> np.ndarray:
    count = int(generator.integers(3, 9))
    light = 1 + 0.12 * noise(generator, size, (50, 3)) + 0.06 * noise(generator, size, (110, 5))
    across = np.arange(size) * count / size
    light = light * (0.8 + 0.4 * generator.random(count + 1, np.float32))[across.astype(int)]
    light[:, across % 1 < 0.035] *= 0.4
    warm = np.array([1.15, 0.95, 0.72]) * generator.uniform(70, 190)
    return modulated(warm, light if generator.random() < 0.5 else light.T)


def machinery(generator: np.random.Generator, size: int) -> np.ndarray:
    pixels = plaster(generator, size)
    for _ in range(int(generator.integers(6, 18))):
        x, y = generator.integers(-size // 4, size, 2).tolist()
        w, h = generator.integers(size // 12, size // 2, 2).tolist()
        colour = drab(generator)
        cv2.rectangle(pixels, (x + 2, y + 3), (x + w + 3, y + h + 4), (colour * 0.3).tolist(), -1)
        cv2.rectangle(pixels, (x, y), (x + w, y + h), colour.tolist(), -1)
        cv2.line(pixels, (x, y), (x + w, y), shaded(tuple(colour), 1.35).tolist(), 1)
    return pixels


def pipes(generator: np.random.Generator, size: int) -> np.ndarray:
    pixels = plaster(generator, size).astype(np.float32)
    for _ in range(int(generator.integers(2, 6))):
        width = int(generator.integers(size // 14, size // 4))
        left = int(generator.integers(-width // 2, size - width // 2))
        profile = np.sin(np.linspace(0.15, math.pi - 0.05, width)) ** 0.8 * 0.95 + 0.12
        profile[int(width * 0.3) : int(width * 0.42)] *= generator.uniform(1.0, 1.5)
        first, last = max(left, 0), min(left + width, size)
        pixels[:, first:last] = profile[first - left : last - left, None] * drab(generator)
        pixels[:, last : last + width // 4] *= 0.6
    pixels = cv2.convertScaleAbs(pixels)
    return pixels if generator.random() < 0.5 else np.ascontiguousarray(pixels.swapaxes(0, 1))


def tiles(generator: np.random.Generator, size: int) -> np.ndarray:
    rows = int(generator.integers(3, 9))
    columns = rows if generator.random() < 0.5 else max(2, rows // 2)
    y, x = np.arange(size) * rows / size, np.arange(size) * columns / size
    x = x[None] + 0.5 * (y.astype(int)[:, None] % 2) * (columns != rows)
    y = np.broadcast_to(y[:, None], x.shape) if x.shape[0] == size else y[:, None] + 0 * x
    x = np.broadcast_to(x, (size, size))
    shades = 1 + generator.uniform(0.02, 0.15) * generator.uniform(-1, 1, (rows, columns + 1))
    light = shades[y.astype(int), x.astype(int)].astype(np.float32)
    joint = (x % 1 < 0.04) | (y % 1 < 0.05)
    light = np.where(joint, np.float32(generator.uniform(0.45, 1.3)), light)
    return modulated(drab(generator), light * (1 + 0.15 * noise(generator, size, (3, 3))))


def treadplate(generator: np.random.Generator, size: int) -> np.ndarray:
    pixels = plaster(generator, size)
    pitch = size / generator.uniform(7, 14)
    base = pixels.mean(axis=(0, 1))
    rows = int(size / pitch) + 2
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(rows)), axis=-1).reshape(-1, 2)
    lean = np.where((grid.sum(axis=1) % 2)[:, None] == 0, [[0.34, 0.34]], [[0.34, -0.34]])
    for offset, light in ((0.12, 0.55), (0.0, 1.4)):
        ends = np.stack([grid - lean + offset, grid + lean + offset], axis=1) * pitch
        lines = list(np.round(ends * 2**SHIFT).astype(np.int32))
        colour = shaded(tuple(base), light).tolist()
        cv2.polylines(pixels, lines, False, colour, max(2, int(pitch / 7)), cv2.LINE_AA, SHIFT)
    return pixels


def cables(generator: np.random.Generator, size: int) -> np.ndarray:
    pixels = plaster(generator, size)
    along = np.linspace(-0.1, 1.1, 24) * size
    for _ in range(int(generator.integers(3, 10))):
        bend = generator.normal(0, 0.12 * size, 3)
        across = generator.uniform(0, size) + bend[0] * np.sin(along / size * math.pi * generator.uniform(0.5, 2.5))
        across = across + bend[1] * along / size
        line = np.stack([along, across] if generator.random() < 0.5 else [across, along], axis=1)
        colour, width = drab(generator), int(generator.integers(max(2, size // 60), max(3, size // 18)))
        for offset, light, thickness in ((width * 0.3, 0.25, width + 2), (0, 1.0, width), (-width * 0.25, 1.45, 1)):
            fixed = np.round((line + offset) * 2**SHIFT).astype(np.int32)
            paint = shaded(tuple(colour), light).tolist()
            cv2.polylines(pixels, [fixed], False, paint, thickness, cv2.LINE_AA, SHIFT)
    return pixels


def lights(generator: np.random.Generator, size: int) -> np.ndarray:
    pixels = modulated(drab(generator) * 0.45, 1 + 0.3 * noise(generator, size, (4, 4)))
    for _ in range(int(generator.integers(8, 26))):
        place = generator.integers(0, size, 2).tolist()
        radius = int(generator.integers(max(2, size // 50), max(3, size // 9)))
        layer = cv2.circle(np.zeros_like(pixels), place, radius, (drab(generator) * 0.7).tolist(), -1, cv2.LINE_AA)
        pixels = cv2.add(pixels, layer)
    return cv2.GaussianBlur(pixels, (0, 0), size / 90)


BACKGROUNDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "plaster": plaster,
    "planks": planks,
    "machinery": machinery,
    "pipes": pipes,
    "tiles": tiles,
    "treadplate": treadplate,
    "cables": cables,
    "lights": lights,
}
