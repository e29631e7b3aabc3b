"""The doctor of labels: reads a data set as training does, and says all that is wrong with it, object by object."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from keylite.data.dataset import Dataset
from keylite.data.formats.converting import TARGETS, convert, require_empty
from keylite.data.formats.reading import Labelled, as_dataset, parts_of, read_dataset
from keylite.evaluation.metrics import point_errors
from keylite.labels.corrections import corrected
from keylite.labels.crossing import cross_fitted
from keylite.labels.findings import CheckReport, Finding, PartFacts, finding_of, in_order
from keylite.labels.objects import box_findings, copy_findings, shape_findings, shapes_of
from keylite.labels.pages import page_of
from keylite.labels.suspects import suspect_findings
from keylite.labels.wholes import (
    doubt_findings,
    group_findings,
    overlap_findings,
    picture_findings,
    rounding_findings,
)
from keylite.pictures.worst import draw_worst
from keylite.runtime.errors import ArgumentError, DataError, ImageError
from keylite.runtime.files import require_outputs, write_bytes
from keylite.runtime.images import MAX_MEGAPIXELS, require_limit
from keylite.runtime.kinds import path_of, path_or_none, require_flags, require_kind, require_whole
from keylite.runtime.progress import step
from keylite.runtime.types import FilePath
from keylite.runtime.words import quoted
from keylite.training.recipe import Recipe, checked, require_no_patience
from keylite.version import __version__

SHEET = 48  # suspects that are drawn with their predictions
OF_SHAPES = ("swapped", "mirrored", "permuted", "shape", "point")
LONG = 50_000  # points: to check so many takes more than a second, so it is shown as a step


class Source(NamedTuple):
    """Where a part of the labels comes from.

    Attributes:
        name: The part: train, val or test; empty if the labels have no parts.
        read: Gives its data set; `read(True)` leaves out what cannot be used.
    """

    name: str
    read: Callable[[bool], Dataset]


class Crossing(NamedTuple):
    """Models of folds, by which labels are checked; see the arguments of `check`."""

    folds: int
    out: Path
    recipe: Recipe
    blocks: bool


def check(
    data: Labelled | Mapping[str, Labelled],
    *,
    val: Labelled | None = None,
    html: FilePath | None = None,
    fix: FilePath | None = None,
    format: str = "coco",
    folds: int | None = None,
    out: FilePath | None = None,
    recipe: Recipe | None = None,
    blocks: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> CheckReport:
    """Say what is wrong with labels, object by object: without a model, or by models of `folds`.

    Labels are read as training reads them; what it would refuse becomes a finding, and the rest is checked.
    docs/check.md lists the kinds of findings, and how reliably they are found.

    Args:
        data: The data set, or the path of labels, of which all parts are checked. Or parts by name: train, val, test.
        val: Labels that are held out: what they have in common with `data` is a finding. None: there are none.
        html: A file to write: the findings with pictures of the objects. It embeds pictures of the data set.
        fix: Where to write a corrected copy, a file or a folder as for `convert`; of several parts, a folder. Only
            corrections that are certain are made. `changes` of the report lists them, and what the copy leaves out
            because training refuses it. None: no copy is written.
        format: The format of the copy, as for `convert`.
        folds: Train so many models, each without one part of the groups, and compare every label with the prediction
            of the model that has not seen it. None: no model is trained.
        out: The folder of the folds; those that are finished in it are not trained again.
        recipe: The training choices of the folds; None: the defaults.
        blocks: Instead of groups, each fold leaves out a run of frames in the order of their names.
        max_megapixels: A larger image is refused.

    Returns:
        The report.

    Raises:
        ArgumentError: An argument has a wrong value, or an output cannot be written.
        DataError: The labels cannot be read at all.
        FileNotFoundError: There are no such labels.
        ModuleNotFoundError: scipy is not installed.

    Example:
        >>> report = keylite.check("labels.json", html="labels.html")
        >>> [finding.image for finding in report.findings if finding.kind == "swapped"]
    """
    sources = _sources("data", data)
    if val is not None:
        sources += [Source("val", source.read) for source in _sources("val", val)]
    crossing = crossing_of(folds, out, recipe, blocks)
    return check_sources(sources, html=html, fix=fix, format=format, crossing=crossing, max_megapixels=max_megapixels)


def crossing_of(folds: int | None, out: FilePath | None, recipe: Recipe | None, blocks: bool) -> Crossing | None:
    """The folds that the arguments ask for; ArgumentError if they do not go together."""
    require_flags(blocks=blocks)
    out, recipe = path_or_none("out", out), None if recipe is None else checked(recipe)
    if folds is None:
        if out is not None or recipe is not None or blocks:
            name = "out" if out is not None else "recipe" if recipe is not None else "blocks"
            raise ArgumentError(f"{name}: is about models that are trained; ask for them with `folds`, or leave it out")
        return None
    require_whole("folds", folds, least=2)
    if out is None:
        raise ArgumentError("out: expected a folder for the models of the folds, got none")
    return Crossing(folds, out, recipe or Recipe(), blocks)


def _sources(name: str, data: Labelled | Mapping[str, Labelled]) -> list[Source]:
    """The parts of an argument."""
    if isinstance(data, Mapping):
        return [Source(part, each.read) for part, labels in data.items() for each in _sources(name, labels)]
    if not isinstance(data, (str, os.PathLike)):
        whole = as_dataset(name, data)
        return [Source("", lambda _: whole)]
    path = path_of(name, data)

    def reader(part: str | None) -> Callable[[bool], Dataset]:
        return lambda skip_bad: read_dataset(path, part=part, skip_bad=skip_bad)

    return [Source(part, reader(part)) for part in parts_of(path)] or [Source("", reader(None))]


def check_sources(
    sources: list[Source],
    *,
    html: FilePath | None = None,
    fix: FilePath | None = None,
    format: str = "coco",
    crossing: Crossing | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> CheckReport:
    """As `check`, of parts that are read in any way."""
    html, fix = path_or_none("html", html), path_or_none("fix", fix)
    require_limit(max_megapixels)
    require_kind("format", format, str, "a text", f"one of {', '.join(TARGETS)}")
    if format not in TARGETS:
        raise ArgumentError(f"format: expected {', '.join(TARGETS)}, got {quoted(format)}")
    if crossing is not None and len(sources) > 1:
        raise ArgumentError(f"folds: expected labels of one part, got {len(sources)}; give one, and leave out `val`")
    folder = TARGETS[format].text is None or len(sources) > 1  # that the copy is
    files = {"html": html, "fix": None if folder else fix}
    names = {path.name for path in files.values() if path is not None}
    require_outputs(files, folders={"fix": fix if folder else None})
    if fix is not None and TARGETS[format].text is None:
        require_empty(fix, "fix")
    findings: list[Finding] = []
    left_out: list[str] = []
    sets: dict[str, Dataset] = {}
    for source in sources:
        name = source.name or ("train" if len(sources) > 1 else "")
        name = f"{name}{len(sets) + 1}" if name in sets else name
        own: list[Finding] = []
        data = _read(source, max_megapixels, own)
        require_outputs(files, data.files_named(names))
        if crossing is not None:
            _require_folds(data, crossing)
        left_out += [f"left out: {one.sentence}" for one in own]
        own += _examined(data, crossing, max_megapixels)
        for other in sets.values():
            own += overlap_findings(other, data)
        findings += [msgspec.structs.replace(one, part=name) for one in own]
        sets[name] = data
    ordered = in_order(findings)
    report = CheckReport(__version__, tuple(PartFacts.of(data) for data in sets.values()), ordered)
    if fix is not None:
        copies, changes = corrected(sets, ordered)
        lost = convert(copies if len(copies) > 1 else next(iter(copies.values())), fix, format=format)
        report = msgspec.structs.replace(report, changes=(*left_out, *changes), lost=lost)
    if html is not None:
        write_bytes(html, page_of(report, sets))
    return report


def _require_folds(data: Dataset, crossing: Crossing) -> None:
    """Raise ArgumentError if the data set cannot be divided into these folds, or the recipe does not suit them."""
    require_no_patience(crossing.recipe)
    (data.in_blocks(crossing.folds) if crossing.blocks else data).fold_of(crossing.folds, crossing.recipe.seed)


def _read(source: Source, max_megapixels: float, findings: list[Finding]) -> Dataset:
    """The data set of a part with every image read; what training refuses is left out, and added to the findings."""
    refusals = list[str]()
    data = _or_without_bad(source.read, refusals)
    data = _or_without_bad(lambda skip_bad: data.check_images(max_megapixels, skip_bad), refusals)
    for line in refusals:
        findings.append(finding_of(data, "refused", "error", line.removeprefix(f"{data.called}: ")))
    return data


def _or_without_bad(read: Callable[[bool], Dataset], refusals: list[str]) -> Dataset:
    """What `read` gives, or, if it refuses, what it gives without what is bad; then the refusal is added."""
    try:
        return read(False)
    except (DataError, ImageError, FileNotFoundError) as error:
        try:
            data = read(True)
        except (DataError, ImageError, FileNotFoundError):
            raise error from None
        refusals.append(str(error))
        return data


def _examined(data: Dataset, crossing: Crossing | None, max_megapixels: float) -> list[Finding]:
    """The findings about one part."""
    with step(f"checking {data.called}") if data.labelled.sum() > LONG else contextlib.nullcontext():
        shapes = shapes_of(data)
        findings = [
            *doubt_findings(data, shapes.chosen),
            *copy_findings(data),
            *shape_findings(data, shapes),
            *box_findings(data),
            *picture_findings(data),
            *rounding_findings(data),
            *group_findings(data, shapes),
        ]
    return findings if crossing is None else _crossed(data, findings, shapes.mirror, crossing, max_megapixels)


def _crossed(
    data: Dataset, findings: list[Finding], mirror: tuple[int, ...] | None, crossing: Crossing, max_megapixels: float
) -> list[Finding]:
    """The findings with those of models that have not seen the object, which replace what shapes alone said of it."""
    recipe, folder, parts = crossing.recipe, crossing.out, (crossing.folds, crossing.blocks)
    trained, predictions = cross_fitted(recipe, data, folder, *parts, max_megapixels)
    suspects = suspect_findings(trained, predictions.xy, mirror)
    doubted = np.isin(np.arange(len(trained)), [one.number or 0 for one in suspects])
    predicted = np.isfinite(predictions.xy)  # not so for a keypoint that the model of the fold has not learnt
    errors = point_errors(np.where(predicted, predictions.xy, 0), np.where(predicted, trained.xy, np.nan))
    errors = np.where(doubted[:, None], errors, np.nan)
    draw_worst(trained, predictions, errors, SHEET, folder / "suspects")
    rows = np.flatnonzero(data.boxed) if len(trained) < len(data) else np.arange(len(data))  # as objects were left out
    suspects = [msgspec.structs.replace(one, number=int(rows[one.number or 0]), data=data.called) for one in suspects]
    replaced = {one.number for one in suspects}
    known = {(one.number, one.kind): one.correction for one in findings}  # what shapes alone make certain
    suspects = [msgspec.structs.replace(one, correction=known.get((one.number, one.kind))) for one in suspects]
    return [one for one in findings if one.kind not in OF_SHAPES or one.number not in replaced] + suspects
