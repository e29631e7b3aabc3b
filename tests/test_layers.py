"""Who may import whom: the table of docs/structure.py, held by reading the source."""

from __future__ import annotations

from pathlib import Path

import pytest
import structure

FRAMEWORKS = {  # twin: what no other room may know
    "pytorch": {"torch", "torchvision", "timm", "lightning"},
    "tensorflow": {"tensorflow", "keras"},  # keylite.tensorflow goes by the first of them, too
}
EXPECTED_IMPORTS = 1400  # the reading below found 1,600 when this was written: with fewer than this it misses some


@pytest.mark.parametrize("file", structure.files(), ids=structure.module_of)
def test_each_room_imports_what_it_may(file: Path):
    assert structure.problems(file, file.read_text(encoding="utf-8")) == []


def test_all_imports_are_seen():
    found = [one for file in structure.files() for one in structure.imports(file.read_text(encoding="utf-8"))]
    assert len(found) > EXPECTED_IMPORTS


def test_modules_do_not_import_each_other_in_a_circle():
    assert structure.circle() == []


def test_rooms_stand_on_rooms_below_them():
    order = list(structure.ROOMS)
    for name, room in structure.ROOMS.items():
        for other in f"{room.rooms} {room.inside}".split():
            assert other not in order or order.index(other) < order.index(name) or name == "__init__", (name, other)


def test_every_folder_is_a_room_and_every_room_is_there():
    there = {file.relative_to(structure.SOURCE).with_suffix("").parts[0] for file in structure.files()}
    assert there == set(structure.ROOMS)
    modules = {structure.module_of(file) for file in structure.files()}
    assert {*structure.VERBS, *structure.EXCEPTIONS} <= modules


def test_a_long_file_has_a_reason():
    assert structure.long_files().keys() == structure.REASONS.keys()


FORBIDDEN = {
    "a framework in the runtime": ("runtime/engines.py", "import torch"),
    "even inside a function": ("runtime/engines.py", "def f():\n    import torch.nn"),
    "data in the runtime": ("runtime/spec.py", "from keylite.data.dataset import Dataset"),
    "a decoder in another module of the runtime": ("runtime/spec.py", "def f():\n    import simplejpeg"),
    "training's verb in a twin": ("pytorch/model.py", "from keylite.training.train import train"),
    "training's verb in what it puts together": ("training/run.py", "from keylite.training.train import train"),
    "a verb named after import": ("pytorch/model.py", "from keylite.training import train"),
    "folds named after import": ("training/train.py", "from keylite.training import folds"),
    "one twin in the other": ("pytorch/model.py", "def f():\n    from keylite.tensorflow import model"),
    "the other in the one": ("tensorflow/model.py", "def f():\n    from keylite.pytorch.model import tensors"),
    "one twin's framework in the other": ("pytorch/training.py", "import keras"),
    "the other's framework in the one": ("tensorflow/training.py", "import torch"),
    "a framework in what twins share": ("training/checkpoint.py", "from safetensors.numpy import load_file"),
    "a framework in training": ("training/train.py", "import lightning"),
    "a quantiser in what exporters share": ("exporting/calibration.py", "import onnxruntime"),
    "a file's maker in its certificate": ("exporting/certificate.py", "from keylite.exporting.export import export"),
    "folds in training": ("training/train.py", "from keylite.training.folds import train_folds"),
    "a twin in the folds": ("training/folds.py", "def f():\n    from keylite.pytorch import training"),
    "the diagnosis in what it diagnoses": (
        "exporting/export.py",
        "def f():\n    from keylite.exporting.diagnosis import diagnose",
    ),
    "the recipe when another verb starts": ("cli/export.py", "from keylite.training.recipe import Recipe"),
    "exports in training": ("training/train.py", "from keylite.exporting.export import export"),
    "training in exports": ("exporting/export.py", "def f():\n    from keylite.training.recipe import Recipe"),
    "the package in a room": ("training/train.py", "import keylite"),
    "Ray before it is asked for": ("prediction/cluster.py", "import ray"),
    "Parquet, too": ("prediction/cluster.py", "import pyarrow"),
    "a cluster in the predictor": ("runtime/predictor.py", "from keylite.prediction.cluster import Worker"),
    "a twin in the golden vectors": ("exporting/golden.py", "from keylite.pytorch.model import load_model"),
    "OpenCV when the command line starts": ("cli/predict.py", "from keylite.runtime.predictor import Predictor"),
    "a package that nobody knows": ("data/boxes.py", "import pandas"),
}


@pytest.mark.parametrize(("file", "source"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_the_reading_notices(file: str, source: str):
    assert len(structure.problems(structure.SOURCE / file, source)) == 1


def test_what_only_type_checkers_import_is_free():
    source = "if TYPE_CHECKING:\n    from keylite.training.recipe import Recipe"
    assert structure.problems(structure.SOURCE / "runtime/spec.py", source) == []


def test_no_framework_is_known_outside_its_own_package():
    for name, room in structure.ROOMS.items():
        for twin, packages in FRAMEWORKS.items():
            known = {one for part in room for one in part.split()}
            assert name == twin or not ({twin} | packages) & known, name
