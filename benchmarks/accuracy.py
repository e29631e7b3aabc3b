"""Compares heads and input sizes: the NME in float and in int8, and the time that each file takes.

It trains what a plan lists, exports it, measures every file on one split, and times all files in turns. Everything is
kept, so the same command continues where it stopped. README.md says how to use it in steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from lines import Mark, plot_lines
from rounds import Facts, interleaved, machine, machine_line, paragraph, table
from runs import (
    FACES,
    SMOKE,
    Parts,
    Run,
    Section,
    Work,
    carry_out,
    finished,
    kept,
    listing,
    log,
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

import keylite
from keylite.evaluation.reliability import Reliability
from keylite.exporting.certificate import OverBudgetError, nme_change
from keylite.pictures.plots import plot_reliability
from keylite.runtime.engines import ENGINES
from keylite.runtime.files import sha256, write_text
from keylite.runtime.lite import LITE
from keylite.runtime.modelfile import read_spec
from keylite.runtime.predictor import Predictor
from keylite.training.folder import WITHOUT_EFFECT
from keylite.training.recipe import AUTO, Recipe, make_recipe, to_dict

HEADS = "regression", "rle", "simcc", "heatmap"
SEEDS = {
    head: [0, 1, 2] for head in ("heatmap", "simcc", "regression")
}  # at 128 px, for the two best and the plain one
# The plan if no other is given: choices of all runs, and of each run. `seeds` makes a run per seed, `exports: false`
# measures only the trained file, and null in place of choices takes a folder of --out as it is.
PLAN: dict[str, dict[str, Any]] = {
    "base": {**FACES, "epochs": 12},
    "runs": {
        **{f"{head}-128": {"head": head, "size": 128, "seeds": SEEDS.get(head, [0])} for head in HEADS},
        **{f"{head}-96": {"head": head, "size": 96, "seed": 0} for head in HEADS},
        **{f"{head}-224": {"head": head, "size": 224, "seed": 0} for head in ("regression", "heatmap")},
        "heatmap-96-flips": {"head": "heatmap", "size": 96, "seed": 0, "mirror": "auto", "exports": False},
        "heatmap-96-flips-about-the-axis": {
            **{"head": "heatmap", "size": 96, "seed": 0, "mirror": "auto", "flip_offset": 0.0109, "exports": False}
        },
        **{
            f"heatmap-96-{lite}-scratch": {
                **{"head": "heatmap", "size": 96, "seed": 0, "backbone": lite, "pretrained": "none", "epochs": 6},
            }
            for lite in ("lite0", "lite1", "lite2")
        },
        "heatmap-96-tensorflow": {
            **{"head": "heatmap", "size": 96, "seed": 0, "framework": "tensorflow", "exports": False}
        },
    },
}
SMOKE_PLAN = {
    "base": SMOKE,
    "runs": {"regression-64": {"head": "regression", "seeds": [0, 1]}, "heatmap-64": {"head": "heatmap"}},
}
PLAN_READERS: dict[str, Callable[[str], Any]] = {
    **{".toml": tomllib.loads, ".yaml": yaml.safe_load},
    **{".yml": yaml.safe_load, ".json": json.loads},
}
FILES = {  # what is exported of each run: (format, precision)
    "onnx fp32": ("onnx", "fp32"),
    "onnx int8": ("onnx", "int8"),
    "litert int8": ("litert", "int8"),
}
SMOKE_FILES = "onnx fp32", "onnx int8"  # LiteRT takes a quarter of a minute each
RULERS = {"to_int8": "litert int8", "to_fp32": "onnx fp32"}  # files of plain regression that times are divided by
PLAIN = "regression"
RELIABILITY = "images/reliability.png"  # below docs/
JITTER, DRAWS = 0.1, 3  # of boxes: fraction of the sides, and how many seeds
SAID = ("head", "backbone", "size", "epochs", "seed", "pretrained", "normalize")  # choices that the page tells anyway


# ---- the plan


def read_plan(path: Path) -> dict[str, Any]:
    """A plan of YAML, TOML or JSON: `base`, choices of all runs, and `runs`, choices by name."""
    if path.suffix not in PLAN_READERS:
        raise ValueError(f"{path}: expected a plan in {listing(PLAN_READERS)}, got {path.suffix or 'no suffix'}")
    try:
        plan = PLAN_READERS[path.suffix](path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}") from None
    if not isinstance(plan, dict) or not set(plan) <= {"base", "runs"} or not isinstance(plan.get("runs"), dict):
        raise ValueError(f"{path}: expected `runs` with choices by name, and perhaps `base`; got {plan!r:.80}")
    for name, given in {"base": plan.get("base"), **plan["runs"]}.items():
        if (
            not isinstance(given, dict | None)
            or not isinstance((given or {}).get("seeds", []), list)
            or not isinstance((given or {}).get("exports", True), bool)
        ):
            raise ValueError(
                f"{path}: {name}: expected choices by name, where `seeds` is a list and `exports` true or false; got "
                f"{given!r:.80}"
            )
    return plan


def planned(plan: dict[str, Any], overrides: dict[str, str], out: Path, parts: Parts) -> list[Run]:
    """The runs of a plan in order, one a seed; overrides are over `base` and under a run's own choices."""
    base = {**(plan.get("base") or {}), **overrides}
    found = []
    for name, given in plan["runs"].items():
        if given is None:
            found.append(as_it_is(out / name, parts))
            continue
        choices = base | {name: value for name, value in given.items() if name != "exports"}
        seeds = choices.pop("seeds", None)
        for seed in seeds or [choices.get("seed")]:
            own = choices if seed is None else choices | {"seed": seed}
            folder = out / (f"{name}-seed{seed}" if seeds else name)
            recipe = make_recipe(own, f"plan: {name}")
            found.append(Run(folder.name, name, folder, recipe, tuple(own), lambda: (parts.train, parts.val)))
    return found


def unexported(plan: dict[str, Any]) -> set[str]:
    """The names of a plan whose trained files alone are measured."""
    return {name for name, given in plan["runs"].items() if given and not given.get("exports", True)}


def as_it_is(folder: Path, parts: Parts) -> Run:
    """A run that was trained elsewhere."""
    if not finished(folder):
        raise ValueError(f"{folder}: expected a finished run, since no plan says how to train it")
    return Run(folder.name, folder.name, folder, recipe_in(folder), (), lambda: (parts.train, parts.val))


def chosen(runs: list[Run], names: Sequence[str], out: Path, parts: Parts) -> list[Run]:
    """The runs of these names, which may be finished folders in `out` that no plan knows; all without names."""
    known = {name for run in runs for name in (run.name, run.plan)}
    others = [name for name in names if name not in known and (out / name / "recipe.yaml").is_file()]
    return named([*runs, *(as_it_is(out / name, parts) for name in others)], names)


# ---- exports


def exported(run: Run, kind: str, parts: Parts) -> tuple[Path | None, str]:
    """An exported file of a run, made once and certified on val; or None and why its budget refused it."""
    to, precision = FILES[kind]
    made = run.folder / "exports" / f"model.{precision}{ENGINES[to].suffix}"
    digest = sha256(run.model)
    if made.is_file() and read_spec(made).provenance.parent == digest:
        return made, ""
    refusal = made.with_name(f"{made.name}.refused.json")
    if refusal.is_file() and (held := json.loads(refusal.read_text()))["model"] == digest:
        return None, held["words"]
    log.info("%s: exporting %s", run.name, made.name)
    calibration = parts.train if precision == "int8" else None
    try:
        keylite.export(run.model, parts.val, made, to=to, precision=precision, calibration=calibration)
    except OverBudgetError as error:
        log.warning("%s: %s", run.name, error)
        made.unlink(missing_ok=True)  # of weights that were trained anew since
        write_text(refusal, json.dumps({"model": digest, "words": str(error)}) + "\n")
        return None, str(error)
    return made, ""


# ---- figures


def rows_of(runs: Sequence[Run], alone: set[str]) -> list[list[Run]]:
    """Runs that differ in nothing but their seed, together, in order. alone: see `unexported`."""
    rows: dict[str, list[Run]] = {}
    for run in runs:
        recipe = recipe_in(run.folder)
        choices = to_dict(recipe) | dict.fromkeys((*WITHOUT_EFFECT, "seed"))
        choices["pretrained"] = Path(recipe.pretrained).name
        rows.setdefault(json.dumps([choices, run.plan in alone]), []).append(run)
    return list(rows.values())


def seconds_of(files: dict[str, Path], rounds: int, images: int, out: Path) -> dict[str, list[float]]:
    """Seconds of each round for each file: engine and decode of `images` crops on one thread, files in turns.

    One process. Kept in `out`, and taken anew where the files, the machine or the flags are others.
    """
    key = {"files": {name: sha256(path) for name, path in files.items()}, "rounds": rounds, "images": images}

    def make() -> Facts:
        log.info("timing %d files in turns, %d rounds of %d images", len(files), rounds, images)
        predictors = {name: Predictor(path, threads=1) for name, path in files.items()}
        noise = np.random.default_rng(0)
        pixels = {
            p.spec.size: noise.integers(0, 256, (1, *p.spec.size[::-1], 3), np.uint8) for p in predictors.values()
        }
        rows: dict[str, Callable[[int], object]] = {
            name: lambda _, predictor=predictor: predictor.run(pixels[predictor.spec.size])
            for name, predictor in predictors.items()
        }
        return interleaved(rows, images, rounds)

    return kept(out / "latency.json", key | machine(1), make)


def figures_of(
    runs: Sequence[Run], parts: Parts, choices: argparse.Namespace, normalize: str, alone: set[str]
) -> Facts:
    """All figures of finished runs: exports, then one look at the split, then times. alone: see `unexported`."""
    rows = rows_of(runs, alone)
    kinds = {run.name: () if run.plan in alone else choices.files for run in runs}
    exports = {run.name: {kind: exported(run, kind, parts) for kind in kinds[run.name]} for run in runs}
    data: Any = getattr(parts, choices.split)
    found = [_row(row, exports, data, choices.split, normalize) for row in rows]
    timed = {
        f"{facts['name']} {kind}": next(path for path, _ in (exports[run.name][kind] for run in row) if path)
        for row, facts in zip(rows, found, strict=True)
        for kind, file in facts["files"].items()
        if "nme" in file
    }
    _add_times(found, seconds_of(timed, choices.rounds, choices.images, choices.out), choices.images)
    return {
        **{"data": parts.name, "split": choices.split, "fingerprint": data.fingerprint()},
        **{"count": len(data), "groups": len(data.groups), "normalize": normalize},
        **{"jitter": JITTER, "draws": DRAWS, "rounds": choices.rounds, "images": choices.images},
        **_choices_apart([(recipe_in(row[0].folder), row[0].asked) for row in rows], found),
        "rows": found,
    }


def _row(row: Sequence[Run], exports: Facts, data: Any, split: str, normalize: str) -> Facts:
    """The figures of runs that differ in their seed."""
    recipes = [recipe_in(run.folder) for run in row]
    specs = [read_spec(run.model) for run in row]
    float_found = [measured(run.model, data, run.folder / "figures", split, normalize) for run in row]

    def of_jittered(models: dict[Run, Path]) -> Facts:
        found = [
            measured(model, data, run.folder / "figures", split, normalize, JITTER, seed)["report"]["nme"]["mean"]
            for run, model in models.items()
            for seed in range(DRAWS)
        ]
        return {"nme": statistics.mean(found), "of_draws": found}

    files = {}
    for kind in exports[row[0].name]:
        made = {run.name: exports[run.name][kind] for run in row}
        there = [run for run in row if made[run.name][0]]
        files[kind] = {"refused": {run.name: words for run in row if (words := made[run.name][1])}}
        if there:
            own = [measured(made[run.name][0], data, run.folder / "figures", split, normalize) for run in there]
            parents = [facts for run, facts in zip(row, float_found, strict=True) if run in there]
            found, parent = (over_seeds(facts, data) for facts in (own, parents))
            size = made[there[0].name][0].stat().st_size
            change = nme_change(parent["nme"], found["nme"])
            files[kind] |= found | {"change": change, "bytes": size, "runs": len(there)}
            files[kind]["sigma"] = of_sigma(own)
            if "int8" in kind:
                files[kind]["jittered"] = of_jittered({run: made[run.name][0] for run in there})
    return {
        **{"name": row[0].name, "head": recipes[0].head, "backbone": recipes[0].backbone},
        **{"size": list(recipes[0].input_size), "epochs": recipes[0].epochs},
        "seeds": [recipe.seed for recipe in recipes],
        "best_epochs": [spec.report.epoch for spec in specs if spec.report],
        "pretrained": sorted({spec.provenance.pretrained for spec in specs}),
        "float": over_seeds(float_found, data) | {"bytes": row[0].model.stat().st_size, "sigma": of_sigma(float_found)},
        "jittered": of_jittered({run: run.model for run in row}),
        "files": files,
    }


def of_sigma(found: Sequence[Facts]) -> Facts | None:
    """How sigma held: ranks, as means over the runs; their worst tenth; the first run's tenths. None without sigma."""
    held = [facts["report"]["reliability"] for facts in found]
    if None in held:
        return None
    ranks = {name: [one[name] for one in held] for name in RANKS}
    means = {name: None if None in values else statistics.mean(values) for name, values in ranks.items()}
    return means | {"worst": max((one["worst"] for one in held), key=abs), "reliability": held[0]}


def _add_times(rows: list[Facts], seconds: dict[str, list[float]], images: int) -> None:
    """Add to each file its ms, and the median of its ratios round by round to RULERS of the plain head at its size."""
    of_file = {(row["name"], kind): seconds.get(f"{row['name']} {kind}") for row in rows for kind in row["files"]}
    for row in rows:
        plain = [other for other in rows if other["size"] == row["size"] and other["head"] == PLAIN]
        ruler = min(plain, key=lambda other: [*LITE, other["backbone"]].index(other["backbone"]), default=None)
        for kind, file in row["files"].items():
            own = of_file[row["name"], kind]
            if own is None:
                continue
            file["ms"] = 1e3 * statistics.median(own) / images
            for name, of_kind in RULERS.items():
                base = of_file.get((ruler["name"], of_kind)) if ruler else None
                if base:
                    file[name] = statistics.median(mine / other for mine, other in zip(own, base, strict=True))


def _choices_apart(recipes: Sequence[tuple[Recipe, Sequence[str]]], rows: list[Facts]) -> Facts:
    """Choices that are not the default: `common` to all rows, and into each row, as `choices`, those of some.

    recipes: each with the choices that were made for it; what was left to AUTO is none.
    """
    plain = to_dict(Recipe())
    held = [
        {name: plain[name] if name in AUTO and name not in asked else value for name, value in to_dict(recipe).items()}
        for recipe, asked in recipes
    ]
    names = [name for name in plain if name not in (*SAID, *WITHOUT_EFFECT)]
    common = {name: held[0][name] for name in names if all(recipe[name] == held[0][name] for recipe in held)}
    for recipe, row in zip(held, rows, strict=True):
        row["choices"] = {n: recipe[n] for n in names if n not in common and recipe[n] != plain[n]}
    return {"common": {name: value for name, value in common.items() if value != plain[name]}}


# ---- the page

ACCURACY = (
    *("epochs", "seeds", "NME (95 %, by group)", "lowest, highest seed"),
    *("median", "NME > 10 %", "boxes jittered"),
)
RANKS = "spearman", "within", "constant"  # of a Reliability
SIGMA = "file", "Spearman, all points", "within a keypoint", "one sigma per keypoint", "worst tenth"
COST = (
    *("file", "MB", "NME (95 %, by group)", "change", "median", "NME > 10 %", "boxes jittered", "ms"),
    *(f"to {PLAIN}'s {kind}" for kind in RULERS.values()),
)


def text(facts: Facts | None) -> str:
    """The part of the page."""
    if facts is None:
        return not_yet("accuracy")
    rows = facts["rows"]
    names = ("head", "backbone", "px", *_where_any(rows, ("other choices",)))
    common = listing(f"{name} {_shown(value)}" for name, value in facts["common"].items()) or "the default recipe"
    parts = [
        paragraph(
            f"{facts['split']} of {facts['data']}: {facts['count']} objects, {facts['groups']} groups; NME by "
            f"{facts['normalize']}. All runs: {common}; the epoch was chosen on val.",
            weights_line(name for row in rows for name in row["pretrained"]),
            "If there are several seeds, the figure is their mean. The interval says what other objects would",
            "give, and",
            "the lowest and highest seed what other runs would give. Jittered: boxes are moved and scaled by up to",
            f"{100 * facts['jitter']:g} %; the figure is the mean of {facts['draws']} draws.",
        ),
        table((*names, *ACCURACY), [_accuracy_cells(row, rows) for row in rows]),
        *_cost_parts(facts, rows, names),
        *_sigma_parts(rows, names),
        paragraph(machine_line(facts)),
    ]
    if facts["missing"]:
        parts.append(paragraph(not_yet("accuracy", facts["missing"])))
    return "\n\n".join(parts)


def _cost_parts(facts: Facts, rows: list[Facts], names: tuple[str, ...]) -> list[str]:
    """The tables of what exports cost, if there are some."""
    files = [(row, kind, file) for row in rows for kind, file in row["files"].items()]
    if not files:
        return []
    return [
        paragraph(
            "What an export costs: each file on the same split, beside its own run in float; and the time of engine",
            f"and decode for one crop on one thread, in {facts['rounds']} rounds of {facts['images']} crops, all files",
            f"in turns. A ratio is the median of the rounds', to the {PLAIN} head's file of that size, where there is",
            "one. Boxes were jittered for int8 files; fp32 files give the float run's points.",
        ),
        table((*names, *COST), [_file_cells(row, rows, kind, file) for row, kind, file in files]),
        "![NME against time](images/accuracy.png)",
    ]


def _sigma_parts(rows: list[Facts], names: tuple[str, ...]) -> list[str]:
    """The table of what sigma is worth, if a row has one."""
    found = [
        (row, kind, file["sigma"])
        for row in rows
        for kind, file in {"float": row["float"], **row["files"]}.items()
        if file.get("sigma")
    ]
    if not found:
        return []
    return [
        paragraph(
            "What sigma is worth: its rank correlation with the errors found (Spearman), over all points and, as a",
            "median over keypoints, within one; what one sigma for each keypoint would reach; and of the tenths of the",
            "points by sigma the one whose mean error is furthest from what was promised, of all seeds.",
        ),
        table((*names, *SIGMA), [(*_names(row, rows), kind, *_sigma_cells(sigma)) for row, kind, sigma in found]),
        f"![errors found against sigma promised]({RELIABILITY})",
    ]


def _sigma_cells(sigma: Facts) -> tuple[str, ...]:
    return *("" if sigma[name] is None else f"{sigma[name]:.2f}" for name in RANKS), f"{100 * sigma['worst']:+.0f} %"


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _where_any(rows: list[Facts], cells: tuple[str, ...]) -> tuple[str, ...]:
    """The cells of other choices, where any row has some."""
    return cells if any(row["choices"] for row in rows) else ()


def _start(row: Facts) -> list[str]:
    """Where a row's backbone started, where it was not at pretrained weights."""
    return ["random weights"] if row["pretrained"] == ["none"] else []


def _names(row: Facts, rows: list[Facts]) -> tuple[str, ...]:
    told = listing([*_start(row), *(f"{name} {_shown(value)}" for name, value in row["choices"].items())])
    return row["head"], row["backbone"], size_text(row["size"]), *_where_any(rows, (told or "the defaults",))


def _accuracy_cells(row: Facts, rows: list[Facts]) -> tuple[str, ...]:
    found = row["float"]
    return (
        *_names(row, rows),
        *(str(row["epochs"]), listing(row["seeds"]), with_interval(found), spread(found)),
        *(percent(value) for value in (found["median"], found["failure_rate"], row["jittered"]["nme"])),
    )


def _file_cells(row: Facts, rows: list[Facts], kind: str, file: Facts) -> tuple[str, ...]:
    if "nme" not in file:
        return (*_names(row, rows), kind, "", "refused: over its budget", *[""] * (len(COST) - 3))
    refused = f", {len(file['refused'])} of {len(row['seeds'])} refused" if file["refused"] else ""
    change = round(100 * file["change"], 1) + 0.0  # no -0.0
    return (
        *(*_names(row, rows), kind, f"{file['bytes'] / 1e6:.2f}", with_interval(file) + refused, f"{change:+.1f} %"),
        *(percent(file["median"]), percent(file["failure_rate"])),
        percent(file["jittered"]["nme"]) if "jittered" in file else "",
        *(f"{file[name]:.2f}" if name in file else "" for name in ("ms", *RULERS)),
    )


def plot(facts: Facts, path: Path) -> None:
    """Draw NME against time: a line through the sizes of each head and kind of file."""
    lines: dict[tuple[str, str], list[Mark]] = {}
    timed = [row for row in facts["rows"] if any("ms" in file for file in row["files"].values())]
    for row in timed:
        apart = {n: v for n, v in row["choices"].items() if any(other["choices"].get(n) != v for other in timed)}
        label = " ".join((row["head"], row["backbone"], *_start(row), *(f"{n} {_shown(v)}" for n, v in apart.items())))
        low, high = row["float"]["interval"] or (row["float"]["nme"],) * 2
        for kind, file in row["files"].items():
            if "ms" in file:  # the interval is that of the float model, moved
                least, most = (100 * (file["nme"] + end - row["float"]["nme"]) for end in (low, high))
                mark = Mark(file["ms"], 100 * file["nme"], least, most, size_text(row["size"]))
                lines.setdefault((label, kind), []).append(mark)
    for marks in lines.values():
        marks.sort()
    title = f"{facts['data']}, {facts['split']}: {facts['count']} objects; one thread, {facts['machine']}"
    ylabel = f"NME by {facts['normalize']}, % (bar: 95 % interval)"
    if lines:
        xlabel = "engine and decode, ms per crop (number at a mark: px of the model input)"
        plot_lines(lines, path, title=title, xlabel=xlabel, ylabel=ylabel)
    promising = [row for row in facts["rows"] if row["float"]["sigma"]]
    if promising:
        best = min(promising, key=lambda row: (-len(row["seeds"]), row["float"]["nme"]))
        of = {kind: file["sigma"] for kind, file in {"float": best["float"], **best["files"]}.items()}
        drawn = {kind: sigma["reliability"] for kind, sigma in of.items() if sigma}
        title = f"{best['head']}, {best['backbone']}, {size_text(best['size'])} px, seed {best['seeds'][0]}"
        title += f"; {facts['data']}, {facts['split']}: {facts['count']} objects"
        own = path.with_name(Path(RELIABILITY).name)
        plot_reliability(msgspec.convert(drawn, dict[str, Reliability]), own, title)


SECTION = Section("accuracy", text, plot)


# ---- the command line


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = run_options(__doc__, rounds=5)
    made.add_argument("--plan", type=Path, help="YAML, TOML or JSON (default: the table at the top of this script)")
    made.add_argument("--split", choices=("val", "test"), default="val", help="what is measured (default val)")
    made.add_argument("--files", nargs="+", choices=tuple(FILES), help=f"what is exported (default {listing(FILES)})")
    made.add_argument("--images", type=int, default=40, help="crops per file in a round of timing (default 40)")
    return made


def work(choices: argparse.Namespace) -> Work:
    """The runs that the flags ask for, and the function that measures them."""
    choices.files = choices.files or (SMOKE_FILES if choices.smoke else tuple(FILES))
    plan = read_plan(choices.plan) if choices.plan else SMOKE_PLAN if choices.smoke else PLAN
    parts, overrides = parts_of(choices), sets(choices.set)
    base = make_recipe({**(plan.get("base") or {}), **overrides}, "plan: base")
    runs = chosen(planned(plan, overrides, choices.out, parts), choices.only, choices.out, parts)
    for run in runs:
        if run.recipe.box != base.box:
            raise ValueError(
                f"{run.name}: box {run.recipe.box}, the plan's base has {base.box}; figures do not compare"
            )
    return runs, lambda done: figures_of(done, parts, choices, recipe_in(done[0].folder).normalize, unexported(plan))


def main(arguments: Sequence[str] | None = None) -> None:
    carry_out(parser().parse_args(arguments), SECTION, work)


if __name__ == "__main__":
    told(main)
