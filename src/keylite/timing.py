"""How long a model file takes, stage by stage. Knows nothing of accuracy."""

from __future__ import annotations

import itertools
import resource
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from keylite.environment import processor, versions
from keylite.runtime.images import read_image
from keylite.runtime.predictor import Predictor

STAGES = ("read", "crop", "engine", "decode")


def benchmark(
    models: list[Path | str], *, threads: int = 1, runs: int = 50, image: Path | str | None = None
) -> dict[str, Any]:
    """Milliseconds of each stage for each file, the files taking turns: median, p10 and p90 over `runs`.

    image: a file to read; None makes a 640x480 JPEG. Says which machine and how many threads.
    """
    if runs < 3:
        raise ValueError(f"runs: expected at least 3, got {runs}")
    if image is None:
        noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
        source: Any = cv2.imencode(".jpg", cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC))[1].tobytes()
    else:
        source = Path(image).read_bytes()
    predictors = {str(path): Predictor(path, threads=threads) for path in models}
    times: dict[str, dict[str, list[float]]] = {name: {stage: [] for stage in STAGES} for name in predictors}
    cv_threads = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        for turn in range(runs + 3):
            for name, predictor in predictors.items():
                marks = _timed(predictor, source)
                if turn >= 3:  # the first ones warm up
                    for stage, seconds in zip(STAGES, marks, strict=True):
                        times[name][stage].append(1e3 * seconds)
    finally:
        cv2.setNumThreads(cv_threads)
    return {
        "machine": processor(),
        "threads": threads,
        "runs": runs,
        "image": str(image) if image else "640x480 JPEG, made",
        "versions": versions(),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # of the whole process
        "models": {
            name: {
                "engine": predictor.engine_name,
                "size": list(predictor.spec.size),
                "bytes": Path(name).stat().st_size,
                "ms": {stage: _spread(values) for stage, values in times[name].items()}
                | {"total": _spread([sum(row) for row in zip(*times[name].values(), strict=True)])},
            }
            for name, predictor in predictors.items()
        },
    }


def _timed(predictor: Predictor, source: bytes) -> list[float]:
    marks = [time.perf_counter()]
    pixels = read_image(source)
    marks.append(time.perf_counter())
    crop = predictor.crops(pixels)[0]
    batch = crop.warp(pixels)[None]
    marks.append(time.perf_counter())
    raw = predictor.engine(batch)
    marks.append(time.perf_counter())
    unit_xy, _ = predictor.spec.head.decode(raw)
    crop.from_unit(unit_xy[0])
    marks.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(marks)]


def _spread(values: list[float]) -> dict[str, float]:
    p10, p90 = np.percentile(values, (10, 90)).tolist()
    return {"median": float(np.median(values)), "p10": p10, "p90": p90}
