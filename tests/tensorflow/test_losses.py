"""The losses as Keras calls them: closed forms, masks that hold, numpy's figures, and the same through `fit`."""

from __future__ import annotations

import math

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")

import keras
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

import keylite.tensorflow
from keylite.runtime.heads import HEADS, Head, Heatmap, Regression, Rle, Simcc
from keylite.tensorflow.losses import HEAD_SUMS, Flow, head_sums, loss, new_flow
from keylite.tensorflow.model import assign, tensors
from keylite.training.teaching import LOSSES


def of_errors(name: str, x_errors: list[float], **thresholds: float) -> list[float]:
    """Losses of single points that are off by so many px in x and in y."""
    calculate, truth = loss(name, SIZE, **thresholds), np.full((1, 1, 2), 0.5)
    return [float(calculate(truth, truth + error / np.array(SIZE))) for error in x_errors]


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
    unit_xy, truth, *weight = some_points()[: 3 if weighted else 2]
    total, count = point_sums(name, unit_xy, truth, *weight)
    calculate = loss(name, SIZE, **THRESHOLDS)
    assert float(calculate(truth, unit_xy, *weight)) == pytest.approx(total / count, rel=1e-9)
    found = calculate.sums(tf.constant(unit_xy), truth, *weight)
    assert [float(s) for s in found] == pytest.approx([total, count], rel=1e-9)


def test_a_weight_of_an_object_is_that_of_all_its_points():
    unit_xy, truth, _ = some_points()
    weight = np.array([1, 0, 0.5, 2, 1])
    total, count = point_sums("huber", unit_xy, truth, np.repeat(weight[:, None], 7, axis=1))
    assert float(loss("huber", SIZE, **THRESHOLDS)(truth, unit_xy, weight)) == pytest.approx(total / count, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_a_point_without_weight_has_no_say_and_no_gradient(name: str):
    unit_xy, truth, weight = some_points()
    given, calculate = tf.constant(unit_xy), loss(name, SIZE)
    with tf.GradientTape() as tape:
        tape.watch(given)
        before = calculate(truth, given, weight)
    gradient = tape.gradient(before, given).numpy()
    silent = (weight == 0) | np.isnan(truth).any(axis=2)
    assert silent.any() and not silent.all()
    assert np.isfinite(gradient).all()
    assert (gradient[silent] == 0).all()
    assert (gradient[~silent] != 0).all()
    elsewhere = np.where(silent[..., None], truth * 0 + 1e6, truth)
    assert float(calculate(elsewhere, given, weight)) == float(before)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("why", ["NaN", "weight 0"])
def test_nothing_visible_gives_0_and_finite_gradients(name: str, why: str):
    unit_xy = tf.random.uniform((2, 3, 2))
    truth = tf.fill((2, 3, 2), math.nan) if why == "NaN" else tf.random.uniform((2, 3, 2))
    with tf.GradientTape() as tape:
        tape.watch(unit_xy)
        result = loss(name, SIZE)(truth, unit_xy, tf.ones((2, 3)) if why == "NaN" else tf.zeros((2, 3)))
    assert float(result) == 0
    assert (tape.gradient(result, unit_xy).numpy() == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_point_has_a_finite_gradient(name: str):
    unit_xy = tf.fill((1, 1, 2), 0.3)
    with tf.GradientTape() as tape:
        tape.watch(unit_xy)
        result = loss(name, SIZE)(tf.fill((1, 1, 2), 0.3), unit_xy)
    assert np.isfinite(tape.gradient(result, unit_xy).numpy()).all()


def test_fewer_than_one_point_is_not_a_mean():
    given = tf.fill((1, 1, 2), 0.5), tf.zeros((1, 1, 2)), tf.fill((1, 1), 0.25)
    assert float(loss("mae", SIZE)(*given)) == pytest.approx(0.25 * (64 + 48) / 2)


def test_sides_are_width_then_height():
    truth = tf.zeros((1, 1, 2))
    assert float(loss("mae", SIZE)(truth, tf.constant([[[0.5, 0.0]]]))) == pytest.approx(32)  # mean of 64 and 0
    assert float(loss("mae", SIZE)(truth, tf.constant([[[0.0, 0.5]]]))) == pytest.approx(24)


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


# ---- as a loss of Keras


def points_model(compiled: object) -> keras.Model:
    """Points as they are given in, through a dense layer that begins by changing nothing."""
    points = keras.Input((7, 2))
    model = keras.Model(points, keras.layers.Dense(2, kernel_initializer="identity")(points))
    model.compile(keras.optimizers.SGD(1e-4), compiled)
    return model


@pytest.mark.parametrize("weighted", [True, False], ids=["weights", "no weights"])
@pytest.mark.parametrize("name", LOSSES)
def test_keras_reports_numpys_figure_of_a_partly_masked_batch(name: str, weighted: bool):
    unit_xy, truth, *weight = (a.astype(np.float32) for a in some_points()[: 3 if weighted else 2])
    total, count = point_sums(name, unit_xy.astype(float), truth.astype(float), *weight)
    model = points_model(keylite.tensorflow.loss(name, SIZE, **THRESHOLDS))
    given = {"x": unit_xy, "y": truth, "sample_weight": weight[0] if weighted else None, "batch_size": 5, "verbose": 0}
    assert model.evaluate(**given) == pytest.approx(total / count, rel=1e-6)
    before = model.get_weights()
    (figure,) = model.fit(**given, epochs=1).history["loss"]
    assert figure == pytest.approx(total / count, rel=1e-6)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert any((new != old).any() for new, old in zip(model.get_weights(), before, strict=True))


def test_a_batch_without_any_point_moves_nothing_in_fit():
    unit_xy, truth, weight = (a.astype(np.float32) for a in some_points())
    model = points_model(keylite.tensorflow.loss("wing", SIZE))
    before = model.get_weights()
    (figure,) = model.fit(unit_xy, np.full_like(truth, np.nan), sample_weight=weight, verbose=0).history["loss"]
    assert figure == 0
    assert all((new == old).all() for new, old in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_comes_back_from_its_configuration(name: str):
    kept = loss(name, SIZE, **THRESHOLDS)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(kept))
    assert type(again) is type(kept)
    assert again.get_config() == kept.get_config() == {"name": name, "size": SIZE, **THRESHOLDS}
    unit_xy, truth, weight = some_points()
    assert float(again(truth, unit_xy, weight)) == float(kept(truth, unit_xy, weight))


# ---- what a head is trained with

heads = pytest.mark.parametrize("head", SOME_HEADS.values(), ids=SOME_HEADS)


def flow_of(head: Head, weights: dict[str, np.ndarray] | None = None, kind: str = "float64") -> Flow | None:
    """The flow that a head's loss trains, with these weights or those of `some_flow`."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(kind)
    keras.config.set_dtype_policy(kind)
    try:
        flow = new_flow(head)
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
    if flow:
        assert tensors(flow).keys() == some_flow().keys(), "under torch's names"
        assign(flow, some_flow() if weights is None else weights)
    return flow


def sums(head: Head, raw: np.ndarray, truth: np.ndarray, weight: np.ndarray, name: str = "wing") -> tuple:
    """(sum of losses, sum of weights, points, gradients of the sum by raw and by the flow's weights), in numpy."""
    given, flow = tf.constant(raw), flow_of(head, kind=raw.dtype.name)
    with tf.GradientTape() as tape:
        tape.watch(given)
        found = head_sums(head, loss(name, SIZE, **THRESHOLDS), given, tf.constant(truth), tf.constant(weight), flow)
    by_raw, by_flow = tape.gradient(found[0], [given, flow.trainable_variables if flow else []])
    return *(part.numpy() for part in found), by_raw.numpy(), [gradient.numpy() for gradient in by_flow]


def test_every_head_has_its_sums():
    assert set(HEAD_SUMS) == {type(make(1, 1, SIZE)) for make in HEADS.values()}
    assert {type(head) for head in SOME_HEADS.values()} == set(HEAD_SUMS)


def test_one_head_has_a_flow():
    assert [name for name, make in HEADS.items() if new_flow(make(1, 1, SIZE))] == ["rle"]


@pytest.mark.parametrize("name", LOSSES)
@heads
def test_sums_of_a_head_are_numpys(name: str, head: Head):
    raw, truth, weight = some_raw(head)
    total, count, unit_xy, *_ = sums(head, raw, truth, weight, name)
    expected = sums_of(name, head, raw, truth, weight)
    assert [total, count] == pytest.approx(expected, rel=1e-6)  # cells and bins are float32
    np.testing.assert_allclose(unit_xy, head.decode(raw)[0], atol=1e-6)


def test_sums_of_a_regression_are_those_of_its_points():
    unit_xy, truth, weight = (tf.constant(a) for a in some_points())
    points = loss("wing", SIZE)
    total, count, found = head_sums(Regression(7), points, unit_xy, truth, weight)
    assert (float(total), float(count)) == tuple(float(s) for s in points.sums(unit_xy, truth, weight))
    assert found is unit_xy


@heads
def test_a_head_s_point_without_weight_has_no_say_and_no_gradient(head: Head):
    raw, truth, weight = some_raw(head)
    total, _, _, gradient, _ = sums(head, raw, truth, weight)
    silent = (weight == 0) | np.isnan(truth).any(axis=2)
    assert np.isfinite(gradient).all()
    assert (gradient[silent] == 0).all()
    assert (np.abs(gradient[~silent]).sum(axis=1) > 0).all()
    elsewhere = np.where(silent[..., None] & np.isfinite(truth), 1e6, truth)
    assert sums(head, raw, elsewhere, weight)[0] == total


@pytest.mark.parametrize("why", ["NaN", "weight 0"])
@heads
def test_a_head_with_nothing_visible_gives_0_and_finite_gradients(why: str, head: Head):
    raw, truth, weight = (a.astype(np.float32) for a in some_raw(head))
    truth = np.full_like(truth, np.nan) if why == "NaN" else np.nan_to_num(truth, nan=0.5)
    total, count, unit_xy, gradient, by_flow = sums(head, raw, truth, np.full_like(weight, why == "NaN"))
    assert (total, count) == (0, 0)
    assert (gradient == 0).all()
    assert np.isfinite(unit_xy).all()
    assert all((by_weight == 0).all() for by_weight in by_flow)


FAR = {
    "raw of a thousand": (1000.0, 0.5),
    "a point in the corner": (1.0, 0.0),
    "a point outside": (1.0, 3.0),
}


@pytest.mark.parametrize(("times", "place"), FAR.values(), ids=FAR)
@heads
def test_losses_of_heads_stay_finite(times: float, place: float, head: Head):
    raw, truth, weight = (a.astype(np.float32) for a in some_raw(head))
    total, _, _, gradient, _ = sums(head, times * raw, np.full_like(truth, place), np.ones_like(weight))
    assert np.isfinite(total)
    assert np.isfinite(gradient).all()


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
    raw = np.tile(logits, (1, 7, 1))
    total, _, _, gradient, _ = sums(head, raw, np.full((1, 7, 2), 0.5), np.ones((1, 7)), "mse")
    assert np.abs(gradient).max() < 1e-6
    assert total / 7 == pytest.approx(entropy, abs=1e-3)


# ---- the scales of rle


def test_with_a_gaussian_flow_the_loss_is_a_closed_form():
    """Of the error e and the scale s, px: |e| / s + ln 2s + (e / s)^2 / 2 + ln(2 pi) / 2, for x and for y."""
    head, px = Rle(1), np.array(SIZE, float)
    flow = flow_of(head, {name: 0 * w for name, w in some_flow().items()})
    for error, scale in ((0.0, 1.0), (3.0, 2.0), (-7.0, 0.5), (0.1, 30.0)):
        raw = tf.constant(np.concatenate([0.5 + error / px, np.log(scale / px)]).reshape(1, 1, 4))
        truth, weight = tf.fill((1, 1, 2), tf.constant(0.5, tf.float64)), tf.ones((1, 1), tf.float64)
        total, _, _ = head_sums(head, loss("mse", SIZE), raw, truth, weight, flow)
        size = abs(error) / scale
        expected = 2 * (size + math.log(2 * scale) + size**2 / 2 + math.log(2 * math.pi) / 2)
        assert float(total) == pytest.approx(expected, abs=1e-9)


def test_the_choice_of_a_loss_has_no_say_in_it():
    assert len({float(sums(Rle(7), *some_raw(Rle(7)), name)[0]) for name in LOSSES}) == 1


def test_a_flow_is_numpys_and_a_density():
    """Of some weights, far from a Gaussian, its integral over nearly all that it reaches is 1."""
    line, step = np.linspace(-14, 14, 141, retstep=True)
    grid = np.stack(np.meshgrid(line, line), axis=-1)
    logarithm = flow_of(Rle(1))(tf.constant(grid)).numpy()
    assert logarithm.shape == grid.shape[:-1]
    expected = flow_density(some_flow(), grid.reshape(-1, 2))
    np.testing.assert_allclose(logarithm.ravel(), expected, rtol=1e-9)
    density = np.exp(logarithm)
    assert density.sum() * step**2 == pytest.approx(1, abs=1e-3)  # measured 0.9995
    gaussian = np.exp(-(grid**2).sum(axis=-1) / 2) / (2 * math.pi)
    assert np.abs(density - gaussian).sum() * step**2 > 0.5, "of 2, were they wholly apart"  # measured 0.75


def test_a_new_flow_is_nearly_a_gaussian():
    keras.utils.set_random_seed(0)
    residual = np.random.default_rng(0).uniform(-5, 5, (1000, 2)).astype(np.float32)
    gaussian = -math.log(2 * math.pi) - (residual**2).sum(axis=1) / 2
    apart = np.abs(new_flow(Rle(1))(tf.constant(residual)).numpy() - gaussian)
    assert 0 < apart.max() < 1e-3
