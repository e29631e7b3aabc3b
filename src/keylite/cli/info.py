"""`keylite info`: what a model file says of itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from keylite.cli.output import certificate_line, figures_line, show

log = logging.getLogger("keylite")


def info(
    model: Path, *, spec: Path | None = None, json_output: Annotated[bool, Parameter(name="--json")] = False
) -> None:
    """What a model file says of itself.

    Parameters
    ----------
    model
        .safetensors, .onnx or .tflite
    spec
        JSON description of a file that holds none
    json_output
        print the whole description as JSON
    """
    from keylite.exporting.certificate import certificate_doubt
    from keylite.runtime.files import sha256
    from keylite.runtime.modelfile import read_spec
    from keylite.runtime.spec import encode_spec, unlearnt_words
    from keylite.runtime.tables import Table

    said = read_spec(model, spec)
    if json_output:
        print(json.dumps(json.loads(encode_spec(said)), indent=2))
        return
    if doubt := certificate_doubt(model):
        log.warning("%s", doubt)
    made = said.provenance
    names = said.skeleton.names
    rows = [
        ["file", f"{model.name}, {model.stat().st_size / 1e6:.1f} MB, {said.precision}, sha256 {sha256(model)}"],
        ["network", f"{said.backbone}, {type(said.head).__name__.lower()} head, {said.size[0]}x{said.size[1]} px"],
        ["input", f"uint8 RGB; normalised inside, (pixel - {said.mean[0]:g}) / {said.std[0]:g}"],
        ["crop", f"box {said.box}" + (f", grown by {said.padding:g}" if said.box == "annotation" else "")],
        ["keypoints", f"{len(names)}: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"],
        *(["not taught", line] for line in unlearnt_words(said.unlearnt)),
        ["NME divisor", said.normalize],
        ["figures, as trained", figures_line(said.report) if said.report else "none"],
        ["trained on", f"{made.data}, fingerprint {made.data_fingerprint[:16]}, from {made.pretrained}"],
        ["parent", made.parent or "none: this is what training wrote"],
        ["ranges from", f"{k.count} objects of {k.data}, seed {k.seed}" if (k := said.calibration) else "none"],
        ["held to it", certificate_line(said.certificate) if said.certificate else "not exported"],
        ["made", f"{made.created} by keylite {made.keylite}, {made.framework}"],
    ]
    show([Table((), rows)])
