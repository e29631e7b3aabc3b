"""The points that a model finds in one image, and what can be made of them."""

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
    import pandas  # pyright: ignore[reportMissingImports, reportMissingTypeStubs] - it need not be there

COLUMNS = ("object", "keypoint", "x", "y", "score", "sigma")


class ObjectDict(TypedDict):
    """An object of `Keypoints.to_dict`. box: xyxy px. xy: K pairs, px. score, sigma: K numbers. None is NaN."""

    box: list[float]
    xy: list[list[float | None]]
    score: list[float | None]
    sigma: list[float | None]


class PointsDict(TypedDict):
    """What `Keypoints.to_dict` gives."""

    origin: Literal["corner"]
    keypoints: list[str]
    objects: list[ObjectDict]


@dataclasses.dataclass(frozen=True, eq=False)
class Keypoints:
    """Points of N objects in one image.

    `points[0]` is the first object alone, and so is each of `for one in points`; a slice, a mask or a list of indices
    gives several objects. `points["nose"]` is that keypoint's xy (N, 2) px in all objects.

    xy: (N, K, 2) float64 continuous image px, NaN for a keypoint that no training object labels. score: (N, K) float32,
    NaN where the head has none. sigma: (N, K) the distance to expect between a point and its true place, image px; NaN
    where the model file does not say. boxes: (N, 4) xyxy px, as asked for. N is 0 for an empty list of boxes.
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
        """Objects by number, slice, mask or list; by a keypoint's name its xy (N, 2) px.

        Raises ValueError for a name that is not there, IndexError for an object that is not there.
        """
        if isinstance(which, str):
            names = self.skeleton.names
            if which not in names:
                there = first_of(names, 10, ", ")
                raise ArgumentError(f"points: expected the name of a keypoint, got {quoted(which)}; there are {there}")
            return self.xy[:, names.index(which)]
        rows = np.atleast_1d(np.arange(len(self))[which])
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
        """Plain lists for JSON: `origin` is "corner" (continuous px), NaN is None."""
        return {
            "origin": "corner",
            "keypoints": list(self.skeleton.names),
            "objects": [
                {"box": box.tolist(), "xy": _plain(xy), "score": _plain(score), "sigma": _plain(sigma)}
                for box, xy, score, sigma in zip(self.boxes, self.xy, self.score, self.sigma, strict=True)
            ],
        }

    def to_dataframe(self) -> pandas.DataFrame:  # pyright: ignore[reportUnknownMemberType, reportUnknownParameterType]
        """A row per object and keypoint: object, counted from 0, keypoint, x and y px, score, sigma px."""
        return require("pandas").DataFrame(dict(zip(COLUMNS, self._columns(), strict=True)))

    def plot(self, image: Image) -> np.ndarray:
        """A copy of the image, uint8 (H, W, 3) RGB, with the points of all objects and their edges.

        image: what the predictor was given: a path, a file's bytes, or uint8 (H, W, 3) RGB. Points with NaN are left
        out. Raises as `Predictor` does for an image that cannot be used.
        """
        drawn = open_image(image, math.inf).pixels().copy()  # its size was no hindrance before
        for xy in self.xy:
            drawn = draw_points(drawn, xy, self.skeleton)
        return drawn

    def _columns(self) -> list[Sequence[Any] | np.ndarray]:
        """What stands under COLUMNS, an entry per object and keypoint."""
        objects, keypoints = len(self), len(self.skeleton)
        numbers = np.repeat(np.arange(objects), keypoints)
        figures = (self.xy[..., 0], self.xy[..., 1], self.score, self.sigma)
        return [numbers, list(self.skeleton.names) * objects, *(figure.ravel() for figure in figures)]


def _plain(array: np.ndarray) -> list[Any]:
    plain = array.astype(object)
    plain[~np.isfinite(array)] = None
    return plain.tolist()
