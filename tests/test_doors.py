"""What a public function cannot take is one line that says what it is and what makes it right, before anything else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import keylite
from keylite.data.arrays import from_arrays
from keylite.data.dataset import Dataset
from keylite.data.formats.reading import as_dataset
from keylite.data.mirror import as_permutation
from keylite.evaluation.flips import mirror_of
from keylite.evaluation.metrics import require_oks
from keylite.evaluation.predictions import predict_dataset
from keylite.exporting.diagnosis import diagnose
from keylite.exporting.export import export_all, hold
from keylite.exporting.form import Budget
from keylite.exporting.golden import write_golden
from keylite.runtime.files import write_bytes
from keylite.runtime.images import read_image
from keylite.runtime.skeleton import Skeleton
from keylite.training.expected import field_types
from keylite.training.recipe import Recipe

ONE_POINT = SimpleNamespace(spec=SimpleNamespace(skeleton=Skeleton(("k0",)), box="image"))
FACE_SKELETON = Skeleton(("left_eye", "right_eye", "nose"))
FACE = SimpleNamespace(spec=SimpleNamespace(skeleton=FACE_SKELETON, box="image", normalize="box_side"))
FACES = from_arrays([np.zeros((8, 8, 3), np.uint8)], np.ones((1, 3, 2)), skeleton=FACE_SKELETON)
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
        lambda d: keylite.write_dataset([], "o"),
        "data: expected a Dataset or the path of labels, got a list; use read_",
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
    "write_coco": (lambda d: keylite.write_coco(5, "o"), "data: expected a Dataset or the path of labels, got a num"),
    "write_coco, xy": (
        lambda d: keylite.write_coco(d, "o", xy="x"),
        "xy: expected an array of numbers of shape (2, 1, 2), got 'x'",
    ),
    "val_fraction beside val": (
        lambda d: keylite.train(Recipe(), d, d, out="o", val_fraction=0.9),
        "val_fraction: has no effect beside `val`; leave out one of them",
    ),
    "val_fraction": (
        lambda d: keylite.train(Recipe(), d, out="o", val_fraction=0),
        "val_fraction: expected a number above 0 and below 1, got 0",
    ),
    **{
        f"Examples, {name} {value!r}": (
            lambda d, name=name, value=value: keylite.Examples(d, **({"size": (8, 8)} | {name: value})),
            f"{name}: expected {words}",
        )
        for name, value, words in (
            ("box", "x", "one of annotation, image, got 'x'"),
            ("box", None, "one of annotation, image, got None"),
            ("padding", -1, "a number from 0 to 4, got -1"),
            ("padding", float("nan"), "a number from 0 to 4, got nan"),
            ("size", 64, "(width, height) in px, such as (160, 128), got 64"),
            ("size", "160x128", "(width, height) in px, such as (160, 128), got '160x128'"),
            ("size", (0, 8), "(width, height) in px, such as (160, 128), got (0, 8)"),
            ("augmentation", {}, "an Augmentation, got a dict; or leave it out"),
        )
    },
    **{
        f"mirror {mirror!r}": (
            lambda d, mirror=mirror: predict_dataset(FACE, FACES, mirror=mirror),
            words,
        )
        for mirror, words in (
            (
                "auto",
                "mirror: expected pairs of keypoints such as [('left_eye', 'right_eye')], or a permutation of 0..2",
            ),
            ([0, 0, 0], "mirror: expected a permutation of 0..2, got [0, 0, 0]"),
            ([1, 0], "mirror: expected a permutation of 0..2, got [1, 0]"),
            ([("left_eye", "mouth")], "mirror pairs: no keypoint is named 'mouth'"),
        )
    },
    "flips, mirror": (
        lambda d: keylite.flip_report(FACE, FACES, "auto"),
        "mirror: expected pairs of keypoints such as [('left_eye', 'right_eye')]",
    ),
    "flips, no mirror": (
        lambda d: keylite.flip_report(FACE, FACES),
        "flips: neither the model nor the data says what a flip swaps",
    ),
    "flips, plain": (
        lambda d: keylite.flip_report(FACE, FACES, plain=5),
        "plain: expected Predictions, got a number; use predict_dataset",
    ),
    **{
        f"Recipe, {choice}": (lambda d, choice=choice: Recipe(**choice), f"recipe: {words}")
        for choice, words in (
            ({"epoch": 3}, "unknown choice 'epoch'; did you mean epochs?"),
            ({"pretrained": b"x"}, "pretrained: expected imagenet, none, or a .safetensors file, got b'x'"),
            (
                {"size": "160x128"},
                "size: expected a side such as 128, or (width, height) such as (160, 128), got '160x1",
            ),
            ({"mirror": None}, "mirror: expected auto, off, or pairs such as [('left_eye', 'right_eye')], got None"),
        )
    },
    "Recipe by place": (lambda d: Recipe("pytorch"), "recipe: expected choices by name, such as epochs=30, got 'pyt"),
    "preset": (lambda d: keylite.preset([]), "preset: expected one of tiny, small, fast, balanced, accurate, got []"),
    "draw_points, xy": (
        lambda d: keylite.draw_points(d.images[0], [[1, 2]] * 4, Skeleton(("k0",))),
        "xy: expected shape (1, 2), got (4, 2)",
    ),
    "draw_points, skeleton": (
        lambda d: keylite.draw_points(d.images[0], [[1, 2]], ("k0",)),
        "skeleton: expected a Skeleton, got a tuple; use Skeleton(names), or that of a model or data set",
    ),
    "draw_points, radius": (
        lambda d: keylite.draw_points(d.images[0], [[1, 2]], Skeleton(("k0",)), radius=float("nan")),
        "radius: expected a number above 0, got nan",
    ),
    "draw_points, image": (
        lambda d: keylite.draw_points(b"no picture", [[1, 2]], Skeleton(("k0",))),
        "image bytes: not an image that keylite reads",
    ),
    "draw_worst, errors": (
        lambda d: keylite.draw_worst(d, SimpleNamespace(xy=d.xy, crops=(0, 0)), [1.0], 1, "o"),
        "errors: expected NME (2,) or point errors (2, K) px, got shape (1,)",
    ),
    "draw_worst, predictions": (
        lambda d: keylite.draw_worst(d, d.xy, [1.0, 2.0], 1, "o"),
        "predictions: expected those of the 2 objects of arrays, as predict_dataset(model, data) gives them, got",
    ),
    **{
        f"Augmentation, {name} {value}": (
            lambda d, name=name, value=value: keylite.Augmentation(**{name: value}),
            f"{name}: expected {words}, got {value}",
        )
        for name, value, words in (
            ("noise", -1, "a number from 0 to 255"),
            ("rotate_p", 2, "a number from 0 to 1"),
            ("jpeg", 101, "1 to 100"),
            ("occlude", 2, "a number from 0 to 1"),
            ("rotate", float("nan"), "a number from 0 to 180"),
            ("scale", -1, "a number from 0 to 4"),
            ("hue", float("inf"), "a number from 0 to 180"),
        )
    },
    "read_spec": (lambda d: keylite.read_spec(None), "model: expected a path, got None"),
    "from_arrays, name": (
        lambda d: keylite.from_arrays(d.images, d.xy, name=None),
        "name: expected a text, got None; such as 'faces'",
    ),
    "from_arrays, xy": (
        lambda d: keylite.from_arrays(d.images, np.full((2, 1, 2), "x")),
        "xy: expected an array of numbers, got array([[['x', 'x']],",
    ),
    "golden, count": (
        lambda d: write_golden(MODEL, d, "o", count=0),
        "count: expected a whole number of at least 1, got 0",
    ),
    "read_dataset, category": (
        lambda d: keylite.read_dataset(LABELS, category=np.zeros(2)),
        "category: expected a text, got a ndarray; the name of a category, or None",
    ),
    "ray, images": (
        lambda d: keylite.predict_on_ray(MODEL, 5, "o"),
        "images: expected a list of paths, got a number; give them as [image]",
    ),
    "ray, boxes": (
        lambda d: keylite.predict_on_ray(MODEL, ["a.png"], "o", boxes=[[0, 0, 5, 5]]),
        "boxes: expected a dictionary of boxes by image, got a list; or leave it out",
    ),
    "Predictor, engine": (
        lambda d: keylite.Predictor(MODEL, engine=5),
        "engine: expected a text, got a number; one of",
    ),
    "Predictor, device": (
        lambda d: keylite.Predictor(MODEL, device="gpu"),
        "device: expected one of auto, cpu, cuda, got 'gpu'",
    ),
    "check_images": (lambda d: d.check_images(skip_bad="no"), "skip_bad: expected True or False, got 'no'"),
    "regrouped": (lambda d: d.regrouped(["a"]), "names_per_object: expected 2, one per object, got 1"),
    "with_xy": (lambda d: d.with_xy([[1, 2]]), "xy: expected shape (2, 1, 2), got (1, 2)"),
    "with_skeleton": (lambda d: d.with_skeleton(5), "skeleton: expected a Skeleton, got a number; use Skeleton(names)"),
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


ARGUMENTS = {  # that every door takes, by name
    **{"recipe": Recipe(), "out": "o", "folder": "o", "model": MODEL, "child": MODEL, "parent": MODEL, "to": "onnx"},
    **{"path": LABELS, "predictor": ONE_POINT, "models": [MODEL], "images": ["a.png"], "count": 1, "size": (8, 8)},
    **{"errors": [1.0, 2.0], "predictions": None, "xy": np.ones((2, 1, 2)), "skeleton": None, "image": LABELS},
    **{
        "names": ("k0",),
        "name": "fast",
        "times": None,
        "reports": {},
        "reliability": {},
        "found": [],
        "target": "tflm",
        "format": "coco",
    },
}
WRONG: dict[
    str, tuple[object, ...]
] = {  # by what an annotation names: values that are refused with the argument's name
    "bool": ("no", None, 1),
    "FilePath": ("", "a\0b", 5),
    "Labelled": ("", "a\0b", 5),
    "Callable": (5,),
}


def wrong_arguments() -> list[tuple[str, str, object]]:
    """(function or class, argument, value) for each argument of the public functions whose kind is in WRONG."""
    doors = [name for name in keylite.PUBLIC if name[0].islower() or name in ("Examples", "Predictor")]
    return [
        (door, name, value)
        for door in doors
        for name, argument in inspect.signature(getattr(keylite, door)).parameters.items()
        for value in WRONG.get(re.match(r"(Predictor \| )?(\w*)", str(argument.annotation))[2], ())
    ]


@pytest.mark.parametrize(("door", "name", "value"), wrong_arguments())
def test_an_argument_of_a_wrong_kind_is_named(
    door: str, name: str, value: object, data: Dataset, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    function = getattr(keylite, door)
    given = {"data": data, "calibration": data} | ARGUMENTS | {name: value}
    parameters = inspect.signature(function).parameters.values()
    needed = {p.name: given[p.name] for p in parameters if p.name == name or p.default is p.empty}
    with pytest.raises(keylite.ArgumentError, match=f"^{name}: expected ") as refusal:
        function(**needed)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_augmentation_allows_what_the_recipe_does():
    for name, hint in field_types(Recipe).items():
        if name in keylite.Augmentation.__dataclass_fields__:
            limits = hint.__metadata__[0]
            for limit in (limits.ge, limits.le):
                keylite.Augmentation(**{name: limit})
            for beyond in (limits.ge - 1, limits.le + 1):
                with pytest.raises(keylite.ArgumentError, match=f"^{name}: expected"):
                    keylite.Augmentation(**{name: beyond})


def test_a_recipe_takes_numbers_of_numpy_and_paths():
    recipe = Recipe(lr=np.float32(0.5), size=np.int64(64), pretrained=Path("x"), mirror=[["a", "b"]])
    assert (recipe.lr, recipe.size, recipe.pretrained, recipe.mirror) == (0.5, 64, "x", (("a", "b"),))
    assert type(recipe.size) is int and Recipe(size=np.array([64, 96])).input_size == (64, 96)


@pytest.mark.parametrize("mirror", [[1, 0, 2], np.array([1, 0, 2]), [("left_eye", "right_eye")], [(0, 1)]], ids=str)
def test_a_mirror_is_pairs_or_a_permutation(mirror: object):
    assert as_permutation("mirror", mirror, FACE_SKELETON.names) == (1, 0, 2)


def test_a_mirror_is_that_of_the_model_first():
    assert mirror_of(Skeleton(FACE_SKELETON.names, mirror=(1, 0, 2)), FACES, 0) == (1, 0, 2)


def test_points_that_are_not_there_are_said_in_one_line():
    none = np.zeros((2, 1), np.float32)
    points = keylite.Keypoints(np.zeros((2, 1, 2)), none, none, np.zeros((2, 4)), Skeleton(("k0",)))
    for which in (5, 1.5, [7]):
        with pytest.raises(
            IndexError, match=r"^points: expected numbers below 2, a slice, or a mask of 2 objects, got"
        ):
            points[which]


def test_an_error_of_writing_is_an_oserror_of_python(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot make this folder") as refusal:
        write_bytes(tmp_path / "file" / "below" / "it", b"")
    assert type(refusal.value).__module__ == "builtins"


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
