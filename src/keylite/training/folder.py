"""The folder of a run: checks before anything is written, its facts, and the log and curves of its epochs.

It holds recipe.yaml, data.json and examples.jpg. After each epoch come model.safetensors (the best epoch by val NME),
last.safetensors, log.csv, curves.png and, last of all, the framework's own resume checkpoint.
"""

from __future__ import annotations

import contextlib
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
from keylite.runtime.errors import ArgumentError, ModelFileError
from keylite.runtime.files import require_writable, write_text
from keylite.runtime.leftovers import tidy
from keylite.runtime.modelfile import read_spec
from keylite.runtime.texts import read_json
from keylite.runtime.words import is_utf8, quoted
from keylite.training.lock import require_free
from keylite.training.pretrained import pretrained_name
from keylite.training.recipe import AUTO, Recipe, Resolved, make_recipe, to_dict

log = logging.getLogger("keylite")

WITHOUT_EFFECT = ("device", "compile", "threads", "workers", "cache")  # choices that a resumed run may change
PROFILE = "profile.json"
FIRST_FOLD = "fold-1"  # a folder that holds this one holds folds
TOGETHER = ("batch", "devices", "nodes")  # their product is the number of objects in a step
CHECKPOINT = "resume.ckpt"
RESULTS = ("model.safetensors", "last.safetensors", CHECKPOINT, "log.csv", "curves.png", "examples.jpg", PROFILE)
FILES = (*RESULTS, "recipe.yaml", "data.json")


def require_history(history: object, source: str) -> None:
    """Raise ArgumentError unless this is the history in a resume checkpoint: a row of numbers per epoch.

    source: the checkpoint, for the error.
    """
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
    """Check that a run may begin or go on in `out`, before anything takes time; writes nothing.

    Raises ArgumentError if another run writes to `out`, if `out` holds a run but neither `resume` nor `overwrite` is
    given, or if the run to resume has another recipe. Raises OSError if the folder cannot be written to.
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
    """Raise ArgumentError if `out` holds a run, or files with the names of one, but neither flag is given.

    Also refuses a path that UTF-8 cannot hold, because TensorBoard and the writers of checkpoints cannot write there.
    """
    if not is_utf8(out):
        raise ArgumentError(f"out: expected a path that can be written in UTF-8, got {quoted(str(out))}; name another")
    names = [name for name in (*FILES, "tensorboard") if os.path.lexists(out / name)]
    if names and not (resume or overwrite):
        raise ArgumentError(
            f"{out}: holds a run already, or files with the names of one ({', '.join(names)}); go on with "
            "`resume=True`, start anew with `overwrite=True`, or choose another `out`"
        )


def check_resumed(out: Path, recipe: Resolved, data: Dataset, val: Dataset) -> None:
    """Raise ArgumentError if the run in `out` began with other data or another recipe, with numbers for every auto."""
    if not began_with(out, data, val):
        raise ArgumentError(
            f"{out}: a run resumes with the data that it began with; give those, or choose another `out`"
        )
    _require_same_recipe(out, recipe)
    _require_same_teacher(out, recipe)


def began_with(out: Path, data: Dataset, val: Dataset) -> bool:
    """Whether the run in `out` began with these data; True if it does not say."""
    old_facts = out / "data.json"
    return not old_facts.is_file() or read_json(old_facts) == data_facts(data, val)


def _require_same_recipe(out: Path, recipe: Recipe) -> None:
    """Raise ArgumentError if the run in `out` has another recipe; choices that are auto now are not compared."""
    from keylite.training.recipe_file import read_recipe

    path = out / "recipe.yaml"
    old, new = to_dict(make_recipe(read_recipe(path), str(path))), to_dict(recipe)
    still_auto = [name for name in AUTO if new[name] == "auto"]
    compared = [name for name in new if name not in (*WITHOUT_EFFECT, *still_auto, *TOGETHER)]
    changed = [f"{name} was {quoted(old[name])}, is {quoted(new[name])}" for name in compared if old[name] != new[name]]
    together = [[choices[name] for name in TOGETHER] for choices in (old, new)]
    if math.prod(together[0]) != math.prod(together[1]):  # with the same product, another number of processes may go on
        was, now = (" x ".join(map(str, values)) for values in together)
        changed.append(f"{' x '.join(TOGETHER)} was {was}, is {now}")
    if changed:
        changes = "; ".join(changed)
        raise ArgumentError(
            f"{out}: a run resumes with the recipe that it began with ({changes}); give that one, or choose another "
            "`out`"
        )


def _require_same_teacher(out: Path, recipe: Recipe) -> None:
    """Raise ArgumentError if the file of the teacher has changed since the last epoch of the run in `out`."""
    with contextlib.suppress(FileNotFoundError, ModelFileError):  # no epoch was finished; or the file is damaged
        old = read_spec(out / "last.safetensors").provenance.recipe.get("teacher", "none")
        if old != (new := pretrained_name(recipe.teacher)):
            raise ArgumentError(
                f"{out}: a run resumes with the teacher that it began with (it was {old}, is {new}); give that one, or "
                "choose another `out`"
            )


def data_facts(data: Dataset, val: Dataset) -> dict[str, dict[str, str | int]]:
    """Name, count and fingerprint of both parts of the data, as in `data.json`."""
    parts = {"train": data, "val": val}
    return {part: {"name": d.name, "count": len(d), "fingerprint": d.fingerprint()} for part, d in parts.items()}


def open_run(out: Path, recipe: Resolved, data: Dataset, val: Dataset, resume: bool) -> None:
    """Make the folder of a run and write what is known before training; first clear it unless the run is resumed."""
    from keylite.training.recipe_file import write_recipe

    if resume and not (out / CHECKPOINT).is_file():
        log.info("%s: no epoch was finished before; the run starts from the beginning", out)
    tidy(out)  # removes files that a killed run had not finished
    if not resume:
        clear_run(out)
    write_recipe(recipe, out / "recipe.yaml")
    write_text(out / "data.json", json.dumps(data_facts(data, val), indent=2))


def clear_run(out: Path) -> None:
    """Remove a run and all its files from a folder."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "tensorboard", ignore_errors=True)
    tidy(out)


def write_profile(out: Path, spent: dict[str, float], steps: int, epoch_end: float) -> None:
    """Write `profile.json`, and say the same in the log.

    spent: mean seconds of each part of a step. steps: the number of steps in these means. epoch_end: mean seconds of
    validation and writing at the end of an epoch.
    """
    whole = sum(spent.values())
    shares = {name: seconds / whole for name, seconds in spent.items()}
    facts = {"steps": steps, "step_ms": 1e3 * whole, "shares": shares, "epoch_end_ms": 1e3 * epoch_end}
    write_text(out / PROFILE, json.dumps(facts, indent=2) + "\n")
    rows = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    log.info("profile of %d steps: %.1f ms each: %s", steps, facts["step_ms"], rows)
    log.info(
        "validation and writing at the end of an epoch: %.0f ms; all figures: %s", facts["epoch_end_ms"], out / PROFILE
    )


def write_log(history: list[dict[str, float]], mean_shape_nme: float, out: Path) -> None:
    """Write `log.csv` and `curves.png` of all epochs so far. history: a row per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(out / "log.csv", text.getvalue())
    plot_history(history, mean_shape_nme, out / "curves.png")
