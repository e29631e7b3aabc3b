"""Rounding weights to one scale, or to one per channel: what a layer gives changes less than if each weight is rounded by itself."""

from __future__ import annotations

import numpy as np
import pytest

from keylite.exporting.equalise import convolved
from keylite.exporting.rounding import compensated

LARGEST = 7  # steps: coarse, so that rounding counts
KERNELS = {"dense": (12, 8, 1, 1), "3x3": (6, 4, 3, 3), "depthwise": (8, 1, 3, 3), "depthwise 5x5": (8, 1, 5, 5)}


def layer(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A kernel, and images in which channels and neighbours go along with each other."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 1, KERNELS[name])
    channels = len(kernel) if kernel.shape[1] == 1 else kernel.shape[1]
    coarse = rng.normal(1, 1, (6, 5, 6, 3)).repeat(3, 1).repeat(3, 2)
    return kernel, coarse @ rng.normal(0, 1, (3, channels)) + rng.normal(0, 0.05, (6, 15, 18, channels))


def step_of(kernel: np.ndarray, per_channel: bool) -> np.ndarray:
    sizes = np.abs(kernel).max((1, 2, 3), keepdims=True)
    return (sizes if per_channel else sizes.max()) / LARGEST


@pytest.mark.parametrize("per_channel", [True, False], ids=["scale per channel", "one scale"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", KERNELS)
def test_what_a_layer_gives_stays(name: str, stride: int, per_channel: bool):
    kernel, images = layer(name)
    step = step_of(kernel, per_channel)
    exact = convolved(images, kernel, stride)

    def error(made: np.ndarray) -> float:
        return np.sqrt(np.square(convolved(images, made, stride) - exact).mean())

    made = compensated(kernel, images, stride, LARGEST, per_channel)
    assert error(made) < (0.9 if "depthwise" in name else 0.6) * error(np.rint(kernel / step) * step)


@pytest.mark.parametrize("per_channel", [True, False], ids=["scale per channel", "one scale"])
@pytest.mark.parametrize("name", KERNELS)
def test_scales_stay_and_all_weights_lie_on_them(name: str, per_channel: bool):
    kernel, images = layer(name)
    before = kernel.copy()
    made = compensated(kernel, images, 1, LARGEST, per_channel)
    assert (kernel == before).all()
    np.testing.assert_allclose(step_of(made, per_channel), step_of(kernel, per_channel), rtol=1e-12)
    steps = made / step_of(kernel, per_channel)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    assert np.abs(steps).max() <= LARGEST + 1e-9


@pytest.mark.parametrize("per_channel", [True, False], ids=["scale per channel", "one scale"])
def test_inputs_that_are_always_zero_and_kernels_of_zeros_do_no_harm(per_channel: bool):
    kernel, images = layer("dense")
    dead, gone = images.copy(), kernel.copy()
    dead[..., 2], gone[3] = 0, 0
    assert np.isfinite(compensated(gone, dead, 1, LARGEST, per_channel)).all()
    assert np.isfinite(compensated(kernel, 0 * images, 1, LARGEST, per_channel)).all()
    assert (compensated(gone, images, 1, LARGEST, per_channel)[3] == 0).all()
    assert (compensated(0 * kernel, images, 1, LARGEST, per_channel) == 0).all()
    kernel, images = layer("depthwise")
    images[..., 3] = 0
    assert np.isfinite(compensated(kernel, images, 2, LARGEST, per_channel)).all()
