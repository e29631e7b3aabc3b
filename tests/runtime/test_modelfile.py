"""A model file describes itself; a damaged one is refused; a failed write leaves what was there."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import msgspec
import pytest

from keylite.runtime.modelfile import (
    KEY,
    TFLITE_MEMBERS,
    read_spec,
    safetensors_header,
    tflite_model,
    write_tflite,
)
from keylite.runtime.spec import FORMAT, ModelSpec, encode_spec


def safetensors_bytes(metadata: dict | None, values: int = 6) -> bytes:
    header = {"a": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * values)


def varint(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def field(number: int, payload: bytes | int) -> bytes:
    """One field of a protobuf message."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def onnx_bytes(metadata: dict[str, str]) -> bytes:
    """A ModelProto as onnx.proto numbers it: ir_version 1, producer 2, graph 7, opset_import 8, metadata_props 14."""
    start = field(1, 10) + field(2, b"test") + field(7, field(2, b"graph" * 60)) + field(8, field(2, 20))
    return start + b"".join(field(14, field(1, k.encode()) + field(2, v.encode())) for k, v in metadata.items())


MAKERS = {".safetensors": safetensors_bytes, ".onnx": onnx_bytes}


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def spec(make_spec) -> ModelSpec:
    return make_spec()


def test_the_description_is_read_back(kind: str, spec: ModelSpec, tmp_path: Path):
    path = tmp_path / f"model{kind}"
    path.write_bytes(MAKERS[kind]({"other": "x" * 300, KEY: encode_spec(spec), "later": "y"}))
    assert read_spec(path) == spec
    assert read_spec(str(path)) == spec
    shouting = path.rename(tmp_path / f"model{kind.upper()}")
    assert read_spec(shouting) == spec


def test_what_pytorch_and_onnx_write_is_read(model_file: Path, onnx_file: Path, spec: ModelSpec):
    assert read_spec(model_file) == spec
    assert read_spec(onnx_file) == spec


def test_every_cut_is_noticed(kind: str, spec: ModelSpec, tmp_path: Path):
    whole, path = MAKERS[kind]({KEY: encode_spec(spec)}), tmp_path / f"cut{kind}"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read_spec(path)
        assert "\n" not in str(caught.value), length


@pytest.mark.parametrize("left", [0, 4, 1000, 0.5, 0.9, -100, -1])
@pytest.mark.parametrize("made", ["model_file", "onnx_file"])
def test_a_real_file_cut_short_is_refused(request: pytest.FixtureRequest, made: str, left: float, tmp_path: Path):
    whole: Path = request.getfixturevalue(made)
    size = whole.stat().st_size
    length = int(left * size) if isinstance(left, float) else left % size
    path = tmp_path / f"cut{whole.suffix}"
    path.write_bytes(whole.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"cut short|damaged|holds no keylite description"):
        read_spec(path)


def test_bytes_too_many_are_refused(spec: ModelSpec, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    whole = safetensors_bytes({KEY: encode_spec(spec)})
    path.write_bytes(whole + b"\0\0")
    with pytest.raises(ValueError, match=rf"expected {len(whole)} bytes, got {len(whole) + 2}: the file is damaged"):
        read_spec(path)


GARBAGE = {
    "empty": b"",
    "text": b"these are not weights\n" * 20,
    "zeros": bytes(400),
    "ones": b"\xff" * 400,
    "header longer than the file": struct.pack("<Q", 10**15) + b"{}",
    "header is a list": struct.pack("<Q", 2) + b"[]",
    "tensor without offsets": struct.pack("<Q", 8) + b'{"a":{}}',
    "header is not UTF-8": struct.pack("<Q", 3) + b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_refused(kind: str, data: bytes, tmp_path: Path):
    path = tmp_path / f"garbage{kind}"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_spec(path)


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}], ids=["no metadata", "another program's"])
def test_a_file_that_describes_nothing_is_refused(kind: str, metadata: dict, tmp_path: Path):
    path = tmp_path / f"foreign{kind}"
    path.write_bytes(MAKERS[kind](metadata))
    with pytest.raises(ValueError, match=r"holds no keylite description: .*give one as --spec FILE"):
        read_spec(path)


def test_a_description_of_another_format_is_refused(kind: str, spec: ModelSpec, tmp_path: Path):
    path = tmp_path / f"future{kind}"
    path.write_bytes(MAKERS[kind]({KEY: encode_spec(spec).replace(f'"format":{FORMAT}', '"format":99', 1)}))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: model file format 99, expected {FORMAT}"):
        read_spec(path)


@pytest.mark.parametrize("name", ["model.pt", "model.tflite.zip", "model"])
def test_another_suffix_is_refused(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(safetensors_bytes({}))
    with pytest.raises(
        ValueError, match=r"expected a model file \(\.safetensors, \.onnx, \.tflite\), got '?(\.pt|\.zip|no suffix)'?"
    ):
        read_spec(tmp_path / name)


def test_a_missing_file_and_a_folder_are_not_found(tmp_path: Path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such model file$"):
            read_spec(path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        FileNotFoundError, match=r"no such model file; of the run in this folder, take .*model\.safetensors$"
    ):
        read_spec(tmp_path)


def test_the_header_lists_the_tensors(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(None))
    assert safetensors_header(path)["a"]["shape"] == [6]


# ---- .tflite: the description in an archive behind the model

FLAT = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 40


@pytest.fixture
def tflite(spec: ModelSpec, tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    write_tflite(path, FLAT, spec)
    return path


def test_a_tflite_file_is_the_model_with_an_archive_behind_it(tflite: Path, spec: ModelSpec):
    assert tflite.read_bytes().startswith(FLAT)
    assert tflite_model(tflite) == FLAT
    assert read_spec(tflite) == read_spec(str(tflite)) == spec
    assert [path.name for path in tflite.parent.iterdir()] == [tflite.name]
    with zipfile.ZipFile(tflite) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == list(TFLITE_MEMBERS) == ["keylite.json", "model.sha256"]
        assert archive.read("keylite.json").decode() == encode_spec(spec)


def test_unzip_finds_the_description(tflite: Path, spec: ModelSpec):
    program = shutil.which("unzip")
    if program is None:
        pytest.skip("needs unzip")
    run = subprocess.run([program, "-p", str(tflite), "keylite.json"], capture_output=True, text=True, timeout=60)
    assert run.stdout == encode_spec(spec)
    assert run.returncode in (0, 1), "1: done, with a warning of the bytes before the archive"


def test_writing_a_tflite_file_twice_gives_the_same_bytes_and_another_description_the_same_model(
    tflite: Path, spec: ModelSpec, tmp_path: Path
):
    write_tflite(tmp_path / "again.tflite", FLAT, spec)
    assert (tmp_path / "again.tflite").read_bytes() == tflite.read_bytes()
    other = msgspec.structs.replace(spec, padding=0.5)
    write_tflite(tflite, tflite_model(tflite), other)
    assert read_spec(tflite) == other
    assert tflite_model(tflite) == FLAT
    with zipfile.ZipFile(tflite) as archive:
        assert len(archive.namelist()) == 2


@pytest.mark.parametrize("place", [0, 8, 500, len(FLAT) - 1])
def test_a_changed_byte_of_a_tflite_model_is_noticed(tflite: Path, place: int):
    whole = bytearray(tflite.read_bytes())
    whole[place] ^= 0x40
    tflite.write_bytes(whole)
    with pytest.raises(ValueError, match=rf"{re.escape(str(tflite))}: the file is damaged: its sha256"):
        tflite_model(tflite)


def test_a_changed_description_of_a_tflite_model_is_noticed(tflite: Path):
    whole = tflite.read_bytes()
    tflite.write_bytes(whole.replace(b'"padding":0.25', b'"padding":0.75'))
    assert tflite.read_bytes() != whole
    with pytest.raises(ValueError, match=r"model\.tflite"):
        read_spec(tflite)


@pytest.mark.parametrize("left", [0, 4, 7, 8, 100, len(FLAT), len(FLAT) + 40, -30, -1])
def test_a_tflite_file_cut_short_has_no_description(tflite: Path, left: int):
    tflite.write_bytes(tflite.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"model\.tflite: (not a \.tflite file, or cut short|holds no keylite desc)"):
        read_spec(tflite)


def test_a_tflite_file_of_another_tool_is_read_with_a_description_apart(spec: ModelSpec, tmp_path: Path):
    foreign, apart = tmp_path / "foreign.tflite", tmp_path / "spec.json"
    foreign.write_bytes(FLAT)
    with pytest.raises(ValueError, match=r"foreign\.tflite: holds no keylite description: .*give one as --spec FILE"):
        read_spec(foreign)
    assert tflite_model(foreign) == FLAT
    with pytest.raises(FileNotFoundError, match=r"spec\.json: no such description"):
        read_spec(foreign, apart)
    apart.write_text("{}")
    with pytest.raises(ValueError, match=rf"spec\.json: model file format None, expected {FORMAT}"):
        read_spec(foreign, apart)
    apart.write_text(encode_spec(spec))
    assert read_spec(foreign, apart) == spec


def test_a_description_apart_goes_before_the_one_inside(tflite: Path, spec: ModelSpec, tmp_path: Path):
    other = msgspec.structs.replace(spec, padding=0.5)
    (tmp_path / "spec.json").write_text(encode_spec(other))
    assert read_spec(tflite, tmp_path / "spec.json") == other
    with zipfile.ZipFile(tflite, "a") as archive:
        archive.writestr("labels.txt", "other tools append, too")
    assert read_spec(tflite) == spec
    assert tflite_model(tflite) == FLAT
