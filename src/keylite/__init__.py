"""keylite: keypoint regression on devices.

Public names are imported on first use, so `import keylite` needs neither a framework nor OpenCV.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from keylite.version import __version__

if TYPE_CHECKING:
    from keylite.data.arrays import from_arrays
    from keylite.data.dataset import Dataset, Sample
    from keylite.data.formats.reading import read_dataset, write_coco, write_dataset
    from keylite.data.rendered.gauges import gauges
    from keylite.evaluation.evaluate import evaluate
    from keylite.evaluation.report import Report
    from keylite.evaluation.timing import benchmark
    from keylite.exporting.certificate import Certificate, OverBudgetError
    from keylite.exporting.export import export
    from keylite.runtime.keypoints import Keypoints
    from keylite.runtime.predictor import Predictor
    from keylite.runtime.skeleton import Skeleton
    from keylite.training.folds import train_folds
    from keylite.training.folds_report import FoldsReport
    from keylite.training.recipe import Recipe, preset
    from keylite.training.train import train

PUBLIC = {
    "Certificate": "keylite.exporting.certificate",
    "Dataset": "keylite.data.dataset",
    "OverBudgetError": "keylite.exporting.certificate",
    "FoldsReport": "keylite.training.folds",
    "Keypoints": "keylite.runtime.keypoints",
    "Predictor": "keylite.runtime.predictor",
    "Recipe": "keylite.training.recipe",
    "Report": "keylite.evaluation.report",
    "Sample": "keylite.data.dataset",
    "Skeleton": "keylite.runtime.skeleton",
    "benchmark": "keylite.evaluation.timing",
    "evaluate": "keylite.evaluation.evaluate",
    "export": "keylite.exporting.export",
    "from_arrays": "keylite.data.arrays",
    "gauges": "keylite.data.rendered.gauges",
    "preset": "keylite.training.recipe",
    "read_dataset": "keylite.data.formats.reading",
    "train": "keylite.training.train",
    "train_folds": "keylite.training.folds",
    "write_coco": "keylite.data.formats.reading",
    "write_dataset": "keylite.data.formats.reading",
}

__all__ = [*PUBLIC, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module 'keylite' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
