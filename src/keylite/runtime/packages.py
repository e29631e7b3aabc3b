"""Packages that keylite does without until they are needed: imported then, or a line says what to install."""

from __future__ import annotations

import importlib
from typing import Any

# What trains, and the extra that installs it. Its package here is keylite.<framework>.
FRAMEWORKS = {"pytorch": "pytorch", "tensorflow": "tensorflow-cpu"}


def require(module: str, extra: str | None = None) -> Any:
    """The imported module; ModuleNotFoundError says which extra brings it, or that it is installed by its own name."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "keylite":
            raise
        wanted = f"'keylite[{extra}]'" if extra else error.name
        raise ModuleNotFoundError(
            f"{error.name} is not installed: install it with: pip install {wanted}", name=error.name
        ) from None
