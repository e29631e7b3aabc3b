"""An exported file that does not fit its device is refused in one line, with the numbers and what would fit."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

import keylite
from keylite.exporting import fit
from keylite.exporting.fit import Device, device_of, nearest_choice, require_fit
from keylite.exporting.form import Form
from keylite.exporting.targets import TargetNeeds
from keylite.runtime.heads import Heatmap

NPU = "ethos-u55-128"
INT8 = Form("litert", "int8")


def needs_of(
    target: str = "tflm", ram: int = 350, flash: int = 900, tables: int = 80, **changes: object
) -> TargetNeeds:
    """The needs of a file; ram, flash and tables in KB."""
    made = TargetNeeds(
        model="f.tflite",
        target=target,
        operators=("ADD", "CONV_2D"),
        on_cpu={},
        macs=10**6,
        ram=1024 * ram,
        tables=1024 * tables,
        dram=0,
        flash=1024 * flash,
        ms=None,
        source="made up",
    )
    return msgspec.structs.replace(made, **changes)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch, make_spec):
    """A function: (needs, device) -> the line with which the file is refused; None if it fits. Heatmap, 5 stages."""
    spec = make_spec(head=Heatmap(4, (12, 12), 16), size=(96, 96), stages=5)

    def run(needs: TargetNeeds, device: Device) -> str | None:
        monkeypatch.setattr(fit, "measure_target", lambda path, target: needs)
        monkeypatch.setattr(fit, "read_spec", lambda path: spec)
        try:
            require_fit(Path("f.tflite"), device)
        except keylite.ArgumentError as error:
            return str(error)
        return None

    return run


def test_a_file_that_fits_passes(fits):
    assert fits(needs_of(), Device("tflm")) is None
    assert fits(needs_of(), Device("tflm", flash=900, ram=350)) is None


def test_too_much_ram_names_an_input_that_fits(fits):
    line = fits(needs_of(), Device("tflm", ram=256))
    assert line == (
        "ram: f.tflite takes 350.0 KB of ram (the limit is 256 KB) on tflm; "
        "train with a smaller input (`size=72`, about 231.9 KB of ram)"
    )


def test_too_much_of_both_names_both(fits):
    line = fits(needs_of(ram=350, flash=900), Device("tflm", flash=512, ram=100))
    assert line == (
        "flash, ram: f.tflite takes 900.0 KB of flash (the limit is 512 KB) and 350.0 KB of ram (the limit is 100 KB) "
        "on tflm; train with fewer stages (`stages=4`), and no input of 32 px or more fits: take more ram"
    )


def test_proposed_inputs_keep_their_shape(make_spec):
    spec = make_spec(head=Heatmap(4, (16, 12), 16), size=(128, 96), stages=4)
    choice = nearest_choice(spec, needs_of(ram=400), Device("tflm", ram=200))
    assert "(`size=72x56`, about " in choice
    about = float(re.search(r"about ([\d.]+) KB", choice)[1])
    assert about <= 200


def test_fewer_stages_are_proposed_if_there_are_some(make_spec):
    spec = make_spec(head=Heatmap(4, (8, 8), 16), stages=3)
    assert nearest_choice(spec, needs_of(), Device("tflm", flash=100)) == (
        "no fewer stages are possible: take more flash"
    )


def test_an_end_on_the_cpu_becomes_int8(fits):
    line = fits(needs_of(NPU, on_cpu={"DEQUANTIZE": ("output",)}), Device(NPU))
    assert line == (
        f"target: {NPU} leaves operators of f.tflite to the CPU: 1 DEQUANTIZE (output); "
        "export with `output_type='int8'`, or leave out `target`"
    )


def test_another_layer_on_the_cpu_needs_another_head(fits):
    line = fits(needs_of(NPU, on_cpu={"FULLY_CONNECTED": ("head.points",), "RESHAPE": ("output",)}), Device(NPU))
    assert "1 FULLY_CONNECTED (head.points), 1 RESHAPE (output); train a heatmap (`head='heatmap'`)" in line


REFUSED = {
    "a limit without a target": ((None, 512, None, INT8), "^flash: it is a limit of a target; name one, such as"),
    "a limit of nothing": (("tflm", None, 0, INT8), "^ram: expected a whole number of at least 1, got 0$"),
    "an unknown target": (("esp32", None, None, INT8), "^target: expected one of tflm, .*, got 'esp32'$"),
    "another format": (
        ("tflm", None, None, Form("onnx", "int8")),
        r"^target: tflm runs \.tflite files, got \.onnx; ",
    ),
    "floats": (("tflm", None, None, Form("litert", "fp32")), "^target: tflm runs int8 files, this one is fp32; "),
}


@pytest.mark.parametrize(("given", "words"), REFUSED.values(), ids=REFUSED)
def test_a_device_that_no_file_fits_is_refused_before_one_is_made(given, words: str):
    with pytest.raises(keylite.ArgumentError, match=words):
        device_of(*given)


def test_without_a_target_nothing_is_checked():
    assert device_of(None, None, None, Form("onnx", "fp32")) is None


def test_a_heatmap_in_integers_is_exported_for_an_npu_and_one_that_ends_in_floats_is_refused(
    heatmap_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("ethosu.vela", reason="needs keylite[micro]")
    pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")
    monkeypatch.setattr("keylite.exporting.export._reference", lambda *_: None)  # it would make the parent's ONNX
    generator, out = np.random.default_rng(0), tmp_path / "maps.tflite"
    data = keylite.from_arrays(
        list(generator.integers(0, 256, (16, 64, 64, 3), np.uint8)),
        generator.uniform(9, 50, (16, 4, 2)),
        skeleton=keylite.read_spec(heatmap_file).skeleton,
        boxes=np.tile([[0.0, 0.0, 64.0, 64.0]], (16, 1)),
    )
    choices = {"precision": "int8", "calibration": data, "calibration_count": 16, "budget": 1000.0, "target": NPU}
    with pytest.raises(keylite.ArgumentError, match=r"^target: .* maps\.tflite to the CPU: 1 DEQUANTIZE \(output\); "):
        keylite.export(heatmap_file, data, out, **choices)
    assert list(tmp_path.iterdir()) == []
    keylite.export(heatmap_file, data, out, output_type="int8", flash=4096, ram=300, **choices)
    assert keylite.measure_target(out, NPU).on_cpu == {}
