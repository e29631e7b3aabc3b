"""Formats tables as plain text and as HTML: results in a terminal, in a file and in a notebook."""

from __future__ import annotations

import html
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from keylite.runtime.words import escaped

GAP = "  "  # between two columns
FIGURE = re.compile(r"[-+]?\d[\d.,]*( ?%| px)?|-")  # a cell in a column of figures
NARROWEST = 8  # least width to which a column is folded
MOST_ROWS = 100  # of a table in a notebook


class Table(NamedTuple):
    """Rows of texts. header: one text per column; empty for labels and their values, which need none."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


def as_text(parts: Iterable[Table | str], width: int | None = None) -> str:
    """Tables and lines as plain text, with an empty line around each table.

    width: columns of the terminal; wider tables are folded to it. None: nothing is folded.
    """
    text = ""
    for part in parts:
        if isinstance(part, Table):
            text += f"\n{_text_of(part, width)}\n\n"
        else:
            text += f"{escaped(part)}\n"
    return text.strip("\n").replace("\n\n\n", "\n\n")


def as_html(parts: Iterable[Table | str]) -> str:
    """Tables and lines as HTML that loads nothing; every text is escaped. A table shows at most MOST_ROWS rows."""
    return "\n".join(_html_of(part) if isinstance(part, Table) else f"<p>{_safe(part)}</p>" for part in parts)


def _text_of(table: Table, width: int | None) -> str:
    header = [escaped(cell) for cell in table.header]
    rows = [[escaped(cell) for cell in row] for row in table.rows]
    widths = [max(map(_columns, column)) for column in zip(*([header] if header else []), *rows, strict=True)]
    if width is not None:
        widths = _narrowed(widths, width - len(GAP) * (len(widths) - 1))
    right = _figures(table)
    lines = [escaped(table.title)] if table.title else []
    if header:
        lines += [*_lines(header, widths, right), GAP.join("-" * size for size in widths)]
    return "\n".join([*lines, *(line for row in rows for line in _lines(row, widths, right))])


def _figures(table: Table) -> list[bool]:
    """For each column, whether it holds only figures, which are aligned to the right."""
    columns = zip(*table.rows, strict=True)
    figures = [any(column) and all(FIGURE.fullmatch(cell) for cell in column if cell) for column in columns]
    return figures or [False] * len(table.header)


def _columns(text: str) -> int:
    """How many columns a text takes in a terminal: a Chinese character takes two, a combining accent none."""
    wide = (2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    return sum(0 if unicodedata.combining(c) else size for c, size in zip(text, wide, strict=True))


def _narrowed(widths: list[int], room: int) -> list[int]:
    """The widths, where the widest columns are made narrower until all fit."""
    widths = list(widths)
    while sum(widths) > room and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _lines(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """A row as lines of text: one, or more if a cell must be folded."""
    cells = [
        [cell] if _columns(cell) <= size else textwrap.wrap(cell, size) for cell, size in zip(row, widths, strict=True)
    ]
    lines: list[str] = []
    for number in range(max(map(len, cells))):
        texts = [cell[number] if number < len(cell) else "" for cell in cells]
        spaces = [" " * (size - _columns(text)) for text, size in zip(texts, widths, strict=True)]
        placed = [
            space + text if to_right else text + space
            for text, space, to_right in zip(texts, spaces, right, strict=True)
        ]
        lines.append(GAP.join(placed).rstrip())
    return lines


def _html_of(table: Table) -> str:
    sides = ["right" if figures else "left" for figures in _figures(table)]

    def row(cells: Sequence[str], tag: str) -> str:
        placed = zip(cells, sides, strict=True)
        texts = [f'<{tag} style="text-align:{side}">{_safe(cell)}</{tag}>' for cell, side in placed]
        return f"<tr>{''.join(texts)}</tr>"

    more = len(table.rows) - MOST_ROWS
    lines = [
        "<table>",
        *([f"<caption>{_safe(table.title)}</caption>"] if table.title else []),
        *([f"<thead>{row(table.header, 'th')}</thead>"] if table.header else []),
        "<tbody>",
        *(row(cells, "td") for cells in table.rows[:MOST_ROWS]),
        "</tbody>",
        "</table>",
    ]
    return "\n".join([*lines, *([f"<p>and {more:,} more rows</p>"] if more > 0 else [])])


def _safe(text: str) -> str:
    return html.escape(escaped(text))
