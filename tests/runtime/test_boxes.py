"""A box is refused that no crop can be cut around, before anything is allocated for it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from keylite.runtime.boxes import MOST_PX, as_boxes, box_problems, require_boxes


def test_boxes_are_floats_in_rows():
    assert as_boxes([[0, 1, 2, 3]]).dtype == np.float64
    for boxes in ([[0, 1, 2, 3], [4, 5, 6.5, 7]], [[0, 90, 9, 99]], [[90, 0, 99, 9]]):
        assert as_boxes(boxes).tolist() == as_boxes(np.array(boxes, object)).tolist() == boxes
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
    "xywh at an edge": ([[0, 60, 10, 20]], "got [0.0, 60.0, 10.0, 20.0]; are these x, y, width, height?"),
    "xywh of a px": ([[50, 60, 1, 1]], "got [50.0, 60.0, 1.0, 1.0]; are these x, y, width, height?"),
    "no width for xywh": ([[50, 60, 0, 20]], "got [50.0, 60.0, 0.0, 20.0]"),
    "no height for xywh": ([[50, 60, 10, 0]], "got [50.0, 60.0, 10.0, 0.0]"),
    "one of several no xywh": ([[50, 60, 10, 20], [9, 9, 0, 0]], "got [50.0, 60.0, 10.0, 20.0]"),
    "flat": ([[0, 5, 5, 0]], "expected x0 < x1 and y0 < y1, got [0.0, 5.0, 5.0, 0.0]"),
    "no width": (
        [[5, 0, 5, 9]],
        "expected x0 < x1 and y0 < y1, got [5.0, 0.0, 5.0, 9.0]; are these x, y, width, height?",
    ),
    "no height": (
        [[0, 5, 9, 5]],
        "expected x0 < x1 and y0 < y1, got [0.0, 5.0, 9.0, 5.0]; are these x, y, width, height?",
    ),
    "no side": ([[9, 9, 0, 0]], "expected x0 < x1 and y0 < y1, got [9.0, 9.0, 0.0, 0.0]"),
    "texts of numbers": (
        [["1", "2", "3", "4"]],
        "boxes: expected shape (N, 4) xyxy pixels, got [['1', '2', '3', '4']]",
    ),
    "a text among numbers": (np.array([[0, 0, 5, "5"]], object), "boxes: expected shape (N, 4) xyxy pixels, got"),
    "true and false": ([[0, 0, True, 5]], "boxes: expected shape (N, 4) xyxy pixels, got [[0, 0, True, 5]]"),
    "a truth among objects": (np.array([[0, 0, True, 5]], object), "boxes: expected shape (N, 4) xyxy pixels, got"),
    "complex": ([[0, 0, 5 + 1j, 5]], "boxes: expected shape (N, 4) xyxy pixels, got"),
    "times": (np.array([[0, 0, 5, 5]], "m8[s]"), "boxes: expected shape (N, 4) xyxy pixels, got"),
    "masked": (np.ma.array([[0, 0, 5, 5]], mask=[[0, 0, 1, 0]]), "boxes: expected finite pixels"),
    "a masked one among plain ones": (
        [[0, 0, 5, 5], np.ma.array([0, 0, 5, 5], mask=[0, 0, 1, 0])],
        "boxes: expected finite pixels",
    ),
    "an array of truths": (np.array([[False, False, True, True]]), "boxes: expected shape (N, 4) xyxy pixels, got"),
    "text": ([["a", "b", "c", "d"]], "boxes: expected"),
    "huge": ([[0, 0, 1e300, 1e300]], "box [0.0, 0.0, 1e+300, 1e+300] (xyxy) reaches beyond 16777216 px"),
    "far away": ([[-1e9, 0, 5, 5]], "reaches beyond 16777216 px"),
    "one of several far away": ([[0, 0, 5, 5], [-1e9, 0, 6, 5]], "box [-1000000000.0, 0.0, 6.0, 5.0] (xyxy) reaches"),
    "a number longer than a float": ([[0, 0, 10**400, 5]], "boxes: expected shape (N, 4)"),
    "ragged": ([[0, 0, 5, 5], [1, 2]], "boxes: expected"),
}


@pytest.mark.parametrize(("boxes", "message"), BAD_BOXES.values(), ids=BAD_BOXES.keys())
def test_what_is_no_box_is_refused(boxes: object, message: str):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        as_boxes(boxes)
    for hint in ("width, height", "a single box"):
        assert (hint in str(caught.value)) == (hint in message)


def test_the_largest_box_is_taken() -> None:
    assert as_boxes([[-MOST_PX, 0, MOST_PX, 1]]).shape == (1, 4)


NO_CROP = {  # a box of an image of 96x80 px: what is wrong with it
    "outside, right": ([96, 0, 120, 20], "box [96, 0, 120, 20] (xyxy) lies outside its 96x80 image"),
    "outside, above": ([0, -20, 10, 0], "lies outside"),
    "outside, left": ([-20, 0, 0, 10], "lies outside"),
    "outside, below": ([0.126, 80, 10, 90], "box [0.13, 80.0, 10.0, 90.0] (xyxy) lies outside its 96x80 image"),
    "just inside": ([95.9, 0, 120, 20], ""),
    "just inside, left and below": ([-20, 79.9, 0.1, 90], ""),
    "20 times as long": ([0, 0, 20 * 96, 5], ""),
    "over 20 times as long": ([0, 0, 20 * 96 + 1, 5], "is 20.01 times as long as its 96x80 image, expected at most 20"),
    "20 times as long, from the left": ([-1900, 0, 20, 5], ""),
    "over 20 times as long, from the left": ([-1900, 0, 21, 5], "is 20.01 times as long"),
    "far left and far below": ([-1000, 0, 90, 1500], ""),
    "a million px": ([0, 0, 1e6, 1e6], "is 1.042e+04 times as long"),
    "the whole image": ([0, 0, 96, 80], ""),
    "fractions": ([0.1, 0.2, 0.6, 0.7], "looks like fractions of the image: multiply its edges by"),
    "fractions beyond the image": ([-0.1, 0.2, 1.1, 1], "looks like fractions of the image: multiply its edges by"),
    "fractions as far beyond as can be": ([-0.5, -0.5, 1.5, 1.5], "looks like fractions of the image"),
    "no fractions": ([0, 0, 1.6, 1.5], ""),
    "small": ([30, 30, 30.9, 30.9], "is less than 1 px wide and high"),
    "small, elsewhere": ([10, 50, 10.9, 50.9], "is less than 1 px wide and high"),
    "one px": ([30, 30, 31, 31], ""),
    "thin": ([0, 0, 0.5, 80], ""),
}


@pytest.mark.parametrize(("box", "words"), NO_CROP.values(), ids=NO_CROP)
def test_boxes_beside_their_image(box: list[float], words: str) -> None:
    boxes, sizes = np.array([[0, 0, 9, 9], box, [5, 5, 9, 9]], np.float64), np.array([[96.0, 80.0]] * 3)
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


def test_a_picture_of_one_px_has_its_limit_too() -> None:
    (words,) = box_problems(np.array([[0, 0, 30.0, 2]]), np.ones((1, 2))).values()
    assert "is 30 times as long as its 1x1 image" in words
