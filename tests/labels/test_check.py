"""`keylite.check`: each kind of finding in labels that are wrong in this way, none in good ones, and the corrected copy."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import read_dataset, write_dataset
from keylite.labels import wholes
from keylite.runtime.errors import ArgumentError, DataError
from keylite.runtime.skeleton import Skeleton

pytest.importorskip("scipy", reason="needs scipy")

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
SIDES = ("brow", "eye", "nostril", "mouth", "jaw")
NAMES = (*(f"left_{part}" for part in SIDES), *(f"right_{part}" for part in SIDES), "nose", "chin")
MIRROR = (5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 10, 11)
HALF = np.array([(14, -16), (10, -9), (4, 6), (8, 13), (19, 9)], float)  # px right of the middle and below it
SHAPE = np.concatenate([HALF, HALF * [-1, 1], [(0, 2), (0, 24)]])
SIZE = 96


def faces(count: int = 60, seed: int = 0, **changes: object) -> Dataset:
    """Objects of a symmetric shape that turn, tilt and grow, with boxes drawn by hand, in pictures of noise."""
    generator = np.random.default_rng(seed)
    images, points = [], []
    for _ in range(count):
        images.append(generator.integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8))
        turn, tilt, size = generator.uniform(-4, 4), generator.normal(0, 0.1), generator.uniform(0.8, 1.3)
        deep = SHAPE + [turn, 0] * (1 - np.abs(SHAPE[:, :1]) / 19)  # turned heads: what is in the middle moves more
        rotation = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        points.append(
            size * deep @ rotation + generator.normal(0, 0.5, SHAPE.shape) + SIZE / 2 + generator.normal(0, 4, 2)
        )
    xy = np.array(points)
    boxes = np.concatenate([xy.min(axis=1), xy.max(axis=1)], axis=1) + generator.normal(0, 0.8, (count, 4))
    made = from_arrays(images, xy, skeleton=Skeleton(NAMES), boxes=boxes, groups=[f"g{n % 6}" for n in range(count)])
    return dataclasses.replace(made, **changes)


def with_points(data: Dataset, row: int, points: np.ndarray) -> Dataset:
    xy = data.xy.copy()
    xy[row] = points
    return dataclasses.replace(data, xy=xy)


def of(report: keylite.CheckReport, kind: str) -> list:
    return [one for one in report.findings if one.kind == kind]


@pytest.fixture(scope="module")
def good() -> Dataset:
    return faces().check_images()


def test_good_labels_are_clean(good: Dataset):
    report = keylite.check(good)
    assert report.clean, str(report)
    assert [part.objects for part in report.parts] == [60]
    assert report.parts[0].keypoints["nose"].labelled == 60
    assert keylite.check(keylite.gauges(40, size=32)).clean


def test_names_that_are_not_utf8_are_escaped_in_json(good: Dataset):
    named = dataclasses.replace(good, image_names=tuple(f"{number}\udcff.png" for number in range(len(good))))
    report = keylite.check(with_points(named, 7, good.xy[7][list(MIRROR)]))
    (found,) = of(report, "swapped")
    assert found.image == "7\udcff.png"
    assert r"7\udcff.png" in {one["image"] for one in json.loads(report.to_json())["findings"]}
    assert r"7\udcff.png" in {one["image"] for one in report.to_dict()["findings"]}


def moved(data: Dataset, row: int, **places: tuple[float, float]) -> np.ndarray:
    points = data.xy[row].copy()
    for name, by in places.items():
        points[NAMES.index(name)] += by
    return points


ORDER = [3, 1, 4, 0, 2, 9, 5, 11, 8, 6, 7, 10]
WRONG = {  # what is done to the points of an object, and what is found
    "sides": (lambda data: data.xy[7][list(MIRROR)], "swapped", "left and right are swapped: the misfit falls from "),
    "an order": (
        lambda data: data.xy[7][ORDER],
        "permuted",
        "points are in another order: left_mouth lies where left_brow belongs, ",
    ),
    "two points": (
        lambda data: data.xy[7][[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 10]],
        "permuted",
        "points are in another order: chin lies where nose belongs, nose lies where chin belongs: the misfit",
    ),
    "a point": (lambda data: moved(data, 7, nose=(17, 0)), "point", "far from where the other points say: nose 1"),
    "two moved points": (
        lambda data: moved(data, 7, nose=(20, 0), left_jaw=(0, -25)),
        "point",
        "far from where the other points say: ",
    ),
    "outside": (lambda data: moved(data, 7, chin=(0, 60)), "outside", "outside the picture: chin"),
}


@pytest.mark.parametrize(("change", "kind", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_object_is_found_with_its_reason(change, kind: str, words: str, good: Dataset):
    report = keylite.check(with_points(good, 7, change(good)))
    (one,) = of(report, kind)
    assert (one.number, one.image, one.group) == (7, good.image_names[7], good.groups[good.group_index[7]])
    assert one.sentence.startswith(words)
    assert {one.number for one in report.findings if one.severity == "warning"} <= {7}


def test_a_mirrored_object_is_told_from_swapped_sides_by_its_box(good: Dataset):
    """Both look alike, because the shape is symmetric; but the points of a mirrored object leave their box."""
    data = with_points(good, 7, [SIZE, 0] + good.xy[7] * [-1, 1])
    away = abs(SIZE - data.box[7, 0] - data.box[7, 2])
    assert away > 3  # px: else the object lies in the middle, and a mirror leaves its box as it is
    (one,) = of(keylite.check(data), "mirrored")
    assert (one.number, one.correction) == (7, None)
    without = dataclasses.replace(data, box=np.full_like(data.box, np.nan))
    (one,) = of(keylite.check(without), "swapped")
    assert one.sentence.startswith("left and right are swapped, or the object is mirrored: ")
    assert one.correction is None


def test_many_objects_that_are_wrong_alike_are_found(good: Dataset):
    xy = good.xy.copy()
    rows = [1, 8, 20, 33, 50]
    xy[rows] = xy[rows][:, list(MIRROR)]
    report = keylite.check(dataclasses.replace(good, xy=xy))
    assert [one.number for one in of(report, "swapped")] == rows
    certain = [one.correction.order for one in of(report, "swapped") if one.correction]
    assert len(certain) >= 3  # in the middle of a picture, a box fits the mirrored object, too
    assert set(certain) == {tuple(NAMES[k] for k in MIRROR)}


def test_a_box_that_was_made_from_the_points_makes_nothing_certain(good: Dataset):
    """The points and the box of a mirrored object look as those of swapped sides: to swap them would be wrong."""
    boxes = np.concatenate([good.xy.min(axis=1), good.xy.max(axis=1)], axis=1)
    data = with_points(dataclasses.replace(good, box=boxes), 7, [SIZE, 0] + good.xy[7] * [-1, 1])
    data.box[7, [0, 2]] = SIZE - data.box[7, [2, 0]]
    (one,) = of(keylite.check(data), "swapped")
    assert one.sentence.startswith("left and right are swapped, or the object is mirrored: ")
    assert one.correction is None


def test_an_order_is_not_certain_if_points_nearly_coincide(good: Dataset):
    data = with_points(good, 7, good.xy[7][ORDER])
    (one,) = of(keylite.check(data), "permuted")
    assert one.correction is not None
    near = data.xy.copy()
    for keypoint, other in (("nose", "chin"), ("left_eye", "left_brow")):  # one lies on the other, but for noise
        noise = np.random.default_rng(1).normal(0, 0.5, (len(near), 2))
        near[:, NAMES.index(keypoint)] = good.xy[:, NAMES.index(other)] + noise
    near[7] = near[7][ORDER]
    (one,) = of(keylite.check(data.with_xy(near)), "permuted")
    assert one.correction is None


def test_few_keypoints_are_compared_with_their_neighbours():
    data = keylite.gauges(120, size=32)
    xy = data.xy.copy()
    xy[5, [0, 2]] = xy[5, [2, 0]]
    xy[9] = xy[9][[3, 0, 1, 2]]
    xy[30, :, 0] = 32 - xy[30, :, 0]
    report = keylite.check(dataclasses.replace(data, xy=xy))
    assert {one.number for one in report.findings if one.kind in ("permuted", "mirrored")} == {5, 9, 30}
    assert {one.number for one in report.findings if one.severity == "warning"} == {5, 9, 30}


def test_few_objects_are_not_judged(good: Dataset):
    report = keylite.check(good[:10])
    assert "10 objects of 12 keypoints do not show which shape is usual" in str(report)
    (one,) = [one for one in report.findings if one.severity != "note"]
    assert one.kind == "mirror"  # training warns, too, that names with sides are not confirmed


def test_unlabelled_points_and_keypoints_are_no_reason(good: Dataset):
    xy = good.xy.copy()
    xy[::2, 3], xy[:, 4], xy[5, :9] = np.nan, np.nan, np.nan
    report = keylite.check(good.with_xy(xy))
    assert [one.kind for one in report.findings if one.severity != "note"] == ["few-labels", "mirror"]


# ---- boxes, pictures, groups, numbers


def test_boxes_that_do_not_fit_and_boxes_that_are_missing(good: Dataset):
    box = good.box.copy()
    box[3] = box[3] + [20, 0, 20, 0]
    box[4, 2:] = box[4, :2] + 2.5 * (box[4, 2:] - box[4, :2])
    box[6] = np.nan
    report = keylite.check(dataclasses.replace(good, box=box))
    assert [one.number for one in of(report, "box")] == [3, 4]
    assert "of the box's longer side, usually " in of(report, "box")[1].sentence
    (one,) = of(report, "no-box")
    assert (one.number, one.severity) == (6, "error")


def test_pictures_that_are_equal(good: Dataset, tmp_path: Path):
    images = list(good.images)
    images[1], images[3] = images[0], images[2]
    xy = good.xy.copy()
    xy[1] = xy[0]
    data = dataclasses.replace(good, images=tuple(images), xy=xy, checked=False)
    report = keylite.check(data, val=dataclasses.replace(good[10:14], checked=False, likeness=None))
    assert [(one.number, one.others) for one in of(report, "equal-pictures") if one.severity == "note"] == [
        (1, (good.image_names[0],))
    ]
    (two,) = of(report, "two-labels")
    assert (two.number, two.others) == (3, (good.image_names[2],))
    assert len([one for one in of(report, "equal-pictures") if "figures will flatter" in one.sentence]) == 4
    assert len(of(report, "shared-groups")) == 1


def test_a_copy_of_an_object_goes_if_all_is_equal(good: Dataset):
    doubled = good.subset(np.r_[0:60, 4])
    (one,) = of(keylite.check(doubled), "copy")
    assert (one.number, one.correction.order) == (60, None)
    box, visible = doubled.box.copy(), doubled.visible.copy()
    box[60, 0] -= 1
    visible[60, 0] = 1
    for changes in ({"box": box}, {"visible": visible}):
        (one,) = of(keylite.check(dataclasses.replace(doubled, **changes)), "copy")
        assert one.correction is None


def test_parts_of_one_name_are_not_mixed_up(good: Dataset, tmp_path: Path):
    """Two data sets from arrays have the same name; corrections go to the one that they are of."""
    train, val = with_points(good[:30], 7, good.xy[7][list(MIRROR)]), good[30:]
    report = keylite.check(train, val=val, fix=tmp_path / "fixed", html=tmp_path / "page.html")
    assert report.changes[0].startswith("train: ")
    assert [(one.part, one.number) for one in of(report, "swapped")] == [("train", 7)]
    for part, wanted in {"train": good.xy[:30], "val": good.xy[30:]}.items():
        points = json.loads((tmp_path / f"fixed/{part}.json").read_text())["annotations"]
        assert np.allclose(np.reshape([one["keypoints"] for one in points], (-1, 12, 3))[..., :2] + 0.5, wanted)


def test_a_group_that_is_labelled_elsewhere(good: Dataset):
    xy = good.xy.copy()
    xy[good.group_index == 2, NAMES.index("chin")] += [0, 4]
    (one,) = of(keylite.check(dataclasses.replace(good, xy=xy)), "shift")
    assert one.keypoints == ("chin",)
    assert "group g2, chin lies +" in one.sentence
    assert "px in y" in one.sentence


def test_a_grid_and_a_group_that_holds_most(good: Dataset):
    grid = dataclasses.replace(good, xy=np.rint(good.xy / 4) * 4 + 0.5)
    (one,) = of(keylite.check(grid), "rounding")
    assert (one.severity, one.sentence[:36]) == ("warning", "coordinates are multiples of 4 px: r")
    uneven = good.regrouped(["a"] * 50 + ["b"] * 6 + ["c"] * 4)
    assert "group a has 50 of 60 objects" in of(keylite.check(uneven), "balance")[0].sentence


# ---- files


def test_refused_labels_are_a_finding_and_the_rest_is_checked(good: Dataset, tmp_path: Path):
    path = write_dataset(good, tmp_path / "faces")
    (tmp_path / "faces" / f"{good.image_names[3]}.png").unlink()
    report = keylite.check(path, fix=tmp_path / "fixed.json")
    (one,) = of(report, "refused")
    assert report.changes == (f"left out: {one.sentence}",)
    assert one.severity == "error"
    assert "1 of 60 images not found" in one.sentence
    assert report.parts[0].objects == 59
    path.write_text("{}")
    with pytest.raises(DataError):
        keylite.check(path)
    with pytest.raises(FileNotFoundError):
        keylite.check(tmp_path / "none.json")


def test_a_corrected_copy_has_what_is_certain_and_lists_it(good: Dataset, tmp_path: Path):
    path = write_dataset(good, tmp_path / "faces")
    truth = read_dataset(path)
    content = json.loads(path.read_text())
    keypoints = content["annotations"][7]["keypoints"]
    content["annotations"][7]["keypoints"] = [value for k in MIRROR for value in keypoints[3 * k : 3 * k + 3]]
    content["annotations"].append(content["annotations"][20] | {"id": 99})
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    report = keylite.check(path, fix=tmp_path / "faces/fixed.json")
    assert path.read_bytes() == before
    name = f"{good.image_names[7]}.png"
    assert list(report.changes) == [
        f"{name}, id 8: left and right are swapped back",
        f"{good.image_names[20]}.png, id 99: the copy is left out",
    ]
    fixed = read_dataset(tmp_path / "faces/fixed.json")
    assert np.allclose(fixed.xy, truth.xy)
    assert len(fixed) == 60
    (one,) = of(report, "swapped")
    assert np.allclose(one.correction.xy, truth.xy[7])
    with pytest.raises(ArgumentError, match="format: expected coco"):
        keylite.check(path, fix=tmp_path / "x", format="voc")
    with pytest.raises(ArgumentError):
        keylite.check(path, fix=path)


def test_the_page_escapes_names_and_embeds_pictures(good: Dataset, tmp_path: Path):
    names = [f'<script>alert({n})</script>&".png' for n in range(60)]
    data = dataclasses.replace(
        with_points(good, 7, good.xy[7][list(MIRROR)]), image_names=tuple(names), name="<img src=x>"
    )
    report = keylite.check(data, html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert len(of(report, "swapped")) == 1
    assert "embeds pictures of the data set</b> (1)" in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "http" not in page
    assert "&lt;script&gt;alert(7)" in page


def test_a_report_as_json_and_as_text(good: Dataset):
    report = keylite.check(with_points(good, 7, good.xy[7][list(MIRROR)]))
    plain = report.to_dict()
    (one,) = [one for one in plain["findings"] if one["kind"] == "swapped"]
    assert one["correction"]["order"][:2] == ["right_brow", "right_eye"]
    assert repr(report).startswith("CheckReport(1 warning")
    assert "warning, swapped (1): left and right are swapped" in str(report)


KNOWN = {  # named in the data set's own description as visibly wrong
    "trn_Chris_Cirino_30.jpg",
    "trn_Marieta_Chrousala_12.jpg",
    "trn_Elton_John_10.jpg",
}


def test_wrong_labels_of_real_faces_are_found():
    path = SHARED / "faces68/train.json"
    if not path.is_file():
        pytest.skip("needs ../shared/data")
    data = read_dataset(path)
    names = np.array(data.image_names)[data.image_index]
    few = np.isin(names, list(KNOWN)) | (np.arange(len(data)) % 6 == 0)
    report = keylite.check(data.subset(few))
    found = {one.image for one in report.findings if one.kind in ("point", "shape", "swapped", "mirrored", "permuted")}
    assert found >= KNOWN
    assert len(found) <= 6


EDGES = {  # number of objects and of keypoints, and what is special
    "one keypoint": (30, 1, ""),
    "one object": (1, 5, ""),
    "two keypoints": (30, 2, ""),
    "hardly labelled": (60, 6, "missing"),
    "the same object again and again": (30, 5, "same"),
    "all points on one spot": (30, 5, "spot"),
    "no shape at all": (60, 9, ""),
}


@pytest.mark.parametrize(("count", "keypoints", "how"), EDGES.values(), ids=EDGES)
def test_odd_data_sets_are_checked(count: int, keypoints: int, how: str):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (40, 40, 3)).astype(np.uint8) for _ in range(count)]
    xy = generator.uniform(5, 35, (count, keypoints, 2))
    if how == "missing":
        xy[generator.random((count, keypoints)) < 0.6] = np.nan
    if how == "same":
        images, xy[:] = images[:1] * count, xy[0]
    if how == "spot":
        xy[:] = 10
    report = keylite.check(from_arrays(images, xy))
    found = [one.kind for one in report.findings if one.number is not None and one.severity != "note"]
    assert set(found) <= ({"shape"} if how == "missing" else set())  # of three random points, some lie far apart
    assert str(report)


def test_the_copy_of_one_named_part_is_a_file_and_leaves_out_only_what_was_left_out(tmp_path: Path):
    data = from_arrays([np.full((20, 20, 3), row, np.uint8) for row in range(6)], np.full((6, 3, 2), 9.0))
    out = tmp_path / "fixed.json"
    keylite.check({"train": data}, fix=out)
    assert out.is_file()
    other = data.with_skeleton(keylite.Skeleton(("a", "b", "c")))
    report = keylite.check({"train": data, "val": other}, fix=tmp_path / "both")
    assert "refused" in {one.kind for one in report.findings}  # the parts name other keypoints
    assert not [line for line in report.changes if "left out" in line]


def test_pictures_that_come_twice_are_compared_without_measuring_all_objects_again(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    usual = wholes.usual_extent
    monkeypatch.setattr(wholes, "usual_extent", lambda data: calls.append(1) or usual(data))
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    data = from_arrays([*noise, *noise.copy()], np.random.default_rng(1).uniform(2, 30, (16, 4, 2)))
    found = wholes.picture_findings(data.check_images())
    assert [one.kind for one in found] == ["two-labels"] * 8
    assert len(calls) == 1


def test_labels_without_a_point_are_no_warning(recwarn: pytest.WarningsRecorder):
    data = from_arrays([np.full((20, 20, 3), row, np.uint8) for row in range(3)], np.full((3, 2, 2), np.nan))
    assert wholes.rounding_findings(data) == []
    assert not list(recwarn)
