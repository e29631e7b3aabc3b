"""What an export cost: a child's points held to its parent's on the same images, and the page that says so.

Knows nothing of formats, frameworks or how a file was made.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.environment import now, versions
from keylite.evaluation import Predictions, Report, evaluate
from keylite.runtime.files import sha256
from keylite.runtime.modelfile import read_spec
from keylite.runtime.predictor import Predictor


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Distances between a child's points and its parent's, px of the model input."""

    p50: float
    p95: float
    max: float


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an export cost: the child's points held to its parent's on the same images.

    drift: over all points of all objects, px of the model input; per_keypoint: the same by name. nme: fractions.
    """

    child: str
    child_sha256: str
    parent: str
    parent_sha256: str
    precision: str
    size: tuple[int, int]
    budget: float
    within_budget: bool
    drift: Drift
    per_keypoint: dict[str, Drift]
    nme_parent: float
    nme_child: float
    normalize: str
    count: int
    dataset: str
    dataset_fingerprint: str
    bytes: int
    created: str
    versions: dict[str, str]


class OverBudgetError(Exception):
    """An export moved points further than its budget allows; nothing was kept. `certificate` holds the figures."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(
            f"refused: p95 drift {certificate.drift.p95:.4g} px is over the budget of {certificate.budget:g} px "
            f"(NME {100 * certificate.nme_parent:.2f} % -> {100 * certificate.nme_child:.2f} %); nothing was written"
        )
        self.certificate = certificate


def certify(child: Path, parent: Path, data: Dataset, *, budget: float) -> Certificate:
    """Hold a child to its parent: both predict `data`, and every point's distance counts."""
    found: dict[Path, Predictions] = {}
    reports: dict[Path, Report] = {}
    for path in (parent, child):
        predictor = Predictor(path, device="cpu")  # a GPU's short cuts (TF32) are not the file's doing
        reports[path] = evaluate(predictor, data, on_predictions=lambda p, path=path: found.update({path: p}))
    spec = read_spec(child)
    moved = (found[child].unit_xy - found[parent].unit_xy) * np.asarray(spec.size)
    distance = np.hypot(moved[..., 0], moved[..., 1])
    drift = _drift(distance)
    return Certificate(
        child=child.name,
        child_sha256=sha256(child),
        parent=parent.name,
        parent_sha256=sha256(parent),
        precision=spec.precision,
        size=spec.size,
        budget=budget,
        within_budget=drift.p95 <= budget,
        drift=drift,
        per_keypoint={name: _drift(distance[:, k]) for k, name in enumerate(spec.skeleton.names)},
        nme_parent=reports[parent].nme.mean,
        nme_child=reports[child].nme.mean,
        normalize=reports[child].nme.normalize,
        count=len(data),
        dataset=data.name,
        dataset_fingerprint=data.fingerprint(),
        bytes=child.stat().st_size,
        created=now(),
        versions=versions(),
    )


def _drift(distance: np.ndarray) -> Drift:
    p50, p95, largest = np.percentile(distance, (50, 95, 100)).tolist()
    return Drift(p50, p95, largest)


def certificate_path(model: Path) -> Path:
    """Where the certificate of an exported file lies."""
    return model.with_name(f"{model.name}.certificate.json")


def certificate_doubt(model: Path) -> str | None:
    """A line where the certificate beside a file is of another file or cannot be read; None where all is well."""
    path = certificate_path(Path(model))
    if not path.is_file():
        return None
    try:
        certificate = msgspec.json.decode(path.read_bytes(), type=Certificate)
    except msgspec.DecodeError as error:
        return f"{path.name}: not a certificate: {error}"
    if certificate.child_sha256 != sha256(model):
        return f"{path.name} is the certificate of another file than {Path(model).name}: its figures do not hold here"
    return None


def certificate_page(certificate: Certificate) -> str:
    """The certificate as a page of markdown."""
    c = certificate
    rows = [("all points", c.drift), *c.per_keypoint.items()]
    table = "\n".join(f"| {name} | {d.p50:.4f} | {d.p95:.4f} | {d.max:.4f} |" for name, d in rows)
    return f"""# {c.child}: held to {c.parent}

{"Accepted" if c.within_budget else "Refused"}: p95 drift {c.drift.p95:.4f} px of a {c.size[0]}x{c.size[1]} input,
budget {c.budget:g} px.
NME ({c.normalize}) {100 * c.nme_parent:.3f} % -> {100 * c.nme_child:.3f} % on {c.count} objects of {c.dataset}.

| keypoint | p50 px | p95 px | max px |
|---|---|---|---|
{table}

- child sha256 `{c.child_sha256}`, {c.bytes} bytes, {c.precision}
- parent sha256 `{c.parent_sha256}`
- data fingerprint `{c.dataset_fingerprint}`
- {", ".join(f"{name} {version}" for name, version in c.versions.items())}; {c.created}
"""
