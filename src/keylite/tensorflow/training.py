"""Training with Keras: from examples to a model file; a run can be resumed after any interruption.

Only what depends on the framework is here. run.py has validation, files and warnings.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from safetensors.numpy import load, save

from keylite.data.examples import Examples
from keylite.runtime.errors import ArgumentError
from keylite.runtime.machine import cores
from keylite.runtime.modelfile import SEAL, safetensors_header, write_sealed_safetensors
from keylite.runtime.progress import Advance, step
from keylite.runtime.spec import ModelSpec
from keylite.tensorflow.batches import Batches
from keylite.tensorflow.losses import head_sums, loss, new_flow
from keylite.tensorflow.model import (
    EfficientNetLiteRegressor,
    as_engine,
    assign,
    load_backbone,
    normalised,
    save_model,
    tensorflow_device,
    tensors,
    use_threads,
)
from keylite.tensorflow.optimizers import OPTIMIZERS, gathered, spread
from keylite.tensorflow.teacher import TeacherNetwork
from keylite.training.checkpoint import Listed, check_fit
from keylite.training.folder import require_history
from keylite.training.recipe import Recipe
from keylite.training.run import FINITE_EVERY, Run, require_finite
from keylite.training.schedule import batch_of, ema_decay, lr_factor
from keylite.training.teacher import Teacher

log = logging.getLogger("keylite")


class Training(keras.Model):
    """The training step, the optimizers and the moving average. A resume checkpoint holds their state.

    The backbone has its own optimizer, which counts steps from the moment when the backbone is no longer frozen.
    Optimizers and moving average work on a few long vectors that hold the network's variables: updates of each variable
    would be two thirds of the graph, and take most of the time before the first step.
    """

    def __init__(
        self,
        network: EfficientNetLiteRegressor,
        spec: ModelSpec,
        recipe: Recipe,
        teacher: TeacherNetwork | None = None,
    ) -> None:
        super().__init__()
        self.network, self.spec, self.recipe, self.teacher = network, spec, recipe, teacher
        self.points = loss(
            recipe.loss, recipe.input_size, delta=recipe.delta, width=recipe.wing_width, epsilon=recipe.wing_epsilon
        )
        self.flow = new_flow(spec.head)
        network.freeze(False)
        in_backbone = {id(variable) for variable in network.backbone.trainable_variables}
        self.groups: dict[str, list[keras.Variable]] = {group: [] for group in GROUPS}
        for variable in network.trainable_variables:
            part = "backbone" if id(variable) in in_backbone else "head"
            self.groups[f"{part} {'weights' if len(variable.shape) > 1 else 'biases'}"].append(variable)
        if self.flow:
            self.groups["head biases"] += self.flow.trainable_variables  # the flow has no weight decay
        self.vectors = {group: keras.Variable(gathered(own), name=group) for group, own in self.groups.items()}
        self.optimizers = {part: OPTIMIZERS[recipe.optimizer](recipe) for part in ("backbone", "head")}
        for part, optimizer in self.optimizers.items():
            weights, biases = self.vectors[f"{part} weights"], self.vectors[f"{part} biases"]
            if recipe.optimizer == "adamw":
                optimizer.exclude_from_weight_decay(var_list=[biases])
            optimizer.build([weights, biases])
        self.averaged = EfficientNetLiteRegressor.from_config(network.get_config()) if recipe.ema else None
        self.average = tf.Variable(gathered(network.variables) if recipe.ema else [], trainable=False)
        self.decay = tf.Variable(0.0, trainable=False)
        self.sums = tf.Variable(tf.zeros(4, tf.float64), trainable=False)
        self.waiting: dict[str, tf.Variable] = {}  # gradients of the batches that wait for the next step, added up
        self.weight = tf.Variable(0.0, trainable=False)  # sum of weights in these batches
        self.step_now = tf.Variable(True, trainable=False)
        self.engine = as_engine(self.averaged or network, spec.mean, spec.std)
        self.built = True

    def result(self) -> EfficientNetLiteRegressor:
        """The network with the moving average as it is now; without one, the trained network. `engine` runs it."""
        if self.averaged is None:
            return self.network
        spread(self.average, self.averaged.variables)
        return self.averaged

    def branch(self) -> float | None:
        """The error in px at which the loss changes branch; None if it has one branch, or if the head is `rle`."""
        return None if self.flow else self.points.branch()

    def begin(self, frozen: bool) -> None:
        """Prepare for epochs with the backbone frozen or not."""
        self.network.freeze(frozen)
        self.trained = [group for group in GROUPS if not (frozen and group.startswith("backbone"))]
        if self.recipe.accumulate > 1:
            zeros = {group: tf.zeros_like(self.vectors[group]) for group in self.trained}
            self.waiting = {group: tf.Variable(zero, trainable=False) for group, zero in zeros.items()}
        self.compile(optimizer=None, jit_compile=False)  # on a CPU, XLA was 20 times slower

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        pixels, unit_xy, weight = data
        lesson = None if self.teacher is None else (self.teacher.facts, self.teacher(pixels))
        with tf.GradientTape() as tape:
            raw = self.network(normalised(pixels, self.spec.mean, self.spec.std), training=True)
            total, count, predicted = head_sums(self.spec.head, self.points, raw, unit_xy, weight, self.flow, lesson)
        by_group = tape.gradient(total, {group: self.groups[group] for group in self.trained})
        gradients = {group: gathered(own) for group, own in by_group.items()}
        self._watch(predicted, unit_xy, weight, total, count)
        if not self.waiting:
            self._step(gradients, count)
        else:
            for group, gradient in gradients.items():
                self.waiting[group].assign_add(gradient)
            self.weight.assign_add(count)
            tf.cond(self.step_now, self._step_with_all, lambda: None)
        return {"loss": total / tf.maximum(count, 1)}

    def _step_with_all(self) -> None:
        self._step({group: tf.identity(waiting) for group, waiting in self.waiting.items()}, self.weight)
        for waiting in (*self.waiting.values(), self.weight):
            waiting.assign(tf.zeros_like(waiting))

    def _step(self, gradients: dict[str, tf.Tensor], weight: tf.Tensor) -> None:
        """One step with the gradients of a single mean over all points of all added batches."""
        vectors = [gradient / tf.maximum(weight, 1) for gradient in gradients.values()]
        if self.recipe.clip:
            vectors, _ = tf.clip_by_global_norm(vectors, self.recipe.clip)
        mean = dict(zip(gradients, vectors, strict=True))
        if self.recipe.optimizer != "adamw":  # weights decay through the gradient, as in torch
            for group in (group for group in mean if group.endswith("weights")):
                mean[group] += self.recipe.weight_decay * self.vectors[group]
        for part, optimizer in self.optimizers.items():
            own = [group for group in GROUPS if group.startswith(part) and group in mean]
            if own:
                optimizer.apply([mean[group] for group in own])
                for group in own:
                    spread(self.vectors[group], self.groups[group])
        if self.averaged is not None:
            now = gathered(self.network.variables)
            self.average.assign_sub((1 - self.decay) * (self.average - now))

    def _watch(
        self, predicted: tf.Tensor, unit_xy: tf.Tensor, weight: tf.Tensor, total: tf.Tensor, count: tf.Tensor
    ) -> None:
        """Add a batch to the epoch's sums: loss, weight, number of errors below the loss's branch, number of errors."""
        branch, below = self.branch(), 0.0
        if branch is not None:
            error, masked = self.points.errors(predicted, unit_xy, weight)
            below = tf.math.count_nonzero((tf.abs(error) < branch) & (masked > 0)[..., tf.newaxis])
        sums = (total, count, below, 2 * tf.math.count_nonzero(weight > 0))
        self.sums.assign_add(tf.stack([tf.cast(value, tf.float64) for value in sums]))

    # ---- the resume checkpoint

    def state(self) -> dict[str, np.ndarray]:
        """All values that change in training, by name."""
        self.result()  # the moving average as it is now
        parts = self._networks().items()
        weights = {f"{part}.{name}": t for part, network in parts for name, t in tensors(network).items()}
        return weights | {name: np.asarray(variable.numpy()) for name, variable in self._optimizer_variables().items()}

    def require_fit(self, checkpoint: Path) -> None:
        """Raise ArgumentError unless a resume checkpoint has the tensors of this state, with finite values."""
        header, own = safetensors_header(checkpoint), self.state()
        listed = {name: Listed(t["dtype"], tuple(t["shape"])) for name, t in header.items() if name != "__metadata__"}
        check_fit(listed, own, str(checkpoint))
        for name, tensor in own.items():
            dtype = f"{tensor.dtype.kind.upper()}{8 * tensor.dtype.itemsize}"
            if listed[name].dtype != dtype:
                raise ArgumentError(f"{checkpoint}: {name} is of type {listed[name].dtype}, expected {dtype}")
        for name, tensor in load(checkpoint.read_bytes()).items():
            least = 0 if tensor.dtype.kind == "i" else -math.inf  # whole numbers count steps
            if not (np.isfinite(tensor) & (tensor >= least)).all():
                raise ArgumentError(
                    f"{checkpoint}: {name} is not finite, or counts below 0; start anew with `overwrite=True`"
                )

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Set all values from a state that fits."""
        for part, network in self._networks().items():
            own = {name.removeprefix(f"{part}."): t for name, t in state.items() if name.startswith(f"{part}.")}
            assign(network, own)
        for group, own in self.groups.items():
            self.vectors[group].assign(gathered(own))
        if self.averaged:
            self.average.assign(gathered(self.averaged.variables))
        for name, variable in self._optimizer_variables().items():
            variable.assign(state[name])

    def _networks(self) -> dict[str, keras.Model]:
        networks = {"network": self.network, "averaged": self.averaged, "flow": self.flow}
        return {part: network for part, network in networks.items() if network}

    def _optimizer_variables(self) -> dict[str, keras.Variable]:
        return {
            f"{part}_optimizer.{variable.name}": variable
            for part, optimizer in self.optimizers.items()
            for variable in optimizer.variables
        }


GROUPS = ("backbone weights", "backbone biases", "head weights", "head biases")  # only weights decay


class EpochEnd(keras.callbacks.Callback):
    """Sets learning rate and decay for each step; after each epoch, calls the run and writes the resume checkpoint."""

    model: Training

    def __init__(self, run: Run, batches: int, done: Advance) -> None:
        super().__init__()
        self.run, self.batches, self.done = run, batches, done
        self.steps = math.ceil(batches / run.recipe.accumulate)  # per epoch
        self.epoch = 0
        with writing_to(run.out):
            self.scalars = tf.summary.create_file_writer(str(run.out / "tensorboard"))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch = epoch
        self.model.sums.assign(tf.zeros(4, tf.float64))

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        recipe, training = self.run.recipe, self.model
        step = self.epoch * self.steps + batch // recipe.accumulate
        lr = recipe.lr * lr_factor(recipe, step, self.steps)
        training.optimizers["head"].learning_rate.assign(lr)
        training.optimizers["backbone"].learning_rate.assign(lr * recipe.backbone_lr_factor)
        if training.averaged:
            training.decay.assign(ema_decay(recipe, step))
        if training.waiting:
            training.step_now.assign((batch + 1) % recipe.accumulate == 0 or batch + 1 == self.batches)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.done(1)
        if batch % FINITE_EVERY == 0 and logs:
            require_finite(self.run.recipe, self.epoch, float(logs["loss"]))
            self.write(self.epoch * self.steps + batch // self.run.recipe.accumulate, loss=float(logs["loss"]))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        training, recipe, step = self.model, self.run.recipe, (epoch + 1) * self.steps
        total, weight, below, errors = training.sums.numpy().tolist()
        require_finite(recipe, epoch, total)
        network = training.result()
        row = self.run.end_epoch(
            training.engine,
            lambda spec, path: save_model(network, spec, path),
            step=step,
            lr=recipe.lr * lr_factor(recipe, step, self.steps),
            loss=total / max(weight, 1),
        )
        shown = {name: row[name] for name in ("val_nme", "val_px")}
        self.write(step, **shown)
        if logs is not None:
            logs |= shown | {"loss": row["loss"]}
        write_sealed_safetensors(self.run.checkpoint, save(training.state()), {"history": json.dumps(self.run.history)})
        self.run.say_epoch()
        self.run.speak_up(training.branch(), below / max(errors, 1))
        training.stop_training = training.stop_training or self.run.finished()

    def write(self, step: int, **values: float) -> None:
        """Write numbers for TensorBoard. `tf.summary.scalar` fails if PyTorch's TensorBoard was imported first."""
        kind = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        metadata = tf.compat.v1.SummaryMetadata(plugin_data=kind, data_class="DATA_CLASS_SCALAR")
        with writing_to(self.run.out), self.scalars.as_default():
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, tf.float32), step, metadata)
            self.scalars.flush()


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn TensorFlow's errors into OSError: it raises the same error for a full disk and for a full memory."""
    try:
        yield
    except tf.errors.OpError as error:
        why = error.message.partition("\n")[0].rpartition("; ")[2]
        raise OSError(
            f"{folder}: cannot write to this folder: {why}; mend that, and go on with `resume=True`"
        ) from None


def new_network(recipe: Recipe, spec: ModelSpec, shape: np.ndarray, weights: Path | None) -> EfficientNetLiteRegressor:
    """The network that a run starts from; ArgumentError if weights, device or precision do not fit.

    shape: (K, 2) unit coordinates that the untrained head gives. weights: the file for `load_backbone`, or None.
    """
    if recipe.precision != "32":
        raise ArgumentError(
            f"precision: framework tensorflow trains in 32, got {recipe.precision}; use 32, or `framework='pytorch'`"
        )
    if recipe.devices * recipe.nodes > 1 or recipe.compile == "on":
        name = "compile" if recipe.compile == "on" else "devices, nodes"
        raise ArgumentError(f"{name}: tensorflow trains in one process, not compiled; use `framework='pytorch'`")
    use_threads(recipe.threads)
    with tf.device(tensorflow_device(recipe.device)):
        keras.utils.set_random_seed(recipe.seed)
        network = EfficientNetLiteRegressor(
            spec.head.keypoints, spec.backbone, head=spec.head, size=spec.size, stages=spec.stages, mean_shape=shape
        )
        if weights:
            log.info("starting from %s", load_backbone(network, weights))
    return network


def load_teacher(recipe: Recipe, teacher: Teacher) -> TeacherNetwork:
    """The network that teaches; ModelFileError if the file's tensors do not fit its spec."""
    use_threads(recipe.threads)
    with tf.device(tensorflow_device(recipe.device)):
        return TeacherNetwork(teacher)


def require_resumable(run: Run, network: EfficientNetLiteRegressor) -> None:
    """Raise ArgumentError if the resume checkpoint is damaged, or fits another network or recipe."""
    _history(run.checkpoint)
    with tf.device(tensorflow_device(run.recipe.device)):
        Training(network, run.spec, run.recipe).require_fit(run.checkpoint)


def _history(checkpoint: Path) -> list[dict[str, float]]:
    """The rows of all epochs in a resume checkpoint; ArgumentError if it is damaged or another file."""
    metadata = safetensors_header(checkpoint).get("__metadata__", {})
    if SEAL not in metadata or "history" not in metadata:
        raise ArgumentError(f"{checkpoint}: not a resume checkpoint of keylite; start anew with `overwrite=True`")
    try:
        history = json.loads(metadata["history"])
    except (ValueError, RecursionError):
        history = None
    require_history(history, str(checkpoint))
    return history


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
    Raises KeyboardInterrupt after Ctrl-C.
    """
    recipe, device = run.recipe, tensorflow_device(run.recipe.device)
    workers = recipe.workers if recipe.workers >= 0 else (min(16, cores()) if "GPU" in device else 1)
    batch = batch_of(recipe, len(examples))
    log.info("arithmetic on %s", device)
    with tf.device(device), contextlib.ExitStack() as steps:
        training = Training(network, run.spec, recipe, teacher)
        if resume and run.checkpoint.is_file():
            run.history = _history(run.checkpoint)
            training.require_fit(run.checkpoint)
            training.load_state(load(run.checkpoint.read_bytes()))
        frozen_epochs = min(recipe.freeze_epochs, recipe.epochs)
        left = (recipe.epochs - len(run.history)) * (len(examples) // batch)
        done = steps.enter_context(step("training", left))
        for frozen, start, stop in ((True, 0, frozen_epochs), (False, frozen_epochs, recipe.epochs)):
            start = max(start, len(run.history))
            if start >= stop or run.finished():
                continue
            batches = Batches(examples, batch, start, max(1, workers))
            training.begin(frozen)
            try:
                training.fit(
                    batches,
                    initial_epoch=start,
                    epochs=stop,
                    steps_per_epoch=batches.batches,
                    shuffle=False,  # the batches have their order already
                    callbacks=[EpochEnd(run, batches.batches, done)],
                    verbose=0,
                )
            except tf.errors.ResourceExhaustedError:
                raise ArgumentError(f"batch: {batch} objects need more memory than {device} has; take fewer") from None
            except tf.errors.OpError:
                raise batches.error or sys.exception() from None  # type: ignore[misc]
            if training.stop_training:
                break
