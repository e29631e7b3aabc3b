"""Training on a CPU: the gradient by taps is the gradient, memory stays, and what is not compiled says so."""

from __future__ import annotations

import copy
import logging
import platform
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs keylite[pytorch]")

import torch
from timm.layers import Conv2dSame
from torch import nn

from keylite.pytorch.cpu import WORTH_COMPILING, TapConv2d, compiles, learn_by_taps, require_compiler
from keylite.pytorch.model import EfficientNetLiteRegressor
from keylite.runtime.heads import Heatmap
from keylite.training.recipe import make_recipe

CONVOLUTIONS = {
    "5 x 5": nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False),
    "5 x 5 of stride 2": nn.Conv2d(6, 6, 5, 2, padding=2, groups=6, bias=False),
    "5 x 5 of stride 2, padded as TensorFlow does": Conv2dSame(6, 6, 5, 2, groups=6, bias=False),
    "5 x 7 of strides 1 and 3": nn.Conv2d(6, 6, (5, 7), (1, 3), padding=(1, 3), groups=6, bias=False),
}
OTHERS = {
    "3 x 3": nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
    "not depthwise": nn.Conv2d(6, 6, 5, padding=2, bias=False),
    "with a bias": nn.Conv2d(6, 6, 5, padding=2, groups=6),
    "dilated": nn.Conv2d(6, 6, 5, padding=4, dilation=2, groups=6, bias=False),
    "reflecting": nn.Conv2d(6, 6, 5, padding=2, padding_mode="reflect", groups=6, bias=False),
    "padded by name": nn.Conv2d(6, 6, 5, padding="same", groups=6, bias=False),
}


def gradients_of(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Of a sum of what the model gives, each with its own weight: in the images, and in all parameters."""
    images = images.clone().requires_grad_()
    given = model(images)
    (given * torch.linspace(-1, 1, given.numel(), dtype=given.dtype).view_as(given)).sum().backward()
    assert images.grad is not None
    return [given.detach(), images.grad, *(weight.grad for weight in model.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("sides", [(4, 4), (9, 12)], ids=str)
def test_the_gradient_by_taps_is_the_gradient(name: str, sides: tuple[int, int]):
    torch.manual_seed(0)
    plain = nn.Sequential(copy.deepcopy(CONVOLUTIONS[name])).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = copy.deepcopy(plain)
    learn_by_taps(model)
    assert type(model[0]) is TapConv2d and list(model.state_dict()) == list(plain.state_dict())
    images = torch.randn(3, 6, *sides, dtype=torch.float64).to(memory_format=torch.channels_last)
    for ours, theirs in zip(gradients_of(model, images), gradients_of(plain, images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OTHERS)
def test_other_convolutions_stay(name: str):
    model = nn.Sequential(OTHERS[name])
    learn_by_taps(model)
    assert model[0] is OTHERS[name]


def test_a_network_keeps_its_names_its_weights_and_its_frozen_ones():
    network = EfficientNetLiteRegressor(4, head=Heatmap(4, (8, 8)), size=(64, 64))
    before = dict(network.named_parameters())
    network.freeze()
    learn_by_taps(network)
    assert dict(network.named_parameters()).keys() == before.keys()
    assert all(weight is before[name] for name, weight in network.named_parameters())
    taps = [module for module in network.modules() if type(module) is TapConv2d]
    assert len(taps) == 9 + 2 and {module.training for module in taps} == {True, False}  # the head's, the backbone's
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    assert {module.weight.grad is None for module in taps if not module.training} == {True}
    assert {module.weight.grad is None for module in taps if module.training} == {False}


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_it_is_the_same_gradient():
    torch.manual_seed(0)
    plain = nn.Sequential(copy.deepcopy(CONVOLUTIONS["5 x 5"]), nn.ReLU6())
    model = copy.deepcopy(plain)
    learn_by_taps(model)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # of CUDA
    images = torch.randn(3, 6, 8, 8)
    for ours, theirs in zip(gradients_of(torch.compile(model), images), gradients_of(plain, images), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


KEEPS = """
import resource, sys
import torch
from keylite.pytorch.cpu import keep_memory
if "keep" in sys.argv:
    keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10**7)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(8)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_is_kept():
    def faults(*flags: str) -> int:
        done = subprocess.run([sys.executable, "-c", KEEPS, *flags], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert 10 * faults("keep") < faults()


def test_a_short_training_is_not_compiled_and_a_broken_compiler_is_said(monkeypatch, caplog):
    def broken(_):
        raise RuntimeError("no compiler\nmore lines")

    caplog.set_level(logging.INFO, "keylite")
    cpu, auto = torch.device("cpu"), make_recipe({})
    monkeypatch.setattr(torch, "compile", broken)
    assert not compiles(auto, cpu, WORTH_COMPILING - 1) and not caplog.messages
    assert not compiles(auto, cpu, WORTH_COMPILING)
    assert "compile: off, because it does not work here (no compiler)" in caplog.messages
    assert not compiles(make_recipe({"compile": "off"}), cpu, WORTH_COMPILING)
    require_compiler(auto, cpu)
    with pytest.raises(ValueError, match=r"^compile: does not work here \(no compiler\); install a C\+\+ compiler"):
        require_compiler(make_recipe({"compile": "on"}), cpu)
