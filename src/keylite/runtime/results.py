"""Results as JSON and as plain values: the methods that reports, certificates and diagnoses share."""

from __future__ import annotations

import json
from typing import Any, cast

import msgspec

from keylite.runtime.kinds import is_list
from keylite.runtime.types import Json
from keylite.runtime.words import escaped, is_utf8


class Result:
    """The base of a frozen type of figures that msgspec can write."""

    __slots__ = ()

    def to_json(self) -> bytes:
        """Write all fields as JSON.

        Returns:
            Indented JSON, by name of the field. None, NaN and infinite numbers are null. What is not UTF-8 in the name
            of a file is escaped.
        """
        return msgspec.json.format(_encoded(self), indent=2)

    def to_dict(self) -> dict[str, Json]:
        """Give all fields as plain dictionaries, lists and numbers.

        Returns:
            The content of `to_json`.
        """
        return json.loads(_encoded(self))


def _encoded(result: Result) -> bytes:
    try:
        return msgspec.json.encode(result)
    except UnicodeEncodeError:
        return msgspec.json.encode(_in_utf8(msgspec.to_builtins(result)))


def _in_utf8(value: Any) -> Any:
    """The same plain values, with texts escaped that UTF-8 cannot hold."""
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return {_in_utf8(key): _in_utf8(each) for key, each in pairs.items()}
    if is_list(value):
        return [_in_utf8(each) for each in value]
    return escaped(value) if isinstance(value, str) and not is_utf8(value) else value
