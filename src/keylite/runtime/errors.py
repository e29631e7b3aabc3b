"""The errors that a caller can mend; each message says what was expected, what came, and the next step.

KeyliteError
  ArgumentError     an argument of a function; also a ValueError
  DataError         labels or a data set; also a ValueError
    ImageError      a picture; also a ValueError
  RecipeError       a training choice; also a ValueError
  ModelFileError    a model file or its description; also a ValueError
  OverBudgetError   an export whose points moved too far; its `certificate` has the figures

Python's own errors say the rest: FileNotFoundError (a file is missing), OSError (a file cannot be read or written) and
ModuleNotFoundError (a package is not installed).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator


class KeyliteError(Exception):
    """The base of all errors of keylite: catch it to catch them all."""


class ArgumentError(KeyliteError, ValueError):
    """An argument of a function has the wrong type, shape or value."""


class DataError(KeyliteError, ValueError):
    """Labels or a data set cannot be used."""


class ImageError(DataError):
    """A picture cannot be read, or an array is not a picture."""


class RecipeError(KeyliteError, ValueError):
    """A training choice does not exist, has a wrong value, or contradicts another choice."""


class ModelFileError(KeyliteError, ValueError):
    """A model file or its description is damaged, or is not what keylite expects."""


@contextlib.contextmanager
def naming(name: str) -> Generator[None]:
    """Errors in the block about a file that an argument names begin with the argument's name."""
    try:
        yield
    except (KeyliteError, FileNotFoundError) as error:
        words = str(error)
        if words.startswith(f"{name}: "):
            raise
        raise type(error)(f"{name}: {words}") from None
