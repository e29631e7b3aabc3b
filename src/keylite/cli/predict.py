"""`keylite predict`: finds the points in images, and writes or draws them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

from cyclopts import Parameter

from keylite.cli.shared import USUAL, As, Reading

if TYPE_CHECKING:
    import numpy as np

    from keylite.data.dataset import Dataset
    from keylite.data.formats.scores import Scores
    from keylite.runtime.predictor import Found, Predictor
    from keylite.runtime.types import Boxes

log = logging.getLogger("keylite")

RAY_FORMATS = ("jsonl", "parquet")  # the first one is the default with --ray
Format = Literal[
    "keylite", "jsonl", "parquet",
    "coco", "coco-results", "yolo", "labelme", "label-studio", "cvat", "dlc", "csv",
]  # fmt: skip
LINES = 20  # lines about the progress of a prediction in shards, at most


def _no_flag(type_: Any, value: str | None) -> None:
    """Raise ValueError for a flag in place of a file name; - is standard output."""
    if value and value != "-" and value.startswith("-"):
        raise ValueError(f"expected a file name or -, got {value}")


def predict(
    model: Path,
    *inputs: Path,
    data: Path | None = None,
    boxes: Path | None = None,
    out: Annotated[str | None, Parameter(allow_leading_hyphen=True, validator=_no_flag)] = None,
    format: Format | None = None,
    draw: Path | None = None,
    engine: str | None = None,
    threads: int | None = None,
    spec: Path | None = None,
    ray: str | None = None,
    workers: int | None = None,
    shard: int | None = None,
    reading: As = USUAL,
) -> None:
    """Find the points in images.

    Parameters
    ----------
    model
        .safetensors, .onnx or .tflite
    inputs
        images, folders of images, and .txt files with one path of an image per line
    data
        labels whose objects get points, in place of images: ids, boxes, groups and names stay; with a format of labels
    boxes
        JSON file: {"photo.jpg": [[x0, y0, x1, y1], ...]}; without it each whole image is one object
    out
        file for the points; a folder for yolo, labelme and --ray; -: standard output, the default without --draw
    format
        keylite, the default: one JSON object, continuous coordinates; jsonl, the default with --ray: one line per
        image, written when it is found; parquet, only with --ray: one row per image; the others are for other tools
    draw
        folder for the images with their points drawn
    engine
        onnx, litert, litert-reference, tflm, pytorch or tensorflow; default: litert for .tflite; for .safetensors the
        one that made the file, if it is installed
    threads
        threads of the engine; default: the engine decides, or 1 with --ray
    spec
        JSON description for a model file that holds none
    ray
        predict on a Ray cluster: local (started on this machine), auto (the one that runs here), or HOST:PORT
    workers
        with --ray: processes that predict; default: as many as the cluster has cores for
    shard
        with --ray: images per file of points; default 1000
    """
    from keylite.data.boxes import boxes_for, read_boxes
    from keylite.prediction.sources import image_paths
    from keylite.runtime.files import is_standard_output, require_outputs
    from keylite.runtime.modelfile import read_spec
    from keylite.runtime.predictor import Predictor
    from keylite.runtime.spec import unlearnt_words

    _require_fitting(ray, out, format, draw, workers, shard)
    _require_source(inputs, data, boxes, draw, format, ray, reading)
    if not ray and out and out != "-" and is_standard_output(out):
        out = "-"
    said = read_spec(model, spec)
    by_annotation = said.box == "annotation"
    choices: dict[str, Any] = {"engine": engine, "spec": spec, "max_megapixels": reading.max_megapixels}
    for line in unlearnt_words(said.unlearnt):
        log.warning("%s: %s", model.name, line)
    if data is not None:
        assert format is not None
        file = None if out == "-" or format in _folders() else out
        require_outputs({"out": file}, {"data": data, "spec": spec, "model": model})
        labels = reading.dataset(data, said.white_level, said.box)
        _predict_labels(Predictor(model, threads=threads, **choices), labels, out or "-", format)
        return
    paths = image_paths(inputs)
    given = {"boxes": boxes, "spec": spec} | {str(path): path for path in inputs if path.is_file()}
    folder = bool(ray) or format in _folders()
    require_outputs({"out": None if folder or out == "-" else out}, given, {"draw": draw})
    boxes_by_path = boxes_for(paths, read_boxes(boxes), boxes) if boxes else {}
    if not boxes and by_annotation:
        log.warning("no --boxes: the model was trained on boxes, and each whole image is taken as one")
    if ray is None:
        predictor = Predictor(model, threads=threads, **choices)
        _predict_here(predictor, paths, boxes_by_path, out, format, draw, reading.skip_bad)
        return
    assert out is not None
    choices |= {"format": format or RAY_FORMATS[0], "threads": threads or 1, "workers": workers}
    choices["skip_bad"] = reading.skip_bad
    if shard is not None:
        choices["shard"] = shard
    _predict_on_ray(model, paths, Path(out), boxes_by_path, ray, choices)


def _require_fitting(
    ray: str | None, out: str | None, format: str | None, draw: Path | None, workers: int | None, shard: int | None
) -> None:
    """Raise ValueError for flags that do not go with --ray, or only with it, or with the format."""
    unfit = {"--draw": draw} if ray else {"--workers": workers, "--shard": shard}
    if given := [flag for flag, value in unfit.items() if value is not None]:
        raise ValueError(f"predict: {given[0]} has no effect {'with' if ray else 'without'} --ray; leave it out")
    if format and ray and format not in RAY_FORMATS:
        raise ValueError(f"format: expected {' or '.join(RAY_FORMATS)} with --ray, got {format}")
    if format == "parquet" and not ray:
        raise ValueError("format: parquet is written by --ray alone; expected another format, or --ray local beside it")
    if format in _folders() and out in (None, "-"):
        raise ValueError(f"format: {format} is a folder of files; name it with --out")
    if format and draw and not out:
        raise ValueError("format: says how points are written; name a file with --out beside --draw, or leave it out")
    if ray and out in (None, "-"):
        raise ValueError("predict: --ray writes shards; give a folder for them as --out")


def _require_source(
    inputs: tuple[Path, ...],
    data: Path | None,
    boxes: Path | None,
    draw: Path | None,
    format: str | None,
    ray: str | None,
    reading: Reading,
) -> None:
    """Raise ValueError for flags that do not go with --data, or only with it."""
    from keylite.prediction.prelabels import PRELABELS

    if data is None:
        reading.require_labels("predict")
        return
    unfit = {"images": inputs, "--boxes": boxes, "--draw": draw, "--ray": ray}
    if given := [name for name, value in unfit.items() if value]:
        raise ValueError(f"predict: {given[0]}: expected none beside --data, whose objects are predicted; leave it out")
    if format not in PRELABELS:
        raise ValueError(f"format: expected {', '.join(PRELABELS)} with --data, got {format or 'none'}")


def _predict_labels(predictor: Predictor, data: Dataset, out: str, format: str) -> None:
    """Write the points of all objects of a data set."""
    from keylite.data.formats.converting import require_free
    from keylite.prediction.prelabels import points_of_data

    if format in _folders():
        require_free(Path(out), format, data.image_names, data.images)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_kept(out, False)) if format not in _folders() else None
        _write_prelabels(file, points_of_data(predictor, data), out, format)
    _say(out, len(data), len(data.images), [out])


def _write_prelabels(file: TextIO | None, points: tuple[Dataset, Scores], out: str, format: str) -> None:
    """Write points in a format of another tool, to an open file or to a folder, and say what it cannot hold."""
    from keylite.prediction.prelabels import lost_lines, prelabels_text, write_prelabels

    if file:
        file.write(prelabels_text(*points, format).decode() + ("" if format in ("dlc", "csv") else "\n"))
        lines = lost_lines(*points, format)
    else:
        lines = write_prelabels(*points, Path(out), format)
    for line in lines:
        log.warning("%s", line)


def _folders() -> tuple[str, ...]:
    from keylite.prediction.prelabels import FOLDERS

    return FOLDERS


def _say(out: str | None, objects: int, images: int, places: list[str | Path | None]) -> None:
    """Say what was written, unless the points went to standard output."""
    from keylite.runtime.words import counted

    if out != "-":
        written = ", ".join(str(place) for place in places if place)
        print(f"{counted(objects, 'object')} in {counted(images, 'image')}: {written}")


def _predict_here(
    predictor: Predictor,
    paths: list[Path],
    boxes: dict[Path, np.ndarray],
    out: str | None,
    format: str | None,
    draw: Path | None,
    skip_bad: bool,
) -> None:
    """Predict in this process: write the points to `out` and drawings to `draw`. If an image is bad, write nothing."""
    from keylite.prediction.sources import drawing_paths
    from keylite.runtime.files import replacing_within

    out = out or (None if draw else "-")
    drawings = drawing_paths(paths, draw) if draw else {}
    if out and out != "-":
        _require_own_place(out, predictor, paths, drawings, format)
    with contextlib.ExitStack() as stack:
        # the file is moved to its place after the pictures
        file = stack.enter_context(_kept(out, skip_bad)) if out and format not in _folders() else None
        folder = stack.enter_context(replacing_within(draw)) if draw else None
        found = stack.enter_context(contextlib.closing(_found(predictor, paths, boxes, skip_bad)))
        shown = _drawn(found, predictor, folder, drawings) if folder else found
        if file and format == "jsonl":
            images, objects = _write_lines(file, shown, predictor)
        else:
            images, objects = _write_whole(file, shown, predictor, format, out)
    _say(out, objects, images, [out, draw])


def _require_own_place(
    out: str, predictor: Predictor, paths: list[Path], drawings: dict[Path, Path], format: str | None
) -> None:
    """Raise an error if the points cannot be written there, or it is the model, an image or the drawing of one."""
    from keylite.data.formats.converting import require_free
    from keylite.runtime.files import require_outputs

    if format and format in _folders():
        images = list(dict.fromkeys(paths))
        require_free(Path(out), format, [str(image) for image in images], images)
        return
    require_outputs({"out": out}, {"model": predictor.path} | {str(path): path for path in paths})
    drawn_as = {os.path.realpath(drawing): path for path, drawing in drawings.items()}
    if path := drawn_as.get(os.path.realpath(out)):
        raise ValueError(f"out: {out} is where {path} is to be drawn; name another file")


def _found(
    predictor: Predictor, paths: list[Path], boxes: dict[Path, np.ndarray], skip_bad: bool
) -> Generator[Found[Path]]:
    """The points of the images, in order.

    In the end, a warning names the images that cannot be used; unless `skip_bad`, a ValueError does.
    """
    from keylite.runtime.progress import step
    from keylite.runtime.words import listed

    bad: list[str] = []

    def asked() -> Iterator[tuple[Path, Boxes | None]]:
        for path in paths:  # after a bad one, the rest are only read, to name all bad ones: they get no boxes
            yield path, [] if bad and not skip_bad else boxes.get(path)

    stream = predictor.stream(asked(), on_bad=lambda _, error: bad.append(str(error)))
    with contextlib.closing(stream), step("finding points", len(paths)) as done:
        for one in stream:
            done(1)
            if skip_bad or not bad:
                yield one
    if bad:
        line = listed(f"{len(bad)} of {len(paths)} images cannot be used", bad)
        if not skip_bad:
            raise ValueError(f"{line}; mend them, or pass --skip-bad to leave them out")
        log.warning("skipped: %s", line)


def _drawn(
    found: Iterable[Found[Path]], predictor: Predictor, folder: Path, drawings: dict[Path, Path]
) -> Iterator[Found[Path]]:
    """The same points, each after its image with them was drawn into the folder, under the name of its drawing."""
    from keylite.runtime.drawing import with_legend
    from keylite.runtime.images import read_image, write_image

    for one in found:
        image = read_image(one.source, predictor.max_megapixels, predictor.spec.white_level)
        picture = with_legend(one.points.plot(image), one.points.skeleton, points="prediction")
        write_image(folder / drawings[one.source].name, picture)
        yield one


def _write_lines(file: TextIO, found: Iterable[Found[Path]], predictor: Predictor) -> tuple[int, int]:
    """Write a line per image as it comes. Returned is how many images and objects there are."""
    from keylite.prediction.points import points_line

    images = objects = 0
    for path, points, size in found:
        file.write(json.dumps(points_line(str(path), points, size, predictor.path or Path())) + "\n")
        images, objects = images + 1, objects + len(points)
    return images, objects


def _write_whole(
    file: TextIO | None, found: Iterable[Found[Path]], predictor: Predictor, format: str | None, out: str | None
) -> tuple[int, int]:
    """Write all points at the end, unless `out` is None. Returned is how many images and objects there are.

    A picture that was given twice counts once.
    """
    from keylite.prediction.points import points_json
    from keylite.prediction.prelabels import PRELABELS, points_of_images

    by_name = {str(one.source): one for one in found}
    if format in PRELABELS and out:
        _write_prelabels(file, points_of_images(by_name, predictor), out, format)
    elif file:
        result = points_json(by_name, predictor.spec.skeleton.names, predictor.path or Path())
        file.write(json.dumps(result, indent=None if out == "-" else 2) + "\n")
    return len(by_name), sum(len(one.points) for one in by_name.values())


def _predict_on_ray(
    model: Path, paths: list[Path], out: Path, boxes: dict[Path, np.ndarray], address: str, choices: dict[str, Any]
) -> None:
    """Predict on a Ray cluster, into shards in the folder `out`."""
    from keylite.prediction.cluster import predict_on_ray
    from keylite.prediction.shards import BAD
    from keylite.runtime.words import counted, listed

    def tell(done: int, shards: int) -> None:
        if done == shards or done % max(1, shards // LINES) == 0:
            log.info("%d of %d shards", done, shards)

    result = predict_on_ray(model, paths, out, address=address, boxes=boxes or None, on_shard=tell, **choices)
    if result.bad:
        line = listed(f"{len(result.bad)} of {len(paths)} images cannot be used", [one.error for one in result.bad])
        log.warning("skipped, and listed in %s: %s", out / BAD, line)
    before = f", {result.before} of them from before" if result.before else ""
    print(f"{counted(result.images, 'image')} in {counted(result.shards, 'shard')}{before}: {out}")


@contextlib.contextmanager
def _kept(place: str, at_once: bool) -> Iterator[TextIO]:
    """A text file that is kept only if all goes well. place: its name, or - for standard output.

    at_once: standard output gets the text as it comes.
    """
    from keylite.runtime.files import replacing

    if place != "-":
        with replacing(Path(place)) as beside, open(beside, "w", encoding="utf-8", newline="\n") as file:
            yield file
    elif at_once:
        yield sys.stdout
    else:
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            yield file
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout)
