"""Shards: files with the points of some images each, and a manifest that says what they were made from.

A shard is written under another name and renamed when it is whole. So the files that exist show what is done, also
after a kill. Every machine must see the images, the model file and the folder under the same paths.
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
from keylite.runtime.packages import require
from keylite.runtime.predictor import Predictor
from keylite.runtime.spec import encode_spec
from keylite.runtime.types import FilePath

MANIFEST = "manifest.json"
BAD = "bad"  # the folder, beside the shards, with the names of images that were left out


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the shards of a folder were made from. A later call continues only if all of it is the same.

    sha256: of the model file. spec: the sha256 of its description. inputs: the sha256 of the images' paths and boxes.
    images: how many there are. shard: images per shard. origin: "corner": points are continuous px.
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


MEANINGS = {  # field of a manifest: its name in messages; if another field differs, one of these differs, too
    "sha256": "model file",
    "spec": "description of the model",
    "inputs": "set of images or boxes",
    "engine": "engine",
    "format": "format",
    "shard": "size of shards",
}


class Job(msgspec.Struct, frozen=True):
    """What a worker needs to know. folder: relative paths of images start here. tries: the most per shard."""

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
    """An image that was left out, and the reason: one line of a file in the folder BAD."""

    image: str
    error: str


class BadImagesError(ImageError):
    """A shard was not written because some of its images cannot be used."""


Asked = list[tuple[str, list[list[float]] | None]]  # per image its path, and its boxes xyxy px or None


def shard_path(job: Job, number: int) -> Path:
    return Path(job.out) / f"part-{number:05d}.{job.format}"


def bad_path(out: FilePath, number: int) -> Path:
    return Path(out) / BAD / f"part-{number:05d}.jsonl"


def tries_path(path: Path) -> Path:
    """The file in which workers note that they began a shard: one line per try."""
    return path.with_name(f".{path.name}.tries")


def predict_shard(predictor: Predictor, job: Job, number: int, asked: Asked) -> list[Bad]:
    """Write the points of a shard's images, and return the images that cannot be used.

    If there are some and `job.skip_bad` is false, nothing is written; after the first one, the other images are only
    read, to name all bad ones.
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
        with stream as predicted:
            lines = (points_line(names[str(path)], points, size, Path(job.model)) for path, points, size in predicted)
            FORMATS[job.format](beside, lines, predictor)
        if bad and not job.skip_bad:
            raise BadImagesError
        if bad:
            write_bytes(bad_path(job.out, number), b"".join(msgspec.json.encode(one) + b"\n" for one in bad))
        else:
            bad_path(job.out, number).unlink(missing_ok=True)
    return bad


def write_lines(path: Path, lines: Iterable[dict[str, Any]], predictor: Predictor) -> None:
    """Write JSON Lines, one line per image."""
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def write_table(path: Path, lines: Iterable[dict[str, Any]], predictor: Predictor) -> None:
    """Write Parquet, one row per image. The schema's metadata holds, as JSON, what is the same for all images."""
    require("pyarrow", "ray")
    import pyarrow
    from pyarrow import parquet

    numbers = pyarrow.list_(pyarrow.float64())
    fields = {"box": numbers, "xy": pyarrow.list_(numbers), "score": numbers, "sigma": numbers}
    columns = {"image": pyarrow.string(), "width": pyarrow.int32(), "height": pyarrow.int32()}
    columns["objects"] = pyarrow.list_(pyarrow.struct(list(fields.items())))
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
    """Predicts shards, one at a time. Each process of the cluster (an actor of Ray) has one.

    Errors that a user can mend are returned in the row, because Ray would wrap an exception in one of its own.
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    @functools.cached_property
    def predictor(self) -> Predictor:
        job = self.job
        cv2.setNumThreads(job.threads)  # the other cores belong to other workers
        predictor = Predictor(
            job.model, engine=job.engine, threads=job.threads, max_megapixels=job.max_megapixels, spec=job.spec
        )
        if predictor.sha256 != job.sha256:
            raise ArgumentError(f"{job.model}: expected the model file that the prediction began with, got another")
        return predictor

    def predict(self, row: dict[str, Any]) -> dict[str, Any]:
        """Predict one shard.

        row: `shard`, its number, and `asked`, its images as JSON. The result has `shard`, `bad`, the images that cannot
        be used as JSON, and `failed`, the error or an empty text.
        """
        job, number = self.job, int(row["shard"])
        path = shard_path(job, number)
        tries = tries_path(path)
        bad: list[Bad] = []
        failed = ""
        try:
            if not path.exists():  # it exists if the worker was killed after it had written the shard
                if not (path.parent / MANIFEST).exists():
                    raise FileNotFoundError(
                        f"{path.parent}: this folder does not exist here; give one that all machines share"
                    )
                asked = msgspec.json.decode(row["asked"], type=Asked)
                before = tries.read_text().splitlines() if tries.exists() else []
                if len(before) >= job.tries:
                    raise ArgumentError(
                        f"shard {number} killed its worker {len(before)} times; leave out the image that does it, one "
                        f"of {len(asked)} from {asked[0][0]} to {asked[-1][0]}, or give workers more memory"
                    )
                with open(tries, "a", encoding="utf-8") as file:
                    file.write(f"{socket.gethostname()} {os.getpid()}\n")
                bad = predict_shard(self.predictor, job, number, asked)
            tries.unlink(missing_ok=True)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            failed = f"{socket.gethostname()}: {error}"
        return {"shard": number, "bad": msgspec.json.encode(bad), "failed": failed}


def manifest_of(predictor: Predictor, asked: Asked, format: str, shard: int) -> Manifest:
    """The manifest of a prediction. asked: all images. shard: images per shard."""
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
    """Raise ArgumentError if a folder holds anything but shards with the same manifest."""
    path = out / MANIFEST
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ArgumentError(
                f"{out}: expected a new folder, an empty one, or one with {MANIFEST}; choose another `out`"
            )
        return
    try:
        existing = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path}: not a manifest that keylite wrote: {error}; choose another `out`") from None
    for field, meaning in MEANINGS.items():
        old, new = getattr(existing, field), getattr(manifest, field)
        if old != new:
            shown = "" if isinstance(old, str) and len(old) == 64 else f", {old}, not {new}"  # no sha256
            raise ArgumentError(f"{out}: holds points of another {meaning}{shown}; choose another `out`")


def left_out(out: Path) -> list[Bad]:
    """The images that are missing in the shards because they could not be used."""
    lines = [line for path in sorted((out / BAD).glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [msgspec.json.decode(line, type=Bad) for line in lines]
