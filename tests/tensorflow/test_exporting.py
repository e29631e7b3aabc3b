"""A LiteRT export takes pixels as they are, in plain operators, borders included, and runs in any interpreter."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs keylite[tensorflow-cpu]")
interpreters = pytest.importorskip("ai_edge_litert.interpreter", reason="needs keylite[tensorflow-cpu]")

from keylite.exporting.calibration import calibration_set
from keylite.exporting.form import FORMATS
from keylite.runtime.engines import open_engine
from keylite.runtime.graph import graph_of
from keylite.runtime.lite import LITE
from keylite.runtime.modelfile import read_spec, tflite_model
from keylite.runtime.spec import encode_spec
from keylite.tensorflow.exporting import export, foreign_operators, operators, steps
from keylite.tensorflow.model import load_model

RESIDUALS = sum(repeats - 1 for repeats in LITE["lite0"].repeats)
PYRAMID = {
    "CONV_2D": 38,
    "DEPTHWISE_CONV_2D": 18,
    "CONCATENATION": 4,
    "TRANSPOSE": 1,
    "RESHAPE": 5,
}  # and two more additions
PLAIN = {"CONV_2D": 33, "DEPTHWISE_CONV_2D": 16, "FULLY_CONNECTED": 2, "MEAN": 1, "RESHAPE": 1}
GRAPHS = {  # precision: operators besides those of the network, whose additions are its residuals
    "fp32": {"CAST": 1, "MUL": 1, "ADD": RESIDUALS + 1},
    "fp16": {"CAST": 1, "MUL": 1, "ADD": RESIDUALS + 1, "DEQUANTIZE": 104},  # of weights, once, when a file is opened
    "int8": {"QUANTIZE": 1, "ADD": RESIDUALS, "DEQUANTIZE": 1},
}
STEP = 1 / 128  # of int8 pixels: the normalisation


@pytest.fixture(params=FORMATS["litert"].precisions)
def file(request: pytest.FixtureRequest) -> Path:
    if request.param == "fp32":
        return request.getfixturevalue("litert_file")
    return request.getfixturevalue("exported_finder")("litert", request.param)


def opened(path: Path, **options: object):
    """A stock interpreter on a file as it lies on the disk."""
    interpreter = interpreters.Interpreter(model_path=str(path), num_threads=1, **options)
    interpreter.allocate_tensors()
    return interpreter


def keras_raw(path: Path, pixels: np.ndarray) -> np.ndarray:
    """What the Keras network itself gives for pixels."""
    network, spec = load_model(path)
    return network((pixels.astype(np.float32) - np.float32(spec.mean)) / np.float32(spec.std), training=False).numpy()


def test_the_operators_are_the_network_s_and_no_more(file: Path):
    assert operators(file) == PLAIN | GRAPHS[read_spec(file).precision]
    assert foreign_operators(graph_of(tflite_model(file))) == []


def kinds_of(path: Path) -> list[str]:
    """Operators in order, without the conversion of fp16 weights."""
    kinds = [kind for kind, _ in steps(graph_of(tflite_model(path)))]
    return [kind for kind in kinds if kind != "DEQUANTIZE"] if read_spec(path).precision == "fp16" else kinds


def test_what_computes_nothing_stands_at_the_ends(file: Path):
    kinds = kinds_of(file)
    start, end = (
        (["QUANTIZE"], ["DEQUANTIZE", "FULLY_CONNECTED", "RESHAPE"])  # the last dense layer in float
        if "QUANTIZE" in kinds
        else (["CAST", "MUL", "ADD"], ["FULLY_CONNECTED", "RESHAPE"])
    )
    assert kinds[: len(start) + 1] == [*start, "CONV_2D"]
    assert kinds[-len(end) - 1 :] == ["FULLY_CONNECTED", *end]
    assert not {"QUANTIZE", "DEQUANTIZE", "CAST", "MUL"} & set(kinds[len(start) : -len(end)])


OTHERS = {  # head: its operators besides the residuals' additions, constants that fp16 converts, its end in float, in int8
    "rle": (
        PLAIN,
        104,
        ["FULLY_CONNECTED", "FULLY_CONNECTED", "RESHAPE"],
        ["FULLY_CONNECTED", "DEQUANTIZE", "FULLY_CONNECTED", "RESHAPE"],
    ),
    "simcc": (
        PYRAMID | {"FULLY_CONNECTED": 1, "ADD": 2},
        116,
        ["CONV_2D", "RESHAPE", "TRANSPOSE", "FULLY_CONNECTED"],
        ["CONV_2D", "RESHAPE", "TRANSPOSE", "DEQUANTIZE", "FULLY_CONNECTED"],
    ),
}


@pytest.fixture(params=itertools.product(OTHERS, FORMATS["litert"].precisions), ids="-".join)
def other(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A head and its file, made by `keylite.export`."""
    head, precision = request.param
    if precision == "fp32":
        return head, request.getfixturevalue("certified_random")("litert", f"{head}_file")
    return head, request.getfixturevalue("exported_finder")("litert", precision, head)


def test_other_heads_have_their_own_operators_alone_and_end_in_float(other: tuple[str, Path]):
    """A dense layer over the cells of a map is one operator, for all keypoints at once."""
    head, path = other
    own, converted, float_end, int8_end = OTHERS[head]
    precision = read_spec(path).precision
    graph = GRAPHS[precision] | {"ADD": GRAPHS[precision]["ADD"] + own.get("ADD", 0)}
    assert operators(path) == own | graph | ({"DEQUANTIZE": converted} if precision == "fp16" else {})
    assert foreign_operators(graph_of(tflite_model(path))) == []
    end = int8_end if precision == "int8" else float_end
    assert kinds_of(path)[-len(end) :] == end


def test_no_tensor_has_more_than_four_dimensions(other: tuple[str, Path]):
    """GPU delegates refuse five, and TensorFlow Lite Micro has no TILE."""
    tensors = graph_of(tflite_model(other[1])).subgraphs[0].tensors
    assert max(len(tensor.shape) for tensor in tensors) == 4


ON_GPU = {  # of the operators that https://ai.google.dev/edge/litert/performance/gpu lists
    *("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXP", "FULLY_CONNECTED", "LOGISTIC"),
    *("MAX_POOL_2D", "MAXIMUM", "MINIMUM", "MUL", "PAD", "PRELU", "RELU", "RELU6", "RESHAPE", "RESIZE_BILINEAR"),
    *("SOFTMAX", "STRIDED_SLICE", "SUB", "TRANSPOSE_CONV"),
}


@pytest.mark.parametrize(("head", "last"), {"rle": "MEAN", "simcc": "TRANSPOSE", "heatmap": "TRANSPOSE"}.items())
def test_the_list_of_the_gpu_delegate_lacks_two_operators(head: str, last: str, certified_random):
    """The first operator of a float file, which makes numbers of bytes, and one of the last four."""
    kinds = kinds_of(certified_random("litert", f"{head}_file"))
    assert [kind for kind in kinds if kind not in ON_GPU] == ["CAST", last]
    assert kinds[0] == "CAST" and last in kinds[-4:]


def test_other_heads_give_the_keras_network_s_points_in_a_stock_interpreter(
    other: tuple[str, Path], make_finder, request
):
    head, path = other
    spec = read_spec(path)
    parent = request.getfixturevalue(f"{head}_file") if spec.precision == "fp32" else make_finder(head)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    interpreter = opened(path)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (taken["dtype"], given["dtype"]) == (np.uint8, np.float32)
    interpreter.set_tensor(taken["index"], pixels)
    interpreter.invoke()
    raw = interpreter.get_tensor(given["index"])
    assert raw.shape == (1, 4, spec.head.channels)
    assert np.array_equal(raw, open_engine(path, threads=1)[0](pixels))
    found, wanted = (spec.head.decode(given)[0] for given in (raw, keras_raw(parent, pixels)))
    assert np.linalg.norm(64 * (found - wanted), axis=2).max() < FAR[spec.precision][0]


def delegated(path: Path) -> tuple[int, int]:
    """Operators before XNNPACK's one part, and after it. AssertionError where it has several, or parts in between."""
    interpreter = opened(path)
    (part,) = [one for one in interpreter._get_ops_details() if one["op_name"] == "DELEGATE"]  # beside what it took
    made = [index for _, index in steps(graph_of(tflite_model(path)))]
    given = set(part["inputs"].tolist())
    assert interpreter.get_input_details()[0]["index"] not in given
    (first,) = given.intersection(made)  # one tensor from an operator: the rest are constants
    (last,) = part["outputs"].tolist()
    assert made[-1] == interpreter.get_output_details()[0]["index"]
    return made.index(first) + 1, len(made) - 1 - made.index(last)


def test_xnnpack_takes_it_in_one_piece(file: Path):
    """All but the first operator, which makes numbers of bytes, up to the output itself."""
    assert steps(graph_of(tflite_model(file)))[0][0] in ("CAST", "QUANTIZE")
    assert delegated(file) == (1, 0)


def test_a_stock_interpreter_takes_bytes(file: Path, crops: np.ndarray):
    interpreter = opened(file)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (taken["dtype"], taken["shape"].tolist()) == (np.uint8, [1, 64, 64, 3])
    assert (given["dtype"], given["shape"].tolist()) == (np.float32, [1, 4, 2])
    expected = (STEP, 127) if read_spec(file).precision == "int8" else (0.0, 0)
    assert taken["quantization"] == expected
    signature = {"inputs": ["pixels"], "outputs": ["output_0"]}
    assert interpreter.get_signature_list() == {"serving_default": signature}
    interpreter.set_tensor(taken["index"], crops[:1])
    interpreter.invoke()
    named = interpreter.get_signature_runner()(pixels=crops[:1])["output_0"]
    assert np.array_equal(named, interpreter.get_tensor(given["index"]))
    assert np.array_equal(interpreter.get_tensor(given["index"]), open_engine(file, threads=1)[0](crops[:1]))


def test_the_description_is_in_the_archive(file: Path, model_file: Path, finder_file: Path):
    with zipfile.ZipFile(file) as archive:
        inside = archive.read("keylite.json").decode()
    spec = read_spec(file)
    assert inside == encode_spec(spec)
    parent = read_spec(model_file if spec.precision == "fp32" else finder_file)
    assert (spec.skeleton, spec.head, spec.size, spec.mean) == (parent.skeleton, parent.head, parent.size, parent.mean)


SIZES = {"fp32": (3.9, 4.1), "fp16": (1.9, 2.1), "int8": (1.0, 1.25)}  # bytes a weight


def test_a_weight_takes_as_many_bytes_as_its_precision_says(file: Path):
    weights = LITE["lite0"].parameters + 1280 * 32
    low, high = SIZES[read_spec(file).precision]
    assert low < file.stat().st_size / weights < high


# ---- images that find mistakes at borders and ends of ranges


def plain(value: int) -> np.ndarray:
    return np.full((64, 64, 3), value, np.uint8)


def bordered(rows: slice | int, columns: slice | int, value: int, inside: int = 127) -> np.ndarray:
    """An image of what normalises to nothing, with a line of another value."""
    image = plain(inside)
    image[rows, columns] = value
    return image


ALL = slice(None)
IMAGES = {
    "black": plain(0),
    "white": plain(255),
    "grey that normalises to 0": plain(127),
    "first row": bordered(0, ALL, 255),
    "last row": bordered(-1, ALL, 255),
    "first column": bordered(ALL, 0, 0),
    "last column": bordered(ALL, -1, 0),
    "noise": np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8),
}
TONES = [name for name in IMAGES if name in ("black", "white")]  # far from all that int8 took ranges from
FAR = {  # px of 64, largest of any point: of other images, of black and white; measured
    "fp32": (0.001, 0.001),  # 0.0001, 0.0001
    "fp16": (0.1, 0.1),  # 0.013, 0.011
    "int8": (3.0, 16.0),  # 1.5 (noise; borders 0.5), 10 (what calibration saw ends before)
}
PATCHES = {"fp32": 0.001, "fp16": 0.1, "int8": 2.5}  # mean, px; measured 0.00004, 0.007, 0.73


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack(list(IMAGES.values()))


def far_from_keras(file: Path, model_file: Path, finder_file: Path, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
    """(distance (N, 4), points of the Keras network (N, 4, 2)) in px of 64."""
    wanted = 64 * keras_raw(model_file if read_spec(file).precision == "fp32" else finder_file, pixels)
    return np.linalg.norm(64 * open_engine(file)[0](pixels) - wanted, axis=-1), wanted


def test_points_are_the_keras_network_s(file: Path, model_file: Path, finder_file: Path, images: np.ndarray):
    """Where int8 is coarse, the test of the stem below finds what is wrong at a border."""
    far, wanted = far_from_keras(file, model_file, finder_file, images)
    assert wanted[0].round(3).tolist() != wanted[1].round(3).tolist()
    most, most_of_tones = FAR[read_spec(file).precision]
    limits = {name: most_of_tones if name in TONES else most for name in IMAGES}
    found = dict(zip(IMAGES, far.max(axis=1), strict=True))
    assert found == {name: pytest.approx(0, abs=limit) for name, limit in limits.items()}


def test_points_of_patches_are_the_keras_network_s(file: Path, model_file: Path, finder_file: Path, make_colours):
    """In images of the kind that it was fitted to, which tell a wrong file from a rounded one."""
    patches = np.stack(make_colours(24, 13).images)
    limit = PATCHES[read_spec(file).precision]
    far, wanted = far_from_keras(file, model_file, finder_file, patches)
    assert far.mean() < limit
    always_the_mean = np.linalg.norm(wanted - wanted.mean(axis=0), axis=-1)
    assert always_the_mean.mean() > 2 * limit  # measured 11.7 for the finder, 8.4 for swapped colours


def test_the_stem_of_an_int8_file_sees_the_bytes_as_they_are(exported_finder, finder_file: Path, images: np.ndarray):
    """To a step of its 8 bits everywhere, last row and column included, where 'SAME' fills with what normalises to 0."""
    import keras

    path = exported_finder("litert", "int8")
    interpreter = opened(
        path,
        experimental_op_resolver_type=interpreters.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    index = next(index for kind, index in steps(graph_of(tflite_model(path))) if kind == "CONV_2D")
    detail = next(detail for detail in interpreter.get_tensor_details() if detail["index"] == index)
    scale, zero = detail["quantization"]
    network, _ = load_model(finder_file)
    activation = next(layer for layer in network.backbone.layers if isinstance(layer, keras.layers.ReLU))
    stem = keras.Model(network.backbone.inputs[0], activation.output)
    assert tuple(detail["shape"]) == (1, 32, 32, 32)
    (taken,) = interpreter.get_input_details()
    for name, image in IMAGES.items():
        interpreter.set_tensor(taken["index"], image[None])
        interpreter.invoke()
        found = scale * (interpreter.get_tensor(index)[0].astype(np.float32) - zero)
        wanted = stem((image[None].astype(np.float32) - 127) / 128, training=False).numpy()[0]
        wanted = np.clip(wanted, (-128 - zero) * scale, (127 - zero) * scale)
        far = np.abs(found - wanted).max(axis=-1)
        assert far.max() < 2.5 * scale, (name, far.max() / scale)
        edge = np.concatenate([far[-1], far[:, -1]]).max()
        assert edge < 2.5 * scale, (name, edge / scale)


# ---- what is refused, and larger ones


def test_a_backbone_that_keras_has_not_is_refused_with_the_other_way(tmp_path: Path, make_spec, model_file: Path):
    spec = make_spec(backbone="timm:mobilenetv3_small_050")
    with pytest.raises(
        ValueError, match=r"^backbone: litert takes lite0, .*got timm:mobilenetv3_small_050.*`to='onnx'`$"
    ):
        export(model_file, tmp_path / "a.tflite", spec)
    assert list(tmp_path.iterdir()) == []


def test_int8_without_images_is_refused(tmp_path: Path, make_spec, model_file: Path):
    with pytest.raises(ValueError, match=r"^calibration: int8 needs images to take ranges from, got none$"):
        export(model_file, tmp_path / "a.tflite", make_spec(precision="int8"))
    assert list(tmp_path.iterdir()) == []


def test_operators_of_tensorflow_alone_are_refused(tmp_path: Path, make_spec, monkeypatch: pytest.MonkeyPatch):
    import keras
    import tensorflow as tf

    from keylite.tensorflow import exporting

    class Inverse(keras.layers.Layer):
        def call(self, pixels):
            return tf.linalg.inv(pixels[..., 0])

    spec = make_spec()
    network = keras.Sequential([keras.Input((64, 64, 3), batch_size=1), Inverse()])
    monkeypatch.setattr(exporting, "load_model", lambda *_: (network, spec))
    with pytest.raises(ValueError, match=r"^a.tflite: expected operators .*, got FlexMatrixInverse; nothing was"):
        export(tmp_path / "none.safetensors", tmp_path / "a.tflite", spec)
    assert list(tmp_path.iterdir()) == []


def test_a_name_among_the_weights_is_no_operator(litert_file: Path):
    flat, name = tflite_model(litert_file), b"FlexREAD_VARIABLE"
    middle = len(flat) // 2
    assert foreign_operators(graph_of(flat[:middle] + name + flat[middle + len(name) :])) == []


def test_resource_variables_are_refused():
    import tensorflow as tf

    from keylite.tensorflow.exporting import quiet

    class Counting(tf.Module):
        def __init__(self) -> None:
            self.seen = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32)])
        def __call__(self, pixels):
            return pixels + self.seen.assign_add(1.0)

    model = Counting()
    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([model.__call__.get_concrete_function()], model)
        converter.experimental_enable_resource_variables = True
        flat = converter.convert()
    assert foreign_operators(graph_of(flat)) == ["ASSIGN_VARIABLE", "CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE"]


@pytest.mark.parametrize("lite", ["lite1", "lite4"])
def test_another_backbone_is_converted_too(lite: str, tmp_path: Path, make_spec, make_colours):
    """In int8, which has all that the others have."""
    import keras

    from keylite.tensorflow import exporting
    from keylite.tensorflow.model import EfficientNetLiteRegressor

    keras.utils.set_random_seed(0)
    spec = make_spec(backbone=lite, precision="int8", box="image")
    network = EfficientNetLiteRegressor(4, lite, head=spec.head, size=spec.size)
    calibration = calibration_set(spec, make_colours(16, 1))
    spec = msgspec.structs.replace(spec, calibration=calibration.facts)
    path = tmp_path / "one.tflite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "load_model", lambda *_: (network, spec))
        export(tmp_path / "none.safetensors", path, spec, calibration)
    blocks = sum(LITE[lite].repeats)
    residuals = sum(repeats - 1 for repeats in LITE[lite].repeats)
    assert operators(path) == PLAIN | {
        "CONV_2D": 2 + 2 * blocks - 1, "DEPTHWISE_CONV_2D": blocks, "QUANTIZE": 1, "ADD": residuals, "DEQUANTIZE": 1,
    }  # fmt: skip
    assert read_spec(path) == spec
    assert delegated(path) == (1, 0)
    assert open_engine(path)[0](calibration.pixels[:2]).shape == (2, 4, 2)
