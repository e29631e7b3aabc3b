"""The formats of the field: each is told by its content and read to the last digit, and what is bad in it is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keylite.data.formats.reading import FORMATS, parts_of, read_dataset, read_train_and_val
from keylite.runtime.errors import KeyliteError
from keylite.runtime.images import write_image

WIDTH, HEIGHT = 40, 30
NAN = [float("nan")] * 2


def pictures(folder: Path, *names: str) -> None:
    """Write pictures of 40x30 px, each of its own colour."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.full((HEIGHT, WIDTH, 3), 40 * number % 256, np.uint8))


def written(folder: Path, texts: dict[str, Any]) -> Path:
    """Write text files; anything but text becomes JSON."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return folder


def same(actual: np.ndarray, expected: list) -> bool:
    return np.array_equal(actual, np.array(expected, np.float64), equal_nan=True)


# ---- YOLO-pose

DATA_YAML = """\
path: .
train: images/train
val: images/val
kpt_shape: [2, 3]
flip_idx: [1, 0]
names:
  0: face
kpt_names:
  0: [left, right]
"""


def yolo(folder: Path, yaml: str = DATA_YAML, line: str = "0 0.5 0.5 0.25 0.5 0.25 0.75 2 0.1 0.2 1") -> Path:
    pictures(folder, "images/train/a.png", "images/train/b.png", "images/train/deep/c.png", "images/val/v.png")
    return written(
        folder,
        {
            "data.yaml": yaml,
            "labels/train/a.txt": f"{line}\n0 0.25 0.5 0.5 1 0.125 0.5 2 0 0 0\n",
            "labels/train/deep/c.txt": "0 0.5 0.5 1 1 0.5 0.5 2 1 1 2\n",
            "labels/val/v.txt": "0 0.5 0.5 1 1 0.5 0.5 2 1 1 2\n",
        },
    )


def test_yolo_pose_is_read_by_its_parts(tmp_path: Path):
    assert parts_of(yolo(tmp_path)) == ("train", "val")
    data = read_dataset(tmp_path, part="train")
    assert data.skeleton.names == ("left", "right")
    assert data.skeleton.mirror == (1, 0)
    assert data.image_names == ("images/train/a.png", "images/train/deep/c.png")
    assert same(data.xy, [[[10, 22.5], [4, 6]], [[5, 15], NAN], [[20, 15], [40, 30]]]), "fractions of the image"
    assert data.visible.tolist() == [[2, 1], [2, 0], [2, 2]]
    assert data.box.tolist() == [[15, 7.5, 25, 22.5], [0, 0, 20, 30], [0, 0, 40, 30]]
    assert (data.category, data.ids) == ("face", ())
    assert data.notes[0] == "1 of 3 images have no label file"
    val = read_dataset(tmp_path / "data.yaml", part="val")
    assert (len(val), val.called) == (1, f"{tmp_path / 'data.yaml'}, val")
    assert same(read_dataset(tmp_path / "images" / "val").xy, val.xy.tolist()), "a folder inside says which part"
    with pytest.raises(ValueError, match=r"expected one part to be chosen; it holds train, val: `part='train'`"):
        read_dataset(tmp_path)
    with pytest.raises(ValueError, match="there is no part test; it holds train, val"):
        read_dataset(tmp_path, part="test")


def test_training_takes_both_parts(tmp_path: Path, caplog):
    caplog.set_level("INFO", "keylite")
    both = read_train_and_val(yolo(tmp_path))
    assert both is not None
    assert [len(data) for data in both] == [3, 1]
    assert f"no val: the part val of {tmp_path} is taken" in caplog.text
    (tmp_path / "data.yaml").write_text(DATA_YAML.replace("val: images/val\n", ""))
    assert read_train_and_val(tmp_path) is None


def test_yolo_pose_without_visibility(tmp_path: Path):
    yaml = DATA_YAML.replace("[2, 3]", "[2, 2]").replace("val: images/val\n", "")
    yolo(tmp_path, yaml)
    written(
        tmp_path,
        {"labels/train/a.txt": "0 0.5 0.5 0.25 0.5 0.25 0.75 -1 -1", "labels/train/deep/c.txt": "0 .5 .5 1 1 0 0 1 1"},
    )
    data = read_dataset(tmp_path)
    assert same(data.xy, [[[10, 22.5], NAN], [[0, 0], [40, 30]]])
    assert data.visible.tolist() == [[2, 0], [2, 2]]


@pytest.mark.parametrize(
    ("train", "path"),
    [("../train/images", ""), ("train/images", "somewhere/else"), ("[train/images]", ""), ("list.txt", "")],
)
def test_yolo_pose_as_tools_lay_it_out(train: str, path: str, tmp_path: Path):
    """Roboflow writes ../train/images for train/images, and a `path` of another machine counts for nothing."""
    pictures(tmp_path, "train/images/a.png")
    text = f"path: {path}\ntrain: {train}\nkpt_shape: [1, 3]\nnames: [x]\n"
    written(
        tmp_path,
        {"data.yaml": text, "train/labels/a.txt": "0 .5 .5 1 1 .5 .5 2", "list.txt": "./train/images/a.png\n"},
    )
    data = read_dataset(tmp_path)
    assert same(data.xy, [[[20, 15]]])
    assert data.skeleton.names == ("k0",)


YOLO_BAD = {
    "no kpt_shape": ({"yaml": DATA_YAML.replace("kpt_shape: [2, 3]\n", "")}, "kpt_shape is missing"),
    "kpt_shape of a list": ({"yaml": DATA_YAML.replace("[2, 3]", "[2, 4]")}, r"kpt_shape: expected \[K, 3\], or"),
    "kpt_shape too large": ({"yaml": DATA_YAML.replace("[2, 3]", "[3, 3]")}, "expected 3 names by kpt_shape, got 2"),
    "a line too short": ({"line": "0 .5 .5 1 1 .5 .5 2"}, r"a.txt line 1: expected 11 numbers .*, got 8"),
    "px": ({"line": "0 20 15 10 10 .5 .5 2 .5 .5 2"}, r"line 1: expected fractions of the image from 0 to 1, got 20"),
    "words": ({"line": "0 .5 .5 1 1 .5 .5 two .5 .5 2"}, r"a.txt line 1: expected numbers, got '0 .5"),
    "not finite": ({"line": "0 .5 .5 1 1 nan .5 2 .5 .5 2"}, r"a.txt line 1: expected finite numbers"),
    "unknown class": ({"line": "7 .5 .5 1 1 .5 .5 2 .5 .5 2"}, "no class has the number 7"),
    "visibility 3": ({"line": "0 .5 .5 1 1 .5 .5 3 .5 .5 2"}, r"a.txt line 1: left: expected v 0, 1 or 2, got 3"),
    "flip_idx": ({"yaml": DATA_YAML.replace("[1, 0]", "[1, 1]")}, "flip_idx: expected a permutation"),
    "no folder": ({"yaml": DATA_YAML.replace("images/train", "pictures")}, "no such folder or list of images"),
    "an alias": ({"yaml": "a: &a [1]\nb: *a\nkpt_shape: [1, 3]\ntrain: x\n"}, "line 2: an alias"),
    "a tag": ({"yaml": "train: !!python/object:os.system x\nkpt_shape: [1, 3]\n"}, "line 1: a tag"),
    "nested": ({"yaml": f"train: x\nkpt_shape: {'[' * 5000}"}, "brackets are nested too deeply"),
}


@pytest.mark.parametrize(("change", "words"), YOLO_BAD.values(), ids=YOLO_BAD)
def test_bad_yolo_is_one_line(change: dict, words: str, tmp_path: Path):
    yolo(tmp_path, **change)
    with pytest.raises((KeyliteError, FileNotFoundError), match=words) as caught:
        read_dataset(tmp_path, part="train")
    assert "\n" not in str(caught.value)


def test_one_category_of_yolo(tmp_path: Path):
    yolo(
        tmp_path,
        DATA_YAML.replace("0: face", "0: face\n  1: hand").replace("[left, right]", "[left, right]\n  1: [l, r]"),
    )
    written(tmp_path, {"labels/train/deep/c.txt": "1 0.5 0.5 1 1 0.5 0.5 2 1 1 2\n"})
    with pytest.raises(ValueError, match="categories differ in keypoints; choose one with `category=NAME`: face; hand"):
        read_dataset(tmp_path, part="train")
    assert read_dataset(tmp_path, part="train", category="hand").skeleton.names == ("l", "r")
    with pytest.raises(ValueError, match="no object is of category 'foot'; the names are: face; hand"):
        read_dataset(tmp_path, part="train", category="foot")


# ---- COCO as folders


def coco(name: str = "a.png") -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "keypoints": [3, 4, 2]}],
        "categories": [{"id": 1, "name": "thing", "keypoints": ["nose"]}],
    }


LAYOUTS = {
    "roboflow": ("train/_annotations.coco.json", "train/a.png", ("train", "val"), "valid"),
    "cvat": ("annotations/person_keypoints_train.json", "images/train/a.png", ("train",), None),
    "files": ("train.json", "a.png", ("train", "val"), "."),
}


@pytest.mark.parametrize(("labels", "picture", "parts", "valid"), LAYOUTS.values(), ids=LAYOUTS)
def test_coco_in_a_folder(labels: str, picture: str, parts: tuple, valid: str | None, tmp_path: Path):
    pictures(tmp_path, picture)
    written(tmp_path, {labels: coco()})
    if valid:
        val = labels.replace("train/", f"{valid}/").replace("train.json", "val.json")
        pictures(tmp_path, str(Path(val).parent / "v.png"))
        written(tmp_path, {val: coco("v.png")})
    if "annotations/" in labels:
        written(tmp_path, {"annotations/instances_train.json": coco(), "annotations/captions_train.json": "{}"})
    assert set(parts_of(tmp_path)) == set(parts)
    data = read_dataset(tmp_path, part="train")
    assert same(data.xy, [[[3.5, 4.5]]])
    assert (data.ids, data.category) == ((5,), "thing")


def test_a_folder_with_one_label_file(tmp_path: Path):
    pictures(tmp_path, "a.png")
    written(tmp_path, {"anything.json": coco()})
    assert len(read_dataset(tmp_path)) == 1
    assert parts_of(tmp_path) == ()
    with pytest.raises(ValueError, match="there is no part val; it holds no parts"):
        read_dataset(tmp_path, part="val")
    with pytest.raises(ValueError, match="part: .* has no parts; leave it out"):
        read_dataset(tmp_path / "anything.json", part="val")
    written(tmp_path, {"other.json": coco()})
    with pytest.raises(
        ValueError, match="several files may hold the labels; name one of them: anything.json; other.json"
    ):
        read_dataset(tmp_path)


# ---- labelme


def shape(label: str, *points: tuple[float, float], **other: Any) -> dict[str, Any]:
    return {
        "label": label,
        "points": [list(point) for point in points],
        "group_id": None,
        "shape_type": "point",
    } | other


def labelme(*shapes: dict[str, Any], picture: str = "a.png", **other: Any) -> dict[str, Any]:
    return {
        "version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": picture, "imageData": None,
        "imageHeight": HEIGHT, "imageWidth": WIDTH,
    } | other  # fmt: skip


def test_labelme_is_a_file_per_picture(tmp_path: Path):
    pictures(tmp_path, "a.png", "b.png")
    box = shape("cat", (30.5, 20), (2, 4), shape_type="rectangle", group_id=1)
    written(
        tmp_path,
        {
            "a.json": labelme(
                shape("nose", (10.25, 11.125), group_id=1), shape("tail", (3, 4), group_id=2),
                shape("tail", (12, 13), group_id=1, flags={"occluded": True}), box,
                shape("fur", (1, 1), (5, 5), (1, 5), shape_type="polygon"),
            ),
            "b.json": labelme(
                shape("nose", (1.5, 2.5)), shape("cat", (0, 0), (9, 8), shape_type="rectangle"),
                picture="..\\pics\\b.png", subject="tom",
            ),
        },
    )  # fmt: skip
    data = read_dataset(tmp_path, group="image")
    assert data.skeleton.names == ("nose", "tail")
    assert same(data.xy, [[[10.25, 11.125], [12, 13]], [NAN, [3, 4]], [[1.5, 2.5], NAN]]), "nothing is shifted"
    assert data.visible.tolist() == [[2, 1], [0, 2], [2, 0]]
    assert same(data.box, [[2, 4, 30.5, 20], [np.nan] * 4, [0, 0, 9, 8]])
    assert data.category == "cat"
    assert data.ids == ()
    assert "left out: 1 polygon shape" in data.notes
    assert read_dataset(tmp_path / "a.json").ids == (1, 2)
    with pytest.raises(ValueError, match="2 of 3 objects have no field 'subject'"):
        read_dataset(tmp_path, group="field:subject")


LABELME_BAD = {
    "one name twice": (labelme(shape("a", (1, 1)), shape("a", (2, 2))), "more than one point is named 'a'; give each"),
    "words for numbers": (
        labelme(shape("a", (1, "2"))),
        r"a.json: shapes\[0\].points\[0\]\[1\]: expected float, got str",
    ),
    "no imagePath": ({"shapes": [], "shape_type": 1}, "object missing required field imagePath"),
    "two boxes": (
        labelme(shape("a", (1, 1), group_id=1), *[shape("b", (0, 0), (5, 5), group_id=1, shape_type="rectangle")] * 2),
        "2 rectangles; give those of other objects another group_id",
    ),
    "no points": (labelme(), "no object has points"),
    "a missing picture": (labelme(shape("a", (1, 1)), picture="no.png"), "1 images not found in"),
}


@pytest.mark.parametrize(("content", "words"), LABELME_BAD.values(), ids=LABELME_BAD)
def test_bad_labelme_is_one_line(content: dict, words: str, tmp_path: Path):
    pictures(tmp_path, "a.png")
    written(tmp_path, {"a.json": content})
    with pytest.raises((KeyliteError, FileNotFoundError), match=words) as caught:
        read_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_files_beside_those_of_labelme_are_counted(tmp_path: Path):
    pictures(tmp_path, "a.png")
    written(tmp_path, {"a.json": labelme(shape("nose", (1, 1))), "settings.json": {"x": 1}, "notes.txt": "x"})
    assert "left out: 1 of 2 JSON files, which are not labelme's" in read_dataset(tmp_path).notes


ENCODED = {
    "labelme": ("a.json", json.dumps(labelme(shape("\xe9", (1, 1))), ensure_ascii=False)),
    "yolo": ("data.yaml", DATA_YAML.replace("face", "\xe9")),
    "cvat": ("annotations.xml", "<annotations><version>\xe9</version></annotations>"),
    "dlc": ("t.csv", "scorer,\xe9,\xe9\nbodyparts,n,n\ncoords,x,y\na.png,1,2\n"),
    "label-studio": ("l.json", '[{"annotations": [], "x": "\xe9"}]'),
    "tps": ("l.tps", "LM=1\n1 2\nIMAGE=\xe9.png\n"),
    "via": ("l.json", '{"_via_settings": "\xe9"}'),
}


@pytest.mark.parametrize(("name", "text"), ENCODED.values(), ids=ENCODED)
def test_another_encoding_is_one_line(name: str, text: str, tmp_path: Path):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"UTF-8|broken JSON") as caught:
        read_dataset(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_two_labels_for_one_picture(tmp_path: Path):
    pictures(tmp_path, "a.png")
    written(tmp_path, {"a.json": labelme(shape("nose", (1, 1))), "copy.json": labelme(shape("nose", (2, 2)))})
    with pytest.raises(ValueError, match="copy.json: the image is on a.json already"):
        read_dataset(tmp_path)
    assert len(read_dataset(tmp_path, skip_bad=True)) == 1


# ---- Label Studio


def region(kind: str, name: str, label: str, x: float, y: float, **other: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": 1.5, kind: [label]} | {key: other.pop(key) for key in ("height",) if key in other}
    value["width"] = other.pop("width", 1.5)
    sizes = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return sizes | {"id": name, "type": kind, "from_name": "k", "to_name": "img", "value": value} | other


def task(*result: dict[str, Any], number: int = 1, picture: str = "/data/upload/3/ab12cd34-a.png") -> dict[str, Any]:
    return {
        "id": number,
        "data": {"image": picture, "subject": "anna"},
        "annotations": [{"id": 9, "result": list(result)}],
    }


BOX = region("rectanglelabels", "b1", "cat", 10, 20, width=50, height=40)
OTHER = region("rectanglelabels", "b2", "cat", 0, 0, width=5, height=5)


def test_label_studio_is_in_per_cent(tmp_path: Path):
    pictures(tmp_path, "a.png", "b.png")
    hidden = {"id": "p2", "type": "choices", "value": {"choices": ["Occluded"]}}
    points = [
        region("keypointlabels", "p1", "nose", 12.5, 25, parentID="b1"),
        region("keypointlabels", "p2", "tail", 50, 100),
        region("keypointlabels", "p3", "nose", 2, 2, parentID="b2"),
    ]
    relation = {"type": "relation", "from_id": "b1", "to_id": "p2", "direction": "right"}
    second = task(region("keypointlabels", "q", "nose", 5, 10), BOX, number=2, picture="s3://bucket/set/b.png")
    written(tmp_path, {"export.json": [task(BOX, OTHER, *points, hidden, relation), second]})
    data = read_dataset(tmp_path / "export.json")
    assert data.skeleton.names == ("nose", "tail")
    assert same(data.xy, [[[5, 7.5], [20, 30]], [[0.8, 0.6], NAN], [[2, 3], NAN]])
    assert data.visible.tolist() == [[2, 1], [2, 0], [2, 0]]
    assert data.box.tolist() == [[4, 6, 24, 18], [0, 0, 2, 1.5], [4, 6, 24, 18]]
    assert (data.groups, data.category) == (("anna",), "cat"), "the field subject of the task"


def test_label_studio_json_min(tmp_path: Path):
    pictures(tmp_path, "a.png")
    point = {"x": 12.5, "y": 25.0, "width": 1, "keypointlabels": ["nose"], "original_width": 40, "original_height": 30}
    box = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
    entry = {"image": "a.png", "id": 1, "kp": [point], "rect": [box], "annotator": 1, "annotation_id": 4}
    written(tmp_path, {"min.json": [entry]})
    data = read_dataset(tmp_path / "min.json")
    assert same(data.xy, [[[5, 7.5]]])
    assert data.box.tolist() == [[0, 0, 20, 15]]


TURNED = region("rectanglelabels", "b", "cat", 1, 1, width=5, height=5)
TURNED["value"]["rotation"] = 12
NOSE = region("keypointlabels", "p", "nose", 1, 1)
STUDIO_BAD = {
    "two annotations": (
        task() | {"annotations": [{"id": 1, "result": [NOSE]}, {"id": 2, "result": [NOSE]}]},
        "task 1: 2 annotations for one picture; mark one as ground truth: 1; 2",
    ),
    "a name twice": (task(NOSE, NOSE), "more than one point is named 'nose'; relate each point to its rectangle"),
    "two boxes": (task(NOSE, BOX, OTHER), "several rectangles; relate each point to its own"),
    "a turned picture": (task(NOSE | {"image_rotation": 90}), "the picture was turned in Label Studio"),
    "a turned box": (task(NOSE, TURNED), "region b: the rectangle is turned"),
    "no number": (task(region("keypointlabels", "p", "nose", "x", 1)), "region p: x: expected a number, got 'x'"),
    "no picture": (task(NOSE) | {"data": {"text": "a"}}, "expected the picture under `image`, got text"),
    "nothing": (task() | {"annotations": [], "predictions": [{"result": [NOSE]}]}, "1 task with predictions alone"),
}


@pytest.mark.parametrize(("content", "words"), STUDIO_BAD.values(), ids=STUDIO_BAD)
def test_bad_label_studio_is_one_line(content: dict, words: str, tmp_path: Path):
    pictures(tmp_path, "a.png")
    written(tmp_path, {"export.json": [content]})
    with pytest.raises(ValueError, match=words) as caught:
        read_dataset(tmp_path / "export.json")
    assert "\n" not in str(caught.value)


# ---- CVAT

SVG = (
    '&lt;line x1="1" data-type="edge" data-node-from="1" data-node-to="2"&gt;&lt;/line&gt;'
    '&lt;circle data-type="element node" data-node-id="1" data-label-name="nose"&gt;&lt;/circle&gt;'
    '&lt;circle data-type="element node" data-node-id="2" data-label-name="tail"&gt;&lt;/circle&gt;'
)
META = f"""<version>1.1</version><meta><task><labels>
<label><name>cat</name><type>skeleton</type><attributes></attributes><svg>{SVG}</svg></label>
<label><name>nose</name><type>points</type><parent>cat</parent></label>
<label><name>tail</name><type>points</type><parent>cat</parent></label>
<label><name>box</name><type>rectangle</type></label>
</labels><original_size><width>40</width><height>30</height></original_size></task></meta>"""
IMAGE = f'<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">'


def cvat(folder: Path, inside: str, meta: str = META) -> Path:
    pictures(folder, "images/a.png")
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n{meta}{inside}</annotations>'
    return written(folder, {"annotations.xml": text}) / "annotations.xml"


def test_skeletons_of_cvat(tmp_path: Path):
    skeleton = """<skeleton label="cat" source="manual" z_order="0" group_id="4"><attribute name="identity">tom</attribute>
        <points label="tail" outside="0" occluded="1" points="12.50,13.25"></points>
        <points label="nose" outside="0" occluded="0" points="1.00,2.00"></points></skeleton>
        <skeleton label="cat"><points label="nose" outside="1" occluded="0" points="5,5"></points>
        <points label="tail" outside="0" occluded="0" points="7,8"></points></skeleton>
        <box label="box" xtl="1" ytl="2" xbr="20.5" ybr="21" group_id="4"></box><polygon points="1,1;2,2"></polygon>"""
    path = cvat(tmp_path, f"{IMAGE}{skeleton}</image>")
    data = read_dataset(path, group="image")
    assert data.skeleton.names == ("nose", "tail"), "in the order of the labels"
    assert data.skeleton.edges == ((0, 1),)
    assert same(data.xy, [[[1, 2], [12.5, 13.25]], [NAN, [7, 8]]]), "nothing is shifted"
    assert data.visible.tolist() == [[2, 1], [0, 2]]
    assert same(data.box, [[1, 2, 20.5, 21], [np.nan] * 4])
    assert data.category == "cat"
    assert "left out: 1 polygon" in data.notes
    assert same(read_dataset(tmp_path, group="image").xy, data.xy.tolist())


def test_points_of_cvat_without_skeletons(tmp_path: Path):
    path = cvat(
        tmp_path,
        f"""{IMAGE}<points label="nose" occluded="0" points="1,2"></points><points label="tail" occluded="1" points="3,4">
        </points><box label="cat" xtl="0" ytl="0" xbr="9" ybr="9"></box></image>""",
        "<version>1.1</version>",
    )
    data = read_dataset(path)
    assert same(data.xy, [[[1, 2], [3, 4]]])
    assert data.visible.tolist() == [[2, 1]]
    assert data.box.tolist() == [[0, 0, 9, 9]], "one object and one box belong together"
    path = cvat(tmp_path, f'{IMAGE}<points label="cat" points="1,2;3,4;5,6"/></image>', "<version>1.1</version>")
    data = read_dataset(path)
    assert data.skeleton.names == ("k0", "k1", "k2")
    assert same(data.xy, [[[1, 2], [3, 4], [5, 6]]])


def test_a_video_of_cvat_is_its_key_frames(tmp_path: Path):
    pictures(tmp_path, "images/frame_000000.png", "images/frame_000007.png")
    shapes = "".join(
        f'<skeleton frame="{frame}" keyframe="{key}"><points label="nose" outside="0" occluded="0" keyframe="{key}" '
        f'points="{frame}.5,2"></points><points label="tail" outside="1" points="0,0"></points></skeleton>'
        for frame, key in ((0, 1), (3, 0), (7, 1))
    )
    data = read_dataset(cvat(tmp_path, f'<track id="3" label="cat" source="manual">{shapes}</track>'))
    assert same(data.xy, [[[0.5, 2], NAN], [[7.5, 2], NAN]])
    assert data.image_names == ("frame_000000.PNG", "frame_000007.PNG")
    assert data.ids == ("3", "3")
    assert "left out: 1 shape between key frames, which nobody labelled" in data.notes


CVAT_BAD = {
    "an unknown point": (
        f'{IMAGE}<skeleton label="cat"><points label="ear" points="1,2"/></skeleton></image>',
        "a.png skeleton 1: no point of cat is called 'ear'",
    ),
    "no point": (
        f'{IMAGE}<points label="x" points="1;2"/></image>',
        "a.png points 1: points: expected x,y;x,y, got '1;2'",
    ),
    "no number": (f'{IMAGE}<points label="x" points="1,inf"/></image>', "points: expected a number, got 'inf'"),
    "a name twice": (
        f'{IMAGE}<points label="x" points="1,2"/><points label="x" points="1,2"/></image>',
        "more than one point is named 'x'; group the points of each object in CVAT",
    ),
    "cut off": (IMAGE, "annotations.xml: broken XML: mismatched tag at line"),
    "nothing": (f"{IMAGE}</image>", "the data set is empty: no object has points"),
}


@pytest.mark.parametrize(("inside", "words"), CVAT_BAD.values(), ids=CVAT_BAD)
def test_bad_cvat_is_one_line(inside: str, words: str, tmp_path: Path):
    with pytest.raises(ValueError, match=words) as caught:
        read_dataset(cvat(tmp_path, inside))
    assert "\n" not in str(caught.value)


# ---- DeepLabCut and Lightning Pose

SEVERAL = """scorer,me,me,me,me,me,me
individuals,tom,tom,ada,ada,single,single
bodyparts,nose,nose,nose,nose,corner,corner
coords,x,y,x,y,x,y
labeled-data/v/a.png,1,2,3,4,5,6
labeled-data/v/b.png,,,7.25,8,,
"""
TABLE = """scorer,,,me,me,me,me
bodyparts,,,nose,nose,tail,tail
coords,,,x,y,x,y
labeled-data,{video},{name},1.5,2,,
"""


def test_dlc_with_several_animals(tmp_path: Path):
    pictures(tmp_path, "labeled-data/v/a.png", "labeled-data/v/b.png")
    path = written(tmp_path, {"labeled-data/v/CollectedData_me.csv": SEVERAL}) / "labeled-data/v/CollectedData_me.csv"
    with pytest.raises(ValueError, match=r"choose one with `category=NAME`: animal \(1\); single \(1\)"):
        read_dataset(path)
    data = read_dataset(path, category="animal")
    assert same(data.xy, [[[1.5, 2.5]], [[3.5, 4.5]], [[7.75, 8.5]]])
    assert data.ids == ("tom", "ada", "ada")
    assert data.image_index.tolist() == [0, 0, 1]
    assert same(read_dataset(path, category="single").xy, [[[5.5, 6.5]]])


def test_a_project_of_dlc(tmp_path: Path):
    pictures(tmp_path, "labeled-data/v/a.png", "labeled-data/w/a.png")
    texts = {f"labeled-data/{v}/CollectedData_me.csv": TABLE.format(video=v, name="a.png") for v in "vw"}
    written(tmp_path, texts | {"config.yaml": "Task: t\nskeleton:\n- - nose\n  - tail\n"})
    data = read_dataset(tmp_path, group="field:video")
    assert same(data.xy, [[[2, 2.5], NAN]] * 2)
    assert data.groups == ("v", "w")
    assert data.skeleton.edges == ((0, 1),)


def test_lightning_pose_says_what_is_visible(tmp_path: Path):
    pictures(tmp_path, "a.png")
    text = "scorer,m,m,m,m,m,m\nbodyparts,a,a,a,b,b,b\ncoords,x,y,visible,x,y,visible\na.png,1,2,1,{}\n"
    data = read_dataset(written(tmp_path, {"CollectedData.csv": text.format("3,4,2.0")}))
    assert data.visible.tolist() == [[1, 2]]
    assert read_dataset(written(tmp_path, {"CollectedData.csv": text.format(",,1")})).visible.tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="line 4 .a.png.: b: visible: expected 0, 1 or 2, got '7'"):
        read_dataset(written(tmp_path, {"CollectedData.csv": text.format("3,4,7")}))


# ---- landmarks


def test_tps_counts_y_from_the_bottom(tmp_path: Path):
    pictures(tmp_path, "a.png", "b.png")
    text = "LM=2\n1.5 29\nNA NA\nIMAGE=a.png\nID=7\nSCALE=0.05\nLM=2\n3 4\n5 6\nIMAGE=b.png\nID=8\n"
    data = read_dataset(written(tmp_path, {"wings.tps": text}))
    assert same(data.xy, [[[1.5, 1], NAN], [[3, 26], [5, 24]]])
    assert data.ids == ("7", "8")
    assert "SCALE is taken as mm per px" in data.notes[0]
    assert read_dataset(tmp_path, group="field:id").groups == ("7", "8")


def test_dlib_counts_pixels(tmp_path: Path):
    pictures(tmp_path, "a.png")
    text = """<?xml version='1.0' encoding='ISO-8859-1'?><?xml-stylesheet type='text/xsl' href='x.xsl'?>
    <dataset><name>x</name><images><image file='a.png'><box top='2' left='1' width='10' height='20'><label>face</label>
    <part name='00' x='3' y='4'/><part name='01' x='5' y='6'/></box><box top='0' left='0' width='3' height='3' ignore='1'/>
    </image></images></dataset>"""
    data = read_dataset(written(tmp_path, {"train.xml": text}))
    assert same(data.xy, [[[3.5, 4.5], [5.5, 6.5]]])
    assert data.box.tolist() == [[1, 2, 11, 22]]
    assert (data.category, data.skeleton.names) == ("face", ("00", "01"))
    assert "left out: 1 box to ignore" in data.notes


def test_pts_begins_at_one(tmp_path: Path):
    pictures(tmp_path, "a.png", "b.png")
    text = "version: 1\nn_points:  2\n{\n1 1\n10.25 20\n}\n"
    data = read_dataset(written(tmp_path, {"a.pts": text, "b.pts": text}))
    assert same(data.xy, [[[0.5, 0.5], [9.75, 19.5]]] * 2), "1 is the centre of the first pixel"
    assert data.image_names == ("a.png", "b.png")
    assert same(read_dataset(tmp_path / "a.pts", pixel_origin="index").xy, [[[1.5, 1.5], [10.75, 20.5]]])


def test_kaggles_pictures_are_in_the_table(tmp_path: Path):
    text = "left_eye_x,left_eye_y,nose_x,nose_y,Image\n1.5,2,,,0 10 20 30 40 50 60 70 255\n"
    data = read_dataset(written(tmp_path, {"training.csv": text}))
    assert same(data.xy, [[[2, 2.5], NAN]])
    assert data.read_image(0).tolist() == [[[v] * 3 for v in row] for row in ([0, 10, 20], [30, 40, 50], [60, 70, 255])]
    assert data.check_images().checked


VIA = {
    "_via_settings": {},
    "_via_img_metadata": {
        "a.png123": {
            "filename": "a.png", "size": 123, "file_attributes": {"subject": "tom"},
            "regions": [
                {"shape_attributes": {"name": "point", "cx": 3, "cy": 4}, "region_attributes": {"name": "nose"}},
                {"shape_attributes": {"name": "point", "cx": 5, "cy": 6}, "region_attributes": {"name": "tail"}},
                {"shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 9, "height": 8}, "region_attributes": {}},
                {"shape_attributes": {"name": "circle", "cx": 1, "cy": 1, "r": 2}, "region_attributes": {}},
            ],
        }
    },
}  # fmt: skip
VIA_TABLE = """filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes
a.png,123,"{""subject"":""tom""}",2,0,"{""name"":""point"",""cx"":3,""cy"":4}","{""name"":""nose""}"
a.png,123,"{""subject"":""tom""}",2,1,"{""name"":""point"",""cx"":5,""cy"":6}","{""name"":""tail""}"
"""


@pytest.mark.parametrize(
    "file",
    [{"via.json": VIA}, {"via.json": VIA["_via_img_metadata"]}, {"via.csv": VIA_TABLE}],
    ids=["project", "json", "csv"],
)
def test_via_in_each_form(file: dict, tmp_path: Path):
    pictures(tmp_path, "a.png")
    data = read_dataset(written(tmp_path, file), group="field:subject")
    assert same(data.xy, [[[3, 4], [5, 6]]])
    assert data.skeleton.names == ("nose", "tail")
    assert data.groups == ("tom",)
    assert "csv" in next(iter(file)) or data.box.tolist() == [[1, 2, 10, 10]]


SMALL_BAD = {
    "TPS, another number": ("x.tps", "LM=1\n1 2\nIMAGE=a.png\nLM=1\n1 2\nIMAGE=a.png\nLM=2\n1 2\n3 4\nIMAGE=a.png\n",
                            "line 7: expected 1 landmarks as in the others, got 'LM=2'"),
    "TPS, no image": ("x.tps", "LM=1\n1 2\nID=1\n", "line 1: IMAGE= is missing"),
    "TPS, three dimensions": ("x.tps", "LM3=1\n1 2 3\nIMAGE=a.png\n", "expected LM=n and n lines of x and y, got 'LM3=1'"),
    "TPS, half a point": ("x.tps", "LM=1\n1\nIMAGE=a.png\n", "k0: expected x and y, got '1'"),
    ".pts, a point too few": ("x.pts", "version: 1\nn_points: 2\n{\n1 1\n}", "x.pts: expected 2 points, as n_points says"),
    ".pts, no brackets": ("x.pts", "version: 1\nn_points: 2\n1 1\n2 2\n", "x.pts: expected version: 1, n_points: N"),
    "dlib, no number": ("x.xml", "<dataset><images><image file='a.png'><box top='x' left='0' width='1' height='1'/></image>"
                        "</images></dataset>", "a.png box 1: box: top: expected a number, got 'x'"),
    "Kaggle, no square": ("x.csv", "n_x,n_y,Image\n1,2,1 2 3\n", "expected the pixels of a square picture, got 3 numbers"),
    "Kaggle, white beyond": ("x.csv", "n_x,n_y,Image\n1,2,256\n", "expected grey levels 0 to 255, got 256 to 256"),
    "Kaggle, words": ("x.csv", "n_x,n_y,Image\n1,2,a b\n", "Image: expected whole numbers"),
    "VIA, no number": ("x.json", json.dumps(VIA).replace('"cx": 3', '"cx": "a"'), "a.png: cx: expected a number, got 'a'"),
    "VIA, a name twice": ("x.json", json.dumps(VIA).replace("tail", "nose"), "say whose point each is by an attribute"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "words"), SMALL_BAD.values(), ids=SMALL_BAD)
def test_bad_small_formats_are_one_line(name: str, text: str, words: str, tmp_path: Path):
    pictures(tmp_path, "a.png")
    with pytest.raises(ValueError, match=words) as caught:
        read_dataset(written(tmp_path, {name: text}) / name)
    assert "\n" not in str(caught.value)


# ---- what is not read

UNREAD = {
    "HDF5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file, .*name the CSV beside it; SLEAP's files end in .slp"),
    "zip": (b"PK\x03\x04abc", "a ZIP archive .*unpack it"),
    "pickle": (b"\x80\x04\x95abc", "a pickle, .*can run code"),
    "web page": (b"<!DOCTYPE html><html>", "a web page, .*download the file itself"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "VOC": (b"<annotation><folder>x</folder><object></object></annotation>", "Pascal VOC boxes"),
    "Supervisely": (b'{"objects": [{"geometryType": "graph"}]}', "Supervisely's format.*export it as COCO"),
    "OpenPose": (b'{"people": [{"pose_keypoints_2d": [1]}]}', "OpenPose's output"),
    "results": (b'[{"image_id": 1, "keypoints": [1, 2, 1], "score": 0.5}]', "COCO results"),
    "a picture": (b"\xff\xd8\xff\xe0", "a picture, .*name the file of the labels"),
    "unknown XML": (b"<x><y/></x>", "this is none of them"),
}


@pytest.mark.parametrize(("data", "words"), UNREAD.values(), ids=UNREAD)
def test_what_is_not_read_is_known_by_name(data: bytes, words: str, tmp_path: Path):
    (tmp_path / "it").write_bytes(data)
    with pytest.raises(ValueError, match=words) as caught:
        read_dataset(tmp_path / "it")
    assert "\n" not in str(caught.value)


def test_a_folder_without_labels_says_what_it_holds(tmp_path: Path):
    pictures(tmp_path, "a.png")
    with pytest.raises(
        ValueError, match="no labels were recognised in this folder; it holds 1 picture and nothing else"
    ):
        read_dataset(tmp_path)
    written(tmp_path, {"a.txt": "0 .5 .5 1 1 .5 .5 2"})
    with pytest.raises(
        ValueError, match="there is no data.yaml in this folder; if these are labels of YOLO-pose, write"
    ):
        read_dataset(tmp_path)


ENTITY = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
BOMB = '<!DOCTYPE a [<!ENTITY a "aa"><!ENTITY b "&a;&a;&a;">]>'
HOSTILE = {
    "an entity": (f"{ENTITY}<annotations><version>&x;</version></annotations>", "a document type"),
    "entities in entities": (f"{BOMB}<dataset><images>&b;</images></dataset>", "a document type"),
    "an odd encoding": (
        "<?xml version='1.0' encoding='utf-7'?><annotations><version/></annotations>",
        "the encoding 'utf-7'",
    ),
    "deep XML": (f"<annotations><version>{'<a>' * 100_000}", "broken XML"),
    "deep JSON": ('[{"annotations": ' + "[" * 200_000, "broken JSON"),
}


@pytest.mark.parametrize(("text", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_one_line(text: str, words: str, tmp_path: Path):
    (tmp_path / "it").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_dataset(tmp_path / "it")
    assert str(caught.value).startswith(f"{tmp_path / 'it'}: ")
    assert "\n" not in str(caught.value)


def test_every_format_has_a_test_here():
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FORMATS if name.split("-")[0] not in text.lower() and name not in ("csv",)] == []


def test_a_picture_inside_a_file_of_labelme_is_named_if_its_file_is_missing(tmp_path: Path):
    shape = {"label": "nose", "points": [[1, 2]], "shape_type": "point"}
    content = {"shapes": [shape], "imagePath": "a.png", "imageData": "iVBORw0KGgo="}
    folder = written(tmp_path, {"a.json": content})
    with pytest.raises(
        FileNotFoundError, match=r"name their folder with `images`; or, .*imageData.*labelme_export_json"
    ) as line:
        read_dataset(folder / "a.json")
    assert "\n" not in str(line.value)
