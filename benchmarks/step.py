"""How many images per second a training step of lite0 makes: keylite's two steps, compared with plain ones.

Each row has a process of its own, so that its settings of the C library or of a framework do not change other rows.
Run `python benchmarks/step.py --help`; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable

import numpy as np
import timm
import torch
from rounds import Facts, alone, figures, interleaved, machine, options, paragraph, spec_of, speeds, tell

from keylite.pytorch.cpu import keep_memory, learn_by_taps
from keylite.pytorch.losses import head_sums, loss
from keylite.pytorch.model import EfficientNetLiteRegressor, PixelModel
from keylite.pytorch.training import OPTIMIZERS
from keylite.runtime.heads import HEADS, Regression
from keylite.runtime.lite import PIXEL_MEAN, PIXEL_STD
from keylite.training.recipe import Recipe
from keylite.training.schedule import LRS

TITLE = "Training step"
KEYPOINTS = 68
BASE = "plain: contiguous float NCHW"  # every ratio is against this row
Step = Callable[[int], None]


def training_step(
    recipe: Recipe,
    keypoints: int,
    *,
    compiled: bool = False,
    device: str = "cpu",
    wrapped: Callable[[torch.nn.Module], torch.nn.Module] = lambda model: model,
) -> Step:
    """The step of pytorch/training.py without clipping and moving average.

    It takes uint8 NHWC pixels, in channels_last, with the recipe's head, loss and optimizer. wrapped: makes a model
    that shares its gradients with other processes.
    """
    head = HEADS[recipe.head](keypoints, recipe.hidden, recipe.input_size)
    network = EfficientNetLiteRegressor(keypoints, recipe.backbone, head=head, size=recipe.input_size)
    own = PixelModel(network, PIXEL_MEAN, PIXEL_STD).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device == "cpu":
        keep_memory()
    if compiled:
        learn_by_taps(own)
        own.compile()
    model = wrapped(own)
    criterion = loss(recipe.loss, recipe.input_size)
    group = {"params": list(model.parameters()), "lr": LRS[recipe.head]}
    optimizer = OPTIMIZERS[recipe.optimizer]([group], recipe, True)
    pixels, unit_xy = (part.to(device) for part in made_batch(recipe.batch, recipe.input_size[0], keypoints))
    weight = torch.ones(recipe.batch, keypoints, device=device)

    def step(_: int) -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bf16"):
            raw = model(pixels)
        total, count, _xy = head_sums(head, criterion, raw.float(), unit_xy, weight, None)
        (total / count).backward()
        optimizer.step()

    return step


def keylite_step(batch: int, size: int, *, compiled: bool = False) -> Step:
    """keylite's step in PyTorch."""
    return training_step(Recipe(head="regression", size=size, batch=batch), KEYPOINTS, compiled=compiled)


def tensorflow_step(batch: int, size: int) -> Step:
    """The step of tensorflow/training.py, also without clipping and moving average."""
    import tensorflow as tf  # after timm: see docs/tensorflow.md, "Both in one process"

    from keylite.tensorflow import training as keras_training
    from keylite.tensorflow.model import use_threads as use_tensorflow_threads

    use_tensorflow_threads(torch.get_num_threads())
    recipe = Recipe(framework="tensorflow", size=size, ema=0.0, clip=0.0)
    spec = spec_of(Regression(KEYPOINTS), recipe.input_size)
    training = keras_training.Training(keras_training.EfficientNetLiteRegressor(KEYPOINTS), spec, recipe)
    training.begin(frozen=False)
    train_step = tf.function(training.train_step)
    pixels, unit_xy = made_batch(batch, size)
    data = tf.constant(pixels.numpy()), tf.constant(unit_xy.numpy()), tf.ones((batch, KEYPOINTS))

    def step(_: int) -> None:
        float(train_step(data)["loss"])

    return step


def plain_step(batch: int, size: int) -> Step:
    """The same network with default settings: normalised float images, mean squared error, AdamW."""
    return stepped(EfficientNetLiteRegressor(KEYPOINTS), batch, size, (KEYPOINTS, 2))


def timm_step(batch: int, size: int, memory: torch.memory_format = torch.contiguous_format) -> Step:
    """timm's classifier with as many outputs, trained in the same plain way."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=2 * KEYPOINTS)
    return stepped(network, batch, size, (2 * KEYPOINTS,), memory)


def stepped(
    network: torch.nn.Module,
    batch: int,
    size: int,
    shape: tuple[int, ...],
    memory: torch.memory_format = torch.contiguous_format,
) -> Step:
    network = network.train().to(memory_format=memory)  # type: ignore[call-overload]
    criterion, optimizer = torch.nn.MSELoss(), torch.optim.AdamW(network.parameters())
    pixels, unit_xy = made_batch(batch, size)
    images = ((pixels.float() - PIXEL_MEAN[0]) / PIXEL_STD[0]).permute(0, 3, 1, 2).contiguous(memory_format=memory)
    truth = unit_xy.reshape(batch, *shape)

    def step(_: int) -> None:
        optimizer.zero_grad()
        criterion(network(images), truth).backward()
        optimizer.step()

    return step


def made_batch(batch: int, size: int, keypoints: int = KEYPOINTS) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pixels uint8 (B, H, W, 3) and unit_xy (B, K, 2)."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (batch, size, size, 3), np.uint8)
    return torch.from_numpy(pixels), torch.from_numpy(generator.random((batch, keypoints, 2), np.float32))


Maker = Callable[[int, int], Step]
ROWS: dict[str, Maker] = {
    BASE: plain_step,
    "keylite, pytorch: uint8 NHWC, channels_last": keylite_step,
    "keylite, pytorch: the same, compiled": functools.partial(keylite_step, compiled=True),
    "keylite, tensorflow: uint8 NHWC": tensorflow_step,
    "timm classifier: contiguous float NCHW": timm_step,
    "timm classifier: channels_last": functools.partial(timm_step, memory=torch.channels_last),
}


def parser() -> argparse.ArgumentParser:
    found = options(__doc__)
    found.add_argument("--batch", type=int, nargs="+", default=[16, 32], help="batch sizes (default 16 32)")
    found.add_argument("--threads", type=int, default=1, help="threads of each framework (default 1)")
    found.add_argument("--steps", type=int, default=2, help="steps per round (default 2)")
    return found


def measure(choices: argparse.Namespace) -> Facts:
    """The figures of each batch size."""
    batches = {}
    for batch in choices.batch:
        with contextlib.ExitStack() as stack:
            rows = {
                name: stack.enter_context(alone(make, batch, choices.size, threads=choices.threads))
                for name, make in ROWS.items()
            }
            seconds = interleaved(rows, choices.steps, choices.rounds)
        batches[batch] = figures(seconds, batch * choices.steps, BASE)
    facts = {"size": choices.size, "steps": choices.steps, "rounds": choices.rounds, "batches": batches}
    return machine(choices.threads) | facts


def section(facts: Facts) -> str:
    """The part of the page."""
    parts = [
        paragraph(
            "A step is forward, loss, backward and optimizer of lite0 with the regression head,",
            f"{KEYPOINTS} keypoints, {facts['size']} px, {facts['threads']} thread(s). Figures are medians of",
            f"{facts['rounds']} rounds of",
            f"{facts['steps']} steps. The ratio says how many times as fast as the first row a row is.",
        )
    ]
    for batch, rows in facts["batches"].items():
        parts += [f"Batches of {batch}:", speeds(rows)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    tell(sys.modules[__name__], None)
