"""Images a second of what a predictor does around its engine, crop and decode, with one `cv2.resize` beside it.

Run `python benchmarks/predictor.py --help`; README.md says how to read it.
"""

from __future__ import annotations

import cv2
import numpy as np
from pipeline import figures, interleaved, keep, machine, options, show, use_threads

from keylite.runtime.geometry import crop_box, whole_box
from keylite.runtime.heads import HEADS

KEYPOINTS = 68
WIDTH, HEIGHT = 640, 480
BASE = "cv2.resize, INTER_AREA"  # every ratio is against this row


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=200, help="images a round (default 200)")
    choices = parser.parse_args()
    use_threads(1)
    size = (choices.size, choices.size)
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8), (WIDTH, HEIGHT))
    heads = {name: make(KEYPOINTS, 128, size) for name, make in HEADS.items()}
    raws = {name: rng.normal(size=(1, KEYPOINTS, head.channels)).astype(np.float32) for name, head in heads.items()}

    def predict(name: str) -> np.ndarray:
        """What Predictor does, less the engine."""
        crop = crop_box(whole_box(image), size, 0.0)
        crop.warp(image)
        unit_xy, _ = heads[name].decode(raws[name])
        return crop.from_unit(unit_xy[0])

    rows = {BASE: lambda _: cv2.resize(image, size, interpolation=cv2.INTER_AREA)}
    rows |= {f"crop and decode, {name}": lambda _, name=name: predict(name) for name in heads}
    seconds = interleaved(rows, choices.images, choices.rounds)
    facts = machine(threads=1) | {"image": [WIDTH, HEIGHT], "size": choices.size, "images": choices.images}
    found = figures(seconds, choices.images, BASE)
    show(facts, f"{choices.images} images a round, {WIDTH}x{HEIGHT} to {choices.size} px, {KEYPOINTS} keypoints", found)
    keep(choices.json, facts | {"rows": found})


if __name__ == "__main__":
    main()
