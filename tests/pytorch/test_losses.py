"""Losses in px: the papers' closed forms, masks that hold, and numpy's figures for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")

from reference import BRANCHES, CLOSED, SIGMA, SIZE, THRESHOLDS, map_sums, point_sums, some_maps, some_points

from keylite.pytorch.losses import HEAD_SUMS, LOSSES, head_sums, loss
from keylite.runtime.heads import HEADS, Heatmap, Regression


def of_errors(name: str, x_errors: list[float], **thresholds: float) -> list[float]:
    """Losses of single points that are off by so many px in x and in y."""
    calculate = loss(name, SIZE, **thresholds)
    found = []
    for error in x_errors:
        truth = torch.full((1, 1, 2), 0.5, dtype=torch.float64)
        found.append(float(calculate(truth + error / torch.tensor(SIZE, dtype=torch.float64), truth)))
    return found


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name: str):
    errors, expected = CLOSED[name].keys(), list(CLOSED[name].values())
    for sign in (1, -1):
        found = of_errors(name, [sign * error for error in errors], **THRESHOLDS)
        assert found == pytest.approx(expected, abs=1e-5)


def test_every_loss_has_a_closed_form():
    assert set(CLOSED) == set(LOSSES)


@pytest.mark.parametrize("weighted", [True, False], ids=["weights", "no weights"])
@pytest.mark.parametrize("name", LOSSES)
def test_masked_means_are_numpys(name: str, weighted: bool):
    given = some_points()[: 3 if weighted else 2]
    total, count = point_sums(name, *given)
    calculate = loss(name, SIZE, **THRESHOLDS)
    tensors = [torch.from_numpy(a) for a in given]
    assert float(calculate(*tensors)) == pytest.approx(total / count, rel=1e-9)
    assert [float(s) for s in calculate.sums(*tensors)] == pytest.approx([total, count], rel=1e-9)


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


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_whole_where_it_changes_branch(name: str):
    branch = loss(name, SIZE, **THRESHOLDS).branch()
    assert branch == BRANCHES[name]
    if branch is not None:
        below, above = of_errors(name, [branch - 1e-9, branch + 1e-9], **THRESHOLDS)
        assert below == pytest.approx(above, abs=1e-6)


def test_another_loss_is_refused():
    with pytest.raises(ValueError, match="loss: expected one of mse, mae, huber, smooth_l1, wing, soft_wing, got 'l2'"):
        loss("l2", SIZE)


# ---- what a head is trained with

HEAD = Heatmap(7, (16, 12))  # of 128x96 px


def test_every_head_has_its_sums():
    assert set(HEAD_SUMS) == {type(make(1, 1, SIZE)) for make in HEADS.values()}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("grid", [(16, 12), (13, 9)], ids=["cells of 8 px", "of another size"])
def test_sums_of_a_heatmap_are_numpys(name: str, grid: tuple[int, int]):
    head = Heatmap(7, grid)
    raw, truth, weight = some_maps(head)
    points = loss(name, SIZE, **THRESHOLDS)
    total, count, unit_xy = head_sums(head, points, *(torch.from_numpy(a) for a in (raw, truth, weight)))
    expected = map_sums(name, raw, truth, weight, head)
    assert [float(total), float(count)] == pytest.approx(expected, rel=1e-6)  # the cells are float32
    np.testing.assert_allclose(unit_xy.numpy(), head.decode(raw)[0], atol=1e-6)


def test_sums_of_a_regression_are_those_of_its_points():
    unit_xy, truth, weight = (torch.from_numpy(a) for a in some_points())
    points = loss("wing", SIZE)
    total, count, found = head_sums(Regression(7), points, unit_xy, truth, weight)
    assert (float(total), float(count)) == tuple(float(s) for s in points.sums(unit_xy, truth, weight))
    assert found is unit_xy


def test_a_map_point_without_weight_has_no_say_and_no_gradient():
    raw, truth, weight = (torch.from_numpy(a) for a in some_maps(HEAD))
    raw.requires_grad_()
    total, _, _ = head_sums(HEAD, loss("wing", SIZE), raw, truth, weight)
    total.backward()
    silent = (weight == 0) | truth.isnan().any(dim=2)
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad[silent] == 0).all()
    assert (raw.grad[~silent].abs().sum(dim=1) > 0).all()
    elsewhere = torch.where(silent.unsqueeze(-1) & truth.isfinite(), torch.tensor(1e6, dtype=truth.dtype), truth)
    assert head_sums(HEAD, loss("wing", SIZE), raw, elsewhere, weight)[0].item() == total.item()


@pytest.mark.parametrize("why", ["NaN", "weight 0"])
def test_maps_with_nothing_visible_give_0_and_finite_gradients(why: str):
    raw = torch.randn(2, 7, HEAD.channels, requires_grad=True)
    truth = torch.full((2, 7, 2), math.nan) if why == "NaN" else torch.rand(2, 7, 2)
    weight = torch.ones(2, 7) if why == "NaN" else torch.zeros(2, 7)
    total, count, unit_xy = head_sums(HEAD, loss("wing", SIZE), raw, truth, weight)
    total.backward()
    assert (total.item(), count.item()) == (0, 0)
    assert (raw.grad == 0).all()
    assert torch.isfinite(unit_xy).all()


FAR = {
    "logits of a thousand": (1000.0, 0.5),
    "a point in the corner": (1.0, 0.0),
    "a point outside": (1.0, 3.0),
}


@pytest.mark.parametrize(("times", "place"), FAR.values(), ids=FAR)
def test_losses_of_maps_stay_finite(times: float, place: float):
    raw = (times * torch.randn(2, 7, HEAD.channels)).requires_grad_()
    total, _, _ = head_sums(HEAD, loss("wing", SIZE), raw, torch.full((2, 7, 2), place), torch.ones(2, 7))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(raw.grad).all()


def test_the_best_map_is_the_bell():
    """At the bell the cross-entropy is its entropy, least of all; its point is right, so nothing pulls."""
    x, y = (np.arange(side) + 0.5 for side in HEAD.grid)
    squares = ((x[None, :] - 8) ** 2 + (y[:, None] - 6) ** 2).ravel()
    bell = torch.from_numpy(-squares / (2 * SIGMA**2)).expand(1, 7, -1).clone().requires_grad_()
    truth, weight = torch.full((1, 7, 2), 0.5, dtype=torch.float64), torch.ones(1, 7, dtype=torch.float64)
    total, _, _ = head_sums(HEAD, loss("mse", SIZE), bell, truth, weight)
    total.backward()
    assert bell.grad.abs().max() < 1e-6
    assert total.item() / 7 == pytest.approx(math.log(2 * math.pi * math.e * SIGMA**2), abs=1e-3)
