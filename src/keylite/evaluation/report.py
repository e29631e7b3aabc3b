"""The report of an evaluation: its fields, and its rows of text. figures.py computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from keylite.evaluation.reliability import Reliability, reliability_words
from keylite.runtime.packages import require
from keylite.runtime.results import Result
from keylite.runtime.spec import DataId
from keylite.runtime.tables import Table, as_html, as_text
from keylite.runtime.words import counted, escaped

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports] - it need not be there

KEYPOINT_COLUMNS = ("keypoint", "NME", "p50 px", "p95 px", "x px", "y px", "count")


class NmeReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The NME (normalised mean error) over the `count` objects that have a normaliser, as fractions.

    interval: the 95 % interval of the mean, by group. None: there are too few groups. normalize: the normaliser.
    percent_px: how many px of the image 1 % is, the median over these objects.
    """

    mean: float
    median: float
    interval: tuple[float, float] | None
    normalize: str
    percent_px: float
    count: int


class PixelReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Distances from predictions to labels over all labelled points, px of the image.

    p50, p90, p95: 50, 90 and 95 % of the points are closer.
    """

    mean: float
    p50: float
    p90: float
    p95: float
    max: float


class MmReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Distances in mm, over the `points` labelled points of objects whose images say how long a px is.

    mean: the mean radial error (MRE). sdr: the successful detection rate, the share of points with an error below so
    many mm ("2"). interval, sdr_intervals: their 95 % intervals, by group. None: too few groups. count: objects.
    """

    mean: float
    interval: tuple[float, float] | None
    sdr: dict[str, float]
    sdr_intervals: dict[str, tuple[float, float]] | None
    points: int
    count: int


class SignedReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The mean of prediction minus label, px of the image: a shift that all points share, with its 95 % intervals."""

    x: float
    y: float
    x_interval: tuple[float, float] | None
    y_interval: tuple[float, float] | None


class KeypointReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The figures of one keypoint; None if it has no label.

    nme: a fraction. p50, p95: 50 and 95 % of its errors are smaller, px of the image. x, y: the mean of prediction
    minus label, px of the image. count: labels.
    """

    nme: float | None
    p50: float | None
    p95: float | None
    x: float | None
    y: float | None
    count: int


class Report(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How well a model does on labelled images. `print(report)` shows its tables.

    Reports can be compared only if they are of the same data (the same fingerprint) and have the same normaliser.
    docs/evaluation.md explains the figures.

    Attributes:
        nme: The NME (normalised mean error): mean, median, interval and normaliser.
        mean_shape_nme: The NME of giving the mean shape of the training labels for every crop, a fraction. None: the
            model file does not hold it.
        failure_rate: The share of objects with an NME above `failure_limit`, a fraction.
        failure_limit: A fraction.
        pck: The share of points whose error is below a fraction of the normaliser, by that fraction ("0.05").
        auc: The area under the curve of objects with an NME below t, for t from 0 to `failure_limit`. 1 is perfect.
        pixel_error: The distances from predictions to labels, px of the image.
        mm: Errors in mm: mean radial error and successful detection rates. None: no image says how long a px is.
        signed_error: The mean of prediction minus label, px of the image.
        per_keypoint: The figures of each keypoint, by name.
        reliability: How well sigma agrees with the errors, px of the image. None: the model gives no sigma.
        count: The number of objects.
        points: The number of labelled points.
        groups: The number of groups.
        oks_ap: COCO's average precision. None: no OKS constants are known.
        boxes: Where the boxes come from: "annotation", "image" or "file", with the jitter.
        model_sha256: The sha256 of the model file. None: the model is in memory.
        data: The labelled images that were measured: their `name` and `fingerprint`.
        engine: The name of the engine that ran the model.
        notes: Remarks, such as objects that do not count.
    """

    nme: NmeReport
    mean_shape_nme: float | None
    failure_rate: float
    failure_limit: float
    pck: dict[str, float]
    auc: float
    pixel_error: PixelReport
    mm: MmReport | None
    signed_error: SignedReport
    per_keypoint: dict[str, KeypointReport]
    reliability: Reliability | None
    count: int
    points: int
    groups: int
    oks_ap: float | None
    boxes: str
    model_sha256: str | None
    data: DataId
    engine: str | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        objects = f"{counted(self.count, 'object')} of {escaped(self.data.name)}"
        return f"Report({short_nme(self.nme)}, {objects})"

    def __str__(self) -> str:
        return as_text(report_parts(self))

    def _repr_html_(self) -> str:
        return as_html(report_parts(self))

    def to_dataframe(self) -> pandas.DataFrame:
        """Give the figures of all keypoints as a pandas table.

        Returns:
            One row per keypoint: keypoint, nme (a fraction), p50, p95, x, y (px of the image) and count.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        rows = [{"keypoint": name} | msgspec.structs.asdict(row) for name, row in self.per_keypoint.items()]
        return require("pandas").DataFrame(rows)


def short_nme(nme: NmeReport) -> str:
    """The mean and its normaliser in a few words, such as `NME 2.35 % of box_diagonal`."""
    return f"NME {100 * nme.mean:.2f} % of {escaped(nme.normalize)}"


def no_better(nme: float, mean_shape_nme: float | None) -> bool:
    """Whether a model with this NME is no better than giving the mean shape for every crop."""
    return mean_shape_nme is not None and nme >= mean_shape_nme


def report_parts(report: Report) -> list[Table | str]:
    """The tables of a report: its figures, then those of each keypoint."""
    return [Table((), summary_rows(report)), Table(KEYPOINT_COLUMNS, keypoint_rows(report))]


def summary_rows(report: Report) -> list[tuple[str, str]]:
    """(label, value) texts of a report, the most important first; the normaliser is always named."""
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
        *(mm_rows(report.mm) if report.mm else ()),
        ("signed error", f"x {_signed(signed.x, signed.x_interval)}, y {_signed(signed.y, signed.y_interval)} px"),
        ("sigma", reliability_words(report.reliability) if report.reliability else ""),
        ("measured", f"{report.count} objects, {report.points} labelled points, {report.groups} groups"),
        ("boxes", report.boxes),
        ("data", f"{report.data.name} ({report.data.fingerprint[:12]})"),
        ("model", (report.model_sha256 or "")[:12]),
        ("engine", report.engine or ""),
        *(("note", note) for note in report.notes),
    ]
    return [row for row in rows if row[1]]


def mm_rows(mm: MmReport) -> list[tuple[str, str]]:
    """(label, value) texts of the errors in mm."""
    within = mm.sdr_intervals or {}
    return [
        ("error in mm (MRE)", f"mean {mm.mean:.2f} mm {_interval(mm.interval, '.2f')}".rstrip()),
        *((f"SDR@{at} mm", f"{share:.2%} {_interval(within.get(at), '.2%')}".rstrip()) for at, share in mm.sdr.items()),
    ]


def _interval(interval: tuple[float, float] | None, form: str) -> str:
    return f"[{interval[0]:{form}}, {interval[1]:{form}}]" if interval else ""


def _mean_shape_text(report: Report) -> str:
    if report.mean_shape_nme is None:
        return ""
    worse = no_better(report.nme.mean, report.mean_shape_nme)
    return f"{report.mean_shape_nme:.2%}" + (": the model is no better" if worse else "")


def _signed(mean: float, interval: tuple[float, float] | None) -> str:
    return f"{mean:+.2f}" + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")


def keypoint_rows(report: Report) -> list[tuple[str, ...]]:
    """Texts under KEYPOINT_COLUMNS, one row per keypoint in the skeleton's order; "-" if it has no label."""

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
