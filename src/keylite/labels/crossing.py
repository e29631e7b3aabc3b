"""Predictions of each object by a model that was trained without its group: the runs of `train_folds`, joined."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.examples import with_boxes
from keylite.evaluation.predictions import Predictions, joined, predict_dataset
from keylite.runtime.errors import DataError
from keylite.runtime.predictor import Predictor
from keylite.training.folder import FIRST_FOLD
from keylite.training.folds import train_folds
from keylite.training.recipe import Recipe


def cross_fitted(
    recipe: Recipe, data: Dataset, out: Path, folds: int, blocks: bool, max_megapixels: float
) -> tuple[Dataset, Predictions]:
    """The objects that can be trained on, and their predictions in the same order.

    Folds that are in `out` are not trained again, so the same call goes on after any interruption.
    """
    data = with_boxes(data, recipe.box, skip_bad=True)
    resume = (out / FIRST_FOLD / "recipe.yaml").is_file()
    report = train_folds(
        recipe, data, out=out, folds=folds, blocks=blocks, resume=resume, max_megapixels=max_megapixels
    )
    dealt = data.in_blocks(folds) if blocks else data
    part = dealt.fold_of(folds, recipe.seed)
    places, predictions = [], []
    for fold in report.folds:
        places.append(np.flatnonzero(part == fold.fold))
        held_out = dealt.subset(places[-1])
        if held_out.fingerprint() != fold.held_out.fingerprint:
            raise DataError(f"{out}: fold {fold.fold} holds out other objects; choose another `out`")
        predictions.append(predict_dataset(Predictor(out / fold.model, threads=recipe.threads or None), held_out))
    return data, joined(predictions, np.argsort(np.concatenate(places)))
