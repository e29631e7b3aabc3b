"""Losses in px: the papers' closed forms, masks that hold, and numpy's figures for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")

from reference import (
    BIN_SIGMA,
    BRANCHES,
    CELL_SIGMA,
    CLOSED,
    SIZE,
    SOME_HEADS,
    THRESHOLDS,
    flow_density,
    point_sums,
    some_flow,
    some_points,
    some_raw,
    sums_of,
)

from keylite.pytorch.losses import HEAD_SUMS, Flow, head_sums, loss, new_flow
from keylite.runtime.heads import HEADS, Head, Heatmap, Regression, Rle, Simcc
from keylite.training.teaching import LOSSES


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

heads = pytest.mark.parametrize("head", SOME_HEADS.values(), ids=SOME_HEADS)


def flow_of(head: Head, weights: dict[str, np.ndarray] | None = None) -> Flow | None:
    """The flow that a head's loss trains, in float64, with these weights or those of `some_flow`."""
    flow = new_flow(head)
    if flow:
        flow.double().load_state_dict({name: torch.from_numpy(w) for name, w in (weights or some_flow()).items()})
    return flow


def sums(head: Head, raw: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, name: str = "wing") -> tuple:
    return head_sums(head, loss(name, SIZE, **THRESHOLDS), raw, truth, weight, flow_of(head))


def test_every_head_has_its_sums():
    assert set(HEAD_SUMS) == {type(make(1, 1, SIZE)) for make in HEADS.values()}
    assert {type(head) for head in SOME_HEADS.values()} == set(HEAD_SUMS)


def test_one_head_has_a_flow():
    assert [name for name, make in HEADS.items() if new_flow(make(1, 1, SIZE))] == ["rle"]


@pytest.mark.parametrize("name", LOSSES)
@heads
def test_sums_of_a_head_are_numpys(name: str, head: Head):
    raw, truth, weight = some_raw(head)
    total, count, unit_xy = sums(head, *(torch.from_numpy(a) for a in (raw, truth, weight)), name)
    expected = sums_of(name, head, raw, truth, weight)
    assert [total.item(), count.item()] == pytest.approx(expected, rel=1e-6)  # cells and bins are float32
    np.testing.assert_allclose(unit_xy.detach().numpy(), head.decode(raw)[0], atol=1e-6)


def test_sums_of_a_regression_are_those_of_its_points():
    unit_xy, truth, weight = (torch.from_numpy(a) for a in some_points())
    points = loss("wing", SIZE)
    total, count, found = head_sums(Regression(7), points, unit_xy, truth, weight)
    assert (float(total), float(count)) == tuple(float(s) for s in points.sums(unit_xy, truth, weight))
    assert found is unit_xy


@heads
def test_a_head_s_point_without_weight_has_no_say_and_no_gradient(head: Head):
    raw, truth, weight = (torch.from_numpy(a) for a in some_raw(head))
    raw.requires_grad_()
    total, _, _ = sums(head, raw, truth, weight)
    total.backward()
    silent = (weight == 0) | truth.isnan().any(dim=2)
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad[silent] == 0).all()
    assert (raw.grad[~silent].abs().sum(dim=1) > 0).all()
    elsewhere = torch.where(silent.unsqueeze(-1) & truth.isfinite(), torch.tensor(1e6, dtype=truth.dtype), truth)
    assert sums(head, raw, elsewhere, weight)[0].item() == total.item()


@pytest.mark.parametrize("why", ["NaN", "weight 0"])
@heads
def test_a_head_with_nothing_visible_gives_0_and_finite_gradients(why: str, head: Head):
    raw = torch.randn(2, 7, head.channels, dtype=torch.float64, requires_grad=True)
    truth = torch.full((2, 7, 2), math.nan) if why == "NaN" else torch.rand(2, 7, 2)
    weight = torch.ones(2, 7) if why == "NaN" else torch.zeros(2, 7)
    flow = flow_of(head)
    total, count, unit_xy = head_sums(head, loss("wing", SIZE), raw, truth.double(), weight.double(), flow)
    total.backward()
    assert (total.item(), count.item()) == (0, 0)
    assert (raw.grad == 0).all()
    assert torch.isfinite(unit_xy).all()
    assert not flow or all((p.grad == 0).all() for p in flow.parameters())


FAR = {
    "raw of a thousand": (1000.0, 0.5),
    "a point in the corner": (1.0, 0.0),
    "a point outside": (1.0, 3.0),
}


@pytest.mark.parametrize(("times", "place"), FAR.values(), ids=FAR)
@heads
def test_losses_of_heads_stay_finite(times: float, place: float, head: Head):
    raw = (times * torch.randn(2, 7, head.channels)).requires_grad_()
    total, _, _ = head_sums(
        head, loss("wing", SIZE), raw, torch.full((2, 7, 2), place), torch.ones(2, 7), new_flow(head)
    )
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(raw.grad).all()


def test_the_best_map_is_the_bell():
    """At the bell the cross-entropy is its entropy, least of all; its point is right, so nothing pulls."""
    head = Heatmap(7, (16, 12))
    x, y = (np.arange(side) + 0.5 for side in head.grid)
    squares = ((x[None, :] - 8) ** 2 + (y[:, None] - 6) ** 2).ravel()
    require_the_best(head, -squares / (2 * CELL_SIGMA**2), math.log(2 * math.pi * math.e * CELL_SIGMA**2))


def test_the_best_bins_are_two_bells():
    places = [np.arange(side) + 0.5 - side / 2 for side in SIZE]
    bells = np.concatenate([-(place**2) / (2 * BIN_SIGMA**2) for place in places])
    require_the_best(SOME_HEADS["simcc"], bells, math.log(2 * math.pi * math.e * BIN_SIGMA**2))


def require_the_best(head: Heatmap | Simcc, logits: np.ndarray, entropy: float) -> None:
    """Of a point in the middle."""
    raw = torch.from_numpy(logits).expand(1, 7, -1).clone().requires_grad_()
    truth, weight = torch.full((1, 7, 2), 0.5, dtype=torch.float64), torch.ones(1, 7, dtype=torch.float64)
    total, _, _ = head_sums(head, loss("mse", SIZE), raw, truth, weight)
    total.backward()
    assert raw.grad.abs().max() < 1e-6
    assert total.item() / 7 == pytest.approx(entropy, abs=1e-3)


# ---- the scales of rle


def test_with_a_gaussian_flow_the_loss_is_a_closed_form():
    """Of the error e and the scale s, px: |e| / s + ln 2s + (e / s)^2 / 2 + ln(2 pi) / 2, for x and for y."""
    head, still = Rle(1), {name: 0 * w for name, w in some_flow().items()}
    for error, scale in ((0.0, 1.0), (3.0, 2.0), (-7.0, 0.5), (0.1, 30.0)):
        px = torch.tensor(SIZE, dtype=torch.float64)
        raw = torch.cat([0.5 + error / px, torch.log(scale / px)]).reshape(1, 1, 4)
        truth, weight = torch.full((1, 1, 2), 0.5, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
        total, _, _ = head_sums(head, loss("mse", SIZE), raw, truth, weight, flow_of(head, still))
        size = abs(error) / scale
        expected = 2 * (size + math.log(2 * scale) + size**2 / 2 + math.log(2 * math.pi) / 2)
        assert total.item() == pytest.approx(expected, abs=1e-9)


def test_the_choice_of_a_loss_has_no_say_in_it():
    given = [torch.from_numpy(a) for a in some_raw(Rle(7))]
    assert len({sums(Rle(7), *given, name)[0].item() for name in LOSSES}) == 1


def test_a_flow_is_numpys_and_a_density():
    """Of some weights, far from a Gaussian, its integral over nearly all that it reaches is 1."""
    line, step = np.linspace(-14, 14, 141, retstep=True)
    grid = np.stack(np.meshgrid(line, line), axis=-1)
    with torch.no_grad():
        logarithm = flow_of(Rle(1))(torch.from_numpy(grid)).numpy()
    assert logarithm.shape == grid.shape[:-1]
    np.testing.assert_allclose(logarithm.ravel(), flow_density(some_flow(), grid.reshape(-1, 2)), rtol=1e-9)
    density = np.exp(logarithm)
    assert density.sum() * step**2 == pytest.approx(1, abs=1e-3)  # measured 0.9995
    gaussian = np.exp(-(grid**2).sum(axis=-1) / 2) / (2 * math.pi)
    assert np.abs(density - gaussian).sum() * step**2 > 0.5, "of 2, were they wholly apart"  # measured 0.75


def test_a_new_flow_is_nearly_a_gaussian():
    torch.manual_seed(0)
    residual = torch.from_numpy(np.random.default_rng(0).uniform(-5, 5, (1000, 2))).float()
    gaussian = -math.log(2 * math.pi) - residual.square().sum(dim=1) / 2
    with torch.no_grad():
        apart = new_flow(Rle(1))(residual) - gaussian
    assert 0 < apart.abs().max() < 1e-3
