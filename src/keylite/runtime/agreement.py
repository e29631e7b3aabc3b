"""Compares the description (spec) of an exported file with the tensors that the file has, field by field.

A description may lie beside its file (`--spec`), or somebody may have changed it, so it may be that of another file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keylite.runtime.errors import ArgumentError
from keylite.runtime.lite import LITE
from keylite.runtime.protobuf import graph_tensors
from keylite.runtime.spec import ModelSpec, Quantised
from keylite.runtime.words import escaped

STAGE = re.compile(r"blocks\.(\d+)\.")  # in the names of a lite backbone's tensors, which exports keep
ONNX_TYPES = {2: "uint8", 3: "int8", 10: "float16"}  # TensorProto.DataType in onnx.proto
ONNX_ENDS = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}


class End(NamedTuple):
    """An input or an output: its shape, the batch first, its type, and what integers stand for: scale * (q - zero)."""

    shape: list[Any]
    dtype: str
    scale: float = 0.0
    zero: int = 0


class Contents(NamedTuple):
    """What a file has. types, names: of the tensors between its ends.

    one_scale: whether the weights of each convolution share a scale; None if that is not known.
    """

    inputs: list[End]
    outputs: list[End]
    types: set[str]
    names: list[str]
    one_scale: bool | None


def tflite_contents(interpreter: Any) -> Contents:
    """What a `.tflite` file has, as LiteRT's interpreter says."""
    ends = [interpreter.get_input_details(), interpreter.get_output_details()]
    numbers = {entry["index"] for entry in (*ends[0], *ends[1])}
    inside = [entry for entry in interpreter.get_tensor_details() if entry["index"] not in numbers]
    inputs, outputs = (
        [End(entry["shape"].tolist(), np.dtype(entry["dtype"]).name, *entry["quantization"]) for entry in side]
        for side in ends
    )
    types = {np.dtype(entry["dtype"]).name for entry in inside}
    # LiteRT's converter gives a dense layer a scale per channel whatever it is told, so convolutions decide
    kernels = [entry for entry in inside if len(entry["shape"]) == 4]
    scales = max((len(entry["quantization_parameters"]["scales"]) for entry in kernels), default=0)
    return Contents(inputs, outputs, types, [entry["name"] for entry in inside], scales <= 1)


def onnx_contents(model: bytes, session: Any) -> Contents:
    """What an `.onnx` file has, as its bytes and ONNX Runtime's session say."""
    inputs, outputs = (
        [End(entry.shape, ONNX_ENDS.get(entry.type, str(entry.type))) for entry in side]
        for side in (session.get_inputs(), session.get_outputs())
    )
    tensors = list(graph_tensors(model))
    types = {ONNX_TYPES.get(kind, "float32") for _, kind in tensors}
    return Contents(inputs, outputs, types, [name for name, _ in tensors], None)


def require_agreement(path: Path, spec: ModelSpec, contents: Contents) -> None:
    """Raise ArgumentError, which names each field, if a file's tensors are not those that its spec describes."""
    width, height = spec.size
    inputs, outputs = ([end.shape for end in side] for side in (contents.inputs, contents.outputs))
    if not ([len(shape) for shape in inputs], [len(shape) for shape in outputs]) == ([4], [3]) or inputs[0][3] != 3:
        raise ArgumentError(
            f"{path}: expected one input (B, {height}, {width}, 3) and one output "
            f"(B, {spec.head.keypoints}, {spec.head.channels}) as its description says, got {inputs} and {outputs}; "
            "give the description of this file"
        )
    other = [
        f"{field}: {words(said)} there, {words(found)} in the file"
        for field, said, found in _compared(spec, contents)
        if said != found
    ]
    if other:
        raise ArgumentError(
            f"{path}: its description is that of another file: {'; '.join(other)}; give the description of this file"
        )


def words(value: Any) -> str:
    """A field's value for a message."""
    if isinstance(value, Quantised):
        return f"int8 of scale {value.scale:.9g} and zero {value.zero}"
    return escaped(str(value))


def _compared(spec: ModelSpec, contents: Contents) -> Iterable[tuple[str, Any, Any]]:
    """(field, what the spec says, what the file has) of each field that can be seen in a file."""
    (taken,), (given,) = contents.inputs, contents.outputs
    yield "size", "{}x{}".format(*spec.size), f"{taken.shape[2]}x{taken.shape[1]}"
    yield "head.keypoints", spec.head.keypoints, given.shape[1]
    yield f"channels of a {type(spec.head).__name__.lower()} head", spec.head.channels, given.shape[2]
    yield "input_type", spec.input_type, taken.dtype
    precision = _precision(contents.types)
    yield "precision", spec.precision, precision
    said, found = spec.output, given.dtype
    if given.dtype == "int8":
        same = said is not None and said.zero == given.zero and math.isclose(said.scale, given.scale, rel_tol=1e-6)
        found = said if same else f"int8 of scale {given.scale:.9g} and zero {given.zero}"
    elif given.dtype == "uint8":  # of another tool: a spec has no words for it
        found = "float32"
    yield "output", said or "float32", found
    stages = [int(number) for name in contents.names for number in STAGE.findall(name)]
    if stages and spec.backbone in LITE:
        yield "stages", spec.stages, max(stages) + 1
    if spec.weight_scales and precision == "int8" and contents.one_scale is not None:
        yield "weight_scales", spec.weight_scales, "per-tensor" if contents.one_scale else "per-channel"


def _precision(types: set[str]) -> str:
    return "int8" if types & {"int8", "uint8"} else "fp16" if "float16" in types else "fp32"
