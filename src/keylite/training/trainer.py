"""The training of a framework, as `train` calls it: the functions that it must have, and how it is imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keylite.data.examples import Examples
from keylite.runtime.engines import ENGINES
from keylite.runtime.errors import naming
from keylite.runtime.packages import FRAMEWORKS, require
from keylite.runtime.spec import ModelSpec
from keylite.training.recipe import Recipe
from keylite.training.run import Run
from keylite.training.teacher import Teacher


class Trainer(Protocol):
    """The functions that the module `training` of each framework has."""

    def new_network(self, recipe: Recipe, spec: ModelSpec, shape: np.ndarray, weights: Path | None) -> Any:
        """A network that at first gives `shape` (K, 2), unit coordinates. weights: the file to start from, or None."""
        ...

    def require_resumable(self, run: Run, network: Any) -> None:
        """Raise ArgumentError if the resume checkpoint does not fit the network; load nothing."""
        ...

    def load_teacher(self, recipe: Recipe, teacher: Teacher) -> Any:
        """The teacher's network: from the student's pixels to raw values, by the student's keypoints."""
        ...

    def fit(self, run: Run, network: Any, examples: Examples, teacher: Any = None, *, resume: bool = False) -> None:
        """Train until the run is finished; the run writes what each epoch gives. teacher: of `load_teacher`."""
        ...


def trainer_of(framework: str) -> Trainer:
    """The training module of a framework; if that is not installed, the error names one that is."""
    package = next(kind.package for kind in ENGINES.values() if kind.framework == framework)
    try:
        if importlib.util.find_spec(package) is None:  # the framework itself, before the packages that come with it
            return require(package, FRAMEWORKS[framework])
        return require(f"keylite.{framework}.training", FRAMEWORKS[framework])
    except ModuleNotFoundError as error:
        kinds = [kind for kind in ENGINES.values() if kind.framework not in ("", framework)]
        there = [kind.framework for kind in kinds if importlib.util.find_spec(kind.package)]
        hint = f", or train with `framework='{there[0]}'`, which is" if there else ""
        raise ModuleNotFoundError(f"{error}{hint}", name=error.name) from None


def loaded_teacher(recipe: Recipe, teacher: Teacher | None) -> Any:
    """The network of a teacher, or None; ModelFileError, which names `teacher`, if its weights do not fit its spec.

    Make it before the student, whose random weights come from the recipe's seed.
    """
    if teacher is None:
        return None
    with naming("teacher"):
        return trainer_of(recipe.framework).load_teacher(recipe, teacher)
