"""The times of the parts of a training step, from the actions that Lightning measures."""

from __future__ import annotations

import statistics

import torch
from lightning.pytorch.profilers import SimpleProfiler

PARTS = {  # for each part of a step, how the names of its actions end in Lightning
    "data": ("train_dataloader_next", "Strategy.batch_to_device"),
    "forward": ("Strategy.training_step",),
    "backward": ("Strategy.backward",),
}
STEP, EPOCH, EPOCH_END = "run_training_batch", "run_training_epoch", "EpochEnd.on_train_epoch_end"
WARM = 5  # the first steps are not counted, because they take memory and compile code


class StepTimes(SimpleProfiler):
    """Measures the seconds of Lightning's actions; on a GPU, until the GPU has finished."""

    def start(self, action_name: str) -> None:
        _wait()
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        _wait()
        super().stop(action_name)

    @property
    def steps(self) -> int:
        """The number of steps; 0 if a finished run was resumed."""
        return len(self._seconds(STEP))

    def parts(self) -> tuple[dict[str, float], int, float]:
        """(mean seconds of each part of a step, number of steps in these means, mean seconds of an epoch's end)."""
        steps = self.steps
        warm = min(WARM, steps - 1)
        spent = {name: sum(self._mean(action, warm) for action in actions) for name, actions in PARTS.items()}
        inside = sum(self._seconds(STEP)) + sum(sum(self._seconds(action)) for action in PARTS["data"])
        spent["optimizer"] = self._mean(STEP, warm) - spent["forward"] - spent["backward"]
        spent["logging"] = max(sum(self._seconds(EPOCH)) - inside, 0.0) / steps
        return spent, steps - warm, self._mean(EPOCH_END, 0)

    def _seconds(self, ending: str) -> list[float]:
        """The seconds of each call of the action whose name ends with `ending`."""
        return next((seconds for name, seconds in self.recorded_durations.items() if name.endswith(ending)), [])

    def _mean(self, ending: str, warm: int) -> float:
        return statistics.mean(self._seconds(ending)[warm:])


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
