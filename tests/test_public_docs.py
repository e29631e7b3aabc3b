"""The docstring of every public name: each argument, what comes back, and every field of what users make or read."""

from __future__ import annotations

import dataclasses
import inspect
import re

import msgspec
import pytest

import keylite


def members(name):
    """A public name and, if it is a class, its public methods and properties that keylite itself writes."""
    thing = getattr(keylite, name)
    yield name, thing
    if not inspect.isclass(thing):
        return
    for own, member in vars(thing).items():
        if own.startswith("_"):
            continue
        if isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        if inspect.isfunction(member) or isinstance(member, property):
            yield f"{name}.{own}", member


def every():
    return [pair for name in keylite.PUBLIC for pair in members(name)]


def sections(text):
    """Section -> its text; the part before the first one is under ''."""
    parts = re.split(r"^(Args|Attributes|Returns|Yields|Raises|Example|Source):", inspect.cleandoc(text), flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(section):
    """The names that a section explains: `    name: text`, or `    a, b: text`."""
    heads = re.findall(r"^    ([A-Za-z_*][\w, *]*):\s", section, flags=re.M)
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def lacks(name, thing):
    """What the docstring of this thing does not say; an empty list if it is whole."""
    if not (thing.__doc__ or "").strip():
        return ["a docstring"]
    found = sections(thing.__doc__)
    first = found[""].strip().splitlines()[0] if found[""].strip() else ""
    lines = [] if first.endswith((".", "?", ":")) else ["a first line that is a sentence"]
    if isinstance(thing, property):
        return lines
    if inspect.isclass(thing):
        section = "Attributes"
        if issubclass(thing, Exception):
            return lines
        if dataclasses.is_dataclass(thing):
            wanted = [field.name for field in dataclasses.fields(thing)]
        elif issubclass(thing, msgspec.Struct):
            wanted = list(thing.__struct_fields__)
            described = {key for key, hint in thing.__annotations__.items() if "_is(" in str(hint)}
            wanted = [key for key in wanted if key not in described]  # in place: flags and pages are made of it
        else:
            wanted = list(inspect.signature(thing).parameters)
            section = "Args"
    else:
        signature = inspect.signature(thing)
        wanted = [key for key in signature.parameters if key not in ("self", "cls")]
        section = "Args"
        gives = str(signature.return_annotation)
        if gives not in ("None", "str", "bool") and not {"Returns", "Yields"} & set(found):
            lines.append("Returns")
    said = entries(found.get(section, ""))
    lines += [f"{section}: {key}" for key in wanted if key not in said]
    return lines + [f"{key} is explained but is not there" for key in said if key not in wanted]


@pytest.mark.parametrize("name", [name for name, _ in every()])
def test_a_public_docstring_names_every_argument_and_field(name):
    assert lacks(name, dict(every())[name]) == []


@pytest.mark.parametrize("twin", ["pytorch", "tensorflow"])
def test_so_do_those_of_the_plain_networks(twin):
    module = pytest.importorskip(f"keylite.{twin}", reason=f"needs keylite[{twin}]")
    network = module.EfficientNetLiteRegressor
    things = {name: getattr(module, name) for name in module.__all__} | {"freeze": network.freeze}
    things["EfficientNetLiteRegressor"] = network.__init__
    network.__init__.__doc__ = network.__doc__
    assert {name: lacks(name, thing) for name, thing in things.items()} == {name: [] for name in things}


def test_the_check_sees_what_is_missing():
    def half(a: int, b: int) -> int:
        """Add.

        Args:
            a: The first.
            c: Nothing.
        """

    assert lacks("half", half) == ["Returns", "Args: b", "c is explained but is not there"]
