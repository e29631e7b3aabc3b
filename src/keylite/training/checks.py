"""Checks of a recipe and both parts of the data before a run begins: errors, warnings and the choice of the mirror."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

import msgspec
import numpy as np

from keylite.data.checks import hardly_labelled
from keylite.data.dataset import Dataset
from keylite.data.examples import crop_boxes, seen_xy
from keylite.data.likeness import Alike, alike
from keylite.data.mirror import choose_mirror, from_pairs
from keylite.evaluation.normaliser import read_normaliser
from keylite.runtime.errors import ArgumentError, DataError
from keylite.runtime.progress import step
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.words import SHOWN, counted, listed
from keylite.training.recipe import Recipe, Resolved
from keylite.training.teacher import Teacher

log = logging.getLogger("keylite")


def require_parts(recipe: Recipe, data: Dataset, val: Dataset) -> None:
    """Raise ArgumentError if the recipe and the parts of the data do not go together, before any image is read."""
    if line := unlike_line(data, val):
        raise ArgumentError(line)
    for part in (data, val):
        crop_boxes(part, recipe.box)
    if recipe.normalize != "auto":
        read_normaliser(recipe.normalize, val.skeleton.names)
    if min(recipe.batch, len(data)) == 1 and max(recipe.input_size) <= 32:
        raise ArgumentError(
            "batch: with one object of 32 px, normalisation gets a single value; use a batch of 2, or size 64"
        )


def unlike_line(data: Dataset, val: Dataset) -> str:
    """The line about two parts whose keypoints differ, which training refuses. Empty if they are the same."""
    if data.skeleton.names == val.skeleton.names:
        return ""
    return (
        f"val: has {len(val.skeleton)} keypoints {_brief(val.skeleton)}, but the training data have "
        f"{len(data.skeleton)} {_brief(data.skeleton)}; both must name the same keypoints in the same order"
    )


def warn_of_overlap(data: Dataset, val: Dataset) -> None:
    """Warn if both parts are the same, or share groups."""
    if line := overlap_line(data, val):
        log.warning("%s", line)


def overlap_line(data: Dataset, val: Dataset) -> str:
    """The line about two parts that are the same, or share groups: validation measures nothing new. Empty if not."""
    if data.fingerprint() == val.fingerprint():
        return (
            f"val ({val.called}) holds the same labelled images as the training data ({data.called}): its figures will "
            "flatter, and the best epoch cannot be chosen by them; give other images as `val`, or leave `val` out"
        )
    shared = data.shared_groups(val)
    line = f"val shares {len(shared)} groups with the training data: its figures and sigma will flatter"
    return listed(line, shared) if shared else ""


def warn_of_parts_alike(data: Dataset, val: Dataset) -> None:
    """Warn if both parts hold the same picture, under any name."""
    if data.likeness is None or val.likeness is None or data.fingerprint() == val.fingerprint():
        return
    same = alike(val.likeness, data.likeness)
    what = f"of val ({val.called}) are in the training data, too"
    warn_of_alike(same, what, val.image_names, data.image_names)


def warn_of_alike(same: Alike, what: str, names: Sequence[str], others: Sequence[str]) -> None:
    """Warn if held-out pictures are also trained on.

    same: which are equal, or nearly. what: for the line, where they are. names: of the held-out pictures. others: of
    the pictures that they may be equal to.
    """
    numbers = np.flatnonzero(same.other >= 0)
    if len(numbers) == 0:
        return
    equal = int(same.equal.sum())
    kinds = {"equal": equal, "nearly equal": len(numbers) - equal}
    counts = " and ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    shown = [(i, int(same.other[i])) for i in numbers[:SHOWN].tolist()]
    pairs = [f"{names[i]} {'=' if same.equal[i] else '~'} {others[other]}" for i, other in shown]
    line = f"{len(numbers)} of {len(names)} pictures {what} ({counts}): figures will flatter"
    log.warning(
        "%s; hold out whole subjects and clips (`group`), and whole runs of the frames of one video "
        "(`group='block:N'`, or `folds=N` `blocks=True`)", listed(line, pairs, len(numbers)),
    )  # fmt: skip


def warn_of_lengths(recipe: Resolved) -> None:
    """Warn if the warm-up or the frozen epochs are as long as the run, or if random weights are frozen."""
    if recipe.warmup_epochs >= recipe.epochs:
        log.warning(
            "the warm-up (%g epochs) is as long as the run (%d epochs): the learning rate never reaches lr; lower "
            "warmup_epochs", recipe.warmup_epochs, recipe.epochs,
        )  # fmt: skip
    if recipe.freeze_epochs and recipe.pretrained == "none":
        log.warning(
            "the backbone is frozen with random weights (pretrained none, freeze_epochs %d)", recipe.freeze_epochs
        )
    if recipe.freeze_epochs >= recipe.epochs:
        log.warning("the backbone stays frozen for the whole run (freeze_epochs %d)", recipe.freeze_epochs)


def unlearnt_of(recipe: Recipe, data: Dataset, teacher: Teacher | None) -> dict[str, int]:
    """The keypoints that neither labels nor teacher teach well, as in a spec."""
    counts = hardly_labelled(data, data.xy if recipe.visibility_1 == "train" else seen_xy(data))
    return counts if teacher is None else teacher.unlearnt(counts)


def say_visibility(recipe: Recipe, data: Dataset, quiet: bool) -> None:
    """Log how many hidden points are left out, and what is kept without an effect; DataError if no point is left.

    quiet: only the error, because the rest was said before.
    """
    left = np.isfinite(data.xy if recipe.visibility_1 == "train" else seen_xy(data)).all(axis=2)
    if not left.any():
        raise DataError(
            f"{data.called}: all {int(data.labelled.sum())} labelled points are hidden (visibility 1), and "
            f"`visibility_1='{recipe.visibility_1}'` leaves them out; use `visibility_1='train'`"
        )
    if quiet:
        return
    if hidden := int(data.labelled.sum() - left.sum()):
        log.info("%s: left out of training: %s (`visibility_1='%s'`)", data.called, counted(hidden, "hidden point"),
                 recipe.visibility_1)  # fmt: skip
    kept = [name for name in ("visibility_0", "visibility_1") if getattr(recipe, name) == "absent"]
    for name in kept:
        log.warning("%s: absent is kept in the model file, but keylite does not learn yet whether a point is there; "
                    "these points teach nothing, as with ignore", name)  # fmt: skip


def _brief(skeleton: Skeleton) -> str:
    names = skeleton.names
    return f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def with_mirror(recipe: Recipe, data: Dataset) -> Skeleton:
    """The skeleton with the mirror pairs that training will use; the log says them."""
    skeleton = data.skeleton
    if recipe.mirror == "off":
        log.info("mirror: off, as the recipe says; no image is flipped")
        return msgspec.structs.replace(skeleton, mirror=None)
    pairs = None if isinstance(recipe.mirror, str) else from_pairs(recipe.mirror, skeleton.names)
    long = len(data) * len(skeleton) > 50_000  # so many points take more than a second
    with step("looking for what a flip swaps") if long else contextlib.nullcontext():
        mirror = choose_mirror(data, pairs, recipe.seed)
    log.log(logging.WARNING if mirror.warning else logging.INFO, "%s", mirror.line)
    skeleton = msgspec.structs.replace(skeleton, mirror=mirror.permutation)
    if skeleton.mirror is not None:
        log.info("mirror pairs: %s", ", ".join(f"{a}-{b}" for a, b in skeleton.mirror_pairs()) or "none, all central")
    return skeleton
