"""Hidden files that killed processes left behind: their names say who writes, and whoever writes next removes them.

Such a name ends with the machine, the start of the process, random digits and the number of the process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from pathlib import Path

FORGOTTEN = 2 * 86400.0  # seconds after which the hidden file of a process on another machine counts as left behind
PART = re.compile(r"(?:\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8})?\.(\d{1,9})\.part(?:\.[^.]*)?$")  # the end of a hidden name


def tidy(folder: Path | str) -> None:
    """Remove the hidden files in a folder whose processes no longer run.

    Those of another machine, which shares the folder, are removed when they are older than FORGOTTEN.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = PART.search(entry.name) if entry.name.startswith(".") else None
            if name and _is_dead(entry, *name.groups()):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


_tidied: set[Path] = set()  # the folders that `tidy_once` has looked through


def tidy_once(folder: Path) -> None:
    """As `tidy`, but only the first time that this process asks for a folder."""
    if folder not in _tidied:
        _tidied.add(folder)
        tidy(folder)


def _is_dead(entry: os.DirEntry[str], machine: str | None, began: str | None, process: str) -> bool:
    """Whether the process that a hidden name belongs to no longer runs."""
    if machine is not None and machine != _machine():
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > FORGOTTEN
    now_began = _began(int(process))
    if now_began is None:
        return True
    return began is not None and began != now_began and "0" not in (began, now_began)  # another process has its number


def writer() -> str:
    """The part of a hidden name that says who writes: machine, start of the process, random digits, its number."""
    process = os.getpid()
    return f"{_machine()}-{_began(process) or 0}-{secrets.token_hex(4)}.{process}"


@functools.cache
def _machine() -> str:
    """A name for this machine since its start; each container has its own, because it sees other processes."""
    facts = [platform.node()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            facts.append(os.readlink(source) if "/ns/" in source else Path(source).read_text())
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _began(process: int) -> str | None:
    """When a process of this machine began, as the system counts it, or "0" if unknown; None if it does not run."""
    try:
        state, *facts = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        return None if state in b"ZX" else facts[18].decode()  # a zombie or dead process writes no more
    except (OSError, IndexError, ValueError):
        if os.path.exists("/proc/self/stat"):
            return None
    if os.name == "nt":  # os.kill would end the process
        return "0"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:  # the process belongs to another user
        pass
    return "0"
