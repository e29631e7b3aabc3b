"""Several processes that train one model by Lightning: their strategy, their environment and their failures."""

from __future__ import annotations

import datetime
from typing import Any

import torch
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy

from keylite.runtime.errors import ArgumentError
from keylite.training.processes import LostProcessError, World
from keylite.training.recipe import Recipe

WAIT = datetime.timedelta(minutes=30)  # longest wait for another process


def failure_of(error: RuntimeError, world: World) -> Exception | None:
    """The error to raise instead of torch's own, if the cause is known and no fault of keylite; else None."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = lines[0]
    if "DataLoader" in line:
        return OSError(
            f"workers: a process that prepares batches has ended or stands still ({line}); go on with `resume=True`, "
            "and with fewer workers, or 0, if memory is short"
        )
    if world.size > 1 and (isinstance(error, torch.distributed.DistError) or "gloo" in line):
        return LostProcessError(
            f"training: process {world.rank + 1} of {world.size} lost another ({line}); see the message of that one, "
            "and go on with `resume=True`"
        )
    if isinstance(error, torch._dynamo.exc.TorchDynamoException):
        return ArgumentError(f"compile: the step does not compile here ({' '.join(lines[:2])}); use `compile='off'`")
    return None


def environment_of(world: World) -> ClusterEnvironment:
    """The environment from which Lightning reads the rank of this process: the one from which keylite read it."""
    if world.launcher == "srun":
        return SLURMEnvironment(auto_requeue=False)
    return TorchElasticEnvironment() if world.size > 1 else LightningEnvironment()


def strategy_of(recipe: Recipe, device: torch.device) -> DDPStrategy:
    """The strategy that averages gradients over processes in each step; no process waits longer than WAIT."""
    return DDPStrategy(
        process_group_backend="nccl" if device.type == "cuda" else "gloo",
        timeout=WAIT,
        find_unused_parameters=recipe.freeze_epochs > 0,
    )


def gathered(mine: Any) -> list[Any]:
    """The values of all processes, by rank. mine: the value of this one."""
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return parts
