"""How far points move with the road a picture takes: path, bytes, array, stream, training, evaluation.

Run `python benchmarks/roads.py MODEL... --data LABELS`, with trained models. Each photo of the labels is made larger or
smaller until its crop shrinks as asked, saved in one of several ways, and taken by every road; with --large it stands
in a mosaic of 12 megapixels. Distances are to the points of the array that OpenCV decodes, px of the model's input.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rounds import table

from keylite.data.dataset import Dataset, from_arrays
from keylite.data.examples import Examples
from keylite.data.formats import read_dataset
from keylite.evaluation import predict_dataset
from keylite.runtime.geometry import Crop, cut
from keylite.runtime.images import open_image
from keylite.runtime.predictor import Predictor

REDUCTIONS = (1, 2, 3, 4, 6, 8, 12, 16)
SAVED: dict[str, tuple[str, list[int]]] = {
    "JPEG 4:2:0": (".jpg", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]),
    "JPEG 4:4:4": (".jpg", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]),
    "progressive JPEG": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "grey JPEG": (".jpg", []),
    "PNG": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
}
LARGE = (4000, 3000)  # px of a mosaic: 12 megapixels
Road = Callable[[Path, np.ndarray], np.ndarray]  # of a file and its box (4,): the crop's pixels


def roads(predictor: Predictor) -> dict[str, Road]:
    """What each road gives the engine."""
    spec = predictor.spec

    def crops(picture: object, box: np.ndarray) -> list[Crop]:
        return predictor.crops(picture, None if spec.box == "image" else box[None])  # type: ignore[arg-type]

    def opened(source: Path | bytes | np.ndarray, box: np.ndarray) -> np.ndarray:
        picture = open_image(source)
        return cut(picture, crops(picture, box))[0]

    def of(path: Path, box: np.ndarray) -> Dataset:
        return from_arrays([path], np.full((1, len(spec.skeleton), 2), 5.0), skeleton=spec.skeleton, boxes=box[None])

    def trained(path: Path, box: np.ndarray, cache: bool) -> np.ndarray:
        data = of(path, box).check_images()
        return Examples(data, spec.size, box=spec.box, padding=spec.padding, cache=cache)[0][0]

    seen: list[np.ndarray] = []
    raw = predictor.engine(np.zeros((1, *spec.size[::-1], 3), np.uint8))

    def engine(pixels: np.ndarray) -> np.ndarray:
        seen.append(pixels[0].copy())
        return raw

    watched = Predictor.of(engine, spec)

    def evaluated(path: Path, box: np.ndarray) -> np.ndarray:
        predict_dataset(watched, of(path, box).check_images())
        return seen.pop()

    def streamed(path: Path, box: np.ndarray) -> np.ndarray:
        list(watched.stream([(path, None if spec.box == "image" else box[None])]))
        return seen.pop()

    return {
        "array": lambda path, box: opened(array_of(path), box),
        "path": opened,
        "bytes": lambda path, box: opened(path.read_bytes(), box),
        "training": lambda path, box: trained(path, box, cache=False),
        "training, kept in memory": lambda path, box: trained(path, box, cache=True),
        "evaluation": evaluated,
        "stream": streamed,
    }


def array_of(path: Path) -> np.ndarray:
    """What OpenCV decodes of a file, RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def written(image: np.ndarray, saved: str, folder: Path) -> Path:
    """An image RGB saved in one of the ways."""
    suffix, options = SAVED[saved]
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY if saved == "grey JPEG" else cv2.COLOR_RGB2BGR)
    path = folder / f"picture{suffix}"
    cv2.imwrite(str(path), pixels, options)
    return path


def sized(image: np.ndarray, box: np.ndarray, crop: Crop, reduction: float) -> tuple[np.ndarray, np.ndarray]:
    """The image and its box, so large that the crop shrinks by `reduction`."""
    factor = reduction * crop.scale
    sides = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
    resized = cv2.resize(image, sides, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)
    return resized, box * np.tile(np.array(sides) / image.shape[1::-1], 2)


def in_mosaic(image: np.ndarray, box: np.ndarray, others: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A picture of LARGE px with the image somewhere in the middle of others."""
    width, height = LARGE
    mosaic = np.zeros((height, width, 3), np.uint8)
    side = 500
    for number, top in enumerate(range(0, height, side)):
        for column, left in enumerate(range(0, width, side)):
            tile = cv2.resize(others[(number * 7 + column) % len(others)], (side, side))
            mosaic[top : top + side, left : left + side] = tile
    image = image[:height, :width]
    left, top = (width - image.shape[1]) // 3, (height - image.shape[0]) // 2
    mosaic[top : top + image.shape[0], left : left + image.shape[1]] = image
    return mosaic, box + np.tile([left, top], 2)


def moved(predictor: Predictor, data: Dataset, reduction: float, photos: int, large: bool) -> dict[str, np.ndarray]:
    """Of each road: the distances of all points of all photos to those of the array, px of the input."""
    size = np.asarray(predictor.spec.size)
    distances: dict[str, list[np.ndarray]] = defaultdict(list)
    every = np.linspace(0, len(data) - 1, min(photos, len(data))).astype(int).tolist()
    others = [data.read_image(int(data.image_index[index])) for index in every[:12]]
    ways = roads(predictor)
    with tempfile.TemporaryDirectory() as name:
        for number, index in enumerate(every):
            image = data.read_image(int(data.image_index[index]))
            whole = np.array([0, 0, image.shape[1], image.shape[0]], np.float64)
            box = whole if predictor.spec.box == "image" else data.box[index]
            (crop,) = predictor.crops(image, None if predictor.spec.box == "image" else box[None])
            image, box = sized(image, box, crop, reduction)
            if large and predictor.spec.box != "image":
                image, box = in_mosaic(image, box, others)
            path = written(image, list(SAVED)[number % len(SAVED)], Path(name))
            reference = ways["array"](path, box)
            for road, way in ways.items():
                pixels = way(path, box)
                distance = np.zeros(len(predictor.spec.skeleton))  # of the same pixels
                if not np.array_equal(pixels, reference):
                    points, found = (predictor.run(one[None])[0][0] for one in (reference, pixels))
                    distance = np.linalg.norm((found - points) * size, axis=1)
                distances[road].append(distance)
    return {road: np.concatenate(of_road) for road, of_road in distances.items() if road != "array"}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("models", type=Path, nargs="+", help="trained model files")
    found.add_argument("--data", type=Path, required=True, help="labels of photos")
    found.add_argument("--photos", type=int, default=200, help="how many of them (default 200)")
    found.add_argument("--reductions", type=float, nargs="+", default=REDUCTIONS, help="how crops shrink")
    found.add_argument("--large", action="store_true", help="in mosaics of 12 megapixels, for models that take boxes")
    return found


def main() -> None:
    choices = parser().parse_args()
    data = dataclasses.replace(read_dataset(choices.data), max_megapixels=1000.0)
    cells: list[list[str]] = []
    for model in choices.models:
        predictor = Predictor(model, threads=1)
        for reduction in choices.reductions:
            found = moved(predictor, data, reduction, choices.photos, choices.large)
            for road, distances in found.items():
                p95, most = np.percentile(distances, 95), distances.max()
                cells.append([model.name, f"{reduction:g}", road, f"{p95:.4f}", f"{most:.4f}"])
                print(" ".join(cells[-1]), flush=True)
    print(table(["file", "reduction", "road", "p95 px", "max px"], cells))


if __name__ == "__main__":
    main()
