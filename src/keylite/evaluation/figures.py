"""The figures of a report, from predictions and labels; no model is needed. metrics.py has the formulas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.metrics import (
    FAILURE_LIMIT,
    FEWEST_GROUPS,
    auc_of,
    failure_rate_of,
    group_intervals,
    nme_of,
    oks_ap,
    pck_of,
    point_errors,
)
from keylite.evaluation.normaliser import read_normaliser
from keylite.evaluation.predictions import Predictions, counted_xy, errors_of, measured_xy
from keylite.evaluation.reliability import Reliability, reliability_of
from keylite.evaluation.report import KeypointReport, MmReport, NmeReport, PixelReport, Report, SignedReport
from keylite.runtime.errors import ArgumentError
from keylite.runtime.spec import unlearnt_words
from keylite.runtime.words import counted, quoted

SDR_AT = ("2", "2.5", "3", "4")  # mm, the usual ones for cephalograms
PCK_AT = (0.05, 0.1, 0.2)  # fractions of the normaliser


def report_of(
    predictions: Predictions,
    dataset: Dataset,
    normalize: str,
    *,
    mean_shape: Sequence[tuple[float, float]] | None = None,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
    box_source: str = "annotation",
    model_sha256: str | None = None,
    engine: str | None = None,
    judges: np.ndarray | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """The report of predictions that were made already; no model is needed.

    normalize: see `read_normaliser`. mean_shape: (K, 2) unit coordinates to compare the model with; None: the report
    lacks that figure, as it does without crops. sigmas: K OKS constants. None: no OKS-AP. seed: of the intervals.
    judges: indices of the objects that sigma is tested on. None: all.
    Raises ArgumentError if no object has a label, none has a normaliser, or a prediction is not finite.
    """
    errors = errors_of(predictions, dataset)
    labelled = np.isfinite(errors)
    _require_labelled(labelled, predictions, dataset)
    length = _lengths(predictions, dataset, normalize)
    nme = nme_of(errors, length)
    _require_scaled(nme, dataset, normalize)
    generator = np.random.default_rng(seed)
    nme_report = _nme_report(nme, length, normalize, dataset.group_index, generator)
    signed_report = _signed_report(predictions.xy - dataset.xy, labelled, dataset.group_index, generator)
    return Report(
        nme=nme_report,
        mean_shape_nme=_mean_shape_nme(predictions, dataset, length, mean_shape),
        failure_rate=failure_rate_of(nme, FAILURE_LIMIT),
        failure_limit=FAILURE_LIMIT,
        pck={f"{at:g}": pck_of(errors, length, at) for at in PCK_AT},
        auc=auc_of(nme, FAILURE_LIMIT),
        pixel_error=_pixel_report(errors[labelled]),
        mm=_mm_report(errors, dataset, generator),
        signed_error=signed_report,
        per_keypoint=_keypoint_reports(predictions, dataset, length),
        reliability=_reliability(predictions, errors, dataset, judges, seed),
        count=len(dataset),
        points=int(labelled.sum()),
        groups=len(dataset.groups),
        oks_ap=None if sigmas is None else _oks_ap(predictions, dataset, sigmas),
        boxes=box_source,
        model_sha256=model_sha256,
        data=dataset.identity(),
        engine=engine,
        notes=(
            *notes,
            *unlearnt_words(predictions.unlearnt),
            *hidden_words(predictions, dataset),
            *_count_notes(labelled, nme, dataset, normalize, nme_report.interval is None),
            *_scale_notes(dataset),
        ),
    )


def hidden_words(predictions: Predictions, dataset: Dataset) -> list[str]:
    """A note if hidden points do not count."""
    count = 0 if predictions.hidden else int((dataset.visible == 1).sum())
    return [f"left out: {counted(count, 'hidden point')}, because the model was trained without them"] if count else []


def _require_labelled(labelled: np.ndarray, predictions: Predictions, dataset: Dataset) -> None:
    """Raise ArgumentError if no point has a label that it can be measured by. labelled: (N, K)."""
    if not labelled.any():
        named = ", ".join(predictions.unlearnt)
        but = f" (without {named}, which training hardly labelled)" if named else ""
        raise ArgumentError(
            f"{dataset.called}: none of the {len(dataset)} objects has a labelled point to measure against{but}; "
            "label some of them, or measure on other data"
        )


def _require_scaled(nme: np.ndarray, dataset: Dataset, normalize: str) -> None:
    """Raise ArgumentError if no object has a normaliser and so an NME. nme: (N,), NaN for objects without one."""
    if not np.isfinite(nme).any():
        raise ArgumentError(
            f"{dataset.called}: normalize: {quoted(normalize)} is unlabelled or 0 px in all {len(dataset)} objects; "
            "choose another pair, box_side, or a constant such as 100px"
        )


def _lengths(predictions: Predictions, dataset: Dataset, normalize: str) -> np.ndarray:
    """Each object's normaliser (N,), px; NaN if it has none."""
    return read_normaliser(normalize, dataset.skeleton.names).lengths(dataset.xy, _normaliser_boxes(predictions))


def _nme_report(
    nme: np.ndarray, length: np.ndarray, normalize: str, groups: np.ndarray, generator: np.random.Generator
) -> NmeReport:
    """The NME over objects (N,), with its interval. groups: the group of each object."""
    counted = np.isfinite(nme)
    interval = group_intervals(np.where(counted, nme, 0)[:, None], counted, groups, generator)
    return NmeReport(
        mean=float(nme[counted].mean()),
        median=float(np.median(nme[counted])),
        interval=_pair(interval, 0),
        normalize=normalize,
        percent_px=float(np.median(length[counted])) / 100,
        count=int(counted.sum()),
    )


def _pixel_report(pixels: np.ndarray) -> PixelReport:
    """The distances of labelled points (P,), px."""
    p50, p90, p95 = np.percentile(pixels, [50, 90, 95]).tolist()
    return PixelReport(mean=float(pixels.mean()), p50=p50, p90=p90, p95=p95, max=float(pixels.max()))


def _mm_report(errors: np.ndarray, dataset: Dataset, generator: np.random.Generator) -> MmReport | None:
    """The errors (N, K) px in mm; None if no labelled object knows how long a px is."""
    if dataset.mm_per_px is None:
        return None
    mm = errors * dataset.mm_per_px[:, None]
    known = np.isfinite(mm)
    if not known.any():
        return None
    values = [np.where(known, mm, 0), *((mm < float(at)) for at in SDR_AT)]  # a comparison with NaN is False
    sums, counts = np.stack([value.sum(axis=1) for value in values], axis=1), known.sum(axis=1)
    mean, *shares = (sums.sum(axis=0) / counts.sum()).tolist()
    intervals = group_intervals(sums, counts, dataset.group_index, generator)
    pairs = [] if intervals is None else [(float(low), float(high)) for low, high in intervals]
    return MmReport(
        mean=mean,
        interval=pairs[0] if pairs else None,
        sdr=dict(zip(SDR_AT, shares, strict=True)),
        sdr_intervals=dict(zip(SDR_AT, pairs[1:], strict=True)) if pairs else None,
        points=int(known.sum()),
        count=int(known.any(axis=1).sum()),
    )


def _signed_report(
    difference: np.ndarray, labelled: np.ndarray, groups: np.ndarray, generator: np.random.Generator
) -> SignedReport:
    """The mean shift of labelled points, with its intervals. difference: (N, K, 2) px, from label to prediction."""
    signed = np.where(labelled[..., None], difference, 0)
    intervals = group_intervals(signed.sum(axis=1), labelled.sum(axis=1), groups, generator)
    x, y = (signed.sum(axis=(0, 1)) / labelled.sum()).tolist()
    return SignedReport(x=x, y=y, x_interval=_pair(intervals, 0), y_interval=_pair(intervals, 1))


def _mean_shape_nme(
    predictions: Predictions, dataset: Dataset, length: np.ndarray, mean_shape: Sequence[tuple[float, float]] | None
) -> float | None:
    """The NME of giving this shape for every crop."""
    if mean_shape is None or not predictions.crops:
        return None
    unit_xy = np.array(mean_shape)
    xy = np.stack([crop.from_unit(unit_xy) for crop in predictions.crops])
    return float(np.nanmean(nme_of(point_errors(xy, measured_xy(predictions, dataset)), length)))


def _keypoint_reports(predictions: Predictions, dataset: Dataset, length: np.ndarray) -> dict[str, KeypointReport]:
    """The report of each keypoint, also if it has few labels in training; without any, nothing is measured."""
    names = dataset.skeleton.names
    untaught = np.array([predictions.unlearnt.get(name) == 0 for name in names])
    true = np.where(untaught[:, None], np.nan, counted_xy(predictions, dataset))
    errors = point_errors(predictions.xy, true)
    signed = np.where(np.isfinite(errors)[..., None], predictions.xy - true, 0)
    return {name: _keypoint_report(errors[:, k], signed[:, k], length) for k, name in enumerate(names)}


def _reliability(
    predictions: Predictions, errors: np.ndarray, dataset: Dataset, judges: np.ndarray | None, seed: int
) -> Reliability | None:
    """How well sigma agrees with the errors of the objects that it is tested on."""
    if predictions.sigma is None:
        return None
    rows = slice(None) if judges is None else judges
    return reliability_of(predictions.sigma[rows], errors[rows], dataset.group_index[rows], seed)


def object_nme(predictions: Predictions, dataset: Dataset, normalize: str) -> np.ndarray:
    """Each object's NME (N,), a fraction; NaN if it has no label or no normaliser."""
    return nme_of(errors_of(predictions, dataset), _lengths(predictions, dataset, normalize))


def _normaliser_boxes(predictions: Predictions) -> np.ndarray:
    """(N, 4) xyxy px of the boxes before jitter."""
    return predictions.boxes if predictions.normaliser_boxes is None else predictions.normaliser_boxes


def _oks_ap(predictions: Predictions, dataset: Dataset, sigmas: Sequence[float]) -> float:
    """The OKS-AP. An object's area is the data set's, else that of its box, else that of the box it was cropped by."""
    boxes = np.where(dataset.boxed[:, None], dataset.box, _normaliser_boxes(predictions))
    area = np.where(np.isfinite(dataset.area), dataset.area, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    true = measured_xy(predictions, dataset)
    known = np.isfinite(true)
    return oks_ap(np.where(known, predictions.xy, 0), predictions.score, true, area, dataset.image_index, sigmas)


def _pair(intervals: np.ndarray | None, row: int) -> tuple[float, float] | None:
    return None if intervals is None else (float(intervals[row, 0]), float(intervals[row, 1]))


def _keypoint_report(errors: np.ndarray, signed: np.ndarray, length: np.ndarray) -> KeypointReport:
    """The report of one keypoint, from its errors (N,), signed errors (N, 2) and normalisers (N,), all in px."""
    labelled = np.isfinite(errors)
    if not labelled.any():
        return KeypointReport(nme=None, p50=None, p95=None, x=None, y=None, count=0)
    nme = nme_of(errors[:, None], length)
    counted = nme[np.isfinite(nme)]
    p50, p95 = np.percentile(errors[labelled], [50, 95]).tolist()
    x, y = signed[labelled].mean(axis=0).tolist()
    mean = float(counted.mean()) if len(counted) else None
    return KeypointReport(nme=mean, p50=p50, p95=p95, x=x, y=y, count=int(labelled.sum()))


def _count_notes(
    labelled: np.ndarray, nme: np.ndarray, dataset: Dataset, normalize: str, no_interval: bool
) -> list[str]:
    """Lines about what the figures leave out."""
    counted = np.isfinite(nme)
    empty = int((~labelled.any(axis=1)).sum())
    unscaled = len(dataset) - int(counted.sum()) - empty
    groups = len(np.unique(dataset.group_index[counted]))
    lines = {
        f"{empty} of {len(dataset)} objects have no labelled point and count nowhere": empty,
        f"{unscaled} of {len(dataset)} objects have no normaliser ({normalize} unlabelled or 0 px): "
        "no NME, PCK, AUC or failure": unscaled,
        f"no interval: {groups} group(s) have an NME, and an interval needs {FEWEST_GROUPS}": no_interval,
    }
    return [line for line, applies in lines.items() if applies]


def _scale_notes(dataset: Dataset) -> list[str]:
    """A line if some images do not say how long a px is."""
    unknown = 0 if dataset.mm_per_px is None else int(np.isnan(dataset.mm_per_px).sum())
    return [f"{unknown} of {len(dataset)} objects have no mm per px and count in no figure in mm"] if unknown else []
