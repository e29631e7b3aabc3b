"""`keylite predict`: points of images, as JSON and drawn."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from keylite.cli.shared import write_json

if TYPE_CHECKING:
    from keylite.runtime.predictor import Keypoints

log = logging.getLogger("keylite")


def _no_flag(type_: Any, value: str | None) -> None:
    """ValueError for a flag where a file name, or - for standard output, is expected."""
    if value and value != "-" and value.startswith("-"):
        raise ValueError(f"expected a file name or -, got {value}")


def predict(
    model: Path,
    *inputs: Path,
    boxes: Path | None = None,
    json_path: Annotated[str | None, Parameter(name="--json", allow_leading_hyphen=True, validator=_no_flag)] = None,
    format: Literal["keylite", "coco"] = "keylite",
    draw: Path | None = None,
    engine: str | None = None,
    threads: int | None = None,
    spec: Path | None = None,
    max_megapixels: float = 100.0,
    skip_bad: bool = False,
) -> None:
    """Find the points in images.

    Parameters
    ----------
    model
        .safetensors, .onnx or .tflite
    inputs
        images and folders of images
    boxes
        JSON: {"photo.jpg": [[x0, y0, x1, y1], ...]}; without it each whole image is one object
    json_path
        write the points here; - is standard output, also without --json and --draw
    format
        keylite: continuous coordinates, corner origin; coco: COCO keypoints, pixel indices
    draw
        folder for the images with their points
    engine
        onnx, litert, pytorch or keras; default: the one that made the file, if it is installed
    threads
        of the engine; default: its own choice
    spec
        JSON description of a file that holds none
    max_megapixels
        larger images are refused
    skip_bad
        leave out images that cannot be read, and say which
    """
    from keylite.data.boxes import boxes_for, read_boxes
    from keylite.data.dataset import listed
    from keylite.draw import draw_points
    from keylite.points import points_coco, points_json
    from keylite.runtime.images import read_image, write_image
    from keylite.runtime.predictor import Predictor

    predictor = Predictor(model, engine=engine, threads=threads, max_megapixels=max_megapixels, spec=spec)
    json_path = json_path or (None if draw else "-")  # points must go somewhere
    paths = image_paths(inputs)
    boxes_by_path = boxes_for(paths, read_boxes(boxes)) if boxes else {}
    drawings = drawing_paths(paths, draw) if draw else {}
    if not boxes and predictor.spec.box == "annotation":
        log.warning("no --boxes: the model was trained on boxes, and each whole image is taken as one")
    bad = {}
    for path in paths:  # all are looked at before anything is made
        try:
            read_image(path, max_megapixels)
        except (ValueError, OSError) as error:
            bad[path] = str(error)
    if bad:
        line = listed(f"{len(bad)} of {len(paths)} images cannot be used", list(bad.values()))
        if not skip_bad:
            raise ValueError(f"{line}; mend them, or pass --skip-bad to leave them out")
        log.warning("skipped: %s", line)
    found: dict[str, Keypoints] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for path in (path for path in paths if path not in bad):
        image = read_image(path, max_megapixels)
        found[str(path)] = points = predictor(image, boxes_by_path.get(path))
        sizes[str(path)] = (image.shape[1], image.shape[0])
        if draw:
            for xy in points.xy:
                image = draw_points(image, xy, points.skeleton)
            draw.mkdir(parents=True, exist_ok=True)
            write_image(drawings[path], image)
    if json_path:
        skeleton = predictor.spec.skeleton
        result = points_coco(found, sizes, skeleton) if format == "coco" else points_json(found, skeleton.names, model)
        if json_path == "-":
            print(json.dumps(result))
            return
        write_json(Path(json_path), result)
    objects = sum(len(points) for points in found.values())
    written = ", ".join(str(place) for place in (json_path, draw) if place)
    print(f"{objects} objects in {len(found)} images{f': {written}' if written else ''}")


def drawing_paths(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Where each image is drawn: FOLDER/NAME_points.jpg. ValueError where two would be one file, or one is an input."""
    drawings: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    inputs = {path.resolve() for path in paths}
    for path in paths:
        drawing = folder / f"{path.stem}_points.jpg"
        if taken.setdefault(drawing, path) != path:
            raise ValueError(
                f"draw: {taken[drawing]} and {path} would both be drawn as {drawing}; draw them in two calls"
            )
        if drawing.resolve() in inputs:
            raise ValueError(f"draw: {drawing} is one of the images; choose another folder")
        drawings[path] = drawing
    return drawings


def image_paths(inputs: tuple[Path, ...]) -> list[Path]:
    """Images as given, and those in the folders given, by name."""
    from keylite.runtime.images import IMAGE_SUFFIXES

    if not inputs:
        raise ValueError("predict: expected images or folders, got none")
    paths: list[Path] = []
    for entry in inputs:
        if entry.is_dir():
            inside = sorted(path for path in entry.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise ValueError(f"{entry}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
            paths += inside
        elif entry.exists():
            paths.append(entry)
        else:
            raise FileNotFoundError(f"{entry}: no such image or folder")
    return paths
