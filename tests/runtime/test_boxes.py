"""A box is refused that no crop can be cut around, before anything is allocated for it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from keylite.runtime.boxes import MOST_PX, as_boxes, box_problems, require_boxes


def test_boxes_are_floats_in_rows():
    assert as_boxes([[0, 1, 2, 3]]).dtype == np.float64
    assert as_boxes([[0, 1, 2, 3], [4, 5, 6.5, 7]]).tolist() == [[0, 1, 2, 3], [4, 5, 6.5, 7]]
    for empty in ([], np.zeros((0, 4)), ()):
        assert as_boxes(empty).shape == (0, 4)


BAD_BOXES = {
    "single": ([0, 0, 5, 5], "boxes: expected shape (N, 4) xyxy pixels, got (4,); a single box is [[x0, y0, x1, y1]]"),
    "five columns": ([[0, 0, 5, 5, 1]], "boxes: expected shape (N, 4) xyxy pixels, got (1, 5)"),
    "three axes": ([[[0, 0, 5, 5]]], "got (1, 1, 4)"),
    "one number": (3, "got ()"),
    "NaN": ([[0, 0, np.nan, 5]], "boxes: expected finite pixels"),
    "infinite": ([[0, 0, np.inf, 5]], "boxes: expected finite pixels"),
    "xywh of a small object": (
        [[0, 0, 5, 5], [50, 60, 10, 20]],
        "expected x0 < x1 and y0 < y1, got [50.0, 60.0, 10.0, 20.0]; are these x, y, width, height?",
    ),
    "flat": ([[0, 5, 5, 0]], "expected x0 < x1 and y0 < y1"),
    "no side": ([[9, 9, 0, 0]], "expected x0 < x1 and y0 < y1, got [9.0, 9.0, 0.0, 0.0]"),
    "texts of numbers": (
        [["1", "2", "3", "4"]],
        "boxes: expected shape (N, 4) xyxy pixels, got [['1', '2', '3', '4']]",
    ),
    "a text among numbers": (np.array([[0, 0, 5, "5"]], object), "boxes: expected shape (N, 4) xyxy pixels, got"),
    "true and false": ([[0, 0, True, 5]], "boxes: expected shape (N, 4) xyxy pixels, got [[0, 0, True, 5]]"),
    "an array of truths": (np.array([[False, False, True, True]]), "boxes: expected shape (N, 4) xyxy pixels, got"),
    "text": ([["a", "b", "c", "d"]], "boxes: expected"),
    "huge": ([[0, 0, 1e300, 1e300]], "box [0.0, 0.0, 1e+300, 1e+300] (xyxy) reaches beyond 16777216 px"),
    "far away": ([[-1e9, 0, 5, 5]], "reaches beyond 16777216 px"),
    "a number longer than a float": ([[0, 0, 10**400, 5]], "boxes: expected shape (N, 4)"),
    "ragged": ([[0, 0, 5, 5], [1, 2]], "boxes: expected"),
}


@pytest.mark.parametrize(("boxes", "message"), BAD_BOXES.values(), ids=BAD_BOXES.keys())
def test_what_is_no_box_is_refused(boxes: object, message: str):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        as_boxes(boxes)
    assert ("width, height" in str(caught.value)) == ("width, height" in message)


def test_the_largest_box_is_taken() -> None:
    assert as_boxes([[-MOST_PX, 0, MOST_PX, 1]]).shape == (1, 4)


NO_CROP = {  # a box of an image of 96x80 px: what is wrong with it
    "outside, right": ([96, 0, 120, 20], "box [96, 0, 120, 20] (xyxy) lies outside its 96x80 image"),
    "outside, above": ([0, -20, 10, 0], "lies outside"),
    "just inside": ([95.9, 0, 120, 20], ""),
    "20 times as long": ([0, 0, 20 * 96, 5], ""),
    "over 20 times as long": ([0, 0, 20 * 96 + 1, 5], "is 20.01 times as long as its 96x80 image, expected at most 20"),
    "a million px": ([0, 0, 1e6, 1e6], "is 1.042e+04 times as long"),
    "the whole image": ([0, 0, 96, 80], ""),
    "fractions": ([0.1, 0.2, 0.6, 0.7], "looks like fractions of the image: multiply its edges by"),
    "fractions beyond the image": ([-0.1, 0.2, 1.1, 1], "looks like fractions of the image: multiply its edges by"),
    "small": ([30, 30, 30.9, 30.9], "is less than 1 px wide and high"),
    "thin": ([0, 0, 0.5, 80], ""),
}


@pytest.mark.parametrize(("box", "words"), NO_CROP.values(), ids=NO_CROP)
def test_boxes_beside_their_image(box: list[float], words: str) -> None:
    boxes, sizes = np.array([[0, 0, 9, 9], box], np.float64), np.array([[96.0, 80.0]] * 2)
    problems = box_problems(boxes, sizes)
    assert list(problems) == ([1] if words else [])
    assert words.replace("[96, 0, 120, 20]", "[96.0, 0.0, 120.0, 20.0]") in problems.get(1, "")
    if words:
        with pytest.raises(ValueError, match=re.escape(problems[1])):
            require_boxes(boxes, (96, 80))
    else:
        require_boxes(boxes, (96, 80))


def test_a_box_that_is_not_there_or_of_an_unknown_image_is_no_problem() -> None:
    assert box_problems(np.full((1, 4), np.nan), np.array([[96.0, 80.0]])) == {}
    assert box_problems(np.array([[0, 0, 1e6, 1e6]]), np.full((1, 2), np.nan)) == {}
