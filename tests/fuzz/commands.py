"""Cases of command lines, with odd flags and values, and of arrays and boxes that a program hands over."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case
from damage import NUMBERS, TEXTS
from labels import dry_train
from seeds import TRAINING
from workers import Reached, called

import keylite

SAFE_TEXTS = tuple(t for t in TEXTS if t not in ("/", "..", "~", "a/../../b") and "\x00" not in t and "\ud800" not in t)
COSTLY = ("--ray", "--devices", "--nodes", "--count", "--runs", "--help", "--version", "--workers", "--diagnose")
SMALL = ("--count", "--runs")  # flags whose large values only take long, as they say


def verbs(seeds: Path) -> dict[str, tuple[list[str], tuple[str, ...]]]:
    """A good command of each verb, and what it may write."""
    images, models = seeds / "labels", seeds / "models"
    data, picture, boxes = str(images / "labels.json"), str(images / "gauge_0.png"), str(images / "boxes.json")
    return {
        "train": (["train", *TRAINING, "--data", data, "--out", "run"], ("run",)),
        "evaluate": (["evaluate", str(models / "model.onnx"), "--data", data], ("out.json",)),
        "export": (["export", str(models / "model.safetensors"), "--data", data, "--out", "out.onnx"], ()),
        "predict": (["predict", str(models / "model.onnx"), picture, "--boxes", boxes], ("out.json",)),
        "benchmark": (["benchmark", str(models / "model.onnx"), "--runs", "3"], ("out.json", "benchmark.png")),
        "info": (["info", str(models / "model.tflite")], ()),
        "gauges": (["gauges", "gauges", "--count", "1"], ("gauges",)),
    }


SWITCHES = ("--skip-bad", "--overwrite", "--flips")
USUAL = {  # flag: values that it takes wherever it is known, so that not every odd command is refused at its first flag
    "--normalize": ("box_diagonal", "box_side", "100px", "0,1"),
    "--group": ("auto", "image", "block:2", "field:subject", "regex:gauge_(.)"),
    "--pixel-origin": ("index", "corner"),
    "--missing-mark": ("0,0", "-1,-1"),
    "--category": ("gauge",),
    "--engine": ("onnx",),
    "--sigmas": ("0.1,0.1,0.1,0.1",),
    "--precision": ("32", "fp32"),
    "--to": ("onnx",),
    "--head": ("regression", "rle", "simcc", "heatmap"),
    "--box": ("annotation", "image"),
    "--size": ("32", "64x32"),
    "--mirror": ("auto", "off", "scale_start:scale_end"),
    "--loss": ("mse", "mae", "huber", "smooth_l1", "wing", "soft_wing"),
    "--optimizer": ("adam", "adamw"),
    "--schedule": ("cosine", "constant"),
    "--preset": ("tiny", "small", "fast", "balanced", "accurate"),
    "--cache": ("ram", "off"),
    "--family": ("train", "test"),
    "--format": ("coco", "keylite"),
    "--set": ("epochs=3", "rotate=5"),
    **dict.fromkeys(("--threads", "--seed", "--worst", "--batch", "--accumulate", "--epochs", "--folds"), ("1", "2")),
    **dict.fromkeys(("--padding", "--jitter-box", "--rotate", "--budget-nme", "--brightness", "--lr"), ("0.1", "0.2")),
    **dict.fromkeys(("--budget", "--max-megapixels", "--hidden", "--delta", "--calibration-count"), ("10", "20")),
}


def usual_value(rng: random.Random, flag: str, seeds: Path) -> list[str]:
    """A flag with a value that it takes; none if it has none here."""
    if flag in SWITCHES:
        return [flag]
    if flag.endswith("-p"):
        return [flag, rng.choice(("0", "0.5", "1"))]
    paths = {"--images": seeds / "labels", "--boxes": seeds / "labels" / "boxes.json"}
    paths |= dict.fromkeys(("--data", "--val", "--calibration"), seeds / "labels" / "labels.json")
    if flag in paths:
        return [flag, str(paths[flag])]
    return [flag, rng.choice(USUAL[flag])] if flag in USUAL else []


@functools.cache
def flags_of(verb: str) -> tuple[str, ...]:
    """The flags that a verb's help names."""
    text = called([verb, "--help"]).out
    return tuple(dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)))


REGEXES = ("(", "(" * 3000, "[", "[[a]", "a{99999999999}", "(?P<x>", "\\", "*", "(a)(b)?", "", ".", "\\1")
BETWEEN = {"--normalize": ",", "--sigmas": ",", "--missing-mark": ",", "--mirror": ":", "--size": "x", "--set": "="}


def odd_words(rng: random.Random, flag: str) -> str:
    """A value in the small language that a flag's values are written in, with nonsense in it."""
    odd = [str(rng.choice((rng.choice(NUMBERS), rng.choice(SAFE_TEXTS), "9" * 400))) for _ in range(rng.randint(1, 5))]
    if flag == "--group":
        return rng.choice((f"regex:{rng.choice(REGEXES)}", f"field:{odd[0]}", f"block:{odd[0]}"))[:4000]
    return (BETWEEN[flag].join(odd) + rng.choice(("", "", "px")))[:4000]


def value_for(rng: random.Random, flag: str, seeds: Path) -> str:
    """A value for a flag: a file of the right or another kind, a number, a word, or nonsense."""
    if flag in SMALL:
        return rng.choice(("0", "-1", "1", "2", "x", "", "1e9", "nan"))
    if flag in ("--group", *BETWEEN) and rng.random() < 0.6:
        return odd_words(rng, flag)
    if rng.random() < 0.35:
        places = [*(seeds / "labels").iterdir(), *(seeds / "models").iterdir(), seeds / "labels", seeds / "nothing"]
        return str(rng.choice(sorted(places)))
    if rng.random() < 0.4:
        return str(rng.choice((1, 1, 2, 3, 0.1, 0.5, 16, 64)))
    words = (
        "image",
        "auto",
        "off",
        "int8",
        "fp16",
        "litert",
        "onnx",
        "tensorflow",
        "coco",
        "jsonl",
        "0,1",
        "box_side",
        "out.json",
    )
    return str(rng.choice((rng.choice(NUMBERS), rng.choice(SAFE_TEXTS), rng.choice(words), rng.randint(-3, 300))))[
        :3000
    ]


def dry_export(arguments: list[str]) -> None:
    """`keylite export` up to the conversion."""
    import keylite.pytorch.exporting as pytorch
    from keylite.cli import main

    def reached(*_: Any, **__: Any) -> None:
        raise Reached

    kept, pytorch.export = pytorch.export, reached
    try:
        main(arguments)
    finally:
        pytorch.export = kept


DRY = {"train": dry_train, "export": dry_export}


def flags(rng: random.Random, seeds: Path, folder: Path) -> Case:
    """A good command with flags and values that nobody would give, or without some of what it needs."""
    verb = rng.choice(("train", "train", "evaluate", "export", "predict", "predict", "benchmark", "info", "gauges"))
    good, may_write = verbs(seeds)[verb]
    known = [flag for flag in flags_of(verb) if flag not in COSTLY]
    command = list(good)
    for _ in range(rng.choice((1, 1, 2, 3))):
        flag = rng.choice(known) if rng.random() < 0.95 else rng.choice(("--nothing", "-x", "--", "---", "--data"))
        given = [flag] if rng.random() < 0.1 else [flag, value_for(rng, flag, seeds)]
        if rng.random() < 0.6:
            given = usual_value(rng, flag, seeds) or given
        if flag in ("--out", "--draw", "--golden", "--plot", "--reliability"):  # where files would be written
            given = [flag, rng.choice(("out.json", "there", "there/", "", "-", "file/inside", "x" * 300, "a\nb"))]
            may_write = (
                *may_write,
                "out.json",
                "there",
                "x" * 300,
                "a\nb",
                "out.png",
                "there.png",
                "gauge_0_points.jpg",
            )
        if flag in command and flag in good and rng.random() < 0.8:
            at = command.index(flag)
            command[at : at + 2] = given
        else:
            command += given
    if rng.random() < 0.05:
        del command[rng.randrange(1, len(command))]
    (folder / "file").write_text("a file\n")
    command = [part for part in command if "\x00" not in part]
    if dry := DRY.get(verb):
        return Case(functools.partial(dry, command), functools.partial(dry, good), may_write, label=verb)
    return Case(command, good, may_write, label=verb)


# ---- arrays


def odd_array(rng: random.Random, usual: np.ndarray) -> Any:
    """An array of another shape, type, layout or content; or none at all."""
    values = np.array([np.nan, np.inf, -np.inf, 0, -1, 1e300, 1e7, 1e-300])
    changed = usual.copy()
    if usual.size and np.issubdtype(usual.dtype, np.floating):
        changed.flat[rng.randrange(usual.size)] = rng.choice(values.tolist())
    return rng.choice(
        (
            lambda: changed,
            lambda: (
                usual.astype(rng.choice(("f2", "f8", "i8", "u2", "?", "O", "c16")))
                if usual.dtype.kind in "fiu"
                else usual
            ),
            lambda: usual.tolist(),
            lambda: usual[..., ::-1],
            lambda: np.flip(usual),
            lambda: usual[::2],
            lambda: np.asfortranarray(usual),
            lambda: usual[None],
            lambda: usual.reshape(-1),
            lambda: usual[:, :1] if usual.ndim > 1 else usual,
            lambda: usual[:0],
            lambda: usual[:, :0] if usual.ndim > 1 else usual,
            lambda: np.broadcast_to(usual.reshape(-1)[0], (100_000, 100_000, 3)),
            lambda: usual * usual.dtype.type(rng.choice((0, 1, 100))) if usual.dtype.kind in "fiu" else usual,
            lambda: np.full_like(usual, rng.choice((0, 1, 255))) if usual.dtype.kind in "fiu" else usual,
            lambda: usual.astype(str),
            lambda: None,
            lambda: "text",
            lambda: [],
            lambda: [None, None],
            lambda: np.ma.masked_array(usual, np.zeros(usual.shape, bool)),
            lambda: usual.astype(usual.dtype.newbyteorder()),
        )
    )()


@functools.cache
def _predictor(path: str) -> Any:
    from keylite import Predictor

    return Predictor(path, threads=1)


def as_command(function: Any) -> None:
    """Call a function of keylite's; what it may raise for wrong input ends as the command line would."""
    from keylite.cli.shared import fail

    try:
        function()
    except (ValueError, OSError) as error:
        if not _innermost(error).startswith(str(Path(keylite.__file__).parent)):
            raise  # a message of numpy's or OpenCV's own
        fail(str(error), 2)


def _innermost(error: BaseException) -> str:
    import traceback

    return traceback.extract_tb(error.__traceback__)[-1].filename


def arrays(rng: random.Random, seeds: Path, folder: Path) -> Case:
    """Odd arrays, boxes and points, for `from_arrays` with `evaluate`, and for a `Predictor`."""
    images, xy = _pictures()
    box = np.tile([2.0, 2.0, 94.0, 94.0], (len(images), 1))
    if rng.random() < 0.5:
        image = odd_array(rng, images[0]) if rng.random() < 0.6 else images[0]
        boxes = odd_array(rng, box) if rng.random() < 0.7 else box
        predict = functools.partial(predicted, str(seeds / "models" / "model.onnx"))
        usual = functools.partial(predict, images[0], box)
        command = functools.partial(predict, image, boxes)
        return Case(functools.partial(as_command, command), usual, label="Predictor")
    choices: dict[str, Any] = {"boxes": box, "visible": np.full(xy.shape[:2], 2), "groups": ["a", "b", "c", "d"]}
    values: dict[str, Any] = {"images": list(images), "xy": xy} | choices
    for name in rng.sample(list(values), rng.choice((1, 1, 2))):
        usual = np.asarray(values[name])
        values[name] = odd_array(rng, usual)
    evaluated_here = functools.partial(evaluated, str(seeds / "models" / "model.onnx"))
    good = functools.partial(evaluated_here, {"images": list(images), "xy": xy} | choices)
    return Case(functools.partial(as_command, functools.partial(evaluated_here, values)), good, label="from_arrays")


@functools.cache
def _pictures() -> tuple[np.ndarray, np.ndarray]:
    from seeds import gauge

    made = [gauge(number) for number in range(4)]
    return np.stack([image for image, _ in made]), np.stack([xy for _, xy in made]).astype(np.float64)


def predicted(model: str, image: Any, boxes: Any) -> None:
    points = _predictor(model)(image, boxes)
    if not np.isfinite(points.xy).all():
        raise RuntimeError(f"points: not finite for boxes {boxes!r:.200}")


def evaluated(model: str, values: dict[str, Any]) -> None:
    from keylite import evaluate, from_arrays

    evaluate(
        _predictor(model),
        from_arrays(values["images"], values["xy"], **{k: values[k] for k in ("boxes", "visible", "groups")}),
    )
