"""The target of an export (format and precision), and the budget: how far it may move points.

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
from keylite.runtime.packages import FRAMEWORKS, require
from keylite.runtime.spec import ModelSpec
from keylite.runtime.words import quoted


class Format(NamedTuple):
    """How a format is made: the framework whose `exporting` module makes it, and the precisions that it can make."""

    framework: str
    precisions: tuple[str, ...]


FORMATS = {
    "onnx": Format("pytorch", ("fp32", "int8")),
    "litert": Format("tensorflow", ("fp32", "fp16", "int8")),
}
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

    Workshop: Callable[[Path, ModelSpec, Path, np.ndarray], AnyWorkshop]  # of: parent, its spec, a folder, images

    def export(self, parent: Path, out: Path, spec: ModelSpec, calibration: CalibrationSet | None = None) -> None:
        """Write the file `out` with the description `spec`. calibration: the images for the ranges of an int8 file."""
        ...

    def operators(self, path: Path) -> dict[str, int]:
        """How many operators of each kind a file has."""
        ...

    def require_backbone(self, spec: ModelSpec) -> None:
        """Raise ArgumentError if the framework does not know the backbone."""
        ...

    def watch(self, child: Path, pixels: np.ndarray, reference: Path | None = None) -> Iterator[list[Activation]]:
        """The outputs of all layers of an int8 file, a list per crop; with those of a float file."""
        ...


@dataclasses.dataclass(frozen=True)
class Target:
    """What an export makes. to: a format, a name in FORMATS. precision: fp32, fp16 or int8.

    Raises ArgumentError if the format does not exist, or is not made in this precision.
    """

    to: str
    precision: str

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

    @property
    def suffix(self) -> str:
        """The suffix of files in this format, with the dot."""
        return ENGINES[self.to].suffix


def target_of(out: Path, to: str | None, precision: str) -> Target:
    """The target of a file to write: its suffix says the format. ArgumentError if `to` says another one."""
    suffixes = {ENGINES[name].suffix: name for name in FORMATS}
    target = Target(suffixes.get(out.suffix, next(iter(FORMATS))) if to is None else to, precision)
    if out.suffix not in suffixes:
        raise ArgumentError(f"out: expected a name that ends in {' or '.join(suffixes)}, got {quoted(out.name)}")
    if out.suffix != target.suffix:
        raise ArgumentError(
            f"to: {quoted(out.name)} is a file for {suffixes[out.suffix]}, got {quoted(to)}; leave `to` out, or choose "
            f"a name that ends in {target.suffix}"
        )
    return target


def exporter(target: Target) -> Exporter:
    """The module that makes a format. ModuleNotFoundError says what to install if it cannot be imported."""
    framework = FORMATS[target.to].framework
    return require(f"keylite.{framework}.exporting", FRAMEWORKS[framework])


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
