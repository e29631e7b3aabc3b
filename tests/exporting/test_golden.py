"""Golden vectors are what the predictor does, step by step, so that a port can be compared with each."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.exporting.golden import CASES, require_new_vectors, write_golden
from keylite.runtime.files import sha256
from keylite.runtime.images import write_image
from keylite.runtime.predictor import Predictor
from keylite.runtime.spec import ModelSpec


@pytest.fixture(scope="module")
def objects(make_spec) -> Dataset:
    """Three images of unlike sizes with boxes, one of them over an edge."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in ((90, 120), (200, 80), (64, 64))]
    boxes = np.array([[10.0, 5, 80, 75], [-20, -10, 50, 60], [3.5, 4.25, 40, 60]])
    return from_arrays(images, rng.uniform(10, 50, (3, 4, 2)), skeleton=make_spec().skeleton, boxes=boxes)


FILES = {"onnx": "onnx_file", "litert": "litert_file", "onnx heatmap": "heatmap_onnx_file"}


@pytest.fixture(params=FILES, scope="module")
def written(request: pytest.FixtureRequest, objects: Dataset, tmp_path_factory) -> tuple[Path, dict, Path]:
    """A folder of golden vectors, its golden.json, the model."""
    model = request.getfixturevalue(FILES[request.param])
    folder = tmp_path_factory.mktemp("golden") / "new" / "folder"
    path = write_golden(model, objects, folder)
    assert path == folder / "golden.json"
    return folder, json.loads(path.read_text()), model


def test_all_objects_are_there_and_the_model_is_named(written, objects: Dataset):
    folder, facts, model = written
    assert {path.name for path in folder.iterdir()} == {"golden.json"} | {
        f"crop_{row}.{kind}" for row in range(3) for kind in ("png", "bin")
    }
    assert len(facts["cases"]) == 3
    assert (facts["model"], facts["sha256"], facts["size"]) == (model.name, sha256(model), [64, 64])
    assert facts["keypoints"] == list(objects.skeleton.names)
    assert facts["engine"] == {".onnx": "onnx", ".tflite": "litert"}[model.suffix]


def test_the_two_files_of_a_crop_hold_the_predictor_s_pixels(written, objects: Dataset):
    folder, facts, model = written
    predictor = Predictor(model)
    for row, case in enumerate(facts["cases"]):
        pixels = np.fromfile(folder / f"{case['crop']}.bin", np.uint8).reshape(64, 64, 3)
        drawn = cv2.imread(str(folder / f"{case['crop']}.png"))[..., ::-1]
        image = objects.read_image(row)
        assert np.array_equal(pixels, drawn), "a PNG of a crop loses nothing"
        assert np.array_equal(pixels, predictor.crops(image, objects.box[row : row + 1])[0].warp(image))


def test_each_step_follows_from_the_one_before(written, objects: Dataset):
    """As a port does it: pixels, raw, unit, image, and the same points from the predictor in one go."""
    folder, facts, model = written
    predictor = Predictor(model)
    for row, case in enumerate(facts["cases"]):
        pixels = np.fromfile(folder / f"{case['crop']}.bin", np.uint8).reshape(1, 64, 64, 3)
        raw = np.array(case["raw"], np.float32)[None]
        np.testing.assert_allclose(predictor.engine(pixels), raw, atol=1e-5)
        unit_xy = np.array(case["unit_xy"])
        np.testing.assert_allclose(predictor.spec.head.decode(raw)[0][0], unit_xy, atol=1e-5)
        matrix = np.array(case["matrix"])
        xy = (unit_xy * facts["size"]) @ matrix[:, :2].T + matrix[:, 2]
        np.testing.assert_allclose(xy, case["xy"], atol=1e-4)
        points = predictor(objects.read_image(row), objects.box[row : row + 1])
        np.testing.assert_allclose(points.xy[0], case["xy"], atol=1e-3)
    assert np.std([case["unit_xy"] for case in facts["cases"]], axis=0).max() > 1e-3, "they are not all the same"


def test_a_keypoint_that_nothing_taught_has_no_point(objects: Dataset, onnx_file: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(ModelSpec, "untaught", property(lambda _spec: [1]))
    (case, *_) = json.loads(write_golden(onnx_file, objects, tmp_path).read_text())["cases"]
    assert [point is None for point in case["xy"]] == [False, True, False, False]
    assert np.isfinite(case["unit_xy"]).all(), "what decoding gives, and a port must"


def test_no_picture_of_the_data_is_written_over(onnx_file: Path, make_spec, tmp_path: Path):
    picture = tmp_path / "crop_0.png"
    write_image(picture, np.zeros((40, 40, 3), np.uint8))
    data = from_arrays([picture], np.full((1, 4, 2), 9.0), skeleton=make_spec().skeleton, boxes=[[5, 5, 35, 35]])
    before = picture.read_bytes()
    for write in (write_golden, lambda *given: require_new_vectors(given[2], given[1])):
        with pytest.raises(ValueError, match=r"crop_0\.png: .* is an input, too; give each a file of its own"):
            write(onnx_file, data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["crop_0.png"]
    assert picture.read_bytes() == before


@pytest.mark.parametrize(("count", "made"), [(2, 2), (50, 12), (None, CASES)])
def test_as_many_as_asked_for_or_as_there_are(count, made, onnx_file: Path, make_spec, tmp_path: Path):
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (12, 40, 40, 3), np.uint8))
    boxes = np.tile([5.0, 5, 35, 35], (12, 1))
    data = from_arrays(images, rng.uniform(5, 35, (12, 4, 2)), skeleton=make_spec().skeleton, boxes=boxes)
    path = write_golden(str(onnx_file), data, str(tmp_path), *([] if count is None else [count]))
    assert len(json.loads(path.read_text())["cases"]) == made
    assert len(list(tmp_path.glob("*.bin"))) == made
