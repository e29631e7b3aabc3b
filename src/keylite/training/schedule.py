"""How long and how fast to train: what replaces `auto`, the learning rate, the decay of the moving average, the cache.

LRS were chosen by the figures in docs/results.md (rle has the rate of regression), the other numbers by judgement.
"""

from __future__ import annotations

import logging
import math

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.examples import Examples, kept_bytes
from keylite.evaluation.metrics import median_extent
from keylite.runtime.errors import ArgumentError
from keylite.runtime.lite import LITE, STAGES
from keylite.runtime.machine import free_memory
from keylite.runtime.words import counted
from keylite.training.processes import processes
from keylite.training.recipe import AUTO, Recipe, Resolved, augments_as_usual, to_dict

log = logging.getLogger("keylite")

# USUAL_OBJECTS is the number of training objects in the face data of docs/results.md. Another number of objects gets
# USUAL_EPOCHS times the square root of USUAL_OBJECTS / objects.
USUAL_EPOCHS, USUAL_OBJECTS = 20, 2795
FEWEST_EPOCHS, MOST_EPOCHS = 6, 300
WARMUP_SHARE, WARMUP_STEPS, LONGEST_WARMUP = 0.05, 20, 0.2  # share of all steps; fewest steps; largest share
KEPT_STAGES = {"regression": STAGES, "rle": STAGES, "simcc": 5, "heatmap": 5}  # by head, of lite0 to lite4
LRS = {"regression": 5e-4, "rle": 5e-4, "simcc": 3e-3, "heatmap": 3e-3}  # by head, for adam and adamw
SHARE_OF_MEMORY = 0.25  # the part of free memory that decoded images may take
STRENGTHS = {0: 1.25, 500: 1.0, 20_001: 0.75}  # by the number of objects from which each holds


def resolve(recipe: Recipe, data: Dataset, count: int | None = None, quiet: bool = False) -> Resolved:
    """The recipe with numbers for what it leaves to auto; they follow from the training data, and the log says them.

    data: the training data, whose images are checked by now. count: the number of objects to train on, if these are not
    all of `data`. quiet: the numbers were settled and logged before. Raises ArgumentError if no point is labelled, if
    processes outnumber the objects, or if lr is auto with sgd.
    """
    if not data.labelled.any():
        raise ArgumentError(
            f"{data.called}: none of the {len(data)} training objects has a labelled point; label some of them"
        )
    count = len(data) if count is None else count
    if count < processes(recipe):
        raise ArgumentError(
            f"devices: {processes(recipe)} processes share {count} training objects; take fewer processes"
        )
    stages, epochs, lr, warmup, strength, normalize = (getattr(recipe, name) for name in AUTO)
    if stages == "auto":
        stages = KEPT_STAGES[recipe.head] if recipe.backbone in LITE else STAGES
    if epochs == "auto":
        wanted = round(USUAL_EPOCHS * recipe.effort * math.sqrt(USUAL_OBJECTS / count))
        epochs = min(max(wanted, FEWEST_EPOCHS), MOST_EPOCHS)
    if lr == "auto":
        if recipe.optimizer == "sgd":
            raise ArgumentError("lr: auto is for adam and adamw; give a number for sgd, such as 0.01")
        lr = LRS[recipe.head]
    batch = batch_of(recipe, count)
    epoch_steps = math.ceil(count // (batch * processes(recipe)) / recipe.accumulate)
    steps = epochs * epoch_steps
    if warmup == "auto":
        warmup = round(min(max(WARMUP_SHARE * steps, WARMUP_STEPS), LONGEST_WARMUP * steps) / epoch_steps, 4)
    if strength == "auto":
        by_size = STRENGTHS[max(start for start in STRENGTHS if start <= count)]
        strength = by_size if augments_as_usual(recipe) else 1.0  # 1: a range that the user gave stays as it is
    log.log(
        logging.DEBUG if quiet else logging.INFO,
        "%s: %s (%s of %d), lr %g after %g epoch%s of warm-up, augmentation x%g",
        counted(count, "object"), counted(epochs, "epoch"), counted(steps, "step"),
        batch * processes(recipe) * recipe.accumulate, lr, warmup, "" if warmup == 1 else "s", strength,
    )  # fmt: skip
    if normalize == "auto":
        normalize = _divisor(recipe.box, data)
    settled = dict(zip(AUTO, (stages, epochs, lr, warmup, strength, normalize), strict=True))
    return msgspec.convert(to_dict(recipe) | settled, Resolved)


def _divisor(box: str, data: Dataset) -> str:
    """The normaliser if the recipe leaves it to auto: the object's size, by its box or by the extent of its points."""
    if box == "annotation":
        return "box_diagonal"
    extent = median_extent(data.xy, data.whole_boxes())
    if extent is None:
        log.info(
            "errors are divided by the image's diagonal, because a single point has no extent; `normalize` takes "
            "another length"
        )
        return "box_diagonal"
    log.info(
        "errors are divided by %.4g of the image's diagonal: the median extent of the training objects' points, "
        "%.1f px; 1 %% is %.2f px", extent[1], extent[0], extent[0] / 100,
    )  # fmt: skip
    return f"{np.format_float_positional(extent[1], 4, fractional=False, trim='-')} x box_diagonal"


def batch_of(recipe: Recipe, count: int) -> int:
    """Objects per batch of one process, if there are `count` in all; objects left over come in another epoch."""
    return max(1, min(recipe.batch, count // processes(recipe)))


def lr_factor(recipe: Resolved, step: int, steps_per_epoch: int) -> float:
    """The share of the peak learning rate at optimizer step `step`, counted from 0 over the whole run.

    It rises linearly in the warm-up, then follows the recipe's schedule.
    """
    warmup, steps = round(recipe.warmup_epochs * steps_per_epoch), recipe.epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def ema_decay(recipe: Recipe, step: int) -> float:
    """The share of the old moving average that is kept after optimizer step `step`, counted from 0."""
    return min(recipe.ema, (1 + step) / (10 + step))  # TensorFlow's ExponentialMovingAverage(num_updates=step)


def caches(recipe: Recipe, examples: Examples) -> bool:
    """Whether to keep decoded images in memory; logged if keylite decides it."""
    if recipe.cache != "auto":
        return recipe.cache == "ram"
    free = free_memory()
    if free is None:
        return False
    needed = kept_bytes(examples) * recipe.devices
    if needed > SHARE_OF_MEMORY * free:
        return False
    log.info("decoded images are kept in memory: about %.2f of %.1f GB free; `cache='off'` avoids that",
             needed / 1e9, free / 1e9)  # fmt: skip
    return True
