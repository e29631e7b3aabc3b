"""The command line: a module a verb, imported when it is asked for, with its heavy imports inside; and exit codes.

0 done, 2 wrong input (one line, no traceback), 3 an export over its budget, 70 a fault of keylite's own (one line that
says where the traceback is), 130 stopped by Ctrl-C or by a signal that asks to end.
"""

from __future__ import annotations

import _thread
import contextlib
import io
import itertools
import logging
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter

from keylite.cli.output import Lines, Stderr
from keylite.cli.shared import INTERRUPTED, OWN_FAULT, WRONG_INPUT, fail
from keylite.cli.verbs import VERBS
from keylite.version import __version__

log = logging.getLogger("keylite")

# a module and its function, and what it is for; here, so that `keylite --help` imports none of them
app = App(
    name="keylite",
    help="Keypoint regression on devices: labelled images -> train -> evaluate -> export -> the same points there.",
    default_parameter=Parameter(negative=""),
    suppress_keyboard_interrupt=False,
    version=__version__,
)
for verb, line in VERBS.items():
    app.command(f"keylite.cli.{verb}:{verb}", name=verb, help=line)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    from keylite.runtime.progress import shown_by

    _hold_streams()
    handler, before = Stderr(), (log.handlers, log.propagate, log.level)
    handler.setFormatter(Lines())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's C++ fills stderr; oneDNN's line heeds nothing
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what no terminal can show
    try:
        with _ended_by_signals(), _all_said(), shown_by(_show):
            _require_values(sys.argv[1:] if arguments is None else arguments)
            app(arguments, exit_on_error=False, print_error=False)
    except BrokenPipeError as error:
        if not _unread():  # of some other pipe
            fail(str(error), WRONG_INPUT)
        os._exit(0)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # rich's way to say the same
            os._exit(0)
        raise
    except CycloptsError as error:
        line = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, MissingArgumentError) and error.argument and not (error.keyword or error.unused_tokens):
            line = f"{' '.join(error.command_chain or ())}: {error.argument.name} is missing"
        fail(f"{line}; see {' '.join(['keylite', *(error.command_chain or ())])} --help", WRONG_INPUT)
    except KeyboardInterrupt:
        fail("stopped", INTERRUPTED)
    except Exception as error:
        if _began_as_stop(error):
            fail("stopped", INTERRUPTED)
        if isinstance(error, (ValueError, OSError, ModuleNotFoundError)):
            fail(str(error), WRONG_INPUT)
        from keylite.cli.faults import fault_line  # who sees this line has found a fault

        fail(fault_line(error, sys.argv[1:] if arguments is None else arguments), OWN_FAULT)
    finally:  # whoever calls this from Python has a log of their own
        log.handlers, log.propagate = before[0], before[1]
        log.setLevel(before[2])


def _hold_streams() -> None:
    """End where standard output is closed, and keep the numbers of closed streams from files that are opened later.

    What a package in C says on one of them would be written into such a file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free
    if sys.stdout is None:
        fail("standard output is closed, and what this command prints would be lost; send it to a file", WRONG_INPUT)


def _require_values(arguments: list[str]) -> None:
    """ValueError for an empty value, which a shell makes of a variable that is not set; as a path it is this folder."""
    from keylite.runtime.words import quoted

    for before, argument in itertools.pairwise(["", *arguments]):
        if argument == "" or re.fullmatch(r"--[\w-]+=", argument):
            flag = before if argument == "" else argument[:-1]
            where = f"{quoted(flag)}: " if flag.startswith("--") else ""
            raise ValueError(f"{where}expected a value, got an empty one; is a variable of your script not set?")


@contextlib.contextmanager
def _show(what: str, total: int | None) -> Iterator[Any]:
    """The first step of a command brings in what shows it."""
    from keylite.cli.progress import show
    from keylite.runtime.progress import shown_by

    shows = show()
    with shown_by(shows), shows(what, total) as advance:
        yield advance


def _began_as_stop(error: BaseException | None) -> bool:
    """Whether an error comes of Ctrl-C: a package in C that is stopped while it is imported raises its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _all_said() -> Iterator[None]:
    """What was printed has left this process when the block ends, or is an error like any other."""
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def _unread() -> bool:
    """Whether whoever read our output has had enough: head, less."""
    if not hasattr(select, "poll"):
        return True
    ends = select.poll()
    for number in (1, 2):
        ends.register(number, 0)
    return any(event & select.POLLERR for _, event in ends.poll(0))


AGAIN = 0.05  # s after which a signal that was swallowed is raised again
ENDING = ("SIGTERM", "SIGHUP")  # signals that ask a process to end; Windows has the first alone


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """What asks this process to end does so as Ctrl-C does: files in the making are removed, children told.

    A signal that is ignored, as by nohup, or that the caller handles, stays with that. Python ignores what is raised
    in `__del__` or by a weak reference: then it is raised again a moment later. If it is lost in another way, the
    command counts as stopped, although it went on to its end.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return
    noted: list[signal.Signals] = []
    over = threading.Event()
    before = sys.unraisablehook

    def end(number: int, frame: Any) -> None:
        noted.append(signal.Signals(number))
        if not _began_as_stop(sys.exception()):  # else it ends already: another would break off the tidying up
            raise KeyboardInterrupt(noted[-1].name)  # a name: no Ctrl-C, which children have had, too

    def ignored(raised: Any) -> None:
        if not isinstance(raised.exc_value, KeyboardInterrupt):
            before(raised)
            return
        if not noted:
            noted.append(signal.SIGINT)
        _thread.start_new_thread(again, (noted[-1],))

    def again(number: signal.Signals) -> None:
        if over.wait(AGAIN):
            return
        if hasattr(signal, "pthread_kill"):  # which wakes a process that waits
            signal.pthread_kill(threading.main_thread().ident or 0, number)
        else:
            _thread.interrupt_main(number)

    ours = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    ours = [number for number in ours if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    sys.unraisablehook = ignored
    try:
        yield
    finally:
        over.set()
        sys.unraisablehook = before
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
    if noted:
        raise KeyboardInterrupt
