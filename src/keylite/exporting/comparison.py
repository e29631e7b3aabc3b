"""Compares the points of an exported file (the child) with those of its parent on the same images.

This module knows no format and no framework.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.evaluation.environment import now, versions
from keylite.evaluation.evaluate import judges_of, measure
from keylite.evaluation.figures import object_nme
from keylite.evaluation.metrics import group_intervals
from keylite.evaluation.predictions import Predictions
from keylite.evaluation.report import Report
from keylite.exporting.certificate import Certificate, over_budget, past_on
from keylite.exporting.drift import KERNELS, REFERENCE_ENGINE, by_kernels, drift_of, point_drift
from keylite.exporting.form import Budget
from keylite.runtime.errors import ArgumentError, ModelFileError
from keylite.runtime.files import sha256
from keylite.runtime.modelfile import read_spec
from keylite.runtime.predictor import Predictor
from keylite.runtime.spec import ModelSpec, unlearnt_words
from keylite.runtime.types import FilePath
from keylite.runtime.words import escaped, first_line


def certify(
    child: Path,
    parent: Path,
    data: Dataset,
    budget: Budget,
    *,
    operators: dict[str, int] | None = None,
    spec_file: FilePath | None = None,
    engine: str | None = None,
    reference_too: bool = False,
) -> Certificate:
    """Compare a child with its parent: both predict `data`, and the distance of every point counts.

    operators: how many of each kind the child has. spec_file: a JSON description of a parent that holds none. engine:
    what runs the child; None: the usual engine. reference_too: whether the budget must hold on LiteRT's reference
    kernels as well as on the child's, an int8 `.tflite` file. The latency is not measured here. Raises ArgumentError if
    both differ in their keypoints, input or crop.
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
        try:
            kernels = by_kernels(child, data, predictions[0], predictions[1], spec)
        except ModelFileError as error:
            if reference_too:
                raise
            notes = [f"not measured on LiteRT's reference kernels: {first_line(error)}"]
    child_engine = reports[1].engine or ""
    made = Certificate(
        child=escaped(child.name),
        child_sha256=sha256(child),
        parent=escaped(parent.name),
        parent_sha256=digest,
        engines=(reports[0].engine or "", child_engine),
        held=(child_engine, REFERENCE_ENGINE) if reference_too else (child_engine,),
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
    past = past_on(made, REFERENCE_ENGINE) if kernels and not reference_too else None
    doubts = [f"{child.name} would be refused on {KERNELS[REFERENCE_ENGINE]}: {past}"] if past else []
    return msgspec.structs.replace(made, within_budget=over_budget(made) is None, notes=(*made.notes, *doubts))


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
