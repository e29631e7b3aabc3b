"""Predicted points as a COCO file, written from a stream."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.runtime.images import write_image


@pytest.fixture
def predictor(make_spec) -> keylite.Predictor:
    """It gives the middle of the crop for every keypoint."""
    return keylite.Predictor.of(
        lambda pixels: np.full((len(pixels), 4, 2), 0.5, np.float32), make_spec(box="annotation")
    )


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, np.zeros((40, 60, 3), np.uint8))
    return [tmp_path / "a.png", tmp_path / "b.png"]


def test_a_stream_is_written_as_coco(predictor, paths, tmp_path):
    boxes = [[10, 10, 30, 20], [0, 0, 60, 40]]
    out = tmp_path / "points.json"
    keylite.write_coco_points(predictor.stream([(paths[0], boxes), str(paths[1]), paths[1]]), out)
    written = json.loads(out.read_text())
    assert [(image["file_name"], image["width"], image["height"]) for image in written["images"]] == [
        (str(path), 60, 40) for path in paths
    ]
    assert [one["image_id"] for one in written["annotations"]] == [1, 1, 2]
    first = written["annotations"][0]
    assert (first["bbox"], first["num_keypoints"]) == ([10, 10, 20, 10], 4)
    np.testing.assert_allclose(first["keypoints"], [19.5, 14.5, 2] * 4, atol=1e-5)
    assert written["categories"][0]["keypoints"] == list(predictor.spec.skeleton.names)
    data = keylite.read_dataset(out, images=tmp_path)
    np.testing.assert_allclose(data.xy[0], [[20, 15]] * 4, atol=1e-5)


POINTS = "found: expected images with "
REFUSED = {
    "no stream": (lambda found: 5, f"{POINTS}paths, got a number; give predictor.stream"),
    "one image's points": (lambda found: next(found).points, f"{POINTS}paths, got a Keypoints"),
    "nothing": (lambda found: [], f"{POINTS}their points, got none"),
    "images without a path": (lambda found: [next(found)._replace(source=b"x")], f"{POINTS}paths, got bytes"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_stream_of_paths_is_refused(change, words, predictor, paths, tmp_path):
    with pytest.raises(keylite.ArgumentError) as refusal:
        keylite.write_coco_points(change(predictor.stream(paths)), tmp_path / "points.json")
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "points.json").exists()


def test_an_image_is_not_written_over(predictor, paths, tmp_path):
    before = paths[0].read_bytes()
    with pytest.raises(keylite.ArgumentError, match=r"^path: .*a\.png is an input, too"):
        keylite.write_coco_points(predictor.stream(paths), paths[0])
    assert paths[0].read_bytes() == before


def test_a_picture_that_cannot_be_used_leaves_no_file(predictor, paths, tmp_path):
    paths[1].write_bytes(b"no picture")
    with pytest.raises(keylite.ImageError, match=r"b\.png"):
        keylite.write_coco_points(predictor.stream(paths), tmp_path / "points.json")
    assert not (tmp_path / "points.json").exists()
    keylite.write_coco_points(predictor.stream(paths, on_bad=lambda *_: None), tmp_path / "points.json")
    assert len(json.loads((tmp_path / "points.json").read_text())["images"]) == 1
