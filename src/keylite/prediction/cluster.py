"""Points of millions of images on a Ray cluster: starts workers, gives them shards, and replaces those that die.

Ray carries the paths of images, never images. It is imported when work begins. The workers are in shards.py.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from keylite.prediction.shards import (
    FORMATS,
    MANIFEST,
    Asked,
    Bad,
    Job,
    Worker,
    left_out,
    manifest_of,
    require_same,
    shard_path,
    tries_path,
)
from keylite.runtime.boxes import as_boxes
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import require_writable, write_bytes
from keylite.runtime.images import MAX_MEGAPIXELS
from keylite.runtime.kinds import (
    path_of,
    path_or_none,
    require_calls,
    require_choice,
    require_flags,
    require_kind,
    require_whole,
)
from keylite.runtime.packages import require
from keylite.runtime.predictor import Predictor
from keylite.runtime.types import FilePath
from keylite.runtime.words import listed

log = logging.getLogger("keylite")

SHARD = 1000  # images per shard: seconds to minutes of work, which are lost if the worker dies
TRIES = 4  # per shard: without a limit, an image that kills its worker would be tried for ever
ANSWER = 10  # seconds that a cluster has to answer
ROOM = 600  # seconds to wait until the cluster has cores for a worker: other work may use them


class Summary(NamedTuple):
    """The result of a prediction on a cluster.

    images: how many were predicted. shards: all of them. before: the shards that existed before this call. bad: the
    images that were left out.
    """

    images: int
    shards: int
    before: int
    bad: list[Bad]


def predict_on_ray(
    model: FilePath,
    images: Sequence[FilePath],
    out: FilePath,
    *,
    address: str = "local",
    boxes: dict[Path, np.ndarray] | None = None,
    format: str = "jsonl",
    shard: int = SHARD,
    workers: int | None = None,
    threads: int = 1,
    engine: str | None = None,
    spec: FilePath | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    skip_bad: bool = False,
    on_shard: Callable[[int, int], None] | None = None,
) -> Summary:
    """Predict many images on a Ray cluster, into files with the points of `shard` images each.

    The folder also gets `manifest.json`, which says what the points were made from. If a call is stopped, the same call
    continues: shards that exist are kept.

    Args:
        model: The model file. All machines must see it, the images and `out` under the same paths.
        images: The paths of the images.
        out: The folder to write to: new, empty, or with shards of the same prediction.
        address: "local": a cluster on this machine; "auto": the one that runs here; or "HOST:PORT". If a connection of
            Ray is open already, it is used.
        boxes: Per image its boxes, (N, 4) xyxy px. None: each whole image is one object.
        format: "jsonl" (JSON Lines) or "parquet".
        shard: Images per file.
        workers: Processes that predict. None: as many as the cluster has cores for.
        threads: Cores and threads of each worker.
        engine: What runs the file; see `Predictor`. None: the usual engine of this kind of file.
        spec: A JSON description for a model file that holds none. None: the model file holds it.
        max_megapixels: The largest image to decode, in millions of pixels.
        skip_bad: True: images that cannot be used are left out and listed in the folder `bad`. False: their shards are
            not written; when all others are, an error names these images.
        on_shard: Called with (shards done, shards in all) after each shard.

    Returns:
        How many images and shards there are, how many shards existed before, and the images that were left out.

    Raises:
        ArgumentError: `out` holds other points, an image cannot be used, or an argument has a wrong value.
        ConnectionError: The cluster does not answer, or has no cores for a worker for ten minutes.
        ModuleNotFoundError: Ray is not installed; the message says how to install it.
    """
    require_choice("format", format, FORMATS)
    require_flags(skip_bad=skip_bad)
    require_calls(on_shard=on_shard)
    require_kind("address", address, str, "a text", "such as 'local' or 'HOST:PORT'")
    for name, value in {"shard": shard, "workers": workers, "threads": threads}.items():
        if value is not None:
            require_whole(name, value)
    asked = _asked(images, boxes)
    model, out, spec = path_of("model", model), path_of("out", out), path_or_none("spec", spec)
    predictor = Predictor(model, engine=engine, threads=threads, max_megapixels=max_megapixels, spec=spec)
    manifest = manifest_of(predictor, asked, format, shard)
    job = Job(
        model=os.path.abspath(model),
        sha256=manifest.sha256,
        engine=manifest.engine,
        spec=os.path.abspath(spec) if spec else None,
        threads=threads,
        max_megapixels=max_megapixels,
        folder=os.getcwd(),
        out=os.path.abspath(out),
        format=format,
        skip_bad=skip_bad,
        tries=TRIES,
    )
    require_same(out, manifest)
    _require_none_left_out(out, skip_bad)
    rows = _missing(job, asked, shard)
    shards = -(-len(asked) // shard)
    before = shards - len(rows)

    def tell(done: int) -> None:
        if on_shard is not None:
            on_shard(before + done, shards)

    bad: list[Bad] = []
    if rows:
        ray = _ray()
        require_writable(out)
        with _connected(ray, address, workers * threads if workers else None):
            write_bytes(out / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
            bad = _predict_rows(ray, job, rows, workers, tell)
    _require_usable(bad, len(asked), skip_bad)
    for path in out.glob(".part-*"):  # unfinished files of killed workers
        path.unlink(missing_ok=True)
    bad = left_out(out)
    return Summary(len(asked) - len(bad), shards, before, bad)


def _asked(images: Sequence[FilePath], boxes: dict[Path, np.ndarray] | None) -> Asked:
    """The images with their boxes. ArgumentError if there are none, or one of them has no entry in `boxes`."""
    require_kind("boxes", boxes, (dict, type(None)), "a dictionary of boxes by image", "or leave it out")
    require_kind("images", images, (list, tuple), "a list of paths", "give them as [image]")
    if not images:
        raise ArgumentError("images: expected at least one, got none")
    paths = [path_of("images", image) for image in images]
    return [(str(path), _boxes_of(path, boxes) if boxes else None) for path in paths]


def _missing(job: Job, asked: Asked, shard: int) -> list[dict[str, Any]]:
    """A row for `Worker.predict` for each shard that is not there. shard: images per shard."""
    return [
        {"shard": number, "asked": msgspec.json.encode(asked[start : start + shard])}
        for number, start in enumerate(range(0, len(asked), shard))
        if not shard_path(job, number).exists()
    ]


def _require_none_left_out(out: Path, skip_bad: bool) -> None:
    """Raise ArgumentError if an earlier call left out images, and this one may not."""
    if not skip_bad and (count := len(left_out(out))):
        raise ArgumentError(
            f"{out}: {count} images were left out of its shards; pass `skip_bad=True`, or choose another `out`"
        )


def _predict_rows(
    ray: Any, job: Job, rows: list[dict[str, Any]], workers: int | None, tell: Callable[[int], object]
) -> list[Bad]:
    """Predict these shards, and return the images that cannot be used. ArgumentError if a worker failed.

    rows: see `Worker.predict`. tell: is called after each shard, with the number of these shards that are done.
    """
    for row in rows:
        tries_path(shard_path(job, row["shard"])).unlink(missing_ok=True)  # of an earlier call
    bad: list[Bad] = []
    with contextlib.closing(_worked(ray, job, rows, workers)) as results:
        for done, result in enumerate(results, start=1):
            if result["failed"]:
                raise ArgumentError(f"{result['failed']}; finished shards stay: the same command continues from there")
            bad += msgspec.json.decode(result["bad"], type=list[Bad])
            tell(done)
    return bad


def _require_usable(bad: list[Bad], count: int, skip_bad: bool) -> None:
    """Raise ArgumentError, which names them, if some of `count` images cannot be used and may not be left out."""
    if bad and not skip_bad:
        line = listed(f"{len(bad)} of {count} images cannot be used", [one.error for one in bad])
        raise ArgumentError(f"{line}; mend them, or pass `skip_bad=True` to leave them out: the same command continues")


def _boxes_of(image: Path, boxes: dict[Path, np.ndarray]) -> list[Any]:
    """The boxes of an image as lists. Raises ArgumentError if there is no entry for it."""
    if image not in boxes:
        raise ArgumentError(f"boxes: expected an entry for every image, got none for {image}; it may be an empty list")
    return as_boxes(boxes[image]).tolist()


def _ray() -> Any:
    """The package Ray; ModuleNotFoundError says what to install."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise it reports its use to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ code writes to standard error
    return require("ray", "ray")


@contextlib.contextmanager
def _connected(ray: Any, address: str, cores: int | None) -> Iterator[None]:
    """A connection to a cluster. It is closed in the end, unless it was open before.

    cores: of a cluster on this machine. None: all of them.
    """
    if ray.is_initialized():
        yield
        return
    local = {"num_cpus": cores, "include_dashboard": False} if address == "local" else {}
    try:
        host, colon, port = address.rpartition("//")[2].rpartition(":")
        if colon:
            socket.create_connection((host, int(port)), ANSWER).close()  # Ray itself would try for minutes
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # its own exceptions share no public base class
        raise ConnectionError(f"ray: cannot connect to {address}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _room(ray: Any, threads: int) -> int:
    """How many workers of so many cores fit on the machines of the cluster."""
    machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return sum(int(cores) // threads for cores in machines)


def _still_lost(room: Callable[[], int], lost: float | None, threads: int) -> float | None:
    """The time since which no worker fits on the cluster. None: some do. ConnectionError after ROOM seconds.

    room: counts the workers that fit. lost: the result of the call before.
    """
    workers, now = 0, time.monotonic()
    with contextlib.suppress(Exception):  # Ray has exceptions of its own for a cluster that does not answer
        workers = room()
    if workers:
        return None
    if lost is None:
        log.warning("ray: no machine of the cluster has %d cores now; waiting for one", threads)
        return now
    if now - lost > ROOM:
        raise ConnectionError(
            f"ray: no machine of the cluster has had {threads} cores for {ROOM} s; finished shards stay: the same "
            "command continues from there"
        )
    return lost


def _worked(
    ray: Any, job: Job, rows: list[dict[str, Any]], workers: int | None
) -> Generator[dict[str, Any], None, None]:
    """The results of `Worker.predict` for all rows, in the order in which they finish.

    If a worker dies, it is replaced, and its row starts again. When this generator is closed, no thread may still ask
    Ray for anything: Ray ends a process that closes its connection during a request. Raises ConnectionError if no
    worker has fitted on the cluster for ROOM seconds.
    """
    room = _room(ray, job.threads)
    if room < 1:
        raise ArgumentError(
            f"threads: expected at most the number of cores of one machine of the cluster, got {job.threads}"
        )
    kind = ray.remote(Worker).options(num_cpus=job.threads)
    waiting, open_rows = collections.deque(rows), len(rows)
    working: dict[Any, tuple[Any, dict[str, Any] | None]] = {}  # by Ray's promise: a worker, and the row that it has
    lost, unborn = None, 0  # the time since which no worker fits; workers in a row that died before they began

    def begin() -> None:
        worker = kind.remote(job)
        working[worker.__ray_ready__.remote()] = worker, None  # it gets a row once it has cores

    try:
        for _ in range(min(workers or room, room, len(rows))):
            begin()
        while open_rows:
            done, _ = ray.wait(list(working), timeout=ANSWER)
            if not done:
                lost = _still_lost(lambda: _room(ray, job.threads), lost, job.threads)
                continue
            lost = None
            worker, row = working.pop(done[0])
            try:
                result = ray.get(done[0])
            except ray.exceptions.RayActorError:
                unborn = 0 if row else unborn + 1
                if unborn == job.tries:
                    raise
                if row:
                    waiting.appendleft(row)
                begin()
                continue
            unborn = 0
            if waiting:
                next_row = waiting.popleft()
                working[worker.predict.remote(next_row)] = worker, next_row
            else:
                ray.kill(worker)  # frees its cores for workers that wait for some
            if row:
                open_rows -= 1
                yield result
    except ray.exceptions.RayTaskError:
        raise  # a fault of keylite: Ray's whole report is useful
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ChildProcessError(f"ray: {lines[-1] if lines else type(error).__name__}") from error
    finally:
        for worker, _ in working.values():
            with contextlib.suppress(Exception):  # Ray has exceptions of its own for a cluster that is gone
                ray.kill(worker)
