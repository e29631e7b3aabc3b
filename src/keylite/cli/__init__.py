"""The command line: one module per verb, which is imported when the verb is used.

Exit codes: 0 done; 1 findings (check alone); 2 wrong input (one line, no traceback); 3 an export over its budget; 70 a
fault of keylite itself (one line that says where the traceback is); 130 stopped by Ctrl-C or by a signal to end.
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

from keylite.cli.flags import spoken
from keylite.cli.output import Lines, Stderr
from keylite.cli.shared import INTERRUPTED, OWN_FAULT, WRONG_INPUT, fail
from keylite.cli.verbs import VERBS
from keylite.version import __version__

log = logging.getLogger("keylite")

# The lines of help stand in verbs.py, so that `keylite --help` imports no verb.
app = App(
    name="keylite",
    help="Train a small network on your labelled images, and find the same points on any device.",
    default_parameter=Parameter(negative=""),
    suppress_keyboard_interrupt=False,
    version=__version__,
)
for verb, line in VERBS.items():
    app.command(f"keylite.cli.{verb}:{verb}", name=verb, help=line)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    from keylite.runtime.progress import shown_by

    given = sys.argv[1:] if arguments is None else arguments
    spoken.set(given[0] if given and given[0] in VERBS else "")
    _hold_streams()
    handler, before = Stderr(), (log.handlers, log.propagate, log.level)
    handler.setFormatter(Lines())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # otherwise TensorFlow's C++ code writes much to stderr
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold characters that no terminal can show
    try:
        with _ended_by_signals(), _all_said(), shown_by(_show):
            _require_values(given)
            app(arguments, exit_on_error=False, print_error=False)
    except BrokenPipeError as error:
        if not _unread():  # another pipe broke
            fail(str(error), WRONG_INPUT)
        os._exit(0)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # rich ends like this if the output is not read
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
        from keylite.cli.faults import fault_line  # any other error is a fault of keylite

        fail(fault_line(error, given), OWN_FAULT)
    finally:  # a caller from Python gets its own log settings back
        log.handlers, log.propagate = before[0], before[1]
        log.setLevel(before[2])


def _hold_streams() -> None:
    """Open closed standard streams on /dev/null, and end the command if standard output is closed.

    Otherwise a file that is opened later gets the number of a closed stream, and messages of a package in C would be
    written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free
    if sys.stdout is None:
        fail("standard output is closed, so what this command prints would be lost; send it to a file", WRONG_INPUT)


def _require_values(arguments: list[str]) -> None:
    """Raise ValueError for an empty value: a shell makes one of an unset variable, and as a path it is this folder."""
    from keylite.runtime.words import quoted

    for before, argument in itertools.pairwise(["", *arguments]):
        if argument == "" or re.fullmatch(r"--[\w-]+=", argument):
            flag = before if argument == "" else argument[:-1]
            where = f"{quoted(flag)}: " if flag.startswith("--") else ""
            raise ValueError(f"{where}expected a value, got an empty one; is a variable of your script not set?")


@contextlib.contextmanager
def _show(what: str, total: int | None) -> Iterator[Any]:
    """Show the first step of a command; the module that draws is imported only now."""
    from keylite.cli.progress import show
    from keylite.runtime.progress import shown_by

    shows = show()
    with shown_by(shows), shows(what, total) as advance:
        yield advance


def _began_as_stop(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused an error: a package in C that is stopped during its import raises an error of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _all_said() -> Iterator[None]:
    """Flush standard output at the end of the block, so that a failure to write is an error like any other."""
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def _unread() -> bool:
    """Whether the program that reads the output has closed it, as head and less do."""
    if not hasattr(select, "poll"):
        return True
    ends = select.poll()
    for number in (1, 2):
        ends.register(number, 0)
    return any(event & select.POLLERR for _, event in ends.poll(0))


AGAIN = 0.05  # seconds after which a lost signal is raised again
ENDING = ("SIGTERM", "SIGHUP")  # signals that ask a process to end; Windows has only the first


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Signals that ask this process to end work like Ctrl-C: unfinished files are removed, child processes end.

    A signal that is ignored, as nohup does, or that the caller handles, is left alone. Python drops exceptions in
    `__del__` and in weak references: then the signal is raised again a moment later. If it is lost in another way, the
    command still ends with the exit code for "stopped", although it has finished.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    noted: list[signal.Signals] = []
    over = threading.Event()
    before = sys.unraisablehook

    def end(number: int, frame: Any) -> None:
        noted.append(signal.Signals(number))
        if not _began_as_stop(sys.exception()):  # else it ends already, and this would interrupt the tidying up
            raise KeyboardInterrupt(noted[-1].name)  # a name tells it from Ctrl-C, which reaches children by itself

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
        if hasattr(signal, "pthread_kill"):  # it wakes a process that waits
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
