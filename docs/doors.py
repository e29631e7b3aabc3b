"""The command line beside Python: for every flag of every verb the argument, function or value that does the same.

`python docs/make_tables.py` writes the tables into command-line.md; tests/test_docs.py holds them complete.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from typing import NamedTuple

import keylite
from keylite.cli.shared import Reading
from keylite.cli.verbs import VERBS


class Door(NamedTuple):
    """A verb in Python. functions: of keylite, the first one that has an argument of a flag's name takes the flag.

    others: flags that no argument bears the name of, and what does the same.
    """

    functions: tuple[str, ...]
    others: dict[str, str]


DOORS = {
    "train": Door(
        ("train", "train_folds"),
        {
            "recipe": "`recipe=`: `Recipe(...)`",
            "preset": "`preset(name)`",
            "set": "`Recipe(name=value)`",
        },
    ),
    "evaluate": Door(
        ("evaluate", "hold"),
        {
            "flips": "`flip_report(predictor, data, mirror)`",
            "reliability": "`plot_reliability({name: report.reliability}, path)`",
            "out": "`report.to_json()`; with `--parent`: `certificate.to_json()`",
            "worst": "`draw_worst(..., count)`",
            "draw": "`draw_worst(data, predictions, errors, count, folder)`",
        },
    ),
    "export": Door(("export", "export_all"), {"diagnose": "`diagnose(model, data, to=..., calibration=...)`"}),
    "predict": Door(
        ("Predictor", "predict_on_ray", "write_points"),
        {
            "MODEL": "`Predictor(model)`",
            "boxes": "`predictor(image, boxes)`",
            "data": "`write_points(model, data, out, format=)`",
            "format": "`write_points(model, images, out, format=)`, `predict_on_ray(format=)`",
            "INPUTS": "`Predictor(model)(image)`, or `.stream(images)`",
            "out": "`points.to_dict()`, `write_points(out=)`, `predict_on_ray(out=)`",
            "draw": "`points.plot(image)`",
            "ray": "`predict_on_ray(..., address=)`",
        },
    ),
    "benchmark": Door(
        ("benchmark",),
        {
            "data": "`evaluate(model, data)`",
            "normalize": "`evaluate(normalize=)`",
            "target": "`measure_target(model, target)`",
            "plot": "`plot_benchmark(times, reports, path)`",
            "out": "`benchmark(...).to_json()`",
        },
    ),
    "page": Door(("write_page",), {}),
    "info": Door(("read_spec",), {"MODEL": "`read_spec(model)`", "json": "`read_spec` gives a typed value"}),
    "check": Door(
        ("check",),
        {"json": "`report.to_json()`", "preset": "`recipe=`: `preset(name)`", "set": "`recipe=`: `Recipe(name=value)`"},
    ),
    "suggest": Door(
        ("suggest", "Predictor"),
        {
            "INPUTS": "`suggest(model, images)`",
            "boxes": "`suggest(model, [(image, boxes), ...])`",
            "out": "`chosen.images`",
            "copy": "`chosen.copy_to(folder)`",
            "json": "`chosen.to_json()`",
        },
    ),
    "convert": Door(("convert",), {}),
    "gauges": Door(("gauges",), {"out": "`write_dataset(data, folder)`"}),
}
READING = {"max_megapixels": "`train(max_megapixels=)`, `Predictor(max_megapixels=)`"}  # beside what read_dataset takes


def flags(verb: str) -> dict[str, bool]:
    """The flags and arguments of a verb: by its name in Python, whether it is given by place."""
    handler = getattr(importlib.import_module(f"keylite.cli.{verb}"), verb)
    found = {}
    for name, parameter in inspect.signature(handler).parameters.items():
        if name in ("reading", "flags"):  # these have tables of their own
            continue
        if dataclasses.is_dataclass(parameter.default):  # several flags
            found |= dict.fromkeys((field.name for field in dataclasses.fields(parameter.default)), False)
        else:
            plain = name.removesuffix("_output").removesuffix("_")
            found[plain] = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    return found


def in_python(verb: str, flag: str) -> str:
    """The argument, function or value in Python that does the same as a flag. KeyError if the flag has none."""
    door = DOORS[verb]
    for name, words in door.others.items():
        if name.lower() == flag:
            return words
    for function in door.functions:
        if flag in inspect.signature(getattr(keylite, function)).parameters:
            return f"`{function}({flag}=)`"
    raise KeyError(f"keylite {verb} --{flag}: no function of keylite takes it; say in docs/doors.py what does the same")


def reading_in_python(flag: str) -> str:
    """The same for the flags of every verb that takes --data."""
    taken: Callable[..., object] = keylite.read_dataset
    if flag in inspect.signature(taken).parameters:
        return f"`read_dataset({flag}=)`"
    return READING[flag]


def tables() -> str:
    """Markdown: a table per verb, and one of the flags that say how labels are read."""
    parts = []
    for verb in VERBS:
        rows = [f"### `keylite {verb}`", "", "| flag | in Python |", "|---|---|"]
        for flag, by_place in flags(verb).items():
            shown = flag.upper() if by_place else f"--{flag.replace('_', '-')}"
            rows.append(f"| `{shown}` | {in_python(verb, flag)} |")
        if verb == "train":
            rows.append("| every choice of the [recipe](recipe.md) | `Recipe(name=value)` |")
        parts.append("\n".join(rows))
    rows = ["### How labels are read: every verb with `--data`", "", "| flag | in Python |", "|---|---|"]
    for field in dataclasses.fields(Reading):
        rows.append(f"| `--{field.name.replace('_', '-')}` | {reading_in_python(field.name)} |")
    return "\n\n".join([*parts, "\n".join(rows)])
