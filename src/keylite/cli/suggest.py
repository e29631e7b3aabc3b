"""`keylite suggest`: says which pictures to label next."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from keylite.cli.output import show
from keylite.cli.shared import USUAL, As

log = logging.getLogger("keylite")


def suggest(
    model: Path,
    *inputs: Path,
    count: int = 50,
    data: Path | None = None,
    boxes: Path | None = None,
    out: Path | None = None,
    copy: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
    engine: str | None = None,
    threads: int | None = None,
    spec: Path | None = None,
    reading: As = USUAL,
) -> None:
    """Say which pictures to label next: those that stand for many of which the model is unsure.

    Parameters
    ----------
    model
        .safetensors, .onnx or .tflite: trained on the labels that there are
    inputs
        images, folders of images, and .txt files with one path of an image per line
    count
        how many pictures to choose
    data
        labels that there are: their pictures are left out, and so is what differs little from them
    boxes
        JSON file: {"photo.jpg": [[x0, y0, x1, y1], ...]}; without it each whole image is one object
    out
        file for the chosen pictures: one path per line, as keylite predict takes it
    copy
        new or empty folder for the chosen pictures
    json_output
        print JSON in place of a table
    engine
        onnx, litert, litert-reference, tflm, pytorch or tensorflow; default: litert for .tflite; for .safetensors the
        one that made the file, if it is installed
    threads
        threads of the engine; default: the engine decides
    spec
        JSON description for a model file that holds none
    """
    from keylite.data.boxes import boxes_for, read_boxes
    from keylite.data.formats.converting import require_empty
    from keylite.labels.suggest import parts_of, suggest
    from keylite.prediction.sources import image_paths
    from keylite.runtime.files import require_outputs, write_text
    from keylite.runtime.predictor import Predictor
    from keylite.runtime.words import is_utf8, listed

    if data is None:
        reading.require_labels("suggest")
    paths = image_paths(inputs, "suggest")
    given = {"boxes": boxes, "spec": spec, "data": data, "model": model}
    require_outputs({"out": out}, given | {str(path): path for path in [*inputs, *paths] if path.is_file()})
    if copy is not None:
        require_empty(copy, "copy")
    odd = [str(path) for path in paths if "\n" in str(path) or not is_utf8(path)]
    if out is not None and odd:
        raise ValueError(f"{listed('out: a list of paths in UTF-8 cannot hold these names', odd)}; rename the pictures")
    predictor = Predictor(model, engine=engine, threads=threads, spec=spec, max_megapixels=reading.max_megapixels)
    if not boxes and predictor.spec.box == "annotation":
        log.warning("no --boxes: the model was trained on boxes, and each whole image is taken as one")
    by_path = boxes_for(paths, read_boxes(boxes), boxes) if boxes else {}
    labels = None if data is None else reading.dataset(data, predictor.spec.white_level, predictor.spec.box)
    chosen = suggest(
        predictor,
        [(path, by_path.get(path)) for path in paths],
        count=count,
        data=labels,
        max_megapixels=reading.max_megapixels,
        skip_bad=reading.skip_bad,
    )
    if out is not None:
        write_text(out, "".join(f"{image}\n" for image in chosen.images))
    if copy is not None:
        chosen.copy_to(copy)
    if json_output:
        print(chosen.to_json().decode())
    else:
        show(parts_of(chosen))
