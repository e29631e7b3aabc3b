"""Shared by the speed benchmarks: rows that take turns, ratios within a round, tables and flags.

Each speed script has TITLE, `parser()`, `measure(choices)`, which returns figures that JSON can hold, and
`section(facts)`, which makes its part of the page from these figures alone. bench.py puts all parts into one page.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import logging
import multiprocessing
import statistics
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import cv2
import numpy as np

from keylite.evaluation.environment import processor, versions
from keylite.runtime.heads import Head
from keylite.runtime.images import WHITE_LEVEL
from keylite.runtime.lite import PIXEL_MEAN, PIXEL_STD
from keylite.runtime.machine import cores
from keylite.runtime.skeleton import Skeleton
from keylite.runtime.spec import FORMAT, DataId, ModelSpec, Provenance

Facts = dict[str, Any]
Row = Callable[[int], object]


# ---- measuring


def interleaved(rows: dict[str, Row], steps: int, rounds: int) -> dict[str, list[float]]:
    """The seconds of each row in each round, after one round that warms up.

    In a round, every row makes `steps` steps, and rows take turns at each step, so that other work on the machine
    slows all of them. A row is called with a number that rises from step to step. If it returns a float, that counts as
    its seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(rounds + 1):
        spent = dict.fromkeys(rows, 0.0)
        for step in range(steps):
            for name, row in rows.items():
                start = time.perf_counter()
                own_seconds = row(turn * steps + step)
                spent[name] += own_seconds if isinstance(own_seconds, float) else time.perf_counter() - start
        if turn:
            for name, value in spent.items():
                seconds[name].append(value)
    return seconds


@contextlib.contextmanager
def alone(make: Callable[..., Row], *given: object, threads: int = 1) -> Iterator[Row]:
    """The row that `make(*given)` makes, in a process of its own, so that it does not change other rows' memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (make, given, threads)) as process:
        yield lambda number: process.submit(_take, number).result()


row_of_this_process: Row  # in a process of `alone`


def _begin(make: Callable[..., Row], given: tuple[object, ...], threads: int) -> None:
    """Make the row of this process."""
    import torch

    global row_of_this_process
    use_threads(threads)
    torch.manual_seed(0)
    for name in ("timm", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    row_of_this_process = make(*given)


def _take(number: int) -> float:
    """The seconds of one step in the row's process."""
    start = time.perf_counter()
    row_of_this_process(number)
    return time.perf_counter() - start


def figures(seconds: dict[str, list[float]], images: int, base: str) -> dict[str, Facts]:
    """Each row's images per second (median of rounds), and how many times as fast as `base` it was in each round."""
    found = {}
    for name, values in seconds.items():
        ratios = [slow / own for slow, own in zip(seconds[base], values, strict=True)]
        rate = images / statistics.median(values)
        found[name] = {"images_per_second": rate, "ratio": statistics.median(ratios), "ratio_of_each_round": ratios}
    return found


def machine(threads: int) -> Facts:
    """The facts that a figure depends on: processor, cores, threads, versions."""
    packages = versions()
    for name in ("torchvision", "pillow"):
        packages[name] = importlib.metadata.version(name)
    return {"machine": processor(), "cores": cores(), "threads": threads, "versions": packages}


def spec_of(
    head: Head, size: tuple[int, int], box: Literal["annotation", "image"] = "image", padding: float = 0.0
) -> ModelSpec:
    """The description of a model of lite0 that was not trained."""
    return ModelSpec(
        format=FORMAT,
        backbone="lite0",
        stages=7,
        size=size,
        box=box,
        padding=padding,
        head=head,
        skeleton=Skeleton(tuple(f"k{number}" for number in range(head.keypoints))),
        category="",
        visibility_0="ignore",
        visibility_1="train",
        normalize="box_diagonal",
        mean=PIXEL_MEAN,
        std=PIXEL_STD,
        white_level=WHITE_LEVEL,
        precision="fp32",
        input_type="uint8",
        output=None,
        weight_scales=None,
        calibration=None,
        provenance=Provenance("0", "", "pytorch", "none", DataId("", ""), {}, {}, None),
        mean_shape=None,
        report=None,
        confidence=None,
        certificate=None,
        unlearnt={},
    )


def use_threads(threads: int) -> None:
    """Let OpenCV and torch use this many threads."""
    import torch

    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)


# ---- what is measured


def photo(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """An image uint8 (height, width, 3) of colours and grain, whose JPEG is about as large as that of a photo."""
    coarse = generator.integers(0, 256, (height // 16, width // 16, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + generator.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


# ---- the page


def machine_line(facts: Facts) -> str:
    """The machine and the versions that figures depend on."""
    packages = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    return f"{facts['machine']}, {facts['cores']} cores; {packages}."


def paragraph(*sentences: str) -> str:
    """The sentences as a paragraph with lines of the page's length."""
    return textwrap.fill(" ".join(sentences), 132, break_long_words=False, break_on_hyphens=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def each_round(row: Facts) -> str:
    """A row's ratio in each round."""
    return " ".join(f"{ratio:.2f}" for ratio in row["ratio_of_each_round"])


def speeds(rows: dict[str, Facts]) -> str:
    """The result of `figures` as a table: images per second, and how many times as fast as the first row each is."""
    cells = [
        (name, f"{row['images_per_second']:.0f}", f"{row['ratio']:.2f}", each_round(row)) for name, row in rows.items()
    ]
    return table(("row", "images/s", "ratio", "ratio of each round"), cells)


# ---- the command line


def options(description: str | None, *, rounds: int | None = 7, size: int | None = 128) -> argparse.ArgumentParser:
    """The flags that benchmarks share, with these defaults. None: without this flag."""
    parser = argparse.ArgumentParser(description=description)
    if rounds:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help=f"rounds; a figure to quote needs 5 or more (default {rounds})"
        )
    if size:
        parser.add_argument("--size", type=int, default=size, help=f"side of the model input, px (default {size})")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def keep(path: Path | None, facts: Facts) -> None:
    """Write the figures as JSON, if there is a path."""
    if path:
        path.write_text(json.dumps(facts, indent=2) + "\n")


def tell(script: ModuleType | Any, arguments: list[str] | None) -> None:
    """Run a speed script with these flags: measure, print the machine and its part of the page, write its figures."""
    choices = script.parser().parse_args(arguments)
    facts = json.loads(json.dumps(script.measure(choices)))  # keys as they are read back
    keep(choices.json, facts)
    print(f"## {script.TITLE}\n\n{paragraph(machine_line(facts))}\n\n{script.section(facts)}\n")
