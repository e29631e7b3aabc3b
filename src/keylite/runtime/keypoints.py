"""Keypoints: the points that a model predicts in one image, as arrays, JSON, a table or a drawing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import numpy as np

from keylite.runtime.drawing import draw_points
from keylite.runtime.errors import ArgumentError
from keylite.runtime.images import open_image
from keylite.runtime.packages import require
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.tables import Table, as_html
from keylite.runtime.types import Image, Indices
from keylite.runtime.words import counted, first_of, quoted

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports, reportMissingTypeStubs] - it is optional

COLUMNS = ("object", "keypoint", "x", "y", "score", "sigma")


class ObjectDict(TypedDict):
    """One object in `Keypoints.to_dict`. box: xyxy px. xy: K pairs, px. score, sigma: K numbers. None means NaN."""

    box: list[float]
    xy: list[list[float | None]]
    score: list[float | None]
    sigma: list[float | None]


class PointsDict(TypedDict):
    """The result of `Keypoints.to_dict`."""

    origin: Literal["corner"]
    keypoints: list[str]
    objects: list[ObjectDict]


@dataclasses.dataclass(frozen=True, eq=False)
class Keypoints:
    """The predicted points of N objects in one image; K is the number of keypoints.

    `points[0]` holds the first object alone; a slice, a mask or a list of numbers gives several objects; a loop goes
    through the objects one by one. `points["nose"]` is the xy (N, 2) px of that keypoint in all objects.

    Attributes:
        xy: (N, K, 2) float64, continuous px of the image. NaN for a keypoint that no training object labels.
        score: (N, K) float32: the larger, the surer. NaN if the head gives no score.
        sigma: (N, K) float64: the distance to expect between a point and its label, px of the image. NaN if the
            model file does not say what its scores mean.
        boxes: (N, 4) float64 xyxy px of the image: the boxes that you passed in. N is 0 if there were none.
        skeleton: The names and edges of the K keypoints.
    """

    xy: np.ndarray
    score: np.ndarray
    sigma: np.ndarray
    boxes: np.ndarray
    skeleton: Skeleton

    def __len__(self) -> int:
        return len(self.xy)

    @overload
    def __getitem__(self, which: str) -> np.ndarray: ...
    @overload
    def __getitem__(self, which: int | slice | Indices) -> Keypoints: ...
    def __getitem__(self, which: str | int | slice | Indices) -> np.ndarray | Keypoints:
        """The objects of a number, a slice, a mask or a list of numbers, or the xy (N, 2) px of a named keypoint.

        Args:
            which: A number from 0 on, a slice, a mask (N,) of true and false, a list of numbers, or a keypoint's name.

        Raises:
            ArgumentError: No keypoint has that name.
            IndexError: No object has that number, or `which` is none of these.
        """
        if isinstance(which, str):
            names = self.skeleton.names
            if which not in names:
                known = first_of(names, 10, ", ")
                raise ArgumentError(f"points: expected the name of a keypoint, got {quoted(which)}; there are {known}")
            return self.xy[:, names.index(which)]
        try:
            rows = np.atleast_1d(np.arange(len(self))[which])
        except IndexError:
            what = f"numbers below {len(self)}, a slice, or a mask of {counted(len(self), 'object')}"
            raise IndexError(f"points: expected {what}, got {quoted(which)}") from None
        if rows.ndim != 1:
            raise IndexError(f"points: expected a number, a slice, a mask or a list of numbers, got {quoted(which)}")
        return Keypoints(self.xy[rows], self.score[rows], self.sigma[rows], self.boxes[rows], self.skeleton)

    def __iter__(self) -> Iterator[Keypoints]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        return f"Keypoints({counted(len(self), 'object')}, {counted(len(self.skeleton), 'keypoint')})"

    def _repr_html_(self) -> str:
        rows = [
            [str(number), name, *("-" if np.isnan(figure) else f"{figure:.2f}" for figure in figures)]
            for number, name, *figures in zip(*self._columns(), strict=True)
        ]
        return as_html([repr(self), Table(COLUMNS, rows)])

    def to_dict(self) -> PointsDict:
        """The points as plain lists, ready for JSON.

        Returns:
            `origin`: "corner", which means continuous px. `keypoints`: the K names. `objects`: for each object its
            `box`, `xy`, `score` and `sigma`, with None in place of NaN.
        """
        return {
            "origin": "corner",
            "keypoints": list(self.skeleton.names),
            "objects": [
                {"box": box.tolist(), "xy": _plain(xy), "score": _plain(score), "sigma": _plain(sigma)}
                for box, xy, score, sigma in zip(self.boxes, self.xy, self.score, self.sigma, strict=True)
            ],
        }

    def to_dataframe(self) -> pandas.DataFrame:  # pyright: ignore[reportUnknownMemberType, reportUnknownParameterType]
        """The points as a pandas table with one row per object and keypoint.

        Returns:
            The columns `object` (from 0 on), `keypoint` (its name), `x`, `y`, `score` and `sigma`; x, y and sigma in px
            of the image.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return require("pandas").DataFrame(dict(zip(COLUMNS, self._columns(), strict=True)))

    def plot(self, image: Image) -> np.ndarray:
        """A copy of the image with the points of all objects and their edges.

        Args:
            image: The image that the points were predicted in: a path, the bytes of an image file, or uint8 (H, W, 3)
                RGB. It is not changed. Points with NaN are left out.

        Returns:
            uint8 (H, W, 3) RGB.

        Raises:
            ImageError: The image cannot be read, or the array is not a picture.
            FileNotFoundError: There is no file at this path.
        """
        drawn = open_image(image, math.inf).pixels().copy()  # any size: the predictor's limit has passed it already
        for xy in self.xy:
            drawn = draw_points(drawn, xy, self.skeleton)
        return drawn

    def _columns(self) -> list[Sequence[Any] | np.ndarray]:
        """The columns of COLUMNS, with one entry per object and keypoint."""
        objects, keypoints = len(self), len(self.skeleton)
        numbers = np.repeat(np.arange(objects), keypoints)
        figures = (self.xy[..., 0], self.xy[..., 1], self.score, self.sigma)
        return [numbers, list(self.skeleton.names) * objects, *(figure.ravel() for figure in figures)]


def _plain(array: np.ndarray) -> list[Any]:
    plain = array.astype(object)
    plain[~np.isfinite(array)] = None
    return plain.tolist()
