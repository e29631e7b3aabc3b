"""Reads and writes the description (spec) inside a model file, and the seal that shows damage.

`.safetensors` holds the description in the header's `__metadata__`, `.onnx` in `metadata_props`, both under the key
`keylite`; `.tflite` holds it in `keylite.json`, a member of a zip archive at its end. Each file also holds a seal: the
sha256 of the whole file, in which the 64 digits of the seal count as zeros. Every file is checked when it is opened, so
an engine only gets files whose parts fit together. The formats are read with the standard library alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from keylite.runtime.errors import ModelFileError
from keylite.runtime.files import open_file, write_bytes
from keylite.runtime.kinds import path_of, path_or_none
from keylite.runtime.protobuf import field, fields, require_sound_onnx
from keylite.runtime.spec import MAX_DESCRIPTION, ModelSpec, decode_spec, encode_spec
from keylite.runtime.texts import each_once
from keylite.runtime.types import FilePath
from keylite.runtime.words import quoted

KEY = "keylite"
SEAL = "keylite_sha256"
BLANK = "0" * 64  # stands for the seal's digits while the sha256 is calculated
ONNX_METADATA_PROPS = 14  # field number of ModelProto.metadata_props in onnx.proto
TFLITE_MEMBER = "keylite.json"
CHECKPOINT = {"precision": "fp32", "input_type": "uint8", "output": None, "weight_scales": None, "calibration": None}
MAX_HEADER = 8_000_000  # bytes of a .safetensors header: that of lite4 has 70 kB, the largest of timm under 1 MB
MAX_DIRECTORY = 100_000  # bytes of the directory of the archive in a .tflite file; keylite's has 58
BYTES = {  # type of a value in the safetensors format: its number of bytes
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}

Data = bytes | mmap.mmap


class ModelFile(NamedTuple):
    """The spec of a model file, and its digest: its seal, or its sha256 if it has no seal."""

    spec: ModelSpec
    digest: str


class Contents(NamedTuple):
    """The parts of a file that keylite adds. description: None if missing. seal: where it begins, None if missing."""

    description: str | bytes | None
    seal: int | None


def read_spec(model: FilePath, spec: FilePath | None = None) -> ModelSpec:
    """Read the description inside a model file; the whole file is checked for damage.

    Args:
        model: A `.safetensors`, `.onnx` or `.tflite` file.
        spec: A JSON file with the description of a model file that holds none. None: the model file holds it.

    Returns:
        The description: input size, crop, head, names of keypoints, where the model came from.

    Raises:
        ArgumentError: `model` or `spec` is no path.
        FileNotFoundError: The model file or the JSON file does not exist.
        ModelFileError: The file is not a model file or is damaged; or it holds no description and `spec` is None, or
            it holds one and `spec` gives a second one.
    """
    return read_model_file(model, spec).spec


def read_model_file(path: FilePath, spec: FilePath | None = None) -> ModelFile:
    """Check a `.safetensors`, `.onnx` or `.tflite` file, and give its spec and digest. See `read_spec` for the rest."""
    path, spec = path_of("model", path), path_or_none("spec", spec)
    _require_file(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ModelFileError(
            f"{path}: expected a model file ({', '.join(READERS)}), got {quoted(path.suffix or 'no suffix')}"
        )
    description, digest = _checked(path, reader)
    if description is not None:
        if spec is not None:
            raise ModelFileError(
                f"{path}: already holds its description; leave out `spec` ({spec}), which is for a file that holds none"
            )
        return ModelFile(_fitting(path, decode_spec(description, str(path))), digest)
    if spec is None:
        raise ModelFileError(
            f"{path}: holds no keylite description: if keylite wrote this file, it is damaged, so copy it again; "
            "else give one as `spec=FILE` (keylite info MODEL --json prints one)"
        )
    if not spec.exists():
        raise FileNotFoundError(f"{spec}: no such description; keylite info MODEL --json prints one")
    if spec.stat().st_size > MAX_DESCRIPTION:
        raise ModelFileError(f"{spec}: expected a description of at most {MAX_DESCRIPTION:,} bytes; is this the file?")
    with open_file(spec) as file:
        return ModelFile(_fitting(path, decode_spec(file.read(), str(spec))), digest)


def _fitting(path: Path, spec: ModelSpec) -> ModelSpec:
    """The spec; ModelFileError if it describes an export, and the file is a checkpoint, which has no such tensors."""
    if path.suffix.lower() == ".safetensors":
        for name, usual in CHECKPOINT.items():
            if (value := getattr(spec, name)) != usual:
                raise ModelFileError(
                    f"{path}: {name}: its description says {quoted(value)}, but a .safetensors file has "
                    f"{quoted(usual)}; give the description of this file"
                )
    return spec


def _require_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model file")
    if path.is_dir():
        inside = path / "model.safetensors"
        hint = f"; this is the folder of a run: take {inside}" if inside.is_file() else ""
        raise ModelFileError(f"{path}: expected a model file, got a folder{hint}")
    open_file(path, "a model file").close()


def describe(path: Path, spec: ModelSpec) -> None:
    """Replace the description inside a model file; nothing else changes."""
    WRITERS[path.suffix.lower()](path, path.read_bytes(), spec)


# ---- the seal


def _checked(path: Path, reader: Callable[[Path, Data], Contents]) -> tuple[str | bytes | None, str]:
    """The description in a file, or None, and the digest of the file. ValueError if the file is damaged."""
    with open(path, "rb") as file:
        if path.stat().st_size == 0:
            raise ModelFileError(f"{path}: the file is empty, or cut short; copy it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            description, place = reader(path, data)
            if place is None:
                if description is not None:
                    decode_spec(description, str(path))  # refuses other format numbers, which may have no seal
                    raise _damaged(path, "it holds a description without a sha256")
                return None, hashlib.sha256(data).hexdigest()
            digits = data[place : place + len(BLANK)]
            if digits != seal_of(data, place).encode():
                raise _damaged(path, "its sha256 does not fit its content")
            return description, digits.decode()


def seal_of(data: Data, place: int) -> str:
    """The sha256 of a file in which the 64 digits from `place` on count as zeros."""
    with memoryview(data) as view:
        digest = hashlib.sha256(view[:place])
        digest.update(BLANK.encode())
        digest.update(view[place + len(BLANK) :])
    return digest.hexdigest()


def _damaged(path: Path, problem: str) -> ModelFileError:
    return ModelFileError(
        f"{path}: the file is damaged, or another program changed it: {problem}; copy or make it again"
    )


def _write_sealed(path: Path, data: bytearray, place: int) -> None:
    data[place : place + len(BLANK)] = seal_of(bytes(data), place).encode()
    write_bytes(path, bytes(data))


# ---- .safetensors


def write_safetensors(path: FilePath, whole: bytes, spec: ModelSpec) -> None:
    """Write the tensors of a `.safetensors` file, given as bytes, as a model file; whole or not at all."""
    write_sealed_safetensors(path, whole, {KEY: encode_spec(spec)})


def write_sealed_safetensors(path: FilePath, whole: bytes, metadata: Mapping[str, str]) -> None:
    """As `write_safetensors`, but with this metadata in place of a spec."""
    (length,) = struct.unpack("<Q", whole[:8])
    tensors = json.loads(whole[8 : 8 + length])
    tensors.pop("__metadata__", None)
    header = {"__metadata__": {**metadata, SEAL: BLANK}, **tensors}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8, as the format asks
    data = bytearray(struct.pack("<Q", len(text)) + text)
    data += memoryview(whole)[8 + length :]
    _write_sealed(Path(path), data, data.index(f'"{SEAL}":"{BLANK}'.encode()) + len(SEAL) + 4)


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a `.safetensors` file. ValueError if it is damaged, the seal does not fit, or tensors overlap."""
    _require_file(path)
    _checked(path, _safetensors_contents)
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def _safetensors_contents(path: Path, data: Data) -> Contents:
    try:
        (length,) = struct.unpack("<Q", data[:8])
        if length > MAX_HEADER:
            raise ModelFileError("long header")
        text = data[8 : 8 + length]
        header = json.loads(text, object_pairs_hook=each_once)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ModelFileError("metadata")
        spans = sorted(_span(entry) for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        raise ModelFileError(f"{path}: not a .safetensors file, or cut short; copy or train it again") from None
    end = spans[-1][1] if spans else 0
    if len(data) != 8 + length + end:
        raise ModelFileError(
            f"{path}: expected {8 + length + end} bytes, got {len(data)}: the file is damaged; copy it again"
        )
    if any(start != before for (start, _), (_, before) in zip(spans, [(0, 0), *spans], strict=False)):
        raise _damaged(path, "its tensors overlap, or leave bytes out")
    place = None
    if SEAL in metadata:
        seal = re.search(rb'"%s"\s*:\s*"[0-9a-f]{%d}"' % (SEAL.encode(), len(BLANK)), text)
        if seal is None:
            raise _damaged(path, "its sha256 cannot be read")
        place = 8 + seal.end() - 1 - len(BLANK)
    return Contents(metadata.get(KEY), place)


def _span(entry: dict[str, Any]) -> tuple[int, int]:
    """(start, stop) of the bytes of a tensor. ValueError if they are not as many as its type and shape need."""
    shape, (start, stop) = entry["shape"], entry["data_offsets"]
    numbers = (*shape, start, stop)
    if set(entry) != {"dtype", "shape", "data_offsets"} or not all(type(number) is int for number in numbers):
        raise ModelFileError("tensor")
    if min(numbers) < 0 or stop - start != BYTES[entry["dtype"]] * math.prod(shape):
        raise ModelFileError("tensor")
    return start, stop


# ---- .tflite: a zip archive after the model


def write_tflite(path: FilePath, model: bytes, spec: ModelSpec) -> None:
    """Write a LiteRT model with this description after it; whole or not at all. An archive of keylite is replaced."""
    path = Path(path)
    buffer = io.BytesIO(model[: _model_length(model)])
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(zipfile.ZipInfo(TFLITE_MEMBER), encode_spec(spec))
        archive.comment = f"{SEAL}{BLANK}".encode()
    data = bytearray(buffer.getvalue())
    _write_sealed(path, data, len(data) - len(BLANK))


def tflite_model(path: Path) -> bytes:
    """The LiteRT model without the archive. ValueError if the file is damaged."""
    _checked(path, _tflite_contents)
    whole = path.read_bytes()
    return whole[: _model_length(whole)]


def _model_length(data: Data) -> int:
    """The number of bytes before keylite's archive; all of them if there is none."""
    archive = _archive(data)
    if archive is None or TFLITE_MEMBER not in archive.namelist():
        return len(data)
    return min(member.header_offset for member in archive.infolist())


def _tflite_contents(path: Path, data: Data) -> Contents:
    if data[4:8] != b"TFL3":
        raise ModelFileError(f"{path}: not a .tflite file, or cut short; copy or export it again")
    try:
        archive = _archive(data)
        if archive is None:
            if data.rfind(TFLITE_MEMBER.encode()) >= 0:
                raise ModelFileError("an archive that cannot be read")
            return Contents(None, None)
        names = archive.namelist()
        if TFLITE_MEMBER not in names:
            return Contents(None, None)
        member = archive.getinfo(TFLITE_MEMBER)
        plain = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & ENCRYPTED
        if names.count(TFLITE_MEMBER) > 1 or not plain or member.file_size > MAX_DESCRIPTION:
            raise ModelFileError("a description that keylite does not write")
        sealed = archive.comment.startswith(SEAL.encode()) and len(archive.comment) == len(SEAL) + len(BLANK)
        return Contents(archive.read(member), len(data) - len(BLANK) if sealed else None)
    except (*ZIP_ERRORS, ValueError):
        raise _damaged(path, "the archive after its model cannot be read") from None


ENCRYPTED = 0x2041  # flags of a zip member for three kinds of encryption
# Errors that `zipfile` raises if an archive is damaged or of an unknown kind.
ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, struct.error, OverflowError)


def _archive(data: Data) -> zipfile.ZipFile | None:
    """The archive at the end of a file; None if there is none, or its directory is larger than MAX_DIRECTORY."""
    end = data.rfind(b"PK\5\6", max(0, len(data) - 22 - 0xFFFF))
    if end < 0 or len(data) < end + 22 or struct.unpack_from("<I", data, end + 12)[0] > MAX_DIRECTORY:
        return None
    if data[max(0, end - 20) : max(0, end - 16)] == b"PK\6\7":  # above 4 GB; its sizes are elsewhere
        return None
    try:
        return zipfile.ZipFile(io.BytesIO(data))  # a copy, because the archive would keep the memory map open
    except (*ZIP_ERRORS, ValueError):
        return None


# ---- .onnx


def write_onnx(path: FilePath, model: bytes, spec: ModelSpec) -> None:
    """Write a serialised ONNX model with this description; whole or not at all."""
    kept: list[bytes] = []
    start = 0
    for number, kind, begin, stop in fields(model, 0, len(model)):
        if (number, kind) != (ONNX_METADATA_PROPS, 2) or _entry(model, begin, stop)[0] not in (KEY, SEAL):
            kept.append(model[start:stop])
        start = stop
    for key, value in ((KEY, encode_spec(spec)), (SEAL, BLANK)):
        kept.append(field(ONNX_METADATA_PROPS, field(1, key.encode()) + field(2, value.encode())))
    data = bytearray(b"".join(kept))
    _write_sealed(Path(path), data, len(data) - len(BLANK))


def _entry(data: Data, start: int, stop: int) -> tuple[str, tuple[int, int]]:
    """The key of an entry of metadata_props, and (start, stop) of its value."""
    places = {number: (begin, end) for number, kind, begin, end in fields(data, start, stop) if kind == 2}
    begin, end = places.get(1, (start, start))
    return bytes(data[begin:end]).decode(errors="replace"), places.get(2, (stop, stop))


def _onnx_contents(path: Path, data: Data) -> Contents:
    """The values of KEY and SEAL in metadata_props."""
    require_sound_onnx(path, data)  # first, because it reads no more than MAX_FIELDS
    places: dict[str, tuple[int, int]] = {}
    try:
        for number, kind, start, stop in fields(data, 0, len(data)):
            if (number, kind) == (ONNX_METADATA_PROPS, 2):
                key, place = _entry(data, start, stop)
                if key in (KEY, SEAL) and key in places:
                    raise ModelFileError("a description twice")
                places[key] = place
    except (ValueError, IndexError):
        raise ModelFileError(f"{path}: not an .onnx file, or cut short; copy or export it again") from None
    seal = places.get(SEAL)
    if seal and seal[1] - seal[0] != len(BLANK):
        raise _damaged(path, "its sha256 cannot be read")
    description = bytes(data[slice(*places[KEY])]) if KEY in places else None
    return Contents(description, seal[0] if seal else None)


READERS: dict[str, Callable[[Path, Data], Contents]] = {
    ".safetensors": _safetensors_contents,
    ".onnx": _onnx_contents,
    ".tflite": _tflite_contents,
}
WRITERS: dict[str, Callable[[Path, bytes, ModelSpec], None]] = {
    ".safetensors": write_safetensors,
    ".onnx": write_onnx,
    ".tflite": write_tflite,
}
