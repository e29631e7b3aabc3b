"""Cases run in worker processes: forked from one that has imported everything, measured, and ended if they run away.

A worker that dies (a decoder's crash, a bomb that meets its limits) is itself a fault of the case it ran, and is
replaced. Exit codes and lines are those that a user sees: `keylite.cli.main` runs in the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import gc
import io
import multiprocessing
import multiprocessing.connection
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cases import Case, Maker, Outcome, faults_of

MOST_MEMORY = 4 * 10**9  # bytes beyond those of a fresh worker, then allocation fails
MOST_CPU = 90  # seconds of a command, then the system ends the worker
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
MOST_WAIT = 600  # seconds of wall clock, then we do


class Record(NamedTuple):
    """One case: its number, label, exit code (None: an exception came out, -1: the process died), faults, figures."""

    number: int
    label: str
    code: int | None
    faults: list[str]
    figures: dict[str, Any]
    cpu: float = 0.0  # seconds above the undamaged command's
    peak: int = 0  # bytes above it


class Job(NamedTuple):
    """What workers need: the kind's name, what makes its cases, the seed, undamaged files, and where faults are kept."""

    kind: str
    make: Maker
    seed: int
    seeds: Path
    kept: Path | None = None


class Reached(BaseException):  # it passes every `except Exception`
    """Raised in place of what a case need not do: all input was accepted."""


# ---- in a worker


def _memory(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def _reset_peak() -> int:
    """Forget the peak of memory; give what is held now."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _memory("VmRSS")


@contextlib.contextmanager
def _captured() -> Iterator[tuple[io.TextIOWrapper, io.TextIOWrapper, Any]]:
    """Standard output and error by Python, and what libraries write to the descriptor of standard error."""
    texts = [io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", "\n") for _ in range(2)]
    with tempfile.TemporaryFile() as chatter:
        kept = os.dup(2), sys.stdout, sys.stderr
        os.dup2(chatter.fileno(), 2)
        sys.stdout, sys.stderr = texts
        try:
            yield *texts, chatter
        finally:
            sys.stdout, sys.stderr = kept[1:]
            os.dup2(kept[0], 2)
            os.close(kept[0])


def called(command: list[str] | Any) -> Outcome:
    """A command of keylite run here, in this process.

    KEYLITE_FAULTS names a folder of ours, in which the tracebacks of faults appear.
    """
    from keylite.cli import main

    before, start = _reset_peak(), time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(start) + MOST_CPU, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    code, crash, where = 0, "", ""
    with _captured() as (out, err, chatter):
        try:
            if callable(command):
                command()
            else:
                main(command)
        except Reached:
            pass
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException as error:
            code, crash = None, "".join(traceback.format_exception(error, limit=-12))
            del error
        texts = []
        for stream in (out, err):
            with contextlib.suppress(ValueError):
                stream.flush()
            texts.append(stream.buffer.getvalue().decode(errors="replace") if not stream.closed else "")
        chatter.seek(0)
        said = chatter.read().decode(errors="replace")
    cpu, peak = time.process_time() - start, max(0, _memory("VmHWM") - before)
    for fault in sorted(Path(os.environ["KEYLITE_FAULTS"]).glob("keylite-fault-*.txt")):
        crash = fault.read_text(errors="replace")
        fault.unlink()
    if crash:
        lines = re.findall(r'File ".*?/keylite/(.*?)", line (\d+)', crash)
        where = ":".join(lines[-1]) if lines else "outside keylite"
    return Outcome(code, *texts, said, crash, where, cpu, peak)


def case_of(job: Job, number: int, folder: Path) -> Case:
    """Case `number` of a job, its files in `folder`."""
    return job.make(random.Random(f"{job.kind}:{job.seed}:{number}"), job.seeds, folder)


def run_case(job: Job, number: int, usual: dict[str, Outcome]) -> Record:
    """One case in a folder of its own, which is kept if it shows a fault."""
    with tempfile.TemporaryDirectory(prefix="keylite-fuzz-") as name:
        folder = Path(name)
        os.chdir(folder)
        case = case_of(job, number, folder)
        there = _files(folder)
        key = str(case.undamaged)
        if case.undamaged is not None and key not in usual:
            for _ in range(2):  # the first one pays for imports
                usual[key] = called(case.undamaged)
                _tidy(folder, there)
            if usual[key].code != 0:
                return Record(number, case.label, None, [f"harness: the undamaged command fails: {usual.pop(key)}"], {})
        outcome = called(case.command)
        left = sorted(_files(folder) - there)
        good = usual.get(key, Outcome(0))
        faults = faults_of(outcome, good, left, case)
        figures: dict[str, Any] = {}
        if case.check is not None and outcome.code == 0:
            with _captured():
                more, figures = case.check(outcome)
            faults += more
        if faults and job.kept is not None:
            keep(job, number, folder, case, outcome, faults)
        os.chdir("/")
        return Record(
            number, case.label, outcome.code, faults, figures, outcome.cpu - good.cpu, outcome.peak - good.peak
        )


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _tidy(folder: Path, there: set[str]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if str(path.relative_to(folder)) not in there:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def keep(job: Job, number: int, folder: Path, case: Case, outcome: Outcome, faults: list[str]) -> None:
    """The files of a case and what came of it, where a person can look at them."""
    place = job.kept / f"{job.kind}-{job.seed}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, symlinks=True, ignore_dangling_symlinks=True)
    facts = [f"python tests/fuzz/run.py --case {job.kind}:{job.seed}:{number}", f"command: {case.command}", *faults]
    facts += [str(dataclasses.replace(outcome, crash="", out=outcome.out[:1000])), outcome.crash]
    (place / "CASE.txt").write_text("\n\n".join(facts), errors="backslashreplace")


def _work(job: Job, pipe: multiprocessing.connection.Connection) -> None:
    """A worker's life: numbers come in, records go out."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # whoever started it may be killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()  # pytest's would tell of a death where nobody looks for it
    gc.freeze()  # what is garbage already, let go during a command, would hide as much of its peak
    limit = _memory("VmData") + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    usual: dict[str, Outcome] = {}
    for number in iter(pipe.recv, None):
        try:
            record = run_case(job, number, usual)
        except BaseException:
            record = Record(number, "", None, [f"harness: {traceback.format_exc(limit=-4)}"], {})
        pipe.send(record)


# ---- outside


@dataclasses.dataclass
class Worker:
    """A process, the pipe to it, the case it runs and since when."""

    process: Any
    pipe: Any
    number: int
    since: float


def run_cases(job: Job, numbers: Iterable[int], workers: int) -> Iterator[Record]:
    """The records of these cases, as they are done, in any order."""
    context, waiting = multiprocessing.get_context("fork"), iter(numbers)
    busy: list[Worker] = []

    def start(number: int) -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()
        ours.send(number)
        busy.append(Worker(process, ours, number, time.monotonic()))

    for number in waiting:
        start(number)
        if len(busy) == workers:
            break
    while busy:
        ready = multiprocessing.connection.wait([worker.pipe for worker in busy], 5.0)
        for worker in list(busy):
            if worker.pipe not in ready:
                if time.monotonic() - worker.since < MOST_WAIT:
                    continue
                worker.process.kill()
            try:
                record = worker.pipe.recv()
            except (EOFError, OSError):
                record = _death(job, worker)
            yield record
            following = next(waiting, None)
            if worker.process.is_alive() and record.code != -1:
                worker.pipe.send(following)
                worker.number, worker.since = following if following is not None else -1, time.monotonic()
                if following is None:
                    worker.process.join()
                    busy.remove(worker)
            else:
                busy.remove(worker)
                if following is not None:
                    start(following)


def _death(job: Job, worker: Worker) -> Record:
    """The record of a case whose worker died, its files made once more."""
    worker.process.join()
    code = worker.process.exitcode
    name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
    fault = f"death: the process ended with {name}"
    label = ""
    with tempfile.TemporaryDirectory(prefix="keylite-fuzz-") as folder, contextlib.suppress(Exception):
        case = case_of(job, worker.number, Path(folder))
        label = case.label
        if job.kept is not None:
            keep(job, worker.number, Path(folder), case, Outcome(None), [fault])
    return Record(worker.number, label, -1, [fault], {})
