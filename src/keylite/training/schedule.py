"""How long and how fast to train: what the recipe leaves to auto, the learning rate at each step, the moving average.

LRS were chosen by the figures in docs/results.md (rle's is regression's), the other numbers by judgement.
"""

from __future__ import annotations

import logging
import math

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.metrics import median_extent
from keylite.runtime.errors import ArgumentError
from keylite.runtime.words import counted
from keylite.training.processes import processes
from keylite.training.recipe import AUTO, Recipe, Resolved, augments_as_usual, to_dict

log = logging.getLogger("keylite")

# So many epochs for so many objects, the training part of the face data that the figures in docs/results.md are of. For
# other numbers of objects, epochs grow with the root of USUAL_OBJECTS / objects.
USUAL_EPOCHS, USUAL_OBJECTS = 20, 2795
FEWEST_EPOCHS, MOST_EPOCHS = 6, 300
WARMUP_SHARE, WARMUP_STEPS, LONGEST_WARMUP = 0.05, 20, 0.2  # of all steps; at least; of all steps, at most
LRS = {"regression": 5e-4, "rle": 5e-4, "simcc": 3e-3, "heatmap": 3e-3}  # of adam and adamw, by head
STRENGTHS = {0: 1.25, 500: 1.0, 20_001: 0.75}  # from so many objects on


def resolve(recipe: Recipe, data: Dataset, count: int | None = None) -> Resolved:
    """The recipe with what it leaves to auto settled for this training data, and said in a line or two.

    count: of the objects to train on, if they are not all of `data`, whose images are checked by now.

    Raises ValueError where nothing is labelled, and for a learning rate that is left to auto with an optimizer that
    needs another.
    """
    if not data.labelled.any():
        raise ArgumentError(
            f"{data.called}: none of the {len(data)} training objects has a labelled point; label some of them"
        )
    count = len(data) if count is None else count
    if count < processes(recipe):
        raise ArgumentError(f"devices: {processes(recipe)} processes share {count} training objects; take fewer")
    epochs, lr, warmup, strength, normalize = (getattr(recipe, name) for name in AUTO)
    if epochs == "auto":
        wanted = round(USUAL_EPOCHS * recipe.effort * math.sqrt(USUAL_OBJECTS / count))
        epochs = min(max(wanted, FEWEST_EPOCHS), MOST_EPOCHS)
    if lr == "auto":
        if recipe.optimizer == "sgd":
            raise ArgumentError("lr: auto is for adam and adamw; give one for sgd: 0.01 is where to begin")
        lr = LRS[recipe.head]
    batch = batch_of(recipe, count)
    each = math.ceil(count // (batch * processes(recipe)) / recipe.accumulate)
    steps = epochs * each
    if warmup == "auto":
        warmup = round(min(max(WARMUP_SHARE * steps, WARMUP_STEPS), LONGEST_WARMUP * steps) / each, 4)
    if strength == "auto":
        by_size = STRENGTHS[max(start for start in STRENGTHS if start <= count)]
        strength = by_size if augments_as_usual(recipe) else 1.0  # who gives a range or a chance means that number
    log.info(
        "%s: %s (%s of %d), lr %g after %g epoch%s of warm-up, augmentation x%g",
        counted(count, "object"), counted(epochs, "epoch"), counted(steps, "step"),
        batch * processes(recipe) * recipe.accumulate, lr, warmup, "" if warmup == 1 else "s", strength,
    )  # fmt: skip
    if normalize == "auto":
        normalize = _divisor(recipe.box, data)
    settled = dict(zip(AUTO, (epochs, lr, warmup, strength, normalize), strict=True))
    return msgspec.convert(to_dict(recipe) | settled, Resolved)


def _divisor(box: str, data: Dataset) -> str:
    """What errors are divided by unless the recipe says it: the object's own size, whatever it is cut from."""
    if box == "annotation":
        return "box_diagonal"
    extent = median_extent(data.xy, data.whole_boxes())
    if extent is None:
        log.info(
            "errors are divided by the image's diagonal: one point has no extent; `normalize` takes another length"
        )
        return "box_diagonal"
    log.info(
        "errors are divided by %.4g of the image's diagonal: the median extent of the training objects' points, "
        "%.1f px; 1 %% is %.2f px", extent[1], extent[0], extent[0] / 100,
    )  # fmt: skip
    return f"{np.format_float_positional(extent[1], 4, fractional=False, trim='-')} x box_diagonal"


def batch_of(recipe: Recipe, count: int) -> int:
    """Objects in the batch of a process, of a data set of `count`; what is left waits for another epoch."""
    return max(1, min(recipe.batch, count // processes(recipe)))


def lr_factor(recipe: Resolved, step: int, steps_per_epoch: int) -> float:
    """The share of the peak learning rate at optimizer step `step`, counted from 0 over the whole run.

    It rises evenly through the warm-up, then follows the recipe's schedule.
    """
    warmup, steps = round(recipe.warmup_epochs * steps_per_epoch), recipe.epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def ema_decay(recipe: Recipe, step: int) -> float:
    """How much of the moving average of weights stays after optimizer step `step`, counted from 0."""
    return min(recipe.ema, (1 + step) / (10 + step))  # TensorFlow's ExponentialMovingAverage(num_updates=step)
