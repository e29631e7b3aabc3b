"""`keylite train`: trains a model. Its flags are made from the fields of the recipe."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import Parameter

from keylite.cli.output import show
from keylite.cli.shared import INTERRUPTED, USUAL, As, Reading, fail
from keylite.training.expected import field_types
from keylite.training.presets import PRESETS, preset
from keylite.training.recipe import VAL_FRACTION, Recipe, descriptions, make_recipe

log = logging.getLogger("keylite")


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _help(name: str, text: str, default: object) -> str:
    options = get_args(get_args(field_types(Recipe)[name])[0])
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
Flags.__module__ = __name__  # cyclopts looks its annotations up there


def train(
    *,
    data: Path,
    out: Path,
    val: Path | None = None,
    preset_: Annotated[
        str | None, Parameter(name="--preset", help=f"choices to start from: {', '.join(PRESETS)}")
    ] = None,
    recipe: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    resume: bool = False,
    overwrite: bool = False,
    val_fraction: float = VAL_FRACTION,
    folds: int | None = None,
    blocks: bool = False,
    profile: bool = False,
    reading: As = USUAL,
    flags: Annotated[Any, Parameter(name="*")] = None,
) -> None:
    """Train a model on labelled images. OUT/model.safetensors is the epoch with the lowest NME on the validation set.

    Parameters
    ----------
    data
        labelled images: a file or a folder, such as COCO, YOLO-pose, CVAT, labelme or CSV
    out
        folder of the run
    val
        labelled images to validate on; without it, the part val of the data, or else whole groups are held out
    recipe
        YAML file of training choices; they replace those of the preset
    set_
        name=value: one choice; it replaces that of the recipe file
    resume
        continue a killed or stopped run in OUT
    overwrite
        start anew in a folder that holds a run
    val_fraction
        fraction of the data that is held out without --val
    folds
        train this many models, each measured on groups that it has not seen; they are written to OUT/fold-1 and so on
    blocks
        with --folds, for a single video: hold out frames that follow each other, in the order of their names
    profile
        measure the parts of a training step: data, forward, backward, optimizer, logging; writes OUT/profile.json
    """
    from keylite.runtime.files import require_outputs
    from keylite.training.stopping import saying_how_to_go_on

    choices = recipe_of(recipe, set_, {} if flags is None else dataclasses.asdict(flags), preset_)
    if recipe and not resume:
        require_outputs({"recipe.yaml": out / "recipe.yaml"}, {"recipe": recipe})
    options: dict[str, Any] = {
        "resume": resume,
        "overwrite": overwrite,
        "skip_bad": reading.skip_bad,
        "max_megapixels": reading.max_megapixels,
    }
    if blocks and folds is None:
        raise ValueError("blocks: expected --folds beside it: the number of parts that a video is cut into")
    if profile and folds is not None:
        raise ValueError("profile: measures one run, not folds; leave out --folds")
    if folds is not None and (val is not None or val_fraction != VAL_FRACTION):
        given = "val" if val is not None else "val_fraction"
        raise ValueError(f"{given}: has no effect with --folds, because each fold is held out in turn; leave it out")
    try:
        with saying_how_to_go_on(out, resume, overwrite):  # also while labels are read
            if folds is None:
                _train(choices, data, val, val_fraction, out, reading, options | {"profile": profile})
            else:
                _train_folds(choices, data, folds, blocks, out, reading, options)
    except KeyboardInterrupt as stop:
        fail(str(stop), INTERRUPTED)


train.__annotations__["flags"] = Annotated[Flags | None, Parameter(name="*")]


def _train(
    recipe: Recipe,
    data: Path,
    val: Path | None,
    val_fraction: float,
    out: Path,
    reading: Reading,
    options: dict[str, Any],
) -> None:
    """Train one model."""
    from keylite.data.formats.reading import read_train_and_val
    from keylite.training.processes import is_first_process
    from keylite.training.train import train

    both = None
    if val is None and reading.part is None and val_fraction == VAL_FRACTION:
        both = read_train_and_val(data, reading.labels)
    path = train(
        recipe,
        *(both or (reading.labels(data), None if val is None else reading.labels(val))),
        out=out,
        val_fraction=val_fraction,
        **options,
    )
    if is_first_process(recipe):
        _say_what_came(path)


def _say_what_came(path: Path) -> None:
    """Print the last line of a run, unless its model is no better than the mean shape: then a warning is the last."""
    from keylite.evaluation.report import no_better
    from keylite.runtime.modelfile import read_spec

    report = read_spec(path).report
    assert report is not None  # training has just written it
    nme, mean_shape_nme = report.nme, report.mean_shape_nme
    if not no_better(nme, mean_shape_nme):
        figures = (
            f"NME on validation {nme:.2%}, of the mean shape {mean_shape_nme:.2%}; 1 % is {report.percent_px:.3g} px"
        )
        print(f"best model: {path} ({figures}); next: keylite evaluate {path} --data TEST")


def _train_folds(
    recipe: Recipe, data: Path, folds: int, blocks: bool, out: Path, reading: Reading, options: dict[str, Any]
) -> None:
    """Train a model per fold, and print their table."""
    from keylite.training.folds import REPORT, train_folds
    from keylite.training.folds_report import folds_parts

    show(folds_parts(train_folds(recipe, reading.labels(data), out=out, folds=folds, blocks=blocks, **options)))
    print(f"wrote {out / REPORT}; a model to use: the same command without --folds")


def recipe_of(
    path: Path | None, assignments: tuple[str, ...], flags: dict[str, str | None], name: str | None = None
) -> Recipe:
    """The recipe: the preset's choices, replaced by those of the recipe file, then by --set, then by flags."""
    recipe = preset(name) if name else Recipe()
    if path:
        from keylite.training.recipe_file import read_recipe

        recipe = make_recipe(read_recipe(path), str(path), recipe)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set: expected name=value, got {assignment!r}")
        recipe = make_recipe({name.strip(): value.strip()}, "--set", recipe)
    return make_recipe({name: value for name, value in flags.items() if value is not None}, "train", recipe)
