"""Export: writes a model file in another format, and refuses to if its points moved further than the budget allows."""

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
from keylite.data.formats.reading import Labelled, as_dataset, require_labelled
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
    summary,
)
from keylite.exporting.comparison import certify
from keylite.exporting.fit import Device, device_of, require_fit
from keylite.exporting.form import FORMATS, Budget, Form, examiner, exporter, form_of, require_backbone
from keylite.exporting.golden import require_new_vectors, write_golden
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import replacing, replacing_within, require_outputs, sha256
from keylite.runtime.heads import Heatmap
from keylite.runtime.kinds import path_of, path_or_none, require_whole
from keylite.runtime.lite import LITE
from keylite.runtime.modelfile import describe, read_spec
from keylite.runtime.predictor import Predictor
from keylite.runtime.progress import step
from keylite.runtime.spec import ModelSpec
from keylite.runtime.types import FilePath

log = logging.getLogger("keylite")

REFERENCE = Form("onnx", "fp32")  # the file whose time all latencies are compared with


def export(
    model: FilePath,
    data: Labelled,
    out: FilePath,
    *,
    to: str | None = None,
    precision: str = "fp32",
    input_type: str = "uint8",
    output_type: str = "float32",
    weight_scales: str = "per-channel",
    calibration: Labelled | None = None,
    calibration_count: int = COUNT,
    seed: int = 0,
    budget: float | None = None,
    budget_nme: float | None = None,
    target: str | None = None,
    flash: int | None = None,
    ram: int | None = None,
    golden: FilePath | None = None,
    spec: FilePath | None = None,
) -> Certificate:
    """Write a model file in another format, if its points on `data` stay close enough to those of the original.

    The certificate, which says how far points moved, is written beside the file as JSON and as a page of markdown. All
    files appear, or none.

    Args:
        model: The model file to export, a `.safetensors` file.
        data: Labelled images to compare both files on, or the path of a label file.
        out: The file to write; its name ends in .onnx or .tflite, which says the format.
        to: "onnx" or "litert"; it must agree with the name of `out`. None: as that name says.
        precision: "fp32", "fp16" (LiteRT alone) or "int8".
        input_type: What the file takes: "uint8", the bytes of the pixels; "int8" (LiteRT in int8), the bytes minus 128;
            or "float32" (ONNX), the bytes as numbers, one image at a time. keylite's engines take bytes from all.
        output_type: What the file gives: "float32" or "int8" (LiteRT in int8 with a heatmap head). The scale and zero
            point of "int8" are in the spec; keylite's engines turn it into float32.
        weight_scales: For int8: "per-channel", or "per-tensor", which many NPUs need: all weights of a layer share a
            scale. Channels are then scaled first, with the calibration images.
        calibration: For int8: labelled images that the ranges of its values are taken from. None for the others.
        calibration_count: How many objects of `calibration` are used.
        seed: The seed of the random choice of these objects.
        budget: The largest drift that is allowed: 95 % of all points must move less, px of the model input. None: for
            an input of 128 px 0.02 (fp32), 0.1 (fp16) or 1 (int8), and in proportion for others.
        budget_nme: By what fraction the NME (normalised mean error) may rise, such as 0.02. None: no limit.
        target: For int8 with LiteRT: the device that the file is for, such as "tflm" or "ethos-u55-128"; see
            `measure_target`. The file is refused if an NPU leaves operators of it to the CPU, and both budgets must
            also hold on LiteRT's reference kernels, which are nearer to such devices. None: any device.
        flash: With `target`: the flash of the device, KB of 1,024 bytes; a file that takes more is refused. None: not
            checked.
        ram: With `target`: its memory on the chip, in the same way.
        golden: A folder for golden vectors, to test an app with (see `write_golden`). None: none are written.
        spec: A JSON description for a model file that holds none. None: the model file holds it.

    Returns:
        The certificate.

    Raises:
        OverBudgetError: Points moved further than the budget allows. Nothing was written.
        ArgumentError: An argument has a wrong value, a file to write is one of the inputs, or the file does not fit
            `target`.
        ModuleNotFoundError: A package that makes the format is not installed; the message says how to install it.

    Example:
        >>> keylite.export("model.safetensors", "test.json", "faces.onnx")
        >>> keylite.export("model.safetensors", "test.json", "faces.tflite", precision="int8",
        ...                calibration="train.json")
    """
    model, out, spec = path_of("model", model), path_of("out", out), path_or_none("spec", spec)
    golden = path_or_none("golden", golden)
    require_labelled(data=data, **({} if calibration is None else {"calibration": calibration}))
    require_whole("calibration_count", calibration_count)
    require_whole("seed", seed, least=0)
    types = {"input_type": input_type, "output_type": output_type, "weight_scales": weight_scales}
    made_as = form_of(out, to, precision, **types)
    device = device_of(target, flash, ram, made_as)
    model_spec = read_spec(model, spec)
    limits = budget_of(model_spec, made_as, budget, budget_nme)
    require_exportable(model, model_spec, made_as, calibration is not None)
    data = as_dataset("data", data)
    calibration = None if calibration is None else as_dataset("calibration", calibration)
    _say_doubts(model_spec, data, calibration)
    images = None if calibration is None else calibration_set(model_spec, calibration, calibration_count, seed)
    certificate = certificate_path(out)
    files = {"out": out, "certificate": certificate, "page": certificate.with_suffix(".md")}
    _require_outputs(files, model, spec, data, calibration)
    if golden is not None:
        require_new_vectors(golden, data)
    with tempfile.TemporaryDirectory() as folder:
        reference = functools.cache(lambda: _reference(model, model_spec, Path(folder)))
        return _export(model, model_spec, data, out, made_as, limits, images, reference, golden, spec, device)


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
    """Export a model file to every format in every precision, with a certificate each.

    The files are named `OUT/NAME.PRECISION.SUFFIX`. All arguments are checked before the first file is made. A file
    whose points moved too far is not written; the others are.

    Args:
        model: The model file to export, a `.safetensors` file.
        data: Labelled images to compare the files on, or the path of a label file.
        out: The folder to write to.
        calibration: Labelled images that the ranges of int8 files are taken from, or the path of a label file. It is
            required.
        calibration_count: How many objects of `calibration` are used.
        seed: The seed of the random choice of these objects.
        budget: The largest drift that is allowed; see `export`.
        budget_nme: By what fraction the NME may rise; see `export`.
        spec: A JSON description for a model file that holds none. None: the model file holds it.

    Returns:
        One certificate per file, also of those that were refused (`within_budget` is False).

    Raises:
        ArgumentError: An argument has a wrong value, or a file to write is one of the inputs.
        ModuleNotFoundError: A package that makes a format is not installed; the message says how to install it.
    """
    model, out, spec = path_of("model", model), path_of("out", out), path_or_none("spec", spec)
    require_labelled(data=data, **({} if calibration is None else {"calibration": calibration}))
    require_whole("calibration_count", calibration_count)
    require_whole("seed", seed, least=0)
    model_spec = read_spec(model, spec)
    made = exportable_forms(model, model_spec, calibration is not None)
    assert calibration is not None  # it is refused above
    forms = {out / f"{model.stem}.{form.precision}{form.suffix}": form for form in made}
    limits = {path: budget_of(model_spec, form, budget, budget_nme) for path, form in forms.items()}
    data, calibration = as_dataset("data", data), as_dataset("calibration", calibration)
    pages = [certificate_path(path) for path in forms]
    files = [*forms, *pages, *(page.with_suffix(".md") for page in pages)]
    _require_outputs({file.name: file for file in files}, model, spec, data, calibration)
    _say_doubts(model_spec, data, calibration)
    images = calibration_set(model_spec, calibration, calibration_count, seed)
    certificates = []
    with tempfile.TemporaryDirectory() as folder:
        reference = functools.cache(lambda: _reference(model, model_spec, Path(folder)))
        for path, form in forms.items():
            ranges = images if form.precision == "int8" else None
            try:
                certificate = _export(
                    model, model_spec, data, path, form, limits[path], ranges, reference, spec_file=spec
                )
            except OverBudgetError as refusal:
                log.warning("%s", refusal)
                certificate = refusal.certificate
            certificates.append(certificate)
    return certificates


def hold(
    child: FilePath,
    parent: FilePath,
    data: Labelled,
    *,
    budget: float | None = None,
    budget_nme: float | None = None,
    engine: str | None = None,
    spec: FilePath | None = None,
) -> Certificate:
    """Compare an exported file with the file that it was made from, on any labelled images. Nothing is written.

    Args:
        child: The exported file.
        parent: The model file that it was made from.
        data: Labelled images, or the path of a label file.
        budget: The largest drift that is allowed, px of the model input; see `export`. None: that of the precision.
        budget_nme: By what fraction the NME may rise. None: no limit.
        engine: What runs the child; see `Predictor`. None: the usual engine of this kind of file. The certificate holds
            for this engine.
        spec: A JSON description for a parent that holds none. None: the parent holds it.

    Returns:
        The certificate. Its `within_budget` says whether both budgets are kept; nothing is raised if not.

    Raises:
        ArgumentError: The files have different keypoints, inputs or crops, or an argument has a wrong value.
    """
    child, parent, spec = path_of("child", child), path_of("parent", parent), path_or_none("spec", spec)
    data = as_dataset("data", data)
    child_spec, parent_spec = read_spec(child), read_spec(parent, spec)
    limits = Budget.for_spec(child_spec, budget, budget_nme)
    say_doubts(data, child_spec.box)
    certificate = certify(child, parent, data, limits, spec_file=spec, engine=engine)
    with tempfile.TemporaryDirectory() as folder:
        reference = _reference(parent, parent_spec, Path(folder)) if parent.suffix == ".safetensors" else None
        return msgspec.structs.replace(certificate, latency=_latency(child, reference, engine))


def _require_outputs(
    files: dict[str, Path], model: Path, spec: FilePath | None, data: Dataset, calibration: Dataset | None
) -> None:
    """Raise an error if a file cannot be written, or is one of those that the export reads."""
    names = [path.name for path in files.values()]
    inputs: dict[str, FilePath | None] = {"model": model, "spec": spec}
    if calibration is not None:
        inputs |= {"calibration": calibration.source or None} | calibration.files_named(names)
    require_outputs(files, inputs | data.files_named(names))


def _say_doubts(spec: ModelSpec, data: Dataset, calibration: Dataset | None) -> None:
    """Warn of what is doubtful about the labels of both data sets, once if they are the same.

    Raises an error if nothing can be measured by them.
    """
    say_doubts(data, spec.box)
    if calibration is not None and calibration.fingerprint() != data.fingerprint():
        say_doubts(calibration, spec.box)


def budget_of(parent: ModelSpec, form: Form, px: float | None, nme: float | None) -> Budget:
    """The budget of a file that is exported from one with the spec `parent`. px None: the default of its precision."""
    return Budget.for_spec(msgspec.structs.replace(parent, precision=form.precision), px, nme)


def require_exportable(model: Path, spec: ModelSpec, form: Form, calibrated: bool) -> None:
    """Raise an error if a model file cannot be exported to this form. calibrated: are there calibration images?

    It reads no labels, and imports the framework last.
    """
    if model.suffix != ".safetensors":
        raise ArgumentError(f"{model}: expected a .safetensors model file; an exported file cannot be exported again")
    if calibrated != (form.precision == "int8"):
        raise ArgumentError(
            f"calibration: expected none for {form.precision}, because only int8 takes ranges from images"
            if calibrated
            else "calibration: int8 takes its ranges from images: give them (`calibration='train.json'`)"
        )
    if form.output_type == "int8" and not isinstance(spec.head, Heatmap):
        raise ArgumentError(
            f"output_type: expected float32 for a {type(spec.head).__name__.lower()} head, because its last layer is "
            "dense and stays in float, got 'int8'; a heatmap head can end in int8"
        )
    if form.weight_scales == "per-tensor" and spec.backbone not in LITE:
        raise ArgumentError(
            f"weight_scales: per-tensor is for the backbones {', '.join(LITE)}, got {spec.backbone}, whose channels "
            "keylite cannot scale; use 'per-channel'"
        )
    require_backbone(form.to, spec)
    exporter(form)


def exportable_forms(model: Path, spec: ModelSpec, calibrated: bool) -> list[Form]:
    """Every format in every precision. Raises an error, as `require_exportable`, if one of them cannot be made."""
    if not calibrated:
        raise ArgumentError("calibration: expected labelled images, because int8 takes its ranges from them, got None")
    forms = [Form(to, precision) for to, kind in FORMATS.items() for precision in kind.precisions]
    for form in forms:
        require_exportable(model, spec, form, form.precision == "int8")
    return forms


def _export(
    model: Path,
    spec: ModelSpec,
    data: Dataset,
    out: Path,
    form: Form,
    budget: Budget,
    images: CalibrationSet | None,
    reference: Callable[[], Path | None],
    golden: FilePath | None = None,
    spec_file: FilePath | None = None,
    device: Device | None = None,
) -> Certificate:
    """`export` with arguments that were checked. reference: makes the parent's fp32 ONNX, to compare the time with."""
    exporting, precision = exporter(form), form.precision
    provenance = msgspec.structs.replace(spec.provenance, created=now(), versions=versions(), parent=sha256(model))
    facts = None if images is None else images.facts
    child_spec = msgspec.structs.replace(
        spec,
        precision=precision,
        input_type=form.input_type,
        weight_scales=form.weight_scales if precision == "int8" else None,
        calibration=facts,
        provenance=provenance,
    )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / out.name
        with step(f"export: writing {out.name} in {precision}"):
            exporting.export(model, made, child_spec, images, form.output_type)
        require_fit(made, device)
        if images is not None:
            doubt = range_doubt(examiner(form).watch(made, some_crops(spec, data)), images.facts, data.called)
            if doubt:
                log.warning("%s", doubt)
        log.info("%s", write_confidence(Predictor(made, device="cpu"), data, judged=False))  # the certificate judges
        child_spec = read_spec(made)
        certificate = certify(
            made,
            model,
            data,
            budget,
            operators=exporting.operators(made),
            spec_file=spec_file,
            reference_too=device is not None,  # no target has XNNPACK
        )
        for note in certificate.notes:
            log.warning("%s", note)
        if not certificate.within_budget:
            raise OverBudgetError(certificate)
        describe(made, msgspec.structs.replace(child_spec, certificate=summary(certificate)))
        with step(f"export: taking the time of {out.name}"):
            latency = _latency(made, made if form == REFERENCE else reference())
        certificate = msgspec.structs.replace(
            certificate, child_sha256=sha256(made), bytes=made.stat().st_size, latency=latency
        )
        with contextlib.ExitStack() as together:  # all files appear or none; the model appears last
            shutil.copyfile(made, together.enter_context(replacing(out)))
            for path, text in certificate_files(certificate, certificate_path(out)).items():
                together.enter_context(replacing(path)).write_bytes(text)
            if golden is not None:
                write_golden(made, data, together.enter_context(replacing_within(golden)))
    return certificate


def _reference(parent: Path, spec: ModelSpec, folder: Path) -> Path | None:
    """Make the parent's fp32 ONNX file, whose time all latencies are compared with. None: PyTorch is not installed."""
    made = folder / "reference.onnx"
    try:
        exporter(REFERENCE).export(parent, made, spec)
    except ModuleNotFoundError as error:
        log.info("no latency in the certificate: %s", error)
        return None
    return made


def _latency(made: Path, reference: Path | None, engine: str | None = None) -> Latency | None:
    """The time of a file that `engine` runs, compared with that of the reference."""
    return None if reference is None else Latency(*engine_ratio(made, reference, engine=engine), processor())
