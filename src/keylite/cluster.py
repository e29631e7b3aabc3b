"""Points of millions of images on a Ray cluster: shards of them, predicted by workers that open the model file once.

The points of a shard are one file, written beside and renamed by the worker: the files that are there say what is done,
whatever was killed in between. Images never pass through Ray, paths do: every machine sees the images, the model file
and the folder under the same names. Knows nothing of the command line; Ray is imported when work begins.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np

from keylite.data.dataset import listed
from keylite.points import points_line
from keylite.runtime.engines import require
from keylite.runtime.files import replacing, require_writable, write_bytes
from keylite.runtime.images import MAX_MEGAPIXELS
from keylite.runtime.predictor import Predictor
from keylite.runtime.spec import encode_spec

SHARD = 1000  # images: some seconds to some minutes of a worker's time, which is what its death costs
TRIES = 4  # of a shard before it is given up: Ray itself would go on for ever with an image that kills its reader
ANSWER = 10  # seconds in which a cluster has to
MANIFEST = "manifest.json"
BAD = "bad"  # folder of what was left out, beside the shards


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the shards of a folder were made of: with anything else they are not gone on with.

    sha256: of the model file. spec, inputs: sha256 of its description, and of images and boxes. shard: images of one.
    """

    model: str
    sha256: str
    spec: str
    engine: str
    images: int
    inputs: str
    format: str
    shard: int
    origin: str
    keypoints: tuple[str, ...]


MEANINGS = {  # field of a manifest: what differs, for those fields that say more than others which differ with them
    "sha256": "model file",
    "spec": "description of the model",
    "inputs": "set of images or boxes",
    "engine": "engine",
    "format": "format",
    "shard": "size of shards",
}


class Job(msgspec.Struct, frozen=True):
    """What a worker has to know. folder: where relative paths of images begin. tries: of a shard."""

    model: str
    sha256: str
    engine: str
    spec: str | None
    threads: int
    max_megapixels: float
    folder: str
    out: str
    format: str
    skip_bad: bool
    tries: int


class Bad(msgspec.Struct, frozen=True):
    """An image that was left out, and why: a line of a file in BAD."""

    image: str
    error: str


class Summary(NamedTuple):
    """What there is in the end. images: found in. before: shards that were there already. bad: images left out."""

    images: int
    shards: int
    before: int
    bad: list[Bad]


class BadImagesError(ValueError):
    """A shard that was not written, for some of its images are bad."""


# ---- a shard


Asked = list[tuple[str, list[list[float]] | None]]  # path of an image, and its boxes xyxy px or None


def shard_path(job: Job, number: int) -> Path:
    return Path(job.out) / f"part-{number:05d}.{job.format}"


def bad_path(out: Path | str, number: int) -> Path:
    return Path(out) / BAD / f"part-{number:05d}.jsonl"


def predict_shard(predictor: Predictor, job: Job, number: int, asked: Asked) -> list[Bad]:
    """Write the points of a shard's images; the bad ones.

    With bad ones and without `job.skip_bad` nothing is written, and the points are not looked for either.
    """
    bad: list[Bad] = []
    names = {os.path.join(job.folder, name): name for name, _ in asked}

    def images() -> Iterator[tuple[str, object]]:
        for name, boxes in asked:
            yield os.path.join(job.folder, name), [] if bad and not job.skip_bad else boxes

    def on_bad(path: Any, error: Exception) -> None:
        bad.append(Bad(names[path], str(error)))

    with contextlib.suppress(BadImagesError), replacing(shard_path(job, number)) as beside:
        stream = contextlib.closing(predictor.stream(images(), on_bad=on_bad))
        with stream as found:
            lines = (points_line(names[str(path)], points, size, Path(job.model)) for path, points, size in found)
            FORMATS[job.format](beside, lines, predictor)
        if bad and not job.skip_bad:
            raise BadImagesError
        if bad:
            write_bytes(bad_path(job.out, number), b"".join(msgspec.json.encode(one) + b"\n" for one in bad))
        else:
            bad_path(job.out, number).unlink(missing_ok=True)
    return bad


def write_lines(path: Path, lines: Iterable[dict[str, Any]], predictor: Predictor) -> None:
    """JSON Lines, a line an image."""
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def write_table(path: Path, lines: Iterable[dict[str, Any]], predictor: Predictor) -> None:
    """Parquet, a row an image; what is the same for all of them is in the metadata of the schema, as JSON."""
    import pyarrow
    from pyarrow import parquet

    numbers = pyarrow.list_(pyarrow.float64())
    found = {"box": numbers, "xy": pyarrow.list_(numbers), "score": numbers, "sigma": numbers}
    columns = {"image": pyarrow.string(), "width": pyarrow.int32(), "height": pyarrow.int32()}
    columns["objects"] = pyarrow.list_(pyarrow.struct(list(found.items())))
    rows = list(lines)
    common = {"model": predictor.path.name if predictor.path else "", "sha256": predictor.sha256, "origin": "corner"}
    common["keypoints"] = predictor.spec.skeleton.names
    schema = pyarrow.schema(list(columns.items()), metadata={"keylite": json.dumps(common)})
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


FORMATS: dict[str, Callable[[Path, Iterable[dict[str, Any]], Predictor], None]] = {
    "jsonl": write_lines,
    "parquet": write_table,
}


class Worker:
    """Predicts shards, one at a time; an actor of Ray makes one and keeps it.

    What a user can mend comes back in a row: an exception would come wrapped in Ray's own.
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    @functools.cached_property
    def predictor(self) -> Predictor:
        job = self.job
        cv2.setNumThreads(job.threads)  # the other workers have the other cores
        predictor = Predictor(
            job.model, engine=job.engine, threads=job.threads, max_megapixels=job.max_megapixels, spec=job.spec
        )
        if predictor.sha256 != job.sha256:
            raise ValueError(f"{job.model}: expected the model file that the work began with, got another")
        return predictor

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """row: number of a shard, and what is `asked` as JSON -> number, bad images as JSON, failed: why, or empty."""
        job, number = self.job, int(row["shard"])
        path = shard_path(job, number)
        tries = tries_path(path)
        bad: list[Bad] = []
        failed = ""
        try:
            if not path.exists():  # this is no second try, its worker killed after the first
                if not (path.parent / MANIFEST).exists():
                    raise FileNotFoundError(f"{path.parent}: is not seen here; give a folder that all machines share")
                asked = msgspec.json.decode(row["asked"], type=Asked)
                before = tries.read_text().splitlines() if tries.exists() else []
                if len(before) >= job.tries:
                    raise ValueError(
                        f"shard {number} ended its worker {len(before)} times; leave out the image that does, one of "
                        f"{len(asked)} from {asked[0][0]} to {asked[-1][0]}, or give workers more memory"
                    )
                with open(tries, "a", encoding="utf-8") as file:
                    file.write(f"{socket.gethostname()} {os.getpid()}\n")
                bad = predict_shard(self.predictor, job, number, asked)
            tries.unlink(missing_ok=True)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            failed = f"{socket.gethostname()}: {error}"
        return {"shard": number, "bad": msgspec.json.encode(bad), "failed": failed}


def tries_path(path: Path) -> Path:
    """Where the workers note that they began a shard."""
    return path.with_name(f".{path.name}.tries")


# ---- all of them


def predict_on_ray(
    model: Path | str,
    images: Sequence[Path | str],
    out: Path | str,
    *,
    address: str = "local",
    boxes: dict[Path, np.ndarray] | None = None,
    format: str = "jsonl",
    shard: int = SHARD,
    workers: int | None = None,
    threads: int = 1,
    engine: str | None = None,
    spec: Path | str | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    skip_bad: bool = False,
    on_shard: Callable[[int, int], object] | None = None,
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
        raise ValueError(f"format: expected {' or '.join(FORMATS)}, got {format!r}")
    for name, value in {"shard": shard, "workers": workers, "threads": threads}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if not images:
        raise ValueError("images: expected at least one, got none")
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
        raise ValueError(f"{out}: {count} images were left out of its shards; pass --skip-bad, or choose another --out")
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
                        raise ValueError(
                            f"{row['failed']}; shards that are done stay: the same command goes on from there"
                        )
                    bad += msgspec.json.decode(row["bad"], type=list[Bad])
                    if on_shard is not None:
                        on_shard(done, len(shards))
    if bad and not skip_bad:
        line = listed(f"{len(bad)} of {len(asked)} images cannot be used", [one.error for one in bad])
        raise ValueError(f"{line}; mend them, or pass --skip-bad to leave them out: the same command goes on")
    for path in out.glob(".part-*"):  # what killed workers left
        path.unlink(missing_ok=True)
    bad = left_out(out)
    return Summary(len(asked) - len(bad), len(shards), before, bad)


def manifest_of(predictor: Predictor, asked: Asked, format: str, shard: int) -> Manifest:
    inputs = hashlib.sha256()
    for one in asked:
        inputs.update(msgspec.json.encode(one) + b"\n")
    return Manifest(
        model=predictor.path.name if predictor.path else "",
        sha256=predictor.sha256 or "",
        spec=hashlib.sha256(encode_spec(predictor.spec).encode()).hexdigest(),
        engine=predictor.engine_name,
        images=len(asked),
        inputs=inputs.hexdigest(),
        format=format,
        shard=shard,
        origin="corner",
        keypoints=predictor.spec.skeleton.names,
    )


def require_same(out: Path, manifest: Manifest) -> None:
    """ValueError for a folder with anything else in it than shards of the same model, images and so on."""
    path = out / MANIFEST
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(
                f"{out}: expected a new folder, an empty one, or one with {MANIFEST}; choose another --out"
            )
        return
    try:
        there = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: not what keylite writes there: {error}; choose another --out") from None
    for field, meaning in MEANINGS.items():
        old, new = getattr(there, field), getattr(manifest, field)
        if old != new:
            shown = "" if isinstance(old, str) and len(old) == 64 else f", {old}, not {new}"
            raise ValueError(f"{out}: holds points of another {meaning}{shown}; choose another --out")


def left_out(out: Path) -> list[Bad]:
    """The images that shards lack because they could not be read."""
    lines = [line for path in sorted((out / BAD).glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [msgspec.json.decode(line, type=Bad) for line in lines]


# ---- Ray


def _ray() -> Any:
    """The package, with its data library; ModuleNotFoundError says what to install."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ writes to our standard error
    require("ray.data", "ray")
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


@contextlib.contextmanager
def _quiet(context: Any) -> Iterator[None]:
    """Ray Data without bars and lines of its own, which are of plans that nobody can change here."""
    talker = logging.getLogger("ray.data")
    level, bars = talker.level, context.enable_progress_bars
    talker.setLevel(logging.CRITICAL)
    context.enable_progress_bars = False
    try:
        yield
    finally:
        talker.setLevel(level)
        context.enable_progress_bars = bars


def _worked(
    ray: Any, job: Job, rows: list[dict[str, Any]], workers: int | None
) -> Generator[dict[str, Any], None, None]:
    """What `Worker` gives for each row, as they get done; a worker that dies is replaced, and its shard begun again."""
    room = int(ray.cluster_resources().get("CPU", 0)) // job.threads
    if room < 1:
        raise ValueError(f"threads: expected at most as many as the cluster has cores, got {job.threads}")
    shards = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Worker,
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(size=min(workers or room, room, len(rows)), max_tasks_in_flight_per_actor=1),
        num_cpus=job.threads,
    )
    try:
        with _quiet(ray.data.DataContext.get_current()):
            yield from shards.iter_rows()
    except ray.exceptions.RayTaskError:
        raise  # a fault of ours: all that Ray tells of it is wanted
    except ray.exceptions.RayError as error:
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ChildProcessError(f"ray: {told[-1] if told else type(error).__name__}") from error
