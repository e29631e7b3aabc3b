"""Several processes that train one model: which of them this is, and how they are started and watched.

Knows neither frameworks nor training. Processes are started here on one machine; on several, a launcher does
(torchrun, srun), and tells each of them its place by the environment.
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

PATIENCE = 20.0  # seconds in which a process that was told to stop has to do so
LAUNCHERS = {  # variables that name a process's place and how many there are
    "torchrun": ("RANK", "WORLD_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # not SLURM_NTASKS: a job's script has that, too
}
INTERRUPTED = 130  # exit code after Ctrl-C
UNFORESEEN = 1  # exit code after an error that is neither the user's nor the system's
TRACE = 20_000  # characters of a traceback: a pipe holds 65,536 bytes, and is read when the process has ended
LOST = 3  # exit code after LostProcessError
CAN_BLOCK = hasattr(signal, "pthread_sigmask")  # not on Windows
GRACE = 5.0  # seconds in which the cause of a failure shows, where it is another process's


class LostProcessError(ConnectionError):
    """Another process is gone or stands still: what ends this one, and is not the cause of it."""


class World(NamedTuple):
    """This process among those that train together. gather: what each of them gives -> a list of it, by rank.

    launcher: of LAUNCHERS, which told it so; processes that are started here are told as torchrun does.
    """

    rank: int = 0
    size: int = 1
    launcher: str = ""
    gather: Callable[[Any], list[Any]] = lambda mine: [mine]

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0


def processes(recipe: Recipe) -> int:
    """How many processes train together."""
    return recipe.devices * recipe.nodes


def world_of(recipe: Recipe) -> World | None:
    """This process among those that a launcher started; None where nothing did, and this one is to start them.

    Raises ValueError for a launcher that started another number, or for several machines without one.
    """
    wanted = processes(recipe)
    for launcher, (rank, size) in LAUNCHERS.items():
        if rank in os.environ and os.environ.get(size, "1") != "1":
            started = int(os.environ[size])
            if started != wanted:
                raise ArgumentError(
                    f"devices, nodes: {recipe.devices} x {recipe.nodes} are {wanted} processes, but {launcher} started "
                    f"{started}; give both the same number"
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
    """Processor cores for each of the processes of this machine; srun may have bound each to its own already."""
    own = cores()
    granted = int(os.environ.get("SLURM_CPUS_ON_NODE") or os.cpu_count() or 1)  # to all of them together
    bound = launcher == "srun" and own < granted
    return own if bound else max(1, own // recipe.devices)


def speaks(recipe: Recipe) -> bool:
    """Whether this process is the one that writes and speaks: any that was not launched as another's companion."""
    world = world_of(recipe)
    return world is None or world.first


def run_all(target: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Call `target(*arguments)` in so many new processes and wait for all of them.

    Log lines and steps of the first are this process's. Raises ValueError in the words of the one that fails by itself,
    OSError for one that is killed, KeyboardInterrupt after Ctrl-C; the others are stopped then.
    """
    context = multiprocessing.get_context("spawn")
    ear, lines = context.Pipe(duplex=False)
    listener = threading.Thread(target=_say_again, args=(ear,), daemon=True)
    port = _free_port()
    ends = [context.Pipe(duplex=False) for _ in range(count)]
    started = [
        context.Process(
            target=_one,
            args=(rank, count, port, None if rank else lines, mouth, target, arguments),
            name=f"process {rank}",
        )
        for rank, (_, mouth) in enumerate(ends)
    ]
    listener.start()
    try:
        with _stopped_at_the_end(started):
            with _deaf():
                for process in started:
                    process.start()
            for mouth in (lines, *(mouth for _, mouth in ends)):
                mouth.close()  # the children's ends alone are open now
            failed = _first_to_fail(started)
            if failed is not None:
                failed = _cause(failed, started)
                raise _error_of(failed, started[failed], ends[failed][0], count)
    finally:
        lines.close()
        listener.join(PATIENCE)  # it ends with the last of those that could speak


def _say_again(ear: Connection) -> None:
    """Give another process's records to this one's logger, and show its steps, until it has closed its end."""
    steps: dict[int, tuple[contextlib.ExitStack, Advance]] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            told = ear.recv()
            if isinstance(told, logging.LogRecord):
                log.handle(told)
                continue
            _show_again(told, steps)
    for number in sorted(steps, reverse=True):
        _show_again((number,), steps)


def _show_again(told: tuple[Any, ...], steps: dict[int, tuple[contextlib.ExitStack, Advance]]) -> None:
    """Show what another process tells of a step: that it begins, that so many more are done, or that it has ended."""
    with contextlib.suppress(
        OSError, ValueError
    ):  # of a terminal that is gone; who listens no more stops the other one
        match told:
            case number, what, total:
                own = contextlib.ExitStack()
                steps[number] = own, own.enter_context(step(what, total))
            case number, more if number in steps:
                steps[number][1](more)
            case (number,) if number in steps:
                steps.pop(number)[0].close()


class _Teller(logging.handlers.QueueHandler):
    """Sends records, and how far steps are, to whoever started this process."""

    numbers = itertools.count()

    def __init__(self, lines: Connection) -> None:
        super().__init__(queue.SimpleQueue())  # which stays empty
        self.lines = lines

    def enqueue(self, record: logging.LogRecord) -> None:
        self.lines.send(record)

    @contextlib.contextmanager
    def show(self, what: str, total: int | None) -> Iterator[Advance]:
        number = next(self.numbers)

        def tell(*more: Any) -> None:
            self.acquire()  # as for a record
            try:
                self.lines.send((number, *more))
            except OSError:  # who started this process has ended, and it will, too
                pass
            finally:
                self.release()

        tell(what, total)
        try:
            yield tell
        finally:
            tell()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started here get Ctrl-C only when they are ready to end by it, and not in their imports."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if CAN_BLOCK else ()
    try:
        yield
    finally:
        if CAN_BLOCK:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _stopped_at_the_end(started: list[SpawnProcess]) -> Iterator[None]:
    """None of the processes is left running."""
    try:
        yield
    except KeyboardInterrupt as stop:  # they end by themselves
        for process in started:
            if stop.args and process.pid is not None and process.is_alive():  # a signal, which only this one has had
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
    """Wait until all processes are done, or one of them fails: which."""
    waiting: dict[Any, int] = {process.sentinel: rank for rank, process in enumerate(started)}
    while waiting:
        for sentinel in multiprocessing.connection.wait(list(waiting)):
            rank = waiting.pop(sentinel)
            started[rank].join()
            if started[rank].exitcode:
                return rank
    return None


def _cause(failed: int, started: list[SpawnProcess]) -> int:
    """The process that failed by itself, where the first to fail may have done so for the loss of another."""
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


def _error_of(rank: int, process: SpawnProcess, ear: Connection, count: int) -> BaseException:
    """What a failed process leaves to raise here."""
    code = process.exitcode or 0
    if code == INTERRUPTED:
        return KeyboardInterrupt()
    again = "the others were stopped; the same command with `resume=True` goes on from the last whole epoch"
    try:
        words = ear.recv() if ear.poll() else ""
    except EOFError:
        words = ""
    if words and code == UNFORESEEN:
        line, trace = words
        error = RuntimeError(f"training: process {rank + 1} of {count} failed: {line}; {again}")
        error.add_note(f"there:\n{trace}")
        return error
    if words:
        return ArgumentError(words)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}, see above"
    return OSError(f"training: process {rank + 1} of {count} {how}; {again}")


def _one(
    rank: int,
    count: int,
    port: int,
    lines: Connection | None,
    mouth: Connection,
    target: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """What each new process runs."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"})
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    teller = None if lines is None else _Teller(lines)
    log.handlers = [teller or logging.NullHandler()]
    log.propagate = False
    log.setLevel(logging.INFO)
    if rank:
        warnings.simplefilter("ignore")  # the first one gives them
    try:
        if CAN_BLOCK:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with shown_by(teller.show) if teller else contextlib.nullcontext():
            target(*arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (ValueError, OSError) as error:
        mouth.send(str(error))
        sys.exit(LOST if isinstance(error, LostProcessError) else 2)
    except Exception as error:
        trace = traceback.format_exc()[-TRACE:]
        mouth.send((traceback.format_exception_only(error)[-1].strip()[:TRACE], trace))
        sys.exit(UNFORESEEN)


def _end_with_the_parent() -> None:
    """A killed parent leaves no process behind that trains on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
