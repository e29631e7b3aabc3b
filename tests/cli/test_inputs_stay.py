"""What a command reads it does not write over, whatever the name of its output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.cli import main
from keylite.data.formats.reading import read_dataset, write_coco, write_dataset
from keylite.data.rendered.gauges import gauges
from keylite.evaluation.predictions import predict_shape
from keylite.pictures.worst import draw_worst
from keylite.runtime.geometry import crop_box
from keylite.runtime.images import write_image
from keylite.runtime.modelfile import read_spec

CHOICES = ["--pretrained", "none", "--mirror", "off", "--epochs", "1"]
PRETRAINED = ["--pretrained", "RUN/model.safetensors"]
OVER = {  # arguments: what the line names
    "the report over the labels": (["evaluate", "MODEL", "--data", "LABELS", "--out", "LABELS"], "file of --data"),
    "the report over a picture": (["evaluate", "MODEL", "--data", "LABELS", "--out", "PICTURE"], "image_000000.png"),
    "points over the picture": (["predict", "MODEL", "PICTURE", "--out", "PICTURE"], "image_000000.png"),
    "points over the boxes": (["predict", "MODEL", "PICTURE", "--boxes", "BOXES", "--out", "BOXES"], "file of --boxes"),
    "points over the list": (["predict", "MODEL", "LIST", "--out", "LIST"], "list.txt"),
    "points over the model": (["predict", "MODEL", "PICTURE", "--out", "MODEL"], "file of `model`"),
    "a chart over a picture": (
        ["benchmark", "MODEL", "--image", "PICTURE", "--plot", "PICTURE", "--data", "LABELS"],
        "image_000000.png",
    ),
    "a run over its data": (["train", "--data", "RUN/data.json", "--out", "RUN", *CHOICES], "data.json"),
    "a run over its validation data": (
        ["train", "--data", "LABELS", "--val", "RUN/data.json", "--out", "RUN", *CHOICES],
        "data.json",
    ),
    "a run over a picture": (["train", "--data", "RUN/other.json", "--out", "RUN", *CHOICES], "examples.jpg"),
    "a run over its recipe": (["train", "--data", "LABELS", "--recipe", "RUN/recipe.yaml", "--out", "RUN"], "recipe"),
    "a run over its weights": (
        ["train", "--data", "LABELS", "--out", "RUN", "--overwrite", *CHOICES[2:], *PRETRAINED],
        "file of --pretrained",
    ),
    "a run over its teacher": (
        ["train", "--data", "LABELS", "--out", "RUN", "--overwrite", *CHOICES, "--teacher", "RUN/model.safetensors"],
        "file of --teacher",
    ),
    "folds over their data": (
        ["train", "--folds", "2", "--data", "FOLDS/folds.json", "--out", "FOLDS", *CHOICES],
        "folds.json",
    ),
    "gauges over labels": (["gauges", "DATA", "--count", "1"], "labels.json"),
}


@pytest.fixture
def folder(model_file: Path, tmp_path: Path) -> Path:
    """Labels, pictures and a model, and folders that hold some of them under the names of a run's files."""
    labels = write_dataset(gauges(16, "train", 0, 64), tmp_path / "data")
    text = labels.read_text()
    places = json.loads(text)
    for image in places["images"]:
        image["file_name"] = f"../data/{image['file_name']}"
    for name in ("run/data.json", "folds/folds.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(places))
    places["images"][0]["file_name"] = "examples.jpg"
    write_image(tmp_path / "run/examples.jpg", np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "run/other.json").write_text(json.dumps(places))
    (tmp_path / "boxes.json").write_text(json.dumps({"image_000000.png": [[0, 0, 64, 64]]}))
    (tmp_path / "list.txt").write_text(f"{tmp_path}/data/image_000000.png\n")
    for place in ("model.safetensors", "run/model.safetensors"):
        shutil.copy(model_file, tmp_path / place)
    return tmp_path


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("arguments", "words"), OVER.values(), ids=OVER)
def test_an_output_that_is_an_input_is_refused(arguments: list[str], words: str, folder: Path, capsys):
    places = {"MODEL": "model.safetensors", "LABELS": "data/labels.json", "PICTURE": "data/image_000000.png"}
    places |= {"BOXES": "boxes.json", "LIST": "list.txt", "RUN": "run", "FOLDS": "folds", "DATA": "data"}
    if "--recipe" in arguments:
        (folder / "run/recipe.yaml").write_text("epochs: 1\n")
    before = content(folder)
    told = []
    for argument in arguments:
        head, slash, rest = argument.partition("/")
        told.append(f"{folder / places[head]}{slash}{rest}" if head in places else argument)
    with pytest.raises(SystemExit) as stop:
        main(told)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("keylite: ")]
    assert (stop.value.code, len(lines)) == (2, 1)
    assert words in lines[0]
    assert content(folder) == before


def test_an_export_over_its_calibration_is_refused(folder: Path):
    data = read_dataset(folder / "data/labels.json")
    labels = shutil.move(folder / "data/labels.json", folder / "data/m.onnx.certificate.json")
    before = content(folder)
    skeleton = read_spec(folder / "model.safetensors").skeleton
    there, data = (part.with_skeleton(skeleton) for part in (read_dataset(labels), data))
    for given in ({"data": there}, {"data": data, "calibration": there}):
        precision = "int8" if "calibration" in given else "fp32"
        with pytest.raises(ValueError, match="m.onnx.certificate.json is (an input|the file of)"):
            keylite.export(folder / "model.safetensors", out=folder / "data/m.onnx", precision=precision, **given)
    assert content(folder) == before


def test_labels_are_not_written_over_by_their_own_data_set(folder: Path):
    labels = folder / "data/labels.json"
    data, before = read_dataset(labels), content(folder)
    (folder / "link.json").symlink_to(labels)
    for path in (labels, folder / "link.json", folder / "data/image_000001.png"):
        with pytest.raises(ValueError, match="is (an input|the file of)"):
            write_coco(data, path)
    with pytest.raises(
        ValueError, match="these files, which would be written, are there already: labels.json; image_000000.png"
    ):
        write_dataset(data, folder / "data")
    assert {path: content(folder)[path] for path in before} == before


def test_an_orphan_is_not_written_over_and_nothing_is_half_written(tmp_path: Path):
    (tmp_path / "image_000002.png").write_text("mine")
    with pytest.raises(ValueError, match="these files, which would be written, are there already: image_000002.png"):
        write_dataset(gauges(4, "train", 0, 64), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["image_000002.png"]


def test_pictures_of_the_worst_are_not_drawn_over_what_they_show(folder: Path, make_spec):
    data = read_dataset(folder / "data/labels.json")
    write_image(folder / "data/worst.jpg", np.zeros((64, 64, 3), np.uint8))
    data = keylite.from_arrays([folder / "data/worst.jpg"], data.xy[:1], skeleton=data.skeleton, boxes=data.box[:1])
    before = content(folder)
    found = predict_shape(np.full((4, 2), 0.5), make_spec(), data)
    object.__setattr__(found, "crops", (crop_box(data.box[0], (64, 64)),))
    with pytest.raises(ValueError, match="worst.jpg is an input"):
        draw_worst(data, found, np.ones(1), 1, folder / "data")
    assert content(folder) == before
