"""The search for the recipe: changes one choice at a time and compares the NME on val with that of the default.

It trains what PLAN lists and makes a table of the best epochs. Everything is kept, so the same command continues where
it stopped. README.md says how to use it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

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
    named,
    not_yet,
    parts_of,
    percent,
    recipe_in,
    run_options,
    sets,
    told,
    weights_line,
)

from keylite.runtime.modelfile import read_spec
from keylite.training.recipe import make_recipe

SEEDS = (0, 1, 2)  # of the first row of a group, to tell a change from another seed; other rows have the first
Choices = dict[str, Any]
# A group: the choices of its first row, and for each other row those that it changes.
PLAN: dict[str, tuple[Choices, list[Choices]]] = {
    "heatmap": (
        {"head": "heatmap", "size": 96, "epochs": 6},
        [
            *({"loss": loss} for loss in ("mse", "huber", "wing", "soft_wing")),
            {"ema": 0.0},
            *({"strength": strength} for strength in (0.5, 1.5)),
            {"occlude_p": 0.0},
            {"freeze_epochs": 1},
            {"backbone_lr_factor": 0.3},
            *({"batch": batch} for batch in (8, 32)),
            *({"size": size} for size in (128, 160, 192)),
            *({"epochs": 12, **also} for also in ({}, {"strength": 0.5})),
        ],
    ),
    "regression": (
        {"head": "regression", "size": 96, "epochs": 6},
        [
            *({"loss": loss} for loss in ("mse", "huber", "wing", "soft_wing")),
            *({"lr": lr} for lr in (2.5e-4, 1e-3)),
            {"ema": 0.0},
            *({"strength": strength} for strength in (0.5, 1.5)),
            {"occlude_p": 0.0},
            {"freeze_epochs": 1},
            {"backbone_lr_factor": 0.3},
            {"batch": 32},
            {"hidden": 512},
        ],
    ),
}
SMOKE_PLAN: dict[str, tuple[Choices, list[Choices]]] = {"regression": ({}, [{"epochs": 2}])}


def rows_of(smoke: bool) -> dict[str, list[tuple[str, Choices, Choices]]]:
    """By group: the plan's name, what its row changes, and all choices of the group and the row."""
    plan = SMOKE_PLAN if smoke else PLAN
    return {
        group: [
            ("-".join([group, *(f"{name}-{value}" for name, value in changed.items())]), changed, first | changed)
            for changed in ({}, *others)
        ]
        for group, (first, others) in plan.items()
    }


def planned(choices: argparse.Namespace, parts: Parts) -> list[Run]:
    """The runs, group by group, the first row's seeds first. Raises ValueError where --set has what a plan varies."""
    given, found = sets(choices.set), []
    for rows in rows_of(choices.smoke).values():
        for plan, changed, row in rows:
            if taken := sorted(given.keys() & {*row, "seed"}):
                raise ValueError(f"--set: {listing(taken)} is what this search varies; leave it out")
            for seed in SEEDS[: None if not changed else 1]:
                own = (SMOKE if choices.smoke else FACES) | given | row | {"seed": seed}
                name = f"{plan}-seed{seed}"
                recipe = make_recipe(own, plan)
                found.append(Run(name, plan, choices.out / name, recipe, tuple(own), lambda: (parts.train, parts.val)))
    return found


def figures_of(done: list[Run], parts: Parts, smoke: bool) -> Facts:
    """The val NME of the best epoch of each finished run; rows whose first one is missing have nothing to be beside."""
    of_plan: dict[str, list[Run]] = {}
    for run in done:
        of_plan.setdefault(run.plan, []).append(run)
    groups = []
    for group, planned_rows in rows_of(smoke).items():
        rows = []
        for plan, changed, _ in planned_rows:
            nme = [report.nme for run in of_plan.get(plan, []) if (report := read_spec(run.model).report)]
            if nme:
                rows.append({"changed": changed, "nme": nme, "seeds": [run.recipe.seed for run in of_plan[plan]]})
        if rows and not rows[0]["changed"]:
            groups.append({"name": group, "first": planned_rows[0][2], "rows": rows})
    recipe = recipe_in(done[0].folder)
    return {
        **{"data": parts.name, "count": len(parts.val), "groups_of_val": len(parts.val.groups)},
        **{"normalize": recipe.normalize, "mirror": recipe.mirror, "groups": groups},
        "pretrained": sorted({read_spec(run.model).provenance.pretrained for run in done}),
    }


# ---- the page

COLUMNS = "changed", "seeds", "val NME", "lowest, highest", "points more than the first row"


def text(facts: Facts | None) -> str:
    """The part of the page."""
    if facts is None:
        return not_yet("search")
    parts = [
        paragraph(
            f"val of {facts['data']}: {facts['count']} objects, {facts['groups_of_val']} groups; NME by",
            f"{facts['normalize']} of the best epoch; mirror {facts['mirror']}. Choices that are not named are",
            "the default.",
            weights_line(facts["pretrained"]),
            "A row with one seed can differ from the first row by chance, as much as the seeds of a first row differ.",
        )
    ]
    for group in facts["groups"]:
        said = listing(f"{name} {value}" for name, value in group["first"].items())
        parts += [f"**{group['name']}**: {said}." if said else f"**{group['name']}**.", table(COLUMNS, _cells(group))]
    parts.append(paragraph(machine_line(facts)))
    if facts["missing"]:
        parts.append(paragraph(not_yet("search", facts["missing"])))
    return "\n\n".join(parts)


def _cells(group: Facts) -> list[tuple[str, ...]]:
    base = statistics.mean(group["rows"][0]["nme"])
    return [
        (
            listing(f"{name} {value}" for name, value in row["changed"].items()) or "nothing",
            listing(row["seeds"]),
            percent(statistics.mean(row["nme"])),
            f"{100 * min(row['nme']):.2f}, {100 * max(row['nme']):.2f}" if len(row["nme"]) > 1 else "",
            f"{100 * (statistics.mean(row['nme']) - base):+.2f}" if row["changed"] else "",
        )
        for row in group["rows"]
    ]


SECTION = Section("search", text, None)


# ---- the command line


def parser() -> argparse.ArgumentParser:
    """The flags."""
    return run_options(__doc__)


def work(choices: argparse.Namespace) -> Work:
    """What the flags ask for."""
    parts = parts_of(choices)
    runs = named(planned(choices, parts), choices.only)
    return runs, lambda done: figures_of(done, parts, choices.smoke)


def main(arguments: Sequence[str] | None = None) -> None:
    carry_out(parser().parse_args(arguments), SECTION, work)


if __name__ == "__main__":
    told(main)
