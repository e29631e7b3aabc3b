"""The usual shape of a data set's objects, and how far an object is from it.

Points are complex numbers x + iy (N, K), image px, 0 if unlabelled, with a mask (N, K) of the labelled ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

MOST_FACTORS = 10  # ways in which all points of an object move together


def as_complex(xy: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Points (N, K, 2) as x + iy (N, K), 0 if unlabelled."""
    return np.where(labelled, xy[..., 0] + 1j * xy[..., 1], 0)


@dataclasses.dataclass(frozen=True)
class Shape:
    """How objects look, apart from shift, turn and scale.

    Attributes:
        mean: (K,) complex, the mean shape.
        weight: (K,) the weight of each point when objects are aligned.
        spread: (K,) the standard deviation of each aligned point.
        factors: (2K, q) the common part of the covariance of aligned points divided by their spread; the whole
            covariance is factors @ factors.T + diag(noise).
        noise: (2K,) the rest of the variance of each coordinate.
    """

    mean: np.ndarray
    weight: np.ndarray
    spread: np.ndarray
    factors: np.ndarray
    noise: np.ndarray


def aligned(z: np.ndarray, mask: np.ndarray, mean: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objects laid onto the mean shape by shift, turn and scale, with the least weighted squared distance.

    Returned are the points (N, K) and, as one complex number per object, the turn and scale (N,).
    """
    w = mask * weight
    total = np.maximum(w.sum(axis=1, keepdims=True), 1e-12)
    centred = (z - (w * z).sum(axis=1, keepdims=True) / total) * mask
    middle = (w * mean).sum(axis=1, keepdims=True) / total
    size = np.maximum((w * np.abs(centred) ** 2).sum(axis=1), 1e-12)
    turn = (w * centred.conj() * (mean - middle)).sum(axis=1) / size
    return (turn[:, None] * centred + middle) * mask, turn


def shape_of(z: np.ndarray, mask: np.ndarray, most: int = MOST_FACTORS) -> Shape:
    """Fit a Shape to objects: generalised Procrustes analysis, then a factor model that allows for missing points.

    most: of the factors; there are fewer if objects or keypoints are few.
    """
    count = z.shape[1]
    labels = mask.sum(axis=0)
    first = int(np.argmax(mask.sum(axis=1)))
    mean, weight = z[first], mask[first].astype(np.float64)
    for step in range(12):
        centre = (weight * mean).sum() / weight.sum()
        mean = (mean - centre) / max(np.sqrt((weight * np.abs(mean - centre) ** 2).sum() / weight.sum()), 1e-12)
        points, _ = aligned(z, mask, mean, weight)
        # Objects that have too few points in common with the reference cannot be laid onto it yet.
        ready = mask & ((mask * (weight > 0)).sum(axis=1) >= min(count, 2))[:, None]
        seen = ready.sum(axis=0)
        mean = np.where(seen > 0, (points * ready).sum(axis=0) / np.maximum(seen, 1), mean)
        variance = (np.abs(points - mean) ** 2 * ready).sum(axis=0) / np.maximum(seen, 1)
        if step < 4:
            weight = (seen > 0).astype(np.float64)
        else:  # points that move freely (a needle's tip) count less; the median limits the weight of the steadiest ones
            weight = np.where(seen > 0, 1 / (variance + np.median(variance) + 1e-6), 0)
            weight /= weight.mean()
    points, _ = aligned(z, mask, mean, weight)
    residual = (points - mean) * mask
    spread = np.sqrt((np.abs(residual) ** 2).sum(axis=0) / (2 * labels))
    spread = np.maximum(spread, 0.05 * np.median(spread) + 1e-4)
    flat, flat_mask = _flat(residual / spread), np.concatenate([mask, mask], axis=1).astype(np.float64)
    rank = max(min(count - 2, len(z) // 12, most), 0)
    factors, noise = np.zeros((2 * count, 0)), np.maximum((flat**2).sum(axis=0) / flat_mask.sum(axis=0), 1e-3)
    for _ in range(6 if rank else 0):
        _, expected = whiten(flat, flat_mask, factors, noise)
        filled = np.where(flat_mask > 0, flat, expected)
        values, vectors = np.linalg.eigh(filled.T @ filled / len(filled))
        floor = max(values[:-rank].mean(), 0)
        factors = vectors[:, -rank:] * np.sqrt(np.maximum(values[-rank:] - floor, 0))
        noise = (((flat - filled @ vectors[:, -rank:] @ vectors[:, -rank:].T) * flat_mask) ** 2).sum(axis=0)
        noise = noise / flat_mask.sum(axis=0)
        noise = noise * 0.9 + max(0.1 * noise.mean(), 1e-3)
    return Shape(mean, weight, spread, factors, noise)


def _flat(z: np.ndarray) -> np.ndarray:
    """Complex points (N, K) as real numbers (N, 2K): first all x, then all y."""
    return np.concatenate([np.real(z), np.imag(z)], axis=1)


def whiten(flat: np.ndarray, mask: np.ndarray, factors: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse covariance times the residuals `flat`, and the residuals that the labelled points predict.

    Both are (N, 2K).
    """
    rank = factors.shape[1]
    if rank == 0:
        return mask * flat / noise, np.zeros_like(flat)
    scaled = factors / noise[:, None]
    if mask.all():  # the common case, which is much faster, because one matrix serves every object
        expected = flat @ scaled @ np.linalg.inv(scaled.T @ factors + np.eye(rank)) @ factors.T
        return (flat - expected) / noise, expected
    outer = (scaled[:, :, None] * factors[:, None, :]).reshape(-1, rank * rank)
    inner = (mask @ outer).reshape(-1, rank, rank) + np.eye(rank)
    expected = np.linalg.solve(inner, (flat * mask @ scaled)[..., None])[..., 0] @ factors.T
    return mask * (flat - expected) / noise, expected


def misfit_of(shape: Shape, z: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far objects are from the usual shape, about 1 for a usual one.

    Returned are the misfit of each object (N,), that of each point (N, K), and the turn and scale (N,) of `aligned`.
    """
    points, turn = aligned(z, mask, shape.mean, shape.weight)
    flat = _flat((points - shape.mean) * mask / shape.spread)
    pull, _ = whiten(flat, np.concatenate([mask, mask], axis=1).astype(np.float64), shape.factors, shape.noise)
    freedom = np.maximum(2 * mask.sum(axis=1) - 4, 1)
    count = z.shape[1]
    misfit = np.sqrt(np.maximum((flat * pull).sum(axis=1), 0) / freedom + 0.01)
    return misfit, np.hypot(pull[:, :count], pull[:, count:]), turn


def mirrored(z: np.ndarray, mask: np.ndarray, permutation: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Points and mask of objects that are flipped from left to right and permuted."""
    order = list(permutation)
    return -z.conj()[:, order], mask[:, order]
