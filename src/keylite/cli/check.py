"""`keylite check`: says what is wrong with labels, and writes a corrected copy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from keylite.cli.flags import as_flags
from keylite.cli.output import show
from keylite.cli.shared import FOUND, USUAL, As


def check(
    data: Path,
    *,
    val: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
    html: Path | None = None,
    fix: Path | None = None,
    format: Literal["coco", "yolo", "labelme", "label-studio", "cvat", "dlc", "csv"] | None = None,
    folds: int | None = None,
    out: Path | None = None,
    preset_: Annotated[
        str | None, Parameter(name="--preset", help="training choices of the folds to start from, as of keylite train")
    ] = None,
    recipe: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    blocks: bool = False,
    reading: As = USUAL,
) -> None:
    """Say what is wrong with labels, object by object. The exit code is 1 if something is, and 0 if nothing is.

    Parameters
    ----------
    data
        labels: a file or a folder, of which all parts are checked
    val
        labels that are held out: what they have in common with DATA is found, too
    json_output
        print JSON in place of tables
    html
        file to write: the findings with pictures of the objects; it embeds pictures of the data set
    fix
        corrected copy to write, with what is certain alone; each change is listed
    format
        format of the corrected copy; default: coco
    folds
        train this many models, and compare each label with the prediction of the one that has not seen its group
    out
        with --folds: folder of the models, and of pictures of suspects; finished folds are not trained again
    recipe
        with --folds: YAML file of training choices; they replace those of the preset
    set_
        with --folds: name=value, one training choice; it replaces that of the recipe file
    blocks
        with --folds, for a single video: leave out frames that follow each other, in the order of their names
    """
    from keylite.cli.train import recipe_of
    from keylite.data.formats.reading import parts_of
    from keylite.labels.check import Source, check_sources, crossing_of
    from keylite.labels.findings import parts_of_report

    if format and fix is None:
        raise ValueError("format: is about a corrected copy; ask for one with --fix, or leave it out")

    def source(path: Path, part: str | None, name: str) -> Source:
        flags = dataclasses.replace(reading, part=None)
        return Source(name, lambda skip_bad: flags.labels(path, part, skip_bad))

    parts = [reading.part] if reading.part else list(parts_of(data)) or [None]
    sources = [source(data, part, part or "") for part in parts]
    if val is not None:
        sources.append(source(val, "val" if parts_of(val) else None, "val"))
    choices = recipe_of(recipe, set_, {}, preset_) if recipe or set_ or preset_ else None
    crossing = crossing_of(folds, out, choices, blocks)
    report = check_sources(
        sources, html=html, fix=fix, format=format or "coco", crossing=crossing, max_megapixels=reading.max_megapixels
    )
    if json_output:
        print(as_flags(report.to_json().decode()))
    else:
        show(parts_of_report(report))
    if not report.clean:
        raise SystemExit(FOUND)
