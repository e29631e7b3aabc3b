"""The losses as Keras calls them: closed forms, masks that hold, numpy's figures, and the same through `fit`."""

from __future__ import annotations

import math

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")

import keras
from reference import BRANCHES, CLOSED, SIGMA, SIZE, THRESHOLDS, map_sums, point_sums, some_maps, some_points

import keylite.tensorflow
from keylite.runtime.heads import HEADS, Heatmap, Regression
from keylite.tensorflow.losses import HEAD_SUMS, LOSSES, head_sums, loss


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

HEAD = Heatmap(7, (16, 12))  # of 128x96 px


def test_every_head_has_its_sums():
    assert set(HEAD_SUMS) == {type(make(1, 1, SIZE)) for make in HEADS.values()}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("grid", [(16, 12), (13, 9)], ids=["cells of 8 px", "of another size"])
def test_sums_of_a_heatmap_are_numpys(name: str, grid: tuple[int, int]):
    head = Heatmap(7, grid)
    raw, truth, weight = some_maps(head)
    points = loss(name, SIZE, **THRESHOLDS)
    total, count, unit_xy = head_sums(head, points, *(tf.constant(a) for a in (raw, truth, weight)))
    expected = map_sums(name, raw, truth, weight, head)
    assert [float(total), float(count)] == pytest.approx(expected, rel=1e-6)  # the cells are float32
    np.testing.assert_allclose(unit_xy.numpy(), head.decode(raw)[0], atol=1e-6)


def test_sums_of_a_regression_are_those_of_its_points():
    unit_xy, truth, weight = (tf.constant(a) for a in some_points())
    points = loss("wing", SIZE)
    total, count, found = head_sums(Regression(7), points, unit_xy, truth, weight)
    assert (float(total), float(count)) == tuple(float(s) for s in points.sums(unit_xy, truth, weight))
    assert found is unit_xy


def map_gradient(raw: np.ndarray, truth: np.ndarray, weight: np.ndarray, name: str = "wing") -> tuple:
    """(sum of losses, sum of weights, points, gradient of the sum by the logits), in numpy."""
    logits = tf.constant(raw)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        found = head_sums(HEAD, loss(name, SIZE), logits, tf.constant(truth), tf.constant(weight))
    return *(part.numpy() for part in found), tape.gradient(found[0], logits).numpy()


def test_a_map_point_without_weight_has_no_say_and_no_gradient():
    raw, truth, weight = some_maps(HEAD)
    total, _, _, gradient = map_gradient(raw, truth, weight)
    silent = (weight == 0) | np.isnan(truth).any(axis=2)
    assert np.isfinite(gradient).all()
    assert (gradient[silent] == 0).all()
    assert (np.abs(gradient[~silent]).sum(axis=1) > 0).all()
    elsewhere = np.where(silent[..., None] & np.isfinite(truth), 1e6, truth)
    assert map_gradient(raw, elsewhere, weight)[0] == total


@pytest.mark.parametrize("why", ["NaN", "weight 0"])
def test_maps_with_nothing_visible_give_0_and_finite_gradients(why: str):
    raw, truth, weight = (a.astype(np.float32) for a in some_maps(HEAD))
    truth = np.full_like(truth, np.nan) if why == "NaN" else np.nan_to_num(truth, nan=0.5)
    total, count, unit_xy, gradient = map_gradient(raw, truth, np.full_like(weight, why == "NaN"))
    assert (total, count) == (0, 0)
    assert (gradient == 0).all()
    assert np.isfinite(unit_xy).all()


FAR = {
    "logits of a thousand": (1000.0, 0.5),
    "a point in the corner": (1.0, 0.0),
    "a point outside": (1.0, 3.0),
}


@pytest.mark.parametrize(("times", "place"), FAR.values(), ids=FAR)
def test_losses_of_maps_stay_finite(times: float, place: float):
    raw, truth, weight = (a.astype(np.float32) for a in some_maps(HEAD))
    total, _, _, gradient = map_gradient(times * raw, np.full_like(truth, place), np.ones_like(weight))
    assert np.isfinite(total)
    assert np.isfinite(gradient).all()


def test_the_best_map_is_the_bell():
    """At the bell the cross-entropy is its entropy, least of all; its point is right, so nothing pulls."""
    x, y = (np.arange(side) + 0.5 for side in HEAD.grid)
    squares = ((x[None, :] - 8) ** 2 + (y[:, None] - 6) ** 2).ravel()
    bell = np.tile(-squares / (2 * SIGMA**2), (1, 7, 1))
    total, _, _, gradient = map_gradient(bell, np.full((1, 7, 2), 0.5), np.ones((1, 7)), "mse")
    assert np.abs(gradient).max() < 1e-6
    assert total / 7 == pytest.approx(math.log(2 * math.pi * math.e * SIGMA**2), abs=1e-3)
