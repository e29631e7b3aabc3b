"""`keylite predict`: images, folders, lists and boxes, and what cannot be used."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from verbs import refused, run

import keylite
from keylite.prediction.prelabels import PRELABELS
from keylite.prediction.sources import drawing_paths

load_file = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]").load_file
onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
exporting = pytest.importorskip("keylite.pytorch.exporting", reason="needs keylite[pytorch]")


def test_a_folder_of_drawings_may_be_a_link_to_itself_until_it_is_written_to(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert drawing_paths([Path("a.png")], loop) == {Path("a.png"): loop / "a_points.jpg"}


BAD_PREDICTIONS = {
    "format": (["--format", "yaml"], '"keylite", "jsonl", "parquet", "coco"'),
    "a folder that cannot be made": (["--out", "FILE/p.json"], "cannot write to this folder"),
    "a folder of drawings that cannot be made": (["--draw", "FILE/drawn"], "cannot write to this folder"),
    "a flag for a file": (["--out", "--draw", "out"], "expected a file name or -, got --draw"),
    "no file": (["--out"], "--out requires an argument"),
    "engine": (["--engine", "tpu"], "tpu"),
    "threads": (["--threads", "0"], "--threads: expected 1 to 4096, got 0"),
}


@pytest.mark.parametrize(("flags", "words"), BAD_PREDICTIONS.values(), ids=BAD_PREDICTIONS)
def test_a_bad_flag_of_predict_is_one_line(flags, words, capsys, trained, gauge_files):
    model = trained / "model.safetensors"
    flags = [flag.replace("FILE", str(model)) for flag in flags]
    assert words in refused(capsys, "predict", model, gauge_files / "test", *flags)


@pytest.fixture
def spoilt(gauge_files: Path, tmp_path: Path) -> Path:
    """Six pictures of gauges, and three files that are none, the first and the last by name among them."""
    folder = tmp_path / "images"
    shutil.copytree(gauge_files / "test", folder)
    (folder / "a.jpg").write_bytes(b"")
    (folder / "gauge_00002_.png").write_bytes(b"text")
    (folder / "z.png").write_bytes(b"text")
    return folder


FORMATS = {"keylite": "p.json", "coco": "p.json", "jsonl": "p.jsonl"}


@pytest.mark.parametrize("form", FORMATS)
def test_prediction_of_bad_images_names_them_all(form, capsys, exported, spoilt, tmp_path):
    """And nothing is written, on standard output neither."""
    asked = ["predict", exported, spoilt, "--format", form]
    before = sorted(tmp_path.iterdir())
    out = ["--out", tmp_path / "new" / FORMATS[form], "--draw", tmp_path / "deep" / "drawn"]
    for flags in (out, []):
        line = refused(capsys, *asked, *flags)
        assert "3 of 9 images cannot be used" in line
        assert all(name in line for name in ("a.jpg", "gauge_00002_.png", "z.png", "--skip-bad"))
        made = [path for path in tmp_path.iterdir() if path not in before]
        assert [list(path.iterdir()) for path in made] in ([], [[]]), "a folder for the points, at most"
    assert not (tmp_path / "deep").exists()
    code, said, err = run(capsys, *asked, *out, "--skip-bad")
    assert code == 0
    assert "6 objects in 6 images" in said
    assert "skipped: 3 of 9" in err and "z.png" in err
    assert len(list((tmp_path / "deep/drawn").iterdir())) == 6
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FORMATS[form]]
    code, said, _ = run(capsys, *asked, "--skip-bad")
    assert code == 0
    found = json.loads(said)["images"] if form != "jsonl" else said.splitlines()
    assert len(found) == 6


def test_labels_for_other_tools_are_those_that_python_writes(capsys, exported, gauge_files, tmp_path):
    pictures = sorted((gauge_files / "test").glob("*.png"))
    predictor = keylite.Predictor(exported)
    for form in PRELABELS:
        code, said, _ = run(
            capsys, "predict", exported, gauge_files / "test", "--format", form, "--out", tmp_path / form
        )
        assert (code, said) == (0, f"6 objects in 6 images: {tmp_path / form}\n")
        keylite.write_points(predictor, pictures, tmp_path / "python" / form, format=form)
        assert contents(tmp_path / form).keys() == contents(tmp_path / "python" / form).keys()
        if form != "labelme":  # its files name the pictures as they see them
            assert contents(tmp_path / form) == contents(tmp_path / "python" / form), form
    assert len(contents(tmp_path / "yolo")) == 13 and len(contents(tmp_path / "labelme")) == 6
    code, said, _ = run(capsys, "predict", exported, gauge_files / "test", "--format", "cvat")
    assert (code, said.rstrip()) == (0, (tmp_path / "cvat").read_text().rstrip())


def test_a_label_that_is_there_is_refused_before_anything_is_predicted(
    capsys, monkeypatch, exported, gauge_files, tmp_path
):
    monkeypatch.setattr("keylite.runtime.predictor.Predictor.run", lambda *_: pytest.fail("points were predicted"))
    name = next((gauge_files / "test").glob("*.png")).stem
    (tmp_path / f"{name}.json").write_text("somebody's work")
    for images in ([gauge_files / "test"], ["--data", gauge_files / "test/labels.json"]):
        code, _, err = run(capsys, "predict", exported, *images, "--format", "labelme", "--out", tmp_path)
        assert code == 2
        assert f"which would be written, are there already: {name}.json; choose another folder" in err
    assert (tmp_path / f"{name}.json").read_text() == "somebody's work"


def contents(path: Path) -> dict[str, bytes]:
    """The files of a folder by name, or one file; line feeds at the end do not count."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return {each.relative_to(path).as_posix(): each.read_bytes().rstrip() for each in files}


def test_labels_are_predicted_with_their_ids(capsys, exported, gauge_files, tmp_path):
    labels = gauge_files / "test/labels.json"
    code, said, _ = run(
        capsys, "predict", exported, "--data", labels, "--format", "coco-results", "--out", tmp_path / "r.json"
    )
    assert (code, said) == (0, f"6 objects in 6 images: {tmp_path / 'r.json'}\n")
    ids = [image["id"] for image in json.loads(labels.read_text())["images"]]
    assert [one["image_id"] for one in json.loads((tmp_path / "r.json").read_text())] == ids
    keylite.write_points(exported, keylite.read_dataset(labels), tmp_path / "p.json", format="coco-results")
    assert (tmp_path / "p.json").read_text() == (tmp_path / "r.json").read_text().rstrip()


UNFIT = {
    "no folder": (["IMAGES", "--format", "yolo"], "--format: yolo is a folder of files; name it with --out"),
    "a full folder": (["IMAGES", "--format", "yolo", "--out", "IMAGES"], "--out: expected a new or empty folder"),
    "labels and images": (["IMAGES", "--data", "LABELS", "--format", "coco"], "images: expected none beside --data"),
    "labels in keylite's form": (["--data", "LABELS"], "--format: expected coco, .* with --data, got none"),
    "a flag of labels": (["IMAGES", "--part", "val"], "--part says how labels are read; give them as --data"),
    "a format of drawings": (
        ["IMAGES", "--format", "coco", "--draw", "drawn"],
        "--format: says how points are written; name a file with --out",
    ),
    "parquet": (["IMAGES", "--format", "parquet"], "parquet is written by --ray alone"),
}


@pytest.mark.parametrize(("flags", "words"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_go_together_is_one_line(flags, words, capsys, trained, gauge_files):
    names = {"IMAGES": gauge_files / "test", "LABELS": gauge_files / "test/labels.json"}
    line = refused(capsys, "predict", trained / "model.safetensors", *(names.get(flag, flag) for flag in flags))
    assert re.search(words, line), line


def test_little_is_looked_for_once_an_image_is_bad(capsys, exported, gauge_files, spoilt, monkeypatch):
    """What was taken before it was known to be bad; the rest is read to be named."""
    looked, run_one = [], keylite.Predictor.run
    monkeypatch.setattr(keylite.Predictor, "run", lambda *given: looked.append(len(given[1])) or run_one(*given))
    pictures = [spoilt / "a.jpg", *[next((gauge_files / "test").glob("*.png"))] * 300, spoilt / "z.png"]
    (spoilt / "list.txt").write_text("\n".join(map(str, pictures)))
    line = refused(capsys, "predict", exported, spoilt / "list.txt")
    assert "a.jpg" in line and "z.png" in line
    assert 0 < sum(looked) <= 3 * 32


def test_lines_are_the_same_points(capsys, exported, gauge_files, tmp_path):
    pictures = sorted((gauge_files / "test").glob("*.png"))
    listing, boxes = tmp_path / "pictures.txt", tmp_path / "boxes.json"
    listing.write_text("\n".join(map(str, pictures)) + "\n\n")
    boxes.write_text(json.dumps({path.name: [[0, 0, 96, 96]] * number for number, path in enumerate(pictures)}))
    code, out, _ = run(capsys, "predict", exported, gauge_files / "test", "--boxes", boxes)
    assert code == 0
    whole = json.loads(out)
    wanted = [
        {"image": name, "width": 96, "height": 96, "model": "model.onnx", "origin": "corner"}
        | {"keypoints": whole["keypoints"], "objects": objects}
        for name, objects in whole["images"].items()
    ]
    assert [len(line["objects"]) for line in wanted] == list(range(6))
    asked = ["predict", exported, listing, "--boxes", boxes, "--format", "jsonl", "--out"]
    for flags in (["-"], ["-", "--skip-bad"]):
        code, out, _ = run(capsys, *asked, *flags)
        assert code == 0
        assert [json.loads(line) for line in out.splitlines()] == wanted
    code, out, _ = run(capsys, *asked, tmp_path / "p.jsonl")
    assert f"15 objects in 6 images: {tmp_path / 'p.jsonl'}" in out
    assert [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()] == wanted


BAD_LISTS = {
    "empty": (b"\n \n", "expected one path of an image per line, got none"),
    "no text": (b"\xff\xfe\0", "expected a text file in UTF-8"),
    "a path that leads nowhere": (b"nowhere.png\n", "nowhere.png: no such image file"),
}


@pytest.mark.parametrize(("data", "words"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_a_bad_list_of_images_is_one_line(data, words, capsys, exported, tmp_path):
    (tmp_path / "list.txt").write_bytes(data)
    assert words in refused(capsys, "predict", exported, tmp_path / "list.txt")


BAD_BOXES = {
    "not JSON": ("boxes", "expected JSON"),
    "a list": ("[[1, 2, 3, 4]]", "expected JSON"),
    "a single box": ('{"NAME": [1, 2, 3, 4]}', "a single box is \\[\\[x0, y0, x1, y1\\]\\]"),
    "turned around": ('{"NAME": [[9, 9, 1, 1]]}', "x0 < x1"),
    "no entry": ('{"other.png": []}', "boxes.json: no entry for 1 of 1 images: .*; the names in it are other.png"),
    "beyond a float": ('{"NAME": [[0, 0, 1e300, 1e300]]}', "reaches beyond 16777216 px"),
    "51 GB": ('{"NAME": [[0, 0, 10000000, 10000000]]}', "is 1.042e\\+05 times as long as its 96x96 image"),
    "slow": ('{"NAME": [[0, 0, 1000000, 1000000]]}', "times as long as its 96x96 image, expected at most 20"),
    "off the picture": ('{"NAME": [[200, 0, 300, 50]]}', "lies outside its 96x96 image"),
    "fractions": ('{"NAME": [[0.1, 0.2, 0.7, 0.8]]}', "looks like fractions of the image: multiply its edges by"),
}


@pytest.mark.parametrize(("text", "words"), BAD_BOXES.values(), ids=BAD_BOXES)
def test_bad_boxes_are_one_line(text, words, capsys, exported, gauge_files, tmp_path):
    picture = sorted((gauge_files / "test").glob("*.png"))[0]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(text.replace("NAME", picture.name))
    assert re.search(words, refused(capsys, "predict", exported, picture, "--boxes", boxes))


def test_a_text_that_is_no_list_of_images_is_called_so(capsys, onnx_file, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("hello\nworld\n")
    line = refused(capsys, "predict", onnx_file, notes)
    assert line.endswith(
        "read as a list of images, one path per line, but none of its 2 lines is the path of a file: 'hello'"
    )
    notes.write_text("a\0.jpg\n")
    assert "got one with a NUL character in line 1" in refused(capsys, "predict", onnx_file, notes)


def test_a_picture_given_twice_has_its_points_once_in_json_and_a_line_each_time(
    capsys, onnx_file, gauge_files, tmp_path
):
    picture = sorted((gauge_files / "test").glob("*.png"))[0]
    for form, count in (("keylite", 1), ("jsonl", 2)):
        out = tmp_path / form
        code, said, err = run(capsys, "predict", onnx_file, picture, picture, "--format", form, "--out", out)
        assert code == 0, err
        assert said.startswith("1 object in 1 image: " if count == 1 else "2 objects in 2 images: ")
        text = out.read_text()
        assert len(json.loads(text)["images"] if count == 1 else text.splitlines()) == count
