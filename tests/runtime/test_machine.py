"""Processors and memory are those of a container, where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keylite.runtime import machine

CORES = {  # files of the control group, processors that the process is bound to: cores
    "no container": ({}, 8, 8),
    "version 2": ({"cpu.max": "300000 100000"}, 8, 3),
    "version 2 without a limit": ({"cpu.max": "max 100000"}, 8, 8),
    "version 1": ({"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 8, 2),
    "version 1 without a limit": ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8, 8),
    "half a core": ({"cpu.max": "50000 100000"}, 8, 1),
    "bound to fewer than its share": ({"cpu.max": "800000 100000"}, 2, 2),
}


@pytest.mark.parametrize(("files", "bound", "expected"), CORES.values(), ids=CORES)
def test_cores(files: dict[str, str], bound: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    assert machine.cores() == expected


def test_cores_where_nothing_binds_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert machine.cores() == 5


MEMINFO = {
    "what Linux tells": ("MemTotal:       24576 kB\nMemAvailable:   2048 kB\n", 2048 * 1024),
    "an old kernel": ("MemTotal:       24576 kB\n", None),
    "no such file": (None, None),
}


@pytest.mark.parametrize(("text", "free"), MEMINFO.values(), ids=MEMINFO)
def test_free_memory_is_what_the_system_tells(text: str | None, free: int | None, tmp_path, monkeypatch):
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    assert machine.free_memory() == free


MEMORY = {  # files of the control group: what is left, of 8 GiB that the machine has
    "no container": ({}, 8 * 2**30),
    "version 2": ({"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 9\ninactive_file 200"}, 500),
    "version 2 without a limit": (
        {"memory.max": "max", "memory.current": "7", "memory.stat": "inactive_file 2"},
        8 * 2**30,
    ),
    "past its limit": ({"memory.max": "10", "memory.current": "17", "memory.stat": "inactive_file 2"}, 0),
    "version 1": (
        {
            "memory/memory.limit_in_bytes": "1000",
            "memory/memory.usage_in_bytes": "400",
            "memory/memory.stat": "total_inactive_file 100",
        },
        700,
    ),
}


@pytest.mark.parametrize(("files", "expected"), MEMORY.values(), ids=MEMORY)
def test_memory_to_spare(files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, text in {**files, "meminfo": f"MemTotal: 9 kB\nMemAvailable: {8 * 2**20} kB\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.free_memory() == expected


def test_memory_where_the_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "none")
    assert machine.free_memory() is None
