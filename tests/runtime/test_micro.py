"""TensorFlow Lite Micro on this machine gives what LiteRT's reference kernels give, and says what it lacks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.runtime.engines import open_engine
from keylite.runtime.micro import open_micro
from keylite.runtime.modelfile import write_tflite

pytest.importorskip("tflite_micro", reason="needs keylite[micro]")


@pytest.mark.parametrize("head", ["regression", "rle", "simcc", "heatmap"])
def test_its_results_are_those_of_the_reference_kernels(head: str, int8_of, crops: np.ndarray):
    path = int8_of(head)
    micro, reference = (open_engine(path, name).engine(crops) for name in ("tflm", "litert-reference"))
    assert micro.dtype == np.float32
    assert micro.std(axis=0).max() > 1e-3, "another image must give another output"
    assert np.array_equal(micro, reference)


def test_a_float_file_is_refused(litert_file: Path):
    words = "engine: tflm runs int8 files, four.tflite is fp32: TensorFlow Lite Micro has no CAST .*`precision='int8'`"
    with pytest.raises(keylite.ArgumentError, match=f"^{words}$"):
        open_engine(litert_file, "tflm")


def test_all_operators_that_are_lacking_are_named(tmp_path: Path, make_spec, capfd: pytest.CaptureFixture):
    tf = pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")
    from keylite.tensorflow.exporting import quiet

    @tf.function(input_signature=[tf.TensorSpec((1, 64, 64, 3), tf.float32)])
    def strange(pixels):
        values = tf.nn.local_response_normalization(tf.tile(tf.nn.relu(pixels), (1, 1, 1, 2)))
        return tf.reshape(values[:, :2, :2, :2], (1, 4, 2))

    with quiet():
        flat = tf.lite.TFLiteConverter.from_concrete_functions([strange.get_concrete_function()]).convert()
    path = tmp_path / "strange.tflite"
    write_tflite(path, flat, make_spec(precision="int8"))
    with pytest.raises(keylite.ModelFileError) as caught:
        open_micro(path, "int8")
    line = str(caught.value)
    named = re.search(r"strange\.tflite: expected operators that TensorFlow Lite Micro has, got ([\w, ]+); ", line)[1]
    assert sorted(named.split(", ")) == ["LOCAL_RESPONSE_NORMALIZATION", "TILE"]
    assert "\n" not in line
    assert capfd.readouterr().err == "", "what it prints is in the line"


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, make_spec):
    path = tmp_path / "none.tflite"
    write_tflite(path, b"\x1c\0\0\0TFL3" + bytes(400), make_spec(precision="int8"))
    with pytest.raises(keylite.ModelFileError, match=r"none\.tflite: LiteRT cannot open this file: ") as caught:
        open_engine(path, "tflm")
    assert "\n" not in str(caught.value)


def test_it_runs_on_the_cpu_alone(int8_file: Path):
    with pytest.raises(keylite.ArgumentError, match="device: the tflm engine runs on the cpu, got 'cuda'"):
        open_engine(int8_file, "tflm", device="cuda")
