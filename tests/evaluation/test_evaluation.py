"""Metrics against values known by hand or from MMPose's own tests, and evaluation through a predictor made here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.evaluation import metrics
from keylite.evaluation.evaluate import evaluate, judges_of, measure
from keylite.evaluation.figures import object_nme, report_of
from keylite.evaluation.metrics import point_errors
from keylite.evaluation.normaliser import read_normaliser
from keylite.evaluation.predictions import Predictions, joined, measured_xy, predict_dataset, predict_shape
from keylite.evaluation.reliability import halves
from keylite.evaluation.report import (
    KEYPOINT_COLUMNS,
    KeypointReport,
    NmeReport,
    PixelReport,
    Report,
    keypoint_rows,
    summary_rows,
)
from keylite.runtime.geometry import crop_box, whole_box
from keylite.runtime.images import Picture
from keylite.runtime.progress import shown_by
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import DataId

NAN = float("nan")
# MMPose tests/test_evaluation/test_functional/test_keypoint_eval.py: five points, the third one masked
REFERENCE_PRED = np.array([[[10, 4], [10, 18], [0, 0], [40, 40], [20, 10]]], np.float64)
REFERENCE_TRUE = np.array([[[10, 0], [10, 10], [NAN, NAN], [30, 30], [0, 10]]], np.float64)
NAMES = ("nose", "left_eye", "right_eye", "chin")
BOXES = np.array([[0, 0, 30, 40], [10, 10, 20, 110]], np.float64)


def face(groups: int = 6, each: int = 2, seed: int = 0) -> Dataset:
    """Images of 60 x 40 with four points; object 1 lacks its left eye, object 2 all but its chin."""
    rng = np.random.default_rng(seed)
    count = groups * each
    xy = rng.uniform(5, 35, (count, 4, 2))
    xy[1, 1] = NAN
    xy[2, :3] = NAN
    images = [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(count)]
    boxes = np.tile([2.0, 3.0, 42.0, 33.0], (count, 1))
    owners = [f"g{i // each}" for i in range(count)]
    return from_arrays(images, xy, skeleton=Skeleton(NAMES), boxes=boxes, groups=owners, name="faces")


def guesses(dataset: Dataset, xy: np.ndarray) -> Predictions:
    count, keypoints = xy.shape[:2]
    crops = tuple(crop_box(np.array([0, 0, 60, 40.0]), (32, 32)) for _ in range(count))
    return Predictions(xy, np.zeros_like(xy), np.full((count, keypoints), NAN), dataset.box, crops)


def shifted(dataset: Dataset, shift: tuple[float, float]) -> Predictions:
    return guesses(dataset, np.nan_to_num(dataset.xy) + shift)


# ---- metrics


def test_errors_match_mmpose() -> None:
    errors = point_errors(REFERENCE_PRED, REFERENCE_TRUE)
    np.testing.assert_allclose(errors, [[4, 8, NAN, 200**0.5, 20]])
    np.testing.assert_allclose(metrics.nme_of(errors, np.ones(1)), [11.5355339])  # its NME with norm 1, and its EPE


def test_auc_is_the_area_that_mmpose_steps_through() -> None:
    parts = point_errors(REFERENCE_PRED, REFERENCE_TRUE)[0] / 20
    known = parts[np.isfinite(parts)]
    stepped = np.mean([np.mean(known < i / 4) for i in range(4)])
    assert stepped == 0.375  # thresholds start at 0, so a perfect model has .95 with 20 of them
    fine = np.mean([np.mean(known <= (i + 0.5) / 20000) for i in range(20000)])
    assert metrics.auc_of(parts, 1.0) == pytest.approx(0.4232, abs=5e-5)
    assert metrics.auc_of(parts, 1.0) == pytest.approx(fine, abs=1e-4)
    assert metrics.auc_of(np.zeros(3)) == 1
    assert metrics.auc_of(np.array([0.1, 0.5, NAN])) == 0


def test_errors_leave_their_arguments_alone() -> None:
    pred, true = REFERENCE_PRED.copy(), REFERENCE_TRUE.copy()
    point_errors(pred, true)
    np.testing.assert_array_equal(pred, REFERENCE_PRED)
    np.testing.assert_array_equal(true, REFERENCE_TRUE)


def test_lost_predictions_are_an_error_not_a_gap() -> None:
    pred = REFERENCE_PRED.copy()
    pred[0, 2] = NAN  # unlabelled: nothing to measure
    point_errors(pred, REFERENCE_TRUE)
    pred[0, 0, 1] = np.inf
    with pytest.raises(ValueError, match="NaN or Inf at 1 of 4 labelled points"):
        point_errors(pred, REFERENCE_TRUE)


def test_points_of_other_shapes_are_refused() -> None:
    for pred, true in (((2, 3, 2), (2, 4, 2)), ((4, 2), (4, 2)), ((2, 4, 3), (2, 4, 3))):
        with pytest.raises(ValueError, match=r"one shape \(N, K, 2\), got \(\d, "):
            point_errors(np.zeros(pred), np.zeros(true))


def test_half_a_label_is_none() -> None:
    true = REFERENCE_TRUE.copy()
    true[0, 0, 1] = true[0, 1, 0] = NAN
    assert np.isnan(point_errors(REFERENCE_PRED, true)[0, :3]).all()


def test_nme_averages_objects_not_points() -> None:
    errors = np.array([[2, NAN, NAN], [4, 4, 10], [NAN, NAN, NAN], [1, 1, 1], [1, 1, 1]], np.float64)
    nme = metrics.nme_of(errors, np.array([10, 20, 10, 0, NAN]))
    np.testing.assert_allclose(nme, [0.2, 0.3, NAN, NAN, NAN])


def test_pck_is_strict_and_pools_points() -> None:
    errors = np.array([[1, 2, NAN], [0, NAN, NAN], [0, 0, 0]], np.float64)
    length = np.array([10, 10, NAN])
    assert metrics.pck_of(errors, length, 0.1) == pytest.approx(1 / 3)  # 1 < 0.1 * 10 does not hold
    assert metrics.pck_of(errors, length, 0.11) == pytest.approx(2 / 3)


def test_failure_is_above_the_limit() -> None:
    assert metrics.failure_rate_of(np.array([0.1, 0.11, NAN, 0.0])) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("0,1", [5, NAN], id="indices"),
        pytest.param("nose,left_eye", [5, NAN], id="names"),
        pytest.param("left_eye , 0", [5, NAN], id="a name and an index, spaced"),
        pytest.param("box_diagonal", [50, (100**2 + 10**2) ** 0.5], id="diagonal"),
        pytest.param("box_side", [1200**0.5, 1000**0.5], id="side"),
        pytest.param("0.2 x box_diagonal", [10, 0.2 * (100**2 + 10**2) ** 0.5], id="a share of a diagonal"),
        pytest.param("0.01x box_side", [0.01 * 1200**0.5, 0.01 * 1000**0.5], id="a small share of a side"),
        pytest.param("2 xbox_side", [2 * 1200**0.5, 2 * 1000**0.5], id="twice a side"),
        pytest.param("100px", [100, 100], id="constant"),
        pytest.param("2.5px", [2.5, 2.5], id="fraction of a constant"),
    ],
)
def test_normaliser(text: str, expected: list[float]) -> None:
    xy = np.array([[[1, 2], [4, 6], [9, 9], [9, 9]], [[1, 2], [NAN, NAN], [9, 9], [9, 9]]], np.float64)
    np.testing.assert_allclose(read_normaliser(text, NAMES).lengths(xy, BOXES), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interocular", "INDEX,INDEX or NAME,NAME"),
        (36, "normalize: expected a text, got a number; such as 'box_side'"),
        ("", "INDEX,INDEX"),
        ("0,", "INDEX,INDEX"),
        ("0,1,2", "INDEX,INDEX"),
        ("0,4", r"indices 0\.\.3, got 4"),
        ("nose,left_eyes", "no keypoint is named 'left_eyes'; the nearest is 'left_eye'$"),
        ("nose,tail", "no keypoint is named 'tail'$"),
        ("nose,0", "two different keypoints"),
        ("0px", "above 0"),
        ("0.0 x box_side", "above 0 .*, got '0.0 x box_side'"),
        ("0.2 x box_height", "INDEX,INDEX or NAME,NAME, or box_diagonal, box_side, a share of them"),
        ("-1 x box_side", "INDEX,INDEX"),
        ("-5px", "INDEX,INDEX"),
        ("9" * 400 + "px", "expected a length above 0 and at most 16777216, got '999"),
        ("9" * 400 + " x box_side", "expected a length above 0 and at most 16777216, got '999"),
        ("9" * 5000 + ",1", r"indices 0\.\.3, got 999.*\.\.\."),
        ("\u0661px", "INDEX,INDEX"),
    ],
)
def test_normaliser_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_normaliser(text, NAMES)


def test_normaliser_refuses_a_name_that_is_another_index() -> None:
    with pytest.raises(ValueError, match="use names"):
        read_normaliser("1,2", ("1", "2", "3"))
    xy = np.array([[[0, 0], [3, 4]]], np.float64)
    np.testing.assert_allclose(read_normaliser("0,1", ("0", "1")).lengths(xy, BOXES[:1]), [5])


def test_the_median_extent_is_of_the_objects_that_span_something() -> None:
    """Spans of 5, 13 and 10 px in boxes of 50, 130 and 20 px across; one object is a single point, one is nothing."""
    none = [NAN, NAN]
    xy = np.array(
        [
            [[20, 30], [21, 31], [23, 34], [NAN, 0]],
            [[20, 30], none, [15, 42], [90, NAN]],
            [[20, 30], none, [20, 40], none],
            [none, [7, 8], none, none],
            [none] * 4,
        ],
        np.float64,
    )
    boxes = np.array([[7, 9, 37, 49], [1, 2, 51, 122], [3, 4, 15, 20], [0, 0, 9, 9], [0, 0, 9, 9]], np.float64)
    px, share = metrics.median_extent(xy, boxes)
    assert (px, share) == (10, 0.1)
    assert metrics.median_extent(xy[3:], boxes[3:]) is None
    assert metrics.median_extent(xy[:1], boxes[:1]) == (5, 0.1)
    assert metrics.median_extent(xy[2:3], boxes[2:3]) == (10, 0.5)


# ---- intervals


def test_interval_counts_groups_not_objects() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(0, 1, 40)
    wide, narrow = np.repeat(np.arange(40), 25), np.arange(1000)
    values = level[wide]
    by_group = metrics.group_intervals(values[:, None], np.ones(1000), wide, np.random.default_rng(1))
    by_object = metrics.group_intervals(values[:, None], np.ones(1000), narrow, np.random.default_rng(1))
    assert by_group is not None
    assert by_object is not None
    half = 1.96 * level.std() / 40**0.5
    np.testing.assert_allclose(by_group[0] - level.mean(), [-half, half], atol=0.1 * half)  # measured: within 7 %
    assert np.ptp(by_object[0]) < np.ptp(by_group[0]) / 4  # 1 / sqrt(25)


def test_interval_weighs_groups_by_their_objects() -> None:
    group = np.array([0] * 50 + [1, 2, 3, 4, 5])
    values = np.where(group == 0, 1.0, 0.0)
    low, high = metrics.group_intervals(values[:, None], np.ones(55), group, np.random.default_rng(0))[0]
    assert low == 0
    assert high > 0.95


def test_interval_ignores_groups_without_a_figure() -> None:
    counts = np.array([1, 1, 1, 1, 0, 0])
    args = np.ones((6, 1)) * counts[:, None], counts, np.arange(6)
    assert metrics.group_intervals(*args, np.random.default_rng(0)) is None
    counts[4] = 1
    found = metrics.group_intervals(np.ones((6, 1)) * counts[:, None], counts, np.arange(6), np.random.default_rng(0))
    np.testing.assert_array_equal(found, [[1, 1]])


def test_interval_in_pieces_covers_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values, group = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60)
    whole = metrics.group_intervals(values, np.ones(60), group, np.random.default_rng(3))
    monkeypatch.setattr(metrics, "CHUNK", 7 * 60)  # 2000 is no multiple of 7
    pieces = metrics.group_intervals(values, np.ones(60), group, np.random.default_rng(3))
    np.testing.assert_allclose(whole, pieces, rtol=1e-12)  # sums of another order


@pytest.mark.parametrize("groups", [5, 400])
def test_an_interval_is_of_the_groups_drawn_one_by_one(groups: int) -> None:
    """Published intervals hang on the draws of the generator."""
    made = np.random.default_rng(0)
    sums, counts, group = made.normal(3, 1, (900, 2)), made.integers(1, 18, 900), np.arange(900) % groups
    found = metrics.group_intervals(sums, counts, group, np.random.default_rng(3))
    of = [group == g for g in range(groups)]
    table = np.array([[*sums[own].sum(axis=0), counts[own].sum()] for own in of])
    drawn = table[np.random.default_rng(3).integers(0, groups, (metrics.DRAWS, groups))].sum(axis=1)
    np.testing.assert_allclose(found, np.percentile(drawn[:, :2] / drawn[:, 2:], [2.5, 97.5], axis=0).T, rtol=1e-12)


# ---- report


def test_report_of_a_known_shift() -> None:
    data = face()
    report = report_of(shifted(data, (3, -4)), data, "10px", seed=0)
    assert report.nme == NmeReport(0.5, 0.5, (0.5, 0.5), "10px", 0.1, 12)
    assert (report.failure_rate, report.auc) == (1, 0)
    assert report.pck == {"0.05": 0, "0.1": 0, "0.2": 0}
    assert (report.count, report.points, report.groups) == (12, 44, 6)
    assert msgspec.structs.astuple(report.pixel_error) == pytest.approx((5,) * 5)
    assert (report.signed_error.x, report.signed_error.y) == pytest.approx((3, -4))
    assert report.signed_error.x_interval == pytest.approx((3, 3))
    assert report.signed_error.y_interval == pytest.approx((-4, -4))
    assert list(report.per_keypoint) == list(NAMES)
    assert msgspec.structs.astuple(report.per_keypoint["left_eye"]) == pytest.approx((0.5, 5, 5, 3, -4, 10))
    chin = report.per_keypoint["chin"]
    assert msgspec.structs.astuple(chin) == pytest.approx((0.5, 5, 5, 3, -4, 12))
    assert report.notes == ()


SHAPES = {  # px by which a model's points are off, and what is said of the mean shape, which is 10 px off
    "better": (3, "10.00%"),
    "worse": (11, "10.00%: the model is no better"),
    "the same": (10, "10.00%: the model is no better"),
}


@pytest.mark.parametrize(("px", "words"), SHAPES.values(), ids=SHAPES)
def test_the_mean_shape_stands_beside_the_nme(px: float, words: str) -> None:
    data = face()
    crop = crop_box(np.array([0, 0, 60, 40.0]), (32, 32))
    shape = crop.to_unit(np.full((4, 2), 20.0))
    data.xy[np.isfinite(data.xy)] = 20
    data.xy[..., 0] += 10
    report = report_of(shifted(data, (px, 0)), data, "100px", mean_shape=shape.tolist())
    assert report.mean_shape_nme == pytest.approx(0.1)
    assert dict(summary_rows(report))["NME of the mean shape"] == words
    assert report_of(shifted(data, (px, 0)), data, "100px").mean_shape_nme is None
    assert "NME of the mean shape" not in dict(summary_rows(report_of(shifted(data, (px, 0)), data, "100px")))


def test_each_percentile_is_a_figure_of_its_own() -> None:
    """Object i is off by i px at every point, to the right at the nose and downwards at the others."""
    data = from_arrays(["x.png"] * 101, np.full((101, 4, 2), 10.0), skeleton=Skeleton(NAMES))
    xy = data.xy.copy()
    xy[:, 0, 0] += np.arange(101)
    xy[:, 1:, 1] += np.arange(101)[:, None]
    report = report_of(guesses(data, xy), data, "100px")
    assert report.pixel_error == PixelReport(mean=50, p50=50, p90=90, p95=95, max=100)
    for name, shift in (("nose", (50, 0)), ("chin", (0, 50))):
        figures = msgspec.structs.astuple(report.per_keypoint[name])
        assert figures == pytest.approx((0.5, 50, 95, *shift, 101)), name
    assert (report.nme.median, report.failure_rate) == (0.5, pytest.approx(90 / 101))


def test_sigma_is_held_against_the_errors_of_its_judges() -> None:
    data = face(groups=10)
    predictions = dataclasses.replace(shifted(data, (3, -4)), sigma=np.where(np.isfinite(data.xy[..., 0]), 10.0, NAN))
    predictions.sigma[:5] = 2.5
    assert report_of(predictions, data, "100px").reliability.worst == 1.0, "5 px where 2.5 were promised"
    judged = report_of(predictions, data, "100px", judges=np.arange(5, 20)).reliability
    assert (judged.worst, judged.count) == (-0.5, 60)


def test_a_flip_leaves_out_what_either_side_was_not_taught() -> None:
    data = face()
    predictions = dataclasses.replace(shifted(data, (0, 0)), unlearnt={"left_eye": 0})
    left_out = np.isnan(measured_xy(predictions, data)[3, :, 0])
    assert left_out.tolist() == [False, True, False, False]
    left_out = np.isnan(measured_xy(predictions, data, (0, 2, 1, 3))[3, :, 0])
    assert left_out.tolist() == [False, True, True, False]


def test_perfect_points_give_perfect_figures() -> None:
    data = face()
    report = report_of(shifted(data, (0, 0)), data, "box_side")
    assert (report.nme.mean, report.auc, report.failure_rate, report.pixel_error.max) == (0, 1, 0, 0)
    assert set(report.pck.values()) == {1}


def test_points_outside_the_crop_count() -> None:
    data = face()
    far = dataclasses.replace(data, xy=data.xy + 1000)
    assert report_of(shifted(far, (5, 0)), far, "100px").points == 44


def test_what_has_no_normaliser_is_counted_and_said() -> None:
    data = face()
    data.xy[3] = NAN
    report = report_of(shifted(data, (1, 0)), data, "left_eye,right_eye")
    assert report.nme.count == 9
    assert report.points == 40  # pixel errors need no normaliser
    assert report.notes == (
        "1 of 12 objects have no labelled point and count nowhere",
        "2 of 12 objects have no normaliser (left_eye,right_eye unlabelled or 0 px): no NME, PCK, AUC or failure",
    )


def test_an_unlabelled_keypoint_has_no_figures() -> None:
    data = face()
    data.xy[:, 0] = NAN
    report = report_of(shifted(data, (1, 0)), data, "100px")
    assert report.per_keypoint["nose"] == KeypointReport(None, None, None, None, None, 0)
    assert keypoint_rows(report)[0] == ("nose", "-", "-", "-", "-", "-", "0")


def test_few_groups_have_no_interval_and_a_note() -> None:
    data = face(groups=5)
    data.xy[8:] = NAN
    report = report_of(shifted(data, (1, 0)), data, "100px")
    assert (report.nme.interval, report.signed_error.x_interval) == (None, None)
    assert report.notes[1:] == ("no interval: 4 group(s) have an NME, and an interval needs 5",)
    assert ("NME", "1.00% (no interval) by 100px; 1 % is 1 px") in summary_rows(report)


def test_an_object_without_an_nme_does_not_move_the_interval() -> None:
    data = face()
    data.xy[0] = NAN  # the other object of its group has labels
    report = report_of(shifted(data, (3, -4)), data, "10px", seed=0)
    assert (report.nme.mean, report.nme.interval) == (0.5, (0.5, 0.5))


def test_the_seed_fixes_the_interval() -> None:
    data = face()
    found = guesses(data, np.nan_to_num(data.xy) + np.random.default_rng(5).normal(0, 3, data.xy.shape))
    first, again, other = (report_of(found, data, "100px", seed=seed).nme.interval for seed in (1, 1, 2))
    assert first == again != other
    low, high = first
    assert low < report_of(found, data, "100px").nme.mean < high


def test_normaliser_boxes_are_the_ruler() -> None:
    data = face()
    found = dataclasses.replace(shifted(data, (3, 4)), normaliser_boxes=np.tile([0, 0, 100, 100.0], (12, 1)))
    assert report_of(found, data, "box_side").nme.mean == pytest.approx(0.05)


def test_nothing_to_measure_is_an_error() -> None:
    data = face()
    data.xy[:, 1] = NAN
    with pytest.raises(ValueError, match="'left_eye,nose' is unlabelled or 0 px in all 12 objects"):
        report_of(shifted(data, (1, 0)), data, "left_eye,nose")
    data.xy[:] = NAN
    with pytest.raises(ValueError, match="none of the 12 objects has a labelled point"):
        report_of(shifted(data, (1, 0)), data, "100px")


def test_json_has_one_shape_and_comes_back() -> None:
    data = face(groups=4)
    data.xy[:, 0] = NAN
    report = report_of(shifted(data, (1, 0)), data, "100px", model_sha256="ab", engine="onnx", notes=["said"])
    plain = json.loads(report.to_json())
    assert list(plain) == [
        *(
            "nme",
            "mean_shape_nme",
            "failure_rate",
            "failure_limit",
            "pck",
            "auc",
            "pixel_error",
            "mm",
            "signed_error",
            "per_keypoint",
        ),
        *("reliability", "count", "points", "groups", "oks_ap", "boxes", "model_sha256", "data", "engine", "notes"),
    ]
    assert list(plain["nme"]) == ["mean", "median", "interval", "normalize", "percent_px", "count"]
    assert list(plain["pck"]) == ["0.05", "0.1", "0.2"]
    assert list(plain["pixel_error"]) == ["mean", "p50", "p90", "p95", "max"]
    assert list(plain["signed_error"]) == ["x", "y", "x_interval", "y_interval"]
    assert plain["per_keypoint"]["nose"] == {"nme": None, "p50": None, "p95": None, "x": None, "y": None, "count": 0}
    assert plain["data"] == {"name": "faces", "fingerprint": data.fingerprint()}
    assert plain["notes"][0] == "said"
    assert plain["nme"]["interval"] is None
    assert msgspec.json.decode(report.to_json(), type=Report) == report
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(plain | {"extra": 1}, Report)


def test_rows_name_the_normaliser_and_the_interval() -> None:
    data = face()
    rows = summary_rows(report_of(shifted(data, (3, -4)), data, "100px", notes=["careful"]))
    assert rows[0] == ("NME", "5.00% [5.00%, 5.00%] by 100px; 1 % is 1 px")
    assert ("signed error", "x +3.00 [+3.00, +3.00], y -4.00 [-4.00, -4.00] px") in rows
    assert rows[-1] == ("note", "careful")
    assert not [label for label, _ in rows if label in ("OKS-AP", "model", "engine")]  # unknown here
    opened = summary_rows(report_of(shifted(data, (3, -4)), data, "100px", model_sha256="ab" * 32, engine="onnx"))
    assert opened[-2:] == [("model", "ab" * 6), ("engine", "onnx")]
    keypoints = keypoint_rows(report_of(shifted(data, (3, -4)), data, "100px"))
    assert keypoints[3] == ("chin", "5.00%", "5.00", "5.00", "+3.00", "-4.00", "12")
    assert {len(row) for row in keypoints} == {len(KEYPOINT_COLUMNS)}


def test_a_report_prints_its_rows_and_says_in_a_line_what_it_is() -> None:
    data = dataclasses.replace(face(), name="<b>test")
    report = report_of(shifted(data, (3, -4)), data, "100px", notes=["a < b"])
    assert repr(report) == f"Report(NME 5.00 % of 100px, {len(data)} objects of <b>test)"
    assert [" ".join(line.split()) for line in str(report).splitlines() if "----" not in line] == [
        *(" ".join(row) for row in summary_rows(report)),
        "",
        " ".join(KEYPOINT_COLUMNS),
        *(" ".join(row) for row in keypoint_rows(report)),
    ]
    shown = report._repr_html_()
    assert "&lt;b&gt;test" in shown
    assert "a &lt; b" in shown
    assert "<b>" not in shown


def test_a_report_as_plain_values_and_as_a_data_frame(monkeypatch) -> None:
    data = face()
    report = report_of(shifted(data, (3, -4)), data, "100px")
    assert report.to_dict() == msgspec.json.decode(report.to_json())
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    rows = report.to_dataframe()
    assert [row["keypoint"] for row in rows] == list(data.skeleton.names)
    assert list(rows[0]) == ["keypoint", "nme", "p50", "p95", "x", "y", "count"]
    assert (rows[3]["nme"], rows[3]["count"]) == (pytest.approx(0.05), 12)


def test_predictions_say_in_a_line_what_they_are() -> None:
    assert repr(shifted(face(), (0, 0))) == f"Predictions({len(face())} objects, 4 keypoints)"


# ---- OKS


def pair_off(oks: float, sigma: float, area: float) -> float:
    """The distance px at which a keypoint scores `oks`: oks = exp(-d^2 / (2 area (2 sigma)^2))."""
    return float((-np.log(oks) * 2 * area * (2 * sigma) ** 2) ** 0.5)


def ap_of(found: Predictions, dataset: Dataset, sigmas: list[float]) -> float | None:
    return report_of(found, dataset, "100px", sigmas=sigmas).oks_ap


def test_a_mean_score_counts_what_is_known() -> None:
    scores = np.array([[0.2, 0.4], [NAN, 0.5], [NAN, NAN]])
    np.testing.assert_allclose(metrics.mean_scores(scores), [0.3, 0.5, 1.0])


@pytest.mark.parametrize(
    ("oks", "expected"),
    [(1.0, 1.0), (0.72, 0.5), (0.49, 0.0), (0.96, 1.0)],
    ids=["perfect", "five of ten thresholds", "below all", "above all"],
)
@pytest.mark.parametrize("area", [None, 400.0], ids=["area of the box", "area of the data"])
def test_oks_ap_by_hand(oks: float, expected: float, area: float | None) -> None:
    pytest.importorskip("faster_coco_eval")
    data = face()
    if area:
        data.area[:] = area
    distance = pair_off(oks, 0.05, area or 40 * 30)
    found = dataclasses.replace(shifted(data, (distance, 0)), boxes=data.box * 3)  # the annotation's box goes first
    report = report_of(found, data, "100px", sigmas=[0.05] * 4)
    assert report.oks_ap == pytest.approx(expected)
    assert ("OKS-AP", f"{report.oks_ap:.4f}") in summary_rows(report)


def test_oks_ap_ranks_by_the_mean_score_and_leaves_out_the_unlabelled() -> None:
    pytest.importorskip("faster_coco_eval")
    data = face(groups=4, each=1)
    data.xy[0], data.xy[1:] = NAN, 20
    xy = np.nan_to_num(data.xy)
    xy[1] += 500  # one of three labelled objects is lost
    found = guesses(data, xy)
    found.score[:] = np.array([0.1, 0.99, 0.95, 0.95])[:, None]
    # the lost one comes first: precision 0, 1/2, 2/3; the envelope is 2/3 over recall 0..2/3: 67 of 101 steps
    assert ap_of(found, data, [0.05] * 4) == pytest.approx(2 / 3 * 67 / 101)
    found.score[1] = [0.9, NAN, NAN, 0.9]  # its mean is now the last: precision 1, 1, 2/3
    assert ap_of(found, data, [0.05] * 4) == pytest.approx(67 / 101)
    found.score[1] = NAN  # counts as 1: first again
    assert ap_of(found, data, [0.05] * 4) == pytest.approx(2 / 3 * 67 / 101)


def test_oks_ap_counts_objects_of_few_labels_and_images_of_few_objects() -> None:
    pytest.importorskip("faster_coco_eval")
    data = face()
    assert ap_of(shifted(data, (0, 0)), data, [0.05] * 4) == pytest.approx(1.0)
    xy = np.nan_to_num(data.xy)
    xy[2] += 500  # its chin alone is labelled
    assert ap_of(guesses(data, xy), data, [0.05] * 4) < 0.95
    shared = dataclasses.replace(data, image_index=np.array([0] * 11 + [1], np.int32))
    assert ap_of(shifted(shared, (0, 0)), shared, [0.05] * 4) == pytest.approx(1.0)


def test_oks_ap_takes_more_than_twenty_objects_an_image() -> None:
    pytest.importorskip("faster_coco_eval")
    data = face(groups=30, each=1)
    crowd = dataclasses.replace(
        data, images=data.images[:1], image_names=data.image_names[:1], image_index=np.zeros(30, np.int32)
    )
    assert ap_of(shifted(crowd, (0, 0)), crowd, [0.01] * 4) == pytest.approx(1.0)


def test_oks_ap_refuses() -> None:
    pytest.importorskip("faster_coco_eval")
    data = face()
    with pytest.raises(ValueError, match="expected 4 values, one per keypoint, got 17"):
        ap_of(shifted(data, (0, 0)), data, [0.1] * 17)
    for odd in (NAN, 0, -1, np.inf, "0.1", None):
        with pytest.raises(ValueError, match=f"^sigmas: expected finite numbers above 0, got {odd!r}"):
            ap_of(shifted(data, (0, 0)), data, [odd, 0.1, 0.1, 0.1])


def test_oks_ap_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    data = face()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keylite\[coco\]'"):
        ap_of(shifted(data, (0, 0)), data, [0.1] * 4)


# ---- models


class Reader:
    """A predictor that reads its points off the crop: each pixel holds its own image coordinates and image number.

    Point k lies at the crop's centre plus k px of the image, so every place a crop can go wrong shows.
    """

    sha256, engine_name, max_megapixels = "ab" * 32, "reader", 100.0

    def __init__(
        self,
        box: str = "annotation",
        skeleton: Skeleton | None = None,
        size: tuple[int, int] = (33, 21),
        batch: int = 8,
    ):
        self.spec = SimpleNamespace(
            skeleton=skeleton or Skeleton(NAMES),
            size=size,
            box=box,
            padding=0.25,
            normalize="box_side",
            mean_shape=None,
            confidence=None,
            unlearnt={},
            teaches_hidden=True,
            white_level=65535,
        )
        self.batches: list[int] = []
        self.batch = batch

    def crops(self, image: np.ndarray, boxes: np.ndarray | None = None) -> list:
        padding = self.spec.padding if self.spec.box == "annotation" else 0.0
        asked = whole_box(image)[None] if boxes is None else boxes
        return [crop_box(box, self.spec.size, padding) for box in asked]

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (self.spec.size[1], self.spec.size[0], 3)
        self.batches.append(len(pixels))
        middle = pixels[:, self.spec.size[1] // 2, self.spec.size[0] // 2]
        unit_xy = np.full((len(pixels), len(self.spec.skeleton), 2), 0.5, np.float32)
        return unit_xy, np.repeat(middle[:, 2:].astype(np.float32), len(self.spec.skeleton), axis=1)

    def sigma(self, score: np.ndarray, crops: list) -> np.ndarray:
        return score * np.array([crop.scale for crop in crops])[:, None]


def numbered(objects: list[int], boxes: np.ndarray | None = None) -> Dataset:
    """An object per entry, in the image of that number; image i is filled with 10 * i."""
    data = from_arrays(
        [np.full((40, 60, 3), 10 * i, np.uint8) for i in range(max(objects) + 1)],
        np.tile([[10.0, 10], [20, 10], [10, 20], [20, 20]], (max(objects) + 1, 1, 1)),
        skeleton=Skeleton(NAMES),
        name="numbers",
    ).subset(np.array(objects))
    return data if boxes is None else dataclasses.replace(data, box=boxes)


def boxes_of(count: int) -> np.ndarray:
    corner = np.random.default_rng(0).uniform(0, 20, (count, 2))
    return np.concatenate([corner, corner + np.array([12, 9])], axis=1)


@pytest.mark.parametrize("batch", [1, 3, 4, 32])
def test_predictions_keep_the_order_of_objects(batch: int) -> None:
    order = [2, 0, 1, 2, 0, 3, 2]
    data, reader, progress = numbered(order, boxes_of(7)), Reader(batch=batch), []
    with shown_by(lambda what, total: contextlib.nullcontext(progress.append)):
        found = predict_dataset(reader, data)
    np.testing.assert_array_equal(found.score[:, 0], 10 * np.array(order))
    centres = (data.box[:, :2] + data.box[:, 2:]) / 2
    np.testing.assert_allclose(found.xy, np.repeat(centres[:, None], 4, axis=1))
    np.testing.assert_array_equal(found.boxes, data.box)
    assert len(found.crops) == 7
    assert found.xy.dtype == np.float64
    assert sum(reader.batches) == 7
    assert max(reader.batches) == min(batch, 7)
    assert progress == reader.batches


def test_a_picture_of_one_pixel_is_whole_without_boxes() -> None:
    pixel = from_arrays([np.zeros((1, 1, 3), np.uint8)], np.full((1, 4, 2), 0.5), skeleton=Skeleton(NAMES))
    assert predict_dataset(Reader("image"), pixel).boxes.tolist() == [[0, 0, 1, 1]]


def test_the_object_whose_box_is_bad_is_named() -> None:
    boxes = boxes_of(4)
    boxes[2] = [70, 0, 90, 20]  # of a picture of 60 x 40
    with pytest.raises(
        ValueError, match=r"^image_000001#1: box \[70.0, 0.0, 90.0, 20.0\] \(xyxy\) lies outside its 60x40 image"
    ):
        predict_dataset(Reader(), numbered([0, 1, 1, 1], boxes_of(4)), boxes=boxes)


def test_each_image_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def read(picture: Picture, *_: object, **__: object) -> np.ndarray:
        reads.append(int(picture.data[0, 0, 0]))
        return picture.data

    monkeypatch.setattr(Picture, "pixels", read)
    predict_dataset(Reader(batch=2), numbered([2, 0, 1, 2, 0], boxes_of(5)))
    assert sorted(reads) == [0, 10, 20]


@pytest.mark.parametrize("box", ["annotation", "image"])
def test_one_answer_for_every_crop_needs_no_image(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, reader = numbered([2, 0, 1, 2], boxes_of(4)), Reader(box)
    unit_xy = np.random.default_rng(0).uniform(-0.2, 1.2, (4, 2)).astype(np.float32)
    reader.run = lambda pixels: (np.tile(unit_xy, (len(pixels), 1, 1)), np.full((len(pixels), 4), np.nan))
    want = predict_dataset(reader, data)
    data = dataclasses.replace(data, image_sizes=np.full((3, 2), (60, 40)))
    monkeypatch.setattr(Picture, "pixels", lambda *_, **__: pytest.fail("an image was read"))
    found = predict_shape(unit_xy, reader.spec, data)
    for name in ("xy", "unit_xy", "score", "boxes"):
        np.testing.assert_allclose(getattr(found, name), getattr(want, name), rtol=1e-12, err_msg=name)
    one, other = (report_of(predictions, data, "box_side") for predictions in (found, want))
    assert one.nme.mean == pytest.approx(other.nme.mean, rel=1e-12)


def test_one_answer_for_every_crop_needs_boxes_where_the_model_does() -> None:
    with pytest.raises(ValueError, match="the model crops by a box, and 2 of 2 objects lack one"):
        predict_shape(np.zeros((4, 2)), Reader().spec, numbered([0, 1]))


def test_objects_without_a_box_are_named_up_to_ten() -> None:
    with pytest.raises(ValueError, match=r"12 of 12 objects lack one: image_000000#0; .*#9; and 2 more; train"):
        predict_dataset(Reader(), numbered([0] * 12))


def test_whole_images_need_no_box() -> None:
    found = predict_dataset(Reader("image"), numbered([0, 1]))
    np.testing.assert_array_equal(found.boxes, [[0, 0, 60, 40]] * 2)
    np.testing.assert_array_equal(found.normaliser_boxes, [[0, 0, 60, 40]] * 2)
    np.testing.assert_allclose(found.xy, np.full((2, 4, 2), [30, 20]))


def test_a_missing_box_is_named() -> None:
    boxes = boxes_of(3)
    boxes[1:] = NAN
    with pytest.raises(ValueError, match=r"2 of 3 .* lack one: image_000001; image_000002; train with `box='image'`"):
        predict_dataset(Reader(), numbered([0, 1, 2], boxes))


def test_boxes_of_a_detector_do_not_change_the_ruler() -> None:
    data, reader = numbered([0, 1, 2], boxes_of(3)), Reader()
    found = predict_dataset(reader, data, boxes=data.box + 5)
    np.testing.assert_array_equal(found.boxes, data.box + 5)
    np.testing.assert_array_equal(found.normaliser_boxes, data.box)
    bare = dataclasses.replace(data, box=np.full((3, 4), NAN))
    found = predict_dataset(reader, bare, boxes=data.box + 5)
    np.testing.assert_array_equal(found.normaliser_boxes, data.box + 5)
    with pytest.raises(ValueError, match="expected 3, one per object of numbers, got 2"):
        predict_dataset(reader, data, boxes=data.box[:2])


def test_an_object_without_a_box_leaves_the_ruler_of_the_others() -> None:
    data, reader = numbered([0, 1, 2], boxes_of(3)), Reader()
    data.box[1] = NAN
    given = boxes_of(3) * 2
    found = predict_dataset(reader, data, boxes=given)
    np.testing.assert_array_equal(found.normaliser_boxes, [data.box[0], given[1], data.box[2]])
    said = "1 of 3 objects have no annotated box: their NME is by the given one"
    assert said in evaluate(reader, data, boxes=given).notes
    assert said not in evaluate(reader, data, boxes=given, normalize="100px").notes
    assert said not in evaluate(Reader("image"), data, boxes=given).notes


@pytest.mark.parametrize("box", ["annotation", "image"])
def test_jitter_moves_the_crop_and_not_the_ruler(box: str) -> None:
    data = numbered([0, 1, 2], boxes_of(3))
    args = Reader(box), data
    plain = predict_dataset(*args)
    first, again, other = (
        predict_dataset(*args, jitter_box=0.2, generator=np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.boxes, again.boxes)
    np.testing.assert_array_equal(first.normaliser_boxes, plain.boxes)
    assert (first.boxes != plain.boxes).all()
    assert (first.boxes != other.boxes).all()
    centres = (first.boxes[:, :2] + first.boxes[:, 2:]) / 2
    np.testing.assert_allclose(first.xy[:, 0], centres)


def test_jitter_needs_a_sane_amount_and_a_generator() -> None:
    data = numbered([0], boxes_of(1))
    with pytest.raises(ValueError, match="fraction of the box's side"):
        predict_dataset(Reader(), data, jitter_box=1.5, generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="Generator"):
        predict_dataset(Reader(), data, jitter_box=0.1)


def test_evaluate_says_what_was_measured() -> None:
    data = numbered([0, 1, 2, 2, 3, 4], boxes_of(6))
    report, predictions = measure(Reader(), data)
    assert report == evaluate(Reader(), data)
    assert report == report_of(predictions, data, "box_side", model_sha256="ab" * 32, engine="reader")
    assert (report.boxes, report.oks_ap, report.notes) == ("annotation", None, ())
    assert report.nme.normalize == "box_side"
    assert evaluate(Reader(), data, normalize="0,1").nme.normalize == "0,1"


@pytest.mark.parametrize(
    ("box", "options", "expected"),
    [
        ("annotation", {}, "annotation"),
        ("image", {}, "image"),
        ("annotation", {"boxes": boxes_of(6)}, "file"),
        ("annotation", {"jitter_box": 0.1}, "annotation, jitter 0.1 seed 0"),
        ("image", {"jitter_box": 0.05, "seed": 3}, "image, jitter 0.05 seed 3"),
    ],
    ids=["annotation", "image", "file", "jitter", "jittered image"],
)
def test_evaluate_names_the_boxes(box: str, options: dict, expected: str) -> None:
    report = evaluate(Reader(box), numbered([0, 1, 2, 3, 4, 5], boxes_of(6)), **options)
    assert report.boxes == expected


def test_evaluate_refuses_another_number_of_keypoints() -> None:
    reader = Reader(skeleton=Skeleton(tuple(f"k{k}" for k in range(68))))
    with pytest.raises(ValueError, match="model has 68 keypoints, data has 4"):
        evaluate(reader, numbered([0], boxes_of(1)))


def test_evaluate_notes_other_names_and_refuses_another_order() -> None:
    data = numbered([0, 1, 2, 3, 4], boxes_of(5))
    report = evaluate(Reader(skeleton=Skeleton(("nose", "l", "r", "chin"))), data)
    shown = "'l' is 'left_eye' in the data; 'r' is 'right_eye' in the data"
    assert report.notes == (f"2 of 4 keypoint names differ, matched by position: {shown}",)
    with pytest.raises(ValueError, match="same names in another order"):
        evaluate(Reader(skeleton=Skeleton(("nose", "right_eye", "left_eye", "chin"))), data)


def test_evaluate_notes_a_whole_image_with_several_objects() -> None:
    report = evaluate(Reader("image"), numbered([0, 0, 1, 2, 3, 4]))
    assert report.notes[0].startswith("1 objects share their image with another")


@pytest.mark.parametrize("where", ["argument", "data", "model"])
def test_evaluate_finds_sigmas(where: str) -> None:
    pytest.importorskip("faster_coco_eval")
    data, sigmas = numbered([0, 1, 2, 3, 4], boxes_of(5)), (0.05,) * 4
    named = Skeleton(NAMES, sigmas=sigmas)
    report = evaluate(
        Reader(skeleton=named if where == "model" else None),
        data.with_skeleton(named) if where == "data" else data,
        sigmas=sigmas if where == "argument" else None,
    )
    assert report.oks_ap is not None


def test_evaluate_says_what_it_lacks_for_sigmas_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    report = evaluate(Reader(skeleton=Skeleton(NAMES, sigmas=(0.1,) * 4)), numbered([0, 1, 2, 3, 4], boxes_of(5)))
    assert report.oks_ap is None
    assert report.notes == ("no OKS-AP although there are sigmas: pip install 'keylite[coco]'",)


def test_evaluate_counts_who_judges_sigma() -> None:
    data = numbered([0, 1, 2, 3, 4, 5], boxes_of(6))
    report, _ = measure(Reader(), data, judges=np.array([4, 5, 0, 1]))
    assert report.notes == ("sigma was fitted on 2 of these objects and is tested on the other 4",)


def test_objects_that_sigma_was_not_fitted_on_judge_it() -> None:
    data = from_arrays(["x.png"] * 60, np.ones((60, 1, 2)), groups=[str(i // 2) for i in range(60)])
    fitted = SimpleNamespace(confidence=SimpleNamespace(data=data.identity()))
    other = SimpleNamespace(confidence=SimpleNamespace(data=DataId(data.name, "0")))
    assert judges_of([other, SimpleNamespace(confidence=None)], data) is None
    np.testing.assert_array_equal(judges_of([other, fitted], data), halves(data.group_index)[1])


def test_evaluate_refuses_before_it_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keylite.evaluation.evaluate.predict_dataset", lambda *_, **__: pytest.fail("it was predicted"))
    data = numbered([0], boxes_of(1))
    for bad, words in (
        ({"normalize": "0,9"}, "normalize: expected keypoint indices"),
        ({"normalize": "0px", "boxes": boxes_of(1)}, "normalize: expected a length"),
        ({"sigmas": (NAN,) * 4}, "sigmas: expected|not installed"),
    ):
        with pytest.raises((ValueError, ModuleNotFoundError), match=words):
            evaluate(Reader(), data, **bad)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keylite\[coco\]'"):
        evaluate(Reader(), data, sigmas=(0.1,) * 4)


def test_evaluate_opens_a_path() -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.onnx"):
        evaluate("missing.onnx", numbered([0], boxes_of(1)))


def test_evaluate_refuses_an_engine_for_an_open_predictor() -> None:
    with pytest.raises(ValueError, match="give them when it is opened"):
        evaluate(Reader(), numbered([0], boxes_of(1)), threads=2)


@pytest.mark.parametrize("count", [0, 3], ids=["no label", "a few labels"])
def test_a_keypoint_that_was_hardly_taught_counts_in_no_figure(count: int) -> None:
    pytest.importorskip("faster_coco_eval")
    data = numbered([0, 1, 2, 3, 4], boxes_of(5))
    plain, made = measure(Reader(), data)
    xy = made.xy.copy()
    if not count:
        xy[:, 3] = NAN
    predictions = dataclasses.replace(made, xy=xy, unlearnt={"chin": count})
    report = report_of(predictions, data, "box_side", sigmas=[0.1] * 4)
    unlabelled = data.xy.copy()
    unlabelled[:, 3] = NAN
    want = report_of(made, data.with_xy(unlabelled), "box_side", sigmas=[0.1] * 4)
    for figure in ("nme", "pck", "auc", "pixel_error", "signed_error", "points", "reliability", "oks_ap"):
        assert getattr(report, figure) == getattr(want, figure), figure
    assert report.per_keypoint["chin"].count == (5 if count else 0)
    assert report.per_keypoint["nose"] == plain.per_keypoint["nose"]
    assert report.data == plain.data, "its fingerprint is that of the labels as they are"
    words = (
        "hardly any training object labels these keypoints" if count else "no training object labels these keypoints"
    )
    assert report.notes[0].startswith(words)
    np.testing.assert_allclose(
        object_nme(predictions, data, "box_side"), object_nme(made, data.with_xy(unlabelled), "box_side")
    )
    assert joined([predictions, made], np.arange(10)).unlearnt == {"chin": count}


def test_nothing_is_left_to_measure_is_said() -> None:
    data = numbered([0, 1], boxes_of(2))
    xy = np.full_like(data.xy, NAN)
    xy[:, 3] = 12
    predictions = Predictions(data.xy, data.xy, data.xy[..., 0], data.box, (), unlearnt={"chin": 0})
    with pytest.raises(
        ValueError,
        match="none of the 2 objects has a labelled point to measure against .without chin, which training .*; label",
    ):
        report_of(predictions, data.with_xy(xy), "box_side")


def test_what_one_fold_has_not_learnt_at_all_stays_so_in_all_together():
    one, two = (
        dataclasses.replace(made, unlearnt=unlearnt)
        for made, unlearnt in ((few_predictions(), {"chin": 0, "nose": 2}), (few_predictions(), {"chin": 1}))
    )
    for parts in ([one, two], [two, one]):
        assert joined(parts, np.arange(2)).unlearnt == {"chin": 0, "nose": 2}


def few_predictions() -> Predictions:
    zeros = np.zeros((1, 2, 2))
    return Predictions(
        zeros, zeros, np.zeros((1, 2)), np.array([[0.0, 0, 9, 9]]), (crop_box(np.array([0, 0, 9, 9]), (8, 8)),)
    )
