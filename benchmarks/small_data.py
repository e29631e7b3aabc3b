"""How good a model of a hundred labelled frames of one video is: two mice in folds over blocks, and rendered gauges.

Each block of frames, in the order of their names, is measured by a model that was trained on the other blocks: that of
the last epoch, because the best epoch would be chosen on the frames that are measured. README.md says how to use it.
"""

from __future__ import annotations

import argparse
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rounds import Facts, machine_line, paragraph, table
from runs import (
    SMOKE,
    Run,
    Section,
    Work,
    carry_out,
    kept,
    listing,
    named,
    not_yet,
    recipe_in,
    run_options,
    sets,
    size_text,
    told,
    weights_line,
)

import keylite
from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.data.formats.reading import read_dataset
from keylite.data.rendered.gauges import gauges
from keylite.evaluation.metrics import point_errors
from keylite.runtime.files import sha256
from keylite.runtime.modelfile import read_spec
from keylite.training.recipe import make_recipe

LAST = "last.safetensors"
IN_A_STEP = 0.3826  # of a square's side: mean distance from its centre of what is spread evenly over it


class SmallSet(NamedTuple):
    """One row: where its labels lie below --data, its recipe, and how names of a point in two views end, if it has two.

    Both views share their columns of pixels, so that one label tells how far off the other is.
    """

    labels: str
    recipe: dict[str, Any]
    views: tuple[str, str] | None = None


VIDEO = {"head": "heatmap", "box": "image", "batch": 16, "epochs": 100}
SETS = {
    "openfield_mouse": SmallSet(
        "openfield_mouse/labeled-data/m4s1/CollectedData_Pranav.csv", {**VIDEO, "size": "192x144"}
    ),
    "mirror_mouse": SmallSet(  # both cameras stand still and the mouse faces right: a flip shows what never happens
        "mirror_mouse/CollectedData.csv", {**VIDEO, "size": 192, "mirror": "off"}, ("_top", "_bot")
    ),
}
FOLDS = 5
GAUGES, GAUGE_COUNTS, GAUGE_SEED = "gauges", (4000, 200, 300), 0  # of train, val and test, a test of unseen makes
GAUGE_RECIPE = {  # that of examples/gauge_demo.py
    **{"head": "heatmap", "loss": "mae", "size": 112, "padding": 0.1, "pretrained": "none", "mirror": "off"},
    **{"epochs": 5, "batch": 16, "lr": 3e-3, "rotate": 5.0, "scale": 0.08, "shift": 0.03, "aspect": 0.03},
    **dict.fromkeys(("blur_p", "noise_p", "jpeg_p", "occlude_p"), 0.0),
}
SMOKE_FRAMES, SMOKE_FOLDS, SMOKE_COUNTS = 24, 2, (16, 8, 8)


# ---- the runs


class Row(NamedTuple):
    """A row of the table: its runs, what each of them is measured on, all labels of the set, and what to say of it."""

    runs: list[Run]
    held_out: Callable[[Run], Dataset]
    labels: Callable[[], Dataset]
    views: tuple[str, str] | None
    note: str


def folded(name: str, data: Callable[[], Dataset], folds: int, recipe: dict[str, Any], out: Path) -> list[Run]:
    """A run a fold, validated on the block that it is held out for."""

    def parts(number: int) -> tuple[Dataset, Dataset]:
        held = np.flatnonzero(data().in_blocks(folds).group_index == number)
        rest = np.setdiff1d(np.arange(len(data())), held)
        return data().subset(rest), data().subset(held, f"{data().name}, fold {number + 1}")

    made = make_recipe(recipe, name)
    return [
        Run(run, name, out / run, made, tuple(recipe), functools.cache(functools.partial(parts, number)))
        for number, run in enumerate(f"{name}-fold{number + 1}" for number in range(folds))
    ]


def rows_of(choices: argparse.Namespace) -> dict[str, Row]:
    """The rows by name; nothing is read or rendered yet."""
    overrides = sets(choices.set)
    rows = {}
    small = {"frames": SmallSet("", {})} if choices.smoke else SETS
    for name, one in small.items():
        read = functools.cache(functools.partial(_frames if choices.smoke else _read, choices.data, one.labels))
        recipe = {**(SMOKE if choices.smoke else one.recipe), **overrides}
        runs = folded(name, read, SMOKE_FOLDS if choices.smoke else FOLDS, recipe, choices.out)
        rows[name] = Row(runs, lambda run: run.data()[1], read, one.views, f"{len(runs)} blocks")
    counts = SMOKE_COUNTS if choices.smoke else GAUGE_COUNTS
    recipe = {**overrides, **(SMOKE if choices.smoke else GAUGE_RECIPE)}  # weights of photographs are for the videos
    asked = tuple(recipe)
    rendered = functools.cache(functools.partial(_rendered, *counts[:2]))
    run = Run(GAUGES, GAUGES, choices.out / GAUGES, make_recipe(recipe, GAUGES), asked, rendered)
    unseen = functools.cache(functools.partial(gauges, counts[2], "test", GAUGE_SEED))
    rows[GAUGES] = Row([run], lambda _: unseen(), unseen, None, f"rendered, seed {GAUGE_SEED}, of makes not seen")
    return rows


def _read(folder: Path, labels: str) -> Dataset:
    """A video's labels, whose every frame is a group."""
    return read_dataset(folder / labels, group="image")


def _frames(folder: Path | None, labels: str) -> Dataset:
    """Rendered gauges in place of a video."""
    return gauges(SMOKE_FRAMES, seed=1, size=64)


def _rendered(train: int, val: int) -> tuple[Dataset, Dataset]:
    made = gauges(train + val, seed=GAUGE_SEED)
    return made.subset(range(train)), made.subset(range(train, len(made)))


# ---- figures


def errors_of(run: Run, held_out: Dataset) -> Facts:
    """The errors in px of the image at all labelled points of a run's held-out part, and those of the mean shape."""
    model = run.folder / LAST

    def make() -> Facts:
        predictions = keylite.predict_dataset(keylite.Predictor(model, threads=1), held_out)
        recipe = recipe_in(run.folder)
        shape = Examples(run.data()[0], recipe.input_size, box=recipe.box, padding=recipe.padding).mean_shape()
        plain = np.stack([crop.from_unit(shape) for crop in predictions.crops])
        errors, plain_errors = (point_errors(xy, held_out.xy) for xy in (predictions.xy, plain))
        labelled = np.isfinite(errors)
        return {"px": errors[labelled].tolist(), "mean_shape_px": plain_errors[labelled].tolist()}

    key = {"model": sha256(model), "train": run.data()[0].fingerprint(), "data": held_out.fingerprint()}
    return kept(run.folder / "figures" / "held_out.json", key, make)


def step_of(xy: np.ndarray) -> float | None:
    """The commonest distance between neighbouring values of labels (N, K, 2): that of the positions they can take.

    None where values are not on such a grid, as those of rendered pictures.
    """
    values = [np.unique(np.round(axis[np.isfinite(axis)], 3)) for axis in (xy[..., 0], xy[..., 1])]
    steps = Counter(np.round(np.concatenate([np.diff(axis) for axis in values]), 2).tolist())
    step, times = steps.most_common(1)[0]
    return float(step) if times >= sum(steps.values()) / 4 and step > 0.01 else None


def views_apart(xy: np.ndarray, names: Sequence[str], views: tuple[str, str]) -> float:
    """How far labels of one point in two views lie apart along x, median px.

    xy: (N, K, 2). Views share their columns but not their perspective: what a linear fit to the other view's x and y
    and to the own y explains is taken off, keypoint by keypoint.
    """
    left = []
    for first, name in enumerate(names):
        stem = name.removesuffix(views[0])
        if name == stem or stem + views[1] not in names:
            continue
        second = list(names).index(stem + views[1])
        both = xy[np.isfinite(xy[:, [first, second]]).all(axis=(1, 2))]
        told = np.column_stack([np.ones(len(both)), both[:, first], both[:, second, 1:]])
        x = both[:, second, 0]
        left.append(np.abs(x - told @ np.linalg.lstsq(told, x, rcond=None)[0]))
    return float(np.median(np.concatenate(left)))


def figures_of(done: list[Run], rows: dict[str, Row]) -> Facts:
    """All figures of finished runs; a row some of whose runs are missing has those that are there."""
    found = []
    for name in dict.fromkeys(run.plan for run in done):
        own, row = [run for run in done if run.plan == name], rows[name]
        errors = [errors_of(run, row.held_out(run)) for run in own]
        held, trained = [row.held_out(run) for run in own], [run.data()[0] for run in own]
        px, plain = (np.concatenate([facts[what] for facts in errors]) for what in ("px", "mean_shape_px"))
        labels = row.labels().xy
        height, width = held[0].read_image(0).shape[:2]
        recipe, names = recipe_in(own[0].folder), held[0].skeleton.names
        found.append(
            {
                **{"name": name, "note": row.note, "runs": len(own), "of_runs": len(row.runs)},
                **{"image": [width, height], "frames": sum(map(len, held)), "points": len(px), "keypoints": len(names)},
                **{"trained_on": [len(part) for part in trained], "seed": recipe.seed, "epochs": recipe.epochs},
                **{"head": recipe.head, "backbone": recipe.backbone, "size": list(recipe.input_size)},
                "pretrained": sorted({read_spec(run.folder / LAST).provenance.pretrained for run in own}),
                **{"median": float(np.median(px)), "mean": float(px.mean())},
                "of_folds": [float(np.median(facts["px"])) for facts in errors],
                **{"mean_shape_median": float(np.median(plain)), "step": step_of(labels)},
                "views_apart": views_apart(labels, names, row.views) if row.views else None,
            }
        )
    return {"rows": found}


# ---- the page

COLUMNS = (
    *("set", "image, px", "frames measured", "trained on", "model", "epochs", "seed"),
    *("median error, px", "of the longer side", "lowest, highest fold", "mean error, px"),
    *("mean shape, median px", "what the labels allow"),
)


def text(facts: Facts | None) -> str:
    """The part of the page."""
    if facts is None:
        return not_yet("small_data")
    rows = facts["rows"]
    parts = [
        paragraph(
            "Errors are distances in px of the image over all labelled points of the frames that are held out,",
            "with the",
            "model of the last epoch. The lowest and the highest fold are those of the median. The mean shape",
            "gives every",
            "frame the mean of the points that are trained on.",
            weights_line(name for row in rows for name in row["pretrained"]),
            "The labels set limits: labels take only certain positions, and the table has the step between these",
            "and the",
            "mean error of rounding to them, which no model can avoid. If two views show a point in the same",
            "columns, the",
            "table also has how far its two labels lie apart along x (median, without what a linear fit explains).",
        ),
        table(COLUMNS, [_cells(row) for row in rows]),
        paragraph(machine_line(facts)),
    ]
    if facts["missing"]:
        parts.append(paragraph(not_yet("small_data", facts["missing"])))
    return "\n\n".join(parts)


def _cells(row: Facts) -> tuple[str, ...]:
    of, part = row["of_folds"], f", {row['runs']} of {row['of_runs']} done" if row["runs"] < row["of_runs"] else ""
    return (
        *(row["name"], "x".join(map(str, row["image"])), f"{row['frames']}: {row['note']}{part}"),
        listing(dict.fromkeys(sorted(row["trained_on"]))),
        f"{row['head']}, {row['backbone']}, {size_text(row['size'])} px",
        *(str(row["epochs"]), str(row["seed"]), f"{row['median']:.2f}"),
        *(f"{100 * row['median'] / max(row['image']):.2f} %", f"{min(of):.2f}, {max(of):.2f}" if len(of) > 1 else ""),
        *(f"{row['mean']:.2f}", f"{row['mean_shape_median']:.1f}", _allowed(row)),
    )


def _allowed(row: Facts) -> str:
    words = {
        "exact, for they are rendered": row["name"] == GAUGES,
        f"step {row['step']} px, rounding {IN_A_STEP * (row['step'] or 0):.2f} px": row["step"],
        f"two views {row['views_apart'] or 0:.1f} px apart": row["views_apart"],
    }
    return "; ".join(text for text, applies in words.items() if applies)


SECTION = Section("small_data", text, None)


# ---- the command line


def parser() -> argparse.ArgumentParser:
    """The flags."""
    return run_options(__doc__)


def work(choices: argparse.Namespace) -> Work:
    """What the flags ask for."""
    rows = rows_of(choices)
    runs = named([run for row in rows.values() for run in row.runs], choices.only)
    return runs, lambda done: figures_of(done, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    carry_out(parser().parse_args(arguments), SECTION, work)


if __name__ == "__main__":
    told(main)
