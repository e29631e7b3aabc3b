"""Imports optional packages when they are needed; if one is missing, a line says what to install."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Generator
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


@contextlib.contextmanager
def without_tqdm_warning() -> Generator[None]:
    """Import in this block what imports `tqdm.auto`, which in a notebook without ipywidgets warns of its bars.

    timm and the client of the Hugging Face hub import it; keylite shows no bar of tqdm.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        yield
