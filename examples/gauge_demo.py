"""keylite's whole road on the built-in gauges: render images, train, evaluate, export, predict.

`make demo` runs it. It trains from random weights and tests on makes of gauge that training never showed. Everything is
written to one folder; summary.md in it has the results.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

import keylite
from keylite.data.examples import Examples
from keylite.data.formats.reading import write_dataset
from keylite.data.rendered.gauges import gauges, reading
from keylite.runtime.drawing import contact_sheet, draw_points, with_legend
from keylite.runtime.images import read_image, write_image

SIDE = 192  # px of a rendered picture
GENTLE = {  # weak augmentation: the pictures differ enough by themselves, and the run is short
    **{"rotate": 5.0, "scale": 0.08, "shift": 0.03, "aspect": 0.03},
    **dict.fromkeys(["blur_p", "noise_p", "jpeg_p", "occlude_p"], 0.0),
}
FAILED = 0.10  # of full scale: a reading further off counts as a failure


def reading_error(xy: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) absolute reading error as a fraction of full scale; a reading that cannot be taken counts as 1."""
    error = np.abs(reading(xy) - reading(truth))
    return np.where(np.isfinite(error), error, 1.0)


def figures(error: np.ndarray) -> str:
    median, p90 = np.percentile(error, (50, 90))
    failures = 100 * np.mean(error > FAILED)
    return f"median {100 * median:.2f} %, p90 {100 * p90:.1f} %, off by more than 10 %: {failures:.1f} %"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("demo"))
    options.add_argument("--train", type=int, default=4000, help="gauges to train on")
    options.add_argument("--test", type=int, default=300, help="gauges of unseen makes to test on")
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--size", type=int, default=112, help="model input, px")
    arguments = options.parse_args()
    out: Path = arguments.out
    began = time.monotonic()

    print(f"rendering {arguments.train} gauges to train on, and {arguments.test} of other makes to test on")
    both = gauges(arguments.train + 200, "train", seed=0, size=SIDE)
    train, val = (
        both.subset(range(arguments.train)),
        both.subset(range(arguments.train, len(both))),
    )
    labels, rendered = out / "test/labels.json", gauges(arguments.test, "test", seed=0, size=SIDE)
    if not labels.exists():
        write_dataset(rendered, labels.parent)
    test = keylite.read_dataset(labels)
    if test.xy.shape != rendered.xy.shape or not np.allclose(test.xy, rendered.xy):
        raise SystemExit(f"{labels}: not the gauges of this demo; choose another --out")

    recipe = keylite.Recipe(
        head="heatmap",  # from random weights it learns far sooner than the other heads
        loss="mae",
        size=arguments.size,
        padding=0.1,
        pretrained="none",
        mirror="off",  # a mirrored scale would run backwards
        epochs=arguments.epochs,
        batch=16,
        lr=3e-3,
        warmup_epochs=1.0,
        **GENTLE,
    )
    model = keylite.train(recipe, train, val, out=out / "run", overwrite=True)

    report = keylite.evaluate(model, test)
    predictions = keylite.predict_dataset(model, test)
    shape = Examples(train, recipe.input_size, padding=recipe.padding).mean_shape()
    baseline = np.stack([crop.from_unit(shape) for crop in predictions.crops])
    error, baseline_error = reading_error(predictions.xy, test.xy), reading_error(baseline, test.xy)

    certificate = keylite.export(model, test, out / "gauges.onnx")
    predictor = keylite.Predictor(out / "gauges.onnx")
    tiles = []
    for sample, box in zip(test[:16], test.box[:16], strict=True):
        image = read_image(sample.image)
        points = predictor(image, box[None])
        tiles.append(draw_points(image, points.xy[0], test.skeleton, truth=sample.xy))
    readings = zip(reading(predictions.xy[:16]), reading(test.xy[:16]), strict=True)
    captions = [f"reads {100 * predicted:.1f} %, is {100 * true:.1f} %" for predicted, true in readings]
    sheet = contact_sheet(tiles, 4, captions)
    write_image(out / "overlays.jpg", with_legend(sheet, test.skeleton, points="prediction", truth="true point"))

    interval = report.nme.interval
    lines = [
        "# Gauges: what the demo made",
        "",
        f"- trained on {len(train)} rendered gauges from random weights: {recipe.epochs} epochs, {recipe.size} px",
        f"- tested on {len(test)} gauges of makes, needles, lettering and surroundings that training never showed",
        f"- NME {100 * report.nme.mean:.2f} %"
        + (f" (95 %: {100 * interval[0]:.2f} to {100 * interval[1]:.2f})" if interval else "")
        + f" of the {report.nme.normalize}, pixel error p50 {report.pixel_error.p50:.2f} px of {SIDE}",
        f"- reading error, of full scale: {figures(error)}",
        f"- the same for the mean shape:   {figures(baseline_error)}",
        f"- gauges.onnx: p95 of the points moved {certificate.drift.p95:.1e} px from the trained model",
        f"- time {time.monotonic() - began:.0f} s on {os.cpu_count()} cores",
        "",
        f"pictures: {out / 'overlays.jpg'} (predictions on the test images), {out / 'run/curves.png'} (training),",
        f"          {out / 'run/examples.jpg'} (augmented training images)",
        "then, with the virtual environment active (. .venv/bin/activate):",
        f"          keylite evaluate {out / 'gauges.onnx'} --data {labels}",
    ]
    (out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
