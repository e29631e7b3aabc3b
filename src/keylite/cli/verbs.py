"""The verbs of the command line, each with the line that `keylite --help` says of it."""

from __future__ import annotations

VERBS = {
    "train": "Train a model on labelled images.",
    "evaluate": "Measure a model file on labelled images: NME, PCK, AUC, px, by keypoint, with 95 % intervals.",
    "export": "Write a model file in another format, held to its parent: refused where points move past the budget.",
    "predict": "Find the points in images.",
    "benchmark": "Milliseconds of each stage, read, crop, engine and decode, the files taking turns, and memory.",
    "info": "What a model file says of itself.",
    "gauges": "Render the built-in data set: analogue gauges with four keypoints, as images and COCO JSON.",
}
