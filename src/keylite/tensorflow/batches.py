"""Batches for training: examples in the order of each epoch, made by threads if there are several."""

from __future__ import annotations

import functools

import keras
import numpy as np

from keylite.data.examples import Examples


class Batches(keras.utils.PyDataset):
    """Examples in an endless row of batches: batch i belongs to epoch start + i // batches.

    If a batch fails, its exception is kept in `error`, because tf.data passes on only its text.
    """

    def __init__(self, examples: Examples, batch: int, start: int = 0, workers: int = 1) -> None:
        super().__init__(workers=workers)
        self.examples, self.batch, self.start = examples, batch, start
        self.batches = len(examples) // batch  # what is left over comes in another epoch, which has another order
        self.order = functools.lru_cache(maxsize=2)(examples.order)
        self.error: Exception | None = None

    @property
    def num_batches(self) -> None:
        """None, so that Keras asks for as many batches as it needs."""

    def __getitem__(self, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, index = divmod(item, self.batches)
        try:
            items = self.order(self.start + epoch)[index * self.batch : (index + 1) * self.batch]
            return self.examples.batch(items)
        except Exception as error:
            self.error = self.error or error
            raise
