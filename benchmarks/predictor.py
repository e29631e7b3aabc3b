"""How many images per second a predictor handles: around its engine, and in a folder, one by one or as a stream.

The first table compares crop and decode with one `cv2.resize`; the second compares `Predictor.stream` with one call per
image; the last line compares the memory of `keylite predict` over many images with that over few.
Run `python benchmarks/predictor.py --help`; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rounds import Facts, figures, interleaved, machine, options, paragraph, spec_of, speeds, tell, use_threads

from keylite.data.rendered.gauges import gauges
from keylite.pytorch.exporting import export
from keylite.pytorch.model import EfficientNetLiteRegressor, save_model
from keylite.runtime.geometry import crop_box, whole_box
from keylite.runtime.heads import HEADS
from keylite.runtime.images import write_image
from keylite.runtime.machine import cores
from keylite.runtime.predictor import BATCH, Predictor

TITLE = "Predictor: around its engine, streams, memory"
KEYPOINTS = 68
WIDTH, HEIGHT = 640, 480
BASE = "cv2.resize, INTER_AREA"  # every ratio is against this row
ONE_BY_ONE = "one by one, {} thread(s)"  # and of the second table against this one, of as many threads of the engine
FILES = 32  # JPEG files, listed again and again
FEW, MANY = 100, 10_000  # images whose memory is compared

PEAK = """
import sys
from keylite.cli import main
from keylite.evaluation.environment import peak_memory
try:
    main(["predict", *sys.argv[1:]])
except SystemExit as stop:
    assert not stop.code, stop.code
print(peak_memory())
"""


def stages(size: tuple[int, int]) -> dict[str, Callable[[int], object]]:
    """Rows of the first table, an image a step: what Predictor does, less the engine."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8), (WIDTH, HEIGHT))
    heads = {name: make(KEYPOINTS, 128, size) for name, make in HEADS.items()}
    raws = {name: rng.normal(size=(1, KEYPOINTS, head.channels)).astype(np.float32) for name, head in heads.items()}

    def predict(name: str) -> np.ndarray:
        crop = crop_box(whole_box(image), size, 0.0)
        crop.warp(image)
        unit_xy, _ = heads[name].decode(raws[name])
        return crop.from_unit(unit_xy[0])

    rows: dict[str, Callable[[int], object]] = {BASE: lambda _: cv2.resize(image, size, interpolation=cv2.INTER_AREA)}
    return rows | {f"crop and decode, {name}": lambda _, name=name: predict(name) for name in heads}


def streams(model: Path, files: list[Path], threads: int) -> dict[str, Callable[[int], object]]:
    """Rows of the second table, all files a step. threads: of the engine; readers come on top of them."""
    predictors = {batch: Predictor(model, threads=threads, batch=batch) for batch in (1, BATCH, 32)}

    def stream(batch: int, readers: int) -> Callable[[int], object]:
        return lambda _: list(predictors[batch].stream(files, readers=readers))

    rows: dict[str, Callable[[int], object]] = {
        ONE_BY_ONE.format(threads): lambda _: [predictors[BATCH](path) for path in files]
    }
    asked = [(1, 1), *((BATCH, readers) for readers in (1, 2, 4)), (32, 2)]
    return rows | {f"stream, batch {batch}, {readers} reader(s)": stream(batch, readers) for batch, readers in asked}


def predict_memory(model: Path, files: list[Path], images: int, folder: Path) -> float:
    """The most memory that `keylite predict --format jsonl` holds over so many images, 10^6 bytes."""
    listing = folder / "images.txt"
    listing.write_text("".join(f"{files[number % len(files)]}\n" for number in range(images)))
    asked = [model, listing, "--threads", "1", "--format", "jsonl", "--out", folder / "points.jsonl"]
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, asked)], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def random_model(folder: Path, size: tuple[int, int]) -> Path:
    """An `.onnx` file of lite0 and the default head with random weights."""
    spec = spec_of(HEADS["heatmap"](KEYPOINTS, 256, size), size)
    network = EfficientNetLiteRegressor(KEYPOINTS, spec.backbone, head=spec.head, size=size)
    save_model(network, spec, folder / "random.safetensors")
    export(folder / "random.safetensors", folder / "random.onnx", spec)
    return folder / "random.onnx"


def parser() -> argparse.ArgumentParser:
    found = options(__doc__)
    found.add_argument("--images", type=int, default=200, help="images per round of crop and decode (default 200)")
    found.add_argument("--model", type=Path, help="model of the stream (default: .onnx of lite0, random weights)")
    found.add_argument(
        "--threads", type=int, nargs="+", help="threads of the stream's engine (default 1 and all cores)"
    )
    found.add_argument("--side", type=int, default=640, help="side of the square JPEG files, px (default 640)")
    found.add_argument(
        "--memory", type=int, default=MANY, help=f"images to compare with {FEW}; 0: none (default {MANY})"
    )
    return found


def measure(choices: argparse.Namespace) -> Facts:
    """The figures of the tables, and the memory."""
    size = (choices.size, choices.size)
    opencv_threads = cv2.getNumThreads()
    use_threads(1)
    seconds = interleaved(stages(size), choices.images, choices.rounds)
    facts = machine(threads=1) | {"size": choices.size, "images": choices.images, "rounds": choices.rounds}
    facts |= {"side": choices.side, "rows": figures(seconds, choices.images, BASE)}
    cv2.setNumThreads(opencv_threads)  # its own choice, as in a prediction
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = choices.model or random_model(folder, size)
        files = [folder / f"gauge_{number:02d}.jpg" for number in range(FILES)]
        for path, image in zip(files, gauges(FILES, size=choices.side).images, strict=True):
            write_image(path, np.asarray(image))
        facts |= {"model": model.name, "streams": {}, "memory": {}}
        for threads in choices.threads or sorted({1, cores()}):
            seconds = interleaved(streams(model, files, threads), 1, choices.rounds)
            facts["streams"][threads] = figures(seconds, FILES, ONE_BY_ONE.format(threads))
        for count in (FEW, choices.memory) if choices.memory else ():
            facts["memory"][count] = predict_memory(model, files, count, folder)
    return facts


def section(facts: Facts) -> str:
    """The part of the page."""
    parts = [
        paragraph(
            f"The first table has what Predictor does around its engine: a crop of {facts['size']} px from a",
            f"{WIDTH}x{HEIGHT} image and {KEYPOINTS} keypoints, on one thread. Figures are medians of",
            f"{facts['rounds']}",
            f"rounds of {facts['images']} images; the ratio says how many times as fast as the first row a row is.",
        ),
        speeds(facts["rows"]),
    ]
    for threads, rows in facts["streams"].items():
        text = (
            f"{FILES} JPEG files of {facts['side']} px per round, {facts['model']}, {threads} thread(s) of the engine:"
        )
        parts += [text, speeds(rows)]
    if facts["memory"]:
        (few, little), (many, much) = facts["memory"].items()
        parts.append(
            f"`keylite predict` needed at most {much:.0f} MB for {int(many):,} images and {little:.0f} MB for {few}: "
            f"{much / little:.3f} times as much."
        )
    return "\n\n".join(parts)


if __name__ == "__main__":
    tell(sys.modules[__name__], None)
