"""A predictor puts points back where they are in the image, one object a box."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from keylite.runtime.geometry import whole_box
from keylite.runtime.images import write_image
from keylite.runtime.predictor import Keypoints, Predictor
from keylite.runtime.spec import Confidence

DOTS = np.array([[60.5, 40.5], [90.5, 45.5], [75.5, 70.5], [100.5, 80.5]])  # of four keypoints
GREYS = (60, 110, 180, 255)  # that tell them apart


def picture(width: int = 160, height: int = 120) -> np.ndarray:
    """Black, with a soft dot of its own brightness at each of DOTS."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    light = sum(g * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8) for (cx, cy), g in zip(DOTS, GREYS, strict=True))
    return np.repeat(np.rint(light).astype(np.uint8)[..., None], 3, axis=2)


class Finder:
    """An engine that finds the four brightest separate dots; notes how many crops it was given at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (64, 64, 3)
        self.batches.append(len(pixels))
        return np.stack([self.points(crop[..., 0].astype(np.float64)) for crop in pixels]).astype(np.float32)

    def points(self, light: np.ndarray) -> np.ndarray:
        found = []
        rows, columns = np.indices(light.shape) + 0.5
        for _ in GREYS:
            row, column = np.unravel_index(light.argmax(), light.shape)
            near = (np.abs(rows - row - 0.5) < 5) & (np.abs(columns - column - 0.5) < 5)
            weight = light * near
            found.append([(weight * columns).sum() / weight.sum() / 64, (weight * rows).sum() / weight.sum() / 64])
            light = np.where(near, 0, light)
        return np.array(found[::-1])


@pytest.fixture
def finder(make_spec) -> Predictor:
    return Predictor.of(Finder(), make_spec(), batch=3)


BOXES = {
    "around the dots": [40, 20, 120, 100],
    "wide": [30, 30, 130, 95],
    "beyond the image": [30, -40, 190, 120],
    "between pixels": [41.3, 22.8, 118.9, 99.1],
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_points_are_where_they_are_in_the_image(finder: Predictor, box: list[float]):
    found = finder(picture(), [box])
    assert np.abs(found.xy[0] - DOTS).max() < 0.2  # measured .12, where the reduction is largest
    assert found.boxes.tolist() == [box], "as asked for, not as padded"
    assert found.skeleton is finder.spec.skeleton


def test_no_boxes_is_the_whole_image_without_padding(finder: Predictor):
    image = picture()
    found = finder(image)
    assert len(found) == 1
    assert found.boxes.tolist() == [[0, 0, 160, 120]]
    assert np.abs(found.xy[0] - DOTS).max() < 0.1  # measured .02
    (crop,) = finder.crops(image)
    assert crop.matrix[0, 0] == pytest.approx(64 / 160)


def test_an_annotations_box_grows_by_the_padding_and_an_image_does_not(make_spec):
    image = picture()
    for box_rule, scale in (("annotation", 64 / 80 / 1.25), ("image", 64 / 80)):
        predictor = Predictor.of(Finder(), make_spec(box=box_rule))
        (crop,) = predictor.crops(image, [[40, 20, 120, 100]])
        assert crop.matrix[0, 0] == pytest.approx(scale), box_rule


@pytest.mark.parametrize("empty", [[], (), np.zeros((0, 4))], ids=["list", "tuple", "array"])
def test_an_empty_list_of_boxes_finds_nothing(finder: Predictor, empty: object):
    found = finder(picture(), empty)
    assert len(found) == 0
    assert (found.xy.shape, found.score.shape, found.boxes.shape) == ((0, 4, 2), (0, 4), (0, 4))
    assert found.to_dict()["objects"] == []
    assert finder.engine.batches == [], "the engine is not asked"


def test_a_single_box_says_how_to_wrap_it(finder: Predictor):
    with pytest.raises(ValueError, match=r"got \(4,\); wrap a single box as boxes\[None\]"):
        finder(picture(), [40, 20, 120, 100])


def test_many_boxes_go_in_batches_and_come_back_in_order(finder: Predictor):
    boxes = np.array([[40 - k, 20 - 2 * k, 120 + k, 100 + k] for k in range(8)], np.float64)
    together = finder(picture(), boxes)
    assert finder.engine.batches == [3, 3, 2]
    alone = np.concatenate([finder(picture(), box[None]).xy for box in boxes])
    assert np.array_equal(together.xy, alone)
    assert np.array_equal(together.boxes, boxes)


def test_plain_values_for_json(finder: Predictor):
    found = finder(picture(), [BOXES["wide"]])
    plain = found.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["origin"] == "corner"
    assert plain["keypoints"] == ["nose", "left_eye", "right_eye", "chin"]
    (entry,) = plain["objects"]
    assert entry["box"] == [30, 30, 130, 95]
    assert entry["xy"] == found.xy[0].tolist()
    assert entry["score"] == [None] * 4, "NaN is null"
    assert entry["sigma"] == [None] * 4, "no score, no sigma"


def test_an_unknown_point_is_null(finder: Predictor):
    xy = np.array([[[1.5, 2.5], [np.nan, np.nan], [3, 4], [5, 6]]])
    score = np.array([[0.5, np.nan, 1, 0]], np.float32)
    sigma = np.array([[2.0, np.nan, 0.5, 4]])
    (entry,) = Keypoints(xy, score, sigma, whole_box(picture())[None], finder.spec.skeleton).to_dict()["objects"]
    assert entry["xy"] == [[1.5, 2.5], [None, None], [3, 4], [5, 6]]
    assert entry["score"] == [0.5, None, 1, 0]
    assert entry["sigma"] == [2, None, 0.5, 4]


def test_sigma_is_in_px_of_the_image(finder: Predictor):
    """The longer side of the crop is 100 and 200 px of the image: the same score promises twice the distance."""
    knots = ((0.5, 0.04), (1.0, 0.02))
    fitted = Confidence((0.2, 0.2, 0.4, 0.4), knots, (1.0, 2.0, 1.0, 2.0), 60, "val", "f" * 64)
    spec = msgspec.structs.replace(finder.spec, confidence=fitted, padding=0.0)
    scores = np.array([[0.2, 0.1, 0.6, np.nan]] * 2, np.float32)  # 1, 0.5 and 1.5 times the usual ones
    known = Predictor.of(finder.engine, spec)
    crops = known.crops(picture(), [[0, 0, 100, 60], [0, 0, 100, 200]])
    sides = [max(crop.size) / crop.scale for crop in crops]
    found = known.sigma(scores, crops)
    each = np.array([0.02, 2 * 0.04, 0.02, np.nan])
    np.testing.assert_allclose(found, each * np.array(sides)[:, None], rtol=1e-6)
    assert sides[1] == pytest.approx(max(spec.size) / min(spec.size[0] / 100, spec.size[1] / 200))
    assert np.isnan(finder.sigma(scores, crops)).all()
    dimmer = known.sigma(0.9 * scores, crops)  # stands at 0.9 ** 3 of where it stood
    np.testing.assert_allclose(dimmer[:, 0] / found[:, 0], (0.02 + (1 - 0.9**3) * 0.04) / 0.02, rtol=1e-5)


def test_a_predictor_in_memory_has_no_file(finder: Predictor):
    assert (finder.path, finder.sha256, finder.engine_name) == (None, None, "memory")


# ---- with a file


def test_a_path_an_array_and_bytes_give_the_same(onnx_file: Path, tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    path = tmp_path / "image.png"
    write_image(path, image)
    predictor = Predictor(onnx_file)
    boxes = [[5, 10, 60, 70]]
    expected = predictor(image, boxes).xy
    for source in (path, str(path), path.read_bytes()):
        assert np.array_equal(predictor(source, boxes).xy, expected), type(source)


def test_what_is_no_image_is_refused(onnx_file: Path, tmp_path: Path):
    predictor = Predictor(onnx_file, max_megapixels=0.001)
    with pytest.raises(FileNotFoundError, match="no such image file"):
        predictor(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"image: expected a uint8 array \(H, W, 3\) RGB, got float64"):
        predictor(np.zeros((20, 20, 3)))
    write_image(tmp_path / "large.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(ValueError, match="expected at most 0.001 megapixels, got 40x40"):
        predictor(tmp_path / "large.png")


def test_more_crops_than_a_batch_give_the_same(onnx_file: Path, crops: np.ndarray):
    few, many = (Predictor(onnx_file, batch=batch).run(crops)[0] for batch in (2, 32))
    assert few.shape == (7, 4, 2)
    assert np.abs(few - many).max() < 1e-4


def test_the_sha256_is_the_files(onnx_file: Path):
    from keylite.runtime.files import sha256

    assert Predictor(onnx_file).sha256 == sha256(onnx_file)


FRAMEWORKS = ("torch", "torchvision", "timm", "lightning", "safetensors", "tensorflow", "keras", "onnx", "onnxscript")


def test_an_exported_file_needs_no_framework(onnx_file: Path, tmp_path: Path, python):
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    path = tmp_path / "image.png"
    write_image(path, image)
    code = f"""
import json, keylite
points = keylite.Predictor({str(onnx_file)!r}, threads=1)({str(path)!r}, boxes=[[10, 20, 70, 75.5]])
print(json.dumps(points.to_dict()))
"""
    found = json.loads(python(code, missing=FRAMEWORKS))
    expected = Predictor(onnx_file)(image, [[10, 20, 70, 75.5]]).xy
    assert np.abs(np.array(found["objects"][0]["xy"]) - expected[0]).max() < 0.01
