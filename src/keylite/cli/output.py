"""The output of the command line: tables, lines about reports and certificates, and log lines."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keylite.exporting.certificate import Certificate
    from keylite.runtime.spec import CertificateSummary, ValidationFigures
    from keylite.runtime.tables import Table

EXPORT_COLUMNS = ("file", "precision", "MB", "drift p95 px", "budget", "NME %", "time / fp32 ONNX", "")


def export_row(certificate: Certificate) -> list[str]:
    """The row of an exported file, under EXPORT_COLUMNS."""
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


def figures_line(figures: ValidationFigures) -> str:
    """The figures in a model file's description as one line."""
    return (
        f"{figures.data.name}: NME {100 * figures.nme:.2f} % by {figures.normalize}, mean shape "
        f"{100 * figures.mean_shape_nme:.2f} %, 1 % is {figures.percent_px:.3g} px, error "
        f"{figures.pixel_error:.2f} px, {figures.count} objects, epoch {figures.epoch}"
    )


def certificate_line(summary: CertificateSummary) -> str:
    """The summary of a certificate in a model file's description as one line."""
    return (
        f"{summary.data.name}: p95 drift {summary.drift_p95:.4f} px, budget {summary.budget:g}; "
        f"NME {100 * summary.nme_parent:.2f} % -> {100 * summary.nme_child:.2f} %, {summary.count} objects"
    )


def show(parts: Sequence[Table | str]) -> None:
    """Print the parts of a result as its `str()` does, with flags; on a terminal, tables are folded to its width."""
    from keylite.cli.flags import as_flags
    from keylite.runtime.tables import as_text

    print(as_flags(as_text(parts, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)))


class Stderr(logging.StreamHandler):
    """Writes to the present standard error, which a progress bar replaces so that lines appear above it."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


class Lines(logging.Formatter):
    """Log records as plain lines. A warning begins with the word."""

    def format(self, record: logging.LogRecord) -> str:
        from keylite.cli.flags import as_flags
        from keylite.runtime.words import log_line

        return as_flags(log_line(record))
