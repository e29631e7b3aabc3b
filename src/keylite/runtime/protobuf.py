"""The wire format of protobuf messages, and what an ONNX model must be before an engine gets it.

Works with the standard library alone: an `.onnx` file is checked before a byte of it is taken for weights.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

from keylite.runtime.errors import ModelFileError

MAX_FIELDS = 1_000_000  # of messages that are walked through: lite0 has 40 thousand
MAX_DEPTH = 32  # of graphs in attributes of nodes
Data = bytes | mmap.mmap
Field = tuple[int, int, int, int]  # number, wire type, start, stop

# Where tensors may lie, by field number: onnx.proto. "tensor" is what is looked at.
MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 14: "entry", 20: "training", 25: "function"},
    "entry": {},  # of metadata_props
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
DIMS, EXTERNAL_DATA, DATA_LOCATION = 1, 13, 14  # fields of TensorProto


def require_sound_onnx(path: Path, data: Data) -> None:
    """Raise ValueError for a model with tensors in other files, or larger than the file, or nested without end."""
    waiting, left = [("model", 0, len(data), 0)], iter(range(MAX_FIELDS))
    try:
        while waiting:
            message, start, stop, depth = waiting.pop()
            if message == "tensor":
                _require_sound_tensor(path, data, _counted(fields(data, start, stop), left), stop - start)
                continue
            if depth > MAX_DEPTH:
                raise ModelFileError("nested without end")
            inside = MESSAGES[message]
            for number, kind, begin, end in _counted(fields(data, start, stop), left):
                if kind == 2 and number in inside:
                    waiting.append((inside[number], begin, end, depth + (inside[number] == "graph")))
    except IndexError:
        raise ModelFileError(f"{path}: not an .onnx file, or cut short; copy or export it again") from None
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ModelFileError(f"{path}: not an .onnx file, or damaged ({error}); copy or export it again") from None


def _counted(found: Iterator[Field], left: Iterator[int]) -> Iterator[Field]:
    """The same fields, of which there may be no more than `left` has left."""
    for one in found:
        if next(left, None) is None:
            raise ModelFileError(f"more than {MAX_FIELDS:,} fields")
        yield one


def _require_sound_tensor(path: Path, data: Data, found: Iterator[Field], size: int) -> None:
    dims: list[int] = []
    for number, kind, begin, end in found:
        if number == EXTERNAL_DATA or (number == DATA_LOCATION and kind == 0 and varint(data, begin)[0]):
            raise ModelFileError(
                f"{path}: keeps weights in another file; a model is one file: save it with its weights"
            )
        if number == DIMS:
            while begin < end:  # one number, or several packed
                value, begin = varint(data, begin)
                dims.append(value)
                if len(dims) > MAX_DEPTH:
                    raise ModelFileError("a tensor of too many dimensions")
    if math.prod(dims) > 8 * size:  # a value has one bit at least
        raise ModelFileError("a tensor is larger than its bytes")


def fields(data: Data, position: int, stop: int) -> Iterator[Field]:
    """(field number, wire type, start, stop) of each field of a protobuf message.

    ValueError or IndexError for what is none.
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
    """A number of variable length, and the position after it."""
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
    """A field of bytes, as it is written."""
    return _varint_bytes(number << 3 | 2) + _varint_bytes(len(payload)) + payload


def _varint_bytes(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
