"""Places that stand for a missing point are noticed, and taken out if asked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.checks import label_doubts
from keylite.data.formats.reading import read_dataset
from keylite.data.marks import mark_doubts, read_mark, require_mark

COUNT = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(COUNT):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((40, 60, 3), 90, np.uint8))
    return tmp_path


def csv(folder: Path, mark: str, marked: int) -> Path:
    rows = [f"{n}.png,{10 + n},{12 + n},{mark if n < marked else '30,31'}" for n in range(COUNT)]
    path = folder / "labels.csv"
    path.write_text("\n".join(["file,x0,y0,x1,y1", *rows]) + "\n")
    return path


@pytest.mark.parametrize("mark", ["-1,-1", "0,0"])
def test_a_mark_is_noticed_and_taken_out_if_asked(folder: Path, mark: str):
    path = csv(folder, mark, 3)
    kept = read_dataset(path)
    (doubt,) = kept.doubts
    assert f"3 labelled points of 3 objects lie at exactly ({mark.replace(',', ', ')})" in doubt
    assert f"`missing_mark=({mark.replace(',', ', ')})`" in doubt
    assert doubt in label_doubts(kept, "image")
    data = read_dataset(path, missing_mark=read_mark(mark))
    assert data.doubts == ()
    assert data.labelled.sum() == 2 * COUNT - 3
    assert np.isnan(data.xy[:3, 1]).all() and (data.visible[:3, 1] == 0).all()
    assert any(
        note.startswith("taken as unlabelled: 3 points at (") and note.endswith(" in 3 rows") for note in data.notes
    )


@pytest.mark.parametrize("mark", ["-999,-999", "5,-3", "9999,20", "60,40", "59,39", "59.5,39.5"])
def test_any_place_outside_the_pictures_that_objects_share_is_noticed(folder: Path, mark: str):
    (doubt,) = read_dataset(csv(folder, mark, COUNT)).doubts
    assert f"{COUNT} labelled points of {COUNT} objects lie at exactly ({mark.replace(',', ', ')})" in doubt
    assert read_dataset(csv(folder, mark, COUNT), missing_mark=read_mark(mark)).labelled.sum() == COUNT
    xy = np.full((COUNT, 2, 2), 10.0) + np.arange(COUNT)[:, None, None]
    xy[:3, 1] = read_mark(mark)
    images = [np.zeros((39, 59, 3), np.uint8)] * COUNT
    assert len(from_arrays(images, xy).doubts) == 1


@pytest.mark.parametrize("place", ["30,31", "59,20", "1e3,1e3"])
def test_a_place_inside_or_of_pictures_of_unknown_size_is_no_mark(folder: Path, place: str):
    if place == "1e3,1e3":
        for file in folder.iterdir():
            file.write_bytes(b"no picture")
    assert read_dataset(csv(folder, place, COUNT)).doubts == ()


def test_a_few_points_there_are_no_mark(folder: Path):
    assert read_dataset(csv(folder, "0,0", 2)).doubts == ()


def test_a_coco_file_s_unlabelled_points_are_no_mark(folder: Path):
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 30, 30], "keypoints": [10, 10, 2, 0, 0, v]}
        for n, v in enumerate([0] * 4 + [2] * 4)
    ]
    images = [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 40} for n in range(COUNT)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a", "keypoints": ["a", "b"]}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    (doubt,) = read_dataset(folder / "labels.json").doubts
    assert doubt.startswith("4 labelled points of 4 objects")


def test_arrays_are_held_to_the_same(folder: Path):
    xy = np.full((COUNT, 2, 2), 10.0)
    xy[:4, 1] = -1
    images = [np.zeros((40, 60, 3), np.uint8)] * COUNT
    assert len(from_arrays(images, xy).doubts) == 1
    data = from_arrays(images, xy, missing_mark=(-1, -1))
    assert data.doubts == ()
    assert data.labelled.sum() == 2 * COUNT - 4
    xy[:4, 1] = [(-1, 7), (9, -1), (60, 20), (60, 20)]
    assert from_arrays(images, xy, missing_mark=(-1, -1)).labelled.all(), "of both coordinates"
    xy[:, 1] = (60, 20)
    assert from_arrays(images, xy).doubts == (), "on the right edge"


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "nan,1", "1;2"])
def test_a_mark_that_is_none_is_one_line(text: str):
    with pytest.raises(ValueError, match="^missing_mark: expected"):
        read_mark(text)


@pytest.mark.parametrize("turn", [2, 3, 4])
def test_photos_that_are_turned_upside_down_are_counted_too(turn: int, folder: Path):
    jpeg = cv2.imencode(".jpg", np.full((60, 40, 3), 90, np.uint8))[1].tobytes()
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([turn]) + bytes(6)
    (folder / "0.png").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + jpeg[2:])
    notes = read_dataset(csv(folder, "30,31", 0)).check_images().notes
    assert any(note.startswith("1 of 8 images are turned by their EXIF orientation (0.png)") for note in notes)


def test_turned_photos_of_a_table_are_counted(folder: Path):
    path = csv(folder, "30,31", 0)
    jpeg = cv2.imencode(".jpg", np.full((60, 40, 3), 90, np.uint8))[1].tobytes()
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (folder / "0.png").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + jpeg[2:])
    data = read_dataset(path)
    notes = data.check_images().notes
    assert any(note.startswith("1 of 8 images are turned by their EXIF orientation (0.png)") for note in notes)
    for sizes, told in (([[60, 40]] * 8, False), ([[60, 0]] * 8, True), ([[0, 0]] + [[60, 40]] * 7, True)):
        notes = dataclasses.replace(data, image_sizes=np.array(sizes)).check_images().notes
        assert any("turned" in note for note in notes) == told, "labels that say the upright size know of the turn"


def doubts(place: tuple[float, float], among: int, of: int, *sizes: tuple[int, int] | None) -> int:
    """How many lines are said of objects of which so many have one of two points at a place, in images of these sizes."""
    xy = np.random.default_rng(0).uniform(1, 9, (of, 2, 2))
    xy[:among, 1] = place
    return len(mark_doubts(xy, np.ones((of, 2), bool), lambda row: sizes[row % len(sizes)], 0.5))


SMALL, LARGE = (60, 40), (600, 400)
PLACES = {  # a place as written in px from the first centre, objects there, of how many, sizes of images: is it told?
    "three of 150": ((-1, -1), 3, 150, [SMALL], True),
    "three of 151": ((-1, -1), 3, 151, [SMALL], False),
    "elsewhere, three of 150": ((-7, 9), 3, 150, [SMALL], True),
    "elsewhere, three of 151": ((-7, 9), 3, 151, [SMALL], False),
    "elsewhere, of many": ((-7, 9), 400, 2500, [SMALL], True),
    "the left edge": ((-0.5, 20), 9, 9, [SMALL], False),
    "left of it": ((-0.6, 20), 9, 9, [SMALL], True),
    "the upper edge": ((20, -0.5), 9, 9, [SMALL], False),
    "the right edge": ((59.5, 20), 9, 9, [SMALL], False),
    "right of it": ((59.6, 20), 9, 9, [SMALL], True),
    "the lower edge": ((20, 39.5), 9, 9, [SMALL], False),
    "before the far corner": ((58.9, 39), 9, 9, [SMALL], False),
    "the far corner": ((59, 39), 9, 9, [SMALL], True),
    "inside one of two images": ((70, 20), 9, 9, [SMALL, LARGE], False),
    "outside both": ((70, 420), 9, 9, [SMALL, LARGE], True),
    "outside those of the objects there": ((70, 20), 4, 9, [SMALL] * 4 + [LARGE] * 5, True),
    "inside those of the objects there": ((70, 20), 4, 9, [LARGE] * 4 + [SMALL] * 5, False),
    "inside the one that is known": ((30, 20), 9, 9, [None, SMALL], False),
    "outside the one that is known": ((70, 20), 9, 9, [None, SMALL], True),
    "none is known": ((70, 20), 9, 9, [None], False),
}


@pytest.mark.parametrize(("place", "among", "of", "sizes", "told"), PLACES.values(), ids=PLACES)
def test_which_places_are_told(place: tuple[float, float], among: int, of: int, sizes: list, told: bool):
    assert doubts(place, among, of, *sizes) == told


def test_three_other_places_are_told_the_most_shared_first():
    xy = np.full((20, 5, 2), np.nan)
    for keypoint, among in enumerate((4, 6, 3, 9, 20)):
        xy[:among, keypoint] = -10 * (keypoint + 1)
    xy[:, 4] = np.arange(20)[:, None] + 2
    lines = mark_doubts(xy, ~np.isnan(xy).any(axis=2), lambda _row: SMALL)
    assert [line.split(";")[0] for line in lines] == [
        f"{n} labelled points of {n} objects lie at exactly ({x}, {x}), which looks like a mark for missing points"
        for n, x in ((9, -40), (6, -20), (4, -10))
    ]


def test_what_is_not_labelled_is_no_mark():
    xy = np.full((9, 1, 2), -7.0)
    assert mark_doubts(xy, np.zeros((9, 1), bool), lambda _row: SMALL) == ()
    xy[:] = np.inf
    assert mark_doubts(xy, np.ones((9, 1), bool), lambda _row: SMALL) == ()


@pytest.mark.parametrize(
    "mark", [None, "12", 3, (1,), (1, 2, 3), (1, float("nan")), (float("inf"), 1), ("a", 1), {1, 2}]
)
def test_a_mark_is_two_finite_numbers(mark: object):
    with pytest.raises(ValueError, match="^missing_mark: expected two finite numbers, x and y, got"):
        require_mark(mark)
    for good in ((1, 2.5), [-1, -1], np.array([0, 0])):
        require_mark(good)
