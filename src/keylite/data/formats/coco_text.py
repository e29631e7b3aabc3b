"""Decoding the text of a COCO file into its entries, with plain words for what is broken in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from keylite.runtime.errors import DataError
from keylite.runtime.words import quoted

Id = int | str | float  # float, because pandas writes 1.0 for 1 if a value is missing in the column
Number = float | None  # null is NaN
FieldsReader = Callable[[msgspec.Raw], list[str | None]]
NOT_JSON = re.compile(rb"(?<=[\[,:\s])-?(?:NaN|Infinity)(?=[\],}\s])")  # not JSON, but Python's json writes them


class Category(msgspec.Struct):
    id: Id
    name: str = ""
    keypoints: list[str] | None = None
    skeleton: list[tuple[int, int]] | None = None
    flip_pairs: list[tuple[int | str, int | str]] | None = None
    sigmas: list[float] | None = None


class Image(msgspec.Struct):
    id: Id
    file_name: str
    width: Number = None
    height: Number = None


class Annotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    id: Id | None = None
    iscrowd: float | bool | None = 0
    keypoints: list[Number] | None = None
    bbox: tuple[Number, Number, Number, Number] | None = None
    area: Number = None


class File(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[Category]


def decoded_file(path: Path, notes: list[str]) -> tuple[bytes, File]:
    """The text of a file, and its entries as raw JSON; NaN and Infinity, which are not JSON, are read as null."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        return data, msgspec.json.decode(data, type=File)
    except msgspec.ValidationError as error:
        raise DataError(_not_coco(path, error)) from None
    except RecursionError:
        raise DataError(f"{path}: broken JSON: it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        data, count = NOT_JSON.subn(b"null", data)
    try:
        file = msgspec.json.decode(data, type=File)
    except msgspec.ValidationError as error:
        raise DataError(_not_coco(path, error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        at = re.search(r"\(byte (\d+)\)", str(error))
        if "utf-8" in str(error).lower():
            raise DataError(f"{path}: expected text in UTF-8, got another encoding") from None
        if at is None:
            raise DataError(f"{path}: broken JSON: it ends too early, after {len(data)} bytes") from None
        before = data[: int(at[1])]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        what = str(error).removeprefix("JSON is malformed: ").split(" (byte")[0]
        raise DataError(f"{path}: broken JSON: {what} at line {line}, column {column}") from None
    except RecursionError:
        raise DataError(f"{path}: broken JSON: it is nested too deeply") from None
    notes.append(f"read as null: {count} NaN or Infinity, which are not JSON")
    return data, file


def _not_coco(path: Path, error: Exception) -> str:
    return f"{path}: not a COCO keypoints file (an object with images, annotations, categories): {plain_words(error)}"


def plain_words(error: Exception) -> str:
    """The message of msgspec without its markup, its place first: `keypoints[3]: expected float, got str`."""
    what, _, place = str(error).replace("`", "").partition(" - at ")
    what = what[:1].lower() + what[1:]
    return f"{place.removeprefix('$.')}: {what}" if place.removeprefix("$") else what


def fields_reader(path: Path, names: tuple[str, ...]) -> FieldsReader:
    """A function that gives the values of these fields of one entry, as texts; None for a field that is missing."""
    keys = [f"field{number}" for number in range(len(names))]
    wanted = msgspec.defstruct(
        "Fields", [(key, Any, None) for key in keys], rename=dict(zip(keys, names, strict=True)), gc=False
    )
    decode = msgspec.json.Decoder(wanted).decode

    def fields_of(raw: msgspec.Raw) -> list[str | None]:
        try:
            values = msgspec.structs.astuple(decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return [None] * len(names)  # the entry itself was reported as bad already
        for name, value in zip(names, values, strict=True):
            if isinstance(value, (list, dict)):
                raise DataError(
                    f"{path}: group: expected the field {quoted(name)} to be a text or a number, got {quoted(value)}"
                )
        return [None if value is None else str(value) for value in values]

    return fields_of
