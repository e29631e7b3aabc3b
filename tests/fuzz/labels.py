"""Cases of labels (COCO, wide CSV, DeepLabCut's CSV), boxes, recipes and lists: damaged as bytes, as text, as trees."""

from __future__ import annotations

import csv
import functools
import io
import json
import random
from pathlib import Path
from typing import Any

import yaml
from cases import Case
from damage import TEXTS, dumped, mutate_bytes, mutate_lines, mutate_tree, odd_value, spliced
from seeds import TRAINING
from workers import Reached

GROUPS = ("auto", "image", "block:2", "field:subject", "field:nothing", "regex:gauge_(.)", "regex:(", "block:0", "x")
LABELS = ("labels.json",) * 3 + ("labels.csv", "dlc.csv")


def dry_train(arguments: list[str]) -> None:
    """`keylite train` up to the first step: everything is read, checked and written, and no network made."""
    from keylite.cli import main
    from keylite.pytorch import training

    def reached(*_: Any, **__: Any) -> None:
        raise Reached

    kept = training.new_network, training.fit
    training.new_network, training.fit = (lambda *_: None), reached
    try:
        main(arguments)
    finally:
        training.new_network, training.fit = kept


def damaged_text(rng: random.Random, data: bytes, separators: str = ",;:\t ") -> bytes:
    """A text file with damaged fields, bytes, encoding or line ends."""
    if rng.random() < 0.75:
        text = data.decode()
        for _ in range(rng.choice((1, 1, 2, 5))):
            text = mutate_lines(rng, text, separators)
        text = text.replace("\n", rng.choice(("\n",) * 6 + ("\r\n", "\r")))
        encoding = rng.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16", "latin-1"))
        return text.encode(encoding, errors="replace" if encoding == "latin-1" else "surrogatepass")
    return mutate_bytes(rng, data, rng.choice((1, 2, 8)))


def damaged_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON file with damaged values, fields or bytes."""
    if rng.random() < 0.85:
        return dumped(rng, mutate_tree(rng, json.loads(data), rng.choice((1, 1, 1, 2, 3, 8))))
    return mutate_bytes(rng, data, rng.choice((1, 2, 8)))


def fractions(rng: random.Random, data: bytes) -> bytes:
    """COCO labels in another unit or convention, of all objects alike: what no single field shows."""
    tree = json.loads(data)
    factor, shift = rng.choice((1 / 96, 0.01, 10, 1000, -1, 0, 1e9)), rng.choice((0, 0, -50, 1e4))
    for annotation in tree["annotations"]:
        for name in rng.choice((("keypoints",), ("bbox",), ("keypoints", "bbox"))):
            annotation[name] = [
                value * factor + shift if i % 3 < 2 or name == "bbox" else value
                for i, value in enumerate(annotation[name])
            ]
    return json.dumps(tree).encode()


def damaged_labels(rng: random.Random, name: str, seeds: Path) -> bytes:
    data = (seeds / "labels" / name).read_bytes()
    chance = rng.random()
    if chance < 0.03:
        return spliced(rng, data, (seeds / "labels" / rng.choice(LABELS)).read_bytes())
    if name.endswith(".json"):
        return fractions(rng, data) if chance < 0.1 else damaged_json(rng, data)
    if chance < 0.1:
        rows, text = list(csv.reader(io.StringIO(data.decode()))), io.StringIO()
        for row in rows if chance < 0.07 else rng.sample(rows, 1):
            row[:] = [str(odd_value(rng))[:3000] if rng.random() < 0.3 else cell for cell in row]
        csv.writer(text).writerows(rows)
        return text.getvalue().encode("utf-8", "surrogatepass")
    return damaged_text(rng, data, ",")


def reading(rng: random.Random, images: Path) -> list[str]:
    """Flags that say how labels are read."""
    flags = ["--images", str(images)]
    if rng.random() < 0.3:
        flags.append("--skip-bad")
    if rng.random() < 0.2:
        flags += ["--group", rng.choice(GROUPS)]
    if rng.random() < 0.05:
        flags += ["--category", rng.choice(("gauge", "1", "other"))]
    if rng.random() < 0.1:
        flags += ["--pixel-origin", "corner"]
    return flags


def labels(rng: random.Random, seeds: Path, folder: Path) -> Case:
    """Damaged labels, in `evaluate` or in `train` up to its first step."""
    name, images = rng.choice(LABELS), seeds / "labels"
    box = name == "labels.json"
    (folder / name).write_bytes(damaged_labels(rng, name, seeds))
    flags = reading(rng, images)
    if rng.random() < 0.6:
        model = str(seeds / "models" / ("model.onnx" if box else "whole.onnx"))
        flags += ["--out", "report.json"] * (rng.random() < 0.3) + ["--draw", "worst"] * (rng.random() < 0.05)
        flags += ["--flips"] * (rng.random() < 0.1)
        if box and rng.random() < 0.1:
            flags += ["--sigmas", "0.1,0.1,0.1,0.1"]
        usual = ["evaluate", model, "--data", str(images / name), "--images", str(images)]
        return Case(
            ["evaluate", model, "--data", name, *flags], usual, ("report.json", "worst"), label=f"{name}, evaluate"
        )
    head = ["--head", rng.choice(("regression", "heatmap")), "--box", "annotation" if box else "image"]
    command = ["train", *TRAINING, *head, "--data", name, "--out", "run", *flags]
    usual = ["train", *TRAINING, *head[2:], "--data", str(images / name), "--out", "run", "--images", str(images)]
    if rng.random() < 0.2:
        command += ["--val", str(images / name)]
    dry = [functools.partial(dry_train, arguments) for arguments in (command, usual)]
    return Case(dry[0], dry[1], ("run",), label=f"{name}, train")


def boxes(rng: random.Random, seeds: Path, folder: Path) -> Case:
    """Damaged boxes, in `predict` and `evaluate`."""
    images, model = seeds / "labels", str(seeds / "models" / "model.onnx")
    good = (images / "boxes.json").read_bytes()
    (folder / "boxes.json").write_bytes(damaged_json(rng, good) if rng.random() < 0.9 else damaged_text(rng, good))
    if rng.random() < 0.5:
        command = ["evaluate", model, "--data", str(images / "labels.json")]
    else:
        command = [
            "predict",
            model,
            *(str(images / f"gauge_{i}.png") for i in range(rng.choice((1, 6)))),
            "--out",
            "out.json",
        ]
    usual = [*command, "--boxes", str(images / "boxes.json")]
    return Case([*command, "--boxes", "boxes.json"], usual, ("out.json",), label=f"boxes, {command[0]}")


def recipes(rng: random.Random, seeds: Path, folder: Path) -> Case:
    """Damaged recipes, in `train` up to its first step: as YAML and as flags."""
    good = (seeds / "labels" / "recipe.yaml").read_bytes()
    data = str(seeds / "labels" / "labels.json")
    start = ["train", "--pretrained", "none", "--threads", "1", "--data", data, "--out", "run"]
    usual = functools.partial(dry_train, [*start, "--recipe", str(seeds / "labels" / "recipe.yaml")])
    if rng.random() < 0.7:
        if rng.random() < 0.5:
            tree = mutate_tree(rng, yaml.safe_load(good), rng.choice((1, 1, 2)))
            damaged = dumped(rng, tree)
        else:
            damaged = damaged_text(rng, yaml_tricks(rng, good), ": ,")
        (folder / "recipe.yaml").write_bytes(damaged)
        command = [*start, "--recipe", "recipe.yaml"]
    else:
        names = list(yaml.safe_load(good)) + [
            "batch",
            "hidden",
            "accumulate",
            "freeze_epochs",
            "rotate",
            "jpeg",
            "normalize",
        ]
        flags = [part for name in rng.sample(names, 2) for part in (f"--{name.replace('_', '-')}", _flag_value(rng))]
        command = (
            [*start, *flags] if rng.random() < 0.7 else [*start, "--set", f"{rng.choice(names)}={_flag_value(rng)}"]
        )
    return Case(functools.partial(dry_train, command), usual, ("run",), label="recipe")


def _flag_value(rng: random.Random) -> str:
    value = odd_value(rng) if rng.random() < 0.7 else rng.choice((1, 32, 64, 1e-3, "auto", "32x64", "0:1", "off"))
    return (
        (value if isinstance(value, str) else json.dumps(value))
        .replace("\x00", "")[:2000]
        .encode(errors="replace")
        .decode()
    )


def yaml_tricks(rng: random.Random, good: bytes) -> bytes:
    """A recipe with what YAML alone has: anchors, tags, dates, documents, merges, blocks."""
    tricks = (
        "seed: &a [*a]", "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b, *b]", "seed: !!python/object:os.system ls",
        "created: 2024-99-99", "lr: 2024-01-01", "size: 1:30", "---\na: 1\n---\nb: 2", "<<: {seed: 1}", "? [1, 2]\n: 3",
        "seed: !!binary aGVsbG8=", "seed: !!set {a, b}", "lr: .inf", "lr: 0x1F", "seed: 0o17", "%YAML 9.9", "\t- a",
        "mirror: |\n  left:right", "1: 2", "null: 1", "seed: 99999999999999999999999", "true: false", "!!int x: 1",
        "l0: &l0 [x,x,x,x,x,x,x,x,x]\n" + "\n".join(f"l{i + 1}: &l{i + 1} [{','.join([f'*l{i}'] * 9)}]" for i in range(8)),
    )  # fmt: skip
    lines = good.decode().split("\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(tricks).replace("\t", rng.choice(("\t", " "))))
    return "\n".join(lines).encode()


def lists(rng: random.Random, seeds: Path, folder: Path) -> Case:
    """Damaged lists of pictures, in `predict`."""
    images, model = seeds / "labels", str(seeds / "models" / "whole.onnx")
    good = "\n".join(str(images / f"gauge_{i}.png") for i in range(6)).encode()
    damaged = damaged_text(rng, good, "/")
    if rng.random() < 0.3:
        damaged += b"\n" + rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    (folder / "list.txt").write_bytes(damaged)
    usual = ["predict", model, *(str(images / f"gauge_{i}.png") for i in range(6)), "--out", "out.json"]
    flags = ["--skip-bad"] * (rng.random() < 0.3) + ["--draw", "drawn"] * (rng.random() < 0.2)
    return Case(["predict", model, "list.txt", "--out", "out.json", *flags], usual, ("out.json", "drawn"), label="list")
