"""A model file describes itself; a damaged one is refused; a failed write leaves what was there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from keylite.runtime import modelfile, protobuf
from keylite.runtime.errors import ModelFileError
from keylite.runtime.modelfile import (
    BLANK,
    KEY,
    MAX_HEADER,
    SEAL,
    TFLITE_MEMBER,
    describe,
    read_model_file,
    read_spec,
    safetensors_header,
    seal_of,
    tflite_model,
    write_onnx,
    write_safetensors,
    write_sealed_safetensors,
    write_tflite,
)
from keylite.runtime.protobuf import MAX_DEPTH, field
from keylite.runtime.spec import FORMAT, ModelSpec, encode_spec


def safetensors_bytes(metadata: dict | None, values: int = 6) -> bytes:
    header = {"a": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * values)


def number(number: int, value: int) -> bytes:
    """A field of a plain number below 128, as it is written."""
    return bytes([number << 3, value])


def onnx_bytes(metadata: dict[str, str]) -> bytes:
    """A ModelProto as onnx.proto numbers it: ir_version 1, producer 2, graph 7, opset_import 8, metadata_props 14."""
    start = number(1, 10) + field(2, b"test") + field(7, field(2, b"graph" * 60)) + field(8, number(2, 20))
    return start + b"".join(field(14, field(1, k.encode()) + field(2, v.encode())) for k, v in metadata.items())


MAKERS = {".safetensors": safetensors_bytes, ".onnx": onnx_bytes}
WRITERS = {".safetensors": write_safetensors, ".onnx": write_onnx, ".tflite": write_tflite}
FLAT = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 40
BARE = {".safetensors": safetensors_bytes(None), ".onnx": onnx_bytes({"other": "x" * 300}), ".tflite": FLAT}


def written(kind: str, spec: ModelSpec, folder: Path) -> Path:
    """A small model file of a kind, with its description and its seal."""
    path = folder / f"model{kind}"
    WRITERS[kind](path, BARE[kind], spec)
    return path


@pytest.fixture(params=WRITERS)
def sealed(request: pytest.FixtureRequest, make_spec, tmp_path: Path) -> Path:
    return written(request.param, make_spec(), tmp_path)


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def spec(make_spec) -> ModelSpec:
    return make_spec()


def test_the_description_is_read_back(sealed: Path, spec: ModelSpec):
    assert read_spec(sealed) == spec
    assert read_spec(str(sealed)) == spec
    shouting = sealed.rename(sealed.with_suffix(sealed.suffix.upper()))
    assert read_spec(shouting) == spec


def test_what_pytorch_and_onnx_write_is_read(model_file: Path, onnx_file: Path, spec: ModelSpec):
    assert read_spec(model_file) == spec
    assert read_spec(onnx_file) == spec


def test_every_cut_is_noticed(sealed: Path):
    whole = sealed.read_bytes()
    for length in (*range(0, len(whole), 23), len(whole) - 2, len(whole) - 1):
        sealed.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(str(sealed))) as caught:
            read_spec(sealed)
        assert "\n" not in str(caught.value), length


@pytest.mark.parametrize("left", [0, 4, 1000, 0.5, 0.9, -100, -1])
@pytest.mark.parametrize("made", ["model_file", "onnx_file"])
def test_a_real_file_cut_short_is_refused(request: pytest.FixtureRequest, made: str, left: float, tmp_path: Path):
    whole: Path = request.getfixturevalue(made)
    size = whole.stat().st_size
    length = int(left * size) if isinstance(left, float) else left % size
    path = tmp_path / f"cut{whole.suffix}"
    path.write_bytes(whole.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"cut short|damaged|empty|holds no keylite description"):
        read_spec(path)


def test_bytes_too_many_are_refused(sealed: Path):
    sealed.write_bytes(sealed.read_bytes() + b"\0\0")
    with pytest.raises(ValueError, match=r"the file is damaged|cut short"):
        read_spec(sealed)


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
    with pytest.raises(ValueError, match=r"holds no keylite description: .*give one as `spec=FILE`"):
        read_spec(path)


def test_a_description_of_another_format_is_refused(sealed: Path, make_spec):
    describe(sealed, make_spec(format=99))
    with pytest.raises(ValueError, match=rf"{re.escape(str(sealed))}: model file format 99, expected {FORMAT}"):
        read_spec(sealed)


@pytest.mark.parametrize("name", ["model.pt", "model.tflite.zip", "model"])
def test_another_suffix_is_refused(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(safetensors_bytes({}))
    with pytest.raises(
        ValueError, match=r"expected a model file \(\.safetensors, \.onnx, \.tflite\), got '?(\.pt|\.zip|no suffix)'?"
    ):
        read_spec(tmp_path / name)


def test_a_missing_file_and_a_folder_are_called_that(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such model file$"):
        read_spec(tmp_path / "none.onnx")
    folder = tmp_path / "run.safetensors"
    folder.mkdir()
    for read in (read_spec, safetensors_header):
        with pytest.raises(ModelFileError, match=r"run\.safetensors: expected a model file, got a folder$"):
            read(folder)
    (folder / "model.safetensors").touch()
    words = r"got a folder; this is the folder of a run: take .*run\.safetensors/model\.safetensors$"
    with pytest.raises(ModelFileError, match=words):
        read_spec(folder)


def test_a_pipe_is_called_that(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    for read in (read_spec, safetensors_header):
        with pytest.raises(ValueError, match=r"m\.onnx: expected a model file, got a pipe"):
            read(tmp_path / "m.onnx")


def test_the_header_lists_the_tensors(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(None))
    assert safetensors_header(path)["a"]["shape"] == [6]


# ---- the seal


def test_every_flipped_bit_of_a_file_is_noticed(sealed: Path):
    whole = sealed.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 300)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        sealed.write_bytes(flipped)
        with pytest.raises(ValueError, match=re.escape(str(sealed))) as caught:
            read_spec(sealed)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < len(str(sealed)) + 400


def test_a_changed_digit_of_the_description_is_noticed(sealed: Path):
    whole = sealed.read_bytes()
    changed = re.sub(rb'(padding\\?":0\.)25', rb"\g<1>75", whole)
    assert changed != whole
    sealed.write_bytes(changed)
    with pytest.raises(ValueError, match="damaged, or another program changed it: |cannot be read"):
        read_spec(sealed)


def test_another_description_takes_the_place_of_the_first(sealed: Path, spec: ModelSpec):
    before, other = read_model_file(sealed), msgspec.structs.replace(spec, padding=0.5)
    describe(sealed, other)
    assert read_spec(sealed) == other
    assert read_model_file(sealed).digest != before.digest
    describe(sealed, spec)
    assert read_model_file(sealed) == before, "the same bytes as at first"


def test_the_seal_is_computed_without_keylite(sealed: Path):
    """As docs/model-file.md shows, in the same way for all formats."""
    whole = sealed.read_bytes()
    (found,) = re.finditer(rb'keylite_sha256(?:":"|\x12@)?([0-9a-f]{64})', whole)
    start, stop = found.span(1)
    assert hashlib.sha256(whole[:start] + b"0" * 64 + whole[stop:]).hexdigest() == whole[start:stop].decode()
    assert read_model_file(sealed).digest == whole[start:stop].decode()


def test_a_description_without_a_seal_is_damage(kind: str, spec: ModelSpec, tmp_path: Path):
    path = tmp_path / f"model{kind}"
    path.write_bytes(MAKERS[kind]({KEY: encode_spec(spec)}))
    with pytest.raises(ValueError, match="it holds a description without a sha256"):
        read_spec(path)


def test_a_file_of_an_earlier_format_had_no_seal_and_is_not_called_damaged(kind: str, make_spec, tmp_path: Path):
    path = tmp_path / f"model{kind}"
    path.write_bytes(MAKERS[kind]({KEY: encode_spec(make_spec(format=3))}))
    with pytest.raises(ValueError, match=rf"model{kind}: model file format 3, expected {FORMAT}; export it again"):
        read_spec(path)


@pytest.mark.parametrize("kind", BARE)
def test_a_file_of_another_tool_is_read_with_a_description_apart(kind: str, spec: ModelSpec, tmp_path: Path):
    foreign, apart = tmp_path / f"foreign{kind}", tmp_path / "spec.json"
    foreign.write_bytes(BARE[kind])
    with pytest.raises(ValueError, match=r"foreign\.\w+: holds no keylite description: .*give one as `spec=FILE`"):
        read_spec(foreign)
    with pytest.raises(FileNotFoundError, match=r"spec\.json: no such description"):
        read_spec(foreign, apart)
    apart.write_text("{}")
    with pytest.raises(ValueError, match=rf"spec\.json: model file format None, expected {FORMAT}"):
        read_spec(foreign, apart)
    apart.write_text(encode_spec(spec))
    assert read_spec(foreign, apart) == spec
    assert read_model_file(foreign, apart).digest == hashlib.sha256(BARE[kind]).hexdigest()
    apart.write_bytes(b" " * 4_000_001)
    with pytest.raises(ValueError, match=r"spec\.json: expected a description of at most 4,000,000 bytes; is this the"):
        read_spec(foreign, apart)


def test_a_file_that_describes_itself_takes_no_other_description(sealed: Path, spec: ModelSpec):
    apart = sealed.with_name("spec.json")
    apart.write_text(encode_spec(spec))
    with pytest.raises(
        ValueError, match=r"model\.\w+: already holds its description; leave out `spec` \(.*spec\.json\)"
    ):
        read_spec(sealed, apart)


def test_a_file_without_tensors_is_whole(spec: ModelSpec, tmp_path: Path):
    write_safetensors(tmp_path / "none.safetensors", header_of("{}", 0), spec)
    assert read_spec(tmp_path / "none.safetensors") == spec


def entry(key: str, value: str) -> bytes:
    """Of an ONNX model's metadata."""
    return field(14, field(1, key.encode()) + field(2, value.encode()))


@pytest.mark.parametrize("key", [KEY, SEAL, "other"])
def test_an_onnx_file_has_one_description_and_one_seal(key: str, spec: ModelSpec, tmp_path: Path):
    """Other entries are none of keylite's business."""
    path = written(".onnx", spec, tmp_path)
    whole = bytearray(entry(key, BLANK) * 2 + path.read_bytes())
    whole[-len(BLANK) :] = seal_of(bytes(whole), len(whole) - len(BLANK)).encode()
    path.write_bytes(whole)
    if key == "other":
        assert read_spec(path) == spec
    else:
        with pytest.raises(ValueError, match=r"model\.onnx: not an \.onnx file, or cut short"):
            read_spec(path)


# ---- hostile files


def header_of(header: str | bytes, tensors: int = 24) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + bytes(tensors)


def tensor(**changes: object) -> str:
    entry = {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]} | changes
    return json.dumps({"a": {name: value for name, value in entry.items() if value is not None}})


HEADERS = {
    "100,000 nested lists": header_of("[" * 100_000),
    "100,000 nested objects": header_of('{"a":' * 100_000),
    "a number": header_of("1"),
    "metadata is a list": header_of('{"__metadata__":[]}', 0),
    "a description that is a number": header_of('{"__metadata__":{"keylite":1}}', 0),
    "a seal that is a number": header_of('{"__metadata__":{"keylite_sha256":1}}', 0),
    "a key twice": header_of('{"__metadata__":{"keylite":"a","keylite":"b"}}', 0),
    "a tensor twice": header_of(tensor()[:-1] + "," + tensor()[1:]),
    "offsets are text": header_of(tensor(data_offsets=["0", "24"])),
    "offsets below 0": header_of(tensor(data_offsets=[-24, 0])),
    "offsets the other way round": header_of(tensor(data_offsets=[24, 0])),
    "offsets are fractions": header_of(tensor(data_offsets=[0.0, 24.0])),
    "three offsets": header_of(tensor(data_offsets=[0, 12, 24])),
    "a huge shape": header_of(tensor(shape=[10**30])),
    "a number of 5,000 digits": header_of('{"a":{"shape":[' + "9" * 5000 + "]}}"),
    "infinite": header_of('{"a":{"shape":[1e999]}}'),
    "NaN": header_of('{"a":{"shape":[NaN]}}'),
    "another shape": header_of(tensor(shape=[7])),
    "a shape below 0": header_of(tensor(shape=[-2, -3])),
    "a shape of truth": header_of(tensor(shape=[True, 6])),
    "another type": header_of(tensor(dtype="F64")),
    "no such type": header_of(tensor(dtype="Q4")),
    "a type that is a list": header_of(tensor(dtype=["F32"])),
    "without a type": header_of(tensor(dtype=None)),
    "more than a tensor has": header_of(tensor(extra=1)),
    "tensors that overlap": header_of(json.dumps({n: json.loads(tensor())["a"] for n in "ab"})),
    "tensors with bytes between": header_of(
        json.dumps({n: {"dtype": "U8", "shape": [8], "data_offsets": [s, s + 8]} for n, s in (("a", 0), ("b", 16))})
    ),
    "not UTF-8": header_of(b'{"\xff":1}'),
    "too long a header": header_of(b" " * (MAX_HEADER + 1)),
    "a length below 0": b"\xff" * 40,
}


SIZES = {  # bytes of a value: names of its type, as the format has them
    1: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"),
    2: ("U16", "I16", "F16", "BF16"),
    4: ("U32", "I32", "F32"),
    8: ("U64", "I64", "F64"),
}


@pytest.mark.parametrize(("size", "name"), [(size, name) for size, names in SIZES.items() for name in names])
def test_a_tensor_has_as_many_bytes_as_its_type_says(size: int, name: str, tmp_path: Path):
    path, other = tmp_path / "a.safetensors", tmp_path / "other.safetensors"
    for stop, place in ((6 * size, path), (6 * size + 1, other)):
        place.write_bytes(header_of(tensor(dtype=name, data_offsets=[0, stop]), stop))
    assert safetensors_header(path)["a"]["dtype"] == name
    with pytest.raises(ValueError, match=r"other\.safetensors: not a \.safetensors file"):
        safetensors_header(other)


@pytest.mark.parametrize("data", HEADERS.values(), ids=HEADERS)
def test_a_hostile_header_is_one_line(data: bytes, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    for read in (read_spec, safetensors_header):
        with pytest.raises(ValueError, match=r"model\.safetensors: (not a \.safetensors file|.*damaged)") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def archived(spec: ModelSpec, method: int = zipfile.ZIP_STORED, text: str | None = None, times: int = 1) -> bytes:
    """A .tflite file whose archive is made otherwise than by keylite."""
    buffer = io.BytesIO(FLAT)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", method) as archive:
        for name in (TFLITE_MEMBER, *(f"{n}.txt" for n in range(times - 1))):
            archive.writestr(zipfile.ZipInfo(name), text or encode_spec(spec), method)
    return buffer.getvalue()


def with_flags(data: bytes, place: int, flags: int) -> bytes:
    """The same archive with bits set in its table and in its members' own headers. place: 6 flags, 8 compression."""
    changed = bytearray(data)
    for mark, offset in ((b"PK\3\4", place), (b"PK\1\2", place + 2)):
        start = changed.index(mark) + offset
        changed[start] |= flags
    return bytes(changed)


ARCHIVES = {
    "without a seal": archived,
    "encrypted": lambda spec: with_flags(archived(spec), 6, 1),
    "encrypted strongly": lambda spec: with_flags(archived(spec), 6, 0x40),
    "of no known compression": lambda spec: with_flags(archived(spec), 8, 97),
    "compressed": lambda spec: archived(spec, zipfile.ZIP_DEFLATED),
    "a bomb": lambda spec: archived(spec, zipfile.ZIP_DEFLATED, "0" * 10**7),
    "a long description": lambda spec: archived(spec, text="0" * 4_000_001),
    "another sum of bytes": lambda spec: archived(spec).replace(b'"padding":0.25', b'"padding":0.75'),
    "3,000 members": lambda spec: archived(spec, text="x", times=3000),
}


@pytest.mark.parametrize("make", ARCHIVES.values(), ids=ARCHIVES)
def test_a_hostile_archive_is_one_line(make, spec: ModelSpec, tmp_path: Path):
    path = tmp_path / "model.tflite"
    path.write_bytes(make(spec))
    for read in (read_spec, tflite_model):
        with pytest.raises(
            ValueError, match=r"model\.tflite: the file is damaged, or another program changed it"
        ) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_an_archive_of_the_kind_for_4_gb_is_refused(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It says elsewhere how large its table is."""
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
        path = written(".tflite", spec, tmp_path)
    assert b"PK\6\7" in path.read_bytes()
    with pytest.raises(ValueError, match="the archive after its model cannot be read"):
        read_spec(path)


def test_a_larger_table_than_keylite_s_is_not_looked_at(spec: ModelSpec, tmp_path: Path, monkeypatch):
    path = written(".tflite", spec, tmp_path)
    monkeypatch.setattr(modelfile, "MAX_DIRECTORY", 58)
    assert read_spec(path) == spec
    monkeypatch.setattr(modelfile, "MAX_DIRECTORY", 57)
    with pytest.raises(ValueError, match="the archive after its model cannot be read"):
        read_spec(path)


def test_members_of_others_are_no_part_of_the_model(spec: ModelSpec, tmp_path: Path):
    """Some tools put labels behind a .tflite model."""
    buffer = io.BytesIO(FLAT)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("labels.txt", "nose")
    write_tflite(tmp_path / "model.tflite", buffer.getvalue(), spec)
    assert read_spec(tmp_path / "model.tflite") == spec
    assert tflite_model(tmp_path / "model.tflite") == FLAT


def nested(depth: int) -> bytes:
    """A graph with a node with an attribute with a graph, and so on."""
    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


def initializer(payload: bytes) -> bytes:
    return field(7, field(5, payload))


GRAPHS = {
    "weights outside the folder": (
        initializer(field(13, field(1, b"location") + field(2, b"../../etc/passwd"))),
        "keeps weights in another file",
    ),
    "weights elsewhere": (initializer(bytes([14 << 3, 1])), "keeps weights in another file"),
    "weights elsewhere, in a node": (field(7, field(1, field(5, field(5, bytes([14 << 3, 1]))))), "in another file"),
    "weights elsewhere, in a function": (
        field(25, field(7, field(5, field(10, bytes([14 << 3, 1]))))),
        "in another file",
    ),
    "a tensor of 2^62 values": (initializer(bytes([1 << 3]) + b"\x80" * 8 + b"\x40"), "larger than its bytes"),
    "the same, packed": (initializer(field(1, b"\x80" * 8 + b"\x40")), "larger than its bytes"),
    "a tensor of values below 0": (initializer(bytes([1 << 3]) + b"\xff" * 9 + b"\x01"), "larger than its bytes"),
    "a number of 11 bytes": (b"\x08" + b"\xff" * 11, "not an .onnx file, or damaged"),
    "a tensor of 100,000 dimensions": (initializer(field(1, b"\1" * 100_000)), "too many dimensions"),
    "deeper than graphs are": (nested(MAX_DEPTH + 2), "nested too deeply"),
    "100,000 nested graphs": (nested(3000), "nested too deeply"),
    "a group": (b"\x0b", "not an .onnx file"),
}


@pytest.mark.parametrize(("data", "words"), GRAPHS.values(), ids=GRAPHS)
def test_a_hostile_graph_is_one_line(data: bytes, words: str, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"model\.onnx: .*{words}") as caught:
        read_spec(path)
    assert "\n" not in str(caught.value)


LIMITS = {  # a graph as large as can be, and a little larger
    "nested graphs": (nested(MAX_DEPTH - 1), nested(MAX_DEPTH)),
    "dimensions": (initializer(field(1, b"\1" * 32)), initializer(field(1, b"\1" * 33))),
    "bits of 3 bytes": (initializer(field(1, b"\x18")), initializer(field(1, b"\x19"))),
    "bits of 4 bytes, in two dimensions": (initializer(field(1, b"\4\x08")), initializer(field(1, b"\3\x0b"))),
    "weights here, in words": (initializer(number(14, 0)), initializer(number(14, 1))),
    "the longest number": (b"\x08" + b"\xff" * 9 + b"\1", b"\x08" + b"\xff" * 10 + b"\1"),
    "as much as there is": (field(2, b"ab"), field(2, b"ab")[:-1]),
    "fixed numbers of 8 and 4 bytes": (
        b"\x09" + bytes(8) + b"\x0d" + bytes(4),
        b"\x09" + bytes(8) + b"\x0d" + bytes(3),
    ),
}


@pytest.mark.parametrize(("most", "more"), LIMITS.values(), ids=LIMITS)
def test_a_graph_has_limits(most: bytes, more: bytes, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(most)
    with pytest.raises(ValueError, match="holds no keylite description"):
        read_spec(path)
    path.write_bytes(more)
    with pytest.raises(ValueError, match=r"not an \.onnx file|keeps weights in another file"):
        read_spec(path)


MANY = b"\x10\1" * 101 + b"\x0b"  # ends with what is no field: who goes on to the end says so


@pytest.mark.parametrize("whole", [MANY, field(7, MANY), initializer(MANY), field(14, MANY)])
def test_fields_are_counted_wherever_they_are(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 100)
    path = tmp_path / "model.onnx"
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"model\.onnx: not an \.onnx file, or damaged \(more than 100 fields\)"):
        read_spec(path)


def test_tensors_begin_at_a_multiple_of_8(spec: ModelSpec, tmp_path: Path):
    """As the format asks; whatever the header's length is."""
    for length in range(9):
        path = tmp_path / f"{length}.safetensors"
        write_sealed_safetensors(path, BARE[".safetensors"], {"x": "y" * length})
        (size,) = struct.unpack("<Q", path.read_bytes()[:8])
        assert size % 8 == 0
        assert safetensors_header(path)["__metadata__"]["x"] == "y" * length
    np_file = pytest.importorskip("safetensors.numpy")
    assert np.array_equal(np_file.load_file(path)["a"], np.zeros(6, np.float32))


# ---- .tflite: the description in an archive behind the model


@pytest.fixture
def tflite(spec: ModelSpec, tmp_path: Path) -> Path:
    return written(".tflite", spec, tmp_path)


def test_a_tflite_file_is_the_model_with_an_archive_behind_it(tflite: Path, spec: ModelSpec):
    assert tflite.read_bytes().startswith(FLAT)
    assert tflite_model(tflite) == FLAT
    assert read_spec(tflite) == read_spec(str(tflite)) == spec
    assert [path.name for path in tflite.parent.iterdir()] == [tflite.name]
    with zipfile.ZipFile(tflite) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [TFLITE_MEMBER] == ["keylite.json"]
        assert archive.read("keylite.json").decode() == encode_spec(spec)
        assert re.fullmatch(rf"{SEAL}[0-9a-f]{{64}}", archive.comment.decode())


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
        assert len(archive.namelist()) == 1


@pytest.mark.parametrize("place", [0, 8, 500, len(FLAT) - 1])
def test_a_changed_byte_of_a_tflite_model_is_noticed(tflite: Path, place: int):
    whole = bytearray(tflite.read_bytes())
    whole[place] ^= 0x40
    tflite.write_bytes(whole)
    with pytest.raises(ValueError, match=rf"{re.escape(str(tflite))}: (the file is damaged|not a \.tflite)"):
        tflite_model(tflite)


@pytest.mark.parametrize("left", [0, 4, 7, 8, 100, len(FLAT), len(FLAT) + 40, -30, -1])
def test_a_tflite_file_cut_short_has_no_description(tflite: Path, left: int):
    tflite.write_bytes(tflite.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"model\.tflite: (not a \.tflite|holds no keylite desc|.*damaged|.*empty)"):
        read_spec(tflite)
