"""Reads and writes XML files; a document type, which may define entities or name other files, is refused.

XML's entities can stand for other files of this machine, or for more text than any memory holds. No label format needs
them (https://docs.python.org/3/library/xml.html#xml-security).
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from keylite.runtime.errors import DataError
from keylite.runtime.files import open_file
from keylite.runtime.texts import require_no_utf16
from keylite.runtime.words import quoted

Element = ElementTree.Element
ENCODING = re.compile(rb"""^<\?xml[^>]{0,200}encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
ENCODINGS = {  # what keylite reads -> Python's name; dlib's imglab writes ISO-8859-1
    **dict.fromkeys(("utf-8", "utf8", "ascii", "us-ascii"), "utf-8"),
    **dict.fromkeys(("iso-8859-1", "latin-1", "latin1"), "latin-1"),
    "windows-1252": "cp1252",
}


def read_xml(path: Path) -> Element:
    """The root element of an XML file; DataError in one line if the file is no XML, or has a document type."""
    with open_file(path) as file:
        data = file.read()
    require_no_utf16(data, path)
    data = data.removeprefix(b"\xef\xbb\xbf")
    if re.search(rb"<!(DOCTYPE|ENTITY)", data, re.IGNORECASE):
        raise DataError(
            f"{path}: XML with a document type (<!DOCTYPE) is not read, because it may stand for other files"
        )
    declared = ENCODING.match(data)
    name = declared[1].decode().lower() if declared else "utf-8"
    if name not in ENCODINGS:
        raise DataError(f"{path}: expected XML in UTF-8, got the encoding {quoted(name)}; save it as UTF-8")
    try:
        return ElementTree.fromstring(data.decode(ENCODINGS[name]))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: expected text in {name.upper()}, got another encoding at line {line}") from None
    except ElementTree.ParseError as error:
        line, column = error.position
        what = str(error).partition(":")[0]
        raise DataError(f"{path}: broken XML: {what} at line {line}, column {column + 1}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken XML: {error}") from None


NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML cannot hold


def write_xml(root: Element) -> bytes:
    """The text of an XML file; DataError if a name holds a character that XML cannot hold."""
    for element in root.iter():
        for text in (element.text or "", *element.attrib.values()):
            if NO_XML.search(text):
                raise DataError(f"{quoted(text)}: this name has a character that XML cannot hold; rename it")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"
