"""`keylite train`: its flags are the fields of Recipe. Imported when the verb is used, for it needs them at once."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import Parameter

from keylite.cli import INTERRUPTED, As, Reading, fail
from keylite.recipe import Recipe, descriptions, field_types, make_recipe, read_recipe

log = logging.getLogger("keylite")


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _help(name: str, text: str, default: object) -> str:
    options = get_args(get_args(field_types()[name])[0])
    choices = f" ({', '.join(options)})" if options and all(isinstance(option, str) for option in options) else ""
    return f"{text}{choices}; default {_shown(default)}"


Flags = dataclasses.make_dataclass(
    "Flags",
    [
        (name, Annotated[str | None, Parameter(help=_help(name, text, default), group="Recipe")], None)
        for name, (text, default) in descriptions().items()
    ],
    frozen=True,
)
Flags.__module__ = __name__  # where its annotations are looked up


def train(
    *,
    data: Path,
    out: Path,
    val: Path | None = None,
    recipe: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    resume: bool = False,
    overwrite: bool = False,
    val_fraction: float = 0.15,
    reading: As = Reading(),  # noqa: B008 - frozen
    flags: Annotated[Any, Parameter(name="*")] = None,
) -> None:
    """Train a model on labelled images; the best epoch by val NME is OUT/model.safetensors.

    Parameters
    ----------
    data
        labelled images: COCO keypoints JSON, or CSV
    out
        folder of the run
    val
        labelled images to validate on; without it a part of the data is held out, by group
    recipe
        YAML of training choices
    set_
        name=value: one choice, over the recipe file's
    resume
        go on where a killed or stopped run in OUT left off
    overwrite
        start anew in a folder that holds a run
    val_fraction
        share held out without --val
    """
    from keylite.pipeline import train

    made = recipe_of(recipe, set_, {} if flags is None else dataclasses.asdict(flags))
    training = reading.labels(data)
    if val is None:
        training, validation = training.split(val_fraction, seed=made.seed)
        log.info(
            "no --val: %d objects of %d groups held out, %d of %d left to train on",
            len(validation), len(validation.groups), len(training), len(training.groups),
        )  # fmt: skip
    else:
        validation = reading.labels(val)
    try:
        path = train(
            made,
            training,
            validation,
            out,
            resume=resume,
            overwrite=overwrite,
            skip_bad=reading.skip_bad,
            max_megapixels=reading.max_megapixels,
        )
    except KeyboardInterrupt:
        fail("stopped; the same command with --resume goes on from the last whole epoch", INTERRUPTED)
    print(f"best model: {path}; next: keylite evaluate {path} --data TEST")


train.__annotations__["flags"] = Annotated[Flags | None, Parameter(name="*")]


def recipe_of(path: Path | None, assignments: tuple[str, ...], flags: dict[str, str | None]) -> Recipe:
    """The recipe file's choices, then --set, then flags; the last one wins."""
    recipe = make_recipe(read_recipe(path), str(path)) if path else Recipe()
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set: expected name=value, got {assignment!r}")
        recipe = make_recipe({name.strip(): value.strip()}, "--set", recipe)
    return make_recipe({name: value for name, value in flags.items() if value is not None}, "train", recipe)
