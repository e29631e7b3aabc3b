"""Golden vectors: inputs and the outputs they must give, to test an app that runs the model in another language.

They are computed by the predictor that users run.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from keylite.data.dataset import Dataset, require_datasets
from keylite.data.formats.reading import Labelled, as_dataset
from keylite.evaluation.predictions import predict_dataset
from keylite.runtime.files import make_folder, require_outputs, write_bytes, write_text
from keylite.runtime.geometry import cut
from keylite.runtime.images import write_image
from keylite.runtime.kinds import path_of, require_whole
from keylite.runtime.predictor import Predictor
from keylite.runtime.types import FilePath

CASES = 8  # objects by default
VECTORS = "golden.json"


def require_new_vectors(folder: Path, data: Dataset, count: int = CASES) -> None:
    """Raise an error if the vectors cannot be written to a folder, or would replace files of the data."""
    require_datasets(data=data)
    crops = [f"crop_{row}.{suffix}" for row in range(min(count, len(data))) for suffix in ("png", "bin")]
    files = {name: Path(folder) / name for name in (*crops, VECTORS)}
    require_outputs(files, data.files_named(files))


def write_golden(
    model: FilePath, data: Labelled, folder: FilePath, count: int = CASES, engine: str | None = None
) -> Path:
    """Write golden vectors: crops of some objects with the raw outputs and points that the model gives for them.

    `crop_N.png` and `crop_N.bin` hold the same pixels, uint8 (H, W, 3) RGB, row by row. In `golden.json` each case has
    `raw` (K, C), the output of the engine for these pixels; `unit_xy` (K, 2), the decoded points in unit coordinates
    of the crop; `matrix` (2, 3), which turns px of the crop into px of the image; and `xy` (K, 2), the points in px of
    the image, where the centre of a pixel is at + 0.5. `xy` is null for a keypoint that no training object labels.

    Args:
        model: The model file.
        data: Labelled images, or the path of a label file. The first objects are taken.
        folder: The folder to write to, which is made if it does not exist.
        count: The number of objects, at least 1. All, if there are fewer.
        engine: What runs the file; see `Predictor`. None: the usual engine of this kind of file.

    Returns:
        The path of `golden.json`.

    Raises:
        ArgumentError: An argument has a wrong value, or a file to write is one of the images or labels.
        ModelFileError: The file is no model file.
    """
    model, folder = path_of("model", model), path_of("folder", folder)
    require_whole("count", count)
    data = as_dataset("data", data)
    require_new_vectors(folder, data, count)
    predictor = Predictor(model, engine=engine, threads=1)
    untaught = predictor.spec.untaught
    chosen = dataclasses.replace(data, white_level=predictor.spec.white_level).subset(np.arange(min(count, len(data))))
    predictions = predict_dataset(predictor, chosen)
    make_folder(folder)
    cases = []
    for row, crop in enumerate(predictions.crops):
        (pixels,) = cut(chosen.open_image(int(chosen.image_index[row])), [crop])
        write_image(folder / f"crop_{row}.png", pixels)
        write_bytes(folder / f"crop_{row}.bin", pixels.tobytes())
        raw = predictor.engine(pixels[None])[0]
        unit_xy = predictor.spec.head.decode(raw[None])[0][0]
        corners = crop.from_unit(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        width, height = predictor.spec.size
        matrix = np.column_stack([(corners[1] - corners[0]) / width, (corners[2] - corners[0]) / height, corners[0]])
        xy = crop.from_unit(unit_xy)
        cases.append(
            {
                "crop": f"crop_{row}",
                "raw": np.round(raw.astype(float), 7).tolist(),
                "unit_xy": unit_xy.astype(float).tolist(),
                "matrix": matrix.tolist(),
                "xy": [None if k in untaught else point for k, point in enumerate(xy.tolist())],
            }
        )
    spec = predictor.spec
    facts = {
        "model": model.name,
        "sha256": predictor.sha256,
        "engine": predictor.engine_name,
        "size": list(spec.size),
        "input_type": spec.input_type,
        "output": None if spec.output is None else [spec.output.scale, spec.output.zero],
        "head": type(spec.head).__name__.lower(),
        "keypoints": list(spec.skeleton.names),
        "cases": cases,
    }
    write_text(folder / VECTORS, json.dumps(facts, indent=1) + "\n")
    return folder / VECTORS
