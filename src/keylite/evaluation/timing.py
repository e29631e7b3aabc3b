"""How long a model file takes for an image, stage by stage, and how much memory it needs."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from keylite.evaluation.environment import peak_memory, processor, versions
from keylite.runtime.errors import ArgumentError
from keylite.runtime.geometry import decode_for
from keylite.runtime.images import open_image
from keylite.runtime.kinds import path_of, path_or_none, require_kind, require_whole
from keylite.runtime.predictor import Predictor
from keylite.runtime.progress import step
from keylite.runtime.results import Result
from keylite.runtime.tables import Table, as_html, as_text
from keylite.runtime.types import FilePath
from keylite.runtime.words import counted, escaped, quoted

STAGES = ("read", "crop", "engine", "decode")


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds of all runs: the median, and the 10th and the 90th percentile."""

    median: float
    p10: float
    p90: float


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memory of a process, 10^6 bytes: `before` it opened a model file, and its `peak` while it ran the file."""

    before: float
    peak: float


class FileTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The time and memory of one model file.

    engine: the name of the program that ran it. size: (width, height) of its input, px. bytes: of the file. memory: of
    a process that runs this file alone. None: the system does not say. An engine of the caller's own has neither bytes
    nor memory (None). ms: the time of each stage (read, crop, engine, decode) and in total.
    """

    engine: str
    size: tuple[int, int]
    bytes: int | None
    memory: Memory | None
    ms: dict[str, Spread]


class Times(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of `benchmark`: where and how the times were taken, and those of each model file.

    `print(times)` shows what `keylite benchmark` prints.

    Attributes:
        machine: The processor.
        threads: Threads of each engine.
        runs: How often each file ran.
        image: The path of the image, or words for the one that was made.
        versions: The versions of the packages.
        models: The times and the memory of each model file, by its path.
    """

    machine: str
    threads: int
    runs: int
    image: str
    versions: dict[str, str]
    models: dict[str, FileTimes]

    def __repr__(self) -> str:
        return f"Times({', '.join(map(escaped, self.models))}: {self.runs} runs on {self.machine})"

    def __str__(self) -> str:
        return as_text([times_table(self)])

    def _repr_html_(self) -> str:
        return as_html([times_table(self)])


def times_table(times: Times, nme: Mapping[str, float] | None = None) -> Table:
    """A row per model file: the median of each stage, p10 to p90 of their total, and memory.

    nme: the NME of each file, by its path, for a column of its own. None: there is no such column.
    """
    rows = [
        [name, facts.engine, "" if facts.bytes is None else f"{facts.bytes / 1e6:.1f}"]
        + [f"{facts.ms[stage].median:.2f}" for stage in STAGES]
        + ["{0.median:.2f} ({0.p10:.2f}..{0.p90:.2f})".format(facts.ms["total"])]
        + [f"{facts.memory.before:.0f} to {facts.memory.peak:.0f}" if facts.memory else ""]
        + ([] if nme is None else [f"{100 * nme[name]:.2f}"])
        for name, facts in times.models.items()
    ]
    title = (
        f"ms per image, median (p10..p90): {counted(times.runs, 'run')}, {counted(times.threads, 'thread')}, "
        f"{times.machine}, {times.image}"
    )
    columns = ["model", "engine", "MB", *STAGES, "total", "memory MB", *([] if nme is None else ["NME %"])]
    return Table(columns, rows, title)


def benchmark(
    models: Sequence[FilePath],
    *,
    threads: int = 1,
    runs: int = 50,
    image: FilePath | None = None,
    engine: str | None = None,
    spec: FilePath | None = None,
    others: Mapping[str, Predictor] | None = None,
) -> Times:
    """Measure how long model files take for an image, stage by stage, and how much memory they need.

    The files take turns, so that a busy moment of the machine hits all of them. Memory is measured in a process of its
    own per file.

    Args:
        models: The model files to compare.
        threads: Threads of each engine, at least 1.
        runs: How often each file runs, at least 3.
        image: The image file to read. None: a JPEG of 640x480 px is made.
        engine: What runs all files; see `Predictor`. None: the usual engine of each.
        spec: A JSON description for model files that hold none. None: they hold theirs.
        others: Engines of your own, such as another runtime, to run beside the files: by name, predictors from
            `Predictor.of`. None: the files alone.

    Returns:
        The machine, the versions of packages, and for each model file its times in milliseconds (median, 10th and 90th
        percentile) and its memory in 10^6 bytes.

    Raises:
        ArgumentError: The list is empty, or a number is out of its range.
        ImageError: The image cannot be used.
        ModelFileError: A file is no model file.
    """
    require_kind("models", models, (list, tuple), "a list of model files", "give them as [model]")
    if not models:
        raise ArgumentError("models: expected at least one model file, got an empty list")
    require_whole("runs", runs, least=3)
    require_whole("threads", threads)
    models, spec = [path_of("models", path) for path in models], path_or_none("spec", spec)
    if image is None:
        noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
        source: Any = cv2.imencode(".jpg", cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC))[1].tobytes()
    else:
        picture = open_image(path_of("image", image))
        picture.pixels()  # raises an error with the file's name before anything is measured
        source = picture.data
    others = _others(others, models)
    predictors = {str(path): Predictor(path, engine=engine, threads=threads, spec=spec) for path in models} | others
    times: dict[str, dict[str, list[float]]] = {name: {stage: [] for stage in STAGES} for name in predictors}
    cv_threads = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        with step("taking times", runs + 3) as done:
            for turn in range(runs + 3):
                for name, predictor in predictors.items():
                    marks = _timed(predictor, source)
                    if turn >= 3:  # the first three warm up
                        for stage, seconds in zip(STAGES, marks, strict=True):
                            times[name][stage].append(1e3 * seconds)
                done(1)
    finally:
        cv2.setNumThreads(cv_threads)
    return Times(
        machine=processor(),
        threads=threads,
        runs=runs,
        image=str(image) if image else "640x480 JPEG, made",
        versions=versions(),
        models={
            name: FileTimes(
                engine=predictor.engine_name,
                size=predictor.spec.size,
                bytes=None if name in others else Path(name).stat().st_size,
                memory=None if name in others else _memory(name, predictor.engine_name, threads, spec, source),
                ms={stage: _spread(values) for stage, values in times[name].items()}
                | {"total": _spread([sum(row) for row in zip(*times[name].values(), strict=True)])},
            )
            for name, predictor in predictors.items()
        },
    )


def _others(others: Mapping[str, Predictor] | None, models: Sequence[Path]) -> dict[str, Predictor]:
    """The engines of the caller. Raises an error if they are no predictors by name, or one is named like a file."""
    require_kind("others", others, (Mapping, type(None)), "predictors by name", "such as {'OpenVINO': predictor}")
    found = dict(others or {})
    for name, predictor in found.items():
        require_kind("others", name, str, "a text for each name", "such as 'OpenVINO'")
        require_kind(f"others: {quoted(name)}", predictor, Predictor, "a predictor", "make one with `Predictor.of`")
        if name in map(str, models):
            raise ArgumentError(f"others: {quoted(name)} is also the name of a model file; choose another name")
    return found


def engine_ratio(model: Path, reference: Path, *, runs: int = 40, engine: str | None = None) -> tuple[float, float]:
    """The median time of a file's engine for one image, ms, and its ratio to that of a reference file.

    engine: what runs the file; see `Predictor`.

    The files take turns. The CPU time of the one thread that runs the engine counts, so other work of the machine does
    not matter. Both files must have the same input size.
    """
    predictors = [Predictor(model, engine=engine, threads=1), Predictor(reference, threads=1)]
    width, height = predictors[0].spec.size
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    seconds: list[list[float]] = [[], []]
    clock = time.perf_counter if os.name == "nt" else time.thread_time  # Windows counts CPU time by 16 ms
    for turn in range(runs + 3):
        for predictor, taken in zip(predictors, seconds, strict=True):
            start = clock()
            predictor.engine(pixels)
            if turn >= 3:  # the first three warm up
                taken.append(clock() - start)
    ours, theirs = (float(np.median(taken)) for taken in seconds)
    return 1e3 * ours, ours / theirs


def _memory(model: str, engine: str, threads: int, spec: FilePath | None, source: bytes) -> Memory | None:
    """The memory of a fresh process before it opens a model file, and at most while it runs it, 10^6 bytes."""
    code = "from keylite.evaluation.timing import tell_memory; tell_memory()"
    arguments = [model, engine, str(threads), *([str(spec)] if spec else [])]
    with step(f"measuring the memory of {model}"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *arguments], input=source, capture_output=True
        )
    if done.returncode < 0:
        raise OSError(
            f"{model}: the process that measures its memory was killed by {signal.Signals(-done.returncode).name}; "
            "if memory ran out, end other programs and try again"
        )
    if done.returncode:
        raise RuntimeError(f"{model}: a process to measure its memory failed: {done.stderr.decode()[-2000:]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Memory | None)


def tell_memory() -> None:
    """What the process of `_memory` runs. Arguments: model file, engine, threads, perhaps a spec. Input: an image."""
    source = sys.stdin.buffer.read()
    start = peak_memory()
    model, engine, threads, *spec = sys.argv[1:]
    predictor = Predictor(model, engine=engine, threads=int(threads), spec=next(iter(spec), None))
    for _ in range(3):
        _timed(predictor, source)
    peak = peak_memory()
    print(json.dumps({"before": start, "peak": peak} if start and peak else None))


def _timed(predictor: Predictor, source: bytes) -> list[float]:
    marks = [time.perf_counter()]
    picture = open_image(source)
    (crop,) = predictor.crops(picture)
    pixels = decode_for(picture, [crop])
    marks.append(time.perf_counter())
    batch = crop.warp(pixels)[None]
    marks.append(time.perf_counter())
    raw = predictor.engine(batch)
    marks.append(time.perf_counter())
    unit_xy, _ = predictor.spec.head.decode(raw)
    crop.from_unit(unit_xy[0])
    marks.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(marks)]


def _spread(values: list[float]) -> Spread:
    p10, p90 = np.percentile(values, (10, 90)).tolist()
    return Spread(float(np.median(values)), p10, p90)
