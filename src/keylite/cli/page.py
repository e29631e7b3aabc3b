"""`keylite page`: writes a page that runs a model in the browser."""

from __future__ import annotations

import shlex
from pathlib import Path


def page(model: Path, *, out: Path, runtime: Path | None = None, spec: Path | None = None) -> None:
    """Write a page that finds points in the browser: a folder for any static web server.

    Parameters
    ----------
    model
        .tflite or .onnx
    out
        folder to write to: a new or an empty one, or that of an earlier page, which is replaced
    runtime
        folder with the tarballs that npm pack writes; default: they are fetched once from the npm registry
    spec
        JSON description for a model file that holds none
    """
    from keylite.pictures.page import write_page

    written = write_page(model, out, runtime=runtime, spec=spec)
    size = f"{len(written)} files, {sum(path.stat().st_size for path in written) / 1e6:.1f} MB"
    print(f"wrote {out}: {size}; to look at it: cd {shlex.quote(str(out))} && python3 -m http.server")
