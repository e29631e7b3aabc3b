"""What a command says if a package is missing: the one that it is about, and what installs it."""

from __future__ import annotations

from pathlib import Path

import pytest

import keylite
from keylite.data.formats.reading import write_dataset

EXTRAS = (
    *("torch", "torchvision", "timm", "lightning", "tensorflow", "keras", "onnx", "onnxscript", "onnxruntime"),
    *("safetensors", "huggingface_hub", "scipy", "matplotlib", "tensorboard", "simplejpeg", "ai_edge_litert", "ray"),
)
RUN = """
import sys
from keylite.__main__ import main
sys.stderr = sys.stdout
sys.argv = ["keylite", *{arguments!r}]
try:
    main()
except SystemExit as stop:
    print("ended with", stop.code or 0)
"""


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(keylite.gauges(6, size=64), tmp_path_factory.mktemp("gauges"))


COMMANDS = {  # arguments, what is said; 0 where the extra `cli` is enough
    "train": (["train", "--data", "LABELS", "--out", "OUT"], "torch is not installed: install it with: pip install '"),
    "train in TensorFlow": (
        ["train", "--data", "LABELS", "--out", "OUT", "--framework", "tensorflow"],
        "tensorflow is not installed: install it with: pip install 'keylite[tensorflow-cpu]'",
    ),
    "gauges": (["gauges", "OUT", "--count", "2"], 0),
    "info": (["info", "MODEL"], 0),
    "predict": (["predict", "MODEL", "LABELS"], "onnxruntime is not installed: install it with: pip install 'keylite["),
}


@pytest.mark.parametrize(("arguments", "said"), COMMANDS.values(), ids=COMMANDS)
def test_the_command_line_alone_says_what_is_missing(arguments, said, labels, onnx_file, python, tmp_path):
    places = {"LABELS": labels, "MODEL": onnx_file, "OUT": tmp_path / "out"}
    arguments = [str(places.get(word, word)) for word in arguments]
    lines = python(RUN.format(arguments=arguments), missing=EXTRAS).splitlines()
    assert lines[-1] == f"ended with {0 if said == 0 else 2}"
    if said:
        assert lines[-2].startswith(f"keylite: {said}")
        assert not (tmp_path / "out").exists()


STARTS = {
    "the console script": "from keylite.__main__ import main",
    "a module": "import runpy; main = lambda: runpy.run_module('keylite', run_name='__main__')",
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_without_the_command_line_s_packages_one_line_says_what_to_install(start: str, python):
    code = RUN.replace("from keylite.__main__ import main", start).format(arguments=["--help"])
    lines = python(code, missing=("cyclopts", "rich", "yaml")).splitlines()
    said = "keylite: cyclopts is not installed: install it with: pip install 'keylite[cli]'"
    assert lines == [said, "ended with 2"]
