"""How far each point lies from where a prediction and the other points of its object together put it.

The labels of an object err together: a person sets a whole contour a little further out, a model finds a whole face a
little too low. So the errors of the other points say much about the error of one, and what is left shows a single wrong
point far better than its error alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NEAR = 3.0  # usual errors: an error beyond tells the other points no more than one of this length
OWN = 4  # points: with fewer, an object's own spread counts less than the usual one
MEAN_SQUARE = 1.44  # of errors in two directions that are normal, in units of their median: 1 / ln 2
LEAST = 0.05  # usual errors that are left: less is none
LEAST_SPREAD = 0.5  # of an object, relative to the usual one


class Surprise(NamedTuple):
    """How far points lie from where predictions and the other points of their objects put them.

    Attributes:
        distance: (N, K) in usual errors of the keypoint, as the errors were given; NaN if unknown.
        times: (N, K) relative to what is usual for the keypoint and for the object; NaN if unknown.
    """

    distance: np.ndarray
    times: np.ndarray


def surprise_of(errors: np.ndarray) -> Surprise:
    """The surprise of each point. An object whose points all lie far off is hard as a whole, so its `times` are less.

    errors: (N, K) complex, from predictions to labels, in usual errors of the keypoint; NaN if unknown.
    """
    left = np.abs(_given_others(errors))
    seen = np.isfinite(left)
    usual = np.array([np.median(one[known]) if known.any() else 1.0 for one, known in zip(left.T, seen.T, strict=True)])
    times = left / np.maximum(usual, LEAST)
    squares = np.where(seen, np.minimum(times, NEAR) ** 2, 0)
    others = squares.sum(axis=1, keepdims=True) - squares
    count = seen.sum(axis=1, keepdims=True) - seen
    spread = np.sqrt((OWN * MEAN_SQUARE + others) / (OWN + count) / MEAN_SQUARE)
    return Surprise(left, times / np.maximum(spread, LEAST_SPREAD))


def _given_others(errors: np.ndarray) -> np.ndarray:
    """(N, K) complex: the errors less what the other errors of the object let one expect (a linear regression)."""
    count, keypoints = errors.shape
    known = np.isfinite(errors)
    own = np.where(known, errors, 0)
    held = own * np.minimum(1, NEAR / np.maximum(np.abs(own), NEAR))
    values = np.concatenate([np.real(held), np.imag(held)], axis=1)
    together = values.T @ values / max(count, 1)
    trust = count / (count + 2 * keypoints)  # few objects say little of how errors go together
    covariance = trust * together + (1 - trust) * np.diag(np.diag(together)) + 1e-6 * np.eye(2 * keypoints)
    left = np.full(errors.shape, np.nan, complex)
    patterns, of_pattern, sizes = np.unique(known, axis=0, return_inverse=True, return_counts=True)
    of_each = np.split(np.argsort(of_pattern.ravel(), kind="stable"), np.cumsum(sizes)[:-1])
    for pattern, rows in zip(patterns, of_each, strict=True):
        points = np.flatnonzero(pattern)
        if not len(points):
            continue
        axes = np.concatenate([points, points + keypoints])
        precision = np.linalg.inv(covariance[np.ix_(axes, axes)])
        pulls = (values[np.ix_(rows, axes)] @ precision).reshape(len(rows), 2, len(points))
        of_point = precision.reshape(2, len(points), 2, len(points))[:, range(len(points)), :, range(len(points))]
        apart = np.einsum("kij,rjk->rki", np.linalg.inv(of_point), pulls)
        left[np.ix_(rows, points)] = (own - held)[np.ix_(rows, points)] + apart[..., 0] + 1j * apart[..., 1]
    return left
