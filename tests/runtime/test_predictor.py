"""A predictor puts points back where they are in the image, one object a box."""

from __future__ import annotations

import itertools
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from keylite.data.formats.coco_writing import coco_of
from keylite.prediction.prelabels import points_of_images
from keylite.runtime import predictor as module
from keylite.runtime.geometry import whole_box
from keylite.runtime.heads import HEADS
from keylite.runtime.images import Picture, open_image, read_image, write_image
from keylite.runtime.keypoints import Keypoints
from keylite.runtime.predictor import Found, Predictor
from keylite.runtime.spec import Confidence, DataId

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


def test_a_predictor_says_in_a_line_what_it_is(finder: Predictor, onnx_file: Path):
    network = "lite0, regression head, 64x64 px, 4 keypoints"
    assert repr(finder) == f"Predictor(a network in memory: {network})"
    assert repr(Predictor(onnx_file)) == f"Predictor({onnx_file.name} by onnx: {network})"


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


@pytest.mark.parametrize(("times", "box"), [(8, None), (16, None), (32, None), (16, [41.3, 22.8, 158.9, 119.1])])
def test_a_jpeg_decoded_smaller_gives_the_same_points(times: int, box: list[float] | None, finder: Predictor):
    """Of the whole picture, 64 px see it at 1/20 to 1/80."""
    large = cv2.resize(picture(), None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    boxes = None if box is None else [[edge * times for edge in box]]
    (crop,) = finder.crops(large, boxes)
    assert crop.reduction > 1
    found, whole = finder(data, boxes), finder(read_image(data), boxes)
    assert np.abs(found.xy - whole.xy).max() * crop.scale < 0.05  # px of the crop; measured 0.02


@pytest.mark.parametrize("empty", [[], (), np.zeros((0, 4))], ids=["list", "tuple", "array"])
def test_an_empty_list_of_boxes_finds_nothing(finder: Predictor, empty: object):
    found = finder(picture(), empty)
    assert len(found) == 0
    assert (found.xy.shape, found.score.shape, found.boxes.shape) == ((0, 4, 2), (0, 4), (0, 4))
    assert found.to_dict()["objects"] == []
    assert finder.engine.batches == [], "the engine is not asked"


def test_a_single_box_says_how_to_wrap_it(finder: Predictor):
    with pytest.raises(ValueError, match=r"got \(4,\); a single box is \[\[x0, y0, x1, y1\]\]"):
        finder(picture(), [40, 20, 120, 100])


NO_CROP = {
    "off the image": ([200, 0, 300, 50], "lies outside its 160x120 image"),
    "a million px": ([0, 0, 1e6, 1e6], "is 6250 times as long as its 160x120 image"),
    "fractions": ([0.1, 0.2, 0.6, 0.7], "looks like fractions of the image: multiply"),
}


@pytest.mark.parametrize(("box", "words"), NO_CROP.values(), ids=NO_CROP)
def test_a_box_that_cannot_be_cropped_is_refused_and_a_stream_goes_on(finder: Predictor, box: list, words: str):
    with pytest.raises(ValueError, match=words):
        finder(picture(), [[40, 20, 120, 100], box])
    bad: list[Exception] = []
    asked = [(picture(), [box]), (picture(), [[40, 20, 120, 100]])]
    found = list(finder.stream(asked, on_bad=lambda _, error: bad.append(error)))
    assert (len(found), len(bad)) == (1, 1)
    assert str(bad[0]).startswith("image 0: box")
    assert finder.engine.batches == [1], "nothing is asked of the engine for the bad one"


def test_a_picture_of_one_pixel_is_whole_without_boxes(finder: Predictor):
    assert finder(np.full((1, 1, 3), 255, np.uint8)).boxes.tolist() == [[0, 0, 1, 1]]


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
    """The longer side of the crop, 64 of 48 px, is 100 and 800/3 px of the image: so much more distance of a score."""
    knots = ((0.5, 0.04), (1.0, 0.02))
    fitted = Confidence((0.2, 0.2, 0.4, 0.4), knots, (1.0, 2.0, 1.0, 2.0), 60, DataId("val", "f" * 64))
    spec = msgspec.structs.replace(finder.spec, confidence=fitted, padding=0.0, size=(64, 48))
    scores = np.array([[0.2, 0.1, 0.6, np.nan]] * 2, np.float32)  # 1, 0.5 and 1.5 times the usual ones
    known = Predictor.of(finder.engine, spec)
    crops = known.crops(picture(), [[0, 0, 100, 60], [0, 0, 100, 200]])
    sides = [100, 800 / 3]
    found = known.sigma(scores, crops)
    each = np.array([0.02, 2 * 0.04, 0.02, np.nan])
    np.testing.assert_allclose(found, each * np.array(sides)[:, None], rtol=1e-6)
    assert np.isnan(finder.sigma(scores, crops)).all()
    dimmer = known.sigma(0.9 * scores, crops)  # stands at 0.9 ** 3 of where it stood
    np.testing.assert_allclose(dimmer[:, 0] / found[:, 0], (0.02 + (1 - 0.9**3) * 0.04) / 0.02, rtol=1e-5)


def test_a_predictor_in_memory_has_no_file(finder: Predictor):
    assert (finder.path, finder.sha256, finder.engine_name) == (None, None, "memory")


# ---- a stream

PATIENCE = 20  # seconds that a wait may last which should not last any


def readers() -> list[threading.Thread]:
    """The threads of streams that have not ended."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("keylite-reader")]


def same(found: Keypoints, wanted: Keypoints) -> bool:
    """Whether two results have the same figures to the last bit."""
    names = ("xy", "score", "sigma", "boxes")
    return all(np.array_equal(getattr(found, name), getattr(wanted, name), equal_nan=True) for name in names)


MIXED = {  # what is in one stream: boxes of each image, batches that the engine gets of 3 at most
    "whole images": ([None] * 7, [3, 3, 1]),
    "several objects": ([[[40, 20, 120, 100]] * 2, [[30, 30, 130, 95]] * 5, [[40, 20, 120, 100]]], [3, 3, 2]),
    "images without any": ([[], None, [], [], None, []], [2]),
    "nothing but such": ([[], []], []),
    "more in one than in a batch": ([None, [[40, 20, 120, 100]] * 7, None], [3, 3, 3]),
    "no image": ([], []),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("boxes", "batches"), MIXED.values(), ids=MIXED)
def test_a_stream_gives_what_calls_give_in_full_batches(finder: Predictor, boxes: list, batches: list[int], threads):
    images = [np.roll(picture(), 5 * shift, axis=1) for shift in range(len(boxes))]
    found = list(finder.stream(zip(images, boxes, strict=True), readers=threads))
    assert finder.engine.batches == batches
    assert [one.source is image for one, image in zip(found, images, strict=True)] == [True] * len(images)
    assert all(same(one.points, finder(image, of)) for one, image, of in zip(found, images, boxes, strict=True))
    assert [one.size for one in found] == [(160, 120)] * len(images)
    if len(images) > 1 and batches:
        assert len({one.points.xy.tobytes() for one in found}) > 1, "another image must give other points"
    assert readers() == []


@pytest.mark.parametrize("name", HEADS)
def test_a_stream_of_every_head_is_the_same_to_the_last_bit(name: str, make_spec):
    head = HEADS[name](4, 8, (64, 64))
    fitted = Confidence((0.2,) * 4, ((0.5, 0.04), (1.0, 0.02)), (1.0, 2.0, 1.0, 2.0), 60, DataId("val", "f" * 64))
    weights = np.random.default_rng(0).normal(0, 0.02, (64, 4 * head.channels)).astype(np.float32)

    def engine(pixels: np.ndarray) -> np.ndarray:  # crop by crop: a product of another shape rounds otherwise
        return np.stack([(crop[32, :, 0] @ weights).reshape(4, head.channels) for crop in pixels.astype(np.float32)])

    predictor = Predictor.of(engine, make_spec(head=head, confidence=fitted), batch=5)
    images = list(np.random.default_rng(1).integers(0, 256, (13, 70, 90, 3), np.uint8))
    found = [one.points for one in predictor.stream(images)]
    assert [same(points, predictor(image)) for points, image in zip(found, images, strict=True)] == [True] * 13
    assert len({points.xy.tobytes() for points in found}) == 13


def test_a_stream_takes_paths_and_bytes_and_arrays(finder: Predictor, tmp_path: Path):
    path = tmp_path / "dots.png"
    write_image(path, picture())
    sources = [path, str(path), path.read_bytes(), picture(), (path, [BOXES["wide"]])]
    found = list(finder.stream(iter(sources)))
    assert [one.source for one in found[:3]] == sources[:3]
    assert found[4].source is path
    assert all(same(one.points, finder(picture())) for one in found[:4])
    assert same(found[4].points, finder(picture(), [BOXES["wide"]]))


def test_a_stream_holds_few_images(finder: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of inputs without end it takes what its docstring says; of decoded images there are as many as readers."""
    path = tmp_path / "dots.png"
    write_image(path, picture())
    taken, held, most = itertools.count(), 0, 0
    lock = threading.Lock()

    def drop() -> None:
        nonlocal held
        with lock:
            held -= 1

    def counted(source: Path, limit: float, _white: int) -> Picture:
        nonlocal held, most
        image = read_image(source, limit)
        with lock:
            held += 1
            most = max(most, held)
        weakref.finalize(image, drop)
        return open_image(image)

    def endless() -> Iterator[Path]:
        for _ in taken:
            yield path

    monkeypatch.setattr(module, "open_image", counted)
    stream = finder.stream(endless(), readers=2)
    for given in range(50):
        next(stream)
        assert next(taken) - 2 * given <= 3 * 3 + 2, "the batch is of 3; counting takes one, too"
    stream.close()
    assert 1 <= most <= 2
    assert readers() == []


def test_boxes_count_as_images_do(finder: Predictor):
    taken: list[int] = []
    images = ((picture(), [BOXES["wide"]] * 6) for _ in iter(lambda: taken.append(0), 1))
    stream = finder.stream(images, readers=1)
    next(stream)
    stream.close()
    assert len(taken) <= 3, "six crops fill two batches"


def test_images_are_read_while_the_engine_runs(make_spec, monkeypatch: pytest.MonkeyPatch):
    """The first call of the engine does not end before an image beyond its batch was read."""
    beyond, seen = threading.Event(), itertools.count(1)

    def counted(source: np.ndarray, limit: float, _white: int) -> Picture:
        if next(seen) > 3:
            beyond.set()
        return open_image(source)

    class Waiting(Finder):
        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            assert beyond.wait(PATIENCE)
            return super().__call__(pixels)

    monkeypatch.setattr(module, "open_image", counted)
    predictor = Predictor.of(Waiting(), make_spec(), batch=3)
    assert len(list(predictor.stream([picture()] * 9, readers=1))) == 9


def test_images_are_read_at_a_time(finder: Predictor, monkeypatch: pytest.MonkeyPatch):
    """Three readers meet; with fewer the barrier would break."""
    barrier = threading.Barrier(3, timeout=PATIENCE)

    def meeting(source: np.ndarray, limit: float, _white: int) -> Picture:
        barrier.wait()
        return open_image(source)

    monkeypatch.setattr(module, "open_image", meeting)
    assert len(list(finder.stream([picture()] * 6, readers=3))) == 6


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {  # what comes third in a stream, what is said of it
    "no file": (lambda folder: folder / "none.png", r"none\.png: no such image file"),
    "no image": (lambda folder: folder / "text.png", r"text\.png: not an image that keylite reads"),
    "a bad box": (lambda folder: (str(folder / "dots.png"), [[9, 9, 1, 1]]), r"dots\.png: boxes: expected x0 < x1"),
    "grey": (lambda folder: np.zeros((9, 9), np.uint8), r"image 2: image: expected a uint8 array"),
    "half a file": (lambda folder: (folder / "dots.png").read_bytes()[:200], "image 2: image bytes"),
    "nothing": (lambda folder: None, "image 2: image: expected a path, bytes or a uint8 array"),
    "three in a pair": (lambda folder: (1, 2, 3), "image 2: image: expected a path, bytes or a uint8 array"),
    "nothing of the kind": (lambda folder: 7, "image 2: image: expected a path, bytes or a uint8 array"),
}


@pytest.mark.parametrize(("make", "words"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_ends_a_stream_or_is_left_out(make, words: str, finder: Predictor, tmp_path: Path):
    write_image(tmp_path / "dots.png", picture())
    (tmp_path / "text.png").write_text("text")
    images = [picture(), picture(), make(tmp_path), *[picture()] * 20]
    with pytest.raises((ValueError, OSError), match=rf"^(.*/)?{words}"):
        list(finder.stream(images))
    assert readers() == []
    bad: list[tuple[object, str]] = []
    found = list(finder.stream([*images, images[2]], on_bad=lambda source, error: bad.append((source, str(error)))))
    assert len(found) == 22
    assert len(bad) == 2 and bad[0][0] is (images[2][0] if words.startswith("dots") else images[2])


def test_an_error_that_is_no_image_s_ends_a_stream(make_spec):
    def broken(pixels: np.ndarray) -> np.ndarray:
        raise RuntimeError("engine")

    def images() -> Iterator[np.ndarray]:
        yield picture()
        raise RuntimeError("input")

    for engine, given, words in ((broken, [picture()] * 9, "engine"), (Finder(), images(), "input")):
        stream = Predictor.of(engine, make_spec(), batch=2).stream(given, on_bad=lambda *_: None)
        with pytest.raises(RuntimeError, match=words):
            list(stream)
        assert readers() == [], words


def test_a_stream_that_is_left_stops_its_threads(finder: Predictor):
    stream = finder.stream(itertools.repeat(picture()), readers=2)
    assert isinstance(next(stream), Found)
    assert 1 <= len(readers()) <= 2
    stream.close()
    assert readers() == []
    for _ in finder.stream(itertools.repeat(picture()), readers=2):
        break  # nothing holds it any more
    assert readers() == []


BAD_STREAMS = {
    "no readers": ({"readers": 0}, [], "readers: expected a whole number of at least 1, got 0"),
    "a single path": (
        {},
        "photo.jpg",
        r"images: expected several images, got 'photo.jpg'; give a single one as \[image\]",
    ),
    "boxes by image": (
        {},
        {"a.jpg": [[0, 0, 9, 9]]},
        r"images: expected pairs \(image, boxes\), got a dict; give",
    ),
    "nothing": ({}, None, "images: expected several images, got None"),
    "a single file's bytes": ({}, b"\xff\xd8", "images: expected several images, got b"),
}


@pytest.mark.parametrize(("choices", "images", "words"), BAD_STREAMS.values(), ids=BAD_STREAMS)
def test_a_stream_of_nonsense_is_refused(choices: dict, images: object, words: str, finder: Predictor):
    with pytest.raises(ValueError, match=f"^{words}"):
        list(finder.stream(images, **choices))


@pytest.mark.parametrize("batch", [0, -1, 2.5, "3", None, True])
def test_a_batch_that_is_no_count_is_refused(batch: object, make_spec):
    with pytest.raises(ValueError, match=f"^batch: expected a whole number of at least 1, got {batch!r}$"):
        Predictor.of(Finder(), make_spec(), batch=batch)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^batch: expected a whole number of at least 1, got {batch!r}$"):
        Predictor("none.onnx", batch=batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0, -1, float("nan"), "9", None])
def test_a_limit_of_pixels_that_is_none_is_refused(limit: object):
    with pytest.raises(ValueError, match=f"^max_megapixels: expected a number above 0, got {limit!r}$"):
        Predictor("none.onnx", max_megapixels=limit)  # type: ignore[arg-type]


def test_a_file_s_name_is_a_path():
    with pytest.raises(ValueError, match="^model: expected a path, got a number"):
        Predictor(3)  # type: ignore[arg-type]


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


def test_a_keypoint_that_nothing_taught_is_nan(finder: Predictor, make_spec, tmp_path):
    spec = make_spec(unlearnt={"chin": 0, "nose": 2})
    points = Predictor.of(Finder(), spec)(picture(), [[40, 20, 120, 100]])
    before = finder(picture(), [[40, 20, 120, 100]])
    assert np.isnan(points.xy[:, 3]).all()
    np.testing.assert_array_equal(points.xy[:, :3], before.xy[:, :3])
    (found,) = points.to_dict()["objects"]
    assert found["xy"][3] == [None, None]
    write_image(tmp_path / "a.png", picture())
    found = {"a.png": Found(tmp_path / "a.png", points, (160, 120))}
    data, scores = points_of_images(found, Predictor.of(Finder(), spec))
    written = json.loads(coco_of(data, data.xy, scores))["annotations"][0]
    assert written["keypoints"][9:] == [0, 0, 0]
    assert written["keypoints"][2::3] == [2, 2, 2, 0]
    assert written["num_keypoints"] == 3


def test_infinite_points_of_a_damaged_file_come_without_a_warning(make_spec):
    raw = np.full((1, 4, 2), np.inf, np.float32)
    points = Predictor.of(lambda _: raw, make_spec())(picture(), [[40, 20, 120, 100]])
    assert not np.isfinite(points.xy).any()


def test_an_engine_s_own_array_is_left_alone(make_spec):
    raw = np.full((1, 4, 2), 0.5, np.float32)
    raw.flags.writeable = False
    unit_xy, _ = Predictor.of(lambda pixels: raw, make_spec(unlearnt={"chin": 0})).run(
        np.zeros((1, 64, 64, 3), np.uint8)
    )
    assert np.isnan(unit_xy[0, 3]).all()
    assert (raw == 0.5).all()
