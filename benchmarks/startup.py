"""How long a process takes to import keylite or to show its help, compared with a Python that does nothing.

Run `python benchmarks/startup.py --help`; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable

from rounds import Facts, each_round, interleaved, machine, options, paragraph, table, tell

TITLE = "Import and start-up"
BASE = "python -c pass"  # every ratio is against this row
COMMANDS = {
    BASE: ["-c", "pass"],
    'python -c "import keylite"': ["-c", "import keylite"],
    'python -c "from keylite import Predictor"': ["-c", "from keylite import Predictor"],
    "python -m keylite --help": ["-m", "keylite", "--help"],
}


def starts() -> dict[str, Callable[[int], object]]:
    """The rows of the table; each step is a process."""

    def started(arguments: list[str]) -> Callable[[int], object]:
        command = [sys.executable, *arguments]
        return lambda _: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    return {name: started(arguments) for name, arguments in COMMANDS.items()}


def parser() -> argparse.ArgumentParser:
    return options(__doc__, rounds=10, size=None)


def measure(choices: argparse.Namespace) -> Facts:
    """Each row's median seconds over rounds, after a first one for the disk's cache, and its ratio to the base."""
    seconds = interleaved(starts(), 1, choices.rounds)
    rows = {}
    for name, values in seconds.items():
        ratios = [own / base for own, base in zip(values, seconds[BASE], strict=True)]
        rows[name] = {"seconds": statistics.median(values), "ratio": statistics.median(ratios)}
        rows[name]["ratio_of_each_round"] = ratios
    return machine(threads=1) | {"rounds": choices.rounds, "rows": rows}


def section(facts: Facts) -> str:
    """The part of the page."""
    cells = [
        (f"`{name}`", f"{1e3 * row['seconds']:.0f}", f"{row['ratio']:.1f}", each_round(row))
        for name, row in facts["rows"].items()
    ]
    text = paragraph(
        "The time of a process from its start to its end, with files in the disk's cache: medians of",
        f"{facts['rounds']} rounds. Rows take turns; the ratio says how many times as long as the first row a",
        "row takes.",
    )
    return f"{text}\n\n{table(('process', 'ms', 'times as long', 'of each round'), cells)}"


if __name__ == "__main__":
    tell(sys.modules[__name__], None)
