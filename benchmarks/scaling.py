"""Time and memory for a million labelled objects before the first epoch: reading a COCO file, preparing training.

`json.load` of the same file is measured for comparison. README.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from rounds import Facts, each_round, machine, options, paragraph, photo, spec_of, table, tell

from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.data.formats.reading import read_dataset
from keylite.data.mirror import choose_mirror
from keylite.evaluation.environment import peak_memory
from keylite.runtime.heads import Regression
from keylite.runtime.images import write_image
from keylite.training.run import baseline_report

TITLE = "Labels: a COCO file, and what training does with it first"
PER_IMAGE = 2.5  # objects, on average
WIDTH, HEIGHT = 640, 480
SIZE = (224, 224)  # px of the input
BASE = "json.load"  # every ratio is against this row
READ = "read_dataset"
ROW = "--row"  # what starts a process to be measured
VAL = 0.15  # share held out
SMOKE = 2_000  # annotations
COUNT, PICTURES = 200, "pictures"  # that are checked and read: how many, in which folder
LABELS = "labels.json"
CHUNK = 10_000  # entries that exist as Python objects while the file is written
SIDES = {  # of COCO's 17 keypoints: name: px to the side and px down in a person 240 px tall
    **{"eye": (5, -85), "ear": (9, -82), "shoulder": (22, -60), "elbow": (30, -30), "wrist": (32, 0)},
    **{"hip": (14, 0), "knee": (15, 42), "ankle": (15, 85)},
}
NAMES = ("nose", *(f"{side}_{part}" for part in SIDES for side in ("left", "right")))
BODY = np.array([(0, -80), *((sign * x, y) for x, y in SIDES.values() for sign in (1, -1))], np.float64)
MARGIN = 10.0  # px of a box around its points
UNLABELLED, OCCLUDED = 0.1, 0.2  # shares of keypoints

# ---- the file


def write_labels(folder: Path, annotations: int, seed: int = 0) -> Path:
    """A COCO file of so many people, several an image, beside its images, which are empty files: reading looks for
    them, and opens none."""
    generator = np.random.default_rng(seed)
    count = images_of(annotations)
    names = [f"{number:012d}.jpg" for number in range(count)]
    for name in names:
        (folder / name).touch()
    of_image = np.sort(generator.integers(0, count, annotations))
    path = folder / LABELS
    with open(path, "wb") as file:
        file.write(b'{"images":[')
        for start in range(0, count, CHUNK):
            _write(file, [_image(at, names[at]) for at in range(start, min(start + CHUNK, count))], start)
        file.write(b'],"annotations":[')
        for start in range(0, annotations, CHUNK):
            _write(file, _people(start, of_image[start : start + CHUNK], generator), start)
        category = {"id": 1, "name": "person", "keypoints": NAMES}
        file.write(b'],"categories":[' + msgspec.json.encode(category) + b"]}")
    return path


def images_of(annotations: int) -> int:
    """How many images the file names."""
    return max(1, round(annotations / PER_IMAGE))


def write_pictures(folder: Path, count: int) -> None:
    """JPEGs of about the bytes of a photo of their size."""
    generator = np.random.default_rng(0)
    (folder / PICTURES).mkdir()
    for number in range(count):
        write_image(folder / PICTURES / f"{number:06d}.jpg", photo(generator, WIDTH, HEIGHT))


def _write(file: BinaryIO, entries: list[dict[str, Any]], start: int) -> None:
    """A part of a JSON array whose entries before `start` are written."""
    file.write((b"," if start else b"") + msgspec.json.encode(entries)[1:-1])


def _image(at: int, name: str) -> dict[str, Any]:
    return {"id": at + 1, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 1}


def _people(start: int, of_image: np.ndarray, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Annotations of people seen from the front, with points to a hundredth of a px."""
    count, keypoints = len(of_image), len(NAMES)
    scale = generator.uniform(0.5, 1.2, (count, 1, 1))
    middle = generator.uniform((0.3 * WIDTH, 0.45 * HEIGHT), (0.7 * WIDTH, 0.55 * HEIGHT), (count, 1, 2))
    xy = np.round(middle + scale * (BODY + generator.normal(0, 4, (count, keypoints, 2))), 2)
    dice = generator.random((count, keypoints))
    v = np.where(dice < UNLABELLED, 0.0, np.where(dice < UNLABELLED + OCCLUDED, 1.0, 2.0))
    low, high = xy.min(axis=1) - MARGIN, xy.max(axis=1) + MARGIN
    box = np.round(np.concatenate([low, high - low], axis=1), 2)
    rows = np.concatenate([np.where(v[..., None] > 0, xy, 0.0), v[..., None]], axis=2).reshape(count, -1)
    columns = (of_image + 1, rows, box, np.round(0.6 * box[:, 2] * box[:, 3], 2), (v > 0).sum(axis=1))
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": labelled,
            "area": area,
            "bbox": sides,
            "keypoints": [int(value) if value.is_integer() else value for value in points],
        }
        for number, (image, points, sides, area, labelled) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=start + 1
        )
    ]


# ---- what is measured, each row in a process of its own

STEPS: dict[str, Callable[[Dataset, Dataset], object]] = {  # of all objects and of the part held out
    "fingerprint": lambda data, val: data.fingerprint(),
    "shared_groups": lambda data, val: data.shared_groups(val),
    "choose_mirror": lambda data, val: choose_mirror(data),
    "mean_shape": lambda data, val: Examples(data, SIZE).mean_shape(),
    "baseline": lambda data, val: baseline_report(
        np.full((len(NAMES), 2), 0.5, np.float32), spec_of(Regression(len(NAMES)), SIZE, "annotation", 0.25), val
    ),
    "order": lambda data, val: Examples(data, SIZE).order(0),
}


def tell_steps(row: str, folder: Path) -> None:
    """The process of a row: print what each of its steps took, as JSON."""
    steps: dict[str, dict[str, Any]] = {}

    def measured(name: str, step: Callable[[], Any]) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        result = step()
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        steps[name] = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak": peak_memory()}
        return result

    if row == BASE:
        with open(folder / LABELS, encoding="utf-8") as file:
            measured(BASE, lambda: json.load(file))
    else:
        data = measured(READ, lambda: read_dataset(folder / LABELS))
        _, val = measured("split", lambda: data.split(VAL))
        for name, step in STEPS.items():
            measured(name, lambda step=step: step(data, val))
        paths = sorted((folder / PICTURES).iterdir())
        pictures = from_arrays(paths, np.ones((len(paths), 1, 2)))
        measured("check_images", pictures.check_images)
        measured("read_image", lambda: [pictures.read_image(image).shape for image in range(len(paths))])
    print(json.dumps(steps))


def told(row: str, folder: Path) -> dict[str, dict[str, Any]]:
    """What `tell_steps` says in a fresh process."""
    command = [sys.executable, "-W", "error", str(Path(__file__).resolve()), ROW, row, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{row}: a process to measure it failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def steps_of(folder: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Each step's medians over rounds: seconds, CPU seconds, the most 10^6 bytes that its process has held so far.

    Ratios are against the base of the same round. Rows take turns. Memory is None where the system does not tell it.
    """
    taken: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        steps = {name: step for row in (BASE, READ) for name, step in told(row, folder).items()}
        base = steps[BASE]
        for name, step in steps.items():
            ratios = {f"{key}_ratio": step[key] and step[key] / base[key] for key in ("cpu_seconds", "peak")}
            taken.setdefault(name, []).append(step | ratios)
    return {
        name: {key: _median(each, key) for key in each[0]}
        | {"ratio_of_each_round": [step["cpu_seconds_ratio"] for step in each]}
        for name, each in taken.items()
    }


def _median(rounds: list[dict[str, Any]], key: str) -> float | None:
    values = [step[key] for step in rounds]
    return None if None in values else statistics.median(values)


# ---- the table

COLUMNS = ("step", "s", "CPU s", "peak MB", "CPU ratio", "memory ratio", "CPU ratio of each round")


def section(facts: Facts) -> str:
    """The part of the page."""
    rows = []
    for name, row in facts["rows"].items():
        cells = [f"{row[key]:.2f}" for key in ("seconds", "cpu_seconds", "cpu_seconds_ratio")]
        cells.insert(2, "" if row["peak"] is None else f"{row['peak']:.0f}")
        rows.append([name, *cells, "" if row["peak_ratio"] is None else f"{row['peak_ratio']:.2f}", each_round(row)])
    text = paragraph(
        f"The file has {facts['annotations']:,} annotations of {len(NAMES)} keypoints in {facts['images']:,} images,",
        f"{facts['megabytes']:.0f} MB; {facts['pictures']} JPEGs of {WIDTH}x{HEIGHT} are checked and read.",
        "The first row",
        "is a process of its own, and the others are one process; only the check of images uses several threads.",
        f"Figures are medians of {facts['rounds']} rounds, and ratios are to the first row. Memory is the",
        "most that the",
        "process has held so far.",
    )
    return f"{text}\n\n{table(COLUMNS, rows)}"


def parser() -> argparse.ArgumentParser:
    found = options(__doc__, rounds=3, size=None)
    found.add_argument("--annotations", type=int, default=1_000_000, help="annotations in the file (default 1000000)")
    found.add_argument("--smoke", action="store_true", help=f"does it run? {SMOKE} annotations, one round")
    return found


def measure(choices: argparse.Namespace) -> Facts:
    """The figures of a file of so many annotations."""
    asked = (choices.annotations, choices.rounds, COUNT)
    annotations, rounds, pictures = (SMOKE, 1, 4) if choices.smoke else asked
    with tempfile.TemporaryDirectory() as folder:
        path = write_labels(Path(folder), annotations)
        write_pictures(Path(folder), pictures)
        facts = {"annotations": annotations, "images": images_of(annotations), "megabytes": path.stat().st_size / 1e6}
        facts |= {"pictures": pictures, "rounds": rounds, "rows": steps_of(Path(folder), rounds)}
        return machine(threads=1) | facts


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [ROW]:
        tell_steps(arguments[1], Path(arguments[2]))
    else:
        tell(sys.modules[__name__], arguments)


if __name__ == "__main__":
    main()
