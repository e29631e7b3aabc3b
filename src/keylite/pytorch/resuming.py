"""Checks of a PyTorch resume checkpoint before a run goes on from it: fitting tensors and numbers, and no code.

Lightning writes `resume.ckpt`: a zip archive of a pickle and of tensors. First the archive must look like one that
`torch.save` wrote; then PyTorch reads it in the mode that runs no code.
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

PICKLE = 10_000_000  # most bytes of the part without tensors; lite4 has 300 kB
OPTIMIZER = {"step", "exp_avg", "exp_avg_sq", "momentum_buffer"}  # what Adam and SGD keep for a parameter


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a resume checkpoint; ArgumentError if it is damaged, or holds more than tensors and numbers."""
    _require_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch asks users to report an unusual pickle
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a pickle that torch did not write may raise anything; none of its code has run
        raise _unfit(path, "it holds more than tensors and numbers") from None
    if not isinstance(content, dict):
        raise _unfit(path, "it is not a checkpoint")
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
        raise _unfit(path, "its bytes have changed since it was written") from None


def require_fit(path: Path, content: dict[str, Any], training: lightning.LightningModule) -> None:
    """Raise ArgumentError unless a checkpoint fits this network and its optimizer, and was written after an epoch."""
    try:
        state, history = content["state_dict"], content["callbacks"]["EpochEnd"]["history"]
        (optimizer,), (schedule,) = content["optimizer_states"], content["lr_schedulers"]
        progress, version = content["loops"]["fit_loop"], content["pytorch-lightning_version"]
        tensors = all(isinstance(tensor, torch.Tensor) and type(name) is str for name, tensor in state.items())
        kept, groups = optimizer["state"].items(), optimizer["param_groups"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _unfit(path, "a part of it is missing") from None
    if not tensors or not re.fullmatch(r"2\.[\w.]+", str(version)):
        raise _unfit(path, "another version of Lightning wrote it")
    require_history(history, str(path))
    own = {name: tensor for name, tensor in training.state_dict().items() if not name.endswith(UNCOUNTED)}
    check_fit(state, own, str(path))
    for name, tensor in own.items():
        if state[name].dtype != tensor.dtype or not torch.isfinite(state[name]).all():
            raise _unfit(path, f"{name} is not finite, or of another type")
    own_optimizers: Any = training.configure_optimizers()
    parameters = [p for group in own_optimizers["optimizer"].param_groups for p in group["params"]]
    for number, values in kept:
        if type(number) is not int or not 0 <= number < len(parameters):
            raise _unfit(path, "its optimizer belongs to another network")
        if not isinstance(values, dict) or not values.keys() <= OPTIMIZER:
            raise _unfit(path, "it has another optimizer")
        for name, value in values.items():
            shape = () if name == "step" else parameters[number].shape
            fits = isinstance(value, torch.Tensor) and tuple(value.shape) == tuple(shape)
            if value is not None and not (fits and torch.isfinite(value).all()):
                raise _unfit(path, f"{name} of its optimizer is not finite, or belongs to another network")
    pattern = {
        "groups": own_optimizers["optimizer"].state_dict()["param_groups"],
        "schedule": own_optimizers["lr_scheduler"]["scheduler"].state_dict(),
        "progress": fresh_progress(),
    }
    require_like(path, {"groups": groups, "schedule": schedule, "progress": progress}, pattern, "checkpoint")


def fresh_progress() -> dict[str, Any]:
    """The progress that Lightning stores before training begins; later it has the same parts."""
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


def require_like(path: Path, value: Any, pattern: Any, where: str) -> None:
    """Raise ArgumentError unless a plain value has the parts and types of `pattern`, and its numbers are counts.

    path: the checkpoint; where: the place of the value in it; both are for the error.
    """
    match pattern:
        case dict():
            fits = isinstance(value, dict) and value.keys() == pattern.keys()
            parts = [(value[key], pattern[key], str(key)) for key in pattern] if fits else []
        case list() | tuple():
            fits = isinstance(value, (list, tuple)) and len(value) == len(pattern)
            parts = [(*pair, str(n)) for n, pair in enumerate(zip(value, pattern, strict=True))] if fits else []
        case bool() | None:
            fits, parts = value is None or type(value) is bool, []
        case _:
            fits, parts = type(value) in (int, float) and math.isfinite(value) and 0 <= value < 2**53, []
    if not fits:
        raise _unfit(path, f"{clipped(where)} is not as Lightning writes it")
    for part, part_pattern, name in parts:
        require_like(path, part, part_pattern, f"{where}.{name}")


def _unfit(path: Path, why: str) -> ArgumentError:
    return ArgumentError(
        f"{path}: the file is damaged, or of another run ({why}); start anew with "
        "`overwrite=True`, or choose another `out`"
    )
