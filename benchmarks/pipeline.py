"""How many images per second the input pipeline makes, from file to tensor, compared with torchvision.

keylite augments, torchvision does not; with --peers other libraries with similar augmentation are measured, too. Each
row has processes of its own, with one thread, and all rows read the same JPEG files.
Run `python benchmarks/pipeline.py --help`; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from PIL import Image
from rounds import (
    Facts,
    Row,
    alone,
    figures,
    interleaved,
    machine,
    options,
    paragraph,
    photo,
    speeds,
    tell,
    use_threads,
)
from torchvision import transforms

from keylite.data.arrays import from_arrays
from keylite.data.augmentation import Augmentation
from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.data.formats.reading import read_dataset
from keylite.data.rendered.gauges import gauges
from keylite.runtime.geometry import crop_box
from keylite.runtime.images import write_image
from keylite.runtime.lite import PIXEL_MEAN, PIXEL_STD
from keylite.training.recipe import Recipe
from keylite.training.schedule import resolve
from keylite.training.train import augmentation_of

TITLE = "Pipeline: encoded file to tensor"
BATCH = 32
BASE = "PIL + torchvision, no augmentation"  # every ratio is against this row
ROWS = (
    BASE,
    "keylite, default augmentation",
    "keylite, default augmentation, cached",
    "keylite, default augmentation, normalised",
    "keylite, no augmentation",
)
COPIES = 3  # processes of a row, which take turns: where its memory happens to lie makes one a fifth faster or slower
WIDTH, HEIGHT = 1280, 720  # px of the JPEG files with small boxes
SIDES = (96, 256, 512)  # px of their boxes
GEOMETRY = ("rotate", "scale", "shift", "aspect")  # fields of an Augmentation that are named with their ranges
CHANGES = ("brightness", "contrast", "saturation", "hue", "grey", "blur", "noise", "jpeg", "occlude")


# ---- the pipelines


def augmentation_for(data: Dataset, size: int) -> Augmentation:
    """The default augmentation, without flips if no mirror pairs are known."""
    return augmentation_of(resolve(Recipe(size=size, strength=1.0), data), data.skeleton)


def pipelines(data: Dataset, size: int, box: str = "image") -> dict[str, Callable[[int], torch.Tensor]]:
    """Rows of a table: step number -> a batch of its images. box: as in the recipe.

    keylite gives uint8 pixels, since its networks normalise; one row does that too, to end where torchvision does.
    """
    augmentation = augmentation_for(data, size)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    transform: Any = transforms.Compose(  # its result is what the last step makes
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize((mean.flatten() / 255).tolist(), (std.flatten() / 255).tolist()),
        ]
    )
    regions = regions_of(data, size, box)

    def items(step: int) -> range:
        return range(step * BATCH, (step + 1) * BATCH)  # Examples take items past the end as the next epoch's

    def read(index: int) -> Image.Image:
        path = data.images[index]
        assert isinstance(path, Path)
        image = Image.open(path).convert("RGB")
        return image.crop(regions[index]) if regions else image

    def with_torchvision(step: int) -> torch.Tensor:
        return torch.stack([transform(read(item % len(data))) for item in items(step)])

    def with_keylite(**choices: Any) -> Callable[[int], torch.Tensor]:
        examples = Examples(data, (size, size), box=box, **choices)
        examples.keep_all()
        return lambda step: torch.from_numpy(examples.batch(items(step))[0])

    augmented = with_keylite(augmentation=augmentation)
    made = (
        with_torchvision,
        augmented,
        with_keylite(augmentation=augmentation, cache=True),
        lambda step: (augmented(step).permute(0, 3, 1, 2).float() - mean) / std,
        with_keylite(),
    )
    return dict(zip(ROWS, made, strict=True))


def row_of(name: str, data: Dataset, size: int, box: str) -> Callable[[int], None]:
    """One of the rows; each call makes the batches of all images, because preparing batches is all that it does."""
    batch = pipelines(data, size, box)[name]

    def turn(number: int) -> None:
        for step in steps_of(number, data):
            batch(step)

    turn(0)  # warm
    return turn


def steps_of(turn: int, data: Dataset) -> range:
    """The batches of a turn."""
    steps = max(1, len(data) // BATCH)
    return range(turn * steps, (turn + 1) * steps)


def regions_of(data: Dataset, size: int, box: str) -> list[tuple[int, int, int, int]] | None:
    """What a pipeline that decodes images whole crops: x0, y0, x1, y1 px of keylite's crop, a row an object.

    None for whole images.
    """
    if box == "image":
        return None
    examples = Examples(data, (size, size), box=box)
    corners = np.array([[0, 0], [size, size]])
    crops = [crop_box(one, (size, size), examples.padding).to_image(corners) for one in data.box]
    return [(x0, y0, x1, y1) for (x0, y0), (x1, y1) in (np.rint(xy).astype(int).tolist() for xy in crops)]


@contextlib.contextmanager
def running_peers(data: Dataset, size: int, box: str, failed: dict[str, str]) -> Iterator[dict[str, peers.Peer]]:
    """The rows of the peers that are installed."""
    task = {
        "paths": [str(path) for path in data.images],
        "boxes": regions_of(data, size, box),
        "xy": data.xy.tolist(),
        "size": size,
        "batch": BATCH,
        "augmentation": dataclasses.asdict(augmentation_for(data, size)),
    }
    with contextlib.ExitStack() as stack:
        yield {
            f"{name}, {peers.LIKE[name]}": stack.enter_context(peers.Peer(peers.command_of(name), task))
            for name in peers.PINS
            if name not in failed
        }


# ---- the images


def gauge_files(folder: Path, count: int) -> Dataset:
    """Rendered gauges, 192 px JPEG files."""
    data = gauges(count)
    paths = tuple(folder / f"gauge_{index:05d}.jpg" for index in range(count))
    for path, image in zip(paths, data.images, strict=True):
        write_image(path, np.asarray(image))
    return dataclasses.replace(data, images=paths)


def scene_files(folder: Path, count: int, side: int) -> Dataset:
    """Gauges in boxes of `side` px somewhere in JPEG files of WIDTH x HEIGHT, one a file; crops stay inside it."""
    generator = np.random.default_rng(side)
    made = gauges(count, size=side)
    half = round(side * (1 + Recipe().padding) / 2) + 1
    low = generator.integers((half, half), (WIDTH - half, HEIGHT - half), (count, 2)) - side // 2
    paths = [folder / f"scene_{side}_{index:05d}.jpg" for index in range(count)]
    for path, image, (x, y) in zip(paths, made.images, low.tolist(), strict=True):
        scene = photo(generator, WIDTH, HEIGHT)
        scene[y : y + side, x : x + side] = image
        write_image(path, scene)
    boxes = np.concatenate([low, low + side], axis=1).astype(np.float64)
    return from_arrays(paths, made.xy + low[:, None], skeleton=made.skeleton, boxes=boxes, name=f"boxes of {side} px")


def case(data: Dataset, what: str, choices: argparse.Namespace, box: str, failed: dict[str, str]) -> Facts:
    """A table: what its images are, by how much keylite keeps them averaged, and its rows."""
    size, images = (choices.size, choices.size), len(steps_of(0, data)) * BATCH
    examples = Examples(data, size, box=box, augmentation=augmentation_for(data, choices.size))
    averaged = examples.averaged(0)
    with contextlib.ExitStack() as stack:
        rows: dict[str, list[Row]] = {
            name: [stack.enter_context(alone(row_of, name, data, choices.size, box)) for _ in range(COPIES)]
            for name in ROWS
        }
        versions: dict[str, str] = {}
        for _ in range(COPIES if choices.peers else 0):
            for name, peer in stack.enter_context(running_peers(data, choices.size, box, failed)).items():
                row: Row = lambda turn, peer=peer: sum(peer(step) for step in steps_of(turn, data))  # noqa: E731
                row(0)
                rows.setdefault(name, []).append(row)
                versions |= peer.versions
        turns: dict[str, Row] = {
            name: lambda turn, copies=copies: copies[turn % COPIES](turn) for name, copies in rows.items()
        }
        seconds = interleaved(turns, 1, choices.rounds)
    facts = {"what": what, "images": images, "averaged": averaged, "versions": versions}
    return facts | {"rows": figures(seconds, images, BASE)}


# ---- the script


def parser() -> argparse.ArgumentParser:
    found = options(__doc__, rounds=2 * COPIES)
    found.add_argument("--data", type=Path, help="COCO JSON, one object per image (default: rendered gauges)")
    found.add_argument("--images", type=int, default=256, help="images per round, in batches of 32 (default 256)")
    found.add_argument(
        "--boxes", type=int, nargs="*", default=SIDES, help=f"sides of boxes in {WIDTH}x{HEIGHT} JPEGs, px"
    )
    found.add_argument("--scenes", type=int, default=64, help="images per round with small boxes (default 64)")
    found.add_argument("--peers", action="store_true", help="also other libraries, installed into .venv-peers")
    return found


def measure(choices: argparse.Namespace) -> Facts:
    """The figures of a table of whole images and of one for each size of small boxes."""
    use_threads(1)
    failed = peers.installed() if choices.peers else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if choices.data:
            data = read_dataset(choices.data)
            data = data.subset(np.arange(min(choices.images, len(data))))
        else:
            data = gauge_files(folder, choices.images)
        augmentation = dataclasses.asdict(augmentation_for(data, choices.size))
        what = f"{data.name}, whole images" if choices.data else "Rendered gauges in JPEG files of 192 px, whole images"
        cases = [case(data, what, choices, "image", failed)]
        for side in choices.boxes:
            what = f"Boxes of {side} px in JPEG files of {WIDTH}x{HEIGHT} px, grown by {Recipe().padding:.0%}"
            cases.append(case(scene_files(folder, choices.scenes, side), what, choices, "annotation", failed))
    facts = {
        "size": choices.size,
        "rounds": choices.rounds,
        "augmentation": augmentation,
        "cases": cases,
        "copies": COPIES,
    }
    return machine(threads=1) | facts | {"peers": choices.peers, "failed": failed}


def section(facts: Facts) -> str:
    """The part of the page."""
    a = facts["augmentation"]
    geometry = ", ".join(f"{name} {a[name]:g} (p {a[f'{name}_p']:g})" for name in GEOMETRY)
    changes = ", ".join(f"{name} {a[f'{name}_p']:g}" for name in CHANGES)
    parts = [
        paragraph(
            f"All rows use one thread and make crops of {facts['size']} px in batches of {BATCH}. Figures are",
            "medians of",
            f"{facts['rounds']} rounds; the ratio says how many times as fast as the first row a row is. That row",
            "decodes the image, crops the box if there is one, and does Resize, ToTensor, Normalize. keylite does its",
            f"default augmentation: geometry, {geometry}, flip (p {a['flip_p']:g}); and changes of pixels with these",
            f"probabilities: {changes}. It gives uint8 pixels, because its networks normalise them;",
            '"normalised" does that on the same thread, and "cached" keeps decoded images in memory. Each row has',
            f"{facts['copies']} processes, which take turns.",
        )
    ]
    if facts["peers"]:
        parts.append(of_peers(facts))
    for one in facts["cases"]:
        reduced = f"; the cache keeps them averaged by {one['averaged']}" if one["averaged"] > 1 else ""
        parts += [paragraph(f"{one['what']}, {one['images']} per round{reduced}:"), speeds(one["rows"])]
    return "\n\n".join(parts)


def of_peers(facts: Facts) -> str:
    """What the rows of other libraries do, which they are, and why some are not there."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["cases"][0]["versions"].items())
    words = [
        "Other libraries augment after a resize to the input and give uint8 pixels and keypoints, on one thread of a",
        f"process in an environment of their own ({versions}): the same geometry always, the same changes by the same",
        "probabilities, as near as they express them. Not as here:",
        "; ".join(f"{name}, {note}" for name, note in peers.NOTES.items() if name not in facts["failed"]) + ".",
    ]
    words += [f"{name} is left out: {why}." for name, why in facts["failed"].items()]
    return paragraph(*words)


if __name__ == "__main__":
    tell(sys.modules[__name__], None)
