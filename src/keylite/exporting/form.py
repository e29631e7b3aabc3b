"""The form of an export (format, precision, types of its tensors), and the budget: how far it may move points.

One table names the formats; the module that makes a format is imported when it is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from keylite.exporting.calibration import Activation, CalibrationSet, Variant
from keylite.runtime.engines import ENGINES
from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import number_of, require_kind
from keylite.runtime.lite import LITE
from keylite.runtime.packages import FRAMEWORKS, require
from keylite.runtime.spec import ModelSpec
from keylite.runtime.words import quoted


class Tensors(NamedTuple):
    """The types that the input and the output of a model file may have; the first of each is the usual one."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Format(NamedTuple):
    """How a format is made: the framework whose `exporting` module makes it, and the precisions that it can make."""

    framework: str
    precisions: dict[str, Tensors]


FLOAT_OUT = ("float32",)
FORMATS = {
    "onnx": Format("pytorch", dict.fromkeys(("fp32", "int8"), Tensors(("uint8", "float32"), FLOAT_OUT))),
    "litert": Format(
        "tensorflow",
        dict.fromkeys(("fp32", "fp16"), Tensors(("uint8",), FLOAT_OUT))
        | {"int8": Tensors(("uint8", "int8"), ("float32", "int8"))},
    ),
}
WEIGHT_SCALES = ("per-channel", "per-tensor")  # the usual one first
DRIFT_BUDGET = {"fp32": 0.02, "fp16": 0.1, "int8": 1.0}  # px of drift (p95) that are allowed for an input of 128 px


class AnyWorkshop(Protocol):
    """What the `Workshop` of each framework has: it makes files of one model in several ways, for a diagnosis."""

    variants: dict[str, Variant]

    def make(
        self, out: Path, precision: str, calibration: CalibrationSet | None = None, variant: str = "default"
    ) -> None:
        """Write a file. calibration, variant: for int8."""
        ...

    def own_noise(self, child: Path, calibration: CalibrationSet) -> dict[str, float]:
        """The mean squared error that each layer of an int8 file adds to exact inputs, by layer."""
        ...


class Exporter(Protocol):
    """The functions that the `exporting` module of each framework has."""

    def export(
        self,
        parent: Path,
        out: Path,
        spec: ModelSpec,
        calibration: CalibrationSet | None = None,
        output_type: str = "float32",
    ) -> None:
        """Write the file `out` with the description `spec`. calibration: the images for the ranges of an int8 file.

        output_type: if "int8", the description in the file also has the scale and the zero point of the output.
        """
        ...

    def operators(self, path: Path) -> dict[str, int]:
        """How many operators of each kind a file has."""
        ...


class Examiner(Protocol):
    """What the `workshop` module of each framework has, to find out what int8 costs."""

    Workshop: Callable[[Path, ModelSpec, Path, np.ndarray], AnyWorkshop]  # of: parent, its spec, a folder, images

    def watch(self, child: Path, pixels: np.ndarray, reference: Path | None = None) -> Iterator[list[Activation]]:
        """The outputs of all layers of an int8 file, a list per crop; with those of a float file."""
        ...


@dataclasses.dataclass(frozen=True)
class Form:
    """What an export makes. to: a format, a name in FORMATS. precision: fp32, fp16 or int8.

    input_type, output_type: the types of the file's input and output. weight_scales: "per-channel" or "per-tensor", for
    int8. Raises ArgumentError if the format does not exist, or is not made in this way.
    """

    to: str
    precision: str
    input_type: str = "uint8"
    output_type: str = "float32"
    weight_scales: str = WEIGHT_SCALES[0]

    def __post_init__(self) -> None:
        require_kind("to", self.to, str, "a text", f"one of {', '.join(FORMATS)}")
        require_kind("precision", self.precision, str, "a text", "such as 'int8'")
        if self.to not in FORMATS:
            fits = [name for name in FORMATS if ENGINES[name].suffix == f".{self.to}"]
            hint = f"; for a .{self.to} file give {fits[0]}" if fits else ""
            raise ArgumentError(f"to: expected one of {', '.join(FORMATS)}, got {quoted(self.to)}{hint}")
        precisions = FORMATS[self.to].precisions
        if self.precision not in precisions:
            others = [f"`to='{name}'`" for name, kind in FORMATS.items() if self.precision in kind.precisions]
            hint = f"; for {self.precision} choose {' or '.join(others)}" if others else ""
            raise ArgumentError(
                f"precision: for {self.to} expected {' or '.join(precisions)}, got {quoted(self.precision)}{hint}"
            )
        for name, given, possible in zip(
            ("input_type", "output_type"),
            (self.input_type, self.output_type),
            precisions[self.precision],
            strict=True,
        ):
            require_kind(name, given, str, "a text", f"such as {quoted(possible[0])}")
            if given not in possible:
                raise ArgumentError(
                    f"{name}: for {self.to} in {self.precision} expected {' or '.join(possible)}, got {quoted(given)}"
                    f"{_others(name, given)}"
                )
        require_kind("weight_scales", self.weight_scales, str, "a text", "such as 'per-tensor'")
        if self.weight_scales not in WEIGHT_SCALES:
            raise ArgumentError(
                f"weight_scales: expected {' or '.join(WEIGHT_SCALES)}, got {quoted(self.weight_scales)}"
            )
        if self.weight_scales != WEIGHT_SCALES[0] and self.precision != "int8":
            raise ArgumentError(
                f"weight_scales: for {self.precision} expected per-channel, got {quoted(self.weight_scales)}: only "
                "int8 weights have scales"
            )

    @property
    def suffix(self) -> str:
        """The suffix of files in this format, with the dot."""
        return ENGINES[self.to].suffix


def _others(name: str, given: str) -> str:
    """A hint: the formats and precisions in which an input or output may have the given type, if there are any."""
    place = ("input_type", "output_type").index(name)
    others = [
        f"{to} in {precision}"
        for to, kind in FORMATS.items()
        for precision, types in kind.precisions.items()
        if given in types[place]
    ]
    return f"; {given} is possible for {' or '.join(others)}" if others else ""


def form_of(out: Path, to: str | None, precision: str, **choices: str) -> Form:
    """The form of a file to write: its suffix says the format. ArgumentError if `to` says another one.

    choices: other fields of Form.
    """
    suffixes = {ENGINES[name].suffix: name for name in FORMATS}
    said = suffixes.get(out.suffix, next(iter(FORMATS))) if to is None else to
    form = Form(said, precision, **choices)
    if out.suffix not in suffixes:
        raise ArgumentError(f"out: expected a name that ends in {' or '.join(suffixes)}, got {quoted(out.name)}")
    if out.suffix != form.suffix:
        raise ArgumentError(
            f"to: {quoted(out.name)} is a file for {suffixes[out.suffix]}, got {quoted(to)}; leave `to` out, or choose "
            f"a name that ends in {form.suffix}"
        )
    return form


def require_backbone(to: str, spec: ModelSpec) -> None:
    """Raise ArgumentError if no file of a format can be made of a backbone."""
    if FORMATS[to].framework == "tensorflow" and spec.backbone not in LITE:
        raise ArgumentError(
            f"backbone: {to} takes {', '.join(LITE)}, got {spec.backbone}: Keras has no such network; use `to='onnx'`"
        )


def exporter(form: Form) -> Exporter:
    """The module that makes a format. ModuleNotFoundError says what to install if it cannot be imported."""
    framework = FORMATS[form.to].framework
    return require(f"keylite.{framework}.exporting", FRAMEWORKS[framework])


def examiner(form: Form) -> Examiner:
    """The module that examines int8 files of a format, whose `exporter` can be imported."""
    framework = FORMATS[form.to].framework
    return require(f"keylite.{framework}.workshop", FRAMEWORKS[framework])


@dataclasses.dataclass(frozen=True)
class Budget:
    """How far an export may move points.

    px: the largest drift (p95), px of the model input. nme: by what fraction the NME may rise. None: no limit. Raises
    ArgumentError for a number that is not above 0.
    """

    px: float
    nme: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("budget", self.px), ("budget_nme", self.nme)):
            if (name == "budget" or value is not None) and not 0 < number_of(value) < np.inf:
                raise ArgumentError(f"{name}: expected a number above 0, got {quoted(value)}")

    @classmethod
    def for_spec(cls, spec: ModelSpec, px: float | None, nme: float | None) -> Budget:
        """The budget of a file with this spec. px None: DRIFT_BUDGET of its precision, scaled with its longer side."""
        return cls(DRIFT_BUDGET[spec.precision] * max(spec.size) / 128 if px is None else px, nme)

    def past(self, drift_p95: float, nme_parent: float, nme_child: float) -> list[str]:
        """A text for each limit that these figures exceed. NaN exceeds every limit."""
        past = []
        if not drift_p95 <= self.px:
            past.append(f"p95 drift {drift_p95:.4g} px is over the budget of {self.px:g} px")
        change = nme_change(nme_parent, nme_child)
        if self.nme is not None and not change <= self.nme:
            past.append(f"NME rose by {100 * change:.2f} %, over the budget of {100 * self.nme:g} %")
        return past


def nme_change(parent: float, child: float) -> float:
    """By what fraction of the parent's NME the child's NME is larger."""
    if parent == 0:
        return 0.0 if child == 0 else float("inf")
    return child / parent - 1
