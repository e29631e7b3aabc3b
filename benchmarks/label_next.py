"""What `keylite suggest` gains over labelling pictures drawn at random: the table of docs/suggest.md is made.

From the same first pictures, two rows of rounds begin: in each round a model is trained on what is labelled, and more
pictures are labelled, by `suggest` or at random. README.md says how to use it; the same command continues.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from rounds import Facts, keep, machine, paragraph, table
from runs import (
    DOCS,
    FACES,
    MODEL,
    SMOKE,
    Parts,
    Run,
    Section,
    kept,
    measured,
    not_yet,
    options,
    percent,
    publish,
    read_parts,
    sets,
    told,
    train_missing,
    weights_line,
    write_part,
)

import keylite
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import read_dataset, write_dataset
from keylite.data.rendered.gauges import gauges
from keylite.runtime.modelfile import read_spec
from keylite.training.recipe import Recipe, make_recipe

log = logging.getLogger("keylite")

PAGE = "suggest.md"
WAYS = ("random", "suggest")
HELD_OUT = 200  # objects of val that choose the epoch and fit sigma; whoever labels few pictures has no more
GAUGES = {"train": 600, "val": 200, "test": 400}  # rendered


# ---- data


def gauge_parts(folder: Path, counts: dict[str, int]) -> Parts:
    """Rendered gauges as files, because `suggest` takes paths; those of test are of other families."""
    found = []
    for number, (part, count) in enumerate(counts.items()):
        labels = folder / part / "labels.json"
        if not labels.is_file():
            write_dataset(gauges(count, "test" if part == "test" else "train", seed=number), labels.parent)
        found.append(read_dataset(labels))
    return Parts("gauges", *found)


def drawn(data: Dataset, count: int, seed: int) -> Dataset:
    """At most `count` objects, drawn at random."""
    return data.subset(np.sort(np.random.default_rng(seed).permutation(len(data))[:count]))


# ---- rounds


def chosen_images(way: str, model: Path, data: Dataset, labelled: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Numbers of the images to label next; labelled: (M,) bool, by image."""
    free = np.flatnonzero(~labelled)
    if way == "random":
        return np.random.default_rng([seed, int(labelled.sum())]).permutation(free)[:count]
    number = {str(data.images[image]): image for image in free.tolist()}
    known = data.subset(np.flatnonzero(labelled[data.image_index]))
    return np.array([number[name] for name in keylite.suggest(model, list(number), count=count, data=known).images])


def of_way(way: str, seed: int, parts: Parts, recipe: Recipe, choices: argparse.Namespace, out: Path) -> list[Facts]:
    """The NME on test after each round, as `measured` gives it."""
    start = np.random.default_rng(seed).permutation(len(parts.train.images))[: choices.start]
    labelled = np.isin(np.arange(len(parts.train.images)), start)
    found = []
    for turn in range(choices.rounds + 1):
        train = parts.train.subset(np.flatnonzero(labelled[parts.train.image_index]))
        name = f"seed{seed}-start" if turn == 0 else f"seed{seed}-{way}-{turn}"
        own = msgspec.structs.replace(recipe, seed=seed)
        train_missing(Run(name, way, out / name, own, (), functools.partial(lambda *pair: pair, train, parts.val)))
        model = out / name / MODEL
        found.append({"labelled": len(train), **measured(model, parts.test, out / name, "test", own.normalize)})
        chosen = out / name / f"next-{way}.json"
        asked = way, model, parts.train, labelled, choices.step, seed
        key = {"labelled": np.flatnonzero(labelled).tolist(), "step": choices.step}
        facts = kept(chosen, key, lambda asked=asked: {"images": chosen_images(*asked).tolist()})
        labelled[facts["images"]] = True
    return found


def figures_of(parts: Parts, recipe: Recipe, choices: argparse.Namespace) -> Facts:
    """The mean NME over the seeds, by way and round, and each seed's."""
    parts = parts._replace(val=drawn(parts.val, HELD_OUT, 0))
    of: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    labelled: list[int] = []
    for seed in range(choices.seeds):
        for way in WAYS:
            found = of_way(way, seed, parts, recipe, choices, choices.out / parts.name)
            of[way].append([facts["report"]["nme"]["mean"] for facts in found])
            labelled = [facts["labelled"] for facts in found]
    pretrained = read_spec(choices.out / parts.name / "seed0-start" / MODEL).provenance.pretrained
    return {
        **{"labelled": labelled, "nme": of, "pool": len(parts.train), "val": len(parts.val), "test": len(parts.test)},
        **{"size": list(recipe.size) if isinstance(recipe.size, tuple) else recipe.size, "epochs": recipe.epochs},
        **{"normalize": recipe.normalize, "pretrained": pretrained},
    }


def measure(choices: argparse.Namespace) -> Facts:
    """The figures of all sets."""
    choices.out.mkdir(parents=True, exist_ok=True)
    own = {"size": 96, "epochs": 12, "mirror": "off", "box": "image", **sets(choices.set)}
    found: Facts = {}
    for folder in choices.data or []:
        parts = read_parts(folder)
        found[parts.name] = figures_of(parts, make_recipe({**FACES, **own}, parts.name), choices)
    if choices.gauges or choices.smoke:
        counts = {"train": 24, "val": 8, "test": 8} if choices.smoke else GAUGES
        parts = gauge_parts(choices.out / "pictures", counts)
        plain = {**SMOKE, "box": "image"} if choices.smoke else own
        recipe = make_recipe({"normalize": "box_diagonal", **plain}, parts.name)
        found[parts.name] = figures_of(parts, recipe, choices)
    if not found:
        raise ValueError("--data: expected a folder with train.json, val.json and test.json, or --gauges")
    return machine(1) | {"seeds": choices.seeds, "sets": found}


# ---- the page


def labels_needed(labelled: Sequence[int], random: Sequence[float], own: float) -> float | None:
    """How many labels drawn at random give this error, read off the straight lines between rounds; None: none do."""
    for (few, before), (more, after) in itertools.pairwise(zip(labelled, random, strict=True)):
        if after <= own <= before:
            return more if before == after else few + (more - few) * (before - own) / (before - after)
    return None


def text(facts: Facts | None) -> str:
    """The part of the page."""
    if facts is None:
        return not_yet("label_next")
    parts = []
    for name, found in facts["sets"].items():
        random, chosen = (np.array(found["nme"][way]) for way in WAYS)
        apart = chosen - random
        wins = (apart < 0).sum(axis=0)
        rows = [
            (
                *(f"{count}", percent(random[:, at].mean()), percent(chosen[:, at].mean())),
                "" if at == 0 else f"{100 * apart[:, at].mean():+.2f} ({wins[at]} of {len(apart)} seeds)",
            )
            for at, count in enumerate(found["labelled"])
        ]
        last = labels_needed(found["labelled"], random.mean(axis=0).tolist(), float(chosen[:, -1].mean()))
        same = "no number of labels up to these" if last is None else f"{last:.0f} labels"
        parts += [
            table((f"{name}: labelled", "at random", "by `suggest`", "points between them (seeds with less)"), rows),
            paragraph(
                f"NME by {found['normalize']} on test ({found['test']} objects), mean of {facts['seeds']} seeds, each",
                f"with its own first pictures; pool of {found['pool']} objects, {found['size']} px,",
                f"{found['epochs']} epochs, of which {found['val']} objects of val chose the best. The error of",
                f"`suggest` with {found['labelled'][-1]} labels is that of {same} at random.",
                weights_line([found["pretrained"]]),
            ),
        ]
    return "\n\n".join(parts)


SECTION = Section("label_next", text, None, PAGE)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = options(__doc__, rounds=None, size=None)
    add = parser.add_argument
    add("--data", type=Path, nargs="+", help="folders with train.json (the pool), val.json and test.json")
    add("--gauges", action="store_true", help="rendered gauges, too")
    add("--seeds", type=int, default=5, help="how many, from 0 on (default 5)")
    add("--start", type=int, default=100, help="pictures that are labelled at first (default 100)")
    add("--step", type=int, default=50, help="pictures per round (default 50)")
    add("--rounds", type=int, default=5, help="rounds of labelling (default 5)")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="recipe choices of all runs")
    add("--out", type=Path, help="folder of runs and figures; what is there already is not made again")
    add("--publish", action="store_true", help="write into docs/ what else goes to OUT/docs")
    add("--page", action="store_true", help=f"only make the part of docs/{PAGE} again, from the figures in docs/")
    add("--smoke", action="store_true", help="a few rendered gauges: shows that everything runs")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Measure and publish, as the flags say."""
    choices = parser().parse_args(arguments)
    if choices.page:
        write_part(SECTION, DOCS)
        return
    if choices.out is None:
        raise ValueError("--out: expected a folder for runs and figures")
    if choices.smoke:
        choices.seeds, choices.start, choices.step, choices.rounds = 1, 8, 4, 1
    facts = measure(choices)
    publish(SECTION, facts, DOCS if choices.publish else choices.out / "docs")
    keep(choices.json, facts)


if __name__ == "__main__":
    told(main)
