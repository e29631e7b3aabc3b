"""`keylite suggest`: its table, its list, its folder, and that wrong input is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_a_list_a_folder_and_labels_that_are_there(keylite_command, exported: Path, gauge_files: Path, tmp_path: Path):
    labels = gauge_files / "train/labels.json"
    asked = ("suggest", exported, gauge_files / "train", gauge_files / "test", "--data", labels, "--count", 4)
    ended = keylite_command(*asked, "--out", tmp_path / "next.txt", "--copy", tmp_path / "next")
    assert ended.code == 0
    assert "4 of 14 pictures; left out: 8 labelled" in ended.out
    chosen = (tmp_path / "next.txt").read_text().splitlines()
    assert {Path(path).parent for path in chosen} == {gauge_files / "test"}
    assert sorted(path.name for path in (tmp_path / "next").iterdir()) == sorted(Path(path).name for path in chosen)
    ended = keylite_command(*asked, "--json")
    assert [one["image"] for one in json.loads(ended.out)["pictures"]] == chosen
    ended = keylite_command("predict", exported, tmp_path / "next.txt", "--format", "cvat")
    assert ended.out.count("<image ") == 4


WRONG = {
    "no pictures": (["MODEL"], "suggest: expected images or folders, got none"),
    "a full folder": (["MODEL", "POOL", "--copy", "POOL"], "--copy: expected a new or empty folder"),
    "a list over a picture": (["MODEL", "POOL", "--out", "PICTURE"], "--out: "),
    "flags of labels": (["MODEL", "POOL", "--part", "val"], "suggest: --part says how labels are read; give them as"),
    "no count": (["MODEL", "POOL", "--count", "0"], "--count: expected"),
    "all labelled": (["MODEL", "POOL", "--data", "LABELS"], "suggest: expected pictures without labels, but all 6"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line(arguments, words, keylite_command, exported: Path, gauge_files: Path):
    test = gauge_files / "test"
    places = {"MODEL": exported, "POOL": test, "PICTURE": next(test.glob("*.png")), "LABELS": test / "labels.json"}
    before = {path: path.read_bytes() for path in test.iterdir()}
    ended = keylite_command("suggest", *(places.get(each, each) for each in arguments))
    assert ended.code == 2
    assert ended.line.startswith(words)
    assert {path: path.read_bytes() for path in test.iterdir()} == before
