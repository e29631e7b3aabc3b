"""Reads the wire format of protobuf messages, and checks an ONNX model before an engine gets it.

It needs only the standard library, so that a damaged or hostile file is refused before any engine reads it.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

from keylite.runtime.errors import ModelFileError

MAX_FIELDS = 1_000_000  # limit of fields that are read; lite0 has 40 thousand
MAX_DEPTH = 32  # limit of graphs within graphs, and of dimensions of a tensor
Data = bytes | mmap.mmap
Field = tuple[int, int, int, int]  # number, wire type, start, stop

# Message -> field number -> the message in that field, by onnx.proto: the paths to all tensors.
MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 14: "entry", 20: "training", 25: "function"},
    "entry": {},  # a key and a value of metadata_props
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
GRAPH, INITIALIZER = 7, 5  # fields of ModelProto and GraphProto
DIMS, DATA_TYPE, TENSOR_NAME, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 8, 13, 14  # fields of TensorProto


def require_sound_onnx(path: Path, data: Data) -> None:
    """Raise ValueError if tensors lie in other files, are larger than their bytes, or are nested too deeply."""
    waiting, remaining = [("model", 0, len(data), 0)], iter(range(MAX_FIELDS))
    try:
        while waiting:
            message, start, stop, depth = waiting.pop()
            if message == "tensor":
                _require_sound_tensor(path, data, _limited(fields(data, start, stop), remaining), stop - start)
                continue
            if depth > MAX_DEPTH:
                raise ModelFileError("nested too deeply")
            inside = MESSAGES[message]
            for number, kind, begin, end in _limited(fields(data, start, stop), remaining):
                if kind == 2 and number in inside:
                    waiting.append((inside[number], begin, end, depth + (inside[number] == "graph")))
    except IndexError:
        raise ModelFileError(f"{path}: not an .onnx file, or cut short; copy or export it again") from None
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ModelFileError(f"{path}: not an .onnx file, or damaged ({error}); copy or export it again") from None


def graph_tensors(data: Data) -> Iterator[tuple[str, int]]:
    """(name, number of its type) of each constant of a sound ONNX model's graph."""
    for number, kind, start, stop in fields(data, 0, len(data)):
        if (number, kind) == (GRAPH, 2):
            for inner, inner_kind, begin, end in fields(data, start, stop):
                if (inner, inner_kind) == (INITIALIZER, 2):
                    yield _name_and_type(data, begin, end)


def _name_and_type(data: Data, start: int, stop: int) -> tuple[str, int]:
    name, data_type = "", 0
    for number, kind, begin, end in fields(data, start, stop):
        if (number, kind) == (DATA_TYPE, 0):
            data_type = varint(data, begin)[0]
        elif (number, kind) == (TENSOR_NAME, 2):
            name = bytes(data[begin:end]).decode(errors="replace")
    return name, data_type


def _limited(message_fields: Iterator[Field], remaining: Iterator[int]) -> Iterator[Field]:
    """The same fields. Each takes one number of `remaining`; ValueError if none is left."""
    for entry in message_fields:
        if next(remaining, None) is None:
            raise ModelFileError(f"more than {MAX_FIELDS:,} fields")
        yield entry


def _require_sound_tensor(path: Path, data: Data, tensor_fields: Iterator[Field], size: int) -> None:
    dims: list[int] = []
    for number, kind, begin, end in tensor_fields:
        if number == EXTERNAL_DATA or (number == DATA_LOCATION and kind == 0 and varint(data, begin)[0]):
            raise ModelFileError(f"{path}: keeps weights in another file; save the model as one file, with its weights")
        if number == DIMS:
            while begin < end:  # one number, or several together
                value, begin = varint(data, begin)
                dims.append(value)
                if len(dims) > MAX_DEPTH:
                    raise ModelFileError("a tensor of too many dimensions")
    if math.prod(dims) > 8 * size:  # a value takes at least one bit
        raise ModelFileError("a tensor is larger than its bytes")


def fields(data: Data, position: int, stop: int) -> Iterator[Field]:
    """(field number, wire type, start, stop) of each field of a protobuf message.

    Raises ValueError or IndexError if the bytes are no message.
    """
    while position < stop:
        tag, position = varint(data, position)
        kind = tag & 7
        start = position
        if kind == 0:
            _, position = varint(data, position)
        elif kind == 2:
            length, start = varint(data, position)
            position = start + length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ModelFileError("unknown wire type")
        if position > stop:
            raise ModelFileError("cut short")
        yield tag >> 3, kind, start, position


def varint(data: Data, position: int) -> tuple[int, int]:
    """The number of variable length at a position, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ModelFileError("number too long")


def field(number: int, payload: bytes) -> bytes:
    """The bytes of a field that holds `payload`."""
    return _varint_bytes(number << 3 | 2) + _varint_bytes(len(payload)) + payload


def _varint_bytes(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
