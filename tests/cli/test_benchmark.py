"""`keylite benchmark`: files side by side, and what cannot be measured."""

from __future__ import annotations

import json
import re
import shutil

import cv2
import msgspec
import numpy as np
import pytest
from verbs import refused, run

import keylite
from keylite.evaluation import timing
from keylite.exporting.targets import TargetNeeds
from keylite.runtime.modelfile import describe, read_spec

load_file = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]").load_file
onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
exporting = pytest.importorskip("keylite.pytorch.exporting", reason="needs keylite[pytorch]")


def test_a_benchmark_with_data_sets_accuracy_beside_time(capsys, exported, trained, gauge_files, tmp_path):
    labels, out = gauge_files / "test/labels.json", tmp_path / "bench.json"
    models = [exported, trained / "model.safetensors"]
    code, shown, _ = run(capsys, "benchmark", *models, "--runs", 3, "--data", labels, "--out", out)
    assert code == 0
    result = json.loads(out.read_text())
    want = keylite.evaluate(exported, keylite.read_dataset(labels)).nme.mean
    for model in models:
        facts = result["models"][str(model)]
        assert facts["accuracy"]["nme"] == pytest.approx(want, abs=1e-4)
        assert facts["accuracy"]["count"] == 6
        assert f"{100 * want:.2f}" in shown
        assert set(facts["ms"]) == {"read", "crop", "engine", "decode", "total"}
        for spread in facts["ms"].values():
            assert 0 < spread["p10"] <= spread["median"] <= spread["p90"]
        held = facts["memory"]
        assert held is None or 10 < held["before"] < held["peak"] < 10_000
    chart = cv2.imread(str(tmp_path / "bench.png"))
    assert chart.shape[1] > 600
    assert len(np.unique(chart.reshape(-1, 3), axis=0)) > 20  # more than white


def test_memory_is_that_of_each_file_alone(exported, trained):
    from keylite.evaluation.timing import benchmark

    found = benchmark([exported, trained / "model.safetensors"], runs=3).models.values()
    onnx, torch = (facts.memory for facts in found)
    if onnx is None:
        pytest.skip("needs a system that says how much memory a process holds")
    assert onnx.before == pytest.approx(torch.before, rel=0.1)
    assert onnx.peak < torch.peak  # PyTorch itself is larger than ONNX Runtime


def test_a_benchmark_says_what_a_file_takes_on_targets(capsys, int8_file, tmp_path, monkeypatch):
    for package in ("tflite_micro", "ethosu.vela"):
        pytest.importorskip(package, reason="needs keylite[micro]")
    monkeypatch.setattr("keylite.evaluation.timing.benchmark", lambda *_, **__: pytest.fail("nothing is timed"))
    out, npu = tmp_path / "bench.json", "ethos-u55-128"
    code, shown, err = run(capsys, "benchmark", int8_file, "--target", f"tflm,{npu}", "--out", out)
    assert code == 0, err
    facts = json.loads(out.read_text())["models"][str(int8_file)]
    needs = {name: keylite.measure_target(int8_file, name) for name in ("tflm", npu)}
    assert facts == {"targets": {name: each.to_dict() for name, each in needs.items()}}
    title, header, _, tflm, ethos, *words = shown.splitlines()
    assert title == f"{int8_file} on targets (a KB is 1,024 bytes)"
    assert re.split("  +", header) == ["target", "RAM KB", "flash KB", "million MAC", "ms per image"]
    for row, each in ((tflm, needs["tflm"]), (ethos, needs[npu])):
        figures = [f"{each.ram / 1024:,.1f}", f"{each.flash / 1024:,.1f}", f"{each.macs / 1e6:.1f}"]
        assert row.split() == [each.target, *figures, *([] if each.ms is None else [f"{each.ms:.3g}"])]
        assert max(map(len, (header, row))) <= 100
        assert any(each.cpu_words in line for line in words) and any(each.source in line for line in words)
    assert "FULLY_CONNECTED (head.points)" in shown and "all (ADD, CONV_2D, " in shown
    assert "RecordingMicroAllocator" not in shown + err


def test_several_files_on_targets_are_named_in_each_row(capsys, int8_file, monkeypatch, tmp_path):
    needs = TargetNeeds("m", "ethos-u65-512", ("ethos-u",), {}, 5_000_000, 2048, None, 1024, 4096, 0.25, "Vela says so")
    monkeypatch.setattr("keylite.exporting.targets.measure_target", lambda *_, **__: needs)
    other = shutil.copy(int8_file, tmp_path / "other.tflite")
    code, shown, _ = run(capsys, "benchmark", int8_file, other, "--target", "ethos-u65-512")
    assert code == 0
    rows = [re.split("  +", line.strip()) for line in shown.splitlines()]
    assert rows[1] == ["model", "target", "RAM KB", "DRAM KB", "flash KB", "million MAC", "ms per image"]
    assert rows[4] == [str(other), "ethos-u65-512", "2.0", "1.0", "4.0", "5.0", "0.25"]
    assert [f"{other} on ethos-u65-512", "on the CPU: none"] in rows


def test_an_engine_that_cannot_run_a_file_is_refused(capsys, int8_file):
    line = refused(capsys, "benchmark", int8_file, "--engine", "onnx")
    assert "runs on litert or litert-reference or tflm, got 'onnx'" in line


def test_the_times_print_in_python_as_on_the_command_line(capsys, exported, monkeypatch):
    monkeypatch.setattr(timing, "_memory", lambda *_: timing.Memory(80.0, 120.0))
    code, shown, _ = run(capsys, "benchmark", exported, "--runs", 3)
    assert code == 0
    times = keylite.benchmark([exported], runs=3)
    title, header, _, row = str(times).splitlines()
    assert (title, header.split()) == (shown.splitlines()[0], shown.splitlines()[1].split())
    assert re.fullmatch(rf"{re.escape(str(exported))} +onnx( +[\d.]+){{6}} \([\d.]+\.\.[\d.]+\) +80 to 120", row)
    assert len(row) - len(str(exported)) <= 90, "a short name leaves it within 100 columns"
    assert repr(times).endswith(f"3 runs on {times.machine})")
    assert "<table>" in times._repr_html_()
    assert json.loads(times.to_json())["models"][str(exported)]["memory"] == {"before": 80.0, "peak": 120.0}


BAD_BENCHMARKS = {
    "an unknown target": (["MODEL", "--target", "tflm,ethos-u7"], "--target: expected one of tflm, .*, got 'ethos-u7'"),
    "a target of another format": (["MODEL", "--target", "tflm"], r"--target: tflm runs \.tflite files, got MODEL"),
    "times beside a target": (["MODEL", "--target", "tflm", "--runs", 5], "--runs: has no effect with --target, which"),
    "accuracy beside a target": (
        ["MODEL", "--target", "tflm", "--data", "a.json"],
        "--data: has no effect with --targ",
    ),
    "nothing": ([], "expected model files"),
    "two runs": (["MODEL", "--runs", 2], "at least 3"),
    "a plot of nothing": (["MODEL", "--plot", "p.png"], "--data"),
    "a divisor of nothing": (["MODEL", "--normalize", "box_side"], "--data"),
    "a folder that is a file": (["MODEL", "--out", "MODEL/b.json"], "MODEL is a file"),
    "a file twice": (["MODEL", "MODEL"], "named twice"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_BENCHMARKS.values(), ids=BAD_BENCHMARKS)
def test_bad_benchmarks_are_one_line(arguments, words, capsys, exported):
    told = [str(argument).replace("MODEL", str(exported)) for argument in arguments]
    assert re.search(words.replace("MODEL", exported.name), refused(capsys, "benchmark", *told))


def test_a_plot_takes_no_picture_s_place(capsys, exported, gauge_files):
    picture = next((gauge_files / "test").glob("*.png"))
    line = refused(capsys, "benchmark", exported, "--data", gauge_files / "test/labels.json", "--plot", picture)
    assert f"--plot: {picture} is an input, too" in line


def test_models_with_other_divisors_need_one_to_compare(capsys, exported, gauge_files, tmp_path):
    other = tmp_path / "other.onnx"
    shutil.copy(exported, other)
    describe(other, msgspec.structs.replace(read_spec(other), normalize="box_side"))
    line = refused(capsys, "benchmark", exported, other, "--data", gauge_files / "test/labels.json")
    assert "box_side" in line
    assert "choose one" in line
