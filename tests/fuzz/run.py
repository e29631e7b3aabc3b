"""Run the cases of all kinds and hold each to the promise; faults are told and kept, with their files, in fuzz-failures/.

`python tests/fuzz/run.py --short` is part of `make test`; without it, it is `make fuzz`, which takes up to two hours on two cores and
with --write makes the figures of docs/reliability.md. `--kinds labels,kills --share 0.1` runs less, and
`--case KIND:SEED:NUMBER` one case again, all of it shown. The exit code is 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
sys.path.insert(0, str(Path(__file__).resolve().parent))

import checkpoints
import commands
import kills
import labels
import models
import pictures
from cases import Maker, kind_of
from page import PAGE, figures, with_figures
from seeds import make_seeds
from workers import Job, Record, called, case_of, run_cases

KEPT = Path("fuzz-failures").absolute()
KINDS: dict[str, tuple[Maker, int, int]] = {  # name: what makes its cases, how many are short, how many are long
    "labels": (labels.labels, 100, 40_000),
    "boxes": (labels.boxes, 40, 4_000),
    "recipes": (labels.recipes, 30, 4_000),
    "lists": (labels.lists, 20, 2_000),
    "pictures": (pictures.pictures, 60, 10_000),
    "models": (models.models, 40, 4_180),
    "specs": (models.specs, 20, 700),
    "pytorch_checkpoints": (functools.partial(checkpoints.checkpoints, "pytorch"), 0, 100),
    "tensorflow_checkpoints": (functools.partial(checkpoints.checkpoints, "tensorflow"), 0, 40),
    "flags": (commands.flags, 30, 3_000),
    "arrays": (commands.arrays, 0, 2_000),
}
SCENES = {  # name of a command that is killed: how often in the short form, how often in the long one; slow ones first
    "train, TensorFlow": (0, 54),
    "folds, TensorFlow": (0, 6),
    "export, LiteRT": (0, 12),
    "train, PyTorch": (0, 60),
    "folds, PyTorch": (0, 14),
    "export, ONNX": (0, 20),
    "predict": (2, 130),
    "predict, lines": (0, 110),
    "gauges": (2, 100),
}
TOLD = 3  # cases of each fault that are told and kept
MINUTE = 60.0  # seconds between two lines that say how far it is


def prepare() -> None:
    """Import what cases need, once, before workers are forked."""
    import lightning
    import onnxruntime
    import torch

    import keylite.pytorch.training

    assert lightning
    assert onnxruntime
    assert keylite.pytorch.training
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # or each worker would look through all modules' objects again and again, and copy their pages


def all_seeds(kinds: list[str], seeds: Path) -> None:
    """The undamaged files that these kinds need; made in forks, because a network or OpenCV starts threads."""
    boxes, picture = seeds / "labels" / "boxes.json", seeds / "labels" / "gauge_0.png"
    in_a_fork(lambda: make_seeds(seeds))
    for name in dict.fromkeys(models.FILES) if "models" in kinds else ():
        path = seeds / "models" / name
        rest = ["--boxes", str(boxes), "--threads", "1", "--out", f"{path}.points.json"]
        in_a_fork(lambda path=path, rest=rest: called(["predict", str(path), str(picture), *rest]))
    for framework in ("pytorch", "tensorflow"):
        if f"{framework}_checkpoints" in kinds:
            checkpoints.make_run(framework, seeds)


def in_a_fork(function: Callable[[], object]) -> None:
    """Call a function in a process of its own, whose threads no worker inherits. RuntimeError if it fails."""
    pid = os.fork()
    if not pid:
        try:
            function()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the undamaged files cannot be made")


# ---- all cases of a kind


def run_kind(
    kind: str, seed: int, numbers: range, seeds: Path, workers: int, records: list[Record], told: Counter[str]
) -> None:
    """Add all records of a kind, and how often each fault came; the first cases of each are told and kept."""
    job = Job(kind, KINDS[kind][0], seed, seeds, KEPT)
    start = last = time.monotonic()
    for record in run_cases(job, numbers, workers):
        records.append(record)
        fresh = [fault for fault in record.faults if told[kind_of(fault)] < TOLD]
        told.update(kind_of(fault) for fault in record.faults)
        for fault in fresh:
            print(f"{kind}:{seed}:{record.number}  {fault[:400]}", flush=True)
        if record.faults and not fresh:
            shutil.rmtree(KEPT / f"{kind}-{seed}-{record.number}", ignore_errors=True)
        if time.monotonic() - last > MINUTE:
            last = time.monotonic()
            print(f"{kind}: {len(records)} of {len(numbers)}, {last - start:.0f} s", flush=True)
    codes = dict(Counter(str(record.code) for record in records).most_common())
    print(
        f"{kind}: {len(records)} cases in {time.monotonic() - start:.0f} s, exit codes {codes}, {sum(told.values())} faults",
        flush=True,
    )


def run_scenes(
    seed: int, counts: dict[str, range], seeds: Path, workers: int, records: list[Record], told: Counter[str]
) -> None:
    """Add all records of the kills: each command in fresh interpreters, because the two frameworks do not share one."""
    waiting = [(name, part) for name, numbers in counts.items() for part in parts_of(numbers, workers) if part]
    running: list[subprocess.Popen[str]] = []

    def work() -> None:
        while waiting:
            name, numbers = waiting.pop(0)
            start = time.monotonic()
            command = [sys.executable, __file__, "--scene", name, "--seeds", str(seeds), "--seed", str(seed)]
            command += ["--first", str(numbers.start), "--count", str(len(numbers))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                running.append(process)
                for line in process.stdout or ():
                    if line.startswith("["):
                        tell(Record(*json.loads(line)))
            if process.returncode:
                told[f"harness: {name} ended with {process.returncode}"] += 1
            print(f"kills, {name}: {len(numbers)} in {time.monotonic() - start:.0f} s", flush=True)

    def tell(record: Record) -> None:
        records.append(record)
        for fault in record.faults:
            told[kind_of(fault)] += 1
            print(f"kills, {record.label}:{seed}:{record.number}  {fault[:400]}", flush=True)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        waiting.clear()
        for process in running:
            process.terminate()


def parts_of(numbers: range, count: int) -> list[range]:
    """So many parts of the numbers, as long as each other but for one: all workers are busy to the end."""
    edges = [numbers.start + len(numbers) * i // count for i in range(count + 1)]
    return [range(*pair) for pair in itertools.pairwise(edges)]


# ---- the command line


def show_case(case: str, seeds: Path) -> None:
    """One case again: its files, its command, what came of it."""
    kind, seed, number = case.split(":")
    job = Job(kind, KINDS[kind][0], int(seed), seeds)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        made = case_of(job, int(number), Path(place))
        for path in sorted(Path(place).iterdir()):
            print(f"{path.name}: {path.read_bytes()[:3000]!r}" if path.is_file() else path.name)
        print(made)
        outcome = called(made.command)
        print(outcome, outcome.crash, sep="\n")
        if made.check and outcome.code == 0:
            print(made.check(outcome))


def stop(number: int, _: object) -> None:
    """A signal that ends the run as Ctrl-C does."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", help="KIND:SEED:NUMBER: run one again, and show all of it")
    parser.add_argument("--kinds", default=",".join([*KINDS, "kills"]))
    parser.add_argument("--short", action="store_true", help="what `make test` runs")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    parser.add_argument("--scene", help=argparse.SUPPRESS)  # the rest: how it starts itself for kills
    parser.add_argument("--seeds", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    if asked.scene:
        scene, numbers = kills.scenes(asked.seeds)[asked.scene], range(asked.first, asked.first + asked.count)
        with contextlib.suppress(KeyboardInterrupt):  # whoever started it was stopped, and says so
            for record in kills.run_scene(asked.scene, scene, asked.seed, numbers, KEPT):
                print(json.dumps(record), flush=True)
        return
    prepare()
    kinds, start = asked.case.split(":")[:1] if asked.case else asked.kinds.split(","), time.monotonic()
    records: dict[str, list[Record]] = {}
    faults: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="keylite-fuzz-seeds-") as folder:
        seeds = Path(folder)
        os.environ["KEYLITE_FAULTS"] = str(seeds / "faults")
        (seeds / "faults").mkdir()
        times = {name: both for name, (_, *both) in KINDS.items()} | {name: list(both) for name, both in SCENES.items()}
        counts = {name: round(both[not asked.short] * asked.share) for name, both in times.items()}
        ranges = {name: range(asked.first, asked.first + count) for name, count in counts.items()}
        all_seeds([kind for kind in kinds if asked.case or counts.get(kind)], seeds)
        if asked.case:
            show_case(asked.case, seeds)
            return
        stopped = False
        try:
            for kind in kinds:
                told: Counter[str] = Counter()
                rest = (seeds, asked.workers, records.setdefault(kind, []), told)
                try:
                    if kind == "kills":
                        run_scenes(asked.seed, {name: ranges[name] for name in SCENES}, *rest)
                    elif ranges[kind]:
                        run_kind(kind, asked.seed, ranges[kind], *rest)
                finally:
                    faults.update({f"{kind}: {name}": count for name, count in told.items()})
        except KeyboardInterrupt:
            stopped = True
            print("stopped; this is what was run until then:")
    for name, count in faults.most_common():
        print(f"{count:6d} {name}")
    text = figures(records, asked.seed, (time.monotonic() - start) / 60)
    if asked.write and not stopped:
        PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    if not asked.short:
        print(text, flush=True)
    sys.exit(130 if stopped else 1 if faults else 0)


if __name__ == "__main__":
    main()
