"""What a public function cannot take is one line that says what it is and what makes it right, before anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import keylite
from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import as_dataset
from keylite.evaluation.metrics import require_oks
from keylite.evaluation.predictions import predict_dataset
from keylite.exporting.diagnosis import diagnose
from keylite.exporting.export import export_all, hold
from keylite.exporting.golden import write_golden
from keylite.exporting.target import Budget
from keylite.runtime.images import read_image
from keylite.runtime.skeleton import Skeleton
from keylite.training.recipe import Recipe

ONE_POINT = SimpleNamespace(spec=SimpleNamespace(skeleton=Skeleton(("k0",)), box="image"))
MODEL, LABELS = "none.safetensors", "labels.json"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return from_arrays([np.zeros((8, 8, 3), np.uint8)] * 2, np.ones((2, 1, 2)))


DOORS = {
    "train, data": (
        lambda d: keylite.train(Recipe(), 5, d, out="o"),
        "data: expected a Dataset or the path of labels, got a number; use read_",
    ),
    "train, val": (
        lambda d: keylite.train(Recipe(), d, [], out="o"),
        "val: expected a Dataset or the path of labels, got a list; use read_d",
    ),
    "train, recipe": (
        lambda d: keylite.train(None, d, d, out="o"),
        "recipe: expected a Recipe, got None; use Recipe(...)",
    ),
    "train, out": (lambda d: keylite.train(Recipe(), d, d, out=None), "out: expected a path, got None"),
    "train_folds": (
        lambda d: keylite.train_folds(Recipe(), None, out="o"),
        "data: expected a Dataset or the path of labels, got None",
    ),
    "folds, recipe": (
        lambda d: keylite.train_folds({}, d, out="o"),
        "recipe: expected a Recipe, got a dict; use Recipe",
    ),
    "evaluate": (lambda d: keylite.evaluate(MODEL, 5), "data: expected a Dataset or the path of labels, got a number"),
    "evaluate, model": (
        lambda d: keylite.evaluate(None, d),
        "model: expected a model file or an open Predictor, got N",
    ),
    "Predictor": (lambda d: keylite.Predictor(5), "model: expected a path, got a number"),
    "export": (
        lambda d: keylite.export(MODEL, [], "o.onnx"),
        "data: expected a Dataset or the path of labels, got a list",
    ),
    "export, out": (lambda d: keylite.export(MODEL, d, 5), "out: expected a path, got a number"),
    "calibration": (
        lambda d: keylite.export(MODEL, d, "o", calibration=5),
        "calibration: expected a Dataset or the path of labels, got a num",
    ),
    "export_all": (
        lambda d: export_all(MODEL, d, "o", calibration={}),
        "calibration: expected a Dataset or the path of labels, got a dict",
    ),
    "hold": (lambda d: hold("none.onnx", MODEL, 5), "data: expected a Dataset or the path of labels, got a number"),
    "golden": (
        lambda d: write_golden(Path(MODEL), None, Path("o")),
        "data: expected a Dataset or the path of labels, got N",
    ),
    "diagnose": (lambda d: diagnose(MODEL, 5, to="onnx", calibration=d), "data: expected a Dataset or the path of l"),
    "benchmark, none": (lambda d: keylite.benchmark(None), "models: expected a list of model files, got None; give"),
    "benchmark, one": (lambda d: keylite.benchmark(MODEL), "models: expected a list of model files, got a text; give"),
    "benchmark, empty": (
        lambda d: keylite.benchmark([]),
        "models: expected at least one model file, got an empty list",
    ),
    "read_dataset": (lambda d: keylite.read_dataset(None), "path: expected a path, got None"),
    "write_dataset": (
        lambda d: keylite.write_dataset(LABELS, "o"),
        "data: expected a Dataset, got a text; use read_",
    ),
    "evaluate, seed": (
        lambda d: keylite.evaluate(ONE_POINT, d, seed=-1),
        "seed: expected a whole number of at least 0, ",
    ),
    "evaluate, jitter": (
        lambda d: predict_dataset(ONE_POINT, d, jitter_box="a"),
        "jitter_box: expected a fraction of the box's side in 0..1, got 'a'",
    ),
    "evaluate, normalize": (
        lambda d: keylite.evaluate(ONE_POINT, d, normalize=5),
        "normalize: expected a text, got a number; such as 'box_side'",
    ),
    "evaluate, sigmas": (lambda d: require_oks(0.1, 4), "sigmas: expected 4 values, one per keypoint, got 1"),
    "folds, number": (
        lambda d: keylite.train_folds(Recipe(box="image"), d, out="o", folds="3"),
        "folds: expected a whole number of at least 2, got '3'",
    ),
    "benchmark, runs": (
        lambda d: keylite.benchmark([MODEL], runs="5"),
        "runs: expected a whole number of at least 3, got",
    ),
    "export, to": (
        lambda d: keylite.export(MODEL, d, "o", to=["onnx"]),
        "to: expected a text, got a list; one of onnx",
    ),
    "export, precision": (
        lambda d: keylite.export(MODEL, d, "o.onnx", precision=8),
        "precision: expected a text, got a number; such as 'int8'",
    ),
    "white level": (
        lambda d: d.check_images(white_level="a"),
        "white_level: expected one of 255, 1023, 4095, 16383, 65535, got 'a'",
    ),
    "export, count": (
        lambda d: keylite.export(MODEL, d, "o", calibration_count="9"),
        "calibration_count: expected a whole number of at least 1, got '9'",
    ),
    "export, seed": (
        lambda d: export_all(MODEL, d, "o", seed=0.5),
        "seed: expected a whole number of at least 0, got 0.5",
    ),
    "budget": (lambda d: Budget("a"), "budget: expected a number above 0, got 'a'"),
    "budget, true": (lambda d: Budget(1.0, True), "budget_nme: expected a number above 0, got True"),
    "split": (lambda d: d.split("a"), "split: expected fractions above 0 that sum to less than 1, got ['a']"),
    "gauges, size": (lambda d: keylite.gauges(1, size="a"), "size: expected a whole number of at least 1, got 'a'"),
    "read_dataset, group": (
        lambda d: keylite.read_dataset(LABELS, group=3),
        "group: expected a text, got a number; such as 'auto' or 'field:NAME'",
    ),
    **{
        f"a mark that is {mark}": (
            lambda d, mark=mark: keylite.from_arrays(d.images, d.xy, missing_mark=mark),
            "missing_mark: expected two finite numbers, x and y, got ",
        )
        for mark in ((float("nan"), 1), (1,), "12", 5, (True, 1))
    },
    "read_dataset, format": (
        lambda d: keylite.read_dataset(LABELS, format=[]),
        "format: expected a text, got a list; one",
    ),
    "read_dataset, origin": (
        lambda d: keylite.read_dataset(LABELS, pixel_origin=[]),
        "pixel_origin: expected a text, got",
    ),
    "skeleton": (
        lambda d: keylite.from_arrays(d.images, d.xy, skeleton=5),
        "skeleton: expected a Skeleton, got a number",
    ),
    "read_dataset, mark": (
        lambda d: keylite.read_dataset(LABELS, missing_mark=(1,)),
        "missing_mark: expected two finite numbers, x and y, got (1,)",
    ),
    "write_coco": (lambda d: keylite.write_coco(LABELS, "o"), "data: expected a Dataset, got a text; use read_data"),
}


@pytest.mark.parametrize(("call", "words"), DOORS.values(), ids=DOORS)
def test_what_a_door_does_not_take_is_one_line(call, words: str, data: Dataset, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=".") as caught:
        call(data)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# ---- what every door does alike


def test_a_path_is_taken_where_a_data_set_is(tmp_path: Path):
    labels = keylite.write_dataset(keylite.gauges(3, size=64), tmp_path)
    for given in (labels, str(labels)):
        assert len(as_dataset("data", given)) == 3
    with pytest.raises(FileNotFoundError, match="none.json"):
        keylite.evaluate(ONE_POINT, tmp_path / "none.json")


@pytest.mark.parametrize("seed", [0, 1])
def test_training_without_val_holds_out_a_part_by_group(seed: int, monkeypatch: pytest.MonkeyPatch):
    data = keylite.gauges(40, size=64)
    parts: list[Dataset] = []

    def prepare(recipe: Recipe, train: Dataset, val: Dataset, out: Path, **flags: object) -> SimpleNamespace:
        parts.extend((train, val))
        return SimpleNamespace(run=lambda: out)

    monkeypatch.setattr("keylite.training.train.prepare", prepare)
    assert keylite.train(Recipe(seed=seed), data, out="o", val_fraction=0.25) == Path("o")
    wanted = data.split(0.25, seed=seed)
    assert [part.fingerprint() for part in parts] == [part.fingerprint() for part in wanted]


REFUSALS = {  # what is refused: the kind of the error
    "labels": (lambda: from_arrays([np.zeros((8, 8, 3), np.uint8)], np.full((1, 1, 2), np.inf)), keylite.DataError),
    "a picture": (lambda: read_image(b"no picture"), keylite.ImageError),
    "a recipe": (lambda: keylite.preset("none"), keylite.RecipeError),
    "a model file": (lambda: keylite.Predictor(Path(__file__)), keylite.ModelFileError),
    "an argument": (lambda: Budget(px=-1), keylite.ArgumentError),
}


@pytest.mark.parametrize(("refused", "kind"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_of_its_kind_and_a_value_error(refused: Callable[[], object], kind: type[keylite.KeyliteError]):
    with pytest.raises(kind) as refusal:
        refused()
    assert isinstance(refusal.value, ValueError) and isinstance(refusal.value, keylite.KeyliteError)
    assert "\n" not in str(refusal.value)
    assert issubclass(keylite.ImageError, keylite.DataError) and issubclass(
        keylite.OverBudgetError, keylite.KeyliteError
    )
