"""How far points move in each runtime, on several data sets: the table of docs/targets.md.

Run `python benchmarks/targets.py --out FOLDER --model MODEL CALIBRATION LABELS --model ...`, once with all data sets:
MODEL is a trained `.safetensors` file, CALIBRATION the labels that the ranges of int8 come from, LABELS those that are
measured. Distances are to the points of the trained file, px of the model input. Files and figures are kept in --out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from others import OTHERS, engine_of, missing
from rounds import Facts, keep, machine, paragraph, table
from runs import DOCS, Section, kept, listing, not_yet, options, publish, told, write_part

import keylite
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import read_dataset
from keylite.evaluation.figures import object_nme
from keylite.evaluation.predictions import Predictions, predict_dataset
from keylite.exporting.calibration import calibration_set
from keylite.exporting.drift import point_drift
from keylite.exporting.form import Form, exporter, nme_change
from keylite.runtime.errors import ModelFileError
from keylite.runtime.files import sha256
from keylite.runtime.modelfile import read_spec
from keylite.runtime.packages import require
from keylite.runtime.predictor import Predictor

log = logging.getLogger("keylite")

PAGE = "targets.md"
OBJECTS = 200  # that are measured of each set, drawn at random
SEED = 0  # of this choice, and of that of the calibration images
FORMATS = {"onnx": "float32", "litert": "uint8"}  # and the type of the input that other runtimes take, too
PRECISIONS = ("fp32", "int8")


class Row(NamedTuple):
    """A runtime. engine: of keylite; None: one of OTHERS. to: the format that it takes. package: says its version."""

    engine: str | None
    to: str
    precisions: tuple[str, ...]
    package: str


ROWS = {
    "LiteRT, XNNPACK": Row("litert", "litert", PRECISIONS, "ai-edge-litert"),
    "LiteRT, reference kernels": Row("litert-reference", "litert", PRECISIONS, "ai-edge-litert"),
    "TensorFlow Lite Micro": Row("tflm", "litert", ("int8",), "tflite-micro"),
    "ONNX Runtime": Row("onnx", "onnx", PRECISIONS, "onnxruntime"),
    **{name: Row(None, "onnx", other.precisions, other.package) for name, other in OTHERS.items()},
}
IMPORTS = {"ai-edge-litert": "ai_edge_litert", "tflite-micro": "tflite_micro", "onnxruntime": "onnxruntime"}


def file_of(model: Path, calibration: Dataset, to: str, precision: str, folder: Path) -> Path:
    """An export of a model file, made once. It is not held to a budget: the table says how far its points move."""
    digest = sha256(model)[:12]
    path = folder / f"{model.stem}.{digest}.{precision}{Form(to, precision).suffix}"
    if path.is_file():
        return path
    log.info("%s: exporting to %s in %s", model, to, precision)
    spec = read_spec(model)
    images = calibration_set(spec, calibration, seed=SEED) if precision == "int8" else None
    integers = {"weight_scales": "per-channel", "calibration": images.facts} if images else {}
    spec = msgspec.structs.replace(spec, precision=precision, input_type=FORMATS[to], **integers)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        made = Path(place) / path.name
        exporter(Form(to, precision)).export(model, made, spec, images)
        made.rename(path)
    return path


def drift(predictions: Predictions, parent: Predictions, spec: keylite.ModelSpec) -> dict[str, float]:
    """The p95 and the largest distance between the points of two runs, px of the input."""
    taught = [k for k in range(len(spec.skeleton)) if k not in spec.untaught]
    distance = point_drift(predictions.unit_xy, parent.unit_xy, spec.size)[:, taught]
    return {"p95": float(np.percentile(distance, 95)), "max": float(distance.max())}


def why_not(row: Row, name: str) -> str | None:
    """What a row needs and is not installed, or None."""
    if row.engine is None:
        return missing(name)
    try:
        require(IMPORTS[row.package])
    except ModuleNotFoundError as error:
        return error.name
    return None


def figures_of(of: str, model: Path, calibration: Dataset, data: Dataset, folder: Path) -> Facts:
    """By runtime and precision: drift, NME and its change, or the line with which a file was refused. of: the set."""
    spec = read_spec(model)
    before: list[Predictions] = []

    def parent() -> Predictions:
        if not before:
            log.info("%s: predicting %d objects", model, len(data))
            before.append(predict_dataset(Predictor(model, threads=1), data))
        return before[0]

    def nme(predictions: Predictions) -> float:
        return float(np.nanmean(object_nme(predictions, data, spec.normalize)))

    def measured(name: str, row: Row, precision: str) -> Facts:
        path = file_of(model, calibration, row.to, precision, folder)
        log.info("%s: %s in %s", of, name, precision)
        with tempfile.TemporaryDirectory() as place:
            try:
                if row.engine is None:
                    predictor = Predictor.of(engine_of(name, path, Path(place)), read_spec(path))
                else:
                    predictor = Predictor(path, engine=row.engine, threads=1)
                predictions = predict_dataset(predictor, data)
            except (ModelFileError, ValueError) as error:
                return {"refused": str(error).splitlines()[0]}
        own, theirs = nme(predictions), nme(parent())
        return drift(predictions, parent(), spec) | {
            "nme": own,
            "nme_parent": theirs,
            "change": nme_change(theirs, own),
        }

    found: Facts = {}
    for name, row in ROWS.items():
        if need := why_not(row, name):
            log.warning("%s: not measured, because %s is not installed", name, need)
            continue
        for precision in row.precisions:
            key = {
                **{"model": sha256(model), "data": data.fingerprint(), "calibration": calibration.fingerprint()},
                **{"runtime": name, "precision": precision, "version": importlib.metadata.version(row.package)},
            }
            place = folder / "figures" / f"{of}.{name}.{precision}.json".replace(" ", "_").replace(",", "")
            place.parent.mkdir(exist_ok=True)
            found.setdefault(name, {})[precision] = kept(place, key, partial(measured, name, row, precision))
    return found


def chosen(data: Dataset, count: int) -> Dataset:
    """At most `count` objects of a data set, drawn at random."""
    if len(data) <= count:
        return data
    return data.subset(np.sort(np.random.default_rng(SEED).choice(len(data), count, replace=False)))


def measure(choices: argparse.Namespace) -> Facts:
    """The figures of all sets."""
    choices.out.mkdir(parents=True, exist_ok=True)
    sets: Facts = {}
    for model, calibration, labels in choices.model:
        whole = read_dataset(labels)
        data, spec = chosen(whole, choices.objects), read_spec(Path(model))
        name = Path(labels).resolve().parent.name
        if name in sets:
            raise ValueError(f"--model: two sets lie in folders called {name!r}; give each folder a name of its own")
        sets[name] = {
            **{"count": len(data), "of": len(whole), "keypoints": len(spec.skeleton)},
            **{"network": spec.network, "labels": Path(labels).name},
            "rows": figures_of(name, Path(model), read_dataset(calibration), data, choices.out),
        }
    rows = {name for facts in sets.values() for name in facts["rows"]}
    packages = {row.package: importlib.metadata.version(row.package) for name, row in ROWS.items() if name in rows}
    facts = machine(1)
    return facts | {"versions": facts["versions"] | packages, "seed": SEED, "sets": sets}


def cell(found: Facts, precisions: tuple[str, ...]) -> str:
    """The figures of a runtime on a set: p95 in fp32, p95 in int8, change of the NME in int8."""
    parts = []
    for precision in PRECISIONS:
        if precision not in precisions:
            parts.append("-")
        elif precision not in found:
            parts.append("not measured")
        elif "refused" in found[precision]:
            parts.append("refused")
        elif precision == "fp32":
            parts.append(f"{found[precision]['p95']:.5f}")
        else:
            parts.append(f"{found[precision]['p95']:.3f}, {100 * found[precision]['change']:+.1f} %")
    return " / ".join(parts)


def text(facts: Facts | None) -> str:
    """The part of the page."""
    if facts is None:
        return not_yet("targets")
    sets: Facts = facts["sets"]
    rows = [
        [name, *(cell(found["rows"].get(name, {}), row.precisions) for found in sets.values())]
        for name, row in ROWS.items()
    ]
    refused = {
        f"{name} in {precision} ({of}): {held['refused']}"
        for of, found in sets.items()
        for name, by in found["rows"].items()
        for precision, held in by.items()
        if "refused" in held
    }
    measured_on = [
        f"{name}: {found['count']} of {found['of']} objects of `{found['labels']}`, {found['keypoints']} keypoints, "
        f"{found['network']}"
        for name, found in sets.items()
    ]
    packages = {name: facts["versions"][name] for name in dict.fromkeys(row.package for row in ROWS.values())}
    lines = [
        table(("runtime", *sets), rows),
        paragraph(
            "Each cell has the p95 drift of the fp32 file in px of the input, then that of the int8 file and the",
            'change of its NME. "-" stands where the runtime does not take the file.',
            f"{'; '.join(measured_on)}. Objects were drawn with seed {facts['seed']}.",
            f"{facts['machine']}; {listing(f'{name} {version}' for name, version in packages.items())}.",
        ),
        *(paragraph(f"Refused: {line}.") for line in sorted(refused)),
    ]
    return "\n\n".join(lines)


SECTION = Section("targets", text, None, PAGE)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = options(__doc__, rounds=None, size=None)
    add = parser.add_argument
    add(
        "--model", nargs=3, action="append", metavar=("MODEL", "CALIBRATION", "LABELS"), help="a data set and its model"
    )
    add("--objects", type=int, default=OBJECTS, help=f"objects that are measured of each set (default {OBJECTS})")
    add("--out", type=Path, help="folder of exports and figures; what is there already is not made again")
    add("--publish", action="store_true", help="write into docs/ what else goes to OUT/docs")
    add("--page", action="store_true", help=f"only make the part of docs/{PAGE} again, from the figures in docs/")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Measure and publish, as the flags say."""
    choices = parser().parse_args(arguments)
    if choices.page:
        write_part(SECTION, DOCS)
        return
    if not choices.model or choices.out is None:
        raise ValueError("--model, --out: expected at least one set, and a folder for exports and figures")
    facts = measure(choices)
    publish(SECTION, facts, DOCS if choices.publish else choices.out / "docs")
    keep(choices.json, facts)


if __name__ == "__main__":
    told(main)
