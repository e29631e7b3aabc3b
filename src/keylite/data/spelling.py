"""Spellings of a picture's name: by another tool or system, in another case, with another suffix."""

from __future__ import annotations

import base64
import contextlib
import os
import posixpath
import re
import unicodedata
from urllib.parse import parse_qs, unquote

from keylite.data.folders import UNREAD
from keylite.runtime.images import IMAGE_SUFFIXES

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{1,30}://[^/]*")  # s3://bucket, http://host; one letter would be a drive
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # the prefix that Label Studio adds to the name of an uploaded file
OTHER_SUFFIX = "found under another suffix"
OTHER_CASE = "found under a name in another case"
OTHER_UNICODE = "found under a name whose accents are stored otherwise"
FROM_URL = "found by the path in their URL"
NO_PREFIX = "found without Label Studio's prefix"


def canonical(name: str) -> str:
    """One form for all spellings of a path: slashes, no `.`, `..` or empty parts, a drive's letter in lower case."""
    path = posixpath.normpath(name.replace("\\", "/"))
    return path[0].lower() + path[1:] if path[1:2] == ":" else path


def spellings_of(name: str) -> list[tuple[tuple[str, ...], str]]:
    """The paths that a name may mean, the likeliest first, each with the words of a note about how it was found."""
    plain = name.replace("\\", "/")
    spellings: list[tuple[tuple[str, ...], str]] = [((), plain)]
    path = URL.sub("", plain)
    before, _, query = path.partition("?")
    path = unquote(_label_studio_path(before, query) or (before.partition("#")[0] if path != plain else before))
    if path != plain:
        spellings.append(((FROM_URL,), path))
    if URL.match(plain):
        del spellings[0]
    for way, spelling in tuple(spellings):
        folder, base = posixpath.split(spelling)
        bare = UPLOADED.sub("", base)
        if bare != base:
            spellings.append(((*way, NO_PREFIX), posixpath.join(folder, bare)))
    return spellings


def _label_studio_path(address: str, query: str) -> str:
    """The path that an address of Label Studio holds in its query; empty if there is none."""
    fields = parse_qs(query)
    for text in fields.get("fileuri", ()):  # Base64 of s3://bucket/set/a.jpg; parse_qs made spaces of its +
        with contextlib.suppress(ValueError):
            return URL.sub("", base64.b64decode(text.replace(" ", "+") + "==", b"-_").decode())
    return fields.get("d", [""])[0] if address.endswith("local-files/") else ""


def segments_of(path: str) -> list[str]:
    """The folders and the file name of a path, without its drive, its root and any `..`."""
    parts = [part for part in posixpath.normpath(path).split("/") if part not in ("", ".", "..")]
    return parts[1:] if parts and re.fullmatch(r"[A-Za-z]:", parts[0]) else parts


def same(text: str) -> str:
    return text


def composed(text: str) -> str:
    """The text with each accented letter as one character; a Mac stores letter and accent apart."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    return composed(text).casefold()


def stem_of(base: str) -> str:
    """A file name without the suffix of a picture; any other suffix is kept."""
    stem, suffix = os.path.splitext(base)
    return stem if suffix.lower() in IMAGE_SUFFIXES or suffix.lower() in UNREAD else base


def folded_stem(base: str) -> str:
    return folded(stem_of(base))
