"""The verbs of the command line, each with its line in `keylite --help`."""

from __future__ import annotations

VERBS = {
    "train": "Train a model on labelled images.",
    "evaluate": "Measure a model file on labelled images: NME, PCK, AUC and px, for all points and per keypoint.",
    "export": "Write a model file in another format, unless its points move further than the budget allows.",
    "predict": "Find the points in images.",
    "benchmark": "Measure how long model files take per image, stage by stage, and how much memory they need.",
    "page": "Write a page that finds points in the browser: a folder for any static web server.",
    "info": "Print the description inside a model file: its input, keypoints, accuracy and origin.",
    "check": "Say what is wrong with labels, object by object, and write a corrected copy.",
    "suggest": "Say which pictures to label next: those that stand for many of which the model is unsure.",
    "convert": "Write labels in the format of another tool, and say what that format cannot hold.",
    "gauges": "Render the built-in data set: analogue gauges with four keypoints, as images and COCO JSON.",
}
