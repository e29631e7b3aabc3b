"""Tensors go into a network by name and shape, whatever framework they are of; what does not fit is named."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from keylite.runtime.heads import Heatmap, Regression, Simcc
from keylite.runtime.lite import STAGES
from keylite.runtime.modelfile import KEY, write_sealed_safetensors
from keylite.runtime.spec import ModelSpec, encode_spec
from keylite.training.checkpoint import check_fit, require_head, starting_tensors

TOP = {"conv_head.weight": (6, 4), "bn2.weight": (6,)}
BACKBONE = {"conv_stem.weight": (4, 3, 3, 3), "bn1.weight": (4,), "bn1.running_mean": (4,)} | TOP
HEAD = {"head.points.weight": (8, 6), "head.points.bias": (8,)}
CLASSIFIER = {"classifier.weight": (1000, 6), "classifier.bias": (1000,)}
COUNTER = {"bn1.num_batches_tracked": ()}
BINS = {"head.bins.weight": (320, 96), "head.bins.bias": (320,)}
MAPS = {"head.maps.weight": (4, 6, 1, 1), "head.lateral.0.0.weight": (6, 2, 1, 1)}
POOLED, MAPPED = Regression(4), Heatmap(4, (8, 8))


def arrays(*shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A tensor of each shape."""
    return {name: np.zeros(shape, np.float32) for part in shapes for name, shape in part.items()}


def without(part: dict, *names: str) -> dict:
    return {name: value for name, value in part.items() if name not in names}


# ---- fit


def test_the_same_names_and_shapes_fit_and_counters_are_nothing():
    check_fit(arrays(BACKBONE, HEAD), arrays(BACKBONE, HEAD), "here")
    check_fit(arrays(BACKBONE, HEAD, COUNTER), arrays(BACKBONE, HEAD), "here")


WRONG = {
    "missing": (arrays(without(BACKBONE, "bn1.weight"), HEAD), "missing bn1.weight"),
    "unexpected": (arrays(BACKBONE, HEAD, MAPS), "unexpected head.lateral.0.0.weight; unexpected head.maps.weight"),
    "renamed": (
        arrays(without(BACKBONE, "bn1.weight"), HEAD, {"bn1.gamma": (4,)}),
        "missing bn1.weight; unexpected bn1.gamma",
    ),
    "another shape": (arrays(BACKBONE, HEAD, {"bn1.weight": (5,)}), "bn1.weight is (5,), expected (4,)"),
    "axes in another order": (
        arrays(BACKBONE, HEAD, {"conv_stem.weight": (3, 3, 3, 4)}),
        "conv_stem.weight is (3, 3, 3, 4), expected (4, 3, 3, 3)",
    ),
    "a scalar": (arrays(BACKBONE, HEAD, {"bn1.weight": ()}), "bn1.weight is (), expected (4,)"),
    "four": (
        arrays(without(BACKBONE, *TOP, "bn1.weight"), without(HEAD, "head.points.bias")),
        "missing bn1.weight; missing bn2.weight; missing conv_head.weight; missing head.points.bias",
    ),
    "five": (
        arrays(without(BACKBONE, *TOP, "bn1.weight", "bn1.running_mean"), HEAD, {"head.points.bias": (9,)}),
        "missing bn1.running_mean; missing bn1.weight; missing bn2.weight; missing conv_head.weight; and 1 more",
    ),
}


@pytest.mark.parametrize(("loaded", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_named(loaded: dict, message: str):
    with pytest.raises(ValueError) as caught:
        check_fit(loaded, arrays(BACKBONE, HEAD), "here.safetensors")
    assert str(caught.value) == f"here.safetensors: weights do not fit this network: {message}"


# ---- where a network starts


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """A file without a keylite description; its tensors are given apart."""
    return header_of(tmp_path / "timm.safetensors", {"format": "pt"})


@pytest.fixture
def ours(tmp_path: Path, make_spec) -> Path:
    """A keylite model file; its tensors are given apart."""
    return described(tmp_path / "four.safetensors", make_spec())


def header_of(path: Path, metadata: dict[str, str]) -> Path:
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def described(path: Path, spec: ModelSpec | str) -> Path:
    """A model file without tensors, sealed."""
    text = spec if isinstance(spec, str) else encode_spec(spec)
    write_sealed_safetensors(path, struct.pack("<Q", 2) + b"{}", {KEY: text})
    return path


def same(found: dict, loaded: dict, *shapes: dict) -> bool:
    """Whether `found` is these tensors of `loaded`, themselves and no others."""
    names = {name for part in shapes for name in part}
    return found.keys() == names and all(found[name] is loaded[name] for name in names)


def test_imagenet_weights_give_the_backbone_without_classifier_and_counters(imagenet: Path):
    loaded = arrays(BACKBONE, CLASSIFIER, COUNTER)
    found, said = starting_tensors(imagenet, loaded, arrays(BACKBONE, HEAD), POOLED, STAGES)
    assert same(found, loaded, BACKBONE)
    assert said == "ImageNet weights of timm.safetensors: 5 tensors"


def test_a_classifier_may_have_other_names(imagenet: Path):
    loaded = arrays(BACKBONE, {"fc.weight": (10, 6), "aux.fc.weight": (10, 6)})
    found, _ = starting_tensors(imagenet, loaded, arrays(BACKBONE, HEAD), POOLED, STAGES, classifier=("fc.", "aux.fc."))
    assert same(found, loaded, BACKBONE)
    with pytest.raises(ValueError, match=r"timm\.safetensors: .*: unexpected aux\.fc\.weight; unexpected fc\.weight$"):
        starting_tensors(imagenet, loaded, arrays(BACKBONE, HEAD), POOLED, STAGES)


def test_a_head_that_needs_the_top_says_what_to_take(ours: Path):
    lower = arrays(without(BACKBONE, *TOP))
    with pytest.raises(
        ValueError, match=r"four\.safetensors: expected a backbone with its last conv.*heatmap or simcc"
    ):
        starting_tensors(ours, lower, arrays(BACKBONE, HEAD), POOLED, STAGES)


def test_a_pyramid_does_without_the_top(imagenet: Path, ours: Path):
    lower = without(BACKBONE, *TOP)
    for path, loaded in ((imagenet, arrays(BACKBONE, CLASSIFIER)), (ours, arrays(BACKBONE, HEAD))):
        found, _ = starting_tensors(path, loaded, arrays(lower, MAPS), MAPPED, STAGES)
        assert same(found, loaded, lower)
        with pytest.raises(ValueError, match=r"unexpected bn2\.weight; unexpected conv_head\.weight$"):
            starting_tensors(path, loaded, arrays(lower, MAPS), POOLED, STAGES)


@pytest.mark.parametrize("name", ["conv_stem.weight", "bn2.weight"])
def test_every_tensor_of_the_backbone_must_be_there(name: str, imagenet: Path, ours: Path):
    for path, rest in ((imagenet, CLASSIFIER), (ours, HEAD)):
        expected = f"{path}: weights do not fit this network: missing {name}"
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            starting_tensors(path, arrays(without(BACKBONE, name), rest), arrays(BACKBONE, HEAD), POOLED, STAGES)


def test_a_model_file_gives_its_head_where_it_is_the_same(ours: Path):
    loaded = arrays(BACKBONE, HEAD)
    found, said = starting_tensors(ours, loaded, arrays(BACKBONE, HEAD), POOLED, STAGES)
    assert same(found, loaded, BACKBONE, HEAD)
    assert said == "model file four.safetensors: backbone and head"


OTHER_HEADS = {
    "other sizes": {"head.points.weight": (10, 6), "head.points.bias": (10,)},
    "one other size": HEAD | {"head.points.weight": (8, 7)},
    "other names": MAPS,
    "less": without(HEAD, "head.points.bias"),
}


@pytest.mark.parametrize("theirs", OTHER_HEADS.values(), ids=OTHER_HEADS)
def test_a_model_file_with_another_head_gives_its_backbone_alone(theirs: dict, ours: Path):
    loaded = arrays(BACKBONE, theirs)
    found, said = starting_tensors(ours, loaded, arrays(BACKBONE, HEAD), POOLED, STAGES)
    assert same(found, loaded, BACKBONE)
    assert said == "model file four.safetensors: backbone alone, its head is another"


def test_bins_of_another_size_are_another_head(tmp_path: Path, make_spec):
    """Their tensors have the same shapes where sides are exchanged."""
    lower, wide, tall = without(BACKBONE, *TOP), Simcc(4, (12, 8), (96, 64)), Simcc(4, (8, 12), (64, 96))
    path = described(tmp_path / "wide.safetensors", make_spec(head=wide, size=(96, 64)))
    loaded = arrays(lower, BINS)
    found, _ = starting_tensors(path, loaded, arrays(lower, BINS), wide, STAGES)
    assert same(found, loaded, lower, BINS)
    found, said = starting_tensors(path, loaded, arrays(lower, BINS), tall, STAGES)
    assert same(found, loaded, lower)
    assert said == "model file wide.safetensors: backbone alone, its head is another"


def test_a_model_file_whose_bins_are_not_its_size_s_is_refused(tmp_path: Path, make_spec):
    damaged = encode_spec(make_spec(head=Simcc(4, (8, 8), (64, 64)))).replace("[64,64]", "[32,32]", 1)
    path = described(tmp_path / "damaged.safetensors", damaged)
    with pytest.raises(ValueError, match=r"damaged\.safetensors: .*expected (bins|grid) of"):
        starting_tensors(path, arrays(BACKBONE, BINS), arrays(BACKBONE, BINS), Simcc(4, (8, 8), (64, 64)), STAGES)


def test_a_model_file_of_another_backbone_is_refused(ours: Path):
    with pytest.raises(ValueError, match=r"four\.safetensors: .*: unexpected bn9\.weight$"):
        starting_tensors(ours, arrays(BACKBONE, HEAD, {"bn9.weight": (4,)}), arrays(BACKBONE, HEAD), POOLED, STAGES)


def test_a_backbone_may_have_a_head_of_its_own(imagenet: Path, ours: Path):
    """As timm's ConvNeXts: head.norm is theirs, head.fc their classifier."""
    norm, own = {"head.norm.weight": (6,)}, arrays(BACKBONE, {"head.norm.weight": (6,)}, HEAD)
    loaded = arrays(BACKBONE, norm, {"head.fc.weight": (10, 6)})
    found, _ = starting_tensors(imagenet, loaded, own, POOLED, STAGES, classifier=("head.fc.",), names=HEAD.keys())
    assert same(found, loaded, BACKBONE, norm)
    loaded = arrays(BACKBONE, norm, MAPS)
    found, said = starting_tensors(ours, loaded, own, POOLED, STAGES, names=HEAD.keys())
    assert same(found, loaded, BACKBONE, norm)
    assert said == "model file four.safetensors: backbone alone, its head is another"


HUGE = {
    "a dense layer": Regression(10_000, hidden=16_384),
    "bins": Simcc(4, (256, 256), (2048, 2048), 16),
}


@pytest.mark.parametrize("head", HUGE.values(), ids=HUGE)
def test_a_head_far_larger_than_its_file_is_refused_before_it_is_made(head):
    thousand = {f"{n}.weight": np.empty((1000,), np.float32) for n in range(4)}
    with pytest.raises(
        ValueError, match=r"^f: weights do not fit .*: its head needs [\d,]+ values, the file has 4,000$"
    ):
        require_head(head, thousand, "f")
    require_head(Regression(4, hidden=256), thousand, "f")
