"""Whether files are whole, and whether two are the same but for what tells the time: what kills are judged by."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from cases import PART


def halves(folder: Path) -> list[str]:
    """Files in `folder` that bear their final name and cannot be read to their end."""
    found = []
    for path in sorted(folder.rglob("*")):
        check = CHECKS.get(path.suffix)
        if path.is_file() and check and not any(PART.search(part) for part in path.relative_to(folder).parts):
            try:
                check(path)
            except Exception as error:
                found.append(f"{path.relative_to(folder)}: {type(error).__name__}: {error}"[:200])
    return found


def _model(path: Path) -> None:
    from keylite.runtime.modelfile import read_spec

    read_spec(path)


def _picture(path: Path) -> None:
    from keylite.runtime.images import read_image

    read_image(path)


def _lines(path: Path) -> None:
    for line in path.read_text().splitlines():
        json.loads(line)


def _ends(path: Path) -> None:
    if not path.read_text().endswith("\n"):
        raise ValueError("no end of line at its end")


def _checkpoint(path: Path) -> None:
    if path.read_bytes()[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():
                raise ValueError("damaged")
    else:
        from keylite.runtime.modelfile import safetensors_header

        safetensors_header(path)


CHECKS: dict[str, Callable[[Path], object]] = {
    ".safetensors": _model,
    ".onnx": _model,
    ".tflite": _model,
    ".png": _picture,
    ".jpg": _picture,
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": _lines,
    ".csv": _ends,
    ".ckpt": _checkpoint,
}


def body(path: Path) -> bytes:
    """What a file holds but for its description and its time."""
    data = path.read_bytes()
    if path.suffix == ".onnx":
        import onnx

        model = onnx.load_from_string(data)
        del model.metadata_props[:]
        return model.SerializeToString(deterministic=True)
    if path.suffix == ".tflite":
        from keylite.runtime.modelfile import tflite_model

        return tflite_model(path)
    return data


def bodies(found: Path, usual: Path) -> list[str]:
    """How two folders differ: names of files, and what is in them; certificates hold times, and are read alone."""
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (found, usual)]
    if names[0] != names[1]:
        return [f"files: {sorted(names[0] ^ names[1])} in one alone"]
    compared = [name for name in sorted(names[0]) if (found / name).is_file() and ".certificate." not in name]
    return [f"{name}: other content" for name in compared if body(found / name) != body(usual / name)]
