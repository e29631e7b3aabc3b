"""The points of many images in shards: files of so many images each, and what they were made of.

A shard is written beside and renamed: the files that are there say what is done, whatever was killed in between. Every
machine sees the images, the model file and the folder under the same names. Knows nothing of what starts workers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec

from keylite.prediction.points import points_line
from keylite.runtime.errors import ArgumentError, ImageError
from keylite.runtime.files import replacing, write_bytes
from keylite.runtime.predictor import Predictor
from keylite.runtime.spec import encode_spec
from keylite.runtime.types import FilePath

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


class BadImagesError(ImageError):
    """A shard that was not written, for some of its images are bad."""


Asked = list[tuple[str, list[list[float]] | None]]  # path of an image, and its boxes xyxy px or None


def shard_path(job: Job, number: int) -> Path:
    return Path(job.out) / f"part-{number:05d}.{job.format}"


def bad_path(out: FilePath, number: int) -> Path:
    return Path(out) / BAD / f"part-{number:05d}.jsonl"


def tries_path(path: Path) -> Path:
    """Where the workers note that they began a shard."""
    return path.with_name(f".{path.name}.tries")


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
            raise ArgumentError(f"{job.model}: expected the model file that the work began with, got another")
        return predictor

    def predict(self, row: dict[str, Any]) -> dict[str, Any]:
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
                    raise ArgumentError(
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
            raise ArgumentError(
                f"{out}: expected a new folder, an empty one, or one with {MANIFEST}; choose another `out`"
            )
        return
    try:
        there = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path}: not what keylite writes there: {error}; choose another `out`") from None
    for field, meaning in MEANINGS.items():
        old, new = getattr(there, field), getattr(manifest, field)
        if old != new:
            shown = "" if isinstance(old, str) and len(old) == 64 else f", {old}, not {new}"
            raise ArgumentError(f"{out}: holds points of another {meaning}{shown}; choose another `out`")


def left_out(out: Path) -> list[Bad]:
    """The images that shards lack because they could not be read."""
    lines = [line for path in sorted((out / BAD).glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [msgspec.json.decode(line, type=Bad) for line in lines]
