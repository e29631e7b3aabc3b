"""The public names: there in any order, light to import, none hidden by a submodule."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

import keylite
from keylite.runtime import packages

COMMAND_LINE = ("cyclopts", "rich", "yaml")
FRAMEWORKS = ("torch", "torchvision", "timm", "lightning", "tensorflow", "keras", "onnxruntime", "onnx", "safetensors")
PACKAGE = Path(keylite.__file__).parent


def test_importing_keylite_needs_no_framework_and_loads_nothing_heavy(python):
    code = (
        "import keylite, json; print(json.dumps([m for m in ('numpy', 'cv2', 'msgspec', 'yaml') if m in sys.modules]))"
    )
    assert json.loads(python(code, missing=FRAMEWORKS)) == []


def test_help_needs_no_framework_and_loads_nothing_heavy(python):
    code = """
from keylite.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", [name for name in ("cv2", "numpy", "yaml", "matplotlib") if name in sys.modules])
"""
    said = python(code, missing=FRAMEWORKS)
    assert "loaded: []" in said
    for verb in ("train", "evaluate", "export", "predict"):
        assert verb in said


def test_the_command_line_quietens_tensorflow_unless_told_otherwise(python):
    code = """
import os
from keylite.cli import main
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
for _ in range(2):
    try:
        main(["--version"])
    except SystemExit:
        pass
    print(os.environ["TF_CPP_MIN_LOG_LEVEL"], "TF_ENABLE_ONEDNN_OPTS" in os.environ)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
"""
    said = python(code, missing=FRAMEWORKS).splitlines()
    assert said == [keylite.__version__, "2 False", keylite.__version__, "0 False"]


def test_extras_that_install_a_framework_are_there_and_those_of_tensorflow_alike():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert set(packages.FRAMEWORKS.values()) <= extras.keys()
    gpu, cpu = (
        [line for line in extras[name] if not line.startswith("tensorflow")]
        for name in ("tensorflow", "tensorflow-cpu")
    )
    assert gpu == cpu


def test_every_public_name_is_there_in_every_order_of_import(python):
    code = """
import importlib, pkgutil, types
import keylite

names = list(keylite.PUBLIC)
for first in range(len(names)):
    for module in [m for m in sys.modules if m.partition(".")[0] == "keylite"]:
        del sys.modules[module]
    keylite = importlib.import_module("keylite")
    for name in names[first:] + names[:first]:
        found = getattr(keylite, name)
        assert callable(found) and not isinstance(found, types.ModuleType), (names[first], name, found)
    if first % 5 == 0:  # importing a submodule binds its name in the package: it must bind no public one
        for module in pkgutil.walk_packages(keylite.__path__, "keylite."):
            if not module.name.startswith(("keylite.pytorch", "keylite.tensorflow", "keylite.__main__")):
                importlib.import_module(module.name)
        for name in names:
            found = getattr(keylite, name)
            assert callable(found) and not isinstance(found, types.ModuleType), (names[first], name, found)
print(len(names))
"""
    assert python(code, missing=FRAMEWORKS) == f"{len(keylite.PUBLIC)}\n"


def test_public_names_need_no_command_line_and_recipes_no_yaml(python):
    code = """
import keylite
print(all(callable(getattr(keylite, name)) for name in keylite.PUBLIC), keylite.Recipe(epochs=3) == keylite.preset("balanced"))
try:
    import keylite.training.recipe_file
except ModuleNotFoundError as error:
    print(error)
"""
    said = python(code, missing=(*FRAMEWORKS, *COMMAND_LINE)).splitlines()
    assert said == ["True False", "yaml is not installed: install it with: pip install 'keylite[cli]'"]


def test_no_public_name_is_a_submodule():
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert "evaluation" in modules
    assert not modules & set(keylite.PUBLIC)


def test_what_is_public():
    """Every verb has a function, every result a type, every refusal a kind."""
    assert sorted(keylite.PUBLIC) == [
        *(
            "ArgumentError",
            "Augmentation",
            "Certificate",
            "CheckReport",
            "DataError",
            "Dataset",
            "Diagnosis",
            "Examples",
            "FlipReport",
        ),
        *("FoldsReport", "ImageError", "KeyliteError", "Keypoints", "ModelFileError"),
        *("ModelSpec", "OverBudgetError"),
        *("Predictions", "Predictor", "Recipe", "RecipeError", "Report", "Sample", "Skeleton"),
        *("Suggestions", "TargetNeeds"),
        *(
            "benchmark",
            "check",
            "convert",
            "diagnose",
            "draw_points",
            "draw_worst",
            "evaluate",
            "export",
            "export_all",
            "flip_report",
        ),
        *(
            "from_arrays",
            "gauges",
            "hold",
            "measure_target",
            "plot_benchmark",
            "plot_reliability",
            "predict_dataset",
            "predict_on_ray",
            "preset",
        ),
        *("read_dataset", "read_spec", "suggest", "train", "train_folds", "write_coco", "write_dataset"),
        *("write_golden", "write_page", "write_points"),
    ]
    assert set(dir(keylite)) == {*keylite.PUBLIC, "__version__"}
    with pytest.raises(AttributeError, match="module 'keylite' has no attribute 'predict'"):
        _ = keylite.predict


NOTEBOOK = """
import types, warnings
shell = types.ModuleType("IPython")
shell.get_ipython = lambda: types.SimpleNamespace()
shell.version_info = (8, 0)
sys.modules.update({"IPython": shell, "ipykernel.zmqshell": types.ModuleType("ipykernel.zmqshell")})
warnings.filterwarnings("always", message="IProgress")  # tqdm itself would swallow an error
warnings.showwarning = lambda message, *_: print("warned:", message)
"""
IMPORTS = {  # what imports tqdm.auto, and the package that it needs
    "the network": ("import keylite.pytorch", "timm"),
    "pretrained weights": (
        """
from keylite.training.pretrained import download
try:
    download("none/none", "none")
except ValueError as error:
    assert "cannot get none" in str(error), error
""",
        "huggingface_hub",
    ),
}


@pytest.mark.parametrize(("code", "package"), IMPORTS.values(), ids=IMPORTS)
def test_a_notebook_without_widgets_shows_no_warning(code: str, package: str, python, monkeypatch):
    """tqdm warns if it is imported there; keylite shows no bar of it."""
    pytest.importorskip(package, reason="needs keylite[pytorch]")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = python(f"{NOTEBOOK}{code}\nprint('tqdm.auto' in sys.modules)", missing=("ipywidgets",))
    assert said.splitlines() == ["True"]
