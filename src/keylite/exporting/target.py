"""What an export makes, and how far points may move by it.

Formats are named in one table; their makers are imported when chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from keylite.exporting.calibration import CalibrationSet
from keylite.runtime.engines import ENGINES
from keylite.runtime.errors import ArgumentError
from keylite.runtime.kinds import number_of, require_kind
from keylite.runtime.packages import FRAMEWORKS, require
from keylite.runtime.spec import ModelSpec
from keylite.runtime.words import quoted


class Exporter(NamedTuple):
    """What makes a format: the framework whose package here has `exporting`, and the precisions that it knows."""

    framework: str
    precisions: tuple[str, ...]


EXPORTERS = {
    "onnx": Exporter("pytorch", ("fp32", "int8")),
    "litert": Exporter("tensorflow", ("fp32", "fp16", "int8")),
}
DRIFT_BUDGET = {"fp32": 0.02, "fp16": 0.1, "int8": 1.0}  # p95 px for an input of 128 px


class Exporting(Protocol):
    """What the `exporting` module of each framework has: from a model file to a file of its format."""

    Workshop: Any  # makes one model in several ways, for a diagnosis

    def export(self, parent: Path, out: Path, spec: ModelSpec, calibration: CalibrationSet | None = None) -> None:
        """Write `out` with the description `spec`. calibration: what an int8 file takes its ranges from."""
        ...

    def operators(self, path: Path) -> dict[str, int]:
        """How often a file has each operator."""
        ...

    def require_backbone(self, spec: ModelSpec) -> None:
        """ValueError for a backbone that this framework does not know."""
        ...

    def watch(self, child: Path, pixels: np.ndarray, reference: Path | None = None) -> Iterator[Any]:
        """What flows through the layers of an int8 file for some crops, beside the float file `reference`."""
        ...


@dataclasses.dataclass(frozen=True)
class Target:
    """What an export makes. to: a name in EXPORTERS. precision: fp32, fp16 or int8.

    Raises ValueError for a format or precision that nothing makes.
    """

    to: str
    precision: str

    def __post_init__(self) -> None:
        require_kind("to", self.to, str, "a text", f"one of {', '.join(EXPORTERS)}")
        require_kind("precision", self.precision, str, "a text", "such as 'int8'")
        if self.to not in EXPORTERS:
            raise ArgumentError(f"to: expected one of {', '.join(EXPORTERS)}, got {quoted(self.to)}")
        precisions = EXPORTERS[self.to].precisions
        if self.precision not in precisions:
            others = [f"`to='{name}'`" for name, kind in EXPORTERS.items() if self.precision in kind.precisions]
            hint = f"; {' or '.join(others)} makes it" if others else ""
            raise ArgumentError(
                f"precision: {self.to} is made in {', '.join(precisions)}, got {quoted(self.precision)}{hint}"
            )

    @property
    def suffix(self) -> str:
        """Of the files of this format."""
        return ENGINES[self.to].suffix


def exporter(target: Target) -> Exporting:
    """The module that makes a format; ModuleNotFoundError says what to install."""
    framework = EXPORTERS[target.to].framework
    return require(f"keylite.{framework}.exporting", FRAMEWORKS[framework])


@dataclasses.dataclass(frozen=True)
class Budget:
    """How far points may move. px: p95 of the drift, px of the model input; None takes `default_px`. nme: most that the
    NME may rise, as a fraction of it; None is no limit.

    Raises ValueError for a number that is not above 0.
    """

    px: float | None = None
    nme: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("budget", self.px), ("budget_nme", self.nme)):
            if value is not None and not 0 < number_of(value) < np.inf:
                raise ArgumentError(f"{name}: expected a number above 0, got {quoted(value)}")

    def px_for(self, spec: ModelSpec) -> float:
        """px, or the default for the precision and the input of a file."""
        return default_px(spec) if self.px is None else self.px

    def past(self, drift_p95: float, nme_parent: float, nme_child: float) -> list[str]:
        """In words, each limit that these figures are past; NaN is past every one."""
        past = []
        if self.px is not None and not drift_p95 <= self.px:
            past.append(f"p95 drift {drift_p95:.4g} px is over the budget of {self.px:g} px")
        change = nme_change(nme_parent, nme_child)
        if self.nme is not None and not change <= self.nme:
            past.append(f"NME rose by {100 * change:.2f} %, over the budget of {100 * self.nme:g} %")
        return past


def default_px(spec: ModelSpec) -> float:
    """DRIFT_BUDGET for a file's precision and input: p95 px, which grows with the longer side."""
    return DRIFT_BUDGET[spec.precision] * max(spec.size) / 128


def nme_change(parent: float, child: float) -> float:
    """By what fraction of the parent's NME the child's is larger."""
    if parent == 0:
        return 0.0 if child == 0 else float("inf")
    return child / parent - 1
