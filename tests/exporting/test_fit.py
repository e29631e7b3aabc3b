"""An exported file that does not fit its device is refused in one line, with the numbers and what would fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import keylite
from keylite.exporting import fit
from keylite.exporting.fit import Device, device_of, require_fit
from keylite.exporting.form import Form
from keylite.exporting.targets import TargetNeeds
from keylite.runtime.graph import Weights
from keylite.runtime.heads import Heatmap, Regression
from tests.conftest import write_random_model

NPU = "ethos-u55-128"
INT8 = Form("litert", "int8")


def needs_of(
    target: str = "tflm", ram: int = 560, flash: int = 900, tables: int = 80, **changes: object
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


def layers_of_lite0(stages: int) -> list[Weights]:
    """About what a heatmap on lite0 has: 16 KB in the first stages and in the head, 224, 512 and 2,048 KB in the last."""
    sizes = (1, 1, 6, 8, 224, 512, 2048)
    blocks = [Weights(f"blocks.{stage}.0.conv_pw", 16, 8 * sizes[stage], sizes[stage] << 10) for stage in range(stages)]
    return [Weights("conv_stem", 3, 32, 1 << 10), *blocks, Weights("head.maps", 128, 68, 7 << 10)]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch, make_spec):
    """A function: (needs, device) -> the line with which the file is refused; None if it fits. Heatmap, 5 stages."""

    def run(
        needs: TargetNeeds, device: Device, size: tuple[int, int] = (128, 128), stages: int = 5, **changes: object
    ) -> str | None:
        own = make_spec(**{"head": Heatmap(4, (size[0] // 8, size[1] // 8)), "size": size, "stages": stages, **changes})
        monkeypatch.setattr(fit, "measure_target", lambda path, target: needs)
        monkeypatch.setattr(fit, "read_spec", lambda path: own)
        monkeypatch.setattr(fit, "tflite_model", lambda path: path)
        monkeypatch.setattr(fit, "graph_of", lambda flat: flat)
        monkeypatch.setattr(fit, "weights_of", lambda graph: layers_of_lite0(own.stages))
        try:
            require_fit(Path("f.tflite"), device)
        except keylite.ArgumentError as error:
            return str(error)
        return None

    return run


def test_a_file_that_fits_passes(fits):
    assert fits(needs_of(), Device("tflm")) is None
    assert fits(needs_of(), Device("tflm", flash=900, ram=560)) is None


def test_the_largest_preset_that_fits_is_named_with_what_it_takes(fits):
    line = fits(needs_of(), Device("tflm", ram=512))
    assert line == (
        "ram: f.tflite takes 560.0 KB of ram (the limit is 512 KB) on tflm; "
        "train with `preset('fast')` (about 900.0 KB of flash and 350.0 KB of ram)"
    )
    line = fits(needs_of(), Device("tflm", flash=800, ram=512))
    assert line.startswith(
        "flash, ram: f.tflite takes 900.0 KB of flash (the limit is 800 KB) and 560.0 KB of ram (the limit is 512 KB) "
        "on tflm; train with `preset('small')` (about "
    )
    flash, ram = map(float, re.findall(r"([\d.]+) KB of \w+", line.partition("preset")[2]))
    assert 100 < flash < 200 and 367 < ram < 440, "three quarters of the weights went with the fifth stage"
    assert "train with `preset('tiny')`" in fits(needs_of(), Device("tflm", ram=256))


def test_without_a_preset_that_fits_a_smaller_input_is_named(fits):
    assert "on tflm; train with `stages=4` and `size=48` (about " in fits(
        needs_of(), Device("tflm", flash=800, ram=130)
    )
    assert "on tflm; train with `size=48` (about " in fits(needs_of(), Device("tflm", ram=155))


def test_a_preset_is_no_larger_than_the_file(fits):
    assert "; train with `stages=3` (about " in fits(needs_of(), Device("tflm", flash=700), (64, 64), 4)
    assert "; train with `stages=4` (about " in fits(needs_of(), Device("tflm", flash=800), (64, 64))


def test_another_head_or_backbone_has_no_preset(fits):
    for other in ({"head": Regression(4)}, {"backbone": "lite1"}):
        assert "; train with `size=" in fits(needs_of(), Device("tflm", ram=512), **other)


def test_proposed_inputs_keep_their_shape_and_need_no_cut(fits):
    for stages, sizes in ((3, "(88, 64)"), (5, "(80, 48)"), (7, "(64, 32)")):
        line = fits(needs_of(), Device("tflm", ram=315), (128, 96), stages)
        assert f"; train with `size={sizes}` (about " in line
        assert float(re.search(r"and ([\d.]+) KB of ram\)", line)[1]) <= 315


def test_a_device_without_enough_for_any_choice_is_said(fits):
    line = fits(needs_of(), Device("tflm", flash=10))
    assert line.endswith("; no choice of `stages` and `size` fits; choose a device with more flash (`flash`)")
    line = fits(needs_of(), Device("tflm", flash=10, ram=10))
    assert line.endswith("choose a device with more flash (`flash`) and ram (`ram`)")


def test_presets_are_those_of_training(make_colours):
    from keylite.training.presets import PRESETS
    from keylite.training.recipe import make_recipe
    from keylite.training.schedule import resolve

    assert fit.PRESETS.keys() == PRESETS.keys()
    for name, (stages, side) in fit.PRESETS.items():
        resolved = resolve(make_recipe(PRESETS[name]), make_colours(1, 0))
        assert (resolved.backbone, resolved.head) == ("lite0", "heatmap")
        assert (resolved.stages, resolved.input_size) == (stages, (side, side)), name
    sizes = list(fit.PRESETS.values())
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_proposed_fits(tmp_path: Path, make_spec, monkeypatch: pytest.MonkeyPatch):
    """A file is refused by both its memories; one of the size and stages in the line is exported and passes."""
    for package in ("tflite_micro", "tensorflow", "ai_edge_litert"):
        pytest.importorskip(package, reason="needs keylite[tensorflow-cpu,micro]")
    monkeypatch.setattr("keylite.exporting.export._reference", lambda *_: None)  # it would make the parent's ONNX
    generator = np.random.default_rng(0)

    limits: dict[str, Any] = {"flash": 256, "ram": 180}

    def export(stages: int, side: int) -> Path:
        spec = make_spec(head=Heatmap(4, (side // 8,) * 2, 16), size=(side, side), stages=stages, box="image")
        parent = write_random_model(tmp_path / f"{stages}_{side}.safetensors", spec)
        images = list(generator.integers(0, 256, (16, side, side, 3), np.uint8))
        points = generator.uniform(4, side - 4, (16, 4, 2))
        data = keylite.from_arrays(images, points, skeleton=spec.skeleton)
        out = parent.with_suffix(".tflite")
        choices: dict[str, Any] = {"calibration": data, "calibration_count": 16, "budget": 1000.0, **limits}
        made = keylite.export(parent, data, out, precision="int8", target="tflm", **choices)
        assert made.held == ("litert", "litert-reference"), "the budget holds on kernels like those of the device"
        return out

    with pytest.raises(keylite.ArgumentError, match=r"^flash, ram: .*4_80\.tflite takes ") as refusal:
        export(4, 80)
    words = r"train with `stages=(\d)` and `size=(\d+)` \(about ([\d.]+) KB of flash and ([\d.]+) KB of ram\)$"
    (found,) = re.findall(words, str(refusal.value))
    assert found[:2] == ("3", "72"), "a pyramid of one level has no level to cut"
    needs = keylite.measure_target(export(3, 72), "tflm")
    assert [needs.flash / 1024, needs.ram / 1024] == pytest.approx([float(size) for size in found[2:]], rel=0.01)


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
    "an NPU and a file that ends in floats": (
        (NPU, None, None, INT8),
        f"^target: {NPU} leaves the end of a file to the CPU if its output is float32; export a heatmap with "
        "`output_type='int8'`, or leave out `target`$",
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
    with pytest.raises(
        keylite.ArgumentError, match=f"^target: {NPU} leaves the end of a file to the CPU if its output"
    ):
        keylite.export(heatmap_file, data, out, **choices)
    assert list(tmp_path.iterdir()) == []
    keylite.export(heatmap_file, data, out, output_type="int8", flash=4096, ram=300, **choices)
    assert keylite.measure_target(out, NPU).on_cpu == {}
