"""A signal that asks a command to end ends it, wherever it arrives."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable

import pytest

import keylite.cli

LONG = 60.0  # s, that no test takes


def told() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def in_a_weak_reference_s_call() -> None:
    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing, lambda _: told())
    del thing
    assert reference() is None


def in_del() -> None:
    class Thing:
        def __del__(self) -> None:
            told()

    Thing()


def where_all_is_caught() -> None:
    with pytest.raises(KeyboardInterrupt):
        told()


@pytest.fixture
def stands_in(monkeypatch: pytest.MonkeyPatch, keylite_command) -> Callable[..., object]:
    """A function: run a command that does what is given, and give how it ended."""

    def run(does: Callable[[], object], again: float = LONG) -> object:
        monkeypatch.setattr(keylite.cli, "app", lambda *_, **__: does())
        monkeypatch.setattr(keylite.cli, "AGAIN", again)
        return keylite_command("info", "model.onnx")

    return run


STOPPED = (130, "", "keylite: stopped\n")
LOSSES = [in_a_weak_reference_s_call, in_del, where_all_is_caught]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_command_that_loses_a_signal_counts_as_stopped(lose: Callable[[], None], stands_in):
    assert stands_in(lose) == STOPPED


@pytest.mark.parametrize("lose", LOSSES[:2])
def test_a_signal_that_python_ignored_comes_again(lose: Callable[[], None], stands_in):
    waits = threading.Event()
    assert stands_in(lambda: (lose(), waits.wait(LONG), pytest.fail("it went on")), again=0.01) == STOPPED


@pytest.mark.parametrize("lose", LOSSES)
def test_a_second_signal_ends_what_lost_the_first(lose: Callable[[], None], stands_in):
    assert stands_in(lambda: (lose(), told(), pytest.fail("it went on"))) == STOPPED


def test_a_second_signal_does_not_break_off_the_tidying(stands_in):
    tidied = []

    def does() -> None:
        try:
            told()
        finally:
            try:
                raise OSError
            except OSError:
                told()
            tidied.append(True)

    assert stands_in(does) == STOPPED
    assert tidied
