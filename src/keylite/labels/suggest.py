"""What to label next: pictures that stand for many others on which a model is unsure, and unlike what is labelled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from keylite.data.arrays import from_arrays
from keylite.data.copies import copy_picture, file_names
from keylite.data.dataset import Dataset
from keylite.data.examples import crop_boxes, with_boxes
from keylite.data.formats.converting import require_empty
from keylite.data.formats.reading import Labelled, as_dataset
from keylite.data.likeness import alike
from keylite.data.same_picture import files_of
from keylite.labels.variety import CANDIDATES, Seen, chosen_rows, doubt_of, outline_of
from keylite.runtime.boxes import as_boxes
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import replacing_within
from keylite.runtime.heads import Regression
from keylite.runtime.images import MAX_MEGAPIXELS
from keylite.runtime.kinds import kind_words, path_of, require_flags, require_whole
from keylite.runtime.packages import require
from keylite.runtime.predictor import Predictor, as_predictor
from keylite.runtime.progress import step
from keylite.runtime.results import Result
from keylite.runtime.spec import ModelSpec
from keylite.runtime.tables import Table, as_html, as_text
from keylite.runtime.types import Boxes, FilePath
from keylite.runtime.words import counted
from keylite.version import __version__

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports] - it need not be there

SHOWN = 12  # pictures that a terminal shows; JSON and the list have all


class Suggestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A picture to label.

    Attributes:
        image: Its path, as it was given.
        objects: How many boxes it has; 1 if it was taken as a whole.
        expected_error: The mean distance to expect between a point of its least sure object and the label, as a share
            of the longer side of the object's box. None if the model gives no sigma.
    """

    image: str
    objects: int
    expected_error: float | None


class Suggestions(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which pictures to label next. `print(suggestions)` shows the first ones.

    Attributes:
        keylite: The version that made it.
        model: The name of the model file; empty for a network in memory.
        count: How many different pictures were given.
        labelled: How many of them are labelled already, or show the same as one that is.
        empty: How many of them have no box.
        pictures: Those to label, the one that was chosen first, first.
        notes: What the choice could not use, a line each.
    """

    keylite: str
    model: str
    count: int
    labelled: int
    empty: int
    pictures: tuple[Suggestion, ...]
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> list[str]:
        """The paths of the pictures, as `write_points` and `Predictor.stream` take them."""
        return [one.image for one in self.pictures]

    def copy_to(self, folder: FilePath) -> None:
        """Copy the pictures to a folder; they are linked if that is possible. All of them appear, or none.

        Args:
            folder: A new or empty folder.

        Raises:
            ArgumentError: The folder holds something, or cannot be written to.
            DataError: Two pictures have the same name.
        """
        folder = path_of("folder", folder)
        require_empty(folder, "folder")
        images = [Path(name) for name in self.images]
        with replacing_within(folder) as inside:
            for image, name in zip(images, file_names(self.images, images, "folder", labelled=False), strict=True):
                copy = inside / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy_picture(image, copy)

    def __repr__(self) -> str:
        return f"Suggestions({len(self.pictures)} of {counted(self.count, 'picture')})"

    def __str__(self) -> str:
        return as_text(parts_of(self))

    def _repr_html_(self) -> str:
        return as_html(parts_of(self))

    def to_dataframe(self) -> pandas.DataFrame:
        """Give the pictures as a pandas table.

        Returns:
            One row per picture: image, objects, expected_error.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return require("pandas").DataFrame([msgspec.structs.asdict(one) for one in self.pictures])


def suggest(
    model: Predictor | FilePath,
    images: Iterable[FilePath | tuple[FilePath, Boxes | None]],
    *,
    count: int = 50,
    data: Labelled | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    skip_bad: bool = False,
) -> Suggestions:
    """Say which pictures to label next: those that stand for many others of which the model is unsure.

    docs/suggest.md says how they are chosen, and what that gains over a random choice. The same arguments choose the
    same pictures.

    Args:
        model: The model file, or an open predictor: trained on the labels that there are.
        images: Paths of pictures, or pairs (path, boxes) as `Predictor.stream` takes them. One that comes twice counts
            once.
        count: How many pictures to choose, at least 1; fewer if there are not so many.
        data: The labels that there are, as a data set or the path of a label file. Their pictures and nearly equal
            ones are left out, and what is like them comes late. None: it is not known what is labelled.
        max_megapixels: A larger picture is refused.
        skip_bad: Whether to leave out pictures that cannot be used; else the line that refuses them names them all.

    Returns:
        The pictures to label.

    Raises:
        ArgumentError: An argument has a wrong value, or no picture is left to choose from.
        DataError: Pictures cannot be used, or `data` has other keypoints than the model.

    Example:
        >>> chosen = keylite.suggest("faces.onnx", sorted(Path("pictures").glob("*.jpg")), data="labels.json")
        >>> keylite.write_points("faces.onnx", chosen.images, "tasks.json", format="label-studio")
    """
    require_whole("count", count)
    require_flags(skip_bad=skip_bad)
    labels = None if data is None else as_dataset("data", data)
    predictor = as_predictor("model", model)
    level = predictor.spec.white_level
    boxes = _boxes_by_image(images)
    asked = [image for image, own in boxes.items() if own is None or len(own)]
    if not asked:
        raise ArgumentError(f"suggest: expected a picture with a box, got {counted(len(boxes), 'picture')} without")
    nothing = np.full((len(asked), len(predictor.spec.skeleton), 2), np.nan)
    pool = from_arrays(asked, nothing, skeleton=predictor.spec.skeleton, name="pictures")
    pool = pool.check_images(max_megapixels, skip_bad, level)
    known = None if labels is None else _checked(labels, predictor.spec, max_megapixels, skip_bad)
    there = _labelled(pool, known)
    if there.all():
        raise ArgumentError(f"suggest: expected pictures without labels, but all {len(pool)} are labelled already")
    free = pool.subset(np.flatnonzero(~there))
    seen = _seen(predictor, free, [boxes[name] for name in free.image_names])
    before = None if known is None else _seen(predictor, known, _boxes_of(known, predictor.spec))
    rows = chosen_rows(seen, before, count)
    sure = predictor.spec.confidence is not None
    pictures = [
        Suggestion(name, 1 if (own := boxes[name]) is None else len(own), float(seen.doubt[row]) if sure else None)
        for row, name in ((row, free.image_names[row]) for row in rows)
    ]
    return Suggestions(
        keylite=__version__,
        model=predictor.path.name if predictor.path else "",
        count=len(boxes),
        labelled=int(there.sum()),
        empty=len(boxes) - len(asked),
        pictures=tuple(pictures),
        notes=(*_notes(predictor.spec, known, len(rows), count, len(free)), *pool.notes),
    )


def _boxes_by_image(images: Iterable[FilePath | tuple[FilePath, Boxes | None]]) -> dict[str, np.ndarray | None]:
    """The boxes (N, 4) of each picture by its path, None for the whole picture; ArgumentError if one is no path."""
    if isinstance(images, str | Path) or not isinstance(images, Iterable):
        raise ArgumentError(f"images: expected a list of paths, got {kind_words(images)}")
    found: dict[str, np.ndarray | None] = {}
    for item in images:
        image, boxes = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        found[str(path_of("images", image))] = None if boxes is None else as_boxes(boxes)
    if not found:
        raise ArgumentError("images: expected pictures, got none")
    return found


def _checked(data: Dataset, spec: ModelSpec, max_megapixels: float, skip_bad: bool) -> Dataset:
    """The labelled objects, with every picture read; ArgumentError if they have other keypoints than the model."""
    if len(data.skeleton) != len(spec.skeleton):
        raise ArgumentError(
            f"{data.called}: expected the model's {len(spec.skeleton)} keypoints, got {len(data.skeleton)}; "
            "give the labels that the model was trained on"
        )
    return with_boxes(data, spec.box, skip_bad).check_images(max_megapixels, skip_bad, spec.white_level)


def _boxes_of(data: Dataset, spec: ModelSpec) -> list[np.ndarray | None]:
    """The boxes of each picture of a data set; None: the whole picture."""
    boxes = crop_boxes(data, spec.box)
    return [None if boxes is None else boxes[data.image_index == image] for image in range(len(data.images))]


def _labelled(pool: Dataset, known: Dataset | None) -> np.ndarray:
    """(M,) bool: which pictures are in the labels, or show the same as one that is."""
    if known is None:
        return np.zeros(len(pool), bool)
    assert pool.likeness is not None
    assert known.likeness is not None
    files = set(files_of(known.images))
    same = np.array([file in files for file in files_of(pool.images)])
    return same | (alike(pool.likeness, known.likeness).other >= 0)


def _seen(predictor: Predictor, data: Dataset, boxes: list[np.ndarray | None]) -> Seen:
    """What is seen in the M pictures of a data set: by themselves, and by the model in the objects of these boxes."""
    assert data.likeness is not None
    outlines, doubts = [], []
    asked = zip(data.images, boxes, strict=True)
    with step(f"finding the points of {data.called}", len(data.images)) as done:
        for one in predictor.stream(asked):
            done(1)
            doubt = doubt_of(one.points)
            row = int(np.argmax(doubt))
            outlines.append(outline_of(one.points.xy[row]))
            doubts.append(doubt[row])
    return Seen(data.likeness, np.array(outlines), np.array(doubts))


def _notes(spec: ModelSpec, known: Dataset | None, got: int, count: int, free: int) -> tuple[str, ...]:
    notes = []
    if spec.confidence is None:
        how = "variety alone" if isinstance(spec.head, Regression) else "its scores and variety"
        notes.append(f"the model gives no sigma (docs/evaluation.md), so pictures are chosen by {how}")
    if known is None:
        notes.append("no labels were given, so it is not known what is labelled already")
    if free > CANDIDATES:
        notes.append(f"{CANDIDATES:,} of {free:,} pictures, drawn at random, were chosen from; the others were not")
    elif got < count:
        notes.append(
            f"{counted(got, 'picture')} in place of {count}: the others are labelled, or nearly equal to these"
        )
    return tuple(notes)


def parts_of(chosen: Suggestions) -> list[Table | str]:
    """What is printed: the first pictures, and the counts."""
    rows = [
        (one.image, str(one.objects), "-" if one.expected_error is None else f"{100 * one.expected_error:.1f} %")
        for one in chosen.pictures[:SHOWN]
    ]
    more = [(f"and {len(chosen.pictures) - SHOWN} more", "", "")] if len(chosen.pictures) > SHOWN else []
    left_out = [
        f"{number} {why}" for number, why in ((chosen.labelled, "labelled"), (chosen.empty, "without a box")) if number
    ]
    line = f"{len(chosen.pictures)} of {counted(chosen.count, 'picture')}"
    return [
        Table(("label next", "objects", "expected error"), [*rows, *more]),
        f"{line}; left out: {', '.join(left_out)}" if left_out else line,
        *chosen.notes,
    ]
