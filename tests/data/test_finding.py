"""Pictures are found under the names that other tools and machines wrote, or refused with what to do; never swapped."""

from __future__ import annotations

import base64
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keylite.data.finding import find_images, roots_of
from keylite.data.formats.reading import read_dataset
from keylite.data.spelling import canonical
from keylite.runtime.images import write_image

PICTURE = np.zeros((30, 40, 3), np.uint8)
NFC, NFD = unicodedata.normalize("NFC", "Käse/ölbild.png"), unicodedata.normalize("NFD", "Käse/ölbild.png")


def place(folder: Path, files: Iterable[str]) -> None:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def labels_at(path: Path, names: list[str], **more: Any) -> Path:
    """A COCO file of one object of one point in each of these images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": name} | more for n, name in enumerate(names)]
    annotations = [{"id": n, "image_id": n, "category_id": 1, "keypoints": [3, 4, 2]} for n in range(len(names))]
    categories = [{"id": 1, "name": "mouse", "keypoints": ["nose"]}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


FOUND = {  # where the labels are: files, name in the labels, file that is meant, words of the note
    "as it is": ("l.json", ["a.jpg"], "a.jpg", "a.jpg", ""),
    "in images": ("l.json", ["images/a.jpg"], "a.jpg", "images/a.jpg", ""),
    "one folder up and over": ("l/l.json", ["images/a.jpg"], "../images/a.jpg", "images/a.jpg", ""),
    "name with a percent sign": ("l.json", ["a%20b.jpg", "a b.jpg"], "a%20b.jpg", "a%20b.jpg", ""),
    "name with a query": ("l.json", ["a.jpg?v=1", "a.jpg"], "a.jpg?v=1", "a.jpg?v=1", ""),
    "name with a backslash": ("l.json", ["v\\a.jpg"], "v\\a.jpg", "v\\a.jpg", ""),
    "written on Windows": ("l.json", ["v/a.jpg"], "v\\a.jpg", "v/a.jpg", ""),
    "percent": ("l.json", ["my photo.jpg"], "my%20photo.jpg", "my photo.jpg", "found by the path in their URL"),
    "percent, twice the letters": ("l.json", ["grün.jpg"], "gr%C3%BCn.jpg", "grün.jpg", "path in their URL"),
    "query": ("l.json", ["a.jpg"], "a.jpg?token=x%2Fy", "a.jpg", "path in their URL"),
    "http": ("l.json", ["images/a.jpg"], "http://host:80/p/a.jpg?x=1#y", "images/a.jpg", "found by the end of"),
    "http, deeper": ("l.json", ["p/a.jpg"], "https://host/q/p/a.jpg", "p/a.jpg", "found by the end of their path"),
    "s3": ("l.json", ["set/a.jpg"], "s3://bucket/set/a.jpg", "set/a.jpg", "path in their URL"),
    "Label Studio, local": (
        "l.json",
        ["set one/a.jpg"],
        "/data/local-files/?d=set%20one/a.jpg",
        "set one/a.jpg",
        "path in their URL",
    ),
    "Label Studio, in a cloud": (
        "l.json",
        ["set one/a.jpg"],
        "/tasks/7/resolve/?fileuri=czM6Ly9idWNrZXQvc2V0IG9uZS9hLmpwZw&x=1",
        "set one/a.jpg",
        "path in their URL",
    ),
    "Label Studio, in a cloud, + and /": (
        "l.json",
        ["set/ã€ÿ.jpg"],
        "/resolve/?fileuri=" + base64.b64encode("gs://b/set/ã€ÿ.jpg".encode()).decode(),
        "set/ã€ÿ.jpg",
        "path in their URL",
    ),
    "Label Studio, in a cloud, - and _": (
        "l.json",
        ["set/ã€ÿ.jpg"],
        "/resolve/?fileuri=" + base64.urlsafe_b64encode("gs://b/set/ã€ÿ.jpg".encode()).decode(),
        "set/ã€ÿ.jpg",
        "path in their URL",
    ),
    "a query of another meaning": ("l.json", ["a.jpg", "b.jpg"], "a.jpg?d=b.jpg", "a.jpg", "path in their URL"),
    "beside the labels' folder, deeper": ("l/l.json", ["images/x/a.jpg"], "a.jpg", "images/x/a.jpg", "in a sub-folder"),
    "three folders down": ("l.json", ["x/y/z/a.jpg"], "a.jpg", "x/y/z/a.jpg", "found in a sub-folder"),
    "Label Studio, in a cloud, no Base64": (
        "l.json",
        ["fileuri/a.jpg"],
        "fileuri/a.jpg?fileuri=%%%",
        "fileuri/a.jpg",
        "URL",
    ),
    "Label Studio, uploaded": (
        "l.json",
        ["images/photo.jpg"],
        "/data/upload/3/ab12cd34-photo.jpg",
        "images/photo.jpg",
        "without Label Studio's prefix",
    ),
    "Label Studio, uploaded, kept": (
        "l.json",
        ["images/ab12cd34-photo.jpg", "images/photo.jpg"],
        "/data/upload/3/ab12cd34-photo.jpg",
        "images/ab12cd34-photo.jpg",
        "found by the end of their path",
    ),
    "Label Studio, exported": ("l.json", ["images/p.jpg"], "images/ab12cd34-p.jpg", "images/p.jpg", "Label Studio's"),
    "CVAT": (
        "annotations/person_keypoints_default.json",
        ["images/default/a.jpg"],
        "a.jpg",
        "images/default/a.jpg",
        "outside",
    ),
    "CVAT, subset in the name": (
        "annotations/instances_train.json",
        ["images/train/a.jpg", "images/val/a.jpg"],
        "a.jpg",
        "images/train/a.jpg",
        "1 of 1 images found in ",
    ),
    "CVAT, folder in the name": (
        "annotations/instances_x.json",
        ["images/train/a.jpg", "images/val/a.jpg"],
        "train/a.jpg",
        "images/train/a.jpg",
        "outside the label file's folder",
    ),
    "COCO's own": ("annotations/person_keypoints_val2017.json", ["val2017/1.jpg"], "1.jpg", "val2017/1.jpg", "outside"),
    "a subset that nothing names": ("l.json", ["images/default/a.jpg"], "a.jpg", "images/default/a.jpg", "sub-folder"),
    "Roboflow": ("train/_annotations.coco.json", ["train/a.rf.0f.jpg"], "a.rf.0f.jpg", "train/a.rf.0f.jpg", ""),
    "a Mac's name": ("l.json", [NFD], NFC, NFD, "accents are stored otherwise"),
    "for a Mac": ("l.json", [NFC], NFD, NFC, "accents are stored otherwise"),
    "case": ("l.json", ["img_1.jpg"], "IMG_1.JPG", "img_1.jpg", "in another case"),
    "case of a folder": ("l.json", ["Images/A/a.jpg"], "images/a/a.jpg", "Images/A/a.jpg", "in another case"),
    "suffix": ("l.json", ["a.jpg"], "a.png", "a.jpg", "under another suffix"),
    "suffix, none": ("l.json", ["a.jpg"], "a", "a.jpg", "under another suffix"),
    "case and suffix": ("l.json", ["a.jpeg"], "A.PNG", "a.jpeg", "in another case"),
    "another machine's": ("l.json", ["img/a.jpg"], "C:\\Users\\me\\data\\img\\a.jpg", "img/a.jpg", "end of their path"),
    "another machine's, longest": (
        "l.json",
        ["set/images/a.jpg", "images/a.jpg", "a.jpg"],
        "/home/someone/set/images/a.jpg",
        "set/images/a.jpg",
        "end of their path",
    ),
    "another machine's, name alone": ("l.json", ["images/a.jpg"], "/home/x/a.jpg", "images/a.jpg", "end of their path"),
    "another machine's, deeper": ("l.json", ["all/v1/a.jpg"], "/home/x/v1/a.jpg", "all/v1/a.jpg", "in a sub-folder"),
    "another machine's, all of it": ("l.json", ["home/x/a.jpg"], "/home/x/a.jpg", "home/x/a.jpg", "end of their path"),
    "another machine's, case and suffix": ("l.json", ["img/a.png"], "D:\\IMG\\A.JPG", "img/a.png", "another suffix"),
    "a folder too much": ("l.json", ["a.jpg"], "images/train/a.jpg", "a.jpg", "end of their path"),
}


@pytest.mark.parametrize("case", FOUND)
def test_a_picture_is_found(case: str, tmp_path: Path) -> None:
    labels, files, name, meant, words = FOUND[case]
    place(tmp_path, [labels, *files])
    data = read_dataset(labels_at(tmp_path / labels, [name]))
    assert [os.path.normpath(path) for path in data.images] == [str(tmp_path / meant)]
    assert data.image_names == (name,), "names stay as written"
    assert words in "; ".join(data.notes)
    assert bool(data.notes) == bool(words), "what lies where it should is not spoken of"
    assert all("1 of 1 images" in note for note in data.notes)


LOST = {  # files, name in the labels, words
    "nothing there": (
        [],
        "a.jpg",
        r"not found in .*: a.jpg \(no picture lies there\); name their folder with `images`",
    ),
    "nearest name": (["image_001.jpg", "b.jpg"], "image_01.jpg", r"2 pictures lie there, such as image_001.jpg"),
    "HEIC": (["photos/a.HEIC"], "a.jpg", r"photos/a.HEIC lies there: keylite does not read HEIC, convert it to JPEG"),
    "in another folder": (
        ["clipB/1.png"],
        "clipA/1.png",
        r"clipB/1.png lies there, in another folder: is it `images='.*/clipB'`\?",
    ),
    "in a folder of one name": (["x/y/img/a.jpg"], "v/img/a.jpg", "x/y/img/a.jpg lies there, in another folder"),
    "two in sub-folders": (["x/a.jpg", "y/a.jpg"], "a.jpg", r"is it .*/x/a.jpg or .*/y/a.jpg\?"),
    "two cases": (["a.jpg", "A.JPG"], "a.JPG", r"is it .*/A.JPG or .*/a.jpg\?"),
    "two suffixes": (["a.jpg", "a.jpeg"], "a.png", r"is it .*/a.jpeg or .*/a.jpg\?"),
    "two ends": (["a.jpg", "images/a.jpg"], "/home/x/a.jpg", r"is it .*/a.jpg or .*/images/a.jpg\?"),
    "hidden": (["._a.jpg"], "a.jpg", "no picture lies there"),
    "in a hidden folder": ([".x/a.jpg"], "a.jpg", "no picture lies there"),
    "four folders down": (["w/x/y/z/a.jpg"], "a.jpg", "no picture lies there"),
    "a date that is no prefix": (["clip-5.jpg"], "clip-20240101-5.jpg", "one picture lies there: clip-5.jpg"),
    "a prefix that is too short": (["5.jpg"], "0240101-5.jpg", "one picture lies there: 5.jpg"),
    "a suffix that is none": (["img.jpg"], "img.001", "one picture lies there: img.jpg"),
    "empty name": (["img.jpg"], "", "not found"),
    "zero byte": (["img.jpg"], "a\0.jpg", "not found"),
    "far too long": (["img.jpg"], "x" * 5000, "not found"),
}


@pytest.mark.parametrize("case", LOST)
def test_a_picture_that_is_not_known_is_refused(case: str, tmp_path: Path) -> None:
    files, name, words = LOST[case]
    place(tmp_path, files)
    with pytest.raises(FileNotFoundError, match=words) as caught:
        read_dataset(labels_at(tmp_path / "l.json", [name]))
    assert "\n" not in str(caught.value)
    assert "`images`" in str(caught.value)


def test_two_ways_to_one_file_are_no_two_candidates(tmp_path: Path) -> None:
    place(tmp_path, ["x/a.jpg"])
    (tmp_path / "y").symlink_to(tmp_path / "x")
    assert read_dataset(labels_at(tmp_path / "l.json", ["a.jpg"])).images[0].samefile(tmp_path / "x/a.jpg")


def test_not_every_folder_of_a_large_disk_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keylite.data.finding.MOST_FOLDERS", 2)
    place(tmp_path, ["x/a.jpg", "y/b.jpg", "z/c.jpg"])
    paths = find_images(["a.jpg", "b.jpg", "c.jpg"], roots_of(tmp_path / "l.json", None, climb=False)).paths
    assert paths == [tmp_path / "x/a.jpg", tmp_path / "y/b.jpg", None]


@pytest.mark.parametrize(("above", "found"), [(4, True), (5, False)])
def test_the_names_of_a_table_may_start_four_folders_up(above: int, found: bool, tmp_path: Path) -> None:
    folders = "/".join("vwxyz"[:above])
    place(tmp_path, ["p/a.png", f"{folders}/p.txt"])
    paths = find_images(["p/a.png"], roots_of(tmp_path / folders / "l.csv", None, climb=True)).paths
    assert paths == [tmp_path / "p/a.png" if found else None]


def test_two_names_never_share_a_picture(tmp_path: Path) -> None:
    place(tmp_path, ["1.png", "2.png"])
    with pytest.raises(
        FileNotFoundError, match=r"2 of 3 .*: a/1.png \(.*1.png would fit, but is the picture of b/1.png"
    ):
        read_dataset(labels_at(tmp_path / "l.json", ["a/1.png", "b/1.png", "2.png"]))
    with pytest.raises(FileNotFoundError, match=r"1 of 2 .*: 2.jpg \(.*2.png would fit, but is the picture of 2.png"):
        read_dataset(labels_at(tmp_path / "l.json", ["2.png", "2.jpg"]))
    data = read_dataset(labels_at(tmp_path / "l.json", ["2.png", "2.jpg"]), skip_bad=True)
    assert data.image_names == ("2.png",)


def test_ways_are_counted_a_line_each(tmp_path: Path) -> None:
    place(tmp_path, ["a b.jpg", "c d.jpg", "e.jpg", "f.jpg", "g.jpg"])
    names = ["a%20b.jpg", "c%20d.jpg", "E.jpg", "f.png", "g.jpg"]
    assert read_dataset(labels_at(tmp_path / "l.json", names)).notes == (
        "2 of 5 images found by the path in their URL (a%20b.jpg is a b.jpg)",
        "1 of 5 images found under a name in another case (E.jpg is e.jpg)",
        "1 of 5 images found under another suffix (f.png is f.jpg)",
    )


def test_the_very_name_is_taken_whatever_else_would_do(tmp_path: Path) -> None:
    others = ["A.jpg", "a.png", "sub/a.jpg", "images/a.jpg", "b.jpg"]
    place(tmp_path, ["a.jpg", *others])
    data = read_dataset(labels_at(tmp_path / "l.json", ["a.jpg"]))
    assert data.images == (tmp_path / "a.jpg",)
    assert data.notes == ()


def test_a_named_folder_and_what_is_in_it_alone_is_searched(tmp_path: Path) -> None:
    place(tmp_path, ["a.jpg", "else/sub/b.jpg"])
    path = labels_at(tmp_path / "l.json", ["b.jpg"])
    assert read_dataset(path, images=tmp_path / "else").images == (tmp_path / "else/sub/b.jpg",)
    path = labels_at(tmp_path / "l.json", ["a.jpg"])
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images not found in \S*/else \(and sub-folders\): a.jpg"):
        read_dataset(path, images=tmp_path / "else")


def test_a_folder_further_up_is_said_and_the_top_of_the_disk_is_not_searched(tmp_path: Path) -> None:
    place(tmp_path, ["labeled-data/s1/a.png"])
    table = tmp_path / "labeled-data/s1/c.csv"
    table.write_text("file,x0,y0\nlabeled-data/s1/a.png,1,2\n")
    data = read_dataset(table)
    assert data.images == (tmp_path / "labeled-data/s1/a.png",)
    assert data.notes == (
        f"1 of 1 images found in {tmp_path}, outside the label file's folder (labeled-data/s1/a.png)",
    )
    assert Path("/") not in roots_of(Path("/l.csv"), None, climb=True).above
    assert Path("/") not in roots_of(Path("/a/b/l.csv"), None, climb=True).above


def test_an_end_of_a_path_alone_is_not_looked_for_far_up(tmp_path: Path) -> None:
    place(tmp_path, ["a.png", "p/labeled-data/s1/x.png"])
    table = tmp_path / "p/labeled-data/s1/c.csv"
    table.write_text("file,x0,y0\nC:/me/a.png,1,2\n")
    with pytest.raises(FileNotFoundError, match="not found"):
        read_dataset(table)


SPELLINGS = ["v/a.png", "v\\a.png", "./v/a.png", "v//a.png", "v/./a.png", "w/../v/a.png", ".\\v\\..\\v\\a.png"]


@pytest.mark.parametrize("again", SPELLINGS)
def test_one_picture_under_two_spellings(again: str, tmp_path: Path) -> None:
    place(tmp_path, ["v/a.png", "w/b.png"])
    table = tmp_path / "c.csv"
    table.write_text(f"file,x0,y0\nw/b.png,1,2\nv/a.png,1,2\n{again},9,9\n")
    with pytest.raises(ValueError, match=r"1 of 3 rows are bad: line 4 \(.*\): the image is on line 3 already"):
        read_dataset(table)
    assert len(read_dataset(table, skip_bad=True)) == 2
    data = read_dataset(labels_at(tmp_path / "l.json", ["w/b.png", "v/a.png", again]))
    assert data.image_index.tolist() == [0, 1, 1], "two ids of one picture: its objects are of one image"
    assert data.group_index.tolist() == [1, 0, 0], "groups are sorted by name"
    assert data.image_names == ("w/b.png", "v/a.png")
    assert data.notes[0].startswith(
        "listed again, by another id or spelling, so that objects go to the first: 1 image: "
    )
    assert len(data.notes) == 1
    content = json.loads((tmp_path / "l.json").read_text())
    content["annotations"].pop(0)
    (tmp_path / "l.json").write_text(json.dumps(content))
    assert "1 of 2 images have no object" in read_dataset(tmp_path / "l.json").notes, "of what is there once"


def test_drives_are_called_alike_in_either_case() -> None:
    assert canonical("C:\\a\\b.png") == canonical("c:/a/./b.png") == "c:/a/b.png"
    assert canonical("A/b.png") != canonical("a/b.png")


def test_one_picture_found_twice_is_refused_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    write_image(tmp_path / "v/a.png", PICTURE)
    (tmp_path / "link").symlink_to(tmp_path / "v")
    table = tmp_path / "c.csv"
    table.write_text("file,x0,y0\nv/a.png,1,2\nlink/a.png,9,9\n")
    with pytest.raises(ValueError, match=r"line 3 \(link/a.png\): the image is on line 2 already; mend them"):
        read_dataset(table)
    data = read_dataset(table, skip_bad=True)
    assert data.image_names == ("v/a.png",)


def test_one_picture_listed_at_two_sizes_is_refused(tmp_path: Path) -> None:
    place(tmp_path, ["a.png"])
    path = labels_at(tmp_path / "l.json", ["a.png", "./a.png"], height=30)
    data = json.loads(path.read_text())
    data["images"][0]["width"] = 40
    for unknown in ({}, {"width": 0, "height": 0}):
        data["images"][1] |= unknown
        path.write_text(json.dumps(data))
        assert len(read_dataset(path).images) == 1, "a width that is not known is no other width"
    data["images"][1] |= {"width": 80, "height": 30}
    path.write_text(json.dumps(data))
    with pytest.raises(
        ValueError, match=r"listed twice, as a.png at 40x30 px and as ./a.png at 80x30 px; leave one out"
    ):
        read_dataset(path)


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_links_to_one_picture_are_one_picture_for_a_split(link: str, tmp_path: Path) -> None:
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
    write_image(tmp_path / "train/a.png", PICTURE)
    if link == "hard":
        os.link(tmp_path / "train/a.png", tmp_path / "val/b.png")
    else:
        (tmp_path / "val/b.png").symlink_to(tmp_path / "train/a.png")
    write_image(tmp_path / "val/c.png", PICTURE)
    train = read_dataset(labels_at(tmp_path / "train/l.json", ["a.png"]))
    val = read_dataset(labels_at(tmp_path / "val/l.json", ["b.png", "c.png"]))
    assert val.shared_groups(train) == ["b.png"]
    assert train.shared_groups(val) == ["a.png"]


def test_each_folder_is_listed_once_however_many_names_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [f"c{number}" for number in range(20)]
    place(tmp_path, [f"images/{folder}/{number}.jpg" for folder in folders for number in range(20)])
    listings: list[str] = []
    listdir = os.listdir

    def counted(folder: str) -> list[str]:
        listings.append(os.path.normpath(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", counted)
    names = [f"C:\\x\\{folder}\\{number}.JPG" for folder in folders for number in range(20)]
    assert all(find_images(names, roots_of(tmp_path / "l.json", None, climb=False)).paths)
    assert max(listings.count(str(tmp_path / "images" / folder)) for folder in folders) == 1
    assert len(listings) < 8 * len(folders)


DEEP = "x/" * 1400 + "a.png"
EXCESSIVE = {  # name in the labels: what is said of it
    "long": ("x" * 100_000 + ".png", "expected at most 4,096 characters, got 100,004"),
    "deep": (DEEP, "expected at most 64 folders, got 1,400"),
    "deep, of Windows": (DEEP.replace("/", "\\"), "expected at most 64 folders, got 1,400"),
    "deep in Base64": ("s3://x/?fileuri=" + base64.b64encode(f"s3://b/{DEEP}".encode()).decode(), "one picture lies"),
}


@pytest.mark.parametrize(
    ("name", "excess"), [("x" * 4096, ""), ("x" * 4097, "4,097"), ("x/" * 64, ""), ("x/" * 60 + "x\\" * 5, "65")]
)
def test_how_long_and_deep_a_name_may_be(name: str, excess: str, tmp_path: Path) -> None:
    finding = find_images([name], roots_of(tmp_path / "l.json", None, climb=False))
    assert finding.paths == [None]
    assert list(finding.doubts) == ([0] if excess else [])
    assert not excess or finding.doubts[0].endswith(f", got {excess}")


@pytest.mark.parametrize(("name", "words"), EXCESSIVE.values(), ids=EXCESSIVE)
@pytest.mark.parametrize("format", ["csv", "json"])
def test_a_name_that_is_too_long_is_not_looked_for(name: str, words: str, format: str, tmp_path: Path, monkeypatch):
    def looks_like(*_: object) -> None:
        pytest.fail("it was looked for")

    folder = tmp_path / "a/b/c/d/e"  # a table's pictures are looked for in four folders above it
    folder.mkdir(parents=True)
    place(folder, ["b.png"])
    labels = labels_at(folder / "labels.json", [name, "b.png"])
    if format == "csv":
        labels = folder / "labels.csv"
        labels.write_text(f"file,x0,y0\n{name},1,2\nb.png,1,2\n")
    assert len(read_dataset(labels, skip_bad=True)) == 1
    monkeypatch.setattr("keylite.data.finding._Search.loosely", looks_like)
    with pytest.raises(FileNotFoundError) as caught:
        read_dataset(labels)
    assert f"({words}" in str(caught.value)
