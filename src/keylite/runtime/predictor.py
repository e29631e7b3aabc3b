"""From images to named points with any model file: crop, engine, decode; one image, or a stream of them.

The one road that training's validation, evaluation, the export gate and the device share. Needs numpy, OpenCV,
msgspec and the engine of the file; never a training framework for an exported file.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np

from keylite.runtime import files
from keylite.runtime.boxes import as_boxes, require_boxes
from keylite.runtime.engines import Engine, open_engine, require_same
from keylite.runtime.errors import ArgumentError
from keylite.runtime.geometry import Crop, crop_box, cut, whole_box
from keylite.runtime.images import MAX_MEGAPIXELS, Picture, open_image, require_limit
from keylite.runtime.keypoints import Keypoints
from keylite.runtime.kinds import kind_words, path_of, require_whole
from keylite.runtime.modelfile import ModelFile
from keylite.runtime.spec import ModelSpec
from keylite.runtime.stream import Answer, Cut, Task, answers
from keylite.runtime.types import Boxes, FilePath, Image
from keylite.runtime.words import counted, escaped

BATCH = 8  # crops of an engine's call: more gain nothing on a CPU (docs/prediction.md)
S = TypeVar("S", bound=Image)


class Found(NamedTuple, Generic[S]):
    """What a stream gives for an image. source: the image as given. size: (width, height) px of it."""

    source: S
    points: Keypoints
    size: tuple[int, int]


def _require_several(images: object) -> None:
    """Raise ValueError for what a stream cannot go through."""
    words = kind_words(images)
    if isinstance(images, str | bytes):
        raise ArgumentError(f"images: expected several, got {images[:60]!r}; wrap a single one as [image]")
    if not isinstance(images, Iterable):
        raise ArgumentError(f"images: expected several, got {words}")
    if isinstance(images, Mapping):
        raise ArgumentError(f"images: expected pairs (image, boxes), got {words}; give its items()")


def _open_again(kind: type[Predictor], choices: dict[str, Any], known: ModelFile) -> Predictor:
    """The predictor of a pickle; ValueError if the file is another by now."""
    predictor = kind(**choices)
    require_same(choices["path"], ModelFile(predictor.spec, predictor.opened.digest), known)
    return predictor


class Predictor:
    """Opens a model file once and finds points in images.

    >>> points = Predictor("faces.onnx")("photo.jpg", boxes=[[10, 20, 110, 140]])  # doctest: +SKIP

    path: `.onnx`, `.tflite` or `.safetensors`. engine: onnx, litert, pytorch or tensorflow; None takes the one that
    made the file, if it is installed. threads, device: see runtime/engines.py. batch: most crops that an engine gets.
    spec: a JSON description for a file that holds none. Attributes: spec, engine_name, path.

    Threads may share one. In a forked process it opens its file again, or says why it cannot; so does a pickle of it.
    """

    path: Path | None = None
    engine_name = "memory"
    batch = BATCH
    max_megapixels = MAX_MEGAPIXELS

    def __init__(
        self,
        path: FilePath,
        *,
        engine: str | None = None,
        threads: int | None = None,
        device: str = "auto",
        batch: int = BATCH,
        max_megapixels: float = MAX_MEGAPIXELS,
        spec: FilePath | None = None,
    ) -> None:
        require_limit(max_megapixels)
        require_whole("batch", batch)
        self.path = path_of("model", path)
        self.opened = open_engine(self.path, engine, threads, device, spec)
        self.engine, self.engine_name, self.spec, _ = self.opened
        self.batch = batch
        self.max_megapixels = max_megapixels
        apart = None if spec is None else Path(spec).absolute()
        self.choices = {"path": self.path.absolute(), "threads": threads, "device": device, "spec": apart}

    @classmethod
    def of(cls, engine: Engine, spec: ModelSpec, *, batch: int = 32) -> Predictor:
        """A predictor on an engine in memory, say a network in training; its path and sha256 are None."""
        require_whole("batch", batch)
        predictor = cls.__new__(cls)
        predictor.engine, predictor.spec, predictor.batch = engine, spec, batch
        return predictor

    def __reduce__(self) -> tuple[Callable[..., Predictor], tuple[object, ...]]:
        """A pickle holds no weights but the file's name and digest, and what it was opened with."""
        if self.path is None:
            raise TypeError(
                "Predictor: one of a network in memory cannot be pickled; save the network and open its file"
            )
        known = ModelFile(self.spec, self.opened.digest)
        choices = {"engine": self.engine_name, "batch": self.batch, "max_megapixels": self.max_megapixels}
        return _open_again, (type(self), self.choices | choices, known)

    def __repr__(self) -> str:
        name = "a network in memory" if self.path is None else f"{escaped(self.path.name)} by {self.engine_name}"
        spec = self.spec
        network = f"{spec.backbone} {type(spec.head).__name__.lower()} at {spec.size[0]}x{spec.size[1]} px"
        return f"Predictor({name}: {network}, {counted(len(spec.skeleton), 'keypoint')})"

    def __call__(self, image: Image, boxes: Boxes | None = None) -> Keypoints:
        """The points of every box (N, 4) xyxy px in an image: uint8 (H, W, 3) RGB, a path, or a file's bytes.

        boxes=None is the whole image, one object; boxes=[] gives an empty result.
        """
        cut = self._cut(image, boxes)
        if not cut.crops:
            return self._keypoints(cut, [])
        return self._keypoints(cut, list(zip(*self.run(np.stack(cut.pixels)), strict=True)))

    def stream(
        self,
        images: Iterable[S | tuple[S, Boxes | None]],
        *,
        readers: int | None = None,
        on_bad: Callable[[S, Exception], None] | None = None,
    ) -> Generator[Found[S]]:
        """The points of many images, in their order: those of a call an image, sooner, in memory that does not grow.

        images: what a call takes, or pairs (image, boxes). readers: threads that read and crop beside the engine, which
        gets the crops of several images at once, `batch` of them; None: READERS, or the processor's if it has fewer.
        on_bad: called with an image that cannot be used and why, in the images' order; that one is left out. Without it
        the error, which names the image, ends the stream. So does `close()`, threads and all.
        Memory: at most `readers` decoded images, and the crops of those that wait for the engine: never more than three
        times the greater of `batch` and `readers`. Arrays and bytes that you pass in are kept that long, too.
        """
        _require_several(images)
        tasks = (self._task(number, item) for number, item in enumerate(images))
        with contextlib.closing(answers(tasks, self.run, batch=self.batch, readers=readers, on_bad=on_bad)) as answered:
            for cut, points in answered:
                yield Found(cut.source, self._keypoints(cut, points), cut.size)

    def _task(self, number: int, item: Image | tuple[Image, Boxes | None]) -> Task:
        """How to read an entry of a stream."""
        source, boxes = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        count = len(boxes) if isinstance(boxes, Sized) else 1
        return Task(source, count, functools.partial(self._cut, source, boxes, f"image {number}"))

    def _cut(self, source: Image, boxes: Boxes | None, name: str = "") -> Cut:
        """An image's crops. name: of one without a path, in a ValueError."""
        try:
            image = open_image(source, self.max_megapixels, self.spec.white_level)
            asked = whole_box(image)[None] if boxes is None else as_boxes(boxes)
            if boxes is not None:
                require_boxes(asked, (image.shape[1], image.shape[0]))
            crops = self.crops(image, boxes)
            pixels = cut(image, crops)
        except (ValueError, cv2.error) as error:
            name = str(source) if isinstance(source, (Path, str)) else name
            if str(error).startswith(name):  # of any, where there is no name
                raise
            raise ArgumentError(f"{name}: {error}") from None
        return Cut(source, (image.shape[1], image.shape[0]), asked, crops, pixels)

    def _keypoints(self, cut: Cut, found: Sequence[Answer]) -> Keypoints:
        """The points of an image. found: unit xy (K, 2) and score (K,) of each of its crops."""
        count = len(self.spec.skeleton)
        if not found:
            none = np.zeros((0, count), np.float32)
            return Keypoints(np.zeros((0, count, 2)), none, none.astype(np.float64), cut.asked, self.spec.skeleton)
        xy = np.stack([crop.from_unit(unit_xy) for crop, (unit_xy, _) in zip(cut.crops, found, strict=True)])
        score = np.stack([score for _, score in found])
        return Keypoints(xy, score, self.sigma(score, cut.crops), cut.asked, self.spec.skeleton)

    def crops(self, image: np.ndarray | Picture, boxes: Boxes | None = None) -> list[Crop]:
        """One crop a box, by the rule in the spec: an annotation's box grows by the padding, a whole image does not."""
        padding = self.spec.padding if boxes is not None and self.spec.box == "annotation" else 0.0
        asked = whole_box(image)[None] if boxes is None else as_boxes(boxes)
        return [crop_box(box, self.spec.size, padding) for box in asked]

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Crops uint8 (B, H, W, 3) -> unit xy (B, K, 2), score (B, K); NaN for keypoints that nothing taught."""
        raw = [self.engine(pixels[start : start + self.batch]) for start in range(0, len(pixels), self.batch)]
        unit_xy, score = self.spec.head.decode(np.concatenate(raw))
        if untaught := self.spec.untaught:
            unit_xy, score = unit_xy.copy(), score.copy()  # they may be the engine's own
            unit_xy[:, untaught], score[:, untaught] = np.nan, np.nan
        return unit_xy, score

    def sigma(self, score: np.ndarray, crops: Sequence[Crop]) -> np.ndarray:
        """Scores (N, K) -> the distance to expect between a point and its true place (N, K), px of the image.

        NaN where the spec does not say what a score means.
        """
        if self.spec.confidence is None:
            return np.full(score.shape, np.nan)
        side = np.array([max(crop.size) / crop.scale for crop in crops])
        return self.spec.confidence.sigma(score) * side[:, None]

    @functools.cached_property
    def sha256(self) -> str | None:
        """sha256 of the model file."""
        return files.sha256(self.path) if self.path else None
