"""Normalisers: the length that an object's errors are divided by, read from a text such as `box_diagonal`."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence

import numpy as np

from keylite.runtime.boxes import MOST_PX
from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import require_kind
from keylite.runtime.words import clipped, quoted

BOX_LENGTHS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # name: lengths (N,) of sides (N, 2) px
    "box_diagonal": lambda sides: np.hypot(sides[:, 0], sides[:, 1]),
    "box_side": lambda sides: np.sqrt(sides.prod(axis=1)),
}
NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
DIGITS = 18  # the most that an index may have


@dataclasses.dataclass(frozen=True)
class Normaliser:
    """A length per object: `factor` times the distance of two keypoints, times a length of its box, or in px.

    pair: the indices of the two keypoints, or None. box: a name of BOX_LENGTHS, or "". At most one of both is set; if
    none is, the length is `factor` px.
    """

    factor: float = 1.0
    pair: tuple[int, int] | None = None
    box: str = ""

    def lengths(self, xy: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The length (N,) px of each object; NaN if one of the two keypoints is not labelled.

        xy: the labels, (N, K, 2) px. boxes: (N, 4) xyxy px, before padding and jitter; only `box` needs them.
        """
        if self.pair:
            first, second = self.pair
            return self.factor * np.linalg.norm(xy[:, first] - xy[:, second], axis=1)
        if self.box:
            corners = np.asarray(boxes, np.float64)
            return self.factor * BOX_LENGTHS[self.box](corners[:, 2:] - corners[:, :2])
        return np.full(len(xy), self.factor)


def read_normaliser(text: str, names: Sequence[str]) -> Normaliser:
    """Read a normaliser from a text.

    text: "36,45" (indices from 0 on) or "NAME,NAME": the distance between two labelled keypoints; "box_diagonal";
    "box_side": sqrt(w * h); "0.2 x box_diagonal": a fraction of either; "100px": a constant. names: of the keypoints.
    Raises ArgumentError for any other text, or an unknown keypoint.
    """
    require_kind("normalize", text, str, "a text", "such as 'box_side'")
    if text in BOX_LENGTHS:
        return Normaliser(box=text)
    if (share := re.fullmatch(rf"{NUMBER} ?x ?(\w+)", text)) and share.group(2) in BOX_LENGTHS:
        return Normaliser(_factor(share.group(1), text), box=share.group(2))
    if constant := re.fullmatch(rf"{NUMBER}px", text):
        return Normaliser(_factor(constant.group(1), text))
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(parts):
        raise ArgumentError(
            "normalize: expected two keypoints as INDEX,INDEX or NAME,NAME, or box_diagonal, box_side, a share of them "
            "as '0.2 x box_diagonal', or 100px, "
            f"got {quoted(text)}"
        )
    first, second = (_keypoint(part, names) for part in parts)
    if first == second:
        raise ArgumentError(f"normalize: expected two different keypoints, got {quoted(text)}")
    return Normaliser(pair=(first, second))


def _factor(number: str, text: str) -> float:
    """The number as a float; ArgumentError if errors cannot be divided by it."""
    factor = float(number)
    if not 0 < factor <= MOST_PX:
        raise ArgumentError(f"normalize: expected a length above 0 and at most {MOST_PX:.0f}, got {quoted(text)}")
    return factor


def _keypoint(text: str, names: Sequence[str]) -> int:
    """The index of a keypoint that is given by its index, from 0 on, or by its name."""
    index = None
    if text.isdecimal():
        index = int(text) if len(text) <= DIGITS else len(names)  # Python refuses to read a number of 4301 digits
    if text in names:
        named = list(names).index(text)
        if index is not None and index != named:
            raise ArgumentError(
                f"normalize: {quoted(text)} is the name of keypoint {named} and the index of another; use names"
            )
        return named
    if index is None:
        near = difflib.get_close_matches(text, names, n=1)
        hint = f"; the nearest is {quoted(near[0])}" if near else ""
        raise ArgumentError(f"normalize: no keypoint is named {quoted(text)}{hint}")
    if index >= len(names):
        raise ArgumentError(f"normalize: expected keypoint indices 0..{len(names) - 1}, got {clipped(text)}")
    return index
