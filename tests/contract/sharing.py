"""python sharing.py FILE ENGINE FOLDER: one Predictor among threads, forks and pickles; what came of each as JSON.

A process of its own, because a fork of pytest's would inherit the threads of every framework, and so that what waits for
ever can be ended.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from keylite import Predictor

THREADS, TIMES = 8, 12
PICTURES = list(np.random.default_rng(3).integers(0, 256, (THREADS, 70, 90, 3), np.uint8))
CHILD_SECONDS = 100


def far(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    return float(max(np.abs(one - other).max() for one, other in zip(found, wanted, strict=True)))


def in_threads(work: Callable[[int], float], count: int) -> list[float | str]:
    """What `work` gives for 0 to count - 1, each in its thread; an error as its text."""
    results: list[float | str] = ["nothing"] * count

    def one(n: int) -> None:
        try:
            results[n] = work(n)
        except BaseException as error:
            results[n] = repr(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def in_fork(work: Callable[[], float], out: Path) -> float | str:
    """What `work` gives in a fork that ends as a program does, its own and its libraries' last acts included."""
    process = os.fork()
    if not process:
        signal.alarm(CHILD_SECONDS)
        try:
            out.write_text(json.dumps(work()))
        except BaseException as error:
            out.write_text(json.dumps(str(error)))
        sys.exit(0)
    _, status = os.waitpid(process, 0)
    return f"ended by {status}" if status else json.loads(out.read_text())


def points_of(predictor: Predictor) -> list[np.ndarray]:
    return [predictor(picture).xy for picture in PICTURES]


def error_of(action: Callable[[], object]) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def main(path: Path, engine: str, folder: Path) -> None:
    copied = Path(shutil.copy(path, folder))
    predictor = Predictor(copied, engine=engine, threads=2, max_megapixels=7)
    alone = points_of(predictor)
    streamed = [one.points.xy for one in predictor.stream(PICTURES)]
    told: dict[str, object] = {"unlike": float(np.ptp(alone, axis=0).min())}
    told["threads"] = in_threads(
        lambda n: max(far([predictor(PICTURES[n]).xy], [alone[n]]) for _ in range(TIMES)), THREADS
    )
    told["streams"] = in_threads(lambda n: far([one.points.xy for one in predictor.stream(PICTURES)], streamed), 2)
    told["afterwards"] = far(points_of(predictor), alone)
    told["fork"] = in_fork(lambda: far(points_of(predictor), alone), folder / "fork.json")
    told["new in a fork"] = in_fork(
        lambda: far(points_of(Predictor(copied, engine=engine, threads=2)), alone), folder / "new.json"
    )
    told["after forks"] = far(points_of(predictor), alone)

    os.chdir(folder)
    relative = Predictor(copied.name, engine=engine, threads=2, max_megapixels=7, batch=3)
    os.chdir("/")
    pickled = pickle.dumps(relative)
    again = pickle.loads(pickled)
    told["pickle bytes"] = len(pickled)
    told["pickle"] = far(points_of(again), alone)
    told["same"] = [getattr(again, name) for name in ("engine_name", "batch", "max_megapixels")]
    if engine == "onnx":  # the others take as long again to import their framework
        with get_context("spawn").Pool(1) as pool:
            told["spawn"] = far(pool.apply(points_of, (predictor,)), alone)
    told["memory"] = error_of(lambda: pickle.dumps(Predictor.of(predictor.engine, predictor.spec)))
    from keylite.runtime.modelfile import describe, read_spec

    spec = read_spec(copied)
    describe(copied, type(spec)(**{name: getattr(spec, name) for name in spec.__struct_fields__} | {"padding": 0.5}))
    told["changed"] = error_of(lambda: pickle.loads(pickled))
    copied.unlink()
    told["gone"] = error_of(lambda: pickle.loads(pickled))
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
