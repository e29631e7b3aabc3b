"""Time and memory of one network as ONNX fp32, ONNX int8 and LiteRT int8, measured as `keylite benchmark` does.

The network is lite0 with random weights, which is as fast as a trained one.
Run `python benchmarks/inference.py --help`; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from predictor import KEYPOINTS, random_model
from rounds import Facts, each_round, figures, machine, options, paragraph, table, tell, use_threads

from keylite.data.arrays import from_arrays
from keylite.data.rendered.gauges import gauges
from keylite.evaluation.timing import benchmark
from keylite.exporting.calibration import calibration_set
from keylite.exporting.form import Form, exporter
from keylite.runtime.engines import ENGINES
from keylite.runtime.modelfile import read_spec

TITLE = "Inference"
BASE = "onnx fp32"  # every ratio is against this file
INT8 = {"onnx int8": "onnx", "litert int8": "litert"}  # file: format
IMAGES = 16  # images that the int8 ranges are taken from
STAGES = ("read", "crop", "engine", "decode", "total")


def model_files(folder: Path, size: tuple[int, int]) -> dict[str, Path]:
    """The model files of one network, by kind."""
    files = {BASE: random_model(folder, size)}
    parent = files[BASE].with_suffix(".safetensors")
    spec = read_spec(parent)
    made = gauges(IMAGES)
    xy = np.tile(made.xy[:, :1], (1, KEYPOINTS, 1))
    images = calibration_set(spec, from_arrays(made.images, xy, skeleton=spec.skeleton, name="gauges"), IMAGES)
    int8 = msgspec.structs.replace(spec, precision="int8", calibration=images.facts)
    for name, to in INT8.items():
        files[name] = folder / f"int8{ENGINES[to].suffix}"
        exporter(Form(to, "int8")).export(parent, files[name], int8, images)
    return files


def parser() -> argparse.ArgumentParser:
    found = options(__doc__)
    found.add_argument("--runs", type=int, default=50, help="images per round (default 50)")
    found.add_argument("--threads", type=int, default=1, help="threads of the engine (default 1)")
    return found


def measure(choices: argparse.Namespace) -> Facts:
    """The medians over rounds of each stage's median time, and of the memory of a process that runs the file."""
    use_threads(1)
    with tempfile.TemporaryDirectory() as name:
        files = model_files(Path(name), (choices.size, choices.size))
        each = [
            benchmark(list(files.values()), threads=choices.threads, runs=choices.runs) for _ in range(choices.rounds)
        ]
        of = {name: [found.models[str(path)] for found in each] for name, path in files.items()}
    engines = {name: [found.ms["engine"].median / 1000 for found in rounds] for name, rounds in of.items()}
    rows = figures(engines, 1, BASE)
    for name, rounds in of.items():
        ms = {stage: statistics.median(found.ms[stage].median for found in rounds) for stage in STAGES}
        peaks = [found.memory.peak for found in rounds if found.memory]
        rows[name] |= {"bytes": rounds[0].bytes, "ms": ms, "memory": statistics.median(peaks) if peaks else None}
    facts = {"size": choices.size, "rounds": choices.rounds, "runs": choices.runs, "image": each[0].image}
    return machine(choices.threads) | facts | {"rows": rows}


def section(facts: Facts) -> str:
    """The part of the page."""
    rows = []
    for name, row in facts["rows"].items():
        ms = [f"{row['ms'][stage]:.2f}" for stage in STAGES]
        memory = "" if row["memory"] is None else f"{row['memory']:.0f}"
        rows.append([name, f"{row['bytes'] / 1e6:.2f}", *ms, f"{row['ratio']:.2f}", each_round(row), memory])
    text = paragraph(
        f"The network is lite0 with the heatmap head, random weights, {KEYPOINTS} keypoints, {facts['size']} px, on",
        f"{facts['threads']} thread(s). It gets one image at a time ({facts['image']}), and files take turns.",
        f"Milliseconds are medians of {facts['rounds']} rounds of {facts['runs']} images. The ratio is of the engine",
        "alone: how many times as fast as the first row it is. Memory is the most that a process needs to read the",
        "image and run the file.",
    )
    stages = [f"{stage} ms" for stage in STAGES]
    columns = ["file", "MB", *stages, "ratio of engines", "ratio of each round", "memory MB"]
    return f"{text}\n\n{table(columns, rows)}"


if __name__ == "__main__":
    tell(sys.modules[__name__], None)
