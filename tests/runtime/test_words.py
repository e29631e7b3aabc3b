"""Foreign text in keylite's lines is short and cannot be obeyed by a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import keylite
from keylite.runtime.words import clipped, counted, escaped, is_utf8, listed, one_line, quoted

QUOTES = {
    "a word": ("lite9", "'lite9'"),
    "as long as can be": ("x" * 198, repr("x" * 198)),
    "a little longer": ("x" * 199, repr("x" * 146 + "..." + "x" * 49)),
    "a list": (list(range(1000)), "[0, 1, 2"),
    "an end of a line": ("a\nb", r"'a\nb'"),
    "a lone surrogate": (chr(0xD800), r"'\ud800'"),
    "a number too long to be written": (10**5000, "a number of 16610 bits"),
    "bytes": (b"\x00" * 999, r"b'\x00\x00"),
}


@pytest.mark.parametrize(("value", "shown"), QUOTES.values(), ids=QUOTES)
def test_quoted(value: object, shown: str):
    assert quoted(value).startswith(shown)
    assert len(quoted(value)) <= 200
    assert quoted(value).isprintable()


def test_library_lines_quote_by_the_one_function() -> None:
    """The command line cuts its own; who calls the library from Python gets the text as it is."""
    source = Path(keylite.__file__).parent
    files = [path for path in source.rglob("*.py") if "cli" not in path.parts and path.name != "__init__.py"]
    assert len(files) > 50
    uncut = [f"{path.name}: {found}" for path in files for found in re.findall(r"\{[^{}]*!r\}", path.read_text())]
    assert [one for one in uncut if not re.search(r"\[:\d+\]!r", one)] == []


def test_both_ends_of_a_long_text_are_kept():
    assert clipped("a" * 500 + "end", 100) == "a" * 72 + "..." + "a" * 22 + "end"
    assert clipped("short", 100) == "short"


def test_escaped_changes_what_cannot_be_seen():
    assert escaped("Straße 大") == "Straße 大"
    assert escaped("a\tb\r\n\x00\u2028\u200b") == r"a\tb\r\n\x00\u2028\u200b"


@pytest.mark.parametrize("long", ["'" + "a b " * 99 + "'", '"' + "a b " * 99 + '"', "a" * 400], ids=["'", '"', "word"])
def test_what_a_line_quotes_is_cut(long: str):
    line = one_line(f"lr: expected a number, got {long}; lower it")
    assert len(line) < 260
    assert line.startswith("lr: expected a number, got ")
    assert line.endswith("; lower it")


def test_counted():
    assert [counted(count, "image") for count in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]


def test_is_utf8():
    assert is_utf8(Path("Straße/大"))
    assert is_utf8("")
    assert not is_utf8("a\udcffb")
    assert not is_utf8("\udcff")
    assert not is_utf8("\ud800") and not is_utf8("\udfff")
    assert is_utf8("\ud7ff\ue000")


def test_long_numbers_are_told_by_their_bits():
    assert quoted(2**800 - 1) == str(2**800 - 1)[:147] + "..." + str(2**800 - 1)[-50:]
    assert quoted(2**801) == "a number of 802 bits"


LISTS = {
    "apostrophes of words": "photos: Anna's.jpg; " + "IMG 1.jpg; " * 30 + "Tom's.jpg",
    "inches": 'photos: 5"x7".jpg; ' + "IMG 1.jpg; " * 30 + '4"x6".jpg',
    "short quotes": "photos: 'a b.'; " + "IMG 1.jpg; " * 30 + "'c d'",
    "an apostrophe within quotes": """photos: "Anna's.jpg"; """ + "IMG 1.jpg; " * 30 + '''"Tom's.jpg"''',
}


@pytest.mark.parametrize("line", LISTS.values(), ids=LISTS)
def test_keylites_own_text_between_two_quotes_is_kept(line: str):
    assert one_line(line) == line


@pytest.mark.parametrize("long", ["'Anna's " + "a b " * 99 + "'", repr(b"a b " * 99), "('" + "a b " * 99 + "')"])
def test_quotes_end_with_the_quote_that_no_word_goes_on_after(long: str):
    assert len(one_line(f"name: got {long}; rename it")) < 240


def test_a_line_ends():
    assert len(one_line("no quotes, but many words " * 9999)) == 3000


def test_listed_shows_two_of_each_reason_if_not_all_are_shown() -> None:
    items = [f"{i}.png: box [{i}, {-i / 7:.2f}] is flat" for i in range(9)]
    assert listed("bad", items) == "bad: " + "; ".join(items)
    items = [*items, "x.png: no size", "y.png: no size"]
    whole = f"bad: {items[0]}; {items[1]}; x.png: no size; y.png: no size; also"
    assert listed("bad", items) == f"{whole} 2.png, 3.png, 4.png, 5.png, 6.png, 7.png; and 1 more"
    assert listed("bad", items[1:], 30) == f"{whole} 3.png, 4.png, 5.png, 6.png, 7.png, 8.png; and 20 more".replace(
        f"{items[0]}; {items[1]}", f"{items[1]}; {items[2]}"
    )
    assert listed("bad", ["a.png: flat"] * 10 + ["b.png: flat"]).endswith(
        "; also a.png" + ", a.png" * 7 + "; and 1 more"
    )


def test_listed_counts_the_rest() -> None:
    assert listed("bad", [str(i) for i in range(10)], 10) == "bad: 0; 1; 2; 3; 4; 5; 6; 7; 8; 9"
    assert listed("bad", [str(i) for i in range(10)], 12) == "bad: 0; 1; 2; 3; 4; 5; 6; 7; 8; 9; and 2 more"
    assert listed("bad", ["a", "b"]) == "bad: a; b"
    assert listed("bad", [str(i) for i in range(12)]) == "bad: 0; 1; 2; 3; 4; 5; 6; 7; 8; 9; and 2 more"
