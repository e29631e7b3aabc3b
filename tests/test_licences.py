"""The page of licences names what pyproject.toml names, with licences that are known, and none of them is the GPL."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import licences
import pytest

import keylite

PAGE = licences.PAGE.read_text(encoding="utf-8")
ROWS = [
    (text, names.replace("*", "").split(", "))
    for text, names in re.findall(r"^\| \S+ \| (.+?) \| (.+) \|$", PAGE.partition(licences.MARK)[2], re.MULTILINE)
]
ON_PAGE = {name: text for text, names in ROWS for name in names}
EXTRAS = licences.PROJECT["optional-dependencies"]


def test_the_page_speaks_of_every_extra():
    assert {extra for extra in EXTRAS if f"`{extra}`" not in PAGE} == set()


@pytest.mark.parametrize("extra", ["", *licences.SHOWN])
def test_what_an_extra_names_is_on_the_page_under_its_licence(extra: str):
    for name in licences.named(extra):
        assert name in ON_PAGE
        try:
            assert licences.licence(name) == ON_PAGE[name], f"{name}: run python docs/licences.py"
        except importlib.metadata.PackageNotFoundError:
            continue


def test_no_package_is_under_the_gpl_and_every_licence_is_known():
    found = {name: licences.licence(name) for name in licences.brought(EXTRAS)}
    assert "numpy" in found
    assert {name: text for name, text in found.items() if licences.COPYLEFT.search(text)} == {}
    assert {name for name, text in found.items() if text == "not said"} == set()


SAID = {
    "GPL-3.0-or-later": True,
    "GPLv3": True,
    "AGPL-3.0": True,
    "GNU Affero General Public License v3": True,
    "GNU General Public License v2 (GPLv2)": True,
    "LGPL-2.1-or-later": False,
    "GNU Lesser General Public License v3": False,
    "MPL-2.0 AND MIT": False,
}


@pytest.mark.parametrize(("text", "copyleft"), SAID.items())
def test_the_gpl_is_recognised(text: str, copyleft: bool):
    assert bool(licences.COPYLEFT.search(text)) == copyleft


TRAINING = {"pytorch", "tensorflow", "tensorflow-cpu", "all", "dev"}


def test_every_installation_names_what_the_predictor_needs_alone():
    assert set(licences.named("")) == {"numpy", "opencv-python-headless", "msgspec"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_command_line_comes_with_every_extra_that_trains_and_with_no_other(extra: str):
    pytest.importorskip("cyclopts", reason="needs keylite[cli]")
    assert ("cyclopts" in licences.brought([extra])) == (extra in {*TRAINING, "cli"})


NAMES = {"yaml": "pyyaml"}  # modules whose package has another name


def required() -> set[tuple[str, str]]:
    """(module, extra) of what the source requires by both names."""
    texts = [file.read_text(encoding="utf-8") for file in Path(keylite.__file__).parent.rglob("*.py")]
    found = {pair for text in texts for pair in re.findall(r'\brequire\("([\w.]+)", "([\w-]+)"\)', text)}
    return {(module.partition(".")[0], extra) for module, extra in found if not module.startswith("keylite")}


def test_a_missing_package_is_said_to_come_with_an_extra_that_brings_it():
    assert {("onnxruntime", "onnx"), ("yaml", "cli")} <= required()
    for module, extra in required():
        assert licences.canonicalize_name(NAMES.get(module, module)) in licences.named(extra), (module, extra)
