"""An ONNX export takes pixels as they are, in any number, and says what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs keylite[pytorch]")
torch = pytest.importorskip("torch", reason="needs keylite[pytorch]")

from keylite.pytorch.exporting import OPSET, export
from keylite.runtime.engines import open_engine
from keylite.runtime.modelfile import KEY, read_spec
from keylite.runtime.spec import encode_spec


@pytest.fixture(scope="module")
def proto(onnx_file: Path):
    return onnx.load(onnx_file)


def shape_of(value) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


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
