"""A case, what came of it, and what is a fault: the promise that every case is held to.

A command ends with 0, 2, 3 or 130; if it refuses, with one line, and no file of it is left. It takes at most CPU_SECONDS
and PEAK_BYTES more than the same command on the undamaged file.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

CODES = (0, 2, 3, 130)
CPU_SECONDS, PEAK_BYTES = 5.0, 10**9  # above the undamaged command
LINE = 3100  # characters of a refusal: lists name ten things of at most 200 characters each
LIBPNG = re.compile(r"(libpng (warning|error): .*\n?)+")
PART = re.compile(r"\.part")  # in the names of files that are being written


@dataclasses.dataclass(frozen=True)
class Case:
    """A command of keylite on damaged input.

    command: its arguments, or a function to call. undamaged: the same on good input, or None: nothing to compare with.
    may_write: names of files or folders, in the case's folder, that a command that succeeds may leave. check: more to
    hold an accepted case to, from the outcome to (faults, figures). label: which sort of case it is, for the figures.
    """

    command: list[str] | Callable[[], None]
    undamaged: list[str] | Callable[[], None] | None = None
    may_write: tuple[str, ...] = ()
    check: Callable[[Outcome], tuple[list[str], dict[str, Any]]] | None = None
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a command.

    code: as a shell sees it; None: an exception came out. err: the text of standard error by Python; chatter: by
    libraries, past Python. crash: the traceback, and where: its innermost line in keylite. cpu, peak: seconds and bytes.
    """

    code: int | None
    out: str = ""
    err: str = ""
    chatter: str = ""
    crash: str = ""
    where: str = ""
    cpu: float = 0.0
    peak: int = 0


Maker = Callable[[random.Random, Path, Path], Case]  # (chance, folder of undamaged files, the case's folder)


def faults_of(outcome: Outcome, usual: Outcome, left: list[str], case: Case) -> list[str]:
    """What breaks the promise, a line each, beginning with its kind; none if the case is right.

    usual: what the undamaged command took. left: what was not in the case's folder before.
    """
    faults = []
    if outcome.crash:
        faults.append(f"exception: {outcome.crash.strip().splitlines()[-1][:200]} at {outcome.where}")
    elif outcome.code not in CODES:
        faults.append(f"exit code {outcome.code}: {outcome.err.strip()[-300:]}")
    lines = [line for line in outcome.err.split("\n") if line.startswith("keylite: ")]
    if outcome.code and outcome.code in CODES and (len(lines) != 1 or not outcome.err.rstrip("\n").endswith(lines[-1])):
        faults.append(f"lines: expected one line of refusal, got {len(lines)}: {outcome.err.strip()[-300:]!r}")
    if "Traceback" in outcome.err or "Warning: " in outcome.err:
        faults.append(f"traceback or Python warning: {outcome.err.strip()[-300:]!r}")
    if lines and len(lines[-1]) > LINE:
        faults.append(f"line: {len(lines[-1])} characters: {lines[-1][:200]!r}")
    if control := re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", outcome.err):
        faults.append(f"control: the character {control[0]!r} on standard error")
    if outcome.chatter.strip() and not LIBPNG.fullmatch(outcome.chatter):
        faults.append(f"chatter: {outcome.chatter.strip()[:200]!r}")
    if outcome.cpu > usual.cpu + CPU_SECONDS:
        faults.append(f"time: {outcome.cpu:.1f} CPU seconds, undamaged {usual.cpu:.1f}")
    if outcome.peak > usual.peak + PEAK_BYTES:
        faults.append(f"memory: {outcome.peak / 1e9:.2f} GB, undamaged {usual.peak / 1e9:.2f}")
    allowed = case.may_write if outcome.code in (0, 3) else ()
    if odd := [name for name in left if name.split("/")[0] not in allowed or PART.search(name)]:
        faults.append(f"leftover: {', '.join(odd)[:200]}")
    return faults


def kind_of(fault: str) -> str:
    """What makes two faults one: their words without numbers, names and quotations."""
    kind, _, rest = fault.partition(": ")
    if kind == "exception":
        return f"{kind}: {rest.partition(':')[0].partition(' ')[0]} at {rest.rpartition(' at ')[2]}"
    if kind == "chatter":
        return f"{kind}: {' '.join(re.findall('[A-Za-z_]{3,}', rest)[:3])}"
    return kind + ": " + re.sub(r"[0-9]+|'.*?'|\"[^\"]*\"|/\S+|[a-z]+-\d+\S*", "#", rest)[:60]
