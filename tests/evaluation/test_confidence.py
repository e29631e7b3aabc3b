"""Confidence: maps from scores to errors are found again on made-up errors, and only where there is enough to go by."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.evaluation.confidence import Learnt, fit_confidence, learn_confidence, write_confidence
from keylite.evaluation.metrics import point_errors
from keylite.evaluation.predictions import predict_dataset
from keylite.evaluation.reliability import halves, reliability_of
from keylite.runtime.heads import Heatmap, Regression
from keylite.runtime.predictor import Predictor
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import DataId

N, K = 400, 4
VAL = DataId("val", "f" * 64)
USUAL = np.array([0.1, 0.2, 0.4, 0.8])
FACTORS = np.array([1.0, 2.0, 1.0, 0.5])


def made_up(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(score, mean error, error): a score's share of the usual one sets the mean error, by keypoint."""
    generator = np.random.default_rng(seed)
    share = np.repeat(generator.uniform(0.7, 1.3, (N, 1)), K, axis=1)
    mean = 0.02 * (2.5 - 1.5 * share) * FACTORS
    return share * USUAL, mean, mean * generator.rayleigh(np.sqrt(2 / np.pi), (N, K))


def test_the_map_is_found_again():
    score, _, error = made_up(0)
    fitted = fit_confidence(score, error, N, VAL)
    fresh, mean, found = made_up(1)
    np.testing.assert_allclose(fitted.sigma(fresh), mean, rtol=0.35)
    assert np.median(np.abs(fitted.sigma(fresh) / mean - 1)) < 0.06
    judged = reliability_of(fitted.sigma(fresh), found, np.arange(N))
    assert abs(judged.worst) < 0.2
    assert judged.spearman > judged.constant + 0.1
    assert (fitted.count, fitted.data) == (N, VAL)


def in_plain_words(score: np.ndarray, error: np.ndarray) -> tuple[list[float], list[tuple[float, float]], list[float]]:
    """(levels, knots, factors) of `fit_confidence` once more: lists and loops, of scores that are all known."""
    count, keypoints = score.shape
    error = np.maximum(error, 1e-9)
    levels = [float(np.median(score[:, k])) for k in range(keypoints)]

    def factors_of(shares: np.ndarray) -> np.ndarray:
        return np.array([(sum(shares[:, k]) + 10) / (count + 10) for k in range(keypoints)])

    first = factors_of(error / error.mean())
    points = []
    for scores, errors in zip(score / levels, error / first, strict=True):
        points += [(share * scores.mean() ** 2, one) for share, one in zip(scores, errors, strict=True)]
    points.sort()
    bands = np.array_split(np.array(points), max(1, min(16, len(points) // 60)))
    pools = [[band[:, 1].mean(), len(band), 1] for band in bands]  # height, points, bands: neighbours that rise are one
    while rising := [i for i in range(len(pools) - 1) if pools[i][0] < pools[i + 1][0]]:
        one, two = pools[rising[0]], pools.pop(rising[0] + 1)
        one[:] = (one[0] * one[1] + two[0] * two[1]) / (one[1] + two[1]), one[1] + two[1], one[2] + two[2]
    heights = [height for height, _, times in pools for _ in range(times)]
    knots = [(float(band[:, 0].mean()), height) for band, height in zip(bands, heights, strict=True)]
    promised = np.interp(
        (score / levels) * (score / levels).mean(axis=1, keepdims=True) ** 2, *zip(*knots, strict=True)
    )
    return levels, knots, list(first * factors_of(error / (promised * first)))


@pytest.mark.parametrize(
    "count", [400, 77, 20, 3], ids=["as many knots as may be", "5 knots", "one knot", "few points"]
)
def test_the_map_is_the_one_that_is_described(count: int):
    score, _, error = (part[:count] for part in made_up(7))
    error[0] = 0
    score = score * np.random.default_rng(8).uniform(0.8, 1.2, score.shape)
    levels, knots, factors = in_plain_words(score, error)
    fitted = fit_confidence(score, error, count, VAL)
    np.testing.assert_allclose(fitted.levels, levels, rtol=1e-12)
    np.testing.assert_allclose(fitted.knots, knots, rtol=1e-9)
    np.testing.assert_allclose(fitted.factors, factors, rtol=1e-9)


def test_a_higher_score_never_promises_a_larger_error():
    score, _, error = made_up(2)
    fitted = fit_confidence(score, error[::-1], N, VAL)  # errors that do not belong to the scores
    rising = np.linspace(0, 2, 200)[:, None] * USUAL
    assert (np.diff(fitted.sigma(rising), axis=0) <= 0).all()
    places = [place for place, _ in fitted.knots]
    assert places == sorted(set(places))


def test_unlabelled_points_and_missing_scores_count_nowhere():
    score, _, error = made_up(3)
    whole = fit_confidence(score[: N // 2], error[: N // 2], N, VAL)
    error[N // 2 :], score[-1] = np.nan, np.nan
    assert fit_confidence(score, error, N, VAL) == whole


def test_a_keypoint_never_labelled_takes_its_own_scores_as_the_usual_ones():
    score, _, error = made_up(3)
    error[:, 1] = np.nan
    fitted = fit_confidence(score, error, N, VAL)
    assert fitted.levels[1] == np.median(score[:, 1])


def test_a_keypoint_without_any_score_has_one_as_its_usual_one():
    score, _, error = made_up(3)
    score[:, 1] = np.nan
    fitted = fit_confidence(score, error, N, VAL)
    assert (fitted.levels[1], fitted.factors[1]) == (1.0, 1.0)
    assert np.isfinite(fitted.sigma(score)).all(axis=0).tolist() == [True, False, True, True]


def test_a_keypoint_seldom_labelled_takes_the_factor_of_all():
    score, _, error = made_up(4)
    error[1:, 0] = np.nan
    fitted = fit_confidence(score, error, N, VAL)
    assert np.isfinite(fitted.sigma(score)).all()
    assert 0.3 < fitted.factors[0] / np.mean(fitted.factors[1:]) < 3


@pytest.mark.parametrize("scores", [np.nan, 0.0], ids=["unknown", "nought"])
def test_without_a_score_there_is_no_map(scores: float):
    _, _, error = made_up(5)
    assert fit_confidence(np.full((N, K), scores), error, N, VAL) is None


@pytest.mark.parametrize("error", [0.0, 1e-12], ids=["perfect", "nearly"])
def test_a_perfect_model_promises_nothing(error: float):
    score, _, _ = made_up(6)
    sigma = fit_confidence(score, np.full((N, K), error), N, VAL).sigma(score)
    assert np.isfinite(sigma).all()
    assert sigma.max() < 1e-6


# ---- from a predictor and a data set

SKELETON = Skeleton(("nose", "left_eye", "right_eye", "chin"))


def data_of(count: int, groups: int):
    images = [np.full((40, 60, 3), i % 250, np.uint8) for i in range(count)]
    xy = np.random.default_rng(0).uniform(10, 30, (count, 4, 2))
    data = from_arrays(images, xy, skeleton=SKELETON, name="val")
    return data.regrouped([f"g{i % groups}" for i in range(count)])


def bells(pixels: np.ndarray) -> np.ndarray:
    """Logits of an 8x8 grid that are the sharper the brighter the image."""
    sharp = pixels.mean(axis=(1, 2, 3))[:, None, None] / 64 + 0.5
    return np.broadcast_to(-sharp * np.arange(64) / 8, (len(pixels), 4, 64)).astype(np.float32)


def test_half_of_the_objects_are_learnt_from_and_the_others_judge(make_spec):
    spec = make_spec(head=Heatmap(4, (8, 8)), size=(64, 64), box="image", skeleton=SKELETON)
    data = data_of(80, 20)
    learnt = learn_confidence(Predictor.of(bells, spec), data)
    assert learnt.confidence.count == 40
    assert learnt.reliability.count == 4 * 40
    assert learnt.confidence.data == DataId("val", data.fingerprint())


def test_nothing_is_learnt_from_the_training_images(make_spec):
    """A model's errors on them are smaller than others': in training, in an export and in whatever else learns."""
    data = data_of(80, 20)
    spec = make_spec(head=Heatmap(4, (8, 8)), size=(64, 64), box="image", skeleton=SKELETON)
    trained = msgspec.structs.replace(spec.provenance, data=DataId("another name", data.fingerprint()))
    spec = msgspec.structs.replace(spec, provenance=trained)
    learnt = learn_confidence(Predictor.of(bells, spec), data)
    assert (learnt.confidence, learnt.reliability) == (None, None)
    assert "holds the training images, whose errors are smaller" in learnt.why
    assert learn_confidence(Predictor.of(bells, spec), data.subset(np.arange(79))).confidence is not None


NOTHING = {
    "too few": (data_of(49, 49), Heatmap(4, (8, 8)), bells, "49 labelled objects, and 50 are needed"),
    "one group": (data_of(60, 1), Heatmap(4, (8, 8)), bells, "of one group"),
    "no score": (data_of(60, 20), Regression(4), lambda p: np.full((len(p), 4, 2), 0.5), "regression head gives no"),
}


@pytest.mark.parametrize(("data", "head", "engine", "why"), NOTHING.values(), ids=NOTHING)
def test_where_nothing_can_be_learnt_it_says_why(data, head, engine, why: str, make_spec):
    spec = make_spec(head=head, size=(64, 64), box="image", skeleton=SKELETON)
    learnt = learn_confidence(Predictor.of(engine, spec), data)
    assert (learnt.confidence, learnt.reliability) == (None, None)
    assert why in learnt.why


def test_sigma_of_an_oblong_input_is_px_of_the_image(make_spec):
    """What judges the map in px is what a predictor with that map gives, and as large as the errors are."""
    data = data_of(120, 120)
    spec = make_spec(head=Heatmap(4, (12, 8)), size=(96, 64), box="image", skeleton=SKELETON)

    def wide(pixels: np.ndarray) -> np.ndarray:
        sharp = pixels.mean(axis=(1, 2, 3))[:, None, None] / 64 + 0.5
        return np.broadcast_to(-sharp * np.arange(96) / 8, (len(pixels), 4, 96)).astype(np.float32)

    learnt = learn_confidence(Predictor.of(wide, spec), data)
    predictor = Predictor.of(wide, msgspec.structs.replace(spec, confidence=learnt.confidence))
    judges = halves(data.group_index)[1]
    points = [predictor(data.images[i]) for i in judges]
    sigma = np.concatenate([found.sigma for found in points])
    error = point_errors(np.concatenate([found.xy for found in points]), data.xy[judges])
    assert learnt.reliability == reliability_of(sigma, error, data.group_index[judges])
    assert 0.8 < sigma.mean() / error.mean() < 1.25, "px of the image"


def test_predictions_that_are_there_are_not_made_again(make_spec):
    spec, data = make_spec(head=Heatmap(4, (8, 8)), size=(64, 64), box="image", skeleton=SKELETON), data_of(80, 20)
    predictor = Predictor.of(bells, spec)
    wanted = learn_confidence(predictor, data)
    found = learn_confidence(Predictor.of(lambda pixels: 1 / 0, spec), data, predict_dataset(predictor, data))
    assert found == wanted


def test_the_map_is_written_into_the_file_and_the_line_says_how_it_holds(make_spec, monkeypatch):
    spec, data = make_spec(head=Heatmap(4, (8, 8)), size=(64, 64), box="image", skeleton=SKELETON), data_of(80, 20)
    predictor, written = Predictor.of(bells, spec), []
    predictor.path = Path("model.safetensors")
    learnt = learn_confidence(predictor, data)
    monkeypatch.setattr(
        "keylite.evaluation.confidence.describe", lambda path, described: written.append((path, described))
    )
    line = write_confidence(predictor, data)
    assert written == [(predictor.path, msgspec.structs.replace(spec, confidence=learnt.confidence))]
    fitted = "sigma (each point's expected error, px) was fitted on 40 of 80 objects of val"
    assert line.startswith(f"{fitted}; on the others its rank correlation with the errors is ")
    assert write_confidence(predictor, data, judged=False) == fitted


@pytest.mark.parametrize(("before", "words"), [(False, "is not fitted"), (True, "is the parent's")])
def test_where_nothing_is_learnt_nothing_is_written(before, words, make_spec, monkeypatch):
    spec, data = make_spec(head=Heatmap(4, (8, 8)), size=(64, 64), box="image", skeleton=SKELETON), data_of(80, 20)
    confidence = learn_confidence(Predictor.of(bells, spec), data).confidence if before else None
    predictor = Predictor.of(bells, msgspec.structs.replace(spec, confidence=confidence))
    monkeypatch.setattr("keylite.evaluation.confidence.describe", lambda *_: pytest.fail("nothing to write"))
    line = write_confidence(predictor, data_of(49, 49))
    assert words in line
    assert "\n" not in line


def test_where_no_labelled_point_has_a_score_it_says_so(make_spec):
    spec = make_spec(head=Heatmap(4, (8, 8)), size=(64, 64), box="image", skeleton=SKELETON)
    data = data_of(60, 20)
    predictor = Predictor.of(bells, spec)
    unknown = dataclasses.replace(predict_dataset(predictor, data), score=np.full((60, 4), np.nan, np.float32))
    learnt = learn_confidence(predictor, data, unknown)
    assert learnt == Learnt(None, None, "no labelled point has a score")


def test_advice_is_for_data_that_are_too_few(make_spec):
    spec = make_spec(size=(64, 64), box="image", skeleton=SKELETON)
    few, many = data_of(49, 49), data_of(80, 20)
    scored = Predictor.of(bells, msgspec.structs.replace(spec, head=Heatmap(4, (8, 8)), confidence=None))
    assert write_confidence(scored, few).endswith(" and 50 are needed; give more labelled objects")
    assert write_confidence(scored, few, advice="take more").endswith(" and 50 are needed; take more")
    assert write_confidence(scored, few, advice="").endswith(" and 50 are needed")
    plain = Predictor.of(lambda pixels: np.full((len(pixels), 4, 2), 0.5), spec)
    for data in (few, many):  # no data help a head that gives no score
        assert "take more" not in write_confidence(plain, data, advice="take more")
    one_group = few.regrouped(["a"] * len(few.images))
    assert "take more" in write_confidence(scored, one_group, advice="take more")
    one_group = many.regrouped(["a"] * len(many.images))
    assert write_confidence(scored, one_group, advice="take more").endswith("tested on others; see `group`")
