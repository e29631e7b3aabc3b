"""Points of millions of images on a Ray cluster, by workers that open the model file once (shards.py).

Images never pass through Ray, paths do. Knows nothing of the command line; Ray is imported when work begins.
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
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import require_writable, write_bytes
from keylite.runtime.images import MAX_MEGAPIXELS
from keylite.runtime.kinds import require_whole
from keylite.runtime.packages import require
from keylite.runtime.predictor import Predictor
from keylite.runtime.types import FilePath
from keylite.runtime.words import listed, quoted

log = logging.getLogger("keylite")

SHARD = 1000  # images: some seconds to some minutes of a worker's time, which is what its death costs
TRIES = 4  # of a shard before it is given up: Ray itself would go on for ever with an image that kills its reader
ANSWER = 10  # seconds in which a cluster has to
ROOM = 600  # seconds in which it has to have cores for a first worker: other work may hold them


class Summary(NamedTuple):
    """What there is in the end. images: found in. before: shards that were there already. bad: images left out."""

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
    """Predict images on a Ray cluster into `out`: files of `shard` images each, and MANIFEST, which says of what.

    Shards that are there are kept. address: local (a cluster on this machine), auto (the one that runs here) or
    HOST:PORT; a connection that is open already is used as it is. boxes: (N, 4) xyxy px by image; without them each
    whole image is one object. workers: None takes as many as the cluster has room for, each with `threads` cores.
    on_shard: called with (shards done, shards).
    Images that cannot be read are left out with `skip_bad` and listed in BAD; else their shards are not written, and
    when all others are, ValueError names them. Raises ValueError before anything is written where `out` has the points
    of something else, and ModuleNotFoundError without Ray.
    """
    if format not in FORMATS:
        raise ArgumentError(f"format: expected {' or '.join(FORMATS)}, got {quoted(format)}")
    for name, value in {"shard": shard, "workers": workers, "threads": threads}.items():
        if value is not None:
            require_whole(name, value)
    if not images:
        raise ArgumentError("images: expected at least one, got none")
    predictor = Predictor(model, engine=engine, threads=threads, max_megapixels=max_megapixels, spec=spec)
    out = Path(out)
    asked: Asked = [(str(path), boxes[Path(path)].tolist() if boxes else None) for path in images]
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
    shards = range(-(-len(asked) // shard))
    missing = [number for number in shards if not shard_path(job, number).exists()]
    before = len(shards) - len(missing)
    if not skip_bad and (count := len(left_out(out))):
        raise ArgumentError(
            f"{out}: {count} images were left out of its shards; pass `skip_bad=True`, or choose another `out`"
        )
    bad: list[Bad] = []
    if missing:
        ray = _ray()
        require_writable(out)
        rows = [
            {"shard": number, "asked": msgspec.json.encode(asked[number * shard : (number + 1) * shard])}
            for number in missing
        ]
        with _connected(ray, address, workers * threads if workers else None):
            write_bytes(out / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
            for number in missing:
                tries_path(shard_path(job, number)).unlink(missing_ok=True)  # of another time
            with contextlib.closing(_worked(ray, job, rows, workers)) as results:
                for done, row in enumerate(results, start=before + 1):
                    if row["failed"]:
                        raise ArgumentError(
                            f"{row['failed']}; shards that are done stay: the same command goes on from there"
                        )
                    bad += msgspec.json.decode(row["bad"], type=list[Bad])
                    if on_shard is not None:
                        on_shard(done, len(shards))
    if bad and not skip_bad:
        line = listed(f"{len(bad)} of {len(asked)} images cannot be used", [one.error for one in bad])
        raise ArgumentError(f"{line}; mend them, or pass `skip_bad=True` to leave them out: the same command goes on")
    for path in out.glob(".part-*"):  # what killed workers left
        path.unlink(missing_ok=True)
    bad = left_out(out)
    return Summary(len(asked) - len(bad), len(shards), before, bad)


def _ray() -> Any:
    """The package; ModuleNotFoundError says what to install."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ writes to our standard error
    return require("ray", "ray")


@contextlib.contextmanager
def _connected(ray: Any, address: str, cores: int | None) -> Iterator[None]:
    """A connection to a cluster, closed in the end where it is ours. cores: of a local one; None: the machine's."""
    if ray.is_initialized():
        yield
        return
    local = {"num_cpus": cores, "include_dashboard": False} if address == "local" else {}
    try:
        host, colon, port = address.rpartition("//")[2].rpartition(":")
        if colon:
            socket.create_connection((host, int(port)), ANSWER).close()  # Ray goes on knocking for minutes
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # its own exceptions share no public base class
        raise ConnectionError(f"ray: cannot connect to {address}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _room(ray: Any, threads: int) -> int:
    """How many workers of so many cores the machines of the cluster hold."""
    machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return sum(int(cores) // threads for cores in machines)


def _still_lost(room: Callable[[], int], lost: float | None, threads: int) -> float | None:
    """Since when there is room for no worker, None where there is some; ConnectionError after ROOM seconds."""
    found, now = 0, time.monotonic()
    with contextlib.suppress(Exception):  # of a cluster that does not answer, in kinds of its own
        found = room()
    if found:
        return None
    if lost is None:
        log.warning("ray: no machine of the cluster has %d cores now; waiting for one", threads)
        return now
    if now - lost > ROOM:
        raise ConnectionError(
            f"ray: no machine of the cluster has had {threads} cores for {ROOM} s; shards that are done stay: the same "
            "command goes on from there"
        )
    return lost


def _worked(
    ray: Any, job: Job, rows: list[dict[str, Any]], workers: int | None
) -> Generator[dict[str, Any], None, None]:
    """What `Worker` gives for each row, as they get done; a worker that dies is replaced, and its row begun again.

    No thread of ours or of Ray's may ask for anything once this is left: Ray ends the process that closes its
    connection meanwhile. ConnectionError once there was room for no worker for ROOM seconds.
    """
    room = _room(ray, job.threads)
    if room < 1:
        raise ArgumentError(
            f"threads: expected at most as many as a machine of the cluster has cores, got {job.threads}"
        )
    kind = ray.remote(Worker).options(num_cpus=job.threads)
    left, open_rows = collections.deque(rows), len(rows)
    working: dict[Any, tuple[Any, dict[str, Any] | None]] = {}  # by what is waited for: that a worker began, or a row
    lost, unborn = None, 0  # since when; workers that died before they began, one after the other

    def begin() -> None:
        worker = kind.remote(job)
        working[worker.__ray_ready__.remote()] = worker, None  # until it has cores, no row waits for it

    try:
        for _ in range(min(workers or room, room, len(rows))):
            begin()
        while open_rows:
            given, _ = ray.wait(list(working), timeout=ANSWER)
            if not given:
                lost = _still_lost(lambda: _room(ray, job.threads), lost, job.threads)
                continue
            lost = None
            worker, row = working.pop(given[0])
            try:
                found = ray.get(given[0])
            except ray.exceptions.RayActorError:
                unborn = 0 if row else unborn + 1
                if unborn == job.tries:
                    raise
                if row:
                    left.appendleft(row)
                begin()
                continue
            unborn = 0
            if left:
                next_row = left.popleft()
                working[worker.predict.remote(next_row)] = worker, next_row
            else:
                ray.kill(worker)  # its cores are for one that waits for some
            if row:
                open_rows -= 1
                yield found
    except ray.exceptions.RayTaskError:
        raise  # a fault of ours: all that Ray tells of it is wanted
    except ray.exceptions.RayError as error:
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ChildProcessError(f"ray: {told[-1] if told else type(error).__name__}") from error
    finally:
        for worker, _ in working.values():
            with contextlib.suppress(Exception):  # of a cluster that is gone, in kinds of its own
                ray.kill(worker)
