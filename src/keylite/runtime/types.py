"""The types of arguments of public functions, each with a name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np


class Arrayed(Protocol):
    """Anything that numpy can make an array of: an array, a masked array, a tensor on the CPU."""

    def __array__(self) -> np.ndarray: ...


FilePath = Path | str  # the path of a file or a folder
Image = np.ndarray | Path | str | bytes  # uint8 (H, W, 3) RGB, a path, or the bytes of an image file
Boxes = Arrayed | Sequence[Arrayed | Sequence[float]]  # (N, 4) xyxy, continuous px of the image
Points = Arrayed | Sequence[Boxes]  # (N, K, 2) x and y, continuous px of the image; NaN if unlabelled
Visible = Arrayed | Sequence[Arrayed | Sequence[int]]  # (N, K): 0 unlabelled, 1 hidden, 2 seen
Indices = Sequence[int] | np.ndarray  # numbers of objects from 0 on, or a mask (N,) of true and false
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"  # any value in a JSON file
Choice = int | float | str | list[int | list[int | str]]  # a choice of a recipe, such as 1e-3, "adam" or [160, 128]
Visibility0 = Literal["ignore", "absent"]  # what 0 means in labels: nobody looked, or the point is not there
Visibility1 = Literal["train", "ignore", "absent"]  # what 1 means: covered, not to be used, or not there
WhiteLevel = Literal[255, 1023, 4095, 16383, 65535]  # the largest values of 8, 10, 12, 14 and 16 bits
