"""One Keras network, one checkpoint: timm's names, strict in and out, frozen when asked, no PyTorch anywhere."""

from __future__ import annotations

import itertools
import json
import logging
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")

import keras
from safetensors.numpy import load_file, save, save_file

import keylite.tensorflow
from keylite.runtime.engines import open_engine
from keylite.runtime.heads import HEADS, Heatmap, Regression, Rle, Simcc
from keylite.runtime.lite import LITE, PIXEL_MEAN, PIXEL_STD, TOP_CHANNELS
from keylite.runtime.modelfile import read_spec, write_safetensors
from keylite.tensorflow.backbones import create_backbone, normalisation
from keylite.tensorflow.model import (
    EfficientNetLiteRegressor,
    as_engine,
    assign,
    doubled,
    load_backbone,
    load_model,
    save_model,
    tensors,
    use_threads,
)
from keylite.training.teaching import SCALE_START

Network = EfficientNetLiteRegressor


@pytest.fixture(scope="module", autouse=True)
def quick_graphs():
    """Without TensorFlow's rewriting of graphs, which takes seconds each."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def shaken(network: Network, seed: int = 0) -> Network:
    """With every tensor moved off its start, so that nothing is equal by chance."""
    generator = np.random.default_rng(seed)
    moved = {
        name: (t + generator.uniform(0.01, 0.1, t.shape) * (1 + np.abs(t))).astype(np.float32)
        for name, t in tensors(network).items()
    }
    assign(network, moved)
    return network


@pytest.fixture(scope="module")
def network() -> Network:
    """The network of the README: 10 points, 256 wide."""
    return EfficientNetLiteRegressor(10)


@pytest.fixture(scope="module")
def regression_file(make_spec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of four points, made here."""
    spec, path = make_spec(), tmp_path_factory.mktemp("keras") / "four.safetensors"
    save_model(shaken(EfficientNetLiteRegressor(4, head=spec.head)), spec, path)
    return path


@pytest.fixture(scope="module")
def maps_file(make_spec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a heatmap."""
    spec, path = make_spec(head=Heatmap(4, (8, 8), 16)), tmp_path_factory.mktemp("keras") / "maps.safetensors"
    save_model(shaken(EfficientNetLiteRegressor(4, head=spec.head)), spec, path)
    return path


@pytest.fixture(scope="module")
def imagenet(regression_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as timm's on the hub: a classifier and counters of batches included, no head."""
    weights = {name: -t for name, t in load_file(regression_file).items() if not name.startswith("head.")}
    weights |= {"classifier.weight": np.ones((1000, TOP_CHANNELS), np.float32), "classifier.bias": np.ones(1000)}
    weights |= {
        name.replace("running_mean", "num_batches_tracked"): np.array(3)
        for name in list(weights)
        if name.endswith("running_mean")
    }
    path = tmp_path_factory.mktemp("imagenet") / "timm.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    return path


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], head: bool | None = None) -> bool:
    """Whether all tensors of `a` are those of `b`; head: of the head alone, or of the backbone alone."""
    names = [name for name in a if head is None or name.startswith("head.") == head]
    assert names
    return all(np.array_equal(a[name], b[name]) for name in names)


# ---- backbones

STATISTICS = {"lite0": 42_016, "lite1": 53_664, "lite2": 58_096, "lite3": 76_672, "lite4": 112_368}  # counted on timm's


@pytest.mark.parametrize("name", LITE)
def test_parameters_and_statistics_are_those_of_the_table(name: str):
    backbone = create_backbone(name)
    count = lambda variables: sum(int(np.prod(v.shape)) for v in variables)  # noqa: E731
    assert count(backbone.trainable_variables) == LITE[name].parameters
    assert count(backbone.non_trainable_variables) == STATISTICS[name]
    kinds = [type(layer) for layer in backbone.layers]
    assert kinds.count(keras.layers.DepthwiseConv2D) == sum(LITE[name].repeats)


def test_normalisation_layers_are_timms(network: Network):
    norms = [layer for layer in network.backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.epsilon, layer.momentum) for layer in norms} == {(1e-3, 0.9)}
    assert len(norms) == 49


FEATURES = {  # size: features
    "oblong": ((96, 64), (2, 3)),
    "not divisible": ((97, 65), (3, 4)),
    "tiny": ((1, 3), (1, 1)),
}


@pytest.mark.parametrize(("size", "shape"), FEATURES.values(), ids=FEATURES)
def test_features_are_1280_channels_of_a_32nd_of_the_side(
    size: tuple[int, int], shape: tuple[int, int], network: Network
):
    assert network.backbone.compute_output_shape((2, size[1], size[0], 3)) == (2, *shape, TOP_CHANNELS)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (33, 47)], ids=["one pixel", "three", "odd"])
def test_tiny_and_odd_inputs_give_points(size: tuple[int, int], network: Network):
    raw = network(tf.random.normal((2, size[1], size[0], 3))).numpy()
    assert raw.shape == (2, 10, 2)
    assert np.isfinite(raw).all()


PYRAMIDS = {
    "oblong": ("lite0", (96, 64), [(8, 12, 40), (4, 6, 112), (2, 3, 320)]),
    "not divisible": ("lite0", (100, 68), [(9, 13, 40), (5, 7, 112), (3, 4, 320)]),
    "larger backbone": ("lite2", (64, 64), [(8, 8, 48), (4, 4, 120), (2, 2, 352)]),
}


@pytest.fixture(scope="module")
def pyramids() -> dict[str, keras.Model]:
    return {name: create_backbone(name, pyramid=True) for name in ("lite0", "lite2")}


@pytest.mark.parametrize(("name", "size", "shapes"), PYRAMIDS.values(), ids=PYRAMIDS)
def test_a_pyramid_is_features_at_8_16_and_32_px(name: str, size: tuple[int, int], shapes: list, pyramids):
    assert pyramids[name].compute_output_shape((2, size[1], size[0], 3)) == [(2, *shape) for shape in shapes]


def test_features_of_a_pyramid_are_the_backbones_own(network: Network, pyramids):
    """The last level through the top of a plain backbone is what that backbone gives, with the same weights."""
    pyramid, images = pyramids["lite0"], tf.random.normal((1, 68, 100, 3))
    for layer in pyramid.layers:
        layer.set_weights(network.backbone.get_layer(layer.name).get_weights())
    levels = pyramid(images)
    inside = [
        network.backbone.get_layer(name).output for name in ("blocks.2.1.add", "blocks.4.2.add", "blocks.6.0.bn3")
    ]
    expected = keras.Model(network.backbone.inputs, inside)(images)
    assert all(np.array_equal(a, b) for a, b in zip(levels, expected, strict=True))


CUTS = {  # stages: rows, columns and channels of the levels for an input of 96x64 px
    6: [(8, 12, 40), (4, 6, 112), (2, 3, 192)],
    5: [(8, 12, 40), (4, 6, 112)],
    4: [(8, 12, 40), (4, 6, 80)],
    3: [(8, 12, 40)],
}


@pytest.mark.parametrize("stages", CUTS)
def test_a_cut_backbone_ends_where_the_whole_one_goes_on(stages: int):
    levels = create_backbone("lite0", pyramid=True, stages=stages)
    assert levels.compute_output_shape((2, 64, 96, 3)) == [(2, *shape) for shape in CUTS[stages]]
    plain = create_backbone("lite0", stages=stages)
    assert plain.compute_output_shape((2, 64, 96, 3)) == (2, *CUTS[stages][-1])
    assert not [layer.name for layer in plain.layers if layer.name.startswith(("conv_head", f"blocks.{stages}."))]


def test_stages_that_a_head_does_not_have_are_refused():
    with pytest.raises(ValueError, match="^stages: expected 3 to 7 for this head, got 2$"):
        EfficientNetLiteRegressor(4, head=Heatmap(4, (8, 8)), stages=2)
    with pytest.raises(ValueError, match="^stages: expected 2 to 7 for this head, got 1$"):
        EfficientNetLiteRegressor(4, stages=1)


@pytest.mark.parametrize("size", [(2, 3), (5, 4)])
def test_a_doubled_map_is_that_of_upsampling(size: tuple[int, int]):
    """To the last bit, by concatenation and reshaping in place of a tensor of five dimensions."""
    maps = keras.Input((*size, 7))
    network = keras.Model(maps, doubled(maps, "larger"))
    values = np.random.default_rng(0).normal(size=(2, *size, 7)).astype(np.float32)
    wanted = keras.layers.UpSampling2D(2)(values)
    assert np.array_equal(network(values), wanted)


REFUSED = {
    "unknown": ("lite9", "backbone: expected one of lite0, lite1, lite2, lite3, lite4, tiny, got 'lite9'"),
    "another's": ("resnet18", "backbone: expected one of .*, got 'resnet18'"),
    "of timm": ("timm:resnet18", "got 'timm:resnet18'; timm:NAME needs `framework='pytorch'`"),
}


@pytest.mark.parametrize(("name", "message"), REFUSED.values(), ids=REFUSED)
def test_other_backbones_are_refused(name: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        EfficientNetLiteRegressor(3, name)
    assert "\n" not in str(caught.value)


def test_normalisation_is_the_weights():
    assert normalisation("lite0") == (PIXEL_MEAN, PIXEL_STD) == ((127.0,) * 3, (128.0,) * 3)


# ---- heads


def test_the_summary_shows_the_three_layers_of_the_head(network: Network):
    assert network(tf.random.normal((1, 224, 224, 3))).shape == (1, 10, 2)
    lines: list[str] = []
    network.summary(print_fn=lines.append, line_length=120)
    rows = re.findall(r"(GlobalAveragePooling2D|Dense)\) *│ \(None, (\d+)\)", "\n".join(lines))
    assert rows == [("GlobalAveragePooling2D", str(TOP_CHANNELS)), ("Dense", "256"), ("Dense", "20")]


def test_the_head_pools_over_all_places(network: Network):
    """The mean over places, a dense layer with ReLU, a dense layer, in numpy."""
    features = np.random.default_rng(0).normal(size=(2, 3, 2, TOP_CHANNELS)).astype(np.float32)
    w = {name.removeprefix("head."): t for name, t in tensors(network).items() if name.startswith("head.")}
    hidden = np.maximum(features.mean(axis=(1, 2)) @ w["hidden.weight"].T + w["hidden.bias"], 0)
    expected = (hidden @ w["points.weight"].T + w["points.bias"]).reshape(2, 10, 2)
    found = features
    for name in ("pool", "head.hidden", "head.points", "raw"):
        found = network.get_layer(name)(found)
    assert np.abs(found.numpy() - expected).max() < 1e-5
    assert np.abs(expected - 0.5).max() > 1e-4


@pytest.mark.parametrize("head", [Regression(5, 16), Rle(5, 16)], ids=["regression", "rle"])
def test_an_untrained_network_gives_the_mean_shape_nearly(head: Regression | Rle):
    shape = np.random.default_rng(0).uniform(0, 1, (5, 2)).astype(np.float32)
    network = EfficientNetLiteRegressor(5, head=head, size=(64, 96), mean_shape=shape)
    raw = network(tf.random.normal((4, 96, 64, 3)), training=True).numpy()  # statistics of the batch
    assert raw.shape == (4, 5, head.channels)
    start = np.concatenate([shape, np.full((5, 2), SCALE_START)], axis=1)[:, : head.channels]
    assert np.abs(raw - start).max() < 0.02
    assert (np.abs(raw - start).max(axis=(0, 1)) > 0).all(), "features have a say from the start"


def test_without_a_mean_shape_points_start_in_the_middle(network: Network):
    assert (network.get_layer("head.points").bias.numpy() == 0.5).all()


def test_a_head_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="head: expected 4 keypoints, got 3"):
        EfficientNetLiteRegressor(4, head=Regression(3))


OTHER_SIZES = {  # head: what is said of it for an input of 96x64 px
    "cells": (Heatmap(4, (8, 8)), "grid of 12x8 .* 96x64 px, got 8x8"),
    "columns and rows changed round": (Heatmap(4, (8, 12)), "grid of 12x8 .*, got 8x12"),
    "bins": (Simcc(4, (12, 8), (64, 64)), "bins of 96x64 .*, got 64x64"),
    "cells of bins": (Simcc(4, (8, 8), (96, 64)), "grid of 12x8 .*, got 8x8"),
}


@pytest.mark.parametrize(("head", "message"), OTHER_SIZES.values(), ids=OTHER_SIZES)
def test_a_head_of_another_size_is_refused(head: Heatmap | Simcc, message: str):
    with pytest.raises(ValueError, match=f"^head: expected {message}"):
        EfficientNetLiteRegressor(4, head=head, size=(96, 64))


def test_without_a_size_a_pyramid_is_for_that_of_its_head():
    for head, shape in ((Heatmap(2, (12, 8), 8), (64, 96, 3)), (Simcc(2, (13, 9), (100, 68), 8), (68, 100, 3))):
        network = EfficientNetLiteRegressor(2, head=head)
        assert network.input_shape == (None, *shape)
        assert network.output_shape == (None, 2, head.channels)


@pytest.mark.parametrize("name", ["heatmap", "simcc"])
@pytest.mark.parametrize("size", [(64, 64), (100, 68)], ids=["square", "oblong and not divisible"])
def test_an_untrained_pyramid_is_around_the_middle_and_comes_back(
    size: tuple[int, int], name: str, make_spec, tmp_path: Path
):
    spec = make_spec(head=HEADS[name](4, 0, size), size=size)
    network = EfficientNetLiteRegressor(4, head=spec.head, size=size)
    images = tf.random.normal((2, size[1], size[0], 3))
    raw = network(images, training=True).numpy()
    assert raw.shape == (2, 4, spec.head.channels)
    assert np.abs(spec.head.decode(raw)[0] - 0.5).max() < 0.15
    save_model(network, spec, tmp_path / "s.safetensors")
    again, found = load_model(tmp_path / "s.safetensors")
    assert found == spec
    assert np.array_equal(again(images), network(images))


def test_bins_are_a_dense_layer_over_each_keypoint_s_cells():
    head = HEADS["simcc"](3, 16, (96, 64))
    network = EfficientNetLiteRegressor(3, head=head)
    graph = keras.Model(network.input, [network.get_layer("head.maps").output, network.output])
    maps, found = (part.numpy() for part in graph(tf.random.normal((2, 64, 96, 3)), training=False))
    weight, bias = (tensors(network)[f"head.bins.{name}"] for name in ("weight", "bias"))
    assert (maps.shape, weight.shape, bias.shape, found.shape) == ((2, 8, 12, 3), (160, 96), (160,), (2, 3, 160))
    by_keypoint = maps.reshape(2, 96, 3).transpose(0, 2, 1)
    assert np.abs(by_keypoint @ weight.T + bias - found).max() < 1e-5


# ---- engines


@pytest.fixture(scope="module")
def engine(network: Network):
    return as_engine(network, PIXEL_MEAN, PIXEL_STD)


def test_pixels_are_normalised_by_the_spec(network: Network, engine):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    expected = network((pixels.astype(np.float32) - 127) / 128).numpy()
    assert np.abs(engine(pixels) - expected).max() < 1e-5


def test_an_engine_in_memory_follows_the_weights_and_leaves_the_statistics(network: Network, engine):
    pixels, before, bias = np.zeros((2, 64, 64, 3), np.uint8), tensors(network), network.get_layer("head.points").bias
    raw = engine(pixels)
    assert same(before, tensors(network))
    bias.assign_add(np.ones(20))
    try:
        assert np.abs(engine(pixels) - raw - 1).max() < 1e-5
    finally:
        bias.assign(before["head.points.bias"])


REFUSALS = {
    "no threads": ({"threads": 0}, "threads: expected 1 to 4096, got 0"),
    "an unknown device": ({"device": "tpu"}, "device: expected auto, cpu or cuda, got 'tpu'"),
}


@pytest.mark.parametrize(("options", "message"), REFUSALS.values(), ids=REFUSALS)
def test_threads_and_devices_that_are_not_there_are_refused(options: dict, message: str, regression_file: Path):
    with pytest.raises(ValueError, match=message):
        open_engine(regression_file, "tensorflow", **options)


def test_a_gpu_that_is_not_there_is_refused(regression_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(ValueError, match="device: cuda asked for, but TensorFlow sees no CUDA GPU; use `device='cpu'`"):
        open_engine(regression_file, "tensorflow", device="cuda")


def test_threads_that_come_too_late_are_said(network: Network, caplog: pytest.LogCaptureFixture):
    network(tf.zeros((1, 1, 1, 3)))  # TensorFlow runs now
    with caplog.at_level(logging.WARNING, "keylite"):
        use_threads(0)
        use_threads(tf.config.threading.get_intra_op_parallelism_threads())
        assert not caplog.records
        use_threads(7)
    assert [record.getMessage() for record in caplog.records] == [
        "threads: TensorFlow is running already and keeps the number of threads that it started with"
    ]


# ---- checkpoints


@pytest.mark.parametrize("file", ["regression_file", "maps_file"])
def test_saved_and_loaded_is_byte_identical(file: str, request: pytest.FixtureRequest, tmp_path: Path):
    path = request.getfixturevalue(file)
    network, spec = load_model(path)
    assert spec == read_spec(path)
    save_model(network, spec, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_keys_are_timms_and_the_heads(regression_file: Path, maps_file: Path):
    plain, maps = load_file(regression_file), load_file(maps_file)
    assert len(plain) == 245 + 4
    assert plain["conv_stem.weight"].shape == (32, 3, 3, 3)
    assert plain["blocks.1.0.conv_dw.weight"].shape == (96, 1, 3, 3)
    assert plain["blocks.0.0.conv_pw.weight"].shape == (16, 32, 1, 1), "without expansion there is no conv_pwl"
    assert plain["blocks.6.0.conv_pwl.weight"].shape == (320, 1152, 1, 1)
    assert plain["bn2.running_var"].shape == (TOP_CHANNELS,)
    assert plain["head.hidden.weight"].shape == (32, TOP_CHANNELS)
    head = {name for name in maps if name.startswith("head.")}
    top = {"conv_head.weight", *(f"bn2.{part}" for part in ("weight", "bias", "running_mean", "running_var"))}
    assert maps.keys() - head == {name for name in plain if not name.startswith("head.")} - top
    assert {tuple(name.split(".")[1:-1]) for name in head} == {
        ("maps",),
        *itertools.product(["lateral"], "012", "01"),
        *itertools.product(["smooth"], "01", "1234"),
    }


def drop(*names: str):
    return lambda loaded: {name: t for name, t in loaded.items() if name not in names}


WRONG = {
    "missing": (drop("conv_stem.weight"), "missing conv_stem.weight"),
    "extra": (lambda loaded: loaded | {"head.out.bias": np.zeros(3)}, "unexpected head.out.bias"),
    "another shape": (
        lambda loaded: loaded | {"head.points.weight": loaded["head.points.weight"].T.copy()},
        "head.points.weight is (32, 8), expected (8, 32)",
    ),
    "Keras' layout": (
        lambda loaded: loaded | {"conv_stem.weight": loaded["conv_stem.weight"].transpose(2, 3, 1, 0).copy()},
        "conv_stem.weight is (3, 3, 3, 32), expected (32, 3, 3, 3)",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_tensors_that_do_not_fit_are_named(change, message: str, regression_file: Path, tmp_path: Path):
    path = tmp_path / "wrong.safetensors"
    write_safetensors(path, save(change(load_file(regression_file))), read_spec(regression_file))
    with pytest.raises(
        ValueError, match=re.escape(f"{path}: weights do not fit this network: ") + ".*" + re.escape(message)
    ):
        load_model(path)


OTHERS = {  # change of the description: the first line about it
    "another backbone": ({"backbone": "lite1"}, r"missing blocks\.1\.2\..*more"),
    "another head": ({"head": Heatmap(4, (8, 8), 16)}, r"missing head\.lateral.*more"),
    "another width": ({"head": Regression(4, hidden=16)}, r"head\.hidden\.bias is \(32,\), expected \(16,\)"),
    "scales": ({"head": Rle(4, hidden=32)}, r"head\.points\.bias is \(8,\), expected \(16,\)"),
    "bins": ({"head": Simcc(4, (8, 8), (64, 64), 16)}, r"missing head\.bins\.bias; missing head\.bins\.weight; .*more"),
}


@pytest.mark.parametrize(("change", "message"), OTHERS.values(), ids=OTHERS)
def test_a_description_of_another_network_is_refused(
    change: dict, message: str, make_spec, regression_file: Path, tmp_path: Path
):
    path = tmp_path / "other.safetensors"
    write_safetensors(path, save(load_file(regression_file)), make_spec(**change))
    with pytest.raises(ValueError, match=f"weights do not fit this network: {message}"):
        load_model(path)


OF_MAPS = {  # head in the description of a heatmap: the first line about it
    "bins": (Simcc(4, (8, 8), (64, 64), 16), r"missing head\.bins\.bias; missing head\.bins\.weight$"),
    "another width": (Heatmap(4, (8, 8), 8), r"head\.lateral\.0\.0\.weight is .*more"),
}


@pytest.mark.parametrize(("head", "message"), OF_MAPS.values(), ids=OF_MAPS)
def test_a_description_of_another_pyramid_is_refused(
    head: Heatmap | Simcc, message: str, make_spec, maps_file: Path, tmp_path: Path
):
    path = tmp_path / "other.safetensors"
    write_safetensors(path, save(load_file(maps_file)), make_spec(head=head))
    with pytest.raises(ValueError, match=f"weights do not fit this network: {message}"):
        load_model(path)


def test_a_cut_file_is_refused(regression_file: Path, tmp_path: Path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(regression_file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="the file is damaged; copy it again"):
        load_model(path)


# ---- pretrained weights


def test_imagenet_weights_go_into_the_backbone_alone_and_freeze_it(imagenet: Path):
    network = EfficientNetLiteRegressor(4, hidden=8, pretrained=imagenet)
    assert same(tensors(network), load_file(imagenet), head=False)
    assert not network.backbone.trainable, "pretrained weights freeze unless told otherwise"
    before = tensors(shaken(network))
    assert load_backbone(network, imagenet) == "ImageNet weights of timm.safetensors: 245 tensors"
    assert same(tensors(network), load_file(imagenet), head=False)
    assert same(before, tensors(network), head=True)


def test_a_heatmap_leaves_out_the_top_of_imagenet_weights_and_nothing_else(imagenet: Path, tmp_path: Path):
    network = EfficientNetLiteRegressor(4, head=Heatmap(4, (8, 8), 8), size=(64, 64))
    before = tensors(network)
    for name in ("blocks.6.0.bn3.weight", "conv_stem.weight"):
        path = tmp_path / "less.safetensors"
        save_file(drop(name)(load_file(imagenet)), path)
        with pytest.raises(ValueError, match=re.escape(f"weights do not fit this network: missing {name}")):
            load_backbone(network, path)
    assert same(before, tensors(network)), "a refusal changes nothing"
    assert load_backbone(network, imagenet) == "ImageNet weights of timm.safetensors: 240 tensors"
    assert same(tensors(network), load_file(imagenet), head=False)
    assert same(before, tensors(network), head=True)


def test_freezing_is_as_asked_and_without_weights_not_at_all(imagenet: Path, network: Network):
    assert network.backbone.trainable
    assert EfficientNetLiteRegressor(4, hidden=8, pretrained=imagenet, freeze=False).backbone.trainable
    frozen = EfficientNetLiteRegressor(4, hidden=8, freeze=True)
    assert not frozen.backbone.trainable
    assert [v.path for v in frozen.trainable_variables] == [
        f"head.{layer}/{part}" for layer in ("hidden", "points") for part in ("kernel", "bias")
    ]


def test_a_model_file_gives_its_head_where_it_fits(regression_file: Path, maps_file: Path, network: Network):
    fitting = EfficientNetLiteRegressor(4, hidden=32)
    assert load_backbone(fitting, regression_file) == "model file four.safetensors: backbone and head"
    assert same(tensors(fitting), load_file(regression_file))
    before = tensors(network)
    try:
        said = load_backbone(network, regression_file)
        assert said == "model file four.safetensors: backbone alone, its head is another"
        assert same(tensors(network), load_file(regression_file), head=False)
        assert same(before, tensors(network), head=True)
    finally:
        assign(network, before)
    with pytest.raises(
        ValueError, match=r"expected a backbone with its last convolution, .* take head heatmap or simcc"
    ):
        load_backbone(fitting, maps_file)


def test_a_heatmap_starts_from_either_kind_of_model_file(regression_file: Path, maps_file: Path):
    network = EfficientNetLiteRegressor(4, head=Heatmap(4, (12, 8), 16), size=(96, 64))
    before = tensors(network)
    said = load_backbone(network, regression_file)
    assert said == "model file four.safetensors: backbone alone, its head is another"
    assert same(tensors(network), load_file(regression_file), head=False)
    assert same(before, tensors(network), head=True)
    assert load_backbone(network, maps_file) == "model file maps.safetensors: backbone and head", "of any input size"
    assert same(tensors(network), load_file(maps_file))


def test_weights_of_another_backbone_are_refused_and_change_nothing(imagenet: Path, regression_file: Path):
    network = EfficientNetLiteRegressor(4, "lite1", hidden=8)
    before = tensors(network)
    for path in (imagenet, regression_file):
        with pytest.raises(ValueError, match=r"weights do not fit this network: missing blocks\..*and \d+ more"):
            load_backbone(network, path)
    assert same(before, tensors(network))


def test_weights_that_are_not_there_are_not_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="pretrained: .*no such file"):
        EfficientNetLiteRegressor(4, pretrained=tmp_path / "none.safetensors")


# ---- as a model of Keras


# Keras 3.15 makes an array of TensorFlow 2.21's variables, which know NumPy 2's `copy` no better than that.
saving = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:keras.src.backend.tensorflow.core"
)


@saving
@pytest.mark.usefixtures("quick_graphs")
def test_a_frozen_backbone_does_not_move_in_fit_and_a_thawed_one_does_and_keras_saves_it(tmp_path: Path):
    network = EfficientNetLiteRegressor(4, hidden=8, freeze=True)
    generator = np.random.default_rng(0)
    images = generator.normal(3, 1, (4, 32, 32, 3)).astype(np.float32)
    truth = generator.uniform(0, 1, (4, 4, 2)).astype(np.float32)

    def moved() -> set[str]:
        """Tensors that two steps moved."""
        network.compile(keras.optimizers.SGD(1e-4), keylite.tensorflow.loss("huber", (32, 32)))
        before = tensors(network)
        network.fit(images, truth, batch_size=2, epochs=1, verbose=0)
        assert all(np.isfinite(t).all() for t in tensors(network).values())
        return {name for name, t in tensors(network).items() if not np.array_equal(t, before[name])}

    head = {name for name in tensors(network) if name.startswith("head.")}
    assert moved() == head
    network.freeze(False)
    statistics = {name for name in tensors(network) if "running" in name}
    assert moved() >= head | statistics | {"conv_stem.weight", "blocks.1.0.conv_dw.weight", "bn1.weight", "bn1.bias"}
    network.freeze()

    kept = tensors(network)
    network.save(tmp_path / "n.keras")
    again = keras.saving.load_model(tmp_path / "n.keras")
    assert type(again) is EfficientNetLiteRegressor
    assert same(kept, tensors(again))
    assert not again.backbone.trainable
    assert again.options == network.options
    assert again.loss.get_config() == network.loss.get_config()
    network.save_weights(tmp_path / "n.weights.h5")
    shaken(again).load_weights(tmp_path / "n.weights.h5")
    assert same(kept, tensors(again))


@saving
@pytest.mark.parametrize("name", [name for name in HEADS if name != "regression"])
def test_keras_saves_other_heads_too(name: str, tmp_path: Path):
    head = HEADS[name](4, 16, (96, 64))
    network = shaken(EfficientNetLiteRegressor(4, head=head, size=(96, 64)))
    network.save(tmp_path / "n.keras")
    again = keras.saving.load_model(tmp_path / "n.keras")
    assert same(tensors(network), tensors(again))
    assert again.options["head"] == head
    assert again.options["size"] == (96, 64)


# ---- what is installed, and what Keras runs on

TORCH = ("torch", "torchvision", "timm", "lightning")


def test_without_torch_it_loads_predicts_and_saves(regression_file: Path, tmp_path: Path, python):
    again = tmp_path / "again.safetensors"
    code = f"""
import json
import numpy as np
import keylite
from keylite.tensorflow import EfficientNetLiteRegressor, load_model, save_model
save_model(*load_model({str(regression_file)!r}), {str(again)!r})
image = np.random.default_rng(2).integers(0, 256, (90, 120, 3), np.uint8)
predictor = keylite.Predictor({str(again)!r})
print(json.dumps([predictor.engine_name, predictor(image, [[10, 5, 80, 75]]).xy.tolist()]))
"""
    name, xy = json.loads(python(code, missing=TORCH).splitlines()[-1])
    assert name == "tensorflow"
    assert np.isfinite(xy).all()
    assert again.read_bytes() == regression_file.read_bytes()


def test_another_backend_of_keras_is_one_clear_line(python):
    code = """
try:
    import keylite.tensorflow
except ValueError as error:
    print(error)
print([name for name in ("keras", "tensorflow") if name in sys.modules])
"""
    line = "KERAS_BACKEND: expected tensorflow, got 'jax'; unset it to use keylite.tensorflow"
    assert python(code, KERAS_BACKEND="jax").splitlines() == [line, "[]"]


LINES = {  # environment and missing modules: what the command line says
    "another backend": (
        {"KERAS_BACKEND": "jax"},
        (),
        "KERAS_BACKEND: expected tensorflow, got 'jax'; unset it to use keylite.tensorflow",
    ),
    "no framework": (
        {},
        ("tensorflow", "torch"),
        "tensorflow is not installed: install it with: pip install 'keylite[tensorflow-cpu]'",
    ),
}


@pytest.mark.parametrize(("environment", "missing", "line"), LINES.values(), ids=LINES)
def test_the_command_line_says_it_and_writes_nothing(
    environment: dict, missing: tuple, line: str, regression_file: Path, tmp_path: Path, monkeypatch, python
):
    cv2.imwrite(str(tmp_path / "i.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "d.csv").write_text("image,a_x,a_y,b_x,b_y\ni.png,10,20,30,40\n")
    code = f"""
import contextlib, io
from keylite.cli import main
train = "train --framework tensorflow --pretrained none --data d.csv --val d.csv --out run"
evaluate = "evaluate {regression_file} --data d.csv --engine tensorflow --out report.json"
for arguments in (train, evaluate):
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            main(arguments.split())
    except SystemExit as end:
        print(end.code, said.getvalue(), end="")
"""
    monkeypatch.chdir(tmp_path)
    said = python(code, missing=missing, **environment)
    assert said.splitlines() == [f"2 keylite: {line}"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.csv", "i.png"]
