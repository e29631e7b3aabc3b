"""Shared by the accuracy benchmarks: runs that continue where they stopped, figures, and parts of the page.

A run is a folder of `keylite.train`. A figure is measured once and kept as JSON beside the run, with a key that names
its file and its data. What a benchmark compares is in its own script.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rounds import Facts, keep, machine, options, use_threads

import keylite
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import read_dataset
from keylite.data.rendered.gauges import gauges
from keylite.evaluation.evaluate import measure
from keylite.evaluation.figures import object_nme
from keylite.evaluation.metrics import group_intervals
from keylite.runtime.files import sha256, write_text
from keylite.runtime.modelfile import read_spec
from keylite.training.folder import WITHOUT_EFFECT
from keylite.training.recipe import Recipe, make_recipe, to_dict
from keylite.training.recipe_file import read_recipe
from keylite.training.run import knows_its_errors

log = logging.getLogger("keylite")

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = "results.md"
MARKS = "<!-- made by benchmarks/{}.py: start -->", "<!-- end -->"
MODEL = "model.safetensors"
FACES = {  # faces68: a box made from the labels would tell where they are, and they sit beside the mirror's axis
    **{"box": "image", "normalize": "36,45", "mirror": "off"},
}
SMOKE = {  # a run that only shows that everything runs
    **{
        "backbone": "timm:test_efficientnet",
        "head": "regression",
        "hidden": 32,
        "size": 64,
        "box": "annotation",
        "pretrained": "none",
        "mirror": "off",
    },
    **{"epochs": 1, "batch": 8, "threads": 1, "workers": 0},
}
SMOKE_OBJECTS = 24, 8, 8  # of train, val and test


# ---- data


class Parts(NamedTuple):
    """A data set's name and its parts."""

    name: str
    train: Dataset
    val: Dataset
    test: Dataset


def read_parts(folder: Path) -> Parts:
    """train.json, val.json and test.json of a folder."""
    return Parts(folder.resolve().name, *(read_dataset(folder / f"{part}.json") for part in ("train", "val", "test")))


def parts_of(choices: argparse.Namespace) -> Parts:
    """The parts that the flags name."""
    return smoke_parts() if choices.smoke else read_parts(choices.data)


def smoke_parts() -> Parts:
    """A few rendered gauges."""
    train, val, test = SMOKE_OBJECTS
    made = gauges(train + val, seed=0, size=64)
    unseen = gauges(test, "test", seed=0, size=64)
    return Parts("gauges", made.subset(range(train)), made.subset(range(train, len(made))), unseen)


# ---- runs


class Run(NamedTuple):
    """A run to be.

    name: of its folder. plan: the name that several of them share. asked: the choices that were made for it; what else
    a folder's recipe says is taken as it is. data: gives what it is trained and validated on.
    """

    name: str
    plan: str
    folder: Path
    recipe: Recipe
    asked: tuple[str, ...]
    data: Callable[[], tuple[Dataset, Dataset]]

    @property
    def model(self) -> Path:
        """The best epoch by val."""
        return self.folder / MODEL


def recipe_in(folder: Path) -> Recipe:
    """The recipe that a run began with."""
    path = folder / "recipe.yaml"
    return make_recipe(read_recipe(path), str(path))


def finished(folder: Path) -> bool:
    """Whether a folder holds a run whose epochs are all done, or whose patience was at its end."""
    if not all((folder / name).is_file() for name in ("recipe.yaml", "log.csv", MODEL)):
        return False
    recipe = recipe_in(folder)
    with (folder / "log.csv").open(encoding="utf-8") as file:
        nme = [float(row["val_nme"]) for row in csv.DictReader(file)]
    stale = bool(recipe.patience and nme) and len(nme) - 1 - int(np.argmin(nme)) >= recipe.patience
    return stale or (recipe.epochs != "auto" and len(nme) >= recipe.epochs)


def train_missing(run: Run) -> None:
    """Train a run, go on with one that stopped, or leave alone one that is finished."""
    if finished(run.folder) and knows_its_errors(read_spec(run.model)):
        log.info("%s: trained already", run.name)
        return
    train, val = run.data()
    log.info("%s: training on %d objects of %d groups", run.name, len(train), len(train.groups))
    keylite.train(run.recipe, train, val, out=run.folder, resume=(run.folder / "recipe.yaml").is_file())


def require_same(run: Run) -> None:
    """Raise ValueError if a folder holds a run of other data, or of another recipe (in the choices asked for).

    A model that was trained on other images may have seen those that it is measured on.
    """
    held, wanted = (
        to_dict(recipe) | {"pretrained": Path(recipe.pretrained).name} for recipe in (recipe_in(run.folder), run.recipe)
    )
    other = [
        f"{name} is {held[name]!r}, wanted is {wanted[name]!r}"
        for name in dict.fromkeys(run.asked)
        if name not in WITHOUT_EFFECT and wanted[name] not in (held[name], "auto")
    ]
    if other:
        raise ValueError(
            f"{run.folder}: holds a run of another recipe ({'; '.join(other)}); take another name or --out"
        )
    facts = json.loads((run.folder / "data.json").read_text(encoding="utf-8"))
    for part, data in zip(("train", "val"), run.data(), strict=True):
        if facts[part]["fingerprint"] != data.fingerprint():
            raise ValueError(
                f"{run.folder}: was made of other {part} data ({facts[part]['count']} of {facts[part]['name']}, "
                f"not these {len(data)} of {data.name}); take another name or --out"
            )


def named(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """The runs that have one of these names, or whose plan has; all without names."""
    known = dict.fromkeys(name for run in runs for name in (run.plan, run.name))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--only: expected some of {listing(known)}; got {listing(unknown)}")
    return [run for run in runs if not names or run.name in names or run.plan in names]


def sets(texts: Sequence[str]) -> dict[str, str]:
    """Choices given as NAME=VALUE."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise ValueError(f"--set: expected NAME=VALUE, got {name!r}")
    return {name: value for name, _, value in pairs}


# ---- figures


def kept(path: Path, key: Facts, make: Callable[[], Facts]) -> Facts:
    """What `make` gives, made once: read from `path` where that holds figures of the same key, else written there."""
    key = json.loads(json.dumps(key))
    if path.is_file():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["key"] == key:
            return held["figures"]
    figures = json.loads(json.dumps(make()))
    write_text(path, json.dumps({"key": key, "figures": figures}) + "\n")
    return figures


def measured(
    model: Path, data: Dataset, folder: Path, split: str, normalize: str, jitter: float = 0.0, seed: int = 0
) -> Facts:
    """The `report` of a model file and the `nme` of each object (null where it has none), kept in `folder`.

    jitter, seed: of the boxes, see `keylite.evaluate`. One thread.
    """
    moved = f".jitter{jitter:g}.seed{seed}" if jitter else ""
    of = {"model": sha256(model), "data": data.fingerprint(), "normalize": normalize, "jitter": jitter, "seed": seed}

    def make() -> Facts:
        log.info("%s: evaluating on %s%s", model, data.name, f", boxes jittered, seed {seed}" if jitter else "")
        predictor = keylite.Predictor(model, threads=1)
        report, predictions = measure(predictor, data, normalize=normalize, jitter_box=jitter, seed=seed)
        nme = object_nme(predictions, data, normalize)
        return {"report": json.loads(report.to_json()), "nme": [float(v) if np.isfinite(v) else None for v in nme]}

    return kept(folder / f"{split}.{model.name}{moved}.json", of, make)


def over_seeds(found: Sequence[Facts], data: Dataset) -> Facts:
    """Means over runs that differ in their seed; found: one of `measured` each.

    nme, median and failure_rate are fractions. interval: 95 % by group, of each object's mean over the runs, so it
    tells of other objects and not of other seeds; of_seeds: each run's NME.
    """
    reports = [facts["report"] for facts in found]
    nme = np.array([facts["nme"] for facts in found], np.float64).mean(axis=0)
    counted = np.isfinite(nme)
    sums = np.where(counted, nme, 0)[:, None]
    interval = group_intervals(sums, counted, data.group_index, np.random.default_rng(0))
    return {
        "nme": float(nme[counted].mean()),
        "interval": None if interval is None else interval[0].tolist(),
        "median": float(np.mean([report["nme"]["median"] for report in reports])),
        "failure_rate": float(np.mean([report["failure_rate"] for report in reports])),
        "of_seeds": [report["nme"]["mean"] for report in reports],
    }


# ---- the page


class Section(NamedTuple):
    """A part of the page: the script that makes it, its text from the figures (None: none yet), and its picture."""

    name: str
    text: Callable[[Facts | None], str]
    plot: Callable[[Facts, Path], None] | None
    page: str = PAGE


def figures_path(section: Section, docs: Path) -> Path:
    """Where the figures of a part of the page are committed."""
    return docs / "results" / f"{section.name}.json"


def with_part(page: str, section: Section, facts: Facts | None) -> str:
    """The page with the text between the marks of a section made from these figures."""
    first, last = MARKS[0].format(section.name), MARKS[1]
    before, start, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        raise ValueError(f"{section.page}: expected the marks {first!r} and {last!r}")
    return f"{before}{first}\n\n{section.text(facts)}\n\n{last}{after}"


def write_part(section: Section, docs: Path) -> None:
    """Make a section's part of the page, and its picture, from the figures that lie in `docs`."""
    held, page = figures_path(section, docs), docs / section.page
    facts = json.loads(held.read_text(encoding="utf-8")) if held.is_file() else None
    if facts is not None and section.plot is not None:
        section.plot(facts, docs / "images" / f"{section.name}.png")
    write_text(page, with_part(page.read_text(encoding="utf-8"), section, facts))


def publish(section: Section, facts: Facts, docs: Path) -> None:
    """Write figures as JSON into `docs`, and from them the picture and the part of the page."""
    write_text(figures_path(section, docs), json.dumps(facts, indent=1) + "\n")
    page, marks = docs / section.page, "\n\n".join(MARKS).format(section.name)
    held = page.read_text(encoding="utf-8") if page.is_file() else ""
    if docs != DOCS and marks.split("\n")[0] not in held:
        write_text(page, f"{held}\n{marks}\n")
    write_part(section, docs)
    log.info("written: %s", page)


def percent(fraction: float) -> str:
    """With two decimals, "5.69 %"."""
    return f"{100 * fraction:.2f} %"


def with_interval(found: Facts) -> str:
    """The NME of `over_seeds` with its interval, "5.69 % (5.43 to 5.96)"."""
    ends = found["interval"]
    return percent(found["nme"]) + (f" ({100 * ends[0]:.2f} to {100 * ends[1]:.2f})" if ends else "")


def spread(found: Facts) -> str:
    """The lowest and the highest of the seeds' NME in per cent; empty for one seed."""
    of = [100 * nme for nme in found["of_seeds"]]
    return f"{min(of):.2f} to {max(of):.2f}" if len(of) > 1 else ""


def listing(words: Iterable[object]) -> str:
    """Words with commas."""
    return ", ".join(map(str, words))


def size_text(size: Sequence[int]) -> str:
    """(W, H) as "128", or as "160x128"."""
    width, height = size
    return str(width) if width == height else f"{width}x{height}"


STARTS = {"none": "random weights", "imagenet": "timm's ImageNet weights"}
TAKEN_BACK = "_features.safetensors"  # how files of weights that were taken back from an int8 export end here


def weights_line(pretrained: Iterable[str]) -> str:
    """What backbones started from, as provenances name it; where those are not timm's own weights, that too."""
    names = sorted(set(pretrained))
    shown = [STARTS.get(name) or f"`{name.split()[0]}` (sha256 {name.split()[-1][:12]})" for name in names]
    line = f"Backbones started from {listing(shown)}."
    if any(name.split()[0].endswith(TAKEN_BACK) for name in names):
        line += (
            f" **The weights in `*{TAKEN_BACK}` are not timm's original floats**: they are ImageNet features taken "
            'back from an int8 export, so no figure here may be read as "timm pretrained".'
        )
    return line


def not_yet(script: str, missing: Sequence[str] = ()) -> str:
    """The line of a part whose figures, or some of them, are still to come."""
    if missing:
        return f"Not trained yet: {listing(missing)}."
    return f"Nothing was measured yet; `python benchmarks/{script}.py` does."


# ---- the command line


def run_options(description: str | None, *, rounds: int | None = None) -> argparse.ArgumentParser:
    """The flags that the accuracy benchmarks share."""
    parser = options(description, rounds=rounds, size=None)
    add = parser.add_argument
    add("--data", type=Path, help="folder of the labels")
    add("--out", type=Path, help="folder of runs, exports and figures; what is there already is not made again")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="recipe choices of all runs, as of `keylite train`")
    add("--only", nargs="+", default=[], metavar="NAME", help="train these and stop; with --report, report these")
    add("--report", action="store_true", help="train nothing: evaluate and tabulate what is trained")
    add("--publish", action="store_true", help="write into docs/ what else goes to OUT/docs")
    add("--page", action="store_true", help="only make the part of docs/results.md again, from the figures in docs/")
    add("--smoke", action="store_true", help="seconds on rendered gauges: shows that everything runs")
    return parser


Work = tuple[Sequence[Run], Callable[[list[Run]], Facts]]  # the runs, and the figures of those that are finished


def carry_out(choices: argparse.Namespace, section: Section, work: Callable[[argparse.Namespace], Work]) -> None:
    """Train what is missing of the runs, then measure those that are finished and publish it, as the flags say.

    Raises ValueError where the flags do not say what to read or where to write.
    """
    if choices.page:
        write_part(section, DOCS)
        return
    if choices.out is None:
        raise ValueError("--out: expected a folder for runs and figures")
    if choices.data is None and not choices.smoke:
        raise ValueError("--data: expected the folder of the labels, or --smoke for rendered gauges")
    if choices.smoke and choices.publish:
        raise ValueError("--publish: a smoke run has no figure worth publishing; leave one of them out")
    runs, figures = work(choices)
    for run in runs:
        if (run.folder / "recipe.yaml").is_file():
            require_same(run)
    if not choices.report:
        for run in runs:
            train_missing(run)
        if choices.only:
            return
    done = [run for run in runs if finished(run.folder)]
    if not done:
        raise ValueError(
            f"{choices.out}: nothing of {listing(run.name for run in runs)} is trained; leave out --report"
        )
    use_threads(1)
    facts = machine(1) | figures(done) | {"missing": [run.name for run in runs if run not in done]}
    publish(section, facts, DOCS if choices.publish else choices.out / "docs")
    keep(choices.json, facts)


def told(main: Callable[[], None]) -> None:
    """Run a script: wrong input is one line and exit code 2, Ctrl-C a hint and 130."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
