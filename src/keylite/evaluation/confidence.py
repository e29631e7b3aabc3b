"""Sigma: a curve that turns a score into the expected distance to the label, fitted on half of some labelled images.

The other half tests it. The curve is kept in the model file, as a `Confidence`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.predictions import Predictions, errors_of, predict_dataset
from keylite.evaluation.reliability import FEWEST, Reliability, halves, no_halves, reliability_of, reliability_words
from keylite.runtime.heads import Regression
from keylite.runtime.modelfile import describe
from keylite.runtime.spec import Confidence, DataId, standing

if TYPE_CHECKING:
    from keylite.runtime.predictor import Predictor

SIGMA = "sigma (each point's expected error, px)"
KNOTS = 16  # the most points that the curve is drawn through
POINTS_PER_KNOT = 60  # labelled points that each of them is the mean of, at least
SMALLEST = 1e-9  # the smallest error, as a fraction of the crop's side, so that a perfect model divides nothing by 0
PRIOR = 10  # points with factor 1 that are added to each keypoint's own, so that few points give no wild factor


class Learnt(msgspec.Struct, frozen=True):
    """A fitted curve, and how it holds on the other half. Both are None if none was fitted; `why` is the reason."""

    confidence: Confidence | None
    reliability: Reliability | None
    why: str


def learn_confidence(predictor: Predictor, data: Dataset, predictions: Predictions | None = None) -> Learnt:
    """Learn what a predictor's scores mean from half of these labelled images (see `halves`).

    predictions: those of this predictor for `data`, if they were made already.
    """
    if isinstance(predictor.spec.head, Regression):
        return Learnt(None, None, "the regression head gives no score")
    fingerprint = data.fingerprint()
    if predictor.spec.provenance.data.fingerprint == fingerprint:
        return Learnt(None, None, f"{data.called} holds the training images, whose errors are smaller than others'")
    if halves(data.group_index) is None:
        return Learnt(None, None, no_halves(data.group_index))
    return learn_from(predictions or predict_dataset(predictor, data), data, data.name)


def learn_from(predictions: Predictions, data: Dataset, name: str) -> Learnt:
    """The same from predictions by models that have not seen these data. name: what to call the data in the file."""
    parts = halves(data.group_index)
    if parts is None:
        return Learnt(None, None, no_halves(data.group_index))
    side = np.array([max(crop.size) / crop.scale for crop in predictions.crops])[:, None]
    error = errors_of(predictions, data)
    fit, judges = parts
    confidence = fit_confidence(
        predictions.score[fit], error[fit] / side[fit], len(fit), DataId(name, data.fingerprint())
    )
    if confidence is None:
        return Learnt(None, None, "no labelled point has a score")
    sigma = confidence.sigma(predictions.score[judges]) * side[judges]  # px of the image, as in a report
    return Learnt(confidence, reliability_of(sigma, error[judges], data.group_index[judges]), "")


def write_confidence(
    predictor: Predictor,
    data: Dataset,
    predictions: Predictions | None = None,
    advice: str = "give more labelled objects",
    judged: bool = True,
) -> str:
    """Learn from half of `data` what a predictor's scores mean, write it into its model file, and say how it holds.

    predictions: those of this predictor for `data`, if they were made already. advice: what the returned line
    recommends if `data` are too few; empty: nothing. judged: whether the line says how sigma holds; False: something
    else will. Returns the line for the user, also if nothing was written.
    """
    learnt = learn_confidence(predictor, data, predictions)
    if learnt.confidence is None:
        kept = "is the parent's" if predictor.spec.confidence else "is not fitted"
        few = len(data) < FEWEST and learnt.why == no_halves(data.group_index)
        step = f"; {advice}" if few and advice else ""
        return f"{SIGMA} {kept}: {data.called}: {learnt.why}{step}"
    assert predictor.path is not None
    assert learnt.reliability is not None
    describe(predictor.path, msgspec.structs.replace(predictor.spec, confidence=learnt.confidence))
    fitted = f"{SIGMA} was fitted on {learnt.confidence.count} of {len(data)} objects of {data.called}"
    return f"{fitted}; on the others {reliability_words(learnt.reliability)}" if judged else fitted


def fit_confidence(score: np.ndarray, error: np.ndarray, count: int, data: DataId) -> Confidence | None:
    """Fit the curve from scores (N, K) to errors (N, K), which are fractions of the crop's longer side.

    NaN is an unknown score or an unlabelled point. Scores become standings (how they compare with the usual score of
    their keypoint, the median), and errors are divided by a factor per keypoint. Points of similar standing form a
    band; isotonic regression then makes the mean errors of the bands fall as the standing rises. count, data:
    the number of the N objects, and the data set that they are from. None: no labelled point has a score.
    """
    from scipy.optimize import isotonic_regression

    scored = np.isfinite(score) & (score > 0)
    known = scored & np.isfinite(error)
    if not known.any():
        return None
    error = np.where(known, np.maximum(error, SMALLEST), SMALLEST)
    factors = _factors(error / error[known].mean(), known)
    # The usual score of an unlabelled keypoint is that of all its scores.
    used = np.where(known.any(axis=0), known, scored)
    levels = np.array([np.median(score[rows, k]) if rows.any() else 1.0 for k, rows in enumerate(used.T)])
    standings, shares = standing(np.where(known, score, np.nan), levels)[known], (error / factors)[known]
    order = np.argsort(standings, kind="stable")
    bands = np.array_split(order, max(1, min(KNOTS, len(order) // POINTS_PER_KNOT)))
    places = np.array([standings[band].mean() for band in bands])
    heights = np.array([shares[band].mean() for band in bands])
    falling = isotonic_regression(heights, weights=[len(band) for band in bands], increasing=False).x
    places, first = np.unique(places, return_index=True)
    knots = tuple(zip(places.tolist(), falling[first].tolist(), strict=True))
    fitted = Confidence(tuple(levels.tolist()), knots, tuple(factors.tolist()), count, data)
    promised = fitted.sigma(score)
    corrected = factors * _factors(error / np.where(known, promised, 1.0), known)  # each keypoint's mean is then right
    return msgspec.structs.replace(fitted, factors=tuple(corrected.tolist()))


def _factors(share: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(K,) the mean of `share` (N, K) per keypoint, closer to 1 the fewer known points it has."""
    total = np.where(known, share, 0).sum(axis=0)
    return (total + PRIOR) / (known.sum(axis=0) + PRIOR)
