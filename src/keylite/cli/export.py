"""`keylite export`: writes a model file in another format, with a certificate, or diagnoses an int8 export."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keylite.cli.output import EXPORT_COLUMNS, export_row, show
from keylite.cli.shared import OVER_BUDGET, USUAL, As, Reading, Seed, fail

if TYPE_CHECKING:
    from keylite.data.dataset import Dataset
    from keylite.runtime.spec import ModelSpec

TYPES = ("input_type", "output_type", "weight_scales")  # of the tensors of a file

USUAL_OF_ONE: dict[str, Any] = {  # choices of a single exported file
    **{"input_type": "uint8", "output_type": "float32", "weight_scales": "per-channel"},
    **{"target": None, "flash": None, "ram": None},
}


def export(
    model: Path,
    *,
    data: Path,
    out: Path | None = None,
    to: str | None = None,
    precision: str = "fp32",
    input_type: str = "uint8",
    output_type: str = "float32",
    weight_scales: str = "per-channel",
    calibration: Path | None = None,
    calibration_count: int = 200,
    seed: Seed = 0,
    budget: float | None = None,
    budget_nme: float | None = None,
    target: str | None = None,
    flash: int | None = None,
    ram: int | None = None,
    golden: Path | None = None,
    diagnose: bool = False,
    spec: Path | None = None,
    reading: As = USUAL,
) -> None:
    """Write a model file in another format, unless its points move further than the budget allows.

    Parameters
    ----------
    model
        .safetensors
    data
        labelled images on which both files are compared
    out
        file to write, or with --to all a folder; certificates are written beside the files
    to
        onnx or litert; default: as the name of --out says; all: every format in every precision, into a folder
    precision
        fp32, fp16 (litert alone) or int8
    input_type
        uint8 (bytes), int8 (litert in int8: bytes minus 128) or float32 (onnx: bytes as numbers, one image at a time)
    output_type
        float32, or int8 (litert in int8 with a heatmap head; keylite info prints its scale and zero point)
    weight_scales
        for int8: per-channel, or per-tensor (all weights of a layer share a scale, as many NPUs need)
    calibration
        labelled images that the ranges of int8 are taken from
    calibration_count
        how many of these objects are used; they are drawn at random
    seed
        of this random choice
    budget
        95 % of the points may move at most so far, px of the model input; default at 128 px: fp32 0.02, fp16 0.1,
        int8 1
    budget_nme
        the NME may rise at most by this fraction of it: 0.03 is 3 %; default: no limit
    target
        for int8 with litert: the device that the file is for, tflm or an NPU such as ethos-u55-128 (docs/targets.md has
        the list); the file is refused if the NPU leaves operators of it to the CPU, or if its points move past the
        budget on LiteRT's reference kernels
    flash
        with --target: its flash in KB of 1,024 bytes; a file that takes more is refused
    ram
        with --target: its memory on the chip, in the same way
    golden
        folder for golden vectors (inputs, raw outputs and points of some objects), to test an app with
    diagnose
        export nothing: print which layers lose accuracy in int8, what was tried against it, and the cheapest way within
        the budget, or write this page to --out; takes minutes
    spec
        JSON description for a model file that holds none (keylite info --json prints one)
    """
    from keylite.runtime.modelfile import read_spec

    given = (input_type, output_type, weight_scales, target, flash, ram)
    of_one = dict(zip(USUAL_OF_ONE, given, strict=True))
    _require_choices(model, data, out, to, precision, of_one, golden, diagnose, spec)
    model_spec = read_spec(model, spec)
    _require_forms(model, model_spec, out, to, precision, of_one, diagnose, calibration is not None)
    compared = reading.dataset(data, model_spec.white_level, model_spec.box)
    choices: dict[str, Any] = {
        "calibration": (reading.dataset(calibration, model_spec.white_level, model_spec.box) if calibration else None),
        "calibration_count": calibration_count,
        "seed": seed,
        "budget": budget,
        "budget_nme": budget_nme,
        "spec": spec,
    }
    if diagnose:
        shown = {"data": data, "budget_nme": budget_nme, "spec": spec}
        _diagnose(model, compared, out, choices | {"to": to, "precision": precision}, shown, calibration, reading)
        return
    assert out is not None  # it is refused above
    if to == "all":
        _export_all(model, compared, out, choices)
    else:
        _export_one(model, compared, out, golden, choices | of_one | {"to": to, "precision": precision})


def _require_choices(
    model: Path,
    data: Path,
    out: Path | None,
    to: str | None,
    precision: str,
    of_one: dict[str, Any],
    golden: Path | None,
    diagnose: bool,
    spec: Path | None,
) -> None:
    """Raise an error, before images are read, for flags that do not fit or outputs that cannot be written."""
    from keylite.exporting.fit import device_of
    from keylite.exporting.form import FORMATS, form_of
    from keylite.runtime.files import require_outputs, require_writable

    if out is None and not diagnose:
        raise ValueError("out: expected a file to write, with --to all a folder: give it as --out")
    if diagnose and out and out.suffix != ".md":
        raise ValueError(
            f"out: --diagnose writes a page and no model: expected a name that ends in .md, got {out.name!r}"
        )
    if golden and (diagnose or to == "all"):
        raise ValueError("golden: needs one exported file; leave out --diagnose and --to all")
    if diagnose and to in (None, "all"):
        raise ValueError(f"to: --diagnose is for one format: expected {' or '.join(FORMATS)}, got {to or 'none'}")
    for name, usual in USUAL_OF_ONE.items():
        if of_one[name] != usual and (diagnose or to == "all"):
            raise ValueError(f"{name}: it is for one exported file; leave out --diagnose and --to all")
    if out and not diagnose and to != "all":
        types = {name: of_one[name] for name in TYPES}
        made_as = form_of(out, to, precision, **types)
        device_of(of_one["target"], of_one["flash"], of_one["ram"], made_as)
    if golden:
        require_writable(golden)
    if out and diagnose:
        require_outputs({"out": out}, {"model": model, "data": data, "spec": spec})


def _require_forms(
    model: Path,
    spec: ModelSpec,
    out: Path | None,
    to: str | None,
    precision: str,
    of_one: dict[str, Any],
    diagnose: bool,
    calibrated: bool,
) -> None:
    """Raise an error, before labels are read, if the model cannot be exported in the way that the flags say."""
    from keylite.exporting.diagnosis import diagnosed_form
    from keylite.exporting.export import exportable_forms, require_exportable
    from keylite.exporting.form import form_of

    if diagnose:
        assert to is not None  # it is refused above
        diagnosed_form(model, spec, to, precision, calibrated)
    elif to == "all":
        exportable_forms(model, spec, calibrated)
    else:
        assert out is not None
        types = {name: of_one[name] for name in TYPES}
        require_exportable(model, spec, form_of(out, to, precision, **types), calibrated)


def _export_one(model: Path, data: Dataset, out: Path, golden: Path | None, choices: dict[str, Any]) -> None:
    """Write one file with its certificate and show that, or fail if points moved too far."""
    from keylite.exporting.certificate import OverBudgetError, certificate_parts, certificate_path
    from keylite.exporting.export import export
    from keylite.exporting.golden import VECTORS

    try:
        certificate = export(model, data, out, golden=golden, **choices)
    except OverBudgetError as refusal:
        show(certificate_parts(refusal.certificate))
        fail(str(refusal), OVER_BUDGET)
    show(certificate_parts(certificate))
    page = certificate_path(out)
    print(f"wrote {out} ({certificate.bytes / 1e6:.1f} MB), {page.name} and {page.with_suffix('.md').name}")
    if golden:
        print(f"wrote {golden / VECTORS}")


def _export_all(model: Path, data: Dataset, out: Path, choices: dict[str, Any]) -> None:
    """Write a file of each kind into a folder and show a table of them; fail if one of them was refused."""
    from keylite.exporting.export import export_all
    from keylite.runtime.tables import Table

    certificates = export_all(model, data, out, **choices)
    show([Table(EXPORT_COLUMNS, [export_row(certificate) for certificate in certificates])])
    refused = [certificate for certificate in certificates if not certificate.within_budget]
    if refused:
        fail(f"refused: {', '.join(certificate.child for certificate in refused)}", OVER_BUDGET)


def _diagnose(
    model: Path,
    data: Dataset,
    out: Path | None,
    choices: dict[str, Any],
    shown: dict[str, Any],
    calibration: Path | None,
    reading: Reading,
) -> None:
    """Print or write the page of a diagnosis. It ends with the command that makes its recipe.

    shown: flags that the command repeats.
    """
    from keylite.exporting.diagnosis import diagnose
    from keylite.exporting.diagnosis_report import diagnosis_page
    from keylite.runtime.files import write_text

    diagnosis = diagnose(model, data, **choices)
    command = None
    if diagnosis.cheapest:
        flags = {"to": diagnosis.to, "precision": diagnosis.cheapest.precision}
        if diagnosis.cheapest.precision == "int8":
            flags |= {
                "calibration": calibration,
                "calibration-count": diagnosis.cheapest.images,
                "seed": choices["seed"],
            }
        flags |= shown | {"budget": diagnosis.budget} | dataclasses.asdict(reading)
        flags["out"] = f"{model.stem}.{diagnosis.cheapest.precision}{diagnosis.suffix}"
        command = shlex.join(["keylite", "export", str(model), *command_of(flags)])
    page = diagnosis_page(diagnosis, command)
    if out is None:
        print(page)
        return
    write_text(out, page)
    print(f"wrote {out}")


def command_of(choices: dict[str, Any]) -> list[str]:
    """Choices as flags of a command line, without those that are None, False or the default of a `Reading`."""
    usual = dataclasses.asdict(USUAL)
    flags = []
    for name, value in choices.items():
        if value is True:
            flags.append(f"--{name.replace('_', '-')}")
        elif value is not None and value is not False and (name not in usual or value != usual[name]):
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags
