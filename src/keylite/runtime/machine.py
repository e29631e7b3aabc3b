"""What this process may have of its machine: processors and memory, less where it runs in a container.

Knows Linux's files; other systems tell the number of processors alone.
"""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # as seen from inside a container
CPU_QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))  # versions 2 and 1
CONTROL_GROUPS = (  # versions 2 and 1: folder, limit, what is held, and what of it are cached files
    (".", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
MEMINFO = Path("/proc/meminfo")


def cores() -> int:
    """Processors that this process can keep busy: those that it is bound to, or its container's share of their time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *_cpu_quota()]))


def _cpu_quota() -> list[int]:
    """Whole processors that the control group which is seen here grants, if it has a limit."""
    for names in CPU_QUOTAS:
        try:
            quota, period = " ".join((CGROUP / name).read_text() for name in names).split()
            return [int(quota) // int(period)] if int(quota) > 0 else []  # -1 is none in version 1
        except (OSError, ValueError, ZeroDivisionError):  # of another version, or `max`: none
            continue
    return []


def free_memory() -> int | None:
    """Bytes of memory that this machine, or this container of it, has to spare; None where the system does not tell."""
    lines = MEMINFO.read_text().splitlines() if MEMINFO.is_file() else []
    facts = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    if "MemAvailable" not in facts:
        return None
    return min([int(facts["MemAvailable"][0]) * 1024, *_left_to_container()])


def _left_to_container() -> list[int]:
    """Bytes up to the limit of the control group that is seen here, if it has one; cached files count as free."""
    for folder, limit, usage, cached in CONTROL_GROUPS:
        try:
            most, held = (CGROUP / folder / limit).read_text(), int((CGROUP / folder / usage).read_text())
            lines = (CGROUP / folder / "memory.stat").read_text().splitlines()
            facts = dict(line.split() for line in lines)
            return [max(0, int(most) - held + int(facts[cached]))]
        except (OSError, ValueError, KeyError):  # of another version, or `max`: none
            continue
    return []
