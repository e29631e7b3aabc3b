"""Mirror pairs: by name, and held against labels that are made here, so that the right answer is known."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.mirror import (
    OPPOSITES,
    _contradiction,
    _count,
    _difference,
    _objection,
    _weakness,
    choose_mirror,
    from_names,
    from_pairs,
)
from keylite.data.shapes import aligned, whiten
from keylite.data.symmetry import (
    MAX_POINT_RATIO,
    MIN_GAIN,
    MirrorTrial,
    Verdict,
    _assign,
    _halves,
    _involutions,
    _neighbours,
    _typical,
    _wins,
)
from keylite.runtime.sides import side_of
from keylite.runtime.skeleton import Skeleton

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
needs_scipy = pytest.mark.skipif(find_spec("scipy") is None, reason="needs scipy: keylite[pytorch]")
ANY = np.pi  # turned freely
PEOPLE = (
    "nose",
    *(f"{side}_{part}" for part in ("eye", "ear", "shoulder", "elbow", "wrist") for side in ("left", "right")),
    *(f"{side}_{part}" for part in ("hip", "knee", "ankle") for side in ("left", "right")),
)
PEOPLE_MIRROR = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
FACES_MIRROR = (
    *(16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
)


def placed(xy: np.ndarray, turn: float, generator: np.random.Generator) -> np.ndarray:
    """Objects (N, K, 2) turned by up to +-turn, scaled and shifted, each on its own."""
    angle = generator.uniform(-turn, turn, len(xy))
    spin = generator.uniform(0.7, 1.4, len(xy)) * np.exp(1j * angle)
    z = spin[:, None] * (xy[..., 0] + 1j * xy[..., 1]) + generator.uniform(100, 300, (len(xy), 1)) * (1 + 1j)
    return np.stack([z.real, z.imag], axis=-1)


def data(xy: np.ndarray, names: tuple[str, ...] | None = None, mirror: tuple[int, ...] | None = None) -> Dataset:
    names = names or tuple(f"k{k}" for k in range(xy.shape[1]))
    return from_arrays([f"{i}.png" for i in range(len(xy))], xy, skeleton=Skeleton(names, mirror=mirror))


def people(count: int, generator: np.random.Generator) -> np.ndarray:
    """17 points of people seen from the front and, one in four, from behind, where nose and eyes are not labelled."""
    half = [(5, -85, 10), (9, -82, 0), (22, -60, 0), (30, -30, 0), (32, 0, 5), (14, 0, 0), (15, 42, 3), (15, 85, 0)]
    base = np.array([(0, -80, 12), *(point for x, y, z in half for point in ((x, y, z), (-x, y, z)))], float)
    xyz = np.repeat(base[None], count, axis=0)
    for moved, amount in (([7, 9], 18), ([8, 10], 18), ([9], 18), ([10], 18), ([13, 15], 8), ([14, 16], 8)):
        xyz[:, moved] += generator.normal(0, amount, (count, 1, 3))
    yaw = generator.normal(0, 0.5, count) + np.where(generator.random(count) < 0.25, np.pi, 0)
    x = xyz[..., 0] * np.cos(yaw)[:, None] + xyz[..., 2] * np.sin(yaw)[:, None]
    xy = np.stack([x, xyz[..., 1]], axis=-1) + generator.normal(0, 1, (count, 17, 2))
    hidden = generator.random((count, 17)) < 0.1
    hidden[:, :3] |= np.cos(yaw)[:, None] < 0
    xy[hidden] = np.nan
    return xy


def hands(count: int, generator: np.random.Generator) -> np.ndarray:
    """21 points of right hands, palm to the viewer, fingers bent by their own amounts."""
    angles = np.deg2rad([150, 110, 90, 75, 55]) + generator.normal(0, 0.12, (count, 5))
    lengths = np.array([45, 50, 55, 50, 40]) * generator.uniform(0.5, 1, (count, 5))
    roots = np.array([[-25, -15], [-20, -50], [-5, -55], [10, -50], [22, -42]])
    xy = np.zeros((count, 21, 2))
    for finger in range(5):
        along = np.stack([np.cos(angles[:, finger]), -np.sin(angles[:, finger])], -1) * lengths[:, finger, None]
        for joint in range(4):
            xy[:, 1 + 4 * finger + joint] = roots[finger] + along * joint / 3
    return xy + generator.normal(0, 1.5, xy.shape)


def gauges(count: int, generator: np.random.Generator) -> np.ndarray:
    """Centre, needle tip, start and end of the scale, which opens at the bottom; the needle is free."""
    span = generator.uniform(3.2, 5.2, count)
    start = 1.5 * np.pi - span / 2
    turns = np.stack([start, start + span * generator.random(count), start, start + span], axis=1)
    xy = 50 * np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    xy[:, 0] = 0
    return xy


def rectangles(count: int, generator: np.random.Generator) -> np.ndarray:
    """Corners, from the upper left one with the clock."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    sides = np.stack([generator.uniform(60, 100, count), generator.uniform(30, 50, count)], axis=-1)
    return corners * sides[:, None] + generator.normal(0, 1, (count, 4, 2))


def worms(count: int, generator: np.random.Generator) -> np.ndarray:
    """Ten points along a bending line, ever further apart: mirrored, it is a worm again, head still first."""
    bend = np.cumsum(generator.normal(0, 0.25, (count, 10)), axis=1)
    steps = np.stack([np.cos(bend), np.sin(bend)], axis=-1) * np.linspace(6, 14, 10)[:, None]
    return np.cumsum(steps, axis=1) + generator.normal(0, 0.5, steps.shape)


def cars(count: int, generator: np.random.Generator) -> np.ndarray:
    """Eight points of a side view that is mirror-symmetric: front (first) and rear cannot be told apart by place."""
    half = np.array([[-50, 20], [-30, -20], [-60, 0], [-50, 10]], float)
    both = np.stack([half, half * [-1, 1]], axis=1).reshape(8, 2)
    return both + generator.normal(0, 2, (count, 8, 2))


def bugs(count: int, generator: np.random.Generator) -> np.ndarray:
    """Ten points: nose, tail and four pairs, which lean and stretch together."""
    half = np.array([[10, -40], [30, -20], [25, 10], [12, 35]], float) * generator.normal(1, 0.1, (count, 1, 1))
    pairs = np.stack([half, half * [-1, 1]], axis=2).reshape(count, 8, 2)
    middle = np.tile([[0.0, -55], [0, 60]], (count, 1, 1))
    return np.concatenate([middle, pairs], axis=1) + generator.normal(0, 1.5, (count, 10, 2))


BUG_MIRROR = (0, 1, 3, 2, 5, 4, 7, 6, 9, 8)
BUG_NAMES = ("nose", "tail", *(f"{side}_{k}" for k in range(4) for side in ("left", "right")))
CORNERS = ("top_left", "top_right", "bottom_right", "bottom_left")
CAR_NAMES = tuple(f"{end}_{part}" for part in ("wheel", "roof", "bumper", "door") for end in ("front", "rear"))
GAUGE_NAMES = ("centre", "needle_tip", "scale_start", "scale_end")
HALF_OFF = tuple(np.roll(np.arange(10), 1).tolist())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(("left_ear", "right_ear", "nose"), (1, 0, 2), id="prefix"),
        pytest.param(("ear_left", "nose", "ear_right"), (2, 1, 0), id="suffix"),
        pytest.param(("arm_left_2", "arm_right_2"), (1, 0), id="infix"),
        pytest.param(("l_eye", "r_eye"), (1, 0), id="letter"),
        pytest.param(("eye.L", "eye.R"), (1, 0), id="capital"),
        pytest.param(("LEye", "REye"), (1, 0), id="camel"),
        pytest.param(("hipLeft", "hipRight"), (1, 0), id="camel-suffix"),
        pytest.param(("snout", "leftear", "rightear", "tailbase"), (0, 2, 1, 3), id="glued"),
        pytest.param(("earleft", "earright", "upright"), (1, 0, 2), id="glued-suffix"),
        pytest.param(("earleft", "earright", "ear"), (1, 0, 2), id="glued-suffix-or-none"),
        pytest.param(("left eye right corner", "right eye left corner"), (1, 0), id="both"),
        pytest.param(PEOPLE, PEOPLE_MIRROR, id="people"),
        pytest.param(("upright", "cleft", "lip", "rim"), None, id="no-side"),
        pytest.param(("k0", "k1"), None, id="numbers"),
        pytest.param(("l_eye", "r_eye", "tip_1", "tip.1"), (1, 0, 2, 3), id="alike-without-a-side"),
    ],
)
def test_pairs_by_name(names: tuple[str, ...], expected: tuple[int, ...] | None) -> None:
    assert from_names(names) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(("left_eye", "nose"), "left_eye has no counterpart right_eye", id="alone"),
        pytest.param(("l_eye", "left_eye", "r_eye"), "more than one counterpart", id="twice"),
    ],
)
def test_names_that_do_not_pair_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_names(names)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("left_eye", "left"),
        ("RightEye", "right"),
        ("eye_l", "left"),
        ("R-ear", "right"),
        ("leftear", "left"),
        ("cleft", None),
        ("upright", None),
        ("tail_left_of_right", None),
        ("lip", None),
    ],
)
def test_the_side_that_a_name_tells(name: str, side: str | None) -> None:
    assert side_of(name) == side


def test_pairs_are_names_or_indices() -> None:
    names = ("a", "b", "c", "d", "e")
    assert from_pairs([("a", "c"), (1, 4)], names) == (2, 4, 0, 3, 1)
    assert from_pairs([], names) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        pytest.param([("a", "z")], "no keypoint is named 'z'", id="unknown"),
        pytest.param([(0, 3)], "index 3 leaves the 3 keypoints", id="beyond"),
        pytest.param([(-1, 0)], "index -1 leaves", id="negative"),
        pytest.param([("a", "b"), (1, 2)], "b is in more than one pair", id="twice"),
        pytest.param([("a", "a")], "paired with itself", id="itself"),
        pytest.param([("a", "b", "c")], "expected two keypoints", id="three"),
        pytest.param(["ab"], "expected two keypoints", id="text"),
        pytest.param([(0.0, 1)], "expected names or 0-based indices", id="float"),
        pytest.param([(True, 0)], "expected names or 0-based indices", id="bool"),
    ],
)
def test_wrong_pairs_are_refused(pairs: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_pairs(pairs, ("a", "b", "c"))


@needs_scipy
@pytest.mark.parametrize("turn", [0.2, ANY], ids=["upright", "turned"])
@pytest.mark.parametrize(
    ("make", "names", "expected", "source"),
    [
        pytest.param(people, PEOPLE, PEOPLE_MIRROR, "names", id="people"),
        pytest.param(people, None, PEOPLE_MIRROR, "labels", id="people-unnamed"),
        pytest.param(bugs, BUG_NAMES, BUG_MIRROR, "names", id="bugs"),
        pytest.param(bugs, None, BUG_MIRROR, "labels", id="bugs-unnamed"),
        pytest.param(worms, None, tuple(range(10)), "labels", id="worms"),
        pytest.param(hands, None, None, "off", id="one-hand"),
        pytest.param(gauges, GAUGE_NAMES, None, "off", id="gauges"),
        pytest.param(gauges, None, None, "off", id="gauges-unnamed"),
        pytest.param(rectangles, None, None, "off", id="rectangles-unnamed"),
        pytest.param(rectangles, ("left_0", "left_1", "right_0", "right_1"), None, "off", id="rectangles-misnamed"),
        pytest.param(cars, CAR_NAMES, None, "off", id="front-and-rear"),
    ],
)
def test_the_labels_decide(
    make: Callable[[int, np.random.Generator], np.ndarray],
    names: tuple[str, ...] | None,
    expected: tuple[int, ...] | None,
    source: str,
    turn: float,
) -> None:
    generator = np.random.default_rng(0)
    mirror = choose_mirror(data(placed(make(200, generator), turn, generator), names))
    assert (mirror.permutation, mirror.source) == (expected, source), mirror.line


def test_names_and_an_upright_stand_settle_a_rectangle_together() -> None:
    """Its two axes fit equally well: names alone (turned freely), or the stand alone (no names), settle nothing."""
    generator = np.random.default_rng(0)
    xy = rectangles(200, generator)
    assert choose_mirror(data(placed(xy, 0.2, generator), CORNERS)).permutation == (1, 0, 3, 2)
    turned = choose_mirror(data(placed(xy, ANY, generator), CORNERS))
    assert turned.permutation is None
    assert turned.warning


@needs_scipy
def test_wrong_names_are_overruled_with_a_warning() -> None:
    """Numbered along the outline, a name's counterpart is the wrong point: the trap of 68-point faces."""
    generator = np.random.default_rng(0)
    names = ("nose", "tail", *(name for k in range(4) for name in (f"left_{k}", f"right_{3 - k}")))
    assert from_names(names) != BUG_MIRROR
    mirror = choose_mirror(data(placed(bugs(200, generator), ANY, generator), names))
    assert (mirror.permutation, mirror.source, mirror.warning) == (BUG_MIRROR, "labels", True), mirror.line


@needs_scipy
def test_an_unpaired_name_leaves_it_to_the_labels() -> None:
    generator = np.random.default_rng(0)
    names = ("nose", "tail", "left_0", "antenna", *BUG_NAMES[4:])
    mirror = choose_mirror(data(placed(bugs(200, generator), ANY, generator), names))
    assert (mirror.permutation, mirror.source) == (BUG_MIRROR, "labels")
    assert "left_0 has no counterpart" in mirror.line


@needs_scipy
def test_one_odd_point_among_many_is_noticed() -> None:
    generator = np.random.default_rng(0)
    xy = bugs(300, generator)
    xy[:, 0, 0] += 12  # the nose sits to one side
    mirror = choose_mirror(data(placed(xy, ANY, generator)))
    assert mirror.permutation is None, mirror.line


@pytest.mark.parametrize("count", [1, 10, 19])
def test_few_objects_are_not_enough(count: int) -> None:
    generator = np.random.default_rng(0)
    mirror = choose_mirror(data(placed(bugs(count, generator), ANY, generator), BUG_NAMES))
    assert mirror.source == "off"
    assert f"{count} objects" in mirror.line
    assert mirror.warning


def test_a_keypoint_that_is_never_labelled_is_named() -> None:
    generator = np.random.default_rng(0)
    xy = bugs(100, generator)
    xy[:, 4] = np.nan
    mirror = choose_mirror(data(placed(xy, ANY, generator), BUG_NAMES))
    assert mirror.permutation is None
    assert "left_1 has too few labels" in mirror.line


def test_a_single_keypoint_shows_nothing() -> None:
    assert choose_mirror(data(np.random.default_rng(0).uniform(0, 100, (100, 1, 2)))).permutation is None


@needs_scipy
@pytest.mark.parametrize("source", ["given", "flip_pairs"])
@pytest.mark.parametrize(
    ("mirror", "warning"),
    [
        pytest.param(BUG_MIRROR, False, id="right"),
        pytest.param((0, 1, 3, 2, 5, 4, 7, 6, 8, 9), True, id="a-pair-short"),
        pytest.param((1, 0, 3, 2, 5, 4, 7, 6, 9, 8), True, id="nose-for-tail"),
    ],
)
def test_given_pairs_are_used_and_checked(mirror: tuple[int, ...], warning: bool, source: str) -> None:
    generator = np.random.default_rng(0)
    xy = placed(bugs(200, generator), ANY, generator)
    own, given = (None, mirror) if source == "given" else (mirror, None)
    chosen = choose_mirror(data(xy, mirror=own), given)
    assert (chosen.permutation, chosen.source, chosen.warning) == (mirror, source, warning), chosen.line


@needs_scipy
def test_the_recipe_comes_before_the_data_set() -> None:
    generator = np.random.default_rng(0)
    dataset = data(bugs(50, generator), mirror=tuple(range(10)))
    assert choose_mirror(dataset, BUG_MIRROR).permutation == BUG_MIRROR


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param((0, 1), "expected a permutation of 0..9", id="short"),
        pytest.param(HALF_OFF, "flipping twice", id="cycle"),
    ],
)
def test_a_given_permutation_must_be_a_mirror(given: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_mirror(data(bugs(50, np.random.default_rng(0))), given)


@needs_scipy
def test_the_answer_does_not_depend_on_chance() -> None:
    generator = np.random.default_rng(0)
    dataset = data(placed(people(60, generator), ANY, generator), PEOPLE)
    assert choose_mirror(dataset, seed=3) == choose_mirror(dataset, seed=3)
    assert {choose_mirror(dataset, seed=seed).permutation for seed in range(2)} == {PEOPLE_MIRROR}


def test_missing_scipy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(
        ModuleNotFoundError, match="^scipy.optimize is not installed: install it with: pip install scipy$"
    ):
        choose_mirror(data(bugs(50, np.random.default_rng(0)), BUG_NAMES))


@pytest.mark.parametrize(
    ("groups", "clusters"),
    [
        pytest.param(30, 30, id="subjects"),
        pytest.param(4, 4, id="four"),
        pytest.param(3, 20, id="three"),
        pytest.param(1, 20, id="one-video"),
    ],
)
def test_the_half_that_judges_shares_no_group_with_the_half_that_proposed(groups: int, clusters: int) -> None:
    dataset = data(bugs(120, np.random.default_rng(0))).regrouped([str(i % groups) for i in range(120)])
    cluster_of, halves, _ = _halves(dataset, np.arange(120), np.random.default_rng(0))
    assert sorted(np.concatenate(halves)) == list(range(120))
    parts = [set(cluster_of[half].tolist()) for half in halves]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == clusters
    assert abs(len(halves[0]) - len(halves[1])) <= 120 / clusters


def test_groups_are_dealt_to_the_emptier_half() -> None:
    dataset = data(bugs(120, np.random.default_rng(0))).regrouped([str(i * i % 23) for i in range(120)])
    usable = np.flatnonzero(np.arange(120) % 7)
    clusters, halves, _ = _halves(dataset, usable, np.random.default_rng(5))
    present, sizes = np.unique(clusters[usable], return_counts=True)
    dealt, filled = ([], []), [0, 0]
    for position in np.random.default_rng(5).permutation(len(present)):
        half = int(filled[1] < filled[0])
        dealt[half].append(present[position])
        filled[half] += sizes[position]
    for own, half in zip(dealt, halves, strict=True):
        assert half.tolist() == [i for i in usable.tolist() if clusters[i] in own]


# --- parts of the check ---


def test_objects_are_laid_on_the_mean_by_shift_turn_and_scale() -> None:
    generator = np.random.default_rng(0)
    mean = generator.normal(size=6) + 1j * generator.normal(size=6)
    spin = 3 * np.exp(2j)
    mask = np.ones((2, 6), bool)
    mask[1, 2:4] = False
    z = np.where(mask, spin * mean + 5 - 2j, 0)
    points, turn = aligned(z, mask, mean, np.array([1.0, 2, 0, 1, 3, 1]))
    np.testing.assert_allclose(points, np.where(mask, mean, 0), atol=1e-12)
    np.testing.assert_allclose(turn, [1 / spin] * 2)
    z[0, 2] += 100  # of no weight
    np.testing.assert_allclose(
        np.delete(aligned(z, mask, mean, np.array([1.0, 2, 0, 1, 3, 1]))[0][0], 2), np.delete(mean, 2)
    )


def test_one_matrix_for_all_gives_what_one_for_each_object_gives() -> None:
    generator = np.random.default_rng(0)
    flat, factors, noise = generator.normal(size=(5, 8)), generator.normal(size=(8, 2)), generator.uniform(1, 2, 8)
    mask = np.ones((5, 8))
    together = whiten(flat, mask, factors, noise)
    precision = np.linalg.inv(factors @ factors.T + np.diag(noise))
    np.testing.assert_allclose(together[0], flat @ precision)
    np.testing.assert_allclose(together[1], flat @ precision @ factors @ factors.T)
    mask[4, :3] = 0
    apart = whiten(flat, mask, factors, noise)
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(other[:4], one[:4])
    seen = np.arange(3, 8)
    least = np.linalg.inv(factors[seen] @ factors[seen].T + np.diag(noise[seen]))
    np.testing.assert_allclose(apart[0][4], [0, 0, 0, *(flat[4, seen] @ least)])
    np.testing.assert_allclose(apart[1][4], flat[4, seen] @ least @ factors[seen] @ factors.T)


def test_permutations_are_mirrors_and_a_step_apart() -> None:
    assert sorted(_involutions(3)) == [(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0)]
    assert [len(list(_involutions(count))) for count in range(1, 7)] == [1, 2, 4, 10, 26, 76]
    cost = np.random.default_rng(0).uniform(1, 2, (7, 7))
    cost = cost + cost.T
    start = (1, 0, 3, 2, 4, 5, 6)
    steps = _neighbours(start, cost, most=99)
    assert len(steps) == len(set(steps)) == 2 + 3 + 2 * 1 + 2 * 2 * 3, "parted; two singles; two pairs; a pair and one"
    assert all(step[step[k]] == k for step in steps for k in range(7))
    assert start not in steps
    prices = [sum(cost[k, other] for k, other in enumerate(step)) for step in steps]
    assert prices == sorted(prices)
    assert _neighbours(start, cost, most=4) == steps[:4], "the hardest to tell apart first"


@needs_scipy
@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_cheapest_assignment_is_cut_into_swaps(count: int) -> None:
    generator = np.random.default_rng(count)
    for _ in range(20):
        cost = generator.uniform(1, 2, (count, count))
        found = _assign((cost + cost.T) / 2)
        assert all(found[found[k]] == k for k in range(count))
    pairs = [k ^ 1 if k ^ 1 < count else k for k in range(count)]
    cost[np.arange(count), pairs] = 0
    assert _assign((cost + cost.T) / 2) == tuple(pairs)
    ring = np.diag([9.0, 9, 1]) + 9  # 0 -> 1 -> 2 -> 0 is the cheapest; of its swaps the one that leaves 2 alone
    ring[[0, 1, 2], [1, 2, 0]] = [0.2, 0.1, 0.3]
    assert _assign(ring) == (1, 0, 2)


def test_wins_are_of_whole_clusters() -> None:
    clusters = np.repeat([7, 2, 5], [2, 2, 1])
    gains = np.array([[1, -1, 0, 3, 9], [1, -1, 0, -1, -1], [1, -1, 0, 1, 0], [1, -1, 0, 1, -1], [1, -1, 0, -1, -1]])
    won, count = _wins(gains.astype(float), clusters, np.random.default_rng(0))
    assert count == 3
    assert won[:3].tolist() == [1, 0, 0], "always, never, and a draw is no win"
    assert won[3] == pytest.approx(20 / 27, abs=0.05), "with the third cluster at most once among the three"
    assert won[4] == pytest.approx(19 / 27, abs=0.05), "with the first one among them"


def test_a_point_s_misfit_is_the_median_of_where_it_is_labelled() -> None:
    pull = np.array([[1.0, 5, 2], [3, 100, 4], [5, 7, 9]])
    mask = np.array([[True, True, False], [True, False, False], [True, True, False]])
    assert _typical(pull, mask).tolist() == [3.1, 6.1, 4.1]


# --- real labels ---


def faces(count: int | None = None) -> Dataset:
    path = SHARED / "faces68/train.json"
    if not path.is_file():
        pytest.skip("needs ../shared/data")
    content = json.loads(path.read_text())
    identity = {image["id"]: image["identity"] for image in content["images"]}
    annotations = content["annotations"][:count]
    xy = np.array([a["keypoints"] for a in annotations], float).reshape(-1, 68, 3)[..., :2] + 0.5
    return data(xy, tuple(content["categories"][0]["keypoints"])).regrouped(
        [identity[a["image_id"]] for a in annotations]
    )


def video(path: str) -> Dataset:
    """A DeepLabCut CSV as one group."""
    if not (SHARED / path).is_file():
        pytest.skip("needs ../shared/data")
    with (SHARED / path).open(newline="") as file:
        rows = list(csv.reader(file))
    xy = np.array([[float(cell) if cell else np.nan for cell in row[1:]] for row in rows[3:]])
    return data(xy.reshape(len(xy), -1, 2) + 0.5, tuple(rows[1][1::2])).regrouped(["video"] * len(xy))


@needs_scipy
@pytest.mark.parametrize("count", [None, 200], ids=["all", "200"])
def test_faces_are_found_from_labels_against_their_names(count: int | None) -> None:
    dataset = faces(count)
    assert from_names(dataset.skeleton.names) != FACES_MIRROR
    mirror = choose_mirror(dataset)
    assert (mirror.permutation, mirror.source, mirror.warning) == (FACES_MIRROR, "labels", True), mirror.line


def test_an_open_field_mouse_swaps_its_ears() -> None:
    mirror = choose_mirror(video("openfield_mouse/labeled-data/m4s1/CollectedData_Pranav.csv"))
    assert (mirror.permutation, mirror.source) == ((0, 2, 1, 3), "names"), mirror.line


@needs_scipy
@pytest.mark.parametrize("named", [True, False])
def test_two_fixed_views_have_no_mirror(named: bool) -> None:
    dataset = video("mirror_mouse/CollectedData.csv")
    if not named:
        dataset = dataset.with_skeleton(Skeleton(tuple(f"k{k}" for k in range(17))))
    mirror = choose_mirror(dataset)
    assert (mirror.permutation, mirror.source) == (None, "off"), mirror.line


def verdict(**values) -> Verdict:
    """That of a pair among ten keypoints, which is clear and stands, but for these values."""
    good = Verdict(
        permutation=(1, 0, *range(2, 10)),
        ratio=1.0,
        point_ratio=1.0,
        point=3,
        rival=tuple(range(10)),
        rivals=9,
        gain=MIN_GAIN / 10,
        wins=1.0,
        lost=False,
        stands=True,
        objects=99,
        clusters="9 groups",
    )
    return dataclasses.replace(good, **values)


RATIOS = {  # misfit of mirrored objects over plain ones, of all points and of the worst: whether they look alike
    "as alike as may be": (1.3, MAX_POINT_RATIO, True),
    "less alike": (1.31, 1.0, False),
    "one point unlike": (1.0, MAX_POINT_RATIO + 0.01, False),
}


@pytest.mark.parametrize(("ratio", "point_ratio", "fits"), RATIOS.values(), ids=RATIOS)
def test_how_unlike_mirrored_objects_may_be(ratio: float, point_ratio: float, fits: bool):
    """1.3: faces are at 1.0, and a thumb taken for a little finger at 2 and up."""
    assert verdict(ratio=ratio, point_ratio=point_ratio).fits is fits


UNCLEAR = {
    "unlike": {"ratio": 1.31},
    "not always better": {"wins": 0.999},
    "hardly better": {"gain": 0.99 * MIN_GAIN / 10},
}


@pytest.mark.parametrize("values", UNCLEAR.values(), ids=UNCLEAR)
def test_a_clear_verdict_fits_and_beats_every_other_always_and_by_enough(values: dict):
    assert verdict().clear
    assert not verdict(**values).clear


NAMED = tuple(f"k{k}" for k in range(10))
WEAK = {  # a verdict, whether the labels alone decide, and the words
    "few objects": ({"objects": 39}, True, "39 objects are too few to trust the labels alone, 40 are needed"),
    "few objects, but names": ({"objects": 39}, False, "another pairing fits about as well"),
    "enough objects": ({"objects": 40}, True, "another pairing fits about as well"),
    "unlike": (
        {"ratio": 1.16},
        True,
        "1.16 times as far from the usual shape as unmirrored ones (at most 1.15 is accepted)",
    ),
    "alike enough": (
        {"ratio": 1.15},
        True,
        "another pairing fits about as well (mirrored objects are 1.16 times as far",
    ),
    "unlike, but names": ({"ratio": 1.16}, False, "another pairing fits about as well"),
    "unlike in spite of names": ({"ratio": 1.31}, False, "(at most 1.3 is accepted)"),
    "one point": ({"point_ratio": 2.01}, False, "k3 is 2.0 times as far from its usual place in mirrored objects as"),
    "one point, alike enough": ({"point_ratio": 2.0}, False, "9 groups)"),
}


@pytest.mark.parametrize(("values", "unaided", "words"), WEAK.values(), ids=WEAK)
def test_why_a_verdict_is_not_clear_is_said(values: dict, unaided: bool, words: str):
    assert words in _weakness(verdict(**values), NAMED, unaided)


AGAINST = {  # what the labels say of a given permutation, and the words
    "it fits": ({}, ""),
    "it fits, and another one, too": ({"gain": -0.001, "lost": True, "wins": 0.0}, ""),
    "another one fits better, but not always": ({"gain": -0.5, "lost": False}, ""),
    "another one fits better": ({"gain": -0.02, "lost": True}, "which has k0 in place, not k0 <-> k1"),
    "it does not fit": (
        {"ratio": 1.4},
        "mirrored objects are 1.40 times as far from the usual shape as unmirrored ones (at most 1.3",
    ),
}


@pytest.mark.parametrize(("values", "words"), AGAINST.values(), ids=AGAINST)
def test_what_speaks_against_given_pairs(values: dict, words: str):
    found = _contradiction(MirrorTrial(None, lambda _permutation: verdict(**values)), NAMED, verdict().permutation)
    assert words in found
    assert bool(found) == bool(words)


def test_pairs_are_counted():
    assert [_count(p) for p in (BUG_MIRROR, (0, 2, 1), (0, 1))] == [
        "4 pairs",
        "1 pair",
        "no pairs (every keypoint stays)",
    ]


def test_a_difference_is_told_by_a_swap_that_is_not_there_or_another_one():
    names = ("a", "b", "c", "d")
    assert _difference((1, 0, 2, 3), (0, 1, 2, 3), names) == "a in place, not a <-> b"
    assert _difference((0, 1, 2, 3), (0, 1, 3, 2), names) == "c <-> d, not c in place"
    assert _difference((0, 1, 3, 2), (1, 0, 2, 3), names) == "c in place, not c <-> d", "one of the first's pairs"
    assert _difference((1, 0, 3, 2), (2, 3, 0, 1), names) == "a <-> c, not a <-> b"


SIX = tuple(f"k{k}" for k in range(6))
SWAP = (1, 0, *range(2, 8))
FORBIDDEN = {  # names, a permutation that fits the labels, why the names forbid it
    "few without a side": (
        ("a", "b", *SIX[:5]),
        SWAP[:7],
        "no keypoint name says left or right, and 7 keypoints are too few to trust",
    ),
    "enough without a side": (("a", "b", *SIX), SWAP, ""),
    "few with a side": (("left_a", "right_a", "k"), SWAP[:3], ""),
    "a side that stays": (("left_a", "right_a", "k"), (0, 1, 2), "left_a would stay and so keep its side"),
    "a side that stays one": (("left_a", "left_b", "right_c"), SWAP[:3], "left_a would become left_b and so keep its"),
    "one side alone": (("left_a", "left_b", "c"), SWAP[:3], ""),
    "of one word in both": (("top_front", "top_rear", *SIX), SWAP, "top_front and top_rear differ in more than a side"),
    "of both words in both": (("front_to_rear_1", "front_to_rear_2", *SIX), SWAP, ""),
    "of one word in one": (("front", "a", *SIX), SWAP, ""),
    "of the other word in one": (("a", "rear", *SIX), SWAP, ""),
    "of both words apart": (("top", "bottom", *SIX), (0, 1, 3, 2, *range(4, 8)), ""),
    **{f"{one} {two}": ((f"{one}_x", f"{two}_x", *SIX), SWAP, "differ in more than a side") for one, two in OPPOSITES},
    **{f"{two} {one}": ((f"{two}_x", f"{one}_x", *SIX), SWAP, "differ in more than a side") for one, two in OPPOSITES},
}


@pytest.mark.parametrize(("names", "permutation", "words"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_names_have_a_veto(names: tuple[str, ...], permutation: tuple[int, ...], words: str):
    found = _objection(permutation, names)
    assert words in found
    assert bool(found) == bool(words)


@needs_scipy
def test_objects_of_three_labels_count_and_a_keypoint_has_five_in_each_half() -> None:
    generator = np.random.default_rng(0)
    xy = bugs(40, generator)
    xy[:21, 2:] = np.nan
    assert "flipped: 19 objects with 3 or more labels are too few to check" in choose_mirror(data(xy)).line
    xy = bugs(40, generator)
    xy[::5, 3] = np.nan
    xy[1::5, 3] = np.nan
    xy[2::5, 3] = np.nan
    halves = _halves(data(xy), np.arange(40), np.random.default_rng(0))[1]
    labelled = [half[~np.isnan(xy[half, 3, 0])] for half in halves]
    for count, few in ((5, False), (4, True)):
        part = xy.copy()
        for half in labelled:
            part[half[count:], 3] = np.nan
        assert ("k3 has too few labels to check a symmetry" in choose_mirror(data(part)).line) == few
