"""Runs all speed benchmarks in a short form and makes their page: `make bench`.

Each script runs in a process of its own, one after the other. Figures are kept as JSON beside the page, which is made
from them alone; `--only` measures some and keeps the others. Knows nothing of what a script measures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rounds import Facts, machine_line, paragraph

from keylite.evaluation.environment import now
from keylite.runtime.files import write_text

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs/benchmarks.md"
PARTS: dict[str, tuple[str, ...]] = {  # scripts in the page's order: the flags of the short form
    "pipeline": ("--rounds", "6", "--images", "128", "--scenes", "32", "--boxes", "96", "512"),
    "step": ("--rounds", "5", "--batch", "16"),
    "training": ("--steps", "40"),
    "growth": ("--rounds", "5"),
    "inference": ("--rounds", "5", "--runs", "20"),
    "predictor": ("--rounds", "5", "--images", "100", "--memory", "1000"),
    "startup": ("--rounds", "10"),
    "scaling": ("--rounds", "5", "--annotations", "20000"),
}
QUIET = 0.5  # the load of a machine that does nothing else is below this
PEERED = "pipeline"  # the script that takes --peers
HEAD = """# Benchmarks

<!-- made by `python benchmarks/bench.py` (`make bench`) from benchmarks.json: change nothing here -->

`make bench` measured these figures and wrote this page. [benchmarks/README.md](../benchmarks/README.md) says what each
script does and how to read a ratio; accuracy is in [results](results.md)."""
BUSY = "Other work ran at the same time: quote ratios, not milliseconds or images/s."


def measured(name: str, flags: tuple[str, ...], load: float) -> Facts:
    """Run one script: its command, when it ended, the machine's loads, and its figures. load: before all scripts."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "facts.json"
        before = os.getloadavg()[0]
        command = [sys.executable, str(HERE / f"{name}.py"), *flags, "--json", str(kept)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "2"}  # TensorFlow's C++ code writes to stderr
        subprocess.run(command, env=os.environ | quiet, check=True, stdout=subprocess.DEVNULL)
        told = {"command": " ".join(["python", f"benchmarks/{name}.py", *flags]), "at": now()}
        loads = {"first": load, "before": before, "after": os.getloadavg()[0]}
        return told | {"load": loads, "facts": json.loads(kept.read_text())}


def same_machine(part: Facts, others: dict[str, Facts]) -> bool:
    """Whether all parts were measured on one machine with the same versions."""
    return all(machine_line(part["facts"]) == machine_line(other["facts"]) for other in others.values())


def page(parts: dict[str, Facts]) -> str:
    """The whole page, made from these figures alone."""
    facts = next(iter(parts.values()))["facts"]
    first = sorted({f"{part['load']['first']:.1f}" for part in parts.values()}, key=float)
    words = [
        f"**Load** of {facts['cores']} cores, the average over the minute before anything was measured:",
        f"{' and '.join(first)}.",
        *([BUSY] if float(first[-1]) > QUIET else []),
    ]
    told = [HEAD, paragraph(f"**Machine**: {machine_line(facts)}"), paragraph(*words)]
    for name, part in parts.items():
        script: Any = importlib.import_module(name)
        loads = "load {before:.1f} before and {after:.1f} after".format(**part["load"])
        line = f"`{part['command']}`, {part['at']}, {part['facts']['threads']} thread(s), {loads}."
        told += [f"## {script.TITLE}", paragraph(line), script.section(part["facts"])]
    return "\n\n".join(told) + "\n"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--out", type=Path, default=PAGE, help=f"the page; its figures lie beside it (default {PAGE})")
    found.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these and keep the figures of the others"
    )
    found.add_argument("--peers", action="store_true", help="also measure other libraries (in .venv-peers)")
    found.add_argument("--page", action="store_true", help="only make the page from the figures beside it")
    return found


def main(arguments: list[str] | None = None) -> None:
    choices = parser().parse_args(arguments)
    held = choices.out.with_suffix(".json")
    load = os.getloadavg()[0]
    parts: dict[str, Facts] = json.loads(held.read_text()) if held.is_file() else {}
    for name in PARTS if not choices.page else ():
        if name in choices.only:
            flags = PARTS[name] + (("--peers",) if choices.peers and name == PEERED else ())
            print(f"{name} ...", flush=True)
            part = measured(name, flags, load)
            parts = (parts if same_machine(part, parts) else {}) | {name: part}
            parts = {known: parts[known] for known in PARTS if known in parts}  # in the page's order
            write_text(held, json.dumps(parts, indent=1) + "\n")
    if not parts:
        parser().error(f"--page: expected the figures of a run in {held}, got no such file; leave --page out")
    write_text(choices.out, page(parts))
    print(choices.out)


if __name__ == "__main__":
    main()
