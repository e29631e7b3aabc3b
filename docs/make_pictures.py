"""Makes the pictures of the documentation from the built-in data set: `python docs/make_pictures.py`."""

from __future__ import annotations

from pathlib import Path

import cv2

from keylite.data.rendered.gauges import gauges, reading
from keylite.runtime.drawing import contact_sheet, draw_points, with_legend
from keylite.runtime.files import write_bytes

IMAGES = Path(__file__).parent / "images"
COLUMNS, ROWS = 4, 2
QUALITY = 85  # of the JPEG; a repository keeps every version of a picture, so files should be small


def gauges_picture(path: Path) -> None:
    """Write a sheet of rendered gauges of the test family with their true points and readings, as JPEG."""
    data = gauges(COLUMNS * ROWS, "test", seed=0, size=224)
    tiles = [draw_points(sample.image, sample.xy, data.skeleton) for sample in data]
    captions = [f"reads {value:.1%} of full scale" for value in reading(data.xy)]
    sheet = with_legend(contact_sheet(tiles, COLUMNS, captions), data.skeleton, points="keypoint")
    bgr = cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)
    write_bytes(path, cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())


if __name__ == "__main__":
    gauges_picture(IMAGES / "gauges.jpg")
