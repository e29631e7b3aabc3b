"""Libraries' chatter does not reach the terminal; everything else does."""

from __future__ import annotations

import os
import threading

import pytest

from keylite.runtime.chatter import without_chatter

LINES = {
    "XNNPACK": (b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n", False),
    "oneDNN": (b"I tensorflow/core/util/port.cc:153] oneDNN custom operations are on. You may see\n", False),
    "absl": (b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n", False),
    "an error": (b"ERROR: Node number 3 (CONV_2D) failed to prepare.\n", True),
    "no end of a line": (b"Segmentation fault", True),
}


@pytest.mark.parametrize(("line", "stays"), LINES.values(), ids=LINES)
def test_chatter_alone_is_left_out(line: bytes, stays: bool, capfd):
    with without_chatter():
        os.write(2, line)
    os.write(2, b"after")
    assert capfd.readouterr().err == (line.decode() if stays else "") + "after"


@pytest.mark.parametrize("fails", [True, False])
def test_a_converter_that_fails_is_heard(fails: bool, capfd):
    def convert() -> None:
        with without_chatter(everything=True):
            os.write(2, b"at length\n")
            if fails:
                raise ValueError

    with pytest.raises(ValueError) if fails else without_chatter():
        convert()
    assert capfd.readouterr().err == ("at length\n" if fails else "")


def test_several_threads_leave_standard_error_as_it_was(capfd):
    def open_one() -> None:
        for _ in range(20):
            with without_chatter():
                os.write(2, b"Created TensorFlow Lite XNNPACK delegate for CPU.\n")

    threads = [threading.Thread(target=open_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_a_closed_standard_error_is_no_matter(python):
    python("import os; os.close(2)\nfrom keylite.runtime.chatter import without_chatter\nwith without_chatter(): pass")


FORK_MEANWHILE = """
import os, signal, threading, warnings
import cv2
from keylite.runtime import images
from keylite.runtime.chatter import without_chatter

warnings.simplefilter("ignore")  # Python's, of a fork among threads
os.dup2(1, 2)
inside, done = threading.Event(), threading.Event()
usual = cv2.utils.logging.getLogLevel()

def stay():
    with without_chatter(), without_chatter(), images._silence, images._silence.lock:
        inside.set()
        done.wait()

thread = threading.Thread(target=stay)
thread.start()
inside.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    os.write(2, b"heard, ")
    with without_chatter(), images._silence:
        os.write(2, b"heard again, ")
    os._exit(cv2.utils.logging.getLogLevel() != usual)
status = os.waitpid(child, 0)[1]
done.set()
thread.join()
os.write(2, b"%d, %d" % (status, cv2.utils.logging.getLogLevel() == usual))
"""


def test_a_fork_does_not_wait_for_a_thread_that_it_has_not(python):
    assert python(FORK_MEANWHILE) == "heard, heard again, 0, 1"
