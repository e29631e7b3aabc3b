"""A single wrong point is seen beside the other points of its object; against a regression that is written out."""

from __future__ import annotations

import numpy as np

from keylite.labels.surprise import NEAR, surprise_of

POINTS = 6


def errors_of(count: int, together: float, seed: int = 0) -> np.ndarray:
    """Errors (count, POINTS) of which this share of the variance is the object's own; their median is about 1."""
    generator = np.random.default_rng(seed)
    normal = generator.normal(size=(count, POINTS, 2)) * np.sqrt(1 - together)
    normal += generator.normal(size=(count, 1, 2)) * np.sqrt(together)
    return (normal[..., 0] + 1j * normal[..., 1]) / np.sqrt(2 * np.log(2))


def test_a_point_is_seen_that_leaves_its_object():
    errors = errors_of(400, together=0.9)
    plain = np.sort(np.abs(errors).max(axis=1))
    errors[7, 2] += 3
    times = surprise_of(errors).times
    assert np.abs(errors[7]).max() < plain[-1]  # by its error alone the object is not the most unlikely
    assert np.unravel_index(times.argmax(), times.shape) == (7, 2)
    assert times[7, 2] > 5 > 1.25 * np.delete(times, 7, axis=0).max()


def test_errors_that_do_not_go_together_stay_as_they_are():
    errors = errors_of(2_000, together=0)
    surprise = surprise_of(errors)
    small = np.abs(errors) < NEAR
    assert np.allclose(surprise.distance[small], np.abs(errors)[small], atol=0.35)
    assert abs(np.median(surprise.times) - 1) < 0.05


def test_what_is_left_is_a_regression_on_the_other_points():
    errors = errors_of(60, together=0.5) / 3  # none is too large to count in full
    values = np.concatenate([errors.real, errors.imag], axis=1)
    together = values.T @ values / len(errors)
    trust = len(errors) / (len(errors) + 2 * POINTS)
    covariance = trust * together + (1 - trust) * np.diag(np.diag(together)) + 1e-6 * np.eye(2 * POINTS)
    own = [4, 4 + POINTS]
    rest = [axis for axis in range(2 * POINTS) if axis not in own]
    slopes = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[np.ix_(rest, own)])
    left = values[:, own] - values[:, rest] @ slopes
    assert np.abs(errors).max() < NEAR
    assert np.allclose(surprise_of(errors).distance[:, 4], np.hypot(*left.T), atol=1e-9)


def test_a_hard_object_is_less_surprising():
    errors = errors_of(400, together=0)
    before = surprise_of(errors).times[7].max()
    errors[7] *= 2.5
    assert surprise_of(errors).times[7].max() < 1.6 * before


def test_unknown_points_stay_unknown_and_tell_nothing():
    errors = errors_of(200, together=0.9)
    errors[3, 1:] = errors[4] = errors[5, 2] = np.nan
    surprise = surprise_of(errors)
    assert (np.isnan(surprise.times) == np.isnan(errors)).all()
    assert np.isclose(surprise.distance[3, 0], abs(errors[3, 0]), rtol=1e-6)  # nothing tells where it should be
    errors[:, 5] = np.nan
    assert np.isnan(surprise_of(errors).times[:, 5]).all()
    assert surprise_of(np.full((2, 3), np.nan + 0j)).times.shape == (2, 3)
