"""What a file takes on a target: figures of TensorFlow Lite Micro, and estimates of Arm's compiler Vela."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import keylite
from keylite.runtime import targets
from keylite.runtime.graph import graph_of, layers_of
from keylite.runtime.modelfile import tflite_model, write_tflite
from keylite.runtime.targets import TARGETS, TFLM, TargetNeeds, measure_target, targets_of

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
    needs = measure_target(path, NPU)
    assert needs.on_cpu == {"DEQUANTIZE": ("output",)}
    assert 32 * 32 * 32 + 32 * 32 * 16 <= needs.ram < 300_000, "the first two maps of 64 px, one of them read"
    assert needs.dram == 0
    assert 0.5 * path.stat().st_size < needs.flash < 1.1 * path.stat().st_size
    assert 0.1 < needs.ms < 20
    assert "estimated by the compiler Vela" in needs.source and needs.source.endswith("not measured on a chip")
    assert capfd.readouterr() == ("", "")
    assert list(vela.iterdir()) == []
    assert str(needs) == (
        f"{path.name} on {NPU}: RAM {needs.ram / 1024:,.1f} KB, flash {needs.flash / 1024:,.1f} KB, {needs.ms:.3g} ms "
        f"per image; on the CPU: 1 DEQUANTIZE (output); {needs.source}"
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


def test_tensorflow_lite_micro_is_a_target_too(int8_of):
    pytest.importorskip("tflite_micro", reason="needs keylite[micro]")
    path = int8_of("heatmap")
    needs, micro = measure_target(path, TFLM), keylite.measure_micro(path)
    assert (needs.ram, needs.tables, needs.flash) == (micro.arena, micro.tables, micro.flash)
    assert needs.ms is None and needs.on_cpu == {}
    assert needs.cpu_words == "all operators"


def test_every_target_is_one_that_vela_knows():
    pytest.importorskip("ethosu.vela", reason="needs keylite[micro]")
    told = subprocess.run([sys.executable, "-m", "ethosu.vela", "--help"], capture_output=True, text=True).stdout
    ours = {name for name, system in TARGETS.items() if system}
    assert ours == set(told.split("--accelerator-config {")[1].split("}")[0].split(","))


def test_names_of_targets():
    assert targets_of("tflm, ethos-u55-128,tflm") == ["tflm", "ethos-u55-128"]
    for text in ("ethos-u55", "", "tflm,"):
        with pytest.raises(keylite.ArgumentError, match=r"^target: expected one of tflm, ethos-u55-32, .*got '"):
            targets_of(text)


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


def test_memory_beside_the_chip_is_in_the_line():
    needs = TargetNeeds("<i>.tflite", NPU, {}, ram=2048, tables=0, dram=1024, flash=3072, ms=0.1234, source="made up")
    assert str(needs) == (
        "<i>.tflite on ethos-u55-128: RAM 2.0 KB, DRAM 1.0 KB, flash 3.0 KB, 0.123 ms per image; on the CPU: none; "
        "made up"
    )
    assert repr(needs) == "TargetNeeds(<i>.tflite on ethos-u55-128: RAM 2.0 KB, flash 3.0 KB)"
