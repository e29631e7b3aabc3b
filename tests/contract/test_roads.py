"""A picture gives the same pixels to a network whichever road it takes: as a path, bytes or an array, and in every verb."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from keylite.cli import main
from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.evaluation.predictions import predict_dataset
from keylite.exporting.calibration import some_crops
from keylite.exporting.golden import write_golden
from keylite.pictures.worst import draw_worst
from keylite.runtime import images
from keylite.runtime.engines import Opened
from keylite.runtime.geometry import cut
from keylite.runtime.images import open_image
from keylite.runtime.modelfile import describe, read_spec, write_tflite
from keylite.runtime.predictor import Predictor

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data" / "faces68" / "images"
BOX = np.array([101.0, 57, 421, 377])
KINDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "JPEG 4:4:4": (".jpg", (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)),
    "JPEG 4:2:0": (".jpg", (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)),
    "progressive JPEG": (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "grey JPEG": (".jpg", ()),
    "PNG": (".png", ()),
    "WebP": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 90)),
    "TIFF": (".tiff", ()),
    "12 bits in a 16-bit PNG": (".png", ()),
}
LEVELS = {"12 bits in a 16-bit PNG": 4095}  # that the model takes as white; of 8-bit pictures any
SIDES = (533, 411)  # neither is a whole number of blocks


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Detail of every size, uint8 RGB: an image that is decoded smaller, or averaged otherwise, looks another."""
    generator, layers = np.random.default_rng(0), []
    for side in (4, 16, 64, 256):
        noise = generator.uniform(0, 255, (side, side, 3)).astype(np.float32)
        layers.append(cv2.resize(noise, SIDES, interpolation=cv2.INTER_CUBIC))
    return np.clip(np.mean(layers, axis=0) * 2 - 127, 0, 255).astype(np.uint8)


def written(scene: np.ndarray, kind: str, folder: Path) -> Path:
    suffix, options = KINDS[kind]
    pixels = cv2.cvtColor(scene, cv2.COLOR_RGB2GRAY if kind.startswith("grey") else cv2.COLOR_RGB2BGR)
    if kind in LEVELS:
        pixels = pixels.astype(np.uint16) * 16 + 7
    path = folder / f"picture{suffix}"
    assert cv2.imwrite(str(path), pixels, list(options))
    return path


def array_of(path: Path) -> np.ndarray:
    """The picture as an application decodes it, the upper 8 of 12 bits."""
    samples = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH), cv2.COLOR_BGR2RGB)
    return (samples >> 4).astype(np.uint8) if samples.dtype == np.uint16 else samples


def labelled(source: Path | np.ndarray, spec) -> Dataset:
    return from_arrays([source], np.full((1, 4, 2), 200.0), skeleton=spec.skeleton, boxes=BOX[None])


class Watched:
    """An engine that keeps the pixels that it is given."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.seen += list(pixels.copy())
        return np.full((len(pixels), 4, 2), 0.5, np.float32)


@pytest.mark.parametrize("side", [320, 160, 107, 80, 53, 40, 27, 20], ids=lambda side: f"shrunk by {320 / side:.1f}")
@pytest.mark.parametrize(
    ("kind", "simplejpeg"),
    [(kind, True) for kind in KINDS] + [(kind, False) for kind, (suffix, _) in KINDS.items() if suffix == ".jpg"],
)
def test_every_road_gives_the_engine_the_same_pixels(
    kind: str, side: int, simplejpeg: bool, scene: np.ndarray, make_spec, tmp_path: Path, monkeypatch
) -> None:
    if not simplejpeg:
        monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    level = LEVELS.get(kind, 65535)
    spec = make_spec(size=(max(side, 32), side), padding=0.0, head=make_spec().head, white_level=level)
    path, engine = written(scene, kind, tmp_path), Watched()
    predictor = Predictor.of(engine, spec)
    array, data = array_of(path), labelled(path, spec).check_images()
    roads: dict[str, Callable[[], object]] = {
        "array": lambda: predictor(array, BOX[None]),
        "path": lambda: predictor(path, BOX[None]),
        "text": lambda: predictor(str(path), BOX[None]),
        "bytes": lambda: predictor(path.read_bytes(), BOX[None]),
        "stream": lambda: list(predictor.stream([(path, BOX[None]), (array, BOX[None])])),
        "evaluation": lambda: predict_dataset(predictor, data),
        "evaluation, unchecked": lambda: predict_dataset(predictor, labelled(path, spec)),
        "evaluation of arrays": lambda: predict_dataset(predictor, labelled(array, spec)),
        "training": lambda: engine.seen.append(Examples(data, spec.size, padding=0.0)[0][0]),
        "training, kept": lambda: engine.seen.append(Examples(data, spec.size, padding=0.0, cache=True)[0][0]),
        "calibration": lambda: engine.seen.append(some_crops(spec, labelled(path, spec))[0]),
    }
    for road, take in roads.items():
        take()
        np.testing.assert_array_equal(engine.seen[-1], engine.seen[0], err_msg=road)
    assert len(engine.seen) == len(roads) + 1
    assert np.ptp(engine.seen[0]) > 100


@pytest.mark.parametrize("kind", ["JPEG 4:2:0", *LEVELS])
def test_golden_vectors_are_of_those_pixels(kind: str, onnx_file: Path, scene: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path, model = written(scene, kind, tmp_path), Path(shutil.copy(onnx_file, tmp_path))
    describe(model, msgspec.structs.replace(read_spec(model), white_level=LEVELS.get(kind, 65535)))
    predictor = Predictor(model)
    told = json.loads(write_golden(model, labelled(path, predictor.spec), tmp_path / "g").read_text())
    picture = open_image(array_of(path))
    (pixels,) = cut(picture, predictor.crops(picture, BOX[None]))
    assert (tmp_path / "g" / "crop_0.bin").read_bytes() == pixels.tobytes()
    np.testing.assert_allclose(told["cases"][0]["xy"], predictor(array_of(path), BOX[None]).xy[0], atol=1e-4)


@pytest.mark.parametrize("kind", LEVELS)
def test_drawings_are_of_those_pixels(kind: str, scene: np.ndarray, make_spec, tmp_path: Path, monkeypatch) -> None:
    """By `evaluate --draw` and `predict --draw`: those of the same picture in 8 bits."""
    model, opened = tmp_path / "a.tflite", Opened(Watched(), "litert", make_spec(white_level=LEVELS[kind]), "")
    write_tflite(model, b"\x1c\0\0\0TFL3", opened.spec)
    monkeypatch.setattr("keylite.runtime.predictor.open_engine", lambda *_: opened)
    for bits in (16, 8):
        folder = tmp_path / str(bits)
        folder.mkdir()
        path = written(scene, kind, folder)
        if bits == 8:
            assert cv2.imwrite(str(path), cv2.cvtColor(array_of(path), cv2.COLOR_RGB2BGR))
        data = labelled(path, opened.spec).check_images(white_level=LEVELS[kind])
        predictions = predict_dataset(Predictor(model), data)
        draw_worst(data, predictions, np.zeros(1), 1, folder / "worst")
        with contextlib.suppress(SystemExit):
            main(["predict", str(model), str(path), "--draw", str(folder / "drawn")])
    drawn = sorted(path for path in (tmp_path / "8").rglob("*") if path.parent.name in ("worst", "drawn"))
    assert {path.parent.name for path in drawn} == {"worst", "drawn"}
    for path in drawn:
        assert path.read_bytes() == (tmp_path / "16" / path.relative_to(tmp_path / "8")).read_bytes(), path.name


def test_photos_are_decoded_as_opencv_does() -> None:
    paths = sorted(SHARED.glob("**/*.jpg"))[::70]
    if not paths:
        pytest.skip("needs the photos of ../shared")
    for path in paths:
        np.testing.assert_array_equal(images.read_image(path), array_of(path), err_msg=path.name)
