"""How the time of a training step depends on input size, keypoints, backbone, batch, threads and processes.

Run `python benchmarks/growth.py --help`; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from rounds import Facts, Row, alone, each_round, interleaved, machine, options, paragraph, table, tell
from step import Step, training_step

from keylite.training.recipe import Recipe

TITLE = "What a training step grows with"


class Shape(NamedTuple):
    """What a row differs in. batch, threads: of each process."""

    size: int = 128
    keypoints: int = 17
    backbone: str = "lite0"
    batch: int = 16
    threads: int = 1
    processes: int = 1


BASE = "lite0, 128 px, 17 keypoints, batch 16, 1 thread"
ROWS = {
    BASE: Shape(),
    **{f"{size} px": Shape(size=size) for size in (96, 160, 192, 224, 256)},
    "68 keypoints": Shape(keypoints=68),
    "133 keypoints": Shape(keypoints=133),
    "lite2": Shape(backbone="lite2"),
    "lite4": Shape(backbone="lite4"),
    "batch 32": Shape(batch=32),
    "2 threads": Shape(threads=2),
    "2 processes of 1 thread, batch 8 each": Shape(batch=8, processes=2),
}


def heatmap_step(shape: Shape, rank: int, meeting: str) -> Step:
    """A step as in training, not compiled; of several processes with gradients averaged over all.

    meeting: a file that does not exist yet, by which processes find each other.
    """
    recipe = Recipe(size=shape.size, backbone=shape.backbone, batch=shape.batch)
    if shape.processes == 1:
        return training_step(recipe, shape.keypoints)
    torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=shape.processes)
    return training_step(recipe, shape.keypoints, wrapped=torch.nn.parallel.DistributedDataParallel)


def parser() -> argparse.ArgumentParser:
    found = options(__doc__, size=None)
    found.add_argument("--steps", type=int, default=2, help="steps per round (default 2)")
    found.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), help="these rows and the first one (default all)"
    )
    return found


def measure(choices: argparse.Namespace) -> Facts:
    """Milliseconds an image of each row, and how many times as long as in the first row."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, started(Shape(), Path(folder) / "base") as base:
        for number, name in enumerate(dict.fromkeys((BASE, *choices.rows))):
            shape = ROWS[name]
            with contextlib.ExitStack() as stack:  # one row at a time beside the first: all together fill the memory
                own = base if name == BASE else stack.enter_context(started(shape, Path(folder) / str(number)))
                seconds = interleaved({BASE: base, name: own}, choices.steps, choices.rounds)
            each = [value / (shape.batch * shape.processes) for value in seconds[name]]
            ratios = [mine / (other / ROWS[BASE].batch) for mine, other in zip(each, seconds[BASE], strict=True)]
            found[name] = {"ms": 1e3 * statistics.median(each) / choices.steps, "ratio": statistics.median(ratios)}
            found[name]["ratio_of_each_round"] = ratios
    return machine(1) | {"rounds": choices.rounds, "steps": choices.steps, "rows": found}


@contextlib.contextmanager
def started(shape: Shape, meeting: Path) -> Iterator[Row]:
    """A row whose processes run: its seconds are those of the slowest."""
    with contextlib.ExitStack() as stack:
        ranks = [
            stack.enter_context(alone(heatmap_step, shape, rank, str(meeting), threads=shape.threads))
            for rank in range(shape.processes)
        ]
        together = stack.enter_context(ThreadPoolExecutor(shape.processes))
        yield lambda number: max(together.map(lambda row: row(number), ranks))


def section(facts: Facts) -> str:
    """The part of the page."""
    text = paragraph(
        "A step is forward, loss, backward and optimizer of a network with the heatmap head, not compiled. Each row",
        "differs from the first one in what it names, and takes turns with it alone. Milliseconds are medians of",
        f"{facts['rounds']} rounds of {facts['steps']} steps. The ratio says how many times as long as the first row",
        "a row takes.",
    )
    cells = [(name, f"{row['ms']:.1f}", f"{row['ratio']:.2f}", each_round(row)) for name, row in facts["rows"].items()]
    return f"{text}\n\n{table(('row', 'ms per image', 'times as long', 'of each round'), cells)}"


if __name__ == "__main__":
    tell(sys.modules[__name__], None)
