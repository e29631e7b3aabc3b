"""The figures of docs/reliability.md: tables of what a run of all cases showed, between the page's marks."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from workers import Record

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
START, END = "<!-- made by make fuzz: start -->", "<!-- end -->"
DISTANCES = ("same", "near", "visible", "size", "unchanged")  # of an accepted picture's pixels to the undamaged one's


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def case_rows(records: dict[str, list[Record]]) -> list[list[object]]:
    """A row per kind: cases, accepted, refused, faults, most seconds and megabytes above the undamaged command's."""
    rows = []
    for kind, those in records.items():
        codes = Counter(record.code for record in those)
        faults = sum(bool(record.faults) for record in those)
        seconds, peak = max(r.cpu for r in those), max(r.peak for r in those)
        row = [
            kind.replace("_", " "),
            f"{len(those):,}",
            f"{codes[0] / len(those):.0%}",
            f"{codes[2] / len(those):.0%}",
        ]
        rows.append([*row, faults, f"{max(seconds, 0):.2f}", f"{max(peak, 0) / 1e6:.0f}"])
    return rows


def picture_rows(records: Sequence[Record]) -> list[list[object]]:
    """A row per format: cases, and of those that were accepted how far their pixels are from the undamaged ones'."""
    by_format: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_format[record.label].append(record)
    rows = []
    for name, those in sorted(by_format.items()):
        found = Counter(record.figures.get("accepted") for record in those)
        rows.append([name, len(those), len(those) - found[None], *(found[distance] for distance in DISTANCES)])
    return rows


def kill_rows(records: Sequence[Record]) -> list[list[object]]:
    """A row per command: kills by signal, commands that had ended before, what went on, and faults."""
    by_scene: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.figures:
            by_scene[record.label].append(record)
    rows = []
    for name, those in by_scene.items():
        signals = Counter(record.figures["signal"] for record in those)
        ended = sum(record.figures["ended"] for record in those)
        resumed = sum(record.figures["went on"] == 1 and not record.figures["ended"] for record in those)
        anew = sum(record.figures["went on"] > 1 for record in those)
        counts = [signals[name] for name in ("SIGKILL", "SIGTERM", "SIGINT")]
        rows.append([name, len(those), *counts, ended, resumed, anew, sum(bool(record.faults) for record in those)])
    return rows


def figures(records: dict[str, list[Record]], seed: int, minutes: float) -> str:
    """Markdown of all tables."""
    from keylite.evaluation.environment import processor

    cases = {kind: those for kind, those in records.items() if kind != "kills" and those}
    lines = [f"Seed {seed}, {minutes:.0f} minutes on {os.cpu_count()} cores of {processor()}.", ""]
    header = ("kind", "cases", "accepted", "refused", "faults", "most CPU s above the undamaged", "most MB above it")
    lines += table(header, case_rows(cases))
    if "pictures" in records:
        lines += table(("format", "damaged", "accepted", *DISTANCES), picture_rows(records["pictures"]))
    if "kills" in records:
        header = ("command", "stopped", "SIGKILL", "SIGTERM", "SIGINT", "had ended", "went on", "began anew", "faults")
        lines += table(header, kill_rows(records["kills"]))
    return "\n".join(lines).strip()


def with_figures(page: str, text: str) -> str:
    """The page with the text between its marks."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{PAGE.name}: expected the marks {START!r} and {END!r}")
    return f"{before}{START}\n\n{text}\n\n{END}{after}"
