"""Pictures of the objects with the largest errors of an evaluation.

They are made from arrays and images; this module knows no model and no metric.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.formats.reading import Labelled, as_dataset
from keylite.runtime.boxes import numbers_of
from keylite.runtime.drawing import contact_sheet, draw_points, with_legend
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import make_folder, require_outputs
from keylite.runtime.geometry import Crop
from keylite.runtime.images import read_image, write_image
from keylite.runtime.kinds import path_of, require_whole
from keylite.runtime.types import Boxes, FilePath
from keylite.runtime.words import quoted

if TYPE_CHECKING:
    from keylite.evaluation.predictions import Predictions

TILE = 384  # longest side of a tile in the sheet of worst objects, px
COLUMNS = 4  # tiles per row of the sheet


def draw_worst(
    data: Labelled, predictions: Predictions, errors: Boxes | Sequence[float], count: int, folder: FilePath
) -> list[Path]:
    """Draw the objects with the largest errors, labels and predictions on top of each other.

    Each object is cut out anew as the model saw it, 384 px long, so that points are sharp on small crops. A strip below
    each picture explains its colours and marks.

    Args:
        data: The labelled images, or the path of a label file.
        predictions: The points (N, K, 2) in image px and the crops (N) of these objects, in the same order, as
            `predict_dataset` gives them.
        errors: One error per object (N,), such as its NME (normalised mean error, a fraction), or one per point (N, K)
            in px, of which each object's mean counts. NaN: not measured; objects with NaN alone are left out.
        count: How many objects to draw, the worst first. 0 draws none.
        folder: The folder to write to, which is made if it does not exist. Pictures of an earlier call are removed
            from it.

    Returns:
        The files written: `worst.jpg`, a sheet of all, then one picture per object, `worst-NN-NAME.jpg`. Empty if
        no object has an error.

    Raises:
        ArgumentError: A number is out of its range, or `predictions` or `errors` are not those of so many objects.
    """
    data, folder = as_dataset("data", data), path_of("folder", folder)
    require_whole("count", count, least=0)
    if getattr(getattr(predictions, "xy", None), "shape", None) != data.xy.shape or len(predictions.crops) != len(data):
        raise ArgumentError(
            f"predictions: expected those of the {len(data)} objects of {data.called}, as predict_dataset(model, data) "
            f"gives them, got {quoted(predictions)}"
        )
    figures, form = _figures(errors, len(data))
    measured = np.flatnonzero(np.isfinite(figures))
    worst = measured[np.argsort(-figures[measured], kind="stable")][:count].tolist()
    if not worst:
        _remove_pictures(folder)
        return []
    tiles = [_tile(data, predictions, index) for index in worst]
    names = [re.split(r"[\\/]", data.sample_name(index))[-1] for index in worst]
    captions = [f"{form.format(figures[index])}  {name}" for index, name in zip(worst, names, strict=True)]
    pictures = {"worst.jpg": _explained(contact_sheet(tiles, COLUMNS, captions), data)}
    for rank, (tile, name) in enumerate(zip(tiles, names, strict=True), start=1):
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", re.sub(r"\.\w+(?=#|$)", "", name))
        pictures[f"worst-{rank:02d}-{stem}.jpg"] = _explained(tile, data)
    earlier = [path.name for path in folder.glob("worst*.jpg")]
    written = {name: folder / name for name in (*pictures, *earlier)}
    require_outputs(written, data.files_named(written))
    make_folder(folder)
    _remove_pictures(folder)
    for name, picture in pictures.items():
        write_image(folder / name, picture)
    return [folder / name for name in pictures]


def _explained(picture: np.ndarray, data: Dataset) -> np.ndarray:
    """A picture above the legend of its marks."""
    return with_legend(picture, data.skeleton, points="prediction", truth="label")


def _remove_pictures(folder: Path) -> None:
    """Remove the pictures of an earlier `draw_worst` from the folder, and nothing else."""
    for path in folder.glob("worst*.jpg"):
        if re.fullmatch(r"worst(-\d{2,}-[A-Za-z0-9_-]*)?\.jpg", path.name):
            path.unlink()


def _tile(dataset: Dataset, predictions: Predictions, index: int) -> np.ndarray:
    """One object's crop, TILE px long, with its predicted points and their labels."""
    crop = predictions.crops[index]
    scale = TILE / max(crop.size)
    size = (round(crop.size[0] * scale), round(crop.size[1] * scale))
    large = Crop(crop.matrix * scale, size, crop.mirrored)
    image = dataset.images[dataset.image_index[index]]
    picture = large.warp(read_image(image, math.inf, dataset.white_level))  # of any size: it was read before
    points, truth = large.to_crop(predictions.xy[index]), large.to_crop(dataset.xy[index])
    return draw_points(picture, points, dataset.skeleton, truth=truth)


def _figures(values: object, count: int) -> tuple[np.ndarray, str]:
    """One figure per object (N,), NaN if it was not measured, and the format to print it in."""
    errors = numbers_of("errors", values)
    if errors.ndim not in (1, 2) or len(errors) != count:
        raise ArgumentError(
            f"errors: expected NME ({count},) or point errors ({count}, K) px, got shape {errors.shape}"
        )
    if errors.ndim == 1:
        return errors, "NME {:.1%}"
    known = np.isfinite(errors)
    total, counts = np.where(known, errors, 0).sum(axis=1), known.sum(axis=1)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan), "{:.1f} px"
