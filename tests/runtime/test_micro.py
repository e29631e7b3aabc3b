"""TensorFlow Lite Micro on this machine gives what LiteRT's reference kernels give, and says what a file needs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.runtime.engines import open_engine
from keylite.runtime.micro import MicroNeeds, open_micro
from keylite.runtime.modelfile import write_tflite

pytest.importorskip("tflite_micro", reason="needs keylite[micro]")


@pytest.mark.parametrize("head", ["regression", "rle", "simcc", "heatmap"])
def test_its_results_are_those_of_the_reference_kernels(head: str, int8_of, crops: np.ndarray):
    path = int8_of(head)
    micro, reference = (open_engine(path, name).engine(crops) for name in ("tflm", "litert-reference"))
    assert micro.dtype == np.float32
    assert micro.std(axis=0).max() > 1e-3, "another image must give another output"
    assert np.array_equal(micro, reference)


@pytest.mark.parametrize("head", ["regression", "heatmap"])
def test_what_a_file_needs_is_measured(head: str, int8_of):
    from keylite.tensorflow.exporting import operators

    path = int8_of(head)
    needs = keylite.measure_micro(path)
    assert needs.arena == needs.activations + needs.tables
    assert 32 * 32 * 32 + 32 * 32 * 16 <= needs.activations < 300_000, "the first two maps of 64 px, one of them read"
    assert 50_000 < needs.tables < needs.flash < path.stat().st_size
    assert set(needs.operators) == set(operators(path))
    assert list(needs.operators) == sorted(needs.operators)
    assert "TILE" not in needs.operators
    line = str(needs)
    assert line.startswith(f"{path.name} in TensorFlow Lite Micro: arena {needs.arena / 1024:.1f} KB (activations ")
    assert line.endswith(f"; operators: {', '.join(needs.operators)}")
    assert needs.to_dict()["arena"] == needs.arena


def test_multiplications_are_those_of_the_network_s_layers(int8_of, heatmap_file: Path):
    torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")
    pytest.importorskip("timm", reason="needs keylite[pytorch]")
    from keylite.pytorch.model import load_model

    counts = []

    def count(layer, inputs, output) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    network, spec = load_model(heatmap_file)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, *spec.size[::-1]))
    assert keylite.measure_micro(int8_of("heatmap")).macs == sum(counts) > 1e6


def test_sizes_are_in_kb_of_1024_bytes():
    needs = MicroNeeds("<i>.tflite", 3 * 1024**2, 2048, 1024, 1024, ("ADD", "CONV_2D"), 22_640_000)
    assert str(needs) == (
        "<i>.tflite in TensorFlow Lite Micro: arena 2.0 KB (activations 1.0 KB, tables 1.0 KB), model 3,072.0 KB, "
        "22.6 million multiplications; operators: ADD, CONV_2D"
    )
    assert repr(needs) == "MicroNeeds(<i>.tflite: arena 2.0 KB, 2 kinds of operators)"


def test_a_float_file_is_refused(litert_file: Path):
    words = "engine: tflm runs int8 files, four.tflite is fp32: TensorFlow Lite Micro has no CAST .*`precision='int8'`"
    for open_it in (lambda: open_engine(litert_file, "tflm"), lambda: keylite.measure_micro(litert_file)):
        with pytest.raises(keylite.ArgumentError, match=f"^{words}$"):
            open_it()


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


def test_the_op_resolver_of_the_page_has_the_operators_of_a_heatmap(int8_of):
    page = (Path(__file__).parents[2] / "docs/targets/micro.md").read_text(encoding="utf-8")
    added = re.findall(r"^resolver\.Add(\w+)\(\);$", page, re.MULTILINE)
    needed = keylite.measure_micro(int8_of("heatmap")).operators
    assert added == [name.title().replace("_", "") for name in needed]
    assert f"MicroMutableOpResolver<{len(needed)}> resolver;" in page
