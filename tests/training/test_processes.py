"""Processes that are started together, watched, and told apart."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from keylite.runtime.errors import ArgumentError
from keylite.training import processes
from keylite.training.processes import World, is_first_process, run_all, world_of
from keylite.training.recipe import make_recipe

TARGETS = """
import contextlib
import logging
import os
import signal
import socket
import threading

from keylite.training.processes import LostProcessError
from keylite.runtime.progress import step


def place() -> int:
    return int(os.environ["RANK"])


def says(word: str) -> None:
    with step("training", 3) as trained:
        trained(1)
        with step("finding", None):
            logging.getLogger("keylite").info("%s %d of %s", word, place(), os.environ["WORLD_SIZE"])
        trained(2)


def refuses(rank: int) -> None:
    if place() == rank:
        raise ValueError(f"batch: expected less in {rank}")
    threading.Event().wait()  # until it is stopped


def loses(rank: int, error: type = RuntimeError) -> None:
    # whoever talks to the one that fails does so, too, and may be the first to end
    address = "127.0.0.1", int(os.environ["MASTER_PORT"])
    if place() == rank:
        with socket.create_server(address) as server, server.accept()[0]:
            raise ValueError(f"batch: expected less in {rank}")
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address) as companion:
            companion.recv(1)
            break
        threading.Event().wait(0.02)
    raise error("Connection closed by peer")


def misses(rank: int) -> None:
    loses(rank, LostProcessError)


def breaks(rank: int) -> None:
    try:
        misses(rank)
    except ValueError as error:
        raise RuntimeError("a fault") from error


def is_alone(rank: int) -> None:
    if place() == rank:
        raise LostProcessError("another has ended")
    threading.Event().wait()


def is_killed(rank: int) -> None:
    if place() == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def stops(rank: int) -> None:
    if place() == rank:
        raise KeyboardInterrupt
    threading.Event().wait()


def tells(folder: str) -> None:
    try:
        if place() == 0:
            os.kill(os.getppid(), signal.SIGTERM)
        threading.Event().wait()
    except KeyboardInterrupt:
        open(f"{folder}/{place()} stopped", "w").close()
        raise
"""


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that new processes find by the path."""
    (tmp_path / "targets_of_processes.py").write_text(TARGETS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "targets_of_processes", raising=False)
    return importlib.import_module("targets_of_processes")


def test_all_are_run_and_the_first_one_speaks(
    targets: ModuleType, told_steps: dict, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.getLogger("keylite"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("keylite"), "handlers", [])
    caplog.set_level(logging.INFO, "keylite")
    run_all(targets.says, ("this is",), 2)
    assert caplog.messages == ["this is 0 of 2"]
    assert told_steps == {"training": (3, 3), "finding": (0, None)}
    assert "RANK" not in os.environ


FAILURES = {
    "the first refuses": ("refuses", 0, ValueError, "batch: expected less in 0"),
    "the second refuses": ("refuses", 1, ValueError, "batch: expected less in 1"),
    "the first fails for the second": ("loses", 1, ValueError, "batch: expected less in 1"),
    "the first misses the second": ("misses", 1, ValueError, "batch: expected less in 1"),
    "the first misses the second, which has a fault": (
        "breaks",
        1,
        RuntimeError,
        "training: process 2 of 2 failed: RuntimeError: a fault; the others were stopped; the same command with "
        "`resume=True` goes on from the last whole epoch",
    ),
    "the second misses one that goes on": ("is_alone", 1, ValueError, "another has ended"),
    "the second is killed": (
        "is_killed",
        1,
        OSError,
        "training: process 2 of 2 was ended by SIGKILL; the others were stopped; the same command with `resume=True` goes on "
        "from the last whole epoch",
    ),
    "the first is interrupted": ("stops", 0, KeyboardInterrupt, ""),
}


@pytest.mark.parametrize(("target", "rank", "kind", "words"), FAILURES.values(), ids=FAILURES)
def test_where_one_fails_all_stop(
    target: str,
    rank: int,
    kind: type[BaseException],
    words: str,
    targets: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(processes, "PATIENCE", 2.0)  # no process here is told of Ctrl-C
    with pytest.raises(kind) as failure:
        run_all(getattr(targets, target), (rank,), 2)
    assert str(failure.value) == words
    if target == "breaks":
        assert 'raise RuntimeError("a fault")' in failure.value.__notes__[0], "where it happened"


CAUSES = {  # exit codes by process, the first to fail, the one whose words are given
    "the first itself": ([0, 2, None], 1, 1),
    "each by itself": ([2, 2], 1, 1),
    "another": ([processes.LOST, 0, 2, -9], 0, 2),
    "another that was killed": ([processes.UNFORESEEN, -9], 0, 1),
    "another by a fault": ([processes.LOST, processes.UNFORESEEN], 0, 1),
    "a fault, which another misses": ([processes.LOST, processes.UNFORESEEN], 1, 1),
    "a fault, and another": ([processes.UNFORESEEN, processes.UNFORESEEN], 1, 1),
    "nobody": ([0, processes.LOST, processes.LOST], 2, 2),
    "one that has not ended": ([processes.LOST, None], 0, 0),
}


@pytest.mark.parametrize(("codes", "failed", "cause"), CAUSES.values(), ids=CAUSES)
def test_the_cause_is_whoever_failed_by_itself(codes, failed: int, cause: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "GRACE", 0.0)
    assert processes._cause(failed, [SimpleNamespace(exitcode=code, sentinel=0) for code in codes]) == cause


AGAIN = "the others were stopped; the same command with `resume=True` goes on from the last whole epoch"
ERRORS = {  # exit code, what the process has told: what it becomes
    "refused": (2, "batch: expected less", ArgumentError("batch: expected less")),
    "missed another": (processes.LOST, "another has ended", ArgumentError("another has ended")),
    "interrupted": (130, "", KeyboardInterrupt()),
    "killed": (-15, "", OSError(f"training: process 2 of 3 was ended by SIGTERM; {AGAIN}")),
    "without a word": (7, "", OSError(f"training: process 2 of 3 failed with exit code 7, see above; {AGAIN}")),
    "a fault without a word": (1, "", OSError(f"training: process 2 of 3 failed with exit code 1, see above; {AGAIN}")),
    "a fault": (1, ("KeyError: 1", "trace"), RuntimeError(f"training: process 2 of 3 failed: KeyError: 1; {AGAIN}")),
}


@pytest.mark.parametrize(("code", "told", "error"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("closed", [True, False])
def test_what_a_failed_process_becomes(code: int, told, error: BaseException, closed: bool):
    ear, mouth = multiprocessing.Pipe(duplex=False)
    with ear, mouth:
        if told:
            mouth.send(told)
        if closed:
            mouth.close()
        found = processes._error_of(1, SimpleNamespace(exitcode=code), ear, 3)
    assert (type(found), str(found)) == (type(error), str(error))


def test_a_process_goes_on_if_nobody_receives_its_steps():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    receiver.close()
    with sender, processes._Reporter(sender).show("training", 3) as tell:
        tell(1)


def test_a_signal_that_one_process_has_had_is_told_to_the_others(targets: ModuleType, tmp_path: Path, capfd):
    def end(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_all(targets.tells, (str(tmp_path),), 2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "0 stopped").exists()  # the second may not have begun yet
    assert capfd.readouterr().err == "", "not even one that was still importing"


PLACES = {  # recipe, environment: (rank, size), or what is refused; None where this process is to start the others
    "one alone": ({}, {}, (0, 1)),
    "two to be started": ({"devices": 2}, {}, None),
    "two to be started in a job": ({"devices": 2}, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
    "torchrun's second of four": ({"devices": 2, "nodes": 2}, {"RANK": "1", "WORLD_SIZE": "4"}, (1, 4)),
    "srun's third of four": ({"devices": 2, "nodes": 2}, {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}, (2, 4)),
    "torchrun in a job": (
        {"devices": 2},
        {"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "7"},
        (1, 2),
    ),
    "too many": (
        {"devices": 2},
        {"RANK": "1", "WORLD_SIZE": "4"},
        "devices, nodes: 2 x 1 are 2 processes, but torchrun started 4",
    ),
    "many for one": (
        {},
        {"RANK": "1", "WORLD_SIZE": "4"},
        "devices, nodes: 1 x 1 are 1 processes, but torchrun started 4",
    ),
    "the script of a job": ({}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),
    "machines without a launcher": ({"nodes": 2}, {}, "nodes: 2 machines need a launcher"),
}


@pytest.mark.parametrize(("choices", "environment", "wanted"), PLACES.values(), ids=PLACES)
def test_a_process_knows_its_place(choices: dict, environment: dict, wanted, monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if isinstance(wanted, str):
        with pytest.raises(ValueError, match=f"^{re.escape(wanted)}"):
            world_of(make_recipe(choices))
        return
    found = world_of(make_recipe(choices))
    assert (None if found is None else found[:2]) == wanted
    assert is_first_process(make_recipe(choices)) is (wanted is None or wanted[0] == 0)


SHARES = {  # cores this process may use, of how many, granted by a job, devices, launcher: its share
    "alone": (8, 8, "", 1, "", 8),
    "four started here": (8, 8, "", 4, "", 2),
    "more than there are": (2, 2, "", 4, "", 1),
    "four in a container of 8": (8, 64, "", 4, "torchrun", 2),
    "bound by srun": (16, 64, "", 4, "srun", 16),
    "bound by srun within a job": (8, 64, "32", 4, "srun", 8),
    "not bound by srun": (64, 64, "", 4, "srun", 16),
    "a job's cores not bound by srun": (32, 64, "32", 4, "srun", 8),
}


@pytest.mark.parametrize(("own", "machine", "job", "devices", "launcher", "share"), SHARES.values(), ids=SHARES)
def test_a_process_has_its_share_of_cores(
    own: int, machine: int, job: str, devices: int, launcher: str, share: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", job)
    monkeypatch.setattr(processes, "cores", lambda: own)
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    assert processes.cores_of(make_recipe({"devices": devices}), launcher) == share


def test_the_cores_of_a_machine_are_shared_by_its_own_processes_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "cores", lambda: 8)
    assert processes.cores_of(make_recipe({"devices": 2, "nodes": 2}), "torchrun") == 4


def test_one_alone_gathers_what_it_has():
    assert World().gather("mine") == ["mine"]
    assert World().first and not World(1, 2).first
