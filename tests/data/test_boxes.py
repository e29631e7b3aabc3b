"""Boxes of a file go to the objects that they are for."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.boxes import boxes_for, dataset_boxes, read_boxes
from keylite.data.dataset import Dataset


def interleaved() -> Dataset:
    """Five objects in three images, in no order; the second image holds none."""
    data = from_arrays([f"{name}.png" for name in "abcd"], np.ones((4, 1, 2))).subset([2, 0, 2, 3, 0])
    kept = dataclasses.replace(data, images=data.images[:1] + data.images, image_names=("a.png", "b.png", *"cd"))
    return dataclasses.replace(kept, image_index=np.array([2, 0, 2, 3, 0], np.int32), image_names=tuple("abcd"))


def test_the_nth_box_of_an_image_is_for_its_nth_object() -> None:
    asked = {"a": np.array([[0, 0, 1, 1], [0, 0, 2, 2]]), "b": np.zeros((0, 4)), "d": np.array([[0, 0, 3, 3]])}
    asked["c"] = np.array([[0, 0, 4, 4], [0, 0, 5, 5]])
    assert dataset_boxes(asked, interleaved())[:, 2].tolist() == [4, 1, 5, 3, 2]


def test_another_number_of_boxes_is_refused() -> None:
    asked = {name: np.array([[0, 0, 1, 1.0]]) for name in "abcd"}
    with pytest.raises(ValueError, match="a has 2 labelled objects, got 1 boxes"):
        dataset_boxes(asked, interleaved())


def test_an_image_without_an_entry_is_named_with_the_file_and_what_is_in_it() -> None:
    asked = dict.fromkeys("axyz", np.zeros((0, 4)))
    with pytest.raises(
        ValueError, match=r"^boxes.json: no entry for 3 of 4 images: b; c; d; .* are a, x, y, and 1 more$"
    ):
        dataset_boxes(asked, interleaved(), Path("boxes.json"))


def test_an_image_is_found_by_any_spelling_of_its_path(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text('{"./x/a.png": [[0, 0, 1, 1]], "x//b.png": [[0, 0, 2, 2]], "a.png": [[0, 0, 3, 3]]}')
    paths = [Path("x/a.png"), Path("y/../x/b.png")]
    boxes = boxes_for(paths, read_boxes(path))
    assert [boxes[image][0, 2] for image in paths] == [1, 2]
    path.write_text('{"a.png": [], "./a.png": [[0, 0, 1, 1]]}')
    with pytest.raises(ValueError, match=r"one image is there twice, as 'a.png' and as './a.png'; leave one out"):
        read_boxes(path)


ONE = np.array([[0, 0, 1, 1.0]])


def test_an_image_is_found_by_its_file_name_unless_two_share_it(caplog: pytest.LogCaptureFixture) -> None:
    paths = [Path("x/a.png"), Path("x/b.png")]
    with caplog.at_level(logging.INFO, "keylite"):
        found = boxes_for(paths, {"a.png": ONE, "x/b.png": 2 * ONE, "b.png": 3 * ONE, "c.png": ONE}, "f.json")
    assert [found[path][0, 2] for path in paths] == [1, 2], "its path goes first"
    assert caplog.messages == ["f.json: 2 entries are for none of these images: b.png; c.png"]
    caplog.clear()
    with caplog.at_level(logging.INFO, "keylite"):
        boxes_for(paths, {"a.png": ONE, "b.png": ONE})
    assert not caplog.messages, "all were for one of them"
    with pytest.raises(
        ValueError, match=r"^boxes: no entry for 2 of 3 images: x/a.png; y/a.png; add an entry for each"
    ):
        boxes_for([Path("x/a.png"), Path("y/a.png"), Path("b.png")], {"a.png": ONE, "b.png": ONE})
    with pytest.raises(ValueError, match=r"if there is no object; it has no entries$"):
        boxes_for(paths, {})


NO_BOXES = {
    "not JSON": ("boxes", 'expected JSON like {"photo.jpg": [[x0, y0, x1, y1], ...]}'),
    "a list": ("[[0, 0, 1, 1]]", "boxes.json: got JSON of another form; expected JSON like"),
    "a COCO file": ('{"images": [], "annotations": []}', "got a COCO file; expected JSON like"),
    "a single box": ('{"a.png": [0, 0, 9, 9]}', "boxes.json: a.png: boxes: expected shape (N, 4)"),
    "words": ('{"a.png": "none"}', "boxes.json: a.png: boxes: expected shape (N, 4)"),
}


@pytest.mark.parametrize(("text", "words"), NO_BOXES.values(), ids=NO_BOXES)
def test_what_is_no_file_of_boxes_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    with pytest.raises(FileNotFoundError, match="boxes.json: no such file of boxes"):
        read_boxes(path)
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_boxes(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["images", "annotations"])
def test_a_picture_may_have_the_name_of_a_part_of_coco(name: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(f'{{"{name}": [[0, 0, 1, 1]], "none": []}}')
    assert {key: value.shape for key, value in read_boxes(tmp_path / "boxes.json").items()} == {
        name: (1, 4),
        "none": (0, 4),
    }
