"""Imports optional packages when they are needed; if one is missing, a line says what to install."""

from __future__ import annotations

import importlib
from typing import Any

# Framework -> the extra that installs it. The room of a framework is keylite.<framework>.
FRAMEWORKS = {"pytorch": "pytorch", "tensorflow": "tensorflow-cpu"}


def require(module: str, extra: str | None = None) -> Any:
    """Import a module. ModuleNotFoundError says how to install it: by an extra of keylite, or by its own name."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "keylite":
            raise
        wanted = f"'keylite[{extra}]'" if extra else (error.name or module).partition(".")[0]
        raise ModuleNotFoundError(
            f"{error.name} is not installed: install it with: pip install {wanted}", name=error.name
        ) from None
