"""The end of a command that failed because of a fault in keylite: one line, and a file with the traceback."""

from __future__ import annotations

import os
import platform
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from keylite.version import __version__

FOLDER = "KEYLITE_FAULTS"  # environment variable: the folder for these files, if not that of temporary files


def fault_line(error: BaseException, arguments: Sequence[str]) -> str:
    """Write a fault's traceback to a file, and return the line that says what happened and where the file is."""
    from keylite.runtime.words import clipped, escaped

    what = escaped(" ".join(traceback.format_exception_only(error)[-1].split()))
    if isinstance(error, MemoryError):
        said = f"the memory was not enough ({clipped(what)}), and keylite did not foresee it"
    elif isinstance(error, RecursionError):
        said = f"something was nested too deeply ({clipped(what)}), and keylite did not foresee it"
    else:
        said = f"{clipped(what)}: this is a fault in keylite"
    path = _write(error, arguments)
    if path:
        return f"{said}; the traceback is in {escaped(str(path))}; please report it with that file"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f", from line {frame.lineno} of {escaped(frame.filename)}" for frame in last)
    return f"{said}{where}; the traceback cannot be written to the folder for temporary files"


def _write(error: BaseException, arguments: Sequence[str]) -> Path | None:
    """Write the file of a fault and return its path. None: it cannot be written."""
    from keylite.runtime.words import escaped

    facts = (
        f"keylite {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command: {escaped(shlex.join(['keylite', *arguments]))}",
        f"folder: {escaped(_folder())}",
        "",
        "".join(traceback.format_exception(error)),
    )
    try:
        number, name = tempfile.mkstemp(".txt", "keylite-fault-", os.environ.get(FOLDER) or None)
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(facts))
    except OSError:
        return None
    return Path(name)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return "none"
