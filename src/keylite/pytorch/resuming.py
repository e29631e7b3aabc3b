"""What a resume checkpoint of PyTorch must be before a run goes on from it: tensors and numbers that fit, and no code.

`resume.ckpt` is Lightning's own: a zip archive of a pickle and of tensors. It is read with PyTorch's reader that runs
nothing, and only once the archive is one as `torch.save` writes it.
"""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment

from keylite.runtime.errors import ArgumentError
from keylite.runtime.modelfile import ENCRYPTED
from keylite.runtime.words import clipped
from keylite.training.checkpoint import UNCOUNTED, check_fit
from keylite.training.folder import require_history

PICKLE = 10_000_000  # bytes of what is no tensor: lite4's has 300 kB
OPTIMIZER = {"step", "exp_avg", "exp_avg_sq", "momentum_buffer"}  # what Adam and SGD keep of a parameter


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a resume checkpoint; ValueError if it is damaged, or holds more than tensors and values."""
    _require_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch asks to have an odd pickle reported
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a pickle that is not torch's may raise anything; nothing of it has run
        raise _unfit(path, "it holds more than tensors and numbers") from None
    if not isinstance(content, dict):
        raise _unfit(path, "it is no checkpoint")
    return content


def _require_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as parts:
            members = parts.infolist()
            plain = all(m.compress_type == zipfile.ZIP_STORED and not m.flag_bits & ENCRYPTED for m in members)
            size = sum(member.file_size for member in members)
            pickles = [member.file_size for member in members if member.filename.endswith("data.pkl")]
            if not plain or size > path.stat().st_size or len(pickles) != 1 or pickles[0] > PICKLE:
                raise zipfile.BadZipFile
            if parts.testzip() is not None:
                raise zipfile.BadZipFile
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OverflowError, ValueError):
        raise _unfit(path, "its bytes are not those that were written") from None


def require_fit(path: Path, content: dict[str, Any], training: lightning.LightningModule) -> None:
    """Raise ValueError unless a checkpoint is of this network and its optimizer, with the numbers of whole epochs."""
    try:
        state, history = content["state_dict"], content["callbacks"]["EpochEnd"]["history"]
        (optimizer,), (schedule,) = content["optimizer_states"], content["lr_schedulers"]
        progress, version = content["loops"]["fit_loop"], content["pytorch-lightning_version"]
        tensors = all(isinstance(tensor, torch.Tensor) and type(name) is str for name, tensor in state.items())
        kept, groups = optimizer["state"].items(), optimizer["param_groups"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _unfit(path, "a part of it is missing") from None
    if not tensors or not re.fullmatch(r"2\.[\w.]+", str(version)):
        raise _unfit(path, "it is not of this Lightning")
    require_history(history, str(path))
    own = {name: tensor for name, tensor in training.state_dict().items() if not name.endswith(UNCOUNTED)}
    check_fit(state, own, str(path))
    for name, tensor in own.items():
        if state[name].dtype != tensor.dtype or not torch.isfinite(state[name]).all():
            raise _unfit(path, f"{name} is not finite, or of another type")
    made: Any = training.configure_optimizers()
    parameters = [p for group in made["optimizer"].param_groups for p in group["params"]]
    for number, values in kept:
        if type(number) is not int or not 0 <= number < len(parameters):
            raise _unfit(path, "its optimizer is of another network")
        if not isinstance(values, dict) or not values.keys() <= OPTIMIZER:
            raise _unfit(path, "its optimizer is another")
        for name, value in values.items():
            shape = () if name == "step" else parameters[number].shape
            fits = isinstance(value, torch.Tensor) and tuple(value.shape) == tuple(shape)
            if value is not None and not (fits and torch.isfinite(value).all()):
                raise _unfit(path, f"{name} of its optimizer is not finite, or of another network")
    pattern = {
        "groups": made["optimizer"].state_dict()["param_groups"],
        "schedule": made["lr_scheduler"]["scheduler"].state_dict(),
        "progress": fresh_progress(),
    }
    require_like(path, {"groups": groups, "schedule": schedule, "progress": progress}, pattern, "checkpoint")


def fresh_progress() -> dict[str, Any]:
    """What Lightning says of a training that has not begun: the shape of what it says later."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        plugins=[LightningEnvironment()],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    return trainer.fit_loop.state_dict()


def require_like(path: Path, found: Any, pattern: Any, where: str) -> None:
    """Raise ValueError unless a plain value has the parts and types of another, and numbers that count something."""
    match pattern:
        case dict():
            fits = isinstance(found, dict) and found.keys() == pattern.keys()
            parts = [(found[key], pattern[key], str(key)) for key in pattern] if fits else []
        case list() | tuple():
            fits = isinstance(found, (list, tuple)) and len(found) == len(pattern)
            parts = [(*pair, str(n)) for n, pair in enumerate(zip(found, pattern, strict=True))] if fits else []
        case bool() | None:
            fits, parts = found is None or type(found) is bool, []
        case _:
            fits, parts = type(found) in (int, float) and math.isfinite(found) and 0 <= found < 2**53, []
    if not fits:
        raise _unfit(path, f"{clipped(where)} is not what Lightning writes")
    for one, other, name in parts:
        require_like(path, one, other, f"{where}.{name}")


def _unfit(path: Path, why: str) -> ArgumentError:
    return ArgumentError(
        f"{path}: the file is damaged, or of another run ({why}); start anew with "
        "`overwrite=True`, or choose another `out`"
    )
