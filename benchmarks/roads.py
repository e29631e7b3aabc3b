"""How far points move if a picture comes by another road: path, bytes, array, stream, training, evaluation.

Run `python benchmarks/roads.py MODEL... --data LABELS`, with trained models. Each photo of the labels is made larger or
smaller until its crop shrinks as asked, saved in one of several ways, and taken by every road; with --large a mosaic of
12 megapixels holds it in all these sizes. Distances are to the points of the array that OpenCV decodes, px of the
model input. "in a batch": the engine gets several crops at once, as in `predict` and `evaluate`, not one.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rounds import table

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.data.formats.reading import read_dataset
from keylite.evaluation.predictions import predict_dataset
from keylite.runtime.geometry import crop_box, cut, whole_box
from keylite.runtime.images import open_image
from keylite.runtime.predictor import Predictor
from keylite.runtime.spec import ModelSpec

REDUCTIONS = (1, 2, 3, 4, 6, 8, 12, 16)
SAVED: dict[str, tuple[str, list[int]]] = {
    "JPEG 4:2:0": (".jpg", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]),
    "JPEG 4:4:4": (".jpg", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]),
    "progressive JPEG": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "grey JPEG": (".jpg", []),
    "PNG": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
}
LARGE = (4000, 3000)  # px of a mosaic: 12 megapixels
TILE = 500  # px of the photos that fill it
Road = Callable[[Path, np.ndarray], Sequence[np.ndarray]]  # of a file and its boxes (N, 4): the crops' pixels


BATCH = "in a batch"


class Scene(NamedTuple):
    """A picture, the boxes (N, 4) in it, and by how much the crop of each shrinks."""

    image: np.ndarray
    boxes: np.ndarray
    reductions: tuple[float, ...]


def roads(spec: ModelSpec) -> dict[str, Road]:
    """The pixels that each road gives the engine."""
    seen: list[np.ndarray] = []
    raw = np.zeros((1, len(spec.skeleton), spec.head.channels), np.float32)

    def engine(pixels: np.ndarray) -> np.ndarray:
        seen.extend(pixels.copy())
        return np.repeat(raw, len(pixels), axis=0)

    watched = Predictor.of(engine, spec)

    def asked(boxes: np.ndarray) -> np.ndarray | None:
        return None if spec.box == "image" else boxes

    def opened(source: Path | bytes | np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
        picture = open_image(source)
        return cut(picture, watched.crops(picture, asked(boxes)))

    def labelled(path: Path, boxes: np.ndarray) -> Dataset:
        centres = np.repeat((boxes[:, None, :2] + boxes[:, None, 2:]) / 2, len(spec.skeleton), axis=1)
        data = from_arrays([path] * len(boxes), centres, skeleton=spec.skeleton, boxes=boxes)
        data = dataclasses.replace(
            data, images=data.images[:1], image_names=data.image_names[:1], image_index=0 * data.image_index
        )
        return data.check_images()

    def trained(path: Path, boxes: np.ndarray, cache: bool) -> list[np.ndarray]:
        examples = Examples(labelled(path, boxes), spec.size, box=spec.box, padding=spec.padding, cache=cache)
        return [examples[index][0] for index in range(len(boxes))]

    def noticed(taken: object) -> list[np.ndarray]:
        given = seen.copy()
        seen.clear()
        return given

    return {
        "array": lambda path, boxes: opened(array_of(path), boxes),
        "path": opened,
        "bytes": lambda path, boxes: opened(path.read_bytes(), boxes),
        "training": lambda path, boxes: trained(path, boxes, cache=False),
        "training, kept in memory": lambda path, boxes: trained(path, boxes, cache=True),
        "evaluation": lambda path, boxes: noticed(predict_dataset(watched, labelled(path, boxes))),
        "stream": lambda path, boxes: noticed(list(watched.stream([(path, asked(boxes))]))),
    }


def array_of(path: Path) -> np.ndarray:
    """The image that OpenCV decodes from a file, RGB."""
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


def sized(image: np.ndarray, box: np.ndarray, spec: ModelSpec, reduction: float) -> tuple[np.ndarray, np.ndarray]:
    """The image and its box (4,), so large that the crop shrinks by `reduction`."""
    padding = 0.0 if spec.box == "image" else spec.padding
    factor = reduction * crop_box(box, spec.size, padding).scale
    sides = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
    resized = cv2.resize(image, sides, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)
    return resized, box * np.tile(np.array(sides) / image.shape[1::-1], 2)


def in_mosaic(parts: list[tuple[np.ndarray, np.ndarray]], others: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A picture of LARGE px with images in rows, the largest first, among others; and the boxes (N, 4) of all."""
    width, height = LARGE
    mosaic = np.zeros((height, width, 3), np.uint8)
    for number, top in enumerate(range(0, height, TILE)):
        for column, left in enumerate(range(0, width, TILE)):
            mosaic[top : top + TILE, left : left + TILE] = others[(number * 7 + column) % len(others)]
    boxes = np.zeros((len(parts), 4))
    left = top = bottom = 0
    for index in sorted(range(len(parts)), key=lambda index: -len(parts[index][0])):
        image, box = parts[index]
        if left + image.shape[1] > width:
            left, top = 0, bottom
        if top + image.shape[0] > height or image.shape[1] > width:
            raise SystemExit(f"--large: the photos in these sizes do not fit into {width}x{height} px; ask for fewer")
        mosaic[top : top + image.shape[0], left : left + image.shape[1]] = image
        boxes[index] = box + np.tile([left, top], 2)
        left, bottom = left + image.shape[1], max(bottom, top + image.shape[0])
    return mosaic, boxes


def scenes(data: Dataset, spec: ModelSpec, choices: argparse.Namespace) -> Iterator[Scene]:
    """The photos in all sizes: a picture each, or with `large` all sizes of a photo in one."""
    every = np.linspace(0, len(data) - 1, min(choices.photos, len(data))).astype(int).tolist()
    others = [cv2.resize(data.read_image(int(data.image_index[index])), (TILE, TILE)) for index in every[:12]]
    for index in every:
        image = data.read_image(int(data.image_index[index]))
        box = whole_box(image) if spec.box == "image" else data.box[index]
        parts = [sized(image, box, spec, reduction) for reduction in choices.reductions]
        if choices.large:
            yield Scene(*in_mosaic(parts, others), tuple(choices.reductions))
        else:
            for (part, at), reduction in zip(parts, choices.reductions, strict=True):
                yield Scene(part, at[None], (reduction,))


Moved = dict[tuple[str, str], list[np.ndarray]]  # by file and road: distances (K,), px of the input


def moved(predictors: dict[str, Predictor], data: Dataset, choices: argparse.Namespace) -> tuple[Moved, int, int]:
    """How far each road moves the points of each file; how many crops were taken, and how many had other pixels."""
    spec = next(iter(predictors.values())).spec
    ways, taken, other = roads(spec), 0, 0
    distances: Moved = defaultdict(list)
    crops: list[np.ndarray] = []  # of the first reduction
    with tempfile.TemporaryDirectory() as folder:
        for number, scene in enumerate(scenes(data, spec, choices)):
            photo = number if choices.large else number // len(choices.reductions)
            path = written(scene.image, list(SAVED)[photo % len(SAVED)], Path(folder))
            reference = ways["array"](path, scene.boxes)
            crops += reference[:1] if scene.reductions[0] == choices.reductions[0] else []
            for road in [way for way in ways if way != "array"]:
                for pixels, expected in zip(ways[road](path, scene.boxes), reference, strict=True):
                    same = np.array_equal(pixels, expected)
                    taken, other = taken + 1, other + (not same)
                    for name, predictor in predictors.items():
                        none = np.zeros(len(spec.skeleton))  # how far points of the same pixels lie apart
                        distances[name, road].append(none if same else apart(predictor, pixels[None], expected[None]))
    for name, predictor in predictors.items():
        alone = np.concatenate([predictor.run(one[None])[0] for one in crops])
        distances[name, BATCH] = list(lengths(predictor, predictor.run(np.stack(crops))[0] - alone))
    return distances, taken, other


def apart(predictor: Predictor, pixels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far the points of two crops lie apart, (K,) px of the input."""
    return lengths(predictor, predictor.run(pixels)[0] - predictor.run(others)[0])[0]


def lengths(predictor: Predictor, unit_xy: np.ndarray) -> np.ndarray:
    """Lengths of (..., 2) in px of the input."""
    return np.linalg.norm(unit_xy * predictor.spec.size, axis=-1)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("models", type=Path, nargs="+", help="trained model files, all of which crop alike")
    found.add_argument("--data", type=Path, required=True, help="labels of photos")
    found.add_argument("--photos", type=int, default=200, help="how many photos (default 200)")
    found.add_argument("--reductions", type=float, nargs="+", default=REDUCTIONS, help="factors by which crops shrink")
    found.add_argument("--large", action="store_true", help="use mosaics of 12 megapixels; for models that take boxes")
    return found


def main() -> None:
    choices = parser().parse_args()
    predictors = {model.name: Predictor(model, threads=1) for model in choices.models}
    crops = {(p.spec.size, p.spec.box, p.spec.padding, p.spec.white_level) for p in predictors.values()}
    if len(crops) > 1 or len(predictors) < len(choices.models):
        parser().error("models: expected files of different names that crop alike; give others a run of their own")
    if choices.large and crops.pop()[1] == "image":
        parser().error("--large: expected models that take boxes; for whole pictures ask for --reductions that large")
    data = read_dataset(choices.data)
    distances, taken, other = moved(predictors, dataclasses.replace(data, max_megapixels=1000.0), choices)
    cells = []
    for name, road in sorted(distances, key=lambda key: list(predictors).index(key[0])):
        px = np.concatenate(distances[name, road])
        cells.append([name, road, f"{np.percentile(px, 95):.4f}", f"{px.max():.4f}", f"{len(px):,}"])
    print(table(["file", "road", "p95 px", "max px", "points"], cells))
    print(f"\n{other:,} of {taken:,} crops had other pixels than the array's, at reductions of {said(choices)}.")


def said(choices: argparse.Namespace) -> str:
    """The reductions."""
    return ", ".join(f"{reduction:g}" for reduction in choices.reductions)


if __name__ == "__main__":
    main()
