"""Rounding weights so that what a layer gives stays as it is: later weights make up for the errors of earlier ones.

Each output is a sum of weights times inputs. If one weight is rounded up, the sum grows with its input; weights of
inputs that go along with this one, and that are not rounded yet, can take that growth away. How inputs go along with
each other is measured on images.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023,
after Hassibi and Stork, "Optimal Brain Surgeon", 1993; there for dense layers, here also for depthwise ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

DAMPING = 0.01  # of the mean square of the inputs, added to each: it keeps changes of weights small
PLACES = 2**16  # of all images together, at which inputs are looked at


def compensated(kernel: np.ndarray, images: np.ndarray, stride: int, largest: float, per_channel: bool) -> np.ndarray:
    """A kernel (out, in, k, k), or (out, 1, k, k) of a depthwise layer, rounded to one scale, or to one per output.

    The largest weight of a scale stays as it is, so that the scale does. images: what the layer reads, (N, H, W, in).
    largest: how many steps the largest weight is.
    """
    sizes = np.abs(kernel).max((1, 2, 3), keepdims=True)
    step = np.maximum(sizes if per_channel else sizes.max(), np.finfo(np.float32).tiny) / largest
    depthwise = kernel.shape[1] == 1 and images.shape[3] == len(kernel)
    products = _products(images, kernel.shape[2], stride, depthwise)
    if not depthwise:
        found = _rounded((kernel / step).reshape(1, len(kernel), -1), products[None], largest)
    else:
        found = _rounded((kernel / step).reshape(len(kernel), 1, -1), products, largest)
    return found.reshape(kernel.shape) * step


def _products(images: np.ndarray, size: int, stride: int, depthwise: bool) -> np.ndarray:
    """Sums over places of the products of two inputs: (in k k, in k k), or per channel (in, k k, k k) if depthwise."""
    patches = _patches(images, size, stride)
    if depthwise:
        by_channel = patches.transpose(1, 2, 0)  # (in, k k, places)
        return by_channel @ by_channel.transpose(0, 2, 1)
    flat = patches.reshape(len(patches), -1)
    return flat.T @ flat


def _patches(images: np.ndarray, size: int, stride: int) -> np.ndarray:
    """(places, in, k k): what a kernel sees at each place, or at every n-th one."""
    count, height, width, channels = images.shape
    every = max(1, count * -(-height // stride) * -(-width // stride) // PLACES)
    seen = [part.reshape(-1, channels)[::every].astype(np.float64) for _, _, part in seen_by_taps(images, size, stride)]
    return np.stack(seen, axis=2)


def seen_by_taps(images: np.ndarray, size: int, stride: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each tap (row, column) of a kernel of this size: what it sees of the images, padded as 'SAME'.

    images: (N, H, W, in). Gives arrays (N, rows, columns, in), one value for each output.
    """
    sides = images.shape[1:3]
    rows, columns = (-(-side // stride) for side in sides)
    pads = [max((to - 1) * stride + size - side, 0) for to, side in zip((rows, columns), sides, strict=True)]
    padded = np.pad(images, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
    for y in range(size):
        for x in range(size):
            yield y, x, padded[:, y : y + (rows - 1) * stride + 1 : stride, x : x + (columns - 1) * stride + 1 : stride]


def _rounded(rows: np.ndarray, products: np.ndarray, largest: float) -> np.ndarray:
    """Rows of weights in steps, rounded one column after the other. rows: (C, R, D). products: (C, D, D).

    Columns are rounded in the order of their largest weight. A weight of `largest` steps stays as it is.
    """
    kept = np.abs(rows) >= largest * (1 - 1e-9)
    width = rows.shape[2]
    order = np.argsort(-np.abs(rows).max(axis=1), axis=1, kind="stable")
    rows, kept = (np.take_along_axis(each, order[:, None], axis=2) for each in (rows, kept))
    before = rows.copy()
    products = np.take_along_axis(np.take_along_axis(products, order[:, :, None], 1), order[:, None, :], 2)
    mean = np.einsum("cdd->c", products) / width
    damped = products + (DAMPING * mean + (mean == 0))[:, None, None] * np.eye(width)
    shares = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)  # upper: what later weights make up for
    found = np.empty_like(rows)
    for column in range(width):
        whole = np.clip(np.rint(rows[:, :, column]), -largest, largest)
        found[:, :, column] = np.where(kept[:, :, column], before[:, :, column], whole)
        error = (rows[:, :, column] - found[:, :, column]) / shares[:, column, column, None]
        rows[:, :, column + 1 :] -= error[:, :, None] * shares[:, None, column, column + 1 :]
    return np.take_along_axis(found, np.argsort(order, axis=1)[:, None], axis=2)
