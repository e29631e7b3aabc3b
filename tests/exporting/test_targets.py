"""What a file takes on a target: figures of TensorFlow Lite Micro, and estimates of Arm's compiler Vela."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import keylite
from keylite.exporting import targets
from keylite.exporting.targets import TARGETS, TFLM, TargetNeeds, measure_target, targets_of
from keylite.runtime.graph import graph_of, layers_of
from keylite.runtime.modelfile import tflite_model, write_tflite

NPU = "ethos-u55-128"


@pytest.fixture
def vela(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for the temporary files of a test that runs Vela."""
    pytest.importorskip("ethosu.vela", reason="needs keylite[micro]")
    pytest.importorskip("ai_edge_litert", reason="needs keylite[litert]")
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def test_only_the_end_of_a_heatmap_stays_on_the_cpu(int8_of, vela, capfd: pytest.CaptureFixture):
    path = int8_of("heatmap")
    capfd.readouterr()  # what TensorFlow writes when it is imported
    needs = measure_target(path, NPU)
    assert needs.on_cpu == {"DEQUANTIZE": ("output",)}
    assert 32 * 32 * 32 + 32 * 32 * 16 <= needs.ram < 300_000, "the first two maps of 64 px, one of them read"
    assert needs.operators == ("DEQUANTIZE", "ethos-u")
    assert needs.tables is None and needs.dram == 0
    assert 0.5 * path.stat().st_size < needs.flash < 1.1 * path.stat().st_size
    assert 0.1 < needs.ms < 20
    assert "estimated by the compiler Vela" in needs.source and needs.source.endswith("not measured on a chip")
    assert capfd.readouterr() == ("", "")
    assert list(vela.iterdir()) == []
    assert str(needs) == (
        f"{path.name} on {NPU}: RAM {needs.ram / 1024:,.1f} KB, flash {needs.flash / 1024:,.1f} KB, "
        f"{needs.macs / 1e6:.1f} million multiplications, {needs.ms:.3g} ms per image; on the CPU: 1 DEQUANTIZE (output); {needs.source}"
    )


def test_the_last_layer_of_a_regression_stays_on_the_cpu_by_name(int8_of, vela):
    needs = measure_target(int8_of("regression"), "ethos-u65-512")
    assert needs.on_cpu["FULLY_CONNECTED"] == ("head.points",)
    assert needs.on_cpu["DEQUANTIZE"] == ("features",)
    assert needs.dram > 0, "its weights are beside the chip"
    assert "Ethos_U65_Client_Server" in needs.source
    assert needs.to_dict()["on_cpu"]["FULLY_CONNECTED"] == ["head.points"]


def test_layers_have_the_names_that_they_have_in_the_network(int8_of):
    pytest.importorskip("ai_edge_litert", reason="needs keylite[litert]")
    layers = layers_of(graph_of(tflite_model(int8_of("heatmap"))))
    assert layers[1] == ("CONV_2D", "conv_stem")
    assert ("DEPTHWISE_CONV_2D", "blocks.0.0.conv_dw") in layers
    assert layers[-1] == ("DEQUANTIZE", "output")


@pytest.mark.parametrize("head", ["regression", "heatmap"])
def test_what_a_file_takes_in_tensorflow_lite_micro_is_measured(head: str, int8_of, capfd: pytest.CaptureFixture):
    pytest.importorskip("tflite_micro", reason="needs keylite[micro]")
    from keylite.tensorflow.exporting import operators

    path = int8_of(head)
    needs = measure_target(path, TFLM)
    assert 32 * 32 * 32 + 32 * 32 * 16 <= needs.ram - needs.tables < 300_000, (
        "the first two maps of 64 px, one of them read"
    )
    assert needs.operators == tuple(sorted(operators(path)))
    assert 50_000 < needs.tables < needs.flash < path.stat().st_size
    assert "TILE" not in needs.operators
    assert needs.ms is None and needs.on_cpu == {}
    assert needs.cpu_words == f"all ({', '.join(needs.operators)})"
    assert str(needs).startswith(
        f"{path.name} on tflm: RAM {needs.ram / 1024:.1f} KB (tables {needs.tables / 1024:.1f} KB), "
    )
    assert capfd.readouterr() == ("", ""), "its table of allocations is not shown"


def test_multiplications_are_those_of_the_network_s_layers(int8_of, heatmap_file: Path):
    pytest.importorskip("tflite_micro", reason="needs keylite[micro]")
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
    assert measure_target(int8_of("heatmap"), TFLM).macs == sum(counts) > 1e6


def test_the_op_resolver_of_the_page_has_the_operators_of_a_heatmap(int8_of):
    pytest.importorskip("tflite_micro", reason="needs keylite[micro]")
    page = (Path(__file__).parents[2] / "docs/targets/micro.md").read_text(encoding="utf-8")
    added = re.findall(r"^resolver\.Add(\w+)\(\);$", page, re.MULTILINE)
    needed = measure_target(int8_of("heatmap"), TFLM).operators
    assert added == [name.title().replace("_", "") for name in needed]
    assert f"MicroMutableOpResolver<{len(needed)}> resolver;" in page


def test_a_file_stores_nothing_that_no_layer_uses(int8_of):
    graph = graph_of(tflite_model(int8_of("regression")))
    used = {tensor.buffer for tensor in graph.subgraphs[0].tensors} | {each.buffer for each in graph.metadata or []}
    assert [len(each.data) for row, each in enumerate(graph.buffers) if each.data is not None and row not in used] == []


def test_a_size_with_an_odd_level_of_the_pyramid_has_one_more_operator(int8_of):
    pytest.importorskip("tflite_micro", reason="needs keylite[micro]")
    odd, even = (
        measure_target(path, TFLM).operators for path in (int8_of("heatmap", stages=4, side=size) for size in (40, 48))
    )
    assert set(odd) - set(even) == {"STRIDED_SLICE"} and set(even) < set(odd)
    page = (Path(__file__).parents[2] / "docs/targets/micro.md").read_text(encoding="utf-8")
    assert "`resolver.AddStridedSlice();`" in page


def test_every_target_is_one_that_vela_knows():
    pytest.importorskip("ethosu.vela", reason="needs keylite[micro]")
    told = subprocess.run([sys.executable, "-m", "ethosu.vela", "--help"], capture_output=True, text=True).stdout
    ours = {name for name, system in TARGETS.items() if system}
    assert ours == set(told.split("--accelerator-config {")[1].split("}")[0].split(","))


def test_names_of_targets():
    assert targets_of("tflm, ethos-u55-128,tflm") == ["tflm", "ethos-u55-128"]
    with pytest.raises(keylite.ArgumentError, match=r"^target: expected one of tflm, ethos-u55-32, .*got 'ethos-u55'"):
        targets_of("tflm,ethos-u55")
    for text in (",", "", "tflm,", "tflm,,ethos-u55-128"):
        words = f"^target: expected names with one comma between two, such as tflm,ethos-u55-128, got '{text}'$"
        with pytest.raises(keylite.ArgumentError, match=words):
            targets_of(text)


def test_a_description_of_another_file_is_refused(litert_file: Path, tmp_path: Path, make_spec):
    pytest.importorskip("tflite_micro", reason="needs keylite[micro]")
    path = tmp_path / "floats.tflite"
    write_tflite(path, tflite_model(litert_file), make_spec(precision="int8"))
    words = "floats.tflite: its description is that of another file: precision: int8 there, fp32 in the file; "
    with pytest.raises(keylite.ArgumentError, match=words):
        measure_target(path, TFLM)


def test_a_float_file_is_refused(litert_file: Path):
    words = f"^target: {NPU} runs int8 files, four.tflite is fp32; export one with `precision='int8'`$"
    with pytest.raises(keylite.ArgumentError, match=words):
        measure_target(litert_file, NPU)


def test_a_file_of_another_format_is_refused(model_file: Path):
    with pytest.raises(keylite.ArgumentError, match=r"^target: tflm runs \.tflite files, got four\.safetensors; "):
        measure_target(model_file, TFLM)


def test_a_file_that_vela_refuses_is_one_line(vela, tmp_path: Path, make_spec):
    path = tmp_path / "none.tflite"
    write_tflite(path, b"\x1c\0\0\0TFL3" + bytes(400), make_spec(precision="int8"))
    with pytest.raises(keylite.ModelFileError, match=rf"none\.tflite: Vela cannot compile .* for {NPU}: ") as caught:
        measure_target(path, NPU)
    assert "\n" not in str(caught.value)
    assert list(vela.iterdir()) == []


def test_a_compiler_that_is_killed_is_said(vela, int8_of, monkeypatch: pytest.MonkeyPatch):
    killed = subprocess.CompletedProcess([], -11, "", "")
    monkeypatch.setattr(targets.subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(keylite.ModelFileError, match=r"it was ended by SIGSEGV$"):
        measure_target(int8_of("heatmap"), NPU)


def test_a_compiler_that_does_not_end_is_ended(vela, int8_of, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(targets, "LONGEST", 0.05)
    with pytest.raises(keylite.ModelFileError, match=rf"Vela had not compiled .* for {NPU} after 0\.05 s .* ended; "):
        measure_target(int8_of("heatmap"), NPU)
    assert list(vela.iterdir()) == []


def test_without_the_package_a_line_says_what_to_install(python, int8_of):
    code = f"""
import keylite
try:
    keylite.measure_target({str(int8_of("heatmap"))!r}, {NPU!r})
except ModuleNotFoundError as error:
    print(error)
"""
    said = python(code, missing=("ethosu", "ethosu.vela")).splitlines()[-1]
    assert said.endswith("install it with: pip install 'keylite[micro]'")


def test_a_line_has_memory_beside_the_chip_and_tables_if_there_are_any():
    needs = TargetNeeds(
        model="<i>.tflite",
        target=NPU,
        operators=("ethos-u",),
        on_cpu={},
        macs=22_640_000,
        ram=2048,
        tables=None,
        dram=1024,
        flash=3 * 1024**2,
        ms=0.1234,
        source="made up",
    )
    assert str(needs) == (
        "<i>.tflite on ethos-u55-128: RAM 2.0 KB, DRAM 1.0 KB, flash 3,072.0 KB, 22.6 million multiplications, "
        "0.123 ms per image; on the CPU: none; made up"
    )
    assert repr(needs) == "TargetNeeds(<i>.tflite on ethos-u55-128: RAM 2.0 KB, flash 3,072.0 KB)"
