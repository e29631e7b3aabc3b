"""Images a second of the input pipeline, encoded file to tensor: keylite with augmentation, torchvision without any.

One process, one thread, the same JPEG files. Run `python benchmarks/pipeline.py --help`; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision import transforms

from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.data.formats import read_dataset
from keylite.data.gauges import gauges
from keylite.environment import processor, versions
from keylite.pipeline import augmentation_of
from keylite.recipe import Recipe
from keylite.run import resolve
from keylite.runtime.images import write_image
from keylite.runtime.spec import PIXEL_MEAN, PIXEL_STD

BATCH = 32
BASE = "PIL + torchvision, no augmentation"  # every ratio is against this row


# ---- what benchmarks share


def interleaved(rows: dict[str, Callable[[int], object]], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each row in each round, after one round that warms up.

    A round makes every row's steps 0..steps-1, rows in turn at each step: other work on the machine meets all rows. A
    row is called with a number that goes on rising from round to round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(rounds + 1):
        spent = dict.fromkeys(rows, 0.0)
        for step in range(steps):
            for name, row in rows.items():
                start = time.perf_counter()
                row(turn * steps + step)
                spent[name] += time.perf_counter() - start
        if turn:
            for name, value in spent.items():
                seconds[name].append(value)
    return seconds


def figures(seconds: dict[str, list[float]], images: int, base: str) -> dict[str, dict[str, Any]]:
    """Each row's images a second (median of rounds), and how many times as fast as `base` it was in each round."""
    found = {}
    for name, values in seconds.items():
        ratios = [slow / own for slow, own in zip(seconds[base], values, strict=True)]
        rate = images / statistics.median(values)
        found[name] = {"images_per_second": rate, "ratio": statistics.median(ratios), "ratio_of_each_round": ratios}
    return found


def machine(threads: int) -> dict[str, Any]:
    """What a figure depends on: processor, cores, threads, versions."""
    packages = versions() | {"torchvision": torchvision.__version__, "pillow": PIL.__version__}
    return {"machine": processor(), "cores": os.cpu_count(), "threads": threads, "versions": packages}


def heading(facts: dict[str, Any], title: str) -> str:
    """What stands above a table: the title, then machine and versions."""
    packages = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    return f"{title}\n{facts['machine']}, {facts['cores']} cores, {facts['threads']} thread(s) used; {packages}\n"


def show(facts: dict[str, Any], title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print a markdown table under a line that names machine and versions."""
    print(heading(facts, title))
    print("| row | images/s | ratio | ratio of each round |\n|---|---|---|---|")
    for name, row in rows.items():
        each = " ".join(f"{ratio:.2f}" for ratio in row["ratio_of_each_round"])
        print(f"| {name} | {row['images_per_second']:.0f} | {row['ratio']:.2f} | {each} |")
    print()


def options(description: str | None, *, rounds: int | None = 7, size: int | None = 128) -> argparse.ArgumentParser:
    """The flags that benchmarks share, with these defaults; one that is None is left out."""
    parser = argparse.ArgumentParser(description=description)
    if rounds:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help=f"5 or more for a figure to quote (default {rounds})"
        )
    if size:
        parser.add_argument("--size", type=int, default=size, help=f"px of the input (default {size})")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    return parser


def keep(path: Path | None, facts: dict[str, Any]) -> None:
    """Write the figures as JSON, where that was asked for."""
    if path:
        path.write_text(json.dumps(facts, indent=2) + "\n")


def use_threads(threads: int) -> None:
    """Hold OpenCV and torch to so many threads."""
    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)


# ---- the pipelines


def pipelines(data: Dataset, size: int) -> dict[str, Callable[[int], torch.Tensor]]:
    """Rows of the table: step number -> a batch of its images.

    keylite gives uint8 pixels, since its networks normalise; one row does that too, to end where torchvision does.
    """
    recipe = resolve(Recipe(size=size, box="image", strength=1.0), len(data))
    augmentation = augmentation_of(recipe, data.skeleton)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    transform = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize((mean.flatten() / 255).tolist(), (std.flatten() / 255).tolist()),
        ]
    )

    def items(step: int) -> range:
        return range(step * BATCH, (step + 1) * BATCH)  # Examples take items past the end as the next epoch's

    def with_torchvision(step: int) -> torch.Tensor:
        paths = [data.images[item % len(data)] for item in items(step)]
        return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])

    def with_keylite(**choices: Any) -> Callable[[int], torch.Tensor]:
        examples = Examples(data, recipe.input_size, box="image", **choices)
        return lambda step: torch.from_numpy(examples.batch(items(step))[0])

    augmented = with_keylite(augmentation=augmentation)
    return {
        BASE: with_torchvision,
        "keylite, default augmentation": augmented,
        "keylite, default augmentation, cached": with_keylite(augmentation=augmentation, cache=True),
        "keylite, default augmentation, normalised": lambda step: (
            (augmented(step).permute(0, 3, 1, 2).float() - mean) / std
        ),
        "keylite, no augmentation": with_keylite(),
    }


def gauge_files(folder: Path, count: int) -> Dataset:
    """Rendered gauges, 192 px JPEG files."""
    data = gauges(count)
    paths = tuple(folder / f"gauge_{index:05d}.jpg" for index in range(count))
    for path, image in zip(paths, data.images, strict=True):
        write_image(path, np.asarray(image))
    return dataclasses.replace(data, images=paths)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, help="COCO JSON, one object an image; else rendered gauges")
    parser.add_argument("--images", type=int, default=256, help="images a round, in batches of 32 (default 256)")
    choices = parser.parse_args()
    use_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if choices.data:
            data = read_dataset(choices.data)
            data = data.subset(np.arange(min(choices.images, len(data))))
        else:
            data = gauge_files(Path(folder), choices.images)
        steps = max(1, len(data) // BATCH)
        seconds = interleaved(pipelines(data, choices.size), steps, choices.rounds)
    facts = machine(threads=1) | {"data": data.name, "size": choices.size, "images": steps * BATCH}
    rows = figures(seconds, facts["images"], BASE)
    show(facts, f"{facts['images']} images a round of {data.name}, to {choices.size} px", rows)
    keep(choices.json, facts | {"rows": rows})


if __name__ == "__main__":
    main()
