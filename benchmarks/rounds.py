"""What benchmarks share: rows that take turns, ratios within a round, tables, flags. Imports no framework.

Each speed script has TITLE, `parser()`, `measure(choices)` -> facts that JSON holds, and `section(facts)` -> markdown
of nothing but those facts; bench.py puts the sections of all into one page.
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
from typing import Any

import cv2
import numpy as np

from keylite.evaluation.environment import processor, versions
from keylite.runtime.machine import cores

Facts = dict[str, Any]
Row = Callable[[int], object]


# ---- measuring


def interleaved(rows: dict[str, Row], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each row in each round, after one round that warms up.

    A round makes every row's steps 0..steps-1, rows in turn at each step: other work on the machine meets all rows. A
    row is called with a number that goes on rising from round to round; one that gives a float has taken its own time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(rounds + 1):
        spent = dict.fromkeys(rows, 0.0)
        for step in range(steps):
            for name, row in rows.items():
                start = time.perf_counter()
                given = row(turn * steps + step)
                spent[name] += given if isinstance(given, float) else time.perf_counter() - start
        if turn:
            for name, value in spent.items():
                seconds[name].append(value)
    return seconds


@contextlib.contextmanager
def alone(make: Callable[..., Row], *given: object, threads: int = 1) -> Iterator[Row]:
    """The row that `make(*given)` is, in a process of its own: what it does to memory and caches meets no other row."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (make, given, threads)) as process:
        yield lambda number: process.submit(_take, number).result()


row_of_this_process: Row  # where it is one of `alone`


def _begin(make: Callable[..., Row], given: tuple[object, ...], threads: int) -> None:
    """What a row's process does first."""
    import torch

    global row_of_this_process
    use_threads(threads)
    torch.manual_seed(0)
    for name in ("timm", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    row_of_this_process = make(*given)


def _take(number: int) -> float:
    """Seconds of a step in a row's process."""
    start = time.perf_counter()
    row_of_this_process(number)
    return time.perf_counter() - start


def figures(seconds: dict[str, list[float]], images: int, base: str) -> dict[str, Facts]:
    """Each row's images a second (median of rounds), and how many times as fast as `base` it was in each round."""
    found = {}
    for name, values in seconds.items():
        ratios = [slow / own for slow, own in zip(seconds[base], values, strict=True)]
        rate = images / statistics.median(values)
        found[name] = {"images_per_second": rate, "ratio": statistics.median(ratios), "ratio_of_each_round": ratios}
    return found


def machine(threads: int) -> Facts:
    """What a figure depends on: processor, cores, threads, versions."""
    packages = versions()
    for name in ("torchvision", "pillow"):
        packages[name] = importlib.metadata.version(name)
    return {"machine": processor(), "cores": cores(), "threads": threads, "versions": packages}


def use_threads(threads: int) -> None:
    """Hold OpenCV and torch to so many threads."""
    import torch

    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)


# ---- what is measured


def photo(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 3) colours and grain that a JPEG needs about as many bytes for as for a photo."""
    coarse = generator.integers(0, 256, (height // 16, width // 16, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + generator.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


# ---- telling


def machine_line(facts: Facts) -> str:
    """The machine and the versions that figures depend on."""
    packages = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    return f"{facts['machine']}, {facts['cores']} cores; {packages}."


def paragraph(*sentences: str) -> str:
    """Sentences in lines of the page's length."""
    return textwrap.fill(" ".join(sentences), 132, break_long_words=False, break_on_hyphens=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def each_round(row: Facts) -> str:
    """A row's ratio in each round."""
    return " ".join(f"{ratio:.2f}" for ratio in row["ratio_of_each_round"])


def speeds(rows: dict[str, Facts]) -> str:
    """The table of what `figures` gives: how many times as fast as the first row each is."""
    cells = [
        (name, f"{row['images_per_second']:.0f}", f"{row['ratio']:.2f}", each_round(row)) for name, row in rows.items()
    ]
    return table(("row", "images/s", "ratio", "ratio of each round"), cells)


# ---- the command line


def options(description: str | None, *, rounds: int | None = 7, size: int | None = 128) -> argparse.ArgumentParser:
    """The flags that benchmarks share, with these defaults; one that is None is left out."""
    parser = argparse.ArgumentParser(description=description)
    if rounds:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help=f"5 or more for a figure to quote (default {rounds})"
        )
    if size:
        parser.add_argument("--size", type=int, default=size, help=f"px of the input (default {size})")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    return parser


def keep(path: Path | None, facts: Facts) -> None:
    """Write the figures as JSON, where that was asked for."""
    if path:
        path.write_text(json.dumps(facts, indent=2) + "\n")


def tell(script: ModuleType | Any, arguments: list[str] | None) -> None:
    """Measure as the flags of a speed script say, print machine, load and its section, and keep its figures."""
    choices = script.parser().parse_args(arguments)
    facts = json.loads(json.dumps(script.measure(choices)))  # keys as they are read back
    keep(choices.json, facts)
    print(f"## {script.TITLE}\n\n{paragraph(machine_line(facts))}\n\n{script.section(facts)}\n")
