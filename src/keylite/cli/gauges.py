"""`keylite gauges`: renders the built-in data set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from keylite.cli.shared import Seed


def gauges(out: Path, *, count: int = 1000, family: Literal["train", "test"] = "train", seed: Seed = 0) -> None:
    """Render the built-in data set: analogue gauges with four keypoints, as images and COCO JSON.

    Parameters
    ----------
    out
        folder to write to; labels and pictures that are in it are not replaced
    family
        the gauges of test have dials, needles, digits and backgrounds that those of train never have
    """
    from keylite.data.formats.reading import require_new_files, write_dataset
    from keylite.data.rendered.gauges import gauges
    from keylite.runtime.files import require_writable

    require_writable(out)
    require_new_files(out)  # before minutes of rendering
    print(f"wrote {count} gauges: {write_dataset(gauges(count, family, seed), out)}")
