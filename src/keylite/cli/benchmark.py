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

USUAL_OF_TIMES: dict[str, Any] = {  # choices of what is timed here, and measured on labelled images
    **{"threads": 1, "runs": 50, "image": None, "data": None},
    **{"normalize": None, "plot": None, "engine": None},
}


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
    """Measure how long model files take per image, stage by stage, and how much memory they need, here or on targets.

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
        devices, such as tflm,ethos-u55-128: prints what int8 .tflite files take there (memory, operators,
        multiplications) in place of times on this machine; tflm is any microcontroller, figures of an Ethos-U are
        estimates of the compiler Vela; docs/targets.md has the list
    spec
        JSON description for model files that hold none
    out
        write the figures to this JSON file
    """
    if not models:
        raise ValueError("benchmark: expected model files, got none")
    if twice := [str(model) for model in models if models.count(model) > 1]:
        raise ValueError(f"benchmark: {twice[0]} is named twice; name each file once")
    if target is None:
        _time(models, threads, runs, image, data, normalize, plot, engine, spec, out, reading)
        return
    given = (threads, runs, image, data, normalize, plot, engine)
    for (name, usual), value in zip(USUAL_OF_TIMES.items(), given, strict=True):
        if value != usual:
            raise ValueError(
                f"{name}: has no effect with --target, which says what files take on devices, and times nothing; "
                "leave it out"
            )
    _on_targets(models, target, spec, out)


def _on_targets(models: tuple[Path, ...], target: str, spec: Path | None, out: Path | None) -> None:
    """Show and write what model files take on targets."""
    from keylite.evaluation.environment import versions
    from keylite.exporting.targets import measure_target, targets_of
    from keylite.runtime.files import require_outputs

    require_outputs({"out": out}, {str(model): model for model in models} | {"spec": spec})
    targets = targets_of(target)
    taken = {str(model): [measure_target(model, name, spec=spec) for name in targets] for model in models}
    show(_target_parts(taken))
    if out:
        written = {name: {"targets": {each.target: each.to_dict() for each in needs}} for name, needs in taken.items()}
        write_json(out, {"versions": versions(), "models": written})


def _time(
    models: tuple[Path, ...],
    threads: int,
    runs: int,
    image: Path | None,
    data: Path | None,
    normalize: str | None,
    plot: Path | None,
    engine: str | None,
    spec: Path | None,
    out: Path | None,
    reading: Reading,
) -> None:
    """Show, draw and write the times of model files, and their accuracy if there are labelled images."""
    from keylite.evaluation.timing import benchmark, times_table
    from keylite.pictures.plots import can_plot, plot_benchmark
    from keylite.runtime.files import require_outputs
    from keylite.runtime.packages import require

    if data is None and (normalize or plot):
        raise ValueError("benchmark: --normalize and --plot need labelled images; give them as --data")
    inputs = {str(model): model for model in models} | {"image": image, "data": data, "spec": spec}
    require_outputs({"out": out, "plot": plot}, inputs)
    if plot:
        require("matplotlib")
    if data and can_plot():
        plot = plot or (out.with_suffix(".png") if out else Path("benchmark.png"))
    dataset = None
    if data:
        dataset = _labelled(models, data, spec, reading)
        written = {"out": out, "plot": plot}
        require_outputs(written, inputs | dataset.files_named([path.name for path in written.values() if path]))
    choices: dict[str, Any] = {"engine": engine, "threads": threads, "spec": spec}
    reports = {} if dataset is None else _reports(models, dataset, normalize, choices)
    times = benchmark(models, runs=runs, image=image, **choices)
    show([times_table(times, {name: report.nme.mean for name, report in reports.items()} if reports else None)])
    if out:
        write_json(out, _written(times, reports))
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


def _target_parts(taken: dict[str, list[TargetNeeds]]) -> list[Table | str]:
    """What each model takes on each target: a row of figures each, then what runs on the CPU, and who says so.

    Columns without figures are left out, and the model's if there is one.
    """
    from keylite.exporting.targets import KB
    from keylite.runtime.tables import Table

    each = [(model, needs) for model, of_model in taken.items() for needs in of_model]
    columns = {
        "model": [model if len(taken) > 1 else "" for model, _ in each],
        "target": [needs.target for _, needs in each],
        "RAM KB": [f"{needs.ram / KB:,.1f}" for _, needs in each],
        "DRAM KB": [f"{needs.dram / KB:,.1f}" if needs.dram else "" for _, needs in each],
        "flash KB": [f"{needs.flash / KB:,.1f}" for _, needs in each],
        "million MAC": [f"{needs.macs / 1e6:.1f}" for _, needs in each],
        "ms per image": ["" if needs.ms is None else f"{needs.ms:.3g}" for _, needs in each],
    }
    shown = {name: column for name, column in columns.items() if any(column)}
    labels = [f"{model} on {needs.target}" if len(taken) > 1 else needs.target for model, needs in each]
    words = [
        row
        for label, (_, needs) in zip(labels, each, strict=True)
        for row in (
            [label, f"on the CPU: {needs.cpu_words}"],
            ["", needs.source],
        )
    ]
    title = f"{next(iter(taken))} on targets" if len(taken) == 1 else "on targets"
    return [
        Table(list(shown), list(zip(*shown.values(), strict=True)), f"{title} (a KB is 1,024 bytes)"),
        Table((), words),
    ]


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


def _written(times: Times, reports: dict[str, Report]) -> dict[str, Any]:
    """The content of the file of --out: the times, and beside them each model's accuracy, if asked for."""
    content: dict[str, Any] = times.to_dict()
    for name, report in reports.items():
        content["models"][name]["accuracy"] = {
            "data": {"name": report.data.name, "fingerprint": report.data.fingerprint},
            "count": report.nme.count,
            "normalize": report.nme.normalize,
            "nme": report.nme.mean,
            "nme_interval": report.nme.interval,
        }
    return content
