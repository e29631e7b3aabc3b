"""What colleagues meet first, workflows, templates, hooks and CONTRIBUTING, names what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="needs keylite[cli]")

ROOT = Path(__file__).resolve().parents[1]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def parsed(path: Path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(workflow: dict) -> list[str]:
    """What the steps of a workflow run."""
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def made(text: str) -> set[str]:
    """The targets that a text calls."""
    return set(re.findall(r"\bmake ([a-z]+)\b", text))


def test_workflows_call_make_targets_that_are_there():
    called = [command for path in WORKFLOWS for command in commands(parsed(path))]
    assert [command for command in called if not command.startswith("make ")] == []
    assert {"check", "test"} <= made("\n".join(called)) <= TARGETS


def test_workflows_test_every_python_that_is_allowed():
    (versions,) = (
        job["strategy"]["matrix"]["python"]
        for path in WORKFLOWS
        for job in parsed(path)["jobs"].values()
        if "strategy" in job
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={versions[0]}"
    (floors,) = re.findall(
        r"^PYTHONS = \((.*)\)$", (ROOT / "tests/floors.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert versions == re.findall(r"[\d.]+", floors)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_for_something(path: Path):
    form = parsed(path)
    assert form["name"] and form["description"]
    ids = [field["id"] for field in form["body"]]
    assert ids and len(set(ids)) == len(ids)
    assert all(field["attributes"]["label"] for field in form["body"])
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_the_hooks_before_a_commit_are_the_linters_of_make_check():
    (repository,) = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert repository["repo"] == "local"
    assert entries == [".venv/bin/ruff check --fix", ".venv/bin/ruff format"]
    for command in ("ruff check", "ruff format"):
        assert f"$(BIN)/{command}" in (ROOT / "Makefile").read_text(encoding="utf-8")


PAGES = ("CONTRIBUTING.md", "README.md", "docs/install.md", ".github/pull_request_template.md", ".ci/run", "Makefile")


@pytest.mark.parametrize("page", PAGES)
def test_make_is_called_with_targets_that_are_there(page: str):
    called = made(re.sub(r"PYTHON=\S+ ", "", (ROOT / page).read_text(encoding="utf-8")))
    assert called
    assert called <= TARGETS


def test_contributing_names_every_target_and_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert made(re.sub(r"PYTHON=\S+ ", "", text)) == TARGETS
    named = re.findall(r"`((?:docs|tests|data|runtime|training|pytorch|tensorflow|benchmarks)/[\w/.]+\.py)`", text)
    assert len(named) > 10
    assert [name for name in named if not ((ROOT / name).is_file() or (ROOT / "src/keylite" / name).is_file())] == []
