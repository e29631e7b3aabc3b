"""The teacher: a trained model whose maps and points a student learns beside its labels; what it must be. No framework.

Both twins open it (`load_teacher`), and weigh labels and teacher by the numbers of this module.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.examples import seen_xy
from keylite.runtime.errors import ArgumentError, naming
from keylite.runtime.heads import Head, Heatmap
from keylite.runtime.lite import LITE
from keylite.runtime.modelfile import read_spec
from keylite.runtime.spec import ModelSpec
from keylite.runtime.words import first_of, listed, quoted
from keylite.training.recipe import Recipe

log = logging.getLogger("keylite")

NAMED = 3  # keypoints that one line names
STRETCH = 0.01  # how far the proportions of both inputs may differ, because sides are whole px


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model file that teaches a student.

    places: for each keypoint of the student, its number in the teacher. weights: (K,), by the student's keypoints: the
    weight of a point of the teacher in the loss; 0 for a keypoint that the teacher has not learnt. label_weight: the
    weight of a labelled point.
    """

    path: Path
    spec: ModelSpec
    places: tuple[int, ...]
    weights: tuple[float, ...]
    label_weight: float

    def unlearnt(self, counts: dict[str, int]) -> dict[str, int]:
        """Which of the student's hardly labelled keypoints stay unlearnt, because its teacher has not learnt them.

        counts: keypoint -> the number of training objects that label it, as in a spec. The larger number stays.
        """
        own = self.spec.unlearnt
        return {name: max(count, own[name]) for name, count in counts.items() if name in own}


def find_teacher(recipe: Recipe, data: Dataset) -> Teacher | None:
    """The teacher that a recipe names; None if it names none, or gives it no weight.

    Labels and teacher each have their share of the loss: 1 - teacher_weight and teacher_weight. So if labels are rare,
    a labelled point weighs more. The weights are the same in all batches, so that one mean over the points of a step
    stays one mean. Raises ArgumentError, ModelFileError or FileNotFoundError if the file cannot teach these data.
    """
    if recipe.teacher == "none":
        if recipe.teacher_weight != Recipe().teacher_weight:
            log.warning(
                "teacher_weight: %g has no effect, because there is no teacher; name one as `teacher`, or leave it out",
                recipe.teacher_weight,
            )
        return None
    path = Path(recipe.teacher)
    if path.suffix.lower() != ".safetensors":
        inside = path / "model.safetensors"
        hint = f"; this is the folder of a run: take {inside}" if inside.is_file() else ""
        raise ArgumentError(f"teacher: expected a .safetensors model file, or none, got {quoted(recipe.teacher)}{hint}")
    with naming("teacher"):
        spec = read_spec(path)
    places = _places(path, spec, data.skeleton.names)
    _require_the_same_pixels(path, spec, recipe)
    if recipe.teacher_weight == 0:
        log.warning("teacher: %s has no effect, because teacher_weight is 0", path)
        return None
    weights = tuple(0.0 if place in spec.untaught else recipe.teacher_weight for place in places)
    taught = len(data) * sum(weight > 0 for weight in weights)
    taught_xy = data.xy if recipe.visibility_1 == "train" else seen_xy(data)
    labelled = int(np.isfinite(taught_xy).all(axis=2).sum())
    if not taught:
        raise ArgumentError(f"teacher: {path}: has learnt none of its keypoints; take another one")
    return Teacher(path, spec, places, weights, (1 - recipe.teacher_weight) * taught / max(labelled, 1))


def _places(path: Path, spec: ModelSpec, names: tuple[str, ...]) -> tuple[int, ...]:
    """For each keypoint of the student, its number in the teacher; ArgumentError unless the names are the same."""
    own = spec.skeleton.names
    problems = [f"lacks {quoted(name)}" for name in names if name not in own]
    problems += [f"has {quoted(name)}" for name in own if name not in names]
    if problems:
        raise ArgumentError(
            f"teacher: {path}: expected the {len(names)} keypoints of the training data, in any order, but it "
            f"{first_of(problems, NAMED, ', ')}; take a teacher of the same keypoints"
        )
    return tuple(own.index(name) for name in names)


def _require_the_same_pixels(path: Path, spec: ModelSpec, recipe: Recipe) -> None:
    """Raise ArgumentError unless the student's crops, resized, are what the teacher was trained on."""
    wanted = {"box": recipe.box} | ({"padding": recipe.padding} if recipe.box == "annotation" else {})
    other = [f"{name} {getattr(spec, name)}" for name, value in wanted.items() if getattr(spec, name) != value]
    if other:
        raise ArgumentError(
            f"teacher: {path}: expected crops as the student's ({', '.join(f'{k} {v}' for k, v in wanted.items())}), "
            f"got {', '.join(other)}; train both with the same"
        )
    (width, height), (columns, rows) = recipe.input_size, spec.size
    if abs(columns * height / (width * rows) - 1) > STRETCH:
        raise ArgumentError(
            f"teacher: {path}: expected an input with the proportions of {width}x{height} px, got {columns}x{rows}; "
            "give the student a `size` of the same proportions"
        )
    if recipe.framework == "tensorflow" and spec.backbone not in LITE:
        raise ArgumentError(
            f"teacher: {path}: expected a backbone of {', '.join(LITE)}, got {spec.backbone}; it needs "
            "`framework='pytorch'`"
        )


def warn_of_teacher(teacher: Teacher | None, val: Dataset) -> None:
    """Warn if the teacher was trained on the images that the student is measured on; say what it teaches."""
    if teacher is None:
        return
    known = teacher.spec.provenance.data
    if known.fingerprint == val.fingerprint():
        log.warning(
            "teacher: %s was trained on the images of val (%s), so the student's figures will flatter; take another "
            "teacher, or other images as `val`", teacher.path, val.called,
        )  # fmt: skip
    log.info("taught by %s (%s; trained on %s)", teacher.path, teacher.spec.network, known.name)
    if untaught := [name for name, count in teacher.spec.unlearnt.items() if count == 0]:
        log.info("%s", listed("the teacher has not learnt these keypoints, so labels alone teach them", untaught))


def same_maps(student: Head, teacher: Head) -> bool:
    """Whether the student can learn the teacher's maps, cell by cell; else it learns the teacher's points."""
    return isinstance(student, Heatmap) and isinstance(teacher, Heatmap) and student.grid == teacher.grid
