"""Boxes of a file go to the objects that they are for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from keylite.data.boxes import boxes_for, dataset_boxes, read_boxes
from keylite.data.dataset import Dataset, from_arrays


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


def test_a_coco_file_of_boxes_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text('{"info": {}, "images": [], "annotations": [], "categories": []}')
    with pytest.raises(ValueError, match="got a COCO file; expected JSON like"):
        read_boxes(path)
