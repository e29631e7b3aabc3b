"""How many wrong labels `keylite check` finds: errors are injected into labels, and the table of docs/check.md is made.

Run `python benchmarks/wrong_labels.py --out FOLDER --set faces68 LABELS --set ...`; rendered gauges need no files. Of
each set 5 % of the objects get a wrong label, with seeds 0 to 2; figures are pooled over the seeds, kept in --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from rounds import Facts, keep, machine, paragraph, table
from runs import DOCS, Section, kept, not_yet, options, publish, told, write_part

import keylite
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import read_dataset
from keylite.data.mirror import choose_mirror
from keylite.labels import findings as check_code
from keylite.labels.findings import Finding, extents
from keylite.training.folds import REPORT
from keylite.training.folds_report import FoldsReport
from keylite.training.recipe import Recipe, make_recipe, to_dict
from keylite.training.recipe_file import read_recipe

log = logging.getLogger("keylite")

PAGE = "check.md"
SHARE = 0.05  # of the objects that get a wrong label
SEEDS = (0, 1, 2)
GAUGES = 400  # rendered
SHIFT = 0.15  # share of an object's extent by which one point is shifted
KINDS = ("swapped", "permuted", "mirrored")  # those that need no model, injected together, in turn
FOUND = (*KINDS, "shape", "point", "shifted", "another", "unlikely")  # kinds of findings that count with folds
SHIFTED = "one point shifted by three times the median error"
COLUMNS = ("set", "what was done to labels", "found", "recall", "rightly named", "precision")
OTHERS = ("exchanged", "shifted", "another")  # each injected alone
NAMES = {
    "swapped": "left and right swapped",
    "permuted": "all points in a random order",
    "mirrored": "mirrored object",
    "exchanged": "two random points exchanged",
    "shifted": f"one point shifted by {SHIFT:.0%} of the object",
    "another": "labels of another picture",
}


class Injected(NamedTuple):
    """A data set with wrong labels. kinds: number of an object -> what was done to it."""

    data: Dataset
    kinds: dict[int, str]


def swapped(data: Dataset, row: int, _: np.random.Generator) -> np.ndarray:
    return data.xy[row][list(data.skeleton.mirror or ())]


def permuted(data: Dataset, row: int, generator: np.random.Generator) -> np.ndarray:
    count = len(data.skeleton)
    order = generator.permutation(count)
    return data.xy[row][np.roll(order, 1) if (order == np.arange(count)).all() else order]


def mirrored(data: Dataset, row: int, _: np.random.Generator) -> np.ndarray:
    return np.array([data.whole_boxes()[row, 2], 0]) + data.xy[row] * [-1, 1]


def exchanged(data: Dataset, row: int, generator: np.random.Generator) -> np.ndarray:
    points = data.xy[row].copy()
    one, two = generator.choice(len(points), 2, replace=False)
    points[[one, two]] = points[[two, one]]
    return points


def shifted(data: Dataset, row: int, generator: np.random.Generator) -> np.ndarray:
    points, angle = data.xy[row].copy(), generator.uniform(0, 2 * np.pi)
    k = generator.choice(np.flatnonzero(data.labelled[row]))
    points[k] += SHIFT * np.nan_to_num(extents(data)[row]) * np.array([np.cos(angle), np.sin(angle)])
    return points


def another(data: Dataset, row: int, generator: np.random.Generator) -> np.ndarray:
    """The labels of another picture."""
    rest = np.flatnonzero(data.image_index != data.image_index[row])
    return data.xy[int(generator.choice(rest))]


MAKE: dict[str, Callable[[Dataset, int, np.random.Generator], np.ndarray]] = {
    **{"swapped": swapped, "permuted": permuted, "mirrored": mirrored},
    **{"exchanged": exchanged, "shifted": shifted, "another": another},
}


def inject(
    data: Dataset, kinds: Sequence[str], seed: int, share: float = SHARE, shift: float | None = None
) -> Injected:
    """A data set of which this share of the objects, at least one, has wrong labels, of these kinds in turn.

    A mirrored object, and one with the labels of another picture, have the box of these labels.

    shift: px by which one point is shifted; None: SHIFT of the object's extent.
    """
    generator = np.random.default_rng(seed)
    rows = generator.choice(len(data), max(round(share * len(data)), 1), replace=False)
    xy, box, visible, done = data.xy.copy(), data.box.copy(), data.visible.copy(), {}
    for at, row in enumerate(rows.tolist()):
        done[row] = kinds[at % len(kinds)]
        xy[row] = MAKE[done[row]](data, row, generator)
        if done[row] == "mirrored":
            box[row, [0, 2]] = data.whole_boxes()[row, 2] - box[row, [2, 0]]
        if done[row] == "another":
            box[row] = data.box[int(np.flatnonzero((data.xy == xy[row]).all(axis=(1, 2)))[0])]
        if done[row] == "shifted" and shift is not None:
            xy[row] = data.xy[row] + (xy[row] - data.xy[row]) * shift / (SHIFT * np.nan_to_num(extents(data)[row]))
        visible[row] = np.where(np.isfinite(xy[row]).all(axis=1), np.maximum(visible[row], 1), 0)
    skeleton = keylite.Skeleton(data.skeleton.names, data.skeleton.edges)  # the check looks for the mirror itself
    return Injected(dataclasses.replace(data, xy=xy, box=box, visible=visible, skeleton=skeleton), done)


def permitted(data: Dataset) -> list[str]:
    """The kinds of KINDS that change the labels of a set: sides need a mirror, an order needs three points."""
    kinds: list[str] = [*KINDS] if len(data.skeleton) > 2 else []
    return kinds if data.skeleton.mirror is not None else [kind for kind in kinds if kind != "swapped"]


def with_mirror(data: Dataset) -> Dataset:
    """The data set with the mirror that training would choose, by which sides are swapped."""
    mirror = choose_mirror(data).permutation
    skeleton = keylite.Skeleton(data.skeleton.names, data.skeleton.edges, mirror)
    return data.with_skeleton(skeleton)


def about(findings: Sequence[Finding], kinds: Sequence[str]) -> dict[int, str]:
    """Number of an object -> the kind of its finding, for findings of these kinds."""
    return {one.number: one.kind for one in findings if one.number is not None and one.kind in kinds}


def count(data: Dataset, group: Sequence[str], clean: set[int], kinds: Sequence[str]) -> Facts:
    """Injected, found and rightly named objects of each kind, and what else was found; pooled over SEEDS.

    kinds: of findings that count. clean: objects that are found in the original labels, too, and so are no mistakes of
    the injection; they are counted apart.
    """
    found: Facts = {kind: dict.fromkeys(("injected", "found", "named", "corrected", "right"), 0) for kind in group}
    rest, before, seconds = 0, 0, []
    for seed in SEEDS:
        wrong = inject(data, group, seed)
        began = time.process_time()
        findings = keylite.check(wrong.data).findings
        seconds.append(time.process_time() - began)
        by_row = about(findings, kinds)
        corrected = {one.number: one.correction.xy for one in findings if one.correction and one.number is not None}
        for row, kind in wrong.kinds.items():
            found[kind]["injected"] += 1
            found[kind]["found"] += row in by_row
            found[kind]["named"] += by_row.get(row) == kind
            if row in corrected:
                points = [(np.nan, np.nan) if point is None else point for point in corrected[row]]
                found[kind]["corrected"] += 1
                found[kind]["right"] += np.shape(points) == data.xy[row].shape and np.array_equal(
                    points, data.xy[row], equal_nan=True
                )
        extra = set(by_row) - set(wrong.kinds)
        rest, before = rest + len(extra - clean), before + len(extra & clean)
    return {"kinds": found, "false": rest, "before": before, "seconds": max(seconds)}


def figures_of(name: str, data: Dataset) -> Facts:
    """The figures of one set."""
    data = with_mirror(data.check_images())
    log.info("%s: %d objects, %s", name, len(data), ", ".join(permitted(data)) or "no kind that needs no model")
    all_kinds = (*KINDS, "shape", "point", "box", "two-labels")
    original = keylite.check(data).findings
    groups = [(permitted(data), KINDS)] if permitted(data) else []
    groups += [([kind], all_kinds) for kind in OTHERS if len(data.skeleton) > 2]
    return {
        "objects": len(data),
        "keypoints": len(data.skeleton),
        "original": {kind: list(about(original, all_kinds).values()).count(kind) for kind in all_kinds},
        "groups": [count(data, group, set(about(original, kinds)), kinds) for group, kinds in groups],
    }


# ---- with folds


def folds_of(name: str, data: Dataset, recipe: Recipe, folds: int, out: Path) -> Facts:
    """The figures of `check` with folds: all kinds that a set permits are injected together, in turn.

    One point is shifted by three times the median error of folds on the original labels. Runs are kept in `out`, so the
    same call goes on after any interruption.
    """
    data = with_mirror(data.check_images())
    clean = keylite.check(data, folds=folds, out=out / f"{name}-original", recipe=recipe)
    report = msgspec.json.decode((out / f"{name}-original" / REPORT).read_bytes(), type=FoldsReport)
    shift = 3 * report.pooled.pixel_error.p50
    already = set(about(clean.findings, FOUND))
    kinds = [kind for kind in ("swapped", "shifted", "permuted", "another", "mirrored") if kind in MAKE]
    if data.skeleton.mirror is None:
        kinds.remove("swapped")
    found: Facts = {kind: {"injected": 0, "found": 0, "named": 0} for kind in kinds}
    wrong_ones, before = [], 0
    for seed in SEEDS:
        wrong = inject(data, kinds, seed, shift=shift)
        findings = keylite.check(wrong.data, folds=folds, out=out / f"{name}-seed{seed}", recipe=recipe).findings
        by_row = about(findings, FOUND)
        for row, kind in wrong.kinds.items():
            found[kind]["injected"] += 1
            found[kind]["found"] += row in by_row
            found[kind]["named"] += by_row.get(row) == kind
        extra = set(by_row) - set(wrong.kinds)
        before += len(extra & already)
        wrong_ones += [data.sample_name(row) for row in sorted(extra - already)]
    return {
        **{"objects": len(data), "keypoints": len(data.skeleton), "folds": folds, "shift": shift},
        **{"recipe": to_dict(recipe)},
        **{"original": sorted(data.sample_name(row) for row in already)},  # to be looked at: which are wrong
        **{"groups": [{"kinds": found, "false": len(wrong_ones), "before": before}], "false": wrong_ones},
    }


def measure(choices: argparse.Namespace) -> Facts:
    """The figures of all sets, each kept in --out."""
    choices.out.mkdir(parents=True, exist_ok=True)
    sets: Facts = {}
    given: list[Sequence[Any]] = [("gauges", None)] if choices.smoke or choices.gauges else []
    given += choices.set or []
    recipes = choices.recipe or [None]
    if len(recipes) not in (1, len(given)):
        raise ValueError(f"--recipe: expected one for all {len(given)} sets, or one for each, got {len(recipes)}")
    for (name, *paths), asked in zip(given, recipes * (len(given) if len(recipes) == 1 else 1), strict=True):
        data = keylite.gauges(choices.gauges) if paths == [None] else together([Path(path) for path in paths])
        if choices.folds:
            recipe = make_recipe(read_recipe(asked), str(asked)) if asked else Recipe()
            recipe = msgspec.structs.replace(recipe, box="annotation" if data.boxed.all() else "image")
            key = {"data": data.fingerprint(), "folds": choices.folds, "recipe": to_dict(recipe), "code": code()}
            made = partial(folds_of, name, data, recipe, choices.folds, choices.out)
            sets[name] = kept(choices.out / f"{name}-folds{choices.folds}.json", key, made)
            continue
        key = {"data": data.fingerprint(), "seeds": SEEDS, "share": SHARE, "code": code()}
        make = lambda name=name, data=data: figures_of(name, data)  # noqa: E731 - it is called at once
        sets[name] = kept(choices.out / f"{name}.json", key, make)
    return machine(1) | {"sets": sets}


def code() -> str:
    """A digest of the code that checks labels, so that figures of other code are not taken for its own."""
    files = sorted(Path(check_code.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def together(paths: Sequence[Path]) -> Dataset:
    """The objects of several label files with the same keypoints as one data set."""
    parts = [read_dataset(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    images = np.cumsum([0, *(len(part.images) for part in parts)])
    groups = np.cumsum([0, *(len(part.groups) for part in parts)])
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("xy", "visible", "box", "area")
    }
    image_index = np.concatenate([part.image_index + at for part, at in zip(parts, images[:-1], strict=True)])
    group_index = np.concatenate([part.group_index + at for part, at in zip(parts, groups[:-1], strict=True)])
    return dataclasses.replace(
        parts[0],
        **columns,
        images=tuple(image for part in parts for image in part.images),
        image_names=tuple(name for part in parts for name in part.image_names),
        groups=tuple(f"{at} {name}" for at, part in enumerate(parts) for name in part.groups),
        image_index=image_index.astype(np.int32),
        group_index=group_index.astype(np.int32),
        image_sizes=None,
        ids=(),
        image_ids=(),
        mm_per_px=None,
    )


def rows_of(name: str, group: Facts, names: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """A row per kind of a set that was injected together; the first one has the precision of all."""
    right = sum(kind["found"] for kind in group["kinds"].values())
    precision = f"{right / (right + group['false']):.2f}" if right + group["false"] else ""
    for kind, counts in group["kinds"].items():
        share = f"{counts['found']} of {counts['injected']}"
        recall = f"{counts['found'] / max(counts['injected'], 1):.2f}"
        named = str(counts["named"]) if kind in KINDS or counts["named"] else ""  # others have no kind without folds
        yield name, names[kind], share, recall, named, precision
        precision = ""


def text(facts: Facts | None) -> str:
    """The part of the page."""
    if facts is None:
        return not_yet("wrong_labels")
    rows = [
        (*row, f"{counts['right']} of {counts['corrected']}" if counts["corrected"] else "")
        for name, found in facts["sets"].items()
        for group in found["groups"]
        for row, counts in zip(rows_of(name, group, NAMES), group["kinds"].values(), strict=True)
    ]
    sizes = [f"{name} {found['objects']:,} objects" for name, found in facts["sets"].items()]
    slowest = max(group["seconds"] for found in facts["sets"].values() for group in found["groups"])
    already = [f"{name} {sum(g['before'] for g in found['groups'][:1])}" for name, found in facts["sets"].items()]
    return "\n\n".join(
        [
            table((*COLUMNS, "rightly corrected"), rows),
            paragraph(
                f"{SHARE:.0%} of the objects, seeds {SEEDS[0]} to {SEEDS[-1]} pooled: {', '.join(sizes)}. The",
                "first kinds of a set were injected together, in turn, and only the findings `swapped`, `permuted`",
                "and `mirrored` count for them; their precision is that of all of them. The others were injected",
                "alone, and `shape`, `point`, `box` and `two-labels` count, too. Objects that are found in the",
                f"original labels as well count neither way (first kinds, all seeds: {', '.join(already)}).",
                f"The longest check took {slowest:.1f} s of one core, without reading pictures.",
            ),
        ]
    )


def folds_text(facts: Facts | None) -> str:
    """The part of the page about folds."""
    if facts is None:
        return "Nothing was measured yet; `python benchmarks/wrong_labels.py --folds 5` does."
    names = NAMES | {"shifted": SHIFTED}
    rows = [
        row
        for name, found in facts["sets"].items()
        for group in found["groups"]
        for row in rows_of(name, group | {"false": group["false"] + group["before"]}, names)
    ]
    shifts = [f"{name} {found['shift']:.1f} px" for name, found in facts["sets"].items()]
    return "\n\n".join(
        [
            table(COLUMNS, rows),
            paragraph(
                f"{SHARE:.0%} of the objects, seeds {SEEDS[0]} to {SEEDS[-1]} pooled; all kinds of a set were injected",
                "together, in turn. What is found in the original labels, too, counts as false here. Points were",
                f"shifted by three times the median error: {', '.join(shifts)}. Recipes beside the defaults:",
                f"{'; '.join(recipe_text(name, found['recipe']) for name, found in facts['sets'].items())}.",
            ),
        ]
    )


def recipe_text(name: str, recipe: Facts) -> str:
    """The choices of a set's folds that say how accurate their models are."""
    epochs = recipe["epochs"] if recipe["epochs"] != "auto" else f"auto, effort {recipe['effort']:g}"
    stages = "" if recipe["stages"] == "auto" else f"{recipe['stages']} stages, "
    return f"{name} {stages}{recipe['size']} px, epochs {epochs}"


SECTION = Section("wrong_labels", text, None, PAGE)
FOLDS = Section("wrong_labels_folds", folds_text, None, PAGE)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = options(__doc__, rounds=None, size=None)
    add = parser.add_argument
    add(
        "--set", nargs="+", action="append", metavar=("NAME", "LABELS"), help="a data set: its name and its label files"
    )
    add("--folds", type=int, help="train so many models per set and seed, and check by them, in place of shapes alone")
    add("--recipe", type=Path, nargs="+", help="YAML file of the training choices of the folds: one, or one per set")
    add("--gauges", type=int, default=GAUGES, help=f"rendered gauges, 0 for none (default {GAUGES})")
    add("--out", type=Path, help="folder of figures; what is there already is not measured again")
    add("--publish", action="store_true", help="write into docs/ what else goes to OUT/docs")
    add("--page", action="store_true", help=f"only make the part of docs/{PAGE} again, from the figures in docs/")
    add("--smoke", action="store_true", help="120 rendered gauges: shows that everything runs")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Measure and publish, as the flags say."""
    choices = parser().parse_args(arguments)
    if choices.page:
        write_part(SECTION, DOCS)
        write_part(FOLDS, DOCS)
        return
    if choices.out is None:
        raise ValueError("--out: expected a folder for the figures")
    if choices.smoke:
        choices.gauges, choices.set = 120, []
    facts = measure(choices)
    publish(FOLDS if choices.folds else SECTION, facts, DOCS if choices.publish else choices.out / "docs")
    keep(choices.json, facts)


if __name__ == "__main__":
    told(main)
