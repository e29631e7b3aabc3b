"""Losses in px: the papers' closed forms, masks that hold, and numpy's figures for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")

from keylite.pytorch.losses import LOSSES, loss

SIZE = (128, 96)
DELTA, WIDTH, EPSILON = 1.5, 10.0, 2.0


def of_errors(name: str, x_errors: list[float], **thresholds: float) -> list[float]:
    """Losses of single points that are off by so many px in x and in y."""
    calculate = loss(name, SIZE, **thresholds)
    found = []
    for error in x_errors:
        truth = torch.full((1, 1, 2), 0.5, dtype=torch.float64)
        found.append(float(calculate(truth + error / torch.tensor(SIZE, dtype=torch.float64), truth)))
    return found


# Wing: equation 5 of Feng et al., w 10, epsilon 2. The others by hand: huber(1.5): .5 d^2 below, 1.5 (d - .75) above;
# soft_wing(1.5, 10, 2): d below, 10 ln(1 + d/2) + 1.5 - 10 ln 1.75 above.
CLOSED = {
    "wing": {0.01: 0.049875, 0.1: 0.487902, 0.5: 2.231436, 1: 4.054651, 5: 12.52763, 10: 17.917595, 20: 27.917595},
    "mse": {0: 0, 0.5: 0.25, 3: 9},
    "mae": {0: 0, 0.5: 0.5, 3: 3},
    "huber": {0: 0, 1: 0.5, 1.5: 1.125, 3: 3.375},
    "smooth_l1": {0: 0, 1: 1 / 3, 1.5: 0.75, 3: 2.25},
    "soft_wing": {0: 0, 1: 1, 1.5: 1.5, 3: 10 * math.log(2.5) + 1.5 - 10 * math.log(1.75)},
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name: str):
    errors, expected = CLOSED[name].keys(), list(CLOSED[name].values())
    for sign in (1, -1):
        found = of_errors(name, [sign * error for error in errors], delta=DELTA, width=WIDTH, epsilon=EPSILON)
        assert found == pytest.approx(expected, abs=1e-5)


def test_every_loss_has_a_closed_form():
    assert set(CLOSED) == set(LOSSES)


def reference(name: str, error: np.ndarray) -> np.ndarray:
    """Elementwise, in numpy, written from the papers."""
    size = np.abs(error)
    constant = WIDTH - WIDTH * np.log(1 + WIDTH / EPSILON)
    step = DELTA - WIDTH * np.log(1 + DELTA / EPSILON)
    return {
        "mse": size**2,
        "mae": size,
        "huber": np.where(size < DELTA, size**2 / 2, DELTA * (size - DELTA / 2)),
        "smooth_l1": np.where(size < DELTA, size**2 / 2 / DELTA, size - DELTA / 2),
        "wing": np.where(size < WIDTH, WIDTH * np.log(1 + size / EPSILON), size - constant),
        "soft_wing": np.where(size < DELTA, size, WIDTH * np.log(1 + size / EPSILON) + step),
    }[name]


def some_points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, truth with NaN, weights with 0 and parts: (5, 7, 2), (5, 7, 2), (5, 7)."""
    generator = np.random.default_rng(0)
    truth = generator.uniform(0, 1, (5, 7, 2))
    unit_xy = truth + generator.normal(0, 0.05, truth.shape)
    weight = generator.choice([0, 1, 0.5], (5, 7), p=[0.3, 0.5, 0.2])
    truth[generator.uniform(size=(5, 7)) < 0.2] = np.nan
    return unit_xy, truth, weight


@pytest.mark.parametrize("weighted", [True, False], ids=["weights", "no weights"])
@pytest.mark.parametrize("name", LOSSES)
def test_masked_means_are_numpys(name: str, weighted: bool):
    unit_xy, truth, weight = some_points()
    labelled = np.isfinite(truth).all(axis=2)
    used = weight * labelled if weighted else labelled.astype(float)
    per_point = reference(name, (unit_xy - np.where(np.isnan(truth), 0, truth)) * SIZE).mean(axis=2)
    expected = (used * per_point).sum() / used.sum()
    calculate = loss(name, SIZE, delta=DELTA, width=WIDTH, epsilon=EPSILON)
    tensors = [torch.from_numpy(a) for a in (unit_xy, truth, weight)]
    assert float(calculate(*tensors[: 3 if weighted else 2])) == pytest.approx(expected, rel=1e-9)
    total, count = calculate.sums(*tensors[: 3 if weighted else 2])
    assert float(total / count) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_a_point_without_weight_has_no_say_and_no_gradient(name: str):
    unit_xy, truth, weight = (torch.from_numpy(a) for a in some_points())
    unit_xy.requires_grad_()
    calculate = loss(name, SIZE)
    before = calculate(unit_xy, truth, weight)
    before.backward()
    silent = (weight == 0) | truth.isnan().any(dim=2)
    assert torch.isfinite(unit_xy.grad).all()
    assert (unit_xy.grad[silent] == 0).all()
    assert (unit_xy.grad[~silent] != 0).all()
    elsewhere = torch.where(silent.unsqueeze(-1), truth * 0 + 1e6, truth)
    assert calculate(unit_xy, elsewhere, weight).item() == before.item()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("why", ["NaN", "weight 0"])
def test_nothing_visible_gives_0_and_finite_gradients(name: str, why: str):
    unit_xy = torch.rand(2, 3, 2, requires_grad=True)
    truth = torch.full((2, 3, 2), math.nan) if why == "NaN" else torch.rand(2, 3, 2)
    result = loss(name, SIZE)(unit_xy, truth, torch.ones(2, 3) if why == "NaN" else torch.zeros(2, 3))
    result.backward()
    assert result.item() == 0
    assert (unit_xy.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_point_has_a_finite_gradient(name: str):
    unit_xy = torch.full((1, 1, 2), 0.3, requires_grad=True)
    loss(name, SIZE)(unit_xy, torch.full((1, 1, 2), 0.3)).backward()
    assert torch.isfinite(unit_xy.grad).all()


def test_fewer_than_one_point_is_not_a_mean():
    unit_xy, truth, weight = torch.zeros(1, 1, 2), torch.full((1, 1, 2), 0.5), torch.full((1, 1), 0.25)
    assert float(loss("mae", SIZE)(unit_xy, truth, weight)) == pytest.approx(0.25 * (64 + 48) / 2)


def test_sides_are_width_then_height():
    truth = torch.zeros(1, 1, 2)
    assert float(loss("mae", SIZE)(torch.tensor([[[0.5, 0.0]]]), truth)) == pytest.approx(32)  # mean of 64 and 0
    assert float(loss("mae", SIZE)(torch.tensor([[[0.0, 0.5]]]), truth)) == pytest.approx(24)


BRANCHES = {"mse": None, "mae": None, "huber": DELTA, "smooth_l1": DELTA, "wing": WIDTH, "soft_wing": DELTA}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_whole_where_it_changes_branch(name: str):
    branch = loss(name, SIZE, delta=DELTA, width=WIDTH, epsilon=EPSILON).branch()
    assert branch == BRANCHES[name]
    if branch is not None:
        below, above = of_errors(name, [branch - 1e-9, branch + 1e-9], delta=DELTA, width=WIDTH, epsilon=EPSILON)
        assert below == pytest.approx(above, abs=1e-6)


def test_another_loss_is_refused():
    with pytest.raises(ValueError, match="loss: expected one of mse, mae, huber, smooth_l1, wing, soft_wing, got 'l2'"):
        loss("l2", SIZE)
