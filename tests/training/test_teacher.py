"""What may teach, in which order and with which weights; what may not is one line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

save = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch] or keylite[tensorflow]").save

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.runtime.heads import Heatmap, Regression, Simcc
from keylite.runtime.modelfile import write_safetensors
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import DataId, ModelSpec
from keylite.training.recipe import Recipe, make_recipe
from keylite.training.teacher import find_teacher, same_maps, warn_of_teacher

NAMES = ("nose", "left_eye", "right_eye", "chin")
OTHER_ORDER = ("chin", "nose", "right_eye", "left_eye")


@pytest.fixture
def data(make_spec: Callable[..., ModelSpec]) -> Dataset:
    """Four objects of four points; of each object, one point has no label."""
    xy = np.random.default_rng(0).uniform(5, 55, (4, 4, 2))
    xy[np.arange(4), np.arange(4)] = np.nan
    images = list(np.zeros((4, 64, 64, 3), np.uint8))
    return from_arrays(images, xy, skeleton=make_spec().skeleton, boxes=np.tile([0.0, 0, 60, 60], (4, 1)))


@pytest.fixture
def taught(make_spec: Callable[..., ModelSpec], tmp_path: Path) -> Callable[..., Recipe]:
    """A function: (changes of the teacher's spec, choices) -> a recipe whose teacher is a model file of this spec."""

    def make(changes: dict | None = None, **choices: object) -> Recipe:
        write_safetensors(tmp_path / "teacher.safetensors", save({}), make_spec(**(changes or {})))
        fits = {"size": 64, "teacher": str(tmp_path / "teacher.safetensors")}
        return make_recipe(fits | choices)

    return make


def test_without_a_teacher_there_is_none(data: Dataset):
    assert find_teacher(Recipe(), data) is None


def test_labels_and_teacher_have_their_shares_of_the_weights(taught, data: Dataset):
    """A quarter of the points has no label, so each of the others weighs 4/3."""
    teacher = find_teacher(taught(teacher_weight=0.2), data)
    assert teacher is not None
    assert teacher.places == (0, 1, 2, 3)
    assert teacher.weights == (0.2,) * 4
    labels, teachers = teacher.label_weight * data.labelled.sum(), len(data) * sum(teacher.weights)
    assert (labels, teachers) == (pytest.approx(0.8 * 16), pytest.approx(0.2 * 16))
    assert find_teacher(taught(teacher_weight=1), data).label_weight == 0


def test_keypoints_in_another_order_are_found_by_name(taught, data: Dataset):
    teacher = find_teacher(taught({"skeleton": Skeleton(OTHER_ORDER)}), data)
    assert teacher is not None
    assert [OTHER_ORDER[place] for place in teacher.places] == list(NAMES)


def test_what_the_teacher_has_not_learnt_it_does_not_teach(taught, data: Dataset, caplog):
    unlearnt = {"chin": 0, "left_eye": 2}
    teacher = find_teacher(taught({"unlearnt": unlearnt, "skeleton": Skeleton(OTHER_ORDER)}), data)
    assert teacher is not None
    assert teacher.weights == (0.5, 0.5, 0.5, 0)
    assert teacher.label_weight == pytest.approx(0.5 * 12 / 12)
    # "nose" is learnt from the teacher; nobody has taught "chin" well
    assert teacher.unlearnt({"nose": 0, "chin": 0, "left_eye": 1}) == {"chin": 0, "left_eye": 2}
    with caplog.at_level(logging.INFO, "keylite"):
        warn_of_teacher(teacher, data)
    assert "the teacher has not learnt these keypoints, so labels alone teach them: chin" in caplog.text


def test_without_a_weight_a_teacher_has_no_effect_and_that_is_said(taught, data: Dataset, caplog):
    assert find_teacher(taught(teacher_weight=0), data) is None
    assert "has no effect, because teacher_weight is 0" in caplog.text


@pytest.mark.parametrize(("weight", "lines"), [(0.5, 0), (0.3, 1), (0, 1)])
def test_without_a_teacher_a_weight_has_no_effect_and_that_is_said(weight: float, lines: int, data: Dataset, caplog):
    assert find_teacher(Recipe(teacher_weight=weight), data) is None
    said = [record.getMessage() for record in caplog.records]
    assert (
        said
        == [
            f"teacher_weight: {weight:g} has no effect, because there is no teacher; name one as `teacher`, or leave it out"
        ]
        * lines
    )


def test_a_teacher_that_has_seen_the_validation_set_is_said(taught, data: Dataset, make_spec, caplog):
    seen = msgspec.structs.replace(make_spec().provenance, data=DataId("val", data.fingerprint()))
    for provenance, said in ((seen, True), (make_spec().provenance, False)):
        caplog.clear()
        warn_of_teacher(find_teacher(taught({"provenance": provenance}), data), data)
        assert ("was trained on the images of val" in caplog.text) == said


FIVE = Skeleton((*NAMES[:3], "brow", "ear"))
REFUSED = {  # changes of the teacher, choices, words
    "no model file": ({}, {"teacher": "teacher.onnx"}, r"teacher: expected a \.safetensors model file, or none, got"),
    "a missing file": ({}, {"teacher": "no.safetensors"}, "teacher: no.safetensors: no such model file"),
    "other keypoints": (
        {"skeleton": FIVE, "head": Regression(5), "mean_shape": None},
        {},
        r"expected the 4 keypoints of the training data, in any order, but it lacks 'chin', has 'brow', has 'ear'; take",
    ),
    "whole images": (
        {"box": "image", "padding": 0.0},
        {},
        r"expected crops as the student's \(box annotation, padding 0.25\), got box image, padding 0.0",
    ),
    "boxes for a student of whole images": ({}, {"box": "image"}, r"\(box image\), got box annotation; train"),
    "another padding": ({"padding": 0.1}, {}, r"got padding 0\.1; train both with the same"),
    "other proportions": ({"size": (64, 48)}, {}, "expected an input with the proportions of 64x64 px, got 64x48"),
    "timm in tensorflow": (
        {"backbone": "timm:resnet18"},
        {"framework": "tensorflow"},
        "expected a backbone of lite0, .*, got timm:resnet18; it needs `framework='pytorch'`",
    ),
    "nothing learnt": ({"unlearnt": dict.fromkeys(NAMES, 0)}, {}, "has learnt none of its keypoints"),
}


@pytest.mark.parametrize(("changes", "choices", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_teach_is_refused(changes: dict, choices: dict, words: str, taught, data: Dataset):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as refused:
        find_teacher(taught(changes, **choices), data)
    assert str(refused.value).startswith("teacher: ")


def test_a_damaged_teacher_is_refused(taught, data: Dataset):
    recipe = taught()
    whole = Path(recipe.teacher).read_bytes()
    for damaged in (whole[:-5], whole.replace(b"nose", b"mose"), b"", b"x" * 100):
        Path(recipe.teacher).write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^teacher: .*teacher\.safetensors: "):
            find_teacher(recipe, data)


@pytest.mark.parametrize(("student", "size"), [("96x72", (224, 168)), ("96x69", (224, 160)), ("64x46", (224, 160))])
def test_sizes_whose_proportions_differ_by_rounding_alone_fit(student: str, size: tuple, taught, data: Dataset):
    assert find_teacher(taught({"size": size}, size=student), data) is not None


def test_maps_are_learnt_if_both_have_the_same():
    maps = Heatmap(4, (8, 8))
    assert same_maps(maps, Heatmap(4, (8, 8), 16))
    for student, teacher in ((maps, Heatmap(4, (8, 9))), (maps, Regression(4)), (Simcc(4, (8, 8), (64, 64)), maps)):
        assert not same_maps(student, teacher)
