"""Three ways to train faster on a CPU: memory that is kept, a compiled step, a faster gradient of convolutions."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import torch
from timm.layers import Conv2dSame, pad_same
from torch import nn
from torch.nn import functional

from keylite.runtime.errors import ArgumentError
from keylite.training.recipe import Recipe

log = logging.getLogger("keylite")

ONEDNN_HAS = 3  # largest side of the kernels for which oneDNN has a fast gradient
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from malloc.h of glibc
ALL = 2**31 - 1
WORTH_COMPILING = 6000  # steps: compiling takes about a minute on a CPU, and saves some 10 ms per step


def keep_memory() -> None:
    """Let this process keep memory that it has freed; only with glibc as the C library.

    glibc returns large blocks to the system at once, so each training step would ask for them again: some 40,000 pages,
    which the system must find and clear.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS, musl, Windows
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, ALL)


def compiles(recipe: Recipe, device: torch.device, steps: int) -> bool:
    """Whether to compile the training step; the log says so. `require_compiler` was called before."""
    if recipe.compile == "off" or (recipe.compile == "auto" and (device.type != "cpu" or steps < WORTH_COMPILING)):
        return False
    failure = _failure(device) if recipe.compile == "auto" else None
    if failure is not None:
        log.info("compile: off, because it does not work here (%s)", failure)
        return False
    log.info("the first step is compiled, which takes about a minute; `compile='off'` avoids that")
    return True


def require_compiler(recipe: Recipe, device: torch.device) -> None:
    """Raise ArgumentError if the recipe says `compile='on'`, and it does not work."""
    failure = _failure(device) if recipe.compile == "on" else None
    if failure is not None:
        raise ArgumentError(f"compile: does not work here ({failure}); install a C++ compiler, or use `compile='off'`")


def _failure(device: torch.device) -> str | None:
    """The first line of the error that compiling ends with. None: it works."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of CUDA, which is not used here
    try:
        torch.compile(lambda values: values + 1)(torch.zeros(2, device=device))
    except Exception as error:  # the compiler may be missing or fail in many ways
        return str(error).strip().splitlines()[0]
    return None


def learn_by_taps(model: nn.Module) -> None:
    """Replace depthwise convolutions larger than 3 x 3 by TapConv2d; names and parameters stay the same.

    For the gradient of their weights in channels_last, oneDNN (3.x) has fast code only up to 3 x 3; above that, this
    gradient takes longer than everything else in the layer. A sum for each tap (a place in the kernel) gives the same
    numbers, except for rounding. Compiled, it takes a fraction of that time; not compiled, it may take longer.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) in (nn.Conv2d, Conv2dSame) and _gains(child):  # type: ignore[arg-type]
                setattr(parent, name, TapConv2d(child))  # type: ignore[arg-type]


def _gains(conv: nn.Conv2d) -> bool:
    is_plain = conv.bias is None and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    is_large = isinstance(conv.padding, tuple) and min(conv.kernel_size) > ONEDNN_HAS
    return is_plain and is_large and conv.in_channels == conv.out_channels == conv.groups


class TapConv2d(nn.Conv2d):
    """A depthwise convolution with the weight of another one, and with its own gradient of this weight (`_taps`)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        channels, kernel = conv.out_channels, conv.kernel_size
        super().__init__(
            channels, channels, kernel, conv.stride, conv.padding, groups=channels, bias=False, device="meta"
        )
        self.weight = conv.weight
        self.same = isinstance(conv, Conv2dSame)
        self.train(conv.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.same:
            input = pad_same(input, self.kernel_size, self.stride)  # type: ignore[arg-type]
        if input.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not self.weight.requires_grad:
            return self._conv_forward(input, self.weight, None)
        return Depthwise.apply(input, self.weight, self.stride, self.padding)  # type: ignore[return-value]


class Depthwise(torch.autograd.Function):
    """A depthwise convolution: input (B, C, H, W), weight (C, 1, h, w) -> (B, C, H', W')."""

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(input, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        input, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            options = ctx.stride, ctx.padding, (1, 1), False, (0, 0), len(weight), (True, False, False)
            of_input = torch.ops.aten.convolution_backward(gradient, input, weight, None, *options)[0]
        if ctx.needs_input_grad[1]:
            of_weight = _taps(input, gradient, weight.shape, ctx.stride, ctx.padding)
        return of_input, of_weight, None, None


def _taps(
    input: torch.Tensor, gradient: torch.Tensor, shape: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> torch.Tensor:
    """The gradient of the weight: for each tap, the sum of its inputs times the gradients of the outputs."""
    (rows, columns), (down, right) = gradient.shape[2:], stride
    input = functional.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    sums = [
        (input[:, :, y : y + down * rows : down, x : x + right * columns : right] * gradient).sum((0, 2, 3))
        for y in range(shape[2])
        for x in range(shape[3])
    ]
    return torch.stack(sums, 1).view(shape)
