"""One network, one checkpoint: timm's names, strict in and out, frozen when asked."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")
timm = pytest.importorskip("timm", reason="needs keylite[pytorch]")

from safetensors.torch import load_file, save, save_file

import keylite
from keylite.pytorch.backbones import create_backbone, feature_shapes, normalisation, timm_network
from keylite.pytorch.model import (
    EfficientNetLiteRegressor,
    PixelModel,
    SimccHead,
    as_engine,
    load_backbone,
    load_model,
    save_model,
    tensors,
)
from keylite.runtime.heads import HEADS, Head, Heatmap, Regression, Rle, Simcc
from keylite.runtime.lite import LITE, PIXEL_MEAN, PIXEL_STD, STAGES, TOP_CHANNELS, pyramid_stages
from keylite.runtime.modelfile import read_spec, write_safetensors
from keylite.training.checkpoint import unused
from keylite.training.teaching import SCALE_START


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def network(model_file: Path) -> EfficientNetLiteRegressor:
    return load_model(model_file)[0]


def changed(path: Path, source: Path, change) -> Path:
    """The model file `source` after `change` of its tensors, under its own description."""
    loaded = load_file(source)
    write_safetensors(path, save(change(loaded) or loaded), read_spec(source))
    return path


# ---- backbones


@pytest.mark.parametrize("name", LITE)
def test_parameters_are_those_of_the_table(name: str):
    backbone = create_backbone(name)
    assert sum(p.numel() for p in backbone.parameters()) == LITE[name].parameters
    assert not [key for key in backbone.state_dict() if key.startswith("classifier")]
    assert sum(
        1 for m in backbone.modules() if isinstance(m, torch.nn.Conv2d) and m.groups == m.in_channels > 3
    ) == sum(LITE[name].repeats)


def test_features_are_1280_channels_of_a_32nd_of_the_side():
    assert feature_shapes(create_backbone("lite0"), (96, 64)) == [(TOP_CHANNELS, 2, 3)]


PYRAMIDS = {
    "oblong": ("lite0", (96, 64), [(40, 8, 12), (112, 4, 6), (320, 2, 3)]),
    "not divisible": ("lite0", (100, 68), [(40, 9, 13), (112, 5, 7), (320, 3, 4)]),
    "larger backbone": ("lite2", (64, 64), [(48, 8, 8), (120, 4, 4), (352, 2, 2)]),
    "of timm": ("timm:resnet18", (64, 64), [(128, 8, 8), (256, 4, 4), (512, 2, 2)]),
}


@pytest.mark.parametrize(("name", "size", "shapes"), PYRAMIDS.values(), ids=PYRAMIDS)
def test_a_pyramid_is_features_at_8_16_and_32_px(name: str, size: tuple[int, int], shapes: list):
    backbone = create_backbone(name, pyramid=True)
    assert feature_shapes(backbone, size) == shapes
    assert backbone.training, "as it was made"


@pytest.mark.parametrize("size", [(64, 64), (100, 68)], ids=["square", "not divisible"])
def test_features_of_a_pyramid_are_the_backbones_own(size: tuple[int, int]):
    """Level by level what the whole network computes on its way, with the same weights under the same names."""
    plain, pyramid = create_backbone("lite0").eval(), create_backbone("lite0", pyramid=True).eval()
    pyramid.network.load_state_dict(plain.state_dict(), strict=False)
    seen = []
    for block in (2, 4, 6):
        plain.blocks[block].register_forward_hook(lambda _module, _given, made: seen.append(made))
    images = torch.randn(1, 3, size[1], size[0])
    with torch.no_grad():
        plain(images)
        found = pyramid(images)
    assert len(found) == len(seen) == 3
    assert all(torch.equal(a, b) for a, b in zip(found, seen, strict=True))


CUTS = {  # stages: channels, rows and columns of the levels for an input of 96x64 px
    7: [(40, 8, 12), (112, 4, 6), (320, 2, 3)],
    6: [(40, 8, 12), (112, 4, 6), (192, 2, 3)],
    5: [(40, 8, 12), (112, 4, 6)],
    4: [(40, 8, 12), (80, 4, 6)],
    3: [(40, 8, 12)],
}


@pytest.mark.parametrize("stages", CUTS)
def test_a_cut_backbone_gives_what_the_whole_one_computes_on_its_way(stages: int):
    whole, cut = create_backbone("lite0").eval(), create_backbone("lite0", pyramid=True, stages=stages)
    plain = create_backbone("lite0", stages=stages) if stages < STAGES else None
    assert feature_shapes(cut, (96, 64)) == CUTS[stages]
    names = set(timm_network(cut).state_dict())
    assert names == {name for name in whole.state_dict() if not name.startswith(unused(Heatmap(1, (1, 1)), stages))}
    seen = {}
    for stage, blocks in enumerate(whole.blocks):
        blocks.register_forward_hook(lambda _module, _given, made, stage=stage: seen.update({stage: made}))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        whole(images)
        for backbone in (cut, plain):
            if backbone is not None:
                timm_network(backbone).load_state_dict(whole.state_dict(), strict=False)
        levels = cut.eval()(images)
        last = None if plain is None else plain.eval()(images)
    assert all(torch.equal(a, seen[stage]) for a, stage in zip(levels, pyramid_stages(stages), strict=True))
    assert last is None or torch.equal(last, seen[stages - 1])


REFUSED_STAGES = {
    "too many": ("lite0", "heatmap", 8, "3 to 7 for this head, got 8"),
    "too few for a pyramid": ("lite0", "simcc", 2, "3 to 7 for this head, got 2"),
    "too few": ("lite0", "rle", 1, "2 to 7 for this head, got 1"),
    "of timm": ("timm:resnet18", "heatmap", 5, "7, because only lite0, .* can be cut, got 5"),
}


@pytest.mark.parametrize(("backbone", "head", "stages", "message"), REFUSED_STAGES.values(), ids=REFUSED_STAGES)
def test_stages_that_a_backbone_or_a_head_does_not_have_are_refused(backbone, head, stages, message):
    with pytest.raises(keylite.ArgumentError, match=f"^stages: expected {message}$"):
        EfficientNetLiteRegressor(4, backbone, head=HEADS[head](4, 8, (64, 64)), stages=stages)


def test_other_backbones_of_timm_work():
    network = EfficientNetLiteRegressor(3, "timm:resnet18", hidden=8).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 64, 48)).shape == (2, 3, 2)
    assert set(network.backbone.state_dict()) == set(timm.create_model("resnet18", num_classes=0).state_dict())


REFUSED = {
    "unknown": ("lite9", "backbone: expected one of lite0, .* or timm:NAME of a timm model, got 'lite9'"),
    "unknown to timm": ("timm:lite0", "backbone: expected .* got 'timm:lite0'"),
    "without timm:": ("resnet18", "backbone: expected .* got 'resnet18'"),
    "transformer": (
        "timm:vit_tiny_patch16_224",
        "backbone: (does not take an input|expected a network that gives a feature map)",
    ),
}


@pytest.mark.parametrize(("name", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_other_names_are_refused(name: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        EfficientNetLiteRegressor(3, name)
    assert "\n" not in str(caught.value)


def test_a_transformer_that_takes_the_size_is_refused_too():
    with pytest.raises(ValueError, match="expected a network that gives a feature map, got tokens"):
        EfficientNetLiteRegressor(3, "timm:vit_tiny_patch16_224", size=(224, 224))


def test_normalisation_is_the_weights():
    assert normalisation("lite0") == (PIXEL_MEAN, PIXEL_STD) == ((127.0,) * 3, (128.0,) * 3)
    mean, std = normalisation("timm:resnet18")
    assert mean == pytest.approx((123.675, 116.28, 103.53))
    assert std == pytest.approx((58.395, 57.12, 57.375))


# ---- heads


@pytest.mark.parametrize("head", [Regression(5, 16), Rle(5, 16)], ids=["regression", "rle"])
def test_an_untrained_network_gives_the_mean_shape_nearly(head: Regression | Rle):
    shape = np.random.default_rng(0).uniform(0, 1, (5, 2)).astype(np.float32)
    network = EfficientNetLiteRegressor(5, head=head, size=(64, 96), mean_shape=shape)
    with torch.no_grad():
        raw = network(torch.randn(4, 3, 96, 64)).numpy()  # in training: statistics of the batch
    assert raw.shape == (4, 5, head.channels)
    start = np.concatenate([shape, np.full((5, 2), SCALE_START)], axis=1)[:, : head.channels]
    assert np.abs(raw - start).max() < 0.02
    assert (np.abs(raw - start).max(axis=(0, 1)) > 0).all(), "features have a say from the start"


def test_without_a_mean_shape_points_start_in_the_middle():
    assert EfficientNetLiteRegressor(2, hidden=8).head.points.bias.tolist() == [0.5] * 4


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
    for head in (Heatmap(2, (12, 8), 8), Simcc(2, (12, 8), (96, 64), 8), Simcc(2, (13, 9), (100, 68), 8)):
        width, height = getattr(head, "bins", (96, 64))
        with torch.no_grad():
            raw = EfficientNetLiteRegressor(2, head=head).eval()(torch.zeros(1, 3, height, width))
        assert raw.shape == (1, 2, head.channels)


def test_a_backbone_without_a_stride_of_8_has_no_heatmap():
    with pytest.raises(ValueError, match=r"backbone: expected features at strides \(8, 16, 32\), got \[16, 16, 16\]"):
        EfficientNetLiteRegressor(4, "timm:vit_tiny_patch16_224", head=Heatmap(4, (28, 28)), size=(224, 224))


def test_a_backbone_of_other_cells_is_refused():
    with pytest.raises(ValueError, match=r"^backbone: expected features of 12x12 cells at stride 8, got 9x9; choose"):
        EfficientNetLiteRegressor(4, "timm:inception_v3", head=HEADS["simcc"](4, 0, (96, 96)))


@pytest.mark.parametrize("name", ["heatmap", "simcc"])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (100, 68)], ids=["square", "oblong", "not divisible"])
def test_an_untrained_pyramid_is_around_the_middle(size: tuple[int, int], name: str):
    head = HEADS[name](3, 16, size)
    network = EfficientNetLiteRegressor(3, head=head, size=size)
    with torch.no_grad():
        raw = network(torch.randn(2, 3, size[1], size[0])).numpy()
    assert raw.shape == (2, 3, head.channels)
    assert np.abs(head.decode(raw)[0] - 0.5).max() < 0.15  # measured 0.05


def brightness_head(size: tuple[int, int]) -> tuple[EfficientNetLiteRegressor, list]:
    """A heatmap network whose map is the sum of its levels' cells, without any smoothing; dark levels for it."""
    network = EfficientNetLiteRegressor(1, head=HEADS["heatmap"](1, 16, size), size=size)
    levels = [
        torch.zeros(1, channels, rows, columns) for channels, rows, columns in feature_shapes(network.backbone, size)
    ]
    with torch.no_grad():
        for module in network.head.modules():
            if isinstance(module, torch.nn.Conv2d) and module.groups == 1:
                module.weight.fill_(1 / module.in_channels)
            elif isinstance(module, torch.nn.Conv2d):
                module.weight.zero_()
                module.weight[:, :, 2, 2] = 1  # of the depthwise 5x5 only the middle
        network.head.maps.bias.zero_()
    return network.eval(), levels


def test_cells_are_row_by_row_as_the_decode_takes_them():
    network, levels = brightness_head((96, 64))
    levels[0][:, :, 2, 9] = 1
    with torch.no_grad():
        xy, _ = HEADS["heatmap"](1, 16, (96, 64)).decode(100 * network.head(levels).numpy())
    np.testing.assert_allclose(xy[0, 0], [9.5 / 12, 2.5 / 8], atol=1e-3)


def test_bins_are_a_dense_layer_over_each_keypoint_s_cells():
    head = HEADS["simcc"](3, 16, (96, 64))
    network = EfficientNetLiteRegressor(3, head=head).eval()
    levels = [torch.randn(2, *shape) for shape in feature_shapes(network.backbone, (96, 64))]
    with torch.no_grad():
        maps, found = super(SimccHead, network.head).forward(levels).numpy(), network.head(levels).numpy()
    weight, bias = (getattr(network.head.bins, name).detach().numpy() for name in ("weight", "bias"))
    assert (weight.shape, bias.shape, found.shape) == ((160, 96), (160,), (2, 3, 160))
    assert np.abs(maps @ weight.T + bias - found).max() < 1e-5


@pytest.mark.parametrize("size", [(96, 64), (100, 68)], ids=["halves", "not divisible"])
def test_levels_are_joined_by_the_nearest_cell(size: tuple[int, int]):
    network, levels = brightness_head(size)
    coarse = torch.rand(levels[2].shape[2:])  # below the 6 of ReLU6
    levels[2][:] = coarse
    with torch.no_grad():
        found = network.head(levels).reshape(levels[0].shape[2:]).numpy()
    places = []
    for side in (2, 3):
        fine, middle, few = (level.shape[side] for level in levels)
        places.append((np.arange(middle) * few // middle)[np.arange(fine) * middle // fine])
    np.testing.assert_allclose(found, coarse.numpy()[np.ix_(*places)], atol=1e-3)


def test_the_head_pools_over_all_places(network):
    """The mean over places, a dense layer with ReLU, a dense layer, in numpy."""
    features = np.random.default_rng(0).normal(size=(2, TOP_CHANNELS, 2, 3)).astype(np.float32)
    w = {name: t.detach().numpy() for name, t in network.head.named_parameters()}
    hidden = np.maximum(features.mean(axis=(2, 3)) @ w["hidden.weight"].T + w["hidden.bias"], 0)
    expected = (hidden @ w["points.weight"].T + w["points.bias"]).reshape(2, 4, 2)
    with torch.no_grad():
        assert np.abs(network.head(torch.from_numpy(features)).numpy() - expected).max() < 1e-5


def test_pixels_are_normalised_by_the_spec(network):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    images = torch.from_numpy(((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        expected = network(images).numpy()
    engine = as_engine(PixelModel(network, PIXEL_MEAN, PIXEL_STD))
    assert np.abs(engine(pixels) - expected).max() < 1e-5


def test_an_engine_in_memory_is_in_inference_mode_and_moves_no_statistics(network):
    model, pixels = PixelModel(network, PIXEL_MEAN, PIXEL_STD).train(), np.zeros((2, 64, 64, 3), np.uint8)
    before = tensors(network)
    before = {name: t.clone() for name, t in before.items()}
    as_engine(model)(pixels)
    assert not model.training
    assert not network.backbone.training
    assert all(torch.equal(t, before[name]) for name, t in tensors(network).items()), "statistics did not move"


# ---- checkpoints


def test_the_keys_are_timms_and_the_heads(model_file: Path):
    timms = timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict().keys()
    head = {f"head.{layer}.{part}" for layer in ("hidden", "points") for part in ("weight", "bias")}
    assert set(load_file(model_file)) == {key for key in timms if not key.endswith("num_batches_tracked")} | head


def test_a_heatmaps_keys_are_timms_without_the_top_and_the_heads(heatmap_file: Path):
    timms = timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict().keys()
    found = set(load_file(heatmap_file))
    assert {name for name in found if not name.startswith("head.")} == {
        key for key in timms if not key.startswith(("conv_head.", "bn2.")) and not key.endswith("num_batches_tracked")
    }
    parts = {tuple(name.split(".")[1:-1]) for name in found if name.startswith("head.")}
    assert parts == {
        ("maps",),
        *((("lateral"), level, layer) for level in "012" for layer in "01"),
        *((("smooth"), level, layer) for level in "01" for layer in "1234"),
    }


def test_other_heads_have_the_same_keys_and_bins(
    model_file: Path, heatmap_file: Path, rle_file: Path, simcc_file: Path
):
    assert load_file(rle_file).keys() == load_file(model_file).keys()
    assert load_file(simcc_file).keys() == load_file(heatmap_file).keys() | {"head.bins.weight", "head.bins.bias"}


@pytest.mark.parametrize("file", ["model_file", "rle_file", "simcc_file", "heatmap_file"])
def test_saved_and_loaded_is_byte_identical(file: str, request: pytest.FixtureRequest, tmp_path: Path):
    path = request.getfixturevalue(file)
    save_model(*load_model(path), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_loaded_model_is_ready_for_inference(model_file: Path):
    network, spec = load_model(model_file)
    assert spec == read_spec(model_file)
    assert not any(module.training for module in network.modules())
    assert (network.backbone.bn1.running_var != 1).any()


@pytest.mark.parametrize("name", ["heatmap", "simcc"])
@pytest.mark.parametrize("size", [(96, 64), (100, 68)], ids=["oblong", "not divisible"])
def test_a_pyramid_s_model_of_any_size_comes_back(size: tuple[int, int], name: str, make_spec, tmp_path: Path):
    spec = make_spec(head=HEADS[name](4, 0, size), size=size)
    network = EfficientNetLiteRegressor(4, head=spec.head, size=spec.size).eval()
    save_model(network, spec, tmp_path / "s.safetensors")
    again, found = load_model(tmp_path / "s.safetensors")
    assert found == spec
    assert all(torch.equal(t, tensors(network)[name]) for name, t in tensors(again).items())
    images = torch.randn(2, 3, size[1], size[0])
    with torch.no_grad():
        assert torch.equal(again(images), network(images))


def drop(*names: str):
    return lambda loaded: {name: t for name, t in loaded.items() if name not in names}


def rename(old: str, new: str):
    return lambda loaded: {new if name == old else name: t for name, t in loaded.items()}


def cut(name: str):
    return lambda loaded: loaded.update({name: loaded[name][:1].clone()})


WRONG = {
    "missing": (drop("conv_stem.weight"), "missing conv_stem.weight"),
    "renamed": (rename("head.points.bias", "head.out.bias"), "missing head.points.bias; unexpected head.out.bias"),
    "another shape": (cut("head.points.weight"), "head.points.weight is (1, 32), expected (8, 32)"),
    "many": (drop(*(f"blocks.0.0.bn1.{p}" for p in ("weight", "bias", "running_mean", "running_var")), "bn2.bias", "bn2.weight"),
             "and 2 more"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_tensors_that_do_not_fit_are_named(change, message: str, model_file: Path, tmp_path: Path):
    path = changed(tmp_path / "wrong.safetensors", model_file, change)
    with pytest.raises(
        ValueError, match=re.escape(f"{path}: weights do not fit this network: ") + ".*" + re.escape(message)
    ):
        load_model(path)


OTHERS = {  # file, head in its description: the first line about it
    "a regression's with scales": ("model_file", Rle(4, 32), r"head\.points\.bias is \(8,\), expected \(16,\)"),
    "one with scales without": ("rle_file", Regression(4, 32), r"head\.points\.bias is \(16,\), expected \(8,\)"),
    "a regression's with maps": ("model_file", Heatmap(4, (8, 8), 16), r"missing head\.lateral.*more"),
    "a heatmap's with bins": (
        "heatmap_file",
        Simcc(4, (8, 8), (64, 64), 16),
        r"missing head\.bins\.bias; missing head\.bi",
    ),
    "bins' without": ("simcc_file", Heatmap(4, (8, 8), 16), r"unexpected head\.bins\.bias; unexpected head\.bi"),
    "another width": ("simcc_file", Simcc(4, (8, 8), (64, 64), 32), r"head\.lateral\.0\.0\.weight is .*more"),
}


@pytest.mark.parametrize(("file", "head", "message"), OTHERS.values(), ids=OTHERS)
def test_a_description_of_another_head_is_refused(
    file: str, head: Head, message: str, make_spec, request: pytest.FixtureRequest, tmp_path: Path
):
    path = tmp_path / "other.safetensors"
    write_safetensors(path, save(load_file(request.getfixturevalue(file))), make_spec(head=head))
    with pytest.raises(ValueError, match=f"weights do not fit this network: {message}"):
        load_model(path)


def test_a_cut_file_is_refused(model_file: Path, tmp_path: Path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(model_file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="the file is damaged; copy it again"):
        load_model(path)


# ---- pretrained weights


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as timm's on the hub: a classifier and counters of batches included."""
    torch.manual_seed(7)
    weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert {"classifier.weight", "classifier.bias", "bn1.num_batches_tracked"} <= weights.keys()
    path = tmp_path_factory.mktemp("imagenet") / "timm.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    return path


def test_imagenet_weights_go_into_the_backbone_alone(imagenet: Path):
    network = EfficientNetLiteRegressor(4, hidden=8)
    head = {name: t.clone() for name, t in network.head.state_dict().items()}
    assert load_backbone(network, imagenet) == "ImageNet weights of timm.safetensors: 245 tensors"
    loaded = load_file(imagenet)
    own = tensors(network)
    assert all(torch.equal(own[name], loaded[name]) for name in own if not name.startswith("head."))
    assert all(torch.equal(t, head[name]) for name, t in network.head.state_dict().items())


def test_a_heatmap_leaves_out_the_top_of_imagenet_weights(imagenet: Path):
    network = EfficientNetLiteRegressor(4, head=Heatmap(4, (8, 8), 8), size=(64, 64))
    head = {name: t.clone() for name, t in network.head.state_dict().items()}
    assert load_backbone(network, imagenet) == "ImageNet weights of timm.safetensors: 240 tensors"
    loaded, own = load_file(imagenet), tensors(network)
    assert all(torch.equal(own[name], loaded[name]) for name in own if not name.startswith("head."))
    assert all(torch.equal(t, head[name]) for name, t in network.head.state_dict().items())


@pytest.mark.parametrize("name", ["blocks.6.0.bn3.weight", "conv_stem.weight"])
def test_a_heatmap_misses_what_is_not_the_top(name: str, imagenet: Path, tmp_path: Path):
    path = tmp_path / "less.safetensors"
    save_file(drop(name)(load_file(imagenet)), path)
    with pytest.raises(ValueError, match=re.escape(f"weights do not fit this network: missing {name}")):
        EfficientNetLiteRegressor(4, pretrained=path, head=Heatmap(4, (8, 8), 8), size=(64, 64))


@pytest.mark.parametrize(("name", "stages", "count"), [("heatmap", 5, 165), ("heatmap", 3, 75), ("regression", 4, 120)])
def test_imagenet_weights_of_a_whole_backbone_go_into_a_cut_one(name: str, stages: int, count: int, imagenet: Path):
    network = EfficientNetLiteRegressor(4, head=HEADS[name](4, 8, (64, 64)), stages=stages)
    assert load_backbone(network, imagenet) == f"ImageNet weights of timm.safetensors: {count} tensors"
    loaded, own = load_file(imagenet), tensors(network)
    assert all(torch.equal(own[name], loaded[name]) for name in own if not name.startswith("head."))


def test_a_cut_model_starts_from_a_longer_one_and_not_the_other_way_round(make_spec, tmp_path: Path):
    def made(stages: int) -> EfficientNetLiteRegressor:
        return EfficientNetLiteRegressor(4, head=Heatmap(4, (8, 8), 16), size=(64, 64), stages=stages)

    longer, shorter, path = made(6), made(4), tmp_path / "six.safetensors"
    spec = make_spec(head=longer.head_spec, stages=6)
    save_model(longer, spec, path)
    assert load_backbone(shorter, path) == "model file six.safetensors: backbone alone, its head is another"
    assert set(load_file(path)) > {name for name in tensors(shorter) if not name.startswith("head.")}
    save_model(shorter, make_spec(head=longer.head_spec, stages=4), tmp_path / "four.safetensors")
    with pytest.raises(ValueError, match=r"weights do not fit this network: missing blocks\.4\..*and \d+ more"):
        load_backbone(longer, tmp_path / "four.safetensors")
    opened, found = load_model(path)
    assert (opened.stages, found.stages) == (6, 6)
    assert all(torch.equal(a, b) for a, b in zip(tensors(opened).values(), tensors(longer).values(), strict=True))


def test_pretrained_weights_freeze_unless_told(imagenet: Path):
    assert EfficientNetLiteRegressor(4, pretrained=imagenet).frozen
    assert not EfficientNetLiteRegressor(4, pretrained=imagenet, freeze=False).frozen
    assert not EfficientNetLiteRegressor(4).frozen
    assert EfficientNetLiteRegressor(4, freeze=True).frozen


def test_a_model_file_gives_its_head_where_it_fits(model_file: Path):
    theirs = load_file(model_file)
    same, other = (EfficientNetLiteRegressor(4, hidden=hidden) for hidden in (32, 16))
    before = {name: t.clone() for name, t in other.head.state_dict().items()}
    assert load_backbone(same, model_file) == "model file four.safetensors: backbone and head"
    assert load_backbone(other, model_file) == "model file four.safetensors: backbone alone, its head is another"
    assert all(torch.equal(t, theirs[name]) for name, t in tensors(same).items())
    assert torch.equal(other.backbone.conv_stem.weight, theirs["conv_stem.weight"])
    assert all(torch.equal(t, before[name]) for name, t in other.head.state_dict().items())


def test_a_heatmap_model_gives_its_head_where_it_fits(heatmap_file: Path):
    theirs = load_file(heatmap_file)
    same = EfficientNetLiteRegressor(4, head=Heatmap(4, (12, 8), 16), size=(96, 64))
    other = EfficientNetLiteRegressor(5, head=Heatmap(5, (8, 8), 16), size=(64, 64))
    assert load_backbone(same, heatmap_file) == "model file maps.safetensors: backbone and head", "of any input size"
    assert load_backbone(other, heatmap_file) == "model file maps.safetensors: backbone alone, its head is another"
    assert all(torch.equal(t, theirs[name]) for name, t in tensors(same).items())
    own = tensors(other)
    assert all(torch.equal(own[name], t) for name, t in theirs.items() if not name.startswith("head."))


def test_bins_start_from_a_heatmap_models_backbone_and_from_bins_of_the_same_size(heatmap_file: Path, simcc_file: Path):
    options = {"head": Simcc(4, (8, 8), (64, 64), 16), "size": (64, 64)}
    same, larger = (
        EfficientNetLiteRegressor(4, **options),
        EfficientNetLiteRegressor(4, head=HEADS["simcc"](4, 0, (96, 64))),
    )
    assert load_backbone(same, heatmap_file) == "model file maps.safetensors: backbone alone, its head is another"
    assert load_backbone(same, simcc_file) == "model file bins.safetensors: backbone and head"
    assert load_backbone(larger, simcc_file) == "model file bins.safetensors: backbone alone, its head is another"


def test_scales_start_from_a_regression_model_s_backbone_alone(model_file: Path, rle_file: Path):
    network = EfficientNetLiteRegressor(4, head=Rle(4, 32))
    assert load_backbone(network, model_file) == "model file four.safetensors: backbone alone, its head is another"
    assert load_backbone(network, rle_file) == "model file scales.safetensors: backbone and head"


def test_a_heatmap_starts_from_a_regression_models_backbone_alone(model_file: Path):
    network = EfficientNetLiteRegressor(4, head=Heatmap(4, (8, 8), 16), size=(64, 64))
    head = {name: t.clone() for name, t in network.head.state_dict().items()}
    assert load_backbone(network, model_file) == "model file four.safetensors: backbone alone, its head is another"
    theirs, own = load_file(model_file), tensors(network)
    assert all(torch.equal(own[name], theirs[name]) for name in own if not name.startswith("head."))
    assert all(torch.equal(t, head[name]) for name, t in network.head.state_dict().items())


def test_a_regression_cannot_start_from_a_heatmap_which_lacks_the_top(heatmap_file: Path):
    with pytest.raises(
        ValueError, match=r"expected a backbone with its last convolution, .* take head heatmap or simcc"
    ):
        EfficientNetLiteRegressor(4, pretrained=heatmap_file)


def test_weights_of_another_backbone_are_refused_and_change_nothing(imagenet: Path, model_file: Path):
    network = EfficientNetLiteRegressor(4, "lite1", hidden=8)
    before = {name: t.clone() for name, t in tensors(network).items()}
    for path in (imagenet, model_file):
        with pytest.raises(ValueError, match=r"weights do not fit this network: missing blocks\..*and \d+ more"):
            load_backbone(network, path)
    assert all(torch.equal(t, before[name]) for name, t in tensors(network).items())


def test_weights_that_are_not_there_are_not_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="pretrained: .*no such file"):
        EfficientNetLiteRegressor(4, pretrained=tmp_path / "none.safetensors")


# ---- freezing


def test_a_frozen_backbone_does_not_move_and_a_thawed_one_does():
    network = EfficientNetLiteRegressor(4, hidden=8, freeze=True).train()
    images = torch.randn(4, 3, 32, 32) + 3

    def step() -> tuple[bool, bool, bool]:
        """Whether weights, statistics and the head moved."""
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        before = {name: t.clone() for name, t in tensors(network).items()}
        network(images).square().sum().backward()
        optimizer.step()
        moved = {name for name, t in tensors(network).items() if not torch.equal(t, before[name])}
        statistics = {name for name in moved if "running" in name}
        head = {name for name in moved if name.startswith("head.")}
        return bool(moved - statistics - head), bool(statistics), bool(head)

    assert step() == (False, False, True)
    assert all(p.grad is None for p in network.backbone.parameters())
    network.train()
    assert not network.backbone.training, "train() does not wake the statistics"
    assert network.head.training
    network.freeze(False)
    assert network.backbone.training
    assert step() == (True, True, True)
    network.eval()
    network.freeze()
    network.freeze(False)
    assert not network.backbone.training, "thawing in inference stays in inference"
