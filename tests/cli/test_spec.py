"""`--spec FILE` in every verb: a file without a description is as good as the whole one, one with it takes no other."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from keylite.evaluation import timing
from keylite.exporting import export as exports
from keylite.runtime.modelfile import describe, read_spec
from keylite.runtime.spec import encode_spec

onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
safetensors = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]")


@pytest.fixture(scope="module")
def bare(model_file: Path, onnx_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """By suffix: a whole file, and the same without a description; under "spec" the description twice."""
    folder = tmp_path_factory.mktemp("bare")
    path = folder / model_file.name
    safetensors.save_file(safetensors.load_file(model_file), path)
    graph = onnx.load(onnx_file)
    del graph.metadata_props[:]
    onnx.save(graph, folder / onnx_file.name)
    apart = folder / "spec.json"
    apart.write_text(encode_spec(read_spec(model_file)))
    return {".safetensors": (model_file, path), ".onnx": (onnx_file, folder / onnx_file.name), "spec": (apart, apart)}


class Copies:
    """An exporter with nothing to do: it gives the ONNX file that is there."""

    made: Path

    class Workshop:
        def __init__(self, model, spec, *_):
            raise ValueError(f"a workshop for {spec.backbone}")

    operators = staticmethod(lambda path: {})

    @classmethod
    def export(cls, model, made, spec, images, output_type):
        shutil.copy(cls.made, made)
        describe(made, spec)


EXPORT = "export MODEL --data PHOTOS/labels.json"
VERBS = {
    "info": "info MODEL --json",
    "predict a picture": "predict MODEL PHOTOS/image_000000.png --out -",
    "predict a folder": "predict MODEL PHOTOS --out -",
    "evaluate": "evaluate MODEL --data PHOTOS/labels.json",
    "evaluate, as a parent": "evaluate CHILD --parent MODEL --data PHOTOS/labels.json --budget 1e6",
    "benchmark": "benchmark MODEL --runs 3",
    "export": f"{EXPORT} --out OUT/a.onnx --budget 1e6",
    "diagnose": f"{EXPORT} --diagnose --to onnx --precision int8 --calibration PHOTOS/labels.json",
}


def unnamed(text: str, model: Path) -> str:
    """What a verb prints, but for the file's name and sha256."""
    return re.sub(r"[0-9a-f]{12,64}", "sha256", text.replace(str(model), model.name))


CASES = [(suffix, verb) for verb in VERBS for suffix in (".safetensors", ".onnx")]
CASES = [case for case in CASES if case not in ((".onnx", "export"), (".onnx", "diagnose"))]  # they start elsewhere


@pytest.mark.parametrize(("suffix", "verb"), CASES)
def test_a_description_apart_is_for_files_without_one(
    suffix, verb, bare, onnx_file, photos, keylite_command, monkeypatch, tmp_path
):
    def ended(model, *more):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        places = {"MODEL": model, "CHILD": onnx_file, "PHOTOS": photos, "OUT": tmp_path / "out"}
        command = VERBS[verb]
        for name, place in places.items():
            command = command.replace(name, str(place))
        return keylite_command(*command.split(), *more)

    monkeypatch.setattr(timing, "_memory", lambda *_: None)  # by a process of its own
    monkeypatch.setattr(exports, "_reference", lambda *_: None)
    monkeypatch.setattr(exports, "write_confidence", lambda *_, **__: "")
    monkeypatch.setattr(Copies, "made", onnx_file, raising=False)
    monkeypatch.setattr(exports, "exporter", lambda target: Copies)
    monkeypatch.setattr("keylite.exporting.diagnosis.examiner", lambda target: Copies)
    monkeypatch.setattr("keylite.exporting.diagnosis.calibration_set", lambda *_: SimpleNamespace(pixels=[]))
    (whole, stripped), (apart, _) = bare[suffix], bare["spec"]
    before, after = ended(whole), ended(stripped, "--spec", apart)
    if verb == "diagnose":
        assert before.line == after.line == "a workshop for lite0"
    else:
        assert before.code == after.code == 0, after.err
    if verb not in ("benchmark", "export"):
        assert unnamed(after.out, stripped) == unnamed(before.out, whole)
    if verb == "export":
        assert read_spec(tmp_path / "out" / "a.onnx").skeleton == read_spec(whole).skeleton
    assert "holds no keylite description: if" in ended(stripped).line
    assert f"already holds its description; leave out --spec ({apart})" in ended(whole, "--spec", apart).line
