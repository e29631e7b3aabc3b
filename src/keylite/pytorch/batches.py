"""Batches for the trainer: examples in the order of each epoch, made by worker processes where there are any."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from keylite.data.examples import Examples
from keylite.training.processes import World

STUCK = 300.0  # seconds without a batch after which workers are given up


class Batches(Dataset):
    """Examples, a list of items at a time; what cannot be read comes as its exception, not through a worker's."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, item: int) -> tuple[np.ndarray, ...]:
        return self.examples[item]

    def __getitems__(self, items: list[int]) -> tuple[torch.Tensor, ...] | Exception:
        try:
            batch = tuple(torch.from_numpy(part) for part in self.examples.batch(items))
        except (ValueError, OSError) as error:
            return error
        if get_worker_info() is None:
            return batch
        try:  # what a worker's queue would do in a thread of its own, whose failure nobody is told of
            return tuple(part.share_memory_() for part in batch)
        except RuntimeError as error:
            return OSError(
                f"workers: no shared memory (/dev/shm) for a batch ({error}); go on with `resume=True` and fewer "
                "workers"
            )


class EpochOrder(Sampler[int]):
    """The examples' order of the epoch that Lightning sets, in whole batches; of several processes each has its share.

    What the processes have of a step is what one alone has in a batch as large as theirs together.
    """

    def __init__(self, examples: Examples, batch: int, world: World) -> None:
        self.examples, self.batch, self.world, self.epoch = examples, batch, world, 0
        self.steps = len(examples) // (batch * world.size)  # another order every epoch: nothing is left out for good

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch

    def __iter__(self) -> Iterator[int]:
        shape = self.steps, self.world.size, self.batch
        order = self.examples.order(self.epoch)[: math.prod(shape)].reshape(shape)
        return iter(order[:, self.world.rank].ravel().tolist())


def batches_of(examples: Examples, batch: int, world: World, workers: int, *, pinned: bool = False) -> DataLoader:
    """(images (B, H, W, 3) uint8, unit_xy (B, K, 2), weight (B, K)) of every step of this process, or an exception.

    workers: processes that make them; 0: they are made when asked for. pinned: in memory that a GPU copies sooner.
    """
    if workers:
        examples.keep_all()  # once, in memory that they share
    return DataLoader(
        Batches(examples),
        batch_size=batch,
        sampler=EpochOrder(examples, batch, world),
        num_workers=workers,
        pin_memory=pinned,
        collate_fn=_as_it_is,
        timeout=STUCK if workers else 0,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers and "fork" in multiprocessing.get_all_start_methods() else None,
    )


def _as_it_is(batch: Any) -> Any:
    return batch
