"""`keylite train`: its flags are the fields of Recipe. Imported when the verb is used, for it needs them at once."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import Parameter

from keylite.cli.output import show
from keylite.cli.shared import INTERRUPTED, USUAL, As, Reading, fail
from keylite.training.recipe import PRESETS, Recipe, descriptions, field_types, make_recipe, preset

log = logging.getLogger("keylite")

VAL_FRACTION = 0.15


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
    preset_: Annotated[
        str | None, Parameter(name="--preset", help=f"{', '.join(PRESETS)}: what the recipe starts from")
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
        YAML of training choices, over the preset's
    set_
        name=value: one choice, over the recipe file's
    resume
        go on where a killed or stopped run in OUT left off
    overwrite
        start anew in a folder that holds a run
    val_fraction
        share held out without --val
    folds
        train so many models, each measured on a part of the groups that it has not seen, into OUT/fold-1 and so on
    blocks
        with --folds: hold out runs of frames in the order of their names, for a single video
    profile
        take times of a step's parts: data, forward, backward, optimizer, logging; OUT/profile.json
    """
    from keylite.runtime.files import require_outputs
    from keylite.training.folder import checkpoints

    made = recipe_of(recipe, set_, {} if flags is None else dataclasses.asdict(flags), preset_)
    if recipe and not resume:
        require_outputs({"recipe.yaml": out / "recipe.yaml"}, {"recipe": recipe})
    options: dict[str, Any] = {
        "resume": resume,
        "overwrite": overwrite,
        "skip_bad": reading.skip_bad,
        "max_megapixels": reading.max_megapixels,
    }
    if blocks and folds is None:
        raise ValueError("blocks: cuts a video into folds; say into how many with --folds")
    if profile and folds is not None:
        raise ValueError("profile: measures one run; leave out --folds")
    if folds is not None and (val is not None or val_fraction != VAL_FRACTION):
        given = "val" if val is not None else "val-fraction"
        raise ValueError(f"{given}: has no effect with --folds, which hold out each part in turn; leave it out")
    before = checkpoints(out)
    try:
        if folds is None:
            _train(made, data, val, val_fraction, out, reading, options | {"profile": profile})
        else:
            _train_folds(made, data, folds, blocks, out, reading, options)
    except KeyboardInterrupt:
        fail(_how_to_go_on(out, resume, overwrite, before), INTERRUPTED)


train.__annotations__["flags"] = Annotated[Flags | None, Parameter(name="*")]


def _how_to_go_on(out: Path, resume: bool, overwrite: bool, before: set[tuple[Path, int]]) -> str:
    """What is said of a run that was stopped. before: the checkpoints in its folder as it began."""
    from keylite.training.folder import checkpoints

    now = checkpoints(out)
    if now and now == before and not resume:
        return f"stopped before anything was written; the run in {out} is as it was"
    if not now:
        return "stopped before an epoch was finished: there is nothing to resume; the same command starts anew"
    with_resume = "" if resume else f" with --resume{' in place of --overwrite' if overwrite else ''}"
    return f"stopped; the same command{with_resume} goes on from the last whole epoch"


def _train(
    made: Recipe,
    data: Path,
    val: Path | None,
    val_fraction: float,
    out: Path,
    reading: Reading,
    options: dict[str, Any],
) -> None:
    """One model."""
    from keylite.training.processes import speaks
    from keylite.training.train import train

    path = train(
        made,
        reading.labels(data),
        None if val is None else reading.labels(val),
        out=out,
        val_fraction=val_fraction,
        **options,
    )
    if speaks(made):
        _say_what_came(path)


def _say_what_came(path: Path) -> None:
    """The last line of a run that was worth it; of one that was not, the warning is the last."""
    from keylite.evaluation.report import no_better
    from keylite.runtime.modelfile import read_spec

    report = read_spec(path).report
    assert report is not None  # of what training has just written
    nme, mean_shape_nme = report["nme"], report["mean_shape_nme"]
    if not no_better(nme, mean_shape_nme):
        figures = f"val NME {nme:.2%}, the mean shape's {mean_shape_nme:.2%}; 1 % is {report['percent_px']:.3g} px"
        print(f"best model: {path} ({figures}); next: keylite evaluate {path} --data TEST")


def _train_folds(
    made: Recipe, data: Path, folds: int, blocks: bool, out: Path, reading: Reading, options: dict[str, Any]
) -> None:
    """A model a fold, and their table."""
    from keylite.training.folds import REPORT, train_folds
    from keylite.training.folds_report import folds_parts

    show(folds_parts(train_folds(made, reading.labels(data), out=out, folds=folds, blocks=blocks, **options)))
    print(f"wrote {out / REPORT}; a model to use: the same command without --folds")


def recipe_of(
    path: Path | None, assignments: tuple[str, ...], flags: dict[str, str | None], name: str | None = None
) -> Recipe:
    """The preset's choices, then the recipe file's, then --set, then flags; the last one wins."""
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
