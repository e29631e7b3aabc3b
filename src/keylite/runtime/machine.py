"""How many processors and how much memory this process may use; a container may have less than its machine.

It reads files of Linux; on other systems it knows only the number of processors.
"""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # control groups: limits of a container, seen from inside
CPU_QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))  # versions 2 and 1
CONTROL_GROUPS = (  # versions 2 and 1: folder, then the files of the limit and the use, and the field of cached files
    (".", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
MEMINFO = Path("/proc/meminfo")


def cores() -> int:
    """How many processors this process can keep busy: those that it may run on, or its container's share of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *_cpu_quota()]))


def _cpu_quota() -> list[int]:
    """The whole processors that the control group grants; empty if it has no limit."""
    for names in CPU_QUOTAS:
        try:
            quota, period = " ".join((CGROUP / name).read_text() for name in names).split()
            return [int(quota) // int(period)] if int(quota) > 0 else []  # -1: no limit, in version 1
        except (OSError, ValueError, ZeroDivisionError):  # another version, or `max`: no limit
            continue
    return []


def free_memory() -> int | None:
    """Free memory of this machine, or of its container, in bytes; None if the system does not say."""
    lines = MEMINFO.read_text().splitlines() if MEMINFO.is_file() else []
    facts = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    if "MemAvailable" not in facts:
        return None
    return min([int(facts["MemAvailable"][0]) * 1024, *_free_in_container()])


def _free_in_container() -> list[int]:
    """Free bytes below the limit of the control group, where cached files count as free; empty if it has no limit."""
    for folder, limit, usage, cached in CONTROL_GROUPS:
        try:
            limit_text, used = (CGROUP / folder / limit).read_text(), int((CGROUP / folder / usage).read_text())
            lines = (CGROUP / folder / "memory.stat").read_text().splitlines()
            facts = dict(line.split() for line in lines)
            return [max(0, int(limit_text) - used + int(facts[cached]))]
        except (OSError, ValueError, KeyError):  # another version, or `max`: no limit
            continue
    return []
