"""What predictions are worth beside labels: the report of them, and its rows of text.

The figures are metrics.py's. Knows nothing of model files, predictors or how a report is shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
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
from keylite.evaluation.predictions import Predictions, boxed, errors_of, measured_xy
from keylite.evaluation.reliability import Reliability, reliability_of, reliability_rows
from keylite.runtime.errors import ArgumentError
from keylite.runtime.packages import require
from keylite.runtime.spec import unlearnt_words
from keylite.runtime.tables import Table, as_html, as_text
from keylite.runtime.types import Json
from keylite.runtime.words import counted, escaped, quoted

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports] - it need not be there

PCK_AT = (0.05, 0.1, 0.2)
KEYPOINT_COLUMNS = ("keypoint", "NME", "p50 px", "p95 px", "x px", "y px", "count")


class NmeReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """NME as fractions, over the `count` objects that have a normaliser; interval: 95 % by group, or None.

    percent_px: what 1 % is in px of the original image, the median over these objects.
    """

    mean: float
    median: float
    interval: tuple[float, float] | None
    normalize: str
    percent_px: float
    count: int


class PixelReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Distances to the label over labelled points, px of the original image."""

    mean: float
    p50: float
    p90: float
    p95: float
    max: float


class SignedReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean of prediction minus label, px of the original image: a bias common to all points."""

    x: float
    y: float
    x_interval: tuple[float, float] | None
    y_interval: tuple[float, float] | None


class KeypointReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One keypoint: NME as a fraction; the rest in px of the original image; None where nothing is labelled."""

    nme: float | None
    p50: float | None
    p95: float | None
    x: float | None
    y: float | None
    count: int


class DatasetReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which data was measured."""

    name: str
    fingerprint: str


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model does on a data set; fields are written to JSON as they stand, None as null.

    mean_shape_nme: of giving the mean of the training labels for every crop, None if the model file does not hold it.
    count: objects. points: labelled points. Rates are fractions. confidence: how sigma held, px of the original image,
    or None. boxes: where the boxes came from.
    Two reports can be compared only if they are of the same data (its fingerprint) and have one normaliser.
    """

    nme: NmeReport
    mean_shape_nme: float | None
    failure_rate: float
    failure_limit: float
    pck: dict[str, float]
    auc: float
    pixel_error: PixelReport
    signed_error: SignedReport
    per_keypoint: dict[str, KeypointReport]
    confidence: Reliability | None
    count: int
    points: int
    groups: int
    oks_ap: float | None
    boxes: str
    model_sha256: str | None
    dataset: DatasetReport
    engine: str | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        objects = f"{counted(self.count, 'object')} of {escaped(self.dataset.name)}"
        return f"Report({short_nme(self.nme)}, {objects})"

    def __str__(self) -> str:
        return as_text(report_parts(self))

    def _repr_html_(self) -> str:
        return as_html(report_parts(self))

    def to_json(self) -> bytes:
        """The report as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    def to_dict(self) -> dict[str, Json]:
        """What `to_json` writes, as plain dicts, lists and numbers."""
        return json.loads(msgspec.json.encode(self))

    def to_dataframe(self) -> pandas.DataFrame:
        """A row per keypoint: its name, then the fields of KeypointReport."""
        rows = [{"keypoint": name} | msgspec.structs.asdict(found) for name, found in self.per_keypoint.items()]
        return require("pandas").DataFrame(rows)


def report_of(
    predictions: Predictions,
    dataset: Dataset,
    normalize: str,
    *,
    mean_shape: Sequence[tuple[float, float]] | None = None,
    failure_limit: float = FAILURE_LIMIT,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
    box_source: str = "annotation",
    model_sha256: str | None = None,
    engine: str | None = None,
    judges: np.ndarray | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """The report on predictions that are already made; no model is needed.

    normalize: see `read_normaliser`. mean_shape: (K, 2) unit coordinates to hold the model to; without it or crops
    there is no such figure. sigmas: K OKS constants, None for no OKS-AP. seed: of the bootstrap. judges: indices of
    the objects that sigma was not fitted on; None is all.
    Raises ValueError where no object has a label or none has a normaliser, or where predictions are not finite.
    """
    errors = errors_of(predictions, dataset)
    labelled = np.isfinite(errors)
    if not labelled.any():
        named = ", ".join(predictions.unlearnt)
        but = f", {named} left out, which training hardly labelled" if named else ""
        raise ArgumentError(
            f"{dataset.called}: none of the {len(dataset)} objects has a labelled point to measure against{but}; "
            "label some of them, or measure on other data"
        )
    length = read_normaliser(normalize, dataset.skeleton.names).lengths(dataset.xy, _normaliser_boxes(predictions))
    nme = nme_of(errors, length)
    counted = np.isfinite(nme)
    if not counted.any():
        raise ArgumentError(
            f"{dataset.called}: normalize {quoted(normalize)} is unlabelled or 0 px in all {len(dataset)} objects; "
            "choose another pair, box_side, or a constant such as 100px"
        )
    signed = np.where(labelled[..., None], predictions.xy - dataset.xy, 0)

    generator = np.random.default_rng(seed)
    nme_range = group_intervals(np.where(counted, nme, 0)[:, None], counted, dataset.group_index, generator)
    signed_range = group_intervals(signed.sum(axis=1), labelled.sum(axis=1), dataset.group_index, generator)
    pixels = errors[labelled]
    p50, p90, p95 = np.percentile(pixels, [50, 90, 95]).tolist()
    shift_x, shift_y = (signed.sum(axis=(0, 1)) / labelled.sum()).tolist()
    return Report(
        nme=NmeReport(
            mean=float(nme[counted].mean()),
            median=float(np.median(nme[counted])),
            interval=_pair(nme_range, 0),
            normalize=normalize,
            percent_px=float(np.median(length[counted])) / 100,
            count=int(counted.sum()),
        ),
        mean_shape_nme=_mean_shape_nme(predictions, dataset, length, mean_shape),
        failure_rate=failure_rate_of(nme, failure_limit),
        failure_limit=failure_limit,
        pck={f"{at:g}": pck_of(errors, length, at) for at in PCK_AT},
        auc=auc_of(nme, failure_limit),
        pixel_error=PixelReport(mean=float(pixels.mean()), p50=p50, p90=p90, p95=p95, max=float(pixels.max())),
        signed_error=SignedReport(
            x=shift_x, y=shift_y, x_interval=_pair(signed_range, 0), y_interval=_pair(signed_range, 1)
        ),
        per_keypoint=_keypoint_reports(predictions, dataset, length),
        confidence=_confidence(predictions, errors, dataset, judges, seed),
        count=len(dataset),
        points=int(labelled.sum()),
        groups=len(dataset.groups),
        oks_ap=None if sigmas is None else _oks_ap(predictions, dataset, sigmas),
        boxes=box_source,
        model_sha256=model_sha256,
        dataset=DatasetReport(dataset.name, dataset.fingerprint()),
        engine=engine,
        notes=(
            *notes,
            *unlearnt_words(predictions.unlearnt),
            *_count_notes(labelled, counted, dataset, normalize, nme_range is None),
        ),
    )


def _mean_shape_nme(
    predictions: Predictions, dataset: Dataset, length: np.ndarray, mean_shape: Sequence[tuple[float, float]] | None
) -> float | None:
    """The NME of giving this shape for each of the crops."""
    if mean_shape is None or not predictions.crops:
        return None
    unit_xy = np.array(mean_shape)
    xy = np.stack([crop.from_unit(unit_xy) for crop in predictions.crops])
    return float(np.nanmean(nme_of(point_errors(xy, measured_xy(predictions, dataset)), length)))


def short_nme(nme: NmeReport) -> str:
    """The mean and its normaliser in few words, such as `NME 2.35 % of box_diagonal`."""
    return f"NME {100 * nme.mean:.2f} % of {escaped(nme.normalize)}"


def no_better(nme: float, mean_shape_nme: float | None) -> bool:
    """Whether a model with this NME is no better than giving the mean shape for every crop."""
    return mean_shape_nme is not None and nme >= mean_shape_nme


def _keypoint_reports(predictions: Predictions, dataset: Dataset, length: np.ndarray) -> dict[str, KeypointReport]:
    """Each keypoint's report, also of one with few labels in training; nothing is measured of one without any."""
    names = dataset.skeleton.names
    untaught = np.array([predictions.unlearnt.get(name) == 0 for name in names])
    true = np.where(untaught[:, None], np.nan, dataset.xy)
    errors = point_errors(predictions.xy, true)
    signed = np.where(np.isfinite(errors)[..., None], predictions.xy - true, 0)
    return {name: _keypoint_report(errors[:, k], signed[:, k], length) for k, name in enumerate(names)}


def _confidence(
    predictions: Predictions, errors: np.ndarray, dataset: Dataset, judges: np.ndarray | None, seed: int
) -> Reliability | None:
    """How sigma held on the objects that judge it."""
    if predictions.sigma is None:
        return None
    of = slice(None) if judges is None else judges
    return reliability_of(predictions.sigma[of], errors[of], dataset.group_index[of], seed)


def object_nme(predictions: Predictions, dataset: Dataset, normalize: str) -> np.ndarray:
    """Each object's NME (N,), a fraction; NaN where it has no label or no normaliser."""
    length = read_normaliser(normalize, dataset.skeleton.names).lengths(dataset.xy, _normaliser_boxes(predictions))
    return nme_of(errors_of(predictions, dataset), length)


def _normaliser_boxes(predictions: Predictions) -> np.ndarray:
    """(N, 4) xyxy px of the boxes before jitter."""
    return predictions.boxes if predictions.normaliser_boxes is None else predictions.normaliser_boxes


def _oks_ap(predictions: Predictions, dataset: Dataset, sigmas: Sequence[float]) -> float:
    """The OKS-AP; an object's area is the data set's, else its box's, else that of the box it was predicted from."""
    boxes = np.where(boxed(dataset)[:, None], dataset.box, _normaliser_boxes(predictions))
    area = np.where(np.isfinite(dataset.area), dataset.area, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    true = measured_xy(predictions, dataset)
    known = np.isfinite(true)
    return oks_ap(np.where(known, predictions.xy, 0), predictions.score, true, area, dataset.image_index, sigmas)


def _pair(intervals: np.ndarray | None, row: int) -> tuple[float, float] | None:
    return None if intervals is None else (float(intervals[row, 0]), float(intervals[row, 1]))


def _keypoint_report(errors: np.ndarray, signed: np.ndarray, length: np.ndarray) -> KeypointReport:
    """One keypoint from its errors (N,) and signed errors (N, 2) in px, and the normalisers (N,)."""
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
    labelled: np.ndarray, counted: np.ndarray, dataset: Dataset, normalize: str, no_interval: bool
) -> list[str]:
    """What the figures leave out, a line each."""
    empty = int((~labelled.any(axis=1)).sum())
    unscaled = len(dataset) - int(counted.sum()) - empty
    groups = len(np.unique(dataset.group_index[counted]))
    lines = {
        f"{empty} of {len(dataset)} objects have no labelled point and count nowhere": empty,
        f"{unscaled} of {len(dataset)} objects have no normaliser ({normalize} unlabelled or 0 px): "
        "no NME, PCK, AUC or failure": unscaled,
        f"no interval: {groups} group(s) with an NME, and a bootstrap needs at least {FEWEST_GROUPS}": no_interval,
    }
    return [line for line, applies in lines.items() if applies]


def report_parts(report: Report) -> list[Table | str]:
    """What a report shows: its figures, then those of each keypoint."""
    return [Table((), summary_rows(report)), Table(KEYPOINT_COLUMNS, keypoint_rows(report))]


def summary_rows(report: Report) -> list[tuple[str, str]]:
    """(label, value) texts of a report, most telling first; the normaliser is always named."""
    nme, pixel, signed = report.nme, report.pixel_error, report.signed_error
    interval = f"[{nme.interval[0]:.2%}, {nme.interval[1]:.2%}]" if nme.interval else "(no interval)"
    limit = f"{report.failure_limit:.3g}"
    rows = [
        ("NME", f"{nme.mean:.2%} {interval} by {nme.normalize}; 1 % is {nme.percent_px:.3g} px"),
        ("NME of the mean shape", _mean_shape_text(report)),
        ("NME median", f"{nme.median:.2%}"),
        (f"failures (NME > {limit})", f"{report.failure_rate:.2%}"),
        (f"AUC to {limit}", f"{report.auc:.4f}"),
        *((f"PCK@{at}", f"{share:.2%}") for at, share in report.pck.items()),
        ("OKS-AP", "" if report.oks_ap is None else f"{report.oks_ap:.4f}"),
        ("pixel error", f"mean {pixel.mean:.2f} px, p50 {pixel.p50:.2f}, p90 {pixel.p90:.2f}, p95 {pixel.p95:.2f}"),
        ("largest error", f"{pixel.max:.2f} px"),
        ("signed error", f"x {_signed(signed.x, signed.x_interval)}, y {_signed(signed.y, signed.y_interval)} px"),
        *(reliability_rows(report.confidence) if report.confidence else ()),
        ("measured", f"{report.count} objects, {report.points} labelled points, {report.groups} groups"),
        ("boxes", report.boxes),
        ("data", f"{report.dataset.name} ({report.dataset.fingerprint[:12]})"),
        ("model", (report.model_sha256 or "")[:12]),
        ("engine", report.engine or ""),
        *(("note", note) for note in report.notes),
    ]
    return [row for row in rows if row[1]]


def _mean_shape_text(report: Report) -> str:
    if report.mean_shape_nme is None:
        return ""
    worse = no_better(report.nme.mean, report.mean_shape_nme)
    return f"{report.mean_shape_nme:.2%}" + (": the model is no better than that" if worse else "")


def _signed(mean: float, interval: tuple[float, float] | None) -> str:
    return f"{mean:+.2f}" + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")


def keypoint_rows(report: Report) -> list[tuple[str, ...]]:
    """Texts under KEYPOINT_COLUMNS, a row a keypoint in the skeleton's order; "-" where nothing is labelled."""

    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        (
            name,
            text(k.nme, ".2%"),
            *(text(px, ".2f") for px in (k.p50, k.p95)),
            *(text(px, "+.2f") for px in (k.x, k.y)),
            str(k.count),
        )
        for name, k in report.per_keypoint.items()
    ]
