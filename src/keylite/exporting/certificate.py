"""Certificates: the points of an exported file (the child) compared with those of its parent on the same images.

A certificate is a JSON file and a page beside the child. This module knows no format and no framework.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.environment import now, versions
from keylite.evaluation.evaluate import judges_of, measure
from keylite.evaluation.figures import object_nme
from keylite.evaluation.metrics import group_intervals
from keylite.evaluation.predictions import Predictions
from keylite.evaluation.reliability import Reliability, reliability_rows
from keylite.evaluation.report import Report
from keylite.exporting.drift import Drift, OnKernels, by_kernels, drift_of, kernels_line, point_drift
from keylite.exporting.form import Budget, nme_change
from keylite.runtime.errors import ArgumentError, KeyliteError
from keylite.runtime.files import sha256, write_together
from keylite.runtime.modelfile import read_spec
from keylite.runtime.packages import require
from keylite.runtime.predictor import Predictor
from keylite.runtime.results import Result
from keylite.runtime.spec import Calibration, CertificateSummary, DataId, ModelSpec, unlearnt_words
from keylite.runtime.tables import Table, as_html, as_text
from keylite.runtime.types import FilePath
from keylite.runtime.words import escaped

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports] - it need not be there


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The CPU time of the engine for one image, with one thread.

    ms: the median. ratio: the median divided by that of the parent's fp32 ONNX file, measured in turns. machine: the
    processor.
    """

    ms: float
    ratio: float
    machine: str


class Certificate(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far an export moved the points: the child compared with its parent on the same images.

    `print(certificate)` shows what `keylite export` prints.

    Attributes:
        child, child_sha256: The name and hash of the exported file.
        parent, parent_sha256: The name and hash of the file that it was made from.
        engines: The engines that ran parent and child. The certificate holds for the kernels of the child's engine.
        precision: "fp32", "fp16" or "int8", of the child.
        calibration: The images that the ranges of an int8 child come from, else None.
        size: (width, height) of the model input, px.
        budget: The largest drift (p95) that is allowed, px of the model input.
        budget_nme: By what fraction the NME (normalised mean error) may rise. None: no limit.
        within_budget: Whether the child is within both budgets.
        drift: The distances between the points of both, over all objects and keypoints, px of the model input.
        per_keypoint: The same for each keypoint, by name.
        kernels: For an int8 `.tflite` child that `litert` ran, by engine: its figures on XNNPACK ("litert") and on
            LiteRT's reference kernels ("litert-reference"), on the same objects. Empty for others.
        nme_parent, nme_child: The NME of both, fractions.
        nme_interval: The 95 % interval of the NME's difference, child - parent, by group. None: there are too few
            groups.
        normalize: The normaliser of the NME.
        pck: By fraction of the normaliser: the share of correct points of (parent, child).
        reliability: How sigma agrees with the errors of (parent, child). None: it has no sigma.
        count: The number of objects.
        groups: The number of groups.
        data: The labelled images that both were compared on: their `name` and `fingerprint`.
        bytes: The size of the child.
        operators: How many operators of each kind the child has.
        latency: The time of the child beside that of the parent's fp32 ONNX file. None: it was not measured.
        notes: Remarks about the comparison.
        created: The time, UTC.
        versions: The versions of the packages.
    """

    child: str
    child_sha256: str
    parent: str
    parent_sha256: str
    engines: tuple[str, str]
    precision: str
    calibration: Calibration | None
    size: tuple[int, int]
    budget: float
    budget_nme: float | None
    within_budget: bool
    drift: Drift
    per_keypoint: dict[str, Drift]
    kernels: dict[str, OnKernels]
    nme_parent: float
    nme_child: float
    nme_interval: tuple[float, float] | None
    normalize: str
    pck: dict[str, tuple[float, float]]
    reliability: tuple[Reliability | None, Reliability | None]
    count: int
    groups: int
    data: DataId
    bytes: int
    operators: dict[str, int]
    latency: Latency | None
    notes: tuple[str, ...]
    created: str
    versions: dict[str, str]

    def __repr__(self) -> str:
        judged = "accepted" if self.within_budget else "refused"
        drift = f"p95 drift {self.drift.p95:.4f} px of a budget of {self.budget:g}"
        return f"Certificate({escaped(self.child)} compared with {escaped(self.parent)}: {judged}, {drift})"

    def __str__(self) -> str:
        return as_text(certificate_parts(self))

    def _repr_html_(self) -> str:
        return as_html(certificate_parts(self))

    def to_dataframe(self) -> pandas.DataFrame:
        """Give the drift of all keypoints as a pandas table.

        Returns:
            One row per keypoint: keypoint, mean, p50, p95 and max, px of the model input.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        rows = [{"keypoint": name} | msgspec.structs.asdict(drift) for name, drift in self.per_keypoint.items()]
        return require("pandas").DataFrame(rows)

    @property
    def nme_change(self) -> float:
        """By what fraction the NME rose: 0.03 is 3 % worse."""
        return nme_change(self.nme_parent, self.nme_child)


class OverBudgetError(KeyliteError):
    """An export moved points further than its budget allows, so no file was written.

    Attributes:
        certificate: The figures of the refused export.
    """

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(f"refused: {over_budget(certificate)}; nothing was written")
        self.certificate = certificate


def over_budget(certificate: Certificate) -> str | None:
    """A text that says by how much a child exceeds its budgets. None: it does not."""
    c = certificate
    past = Budget(c.budget, c.budget_nme).past(c.drift.p95, c.nme_parent, c.nme_child)
    return f"{' and '.join(past)} (NME {100 * c.nme_parent:.2f} % -> {100 * c.nme_child:.2f} %)" if past else None


def certify(
    child: Path,
    parent: Path,
    data: Dataset,
    budget: Budget,
    *,
    operators: dict[str, int] | None = None,
    spec_file: FilePath | None = None,
    engine: str | None = None,
) -> Certificate:
    """Compare a child with its parent: both predict `data`, and the distance of every point counts.

    operators: how many of each kind the child has. spec_file: a JSON description of a parent that holds none. engine:
    what runs the child; None: the usual engine. The latency is not measured here. Raises ArgumentError if both differ
    in their keypoints, input or crop.
    """
    specs = read_spec(parent, spec_file), read_spec(child)
    _require_alike(child, parent, specs)
    judges = judges_of(specs, data)  # the same for both
    measured: list[tuple[Report, Predictions]] = []
    for path, own, name in ((parent, spec_file, None), (child, None, engine)):
        predictor = Predictor(path, engine=name, device="cpu", spec=own)  # a GPU rounds differently, whatever the file
        measured.append(measure(predictor, data, judges=judges))
    reports, predictions = [report for report, _ in measured], [points for _, points in measured]
    spec = specs[1]
    distance = point_drift(predictions[1].unit_xy, predictions[0].unit_xy, spec.size)
    taught = [k for k in range(len(spec.skeleton)) if k not in spec.untaught]
    digest = sha256(parent)
    kernels, notes = {}, []
    if spec.precision == "int8" and reports[1].engine == "litert":
        kernels, notes = by_kernels(child, data, predictions[0], predictions[1], spec, budget)
    made = Certificate(
        child=escaped(child.name),
        child_sha256=sha256(child),
        parent=escaped(parent.name),
        parent_sha256=digest,
        engines=(reports[0].engine or "", reports[1].engine or ""),
        precision=spec.precision,
        calibration=spec.calibration,
        size=spec.size,
        budget=budget.px,
        budget_nme=budget.nme,
        within_budget=True,
        drift=drift_of(distance[:, taught]),
        per_keypoint={spec.skeleton.names[k]: drift_of(distance[:, k]) for k in taught},
        kernels=kernels,
        nme_parent=reports[0].nme.mean,
        nme_child=reports[1].nme.mean,
        nme_interval=_paired_interval(predictions, data, spec.normalize),
        normalize=reports[1].nme.normalize,
        pck={at: (reports[0].pck[at], reports[1].pck[at]) for at in reports[0].pck},
        reliability=(reports[0].reliability, reports[1].reliability),
        count=len(data),
        groups=len(data.groups),
        data=data.identity(),
        bytes=child.stat().st_size,
        operators=operators or (spec.certificate.operators if spec.certificate else {}),
        latency=None,
        notes=(
            *([] if spec.provenance.parent == digest else [f"{child.name} was not exported from {parent.name}"]),
            *notes,
            *unlearnt_words(spec.unlearnt),
        ),
        created=now(),
        versions=versions(),
    )
    return msgspec.structs.replace(made, within_budget=over_budget(made) is None)


def _require_alike(child: Path, parent: Path, specs: tuple[ModelSpec, ModelSpec]) -> None:
    """Raise ArgumentError if a child and its parent differ in their keypoints, input or crop. specs: parent, child."""
    for field in ("skeleton", "size", "box", "padding", "unlearnt", "visibility_1"):
        of_parent, of_child = (getattr(spec, field) for spec in specs)
        if of_parent != of_child:
            shown = [spec.skeleton.names[:3] if field == "skeleton" else getattr(spec, field) for spec in specs]
            raise ArgumentError(
                f"{child.name} is no child of {parent.name}: {field} is {shown[1]}, the parent's {shown[0]}; "
                "compare a file with the model that it was exported from"
            )


def _paired_interval(both: list[Predictions], data: Dataset, normalize: str) -> tuple[float, float] | None:
    """The 95 % interval of the mean of NME child - NME parent over objects, by group. both: of (parent, child)."""
    parent, child = (object_nme(predictions, data, normalize) for predictions in both)
    counted = np.isfinite(parent)
    difference = np.where(counted, child - parent, 0)[:, None]
    interval = group_intervals(difference, counted, data.group_index, np.random.default_rng(0))
    return None if interval is None else (float(interval[0, 0]), float(interval[0, 1]))


def summary(certificate: Certificate) -> CertificateSummary:
    """The part of a certificate that is written into the exported file itself."""
    c = certificate
    return CertificateSummary(
        data=c.data,
        count=c.count,
        drift_p95=c.drift.p95,
        drift_max=c.drift.max,
        budget=c.budget,
        nme_parent=c.nme_parent,
        nme_child=c.nme_child,
        normalize=c.normalize,
        operators=c.operators,
    )


def write_certificate(certificate: Certificate, path: Path) -> None:
    """Write a certificate as JSON and, beside it, as a page of markdown: both files or none."""
    write_together(certificate_files(certificate, path))


def certificate_files(certificate: Certificate, path: Path) -> dict[Path, bytes]:
    """The content of the files that `write_certificate` writes, by path."""
    return {
        path.with_suffix(".md"): certificate_page(certificate).encode(),
        path: certificate.to_json() + b"\n",
    }


def certificate_path(model: Path) -> Path:
    """The path of an exported file's certificate."""
    return model.with_name(f"{model.name}.certificate.json")


def certificate_doubt(model: Path) -> str | None:
    """A warning if the certificate beside a file belongs to another file or cannot be read, else None."""
    path = certificate_path(Path(model))
    if not path.is_file():
        return None
    try:
        certificate = msgspec.json.decode(path.read_bytes(), type=Certificate)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"{path.name}: not a certificate: {error}"
    if certificate.child_sha256 != sha256(model):
        return f"{path.name} is the certificate of another file, not of {Path(model).name}: its figures do not apply"
    return None


def certificate_parts(certificate: Certificate) -> list[Table | str]:
    """The parts of a certificate that are shown: the drift per keypoint, then accuracy, size, time and verdict."""
    c = certificate
    drifts = {"all points": c.drift} | c.per_keypoint
    rows = [[name, *(f"{value:.4f}" for value in (d.mean, d.p50, d.p95, d.max))] for name, d in drifts.items()]
    title = (
        f"{c.child} compared with {c.parent} on {c.count} objects of {c.data.name}: drift in px of "
        f"{c.size[0]}x{c.size[1]}, budget {c.budget:g} for p95"
    )
    return [
        Table(("keypoint", "mean", "p50", "p95", "max"), rows, title),
        f"NME ({c.normalize}) {nme_line(c)}",
        pck_line(c),
        kernels_line(c.kernels, c.count, c.engines[1]),
        *reliability_lines(c),
        f"{c.bytes / 1e6:.2f} MB; {latency_line(c)}",
        verdict(c),
    ]


def certificate_page(certificate: Certificate) -> str:
    """The certificate as a page of markdown."""
    c = certificate
    rows = [("all points", c.drift), *c.per_keypoint.items()]
    table = "\n".join(f"| {name} | {d.mean:.4f} | {d.p50:.4f} | {d.p95:.4f} | {d.max:.4f} |" for name, d in rows)
    facts = [f"child `{c.child}`, sha256 `{c.child_sha256}`, {c.bytes} bytes, {c.precision}, on {c.engines[1]}"]
    facts += [f"parent `{c.parent}`, sha256 `{c.parent_sha256}`, on {c.engines[0]}"]
    facts += [f"data fingerprint `{c.data.fingerprint}`"]
    if c.calibration:
        k = c.calibration
        facts += [f"ranges from {k.count} objects of {k.data.name}, seed {k.seed}, fingerprint `{k.data.fingerprint}`"]
    if c.operators:
        facts += ["operators: " + ", ".join(f"{count} {name}" for name, count in c.operators.items())]
    facts += [kernels_line(c.kernels, c.count, c.engines[1]), *reliability_lines(c)]
    facts += [latency_line(c), *c.notes]
    facts += [f"{', '.join(f'{name} {version}' for name, version in c.versions.items())}; {c.created}"]
    lines = "\n".join(f"- {fact}" for fact in facts)
    return f"""# {c.child}, compared with {c.parent}

{verdict(c)}. Drift p95 {c.drift.p95:.4f} px of a {c.size[0]}x{c.size[1]} input, budget {c.budget:g} px.
NME ({c.normalize}) {nme_line(c)} on {c.count} objects of {c.data.name}.
{pck_line(c)}.

| keypoint | mean px | p50 px | p95 px | max px |
|---|---|---|---|---|
{table}

{lines}
"""


def verdict(c: Certificate) -> str:
    past = over_budget(c)
    return f"Refused: {past}" if past else "Accepted"


def nme_line(c: Certificate) -> str:
    """The NME of parent and child in per cent, and the interval of their difference."""
    between = ""
    if c.nme_interval:
        low, high = map(_points, c.nme_interval)
        between = f" (difference {low} to {high} points, 95 %, {c.groups} groups)"
    return f"{100 * c.nme_parent:.3f} % -> {100 * c.nme_child:.3f} %{between}"


def pck_line(c: Certificate) -> str:
    return ", ".join(f"PCK@{at} {100 * was:.2f} % -> {100 * now_:.2f} %" for at, (was, now_) in c.pck.items())


def reliability_lines(c: Certificate) -> list[str]:
    """How sigma agrees with the errors: a line for the parent and one for the child, if it has a sigma."""
    return [
        f"{whose}: " + "; ".join(f"{label} {value}" for label, value in reliability_rows(reliability))
        for whose, reliability in zip(("parent", "child"), c.reliability, strict=True)
        if reliability
    ]


def latency_line(c: Certificate) -> str:
    if c.latency is None:
        return "latency: not measured"
    ms, ratio = f"{c.latency.ms:.2f} ms of CPU time", f"{c.latency.ratio:.2f} times that of the parent's fp32 ONNX"
    return f"latency: {ms}, {ratio}, one thread of {c.latency.machine}"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.3f}"
