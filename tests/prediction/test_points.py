"""Predicted points as labels for other tools: written, and read again as labels."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.data.dataset import Dataset
from keylite.data.formats.scores import WITHIN, Scores, likelihood_of
from keylite.prediction.prelabels import PRELABELS, points_of_images, write_prelabels
from keylite.runtime.errors import DataError
from keylite.runtime.images import write_image
from keylite.runtime.keypoints import Keypoints
from keylite.runtime.predictor import Found, Predictor

NAN = float("nan")
NEAR = 1e-9
SCORE = np.array([[0.9, 0.8, 0.7, NAN], [0.6, 0.5, 0.4, NAN], [0.25, 0.35, 0.45, NAN]], np.float32)
SIGMA = np.array([[1.0, 2, 3, NAN], [1.5, 2.5, 3.5, NAN], [4.0, 5, 6, NAN]])
FILES = {"label-studio": "p.json", "cvat": "p.xml", "dlc": "p.csv", "csv": "p.csv", "coco": "p.json"}


@pytest.fixture
def predictor(make_spec) -> Predictor:
    """It gives the middle of the crop for every keypoint."""
    spec = make_spec(box="annotation", category="face")
    return Predictor.of(lambda pixels: np.full((len(pixels), 4, 2), 0.5, np.float32), spec)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    for name in ("a.png", "b & ü.png"):
        write_image(tmp_path / name, np.zeros((40, 60, 3), np.uint8))
    return [tmp_path / "a.png", tmp_path / "b & ü.png"]


@pytest.fixture
def points(predictor: Predictor, paths: list[Path]) -> tuple[Dataset, Scores]:
    """Two objects in the first picture and one in the second, each with boxes, scores and sigma; one point is NaN."""
    xy = np.array([[[10.25, 12], [20 / 3, 8], [11, 30.5], [NAN, NAN]]]) + np.array([[[0, 0]], [[20, 1]], [[9, 2]]])
    boxes = np.array([[2.0, 3, 28, 33], [25, 3, 55, 35], [1, 2, 41, 38]])
    found = {}
    for path, rows in zip(paths, ([0, 1], [2]), strict=True):
        made = Keypoints(xy[rows], SCORE[rows], SIGMA[rows], boxes[rows], predictor.spec.skeleton)
        found[path.name] = Found(path, made, (60, 40))
    return points_of_images(found, predictor)


def as_accepted(path: Path) -> None:
    """What Label Studio exports after somebody has accepted all predictions."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = task.pop("predictions")
    path.write_text(json.dumps(tasks))


@pytest.mark.parametrize("format", [name for name in PRELABELS if name != "coco-results"])
def test_what_is_written_is_read_again(format, points, tmp_path):
    data, scores = points
    if format == "csv":  # one object per picture
        data, scores = data.subset([1, 2]), Scores(scores.score[1:], scores.sigma[1:], scores.likelihood[1:], "m")
    out = tmp_path / FILES.get(format, "out" if format == "yolo" else "")
    write_prelabels(data, scores, out, format)
    if format == "label-studio":
        as_accepted(out)
    back = keylite.read_dataset(out, format=format)
    back = back.subset(np.lexsort((back.xy[:, 0, 0], back.image_index)))
    assert [Path(name).name for name in back.image_names] == list(data.image_names)
    names = [name for name in data.skeleton.names if name in back.skeleton.names]  # `chin` is nowhere, so it may lack
    assert names == list(data.skeleton.names) or format in ("labelme", "label-studio")
    own, other = ([each.skeleton.names.index(name) for name in names] for each in (data, back))
    np.testing.assert_allclose(back.xy[:, other], data.xy[:, own], atol=NEAR, rtol=0)
    assert back.visible[:, other].tolist() == data.visible[:, own].tolist()
    assert np.isnan(back.box).all() if format in ("dlc", "csv") else np.allclose(back.box, data.box, atol=NEAR)
    assert back.category == ("" if format in ("dlc", "csv") else "face")


def test_scores_are_where_a_format_has_a_place(points, tmp_path):
    data, scores = points
    lines = {
        format: write_prelabels(data, scores, tmp_path / format, format) for format in PRELABELS if format != "csv"
    }
    coco = json.loads((tmp_path / "coco").read_text())
    assert [one["score"] for one in coco["annotations"]] == [0.8, 0.5, 0.35]
    assert coco["categories"][0]["name"] == "face"
    results = json.loads((tmp_path / "coco-results").read_text())
    assert [(one["image_id"], one["category_id"], one["score"]) for one in results] == [
        (1, 1, 0.8), (1, 1, 0.5), (2, 1, 0.35),
    ]  # fmt: skip
    assert (
        results[0]["keypoints"] == coco["annotations"][0]["keypoints"] == [9.75, 11.5, 2, *results[0]["keypoints"][3:]]
    )
    task = json.loads((tmp_path / "label-studio").read_text())[1]
    assert task["data"]["image"] == "/data/local-files/?d=b%20%26%20%C3%BC.png"
    (made,) = task["predictions"]
    assert (made["score"], made["model_version"]) == (0.35, "keylite")
    assert [region.get("score") for region in made["result"]] == [None, 0.25, 0.35, 0.45]
    rows = list(csv.reader((tmp_path / "dlc").read_text().splitlines()))
    assert rows[3][1:4] == ["x", "y", "likelihood"] and rows[1][1] == "animal1"
    assert float(rows[4][3]) == pytest.approx(1 - np.exp(-np.pi / 4 * (WITHIN * 30 / 1.0) ** 2), abs=1e-6)
    assert rows[4][10:13] == ["", "", ""]
    assert '<points label="nose" source="auto"' in (tmp_path / "cvat").read_text()
    assert "scores of points; sigma of points" in lines["yolo"][0]
    assert lines["coco-results"] == ()


def test_a_table_has_score_and_sigma_and_is_read_with_a_note(points, tmp_path):
    data, scores = points
    one = data.subset([1, 2])
    write_prelabels(
        one, Scores(scores.score[1:], scores.sigma[1:], scores.likelihood[1:], "m"), tmp_path / "p.csv", "csv"
    )
    header, row, _ = csv.reader((tmp_path / "p.csv").read_text().splitlines())
    assert header[:5] == ["file", "nose_x", "nose_y", "nose_score", "nose_sigma"]
    assert row[3:5] == ["0.6", "1.5"]
    assert "nobody checked: columns such as nose_score" in " ".join(keylite.read_dataset(tmp_path / "p.csv").notes)


def test_labels_keep_ids_names_boxes_and_what_is_hidden(predictor, points, tmp_path):
    data = dataclasses.replace(
        points[0], ids=(7, 9, 30), image_ids=(51, 52), category="mask", groups=("ann", "ben"),
        group_index=np.array([0, 1, 1], np.int32), groups_named=True,
        visible=np.array([[2, 1, 2, 0]] * 3, np.uint8),
    )  # fmt: skip
    shuffled = data.subset([2, 0, 1])
    keylite.write_points(predictor, shuffled, tmp_path / "p.json")
    back = keylite.read_dataset(tmp_path / "p.json")
    assert (back.ids, back.image_ids, back.category) == ((30, 7, 9), (51, 52), "mask")
    assert [back.groups[each] for each in back.group_index] == ["ben", "ann", "ben"]
    np.testing.assert_allclose(back.box, shuffled.box)
    np.testing.assert_allclose(back.xy[:, 0], (shuffled.box[:, :2] + shuffled.box[:, 2:]) / 2, atol=1e-5)
    assert back.visible.tolist() == [[2, 1, 2, 2]] * 3
    keylite.write_points(predictor, shuffled, tmp_path / "r.json", format="coco-results")
    assert [one["image_id"] for one in json.loads((tmp_path / "r.json").read_text())] == [52, 51, 51]


def test_other_names_are_said_and_another_order_is_refused(predictor, points, tmp_path, caplog):
    names = points[0].skeleton.names
    other = points[0].with_skeleton(keylite.Skeleton(("beak", *names[1:])))
    keylite.write_points(predictor, other, tmp_path / "p.json")
    assert f"1 of 4 keypoint names differ, matched by position: '{names[0]}' is 'beak' in the data" in caplog.text
    turned = points[0].with_skeleton(keylite.Skeleton((names[1], names[0], *names[2:])))
    with pytest.raises(ValueError, match="the same names in another order"):
        keylite.write_points(predictor, turned, tmp_path / "q.json")
    assert not (tmp_path / "q.json").exists()


def test_names_that_are_numbers_are_the_ids_of_images(predictor, tmp_path):
    for name in ("000012.png", "000007.png"):
        write_image(tmp_path / name, np.zeros((40, 60, 3), np.uint8))
    paths = [tmp_path / "000012.png", tmp_path / "000007.png"]
    for format in ("coco", "coco-results"):
        keylite.write_points(predictor, paths, tmp_path / format, format=format)
    assert [image["id"] for image in json.loads((tmp_path / "coco").read_text())["images"]] == [12, 7]
    assert [one["image_id"] for one in json.loads((tmp_path / "coco-results").read_text())] == [12, 7]


def test_a_whole_picture_is_no_box(predictor, paths, tmp_path):
    keylite.write_points(predictor, [(paths[0], [[10, 10, 30, 20]]), str(paths[1]), paths[1]], tmp_path / "p.json")
    written = json.loads((tmp_path / "p.json").read_text())
    assert [one.get("bbox") for one in written["annotations"]] == [[10, 10, 20, 10], None]
    assert [one["id"] for one in written["annotations"]] == [1, 2]
    np.testing.assert_allclose(written["annotations"][0]["keypoints"], [19.5, 14.5, 2] * 4, atol=1e-5)


def test_labelme_files_of_somebody_stay(predictor, paths, tmp_path):
    (tmp_path / "a.json").write_text("work of days")
    with pytest.raises(keylite.ArgumentError, match=r"these files, which would be written, are there already: a\.json"):
        keylite.write_points(predictor, paths, tmp_path, format="labelme")
    assert (tmp_path / "a.json").read_text() == "work of days" and not list(tmp_path.glob("b*.json"))


def test_likelihood_falls_with_sigma():
    boxes = np.array([[0.0, 0, 100, 40]])
    likelihood = likelihood_of(np.array([[0.0, 1.25, 2.5, 25, NAN]]), boxes)[0]
    assert likelihood[0] == 1 and np.isnan(likelihood[4])
    np.testing.assert_allclose(likelihood[1:4], [0.957, 0.544, 0.0078], atol=1e-3)
    errors = np.random.default_rng(0).normal(0, 1, (20_000, 2)) * 2
    distance = np.hypot(*errors.T)
    assert likelihood_of(distance.mean()[None, None], boxes)[0, 0] == pytest.approx((distance < 2.5).mean(), abs=0.01)


REFUSED = {
    "a single path": (lambda paths: str(paths[0]), {}, "images: expected a list of images or a data set, got"),
    "arrays": (lambda paths: [np.zeros((40, 60, 3), np.uint8)], {}, "images: expected paths of images, got a ndarray"),
    "no object": (
        lambda paths: [(path, []) for path in paths],
        {},
        "predict: expected an object in some image, got none",
    ),
    "a format": (lambda paths: paths, {"format": "voc"}, "format: expected one of coco, coco-results"),
}


@pytest.mark.parametrize(("images", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_one_line(images, options, words, predictor, paths, tmp_path):
    with pytest.raises(keylite.ArgumentError) as refusal:
        keylite.write_points(predictor, images(paths), tmp_path / "p.json", **options)
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value) and not (tmp_path / "p.json").exists()


def test_several_objects_do_not_fit_a_table(points, tmp_path):
    with pytest.raises(DataError, match="one object per picture"):
        write_prelabels(*points, tmp_path / "p.csv", "csv")


def test_an_image_is_not_written_over(predictor, paths):
    before = paths[0].read_bytes()
    for format in ("coco", "coco-results"):
        with pytest.raises(keylite.ArgumentError, match=r"^out: .*a\.png is .*an input"):
            keylite.write_points(predictor, paths, paths[0], format=format)
    assert paths[0].read_bytes() == before


def test_a_picture_that_cannot_be_used_leaves_no_file(predictor, paths, tmp_path):
    shutil.copy(paths[0], tmp_path / "c.png")
    paths[1].write_bytes(b"no picture")
    with pytest.raises(keylite.ImageError, match="b & "):
        keylite.write_points(predictor, paths, tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()
    keylite.write_points(predictor, paths, tmp_path / "p.json", on_bad=lambda *_: None)
    assert len(json.loads((tmp_path / "p.json").read_text())["images"]) == 1
