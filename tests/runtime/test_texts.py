"""Text and JSON that a user gives: one line for what is wrong, whatever it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from keylite.runtime.texts import read_json, read_text

BAD = {
    "cut short": (b'{"a": [1, 2', "broken JSON: expecting ',' delimiter at line 1, column 12"),
    "a comma too many": (b'{"a": 1,\n}', "broken JSON: "),
    "empty": (b"", "broken JSON: expecting value at line 1, column 1"),
    "deep": (b"[" * 100_000, "broken JSON: it is nested too deeply"),
    "deep and closed": (b"[" * 100_000 + b"]" * 100_000, "broken JSON: it is nested too deeply"),
    "deep objects": (b'{"a":' * 100_000, "broken JSON: it is nested too deeply"),
    "NaN": (b'{"a": [NaN]}', "broken JSON: NaN is no number"),
    "Infinity": (b"[-Infinity]", "broken JSON: -Infinity is no number"),
    "many digits": (b"[" + b"1" * 5000 + b"]", "broken JSON: a number of 5000 digits"),
    "a digit too many": (b"[" + b"1" * 401 + b"]", "broken JSON: a number of 401 digits"),
    "a key twice": (b'{"b": 1, "a.jpg": [], "a.jpg": []}', "broken JSON: 'a.jpg' is there twice"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "expected text in UTF-8, got UTF-16; save it as UTF-8"),
    "UTF-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), "expected text in UTF-8, got a binary file"),
    "Latin-1": (b'{"a":\n"\xe4"}', "expected text in UTF-8, got another encoding at line 2"),
    "bytes": (b"\0\0", "expected text in UTF-8, got a binary file"),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_bad_json_is_one_line(data: bytes, words: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert str(caught.value).isprintable()


def test_good_json_is_read(tmp_path: Path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"\\ud800": [1, 2.5, -3e2, null, true, %d]}' % 10**399)
    assert read_json(tmp_path / "a.json") == {"\ud800": [1, 2.5, -300.0, None, True, 10**399]}, "400 digits, too"


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_text(tmp_path / "a", 5) == "12345"
    with pytest.raises(ValueError, match="a: expected at most 4 bytes, got more"):
        read_text(tmp_path / "a", 4)
