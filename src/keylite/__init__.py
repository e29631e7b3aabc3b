"""keylite: train small keypoint models on labelled images, and run them on devices.

A public name is imported when it is first used, so `import keylite` needs neither a framework nor OpenCV.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from keylite.version import __version__

if TYPE_CHECKING:
    from keylite.data.arrays import from_arrays
    from keylite.data.augmentation import Augmentation
    from keylite.data.dataset import Dataset, Sample
    from keylite.data.examples import Examples
    from keylite.data.formats.converting import convert
    from keylite.data.formats.reading import read_dataset, write_coco, write_dataset
    from keylite.data.rendered.gauges import gauges
    from keylite.evaluation.evaluate import evaluate
    from keylite.evaluation.flips import FlipReport, flip_report
    from keylite.evaluation.predictions import Predictions, predict_dataset
    from keylite.evaluation.report import Report
    from keylite.evaluation.timing import benchmark
    from keylite.exporting.certificate import Certificate, OverBudgetError
    from keylite.exporting.diagnosis import diagnose
    from keylite.exporting.diagnosis_report import Diagnosis
    from keylite.exporting.export import export, export_all, hold
    from keylite.exporting.golden import write_golden
    from keylite.exporting.targets import TargetNeeds, measure_target
    from keylite.labels.check import check
    from keylite.labels.findings import CheckReport
    from keylite.labels.suggest import Suggestions, suggest
    from keylite.pictures.page import write_page
    from keylite.pictures.plots import plot_benchmark, plot_reliability
    from keylite.pictures.worst import draw_worst
    from keylite.prediction.cluster import predict_on_ray
    from keylite.prediction.prelabels import write_points
    from keylite.runtime.drawing import draw_points
    from keylite.runtime.errors import ArgumentError, DataError, ImageError, KeyliteError, ModelFileError, RecipeError
    from keylite.runtime.keypoints import Keypoints
    from keylite.runtime.modelfile import read_spec
    from keylite.runtime.predictor import Predictor
    from keylite.runtime.skeleton import Skeleton
    from keylite.runtime.spec import ModelSpec
    from keylite.training.folds import train_folds
    from keylite.training.folds_report import FoldsReport
    from keylite.training.presets import preset
    from keylite.training.recipe import Recipe
    from keylite.training.train import train

PUBLIC = {
    "ArgumentError": "keylite.runtime.errors",
    "Augmentation": "keylite.data.augmentation",
    "benchmark": "keylite.evaluation.timing",
    "Certificate": "keylite.exporting.certificate",
    "check": "keylite.labels.check",
    "CheckReport": "keylite.labels.findings",
    "convert": "keylite.data.formats.converting",
    "DataError": "keylite.runtime.errors",
    "Dataset": "keylite.data.dataset",
    "diagnose": "keylite.exporting.diagnosis",
    "Diagnosis": "keylite.exporting.diagnosis_report",
    "draw_points": "keylite.runtime.drawing",
    "draw_worst": "keylite.pictures.worst",
    "evaluate": "keylite.evaluation.evaluate",
    "Examples": "keylite.data.examples",
    "export": "keylite.exporting.export",
    "export_all": "keylite.exporting.export",
    "flip_report": "keylite.evaluation.flips",
    "FlipReport": "keylite.evaluation.flips",
    "FoldsReport": "keylite.training.folds_report",
    "from_arrays": "keylite.data.arrays",
    "gauges": "keylite.data.rendered.gauges",
    "hold": "keylite.exporting.export",
    "ImageError": "keylite.runtime.errors",
    "KeyliteError": "keylite.runtime.errors",
    "Keypoints": "keylite.runtime.keypoints",
    "measure_target": "keylite.exporting.targets",
    "ModelFileError": "keylite.runtime.errors",
    "ModelSpec": "keylite.runtime.spec",
    "OverBudgetError": "keylite.exporting.certificate",
    "plot_benchmark": "keylite.pictures.plots",
    "plot_reliability": "keylite.pictures.plots",
    "predict_dataset": "keylite.evaluation.predictions",
    "predict_on_ray": "keylite.prediction.cluster",
    "Predictions": "keylite.evaluation.predictions",
    "Predictor": "keylite.runtime.predictor",
    "preset": "keylite.training.presets",
    "read_dataset": "keylite.data.formats.reading",
    "read_spec": "keylite.runtime.modelfile",
    "Recipe": "keylite.training.recipe",
    "RecipeError": "keylite.runtime.errors",
    "Report": "keylite.evaluation.report",
    "Sample": "keylite.data.dataset",
    "Skeleton": "keylite.runtime.skeleton",
    "suggest": "keylite.labels.suggest",
    "Suggestions": "keylite.labels.suggest",
    "TargetNeeds": "keylite.exporting.targets",
    "train": "keylite.training.train",
    "train_folds": "keylite.training.folds",
    "write_coco": "keylite.data.formats.reading",
    "write_dataset": "keylite.data.formats.reading",
    "write_golden": "keylite.exporting.golden",
    "write_page": "keylite.pictures.page",
    "write_points": "keylite.prediction.prelabels",
}

__all__ = [*PUBLIC, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module 'keylite' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
