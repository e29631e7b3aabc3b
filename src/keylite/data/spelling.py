"""How one picture's name may be spelt: by another tool, another system, another case or suffix. Knows no folders."""

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

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{1,30}://[^/]*")  # s3://bucket, http://host; one letter is a drive
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file
OTHER_SUFFIX = "found under another suffix"
OTHER_CASE = "found under a name in another case"
OTHER_UNICODE = "found under a name whose accents are stored otherwise"
FROM_URL = "found by the path in their URL"
NO_PREFIX = "found without Label Studio's prefix"


def canonical(name: str) -> str:
    """The same text for every spelling of one path: slashes, no `.`, `..` or empty parts, a drive in lower case."""
    path = posixpath.normpath(name.replace("\\", "/"))
    return path[0].lower() + path[1:] if path[1:2] == ":" else path


def spellings_of(name: str) -> list[tuple[tuple[str, ...], str]]:
    """Ways in which a name may be meant, the likeliest first: what a note says of each, and the path."""
    plain = name.replace("\\", "/")
    spellings: list[tuple[tuple[str, ...], str]] = [((), plain)]
    path = URL.sub("", plain)
    before, _, query = path.partition("?")
    path = unquote(_asked_for(before, query) or (before.partition("#")[0] if path != plain else before))
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


def _asked_for(address: str, query: str) -> str:
    """The path that Label Studio's own addresses hold in their query; empty if there is none."""
    fields = parse_qs(query)
    for text in fields.get("fileuri", ()):  # Base64 of s3://bucket/set/a.jpg, as far as that goes; no + is a space
        with contextlib.suppress(ValueError):
            return URL.sub("", base64.b64decode(text.replace(" ", "+") + "==", b"-_").decode())
    return fields.get("d", [""])[0] if address.endswith("local-files/") else ""


def segments_of(path: str) -> list[str]:
    """The parts of a path below its drive or top, and below what climbs out of it."""
    parts = [part for part in posixpath.normpath(path).split("/") if part not in ("", ".", "..")]
    return parts[1:] if parts and re.fullmatch(r"[A-Za-z]:", parts[0]) else parts


def same(text: str) -> str:
    return text


def composed(text: str) -> str:
    """Text with its accents in the letters, as most systems store names; a Mac's file system takes them apart."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    return composed(text).casefold()


def stem_of(base: str) -> str:
    """A name without the suffix of a picture; what else follows a dot belongs to the name."""
    stem, suffix = os.path.splitext(base)
    return stem if suffix.lower() in IMAGE_SUFFIXES or suffix.lower() in UNREAD else base


def folded_stem(base: str) -> str:
    return folded(stem_of(base))
