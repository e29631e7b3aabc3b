"""The errors that keylite raises for what a caller can mend; each is one line: what, expected, got, next step.

KeyliteError
  ArgumentError     an argument of a function; a ValueError
  DataError         labels or a data set; a ValueError
    ImageError      a picture; a ValueError
  RecipeError       a choice of training; a ValueError
  ModelFileError    a model file or its description; a ValueError
  OverBudgetError   an export whose points moved too far; its `certificate` has the figures

A file that is not there is a FileNotFoundError, a disk or a folder that does not take a file an OSError, a package that
is not installed a ModuleNotFoundError.
"""

from __future__ import annotations


class KeyliteError(Exception):
    """What keylite refuses, and why."""


class ArgumentError(KeyliteError, ValueError):
    """An argument that a function does not take."""


class DataError(KeyliteError, ValueError):
    """Labels, or a data set, that cannot be used."""


class ImageError(DataError):
    """A picture that cannot be used."""


class RecipeError(KeyliteError, ValueError):
    """A choice of training that is not there, or does not go with the others."""


class ModelFileError(KeyliteError, ValueError):
    """A model file, or its description, that cannot be used."""
