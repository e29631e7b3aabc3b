"""`keylite.suggest`: pictures that stand for many unsure ones are chosen, and none that is labelled or looks like another."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import keylite
from keylite.data.arrays import from_arrays
from keylite.data.likeness import likeness_of
from keylite.labels import variety
from keylite.labels.suggest import Suggestion, Suggestions
from keylite.labels.variety import Seen, chosen_rows, doubt_of, outline_of
from keylite.runtime.errors import ArgumentError, DataError
from keylite.runtime.images import write_image
from keylite.runtime.keypoints import Keypoints
from keylite.runtime.predictor import Predictor
from keylite.runtime.skeleton import Skeleton

SIDE = 48
PLACES = np.array([[0.2, 0.3], [0.4, 0.5], [0.5, 0.6], [0.7, 0.8]])


def painted(kind: int, number: int) -> np.ndarray:
    """A picture of its kind: a coarse pattern of its own, with a little noise."""
    coarse = np.random.default_rng(kind).integers(0, 255, (6, 6, 3)).astype(np.uint8)
    noise = np.random.default_rng([kind, number]).integers(0, 60, (12, 12, 3)).astype(np.uint8)
    resized = [cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) for each in (coarse, noise)]
    return cv2.addWeighted(resized[0], 0.75, resized[1], 1, 0)


def seen(kinds: list[int], doubt: list[float], numbers: list[int] | None = None) -> Seen:
    pictures = [painted(kind, number) for kind, number in zip(kinds, numbers or range(len(kinds)), strict=True)]
    outlines = np.array([outline_of(np.random.default_rng(kind).normal(0, 1, (4, 2))) for kind in kinds])
    return Seen(np.array([likeness_of(picture) for picture in pictures]), outlines, np.array(doubt))


def test_each_choice_stands_for_a_kind_and_unsure_kinds_go_first():
    kinds = [1] * 6 + [2] * 6 + [3] * 6
    rows = chosen_rows(seen(kinds, [0.1] * 6 + [0.9] * 6 + [0.5] * 6), None, 3)
    assert [kinds[row] for row in rows][:2] == [2, 3]
    assert sorted(kinds[row] for row in rows) == [1, 2, 3]


def test_what_is_like_labelled_pictures_comes_last():
    kinds = [1] * 6 + [2] * 6
    rows = chosen_rows(seen(kinds, [0.9] * 6 + [0.1] * 6), seen([1] * 3, [0.5] * 3, [90, 91, 92]), 1)
    assert kinds[rows[0]] == 2


def test_kinds_of_many_pictures_go_before_odd_ones():
    kinds = [1] * 8 + [2] * 8 + [3]
    rows = chosen_rows(seen(kinds, [0.5] * 17), None, 3)
    assert sorted(kinds[row] for row in rows[:2]) == [1, 2]


def test_equal_pictures_are_chosen_once_and_fewer_are_given():
    rows = chosen_rows(seen([1, 1, 2, 2], [0.5] * 4, [0, 0, 0, 0]), None, 4)
    assert len(rows) == 2
    flat = np.array([likeness_of(np.full((SIDE, SIDE, 3), grey, np.uint8)) for grey in (0, 90, 90)])
    assert sorted(chosen_rows(Seen(flat, np.zeros((3, 8)), np.ones(3)), None, 3)) in ([0, 1], [0, 2])


def test_of_many_pictures_some_are_looked_at_and_the_same_ones_each_time(monkeypatch):
    monkeypatch.setattr(variety, "CANDIDATES", 8)
    monkeypatch.setattr(variety, "AUDIENCE", 5)
    pool = seen([1, 2, 3] * 10, [0.5] * 30)
    rows = chosen_rows(pool, None, 4)
    assert rows == chosen_rows(pool, None, 4)
    assert len(set(rows)) == 4


def test_doubt_is_sigma_by_the_box_else_the_score():
    nothing = np.full((2, 4), np.nan)
    boxes = np.array([[0, 0, 10, 20], [0, 0, 40, 10]], float)
    sigma = np.array([[1, 1, np.nan, 1], [4, 4, 4, 4.0]])
    made = {name: Keypoints(np.zeros((2, 4, 2)), score, sigma_, boxes, Skeleton(("a", "b", "c", "d"))) for
            name, score, sigma_ in (("sigma", nothing, sigma), ("score", np.array([[0.9] * 4, [0.2] * 4]), nothing),
                                    ("nothing", nothing, nothing))}  # fmt: skip
    assert doubt_of(made["sigma"]).tolist() == [0.05, 0.1]
    low, high = doubt_of(made["score"])
    assert low < high
    assert doubt_of(made["nothing"]).tolist() == [0, 0]


def test_outlines_do_not_depend_on_place_and_size():
    points = np.random.default_rng(0).normal(0, 1, (4, 2))
    assert np.allclose(outline_of(points), outline_of(7 * points + 30))
    points[2] = np.nan
    assert np.isfinite(outline_of(points)).all()
    assert outline_of(np.full((4, 2), np.nan)).tolist() == [0] * 8


# ---- from pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """12 pictures of three kinds."""
    folder = tmp_path_factory.mktemp("pool")
    paths = [folder / f"{number:02}.png" for number in range(12)]
    for number, path in enumerate(paths):
        write_image(path, painted(number % 3, number))
    return paths


@pytest.fixture(scope="module")
def predictor(make_spec) -> Predictor:
    """A model that always gives the same points, and no scores."""
    raw = PLACES.astype(np.float32)
    return Predictor.of(lambda pixels: np.tile(raw, (len(pixels), 1, 1)), make_spec(box="image"))


def labelled(images: list[Path], predictor: Predictor) -> keylite.Dataset:
    return from_arrays(images, np.tile(PLACES * SIDE, (len(images), 1, 1)), skeleton=predictor.spec.skeleton)


def test_labelled_pictures_and_their_copies_are_left_out(pictures: list[Path], predictor: Predictor, tmp_path: Path):
    copy = tmp_path / "copy.jpg"
    cv2.imwrite(str(copy), cv2.imread(str(pictures[5])))
    chosen = keylite.suggest(
        predictor, [*pictures, pictures[0], copy], count=20, data=labelled(pictures[4:], predictor)
    )
    assert (chosen.count, chosen.labelled) == (13, 9)
    assert sorted(chosen.images) == [str(path) for path in pictures[:4]]
    assert "4 pictures in place of 20: the others are labelled, or nearly equal to these" in chosen.notes
    assert "pictures are chosen by variety alone" in str(chosen)
    with pytest.raises(ArgumentError, match="but all 12 are labelled already"):
        keylite.suggest(predictor, pictures, data=labelled(pictures, predictor))


def test_boxes_are_objects_and_a_picture_without_one_is_left_out(pictures: list[Path], make_spec):
    asked = []
    predictor = Predictor.of(
        lambda pixels: asked.append(len(pixels)) or np.tile(PLACES.astype(np.float32), (len(pixels), 1, 1)), make_spec()
    )
    boxes = [[0, 0, 30, 30], [10, 10, 40, 44]]
    chosen = keylite.suggest(predictor, [(pictures[0], boxes), (pictures[1], []), (pictures[2], boxes[:1])], count=2)
    assert {one.image: one.objects for one in chosen.pictures} == {str(pictures[0]): 2, str(pictures[2]): 1}
    assert (chosen.count, chosen.empty, sum(asked)) == (3, 1, 3)
    with pytest.raises(ArgumentError, match="expected a picture with a box, got 1 picture without"):
        keylite.suggest(predictor, [(pictures[1], [])])


def test_the_choice_can_be_copied_and_is_plain_json(pictures: list[Path], predictor: Predictor, tmp_path: Path):
    chosen = keylite.suggest(predictor, pictures, count=3)
    chosen.copy_to(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        Path(name).name for name in chosen.images
    )
    with pytest.raises(ArgumentError, match="folder: expected a new or empty folder"):
        chosen.copy_to(tmp_path / "new")
    assert [one["image"] for one in json.loads(chosen.to_json())["pictures"]] == chosen.images
    assert repr(chosen) == "Suggestions(3 of 12 pictures)"


WRONG = {
    "none": (lambda images: {"images": []}, ArgumentError, "images: expected pictures, got none"),
    "a text": (lambda images: {"images": "a.jpg"}, ArgumentError, "images: expected a list of paths, got a text"),
    "arrays": (lambda images: {"images": [np.zeros((4, 4, 3))]}, ArgumentError, "images: expected a path, got"),
    "no count": (lambda images: {"images": images, "count": 0}, ArgumentError, "count: expected"),
    "a missing one": (
        lambda images: {"images": [*images, "gone.png"]},
        DataError,
        "1 of 13 images cannot be used.*gone",
    ),
    "other labels": (
        lambda images: {"images": images, "data": from_arrays(images, np.ones((12, 3, 2)))},
        ArgumentError,
        "arrays: expected the model's 4 keypoints, got 3; give the labels",
    ),
}


@pytest.mark.parametrize(("made", "kind", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line(made, kind, words, pictures: list[Path], predictor: Predictor):
    with pytest.raises(kind, match=words):
        keylite.suggest(predictor, **made(pictures))


def test_pictures_whose_names_differ_in_their_suffix_are_copied(tmp_path: Path):
    paths = [tmp_path / name for name in ("a.jpg", "a.png")]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((8, 8, 3), 90 * number, np.uint8))
    pictures = tuple(Suggestion(str(path), 1, None) for path in paths)
    Suggestions("0.1.0", "", 2, 0, 0, pictures).copy_to(tmp_path / "next")
    assert {path.name for path in (tmp_path / "next").iterdir()} == {"a.jpg", "a.png"}


def test_a_pool_that_was_drawn_from_is_said(
    pictures: list[Path], predictor: Predictor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("keylite.labels.suggest.CANDIDATES", 10)
    notes = keylite.suggest(predictor, pictures, count=20).notes
    assert "10 of 12 pictures, drawn at random, were chosen from; the others were not" in notes
    assert not [note for note in notes if "in place of" in note]
