"""Who reads the log lines of a training."""

from __future__ import annotations

import logging
import sys

import pytest

from keylite.training.log_lines import shown_log
from keylite.training.recipe import Recipe

log = logging.getLogger("keylite")


@pytest.fixture(autouse=True)
def level():
    """The logger without a level, as a fresh process has it."""
    before = log.level
    log.setLevel(logging.NOTSET)
    yield
    log.setLevel(before)


def nobody_listens(monkeypatch):
    """Take away all handlers. In the test itself, because pytest adds its own as each test begins."""
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", False)


def say():
    log.info("epoch 1 of 3")
    log.warning("the labels look swapped")


def test_without_a_log_of_the_caller_lines_go_to_standard_error(capsys, monkeypatch):
    nobody_listens(monkeypatch)
    with shown_log(Recipe()):
        say()
    assert capsys.readouterr() == ("", "epoch 1 of 3\nwarning: the labels look swapped\n")
    log.info("afterwards")
    assert "afterwards" not in capsys.readouterr().err
    assert log.handlers == [] and log.level == logging.NOTSET


def test_a_level_that_the_caller_chose_stays(capsys, monkeypatch):
    nobody_listens(monkeypatch)
    log.setLevel(logging.CRITICAL)
    with shown_log(Recipe()):
        say()
    assert capsys.readouterr().err == ""
    assert log.level == logging.CRITICAL


def test_handlers_of_the_caller_are_left_alone(capsys, monkeypatch):
    nobody_listens(monkeypatch)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log.addHandler(handler)
    with shown_log(Recipe()):
        say()
    assert lines == ["the labels look swapped"]  # the caller asked for no more
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    with shown_log(Recipe()):
        say()
    assert lines[1:] == ["epoch 1 of 3", "the labels look swapped"]
    assert capsys.readouterr().err == ""


def test_a_companion_says_errors_alone_until_its_training_ends(capsys, monkeypatch):
    nobody_listens(monkeypatch)
    monkeypatch.setattr("keylite.training.log_lines.is_first_process", lambda recipe: False)
    with shown_log(Recipe(devices=2)):
        assert not log.isEnabledFor(logging.WARNING)
    assert log.level == logging.NOTSET
