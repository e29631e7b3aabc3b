"""Reliability: ranks, tenths and halves on made-up errors whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from keylite.evaluation.reliability import FEWEST, halves, no_halves, reliability_of, reliability_words

N, K = 300, 5
GROUPS = np.arange(N) // 10


def made_up(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(sigma, error) of points whose errors have that mean, by object and by keypoint."""
    generator = np.random.default_rng(seed)
    sigma = np.exp(generator.normal(0, 0.5, (N, 1))) * np.linspace(1, 2, K)
    return sigma, sigma * generator.rayleigh(np.sqrt(2 / np.pi), (N, K))


def test_an_honest_sigma_holds_in_every_tenth():
    sigma, error = made_up()
    found = reliability_of(sigma, error, GROUPS)
    assert found.count == N * K == sum(decile.count for decile in found.deciles)
    assert len(found.deciles) == 10
    assert abs(found.worst) < 0.15  # 150 Rayleigh errors a tenth: the mean of each is within 4 % (1 sigma)
    for decile in found.deciles:
        assert decile.interval[0] < decile.sigma < decile.interval[1]
    assert [d.sigma for d in found.deciles] == sorted(d.sigma for d in found.deciles)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_sigma_that_flatters_or_frightens_is_told(factor: float):
    sigma, error = made_up()
    found = reliability_of(factor * sigma, error, GROUPS)
    assert found.worst == pytest.approx(1 / factor - 1, abs=0.3)
    way = "larger" if factor < 1 else "smaller"
    assert f", errors are {abs(100 * found.worst):.0f} % {way} than it says" in reliability_words(found)


def test_ranks_are_scipys():
    sigma, error = made_up(1)
    sigma = np.round(sigma, 1)  # with ties
    error[3, 2] = sigma[7, 1] = np.nan
    found = reliability_of(sigma, error, GROUPS)
    known = np.isfinite(sigma) & np.isfinite(error)
    assert found.spearman == pytest.approx(spearmanr(sigma[known], error[known])[0], abs=1e-12)
    each = [spearmanr(sigma[known[:, k], k], error[known[:, k], k])[0] for k in range(K)]
    assert found.within == pytest.approx(np.median(each), abs=1e-12)
    means = np.broadcast_to(np.nanmean(np.where(known, error, np.nan), axis=0), error.shape)
    assert found.constant == pytest.approx(spearmanr(means[known], error[known])[0], abs=1e-12)


def test_what_does_not_vary_has_no_ranks():
    _, error = made_up()
    found = reliability_of(np.ones((N, K)), error, GROUPS)
    assert (found.spearman, found.within) == (None, None)
    assert found.constant is not None
    assert reliability_words(found).startswith("its rank correlation with the errors is not known, and where ")


def test_ranks_of_three_points_and_of_none_that_promise():
    found = reliability_of(np.array([[1.0], [2], [3]]), np.array([[1.0], [3], [2]]), np.arange(3))
    assert found.spearman == pytest.approx(0.5)
    assert reliability_of(np.array([[1.0], [2]]), np.array([[1.0], [3]]), np.arange(2)).spearman is None
    assert reliability_of(np.zeros((3, 1)), np.ones((3, 1)), np.arange(3)).worst == 0


def test_a_perfect_sigma_in_words():
    sigma, _ = made_up()
    words = "its rank correlation with the errors is 1.00 (1: perfect, 0: none), and errors are as large as it says"
    assert reliability_words(reliability_of(sigma, sigma, GROUPS)) == words


def test_no_sigma_no_reliability():
    _, error = made_up()
    assert reliability_of(np.full((N, K), np.nan), error, GROUPS) is None


def test_few_groups_have_no_interval():
    sigma, error = made_up()
    assert reliability_of(sigma, error, np.zeros(N, np.int64)).deciles[0].interval is None


HALVES = {
    "one an object": np.arange(100),
    "of tens": np.arange(100) // 10,
    "one large group": np.repeat([0, 1, 2, 3], [70, 10, 10, 10]),
    "two": np.repeat([0, 1], [85, 15]),
    "ten in one half": np.repeat([0, 1], [41, 10]),
    "just enough": np.arange(FEWEST) % 7,
}


@pytest.mark.parametrize("groups", HALVES.values(), ids=HALVES)
def test_halves_share_no_group(groups: np.ndarray):
    fit, judge = halves(groups)
    assert not set(groups[fit]) & set(groups[judge])
    assert sorted([*fit, *judge]) == list(range(len(groups)))
    assert min(len(fit), len(judge)) > 0
    if np.bincount(groups).max() <= len(groups) / 5:
        assert abs(len(fit) - len(judge)) <= 2 * np.bincount(groups).max()


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        (np.arange(FEWEST - 1), "49 labelled objects, and 50 are needed"),
        (np.zeros(FEWEST, np.int64), "of one group"),
        (np.repeat([0, 1], [91, 9]), "one group holds nearly all"),
        (np.repeat([0, 1], [9, 91]), "one group holds nearly all"),
    ],
    ids=["too few", "one group", "a large one", "a large one last"],
)
def test_where_there_are_no_halves_it_says_why(groups: np.ndarray, why: str):
    assert halves(groups) is None
    assert why in no_halves(groups)
