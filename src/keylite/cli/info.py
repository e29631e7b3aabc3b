"""`keylite info`: prints the description inside a model file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from keylite.cli.output import certificate_line, figures_line, show

log = logging.getLogger("keylite")

INPUTS = {"uint8": "uint8 RGB", "int8": "int8 RGB, pixel - 128", "float32": "float32 RGB, pixels 0 to 255"}
STARTS = {"none": "random weights", "imagenet": "ImageNet's weights"}  # of the backbone, by the choice `pretrained`
SCALES = {"per-channel": "per-channel: one for each channel", "per-tensor": "per-tensor: one for a whole layer"}


def info(
    model: Path, *, spec: Path | None = None, json_output: Annotated[bool, Parameter(name="--json")] = False
) -> None:
    """Print the description inside a model file: its input, keypoints, accuracy and origin.

    Parameters
    ----------
    model
        .safetensors, .onnx or .tflite
    spec
        JSON description for a file that holds none
    json_output
        print the whole description as JSON
    """
    from keylite.exporting.certificate import certificate_doubt
    from keylite.runtime.files import sha256
    from keylite.runtime.modelfile import read_spec
    from keylite.runtime.spec import encode_spec, unlearnt_words
    from keylite.runtime.tables import Table

    facts = read_spec(model, spec)
    if json_output:
        print(json.dumps(json.loads(encode_spec(facts)), indent=2))
        return
    if doubt := certificate_doubt(model):
        log.warning("%s", doubt)
    output = facts.output
    origin, names, calibration = facts.provenance, facts.skeleton.names, facts.calibration
    ranges = f"{calibration.count} objects of {calibration.data.name}, seed {calibration.seed}" if calibration else ""
    taught_by = str(origin.recipe.get("teacher", "none"))
    trained_on = f"{origin.data.name}, fingerprint {origin.data.fingerprint[:16]}"
    rows = [
        ["file", f"{model.name}, {model.stat().st_size / 1e6:.1f} MB, {facts.precision}, sha256 {sha256(model)}"],
        ["network", facts.network],
        ["input", f"{INPUTS[facts.input_type]}; normalised inside, (pixel - {facts.mean[0]:g}) / {facts.std[0]:g}"],
        ["output", f"int8, {output.scale:.6g} * (value - {output.zero})" if output else "float32"],
        ["crop", f"box {facts.box}" + (f", grown by {facts.padding:g}" if facts.box == "annotation" else "")],
        ["keypoints", f"{len(names)}: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"],
        *(["not learnt", line] for line in unlearnt_words(facts.unlearnt)),
        ["normaliser of the NME", facts.normalize],
        ["accuracy after training", figures_line(facts.report) if facts.report else ""],
        ["trained on", f"{trained_on}, from {STARTS.get(origin.pretrained, origin.pretrained)}"],
        ["taught by", "" if taught_by == "none" else taught_by],
        ["exported from", f"the file with sha256 {origin.parent}" if origin.parent else ""],
        ["int8 ranges from", ranges],
        ["scales of weights", SCALES.get(facts.weight_scales or "", "")],
        ["compared with parent", certificate_line(facts.certificate) if facts.certificate else ""],
        ["made", f"{origin.created} by keylite {origin.keylite}, {origin.framework}"],
    ]
    show([Table((), [row for row in rows if row[1]])])  # what does not apply to a file has no row
