"""The predictor: from images to named points with any model file, by crop, engine and decode.

Validation in training, evaluation, the comparison of exports and the device all use it. It needs numpy, OpenCV, msgspec
and the engine of the file; for an exported file it needs no training framework.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np

from keylite.runtime import files
from keylite.runtime.boxes import as_boxes, require_boxes
from keylite.runtime.engines import ENGINES, Engine, open_engine, require_same
from keylite.runtime.errors import ArgumentError
from keylite.runtime.geometry import Crop, crop_box, cut, whole_box
from keylite.runtime.images import MAX_MEGAPIXELS, Picture, open_image, require_limit
from keylite.runtime.keypoints import Keypoints
from keylite.runtime.kinds import kind_words, path_of, require_calls, require_choice, require_text, require_whole
from keylite.runtime.modelfile import ModelFile
from keylite.runtime.spec import ModelSpec
from keylite.runtime.stream import Answer, Cut, Task, answers
from keylite.runtime.types import Boxes, FilePath, Image
from keylite.runtime.words import counted, escaped

BATCH = 8  # crops per call of the engine: more gain nothing on a CPU (docs/prediction.md)
S = TypeVar("S", bound=Image)


class Found(NamedTuple, Generic[S]):
    """The result of a stream for one image. source: the image as you passed it in. size: its (width, height) in px."""

    source: S
    points: Keypoints
    size: tuple[int, int]


def _require_several(images: object) -> None:
    """Raise ValueError if a value is not an iterable of images."""
    words = kind_words(images)
    if isinstance(images, str | bytes):
        raise ArgumentError(f"images: expected several images, got {images[:60]!r}; give a single one as [image]")
    if not isinstance(images, Iterable):
        raise ArgumentError(f"images: expected several images, got {words}")
    if isinstance(images, Mapping):
        raise ArgumentError(f"images: expected pairs (image, boxes), got {words}; give its items()")


def _open_again(kind: type[Predictor], choices: dict[str, Any], known: ModelFile) -> Predictor:
    """The predictor that a pickle describes; ValueError if the model file has changed since."""
    predictor = kind(**choices)
    require_same(choices["model"], ModelFile(predictor.spec, predictor.opened.digest), known)
    return predictor


def as_predictor(name: str, model: Predictor | FilePath, **choices: Any) -> Predictor:
    """An open predictor as it is; for a path, a new one with these choices (`engine`, `threads`, `spec`).

    Raises ArgumentError, with the argument's name, for anything else, or if there are choices for an open predictor.
    """
    if isinstance(model, str | os.PathLike):
        return Predictor(path_of(name, model), **choices)
    if not hasattr(model, "spec"):
        raise ArgumentError(f"{name}: expected a model file or an open Predictor, got {kind_words(model)}")
    if any(choice is not None for choice in choices.values()):
        names = ", ".join(choices)
        raise ArgumentError(f"{names}: expected None with an open predictor; give them when it is opened")
    return model


class Predictor:
    """Opens a model file once and finds points in images.

    Several threads may share a predictor. In a forked process, and from a pickle, it opens its file again; if that is
    not possible, an error says why.

    Args:
        model: The model file: `.onnx`, `.tflite` or `.safetensors`.
        engine: What runs the file: "onnx", "litert", "litert-reference" (its reference kernels), "tflm" (TensorFlow
            Lite Micro, for int8), "pytorch" or "tensorflow". None: "onnx" or "litert"; for `.safetensors` the framework
            that made the file, or the other one if that is not installed.
        threads: Threads of the engine, 1 to 4096. None: the engine decides.
        device: "auto", "cpu" or "cuda". "auto": a GPU if the engine can use one. Exported files run on the CPU alone.
        batch: The largest number of crops in one call of the engine.
        max_megapixels: The largest image to decode, in millions of pixels. A larger file is refused by its header.
        spec: A JSON file with the description of a model file that holds none. None: the model file holds it.

    Attributes:
        path: The model file. None for a network in memory.
        engine_name: The name of the engine; "memory" for a network in memory.
        spec: The description of the model.
        batch: As the argument.
        max_megapixels: As the argument.

    Raises:
        FileNotFoundError: There is no such model file.
        ModelFileError: The file is damaged or is not a model file.
        ArgumentError: The engine cannot run this file, or an argument has a wrong value.
        ModuleNotFoundError: The engine's package is not installed; the message says how to install it.

    Example:
        >>> points = keylite.Predictor("faces.onnx")("photo.jpg", boxes=[[10, 20, 110, 140]])
        >>> points["nose"]  # xy (1, 2) px
    """

    path: Path | None = None
    engine_name = "memory"
    batch = BATCH
    max_megapixels = MAX_MEGAPIXELS

    def __init__(
        self,
        model: FilePath,
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
        require_text("engine", engine, f"one of {', '.join(ENGINES)}, or None")
        require_choice("device", device, ("auto", "cpu", "cuda"))
        self.path = path_of("model", model)
        self.opened = open_engine(self.path, engine, threads, device, spec)
        self.engine, self.engine_name, self.spec, _ = self.opened
        self.batch = batch
        self.max_megapixels = max_megapixels
        absolute_spec = None if spec is None else Path(spec).absolute()
        self.choices = {"model": self.path.absolute(), "threads": threads, "device": device, "spec": absolute_spec}

    @classmethod
    def of(cls, engine: Engine, spec: ModelSpec, *, batch: int = 32) -> Predictor:
        """A predictor on an engine in memory, such as a network in training; its `path` and `sha256` are None.

        Args:
            engine: A function from crops, uint8 (B, H, W, 3) RGB, to the raw values of the head, float32 (B, K, C).
            spec: The description of the model.
            batch: The largest number of crops in one call of the engine.

        Returns:
            The predictor.
        """
        require_whole("batch", batch)
        predictor = cls.__new__(cls)
        predictor.engine, predictor.spec, predictor.batch = engine, spec, batch
        return predictor

    def __reduce__(self) -> tuple[Callable[..., Predictor], tuple[object, ...]]:
        """A pickle holds the path and the digest of the model file and the arguments, but no weights."""
        if self.path is None:
            raise TypeError(
                "Predictor: a network in memory cannot be pickled; save the network, and make a Predictor of its file"
            )
        known = ModelFile(self.spec, self.opened.digest)
        choices = {"engine": self.engine_name, "batch": self.batch, "max_megapixels": self.max_megapixels}
        return _open_again, (type(self), self.choices | choices, known)

    def __repr__(self) -> str:
        name = "a network in memory" if self.path is None else f"{escaped(self.path.name)} by {self.engine_name}"
        return f"Predictor({name}: {self.spec.network}, {counted(len(self.spec.skeleton), 'keypoint')})"

    def __call__(self, image: Image, boxes: Boxes | None = None) -> Keypoints:
        """The points of the objects in one image.

        Args:
            image: A path, the bytes of an image file, or uint8 (H, W, 3) RGB.
            boxes: (N, 4) xyxy, continuous px of the image: one box per object. None: the whole image is one object.
                Empty: the result has no objects.

        Returns:
            The points of the N objects, in the order of the boxes.

        Raises:
            ImageError: The image cannot be read, is above `max_megapixels`, or the array is not a picture.
            ArgumentError: The boxes are not (N, 4), or a box has no area, is too large or lies outside the image.
            FileNotFoundError: There is no file at this path.
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
        """The points of many images, one result per image, in the order of the images.

        The points are those of one call per image, but the stream is faster: threads read and crop images while the
        engine works, and it gets the crops of several images in one call. Leaving the loop or calling `close()` stops
        the threads.

        The memory does not grow with the number of images. The stream holds at most `readers` decoded images, and crops
        that wait for the engine: at most three times `batch` or `readers`, whichever is more. Arrays and bytes that you
        pass in are kept until their crops are done.

        Args:
            images: Images as a single call takes them, or pairs (image, boxes). Any iterable, even an endless one.
            readers: Threads that read, decode and crop. None: 4, or the number of cores if that is less.
            on_bad: A function of (image, error). It is called for each image that cannot be used, in order, and the
                stream leaves that image out. None: the first such image ends the stream with its error.

        Returns:
            A generator of `Found`: `source` (the image as you passed it in), `points`, and `size` (width, height) px.

        Raises:
            ArgumentError: `images` is not an iterable of images, or `readers` is not a whole number above 0. If
                `on_bad` is None: an image or a box cannot be used; the message names the image.
            FileNotFoundError: If `on_bad` is None: a file does not exist.

        Example:
            >>> for source, points, size in predictor.stream(["a.jpg", ("b.jpg", [[20, 30, 100, 110]])]):
            ...     print(source, points.xy)
        """
        _require_several(images)
        require_calls(on_bad=on_bad)
        tasks = (self._task(number, item) for number, item in enumerate(images))
        with contextlib.closing(answers(tasks, self.run, batch=self.batch, readers=readers, on_bad=on_bad)) as answered:
            for cut, crop_answers in answered:
                yield Found(cut.source, self._keypoints(cut, crop_answers), cut.size)

    def _task(self, number: int, item: Image | tuple[Image, Boxes | None]) -> Task:
        """The task that reads one entry of a stream."""
        source, boxes = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        count = len(boxes) if isinstance(boxes, Sized) else 1
        return Task(source, count, functools.partial(self._cut, source, boxes, f"image {number}"))

    def _cut(self, source: Image, boxes: Boxes | None, name: str = "") -> Cut:
        """Read an image and cut its crops. name: what an error calls an image that has no path."""
        try:
            image = open_image(source, self.max_megapixels, self.spec.white_level)
            image_boxes = whole_box(image)[None] if boxes is None else as_boxes(boxes)
            if boxes is not None:
                require_boxes(image_boxes, (image.shape[1], image.shape[0]))
            crops = self.crops(image, boxes)
            pixels = cut(image, crops)
        except (ValueError, cv2.error) as error:
            name = str(source) if isinstance(source, (Path, str)) else name
            if str(error).startswith(name):  # an empty name begins every message
                raise
            raise ArgumentError(f"{name}: {error}") from None
        return Cut(source, (image.shape[1], image.shape[0]), image_boxes, crops, pixels)

    def _keypoints(self, cut: Cut, crop_answers: Sequence[Answer]) -> Keypoints:
        """The points of an image, from the answer to each of its crops."""
        count = len(self.spec.skeleton)
        if not crop_answers:
            none = np.zeros((0, count), np.float32)
            return Keypoints(np.zeros((0, count, 2)), none, none.astype(np.float64), cut.boxes, self.spec.skeleton)
        xy = np.stack([crop.from_unit(unit_xy) for crop, (unit_xy, _) in zip(cut.crops, crop_answers, strict=True)])
        score = np.stack([score for _, score in crop_answers])
        return Keypoints(xy, score, self.sigma(score, cut.crops), cut.boxes, self.spec.skeleton)

    def crops(self, image: np.ndarray | Picture, boxes: Boxes | None = None) -> list[Crop]:
        """The crops that the network sees of an image, one per box.

        A box grows by the padding of the spec before it is cropped, unless the model takes whole images.

        Args:
            image: The image, (H, W, 3); only its shape is used.
            boxes: (N, 4) xyxy, continuous px of the image. None: one crop of the whole image, without padding.

        Returns:
            N crops.

        Raises:
            ArgumentError: A box has no area, is not finite or is too large.
        """
        padding = self.spec.padding if boxes is not None and self.spec.box == "annotation" else 0.0
        image_boxes = whole_box(image)[None] if boxes is None else as_boxes(boxes)
        return [crop_box(box, self.spec.size, padding) for box in image_boxes]

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the engine on crops and decode what it gives.

        Args:
            pixels: Crops, uint8 (B, H, W, 3) RGB, of the size of the model input. B is at least 1.

        Returns:
            Unit coordinates float32 (B, K, 2), where 0 to 1 is inside the crop, and scores float32 (B, K). Both are NaN
            for a keypoint that no training object labels; scores are NaN if the head gives none.
        """
        raw = [self.engine(pixels[start : start + self.batch]) for start in range(0, len(pixels), self.batch)]
        unit_xy, score = self.spec.head.decode(np.concatenate(raw))
        if untaught := self.spec.untaught:
            unit_xy, score = unit_xy.copy(), score.copy()  # the originals may be the engine's memory
            unit_xy[:, untaught], score[:, untaught] = np.nan, np.nan
        return unit_xy, score

    def sigma(self, score: np.ndarray, crops: Sequence[Crop]) -> np.ndarray:
        """The distance to expect between each point and its label.

        Args:
            score: Scores (N, K).
            crops: The N crops in which the points were found.

        Returns:
            float64 (N, K), px of the image. NaN if the spec does not say what scores mean, or a score is NaN.
        """
        if self.spec.confidence is None:
            return np.full(score.shape, np.nan)
        side = np.array([max(crop.size) / crop.scale for crop in crops])
        return self.spec.confidence.sigma(score) * side[:, None]

    @functools.cached_property
    def sha256(self) -> str | None:
        """The sha256 of the model file, in hexadecimal digits; None for a network in memory."""
        return files.sha256(self.path) if self.path else None
