"""Shards on a Ray cluster: complete whatever was killed, the plain predictor's points, and nothing made twice."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import pytest

from keylite.cli import main
from keylite.prediction import cluster, shards
from keylite.prediction.shards import Bad, Job, Worker, left_out, predict_shard, shard_path, tries_path
from keylite.runtime.images import write_image
from keylite.runtime.modelfile import read_spec, write_onnx
from keylite.runtime.predictor import Predictor

SHARDS = 5  # of 4 images each, and one of 2
PATIENCE = 240  # seconds for all that runs on Ray, which takes a quarter of that: it may hang, this module may not
BAD_IMAGE = "p11.png"  # the last of the third shard


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, make_spec) -> Path:
    """An `.onnx` file whose points are linear in the mean colour: it opens at once, and every engine rounds alike."""
    onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
    pytest.importorskip("onnxruntime", reason="needs keylite[onnx]")
    make, numbers = onnx.helper, onnx.numpy_helper.from_array
    weights = np.random.default_rng(0).uniform(0, 1 / 255 / 3, (3, 8)).astype(np.float32)
    nodes = [
        make.make_node("Cast", ["pixels"], ["floats"], to=onnx.TensorProto.FLOAT),
        make.make_node("ReduceMean", ["floats", "axes"], ["colour"], keepdims=0),
        make.make_node("MatMul", ["colour", "weights"], ["flat"]),
        make.make_node("Reshape", ["flat", "shape"], ["raw"]),
    ]
    constants = [
        numbers(np.array([1, 2]), "axes"),
        numbers(weights, "weights"),
        numbers(np.array([-1, 4, 2]), "shape"),
    ]
    taken = make.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["batch", 64, 64, 3])
    given = make.make_tensor_value_info("raw", onnx.TensorProto.FLOAT, ["batch", 4, 2])
    graph = make.make_graph(nodes, "mean", [taken], [given], constants)
    proto = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=10)
    path = tmp_path_factory.mktemp("linear") / "linear.onnx"
    write_onnx(path, proto.SerializeToString(), make_spec(box="image"))
    return path


def pictures(folder: Path, count: int = 18) -> list[Path]:
    """Noise in PNG files of 40x30 px, p00.png and so on."""
    paths = [folder / f"p{number:02d}.png" for number in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    for path, pixels in zip(
        paths, np.random.default_rng(1).integers(0, 256, (count, 30, 40, 3), np.uint8), strict=True
    ):
        write_image(path, pixels * np.uint8(1 + int(path.stem[1:]) % 3))
    return paths


def plain(model: Path, paths: list[Path]) -> list[dict]:
    """What `keylite predict --format jsonl` says of images."""
    predictor = Predictor(model, threads=1)
    size = {"width": 40, "height": 30, "model": model.name}
    return [{"image": str(path), **size, **predictor(path).to_dict()} for path in paths]


def lines_of(out: Path) -> list[dict]:
    """The lines of all shards, in order."""
    return [json.loads(line) for path in sorted(out.glob("part-*.jsonl")) for line in path.read_text().splitlines()]


def rows_of(out: Path) -> list[dict]:
    """The rows of all shards, in order, with what their schemas say of all of them."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs keylite[ray]")
    found = []
    for path in sorted(out.glob("part-*.parquet")):
        table = parquet.read_table(path)
        common = json.loads(table.schema.metadata[b"keylite"])
        found += [row | {name: common[name] for name in ("model", "origin", "keypoints")} for row in table.to_pylist()]
    return found


# ---- a shard, without Ray


def job_of(model: Path, out: Path, /, **changes: object) -> Job:
    job = Job(
        model=str(model),
        sha256=Predictor(model).sha256 or "",
        engine="onnx",
        spec=None,
        threads=1,
        max_megapixels=100,
        folder=str(out.parent),
        out=str(out),
        format="jsonl",
        skip_bad=False,
        tries=2,
    )
    return msgspec.structs.replace(job, **changes)


def begun(out: Path) -> Path:
    """A folder as whoever sends shards to workers leaves it."""
    out.mkdir(exist_ok=True)
    (out / shards.MANIFEST).touch()
    return out


READ = {"jsonl": lines_of, "parquet": rows_of}


@pytest.mark.parametrize("form", READ)
def test_a_shard_holds_the_plain_predictor_s_points(form: str, model: Path, tmp_path: Path):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="needs keylite[ray]")
    paths = pictures(tmp_path, 6)
    asked = [("p00.png", None), *((str(path), None) for path in paths[1:])]
    job = job_of(model, tmp_path / "out", format=form)
    assert predict_shard(Predictor(model, threads=1), job, 7, asked) == []
    wanted = plain(model, paths)
    wanted[0]["image"] = "p00.png"  # as it was given
    assert READ[form](tmp_path / "out") == wanted
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"part-00007.{form}"]


def test_boxes_go_to_their_images(model: Path, tmp_path: Path):
    (path,) = pictures(tmp_path, 1)
    boxes = [[1.5, 2, 20, 21], [0, 0, 40.25, 30]]
    asked = [(str(path), boxes), (str(path), []), (str(path), None)]
    predict_shard(Predictor(model), job_of(model, tmp_path / "out"), 0, asked)
    found = lines_of(tmp_path / "out")
    assert [[one["box"] for one in line["objects"]] for line in found] == [boxes, [], [[0, 0, 40, 30]]]
    assert found[0]["objects"] == Predictor(model)(path, boxes).to_dict()["objects"]


def test_a_shard_with_a_bad_image_is_not_written_unless_it_is_skipped(model: Path, tmp_path: Path):
    paths = pictures(tmp_path, 5)
    paths[2].write_text("text")
    asked = [(str(path), None) for path in paths]
    bad = [Bad(str(paths[2]), f"{paths[2]}: not an image that keylite reads (JPEG, PNG, GIF, BMP, WebP, TIFF)")]
    out = tmp_path / "out"
    assert predict_shard(Predictor(model), job_of(model, out), 3, asked) == bad
    assert list(out.iterdir()) == []
    assert predict_shard(Predictor(model), job_of(model, out, skip_bad=True), 3, asked) == bad
    assert lines_of(out) == plain(model, paths[:2] + paths[3:])
    assert left_out(out) == bad
    shutil.copy(paths[0], paths[2])  # mended
    assert predict_shard(Predictor(model), job_of(model, out, skip_bad=True), 3, asked) == []
    assert left_out(out) == []


def row(number: int, *paths: Path) -> dict:
    return {"shard": number, "asked": json.dumps([[str(path), None] for path in paths]).encode()}


def test_a_worker_opens_its_model_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = []
    monkeypatch.setattr(shards, "Predictor", lambda *given, **named: opened.append(given) or Predictor(*given, **named))
    before = cv2.getNumThreads()
    paths = pictures(tmp_path, 4)
    worker = Worker(job_of(model, begun(tmp_path / "out")))
    for number in range(2):
        assert worker.predict(row(number, *paths)) == {"shard": number, "bad": b"[]", "failed": ""}
    assert len(opened) == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*part*")) == ["part-00000.jsonl", "part-00001.jsonl"]
    cv2.setNumThreads(before)


def test_a_shard_that_is_there_is_not_made_again(model: Path, tmp_path: Path):
    job = job_of(model, tmp_path)
    shard_path(job, 4).write_text("there")
    tries_path(shard_path(job, 4)).write_text("a worker that was killed when it had renamed\n")
    assert Worker(job).predict(row(4, tmp_path / "none.png"))["failed"] == ""
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"part-00004.jsonl": "there"}


FAILS: dict[str, tuple[dict, str, str]] = {  # changes of a job, tries before, words of the row
    "another model": ({"sha256": "0" * 64}, "", "expected the model file that the prediction began with, got another"),
    "no model": ({"model": "none.onnx"}, "", "none.onnx: no such model file"),
    "no folder": (
        {"out": "elsewhere"},
        "",
        "elsewhere: this folder does not exist here; give one that all machines share",
    ),
    "a shard that kills": ({}, "a 1\nb 2\n", "shard 0 killed its worker 2 times; leave out the image that does it"),
}


@pytest.mark.parametrize(("changes", "tries", "words"), FAILS.values(), ids=FAILS)
def test_a_worker_that_cannot_work_says_so(changes: dict, tries: str, words: str, model: Path, tmp_path: Path):
    (path,), job = pictures(tmp_path, 1), job_of(model, begun(tmp_path), **changes)
    if tries:
        tries_path(shard_path(job, 0)).write_text(tries)
    assert words in Worker(job).predict(row(0, path))["failed"]
    assert not shard_path(job, 0).exists()


def test_a_try_is_noted_before_it_is_made(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing tells a worker that is killed that it will be."""
    job = job_of(model, begun(tmp_path))
    notes = tries_path(shard_path(job, 0))
    monkeypatch.setattr(shards, "predict_shard", lambda *_: seen.append(notes.read_text().split()))
    seen: list[list[str]] = []
    Worker(job).predict(row(0, tmp_path / "a.png"))
    assert [one[1] for one in seen] == [str(os.getpid())]


# ---- what is refused before anything begins


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which `keylite predict ARGUMENTS` refuses wrong input."""
    with pytest.raises(SystemExit, match="2"):
        main(["predict", *map(str, arguments)])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("keylite: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def half(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a stopped prediction leaves it: two of five shards of pictures/, made by workers without Ray."""
    pictures(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)

    def two(ray: object, job: Job, rows: list[dict], workers: int | None) -> Iterator[dict]:
        yield from map(Worker(job).predict, rows[:2])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_ray", lambda: None)
        patch.setattr(cluster, "_connected", lambda *_: contextlib.nullcontext())
        patch.setattr(cluster, "_worked", two)
        cluster.predict_on_ray(model, cluster_images(tmp_path), tmp_path / "half", shard=4)
    assert len(list((tmp_path / "half").glob("part-*"))) == 2
    return tmp_path / "half"


def cluster_images(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in (folder / "pictures").iterdir())


ON = ["--ray", "local", "--out", "half", "--shard", "4"]

BAD_CALLS: dict[str, tuple[list[str], str]] = {
    "no folder": (["--ray", "local"], "--ray writes shards; give a folder for them as --out"),
    "a format of one file": ([*ON, "--format", "coco"], "--format: expected jsonl or parquet with --ray, got coco"),
    "a format of shards": (
        ["--format", "parquet"],
        "--format: parquet is written by --ray alone; expected another format",
    ),
    "drawings": ([*ON, "--draw", "drawn"], "--draw has no effect with --ray"),
    "standard output": (["--ray", "local", "--out", "-"], "--ray writes shards; give a folder for them as --out"),
    "a folder without Ray": (["--out", "half"], "out: expected the name of a file, got the folder half"),
    "no images in a shard": (
        ["--ray", "local", "--out", "new", "--shard", "0"],
        "shard: expected a whole number of at least 1, got 0",
    ),
    "no workers": ([*ON, "--workers", "0"], "workers: expected a whole number of at least 1, got 0"),
    "another size of shards": ([*ON[:-1], "5"], "half: holds points of another size of shards, 4, not 5; choose"),
    "another format": ([*ON, "--format", "parquet"], "holds points of another format, jsonl, not parquet; choose"),
    "a folder with something else": (
        ["--ray", "local", "--out", "pictures"],
        "pictures: expected a new folder, an emp",
    ),
    "a file for a folder": (
        ["--ray", "local", "--out", "pictures/p00.png"],
        "p00.png: expected a new folder, an empty",
    ),
}


@pytest.mark.parametrize(("flags", "words"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_call_that_does_not_fit_is_one_line(flags: list[str], words: str, half: Path, model: Path, capsys):
    before = sorted(half.parent.rglob("*"))
    assert words in refused(capsys, model, "pictures", *flags)
    assert sorted(half.parent.rglob("*")) == before


def drop_image(half: Path, model: Path) -> Path:
    (half.parent / "pictures/p17.png").unlink()
    return model


def other_model(half: Path, model: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(model)
    proto.producer_name = "another"
    del proto.metadata_props[:]
    write_onnx(half.parent / "linear.onnx", proto.SerializeToString(), read_spec(model))
    return half.parent / "linear.onnx"


def spoil_manifest(half: Path, model: Path) -> Path:
    (half / shards.MANIFEST).write_text("{}")
    return model


def leave_out(half: Path, model: Path) -> Path:
    (half / shards.BAD).mkdir()
    (half / shards.BAD / "part-00000.jsonl").write_text('{"image": "p.png", "error": "p.png: bad"}\n')
    return model


OTHERS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "other images": (drop_image, "half: holds points of another set of images or boxes; choose another --out"),
    "another model": (other_model, "half: holds points of another model file; choose another --out"),
    "a broken manifest": (spoil_manifest, "manifest.json: not a manifest that keylite wrote"),
    "shards that lack images": (leave_out, "half: 1 images were left out of its shards; pass --skip-bad"),
}


@pytest.mark.parametrize(("change", "words"), OTHERS.values(), ids=OTHERS)
def test_the_folder_of_another_prediction_is_refused(change, words: str, half: Path, model: Path, capsys):
    assert words in refused(capsys, change(half, model), "pictures", *ON)


def test_without_ray_it_is_said_what_to_install(half: Path, model: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "ray is not installed: install it with: pip install 'keylite[ray]'" in refused(
        capsys, model, "pictures", "--ray", "local", "--out", "new"
    )
    assert not (half.parent / "new").exists()


def test_what_is_done_needs_no_ray(half: Path, model: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    job = job_of(model, half, folder=str(half.parent))
    images = [[str(path), None] for path in cluster_images(half.parent)]
    for number in range(2, SHARDS):
        predict_shard(Predictor(model, threads=1), job, number, images[4 * number : 4 * number + 4])
    with pytest.raises(SystemExit, match="0"):
        main(["predict", str(model), "pictures", *ON])
    assert "18 images in 5 shards, 5 of them from before: half" in capsys.readouterr().out


class FakeError(Exception):
    """As Ray's own errors: of all kinds, of a worker that died, of what a worker raised."""


class FakeActorError(FakeError):
    pass


class FakeTaskError(FakeError):
    pass


class FakeRay:
    """What `_worked` asks of Ray. tells: for each call of a worker what comes of it, None for nothing yet."""

    exceptions = SimpleNamespace(RayError=FakeError, RayActorError=FakeActorError, RayTaskError=FakeTaskError)

    def __init__(self, tells: Callable[[int, dict | None], object], machines: Callable[[], int] = lambda: 2) -> None:
        self.tells, self.machines = tells, machines
        self.workers, self.killed, self.asked = 0, [], []

    def nodes(self) -> list[dict]:
        return [{"Alive": True, "Resources": {"CPU": 1}} for _ in range(self.machines())]

    def remote(self, kind: type) -> FakeRay:
        assert kind is Worker
        return self

    def options(self, **flags: int) -> SimpleNamespace:
        assert flags == {"num_cpus": 1}
        return SimpleNamespace(remote=self.begin)

    def begin(self, job: Job) -> SimpleNamespace:
        number = self.workers
        self.workers += 1
        return SimpleNamespace(
            number=number,
            __ray_ready__=SimpleNamespace(remote=lambda: (number, None)),
            predict=SimpleNamespace(remote=lambda row: (number, row["shard"])),
        )

    def wait(self, refs: list, timeout: float) -> tuple[list, list]:
        assert refs
        given = [ref for ref in refs if self.tells(*ref) is not None]
        return given[:1], []

    def get(self, ref: tuple[int, int | None]) -> object:
        self.asked.append(ref)
        found = self.tells(*ref)
        if isinstance(found, Exception):
            raise found
        return found

    def kill(self, worker: SimpleNamespace) -> None:
        self.killed.append(worker.number)


def worked(ray: FakeRay, shards: int = 4, workers: int | None = None) -> Generator[dict, None, None]:
    job = Job("m", "0", "onnx", None, 1, 1.0, ".", ".", "jsonl", False, 3)
    return cluster._worked(ray, job, [{"shard": number} for number in range(shards)], workers)


def done(worker: int, shard: int | None) -> object:
    return "begun" if shard is None else {"shard": shard, "by": worker}


def test_workers_share_the_shards_and_leave_their_cores():
    ray = FakeRay(done)
    assert sorted(row["shard"] for row in worked(ray)) == [0, 1, 2, 3]
    assert (ray.workers, sorted(ray.killed)) == (2, [0, 1])
    assert [ray.workers for ray in [FakeRay(done)] if list(worked(ray, workers=1))] == [1]
    assert [ray.workers for ray in [FakeRay(done)] if list(worked(ray, shards=1))] == [1]


def test_no_shard_waits_for_a_worker_that_waits_for_cores():
    ray = FakeRay(lambda worker, shard: None if worker == 0 else done(worker, shard))
    assert [row["by"] for row in worked(ray)] == [1, 1, 1, 1]
    assert sorted(ray.killed) == [0, 1]


def test_a_worker_that_dies_is_replaced_and_its_shard_begun_again():
    ray = FakeRay(lambda worker, shard: FakeActorError("gone") if (worker, shard) == (0, 0) else done(worker, shard))
    assert sorted((row["shard"], row["by"] > 0) for row in worked(ray)) == [(n, True) for n in range(4)]
    assert ray.workers == 3


def test_the_last_worker_s_shard_is_begun_again_by_a_new_one():
    ray = FakeRay(lambda worker, shard: FakeActorError("gone") if (worker, shard) == (1, 3) else done(worker, shard))
    rows = worked(ray)
    assert sorted(row["shard"] for row in rows) == [0, 1, 2, 3]


def test_workers_that_never_begin_end_a_prediction():
    ray = FakeRay(lambda *_: FakeActorError("the actor died:\n\n  No module named 'keylite'  \n"))
    with pytest.raises(ChildProcessError, match="^ray: No module named 'keylite'$"):
        list(worked(ray))
    assert len(ray.asked) == 3  # as often as a shard is tried


def test_workers_that_die_before_they_begin_may_do_so_now_and_then():
    ray = FakeRay(lambda worker, shard: FakeActorError("gone") if worker % 3 else done(worker, shard))
    assert len(list(worked(ray, shards=20))) == 20


def test_a_fault_of_a_worker_is_shown_whole():
    fault = FakeTaskError("Traceback\n  it is ours")
    ray = FakeRay(lambda worker, shard: fault if shard == 2 else done(worker, shard))
    with pytest.raises(FakeTaskError, match="Traceback"):
        list(worked(ray))
    assert sorted(ray.killed) == [1]  # the other has raised


def test_a_cluster_that_is_gone_is_one_line():
    ray = FakeRay(lambda worker, shard: FakeError("told\nmuch") if shard == 2 else done(worker, shard))
    with pytest.raises(ChildProcessError, match="^ray: much$"):
        list(worked(ray))


def test_rows_that_nobody_wants_are_left():
    ray = FakeRay(done)
    rows = worked(ray, shards=10**5)
    next(rows)
    rows.close()
    assert sorted(ray.killed) == [0, 1]
    assert len(ray.asked) < 10


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """Of `_still_lost`: a minute later at each look."""
    now = itertools.count(0, 60.0)
    monkeypatch.setattr(cluster.time, "monotonic", lambda: next(now))
    return now


def fails() -> int:
    raise RuntimeError("the head does not answer")


@pytest.mark.parametrize("machines", [lambda: 0, fails])
def test_a_cluster_without_machines_is_not_waited_for_for_ever(machines: Callable[[], int], clock, caplog):
    ray = FakeRay(lambda worker, shard: done(worker, shard) if shard in (None, 0) else None)
    rows = worked(ray)
    assert next(rows)["shard"] == 0
    ray.machines = machines
    with pytest.raises(
        ConnectionError, match="^ray: no machine of the cluster has had 1 cores for 600 s; finished shards"
    ):
        next(rows)
    assert caplog.messages == ["ray: no machine of the cluster has 1 cores now; waiting for one"]
    assert next(clock) == 12 * 60  # ROOM and a look


def test_machines_that_come_back_go_on(clock):
    looks = []

    def machines() -> int:
        looks.append(len(looks))
        return (len(looks) % 8 == 1) * 2  # none for seven minutes, and again

    def tells(worker: int, shard: int | None) -> object:
        return done(worker, shard) if shard is None or len(looks) > 40 else None

    assert sorted(row["shard"] for row in worked(FakeRay(tells, machines))) == [0, 1, 2, 3]


def test_room_is_of_machines_that_live():
    class Ray:
        def nodes(self) -> list[dict]:
            alive = [{"Alive": True, "Resources": {"CPU": cores}} for cores in (2.0, 5.0)]
            return [*alive, {"Alive": True, "Resources": {}}, {"Alive": False, "Resources": {"CPU": 8.0}}]

    assert [cluster._room(Ray(), threads) for threads in (1, 2, 3, 6)] == [7, 3, 1, 0]


# ---- a cluster of two workers

SCENARIO = """
import contextlib, io, json, os, shutil, signal, sys, threading, time
from pathlib import Path

from keylite.prediction import cluster
from keylite.cli import main
from ray.cluster_utils import Cluster

cluster.TRIES = 2
folder, model = map(Path, sys.argv[1:])
os.chdir(folder)
told = {}


def predict(name, *flags):
    # what a call prints, its exit code, the seconds that it took, and each file that is there then: its number and time
    out, err, code, start = io.StringIO(), io.StringIO(), 0, time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["predict", str(model), "--shard", "4", *map(str, flags)])
        except SystemExit as stop:
            code = int(stop.code or 0)
    files = {path.name: [path.stat().st_ino, path.stat().st_mtime_ns] for path in Path(flags[-1]).glob("*")}
    seconds = time.perf_counter() - start
    told[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "files": files, "seconds": seconds}


def when(ready, act):
    # act in a thread once `ready` gives something, on that
    def wait():
        while not (found := ready()):
            threading.Event().wait(0.02)
        act(found)
    threading.Thread(target=wait, daemon=True).start()


def begun(path, tries=1):
    # a function: the process of the worker that began a shard for the so manieth time
    def ready():
        notes = cluster.tries_path(Path(path))
        lines = notes.read_text().splitlines() if notes.exists() else []
        return int(lines[-1].split()[1]) if len(lines) == tries else 0
    return ready


def block(picture):
    # whoever opens it waits, by what is in WAITING: beside it lies a pipe that nobody writes to
    os.mkfifo(f"{picture}.wait")


def unblock(picture):
    os.remove(f"{picture}.wait")


def kill(process):
    os.kill(process, signal.SIGKILL)


nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
nodes.add_node(num_cpus=1)

predict("nobody", "a", "--ray", "127.0.0.1:1", "--out", "nothing")
told["nobody"]["wrote"] = Path("nothing").exists()

# a worker is killed within the second shard, and an image of the third is bad
block("a/p05.png")
when(begun("jsonl/part-00001.jsonl"), lambda process: (unblock("a/p05.png"), kill(process)))
there = ["a", "--ray", nodes.address, "--out", "jsonl"]
predict("bad", *there)
predict("skipped", "--skip-bad", *there)

# stopped by Ctrl-C while a worker waits for an image of the last shard and all others are done
block("b/p17.png")
ready = begun("parquet/part-00004.parquet")
done = lambda: len(list(Path("parquet").glob("part-*"))) == 4
when(lambda: ready() and done(), lambda _: os.kill(os.getpid(), signal.SIGINT))
there = ["b", "--format", "parquet", "--ray", nodes.address, "--out", "parquet"]
predict("stopped", *there)

# every worker that begins with the last shard is killed, then none
cluster.tries_path(Path("parquet/part-00004.parquet")).unlink()
for tries in (1, 2):
    when(begun("parquet/part-00004.parquet", tries), kill)
predict("killed", *there)
unblock("b/p17.png")
nodes.shutdown()
predict("gone on", "b", "--format", "parquet", "--ray", "local", "--workers", 2, "--out", "parquet")
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in a/, one of them bad, and in b/."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("a", "b"):
        pictures(folder / name)
    (folder / "a" / BAD_IMAGE).write_text("text")
    return folder


WAITING = """
import os
def waits(path, *rest, now=os.open, **more):
    if str(path).endswith(".png") and os.path.exists(f"{path}.wait"):
        os.close(now(f"{path}.wait", os.O_RDONLY))
    return now(path, *rest, **more)
os.open = waits
"""


@pytest.fixture(scope="module")
def told(desk: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the scenario tells of its calls; all that it started is killed when it takes too long."""
    pytest.importorskip("ray", reason="needs keylite[ray]")
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(WAITING)
    environment = {"PYTHONPATH": os.pathsep.join([str(hook), *(path for path in sys.path if path)])}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0"}  # as _ray() says, who comes later
    process = subprocess.Popen(
        [sys.executable, "-c", SCENARIO, str(desk), str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
    )
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def said(call: dict) -> str:
    """The one line with which a call failed."""
    (line,) = [line for line in call["err"].splitlines() if line.startswith("keylite: ")]
    assert "Traceback" not in call["err"]
    return line


def shown(call: dict) -> list[str]:
    """The files that a call left, by name, but for what is hidden."""
    return sorted(name for name in call["files"] if not name.startswith("."))


def made(call: dict, before: dict) -> set[str]:
    """Of the shards that a call left, those that it made."""
    return {name for name in shown(call) if name[:4] == "part" and call["files"][name] != before["files"].get(name)}


LINES, TABLES = ([f"part-{number:05d}.{form}" for number in range(SHARDS)] for form in ("jsonl", "parquet"))


def test_a_cluster_that_is_not_there_is_one_line(told: dict):
    assert said(told["nobody"]).startswith("keylite: --ray: cannot connect to 127.0.0.1:1: ")
    assert (told["nobody"]["code"], told["nobody"]["wrote"]) == (2, False)


def test_a_killed_worker_s_shard_is_made_by_another(told: dict):
    """And an image that cannot be read costs its own shard alone."""
    assert told["bad"]["code"] == 2
    assert re.search(rf"1 of 18 images cannot be used: .*{BAD_IMAGE}: not an image.*--skip-bad", said(told["bad"]))
    assert shown(told["bad"]) == ["manifest.json", *(name for name in LINES if name != LINES[2])]


def test_bad_images_are_left_out_and_listed(told: dict, desk: Path, model: Path):
    skipped = told["skipped"]
    assert (skipped["code"], made(skipped, told["bad"])) == (0, {LINES[2]})
    assert "17 images in 5 shards, 4 of them from before: jsonl" in skipped["out"]
    assert f"listed in {Path('jsonl/bad')}: 1 of 18 images" in skipped["err"]
    assert sorted(skipped["files"]) == ["bad", "manifest.json", *LINES], "nothing of the killed worker is left"
    assert [Path(one.image).name for one in left_out(desk / "jsonl")] == [BAD_IMAGE]
    paths = [path for path in sorted((desk / "a").iterdir()) if path.name != BAD_IMAGE]
    wanted = [line | {"image": str(Path(line["image"]).relative_to(desk))} for line in plain(model, paths)]
    assert lines_of(desk / "jsonl") == wanted
    assert len({json.dumps(line["objects"]) for line in wanted}) == 17, "another image must give other points"


def test_a_stopped_prediction_goes_on(told: dict, desk: Path, model: Path):
    stopped, done = told["stopped"], told["gone on"]
    assert (stopped["code"], done["code"]) == (130, 0)
    assert shown(stopped) == ["manifest.json", *TABLES[:4]]
    assert made(done, stopped) == {TABLES[4]}
    assert "18 images in 5 shards, 4 of them from before: parquet" in done["out"]
    assert sorted(done["files"]) == ["manifest.json", *TABLES]
    wanted = plain(model, sorted((desk / "b").iterdir()))
    assert rows_of(desk / "parquet") == [line | {"image": f"b/{Path(line['image']).name}"} for line in wanted]


def test_an_image_that_kills_its_workers_ends_a_prediction(told: dict):
    killed = told["killed"]
    assert (killed["code"], made(killed, told["stopped"])) == (2, set())
    assert (
        "shard 4 killed its worker 2 times; leave out the image that does it, one of 2 from b/p16.png to b/p17.png"
        in said(killed)
    )
