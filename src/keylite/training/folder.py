"""The folder of a run: what may be written there, what of a run is there, and the files that follow its epochs.

It holds recipe.yaml, data.json, examples.jpg, and after each epoch model.safetensors (best by val NME),
last.safetensors, log.csv, curves.png and the framework's own resume checkpoint, which is written last.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import shutil
from pathlib import Path

from keylite.data.dataset import Dataset
from keylite.pictures.plots import plot_history
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import require_writable, tidy, write_text
from keylite.runtime.texts import read_json
from keylite.runtime.words import is_utf8, quoted
from keylite.training.lock import require_free
from keylite.training.recipe import AUTO, Recipe, Resolved, make_recipe, to_dict

log = logging.getLogger("keylite")

WITHOUT_EFFECT = ("device", "compile", "threads", "workers", "cache")  # choices that a resumed run may change
PROFILE = "profile.json"
FIRST_FOLD = "fold-1"  # what tells a folder of folds
TOGETHER = ("batch", "devices", "nodes")  # whose product is what a step is made of
CHECKPOINT = "resume.ckpt"
RESULTS = ("model.safetensors", "last.safetensors", CHECKPOINT, "log.csv", "curves.png", "examples.jpg", PROFILE)
FILES = (*RESULTS, "recipe.yaml", "data.json")


def require_history(history: object, source: str) -> None:
    """Raise ValueError unless this is what a resume checkpoint holds of its epochs: a row of numbers for each."""
    rows = history if isinstance(history, list) else []
    fits = all(
        isinstance(row, dict)
        and row.keys() == {"epoch", "step", "lr", "loss", "val_nme", "val_px", "seconds", "epoch_seconds"}
        and row["epoch"] == number
        and all(type(value) in (int, float) and math.isfinite(value) for value in row.values())
        for number, row in enumerate(rows, 1)
    )
    if not rows or not fits:
        raise ArgumentError(
            f"{source}: the file is damaged, or of another run (its epochs are not counted from 1); start anew with "
            "`overwrite=True`, or choose another `out`"
        )


def check_run(out: Path, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    """Make sure, before anything costs time, that a run may begin or go on in `out`; writes nothing.

    Raises ValueError where another run writes to `out`, or it holds one and neither is asked for, or a resumed run's
    recipe is another; OSError where the folder cannot be written to.
    """
    old_recipe = out / "recipe.yaml"
    require_free(out)
    require_writable(out)
    if resume and overwrite:
        raise ArgumentError("resume, overwrite: expected one of them, got both")
    if resume and not old_recipe.is_file():
        raise ArgumentError(f"{out}: no run to resume here; leave `resume=True` out to begin one")
    if (out / FIRST_FOLD / "recipe.yaml").is_file():
        raise ArgumentError(f"{out}: holds folds; go on with `folds`, or choose another `out`")
    require_new(out, resume, overwrite)
    if resume:
        _require_same_recipe(out, recipe)


def require_new(out: Path, resume: bool, overwrite: bool) -> None:
    """Raise ValueError where `out` holds a run, or files of a run's names, and neither is asked for.

    Nor may its path be what no UTF-8 text can hold: TensorBoard, and what writes checkpoints, cannot write there.
    """
    if not is_utf8(out):
        raise ArgumentError(f"out: expected a path that can be written in UTF-8, got {quoted(str(out))}; name another")
    there = [name for name in (*FILES, "tensorboard") if os.path.lexists(out / name)]
    if there and not (resume or overwrite):
        raise ArgumentError(
            f"{out}: holds a run already, or files of its names ({', '.join(there)}); go on with `resume=True`, "
            "start anew "
            "with `overwrite=True`, or choose another `out`"
        )


def check_resumed(out: Path, recipe: Resolved, data: Dataset, val: Dataset) -> None:
    """Raises ValueError where the run in `out` began with other data, or another recipe once auto is settled."""
    if not began_with(out, data, val):
        raise ArgumentError(f"{out}: a run resumes with the data it began with; or choose another `out`")
    _require_same_recipe(out, recipe)


def began_with(out: Path, data: Dataset, val: Dataset) -> bool:
    """Whether the run in `out` is of these data, as far as it says."""
    old_facts = out / "data.json"
    return not old_facts.is_file() or read_json(old_facts) == data_facts(data, val)


def _require_same_recipe(out: Path, recipe: Recipe) -> None:
    """Raises ValueError where the run in `out` has another recipe; auto is not compared."""
    from keylite.training.recipe_file import read_recipe

    path = out / "recipe.yaml"
    old, new = to_dict(make_recipe(read_recipe(path), str(path))), to_dict(recipe)
    open_yet = [name for name in AUTO if new[name] == "auto"]
    compared = [name for name in new if name not in (*WITHOUT_EFFECT, *open_yet, *TOGETHER)]
    changed = [f"{name} was {quoted(old[name])}, is {quoted(new[name])}" for name in compared if old[name] != new[name]]
    together = [[one[name] for name in TOGETHER] for one in (old, new)]
    if math.prod(together[0]) != math.prod(together[1]):  # else other processes may go on with it
        was, now = (" x ".join(map(str, values)) for values in together)
        changed.append(f"{' x '.join(TOGETHER)} was {was}, is {now}")
    if changed:
        told = "; ".join(changed)
        raise ArgumentError(f"{out}: a run resumes with the recipe it began with ({told}); or choose another `out`")


def data_facts(data: Dataset, val: Dataset) -> dict[str, dict[str, str | int]]:
    """Name, count and fingerprint of both parts, as in `data.json`."""
    parts = {"train": data, "val": val}
    return {part: {"name": d.name, "count": len(d), "fingerprint": d.fingerprint()} for part, d in parts.items()}


def open_run(out: Path, recipe: Resolved, data: Dataset, val: Dataset, resume: bool) -> None:
    """Make the folder of a run, without what an overwritten one left."""
    from keylite.training.recipe_file import write_recipe

    if resume and not (out / CHECKPOINT).is_file():
        log.info("%s: no epoch was finished yet; starting from the beginning", out)
    tidy(out)  # what a killed run had not finished writing
    if not resume:
        clear_run(out)
    write_recipe(recipe, out / "recipe.yaml")
    write_text(out / "data.json", json.dumps(data_facts(data, val), indent=2))


def clear_run(out: Path) -> None:
    """Remove a run and all that it left from its folder."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "tensorboard", ignore_errors=True)
    tidy(out)


def checkpoints(out: Path) -> set[tuple[Path, int]]:
    """What a run in `out`, or folds in it, can go on from, each with the time of its last change, ns."""
    found = (out / CHECKPOINT, *out.glob(f"fold-*/{CHECKPOINT}"))
    return {(path, path.stat().st_mtime_ns) for path in found if path.is_file()}


def write_profile(out: Path, spent: dict[str, float], steps: int, epoch_end: float) -> None:
    """`profile.json`, and the same as a table in the log.

    spent: mean seconds of a step's parts, over so many steps. epoch_end: mean seconds of validation and writing.
    """
    whole = sum(spent.values())
    shares = {name: seconds / whole for name, seconds in spent.items()}
    facts = {"steps": steps, "step_ms": 1e3 * whole, "shares": shares, "epoch_end_ms": 1e3 * epoch_end}
    write_text(out / PROFILE, json.dumps(facts, indent=2) + "\n")
    rows = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    log.info("profile of %d steps: %.1f ms each: %s", steps, facts["step_ms"], rows)
    log.info("at an epoch's end, validation and files: %.0f ms; all figures: %s", facts["epoch_end_ms"], out / PROFILE)


def write_log(history: list[dict[str, float]], mean_shape_nme: float, out: Path) -> None:
    """`log.csv` and `curves.png` of all epochs so far."""
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(out / "log.csv", text.getvalue())
    plot_history(history, mean_shape_nme, out / "curves.png")
