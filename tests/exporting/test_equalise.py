"""Weights of int8 files, with one scale per layer or one per channel: the network stays the same, and loses far less by rounding, in both frameworks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")
safetensors = pytest.importorskip("safetensors.numpy", reason="needs keylite[pytorch]")

import keylite
from keylite.data.arrays import from_arrays
from keylite.exporting import equalise
from keylite.exporting import export as exports
from keylite.exporting.form import Form
from keylite.runtime.engines import open_engine
from keylite.runtime.heads import Head, Heatmap, Regression, Rle, Simcc
from keylite.runtime.lite import LITE
from keylite.runtime.modelfile import read_spec, write_safetensors
from tests.conftest import FOUR, four_point_spec, write_random_model

HEADS = {  # head, (width, height) of the input, stages
    "heatmap": (Heatmap(4, (5, 4), 8), (40, 28), 5),
    "heatmap of one level": (Heatmap(4, (4, 6), 8), (32, 48), 3),
    "simcc": (Simcc(4, (4, 4), (32, 32), 8), (32, 32), 7),
    "regression": (Regression(4, 8), (32, 32), 7),
    "rle, cut": (Rle(4, 8), (32, 32), 3),
}
FINE = 2**24  # rounding to so many steps changes nothing


def uneven(tensors: dict[str, np.ndarray], layers: list[equalise.Layer]) -> dict[str, np.ndarray]:
    """Tensors of a network whose depthwise channels have unlike ranges, as those of trained ones."""
    rng = np.random.default_rng(4)
    for layer, reader in itertools.pairwise(layers):
        if layer.relu6 and reader.source == layer.name and tensors[f"{layer.name}.weight"].shape[1] == 1:
            gain = np.exp(-abs(rng.normal(0, 1.5, len(tensors[f"{layer.norm}.weight"])))).astype(np.float32)
            tensors[f"{layer.norm}.weight"] *= gain
            tensors[f"{layer.norm}.bias"] *= gain
            tensors[f"{reader.name}.weight"] /= gain[:, None, None]
    return tensors


@pytest.fixture(scope="module")
def parent(once: Callable) -> Callable[[str], Path]:
    """A function: a key of HEADS -> a model file of `tiny` with uneven channels."""

    def make(name: str) -> Path:
        head, size, stages = HEADS[name]
        spec = four_point_spec(backbone="tiny", size=size, stages=stages, head=head, box="image", padding=0.0)

        def write(path: Path) -> None:
            write_random_model(path, spec)
            write_safetensors(
                path, safetensors.save(uneven(safetensors.load_file(path), equalise.convolutions_of(spec))), spec
            )

        return once(f"uneven_{name.replace(' ', '_')}.safetensors", write)

    return make


def pixels_of(head: str, count: int = 24, seed: int = 1) -> np.ndarray:
    width, height = HEADS[head][1]
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def points(path: Path, pixels: np.ndarray, engine: str | None = None) -> np.ndarray:
    """Points in px of the input."""
    opened = open_engine(path, engine)
    return opened.spec.head.decode(opened.engine(pixels))[0] * opened.spec.size


def changed(path: Path, out: Path, pixels: np.ndarray, largest: int) -> Path:
    """The model file with weights for one scale per layer."""
    spec = read_spec(path)
    one_scale = msgspec.structs.replace(spec, weight_scales="per-tensor")
    tensors = equalise.ready_for_int8(safetensors.load_file(path), one_scale, pixels, largest)
    write_safetensors(out, safetensors.save(tensors), spec)
    return out


@pytest.mark.parametrize("head", HEADS)
def test_points_stay_on_the_calibration_images_in_both_frameworks(head: str, parent, tmp_path: Path):
    path, pixels = parent(head), pixels_of(head)
    wanted = points(path, pixels, "pytorch")
    assert wanted.std(axis=0).max() > 0.05
    equal = changed(path, tmp_path / "equal.safetensors", pixels, FINE)
    before, after = (safetensors.load_file(file)["blocks.1.0.conv_pw.weight"] for file in (path, equal))
    assert np.abs(after / before).std() > 0.1, "weights have changed"
    np.testing.assert_allclose(points(equal, pixels, "pytorch"), wanted, atol=1e-3)
    pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")
    np.testing.assert_allclose(points(equal, pixels, "tensorflow"), wanted, atol=1e-3)


def rounded(kernel: np.ndarray) -> np.ndarray:
    """A kernel with each weight rounded by itself, as an int8 file with one scale for all of it holds it."""
    step = np.abs(kernel).max() / 127
    return kernel if step == 0 else np.rint(kernel / step) * step


def spread(kernel: np.ndarray) -> float:
    """How much smaller the median channel of a kernel is than the largest."""
    sizes = np.abs(kernel).max((1, 2, 3))
    return float(sizes.max() / np.median(sizes))


@pytest.mark.parametrize("head", ["heatmap", "regression"])
def test_channels_get_similar_ranges_and_rounding_costs_less(head: str, parent):
    path, pixels = parent(head), pixels_of(head)
    spec, tensors = read_spec(path), safetensors.load_file(path)
    layers = equalise.convolutions_of(spec)
    images = (pixels.astype(np.float64) - 127) / 128
    weights = equalise.folded(layers, tensors)
    equal = equalise.equalised(layers, weights, images)
    depthwise = [layer.name for layer in layers if layer.name.endswith("conv_dw")]
    before, after = (np.mean([spread(given[name][0]) for name in depthwise]) for given in (weights, equal))
    assert after < 0.75 * before

    def output(given: equalise.Weights) -> np.ndarray:
        return equalise.run(layers, given, images, lambda *_: None)

    def coarse(given: equalise.Weights) -> equalise.Weights:
        return {name: (rounded(kernel), bias) for name, (kernel, bias) in given.items()}

    exact = output(weights)
    np.testing.assert_allclose(output(equal), exact, atol=1e-9 * np.abs(exact).max())
    corrected = equalise.corrected(layers, equal, images, 127, per_channel=False)
    errors = [np.sqrt(np.square(output(coarse(given)) - exact).mean()) for given in (weights, equal, corrected)]
    assert errors[1] < 0.75 * errors[0] and errors[2] < 0.9 * errors[1]
    for kernel, _ in corrected.values():
        np.testing.assert_allclose(rounded(kernel), kernel, atol=1e-9 * np.abs(kernel).max(), err_msg="on the grid")
    means: list[dict[str, np.ndarray]] = [{}, {}]
    for given, kept in zip((weights, coarse(corrected)), means, strict=True):
        equalise.run(
            layers, given, images, lambda layer, out, kept=kept: kept.update({layer.name: out.mean((0, 1, 2))})
        )
    last = layers[-1].name
    np.testing.assert_allclose(means[0][last], means[1][last], atol=1e-4 * np.abs(exact).max())


@pytest.mark.parametrize("largest", [64, 127])
def test_weights_of_usual_int8_files_are_rounded_with_regard_to_each_other(largest: int, parent):
    """One scale per channel: what the network gives changes less than if each weight is rounded by itself."""
    path, pixels = parent("heatmap"), pixels_of("heatmap", count=40)
    spec, tensors = read_spec(path), safetensors.load_file(path)
    layers = equalise.convolutions_of(spec)
    per_channel = msgspec.structs.replace(spec, weight_scales="per-channel")
    ready = equalise.folded(layers, equalise.ready_for_int8(tensors, per_channel, pixels, largest))
    weights = equalise.folded(layers, tensors)
    steps = {name: np.abs(kernel).max((1, 2, 3), keepdims=True) / largest for name, (kernel, _) in weights.items()}
    for name, (kernel, _) in ready.items():
        count = kernel / np.maximum(steps[name], np.finfo(float).tiny)
        np.testing.assert_allclose(count, np.rint(count), atol=1e-3, err_msg=f"{name}: on the grid of each channel")
    alone = {
        name: (np.rint(kernel / np.maximum(steps[name], np.finfo(float).tiny)) * steps[name], bias)
        for name, (kernel, bias) in weights.items()
    }
    images = (pixels[-8:].astype(np.float64) - 127) / 128
    exact, together, by_itself = (
        equalise.run(layers, given, images, lambda *_: None) for given in (weights, ready, alone)
    )
    errors = [np.sqrt(np.square(output - exact).mean()) for output in (together, by_itself)]
    assert errors[0] < 0.9 * errors[1]


def test_a_channel_that_reaches_6_keeps_its_scale(parent):
    """A scale would move the place where ReLU6 clips it."""
    path = parent("heatmap")
    layers = equalise.convolutions_of(read_spec(path))
    weights = equalise.folded(layers, safetensors.load_file(path))
    images = (pixels_of("heatmap").astype(np.float64) - 127) / 128
    name, high = "blocks.1.0.conv_pw", {}
    weights[name][1][0] = 20.0
    equalise.run(layers, weights, images, lambda layer, output: high.update({layer.name: output.max((0, 1, 2))}))
    equal = equalise.equalised(layers, weights, images)
    group = equalise.groups(layers)
    factors = {layer: equal[layer][1] / weights[layer][1] for layer in equal}
    assert factors[name][0] == 1
    assert (factors[name][high[name] > 6] == 1).all()
    for layer in layers:
        if layer.relu6:
            scaled = factors[layer.name] != 1
            assert (factors[layer.name] * high[layer.name])[scaled].max(initial=0) <= 6
        if layer.plus:
            assert group[layer.name] == group[layer.plus]
            np.testing.assert_allclose(factors[layer.name], factors[layer.plus], rtol=1e-9)
    assert (factors["head.maps"] == 1).all()


# ---- files


@pytest.mark.parametrize(("to", "suffix"), [("onnx", ".onnx"), ("litert", ".tflite")])
def test_a_file_has_one_scale_per_layer_and_says_so(to: str, suffix: str, parent, tmp_path: Path, monkeypatch, capsys):
    framework = {"onnx": "pytorch", "litert": "tensorflow"}[to]
    for package in {"onnx": ("onnx", "onnxscript"), "litert": ("tensorflow", "ai_edge_litert")}[to]:
        pytest.importorskip(package, reason="needs what makes this format")
    monkeypatch.setattr(exports, "_reference", lambda *_: None)
    head, images = "heatmap of one level", pixels_of("heatmap of one level")
    xy = np.random.default_rng(0).uniform(4, 28, (len(images), 4, 2))
    data = from_arrays(list(images), xy, skeleton=FOUR)
    path = tmp_path / f"one{suffix}"
    choices = {"precision": "int8", "calibration": data, "budget": 32.0}
    keylite.export(parent(head), data, path, weight_scales="per-tensor", **choices)
    assert read_spec(path).weight_scales == "per-tensor"
    assert set(scales_of(path)) == {1}
    if to == "onnx":
        assert {int(np.abs(steps).max()) for steps in steps_of(path)} <= {127, 128}, "all 8 bits are used"
    wanted = points(parent(head), images, "pytorch")
    moved = np.linalg.norm(points(path, images) - wanted, axis=2).mean()
    usual = tmp_path / f"many{suffix}"
    keylite.export(parent(head), data, usual, **choices)
    assert read_spec(usual).weight_scales == "per-channel"
    assert max(scales_of(usual)) > 1
    with monkeypatch.context() as patch:  # the weights as they are
        patch.setattr(f"keylite.{framework}.exporting.ready_for_int8", lambda tensors, *_: tensors)
        keylite.export(parent(head), data, tmp_path / f"rounded{suffix}", weight_scales="per-tensor", **choices)
    rounded = np.linalg.norm(points(tmp_path / f"rounded{suffix}", images) - wanted, axis=2).mean()
    assert moved < 0.5 * rounded, f"{moved:.3f} px with weights made ready, {rounded:.3f} px without"
    from keylite.cli import main

    with pytest.raises(SystemExit):
        main(["info", str(path)])
    assert "scales of weights" in (said := capsys.readouterr().out) and "per-tensor" in said


def steps_of(path: Path) -> list[np.ndarray]:
    """The weights of each convolution of an int8 ONNX file, in steps of their scale."""
    import onnx

    graph = onnx.load(path).graph
    value = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = [made[node.input[1]].input for node in graph.node if node.op_type == "Conv"]
    return [value[steps].astype(int) - value[zero].astype(int) for steps, _, zero in weights]


def scales_of(path: Path) -> list[int]:
    """The number of scales of the weights of each convolution in an int8 file."""
    if path.suffix == ".onnx":
        import onnx

        graph = onnx.load(path).graph
        sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
        made = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
        return [sizes[made[node.input[1]].input[1]] for node in graph.node if node.op_type == "Conv"]
    from keylite.runtime.graph import graph_of
    from keylite.runtime.modelfile import tflite_model

    part = graph_of(tflite_model(path)).subgraphs[0]
    weights = [part.tensors[operator.inputs[1]] for operator in part.operators if len(operator.inputs) == 3]
    return [len(tensor.quantization.scale) for tensor in weights]


WRONG = {
    "a float file": (("litert", "fp16", "per-tensor"), "for fp16 expected per-channel, got 'per-tensor': only"),
    "no such scales": (("onnx", "int8", "per-row"), "expected per-channel or per-tensor, got 'per-row'"),
    "no text": (("onnx", "int8", 8), "expected a text, got a number"),
}


@pytest.mark.parametrize(("choices", "words"), WRONG.values(), ids=WRONG)
def test_other_scales_are_refused_in_one_line(choices: tuple, words: str):
    to, precision, scales = choices
    with pytest.raises(ValueError, match=r"^weight_scales: ") as refusal:
        Form(to, precision, weight_scales=scales)
    assert words in str(refusal.value)


def test_a_backbone_whose_channels_keylite_cannot_scale_is_refused():
    spec = four_point_spec(backbone="timm:mobilenetv3_small_050")
    words = rf"^weight_scales: per-tensor is for the backbones {', '.join(LITE)}, got timm:mobilenetv3_small_050"
    form = Form("onnx", "int8", weight_scales="per-tensor")
    with pytest.raises(ValueError, match=words):
        exports.require_exportable(Path("a.safetensors"), spec, form, True)


def test_every_head_has_its_layers():
    assert {type(head) for head, _, _ in HEADS.values()} == set(Head.__args__)
