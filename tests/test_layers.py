"""Who may import whom: the table of the architecture, held by reading the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src/keylite"
FRAMEWORKS = {  # twin: what no other layer may know
    "pytorch": {"torch", "torchvision", "timm", "lightning"},
    "tensorflow": {"tensorflow", "keras"},  # keylite.tensorflow goes by the first of them, too
}
RUNTIME = {"numpy", "cv2", "msgspec"}
LAYERS = {  # layer: keylite layers and packages at the top of its modules, and those inside functions alone
    "runtime": ({"cv2", "msgspec", "numpy", "runtime"}, set()),
    "runtime.images": ({"cv2", "msgspec", "numpy", "runtime"}, {"simplejpeg"}),
    "data": ({"cv2", "data", "msgspec", "numpy", "runtime"}, set()),
    "training": (
        {"cv2", "data", "evaluation", "msgspec", "numpy", "pictures", "runtime", "training", "version", "yaml"},
        set(),
    ),
    "evaluation": (
        {"cv2", "data", "evaluation", "msgspec", "numpy", "runtime", "version"},
        {"faster_coco_eval", "scipy"},
    ),
    "pictures": ({"cv2", "data", "msgspec", "numpy", "pictures", "runtime"}, {"evaluation", "matplotlib"}),
    "pytorch": (
        {
            "cv2",
            "data",
            "evaluation",
            "exporting",
            "lightning",
            "matplotlib",
            "msgspec",
            "numpy",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "pictures",
            "pytorch",
            "runtime",
            "safetensors",
            "timm",
            "torch",
            "training",
        },
        set(),
    ),
    "tensorflow": (
        {
            "ai_edge_litert",
            "cv2",
            "data",
            "evaluation",
            "exporting",
            "keras",
            "msgspec",
            "numpy",
            "pictures",
            "runtime",
            "safetensors",
            "tensorflow",
            "training",
        },
        set(),
    ),
    "prediction": ({"cv2", "data", "msgspec", "numpy", "prediction", "runtime"}, {"pyarrow"}),
    "exporting": ({"cv2", "data", "evaluation", "exporting", "msgspec", "numpy", "runtime"}, set()),
    "cli": (
        {"cli", "cyclopts", "version"},
        {"data", "evaluation", "exporting", "msgspec", "pictures", "prediction", "rich", "runtime", "training"},
    ),
    "cli.train": ({"cli", "cyclopts", "training"}, {"data", "evaluation", "runtime"}),
    "cli.progress": ({"runtime"}, {"rich"}),
    "__main__": ({"cli"}, set()),
    "version": (set(), set()),
    "": ({"version"}, set()),
}
EXPECTED_IMPORTS = 200  # the reading below found 326 when this was written: with fewer than this it misses some


def layer_of(parts: tuple[str, ...]) -> str:
    """The layer of a module by its path below keylite; keylite itself is ''."""
    if ".".join(parts) in LAYERS:  # a module that may do what its package may not
        return ".".join(parts)
    return parts[0] if parts and parts != ("__init__",) else ""


def imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """(module, whether at the top) of each import that runs; those for type checkers do not."""
    skipped = {child for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
               for child in ast.walk(node)}  # fmt: skip
    inside = {
        child for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda)) for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped or not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        yield from ((name, node not in inside) for name in names)


def problems(file: Path, source: str) -> list[str]:
    """Imports of one module that its layer does not allow."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    top, inside = LAYERS[layer_of(parts)]
    found = []
    for module, at_top in imports(ast.parse(source)):
        first, *rest = module.split(".")
        name = layer_of(tuple(rest[:1])) if first == "keylite" else first
        allowed = top if at_top else top | inside
        if first not in sys.stdlib_module_names and name not in allowed:
            found.append(f"{'.'.join(parts)} may not import {module}{' at its top' if name in inside else ''}")
    return found


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_each_layer_imports_what_it_may(file: Path):
    assert problems(file, file.read_text(encoding="utf-8")) == []


def test_all_imports_are_seen():
    assert sum(len(list(imports(ast.parse(file.read_text(encoding="utf-8"))))) for file in FILES) > EXPECTED_IMPORTS


FORBIDDEN = {
    "a framework in the runtime": ("runtime/engines.py", "import torch"),
    "even inside a function": ("runtime/engines.py", "def f():\n    import torch.nn"),
    "data in the runtime": ("runtime/spec.py", "from keylite.data.dataset import Dataset"),
    "the pipeline in a twin": ("pytorch/model.py", "from keylite.training.train import train"),
    "one twin in the other": ("pytorch/model.py", "def f():\n    from keylite.tensorflow import model"),
    "the other in the one": ("tensorflow/model.py", "def f():\n    from keylite.pytorch.model import tensors"),
    "one twin's framework in the other": ("pytorch/training.py", "import keras"),
    "the other's framework in the one": ("tensorflow/training.py", "import torch"),
    "a framework in what twins share": ("training/checkpoint.py", "from safetensors.numpy import load_file"),
    "training in what twins share": ("training/checkpoint.py", "from keylite.training.run import Run"),
    "a framework in the pipeline": ("training/train.py", "import lightning"),
    "a quantiser in what exporters share": ("exporting/calibration.py", "import onnxruntime"),
    "a file's maker in its certificate": ("exporting/certificate.py", "from keylite.exporting.export import export"),
    "folds in the pipeline": ("training/train.py", "from keylite.training.folds import train_folds"),
    "a twin in the folds": ("training/folds.py", "def f():\n    from keylite.pytorch import training"),
    "the diagnosis in what it diagnoses": (
        "exporting/export.py",
        "def f():\n    from keylite.exporting.diagnosis import diagnose",
    ),
    "the recipe when another verb starts": ("cli/export.py", "from keylite.training.recipe import Recipe"),
    "exports in training": ("training/train.py", "from keylite.exporting.export import export"),
    "Ray before it is asked for": ("prediction/cluster.py", "import ray"),
    "Parquet, too": ("prediction/cluster.py", "import pyarrow"),
    "a cluster in the predictor": ("runtime/predictor.py", "from keylite.prediction.cluster import Worker"),
    "a twin in the golden vectors": ("exporting/golden.py", "from keylite.pytorch.model import load_model"),
    "OpenCV when the command line starts": ("cli/predict.py", "from keylite.runtime.predictor import Predictor"),
}


@pytest.mark.parametrize(("file", "source"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_the_reading_notices(file: str, source: str):
    assert len(problems(SOURCE / file, source)) == 1


def test_no_framework_is_known_outside_its_own_package():
    for layer, (top, inside) in LAYERS.items():
        for twin, packages in FRAMEWORKS.items():
            assert layer == twin or not ({twin} | packages) & (top | inside), layer
