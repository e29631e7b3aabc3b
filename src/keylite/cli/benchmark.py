"""`keylite benchmark`: time, memory and accuracy of model files, side by side."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keylite.cli.output import show
from keylite.cli.shared import USUAL, As, Reading, write_json

if TYPE_CHECKING:
    from keylite.data.dataset import Dataset
    from keylite.evaluation.report import Report
    from keylite.evaluation.timing import Times
    from keylite.exporting.targets import TargetNeeds
    from keylite.runtime.tables import Table
    from keylite.runtime.types import WhiteLevel

log = logging.getLogger("keylite")


def benchmark(
    *models: Path,
    threads: int = 1,
    runs: int = 50,
    image: Path | None = None,
    data: Path | None = None,
    normalize: str | None = None,
    plot: Path | None = None,
    engine: str | None = None,
    target: str | None = None,
    spec: Path | None = None,
    out: Path | None = None,
    reading: As = USUAL,
) -> None:
    """Measure how long model files take per image, stage by stage, and how much memory they need.

    Parameters
    ----------
    models
        model files to compare; they take turns
    threads
        threads of each engine
    runs
        how often each file is run
    image
        image file to use; default: a JPEG of 640x480 px that is made for it
    data
        labelled images: adds the NME (normalised mean error) of each file, and a plot of it against the time
    normalize
        with --data: the length that errors are divided by; default: the models' own
    plot
        with --data: PNG to write; default: benchmark.png, or the name of --out with .png
    engine
        onnx, litert, litert-reference, tflm, pytorch or tensorflow, for all files; default: the usual one of each
    target
        devices, such as tflm,ethos-u55-128: adds what int8 .tflite files take there (memory, operators,
        multiplications); tflm is any microcontroller, figures of an Ethos-U are estimates of the compiler Vela;
        docs/targets.md has the list
    spec
        JSON description for model files that hold none
    out
        write the figures to this JSON file
    """
    from keylite.evaluation.timing import benchmark
    from keylite.exporting.targets import measure_target, targets_of
    from keylite.pictures.plots import can_plot, plot_benchmark
    from keylite.runtime.files import require_outputs
    from keylite.runtime.packages import require

    if not models:
        raise ValueError("benchmark: expected model files, got none")
    if data is None and (normalize or plot):
        raise ValueError("benchmark: --normalize and --plot need labelled images; give them as --data")
    inputs = {str(model): model for model in models} | {"image": image, "data": data, "spec": spec}
    require_outputs({"out": out, "plot": plot}, inputs)
    if plot:
        require("matplotlib")
    if twice := [str(model) for model in models if models.count(model) > 1]:
        raise ValueError(f"benchmark: {twice[0]} is named twice; name each file once")
    if data and can_plot():
        plot = plot or (out.with_suffix(".png") if out else Path("benchmark.png"))
    targets = targets_of(target) if target is not None else []
    taken = [(str(model), measure_target(model, name, spec=spec)) for model in models for name in targets]
    dataset = None
    if data:
        dataset = _labelled(models, data, spec, reading)
        written = {"out": out, "plot": plot}
        require_outputs(written, inputs | dataset.files_named([path.name for path in written.values() if path]))
    choices: dict[str, Any] = {"engine": engine, "threads": threads, "spec": spec}
    reports = {} if dataset is None else _reports(models, dataset, normalize, choices)
    times = benchmark(models, runs=runs, image=image, **choices)
    show([_table(times, reports), *([_target_table(taken)] if taken else [])])
    if out:
        write_json(out, _written(times, reports, taken))
    if reports and plot:
        plot_benchmark(times, reports, plot)
        print(f"wrote {plot}")
    elif reports:
        log.warning("no plot: matplotlib is not installed (pip install matplotlib)")


def _labelled(models: tuple[Path, ...], data: Path, spec: Path | None, reading: Reading) -> Dataset:
    """The labelled images, read as all models can take them."""
    from keylite.runtime.modelfile import read_spec

    specs = [read_spec(model, spec) for model in models]
    box = next((model_spec.box for model_spec in specs if model_spec.box != "image"), "image")
    levels: list[WhiteLevel] = [model_spec.white_level for model_spec in specs]
    return reading.dataset(data, min(levels), box)


def _table(times: Times, reports: dict[str, Report]) -> Table:
    """The figures of all models, one row each."""
    from keylite.evaluation.timing import STAGES
    from keylite.runtime.tables import Table

    stages = (*STAGES, "total")
    rows = [
        [name, facts["engine"], "" if facts["bytes"] is None else f"{facts['bytes'] / 1e6:.1f}"]
        + ["{median:.3f} ({p10:.3f}..{p90:.3f})".format(**facts["ms"][stage]) for stage in stages]
        + ["{before:.0f} to {peak:.0f}".format(**facts["memory"]) if facts["memory"] else ""]
        + ([f"{100 * reports[name].nme.mean:.2f}"] if reports else [])
        for name, facts in times["models"].items()
    ]
    title = (
        f"ms per image: median (p10..p90) of {times['runs']} runs, {times['threads']} thread(s), {times['machine']}, "
        f"{times['image']}"
    )
    columns = ["model", "engine", "MB", *stages, "memory MB", *(["NME %"] if reports else [])]
    return Table(columns, rows, title)


def _target_table(taken: list[tuple[str, TargetNeeds]]) -> Table:
    """What each model takes on each target, one row each; the last column says that nothing was measured on a chip."""
    from keylite.exporting.targets import KB
    from keylite.runtime.tables import Table

    rows = [
        [
            *(model, needs.target, needs.cpu_words),
            *(f"{size / KB:,.1f}" for size in (needs.ram, needs.dram, needs.flash)),
            f"{needs.macs / 1e6:.1f}",
            *("" if needs.ms is None else f"{needs.ms:.3g}", needs.source),
        ]
        for model, needs in taken
    ]
    columns = ["model", "target", "on the CPU", "RAM KB", "DRAM KB", "flash KB", "million MAC", "ms per image"]
    return Table([*columns, "source"], rows, "on targets (a KB is 1,024 bytes)")


def _reports(
    models: tuple[Path, ...], dataset: Dataset, normalize: str | None, choices: dict[str, Any]
) -> dict[str, Report]:
    """Each model's report on these data, by the normaliser that is given, or that all have. choices: of Predictor."""
    from keylite.evaluation.evaluate import evaluate
    from keylite.runtime.predictor import Predictor

    predictors = {str(model): Predictor(model, **choices) for model in models}
    own = list(dict.fromkeys(predictor.spec.normalize for predictor in predictors.values()))
    if normalize is None and len(own) > 1:
        raise ValueError(f"normalize: expected models with one normaliser, got {', '.join(own)}; choose one")
    return {name: evaluate(predictor, dataset, normalize=normalize) for name, predictor in predictors.items()}


def _written(times: Times, reports: dict[str, Report], taken: list[tuple[str, TargetNeeds]]) -> dict[str, Any]:
    """The content of the file of --out: the times, and beside them each model's accuracy and targets, if asked for."""
    models: dict[str, Any] = {name: dict(facts) for name, facts in times["models"].items()}
    for name, needs in taken:
        models[name].setdefault("targets", {})[needs.target] = needs.to_dict()
    for name, report in reports.items():
        models[name]["accuracy"] = {
            "data": {"name": report.data.name, "fingerprint": report.data.fingerprint},
            "count": report.nme.count,
            "normalize": report.nme.normalize,
            "nme": report.nme.mean,
            "nme_interval": report.nme.interval,
        }
    return dict(times) | {"models": models}
