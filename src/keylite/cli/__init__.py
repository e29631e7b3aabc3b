"""The command line: a module a verb, imported when it is asked for, with its heavy imports inside; and exit codes.

0 done, 2 wrong input (one line, no traceback), 3 an export over its budget, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys

from cyclopts import App, CycloptsError, Parameter

import keylite
from keylite.cli.output import Lines
from keylite.cli.shared import INTERRUPTED, WRONG_INPUT, fail

log = logging.getLogger("keylite")

# a module and its function, and what it is for; here, so that `keylite --help` imports none of them
VERBS = {
    "train": "Train a model on labelled images.",
    "evaluate": "Measure a model file on labelled images: NME, PCK, AUC, px, by keypoint, with 95 % intervals.",
    "export": "Write a model file in another format, held to its parent: refused where points move past the budget.",
    "predict": "Find the points in images.",
    "benchmark": "Milliseconds of each stage, read, crop, engine and decode, the files taking turns, and memory.",
    "info": "What a model file says of itself.",
    "gauges": "Render the built-in data set: analogue gauges with four keypoints, as images and COCO JSON.",
}

app = App(
    name="keylite",
    help="Keypoint regression on devices: labelled images -> train -> evaluate -> export -> the same points there.",
    default_parameter=Parameter(negative=""),
    suppress_keyboard_interrupt=False,
    version=keylite.__version__,
)
for verb, line in VERBS.items():
    app.command(f"keylite.cli.{verb}:{verb}", name=verb, help=line)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    handler, before = logging.StreamHandler(), (log.handlers, log.propagate, log.level)
    handler.setFormatter(Lines())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's C++ fills stderr; oneDNN's line heeds nothing
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except BrokenPipeError:  # whoever read our output has had enough: head, less
        sys.stderr.close()
        os._exit(0)
    except CycloptsError as error:
        fail(f"{error}; see {' '.join(['keylite', *(error.command_chain or ())])} --help", WRONG_INPUT)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        fail(str(error), WRONG_INPUT)
    except KeyboardInterrupt:
        fail("stopped", INTERRUPTED)
    finally:  # whoever calls this from Python has a log of their own
        log.handlers, log.propagate = before[0], before[1]
        log.setLevel(before[2])
