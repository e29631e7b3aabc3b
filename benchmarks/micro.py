"""The presets for microcontrollers: their NME, and what the whole-integer file takes in flash, memory and time.

It trains each preset on all keypoints and on a few of them, exports a whole-integer file, and measures it in LiteRT
and in TensorFlow Lite Micro; Arm's compiler Vela estimates an NPU. README.md says how to use it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rounds import Facts, interleaved, machine, machine_line, paragraph, table
from runs import (
    FACES,
    SMOKE,
    Parts,
    Run,
    Section,
    Work,
    carry_out,
    kept,
    listing,
    log,
    measured,
    named,
    not_yet,
    over_seeds,
    parts_of,
    percent,
    recipe_in,
    run_options,
    sets,
    size_text,
    told,
    weights_line,
    with_interval,
)

import keylite
from keylite.data.dataset import Dataset
from keylite.exporting.calibration import some_crops
from keylite.exporting.certificate import nme_change
from keylite.exporting.targets import TFLM, in_kb
from keylite.runtime.files import sha256
from keylite.runtime.modelfile import read_spec
from keylite.runtime.predictor import Predictor
from keylite.runtime.skeleton import Skeleton
from keylite.training.presets import PRESETS
from keylite.training.recipe import make_recipe

MICRO_PRESETS = "tiny", "small"
FEW = (  # of the 68 points of a face: brows, corners of the eyes, nose, mouth, chin
    *(17, 19, 21, 22, 24, 26, 36, 39, 42, 45, 27, 30, 31, 33, 35),
    *(48, 51, 54, 57, 62, 66, 8),
)
SMOKE_FEW = 0, 3
SMOKE_PRESET = {"backbone": "lite0", "stages": 3, "head": "heatmap"}
NPU = "ethos-u55-128"
TIMED = "litert", "tflm"  # engines
FILE = "whole.int8.tflite"
WHOLE: dict[str, Any] = {"input_type": "int8", "output_type": "int8"}


# ---- data and runs


def with_few(data: Dataset, keypoints: Sequence[int]) -> Dataset:
    """The same images with these keypoints alone, in this order."""
    rows = list(keypoints)
    skeleton = Skeleton(tuple(data.skeleton.names[row] for row in rows))
    return dataclasses.replace(data, skeleton=skeleton, xy=data.xy[:, rows], visible=data.visible[:, rows])


def planned(choices: argparse.Namespace) -> tuple[list[Run], Callable[[Run], Parts]]:
    """The runs, and a function that gives the data of one."""
    parts = functools.cache(lambda: parts_of(choices))
    few = SMOKE_FEW if choices.smoke else FEW

    @functools.cache
    def few_parts() -> Parts:
        whole = parts()
        return Parts(whole.name, *(with_few(part, few) for part in (whole.train, whole.val, whole.test)))

    by_points: dict[str, Callable[[], Parts]] = {"all": parts, f"{len(few)}": few_parts}
    runs, data = [], {}
    for preset in MICRO_PRESETS:
        for points, get in by_points.items():
            own = {**SMOKE, **SMOKE_PRESET} if choices.smoke else {**FACES, **PRESETS[preset]}
            if points != "all" and not choices.smoke:
                own["normalize"] = ",".join(str(FEW.index(int(point))) for point in own["normalize"].split(","))
            recipe = {**own, **sets(choices.set)}
            for seed in choices.seeds:
                name = f"{preset}-{points}-seed{seed}"
                pair = functools.partial(lambda get: (get().train, get().val), get)
                made = make_recipe(recipe | {"seed": seed}, name)
                runs.append(Run(name, f"{preset}-{points}", choices.out / name, made, (*recipe, "seed"), pair))
                data[name] = get
    return runs, lambda run: data[run.name]()


# ---- figures


def exported(run: Run, parts: Parts) -> Path:
    """The whole-integer file of a run, made once and certified on val."""
    made = run.folder / "exports" / FILE
    if not (made.is_file() and read_spec(made).provenance.parent == sha256(run.model)):
        log.info("%s: exporting %s", run.name, made.name)
        made.parent.mkdir(exist_ok=True)
        keylite.export(run.model, parts.val, made, precision="int8", **WHOLE, calibration=parts.train)
    return made


def needs_of(made: Path) -> Facts:
    """What a file takes in TensorFlow Lite Micro, and on an NPU by Vela's estimate."""
    micro, npu = (keylite.measure_target(made, name) for name in (TFLM, NPU))
    facts = {"flash": micro.flash, "arena": micro.ram, "macs": micro.macs, "operators": list(micro.operators)}
    return facts | {"npu_ms": npu.ms, "npu_ram": npu.ram, "npu_cpu": sorted(npu.on_cpu), "npu_source": npu.source}


def figures_of(done: list[Run], parts: Callable[[Run], Parts], choices: argparse.Namespace) -> Facts:
    """All figures of finished runs: exports, accuracy on the split, needs, and times of all files in turns."""
    rows, files, crops = [], {}, {}
    for plan in dict.fromkeys(run.plan for run in done):
        own = [run for run in done if run.plan == plan]
        data: Any = getattr(parts(own[0]), choices.split)
        normalize = recipe_in(own[0].folder).normalize
        made = [exported(run, parts(run)) for run in own]

        def errors_of(models: Sequence[Path], own: list[Run] = own, data: Any = data, norm: str = normalize) -> Facts:
            pairs = zip(own, models, strict=True)
            return over_seeds(
                [measured(model, data, run.folder / "figures", choices.split, norm) for run, model in pairs], data
            )

        spec = read_spec(made[0])
        files[plan], crops[plan] = made[0], some_crops(spec, data)[:1]
        parent, child = errors_of([run.model for run in own]), errors_of(made)
        rows.append(
            {
                **{"name": plan, "preset": plan.partition("-")[0], "keypoints": len(spec.skeleton)},
                **{"size": list(spec.size), "stages": spec.stages, "seeds": [run.recipe.seed for run in own]},
                **{"epochs": recipe_in(own[0].folder).epochs, "float": parent, "int8": child},
                **{"change": nme_change(parent["nme"], child["nme"])},
                **{"pretrained": sorted({read_spec(run.model).provenance.pretrained for run in own})},
                **kept(
                    own[0].folder / "figures" / "needs.json", {"model": sha256(made[0])}, lambda f=made[0]: needs_of(f)
                ),
            }
        )

    def times() -> Facts:
        timed: dict[str, Callable[[int], object]] = {
            f"{plan} {engine}": _row_of(Predictor(path, engine=engine, threads=1), crops[plan])
            for plan, path in files.items()
            for engine in TIMED
        }
        return interleaved(timed, choices.images, choices.rounds)

    key = {"files": {plan: sha256(path) for plan, path in files.items()}, "rounds": choices.rounds}
    seconds = kept(choices.out / "latency.json", key | {"images": choices.images} | machine(1), times)
    for row in rows:
        for engine in TIMED:
            row[f"{engine}_ms"] = 1e3 * min(seconds[f"{row['name']} {engine}"]) / choices.images
    first: Any = getattr(parts(done[0]), choices.split)
    return {
        **{"data": parts(done[0]).name, "split": choices.split, "count": len(first), "groups": len(first.groups)},
        **{"fingerprint": first.fingerprint(), "normalize": recipe_in(done[0].folder).normalize, "rows": rows},
        **{"rounds": choices.rounds, "images": choices.images},
    }


def _row_of(predictor: Predictor, crop: np.ndarray) -> Callable[[int], float]:
    """A row of the timing: the CPU seconds of a crop's points."""

    def row(number: int) -> float:
        start = time.process_time()
        predictor.run(crop)
        return time.process_time() - start

    return row


# ---- the page

COLUMNS = (
    *("preset", "px", "stages", "keypoints", "epochs", "seeds", "NME (95 %, by group)", "int8", "change"),
    *("model", "arena", "million MAC", f"{NPU}, estimate", "LiteRT", "TFLM on this machine"),
)


def text(facts: Facts | None) -> str:
    """The part of the page."""
    if facts is None:
        return not_yet("micro")
    rows = facts["rows"]
    parts = [
        paragraph(
            f"{facts['split']} of {facts['data']}: {facts['count']} objects, {facts['groups']} groups; NME by "
            f"{facts['normalize']}; the epoch was chosen on val. Files take and give int8.",
            weights_line(name for row in rows for name in row["pretrained"]),
            "Model and arena are in KB of 1,024 bytes. MAC: multiplications, each with an addition, per image.",
            f"The time on an NPU is {rows[0]['npu_source']}.",
            "The other times are milliseconds of CPU time per image on one thread of this machine, the least of",
            f"{facts['rounds']} rounds, all files in turns.",
        ),
        table(COLUMNS, [_cells(row) for row in rows]),
        paragraph(machine_line(facts)),
    ]
    if facts["missing"]:
        parts.append(paragraph(not_yet("micro", facts["missing"])))
    return "\n\n".join(parts)


def _cells(row: Facts) -> tuple[str, ...]:
    cpu = f", on the CPU: {listing(row['npu_cpu'])}" if row["npu_cpu"] else ", nothing on the CPU"
    return (
        *(f"`{row['preset']}`", size_text(row["size"]), str(row["stages"]), str(row["keypoints"])),
        *(str(row["epochs"]), listing(row["seeds"]), with_interval(row["float"]), percent(row["int8"]["nme"])),
        *(f"{100 * row['change']:+.1f} %", in_kb(row["flash"]), in_kb(row["arena"]), f"{row['macs'] / 1e6:.1f}"),
        f"{row['npu_ms']:.2f} ms{cpu}",
        *(f"{row[f'{engine}_ms']:.1f} ms" for engine in TIMED),
    )


SECTION = Section("micro", text, None)


# ---- the command line


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = run_options(__doc__, rounds=7)
    made.add_argument("--split", choices=("val", "test"), default="val", help="what is measured (default val)")
    made.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the runs (default 0)")
    made.add_argument("--images", type=int, default=20, help="crops per round of the timing (default 20)")
    return made


def work(choices: argparse.Namespace) -> Work:
    """What the flags ask for."""
    runs, parts = planned(choices)
    return named(runs, choices.only), lambda done: figures_of(done, parts, choices)


def main(arguments: Sequence[str] | None = None) -> None:
    carry_out(parser().parse_args(arguments), SECTION, work)


if __name__ == "__main__":
    told(main)
