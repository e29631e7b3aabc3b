"""Training on a GPU: images per second from JPEG files and of the bare step, how busy the GPU is, what workers make.

Needs a GPU and nvidia-smi. Run `python benchmarks/gpu.py --help`; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from pipeline import augmentation_for, gauge_files
from rounds import Facts, machine, options, paragraph, table, tell
from step import training_step

import keylite
from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.pytorch.batches import batches_of
from keylite.runtime.machine import cores
from keylite.training.processes import World
from keylite.training.recipe import Recipe

TITLE = "Training on a GPU"
FILES, VAL = 512, 16  # rendered JPEG files, which objects share; objects of val
SMI = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100")


def recipe_for(choices: argparse.Namespace, workers: int) -> Recipe:
    """The recipe of all rows."""
    return Recipe(
        size=choices.size,
        batch=choices.batch,
        precision=choices.precision,
        workers=workers,
        epochs=3,
        lr=3e-3,
        warmup_epochs=0.5,
        strength=1.0,
        mirror="off",
        pretrained="none",
        device="cuda",
    )


def bare_step(choices: argparse.Namespace, keypoints: int) -> float:
    """Images per second of forward, loss, backward and optimizer, with pixels that are on the GPU already."""
    step = training_step(recipe_for(choices, 0), keypoints, device="cuda")

    def steps(count: int) -> float:
        start = time.perf_counter()
        for number in range(count):
            step(number)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    steps(10)
    return statistics.median(20 * choices.batch / steps(20) for _ in range(5))


def loaded(data: Dataset, choices: argparse.Namespace, workers: int) -> float:
    """Images per second that this many workers make for training while nothing else runs."""
    count = max(4, 2 * workers)
    if len(data) < 4 * count * choices.batch:  # several rounds of all workers
        raise ValueError(f"--images: expected at least {4 * count * choices.batch}, got {len(data)}")
    size = choices.size, choices.size
    examples = Examples(data, size, augmentation=augmentation_for(data, choices.size), cache=True)
    batches = iter(batches_of(examples, choices.batch, World(), workers))
    start = 0.0
    for number, batch in zip(range(2 * workers + count), batches, strict=False):
        if isinstance(batch, Exception):
            raise batch
        if number < 2 * workers:  # made while the others started
            start = time.perf_counter()
    return count * choices.batch / (time.perf_counter() - start)


class EpochTimes(logging.Handler):
    """Records when the log says that an epoch is over."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("epoch "):
            self.times.append(time.perf_counter())


def trained(data: Dataset, val: Dataset, recipe: Recipe) -> Facts:
    """Images per second of `keylite train` after its first epoch, with validation, and how busy the GPU was."""
    ends, busy = EpochTimes(), []
    log = logging.getLogger("keylite")
    log.addHandler(ends)
    log.setLevel(logging.INFO)
    of_this = "-i", f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    smi = subprocess.Popen([*SMI, *of_this], stdout=subprocess.PIPE, text=True)

    def watch() -> None:
        for line in smi.stdout or ():
            with contextlib.suppress(ValueError):  # of a GPU that does not tell
                busy.append((time.perf_counter(), float(line)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with tempfile.TemporaryDirectory() as out:
            keylite.train(recipe, data, val, out=out, overwrite=True)
    finally:
        smi.kill()
        smi.wait()
        watcher.join()
    first, last = ends.times[0], ends.times[-1]
    seen = [share for when, share in busy if first < when < last]
    rate = (len(ends.times) - 1) * len(data) / (last - first)
    return {"images_per_second": rate, "busy": statistics.mean(seen) if seen else float("nan")}


def parser() -> argparse.ArgumentParser:
    found = options(__doc__, rounds=None, size=224)
    found.add_argument("--batch", type=int, default=128, help="objects per step (default 128)")
    found.add_argument("--precision", choices=("32", "bf16"), default="bf16", help="(default bf16)")
    found.add_argument(
        "--workers", type=int, nargs="+", default=[16, 8, 4], help="numbers of workers, a row each (default 16 8 4)"
    )
    found.add_argument("--images", type=int, default=16384, help="objects per epoch (default 16384)")
    return found


def measure(choices: argparse.Namespace) -> Facts:
    """The bare step, then each number of workers: what they make alone, and training with them."""
    if not torch.cuda.is_available() or shutil.which(SMI[0]) is None:
        raise SystemExit("error: gpu.py: expected a CUDA GPU and nvidia-smi, got none; run it where they are")
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        files = gauge_files(Path(folder), FILES + VAL)
        many = np.resize(np.arange(FILES), choices.images)
        data = dataclasses.replace(files.subset(np.arange(FILES)).subset(many), name="gauges")
        val = files.subset(np.arange(FILES, FILES + VAL))
        with ProcessPoolExecutor(1, spawn) as process:
            bare = process.submit(bare_step, choices, len(data.skeleton)).result()
        rows = {}
        for workers in choices.workers:
            with ProcessPoolExecutor(1, spawn) as process:
                rows[workers] = process.submit(trained, data, val, recipe_for(choices, workers)).result()
            rows[workers]["made"] = loaded(data, choices, workers)
    facts = {"size": choices.size, "batch": choices.batch, "precision": choices.precision, "gpu": gpu_name()}
    return machine(cores()) | facts | {"images": choices.images, "bare": bare, "rows": rows}


def gpu_name() -> str:
    return torch.cuda.get_device_name()


def section(facts: Facts) -> str:
    """The part of the page."""
    text = paragraph(
        f"{facts['gpu']}: `keylite train` of lite0 with the heatmap head at {facts['size']} px, {facts['precision']},",
        f"batches of {facts['batch']}, from rendered gauges in JPEG files of 192 px with the default augmentation.",
        f"Epochs after the first count, with {facts['images']} objects, validation and the writing of files. The bare",
        f"step of the same network makes {facts['bare']:.0f} images/s from pixels that are on the GPU already.",
        "nvidia-smi says how busy the GPU is. What workers make is measured without training.",
    )
    columns = "workers", "images/s", "of the bare step", "GPU busy", "images/s that workers make"
    cells = [
        (
            *(str(workers), f"{row['images_per_second']:.0f}", f"{row['images_per_second'] / facts['bare']:.2f}"),
            *(f"{row['busy']:.0f} %", f"{row['made']:.0f}"),
        )
        for workers, row in facts["rows"].items()
    ]
    return f"{text}\n\n{table(columns, cells)}"


if __name__ == "__main__":
    tell(sys.modules[__name__], None)
