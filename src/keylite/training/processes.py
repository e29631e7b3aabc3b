"""Several processes that train one model: which of them this is, and how they are started and watched.

Knows neither frameworks nor training. On one machine, the processes are started here. On several machines, a launcher
(torchrun, srun) starts them, and tells each one its rank by environment variables.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import logging.handlers
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from keylite.runtime.errors import ArgumentError
from keylite.runtime.machine import cores
from keylite.runtime.progress import Advance, shown_by, step
from keylite.training.recipe import Recipe

log = logging.getLogger("keylite")

PATIENCE = 20.0  # seconds that a process has to stop after it was told to
LAUNCHERS = {  # environment variables with the rank of a process and the number of processes
    "torchrun": ("RANK", "WORLD_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # not SLURM_NTASKS, because the script of a job has it, too
}
INTERRUPTED = 130  # exit code after Ctrl-C
UNFORESEEN = 1  # exit code after an error that is a fault of keylite
TRACE = 20_000  # most characters of a traceback: a pipe holds 65,536 bytes and is read only when the process has ended
LOST = 3  # exit code after LostProcessError
CAN_BLOCK = hasattr(signal, "pthread_sigmask")  # not on Windows
GRACE = 5.0  # seconds to wait for the process that caused the failure of another one


class LostProcessError(ConnectionError):
    """This process ends because another one is gone or stands still; the cause is there."""


class World(NamedTuple):
    """The place of this process among those that train together.

    rank: its number, from 0. size: the number of processes. launcher: the name in LAUNCHERS whose variables say so;
    processes that are started here get those of torchrun. gather: called by all processes with a value each, it gives
    all of them the list of these values, by rank.
    """

    rank: int = 0
    size: int = 1
    launcher: str = ""
    gather: Callable[[Any], list[Any]] = lambda mine: [mine]

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and log lines."""
        return self.rank == 0


def processes(recipe: Recipe) -> int:
    """The number of processes that train together."""
    return recipe.devices * recipe.nodes


def world_of(recipe: Recipe) -> World | None:
    """The place of this process, or None if it must start several processes itself.

    Raises ArgumentError if a launcher started another number of processes than the recipe says, or if the recipe asks
    for several machines without a launcher.
    """
    wanted = processes(recipe)
    for launcher, (rank, size) in LAUNCHERS.items():
        if rank in os.environ and os.environ.get(size, "1") != "1":
            started = int(os.environ[size])
            if started != wanted:
                raise ArgumentError(
                    f"devices, nodes: {recipe.devices} x {recipe.nodes} are {wanted} processes, but {launcher} started "
                    f"{started}; both numbers must be the same"
                )
            return World(int(os.environ[rank]), started, launcher)
    if wanted == 1:
        return World()
    if recipe.nodes > 1:
        raise ArgumentError(
            f"nodes: {recipe.nodes} machines need a launcher, torchrun or srun, that starts keylite on each; "
            "docs/scaling.md has the commands"
        )
    return None


def cores_of(recipe: Recipe, launcher: str = "") -> int:
    """Processor cores for each process of this machine; srun may already have given each process its own cores."""
    own = cores()
    granted = int(os.environ.get("SLURM_CPUS_ON_NODE") or os.cpu_count() or 1)  # to all processes together
    bound = launcher == "srun" and own < granted
    return own if bound else max(1, own // recipe.devices)


def is_first_process(recipe: Recipe) -> bool:
    """Whether this process writes files and log lines: all do that are not launched beside a first one."""
    world = world_of(recipe)
    return world is None or world.first


def run_all(target: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Call `target(*arguments)` in `count` new processes and wait for all of them.

    This process shows the log lines and progress of the first one. If one fails, the others are stopped: raises
    ArgumentError with the message of the process that failed by itself, RuntimeError for a fault of keylite, OSError if
    a process was killed, KeyboardInterrupt after Ctrl-C.
    """
    context = multiprocessing.get_context("spawn")
    reports, reporter = context.Pipe(duplex=False)
    listener = threading.Thread(target=_repeat_all, args=(reports,), daemon=True)
    port = _free_port()
    failures = [context.Pipe(duplex=False) for _ in range(count)]  # (receiver, sender) per process
    started = [
        context.Process(
            target=_one,
            args=(rank, count, port, None if rank else reporter, sender, target, arguments),
            name=f"process {rank}",
        )
        for rank, (_, sender) in enumerate(failures)
    ]
    listener.start()
    try:
        with _stopped_at_the_end(started):
            with _sigint_blocked():
                for process in started:
                    process.start()
            for sender in (reporter, *(sender for _, sender in failures)):
                sender.close()  # now only the new processes have this end open
            failed = _first_to_fail(started)
            if failed is not None:
                failed = _cause(failed, started)
                raise _error_of(failed, started[failed], failures[failed][0], count)
    finally:
        reporter.close()
        listener.join(PATIENCE)  # it ends when every sender is closed


def _repeat_all(reports: Connection) -> None:
    """Log the records and show the steps that another process sends, until it closes its end."""
    steps: dict[int, tuple[contextlib.ExitStack, Advance]] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            report = reports.recv()
            if isinstance(report, logging.LogRecord):
                log.handle(report)
                continue
            _show_step(report, steps)
    for number in sorted(steps, reverse=True):
        _show_step((number,), steps)


def _show_step(report: tuple[Any, ...], steps: dict[int, tuple[contextlib.ExitStack, Advance]]) -> None:
    """Show that a step of another process begins (number, name, total), goes on (number, more) or ends (number)."""
    # A terminal may be gone. If this thread stopped then, the other process would wait for it.
    with contextlib.suppress(OSError, ValueError):
        match report:
            case number, what, total:
                own = contextlib.ExitStack()
                steps[number] = own, own.enter_context(step(what, total))
            case number, more if number in steps:
                steps[number][1](more)
            case (number,) if number in steps:
                steps.pop(number)[0].close()


class _Reporter(logging.handlers.QueueHandler):
    """Sends log records and the progress of steps to the process that started this one."""

    numbers = itertools.count()

    def __init__(self, sender: Connection) -> None:
        super().__init__(queue.SimpleQueue())  # it stays empty: `enqueue` sends instead
        self.sender = sender

    def enqueue(self, record: logging.LogRecord) -> None:
        self.sender.send(record)

    @contextlib.contextmanager
    def show(self, what: str, total: int | None) -> Iterator[Advance]:
        number = next(self.numbers)

        def report(*more: Any) -> None:
            self.acquire()  # as for a log record
            try:
                self.sender.send((number, *more))
            except OSError:  # the process that started this one has ended, and this one will end, too
                pass
            finally:
                self.release()

        report(what, total)
        try:
            yield report
        finally:
            report()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Processes that are started in this block do not get Ctrl-C during their imports, only when they can handle it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if CAN_BLOCK else ()
    try:
        yield
    finally:
        if CAN_BLOCK:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _stopped_at_the_end(started: list[SpawnProcess]) -> Iterator[None]:
    """Stop all processes that still run when the block ends."""
    try:
        yield
    except KeyboardInterrupt as stop:  # after Ctrl-C the processes end by themselves
        for process in started:
            if stop.args and process.pid is not None and process.is_alive():  # a signal that only this process got
                os.kill(process.pid, signal.SIGINT)
        for process in started:
            if process.pid is not None:
                process.join(PATIENCE)
        raise
    finally:
        for stop in (SpawnProcess.terminate, SpawnProcess.kill):
            running = [process for process in started if process.pid is not None and process.is_alive()]
            for process in running:
                stop(process)
            for process in running:
                process.join(PATIENCE)


def _first_to_fail(started: list[SpawnProcess]) -> int | None:
    """Wait until all processes are done, or one fails: then give its rank."""
    waiting: dict[Any, int] = {process.sentinel: rank for rank, process in enumerate(started)}
    while waiting:
        for sentinel in multiprocessing.connection.wait(list(waiting)):
            rank = waiting.pop(sentinel)
            started[rank].join()
            if started[rank].exitcode:
                return rank
    return None


def _cause(failed: int, started: list[SpawnProcess]) -> int:
    """The rank of the process that failed by itself; the first to fail may have failed because another one was lost."""
    end = time.monotonic() + GRACE
    while True:
        codes = [process.exitcode for process in started]
        running = [process.sentinel for process, code in zip(started, codes, strict=True) if code is None]
        known = [rank for rank, code in enumerate(codes) if code not in (None, 0, UNFORESEEN, LOST)]
        if known:
            return failed if failed in known else known[0]
        if not running or time.monotonic() >= end:
            faults = [rank for rank, code in enumerate(codes) if code == UNFORESEEN]
            return faults[0] if faults and codes[failed] == LOST else failed
        multiprocessing.connection.wait(running, max(0.0, end - time.monotonic()))


def _error_of(rank: int, process: SpawnProcess, failure: Connection, count: int) -> BaseException:
    """The error to raise here for a process that failed."""
    code = process.exitcode or 0
    if code == INTERRUPTED:
        return KeyboardInterrupt()
    advice = "the others were stopped; the same command with `resume=True` goes on from the last whole epoch"
    try:
        message = failure.recv() if failure.poll() else ""
    except EOFError:
        message = ""
    if message and code == UNFORESEEN:
        line, trace = message
        error = RuntimeError(f"training: process {rank + 1} of {count} failed: {line}; {advice}")
        error.add_note(f"in that process:\n{trace}")
        return error
    if message:
        return ArgumentError(message)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}, see above"
    return OSError(f"training: process {rank + 1} of {count} {how}; {advice}")


def _one(
    rank: int,
    count: int,
    port: int,
    reporter: Connection | None,
    failure: Connection,
    target: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """Each new process runs this: it sets its place and calls `target(*arguments)`."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"})
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    handler = None if reporter is None else _Reporter(reporter)
    log.handlers = [handler or logging.NullHandler()]
    log.propagate = False
    log.setLevel(logging.INFO)
    if rank:
        warnings.simplefilter("ignore")  # the first process shows them
    try:
        if CAN_BLOCK:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with shown_by(handler.show) if handler else contextlib.nullcontext():
            target(*arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (ValueError, OSError) as error:
        failure.send(str(error))
        sys.exit(LOST if isinstance(error, LostProcessError) else 2)
    except Exception as error:
        trace = traceback.format_exc()[-TRACE:]
        failure.send((traceback.format_exception_only(error)[-1].strip()[:TRACE], trace))
        sys.exit(UNFORESEEN)


def _end_with_the_parent() -> None:
    """End this process as soon as its parent ends, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
