"""What type checkers of keylite's users get: annotations that are shipped, and that say what a function takes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import get_args, get_type_hints

import pytest

import keylite
from keylite.runtime import types

VAGUE = {"Any", "object"}
OPERATORS = ("__init__", "__call__", "__getitem__", "__iter__", "__len__")


def test_type_checkers_are_told_that_there_are_annotations():
    assert (files("keylite") / "py.typed").is_file()  # hatch ships every file of the package


def public_functions() -> Iterator[tuple[str, Callable]]:
    """The functions of keylite, and the public methods of its classes, by name."""
    for name in keylite.PUBLIC:
        value = getattr(keylite, name)
        if not inspect.isclass(value):
            yield name, value
            continue
        for method, entry in vars(value).items():
            function = next(
                (getattr(entry, at) for at in ("__func__", "fget", "func") if getattr(entry, at, None)), entry
            )
            if inspect.isfunction(function) and (not method.startswith("_") or method in OPERATORS):
                yield f"{name}.{method}", function


def vague(annotation: str) -> set[str]:
    """What an annotation names that says nothing of the value."""
    return VAGUE & {node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name)}


def annotations(function: Callable) -> Iterator[tuple[str, str]]:
    signature = inspect.signature(function)
    yield "return", signature.return_annotation or "None"
    for name, parameter in signature.parameters.items():
        if name not in ("self", "cls"):
            yield name, parameter.annotation


FUNCTIONS = dict(public_functions())


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_public_signature_says_what_is_taken_and_given(function: Callable):
    assert {name: words for name, text in annotations(function) if (words := vague(text))} == {}


def test_the_reading_finds_functions_methods_properties_and_what_is_vague():
    assert {"train", "Predictor.__call__", "Predictor.of", "Dataset.labelled", "Keypoints.plot"} <= FUNCTIONS.keys()
    assert vague("Iterable[tuple[Image, object]] | None") == {"object"}
    assert vague("Callable[..., Any]") == {"Any"}


def public_types() -> Iterator[type]:
    """The public classes, the types that public signatures name, and the types of the fields of all of them."""
    waiting = [value for name in keylite.PUBLIC if inspect.isclass(value := getattr(keylite, name))]
    for function in FUNCTIONS.values():
        named = {
            node.id for _, text in annotations(function) for node in ast.walk(ast.parse(text)) if hasattr(node, "id")
        }
        waiting += [function.__globals__.get(name) for name in named]
    seen = set()
    while waiting:
        kind = waiting.pop()
        if inspect.isclass(kind) and kind.__module__.startswith("keylite.") and kind not in seen:
            seen.add(kind)
            yield kind
            waiting += [part for hint in get_type_hints(kind).values() for part in parts(hint)]


def test_a_public_field_says_what_it_holds():
    found = {
        f"{kind.__name__}.{field}": text
        for kind in public_types()
        for field, text in kind.__annotations__.items()
        if not field.startswith("_") and vague(str(text))
    }
    assert found == {}


def test_the_reading_of_fields_finds_what_results_are_made_of():
    assert {"Provenance", "Calibration", "FoldReport", "Times", "FileTimes", "PointsDict", "ObjectDict", "Found"} <= {
        kind.__name__ for kind in public_types()
    }


def parts(kind: object) -> Iterator[object]:
    yield kind
    for part in get_args(kind):
        yield from parts(part)


def test_named_types_are_not_vague_either():
    named = {name: value for name, value in vars(types).items() if get_args(value)}
    assert {"Image", "Boxes", "FilePath"} <= named.keys()
    for name, kind in named.items():
        assert not VAGUE & {getattr(part, "__name__", "") for part in parts(kind)}, name


def test_type_checkers_see_every_public_name():
    module = ast.parse(inspect.getsource(keylite))
    block = next(node for node in module.body if isinstance(node, ast.If))
    seen = {name.name for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert seen == set(keylite.PUBLIC)
