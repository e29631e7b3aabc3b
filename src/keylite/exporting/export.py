"""Exports: a model file in another format, held to its parent, and refused where points move past the budget."""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from keylite.data.checks import say_doubts
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import Labelled, as_dataset
from keylite.evaluation.confidence import write_confidence
from keylite.evaluation.environment import now, processor, versions
from keylite.evaluation.timing import engine_ratio
from keylite.exporting.calibration import COUNT, CalibrationSet, calibration_set, range_doubt, some_crops
from keylite.exporting.certificate import (
    Certificate,
    Latency,
    OverBudgetError,
    certificate_files,
    certificate_path,
    certify,
    summary,
)
from keylite.exporting.golden import require_new_vectors, write_golden
from keylite.exporting.target import EXPORTERS, Budget, Target, exporter
from keylite.runtime.engines import ENGINES
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import replacing, replacing_within, require_outputs, sha256
from keylite.runtime.kinds import path_of, require_whole
from keylite.runtime.modelfile import describe, read_spec
from keylite.runtime.predictor import Predictor
from keylite.runtime.progress import step
from keylite.runtime.spec import ModelSpec
from keylite.runtime.types import FilePath
from keylite.runtime.words import quoted

log = logging.getLogger("keylite")

REFERENCE = Target("onnx", "fp32")  # what all latencies are told by


def export(
    model: FilePath,
    data: Labelled,
    out: FilePath,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    calibration: Labelled | None = None,
    calibration_count: int = COUNT,
    seed: int = 0,
    budget: float | None = None,
    budget_nme: float | None = None,
    golden: FilePath | None = None,
    spec: FilePath | None = None,
) -> Certificate:
    """Write a model file in another format, once it has been held to its parent on `data`.

    to: onnx or litert. precision: fp32, fp16 (litert) or int8, which takes its ranges from `calibration_count` objects
    of `calibration`, drawn with `seed`. budget: p95 px of the model input; None takes DRIFT_BUDGET, scaled to the
    input. budget_nme: most that the NME may rise, as a fraction of it; None is no limit. The certificate lies beside
    the file as JSON and markdown. golden: folder for vectors to test a port with. spec: a JSON description for a model
    file that holds none. All files appear, or none.
    Raises OverBudgetError, keeping nothing; ValueError for what nothing makes.
    """
    model, out = path_of("model", model), path_of("out", out)
    data = as_dataset("data", data)
    calibration = None if calibration is None else as_dataset("calibration", calibration)
    require_whole("calibration_count", calibration_count)
    require_whole("seed", seed, least=0)
    target, limits = Target(to, precision), Budget(budget, budget_nme)
    if out.suffix != target.suffix:
        ways = [name for name in EXPORTERS if ENGINES[name].suffix == out.suffix]
        hint = f", or choose `to='{ways[0]}'`" if ways else ""
        raise ArgumentError(f"out: expected a name that ends in {target.suffix} for {to}, got {quoted(out.name)}{hint}")
    said = exportable(model, target, calibration is not None, spec)
    _say_doubts(said, data, calibration)
    images = None if calibration is None else calibration_set(said, calibration, calibration_count, seed)
    page = certificate_path(out)
    files = {"out": out, "certificate": page, "page": page.with_suffix(".md")}
    _require_outputs(files, model, spec, data, calibration)
    if golden is not None:
        require_new_vectors(Path(golden), data)
    with tempfile.TemporaryDirectory() as folder:
        reference = functools.cache(lambda: _reference(model, said, Path(folder)))
        return _export(model, said, data, out, target, limits, images, reference, golden, spec)


def export_all(
    model: FilePath,
    data: Labelled,
    out: FilePath,
    *,
    calibration: Labelled | None = None,
    calibration_count: int = COUNT,
    seed: int = 0,
    budget: float | None = None,
    budget_nme: float | None = None,
    spec: FilePath | None = None,
) -> list[Certificate]:
    """Every format in every precision, as `OUT/NAME.PRECISION.SUFFIX`, with one certificate each.

    Arguments: see `export`. All are checked before the first file is made. A file that is refused is not there; its
    certificate says by what.
    """
    model, out = path_of("model", model), path_of("out", out)
    data = as_dataset("data", data)
    calibration = None if calibration is None else as_dataset("calibration", calibration)
    require_whole("calibration_count", calibration_count)
    require_whole("seed", seed, least=0)
    if calibration is None:
        raise ArgumentError("calibration: all precisions include int8, which takes its ranges from images; give them")
    wanted = {
        out / f"{model.stem}.{target.precision}{target.suffix}": target
        for to, kind in EXPORTERS.items()
        for target in (Target(to, precision) for precision in kind.precisions)
    }
    limits = Budget(budget, budget_nme)
    for target in wanted.values():
        exportable(model, target, target.precision == "int8", spec)
    said = read_spec(model, spec)
    pages = [certificate_path(made) for made in wanted]
    files = [*wanted, *pages, *(page.with_suffix(".md") for page in pages)]
    _require_outputs({file.name: file for file in files}, model, spec, data, calibration)
    _say_doubts(said, data, calibration)
    images = calibration_set(said, calibration, calibration_count, seed)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        reference = functools.cache(lambda: _reference(model, said, Path(folder)))
        for made, target in wanted.items():
            ours = images if target.precision == "int8" else None
            try:
                found.append(_export(model, said, data, made, target, limits, ours, reference, apart=spec))
            except OverBudgetError as refusal:
                log.warning("%s", refusal)
                found.append(refusal.certificate)
    return found


def hold(
    child: FilePath,
    parent: FilePath,
    data: Labelled,
    *,
    budget: float | None = None,
    budget_nme: float | None = None,
    spec: FilePath | None = None,
) -> Certificate:
    """The certificate of an exported file again, on any data.

    budget: None takes that of its precision. spec: a JSON description for a parent that holds none.
    """
    child, parent = path_of("child", child), path_of("parent", parent)
    data = as_dataset("data", data)
    limits = Budget(budget, budget_nme)
    said, parent_spec = read_spec(child), read_spec(parent, spec)
    say_doubts(data, said.box)
    certificate = certify(child, parent, data, limits, apart=spec)
    with tempfile.TemporaryDirectory() as folder:
        reference = _reference(parent, parent_spec, Path(folder)) if parent.suffix == ".safetensors" else None
        return msgspec.structs.replace(certificate, latency=_latency(child, reference))


def _require_outputs(
    files: dict[str, Path], model: Path, spec: FilePath | None, data: Dataset, calibration: Dataset | None
) -> None:
    """Raise OSError or ValueError where a file cannot be written, or is one of those that an export reads."""
    names = [path.name for path in files.values()]
    inputs: dict[str, FilePath | None] = {"model": model, "spec": spec}
    if calibration is not None:
        inputs |= {"calibration": calibration.source or None} | calibration.files_named(names)
    require_outputs(files, inputs | data.files_named(names))


def _say_doubts(spec: ModelSpec, data: Dataset, calibration: Dataset | None) -> None:
    """Warn of what is doubtful about labels, once where both are the same; raises as `label_doubts` does."""
    say_doubts(data, spec.box)
    if calibration is not None and calibration.fingerprint() != data.fingerprint():
        say_doubts(calibration, spec.box)


def exportable(model: Path, target: Target, calibrated: bool, apart: FilePath | None = None) -> ModelSpec:
    """The spec of a model file that can be exported so; ValueError, or what is missing, if it cannot.

    apart: the description of a file that holds none.
    """
    exporting = exporter(target)
    spec = read_spec(model, apart)
    if model.suffix != ".safetensors":
        raise ArgumentError(f"{model}: exports start from a .safetensors model file")
    if calibrated != (target.precision == "int8"):
        raise ArgumentError(
            f"calibration: {target.precision} has no use for it"
            if calibrated
            else "calibration: int8 takes its ranges from images: give them (`calibration='train.json'`)"
        )
    exporting.require_backbone(spec)
    return spec


def _export(
    model: Path,
    spec: ModelSpec,
    data: Dataset,
    out: Path,
    target: Target,
    budget: Budget,
    images: CalibrationSet | None,
    reference: Callable[[], Path | None],
    golden: FilePath | None = None,
    apart: FilePath | None = None,
) -> Certificate:
    """`export`, all of whose arguments are good. reference: gives the parent's fp32 ONNX to be timed by, or None."""
    exporting, precision = exporter(target), target.precision
    made_from = msgspec.structs.replace(spec.provenance, created=now(), versions=versions(), parent=sha256(model))
    facts = None if images is None else images.facts
    child_spec = msgspec.structs.replace(spec, precision=precision, calibration=facts, provenance=made_from)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / out.name
        with step(f"export: writing {out.name} in {precision}"):
            exporting.export(model, made, child_spec, images)
        if images is not None:
            doubt = range_doubt(exporting.watch(made, some_crops(spec, data)), images.facts, data.called)
            if doubt:
                log.warning("%s", doubt)
        log.info("%s", write_confidence(Predictor(made, device="cpu"), data))
        child_spec = read_spec(made)
        certificate = certify(made, model, data, budget, operators=exporting.operators(made), apart=apart)
        if not certificate.within_budget:
            raise OverBudgetError(certificate)
        describe(made, msgspec.structs.replace(child_spec, certificate=summary(certificate)))
        with step(f"export: taking the time of {out.name}"):
            latency = _latency(made, made if target == REFERENCE else reference())
        certificate = msgspec.structs.replace(
            certificate, child_sha256=sha256(made), bytes=made.stat().st_size, latency=latency
        )
        with contextlib.ExitStack() as together:  # all of them or none; the model appears last, never alone
            shutil.copyfile(made, together.enter_context(replacing(out)))
            for path, text in certificate_files(certificate, certificate_path(out)).items():
                together.enter_context(replacing(path)).write_bytes(text)
            if golden is not None:
                write_golden(made, data, together.enter_context(replacing_within(golden)))
    return certificate


def _reference(parent: Path, spec: ModelSpec, folder: Path) -> Path | None:
    """The parent's fp32 ONNX, which all latencies are told by; None where PyTorch is not there to make it."""
    made = folder / "reference.onnx"
    try:
        exporter(REFERENCE).export(parent, made, spec)
    except ModuleNotFoundError as error:
        log.info("no latency in the certificate: %s", error)
        return None
    return made


def _latency(made: Path, reference: Path | None) -> Latency | None:
    """A file's time beside the reference."""
    return None if reference is None else Latency(*engine_ratio(made, reference), processor())
