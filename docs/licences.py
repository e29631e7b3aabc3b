"""Which packages each extra brings, and under which licences: `python docs/licences.py` writes docs/licences.md.

The extras are those of pyproject.toml; what they bring, and the licences, are said by the packages that are installed.
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from keylite.runtime.files import write_text

DOCS = Path(__file__).parent
PAGE = DOCS / "licences.md"
PROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# all and tensorflow are in the text of the page
SHOWN = ("cli", "onnx", "litert", "micro", "pytorch", "tensorflow-cpu", "coco", "sleap", "ray", "dev")
SAID = {  # what the metadata of packages say, and how SPDX (a standard list of licences) writes it
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause": "BSD-3-Clause",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "NVIDIA Proprietary Software": "NVIDIA's own",
    "LicenseRef-NVIDIA-Proprietary": "NVIDIA's own",
    "Python Software Foundation License": "PSF-2.0",
}
UNSAID = {  # packages whose metadata name no licence; it was read in their licence files
    "cuda-toolkit": "none said; it only names NVIDIA's packages",
    "faster-coco-eval": "Apache-2.0",
    "namex": "Apache-2.0",
    "rich-click": "MIT",
    "tflite-micro": "Apache-2.0",
}
COPYLEFT = re.compile(r"\bA?GPL|\bGNU (Affero )?General")  # not the LGPL
MARK = "<!-- from here on made by docs/licences.py -->"
LONGEST = 120  # characters: a longer text is a licence itself, not its name


def requirements(extra: str) -> list[Requirement]:
    """The requirements in pyproject.toml of an extra, or of every installation if the name is empty."""
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return [Requirement(line) for line in lines]


def others_of(extra: str) -> set[str]:
    """The extras that an extra includes."""
    return {one for requirement in requirements(extra) for one in requirement.extras if _is_own(requirement)}


def named(extra: str) -> Iterator[str]:
    """The packages that pyproject.toml itself names for an extra, if they are meant for this machine."""
    for requirement in requirements(extra):
        if not _is_own(requirement) and _is_meant(requirement, ()):
            yield canonicalize_name(requirement.name)


def brought(extras: Iterable[str]) -> set[str]:
    """The installed packages that keylite with these extras needs on this machine, directly or not."""
    found: set[str] = set()
    waiting = [(one, ()) for extra in ("", *extras) for one in requirements(extra)]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        requirement, of_extras = waiting.pop()
        name, wanted = canonicalize_name(requirement.name), tuple(sorted(requirement.extras))
        if (name, wanted) in seen or not _is_meant(requirement, of_extras):
            continue
        seen.add((name, wanted))
        if _is_own(requirement):
            waiting += [(one, ()) for extra in wanted for one in requirements(extra)]
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [(Requirement(line), wanted) for line in needs]
    return found


def _is_own(requirement: Requirement) -> bool:
    """Whether an extra names another extra of keylite."""
    return requirement.name == PROJECT["name"]


def _is_meant(requirement: Requirement, extras: tuple[str, ...]) -> bool:
    """Whether a requirement applies on this machine, for a package that is installed with these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def licence(name: str) -> str:
    """The licence of an installed package as its metadata say it, in SPDX's words if those are known."""
    if name in UNSAID:
        return UNSAID[name]
    facts = importlib.metadata.metadata(name)
    classes = [one.split(" :: ")[-1] for one in facts.get_all("Classifier", []) if one.startswith("License :: OSI")]
    texts = [*(facts[name] for name in ("License-Expression", "License") if name in facts), *classes]
    said = next((text for text in texts if text and len(text) <= LONGEST and "\n" not in text), "not said")
    return SAID.get(said, said)


def table() -> str:
    """Markdown: the packages of each extra by licence; in bold what pyproject.toml names."""
    lines = ["| extra | licence | packages |", "|---|---|---|"]
    for extra in ("", *SHOWN):
        below = brought(others_of(extra)) if extra else set()
        bold = set(named(extra))
        by_licence: dict[str, list[str]] = {}
        for name in sorted(brought([extra] if extra else ()) - below):
            by_licence.setdefault(licence(name), []).append(f"**{name}**" if name in bold else name)
        for text, names in sorted(by_licence.items()):
            lines.append(f"| {f'`{extra}`' if extra else 'none'} | {text} | {', '.join(names)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    page, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    write_text(PAGE, f"{page}{mark}\n\n{table()}\n")
