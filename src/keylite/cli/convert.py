"""`keylite convert`: writes labels in the format of another tool."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from keylite.cli.shared import USUAL, As

log = logging.getLogger("keylite")


def convert(
    data: Path,
    *,
    format: Literal["coco", "yolo", "labelme", "label-studio", "cvat", "dlc", "csv"],
    out: Path,
    reading: As = USUAL,
) -> None:
    """Write labels in the format of another tool, and say what that format cannot hold.

    Parameters
    ----------
    data
        labels: a file or a folder, of which all parts are written
    format
        format to write
    out
        file to write; a folder for yolo and labelme, and if the labels have several parts
    """
    from keylite.data.formats.converting import convert as write
    from keylite.data.formats.reading import parts_of
    from keylite.runtime.words import counted

    parts = (reading.part,) if reading.part else parts_of(data)
    sets = {part: reading.labels(data, part) for part in parts} if len(parts) > 1 else {"": reading.labels(data)}
    for each in sets.values():
        for note in each.notes:
            log.info("%s: %s", each.called, note)
    for line in write(sets, out, format=format):
        log.warning("%s", line)
    objects, images = sum(map(len, sets.values())), sum(len(each.images) for each in sets.values())
    print(f"wrote {out}: {counted(objects, 'object')} in {counted(images, 'image')}, as {format}")
