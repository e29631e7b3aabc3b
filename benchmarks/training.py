"""Where the time of a training step goes: `keylite train --profile` on JPEG files, compiled and not compiled.

Run `python benchmarks/training.py --help`; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from pipeline import gauge_files
from rounds import Facts, machine, options, paragraph, table, tell

import keylite
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import read_dataset
from keylite.training.folder import PROFILE

TITLE = "Training"
ROWS = {"not compiled": "off", "compiled": "on"}
HEAD = "heatmap"
VAL = 16  # objects: a profile leaves validation out


def profile(data: Dataset, val: Dataset, recipe: keylite.Recipe) -> Facts:
    """The content of profile.json of a training run."""
    with tempfile.TemporaryDirectory() as out:
        keylite.train(recipe, data, val, out=out, overwrite=True, profile=True)
        return json.loads((Path(out) / PROFILE).read_text())


def parser() -> argparse.ArgumentParser:
    found = options(__doc__, rounds=None)
    found.add_argument("--data", type=Path, help="COCO JSON, one object per image (default: rendered gauges)")
    found.add_argument("--steps", type=int, default=40, help="steps to profile, after the first ones (default 40)")
    found.add_argument("--batch", type=int, default=16, help="objects per step (default 16)")
    found.add_argument("--threads", type=int, default=1, help="threads of the network (default 1)")
    return found


def measure(choices: argparse.Namespace) -> Facts:
    """The profile of each row."""
    count = choices.batch * choices.steps
    with tempfile.TemporaryDirectory() as folder:
        data = read_dataset(choices.data) if choices.data else gauge_files(Path(folder), count + VAL)
        if len(data) < count + VAL:
            raise ValueError(f"{choices.data}: expected {count + VAL} objects or more, got {len(data)}; lower --steps")
        train, val = data.subset(np.arange(count)), data.subset(np.arange(count, count + VAL))
        rows = {}
        for name, compiled in ROWS.items():
            recipe = keylite.Recipe(
                head=HEAD,
                size=choices.size,
                batch=choices.batch,
                threads=choices.threads,
                compile=compiled,
                epochs=1,
                box="image",
                mirror="off",
                pretrained="none",
                device="cpu",
            )
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                rows[name] = process.submit(profile, train, val, recipe).result()
            rows[name]["images_per_second"] = 1e3 * choices.batch / rows[name]["step_ms"]
    facts = {"size": choices.size, "batch": choices.batch, "data": data.name if choices.data else "", "rows": rows}
    return machine(choices.threads) | facts


def section(facts: Facts) -> str:
    """The part of the page."""
    what = facts["data"] or "rendered gauges in JPEG files of 192 px"
    text = paragraph(
        f"`keylite train --profile`: lite0 with the {HEAD} head at {facts['size']} px, batches of {facts['batch']},",
        f"{facts['threads']} thread(s), default augmentation, {what}. The times are from the file to the new weights.",
        "Each row is another run, so compare shares, not milliseconds.",
    )
    names = next(iter(facts["rows"].values()))["shares"]
    cells = [
        (
            *(name, f"{row['images_per_second']:.0f}", f"{row['step_ms']:.0f}"),
            *(f"{row['shares'][part]:.1%}" for part in names),
        )
        for name, row in facts["rows"].items()
    ]
    return f"{text}\n\n{table(('step', 'images/s', 'ms', *names), cells)}"


if __name__ == "__main__":
    tell(sys.modules[__name__], None)
