"""What type checkers of keylite's users get: annotations that are shipped, and that say what a function takes."""

from __future__ import annotations

from importlib.resources import files


def test_type_checkers_are_told_that_there_are_annotations():
    assert (files("keylite") / "py.typed").is_file()  # hatch ships every file of the package
