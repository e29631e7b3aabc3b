"""`keylite check`: its exit codes, its outputs, and that wrong input is one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import keylite
from keylite.data.formats.reading import write_dataset

pytest.importorskip("scipy", reason="needs scipy")


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good/ and bad/ with labels.json; in bad one object has its points in another order, and one is there twice."""
    folder = tmp_path_factory.mktemp("labels")
    data = keylite.gauges(40, size=32)
    write_dataset(data, folder / "good")
    xy = data.xy.copy()
    xy[5] = xy[5][[3, 0, 1, 2]]
    write_dataset(dataclasses.replace(data, xy=xy).subset([*range(40), 4]), folder / "bad")
    return folder


def test_clean_labels_end_with_0_and_findings_with_1(keylite_command, labels: Path):
    ended = keylite_command("check", labels / "good/labels.json")
    assert (ended.code, ended.err) == (0, "")
    assert "40 in 40 images, 40 groups" in ended.out
    ended = keylite_command("check", labels / "bad/labels.json")
    assert ended.code == 1
    assert "warning, permuted (1): points in another order" in ended.out
    assert "image_000005.png, id 6" in ended.out


def test_json_names_the_object_and_a_copy_is_corrected(keylite_command, labels: Path, tmp_path: Path):
    bad = labels / "bad/labels.json"
    ended = keylite_command(
        "check", bad, "--json", "--html", tmp_path / "a.html", "--fix", tmp_path / "fixed.csv", "--format", "csv"
    )
    report = json.loads(ended.out)
    assert ended.code == 1
    (one,) = [one for one in report["findings"] if one["kind"] == "permuted"]
    assert (one["id"], one["image"], one["number"]) == (6, "image_000005.png", 5)
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert one["correction"] is None  # of four points, other orders nearly fit
    assert report["changes"] == ["image_000004.png, id 41: the copy is left out"]
    assert [line for line in report["lost"] if "ids of 40 objects" in line]
    fixed = keylite.read_dataset(tmp_path / "fixed.csv", images=labels / "bad")
    assert np.allclose(fixed.xy, keylite.read_dataset(bad).xy[:40])


def test_held_out_labels_are_compared(keylite_command, labels: Path):
    ended = keylite_command("check", labels / "good/labels.json", "--val", labels / "good/labels.json")
    assert ended.code == 1
    assert "holds the same labelled images" in ended.out


def test_parts_with_other_keypoints_are_found(keylite_command, labels: Path, tmp_path: Path):
    few = keylite.gauges(20, size=32)
    write_dataset(few.with_skeleton(keylite.Skeleton(("a", "b", "c", "d"))), tmp_path / "few")
    ended = keylite_command("check", labels / "good/labels.json", "--val", tmp_path / "few/labels.json")
    assert ended.code == 1
    assert "error, refused (1): training refuses these labels as they are" in ended.out
    assert "both must name the same keypoints in the same order" in ended.out


def test_a_refusal_names_flags_not_arguments(keylite_command, labels: Path, tmp_path: Path):
    text = (labels / "good/labels.json").read_text().replace("image_000005.png", "gone.png")
    (tmp_path / "labels.json").write_text(text)
    for flags in ((), ("--json",)):
        ended = keylite_command("check", tmp_path / "labels.json", "--images", labels / "good", *flags)
        assert ended.code == 1
        assert "gone.png" in ended.out
        assert "or pass --skip-bad" in ended.out or "name their folder with --images" in ended.out


def test_a_copy_of_two_parts_is_a_folder_with_both(keylite_command, labels: Path, tmp_path: Path):
    bad, good = labels / "bad/labels.json", labels / "good/labels.json"
    ended = keylite_command("check", bad, "--val", good, "--fix", tmp_path / "fixed")
    assert ended.code == 1
    assert "train: image_000004.png, id 41: the copy is left out" in ended.out
    assert sorted(path.name for path in (tmp_path / "fixed").iterdir()) == ["train.json", "val.json"]
    for part, path in (("train", bad), ("val", good)):
        fixed = keylite.read_dataset(tmp_path / f"fixed/{part}.json", images=labels / "good")
        assert np.allclose(fixed.xy, keylite.read_dataset(path).xy[:40])


def test_outputs_are_refused_before_labels_are_checked(keylite_command, labels: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("keylite.labels.check._read", lambda *_: pytest.fail("labels were read"))
    full = tmp_path / "full"
    full.mkdir()
    (full / "a.txt").write_text("somebody's")
    for flags, words in {
        ("--fix", full, "--format", "yolo"): "--fix: expected a new or empty folder",
        ("--html", tmp_path / "a", "--fix", tmp_path / "a"): "give each a file of its own",
        ("--format", "csv"): "is about a corrected copy; ask for one with --fix",
    }.items():
        ended = keylite_command("check", labels / "good/labels.json", *flags)
        assert ended.code == 2
        assert words in ended.line


def test_what_cannot_be_read_is_one_line(keylite_command, labels: Path, tmp_path: Path):
    ended = keylite_command("check", tmp_path / "none.json")
    assert (ended.code, ended.line) == (2, f"{tmp_path / 'none.json'}: no such label file")
    (tmp_path / "page.json").write_text("<html></html>")
    assert keylite_command("check", tmp_path / "page.json").code == 2
    good = labels / "good/labels.json"
    assert keylite_command("check", good, "--html", good).code == 2
    assert keylite_command("check", good, "--fix", good).code == 2
