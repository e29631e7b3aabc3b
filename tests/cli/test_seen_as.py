"""Labelled images are read as the model will see them: with its white level and its box, by every verb that has a model."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import safetensors.numpy

from keylite.data.dataset import Dataset
from keylite.runtime.engines import Opened
from keylite.runtime.modelfile import write_safetensors, write_tflite

STOPS = {  # verb: its flags, and the function that gets the data sets
    "evaluate": ("evaluate MODEL --data LABELS", "keylite.evaluation.evaluate.refuse_or_doubt"),
    "evaluate, parent": ("evaluate MODEL --parent MODEL --data LABELS", "keylite.exporting.export.hold"),
    "benchmark": ("benchmark MODEL OTHER --data LABELS", "keylite.cli.benchmark._reports"),
    "export": (
        "export PARENT --data LABELS --calibration LABELS --precision int8 --out a.onnx",
        "keylite.exporting.export.export",
    ),
    "export, all": (
        "export PARENT --data LABELS --calibration LABELS --to all --out a",
        "keylite.exporting.export.export_all",
    ),
    "diagnose": (
        "export PARENT --data LABELS --calibration LABELS --precision int8 --diagnose --to onnx",
        "keylite.exporting.diagnosis.diagnose",
    ),
}


@pytest.mark.parametrize(("command", "function"), STOPS.values(), ids=STOPS)
def test_labels_are_read_as_the_model_sees_them(command, function, make_spec, keylite_command, monkeypatch, tmp_path):
    """The model takes 1023 as white, the data go up to 4000, and one of two objects lacks the box that it crops by."""
    write_tflite(tmp_path / "a.tflite", b"\x1c\0\0\0TFL3", make_spec(white_level=1023))
    write_tflite(tmp_path / "b.tflite", b"\x1c\0\0\0TFL3", make_spec(box="image"))
    tensors = safetensors.numpy.save({"a": np.zeros(1, np.float32)})
    write_safetensors(tmp_path / "a.safetensors", tensors, make_spec(white_level=1023))
    assert cv2.imwrite(str(tmp_path / "a.png"), np.linspace(0, 4000, 64 * 64).reshape(64, 64).astype(np.uint16))
    points = [12, 12, 2, 40, 12, 2, 12, 40, 2, 40, 40, 2]
    objects = [{"id": i, "image_id": 1, "category_id": 1, "keypoints": points, "num_keypoints": 4} for i in (1, 2)]
    objects[0]["bbox"] = [8, 8, 40, 40]
    labels = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "annotations": objects,
        "categories": [{"id": 1, "name": "face", "keypoints": list(make_spec().skeleton.names)}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    given: list[Dataset] = []

    def stop(*arguments, **named):
        given.extend(value for value in (*arguments, *named.values()) if isinstance(value, Dataset))
        raise ValueError("all is read")

    monkeypatch.setattr(function, stop)
    opened = Opened(lambda _: pytest.fail("work has begun"), "litert", make_spec(white_level=1023), "")
    monkeypatch.setattr("keylite.runtime.predictor.open_engine", lambda *_: opened)
    files = {"LABELS": "labels.json", "MODEL": "a.tflite", "OTHER": "b.tflite", "PARENT": "a.safetensors"}
    for name, file in files.items():
        command = command.replace(name, str(tmp_path / file))
    ended = keylite_command(*command.split(), "--skip-bad")
    assert ended.line == "all is read"
    assert len(given) == (2 if "calibration" in command else 1)
    for data in given:
        assert (len(data), data.white_level) == (1, 1023)
    assert ended.err.count("images hold samples above 1023, which are read as white") == len(given)
    assert ended.err.count("left out: 1 of 2 objects have no box") == len(given)
    assert "taken as white" not in ended.err
