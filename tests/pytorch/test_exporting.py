"""An ONNX export takes pixels as they are, in any number, and says what it is; in int8 all but its ends is rounded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")

from timm.layers import BatchNormAct2d

from keylite.pytorch.exporting import OPSET, export, folded, operators
from keylite.runtime.engines import open_engine
from keylite.runtime.modelfile import KEY, read_spec
from keylite.runtime.spec import encode_spec


@pytest.fixture(scope="module")
def proto(onnx_file: Path):
    return onnx.load(onnx_file)


def shape_of(value) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


class Sums(torch.nn.Module):
    """Convolutions, each with its normalisation, by what is done with them: a module of this name's `forward`."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.other = (torch.nn.Conv2d(3, 3, 3, padding=1, bias=way == "with a bias") for _ in range(2))
        self.norm, self.last = BatchNormAct2d(3), torch.nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.conv(x.float().permute(0, 3, 1, 2))
        match self.way:
            case "a convolution that feeds two":
                return self.norm(made) + made
            case "a normalisation used twice":
                return self.norm(self.other(self.norm(made)))
            case "a convolution used twice":
                return self.norm(self.conv(made))
            case "something between":
                return self.norm(made.relu())
        return self.last(self.other(self.norm(made)))


FOLDED = {  # way: normalisations that are left
    **{"plain": 0, "with a bias": 0, "a convolution that feeds two": 2, "a normalisation used twice": 2},
    **{"a convolution used twice": 2, "something between": 2},
}


@pytest.mark.parametrize(("way", "left"), FOLDED.items(), ids=FOLDED)
def test_folding_leaves_what_a_network_gives(way: str, left: int):
    torch.manual_seed(0)
    network, pixels = Sums(way), torch.randint(256, (4, 8, 8, 3), dtype=torch.uint8)
    with torch.no_grad():
        for norm in (network.norm, network.last):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
        network.train()(pixels)
        before = network.eval()(pixels)
        done = folded(network, pixels)
        torch.testing.assert_close(done(pixels), before, rtol=1e-5, atol=1e-4)
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in done.modules()) == left


def test_input_and_output_are_as_promised(proto):
    (pixels,), (raw,) = proto.graph.input, proto.graph.output
    assert pixels.name == "pixels"
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert shape_of(pixels) == ["batch", 64, 64, 3]
    assert raw.name == "raw"
    assert raw.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert shape_of(raw) == ["batch", 4, 2]


def test_the_file_is_valid_and_of_the_promised_opset(proto):
    onnx.checker.check_model(proto, full_check=True)
    assert OPSET == 20
    assert {(entry.domain, entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx")} == {
        ("", 20)
    }


def test_the_description_is_inside(proto, onnx_file: Path, model_file: Path):
    found = {entry.key: entry.value for entry in proto.metadata_props}
    assert found[KEY] == encode_spec(read_spec(model_file))
    assert not list(onnx_file.parent.glob("*.data")), "one file, no weights beside it"


def test_the_graph_is_plain(proto):
    kinds = [node.op_type for node in proto.graph.node]
    assert "Pad" not in kinds, "'SAME' is inside the convolutions"
    assert "BatchNormalization" not in kinds, "folded"
    assert not [node.op_type for node in proto.graph.node if any(a.HasField("g") for a in node.attribute)]
    assert not {kind for kind in kinds if kind in ("Loop", "If", "Scan", "Shape")}
    assert kinds.count("Conv") == 49
    assert len(proto.functions) == 0


def test_normalisation_is_in_the_graph(proto):
    values = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    before_the_stem = []
    for node in proto.graph.node:
        if node.op_type == "Conv":
            break
        before_the_stem += [values[name].ravel().tolist() for name in node.input if name in values]
    assert [127.0] * 3 in before_the_stem or [127.0] in before_the_stem
    assert [128.0] * 3 in before_the_stem or [128.0] in before_the_stem


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_batch_is_free(onnx_file: Path, crops: np.ndarray, count: int):
    assert open_engine(onnx_file)[0](crops[:count]).shape == (count, 4, 2)


def test_a_spec_of_its_own_goes_into_the_file_and_a_missing_parent_writes_nothing(tmp_path: Path, make_spec):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: no such model file"):
        export(tmp_path / "none.safetensors", tmp_path / "a.onnx", make_spec())
    assert list(tmp_path.iterdir()) == []


def test_int8_without_images_is_refused(patched, tmp_path: Path, make_spec, model_file: Path):
    with pytest.raises(ValueError, match=r"^calibration: int8 needs images to take ranges from, got none$"):
        export(model_file, tmp_path / "a.onnx", make_spec(precision="int8"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def patched(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that the session has already made, in place of another export of the same network."""
    monkeypatch.setattr("keylite.pytorch.exporting.float_graph", lambda parent, *_: onnx.load(onnx_file))


# ---- int8


@pytest.fixture(scope="module")
def int8_file(exported_finder) -> Path:
    return exported_finder("onnx", "int8")


@pytest.fixture(scope="module")
def int8(int8_file: Path):
    return onnx.load(int8_file).graph


@pytest.fixture(scope="module")
def makers(int8) -> dict:
    """tensor: the node that makes it."""
    return {output: node for node in int8.node for output in node.output}


@pytest.fixture(scope="module")
def values(int8) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in int8.initializer}


def kinds_before(name: str, makers: dict) -> list[str]:
    """Operators from a tensor back to the input, along first inputs."""
    kinds = []
    while name in makers:
        kinds.append(makers[name].op_type)
        name = makers[name].input[0]
    return kinds


def test_int8_takes_bytes_in_any_number_and_gives_float(int8):
    (pixels,), (raw,) = int8.input, int8.output
    assert (pixels.type.tensor_type.elem_type, shape_of(pixels)) == (onnx.TensorProto.UINT8, ["batch", 64, 64, 3])
    assert (raw.type.tensor_type.elem_type, shape_of(raw)) == (onnx.TensorProto.FLOAT, ["batch", 4, 2])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_batch_of_int8_is_free(int8_file: Path, crops: np.ndarray, count: int):
    assert open_engine(int8_file)[0](crops[:count]).shape == (count, 4, 2)


def test_int8_operators_are_the_network_s_in_qdq(int8, int8_file: Path):
    kinds = Counter(node.op_type for node in int8.node)
    assert operators(int8_file) == kinds
    assert kinds["Conv"] == 49 and kinds["Gemm"] == 2 and kinds["Add"] == 9
    assert kinds["Transpose"] == kinds["Cast"] == 1
    assert not [kind for kind in kinds if kind.startswith(("QLinear", "Dynamic", "QGemm")) or kind in ("Clip", "Pad")]
    assert {node.domain for node in int8.node} == {""}, "no operator of one runtime alone"


def test_the_transpose_is_of_bytes_and_normalisation_of_float(int8, makers):
    """What happens before the first convolution, in order, and nothing of it rounded in between."""
    stem = next(node for node in int8.node if node.op_type == "Conv")
    kinds = kinds_before(stem.input[0], makers)
    assert kinds == ["DequantizeLinear", "QuantizeLinear", "Div", "Sub", "Cast", "Transpose"]
    (transpose,) = [node for node in int8.node if node.op_type == "Transpose"]
    assert transpose.input[0] == "pixels"
    (cast,) = [node for node in int8.node if node.op_type == "Cast"]
    assert cast.input[0] == transpose.output[0]


def test_the_stem_s_input_is_bytes_exactly(int8, makers, values):
    """Black and white are in the calibration, so a step is one of 255 and what the stem sees is what was normalised."""
    stem = next(node for node in int8.node if node.op_type == "Conv")
    quantise = makers[makers[stem.input[0]].input[0]]
    scale, zero = (values[name] for name in quantise.input[1:])
    assert float(scale) == pytest.approx(1 / 128, rel=1e-5)
    assert (int(zero), zero.dtype) == (127, np.uint8)


def test_every_convolution_works_on_8_bits_by_channel(int8, makers, values):
    for node in int8.node:
        if node.op_type != "Conv":
            continue
        made = [makers[name].op_type for name in node.input]
        assert made == ["DequantizeLinear"] * 3, node.name
        _, weight, bias = (makers[name] for name in node.input)
        steps, scale = values[weight.input[0]], values[weight.input[1]]
        assert steps.dtype == np.int8
        assert np.abs(steps.astype(int)).max() <= 64, "7 bits: sums overflow on processors without VNNI"
        assert scale.shape == (len(steps),), "one scale a channel"
        assert values[bias.input[0]].dtype == np.int32
        zero = values[makers[node.input[0]].input[2]]
        assert zero.dtype == np.uint8


def test_the_last_dense_layer_is_float(int8, makers, values):
    last = [node for node in int8.node if node.op_type == "Gemm"][-1]
    assert values[last.input[1]].dtype == values[last.input[2]].dtype == np.float32
    assert values[last.input[1]].shape == (8, 32)
    assert kinds_before("raw", makers)[:2] == ["Reshape", "Gemm"], "nothing rounds what it gives"


ENDS = {  # head: operators from the output back, the weights of the last of them that has some
    "regression": (["Reshape", "Gemm", "DequantizeLinear"], (8, 32)),
    "rle": (["Reshape", "Gemm", "DequantizeLinear"], (16, 32)),
    "simcc": (["Add", "MatMul", "DequantizeLinear"], (64, 128)),
}


@pytest.mark.parametrize("head", ENDS)
def test_the_last_dense_layer_of_every_head_is_float_with_its_bias(head: str, exported_finder):
    path = exported_finder("onnx", "int8", head)
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kinds, shape = ENDS[head]
    assert kinds_before("raw", makers)[: len(kinds)] == kinds
    last = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")][-1]
    assert (values[last.input[1]].dtype, values[last.input[1]].shape) == (np.float32, shape)


def test_a_simcc_graph_is_plain_and_of_8_bits_but_for_its_ends(exported_finder):
    path = exported_finder("onnx", "int8", "simcc")
    kinds = operators(path)
    assert (kinds["Conv"], kinds["MatMul"], kinds["Resize"], kinds["Transpose"], kinds["Cast"]) == (56, 1, 2, 1, 1)
    assert kinds["Add"] == 9 + 2 + 1, "residuals, levels, bias"
    plain = {"Conv", "MatMul", "Resize", "Transpose", "Cast", "Add", "Sub", "Div", "Reshape", "Shape", "Concat"}
    assert set(kinds) == plain | {"QuantizeLinear", "DequantizeLinear"}
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    convolutions = [[makers[name].op_type for name in node.input] for node in graph.node if node.op_type == "Conv"]
    assert convolutions == [["DequantizeLinear"] * 3] * 56
    assert shape_of(graph.output[0]) == ["batch", 4, 128]
    for count in (1, 3):
        assert open_engine(path)[0](np.zeros((count, 64, 64, 3), np.uint8)).shape == (count, 4, 128)


def test_int8_takes_a_third_of_the_bytes(int8_file: Path, onnx_file: Path):
    assert int8_file.stat().st_size < 0.34 * onnx_file.stat().st_size
