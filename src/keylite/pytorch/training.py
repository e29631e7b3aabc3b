"""Training with PyTorch Lightning: from examples to a model file; a run can be resumed after any interruption.

Only what depends on the framework is here. run.py has validation, files and warnings.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import logging
import math
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from timm.layers import convert_sync_batchnorm

from keylite.data.examples import Examples
from keylite.pytorch.batches import batches_of
from keylite.pytorch.companions import environment_of, failure_of, gathered, strategy_of
from keylite.pytorch.cpu import compiles, keep_memory, learn_by_taps, require_compiler
from keylite.pytorch.losses import head_sums, loss, new_flow
from keylite.pytorch.model import (
    EfficientNetLiteRegressor,
    PixelModel,
    as_engine,
    load_backbone,
    save_model,
    torch_device,
)
from keylite.pytorch.profiling import StepTimes
from keylite.pytorch.resuming import read_checkpoint, require_fit
from keylite.pytorch.teacher import TeacherNetwork
from keylite.runtime.errors import ArgumentError
from keylite.runtime.files import replacing
from keylite.runtime.heads import Head
from keylite.runtime.progress import step
from keylite.runtime.spec import ModelSpec
from keylite.training.folder import write_profile
from keylite.training.processes import World, cores_of, world_of
from keylite.training.recipe import Recipe
from keylite.training.run import ALONE, FINITE_EVERY, Run, require_finite
from keylite.training.schedule import batch_of, ema_decay, lr_factor
from keylite.training.teacher import Teacher

log = logging.getLogger("keylite")


class Training(lightning.LightningModule):
    """The training step, the optimizer and the moving average. A resume checkpoint holds its state."""

    def __init__(
        self,
        model: PixelModel,
        head: Head,
        recipe: Recipe,
        steps_per_epoch: int,
        world: World = ALONE,
        teacher: TeacherNetwork | None = None,
    ) -> None:
        super().__init__()
        self.model, self.head, self.recipe, self.world, self.teacher = model, head, recipe, world, teacher
        self.steps_per_epoch = steps_per_epoch
        self.flow = new_flow(head)
        self.averaged = copy.deepcopy(model).requires_grad_(False).eval() if recipe.ema else None
        self.loss = loss(
            recipe.loss, recipe.input_size, delta=recipe.delta, width=recipe.wing_width, epsilon=recipe.wing_epsilon
        )
        self.register_buffer("sums", torch.zeros(4, dtype=torch.float64), persistent=False)
        self.weight = torch.zeros(())  # sum of weights in the batches that are added up for the next step

    @property
    def network(self) -> EfficientNetLiteRegressor:
        return self.model.network  # type: ignore[return-value]

    @property
    def result(self) -> PixelModel:
        """The network with the moving average of the weights; without an average, the trained network itself."""
        return self.averaged or self.model

    def branch(self) -> float | None:
        """The error in px at which the loss changes branch; None if it has one branch, or if the head is `rle`."""
        return None if self.flow is not None else self.loss.branch()

    def on_train_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_train_epoch_start(self) -> None:
        self.network.freeze(self.current_epoch < self.recipe.freeze_epochs)
        self.sums.zero_()

    def training_step(self, batch: tuple[torch.Tensor, ...] | Exception, index: int) -> torch.Tensor:
        if isinstance(batch, Exception):
            raise batch
        pixels, unit_xy, weight = batch
        raw = self.model(pixels)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))  # from half precision
        lesson = None if self.teacher is None else (self.teacher.facts, self.teacher(pixels))
        with torch.autocast(raw.device.type, enabled=False):  # in bfloat16, a mean over bins would be off by px
            total, count, predicted = head_sums(self.head, self.loss, raw, unit_xy, weight, self.flow, lesson)
        self._watch(predicted.detach(), unit_xy, weight, total.detach(), count)
        if index % FINITE_EVERY == 0:
            require_finite(self.recipe, self.current_epoch, float(total.detach()))
        self.weight = self.weight.to(count) + count
        self.log("loss", total.detach() / count.clamp(min=1), logger=True)
        return total * self.recipe.accumulate  # Lightning divides by it; the mean is made in on_before_optimizer_step

    def _watch(
        self,
        predicted: torch.Tensor,
        unit_xy: torch.Tensor,
        weight: torch.Tensor,
        total: torch.Tensor,
        count: torch.Tensor,
    ) -> None:
        """Add a batch to the epoch's sums: loss, weight, number of errors below the loss's branch, number of errors."""
        below = predicted.new_zeros(())
        branch = self.branch()
        if branch is not None:
            error, masked = self.loss.errors(predicted, unit_xy, weight)
            below = ((error.abs() < branch) & (masked > 0).unsqueeze(-1)).sum()
        self.sums += torch.stack([total, count, below, 2 * (weight > 0).sum()]).to(self.sums)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradients those of one mean over all points of all added batches and processes, then clip them."""
        weight = self.weight.clone()
        if self.world.size > 1:  # Lightning has averaged gradients over processes
            torch.distributed.all_reduce(weight)
            weight /= self.world.size
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_div_(gradients, weight.clamp(min=1 / self.world.size).to(gradients[0].dtype))
        self.weight = torch.zeros_like(self.weight)
        if self.recipe.clip:  # Lightning refuses to clip for a fused optimizer in mixed precision
            torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip, foreach=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.averaged is None:
            return
        decay = ema_decay(self.recipe, self.global_step)
        ours, new = [], []
        for average, value in zip(self.averaged.state_dict().values(), self.model.state_dict().values(), strict=True):
            if average.is_floating_point():
                ours.append(average)
                new.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(ours, new, 1 - decay)

    def configure_optimizers(self) -> dict[str, Any]:
        recipe = self.recipe
        groups = []
        for module, factor in ((self.network.backbone, recipe.backbone_lr_factor), (self.network.head, 1.0)):
            for decays in (True, False):
                parameters = [p for p in module.parameters() if (p.ndim > 1) == decays]
                decay = recipe.weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr": recipe.lr * factor, "weight_decay": decay})
        if self.flow is not None:
            groups.append({"params": list(self.flow.parameters()), "lr": recipe.lr, "weight_decay": 0.0})
        fused = recipe.precision != "16"  # a fused one would get gradients before their scale is removed
        optimizer = OPTIMIZERS[recipe.optimizer](groups, recipe, fused)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(recipe, step, self.steps_per_epoch)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


OPTIMIZERS = {
    "adam": lambda groups, recipe, fused: torch.optim.Adam(groups, fused=fused),
    "adamw": lambda groups, recipe, fused: torch.optim.AdamW(groups, fused=fused),
    "sgd": lambda groups, recipe, fused: torch.optim.SGD(groups, momentum=recipe.momentum, fused=fused),
}

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class EpochEnd(lightning.Callback):
    """Calls the run at the end of each epoch, then writes the resume checkpoint."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.run.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.run.history = state_dict["history"]

    def on_train_start(self, trainer: lightning.Trainer, training: lightning.LightningModule) -> None:
        trainer.should_stop = self.run.finished()  # a finished run does not train another epoch

    def on_train_epoch_end(self, trainer: lightning.Trainer, training: Training) -> None:  # type: ignore[override]
        world = training.world
        if world.size > 1:
            torch.distributed.all_reduce(training.sums)
            for statistics in training.result.buffers():  # each process has its own; those of the first are written
                torch.distributed.broadcast(statistics, 0)
        total, weight, below, errors = training.sums.tolist()
        require_finite(training.recipe, training.current_epoch, total)
        network: EfficientNetLiteRegressor = training.result.network  # type: ignore[assignment]
        was_training = training.result.training
        with torch.compiler.set_stance("force_eager"):  # validation has batches of other sizes
            row = self.run.end_epoch(
                as_engine(training.result),
                lambda spec, path: save_model(network, spec, path),
                step=trainer.global_step,
                lr=trainer.optimizers[0].param_groups[-1]["lr"],
                loss=total / max(weight, 1),
                world=world,
            )
        training.result.train(was_training)
        for name in ("val_nme", "val_px"):
            training.log(name, row[name])
        if world.first:
            with replacing(self.run.checkpoint) as beside:
                trainer.save_checkpoint(beside)
            self.run.say_epoch()
            self.run.speak_up(training.branch(), below / max(errors, 1))
        else:
            trainer.save_checkpoint(self.run.checkpoint)  # waits for the first process; only that one writes
        trainer.should_stop = trainer.should_stop or self.run.finished()


class Steps(lightning.Callback):
    """Shows the progress of the run, without asking the device, which would make it wait.

    batches: their number per epoch. steps: where the progress stays open until training ends.
    """

    def __init__(self, batches: int, steps: contextlib.ExitStack) -> None:
        self.batches, self.steps = batches, steps

    def on_train_start(self, trainer: lightning.Trainer, training: lightning.LightningModule) -> None:
        left = (trainer.max_epochs or 0) - trainer.current_epoch
        self.done = self.steps.enter_context(step("training", left * self.batches))

    def on_train_batch_end(self, *_: Any) -> None:
        self.done(1)


def new_network(recipe: Recipe, spec: ModelSpec, shape: np.ndarray, weights: Path | None) -> EfficientNetLiteRegressor:
    """The network that a run starts from; ArgumentError if weights, device, precision or compiler do not fit.

    shape: (K, 2) unit coordinates that the untrained head gives. weights: the file for `load_backbone`, or None.
    """
    device = torch_device(recipe.device)
    if recipe.precision == "16" and device.type == "cpu":
        raise ArgumentError("precision: 16 needs a GPU; use bf16 or 32 on a CPU")
    require_compiler(recipe, device)
    torch.manual_seed(recipe.seed)
    network = EfficientNetLiteRegressor(
        spec.head.keypoints, spec.backbone, head=spec.head, size=spec.size, stages=spec.stages, mean_shape=shape
    )
    if weights:
        log.info("starting from %s", load_backbone(network, weights))
    return network


def load_teacher(recipe: Recipe, teacher: Teacher) -> TeacherNetwork:
    """The network that teaches; ModelFileError if the file's tensors do not fit its spec."""
    return TeacherNetwork(teacher)


def require_resumable(run: Run, network: EfficientNetLiteRegressor) -> None:
    """Raise ArgumentError if the resume checkpoint is damaged, holds code, or fits another network or recipe."""
    _quiet_lightning()
    content = read_checkpoint(run.checkpoint)
    with warnings.catch_warnings():
        for message in IGNORED:
            warnings.filterwarnings("ignore", message=message)
        model = PixelModel(network, run.spec.mean, run.spec.std)
        require_fit(run.checkpoint, content, Training(model, run.spec.head, run.recipe, 1))


def _quiet_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def fit(
    run: Run,
    network: EfficientNetLiteRegressor,
    examples: Examples,
    teacher: TeacherNetwork | None = None,
    *,
    resume: bool = False,
) -> None:
    """Train the network on augmented examples; the results are in the run's folder.

    teacher: it teaches beside the labels. resume: go on from the run's checkpoint, if there is one.
    Raises KeyboardInterrupt after a clean stop by Ctrl-C.
    """
    recipe, device, world = run.recipe, torch_device(run.recipe.device), world_of(run.recipe) or ALONE
    world = world._replace(gather=gathered) if world.size > 1 else world
    share = cores_of(recipe, world.launcher)
    if device.type == "cpu":  # torchrun sets one thread unless the user sets another number
        most = share if world.size > 1 else torch.get_num_threads()
        torch.set_num_threads(recipe.threads or min(share, most))
    batch = batch_of(recipe, len(examples))
    log.info("arithmetic on %s", device)
    workers = recipe.workers
    if workers < 0:
        workers = min(16, share) if device.type == "cuda" else 0
    loader = batches_of(examples, batch, world, workers, pinned=device.type == "cuda")
    steps_per_epoch = math.ceil(len(loader) / recipe.accumulate)
    if world.size > 1 and device.type == "cuda":
        convert_sync_batchnorm(network)  # in place; the function of torch would lose the activations of timm
    model = PixelModel(network, run.spec.mean, run.spec.std).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        keep_memory()
    _quiet_lightning()
    times, steps = StepTimes() if run.profile else None, contextlib.ExitStack()
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=recipe.devices,
        num_nodes=recipe.nodes,
        strategy=strategy_of(recipe, device) if world.size > 1 else "auto",
        plugins=[environment_of(world)],
        use_distributed_sampler=False,
        max_epochs=recipe.epochs,
        precision=PRECISIONS[recipe.precision],  # type: ignore[arg-type]
        accumulate_grad_batches=recipe.accumulate,
        logger=TensorBoardLogger(str(run.out), name="", version="tensorboard"),
        callbacks=[EpochEnd(run), Steps(len(loader), steps)],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=min(50, steps_per_epoch),
        num_sanity_val_steps=0,
        profiler=times,
    )
    # TensorBoard would import TensorFlow, if installed, to write these files; a module of this name stops that.
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    checkpoint = run.checkpoint if resume and run.checkpoint.is_file() else None
    with warnings.catch_warnings(), steps, untraced_writers():
        for message in IGNORED:
            warnings.filterwarnings("ignore", message=message)
        try:
            training = Training(model, run.spec.head, recipe, steps_per_epoch, world, teacher)
            if compiles(recipe, device, steps_per_epoch * recipe.epochs):
                learn_by_taps(model)
                model.compile()
            # DDP must find all parameters; the start of each epoch freezes the backbone if it must.
            network.freeze(False)
            trainer.fit(training, loader, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # Lightning raises this after Ctrl-C
            raise KeyboardInterrupt from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            why = f"cannot write to this folder: {error.strerror}; mend that, and go on with `resume=True`"
            raise OSError(f"{run.out}: {why}") from None
        except torch.OutOfMemoryError:
            raise ArgumentError(f"batch: {batch} objects need more memory than {device} has; take fewer") from None
        except RuntimeError as error:
            if (failure := failure_of(error, world)) is None:
                raise
            raise failure from None
    if times is not None and world.first and times.steps:
        write_profile(run.out, *times.parts())


@contextlib.contextmanager
def untraced_writers() -> Iterator[None]:
    """Print no traceback if the thread that writes TensorBoard's file fails; the next call of the writer raises it."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError) or not type(failed.thread).__module__.startswith("tensorboard."):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


# Warnings of Lightning about things that are intended here, by message.
IGNORED = (
    r".*does not have many workers.*",
    r".*It is recommended to use `self.log\(.*sync_dist=True\)`.*",  # every process logs the same
    r".*The number of training batches.*is smaller than the logging interval.*",
    r".*Found \d+ module\(s\) in eval mode.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
)
