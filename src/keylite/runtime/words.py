"""Text for messages: lists and foreign text, shortened, quoted, and without control characters."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence

SHOWN = 10  # items that one line names; the rest are counted
ALIKE = 2  # items of one reason that are shown whole if there are too many to show all
LOOKED_AT = 1000  # items whose reasons are compared
NUMBERS = re.compile(r"-?[\d.,]+(?:e[+-]\d+)?")
LONGEST = 200  # characters of a quoted value
LONGEST_ITEM = 2 * LONGEST  # a quoted value and its reason
LONGEST_LINE = 3000  # ten quoted values and their reasons
IN_QUOTES = "|".join(  # an apostrophe within a word (Anna's) neither begins nor ends a quotation
    rf"(?<!\w)b?{mark}[^{mark}]*(?:(?<=\w){mark}(?=\w)[^{mark}]*)*+{mark}(?!\w)" for mark in "'\""
)
QUOTED = re.compile(rf"{IN_QUOTES}|\S{{{LONGEST + 1},}}")


def clipped(text: str, longest: int = LONGEST) -> str:
    """The text, or its beginning and end with dots between: at most `longest` characters."""
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end - 3]}...{text[-end:]}"


def first_line(error: Exception) -> str:
    """The first line of an error's message, clipped; the name of its type if it has none."""
    return clipped((str(error).splitlines() or [type(error).__name__])[0])


def quoted(value: object) -> str:
    """A value as Python writes it, cut to at most LONGEST characters."""
    if isinstance(value, str):
        return repr(clipped(value, LONGEST - 2))
    if isinstance(value, int) and value.bit_length() > 4 * LONGEST:
        return f"a number of {value.bit_length()} bits"  # Python refuses to write more than 4300 digits
    return clipped(escaped(repr(value)))


def escaped(text: str) -> str:
    """The text, with control characters, line ends and lone surrogates escaped as in Python."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_utf8(path: object) -> bool:
    """Whether a path can be written in UTF-8: file names are bytes and may have another encoding."""
    return not any("\ud800" <= c <= "\udfff" for c in str(path))


def log_line(record: logging.LogRecord) -> str:
    """A log record as one plain line; a warning begins with `warning:`."""
    text = one_line(record.getMessage())
    return f"warning: {text}" if record.levelno >= logging.WARNING else text


def one_line(text: str) -> str:
    """A message as one line for the user; each quotation in it is cut to LONGEST characters."""
    return clipped(escaped(QUOTED.sub(lambda match: clipped(match[0]), text.strip())), LONGEST_LINE)


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 image`, `1,200 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(line: str, items: Sequence[str], count: int | None = None) -> str:
    """The line, then the first items, then the number of the others. count: of all items, if `items` are not all.

    If there are more items `thing: reason` than can be shown, only two items per reason are shown whole; of the others
    only the thing is shown. Reasons that differ only in numbers count as the same.
    """
    count = len(items) if count is None else count
    if count <= SHOWN:
        return f"{line}: {first_of(items, SHOWN, count=count)}"
    times: Counter[str] = Counter()
    whole: list[str] = []
    named: list[str] = []
    for item in items[:LOOKED_AT]:
        thing, _, reason = item.partition(": ")
        times[NUMBERS.sub("0", reason)] += 1
        if not reason or times[NUMBERS.sub("0", reason)] <= ALIKE:
            whole.append(item)
        else:
            named.append(clipped(thing, LONGEST_ITEM))
    named = named[: max(SHOWN - len(whole), 0)]
    whole = [clipped(item, LONGEST_ITEM) for item in whole[:SHOWN]]
    rest = count - len(whole) - len(named)
    also = [f"also {', '.join(named)}"] if named else []
    return f"{line}: {'; '.join([*whole, *also, *([f'and {rest} more'] if rest else [])])}"


def first_of(items: Sequence[str], shown: int, between: str = "; ", count: int | None = None) -> str:
    """The first items, then the number of the others. count: of all items, if `items` are not all."""
    count = len(items) if count is None else count
    more = [f"and {count - shown} more"] if count > shown else []
    return between.join([*(clipped(item, LONGEST_ITEM) for item in items[:shown]), *more])
