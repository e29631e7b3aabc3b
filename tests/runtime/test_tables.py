"""Tables print in columns, fold into a terminal, and nothing foreign gets through as it is."""

from __future__ import annotations

import pytest

from keylite.runtime.tables import MOST_ROWS, Table, as_html, as_text

POINTS = Table(("keypoint", "NME", "note"), [("nose", "2.35%", "fine"), ("左眼", "12.35%", "-"), ("chin", "-", "")])


def test_a_table_is_in_columns_with_figures_to_the_right():
    assert as_text([POINTS]).splitlines() == [
        "keypoint     NME  note",
        "--------  ------  ----",
        "nose       2.35%  fine",
        "左眼      12.35%  -",
        "chin           -",
    ]


def test_lines_and_tables_are_apart():
    pairs = Table((), [("data", "gauges"), ("model", "")], title="What was measured")
    printed = as_text(["first", "second", pairs, pairs, "last"])
    shown = "What was measured\ndata   gauges\nmodel"
    assert printed == f"first\nsecond\n\n{shown}\n\n{shown}\n\nlast"
    assert as_text([]) == ""


@pytest.mark.parametrize("width", [30, 50])
def test_a_terminal_that_is_too_narrow_folds_the_widest_column(width: int):
    long = "no label in 12 of 300 objects, which count nowhere"
    printed = as_text([Table(("keypoint", "note"), [("nose", long), ("chin", "fine")])], width).splitlines()
    assert max(map(len, printed)) <= width
    assert " ".join(" ".join(line[10:].strip() for line in printed[2:-1]).split()) == long
    assert printed[-1] == "chin      fine"


def test_a_table_that_fits_is_printed_alike_whatever_the_width():
    assert as_text([POINTS], 200) == as_text([POINTS], 22) == as_text([POINTS])


def test_html_escapes_what_is_foreign():
    foreign = "<img src=x onerror=alert(1)>&\x1b[31m"
    made = as_html([foreign, Table((foreign,), [(foreign,)], title=foreign)])
    assert made.count("&lt;img src=x onerror=alert(1)&gt;&amp;\\x1b[31m") == 4
    assert "<img" not in made
    assert "\x1b" not in made


def test_text_obeys_nothing_that_a_terminal_would():
    assert as_text(["a\x1b[2Jb\nc", Table((), [("\r", "\u202e")])]) == "a\\x1b[2Jb\\nc\n\n\\r  \\u202e"


def test_a_long_table_is_cut_in_a_notebook_alone():
    table = Table((), [(str(number),) for number in range(MOST_ROWS + 1234)])
    assert as_html([table]).count("<tr>") == MOST_ROWS
    assert as_html([table]).endswith("<p>and 1,234 more rows</p>")
    assert len(as_text([table]).splitlines()) == MOST_ROWS + 1234
