"""Results as JSON and as plain values: the methods that reports, certificates and diagnoses share."""

from __future__ import annotations

import json

import msgspec

from keylite.runtime.types import Json


class Result:
    """The base of a frozen type of figures that msgspec can write."""

    __slots__ = ()

    def to_json(self) -> bytes:
        """Write all fields as JSON.

        Returns:
            Indented JSON, by name of the field. None, NaN and infinite numbers are null.
        """
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    def to_dict(self) -> dict[str, Json]:
        """Give all fields as plain dictionaries, lists and numbers.

        Returns:
            The content of `to_json`.
        """
        return json.loads(msgspec.json.encode(self))
