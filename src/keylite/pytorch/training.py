"""Training on Lightning: from examples to a model file, resumable after any interruption.

Twin of tensorflow/training.py. Validation goes the road of every prediction: Predictor, Head.decode, evaluation.
"""

from __future__ import annotations

import copy
import csv
import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from keylite.data.dataset import Dataset
from keylite.data.examples import Examples
from keylite.evaluation import Report, predict_dataset, report_of
from keylite.pytorch.losses import loss
from keylite.pytorch.model import (
    EfficientNetLiteRegressor,
    PixelModel,
    as_engine,
    load_backbone,
    save_model,
    torch_device,
)
from keylite.recipe import Recipe
from keylite.runtime.engines import Engine
from keylite.runtime.modelfile import replacing, write_text
from keylite.runtime.predictor import Predictor
from keylite.runtime.spec import ModelSpec

log = logging.getLogger("keylite")

BRANCH_SHARE = 1e-4  # fewer errors than this on one branch of the loss: the loss is not what its name says
FINITE_EVERY = 50  # steps between looks at the loss, which stall a GPU


class Batches(TorchDataset):
    """Examples, a list of items at a time."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, item: int) -> tuple[np.ndarray, ...]:
        return self.examples[item]

    def __getitems__(self, items: list[int]) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(part) for part in self.examples.batch(items))


class EpochOrder(Sampler[int]):
    """A new order each epoch, of items that name the epoch: epoch * N + index."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        return iter((self.epoch * self.count + order).tolist())


class Training(lightning.LightningModule):
    """One step, the optimizer and the moving average; what a resume checkpoint holds."""

    def __init__(self, model: PixelModel, recipe: Recipe, steps: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.model, self.recipe, self.steps, self.steps_per_epoch = model, recipe, steps, steps_per_epoch
        self.averaged = copy.deepcopy(model).requires_grad_(False).eval() if recipe.ema else None
        self.loss = loss(
            recipe.loss, recipe.input_size, delta=recipe.delta, width=recipe.wing_width, epsilon=recipe.wing_epsilon
        )
        self.register_buffer("sums", torch.zeros(4, dtype=torch.float64), persistent=False)
        self.weight = torch.zeros(())  # of the batches added up for the next optimizer step

    @property
    def network(self) -> EfficientNetLiteRegressor:
        return self.model.network  # type: ignore[return-value]

    @property
    def best_model(self) -> PixelModel:
        """The moving average of the weights, or the weights themselves without one."""
        return self.averaged or self.model

    def on_train_epoch_start(self) -> None:
        self.network.freeze(self.current_epoch < self.recipe.freeze_epochs)
        self.sums.zero_()

    def training_step(self, batch: tuple[torch.Tensor, ...], index: int) -> torch.Tensor:
        pixels, unit_xy, weight = batch
        raw = self.model(pixels)
        total, count = self.loss.sums(raw, unit_xy, weight)
        self._watch(raw.detach(), unit_xy, weight, total.detach(), count)
        if index % FINITE_EVERY == 0 and not torch.isfinite(total):
            raise ValueError(
                f"training: the loss is {float(total)} in epoch {self.current_epoch + 1}; "
                f"lower lr (now {self.recipe.lr:g}), or set clip"
            )
        self.weight = self.weight.to(count) + count
        self.log("loss", total.detach() / count.clamp(min=1), prog_bar=True, logger=True)
        return total * self.recipe.accumulate  # Lightning divides by it; on_before_optimizer_step divides by the weight

    def _watch(
        self, raw: torch.Tensor, unit_xy: torch.Tensor, weight: torch.Tensor, total: torch.Tensor, count: torch.Tensor
    ) -> None:
        """Add to the epoch's sums: loss, weight, errors below the loss's branch, errors."""
        below = raw.new_zeros(())
        branch = self.loss.branch()
        if branch is not None:
            error, masked = self.loss.errors(raw, unit_xy, weight)
            below = ((error.abs() < branch) & (masked > 0).unsqueeze(-1)).sum()
        self.sums += torch.stack([total, count, below, 2 * (weight > 0).sum()]).to(self.sums)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """One mean over all points of all accumulated batches, whatever each of them holds."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, float(self.weight.clamp(min=1)))
        self.weight = torch.zeros_like(self.weight)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.averaged is None:
            return
        step = self.global_step
        decay = min(self.recipe.ema, (1 + step) / (10 + step))  # a young average follows quickly
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
        optimizer = OPTIMIZERS[recipe.optimizer](groups, recipe)
        warmup = round(recipe.warmup_epochs * self.steps_per_epoch)

        def factor_at(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            if recipe.schedule == "constant":
                return 1.0
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(self.steps - warmup, 1)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor_at)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


OPTIMIZERS = {
    "adam": lambda groups, recipe: torch.optim.Adam(groups),
    "adamw": lambda groups, recipe: torch.optim.AdamW(groups),
    "sgd": lambda groups, recipe: torch.optim.SGD(groups, momentum=recipe.momentum),
}

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class EpochEnd(lightning.Callback):
    """Validate, write best, last and the resume checkpoint, log a line, speak up, stop early."""

    def __init__(self, val: Dataset, spec: ModelSpec, out: Path, baseline: Report) -> None:
        self.val, self.spec, self.out, self.baseline = val, spec, out, baseline
        self.history: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]

    def on_train_epoch_end(self, trainer: lightning.Trainer, training: Training) -> None:  # type: ignore[override]
        recipe = training.recipe
        total, weight, below, errors = training.sums.tolist()
        report = validate(as_engine(training.best_model), self.spec, self.val)
        row = {
            "epoch": training.current_epoch + 1,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[-1]["lr"],
            "loss": total / max(weight, 1),
            "val_nme": report.nme.mean,
            "val_px": report.pixel_error.mean,
        }
        best = min((past["val_nme"] for past in self.history), default=math.inf)
        self.history.append(row)
        for name in ("val_nme", "val_px"):
            training.log(name, row[name], prog_bar=True)
        spec = with_report(self.spec, report, row)
        network: EfficientNetLiteRegressor = training.best_model.network  # type: ignore[assignment]
        if row["val_nme"] < best:
            save_model(network, spec, self.out / "model.safetensors")
        save_model(network, spec, self.out / "last.safetensors")
        write_log(self.history, self.out)
        with replacing(self.out / "resume.ckpt") as beside:
            trainer.save_checkpoint(beside)
        mark = " (best)" if row["val_nme"] < best else ""
        log.info(
            "epoch %d/%d  loss %.4g  val NME %.2f %%  val error %.2f px%s",
            row["epoch"], recipe.epochs, row["loss"], 100 * row["val_nme"], row["val_px"], mark,
        )  # fmt: skip
        self.speak_up(training, row, below / max(errors, 1))
        since = len(self.history) - 1 - int(np.argmin([past["val_nme"] for past in self.history]))
        if recipe.patience and since >= recipe.patience:
            log.info("stopped early: no better val NME for %d epochs", since)
            trainer.should_stop = True

    def speak_up(self, training: Training, row: dict[str, float], share_below: float) -> None:
        """Warn of a run that looks wrong after its first third."""
        recipe = training.recipe
        if row["epoch"] != math.ceil(recipe.epochs / 3):
            return
        if row["val_nme"] > self.baseline.nme.mean:
            log.warning(
                "val NME %.2f %% is worse than predicting the mean shape (%.2f %%) after a third of the run: look at "
                "the contact sheet, the labels, lr and the loss", 100 * row["val_nme"], 100 * self.baseline.nme.mean,
            )  # fmt: skip
        branch = training.loss.branch()
        if branch is not None and not BRANCH_SHARE < share_below < 1 - BRANCH_SHARE:
            side = "above" if share_below < 0.5 else "below"
            log.warning(
                "every error of epoch %d is %s %g px, on one branch of %s: change its threshold, or take mae or mse",
                row["epoch"], side, branch, recipe.loss,
            )  # fmt: skip


def validate(engine: Engine, spec: ModelSpec, val: Dataset) -> Report:
    """The report of an engine in memory; no OKS, which needs a package of its own."""
    return report_of(predict_dataset(Predictor.of(engine, spec), val), val, spec.normalize)


def with_report(spec: ModelSpec, report: Report, row: dict[str, float]) -> ModelSpec:
    """The spec with the figures of an epoch."""
    import msgspec

    figures = {
        "data": "val",
        "epoch": row["epoch"],
        "nme": report.nme.mean,
        "normalize": report.nme.normalize,
        "pixel_error": report.pixel_error.mean,
        "count": report.count,
    }
    return msgspec.structs.replace(spec, report=figures)


def write_log(history: list[dict[str, float]], out: Path) -> None:
    """`log.csv` and `curves.png` of all epochs so far."""
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys())
    writer.writeheader()
    writer.writerows(history)
    write_text(out / "log.csv", text.getvalue())
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in history]
    panels = (("loss", "training loss", 1), ("val_nme", "val NME, %", 100), ("lr", "learning rate", 1))
    for axes, (name, title, factor) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.plot(epochs, [factor * row[name] for row in history], marker="." if len(history) < 40 else "")
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylim(0, 1.05 * factor * max(row[name] for row in history))
        axes.grid(alpha=0.3)
    with replacing(out / "curves.png") as beside:
        figure.savefig(beside, format="png", dpi=110)


def fit(recipe: Recipe, train: Examples, val: Dataset, spec: ModelSpec, out: Path, *, resume: bool = False) -> Path:
    """Train, and give the path of the best model file by val NME: `out/model.safetensors`.

    train: augmented examples. spec: all but the report and the normalisation, which the backbone decides. resume:
    go on from `out/resume.ckpt` where there is one. Raises KeyboardInterrupt after a clean stop by Ctrl-C.
    """
    device = torch_device(recipe.device)
    if recipe.precision == "16" and device.type == "cpu":
        raise ValueError("precision: 16 needs a GPU; use bf16 or 32 on a CPU")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    network = EfficientNetLiteRegressor(
        spec.head.keypoints, spec.backbone, head=spec.head, size=spec.size, mean_shape=train.mean_shape()
    )
    checkpoint = out / "resume.ckpt"
    resume = resume and checkpoint.is_file()
    if recipe.pretrained != "none" and not resume:
        from keylite.pretrained import find_pretrained

        weights = find_pretrained(recipe.pretrained, recipe.backbone)
        assert weights is not None
        log.info("starting from %s", load_backbone(network, weights))
    model = PixelModel(network, spec.mean, spec.std).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps_per_epoch = max(1, math.ceil((len(train) // min(recipe.batch, len(train))) / recipe.accumulate))
    steps = steps_per_epoch * recipe.epochs
    if recipe.warmup_epochs >= recipe.epochs:
        log.warning(
            "the warm-up (%g epochs) is as long as the run (%d epochs): the learning rate never reaches lr; lower "
            "warmup_epochs", recipe.warmup_epochs, recipe.epochs,
        )  # fmt: skip
    training = Training(model, recipe, steps, steps_per_epoch)
    end = EpochEnd(val, spec, out, mean_shape_report(train, val, spec))
    workers = recipe.workers if recipe.workers >= 0 else (min(16, os.cpu_count() or 1) if device.type == "cuda" else 0)
    loader = DataLoader(
        Batches(train),
        batch_size=min(recipe.batch, len(train)),
        sampler=EpochOrder(len(train), recipe.seed),
        drop_last=True,  # another order every epoch: nothing is left out for good
        num_workers=workers,
        persistent_workers=False,
        pin_memory=device.type == "cuda",
        collate_fn=_as_it_is,
    )
    _quiet_lightning()
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=recipe.epochs,
        precision=PRECISIONS[recipe.precision],  # type: ignore[arg-type]
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.clip or None,
        logger=TensorBoardLogger(str(out), name="", version="tensorboard"),
        callbacks=[end],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        log_every_n_steps=min(50, steps_per_epoch),
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        for message in IGNORED:
            warnings.filterwarnings("ignore", message=message)
        try:
            trainer.fit(training, loader, ckpt_path=checkpoint if resume else None, weights_only=False)
        except SystemExit:  # how Lightning ends after Ctrl-C
            raise KeyboardInterrupt from None
    return out / "model.safetensors"


def mean_shape_report(train: Examples, val: Dataset, spec: ModelSpec) -> Report:
    """The report of a model that always gives the training set's mean shape."""
    shape = train.mean_shape()

    def engine(pixels: np.ndarray) -> np.ndarray:
        return np.broadcast_to(shape, (len(pixels), *shape.shape))

    return validate(engine, spec, val)


def _as_it_is(batch: Any) -> Any:
    return batch


def _quiet_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


# What Lightning says of things that are meant here, by message.
IGNORED = (
    r".*does not have many workers.*",
    r".*The number of training batches.*is smaller than the logging interval.*",
    r".*You defined a `validation_step` but have no `val_dataloader`.*",
    r".*Found \d+ module\(s\) in eval mode.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
)
