"""The processor has a name on x86, on a Raspberry Pi, and where the system tells nothing; the most memory held is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from keylite.evaluation import environment

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model\t\t: 17
model name\t: AMD EPYC 9B14: 96 Cores

processor\t: 1
model name\t: AMD EPYC 9B14: 96 Cores
"""
ARM = """processor\t: 0
BogoMIPS\t: 108.00
CPU implementer\t: 0x41
CPU part\t: 0xd0b
"""
BOARD = "Raspberry Pi 5 Model B Rev 1.0"
ROWS = {  # /proc/cpuinfo, /proc/device-tree/model: the name
    "x86": (X86, None, "AMD EPYC 9B14: 96 Cores"),
    "x86 in a board": (X86, f"{BOARD}\0", "AMD EPYC 9B14: 96 Cores"),
    "arm64": (ARM, f"{BOARD}\0", BOARD),
    "arm64 without a device tree": (f"{ARM}\nRevision\t: c04170\nModel\t\t: {BOARD}\n", None, BOARD),
    "arm64 that tells nothing": (ARM, None, "of platform"),
    "an empty board": (ARM, "\0", "of platform"),
    "no Linux": (None, None, "of platform"),
}


@pytest.mark.parametrize(("cpuinfo", "board", "expected"), ROWS.values(), ids=ROWS)
def test_the_processor_s_name(
    cpuinfo: str | None, board: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, text in (("CPUINFO", cpuinfo), ("BOARD", board)):
        monkeypatch.setattr(environment, name, tmp_path / name)
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr("platform.processor", lambda: "of platform")
    assert environment.processor() == expected


@pytest.mark.parametrize(("machine", "expected"), [("aarch64", "aarch64"), ("", "unknown")])
def test_the_machine_s_kind_where_platform_has_no_name_either(
    machine: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("CPUINFO", "BOARD"):
        monkeypatch.setattr(environment, name, tmp_path / name)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert environment.processor() == expected


def test_the_most_memory_held_is_remembered():
    code = (
        "from keylite.evaluation.environment import peak_memory\n"
        "start = peak_memory()\n"
        "block = bytearray(b'1') * 200_000_000\n"
        "del block\n"
        "print(start and peak_memory() - start)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert told == "None" or 180 < float(told) < 220
