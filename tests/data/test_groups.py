"""Groups are named by images alone."""

from __future__ import annotations

import pytest

from keylite.data.groups import group_by_name

NAMES = ["img2.png", "img10.png", "img1.png", "img3.png"]
GROUPINGS = {
    "image": ("image", NAMES),
    "blocks in number order": ("block:2", ["block 00000", "block 00001", "block 00000", "block 00001"]),
    "regex, its first group": (r"regex:img(\d)", ["2", "1", "1", "3"]),
    "regex, whole match": (r"regex:\d+", ["2", "10", "1", "3"]),
}


@pytest.mark.parametrize("case", GROUPINGS)
def test_group_by_name(case: str) -> None:
    group, expected = GROUPINGS[case]
    assert group_by_name(NAMES, group) == expected


def test_a_pattern_may_be_a_number() -> None:
    assert group_by_name(["a1", "b1", "c1"], "regex:1") == ["1"] * 3


def test_objects_of_one_image_share_a_block() -> None:
    assert group_by_name(["a", "a", "b"], "block:1") == ["block 00000", "block 00000", "block 00001"]


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("block:0", "group: expected block:N with N from 1 to 999999999, got 'block:0'"),
        ("block:x", "group: expected block:N with N from 1 to 999999999, got 'block:x'"),
        ("block:²", "group: expected block:N with N from 1 to 999999999, got 'block:²'"),
        ("block:" + "9" * 5000, "group: expected block:N with N from 1 to 999999999, got 'block:999"),
        ("block", "group: expected block:N with N"),
        ("regex:", "expected auto, image"),
        ("identity", "expected auto, image, block:N, field:NAME or regex:PATTERN, got 'identity'"),
        ("regex:(", "is not a regular expression"),
        ("regex:a{99999999999}", "is not a regular expression: "),
        ("regex:" + "(" * 3000, "is not a regular expression: "),
        ("regex:[[z]", "does not match"),
        ("regex:^img1", "does not match 2 image names: img2.png; img3.png"),
        ("regex:img1(0)?", "does not match 3 image names: img2.png; img1.png; img3.png"),
    ],
)
def test_group_by_name_refuses(group: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        group_by_name(NAMES, group)
    assert words in str(caught.value)
