"""`keylite info`: the description inside a model file, as a table and as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from verbs import refused, run

from keylite.runtime.modelfile import write_tflite
from keylite.runtime.spec import Calibration, DataId, encode_spec


@pytest.fixture
def described(tmp_path: Path, make_spec):
    """A file that describes itself; and its spec."""
    figures = {
        "data": DataId("val", "1" * 64),
        "nme": 0.05,
        "normalize": "0.5 x box_side",
        "mean_shape_nme": 0.2,
        "percent_px": 0.3,
    }
    report = figures | {"pixel_error": 1.5, "count": 20, "epoch": 3}
    spec = make_spec(size=(64, 32), unlearnt={"nose": 0}, report=report)
    write_tflite(tmp_path / "a.tflite", b"\x1c\0\0\0TFL3", spec)
    return tmp_path / "a.tflite", spec


def test_the_table_says_input_keypoints_and_origin(described, capsys):
    path, spec = described
    code, out, _ = run(capsys, "info", path)
    rows = [line for line in out.splitlines() if line.strip()]
    assert code == 0
    for words in ("a.tflite, ", "64x32 px", f"{len(spec.skeleton)}: nose", "not learnt"):
        assert any(words in row for row in rows), (words, out)
    assert any("accuracy after training" in row and "NME 5.00 % by 0.5 x box_side" in row for row in rows)


def test_what_does_not_apply_to_a_file_has_no_row(capsys, tmp_path: Path, make_spec):
    """A file that training wrote has no parent, no ranges and no scales; one without figures says nothing of them."""
    spec = make_spec(report=None)
    write_tflite(tmp_path / "a.tflite", b"\x1c\0\0\0TFL3", spec)
    out = run(capsys, "info", tmp_path / "a.tflite")[1]
    assert "none" not in out.lower()
    assert "from random weights" in out
    for label in ("accuracy", "exported from", "int8 ranges", "scales of weights", "compared with parent", "taught by"):
        assert label not in out
    origin = msgspec.structs.replace(spec.provenance, parent="p" * 64, pretrained="imagenet")
    exported = msgspec.structs.replace(
        spec,
        precision="int8",
        weight_scales="per-tensor",
        calibration=Calibration(200, 3, DataId("train", "1" * 64)),
        provenance=origin,
    )
    write_tflite(tmp_path / "b.tflite", b"\x1c\0\0\0TFL3", exported)
    out = run(capsys, "info", tmp_path / "b.tflite")[1]
    for row in (
        f"exported from +the file with sha256 {'p' * 64}",
        "int8 ranges from +200 objects of train, seed 3",
        "scales of weights +per-tensor: one for a whole layer",
        "trained on .* from ImageNet's weights",
    ):
        assert re.search(row, out), row


def test_json_is_the_whole_spec(described, capsys):
    path, spec = described
    assert json.loads(run(capsys, "info", path, "--json")[1]) == json.loads(encode_spec(spec))


def test_a_file_without_a_description_is_refused(capsys, tmp_path):
    (tmp_path / "bare.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    assert "holds no keylite description" in refused(capsys, "info", tmp_path / "bare.tflite")
