"""Labels go through the format of another tool and come back, and what a format cannot hold is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.data.dataset import Dataset
from keylite.data.formats.converting import TARGETS, convert
from keylite.data.formats.reading import read_dataset
from keylite.runtime.images import write_image

NAN = float("nan")
NEAR = 1e-9  # px: a fraction of the image is rounded once when it is written, and once when it is read
FILES = {"coco": "l.json", "label-studio": "l.json", "cvat": "l.xml", "dlc": "l.csv", "csv": "l.csv"}
SKELETON = keylite.Skeleton(
    ("eye 1", "eye 2", "tail"), edges=((0, 1), (1, 2)), mirror=(1, 0, 2), sigmas=(0.1, 0.2, 0.3)
)


def labelled(folder: Path, several: bool = True) -> Dataset:
    """Objects with all that a data set can have; two of them in one picture if `several`."""
    names = ("a.png", "b & c.png")
    for number, name in enumerate(names):
        write_image(folder / name, np.full((30, 40, 3), 90 * number, np.uint8))
    xy = [[[1 / 3, 29.9], [7.5, 8], [NAN, NAN]], [[11, 12.25], [NAN, NAN], [17, 0.1]], [[1, 2], [3, 4], [5, 6.7]]]
    data = Dataset(
        skeleton=SKELETON,
        images=tuple(folder / name for name in names),
        image_names=names,
        image_index=np.array([0, 0, 1], np.int32),
        xy=np.array(xy),
        visible=np.array([[2, 1, 0], [1, 0, 2], [2, 2, 2]], np.uint8),
        box=np.array([[0.1, 1, 20 / 3, 29.95], [8, 0, 30, 20], [0, 0, 9.5, 9]]),
        area=np.full(3, NAN),
        groups=("ben", "tom & ada"),
        group_index=np.array([1, 1, 0], np.int32),
        name="two",
        ids=(3, 8, 12),
        image_ids=(70, 60),
        category="cat <x>",
        category_id=18,
    )
    return data if several else data.subset([1, 2])


def came_back(data: Dataset, folder: Path, format: str) -> Dataset:
    """What is read after the data set was written in a format, beside its pictures."""
    out = folder / FILES[format] if format in FILES else folder if format == "labelme" else folder / "out"
    convert(data, out, format=format)
    return read_dataset(out, format=format)


@pytest.mark.parametrize("format", TARGETS)
def test_nothing_that_a_format_holds_is_lost(format: str, tmp_path: Path):
    holds = TARGETS[format].holds.split()
    data = labelled(tmp_path, several=format != "csv")
    back = came_back(data, tmp_path, format)
    order = np.lexsort((back.xy[:, 0, 0], back.image_index))  # a format may have its own order of objects
    back = back.subset(order)
    assert [Path(name).name for name in back.image_names] == list(data.image_names)
    names = list(back.skeleton.names)
    assert sorted(names) == sorted(SKELETON.names)
    place = [names.index(name) for name in SKELETON.names]
    assert place == [0, 1, 2] or "order" not in holds
    expected = data.visible if "hidden" in holds else np.where(data.visible > 0, 2, 0)
    assert back.visible[:, place].tolist() == expected.tolist()
    np.testing.assert_allclose(back.xy[:, place], data.xy, atol=NEAR, rtol=0)
    if "boxes" in holds:
        np.testing.assert_allclose(back.box, data.box, atol=NEAR, rtol=0)
    if format in ("coco", "labelme", "label-studio", "cvat"):
        assert [str(each) for each in back.ids] == ["3", "8", "12"]
    assert (back.skeleton.edges == SKELETON.edges) == ("edges" in holds)
    assert (back.skeleton.mirror == SKELETON.mirror) == ("mirror" in holds)
    assert (back.skeleton.sigmas == SKELETON.sigmas) == ("sigmas" in holds)
    assert (back.category == data.category) == ("category" in holds)
    assert (back.image_ids == data.image_ids) == ("image_ids" in holds)
    assert back.category_id == (data.category_id if format == "coco" else 1)
    if "groups" in holds:
        assert [back.groups[g] for g in back.group_index] == [data.groups[g] for g in data.group_index]


def test_names_of_animals_are_ids_in_dlc(tmp_path: Path):
    data = dataclasses.replace(labelled(tmp_path), ids=("tom", "ada", "tom"))
    assert came_back(data, tmp_path, "dlc").ids == data.ids


def test_a_picture_without_objects_is_an_empty_row_in_dlc(tmp_path: Path):
    data = labelled(tmp_path)
    one = data.subset(np.flatnonzero(data.image_index == 0)[:1])
    lone = dataclasses.replace(
        one, images=data.images[:2], image_names=data.image_names[:2], image_ids=(), image_sizes=None
    )
    convert(lone, tmp_path / "l.csv", format="dlc")
    last = (tmp_path / "l.csv").read_text().splitlines()[-1]
    assert last == data.image_names[1] + "," * 2 * len(data.skeleton)


IDS = {  # ids -> the formats that hold them
    (3, 8, 12): {"coco", "labelme", "label-studio", "cvat"},
    (3, 8, 3): {"labelme", "label-studio", "cvat"},
    ("tom", "ada", "tom"): {"label-studio", "dlc"},
    (0, 1, 2): {"coco", "label-studio"},
}


@pytest.mark.parametrize(("ids", "formats"), IDS.items())
def test_ids_that_are_lost_are_said(ids: tuple, formats: set[str], tmp_path: Path):
    data = dataclasses.replace(labelled(tmp_path), ids=ids)
    for format in sorted(set(TARGETS) - {"csv"}):
        out = tmp_path / format / "l" if format in FILES else tmp_path / format
        lines = " ".join(convert(data, out, format=format))
        assert ("ids of 3 objects" in lines) == (format not in formats), format


LOST = {
    "coco": (),
    "yolo": ("yolo cannot hold: ids of 3 objects; ids of 2 images; names of 2 groups; 3 OKS sigmas",),
    "labelme": ("labelme cannot hold: ids of 2 images; 2 edges; 1 mirror pair; 3 OKS sigmas",),
    "cvat": ("cvat cannot hold: ids of 2 images; 1 mirror pair; 3 OKS sigmas",),
    "dlc": (
        "dlc cannot hold: which points are hidden (2 are); boxes of 3 objects; ids of 3 objects; ids of 2 images; names of 2 groups; "
        "2 edges; 1 mirror pair; 3 OKS sigmas; the category cat <x>",
    ),
}


@pytest.mark.parametrize(("format", "lines"), LOST.items())
def test_what_a_format_cannot_hold_is_said(format: str, lines: tuple, tmp_path: Path):
    out = tmp_path / "new" if format in ("yolo", "labelme") else tmp_path / FILES[format]
    assert convert(labelled(tmp_path), out, format=format) == lines


def test_parts_stay_parts(tmp_path: Path):
    data = labelled(tmp_path)
    convert({"train": data, "val": data.subset([2])}, tmp_path / "yolo", format="yolo")
    both = tmp_path / "yolo"
    assert [len(read_dataset(both, part=part)) for part in ("train", "val")] == [3, 1]
    assert (both / "images/train/a.png").stat().st_nlink == 2, "a picture takes no place twice"
    convert(both, tmp_path / "json", format="coco")
    assert [len(read_dataset(tmp_path / "json", part=part, images=tmp_path)) for part in ("train", "val")] == [3, 1]


def test_an_object_without_a_box_gets_one_in_yolo_and_a_line_says_so(tmp_path: Path):
    data = dataclasses.replace(labelled(tmp_path), box=np.full((3, 4), NAN))
    lines = convert(data, tmp_path / "out", format="yolo")
    assert lines[-1] == "3 objects without a box: yolo needs one, so the smallest around the points is written"
    back = read_dataset(tmp_path / "out")
    np.testing.assert_allclose(back.box[2], [1, 2, 5, 6.7], atol=NEAR)


REFUSED = {
    "an unknown format": ({"format": "voc"}, "format: expected coco, yolo, .*, got 'voc'"),
    "several in a table": ({"format": "csv"}, "a table has one object per picture, and here some have several"),
    "a full folder": ({"format": "yolo", "out": "."}, "out: expected a new or empty folder, got"),
    "a picture": ({"format": "coco", "out": "a.png"}, "a.png is .*an input"),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_one_line(options: dict, words: str, tmp_path: Path):
    data = labelled(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        convert(data, tmp_path / options.get("out", "out"), format=options["format"])
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b & c.png"}


def test_objects_of_label_studio_need_boxes(tmp_path: Path):
    data = dataclasses.replace(labelled(tmp_path), box=np.full((3, 4), NAN))
    with pytest.raises(ValueError, match=r"a.png: it has 2 objects, and Label Studio tells them apart by their boxes"):
        convert(data, tmp_path / "l.json", format="label-studio")
    back = came_back(data.subset([2]), tmp_path, "label-studio")
    np.testing.assert_allclose(np.sort(back.xy, axis=1), np.sort(data.xy[2:], axis=1), atol=NEAR)


@pytest.mark.parametrize("format", sorted(set(TARGETS) - {"csv"}))
def test_names_that_are_not_utf8_are_refused_or_not_written(format: str, tmp_path: Path):
    data = dataclasses.replace(labelled(tmp_path), image_names=("a.png", "b\udcff.png"))
    if format == "yolo":
        convert(data, tmp_path / "new", format=format)
        assert (tmp_path / "new/labels/train/b\udcff.txt").is_file()
        return
    with pytest.raises(keylite.DataError, match="UTF-8, which cannot hold these names of pictures: b.+png; rename"):
        convert(data, tmp_path / "new", format=format)
    assert not (tmp_path / "new").exists()
