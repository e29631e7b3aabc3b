"""Reads text and JSON files of a user, with limits on their size, nesting and length of numbers.

Each ValueError is one line that begins with the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np

from keylite.runtime.errors import ArgumentError, DataError
from keylite.runtime.files import open_file
from keylite.runtime.words import quoted

LONGEST_NUMBER = 400  # digits: no float has so many before its point
ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_text(path: Path, largest: int) -> str:
    """Read a text file in UTF-8, with or without a byte order mark. ValueError if it is above `largest` bytes."""
    with open_file(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ArgumentError(f"{path}: expected at most {largest:,} bytes, got more; is this the file that you meant?")
    return decoded_text(data, path)


def decoded_text(data: bytes, source: Path | str) -> str:
    """Bytes in UTF-8 as text, without the byte order mark. ValueError if they are in another encoding, or binary."""
    require_no_utf16(data, source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ArgumentError(f"{source}: expected text in UTF-8, got another encoding at line {line}") from None
    if "\0" in text:
        raise ArgumentError(f"{source}: expected text in UTF-8, got a binary file")
    return text


def require_no_utf16(data: bytes, source: Path | str) -> None:
    """Raise ValueError if bytes begin with the byte order mark of UTF-16."""
    if encoding := ENCODINGS.get(data[:2]):
        raise ArgumentError(f"{source}: expected text in UTF-8, got {encoding}; save it as UTF-8")


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict, for `json.loads`. ValueError if a name occurs twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ArgumentError(f"{quoted(twice)} is there twice")
    return values


def require_each_once(path: Path, data: bytes, lists: Sequence[tuple[Sequence[msgspec.Raw], Sequence[str]]]) -> None:
    """Raise ValueError if a name occurs twice in a JSON object; msgspec silently takes the last of them.

    lists: pairs of the entries of a list in `data`, as views of it, and the names that an entry may have once. There
    may be millions of entries, so only those with such a name twice are read again.
    """
    start = _address(data)
    ends = [(_address(raws[0]), _address(raws[-1]) + len(memoryview(raws[-1]))) for raws, _ in lists if raws]
    edges = [0, *(edge - start for span in sorted(ends) for edge in span), len(data)]
    rest = b"".join(data[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True))
    texts = [rest]
    for raws, names in lists:
        quotes = [f'"{name}"'.encode() for name in names]
        texts += [text for text in map(bytes, raws) if any(text.count(quote) > 1 for quote in quotes)]
    for text in texts:
        try:
            json.loads(text.decode("utf-8", "replace"), parse_int=float, object_pairs_hook=each_once)
        except (json.JSONDecodeError, RecursionError):  # msgspec has read it, or reports it itself
            continue
        except ValueError as error:
            raise DataError(f"{path}: broken JSON: {error}; leave one of them out") from None


def _address(data: bytes | msgspec.Raw) -> int:
    return np.frombuffer(data, np.uint8).ctypes.data


def read_json(path: Path) -> Any:
    """Read a JSON file. ValueError if it is not JSON, names something twice, or is nested too deeply."""
    with open_file(path) as file:
        text = decoded_text(file.read(), path)

    def no_number(word: str) -> NoReturn:
        raise ArgumentError(f"{word} is no number")

    def whole(digits: str) -> int:
        if len(digits) > LONGEST_NUMBER:
            raise ArgumentError(f"a number of {len(digits)} digits")
        return int(digits)

    try:
        return json.loads(text, parse_constant=no_number, parse_int=whole, object_pairs_hook=each_once)
    except json.JSONDecodeError as error:
        what = error.msg[:1].lower() + error.msg[1:]
        raise ArgumentError(f"{path}: broken JSON: {what} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ArgumentError(f"{path}: broken JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ArgumentError(f"{path}: broken JSON: {error}") from None
