"""Copies of pictures in a folder, under names that are all different."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keylite.data.spelling import canonical, segments_of
from keylite.runtime.errors import DataError
from keylite.runtime.images import write_image


def copy_picture(image: Path | np.ndarray, path: Path) -> None:
    """A picture in another place: linked if both are on one disk, else copied; PNG if it is an array."""
    if isinstance(image, np.ndarray):
        write_image(path, image)
        return
    with contextlib.suppress(OSError):
        os.link(os.path.realpath(image), path)
        return
    shutil.copyfile(image, path)


def file_names(
    image_names: Sequence[str], images: Sequence[Path | np.ndarray], called: str, *, labelled: bool = True
) -> list[str]:
    """A name for each picture: its own without folders, or with them if two would be the same; arrays become PNG.

    labelled: a label file is to lie beside each, so names must differ without their suffixes.
    """
    whole = ["/".join(segments_of(canonical(name))) or "picture" for name in image_names]
    suffixes = [".png" if isinstance(each, np.ndarray) else each.suffix for each in images]
    whole = [str(Path(name).with_suffix(suffix)) for name, suffix in zip(whole, suffixes, strict=True)]

    def alike(names: Sequence[str]) -> bool:
        told = [str(Path(name).with_suffix("")) for name in names] if labelled else names
        return max(Counter(told).values(), default=0) > 1

    names = [Path(name).name for name in whole]
    names = whole if alike(names) else names
    if alike(names):
        raise DataError(f"{called}: two pictures have the same name{' but for its suffix' * labelled}; rename one")
    return names
