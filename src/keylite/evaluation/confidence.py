"""What a score is worth: a falling map from scores to expected errors, fitted on one half of labelled images.

The other half judges it. Knows nothing of training or how a report is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.predictions import Predictions, errors_of, predict_dataset
from keylite.evaluation.reliability import FEWEST, Reliability, halves, no_halves, reliability_of, reliability_rows
from keylite.runtime.heads import Regression
from keylite.runtime.modelfile import describe
from keylite.runtime.spec import Confidence, standing

if TYPE_CHECKING:
    from keylite.runtime.predictor import Predictor

KNOTS = 16  # of the map, at most
POINTS_PER_KNOT = 60
SMALLEST = 1e-9  # error, of the crop's side: a perfect model divides nothing by 0
PRIOR = 10  # points by which a keypoint's own factor is drawn to that of all


class Learnt(msgspec.Struct, frozen=True):
    """A map and how it holds on the half that it was not fitted on; both None where there is none, `why` says it."""

    confidence: Confidence | None
    reliability: Reliability | None
    why: str


def learn_confidence(predictor: Predictor, data: Dataset, predictions: Predictions | None = None) -> Learnt:
    """Learn from a half of labelled images, by group, what a predictor's scores mean; see `halves`.

    predictions: of these data, where they are there already.
    """
    if isinstance(predictor.spec.head, Regression):
        return Learnt(None, None, "the regression head gives no score")
    fingerprint = data.fingerprint()
    if predictor.spec.provenance.data_fingerprint == fingerprint:
        return Learnt(None, None, f"{data.called} holds the training images, whose errors are smaller than others'")
    if halves(data.group_index) is None:
        return Learnt(None, None, no_halves(data.group_index))
    return learn_from(predictions or predict_dataset(predictor, data), data, data.name)


def learn_from(predictions: Predictions, data: Dataset, name: str) -> Learnt:
    """The same from predictions of these data by models that have not seen them. name: what the map was fitted on."""
    parts = halves(data.group_index)
    if parts is None:
        return Learnt(None, None, no_halves(data.group_index))
    side = np.array([max(crop.size) / crop.scale for crop in predictions.crops])[:, None]
    error = errors_of(predictions, data)
    fit, judge = parts
    facts = (len(fit), name, data.fingerprint())
    confidence = fit_confidence(predictions.score[fit], error[fit] / side[fit], *facts)
    if confidence is None:
        return Learnt(None, None, "no labelled point has a score")
    sigma = confidence.sigma(predictions.score[judge]) * side[judge]  # px of the image, as in a report
    return Learnt(confidence, reliability_of(sigma, error[judge], data.group_index[judge]), "")


def write_confidence(
    predictor: Predictor,
    data: Dataset,
    predictions: Predictions | None = None,
    advice: str = "give more labelled objects",
) -> str:
    """Write into a predictor's file what its scores mean, learnt from half of `data`, and say how that holds.

    advice: what to do where `data` are too few for it.
    """
    learnt = learn_confidence(predictor, data, predictions)
    if learnt.confidence is None:
        kept = "is the parent's" if predictor.spec.confidence else "is not fitted"
        few = len(data) < FEWEST and learnt.why == no_halves(data.group_index)
        step = f"; {advice}" if few else ""
        return f"sigma (each point's expected error, px) {kept}: {data.called}: {learnt.why}{step}"
    assert predictor.path is not None
    assert learnt.reliability is not None
    describe(predictor.path, msgspec.structs.replace(predictor.spec, confidence=learnt.confidence))
    rows = "; ".join(f"{label} {value}" for label, value in reliability_rows(learnt.reliability))
    fitted = learnt.confidence.count
    return f"sigma fitted on {fitted} of {len(data)} objects of {data.called}; on the others {rows}"


def fit_confidence(score: np.ndarray, error: np.ndarray, count: int, data: str, fingerprint: str) -> Confidence | None:
    """The map from scores (N, K) to errors (N, K), fractions of the crop's longer side with NaN where unlabelled.

    A score counts by its `standing`, each keypoint's median being its usual one, and an error by its keypoint's factor;
    the mean errors of bands of like standing are then made falling (isotonic regression). count, data, fingerprint: of
    the N objects. None where no score is known.
    """
    from scipy.optimize import isotonic_regression

    scored = np.isfinite(score) & (score > 0)
    known = scored & np.isfinite(error)
    if not known.any():
        return None
    error = np.where(known, np.maximum(error, SMALLEST), SMALLEST)
    factors = _factors(error / error[known].mean(), known)
    usual = np.where(known.any(axis=0), known, scored)  # of a keypoint that nobody labelled, of all its scores
    levels = np.array([np.median(score[of, k]) if of.any() else 1.0 for k, of in enumerate(usual.T)])
    at, found = standing(np.where(known, score, np.nan), levels)[known], (error / factors)[known]
    order = np.argsort(at, kind="stable")
    bands = np.array_split(order, max(1, min(KNOTS, len(order) // POINTS_PER_KNOT)))
    places = np.array([at[band].mean() for band in bands])
    heights = np.array([found[band].mean() for band in bands])
    falling = isotonic_regression(heights, weights=[len(band) for band in bands], increasing=False).x
    places, first = np.unique(places, return_index=True)
    knots = tuple(zip(places.tolist(), falling[first].tolist(), strict=True))
    fitted = Confidence(tuple(levels.tolist()), knots, tuple(factors.tolist()), count, data, fingerprint)
    promised = fitted.sigma(score)  # what the map misses of each keypoint's mean goes to its factor
    again = factors * _factors(error / np.where(known, promised, 1.0), known)
    return msgspec.structs.replace(fitted, factors=tuple(again.tolist()))


def _factors(share: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(K,) mean shares of each keypoint, drawn to 1 where it has few points."""
    total = np.where(known, share, 0).sum(axis=0)
    return (total + PRIOR) / (known.sum(axis=0) + PRIOR)
