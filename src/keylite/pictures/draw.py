"""Pictures of the worst objects of an evaluation.

Knows nothing of models, metrics or where predictions come from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from keylite.data.dataset import Dataset
from keylite.runtime.drawing import contact_sheet, draw_points
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import make_folder, require_outputs
from keylite.runtime.geometry import Crop
from keylite.runtime.images import read_image, write_image
from keylite.runtime.kinds import require_whole
from keylite.runtime.types import FilePath

TILE = 384  # longest side of a tile in the sheet of worst objects, px


class Predicted(Protocol):
    """Points xy (N, K, 2) image px and the crops (N) that they were predicted from."""

    @property
    def xy(self) -> np.ndarray: ...
    @property
    def crops(self) -> Sequence[Crop]: ...


def draw_worst(
    data: Dataset, predictions: Predicted, errors: np.ndarray, count: int, folder: FilePath, columns: int = 4
) -> list[Path]:
    """The files written: `worst.jpg`, a contact sheet, then one picture an object as `worst-NN-NAME.jpg`.

    Shows the `count` objects with the largest error, the worst first, each cut out anew as the model saw it, TILE px
    long, so that points are sharp on small crops. errors: NME (N,), or point errors (N, K) px, of which each object's
    mean counts; objects with NaN alone are left out. The folder is made where missing; pictures of an earlier call are
    removed from it. Empty where nothing has an error. Raises ValueError for a count below 0.
    """
    require_whole("count", count, least=0)
    figures, form = _figures(errors, len(data))
    measured = np.flatnonzero(np.isfinite(figures))
    worst = measured[np.argsort(-figures[measured], kind="stable")][:count].tolist()
    folder = Path(folder)
    if not worst:
        _remove_pictures(folder)
        return []
    tiles = [_tile(data, predictions, i) for i in worst]
    names = [re.split(r"[\\/]", data.sample_name(i))[-1] for i in worst]
    captions = [f"{form.format(figures[i])}  {name}" for i, name in zip(worst, names, strict=True)]
    pictures = {"worst.jpg": contact_sheet(tiles, columns, captions)}
    for rank, (tile, name) in enumerate(zip(tiles, names, strict=True), start=1):
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", re.sub(r"\.\w+(?=#|$)", "", name))
        pictures[f"worst-{rank:02d}-{stem}.jpg"] = tile
    earlier = [path.name for path in folder.glob("worst*.jpg")]
    written = {name: folder / name for name in (*pictures, *earlier)}
    require_outputs(written, data.files_named(written))
    make_folder(folder)
    _remove_pictures(folder)
    for name, picture in pictures.items():
        write_image(folder / name, picture)
    return [folder / name for name in pictures]


def _remove_pictures(folder: Path) -> None:
    """Leave nothing of an earlier `draw_worst` in the folder, and everything else."""
    for path in folder.glob("worst*.jpg"):
        if re.fullmatch(r"worst(-\d{2,}-[A-Za-z0-9_-]*)?\.jpg", path.name):
            path.unlink()


def _tile(dataset: Dataset, predictions: Predicted, index: int) -> np.ndarray:
    """One object's crop, TILE px long, with its points and their labels."""
    crop = predictions.crops[index]
    scale = TILE / max(crop.size)
    size = (round(crop.size[0] * scale), round(crop.size[1] * scale))
    large = Crop(crop.matrix * scale, size, crop.mirrored)
    image = dataset.images[dataset.image_index[index]]
    picture = large.warp(read_image(image, math.inf, dataset.white_level))  # it was read before
    points, truth = large.to_crop(predictions.xy[index]), large.to_crop(dataset.xy[index])
    return draw_points(picture, points, dataset.skeleton, truth=truth)


def _figures(errors: np.ndarray, count: int) -> tuple[np.ndarray, str]:
    """One figure (N,) an object, NaN where there is none, and the format to print it in."""
    if errors.ndim not in (1, 2) or len(errors) != count:
        raise ArgumentError(
            f"errors: expected NME ({count},) or point errors ({count}, K) px, got shape {errors.shape}"
        )
    if errors.ndim == 1:
        return errors, "NME {:.1%}"
    known = np.isfinite(errors)
    total, counts = np.where(known, errors, 0).sum(axis=1), known.sum(axis=1)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan), "{:.1f} px"
