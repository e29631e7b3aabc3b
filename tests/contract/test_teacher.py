"""A teacher gives both twins the same raw values, and both learn from it by the same losses and gradients.

Beside each tolerance stands what was measured.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")
tf = pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")

from reference import SIZE, SOME_HEADS, THRESHOLDS, of_error, some_raw, sums_of, surprise

import keylite.pytorch.losses as torch_losses
import keylite.pytorch.teacher as torch_teacher
import keylite.tensorflow.losses as keras_losses
import keylite.tensorflow.teacher as keras_teacher
from keylite.runtime.heads import STRIDE, Head, Heatmap
from keylite.training.teacher import Teacher

pytestmark = pytest.mark.usefixtures("quick_graphs")

WEIGHTS = (0.4, 0.4, 0.0, 0.4, 0.4, 0.4, 0.4)  # the third keypoint is not taught
PAIRS = {  # student, teacher
    **{name: (head, SOME_HEADS["simcc"]) for name, head in SOME_HEADS.items() if name != "rle"},
    "maps from maps": (SOME_HEADS["heatmap"], Heatmap(7, (16, 12), 8)),
    "maps from other maps": (SOME_HEADS["heatmap"], SOME_HEADS["odd heatmap"]),
    "bins from points": (SOME_HEADS["simcc"], SOME_HEADS["regression"]),
    "bins from points with scales": (SOME_HEADS["simcc"], SOME_HEADS["rle"]),
}


def facts_of(head: Head, label_weight: float = 0.9) -> Teacher:
    """A teacher with this head; the losses look at nothing else of its spec."""
    return Teacher(Path("t.safetensors"), SimpleNamespace(head=head), tuple(range(7)), WEIGHTS, label_weight)


def expected_sums(
    name: str, student: Head, teacher: Head, raw: np.ndarray, truth: np.ndarray, weight: np.ndarray, lesson: np.ndarray
) -> list[float]:
    """Numpy's [sum of weighted losses, sum of weights] of labels and teacher together."""
    labels = sums_of(name, student, raw, truth, weight)
    taught_xy, _ = teacher.decode(lesson)
    outside = np.isfinite(truth).all(axis=2) & (weight == 0)
    taught = np.where(outside, 0, np.array(WEIGHTS))
    if isinstance(student, Heatmap) and isinstance(teacher, Heatmap) and student.grid == teacher.grid:
        total, (own_xy, _) = 0.0, student.decode(raw)
        for place in zip(*np.nonzero(taught), strict=True):
            error = (own_xy[place] - taught_xy[place]) * SIZE
            loss = surprise(raw[place], np.exp(lesson[place])) + of_error(name, error).mean() / STRIDE
            total += taught[place] * loss
        more = [total, taught.sum()]
    else:
        more = sums_of(name, student, raw, taught_xy.astype(float), taught)
    return [0.9 * own + other for own, other in zip(labels, more, strict=True)]


@pytest.mark.numeric
@pytest.mark.parametrize(("student", "teacher"), PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("name", ["mae", "wing"])
def test_losses_and_gradients_of_both_are_numpys_and_each_others(name: str, student: Head, teacher: Head):
    raw, truth, weight = some_raw(student)
    lesson = np.random.default_rng(7).normal(0, 2, (5, 7, teacher.channels))
    facts = facts_of(teacher)
    if teacher.channels <= 4:
        lesson[..., :2] = np.random.default_rng(8).uniform(0, 1, (5, 7, 2))
    expected = expected_sums(name, student, teacher, raw, truth, weight, lesson)

    one_raw, *labels = (torch.from_numpy(a) for a in (raw, truth, weight))
    one_raw.requires_grad_()
    one_loss = torch_losses.loss(name, SIZE, **THRESHOLDS)
    one = torch_losses.head_sums(student, one_loss, one_raw, *labels, lesson=(facts, torch.from_numpy(lesson)))
    one[0].backward()

    two_raw, *labels = (tf.constant(a) for a in (raw, truth, weight))
    two_loss = keras_losses.loss(name, SIZE, **THRESHOLDS)
    with tf.GradientTape() as tape:
        tape.watch(two_raw)
        two = keras_losses.head_sums(student, two_loss, two_raw, *labels, lesson=(facts, tf.constant(lesson)))
    gradient, other = one_raw.grad.numpy(), tape.gradient(two[0], two_raw).numpy()

    for total, count in ((one[0].detach(), one[1]), two[:2]):
        assert [float(total), float(count)] == pytest.approx(expected, rel=4e-6)  # numpy decodes in float32
    assert float(two[0]) == pytest.approx(float(one[0].detach()), rel=1e-12)
    np.testing.assert_allclose(other, gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())


@pytest.mark.numeric
def test_a_flow_learns_from_a_teacher_too():
    head, points = SOME_HEADS["rle"], torch_losses.loss("mae", SIZE)
    raw, truth, weight = (torch.from_numpy(a).float() for a in some_raw(head))
    flow = torch_losses.new_flow(head)
    lesson = facts_of(head, label_weight=0.0), raw.flip(0)
    total, count, _ = torch_losses.head_sums(head, points, raw, truth, weight, flow, lesson)
    total.backward()
    assert float(count) > 0
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in flow.scale[0][0].parameters())


@pytest.mark.numeric
@pytest.mark.parametrize("size", [(64, 64), (96, 96), (32, 32)], ids=["its own", "larger", "smaller"])
def test_both_show_a_teacher_the_same_pixels(size: tuple[int, int], make_spec, heatmap_file: Path):
    """And give its raw values in the order of the student's keypoints."""
    spec = make_spec(head=Heatmap(4, (8, 8), 16))
    pixels = np.random.default_rng(0).integers(0, 256, (3, size[1], size[0], 3), np.uint8)
    places = (2, 0, 3, 1)
    raw = []
    for order in ((0, 1, 2, 3), places):
        facts = Teacher(heatmap_file, spec, order, (0.5,) * 4, 0.5)
        one = torch_teacher.TeacherNetwork(facts)(torch.from_numpy(pixels))
        two = keras_teacher.TeacherNetwork(facts)(tf.constant(pixels))
        assert not one.requires_grad
        np.testing.assert_allclose(two.numpy(), one.numpy(), rtol=0, atol=2e-4 * np.abs(one.numpy()).max())  # 2e-5
        raw.append(one.numpy())
    assert np.array_equal(raw[0][:, places], raw[1])
