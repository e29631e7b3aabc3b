"""Label files made to harm: one line that names the file, at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from keylite.data.formats.reading import read_dataset

DEEP = b"[" * 200_000 + b"]" * 200_000
FILES = {
    "images nested": (b'{"images": %b, "annotations": [], "categories": []}', "broken JSON: it is nested too deeply"),
    "an annotation nested": (
        b'{"images": [], "annotations": [{"x": %b}], "categories": []}',
        "broken JSON: it is nested too deeply",
    ),
    "an unknown field nested": (b'{"x": %b, "images": []}', "broken JSON: it is nested too deeply"),
    "UTF-16": ("file,x0,y0\na.png,1,2\n".encode("utf-16"), "expected text in UTF-8, got UTF-16; save it as UTF-8"),
    "Latin-1": (
        b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "\xff"}]}',
        "expected text in UTF-8",
    ),
}


@pytest.mark.parametrize(("data", "words"), FILES.values(), ids=FILES)
def test_a_hostile_label_file_is_one_line(data: bytes, words: str, tmp_path: Path):
    path = tmp_path / "labels.json"
    path.write_bytes(data.replace(b"%b", DEEP))
    with pytest.raises(ValueError) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(f"{path}: {words}")
