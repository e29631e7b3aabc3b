"""Label files are read as they mean it, and every bad object of a file is named in one line."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keylite.data import mirror
from keylite.data.arrays import from_arrays
from keylite.data.examples import crop_boxes
from keylite.data.formats import tables
from keylite.data.formats.reading import read_dataset, write_coco, write_dataset
from keylite.data.labels import path_name
from keylite.runtime.images import write_image

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
NAMES = ["nose", "left_eye", "right_eye"]


def coco(tmp_path: Path, change=lambda data: None, images: bool = True) -> Path:
    """A file of two images and three objects, after `change`; returns its path."""
    data: dict[str, Any] = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 8, "file_name": "b.png", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 30, 20], "area": 500.0, "iscrowd": 0}
            | {"keypoints": [10, 11, 2, 12.5, 13, 1, 99, 98, 0], "num_keypoints": 2},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], "keypoints": [1, 2, 2, 3, 4, 2, 4, 4, 2]},
            {"id": 3, "image_id": 8, "category_id": 1, "keypoints": [1.25, 2, 2.0, 3, 4, 2.0, 0, 0, 0.0]},
        ],
        "categories": [
            {"id": 1, "name": "face", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]], "flip_pairs": [[1, 2]]}
            | {"sigmas": [0.1, 0.2, 0.2]}
        ],
    }
    change(data)
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(data))
    if images:
        for name in ("a", "b"):
            if not (tmp_path / f"{name}.png").exists():
                write_image(tmp_path / f"{name}.png", np.zeros((30, 40, 3), np.uint8))
    return path


def test_coco_means_what_it_says(tmp_path: Path) -> None:
    data = read_dataset(coco(tmp_path))
    assert data.skeleton.names == tuple(NAMES)
    assert data.skeleton.edges == ((0, 1), (0, 2))
    assert data.skeleton.mirror == (0, 2, 1)
    assert data.skeleton.sigmas == (0.1, 0.2, 0.2)
    expected = [[[10.5, 11.5], [13, 13.5], [np.nan] * 2], [[1.5, 2.5], [3.5, 4.5], [4.5, 4.5]]]
    assert np.array_equal(data.xy[:2], expected, equal_nan=True), "index + 0.5; v 0 is unlabelled whatever its place"
    assert data.visible.tolist() == [[2, 1, 0], [2, 2, 2], [2, 2, 0]]
    assert data.box[:2].tolist() == [[1, 2, 31, 22], [0, 0, 5, 5]], "edges, never shifted"
    assert np.isnan(data.box[2]).all()
    assert data.area[0] == 500
    assert np.isnan(data.area[1:]).all()
    assert data.image_names == ("a.png", "b.png")
    assert data.image_index.tolist() == [0, 0, 1]
    assert data.images == (tmp_path / "a.png", tmp_path / "b.png")
    assert data.groups == ("a.png", "b.png")
    assert data.group_index.tolist() == [0, 0, 1]
    assert data.name == f"{tmp_path.name}/labels.json", "many files are called labels.json"
    assert data.called == str(tmp_path / "labels.json"), "in messages"
    assert data.split(0.5)[1].called == f"{tmp_path / 'labels.json'}, part 2"
    assert from_arrays(["a.png"], np.ones((1, 1, 2)), name="mine").called == "mine"
    assert data.notes == ()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/labels.json", "labels.json"),
        ("/a/b/train/labels.json", "train/labels.json"),
        ("x.csv", f"{Path.cwd().name}/x.csv"),
        ("/a/\udce4/l.json", r"\udce4/l.json"),
    ],
)
def test_a_data_set_is_called_by_its_folder_and_file(path: str, name: str) -> None:
    assert path_name(Path(path)) == name


def test_corner_origin_is_not_shifted(tmp_path: Path) -> None:
    data = read_dataset(coco(tmp_path), pixel_origin="corner")
    assert data.xy[0, 0].tolist() == [10, 11]
    with pytest.raises(ValueError, match="expected index, corner, one, got 'centre'"):
        read_dataset(tmp_path / "labels.json", pixel_origin="centre")


def set_(part: str, index: int, **values: Any):
    """A change of one entry; a value of ... deletes the field."""

    def change(data: dict[str, Any]) -> None:
        for key, value in values.items():
            if value is ...:
                del data[part][index][key]
            else:
                data[part][index][key] = value

    return change


def many_categories(data: dict[str, Any]) -> None:
    data["categories"] = [{"id": k, "name": f"animal{k}", "keypoints": NAMES} for k in range(54)]
    data["annotations"][0]["category_id"] = 26


def other_category(data: dict[str, Any]) -> None:
    data["categories"].append({"id": 2, "name": "car", "keypoints": ["front", "rear"]})
    data["annotations"].append({"id": 9, "image_id": 8, "category_id": 2, "keypoints": [1, 1, 2, 2, 2, 2]})


def all_annotations(**values: Any):
    return lambda data: [annotation.update(values) for annotation in data["annotations"]] and None


NOTED = {
    "crowd": (set_("annotations", 1, iscrowd=1), 2, "left out: 1 crowd annotation"),
    "num_keypoints 0": (set_("annotations", 1, keypoints=[0] * 9, num_keypoints=0), 2, "1 annotation without any"),
    "no keypoints": (set_("annotations", 1, keypoints=...), 2, "left out: 1 annotation without keypoints"),
    "empty keypoints": (set_("annotations", 1, keypoints=[]), 2, "left out: 1 annotation without keypoints"),
    "image without objects": (set_("annotations", 2, image_id=7), 3, "1 of 2 images have no object"),
    "54 categories": (many_categories, 3, "merged: 2 categories with the same keypoints (of 54 in the file)"),
    "no names": (set_("categories", 0, keypoints=[], sigmas=..., skeleton=...), 3, "they are called k0 to k2"),
    "names absent": (set_("categories", 0, keypoints=..., sigmas=..., skeleton=...), 3, "they are called k0 to k2"),
    "0-based skeleton": (set_("categories", 0, skeleton=[[0, 1], [1, 2]]), 3, "an edge is not within 1 to 3"),
    "skeleton too far": (set_("categories", 0, skeleton=[[1, 4]]), 3, "an edge is not within 1 to 3"),
    "area 0": (set_("annotations", 0, area=0), 3, "1 area of 0"),
}


@pytest.mark.parametrize("case", NOTED)
def test_coco_left_out_is_counted(case: str, tmp_path: Path) -> None:
    change, count, note = NOTED[case]
    data = read_dataset(coco(tmp_path, change))
    assert len(data) == count
    assert len(data.notes) == 1
    assert note in data.notes[0]


def test_unreliable_edges_are_dropped_whole(tmp_path: Path) -> None:
    assert read_dataset(coco(tmp_path, NOTED["0-based skeleton"][0])).skeleton.edges == ()


def test_points_outside_are_kept_and_counted(tmp_path: Path) -> None:
    points = set_("annotations", 1, keypoints=[39.6, 2, 2, -3, 4, 2, 39.5, 4, 2])
    for change in (points, lambda data: [points(data), *(image.pop("width") for image in data["images"])]):
        data = read_dataset(coco(tmp_path, change)).check_images()
        assert data.xy[1, 1].tolist() == [-2.5, 4.5]
        assert data.notes[0] == "2 labelled points lie outside their image"


SIZES = {  # width and height of the first image: what the data set knows of it
    "as they are": ({"width": 40, "height": 30}, [40, 30]),
    "floats": ({"width": 40.0, "height": 30.0}, [40, 30]),
    "no height": ({"height": ...}, [40, 0]),
    "placeholders": ({"width": 0, "height": None}, [0, 0]),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_in_the_labels_are_kept(case: str, tmp_path: Path) -> None:
    values, expected = SIZES[case]
    data = read_dataset(coco(tmp_path, set_("images", 0, **values)))
    assert data.image_sizes.tolist() == [expected, [40, 30]]
    data.check_images()


@pytest.mark.parametrize("values", [{"width": 640, "height": 480}, {"width": 1e300}, {"height": -30}])
def test_labels_of_another_size_are_refused(values: dict[str, float], tmp_path: Path) -> None:
    data = read_dataset(coco(tmp_path, set_("images", 1, **values)))
    with pytest.raises(ValueError, match=r"1 of 2 images cannot be used: b.png: labelled at .*picture is 40x30"):
        data.check_images()
    assert data.check_images(skip_bad=True).image_names == ("a.png",)


def test_a_box_outside_a_picture_of_unknown_size_is_refused(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        set_("images", 0, width=..., height=...)(data)
        set_("annotations", 1, bbox=[40, 2, 5, 5])(data)

    data = read_dataset(coco(tmp_path, change))
    with pytest.raises(ValueError, match=r"1 of 3 objects cannot be used: a.png#1: box .* outside its 40x30 image"):
        data.check_images()
    assert len(data.check_images(skip_bad=True)) == 2


QUIET = {
    "without num_keypoints, area, bbox": (
        lambda data: [annotation.pop(key, 0) for annotation in data["annotations"] for key in ("area", "bbox")]
    ),
    "licenses a string, unknown fields": lambda data: data.update(licenses="", info=3, more={"x": [1]}),
    "no skeleton": set_("categories", 0, skeleton=...),
    "null box and area": set_("annotations", 0, bbox=None, area=None),
    "no image size": set_("images", 0, width=..., height=0),
    "null where v is 0": set_("annotations", 0, keypoints=[10, 11, 2, 12.5, 13, 1, None, None, 0]),
    "ids of text": lambda data: [
        set_("images", 0, id="x")(data),
        [a.update(image_id="x") for a in data["annotations"][:2]],
    ],
    "whole numbers as floats": lambda data: [
        set_("images", 1, id=8.0)(data),
        *(a.update(image_id=float(a["image_id"]), category_id=1.0, iscrowd=0.0) for a in data["annotations"]),
    ],
    "no annotation ids": lambda data: [annotation.pop("id") for annotation in data["annotations"]],
    "unused category": lambda data: data["categories"].append({"id": 5, "name": "car"}),
}


@pytest.mark.parametrize("case", QUIET)
def test_coco_variants_read_alike(case: str, tmp_path: Path) -> None:
    expected = read_dataset(coco(tmp_path)).xy
    data = read_dataset(coco(tmp_path, QUIET[case]))
    assert np.array_equal(data.xy, expected, equal_nan=True)
    assert data.notes == ()


def test_byte_order_mark_and_nan_literals(tmp_path: Path) -> None:
    path = coco(tmp_path)
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("99, 98, 0", "NaN, NaN, 0").encode())
    data = read_dataset(path)
    assert np.array_equal(data.xy, read_dataset(coco(tmp_path)).xy, equal_nan=True)
    assert data.notes == ("read as null: 2 NaN or Infinity, which are not JSON",)


BAD = {
    "wrong number of values": (
        set_("annotations", 0, keypoints=[1, 2, 2]),
        ["annotation 1 (a.png)", "9 numbers (3 keypoints), got 3; mend"],
    ),
    "NaN where labelled": (
        set_("annotations", 0, keypoints=[float("nan"), 2, 2] + [0] * 6),
        ["annotation 1 (a.png): nose is labelled (v 2) but lies at (nan, 2)"],
    ),
    "Inf where labelled": (
        set_("annotations", 0, keypoints=[0] * 6 + [1, float("-inf"), 1]),
        ["right_eye is labelled"],
    ),
    "null where labelled": (set_("annotations", 0, keypoints=[None, 2, 2] + [0] * 6), ["nose is labelled (v 2)"]),
    "v 3": (set_("annotations", 0, keypoints=[1, 1, 2, 1, 2, 3, 0, 0, 0]), ["left_eye: expected v 0, 1 or 2, got 3"]),
    "v -1": (set_("annotations", 0, keypoints=[1, 1, 2, 1, 2, -1, 0, 0, 0]), ["got -1"]),
    "v 0.5": (set_("annotations", 0, keypoints=[1, 1, 2, 1, 2, 0.5, 0, 0, 0]), ["got 0.5"]),
    "v null": (set_("annotations", 0, keypoints=[1, 1, None, 1, 2, 2, 0, 0, 0]), ["expected v 0, 1 or 2, got nan"]),
    "box of negative area": (set_("annotations", 1, bbox=[9, 9, 3, -5]), ["annotation 2 (a.png): box", "got 3 x -5"]),
    "box outside, right": (set_("annotations", 1, bbox=[40, 2, 5, 5]), ["outside its 40x30 image"]),
    "box outside, above": (set_("annotations", 1, bbox=[4, -5, 5, 5]), ["outside its 40x30 image"]),
    "box of three": (set_("annotations", 1, bbox=[4, 5, 5]), ["annotation number 2: bbox: "]),
    "box half null": (set_("annotations", 1, bbox=[4, 5, 5, None]), ["box: expected four finite numbers"]),
    "annotation id twice": (set_("annotations", 1, id=1), ["annotation 1: its id is used twice"]),
    "image id twice": (
        lambda data: data["images"].append(data["images"][1]),
        ["image id 8 is used twice (b.png, b.png)", "annotation 3: no image, or more than one, has the id 8"],
    ),
    "unknown image": (
        set_("annotations", 1, image_id=99),
        ["annotation 2: no image, or more than one, has the id 99", "99; mend"],
    ),
    "unknown image, a text": (
        set_("annotations", 1, image_id="c"),
        ["annotation 2: no image, or more than one, has the id 'c'", "'c'; mend"],
    ),
    "unknown image, a number as text": (
        set_("annotations", 1, image_id="99"),
        ["annotation 2: no image, or more than one, has the id '99'", "'99'; mend"],
    ),
    "image id a number": (
        set_("images", 1, id="8"),
        ["annotation 3: no image, or more than one, has the id 8 (this is a number, but the text '8' is an id)"],
    ),
    "unknown category": (
        set_("annotations", 1, category_id=99),
        ["annotation 2: no category has the id 99", "99; mend"],
    ),
    "one of another number, no names": (
        lambda data: [
            set_("categories", 0, keypoints=..., sigmas=..., skeleton=..., flip_pairs=...)(data),
            set_("annotations", 0, keypoints=[1, 2, 2])(data),
        ],
        ["annotation 1 (a.png): keypoints: expected 9 numbers (3 keypoints), got 3", "got 3; mend"],
    ),
    "keypoints of text": (
        set_("annotations", 1, keypoints=["1"] * 9),
        ["annotation number 2: keypoints[0]: expected float | null, got str"],
    ),
    "keypoints in pairs": (
        set_("annotations", 1, keypoints=[[1, 2], [3, 4], [5, 6]]),
        ["annotation number 2: keypoints[0]: expected float | null, got array (COCO writes x, y and visibility"],
    ),
    "x and y alone": (
        set_("annotations", 1, keypoints=[1, 2, 3, 4, 5, 6]),
        ["got 6: x and y without a visibility; write 2 after each pair that is labelled"],
    ),
    "box by name": (
        set_("annotations", 1, bbox={"x": 1, "y": 2, "width": 3, "height": 4}),
        ["annotation number 2: bbox: expected array | null, got object (COCO writes [x, y, width, height])"],
    ),
    "image id as text": (
        set_("annotations", 1, image_id="7"),
        ["annotation 2: no image, or more than one, has the id '7' (this is a text, but the number 7 is an id)"],
    ),
    "category id as text": (
        set_("annotations", 1, category_id="1"),
        ["annotation 2: no category has the id '1' (this is a text, but the number 1 is an id)"],
    ),
    "annotation a number": (lambda data: data["annotations"].append(5), ["annotation number 4: expected object"]),
    "image without name": (
        set_("images", 1, file_name=...),
        ["image number 2: object missing required field file_name"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_coco_bad_annotations_are_named(case: str, tmp_path: Path) -> None:
    change, words = BAD[case]
    path = coco(tmp_path, change)
    with pytest.raises(ValueError) as caught:
        read_dataset(path)
    line = str(caught.value)
    for word in (str(path), "`skip_bad=True`", *words):
        assert word in line
    assert "\n" not in line


@pytest.mark.parametrize("case", sorted(set(BAD) - {"image id twice", "image without name", "annotation a number"}))
def test_skip_bad_leaves_one_out_and_counts(case: str, tmp_path: Path) -> None:
    change, words = BAD[case]
    data = read_dataset(coco(tmp_path, change), skip_bad=True)
    assert len(data) == 2
    assert any(note.startswith("left out: 1 of 3 annotations are bad") and words[0] in note for note in data.notes)


FLAT = {
    "a point": ([5, 6, 0, 0], "0x0"),
    "a line across": ([5, 6, 9, 0], "9x0"),
    "a line down": ([5, 6, 0, 4], "0x4"),
    "a line but for rounding": ([5, 6, 9, 9e-7], "9x9e-07"),
}


@pytest.mark.parametrize("case", FLAT)
def test_a_box_without_an_area_is_none(case: str, tmp_path: Path) -> None:
    box, size = FLAT[case]
    data = read_dataset(coco(tmp_path, set_("annotations", 1, bbox=box)))
    assert np.isnan(data.box[1]).all()
    assert data.box[0].tolist() == [1, 2, 31, 22]
    assert data.notes == (
        f"read as no box: 1 of 3 boxes without an area (such as {size} px); without boxes, train with `box='image'`",
    )
    with pytest.raises(ValueError, match=r"2 of 3 objects have no box \(a.png#1; b.png\); use `box='image'`"):
        crop_boxes(data, "annotation")


def test_a_flat_box_of_what_is_left_out_is_not_spoken_of(tmp_path: Path) -> None:
    data = read_dataset(coco(tmp_path, set_("annotations", 1, bbox=[5, 6, 0, 0], keypoints=[0] * 9)))
    assert data.notes == ("left out: 1 annotation without any labelled point",)
    flat = {"bbox": [5, 6, 0, 0]}
    path = coco(
        tmp_path,
        lambda data: [data["annotations"][0].update(flat), data["annotations"][1].update(flat, keypoints=[0] * 9)],
    )
    assert read_dataset(path).notes[1].startswith("read as no box: 1 of 2 boxes without an area")


def test_ambiguous_image_id_takes_its_annotations_along(tmp_path: Path) -> None:
    data = read_dataset(coco(tmp_path, lambda data: data["images"].append(data["images"][1])), skip_bad=True)
    assert data.image_names == ("a.png",)
    assert len(data) == 2


def test_all_bad_are_in_one_line_and_the_rest_counted(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for number in range(20):
            data["annotations"].append(
                copy.deepcopy(data["annotations"][0]) | {"id": 50 + number, "bbox": [1, 1, -1, 0]}
            )
        data["annotations"][1]["keypoints"] = [1]

    with pytest.raises(
        ValueError, match=r"21 of 23 annotations are bad: annotation 2 .*; also annotation 52 .*; and 11 more; mend"
    ):
        read_dataset(coco(tmp_path, change))


def test_a_mark_is_held_to_the_image_of_its_own_object(tmp_path: Path) -> None:
    """Of objects of which the first are left out; (50, 20) px lies outside the images of 40x30 px alone."""

    def change(data: dict[str, Any]) -> None:
        data["images"][0].update(width=80)
        data["annotations"] = [
            {"id": n, "image_id": 7 if n < 4 else 8, "category_id": 1, "keypoints": [50, 20, 0 if n < 4 else 2] * 3}
            for n in range(8)
        ]

    (doubt,) = read_dataset(coco(tmp_path, change)).doubts
    assert doubt.startswith("12 labelled points of 4 objects lie at exactly (50, 20)")
    path = coco(
        tmp_path, lambda data: [change(data), [a.update(image_id=15 - a["image_id"]) for a in data["annotations"]]]
    )
    assert read_dataset(path).doubts == ()


def test_names_stay_right_past_a_misshapen_annotation(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        subjects(data)
        data["annotations"][0]["keypoints"] = [1]
        data["annotations"][2]["bbox"] = [1, 1, 0, -1]

    with pytest.raises(ValueError, match=r"annotation 1 \(a.png\): keypoints: .*; annotation 3 \(b.png\): box"):
        read_dataset(coco(tmp_path, change))
    assert read_dataset(tmp_path / "labels.json", skip_bad=True).groups == ("2",)


WHOLE = {
    "a list": (b"[1, 2]", "not a COCO keypoints file"),
    "another object": (
        b'{"version": "5.0", "shapes": []}',
        "not a COCO keypoints file .*missing required field images",
    ),
    "images an object": (b'{"images": {}, "annotations": [], "categories": []}', "images: expected array, got object"),
    "broken": (b'{"images": [],\n "annotations": [}', r"broken JSON: .* at line 2, column 18"),
    "a list twice": (
        b'{"annotations": [{"a": 1}], "images": [], "annotations": [], "categories": []}',
        "broken JSON: 'annotations' is there twice",
    ),
    "a category's names twice": (
        b'{"images": [{"id": 1}], "categories": [{"id": 1, "id": 2}], "annotations": [{"id": 1}, {"id": 2}]}',
        "broken JSON: 'id' is there twice",
    ),
    "a box twice": (
        b'{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"bbox": [0]}, {"bbox": [1], "bbox": [2]}],'
        b' "categories": [{"id": 1, "keypoints": ["bbox"]}]}',
        "broken JSON: 'bbox' is there twice",
    ),
    "a box twice, and none in another": (
        b'{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1}, {"bbox": [1], "bbox": [2]}],'
        b' "categories": [{"id": 1, "keypoints": ["a"]}]}',
        "broken JSON: 'bbox' is there twice",
    ),
    "a file name twice": (
        b'{"images": [{"id": 1, "file_name": "a.png", "file_name": "b.png"}], "annotations": [], "categories": []}',
        "broken JSON: 'file_name' is there twice",
    ),
    "cut": (b'{"images": [', "broken JSON: it ends too early, after 12 bytes"),
    "broken at its first byte": (b"{]", "broken JSON: .* at line 1, column 2$"),
    "JSON of another encoding": (
        '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "\u00e4"}]}'.encode("latin-1"),
        "expected text in UTF-8, got another encoding",
    ),
    "nested deeply": (b'{"images": [' + b"[" * 100_000, "broken JSON: it is nested too deeply"),
    "NaN and broken": (b'{"images": [NaN, NaN}', "broken JSON: .* at line 1"),
    "NaN in place of a list": (
        b'{"images": NaN, "annotations": [], "categories": []}',
        "images: expected array, got null",
    ),
    "no annotations": (b'{"images": [], "annotations": [], "categories": []}', "data set is empty: annotations is"),
    "empty file": (b"", "the file is empty"),
    "binary": (b"a\0\0", "got a binary file"),
    "not UTF-8": (b"file,x0,y0\n\xe9.png,1,2\n", "expected UTF-8 text, got byte 0xe9"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_file_is_refused(case: str, tmp_path: Path) -> None:
    text, words = WHOLE[case]
    (tmp_path / "labels").write_bytes(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_dataset(tmp_path / "labels")
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_format(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such label file"):
        read_dataset(tmp_path / "no.json")
    with pytest.raises(ValueError, match="no labels were recognised in this folder; it holds nothing"):
        read_dataset(tmp_path)
    with pytest.raises(ValueError, match="format: expected sleap, yolo, labelme, .*, csv, got 'voc'"):
        read_dataset(coco(tmp_path), format="voc")
    with pytest.raises(ValueError, match="expected the first column"):
        read_dataset(coco(tmp_path), format="csv")


def test_categories_of_different_keypoints_ask(tmp_path: Path) -> None:
    path = coco(tmp_path, other_category)
    with pytest.raises(ValueError, match=r"choose one with `category=NAME`: face \(3\); car \(2\)"):
        read_dataset(path)
    car = read_dataset(path, category="car")
    assert car.skeleton.names == ("front", "rear")
    assert len(car) == 1
    assert "left out: 3 annotations of other categories" in car.notes
    assert len(read_dataset(path, category="face")) == 3
    with pytest.raises(ValueError, match=r"no category is named 'dog'; the names are: face; car"):
        read_dataset(path, category="dog")


CATEGORY = {
    "no keypoints at all": (all_annotations(keypoints=[]), "a category without keypoints"),
    "a category per point": (
        lambda data: [
            data.__setitem__("categories", [{"id": 1, "name": "eye"}, {"id": 2, "name": "chin", "keypoints": []}]),
            all_annotations(keypoints=[5, 5, 2])(data),
            set_("annotations", 0, category_id=2)(data),
        ],
        "2 categories name no keypoints, so they are different things: chin; eye; choose one with `category=NAME`",
    ),
    "a category per point, each of one keypoint": (
        lambda data: [
            data.__setitem__(
                "categories", [{"id": k, "name": n, "keypoints": ["p"]} for k, n in ((1, "eye"), (2, "chin"))]
            ),
            all_annotations(keypoints=[5, 5, 2])(data),
            set_("annotations", 0, category_id=2)(data),
            data["annotations"].append({"id": 4, "image_id": 8, "category_id": 2, "keypoints": [9, 9, 2]}),
        ],
        "2 categories have one keypoint each, once in nearly every picture: chin; eye; label the points of an object as",
    ),
    "a category per point, named after it": (
        lambda data: [
            data.__setitem__(
                "categories", [{"id": k, "name": n, "keypoints": [n]} for k, n in ((1, "tail"), (2, "nose"))]
            ),
            all_annotations(keypoints=[5, 5, 2])(data),
            set_("annotations", 0, category_id=2)(data),
        ],
        "2 categories have one keypoint each: nose; tail; label the points of an object as one skeleton, or choose one",
    ),
    "cats and dogs without names of points": (
        lambda data: [
            set_("categories", 0, name="cat", keypoints=..., sigmas=..., flip_pairs=...)(data),
            data["categories"].append({"id": 2, "name": "dog"}),
            set_("annotations", 0, category_id=2)(data),
        ],
        "2 categories name no keypoints, so they are different things: cat; dog; .*name those as `keypoints`",
    ),
    "not triples": (
        lambda data: [set_("categories", 0, keypoints=[])(data), all_annotations(keypoints=[1, 2])(data)],
        "expected x, y and visibility for each, got 2 numbers",
    ),
    "two of one id": (lambda data: data["categories"].append({"id": 1}), "two categories have the same id"),
    "name twice": (set_("categories", 0, keypoints=["a", "a", "b"]), "category 'face': skeleton: keypoint names"),
    "sigmas too few": (set_("categories", 0, sigmas=[0.1]), "sigmas: expected 3 values, got 1"),
    "flip_pairs unknown": (
        set_("categories", 0, flip_pairs=[["nose", "tail"]]),
        "category 'face': mirror pairs: .*tail",
    ),
    "sigmas of text": (set_("categories", 0, sigmas=["a"]), r"categories\[0\].sigmas\[0\]: expected float"),
}


@pytest.mark.parametrize(
    ("values", "merged"),
    [({"skeleton": []}, True), ({"flip_pairs": [[1, 0]]}, False), ({"sigmas": [0.1, 0.1, 0.1]}, False)],
    ids=["edges", "pairs", "sigmas"],
)
def test_categories_are_one_whose_points_pairs_and_sigmas_are(values: dict, merged: bool, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["categories"].append(data["categories"][0] | {"id": 2, "name": "mask"} | values)
        data["annotations"][1]["category_id"] = 2

    if merged:
        assert read_dataset(coco(tmp_path, change)).skeleton.edges == ((0, 1), (0, 2)), "the first one's"
        return
    with pytest.raises(ValueError, match=r"categories differ in keypoints; .*: face \(3\); mask \(3\)"):
        read_dataset(coco(tmp_path, change))


def test_kinds_of_one_keypoint_that_do_not_come_together_are_one_kind_of_object(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        CATEGORY["a category per point, each of one keypoint"][0](data)
        data["annotations"].pop()

    assert (
        "merged: 2 categories with the same keypoints (of 2 in the file)" in read_dataset(coco(tmp_path, change)).notes
    )


def test_a_group_of_the_image_goes_before_one_of_the_annotation(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["images"][0]["subject"] = "anna"
        all_annotations(subject="ben")(data)

    data = read_dataset(coco(tmp_path, change))
    assert [data.groups[group] for group in data.group_index] == ["anna", "anna", "ben"]


@pytest.mark.parametrize("case", CATEGORY)
def test_category_is_refused(case: str, tmp_path: Path) -> None:
    change, words = CATEGORY[case]
    with pytest.raises(ValueError, match=words):
        read_dataset(coco(tmp_path, change))


def test_images_are_looked_for(tmp_path: Path) -> None:
    path = coco(tmp_path, images=False)
    with pytest.raises(
        FileNotFoundError,
        match=r"2 of 2 images not found in .*: a.png \(no picture lies there\); b.png; name their folder",
    ):
        read_dataset(path)
    with pytest.raises(FileNotFoundError, match="2 of 2 images not found"):
        read_dataset(path, skip_bad=True)  # nothing would be left
    picture = np.zeros((30, 40, 3), np.uint8)
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a.png", picture)
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images not found in .*: b.png"):
        read_dataset(path)
    some = read_dataset(path, skip_bad=True)
    assert len(some) == 2
    assert some.image_names == ("a.png",)
    assert any("left out: 1 of 2 images not found" in note for note in some.notes)
    write_image(tmp_path / "images" / "b.jpg", picture)
    data = read_dataset(path)
    assert data.images == (tmp_path / "images" / "a.png", tmp_path / "images" / "b.jpg")
    assert data.image_names == ("a.png", "b.png"), "names stay as written"
    assert data.notes == ("1 of 2 images found under another suffix (b.png is b.jpg)",)
    write_image(tmp_path / "b.png", picture)
    assert read_dataset(path).images[1] == tmp_path / "b.png", "the very name wins, beside the file first"
    (tmp_path / "else").mkdir()
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "else" / name, picture)
    assert read_dataset(path, images=tmp_path / "else").images[0] == tmp_path / "else" / "a.png"
    with pytest.raises(FileNotFoundError, match="no such folder of images"):
        read_dataset(path, images=tmp_path / "nowhere")


def test_two_other_suffixes_are_no_answer(tmp_path: Path) -> None:
    path = coco(tmp_path)
    (tmp_path / "b.png").unlink()
    for suffix in (".jpg", ".jpeg"):
        write_image(tmp_path / f"b{suffix}", np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(FileNotFoundError, match=r"b.png"):
        read_dataset(path)


def test_absolute_and_windows_names(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write_image(tmp_path / "deep" / "b.png", np.zeros((30, 40, 3), np.uint8))

    def change(data: dict[str, Any]) -> None:
        data["images"][0]["file_name"] = str(tmp_path / "a.png")
        data["images"][1]["file_name"] = "deep\\b.png"

    assert read_dataset(coco(tmp_path, change)).images == (tmp_path / "a.png", tmp_path / "deep" / "b.png")


def identities(data: dict[str, Any]) -> None:
    for image, name in zip(data["images"], ("ann", "bob"), strict=True):
        image["identity"] = name


def subjects(data: dict[str, Any]) -> None:
    for annotation, number in zip(data["annotations"], (1, 2, 1), strict=True):
        annotation["subject"] = number


GROUPS = {
    "auto, nothing given": (lambda data: None, "auto", ["a.png", "a.png", "b.png"]),
    "auto, identity in images": (identities, "auto", ["ann", "ann", "bob"]),
    "auto, subject in annotations": (subjects, "auto", ["1", "2", "1"]),
    "auto, identity before subject": (lambda data: [subjects(data), identities(data)], "auto", ["ann", "ann", "bob"]),
    "auto, group before subject": (
        lambda data: [subjects(data), *(image.update(group=image["id"]) for image in data["images"])],
        "auto",
        ["7", "7", "8"],
    ),
    "auto, identity is null": (
        lambda data: [subjects(data), *(image.update(identity=None) for image in data["images"])],
        "auto",
        ["1", "2", "1"],
    ),
    "image although identity is there": (identities, "image", ["a.png", "a.png", "b.png"]),
    "field": (lambda data: [i.update(clip=i["id"]) for i in data["images"]], "field:clip", ["7", "7", "8"]),
    "block": (lambda data: None, "block:2", ["block 00000"] * 3),
    "regex": (lambda data: None, r"regex:^(\w)", ["a", "a", "b"]),
}


@pytest.mark.parametrize("case", GROUPS)
def test_groups(case: str, tmp_path: Path) -> None:
    change, group, expected = GROUPS[case]
    data = read_dataset(coco(tmp_path, change), group=group)
    assert [data.groups[i] for i in data.group_index] == expected
    assert data.groups_named == (case not in ("auto, nothing given", "image although identity is there", "block"))


@pytest.mark.parametrize(
    ("change", "group", "words"),
    [
        (set_("images", 0, identity="ann"), "auto", r"1 of 3 objects have no field 'identity': annotation 3 \(b.png\)"),
        (lambda data: None, "field:clip", "3 of 3 objects have no field 'clip'"),
        (set_("images", 0, identity=["ann"]), "auto", "'identity' to be a text or a number"),
        (lambda data: None, "subject", "expected auto, image"),
    ],
)
def test_groups_are_refused(change, group: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read_dataset(coco(tmp_path, change), group=group)


ODD_NAMES = {
    "not ASCII": "gr\u00fcppe",
    "a word of Python": "class",
    "a field that is read anyway": "image_id",
    "with a space": "the clip",
}


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_any_field_may_be_the_group(name: str, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation.setdefault(name, annotation["id"] % 2)

    data = read_dataset(coco(tmp_path, change), group=f"field:{name}")
    expected = ["7", "7", "8"] if name == "image_id" else ["1", "0", "1"]
    assert [data.groups[i] for i in data.group_index] == expected


@pytest.mark.parametrize("name", ['a"b', "a\\b", "\u00fc\n", ""], ids=["quote", "backslash", "control", "none"])
def test_a_field_that_cannot_be_is_refused_as_one_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3 of 3 objects have no field '.*; choose another `group`"):
        read_dataset(coco(tmp_path), group=f"field:{name}")


def test_groups_by_name_count_image_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'\^b' does not match 1 image names: a.png"):  # of two objects
        read_dataset(coco(tmp_path), group="regex:^b")


def test_read_write_read_is_identical(tmp_path: Path) -> None:
    first = read_dataset(coco(tmp_path, subjects))
    write_coco(first, tmp_path / "again.json")
    again = read_dataset(tmp_path / "again.json")
    assert again.fingerprint() == first.fingerprint()
    assert again.skeleton == first.skeleton
    for column in ("xy", "visible", "box", "area", "image_index", "group_index"):
        assert np.array_equal(getattr(again, column), getattr(first, column), equal_nan=True), column
    assert (again.images, again.image_names, again.groups) == (first.images, first.image_names, first.groups)


def test_no_mirror_and_an_empty_one_stay_apart(tmp_path: Path) -> None:
    for pairs, expected in ((..., None), ([], (0, 1, 2)), ([["left_eye", "right_eye"]], (0, 2, 1))):
        data = read_dataset(coco(tmp_path, set_("categories", 0, flip_pairs=pairs)))
        assert data.skeleton.mirror == expected
        write_coco(data, tmp_path / "again.json")
        assert read_dataset(tmp_path / "again.json").skeleton.mirror == expected


def test_flipped_twice_writes_the_very_numbers(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = np.round(generator.uniform(0, 39, (3, 3, 2)), 3)

    def change(data: dict[str, Any]) -> None:
        for annotation, xy in zip(data["annotations"], rows, strict=True):
            annotation["keypoints"] = np.concatenate([xy, np.full((3, 1), 2)], axis=1).ravel().tolist()

    data = read_dataset(coco(tmp_path, change))
    flips = data.skeleton.mirror
    assert flips == mirror.from_pairs([(1, 2)], NAMES)
    xy = data.xy
    for _ in range(2):
        xy = xy[:, list(flips)]
        xy = np.stack([40 - xy[..., 0], xy[..., 1]], axis=-1)
    write_coco(data, tmp_path / "out.json", xy=xy)
    written = json.loads((tmp_path / "out.json").read_text())["annotations"]
    before = json.loads((tmp_path / "labels.json").read_text())["annotations"]
    assert [entry["keypoints"] for entry in written] == [entry["keypoints"] for entry in before]


def test_written_file_is_plain_coco(tmp_path: Path) -> None:
    data = read_dataset(coco(tmp_path))
    write_coco(data, tmp_path / "out.json")
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["images"] == [
        {"id": number, "file_name": f"{name}.png", "width": 40, "height": 30} for number, name in ((7, "a"), (8, "b"))
    ]
    assert out["annotations"][0] == {
        **{"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "num_keypoints": 2, "group": "a.png"},
        **{"keypoints": [10, 11, 2, 12.5, 13, 1, 0, 0, 0], "bbox": [1, 2, 30, 20], "area": 500},  # v 0 has no place
    }
    assert out["annotations"][2] == {
        **{"id": 3, "image_id": 8, "category_id": 1, "iscrowd": 0, "num_keypoints": 2, "group": "b.png"},
        "keypoints": [1.25, 2, 2, 3, 4, 2, 0, 0, 0],
    }
    assert out["categories"] == [
        {
            **{"id": 1, "name": "face", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]},
            **{"flip_pairs": [["left_eye", "right_eye"]], "sigmas": [0.1, 0.2, 0.2]},
        }
    ]


def test_write_predictions_in_place_of_labels(tmp_path: Path) -> None:
    data = read_dataset(coco(tmp_path))
    xy = np.full((3, 3, 2), 5.5)
    xy[0, 0] = np.nan
    write_coco(data, tmp_path / "out.json", xy=xy)
    rows = [entry["keypoints"] for entry in json.loads((tmp_path / "out.json").read_text())["annotations"]]
    assert rows[0] == [0, 0, 0, 5, 5, 1, 5, 5, 2], "NaN is none; a label's v stays; a new point is seen"
    with pytest.raises(ValueError, match=r"expected shape \(3, 3, 2\)"):
        write_coco(data, tmp_path / "out.json", xy=xy[:2])


def test_written_images_obey_the_data_set_s_own_limit(tmp_path: Path) -> None:
    data = read_dataset(coco(tmp_path)).check_images(max_megapixels=0.002)
    written = read_dataset(write_dataset(data, tmp_path / "out"))
    assert written.image_names == ("a.png", "b.png")
    with pytest.raises(ValueError, match="expected at most 0.001 megapixels"):
        write_dataset(dataclasses.replace(data, max_megapixels=0.001), tmp_path / "none")


def table(tmp_path: Path, text: str, *, at: str = "labels.csv", images: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    for name in images:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name, np.zeros((30, 40, 3), np.uint8))
    (tmp_path / at).write_text(text)
    return tmp_path / at


DLC = "scorer,me,me,me,me\nbodyparts,nose,nose,tail,tail\ncoords,x,y,x,y\n"
DLC_SPLIT = "scorer,,,me,me,me,me\nbodyparts,,,nose,nose,tail,tail\ncoords,,,x,y,x,y\n"
TABLES = {
    "numbered": ("file,x0,y0,x1,y1\na.png,1,2,3,4\nb.png,,,5.5,6\n", ("k0", "k1")),
    "named": ("file,nose_x,nose_y,tail_x,tail_y\na.png,1,2,3,4\nb.png,,,5.5,6\n", ("nose", "tail")),
    "names with _x inside, y before x": (
        "image,a_x_y,a_x_x,tail_y,tail_x\na.png,2,1,4,3\nb.png,,,6,5.5\n",
        ("a_x", "tail"),
    ),
    "spaces, NaN, a blank line, CRLF": (
        "file, x0, y0, x1, y1\r\n\r\na.png, 1, 2, 3, 4\r\nb.png,NaN,nan,5.5,6\r\n",
        ("k0", "k1"),
    ),
    "byte order mark": ("\ufefffile,x0,y0,x1,y1\na.png,1,2,3,4\nb.png,,,5.5,6\n", ("k0", "k1")),
    "DeepLabCut": (DLC + "a.png,1,2,3,4\nb.png,,,5.5,6\n", ("nose", "tail")),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_read_alike(case: str, tmp_path: Path) -> None:
    text, names = TABLES[case]
    data = read_dataset(table(tmp_path, text))
    assert data.skeleton.names == names
    expected = [[[1.5, 2.5], [3.5, 4.5]], [[np.nan] * 2, [6, 6.5]]]
    assert np.array_equal(data.xy, expected, equal_nan=True)
    assert data.visible.tolist() == [[2, 2], [0, 2]]
    assert np.isnan(data.box).all()
    assert data.image_names == ("a.png", "b.png")
    assert data.notes == ()


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (DLC + "labeled-data/s1/a.png,1,2,3,4\n", "labeled-data/s1/Collected.csv"),
        (DLC_SPLIT + "labeled-data,s1,a.png,1,2,3,4\n", "labeled-data/s1/Collected.csv"),
        (DLC + "labeled-data/s1/a.png,1,2,3,4\n", "Collected.csv"),
        (DLC + "labeled-data\\s1\\a.png,1,2,3,4\n", "Collected.csv"),
    ],
)
def test_dlc_paths_start_at_the_project(text: str, at: str, tmp_path: Path) -> None:
    data = read_dataset(table(tmp_path, text, at=at, images=("labeled-data/s1/a.png",)))
    assert data.images == (tmp_path / "labeled-data" / "s1" / "a.png",)


def test_table_columns_of_groups(tmp_path: Path) -> None:
    path = table(tmp_path, "file,identity,day,x0,y0\na.png,ann,1,1,2\nb.png,ann,2,3,4\n")
    with pytest.raises(ValueError, match="columns that are in no pair: day"):
        read_dataset(path)
    assert read_dataset(path, group="field:day").groups == ("1", "2")
    path = table(tmp_path, "file,identity,x0,y0\na.png,ann,1,2\nb.png,ann,3,4\n")
    assert read_dataset(path).groups == ("ann",)
    assert read_dataset(path, group="image").groups == ("a.png", "b.png")


BAD_TABLES = {
    "x without y": ("file,x0,y0,x1\na.png,1,2,3\n", "no pair: x1"),
    "odd column": ("file,x0,y0,weather\na.png,1,2,3\n", "no pair: weather; expected file, then"),
    "no points": ("file\na.png\n", "no column holds a point"),
    "column twice": ("file,x0,y0,y0,x0,x0\na.png,1,2,3\n", "columns named twice: x0; y0"),
    "no file column": ("x0,y0\n1,2\n", "first column to be named file, got 'x0'"),
    "from 1": ("file,x1,y1\na.png,1,2\n", "in order, got points 1"),
    "one left out": ("file,x0,y0,x2,y2\na.png,1,2,3,4\n", "in order, got points 0, 2"),
    "in another order": ("file,x1,y1,x0,y0\na.png,1,2,3,4\n", "in order, got points 1, 0"),
    "numbers and names": ("file,x0,y0,nose_x,nose_y\na.png,1,2,3,4\n", "in order, got points 0, nose"),
    "y without x": ("file,nose_y,x0,y0\na.png,1,2,3\n", "no pair: nose_y"),
    "R's index": ("index,FILE,x0,y0\n0,a.png,1,2\n", "numbers the rows; leave it out"),
    "another column first": ("id,file,x0,y0\n0,a.png,1,2\n", "first column to be named file, got 'id'"),
    "all rows bad": ("file,x0,y0\na.png,1\nb.png,x,y\n", "all rows are bad: line 2 .*; line 3 .*; mend them"),
    "semicolons": ("file;x0;y0\na.png;1;2\n", "expected commas between columns, got ';'"),
    "tabs": ("file\tx0\ty0\na.png\t1\t2\n", "expected commas between columns, got tabs; save it as comma-separated"),
    "a spreadsheet's line": ("sep=,\nfile,x0,y0\na.png,1,2\n", "the first line, 'sep=', is for spreadsheets only"),
    "pandas' index": (",file,x0,y0\n0,a.png,1,2\n", "the first column numbers the rows; leave it out"),
    "pandas' index, written again": ("Unnamed: 0,file,x0,y0\n0,a.png,1,2\n", "numbers the rows; leave it out"),
    "header only": ("file,x0,y0\n", "no row below the header"),
    "a quote that is open": (
        'file,x0,y0\na.png,1,"2\nb.png,1,2\n',
        "not a CSV table: a quote .* is opened and never closed",
    ),
    "nothing labelled": (
        "file,x0,y0\na.png,,\n",
        "the data set is empty: it has no labelled object .left out: 1 row without",
    ),
    "another column": (
        "scorer,m,m,m\nbodyparts,n,n,n\ncoords,x,y,z\n",
        "expected x, y for each body part, got 'z' too",
    ),
    "dlc, y before x": ("scorer,m,m\nbodyparts,n,n\ncoords,y,x\na.png,1,2\n", "x, y of one body part after another"),
    "dlc, part twice": (DLC.replace("tail", "nose") + "a.png,1,2,3,4\n", "nose more than once"),
    "dlc, header only": (DLC, "no row below the header"),
    "dlc, no points": (
        "scorer,,\nbodyparts,,\ncoords,,\na.png,,\n",
        "as many bodyparts as coords, got 3 and 3 columns",
    ),
    "dlc, a part too few": (DLC.replace(",tail\n", "\n"), "as many bodyparts as coords, got 4 and 5 columns"),
    "dlc, x alone": ("scorer,m\nbodyparts,n\ncoords,x\na.png,1\n", "x, y of one body part after another"),
    "dlc, x and y of two": ("scorer,m,m\nbodyparts,n,o\ncoords,x,y\na.png,1,2\n", "x, y of one body part after"),
    "dlc, rows missing": ("scorer,m,m\ncoords,x,y\na.png,1,2\n", "header rows scorer, bodyparts, coords, got scorer"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_table_is_refused(case: str, tmp_path: Path) -> None:
    text, words = BAD_TABLES[case]
    with pytest.raises(ValueError, match=words) as caught:
        read_dataset(table(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cell", ["1_0", "\u0661", "\uff11", "0x1", "1,", "- 1", "1e", "1e999"])
def test_what_python_or_nobody_takes_for_a_number_is_none(cell: str, tmp_path: Path) -> None:
    for row in (f'"{cell}",2', f'2,"{cell}"'):
        with pytest.raises(ValueError, match="k0: expected two numbers"):
            read_dataset(table(tmp_path, f"file,x0,y0\na.png,{row}\nb.png,1,2\n"))


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "NA", "null", "None"])
def test_what_tools_write_for_no_label_is_none(cell: str, tmp_path: Path) -> None:
    data = read_dataset(table(tmp_path, f"file,x0,y0,x1,y1\na.png,{cell},{cell},1,2\nb.png,1,2,3,4\n"))
    assert data.labelled.tolist() == [[False, True], [True, True]]


def test_a_bad_row_does_not_take_its_picture_from_a_good_one(tmp_path: Path) -> None:
    data = read_dataset(table(tmp_path, "file,x0,y0\na.png,one,2\na.png,1,2\n"), skip_bad=True)
    assert data.xy.tolist() == [[[1.5, 2.5]]]
    assert data.notes == (
        "left out: 1 of 2 rows are bad: line 2 (a.png): k0: expected two numbers, or two empty cells, got 'one', '2'",
    )


def test_numbers_are_read_however_they_are_written(tmp_path: Path) -> None:
    rows = ["a.png,1,2", "b.png, +1.0 ,2.", "c.png,1e0,20E-1", "d.png,.1e1,0002"]
    names = tuple(row[:5] for row in rows)
    data = read_dataset(table(tmp_path, "\n".join(["file,x0,y0", *rows, ""]), images=names), pixel_origin="corner")
    assert data.xy.tolist() == [[[1.0, 2.0]]] * 4


def test_all_bad_rows_of_a_table_are_named(tmp_path: Path) -> None:
    rows = "a.png,1,2\nb.png,1\nc.png,1,2,3\nd.png,one,2\ne.png,1,\nf.png,inf,1\na.png,3,4\n,1,2\n"
    path = table(tmp_path, "file,x0,y0\n" + rows)
    with pytest.raises(ValueError, match="7 of 8 rows are bad") as caught:
        read_dataset(path)
    for words in (
        "line 3 (b.png): expected 3 cells, got 2",
        "line 4 (c.png): expected 3 cells, got 4",
        "line 5 (d.png): k0: expected two numbers, or two empty cells, got 'one', '2'",
        "line 6 (e.png): k0: expected two numbers",
        "line 7 (f.png): k0",
        "line 8 (a.png): the image is on line 2 already",
        "line 9 (): the image has no name",
    ):
        assert words in str(caught.value)
    data = read_dataset(path, skip_bad=True)
    assert data.image_names == ("a.png",)
    assert "7 of 8 rows are bad" in data.notes[0]


def test_a_row_without_a_group_is_refused_if_others_have_one(tmp_path: Path) -> None:
    path = table(tmp_path, "file,identity,x0,y0\na.png,ann,1,2\nb.png, ,3,4\n")
    with pytest.raises(ValueError, match=r"1 of 2 objects have no field 'identity': line 3 \(b.png\)"):
        read_dataset(path)


@pytest.mark.parametrize("name", tables.FILE_COLUMNS)
def test_what_tools_call_the_column_of_files(name: str, tmp_path: Path) -> None:
    assert read_dataset(table(tmp_path, f"{name.title()},x0,y0\na.png,1,2\n")).image_names == ("a.png",)


def test_table_has_no_category(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no categories; leave `category='face'` out"):
        read_dataset(table(tmp_path, TABLES["named"][0]), category="face")


REAL = {  # file: objects, images, keypoints, groups, labelled points (from the READMEs of the data), words in the notes
    "format_samples/coco/test_coco.json": (12, 4, 17, 4, 181, "2 annotations without any"),
    "format_samples/ap10k/test_ap10k.json": (2, 2, 17, 2, 32, "merged: 2 categories with the same keypoints"),
    "format_samples/wflw/test_wflw.json": (4, 2, 98, 2, 392, "k0 to k97"),
    "format_samples/300w/test_300w.json": (2, 2, 68, 2, 136, "k0 to k67"),
    "format_samples/onehand10k/test_onehand10k.json": (4, 4, 21, 4, 63, ""),
    "format_samples/horse10/test_horse10.json": (3, 3, 22, 3, 52, ""),
    "format_samples/animalpose/test_animalpose.json": (2, 2, 20, 2, 32, ""),
    "faces68/val.json": (400, 400, 68, 32, 27_200, ""),
    "mirror_mouse/CollectedData.csv": (90, 90, 17, 90, 1_530 - 134, ""),
    "openfield_mouse/labeled-data/m4s1/CollectedData_Pranav.csv": (116, 116, 4, 116, 464, "116 of 116 images found"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str, tmp_path: Path) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip("needs ../shared/data")
    objects, images, keypoints, groups, labelled, words = REAL[name]
    data = read_dataset(path)
    assert (len(data), len(data.images), len(data.skeleton), len(data.groups)) == (objects, images, keypoints, groups)
    assert data.labelled.sum() == labelled
    assert words in "; ".join(data.notes)
    assert bool(data.notes) == bool(words)
    data.subset(range(min(len(data), 8))).check_images(max_megapixels=100)
    write_coco(data, tmp_path / "again.json")
    folder = data.images[0].parents[len(Path(data.image_names[0]).parts) - 1]
    again = read_dataset(tmp_path / "again.json", images=folder)
    assert np.array_equal(again.xy, data.xy, equal_nan=True) or np.nanmax(np.abs(again.xy - data.xy)) < 1e-10
    assert np.array_equal(again.visible, data.visible)
    assert again.groups == data.groups
    assert again.skeleton == data.skeleton
