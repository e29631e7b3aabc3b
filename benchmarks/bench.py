"""All speed benchmarks in a short form, and the page that they make: `make bench`.

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
QUIET = 0.5  # load of a machine that has nothing else to do
PEERED = "pipeline"  # the script that takes --peers
HEAD = """# Benchmarks

<!-- made by `python benchmarks/bench.py` (`make bench`) from benchmarks.json: change nothing here -->

`make bench` measured what follows and wrote this page. [benchmarks/README.md](../benchmarks/README.md) says what each
script does and how to read a ratio; accuracy is in [results](results.md)."""
BUSY = "Other work ran beside it: ratios can be quoted, milliseconds and images/s are those of a busy machine."


def measured(name: str, flags: tuple[str, ...], load: float) -> Facts:
    """A part: its command, when it ended, loads, and the facts that its script keeps. load: before all parts."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "facts.json"
        before = os.getloadavg()[0]
        command = [sys.executable, str(HERE / f"{name}.py"), *flags, "--json", str(kept)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "2"}  # TensorFlow's C++ tells stderr about the processor
        subprocess.run(command, env=os.environ | quiet, check=True, stdout=subprocess.DEVNULL)
        told = {"command": " ".join(["python", f"benchmarks/{name}.py", *flags]), "at": now()}
        loads = {"first": load, "before": before, "after": os.getloadavg()[0]}
        return told | {"load": loads, "facts": json.loads(kept.read_text())}


def same_machine(part: Facts, others: dict[str, Facts]) -> bool:
    """Whether all parts were measured on one machine with the same versions."""
    return all(machine_line(part["facts"]) == machine_line(other["facts"]) for other in others.values())


def page(parts: dict[str, Facts]) -> str:
    """The whole page, of these facts and nothing else."""
    facts = next(iter(parts.values()))["facts"]
    first = sorted({f"{part['load']['first']:.1f}" for part in parts.values()}, key=float)
    words = [
        f"**Load**, average of a minute before anything was measured: {' and '.join(first)},",
        f"on {facts['cores']} cores.",
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
    found.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these, keep the others")
    found.add_argument("--peers", action="store_true", help="other libraries beside the pipeline, in .venv-peers")
    found.add_argument("--page", action="store_true", help="measure nothing: make the page from the figures beside it")
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
