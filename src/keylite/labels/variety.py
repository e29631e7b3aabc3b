"""Choosing pictures that a model is unsure of, and that differ from each other and from those that are labelled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keylite.data.likeness import alike_to, small_vectors
from keylite.runtime.keypoints import Keypoints

CANDIDATES = 10_000  # pictures that are chosen from; of more, so many are drawn at random
AUDIENCE = 4_000  # pictures that a choice is to come near to, as for CANDIDATES
SEED = 0  # of these draws


class Seen(NamedTuple):
    """What is seen in M pictures.

    Attributes:
        likeness: (M,) LIKENESS, how each looks as a whole.
        outline: (M, 2K) how the points of its least sure object lie; see `outline_of`.
        doubt: (M,) how unsure the model is of that object: larger is less sure, and only the order counts.
    """

    likeness: np.ndarray
    outline: np.ndarray
    doubt: np.ndarray


def doubt_of(points: Keypoints) -> np.ndarray:
    """(N,) how unsure a model is of each object: its mean sigma as a share of the longer side of its box.

    Without sigma, the mean score, which is negative so that larger is less sure; without scores, 0.
    """
    side = (points.boxes[:, 2:] - points.boxes[:, :2]).max(axis=1)
    sigma, score = _means(points.sigma), _means(points.score)
    return np.where(np.isfinite(sigma), sigma / side, np.where(np.isfinite(score), -score, 0.0))


def _means(values: np.ndarray) -> np.ndarray:
    """(N,) the mean of the finite values of each row; NaN if it has none."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    return np.divide(np.where(known, values, 0).sum(axis=1), counts, out=np.full(len(values), np.nan), where=counts > 0)


def outline_of(xy: np.ndarray) -> np.ndarray:
    """(2K,) how points (K, 2) lie, whatever the place and size of the object: relative to their mean, of length 1."""
    known = np.isfinite(xy).all(axis=1, keepdims=True)
    count = max(int(known.sum()), 1)
    centred = np.where(known, xy - np.where(known, xy, 0).sum(axis=0) / count, 0).ravel()
    return centred / max(float(np.linalg.norm(centred)), np.finfo(float).tiny)


def chosen_rows(pool: Seen, known: Seen | None, count: int) -> list[int]:
    """Numbers of at most `count` pictures of the pool, the one that was chosen first, first.

    Each choice brings the pictures of the pool nearest to a labelled or a chosen one, where pictures count by their
    doubt (greedy facility location). So it is unlike what is labelled, and like many pictures that the model is unsure
    of. A picture that is nearly equal to one that was chosen before is never chosen.

    known: what is labelled already.
    """
    places = _places(pool, known)
    own, labelled = places[: len(pool.doubt)], places[len(pool.doubt) :]
    rows, audience = _some(len(own), CANDIDATES), _some(len(own), AUDIENCE)
    apart = _distances(own[audience], own[rows])
    nearest = _distances(own[audience], labelled).min(axis=1) if len(labelled) else apart.max(axis=1)
    doubt = _ranks(pool.doubt)[audience]
    open_rows = np.ones(len(rows), bool)
    found: list[int] = []
    while len(found) < count and open_rows.any():
        gain = np.maximum(nearest[:, None] - apart, 0).T @ doubt
        best = int(np.argmax(np.where(open_rows, gain, -1)))
        found.append(int(rows[best]))
        open_rows &= ~alike_to(pool.likeness[rows], pool.likeness[rows[best]])
        nearest = np.minimum(nearest, apart[:, best])
    return found


def _places(pool: Seen, known: Seen | None) -> np.ndarray:
    """(M, D) float32: where pictures lie, those of the pool first, so that unlike ones are far apart.

    How a picture looks and how its points lie count alike: the mean square of each is 1.
    """
    both = [pool] if known is None else [pool, known]
    looks = small_vectors(np.concatenate([one.likeness for one in both]))
    outlines = np.concatenate([one.outline for one in both])
    return np.concatenate([_scaled(looks), _scaled(outlines)], axis=1).astype(np.float32)


def _scaled(values: np.ndarray) -> np.ndarray:
    """(M, D) relative to the mean, with a mean square of 1."""
    values = values - values.mean(axis=0)
    return values / max(float(np.sqrt(np.square(values).sum(axis=1).mean())), np.finfo(np.float32).tiny)


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(A, B) the distances between rows."""
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2 * first @ second.T
    return np.sqrt(np.maximum(squares, 0))


def _ranks(values: np.ndarray) -> np.ndarray:
    """(M,) the share of values that are at most this one: above 0 and up to 1; equal values have equal shares."""
    return (np.searchsorted(np.sort(values), values, side="right") / len(values)).astype(np.float32)


def _some(count: int, most: int) -> np.ndarray:
    """Numbers from 0 to count - 1, in order: all of them, or `most` drawn at random."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))
