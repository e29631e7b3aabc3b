"""Presets: recipes by name, for the flag `--preset` and for Python. recipe.py explains their choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keylite.runtime.errors import RecipeError
from keylite.runtime.types import Choice
from keylite.runtime.words import quoted
from keylite.training.recipe import Recipe

PRESETS: dict[str, dict[str, Any]] = {  # the choices in which each differs from the defaults
    "tiny": {"stages": 4, "size": 80},
    "small": {"stages": 4, "size": 112},
    "fast": {"size": 96, "effort": 0.5},
    "balanced": {},
    "accurate": {"stages": 7, "size": 224, "effort": 2.0},
}


def preset(name: str, **choices: Choice | Path | Sequence[int | Sequence[int | str]]) -> Recipe:
    """A recipe by name, with choices of your own.

    Args:
        name: `tiny` and `small` (for microcontrollers), `fast`, `balanced` (the defaults) or `accurate`;
            docs/recipe.md says in which choices they differ.
        **choices: Choices of `Recipe` that replace those of the preset.

    Returns:
        The recipe.

    Raises:
        RecipeError: No preset has this name, or a choice is unknown or impossible.

    Example:
        >>> recipe = keylite.preset("tiny", size=64)
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise RecipeError(f"preset: expected one of {', '.join(PRESETS)}, got {quoted(name)}")
    return Recipe(**(PRESETS[name] | choices))
