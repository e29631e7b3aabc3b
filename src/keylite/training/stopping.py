"""What a stopped training says: whether anything was written, and how to go on."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

from keylite.training.folder import CHECKPOINT


@contextlib.contextmanager
def saying_how_to_go_on(out: Path, resume: bool, overwrite: bool) -> Generator[None]:
    """If Ctrl-C or a signal stops the block, the KeyboardInterrupt says what is left in `out`, and what to do."""
    before = checkpoints(out)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(out, resume, overwrite, before)) from None


def _how_to_go_on(out: Path, resume: bool, overwrite: bool, before: set[tuple[Path, int]]) -> str:
    """The line about a run that was stopped. before: the checkpoints in its folder when it began."""
    now = checkpoints(out)
    if now and now == before and not resume:
        return f"stopped before anything was written; the run in {out} is as it was"
    if not now:
        return "stopped before an epoch was finished: there is nothing to resume; the same command starts anew"
    with_resume = "" if resume else f" with `resume=True`{' in place of `overwrite=True`' if overwrite else ''}"
    return f"stopped; the same command{with_resume} goes on from the last whole epoch"


def checkpoints(out: Path) -> set[tuple[Path, int]]:
    """The resume checkpoints of a run in `out`, or of its folds, each with the time of its last change in ns."""
    paths = (out / CHECKPOINT, *out.glob(f"fold-*/{CHECKPOINT}"))
    return {(path, path.stat().st_mtime_ns) for path in paths if path.is_file()}
