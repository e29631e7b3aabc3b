"""Batches for training: examples in the order of each epoch, made by worker processes if there are any."""

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

STUCK = 300.0  # seconds without a batch after which the run gives up waiting for its workers


class Batches(Dataset):
    """Examples for a DataLoader, a batch per call. If an image cannot be read, the batch is the exception itself.

    An exception that a worker raises would lose its type on the way to the training process.
    """

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
        try:  # a worker's queue would do this in a thread, and nobody would learn that it failed
            return tuple(part.share_memory_() for part in batch)
        except RuntimeError as error:
            return OSError(
                f"workers: no shared memory (/dev/shm) for a batch ({error}); go on with `resume=True` and fewer "
                "workers"
            )


class EpochOrder(Sampler[int]):
    """The order of the examples in the epoch that Lightning sets, in whole batches; each process gets its share.

    In each step, all processes together have the objects that a single process with a batch of that size would have.
    """

    def __init__(self, examples: Examples, batch: int, world: World) -> None:
        self.examples, self.batch, self.world, self.epoch = examples, batch, world, 0
        # Objects that are left over come in another epoch, which has another order.
        self.steps = len(examples) // (batch * world.size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch

    def __iter__(self) -> Iterator[int]:
        shape = self.steps, self.world.size, self.batch
        order = self.examples.order(self.epoch)[: math.prod(shape)].reshape(shape)
        return iter(order[:, self.world.rank].ravel().tolist())


def batches_of(examples: Examples, batch: int, world: World, workers: int, *, pinned: bool = False) -> DataLoader:
    """Loads (images (B, H, W, 3) uint8, unit_xy (B, K, 2), weight (B, K)) for each step, or an exception instead.

    workers: processes that make batches; 0: this process makes each batch when it is needed. pinned: whether to use
    memory from which a GPU copies faster.
    """
    if workers:
        examples.keep_all()  # once, in memory that the workers share
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
