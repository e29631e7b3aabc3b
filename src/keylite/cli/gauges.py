"""`keylite gauges`: the built-in data set, rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def gauges(out: Path, *, count: int = 1000, family: Literal["train", "test"] = "train", seed: int = 0) -> None:
    """Render the built-in data set: analogue gauges with four keypoints, as images and COCO JSON.

    Parameters
    ----------
    out
        folder to fill
    family
        test has looks of dial, needle, digits and background that train never shows
    """
    from keylite.data.formats import write_dataset
    from keylite.data.gauges import gauges

    print(f"wrote {count} gauges: {write_dataset(gauges(count, family, seed), out)}")
