"""Commands stopped at random moments, by SIGKILL, SIGTERM and Ctrl-C, and what the next command makes of it.

A moment is a write (the n-th file opened, renamed, removed or folder made, and up to some ms later) or a share of the
time that an undisturbed run takes. Afterwards the same command, for a training with --resume, must end as an undisturbed one does, bit for
bit, and leave nothing of the dead one. Commands run in children of a process that has imported what they need.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cases import PART
from checkpoints import differences
from seeds import BACKBONE, TRAINING
from whole import bodies, halves
from workers import PR_SET_PDEATHSIG, Record

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: (-9,), signal.SIGTERM: (-15, 143, 130), signal.SIGINT: (130,)}
DELAYS = (0.0, 0.0, 0.0, 0.001, 0.003, 0.01, 0.03)  # seconds after a write
MOST_WAIT = 900.0  # seconds


class Scene(NamedTuple):
    """A command that is killed: its arguments, what to add to go on, modules to import first, what it writes."""

    command: list[str]
    resume: tuple[str, ...] = ()
    imports: tuple[str, ...] = ("torch",)
    written: str = "out"


def scenes(seeds: Path) -> dict[str, Scene]:
    """The commands, by name. Their cost is that of the smallest data."""
    images, models = seeds / "labels", seeds / "models"
    data = ["--data", str(images / "labels.json")]
    pictures = [str(images / f"gauge_{i}.png") for i in range(6)]
    torch, keras = ("lightning", "keylite.pytorch.training"), ("tensorflow", "keylite.tensorflow.training")
    small = ["--head", "regression", "--hidden", "16", "--mirror", "off"]
    pytorch = ["train", *TRAINING, *small, "--backbone", BACKBONE, *data, "--out", "out"]
    tensorflow = ["train", *TRAINING, *small, "--framework", "tensorflow", *data, "--out", "out"]
    predict = ["predict", str(models / "whole.onnx"), *pictures, "--out", "out/points.json"]
    export = ["export", *data, "--budget", "1000"]
    return {
        "train, PyTorch": Scene(pytorch, ("--resume",), torch),
        "train, TensorFlow": Scene(tensorflow, ("--resume",), keras),
        "folds, PyTorch": Scene([*pytorch, "--folds", "2"], ("--resume",), torch),
        "folds, TensorFlow": Scene([*tensorflow, "--folds", "2"], ("--resume",), keras),
        "predict": Scene([*predict, "--draw", "out"], (), ("onnxruntime",)),
        "predict, lines": Scene(
            [*predict[:-1], "out/points.jsonl", "--format", "jsonl", "--draw", "out/drawn"], (), ("onnxruntime",)
        ),
        "gauges": Scene(["gauges", "out", "--count", "6"], (), ("numpy",)),
        "export, ONNX": Scene([*export, str(models / "model.safetensors"), "--out", "out/child.onnx"], (), torch),
        "export, LiteRT": Scene(
            [*export, str(models / "lite.safetensors"), "--to", "litert", "--out", "out/child.tflite"], (), keras
        ),
    }


# ---- a command in a child


class Watch:
    """Counts writes inside a folder; at the n-th one tells `pipe`, or sends the process a signal itself."""

    def __init__(self, folder: Path, at: int | None, pipe: int, sent: int | None) -> None:
        self.folder, self.at, self.pipe, self.sent, self.count = str(folder), at, pipe, sent, 0
        self.process = os.getpid()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            mode, flags = arguments[1], arguments[2]
            if not (set(mode or "") & set("wax+") or (mode is None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            return
        if os.getpid() != self.process or not os.path.abspath(str(arguments[0])).startswith(self.folder):
            return
        self.count += 1
        if self.at is not None and self.count == self.at:
            if self.sent is None:
                os.write(self.pipe, b"!")
            else:
                os.kill(self.process, self.sent)


@dataclasses.dataclass
class Ended:
    """How a command in a child ended: its code (negative: a signal), standard error, seconds, and its writes."""

    code: int
    err: str
    seconds: float
    writes: int = 0


def run_child(
    command: list[str],
    folder: Path,
    *,
    at: int | None = None,
    delay: float = 0.0,
    after: float | None = None,
    sent: int = 0,
) -> Ended:
    """Run a command in a fork, its working folder `folder`; signal it at a write, `delay` later, or `after` seconds."""
    reads, writes = os.pipe()
    err = folder.parent / "stderr.txt"
    start = time.monotonic()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child has handlers of its own
    pid = os.fork()
    if not pid:
        _be_the_child(command, folder, err, Watch(folder, at, writes, sent if at is not None and not delay else None))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.close(writes)
    told, status = b"", 0
    if after is not None:
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
    while True:
        if select.select([reads], [], [], 0.02)[0]:
            data = os.read(reads, 100)
            if data == b"!":
                time.sleep(delay)
                os.kill(pid, sent)
            told += data.replace(b"!", b"")
            if not data:
                _, status = os.waitpid(pid, 0)
                break
        if time.monotonic() - start > MOST_WAIT:
            os.kill(pid, signal.SIGKILL)
    os.close(reads)
    return Ended(
        os.waitstatus_to_exitcode(status), err.read_text(errors="replace"), time.monotonic() - start, int(told or b"0")
    )


def _be_the_child(command: list[str], folder: Path, err: Path, watch: Watch) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # whoever started it may be stopped
        os.chdir(folder)
        out = os.open(folder.parent / "stdout.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        error = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(error, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        except KeyboardInterrupt:  # before there is a command
            code = 130
            return
        from keylite.__main__ import main

        sys.argv = ["keylite", *command]
        sys.addaudithook(watch)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            if watch.at is None:
                os.write(watch.pipe, str(watch.count).encode())
        os._exit(code)


# ---- a kill, and what follows


def kill_once(
    scene: Scene, usual: Ended, whole: Path, rng: random.Random, folder: Path
) -> tuple[str, list[str], dict[str, Any]]:
    """Kill a command once and go on: (signal, faults, figures)."""
    sent, choice = rng.choice(SIGNALS), {}
    if rng.random() < 0.65 and usual.writes:
        choice = {"at": rng.randint(1, usual.writes), "delay": rng.choice(DELAYS)}
    else:
        choice = {"after": rng.uniform(0, usual.seconds)}
    ended = run_child(scene.command, folder, sent=sent, **choice)
    told, faults = f"{signal.Signals(sent).name} {choice}", []
    if ended.code not in (0, *CODES[sent]):
        faults.append(f"exit code {ended.code} after {signal.Signals(sent).name}: {ended.err.strip()[-300:]}")
    if "Traceback" in ended.err:
        faults.append(f"traceback after {signal.Signals(sent).name}: {ended.err.strip()[-300:]}")
    faults += [f"half a file after {signal.Signals(sent).name}: {name}" for name in halves(folder)]
    if sent != signal.SIGKILL and (left := _parts(folder)):
        faults.append(f"leftover after {signal.Signals(sent).name}: {left}")
    figures = {"signal": signal.Signals(sent).name, "ended": ended.code == 0, "went on": 0}
    if not (ended.code == 0 and scene.resume):
        had = any(folder.rglob("resume.ckpt"))
        tries = [(*scene.command, *scene.resume), scene.command, (*scene.command, "--overwrite")]
        for command in tries if scene.resume else [scene.command]:
            again = run_child(list(command), folder)
            figures["went on"] += 1
            if again.code != 2:
                break
        if scene.resume and had and figures["went on"] > 1:
            faults.append("lost: --resume is refused although an epoch was finished")
        if again.code != 0 and not (scene.command[0] == "gauges" and again.code == 2):
            faults.append(f"the next command: exit code {again.code}: {again.err.strip()[-300:]}")
    if left := _parts(folder):
        faults.append(f"leftover after the next command: {left}")
    faults += [f"other result: {one}" for one in unlike(folder / scene.written, whole)]
    return told, faults, figures


def _parts(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if PART.search(path.name)]


def unlike(found: Path, whole: Path) -> list[str]:
    """How the folder that a stopped and continued command left differs from an undisturbed one's."""
    if (whole / "recipe.yaml").is_file():
        return differences(found, whole)
    if (whole / "fold-1").is_dir():
        folds = [fold.name for fold in whole.glob("fold-*")]
        missing = [] if (found / "folds.json").is_file() else ["no folds.json"]
        return missing + [f"{fold}: {one}" for fold in folds for one in differences(found / fold, whole / fold)]
    return bodies(found, whole)


def run_scene(name: str, scene: Scene, seed: int, numbers: range, kept: Path) -> Iterator[Record]:
    """The records of so many kills of a scene. Call it in a process that is this scene's own: it imports."""
    for module in scene.imports:
        __import__(module)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="keylite-kills-") as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        usual = run_child(scene.command, whole)
        if usual.code != 0:
            yield Record(-1, name, None, [f"harness: the undisturbed command fails: {usual}"], {})
            return
        for number in numbers:
            folder = Path(place) / f"kill{number}"
            folder.mkdir()
            start = time.monotonic()
            rng = random.Random(f"{name}:{seed}:{number}")
            told, faults, figures = kill_once(scene, usual, whole / scene.written, rng, folder)
            if faults:
                where = kept / f"kills-{name.replace(', ', '-')}-{seed}-{number}"
                shutil.rmtree(where, ignore_errors=True)
                shutil.copytree(folder, where)
                (where / "CASE.txt").write_text("\n".join([str(scene.command), told, *faults]))
            shutil.rmtree(folder)
            yield Record(number, name, 0, [f"{fault} ({told})" for fault in faults], figures, time.monotonic() - start)
