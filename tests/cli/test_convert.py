"""`keylite convert` writes labels in the format of another tool, and says what it cannot hold."""

from __future__ import annotations

from pathlib import Path

import pytest

TABLE = "file,nose_x,nose_y,group\na.png,1,2,tom\n"
COCO = (
    '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cat", "keypoints": ["nose"]}], '
    '"annotations": [{"id": 4, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 1], "bbox": [0, 0, 5, 5]}]}'
)


@pytest.fixture
def labels(tmp_path: Path, picture: Path) -> Path:
    (tmp_path / "a.png").write_bytes(picture.read_bytes())
    (tmp_path / "l.json").write_text(COCO)
    return tmp_path / "l.json"


def test_the_command_says_what_it_wrote_and_what_was_lost(keylite_command, labels: Path, tmp_path: Path):
    ended = keylite_command("convert", labels, "--format", "csv", "--out", tmp_path / "t.csv")
    assert ended.code == 0, ended.err
    assert f"wrote {tmp_path / 't.csv'}: 1 object in 1 image, as csv" in ended.out
    assert "warning: csv cannot hold: which points are hidden (1 are); boxes of 1 object; ids of 1 object" in ended.err
    assert (tmp_path / "t.csv").read_text() == "file,nose_x,nose_y\na.png,1.0,2.0\n"


def test_a_table_becomes_coco_and_yolo(keylite_command, labels: Path, tmp_path: Path):
    (tmp_path / "t.csv").write_text(TABLE)
    assert keylite_command("convert", tmp_path / "t.csv", "--format", "yolo", "--out", tmp_path / "y").code == 0
    assert (tmp_path / "y/labels/train/a.txt").is_file()
    ended = keylite_command("convert", tmp_path / "y", "--format", "coco", "--out", tmp_path / "c.json")
    assert ended.code == 0
    assert ended.out == f"wrote {tmp_path / 'c.json'}: 1 object in 1 image, as coco\n"


def test_labels_are_never_written_over_themselves(keylite_command, labels: Path):
    before = labels.read_bytes()
    ended = keylite_command("convert", labels, "--format", "coco", "--out", labels)
    assert (ended.code, labels.read_bytes()) == (2, before)
    assert "is an input, too" in ended.line or "is the file of" in ended.line


def test_a_wrong_format_and_a_missing_file_are_one_line(keylite_command, labels: Path, tmp_path: Path):
    assert "voc" in keylite_command("convert", labels, "--format", "voc", "--out", tmp_path / "x").line
    ended = keylite_command("convert", tmp_path / "no", "--format", "coco", "--out", tmp_path / "x")
    assert (ended.code, ended.line) == (2, f"{tmp_path / 'no'}: no such label file")
