"""A skeleton that contradicts itself is refused."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest

from keylite.runtime.skeleton import Skeleton, unnamed

NAMES = ("nose", "left_eye", "right_eye")


def test_what_a_skeleton_says():
    skeleton = Skeleton(NAMES, edges=((0, 1), (0, 2)), mirror=(0, 2, 1), sigmas=(0.1, 0.2, 0.2))
    assert len(skeleton) == 3
    assert skeleton.mirror_pairs() == [("left_eye", "right_eye")]
    assert Skeleton(NAMES).mirror_pairs() == []
    assert Skeleton(NAMES, mirror=(0, 1, 2)).mirror_pairs() == []
    assert Skeleton(unnamed(3)).names == ("k0", "k1", "k2")


def test_lists_and_numpys_numbers_are_taken():
    given = Skeleton(
        ["a", "b"],  # type: ignore[arg-type]
        edges=[(np.int64(0), 1)],  # type: ignore[arg-type]
        mirror=np.array([1, 0]),  # type: ignore[arg-type]
        sigmas=np.array([1, 2]) / 10,  # type: ignore[arg-type]
    )
    assert given == Skeleton(("a", "b"), ((0, 1),), (1, 0), (0.1, 0.2))
    assert msgspec.convert(msgspec.to_builtins(given), Skeleton) == given
    assert hash(given) == hash(Skeleton(("a", "b"), ((0, 1),), (1, 0), (0.1, 0.2)))


def test_a_skeleton_may_be_large():
    skeleton = Skeleton(unnamed(10_000), edges=((0, 1),) * 100_000)
    assert (len(skeleton), len(skeleton.edges)) == (10_000, 100_000)
    assert Skeleton(("a" * 200,)).names == ("a" * 200,)


REFUSED = {
    "no keypoints": ({"names": ()}, "expected at least one keypoint, got none"),
    "names in one text": ({"names": "nose"}, "skeleton: names: expected a list of texts, got 'nose'"),
    "no names": ({"names": None}, "skeleton: names: expected a list of texts, got None"),
    "a name that is none": ({"names": ("a", 1)}, "skeleton: names: expected a list of texts, got ('a', 1)"),
    "edges by name": (
        {"names": NAMES, "edges": (("a", "b"),)},
        "skeleton: edges: expected a list of pairs of whole numbers, got (('a', 'b'),)",
    ),
    "three ends": ({"names": NAMES, "edges": ((0, 1, 2),)}, "expected a list of pairs of whole numbers"),
    "mirror by name": ({"names": NAMES, "mirror": ("a", "b", "c")}, "skeleton: mirror: expected a list of whole"),
    "one sigma for all": ({"names": NAMES, "sigmas": 0.1}, "sigmas: expected a list of numbers, or None, got 0.1"),
    "a name twice": ({"names": ("a", "b", "a")}, "keypoint names must differ, got a more than once"),
    "edge too far": (
        {"names": NAMES, "edges": ((0, 3),)},
        "edges: expected pairs of keypoint numbers 0..2, got [0, 3]",
    ),
    "edge below 0": ({"names": NAMES, "edges": ((-1, 2),)}, "numbers 0..2, got [-1, 2]"),
    "mirror too short": ({"names": NAMES, "mirror": (0, 1)}, "mirror: expected a permutation of 0..2, got [0, 1]"),
    "mirror twice": ({"names": NAMES, "mirror": (0, 1, 1)}, "mirror: expected a permutation of 0..2"),
    "five names twice": (
        {"names": [*"abcde"] * 2},
        "keypoint names must differ, got a, b, c, d, e more than once",
    ),
    "six names twice": ({"names": [*"abcdef"] * 2}, "got a, b, c, d, e, ... more than once"),
    "too many keypoints": (
        {"names": unnamed(10_001)},
        "expected at most 10,000 keypoints and 100,000 edges, got 10,001 and 0",
    ),
    "too many edges": ({"names": NAMES, "edges": [(0, 1)] * 100_001}, "100,000 edges, got 3 and 100,001"),
    "a long name": ({"names": ("a", "b" * 201)}, "expected names of at most 200 characters, got 201: 'bbb"),
    "mirror in a ring beside one in the middle": (
        {"names": (*NAMES, "chin"), "mirror": (1, 2, 0, 3)},
        "mirror: flipping twice must give every keypoint back",
    ),
    "mirror in a ring": ({"names": NAMES, "mirror": (1, 2, 0)}, "mirror: flipping twice must give every keypoint back"),
    "sigmas too few": ({"names": NAMES, "sigmas": (0.1,)}, "sigmas: expected 3 values, got 1"),
    "sigma of 0": (
        {"names": NAMES, "sigmas": (0.1, 0.0, 0.1)},
        "sigmas: expected numbers above 0, got [0.1, 0.0, 0.1]",
    ),
    "sigma of NaN": ({"names": NAMES, "sigmas": (0.1, float("nan"), 0.1)}, "sigmas: expected numbers above 0"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_contradictions_are_refused(fields: dict, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        Skeleton(**fields)
