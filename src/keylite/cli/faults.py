"""The end of a command that failed by keylite's own fault: one line, and a file with all that helps to mend it."""

from __future__ import annotations

import os
import platform
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from keylite.version import __version__

FOLDER = "KEYLITE_FAULTS"  # variable of the environment that names another folder than the system's for temporary files


def fault_line(error: BaseException, arguments: Sequence[str]) -> str:
    """Write a fault's traceback to a file, and give the line that says what happened and where the file is."""
    from keylite.runtime.words import clipped, escaped

    what = escaped(" ".join(traceback.format_exception_only(error)[-1].split()))
    if isinstance(error, MemoryError):
        said = f"the memory was not enough ({clipped(what)}), and keylite did not see it coming"
    elif isinstance(error, RecursionError):
        said = f"something was nested too deeply ({clipped(what)}), and keylite did not see it coming"
    else:
        said = f"{clipped(what)}: this is a fault of keylite's own"
    path = _write(error, arguments)
    if path:
        return f"{said}; the traceback is in {escaped(str(path))}; please report it with that file"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f", from line {frame.lineno} of {escaped(frame.filename)}" for frame in last)
    return f"{said}{where}; the folder for temporary files takes no file with the traceback"


def _write(error: BaseException, arguments: Sequence[str]) -> Path | None:
    """The file of a fault; None if there is no place for one."""
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
