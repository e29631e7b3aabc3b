"""Cases of resume.ckpt of both frameworks: damaged, or hostile; a run that goes on from one ends as if never stopped."""

from __future__ import annotations

import functools
import io
import os
import pickle
import random
import shutil
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

from cases import Case, Outcome
from damage import mutate_bytes
from models import damaged_safetensors
from seeds import BACKBONE, TRAINING
from workers import called

SIGN = "CODE_RAN"


def training_of(framework: str, seeds: Path) -> list[str]:
    """The command that made the runs which are damaged, without --resume."""
    backbone = BACKBONE if framework == "pytorch" else "lite0"
    data = str(seeds / "labels" / "labels.json")
    rest = ("--head", "regression", "--hidden", "16", "--framework", framework, "--backbone", backbone)
    return ["train", *TRAINING, *rest, "--data", data, "--out", "run"]


def make_run(framework: str, seeds: Path) -> None:
    """runs/FRAMEWORK/: whole/run, of two epochs, and stopped/run, the same killed after the first one."""
    for name in ("whole", "stopped"):
        place = seeds / "runs" / framework / name
        place.mkdir(parents=True)
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            continue
        os.chdir(place)
        if name == "stopped":
            sys.addaudithook(_die_after_epoch)
        outcome = called(training_of(framework, seeds))
        if outcome.code != 0:
            print(outcome, outcome.crash, file=sys.__stderr__)
        os._exit(0)


ENDED: list[bool] = []


def _die_after_epoch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.rename" and str(arguments[1]).endswith("resume.ckpt"):
        ENDED.append(True)
    elif ENDED and event == "open" and "w" in str(arguments[1] or ""):
        os.kill(os.getpid(), signal.SIGKILL)


class Hostile:
    """An object whose unpickling runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {SIGN}",))


def hostile(rng: random.Random, data: bytes) -> bytes:
    """A checkpoint that runs code, if it is believed: a pickle, alone or inside the archive that PyTorch writes."""
    attack = pickle.dumps({"state_dict": Hostile(), "epoch": 1}, rng.choice((2, 4)))
    if rng.random() < 0.2 or not data.startswith(b"PK"):
        return attack
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.infolist():
            new.writestr(member, attack if member.filename.endswith(".pkl") else old.read(member))
    return buffer.getvalue()


def damaged_checkpoint(rng: random.Random, data: bytes) -> bytes:
    chance = rng.random()
    if chance < 0.15:
        return hostile(rng, data)
    if chance < 0.25:
        return data[: rng.randrange(len(data))]
    if chance < 0.6 or data.startswith(b"PK"):
        edge = rng.choice(((0, len(data)), (0, min(3000, len(data))), (max(0, len(data) - 20_000), len(data))))
        return mutate_bytes(rng, data, rng.choice((1, 1, 3)), *edge)
    return damaged_safetensors(rng, data)


def checkpoints(framework: str, rng: random.Random, seeds: Path, folder: Path) -> Case:
    """A run with a damaged resume.ckpt, gone on with."""
    runs, command = seeds / "runs" / framework, training_of(framework, seeds)
    shutil.copytree(runs / "stopped" / "run", folder / "run")
    path = folder / "run" / "resume.ckpt"
    path.write_bytes(damaged_checkpoint(rng, path.read_bytes()))

    def check(_: Outcome) -> tuple[list[str], dict[str, Any]]:
        same = differences(folder / "run", runs / "whole" / "run") == []
        return ([] if same else ["unnoticed: a damaged resume.ckpt gives another model"]), {"accepted": same}

    def go_on() -> None:
        from keylite.cli import main

        try:
            main([*command, "--resume"])
        finally:
            if (folder / SIGN).exists():
                raise RuntimeError("attack: resume.ckpt ran a command")

    return Case(go_on, functools.partial(usual_run, framework, str(seeds)), ("run",), check, framework)


def usual_run(framework: str, seeds: str) -> None:
    """The undamaged run gone on with."""
    from keylite.cli import main

    shutil.copytree(Path(seeds) / "runs" / framework / "stopped" / "run", "usual")
    command = training_of(framework, Path(seeds))
    command[command.index("--out") + 1] = "usual"
    main([*command, "--resume"])


def differences(run: Path, whole: Path) -> list[str]:
    """What is not the same in two runs' folders: tensors bit for bit, log.csv but for times, names of files."""
    found = []
    for name in ("model.safetensors", "last.safetensors"):
        if _tensors(run / name) != _tensors(whole / name):
            found.append(f"{name}: other tensors")
    if _rows(run / "log.csv") != _rows(whole / "log.csv"):
        found.append(f"log.csv: {_rows(run / 'log.csv')} and {_rows(whole / 'log.csv')}")
    if (names := _names(run)) != (usual := _names(whole)):
        found.append(f"files: {sorted(names ^ usual)} in one alone")
    return found


def _tensors(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def _rows(path: Path) -> list[dict[str, str]]:
    import csv

    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if "time" not in k and "second" not in k} for row in csv.DictReader(file)]


def _names(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}
