"""What a user of the command line gets to read: tables, reports, certificates, log lines. Decides nothing."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keylite.evaluation.report import Report
    from keylite.exporting.certificate import Certificate
    from keylite.runtime.spec import Held
    from keylite.training.folds_report import FoldsReport

EXPORT_COLUMNS = ("file", "precision", "MB", "drift p95 px", "budget", "NME %", "time / fp32 ONNX", "")


def export_row(certificate: Certificate) -> list[str]:
    c = certificate
    return [
        c.child,
        c.precision,
        f"{c.bytes / 1e6:.1f}",
        f"{c.drift.p95:.4f}",
        f"{c.budget:g}",
        f"{100 * c.nme_child:.3f}",
        f"{c.latency.ratio:.2f}" if c.latency else "",
        "accepted" if c.within_budget else "refused",
    ]


def figures_line(report: dict[str, Any]) -> str:
    """The figures inside a model file as one line."""
    try:
        return (
            f"{report['data']}: NME {100 * report['nme']:.2f} % by {report['normalize']}, "
            f"mean shape {100 * report['mean_shape_nme']:.2f} %, 1 % is {report['percent_px']:.3g} px, error "
            f"{report['pixel_error']:.2f} px, {report['count']} objects, epoch {report['epoch']}"
        )
    except (KeyError, TypeError, ValueError):
        return "not as keylite writes them"


def certificate_line(held: Held) -> str:
    """The summary of a certificate inside a model file as one line."""
    return (
        f"{held.data}: p95 drift {held.drift_p95:.4f} px, budget {held.budget:g}; NME {100 * held.nme_parent:.2f} % -> "
        f"{100 * held.nme_child:.2f} %, {held.count} objects"
    )


def show_table(header: list[str], rows: list[list[str]], title: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=any(header))
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 160  # a file or a pipe is not 80 columns wide
    Console(width=width, markup=False, highlight=False).print(table)


def show_report(report: Report) -> None:
    from keylite.evaluation.report import KEYPOINT_COLUMNS, keypoint_rows, summary_rows

    show_table(["", ""], [list(row) for row in summary_rows(report)], None)
    show_table(list(KEYPOINT_COLUMNS), [list(row) for row in keypoint_rows(report)], None)


def show_folds(report: FoldsReport) -> None:
    from keylite.evaluation.report import no_better
    from keylite.training.folds_report import COLUMNS, fold_rows

    nme = report.pooled.nme
    percent = f"1 % is {nme.percent_px:.3g} px"
    title = f"{report.dataset.name}: each fold by its last epoch's weights; NME by {nme.normalize}, {percent}"
    show_table(list(COLUMNS), [list(row) for row in fold_rows(report)], title)
    interval = f"[{nme.interval[0]:.2%}, {nme.interval[1]:.2%}] by group" if nme.interval else "(no interval)"
    shape = report.pooled.mean_shape_nme
    worse = ", and the models are no better" if no_better(nme.mean, shape) else ""
    beside = "" if shape is None else f"; giving the mean shape for every crop has {shape:.2%}{worse}"
    print(f"all held-out objects pooled: NME {nme.mean:.2%} {interval}{beside}")
    for note in report.pooled.notes:
        print(note)


def show_certificate(certificate: Certificate) -> None:
    from keylite.exporting.certificate import confidence_lines, latency_line, nme_line, pck_line, verdict

    c = certificate
    drifts = {"all points": c.drift} | c.per_keypoint
    rows = [[name, *(f"{value:.4f}" for value in (d.mean, d.p50, d.p95, d.max))] for name, d in drifts.items()]
    title = (
        f"{c.child} held to {c.parent} on {c.count} objects of {c.dataset}: drift in px of {c.size[0]}x{c.size[1]}, "
        f"budget {c.budget:g} on p95"
    )
    show_table(["keypoint", "mean", "p50", "p95", "max"], rows, title)
    lines = [
        f"NME ({c.normalize}) {nme_line(c)}",
        pck_line(c),
        *confidence_lines(c),
        f"{c.bytes / 1e6:.2f} MB; {latency_line(c)}",
        verdict(c),
    ]
    print("\n".join(lines))


class Stderr(logging.StreamHandler):
    """Writes to what standard error is at the moment: a bar at the bottom of a terminal takes lines above it."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


class Lines(logging.Formatter):
    """Log records as plain lines; a warning says that it is one."""

    def format(self, record: logging.LogRecord) -> str:
        from keylite.runtime.words import one_line

        text = one_line(record.getMessage())
        return f"warning: {text}" if record.levelno >= logging.WARNING else text
