"""Where the time of a training step goes, from what Lightning times by itself."""

from __future__ import annotations

import statistics

import torch
from lightning.pytorch.profilers import SimpleProfiler

PARTS = {  # what Lightning's names of actions end in, of each part of a step
    "data": ("train_dataloader_next", "Strategy.batch_to_device"),
    "forward": ("Strategy.training_step",),
    "backward": ("Strategy.backward",),
}
STEP, EPOCH, EPOCH_END = "run_training_batch", "run_training_epoch", "EpochEnd.on_train_epoch_end"
WARM = 5  # first steps, in which memory is taken and code compiled


class StepTimes(SimpleProfiler):
    """Seconds of what Lightning does; on a GPU until it is done."""

    def start(self, action_name: str) -> None:
        _wait()
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        _wait()
        super().stop(action_name)

    @property
    def steps(self) -> int:
        """How many were taken; none where a run that is finished is resumed."""
        return len(self._seconds(STEP))

    def parts(self) -> tuple[dict[str, float], int, float]:
        """Mean seconds of a step's parts, over how many steps (the first WARM are left out), and of an epoch's end."""
        steps = self.steps
        warm = min(WARM, steps - 1)
        spent = {name: sum(self._mean(action, warm) for action in actions) for name, actions in PARTS.items()}
        inside = sum(self._seconds(STEP)) + sum(sum(self._seconds(action)) for action in PARTS["data"])
        spent["optimizer"] = self._mean(STEP, warm) - spent["forward"] - spent["backward"]
        spent["logging"] = max(sum(self._seconds(EPOCH)) - inside, 0.0) / steps
        return spent, steps - warm, self._mean(EPOCH_END, 0)

    def _seconds(self, ending: str) -> list[float]:
        """Of each time that the action was done whose name ends so."""
        return next((seconds for name, seconds in self.recorded_durations.items() if name.endswith(ending)), [])

    def _mean(self, ending: str, warm: int) -> float:
        return statistics.mean(self._seconds(ending)[warm:])


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
