"""Certificates: how far an exported file (the child) moved the points of its parent, and whether the budgets are kept.

A certificate is a JSON file and a page beside the child. comparison.py makes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keylite.evaluation.reliability import Reliability, reliability_words
from keylite.exporting.drift import KERNELS, Drift, OnKernels, kernels_line
from keylite.exporting.form import Budget, nme_change
from keylite.runtime.errors import KeyliteError
from keylite.runtime.files import sha256, write_together
from keylite.runtime.packages import require
from keylite.runtime.results import Result
from keylite.runtime.spec import Calibration, CertificateSummary, DataId
from keylite.runtime.tables import Table, as_html, as_text
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
        engines: The engines that ran parent and child.
        held: The engines whose kernels the budget is judged on: the child's, and for a device without XNNPACK also
            "litert-reference". The certificate holds for these kernels.
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
    held: tuple[str, ...]
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
        largest = max(_on(self, engine)[0].p95 for engine in self.held)
        drift = f"p95 drift {largest:.4f} px of a budget of {self.budget:g}"
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
    """A text that says by how much a child exceeds its budgets, and on which kernels. None: it does not."""
    past = [(engine, text) for engine in certificate.held if (text := past_on(certificate, engine))]
    if len(certificate.held) > 1:
        return "; ".join(f"on {KERNELS[engine]}: {text}" for engine, text in past) or None
    return past[0][1] if past else None


def past_on(c: Certificate, engine: str) -> str | None:
    """By how much a child exceeds its budgets on the kernels of an engine. None: it does not."""
    drift, parent, child = _on(c, engine)
    past = Budget(c.budget, c.budget_nme).past(drift.p95, parent, child)
    return f"{' and '.join(past)} (NME {100 * parent:.2f} % -> {100 * child:.2f} %)" if past else None


def _on(c: Certificate, engine: str) -> tuple[Drift, float, float]:
    """The drift on the kernels of an engine, and the NME of parent and child: over all objects on the child's own."""
    if engine == c.engines[1]:
        return c.drift, c.nme_parent, c.nme_child
    on = c.kernels[engine]
    return on.drift, on.nme_parent, on.nme


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
        kernels_line(c.kernels, c.count, c.held),
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
    facts += [kernels_line(c.kernels, c.count, c.held), *reliability_lines(c)]
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
        f"sigma of the {whose}: {reliability_words(reliability)}"
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
