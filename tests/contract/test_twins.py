"""The twins: one checkpoint, the same features, points and losses, and the same training, in PyTorch and in Keras.

Beside each tolerance stands what was measured.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")
tf = pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")

import keras
from reference import SIZE, SOME_HEADS, THRESHOLDS, some_flow, some_points, some_raw, sums_of
from safetensors import safe_open
from safetensors.numpy import load_file

import keylite
import keylite.pytorch
import keylite.pytorch.exporting as torch_exporting
import keylite.pytorch.losses as torch_losses
import keylite.pytorch.model as torch_model
import keylite.pytorch.training as torch_training
import keylite.pytorch.workshop as torch_workshop
import keylite.tensorflow
import keylite.tensorflow.exporting as keras_exporting
import keylite.tensorflow.losses as keras_losses
import keylite.tensorflow.model as keras_model
import keylite.tensorflow.training as keras_training
import keylite.tensorflow.workshop as keras_workshop
from keylite.data.examples import Examples
from keylite.data.rendered.gauges import gauges
from keylite.exporting.form import Examiner, Exporter
from keylite.pytorch.backbones import timm_network
from keylite.runtime.heads import HEADS, Head, Regression, Rle
from keylite.runtime.lite import LITE
from keylite.runtime.spec import ModelSpec
from keylite.training import teaching
from keylite.training.recipe import make_recipe
from keylite.training.teaching import SCALE_START
from keylite.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_graphs")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- features and points


def alive(
    network: torch_model.EfficientNetLiteRegressor, size: tuple[int, int], times: float
) -> torch_model.EfficientNetLiteRegressor:
    """With normalisation of random scales, shifts and statistics that nearly fit, and points that move.

    What a block adds to its input is small beside it, as in trained networks: else rounding grows at every block, and
    float32 is 1e-3 of the features from float64 in either twin.
    """
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    blocks = [block for stage in timm_network(network.backbone).blocks for block in stage]
    added = [[m for m in block.modules() if m in set(norms)][-1] for block in blocks if block.has_skip]

    def even(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.empty_like(like).uniform_(low, high)

    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(even(norm.weight, 0.5, 1.5))
            norm.bias.copy_(even(norm.bias, -0.5, 0.5))
            norm.momentum = None  # the plain mean over the batches below
        for norm in added:
            norm.weight.copy_(even(norm.weight, 0.1, 0.5))
        network.train()(torch.randn(8, 3, size[1], size[0]))
        for norm in norms:
            norm.running_mean += even(norm.running_mean, -0.2, 0.2) * norm.running_var.sqrt()
            norm.running_var *= even(norm.running_var, 0.7, 1.4)
        last = next(getattr(network.head, name) for name in ("points", "bins", "maps") if hasattr(network.head, name))
        last.weight *= times
    return network.eval()


def written(path: Path, spec: ModelSpec, times: float = 100) -> Path:
    """A model file of PyTorch whose every tensor is random, those of the last layer so many times as at a start."""
    torch.manual_seed(0)
    shape = np.random.default_rng(0).uniform(0.2, 0.8, (4, 2))
    network = torch_model.EfficientNetLiteRegressor(
        4, spec.backbone, head=spec.head, size=spec.size, stages=spec.stages, mean_shape=shape
    )
    size = spec.size if spec.head.pyramid else (64, 64)
    torch_model.save_model(alive(network, size, times), spec, path)
    return path


@pytest.fixture(scope="module", params=LITE)
def backbone(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def file(backbone: str, make_spec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression model file of the backbone, made by PyTorch."""
    return written(tmp_path_factory.mktemp("twins") / f"{backbone}.safetensors", make_spec(backbone=backbone))


@contextlib.contextmanager
def made_in(kind: str) -> Iterator[None]:
    """What Keras makes is of `kind`, float32 or float64."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(kind)
    keras.config.set_dtype_policy(kind)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def networks(
    path: Path, kind: str
) -> tuple[torch_model.EfficientNetLiteRegressor, keras_model.EfficientNetLiteRegressor]:
    """Both networks of a model file in `kind`."""
    with made_in(kind):
        other = keras_model.load_model(path)[0]
    assert {variable.dtype for variable in other.variables} == {kind}
    return torch_model.load_model(path)[0].to(getattr(torch, kind)), other


Outputs = Callable[[np.ndarray], list[np.ndarray]]  # float (B, H, W, 3) -> raw, feature map (B, h, w, C)


def twins(path: Path, kind: str) -> tuple[Outputs, Outputs]:
    """Functions that give both networks' raw output and, before a head without a pyramid, features."""
    one, other = networks(path, kind)
    pooled = [] if other.options["head"].pyramid else [other.get_layer("pool").input]
    graph = keras.Model(other.input, [other.output, *pooled])

    def of_torch(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            features = one.backbone(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(kind)))
            raw = one.head(features).numpy()
        return [raw, features.numpy().transpose(0, 2, 3, 1)] if pooled else [raw]

    def of_keras(images: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(part) for part in keras.tree.flatten(graph(images.astype(kind), training=False))]

    return of_torch, of_keras


def sizes(name: str, kind: str) -> set[tuple[int, int]]:
    """(W, H): small, odd and oblong; in float32, whose px count, native too."""
    native = LITE[name].native
    return {(64, 64), (97, 97), (161, 90)} | ({(native, native)} if kind == "float32" else set())


FEATURES = {"lite4": 5e-4}  # of their range, in float32; the others 1e-4


def some_images(size: tuple[int, int], count: int = 2) -> np.ndarray:
    """(B, H, W, 3) of about the range of normalised pixels, smooth with a little noise."""
    generator = np.random.default_rng(sum(size))
    smooth = [cv2.resize(generator.uniform(-1, 1, (5, 5, 3)), size) for _ in range(count)]
    return np.stack(smooth) + generator.uniform(-0.1, 0.1, (count, size[1], size[0], 3))


def require_the_same(raw: np.ndarray, other: np.ndarray, kind: str) -> None:
    """Raw output of both twins, of more than one image."""
    assert raw.shape == other.shape
    assert raw.dtype == other.dtype == kind
    if len(raw) > 1:
        assert raw.std(axis=0).max() > 0.01, "another image must give other points, else this means nothing"


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_features_and_points_are_the_same(kind: str, backbone: str, file: Path):
    of_torch, of_keras = twins(file, kind)
    for size in sizes(backbone, kind):
        images = some_images(size, 1 if size[0] > 200 else 2)
        (raw, features), (other_raw, other_features) = of_torch(images), of_keras(images)
        require_the_same(raw, other_raw, kind)
        assert features.shape == other_features.shape
        assert features.dtype == other_features.dtype == kind
        assert (features.std(axis=(0, 1, 2)) > 0.1).mean() > 0.7, "channels are alive"
        apart, px = np.abs(features - other_features).max(), np.abs(raw - other_raw).max() * 224
        if kind == "float64":
            assert apart < 1e-10  # measured 1e-12 (lite4)
            assert px < 1e-8  # measured 2e-12
        else:
            assert apart < FEATURES.get(backbone, 1e-4) * np.ptp(features)  # measured 4e-5; lite4 8e-5
            assert px < 0.01  # measured 9e-4


MAPS = {  # backbone, (W, H): grids of all three levels odd, or even
    "square": ("lite0", (64, 64)),
    "odd grids": ("lite0", (100, 68)),
    "odd sides, largest backbone": ("lite4", (129, 33)),
}


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize("head", ["heatmap", "simcc"])
@pytest.mark.parametrize(("name", "size"), MAPS.values(), ids=MAPS)
def test_maps_and_bins_and_their_points_are_the_same(
    kind: str, head: str, name: str, size: tuple[int, int], make_spec, tmp_path_factory: pytest.TempPathFactory
):
    spec = make_spec(backbone=name, size=size, head=HEADS[head](4, 0, size))
    path = written(tmp_path_factory.mktemp("maps") / "maps.safetensors", spec, times=10)
    of_torch, of_keras = twins(path, kind)
    images = some_images(size)
    (raw,), (other,) = of_torch(images), of_keras(images)
    require_the_same(raw, other, kind)
    assert raw.std() > 1, "maps are not even"
    px = np.abs(spec.head.decode(raw)[0] - spec.head.decode(other)[0]).max() * 224
    limit = 1e-10 if kind == "float64" else FEATURES.get(name, 1e-4) * np.ptp(raw)
    assert np.abs(raw - other).max() < limit  # measured 1e-13, 3e-6 of the range
    assert px < 0.01  # measured 5e-4


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_scales_are_the_same(kind: str, make_spec, tmp_path: Path):
    of_torch, of_keras = twins(written(tmp_path / "rle.safetensors", make_spec(head=Rle(4, 32))), kind)
    images = some_images((97, 97))
    (raw, _), (other, _) = of_torch(images), of_keras(images)
    require_the_same(raw, other, kind)
    assert raw.shape == (2, 4, 4)
    assert np.abs(raw[..., 2:] - SCALE_START).max() > 0.1, "scales, too, are of the image"
    assert np.abs(raw - other).max() < (
        1e-10 if kind == "float64" else 1e-4 * np.ptp(raw)
    )  # measured 2e-15, 2e-7 of the range


# ---- checkpoints


def contents(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], bytes]], dict[str, str]]:
    """(name: dtype, shape and bytes of a tensor, the metadata)."""
    with safe_open(path, "numpy") as opened:
        metadata = opened.metadata()
    return {name: (str(t.dtype), t.shape, t.tobytes()) for name, t in load_file(path).items()}, metadata


@pytest.mark.parametrize(
    ("name", "head", "stages"),
    [
        *(("lite0", "regression", 7), ("lite3", "heatmap", 7), ("lite0", "rle", 7), ("lite0", "simcc", 7)),
        *(("lite2", "heatmap", 5), ("lite0", "simcc", 3), ("lite0", "regression", 2)),
    ],
)
def test_saved_in_one_and_loaded_in_the_other_and_back_is_byte_identical(
    name: str, head: str, stages: int, make_spec, tmp_path: Path
):
    spec = make_spec(backbone=name, stages=stages, head=HEADS[head](4, 32, (64, 64)))
    first = written(tmp_path / "torch.safetensors", spec)
    keras_model.save_model(*keras_model.load_model(first), tmp_path / "keras.safetensors")
    torch_model.save_model(*torch_model.load_model(tmp_path / "keras.safetensors"), tmp_path / "back.safetensors")
    tensors, metadata = contents(first)
    assert not any(len(set(data)) == 1 for _, _, data in tensors.values()), "nothing is as it started"
    for name in ("keras", "back"):
        assert contents(tmp_path / f"{name}.safetensors") == (tensors, metadata)
        assert (tmp_path / f"{name}.safetensors").read_bytes() == first.read_bytes()


def test_a_file_that_keras_made_is_pytorchs_too(make_spec, tmp_path: Path):
    spec, pixels = make_spec(), np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    network = keras_model.EfficientNetLiteRegressor(4, head=spec.head)
    keras_model.save_model(network, spec, tmp_path / "keras.safetensors")
    other, found = torch_model.load_model(tmp_path / "keras.safetensors")
    assert found == spec
    torch_model.save_model(other, found, tmp_path / "torch.safetensors")
    assert contents(tmp_path / "torch.safetensors") == contents(tmp_path / "keras.safetensors")
    one = keras_model.as_engine(network, spec.mean, spec.std)(pixels)
    two = torch_model.as_engine(torch_model.PixelModel(other, spec.mean, spec.std))(pixels)
    assert np.abs(one - two).max() * 64 < 0.01


# ---- how a network starts


@pytest.mark.parametrize("name", HEADS)
def test_networks_start_alike(name: str):
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    head, shape = HEADS[name](68, 256, (64, 64)), np.random.default_rng(0).uniform(0, 1, (68, 2))
    options = {"head": head, "size": (64, 64), "mean_shape": shape}
    one = torch_model.tensors(torch_model.EfficientNetLiteRegressor(68, **options))
    two = keras_model.tensors(keras_model.EfficientNetLiteRegressor(68, **options))
    assert require_the_same_start({name: t.numpy() for name, t in one.items()}, two) > 50


def test_flows_start_alike():
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    one, two = torch_losses.new_flow(Rle(4)), keras_losses.new_flow(Rle(4))
    found = {name: t.numpy() for name, t in one.state_dict().items()}
    assert require_the_same_start(found, keras_model.tensors(two)) == 36, "weights; biases are 0"


def require_the_same_start(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> int:
    """Constants are equal; random tensors, whose number this gives, have the same spread, and end where they have one."""
    assert one.keys() == two.keys()
    random = 0
    for name, a, b in ((name, a, two[name]) for name, a in one.items()):
        assert a.shape == b.shape
        if name == "head.points.bias" or np.ptp(a) == 0:
            assert np.array_equal(a, b), name
            continue
        random += 1
        assert abs(b.std() / a.std() - 1) < 5 / math.sqrt(a.size), name
        assert abs(b.mean() - a.mean()) < 5 * a.std() * math.sqrt(2 / a.size), name
        even = np.abs(a).max() < 2 * a.std()  # between two ends, at 1.7 standard deviations
        if a.size > 1000:
            assert even == (np.abs(b).max() < 2 * b.std()), name
            assert not even or abs(np.abs(b).max() / np.abs(a).max() - 1) < 0.02, name
    return random


def test_the_mean_shape_is_the_bias_and_the_middle_without_one():
    shape = np.random.default_rng(0).uniform(0, 1, (5, 2))
    for given, points in ((shape, shape.astype(np.float32)), (None, np.full((5, 2), 0.5, np.float32))):
        scales = np.full((5, 2), SCALE_START, np.float32)
        for head, expected in ((Regression(5, 8), points), (Rle(5, 8), np.concatenate([points, scales], axis=1))):
            for twin in (torch_model, keras_model):
                network = twin.EfficientNetLiteRegressor(5, head=head, mean_shape=given)
                found = np.asarray(twin.tensors(network)["head.points.bias"])
                assert np.array_equal(found, expected.ravel()), twin.__name__


# ---- what they promise


@pytest.mark.parametrize(
    ("protocol", "modules"),
    [
        (Trainer, (torch_training, keras_training)),
        (Exporter, (torch_exporting, keras_exporting)),
        (Examiner, (torch_workshop, keras_workshop)),
    ],
    ids=["training", "exporting", "workshop"],
)
def test_both_have_the_functions_of_the_protocols(protocol: type, modules: tuple[ModuleType, ...]):
    functions = {name: value for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"}
    assert functions
    for module in modules:
        for name, promised in functions.items():
            wanted, found = (list(inspect.signature(f).parameters.values()) for f in (promised, getattr(module, name)))
            assert [(p.name, p.kind, p.default) for p in found] == [(p.name, p.kind, p.default) for p in wanted[1:]]


# ---- losses


def test_both_have_the_same_losses_and_heads():
    assert tuple(torch_losses.FORMULAS) == tuple(keras_losses.FORMULAS) == teaching.LOSSES
    assert torch_losses.HEAD_SUMS.keys() == keras_losses.HEAD_SUMS.keys()


def flows(head: Head, kind: str) -> tuple[torch_losses.Flow | None, keras_losses.Flow | None]:
    """What both train beside a network with this head, with the weights of `some_flow`."""
    with made_in(kind):
        one, two = torch_losses.new_flow(head), keras_losses.new_flow(head)
    assert (one is None) == (two is None)
    if one:
        one.to(getattr(torch, kind)).load_state_dict({name: torch.from_numpy(w) for name, w in some_flow().items()})
        keras_model.assign(two, some_flow())
    return one, two


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize("head", SOME_HEADS.values(), ids=SOME_HEADS)
@pytest.mark.parametrize("name", teaching.LOSSES)
def test_losses_and_gradients_of_both_are_numpys_and_each_others(name: str, head: Head, kind: str):
    raw, truth, weight = some_raw(head)
    expected = sums_of(name, head, raw, truth, weight)
    given = [a.astype(kind) for a in (raw, truth, weight)]
    one_flow, two_flow = flows(head, kind)

    one_raw, *one_target = (torch.from_numpy(a) for a in given)
    one_raw.requires_grad_()
    one = torch_losses.head_sums(head, torch_losses.loss(name, SIZE, **THRESHOLDS), one_raw, *one_target, one_flow)
    one[0].backward()
    gradients = [one_raw.grad.numpy()]

    two_raw, *two_target = (tf.constant(a) for a in given)
    trained = [(layer, variable) for _, layer, variable in keras_model.variables(two_flow)] if two_flow else []
    with tf.GradientTape() as tape:
        tape.watch(two_raw)
        two = keras_losses.head_sums(head, keras_losses.loss(name, SIZE, **THRESHOLDS), two_raw, *two_target, two_flow)
    by_raw, by_flow = tape.gradient(two[0], [two_raw, [variable.value for _, variable in trained]])
    others = [by_raw.numpy()]
    if one_flow:
        gradients += [p.grad.numpy() for p in one_flow.parameters()]
        others += [keras_model._to_torch(layer, g.numpy()) for (layer, _), g in zip(trained, by_flow, strict=True)]

    for total, count in ((one[0].detach(), one[1]), two[:2]):
        assert [float(total), float(count)] == pytest.approx(expected, rel=4e-6)  # measured 2e-7; rle 1.3e-6
    apart = 1e-5 if kind == "float32" else 1e-12  # measured 2e-6 and 5e-15
    np.testing.assert_allclose(two[2].numpy(), one[2].detach().numpy(), rtol=0, atol=apart)
    for gradient, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(other, gradient, rtol=0, atol=apart * np.abs(gradient).max())


@pytest.mark.parametrize("name", teaching.LOSSES)
def test_called_directly_they_are_the_same(name: str):
    """Keras gives the truth first; the figure is the same, and so are the thresholds that it is left with."""
    unit_xy, truth, weight = some_points()
    one, two = keylite.pytorch.loss(name, SIZE), keylite.tensorflow.loss(name, SIZE)
    assert one.branch() == two.branch()
    for given in ([weight], []):
        figure = float(one(*(torch.from_numpy(a) for a in (unit_xy, truth, *given))))
        assert float(two(truth, unit_xy, *given)) == pytest.approx(figure, rel=1e-12)


# ---- training


@pytest.mark.numeric
def test_a_step_has_the_same_gradients_and_statistics(make_spec, tmp_path: Path):
    """In float64, in training mode, of everything; running variances alone are apart, by n / (n - 1)."""
    spec = make_spec()
    path = written(tmp_path / "start.safetensors", spec)
    one, two = networks(path, "float64")
    pixels, *target = Examples(gauges(4, "train", seed=1, size=64), (64, 64)).batch(range(4))
    images = (pixels.astype(float) - 127) / 128
    total, *_ = torch_losses.head_sums(
        spec.head,
        torch_losses.loss("wing", spec.size),
        one.train()(torch.from_numpy(images.transpose(0, 3, 1, 2))),
        *(torch.from_numpy(part.astype(float)) for part in target),
    )
    total.backward()
    with tf.GradientTape() as tape:
        raw = two(images, training=True)
        truth = [tf.constant(part.astype(float)) for part in target]
        other, *_ = keras_losses.head_sums(spec.head, keras_losses.loss("wing", spec.size), raw, *truth)
    assert float(other) == pytest.approx(float(total.detach()), rel=1e-12)

    trained = [(name, layer, variable) for name, layer, variable in keras_model.variables(two) if variable.trainable]
    gradients = tape.gradient(other, [variable.value for *_, variable in trained])
    found = {
        name: keras_model._to_torch(layer, g.numpy()) for (name, layer, _), g in zip(trained, gradients, strict=True)
    }
    expected = {name.removeprefix("backbone."): p.grad.numpy() for name, p in one.named_parameters()}
    assert found.keys() == expected.keys()
    largest = max(np.abs(g).max() for g in expected.values())
    for name, gradient in expected.items():  # some are nothing but rounding: normalisation follows
        limit = 1e-9 * max(np.abs(gradient).max(), 1e-6 * largest)  # measured 2e-10
        assert np.abs(found[name] - gradient).max() < limit, name

    before, theirs, ours = load_file(path), torch_model.tensors(one), keras_model.tensors(two)
    for name, t in theirs.items():
        if name.endswith("running_mean"):
            assert np.abs(ours[name] - t.numpy()).max() < 1e-11, name  # measured 1e-14
    for norm, count in (("bn1", 4 * 32 * 32), ("bn2", 4 * 2 * 2)):
        name = f"{norm}.running_var"
        a, b = (np.asarray(part[name]) - 0.9 * before[name].astype(float) for part in (theirs, ours))
        np.testing.assert_allclose(a, b * count / (count - 1), rtol=1e-9)


RUNS = {  # of 5 epochs of 4 steps, each with a learning rate of its own: backbone, head, frozen epochs, choices
    "adamw with a flow": ("tiny", "rle", 5, {"optimizer": "adamw", "lr": 3e-4}),
    "sgd with a flow": ("tiny", "rle", 5, {"optimizer": "sgd", "lr": 1e-3}),
    "sgd with bins": ("tiny", "simcc", 5, {"optimizer": "sgd", "lr": 0.1}),
    "adamw, thawed": ("lite0", "regression", 3, {"optimizer": "adamw", "lr": 3e-4}),
    "sgd, thawed, clipped": ("tiny", "regression", 3, {"optimizer": "sgd", "lr": 1e-3, "clip": 1.0}),
}
LOSSES = 1e-6  # parts that losses may be apart; measured 2e-12, with clipping 4e-9, for torch adds 1e-6 to the norm
WEIGHTS = 1e-5  # and weights, of how far they moved; measured 1e-7 (thawed), 4e-11 (frozen)
TAKEN_AWAY = re.compile(  # by the normalisation that follows: what moves them is rounding
    r"head\.smooth\.\d\.2\.bias|blocks\.0\.\d\.bn2\.bias|blocks\.[1-9]\.\d\.bn3\.bias"
)
Batch = tuple[np.ndarray, ...]
Trained = tuple[list[float], dict[str, np.ndarray]]  # losses, tensors in the end


def in_float64(batch: Batch) -> Batch:
    """Pixels as they are, the points and weights in float64."""
    pixels, *target = batch
    return pixels, *(part.astype(np.float64) for part in target)


def train_torch(path: Path, recipe: keylite.Recipe, batches: list[Batch]) -> Trained:
    """As Lightning does it: one optimizer step a batch, the schedule's next step."""
    network, spec = torch_model.load_model(path)
    model = torch_model.PixelModel(network, spec.mean, spec.std).to(memory_format=torch.channels_last)
    training = torch_training.Training(model.train(), spec.head, recipe, steps_per_epoch=4).double()
    losses: list[float] = []
    training.log = lambda name, value, **how: losses.append(float(value))
    if training.flow:
        training.flow.load_state_dict({name: torch.from_numpy(w) for name, w in some_flow(0.02).items()})
    made = training.configure_optimizers()
    for index, batch in enumerate(batches):
        network.freeze(index // 4 < recipe.freeze_epochs)
        made["optimizer"].zero_grad()
        training.training_step(tuple(torch.from_numpy(part) for part in in_float64(batch)), 0).backward()
        training.on_before_optimizer_step(made["optimizer"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    flow = training.flow.state_dict() if training.flow else {}
    return losses, {name: t.numpy() for name, t in (torch_model.tensors(network) | flow).items()}


def train_keras(path: Path, recipe: keylite.Recipe, batches: list[Batch], out: Path) -> Trained:
    """As `fit` does it."""
    network, spec = keras_model.load_model(path)
    training = keras_training.Training(network, spec, recipe)
    if training.flow:
        keras_model.assign(training.flow, some_flow(0.02))
        training.vectors["head biases"].assign(keras_training.gathered(training.groups["head biases"]))
    end = keras_training.EpochEnd(SimpleNamespace(recipe=recipe, out=out), batches=4, done=lambda *_: None)
    end.set_model(training)
    losses = []
    for index, batch in enumerate(batches):
        end.epoch = index // 4
        if index in (0, 4 * recipe.freeze_epochs):
            training.begin(frozen=index == 0)
            step = tf.function(training.train_step)
        end.on_train_batch_begin(index % 4)
        losses.append(float(step(tuple(tf.constant(part) for part in in_float64(batch)))["loss"]))
    flow = keras_model.tensors(training.flow) if training.flow else {}
    return losses, keras_model.tensors(network) | flow


@pytest.mark.numeric
@pytest.mark.parametrize(("backbone", "head", "frozen", "choices"), RUNS.values(), ids=RUNS)
def test_both_follow_the_same_losses(backbone: str, head: str, frozen: int, choices: dict, make_spec, tmp_path: Path):
    """In float64: Adam divides gradients by their size, so that float32's rounding grows until losses are percents off."""
    lengths = {"epochs": 5, "warmup_epochs": 1, "freeze_epochs": frozen}
    smooth = {"loss": "wing"}  # of mae, a residual of about 0 pulls one way or the other by rounding alone
    recipe = make_recipe({"size": 64, "ema": 0.0, "clip": 0.0, "weight_decay": 0.1} | smooth | lengths | choices)
    spec = make_spec(backbone=backbone, head=HEADS[head](4, 32, (64, 64)))
    path = written(tmp_path / "start.safetensors", spec, times=1)
    examples = Examples(gauges(32, "train", seed=1, size=64), (64, 64))
    batches = [examples.batch(examples.order(i // 4)[i % 4 * 8 : i % 4 * 8 + 8]) for i in range(20)]
    one, weights = train_torch(path, recipe, batches)
    with made_in("float64"):
        two, other = train_keras(path, recipe, batches, tmp_path)
    assert len(one) == len(two) == 20
    assert np.mean(one[-4:]) < 0.9 * np.mean(one[:4]), "it learns"
    np.testing.assert_allclose(two, one, rtol=LOSSES)
    first = load_file(path) | (some_flow(0.02) if head == "rle" else {})
    assert first.keys() == weights.keys() == other.keys()
    seen = [name for name in first if not TAKEN_AWAY.fullmatch(name)]
    moved = {name: np.abs(weights[name] - first[name]).max() for name in seen}
    still = {name for name in seen if frozen == 5 and not name.startswith(("head.", "scale.", "shift."))}
    assert {name for name, far in moved.items() if far == 0} == still
    for name, far in moved.items():
        if not name.endswith("running_var"):  # n / (n - 1)
            assert np.abs(weights[name] - other[name]).max() <= WEIGHTS * far, name


# ---- in one process


@pytest.mark.parametrize("first", ["tensorflow", "keylite.pytorch"])
def test_both_live_in_one_process_whichever_comes_first(first: str, python):
    """Without the guard of keylite.pytorch the process aborts where TensorFlow came first."""
    other = {"tensorflow": "keylite.pytorch", "keylite.pytorch": "tensorflow"}[first]
    assert python(f"import {first}\nimport {other}\nprint('alive')").splitlines()[-1] == "alive"
