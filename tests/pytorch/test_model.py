"""One network, one checkpoint: timm's names, strict in and out, frozen when asked."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")
timm = pytest.importorskip("timm", reason="needs keylite[pytorch]")

from safetensors.torch import load_file, save_file

from keylite.pytorch.model import (
    EfficientNetLiteRegressor,
    PixelModel,
    as_engine,
    create_backbone,
    feature_shape,
    load_backbone,
    load_model,
    normalisation,
    save_model,
    tensors,
)
from keylite.runtime.heads import Regression, Spatial
from keylite.runtime.modelfile import read_spec
from keylite.runtime.spec import LITE, PIXEL_MEAN, PIXEL_STD, TOP_CHANNELS


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
    from keylite.runtime.modelfile import KEY
    from keylite.runtime.spec import encode_spec

    loaded = load_file(source)
    save_file(change(loaded) or loaded, path, metadata={KEY: encode_spec(read_spec(source))})
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
    assert feature_shape(create_backbone("lite0"), (96, 64)) == (TOP_CHANNELS, 3 * 2)


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


@pytest.mark.parametrize("head", [Regression(5, 16), Spatial(5, 16, 8)], ids=["regression", "spatial"])
def test_an_untrained_network_gives_the_mean_shape_nearly(head):
    shape = np.random.default_rng(0).uniform(0, 1, (5, 2)).astype(np.float32)
    network = EfficientNetLiteRegressor(5, head=head, size=(64, 96), mean_shape=shape)
    with torch.no_grad():
        raw = network(torch.randn(4, 3, 96, 64)).numpy()  # in training: statistics of the batch
    assert raw.shape == (4, 5, 2)
    assert np.abs(raw - shape).max() < 0.02
    assert np.abs(raw - shape).max() > 0, "features have a say from the start"


def test_without_a_mean_shape_points_start_in_the_middle():
    assert EfficientNetLiteRegressor(2, hidden=8).head.points.bias.tolist() == [0.5] * 4


def test_a_head_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="head: expected 4 keypoints, got 3"):
        EfficientNetLiteRegressor(4, head=Regression(3))
    with pytest.raises(ValueError, match=r"head: a head that keeps space needs the input size: size=\(W, H\)"):
        EfficientNetLiteRegressor(4, head=Spatial(4))


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


def test_an_engine_in_memory_leaves_training_as_it_was(network):
    model, pixels = PixelModel(network, PIXEL_MEAN, PIXEL_STD).train(), np.zeros((2, 64, 64, 3), np.uint8)
    before = tensors(network)
    before = {name: t.clone() for name, t in before.items()}
    as_engine(model)(pixels)
    assert model.training
    assert network.backbone.training
    assert all(torch.equal(t, before[name]) for name, t in tensors(network).items()), "statistics did not move"
    network.freeze()
    as_engine(model)(pixels)
    assert model.training
    assert not network.backbone.training


# ---- checkpoints


def test_the_keys_are_timms_and_the_heads(model_file: Path):
    timms = timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict().keys()
    head = {f"head.{layer}.{part}" for layer in ("hidden", "points") for part in ("weight", "bias")}
    assert set(load_file(model_file)) == {key for key in timms if not key.endswith("num_batches_tracked")} | head


def test_saved_and_loaded_is_byte_identical(model_file: Path, tmp_path: Path):
    save_model(*load_model(model_file), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == model_file.read_bytes()


def test_a_loaded_model_is_ready_for_inference(model_file: Path):
    network, spec = load_model(model_file)
    assert spec == read_spec(model_file)
    assert not any(module.training for module in network.modules())
    assert (network.backbone.bn1.running_var != 1).any()


def test_a_spatial_model_of_an_oblong_input_comes_back(make_spec, tmp_path: Path):
    spec = make_spec(head=Spatial(4, 8, 4), size=(96, 64))
    network = EfficientNetLiteRegressor(4, head=spec.head, size=spec.size)
    save_model(network, spec, tmp_path / "s.safetensors")
    again, _ = load_model(tmp_path / "s.safetensors")
    assert all(torch.equal(t, tensors(network)[name]) for name, t in tensors(again).items())


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
