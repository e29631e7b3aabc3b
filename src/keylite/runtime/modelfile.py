"""The model description inside a model file.

`.safetensors` holds it in the header's `__metadata__`, `.onnx` in `metadata_props`, both under the key `keylite`;
`.tflite` in `keylite.json`, a member of a zip archive appended to it, beside the sha256 of what is before the archive.
Works with the standard library alone. Knows nothing of tensors, engines or frameworks.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from keylite.runtime.files import write_bytes
from keylite.runtime.spec import ModelSpec, decode_spec, encode_spec

KEY = "keylite"
ONNX_METADATA_PROPS = 14  # field number of ModelProto.metadata_props in onnx.proto
TFLITE_MEMBERS = ("keylite.json", "model.sha256")
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format


def read_spec(path: Path | str, spec: Path | str | None = None) -> ModelSpec:
    """The model description inside a `.safetensors`, `.onnx` or `.tflite` file, or in `spec`, a JSON file apart.

    Raises FileNotFoundError, or ValueError for another kind of file, one that is cut short, or one without a
    description.
    """
    path = Path(path)
    if not path.is_file():
        inside = path / "model.safetensors"
        hint = f"; of the run in this folder, take {inside}" if inside.is_file() else ""
        raise FileNotFoundError(f"{path}: no such model file{hint}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: expected a model file ({', '.join(READERS)}), got {path.suffix or 'no suffix'!r}")
    text = reader(path)
    if spec is not None:
        if not Path(spec).is_file():
            raise FileNotFoundError(f"{spec}: no such description; keylite info MODEL --json prints one")
        return decode_spec(Path(spec).read_bytes(), str(spec))
    if text is None:
        raise ValueError(
            f"{path}: holds no keylite description: if keylite wrote this file, it is damaged, copy it again; "
            "else give one as --spec FILE (keylite info MODEL --json prints one)"
        )
    return decode_spec(text, str(path))


def safetensors_header(path: Path) -> dict:
    """The header of a `.safetensors` file; ValueError where it is damaged or the file is shorter than it says."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER, size):
                raise ValueError("header longer than the file")
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, struct.error, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: not a .safetensors file, or cut short; copy or train it again") from None
    if size != 8 + length + max(ends, default=0):
        expected = 8 + length + max(ends, default=0)
        raise ValueError(f"{path}: expected {expected} bytes, got {size}: the file is damaged; copy it again")
    return header


def describe_safetensors(path: Path, spec: ModelSpec) -> None:
    """Change the description inside a `.safetensors` file; its tensors stay as they are."""
    header, whole = safetensors_header(path), path.read_bytes()
    tensors = whole[8 + struct.unpack("<Q", whole[:8])[0] :]
    header["__metadata__"] = header.get("__metadata__", {}) | {KEY: encode_spec(spec)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8, as the format asks
    write_bytes(path, struct.pack("<Q", len(text)) + text + tensors)


def _safetensors_text(path: Path) -> str | None:
    return safetensors_header(path).get("__metadata__", {}).get(KEY)


def write_tflite(path: Path | str, model: bytes, spec: ModelSpec) -> None:
    """Write a LiteRT model with its description appended, whole or not at all."""
    buffer = io.BytesIO(model)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, text in zip(TFLITE_MEMBERS, (encode_spec(spec), hashlib.sha256(model).hexdigest()), strict=True):
            archive.writestr(zipfile.ZipInfo(name), text)
    write_bytes(path, buffer.getvalue())


def tflite_model(path: Path) -> bytes:
    """The LiteRT model without the archive; ValueError where it is not what was written."""
    whole = path.read_bytes()
    if whole[4:8] != b"TFL3":
        raise ValueError(f"{path}: not a .tflite file, or cut short; copy or export it again")
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            model = whole[: min(member.header_offset for member in archive.infolist())]
            digest = archive.read(TFLITE_MEMBERS[1]).decode()
    except (zipfile.BadZipFile, KeyError, ValueError):
        return whole  # made by another tool
    if hashlib.sha256(model).hexdigest() != digest:
        raise ValueError(f"{path}: the file is damaged: its sha256 is not what was written; copy or export it again")
    return model


def _tflite_text(path: Path) -> bytes | None:
    with open(path, "rb") as file:
        if file.read(8)[4:] != b"TFL3":
            raise ValueError(f"{path}: not a .tflite file, or cut short; copy or export it again")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(TFLITE_MEMBERS[0])
    except (zipfile.BadZipFile, KeyError):
        return None


def _onnx_text(path: Path) -> bytes | None:
    """The value of metadata_props[KEY], found by walking the top-level fields of the protobuf."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, start, stop in _fields(data, 0, len(data)):
                if number == ONNX_METADATA_PROPS:
                    entry = {key: bytes(data[a:b]) for key, a, b in _fields(data, start, stop)}
                    if entry.get(1) == KEY.encode():
                        return entry.get(2)
    except (ValueError, IndexError):
        raise ValueError(f"{path}: not an .onnx file, or cut short; copy or export it again") from None
    return None


def _fields(data: mmap.mmap, position: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, stop) of each field of a protobuf message; start == stop for plain numbers."""
    while position < stop:
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            _, position = _varint(data, position)
            length = 0
        elif kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("unknown wire type")
        if position + length > stop:
            raise ValueError("cut short")
        yield tag >> 3, position, position + length
        position += length


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("number too long")


READERS: dict[str, Callable[[Path], str | bytes | None]] = {
    ".safetensors": _safetensors_text,
    ".onnx": _onnx_text,
    ".tflite": _tflite_text,
}
