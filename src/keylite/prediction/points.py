"""Predicted points as keylite's own JSON, in continuous px; prelabels.py has the forms of other tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keylite.runtime.keypoints import Keypoints
from keylite.runtime.predictor import Found

FoundByName = Mapping[str, Found[Any]]  # by the path of the image, as a text


def points_json(found: FoundByName, names: tuple[str, ...], model: Path) -> dict[str, Any]:
    """The points of all images as plain lists, by the name of the image. names: of the keypoints."""
    images = {name: one.points.to_dict()["objects"] for name, one in found.items()}
    return {"model": model.name, "origin": "corner", "keypoints": list(names), "images": images}


def points_line(name: str, points: Keypoints, size: tuple[int, int], model: Path) -> dict[str, Any]:
    """The points of one image as plain lists: one line of a JSON Lines file. size: (width, height) of the image, px."""
    return {"image": name, "width": size[0], "height": size[1], "model": model.name} | points.to_dict()
