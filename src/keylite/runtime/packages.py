"""Packages that come with an extra: imported when they are needed, and the line that says what to install."""

from __future__ import annotations

import importlib

# What trains, and the extra that installs it. Its package here is keylite.<framework>.
FRAMEWORKS = {"pytorch": "pytorch", "tensorflow": "tensorflow-cpu"}


def require(module: str, extra: str):  # noqa: ANN201 - a module
    """The imported module; ModuleNotFoundError says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "keylite":
            raise
        raise ModuleNotFoundError(
            f"{error.name} is not installed: install it with: pip install 'keylite[{extra}]'", name=error.name
        ) from None
