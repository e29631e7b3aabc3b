"""How the error falls with the number of labelled images: one recipe, nested parts of a training set.

A part has whole groups in an order drawn with the seed, so a larger part contains every smaller one. Everything is
kept, so the same command continues where it stopped. README.md says how to use it.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lines import Mark, plot_lines
from rounds import Facts, machine_line, paragraph, table
from runs import (
    FACES,
    SMOKE,
    Parts,
    Run,
    Section,
    Work,
    carry_out,
    listing,
    measured,
    named,
    not_yet,
    over_seeds,
    parts_of,
    percent,
    recipe_in,
    run_options,
    sets,
    size_text,
    spread,
    told,
    weights_line,
    with_interval,
)

from keylite.data.dataset import Dataset
from keylite.runtime.modelfile import read_spec
from keylite.training.recipe import make_recipe

RECIPE = {**FACES, "head": "heatmap"}
SMOKE_RECIPE = {**SMOKE, "head": "regression"}
SMALLEST = 50  # objects of the smallest part; each next one has twice as many
SMOKE_COUNTS = (8,)
MOST_EPOCHS = 300


def counts_up_to(whole: int) -> list[int]:
    """SMALLEST and its doublings, then the whole."""
    doublings = range(max(0, math.ceil(math.log2(whole / SMALLEST))))
    return [*(SMALLEST * 2**power for power in doublings), whole]


def part_of(data: Dataset, count: int, seed: int) -> Dataset:
    """Whole groups in an order drawn with `seed`, until they hold `count` objects or all are in."""
    order = np.random.default_rng(seed).permutation(len(data.groups))
    sizes = np.bincount(data.group_index, minlength=len(data.groups))[order]
    taken = order[: int(np.searchsorted(np.cumsum(sizes), count)) + 1]
    return data.subset(np.isin(data.group_index, taken))


def epochs_for(epochs: int, count: int, whole: int) -> int:
    """The epochs of a part, where `epochs` are those of the whole: few images are seen more often, with fewer steps."""
    return min(round(epochs * math.sqrt(whole / count)), max(MOST_EPOCHS, epochs))


def planned(choices: argparse.Namespace, parts: Parts) -> list[Run]:
    """The runs, the smallest first; each has its own part of the training set."""
    whole = len(parts.train)
    base = {**(SMOKE_RECIPE if choices.smoke else RECIPE), **sets(choices.set)}
    counts = choices.counts or (SMOKE_COUNTS if choices.smoke else counts_up_to(whole))
    found = []
    for count in sorted({min(count, whole) for count in (*counts, whole)}):
        for seed in choices.seeds:
            part = part_of(parts.train, count, seed)
            recipe = make_recipe(base | {"seed": seed})
            if isinstance(recipe.epochs, int):  # else it follows the size by itself
                recipe = make_recipe({"epochs": epochs_for(recipe.epochs, len(part), whole)}, base=recipe)
            name = f"images-{count}-seed{seed}"
            asked = (*base, "seed", "epochs")
            data = functools.partial(lambda part: (part, parts.val), part)
            found.append(Run(name, f"images-{count}", choices.out / name, recipe, asked, data))
    return found


def figures_of(done: list[Run], parts: Parts, split: str) -> Facts:
    """All figures of finished runs."""
    data: Any = getattr(parts, split)
    normalize = recipe_in(done[0].folder).normalize
    rows = []
    for plan in dict.fromkeys(run.plan for run in done):
        own = [run for run in done if run.plan == plan]
        trained_on = [run.data()[0] for run in own]
        rows.append(
            {
                "images": [len(part) for part in trained_on],
                "groups": [len(part.groups) for part in trained_on],
                "seeds": [run.recipe.seed for run in own],
                "epochs": [recipe_in(run.folder).epochs for run in own],
                "pretrained": sorted({read_spec(run.model).provenance.pretrained for run in own}),
                **over_seeds(
                    [measured(run.model, data, run.folder / "figures", split, normalize) for run in own], data
                ),
            }
        )
    first = done[0].recipe
    return {
        **{"data": parts.name, "split": split, "fingerprint": data.fingerprint(), "count": len(data)},
        **{"groups": len(data.groups), "normalize": normalize, "head": first.head, "backbone": first.backbone},
        **{"size": list(first.input_size), "rows": rows},
    }


def fall(rows: Sequence[Facts]) -> float:
    """What doubling the images multiplies the NME by: the slope of a line through the logarithms of both."""
    images, nme = np.log2([np.mean(row["images"]) for row in rows]), np.log2([row["nme"] for row in rows])
    return float(2 ** np.polyfit(images, nme, 1)[0])


# ---- the page

COLUMNS = "images", "groups", "epochs", "seeds", "NME (95 %, by group)", "lowest, highest seed", "median", "NME > 10 %"


def text(facts: Facts | None) -> str:
    """The part of the page."""
    if facts is None:
        return not_yet("learning_curve")
    rows = facts["rows"]
    model = f"{facts['head']} head, {facts['backbone']} at {size_text(facts['size'])} px"
    parts = [
        paragraph(
            f"{model}; {facts['split']} of {facts['data']}: {facts['count']} objects, {facts['groups']} groups; NME by",
            f"{facts['normalize']}. The epoch was chosen on all of val.",
            weights_line(name for row in rows for name in row["pretrained"]),
            "A part contains all smaller ones and has whole groups, in another order for each seed.",
        ),
        table(COLUMNS, [_cells(row) for row in rows]),
    ]
    if len(rows) > 2:
        parts.append(
            paragraph(
                f"With twice the images the NME is {fall(rows):.2f} times as large (a line through the logarithms)."
            )
        )
    parts += ["![NME against images](images/learning_curve.png)", paragraph(machine_line(facts))]
    if facts["missing"]:
        parts.append(paragraph(not_yet("learning_curve", facts["missing"])))
    return "\n\n".join(parts)


def _cells(row: Facts) -> tuple[str, ...]:
    return (
        *(listing(dict.fromkeys(row[name])) for name in ("images", "groups", "epochs")),
        *(listing(row["seeds"]), with_interval(row), spread(row)),
        *(percent(row[name]) for name in ("median", "failure_rate")),
    )


def plot(facts: Facts, path: Path) -> None:
    """NME against images, both logarithmic."""
    marks = []
    for row in facts["rows"]:
        nme = row["nme"]
        low, high = row["interval"] or (nme, nme)
        marks.append(Mark(float(np.mean(row["images"])), 100 * nme, 100 * low, 100 * high, f"{100 * nme:.2f}"))
    label = f"{facts['head']}, {facts['backbone']}", f"{size_text(facts['size'])} px"
    title = f"{facts['split']} of {facts['data']}, {facts['count']} objects"
    ylabel = f"NME by {facts['normalize']}, % (number: mean; bar: 95 % interval)"
    plot_lines({label: marks}, path, title=title, xlabel="labelled images to train on", ylabel=ylabel, log="xy")


SECTION = Section("learning_curve", text, plot)


# ---- the command line


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = run_options(__doc__)
    made.add_argument("--split", choices=("val", "test"), default="val", help="what is measured (default val)")
    made.add_argument(
        "--counts", type=int, nargs="+", help=f"images of the parts (default {SMALLEST}, doubled); and all"
    )
    made.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the parts and the runs (default 0)")
    return made


def work(choices: argparse.Namespace) -> Work:
    """What the flags ask for."""
    if choices.counts and min(choices.counts) < 1:
        raise ValueError(f"--counts: expected at least 1 image, got {min(choices.counts)}")
    parts = parts_of(choices)
    runs = named(planned(choices, parts), choices.only)
    return runs, lambda done: figures_of(done, parts, choices.split)


def main(arguments: Sequence[str] | None = None) -> None:
    carry_out(parser().parse_args(arguments), SECTION, work)


if __name__ == "__main__":
    told(main)
